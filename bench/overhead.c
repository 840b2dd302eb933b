/* overhead.c - `kvstow bench overhead`: what tracking, metrics and detection cost on the hottest paths.
 *
 * Three stores in RAM do the same calls in turn, a few dozen at a time: one with kvstow_options.metrics and
 * the tuning's switches off, one with them on, one that also records (kvstow_options.trace). They have the same past,
 * and whatever else the machine does falls on all: a cost is the median of the ratios of neighbours.
 * The calls are the smallest there are: blocks of 16 tokens and 32 KiB. In larger ones the same cost weighs
 * less. Reads of a file pass the detection of streams, through a tier of each side's own: single pages at random,
 * which it must see through and leave alone. From disk, as they are, and from memory, where the processor's time is
 * all there is: nothing reads so, and that row is no promise.
 *
 * Off leaves on what the engine itself runs by: eviction's order of blocks, counters of bytes, blocks and requests,
 * the plan of layers to come (it reads nothing ahead).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <kvstow/kvstow.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench/bench.h"
#include "bench/frame.h"
#include "bench/measure.h"
#include "bench/raw_uring.h"
#include "bench/scratch.h"
#include "cli/models.h"

static const char usage_text[] =
    "Usage: kvstow bench overhead [OPTION]...\n"
    "\n"
    "Times the smallest calls - match, store, read, append - with metrics, tracking and detection\n"
    "on and off, and with recording as well, into a file under --dir, in turn, and prints what\n"
    "being on costs, and what recording adds to that.\n";

static const struct bench_column columns[] = {
    {"path", "<path", -1},
    {"off_ns", "off ns", 1},
    {"on_ns", "on ns", 1},
    {"overhead", "share", 4},
    {"recording_ns", "recording ns", 1},
    {"recording", "share", 4},
    {NULL, NULL, 0},
};

enum {
  BLOCK_TOKENS = 16,
  CHAIN_BLOCKS = 64,
  TOKENS = CHAIN_BLOCKS * BLOCK_TOKENS,
  CALLS = 64, /* of one side, before the other's turn */
  DISK_CALLS = 4,
  FILE_PAGES = 1 << 15, /* 128 MiB, more than read-ahead holds */
  TURNS = 256,          /* of each side in a round */
  TURNS_QUICK = 64,
  ROUNDS_MIN = 15,
};

enum kind { OFF, ON, RECORDING, SIDES };
enum place { ON_DISK, IN_MEMORY, PLACES };

struct side {
  kvstow *store;
  kvstow_space *space;
  const struct model *model;
  kvstow_token tokens[TOKENS]; /* a chain that is held */
  kvstow_token fresh[BLOCK_TOKENS];
  kvstow_lease *lease;
  kvstow_seq *seq;
  size_t appended;
  kvstow_tier *tier;
  kvstow_file *files[PLACES];
  uint64_t random;
  char *rows; /* one block */
  char *out;
};

/* ---- the calls, each `CALLS` times ---------------------------------------------------------- */

