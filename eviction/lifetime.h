/* eviction/lifetime.h - lifetime on a shadow: its own victims are not the cache's (duel.c).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EVICTION_LIFETIME_H
#define EVICTION_LIFETIME_H

#include <kvstow/policy.h>

/* From now on the cache's doings are told by the two below, as admission wants to know them. */
void kvstow__lifetime_on_shadow(void *policy);

/* The cache has evicted the block whose node is `id`'s; lifetime need not hold it any more. */
void kvstow__lifetime_left(void *policy, uint32_t id);

/* A block enters the cache. */
void kvstow__lifetime_asked(void *policy, const kvstow_access *access);

#endif
