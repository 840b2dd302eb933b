/* What devices and kernels do wrong: failed writes and reads, full disks, forbidden io_uring, few descriptors, limits
 * on file size.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/forbid.h"
#include "test_tier_faulty.h"

#include <sys/resource.h>
#include <sys/wait.h>

/* ---- failing devices ------------------------------------------------------------------------ */

static void a_failed_write_costs_its_segment_only(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record good = append_one(tier, 1, 3);
  faults.write_error = EIO;
  record bad = record_new(2, 3, PLANE);
  assert_int_equal(append_all(tier, &bad, 1), KVSTOW_EIO);
  assert_int_equal(bad.result, KVSTOW_EIO);
  faults.write_error = 0;
  assert_int_equal(read_record(tier, &good), 0);
  assert_int_equal(read_record(tier, &bad), KVSTOW_EMISS);
  kvstow_segment_info info;
  kvstow_tier_segment(tier, good.loc.segment, &info);
  assert_int_equal(info.state, KVSTOW_SEGMENT_BAD);
  assert_int_equal(info.records, 1);
  char message[KVSTOW_MESSAGE_BYTES];
  kvstow_tier_message(tier, message, sizeof message);
  assert_non_null(strstr(message, "Input/output error"));
  record next = append_one(tier, 3, 3);
  assert_int_not_equal(next.loc.segment, good.loc.segment);
  assert_int_equal(kvstow_tier_flush(tier), KVSTOW_EIO); /* said once: something was lost */
  assert_int_equal(kvstow_tier_flush(tier), 0);
  kvstow_tier_close(tier);
  tier = open_faulty(&kvstow__files);
  seen *s = scan_all(tier);
  assert_int_equal(s->count, 2);
  assert_non_null(seen_find(s, 1));
  assert_non_null(seen_find(s, 3));
  free(s);
  record_free(&good);
  record_free(&bad);
  record_free(&next);
  kvstow_tier_close(tier);
}

static void what_the_device_did_and_did_not_is_counted(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record good = append_one(tier, 1, 3), bad = record_new(2, 3, PLANE);
  kvstow_tier_stats s = stats_of(tier);
  assert_int_equal(s.device_writes, 1);
  assert_int_equal(s.bytes_written, 4 * PLANE);
  assert_int_equal(s.io_errors, 0);
  faults.write_error = EIO;
  assert_int_equal(append_all(tier, &bad, 1), KVSTOW_EIO);
  s = stats_of(tier);
  assert_int_equal(s.device_writes, 1);
  assert_int_equal(s.bytes_written, 4 * PLANE);
  assert_int_equal(s.io_errors, 1);
  assert_int_equal(s.records_written, 1);
  faults.bad_to = SEGMENT;
  assert_int_equal(read_record(tier, &good), KVSTOW_EIO);
  s = stats_of(tier);
  assert_int_equal(s.io_errors, 1 + 2); /* it was tried again */
  assert_int_equal(s.device_reads, 2);
  assert_int_equal(s.retries, 1);
  faults.write_error = 0;
  faults.bad_to = 0;
  kvstow_tier_close(tier);
  record_free(&good);
  record_free(&bad);
}

static void repeated_failures_take_the_tier_offline(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record good = append_one(tier, 1, 3);
  faults.write_error = ENOSPC;
  for (uint64_t i = 0; i < 3; i++) {
    record r = record_new(10 + i, 3, PLANE);
    assert_int_equal(append_all(tier, &r, 1), KVSTOW_ENOSPC);
    record_free(&r);
  }
  record r = record_new(20, 3, PLANE);
  assert_int_equal(append_all(tier, &r, 1), KVSTOW_EOFFLINE);
  kvstow_record_write w = {.header = r.header, .payload = r.payload};
  assert_int_equal(kvstow_tier_fits(tier, &w, 1), 0);
  assert_true(stats_of(tier).offline);
  assert_int_equal(stats_of(tier).segments_bad, 3);
  assert_int_equal(read_record(tier, &good), 0);
  record_free(&r);
  record_free(&good);
  assert_int_equal(kvstow_tier_close(tier), KVSTOW_ENOSPC);
}

