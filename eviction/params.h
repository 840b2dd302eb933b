/* eviction/params.h - a policy's "k=v,k=v" parameters.
 *
 * A policy lists what it understands, with bounds and a place for the value; anything else in the
 * string is an error, so that a typing mistake can't silently run the defaults.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EVICTION_PARAMS_H
#define EVICTION_PARAMS_H

#include <kvstow/policy.h>

struct param {
  const char *name;
  double min, max; /* inclusive */
  double *value;   /* holds the default; overwritten when the name is given */
};

/* 0, or KVSTOW_EINVAL for an unknown name, a value that is no number or one out of bounds.
 * `text` may be NULL. `params` may be NULL when `count` is 0. */
int kvstow__params_parse(const char *text, const struct param *params, size_t count);

/* Whether `config` is one that create() may use: every policy's first line. */
int kvstow__policy_config_check(const kvstow_policy_config *config);

#endif
