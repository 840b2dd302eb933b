/* Reading ahead: which reads make a stream, how far ahead of it is read, and what becomes of that; that
 * nobody notices when it fails.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "test_tier_device.h"

#include "tier/stream.h"

#define KIB 1024u
#define MIB (1024u * KIB)
#define BLOCK (64 * KIB)

static uint64_t rng;
static uint64_t draw(uint64_t below) {
  rng = mix(rng + UINT64_C(0x9e3779b97f4a7c15));
  return rng % below;
}

/* ---- the table of streams, alone ------------------------------------------------------------ */

static const kvstow__stream_limits LIMITS = {
    .threshold = 3,
    .block_bytes = BLOCK,
    .window_bytes = 8 * BLOCK,
    .share_bytes = 4 * MIB,
    .file_bytes = 1024 * MIB,
};

static kvstow__streams streams;

static int no_streams(void **state) {
  (void)state;
  memset(&streams, 0, sizeof streams);
  return 0;
}

static kvstow__sighting see(uint64_t offset, uint64_t bytes) {
  return kvstow__stream_see(&streams, offset, bytes, &LIMITS);
}

static void three_reads_in_order_make_a_stream(void **state) {
  (void)state;
  assert_false(see(MIB, BLOCK).continued);
  kvstow__sighting s = see(MIB + BLOCK, BLOCK);
  assert_true(s.continued);
  assert_false(s.detected);
  s = see(MIB + 2 * BLOCK, BLOCK);
  assert_true(s.continued && s.detected);
  uint64_t from, to;
  assert_true(kvstow__stream_wants(&streams.all[s.place], &LIMITS, &from, &to));
  assert_int_equal(from, MIB + 3 * BLOCK);
  assert_int_equal(to, MIB + 11 * BLOCK);
  assert_false(see(MIB + 3 * BLOCK, BLOCK).detected); /* once */
}

static void small_steps_to_either_side_are_tolerated(void **state) {
  (void)state;
  uint64_t at = 10 * MIB;
  see(at, BLOCK);
  assert_true(see(at + BLOCK + 64 * KIB, BLOCK).continued);
  at += 2 * BLOCK + 64 * KIB;
  assert_true(see(at - 64 * KIB, 96 * KIB).continued);
  assert_true(see(at + 32 * KIB, 4 * KIB).continued);
  assert_false(see(at + 36 * KIB + 64 * KIB + 1, BLOCK).continued);
}

static void reading_one_place_again_is_no_stream(void **state) {
  (void)state;
  for (int i = 0; i < 100; i++) assert_false(see(MIB, 4096).detected);
}

static void three_strangers_end_a_stream(void **state) {
  (void)state;
  for (uint64_t i = 0; i < 5; i++) see(i * BLOCK, BLOCK);
  assert_int_equal(streams.detected, 1);
  assert_int_equal(see(100 * MIB, BLOCK).ended, 0);
  assert_int_equal(see(200 * MIB, BLOCK).ended, 0);
  assert_true(see(5 * BLOCK, BLOCK).continued); /* it is still there */
  see(300 * MIB, BLOCK);
  see(400 * MIB, BLOCK);
  assert_int_equal(see(500 * MIB, BLOCK).ended, 1);
  assert_int_equal(streams.detected, 0);
  assert_false(see(6 * BLOCK, BLOCK).continued);
}

static void many_streams_side_by_side(void **state) {
  (void)state;
  enum { MANY = 24 };
  uint32_t detected = 0, ended = 0;
  for (uint64_t step = 0; step < 10; step++)
    for (uint64_t i = 0; i < MANY; i++) {
      const kvstow__sighting s = see(i * 10 * MIB + step * BLOCK, BLOCK);
      assert_int_equal(s.continued, step > 0);
      detected += s.detected;
      ended += s.ended;
    }
  assert_int_equal(detected, MANY);
  assert_int_equal(ended, 0);
}

