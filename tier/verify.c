/* tier/verify.c - what was read is compared with what it should be, and the difference told.
 *
 * Every byte a reader gets has passed here: the header page by its checksum, store, life, place, key and
 * shape, the planes by their checksums in that header; in an encrypted store first by their seals.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
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
  kvstow__lock(&tier->lock);
  const bool alive = kvstow__segment_alive(&tier->segments[loc->segment], loc->generation);
  kvstow__unlock(&tier->lock);
  if (!alive) kvstow__count(&tier->counters.stale_reads, 1);
  return !alive;
}

int kvstow__verify_header(kvstow_tier *tier, const kvstow__read_job *job) {
  const kvstow_record_read *read = job->read;
  kvstow__header *header = read->header;
  const kvstow__expect expect = {.uuid = tier->uuid,
                                 .life = job->life,
                                 .page = read->loc.page,
                                 .segment_bytes = tier->segment_bytes};
  const kvstow__verdict verdict = kvstow__header_check(header, &expect);
  if (verdict != KVSTOW__GOOD && given_up(tier, job)) return KVSTOW_EMISS;
  if (verdict != KVSTOW__GOOD) return refuse_header(tier, read, kvstow__verdict_text(verdict));
  if (header->flags & KVSTOW__ERASED) return KVSTOW_EMISS;
  if (tier->cipher) {
    const int code = kvstow__open_header(tier->cipher, header);
    if (code == KVSTOW_ECORRUPT) return refuse_header(tier, read, "not what was encrypted");
    if (code) return code;
  }
  if (header->key.lo != read->key.lo || header->key.hi != read->key.hi)
    return refuse_header(tier, read, "another key");
  if (read->plane_count == 0) return 0;
  if (header->plane_bytes != read->plane_bytes ||
      (uint64_t)read->plane_first + read->plane_count > header->planes)
    return refuse_header(tier, read, "another shape");
  return 0;
}

static int refuse_plane(kvstow_tier *tier, const kvstow_record_read *read, uint32_t plane,
                        const char *why) {
  char path[KVSTOW__PATH_TEXT_BYTES];
  kvstow__count(&tier->counters.corrupt_planes, 1);
  return kvstow__fail(
      tier, KVSTOW_ECORRUPT, "%s: plane %" PRIu32 " at offset %" PRIu64 ": %s",
      kvstow__segment_path(tier, read->loc.segment, path), plane,
      (uint64_t)read->loc.page * KVSTOW_PAGE_BYTES + kvstow__record_bytes(plane, read->plane_bytes),
      why);
}

static int verify_plane(kvstow_tier *tier, const kvstow_record_read *read, kvstow__opener *opener,
                        uint32_t at) {
  const uint32_t plane = read->plane_first + at;
  const kvstow__header *header = read->header;
  uint8_t *bytes = (uint8_t *)read->payload + (size_t)at * read->plane_bytes;
  const int code = opener ? kvstow__open_plane(opener, plane, bytes) : 0;
  if (code == KVSTOW_ECORRUPT) return refuse_plane(tier, read, plane, "not what was encrypted");
  if (code) return code;
  const uint64_t expected = kvstow_record_sums(read->header)[plane];
  const uint64_t found = kvstow_plane_checksum(bytes, read->plane_bytes, header->part_bytes);
  if (found == expected) return 0;
  char why[80];
  snprintf(why, sizeof why, "expected checksum %016" PRIx64 ", found %016" PRIx64, expected, found);
  return refuse_plane(tier, read, plane, why);
}

int kvstow__verify_planes(kvstow_tier *tier, kvstow__piece *piece, uint64_t bytes, uint64_t *done) {
  const kvstow__read_job *job = piece->extent->owner;
  const kvstow_record_read *read = job->read;
  const uint64_t before = *done;
  kvstow__opener *opener = NULL;
  int code = tier->cipher ? kvstow__opener_new(tier->cipher, read->header, &opener) : 0;
  while (!code && piece->summed < piece->planes && *done - before < bytes) {
    code = verify_plane(tier, read, opener, piece->plane + piece->summed++);
    *done += read->plane_bytes;
  }
  kvstow__opener_free(opener);
  return code;
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
