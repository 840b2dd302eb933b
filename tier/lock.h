/* lock.h - a mutex that knows its place in the one order in which locks are taken.
 *
 * That order is the order of ranks. A thread takes a lock only while all that it holds have lower ranks: two of
 * one rank (two shards, two files, two queues) are never held together, and a wait on a condition, which
 * takes its lock again, is for the innermost one. Debug builds (KVSTOW_DEBUG: CMAKE_BUILD_TYPE=Debug, or with a
 * sanitizer) see to it before each wait for a lock: they abort, and name both. In others there is
 * nothing here but the mutex.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_LOCK_H
#define KVSTOW_TIER_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* The tier's, outermost first. Whoever is above the tier has lower ones (kvcache/rank.h). */
enum kvstow__rank {
  KVSTOW__RANK_BARRIER = 100, /* state.h */
  KVSTOW__RANK_APPEND,
  KVSTOW__RANK_MAKE,
  KVSTOW__RANK_FILE,      /* files.h */
  KVSTOW__RANK_APPENDER,  /* file_append.c */
  KVSTOW__RANK_READAHEAD, /* readahead.c */
  KVSTOW__RANK_TABLE,     /* state.h */
  KVSTOW__RANK_INBOX,
  KVSTOW__RANK_READ,
  KVSTOW__RANK_ENGINE, /* io_threads.c */
  KVSTOW__RANK_LATCH,  /* pump.c */
};

typedef struct kvstow__mutex {
  pthread_mutex_t mutex;
#ifdef KVSTOW_DEBUG
  unsigned rank;
  const char *name;
#endif
} kvstow__mutex;

#ifdef KVSTOW_DEBUG
/* lock.c */
void kvstow__lock_taking(const kvstow__mutex *lock);
void kvstow__lock_giving(const kvstow__mutex *lock);
void kvstow__lock_waiting(const kvstow__mutex *lock);
#define kvstow__mutex_init(lock, its_rank)                                                         \
  (pthread_mutex_init(&(lock)->mutex, NULL), (void)((lock)->rank = its_rank),                      \
   (void)((lock)->name = #its_rank))
#else
#define kvstow__lock_taking(lock) ((void)0)
#define kvstow__lock_giving(lock) ((void)0)
#define kvstow__lock_waiting(lock) ((void)0)
#define kvstow__mutex_init(lock, its_rank) ((void)pthread_mutex_init(&(lock)->mutex, NULL))
#endif

static inline void kvstow__mutex_finish(kvstow__mutex *lock) {
  pthread_mutex_destroy(&lock->mutex);
}

static inline void kvstow__lock(kvstow__mutex *lock) {
  kvstow__lock_taking(lock);
  pthread_mutex_lock(&lock->mutex);
}

static inline void kvstow__unlock(kvstow__mutex *lock) {
  kvstow__lock_giving(lock);
  pthread_mutex_unlock(&lock->mutex);
}

static inline void kvstow__wait(pthread_cond_t *change, kvstow__mutex *lock) {
  kvstow__lock_waiting(lock);
  pthread_cond_wait(change, &lock->mutex);
}

/* The same, but not past that time of the condition's clock, in us (UINT64_MAX: there is none). False: it has come. */
static inline bool kvstow__wait_until(pthread_cond_t *change, kvstow__mutex *lock,
                                      uint64_t until_us) {
  const struct timespec until = {.tv_sec = (time_t)(until_us / 1000000u),
                                 .tv_nsec = (long)(until_us % 1000000u) * 1000};
  kvstow__lock_waiting(lock);
  if (until_us < UINT64_MAX) return pthread_cond_timedwait(change, &lock->mutex, &until) == 0;
  pthread_cond_wait(change, &lock->mutex);
  return true;
}

#endif
