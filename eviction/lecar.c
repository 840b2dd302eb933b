/* eviction/lecar.c - LeCaR (Vietri et al., HotStorage 2018): learns whether to evict by LRU or LFU.
 *
 * Two experts order the same blocks. Each eviction draws one of them by weight and remembers its
 * victim in that expert's ghost list, of half a capacity. A block that comes back from a list says
 * that this expert was wrong, the more so the sooner it comes back, and lowers the expert's weight.
 * Parameters: rate (0.45), of learning; weight (0.5), of LRU at the start.
 *
 * A block is in two lists at once, which takes most of a node: uses count to 255 there, and keys in
 * ghost lists are 24 bits. Two keys alike cost one wrong guess.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "eviction/ghost.h"
#include "eviction/list.h"
#include "eviction/params.h"
#include "eviction/policies.h"

enum { USES_MAX = 255, KEY_BITS = 24 };
#define WEIGHT_LEAST 1e-10 /* so that a weight can grow again */
enum expert { LRU, LFU, EXPERTS };

struct lecar_node {
  struct link link;    /* by last use */
  struct link by_uses; /* among those with as many uses, by the time they reached them */
  uint32_t key_and_uses;
};

struct lecar {
  const kvstow_nodes *nodes;
  struct list recent;
  uint32_t youngest[USES_MAX + 1], oldest[USES_MAX + 1]; /* by uses; KVSTOW_NO_ID */
  uint32_t least_uses;                                   /* none has fewer */
  struct ghost ghosts[EXPERTS];
  double weights[EXPERTS]; /* together 1 */
  double rate;
  uint64_t capacity, random;
  uint32_t now; /* in accesses */
};

static struct lecar_node *node_of(const struct lecar *lecar, uint32_t id) {
  return kvstow_node(lecar->nodes, id);
}

static uint32_t uses_of(const struct lecar_node *node) {
  return node->key_and_uses & USES_MAX;
}

static uint32_t key_of(const struct lecar_node *node) {
  return node->key_and_uses >> (32 - KEY_BITS);
}

static uint32_t fold(uint64_t key) {
  return (uint32_t)(key ^ key >> 32) & ((1u << KEY_BITS) - 1);
}

/* ---- by uses ---- */

static void uses_add(struct lecar *lecar, uint32_t id) {
  struct lecar_node *node = node_of(lecar, id);
  const uint32_t uses = uses_of(node);
  node->by_uses = (struct link){.newer = KVSTOW_NO_ID, .older = lecar->youngest[uses]};
  if (lecar->youngest[uses] != KVSTOW_NO_ID)
    node_of(lecar, lecar->youngest[uses])->by_uses.newer = id;
  else
    lecar->oldest[uses] = id;
  lecar->youngest[uses] = id;
  if (uses < lecar->least_uses) lecar->least_uses = uses;
}

static void uses_remove(struct lecar *lecar, uint32_t id) {
  const struct lecar_node *node = node_of(lecar, id);
  const struct link link = node->by_uses;
  if (link.newer != KVSTOW_NO_ID)
    node_of(lecar, link.newer)->by_uses.older = link.older;
  else
    lecar->youngest[uses_of(node)] = link.older;
  if (link.older != KVSTOW_NO_ID)
    node_of(lecar, link.older)->by_uses.newer = link.newer;
  else
    lecar->oldest[uses_of(node)] = link.newer;
}

static uint32_t least_used(struct lecar *lecar) {
  while (lecar->least_uses < USES_MAX && lecar->oldest[lecar->least_uses] == KVSTOW_NO_ID)
    lecar->least_uses++;
  return lecar->oldest[lecar->least_uses];
}

/* ---- learning ---- */

/* e^-x for x from 0 to 6, to half a percent. */
static double decay(double x) {
  double power = 1 - x / 4096;
  for (int i = 0; i < 12; i++) power *= power;
  return power;
}

/* The expert's victim of long ago came back. Regret fades to 0.005 within a capacity of accesses. */
static void regret(struct lecar *lecar, enum expert expert, uint32_t evicted) {
  const double age = (double)(lecar->now - evicted) / (double)lecar->capacity;
  if (age >= 1.1) return;
  lecar->weights[expert] *= decay(lecar->rate * decay(5.298 * age));
  const double sum = lecar->weights[LRU] + lecar->weights[LFU] + 2 * WEIGHT_LEAST;
  for (int i = 0; i < EXPERTS; i++) lecar->weights[i] = (lecar->weights[i] + WEIGHT_LEAST) / sum;
}

/* A block comes that may have been evicted: learned before it makes another one go. */
static void learn(struct lecar *lecar, uint32_t key) {
  struct ghost_note note;
  for (int expert = 0; expert < EXPERTS; expert++)
    if (kvstow__ghost_take_note(&lecar->ghosts[expert], key, &note))
      regret(lecar, (enum expert)expert, note.time);
}

