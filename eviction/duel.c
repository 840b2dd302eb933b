/* eviction/duel.c - does what the better of two policies would have done.
 *
 * lifetime learns when conversations come back, lirs holds on to some of many that wait; each is the
 * better one for some traffic. Both run here, each on a shadow: the keys that a cache of its own
 * would hold, and no data. The one whose shadow has served more of late leads, in blocks of leading
 * runs, which is what a server can use; and victims are blocks that the leader's shadow has given up
 * (Subramanian, Smaragdakis, Loh, MICRO 2006). So the cache turns into the leader's block by block,
 * and there is no state to hand over when the lead changes.
 *
 * Shadows see every access. A sample would be cheaper, but of what? Runs want whole chains, and
 * thousands of those begin with one system prompt.
 *
 * A shadow holds at most `capacity` blocks, and fewer than the cache once that has evicted: then some
 * block of the cache is not in it. Parameters: those of lifetime, which also decides on admission.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "eviction/keymap.h"
#include "eviction/lifetime.h"
#include "eviction/list.h"
#include "eviction/params.h"
#include "eviction/policies.h"

enum {
  SIDES = 2,
  ALL = (1 << SIDES) - 1,
  UNKNOWN = 1 << SIDES, /* one more than the sets of sides: without a slot */
  LISTS,
  NODE_WORDS = KVSTOW_POLICY_NODE_BYTES / sizeof(uint32_t),
  WINDOW = 128,     /* capacities of accesses after which a run counts 1/e */
  MARGIN_SHARE = 5, /* a fifth of the capacity, in blocks, takes the lead */
};

/* Blocks that both shadows hold are in no list: when a victim is asked for, there is one that the leader's does
 * not hold. */
struct duel_node {
  struct link link;
  uint32_t slot; /* KVSTOW_NO_ID: none */
  uint32_t list; /* the set of sides whose shadows hold the block too, or UNKNOWN */
};

/* A key that the cache or a shadow holds. Its number is the id by which the sides' policies know it. */
struct slot {
  uint32_t nodes[SIDES][NODE_WORDS];
  uint32_t id;   /* in the cache, or KVSTOW_NO_ID */
  uint32_t held; /* the set of sides whose shadows hold it */
  uint64_t key;  /* free: the next such one */
};

struct side {
  const kvstow_policy_ops *ops;
  void *policy;
  char *chunk; /* the slots, as kvstow_nodes wants them */
  kvstow_nodes nodes;
  uint64_t count;
  uint64_t run; /* of the request under way: no deeper than the first block missed */
  double score; /* blocks of leading runs */
};

/* Room for all that shadows and cache hold, if the cache holds no more than it should. */
struct pool {
  struct slot *slots;
  struct keymap map;
  uint32_t count, free;
  uint32_t fresh; /* from here on slots were never used */
};

struct duel {
  const kvstow_nodes *nodes;
  struct list lists[LISTS]; /* of the cache's blocks, by when they came there */
  uint64_t held;            /* by the cache */
  struct pool pool;
  struct side sides[SIDES];
  uint32_t leader;
  uint64_t capacity;
  uint64_t request;           /* the one under way, */
  uint64_t accesses, deepest; /* its accesses, and its chain as far as they tell */
};

static struct duel_node *node_of(const struct duel *duel, uint32_t id) {
  return kvstow_node(duel->nodes, id);
}

/* ---- the pool ---- */

static int pool_init(struct pool *pool, uint64_t capacity) {
  const uint64_t count = (SIDES + 1) * capacity + 1; /* one more: it comes before the victim goes */
  memset(pool, 0, sizeof *pool);
  if (count > INT32_MAX) return KVSTOW_ENOMEM;
  pool->slots = malloc(count * sizeof *pool->slots);
  if (pool->slots == NULL || kvstow__keymap_init(&pool->map, (uint32_t)count) < 0) {
    free(pool->slots);
    return KVSTOW_ENOMEM;
  }
  pool->count = (uint32_t)count;
  pool->free = KVSTOW_NO_ID;
  return 0;
}

static void pool_finish(struct pool *pool) {
  free(pool->slots);
  kvstow__keymap_finish(&pool->map);
}

static bool same_key(const void *slots, uint32_t at, uint64_t key) {
  return ((const struct slot *)slots)[at].key == key;
}

static uint32_t pool_find(const struct pool *pool, uint64_t key) {
  return keymap_find(&pool->map, key, same_key, pool->slots);
}

static bool pool_full(const struct pool *pool) {
  return pool->free == KVSTOW_NO_ID && pool->fresh == pool->count;
}

