/* region.h - the one mapping, and a jemalloc arena that lives in it.
 *
 * jemalloc asks its extent hooks for room; ours carve the region front to back and never take
 * anything back, so jemalloc keeps and coalesces what is freed (decay off: nothing is purged; a
 * purged page under a registered buffer would read as zeros, see facts on READ_FIXED).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_KVCACHE_REGION_H
#define KVSTOW_KVCACHE_REGION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kvs_region;

int kvs_region_create(uint64_t bytes, bool populate, struct kvs_region **region);
void kvs_region_destroy(struct kvs_region *region);

char *kvs_region_base(const struct kvs_region *region);
uint64_t kvs_region_bytes(const struct kvs_region *region);

/* 4 KiB aligned; NULL when the region is full. */
void *kvs_region_take(struct kvs_region *region, size_t bytes);
void kvs_region_give(struct kvs_region *region, void *memory);

/* What a request for `bytes` costs, padding included. */
size_t kvs_region_cost(size_t bytes);

#endif
