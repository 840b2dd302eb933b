/* thread.h - starting the library's own threads inside somebody else's process.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_KVCACHE_THREAD_H
#define KVSTOW_KVCACHE_THREAD_H

#include <pthread.h>
#include <stdbool.h>

/* Starts a thread on which none of the host's signal handlers ever runs. `name` has at most 15 bytes. */
bool kvs_thread_start(pthread_t *thread, const char *name, void *(*main)(void *), void *arg);

#endif
