/* eviction/wtinylfu.c - W-TinyLFU (Einziger, Friedman, Manes, ACM TOS 2017): admission by frequency.
 *
 * New blocks enter a small LRU window (1 %). What falls out of it gets into the main part only if
 * it was used more often than the block that would have to leave. Main is a segmented LRU: a use
 * moves a block from probation (20 %) to the protected part (80 %), whose oldest fall back.
 *
 * Frequencies, of blocks held or not, come from a count-min sketch of four rows of 4-bit counters
 * that are halved after ten capacities of accesses. Parameters: window (0.01), share of capacity;
 * protected (0.80), share of main.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "eviction/ghost.h"
#include "eviction/list.h"
#include "eviction/params.h"
#include "eviction/policies.h"

enum { ROWS = 4, COUNT_MAX = 15, SAMPLE = 10 };
enum part { WINDOW, PROBATION, PROTECTED, PARTS };

struct wtinylfu_node {
  struct link link;
  uint32_t key[2];
  uint32_t part;
};

struct sketch {
  uint8_t *counts; /* ROWS x (mask + 1) */
  uint64_t mask;
  uint64_t added, sample; /* counts are halved when added reaches sample */
};

struct wtinylfu {
  const kvstow_nodes *nodes;
  struct list parts[PARTS];
  struct sketch sketch;
  uint64_t window_max, protected_max;
  double window_share, protected_share;
};

static struct wtinylfu_node *node_of(const struct wtinylfu *lfu, uint32_t id) {
  return kvstow_node(lfu->nodes, id);
}

/* ---- the sketch ---- */

static int sketch_init(struct sketch *sketch, uint64_t capacity) {
  uint64_t width = 64;
  while (width < capacity && width < UINT64_C(1) << 40) width *= 2;
  sketch->counts = calloc(width, ROWS);
  if (sketch->counts == NULL) return KVSTOW_ENOMEM;
  sketch->mask = width - 1;
  sketch->added = 0;
  sketch->sample = SAMPLE * capacity;
  return 0;
}

static uint8_t *sketch_count(const struct sketch *sketch, uint64_t key, unsigned row) {
  static const uint64_t odd[ROWS] = {0x9e3779b97f4a7c15u, 0xbf58476d1ce4e5b9u, 0x94d049bb133111ebu,
                                     0xd6e8feb86659fd93u};
  const uint64_t mixed = (key ^ key >> 31) * odd[row];
  return &sketch->counts[row * (sketch->mask + 1) + (mixed >> 24 & sketch->mask)];
}

static unsigned sketch_frequency(const struct sketch *sketch, uint64_t key) {
  unsigned least = COUNT_MAX;
  for (unsigned row = 0; row < ROWS; row++) {
    const unsigned count = *sketch_count(sketch, key, row);
    if (count < least) least = count;
  }
  return least;
}

/* Raises only the rows that hold the least: the others count somebody else, too. */
static void sketch_add(struct sketch *sketch, uint64_t key) {
  const unsigned least = sketch_frequency(sketch, key);
  for (unsigned row = 0; row < ROWS && least < COUNT_MAX; row++) {
    uint8_t *count = sketch_count(sketch, key, row);
    if (*count == least) ++*count;
  }
  if (++sketch->added < sketch->sample) return;
  sketch->added /= 2;
  for (uint64_t i = 0; i < ROWS * (sketch->mask + 1); i++) sketch->counts[i] /= 2;
}

/* ---- the policy ---- */

static void set_sizes(struct wtinylfu *lfu, uint64_t capacity) {
  const uint64_t window = (uint64_t)((double)capacity * lfu->window_share);
  lfu->window_max = window > 0 ? window : 1;
  lfu->protected_max = (uint64_t)((double)(capacity - lfu->window_max) * lfu->protected_share);
}

static int wtinylfu_create(const kvstow_policy_config *config, void **policy) {
  int rc = kvstow__policy_config_check(config);
  if (rc < 0) return rc;
  struct wtinylfu *lfu = calloc(1, sizeof *lfu);
  if (lfu == NULL) return KVSTOW_ENOMEM;
  lfu->nodes = config->nodes;
  lfu->window_share = 0.01;
  lfu->protected_share = 0.80;
  const struct param params[] = {{"window", 0, 1, &lfu->window_share},
                                 {"protected", 0, 1, &lfu->protected_share}};
  rc = kvstow__params_parse(config->params, params, sizeof params / sizeof params[0]);
  if (rc == 0) rc = sketch_init(&lfu->sketch, config->capacity);
  if (rc < 0) {
    free(lfu);
    return rc;
  }
  for (int part = 0; part < PARTS; part++) list_init(&lfu->parts[part]);
  set_sizes(lfu, config->capacity);
  *policy = lfu;
  return 0;
}

