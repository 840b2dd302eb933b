/* tests/test_restore.c - what a user may count on, one statement a test.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>

#include "support/kv.h"

static const kv_shape shape = {4, 128, 128, 64, 0}; /* 64 KiB a block */
static const kv_shape blobs = {0, 0, 0, 32, 60000};

enum { BLOCK = 64 * 1024, SEGMENT = 4 * 1024 * 1024 };

#define RAM (8 * KV_MIB)
#define AMPLE (256 * KV_MIB)

typedef struct fixture {
  const char *dir;
  kvstow_options options;
  kvstow *store;
  kvstow_space *space;
} fixture;

static void set_up(fixture *f, uint64_t ram_bytes, uint64_t ssd_bytes, uint32_t segment_bytes) {
  memset(f, 0, sizeof *f);
  f->dir = kv_dir("restore");
  kv_options(&f->options, &f->dir, ram_bytes, ssd_bytes, segment_bytes);
}

static void open_store(fixture *f) {
  f->options.dirs = &f->dir;
  f->store = kv_open(&f->options);
  f->space = kv_space(f->store, "restore", &shape);
}

static void restart(fixture *f) {
  KV_OK(kvstow_close(f->store));
  open_store(f);
}

static void tear_down(fixture *f) {
  KV_OK(kvstow_close(f->store));
  kv_dir_drop(f->dir);
}

/* Document `number` with `blocks` blocks; the space handle is that of the store now open. */
static kv_doc document(const fixture *f, uint64_t number, size_t blocks) {
  kv_doc d;
  kv_doc_init(&d, f->space, &shape, 1, number, blocks, NULL, 0);
  return d;
}

static void put(const fixture *f, uint64_t number, size_t blocks) {
  kv_doc d = document(f, number, blocks);
  KV_OK(kv_doc_store(&d, 0, blocks, 0));
  kv_doc_finish(&d);
}

static size_t get(const fixture *f, uint64_t number, size_t blocks, uint32_t flags) {
  kv_doc d = document(f, number, blocks);
  const size_t restored = kv_doc_restore(&d, flags);
  kv_doc_finish(&d);
  return restored;
}

static size_t held(const fixture *f, uint64_t number, size_t blocks) {
  kv_doc d = document(f, number, blocks);
  const size_t result = kv_doc_held(&d);
  kv_doc_finish(&d);
  return result;
}

static void wait_until(bool (*true_now)(const fixture *f), const fixture *f, const char *what) {
  const double end = kv_now_s() + 30;
  while (!true_now(f)) {
    KV_CHECK(kv_now_s() < end, "never: %s", what);
    kv_sleep_ms(2);
  }
}

/* ---- restoring ------------------------------------------------------------------------------ */

static void restores_after_restart(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  open_store(&f);
  for (uint64_t doc = 0; doc < 20; doc++) /* 20 MiB, more than RAM */
    put(&f, doc, 16);
  restart(&f);
  KV_CHECK(kv_stats(f.store).recovered_blocks == 320, "%" PRIu64 " blocks recovered",
           kv_stats(f.store).recovered_blocks);
  for (uint64_t doc = 0; doc < 20; doc++) {
    KV_CHECK(held(&f, doc, 16) == 16, "document %" PRIu64 " not held", doc);
    KV_CHECK(get(&f, doc, 16, doc % 2 ? KVSTOW_BYPASS_RAM : 0) == 16, "not restored");
  }
  restart(&f);
  restart(&f); /* with nothing stored in between */
  for (uint64_t doc = 0; doc < 20; doc++)
    KV_CHECK(get(&f, doc, 16, 0) == 16, "not restored a third time");
  const kvstow_stats s = kv_stats(f.store);
  KV_CHECK(s.corrupt_blocks == 0 && s.tier.io_errors == 0, "trouble");
  tear_down(&f);
}

static void flush_makes_all_clean_and_keeps_ram(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  open_store(&f);
  put(&f, 1, 16);
  KV_CHECK(kv_stats(f.store).dirty_blocks == 16, "written back before it had to be: %" PRIu64,
           kv_stats(f.store).dirty_blocks);
  KV_OK(kvstow_flush(f.store));
  const kvstow_stats s = kv_stats(f.store);
  KV_CHECK(s.dirty_blocks == 0 && s.ram_blocks == 16 && s.ssd_blocks == 16,
           "%" PRIu64 " dirty, %" PRIu64 " in RAM, %" PRIu64 " on SSD", s.dirty_blocks,
           s.ram_blocks, s.ssd_blocks);
  KV_OK(kvstow_flush(f.store));
  KV_CHECK(kv_stats(f.store).demoted_blocks == s.demoted_blocks, "flushed twice");
  tear_down(&f);
}

static void finds_the_longest_prefix_held(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  open_store(&f);
  put(&f, 1, 10);
  KV_CHECK(get(&f, 1, 16, 0) == 10, "a longer question gets what is held");
  KV_CHECK(get(&f, 1, 4, 0) == 4, "a shorter one gets no more than it asks");
  /* a document that parts after six blocks, one token into the seventh */
  kv_doc d = document(&f, 1, 10);
  kvstow_token *tokens = d.tokens;
  tokens[6 * shape.block_tokens] ^= 1;
  kvstow_held h;
  KV_OK(kvstow_exists(&d.prefix, &h));
  assert_int_equal(h.blocks, 6);
  tokens[6 * shape.block_tokens] ^= 1;
  tokens[7 * shape.block_tokens - 1] ^= 1; /* or with its last token */
  KV_OK(kvstow_exists(&d.prefix, &h));
  assert_int_equal(h.blocks, 6);
  kv_doc_finish(&d);
  /* a hole: blocks 2.. of another document, without 0 and 1 */
  d = document(&f, 2, 6);
  KV_OK(kv_doc_store(&d, 2, 4, 0));
  assert_int_equal(kv_doc_held(&d), 0);
  KV_OK(kv_doc_store(&d, 0, 1, 0));
  assert_int_equal(kv_doc_held(&d), 1);
  KV_OK(kv_doc_store(&d, 1, 1, 0));
  assert_int_equal(kv_doc_restore(&d, 0), 6);
  /* an unfinished block is not a block */
  d.prefix.tokens_count -= 1;
  KV_OK(kvstow_exists(&d.prefix, &h));
  assert_int_equal(h.blocks, 5);
  kv_doc_finish(&d);
  tear_down(&f);
}

static void duplicates_are_skipped_and_count_as_used(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  open_store(&f);
  put(&f, 1, 8);
  const kvstow_stats before = kv_stats(f.store);
  put(&f, 1, 8);
  const kvstow_stats after = kv_stats(f.store);
  KV_CHECK(after.stored_blocks == before.stored_blocks && after.blocks == before.blocks,
           "stored twice");
  KV_CHECK(after.duplicate_blocks == before.duplicate_blocks + 8, "%" PRIu64 " duplicates",
           after.duplicate_blocks);
  kv_doc d = document(&f, 1, 8);
  kvstow_slot slots[8];
  KV_OK(kvstow_reserve(&d.prefix, 0, 8, 0, 0, slots));
  for (int i = 0; i < 8; i++) KV_CHECK(slots[i].payload == NULL, "a slot for a block that is held");
  KV_OK(kvstow_commit(f.store, slots, 8));
  kv_doc_finish(&d);
  tear_down(&f);
}

