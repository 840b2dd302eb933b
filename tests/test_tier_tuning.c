/* What kvstow_tuning says is what the device sees, and holds from the next read on; demand goes before
 * what is only read ahead.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "test_tier_device.h"

#define KIB 1024u
#define MIB (1024u * KIB)
#define FILE_BYTES (8u * MIB)
#define READS_MAX 16u

/* ---- a device that notes what it is sent, and when told, keeps it ----------------------------- */

static struct {
  atomic_bool hold;
  _Atomic uint32_t count;
  struct {
    kvstow_priority priority;
    uint64_t offset, length;
  } ops[TOLD_OPS_MAX];
} sent;

static int carry_out(kvstow__op *op) {
  const ssize_t n = preadv(op->fd, op->iov, (int)op->iov_count, (off_t)op->offset);
  return n >= (ssize_t)(op->length - op->slack) ? 0 : ENODATA;
}

static bool note(const kvstow__op *op) {
  const uint32_t at = atomic_load(&sent.count);
  assert_true(at < TOLD_OPS_MAX);
  sent.ops[at].priority = op->priority;
  sent.ops[at].offset = op->offset;
  sent.ops[at].length = op->length;
  atomic_store(&sent.count, at + 1);
  return atomic_load(&sent.hold);
}

static void wait_until_sent(uint32_t count) {
  while (atomic_load(&sent.count) < count) usleep(100);
}

/* ---- a file on it ----------------------------------------------------------------------------- */

static char *dir, *path;
static kvstow_tier *tier;
static kvstow_file *file;
static kvstow_tuning tuning;
static uint8_t *memory; /* as large as the file: a byte goes where it lies there */

static int make_scratch(void **state) {
  (void)state;
  dir = scratch_new();
  path = join(dir, "model");
  memory = aligned_alloc(4096, FILE_BYTES);
  assert_non_null(memory);
  for (uint64_t i = 0; i < FILE_BYTES / 8; i++) {
    const uint64_t word = word_of(9, i);
    memcpy(memory + i * 8, &word, 8);
  }
  const int fd = open(path, O_CREAT | O_WRONLY, 0600);
  assert_true(fd >= 0);
  assert_int_equal(pwrite(fd, memory, FILE_BYTES, 0), FILE_BYTES);
  close(fd);
  return 0;
}

static int remove_scratch(void **state) {
  (void)state;
  scratch_remove(dir);
  free(path);
  free(memory);
  return 0;
}

static void open_depth(uint32_t depth) {
  atomic_store(&sent.hold, false);
  atomic_store(&sent.count, 0);
  the_device.carry_out = carry_out;
  the_device.keep = note;
  the_device.draw = NULL;
  the_device.kept = 0;
  kvstow_tier_options options;
  kvstow_tier_options_init(&options);
  options.queue_depth = depth;
  tier = open_told(&options, &kvstow__files, false);
  kvstow_tier_get_tuning(tier, &tuning);
  assert_int_equal(kvstow_file_open(tier, path, &file), 0);
}

static int open_it(void **state) {
  (void)state;
  open_depth(64);
  return 0;
}

static int open_with_depth_1(void **state) {
  (void)state;
  open_depth(1);
  return 0;
}

static int close_it(void **state) {
  (void)state;
  atomic_store(&sent.hold, false); /* a test that failed may have left something held */
  told_release();
  assert_int_equal(kvstow_file_close(file), 0);
  assert_int_equal(kvstow_tier_close(tier), 0);
  return 0;
}

static void tune(void) {
  kvstow_tuning now;
  assert_int_equal(kvstow_tier_set_tuning(tier, &tuning), 0);
  kvstow_tier_get_tuning(tier, &now);
  assert_int_equal(now.enable_prefetch, tuning.enable_prefetch);
  assert_int_equal(now.enable_io_scheduling, tuning.enable_io_scheduling);
  assert_int_equal(now.prefetch_threshold, tuning.prefetch_threshold);
  assert_int_equal(now.read_ahead_blocks, tuning.read_ahead_blocks);
  assert_int_equal(now.merge_distance, tuning.merge_distance);
  assert_int_equal(now.optimal_block_size, tuning.optimal_block_size);
}

