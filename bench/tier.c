/* tier.c - `kvstow bench tier`: reading and writing through the tier, beside a bare io_uring loop over the
 * same file.
 *
 * In each cell (an operation, a block size, a depth) the limit and all ways take turns, round after round,
 * each round beginning with another one. A way is an engine with read-ahead and scheduling on or off; from
 * those comes the original's table, everything off against everything on. One of them runs twice: what the two
 * differ by is the machine's. Before the rounds each way runs once
 * with every byte compared; in the rounds, both ends of every block are.
 *
 * Where the rounds can't tell whether a cell has lost what it may not lose (verdict.h), its ways run again when all
 * cells have run, as often once more, and then again.
 *
 * All is direct I/O. Where there is none, pages are dropped before each run, and where that fails the
 * benchmark refuses: what it would show is the page cache.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/tier.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "bench/fio.h"
#include "cli/commands.h"

static const char usage_text[] =
    "Usage: kvstow bench tier [OPTION]...\n"
    "\n"
    "Reads and writes files and records through the SSD tier in blocks of 4 KiB to 2 MiB, one at "
    "a\n"
    "time and 16 in flight, with read-ahead and scheduling on and off, with both engines; beside "
    "a\n"
    "bare io_uring loop and, where installed, fio. --op: write, read, random, fragmented, append "
    "or\n"
    "record_read.\n";

static const struct {
  const char *name;
  tier_run *run;
  tier_limit *limit;
  const char *fio;
} ops[TIER_OPS] = {
    [TIER_WRITE] = {"write", tier_write_run, tier_write_limit, "write"},
    [TIER_READ] = {"read", tier_file_run, tier_file_limit, "read"},
    [TIER_RANDOM] = {"random", tier_file_run, tier_file_limit, "randread"},
    [TIER_FRAGMENTED] = {"fragmented", tier_file_run, tier_file_limit, NULL},
    [TIER_APPEND] = {"append", tier_log_run, tier_log_limit, NULL},
    [TIER_RECORD_READ] = {"record_read", tier_log_run, tier_log_limit, NULL},
};

enum {
  KIB = 1 << 10,
  MIB = 1 << 20,
  DEPTH = 16,
  FILE_BYTES = 256 << 20,
  QUICK_FILE_BYTES = 64 << 20,
  FILE_MIN_BYTES = 16 << 20,
  RUN_MAX_BYTES = 256 << 20,
  QUICK_RUN_MAX_BYTES = 16 << 20,
  CELLS_MAX = TIER_OPS * 12,
  HEARINGS = 2,
};

static const uint32_t block_sizes[] = {4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 2 * MIB};
static const uint32_t quick_block_sizes[] = {4 * KIB, 64 * KIB, MIB};

const kvstow_engine tier_engines[TIER_ENGINES] = {KVSTOW_ENGINE_URING, KVSTOW_ENGINE_THREADS};

int tier_engine_index(kvstow_engine engine) {
  return engine == KVSTOW_ENGINE_THREADS;
}

const char *tier_engine_name(kvstow_engine engine) {
  return engine == KVSTOW_ENGINE_THREADS ? "threads" : "uring";
}

const char *tier_op_name(enum tier_op op) {
  return ops[op].name;
}

/* ---- what the runs share ---------------------------------------------------------------------- */

bool tier_fail(struct tier_bed *bed, const kvstow_tier *tier, const char *what, int rc) {
  char why[KVSTOW_MESSAGE_BYTES] = "";
  kvstow_tier_message(tier, why, sizeof why);
  bench_fail(bed->report, "%s: %s: %s", what, kvstow_strerror(rc), why);
  return false;
}

kvstow_tier *tier_of(const struct tier_bed *bed, const struct tier_way *way) {
  return bed->tier[tier_engine_index(way->engine)];
}

bool tier_tune(struct tier_bed *bed, kvstow_tier *tier, const struct tier_way *way) {
  kvstow_tuning tuning;
  kvstow_tuning_init(&tuning);
  tuning.enable_prefetch = way->prefetch;
  tuning.enable_io_scheduling = way->scheduling;
  const int rc = kvstow_tier_set_tuning(tier, &tuning);
  return rc == 0 || tier_fail(bed, tier, "tuning", rc);
}

