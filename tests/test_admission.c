/* tests/test_admission.c - what is worth a write to the tier below, told by trials.
 *
 * Time is given in accesses, of which one is a tick.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "eviction/admission.h"

enum { READ = 0, UNREAD = 5, BELOW = 100, PAUSE = 64, STEPS = 60000 };

struct world {
  struct admission admission;
  struct hazard hazard;
  uint32_t now;
  uint64_t key, request;
};

static struct world *create(double price) {
  struct world *world = calloc(1, sizeof *world);
  assert_non_null(world);
  kvstow__hazard_init(&world->hazard, 0);
  kvstow__admission_init(&world->admission, price);
  return world;
}

static void destroy(struct world *world) {
  kvstow__admission_finish(&world->admission);
  free(world);
}

/* All blocks of READ are used PAUSE after they were used last, none of UNREAD. */
static void teach(struct world *world) {
  for (uint32_t now = 0; now < 20000; now++) {
    kvstow__hazard_wait(&world->hazard, READ, now, now);
    kvstow__hazard_wait(&world->hazard, UNREAD, now, now);
    if (now >= PAUSE) kvstow__hazard_use(&world->hazard, READ, now - PAUSE, now);
  }
  world->now = 20000;
  kvstow__hazard_weigh(&world->hazard, world->now);
}

static bool left(struct world *world, uint64_t key, uint32_t class, uint32_t since) {
  kvstow__admission_left(&world->admission, &world->hazard,
                         &(struct departure){.key = key,
                                             .accesses = world->now,
                                             .class = class,
                                             .since = since,
                                             .now = world->now,
                                             .ticks_an_access = 1});
  return kvstow__admission_admits(&world->admission, BELOW);
}

/* A block of its own request leaves as soon as it was used. */
static bool one_left(struct world *world, uint32_t class) {
  world->now++;
  return left(world, ++world->key, class, world->now);
}

static void asked(struct world *world, uint64_t key, uint32_t depth) {
  kvstow__admission_asked(&world->admission, key, world->now, world->request, depth);
}

static double hits(struct world *world, uint32_t trial) {
  world->request++;
  asked(world, UINT64_MAX, 0); /* ends the request under way */
  return world->admission.trials[trial].hits;
}

static void takes_no_memory_until_asked(void **state) {
  (void)state;
  struct world *world = create(0.05);
  for (int i = 0; i < 1000; i++)
    kvstow__admission_left(&world->admission, &world->hazard,
                           &(struct departure){.key = 1, .ticks_an_access = 1});
  asked(world, 1, 0);
  for (uint32_t i = 0; i < ADMISSION_TRIALS; i++)
    assert_null(world->admission.trials[i].lru.entries);
  assert_true(kvstow__admission_admits(&world->admission, BELOW));
  assert_int_equal(world->admission.trials[ADMISSION_TRIALS - 1].lru.capacity, BELOW);
  destroy(world);
}

/* The tier below is filled once, and would have been a second time. */
static void admits_all_until_it_has_watched(void **state) {
  (void)state;
  struct world *world = create(0.05);
  teach(world);
  uint32_t admitted = 0;
  for (int i = 0; i < 10 * BELOW; i++) admitted += one_left(world, UNREAD);
  assert_in_range(admitted, 2 * BELOW - 1, 2 * BELOW + 1);
  destroy(world);
}

/* Of four blocks that leave one is asked for again, when a tier below that took all would have lost it:
 * three hundred others left since. One that takes only those read has room for it. */
