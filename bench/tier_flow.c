/* tier_flow.c - so many reads in flight, each completion sending the next.
 *
 * A completion may run before the call that sent the read has returned, on the same stack. It then leaves
 * the slot to that call, which goes on in a loop: the stack does not grow with what is in memory already.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "bench/tier.h"

enum { SENDING, SENT, DONE };

/* The next block for this slot; false: there is none, or an error. */
static bool take(struct tier_slot *slot) {
  struct tier_flow *flow = slot->flow;
  pthread_mutex_lock(&flow->lock);
  const bool more = flow->rc == 0 && flow->next < flow->cell->count;
  if (more)
    slot->index = flow->next++;
  else if (--flow->active == 0)
    pthread_cond_signal(&flow->idle);
  pthread_mutex_unlock(&flow->lock);
  return more;
}

static void fail(struct tier_flow *flow, int rc) {
  pthread_mutex_lock(&flow->lock);
  if (flow->rc == 0) flow->rc = rc;
  pthread_mutex_unlock(&flow->lock);
}

static void go(struct tier_slot *slot) {
  while (take(slot)) {
    int sending = SENDING;
    atomic_store(&slot->state, SENDING);
    slot->sent_ns = measure_now_ns();
    const int rc = slot->flow->send(slot);
    if (rc != 0)
      fail(slot->flow, rc);
    else if (atomic_compare_exchange_strong(&slot->state, &sending, SENT))
      return; /* its completion goes on */
  }
}

void tier_flow_done(struct tier_slot *slot, int result) {
  struct tier_flow *flow = slot->flow;
  const uint64_t ns = measure_now_ns() - slot->sent_ns;
  const bool right = result != 0 || flow->check(slot);
  pthread_mutex_lock(&flow->lock);
  measure_latency_add(flow->latency, ns);
  if (flow->rc == 0) flow->rc = result;
  if (!right) flow->wrong = true;
  pthread_mutex_unlock(&flow->lock);
  int sending = SENDING;
  if (!atomic_compare_exchange_strong(&slot->state, &sending, DONE)) go(slot);
}

int tier_flow_run(struct tier_flow *flow) {
  const unsigned depth = flow->cell->depth;
  flow->slots = calloc(depth, sizeof *flow->slots);
  if (flow->slots == NULL) return KVSTOW_ENOMEM;
  pthread_mutex_init(&flow->lock, NULL);
  pthread_cond_init(&flow->idle, NULL);
  flow->active = depth;
  for (unsigned i = 0; i < depth; i++) {
    flow->slots[i].flow = flow;
    flow->slots[i].number = i;
    go(&flow->slots[i]);
  }
  pthread_mutex_lock(&flow->lock);
  while (flow->active > 0) pthread_cond_wait(&flow->idle, &flow->lock);
  pthread_mutex_unlock(&flow->lock);
  pthread_cond_destroy(&flow->idle);
  pthread_mutex_destroy(&flow->lock);
  free(flow->slots);
  return flow->rc;
}
