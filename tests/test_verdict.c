/* What a benchmark makes of rounds: made-up ones, of which is known what they should say.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "bench/tier.h"
#include "bench/verdict.h"

#include <cmocka.h>

static uint64_t rng = 1;

static double uniform(void) {
  rng = rng * 6364136223846793005u + 1442695040888963407u;
  return ((double)(rng >> 11) + 0.5) / 9007199254740992.0;
}

static double normal(void) {
  return sqrt(-2 * log(uniform())) * cos(2 * 3.14159265358979 * uniform());
}

/* What else a machine does: so many runs take up to twice as long. */
static double hiccups;

static double seconds(double speed, double noise) {
  const double hiccup = uniform() < hiccups ? 1 + uniform() : 1;
  return exp(noise * normal()) * hiccup / speed;
}

static void fill(double *ratios, size_t count, double truth, double noise) {
  for (size_t i = 0; i < count; i++) ratios[i] = seconds(1, noise) / seconds(truth, noise);
}

/* As `bench tier` asks: twice as many as before, until it is told. */
static enum verdict hearings(double truth, double noise, double bound) {
  double ratios[MEASURE_ROUNDS_MAX];
  enum verdict verdict = VERDICT_OPEN;
  fill(ratios, 28, truth, noise);
  for (size_t count = 7; count <= 28 && verdict == VERDICT_OPEN; count *= 2)
    verdict = verdict_of(ratios, count, bound);
  return verdict;
}

struct tally {
  size_t of[3];
};

static struct tally many(double truth, double noise) {
  struct tally t = {{0}};
  hiccups = 0.1;
  for (int i = 0; i < 2000; i++) t.of[hearings(truth, noise, 0.95)]++;
  return t;
}

/* ---- the test ---------------------------------------------------------------------------------- */

static void few_rounds_tell_by_their_ranks(void **state) {
  (void)state;
  double r[10] = {1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07, 1.08, 1.09, 1.10};
  assert_int_equal(verdict_of(r, 4, 1), VERDICT_OPEN);  /* 1 in 16 */
  assert_int_equal(verdict_of(r, 5, 1), VERDICT_ABOVE); /* 1 in 32 */
  r[0] = 0.995;
  assert_int_equal(verdict_of(r, 5, 1), VERDICT_OPEN); /* 2 in 32 */
  for (size_t i = 0; i < 10; i++) r[i] = 0.9 - (double)i / 100;
  assert_int_equal(verdict_of(r, 9, 0.95), VERDICT_OPEN);   /* 1 in 512 */
  assert_int_equal(verdict_of(r, 10, 0.95), VERDICT_BELOW); /* 1 in 1024 */
  r[0] = 0.951;
  assert_int_equal(verdict_of(r, 10, 0.95), VERDICT_OPEN); /* 2 in 1024 */
  assert_int_equal(verdict_of(r, 0, 1), VERDICT_OPEN);
}

static void one_hiccup_does_not_move_the_middle(void **state) {
  (void)state;
  const double r[] = {0.99, 1, 1, 1.01, 1, 0.2, 1};
  assert_true(fabs(verdict_middle(r, 7) - 1) < 0.01);
  assert_true(isnan(verdict_middle(r, 0)));
  assert_true(fabs(verdict_middle((const double[]){0.5, 2}, 2) - 1) < 1e-9);
}

/* Neither condemned nor, where noise allows, left open. */
static void the_same_code_is_not_condemned(void **state) {
  (void)state;
  static const double noises[] = {0.02, 0.04, 0.08, 0.16};
  for (size_t i = 0; i < 4; i++) {
    const double noise = noises[i];
    const struct tally t = many(1, noise);
    print_message("noise %.2f: above %zu, open %zu, below %zu\n", noise, t.of[0], t.of[1], t.of[2]);
    assert_true(t.of[VERDICT_BELOW] <= 4);
    if (noise < 0.05) assert_true(t.of[VERDICT_ABOVE] > 1700);
  }
}

static void what_has_lost_a_tenth_is_not_acquitted(void **state) {
  (void)state;
  static const double noises[] = {0.02, 0.04};
  for (size_t i = 0; i < 2; i++) {
    const double noise = noises[i];
    const struct tally t = many(0.9, noise);
    print_message("noise %.2f: above %zu, open %zu, below %zu\n", noise, t.of[0], t.of[1], t.of[2]);
    assert_true(t.of[VERDICT_ABOVE] < 60);
  }
  assert_true(many(0.9, 0.02).of[VERDICT_BELOW] > 1000);
  assert_true(many(0.8, 0.04).of[VERDICT_BELOW] > 1500);
}

static void at_the_bound_itself_few_are_acquitted(void **state) {
  (void)state;
  const struct tally t = many(0.95, 0.05);
  assert_true(t.of[VERDICT_ABOVE] < 300); /* four looks of 1 in 20 */
  assert_true(t.of[VERDICT_BELOW] <= 8);
}

/* ---- the targets of bench tier ----------------------------------------------------------------- */

enum { CELLS = 40, ROUNDS = 40 };

static struct tier_contest cells[CELLS], *contests[CELLS];

static void run(struct tier_series *s, double speed, double noise) {
  s->bytes = 1 << 30;
  s->rounds = ROUNDS;
  for (size_t r = 0; r < ROUNDS; r++) s->seconds[r] = seconds(speed, noise);
}

