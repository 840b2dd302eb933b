/* region.c - see region.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/region.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kvcache/je.h"
#include "kvcache/thread.h"
#include "kvstow/error.h"

#define HUGE_BYTES ((uint64_t)2 << 20)
/* Small: while it lasts, a thread that maps memory waits, with the locks it holds. */
#define POPULATE_STEP_BYTES ((uint64_t)2 << 20)
#define PAGE_BYTES 4096u

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

struct kvs_region {
  extent_hooks_t hooks; /* first: jemalloc hands this pointer back to the hooks */
  char *mapping;        /* as mapped; the region begins at the first 2 MiB boundary in it */
  uint64_t mapping_bytes;
  char *base;
  uint64_t bytes;
  _Atomic uint64_t carved; /* from the front */
  unsigned arena;
  bool arena_made;
  pthread_t populator;
  bool populating;
  _Atomic bool stop;
};

/* ---- extent hooks --------------------------------------------------------------------------- */

static void *hook_alloc(extent_hooks_t *hooks, void *wanted, size_t bytes, size_t alignment,
                        bool *zero, bool *commit, unsigned arena) {
  struct kvs_region *region = (struct kvs_region *)(void *)hooks;
  (void)arena;
  if (wanted != NULL) return NULL;
  uint64_t old = atomic_load_explicit(&region->carved, memory_order_relaxed);
  uint64_t start, end;
  do {
    start = (old + alignment - 1) & ~((uint64_t)alignment - 1);
    end = start + bytes;
    if (end > region->bytes) return NULL;
  } while (!atomic_compare_exchange_weak(&region->carved, &old, end));
  *zero = true; /* an anonymous mapping, carved once */
  *commit = true;
  return region->base + start;
}

static bool hook_keep(extent_hooks_t *hooks, void *address, size_t bytes, bool committed,
                      unsigned arena) {
  (void)hooks, (void)address, (void)bytes, (void)committed, (void)arena;
  return true; /* "not done": the arena retains the extent */
}

static bool hook_commit(extent_hooks_t *hooks, void *address, size_t bytes, size_t offset,
                        size_t length, unsigned arena) {
  (void)hooks, (void)address, (void)bytes, (void)offset, (void)length, (void)arena;
  return false;
}

static bool hook_refuse(extent_hooks_t *hooks, void *address, size_t bytes, size_t offset,
                        size_t length, unsigned arena) {
  (void)hooks, (void)address, (void)bytes, (void)offset, (void)length, (void)arena;
  return true;
}

static bool hook_split(extent_hooks_t *hooks, void *address, size_t bytes, size_t a, size_t b,
                       bool committed, unsigned arena) {
  (void)hooks, (void)address, (void)bytes, (void)a, (void)b, (void)committed, (void)arena;
  return false;
}

static bool hook_merge(extent_hooks_t *hooks, void *a, size_t a_bytes, void *b, size_t b_bytes,
                       bool committed, unsigned arena) {
  (void)hooks, (void)a, (void)a_bytes, (void)b, (void)b_bytes, (void)committed, (void)arena;
  return false;
}

/* ---- arena ---------------------------------------------------------------------------------- */

static int arena_set(unsigned arena, const char *key, void *value, size_t bytes) {
  char name[64];
  snprintf(name, sizeof name, "arena.%u.%s", arena, key);
  return kvstow__je_mallctl(name, NULL, NULL, value, bytes);
}

/* The argument of jemalloc 5.3's "experimental.arenas_create_ext". */
struct arena_config {
  extent_hooks_t *hooks;
  bool metadata_use_hooks;
};

/* The arena's own bookkeeping stays out of the region: none of the budget goes to it, and a forked
 * child, which does not inherit the region, can still run jemalloc's fork handlers. */
static int create_arena(struct kvs_region *region) {
  struct arena_config config = {&region->hooks, false};
  size_t length = sizeof region->arena;
  if (kvstow__je_mallctl("experimental.arenas_create_ext", &region->arena, &length, &config,
                         sizeof config) == 0) {
    (void)madvise(region->base, region->bytes, MADV_DONTFORK);
    return 0;
  }
  extent_hooks_t *hooks = &region->hooks;
  length = sizeof region->arena;
  if (kvstow__je_mallctl("arenas.create", &region->arena, &length, &hooks, sizeof hooks) != 0)
    return KVSTOW_ENOMEM;
  return 0;
}

/* jemalloc never merges extents that came from two hook calls, and would call for each slab: the
 * ends would add up to a quarter of the region. So it is handed the region in the fewest, largest
 * pieces before the first slab: each as one allocation, freed at once. */
