/* tests/test_regressions.c - what once went wrong, each as a statement of what is right.
 *
 * Device errors are made by standing in front of pwritev and preadv of the threads engine.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>

#include "support/kv.h"

static const kv_shape shape = {4, 64, 64, 32, 0}; /* 16 KiB a block */

enum { RAM = 8 * 1024 * 1024, SEGMENT = 1024 * 1024 };
#define AMPLE (64 * KV_MIB)

/* ---- a device that fails -------------------------------------------------------------------- */

static _Atomic bool writes_fail;

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset) {
  ssize_t (*real)(int, const struct iovec *, int, off_t) =
      (ssize_t(*)(int, const struct iovec *, int, off_t))dlsym(RTLD_NEXT, "pwritev");
  if (!writes_fail) return real(fd, iov, count, offset);
  errno = EIO;
  return -1;
}

/* ---- a store -------------------------------------------------------------------------------- */

typedef struct fixture {
  const char *dir;
  kvstow_options options;
  kvstow *store;
  kvstow_space *space;
} fixture;

static void open_store(fixture *f) {
  f->options.dirs = &f->dir;
  f->store = kv_open(&f->options);
  f->space = kv_space(f->store, "regressions", &shape);
}

static void set_up(fixture *f, uint64_t ssd_bytes) {
  memset(f, 0, sizeof *f);
  f->dir = kv_dir("regressions");
  kv_options(&f->options, &f->dir, RAM, ssd_bytes, SEGMENT);
  f->options.engine = KVSTOW_ENGINE_THREADS;
  open_store(f);
}

static void tear_down(fixture *f) {
  KV_OK(kvstow_close(f->store));
  kv_dir_drop(f->dir);
}

static kv_doc document(const fixture *f, uint64_t number, size_t blocks) {
  kv_doc d;
  kv_doc_init(&d, f->space, &shape, 1, number, blocks, NULL, 0);
  return d;
}

static int put(const fixture *f, uint64_t number, size_t blocks) {
  kv_doc d = document(f, number, blocks);
  const int rc = kv_doc_store(&d, 0, blocks, 0);
  kv_doc_finish(&d);
  return rc;
}

static size_t get(const fixture *f, uint64_t number, size_t blocks) {
  kv_doc d = document(f, number, blocks);
  const size_t restored = kv_doc_restore(&d, 0);
  kv_doc_finish(&d);
  return restored;
}

/* ---- demotion ------------------------------------------------------------------------------- */

/* It gave up sealed segments, one after another, to make room that was not wanting. */
static void ssd_that_can_not_be_written_keeps_what_it_has(void **state) {
  (void)state;
  fixture f;
  set_up(&f, AMPLE);
  for (uint64_t doc = 1; doc <= 20; doc++) KV_OK(put(&f, doc, 32)); /* 10 MiB */
  KV_OK(kvstow_flush(f.store));
  writes_fail = true;
  for (uint64_t doc = 101; doc <= 200; doc++) KV_OK(put(&f, doc, 32));
  (void)kvstow_flush(f.store);
  const kvstow_stats stats = kv_stats(f.store);
  KV_CHECK(stats.tier.offline, "the tier is still online");
  KV_CHECK(stats.segments_reclaimed == 0, "%" PRIu64 " segments given up",
           stats.segments_reclaimed);
  for (uint64_t doc = 1; doc <= 20; doc++)
    KV_CHECK(get(&f, doc, 32) == 32, "document %" PRIu64 " is lost", doc);
  writes_fail = false;
  (void)kvstow_close(f.store);
  kv_dir_drop(f.dir);
}

/* ---- arguments ------------------------------------------------------------------------------ */

/* They were copied whole, past the end of the caller's buffer. */
static void blobs_larger_than_their_space_allows_are_misses(void **state) {
  (void)state;
  fixture f;
  set_up(&f, AMPLE);
  const kv_shape large = {0, 0, 0, 32, 256 * 1024}, narrow = {0, 0, 0, 32, 16 * 1024};
  kv_doc d;
  kv_doc_init(&d, kv_space(f.store, "blobs", &large), &large, 1, 1, 1, NULL, 0);
  static char blob[256 * 1024];
  const struct iovec iov = {blob, sizeof blob};
  const kvstow_source source = {&iov, 1};
  KV_OK(kvstow_store(&d.prefix, 0, 1, &source, 0, NULL));
  KV_OK(kvstow_close(f.store));
  open_store(&f);
  d.prefix.space = kv_space(f.store, "blobs", &narrow);
  kvstow_lease *lease;
  KV_RESULT(kvstow_match(&d.prefix, 0, &lease, NULL), KVSTOW_EMISS);
  kv_doc_finish(&d);
  tear_down(&f);
}

/* It zeroed as many slots as it was told before it looked at the number. */
static void reserving_too_many_blocks_leaves_the_slots_alone(void **state) {
  (void)state;
  fixture f;
  set_up(&f, AMPLE);
  kv_doc d = document(&f, 1, 1);
  kvstow_slot slots[2];
  memset(slots, 0x5a, sizeof slots);
  KV_RESULT(kvstow_reserve(&d.prefix, 0, SIZE_MAX / 64, 0, 0, slots), KVSTOW_EINVAL);
  KV_CHECK(slots[1].bytes == 0x5a5a5a5a5a5a5a5aull, "a slot that is not there was written");
  kv_doc_finish(&d);
  tear_down(&f);
}

