/* store_sustained.c - storing without end: RAM is full, every byte taken in pushes one out to SSD,
 * and there segments are reclaimed.
 *
 * `full speed` asks for more than the SSD can take, so that calls wait: what counts is the rate. A
 * round begins when RAM is full of what SSD lacks (a call has waited), and ends so: what is taken in
 * between has been written. (RAM's policy is lru, which admits all: the default would learn that nobody reads this,
 * and write less.) `paced` asks for 70 % of the limit: then no call may wait.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/raw_uring.h"
#include "bench/scratch.h"
#include "bench/store.h"

enum {
  LIMIT_BLOCK_BYTES = 1 << 20,
  LIMIT_DEPTH = 16,
  BATCH_TOKENS = 256,
  PACED_TOKENS = 32,
  FILL_TRIES = 64,
};

struct track {
  struct bed bed;
  const struct bench_args *args;
  struct bench_report *report;
  struct raw_extent extent;
  char *buffers;
  uint64_t round_bytes;
};

static kvstow_stats stats_of(const struct bed *bed) {
  kvstow_stats stats = {.size = sizeof stats};
  kvstow_get_stats(bed->store, &stats);
  return stats;
}

static struct measure_span append_limit(struct track *track) {
  const struct raw_uring_job job = {.extents = &track->extent,
                                    .extents_count = 1,
                                    .block_bytes = LIMIT_BLOCK_BYTES,
                                    .depth = LIMIT_DEPTH,
                                    .total_bytes = track->round_bytes,
                                    .write = true,
                                    .buffers = track->buffers};
  static struct raw_uring_result result;
  const int rc = raw_uring_run(&job, &result);
  if (rc != 0) bench_fail(track->report, "the append limit: %s", strerror(-rc));
  return result.span;
}

/* The demotion thread has nothing more to do: its counter stands still. */
static void wait_idle(const struct track *track) {
  const struct timespec nap = {0, 60 * 1000 * 1000};
  for (uint64_t before = UINT64_MAX, now; (now = stats_of(&track->bed).demoted_blocks) != before;) {
    before = now;
    nanosleep(&nap, NULL);
  }
}

/* Until a call had to wait: RAM is full of what SSD lacks. */
static void fill_ram(struct work *work, struct bench_report *report) {
  const uint64_t waits = stats_of(work->bed).stored_waits;
  for (unsigned i = 0; i < FILL_TRIES && !report->failed; i++) {
    (void)work_run(work, report);
    if (stats_of(work->bed).stored_waits > waits) return;
  }
}

static double full_speed(struct track *track, struct work *work) {
  struct bench_report *report = track->report;
  const unsigned rounds = track->args->rounds;
  static struct measure_latency latency;
  double rate[MEASURE_ROUNDS_MAX], limit_rate[MEASURE_ROUNDS_MAX], ratio[MEASURE_ROUNDS_MAX],
      ssd_rate[MEASURE_ROUNDS_MAX], cpu_s[MEASURE_ROUNDS_MAX], limit_cpu_s[MEASURE_ROUNDS_MAX];
  const double bytes = (double)work_bytes(work), gib = bytes / (double)(1 << 30);
  const kvstow_stats before = stats_of(&track->bed);
  for (unsigned r = 0; r < rounds && !report->failed; r++) {
    wait_idle(track);
    const struct measure_span limit = append_limit(track);
    fill_ram(work, report);
    const uint64_t written = stats_of(&track->bed).tier.bytes_written;
    work->timed = true; /* a call moves 256 tokens: the clock costs nothing beside it */
    const struct measure_span span = work_run(work, report);
    work->timed = false;
    const uint64_t wrote = stats_of(&track->bed).tier.bytes_written - written;
    rate[r] = bytes / span.seconds;
    ssd_rate[r] = (double)wrote / span.seconds;
    limit_rate[r] = (double)track->round_bytes / limit.seconds;
    ratio[r] = rate[r] / limit_rate[r];
    cpu_s[r] = span.cpu_s / gib;
    limit_cpu_s[r] = limit.cpu_s / (double)track->round_bytes * (double)(1 << 30);
  }
  if (report->failed) return 0;
  work_latency(work, &latency);
  const kvstow_stats after = stats_of(&track->bed);
  json_t *row = bench_row(report);
  const double median = measure_median(rate, rounds);
  bench_text(row, "shape", work->bed->model->name);
  bench_count(row, "bytes_per_token", work->bed->token_bytes);
  bench_text(row, "path", "sustained");
  bench_text(row, "call", "seq_append, full speed");
  bench_count(row, "threads", work->threads);
  bench_count(row, "batch_tokens", work->batch_tokens);
  bench_real(row, "tok_s", median / (double)work->bed->token_bytes);
  bench_real(row, "mb_s", median / 1e6);
  bench_real(row, "limit_mb_s", measure_median(limit_rate, rounds) / 1e6);
  bench_real(row, "ratio", measure_median(ratio, rounds));
  bench_real(row, "ssd_mb_s", measure_median(ssd_rate, rounds) / 1e6);
  bench_real(row, "cpu_s_per_gib", measure_median(cpu_s, rounds));
  bench_real(row, "limit_cpu_s_per_gib", measure_median(limit_cpu_s, rounds));
  work_write_latency(row, &latency);
  bench_real(row, "write_amplification", after.write_amplification);
  bench_count(row, "segments_reclaimed", after.segments_reclaimed - before.segments_reclaimed);
  bench_count(row, "waits", after.stored_waits - before.stored_waits);
  char name[96];
  snprintf(name, sizeof name, "%s: sustained, share of the append limit", work->bed->model->name);
  bench_target_min(report, name, measure_median(ratio, rounds), 0.90);
  return measure_median(limit_rate, rounds);
}

