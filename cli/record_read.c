/* record_read.c - reads records of a store and waits for them.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/record_read.h"

#include <pthread.h>
#include <stdlib.h>

struct waiter {
  pthread_mutex_t lock;
  pthread_cond_t all_done;
  size_t left; /* lock */
};

static void one_done(kvstow_record_read *read) {
  struct waiter *waiter = read->arg;
  pthread_mutex_lock(&waiter->lock);
  if (--waiter->left == 0) pthread_cond_signal(&waiter->all_done);
  pthread_mutex_unlock(&waiter->lock);
}

int record_read_all(kvstow_tier *tier, kvstow_record_read *reads, size_t count) {
  if (count == 0) return 0;
  kvstow_record_read **list = malloc(count * sizeof *list);
  if (!list) return KVSTOW_ENOMEM;
  struct waiter waiter = {.left = count};
  pthread_mutex_init(&waiter.lock, NULL);
  pthread_cond_init(&waiter.all_done, NULL);
  for (size_t i = 0; i < count; i++) {
    reads[i].done = one_done;
    reads[i].arg = &waiter;
    list[i] = &reads[i];
  }
  const int result = kvstow_tier_read_batch(tier, list, count);
  if (result == 0) {
    pthread_mutex_lock(&waiter.lock);
    while (waiter.left > 0) pthread_cond_wait(&waiter.all_done, &waiter.lock);
    pthread_mutex_unlock(&waiter.lock);
  }
  pthread_cond_destroy(&waiter.all_done);
  pthread_mutex_destroy(&waiter.lock);
  free(list);
  return result;
}

int record_read_header(kvstow_tier *tier, const kvstow_record *record, void *page) {
  kvstow_record_read read = {
      .key = record->key,
      .loc = record->loc,
      .plane_bytes = record->plane_bytes,
      .header = page,
  };
  const int result = record_read_all(tier, &read, 1);
  return result != 0 ? result : read.result;
}