static void reserved_blocks_are_invisible_until_commit(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  open_store(&f);
  kv_doc d = document(&f, 1, 4);
  kvstow_slot slots[4];
  KV_OK(kvstow_reserve(&d.prefix, 0, 4, 0, 0, slots));
  assert_int_equal(kv_doc_held(&d), 0);
  KV_OK(kvstow_flush(f.store));
  kvstow_abort(f.store, slots, 4);
  assert_int_equal(kv_doc_held(&d), 0);
  KV_OK(kvstow_reserve(&d.prefix, 0, 4, 0, 0, slots));
  for (size_t i = 0; i < 4; i++)
    kv_fill_payload(kv_id(1, 1, i), &shape, kvstow_space_plane_bytes(f.space), slots[i].payload);
  assert_int_equal(kv_doc_held(&d), 0);
  KV_OK(kvstow_commit(f.store, slots, 4));
  assert_int_equal(kv_doc_restore(&d, 0), 4);
  kv_doc_finish(&d);
  tear_down(&f);
}

static void opaque_blocks_keep_their_lengths(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  open_store(&f);
  kvstow_space *space = kv_space(f.store, "blobs", &blobs);
  for (uint64_t doc = 0; doc < 24; doc++) {
    kv_doc d;
    kv_doc_init(&d, space, &blobs, 1, doc, 16, NULL, 0);
    KV_OK(kv_doc_store(&d, 0, 16, 0));
    assert_int_equal(kv_doc_restore(&d, 0), 16);
    kv_doc_finish(&d);
  }
  restart(&f);
  space = kv_space(f.store, "blobs", &blobs);
  for (uint64_t doc = 0; doc < 24; doc++) {
    kv_doc d;
    kv_doc_init(&d, space, &blobs, 1, doc, 16, NULL, 0);
    assert_int_equal(kv_doc_restore(&d, doc % 2 ? KVSTOW_BYPASS_RAM : 0), 16);
    kv_doc_finish(&d);
  }
  tear_down(&f);
}

static void restores_from_several_directories(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  const char *dirs[3] = {f.dir, kv_dir("restore-b"), kv_dir("restore-c")};
  f.options.dirs = dirs;
  f.options.dirs_count = 3;
  f.store = kv_open(&f.options);
  f.space = kv_space(f.store, "restore", &shape);
  for (uint64_t doc = 0; doc < 32; doc++) put(&f, doc, 16);
  KV_OK(kvstow_close(f.store));
  uint64_t total = 0;
  for (int i = 0; i < 3; i++) {
    KV_CHECK(kv_each_segment(dirs[i], NULL, NULL) > 0, "directory %d is empty", i);
    total += kv_dir_bytes(dirs[i]);
  }
  KV_CHECK(total <= AMPLE, "the directories outgrew their budget");
  f.store = kv_open(&f.options);
  f.space = kv_space(f.store, "restore", &shape);
  for (uint64_t doc = 0; doc < 32; doc++) KV_CHECK(get(&f, doc, 16, 0) == 16, "not restored");
  KV_OK(kvstow_close(f.store));
  for (int i = 0; i < 3; i++) kv_dir_drop(dirs[i]);
}

/* ---- contexts longer than RAM --------------------------------------------------------------- */

static void context_larger_than_ram(kvstow_engine engine, uint32_t flags) {
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  if (f.options.engine == KVSTOW_ENGINE_AUTO) f.options.engine = engine;
  open_store(&f);
  enum { BLOCKS = 384 }; /* 24 MiB: three times the RAM */
  kv_doc d = document(&f, 7, BLOCKS);
  kvstow_prefix nothing = d.prefix;
  nothing.tokens_count = 0;
  kvstow_seq *seq;
  KV_OK(kvstow_seq_open(&nothing, &seq));
  const size_t rows = shape.block_tokens;
  char *k = malloc(rows * shape.k_bytes), *v = malloc(rows * shape.v_bytes);
  for (size_t block = 0; block < BLOCKS; block++) {
    KV_OK(kvstow_seq_tokens(seq, d.tokens + block * rows, rows));
    for (uint32_t layer = 0; layer < shape.layers; layer++) {
      kv_rows(kv_id(1, 7, block), layer, 0, 0, rows, k, shape.k_bytes);
      kv_rows(kv_id(1, 7, block), layer, 1, 0, rows, v, shape.v_bytes);
      int rc;
      const double end = kv_now_s() + 30;
      while ((rc = kvstow_seq_append(seq, layer, k, v, rows)) == KVSTOW_EFULL && kv_now_s() < end)
        kv_sleep_ms(1);
      KV_CHECK(rc == 0, "append: %s", kvstow_errname(rc));
    }
  }
  assert_int_equal(kvstow_seq_sealed_tokens(seq), BLOCKS * rows);
  uint64_t *ids = malloc(BLOCKS * sizeof *ids);
  for (size_t block = 0; block < BLOCKS; block++) ids[block] = kv_id(1, 7, block);
  kvstow_lease *lease;
  kvstow_held h;
  KV_OK(kvstow_match(&d.prefix, KVSTOW_NO_PROMOTE, &lease, &h));
  KV_CHECK(h.blocks == BLOCKS, "only %zu of %d blocks held", h.blocks, (int)BLOCKS);
  /* decode steps: every layer, all tokens, window by window */
  const size_t window = 32 * rows;
  char *out = malloc(window * (shape.k_bytes + shape.v_bytes));
  for (int step = 0; step < 2; step++)
    for (uint32_t layer = 0; layer < shape.layers; layer++)
      for (size_t token = 0; token < BLOCKS * rows; token += window) {
        kvstow_range range = {layer, 1, token, window};
        struct iovec iov = {out, kv_read_bytes(&shape, &range)};
        KV_OK(kvstow_read(lease, &range, &iov, 1, flags, 0));
        KV_CHECK(kv_read_is(ids, &shape, &range, out), "wrong bytes: layer %u, token %zu", layer,
                 token);
      }
  /* and whole, in one call */
  kvstow_range all = {0, shape.layers, 0, BLOCKS * rows};
  const size_t bytes = kv_read_bytes(&shape, &all);
  char *whole = kv_pages(bytes);
  struct iovec iov = {whole, bytes};
  kvstow_range whole_range = {0, 0, 0, 0};
  KV_OK(kvstow_read(lease, &whole_range, &iov, 1, flags, 0));
  KV_CHECK(kv_read_is(ids, &shape, &all, whole), "wrong bytes in the whole");
  KV_CHECK(kv_doc_read_blocks(&d, lease, 0, BLOCKS, flags, 0) == 0, "read_blocks");
  free(whole);
  free(out);
  free(ids);
  kvstow_lease_release(lease);
  KV_OK(kvstow_match(&d.prefix, 0, &lease, &h)); /* promotion of more than fits: no harm */
  KV_CHECK(h.blocks == BLOCKS, "%zu blocks", h.blocks);
  KV_OK(kvstow_lease_wait(lease, 0, &h));
  KV_CHECK(h.blocks == BLOCKS, "%zu blocks after the wait", h.blocks);
  kvstow_lease_release(lease);
  kvstow_seq_close(seq);
  free(k);
  free(v);
  kv_doc_finish(&d);
  const kvstow_stats s = kv_stats(f.store);
  KV_CHECK(s.ram_used_bytes <= s.ram_budget_bytes && s.evicted_blocks == 0 && s.timeouts == 0,
           "RAM %" PRIu64 " of %" PRIu64 ", %" PRIu64 " evicted, %" PRIu64 " timeouts",
           s.ram_used_bytes, s.ram_budget_bytes, s.evicted_blocks, s.timeouts);
  tear_down(&f);
}

static void context_larger_than_ram_is_restored_through_ram(void **state) {
  (void)state;
  context_larger_than_ram(KVSTOW_ENGINE_AUTO, 0);
}

static void context_larger_than_ram_is_restored_past_ram(void **state) {
  (void)state;
  context_larger_than_ram(KVSTOW_ENGINE_AUTO, KVSTOW_BYPASS_RAM);
}

