/* cli/lab/jobs.c - a counter that threads draw their next piece from; see jobs.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/lab/jobs.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>

#include "cli/progress.h"

enum { THREADS_MAX = 1024 };

struct jobs {
  size_t count;
  void (*work)(void *context, size_t i);
  void *context;
  pthread_mutex_t lock;
  size_t next, done; /* under lock */
  struct progress progress;
};

unsigned jobs_default(void) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  const int count = CPU_COUNT(&set);
  return count > 0 ? (unsigned)count : 1;
}

static void *draw(void *argument) {
  struct jobs *jobs = argument;
  for (bool ran = false;; ran = true) {
    pthread_mutex_lock(&jobs->lock);
    if (ran) progress_update(&jobs->progress, ++jobs->done);
    const size_t i = jobs->next;
    if (i < jobs->count) jobs->next++;
    pthread_mutex_unlock(&jobs->lock);
    if (i == jobs->count) return NULL;
    jobs->work(jobs->context, i);
  }
}

void jobs_run(const char *label, size_t count, unsigned threads,
              void (*work)(void *context, size_t i), void *context) {
  struct jobs jobs = {.count = count, .work = work, .context = context};
  pthread_t others[THREADS_MAX];
  unsigned started = 0;
  pthread_mutex_init(&jobs.lock, NULL);
  progress_begin(&jobs.progress, label, count);
  if (threads > THREADS_MAX) threads = THREADS_MAX;
  while (started + 1 < threads && started + 1 < count &&
         pthread_create(&others[started], NULL, draw, &jobs) == 0)
    started++;
  draw(&jobs);
  for (unsigned i = 0; i < started; i++) pthread_join(others[i], NULL);
  progress_end(&jobs.progress);
  pthread_mutex_destroy(&jobs.lock);
}
