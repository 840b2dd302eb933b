/* tests/test_sim_oracle.c - miss counts of the classics against slow models of them: plain lists, searched
 * from end to end, written from the papers and without looking at eviction/.
 *
 * Over a small trace that lies beside this file, whose counts are written down here, and over generated
 * ones. The models are what must be believed where ../shared is absent, so where it is there they
 * must give libCacheSim's counts themselves.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/sim/sim.h"
#include "tests/shared_traces.h"
#include "tests/support/whole_trace.h"

/* ---- lists: [0] is the oldest ---- */

struct list {
  uint32_t *ids;
  uint64_t count;
};

static struct list list_of(uint64_t room) {
  struct list list = {.ids = malloc((room + 2) * sizeof *list.ids)};
  assert_non_null(list.ids);
  return list;
}

static bool has(const struct list *list, uint32_t id) {
  for (uint64_t i = 0; i < list->count; i++)
    if (list->ids[i] == id) return true;
  return false;
}

static uint32_t take_at(struct list *list, uint64_t at) {
  const uint32_t id = list->ids[at];
  memmove(&list->ids[at], &list->ids[at + 1], (list->count - at - 1) * sizeof *list->ids);
  list->count--;
  return id;
}

static bool take(struct list *list, uint32_t id) {
  for (uint64_t i = 0; i < list->count; i++)
    if (list->ids[i] == id) {
      take_at(list, i);
      return true;
    }
  return false;
}

static uint32_t take_oldest(struct list *list) {
  return take_at(list, 0);
}

static void add(struct list *list, uint32_t id) {
  list->ids[list->count++] = id;
}

/* The oldest goes where there is no room. */
static void remember(struct list *ghosts, uint32_t id, uint64_t most) {
  if (most == 0) return;
  if (ghosts->count == most) take_oldest(ghosts);
  add(ghosts, id);
}

/* ---- models: an access to `id`, true if it misses ---- */

struct model {
  uint64_t size;
  struct list a, b; /* the cache: one list, or two */
  struct list ghost_a, ghost_b;
  uint32_t *uses;       /* an id */
  uint64_t *last;       /* an id */
  const uint64_t *next; /* use of what is asked for at `now` */
  uint64_t now;
  uint64_t hand; /* sieve: where it stands in the list */
  double target; /* arc: p */
};

static bool fifo(struct model *m, uint32_t id) {
  if (has(&m->a, id)) return false;
  if (m->a.count == m->size) take_oldest(&m->a);
  add(&m->a, id);
  return true;
}

static bool lru(struct model *m, uint32_t id) {
  const bool hit = take(&m->a, id);
  if (!hit && m->a.count == m->size) take_oldest(&m->a);
  add(&m->a, id);
  return !hit;
}

/* One bit a block. */
static bool clock_model(struct model *m, uint32_t id) {
  if (has(&m->a, id)) {
    m->uses[id] = 1;
    return false;
  }
  while (m->a.count == m->size) {
    const uint32_t oldest = take_oldest(&m->a);
    if (m->uses[oldest] > 0) add(&m->a, oldest);
    m->uses[oldest] = 0;
  }
  add(&m->a, id);
  return true;
}

/* Nothing moves on a hit; the hand goes from old to young, and on from where it took a block. */
static bool sieve(struct model *m, uint32_t id) {
  if (has(&m->a, id)) {
    m->uses[id] = 1;
    return false;
  }
  while (m->a.count == m->size) {
    const uint32_t at_hand = m->a.ids[m->hand];
    if (m->uses[at_hand] == 0)
      take_at(&m->a, m->hand);
    else
      m->hand++;
    if (m->hand == m->a.count) m->hand = 0;
    m->uses[at_hand] = 0;
  }
  add(&m->a, id);
  return true;
}