static void a_failed_directory_costs_its_records_only(void **state) {
  (void)state;
  char *other = scratch_new();
  const char *both[] = {dir, other};
  options.dirs = both;
  options.dirs_count = 2;
  options.budget_bytes *= 2;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  enum { COUNT = 60 };
  record r[COUNT];
  for (uint64_t i = 0; i < 8; i++) { /* runs take turns */
    r[i] = record_new(i, 3, PLANE);
    assert_int_equal(append_all(tier, &r[i], 1), 0);
  }
  assert_int_equal(kvstow_tier_flush(tier), 0);
  faults.bad_file_rest = 2; /* odd files: the second directory's */
  unsigned refused = 0;
  for (uint64_t i = 8; i < COUNT; i++) {
    r[i] = record_new(i, 3, PLANE);
    (void)append_all(tier, &r[i], 1);
    refused += r[i].result != 0;
    assert_true(r[i].result == 0 || r[i].result == KVSTOW_EIO);
  }
  assert_int_equal(refused, 3); /* and no more: then it is left alone */
  const kvstow_tier_stats s = stats_of(tier);
  assert_int_equal(s.dirs_offline, 1);
  assert_false(s.offline);
  for (uint64_t i = 0; i < COUNT; i++) {
    const bool lost = r[i].loc.segment % 2 == 1;
    if (i >= 8 && r[i].result == 0) assert_false(lost);
    if (i < 8 || r[i].result == 0)
      assert_int_equal(read_record(tier, &r[i]), lost ? KVSTOW_EIO : 0);
  }
  (void)kvstow_tier_flush(tier); /* tells of the writes that failed */
  for (uint32_t id = 1; id < kvstow_tier_segment_count(tier); id += 2)
    (void)kvstow_tier_reclaim(tier, id);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  (void)kvstow_tier_close(tier);
  for (uint64_t i = 0; i < COUNT; i++) record_free(&r[i]);
  scratch_remove(other);
}

static int carry_out_but_the_first(kvstow__op *op) {
  return op->kind == KVSTOW__WRITE && op->offset == 0 ? EIO : carry_out(op);
}

/* Both were on their way: what arrived behind a hole would not be found again. */
static void what_was_written_behind_a_failed_write_failed_too(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record r[2] = {record_new(1, 3, PLANE), record_new(2, 3, PLANE)};
  kvstow_record_write w[2];
  gate g[2] = {GATE_INIT(1), GATE_INIT(1)};
  the_device.carry_out = carry_out_but_the_first;
  the_device.kept = 0;
  the_device.keep = keep_all;
  for (uint64_t i = 0; i < 2; i++) {
    w[i] = (kvstow_record_write){.header = r[i].header, .payload = r[i].payload};
    assert_int_equal(kvstow_tier_append(tier, &w[i], 1, gate_append_done, &g[i]), 0);
    wait_kept(i + 1);
    r[i].loc = w[i].loc;
  }
  the_device.keep = NULL;
  assert_int_equal(read_record(tier, &r[1]), KVSTOW_EMISS); /* not written yet */
  told_release();
  for (int i = 0; i < 2; i++) {
    assert_int_equal(gate_wait(&g[i]), KVSTOW_EIO);
    assert_int_equal(read_record(tier, &r[i]), KVSTOW_EMISS);
    record_free(&r[i]);
  }
  assert_int_equal(kvstow_tier_flush(tier), KVSTOW_EIO);
  kvstow_tier_close(tier);
}