static void the_window_follows_its_use(void **state) {
  (void)state;
  uint64_t at = 0, from, to;
  for (; at < 96 * MIB; at += BLOCK) see(at, BLOCK);
  kvstow__stream *s = &streams.all[0];
  assert_int_equal(s->window, 8 * BLOCK);
  assert_true(kvstow__stream_wants(s, &LIMITS, &from, &to));
  s->ahead = to;
  assert_false(kvstow__stream_wants(s, &LIMITS, &from, &to)); /* nothing twice */
  kvstow__stream_used(&streams, s, at, false, &LIMITS);
  assert_int_equal(s->window, 8 * BLOCK);
  kvstow__stream_used(&streams, s, at, true, &LIMITS);
  kvstow__stream_used(&streams, s, at, true, &LIMITS); /* of the same window: once */
  assert_int_equal(s->window, 16 * BLOCK);
  for (int i = 0; i < 10; i++) {
    kvstow__stream_used(&streams, s, s->ahead, true, &LIMITS);
    s->ahead += BLOCK;
  }
  assert_int_equal(s->window, LIMITS.share_bytes);
  kvstow__stream_wasted(s, &LIMITS);
  assert_int_equal(s->window, LIMITS.share_bytes / 2);
  for (int i = 0; i < 20; i++) kvstow__stream_wasted(s, &LIMITS);
  assert_int_equal(s->window, BLOCK);
}

static void who_keeps_the_device_busy_is_left_alone(void **state) {
  (void)state;
  uint64_t from, to;
  for (uint64_t i = 0; i < 5; i++) see(i * BLOCK, BLOCK);
  streams.all[0].in_flight = LIMITS.window_bytes;
  assert_false(kvstow__stream_wants(&streams.all[0], &LIMITS, &from, &to));
  streams.all[0].in_flight = LIMITS.window_bytes - 1;
  assert_true(kvstow__stream_wants(&streams.all[0], &LIMITS, &from, &to));
}

static void read_ahead_in_vain_makes_careful(void **state) {
  (void)state;
  for (int round = 0; round < 3; round++) {
    const uint64_t at = (uint64_t)(1 + round) * 100 * MIB;
    uint32_t reads = 0;
    while (!see(at + reads * BLOCK, BLOCK).detected) reads++;
    assert_int_equal(reads + 1, 3u << round);
    for (uint32_t i = 0; i < KVSTOW__STREAMS; i++)
      if (streams.all[i].window > 0) streams.all[i].ahead = 1; /* something was, and nobody came */
    for (uint64_t i = 0; i < 3; i++) see(at + (10 + i) * MIB, 4096);
    assert_int_equal(streams.detected, 0);
  }
}

/* ---- a device that can be told what to do --------------------------------------------------- */

static struct {
  atomic_bool hold;          /* what is read ahead does not come back */
  atomic_bool fail_prefetch; /* it comes back with an error */
  atomic_bool fail_demand;   /* and what is asked for, too */
  _Atomic uint64_t largest;  /* op that read ahead */
} device;

static int carry_out(kvstow__op *op) {
  const bool ahead = op->priority == KVSTOW_PREFETCH;
  if (atomic_load(ahead ? &device.fail_prefetch : &device.fail_demand)) return EIO;
  const ssize_t n = preadv(op->fd, op->iov, (int)op->iov_count, (off_t)op->offset);
  return n >= (ssize_t)(op->length - op->slack) ? 0 : ENODATA;
}

static bool keep(const kvstow__op *op) {
  if (op->priority != KVSTOW_PREFETCH) return false;
  if (op->length > atomic_load(&device.largest)) atomic_store(&device.largest, op->length);
  return atomic_load(&device.hold);
}

static void release(void) {
  atomic_store(&device.hold, false);
  told_release();
}

static int read_or_fail(void *env, int fd, struct iovec *iov, uint32_t iov_count, size_t enough,
                        uint64_t offset, size_t *got) {
  *got = 0;
  if (atomic_load(&device.fail_demand)) return EIO;
  return kvstow__files.readv(env, fd, iov, iov_count, enough, offset, got);
}

/* ---- a file on it --------------------------------------------------------------------------- */

#define FILE_BYTES (32u * MIB + 777)

static char *dir, *path;
static kvstow_tier *tier;
static kvstow_file *file;
static uint8_t *to;

/* Content that needs no copy to compare with. */
static void check_content(const uint8_t *bytes, uint64_t offset, size_t count) {
  for (size_t i = 0; i < count;) {
    const uint64_t word = word_of(9, (offset + i) / 8);
    const size_t in_word = (offset + i) % 8;
    const size_t piece = count - i < 8 - in_word ? count - i : 8 - in_word;
    if (memcmp(bytes + i, (const uint8_t *)&word + in_word, piece) != 0)
      fail_msg("wrong byte at %llu", (unsigned long long)(offset + i));
    i += piece;
  }
}

