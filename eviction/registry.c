/* eviction/registry.c - finds a policy by name, or loads one from a shared object.
 *
 * Names are the ones people type after --policy. `default` is an alias: what the engine uses when
 * nobody chooses. A loaded object stays mapped until exit (RTLD_NODELETE), because a policy made
 * from it may outlive any handle we could keep.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "eviction/policies.h"

static const kvstow_policy_ops *const shipped[] = {
    &kvstow__policy_fifo,  &kvstow__policy_lru,   &kvstow__policy_lfu,    &kvstow__policy_adaptive,
    &kvstow__policy_clock, &kvstow__policy_sieve, &kvstow__policy_s3fifo, &kvstow__policy_two_q,
    &kvstow__policy_slru,  &kvstow__policy_arc,   &kvstow__policy_lirs,   &kvstow__policy_wtinylfu,
    &kvstow__policy_lecar, &kvstow__policy_gdsf,  &kvstow__policy_random, &kvstow__policy_lifetime,
    &kvstow__policy_duel,
};

enum { SHIPPED = sizeof shipped / sizeof shipped[0] };

static const kvstow_policy_ops *const default_policy = &kvstow__policy_duel;

__attribute__((format(printf, 3, 4))) static int refuse(char *why, size_t why_bytes,
                                                        const char *format, ...) {
  if (why != NULL && why_bytes > 0) {
    va_list args;
    va_start(args, format);
    vsnprintf(why, why_bytes, format, args);
    va_end(args);
  }
  return KVSTOW_EPOLICY;
}

static int check(const char *path, const kvstow_policy_ops *ops, char *why, size_t why_bytes) {
  /* The ABI word comes first: nothing after it means anything until it is right. */
  if (ops->abi != KVSTOW_POLICY_ABI)
    return refuse(why, why_bytes, "%s: made for policy ABI %u, this is %u", path, ops->abi,
                  KVSTOW_POLICY_ABI);
  if (ops->node_bytes > KVSTOW_POLICY_NODE_BYTES)
    return refuse(why, why_bytes, "%s: wants %u bytes a block, there are %u", path, ops->node_bytes,
                  KVSTOW_POLICY_NODE_BYTES);
  if (ops->name == NULL || ops->create == NULL || ops->destroy == NULL || ops->insert == NULL ||
      ops->touch == NULL || ops->victim == NULL || ops->remove == NULL)
    return refuse(why, why_bytes, "%s: its policy lacks a name or a function", path);
  return 0;
}

static int load(const char *path, const kvstow_policy_ops **ops, char *why, size_t why_bytes) {
  void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (object == NULL) {
    const char *reason = dlerror();
    return refuse(why, why_bytes, "%s", reason != NULL ? reason : path);
  }
  const kvstow_policy_ops *found = dlsym(object, "kvstow_policy");
  int rc;
  if (found == NULL)
    rc = refuse(why, why_bytes, "%s: exports no `kvstow_policy`", path);
  else
    rc = check(path, found, why, why_bytes);
  dlclose(object);
  if (rc == 0) *ops = found;
  return rc;
}

int kvstow_policy_find(const char *name, const kvstow_policy_ops **ops, char *why,
                       size_t why_bytes) {
  if (ops == NULL) return KVSTOW_EINVAL;
  *ops = NULL;
  if (name == NULL || *name == '\0') return refuse(why, why_bytes, "no policy named");
  if (strchr(name, '/') != NULL) return load(name, ops, why, why_bytes);
  if (strcmp(name, "default") == 0) {
    *ops = default_policy;
    return 0;
  }
  for (size_t i = 0; i < SHIPPED; i++) {
    if (strcmp(name, shipped[i]->name) == 0) {
      *ops = shipped[i];
      return 0;
    }
  }
  return refuse(why, why_bytes, "no policy is called `%s` (a file needs a `/` in its name)", name);
}

const kvstow_policy_ops *kvstow_policy_at(size_t i) {
  return i < SHIPPED ? shipped[i] : NULL;
}