/* ---- reads of it ------------------------------------------------------------------------------ */

typedef struct range {
  uint64_t offset, bytes;
} range;

typedef struct asked {
  gate gate;
  kvstow_file_read reads[READS_MAX];
  size_t count;
} asked;

static void read_done(kvstow_file_read *read) {
  gate_pass(read->arg, read->result);
}

/* One batch; returned from wait_for. */
static void ask(asked *a, kvstow_priority priority, const range *ranges, size_t count) {
  kvstow_file_read *list[READS_MAX];
  assert_true(count <= READS_MAX);
  *a = (asked){.gate = GATE_INIT(count), .count = count};
  for (size_t i = 0; i < count; i++) {
    memset(memory + ranges[i].offset, 0xee, ranges[i].bytes);
    a->reads[i] = (kvstow_file_read){.file = file,
                                     .offset = ranges[i].offset,
                                     .bytes = ranges[i].bytes,
                                     .to = memory + ranges[i].offset,
                                     .priority = priority,
                                     .done = read_done,
                                     .arg = &a->gate};
    list[i] = &a->reads[i];
  }
  assert_int_equal(kvstow_file_read_batch(tier, list, count), 0);
}

static void wait_for(asked *a) {
  assert_int_equal(gate_wait(&a->gate), 0);
  for (size_t i = 0; i < a->count; i++) {
    const kvstow_file_read *r = &a->reads[i];
    for (uint64_t at = r->offset; at < r->offset + r->bytes; at += 8) {
      const uint64_t word = word_of(9, at / 8);
      if (memcmp(memory + at, &word, 8) != 0)
        fail_msg("wrong byte near %llu", (unsigned long long)at);
    }
  }
}

static void read_all(const range *ranges, size_t count) {
  asked a;
  ask(&a, KVSTOW_DEMAND, ranges, count);
  wait_for(&a);
}

/* Two neighbours in one batch: what the device was sent for them. */
static uint32_t sent_for(range left, range right) {
  const range both[] = {left, right};
  atomic_store(&sent.count, 0);
  read_all(both, 2);
  return atomic_load(&sent.count);
}

/* ---- the scheduler ---------------------------------------------------------------------------- */

static void a_gap_is_bridged_up_to_merge_distance(void **state) {
  (void)state;
  const range left = {0, 64 * KIB}, right = {264 * KIB, 64 * KIB}; /* 200 KiB between them */
  static const struct {
    uint32_t merge_distance;
    uint32_t reads;
  } cases[] = {{128 * KIB, 2}, {200 * KIB, 1}, {196 * KIB, 2}, {0, 2}, {1 * MIB, 1}};
  tuning.enable_prefetch = false;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const uint64_t merges = stats_of(tier).merges;
    tuning.merge_distance = cases[i].merge_distance;
    tune();
    assert_int_equal(sent_for(left, right), cases[i].reads);
    assert_int_equal(stats_of(tier).merges - merges, 2 - cases[i].reads);
  }
  tuning.enable_io_scheduling = false;
  tune();
  assert_int_equal(sent_for(left, right), 2);
}

static void merged_reads_are_rounded_out_to_optimal_blocks(void **state) {
  (void)state;
  const range left = {12 * KIB, 116 * KIB}, right = {128 * KIB, 380 * KIB};
  static const struct {
    uint32_t block;
    uint64_t from, to;
  } cases[] = {
      {4 * KIB, 12 * KIB, 508 * KIB},
      {8 * KIB, 8 * KIB, 512 * KIB},
      {64 * KIB, 0, 512 * KIB},
      {1 * MIB, 0, 508 * KIB}, /* half a mebibyte more would not be nearly free */
  };
  tuning.enable_prefetch = false;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    tuning.optimal_block_size = cases[i].block;
    tune();
    assert_int_equal(sent_for(left, right), 1);
    assert_int_equal(sent.ops[0].offset, cases[i].from);
    assert_int_equal(sent.ops[0].offset + sent.ops[0].length, cases[i].to);
  }
  tuning.enable_io_scheduling = false;
  tune();
  assert_int_equal(sent_for(left, right), 2);
  assert_int_equal(sent.ops[0].length + sent.ops[1].length, 496 * KIB);
}