/* It goes out in the background: the calls that come later tell. */
static void a_file_whose_write_failed_stays_failed(void **state) {
  (void)state;
  char path[4096];
  snprintf(path, sizeof path, "%s/file", dir);
  kvstow_tier *tier = open_faulty(&kvstow__files);
  kvstow_file *file;
  assert_int_equal(kvstow_file_create(tier, path, 100000, &file), 0);
  assert_int_equal(kvstow_file_append(file, "0123456789", 10), 0);
  faults.write_error = EIO;
  assert_int_equal(kvstow_file_flush(file), KVSTOW_EIO);
  faults.write_error = 0;
  assert_int_equal(kvstow_file_flush(file), KVSTOW_EIO);
  assert_int_equal(kvstow_file_append(file, "0123456789", 10), KVSTOW_EIO);
  assert_int_equal(kvstow_file_close(file), KVSTOW_EIO);
  assert_int_equal(kvstow_tier_close(tier), 0);
}

static void a_bad_sector_costs_one_record_of_a_merged_read(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  enum { COUNT = 6 };
  record r[COUNT];
  kvstow_record_read reads[COUNT];
  kvstow_record_read *pointers[COUNT];
  for (uint64_t i = 0; i < COUNT; i++) r[i] = record_new(i, 3, PLANE);
  assert_int_equal(append_all(tier, r, COUNT), 0);
  faults.bad_from = (uint64_t)r[2].loc.page * 4096 + 5000;
  faults.bad_to = faults.bad_from + 512;
  gate g = GATE_INIT(COUNT);
  for (int i = 0; i < COUNT; i++) {
    reads[i] = whole_read(&r[i], &g);
    pointers[i] = &reads[i];
  }
  assert_int_equal(kvstow_tier_read_batch(tier, pointers, COUNT), 0);
  gate_wait(&g);
  for (int i = 0; i < COUNT; i++) assert_int_equal(reads[i].result, i == 2 ? KVSTOW_EIO : 0);
  for (int i = 0; i < COUNT; i++) record_free(&r[i]);
  kvstow_tier_close(tier);
}

static _Atomic int reads_left; /* until one fails */

static int carry_out_but_one_read(kvstow__op *op) {
  return op->kind == KVSTOW__READ && atomic_fetch_sub(&reads_left, 1) == 0 ? EIO : carry_out(op);
}

/* A plane did not arrive before the power went. Whichever reading of the opening fails: that record is none, and
 * the others are there. */
static void a_failed_read_saves_no_torn_record(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record r[3];
  for (uint64_t i = 0; i < 3; i++) r[i] = append_one(tier, i, 3);
  char *crashed = crash_copy(dir, 1);
  kvstow_tier_close(tier);
  const uint8_t zeros[512] = {0};
  patch(crashed, "seg-000000.kvs", ((uint64_t)r[1].loc.page + 2) * 4096, zeros, sizeof zeros);
  int at = 0;
  do {
    char *copy = crash_copy(crashed, 1);
    dirs[0] = copy;
    the_device.carry_out = carry_out_but_one_read;
    reads_left = at++;
    tier = open_told(&options, &kvstow__files, true);
    seen *s = scan_all(tier);
    if (s->count != 2 || seen_find(s, 1))
      fail_msg("read %d failed: %zu records, the torn one %s them", at, s->count,
               seen_find(s, 1) ? "among" : "not among");
    free(s);
    kvstow_tier_close(tier);
    scratch_remove(copy);
  } while (reads_left < 0);
  assert_true(at > 10);
  scratch_remove(crashed);
  for (int i = 0; i < 3; i++) record_free(&r[i]);
}

/* ---- full disks ----------------------------------------------------------------------------- */

static int room_for; /* segments that the disk still has room for */

static int scarce_allocate(void *env, int fd, uint64_t bytes) {
  if (room_for == 0) return ENOSPC;
  room_for--;
  return kvstow__files.allocate(env, fd, bytes);
}

