/* tests/test_restore.c - what a user may count on, one statement a test: what was stored comes back.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>

#include "support/fixture.h"

static const kv_shape shape = {4, 128, 128, 64, 0}; /* 64 KiB a block */
static const kv_shape blobs = {0, 0, 0, 32, 60000};

enum { BLOCK = 64 * 1024, SEGMENT = 4 * 1024 * 1024 };

#define RAM (8 * KV_MIB)
#define AMPLE (256 * KV_MIB)

/* ---- restoring ------------------------------------------------------------------------------ */

static void restores_after_restart(void **state) {
  (void)state;
  fixture f;
  fixture_init(&f, "restore", &shape, RAM, AMPLE, SEGMENT);
  open_store(&f);
  for (uint64_t doc = 0; doc < 20; doc++) /* 20 MiB, more than RAM */
    KV_OK(put(&f, doc, 16));
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
  fixture_init(&f, "restore", &shape, RAM, AMPLE, SEGMENT);
  open_store(&f);
  KV_OK(put(&f, 1, 16));
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
  fixture_init(&f, "restore", &shape, RAM, AMPLE, SEGMENT);
  open_store(&f);
  KV_OK(put(&f, 1, 10));
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
  fixture_init(&f, "restore", &shape, RAM, AMPLE, SEGMENT);
  open_store(&f);
  KV_OK(put(&f, 1, 8));
  const kvstow_stats before = kv_stats(f.store);
  KV_OK(put(&f, 1, 8));
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
  fixture_init(&f, "restore", &shape, RAM, AMPLE, SEGMENT);
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
  fixture_init(&f, "restore", &shape, RAM, AMPLE, SEGMENT);
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
  fixture_init(&f, "restore", &shape, RAM, AMPLE, SEGMENT);
  const char *dirs[3] = {f.dir, kv_dir("restore-b"), kv_dir("restore-c")};
  f.options.dirs = dirs;
  f.options.dirs_count = 3;
  f.store = kv_open(&f.options);
  f.space = kv_space(f.store, "restore", &shape);
  for (uint64_t doc = 0; doc < 32; doc++) KV_OK(put(&f, doc, 16));
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
  fixture_init(&f, "restore", &shape, RAM, AMPLE, SEGMENT);
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
  fixture_init(&f, "restore", &shape, RAM, 12 * KV_MIB + 512 * KV_KIB, 1024 * 1024);
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
  fixture_init(&f, "restore", &shape, RAM, 12 * KV_MIB + 512 * KV_KIB, 1024 * 1024);
  open_store(&f);
  kv_doc d = document(&f, 1, 12);
  KV_OK(kv_doc_store(&d, 0, 12, 0));
  size_t blocks = 0;
  KV_OK(kvstow_pin(&d.prefix, true, &blocks));
  assert_int_equal(blocks, 12);
  KV_CHECK(kv_stats(f.store).pinned_blocks == 12, "%" PRIu64 " pinned",
           kv_stats(f.store).pinned_blocks);
  for (uint64_t doc = 10; doc < 90; doc++) KV_OK(put(&f, doc, 16));
  KV_CHECK(kv_doc_restore(&d, 0) == 12, "pinned blocks were evicted");
  KV_OK(kvstow_pin(&d.prefix, false, &blocks));
  KV_CHECK(kv_stats(f.store).pinned_blocks == 0, "%" PRIu64 " pinned after unpinning",
           kv_stats(f.store).pinned_blocks);
  for (uint64_t doc = 100; doc < 180; doc++) KV_OK(put(&f, doc, 16));
  KV_CHECK(kv_doc_held(&d) == 0, "unpinned blocks stay for ever");
  /* more than half of RAM can't be pinned */
  for (uint64_t doc = 200; doc < 205; doc++) KV_OK(put(&f, doc, 16));
  int rc = 0;
  for (uint64_t doc = 200; doc < 205 && rc == 0; doc++) {
    kv_doc other = document(&f, doc, 16);
    rc = kvstow_pin(&other.prefix, true, NULL);
    kv_doc_finish(&other);
  }
  KV_CHECK(rc == KVSTOW_EFULL, "5 MiB of 8 pinned: %s", kvstow_errname(rc));
  for (uint64_t doc = 300; doc < 340; doc++) KV_OK(put(&f, doc, 16)); /* storing goes on */
  kv_doc_finish(&d);
  rc = kvstow_close(f.store); /* pins end with the process */
  KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "close: %s", kvstow_errname(rc));
  kv_dir_drop(f.dir);
}

static void sequences_share_prefixes(void **state) {
  (void)state;
  fixture f;
  fixture_init(&f, "restore", &shape, RAM, AMPLE, SEGMENT);
  open_store(&f);
  KV_OK(put(&f, 1, 4));
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

/* ---- write through -------------------------------------------------------------------------- */

static bool all_clean(const fixture *f) {
  return kv_stats(f->store).dirty_blocks == 0;
}

static void write_through_survives_kill_without_flush(void **state) {
  (void)state;
  fixture f;
  fixture_init(&f, "restore", &shape, RAM, AMPLE, SEGMENT);
  f.options.write_mode = KVSTOW_WRITE_THROUGH;
  int ready[2];
  assert_int_equal(pipe(ready), 0);
  pid_t pid = kv_fork();
  if (pid == 0) {
    open_store(&f);
    for (uint64_t doc = 0; doc < 8; doc++) KV_OK(put(&f, doc, 16));
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
    cmocka_unit_test(write_through_survives_kill_without_flush),
};

KV_MAIN("restoring")
