/* eviction/clock.c - CLOCK, or second chance (Corbato 1968): LRU's quality at FIFO's cost.
 *
 * A queue in order of insertion and one bit a block, set by use. The hand looks at the oldest: with
 * its bit set it loses the bit and goes to the young end, else it leaves. A touch writes one word.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "eviction/list.h"
#include "eviction/params.h"
#include "eviction/policies.h"

struct clock_node {
  struct link link;
  uint32_t used;
};

struct clock {
  const kvstow_nodes *nodes;
  struct list queue;
};

static struct clock_node *node_of(const struct clock *clock, uint32_t id) {
  return kvstow_node(clock->nodes, id);
}

static int clock_create(const kvstow_policy_config *config, void **policy) {
  int rc = kvstow__policy_config_check(config);
  if (rc == 0) rc = kvstow__params_parse(config->params, NULL, 0);
  if (rc < 0) return rc;
  struct clock *clock = malloc(sizeof *clock);
  if (clock == NULL) return KVSTOW_ENOMEM;
  clock->nodes = config->nodes;
  list_init(&clock->queue);
  *policy = clock;
  return 0;
}

static void clock_destroy(void *policy) {
  free(policy);
}

static void clock_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct clock *clock = policy;
  (void)access;
  node_of(clock, id)->used = 0;
  list_push(&clock->queue, clock->nodes, id);
}

static void clock_touch(void *policy, uint32_t id, const kvstow_access *access) {
  struct clock *clock = policy;
  (void)access;
  node_of(clock, id)->used = 1;
}

static uint32_t clock_victim(void *policy, const kvstow_access *incoming) {
  struct clock *clock = policy;
  (void)incoming;
  /* Ends within one turn: each step clears a bit. */
  while (clock->queue.tail != KVSTOW_NO_ID && node_of(clock, clock->queue.tail)->used != 0) {
    const uint32_t id = clock->queue.tail;
    node_of(clock, id)->used = 0;
    list_to_head(&clock->queue, clock->nodes, id);
  }
  return list_pop(&clock->queue, clock->nodes);
}

static void clock_remove(void *policy, uint32_t id) {
  struct clock *clock = policy;
  list_remove(&clock->queue, clock->nodes, id);
}

const kvstow_policy_ops kvstow__policy_clock = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct clock_node),
    .name = "clock",
    .summary = "second chance, one bit (Corbato 1968)",
    .create = clock_create,
    .destroy = clock_destroy,
    .insert = clock_insert,
    .touch = clock_touch,
    .victim = clock_victim,
    .remove = clock_remove,
};