static void context_larger_than_ram_is_restored_by_threads(void **state) {
  (void)state;
  context_larger_than_ram(KVSTOW_ENGINE_THREADS, 0);
  context_larger_than_ram(KVSTOW_ENGINE_THREADS, KVSTOW_BYPASS_RAM);
}

/* ---- leases and pins ------------------------------------------------------------------------ */

static void lease_blocks_eviction(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, 12 * KV_MIB + 512 * KV_KIB, 1024 * 1024);
  f.options.ram_policy = "lru"; /* what was used twice is not kept for that */
  for (int mode = 0; mode < 2; mode++) {
    f.options.write_mode = mode ? KVSTOW_WRITE_THROUGH : KVSTOW_WRITE_BACK;
    open_store(&f);
    kv_doc d = document(&f, 1, 16);
    KV_OK(kv_doc_store(&d, 0, 16, 0));
    kvstow_lease *lease;
    kvstow_held h;
    KV_OK(kvstow_match(&d.prefix, 0, &lease, &h));
    assert_int_equal(h.blocks, 16);
    for (uint64_t doc = 10; doc < 90; doc++) { /* 80 MiB through 20 */
      kv_doc other = document(&f, doc + 1000 * (uint64_t)mode, 16);
      int rc = kv_doc_store(&other, 0, 16, 0);
      KV_CHECK(rc == 0, "store: %s", kvstow_errname(rc));
      kv_doc_finish(&other);
      if (doc % 16 == 0) {
        rc = kv_doc_read_blocks(&d, lease, 0, 16, doc % 32 ? KVSTOW_BYPASS_RAM : 0, 0);
        KV_CHECK(rc == 0, "mode %d, document %" PRIu64 ": leased blocks can't be read: %s", mode,
                 doc, kvstow_errname(rc));
      }
      KV_CHECK(kv_dir_bytes(f.dir) <= f.options.ssd_bytes, "the directory outgrew its budget");
    }
    assert_int_equal(kvstow_lease_tokens(lease), 16 * shape.block_tokens);
    KV_CHECK(kv_doc_read_blocks(&d, lease, 0, 16, 0, 0) == 0, "leased blocks were evicted");
    KV_CHECK(kv_stats(f.store).evicted_blocks > 0, "no pressure: the test tests nothing");
    kvstow_lease_release(lease);
    for (uint64_t doc = 200; doc < 280; doc++) {
      kv_doc other = document(&f, doc + 1000 * (uint64_t)mode, 16);
      KV_OK(kv_doc_store(&other, 0, 16, 0));
      kv_doc_finish(&other);
    }
    KV_CHECK(kv_doc_held(&d) == 0, "released blocks stay for ever");
    kv_doc_finish(&d);
    int rc = kvstow_close(f.store);
    KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "close: %s", kvstow_errname(rc));
  }
  kv_dir_drop(f.dir);
}

static void pin_survives_pressure(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, 12 * KV_MIB + 512 * KV_KIB, 1024 * 1024);
  open_store(&f);
  kv_doc d = document(&f, 1, 12);
  KV_OK(kv_doc_store(&d, 0, 12, 0));
  size_t blocks = 0;
  KV_OK(kvstow_pin(&d.prefix, true, &blocks));
  assert_int_equal(blocks, 12);
  KV_CHECK(kv_stats(f.store).pinned_blocks == 12, "%" PRIu64 " pinned",
           kv_stats(f.store).pinned_blocks);
  for (uint64_t doc = 10; doc < 90; doc++) put(&f, doc, 16);
  KV_CHECK(kv_doc_restore(&d, 0) == 12, "pinned blocks were evicted");
  KV_OK(kvstow_pin(&d.prefix, false, &blocks));
  KV_CHECK(kv_stats(f.store).pinned_blocks == 0, "%" PRIu64 " pinned after unpinning",
           kv_stats(f.store).pinned_blocks);
  for (uint64_t doc = 100; doc < 180; doc++) put(&f, doc, 16);
  KV_CHECK(kv_doc_held(&d) == 0, "unpinned blocks stay for ever");
  /* more than half of RAM can't be pinned */
  for (uint64_t doc = 200; doc < 205; doc++) put(&f, doc, 16);
  int rc = 0;
  for (uint64_t doc = 200; doc < 205 && rc == 0; doc++) {
    kv_doc other = document(&f, doc, 16);
    rc = kvstow_pin(&other.prefix, true, NULL);
    kv_doc_finish(&other);
  }
  KV_CHECK(rc == KVSTOW_EFULL, "5 MiB of 8 pinned: %s", kvstow_errname(rc));
  for (uint64_t doc = 300; doc < 340; doc++) put(&f, doc, 16); /* storing goes on */
  kv_doc_finish(&d);
  rc = kvstow_close(f.store); /* pins end with the process */
  KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "close: %s", kvstow_errname(rc));
  kv_dir_drop(f.dir);
}

static void sequences_share_prefixes(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  open_store(&f);
  put(&f, 1, 4);
  kv_doc d = document(&f, 1, 6);
  kvstow_prefix four = d.prefix;
  four.tokens_count = 4 * shape.block_tokens;
  const uint64_t before = kv_stats(f.store).blocks;
  kvstow_seq *seq;
  KV_OK(kvstow_seq_open(&four, &seq));
  char *k = malloc(BLOCK), *v = malloc(BLOCK);
  for (size_t token = 4 * shape.block_tokens; token < 6 * shape.block_tokens; token++) {
    KV_OK(kvstow_seq_tokens(seq, d.tokens + token, 1)); /* decoding: a token at a time */
    for (uint32_t layer = 0; layer < shape.layers; layer++) {
      const size_t block = token / shape.block_tokens, within = token % shape.block_tokens;
      kv_row(kv_id(1, 1, block), layer, 0, within, k, shape.k_bytes);
      kv_row(kv_id(1, 1, block), layer, 1, within, v, shape.v_bytes);
      KV_OK(kvstow_seq_append(seq, layer, k, v, 1));
    }
    KV_CHECK(kvstow_seq_sealed_tokens(seq) == (token + 1) / shape.block_tokens * shape.block_tokens,
             "%zu tokens sealed after %zu", kvstow_seq_sealed_tokens(seq), token + 1);
    KV_CHECK(kv_doc_held(&d) == (token + 1) / shape.block_tokens, "an open block is visible");
  }
  kvstow_seq_close(seq);
  assert_int_equal(kv_doc_restore(&d, 0), 6);
  KV_CHECK(kv_stats(f.store).blocks == before + 2, "shared blocks were stored again");
  free(k);
  free(v);
  kv_doc_finish(&d);
  tear_down(&f);
}

/* ---- who sees what -------------------------------------------------------------------------- */

static void two_salts_never_see_each_other(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    size_t length;
  } salts[] = {{NULL, 0}, {"a", 1}, {"b", 1}, {"ab", 2}, {"a\0", 2}, {"\0", 1}};
  enum { SALTS = sizeof salts / sizeof *salts };
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  open_store(&f);
  for (int reopened = 0; reopened < 2; reopened++) {
    kv_doc docs[SALTS];
    for (size_t i = 0; i < SALTS; i++)
      kv_doc_init(&docs[i], f.space, &shape, i, 5, 4, salts[i].bytes, salts[i].length);
    for (size_t i = 0; i < SALTS; i++) {
      if (!reopened) {
        KV_CHECK(kv_doc_held(&docs[i]) == 0, "salt %zu sees another's blocks", i);
        KV_OK(kv_doc_store(&docs[i], 0, 4, 0));
      }
      assert_int_equal(kv_doc_restore(&docs[i], 0), 4); /* its own bytes */
    }
    if (reopened) { /* a tenant leaves; the others stay */
      size_t blocks = 0;
      KV_OK(kvstow_forget_salt(f.space, salts[1].bytes, salts[1].length, &blocks));
      assert_int_equal(blocks, 4);
      for (size_t i = 0; i < SALTS; i++)
        assert_int_equal(kv_doc_restore(&docs[i], 0), i == 1 ? 0 : 4);
    }
    for (size_t i = 0; i < SALTS; i++) kv_doc_finish(&docs[i]);
    if (!reopened) restart(&f);
  }
  tear_down(&f);
}

