/* index.c - see index.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/index.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK_ENTRIES (1u << KVS_CHUNK_SHIFT)
#define CHUNK_BYTES (CHUNK_ENTRIES * sizeof(struct kvs_entry))
#define SLAB_BYTES ((size_t)2 << 20) /* a huge page */
#define SLAB_CHUNKS ((uint32_t)(SLAB_BYTES / CHUNK_BYTES))
#define SMALL_SLABS 16u    /* while there are so few, half a huge page is too much to waste */
#define LINE_BLOCKS_MAX 12 /* on average; then there are twice as many lines */

/* ---- entries -------------------------------------------------------------------------------- */

/* Address space, from the beginning of a huge page on. */
static char *huge_map(size_t bytes) {
  char *map = mmap(NULL, bytes + SLAB_BYTES, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return NULL;
  const size_t before = (SLAB_BYTES - (uintptr_t)map % SLAB_BYTES) % SLAB_BYTES;
  if (before > 0) munmap(map, before);
  munmap(map + before + bytes, SLAB_BYTES - before);
  return map + before;
}

/* Full slabs become huge pages in time, later ones are from the beginning: blocks that are asked for together were
 * stored together, but what a million of them take is more than the processor has page table entries for. */
static char *slab_map(struct kvs_index *index) {
  char *slab = huge_map(SLAB_BYTES);
  if (slab == NULL) return NULL;
  if (index->slab != NULL) (void)madvise(index->slab, SLAB_BYTES, MADV_HUGEPAGE); /* a wish */
  if (index->chunks_count / SLAB_CHUNKS >= SMALL_SLABS)
    (void)madvise(slab, SLAB_BYTES, MADV_HUGEPAGE);
  return slab;
}

static bool chunk_add(struct kvs_index *index) {
  const uint32_t chunk = index->chunks_count;
  if (chunk % SLAB_CHUNKS == 0) {
    char *slab = slab_map(index);
    if (slab == NULL) return false;
    index->slab = slab;
  }
  char *entries = index->slab + chunk % SLAB_CHUNKS * CHUNK_BYTES;
  index->chunks[chunk] = (struct kvs_entry *)(void *)entries;
  index->ram_nodes[chunk] = entries + offsetof(struct kvs_entry, ram_node);
  index->ssd_nodes[chunk] = entries + offsetof(struct kvs_entry, ssd_node);
  index->chunks_count++;
  return true;
}

uint32_t kvs_entry_new(struct kvs_index *index) {
  uint32_t id = index->free;
  if (id != KVS_NO_ENTRY) {
    index->free = kvs_entry(index, id)->next_free;
  } else {
    const uint32_t chunk = index->used >> KVS_CHUNK_SHIFT;
    if (chunk == index->chunks_max) return KVS_NO_ENTRY;
    if (chunk == index->chunks_count && !chunk_add(index)) return KVS_NO_ENTRY;
    id = index->used++;
  }
  struct kvs_entry *entry = kvs_entry(index, id);
  memset(entry, 0, offsetof(struct kvs_entry, frame)); /* that is atomic */
  entry->frame = UINT32_MAX;
  const size_t from = offsetof(struct kvs_entry, padded_bytes);
  memset((char *)entry + from, 0, sizeof *entry - from);
  index->live++;
  return id;
}

void kvs_entry_free(struct kvs_index *index, uint32_t id) {
  struct kvs_entry *entry = kvs_entry(index, id);
  entry->root = KVS_NO_ENTRY; /* what a walk over all ids skips */
  entry->next_free = index->free;
  index->free = id;
  index->live--;
}

/* ---- the table ------------------------------------------------------------------------------ */

/* Lines go by the lowest bits of a key, shards by those in the middle, slots are told apart by the highest. */
static uint32_t shard_number(uint64_t key_lo) {
  return (uint32_t)(key_lo >> 32) % KVS_SHARDS;
}

static struct kvs_shard *shard_of(const struct kvs_index *index, uint64_t key_lo) {
  return (struct kvs_shard *)&index->shards[shard_number(key_lo)];
}

static size_t level_bytes(uint32_t level) {
  return (KVS_SHARDS * sizeof(struct kvs_line)) << level;
}

/* Where a shard's lines are on a level. */
static struct kvs_line *lines_on(const struct kvs_index *index, uint32_t shard, uint32_t level) {
  return index->levels[level].lines + ((size_t)shard << level);
}

/* A shard that comes to a level has empty lines there. */
static struct kvs_line *level_enter(struct kvs_index *index, uint32_t shard, uint32_t number) {
  if (number == KVS_LEVELS) return NULL;
  struct kvs_level *level = &index->levels[number];
  const size_t bytes = level_bytes(number);
  if (level->lines == NULL) {
    level->lines = (struct kvs_line *)(void *)huge_map(bytes);
    if (level->lines == NULL) return NULL;
    if (bytes >= SLAB_BYTES) (void)madvise(level->lines, bytes, MADV_HUGEPAGE);
  }
  level->shards++;
  struct kvs_line *lines = lines_on(index, shard, number);
  memset(lines, 0xff, bytes / KVS_SHARDS);
  for (uint32_t i = 0; i < 1u << number; i++) lines[i].passed = 0;
  return lines;
}

static void level_leave(struct kvs_index *index, uint32_t number) {
  struct kvs_level *level = &index->levels[number];
  if (--level->shards == 0) (void)madvise(level->lines, level_bytes(number), MADV_DONTNEED);
}

/* What a slot holds of a key, in the place where it holds it. */
static uint32_t tag_of(const struct kvs_index *index, uint64_t key_lo) {
  return (uint32_t)(key_lo >> 32) & ~(uint32_t)0 << index->id_bits;
}

static uint32_t id_of(const struct kvs_index *index, uint32_t slot) {
  return slot & ~(~(uint32_t)0 << index->id_bits);
}

/* Where a block's slot is likely to be in its line. */
static uint32_t first_slot(uint64_t key_lo) {
  return (uint32_t)(key_lo >> 38 & 15) * KVS_LINE_SLOTS >> 4;
}

/* What the next slot of a line with a tag holds, from the `tried`th on; KVS_NO_ENTRY: there is none. */
static uint32_t slot_with(const struct kvs_index *index, const struct kvs_line *line, uint32_t tag,
                          uint32_t first, uint32_t *tried) {
  while (*tried < KVS_LINE_SLOTS) {
    uint32_t at = first + (*tried)++;
    if (at >= KVS_LINE_SLOTS) at -= KVS_LINE_SLOTS;
    /* what it names was there before it was */
    const uint32_t slot = atomic_load_explicit(&line->slot[at], memory_order_acquire);
    if (slot != KVS_NO_ENTRY && (slot ^ tag) >> index->id_bits == 0) return slot;
  }
  return KVS_NO_ENTRY;
}

int kvs_index_init(struct kvs_index *index, uint64_t entries_max) {
  memset(index, 0, sizeof *index);
  if (entries_max > INT32_MAX - CHUNK_ENTRIES) entries_max = INT32_MAX - CHUNK_ENTRIES;
  index->chunks_max = (uint32_t)((entries_max + CHUNK_ENTRIES - 1) / CHUNK_ENTRIES);
  index->free = KVS_NO_ENTRY;
  /* An id with all bits set is none. */
  for (uint64_t ids = (uint64_t)index->chunks_max * CHUNK_ENTRIES; ids >> index->id_bits != 0;)
    index->id_bits++;
  /* Sized once: lookups follow these pointers without the store's lock. */
  index->chunks = calloc(index->chunks_max, sizeof *index->chunks);
  index->ram_nodes = calloc(index->chunks_max, sizeof *index->ram_nodes);
  index->ssd_nodes = calloc(index->chunks_max, sizeof *index->ssd_nodes);
  bool ok = index->chunks != NULL && index->ram_nodes != NULL && index->ssd_nodes != NULL;
  for (uint32_t i = 0; i < KVS_SHARDS; i++) {
    struct kvs_shard *shard = &index->shards[i];
    kvstow__mutex_init(&shard->lock, KVS_RANK_SHARD);
    ok = ok && level_enter(index, i, 0) != NULL;
  }
  return ok ? 0 : KVSTOW_ENOMEM;
}

void kvs_index_finish(struct kvs_index *index) {
  for (uint32_t i = 0; i < KVS_SHARDS; i++) kvstow__mutex_finish(&index->shards[i].lock);
  for (uint32_t i = 0; i < KVS_LEVELS; i++)
    if (index->levels[i].lines != NULL) munmap(index->levels[i].lines, level_bytes(i));
  for (uint32_t i = 0; i < index->chunks_count; i += SLAB_CHUNKS)
    munmap(index->chunks[i], SLAB_BYTES);
  free(index->chunks);
  free(index->ram_nodes);
  free(index->ssd_nodes);
}

void kvs_shard_lock(struct kvs_index *index, kvstow_key key) {
  kvstow__lock(&shard_of(index, key.lo)->lock);
}

void kvs_shard_unlock(struct kvs_index *index, kvstow_key key) {
  kvstow__unlock(&shard_of(index, key.lo)->lock);
}

static const struct kvs_line *line_ahead(const struct kvs_index *index, uint64_t key_lo) {
  const struct kvs_shard *shard = shard_of(index, key_lo);
  const uint32_t level = atomic_load_explicit(&shard->level, memory_order_acquire);
  return lines_on(index, shard_number(key_lo), level) + (key_lo & ((1u << level) - 1));
}

void kvs_shard_ahead(const struct kvs_index *index, kvstow_key key) {
  __builtin_prefetch(line_ahead(index, key.lo));
}

const struct kvs_entry *kvs_shard_ahead_entry(const struct kvs_index *index, kvstow_key key) {
  const struct kvs_line *line = line_ahead(index, key.lo);
  uint32_t tried = 0;
  const uint32_t slot = slot_with(index, line, tag_of(index, key.lo), first_slot(key.lo), &tried);
  if (slot == KVS_NO_ENTRY) return NULL; /* or one in thousands, which has passed its line */
  const struct kvs_entry *entry = kvs_entry(index, id_of(index, slot));
  __builtin_prefetch(entry);
  __builtin_prefetch(&entry->written_s);
  return entry;
}

static bool is_block(const struct kvs_entry *entry, uint64_t key_lo, const uint64_t *key_hi,
                     uint32_t root) {
  return entry->key.lo == key_lo && (key_hi == NULL || entry->key.hi == *key_hi) &&
         entry->root == root;
}

/* `key_hi` NULL: half of the key is enough. */
static uint32_t find(const struct kvs_index *index, uint64_t key_lo, const uint64_t *key_hi,
                     uint32_t root) {
  const struct kvs_shard *shard = shard_of(index, key_lo);
  const uint32_t level = shard->level, mask = (1u << level) - 1;
  const uint32_t tag = tag_of(index, key_lo), first = first_slot(key_lo);
  const struct kvs_line *lines = lines_on(index, shard_number(key_lo), level);
  uint32_t number = (uint32_t)key_lo & mask;
  for (uint32_t steps = 0; steps <= mask; steps++, number = (number + 1) & mask) {
    const struct kvs_line *line = &lines[number];
    for (uint32_t tried = 0, slot;
         (slot = slot_with(index, line, tag, first, &tried)) != KVS_NO_ENTRY;) {
      const uint32_t id = id_of(index, slot);
      if (is_block(kvs_entry(index, id), key_lo, key_hi, root)) return id;
    }
    if (line->passed == 0) break;
  }
  return KVS_NO_ENTRY;
}

uint32_t kvs_shard_find(const struct kvs_index *index, kvstow_key key, uint32_t root) {
  return find(index, key.lo, &key.hi, root);
}

uint32_t kvs_shard_find_half(const struct kvs_index *index, uint64_t key_lo, uint32_t root) {
  return find(index, key_lo, NULL, root);
}

/* There is room in some line. */
static void put(const struct kvs_index *index, struct kvs_line *lines, uint32_t mask, uint32_t id) {
  const uint64_t key_lo = kvs_entry(index, id)->key.lo;
  const uint32_t first = first_slot(key_lo);
  for (uint32_t number = (uint32_t)key_lo & mask;; number = (number + 1) & mask) {
    struct kvs_line *line = &lines[number];
    for (uint32_t i = 0; i < KVS_LINE_SLOTS; i++) {
      _Atomic uint32_t *slot = &line->slot[(first + i) % KVS_LINE_SLOTS];
      if (*slot != KVS_NO_ENTRY) continue;
      atomic_store_explicit(slot, tag_of(index, key_lo) | id, memory_order_release);
      return;
    }
    line->passed++;
  }
}

static bool grow(struct kvs_index *index, uint32_t shard) {
  const uint32_t level = index->shards[shard].level;
  struct kvs_line *old = lines_on(index, shard, level);
  struct kvs_line *lines = level_enter(index, shard, level + 1);
  if (lines == NULL) return false;
  for (uint32_t number = 0; number < 1u << level; number++)
    for (uint32_t at = 0; at < KVS_LINE_SLOTS; at++)
      if (old[number].slot[at] != KVS_NO_ENTRY)
        put(index, lines, (2u << level) - 1, id_of(index, old[number].slot[at]));
  atomic_store_explicit(&index->shards[shard].level, level + 1, memory_order_release);
  level_leave(index, level);
  return true;
}

bool kvs_shard_insert(struct kvs_index *index, uint32_t id) {
  const uint32_t number = shard_number(kvs_entry(index, id)->key.lo);
  struct kvs_shard *shard = &index->shards[number];
  const uint64_t most = (uint64_t)LINE_BLOCKS_MAX << shard->level;
  if (shard->count >= most && !grow(index, number)) return false;
  const uint32_t level = shard->level;
  put(index, lines_on(index, number, level), (1u << level) - 1, id);
  shard->count++;
  return true;
}

void kvs_shard_remove(struct kvs_index *index, uint32_t id) {
  const uint64_t key_lo = kvs_entry(index, id)->key.lo;
  struct kvs_shard *shard = shard_of(index, key_lo);
  const uint32_t wanted = tag_of(index, key_lo) | id;
  const uint32_t level = shard->level, mask = (1u << level) - 1;
  struct kvs_line *lines = lines_on(index, shard_number(key_lo), level);
  for (uint32_t number = (uint32_t)key_lo & mask;; number = (number + 1) & mask) {
    struct kvs_line *line = &lines[number];
    for (uint32_t at = 0; at < KVS_LINE_SLOTS; at++) {
      if (line->slot[at] != wanted) continue;
      line->slot[at] = KVS_NO_ENTRY;
      shard->count--;
      return;
    }
    line->passed--;
  }
}

uint64_t kvs_index_bytes(const struct kvs_index *index) {
  uint64_t bytes = (uint64_t)index->chunks_count * CHUNK_BYTES;
  if (index->chunks_count > SMALL_SLABS * SLAB_CHUNKS) /* the newest slab is there as a whole */
    bytes = (index->chunks_count + SLAB_CHUNKS - 1) / SLAB_CHUNKS * SLAB_BYTES;
  bytes += index->chunks_max * (sizeof *index->chunks + 2 * sizeof *index->ram_nodes);
  for (uint32_t i = 0; i < KVS_LEVELS; i++) {
    const uint64_t whole = level_bytes(i);
    uint64_t part = whole / KVS_SHARDS;
    if (whole >= SLAB_BYTES && part < SLAB_BYTES) part = SLAB_BYTES; /* what it touches at most */
    const uint64_t touched = index->levels[i].shards * part;
    bytes += touched < whole ? touched : whole;
  }
  return bytes;
}
