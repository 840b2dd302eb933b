/* tier/copy.h - copying what this processor will not look at again: past its cache, so that lines about to
 * be overwritten are not fetched first (a third of memcpy's traffic).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_COPY_H
#define KVSTOW_TIER_COPY_H

#include <stddef.h>

/* As memcpy; other threads may miss some of it until the copying one has called the fence, which waits for
 * memory: as long as it takes to copy a short row. */
void kvstow__copy_past_cache(void *to, const void *from, size_t bytes);
void kvstow__copy_fence(void);

#endif
