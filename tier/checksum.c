/* tier/checksum.c - XXH3-64, the checksum of planes, header pages and tables.
 *
 * The only file that includes xxhash for the tier: on x86-64 the dispatching header picks AVX2 or
 * AVX-512 at run time (31 GB/s against 11.6 GB/s for the plain library). Elsewhere, or where the
 * dispatch header is missing, the plain function gives the same value.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <kvstow/tier.h>

#include "tier/format.h"

#include <string.h>
#include <xxhash.h>
#if defined(__x86_64__) && defined(__has_include)
#if __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#endif
#endif

uint64_t kvstow_checksum(const void *bytes, size_t length) {
  return XXH3_64bits(bytes, length);
}

uint64_t kvstow_plane_checksum(const void *plane, uint32_t plane_bytes, uint32_t part_bytes) {
  if (part_bytes == 0 || part_bytes >= plane_bytes) return kvstow_checksum(plane, plane_bytes);
  const uint64_t parts[2] = {
      kvstow_checksum(plane, part_bytes),
      kvstow_checksum((const uint8_t *)plane + part_bytes, plane_bytes - part_bytes)};
  return kvstow_checksum(parts, sizeof parts);
}

uint64_t kvstow__page_checksum(const void *page, size_t field_offset) {
  /* Hashes a copy: other threads may be reading the page, so its field is not zeroed in place. */
  uint8_t copy[KVSTOW_PAGE_BYTES];
  memcpy(copy, page, sizeof copy);
  memset(copy + field_offset, 0, sizeof(uint64_t));
  return XXH3_64bits(copy, sizeof copy);
}