static uint32_t pool_take(struct pool *pool, uint64_t key) {
  uint32_t at = pool->free;
  if (at != KVSTOW_NO_ID)
    pool->free = (uint32_t)pool->slots[at].key;
  else
    at = pool->fresh++;
  pool->slots[at] = (struct slot){.key = key, .id = KVSTOW_NO_ID};
  kvstow__keymap_add(&pool->map, key, at);
  return at;
}

/* Nobody holds it any more. Its nodes stay as they are until it is taken again. */
static void pool_free(struct pool *pool, uint32_t at) {
  struct slot *slot = &pool->slots[at];
  kvstow__keymap_drop(&pool->map, slot->key, at);
  slot->key = pool->free;
  pool->free = at;
}

/* Moves to a larger pool; slots keep their numbers, which the sides know. */
static int pool_grow(struct pool *pool, uint64_t capacity) {
  struct pool grown;
  const int rc = pool_init(&grown, capacity);
  if (rc < 0) return rc;
  memcpy(grown.slots, pool->slots, pool->fresh * sizeof *pool->slots);
  grown.fresh = pool->fresh;
  grown.free = pool->free;
  for (uint32_t at = 0; at < grown.fresh; at++) {
    const struct slot *slot = &grown.slots[at];
    if (slot->id != KVSTOW_NO_ID || slot->held != 0) kvstow__keymap_add(&grown.map, slot->key, at);
  }
  pool_finish(pool);
  *pool = grown;
  return 0;
}

/* ---- the cache's blocks ---- */

static void unlist(struct duel *duel, uint32_t id) {
  const struct duel_node *node = node_of(duel, id);
  if (node->list != ALL) list_remove(&duel->lists[node->list], duel->nodes, id);
}

static void relist(struct duel *duel, uint32_t id, uint32_t list) {
  unlist(duel, id);
  node_of(duel, id)->list = list;
  if (list != ALL) list_push(&duel->lists[list], duel->nodes, id);
}

/* The cache holds the block, but what is known of it is lost, or another's. */
static void disown(struct duel *duel, uint32_t id) {
  struct duel_node *node = node_of(duel, id);
  duel->pool.slots[node->slot].id = KVSTOW_NO_ID;
  node->slot = KVSTOW_NO_ID;
  relist(duel, id, UNKNOWN);
}

/* The slot of `key`, which the cache holds as `id` from now on. A full pool says that the cache holds
 * more than it should: some of its blocks are in no shadow. */
static uint32_t own(struct duel *duel, uint64_t key, uint32_t id) {
  struct pool *pool = &duel->pool;
  uint32_t at = pool_find(pool, key);
  if (at == KVSTOW_NO_ID) {
    if (pool_full(pool)) {
      const uint32_t oldest = duel->lists[0].tail, lost = node_of(duel, oldest)->slot;
      disown(duel, oldest);
      pool_free(pool, lost);
    }
    at = pool_take(pool, key);
  } else if (pool->slots[at].id != KVSTOW_NO_ID) {
    disown(duel, pool->slots[at].id); /* two keys alike */
  }
  pool->slots[at].id = id;
  return at;
}

/* ---- the sides ---- */

static bool holds(const struct duel *duel, uint32_t s, uint32_t slot) {
  return (duel->pool.slots[slot].held >> s & 1) != 0;
}

static void side_drop(struct duel *duel, uint32_t s, uint32_t at) {
  struct slot *slot = &duel->pool.slots[at];
  duel->sides[s].count--;
  slot->held &= ~(1u << s);
  if (slot->id != KVSTOW_NO_ID)
    relist(duel, slot->id, slot->held);
  else if (slot->held == 0)
    pool_free(&duel->pool, at);
}

/* The slot of the access's parent, if it has one. */
static uint32_t parent_slot(const struct duel *duel, const kvstow_access *access) {
  return access->parent != KVSTOW_NO_ID ? node_of(duel, access->parent)->slot : KVSTOW_NO_ID;
}

/* The parent in this slot as the side knows it: it may not hold it. */
static uint32_t seen_parent(const struct duel *duel, uint32_t s, uint32_t parent) {
  return parent != KVSTOW_NO_ID && holds(duel, s, parent) ? parent : KVSTOW_NO_ID;
}

/* `seen`: the incoming access, or NULL, whose parent is the side's already. */
static void side_evict(struct duel *duel, uint32_t s, const kvstow_access *seen) {
  const struct side *side = &duel->sides[s];
  side_drop(duel, s, side->ops->victim(side->policy, seen));
}

