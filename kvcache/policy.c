/* policy.c - makes the two policies, and tells them how many blocks their tier holds.
 *
 * Budgets are in bytes, policies count blocks. How large those are is known when a space is opened, then
 * measured; a policy is told again when it is off by a quarter, which the mean of what is held decides.
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
