/* tier_log.c - the record half of `kvstow bench tier`: appending to the log, and reading back what was
 * appended.
 *
 * Every segment has been written before the first run, and each run begins with all of them given up, so that
 * it overwrites; the limit overwrites a file. Records have one plane. Sums are taken before the clock starts
 * when appending; when reading, the tier verifies them within the time. Bytes are counted with the header
 * page, as they go to the disk.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/tier.h"

enum {
  BATCH_BYTES = 4 << 20,
  SEGMENT_BYTES = 64 << 20,
  SEGMENTS_SPARE = 2,
};

struct tier_log {
  kvstow_tier *tier;
  char dir[BENCH_PATH_BYTES + 16];
  kvstow_record_write *writes;
  size_t writes_max;
  char *headers;         /* a page each */
  struct tier_cell held; /* what was appended last: readable */
  uint64_t seed;         /* of its payloads */
  sem_t room;            /* for batches */
  _Atomic int rc;
};

static uint64_t record_bytes(const struct tier_cell *cell) {
  return KVSTOW_PAGE_BYTES + cell->block_bytes;
}

/* ---- appending -------------------------------------------------------------------------------- */

static void batch_done(void *arg, int result) {
  struct tier_log *log = arg;
  if (result != 0) atomic_store(&log->rc, result);
  sem_post(&log->room);
}

/* `latency`: until a batch has room and is taken. */
static int append(struct tier_log *log, const struct tier_cell *cell,
                  struct measure_latency *latency) {
  const size_t each = (BATCH_BYTES + record_bytes(cell) / 2) / record_bytes(cell);
  int rc = 0;
  for (size_t at = 0; at < cell->count && rc == 0; at += each) {
    const size_t count = cell->count - at < each ? cell->count - at : each;
    const uint64_t begun = measure_now_ns();
    while (sem_wait(&log->room) != 0) continue;
    rc = kvstow_tier_append(log->tier, log->writes + at, count, batch_done, log);
    measure_latency_add(latency, measure_now_ns() - begun);
    if (rc != 0) sem_post(&log->room);
  }
  for (int i = 0; i < TIER_APPEND_BATCHES; i++)
    while (sem_wait(&log->room) != 0) continue;
  for (int i = 0; i < TIER_APPEND_BATCHES; i++) sem_post(&log->room);
  if (rc == 0) rc = atomic_load(&log->rc);
  return rc == 0 ? kvstow_tier_flush(log->tier) : rc;
}

static int describe(struct tier_bed *bed, struct tier_log *log, const struct tier_cell *cell) {
  int rc = 0;
  tier_make_content(bed, cell->count * (size_t)cell->block_bytes);
  log->seed = tier_content_seed(bed);
  log->held = *cell;
  for (size_t i = 0; i < cell->count && rc == 0; i++) {
    char *header = log->headers + i * KVSTOW_PAGE_BYTES;
    char *payload = bed->memory + i * cell->block_bytes;
    const kvstow_record record = {
        .key = {i, log->seed}, .planes = 1, .plane_bytes = cell->block_bytes};
    log->writes[i] = (kvstow_record_write){.header = header, .payload = payload};
    rc = kvstow_record_format(header, &record, NULL, 0);
    if (rc == 0) *kvstow_record_sums(header) = kvstow_plane_checksum(payload, cell->block_bytes, 0);
  }
  return rc;
}

/* All segments are free afterwards. */
static int give_up_all(struct tier_log *log) {
  int rc = kvstow_tier_seal(log->tier);
  for (uint32_t i = 0; i < kvstow_tier_segment_count(log->tier) && rc == 0; i++) {
    kvstow_segment_info info;
    rc = kvstow_tier_segment(log->tier, i, &info);
    if (rc == 0 && info.state == KVSTOW_SEGMENT_SEALED) rc = kvstow_tier_reclaim(log->tier, i);
  }
  return rc;
}