/* One side sees a use of the block in `at`, which hangs on the one in `parent`. */
static void side_use(struct duel *duel, uint32_t s, uint32_t at, uint32_t parent,
                     kvstow_access *seen) {
  struct side *side = &duel->sides[s];
  struct slot *slot = &duel->pool.slots[at];
  seen->parent = seen_parent(duel, s, parent);
  if (holds(duel, s, at)) {
    side->ops->touch(side->policy, at, seen);
    return;
  }
  if (side->count == duel->capacity) {
    side_evict(duel, s, seen);
    seen->parent = seen_parent(duel, s, parent);
  }
  memset(slot->nodes[s], 0, sizeof slot->nodes[s]);
  side->ops->insert(side->policy, at, seen);
  slot->held |= 1u << s;
  side->count++;
}

/* ---- the lead ---- */

/* A request has ended. */
static void judge(struct duel *duel) {
  const double passed = (double)duel->accesses / ((double)duel->capacity * WINDOW);
  for (uint32_t s = 0; s < SIDES; s++) {
    struct side *side = &duel->sides[s];
    side->score *= 1 / (1 + passed);
    side->score += (double)(side->run < duel->deepest ? side->run : duel->deepest);
    side->run = UINT64_MAX;
  }
  duel->accesses = duel->deepest = 0;
  const double margin = (double)duel->capacity / MARGIN_SHARE;
  uint32_t best = duel->leader;
  for (uint32_t s = 0; s < SIDES; s++)
    if (duel->sides[s].score > duel->sides[best].score) best = s;
  if (duel->sides[best].score > duel->sides[duel->leader].score + margin) duel->leader = best;
}

/* Blocks come in any order; those on no request's account are a chain each. */
static void count(struct duel *duel, uint32_t at, const kvstow_access *access) {
  if (access->request == 0 || access->request != duel->request) judge(duel);
  duel->request = access->request;
  duel->accesses++;
  const uint64_t depth = access->request != 0 ? access->depth : 0;
  if (depth >= duel->deepest) duel->deepest = depth + 1;
  for (uint32_t s = 0; s < SIDES; s++)
    if (!holds(duel, s, at) && depth < duel->sides[s].run) duel->sides[s].run = depth;
}

static void use(struct duel *duel, uint32_t id, uint32_t at, const kvstow_access *access) {
  kvstow_access seen = *access;
  const uint32_t parent = parent_slot(duel, access);
  count(duel, at, access);
  for (uint32_t s = 0; s < SIDES; s++) side_use(duel, s, at, parent, &seen);
  relist(duel, id, ALL);
}

/* ---- the policy ---- */

static void duel_destroy(void *policy) {
  struct duel *duel = policy;
  if (duel == NULL) return;
  for (uint32_t s = 0; s < SIDES; s++)
    if (duel->sides[s].policy != NULL) duel->sides[s].ops->destroy(duel->sides[s].policy);
  pool_finish(&duel->pool);
  free(duel);
}

static int side_create(struct duel *duel, uint32_t s, const kvstow_policy_ops *ops,
                       const char *params) {
  struct side *side = &duel->sides[s];
  side->ops = ops;
  side->chunk = (char *)duel->pool.slots[0].nodes[s];
  side->nodes = (kvstow_nodes){.chunks = &side->chunk, .shift = 31, .stride = sizeof(struct slot)};
  side->run = UINT64_MAX;
  const kvstow_policy_config config = {
      .size = sizeof config, .nodes = &side->nodes, .capacity = duel->capacity, .params = params};
  return ops->create(&config, &side->policy);
}

static int duel_create(const kvstow_policy_config *config, void **policy) {
  int rc = kvstow__policy_config_check(config);
  if (rc < 0) return rc;
  struct duel *duel = calloc(1, sizeof *duel);
  if (duel == NULL) return KVSTOW_ENOMEM;
  duel->nodes = config->nodes;
  duel->capacity = config->capacity;
  for (uint32_t list = 0; list < LISTS; list++) list_init(&duel->lists[list]);
  rc = pool_init(&duel->pool, duel->capacity);
  if (rc < 0) {
    free(duel);
    return rc;
  }
  rc = side_create(duel, 0, &kvstow__policy_lifetime, config->params);
  if (rc == 0) kvstow__lifetime_on_shadow(duel->sides[0].policy);
  if (rc == 0) rc = side_create(duel, 1, &kvstow__policy_lirs, "leaf=1");
  if (rc < 0) {
    duel_destroy(duel);
    return rc;
  }
  *policy = duel;
  return 0;
}

