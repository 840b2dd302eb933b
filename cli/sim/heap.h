/* cli/sim/heap.h - the held block whose key is the greatest: an indexed binary heap.
 *
 * `place[id]` is where the id stands in the heap, so that a key can change in O(log n). For the
 * offline optima, whose key is the time of the next use.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_SIM_HEAP_H
#define CLI_SIM_HEAP_H

#include <stdbool.h>
#include <stdint.h>

struct sim_heap {
  uint32_t *ids;   /* [0, count), a max-heap by key[ids[i]] */
  uint32_t *place; /* by id; UINT32_MAX: not in the heap */
  uint64_t *key;   /* by id */
  uint32_t count;
};

bool sim_heap_init(struct sim_heap *heap, uint32_t unique);
void sim_heap_finish(struct sim_heap *heap);

static inline bool sim_heap_holds(const struct sim_heap *heap, uint32_t id) {
  return heap->place[id] != UINT32_MAX;
}

/* Inserts the id, or changes its key. */
void sim_heap_put(struct sim_heap *heap, uint32_t id, uint64_t key);
void sim_heap_remove(struct sim_heap *heap, uint32_t id);
uint32_t sim_heap_take_max(struct sim_heap *heap); /* not empty */

#endif
