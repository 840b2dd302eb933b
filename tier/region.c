/* tier/region.c - see region.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tier/region.h"

#include <sys/mman.h>

#define HUGE_BYTES ((size_t)2 << 20)

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* A last huge page cut short would be small pages: a device takes each of them by itself. */
static size_t whole(size_t bytes) {
  return (bytes + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
}

uint8_t *kvstow__region_map(size_t wanted) {
  const size_t bytes = whole(wanted), more = bytes + HUGE_BYTES;
  uint8_t *map =
      mmap(NULL, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return NULL;
  const size_t before = (HUGE_BYTES - (uintptr_t)map % HUGE_BYTES) % HUGE_BYTES;
  if (before > 0) munmap(map, before);
  munmap(map + before + bytes, more - before - bytes);
  madvise(map + before, bytes, MADV_HUGEPAGE); /* a wish */
  return map + before;
}

void kvstow__region_populate(uint8_t *region, size_t bytes) {
  madvise(region, whole(bytes), MADV_POPULATE_WRITE); /* kernels before 5.14: EINVAL */
}

void kvstow__region_unmap(uint8_t *region, size_t bytes) {
  if (region) munmap(region, whole(bytes));
}
