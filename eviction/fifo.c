/* eviction/fifo.c - first in, first out (Belady, IBM Systems Journal 1966).
 *
 * The oldest insertion leaves first; use changes nothing. The baseline for every comparison, and
 * what a log on SSD does by nature.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "eviction/list.h"
#include "eviction/params.h"
#include "eviction/policies.h"

struct fifo {
  const kvstow_nodes *nodes;
  struct list queue;
};

static int fifo_create(const kvstow_policy_config *config, void **policy) {
  int rc = kvstow__policy_config_check(config);
  if (rc == 0) rc = kvstow__params_parse(config->params, NULL, 0);
  if (rc < 0) return rc;
  struct fifo *fifo = malloc(sizeof *fifo);
  if (fifo == NULL) return KVSTOW_ENOMEM;
  fifo->nodes = config->nodes;
  list_init(&fifo->queue);
  *policy = fifo;
  return 0;
}

static void fifo_destroy(void *policy) {
  free(policy);
}

static void fifo_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct fifo *fifo = policy;
  (void)access;
  list_push(&fifo->queue, fifo->nodes, id);
}

static void fifo_touch(void *policy, uint32_t id, const kvstow_access *access) {
  (void)policy, (void)id, (void)access;
}

static uint32_t fifo_victim(void *policy, const kvstow_access *incoming) {
  struct fifo *fifo = policy;
  (void)incoming;
  return list_pop(&fifo->queue, fifo->nodes);
}

static void fifo_remove(void *policy, uint32_t id) {
  struct fifo *fifo = policy;
  list_remove(&fifo->queue, fifo->nodes, id);
}

const kvstow_policy_ops kvstow__policy_fifo = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct link),
    .name = "fifo",
    .summary = "first in, first out",
    .create = fifo_create,
    .destroy = fifo_destroy,
    .insert = fifo_insert,
    .touch = fifo_touch,
    .victim = fifo_victim,
    .remove = fifo_remove,
};
