/* Random histories against a model: whatever is appended, read, flushed, erased, reclaimed, closed
 * and reopened, the tier shows what the model says and every byte of it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "test_tier_fixture.h"

#define RECORDS_MAX 2000u
#define SEGMENTS 8u

typedef enum fate { UNKNOWN, HELD, GONE, ERASED } fate;

typedef struct modelled {
  fate fate;
  bool flushed;
  uint32_t planes, plane_bytes;
  kvstow_loc loc;
} modelled;

typedef struct model {
  modelled records[RECORDS_MAX];
  uint64_t count;
  uint64_t rng;
  char *dirs[2];
  const char *given[2];
  kvstow_tier_options options;
  kvstow_tier *tier;
  uint64_t reads, reopens, crashes;
} model;

static uint64_t draw(model *m, uint64_t below) {
  m->rng = mix(m->rng + UINT64_C(0x9e3779b97f4a7c15));
  return m->rng % below;
}

static void lose_segment(model *m, uint32_t id) {
  for (uint64_t i = 0; i < m->count; i++)
    if (m->records[i].fate == HELD && m->records[i].loc.segment == id) m->records[i].fate = GONE;
}

static bool reclaim_one(model *m) {
  const uint32_t start = (uint32_t)draw(m, SEGMENTS);
  for (uint32_t i = 0; i < SEGMENTS; i++) {
    const uint32_t id = (start + i) % SEGMENTS;
    if (kvstow_tier_reclaim(m->tier, id) != 0) continue;
    lose_segment(m, id);
    return true;
  }
  return false;
}

static void do_append(model *m) {
  const size_t count = 1 + draw(m, 6);
  if (m->count + count > RECORDS_MAX) return;
  record r[6];
  for (size_t i = 0; i < count; i++)
    r[i] = record_new(m->count + i, 1 + (uint32_t)draw(m, 6),
                      PLANE * (uint32_t)(draw(m, 10) ? 1 + draw(m, 3) : 16));
  int code = append_all(m->tier, r, count);
  for (int tries = 0; code == KVSTOW_ENOSPC && tries < 3 && reclaim_one(m); tries++)
    code = append_all(m->tier, r, count);
  assert_int_equal(code, 0);
  for (size_t i = 0; i < count; i++) {
    m->records[m->count++] = (modelled){HELD, false, r[i].planes, r[i].plane_bytes, r[i].loc};
    record_free(&r[i]);
  }
}

static void check_one(model *m, uint64_t i) {
  const modelled *r = &m->records[i];
  if (r->fate == UNKNOWN || r->loc.generation == 0) return;
  const uint32_t first = (uint32_t)draw(m, r->planes);
  const uint32_t count = (uint32_t)draw(m, r->planes - first + 1);
  const int code = read_planes(m->tier, i, r->loc, r->plane_bytes, first, count);
  assert_int_equal(code, r->fate == HELD ? 0 : KVSTOW_EMISS);
  m->reads++;
}

static void do_reads(model *m) {
  for (int i = 0; i < 20 && m->count > 0; i++) check_one(m, draw(m, m->count));
}

static void do_flush(model *m) {
  assert_int_equal(kvstow_tier_flush(m->tier), 0);
  for (uint64_t i = 0; i < m->count; i++) m->records[i].flushed = true;
}

static void do_erase(model *m) {
  kvstow_loc locs[16];
  size_t count = 0;
  for (int i = 0; i < 16 && m->count > 0; i++) {
    const uint64_t k = draw(m, m->count);
    locs[count++] = m->records[k].loc;
    if (m->records[k].fate == HELD) m->records[k].fate = ERASED;
  }
  if (count > 0) assert_int_equal(kvstow_tier_erase(m->tier, locs, count), 0);
}

/* What the store shows is what the model holds. After a crash, records that were not flushed may be
 * missing, and segments given up but not overwritten may be back: forgetting is a promise of erase
 * only. */
