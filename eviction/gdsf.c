/* eviction/gdsf.c - Greedy-Dual-Size-Frequency (Cherkasova 1998).
 *
 *   priority = age + uses x cost / size;   age = priority of the last victim
 *
 * What leaves is the block whose bytes buy the least: cheap to recompute, large, or seldom used.
 * The age lets blocks that were hot once fade. Cost is the access's recompute_cost, size its bytes;
 * unknown (0) counts as 1, and the first block's ratio is the unit, so that with blocks of one
 * size and cost it is LFU with ageing. Equal priorities leave in the order of their last use.
 *
 * Key: the priority as a float, whose bits order as the number does while it is not negative, then
 * 22 bits of time and 10 of uses. A float is exact to 2^24 units: that many turnovers of the cache.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "eviction/heap.h"
#include "eviction/params.h"
#include "eviction/policies.h"

#define USES_BITS 10
#define USES_MAX ((1u << USES_BITS) - 1)

struct gdsf {
  const kvstow_nodes *nodes;
  struct heap heap;
  float age;
  double unit; /* cost / size of the first block; 0 before it */
  uint32_t accesses;
};

static int gdsf_create(const kvstow_policy_config *config, void **policy) {
  int rc = kvstow__policy_config_check(config);
  if (rc == 0) rc = kvstow__params_parse(config->params, NULL, 0);
  if (rc < 0) return rc;
  struct gdsf *gdsf = calloc(1, sizeof *gdsf);
  if (gdsf == NULL) return KVSTOW_ENOMEM;
  gdsf->nodes = config->nodes;
  kvstow__heap_init(&gdsf->heap);
  *policy = gdsf;
  return 0;
}

static void gdsf_destroy(void *policy) {
  free(policy);
}

static uint64_t key_of(struct gdsf *gdsf, const kvstow_access *access, uint32_t uses) {
  const double cost = access->recompute_cost > 0 ? (double)access->recompute_cost : 1;
  const double worth = cost / (access->bytes > 0 ? access->bytes : 1);
  if (gdsf->unit <= 0) gdsf->unit = worth;
  const float priority = gdsf->age + (float)(uses * (worth / gdsf->unit));
  uint32_t bits;
  memcpy(&bits, &priority, sizeof bits);
  return (uint64_t)bits << 32 | (gdsf->accesses++ << USES_BITS | uses);
}

static void gdsf_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct gdsf *gdsf = policy;
  kvstow__heap_insert(&gdsf->heap, gdsf->nodes, id, key_of(gdsf, access, 1));
}

static void gdsf_touch(void *policy, uint32_t id, const kvstow_access *access) {
  struct gdsf *gdsf = policy;
  const uint32_t uses = (uint32_t)heap_key(gdsf->nodes, id) & USES_MAX;
  kvstow__heap_change(&gdsf->heap, gdsf->nodes, id,
                      key_of(gdsf, access, uses < USES_MAX ? uses + 1 : uses));
}

static uint32_t gdsf_victim(void *policy, const kvstow_access *incoming) {
  struct gdsf *gdsf = policy;
  const uint32_t id = kvstow__heap_pop(&gdsf->heap, gdsf->nodes);
  (void)incoming;
  if (id != KVSTOW_NO_ID) {
    const uint32_t bits = heap_node(gdsf->nodes, id)->key_high;
    memcpy(&gdsf->age, &bits, sizeof bits);
  }
  return id;
}

static void gdsf_remove(void *policy, uint32_t id) {
  struct gdsf *gdsf = policy;
  kvstow__heap_remove(&gdsf->heap, gdsf->nodes, id);
}

const kvstow_policy_ops kvstow__policy_gdsf = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct heap_node),
    .name = "gdsf",
    .summary = "Greedy-Dual-Size-Frequency, with recompute cost (Cherkasova 1998)",
    .create = gdsf_create,
    .destroy = gdsf_destroy,
    .insert = gdsf_insert,
    .touch = gdsf_touch,
    .victim = gdsf_victim,
    .remove = gdsf_remove,
};
