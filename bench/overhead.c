/* overhead.c - `kvstow bench overhead`: what tracking, metrics and detection cost on the hottest paths.
 *
 * Two stores in RAM, alike but for kvstow_options.metrics and the tuning's switches, do the same calls in
 * turn, a few dozen at a time, so that whatever else the machine does falls on both: the cost is the median of
 * the ratios of neighbours. The calls are the smallest there are: blocks of 16 tokens and 32 KiB. In larger
 * ones the same cost weighs less.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <kvstow/kvstow.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/frame.h"
#include "bench/measure.h"
#include "cli/models.h"

static const char usage_text[] =
    "Usage: kvstow bench overhead [OPTION]...\n"
    "\n"
    "Times the smallest calls - match, store, read, append - with metrics, tracking and detection\n"
    "on and off, in turn, and prints what being on costs; then what recording costs those that it\n"
    "concerns, into a file under --dir.\n";

static const struct bench_column columns[] = {
    {"path", "<path", -1},    {"on_ns", "on ns", 1}, {"off_ns", "off ns", 1},
    {"overhead", "share", 4}, {NULL, NULL, 0},
};

enum {
  BLOCK_TOKENS = 16,
  CHAIN_BLOCKS = 64,
  LEASED = 32,
  TOKENS = CHAIN_BLOCKS * BLOCK_TOKENS,
  CALLS = 64,  /* of one side, before the other's turn */
  TURNS = 256, /* of each side in a round */
  TURNS_QUICK = 64,
  ROUNDS_MIN = 15,
};

struct side {
  kvstow *store;
  kvstow_space *space;
  const struct model *model;
  kvstow_token tokens[TOKENS]; /* a chain that is held */
  kvstow_token fresh[BLOCK_TOKENS];
  kvstow_lease *lease;
  kvstow_seq *seq;
  size_t appended;
  char *rows; /* one block */
  char *out;
};

/* ---- the calls, each `CALLS` times ---------------------------------------------------------- */

static int match_blocks(struct side *side, size_t blocks) {
  const kvstow_prefix prefix = KVSTOW_PREFIX(side->space, side->tokens, blocks * BLOCK_TOKENS);
  int rc = 0;
  for (int i = 0; rc == 0 && i < CALLS; i++) {
    kvstow_lease *lease;
    rc = kvstow_match(&prefix, 0, &lease, NULL);
    kvstow_lease_release(lease);
  }
  return rc;
}

static int match_one(struct side *side) {
  return match_blocks(side, 1);
}

static int match_chain(struct side *side) {
  return match_blocks(side, CHAIN_BLOCKS);
}

static int store_one(struct side *side) {
  const struct iovec iov = {side->rows, (size_t)BLOCK_TOKENS * model_bytes_per_token(side->model)};
  const kvstow_source source = {&iov, 1};
  const kvstow_prefix prefix = KVSTOW_PREFIX(side->space, side->fresh, BLOCK_TOKENS);
  int rc = 0;
  for (int i = 0; rc == 0 && i < CALLS; i++) {
    side->fresh[0]++;
    rc = kvstow_store(&prefix, 0, 1, &source, 0, NULL);
  }
  return rc;
}

/* One layer of one block: what a decoder with a cold context asks for. */
static int read_layer(struct side *side) {
  const struct iovec iov = {side->out,
                            (size_t)BLOCK_TOKENS * (side->model->k_bytes + side->model->v_bytes)};
  int rc = 0;
  for (int i = 0; rc == 0 && i < CALLS; i++) {
    const kvstow_range range = {.layer_first = (uint32_t)i % side->model->layers,
                                .layer_count = 1,
                                .token_first = (size_t)i % LEASED * BLOCK_TOKENS,
                                .token_count = BLOCK_TOKENS};
    rc = kvstow_read(side->lease, &range, &iov, 1, 0, 0);
  }
  return rc;
}

static int append_token(struct side *side) {
  int rc = 0;
  for (uint32_t i = 0; rc == 0 && i < CALLS / side->model->layers; i++) {
    const kvstow_token token = (kvstow_token)side->appended++;
    rc = kvstow_seq_tokens(side->seq, &token, 1);
    for (uint32_t layer = 0; rc == 0 && layer < side->model->layers; layer++)
      rc = kvstow_seq_append(side->seq, layer, side->rows, side->rows, 1);
  }
  return rc;
}

