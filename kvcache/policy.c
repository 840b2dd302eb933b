/* policy.c - makes the two policies, and tells them how many blocks their tier holds.
 *
 * Budgets are in bytes, policies count blocks. How large those are is known when a space is opened, then
 * measured; a policy is told again when it is off by a quarter, which the mean of what is held decides.
 *
 * Policies are hosts' code, too. One that names a block it was not given, or none while it has some, would have us
 * tread on memory or wait for ever: lru takes its place.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "kvcache/store.h"

#define NAME_BYTES 256u

int kvs_policy_make(kvstow *store, struct kvs_policy *policy, const char *text, char **nodes,
                    uint64_t tier_bytes) {
  char name[NAME_BYTES];
  snprintf(name, sizeof name, "%s", text == NULL ? "default" : text);
  char *params = strchr(name, ':');
  if (params != NULL) *params++ = '\0';
  char why[KVSTOW_MESSAGE_BYTES] = "";
  int rc = kvstow_policy_find(name, &policy->ops, why, sizeof why);
  if (rc != 0) return kvs_fail(store, rc, "policy %s: %s", name, why);
  policy->nodes = (kvstow_nodes){
      .chunks = nodes, .shift = KVS_CHUNK_SHIFT, .stride = (uint32_t)sizeof(struct kvs_entry)};
  policy->capacity = tier_bytes >> 20; /* for want of a better guess */
  if (policy->capacity == 0) policy->capacity = 1;
  const kvstow_policy_config config = {.size = sizeof config,
                                       .nodes = &policy->nodes,
                                       .capacity = policy->capacity,
                                       .seed = store->seed,
                                       .params = params};
  rc = policy->ops->create(&config, &policy->self);
  return rc == 0 ? 0 : kvs_fail(store, rc, "policy %s: %s", text, kvstow_strerror(rc));
}

void kvs_policy_finish(struct kvs_policy *policy) {
  if (policy->self != NULL) policy->ops->destroy(policy->self);
}

static bool has(const kvstow *store, uint32_t id, uint16_t flag) {
  if (id >= store->index.used) return false;
  const struct kvs_entry *entry = kvs_entry(&store->index, id);
  return entry->root != KVS_NO_ENTRY && (entry->flags & flag) != 0;
}

/* lru, with the blocks of `policy` in the order of their ids: theirs is not known. false: no memory. */
static bool replace(kvstow *store, struct kvs_policy *policy, uint16_t flag, uint32_t named) {
  const kvstow_policy_ops *lru;
  const kvstow_policy_config config = {.size = sizeof config,
                                       .nodes = &policy->nodes,
                                       .capacity = policy->capacity,
                                       .seed = store->seed};
  void *self = NULL;
  if (kvstow_policy_find("lru", &lru, NULL, 0) != 0 || lru->create(&config, &self) != 0)
    return false;
  if (named == KVSTOW_NO_ID)
    (void)kvs_fail(store, KVSTOW_EPOLICY, "policy %s named no victim of %llu blocks: lru instead",
                   policy->ops->name, (unsigned long long)policy->count);
  else
    (void)kvs_fail(store, KVSTOW_EPOLICY, "policy %s named a victim it had not: lru instead",
                   policy->ops->name);
  kvs_policy_finish(policy);
  policy->ops = lru;
  policy->self = self;
  policy->count = 0;
  for (uint32_t id = 0; id < store->index.used; id++) {
    if (!has(store, id, flag)) continue;
    const kvstow_access access = kvs_access_alone(store, id, KVSTOW_NOWHERE, (enum kvs_flag)flag);
    kvs_policy_insert(store, policy, id, &access);
  }
  store->count.policies_replaced++;
  return true;
}

static uint16_t flag_of(const kvstow *store, const struct kvs_policy *policy) {
  return policy == &store->ram ? KVS_RAM_POLICY : KVS_SSD_POLICY;
}

void kvs_policy_insert(kvstow *store, struct kvs_policy *policy, uint32_t id,
                       const kvstow_access *access) {
  memset(kvstow_node(&policy->nodes, id), 0, KVSTOW_POLICY_NODE_BYTES);
  kvs_entry(&store->index, id)->flags |= flag_of(store, policy);
  policy->count++;
  policy->ops->insert(policy->self, id, access);
}

void kvs_policy_remove(kvstow *store, struct kvs_policy *policy, uint32_t id) {
  kvs_entry(&store->index, id)->flags &= (uint16_t)~flag_of(store, policy);
  policy->count--;
  policy->ops->remove(policy->self, id);
}

uint32_t kvs_policy_victim(kvstow *store, struct kvs_policy *policy) {
  const uint16_t flag = flag_of(store, policy);
  for (int tries = 0; policy->count > 0 && tries < 2; tries++) {
    const uint32_t id = policy->ops->victim(policy->self, NULL);
    if (has(store, id, flag)) {
      kvs_entry(&store->index, id)->flags &= (uint16_t)~flag;
      policy->count--;
      return id;
    }
    if (!replace(store, policy, flag, id)) break;
  }
  return KVSTOW_NO_ID;
}

/* A policy that can't be told now keeps what it knows, and is told when the figure has changed again. */
static void tell(struct kvs_policy *policy, uint64_t tier_bytes, uint64_t block_bytes) {
  const uint64_t capacity = tier_bytes < block_bytes ? 1 : tier_bytes / block_bytes;
  const uint64_t known = policy->capacity;
  if (policy->self == NULL || (capacity <= known + known / 4 && capacity >= known - known / 4))
    return;
  policy->capacity = capacity;
  if (policy->ops->resize != NULL) (void)policy->ops->resize(policy->self, capacity);
}

void kvs_policies_fit(kvstow *store, uint32_t padded_bytes) {
  const uint64_t expected = (uint64_t)padded_bytes + KVSTOW_PAGE_BYTES;
  const uint64_t frames = store->ram_blocks + store->reservations;
  tell(&store->ram, store->capacity_bytes, frames > 0 ? store->frame_bytes / frames : expected);
  const uint64_t records = store->ssd_records;
  tell(&store->ssd, (uint64_t)store->segments_count * store->segment_bytes,
       records > 0 ? store->ssd_record_bytes / records : expected);
}
