/* tier_report.c - what came of the runs of `kvstow bench tier`: rows, the table of changes, targets.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/tier.h"
#include "cli/table.h"

enum { KIB = 1 << 10, MIB = 1 << 20 };

static const struct bench_column columns[] = {
    {"op", "<operation", -1},
    {"block_bytes", "block B", 0},
    {"depth", "depth", 0},
    {"engine", "<engine", -1},
    {"mb_s", "MB/s", 0},
    {"limit_mb_s", "limit", 0},
    {"ratio", "ratio", 2},
    {"pool_mb_s", "pool", 0},
    {"fio_mb_s", "fio", 0},
    {"cpu_s_per_gib", "CPU s/GiB", 3},
    {"limit_cpu_s_per_gib", "limit's", 3},
    {"p50_us", "p50 us", 0},
    {"p99_us", "p99 us", 0},
    {"merge_ratio", "merge", 1},
    {NULL, NULL, 0},
};

struct tier_tally {
  double worst_change, worst_sequential_gain;
  double worst_again;                /* as worst_change, of what ran twice */
  double read_64k[2], read_large[2]; /* worst ratio to the limit, one at a time and 16 in flight */
  double write, append;
  double threads, threads_of_pool,
      pool; /* of the worst cell: against io_uring; against a bare pool; that of a bare ring */
  double random_log_sum, random_again_log_sum, random_worst;
  size_t random_count;
  double merge;
  kvstow_prefetch_stats prefetch;
};

static double quotient(const struct tier_contest *c, const struct tier_series *slow,
                       const struct tier_series *fast) {
  double ratio[MEASURE_ROUNDS_MAX];
  const unsigned rounds = c->bed->args->rounds;
  for (unsigned r = 0; r < rounds; r++)
    ratio[r] = slow->seconds[r] / fast->seconds[r] * ((double)fast->bytes / (double)slow->bytes);
  return measure_median(ratio, rounds);
}

static const struct tier_series *series_of(const struct tier_contest *c, kvstow_engine engine,
                                           bool prefetch, bool scheduling) {
  for (size_t i = 0; i < c->ways_count; i++)
    if (c->ways[i].engine == engine && c->ways[i].prefetch == prefetch &&
        c->ways[i].scheduling == scheduling && !c->ways[i].again)
      return &c->series[i];
  return NULL;
}

/* Everything off against everything off; NAN: it ran once. */
static double again(const struct tier_contest *c) {
  for (size_t i = 0; i < c->ways_count; i++)
    if (c->ways[i].again)
      return quotient(c, series_of(c, c->ways[i].engine, false, false), &c->series[i]);
  return (double)NAN;
}

/* ---- rows ------------------------------------------------------------------------------------- */

static double mb_s(const struct tier_contest *c, const struct tier_series *s) {
  double seconds[MEASURE_ROUNDS_MAX];
  memcpy(seconds, s->seconds, sizeof seconds);
  return (double)s->bytes / 1e6 / measure_median(seconds, c->bed->args->rounds);
}

static double cpu_s_per_gib(const struct tier_contest *c, const struct tier_series *s) {
  double cpu_s[MEASURE_ROUNDS_MAX];
  memcpy(cpu_s, s->cpu_s, sizeof cpu_s);
  return measure_median(cpu_s, c->bed->args->rounds) / (double)s->bytes * (double)(1 << 30);
}

