/* pool.c - see pool.h.
 *
 * A class is one payload size (headers are a class too). A slab is one allocation cut into at most 64
 * equal slots; its size is the multiple of the slot size that wastes least of jemalloc's size
 * classes. A frame's number is its payload's slab and slot, so that addresses are computed, not
 * stored: what a block costs here is 8 bytes, its header's number and its owner.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/pool.h"

#include <stdlib.h>
#include <string.h>

#include "kvcache/region.h"
#include "kvstow/error.h"

#define SLOT_BITS 6u
#define SLOTS_MAX (1u << SLOT_BITS)
#define HEADER_BYTES 4096u
#define NONE UINT32_MAX
#define SLABS_SHARE 8u /* a slab of several slots is at most this part of the region */
#define SLAB_BYTES_EASY ((size_t)16 << 20)
#define SHARE_ENOUGH 0.95
#define SMALL_REGION_BYTES ((uint64_t)256 << 20)
#define SLAB_BYTES_MIN ((uint64_t)16 << 10) /* sizes the table of slabs, no more */

/* What a slab's slots have beside them. It stays with the row in the table, for kvs_pool_header_near(). */
struct numbers {
  _Atomic uint32_t header[SLOTS_MAX];
  uint32_t owner[SLOTS_MAX];
};

struct slab {
  _Atomic(char *) base; /* NULL: this table row is unused */
  uint32_t class_index;
  uint32_t slot_bytes; /* its class's; read without the lock, which guards the classes */
  uint32_t slots;
  uint32_t used;
  uint32_t prev, next; /* among the class's slabs with free slots; next: free rows too */
  uint64_t taken;      /* a bit a slot */
  _Atomic(struct numbers *) numbers; /* NULL: the row has had no frames yet */
};

struct size_class {
  uint32_t slot_bytes;
  uint32_t best_slots; /* in a full-size slab */
  uint32_t partial;    /* head of slabs with free slots */
  uint64_t used;       /* slots */
  uint64_t slots;
};

struct kvs_pool {
  struct kvs_region *region;
  struct slab *slabs; /* never moves: addresses of frames in use are computed without the lock */
  uint32_t slabs_count, slabs_room, slabs_free; /* rows used so far, rows there, list of unused */
  struct size_class *classes;                   /* [0] is headers; a row without slots is free */
  uint32_t classes_count, classes_room;
  uint64_t slab_bytes, metadata_bytes;
};

static size_t slab_cost(uint32_t slots, uint32_t slot_bytes) {
  return kvs_region_cost((size_t)slots * slot_bytes);
}

/* The number of slots that leaves the smallest part of a slab unused; fewer slots on near ties. A slab
 * with one frame in use can't serve another size: a small region is cut finer, and slabs beyond 16
 * MiB are only for sizes that waste much otherwise, those just above a size class. */
static uint32_t best_slots(const struct kvs_pool *pool, uint32_t slot_bytes) {
  const uint64_t region_bytes = kvs_region_bytes(pool->region);
  const bool small = region_bytes < SMALL_REGION_BYTES;
  const size_t max_bytes = region_bytes / (small ? 2 * SLABS_SHARE : SLABS_SHARE);
  const double tie = small ? 0.002 : 0.0002;
  uint32_t best = 1;
  double best_share = (double)slot_bytes / (double)slab_cost(1, slot_bytes);
  for (uint32_t n = 2; n <= SLOTS_MAX && (size_t)n * slot_bytes <= max_bytes; n++) {
    if ((size_t)n * slot_bytes > SLAB_BYTES_EASY && best_share > SHARE_ENOUGH) break;
    const double share = (double)n * slot_bytes / (double)slab_cost(n, slot_bytes);
    if (share > best_share + tie) best = n, best_share = share;
  }
  return best;
}

static bool more_classes(struct kvs_pool *pool) {
  const uint32_t room = pool->classes_room == 0 ? 8 : 2 * pool->classes_room;
  struct size_class *grown = realloc(pool->classes, room * sizeof *grown);
  if (grown == NULL) return false;
  pool->metadata_bytes += (room - pool->classes_room) * sizeof *grown;
  pool->classes = grown;
  pool->classes_room = room;
  return true;
}

/* The class of a size, perhaps in the place of one that has no slabs any more. */
static uint32_t find_class(struct kvs_pool *pool, uint32_t slot_bytes, uint32_t first) {
  uint32_t row = pool->classes_count;
  for (uint32_t i = first; i < pool->classes_count; i++) {
    if (pool->classes[i].slot_bytes == slot_bytes) return i;
    if (pool->classes[i].slots == 0) row = i;
  }
  if (row == pool->classes_room && !more_classes(pool)) return NONE;
  if (row == pool->classes_count) pool->classes_count++;
  pool->classes[row] = (struct size_class){
      .slot_bytes = slot_bytes, .best_slots = best_slots(pool, slot_bytes), .partial = NONE};
  return row;
}

/* ---- slabs ---------------------------------------------------------------------------------- */

