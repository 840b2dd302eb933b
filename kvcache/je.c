/* je.c - what the library's private jemalloc may see of the host and say to it.
 *
 * MALLOC_CONF, /etc/malloc.conf and stderr belong to the host: settings meant for its own jemalloc
 * (profiling, abort:true, background threads) must not reach this copy, and this copy must not
 * print. cmake/PrivateJemalloc.cmake points its secure_getenv, readlink and message writer here.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/je.h"

#include <sys/types.h>

/* One automatic arena, never used: the pool makes its own. No thread caches: they would hold
 * memory of the pool's region in threads that belong to the host. */
extern const char *kvstow__je_malloc_conf;
const char *kvstow__je_malloc_conf = "narenas:1,tcache:false,background_thread:false,abort:false";

char *kvstow__je_secure_getenv(const char *name);
ssize_t kvstow__je_readlink(const char *path, char *target, size_t bytes);
long kvstow__je_message_syscall(long number, ...);

char *kvstow__je_secure_getenv(const char *name) {
  (void)name;
  return NULL;
}

ssize_t kvstow__je_readlink(const char *path, char *target, size_t bytes) {
  (void)path;
  (void)target;
  (void)bytes;
  return -1;
}

/* Replaces syscall(SYS_write, STDERR_FILENO, ...), the only use of syscall in malloc_io.c. */
long kvstow__je_message_syscall(long number, ...) {
  (void)number;
  return 0;
}
