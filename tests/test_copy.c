/* test_copy.c - what is copied past the caches is what was given, and its sum is the checksum of it: for
 * any pieces, any alignment, and machines without AVX2.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kvcache/copy.h"
#include "kvstow/tier.h"
#include "tests/support/kv.h"
#include "tier/copy.h"

enum { BYTES_MAX = 64 << 10, MARGIN = 64 };

static unsigned char *memory(size_t bytes) {
  unsigned char *p = aligned_alloc(64, bytes);
  assert_non_null(p);
  return p;
}

/* Random bytes, in pieces of random multiples of `step`, of which the last fills up. */
static void sum_in_pieces(struct kvs_sum *sum, kv_rng *rng, const unsigned char *from,
                          uint32_t step) {
  while (sum->done < sum->total) {
    const uint32_t left = sum->total - sum->done;
    uint32_t bytes = step * (uint32_t)kv_below(rng, 1 + (kv_below(rng, 2) ? 4 : 4096 / step));
    if (bytes > left) bytes = left;
    kvs_sum_copy(sum, from + sum->done, bytes);
  }
  kvstow__copy_fence();
}

static void check_one(kv_rng *rng, const unsigned char *from, unsigned char *to, uint32_t total,
                      uint32_t step, size_t misaligned, bool plain) {
  memset(to, 0xa5, BYTES_MAX + 3 * MARGIN);
  unsigned char *at = to + MARGIN + misaligned;
  struct kvs_sum sum;
  kvs_sum_begin(&sum, at, total);
  if (plain) sum.wide = false;
  sum_in_pieces(&sum, rng, from, step);
  assert_memory_equal(at, from, total);
  assert_int_equal(kvs_sum_end(&sum), kvstow_checksum(from, total));
  for (size_t i = 0; i < MARGIN; i++) {
    assert_int_equal(at[-1 - (ptrdiff_t)i], 0xa5);
    assert_int_equal(at[total + i], 0xa5);
  }
}

static void any_pieces_sum_up_to_the_checksum_of_the_whole(void **state) {
  (void)state;
  unsigned char *source = memory(BYTES_MAX + 2 * MARGIN), *to = memory(BYTES_MAX + 4 * MARGIN);
  kv_rng rng = kv_seed(__func__, 1);
  for (uint64_t round = 0; round < 8 * kv_env("KVSTOW_SEEDS", 40); round++) {
    for (size_t i = 0; i < BYTES_MAX + 2 * MARGIN; i++) source[i] = (unsigned char)kv_next(&rng);
    const unsigned char *from = source + kv_below(&rng, MARGIN);
    const uint32_t stripes = 1 + (uint32_t)kv_below(&rng, kv_below(&rng, 2) ? 40 : 1023);
    for (int plain = 0; plain < 2; plain++) {
      check_one(&rng, from, to, stripes * 64, 64, 0, plain);
      check_one(&rng, from, to, stripes * 64, 1 + (uint32_t)kv_below(&rng, 200), 0, plain);
      check_one(&rng, from, to, stripes * 64 - (uint32_t)kv_below(&rng, 64), 64, 0, plain);
      check_one(&rng, from, to, stripes * 64, 64, kv_below(&rng, 64), plain);
    }
  }
  free(source);
  free(to);
}

static void every_short_length_is_right(void **state) {
  (void)state;
  unsigned char *from = memory(BYTES_MAX), *to = memory(BYTES_MAX + 4 * MARGIN);
  kv_rng rng = kv_seed(__func__, 3);
  for (size_t i = 0; i < BYTES_MAX; i++) from[i] = (unsigned char)kv_next(&rng);
  for (uint32_t total = 1; total < 2600; total++)
    for (int plain = 0; plain < 2; plain++) check_one(&rng, from, to, total, 64, 0, plain);
  free(from);
  free(to);
}

