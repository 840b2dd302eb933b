/* tests/test_regressions.c - what once went wrong, each as a statement of what is right.
 *
 * Device errors are made by standing in front of pwritev and preadv of the threads engine.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <dlfcn.h>
#include <signal.h>

#include "support/fixture.h"
#include "support/wall_clock.h"

static const kv_shape shape = {4, 64, 64, 32, 0}; /* 16 KiB a block */

enum { RAM = 8 * 1024 * 1024, SEGMENT = 1024 * 1024 };
#define AMPLE (64 * KV_MIB)

/* ---- a device that fails -------------------------------------------------------------------- */

static _Atomic bool writes_fail;
static _Atomic int failing_write; /* the n-th from now, once; 0 none */
static _Atomic unsigned writes_take_ms;
static const char *_Atomic failing_dir; /* or those below it */

static bool below(int fd, const char *dir) {
  char link[64], path[1024];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t bytes = readlink(link, path, sizeof path - 1);
  if (bytes <= 0) return false;
  path[bytes] = 0;
  return strstr(path, strrchr(dir, '/')) != NULL;
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset) {
  ssize_t (*real)(int, const struct iovec *, int, off_t) =
      (ssize_t(*)(int, const struct iovec *, int, off_t))dlsym(RTLD_NEXT, "pwritev");
  if (writes_take_ms > 0) kv_sleep_ms(writes_take_ms);
  const bool fails = writes_fail || (failing_write > 0 && --failing_write == 0) ||
                     (failing_dir != NULL && below(fd, failing_dir));
  if (!fails) return real(fd, iov, count, offset);
  errno = EIO;
  return -1;
}

/* ---- a store -------------------------------------------------------------------------------- */

static void set_up(fixture *f, uint64_t ssd_bytes) {
  fixture_init(f, "regressions", &shape, RAM, ssd_bytes, SEGMENT);
  f->options.engine = KVSTOW_ENGINE_THREADS;
  open_store(f);
}

/* Without an SSD tier: more leased blocks than anybody would look through are the first to go, and free ones
 * come after them. */
static void leased_blocks_do_not_hide_free_ones(void **state) {
  (void)state;
  enum { LEASED = 200 };
  fixture f = {.shape = &shape};
  kv_options(&f.options, &f.dir, RAM, 0, SEGMENT);
  f.options.dirs_count = 0;
  f.options.ram_policy = "lru";
  f.store = kv_open(&f.options);
  f.space = kv_space(f.store, "regressions", &shape);
  KV_OK(put(&f, 1, LEASED));
  kv_doc d = document(&f, 1, LEASED);
  kvstow_lease *lease;
  KV_OK(kvstow_match(&d.prefix, 0, &lease, NULL));
  for (uint64_t doc = 2; doc < 102; doc++) KV_OK(put(&f, doc, 16)); /* 25 MiB through 8 */
  assert_int_equal(kvstow_lease_tokens(lease), LEASED * shape.block_tokens);
  kvstow_lease_release(lease);
  assert_int_equal(kv_doc_restore(&d, 0), LEASED);
  kv_doc_finish(&d);
  KV_OK(kvstow_close(f.store));
}

/* One disk of two stops taking writes: what is stored from then on goes to the other, and flushes hold
 * again once its unsure copies have been let go of. */