static void make_file(void) {
  path = join(dir, "model");
  const int fd = open(path, O_CREAT | O_WRONLY, 0600);
  assert_true(fd >= 0);
  uint64_t *words = malloc(MIB);
  for (uint64_t at = 0; at < FILE_BYTES; at += MIB) {
    for (size_t i = 0; i < MIB / 8; i++) words[i] = word_of(9, at / 8 + i);
    const size_t piece = FILE_BYTES - at < MIB ? (size_t)(FILE_BYTES - at) : MIB;
    assert_int_equal(pwrite(fd, words, piece, (off_t)at), piece);
  }
  free(words);
  close(fd);
}

static int make_scratch(void **state) {
  (void)state;
  dir = scratch_new();
  make_file();
  to = aligned_alloc(4096, 2 * MIB);
  return 0;
}

static int remove_scratch(void **state) {
  (void)state;
  scratch_remove(dir);
  free(path);
  free(to);
  return 0;
}

static int open_it(void **state) {
  (void)state;
  static kvstow__file_ops files;
  files = kvstow__files;
  files.readv = read_or_fail;
  memset(&device, 0, sizeof device);
  the_device.carry_out = carry_out;
  the_device.keep = keep;
  the_device.kept = 0;
  kvstow_tier_options options;
  kvstow_tier_options_init(&options);
  tier = open_told(&options, &files, false);
  assert_int_equal(kvstow_file_open(tier, path, &file), 0);
  return 0;
}

static int close_it(void **state) {
  (void)state;
  assert_int_equal(kvstow_file_close(file), 0);
  const kvstow_prefetch_stats s = stats_of(tier).sequential;
  assert_int_equal(s.issued, s.used + s.wasted); /* every unit is accounted for */
  assert_true(s.late <= s.used);
  assert_int_equal(kvstow_tier_close(tier), 0);
  return 0;
}

static int read_block(uint64_t offset, size_t bytes) {
  const int code = kvstow_file_read_at(file, offset, to, bytes);
  if (!code) check_content(to, offset, bytes);
  return code;
}

static void read_in_order(uint64_t from, uint64_t end, size_t bytes) {
  for (uint64_t at = from; at < end; at += bytes)
    assert_int_equal(read_block(at, end - at < bytes ? (size_t)(end - at) : bytes), 0);
}

static void gate_file_done(kvstow_file_read *read) {
  gate_pass(read->arg, read->result);
}

/* ---- what is read ahead --------------------------------------------------------------------- */

static void in_order_most_is_there_and_little_wasted(void **state) {
  (void)state;
  static const size_t sizes[] = {4096, 10000, BLOCK, 256 * KIB};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    const kvstow_tier_stats before = stats_of(tier);
    read_in_order(0, FILE_BYTES, sizes[i]);
    assert_int_equal(kvstow_file_close(file), 0);
    const kvstow_tier_stats after = stats_of(tier);
    const uint64_t issued = after.sequential.issued - before.sequential.issued;
    const uint64_t used = after.sequential.used - before.sequential.used;
    assert_true(used >= FILE_BYTES / BLOCK * 9 / 10);
    assert_true((issued - used) * 10 <= issued);
    /* nothing is read twice but the blocks that demand had begun */
    const uint64_t bytes = after.device_read_bytes - before.device_read_bytes;
    assert_true(bytes <= FILE_BYTES + 4096 + 4 * BLOCK);
    assert_int_equal(after.streams_detected - before.streams_detected, 1);
    assert_int_equal(kvstow_file_open(tier, path, &file), 0);
  }
}

static void requests_grow_to_a_mebibyte(void **state) {
  (void)state;
  atomic_store(&device.hold, true);
  for (uint64_t i = 0; i < 3; i++) assert_int_equal(read_block(i * BLOCK, BLOCK), 0);
  while (atomic_load(&the_device.kept) == 0) usleep(100);
  release();
  assert_int_equal(atomic_load(&device.largest), 8 * BLOCK); /* the first window */
  for (uint64_t at = 3 * BLOCK; at < FILE_BYTES - BLOCK; at += BLOCK) {
    /* a device slower than the reader: nothing comes before he waits for it */
    atomic_store(&device.hold, true);
    const uint64_t late = stats_of(tier).sequential.late;
    gate g = GATE_INIT(1);
    kvstow_file_read read = {
        .file = file, .offset = at, .bytes = BLOCK, .to = to, .done = gate_file_done, .arg = &g};
    kvstow_file_read *list[] = {&read};
    assert_int_equal(kvstow_file_read_batch(tier, list, 1), 0);
    if (stats_of(tier).sequential.late > late) release();
    assert_int_equal(gate_wait(&g), 0);
    check_content(to, at, BLOCK);
  }
  release();
  assert_int_equal(atomic_load(&device.largest), MIB);
  assert_true(stats_of(tier).sequential.late > 0);
}

