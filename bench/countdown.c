/* countdown.c - see countdown.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/countdown.h"

void countdown_begin(struct countdown *countdown, size_t count) {
  pthread_mutex_init(&countdown->lock, NULL);
  pthread_cond_init(&countdown->zero, NULL);
  countdown->left = count;
  countdown->rc = 0;
}

void countdown_one(struct countdown *countdown, int rc) {
  pthread_mutex_lock(&countdown->lock);
  if (countdown->rc == 0) countdown->rc = rc;
  if (--countdown->left == 0) pthread_cond_signal(&countdown->zero);
  pthread_mutex_unlock(&countdown->lock);
}

int countdown_wait(struct countdown *countdown) {
  pthread_mutex_lock(&countdown->lock);
  while (countdown->left > 0) pthread_cond_wait(&countdown->zero, &countdown->lock);
  pthread_mutex_unlock(&countdown->lock);
  pthread_cond_destroy(&countdown->zero);
  pthread_mutex_destroy(&countdown->lock);
  return countdown->rc;
}
