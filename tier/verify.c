/* tier/verify.c - what was read is compared with what it should be, and the difference told.
 *
 * Every byte a reader gets has passed here: the header page by its checksum, store, life, place, key and
 * shape, the planes by their checksums in that header.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "tier/state.h"

static int refuse_header(kvstow_tier *tier, const kvstow_record_read *read, const char *why) {
  char path[KVSTOW__PATH_TEXT_BYTES];
  kvstow__count(&tier->counters.corrupt_headers, 1);
  return kvstow__fail(
      tier, KVSTOW_ECORRUPT,
      "%s: header page at offset %" PRIu64 ": %s (expected key %016" PRIx64 "%016" PRIx64 ")",
      kvstow__segment_path(tier, read->loc.segment, path),
      (uint64_t)read->loc.page * KVSTOW_PAGE_BYTES, why, read->key.hi, read->key.lo);
}

/* Reclaimed while the read was under way: an erase may have wiped it. */
static bool given_up(kvstow_tier *tier, const kvstow__read_job *job) {
  const kvstow_loc *loc = &job->read->loc;
  pthread_mutex_lock(&tier->lock);
  const bool alive = kvstow__segment_alive(&tier->segments[loc->segment], loc->generation);
  pthread_mutex_unlock(&tier->lock);
  if (!alive) kvstow__count(&tier->counters.stale_reads, 1);
  return !alive;
}

int kvstow__verify_header(kvstow_tier *tier, const kvstow__read_job *job) {
  const kvstow_record_read *read = job->read;
  const kvstow__header *header = read->header;
  const kvstow__expect expect = {.uuid = tier->uuid,
                                 .life = job->life,
                                 .page = read->loc.page,
                                 .segment_bytes = tier->segment_bytes};
  const kvstow__verdict verdict = kvstow__header_check(header, &expect);
  if (verdict != KVSTOW__GOOD && given_up(tier, job)) return KVSTOW_EMISS;
  if (verdict != KVSTOW__GOOD) return refuse_header(tier, read, kvstow__verdict_text(verdict));
  if (header->flags & KVSTOW__ERASED) return KVSTOW_EMISS;
  if (header->key.lo != read->key.lo || header->key.hi != read->key.hi)
    return refuse_header(tier, read, "another key");
  if (read->plane_count == 0) return 0;
  if (header->plane_bytes != read->plane_bytes ||
      (uint64_t)read->plane_first + read->plane_count > header->planes)
    return refuse_header(tier, read, "another shape");
  return 0;
}

int kvstow__verify_planes(kvstow_tier *tier, kvstow__piece *piece, uint64_t bytes, uint64_t *done) {
  const kvstow__read_job *job = piece->extent->owner;
  const kvstow_record_read *read = job->read;
  const kvstow__header *header = read->header;
  const uint64_t *sums = kvstow_record_sums(read->header);
  const uint64_t before = *done;
  while (piece->summed < piece->planes && *done - before < bytes) {
    const uint32_t at = piece->plane + piece->summed++, plane = read->plane_first + at;
    const uint64_t found =
        kvstow_plane_checksum((const uint8_t *)read->payload + (size_t)at * read->plane_bytes,
                              read->plane_bytes, header->part_bytes);
    *done += read->plane_bytes;
    if (found == sums[plane]) continue;
    char path[KVSTOW__PATH_TEXT_BYTES];
    kvstow__count(&tier->counters.corrupt_planes, 1);
    return kvstow__fail(tier, KVSTOW_ECORRUPT,
                        "%s: plane %" PRIu32 " at offset %" PRIu64 ": expected checksum %016" PRIx64
                        ", found %016" PRIx64,
                        kvstow__segment_path(tier, read->loc.segment, path), plane,
                        (uint64_t)read->loc.page * KVSTOW_PAGE_BYTES +
                            kvstow__record_bytes(plane, read->plane_bytes),
                        sums[plane], found);
  }
  return 0;
}

int kvstow__verify_unread(kvstow_tier *tier, const kvstow__read_job *job) {
  const kvstow_record_read *read = job->read;
  char path[KVSTOW__PATH_TEXT_BYTES], cause[64];
  return kvstow__fail(
      tier, KVSTOW_EIO, "%s: reading at offset %" PRIu64 ": %s",
      kvstow__segment_path(tier, read->loc.segment, path),
      (uint64_t)read->loc.page * KVSTOW_PAGE_BYTES,
      job->cause == ENODATA ? "the file ends early" : strerror_r(job->cause, cause, sizeof cause));
}
