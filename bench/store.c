/* store.c - `kvstow bench store`: how fast KV is taken in, beside memcpy of the same bytes.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/store.h"

#include <stdio.h>
#include <string.h>

#include "bench/bench.h"
#include "cli/commands.h"

static const char usage_text[] =
    "Usage: kvstow bench store [OPTION]...\n"
    "\n"
    "The store rate of four KV layouts, one token at a time and in batches, beside plain memcpy "
    "of\n"
    "the same bytes in the same rounds. Paths: copy (kvstow_seq_append, kvstow_store), reserve\n"
    "(kvstow_reserve and kvstow_commit, without the filling), sustained (to SSD, with eviction, "
    "by\n"
    "one thread).\n"
    "Memory is touched before it is timed; what was stored is read back and compared.\n";

static const struct bench_column columns[] = {
    {"shape", "<shape", -1},       {"path", "<path", -1},
    {"call", "<call", -1},         {"threads", "threads", 0},
    {"batch_tokens", "batch", 0},  {"tok_s", "tok/s", 0},
    {"mb_s", "MB/s", 0},           {"limit_mb_s", "limit", 0},
    {"ratio", "ratio", 2},         {"pieces_ratio", "of rows", 2},
    {"cpu_ratio", "CPU ratio", 2}, {"cpu_s_per_gib", "CPU s/GiB", 3},
    {"p50_us", "p50 us", 2},       {"p99_us", "p99 us", 2},
    {"waits", "waits", 0},         {NULL, NULL, 0},
};

static const char *const shapes[] = {"original", "llama-3-8b", "llama-3-70b", "deepseek-v3", NULL};
static const char *const paths[] = {"copy", "reserve", "sustained", NULL};
static const struct way *const ways[] = {&way_append, &way_store, &way_reserve};
static const uint64_t thread_counts[] = {1, 2, 8, 0};
static const size_t batch_sizes[] = {1, 32, 256};

enum {
  TOKENS_LEAST = 256, /* of a sequence */
  FULL_BYTES = 256 << 20,
  QUICK_BYTES = 64 << 20, /* of a round, about */
  CALL_ROUND_BATCHES = 64,
};

struct figures {
  double run_s[MEASURE_ROUNDS_MAX], limit_s[MEASURE_ROUNDS_MAX], ratio[MEASURE_ROUNDS_MAX],
      pieces_ratio[MEASURE_ROUNDS_MAX], cpu_ratio[MEASURE_ROUNDS_MAX], run_cpu[MEASURE_ROUNDS_MAX],
      limit_cpu[MEASURE_ROUNDS_MAX];
};

/* What memcpy takes for the same bytes. Calls that move none are so many in a round that a part of their bytes must
 * stand for all. */
static struct measure_span memcpy_of(struct work *work) {
  if (work->way->bytes_move) return work_memcpy(work);
  struct work part = *work;
  part.batches = QUICK_BYTES / (work_bytes(work) / work->batches) + 1;
  if (part.batches > work->batches) part.batches = work->batches;
  struct measure_span span = work_memcpy(&part);
  const double parts = (double)work->batches / (double)part.batches;
  span.seconds *= parts;
  span.cpu_s *= parts;
  return span;
}

static void one_round(struct work *work, unsigned round, struct figures *f,
                      struct bench_report *report) {
  struct measure_span run = {0}, limit = {0}, pieces = {0};
  if (round % 2 == 0) run = work_run(work, report);
  limit = memcpy_of(work);
  if (work->way->bytes_move) pieces = work_memcpy_pieces(work);
  if (round % 2 == 1) run = work_run(work, report);
  f->run_s[round] = run.seconds;
  f->run_cpu[round] = run.cpu_s;
  f->limit_s[round] = limit.seconds;
  f->limit_cpu[round] = limit.cpu_s;
  f->ratio[round] = limit.seconds / run.seconds;
  f->cpu_ratio[round] = limit.cpu_s / run.cpu_s;
  f->pieces_ratio[round] = pieces.seconds / run.seconds;
}

