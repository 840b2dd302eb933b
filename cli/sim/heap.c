/* cli/sim/heap.c - an indexed binary heap; see heap.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/sim/heap.h"

#include <stdlib.h>
#include <string.h>

bool sim_heap_init(struct sim_heap *heap, uint32_t unique) {
  const size_t n = unique > 0 ? unique : 1;
  heap->ids = malloc(n * sizeof *heap->ids);
  heap->place = malloc(n * sizeof *heap->place);
  heap->key = malloc(n * sizeof *heap->key);
  heap->count = 0;
  if (heap->ids == NULL || heap->place == NULL || heap->key == NULL) {
    sim_heap_finish(heap);
    return false;
  }
  memset(heap->place, 0xff, n * sizeof *heap->place);
  return true;
}

void sim_heap_finish(struct sim_heap *heap) {
  free(heap->ids);
  free(heap->place);
  free(heap->key);
  memset(heap, 0, sizeof *heap);
}

static void set(struct sim_heap *heap, uint32_t place, uint32_t id) {
  heap->ids[place] = id;
  heap->place[id] = place;
}

static void settle(struct sim_heap *heap, uint32_t place, uint32_t id) {
  const uint64_t key = heap->key[id];
  while (place > 0 && heap->key[heap->ids[(place - 1) / 2]] < key) {
    set(heap, place, heap->ids[(place - 1) / 2]);
    place = (place - 1) / 2;
  }
  for (;;) {
    uint32_t child = 2 * place + 1;
    if (child >= heap->count) break;
    if (child + 1 < heap->count && heap->key[heap->ids[child + 1]] > heap->key[heap->ids[child]])
      child++;
    if (heap->key[heap->ids[child]] <= key) break;
    set(heap, place, heap->ids[child]);
    place = child;
  }
  set(heap, place, id);
}

void sim_heap_put(struct sim_heap *heap, uint32_t id, uint64_t key) {
  heap->key[id] = key;
  settle(heap, sim_heap_holds(heap, id) ? heap->place[id] : heap->count++, id);
}

void sim_heap_remove(struct sim_heap *heap, uint32_t id) {
  const uint32_t place = heap->place[id];
  const uint32_t last = heap->ids[--heap->count];
  heap->place[id] = UINT32_MAX;
  if (last != id) settle(heap, place, last);
}

uint32_t sim_heap_take_max(struct sim_heap *heap) {
  const uint32_t id = heap->ids[0];
  sim_heap_remove(heap, id);
  return id;
}