/* The sum wrapped round, and rows went wherever it pointed. */
static void sequences_refuse_counts_that_overflow(void **state) {
  (void)state;
  fixture f;
  set_up(&f, AMPLE);
  const kvstow_prefix empty = KVSTOW_PREFIX(f.space, NULL, 0);
  kvstow_seq *seq;
  KV_OK(kvstow_seq_open(&empty, &seq));
  static const kvstow_token tokens[32];
  static const char rows[32 * 64];
  KV_OK(kvstow_seq_tokens(seq, tokens, 32));
  KV_OK(kvstow_seq_append(seq, 0, rows, rows, 8));
  KV_RESULT(kvstow_seq_append(seq, 0, rows, rows, SIZE_MAX - 3), KVSTOW_ESTATE);
  KV_RESULT(kvstow_seq_tokens(seq, tokens, SIZE_MAX - 3), KVSTOW_ENOMEM);
  kvstow_seq_close(seq);
  tear_down(&f);
}

/* ---- expiry --------------------------------------------------------------------------------- */

/* It took the old block for held and skipped the rows: a miss for as long as the block stayed. */
static void sequence_stores_an_expired_block_anew(void **state) {
  (void)state;
  fixture f;
  set_up(&f, 0);
  kvstow_space_options options;
  kvstow_space_options_init(&options);
  options.fingerprint = "mortal";
  options.fingerprint_bytes = 6;
  options.layers = 1;
  options.k_bytes = 64;
  options.block_tokens = 32;
  options.ttl_s = 1;
  kvstow_space *space;
  KV_OK(kvstow_space_open(f.store, &options, &space));
  static const kvstow_token tokens[32];
  static const char rows[32 * 64];
  const kvstow_prefix prefix = KVSTOW_PREFIX(space, tokens, 32), empty = {sizeof empty, space};
  kvstow_held held;
  for (int round = 0; round < 2; round++) {
    kvstow_seq *seq;
    KV_OK(kvstow_seq_open(&empty, &seq));
    KV_OK(kvstow_seq_tokens(seq, tokens, 32));
    KV_OK(kvstow_seq_append(seq, 0, rows, NULL, 32));
    kvstow_seq_close(seq);
    KV_OK(kvstow_exists(&prefix, &held));
    KV_CHECK(held.blocks == 1, "not held after round %d", round);
    if (round == 0) kv_sleep_ms(2500);
  }
  tear_down(&f);
}

/* ---- forgetting ----------------------------------------------------------------------------- */

static void appended(void *arg, int result) {
  *(_Atomic int *)arg = result == 0 ? 1 : -1;
}

/* Appends one record, gives its segment up, erases nothing in particular, and dies. */
static void give_up_and_die(const kvstow_tier_options *options) {
  kvstow_tier *tier;
  KV_OK(kvstow_tier_open(options, &tier, NULL, 0));
  void *header = kv_pages(KVSTOW_PAGE_BYTES), *payload = kv_pages(KVSTOW_PAGE_BYTES);
  memset(payload, 1, KVSTOW_PAGE_BYTES);
  const kvstow_record record = {.key = {1, 2}, .planes = 1, .plane_bytes = KVSTOW_PAGE_BYTES};
  KV_OK(kvstow_record_format(header, &record, "", 0));
  kvstow_record_sums(header)[0] = kvstow_checksum(payload, KVSTOW_PAGE_BYTES);
  kvstow_record_write write = {.header = header, .payload = payload};
  _Atomic int done = 0;
  KV_OK(kvstow_tier_append(tier, &write, 1, appended, &done));
  while (done == 0) kv_sleep_ms(1);
  KV_OK(kvstow_tier_seal(tier));
  KV_OK(kvstow_tier_flush(tier));
  KV_OK(kvstow_tier_reclaim(tier, write.loc.segment));
  KV_OK(kvstow_tier_erase(tier, NULL, 0));
  _exit(0);
}

static bool count_record(void *arg, const kvstow_record *record) {
  (void)record;
  ++*(size_t *)arg;
  return true;
}

/* A forget that found nothing on SSD left the segments given up as they were: what had been evicted with
 * them was there again after a crash. */
static void erasing_nothing_wipes_segments_given_up(void **state) {
  (void)state;
  const char *dir = kv_dir("regressions");
  kvstow_tier_options options;
  kvstow_tier_options_init(&options);
  options.dirs = &dir;
  options.dirs_count = 1;
  options.budget_bytes = 8 * KV_MIB;
  options.segment_bytes = SEGMENT;
  options.engine = KVSTOW_ENGINE_THREADS;
  const pid_t child = kv_fork();
  if (child == 0) give_up_and_die(&options);
  KV_CHECK(kv_wait(child) == 0, "the child failed");
  kvstow_tier *tier;
  KV_OK(kvstow_tier_open(&options, &tier, NULL, 0));
  size_t found = 0;
  for (uint32_t i = 0; i < kvstow_tier_segment_count(tier); i++)
    KV_OK(kvstow_tier_scan(tier, i, count_record, &found));
  KV_CHECK(found == 0, "%zu records came back", found);
  KV_OK(kvstow_tier_close(tier));
  kv_dir_drop(dir);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(ssd_that_can_not_be_written_keeps_what_it_has),
      cmocka_unit_test(blobs_larger_than_their_space_allows_are_misses),
      cmocka_unit_test(reserving_too_many_blocks_leaves_the_slots_alone),
      cmocka_unit_test(sequences_refuse_counts_that_overflow),
      cmocka_unit_test(sequence_stores_an_expired_block_anew),
      cmocka_unit_test(erasing_nothing_wipes_segments_given_up),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
