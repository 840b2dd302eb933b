/* tests/test_sim_wtinylfu.c - why our W-TinyLFU misses other blocks than libCacheSim's.
 *
 * One model, told how libCacheSim (2024-10) departs from the paper. With all departures it gives
 * libCacheSim's counts; with none, ours. So nothing else differs. They are:
 *
 *   rounding  Main's segments are rounded down, each. Unless main is a multiple of 5, they hold one
 *             block less than main: a use in probation pushes a block out of main, and the next
 *             candidate takes the place unasked. Admission is bypassed as often as probation is hit.
 *   drain     One eviction goes on until a candidate is refused, or the window is empty.
 *   counting  Uses in the window are not counted; being a candidate is. Counters are wide, there are
 *             14.4 a block and ten a key, all of which are raised, and they are halved after 32
 *             capacities of uses in main. (Ours: eviction/wtinylfu.c.)
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "cli/sim/sim.h"
#include "tests/shared_traces.h"

enum part { WINDOW, PROBATION, PROTECTED, PARTS, NOWHERE };
enum departure { ROUNDING = 1, DRAIN = 2, COUNTING = 4 };
#define NONE UINT32_MAX

struct model {
  unsigned departures;
  uint32_t *newer, *older;
  uint8_t *part;
  uint32_t head[PARTS], tail[PARTS];
  uint64_t count[PARTS], most[PARTS], main_most;
  uint32_t *counters;
  uint32_t counter_count;
  uint64_t added, halve_at;
  uint64_t misses;
};

/* ---- frequencies ---- */

/* ours: the rows and the mixing of eviction/wtinylfu.c; the key as cli/sim gives it */
static uint32_t our_place(const struct model *m, uint32_t id, uint32_t row) {
  static const uint64_t odd[] = {0x9e3779b97f4a7c15u, 0xbf58476d1ce4e5b9u, 0x94d049bb133111ebu,
                                 0xd6e8feb86659fd93u};
  const uint32_t width = m->counter_count / 4;
  uint64_t key = id + 0x9e3779b97f4a7c15u;
  key = (key ^ key >> 30) * 0xbf58476d1ce4e5b9u;
  key = (key ^ key >> 27) * 0x94d049bb133111ebu;
  key ^= key >> 31;
  return row * width + (uint32_t)((key ^ key >> 31) * odd[row] >> 24 & (width - 1));
}

static uint32_t *counter(const struct model *m, uint32_t id, uint32_t i) {
  if ((m->departures & COUNTING) == 0) return &m->counters[our_place(m, id, i)];
  const uint64_t wide = id + UINT64_C(1); /* as its trace numbers them */
  const uint32_t a = (uint32_t)XXH64(&wide, sizeof wide, 0x12345678);
  const uint32_t b = (uint32_t)XXH64(&wide, sizeof wide, 0x12344321);
  return &m->counters[(a + i * b) % m->counter_count];
}

static uint32_t hashes(const struct model *m) {
  return (m->departures & COUNTING) != 0 ? 10 : 4;
}

static uint32_t frequency(const struct model *m, uint32_t id) {
  uint32_t least = UINT32_MAX;
  for (uint32_t i = 0; i < hashes(m); i++)
    if (*counter(m, id, i) < least) least = *counter(m, id, i);
  return least;
}

static void halve(struct model *m) {
  for (uint32_t i = 0; i < m->counter_count; i++) m->counters[i] /= 2;
}

static void count_use(struct model *m, uint32_t id) {
  const uint32_t least = frequency(m, id);
  const bool theirs = (m->departures & COUNTING) != 0;
  for (uint32_t i = 0; i < hashes(m); i++)
    if (theirs || (least < 15 && *counter(m, id, i) == least)) ++*counter(m, id, i);
  if (theirs || ++m->added < m->halve_at) return;
  m->added /= 2;
  halve(m);
}

/* ---- lists ---- */

static void leave(struct model *m, uint32_t id) {
  const enum part part = (enum part)m->part[id];
  const uint32_t newer = m->newer[id], older = m->older[id];
  if (newer != NONE)
    m->older[newer] = older;
  else
    m->head[part] = older;
  if (older != NONE)
    m->newer[older] = newer;
  else
    m->tail[part] = newer;
  m->count[part]--;
  m->part[id] = NOWHERE;
}

static void enter(struct model *m, uint32_t id, enum part part) {
  m->part[id] = (uint8_t)part;
  m->newer[id] = NONE;
  m->older[id] = m->head[part];
  if (m->head[part] != NONE)
    m->newer[m->head[part]] = id;
  else
    m->tail[part] = id;
  m->head[part] = id;
  m->count[part]++;
}

/* ---- the policy ---- */

static uint32_t main_tail(const struct model *m) {
  return m->tail[PROBATION] != NONE ? m->tail[PROBATION] : m->tail[PROTECTED];
}

static void enter_main(struct model *m, uint32_t id) {
  leave(m, id);
  const bool lowest_with_room = (m->departures & ROUNDING) != 0;
  enter(m, id,
        lowest_with_room && m->count[PROBATION] >= m->most[PROBATION] &&
                m->count[PROTECTED] < m->most[PROTECTED]
            ? PROTECTED
            : PROBATION);
}

static void evict(struct model *m) {
  for (;;) {
    const uint32_t candidate = m->tail[WINDOW];
    if (candidate == NONE) {
      leave(m, main_tail(m));
      return;
    }
    if (m->count[PROBATION] + m->count[PROTECTED] < m->main_most) {
      enter_main(m, candidate);
      if ((m->departures & COUNTING) != 0) count_use(m, candidate);
      continue;
    }
    const uint32_t rival = main_tail(m);
    const bool better = frequency(m, candidate) > frequency(m, rival);
    if ((m->departures & COUNTING) != 0) count_use(m, candidate);
    leave(m, better ? rival : candidate);
    if (better) enter_main(m, candidate);
    if (!better || (m->departures & DRAIN) == 0) return;
  }
}

