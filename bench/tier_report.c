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

/* Of one comparison, made in many cells. */
struct told {
  double worst;
  enum verdict verdict;
  size_t cells, above;
};

struct tier_tally {
  struct told changes, itself; /* of what ran twice, either way round */
  struct told threads;         /* against io_uring */
  double gain_all, gain_ahead; /* in order, one at a time: worst; worst of those that read ahead */
  enum verdict gain_verdict;   /* of the latter */
  double read_64k[2], read_large[2]; /* worst ratio to the limit, one at a time and 16 in flight */
  double write, append;
  double threads_of_pool,
      pool; /* where threads are worst: against a bare pool; that of a bare ring */
  double random_worst;
  double merge;
  kvstow_prefetch_stats prefetch;
};

/* What is promised, where all rounds tell whether it holds. */
static const double change_least = 0.95, threads_least = 0.85, random_least = 0.98;

/* How many times as fast, round by round. */
static size_t ratios_of(const struct tier_series *slow, const struct tier_series *fast,
                        double ratios[MEASURE_ROUNDS_MAX]) {
  const unsigned rounds = slow->rounds < fast->rounds ? slow->rounds : fast->rounds;
  for (unsigned r = 0; r < rounds; r++)
    ratios[r] = slow->seconds[r] / fast->seconds[r] * ((double)fast->bytes / (double)slow->bytes);
  return rounds;
}

static double quotient(const struct tier_series *slow, const struct tier_series *fast) {
  double ratios[MEASURE_ROUNDS_MAX];
  const size_t rounds = ratios_of(slow, fast, ratios);
  return measure_median(ratios, rounds);
}

static enum verdict ask(const struct tier_series *slow, const struct tier_series *fast,
                        double least) {
  double ratios[MEASURE_ROUNDS_MAX];
  return verdict_of(ratios, ratios_of(slow, fast, ratios), least);
}

static double middle(const struct tier_series *slow, const struct tier_series *fast) {
  double ratios[MEASURE_ROUNDS_MAX];
  return verdict_middle(ratios, ratios_of(slow, fast, ratios));
}

static const struct tier_series *series_of(const struct tier_contest *c, kvstow_engine engine,
                                           bool prefetch, bool scheduling) {
  for (size_t i = 0; i < c->ways_count; i++)
    if (c->ways[i].engine == engine && c->ways[i].prefetch == prefetch &&
        c->ways[i].scheduling == scheduling && !c->ways[i].again)
      return &c->series[i];
  return NULL;
}

/* Everything off, once more; NULL: it ran once. */
static const struct tier_series *again_of(const struct tier_contest *c) {
  for (size_t i = 0; i < c->ways_count; i++)
    if (c->ways[i].again) return &c->series[i];
  return NULL;
}

/* ---- rows ------------------------------------------------------------------------------------- */

static double mb_s(const struct tier_series *s) {
  double seconds[MEASURE_ROUNDS_MAX];
  memcpy(seconds, s->seconds, sizeof seconds);
  return (double)s->bytes / 1e6 / measure_median(seconds, s->rounds);
}

static double cpu_s_per_gib(const struct tier_series *s) {
  double cpu_s[MEASURE_ROUNDS_MAX];
  memcpy(cpu_s, s->cpu_s, sizeof cpu_s);
  return measure_median(cpu_s, s->rounds) / (double)s->bytes * (double)(1 << 30);
}

