/* test_pool.c - the RAM pool: how much of a region holds payload, and that frames never overlap.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvcache/index.h"
#include "kvcache/pool.h"

#define KIB ((uint64_t)1024)
#define MIB (1024 * KIB)
#define PAGE 4096u

static struct kvs_pool *make_pool(uint64_t bytes) {
  struct kvs_pool *pool = NULL;
  assert_int_equal(kvs_pool_create(bytes, false, &pool), 0);
  return pool;
}

static uint64_t fill(struct kvs_pool *pool, uint32_t payload_bytes, uint32_t *frames) {
  uint64_t count = 0;
  for (uint32_t frame; (frame = kvs_pool_take(pool, payload_bytes)) != KVS_NO_FRAME; count++)
    if (frames != NULL) frames[count] = frame;
  return count;
}

/* The region is never touched: 1 GiB of it costs no memory here. */
static void holds_at_least_92_percent_payload_for_any_block_size(void **state) {
  (void)state;
  for (uint64_t size = 64 * KIB; size <= 16 * MIB; size += size / 7 / PAGE * PAGE) {
    struct kvs_pool *pool = make_pool(1024 * MIB);
    const uint64_t count = fill(pool, (uint32_t)size, NULL);
    const double share = (double)(count * size) / (double)(1024 * MIB);
    if (share < 0.92)
      fail_msg("%" PRIu64 " KiB: %" PRIu64 " blocks, %.1f %%", size / KIB, count, 100 * share);
    kvs_pool_destroy(pool);
  }
}

static void a_region_emptied_of_one_size_serves_another(void **state) {
  (void)state;
  static const uint32_t sizes[] = {64 * KIB, 2 * MIB, 320 * KIB, 5 * MIB, 68 * KIB, 16 * MIB};
  struct kvs_pool *pool = make_pool(512 * MIB);
  uint32_t *frames = calloc(16384, sizeof *frames);
  assert_non_null(frames);
  for (int turn = 0; turn < 12; turn++) {
    const uint32_t size = sizes[turn % 6];
    const uint64_t count = fill(pool, size, frames);
    assert_true((double)(count * size) > 0.92 * (double)(512 * MIB));
    for (uint64_t i = 0; i < count; i++) kvs_pool_give(pool, frames[(i * 7919) % count]);
    struct kvs_pool_stats stats;
    kvs_pool_get_stats(pool, &stats);
    assert_int_equal(stats.frames, 0);
    assert_int_equal(stats.slab_bytes, 0);
  }
  free(frames);
  kvs_pool_destroy(pool);
}

/* Its table of sizes was full after 255, for good. */
static void as_many_sizes_as_may_be(void **state) {
  (void)state;
  struct kvs_pool *pool = make_pool(8192 * MIB); /* not touched */
  uint32_t frames[300];
  for (uint32_t turn = 0; turn < 3; turn++) {
    for (uint32_t i = 0; i < 300; i++) {
      frames[i] = kvs_pool_take(pool, (turn * 300 + i + 1) * PAGE);
      if (frames[i] == KVS_NO_FRAME) fail_msg("turn %u: no frame of size %u", turn, i);
    }
    for (uint32_t i = 0; i < 300; i++) kvs_pool_give(pool, frames[i]);
  }
  struct kvs_pool_stats stats;
  kvs_pool_get_stats(pool, &stats);
  if (stats.metadata_bytes > 256 * KIB) fail_msg("%" PRIu64 " bytes kept", stats.metadata_bytes);
  kvs_pool_destroy(pool);
}

struct taken {
  uint32_t frame, size;
  uint64_t mark;
};

static void mark(const struct kvs_pool *pool, const struct taken *t, bool check) {
  char *payload = kvs_pool_payload(pool, t->frame), *header = kvs_pool_header(pool, t->frame);
  uint64_t *places[] = {
      (uint64_t *)(void *)payload, (uint64_t *)(void *)(payload + t->size - sizeof(uint64_t)),
      (uint64_t *)(void *)header, (uint64_t *)(void *)(header + PAGE - sizeof(uint64_t))};
  for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
    if (check) assert_int_equal(*places[i], t->mark + i);
    *places[i] = t->mark + i;
  }
}

