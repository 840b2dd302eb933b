/* events.c - tells the host what happened to blocks, in order, on a thread of our own.
 *
 * Events are made under the store's lock and queued here; the callback runs without any lock. A host that
 * is too slow loses events, and they are counted: the engine never waits for it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "kvcache/store.h"
#include "kvcache/thread.h"

#define RING_EVENTS 8192u /* power of two */

struct kvs_events {
  kvstow_event_fn fn;
  void *arg;
  kvstow__mutex lock; /* a leaf */
  pthread_cond_t wake;
  pthread_t thread;
  bool stop;
  uint64_t in, out; /* ever */
  _Atomic uint64_t dropped;
  kvstow_event ring[RING_EVENTS];
};

static void *events_main(void *arg) {
  struct kvs_events *events = arg;
  kvstow__lock(&events->lock);
  for (;;) {
    while (events->in == events->out && !events->stop) kvstow__wait(&events->wake, &events->lock);
    if (events->in == events->out) break;
    const kvstow_event event = events->ring[events->out % RING_EVENTS];
    events->out++;
    kvstow__unlock(&events->lock);
    events->fn(events->arg, &event);
    kvstow__lock(&events->lock);
  }
  kvstow__unlock(&events->lock);
  return NULL;
}

int kvs_events_create(kvstow_event_fn fn, void *arg, struct kvs_events **out) {
  struct kvs_events *events = calloc(1, sizeof *events);
  if (events == NULL) return KVSTOW_ENOMEM;
  events->fn = fn;
  events->arg = arg;
  kvstow__mutex_init(&events->lock, KVS_RANK_EVENTS);
  pthread_cond_init(&events->wake, NULL);
  if (!kvs_thread_start(&events->thread, "kvstow-events", events_main, events)) {
    kvstow__mutex_finish(&events->lock);
    pthread_cond_destroy(&events->wake);
    free(events);
    return KVSTOW_ENOMEM;
  }
  *out = events;
  return 0;
}

void kvs_events_destroy(struct kvs_events *events) {
  if (events == NULL) return;
  kvstow__lock(&events->lock);
  events->stop = true;
  pthread_cond_signal(&events->wake);
  kvstow__unlock(&events->lock);
  pthread_join(events->thread, NULL);
  kvstow__mutex_finish(&events->lock);
  pthread_cond_destroy(&events->wake);
  free(events);
}

void kvs_event(kvstow *store, kvstow_event_kind kind, const struct kvs_entry *entry) {
  struct kvs_events *events = store->events;
  if (events == NULL) return;
  const kvstow_event event = {.kind = kind,
                              .key = entry->key,
                              .root = store->roots.rows[entry->root].id,
                              .depth = entry->depth};
  kvstow__lock(&events->lock);
  if (events->in - events->out < RING_EVENTS)
    events->ring[events->in++ % RING_EVENTS] = event;
  else
    atomic_fetch_add(&events->dropped, 1);
  pthread_cond_signal(&events->wake);
  kvstow__unlock(&events->lock);
}

uint64_t kvs_events_dropped(const struct kvs_events *events) {
  return events == NULL ? 0 : atomic_load(&events->dropped);
}
