/* index.c - see index.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/index.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_ENTRIES (1u << KVS_CHUNK_SHIFT)
#define BUCKETS_MIN 4u

/* The buckets go by the lowest bits. */
static uint64_t shard_number(uint64_t key_lo) {
  return (key_lo >> 32) % KVS_SHARDS;
}

static struct kvs_shard *shard_of(const struct kvs_index *index, kvstow_key key) {
  return (struct kvs_shard *)&index->shards[shard_number(key.lo)];
}

int kvs_index_init(struct kvs_index *index, uint64_t entries_max) {
  memset(index, 0, sizeof *index);
  if (entries_max > UINT32_MAX - CHUNK_ENTRIES) entries_max = UINT32_MAX - CHUNK_ENTRIES;
  index->chunks_max = (uint32_t)((entries_max + CHUNK_ENTRIES - 1) / CHUNK_ENTRIES);
  index->free = KVS_NO_ENTRY;
  /* Sized once: lookups follow these pointers without the store's lock. */
  index->chunks = calloc(index->chunks_max, sizeof *index->chunks);
  index->ram_nodes = calloc(index->chunks_max, sizeof *index->ram_nodes);
  index->ssd_nodes = calloc(index->chunks_max, sizeof *index->ssd_nodes);
  bool ok = index->chunks != NULL && index->ram_nodes != NULL && index->ssd_nodes != NULL;
  for (uint32_t i = 0; i < KVS_SHARDS; i++) {
    struct kvs_shard *shard = &index->shards[i];
    kvstow__mutex_init(&shard->lock, KVS_RANK_SHARD);
    shard->buckets = malloc(BUCKETS_MIN * sizeof *shard->buckets);
    if (shard->buckets == NULL) {
      ok = false;
      continue;
    }
    memset(shard->buckets, 0xff, BUCKETS_MIN * sizeof *shard->buckets);
    shard->mask = BUCKETS_MIN - 1;
  }
  return ok ? 0 : KVSTOW_ENOMEM;
}

void kvs_index_finish(struct kvs_index *index) {
  for (uint32_t i = 0; i < KVS_SHARDS; i++) {
    kvstow__mutex_finish(&index->shards[i].lock);
    free(index->shards[i].buckets);
  }
  for (uint32_t i = 0; i < index->chunks_count; i++) free(index->chunks[i]);
  free(index->chunks);
  free(index->ram_nodes);
  free(index->ssd_nodes);
}

uint32_t kvs_entry_new(struct kvs_index *index) {
  uint32_t id = index->free;
  if (id != KVS_NO_ENTRY) {
    index->free = kvs_entry(index, id)->next;
  } else {
    const uint32_t chunk = index->used >> KVS_CHUNK_SHIFT;
    if (chunk == index->chunks_max) return KVS_NO_ENTRY;
    if (chunk == index->chunks_count) {
      struct kvs_entry *entries = malloc(CHUNK_ENTRIES * sizeof *entries);
      if (entries == NULL) return KVS_NO_ENTRY;
      index->chunks[chunk] = entries;
      index->ram_nodes[chunk] = (char *)entries + offsetof(struct kvs_entry, ram_node);
      index->ssd_nodes[chunk] = (char *)entries + offsetof(struct kvs_entry, ssd_node);
      index->chunks_count++;
    }
    id = index->used++;
  }
  *kvs_entry(index, id) = (struct kvs_entry){.frame = UINT32_MAX};
  index->live++;
  return id;
}

void kvs_entry_free(struct kvs_index *index, uint32_t id) {
  struct kvs_entry *entry = kvs_entry(index, id);
  entry->root = KVS_NO_ENTRY; /* what a walk over all ids skips */
  entry->next = index->free;
  index->free = id;
  index->live--;
}

void kvs_shard_lock(struct kvs_index *index, kvstow_key key) {
  kvstow__lock(&shard_of(index, key)->lock);
}

void kvs_shard_unlock(struct kvs_index *index, kvstow_key key) {
  kvstow__unlock(&shard_of(index, key)->lock);
}

