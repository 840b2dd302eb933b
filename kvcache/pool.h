/* pool.h - RAM for blocks: one fixed region, cut into frames.
 *
 * The region is one anonymous mapping, huge pages advised, that never moves and is never purged (it
 * may be pinned by a GPU or registered with a NIC). A private jemalloc arena hands it out in slabs
 * through extent hooks that carve from the region and return NULL when it is full, so that the budget
 * is the region. Slabs are cut into equal slots: jemalloc's size classes alone would lose up to a
 * quarter of it.
 *
 * A frame is the room of one block: a payload slot and a 4 KiB header slot. Its owner is an index
 * entry, or KVS_NO_OWNER while a block is being filled.
 *
 * Not thread-safe: the store's lock guards it, but the addresses of a frame in use may be asked for
 * without it. They stay valid until the frame is given back.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_KVCACHE_POOL_H
#define KVSTOW_KVCACHE_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVS_NO_FRAME UINT32_MAX
#define KVS_NO_OWNER UINT32_MAX

struct kvs_pool;

/* `bytes` is a multiple of 2 MiB. 0, KVSTOW_ENOMEM or KVSTOW_EBUDGET. */
int kvs_pool_create(uint64_t bytes, bool populate, struct kvs_pool **pool);
void kvs_pool_destroy(struct kvs_pool *pool);

void kvs_pool_region(const struct kvs_pool *pool, void **base, size_t *bytes);

/* A frame for a payload of `payload_bytes` (a multiple of 4096), or KVS_NO_FRAME. */
uint32_t kvs_pool_take(struct kvs_pool *pool, uint32_t payload_bytes);
void kvs_pool_give(struct kvs_pool *pool, uint32_t frame);

void *kvs_pool_payload(const struct kvs_pool *pool, uint32_t frame);
void *kvs_pool_header(const struct kvs_pool *pool, uint32_t frame);
/* Where the header page of a frame is that may be given back meanwhile: somewhere, or NULL. To be fetched ahead, not to be
 * read. No lock. */
const void *kvs_pool_header_near(const struct kvs_pool *pool, uint32_t frame);
uint32_t kvs_pool_owner(const struct kvs_pool *pool, uint32_t frame);
void kvs_pool_set_owner(struct kvs_pool *pool, uint32_t frame, uint32_t owner);

/* Calls `each` for the other frames in use on the slab of `frame` (which may be given back already).
 * `each` may give the frame it is shown. For emptying a slab that another size needs. */
void kvs_pool_neighbours(struct kvs_pool *pool, uint32_t frame,
                         void (*each)(void *arg, uint32_t frame, uint32_t owner), void *arg);

struct kvs_pool_stats {
  uint64_t region_bytes;
  uint64_t slab_bytes; /* taken from the region, allocator's padding apart */
  uint64_t frames;
  uint64_t frame_bytes; /* payload and header of frames in use */
  uint64_t payload_bytes;
  uint64_t capacity_frames; /* of the size used most: in use, free, and still to be carved */
  uint64_t metadata_bytes;
};
void kvs_pool_get_stats(const struct kvs_pool *pool, struct kvs_pool_stats *stats);

#endif
