/* eviction/random.c - any block, with equal chance (Belady, IBM Systems Journal 1966): the floor a policy
 * has to beat.
 *
 * The blocks form a complete binary tree (heap.h with all keys equal), so that the block at a
 * random place is found in O(log n) without an array. The generator is splitmix64 from the seed
 * in the config: the same run again gives the same victims.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "eviction/heap.h"
#include "eviction/params.h"
#include "eviction/policies.h"

struct chance {
  const kvstow_nodes *nodes;
  struct heap blocks;
  uint64_t state;
};

static int random_create(const kvstow_policy_config *config, void **policy) {
  int rc = kvstow__policy_config_check(config);
  if (rc == 0) rc = kvstow__params_parse(config->params, NULL, 0);
  if (rc < 0) return rc;
  struct chance *chance = malloc(sizeof *chance);
  if (chance == NULL) return KVSTOW_ENOMEM;
  chance->nodes = config->nodes;
  chance->state = config->seed;
  kvstow__heap_init(&chance->blocks);
  *policy = chance;
  return 0;
}

static void random_destroy(void *policy) {
  free(policy);
}

static void random_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct chance *chance = policy;
  (void)access;
  kvstow__heap_insert(&chance->blocks, chance->nodes, id, 0);
}

static void random_touch(void *policy, uint32_t id, const kvstow_access *access) {
  (void)policy, (void)id, (void)access;
}

static void random_remove(void *policy, uint32_t id) {
  struct chance *chance = policy;
  kvstow__heap_remove(&chance->blocks, chance->nodes, id);
}

static uint32_t random_victim(void *policy, const kvstow_access *incoming) {
  struct chance *chance = policy;
  (void)incoming;
  if (chance->blocks.count == 0) return KVSTOW_NO_ID;
  uint64_t bits = chance->state += 0x9e3779b97f4a7c15u;
  bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
  bits ^= bits >> 31;
  const uint32_t place = 1 + (uint32_t)((bits >> 32) * chance->blocks.count >> 32);
  const uint32_t id = kvstow__heap_at(&chance->blocks, chance->nodes, place);
  random_remove(chance, id);
  return id;
}

const kvstow_policy_ops kvstow__policy_random = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct heap_node),
    .name = "random",
    .summary = "any block with equal chance, from the seed",
    .create = random_create,
    .destroy = random_destroy,
    .insert = random_insert,
    .touch = random_touch,
    .victim = random_victim,
    .remove = random_remove,
};
