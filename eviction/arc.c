/* eviction/arc.c - ARC, adaptive replacement (Megiddo and Modha, FAST 2003).
 *
 * T1 holds blocks seen once lately, T2 those seen again; B1 and B2 remember the keys of what left
 * each. A key that comes back from B1 says that T1 should have been larger, from B2 that T2 should:
 * `target`, T1's share, follows. Names and cases are the paper's.
 *
 * When the owner evicts ahead of need (victim(NULL)), what comes is unknown: taken as new.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "eviction/ghost.h"
#include "eviction/list.h"
#include "eviction/params.h"
#include "eviction/policies.h"

enum { FROM_NOWHERE, FROM_B1, FROM_B2 };

struct arc_node {
  struct link link;
  uint32_t key[2];
  uint32_t in_t2;
};

struct arc {
  const kvstow_nodes *nodes;
  struct list t1, t2;
  struct ghost b1, b2;
  struct comeback comeback;
  double target;     /* p */
  uint64_t capacity; /* c */
};

static struct arc_node *node_of(const struct arc *arc, uint32_t id) {
  return kvstow_node(arc->nodes, id);
}

static int arc_create(const kvstow_policy_config *config, void **policy) {
  int rc = kvstow__policy_config_check(config);
  if (rc == 0) rc = kvstow__params_parse(config->params, NULL, 0);
  if (rc < 0) return rc;
  struct arc *arc = calloc(1, sizeof *arc);
  if (arc == NULL) return KVSTOW_ENOMEM;
  rc = kvstow__ghost_init(&arc->b1, config->capacity, GHOST_KEYS);
  if (rc == 0) rc = kvstow__ghost_init(&arc->b2, config->capacity, GHOST_KEYS);
  if (rc < 0) {
    kvstow__ghost_finish(&arc->b1);
    free(arc);
    return rc;
  }
  arc->nodes = config->nodes;
  arc->capacity = config->capacity;
  list_init(&arc->t1);
  list_init(&arc->t2);
  *policy = arc;
  return 0;
}

static void arc_destroy(void *policy) {
  struct arc *arc = policy;
  if (arc != NULL) {
    kvstow__ghost_finish(&arc->b1);
    kvstow__ghost_finish(&arc->b2);
  }
  free(arc);
}

/* Cases II and III: where the key was remembered. Adapts the target the first time it is asked. */
static uint32_t recall(struct arc *arc, uint64_t key) {
  if (arc->comeback.from != FROM_NOWHERE && arc->comeback.key == key) return arc->comeback.from;
  const double b1 = arc->b1.count, b2 = arc->b2.count;
  if (kvstow__ghost_take(&arc->b1, key)) {
    arc->target += b2 > b1 ? b2 / b1 : 1;
    if (arc->target > (double)arc->capacity) arc->target = (double)arc->capacity;
    arc->comeback = (struct comeback){.key = key, .from = FROM_B1};
    return FROM_B1;
  }
  if (kvstow__ghost_take(&arc->b2, key)) {
    arc->target -= b1 > b2 ? b1 / b2 : 1;
    if (arc->target < 0) arc->target = 0;
    arc->comeback = (struct comeback){.key = key, .from = FROM_B2};
    return FROM_B2;
  }
  return FROM_NOWHERE;
}

static void arc_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct arc *arc = policy;
  struct arc_node *node = node_of(arc, id);
  const bool known = recall(arc, access->key_lo) != FROM_NOWHERE;
  if (known) arc->comeback.from = FROM_NOWHERE;
  ghost_set_key(node->key, access->key_lo);
  node->in_t2 = known;
  list_push(known ? &arc->t2 : &arc->t1, arc->nodes, id);
}

/* Case I */
static void arc_touch(void *policy, uint32_t id, const kvstow_access *access) {
  struct arc *arc = policy;
  struct arc_node *node = node_of(arc, id);
  (void)access;
  list_remove(node->in_t2 ? &arc->t2 : &arc->t1, arc->nodes, id);
  node->in_t2 = 1;
  list_push(&arc->t2, arc->nodes, id);
}

/* REPLACE */
static uint32_t replace(struct arc *arc, uint32_t from) {
  const double t1 = (double)arc->t1.count;
  const bool over = t1 > arc->target || (from == FROM_B2 && t1 >= arc->target);
  const bool take_t1 = (arc->t1.count > 0 && over) || arc->t2.count == 0;
  const uint32_t id = list_pop(take_t1 ? &arc->t1 : &arc->t2, arc->nodes);
  if (id != KVSTOW_NO_ID)
    kvstow__ghost_push(take_t1 ? &arc->b1 : &arc->b2, ghost_key(node_of(arc, id)->key));
  return id;
}

/* Case IV: what comes was not remembered. */
static uint32_t make_room_for_new(struct arc *arc) {
  const uint64_t l1 = arc->t1.count + arc->b1.count;
  const uint64_t l2 = arc->t2.count + arc->b2.count;
  if (l1 >= arc->capacity) {
    if (arc->b1.count == 0 && arc->t1.count > 0)
      return list_pop(&arc->t1, arc->nodes); /* T1 fills the cache: its oldest leaves no trace */
    kvstow__ghost_drop_oldest(&arc->b1);
  } else if (l1 + l2 >= 2 * arc->capacity) {
    kvstow__ghost_drop_oldest(&arc->b2);
  }
  return replace(arc, FROM_NOWHERE);
}

static uint32_t arc_victim(void *policy, const kvstow_access *incoming) {
  struct arc *arc = policy;
  const uint32_t from = incoming != NULL ? recall(arc, incoming->key_lo) : FROM_NOWHERE;
  return from == FROM_NOWHERE ? make_room_for_new(arc) : replace(arc, from);
}

static void arc_remove(void *policy, uint32_t id) {
  struct arc *arc = policy;
  list_remove(node_of(arc, id)->in_t2 ? &arc->t2 : &arc->t1, arc->nodes, id);
}

static int arc_resize(void *policy, uint64_t capacity) {
  struct arc *arc = policy;
  const uint64_t old = arc->b1.capacity;
  int rc = kvstow__ghost_resize(&arc->b1, capacity);
  if (rc < 0) return rc;
  rc = kvstow__ghost_resize(&arc->b2, capacity);
  if (rc < 0) {
    /* Back to the old size, or, without memory for even that, B1 stays the new one: both work. */
    kvstow__ghost_resize(&arc->b1, old);
    return rc;
  }
  arc->capacity = capacity;
  if (arc->target > (double)capacity) arc->target = (double)capacity;
  return 0;
}

const kvstow_policy_ops kvstow__policy_arc = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct arc_node),
    .name = "arc",
    .summary = "ARC: recency and frequency, balanced by what it regrets (FAST 2003)",
    .create = arc_create,
    .destroy = arc_destroy,
    .insert = arc_insert,
    .touch = arc_touch,
    .victim = arc_victim,
    .remove = arc_remove,
    .resize = arc_resize,
};
