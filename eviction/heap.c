/* eviction/heap.c - a binary min-heap in the blocks' own nodes; see heap.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "eviction/heap.h"

static void set_key(struct heap_node *node, uint64_t key) {
  node->key_high = (uint32_t)(key >> 32);
  node->key_low = (uint32_t)key;
}

/* Makes `up` (or the root) point at `to` where it pointed at `from`. */
static void relink(struct heap *heap, const kvstow_nodes *nodes, uint32_t up, uint32_t from,
                   uint32_t to) {
  if (up == KVSTOW_NO_ID) {
    heap->root = to;
    return;
  }
  struct heap_node *node = heap_node(nodes, up);
  if (node->left == from)
    node->left = to;
  else
    node->right = to;
}

static void set_up(const kvstow_nodes *nodes, uint32_t id, uint32_t up) {
  if (id != KVSTOW_NO_ID) heap_node(nodes, id)->up = up;
}

/* Exchanges an id with its parent. */
static void rise(struct heap *heap, const kvstow_nodes *nodes, uint32_t id) {
  struct heap_node *node = heap_node(nodes, id);
  const uint32_t parent_id = node->up;
  struct heap_node *parent = heap_node(nodes, parent_id);
  const uint32_t left = node->left, right = node->right;

  relink(heap, nodes, parent->up, parent_id, id);
  node->up = parent->up;
  if (parent->left == id) {
    node->left = parent_id;
    node->right = parent->right;
    set_up(nodes, node->right, id);
  } else {
    node->left = parent->left;
    node->right = parent_id;
    set_up(nodes, node->left, id);
  }
  parent->up = id;
  parent->left = left;
  parent->right = right;
  set_up(nodes, left, parent_id);
  set_up(nodes, right, parent_id);
}

static void settle(struct heap *heap, const kvstow_nodes *nodes, uint32_t id) {
  const uint64_t key = heap_key(nodes, id);
  struct heap_node *node = heap_node(nodes, id);
  while (node->up != KVSTOW_NO_ID && key < heap_key(nodes, node->up)) rise(heap, nodes, id);
  for (;;) {
    uint32_t least = node->left;
    if (least == KVSTOW_NO_ID) return;
    if (node->right != KVSTOW_NO_ID && heap_key(nodes, node->right) < heap_key(nodes, least))
      least = node->right;
    if (heap_key(nodes, least) >= key) return;
    rise(heap, nodes, least);
  }
}

void kvstow__heap_init(struct heap *heap) {
  heap->root = KVSTOW_NO_ID;
  heap->count = 0;
}

uint32_t kvstow__heap_at(const struct heap *heap, const kvstow_nodes *nodes, uint32_t place) {
  uint32_t id = heap->root;
  for (int digit = 31 - __builtin_clz(place) - 1; digit >= 0; digit--) {
    const struct heap_node *node = heap_node(nodes, id);
    id = place >> digit & 1u ? node->right : node->left;
  }
  return id;
}

void kvstow__heap_insert(struct heap *heap, const kvstow_nodes *nodes, uint32_t id, uint64_t key) {
  struct heap_node *node = heap_node(nodes, id);
  const uint32_t place = heap->count + 1;
  *node = (struct heap_node){.up = KVSTOW_NO_ID, .left = KVSTOW_NO_ID, .right = KVSTOW_NO_ID};
  set_key(node, key);
  if (place == 1) {
    heap->root = id;
  } else {
    node->up = kvstow__heap_at(heap, nodes, place / 2);
    struct heap_node *parent = heap_node(nodes, node->up);
    if (place % 2 == 0)
      parent->left = id;
    else
      parent->right = id;
  }
  heap->count = place;
  settle(heap, nodes, id);
}

void kvstow__heap_change(struct heap *heap, const kvstow_nodes *nodes, uint32_t id, uint64_t key) {
  set_key(heap_node(nodes, id), key);
  settle(heap, nodes, id);
}

void kvstow__heap_remove(struct heap *heap, const kvstow_nodes *nodes, uint32_t id) {
  const uint32_t last = kvstow__heap_at(heap, nodes, heap->count);
  struct heap_node *moved = heap_node(nodes, last);
  relink(heap, nodes, moved->up, last, KVSTOW_NO_ID);
  heap->count--;
  if (last == id) return;
  const struct heap_node *gone = heap_node(nodes, id);
  relink(heap, nodes, gone->up, id, last);
  moved->up = gone->up;
  moved->left = gone->left;
  moved->right = gone->right;
  set_up(nodes, moved->left, last);
  set_up(nodes, moved->right, last);
  settle(heap, nodes, last);
}

uint32_t kvstow__heap_pop(struct heap *heap, const kvstow_nodes *nodes) {
  const uint32_t id = heap->root;
  if (id != KVSTOW_NO_ID) kvstow__heap_remove(heap, nodes, id);
  return id;
}
