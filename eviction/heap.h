/* eviction/heap.h - a binary min-heap whose shape lies in the blocks' own nodes.
 *
 * A complete binary tree of ids: place 1 is the root, place p has children 2p and 2p + 1, and the
 * binary digits of p after the first are the way down to it. So the heap needs no array, can't
 * overflow, and no operation fails; each takes O(log n). (libuv's timers use the same shape.)
 * The least key leaves first.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EVICTION_HEAP_H
#define EVICTION_HEAP_H

#include <kvstow/policy.h>

/* The node, all of it: the key lies here too, in two halves because nodes are 4-byte aligned. */
struct heap_node {
  uint32_t up, left, right;
  uint32_t key_high, key_low;
};

struct heap {
  uint32_t root;
  uint32_t count;
};

static inline struct heap_node *heap_node(const kvstow_nodes *nodes, uint32_t id) {
  return kvstow_node(nodes, id);
}

static inline uint64_t heap_key(const kvstow_nodes *nodes, uint32_t id) {
  const struct heap_node *node = heap_node(nodes, id);
  return (uint64_t)node->key_high << 32 | node->key_low;
}

void kvstow__heap_init(struct heap *heap);
void kvstow__heap_insert(struct heap *heap, const kvstow_nodes *nodes, uint32_t id, uint64_t key);
void kvstow__heap_change(struct heap *heap, const kvstow_nodes *nodes, uint32_t id, uint64_t key);
void kvstow__heap_remove(struct heap *heap, const kvstow_nodes *nodes, uint32_t id);

/* The id with the least key, removed; KVSTOW_NO_ID when empty. */
uint32_t kvstow__heap_pop(struct heap *heap, const kvstow_nodes *nodes);

/* The id at a place, 1 to count. */
uint32_t kvstow__heap_at(const struct heap *heap, const kvstow_nodes *nodes, uint32_t place);

#endif
