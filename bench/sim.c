/* sim.c - `kvstow bench sim`: accesses a second of the simulator, one core, beside its limit.
 *
 * The limit is what the least of simulators would do: look every block up in a hash table that holds
 * all of them, and count. A simulation does that too (once, when the trace is loaded: ids are dense),
 * unpacks the trace, finds leading runs, and runs a policy. Two workloads: conversations, whose
 * blocks come in runs and mostly fit the processor's caches; and single blocks drawn by Zipf's law
 * from two million, where each is a miss of those caches, for both.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/frame.h"
#include "bench/measure.h"
#include "cli/sim/sim.h"
#include "cli/trace/packed.h"

static const char usage_text[] =
    "Usage: kvstow bench sim [OPTION]...\n"
    "\n"
    "Simulates lru and others over two generated traces at 1 and 10 % of their distinct blocks,\n"
    "beside bare look-ups of the same blocks in a hash table. Loading is not in it.\n";

static const struct bench_column columns[] = {
    {"workload", "<workload", -1},
    {"policy", "<policy", -1},
    {"size_blocks", "blocks", 0},
    {"accesses_per_s", "accesses/s", 0},
    {"limit_per_s", "look-ups/s", 0},
    {"ratio", "ratio", 2},
    {NULL, NULL, 0},
};

static const char *const policies[] = {"lru", "s3fifo", "lifetime", "duel"};

enum {
  POLICIES = sizeof policies / sizeof policies[0],
  SIZES = 2,
  ZIPF_BLOCKS = 2000000,
  ZIPF_ACCESSES = 4000000,
  QUICK_SHARE = 10, /* --quick: a tenth */
};

struct table { /* open addressing, half full; 0 is free */
  uint64_t *keys;
  uint64_t mask;
};

static uint64_t key_of(uint32_t id) { /* splitmix64's finish: never 0 for these */
  uint64_t x = (id + UINT64_C(1)) * 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  return x ^ x >> 31;
}

static bool table_init(struct table *table, uint32_t count) {
  uint64_t slots = 16;
  while (slots < (uint64_t)count * 2) slots *= 2;
  table->mask = slots - 1;
  table->keys = calloc(slots, sizeof *table->keys);
  for (uint32_t id = 0; table->keys != NULL && id < count; id++) {
    uint64_t slot = key_of(id) & table->mask;
    while (table->keys[slot] != 0) slot = (slot + 1) & table->mask;
    table->keys[slot] = key_of(id);
  }
  return table->keys != NULL;
}

/* Look-ups a second. The ids lie in an array, the keys are made on the way. */
static double look_up(const struct table *table, const uint32_t *ids, uint64_t count) {
  volatile uint64_t sink;
  uint64_t found = 0;
  const struct measure_span begun = measure_begin();
  for (uint64_t i = 0; i < count; i++) {
    const uint64_t key = key_of(ids[i]);
    uint64_t slot = key & table->mask;
    while (table->keys[slot] != key) slot = (slot + 1) & table->mask;
    found += slot;
  }
  const double cpu_s = measure_end(begun).cpu_s;
  sink = found;
  (void)sink;
  return (double)count / cpu_s;
}

/* ---- the workloads ---- */

static uint32_t *unpack(const struct trace *trace) {
  uint32_t *ids = calloc(trace->accesses + 1, sizeof *ids), *to = ids;
  struct trace_walk *walk = trace_walk_begin(trace);
  const struct trace_request *request;
  while (ids != NULL && walk != NULL && (request = trace_walk_next(walk)) != NULL) {
    if (request->blocks > 0) memcpy(to, request->ids, request->blocks * sizeof *to);
    to += request->blocks;
  }
  if (trace_walk_end(walk) && walk != NULL && ids != NULL) return ids;
  free(ids);
  return NULL;
}