static void two_spaces_never_see_each_other(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  open_store(&f);
  kvstow_space *other = kv_space(f.store, "another model", &shape);
  kv_doc a, b;
  kv_doc_init(&a, f.space, &shape, 1, 5, 4, NULL, 0);
  kv_doc_init(&b, other, &shape, 2, 5, 4, NULL, 0);
  KV_OK(kv_doc_store(&a, 0, 4, 0));
  assert_int_equal(kv_doc_held(&b), 0);
  KV_OK(kv_doc_store(&b, 0, 4, 0));
  assert_int_equal(kv_doc_restore(&a, 0), 4);
  assert_int_equal(kv_doc_restore(&b, 0), 4);
  size_t blocks = 0;
  KV_OK(kvstow_forget_space(other, &blocks));
  assert_int_equal(blocks, 4);
  assert_int_equal(kv_doc_restore(&a, 0), 4);
  assert_int_equal(kv_doc_held(&b), 0);
  kv_doc_finish(&a);
  kv_doc_finish(&b);
  tear_down(&f);
}

static void forgotten_blocks_stay_forgotten(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  open_store(&f);
  for (uint64_t doc = 0; doc < 16; doc++) put(&f, doc, 12);
  KV_OK(kvstow_flush(f.store));
  for (uint64_t doc = 0; doc < 16; doc += 2) {
    kv_doc d = document(&f, doc, 12);
    size_t blocks = 0;
    KV_OK(kvstow_forget(&d.prefix, 5, &blocks));
    assert_int_equal(blocks, 7);
    assert_int_equal(kv_doc_held(&d), 5);
    kv_doc_finish(&d);
  }
  for (int turn = 0; turn < 3; turn++) {
    restart(&f);
    for (uint64_t doc = 0; doc < 16; doc++) {
      KV_CHECK(held(&f, doc, 12) == (doc % 2 ? 12 : 5), "document %" PRIu64 ": %zu held", doc,
               held(&f, doc, 12));
      KV_CHECK(get(&f, doc, 12, 0) == (doc % 2 ? 12 : 5), "not restored");
    }
  }
  /* a new life has new bytes, and they alone are found */
  kv_doc d;
  kv_doc_init(&d, f.space, &shape, 99, 2, 12, NULL, 0); /* other ids: other bytes */
  KV_OK(kvstow_forget(&d.prefix, 0, NULL));
  KV_OK(kv_doc_store(&d, 0, 12, 0));
  kv_doc_finish(&d);
  restart(&f);
  kv_doc_init(&d, f.space, &shape, 99, 2, 12, NULL, 0);
  assert_int_equal(kv_doc_restore(&d, 0), 12);
  kv_doc_finish(&d);
  tear_down(&f);
}

static void extensions_are_forgotten_with_their_prefix(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  open_store(&f);
  kv_doc trunk = document(&f, 1, 4);
  KV_OK(kv_doc_store(&trunk, 0, 4, 0));
  kv_doc branches[3];
  for (uint64_t i = 0; i < 3; i++) { /* three continuations of the same four blocks */
    branches[i] = document(&f, 1, 8);
    for (size_t at = 4 * shape.block_tokens; at < 8 * shape.block_tokens; at++)
      branches[i].tokens[at] = kv_token(100 + i, at);
    KV_OK(kv_doc_store(&branches[i], 4, 4, 0));
    assert_int_equal(kv_doc_held(&branches[i]), 8);
  }
  KV_OK(kvstow_flush(f.store));
  size_t blocks = 0;
  KV_OK(kvstow_forget(&trunk.prefix, 2, &blocks));
  assert_int_equal(blocks, 2 + 3 * 4);
  for (int i = 0; i < 3; i++) assert_int_equal(kv_doc_held(&branches[i]), 2);
  /* and the branches do not come back when the trunk does */
  KV_OK(kv_doc_store(&trunk, 0, 4, 0));
  for (int i = 0; i < 3; i++) {
    assert_int_equal(kv_doc_held(&branches[i]), 4);
    kv_doc_finish(&branches[i]);
  }
  assert_int_equal(kv_doc_restore(&trunk, 0), 4);
  kv_doc_finish(&trunk);
  tear_down(&f);
}

static void old_blocks_expire(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  open_store(&f);
  kvstow_space_options so;
  kvstow_space_options_init(&so);
  so.name = so.fingerprint = "mortal";
  so.fingerprint_bytes = 6;
  so.layers = shape.layers;
  so.k_bytes = shape.k_bytes;
  so.v_bytes = shape.v_bytes;
  so.block_tokens = shape.block_tokens;
  so.ttl_s = 2;
  kvstow_space *mortal;
  KV_OK(kvstow_space_open(f.store, &so, &mortal));
  kv_doc d;
  kv_doc_init(&d, mortal, &shape, 1, 1, 6, NULL, 0);
  put(&f, 2, 6);
  const double stored = kv_now_s();
  KV_OK(kv_doc_store(&d, 0, 6, 0));
  const size_t young = kv_doc_restore(&d, 0);
  KV_CHECK(young == 6 || kv_now_s() - stored > 1, "expired at birth");
  kv_doc_finish(&d);
  restart(&f); /* age survives */
  KV_OK(kvstow_space_open(f.store, &so, &mortal));
  kv_doc_init(&d, mortal, &shape, 1, 1, 6, NULL, 0);
  kv_sleep_ms(3600);
  KV_CHECK(kv_doc_held(&d) == 0, "blocks older than their time are held");
  KV_CHECK(kv_doc_restore(&d, 0) == 0, "blocks older than their time are found");
  KV_CHECK(get(&f, 2, 6, 0) == 6, "another space's blocks went with them");
  KV_CHECK(kv_stats(f.store).expired_blocks > 0, "not counted");
  KV_OK(kv_doc_store(&d, 0, 6, 0)); /* stored anew they are young */
  KV_CHECK(kv_doc_restore(&d, 0) == 6, "stored anew, but not held");
  kv_doc_finish(&d);
  tear_down(&f);
}

/* ---- damage --------------------------------------------------------------------------------- */

typedef struct damage {
  kv_rng *rng;
  int flips; /* a file */
  bool truncate;
  size_t files;
} damage;

static void damage_one(void *arg, const char *file) {
  damage *how = arg;
  struct stat status;
  if (stat(file, &status) != 0) KV_FAIL("stat %s", file);
  how->files++;
  if (how->truncate) {
    KV_CHECK(truncate(file, status.st_size / 2 + 1000) == 0, "truncate %s", file);
    return;
  }
  int fd = open(file, O_RDWR);
  KV_CHECK(fd >= 0, "open %s", file);
  for (int i = 0; i < how->flips; i++) {
    unsigned char byte;
    const off_t at = (off_t)kv_below(how->rng, (size_t)status.st_size);
    KV_CHECK(pread(fd, &byte, 1, at) == 1, "read %s", file);
    byte ^= (unsigned char)(1u << kv_below(how->rng, 8));
    KV_CHECK(pwrite(fd, &byte, 1, at) == 1, "write %s", file);
  }
  close(fd);
}

/* Stores a damaged document again. A block behind a bad one may be bad too, and is only noticed once the
 * chain leads to it again: so at most as often as it has blocks. */