static int match_blocks(struct side *side, size_t blocks) {
  const kvstow_prefix prefix = KVSTOW_PREFIX(side->space, side->tokens, blocks * BLOCK_TOKENS);
  int rc = 0;
  for (int i = 0; rc == 0 && i < CALLS; i++) {
    kvstow_lease *lease;
    kvstow_held held;
    rc = kvstow_match(&prefix, 0, &lease, &held);
    if (held.blocks != blocks) rc = KVSTOW_EMISS;
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
                                .token_first = (size_t)i % CHAIN_BLOCKS * BLOCK_TOKENS,
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

static int read_pages(struct side *side, enum place place, int pages) {
  int rc = 0;
  for (int i = 0; rc == 0 && i < pages; i++) {
    side->random = side->random * 6364136223846793005u + 1442695040888963407u;
    rc = kvstow_file_read_at(side->files[place],
                             (side->random >> 32) % FILE_PAGES * KVSTOW_PAGE_BYTES, side->out,
                             KVSTOW_PAGE_BYTES);
  }
  return rc;
}

static int read_disk(struct side *side) {
  return read_pages(side, ON_DISK, DISK_CALLS);
}

static int read_memory(struct side *side) {
  return read_pages(side, IN_MEMORY, CALLS);
}

static const struct {
  const char *name;
  int (*run)(struct side *side);
  int calls;
  bool recorded; /* by a trace */
  bool promised;
} paths[] = {
    {"match, 1 block", match_one, CALLS, true, true},
    {"match, 64 blocks", match_chain, CALLS, true, true},
    {"store of a block", store_one, CALLS, true, true},
    {"read of a layer", read_layer, CALLS, true, true},
    {"append of a row", append_token, CALLS, true, true},
    {"file read of 4 KiB, random", read_disk, DISK_CALLS, false, true},
    {"the same, file in memory", read_memory, CALLS, false, false},
};

enum { PATHS = sizeof paths / sizeof *paths };

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
  if (rc == 0) rc = kvstow_match(&all, 0, &side->lease, NULL); /* so that it stays */
  if (rc == 0) rc = kvstow_seq_open(&salted, &side->seq);
  return rc;
}

static bool open_side(struct side *side, enum kind kind, const char *trace,
                      struct bench_report *report) {
  char why[KVSTOW_MESSAGE_BYTES] = "";
  side->model = model_find("tiny");
  side->rows = measure_memory((size_t)BLOCK_TOKENS * model_bytes_per_token(side->model));
  side->out = measure_memory((size_t)BLOCK_TOKENS * model_bytes_per_token(side->model));
  kvstow_options o;
  kvstow_options_init(&o);
  o.ram_bytes = (uint64_t)64 << 20;
  o.hash_seed = 1;
  o.metrics = kind != OFF;
  o.tuning.enable_prefetch = kind != OFF;
  o.tuning.enable_io_scheduling = kind != OFF;
  o.trace = kind == RECORDING ? trace : NULL;
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

static int open_files(struct side *side, enum kind kind, const char *const names[PLACES],
                      char why[KVSTOW_MESSAGE_BYTES]) {
  kvstow_tier_options o;
  kvstow_tier_options_init(&o);
  o.tuning.enable_prefetch = kind != OFF;
  o.tuning.enable_io_scheduling = kind != OFF;
  int rc = kvstow_tier_open(&o, &side->tier, why, KVSTOW_MESSAGE_BYTES);
  for (int place = 0; rc == 0 && place < PLACES; place++)
    rc = kvstow_file_open(side->tier, names[place], &side->files[place]);
  return rc;
}

/* The same two files for all sides. False: the report says why. */
static bool make_files(struct side sides[SIDES], const char *dir, int fds[PLACES],
                       struct bench_report *report) {
  char disk[BENCH_PATH_BYTES + 16], memory[64], why[KVSTOW_MESSAGE_BYTES] = "";
  const char *const names[PLACES] = {disk, memory};
  const uint64_t bytes = (uint64_t)FILE_PAGES * KVSTOW_PAGE_BYTES;
  snprintf(disk, sizeof disk, "%s/file", dir);
  fds[ON_DISK] = raw_uring_create(disk, bytes);
  if (fds[ON_DISK] < 0) {
    bench_fail(report, "a file with direct I/O: %s", raw_uring_why(fds[ON_DISK]));
    return false;
  }
  fds[IN_MEMORY] = memfd_create("kvstow bench overhead", MFD_CLOEXEC);
  if (fds[IN_MEMORY] < 0 || ftruncate(fds[IN_MEMORY], (off_t)bytes) != 0) { /* a hole */
    bench_fail(report, "a file in memory: %s", strerror(errno));
    return false;
  }
  snprintf(memory, sizeof memory, "/proc/self/fd/%d", fds[IN_MEMORY]);
  for (size_t side = 0; side < SIDES; side++) {
    const int rc = open_files(&sides[side], (enum kind)side, names, why);
    if (rc == 0) continue;
    bench_fail(report, "opening files: %s: %s", kvstow_strerror(rc), why);
    return false;
  }
  return true;
}

static void close_side(struct side *side) {
  for (int place = 0; place < PLACES; place++) (void)kvstow_file_close(side->files[place]);
  (void)kvstow_tier_close(side->tier);
  kvstow_lease_release(side->lease);
  kvstow_seq_close(side->seq);
  (void)kvstow_close(side->store);
  measure_memory_free(side->rows, (size_t)BLOCK_TOKENS * model_bytes_per_token(side->model));
  measure_memory_free(side->out, (size_t)BLOCK_TOKENS * model_bytes_per_token(side->model));
}

/* ---- timing --------------------------------------------------------------------------------- */

struct costs {
  double ns[SIDES];
  double overhead, recording; /* shares */
};

/* Of one call: the medians of all turns, and of the ratios of turns that followed each other. */
static bool one_round(struct side sides[SIDES], size_t path, size_t turns, struct costs *costs,
                      struct bench_report *report) {
  double turn_ns[SIDES][TURNS], overhead[TURNS], recording[TURNS];
  for (size_t turn = 0; turn < turns; turn++) {
    for (size_t i = 0; i < SIDES; i++) {
      const size_t side = (turn + i) % SIDES;
      const uint64_t start = measure_now_ns();
      const int rc = paths[path].run(&sides[side]);
      turn_ns[side][turn] = (double)(measure_now_ns() - start) / paths[path].calls;
      if (rc == 0) continue;
      bench_fail(report, "%s: %s", paths[path].name, kvstow_strerror(rc));
      return false;
    }
    overhead[turn] = turn_ns[ON][turn] / turn_ns[OFF][turn] - 1;
    recording[turn] = turn_ns[RECORDING][turn] / turn_ns[ON][turn] - 1;
  }
  for (size_t side = 0; side < SIDES; side++)
    costs->ns[side] = measure_median(turn_ns[side], turns);
  costs->overhead = measure_median(overhead, turns);
  costs->recording = measure_median(recording, turns);
  return true;
}

static void write_costs(json_t *row, const struct costs *costs) {
  bench_real(row, "off_ns", costs->ns[OFF]);
  bench_real(row, "on_ns", costs->ns[ON]);
  bench_real(row, "overhead", costs->overhead);
}

static bool measure_path(struct side sides[SIDES], size_t path, const struct bench_args *args,
                         struct bench_report *report, double *worst) {
  double ns[SIDES][MEASURE_ROUNDS_MAX], overhead[MEASURE_ROUNDS_MAX], recording[MEASURE_ROUNDS_MAX];
  const size_t turns = args->quick ? TURNS_QUICK : TURNS;
  struct costs costs;
  for (unsigned round = 0; round < args->rounds; round++) {
    if (!one_round(sides, path, turns, &costs, report)) return false;
    for (size_t side = 0; side < SIDES; side++) ns[side][round] = costs.ns[side];
    overhead[round] = costs.overhead;
    recording[round] = costs.recording;
  }
  for (size_t side = 0; side < SIDES; side++)
    costs.ns[side] = measure_median(ns[side], args->rounds);
  costs.overhead = measure_median(overhead, args->rounds);
  costs.recording = measure_median(recording, args->rounds);
  json_t *row = bench_row(report);
  char name[96];
  bench_text(row, "path", paths[path].name);
  write_costs(row, &costs);
  if (!paths[path].promised) return true;
  snprintf(name, sizeof name, "%s: cost of being on, share", paths[path].name);
  bench_target_max(report, name, costs.overhead, 0.05);
  if (paths[path].recorded) {
    bench_real(row, "recording_ns", costs.ns[RECORDING]);
    bench_real(row, "recording", costs.recording);
    snprintf(name, sizeof name, "%s: cost of recording, share", paths[path].name);
    bench_target_max(report, name, costs.recording, 0.05);
  }
  if (costs.overhead > *worst) {
    *worst = costs.overhead;
    write_costs(report->root, &costs);
  }
  return true;
}

int bench_overhead_run(int argc, char **argv) {
  static struct side sides[SIDES];
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
  for (size_t side = 0; ok && side < SIDES; side++)
    ok = open_side(&sides[side], (enum kind)side, trace, &report);
  int fds[PLACES] = {-1, -1};
  ok = ok && make_files(sides, dir, fds, &report);
  for (size_t path = 0; ok && path < PATHS; path++)
    ok = measure_path(sides, path, &args, &report, &worst);
  for (size_t side = 0; side < SIDES; side++)
    if (sides[side].model != NULL) close_side(&sides[side]);
  for (int place = 0; place < PLACES; place++)
    if (fds[place] >= 0) close(fds[place]);
  if (scratch) bench_scratch_remove(dir);
  bench_note(&report,
             "One call, ns: median of turns, median of rounds; share: of neighbours' ratios. on: "
             "metrics, prefetch and scheduling; off: none of them, only what the engine runs by "
             "(eviction's order, counters of bytes and requests); recording: on, and a trace. "
             "--json repeats the row where being on costs most on top.");
  return bench_report_end(&report, &args, columns);
}