static void add_row(struct tier_contest *c, size_t way) {
  struct tier_bed *bed = c->bed;
  const struct tier_series *s = &c->series[way], *limit = &c->series[c->ways_count],
                           *pool = &c->series[c->ways_count + 1];
  const double blocks = (double)c->cell.count * bed->args->rounds;
  json_t *row = bench_row(bed->report);
  bench_text(row, "op", tier_op_name(c->cell.op));
  bench_count(row, "block_bytes", c->cell.block_bytes);
  bench_count(row, "depth", c->cell.depth);
  bench_text(row, "engine", tier_engine_name(c->ways[way].engine));
  json_object_set_new(row, "prefetch", json_boolean(c->ways[way].prefetch));
  json_object_set_new(row, "scheduling", json_boolean(c->ways[way].scheduling));
  bench_real(row, "mb_s", mb_s(c, s));
  bench_real(row, "limit_mb_s", mb_s(c, limit));
  bench_real(row, "ratio", quotient(c, limit, s));
  bench_real(row, "pool_mb_s", mb_s(c, pool));
  bench_real(row, "pool_ratio", quotient(c, pool, s));
  bench_real(row, "cpu_s_per_gib", cpu_s_per_gib(c, s));
  bench_real(row, "limit_cpu_s_per_gib", cpu_s_per_gib(c, limit));
  bench_real(row, "p50_us", measure_latency_ns(&s->latency, 0.5) / 1e3);
  bench_real(row, "p99_us", measure_latency_ns(&s->latency, 0.99) / 1e3);
  bench_real(row, "limit_p50_us", measure_latency_ns(&limit->latency, 0.5) / 1e3);
  bench_real(row, "limit_p99_us", measure_latency_ns(&limit->latency, 0.99) / 1e3);
  bench_real(row, "merge_ratio",
             s->device_reads > 0 ? blocks / (double)s->device_reads : (double)NAN);
  bench_real(row, "fio_mb_s",
             c->fio_count > 0 ? measure_median(c->fio, c->fio_count) / 1e6 : (double)NAN);
  json_object_set_new(row, "again", json_boolean(c->ways[way].again));
  json_object_set_new(row, "host_cache", json_boolean(mb_s(c, s) > bed->memcpy_mb_s / 2));
}

static bool is_shown(const json_t *row) {
  return json_is_true(json_object_get(row, "prefetch")) &&
         json_is_true(json_object_get(row, "scheduling"));
}

/* The original's table. */
static void add_change(struct tier_contest *c, kvstow_engine engine, const struct tier_series *off,
                       const struct tier_series *on, double change) {
  json_t *row = json_object();
  bench_text(row, "op", tier_op_name(c->cell.op));
  bench_count(row, "block_bytes", c->cell.block_bytes);
  bench_count(row, "depth", c->cell.depth);
  bench_text(row, "engine", tier_engine_name(engine));
  bench_real(row, "baseline_mb_s", mb_s(c, off));
  bench_real(row, "optimized_mb_s", mb_s(c, on));
  bench_real(row, "change", change - 1);
  json_array_append_new(json_object_get(c->bed->report->root, "changes"), row);
}

static void print_changes(const struct bench_report *report) {
  static const char *const titles[] = {"<operation", "block",     "depth",  "<engine",
                                       "Baseline",   "Optimized", "Change", NULL};
  const json_t *changes = json_object_get(report->root, "changes");
  struct table *table = table_create(titles);
  size_t i;
  json_t *row;
  json_array_foreach(changes, i, row) {
    table_text(table, "%s", json_string_value(json_object_get(row, "op")));
    table_bytes(table, (uint64_t)json_integer_value(json_object_get(row, "block_bytes")));
    table_count(table, (uint64_t)json_integer_value(json_object_get(row, "depth")));
    table_text(table, "%s", json_string_value(json_object_get(row, "engine")));
    table_text(table, "%.0f MB/s", json_number_value(json_object_get(row, "baseline_mb_s")));
    table_text(table, "%.0f MB/s", json_number_value(json_object_get(row, "optimized_mb_s")));
    table_text(table, "%+.1f %%", 100 * json_number_value(json_object_get(row, "change")));
  }
  if (json_array_size(changes) > 0) {
    (void)table_print(table, stdout);
    putchar('\n');
  }
  table_destroy(table);
}

/* ---- targets ---------------------------------------------------------------------------------- */

static void least(double *worst, double value) {
  if (isnan(*worst) || value < *worst) *worst = value;
}