static bool append_run(struct tier_bed *bed, struct tier_log *log, const struct tier_cell *cell,
                       struct tier_sample *sample) {
  int rc = describe(bed, log, cell);
  if (rc == 0) rc = give_up_all(log);
  if (rc != 0) return tier_fail(bed, log->tier, "reclaim", rc);
  const struct measure_span begun = measure_begin();
  rc = append(log, cell, &sample->latency);
  sample->span = measure_end(begun);
  sample->bytes = cell->count * record_bytes(cell);
  return rc == 0 || tier_fail(bed, log->tier, "append", rc);
}

/* ---- reading back ----------------------------------------------------------------------------- */

static void record_read_done(kvstow_record_read *read) {
  tier_flow_done(read->arg, read->result);
}

static int record_send(struct tier_slot *slot) {
  const struct tier_flow *flow = slot->flow;
  const struct tier_log *log = flow->of;
  const uint32_t bytes = flow->cell->block_bytes;
  slot->read.record =
      (kvstow_record_read){.key = {slot->index, log->seed},
                           .loc = log->writes[slot->index].loc,
                           .plane_bytes = bytes,
                           .plane_count = 1,
                           .header = log->headers + slot->number * KVSTOW_PAGE_BYTES,
                           .payload = flow->bed->memory + slot->number * bytes,
                           .done = record_read_done,
                           .arg = slot};
  return kvstow_tier_read_batch(flow->tier, &(kvstow_record_read *){&slot->read.record}, 1);
}

static bool record_check(struct tier_slot *slot) {
  const struct tier_flow *flow = slot->flow;
  const struct tier_log *log = flow->of;
  const uint32_t bytes = flow->cell->block_bytes;
  return tier_block_is(flow->bed, slot->read.record.payload, bytes, log->seed,
                       slot->index * (uint64_t)bytes);
}

static uint64_t device_reads(const struct tier_log *log) {
  kvstow_tier_stats stats = {.size = sizeof stats};
  kvstow_tier_get_stats(log->tier, &stats);
  return stats.device_reads;
}

static bool read_run(struct tier_bed *bed, struct tier_log *log, const struct tier_cell *cell,
                     struct tier_sample *sample) {
  if (log->held.block_bytes != cell->block_bytes || log->held.count != cell->count) {
    struct tier_sample untimed;
    if (!append_run(bed, log, cell, &untimed)) return false;
  }
  struct tier_flow flow = {.bed = bed,
                           .cell = cell,
                           .tier = log->tier,
                           .of = log,
                           .send = record_send,
                           .check = record_check,
                           .latency = &sample->latency};
  const uint64_t before = device_reads(log);
  const struct measure_span begun = measure_begin();
  const int rc = tier_flow_run(&flow);
  sample->span = measure_end(begun);
  sample->bytes = cell->count * record_bytes(cell);
  sample->device_reads = device_reads(log) - before;
  if (flow.wrong) bench_fail(bed->report, "wrong bytes in a record");
  return !flow.wrong && (rc == 0 || tier_fail(bed, log->tier, "read", rc));
}

bool tier_log_run(struct tier_bed *bed, const struct tier_cell *cell, const struct tier_way *way,
                  struct tier_sample *sample) {
  struct tier_log *log = bed->log[tier_engine_index(way->engine)];
  if (!tier_tune(bed, log->tier, way)) return false;
  return (cell->op == TIER_APPEND ? append_run : read_run)(bed, log, cell, sample);
}

/* ---- the limit -------------------------------------------------------------------------------- */

/* Requests of a record's size; when writing, those that the disk likes best. */
bool tier_log_limit(struct tier_bed *bed, const struct tier_cell *cell, bool threads,
                    struct tier_sample *sample) {
  const bool write = cell->op == TIER_APPEND;
  const struct raw_extent extent = {bed->log_limit_fd, 0, bed->log_limit_bytes};
  const struct raw_uring_job job = {
      .extents = &extent,
      .extents_count = 1,
      .block_bytes = write ? TIER_WRITE_BLOCK_BYTES : (uint32_t)record_bytes(cell),
      .depth = write ? TIER_WRITE_DEPTH : cell->depth,
      .total_bytes = cell->count * record_bytes(cell),
      .write = write,
      .threads = threads,
      .spread = write,
      .buffers = bed->memory};
  return tier_run_raw(bed, &job, sample);
}