void kvs_shard_ahead(const struct kvs_index *index, kvstow_key key) {
  const struct kvs_shard *shard = shard_of(index, key);
  const uint32_t *buckets = atomic_load_explicit(&shard->buckets, memory_order_relaxed);
  const uint32_t mask = atomic_load_explicit(&shard->mask, memory_order_relaxed);
  __builtin_prefetch((const char *)buckets + (key.lo & mask) * sizeof *buckets);
}

void kvs_shard_ahead_entry(const struct kvs_index *index, kvstow_key key) {
  const struct kvs_shard *shard = shard_of(index, key);
  const uint32_t id = shard->buckets[key.lo & shard->mask];
  if (id == KVS_NO_ENTRY) return;
  const char *entry = (const char *)kvs_entry(index, id);
  __builtin_prefetch(entry);
  __builtin_prefetch(entry + sizeof(struct kvs_entry) - 1);
}

uint32_t kvs_shard_find(const struct kvs_index *index, kvstow_key key, uint32_t root) {
  const struct kvs_shard *shard = shard_of(index, key);
  for (uint32_t id = shard->buckets[key.lo & shard->mask]; id != KVS_NO_ENTRY;) {
    const struct kvs_entry *entry = kvs_entry(index, id);
    if (entry->key.lo == key.lo && entry->key.hi == key.hi && entry->root == root) return id;
    id = entry->next;
  }
  return KVS_NO_ENTRY;
}

uint32_t kvs_shard_find_half(const struct kvs_index *index, uint64_t key_lo, uint32_t root) {
  const struct kvs_shard *shard = &index->shards[shard_number(key_lo)];
  uint32_t id = shard->buckets[key_lo & shard->mask];
  while (id != KVS_NO_ENTRY) {
    const struct kvs_entry *entry = kvs_entry(index, id);
    if (entry->key.lo == key_lo && entry->root == root) break;
    id = entry->next;
  }
  return id;
}

static bool grow(struct kvs_index *index, struct kvs_shard *shard) {
  const uint32_t old_buckets = shard->mask + 1;
  uint32_t *buckets = malloc(2 * (size_t)old_buckets * sizeof *buckets);
  if (buckets == NULL) return false;
  const uint32_t mask = 2 * old_buckets - 1;
  memset(buckets, 0xff, 2 * (size_t)old_buckets * sizeof *buckets);
  for (uint32_t b = 0; b < old_buckets; b++)
    for (uint32_t id = shard->buckets[b]; id != KVS_NO_ENTRY;) {
      struct kvs_entry *entry = kvs_entry(index, id);
      const uint32_t next = entry->next, to = (uint32_t)entry->key.lo & mask;
      entry->next = buckets[to];
      buckets[to] = id;
      id = next;
    }
  free(shard->buckets);
  shard->buckets = buckets;
  shard->mask = mask;
  return true;
}

bool kvs_shard_insert(struct kvs_index *index, uint32_t id) {
  struct kvs_entry *entry = kvs_entry(index, id);
  struct kvs_shard *shard = shard_of(index, entry->key);
  if (shard->count > shard->mask + shard->mask / 2 && shard->mask < UINT32_MAX / 2 &&
      !grow(index, shard))
    return false;
  uint32_t *bucket = &shard->buckets[entry->key.lo & shard->mask];
  entry->next = *bucket;
  *bucket = id;
  shard->count++;
  return true;
}

void kvs_shard_remove(struct kvs_index *index, uint32_t id) {
  const struct kvs_entry *entry = kvs_entry(index, id);
  struct kvs_shard *shard = shard_of(index, entry->key);
  uint32_t *link = &shard->buckets[entry->key.lo & shard->mask];
  while (*link != id) link = &kvs_entry(index, *link)->next;
  *link = entry->next;
  shard->count--;
}

uint64_t kvs_index_bytes(const struct kvs_index *index) {
  uint64_t bytes = (uint64_t)index->chunks_count * CHUNK_ENTRIES * sizeof(struct kvs_entry);
  bytes += index->chunks_max * (sizeof *index->chunks + 2 * sizeof *index->ram_nodes);
  for (uint32_t i = 0; i < KVS_SHARDS; i++)
    bytes += ((uint64_t)index->shards[i].mask + 1) * sizeof(uint32_t);
  return bytes;
}