static void link_partial(struct kvs_pool *pool, uint32_t index) {
  struct slab *slab = &pool->slabs[index];
  struct size_class *class = &pool->classes[slab->class_index];
  slab->prev = NONE;
  slab->next = class->partial;
  if (slab->next != NONE) pool->slabs[slab->next].prev = index;
  class->partial = index;
}

static void unlink_partial(struct kvs_pool *pool, uint32_t index) {
  struct slab *slab = &pool->slabs[index];
  if (slab->prev != NONE)
    pool->slabs[slab->prev].next = slab->next;
  else
    pool->classes[slab->class_index].partial = slab->next;
  if (slab->next != NONE) pool->slabs[slab->next].prev = slab->prev;
}

static uint32_t take_row(struct kvs_pool *pool) {
  if (pool->slabs_free != NONE) {
    const uint32_t row = pool->slabs_free;
    pool->slabs_free = pool->slabs[row].next;
    return row;
  }
  if (pool->slabs_count == pool->slabs_room) return NONE;
  pool->metadata_bytes += sizeof *pool->slabs;
  return pool->slabs_count++;
}

static void give_row(struct kvs_pool *pool, uint32_t row) {
  pool->slabs[row].base = NULL;
  pool->slabs[row].next = pool->slabs_free;
  pool->slabs_free = row;
}

static uint32_t make_slab(struct kvs_pool *pool, uint32_t class_index) {
  const struct size_class *class = &pool->classes[class_index];
  const uint32_t row = take_row(pool);
  if (row == NONE) return NONE;
  uint32_t slots = class->best_slots;
  char *base = kvs_region_take(pool->region, (size_t)slots * class->slot_bytes);
  while (base == NULL && slots > 1) { /* the region's last corner */
    slots /= 2;
    base = kvs_region_take(pool->region, (size_t)slots * class->slot_bytes);
  }
  struct slab *slab = &pool->slabs[row];
  if (base != NULL && class_index != 0 && slab->numbers == NULL) {
    slab->numbers = calloc(1, sizeof *slab->numbers);
    pool->metadata_bytes += slab->numbers == NULL ? 0 : sizeof *slab->numbers;
    if (slab->numbers == NULL) kvs_region_give(pool->region, base), base = NULL;
  }
  if (base == NULL) {
    give_row(pool, row);
    return NONE;
  }
  slab->base = base;
  slab->class_index = class_index;
  slab->slot_bytes = class->slot_bytes;
  slab->slots = slots;
  slab->used = 0;
  slab->taken = 0;
  pool->slab_bytes += (uint64_t)slots * class->slot_bytes;
  pool->classes[class_index].slots += slots;
  link_partial(pool, row);
  return row;
}

static void drop_slab(struct kvs_pool *pool, uint32_t row) {
  struct slab *slab = &pool->slabs[row];
  struct size_class *class = &pool->classes[slab->class_index];
  unlink_partial(pool, row);
  pool->slab_bytes -= (uint64_t)slab->slots * class->slot_bytes;
  class->slots -= slab->slots;
  kvs_region_give(pool->region, slab->base);
  give_row(pool, row);
}

static uint32_t take_slot(struct kvs_pool *pool, uint32_t class_index) {
  uint32_t row = pool->classes[class_index].partial;
  if (row == NONE) row = make_slab(pool, class_index);
  if (row == NONE) return NONE;
  struct slab *slab = &pool->slabs[row];
  const uint32_t slot = (uint32_t)__builtin_ctzll(~slab->taken); /* partial: one is free */
  slab->taken |= (uint64_t)1 << slot;
  if (++slab->used == slab->slots) unlink_partial(pool, row);
  pool->classes[class_index].used++;
  return row << SLOT_BITS | slot;
}

static void give_slot(struct kvs_pool *pool, uint32_t number) {
  const uint32_t row = number >> SLOT_BITS, slot = number & (SLOTS_MAX - 1);
  struct slab *slab = &pool->slabs[row];
  slab->taken &= ~((uint64_t)1 << slot);
  if (slab->used-- == slab->slots) link_partial(pool, row);
  pool->classes[slab->class_index].used--;
  if (slab->used == 0) drop_slab(pool, row); /* any size may have it next */
}

static char *slot_address(const struct kvs_pool *pool, uint32_t number) {
  const struct slab *slab = &pool->slabs[number >> SLOT_BITS];
  return slab->base + (size_t)(number & (SLOTS_MAX - 1)) * slab->slot_bytes;
}

/* ---- frames --------------------------------------------------------------------------------- */

uint32_t kvs_pool_take(struct kvs_pool *pool, uint32_t payload_bytes) {
  const uint32_t class_index = find_class(pool, payload_bytes, 1);
  if (class_index == NONE) return KVS_NO_FRAME;
  const uint32_t header = take_slot(pool, 0);
  if (header == NONE) return KVS_NO_FRAME;
  const uint32_t frame = take_slot(pool, class_index);
  if (frame == NONE) {
    give_slot(pool, header);
    return KVS_NO_FRAME;
  }
  struct numbers *numbers = pool->slabs[frame >> SLOT_BITS].numbers;
  numbers->header[frame & (SLOTS_MAX - 1)] = header;
  numbers->owner[frame & (SLOTS_MAX - 1)] = KVS_NO_OWNER;
  return frame;
}

