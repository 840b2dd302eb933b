/* scratch.c - see scratch.h.
 *
 * The handler of a signal may not walk directories: it wakes a thread that does, while the others still run and may
 * make another file. Then the signal's own action ends the process.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/scratch.h"

#include <errno.h>
#include <ftw.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DIRS_MAX = 8, DESCRIPTORS = 16, TRIES = 16 };

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

static struct {
  pthread_mutex_t lock;
  char dirs[DIRS_MAX][BENCH_PATH_BYTES]; /* empty: free */
  sem_t caught;
  volatile sig_atomic_t signal;
} scratch = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at) {
  (void)st, (void)type, (void)at;
  (void)remove(path);
  return 0;
}

/* False: there was nothing. */
static bool remove_tree(const char *path) {
  return nftw(path, remove_entry, DESCRIPTORS, FTW_DEPTH | FTW_PHYS) == 0;
}

/* ---- signals -------------------------------------------------------------------------------- */

static void on_signal(int number) {
  scratch.signal = number;
  (void)sem_post(&scratch.caught);
}

static void *clean_up(void *arg) {
  (void)arg;
  while (sem_wait(&scratch.caught) != 0) continue;
  pthread_mutex_lock(&scratch.lock); /* and kept: the process ends here */
  for (int i = 0; i < DIRS_MAX; i++)
    for (int t = 0; t < TRIES && remove_tree(scratch.dirs[i]); t++) continue;
  (void)signal(scratch.signal, SIG_DFL);
  (void)kill(getpid(), scratch.signal);
  return NULL;
}

static void watch_signals(void) {
  pthread_t thread;
  if (sem_init(&scratch.caught, 0, 0) != 0 || pthread_create(&thread, NULL, clean_up, NULL) != 0)
    return; /* then a signal ends the process at once */
  pthread_detach(thread);
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, before;
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
    if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
      (void)sigaction(signals[i], &action, NULL);
}

/* ---- directories ---------------------------------------------------------------------------- */

bool bench_scratch_make(const char *under, char path[BENCH_PATH_BYTES]) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  const char *tmp = getenv("TMPDIR");
  (void)pthread_once(&once, watch_signals);
  if (under == NULL) under = tmp != NULL && *tmp != '\0' ? tmp : "/var/tmp";
  const int length = snprintf(path, BENCH_PATH_BYTES, "%s/kvstow-bench-XXXXXX", under);
  if (length < 0 || length >= BENCH_PATH_BYTES) {
    errno = ENAMETOOLONG;
    path[0] = '\0';
    return false;
  }
  pthread_mutex_lock(&scratch.lock);
  const bool made = mkdtemp(path) != NULL;
  for (int i = 0; made && i < DIRS_MAX; i++) {
    if (scratch.dirs[i][0] != '\0') continue;
    memcpy(scratch.dirs[i], path, (size_t)length + 1);
    break;
  }
  pthread_mutex_unlock(&scratch.lock);
  if (!made) path[0] = '\0';
  return made;
}

void bench_scratch_remove(const char *path) {
  pthread_mutex_lock(&scratch.lock);
  (void)remove_tree(path);
  for (int i = 0; i < DIRS_MAX; i++)
    if (strcmp(scratch.dirs[i], path) == 0) scratch.dirs[i][0] = '\0';
  pthread_mutex_unlock(&scratch.lock);
}
