/* thread.c - see thread.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/thread.h"

#include <signal.h>

bool kvs_thread_start(pthread_t *thread, const char *name, void *(*main)(void *), void *arg) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* a new thread inherits it */
  const bool ok = pthread_create(thread, NULL, main, arg) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (ok) (void)pthread_setname_np(*thread, name);
  return ok;
}