/* Rows come as a decoder makes them: a row of K and one of V for each layer in turn. */
static void check_planes(kv_rng *rng, uint32_t k_bytes, uint32_t v_bytes, uint32_t tokens,
                         bool plain) {
  enum { LAYERS = 3 };
  const uint32_t used = tokens * (k_bytes + v_bytes);
  const uint32_t plane_bytes = (used + 4095) / 4096 * 4096;
  const uint32_t part_bytes = k_bytes == 0 || v_bytes == 0 ? 0 : tokens * k_bytes;
  unsigned char *expected = memory(LAYERS * (size_t)plane_bytes);
  unsigned char *to = memory(LAYERS * (size_t)plane_bytes);
  memset(to, 0xa5, LAYERS * (size_t)plane_bytes);
  memset(expected, 0, LAYERS * (size_t)plane_bytes);
  struct kvs_plane_sum sums[LAYERS];
  for (uint32_t l = 0; l < LAYERS; l++) {
    for (uint32_t i = 0; i < used; i++) expected[l * plane_bytes + i] = (unsigned char)kv_next(rng);
    kvs_plane_sum_begin(&sums[l], to + l * plane_bytes, plane_bytes, part_bytes);
    for (uint32_t p = 0; p < sums[l].parts; p++) sums[l].part[p].wide &= !plain;
  }
  for (uint32_t t = 0; t < tokens; t++)
    for (uint32_t l = 0; l < LAYERS; l++) {
      const unsigned char *plane = expected + l * plane_bytes;
      struct kvs_sum *last = &sums[l].part[sums[l].parts - 1];
      kvs_sum_copy(&sums[l].part[0], plane + t * k_bytes, k_bytes);
      kvs_sum_copy(last, plane + tokens * k_bytes + t * v_bytes, v_bytes);
      if (t + 1 == tokens) kvs_sum_zero(last, plane_bytes - used);
    }
  kvstow__copy_fence();
  assert_memory_equal(to, expected, LAYERS * (size_t)plane_bytes);
  for (uint32_t l = 0; l < LAYERS; l++)
    assert_int_equal(kvs_plane_sum_end(&sums[l]),
                     kvstow_plane_checksum(expected + l * plane_bytes, plane_bytes, part_bytes));
  free(expected);
  free(to);
}

static void interleaved_rows_sum_up_to_the_checksums_of_planes(void **state) {
  (void)state;
  static const uint32_t widths[][2] = {{64, 64},  {1152, 0}, {0, 128}, {2048, 2048}, {192, 64},
                                       {100, 28}, {1, 7},    {64, 7},  {7, 64},      {4096, 4096}};
  kv_rng rng = kv_seed(__func__, 2);
  for (uint64_t round = 0; round < kv_env("KVSTOW_SEEDS", 10); round++) {
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
      for (int plain = 0; plain < 2; plain++)
        check_planes(&rng, widths[w][0], widths[w][1], 1 + (uint32_t)kv_below(&rng, 70), plain);
  }
}

/* An independent reading of docs/format.md. */
static void a_plane_of_two_parts_has_the_sum_of_its_parts_sums(void **state) {
  (void)state;
  unsigned char *plane = memory(8192);
  for (size_t i = 0; i < 8192; i++) plane[i] = (unsigned char)(i * 7);
  unsigned char sums[16];
  const uint64_t first = kvstow_checksum(plane, 1000), second = kvstow_checksum(plane + 1000, 7192);
  for (int i = 0; i < 8; i++) {
    sums[i] = (unsigned char)(first >> 8 * i);
    sums[8 + i] = (unsigned char)(second >> 8 * i);
  }
  assert_int_equal(kvstow_plane_checksum(plane, 8192, 1000), kvstow_checksum(sums, 16));
  assert_int_equal(kvstow_plane_checksum(plane, 8192, 0), kvstow_checksum(plane, 8192));
  assert_int_equal(kvstow_plane_checksum(plane, 8192, 8192), kvstow_checksum(plane, 8192));
  free(plane);
}

/* ---- whole sequences ------------------------------------------------------------------------ */

/* Two threads take turns with one sequence, handed over by nothing but a store and a load. */
struct turns {
  const kv_doc *doc;
  kvstow_seq *seq;
  size_t stay; /* tokens a turn */
  _Atomic size_t next;
};

static void append_token(const struct turns *turns, size_t token) {
  const kv_doc *d = turns->doc;
  const kv_shape *shape = d->shape;
  const uint64_t id = kv_id(d->where, d->doc, token / shape->block_tokens);
  char k[4096], v[4096];
  for (uint32_t layer = 0; layer < shape->layers; layer++) {
    kv_row(id, layer, 0, token % shape->block_tokens, k, shape->k_bytes);
    kv_row(id, layer, 1, token % shape->block_tokens, v, shape->v_bytes);
    KV_OK(kvstow_seq_append(turns->seq, layer, k, v, 1));
  }
}