bool tier_block_is(const struct tier_bed *bed, const void *block, size_t bytes, uint64_t seed,
                   uint64_t offset) {
  const uint64_t *words = block;
  const size_t count = bytes / sizeof *words;
  if (!bed->every_byte)
    return words[0] == measure_word(seed, offset) &&
           words[count - 1] == measure_word(seed, offset + bytes - sizeof *words);
  for (size_t i = 0; i < count; i++)
    if (words[i] != measure_word(seed, offset + i * sizeof *words)) return false;
  return true;
}

uint64_t tier_content_seed(const struct tier_bed *bed) {
  return bed->generation * 0xd1b54a32d192ed03u;
}

void tier_make_content(struct tier_bed *bed, size_t bytes) {
  bed->generation++;
  (void)measure_fill(bed->memory, bytes, tier_content_seed(bed));
}

bool tier_limit_failed(struct tier_bed *bed, int rc) {
  bench_fail(bed->report, "the limit, a bare io_uring loop: %s", raw_uring_why(rc));
  return false;
}

bool tier_run_raw(struct tier_bed *bed, const struct raw_uring_job *job,
                  struct tier_sample *sample) {
  static struct raw_uring_result result;
  int rc = raw_uring_run(job, &result);
  if (rc != 0) return tier_limit_failed(bed, rc);
  sample->span = result.span;
  sample->bytes = result.bytes;
  sample->latency = result.latency;
  if (!job->write) return true;
  const struct measure_span begun = measure_begin();
  rc = fdatasync(job->extents[0].fd) != 0 ? -errno : 0;
  const struct measure_span sync = measure_end(begun);
  sample->span.seconds += sync.seconds;
  sample->span.cpu_s += sync.cpu_s;
  return rc == 0 || tier_limit_failed(bed, rc);
}

/* ---- cells and ways --------------------------------------------------------------------------- */

static bool of_log(enum tier_op op) {
  return op == TIER_APPEND || op == TIER_RECORD_READ;
}

/* Who takes turns: for file reads all four settings, elsewhere those that could matter. */
static size_t ways_of(const struct tier_bed *bed, enum tier_op op,
                      struct tier_way ways[TIER_WAYS_MAX]) {
  const bool file_read = op == TIER_READ || op == TIER_RANDOM;
  size_t count = 0;
  for (int e = 0; e < TIER_ENGINES; e++) {
    const kvstow_engine engine = tier_engines[e];
    if (bed->tier[e] == NULL) continue;
    if (op != TIER_APPEND) ways[count++] = (struct tier_way){engine, false, false, false};
    ways[count++] = (struct tier_way){engine, true, true, false};
    if (engine != KVSTOW_ENGINE_URING) continue;
    if (op != TIER_APPEND) ways[count++] = (struct tier_way){engine, false, false, true};
    if (!file_read) continue;
    if (!bed->args->quick) ways[count++] = (struct tier_way){engine, true, false, false};
    ways[count++] = (struct tier_way){engine, false, true, false};
  }
  return count;
}

static uint64_t run_max_bytes(const struct bench_args *args) {
  return args->quick ? QUICK_RUN_MAX_BYTES : RUN_MAX_BYTES;
}

/* So many blocks that a run takes about 0.1 s on a common NVMe; one at a time, fewer. */
static size_t count_of(const struct tier_bed *bed, enum tier_op op, uint32_t block_bytes,
                       unsigned depth) {
  const uint64_t most = run_max_bytes(bed->args);
  const uint64_t run_max = bed->file_bytes < most ? bed->file_bytes : most;
  uint64_t count = depth == 1 ? 2048 : 8192;
  if (depth == 1 && block_bytes > 16 * KIB) count = 1024;
  if (bed->args->quick) count /= 8;
  if (op == TIER_WRITE || of_log(op)) count = UINT64_MAX;
  const uint64_t fit = run_max / block_bytes;
  if (count > fit) count = fit;
  return op == TIER_FRAGMENTED ? count / TIER_FRAGMENTS * TIER_FRAGMENTS : count;
}

