/* Power lost after every single operation, with unsynced writes dropped at random; a kill, and then the power; what is
 * durable before it is named.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "test_tier_faulty.h"

/* ---- power loss after every operation ------------------------------------------------------- */

typedef struct told {
  uint64_t reclaimed; /* records [0, reclaimed) were given up */
  uint64_t flushed;   /* records [reclaimed, flushed) were flushed */
  bool erase_begun, erase_done;
} told;

#define ERASED 3u
#define RECORDS 75u

static bool lowest(void *arg, const kvstow_record *r) {
  uint64_t number, *least = arg;
  memcpy(&number, r->tag, sizeof number);
  if (number < *least) *least = number;
  return true;
}

/* Gives the oldest segment up. */
static bool reclaim_oldest(kvstow_tier *tier, told *t) {
  uint64_t oldest = UINT64_MAX, next = UINT64_MAX;
  uint32_t victim = 0;
  for (uint32_t id = 0; id < kvstow_tier_segment_count(tier); id++) {
    uint64_t least = UINT64_MAX;
    if (kvstow_tier_scan(tier, id, lowest, &least) != 0) return false;
    if (least < oldest) {
      next = oldest;
      oldest = least;
      victim = id;
    } else if (least < next) {
      next = least;
    }
  }
  if (kvstow_tier_reclaim(tier, victim) != 0) return false;
  t->reclaimed = next == UINT64_MAX ? t->flushed : next;
  return true;
}

/* Appends, flushes, reclaims, erases until the power goes. */
static void live_until_power_loss(told *t) {
  kvstow_tier *tier = open_faulty(&kvstow__files);
  kvstow_loc erased = {0};
  for (uint64_t i = 0; i < RECORDS; i++) {
    record r = record_new(i, 15, PLANE);
    int code = append_all(tier, &r, 1);
    if (code == KVSTOW_ENOSPC && reclaim_oldest(tier, t)) code = append_all(tier, &r, 1);
    if (i == ERASED) erased = r.loc;
    record_free(&r);
    if (code) break;
    if (i % 4 == 3) {
      if (kvstow_tier_flush(tier) != 0) break;
      t->flushed = i + 1;
    }
    if (i == 20 || i == 50) { /* in place; then in a segment given up */
      t->erase_begun = true;
      if (kvstow_tier_erase(tier, &erased, 1) == 0) t->erase_done = true;
    }
  }
  kvstow_tier_close(tier);
}

/* In a new `place`, under a cache that forgets, until operation `stop`. The options are left for who opens it next. */
static told live_in(const char *place, uint64_t stop) {
  static const char *places[1];
  places[0] = place;
  options = options_for(places, 3);
  options.engine = KVSTOW_ENGINE_AUTO;
  faults.ops = 0;
  faults.stop_at = stop;
  cache_volatile = true;
  told t = {0};
  live_until_power_loss(&t);
  return t;
}

static void check_after_power_loss(const told *t, uint64_t stop) {
  faults.stop_at = UINT64_MAX;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  seen *s = scan_all(tier);
  for (uint64_t i = 0; i < t->flushed; i++) {
    const kvstow_record *r = seen_find(s, i);
    if (i == ERASED && t->erase_begun) {
      if (r && t->erase_done) fail_msg("op %llu: erased, and back", (unsigned long long)stop);
      continue;
    }
    if (!r && i >= t->reclaimed)
      fail_msg("power loss at op %llu: record %llu of %llu flushed is gone",
               (unsigned long long)stop, (unsigned long long)i, (unsigned long long)t->flushed);
    if (r && read_planes(tier, i, r->loc, PLANE, 0, 15) != 0)
      fail_msg("power loss at op %llu: record %llu is broken", (unsigned long long)stop,
               (unsigned long long)i);
  }
  free(s);
  /* and it works on */
  record r = record_new(777, 15, PLANE);
  told ignored = *t;
  int code = append_all(tier, &r, 1);
  if (code == KVSTOW_ENOSPC && reclaim_oldest(tier, &ignored)) code = append_all(tier, &r, 1);
  assert_int_equal(code, 0);
  assert_int_equal(read_record(tier, &r), 0);
  record_free(&r);
  assert_int_equal(kvstow_tier_close(tier), 0);
}

static void power_loss_after_any_operation_keeps_the_promises(void **state) {
  (void)state;
  const char *given = getenv("KVSTOW_TEST_SEED");
  const uint64_t seed = given ? strtoull(given, NULL, 0) : 1;
  print_message("seed %llu (KVSTOW_TEST_SEED)\n", (unsigned long long)seed);
  uint64_t total = UINT64_MAX;
  for (uint64_t stop = 0; stop < total; stop++) {
    char *place = scratch_new();
    const told t = live_in(place, total == UINT64_MAX ? UINT64_MAX : stop);
    cache_volatile = false;
    cache_lose(place, seed * 100000 + stop);
    if (total == UINT64_MAX) {
      total = faults.ops;
      assert_int_equal(t.flushed, RECORDS / 4 * 4);
      assert_true(t.erase_done && t.reclaimed > ERASED);
      stop--;
    }
    check_after_power_loss(&t, stop);
    scratch_remove(place);
  }
  assert_true(total > 100);
}

/* ---- a kill, and then the power --------------------------------------------------------------- */

/* Of `place`: which of the records there are. */
static void look(bool there[RECORDS], kvstow_tier *tier) {
  seen *s = scan_all(tier);
  for (uint64_t i = 0; i < RECORDS; i++) there[i] = seen_find(s, i) != NULL;
  free(s);
}