/* Of blocks used as often, the one that was first to be. */
static bool lfu(struct model *m, uint32_t id) {
  const bool hit = has(&m->a, id);
  if (!hit && m->a.count == m->size) {
    uint64_t least = 0;
    for (uint64_t i = 1; i < m->a.count; i++) {
      const uint32_t x = m->a.ids[i], y = m->a.ids[least];
      if (m->uses[x] < m->uses[y] || (m->uses[x] == m->uses[y] && m->last[x] < m->last[y]))
        least = i;
    }
    m->uses[take_at(&m->a, least)] = 0;
  }
  if (!hit) add(&m->a, id);
  m->uses[id]++;
  m->last[id] = m->now;
  return !hit;
}

/* a: small, a tenth; b: main; ghost_a: nine tenths. Two uses in small lead to main. */
static bool s3fifo(struct model *m, uint32_t id) {
  if (has(&m->a, id) || has(&m->b, id)) {
    m->uses[id]++;
    return false;
  }
  const uint64_t main_size = m->size - (uint64_t)((double)m->size * 0.1);
  const bool known = take(&m->ghost_a, id);
  while (m->a.count + m->b.count == m->size) {
    if (m->b.count > main_size || m->a.count == 0) {
      const uint32_t oldest = take_oldest(&m->b);
      if (m->uses[oldest] == 0) continue;
      m->uses[oldest] = (m->uses[oldest] < 3 ? m->uses[oldest] : 3) - 1;
      add(&m->b, oldest);
    } else {
      const uint32_t oldest = take_oldest(&m->a);
      if (m->uses[oldest] >= 2)
        add(&m->b, oldest);
      else
        remember(&m->ghost_a, oldest, (uint64_t)((double)m->size * 0.9));
      m->uses[oldest] = 0;
    }
  }
  m->uses[id] = 0;
  add(known ? &m->b : &m->a, id);
  return true;
}

/* a: A1in, a quarter; b: Am; ghost_a: A1out, half. */
static bool two_q(struct model *m, uint32_t id) {
  if (has(&m->a, id)) return false;
  if (take(&m->b, id)) {
    add(&m->b, id);
    return false;
  }
  const bool known = take(&m->ghost_a, id);
  if (m->a.count + m->b.count == m->size) {
    if (m->a.count > m->size / 4 || m->b.count == 0)
      remember(&m->ghost_a, take_oldest(&m->a), m->size / 2);
    else
      take_oldest(&m->b);
  }
  add(known ? &m->b : &m->a, id);
  return true;
}

/* a: T1, b: T2, and their ghosts B1, B2; cases and REPLACE as in the paper. */
static void arc_replace(struct model *m, bool from_b2) {
  const double t1 = (double)m->a.count;
  if (m->a.count > 0 && (t1 > m->target || (from_b2 && t1 == m->target) || m->b.count == 0))
    add(&m->ghost_a, take_oldest(&m->a));
  else
    add(&m->ghost_b, take_oldest(&m->b));
}

static bool arc(struct model *m, uint32_t id) {
  if (take(&m->a, id) || take(&m->b, id)) { /* I */
    add(&m->b, id);
    return false;
  }
  const double b1 = (double)m->ghost_a.count, b2 = (double)m->ghost_b.count, c = (double)m->size;
  if (has(&m->ghost_a, id) || has(&m->ghost_b, id)) { /* II, III */
    const bool from_b2 = has(&m->ghost_b, id);
    if (from_b2)
      m->target -= b1 > b2 ? b1 / b2 : 1;
    else
      m->target += b2 > b1 ? b2 / b1 : 1;
    if (m->target < 0) m->target = 0;
    if (m->target > c) m->target = c;
    take(from_b2 ? &m->ghost_b : &m->ghost_a, id);
    if (m->a.count + m->b.count == m->size) arc_replace(m, from_b2);
    add(&m->b, id);
    return true;
  }
  const uint64_t l1 = m->a.count + m->ghost_a.count; /* IV */
  if (l1 == m->size) {
    if (m->a.count < m->size) {
      take_oldest(&m->ghost_a);
      if (m->a.count + m->b.count == m->size) arc_replace(m, false);
    } else {
      take_oldest(&m->a);
    }
  } else if (l1 + m->b.count + m->ghost_b.count >= m->size) {
    if (l1 + m->b.count + m->ghost_b.count == 2 * m->size) take_oldest(&m->ghost_b);
    if (m->a.count + m->b.count == m->size) arc_replace(m, false);
  }
  add(&m->a, id);
  return true;
}