/* Random reads, all of one speed: off, on, off again, scheduling alone; threads are slower by a quarter. */
static void make_cell(size_t i, struct tier_bed *bed, double noise) {
  struct tier_contest *c = contests[i] = &cells[i];
  hiccups = 0;
  memset(c, 0, sizeof *c);
  c->bed = bed;
  c->cell = (struct tier_cell){TIER_RANDOM, 1 << 20, 16, 1};
  const struct tier_way ways[] = {
      {KVSTOW_ENGINE_URING, false, false, false},   {KVSTOW_ENGINE_URING, true, true, false},
      {KVSTOW_ENGINE_URING, false, false, true},    {KVSTOW_ENGINE_URING, false, true, false},
      {KVSTOW_ENGINE_THREADS, false, false, false}, {KVSTOW_ENGINE_THREADS, true, true, false}};
  c->ways_count = sizeof ways / sizeof *ways;
  memcpy(c->ways, ways, sizeof ways);
  for (size_t w = 0; w < c->ways_count + TIER_LIMITS; w++)
    run(&c->series[w], w == 4 || w == 5 ? 0.75 : 1, noise);
}

static const json_t *target_of(const struct bench_report *report, const char *name) {
  size_t i;
  json_t *row;
  json_array_foreach(report->targets, i,
                     row) if (strncmp(json_string_value(json_object_get(row, "name")), name,
                                      strlen(name)) == 0) return row;
  fail_msg("no target %s", name);
  return NULL;
}

static const char *told(const struct bench_report *report, const char *name) {
  return json_string_value(json_object_get(target_of(report, name), "told"));
}

static void one_slow_cell_among_many_is_found(void **state) {
  (void)state;
  struct bench_args args = {.rounds = 5};
  for (int slow = 0; slow < 2; slow++) {
    struct bench_report report = bench_report_begin("tier");
    struct tier_bed bed = {.args = &args, .report = &report, .direct = true, .memcpy_mb_s = 1e9};
    json_object_set_new(report.root, "changes", json_array());
    for (size_t i = 0; i < CELLS; i++) make_cell(i, &bed, 0.02);
    /* one in which even the same is not the same, at first sight: it excuses nobody */
    for (size_t r = 0; r < 3; r++) cells[7].series[2].seconds[r] *= 1.5;
    for (size_t r = 0; r < ROUNDS && slow; r++) cells[3].series[1].seconds[r] *= 1.15;
    tier_report(&bed, contests, CELLS);
    assert_string_equal(told(&report, "everything on against"), slow ? "below" : "above");
    assert_string_equal(told(&report, "threads against"), "below");
    assert_string_equal(told(&report, "random read, prefetch"), "above"); /* of 40, one */
    json_decref(report.root);
  }
}

/* A pool that has lost 4 % of all random reads. */
static void little_is_seen_where_all_lose_it(void **state) {
  (void)state;
  struct bench_args args = {.rounds = 5};
  struct bench_report report = bench_report_begin("tier");
  struct tier_bed bed = {.args = &args, .report = &report, .direct = true, .memcpy_mb_s = 1e9};
  json_object_set_new(report.root, "changes", json_array());
  for (size_t i = 0; i < CELLS; i++) {
    make_cell(i, &bed, 0.1);
    for (size_t r = 0; r < ROUNDS; r++) cells[i].series[1].seconds[r] *= 1.04;
  }
  assert_false(tier_report_random_open(contests, CELLS));
  tier_report(&bed, contests, CELLS);
  assert_string_equal(told(&report, "random read, prefetch"), "below");
  json_decref(report.root);
}

static int check(enum verdict verdict, double value) {
  static const struct bench_column none[] = {{NULL, NULL, 0}};
  struct bench_args args = {.rounds = BENCH_ROUNDS_JUDGED, .json = true, .check = true};
  struct bench_report report = bench_report_begin("made up");
  bench_count(bench_row(&report), "rounds", 5);
  bench_target_told(&report, "it", value, 0.95, verdict, (double)NAN);
  return bench_report_end(&report, &args, none);
}

static void the_verdict_decides_and_not_the_figure(void **state) {
  (void)state;
  assert_int_equal(check(VERDICT_ABOVE, 0.96), 0);
  assert_int_equal(check(VERDICT_OPEN, 0.9), 0);
  assert_int_equal(check(VERDICT_BELOW, 0.9), 1);
}

static void cells_that_cant_be_told_are_heard_again(void **state) {
  (void)state;
  struct bench_args args = {.rounds = 5};
  struct tier_bed bed = {.args = &args};
  make_cell(0, &bed, 0.01);
  run(&cells[0].series[5], 1.2, 0.01); /* threads as fast as needed */
  run(&cells[0].series[4], 1.2, 0.01);
  assert_false(tier_report_open(&cells[0]));
  for (size_t w = 0; w < cells[0].ways_count; w++) cells[0].series[w].rounds = 5;
  for (size_t r = 0; r < 5; r++)
    cells[0].series[1].seconds[r] = cells[0].series[0].seconds[r] * (r < 2 ? 1.1 : 0.99);
  assert_true(tier_report_open(&cells[0]));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(few_rounds_tell_by_their_ranks),
      cmocka_unit_test(one_hiccup_does_not_move_the_middle),
      cmocka_unit_test(the_same_code_is_not_condemned),
      cmocka_unit_test(what_has_lost_a_tenth_is_not_acquitted),
      cmocka_unit_test(at_the_bound_itself_few_are_acquitted),
      cmocka_unit_test(one_slow_cell_among_many_is_found),
      cmocka_unit_test(little_is_seen_where_all_lose_it),
      cmocka_unit_test(the_verdict_decides_and_not_the_figure),
      cmocka_unit_test(cells_that_cant_be_told_are_heard_again),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