static void a_full_disk_means_fewer_segments(void **state) {
  (void)state;
  kvstow__file_ops scarce = kvstow__files;
  scarce.allocate = scarce_allocate;
  room_for = 3;
  kvstow_tier *tier = open_faulty(&scarce);
  uint64_t number = 0;
  int code = 0;
  while (!code) {
    record r = record_new(number, 15, PLANE);
    code = append_all(tier, &r, 1);
    number += code == 0;
    record_free(&r);
  }
  assert_int_equal(code, KVSTOW_ENOSPC);
  assert_true(number >= 42);
  assert_true(stats_of(tier).disk_full > 0);
  char message[KVSTOW_MESSAGE_BYTES];
  kvstow_tier_message(tier, message, sizeof message);
  assert_non_null(strstr(message, "seg-00000"));
  for (uint64_t i = 0; i < 100; i++) { /* and what there is goes round */
    record r = record_new(1000 + i, 15, PLANE);
    for (uint32_t id = 0; (code = append_all(tier, &r, 1)) == KVSTOW_ENOSPC && id < 8; id++)
      kvstow_tier_reclaim(tier, id);
    assert_int_equal(code, 0);
    record_free(&r);
  }
  kvstow_tier_close(tier); /* the next segment's file may just be being tried */
  char *fourth = join(dir, "seg-000003.kvs");
  assert_int_not_equal(access(fourth, F_OK), 0);
  free(fourth);
}

/* ---- forbidden and scarce things ------------------------------------------------------------ */

/* Runs a check in a child process, which may break itself. */
static void in_child(int (*check)(void)) {
  if (UNDER_TSAN) {
    skip();
    return;
  }
  fflush(NULL);
  const pid_t child = fork();
  if (child == 0) _exit(check());
  int status;
  waitpid(child, &status, 0);
  if (!WIFEXITED(status)) fail_msg("the child died of signal %d", WTERMSIG(status));
  if (WEXITSTATUS(status) != 0) fail_msg("the child's check %d failed", WEXITSTATUS(status));
}

static int check_forbidden_io_uring(void) {
  if (forbid_io_uring() != 0) return 0; /* no seccomp here: nothing to check */
  kvstow_tier *tier;
  char why[KVSTOW_MESSAGE_BYTES];
  if (kvstow_tier_open(&options, &tier, why, sizeof why) != 0) return 1;
  kvstow_tier_stats s = stats_of(tier);
  if (strcmp(s.engine, "threads") != 0) return 2;
  if (!strstr(s.engine_reason, "forbidden")) return 3;
  record r = record_new(1, 3, PLANE);
  if (append_all(tier, &r, 1) != 0 || read_record(tier, &r) != 0) return 4;
  kvstow_tier_close(tier);
  options.engine = KVSTOW_ENGINE_URING;
  if (kvstow_tier_open(&options, &tier, why, sizeof why) != KVSTOW_EUNSUPPORTED) return 5;
  return strstr(why, "forbidden") ? 0 : 6;
}

static void forbidden_io_uring_falls_back_to_threads(void **state) {
  (void)state;
  in_child(check_forbidden_io_uring);
}

static kvstow_tier *inherited;

static int check_inherited(void) {
  alarm(20); /* threads are not inherited: nobody would end a wait */
  return kvstow_tier_close(inherited) == KVSTOW_ESTATE ? 0 : 1;
}

static void a_forked_child_does_not_close(void **state) {
  (void)state;
  assert_int_equal(kvstow_tier_open(&options, &inherited, NULL, 0), 0);
  record r = append_one(inherited, 1, 3);
  in_child(check_inherited);
  assert_int_equal(read_record(inherited, &r), 0);
  kvstow_tier *other;
  assert_int_equal(kvstow_tier_open(&options, &other, NULL, 0), KVSTOW_EBUSY); /* still owned */
  assert_int_equal(kvstow_tier_close(inherited), 0);
  record_free(&r);
}

static kvstow_engine limited_engine;