/* In hundredths, as libCacheSim draws: LRU is asked once in a hundred times whatever its weight. */
static enum expert draw(struct lecar *lecar) {
  uint64_t x = lecar->random += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return (double)((x ^ x >> 31) % 100) / 100 < lecar->weights[LRU] ? LRU : LFU;
}

/* ---- the policy ---- */

static void lecar_destroy(void *policy) {
  struct lecar *lecar = policy;
  for (int expert = 0; lecar != NULL && expert < EXPERTS; expert++)
    kvstow__ghost_finish(&lecar->ghosts[expert]);
  free(lecar);
}

static int lecar_create(const kvstow_policy_config *config, void **policy) {
  int rc = kvstow__policy_config_check(config);
  if (rc < 0) return rc;
  struct lecar *lecar = calloc(1, sizeof *lecar);
  if (lecar == NULL) return KVSTOW_ENOMEM;
  lecar->nodes = config->nodes;
  lecar->capacity = config->capacity;
  lecar->random = config->seed;
  lecar->rate = 0.45;
  lecar->weights[LRU] = 0.5;
  const struct param params[] = {{"rate", 0, 6, &lecar->rate},
                                 {"weight", 0, 1, &lecar->weights[LRU]}};
  rc = kvstow__params_parse(config->params, params, sizeof params / sizeof params[0]);
  for (int expert = 0; rc == 0 && expert < EXPERTS; expert++)
    rc = kvstow__ghost_init(&lecar->ghosts[expert], config->capacity / 2, GHOST_NOTES);
  if (rc < 0) {
    lecar_destroy(lecar);
    return rc;
  }
  lecar->weights[LFU] = 1 - lecar->weights[LRU];
  list_init(&lecar->recent);
  for (unsigned uses = 0; uses <= USES_MAX; uses++)
    lecar->youngest[uses] = lecar->oldest[uses] = KVSTOW_NO_ID;
  lecar->least_uses = USES_MAX;
  *policy = lecar;
  return 0;
}

static void lecar_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct lecar *lecar = policy;
  struct lecar_node *node = node_of(lecar, id);
  learn(lecar, fold(access->key_lo));
  lecar->now++;
  node->key_and_uses = fold(access->key_lo) << (32 - KEY_BITS) | 1;
  list_push(&lecar->recent, lecar->nodes, id);
  uses_add(lecar, id);
}

static void lecar_touch(void *policy, uint32_t id, const kvstow_access *access) {
  struct lecar *lecar = policy;
  struct lecar_node *node = node_of(lecar, id);
  (void)access;
  lecar->now++;
  list_to_head(&lecar->recent, lecar->nodes, id);
  uses_remove(lecar, id);
  if (uses_of(node) < USES_MAX) node->key_and_uses++;
  uses_add(lecar, id);
}

static void lecar_remove(void *policy, uint32_t id) {
  struct lecar *lecar = policy;
  list_remove(&lecar->recent, lecar->nodes, id);
  uses_remove(lecar, id);
}

static uint32_t lecar_victim(void *policy, const kvstow_access *incoming) {
  struct lecar *lecar = policy;
  if (lecar->recent.count == 0) return KVSTOW_NO_ID;
  if (incoming != NULL) learn(lecar, fold(incoming->key_lo));
  const uint32_t victims[EXPERTS] = {lecar->recent.tail, least_used(lecar)};
  const enum expert expert = draw(lecar);
  const uint32_t id = victims[expert];
  if (victims[LRU] != victims[LFU]) /* else nobody is to blame */
    kvstow__ghost_push_note(&lecar->ghosts[expert], key_of(node_of(lecar, id)),
                            (struct ghost_note){.time = lecar->now});
  lecar_remove(lecar, id);
  return id;
}

static int lecar_resize(void *policy, uint64_t capacity) {
  struct lecar *lecar = policy;
  for (int expert = 0; expert < EXPERTS; expert++) {
    const int rc = kvstow__ghost_resize(&lecar->ghosts[expert], capacity / 2);
    if (rc < 0) return rc;
  }
  lecar->capacity = capacity;
  return 0;
}

const kvstow_policy_ops kvstow__policy_lecar = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct lecar_node),
    .name = "lecar",
    .summary = "LeCaR: learns the weights of LRU and LFU by regret (HotStorage 2018)",
    .create = lecar_create,
    .destroy = lecar_destroy,
    .insert = lecar_insert,
    .touch = lecar_touch,
    .victim = lecar_victim,
    .remove = lecar_remove,
    .resize = lecar_resize,
};