/* ---- reading ahead ---------------------------------------------------------------------------- */

static uint64_t issued(void) {
  return stats_of(tier).sequential.issued;
}

/* A new handle has seen no streams. What was read ahead for the old one has come when it is closed. */
static void open_anew(void) {
  assert_int_equal(kvstow_file_close(file), 0);
  assert_int_equal(kvstow_file_open(tier, path, &file), 0);
}

static void read_nth(uint64_t n, uint64_t bytes) {
  read_all(&(range){n * bytes, bytes}, 1);
}

static void a_stream_begins_at_its_threshold(void **state) {
  (void)state;
  static const uint32_t thresholds[] = {3, 1, 2, 7, 20};
  for (size_t i = 0; i < sizeof thresholds / sizeof *thresholds; i++) {
    const kvstow_tier_stats before = stats_of(tier);
    tuning.prefetch_threshold = thresholds[i];
    tune();
    for (uint64_t n = 0; n + 1 < thresholds[i]; n++) read_nth(n, 64 * KIB);
    assert_int_equal(issued(), before.sequential.issued);
    read_nth(thresholds[i] - 1, 64 * KIB);
    assert_true(issued() > before.sequential.issued);
    assert_int_equal(stats_of(tier).streams_detected, before.streams_detected + 1);
    open_anew();
  }
}

/* In the middle of a run of reads. */
static void a_flip_holds_from_the_next_read_on(void **state) {
  (void)state;
  tuning.prefetch_threshold = 64;
  tune();
  for (uint64_t n = 0; n < 5; n++) read_nth(n, 64 * KIB);
  assert_int_equal(issued(), 0);
  tuning.prefetch_threshold = 6;
  tuning.enable_prefetch = false;
  tune();
  read_nth(5, 64 * KIB);
  assert_int_equal(issued(), 0);
  tuning.enable_prefetch = true;
  tune();
  read_nth(6, 64 * KIB); /* the one before was not seen: this one is the sixth */
  assert_true(issued() > 0);
}

static void the_first_window_is_read_ahead_blocks_of_optimal_size(void **state) {
  (void)state;
  static const struct {
    uint32_t blocks, bytes;
  } cases[] = {{8, 64 * KIB}, {4, 16 * KIB}, {16, 128 * KIB}, {2, 64 * KIB}, {8, 4 * KIB}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const uint64_t bytes = cases[i].bytes, before = issued();
    tuning.read_ahead_blocks = cases[i].blocks;
    tuning.optimal_block_size = cases[i].bytes;
    tune();
    atomic_store(&sent.count, 0);
    for (uint64_t n = 0; n < tuning.prefetch_threshold; n++) read_nth(n, bytes);
    assert_int_equal(issued() - before, cases[i].blocks);
    open_anew();
    uint64_t from = UINT64_MAX, length = 0;
    for (uint32_t k = 0; k < atomic_load(&sent.count); k++) {
      if (sent.ops[k].priority != KVSTOW_PREFETCH) continue;
      if (sent.ops[k].offset < from) from = sent.ops[k].offset;
      length += sent.ops[k].length;
    }
    assert_int_equal(from, tuning.prefetch_threshold * bytes);
    assert_int_equal(length, cases[i].blocks * bytes);
  }
}

/* ---- priorities ------------------------------------------------------------------------------- */

/* Whatever was asked before is known to the I/O thread when this returns: a read that is too late
 * already is answered when it is taken in, in its turn. */
static void wait_until_taken_in(void) {
  gate g = GATE_INIT(1);
  uint8_t byte;
  kvstow_file_read late = {.file = file,
                           .offset = 7 * MIB,
                           .bytes = 1,
                           .to = &byte,
                           .deadline_us = 1,
                           .done = read_done,
                           .arg = &g};
  kvstow_file_read *list[] = {&late};
  assert_int_equal(kvstow_file_read_batch(tier, list, 1), 0);
  assert_int_equal(gate_wait(&g), KVSTOW_ETIMEDOUT);
}