static void paced(struct track *track, struct work *work, double limit_bytes_s) {
  struct bench_report *report = track->report;
  static struct measure_latency latency;
  work->timed = true;
  work->bytes_s = 0.70 * limit_bytes_s;
  wait_idle(track);
  const kvstow_stats before = stats_of(&track->bed);
  double seconds = 0;
  for (unsigned r = 0; r < track->args->rounds && !report->failed; r++)
    seconds += work_run(work, report).seconds;
  const kvstow_stats after = stats_of(&track->bed);
  work_latency(work, &latency);
  if (report->failed) return;
  const double rate = (double)work_bytes(work) * track->args->rounds / seconds;
  json_t *row = bench_row(report);
  bench_text(row, "shape", work->bed->model->name);
  bench_count(row, "bytes_per_token", work->bed->token_bytes);
  bench_text(row, "path", "sustained");
  bench_text(row, "call", "seq_append, paced");
  bench_count(row, "threads", work->threads);
  bench_count(row, "batch_tokens", work->batch_tokens);
  bench_real(row, "tok_s", rate / (double)work->bed->token_bytes);
  bench_real(row, "mb_s", rate / 1e6);
  bench_real(row, "limit_mb_s", limit_bytes_s / 1e6);
  bench_real(row, "ratio", rate / limit_bytes_s);
  work_write_latency(row, &latency);
  bench_count(row, "waits", after.stored_waits - before.stored_waits);
  char name[96];
  snprintf(name, sizeof name, "%s: calls that waited for the SSD at 70 %% of its limit",
           work->bed->model->name);
  bench_target_max(report, name, (double)(after.stored_waits - before.stored_waits), 0);
}

static void run_track(struct track *track, uint64_t *verified) {
  struct bench_report *report = track->report;
  struct bed *bed = &track->bed;
  const size_t round_tokens = track->round_bytes / bed->token_bytes / BATCH_TOKENS * BATCH_TOKENS;
  struct work work = {.bed = bed,
                      .way = &way_append,
                      .threads = 1,
                      .batch_tokens = BATCH_TOKENS,
                      .batches = round_tokens / BATCH_TOKENS};
  struct work slow = work;
  slow.batch_tokens = PACED_TOKENS;
  slow.batches = round_tokens / PACED_TOKENS;
  if (!work_init(&work) || !work_init(&slow)) {
    bench_fail(report, "out of memory");
  } else {
    /* Every segment written once: from here on they are reclaimed and overwritten. */
    while (!report->failed && stats_of(bed).segments_reclaimed == 0) (void)work_run(&work, report);
    const double limit = full_speed(track, &work);
    if (!report->failed) paced(track, &slow, limit);
    if (!report->failed) *verified += work_verify(&slow, report);
  }
  work_free(&work);
  work_free(&slow);
}

void bench_store_sustained(const struct bench_args *args, const struct model *model,
                           struct bench_report *report, uint64_t *verified) {
  static struct track track;
  char dir[BENCH_PATH_BYTES], limit_dir[BENCH_PATH_BYTES] = "", path[BENCH_PATH_BYTES + 16];
  const uint64_t mib = 1 << 20;
  memset(&track, 0, sizeof track);
  track.args = args;
  track.report = report;
  track.round_bytes = (args->quick ? 256 : 1024) * mib;
  if (!bench_scratch_make(args->dir, dir) || !bench_scratch_make(args->dir, limit_dir)) {
    bench_fail(report, "scratch directory: %s", strerror(errno));
    bench_scratch_remove(dir);
    return;
  }
  snprintf(path, sizeof path, "%s/limit", limit_dir);
  const int fd = raw_uring_create(path, track.round_bytes);
  track.extent = (struct raw_extent){fd, 0, track.round_bytes};
  track.buffers = measure_memory((size_t)LIMIT_BLOCK_BYTES * LIMIT_DEPTH);
  if (fd < 0 || track.buffers == NULL)
    bench_fail(report, "a file of %llu bytes with direct I/O: %s",
               (unsigned long long)track.round_bytes, raw_uring_why(fd < 0 ? fd : -ENOMEM));
  if (track.buffers != NULL)
    measure_fill(track.buffers, (size_t)LIMIT_BLOCK_BYTES * LIMIT_DEPTH, 3);
  const char *const dirs[] = {dir};
  const size_t batch_bytes = BATCH_TOKENS * model_bytes_per_token(model);
  kvstow_options o;
  kvstow_options_init(&o);
  o.dirs = dirs;
  o.dirs_count = 1;
  o.ram_bytes = (args->quick ? 384 : 1024) * mib;
  o.ram_policy = "lru";
  o.encryption_key = args->encryption_key;
  o.engine = args->engine;
  o.ssd_bytes = (args->quick ? 1024 : 4096) * mib;
  const size_t source_bytes = (256 * mib + batch_bytes - 1) / batch_bytes * batch_bytes;
  if (!report->failed && bed_open(&track.bed, model, &o, source_bytes, report)) {
    bench_text(report->root, "engine", stats_of(&track.bed).tier.engine);
    run_track(&track, verified);
  }
  bed_close(&track.bed, report);
  if (fd >= 0) close(fd);
  measure_memory_free(track.buffers, (size_t)LIMIT_BLOCK_BYTES * LIMIT_DEPTH);
  bench_scratch_remove(dir);
  bench_scratch_remove(limit_dir);
}