static void tally_changes(struct tier_contest *c, struct tier_tally *t) {
  for (int e = 0; e < TIER_ENGINES; e++) {
    const struct tier_series *off = series_of(c, tier_engines[e], false, false);
    const struct tier_series *on = series_of(c, tier_engines[e], true, true);
    if (off == NULL || on == NULL) continue;
    const double change = quotient(c, off, on);
    add_change(c, tier_engines[e], off, on, change);
    least(&t->worst_change, change);
    if (c->cell.op == TIER_READ && c->cell.depth == 1) least(&t->worst_sequential_gain, change);
  }
}

static void tally_threads(struct tier_contest *c, const struct tier_series *uring,
                          const struct tier_series *threads, struct tier_tally *t) {
  const struct tier_series *ring = &c->series[c->ways_count], *pool = ring + 1;
  const double ratio = quotient(c, uring, threads);
  if (c->cell.block_bytes < 256 * KIB || (!isnan(t->threads) && ratio >= t->threads)) return;
  t->threads = ratio;
  t->threads_of_pool = quotient(c, pool, threads);
  t->pool = quotient(c, ring, pool);
}

static void tally_uring(struct tier_contest *c, const struct tier_series *on,
                        struct tier_tally *t) {
  const double ratio = quotient(c, &c->series[c->ways_count], on);
  const size_t deep = c->cell.depth > 1;
  if (c->cell.op == TIER_READ && c->cell.block_bytes == 64 * KIB) least(&t->read_64k[deep], ratio);
  if (c->cell.op == TIER_READ && c->cell.block_bytes >= 256 * KIB)
    least(&t->read_large[deep], ratio);
  if (c->cell.op == TIER_WRITE) least(&t->write, ratio);
  if (c->cell.op == TIER_APPEND) least(&t->append, ratio);
  if (c->cell.op == TIER_FRAGMENTED)
    least(&t->merge, (double)c->cell.count * c->bed->args->rounds / (double)on->device_reads);
  if (c->cell.op != TIER_READ || c->cell.depth != 1) return;
  t->prefetch.issued += on->prefetch.issued;
  t->prefetch.used += on->prefetch.used;
  t->prefetch.wasted += on->prefetch.wasted;
}

static void tally_random(struct tier_contest *c, const struct tier_series *on,
                         struct tier_tally *t) {
  const struct tier_series *off = series_of(c, KVSTOW_ENGINE_URING, false, true);
  if (c->cell.op != TIER_RANDOM || off == NULL) return;
  const double ratio = quotient(c, off, on);
  t->random_log_sum += log(ratio);
  t->random_again_log_sum += log(again(c));
  t->random_count++;
  least(&t->random_worst, ratio);
}

void tier_report_cell(struct tier_contest *c, struct tier_tally *t) {
  for (size_t i = 0; i < c->ways_count; i++) add_row(c, i);

  const struct tier_series *uring = series_of(c, KVSTOW_ENGINE_URING, true, true);
  const struct tier_series *threads = series_of(c, KVSTOW_ENGINE_THREADS, true, true);
  tally_changes(c, t);
  if (!isnan(again(c))) least(&t->worst_again, again(c));
  if (uring != NULL) tally_uring(c, uring, t);
  if (uring != NULL) tally_random(c, uring, t);
  if (uring != NULL && threads != NULL) tally_threads(c, uring, threads, t);
}

static void target(struct bench_report *report, const char *name, double value, double bound) {
  if (!isnan(value)) bench_target_min(report, name, value, bound);
}

