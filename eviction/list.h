/* eviction/list.h - an intrusive doubly linked list of ids.
 *
 * The links live in the blocks' own nodes (kvstow_node), as their first eight bytes, so a list
 * costs no memory of its own and no operation can fail. A node is in at most one list at a time.
 * Head is the young end, tail the old end: push at the head, take from the tail.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EVICTION_LIST_H
#define EVICTION_LIST_H

#include <stdbool.h>

#include <kvstow/policy.h>

/* The first member of every node that goes into a list. */
struct link {
  uint32_t newer; /* towards the head */
  uint32_t older; /* towards the tail */
};

struct list {
  uint32_t head, tail; /* KVSTOW_NO_ID when empty */
  uint64_t count;
};

static inline struct link *list_link(const kvstow_nodes *nodes, uint32_t id) {
  return kvstow_node(nodes, id);
}

static inline void list_init(struct list *list) {
  list->head = list->tail = KVSTOW_NO_ID;
  list->count = 0;
}

static inline void list_push(struct list *list, const kvstow_nodes *nodes, uint32_t id) {
  struct link *link = list_link(nodes, id);
  link->newer = KVSTOW_NO_ID;
  link->older = list->head;
  if (list->head != KVSTOW_NO_ID)
    list_link(nodes, list->head)->newer = id;
  else
    list->tail = id;
  list->head = id;
  list->count++;
}

/* Puts `id` on the old side of `place`, which is in the list. */
static inline void list_push_behind(struct list *list, const kvstow_nodes *nodes, uint32_t id,
                                    uint32_t place) {
  struct link *link = list_link(nodes, id), *before = list_link(nodes, place);
  link->newer = place;
  link->older = before->older;
  if (before->older != KVSTOW_NO_ID)
    list_link(nodes, before->older)->newer = id;
  else
    list->tail = id;
  before->older = id;
  list->count++;
}

static inline void list_remove(struct list *list, const kvstow_nodes *nodes, uint32_t id) {
  struct link *link = list_link(nodes, id);
  if (link->newer != KVSTOW_NO_ID)
    list_link(nodes, link->newer)->older = link->older;
  else
    list->head = link->older;
  if (link->older != KVSTOW_NO_ID)
    list_link(nodes, link->older)->newer = link->newer;
  else
    list->tail = link->newer;
  list->count--;
}

/* Takes the oldest; KVSTOW_NO_ID when empty. */
static inline uint32_t list_pop(struct list *list, const kvstow_nodes *nodes) {
  const uint32_t id = list->tail;
  if (id != KVSTOW_NO_ID) list_remove(list, nodes, id);
  return id;
}

static inline void list_to_head(struct list *list, const kvstow_nodes *nodes, uint32_t id) {
  if (list->head == id) return;
  list_remove(list, nodes, id);
  list_push(list, nodes, id);
}

#endif
