/* test_reclaim.c - what of a full SSD is kept, what is written again, and what a crash may take of it.
 *
 * Device writes go through a pwritev in front of the threads engine's: it can be slow, and it can end
 * the process after so many.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "support/fixture.h"
#include "support/wall_clock.h"

static const kv_shape shape = {4, 64, 64, 32, 0}; /* 16 KiB a block */

enum { RAM = 8 * 1024 * 1024, SEGMENT = 1024 * 1024, HOT_BLOCKS = 8, DOC_BLOCKS = 16 };

static _Atomic unsigned writes_take_ms;
static _Atomic int writes_left = -1; /* then the process dies; below 0: never */

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset) {
  ssize_t (*real)(int, const struct iovec *, int, off_t) =
      (ssize_t(*)(int, const struct iovec *, int, off_t))dlsym(RTLD_NEXT, "pwritev");
  if (writes_take_ms > 0) kv_sleep_ms(writes_take_ms);
  if (writes_left >= 0 && writes_left-- == 0) raise(SIGKILL);
  return real(fd, iov, count, offset);
}

static void set_up(fixture *f, uint64_t ssd_bytes) {
  fixture_init(f, "reclaim", &shape, RAM, ssd_bytes, SEGMENT);
  f->options.ram_policy = "lru"; /* which admits to SSD what nobody ever asked for */
  f->options.engine = KVSTOW_ENGINE_THREADS;
}

static size_t get_past_ram(const fixture *f, uint64_t number, size_t blocks) {
  return get(f, number, blocks, KVSTOW_BYPASS_RAM | KVSTOW_NO_PROMOTE);
}

/* Uses what SSD has of the document, and only that: used in RAM, it would stay there, and SSD might
 * evict it. Blocks held anywhere. */
static size_t use_on_ssd(const fixture *f, uint64_t number, size_t blocks) {
  kv_doc d;
  kvstow_held held;
  kv_doc_init(&d, f->space, &shape, 1, number, blocks, NULL, 0);
  KV_OK(kvstow_exists(&d.prefix, &held));
  kv_doc_finish(&d);
  if (held.ram_blocks == 0) (void)get_past_ram(f, number, blocks);
  return held.blocks;
}

static void close_store(fixture *f) {
  const int rc = kvstow_close(f->store);
  KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "close: %s", kvstow_errname(rc));
}

static void blocks_nobody_used_are_written_once(void **state) {
  (void)state;
  fixture f;
  set_up(&f, 16 * KV_MIB);
  open_store(&f);
  for (uint64_t doc = 1; doc <= 256; doc++) KV_OK(put(&f, doc, DOC_BLOCKS)); /* 64 MiB */
  const kvstow_stats s = kv_stats(f.store);
  KV_CHECK(s.segments_reclaimed > 20, "%" PRIu64 " segments given up", s.segments_reclaimed);
  KV_CHECK(s.reinserted_blocks == 0, "%" PRIu64 " blocks rewritten", s.reinserted_blocks);
  KV_CHECK(s.write_amplification < 1.3, "write amplification %.3f", s.write_amplification);
  close_store(&f);
  kv_dir_drop(f.dir);
}

/* A run begins on 64 KiB; were each chain of one block a run, half of what is written would be padding. */
static void short_chains_share_their_padding(void **state) {
  (void)state;
  fixture f;
  set_up(&f, 64 * KV_MIB);
  open_store(&f);
  for (uint64_t doc = 1; doc <= 512; doc++) KV_OK(put(&f, doc, 1));
  KV_OK(kvstow_flush(f.store));
  const kvstow_stats s = kv_stats(f.store);
  KV_CHECK(s.write_amplification < 1.4, "write amplification %.3f", s.write_amplification);
  close_store(&f);
  kv_dir_drop(f.dir);
}

enum { STREAM_DOCS = 191 };

/* Writes over all segments several times, using one document all along. Returns how often it was not there:
 * when room is wanted before a block could be moved, it is evicted, and that may happen on a busy machine. */
static unsigned stream(const fixture *f, _Atomic bool *held) {
  unsigned missed = 0;
  for (uint64_t doc = 2; doc < 2 + STREAM_DOCS; doc++) {
    KV_OK(put(f, doc, DOC_BLOCKS));
    *held = use_on_ssd(f, 1, HOT_BLOCKS) == HOT_BLOCKS;
    if (*held) continue;
    missed++;
    KV_OK(put(f, 1, HOT_BLOCKS));
  }
  return missed;
}

static void blocks_in_use_are_written_again_and_stay(void **state) {
  (void)state;
  fixture f;
  set_up(&f, 16 * KV_MIB);
  open_store(&f);
  KV_OK(put(&f, 1, HOT_BLOCKS));
  close_store(&f);
  open_store(&f);
  _Atomic bool held = false;
  const unsigned missed = stream(&f, &held);
  const kvstow_stats s = kv_stats(f.store);
  KV_CHECK(missed < STREAM_DOCS / 10, "the document in use was gone %u times", missed);
  KV_CHECK(s.reinserted_blocks >= HOT_BLOCKS, "%" PRIu64 " blocks rewritten", s.reinserted_blocks);
  close_store(&f);
  kv_dir_drop(f.dir);
}

