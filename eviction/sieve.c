/* eviction/sieve.c - SIEVE (Zhang et al., NSDI 2024).
 *
 * As CLOCK, but a block with its bit set stays where it is: the hand moves on towards the young
 * end, clearing bits, and evicts the first clear one; at the young end it starts from the oldest
 * again. New blocks are thus judged soon, old ones that were used stay. With few hits the hand
 * seldom wraps, and blocks used once squat (measured on chat traces): not a default for KV.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "eviction/list.h"
#include "eviction/params.h"
#include "eviction/policies.h"

struct sieve_node {
  struct link link;
  uint32_t used;
};

struct sieve {
  const kvstow_nodes *nodes;
  struct list queue;
  uint32_t hand; /* the next to be looked at; KVSTOW_NO_ID: the oldest */
};

static struct sieve_node *node_of(const struct sieve *sieve, uint32_t id) {
  return kvstow_node(sieve->nodes, id);
}

static int sieve_create(const kvstow_policy_config *config, void **policy) {
  int rc = kvstow__policy_config_check(config);
  if (rc == 0) rc = kvstow__params_parse(config->params, NULL, 0);
  if (rc < 0) return rc;
  struct sieve *sieve = malloc(sizeof *sieve);
  if (sieve == NULL) return KVSTOW_ENOMEM;
  sieve->nodes = config->nodes;
  sieve->hand = KVSTOW_NO_ID;
  list_init(&sieve->queue);
  *policy = sieve;
  return 0;
}

static void sieve_destroy(void *policy) {
  free(policy);
}

static void sieve_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct sieve *sieve = policy;
  (void)access;
  node_of(sieve, id)->used = 0;
  list_push(&sieve->queue, sieve->nodes, id);
}

static void sieve_touch(void *policy, uint32_t id, const kvstow_access *access) {
  struct sieve *sieve = policy;
  (void)access;
  node_of(sieve, id)->used = 1;
}

static void sieve_remove(void *policy, uint32_t id) {
  struct sieve *sieve = policy;
  if (sieve->hand == id) sieve->hand = node_of(sieve, id)->link.newer;
  list_remove(&sieve->queue, sieve->nodes, id);
}

static uint32_t sieve_victim(void *policy, const kvstow_access *incoming) {
  struct sieve *sieve = policy;
  uint32_t id = sieve->hand != KVSTOW_NO_ID ? sieve->hand : sieve->queue.tail;
  (void)incoming;
  if (id == KVSTOW_NO_ID) return id;
  /* Ends within one turn: each step clears a bit. */
  while (node_of(sieve, id)->used != 0) {
    node_of(sieve, id)->used = 0;
    id = node_of(sieve, id)->link.newer;
    if (id == KVSTOW_NO_ID) id = sieve->queue.tail;
  }
  sieve->hand = id;
  sieve_remove(sieve, id);
  return id;
}

const kvstow_policy_ops kvstow__policy_sieve = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct sieve_node),
    .name = "sieve",
    .summary = "SIEVE: lazy promotion, quick demotion (NSDI 2024)",
    .create = sieve_create,
    .destroy = sieve_destroy,
    .insert = sieve_insert,
    .touch = sieve_touch,
    .victim = sieve_victim,
    .remove = sieve_remove,
};