static const struct {
  const char *name;
  int (*run)(struct side *side);
} paths[] = {{"match, 1 block", match_one},
             {"match, 64 blocks", match_chain},
             {"store of a block", store_one},
             {"read of a layer", read_layer},
             {"append of a row", append_token}};

enum { PATHS = sizeof paths / sizeof *paths, RECORDED_PATHS = 3 /* the first ones */ };

/* ---- sides ---------------------------------------------------------------------------------- */

static int fill_side(struct side *side) {
  const struct iovec iov = {side->rows, (size_t)BLOCK_TOKENS * model_bytes_per_token(side->model)};
  kvstow_source sources[CHAIN_BLOCKS];
  for (size_t i = 0; i < CHAIN_BLOCKS; i++) sources[i] = (kvstow_source){&iov, 1};
  for (kvstow_token i = 0; i < TOKENS; i++) side->tokens[i] = i;
  for (kvstow_token i = 0; i < BLOCK_TOKENS; i++) side->fresh[i] = -i;
  side->fresh[0] = TOKENS; /* and on from there */
  const kvstow_prefix all = KVSTOW_PREFIX(side->space, side->tokens, TOKENS);
  const kvstow_prefix nothing = KVSTOW_PREFIX(side->space, side->tokens, 0);
  kvstow_prefix salted = nothing;
  salted.salt = "grows";
  salted.salt_bytes = strlen("grows");
  int rc = kvstow_store(&all, 0, CHAIN_BLOCKS, sources, 0, NULL);
  const kvstow_prefix half = KVSTOW_PREFIX(side->space, side->tokens, LEASED * BLOCK_TOKENS);
  if (rc == 0) rc = kvstow_match(&half, 0, &side->lease, NULL);
  if (rc == 0) rc = kvstow_seq_open(&salted, &side->seq);
  return rc;
}

/* `trace`: a file to record into, or NULL. */
static bool open_side(struct side *side, bool on, const char *trace, struct bench_report *report) {
  char why[KVSTOW_MESSAGE_BYTES] = "";
  side->model = model_find("tiny");
  side->rows = measure_memory((size_t)BLOCK_TOKENS * model_bytes_per_token(side->model));
  side->out = measure_memory((size_t)BLOCK_TOKENS * model_bytes_per_token(side->model));
  kvstow_options o;
  kvstow_options_init(&o);
  o.ram_bytes = (uint64_t)64 << 20;
  o.hash_seed = 1;
  o.metrics = on;
  o.trace = trace;
  o.tuning.enable_prefetch = on;
  o.tuning.enable_io_scheduling = on;
  int rc = side->rows == NULL || side->out == NULL ? KVSTOW_ENOMEM
                                                   : kvstow_open(&o, &side->store, why, sizeof why);
  kvstow_space_options s;
  kvstow_space_options_init(&s);
  s.fingerprint = s.name = side->model->name;
  s.fingerprint_bytes = strlen(s.name);
  s.layers = side->model->layers;
  s.k_bytes = side->model->k_bytes;
  s.v_bytes = side->model->v_bytes;
  s.block_tokens = BLOCK_TOKENS;
  if (rc == 0) rc = kvstow_space_open(side->store, &s, &side->space);
  if (rc == 0) {
    void *region;
    size_t bytes;
    kvstow_region(side->store, &region, &bytes);
    measure_touch(region, bytes);
    rc = fill_side(side);
  }
  if (rc != 0) bench_fail(report, "opening: %s: %s", kvstow_strerror(rc), why);
  return rc == 0;
}

static void close_side(struct side *side) {
  kvstow_lease_release(side->lease);
  kvstow_seq_close(side->seq);
  (void)kvstow_close(side->store);
  measure_memory_free(side->rows, (size_t)BLOCK_TOKENS * model_bytes_per_token(side->model));
  measure_memory_free(side->out, (size_t)BLOCK_TOKENS * model_bytes_per_token(side->model));
}