static int check_few_descriptors(void) {
  const struct rlimit few = {48, 48};
  setrlimit(RLIMIT_NOFILE, &few);
  options.budget_bytes = 64ull * (SEGMENT + 4096) + 65536;
  options.engine = limited_engine;
  kvstow_tier *tier;
  if (kvstow_tier_open(&options, &tier, NULL, 0) != 0) return 1;
  static kvstow_loc locs[60];
  for (uint64_t i = 0; i < 60; i++) {
    record r = record_new(i, 120, PLANE);
    if (append_all(tier, &r, 1) != 0) return 2;
    locs[i] = r.loc;
    record_free(&r);
  }
  if (locs[59].segment < 29) return 3;
  if (kvstow_tier_flush(tier) != 0) return 4;
  for (uint64_t i = 0; i < 60; i++)
    if (read_planes(tier, i, locs[i * 7 % 60].segment == 99 ? locs[0] : locs[i], PLANE, 7, 3) != 0)
      return 5;
  if (kvstow_tier_close(tier) != 0) return 6;
  if (kvstow_tier_open(&options, &tier, NULL, 0) != 0) return 7;
  if (stats_of(tier).recovered_records != 60) return 8;
  return kvstow_tier_close(tier) == 0 ? 0 : 9;
}

static void few_descriptors_are_enough(void **state) {
  (void)state;
  limited_engine = KVSTOW_ENGINE_AUTO;
  in_child(check_few_descriptors);
}

static void few_descriptors_are_enough_for_threads(void **state) {
  (void)state;
  limited_engine = KVSTOW_ENGINE_THREADS;
  in_child(check_few_descriptors);
}

/* The limit cuts a write short first, then refuses the rest with EFBIG and SIGXFSZ. */
static int check_file_size_limit(void) {
  options.engine = limited_engine;
  kvstow_tier *tier;
  if (kvstow_tier_open(&options, &tier, NULL, 0) != 0) return 1;
  record first = record_new(1, 15, PLANE);
  if (append_all(tier, &first, 1) != 0) return 2;
  const struct rlimit limit = {SEGMENT / 2 + 8192, SEGMENT / 2 + 8192};
  setrlimit(RLIMIT_FSIZE, &limit);
  record big = record_new(2, 200, PLANE);
  const int code = append_all(tier, &big, 1);
  if (code != KVSTOW_ENOSPC) return 3;
  if (read_record(tier, &first) != 0) return 4;
  record next = record_new(3, 15, PLANE);
  const int after = append_all(tier, &next, 1); /* into a file made ahead, or there is none */
  if (after != KVSTOW_ENOSPC && (after != 0 || read_record(tier, &next) != 0)) return 5;
  for (int i = 0; i < 2; i++) /* no further one can be made */
    if (append_all(tier, &big, 1) != KVSTOW_ENOSPC) return 6;
  kvstow_tier_close(tier);
  return 0;
}

static void a_file_size_limit_does_not_kill_the_host(void **state) {
  (void)state;
  limited_engine = KVSTOW_ENGINE_THREADS;
  in_child(check_file_size_limit);
  limited_engine = KVSTOW_ENGINE_AUTO;
  in_child(check_file_size_limit);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(a_failed_write_costs_its_segment_only),
      TEST(what_the_device_did_and_did_not_is_counted),
      TEST(repeated_failures_take_the_tier_offline),
      TEST(a_failed_directory_costs_its_records_only),
      TEST(what_was_written_behind_a_failed_write_failed_too),
      TEST(a_file_whose_write_failed_stays_failed),
      TEST(a_bad_sector_costs_one_record_of_a_merged_read),
      TEST(a_failed_read_saves_no_torn_record),
      TEST(a_full_disk_means_fewer_segments),
      TEST(forbidden_io_uring_falls_back_to_threads),
      TEST(a_forked_child_does_not_close),
      TEST(few_descriptors_are_enough),
      TEST(few_descriptors_are_enough_for_threads),
      TEST(a_file_size_limit_does_not_kill_the_host),
  };
  return cmocka_run_group_tests_name("faults", tests, NULL, NULL);
}
