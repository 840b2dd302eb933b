/* tier/rooms.c - see rooms.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tier/rooms.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include "tier/format.h"
#include "tier/region.h"

#define ROOMS 32u /* one huge page */

struct kvstow__rooms {
  uint8_t *memory;
  _Atomic uint32_t taken; /* a bit each */
};

kvstow__rooms *kvstow__rooms_new(void) {
  kvstow__rooms *rooms = calloc(1, sizeof *rooms);
  if (!rooms) return NULL;
  rooms->memory = kvstow__region_map(ROOMS * KVSTOW__ROOM_BYTES);
  if (rooms->memory) return rooms;
  free(rooms);
  return NULL;
}

void kvstow__rooms_free(kvstow__rooms *rooms) {
  if (!rooms) return;
  kvstow__region_unmap(rooms->memory, ROOMS * KVSTOW__ROOM_BYTES);
  free(rooms);
}

void *kvstow__rooms_take(kvstow__rooms *rooms, size_t bytes) {
  uint32_t taken = atomic_load(&rooms->taken);
  while (bytes <= KVSTOW__ROOM_BYTES && taken != UINT32_MAX) {
    const uint32_t room = (uint32_t)__builtin_ctz(~taken);
    if (atomic_compare_exchange_weak(&rooms->taken, &taken, taken | 1u << room))
      return rooms->memory + room * KVSTOW__ROOM_BYTES;
  }
  return aligned_alloc(KVSTOW_PAGE_BYTES, kvstow__round_up(bytes, KVSTOW_PAGE_BYTES));
}

void kvstow__rooms_give(kvstow__rooms *rooms, void *memory) {
  const uintptr_t offset = (uintptr_t)memory - (uintptr_t)rooms->memory;
  if (offset < ROOMS * KVSTOW__ROOM_BYTES)
    atomic_fetch_and(&rooms->taken, ~(1u << offset / KVSTOW__ROOM_BYTES));
  else
    free(memory);
}
