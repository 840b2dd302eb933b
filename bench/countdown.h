/* countdown.h - waits for a batch whose completions run elsewhere.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_BENCH_COUNTDOWN_H
#define KVSTOW_BENCH_COUNTDOWN_H

#include <pthread.h>
#include <stddef.h>

struct countdown {
  pthread_mutex_t lock;
  pthread_cond_t zero;
  size_t left;
  int rc; /* the first that is not 0 */
};

void countdown_begin(struct countdown *countdown, size_t count);
/* One is done. Any thread. */
void countdown_one(struct countdown *countdown, int rc);
/* Waits for all, and returns rc. */
int countdown_wait(struct countdown *countdown);

#endif