static void tile(struct kvs_region *region) {
  void *pieces[64];
  size_t count = 0;
  for (size_t bytes = region->bytes; bytes >= HUGE_BYTES / 8 && count < 64;) {
    void *piece = kvs_region_take(region, bytes);
    if (piece != NULL)
      pieces[count++] = piece;
    else
      bytes -= bytes / 16 & ~(size_t)(PAGE_BYTES - 1);
  }
  while (count > 0) kvs_region_give(region, pieces[--count]);
}

static int make_arena(struct kvs_region *region) {
  region->hooks = (extent_hooks_t){.alloc = hook_alloc,
                                   .dalloc = hook_keep,
                                   .destroy = NULL,
                                   .commit = hook_commit,
                                   .decommit = hook_refuse,
                                   .purge_lazy = hook_refuse,
                                   .purge_forced = hook_refuse,
                                   .split = hook_split,
                                   .merge = hook_merge};
  if (create_arena(region) != 0) return KVSTOW_ENOMEM;
  region->arena_made = true;
  /* No decay time: what is freed is "retained" at once. Nothing is purged, since every hook that could
   * refuses; and retained extents, unlike dirty ones, are split whatever their size. */
  ssize_t at_once = 0;
  if (arena_set(region->arena, "dirty_decay_ms", &at_once, sizeof at_once) != 0 ||
      arena_set(region->arena, "muzzy_decay_ms", &at_once, sizeof at_once) != 0)
    return KVSTOW_EUNSUPPORTED;
  tile(region);
  return 0;
}

void *kvs_region_take(struct kvs_region *region, size_t bytes) {
  return kvstow__je_mallocx(
      bytes, MALLOCX_ARENA(region->arena) | MALLOCX_TCACHE_NONE | MALLOCX_ALIGN(PAGE_BYTES));
}

void kvs_region_give(struct kvs_region *region, void *memory) {
  (void)region;
  kvstow__je_dallocx(memory, MALLOCX_TCACHE_NONE);
}

size_t kvs_region_cost(size_t bytes) {
  return kvstow__je_nallocx(bytes, MALLOCX_ALIGN(PAGE_BYTES)) + PAGE_BYTES; /* + its guard page */
}

/* ---- mapping -------------------------------------------------------------------------------- */

/* Touching the pages of a large region takes seconds; open must not. */
static void *populate_main(void *arg) {
  struct kvs_region *region = arg;
  for (uint64_t at = 0; at < region->bytes; at += POPULATE_STEP_BYTES) {
    if (atomic_load(&region->stop)) break;
    const uint64_t left = region->bytes - at;
    const uint64_t step = left < POPULATE_STEP_BYTES ? left : POPULATE_STEP_BYTES;
    if (madvise(region->base + at, step, MADV_POPULATE_WRITE) != 0 && errno != EINTR) break;
  }
  return NULL;
}

int kvs_region_create(uint64_t bytes, bool populate, struct kvs_region **out) {
  struct kvs_region *region = calloc(1, sizeof *region);
  if (region == NULL) return KVSTOW_ENOMEM;
  region->mapping_bytes = bytes + HUGE_BYTES;
  void *mapping = mmap(NULL, region->mapping_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) {
    free(region);
    return KVSTOW_ENOMEM;
  }
  region->mapping = mapping;
  region->base = (char *)(((uintptr_t)mapping + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
  region->bytes = bytes;
  (void)madvise(region->base, bytes, MADV_HUGEPAGE); /* absent in some kernels: only slower */
  const int rc = make_arena(region);
  if (rc != 0) {
    kvs_region_destroy(region);
    return rc;
  }
  if (populate)
    region->populating =
        kvs_thread_start(&region->populator, "kvstow-populate", populate_main, region);
  *out = region;
  return 0;
}

void kvs_region_destroy(struct kvs_region *region) {
  if (region == NULL) return;
  atomic_store(&region->stop, true);
  if (region->populating) pthread_join(region->populator, NULL);
  if (region->arena_made) {
    char name[64];
    snprintf(name, sizeof name, "arena.%u.destroy", region->arena);
    (void)kvstow__je_mallctl(name, NULL, NULL, NULL, 0);
  }
  munmap(region->mapping, region->mapping_bytes);
  free(region);
}

char *kvs_region_base(const struct kvs_region *region) {
  return region->base;
}

uint64_t kvs_region_bytes(const struct kvs_region *region) {
  return region->bytes;
}