static void demand_overtakes_what_is_read_ahead(void **state) {
  (void)state;
  enum { AHEAD = 8 };
  static asked ahead, demand;
  range ranges[AHEAD];
  for (uint64_t i = 0; i < AHEAD; i++) ranges[i] = (range){i * 512 * KIB, 64 * KIB};
  tuning.enable_prefetch = false; /* none but ours */
  tune();
  atomic_store(&sent.hold, true);
  ask(&ahead, KVSTOW_PREFETCH, ranges, AHEAD);
  wait_until_sent(1);
  ask(&demand, KVSTOW_DEMAND, &(range){6 * MIB, 64 * KIB}, 1);
  wait_until_taken_in();
  assert_int_equal(atomic_load(&sent.count), 1); /* depth 1: one at a time */
  told_release();
  wait_until_sent(2);
  assert_int_equal(sent.ops[0].priority, KVSTOW_PREFETCH);
  assert_int_equal(sent.ops[1].priority, KVSTOW_DEMAND);
  assert_int_equal(sent.ops[1].offset, 6 * MIB);
  atomic_store(&sent.hold, false);
  told_release();
  wait_for(&demand);
  wait_for(&ahead);
  assert_int_equal(atomic_load(&sent.count), 1 + AHEAD);
}

/* ---- read ahead, and written meanwhile -------------------------------------------------------- */

static int carry_out_both(kvstow__op *op) {
  if (op->kind == KVSTOW__SYNC) return 0;
  if (op->kind == KVSTOW__READ) return carry_out(op);
  const ssize_t n = pwritev(op->fd, op->iov, (int)op->iov_count, (off_t)op->offset);
  return n == (ssize_t)op->length ? 0 : EIO;
}

static bool keep_what_is_ahead(const kvstow__op *op) {
  return op->kind == KVSTOW__READ && op->priority == KVSTOW_PREFETCH;
}

/* The block with the file's old end is on its way when the file grows. */
static void what_was_read_ahead_of_a_growing_file_is_not_served(void **state) {
  (void)state;
  enum { BEFORE = 3 * 64 * KIB + 10000, AFTER = 20000 };
  char *growing_path = join(dir, "growing");
  kvstow_tier_options options;
  kvstow_file *growing;
  static uint8_t to[64 * KIB];
  kvstow_tier_options_init(&options);
  the_device.carry_out = carry_out_both;
  the_device.keep = keep_what_is_ahead;
  the_device.draw = NULL;
  the_device.kept = 0;
  kvstow_tier *writer = open_told(&options, &kvstow__files, false);
  assert_int_equal(kvstow_file_create(writer, growing_path, MIB, &growing), 0);
  assert_int_equal(kvstow_file_append(growing, memory, BEFORE), 0);
  assert_int_equal(kvstow_file_flush(growing), 0);
  for (uint64_t i = 0; i < 3; i++)
    assert_int_equal(kvstow_file_read_at(growing, i * 64 * KIB, to, 64 * KIB), 0);
  while (atomic_load(&the_device.kept) == 0) usleep(100);
  assert_int_equal(kvstow_file_append(growing, memory + BEFORE, AFTER), 0);
  assert_int_equal(kvstow_file_flush(growing), 0);
  told_release();
  assert_int_equal(kvstow_file_read_at(growing, BEFORE, to, AFTER), 0);
  assert_memory_equal(to, memory + BEFORE, AFTER);
  assert_int_equal(kvstow_file_close(growing), 0);
  assert_int_equal(kvstow_tier_close(writer), 0);
  free(growing_path);
}

int main(void) {
#define TUNED(test) cmocka_unit_test_setup_teardown(test, open_it, close_it)
  const struct CMUnitTest tests[] = {
      TUNED(a_gap_is_bridged_up_to_merge_distance),
      TUNED(merged_reads_are_rounded_out_to_optimal_blocks),
      TUNED(a_stream_begins_at_its_threshold),
      TUNED(a_flip_holds_from_the_next_read_on),
      TUNED(the_first_window_is_read_ahead_blocks_of_optimal_size),
      cmocka_unit_test_setup_teardown(demand_overtakes_what_is_read_ahead, open_with_depth_1,
                                      close_it),
      cmocka_unit_test(what_was_read_ahead_of_a_growing_file_is_not_served),
  };
  return cmocka_run_group_tests_name("tuning", tests, make_scratch, remove_scratch);
}
