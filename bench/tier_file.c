/* tier_file.c - `kvstow bench tier`: reading a file in order, at random and in fragments, beside a bare loop
 * that does the same.
 *
 * Reads in order end where the file ends: what was read ahead is then used up, or counted as wasted.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/cold.h"
#include "bench/countdown.h"
#include "bench/raw_uring.h"
#include "bench/tier.h"

enum { CHUNK_BYTES = 4 << 20, SAMPLES = 64 };

static uint64_t next_random(uint64_t *seed) {
  *seed = *seed * 6364136223846793005u + 1442695040888963407u;
  return *seed >> 20;
}

/* ---- the file that is read -------------------------------------------------------------------- */

static int write_fully(int fd, const char *from, size_t bytes, uint64_t offset) {
  while (bytes > 0) {
    const ssize_t wrote = pwrite(fd, from, bytes, (off_t)offset);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return wrote < 0 ? -errno : -EIO;
    from += wrote, bytes -= (size_t)wrote, offset += (size_t)wrote;
  }
  return 0;
}

static int fill_file(struct tier_bed *bed) {
  uint64_t seed = TIER_FILE_SEED;
  int rc = -posix_fallocate(bed->fd, 0, (off_t)bed->file_bytes);
  for (uint64_t at = 0; at < bed->file_bytes && rc == 0; at += CHUNK_BYTES) {
    const uint64_t left = bed->file_bytes - at;
    const size_t piece = left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES;
    seed = measure_fill(bed->memory, piece, seed);
    rc = write_fully(bed->fd, bed->memory, piece, at);
  }
  return rc == 0 && fdatasync(bed->fd) != 0 ? -errno : rc;
}

int tier_file_make(struct tier_bed *bed) {
  snprintf(bed->path, sizeof bed->path, "%s/file", bed->dir);
  const int flags = O_RDWR | O_CREAT | O_CLOEXEC;
  bed->fd = open(bed->path, flags | O_DIRECT, 0600);
  bed->direct = bed->fd >= 0 && cold_direct(bed->fd);
  if (bed->fd < 0) bed->fd = open(bed->path, flags, 0600);
  return bed->fd < 0 ? -errno : fill_file(bed);
}

/* ---- what is read ----------------------------------------------------------------------------- */

static void swap(uint64_t *a, uint64_t *b) {
  const uint64_t was = *a;
  *a = *b;
  *b = was;
}