/* The next process finds what the one that was killed has written, durable or not; a flush that it is told of and
 * a forget that finds nothing to do are to be relied on all the same. */
static void what_a_killed_process_left_outlives_the_power(void **state) {
  (void)state;
  uint64_t total = UINT64_MAX;
  for (uint64_t stop = 0; stop < total; stop++) {
    char *place = scratch_new();
    (void)live_in(place,
                  total == UINT64_MAX ? UINT64_MAX : stop); /* but it is a kill: nothing is lost */
    if (total == UINT64_MAX) {
      total = faults.ops;
      stop--;
    }
    bool found[RECORDS], left[RECORDS];
    faults.stop_at = UINT64_MAX;
    kvstow_tier *tier = open_faulty(&kvstow__files);
    look(found, tier);
    assert_int_equal(kvstow_tier_flush(tier), 0);
    assert_int_equal(kvstow_tier_erase(tier, NULL, 0), 0);
    faults.stop_at = 0;
    (void)kvstow_tier_close(tier);
    cache_volatile = false;
    cache_lose(place, LOSE_ALL);
    faults.stop_at = UINT64_MAX;
    tier = open_faulty(&kvstow__files);
    look(left, tier);
    for (uint64_t i = 0; i < RECORDS; i++)
      if (found[i] != left[i])
        fail_msg("killed at op %llu: record %llu was %s, and is %s", (unsigned long long)stop,
                 (unsigned long long)i, found[i] ? "found" : "gone", left[i] ? "back" : "lost");
    assert_int_equal(kvstow_tier_close(tier), 0);
    scratch_remove(place);
  }
  assert_true(total > 100);
}

/* ---- files and names ------------------------------------------------------------------------ */

/* What is done to them, a letter each. */
static char steps[64];
static atomic_uint steps_count;

static void step(char letter) {
  const unsigned at = atomic_fetch_add(&steps_count, 1);
  if (at < sizeof steps - 1) steps[at] = letter;
}

static int step_write(void *env, int fd, const void *from, size_t bytes, uint64_t offset) {
  step('w');
  return kvstow__files.write(env, fd, from, bytes, offset);
}

static int step_allocate(void *env, int fd, uint64_t bytes) {
  step('a');
  return kvstow__files.allocate(env, fd, bytes);
}

static int step_sync(void *env, int fd) {
  step('s');
  return kvstow__files.sync(env, fd);
}

static int step_rename(void *env, int fd, const char *from, const char *to) {
  step('r');
  return kvstow__files.rename(env, fd, from, to);
}

static int step_dir_sync(void *env, int fd) {
  step('d');
  return kvstow__files.dir_sync(env, fd);
}

/* docs/format.md: "What is written when". */
static void what_is_made_is_durable_before_it_is_named_or_used(void **state) {
  (void)state;
  kvstow__file_ops files = kvstow__files;
  files.write = step_write;
  files.allocate = step_allocate;
  files.sync = step_sync;
  files.rename = step_rename;
  files.dir_sync = step_dir_sync;
  options = options_for(dirs, 1);
  options.engine = KVSTOW_ENGINE_AUTO;
  memset(steps, 0, sizeof steps);
  steps_count = 0;
  kvstow_tier *tier = open_faulty(&files);
  record r = append_one(tier, 1, 3);
  assert_string_equal(steps,
                      "wwsrd" /* super */
                      "d"     /* names found at opening */
                      "asd" /* segment */);
  record_free(&r);
  assert_int_equal(kvstow_tier_close(tier), 0);
}

static bool names_durable, names_fail;
static atomic_bool made_too_early;

static int names_sync(void *env, int fd) {
  names_durable = !names_fail;
  return names_fail ? EIO : kvstow__files.dir_sync(env, fd);
}

static int names_open(void *env, int fd, const char *name, bool create, bool writable, bool direct,
                      int *file) {
  if (create && strncmp(name, "seg-", 4) == 0 && !names_durable)
    atomic_store(&made_too_early, true);
  return kvstow__files.open(env, fd, name, create, writable, direct, file);
}

/* A creation failed in its last step. The next process finds a super, whose name may be gone with the power; a
 * segment's must not be there without it. */
static void no_segment_is_made_before_the_super_is_durable(void **state) {
  (void)state;
  kvstow__file_ops files = kvstow__files;
  files.dir_sync = names_sync;
  files.open = names_open;
  const kvstow__io io = {
      .files = &files, .engines = {&TOLD}, .kinds = {KVSTOW_ENGINE_AUTO}, .buffered = true};
  the_device.carry_out = carry_out;
  kvstow_tier *tier = NULL;
  names_fail = true;
  assert_int_equal(kvstow__tier_open_with(&options, &io, &tier, NULL, 0), KVSTOW_EIO);
  names_fail = false;
  tier = open_faulty(&files);
  record r = append_one(tier, 1, 3);
  record_free(&r);
  assert_int_equal(kvstow_tier_close(tier), 0);
  assert_false(made_too_early);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(power_loss_after_any_operation_keeps_the_promises),
      TEST(what_a_killed_process_left_outlives_the_power),
      TEST(what_is_made_is_durable_before_it_is_named_or_used),
      TEST(no_segment_is_made_before_the_super_is_durable),
  };
  return cmocka_run_group_tests_name("power", tests, NULL, NULL);
}
