/* eviction/adaptive.c - recency and frequency together: 0.7 and 0.3.
 *
 *   score = recency_weight x (1 - age / window) + frequency_weight x log2(uses)
 *
 * Age is counted in accesses since the block's last use, the window in accesses too: `window` times
 * the capacity. Uses are those since the block entered, at most 63. The lowest score leaves.
 *
 * All ages grow alike, so the order of two blocks changes only when one of them is used. Adding
 * recency_weight x now / window - recency_weight to every score, and dividing by recency_weight /
 * window, leaves what is stored, a number that stays true while time passes, and fits a heap:
 *
 *   rank = time of last use + (frequency_weight / recency_weight) x window x log2(uses)
 *
 * in words: each doubling of its uses makes a block as good as one used 0.43 windows later.
 * Frequency thus wins against scans, but never for long: six doublings are the most.
 *
 * Time is that of the request: all its blocks get the same, an ancestor has as many uses as its
 * descendants or more, and of equal ranks the deeper goes first. So a block does not outlive its
 * ancestors, in whichever order a request's blocks are touched.
 *
 * Key: 46 bits of rank (7 years at 300000 accesses a second; then new blocks tie), 12 of depth
 * inverted, 6 of uses. Parameters: recency (0.7), frequency (0.3), window (1.0).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "eviction/heap.h"
#include "eviction/params.h"
#include "eviction/policies.h"

enum { USES_BITS = 6, DEPTH_BITS = 12 };
#define USES_MAX ((1u << USES_BITS) - 1)
#define DEPTH_MAX ((1u << DEPTH_BITS) - 1)
#define RANK_MAX ((UINT64_C(1) << (64 - USES_BITS - DEPTH_BITS)) - 1)

struct adaptive {
  const kvstow_nodes *nodes;
  struct heap heap;
  uint64_t accesses;
  uint64_t request, request_time; /* of the request under way: its accesses share a time */
  double recency, frequency, window;
  uint64_t bonus[USES_MAX + 1]; /* by uses, in accesses */
};

/* log2 of a small whole number: by halving the square, sixteen binary digits. */
static double log2_of(unsigned number) {
  double value = number, result = 0, digit = 1;
  while (value >= 2) {
    value /= 2;
    result += 1;
  }
  for (int i = 0; i < 16; i++) {
    value *= value;
    digit /= 2;
    if (value >= 2) {
      value /= 2;
      result += digit;
    }
  }
  return result;
}

static void set_bonus(struct adaptive *adaptive, uint64_t capacity) {
  const double doubling =
      adaptive->frequency / adaptive->recency * adaptive->window * (double)capacity;
  adaptive->bonus[0] = 0;
  for (unsigned uses = 1; uses <= USES_MAX; uses++)
    adaptive->bonus[uses] = (uint64_t)(doubling * log2_of(uses));
}

static int adaptive_create(const kvstow_policy_config *config, void **policy) {
  int rc = kvstow__policy_config_check(config);
  if (rc < 0) return rc;
  struct adaptive *adaptive = calloc(1, sizeof *adaptive);
  if (adaptive == NULL) return KVSTOW_ENOMEM;
  adaptive->nodes = config->nodes;
  adaptive->recency = 0.7;
  adaptive->frequency = 0.3;
  adaptive->window = 1.0;
  const struct param params[] = {{"recency", 0.001, 1000, &adaptive->recency},
                                 {"frequency", 0, 1000, &adaptive->frequency},
                                 {"window", 0, 1000, &adaptive->window}};
  rc = kvstow__params_parse(config->params, params, sizeof params / sizeof params[0]);
  if (rc < 0) {
    free(adaptive);
    return rc;
  }
  set_bonus(adaptive, config->capacity);
  kvstow__heap_init(&adaptive->heap);
  *policy = adaptive;
  return 0;
}

static void adaptive_destroy(void *policy) {
  free(policy);
}

/* The time of the access's request. Accesses without a request each have their own. */
static uint64_t time_of(struct adaptive *adaptive, const kvstow_access *access) {
  adaptive->accesses++;
  if (access->request == 0 || access->request != adaptive->request) {
    adaptive->request = access->request;
    adaptive->request_time = adaptive->accesses;
  }
  return adaptive->request_time;
}

static uint64_t key_of(struct adaptive *adaptive, const kvstow_access *access, unsigned uses) {
  const uint64_t time = time_of(adaptive, access);
  const uint64_t depth = access->depth < DEPTH_MAX ? access->depth : DEPTH_MAX;
  uint64_t rank = time + adaptive->bonus[uses];
  if (rank > RANK_MAX) rank = RANK_MAX;
  return rank << (DEPTH_BITS + USES_BITS) | (DEPTH_MAX - depth) << USES_BITS | uses;
}

static void adaptive_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct adaptive *adaptive = policy;
  kvstow__heap_insert(&adaptive->heap, adaptive->nodes, id, key_of(adaptive, access, 1));
}

static void adaptive_touch(void *policy, uint32_t id, const kvstow_access *access) {
  struct adaptive *adaptive = policy;
  const unsigned uses = (unsigned)(heap_key(adaptive->nodes, id) & USES_MAX);
  kvstow__heap_change(&adaptive->heap, adaptive->nodes, id,
                      key_of(adaptive, access, uses < USES_MAX ? uses + 1 : uses));
}

static uint32_t adaptive_victim(void *policy, const kvstow_access *incoming) {
  struct adaptive *adaptive = policy;
  (void)incoming;
  return kvstow__heap_pop(&adaptive->heap, adaptive->nodes);
}

static void adaptive_remove(void *policy, uint32_t id) {
  struct adaptive *adaptive = policy;
  kvstow__heap_remove(&adaptive->heap, adaptive->nodes, id);
}

/* Ranks made under the old capacity stay: they fade as their blocks are used or leave. */
static int adaptive_resize(void *policy, uint64_t capacity) {
  set_bonus(policy, capacity);
  return 0;
}

const kvstow_policy_ops kvstow__policy_adaptive = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct heap_node),
    .name = "adaptive",
    .summary = "0.7 recency + 0.3 frequency; leaves before their ancestors",
    .create = adaptive_create,
    .destroy = adaptive_destroy,
    .insert = adaptive_insert,
    .touch = adaptive_touch,
    .victim = adaptive_victim,
    .remove = adaptive_remove,
    .resize = adaptive_resize,
};