static void repair(const fixture *f, uint64_t doc, size_t blocks) {
  size_t restored = 0;
  for (size_t attempt = 0; attempt <= blocks && restored < blocks; attempt++) {
    put(f, doc, blocks);
    restored = get(f, doc, blocks, 0);
  }
  KV_CHECK(restored == blocks, "document %" PRIu64 ": stored again and again, %zu of %zu restored",
           doc, restored, blocks);
}

static void flipped_bits_are_misses_not_answers(void **state) {
  (void)state;
  kv_rng rng = kv_seed("flipped_bits_are_misses_not_answers", 1);
  size_t whole = 0, restored = 0, corrupt = 0;
  for (int turn = 0; turn < (KV_TSAN ? 2 : 5); turn++) {
    fixture f;
    set_up(&f, RAM, 64 * KV_MIB, 1024 * 1024);
    open_store(&f);
    for (uint64_t doc = 0; doc < 32; doc++) put(&f, doc, 12);
    KV_OK(kvstow_close(f.store));
    damage how = {.rng = &rng, .flips = turn < 4 ? 1 << 2 * turn : 1};
    kv_each_segment(f.dir, damage_one, &how);
    KV_CHECK(how.files > 0, "no segment files");
    open_store(&f);
    for (uint64_t doc = 0; doc < 32; doc++) {
      const uint32_t flags = doc % 3 == 1   ? KVSTOW_BYPASS_RAM
                             : doc % 3 == 2 ? KVSTOW_NO_PROMOTE
                                            : 0;
      restored += get(&f, doc, 12, flags); /* compares every byte that comes */
      whole += 12;
    }
    const kvstow_stats s = kv_stats(f.store);
    corrupt += s.corrupt_blocks + s.tier.corrupt_headers + s.tier.corrupt_planes;
    /* a damaged block is dropped: what is missing can be stored again, and is found */
    for (uint64_t doc = 0; doc < 32; doc++) repair(&f, doc, 12);
    KV_CHECK(kv_stats(f.store).leases == 0, "leases left");
    restart(&f);
    for (uint64_t doc = 0; doc < 32; doc++)
      KV_CHECK(get(&f, doc, 12, 0) == 12, "document %" PRIu64 " not restored", doc);
    tear_down(&f);
  }
  printf("  %zu of %zu blocks restored, %zu failures counted\n", restored, whole, corrupt);
  KV_CHECK(corrupt > 0 && restored < whole, "no flip was noticed");
  KV_CHECK(restored > whole / 10, "flips cost more than what they hit");
}

static void truncated_segments_are_misses_not_answers(void **state) {
  (void)state;
  kv_rng rng = kv_seed("truncated_segments_are_misses_not_answers", 1);
  fixture f;
  set_up(&f, RAM, 64 * KV_MIB, 4 * 1024 * 1024);
  open_store(&f);
  for (uint64_t doc = 0; doc < 24; doc++) put(&f, doc, 16);
  KV_OK(kvstow_close(f.store));
  damage how = {.rng = &rng, .truncate = true};
  kv_each_segment(f.dir, damage_one, &how);
  open_store(&f);
  size_t restored = 0;
  for (uint64_t doc = 0; doc < 24; doc++) restored += get(&f, doc, 16, 0);
  printf("  %zu of %d blocks restored\n", restored, 24 * 16);
  for (uint64_t doc = 0; doc < 24; doc++) repair(&f, doc, 16);
  KV_CHECK(kv_dir_bytes(f.dir) <= f.options.ssd_bytes, "the directory outgrew its budget");
  restart(&f);
  for (uint64_t doc = 0; doc < 24; doc++) KV_CHECK(get(&f, doc, 16, 0) == 16, "not restored");
  tear_down(&f);
}

static void remove_one(void *arg, const char *file) {
  size_t *count = arg;
  if ((*count)++ % 2 == 0) KV_CHECK(unlink(file) == 0, "unlink %s", file);
}

static void lost_segments_are_misses_not_answers(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, 64 * KV_MIB, 1024 * 1024);
  open_store(&f);
  for (uint64_t doc = 0; doc < 16; doc++) put(&f, doc, 16);
  KV_OK(kvstow_close(f.store));
  size_t count = 0, restored = 0;
  kv_each_segment(f.dir, remove_one, &count);
  KV_CHECK(count > 4, "only %zu segments", count);
  open_store(&f);
  for (uint64_t doc = 0; doc < 16; doc++) restored += get(&f, doc, 16, 0);
  KV_CHECK(restored < 256, "restored from nothing");
  for (uint64_t doc = 0; doc < 16; doc++) repair(&f, doc, 16);
  tear_down(&f);
}

/* Two files change places: whole, well-formed, and wrong. */
static void collect_one(void *arg, const char *file) {
  char(*files)[4608] = arg;
  for (int i = 0; i < 2; i++)
    if (files[i][0] == 0) {
      snprintf(files[i], sizeof files[i], "%s", file);
      return;
    }
}

static void swapped_segments_are_misses_or_right(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, 64 * KV_MIB, 1024 * 1024);
  open_store(&f);
  for (uint64_t doc = 0; doc < 8; doc++) put(&f, doc, 16);
  KV_OK(kvstow_close(f.store));
  static char files[2][4608], between[4700];
  memset(files, 0, sizeof files);
  kv_each_segment(f.dir, collect_one, files);
  KV_CHECK(files[1][0] != 0, "fewer than two segments");
  snprintf(between, sizeof between, "%s/between", f.dir);
  KV_CHECK(rename(files[0], between) == 0 && rename(files[1], files[0]) == 0 &&
               rename(between, files[1]) == 0,
           "rename");
  open_store(&f);
  for (uint64_t doc = 0; doc < 8; doc++) get(&f, doc, 16, 0); /* compares every byte that comes */
  tear_down(&f);
}

/* A segment of another store in the place of ours: an older life of the same name. */
static void segments_of_another_store_are_ignored(void **state) {
  (void)state;
  fixture mine, theirs;
  set_up(&mine, RAM, 64 * KV_MIB, 1024 * 1024);
  set_up(&theirs, RAM, 64 * KV_MIB, 1024 * 1024);
  open_store(&mine);
  open_store(&theirs);
  for (uint64_t doc = 0; doc < 8; doc++) {
    put(&mine, doc, 16);
    kv_doc d; /* the same tokens, other bytes */
    kv_doc_init(&d, theirs.space, &shape, 2, doc, 16, NULL, 0);
    KV_OK(kv_doc_store(&d, 0, 16, 0));
    kv_doc_finish(&d);
  }
  KV_OK(kvstow_close(mine.store));
  KV_OK(kvstow_close(theirs.store));
  DIR *dir = opendir(theirs.dir);
  int moved = 0;
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
    if (strncmp(entry->d_name, "seg", 3) == 0 && moved < 3) {
      char from[4608], to[4608];
      snprintf(from, sizeof from, "%s/%s", theirs.dir, entry->d_name);
      snprintf(to, sizeof to, "%s/%s", mine.dir, entry->d_name);
      KV_CHECK(rename(from, to) == 0, "rename");
      moved++;
    }
  closedir(dir);
  KV_CHECK(moved > 0, "no segments");
  open_store(&mine);
  for (uint64_t doc = 0; doc < 8; doc++) {
    get(&mine, doc, 16, 0); /* never their bytes */
    repair(&mine, doc, 16);
  }
  tear_down(&mine);
  kv_dir_drop(theirs.dir);
}

/* ---- write through -------------------------------------------------------------------------- */

static bool all_clean(const fixture *f) {
  return kv_stats(f->store).dirty_blocks == 0;
}

