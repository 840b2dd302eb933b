/* copy.h - taking KV in: copied past the caches and summed on the way, in one pass over memory. Without a sum:
 * tier/copy.h.
 *
 * What is stored is not read again soon. memcpy first fetches the lines it is about to overwrite; here
 * they are written past the caches (non-temporal stores), and the checksum is taken from the registers
 * that copy. Rows may come one at a time: a sum goes on where it stopped, because how much it will be of
 * is known when it begins.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_KVCACHE_COPY_H
#define KVSTOW_KVCACHE_COPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* kvstow_checksum() of `total` bytes that arrive in order, in pieces, at `to`. */
struct kvs_sum {
  uint64_t acc[8]; /* XXH3's lanes */
  char *to;
  uint32_t done, total;
  bool wide; /* the machine has AVX2 */
  bool late; /* pieces of odd sizes: summed at the end, in a second pass */
};

void kvs_sum_begin(struct kvs_sum *sum, void *to, uint32_t total);
/* At most what is missing. Other threads may look after kvstow__copy_fence(). */
void kvs_sum_copy(struct kvs_sum *sum, const void *from, size_t bytes);
void kvs_sum_zero(struct kvs_sum *sum, size_t bytes);
/* All has arrived. */
uint64_t kvs_sum_end(struct kvs_sum *sum);

/* kvstow__copy_fence() for all other threads of the process at once, in microseconds: membarrier(2). The
 * first is asked once before; false: this kernel has it not, or forbids it. */
bool kvs_copy_fence_others_ready(void);
void kvs_copy_fence_others(void);

/* The same for a plane of one or two parts: kvstow_plane_checksum(). */
struct kvs_plane_sum {
  struct kvs_sum part[2];
  uint32_t parts;
};
void kvs_plane_sum_begin(struct kvs_plane_sum *plane, void *to, uint32_t plane_bytes,
                         uint32_t part_bytes);
uint64_t kvs_plane_sum_end(struct kvs_plane_sum *plane);

#endif