static void writes_what_is_read_and_nothing_else(void **state) {
  enum { LATER = 75 };
  (void)state;
  struct world *world = create(0.05);
  teach(world);
  uint64_t waiting[LATER] = {0};
  uint32_t admitted[2] = {0}, asked_below = 0, found = 0;
  bool below[LATER] = {false};
  for (uint32_t i = 0; i < STEPS / 4; i++) {
    const uint32_t at = i % LATER;
    const bool late = i > STEPS / 8;
    world->request++;
    if (waiting[at] != 0) {
      asked(world, waiting[at], 0);
      asked_below += late;
      found += late && below[at];
    }
    below[at] = one_left(world, READ);
    waiting[at] = world->key;
    if (late) admitted[0] += below[at];
    for (int j = 0; j < 3; j++) {
      const bool yes = one_left(world, UNREAD);
      if (late) admitted[1] += yes;
    }
  }
  assert_true(asked_below > 1000 && found > asked_below * 0.95);
  assert_true(admitted[0] > STEPS * 0.95 / 8);
  assert_true(admitted[1] < STEPS * 0.05 * 3 / 8);
  const struct admission_trial *all = &world->admission.trials[0];
  assert_true(all->hits == 0);
  assert_true(all->writes > 20 * BELOW &&
              all->writes < 25 * BELOW); /* long ago counts for nothing */
  destroy(world);
}

/* Followed is what has most hits less the price of its writes, of what has no fewer than writing all. */
static void follows_what_serves_most_for_its_writes(void **state) {
  static const struct {
    double price, hits[4], writes[4];
    uint32_t followed;
  } rows[] = {
      {0.1, {100, 100, 100, 100}, {900, 900, 900, 900}, 3}, /* the least, all else equal */
      {0.1, {100, 100, 99, 90}, {900, 800, 100, 10}, 1},    /* fewer hits: however few the writes */
      {0.1, {100, 130, 120, 90}, {900, 800, 750, 10}, 1},   /* 50, 45 */
      {0.1, {100, 130, 120, 90}, {900, 800, 650, 10}, 2},   /* 50, 55 */
      {0.01, {100, 130, 120, 90}, {900, 800, 650, 10}, 1},  /* 122, 113.5 */
      {0.1, {100, 99, 99, 99}, {900, 0, 0, 0}, 0},
  };
  (void)state;
  for (size_t row = 0; row < sizeof rows / sizeof rows[0]; row++) {
    struct world *world = create(rows[row].price);
    struct admission *admission = &world->admission;
    kvstow__admission_admits(admission, BELOW);
    admission->turns = 2;
    for (uint32_t i = 0; i < 4; i++) {
      admission->trials[i].hits = rows[row].hits[i];
      admission->trials[i].writes = rows[row].writes[i];
    }
    for (uint32_t i = 0; i < ADMISSION_TRIALS; i++) {
      if (i > 3) admission->trials[i].hits = -1;
      kvstow__ghost_push(&admission->trials[i].lru, 1); /* that it leaves is no write */
    }
    left(world, 1, READ, 1);
    assert_int_equal(admission->followed, rows[row].followed);
    destroy(world);
  }
}

/* What is asked for must not lack what it hangs on. */
static void blocks_before_an_admitted_one_are_admitted(void **state) {
  (void)state;
  struct world *world = create(0.05);
  teach(world);
  for (int i = 0; i < 4 * BELOW; i++) one_left(world, UNREAD);
  assert_false(one_left(world, UNREAD));
  const uint32_t since = ++world->now;
  assert_false(left(world, 1000001, UNREAD, since)); /* behind it: no matter */
  assert_true(left(world, 1000002, READ, since));
  assert_true(left(world, 1000003, UNREAD, since));
  assert_true(left(world, 1000004, UNREAD, since));
  assert_false(one_left(world, UNREAD)); /* another request's */
  destroy(world);
}

/* Five blocks, of which a trial lacks the third: two are of use, in whatever order they come. */
static void hits_are_those_of_leading_runs(void **state) {
  (void)state;
  for (int deepest_first = 0; deepest_first < 2; deepest_first++) {
    struct world *world = create(0.05);
    kvstow__admission_admits(&world->admission, BELOW);
    for (uint64_t key = 1; key <= 5; key++)
      if (key != 3) left(world, key, READ, 1);
    world->request++;
    for (uint32_t i = 0; i < 5; i++) {
      const uint32_t depth = deepest_first ? 4 - i : i;
      asked(world, depth + 1, depth);
    }
    assert_true(hits(world, 0) == 2);
    assert_true(hits(world, ADMISSION_TRIALS - 1) == 2);
    destroy(world);
  }
}