static void take_turns(struct turns *turns, size_t who) {
  const size_t tokens = turns->doc->blocks * turns->doc->shape->block_tokens;
  for (size_t token; (token = atomic_load_explicit(&turns->next, memory_order_acquire)) < tokens;) {
    if (token / turns->stay % 2 != who) {
      sched_yield();
      continue;
    }
    append_token(turns, token);
    atomic_store_explicit(&turns->next, token + 1, memory_order_release);
  }
}

static void *second(void *arg) {
  take_turns(arg, 1);
  return NULL;
}

static void check_sequence(const kv_shape *shape, size_t stay) {
  const char *dir = kv_dir("copy");
  kvstow_options options;
  kv_options(&options, &dir, (uint64_t)32 << 20, (uint64_t)64 << 20, 4u << 20);
  for (int life = 0; life < 2; life++) {
    kvstow *store = kv_open(&options);
    kv_doc d;
    kv_doc_init(&d, kv_space(store, "copy", shape), shape, 1, 7, 5, NULL, 0);
    if (life == 0) {
      kvstow_prefix nothing = d.prefix;
      nothing.tokens_count = 0;
      struct turns turns = {.doc = &d, .stay = stay};
      KV_OK(kvstow_seq_open(&nothing, &turns.seq));
      KV_OK(kvstow_seq_tokens(turns.seq, d.tokens, d.blocks * shape->block_tokens));
      pthread_t thread;
      KV_CHECK(pthread_create(&thread, NULL, second, &turns) == 0, "no thread");
      take_turns(&turns, 0);
      pthread_join(thread, NULL);
      kvstow_seq_close(turns.seq);
    }
    KV_CHECK(kv_doc_restore(&d, 0) == d.blocks, "life %d: not restored", life);
    KV_CHECK(kv_stats(store).corrupt_blocks == 0, "a sum was wrong");
    kv_doc_finish(&d);
    KV_OK(kvstow_close(store));
  }
  kv_dir_drop(dir);
}

/* The second life reads from SSD, where every plane is checked against the sum of its rows. */
static void rows_of_any_width_come_back_from_ssd(void **state) {
  (void)state;
  static const kv_shape shapes[] = {
      {3, 64, 64, 32, 0}, {3, 1152, 0, 16, 0},   {2, 0, 256, 17, 0},   {2, 100, 28, 33, 0},
      {1, 64, 7, 64, 0},  {2, 2048, 2048, 5, 0}, {2, 4096, 64, 16, 0}, {1, 1, 1, 1, 0}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    check_sequence(&shapes[i], 1);
    check_sequence(&shapes[i], 1000); /* one thread alone */
  }
}

/* Neither a byte before nor one behind. */
static void copies_of_any_place_and_length_are_exact(void **state) {
  (void)state;
  kv_rng rng = kv_seed("copies_of_any_place_and_length_are_exact", 1);
  unsigned char *from = memory(BYTES_MAX), *to = memory(BYTES_MAX), *wanted = memory(BYTES_MAX);
  for (size_t i = 0; i < BYTES_MAX; i++) from[i] = (unsigned char)kv_next(&rng);
  for (unsigned round = 0; round < 2000; round++) {
    const size_t length = kv_below(&rng, kv_chance(&rng, 50) ? 300 : BYTES_MAX / 2);
    const size_t at = kv_below(&rng, BYTES_MAX - length),
                 source = kv_below(&rng, BYTES_MAX - length);
    memset(to, 0xee, BYTES_MAX);
    memset(wanted, 0xee, BYTES_MAX);
    memcpy(wanted + at, from + source, length);
    kvstow__copy_past_cache(to + at, from + source, length);
    kvstow__copy_fence();
    KV_CHECK(memcmp(to, wanted, BYTES_MAX) == 0, "%zu bytes from %zu to %zu", length, source, at);
  }
  free(wanted);
  free(to);
  free(from);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(any_pieces_sum_up_to_the_checksum_of_the_whole),
      cmocka_unit_test(copies_of_any_place_and_length_are_exact),
      cmocka_unit_test(every_short_length_is_right),
      cmocka_unit_test(interleaved_rows_sum_up_to_the_checksums_of_planes),
      cmocka_unit_test(rows_of_any_width_come_back_from_ssd),
      cmocka_unit_test(a_plane_of_two_parts_has_the_sum_of_its_parts_sums),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