static void write_through_survives_kill_without_flush(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  f.options.write_mode = KVSTOW_WRITE_THROUGH;
  int ready[2];
  assert_int_equal(pipe(ready), 0);
  pid_t pid = kv_fork();
  if (pid == 0) {
    open_store(&f);
    for (uint64_t doc = 0; doc < 8; doc++) put(&f, doc, 16);
    wait_until(all_clean, &f, "write through leaves nothing dirty");
    KV_CHECK(write(ready[1], "x", 1) == 1, "pipe");
    for (;;) pause();
  }
  close(ready[1]);
  char byte = 0;
  const ssize_t said = read(ready[0], &byte, 1);
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
  close(ready[0]);
  assert_int_equal(said, 1);
  char why[KVSTOW_MESSAGE_BYTES] = "";
  int rc = KVSTOW_EBUSY;
  f.options.dirs = &f.dir;
  for (int i = 0; i < 300 && rc == KVSTOW_EBUSY; i++) {
    rc = kvstow_open(&f.options, &f.store, why, sizeof why);
    if (rc == KVSTOW_EBUSY) kv_sleep_ms(10);
  }
  KV_CHECK(rc == 0, "open: %s: %s", kvstow_errname(rc), why);
  f.space = kv_space(f.store, "restore", &shape);
  for (uint64_t doc = 0; doc < 8; doc++)
    KV_CHECK(get(&f, doc, 16, 0) == 16, "document %" PRIu64 ": %zu of 16 blocks", doc,
             held(&f, doc, 16));
  tear_down(&f);
}

/* ---- events --------------------------------------------------------------------------------- */

enum { EVENTS_MAX = 65536 };

typedef struct event_log {
  pthread_mutex_t lock;
  kvstow_event events[EVENTS_MAX];
  size_t count;
} event_log;

static void note_event(void *arg, const kvstow_event *event) {
  event_log *log = arg;
  pthread_mutex_lock(&log->lock);
  if (log->count < EVENTS_MAX) log->events[log->count++] = *event;
  pthread_mutex_unlock(&log->lock);
}

static size_t events_of(event_log *log, kvstow_event_kind kind) {
  pthread_mutex_lock(&log->lock);
  size_t count = 0;
  for (size_t i = 0; i < log->count; i++) count += log->events[i].kind == kind;
  pthread_mutex_unlock(&log->lock);
  return count;
}

static bool same(kvstow_key a, kvstow_key b) {
  return a.lo == b.lo && a.hi == b.hi;
}

static void wait_for_events(event_log *log, kvstow_event_kind kind, size_t count) {
  const double end = kv_now_s() + 20;
  while (events_of(log, kind) < count) {
    KV_CHECK(kv_now_s() < end, "%zu events of kind %d, expected %zu", events_of(log, kind),
             (int)kind, count);
    kv_sleep_ms(2);
  }
}

static void events_tell_what_happens(void **state) {
  (void)state;
  static event_log log = {.lock = PTHREAD_MUTEX_INITIALIZER};
  log.count = 0;
  fixture f;
  set_up(&f, RAM, 6 * KV_MIB + 512 * KV_KIB, 1024 * 1024);
  f.options.on_event = note_event;
  f.options.event_arg = &log;
  open_store(&f);
  put(&f, 1, 16);
  wait_for_events(&log, KVSTOW_EVENT_STORED, 16);
  pthread_mutex_lock(&log.lock);
  for (uint32_t i = 0; i < 16; i++) {
    const kvstow_event *e = &log.events[i];
    KV_CHECK(e->kind == KVSTOW_EVENT_STORED && e->depth == i && same(e->root, log.events[0].root),
             "event %u: kind %d depth %u", i, (int)e->kind, e->depth);
    for (uint32_t j = 0; j < i; j++)
      KV_CHECK(!same(e->key, log.events[j].key), "two blocks with one key");
  }
  pthread_mutex_unlock(&log.lock);
  put(&f, 1, 16); /* duplicates are no event */
  KV_OK(kvstow_flush(f.store));
  wait_for_events(&log, KVSTOW_EVENT_DEMOTED, 16);
  assert_int_equal(events_of(&log, KVSTOW_EVENT_STORED), 16);
  for (uint64_t doc = 10; doc < 60; doc++) put(&f, doc, 16);
  wait_for_events(&log, KVSTOW_EVENT_EVICTED, 16);
  /* what is on SSD alone comes back through RAM: the newest documents are in RAM, so ask for all */
  for (uint64_t doc = 10; doc < 60; doc++) get(&f, doc, 16, 0);
  const kvstow_stats s = kv_stats(f.store);
  KV_CHECK(s.events_dropped == 0 || log.count > 0, "all events dropped");
  if (s.promoted_blocks > 0) wait_for_events(&log, KVSTOW_EVENT_PROMOTED, 1);
  const int rc = kvstow_close(f.store);
  KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "close: %s", kvstow_errname(rc));

  /* In the order of each block: stored before anything else, nothing after evicted but stored. */
  size_t wrong = 0;
  for (size_t i = 0; i < log.count && i < 4000; i++) {
    const kvstow_event *e = &log.events[i];
    if (e->kind == KVSTOW_EVENT_STORED) continue;
    int last = -1;
    for (size_t j = i; j-- > 0;)
      if (same(log.events[j].key, e->key)) {
        last = (int)log.events[j].kind;
        break;
      }
    wrong += last == -1 || last == KVSTOW_EVENT_EVICTED;
  }
  KV_CHECK(wrong == 0 || s.events_dropped > 0, "%zu events about blocks that did not exist", wrong);
  kv_dir_drop(f.dir);
}

static void corruption_is_an_event(void **state) {
  (void)state;
  kv_rng rng = kv_seed("corruption_is_an_event", 1);
  static event_log log = {.lock = PTHREAD_MUTEX_INITIALIZER};
  log.count = 0;
  fixture f;
  set_up(&f, RAM, 64 * KV_MIB, 1024 * 1024);
  f.options.on_event = note_event;
  f.options.event_arg = &log;
  open_store(&f);
  for (uint64_t doc = 0; doc < 8; doc++) put(&f, doc, 16);
  KV_OK(kvstow_close(f.store));
  damage how = {.rng = &rng, .flips = 24};
  kv_each_segment(f.dir, damage_one, &how);
  log.count = 0;
  open_store(&f);
  for (uint64_t doc = 0; doc < 8; doc++) get(&f, doc, 16, 0);
  KV_CHECK(kv_stats(f.store).corrupt_blocks > 0, "nothing noticed");
  wait_for_events(&log, KVSTOW_EVENT_CORRUPT, 1);
  const uint64_t events = events_of(&log, KVSTOW_EVENT_CORRUPT); /* first: loads may still fail */
  KV_CHECK(events <= kv_stats(f.store).corrupt_blocks, "more events than blocks");
  tear_down(&f);
}

/* ---- statistics ----------------------------------------------------------------------------- */

static void check_balanced(const char *json) {
  int depth = 0;
  bool in_string = false;
  char open[64];
  for (const char *at = json; *at != 0; at++) {
    if (in_string) {
      if (*at == '\\')
        at++;
      else if (*at == '"')
        in_string = false;
      continue;
    }
    if (*at == '"') in_string = true;
    if (*at == '{' || *at == '[') {
      KV_CHECK(depth < 64, "nested too deep");
      open[depth++] = *at;
    }
    if (*at == '}' || *at == ']')
      KV_CHECK(depth > 0 && open[--depth] == (*at == '}' ? '{' : '['), "brackets at %.20s", at);
  }
  KV_CHECK(depth == 0 && !in_string, "not closed: %.60s", json);
}

/* Runs python3 on the text if there is one; anything it objects to is a failure. */
static void check_by_python(const char *json, const char *scratch) {
  if (system("python3 -c 'import json' >/dev/null 2>&1") != 0) return;
  char path[4608], command[9600];
  snprintf(path, sizeof path, "%s-stats.json", scratch);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs(json, file);
  fclose(file);
  snprintf(command, sizeof command,
           "python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); assert isinstance(d,dict) "
           "and len(d)>5' '%s'",
           path);
  const int rc = system(command);
  unlink(path);
  KV_CHECK(rc == 0, "python3 can't read: %.200s", json);
}