static void a_failing_disk_costs_its_blocks_not_the_store(void **state) {
  (void)state;
  fixture f = {.shape = &shape, .dir = kv_dir("regressions")};
  const char *both[] = {f.dir, kv_dir("regressions-2")};
  kv_options(&f.options, both, RAM, 2 * AMPLE, SEGMENT);
  f.options.dirs_count = 2;
  f.options.engine = KVSTOW_ENGINE_THREADS;
  f.store = kv_open(&f.options);
  f.space = kv_space(f.store, "regressions", &shape);
  for (uint64_t doc = 1; doc <= 20; doc++) KV_OK(put(&f, doc, 32));
  KV_OK(kvstow_flush(f.store));
  failing_dir = both[1];
  for (uint64_t doc = 101; doc <= 160; doc++) KV_OK(put(&f, doc, 32)); /* 30 MiB through 8 of RAM */
  int rc = KVSTOW_EIO;
  for (unsigned tries = 0; rc != 0 && tries < 8; tries++) rc = kvstow_flush(f.store);
  KV_CHECK(rc == 0, "flush: %s", kvstow_errname(rc));
  const kvstow_stats stats = kv_stats(f.store);
  KV_CHECK(stats.tier.dirs_offline == 1 && !stats.tier.offline, "%u directories offline",
           stats.tier.dirs_offline);
  for (uint64_t doc = 1; doc <= 20; doc++)
    KV_CHECK(get(&f, doc, 32, 0) == 32, "document %" PRIu64 ", written before, is lost", doc);
  for (uint64_t doc = 101; doc <= 160; doc++)
    KV_CHECK(get(&f, doc, 32, 0) == 32, "document %" PRIu64 " is lost", doc);
  (void)kvstow_close(f.store);
  failing_dir = NULL;
  kv_dir_drop(both[0]);
  kv_dir_drop(both[1]);
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
    KV_CHECK(get(&f, doc, 32, 0) == 32, "document %" PRIu64 " is lost", doc);
  writes_fail = false;
  (void)kvstow_close(f.store);
  kv_dir_drop(f.dir);
}

/* All of RAM is leased and SSD takes nothing: who waits for room and the demotion thread used to wake one another, for
 * as long as that took. */