static uint64_t common_divisor(uint64_t a, uint64_t b) {
  while (b != 0) {
    const uint64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

/* Batches lie all over the file, none twice: what was read ahead once must not serve again. The blocks of one
 * are neighbours, and shuffled. */
static void plan_fragments(struct tier_bed *bed, const struct tier_cell *cell, uint64_t seed) {
  const uint64_t region = (uint64_t)TIER_FRAGMENTS * cell->block_bytes;
  const uint64_t regions = bed->file_bytes / region, start = next_random(&seed) % regions;
  uint64_t stride = regions * 5 / 8 + 1;
  while (common_divisor(stride, regions) != 1) stride++;
  for (size_t at = 0; at < cell->count; at += TIER_FRAGMENTS) {
    uint64_t *batch = bed->offsets + at;
    const uint64_t base = (start + at / TIER_FRAGMENTS * stride) % regions * region;
    for (size_t i = 0; i < TIER_FRAGMENTS; i++) batch[i] = base + i * cell->block_bytes;
    for (size_t i = TIER_FRAGMENTS - 1; i > 0; i--)
      swap(&batch[i], &batch[next_random(&seed) % (i + 1)]);
  }
}

void tier_file_plan(struct tier_bed *bed, const struct tier_cell *cell, unsigned round) {
  uint64_t seed = ((uint64_t)round << 32 | cell->block_bytes) + cell->depth;
  const uint64_t blocks = bed->file_bytes / cell->block_bytes;
  if (cell->op == TIER_FRAGMENTED) plan_fragments(bed, cell, seed);
  for (size_t i = 0; i < cell->count; i++) {
    if (cell->op == TIER_RANDOM)
      bed->offsets[i] = next_random(&seed) % blocks * cell->block_bytes;
    else if (cell->op == TIER_READ)
      bed->offsets[i] = (blocks - cell->count + i) * cell->block_bytes;
  }
}

static bool make_cold(struct tier_bed *bed) {
  const int rc = bed->direct ? 0 : cold_drop(bed->fd);
  if (rc == 0) return true;
  bench_fail(bed->report, "refused: %s stays in the page cache, and that is not an SSD's speed: %s",
             bed->path, strerror(-rc));
  return false;
}

/* ---- ways to read ----------------------------------------------------------------------------- */

static bool file_block_is(const struct tier_bed *bed, const struct tier_cell *cell,
                          const char *block, size_t index) {
  return tier_block_is(bed, block, cell->block_bytes, TIER_FILE_SEED, bed->offsets[index]);
}

static int read_one_by_one(struct tier_bed *bed, const struct tier_cell *cell, kvstow_file *file,
                           struct measure_latency *latency, bool *wrong) {
  int rc = 0;
  for (size_t i = 0; i < cell->count && rc == 0; i++) {
    const uint64_t begun = measure_now_ns();
    rc = kvstow_file_read_at(file, bed->offsets[i], bed->memory, cell->block_bytes);
    measure_latency_add(latency, measure_now_ns() - begun);
    if (rc == 0) *wrong |= !file_block_is(bed, cell, bed->memory, i);
  }
  return rc;
}

static void flow_read_done(kvstow_file_read *read) {
  tier_flow_done(read->arg, read->result);
}

static int flow_send(struct tier_slot *slot) {
  const struct tier_flow *flow = slot->flow;
  const uint32_t bytes = flow->cell->block_bytes;
  kvstow_file *file = flow->of;
  slot->read.file = (kvstow_file_read){.file = file,
                                       .offset = flow->bed->offsets[slot->index],
                                       .bytes = bytes,
                                       .to = flow->bed->memory + slot->number * bytes,
                                       .done = flow_read_done,
                                       .arg = slot};
  return kvstow_file_read_batch(flow->tier, &(kvstow_file_read *){&slot->read.file}, 1);
}

static bool flow_check(struct tier_slot *slot) {
  return file_block_is(slot->flow->bed, slot->flow->cell, slot->read.file.to, slot->index);
}

static int read_many(struct tier_bed *bed, const struct tier_cell *cell, kvstow_tier *tier,
                     kvstow_file *file, struct measure_latency *latency, bool *wrong) {
  struct tier_flow flow = {.bed = bed,
                           .cell = cell,
                           .tier = tier,
                           .of = file,
                           .send = flow_send,
                           .check = flow_check,
                           .latency = latency};
  const int rc = tier_flow_run(&flow);
  *wrong |= flow.wrong;
  return rc;
}

static void fragment_done(kvstow_file_read *read) {
  countdown_one(read->arg, read->result);
}

/* A batch at a time, and its latency for each of its blocks. */
static int read_fragments(struct tier_bed *bed, const struct tier_cell *cell, kvstow_tier *tier,
                          kvstow_file *file, struct measure_latency *latency, bool *wrong) {
  kvstow_file_read reads[TIER_FRAGMENTS], *batch[TIER_FRAGMENTS];
  int rc = 0;
  for (size_t at = 0; at < cell->count && rc == 0; at += TIER_FRAGMENTS) {
    struct countdown countdown;
    const uint64_t begun = measure_now_ns();
    countdown_begin(&countdown, TIER_FRAGMENTS);
    for (size_t i = 0; i < TIER_FRAGMENTS; i++) {
      reads[i] = (kvstow_file_read){.file = file,
                                    .offset = bed->offsets[at + i],
                                    .bytes = cell->block_bytes,
                                    .to = bed->memory + i * cell->block_bytes,
                                    .done = fragment_done,
                                    .arg = &countdown};
      batch[i] = &reads[i];
    }
    rc = kvstow_file_read_batch(tier, batch, TIER_FRAGMENTS);
    if (rc == 0) rc = countdown_wait(&countdown);
    const uint64_t ns = measure_now_ns() - begun;
    for (size_t i = 0; i < TIER_FRAGMENTS && rc == 0; i++) {
      measure_latency_add(latency, ns);
      *wrong |= !file_block_is(bed, cell, reads[i].to, at + i);
    }
  }
  return rc;
}

static kvstow_tier_stats stats_of(kvstow_tier *tier) {
  kvstow_tier_stats stats = {.size = sizeof stats};
  kvstow_tier_get_stats(tier, &stats);
  return stats;
}

bool tier_file_run(struct tier_bed *bed, const struct tier_cell *cell, const struct tier_way *way,
                   struct tier_sample *sample) {
  kvstow_tier *tier = tier_of(bed, way);
  kvstow_file *file;
  bool wrong = false;
  if (!make_cold(bed) || !tier_tune(bed, tier, way)) return false;
  const kvstow_tier_stats before = stats_of(tier);
  int rc = kvstow_file_open(tier, bed->path, &file);
  if (rc != 0) return tier_fail(bed, tier, "open", rc);
  const bool direct = kvstow_file_direct(file);
  const struct measure_span begun = measure_begin();
  if (cell->op == TIER_FRAGMENTED)
    rc = read_fragments(bed, cell, tier, file, &sample->latency, &wrong);
  else if (cell->depth == 1)
    rc = read_one_by_one(bed, cell, file, &sample->latency, &wrong);
  else
    rc = read_many(bed, cell, tier, file, &sample->latency, &wrong);
  sample->span = measure_end(begun);
  const int closed = kvstow_file_close(file);
  if (rc != 0 || closed != 0) return tier_fail(bed, tier, "read", rc != 0 ? rc : closed);
  const kvstow_tier_stats after = stats_of(tier);
  sample->bytes = (uint64_t)cell->count * cell->block_bytes;
  sample->device_reads = after.device_reads - before.device_reads;
  sample->prefetch.issued = after.sequential.issued - before.sequential.issued;
  sample->prefetch.used = after.sequential.used - before.sequential.used;
  sample->prefetch.wasted = after.sequential.wasted - before.sequential.wasted;
  if (wrong) bench_fail(bed->report, "wrong bytes were read");
  if (direct != bed->direct) bench_fail(bed->report, "direct I/O works here, but is not used");
  if (after.device_read_bytes - before.device_read_bytes < sample->bytes)
    bench_fail(bed->report, "less was read from the device than was delivered");
  return !bed->report->failed;
}

/* ---- the limit -------------------------------------------------------------------------------- */

bool tier_file_limit(struct tier_bed *bed, const struct tier_cell *cell, bool threads,
                     struct tier_sample *sample) {
  const struct raw_extent extent = {bed->fd, 0, bed->file_bytes};
  const struct raw_uring_job job = {.extents = &extent,
                                    .extents_count = 1,
                                    .block_bytes = cell->block_bytes,
                                    .depth = cell->depth,
                                    .total_bytes = (uint64_t)cell->count * cell->block_bytes,
                                    .threads = threads,
                                    .offsets = bed->offsets,
                                    .buffers = bed->memory};
  return make_cold(bed) && tier_run_raw(bed, &job, sample);
}