static void check_prometheus(const char *text) {
  size_t samples = 0, helps = 0;
  for (const char *line = text; *line != 0;) {
    const char *end = strchr(line, '\n');
    KV_CHECK(end != NULL, "the last line has no end: %.60s", line);
    if (line[0] == '#') {
      KV_CHECK(strncmp(line, "# HELP ", 7) == 0 || strncmp(line, "# TYPE ", 7) == 0, "%.60s", line);
      helps++;
    } else if (end > line) {
      const char *at = line;
      KV_CHECK(strncmp(line, "kvstow_", 7) == 0, "a metric without our name: %.60s", line);
      while (at < end && ((*at >= 'a' && *at <= 'z') || (*at >= '0' && *at <= '9') || *at == '_' ||
                          (*at >= 'A' && *at <= 'Z') || *at == ':'))
        at++;
      if (*at == '{') {
        const char *close_brace = memchr(at, '}', (size_t)(end - at));
        KV_CHECK(close_brace != NULL && memchr(at, '"', (size_t)(close_brace - at)) != NULL,
                 "labels: %.60s", line);
        at = close_brace + 1;
      }
      KV_CHECK(*at == ' ', "no value: %.60s", line);
      char *after = NULL;
      (void)strtod(at + 1, &after);
      KV_CHECK(after == end && after > at + 1, "not a number: %.80s", line);
      samples++;
    }
    line = end + 1;
  }
  KV_CHECK(samples >= 20 && helps >= 20, "%zu samples, %zu comments", samples, helps);
}

static void statistics_can_be_read_by_programs(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, 64 * KV_MIB, 1024 * 1024);
  for (int ram_only = 0; ram_only < 2; ram_only++) {
    if (ram_only) {
      kv_options(&f.options, NULL, RAM, 0, 0);
      f.store = kv_open(&f.options);
      f.space = kv_space(f.store, "restore", &shape);
    } else {
      open_store(&f);
      kv_space(f.store, "a \"name\" with \\ and \n in it", &shape);
    }
    put(&f, 1, 16);
    get(&f, 1, 16, 0);
    const size_t json_bytes = kvstow_stats_json(f.store, NULL, 0);
    char *text = malloc(json_bytes + 4096);
    size_t length = kvstow_stats_json(f.store, text, json_bytes + 4096);
    KV_CHECK(length == strlen(text), "length %zu, text %zu", length, strlen(text));
    check_balanced(text);
    KV_CHECK(strstr(text, "nan") == NULL && strstr(text, "inf") == NULL, "not JSON: %s", text);
    check_by_python(text, f.dir);
    free(text);
    const size_t prometheus_bytes = kvstow_stats_prometheus(f.store, NULL, 0);
    text = malloc(prometheus_bytes + 4096);
    length = kvstow_stats_prometheus(f.store, text, prometheus_bytes + 4096);
    KV_CHECK(length == strlen(text), "length %zu, text %zu", length, strlen(text));
    check_prometheus(text);
    free(text);
    KV_OK(kvstow_close(f.store));
  }
  kv_dir_drop(f.dir);
}

static void statistics_count_what_was_done(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  open_store(&f);
  put(&f, 1, 16);
  kvstow_stats s = kv_stats(f.store);
  KV_CHECK(s.stored_blocks == 16 && s.stored_tokens == 16 * shape.block_tokens,
           "%" PRIu64 " blocks, %" PRIu64 " tokens stored", s.stored_blocks, s.stored_tokens);
  KV_CHECK(s.blocks == 16 && s.ram_blocks == 16, "%" PRIu64 " blocks", s.blocks);
  KV_CHECK(s.ram_payload_bytes == 16ull * BLOCK, "%" PRIu64 " payload bytes", s.ram_payload_bytes);
  KV_CHECK(s.store_latency.count == 16, "%" PRIu64 " stores timed", s.store_latency.count);
  KV_CHECK(get(&f, 1, 16, 0) == 16, "not restored");
  KV_CHECK(get(&f, 2, 16, 0) == 0, "restored from nothing");
  s = kv_stats(f.store);
  KV_CHECK(s.matches == 2 && s.match_blocks_asked == 32 &&
               s.match_tokens_asked == 32 * shape.block_tokens,
           "%" PRIu64 " matches, %" PRIu64 " blocks asked", s.matches, s.match_blocks_asked);
  KV_CHECK(
      s.ram_hit_blocks == 16 && s.ssd_hit_blocks == 0 && s.hit_tokens == 16 * shape.block_tokens,
      "%" PRIu64 " hits", s.ram_hit_blocks);
  KV_CHECK(s.leases == 0, "leases left");
  restart(&f);
  KV_CHECK(get(&f, 1, 16, 0) == 16, "not restored");
  s = kv_stats(f.store);
  KV_CHECK(s.ssd_hit_blocks == 16 && s.recovered_blocks == 16 && s.tier.records_read >= 16,
           "%" PRIu64 " hits on SSD, %" PRIu64 " recovered", s.ssd_hit_blocks, s.recovered_blocks);
  KV_CHECK(s.tier.engine != NULL && s.tier.budget_bytes <= AMPLE && s.tier.disk_bytes > 0, "tier");
  /* a small stats struct of an older program is filled as far as it goes */
  kvstow_stats old;
  memset(&old, 0x77, sizeof old);
  old.size = offsetof(kvstow_stats, ram_budget_bytes);
  kvstow_get_stats(f.store, &old);
  KV_CHECK(old.blocks == 16 && old.ram_budget_bytes == 0x7777777777777777ull,
           "written behind the struct");
  tear_down(&f);
}

static void without_metrics_nothing_is_timed(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  f.options.metrics = false;
  open_store(&f);
  put(&f, 1, 16);
  KV_CHECK(get(&f, 1, 16, 0) == 16, "not restored");
  const kvstow_stats s = kv_stats(f.store);
  KV_CHECK(s.match_latency.count + s.store_latency.count + s.read_latency.count == 0, "timed");
  KV_CHECK(s.matches == 0 && s.read_tokens == 0, "counted");
  KV_CHECK(s.stored_blocks == 16 && s.ram_blocks == 16, "what is held must be known");
  tear_down(&f);
}

static void metadata_stays_small(void **state) {
  (void)state;
  static const kv_shape tiny = {1, 16, 16, 16, 0}; /* a page a block */
  fixture f;
  set_up(&f, RAM, 48 * KV_MIB, 1024 * 1024);
  f.options.ram_policy = "lru"; /* which admits to SSD what nobody ever asked for */
  open_store(&f);
  kvstow_space *space = kv_space(f.store, "tiny blocks", &tiny);
  double worst = 0;
  uint64_t most = 0;                         /* rows are used again, not given back */
  for (uint64_t doc = 0; doc < 700; doc++) { /* 11200 blocks for 6000 places */
    kv_doc d;
    kv_doc_init(&d, space, &tiny, 1, doc, 16, NULL, 0);
    KV_OK(kv_doc_store(&d, 0, 16, 0));
    kv_doc_finish(&d);
    const kvstow_stats s = kv_stats(f.store);
    if (s.blocks > most) most = s.blocks;
    if (s.metadata_bytes_a_block > worst && s.blocks > 1000) worst = s.metadata_bytes_a_block;
    KV_CHECK(s.metadata_bytes <= 128 * most + 64 * KV_KIB,
             "%" PRIu64 " bytes for %" PRIu64 " blocks: %.1f each", s.metadata_bytes, most,
             s.metadata_bytes_a_block);
  }
  const kvstow_stats s = kv_stats(f.store);
  printf("  at worst %.1f bytes a block; %" PRIu64 " blocks, %.1f now\n", worst, s.blocks,
         s.metadata_bytes_a_block);
  KV_CHECK(s.blocks > 3000, "only %" PRIu64 " blocks in 48 MiB", s.blocks);
  for (uint64_t doc = 690; doc < 700; doc++) {
    kv_doc d;
    kv_doc_init(&d, space, &tiny, 1, doc, 16, NULL, 0);
    KV_CHECK(kv_doc_restore(&d, 0) == 16, "document %" PRIu64 " not restored", doc);
    kv_doc_finish(&d);
  }
  const int rc = kvstow_close(f.store);
  KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "close: %s", kvstow_errname(rc));
  kv_dir_drop(f.dir);
}

