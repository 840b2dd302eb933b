/* eviction/lru.c - least recently used (Mattson, Gecsei, Slutz, Traiger, IBM Systems Journal 1970).
 *
 * What every inference server ships, and hard to beat once the cache holds a tenth of what is
 * reused. Touch a request's blocks last to first and it is also prefix-aware: a leaf is then always
 * older than its ancestors, so it leaves before them (vLLM's free queue does this).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "eviction/list.h"
#include "eviction/params.h"
#include "eviction/policies.h"

struct lru {
  const kvstow_nodes *nodes;
  struct list queue;
};

static int lru_create(const kvstow_policy_config *config, void **policy) {
  int rc = kvstow__policy_config_check(config);
  if (rc == 0) rc = kvstow__params_parse(config->params, NULL, 0);
  if (rc < 0) return rc;
  struct lru *lru = malloc(sizeof *lru);
  if (lru == NULL) return KVSTOW_ENOMEM;
  lru->nodes = config->nodes;
  list_init(&lru->queue);
  *policy = lru;
  return 0;
}

static void lru_destroy(void *policy) {
  free(policy);
}

static void lru_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct lru *lru = policy;
  (void)access;
  list_push(&lru->queue, lru->nodes, id);
}

static void lru_touch(void *policy, uint32_t id, const kvstow_access *access) {
  struct lru *lru = policy;
  (void)access;
  list_to_head(&lru->queue, lru->nodes, id);
}

static uint32_t lru_victim(void *policy, const kvstow_access *incoming) {
  struct lru *lru = policy;
  (void)incoming;
  return list_pop(&lru->queue, lru->nodes);
}

static void lru_remove(void *policy, uint32_t id) {
  struct lru *lru = policy;
  list_remove(&lru->queue, lru->nodes, id);
}

const kvstow_policy_ops kvstow__policy_lru = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct link),
    .name = "lru",
    .summary = "least recently used",
    .create = lru_create,
    .destroy = lru_destroy,
    .insert = lru_insert,
    .touch = lru_touch,
    .victim = lru_victim,
    .remove = lru_remove,
};