static json_t *write_row(struct work *work, struct figures *f, unsigned rounds,
                         const struct measure_latency *latency, struct bench_report *report) {
  const double bytes = (double)work_bytes(work), run_s = measure_median(f->run_s, rounds);
  json_t *row = bench_row(report);
  bench_text(row, "shape", work->bed->model->name);
  bench_count(row, "bytes_per_token", work->bed->token_bytes);
  bench_count(row, "block_tokens", work->bed->block_tokens);
  bench_text(row, "path", work->way->path);
  bench_text(row, "call", work->way->call);
  bench_count(row, "threads", work->threads);
  bench_count(row, "batch_tokens", work->batch_tokens);
  bench_real(row, "tok_s", bytes / (double)work->bed->token_bytes / run_s);
  bench_real(row, "mb_s", bytes / 1e6 / run_s);
  bench_real(row, "limit_mb_s", bytes / 1e6 / measure_median(f->limit_s, rounds));
  bench_real(row, "ratio", measure_median(f->ratio, rounds));
  if (work->way->bytes_move) {
    bench_real(row, "pieces_ratio", measure_median(f->pieces_ratio, rounds));
    bench_real(row, "cpu_ratio", measure_median(f->cpu_ratio, rounds));
    const double gib = bytes / (double)(1 << 30);
    bench_real(row, "cpu_s_per_gib", measure_median(f->run_cpu, rounds) / gib);
    bench_real(row, "limit_cpu_s_per_gib", measure_median(f->limit_cpu, rounds) / gib);
  }
  work_write_latency(row, latency);
  return row;
}

static double number(const json_t *row, const char *key) {
  return json_number_value(json_object_get(row, key));
}

static void row_targets(const struct work *work, const json_t *row, struct bench_report *report) {
  char name[96];
  if (work->threads != 1) return;
  const char *shape = work->bed->model->name;
  const struct way *way = work->way;
  const double tok_s = number(row, "tok_s");
  if (way == &way_reserve) {
    snprintf(name, sizeof name, "%s: reserve and commit, tok/s", shape);
    bench_target_min(report, name, tok_s, 1e6);
    return;
  }
  if (work->batch_tokens == 256 || work->batch_tokens == 1) {
    snprintf(name, sizeof name, "%s: %s, %zu token%s a call, share of memcpy", shape, way->call,
             work->batch_tokens, work->batch_tokens > 1 ? "s" : "");
    bench_target_min(report, name, number(row, "ratio"), work->batch_tokens == 1 ? 0.70 : 0.90);
  }
  if (work->batch_tokens != 256) return;
  const bool memcpy_could =
      number(row, "limit_mb_s") * 1e6 >= 50e3 * (double)work->bed->token_bytes;
  const bool original = strcmp(shape, "original") == 0;
  if (!memcpy_could && !original) return;
  snprintf(name, sizeof name, "%s: %s, 256 tokens a call, tok/s", shape, way->call);
  bench_target_min(report, name, tok_s, original && !memcpy_could ? 5046 : 50e3);
}

/* Latency is measured apart: reading the clock costs a good part of a short call. */
static void measure_calls(struct work *work, struct measure_latency *latency,
                          struct bench_report *report) {
  work->timed = true;
  (void)work_run(work, report);
  work->timed = false;
  work_latency(work, latency);
}

static void measure_work(struct work *work, const struct bench_args *args,
                         struct bench_report *report, uint64_t *verified) {
  static struct measure_latency latency;
  struct figures f;
  if (!work_init(work)) {
    bench_fail(report, "out of memory");
    work_free(work);
    return;
  }
  (void)work_run(work, report); /* fills RAM: from here on frames come from eviction */
  if (report->failed) {
    work_free(work);
    return;
  }
  for (unsigned round = 0; round < args->rounds; round++) one_round(work, round, &f, report);
  if (work->way->bytes_move && !report->failed) *verified += work_verify(work, report);
  measure_calls(work, &latency, report);
  row_targets(work, write_row(work, &f, args->rounds, &latency, report), report);
  work_free(work);
}

static void measure_way(struct bed *bed, const struct way *way, unsigned threads,
                        const struct bench_args *args, struct bench_report *report,
                        uint64_t *verified) {
  const size_t wanted = args->size != 0 ? args->size : args->quick ? QUICK_BYTES : FULL_BYTES;
  for (size_t i = 0; i < sizeof batch_sizes / sizeof *batch_sizes && !report->failed; i++) {
    const size_t batch = batch_sizes[i];
    if (way->whole_blocks && batch % bed->block_tokens != 0) continue;
    size_t tokens = wanted / bed->token_bytes / threads / TOKENS_LEAST * TOKENS_LEAST;
    if (tokens < TOKENS_LEAST) tokens = TOKENS_LEAST;
    struct work work = {.bed = bed,
                        .way = way,
                        .threads = threads,
                        .batch_tokens = batch,
                        .batches = tokens / batch};
    if (way == &way_reserve) work.batches = CALL_ROUND_BATCHES;
    measure_work(&work, args, report, verified);
  }
}