static void wtinylfu_destroy(void *policy) {
  struct wtinylfu *lfu = policy;
  if (lfu != NULL) free(lfu->sketch.counts);
  free(lfu);
}

static void enter(struct wtinylfu *lfu, uint32_t id, enum part part) {
  node_of(lfu, id)->part = part;
  list_push(&lfu->parts[part], lfu->nodes, id);
}

static void wtinylfu_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct wtinylfu *lfu = policy;
  sketch_add(&lfu->sketch, access->key_lo);
  ghost_set_key(node_of(lfu, id)->key, access->key_lo);
  enter(lfu, id, WINDOW);
}

static void wtinylfu_touch(void *policy, uint32_t id, const kvstow_access *access) {
  struct wtinylfu *lfu = policy;
  const enum part part = (enum part)node_of(lfu, id)->part;
  sketch_add(&lfu->sketch, access->key_lo);
  list_remove(&lfu->parts[part], lfu->nodes, id);
  enter(lfu, id, part == WINDOW ? WINDOW : PROTECTED);
  while (lfu->parts[PROTECTED].count > lfu->protected_max)
    enter(lfu, list_pop(&lfu->parts[PROTECTED], lfu->nodes), PROBATION);
}

static unsigned frequency(const struct wtinylfu *lfu, uint32_t id) {
  return sketch_frequency(&lfu->sketch, ghost_key(node_of(lfu, id)->key));
}

/* The oldest of main. */
static uint32_t main_tail(const struct wtinylfu *lfu) {
  const uint32_t id = lfu->parts[PROBATION].tail;
  return id != KVSTOW_NO_ID ? id : lfu->parts[PROTECTED].tail;
}

/* Room is wanted for one that enters the window: while that is too full, its oldest meets main's. */
static uint32_t wtinylfu_victim(void *policy, const kvstow_access *incoming) {
  struct wtinylfu *lfu = policy;
  (void)incoming;
  /* Main has not had its share yet: what the window holds too much goes there unasked. */
  while (lfu->parts[WINDOW].count > lfu->window_max)
    enter(lfu, list_pop(&lfu->parts[WINDOW], lfu->nodes), PROBATION);
  const uint32_t candidate = lfu->parts[WINDOW].tail;
  uint32_t id = main_tail(lfu);
  if (candidate != KVSTOW_NO_ID &&
      (id == KVSTOW_NO_ID || lfu->parts[WINDOW].count >= lfu->window_max)) {
    if (id == KVSTOW_NO_ID || frequency(lfu, candidate) <= frequency(lfu, id)) {
      id = candidate;
    } else {
      list_remove(&lfu->parts[WINDOW], lfu->nodes, candidate);
      enter(lfu, candidate, PROBATION);
    }
  }
  if (id != KVSTOW_NO_ID) list_remove(&lfu->parts[node_of(lfu, id)->part], lfu->nodes, id);
  return id;
}

static void wtinylfu_remove(void *policy, uint32_t id) {
  struct wtinylfu *lfu = policy;
  list_remove(&lfu->parts[node_of(lfu, id)->part], lfu->nodes, id);
}

static int wtinylfu_resize(void *policy, uint64_t capacity) {
  struct wtinylfu *lfu = policy;
  struct sketch fresh;
  const int rc = sketch_init(&fresh, capacity);
  if (rc < 0) return rc;
  free(lfu->sketch.counts);
  lfu->sketch = fresh;
  set_sizes(lfu, capacity);
  return 0;
}

const kvstow_policy_ops kvstow__policy_wtinylfu = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct wtinylfu_node),
    .name = "wtinylfu",
    .summary = "W-TinyLFU: a window, then admission by frequency (TOS 2017)",
    .create = wtinylfu_create,
    .destroy = wtinylfu_destroy,
    .insert = wtinylfu_insert,
    .touch = wtinylfu_touch,
    .victim = wtinylfu_victim,
    .remove = wtinylfu_remove,
    .resize = wtinylfu_resize,
};