static uint32_t header_of(const struct kvs_pool *pool, uint32_t frame) {
  return pool->slabs[frame >> SLOT_BITS].numbers->header[frame & (SLOTS_MAX - 1)];
}

void kvs_pool_give(struct kvs_pool *pool, uint32_t frame) {
  give_slot(pool, header_of(pool, frame));
  give_slot(pool, frame);
}

void *kvs_pool_payload(const struct kvs_pool *pool, uint32_t frame) {
  return slot_address(pool, frame);
}

void *kvs_pool_header(const struct kvs_pool *pool, uint32_t frame) {
  return slot_address(pool, header_of(pool, frame));
}

const void *kvs_pool_header_near(const struct kvs_pool *pool, uint32_t frame) {
  const struct numbers *numbers = pool->slabs[frame >> SLOT_BITS].numbers;
  if (numbers == NULL) return NULL;
  const uint32_t header = numbers->header[frame & (SLOTS_MAX - 1)];
  const char *base = pool->slabs[header >> SLOT_BITS].base;
  return base == NULL ? NULL : base + (size_t)(header & (SLOTS_MAX - 1)) * HEADER_BYTES;
}

uint32_t kvs_pool_owner(const struct kvs_pool *pool, uint32_t frame) {
  return pool->slabs[frame >> SLOT_BITS].numbers->owner[frame & (SLOTS_MAX - 1)];
}

void kvs_pool_set_owner(struct kvs_pool *pool, uint32_t frame, uint32_t owner) {
  pool->slabs[frame >> SLOT_BITS].numbers->owner[frame & (SLOTS_MAX - 1)] = owner;
}

void kvs_pool_neighbours(struct kvs_pool *pool, uint32_t frame,
                         void (*each)(void *arg, uint32_t frame, uint32_t owner), void *arg) {
  const uint32_t row = frame >> SLOT_BITS;
  for (uint32_t slot = 0; slot < SLOTS_MAX; slot++) {
    const struct slab *slab = &pool->slabs[row]; /* `each` may drop the slab */
    if (slab->base == NULL || slot >= slab->slots || slab->class_index == 0) return;
    if ((slab->taken >> slot & 1) == 0) continue;
    each(arg, row << SLOT_BITS | slot, slab->numbers->owner[slot]);
  }
}

/* ---- life and statistics -------------------------------------------------------------------- */

int kvs_pool_create(uint64_t bytes, bool populate, struct kvs_pool **out) {
  struct kvs_pool *pool = calloc(1, sizeof *pool);
  if (pool == NULL) return KVSTOW_ENOMEM;
  pool->slabs_free = NONE;
  pool->slabs_room = (uint32_t)(bytes / SLAB_BYTES_MIN);
  if (pool->slabs_room > NONE >> SLOT_BITS) pool->slabs_room = NONE >> SLOT_BITS;
  pool->slabs = calloc(pool->slabs_room, sizeof *pool->slabs);
  int rc = pool->slabs == NULL ? KVSTOW_ENOMEM : kvs_region_create(bytes, populate, &pool->region);
  if (rc == 0 && find_class(pool, HEADER_BYTES, 0) == NONE) rc = KVSTOW_ENOMEM;
  if (rc != 0) {
    kvs_pool_destroy(pool);
    return rc;
  }
  *out = pool;
  return 0;
}

void kvs_pool_destroy(struct kvs_pool *pool) {
  if (pool == NULL) return;
  for (uint32_t i = 0; i < pool->slabs_count; i++) {
    free(pool->slabs[i].numbers);
    if (pool->slabs[i].base != NULL) kvs_region_give(pool->region, pool->slabs[i].base);
  }
  kvs_region_destroy(pool->region);
  free(pool->slabs);
  free(pool->classes);
  free(pool);
}

void kvs_pool_region(const struct kvs_pool *pool, void **base, size_t *bytes) {
  *base = kvs_region_base(pool->region);
  *bytes = kvs_region_bytes(pool->region);
}

void kvs_pool_get_stats(const struct kvs_pool *pool, struct kvs_pool_stats *stats) {
  memset(stats, 0, sizeof *stats);
  stats->region_bytes = kvs_region_bytes(pool->region);
  stats->slab_bytes = pool->slab_bytes;
  stats->metadata_bytes = pool->metadata_bytes;
  const struct size_class *most = NULL;
  for (uint32_t i = 1; i < pool->classes_count; i++) {
    const struct size_class *class = &pool->classes[i];
    stats->frames += class->used;
    stats->payload_bytes += class->used * class->slot_bytes;
    if (most == NULL || class->used * class->slot_bytes > most->used * most->slot_bytes)
      most = class;
  }
  stats->frame_bytes = stats->payload_bytes + stats->frames * HEADER_BYTES;
  if (most != NULL) {
    const uint64_t left = stats->region_bytes - stats->slab_bytes;
    stats->capacity_frames = most->slots + left / (most->slot_bytes + (uint64_t)HEADER_BYTES);
  }
}
