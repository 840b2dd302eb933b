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

struct duel_node {
  struct link link;
  uint32_t slot; /* KVSTOW_NO_ID: none */
  uint32_t list; /* the set of sides whose shadows hold the block too, or UNKNOWN */
};

/* A key that the cache or a shadow holds. Its number is the id by which the sides' policies know it. */
struct slot {
  uint32_t nodes[SIDES][NODE_WORDS];
  uint64_t key;
  uint32_t id;   /* in the cache, or KVSTOW_NO_ID */
  uint32_t held; /* the set of sides whose shadows hold it */
  uint32_t next; /* in the bucket, or free */
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
  uint32_t *buckets; /* bucket_mask + 1, a power of two */
  uint32_t bucket_mask;
  uint32_t count, free;
};

struct duel {
  const kvstow_nodes *nodes;
  struct list lists[LISTS]; /* of the cache's blocks, by last use */
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
  uint32_t buckets = 8;
  while (buckets < count) buckets *= 2;
  pool->slots = calloc(count, sizeof *pool->slots);
  pool->buckets = malloc((size_t)buckets * sizeof *pool->buckets);
  if (pool->slots == NULL || pool->buckets == NULL) {
    free(pool->slots);
    free(pool->buckets);
    return KVSTOW_ENOMEM;
  }
  memset(pool->buckets, 0xff, (size_t)buckets * sizeof *pool->buckets);
  pool->bucket_mask = buckets - 1;
  pool->count = (uint32_t)count;
  pool->free = KVSTOW_NO_ID;
  for (uint32_t at = pool->count; at-- > 0; pool->free = at) pool->slots[at].next = pool->free;
  return 0;
}

static void pool_finish(struct pool *pool) {
  free(pool->slots);
  free(pool->buckets);
}

static uint32_t *bucket_of(const struct pool *pool, uint64_t key) {
  return &pool->buckets[key * 0x9e3779b97f4a7c15u >> 32 & pool->bucket_mask];
}

static uint32_t pool_find(const struct pool *pool, uint64_t key) {
  uint32_t at = *bucket_of(pool, key);
  while (at != KVSTOW_NO_ID && pool->slots[at].key != key) at = pool->slots[at].next;
  return at;
}

static uint32_t pool_take(struct pool *pool, uint64_t key) {
  const uint32_t at = pool->free;
  uint32_t *bucket = bucket_of(pool, key);
  pool->free = pool->slots[at].next;
  pool->slots[at] = (struct slot){.key = key, .id = KVSTOW_NO_ID, .next = *bucket};
  *bucket = at;
  return at;
}

/* Nobody holds it any more. Its nodes stay as they are until it is taken again. */
static void pool_free(struct pool *pool, uint32_t at) {
  uint32_t *place = bucket_of(pool, pool->slots[at].key);
  while (*place != at) place = &pool->slots[*place].next;
  *place = pool->slots[at].next;
  pool->slots[at].next = pool->free;
  pool->free = at;
}

/* Moves to a larger pool; slots keep their numbers, which the sides know. */
static int pool_grow(struct pool *pool, uint64_t capacity) {
  struct pool grown;
  const int rc = pool_init(&grown, capacity);
  if (rc < 0) return rc;
  memcpy(grown.slots, pool->slots, pool->count * sizeof *pool->slots);
  grown.free = pool->count; /* the first of the new ones, */
  if (pool->free != KVSTOW_NO_ID) {
    uint32_t last = pool->free; /* after the old ones */
    while (pool->slots[last].next != KVSTOW_NO_ID) last = pool->slots[last].next;
    grown.slots[last].next = grown.free;
    grown.free = pool->free;
  }
  for (uint32_t i = 0; i <= pool->bucket_mask; i++) {
    for (uint32_t at = pool->buckets[i]; at != KVSTOW_NO_ID; at = pool->slots[at].next) {
      uint32_t *bucket = bucket_of(&grown, pool->slots[at].key);
      grown.slots[at].next = *bucket;
      *bucket = at;
    }
  }
  pool_finish(pool);
  *pool = grown;
  return 0;
}