static void waiting_for_what_can_not_go_is_waiting(void **state) {
  (void)state;
  enum { DOCS = 60, WAIT_MS = 300 };
  fixture f;
  fixture_init(&f, "regressions", &shape, RAM, AMPLE, SEGMENT);
  f.options.write_bytes_a_day = 1;
  f.options.store_timeout_ms = WAIT_MS;
  open_store(&f);
  kvstow_lease *leases[DOCS];
  size_t count = 0;
  int rc = 0;
  while (count < DOCS && rc == 0) {
    const uint64_t doc = count + 1;
    if ((rc = put(&f, doc, 16)) != 0) break;
    kv_doc d = document(&f, doc, 16);
    KV_OK(kvstow_match(&d.prefix, 0, &leases[count++], NULL));
    kv_doc_finish(&d);
  }
  KV_RESULT(rc, KVSTOW_EFULL);
  const uint64_t before = kv_stats(f.store).admission_refused;
  KV_RESULT(put(&f, DOCS + 1, 16), KVSTOW_EFULL);
  const uint64_t refused = kv_stats(f.store).admission_refused - before;
  KV_CHECK(refused < 100 * WAIT_MS, "%" PRIu64 " demotions refused in vain", refused);
  while (count > 0) kvstow_lease_release(leases[--count]);
  KV_OK(put(&f, DOCS + 1, 16));
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

/* Its readers are counted in 16 bits: who would be one too many is told, and nobody's view goes. */
static void a_block_has_so_many_views_at_once(void **state) {
  (void)state;
  enum { VIEWS = UINT16_MAX - 1 };
  fixture f;
  set_up(&f, 0);
  KV_OK(put(&f, 1, 1));
  kv_doc d = document(&f, 1, 1);
  kvstow_lease **leases = calloc(VIEWS + 1, sizeof *leases);
  const void *payload;
  for (size_t i = 0; i <= VIEWS; i++) {
    KV_OK(kvstow_match(&d.prefix, 0, &leases[i], NULL));
    KV_RESULT(kvstow_view(leases[i], 0, 0, &payload, NULL), i < VIEWS ? 0 : KVSTOW_EBUSY);
  }
  for (size_t i = 0; i <= VIEWS; i++) kvstow_lease_release(leases[i]);
  assert_int_equal(kv_doc_restore(&d, 0), 1);
  free(leases);
  kv_doc_finish(&d);
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

static void open_mortal(fixture *f) {
  kvstow_space_options options;
  kv_space_options(&options, f->name, &shape);
  options.ttl_s = 100;
  f->store = kv_open(&f->options);
  KV_OK(kvstow_space_open(f->store, &options, &f->space));
}

/* It was there still, but for the time of its record, which was what the next opening went by. */
static void what_was_stored_anew_after_it_expired_survives_a_restart(void **state) {
  (void)state;
  for (int in_ram = 0; in_ram < 2; in_ram++) {
    fixture f;
    fixture_init(&f, "mortal", &shape, RAM, AMPLE, SEGMENT);
    open_mortal(&f);
    KV_OK(put(&f, 1, 8));
    KV_OK(kvstow_flush(f.store));
    if (!in_ram) {
      KV_OK(kvstow_close(f.store));
      open_mortal(&f);
    }
    wall_off_s += 150;
    assert_int_equal(held(&f, 1, 8), 0);
    KV_OK(put(&f, 1, 8));
    assert_int_equal(get(&f, 1, 8, 0), 8);
    KV_OK(kvstow_close(f.store));
    open_mortal(&f);
    assert_int_equal(get(&f, 1, 8, 0), 8);
    tear_down(&f);
  }
}

/* A space of blobs opened with a smaller limit does not find larger ones; they stood in the way of smaller ones. */
static void a_blob_too_large_for_its_space_makes_way(void **state) {
  (void)state;
  static const kv_shape shapes[] = {{0, 0, 0, 16, 100000}, {0, 0, 0, 16, 5000}};
  static char blob[100000];
  fixture f;
  fixture_init(&f, "blobs", &shapes[0], RAM, AMPLE, SEGMENT);
  for (int life = 0; life < 3; life++) {
    f.shape = &shapes[life > 0];
    open_store(&f);
    const struct iovec iov = {blob, f.shape->opaque_max_bytes};
    const kvstow_source source = {&iov, 1};
    kv_doc d = document(&f, 1, 1);
    assert_int_equal(kv_doc_held(&d), life == 2);
    if (life < 2) {
      KV_OK(kvstow_store(&d.prefix, 0, 1, &source, 0, NULL));
      KV_OK(kvstow_flush(f.store));
    }
    assert_int_equal(kv_doc_held(&d), 1);
    kv_doc_finish(&d);
    KV_OK(kvstow_close(f.store));
  }
  kv_dir_drop(f.dir);
}

/* ---- forgetting ----------------------------------------------------------------------------- */

static void appended(void *arg, int result) {
  *(_Atomic int *)arg = result == 0 ? 1 : -1;
}

/* Appends one record, and gives its segment up. */
static kvstow_tier *give_up(const kvstow_tier_options *options) {
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
  free(header);
  free(payload);
  return tier;
}

static void tier_options_for(kvstow_tier_options *options, const char *const *dir) {
  kvstow_tier_options_init(options);
  options->dirs = dir;
  options->dirs_count = 1;
  options->budget_bytes = 8 * KV_MIB;
  options->segment_bytes = SEGMENT;
  options->engine = KVSTOW_ENGINE_THREADS;
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
  tier_options_for(&options, &dir);
  const pid_t child = kv_fork();
  if (child == 0) _exit(kvstow_tier_erase(give_up(&options), NULL, 0) != 0);
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

static bool scans_fail;

int __real_kvstow_tier_scan(kvstow_tier *tier, uint32_t segment,
                            bool (*each)(void *arg, const kvstow_record *record), void *arg);
int __wrap_kvstow_tier_scan(kvstow_tier *tier, uint32_t segment,
                            bool (*each)(void *arg, const kvstow_record *record), void *arg);
int __wrap_kvstow_tier_scan(kvstow_tier *tier, uint32_t segment,
                            bool (*each)(void *arg, const kvstow_record *record), void *arg) {
  kvstow_segment_info info;
  KV_OK(kvstow_tier_segment(tier, segment, &info));
  if (scans_fail && info.state == KVSTOW_SEGMENT_SEALED) return KVSTOW_EIO;
  return __real_kvstow_tier_scan(tier, segment, each, arg);
}

/* Opens the store again; no segment can be scanned meanwhile. */
static void restart_unscanned(fixture *f) {
  KV_OK(kvstow_close(f->store));
  scans_fail = true;
  open_store(f);
  scans_fail = false;
  assert_true(kv_stats(f->store).recovered_blocks < 64);
}

/* A disk that is read wrongly while the store is opened (of a store whose tables are too many to be kept), and not the
 * next time: a forget in between knows nothing of what lies there. */
static void what_could_not_be_scanned_does_not_come_back(void **state) {
  (void)state;
  fixture f;
  set_up(&f, AMPLE);
  for (uint64_t doc = 1; doc <= 16; doc++) KV_OK(put(&f, doc, 8));
  restart_unscanned(&f);
  KV_OK(kvstow_forget_space(f.space, NULL));
  restart(&f);
  assert_int_equal(kv_stats(f.store).recovered_blocks, 0);
  KV_OK(put(&f, 1, 8));
  restart(&f);
  assert_int_equal(get(&f, 1, 8, 0), 8);
  tear_down(&f);
}

static void what_could_not_be_scanned_is_there_the_next_time(void **state) {
  (void)state;
  fixture f;
  set_up(&f, AMPLE);
  for (uint64_t doc = 1; doc <= 16; doc++) KV_OK(put(&f, doc, 8));
  restart_unscanned(&f);
  KV_OK(put(&f, 17, 8));
  restart(&f);
  for (uint64_t doc = 1; doc <= 17; doc++) assert_int_equal(get(&f, doc, 8, 0), 8);
  tear_down(&f);
}

/* Segments of which nothing is known take up room until it is wanted; then they go before blocks that are known. */
static void what_could_not_be_scanned_gives_room(void **state) {
  (void)state;
  enum { SEGMENTS = 16 };
  fixture f;
  set_up(&f, (uint64_t)SEGMENTS * SEGMENT);
  for (uint64_t doc = 1; doc <= 60; doc++) KV_OK(put(&f, doc, 8));
  restart_unscanned(&f);
  for (uint64_t doc = 101; doc <= 160; doc++) KV_OK(put(&f, doc, 8));
  restart(&f);
  for (uint64_t doc = 101; doc <= 160; doc++) assert_int_equal(get(&f, doc, 8, 0), 8);
  tear_down(&f);
}

/* A record stays on a disk that refused to erase it, in the footer or where it lies: the caller hears of that,
 * and the next try does it. The first write seals the segment. */
static void a_forget_tells_what_could_not_be_erased(void **state) {
  (void)state;
  for (int fails = 2; fails <= 3; fails++) {
    fixture f;
    set_up(&f, AMPLE);
    KV_OK(put(&f, 1, 8));
    KV_OK(kvstow_flush(f.store));
    kv_doc d = document(&f, 1, 8);
    failing_write = fails;
    KV_RESULT(kvstow_forget(&d.prefix, 0, NULL), KVSTOW_EIO);
    assert_int_equal(failing_write, 0);
    KV_OK(kvstow_forget(&d.prefix, 0, NULL));
    kv_doc_finish(&d);
    restart(&f);
    assert_int_equal(held(&f, 1, 8), 0);
    tear_down(&f);
  }
}

/* The same of what lies in segments given up: nothing that the cache still knows of. */
static void a_forget_tells_what_could_not_be_wiped(void **state) {
  (void)state;
  fixture f;
  kvstow_tier_options options;
  fixture_init(&f, "regressions", &shape, RAM, 8 * KV_MIB, SEGMENT);
  f.options.engine = KVSTOW_ENGINE_THREADS;
  tier_options_for(&options, &f.dir);
  options.budget_bytes =
      SEGMENT + 64 * KV_KIB; /* one: it is the next to be used, and ended for that */
  KV_OK(kvstow_tier_close(give_up(&options)));
  open_store(&f);
  kv_doc d = document(&f, 1, 1); /* never stored */
  writes_fail = true;
  KV_RESULT(kvstow_forget(&d.prefix, 0, NULL), KVSTOW_EIO);
  writes_fail = false;
  KV_OK(kvstow_forget(&d.prefix, 0, NULL));
  kv_doc_finish(&d);
  tear_down(&f);
}

/* ---- use ------------------------------------------------------------------------------------ */

/* Only a match was a use: a prompt stored again and again was evicted all the same. */
static void storing_a_block_that_is_held_is_a_use(void **state) {
  (void)state;
  fixture f;
  set_up(&f, 0);
  KV_OK(put(&f, 1, 4));
  for (uint64_t doc = 2; doc < 200; doc++) { /* 50 MiB, past 8 */
    KV_OK(put(&f, doc, 16));
    KV_OK(put(&f, 1, 4));
  }
  const kvstow_stats stats = kv_stats(f.store);
  KV_CHECK(stats.duplicate_blocks == 198 * 4, "stored anew: %" PRIu64 " duplicates",
           stats.duplicate_blocks);
  tear_down(&f);
}

/* ---- asynchronous calls --------------------------------------------------------------------- */

/* A flush for one store's queue flushed the queue's. */
static void queues_refuse_what_belongs_to_another_store(void **state) {
  (void)state;
  fixture f, g;
  set_up(&f, AMPLE);
  set_up(&g, AMPLE);
  KV_OK(put(&f, 1, 4));
  kvstow_queue *queue;
  KV_OK(kvstow_queue_create(g.store, &queue));
  kv_doc d = document(&f, 1, 4);
  kvstow_lease *lease;
  KV_OK(kvstow_match(&d.prefix, 0, &lease, NULL));
  void *page = kv_pages(KVSTOW_PAGE_BYTES);
  KV_RESULT(kvstow_flush_async(f.store, queue, NULL, NULL), KVSTOW_EINVAL);
  KV_RESULT(kvstow_lease_wait_async(lease, 0, queue, NULL, NULL), KVSTOW_EINVAL);
  KV_RESULT(kvstow_read_blocks_async(lease, 0, 1, &page, NULL, 0, 0, queue, NULL, NULL),
            KVSTOW_EINVAL);
  KV_RESULT(kvstow_store_async(&d.prefix, 0, 1, NULL, queue, NULL, NULL), KVSTOW_EINVAL);
  free(page);
  kvstow_lease_release(lease);
  kv_doc_finish(&d);
  KV_OK(kvstow_queue_destroy(queue));
  tear_down(&g);
  tear_down(&f);
}

static void asynchronous_reads_are_counted(void **state) {
  (void)state;
  fixture f;
  set_up(&f, 0);
  KV_OK(put(&f, 1, 4));
  kvstow_queue *queue;
  KV_OK(kvstow_queue_create(f.store, &queue));
  kv_doc d = document(&f, 1, 4);
  kvstow_lease *lease;
  KV_OK(kvstow_match(&d.prefix, 0, &lease, NULL));
  void *payload = kv_pages(kvstow_space_payload_bytes(f.space));
  KV_OK(kvstow_read_blocks_async(lease, 0, 1, &payload, NULL, 0, 0, queue, NULL, NULL));
  kvstow_completion completion;
  KV_CHECK(kvstow_queue_poll(queue, &completion, 1, 10000) == 1, "no completion");
  KV_OK(completion.result);
  const kvstow_stats stats = kv_stats(f.store);
  KV_CHECK(stats.read_tokens == 32 && stats.read_latency.count == 1, "%" PRIu64 " tokens",
           stats.read_tokens);
  free(payload);
  kvstow_lease_release(lease);
  kv_doc_finish(&d);
  KV_OK(kvstow_queue_destroy(queue));
  tear_down(&f);
}

/* Behind a flush of a slow disk it waited for its turn, whatever its deadline. */
static void reads_do_not_wait_for_a_slow_flush(void **state) {
  (void)state;
  fixture f;
  set_up(&f, AMPLE);
  KV_OK(put(&f, 1, 1));
  KV_OK(kvstow_flush(f.store));
  KV_OK(put(&f, 2, 1));
  kvstow_queue *queue;
  KV_OK(kvstow_queue_create(f.store, &queue));
  kv_doc d = document(&f, 1, 1);
  kvstow_lease *lease;
  KV_OK(kvstow_match(&d.prefix, 0, &lease, NULL));
  void *payload = kv_pages(kvstow_space_payload_bytes(f.space));
  writes_take_ms = 2000;
  char names[3];
  kvstow_op *op;
  KV_OK(kvstow_flush_async(f.store, queue, &names[0], NULL));
  kv_sleep_ms(100);
  KV_OK(kvstow_flush_async(f.store, queue, &names[1], &op)); /* waits for the first */
  KV_OK(kvstow_read_blocks_async(lease, 0, 1, &payload, NULL, KVSTOW_BYPASS_RAM, 0, queue,
                                 &names[2], NULL));
  kvstow_completion c;
  KV_CHECK(kvstow_queue_poll(queue, &c, 1, 1000) == 1, "not read");
  KV_CHECK(c.user == &names[2] && c.result == 0, "%s", kvstow_errname(c.result));
  kvstow_cancel(op);
  KV_CHECK(kvstow_queue_poll(queue, &c, 1, 1000) == 1, "not cancelled");
  KV_CHECK(c.user == &names[1] && c.result == KVSTOW_ECANCELED, "%s", kvstow_errname(c.result));
  writes_take_ms = 0;
  KV_CHECK(kvstow_queue_poll(queue, &c, 1, 10000) == 1 && c.result == 0, "the flush failed");
  free(payload);
  kvstow_lease_release(lease);
  kv_doc_finish(&d);
  KV_OK(kvstow_queue_destroy(queue));
  tear_down(&f);
}

/* ---- the host ------------------------------------------------------------------------------- */

static void ignore_event(void *arg, const kvstow_event *event) {
  (void)arg, (void)event;
}

/* Threads of this process that SIGTERM can reach. */
static int threads_open_to_signals(void) {
  int open = 0;
  DIR *tasks = opendir("/proc/self/task");
  assert_non_null(tasks);
  for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
    char path[300], line[256];
    snprintf(path, sizeof path, "/proc/self/task/%s/status", task->d_name);
    FILE *status = task->d_name[0] == '.' ? NULL : fopen(path, "r");
    while (status != NULL && fgets(line, sizeof line, status) != NULL)
      if (strncmp(line, "SigBlk:", 7) == 0)
        open += (strtoull(line + 7, NULL, 16) >> (SIGTERM - 1) & 1) == 0;
    if (status != NULL) fclose(status);
  }
  closedir(tasks);
  return open;
}

static void signals_are_left_to_the_hosts_threads(void **state) {
  (void)state;
  fixture f;
  fixture_init(&f, "regressions", &shape, RAM, AMPLE, SEGMENT);
  f.options.populate = true;
  f.options.on_event = ignore_event;
  const int before = threads_open_to_signals(); /* ours, and a sanitizer's */
  open_store(&f);
  kvstow_queue *queue;
  KV_OK(kvstow_queue_create(f.store, &queue));
  const int after = threads_open_to_signals();
  KV_CHECK(after == before, "%d threads take signals, %d did before", after, before);
  KV_OK(kvstow_queue_destroy(queue));
  tear_down(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(leased_blocks_do_not_hide_free_ones),
      cmocka_unit_test(a_failing_disk_costs_its_blocks_not_the_store),
      cmocka_unit_test(ssd_that_can_not_be_written_keeps_what_it_has),
      cmocka_unit_test(waiting_for_what_can_not_go_is_waiting),
      cmocka_unit_test(blobs_larger_than_their_space_allows_are_misses),
      cmocka_unit_test(reserving_too_many_blocks_leaves_the_slots_alone),
      cmocka_unit_test(sequences_refuse_counts_that_overflow),
      cmocka_unit_test(sequence_stores_an_expired_block_anew),
      cmocka_unit_test(what_was_stored_anew_after_it_expired_survives_a_restart),
      cmocka_unit_test(a_blob_too_large_for_its_space_makes_way),
      cmocka_unit_test(erasing_nothing_wipes_segments_given_up),
      cmocka_unit_test(storing_a_block_that_is_held_is_a_use),
      cmocka_unit_test(queues_refuse_what_belongs_to_another_store),
      cmocka_unit_test(asynchronous_reads_are_counted),
      cmocka_unit_test(reads_do_not_wait_for_a_slow_flush),
      cmocka_unit_test(signals_are_left_to_the_hosts_threads),
      /* behind the one that forks: ThreadSanitizer holds no more of the allocator's locks at once */
      cmocka_unit_test(what_could_not_be_scanned_does_not_come_back),
      cmocka_unit_test(what_could_not_be_scanned_is_there_the_next_time),
      cmocka_unit_test(what_could_not_be_scanned_gives_room),
      cmocka_unit_test(a_forget_tells_what_could_not_be_erased),
      cmocka_unit_test(a_forget_tells_what_could_not_be_wiped),
      cmocka_unit_test(a_block_has_so_many_views_at_once),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