/* ---- the stores ------------------------------------------------------------------------------- */

/* Until no segment is left that was never written. */
static int wear_in(struct tier_bed *bed, struct tier_log *log, size_t bytes) {
  const struct tier_cell cell = {TIER_APPEND, 1 << 20, 1, bytes >> 20};
  static struct measure_latency untimed;
  int rc = describe(bed, log, &cell);
  while (rc == 0) rc = append(log, &cell, &untimed);
  log->held.count = 0;
  return rc == KVSTOW_ENOSPC ? give_up_all(log) : rc;
}

static int open_log(struct tier_bed *bed, struct tier_log *log, kvstow_engine engine, size_t bytes,
                    char why[KVSTOW_MESSAGE_BYTES]) {
  const char *dir = log->dir;
  kvstow_tier_options o;
  kvstow_tier_options_init(&o);
  o.dirs = &dir;
  o.dirs_count = 1;
  o.engine = engine;
  o.segment_bytes = SEGMENT_BYTES;
  /* a sixteenth for the headers of the smallest records */
  o.budget_bytes =
      ((bytes + bytes / 16) / SEGMENT_BYTES + 1 + SEGMENTS_SPARE) * (uint64_t)SEGMENT_BYTES;
  snprintf(log->dir, sizeof log->dir, "%s/%s", bed->dir, tier_engine_name(engine));
  log->writes_max = bytes / TIER_RECORD_LEAST_BYTES;
  log->writes = calloc(log->writes_max, sizeof *log->writes);
  log->headers = measure_memory(log->writes_max * KVSTOW_PAGE_BYTES);
  sem_init(&log->room, 0, TIER_APPEND_BATCHES);
  if (log->writes == NULL || log->headers == NULL) return KVSTOW_ENOMEM;
  const int rc = kvstow_tier_open(&o, &log->tier, why, KVSTOW_MESSAGE_BYTES);
  return rc == 0 ? wear_in(bed, log, bytes) : rc;
}

bool tier_log_open(struct tier_bed *bed, size_t bytes) {
  char path[BENCH_PATH_BYTES + 16], why[KVSTOW_MESSAGE_BYTES] = "";
  snprintf(path, sizeof path, "%s/overwritten", bed->dir);
  bed->log_limit_bytes = bytes + bytes / 8;
  bed->log_limit_fd = raw_uring_create(path, bed->log_limit_bytes);
  if (bed->log_limit_fd < 0) return tier_limit_failed(bed, bed->log_limit_fd);
  for (int i = 0; i < TIER_ENGINES; i++) {
    if (bed->tier[i] == NULL) continue;
    bed->log[i] = calloc(1, sizeof *bed->log[i]);
    if (bed->log[i] == NULL) abort();
    const int rc = open_log(bed, bed->log[i], tier_engines[i], bytes, why);
    if (rc == 0) continue;
    bench_fail(bed->report, "the log: %s: %s", kvstow_strerror(rc), why);
    return false;
  }
  return true;
}

void tier_log_close(struct tier_bed *bed) {
  for (int i = 0; i < TIER_ENGINES; i++) {
    struct tier_log *log = bed->log[i];
    if (log == NULL) continue;
    (void)kvstow_tier_close(log->tier);
    if (log->dir[0] != '\0') bench_scratch_remove(log->dir);
    measure_memory_free(log->headers, log->writes_max * KVSTOW_PAGE_BYTES);
    sem_destroy(&log->room);
    free(log->writes);
    free(log);
  }
  if (bed->log_limit_fd > 0) close(bed->log_limit_fd);
}
