/* tier/super.h - the store's directories: their super, lock and list of segment files.
 *
 * A directory is blank, a store, or foreign; a foreign one is never touched. Creation writes a super
 * under another name, syncs and renames it, and directory 0 comes last: a crash leaves either nothing
 * or a store.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_SUPER_H
#define KVSTOW_TIER_SUPER_H

#include "tier/state.h"

/* Opens and locks the directories, creates or reads their supers: fills uuid, hash_seed,
 * segment_bytes (0 or the caller's wish before), and cipher if there is a key (or NULL).
 * KVSTOW_E code with the message set. */
int kvstow__super_open(kvstow_tier *tier, const uint8_t *key);
/* Unlocks and closes the directories. */
void kvstow__super_close(kvstow_tier *tier);

/* Bytes that files and directories other than segments take, at most, and that each segment takes
 * beside its own size. */
uint64_t kvstow__overhead_bytes(uint32_t dirs_count, uint32_t slots);

/* Parses "seg-000123.kvs". */
bool kvstow__segment_number(const char *name, uint32_t *segment);

#endif