/* A block that reclaim kept was on no disk until it had been written again. */
static void blocks_in_use_survive_a_crash_at_any_write(void **state) {
  (void)state;
  _Atomic bool *held = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  KV_CHECK(held != MAP_FAILED, "mmap: %s", strerror(errno));
  unsigned crashes = 0, lost = 0;
  for (int at = 70; at < 190; at += 8) {
    fixture f;
    set_up(&f, 8 * KV_MIB);
    *held = false;
    const pid_t pid = fork();
    KV_CHECK(pid >= 0, "fork: %s", strerror(errno));
    if (pid == 0) {
      open_store(&f);
      KV_OK(put(&f, 1, HOT_BLOCKS));
      KV_OK(kvstow_close(f.store));
      open_store(&f);
      writes_left = at;
      (void)stream(&f, held);
      _exit(0);
    }
    int status;
    KV_CHECK(waitpid(pid, &status, 0) == pid, "waitpid: %s", strerror(errno));
    crashes += WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    open_store(&f);
    lost += *held && get_past_ram(&f, 1, HOT_BLOCKS) != HOT_BLOCKS; /* evicted since, perhaps */
    close_store(&f);
    kv_dir_drop(f.dir);
  }
  KV_CHECK(crashes > 8, "only %u crashes", crashes);
  KV_CHECK(lost <= crashes / 4, "lost after %u of %u crashes", lost, crashes);
  munmap((void *)held, 4096);
}

/* What was moved lies on SSD twice until its old segment goes: forgetting erases both. */
static void forgotten_blocks_do_not_return_from_their_old_segment(void **state) {
  (void)state;
  for (uint64_t docs = 20; docs < 60; docs += 5) {
    fixture f;
    set_up(&f, 8 * KV_MIB);
    open_store(&f);
    KV_OK(put(&f, 1, HOT_BLOCKS));
    KV_OK(kvstow_close(f.store));
    const pid_t pid = fork();
    KV_CHECK(pid >= 0, "fork: %s", strerror(errno));
    if (pid == 0) {
      open_store(&f);
      for (uint64_t doc = 2; doc <= docs; doc++) {
        KV_OK(put(&f, doc, DOC_BLOCKS));
        (void)use_on_ssd(&f, 1, HOT_BLOCKS);
      }
      kv_sleep_ms(20);
      kv_doc d;
      kv_doc_init(&d, f.space, &shape, 1, 1, HOT_BLOCKS, NULL, 0);
      KV_OK(kvstow_forget(&d.prefix, 0, NULL));
      raise(SIGKILL);
    }
    kv_wait_killed(pid);
    open_store(&f);
    KV_CHECK(get_past_ram(&f, 1, HOT_BLOCKS) == 0,
             "after %" PRIu64 " documents: forgotten, and back", docs);
    close_store(&f);
    kv_dir_drop(f.dir);
  }
}

/* What was on its way to a slow disk did not count. */
static void daily_limit_counts_what_is_under_way(void **state) {
  (void)state;
  fixture f;
  set_up(&f, 64 * KV_MIB);
  f.options.write_bytes_a_day = 1 * KV_MIB + KV_MIB / 2;
  open_store(&f);
  writes_take_ms = 30;
  for (uint64_t doc = 1; doc <= 64; doc++) KV_OK(put(&f, doc, DOC_BLOCKS));
  (void)kvstow_flush(f.store);
  writes_take_ms = 0;
  const kvstow_stats s = kv_stats(f.store);
  KV_CHECK(s.tier.bytes_written_today > KV_MIB, "%" PRIu64 " bytes written",
           s.tier.bytes_written_today);
  KV_CHECK(s.tier.bytes_written_today <= f.options.write_bytes_a_day + 3 * 16 * KV_KIB,
           "%" PRIu64 " bytes written, %" PRIu64 " allowed", s.tier.bytes_written_today,
           f.options.write_bytes_a_day);
  close_store(&f);
  kv_dir_drop(f.dir);
}

static void no_handle_is_nothing(void **state) {
  (void)state;
  void *base = &base;
  size_t bytes = 1;
  kvstow_region(NULL, &base, &bytes);
  KV_CHECK(base == NULL && bytes == 0, "%zu bytes at %p", bytes, base);
  KV_CHECK(kvstow_space_block_tokens(NULL) == 0, "tokens");
  KV_CHECK(kvstow_space_plane_bytes(NULL) == 0, "plane");
  KV_CHECK(kvstow_space_payload_bytes(NULL) == 0, "payload");
}

/* Index, frames and segments' lists included. */
static void metadata_is_at_most_128_bytes_a_block(void **state) {
  (void)state;
  const kv_shape tiny = {1, 32, 32, 32, 0}; /* 4 KiB a block, with its page 8 */
  fixture f;
  set_up(&f, 256 * KV_MIB);
  f.options.segment_bytes = 4 * KV_MIB;
  f.store = kv_open(&f.options);
  kvstow_space *space = kv_space(f.store, "tiny", &tiny);
  for (uint64_t doc = 1; doc <= 240; doc++) {
    kv_doc d;
    kv_doc_init(&d, space, &tiny, 1, doc, 128, NULL, 0);
    KV_OK(kv_doc_store(&d, 0, 128, 0));
    kv_doc_finish(&d);
  }
  const kvstow_stats s = kv_stats(f.store);
  KV_CHECK(s.blocks > 20000, "%" PRIu64 " blocks", s.blocks);
  KV_CHECK(s.metadata_bytes <= 128 * s.blocks, "%" PRIu64 " bytes for %" PRIu64 " blocks",
           s.metadata_bytes, s.blocks);
  close_store(&f);
  kv_dir_drop(f.dir);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(blocks_nobody_used_are_written_once),
    cmocka_unit_test(short_chains_share_their_padding),
    cmocka_unit_test(blocks_in_use_are_written_again_and_stay),
    cmocka_unit_test(blocks_in_use_survive_a_crash_at_any_write),
    cmocka_unit_test(forgotten_blocks_do_not_return_from_their_old_segment),
    cmocka_unit_test(daily_limit_counts_what_is_under_way),
    cmocka_unit_test(metadata_is_at_most_128_bytes_a_block),
    cmocka_unit_test(no_handle_is_nothing),
};

KV_MAIN("reclaim")