static void duel_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct duel *duel = policy;
  struct duel_node *node = node_of(duel, id);
  node->slot = own(duel, access->key_lo, id);
  node->list = ALL; /* as soon as it is used */
  duel->held++;
  kvstow__lifetime_asked(duel->sides[0].policy, access);
  use(duel, id, node->slot, access);
}

static void duel_touch(void *policy, uint32_t id, const kvstow_access *access) {
  struct duel *duel = policy;
  struct duel_node *node = node_of(duel, id);
  if (node->slot == KVSTOW_NO_ID) node->slot = own(duel, access->key_lo, id);
  use(duel, id, node->slot, access);
}

/* The cache no longer holds the block; shadows may. */
static void leave(struct duel *duel, uint32_t id) {
  const struct duel_node *node = node_of(duel, id);
  unlist(duel, id);
  duel->held--;
  if (node->slot == KVSTOW_NO_ID) return;
  struct slot *slot = &duel->pool.slots[node->slot];
  slot->id = KVSTOW_NO_ID;
  if (slot->held == 0) pool_free(&duel->pool, node->slot);
}

/* Shadows make room first: then the leader's is smaller than the cache, and one of the lists has a block. */
static uint32_t duel_victim(void *policy, const kvstow_access *incoming) {
  struct duel *duel = policy;
  if (duel->held == 0) return KVSTOW_NO_ID;
  if (incoming != NULL) keymap_prefetch(&duel->pool.map, incoming->key_lo);
  for (uint32_t s = 0; s < SIDES; s++) {
    while (duel->sides[s].count >= duel->held) {
      kvstow_access seen;
      if (incoming != NULL) {
        seen = *incoming;
        seen.parent = seen_parent(duel, s, parent_slot(duel, incoming));
      }
      side_evict(duel, s, incoming != NULL ? &seen : NULL);
    }
  }
  uint32_t id = duel->lists[UNKNOWN].tail;
  if (id == KVSTOW_NO_ID) id = duel->lists[0].tail;
  if (id == KVSTOW_NO_ID) id = duel->lists[ALL & ~(1u << duel->leader)].tail;
  leave(duel, id);
  const uint32_t at = node_of(duel, id)->slot;
  if (at != KVSTOW_NO_ID) kvstow__lifetime_left(duel->sides[0].policy, at);
  return id;
}

static void duel_remove(void *policy, uint32_t id) {
  struct duel *duel = policy;
  const uint32_t at = node_of(duel, id)->slot;
  for (uint32_t s = 0; s < SIDES && at != KVSTOW_NO_ID; s++) {
    if (!holds(duel, s, at)) continue;
    duel->sides[s].ops->remove(duel->sides[s].policy, at);
    side_drop(duel, s, at);
  }
  leave(duel, id);
}

/* The slot may be free by now, but what lifetime noted at the last use is still in it. */
static int duel_admit(void *policy, uint32_t id, uint64_t below) {
  struct duel *duel = policy;
  const uint32_t at = node_of(duel, id)->slot;
  if (at == KVSTOW_NO_ID) return 1;
  return kvstow__policy_lifetime.admit(duel->sides[0].policy, at, below);
}

/* The pool never shrinks: slots in use may lie anywhere in it. */
static int duel_resize(void *policy, uint64_t capacity) {
  struct duel *duel = policy;
  int rc = 0;
  if ((SIDES + 1) * capacity + 1 > duel->pool.count) rc = pool_grow(&duel->pool, capacity);
  if (rc < 0) return rc;
  for (uint32_t s = 0; s < SIDES; s++) {
    struct side *side = &duel->sides[s];
    side->chunk = (char *)duel->pool.slots[0].nodes[s];
    while (side->count > capacity) side_evict(duel, s, NULL);
  }
  for (uint32_t s = 0; s < SIDES && rc == 0; s++)
    rc = duel->sides[s].ops->resize(duel->sides[s].policy, capacity);
  if (rc == 0) duel->capacity = capacity;
  return rc;
}

const kvstow_policy_ops kvstow__policy_duel = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct duel_node),
    .name = "duel",
    .summary = "what the better of lifetime and lirs would do, by their shadows (MICRO 2006)",
    .create = duel_create,
    .destroy = duel_destroy,
    .insert = duel_insert,
    .touch = duel_touch,
    .victim = duel_victim,
    .remove = duel_remove,
    .resize = duel_resize,
    .admit = duel_admit,
};
