/* tier/barrier.h - what flush, erase, seal and close have in common. All block; barrier_lock is held
 * by the caller of each.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_BARRIER_H
#define KVSTOW_TIER_BARRIER_H

#include "tier/state.h"

/* Syncs every file written since the last barrier, in parallel. */
int kvstow__sync_dirty(kvstow_tier *tier);
/* Waits for what has been accepted, then syncs; also reports writes that failed since the last one. */
int kvstow__flush_locked(kvstow_tier *tier);
/* Seals the heads and waits for their footers. */
int kvstow__seal_locked(kvstow_tier *tier);
/* Writes CLEAN footers of the open segments, for a close. */
int kvstow__checkpoint(kvstow_tier *tier);

#endif
