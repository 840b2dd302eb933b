/* eviction/two_q.c - 2Q, the full version (Johnson and Shasha, VLDB 1994).
 *
 * New blocks enter A1in, a FIFO of a quarter of the capacity; use there changes nothing (requests
 * that follow at once are one event). What leaves A1in is remembered in A1out, half the capacity
 * in keys; what comes back while remembered enters Am, an LRU list of proven blocks.
 * Parameters: in (0.25), out (0.5), shares of capacity.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "eviction/ghost.h"
#include "eviction/list.h"
#include "eviction/params.h"
#include "eviction/policies.h"

enum { SEEN_BEFORE = 1 };

struct two_q_node {
  struct link link;
  uint32_t key[2];
  uint32_t proven; /* in Am */
};

struct two_q {
  const kvstow_nodes *nodes;
  struct list in, proven; /* A1in, Am */
  struct ghost out;       /* A1out */
  struct comeback comeback;
  uint64_t in_size;
  double in_share, out_share;
};

static struct two_q_node *node_of(const struct two_q *two_q, uint32_t id) {
  return kvstow_node(two_q->nodes, id);
}

static int two_q_create(const kvstow_policy_config *config, void **policy) {
  int rc = kvstow__policy_config_check(config);
  if (rc < 0) return rc;
  struct two_q *two_q = calloc(1, sizeof *two_q);
  if (two_q == NULL) return KVSTOW_ENOMEM;
  two_q->nodes = config->nodes;
  two_q->in_share = 0.25;
  two_q->out_share = 0.5;
  const struct param params[] = {{"in", 0, 1, &two_q->in_share}, {"out", 0, 8, &two_q->out_share}};
  rc = kvstow__params_parse(config->params, params, sizeof params / sizeof params[0]);
  if (rc == 0)
    rc = kvstow__ghost_init(&two_q->out, (uint64_t)((double)config->capacity * two_q->out_share),
                            GHOST_KEYS);
  if (rc < 0) {
    free(two_q);
    return rc;
  }
  list_init(&two_q->in);
  list_init(&two_q->proven);
  two_q->in_size = (uint64_t)((double)config->capacity * two_q->in_share);
  *policy = two_q;
  return 0;
}

static void two_q_destroy(void *policy) {
  struct two_q *two_q = policy;
  if (two_q != NULL) kvstow__ghost_finish(&two_q->out);
  free(two_q);
}

static bool was_here(struct two_q *two_q, uint64_t key) {
  if (two_q->comeback.from == SEEN_BEFORE && two_q->comeback.key == key) return true;
  if (!kvstow__ghost_take(&two_q->out, key)) return false;
  two_q->comeback = (struct comeback){.key = key, .from = SEEN_BEFORE};
  return true;
}

static void two_q_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct two_q *two_q = policy;
  struct two_q_node *node = node_of(two_q, id);
  const bool known = was_here(two_q, access->key_lo);
  if (known) two_q->comeback.from = 0;
  ghost_set_key(node->key, access->key_lo);
  node->proven = known;
  list_push(known ? &two_q->proven : &two_q->in, two_q->nodes, id);
}

static void two_q_touch(void *policy, uint32_t id, const kvstow_access *access) {
  struct two_q *two_q = policy;
  (void)access;
  if (node_of(two_q, id)->proven) list_to_head(&two_q->proven, two_q->nodes, id);
}

static uint32_t two_q_victim(void *policy, const kvstow_access *incoming) {
  struct two_q *two_q = policy;
  if (incoming != NULL) was_here(two_q, incoming->key_lo);
  if (two_q->in.count <= two_q->in_size && two_q->proven.count > 0)
    return list_pop(&two_q->proven, two_q->nodes);
  const uint32_t id = list_pop(&two_q->in, two_q->nodes);
  if (id != KVSTOW_NO_ID) kvstow__ghost_push(&two_q->out, ghost_key(node_of(two_q, id)->key));
  return id;
}

static void two_q_remove(void *policy, uint32_t id) {
  struct two_q *two_q = policy;
  list_remove(node_of(two_q, id)->proven ? &two_q->proven : &two_q->in, two_q->nodes, id);
}

static int two_q_resize(void *policy, uint64_t capacity) {
  struct two_q *two_q = policy;
  const int rc = kvstow__ghost_resize(&two_q->out, (uint64_t)((double)capacity * two_q->out_share));
  if (rc == 0) two_q->in_size = (uint64_t)((double)capacity * two_q->in_share);
  return rc;
}

const kvstow_policy_ops kvstow__policy_two_q = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct two_q_node),
    .name = "2q",
    .summary = "2Q: a FIFO for newcomers, LRU for what came back (VLDB 1994)",
    .create = two_q_create,
    .destroy = two_q_destroy,
    .insert = two_q_insert,
    .touch = two_q_touch,
    .victim = two_q_victim,
    .remove = two_q_remove,
    .resize = two_q_resize,
};
