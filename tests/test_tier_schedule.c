/* The read scheduler: every byte to its place, never more device reads than requests.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "test_tier_fixture.h"

#include "tier/schedule.h"

#define FILES 3u
#define FILE_BYTES (4u << 20)
#define KIB 1024u

static uint8_t scratch[256 * KIB];

/* The byte at an offset of a file. */
static uint8_t content(uint32_t file, uint64_t offset) {
  return (uint8_t)(mix(offset / 512 + ((uint64_t)file << 40)) + offset);
}

typedef struct outcome {
  const kvstow__limits *limits;
  size_t device_reads, merges;
  uint64_t device_bytes, shortest;
} outcome;

/* Performs a request as a disk would. */
static void perform(void *arg, const kvstow__request *r) {
  outcome *o = arg;
  o->device_reads++;
  o->merges += r->extents_count - 1;
  o->device_bytes += r->length;
  if (o->device_reads == 1 || r->length < o->shortest) o->shortest = r->length;
  assert_true(r->length > 0 && r->length <= o->limits->request_max_bytes);
  assert_true(r->iov_count >= 1 && r->iov_count <= KVSTOW__IOV_MAX);
  assert_true(r->offset + r->length <= r->extents[r->extents_count - 1]->file_end);
  uint64_t at = r->offset;
  bool gaps = false;
  for (uint32_t i = 0; i < r->iov_count; i++) {
    uint8_t *to = r->iov[i].iov_base;
    assert_true(r->iov[i].iov_len > 0);
    if (to == scratch) {
      assert_true(r->iov[i].iov_len <= sizeof scratch);
      gaps = true;
    } else {
      for (size_t k = 0; k < r->iov[i].iov_len; k++) to[k] = content(r->file, at + k);
    }
    at += r->iov[i].iov_len;
  }
  assert_int_equal(at, r->offset + r->length);
  assert_int_equal(gaps, r->scratch);
}

static kvstow__limits default_limits(void) {
  return (kvstow__limits){
      .merge = true,
      .gap_max_bytes = 128 * KIB,
      .request_max_bytes = 4096 * KIB,
      .block_bytes = 64 * KIB,
      .scratch = scratch,
      .scratch_bytes = sizeof scratch,
  };
}

static kvstow__extent extent_new(uint32_t file, uint64_t offset, uint64_t length) {
  kvstow__extent e = {.file = file, .offset = offset, .length = length, .file_end = FILE_BYTES};
  uint8_t *to = malloc(length);
  memset(to, 0, length);
  e.iov[0] = (struct iovec){to, length};
  e.iov_count = 1;
  return e;
}

/* Header and payload go to different buffers. */
static void split_extent(kvstow__extent *e) {
  if (e->length <= 4096) return;
  free(e->iov[0].iov_base);
  e->iov[0] = (struct iovec){malloc(4096), 4096};
  e->iov[1] = (struct iovec){malloc(e->length - 4096), e->length - 4096};
  e->iov_count = 2;
}

static void check_extent(kvstow__extent *e) {
  uint64_t at = e->offset;
  for (uint32_t i = 0; i < e->iov_count; i++) {
    const uint8_t *bytes = e->iov[i].iov_base;
    for (size_t k = 0; k < e->iov[i].iov_len; k++)
      if (bytes[k] != content(e->file, at + k))
        fail_msg("file %u offset %llu: wrong byte", e->file, (unsigned long long)(at + k));
    at += e->iov[i].iov_len;
    free(e->iov[i].iov_base);
  }
}

static outcome run(kvstow__extent *extents, size_t count, const kvstow__limits *limits) {
  kvstow__extent **pointers = malloc((count + 1) * sizeof *pointers);
  for (size_t i = 0; i < count; i++) pointers[i] = &extents[i];
  outcome o = {.limits = limits};
  kvstow__schedule(pointers, count, limits, perform, &o);
  free(pointers);
  return o;
}

static void three_neighbours_are_one_device_read(void **state) {
  (void)state;
  const kvstow__limits limits = default_limits();
  kvstow__extent e[] = {extent_new(0, 0, 64 * KIB), extent_new(0, 64 * KIB, 64 * KIB),
                        extent_new(0, 200 * KIB, 64 * KIB)};
  const outcome o = run(e, 3, &limits);
  for (int i = 0; i < 3; i++) check_extent(&e[i]);
  assert_int_equal(o.device_reads, 1);
  assert_int_equal(o.merges, 2);
}

static void order_of_arrival_does_not_matter(void **state) {
  (void)state;
  const kvstow__limits limits = default_limits();
  kvstow__extent e[] = {extent_new(0, 200 * KIB, 64 * KIB), extent_new(0, 0, 64 * KIB),
                        extent_new(0, 64 * KIB, 64 * KIB)};
  const outcome o = run(e, 3, &limits);
  for (int i = 0; i < 3; i++) check_extent(&e[i]);
  assert_int_equal(o.device_reads, 1);
}

static void gaps_beyond_the_distance_are_left(void **state) {
  (void)state;
  const kvstow__limits limits = default_limits();
  kvstow__extent e[] = {extent_new(0, 0, 4 * KIB), extent_new(0, 136 * KIB, 4 * KIB),
                        extent_new(1, 0, 4 * KIB)};
  const outcome o = run(e, 3, &limits);
  for (int i = 0; i < 3; i++) check_extent(&e[i]);
  assert_int_equal(o.device_reads, 3);
  assert_int_equal(o.device_bytes, 12 * KIB); /* nothing was rounded out for a page */
}