static void hit(struct model *m, uint32_t id) {
  const enum part part = (enum part)m->part[id];
  leave(m, id);
  enter(m, id, part == WINDOW ? WINDOW : PROTECTED);
  if (m->count[PROTECTED] > m->most[PROTECTED]) {
    const uint32_t falls = m->tail[PROTECTED];
    leave(m, falls);
    enter(m, falls, PROBATION);
    if ((m->departures & ROUNDING) != 0 && m->count[PROBATION] > m->most[PROBATION])
      leave(m, m->tail[PROBATION]);
  }
  if ((m->departures & COUNTING) == 0) {
    count_use(m, id);
  } else if (part != WINDOW) {
    count_use(m, id);
    if (++m->added >= m->halve_at) {
      m->added = 0;
      halve(m);
    }
  }
}

static void use(struct model *m, uint32_t id, uint64_t blocks) {
  if (m->part[id] != NOWHERE) {
    hit(m, id);
    return;
  }
  m->misses++;
  while (m->count[WINDOW] + m->count[PROBATION] + m->count[PROTECTED] >= blocks) evict(m);
  enter(m, id, WINDOW);
  count_use(m, id);
}

static uint64_t misses_of_model(const struct trace *trace, uint64_t blocks, unsigned departures) {
  struct model m = {.departures = departures};
  m.most[WINDOW] = blocks / 100 > 0 ? blocks / 100 : 1;
  m.main_most = blocks - m.most[WINDOW];
  m.most[PROTECTED] = (uint64_t)((double)m.main_most * 0.8);
  m.most[PROBATION] = (departures & ROUNDING) != 0 ? (uint64_t)((double)m.main_most * 0.2)
                                                   : m.main_most - m.most[PROTECTED];
  m.counter_count = 256;
  while (m.counter_count / 4 < blocks) m.counter_count *= 2;
  m.halve_at = 10 * blocks;
  if ((departures & COUNTING) != 0) {
    m.counter_count = (uint32_t)ceil(-log(0.001) / 0.480453013918201 * (double)m.main_most);
    m.halve_at = 32 * m.main_most;
  }
  m.newer = calloc(trace->unique, sizeof *m.newer);
  m.older = calloc(trace->unique, sizeof *m.older);
  m.part = calloc(trace->unique, 1);
  m.counters = calloc(m.counter_count, sizeof *m.counters);
  assert_non_null(m.newer);
  assert_non_null(m.older);
  assert_non_null(m.part);
  assert_non_null(m.counters);
  memset(m.part, NOWHERE, trace->unique);
  for (int part = 0; part < PARTS; part++) m.head[part] = m.tail[part] = NONE;
  struct trace_walk *walk = trace_walk_begin(trace);
  const struct trace_request *request;
  assert_non_null(walk);
  while ((request = trace_walk_next(walk)) != NULL)
    for (uint32_t i = 0; i < request->blocks; i++) use(&m, request->ids[i], blocks);
  assert_true(trace_walk_end(walk));
  free(m.newer);
  free(m.older);
  free(m.part);
  free(m.counters);
  return m.misses;
}

static uint64_t our_misses(const struct trace *trace, uint64_t blocks) {
  const struct sim_options options = {.policy = "wtinylfu", .blocks = blocks};
  struct sim_result result;
  char why[256];
  if (sim_run(trace, &options, &result, why, sizeof why) < 0) fail_msg("%s: %s", trace->name, why);
  return result.misses;
}

static struct trace *load(const char *name) {
  char file[128], why[256] = "not there";
  snprintf(file, sizeof file, "%s.jsonl.zst", name);
  const char *path = shared_trace(file);
  struct trace *trace = path != NULL ? trace_load(path, NULL, why, sizeof why) : NULL;
  if (trace == NULL) fail_msg("%s: %s", file, why);
  return trace;
}

enum { TRACE, POLICY, SHARE, BLOCKS, ACCESSES, MISSES, FIELDS };

static void with_departures_it_is_libcachesims_and_without_them_ours(void **state) {
  (void)state;
  FILE *file = fopen(shared_trace("reference_libcachesim_counts.csv"), "r");
  assert_non_null(file);
  struct trace *trace = NULL;
  char line[1024];
  unsigned rows = 0;
  while (fgets(line, sizeof line, file) != NULL) {
    char *rest = line, *fields[FIELDS];
    for (int i = 0; i < FIELDS; i++) fields[i] = strsep(&rest, ",");
    if (strcmp(fields[POLICY], "W-TinyLFU") != 0) continue;
    if (trace == NULL || strcmp(trace->name, fields[TRACE]) != 0) {
      trace_free(trace);
      trace = load(fields[TRACE]);
    }
    const uint64_t blocks = strtoull(fields[BLOCKS], NULL, 10);
    assert_int_equal(misses_of_model(trace, blocks, ROUNDING | DRAIN | COUNTING),
                     strtoull(fields[MISSES], NULL, 10));
    assert_int_equal(misses_of_model(trace, blocks, 0), our_misses(trace, blocks));
    rows++;
  }
  trace_free(trace);
  fclose(file);
  assert_int_equal(rows, 18);
}

int main(void) {
  if (shared_traces_missing("test_sim_wtinylfu")) return ALL_SKIPPED;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(with_departures_it_is_libcachesims_and_without_them_ours),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