/* ---- running a cell --------------------------------------------------------------------------- */

static bool run_one(struct tier_contest *c, size_t who, struct tier_sample *sample) {
  memset(sample, 0, sizeof *sample);
  if (who >= c->ways_count)
    return ops[c->cell.op].limit(c->bed, &c->cell, who > c->ways_count, sample);
  return ops[c->cell.op].run(c->bed, &c->cell, &c->ways[who], sample);
}

static bool record(struct tier_contest *c, size_t who) {
  static struct tier_sample sample;
  struct tier_series *s = &c->series[who];
  if (!run_one(c, who, &sample)) return false;
  s->seconds[s->rounds] = sample.span.seconds;
  s->cpu_s[s->rounds++] = sample.span.cpu_s;
  s->bytes = sample.bytes;
  s->device_reads += sample.device_reads;
  s->prefetch.issued += sample.prefetch.issued;
  s->prefetch.used += sample.prefetch.used;
  s->prefetch.wasted += sample.prefetch.wasted;
  measure_latency_merge(&s->latency, &sample.latency);
  return true;
}

static void run_fio(struct tier_contest *c) {
  const struct tier_bed *bed = c->bed;
  const struct tier_cell *cell = &c->cell;
  char written[BENCH_PATH_BYTES + 16];
  if (ops[cell->op].fio == NULL || c->fio_count == TIER_FIO_ROUNDS) return;
  snprintf(written, sizeof written, "%s/fio", bed->dir);
  const bool write = cell->op == TIER_WRITE;
  const double rate = fio_bytes_s(write ? written : bed->path, ops[cell->op].fio, bed->file_bytes,
                                  (uint64_t)cell->count * cell->block_bytes, cell->block_bytes,
                                  write ? DEPTH : cell->depth, bed->direct);
  if (write) (void)unlink(written);
  if (rate > 0) c->fio[c->fio_count++] = rate;
}

/* One of the first `who`: the ways, or the limits, too. */
static bool run_round(struct tier_contest *c, size_t who) {
  const unsigned r = c->series[0].rounds;
  if (!of_log(c->cell.op)) tier_file_plan(c->bed, &c->cell, r);
  for (size_t i = 0; i < who; i++) /* forwards, then backwards: nobody always follows the same */
    if (!record(c, (r % 2 == 0 ? i + r : who - 1 - i + r) % who)) return false;
  return true;
}

static bool run_rounds(struct tier_contest *c) {
  static struct tier_sample sample;
  const size_t who = c->ways_count + TIER_LIMITS;
  c->bed->every_byte = true;
  for (size_t i = 0; i < who; i++) {
    if (!of_log(c->cell.op)) tier_file_plan(c->bed, &c->cell, UINT16_MAX);
    if (!run_one(c, i, &sample)) return false;
  }
  c->bed->every_byte = false;
  for (unsigned r = 0; r < c->bed->args->rounds; r++) {
    if (!run_round(c, who)) return false;
    if (c->bed->fio) run_fio(c);
  }
  return true;
}

/* As many as there have been. */
static bool hear_again(struct tier_contest *c) {
  for (unsigned left = c->series[0].rounds; left > 0; left--)
    if (c->series[0].rounds < MEASURE_ROUNDS_MAX && !run_round(c, c->ways_count)) return false;
  return true;
}

/* ---- the whole -------------------------------------------------------------------------------- */

struct cells {
  struct tier_contest *all[CELLS_MAX];
  size_t count;
};

static bool measure_cell(struct tier_bed *bed, enum tier_op op, uint32_t block_bytes,
                         unsigned depth, struct cells *cells) {
  const struct bench_args *args = bed->args;
  const struct tier_cell cell = {op, block_bytes, depth, count_of(bed, op, block_bytes, depth)};
  if ((args->depth != 0 && args->depth != depth) || cell.count == 0) return true;
  struct tier_contest *c = calloc(1, sizeof *c);
  if (c == NULL) abort();
  c->bed = bed;
  c->cell = cell;
  c->ways_count = ways_of(bed, op, c->ways);
  cells->all[cells->count++] = c;
  return run_rounds(c);
}