static void off_means_one_request_each_in_order(void **state) {
  (void)state;
  kvstow__limits limits = default_limits();
  limits.merge = false;
  kvstow__extent e[] = {extent_new(0, 64 * KIB, 64 * KIB), extent_new(0, 0, 64 * KIB)};
  const outcome o = run(e, 2, &limits);
  for (int i = 0; i < 2; i++) check_extent(&e[i]);
  assert_int_equal(o.device_reads, 2);
  assert_int_equal(o.merges, 0);
  assert_int_equal(o.device_bytes, 128 * KIB);
}

static void a_giant_is_split(void **state) {
  (void)state;
  kvstow__limits limits = default_limits();
  limits.request_max_bytes = 256 * KIB;
  kvstow__extent e[] = {extent_new(0, 4 * KIB, 1000 * KIB), extent_new(0, 1004 * KIB, 8 * KIB)};
  split_extent(&e[0]);
  const outcome o = run(e, 2, &limits);
  for (int i = 0; i < 2; i++) check_extent(&e[i]);
  assert_int_equal(o.device_reads, 4); /* the tail of the giant takes its neighbour along */
}

/* No part is a page that costs as much as the others; none is read twice. */
static void a_giant_is_split_evenly(void **state) {
  (void)state;
  kvstow__limits limits = default_limits();
  limits.request_max_bytes = 256 * KIB;
  for (uint64_t offset = 0; offset < 64; offset += 4) {
    kvstow__extent e = extent_new(0, offset * KIB, 516 * KIB);
    const outcome o = run(&e, 1, &limits);
    check_extent(&e);
    assert_int_equal(o.device_reads, 3);
    assert_int_equal(o.device_bytes, 516 * KIB);
    assert_true(o.shortest >= 64 * KIB);
  }
}

static void lone_extents_stay_alone(void **state) {
  (void)state;
  const kvstow__limits limits = default_limits();
  kvstow__extent e[] = {extent_new(0, 0, 64 * KIB), extent_new(0, 64 * KIB, 64 * KIB),
                        extent_new(0, 128 * KIB, 64 * KIB)};
  e[1].alone = true;
  const outcome o = run(e, 3, &limits);
  for (int i = 0; i < 3; i++) check_extent(&e[i]);
  assert_int_equal(o.device_reads, 3);
}

/* ---- properties ----------------------------------------------------------------------------- */

static uint64_t rng;
static uint64_t draw(uint64_t below) {
  rng = mix(rng + UINT64_C(0x9e3779b97f4a7c15));
  return rng % below;
}

static void any_requests_any_limits(void **state) {
  (void)state;
  const char *given = getenv("KVSTOW_TEST_SEED");
  const uint64_t seed = given ? strtoull(given, NULL, 0) : 20240607;
  print_message("seed %llu (KVSTOW_TEST_SEED)\n", (unsigned long long)seed);
  rng = seed;
  for (int round = 0; round < 60; round++) {
    kvstow__limits limits = default_limits();
    limits.merge = draw(8) != 0;
    limits.gap_max_bytes = draw(3) ? draw(64) * 4 * KIB : 1024 * KIB;
    limits.request_max_bytes = (16 + draw(256)) * 4 * KIB;
    const size_t count = 1 + draw(40);
    kvstow__extent *e = calloc(count, sizeof *e);
    size_t naive = 0;
    for (size_t i = 0; i < count; i++) {
      const uint64_t length = (1 + draw(draw(8) ? 20 : 200)) * 4 * KIB;
      const uint64_t offset = draw((FILE_BYTES - length) / 4096 + 1) * 4096;
      e[i] = extent_new((uint32_t)draw(FILES), offset, length);
      if (draw(2)) split_extent(&e[i]);
      e[i].alone = draw(16) == 0;
      naive += (length + limits.request_max_bytes - 1) / limits.request_max_bytes;
    }
    const outcome o = run(e, count, &limits);
    for (size_t i = 0; i < count; i++) check_extent(&e[i]);
    assert_true(o.device_reads <= naive);
    free(e);
  }
}

static void many_small_ones_respect_the_vector_limit(void **state) {
  (void)state;
  kvstow__limits limits = default_limits();
  limits.request_max_bytes = 64u << 20;
  enum { COUNT = 2000 };
  kvstow__extent *e = calloc(COUNT, sizeof *e);
  for (size_t i = 0; i < COUNT; i++) {
    e[i] = extent_new(0, i * 8192, 4096);
    e[i].file_end = 64u << 20;
  }
  const outcome o = run(e, COUNT, &limits);
  for (size_t i = 0; i < COUNT; i++) check_extent(&e[i]);
  assert_true(o.device_reads >= 4 && o.device_reads <= 5);
  free(e);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(three_neighbours_are_one_device_read),
      cmocka_unit_test(order_of_arrival_does_not_matter),
      cmocka_unit_test(gaps_beyond_the_distance_are_left),
      cmocka_unit_test(off_means_one_request_each_in_order),
      cmocka_unit_test(a_giant_is_split),
      cmocka_unit_test(a_giant_is_split_evenly),
      cmocka_unit_test(lone_extents_stay_alone),
      cmocka_unit_test(any_requests_any_limits),
      cmocka_unit_test(many_small_ones_respect_the_vector_limit),
  };
  return cmocka_run_group_tests_name("schedule", tests, NULL, NULL);
}
