/* tier/tuning.c - what may be flipped while the tier runs.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tier/tuning.h"

#include "tier/state.h"

void kvstow_tuning_init(kvstow_tuning *tuning) {
  *tuning = (kvstow_tuning){
      .size = sizeof *tuning,
      .enable_prefetch = true,
      .enable_io_scheduling = true,
      .prefetch_threshold = 3,
      .read_ahead_blocks = 8,
      .merge_distance = 128u << 10,
      .optimal_block_size = 64u << 10,
  };
}

const char *kvstow__tuning_fault(const kvstow_tuning *t) {
  const uint32_t block = t->optimal_block_size;
  if (t->size < sizeof *t) return "tuning.size: call kvstow_tuning_init first";
  if (t->prefetch_threshold < 1 || t->prefetch_threshold > 64) return "prefetch_threshold: 1 to 64";
  if (t->read_ahead_blocks < 1 || t->read_ahead_blocks > 1024)
    return "read_ahead_blocks: 1 to 1024";
  if (block < KVSTOW_PAGE_BYTES || block > 4u << 20 || (block & (block - 1)) != 0)
    return "optimal_block_size: a power of two from 4 KiB to 4 MiB";
  return NULL;
}

void kvstow__tuning_set(kvstow__tuning *to, const kvstow_tuning *t) {
  atomic_store(&to->enable_prefetch, t->enable_prefetch);
  atomic_store(&to->enable_io_scheduling, t->enable_io_scheduling);
  atomic_store(&to->prefetch_threshold, t->prefetch_threshold);
  atomic_store(&to->read_ahead_blocks, t->read_ahead_blocks);
  atomic_store(&to->merge_distance, t->merge_distance);
  atomic_store(&to->optimal_block_size, t->optimal_block_size);
}

int kvstow_tier_set_tuning(kvstow_tier *tier, const kvstow_tuning *tuning) {
  if (!tier) return KVSTOW_EINVAL;
  const char *fault = tuning ? kvstow__tuning_fault(tuning) : "tuning is NULL";
  if (fault) return kvstow__fail(tier, KVSTOW_EINVAL, "set_tuning: %s", fault);
  kvstow__tuning_set(&tier->tuning, tuning);
  return 0;
}

void kvstow_tier_get_tuning(const kvstow_tier *tier, kvstow_tuning *tuning) {
  if (!tier || !tuning) return;
  *tuning = (kvstow_tuning){
      .size = sizeof *tuning,
      .enable_prefetch = atomic_load(&tier->tuning.enable_prefetch),
      .enable_io_scheduling = atomic_load(&tier->tuning.enable_io_scheduling),
      .prefetch_threshold = atomic_load(&tier->tuning.prefetch_threshold),
      .read_ahead_blocks = atomic_load(&tier->tuning.read_ahead_blocks),
      .merge_distance = atomic_load(&tier->tuning.merge_distance),
      .optimal_block_size = atomic_load(&tier->tuning.optimal_block_size),
  };
}
