/* eviction/policies.h - the shipped policies, one a file, in the order kvstow_policy_at() lists.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EVICTION_POLICIES_H
#define EVICTION_POLICIES_H

#include <kvstow/policy.h>

extern const kvstow_policy_ops kvstow__policy_fifo;
extern const kvstow_policy_ops kvstow__policy_lru;
extern const kvstow_policy_ops kvstow__policy_lfu;
extern const kvstow_policy_ops kvstow__policy_adaptive;
extern const kvstow_policy_ops kvstow__policy_clock;
extern const kvstow_policy_ops kvstow__policy_sieve;
extern const kvstow_policy_ops kvstow__policy_s3fifo;
extern const kvstow_policy_ops kvstow__policy_two_q;
extern const kvstow_policy_ops kvstow__policy_slru;
extern const kvstow_policy_ops kvstow__policy_arc;
extern const kvstow_policy_ops kvstow__policy_gdsf;
extern const kvstow_policy_ops kvstow__policy_lirs;
extern const kvstow_policy_ops kvstow__policy_wtinylfu;
extern const kvstow_policy_ops kvstow__policy_lecar;
extern const kvstow_policy_ops kvstow__policy_random;
extern const kvstow_policy_ops kvstow__policy_lifetime;
extern const kvstow_policy_ops kvstow__policy_duel;

#endif