static void add_targets(struct bench_report *report, const struct tier_tally *t) {
  if (!isnan(t->worst_change))
    bench_target_beside(report, "everything on against everything off, worst cell", t->worst_change,
                        0.95, t->worst_again);
  target(report, "sequential read, one at a time: gain, worst cell", t->worst_sequential_gain, 1);
  target(report, "sequential read >= 256 KiB, 16 in flight, of the limit", t->read_large[1], 0.95);
  target(report, "sequential read >= 256 KiB, one at a time, of the limit", t->read_large[0], 0.95);
  target(report, "sequential read 64 KiB, 16 in flight, of the limit", t->read_64k[1], 0.90);
  target(report, "sequential read 64 KiB, one at a time, of the limit", t->read_64k[0], 0.90);
  target(report, "file append, worst block size, of the limit", t->write, 0.90);
  target(report, "record append, worst block size, of the limit", t->append, 0.90);
  target(report, "threads against io_uring >= 256 KiB, worst cell", t->threads, 0.85);
  if (t->random_count > 0)
    bench_target_beside(report, "random read, prefetch enabled against disabled, mean of cells",
                        exp(t->random_log_sum / (double)t->random_count), 0.98,
                        exp(t->random_again_log_sum / (double)t->random_count));
  target(report, "fragmented read, blocks a device read, worst block size", t->merge, 2);
  if (t->prefetch.issued == 0) return;
  const double issued = (double)t->prefetch.issued;
  bench_target_min(report, "sequential read: prefetched and used",
                   (double)t->prefetch.used / issued, 0.70);
  bench_target_max(report, "sequential read: prefetched and wasted",
                   (double)t->prefetch.wasted / issued, 0.10);
}

static void add_notes(struct tier_bed *bed, const struct tier_tally *tally) {
  struct bench_report *report = bed->report;
  size_t fast = 0, i;
  json_t *row;
  json_array_foreach(report->rows, i, row) fast += json_is_true(json_object_get(row, "host_cache"));
  bench_note(report,
             bed->direct ? "Direct I/O throughout, a file of %llu MiB."
                         : "No direct I/O here; pages dropped before each run, and asked "
                           "for. A file of %llu MiB.",
             (unsigned long long)(bed->file_bytes / MIB));
  bench_note(report,
             "limit: a bare io_uring loop, same file, same blocks in the same order, same "
             "depth. For write and append: requests of 1 MiB, depth 16.");
  bench_note(report,
             "write: a new file, its blocks reserved and never written before, as the "
             "limit's; append overwrites, as its limit. All made durable within the time.");
  bench_note(report, "Baseline: prefetch and scheduling off; Optimized: both on.");
  bench_note(report,
             bed->fio           ? "fio: the same, its buffers in 4 KiB pages; %d rounds."
             : bed->args->quick ? "fio: not with --quick."
                                : "fio: not installed.",
             TIER_FIO_ROUNDS);
  if (!isnan(tally->random_worst))
    bench_note(report, "Random read, prefetch enabled against disabled: worst cell %.3f.",
               tally->random_worst);
  if (!isnan(tally->threads))
    bench_note(
        report,
        "threads, worst cell >= 256 KiB: %.2f of a bare pool of threads, which is %.2f of the "
        "bare ring.",
        tally->threads_of_pool, tally->pool);
  if (!isnan(tally->worst_again))
    bench_note(report, "with itself: the same way twice in the same rounds, which is noise.");
  if (fast > 0)
    bench_note(
        report,
        "%zu rows are faster than half of memcpy (%.0f MB/s): the host's cache, not a medium.",
        fast, bed->memcpy_mb_s);
}

struct tier_tally *tier_tally_create(void) {
  struct tier_tally *tally = malloc(sizeof *tally);
  if (tally == NULL) abort();
  *tally = (struct tier_tally){.worst_change = NAN,
                               .worst_again = NAN,
                               .worst_sequential_gain = NAN,
                               .read_64k = {NAN, NAN},
                               .read_large = {NAN, NAN},
                               .write = NAN,
                               .append = NAN,
                               .threads = NAN,
                               .random_worst = NAN,
                               .merge = NAN};
  return tally;
}

void tier_report_targets(struct tier_bed *bed, struct tier_tally *tally) {
  if (!bed->report->failed) {
    add_targets(bed->report, tally);
    add_notes(bed, tally);
  }
  free(tally);
}

int tier_report_end(struct tier_bed *bed) {
  if (!bed->args->json && !bed->args->csv) print_changes(bed->report);
  bed->report->shown = is_shown;
  return bench_report_end(bed->report, bed->args, columns);
}