/* Being asked for keeps a block below, and so does being given up again. */
static void a_trial_gives_up_what_was_used_longest_ago(void **state) {
  (void)state;
  struct world *world = create(0.05);
  kvstow__admission_admits(&world->admission, BELOW);
  for (uint64_t key = 1; key <= BELOW; key++) left(world, key, READ, (uint32_t)key);
  world->request++;
  asked(world, 1, 0);
  left(world, 2, READ, 2);
  left(world, BELOW + 1, READ, BELOW + 1);
  left(world, BELOW + 2, READ, BELOW + 2);
  const struct ghost *lru = &world->admission.trials[0].lru;
  assert_true(kvstow__ghost_has(lru, 1) && kvstow__ghost_has(lru, 2));
  assert_true(!kvstow__ghost_has(lru, 3) && !kvstow__ghost_has(lru, 4));
  assert_true(kvstow__ghost_has(lru, 5));
  /* Two were written after a turn of BELOW, which has begun to fade. */
  const double writes = world->admission.trials[0].writes;
  assert_true(writes > BELOW - 3 && writes < BELOW - 2);
  destroy(world);
}

/* A large tier is told from a sample of its keys. */
static void memory_is_bounded_by_a_sample(void **state) {
  enum { LARGE = 1 << 20 };
  (void)state;
  struct world *world = create(0.05);
  struct admission *admission = &world->admission;
  kvstow__admission_admits(admission, LARGE);
  assert_int_equal(admission->trials[0].lru.capacity, ADMISSION_KEYS);
  for (uint64_t key = 1; key <= LARGE / 2; key++)
    kvstow__admission_left(admission, &world->hazard,
                           &(struct departure){.key = key * UINT64_C(0x2545f4914f6cdd1d)});
  assert_in_range((uint64_t)admission->trials[0].writes, ADMISSION_KEYS * 4 / 10,
                  ADMISSION_KEYS * 6 / 10);
  destroy(world);
}

/* Blocks may be of two sizes; another tier is another matter. */
static void starts_again_when_the_tier_below_is_another(void **state) {
  (void)state;
  struct world *world = create(0.05);
  struct admission *admission = &world->admission;
  kvstow__admission_admits(admission, BELOW);
  admission->turns = 7;
  for (int i = 0; i < 20000; i++)
    kvstow__admission_admits(admission, i % 2 == 0 ? BELOW : 2 * BELOW);
  assert_int_equal(admission->turns, 7);
  for (int i = 0; i < 20000; i++) kvstow__admission_admits(admission, 10 * BELOW);
  assert_int_equal(admission->turns, 0);
  assert_in_range(admission->size, 2 * BELOW, 10 * BELOW);
  admission->turns = 7;
  for (int i = 0; i < 20000; i++) kvstow__admission_admits(admission, BELOW / 10);
  assert_int_equal(admission->turns, 0);
  assert_in_range(admission->size, BELOW / 10, BELOW);
  destroy(world);
  world = create(0.05);
  assert_true(kvstow__admission_admits(&world->admission, 0)); /* what is too small to tell */
  destroy(world);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(takes_no_memory_until_asked),
      cmocka_unit_test(admits_all_until_it_has_watched),
      cmocka_unit_test(writes_what_is_read_and_nothing_else),
      cmocka_unit_test(follows_what_serves_most_for_its_writes),
      cmocka_unit_test(blocks_before_an_admitted_one_are_admitted),
      cmocka_unit_test(hits_are_those_of_leading_runs),
      cmocka_unit_test(a_trial_gives_up_what_was_used_longest_ago),
      cmocka_unit_test(memory_is_bounded_by_a_sample),
      cmocka_unit_test(starts_again_when_the_tier_below_is_another),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
