/* eviction/examples/most_recent.c - a policy of your own, as a shared object: 60 lines of code.
 *
 *   cc -shared -fPIC -I include eviction/examples/most_recent.c -o most_recent.so
 *   kvstow replay --sim --trace t.jsonl.zst --policy lru,./most_recent.so --size 2%
 *
 * Evicts the block used last: the right thing for one long scan repeated for ever, and a poor one
 * for chat. It needs only <kvstow/policy.h>: a stack threaded through the blocks' nodes.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include <kvstow/policy.h>

struct node {
  uint32_t above, below;
};
struct stack {
  const kvstow_nodes *nodes;
  uint32_t top;
};

static struct node *at(struct stack *s, uint32_t id) {
  return kvstow_node(s->nodes, id);
}

static int create(const kvstow_policy_config *config, void **policy) {
  if (config->params != NULL && *config->params != '\0') return KVSTOW_EINVAL;
  struct stack *s = *policy = malloc(sizeof *s);
  if (s == NULL) return KVSTOW_ENOMEM;
  *s = (struct stack){.nodes = config->nodes, .top = KVSTOW_NO_ID};
  return 0;
}

static void insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct stack *s = policy;
  (void)access;
  *at(s, id) = (struct node){.above = KVSTOW_NO_ID, .below = s->top};
  if (s->top != KVSTOW_NO_ID) at(s, s->top)->above = id;
  s->top = id;
}

static void leave(void *policy, uint32_t id) {
  struct stack *s = policy;
  const struct node node = *at(s, id);
  if (node.above != KVSTOW_NO_ID)
    at(s, node.above)->below = node.below;
  else
    s->top = node.below;
  if (node.below != KVSTOW_NO_ID) at(s, node.below)->above = node.above;
}

static void touch(void *policy, uint32_t id, const kvstow_access *access) {
  leave(policy, id);
  insert(policy, id, access);
}

static uint32_t victim(void *policy, const kvstow_access *incoming) {
  struct stack *s = policy;
  const uint32_t id = s->top;
  (void)incoming;
  if (id != KVSTOW_NO_ID) leave(policy, id);
  return id;
}

KVSTOW_API extern const kvstow_policy_ops kvstow_policy;
const kvstow_policy_ops kvstow_policy = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct node),
    .name = "most_recent",
    .summary = "evicts what was used last (MRU)",
    .create = create,
    .destroy = free,
    .insert = insert,
    .touch = touch,
    .victim = victim,
    .remove = leave,
};
