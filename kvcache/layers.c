/* layers.c - a context longer than RAM, read layer by layer: the next layer is read while this one is used.
 *
 * Each decode step needs every layer of the whole context in turn. Blocks that have no place in RAM stay
 * on SSD; of them one layer's planes at a time are read. When so many reads in a row as make a stream
 * (kvstow_tuning.prefetch_threshold) have each asked for the layer after the one before, over the same
 * tokens (after the last layer comes the first: the next step), the lease gets a window that outlives
 * the reads: what a read leaves free in it is filled with the next layer's planes. A read that goes elsewhere
 * ends that, as does switching prefetch off.
 *
 * The window's memory is a layer's cold planes and some more, in frames of the pool, at most an eighth of
 * RAM: frames are taken from what is free or clean, so that nothing that is hot makes room for it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/store.h"

#define CELLS_MIN 4u
#define CELLS_MAX 4096u

/* Blocks of the job that have no place in RAM. */
static size_t cold_blocks(const struct kvs_read_job *job) {
  const kvstow_lease *lease = job->lease;
  size_t cold = 0;
  for (size_t i = job->first; i < job->first + job->count; i++) {
    const struct kvs_entry *entry = kvs_entry(&lease->store->index, lease->block[i].id);
    cold += entry->frame == KVS_NO_FRAME && (entry->flags & KVS_LOADING) == 0;
  }
  return cold;
}

static void open_window(struct kvs_read_job *job) {
  struct kvs_layers *layers = &job->lease->layers;
  const size_t cold = cold_blocks(job);
  if (cold == 0) return;
  size_t cells = cold + cold / 4 + CELLS_MIN;
  if (cells > CELLS_MAX) cells = CELLS_MAX;
  layers->window =
      kvs_window_create(job->lease, job->first, job->count, 1, (uint32_t)cells, true, false);
}

/* Store's lock. */
static bool continues(const struct kvs_layers *layers, const kvstow_range *range) {
  return range->layer_count == 1 && range->layer_first == layers->next && layers->in_row > 0 &&
         range->token_first == layers->token_first && range->token_count == layers->token_count;
}

void kvs_layers_begin(struct kvs_read_job *job) {
  kvstow_lease *lease = job->lease;
  kvstow *store = lease->store;
  struct kvs_layers *layers = &lease->layers;
  struct kvs_window *broken = NULL;
  kvs_lock(store);
  const kvstow_tuning *tuning = &store->options.tuning;
  const bool on = tuning->enable_prefetch && lease->space->layout.layers > 1;
  const bool goes_on = !layers->busy && continues(layers, &job->range);
  layers->in_row = goes_on ? layers->in_row + 1 : !layers->busy && job->range.layer_count == 1;
  layers->next = (job->range.layer_first + 1) % lease->space->layout.layers;
  layers->token_first = job->range.token_first;
  layers->token_count = job->range.token_count;
  if (layers->busy) {
    layers->crossed = true;
  } else {
    if (layers->window != NULL && (!goes_on || !on)) {
      broken = layers->window;
      layers->window = NULL;
    }
    if (on && goes_on && layers->window == NULL && layers->in_row >= tuning->prefetch_threshold &&
        store->tier != NULL)
      open_window(job);
    if (layers->window != NULL) {
      layers->busy = job->stream = true;
      job->window = layers->window;
      job->turn = layers->turn;
      kvs_window_serves(job->window, job->asynchronous);
    }
  }
  kvstow__unlock(&store->lock);
  if (broken != NULL) kvs_layers_drop(store, broken);
}

void kvs_layers_drop(kvstow *store, struct kvs_window *window) {
  const uint32_t unused = kvs_window_drop(window);
  kvs_lock(store);
  store->count.layer.wasted += unused;
  kvstow__unlock(&store->lock);
}

void kvs_layers_ahead(struct kvs_read_job *job, struct kvs_reads *reads) {
  kvstow_lease *lease = job->lease;
  kvstow *store = lease->store;
  const uint32_t turn = job->turn + 1;
  const uint32_t layer = (job->range.layer_first + 1) % lease->space->layout.layers;
  const size_t end = job->first + job->count;
  if (job->next < end && !kvs_window_roomy(job->window)) return;
  for (size_t i = job->layer_ahead; i < end && i < atomic_load(&lease->good); i++) {
    const struct kvs_entry *entry = kvs_entry(&store->index, lease->block[i].id);
    if (entry->frame == KVS_NO_FRAME && (entry->flags & KVS_LOADING) == 0 &&
        (entry->flags & KVS_SSD) != 0) {
      const struct kvs_window_read read = {
          .lease = lease, .block = i, .turn = turn, .plane_first = layer, .ahead = true};
      if (!kvs_window_add(job->window, &read, reads)) return;
      store->count.layer.issued++;
    }
    job->layer_ahead = i + 1;
  }
}

void kvs_layers_end(struct kvs_read_job *job, bool ok) {
  kvstow *store = job->lease->store;
  struct kvs_layers *layers = &job->lease->layers;
  kvs_lock(store);
  struct kvs_window *broken = ok && !layers->crossed ? NULL : job->window;
  layers->busy = layers->crossed = false;
  layers->turn++;
  if (broken != NULL) {
    layers->window = NULL;
    layers->in_row = 0;
  }
  kvstow__unlock(&store->lock);
  if (broken != NULL) kvs_layers_drop(store, broken);
}