/* ---- timing --------------------------------------------------------------------------------- */

/* Of one call: the median of all turns, and of the ratios of turns that followed each other. */
static bool one_round(struct side sides[2], size_t path, size_t turns, double ns[2],
                      double *overhead, struct bench_report *report) {
  double turn_ns[2][TURNS], share[TURNS];
  for (size_t turn = 0; turn < turns; turn++) {
    for (size_t i = 0; i < 2; i++) {
      const size_t side = (turn + i) % 2;
      const uint64_t start = measure_now_ns();
      const int rc = paths[path].run(&sides[side]);
      turn_ns[side][turn] = (double)(measure_now_ns() - start) / CALLS;
      if (rc == 0) continue;
      bench_fail(report, "%s: %s", paths[path].name, kvstow_strerror(rc));
      return false;
    }
    share[turn] = turn_ns[1][turn] / turn_ns[0][turn] - 1;
  }
  for (size_t side = 0; side < 2; side++) ns[side] = measure_median(turn_ns[side], turns);
  *overhead = measure_median(share, turns);
  return true;
}

static bool measure_path(struct side sides[2], size_t path, const char *what,
                         const struct bench_args *args, struct bench_report *report,
                         double *worst) {
  double all[2][MEASURE_ROUNDS_MAX], overhead[MEASURE_ROUNDS_MAX];
  const size_t turns = args->quick ? TURNS_QUICK : TURNS;
  for (unsigned round = 0; round < args->rounds; round++) {
    double ns[2];
    if (!one_round(sides, path, turns, ns, &overhead[round], report)) return false;
    all[0][round] = ns[0];
    all[1][round] = ns[1];
  }
  const double off = measure_median(all[0], args->rounds),
               on = measure_median(all[1], args->rounds);
  const double share = measure_median(overhead, args->rounds);
  json_t *row = bench_row(report);
  char name[96];
  snprintf(name, sizeof name, "%s%s", paths[path].name, what);
  bench_text(row, "path", name);
  bench_real(row, "on_ns", on);
  bench_real(row, "off_ns", off);
  bench_real(row, "overhead", share);
  snprintf(name, sizeof name, "%s%s: cost of being on, share", paths[path].name, what);
  bench_target_max(report, name, share, 0.05);
  if (share > *worst) {
    *worst = share;
    bench_real(report->root, "on_ns", on);
    bench_real(report->root, "off_ns", off);
    bench_real(report->root, "overhead", share);
  }
  return true;
}

int bench_overhead_run(int argc, char **argv) {
  static struct side sides[3]; /* off, on, on and recording */
  struct bench_args args;
  const int status = bench_parse(argc, argv, usage_text, BENCH_DIR, &args);
  if (status >= 0) return status;
  if (args.rounds < ROUNDS_MIN && !args.quick) args.rounds = ROUNDS_MIN;
  struct bench_report report = bench_report_begin("overhead");
  double worst = -1;
  char dir[BENCH_PATH_BYTES], trace[BENCH_PATH_BYTES + 16];
  const bool scratch = bench_scratch_make(args.dir, dir);
  bool ok = scratch;
  if (!ok) bench_fail(&report, "scratch directory: %s", strerror(errno));
  snprintf(trace, sizeof trace, "%s/trace", dir);
  ok = ok && open_side(&sides[0], false, NULL, &report) &&
       open_side(&sides[1], true, NULL, &report) && open_side(&sides[2], true, trace, &report);
  for (size_t path = 0; ok && path < PATHS; path++)
    ok = measure_path(sides, path, "", &args, &report, &worst);
  for (size_t path = 0; ok && path < RECORDED_PATHS; path++)
    ok = measure_path(sides + 1, path, ", recorded", &args, &report, &worst);
  for (size_t side = 0; side < 3; side++)
    if (sides[side].model != NULL) close_side(&sides[side]);
  if (scratch) bench_scratch_remove(dir);
  bench_note(&report,
             "One call, ns: median of turns, median of rounds; share: of neighbours' ratios. on: "
             "metrics, prefetch and "
             "scheduling; off: none of them. --json repeats the worst row on top.");
  return bench_report_end(&report, &args, columns);
}