/* Open blocks of every thread must fit, and a round not all of RAM. */
static uint64_t ram_bytes(const struct model *model, const struct bench_args *args) {
  const uint64_t widest = args->threads != 0 ? args->threads : args->quick ? 2 : 8;
  const uint64_t open = widest * TOKENS_LEAST * model_bytes_per_token(model);
  const uint64_t least = (uint64_t)(args->quick ? 256 : 1024) << 20;
  return open * 5 / 4 > least ? open * 5 / 4 : least;
}

/* Under lru what was stored last is still there to be compared, which the default policy does not promise. What moves
 * no bytes has nothing to compare, and is called often enough for the policy's cost to show: that is the default's. */
static void measure_shape(const struct model *model, const struct way *way,
                          const struct bench_args *args, struct bench_report *report,
                          uint64_t *verified) {
  const size_t batch_bytes = TOKENS_LEAST * model_bytes_per_token(model);
  kvstow_options o;
  kvstow_options_init(&o);
  o.ram_bytes = ram_bytes(model, args);
  o.hash_seed = 1;
  if (way->bytes_move) o.ram_policy = "lru";
  struct bed bed;
  const size_t least = args->quick ? 64u << 20 : 256u << 20;
  if (!bed_open(&bed, model, &o, (least + batch_bytes - 1) / batch_bytes * batch_bytes, report)) {
    bed_close(&bed, report);
    return;
  }
  bed.target_bytes = o.ram_bytes;
  bed.target = measure_memory(bed.target_bytes);
  if (bed.target == NULL) bench_fail(report, "no memory for memcpy's destination");
  for (size_t t = 0; thread_counts[t] != 0; t++) {
    const unsigned threads = (unsigned)thread_counts[t];
    if (args->threads != 0 ? threads != args->threads : args->quick && threads > 2) continue;
    if (!report->failed) measure_way(&bed, way, threads, args, report, verified);
  }
  bed_close(&bed, report);
}

int bench_store_run(int argc, char **argv) {
  struct bench_args args;
  int status = bench_parse(argc, argv, usage_text,
                           BENCH_DIR | BENCH_ENGINE | BENCH_SIZE | BENCH_SHAPE | BENCH_THREADS |
                               BENCH_PATH | BENCH_ENCRYPT,
                           &args);
  if (status < 0) status = bench_known(argv[0], "shape", args.shape, shapes);
  if (status < 0) status = bench_known(argv[0], "path", args.path, paths);
  if (status < 0) status = bench_known_number(argv[0], "threads", args.threads, thread_counts);
  if (status >= 0) return status;
  struct bench_report report = bench_report_begin("store");
  uint64_t verified = 0;
  for (size_t i = 0; shapes[i] != NULL && !report.failed; i++) {
    const bool heavy = strcmp(shapes[i], "original") == 0 || strcmp(shapes[i], "llama-3-70b") == 0;
    if (!bench_picks(args.shape, shapes[i]) || (args.quick && args.shape == NULL && heavy))
      continue;
    const struct model *model = model_find(shapes[i]);
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
      if (bench_picks(args.path, ways[w]->path) && !report.failed)
        measure_shape(model, ways[w], &args, &report, &verified);
    }
    if (bench_picks(args.path, "sustained") && args.threads <= 1 && !report.failed)
      bench_store_sustained(&args, model, &report, &verified);
  }
  bench_count(report.root, "verified_bytes", verified);
  bench_note(
      &report,
      "limit: memcpy of a whole batch, same bytes, same memory, same rounds. of rows: share "
      "of memcpy row by row to where the block keeps them. copy, sustained: RAM ordered by lru, "
      "which keeps what was stored last, to be compared, and writes all. reserve: MB/s of room "
      "committed, not of bytes moved.");
  bench_note(
      &report,
      "sustained: with eviction, to SSD; its limit is a bare io_uring append, 1 MiB requests, "
      "depth 16, overwriting a preallocated file.");
  bench_note(&report, "%.1f GB read back and compared.", (double)verified / 1e9);
  return bench_report_end(&report, &args, columns);
}
