/* eviction/s3fifo.c - S3-FIFO (Yang et al., SOSP 2023): three queues, no list surgery on a hit.
 *
 * New blocks enter a small queue (10 %). Its oldest goes to the main queue if it was used at least
 * `promote` times there, else it leaves and its key is remembered; one that comes back while
 * remembered enters main at once. Main is a CLOCK with two bits.
 * Parameters: small (0.10), ghost (0.90), shares of capacity; promote (2), uses.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "eviction/ghost.h"
#include "eviction/list.h"
#include "eviction/params.h"
#include "eviction/policies.h"

enum { USES_MAX = 3, SEEN_BEFORE = 1 };

struct s3_node {
  struct link link;
  uint32_t key[2];
  uint16_t uses; /* since it entered its queue */
  uint16_t in_main;
};

struct s3fifo {
  const kvstow_nodes *nodes;
  struct list small, main;
  struct ghost ghost;
  struct comeback comeback;
  uint64_t main_size; /* blocks; the rest is the small queue's */
  double small_share, ghost_share, promote;
};

static struct s3_node *node_of(const struct s3fifo *s3, uint32_t id) {
  return kvstow_node(s3->nodes, id);
}

static void set_sizes(struct s3fifo *s3, uint64_t capacity) {
  s3->main_size = capacity - (uint64_t)((double)capacity * s3->small_share);
}

static int s3fifo_create(const kvstow_policy_config *config, void **policy) {
  int rc = kvstow__policy_config_check(config);
  if (rc < 0) return rc;
  struct s3fifo *s3 = calloc(1, sizeof *s3);
  if (s3 == NULL) return KVSTOW_ENOMEM;
  s3->nodes = config->nodes;
  s3->small_share = 0.10;
  s3->ghost_share = 0.90;
  s3->promote = 2;
  const struct param params[] = {{"small", 0, 1, &s3->small_share},
                                 {"ghost", 0, 8, &s3->ghost_share},
                                 {"promote", 1, 1000, &s3->promote}};
  rc = kvstow__params_parse(config->params, params, sizeof params / sizeof params[0]);
  if (rc == 0)
    rc = kvstow__ghost_init(&s3->ghost, (uint64_t)((double)config->capacity * s3->ghost_share),
                            GHOST_KEYS);
  if (rc < 0) {
    free(s3);
    return rc;
  }
  list_init(&s3->small);
  list_init(&s3->main);
  set_sizes(s3, config->capacity);
  *policy = s3;
  return 0;
}

static void s3fifo_destroy(void *policy) {
  struct s3fifo *s3 = policy;
  if (s3 != NULL) kvstow__ghost_finish(&s3->ghost);
  free(s3);
}

static bool was_here(struct s3fifo *s3, uint64_t key) {
  if (s3->comeback.from == SEEN_BEFORE && s3->comeback.key == key) return true;
  if (!kvstow__ghost_take(&s3->ghost, key)) return false;
  s3->comeback = (struct comeback){.key = key, .from = SEEN_BEFORE};
  return true;
}

static void s3fifo_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct s3fifo *s3 = policy;
  struct s3_node *node = node_of(s3, id);
  const bool known = was_here(s3, access->key_lo);
  if (known) s3->comeback.from = 0;
  ghost_set_key(node->key, access->key_lo);
  node->uses = 0;
  node->in_main = known;
  list_push(known ? &s3->main : &s3->small, s3->nodes, id);
}

static void s3fifo_touch(void *policy, uint32_t id, const kvstow_access *access) {
  struct s3fifo *s3 = policy;
  struct s3_node *node = node_of(s3, id);
  (void)access;
  if (node->uses < UINT16_MAX) node->uses++;
}

/* The oldest of main without a use; each look costs a block one of its uses. */
static uint32_t evict_main(struct s3fifo *s3) {
  for (;;) {
    const uint32_t id = s3->main.tail;
    if (id == KVSTOW_NO_ID) return id;
    struct s3_node *node = node_of(s3, id);
    if (node->uses == 0) return list_pop(&s3->main, s3->nodes);
    node->uses = (uint16_t)((node->uses < USES_MAX ? node->uses : USES_MAX) - 1);
    list_to_head(&s3->main, s3->nodes, id);
  }
}

/* The oldest of the small queue not worth promoting; KVSTOW_NO_ID when all were. */
static uint32_t evict_small(struct s3fifo *s3) {
  uint32_t id;
  while ((id = list_pop(&s3->small, s3->nodes)) != KVSTOW_NO_ID) {
    struct s3_node *node = node_of(s3, id);
    if (node->uses < s3->promote) {
      kvstow__ghost_push(&s3->ghost, ghost_key(node->key));
      return id;
    }
    node->uses = 0;
    node->in_main = 1;
    list_push(&s3->main, s3->nodes, id);
  }
  return KVSTOW_NO_ID;
}

static uint32_t s3fifo_victim(void *policy, const kvstow_access *incoming) {
  struct s3fifo *s3 = policy;
  if (incoming != NULL) was_here(s3, incoming->key_lo);
  if (s3->main.count <= s3->main_size && s3->small.count > 0) {
    const uint32_t id = evict_small(s3);
    if (id != KVSTOW_NO_ID) return id;
  }
  return evict_main(s3);
}

static void s3fifo_remove(void *policy, uint32_t id) {
  struct s3fifo *s3 = policy;
  list_remove(node_of(s3, id)->in_main ? &s3->main : &s3->small, s3->nodes, id);
}

static int s3fifo_resize(void *policy, uint64_t capacity) {
  struct s3fifo *s3 = policy;
  const int rc = kvstow__ghost_resize(&s3->ghost, (uint64_t)((double)capacity * s3->ghost_share));
  if (rc == 0) set_sizes(s3, capacity);
  return rc;
}

const kvstow_policy_ops kvstow__policy_s3fifo = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct s3_node),
    .name = "s3fifo",
    .summary = "S3-FIFO: small, main and ghost queues (SOSP 2023)",
    .create = s3fifo_create,
    .destroy = s3fifo_destroy,
    .insert = s3fifo_insert,
    .touch = s3fifo_touch,
    .victim = s3fifo_victim,
    .remove = s3fifo_remove,
    .resize = s3fifo_resize,
};