static void daily_write_limit_refuses_demotion(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  f.options.write_bytes_a_day = 8 * KV_MIB;
  open_store(&f);
  for (uint64_t doc = 0; doc < 32; doc++) /* 32 MiB */
    put(&f, doc, 16);
  const kvstow_stats s = kv_stats(f.store);
  KV_CHECK(s.tier.bytes_written_today <= 9 * KV_MIB, "%" PRIu64 " bytes written",
           s.tier.bytes_written_today);
  KV_CHECK(s.admission_refused > 0, "nothing refused");
  KV_CHECK(get(&f, 31, 16, 0) == 16, "the newest document is gone");
  const double start = kv_now_s();
  int rc = kvstow_close(f.store);
  KV_CHECK(kv_now_s() - start < 20, "closing took %.0f s: it waits for what was refused",
           kv_now_s() - start);
  KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "close: %s", kvstow_errname(rc));
  kv_dir_drop(f.dir);
}

/* Blocks written of 768 that go through 8 MiB of RAM, with room for 256 on SSD. */
static uint64_t demoted_with(const char *ram_policy) {
  fixture f;
  set_up(&f, RAM, 16 * KV_MIB, 1024 * 1024);
  f.options.ram_policy = ram_policy;
  open_store(&f);
  for (uint64_t doc = 0; doc < 48; doc++) put(&f, doc, 16);
  const kvstow_stats s = kv_stats(f.store);
  const int rc = kvstow_close(f.store);
  KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "close: %s", kvstow_errname(rc));
  kv_dir_drop(f.dir);
  KV_CHECK(s.demoted_blocks + s.admission_refused > 400, "RAM was not too small");
  return s.demoted_blocks;
}

static void policy_refuses_demotion_once_ssd_is_full(void **state) {
  (void)state;
  const uint64_t all = demoted_with("lifetime:reads=0"), some = demoted_with("lifetime:reads=1");
  KV_CHECK(all > 400, "only %" PRIu64 " blocks written", all);
  KV_CHECK(some > 100 && some <= 256, "%" PRIu64 " blocks written", some);
}

static void region_is_one_and_fixed(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, AMPLE, SEGMENT);
  open_store(&f);
  void *base, *again;
  size_t bytes, bytes_again;
  kvstow_region(f.store, &base, &bytes);
  KV_CHECK(bytes >= RAM && (uintptr_t)base % (2 * KV_MIB) == 0, "%zu bytes at %p", bytes, base);
  for (uint64_t doc = 0; doc < 32; doc++) put(&f, doc, 16);
  kvstow_region(f.store, &again, &bytes_again);
  KV_CHECK(base == again && bytes == bytes_again, "the region moved");
  kv_doc d = document(&f, 77, 2);
  kvstow_slot slots[2];
  KV_OK(kvstow_reserve(&d.prefix, 0, 2, 0, 0, slots));
  for (int i = 0; i < 2; i++)
    KV_CHECK((char *)slots[i].payload >= (char *)base &&
                 (char *)slots[i].payload + slots[i].bytes <= (char *)base + bytes,
             "a slot outside the region");
  kvstow_abort(f.store, slots, 2);
  kv_doc_finish(&d);
  tear_down(&f);
}

/* No leak of descriptors or threads over many lives. */
static int descriptors(void) {
  int count = 0;
  DIR *dir = opendir("/proc/self/fd");
  if (dir == NULL) return 0;
  while (readdir(dir) != NULL) count++;
  closedir(dir);
  return count;
}

static int threads_now(void) {
  int count = 0;
  DIR *dir = opendir("/proc/self/task");
  if (dir == NULL) return 0;
  while (readdir(dir) != NULL) count++;
  closedir(dir);
  return count;
}

static void closing_leaves_nothing_behind(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM, 64 * KV_MIB, 1024 * 1024);
  open_store(&f);
  KV_OK(kvstow_close(f.store));
  kv_sleep_ms(50);
  const int before = descriptors(), threads_before = threads_now();
  for (uint64_t turn = 0; turn < 20; turn++) {
    open_store(&f);
    put(&f, turn, 8);
    kvstow_queue *queue;
    KV_OK(kvstow_queue_create(f.store, &queue));
    KV_OK(kvstow_queue_destroy(queue));
    KV_CHECK(get(&f, turn, 8, 0) == 8, "not restored");
    KV_OK(kvstow_close(f.store));
  }
  kv_sleep_ms(50);
  KV_CHECK(descriptors() <= before, "%d descriptors, %d before", descriptors(), before);
  KV_CHECK(threads_now() <= threads_before, "%d threads, %d before", threads_now(), threads_before);
  kv_dir_drop(f.dir);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(restores_after_restart),
    cmocka_unit_test(flush_makes_all_clean_and_keeps_ram),
    cmocka_unit_test(finds_the_longest_prefix_held),
    cmocka_unit_test(duplicates_are_skipped_and_count_as_used),
    cmocka_unit_test(reserved_blocks_are_invisible_until_commit),
    cmocka_unit_test(opaque_blocks_keep_their_lengths),
    cmocka_unit_test(restores_from_several_directories),
    cmocka_unit_test(context_larger_than_ram_is_restored_through_ram),
    cmocka_unit_test(context_larger_than_ram_is_restored_past_ram),
    cmocka_unit_test(context_larger_than_ram_is_restored_by_threads),
    cmocka_unit_test(lease_blocks_eviction),
    cmocka_unit_test(pin_survives_pressure),
    cmocka_unit_test(sequences_share_prefixes),
    cmocka_unit_test(two_salts_never_see_each_other),
    cmocka_unit_test(two_spaces_never_see_each_other),
    cmocka_unit_test(forgotten_blocks_stay_forgotten),
    cmocka_unit_test(extensions_are_forgotten_with_their_prefix),
    cmocka_unit_test(old_blocks_expire),
    cmocka_unit_test(flipped_bits_are_misses_not_answers),
    cmocka_unit_test(truncated_segments_are_misses_not_answers),
    cmocka_unit_test(lost_segments_are_misses_not_answers),
    cmocka_unit_test(swapped_segments_are_misses_or_right),
    cmocka_unit_test(segments_of_another_store_are_ignored),
    cmocka_unit_test(write_through_survives_kill_without_flush),
    cmocka_unit_test(events_tell_what_happens),
    cmocka_unit_test(corruption_is_an_event),
    cmocka_unit_test(statistics_can_be_read_by_programs),
    cmocka_unit_test(statistics_count_what_was_done),
    cmocka_unit_test(without_metrics_nothing_is_timed),
    cmocka_unit_test(metadata_stays_small),
    cmocka_unit_test(daily_write_limit_refuses_demotion),
    cmocka_unit_test(policy_refuses_demotion_once_ssd_is_full),
    cmocka_unit_test(region_is_one_and_fixed),
    cmocka_unit_test(closing_leaves_nothing_behind),
};

KV_MAIN("restoring")