static void who_comes_too_early_waits_and_is_counted_late(void **state) {
  (void)state;
  atomic_store(&device.hold, true);
  for (uint64_t i = 0; i < 3; i++) assert_int_equal(read_block(i * BLOCK, BLOCK), 0);
  while (atomic_load(&the_device.kept) == 0) usleep(100);
  gate g = GATE_INIT(2);
  kvstow_file_read reads[2];
  for (uint32_t i = 0; i < 2; i++)
    reads[i] = (kvstow_file_read){.file = file,
                                  .offset = (3 + i) * BLOCK,
                                  .bytes = BLOCK,
                                  .to = to + i * BLOCK,
                                  .done = gate_file_done,
                                  .arg = &g};
  kvstow_file_read *list[] = {&reads[0], &reads[1]};
  const uint64_t before = stats_of(tier).device_reads;
  assert_int_equal(kvstow_file_read_batch(tier, list, 2), 0);
  assert_int_equal(stats_of(tier).sequential.late, 2);
  release();
  assert_int_equal(gate_wait(&g), 0);
  check_content(to, 3 * BLOCK, 2 * BLOCK);
  assert_true(stats_of(tier).device_reads <= before + 1); /* at most more read-ahead */
}

static void sixteen_interleaved_streams_are_all_recognised(void **state) {
  (void)state;
  enum { MANY = 16 };
  const uint64_t apart = 2 * MIB;
  for (uint64_t at = 0; at < MIB; at += 32 * KIB)
    for (uint64_t i = 0; i < MANY; i++) assert_int_equal(read_block(i * apart + at, 32 * KIB), 0);
  const kvstow_tier_stats s = stats_of(tier);
  assert_int_equal(s.streams_detected, MANY);
  assert_int_equal(s.stream_resets, 0);
  assert_int_equal(s.random_reads, MANY);
  assert_int_equal(s.sequential_reads, MANY * 31);
  assert_true(s.sequential.used >= MANY * 13);
}

static void random_reads_read_nothing_ahead(void **state) {
  (void)state;
  rng = 5;
  read_in_order(0, 10 * BLOCK, BLOCK);
  for (int i = 0; i < 3; i++) assert_int_equal(read_block((20 + draw(10)) * MIB, 4096), 0);
  assert_int_equal(stats_of(tier).stream_resets, 1);
  const kvstow_tier_stats before = stats_of(tier);
  for (int i = 0; i < 500; i++) {
    /* far from each other */
    const uint64_t at = (uint64_t)(i * 7 % 97) * 320 * KIB + draw(8) * 4096;
    assert_int_equal(read_block(at, 4096), 0);
  }
  const kvstow_tier_stats after = stats_of(tier);
  assert_int_equal(after.sequential.issued, before.sequential.issued);
  assert_true(after.device_reads - before.device_reads <= 500);
}

static void a_deep_queue_is_left_alone(void **state) {
  (void)state;
  enum { DEPTH = 16 };
  kvstow_file_read reads[DEPTH], *list[DEPTH];
  for (uint64_t round = 0; round < 10; round++) {
    gate g = GATE_INIT(DEPTH);
    for (uint64_t i = 0; i < DEPTH; i++) {
      reads[i] = (kvstow_file_read){.file = file,
                                    .offset = (round * DEPTH + i) * BLOCK,
                                    .bytes = BLOCK,
                                    .to = to + i * BLOCK,
                                    .done = gate_file_done,
                                    .arg = &g};
      list[i] = &reads[i];
    }
    assert_int_equal(kvstow_file_read_batch(tier, list, DEPTH), 0);
    assert_int_equal(gate_wait(&g), 0);
    check_content(to, round * DEPTH * BLOCK, DEPTH * BLOCK);
  }
  assert_int_equal(stats_of(tier).sequential.issued, 0);
}

