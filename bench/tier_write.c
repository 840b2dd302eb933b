/* tier_write.c - `kvstow bench tier`: writing a new file from front to back, beside a bare loop that does the
 * same.
 *
 * The file's blocks are reserved but were never written, the limit's as well: that is what
 * kvstow_file_create gives, and on some disks it is slower than overwriting. Both times include making the
 * file durable.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "bench/tier.h"

enum { CHUNK_BYTES = 4 << 20, SAMPLES = 64 };

/* What was written, by plain reads: all of it, or some blocks. */
static bool written_right(struct tier_bed *bed, const struct tier_cell *cell, const char *path) {
  const uint64_t bytes = (uint64_t)cell->count * cell->block_bytes;
  const size_t piece = bed->every_byte ? CHUNK_BYTES : cell->block_bytes;
  const uint64_t pieces = (bytes + piece - 1) / piece;
  uint64_t seed = bed->generation; /* of the sample */
  char *buffer = measure_memory(CHUNK_BYTES);
  const int fd = open(path, O_RDONLY | O_CLOEXEC | (bed->direct ? O_DIRECT : 0));
  bool right = fd >= 0 && buffer != NULL;
  for (uint64_t i = 0; i < (bed->every_byte ? pieces : SAMPLES) && right; i++) {
    const uint64_t at =
        (bed->every_byte ? i : (seed = seed * 6364136223846793005u + 1) % pieces) * piece;
    const size_t length = bytes - at < piece ? (size_t)(bytes - at) : piece;
    right = pread(fd, buffer, piece, (off_t)at) == (ssize_t)length &&
            tier_block_is(bed, buffer, length, tier_content_seed(bed), at);
  }
  if (fd >= 0) close(fd);
  measure_memory_free(buffer, CHUNK_BYTES);
  if (!right) bench_fail(bed->report, "%s: wrong bytes were written", path);
  return right;
}

static void write_path(const struct tier_bed *bed, char path[BENCH_PATH_BYTES + 16]) {
  snprintf(path, BENCH_PATH_BYTES + 16, "%s/written", bed->dir);
}

static int append_all(struct tier_bed *bed, const struct tier_cell *cell, kvstow_file *file,
                      struct measure_latency *latency) {
  int rc = 0;
  for (size_t i = 0; i < cell->count && rc == 0; i++) {
    const uint64_t begun = measure_now_ns();
    rc = kvstow_file_append(file, bed->memory + i * cell->block_bytes, cell->block_bytes);
    measure_latency_add(latency, measure_now_ns() - begun);
  }
  return rc == 0 ? kvstow_file_flush(file) : rc;
}

bool tier_write_run(struct tier_bed *bed, const struct tier_cell *cell, const struct tier_way *way,
                    struct tier_sample *sample) {
  kvstow_tier *tier = tier_of(bed, way);
  char path[BENCH_PATH_BYTES + 16];
  kvstow_file *file;
  write_path(bed, path);
  sample->bytes = (uint64_t)cell->count * cell->block_bytes;
  tier_make_content(bed, (size_t)sample->bytes);
  if (!tier_tune(bed, tier, way)) return false;
  int rc = kvstow_file_create(tier, path, sample->bytes, &file);
  if (rc != 0) return tier_fail(bed, tier, "create", rc);
  const struct measure_span begun = measure_begin();
  rc = append_all(bed, cell, file, &sample->latency);
  sample->span = measure_end(begun);
  const int closed = kvstow_file_close(file);
  const bool ok = rc == 0 && closed == 0 ? written_right(bed, cell, path)
                                         : tier_fail(bed, tier, "append", rc != 0 ? rc : closed);
  (void)unlink(path);
  return ok;
}

/* As many bytes, into a new file as well; but in the large requests that a disk likes best. */
bool tier_write_limit(struct tier_bed *bed, const struct tier_cell *cell, bool threads,
                      struct tier_sample *sample) {
  const uint64_t bytes = (uint64_t)cell->count * cell->block_bytes;
  char path[BENCH_PATH_BYTES + 16];
  write_path(bed, path);
  tier_make_content(bed, (size_t)bytes);
  const int fd =
      open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | (bed->direct ? O_DIRECT : 0), 0600);
  int rc = fd < 0 ? -errno : -posix_fallocate(fd, 0, (off_t)bytes);
  const struct raw_extent extent = {fd, 0, bytes};
  const struct raw_uring_job job = {.extents = &extent,
                                    .extents_count = 1,
                                    .block_bytes = TIER_WRITE_BLOCK_BYTES,
                                    .depth = TIER_WRITE_DEPTH,
                                    .total_bytes = bytes,
                                    .write = true,
                                    .threads = threads,
                                    .buffers = bed->memory,
                                    .spread = true};
  const bool ok = rc == 0 ? tier_run_raw(bed, &job, sample) : tier_limit_failed(bed, rc);
  if (fd >= 0) close(fd);
  (void)unlink(path);
  return ok;
}