/* Zipf with exponent 1 by the inverse of its continuous form; ranks are scattered over the ids. */
static struct trace *zipf(uint32_t blocks, uint64_t accesses) {
  struct trace *trace = trace_create("zipf");
  uint64_t random = 1;
  bool ok = trace != NULL;
  for (uint64_t i = 0; ok && i < accesses; i++) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    const double uniform = (double)(random >> 11) * 0x1p-53;
    const uint64_t rank = (uint64_t)exp(uniform * log(blocks));
    const uint32_t id = (uint32_t)(rank * 2654435761u % blocks);
    const struct trace_request request = {
        .timestamp_ms = i / 1000, .input_tokens = 1, .blocks = 1, .ids = &id};
    ok = trace_append(trace, &request);
  }
  ok = ok && spool_seal(&trace->packed->spool);
  if (!ok) {
    trace_free(trace);
    return NULL;
  }
  trace->unique = blocks;
  trace->block_tokens = 1;
  return trace;
}

/* ---- measuring ---- */

static bool measure_row(const struct trace *trace, const uint32_t *ids, const struct table *table,
                        const char *policy, uint64_t blocks, const struct bench_args *args,
                        struct bench_report *report) {
  double ours[MEASURE_ROUNDS_MAX], limits[MEASURE_ROUNDS_MAX], ratios[MEASURE_ROUNDS_MAX];
  const struct sim_options options = {.policy = policy, .blocks = blocks};
  for (unsigned round = 0; round < args->rounds; round++) {
    struct sim_result result;
    char why[256];
    if (sim_run(trace, &options, &result, why, sizeof why) < 0) {
      bench_fail(report, "%s", why);
      return false;
    }
    ours[round] = (double)result.accesses / result.seconds;
    limits[round] = look_up(table, ids, trace->accesses);
    ratios[round] = ours[round] / limits[round];
  }
  const double per_s = measure_median(ours, args->rounds);
  json_t *row = bench_row(report);
  bench_text(row, "workload", trace->name);
  bench_text(row, "policy", policy);
  bench_count(row, "size_blocks", blocks);
  bench_real(row, "accesses_per_s", per_s);
  bench_real(row, "limit_per_s", measure_median(limits, args->rounds));
  bench_real(row, "ratio", measure_median(ratios, args->rounds));
  if (strcmp(policy, "lru") == 0) {
    char name[128];
    snprintf(name, sizeof name, "lru, %s, %llu blocks, M accesses/s", trace->name,
             (unsigned long long)blocks);
    bench_target_min(report, name, per_s * 1e-6, 5);
  }
  return true;
}

static void measure_workload(const struct trace *trace, const struct bench_args *args,
                             struct bench_report *report) {
  static const unsigned shares[SIZES] = {100, 10};
  struct table table = {.keys = NULL};
  uint32_t *ids = unpack(trace);
  bool ok = ids != NULL && table_init(&table, trace->unique);
  if (!ok) bench_fail(report, "%s: out of memory", trace->name);
  for (unsigned p = 0; ok && p < POLICIES; p++)
    for (unsigned s = 0; ok && s < SIZES; s++)
      ok = measure_row(trace, ids, &table, policies[p], trace->unique / shares[s], args, report);
  free(table.keys);
  free(ids);
}

int bench_sim_run(int argc, char **argv) {
  struct bench_args args;
  char why[256] = "out of memory";
  const int status = bench_parse(argc, argv, usage_text, 0, &args);
  if (status >= 0) return status;
  struct bench_report report = bench_report_begin("sim");
  const struct trace_options options = {.limit = args.quick ? 4000 : 0};
  struct trace *traces[2] = {
      trace_load("gen:conversations?requests=40000&block_tokens=64", &options, why, sizeof why)};
  const uint32_t part = args.quick ? QUICK_SHARE : 1;
  traces[1] = zipf(ZIPF_BLOCKS / part, ZIPF_ACCESSES / part);
  for (size_t i = 0; i < 2; i++) {
    if (traces[i] != NULL)
      measure_workload(traces[i], &args, &report);
    else
      bench_fail(&report, "%s", why);
    trace_free(traces[i]);
  }
  bench_note(
      &report,
      "Processor time of one thread; each simulation beside look-ups of the same blocks in a "
      "table that holds all of them, medians of rounds.");
  return bench_report_end(&report, &args, columns);
}
