/* eviction/lirs.c - LIRS (Jiang, Zhang, SIGMETRICS 2002): ranks by the time between two uses.
 *
 * Blocks used again soon (low inter-reference recency, LIR) fill 99 % of the room and stay; the
 * others (HIR) pass through the rest as a FIFO. A HIR block that is used while it is younger than
 * the oldest LIR block changes places with that one, be it held or only remembered.
 *
 * The paper's stack S orders blocks by their last use and ends at the oldest LIR block. Here every
 * block has the time of its last use instead, and is in S if that is later than the oldest LIR
 * block's: no stack, nothing to prune. Parameters: hir (0.01), share of room for HIR; ghost (1),
 * keys remembered, in capacities; leaf (0), 1: the blocks of a request are used at one time and stand
 * side by side, deepest oldest, in whatever order they are told (prefixes break from their end).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "eviction/ghost.h"
#include "eviction/list.h"
#include "eviction/params.h"
#include "eviction/policies.h"

struct lirs_node {
  struct link link;
  uint32_t key; /* folded: two keys alike cost one wrong guess */
  uint32_t time;
  uint32_t depth : 31, lir : 1;
};

/* By age. The cut is the oldest of those used by the request under way, if there are any. */
struct queue {
  struct list list;
  uint32_t cut;
};

struct lirs {
  const kvstow_nodes *nodes;
  struct queue lir; /* by last use */
  struct queue hir; /* by entry, or last use */
  struct ghost ghost;
  uint64_t lir_max;
  uint32_t now; /* in accesses, or requests; may wrap */
  uint64_t request;
  double hir_share, ghost_share, leaf;
};

static struct lirs_node *node_of(const struct lirs *lirs, uint32_t id) {
  return kvstow_node(lirs->nodes, id);
}

static uint32_t fold(uint64_t key) {
  return (uint32_t)(key ^ key >> 32);
}

/* ---- queues ---- */

static void queue_init(struct queue *queue) {
  list_init(&queue->list);
  queue->cut = KVSTOW_NO_ID;
}

static void queue_push(struct lirs *lirs, struct queue *queue, uint32_t id) {
  const struct lirs_node *node = node_of(lirs, id);
  const bool joins = queue->cut != KVSTOW_NO_ID && node_of(lirs, queue->cut)->time == node->time;
  if (joins && node->depth > node_of(lirs, queue->cut)->depth) {
    list_push_behind(&queue->list, lirs->nodes, id, queue->cut);
    queue->cut = id;
  } else {
    list_push(&queue->list, lirs->nodes, id);
    if (!joins && node->time == lirs->now) queue->cut = id;
  }
}

static void queue_remove(const struct lirs *lirs, struct queue *queue, uint32_t id) {
  if (queue->cut == id) queue->cut = node_of(lirs, id)->link.newer;
  list_remove(&queue->list, lirs->nodes, id);
}

static uint32_t queue_pop(const struct lirs *lirs, struct queue *queue) {
  const uint32_t id = queue->list.tail;
  if (id != KVSTOW_NO_ID) queue_remove(lirs, queue, id);
  return id;
}

/* ---- the policy ---- */

static void set_sizes(struct lirs *lirs, uint64_t capacity) {
  const uint64_t hir = (uint64_t)((double)capacity * lirs->hir_share);
  lirs->lir_max = capacity - (hir > 0 ? hir : 1);
}

static int lirs_create(const kvstow_policy_config *config, void **policy) {
  int rc = kvstow__policy_config_check(config);
  if (rc < 0) return rc;
  struct lirs *lirs = calloc(1, sizeof *lirs);
  if (lirs == NULL) return KVSTOW_ENOMEM;
  lirs->nodes = config->nodes;
  lirs->hir_share = 0.01;
  lirs->ghost_share = 1;
  const struct param params[] = {{"hir", 0, 1, &lirs->hir_share},
                                 {"ghost", 0, 64, &lirs->ghost_share},
                                 {"leaf", 0, 1, &lirs->leaf}};
  rc = kvstow__params_parse(config->params, params, sizeof params / sizeof params[0]);
  if (rc == 0)
    rc = kvstow__ghost_init(&lirs->ghost, (uint64_t)((double)config->capacity * lirs->ghost_share),
                            GHOST_NOTES);
  if (rc < 0) {
    free(lirs);
    return rc;
  }
  queue_init(&lirs->lir);
  queue_init(&lirs->hir);
  set_sizes(lirs, config->capacity);
  *policy = lirs;
  return 0;
}