static const uint32_t *blocks_of(const struct bench_args *args, size_t *count) {
  *count = args->quick ? sizeof quick_block_sizes / sizeof *quick_block_sizes
                       : sizeof block_sizes / sizeof *block_sizes;
  return args->quick ? quick_block_sizes : block_sizes;
}

static bool measure_op(struct tier_bed *bed, enum tier_op op, struct cells *cells) {
  const struct bench_args *args = bed->args;
  size_t count;
  const uint32_t *blocks = blocks_of(args, &count);
  bool ok = true;
  for (size_t i = 0; i < count && ok; i++) {
    if (args->block_bytes != 0 && args->block_bytes != blocks[i]) continue;
    if (of_log(op) && blocks[i] < TIER_RECORD_LEAST_BYTES) continue;
    if (op == TIER_FRAGMENTED && blocks[i] > 64 * KIB) continue;
    if (op == TIER_READ || op == TIER_RANDOM || op == TIER_WRITE)
      ok = measure_cell(bed, op, blocks[i], 1, cells);
    if (ok && op == TIER_APPEND) ok = measure_cell(bed, op, blocks[i], TIER_APPEND_BATCHES, cells);
    if (ok && op == TIER_FRAGMENTED) ok = measure_cell(bed, op, blocks[i], TIER_FRAGMENTS, cells);
    if (ok && (op == TIER_READ || op == TIER_RANDOM || op == TIER_RECORD_READ))
      ok = measure_cell(bed, op, blocks[i], DEPTH, cells);
  }
  return ok;
}

static double memcpy_mb_s(struct tier_bed *bed) {
  double rate[5];
  const size_t half = bed->memory_bytes / 2;
  for (size_t i = 0; i < 5; i++) {
    const struct measure_span begun = measure_begin();
    memcpy(bed->memory, bed->memory + half, half);
    rate[i] = (double)half / 1e6 / measure_end(begun).seconds;
  }
  return measure_median(rate, 5);
}

static bool open_tiers(struct tier_bed *bed) {
  for (int e = 0; e < TIER_ENGINES; e++) {
    if (bed->args->engine != KVSTOW_ENGINE_AUTO && bed->args->engine != tier_engines[e]) continue;
    char why[KVSTOW_MESSAGE_BYTES] = "";
    kvstow_tier_options o;
    kvstow_tier_options_init(&o);
    o.engine = tier_engines[e];
    const int rc = kvstow_tier_open(&o, &bed->tier[e], why, sizeof why);
    if (rc == 0) continue;
    if (rc == KVSTOW_EUNSUPPORTED && bed->args->engine == KVSTOW_ENGINE_AUTO) {
      bench_note(bed->report, "Skipped: %s: %s.", tier_engine_name(o.engine), why);
      continue;
    }
    bench_fail(bed->report, "%s: %s: %s", tier_engine_name(o.engine), kvstow_strerror(rc), why);
    return false;
  }
  return true;
}

static bool bed_begin(struct tier_bed *bed) {
  const struct bench_args *args = bed->args;
  const uint64_t run_max = run_max_bytes(args);
  bed->file_bytes = args->size != 0 ? args->size : args->quick ? QUICK_FILE_BYTES : FILE_BYTES;
  bed->file_bytes = bed->file_bytes / (2 * MIB) * (2 * MIB);
  bed->memory_bytes = (size_t)(run_max + run_max / 8 + DEPTH * 2 * MIB);
  bed->memory = measure_memory(bed->memory_bytes);
  bed->offsets = calloc((size_t)(run_max / (4 * KIB)), sizeof *bed->offsets);
  if (bed->memory == NULL || bed->offsets == NULL || !bench_scratch_make(args->dir, bed->dir)) {
    bench_fail(bed->report, "memory and a scratch directory: %s", strerror(errno));
    return false;
  }
  const int rc = tier_file_make(bed);
  if (rc != 0) bench_fail(bed->report, "%s: %s", bed->path, strerror(-rc));
  bed->memcpy_mb_s = memcpy_mb_s(bed);
  bed->fio = !args->quick && fio_installed();
  return rc == 0 && open_tiers(bed);
}

