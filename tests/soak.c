/* tests/soak.c - full load for as long as one likes: four threads store, restore, forget and flush far more
 * than fits, every byte compared. Meanwhile the directory must stay within its budget; memory and
 * descriptors must not grow once the disk is full; in the end nothing may be held, and what was written
 * must have been written hardly more than once.
 *
 *   kvstow-soak [--seconds N] [DIR]
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/kv.h"

static const kv_shape shape = {4, 256, 256, 64, 0}; /* 128 KiB a block */

enum { THREADS = 4, CHAIN = 16, LOOK_MS = 50 };
#define RAM_BYTES (48 * KV_MIB)
#define SSD_BYTES (160 * KV_MIB)
#define SEGMENT_BYTES (8 * KV_MIB)
/* Of the process, once the disk is full: buffers, stacks, the allocator. */
#define GROWTH_BYTES (24 * KV_MIB)
#define GROWTH_FDS 8

static atomic_bool stop;
static _Atomic uint64_t blocks_stored, blocks_restored, flushes;

struct worker {
  kvstow *store;
  kvstow_space *space;
  kv_rng rng;
  uint64_t number;
  pthread_t thread;
};

static void *work(void *arg) {
  struct worker *w = arg;
  for (uint64_t next = 0; !atomic_load(&stop);) {
    const bool fresh = next < 4 || kv_chance(&w->rng, 40);
    const uint64_t doc = w->number << 40 | (fresh ? next : next - 1 - kv_below(&w->rng, 4));
    kv_doc d;
    kv_doc_init(&d, w->space, &shape, 1, doc, CHAIN, NULL, 0);
    if (fresh) {
      const int rc = kv_doc_store(&d, 0, CHAIN, 0);
      KV_CHECK(rc == 0, "store: %s", kvstow_errname(rc));
      atomic_fetch_add(&blocks_stored, CHAIN);
      next++;
    } else {
      atomic_fetch_add(&blocks_restored,
                       kv_doc_restore(&d, kv_chance(&w->rng, 50) ? KVSTOW_BYPASS_RAM : 0));
    }
    if (kv_chance(&w->rng, 2)) {
      const int rc = kvstow_forget(&d.prefix, CHAIN / 2, NULL);
      KV_CHECK(rc == 0 || rc == KVSTOW_EBUSY, "forget: %s", kvstow_errname(rc));
    }
    if (w->number == 0 && kv_chance(&w->rng, 1)) {
      const int rc = kvstow_flush(w->store);
      KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "flush: %s", kvstow_errname(rc));
      atomic_fetch_add(&flushes, 1);
    }
    kv_doc_finish(&d);
  }
  return NULL;
}

/* ---- what must not grow --------------------------------------------------------------------- */

static uint64_t resident_bytes(void) {
  unsigned long long size = 0, resident = 0;
  FILE *file = fopen("/proc/self/statm", "re");
  KV_CHECK(file != NULL && fscanf(file, "%llu %llu", &size, &resident) == 2, "statm");
  fclose(file);
  return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t descriptors(void) {
  uint64_t count = 0;
  DIR *dir = opendir("/proc/self/fd");
  KV_CHECK(dir != NULL, "fds");
  while (readdir(dir) != NULL) count++;
  closedir(dir);
  return count;
}

struct seen {
  uint64_t disk, resident, fds;
};

static void look(const char *dir, struct seen *most) {
  const uint64_t disk = kv_dir_bytes(dir), resident = resident_bytes(), fds = descriptors();
  KV_CHECK(disk <= SSD_BYTES, "the directory takes %" PRIu64 " bytes of %llu", disk,
           (unsigned long long)SSD_BYTES);
  if (disk > most->disk) most->disk = disk;
  if (resident > most->resident) most->resident = resident;
  if (fds > most->fds) most->fds = fds;
}

static void look_for(const char *dir, double seconds, struct seen *most) {
  const double end = kv_now_s() + seconds;
  while (kv_now_s() < end) {
    look(dir, most);
    kv_sleep_ms(LOOK_MS);
  }
}

int main(int argc, char **argv) {
  double seconds = 5;
  if (argc > 2 && strcmp(argv[1], "--seconds") == 0) {
    seconds = strtod(argv[2], NULL);
    argc -= 2;
    argv += 2;
  }
  kv_rng rng = kv_seed("soak", 1);
  const char *dir = argc > 1 ? argv[1] : kv_dir("soak");
  kvstow_options options;
  kv_options(&options, &dir, RAM_BYTES, SSD_BYTES, SEGMENT_BYTES);
  options.reinsert_pct = 0;
  kvstow *store = kv_open(&options);
  struct worker workers[THREADS];
  for (uint64_t i = 0; i < THREADS; i++) {
    workers[i] = (struct worker){store, kv_space(store, "soak", &shape), {kv_next(&rng)}, i, 0};
    KV_CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0, "thread");
  }
  struct seen warm = {0}, after = {0};
  while (kv_stats(store).segments_reclaimed == 0) look_for(dir, 0.1, &warm); /* the disk is full */
  look_for(dir, seconds / 3, &warm);
  look_for(dir, seconds * 2 / 3, &after);
  atomic_store(&stop, true);
  for (int i = 0; i < THREADS; i++) pthread_join(workers[i].thread, NULL);
  const kvstow_stats s = kv_stats(store);
  const uint64_t payload = shape.block_tokens * (uint64_t)shape.layers * 512;
  printf("%.0f s: %" PRIu64 " blocks stored (%" PRIu64 " MiB), %" PRIu64
         " restored and compared, %" PRIu64 " flushes; %" PRIu64
         " segments reclaimed; write amplification %.3f\n"
         "most at once: disk %.1f of %llu MiB, resident %.1f then %.1f MiB, descriptors %" PRIu64
         " then %" PRIu64 "\n",
         seconds, blocks_stored, blocks_stored * payload >> 20, blocks_restored, flushes,
         s.segments_reclaimed, s.write_amplification, (double)after.disk / (double)KV_MIB,
         (unsigned long long)(SSD_BYTES / KV_MIB), (double)warm.resident / (double)KV_MIB,
         (double)after.resident / (double)KV_MIB, warm.fds, after.fds);
  if (KV_TSAN) /* its own notes on every lock and page are resident, too, and grow for minutes */
    printf("[  SKIPPED ] memory_does_not_grow\n");
  else
    KV_CHECK(after.resident <= warm.resident + GROWTH_BYTES, "memory grows");
  KV_CHECK(after.fds <= warm.fds + GROWTH_FDS, "descriptors are not closed");
  KV_CHECK(s.leases == 0 && s.corrupt_blocks == 0 && s.tier.io_errors == 0,
           "%" PRIu64 " leases, %" PRIu64 " corrupt blocks, %" PRIu64 " errors", s.leases,
           s.corrupt_blocks, s.tier.io_errors);
  KV_CHECK(s.write_amplification <= 1.1, "write amplification %.3f", s.write_amplification);
  const int rc = kvstow_close(store);
  KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "close: %s", kvstow_errname(rc));
  look(dir, &after);
  return 0;
}