static void adopt(model *m, bool crashed) {
  seen *s = scan_all(m->tier);
  for (uint64_t i = 0; i < m->count; i++) {
    modelled *r = &m->records[i];
    const kvstow_record *found = seen_find(s, i);
    if (r->fate == ERASED && found) fail_msg("record %llu was erased", (unsigned long long)i);
    if (r->fate == HELD && !found && (r->flushed || !crashed))
      fail_msg("record %llu is lost", (unsigned long long)i);
    if (found) {
      assert_true(r->fate == HELD || r->fate == GONE);
      assert_int_equal(found->planes, r->planes);
      assert_int_equal(found->plane_bytes, r->plane_bytes);
      r->fate = HELD;
      r->loc = found->loc;
      assert_int_equal(read_planes(m->tier, i, r->loc, r->plane_bytes, 0, r->planes), 0);
    } else {
      if (r->fate == HELD) r->fate = GONE;
      r->loc = (kvstow_loc){0, 0, 0};
    }
    r->flushed = true;
  }
  free(s);
}

static void do_reopen(model *m) {
  assert_int_equal(kvstow_tier_close(m->tier), 0);
  m->tier = tier_open(&m->options);
  adopt(m, false);
  m->reopens++;
}

/* The store goes on as a copy of its files made now. */
static void do_crash(model *m) {
  char *copies[2];
  for (uint32_t d = 0; d < m->options.dirs_count; d++) {
    copies[d] = crash_copy(m->dirs[d], SEGMENTS);
  }
  kvstow_tier_close(m->tier);
  for (uint32_t d = 0; d < m->options.dirs_count; d++) {
    scratch_remove(m->dirs[d]);
    m->given[d] = m->dirs[d] = copies[d];
  }
  m->tier = tier_open(&m->options);
  adopt(m, true);
  m->crashes++;
}

static void live(uint64_t seed, uint32_t dirs_count, int steps) {
  print_message("seed %llu, %u directories (KVSTOW_TEST_SEED)\n", (unsigned long long)seed,
                dirs_count);
  model *m = calloc(1, sizeof *m);
  m->rng = seed;
  for (uint32_t d = 0; d < dirs_count; d++) m->given[d] = m->dirs[d] = scratch_new();
  m->options = options_for(m->given, SEGMENTS);
  m->options.dirs_count = dirs_count;
  m->options.budget_bytes += 65536;
  m->options.queue_depth = 1 + (uint32_t)draw(m, 16);
  m->options.request_max_bytes = 65536u << draw(m, 4);
  m->options.tuning.merge_distance = (uint32_t)draw(m, 300000);
  m->tier = tier_open(&m->options);
  for (int step = 0; step < steps; step++) {
    const uint64_t what = draw(m, 100);
    if (what < 50)
      do_append(m);
    else if (what < 75)
      do_reads(m);
    else if (what < 83)
      do_flush(m);
    else if (what < 87)
      do_erase(m);
    else if (what < 90)
      assert_int_equal(kvstow_tier_seal(m->tier), 0);
    else if (what < 93)
      reclaim_one(m);
    else if (what < 97)
      do_reopen(m);
    else
      do_crash(m);
  }
  const kvstow_tier_stats s = stats_of(m->tier);
  assert_int_equal(s.corrupt_headers + s.corrupt_planes + s.io_errors, 0);
  assert_int_equal(kvstow_tier_close(m->tier), 0);
  assert_true(m->reads > 50);
  for (uint32_t d = 0; d < dirs_count; d++) scratch_remove(m->dirs[d]);
  free(m);
}

static uint64_t seed_given(void) {
  const char *given = getenv("KVSTOW_TEST_SEED");
  return given ? strtoull(given, NULL, 0) : 20250101;
}

static void random_histories_match_the_model(void **state) {
  (void)state;
  for (uint64_t i = 0; i < 4; i++) live(seed_given() + i, 1, 120);
}

static void random_histories_in_two_directories_match_the_model(void **state) {
  (void)state;
  for (uint64_t i = 0; i < 2; i++) live(seed_given() + 100 + i, 2, 120);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(random_histories_match_the_model),
      cmocka_unit_test(random_histories_in_two_directories_match_the_model),
  };
  int failures = 0;
  for (size_t i = 0; i < sizeof VARIANTS / sizeof *VARIANTS; i++) {
    if ((VARIANTS[i].buffered && !VARIANTS[i].encrypted) || !variant_runs(&VARIANTS[i])) continue;
    the_variant = &VARIANTS[i];
    failures += cmocka_run_group_tests_name(VARIANTS[i].name, tests, NULL, NULL);
  }
  return failures;
}