static void frames_are_aligned_in_the_region_and_never_overlap(void **state) {
  (void)state;
  static const uint32_t sizes[] = {4 * KIB, 16 * KIB, 64 * KIB, 68 * KIB, 132 * KIB, 1 * MIB};
  enum { MANY = 4096 };
  struct kvs_pool *pool = make_pool(32 * MIB);
  struct taken *taken = calloc(MANY, sizeof *taken);
  assert_non_null(taken);
  void *base;
  size_t bytes;
  kvs_pool_region(pool, &base, &bytes);
  size_t count = 0, full = 0;
  uint64_t random = 88172645463325252u;
  for (int step = 0; step < 40000; step++) {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    if (count < MANY && random % 100 < 55) {
      struct taken *t = &taken[count];
      t->size = sizes[random / 128 % 6];
      t->frame = kvs_pool_take(pool, t->size);
      if (t->frame == KVS_NO_FRAME) {
        full++;
        continue;
      }
      const char *payload = kvs_pool_payload(pool, t->frame);
      assert_int_equal((uintptr_t)payload % PAGE, 0);
      assert_int_equal((uintptr_t)kvs_pool_header(pool, t->frame) % PAGE, 0);
      assert_true(payload >= (char *)base && payload + t->size <= (char *)base + bytes);
      assert_int_equal(kvs_pool_owner(pool, t->frame), KVS_NO_OWNER);
      t->mark = random;
      mark(pool, t, false);
      count++;
    } else if (count > 0) {
      const size_t i = random / 256 % count;
      mark(pool, &taken[i], true);
      kvs_pool_give(pool, taken[i].frame);
      taken[i] = taken[--count];
    }
  }
  assert_true(full > 0);
  for (size_t i = 0; i < count; i++) mark(pool, &taken[i], true);
  free(taken);
  kvs_pool_destroy(pool);
}

static void a_fork_of_the_host_does_not_inherit_the_region(void **state) {
  (void)state;
#if defined(__SANITIZE_THREAD__)
  print_message(
      "SKIP: the thread sanitizer counts 64 locks at most; jemalloc takes more to fork\n");
  skip();
#endif
  struct kvs_pool *pool = make_pool(16 * MIB);
  assert_int_not_equal(kvs_pool_take(pool, 64 * KIB), KVS_NO_FRAME);
  const pid_t pid = fork();
  if (pid == 0) { /* jemalloc's fork handlers have run; allocation works */
    free(malloc(1000));
    _exit(0);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  kvs_pool_destroy(pool);
}

static void index_finds_what_was_inserted_and_nothing_else(void **state) {
  (void)state;
  enum { KEYS = 20000 };
  struct kvs_index index;
  assert_int_equal(kvs_index_init(&index, KEYS + 1000), 0);
  for (uint32_t i = 0; i < KEYS; i++) {
    const uint32_t id = kvs_entry_new(&index);
    assert_int_equal(id, i);
    struct kvs_entry *entry = kvs_entry(&index, id);
    entry->key = (kvstow_key){i * 0x9e3779b97f4a7c15u, i ^ 0x5bd1e995u};
    entry->root = i % 3;
    assert_true(kvs_shard_insert(&index, id));
  }
  for (uint32_t i = 0; i < KEYS; i += 2) {
    kvs_shard_remove(&index, i);
    kvs_entry_free(&index, i);
  }
  for (uint32_t i = 0; i < KEYS; i++) {
    const kvstow_key key = {i * 0x9e3779b97f4a7c15u, i ^ 0x5bd1e995u};
    assert_int_equal(kvs_shard_find(&index, key, i % 3), i % 2 == 0 ? KVS_NO_ENTRY : i);
    /* an equal key under another root is another block */
    assert_int_equal(kvs_shard_find(&index, key, i % 3 + 1), KVS_NO_ENTRY);
  }
  assert_true((double)kvs_index_bytes(&index) / KEYS < 122);
  kvs_index_finish(&index);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(holds_at_least_92_percent_payload_for_any_block_size),
      cmocka_unit_test(a_region_emptied_of_one_size_serves_another),
      cmocka_unit_test(frames_are_aligned_in_the_region_and_never_overlap),
      cmocka_unit_test(as_many_sizes_as_may_be),
      cmocka_unit_test(a_fork_of_the_host_does_not_inherit_the_region),
      cmocka_unit_test(index_finds_what_was_inserted_and_nothing_else),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