/* What is asked for is always taken in. last: the use to come. */
static bool belady(struct model *m, uint32_t id) {
  const bool hit = has(&m->a, id);
  if (!hit && m->a.count == m->size) {
    uint64_t farthest = 0;
    for (uint64_t i = 1; i < m->a.count; i++)
      if (m->last[m->a.ids[i]] > m->last[m->a.ids[farthest]]) farthest = i;
    take_at(&m->a, farthest);
  }
  if (!hit) add(&m->a, id);
  m->last[id] = m->next[m->now];
  return !hit;
}

static const struct policy {
  const char *name, *theirs; /* libCacheSim's name */
  bool (*access)(struct model *m, uint32_t id);
} policies[] = {
    {"fifo", "FIFO", fifo},    {"lru", "LRU", lru}, {"clock", "CLOCK", clock_model},
    {"sieve", "SIEVE", sieve}, {"lfu", "LFU", lfu}, {"s3fifo", "S3-FIFO", s3fifo},
    {"2q", "2Q", two_q},       {"arc", "ARC", arc}, {"belady", "Belady", belady},
};
enum { POLICIES = sizeof policies / sizeof policies[0] };

/* Where each access's block is used next. */
static uint64_t *next_uses(const struct trace *trace, const struct whole_trace *whole) {
  uint64_t *next = malloc((trace->accesses + 1) * sizeof *next);
  uint64_t *seen = malloc((trace->unique + 1) * sizeof *seen);
  assert_non_null(next);
  assert_non_null(seen);
  for (uint64_t id = 0; id < trace->unique; id++) seen[id] = UINT64_MAX;
  for (uint64_t i = trace->accesses; i-- > 0;) {
    next[i] = seen[whole->ids[i]];
    seen[whole->ids[i]] = i;
  }
  free(seen);
  return next;
}

static uint64_t misses_of_model(const struct policy *policy, const struct trace *trace,
                                const struct whole_trace *whole, uint64_t size) {
  uint64_t *next = next_uses(trace, whole), misses = 0;
  struct model m = {.size = size,
                    .a = list_of(size),
                    .b = list_of(size),
                    .ghost_a = list_of(2 * size),
                    .ghost_b = list_of(2 * size),
                    .uses = calloc(trace->unique + 1, sizeof *m.uses),
                    .last = calloc(trace->unique + 1, sizeof *m.last),
                    .next = next};
  assert_non_null(m.uses);
  assert_non_null(m.last);
  for (; m.now < trace->accesses; m.now++) misses += policy->access(&m, whole->ids[m.now]);
  free(m.a.ids);
  free(m.b.ids);
  free(m.ghost_a.ids);
  free(m.ghost_b.ids);
  free(m.uses);
  free(m.last);
  free(next);
  return misses;
}

static uint64_t our_misses(const char *policy, const struct trace *trace, uint64_t size) {
  const struct sim_options options = {.policy = policy, .blocks = size};
  struct sim_result result;
  char why[256];
  if (sim_run(trace, &options, &result, why, sizeof why) < 0) fail_msg("%s: %s", policy, why);
  return result.misses;
}

/* ---- tests ---- */