static void add_row(struct tier_contest *c, size_t way) {
  struct tier_bed *bed = c->bed;
  const struct tier_series *s = &c->series[way], *limit = &c->series[c->ways_count],
                           *pool = &c->series[c->ways_count + 1];
  const double blocks = (double)c->cell.count * s->rounds;
  json_t *row = bench_row(bed->report);
  bench_text(row, "op", tier_op_name(c->cell.op));
  bench_count(row, "block_bytes", c->cell.block_bytes);
  bench_count(row, "depth", c->cell.depth);
  bench_text(row, "engine", tier_engine_name(c->ways[way].engine));
  json_object_set_new(row, "prefetch", json_boolean(c->ways[way].prefetch));
  json_object_set_new(row, "scheduling", json_boolean(c->ways[way].scheduling));
  bench_real(row, "mb_s", mb_s(s));
  bench_real(row, "limit_mb_s", mb_s(limit));
  bench_real(row, "ratio", quotient(limit, s));
  bench_real(row, "pool_mb_s", mb_s(pool));
  bench_real(row, "pool_ratio", quotient(pool, s));
  bench_real(row, "cpu_s_per_gib", cpu_s_per_gib(s));
  bench_real(row, "limit_cpu_s_per_gib", cpu_s_per_gib(limit));
  bench_real(row, "p50_us", measure_latency_ns(&s->latency, 0.5) / 1e3);
  bench_real(row, "p99_us", measure_latency_ns(&s->latency, 0.99) / 1e3);
  bench_real(row, "limit_p50_us", measure_latency_ns(&limit->latency, 0.5) / 1e3);
  bench_real(row, "limit_p99_us", measure_latency_ns(&limit->latency, 0.99) / 1e3);
  bench_real(row, "merge_ratio",
             s->device_reads > 0 ? blocks / (double)s->device_reads : (double)NAN);
  bench_real(row, "fio_mb_s",
             c->fio_count > 0 ? measure_median(c->fio, c->fio_count) / 1e6 : (double)NAN);
  json_object_set_new(row, "again", json_boolean(c->ways[way].again));
  json_object_set_new(row, "host_cache", json_boolean(mb_s(s) > bed->memcpy_mb_s / 2));
  bench_count(row, "rounds", s->rounds);
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
  bench_real(row, "baseline_mb_s", mb_s(off));
  bench_real(row, "optimized_mb_s", mb_s(on));
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

static void tell(struct told *t, const struct tier_series *slow, const struct tier_series *fast,
                 double bound) {
  const enum verdict verdict = ask(slow, fast, bound);
  least(&t->worst, middle(slow, fast));
  t->verdict = verdict_worse(t->verdict, verdict);
  t->cells++;
  t->above += verdict == VERDICT_ABOVE;
}

static void tally_gain(const struct tier_contest *c, const struct tier_series *off,
                       const struct tier_series *on, struct tier_tally *t) {
  if (c->cell.op != TIER_READ || c->cell.depth != 1) return;
  const double gain = middle(off, on);
  least(&t->gain_all, gain);
  if (on->prefetch.issued == 0) return;
  least(&t->gain_ahead, gain);
  t->gain_verdict = verdict_worse(t->gain_verdict, ask(off, on, 1));
}

static void tally_changes(struct tier_contest *c, struct tier_tally *t) {
  const struct tier_series *again = again_of(c);
  for (int e = 0; e < TIER_ENGINES; e++) {
    const struct tier_series *off = series_of(c, tier_engines[e], false, false);
    const struct tier_series *on = series_of(c, tier_engines[e], true, true);
    if (off == NULL || on == NULL) continue;
    add_change(c, tier_engines[e], off, on, quotient(off, on));
    tell(&t->changes, off, on, change_least);
    tally_gain(c, off, on, t);
  }
  if (again == NULL) return;
  const struct tier_series *once = series_of(c, KVSTOW_ENGINE_URING, false, false);
  tell(&t->itself, once, again, change_least);
  tell(&t->itself, again, once, change_least);
}

static void tally_threads(struct tier_contest *c, const struct tier_series *uring,
                          const struct tier_series *threads, struct tier_tally *t) {
  const struct tier_series *ring = &c->series[c->ways_count], *pool = ring + 1;
  const double before = t->threads.worst;
  if (c->cell.block_bytes < 256 * KIB) return;
  tell(&t->threads, uring, threads, threads_least);
  if (t->threads.worst >= before) return;
  t->threads_of_pool = quotient(pool, threads);
  t->pool = quotient(ring, pool);
}

static void tally_uring(struct tier_contest *c, const struct tier_series *on,
                        struct tier_tally *t) {
  const double ratio = quotient(&c->series[c->ways_count], on);
  const size_t deep = c->cell.depth > 1;
  if (c->cell.op == TIER_READ && c->cell.block_bytes == 64 * KIB) least(&t->read_64k[deep], ratio);
  if (c->cell.op == TIER_READ && c->cell.block_bytes >= 256 * KIB)
    least(&t->read_large[deep], ratio);
  if (c->cell.op == TIER_WRITE) least(&t->write, ratio);
  if (c->cell.op == TIER_APPEND) least(&t->append, ratio);
  if (c->cell.op == TIER_FRAGMENTED)
    least(&t->merge, (double)c->cell.count * on->rounds / (double)on->device_reads);
  if (c->cell.op != TIER_READ || c->cell.depth != 1) return;
  t->prefetch.issued += on->prefetch.issued;
  t->prefetch.used += on->prefetch.used;
  t->prefetch.wasted += on->prefetch.wasted;
}

static void tally(struct tier_contest *c, struct tier_tally *t) {
  const struct tier_series *uring = series_of(c, KVSTOW_ENGINE_URING, true, true);
  const struct tier_series *threads = series_of(c, KVSTOW_ENGINE_THREADS, true, true);
  const struct tier_series *unread = series_of(c, KVSTOW_ENGINE_URING, false, true);
  tally_changes(c, t);
  if (uring != NULL) tally_uring(c, uring, t);
  if (uring != NULL && threads != NULL) tally_threads(c, uring, threads, t);
  if (c->cell.op == TIER_RANDOM && unread != NULL) least(&t->random_worst, middle(unread, uring));
}

/* ---- random reads, all cells together ---------------------------------------------------------- */

/* What reading ahead leaves of their speed, a round an entry: the mean of all cells. `itself`: the same of what ran
 * twice. */
static size_t random_means(struct tier_contest *const *contests, size_t count, bool itself,
                           double means[MEASURE_ROUNDS_MAX]) {
  size_t rounds = MEASURE_ROUNDS_MAX, cells = 0;
  double sums[MEASURE_ROUNDS_MAX] = {0}, ratios[MEASURE_ROUNDS_MAX];
  for (size_t i = 0; i < count; i++) {
    const struct tier_contest *c = contests[i];
    const struct tier_series *off = series_of(c, KVSTOW_ENGINE_URING, false, !itself);
    const struct tier_series *on =
        itself ? again_of(c) : series_of(c, KVSTOW_ENGINE_URING, true, true);
    if (c->cell.op != TIER_RANDOM || off == NULL || on == NULL) continue;
    const size_t had = ratios_of(off, on, ratios);
    if (had < rounds) rounds = had;
    for (size_t r = 0; r < rounds; r++) sums[r] += log(ratios[r]);
    cells++;
  }
  if (cells == 0) return 0;
  for (size_t r = 0; r < rounds; r++) means[r] = exp(sums[r] / (double)cells);
  return rounds;
}

bool tier_report_random_open(struct tier_contest *const *contests, size_t count) {
  double means[MEASURE_ROUNDS_MAX];
  const size_t rounds = random_means(contests, count, false, means);
  return rounds > 0 && verdict_of(means, rounds, random_least) == VERDICT_OPEN;
}

bool tier_report_open(const struct tier_contest *c) {
  const struct tier_series *on[TIER_ENGINES];
  for (int e = 0; e < TIER_ENGINES; e++) {
    const struct tier_series *off = series_of(c, tier_engines[e], false, false);
    on[e] = series_of(c, tier_engines[e], true, true);
    if (off != NULL && on[e] != NULL && ask(off, on[e], change_least) == VERDICT_OPEN) return true;
  }
  return c->cell.block_bytes >= 256 * KIB && on[0] != NULL && on[1] != NULL &&
         ask(on[0], on[1], threads_least) == VERDICT_OPEN;
}

/* ---- what is promised -------------------------------------------------------------------------- */

/* A run in which the same was told to be slower than itself condemns nothing. */
static enum verdict unless_noise(enum verdict verdict, enum verdict itself) {
  return verdict == VERDICT_BELOW && itself == VERDICT_BELOW ? VERDICT_OPEN : verdict;
}

static void target_random(struct bench_report *report, struct tier_contest *const *contests,
                          size_t count) {
  double means[MEASURE_ROUNDS_MAX], same[MEASURE_ROUNDS_MAX];
  const size_t rounds = random_means(contests, count, false, means);
  const size_t itself = random_means(contests, count, true, same);
  if (rounds == 0) return;
  const enum verdict noise = itself > 0 ? verdict_of(same, itself, random_least) : VERDICT_ABOVE;
  bench_target_told(report, "random read, prefetch enabled against disabled, mean of cells",
                    verdict_middle(means, rounds), random_least,
                    unless_noise(verdict_of(means, rounds, random_least), noise),
                    verdict_middle(same, itself));
}

static void target(struct bench_report *report, const char *name, double value, double bound) {
  if (!isnan(value)) bench_target_min(report, name, value, bound);
}

static void add_targets(struct bench_report *report, const struct tier_tally *t) {
  if (t->changes.cells > 0)
    bench_target_told(report, "everything on against everything off, worst cell", t->changes.worst,
                      change_least, unless_noise(t->changes.verdict, t->itself.verdict),
                      t->itself.worst);
  target(report, "sequential read, one at a time: gain, worst cell", t->gain_all, 1);
  if (!isnan(t->gain_ahead))
    bench_target_told(report, "sequential read, one at a time, read ahead: gain, worst cell",
                      t->gain_ahead, 1, t->gain_verdict, (double)NAN);
  target(report, "sequential read >= 256 KiB, 16 in flight, of the limit", t->read_large[1], 0.95);
  target(report, "sequential read >= 256 KiB, one at a time, of the limit", t->read_large[0], 0.95);
  target(report, "sequential read 64 KiB, 16 in flight, of the limit", t->read_64k[1], 0.90);
  target(report, "sequential read 64 KiB, one at a time, of the limit", t->read_64k[0], 0.90);
  target(report, "file append, worst block size, of the limit", t->write, 0.90);
  target(report, "record append, worst block size, of the limit", t->append, 0.90);
  if (t->threads.cells > 0)
    bench_target_told(report, "threads against io_uring >= 256 KiB, worst cell", t->threads.worst,
                      threads_least, t->threads.verdict, (double)NAN);
  target(report, "fragmented read, blocks a device read, worst block size", t->merge, 2);
  if (t->prefetch.issued == 0) return;
  const double issued = (double)t->prefetch.issued;
  bench_target_min(report, "sequential read: prefetched and used",
                   (double)t->prefetch.used / issued, 0.70);
  bench_target_max(report, "sequential read: prefetched and wasted",
                   (double)t->prefetch.wasted / issued, 0.10);
}

static void add_told(struct bench_report *report, const struct tier_tally *t) {
  bench_note(
      report,
      "Told by all rounds of a cell: %zu of %zu lose less than %.0f %%; with itself, %zu of %zu.",
      t->changes.above, t->changes.cells, 100 * (1 - change_least), t->itself.above,
      t->itself.cells);
  if (t->threads.cells == 0) return;
  bench_note(report, "threads: %zu of %zu cells >= 256 KiB above %.2f of io_uring.",
             t->threads.above, t->threads.cells, threads_least);
  bench_note(report,
             "Where they are worst they are %.2f of a bare pool of threads, which is %.2f of the "
             "bare ring.",
             t->threads_of_pool, t->pool);
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
  if (tally->changes.cells > 0) add_told(report, tally);
  if (tally->itself.cells > 0)
    bench_note(report, "with itself: the same way twice in the same rounds, which is noise.");
  if (fast > 0)
    bench_note(
        report,
        "%zu rows are faster than half of memcpy (%.0f MB/s): the host's cache, not a medium.",
        fast, bed->memcpy_mb_s);
}

void tier_report(struct tier_bed *bed, struct tier_contest *const *contests, size_t count) {
  struct tier_tally t = {.changes = {.worst = NAN},
                         .itself = {.worst = NAN},
                         .threads = {.worst = NAN},
                         .gain_all = NAN,
                         .gain_ahead = NAN,
                         .read_64k = {NAN, NAN},
                         .read_large = {NAN, NAN},
                         .write = NAN,
                         .append = NAN,
                         .random_worst = NAN,
                         .merge = NAN};
  for (size_t i = 0; i < count; i++) {
    for (size_t way = 0; way < contests[i]->ways_count; way++) add_row(contests[i], way);
    tally(contests[i], &t);
  }
  add_targets(bed->report, &t);
  target_random(bed->report, contests, count);
  add_notes(bed, &t);
}

int tier_report_end(struct tier_bed *bed) {
  if (!bed->args->json && !bed->args->csv) print_changes(bed->report);
  bed->report->shown = is_shown;
  return bench_report_end(bed->report, bed->args, columns);
}
