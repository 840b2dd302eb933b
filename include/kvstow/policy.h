/* kvstow/policy.h - how to write an eviction policy.
 *
 * A policy orders blocks for eviction; it neither owns nor frees them. It sees ids: small integers
 * that name a block from insert() until victim() or remove(). Ids are reused afterwards.
 *
 * Rules:
 *  - One instance serves one tier. All calls on it are serialised by its owner: it needs no lock.
 *  - Per-block state lives in the block's own entry: KVSTOW_POLICY_NODE_BYTES at kvstow_node().
 *    The node is zeroed before insert(). It is the policy's until victim() or remove() returns.
 *  - insert, touch, victim and remove must not allocate. Ghost lists and sketches are sized in
 *    create() and resize() from `capacity`.
 *  - No clocks, no random seeds of its own: time comes in the access, the seed in the config, so
 *    that a replay gives the same answers as production.
 *
 * The same object serves the engine, `kvstow replay` and the tests. A shared object that exports
 * `const kvstow_policy_ops kvstow_policy` is a policy: --policy ./mine.so.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_POLICY_H
#define KVSTOW_POLICY_H

#include <stddef.h>
#include <stdint.h>

#include <kvstow/error.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVSTOW_POLICY_ABI 2u
#define KVSTOW_POLICY_NODE_BYTES 20u /* 4-byte aligned */
#define KVSTOW_NO_ID UINT32_MAX

/* Where a block was when it was used or moved. */
typedef enum kvstow_whence {
  KVSTOW_NOWHERE = 0, /* it is new */
  KVSTOW_IN_RAM,
  KVSTOW_ON_SSD,
} kvstow_whence;

/* What the owner knows about one access. Unknown values are 0 (parent: KVSTOW_NO_ID). A block that moves
 * on nobody's account (demoted, say) comes without what belongs to a request: request, session,
 * recompute_cost, chain_blocks, category. */
typedef struct kvstow_access {
  uint64_t key_lo, key_hi; /* the block's key: names it in ghost lists after it is gone */
  uint64_t request;        /* counts requests; equal for all blocks of one, stored ones included */
  uint64_t session;        /* the caller's conversation */
  uint64_t now_ms;         /* monotonic or trace time */
  uint64_t recompute_cost; /* caller's unit */
  uint32_t parent;       /* the nearest ancestor that this policy holds: the block before, or where
                              new blocks enter last to first, the one they continue */
  uint32_t depth;        /* position in the chain, 0 is the first block */
  uint32_t chain_blocks; /* that the request asked for, held or not */
  uint32_t tokens;       /* tokens in the block */
  uint32_t bytes;        /* payload bytes */
  uint32_t category;     /* caller's request class */
  kvstow_whence whence;
} kvstow_access;

/* Finds the node of an id: entries lie in equal chunks. Filled by the owner; inlined below. */
typedef struct kvstow_nodes {
  char *const *chunks; /* chunk i holds ids [i << shift, (i + 1) << shift) */
  uint32_t shift;
  uint32_t stride; /* bytes from one entry to the next */
} kvstow_nodes;

static inline void *kvstow_node(const kvstow_nodes *nodes, uint32_t id) {
  const uint32_t mask = (1u << nodes->shift) - 1u;
  return nodes->chunks[id >> nodes->shift] + (size_t)(id & mask) * nodes->stride;
}

typedef struct kvstow_policy_config {
  size_t size;               /* sizeof(kvstow_policy_config) */
  const kvstow_nodes *nodes; /* outlives the policy; its chunks array may move between calls */
  uint64_t capacity;         /* blocks the tier is expected to hold, >= 1 */
  uint64_t seed;
  const char *params; /* "k=v,k=v" or NULL; unknown keys are an error */
} kvstow_policy_config;

typedef struct kvstow_policy_ops {
  uint32_t abi;        /* KVSTOW_POLICY_ABI */
  uint32_t node_bytes; /* bytes of the node used, <= KVSTOW_POLICY_NODE_BYTES */
  const char *name;
  const char *summary; /* one line; names the paper or system */

  /* 0 and *policy, or KVSTOW_ENOMEM, or KVSTOW_EINVAL for bad params. */
  int (*create)(const kvstow_policy_config *config, void **policy);
  void (*destroy)(void *policy);

  /* A block enters. The id is not in the policy. */
  void (*insert)(void *policy, uint32_t id, const kvstow_access *access);
  /* A block in the policy is used again. */
  void (*touch)(void *policy, uint32_t id, const kvstow_access *access);
  /* Chooses a block, takes it out (with the policy's own bookkeeping: ghosts, ageing) and returns
   * its id; KVSTOW_NO_ID when empty. `incoming` describes the block that needs the room, or NULL.
   * An owner that can't evict it (pinned) calls insert() again. A policy that names a block it has
   * not, or none while it has some, is called no more: a store goes on with lru
   * (kvstow_stats.policies_replaced), `kvstow replay --sim` fails. */
  uint32_t (*victim)(void *policy, const kvstow_access *incoming);
  /* A block leaves for a reason that is not eviction (forgotten, expired). */
  void (*remove)(void *policy, uint32_t id);
  /* The expected capacity changed. May be NULL. 0 or KVSTOW_ENOMEM (keeps the old one). */
  int (*resize)(void *policy, uint64_t capacity);
  /* Whether a block is worth writing to the tier below, which holds `below` blocks: asked of the
   * upper tier's policy for an id that victim() has just returned, its node untouched since. What
   * is refused is dropped, and may be inserted again later. May be NULL: all are. Non-zero: yes. */
  int (*admit)(void *policy, uint32_t id, uint64_t below);
} kvstow_policy_ops;

/* Finds a shipped policy by name, or loads a shared object when `name` contains a '/'.
 * 0 and *ops (static storage, or mapped until exit), or KVSTOW_EPOLICY with a reason in `why`
 * (may be NULL). Any thread. */
KVSTOW_API int kvstow_policy_find(const char *name, const kvstow_policy_ops **ops, char *why,
                                  size_t why_bytes);

/* The i-th shipped policy, NULL past the end. */
KVSTOW_API const kvstow_policy_ops *kvstow_policy_at(size_t i);

#ifdef __cplusplus
}
#endif
#endif