static void the_small_trace_gives_the_counts_written_down(void **state) {
  enum { SIZES = 6 };
  static const uint64_t sizes[SIZES] = {1, 4, 10, 33, 75, 150};
  static const uint64_t counts[POLICIES][SIZES] = {
      {820, 820, 737, 613, 392, 280}, /* fifo */
      {820, 820, 733, 601, 373, 275}, /* lru */
      {820, 820, 728, 561, 358, 258}, /* clock */
      {820, 820, 703, 532, 408, 274}, /* sieve */
      {820, 820, 757, 532, 408, 274}, /* lfu */
      {820, 814, 647, 542, 387, 273}, /* s3fifo */
      {820, 815, 674, 553, 393, 280}, /* 2q */
      {820, 820, 675, 527, 389, 269}, /* arc */
      {820, 682, 564, 360, 260, 242}, /* belady */
  };
  struct trace *trace;
  struct whole_trace whole = {0};
  (void)state;
  assert_int_equal(whole_trace_load(KVSTOW_SOURCE_DIR "/tests/traces/small.jsonl", &trace, &whole),
                   0);
  for (int p = 0; p < POLICIES; p++)
    for (int i = 0; i < SIZES; i++) {
      assert_int_equal(misses_of_model(&policies[p], trace, &whole, sizes[i]), counts[p][i]);
      assert_int_equal(our_misses(policies[p].name, trace, sizes[i]), counts[p][i]);
    }
  whole_trace_free(&whole);
  trace_free(trace);
}

static void generated_traces_give_the_models_counts(void **state) {
  static const char *const traces[] = {
      "gen:conversations?requests=700&seed=4&block_tokens=128",
      "gen:conversations?requests=900&seed=5&turns=2&rate=3&systems=40",
  };
  static const uint64_t sizes[] = {3, 27, 211, 640};
  (void)state;
  for (size_t t = 0; t < sizeof traces / sizeof traces[0]; t++) {
    struct trace *trace;
    struct whole_trace whole = {0};
    assert_int_equal(whole_trace_load(traces[t], &trace, &whole), 0);
    for (int p = 0; p < POLICIES; p++)
      for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const uint64_t ours = our_misses(policies[p].name, trace, sizes[i]);
        const uint64_t models = misses_of_model(&policies[p], trace, &whole, sizes[i]);
        if (ours != models)
          fail_msg("%s, %s, %llu blocks: %llu misses, %llu of the model", traces[t],
                   policies[p].name, (unsigned long long)sizes[i], (unsigned long long)ours,
                   (unsigned long long)models);
      }
    whole_trace_free(&whole);
    trace_free(trace);
  }
}

/* The smallest caches of one trace: the models are slow. */
static void the_models_give_libcachesims_counts(void **state) {
  enum { TRACE, POLICY, SHARE, BLOCKS, ACCESSES, MISSES, FIELDS, BLOCKS_MAX = 300 };
  (void)state;
  if (shared_traces_missing(__func__)) skip();
  struct trace *trace;
  struct whole_trace whole = {0};
  const char *path = shared_trace("taubench_airline.jsonl.zst");
  assert_non_null(path);
  assert_int_equal(whole_trace_load(path, &trace, &whole), 0);
  FILE *file = fopen(shared_trace("reference_libcachesim_counts.csv"), "r");
  assert_non_null(file);
  char line[1024];
  unsigned rows = 0;
  while (fgets(line, sizeof line, file) != NULL) {
    char *rest = line, *fields[FIELDS];
    for (int i = 0; i < FIELDS; i++) fields[i] = strsep(&rest, ",");
    const uint64_t blocks = strtoull(fields[BLOCKS], NULL, 10);
    if (strcmp(fields[TRACE], "taubench_airline") != 0 || blocks > BLOCKS_MAX) continue;
    for (int p = 0; p < POLICIES; p++) {
      if (strcmp(fields[POLICY], policies[p].theirs) != 0) continue;
      assert_int_equal(misses_of_model(&policies[p], trace, &whole, blocks),
                       strtoull(fields[MISSES], NULL, 10));
      rows++;
    }
  }
  fclose(file);
  whole_trace_free(&whole);
  trace_free(trace);
  assert_int_equal(rows, POLICIES);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_small_trace_gives_the_counts_written_down),
      cmocka_unit_test(generated_traces_give_the_models_counts),
      cmocka_unit_test(the_models_give_libcachesims_counts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