static void bed_end(struct tier_bed *bed) {
  tier_log_close(bed);
  for (int e = 0; e < TIER_ENGINES; e++) (void)kvstow_tier_close(bed->tier[e]);
  if (bed->fd >= 0) close(bed->fd);
  if (bed->dir[0] != '\0') bench_scratch_remove(bed->dir);
  measure_memory_free(bed->memory, bed->memory_bytes);
  free(bed->offsets);
}

static bool hear_open_cells(const struct cells *cells) {
  const bool random = tier_report_random_open(cells->all, cells->count);
  for (size_t i = 0; i < cells->count; i++) {
    struct tier_contest *c = cells->all[i];
    const bool open = tier_report_open(c) || (random && c->cell.op == TIER_RANDOM);
    if (open && !hear_again(c)) return false;
  }
  return true;
}

static void measure(struct tier_bed *bed) {
  struct cells cells = {.count = 0};
  bool ok = true;
  for (enum tier_op op = 0; op < TIER_OPS && ok; op++) {
    if (!bench_picks(bed->args->op, ops[op].name)) continue;
    if (of_log(op) && bed->log_limit_fd < 0) ok = tier_log_open(bed, run_max_bytes(bed->args));
    ok = ok && measure_op(bed, op, &cells);
  }
  const bool judged = bed->args->rounds >= BENCH_ROUNDS_JUDGED;
  for (int i = 0; i < HEARINGS && ok && judged; i++) ok = hear_open_cells(&cells);
  if (ok) tier_report(bed, cells.all, cells.count);
  for (size_t i = 0; i < cells.count; i++) free(cells.all[i]);
}

static int known(const char *command, const struct bench_args *args) {
  static const uint64_t depths[] = {1, TIER_APPEND_BATCHES, DEPTH, TIER_FRAGMENTS, 0};
  const char *names[TIER_OPS + 1] = {NULL};
  uint64_t sizes[sizeof block_sizes / sizeof *block_sizes + 1] = {0};
  size_t count;
  const uint32_t *blocks = blocks_of(args, &count);
  for (size_t i = 0; i < count; i++) sizes[i] = blocks[i];
  for (int op = 0; op < TIER_OPS; op++) names[op] = ops[op].name;
  int status = bench_known(command, "op", args->op, names);
  if (status < 0) status = bench_known_number(command, "block", args->block_bytes, sizes);
  if (status < 0) status = bench_known_number(command, "depth", args->depth, depths);
  return status;
}

int bench_tier_run(int argc, char **argv) {
  struct bench_args args;
  int status = bench_parse(
      argc, argv, usage_text,
      BENCH_DIR | BENCH_SIZE | BENCH_ENGINE | BENCH_CSV | BENCH_OP | BENCH_BLOCK | BENCH_DEPTH,
      &args);
  if (status < 0) status = known(argv[0], &args);
  if (status >= 0) return status;
  if (args.size != 0 && args.size < FILE_MIN_BYTES) {
    fprintf(stderr, "%s: --size: at least 16 MiB\n", argv[0]);
    return EXIT_USAGE;
  }
  struct bench_report report = bench_report_begin("tier");
  struct tier_bed bed = {.args = &args, .report = &report, .fd = -1, .log_limit_fd = -1};
  json_object_set_new(report.root, "changes", json_array());
  if (bed_begin(&bed)) {
    bench_text(report.root, "engine",
               bed.tier[0] != NULL && bed.tier[1] != NULL
                   ? "uring, threads"
                   : tier_engine_name(tier_engines[bed.tier[0] == NULL]));
    json_object_set_new(report.root, "direct_io", json_boolean(bed.direct));
    bench_real(report.root, "memcpy_mb_s", bed.memcpy_mb_s);
    measure(&bed);
  }
  bed_end(&bed);
  return tier_report_end(&bed);
}
