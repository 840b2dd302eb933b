/* je.h - the library's private jemalloc.
 *
 * kvstow carries its own copy of jemalloc, its public names changed from X to kvstow__je_X when
 * the library is built (cmake/PrivateJemalloc.cmake), so that the host keeps the malloc it chose.
 * Only explicit arenas are used: pass MALLOCX_ARENA and MALLOCX_TCACHE_NONE. Types and flags are
 * jemalloc's own.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_KVCACHE_JE_H
#define KVSTOW_KVCACHE_JE_H

#include <stdbool.h>
#include <stddef.h>

#define JEMALLOC_NO_DEMANGLE
#include <jemalloc/jemalloc.h>

void *kvstow__je_mallocx(size_t bytes, int flags);
void kvstow__je_dallocx(void *memory, int flags);
void kvstow__je_sdallocx(void *memory, size_t bytes, int flags);
size_t kvstow__je_nallocx(size_t bytes, int flags);
size_t kvstow__je_sallocx(const void *memory, int flags);
int kvstow__je_mallctl(const char *name, void *old, size_t *old_bytes, void *new_value,
                       size_t new_bytes);
int kvstow__je_mallctlnametomib(const char *name, size_t *mib, size_t *mib_length);
int kvstow__je_mallctlbymib(const size_t *mib, size_t mib_length, void *old, size_t *old_bytes,
                            void *new_value, size_t new_bytes);

#endif
