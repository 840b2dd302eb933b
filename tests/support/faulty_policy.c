/* tests/support/faulty_policy.c - a user's policy that names wrong victims, from the hundredth on: parameter `none`
 * none at all, `gone` the block that left last, `wild` one that never was.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define kvstow_policy honest_policy
#include "../../eviction/examples/most_recent.c" /* NOLINT(bugprone-suspicious-include) */
#undef kvstow_policy

#include <string.h>

struct faulty {
  void *honest;
  uint32_t wrong, last, named;
  int gone;
};

static int faulty_create(const kvstow_policy_config *config, void **policy) {
  kvstow_policy_config plain = *config;
  struct faulty *f = *policy = calloc(1, sizeof *f);
  if (f == NULL) return KVSTOW_ENOMEM;
  f->gone = config->params != NULL && strcmp(config->params, "gone") == 0;
  f->wrong =
      config->params != NULL && strcmp(config->params, "wild") == 0 ? 4000000000u : KVSTOW_NO_ID;
  plain.params = NULL;
  return create(&plain, &f->honest);
}

static void faulty_destroy(void *policy) {
  free(((struct faulty *)policy)->honest);
  free(policy);
}

static void faulty_insert(void *policy, uint32_t id, const kvstow_access *access) {
  insert(((struct faulty *)policy)->honest, id, access);
}

static void faulty_touch(void *policy, uint32_t id, const kvstow_access *access) {
  touch(((struct faulty *)policy)->honest, id, access);
}

static uint32_t faulty_victim(void *policy, const kvstow_access *incoming) {
  struct faulty *f = policy;
  if (f->named++ >= 100) return f->gone ? f->last : f->wrong;
  f->last = victim(f->honest, incoming);
  return f->last;
}

static void faulty_remove(void *policy, uint32_t id) {
  leave(((struct faulty *)policy)->honest, id);
}

KVSTOW_API extern const kvstow_policy_ops kvstow_policy;
const kvstow_policy_ops kvstow_policy = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct node),
    .name = "faulty",
    .summary = "names wrong victims",
    .create = faulty_create,
    .destroy = faulty_destroy,
    .insert = faulty_insert,
    .touch = faulty_touch,
    .victim = faulty_victim,
    .remove = faulty_remove,
};
