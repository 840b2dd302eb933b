/* policies.c - see policies.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/policies.h"

#include <stdio.h>
#include <string.h>

#include <kvstow/kvstow.h>
#include <kvstow/policy.h>

bool policy_offline(const char *name) {
  return strcmp(name, "opt") == 0 || strcmp(name, "belady") == 0 || strcmp(name, "infinite") == 0;
}

void policy_names(char *text, size_t bytes) {
  const kvstow_policy_ops *ops;
  size_t used = (size_t)snprintf(text, bytes, "default");
  for (size_t i = 0; (ops = kvstow_policy_at(i)) != NULL && used < bytes; i++)
    used += (size_t)snprintf(text + used, bytes - used, ", %s", ops->name);
}

const char *policy_params(const char *text, char name[POLICY_NAME_BYTES]) {
  snprintf(name, POLICY_NAME_BYTES, "%s", text);
  char *colon = strchr(name, ':');
  if (colon == NULL) return NULL;
  *colon = '\0';
  return text + (colon + 1 - name);
}

/* Makes one for a tier of a few blocks. */
static int try_out(const kvstow_policy_ops *ops, const char *params) {
  char *chunk = NULL;
  void *policy;
  const kvstow_nodes nodes = {.chunks = &chunk, .shift = 31, .stride = 1};
  const kvstow_policy_config config = {
      .size = sizeof config, .nodes = &nodes, .capacity = 64, .seed = 1, .params = params};
  const int rc = ops->create(&config, &policy);
  if (rc == 0) ops->destroy(policy);
  return rc;
}

/* A policy says only that it does not take them: each alone tells which one. */
static void blame(const kvstow_policy_ops *ops, const char *name, const char *params, char *why,
                  size_t why_bytes) {
  char list[POLICY_NAME_BYTES], *rest = list, *one;
  snprintf(list, sizeof list, "%s", params);
  while ((one = strsep(&rest, ",")) != NULL) {
    if (try_out(ops, one) == 0) continue;
    snprintf(why, why_bytes, "policy %s takes no parameter `%s`", name, one);
    return;
  }
  snprintf(why, why_bytes, "policy %s does not take `%s`", name, params);
}

bool policy_check(const char *text, const char *params, char *why, size_t why_bytes) {
  char name[POLICY_NAME_BYTES], names[1024];
  const char *own = policy_params(text, name);
  const kvstow_policy_ops *ops;
  if (kvstow_policy_find(name, &ops, why, why_bytes) != 0) {
    const size_t said = strlen(why);
    policy_names(names, sizeof names);
    if (strchr(name, '/') == NULL) snprintf(why + said, why_bytes - said, "; there are %s", names);
    return false;
  }
  if (own != NULL && params != NULL) {
    snprintf(why, why_bytes, "%s: parameters here and in --policy-params", text);
    return false;
  }
  if (own != NULL) params = own;
  const int rc = try_out(ops, params);
  if (rc == KVSTOW_EINVAL && params != NULL)
    blame(ops, name, params, why, why_bytes);
  else if (rc != 0)
    snprintf(why, why_bytes, "policy %s: %s", name, kvstow_strerror(rc));
  return rc == 0;
}