static void switched_off_nothing_is_read_ahead(void **state) {
  (void)state;
  kvstow_tuning tuning;
  kvstow_tier_get_tuning(tier, &tuning);
  tuning.enable_prefetch = false;
  assert_int_equal(kvstow_tier_set_tuning(tier, &tuning), 0);
  read_in_order(0, MIB, BLOCK);
  assert_int_equal(stats_of(tier).sequential.issued, 0);
  assert_int_equal(stats_of(tier).device_reads, 16);
  tuning.enable_prefetch = true;
  assert_int_equal(kvstow_tier_set_tuning(tier, &tuning), 0);
  read_in_order(MIB, 2 * MIB, BLOCK);
  assert_true(stats_of(tier).sequential.used > 0);
}

/* ---- when it fails -------------------------------------------------------------------------- */

static void errors_of_read_ahead_stay_unseen(void **state) {
  (void)state;
  atomic_store(&device.fail_prefetch, true);
  read_in_order(0, 4 * MIB, BLOCK);
  assert_true(stats_of(tier).sequential.issued > 0);
  for (uint64_t at = 4 * MIB; at < 8 * MIB; at += 100000) { /* those who wait are told, and ask */
    atomic_store(&device.hold, true);
    gate g = GATE_INIT(1);
    kvstow_file_read read = {
        .file = file, .offset = at, .bytes = 100000, .to = to, .done = gate_file_done, .arg = &g};
    kvstow_file_read *list[] = {&read};
    assert_int_equal(kvstow_file_read_batch(tier, list, 1), 0);
    release();
    assert_int_equal(gate_wait(&g), 0);
    check_content(to, at, 100000);
  }
}

static void errors_of_demand_are_reported(void **state) {
  (void)state;
  atomic_store(&device.fail_demand, true);
  assert_int_equal(read_block(0, BLOCK), KVSTOW_EIO);
  gate g = GATE_INIT(1);
  kvstow_file_read read = {
      .file = file, .offset = 5, .bytes = 100, .to = to, .done = gate_file_done, .arg = &g};
  kvstow_file_read *list[] = {&read};
  assert_int_equal(kvstow_file_read_batch(tier, list, 1), 0);
  assert_int_equal(gate_wait(&g), KVSTOW_EIO);
  char message[KVSTOW_MESSAGE_BYTES];
  kvstow_tier_message(tier, message, sizeof message);
  assert_non_null(strstr(message, path));
  atomic_store(&device.fail_demand, false);
  read_in_order(0, MIB, BLOCK);
}

static void *release_soon(void *arg) {
  (void)arg;
  usleep(20000);
  release();
  return NULL;
}

static void a_file_can_be_closed_while_it_is_read_ahead(void **state) {
  (void)state;
  atomic_store(&device.hold, true);
  for (uint64_t i = 0; i < 3; i++) assert_int_equal(read_block(i * BLOCK, BLOCK), 0);
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, release_soon, NULL), 0);
  assert_int_equal(kvstow_file_close(file), 0);
  pthread_join(thread, NULL);
  assert_int_equal(stats_of(tier).sequential.wasted, 8);
  assert_int_equal(kvstow_file_open(tier, path, &file), 0);
}

#define TABLE(test) cmocka_unit_test_setup(test, no_streams)
#define TOLD(test) cmocka_unit_test_setup_teardown(test, open_it, close_it)

int main(void) {
  const struct CMUnitTest table[] = {
      TABLE(three_reads_in_order_make_a_stream),
      TABLE(small_steps_to_either_side_are_tolerated),
      TABLE(reading_one_place_again_is_no_stream),
      TABLE(three_strangers_end_a_stream),
      TABLE(many_streams_side_by_side),
      TABLE(the_window_follows_its_use),
      TABLE(who_keeps_the_device_busy_is_left_alone),
      TABLE(read_ahead_in_vain_makes_careful),
  };
  const struct CMUnitTest told[] = {
      TOLD(in_order_most_is_there_and_little_wasted),
      TOLD(requests_grow_to_a_mebibyte),
      TOLD(who_comes_too_early_waits_and_is_counted_late),
      TOLD(sixteen_interleaved_streams_are_all_recognised),
      TOLD(random_reads_read_nothing_ahead),
      TOLD(a_deep_queue_is_left_alone),
      TOLD(switched_off_nothing_is_read_ahead),
      TOLD(errors_of_read_ahead_stay_unseen),
      TOLD(errors_of_demand_are_reported),
      TOLD(a_file_can_be_closed_while_it_is_read_ahead),
  };
  return cmocka_run_group_tests_name("streams", table, NULL, NULL) +
         cmocka_run_group_tests_name("read-ahead", told, make_scratch, remove_scratch);
}