/* ---- the cache's blocks ---- */

static void relist(struct duel *duel, uint32_t id, uint32_t list) {
  struct duel_node *node = node_of(duel, id);
  list_remove(&duel->lists[node->list], duel->nodes, id);
  node->list = list;
  list_push(&duel->lists[list], duel->nodes, id);
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
    if (pool->free == KVSTOW_NO_ID) {
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

/* An access as the side knows it: it may not hold the parent. */
static kvstow_access seen_by(const struct duel *duel, uint32_t s, const kvstow_access *access) {
  kvstow_access seen = *access;
  if (seen.parent != KVSTOW_NO_ID) seen.parent = node_of(duel, seen.parent)->slot;
  if (seen.parent != KVSTOW_NO_ID && !holds(duel, s, seen.parent)) seen.parent = KVSTOW_NO_ID;
  return seen;
}

static void side_evict(struct duel *duel, uint32_t s, const kvstow_access *incoming) {
  const struct side *side = &duel->sides[s];
  kvstow_access seen;
  if (incoming != NULL) seen = seen_by(duel, s, incoming);
  side_drop(duel, s, side->ops->victim(side->policy, incoming != NULL ? &seen : NULL));
}

/* One side sees a use of the block in `at`. */
static void side_use(struct duel *duel, uint32_t s, uint32_t at, const kvstow_access *access) {
  struct side *side = &duel->sides[s];
  struct slot *slot = &duel->pool.slots[at];
  const bool hit = holds(duel, s, at);
  if (!hit && side->count == duel->capacity) side_evict(duel, s, access);
  const kvstow_access seen = seen_by(duel, s, access);
  if (hit) {
    side->ops->touch(side->policy, at, &seen);
    return;
  }
  memset(slot->nodes[s], 0, sizeof slot->nodes[s]);
  side->ops->insert(side->policy, at, &seen);
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
  count(duel, at, access);
  for (uint32_t s = 0; s < SIDES; s++) side_use(duel, s, at, access);
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
  node->list = duel->pool.slots[node->slot].held;
  list_push(&duel->lists[node->list], duel->nodes, id);
  duel->held++;
  kvstow__lifetime_asked(duel->sides[0].policy, access);
  use(duel, id, node->slot, access);
}

static void duel_touch(void *policy, uint32_t id, const kvstow_access *access) {
  struct duel *duel = policy;
  struct duel_node *node = node_of(duel, id);
  if (node->slot == KVSTOW_NO_ID) {
    node->slot = own(duel, access->key_lo, id);
    relist(duel, id, duel->pool.slots[node->slot].held);
  }
  use(duel, id, node->slot, access);
}

/* The cache no longer holds the block; shadows may. */
static void leave(struct duel *duel, uint32_t id) {
  const struct duel_node *node = node_of(duel, id);
  list_remove(&duel->lists[node->list], duel->nodes, id);
  duel->held--;
  if (node->slot == KVSTOW_NO_ID) return;
  struct slot *slot = &duel->pool.slots[node->slot];
  slot->id = KVSTOW_NO_ID;
  if (slot->held == 0) pool_free(&duel->pool, node->slot);
}

/* Shadows make room first: then the leader's is smaller than the cache, and one of the first lists has a
 * block; all lists together hold the cache's. */
static uint32_t duel_victim(void *policy, const kvstow_access *incoming) {
  struct duel *duel = policy;
  if (duel->held == 0) return KVSTOW_NO_ID;
  for (uint32_t s = 0; s < SIDES; s++)
    while (duel->sides[s].count >= duel->held) side_evict(duel, s, incoming);
  const uint32_t order[LISTS] = {UNKNOWN, 0, ALL & ~(1u << duel->leader), 1u << duel->leader, ALL};
  uint32_t id = KVSTOW_NO_ID;
  for (uint32_t i = 0; id == KVSTOW_NO_ID && i < LISTS; i++) id = duel->lists[order[i]].tail;
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
