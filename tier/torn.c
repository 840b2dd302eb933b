/* tier/torn.c - records that power loss left incomplete.
 *
 * A header page on disk says nothing of the planes behind it: until the barrier they may arrive in any
 * order, or not at all. A record without its planes must not be counted as held: whoever stores the
 * block again would be told that it is there already, and the flush after that would promise what the
 * disk does not have. So what recovery walks it also reads, which is at most the open segments.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

#include "tier/pump.h"

#define CHUNK_BYTES ((uint64_t)1 << 20)
#define READINGS_MAX 3 /* of a record */

static uint64_t chunk_planes(const kvstow__entry *entry) {
  const uint64_t planes = CHUNK_BYTES / entry->plane_bytes;
  if (planes == 0) return 1;
  return planes < entry->planes ? planes : entry->planes;
}

static bool plane_torn(kvstow__opener *opener, const void *header, uint32_t plane, void *bytes) {
  const kvstow__header *h = header;
  const uint64_t *sums = (const void *)((const uint8_t *)header + sizeof *h);
  if (opener) {
    const int code = kvstow__open_plane(opener, plane, bytes);
    if (code) return code == KVSTOW_ECORRUPT;
  }
  return kvstow_plane_checksum(bytes, h->plane_bytes, h->part_bytes) != sums[plane];
}

/* What one reading of a record tells. */
typedef enum finding {
  WHOLE,
  TORN,
  UNREAD, /* nothing: a read error, no memory */
} finding;

/* A file that ends inside the record is as good as a wrong sum. */
static finding look_at_planes(kvstow_tier *tier, uint32_t id, const kvstow__entry *entry,
                              uint8_t *buffer, kvstow__opener *opener) {
  uint8_t *planes = buffer + KVSTOW_PAGE_BYTES;
  uint64_t at = ((uint64_t)entry->page + 1) * KVSTOW_PAGE_BYTES;
  const uint64_t step = chunk_planes(entry);
  for (uint64_t first = 0; first < entry->planes; first += step) {
    const uint64_t count = step < entry->planes - first ? step : entry->planes - first;
    const int error = kvstow__read_patiently(tier, id, planes, count * entry->plane_bytes, at);
    if (error) return error == ENODATA ? TORN : UNREAD;
    for (uint64_t i = 0; i < count; i++)
      if (plane_torn(opener, buffer, (uint32_t)(first + i), planes + i * entry->plane_bytes))
        return TORN;
    at += count * entry->plane_bytes;
  }
  return WHOLE;
}

/* The header page was good when it was walked; a disk may answer otherwise another time. */
static finding look(kvstow_tier *tier, uint32_t id, kvstow__life life, const kvstow__entry *entry,
                    uint8_t *buffer) {
  const kvstow__header *header = (const void *)buffer;
  const uint64_t at = (uint64_t)entry->page * KVSTOW_PAGE_BYTES;
  const int code = kvstow__read_header(tier, id, life, at, buffer);
  if (code) return code == KVSTOW_EMISS ? TORN : UNREAD;
  if (header->planes != entry->planes || header->plane_bytes != entry->plane_bytes) return TORN;
  kvstow__opener *opener = NULL;
  if (tier->cipher && kvstow__opener_new(tier->cipher, buffer, &opener) != 0) return UNREAD;
  const finding found = look_at_planes(tier, id, entry, buffer, opener);
  kvstow__opener_free(opener);
  return found;
}

/* One wrong answer of a disk shall not cost a record, and one error shall not save a torn one: it is read until one
 * reading finds it whole or two find it torn; three times at most. One that could never be read is left to those who will. */
static bool is_torn(kvstow_tier *tier, uint32_t id, kvstow__life life, const kvstow__entry *entry,
                    uint8_t *buffer) {
  unsigned torn = 0;
  for (int reading = 0; reading < READINGS_MAX && torn < 2; reading++) {
    const finding found = look(tier, id, life, entry, buffer);
    if (found == WHOLE) return false;
    torn += found == TORN;
  }
  return torn > 0;
}

int kvstow__torn_mark(kvstow_tier *tier, uint32_t id, kvstow__life life, kvstow__entry *entries,
                      uint32_t count) {
  uint64_t largest = 0;
  for (uint32_t i = 0; i < count; i++) {
    const uint64_t bytes = chunk_planes(&entries[i]) * entries[i].plane_bytes;
    if (bytes > largest) largest = bytes;
  }
  if (largest == 0) return 0;
  uint8_t *buffer = aligned_alloc(KVSTOW_PAGE_BYTES, KVSTOW_PAGE_BYTES + largest);
  if (!buffer) return KVSTOW_ENOMEM;
  for (uint32_t i = 0; i < count; i++) {
    kvstow__entry *entry = &entries[i];
    if (entry->flags & KVSTOW__ERASED) continue;
    if (is_torn(tier, id, life, entry, buffer)) kvstow__entry_erase(entry);
  }
  free(buffer);
  return 0;
}
