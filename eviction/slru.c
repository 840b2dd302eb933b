/* eviction/slru.c - segmented LRU (Karedla, Love and Wherry 1994), in four segments.
 *
 * A block enters the lowest segment with room and climbs one at each use. A segment that is too
 * full hands its oldest down to the one below; the victim is the oldest of the lowest that holds
 * any. A scan thus passes through the lowest segment and leaves the rest alone.
 * Parameters: segments (4), of equal size.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "eviction/list.h"
#include "eviction/params.h"
#include "eviction/policies.h"

enum { SEGMENTS_MAX = 8 };

struct slru_node {
  struct link link;
  uint32_t segment;
};

struct slru {
  const kvstow_nodes *nodes;
  struct list segments[SEGMENTS_MAX];
  uint32_t count;
  uint64_t segment_size; /* blocks */
};

static struct slru_node *node_of(const struct slru *slru, uint32_t id) {
  return kvstow_node(slru->nodes, id);
}

static int slru_resize(void *policy, uint64_t capacity) {
  struct slru *slru = policy;
  const uint64_t count = slru->count == 0 ? 1 : slru->count;
  slru->segment_size = capacity / count > 0 ? capacity / count : 1;
  return 0;
}

static int slru_create(const kvstow_policy_config *config, void **policy) {
  double segments = 4;
  const struct param params[] = {{"segments", 1, SEGMENTS_MAX, &segments}};
  int rc = kvstow__policy_config_check(config);
  if (rc == 0) rc = kvstow__params_parse(config->params, params, 1);
  if (rc < 0) return rc;
  struct slru *slru = calloc(1, sizeof *slru);
  if (slru == NULL) return KVSTOW_ENOMEM;
  slru->nodes = config->nodes;
  slru->count = (uint32_t)segments;
  for (uint32_t i = 0; i < slru->count; i++) list_init(&slru->segments[i]);
  slru_resize(slru, config->capacity);
  *policy = slru;
  return 0;
}

static void slru_destroy(void *policy) {
  free(policy);
}

static void enter(struct slru *slru, uint32_t id, uint32_t segment) {
  node_of(slru, id)->segment = segment;
  list_push(&slru->segments[segment], slru->nodes, id);
}

/* Hands down what is too much, from `segment` to the lowest, which may overflow. */
static void hand_down(struct slru *slru, uint32_t segment) {
  for (; segment > 0; segment--)
    while (slru->segments[segment].count > slru->segment_size)
      enter(slru, list_pop(&slru->segments[segment], slru->nodes), segment - 1);
}

static void slru_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct slru *slru = policy;
  uint32_t segment = 0;
  (void)access;
  while (segment < slru->count && slru->segments[segment].count >= slru->segment_size) segment++;
  enter(slru, id, segment < slru->count ? segment : 0);
}

static void slru_touch(void *policy, uint32_t id, const kvstow_access *access) {
  struct slru *slru = policy;
  const uint32_t segment = node_of(slru, id)->segment;
  const uint32_t next = segment + 1 < slru->count ? segment + 1 : segment;
  (void)access;
  list_remove(&slru->segments[segment], slru->nodes, id);
  enter(slru, id, next);
  hand_down(slru, next);
}

static uint32_t slru_victim(void *policy, const kvstow_access *incoming) {
  struct slru *slru = policy;
  (void)incoming;
  for (uint32_t i = 0; i < slru->count; i++)
    if (slru->segments[i].count > 0) return list_pop(&slru->segments[i], slru->nodes);
  return KVSTOW_NO_ID;
}

static void slru_remove(void *policy, uint32_t id) {
  struct slru *slru = policy;
  list_remove(&slru->segments[node_of(slru, id)->segment], slru->nodes, id);
}

const kvstow_policy_ops kvstow__policy_slru = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct slru_node),
    .name = "slru",
    .summary = "segmented LRU, four segments (Karedla et al. 1994)",
    .create = slru_create,
    .destroy = slru_destroy,
    .insert = slru_insert,
    .touch = slru_touch,
    .victim = slru_victim,
    .remove = slru_remove,
    .resize = slru_resize,
};