static void lirs_destroy(void *policy) {
  struct lirs *lirs = policy;
  if (lirs != NULL) kvstow__ghost_finish(&lirs->ghost);
  free(lirs);
}

static bool in_stack(const struct lirs *lirs, uint32_t time) {
  if (lirs->lir.list.tail == KVSTOW_NO_ID) return false;
  return (int32_t)(time - node_of(lirs, lirs->lir.list.tail)->time) > 0;
}

static void become(struct lirs *lirs, uint32_t id, bool lir) {
  struct lirs_node *node = node_of(lirs, id);
  node->lir = lir;
  queue_push(lirs, lir ? &lirs->lir : &lirs->hir, id);
  while (lirs->lir.list.count > lirs->lir_max) {
    const uint32_t oldest = queue_pop(lirs, &lirs->lir);
    node_of(lirs, oldest)->lir = 0;
    queue_push(lirs, &lirs->hir, oldest);
  }
}

static void stamp(struct lirs *lirs, struct lirs_node *node, const kvstow_access *access) {
  const bool same = lirs->leaf > 0 && access->request != 0 && access->request == lirs->request;
  if (!same) lirs->now++;
  lirs->request = access->request;
  node->time = lirs->now;
  node->depth = lirs->leaf > 0 ? access->depth & INT32_MAX : 0;
}

static void lirs_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct lirs *lirs = policy;
  struct lirs_node *node = node_of(lirs, id);
  struct ghost_note note;
  node->key = fold(access->key_lo);
  stamp(lirs, node, access);
  const bool known = kvstow__ghost_take_note(&lirs->ghost, node->key, &note);
  become(lirs, id, lirs->lir.list.count < lirs->lir_max || (known && in_stack(lirs, note.time)));
}

static void lirs_touch(void *policy, uint32_t id, const kvstow_access *access) {
  struct lirs *lirs = policy;
  struct lirs_node *node = node_of(lirs, id);
  const bool lir = node->lir || in_stack(lirs, node->time);
  queue_remove(lirs, node->lir ? &lirs->lir : &lirs->hir, id);
  stamp(lirs, node, access);
  become(lirs, id, lir);
}

static uint32_t lirs_victim(void *policy, const kvstow_access *incoming) {
  struct lirs *lirs = policy;
  if (incoming != NULL) ghost_prefetch(&lirs->ghost, fold(incoming->key_lo));
  uint32_t id = queue_pop(lirs, &lirs->hir);
  if (id == KVSTOW_NO_ID) id = queue_pop(lirs, &lirs->lir);
  if (id == KVSTOW_NO_ID) return id;
  const struct lirs_node *node = node_of(lirs, id);
  kvstow__ghost_push_note(&lirs->ghost, node->key, (struct ghost_note){.time = node->time});
  const uint32_t next = lirs->hir.list.tail;
  if (next != KVSTOW_NO_ID) ghost_prefetch(&lirs->ghost, node_of(lirs, next)->key);
  return id;
}

static void lirs_remove(void *policy, uint32_t id) {
  struct lirs *lirs = policy;
  queue_remove(lirs, node_of(lirs, id)->lir ? &lirs->lir : &lirs->hir, id);
}

static int lirs_resize(void *policy, uint64_t capacity) {
  struct lirs *lirs = policy;
  const int rc =
      kvstow__ghost_resize(&lirs->ghost, (uint64_t)((double)capacity * lirs->ghost_share));
  if (rc == 0) set_sizes(lirs, capacity);
  return rc;
}

const kvstow_policy_ops kvstow__policy_lirs = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct lirs_node),
    .name = "lirs",
    .summary = "LIRS: low inter-reference recency stays (SIGMETRICS 2002)",
    .create = lirs_create,
    .destroy = lirs_destroy,
    .insert = lirs_insert,
    .touch = lirs_touch,
    .victim = lirs_victim,
    .remove = lirs_remove,
    .resize = lirs_resize,
};
