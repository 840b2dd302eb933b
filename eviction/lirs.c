/* eviction/lirs.c - LIRS (Jiang, Zhang, SIGMETRICS 2002): ranks by the time between two uses.
 *
 * Blocks used again soon (low inter-reference recency, LIR) fill 99 % of the room and stay; the
 * others (HIR) pass through the rest as a FIFO. A HIR block that is used while it is younger than
 * the oldest LIR block changes places with that one, be it held or only remembered.
 *
 * The paper's stack S orders blocks by their last use and ends at the oldest LIR block. Here every
 * block has the time of its last use instead, and is in S if that is later than the oldest LIR
 * block's: no stack, nothing to prune. Parameters: hir (0.01), share of room for HIR; ghost (1),
 * keys remembered, in capacities.
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
  uint32_t lir;
};

struct lirs {
  const kvstow_nodes *nodes;
  struct list lir; /* by last use */
  struct list hir; /* by entry, or last use */
  struct ghost ghost;
  uint64_t lir_max;
  uint32_t now; /* in accesses; may wrap */
  double hir_share, ghost_share;
};

static struct lirs_node *node_of(const struct lirs *lirs, uint32_t id) {
  return kvstow_node(lirs->nodes, id);
}

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
                                 {"ghost", 0, 64, &lirs->ghost_share}};
  rc = kvstow__params_parse(config->params, params, sizeof params / sizeof params[0]);
  if (rc == 0)
    rc = kvstow__ghost_init(&lirs->ghost, (uint64_t)((double)config->capacity * lirs->ghost_share));
  if (rc < 0) {
    free(lirs);
    return rc;
  }
  list_init(&lirs->lir);
  list_init(&lirs->hir);
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
  if (lirs->lir.tail == KVSTOW_NO_ID) return false;
  return (int32_t)(time - node_of(lirs, lirs->lir.tail)->time) > 0;
}

static void become(struct lirs *lirs, uint32_t id, bool lir) {
  struct lirs_node *node = node_of(lirs, id);
  node->lir = lir;
  list_push(lir ? &lirs->lir : &lirs->hir, lirs->nodes, id);
  while (lirs->lir.count > lirs->lir_max) {
    const uint32_t oldest = list_pop(&lirs->lir, lirs->nodes);
    node_of(lirs, oldest)->lir = 0;
    list_push(&lirs->hir, lirs->nodes, oldest);
  }
}

static void lirs_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct lirs *lirs = policy;
  struct lirs_node *node = node_of(lirs, id);
  struct ghost_note note;
  node->key = (uint32_t)(access->key_lo ^ access->key_lo >> 32);
  node->time = ++lirs->now;
  const bool known = kvstow__ghost_take_note(&lirs->ghost, node->key, &note);
  become(lirs, id, lirs->lir.count < lirs->lir_max || (known && in_stack(lirs, note.time)));
}

static void lirs_touch(void *policy, uint32_t id, const kvstow_access *access) {
  struct lirs *lirs = policy;
  struct lirs_node *node = node_of(lirs, id);
  (void)access;
  const bool lir = node->lir || in_stack(lirs, node->time);
  list_remove(node->lir ? &lirs->lir : &lirs->hir, lirs->nodes, id);
  node->time = ++lirs->now;
  become(lirs, id, lir);
}

static uint32_t lirs_victim(void *policy, const kvstow_access *incoming) {
  struct lirs *lirs = policy;
  (void)incoming;
  uint32_t id = list_pop(&lirs->hir, lirs->nodes);
  if (id == KVSTOW_NO_ID) id = list_pop(&lirs->lir, lirs->nodes);
  if (id == KVSTOW_NO_ID) return id;
  const struct lirs_node *node = node_of(lirs, id);
  kvstow__ghost_push_note(&lirs->ghost, node->key, (struct ghost_note){.time = node->time});
  return id;
}

static void lirs_remove(void *policy, uint32_t id) {
  struct lirs *lirs = policy;
  list_remove(node_of(lirs, id)->lir ? &lirs->lir : &lirs->hir, lirs->nodes, id);
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
