/* tier/rooms.h - small buffers for device transfers, used again and again: header pages, footers.
 *
 * Memory that a device has never transferred to or from may cost it dearly the first time: on a virtual machine
 * whose host brings its pages in one by one, 1 to 2 ms for each new page of the heap, with all other
 * requests waiting (bench/RESULTS.md). So these come from one huge page that is kept.
 *
 * Any thread.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_ROOMS_H
#define KVSTOW_TIER_ROOMS_H

#include <stddef.h>

#include <kvstow/tier.h>

#define KVSTOW__ROOM_BYTES ((size_t)64 << 10)

typedef struct kvstow__rooms kvstow__rooms;

kvstow__rooms *kvstow__rooms_new(void); /* NULL: no memory */
void kvstow__rooms_free(kvstow__rooms *rooms);

/* Page aligned. More than a room, or one when all are taken, comes from the heap. NULL: no memory. */
void *kvstow__rooms_take(kvstow__rooms *rooms, size_t bytes);
void kvstow__rooms_give(kvstow__rooms *rooms, void *memory); /* NULL is fine */

/* A tier's own, which the device knows since the tier was opened. They end with it. */
kvstow__rooms *kvstow__tier_rooms(kvstow_tier *tier);

#endif
