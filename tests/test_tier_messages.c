/* Every call of the tier that fails says in words which argument, record or file it was, and why; of this call,
 * not of one before.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "test_tier_device.h"

static char *dir;
static const char *dirs[1];
static kvstow_tier_options options;
static kvstow_tier *tier;

static _Atomic int write_error, sync_error; /* of the device; 0 none */

static int carry_out(kvstow__op *op) {
  if (op->kind == KVSTOW__SYNC) return sync_error;
  if (op->kind == KVSTOW__READ)
    return preadv(op->fd, op->iov, (int)op->iov_count, (off_t)op->offset) >= 0 ? 0 : EIO;
  if (write_error) return write_error;
  return pwritev(op->fd, op->iov, (int)op->iov_count, (off_t)op->offset) >= 0 ? 0 : EIO;
}

static void open_log(void) {
  the_device.carry_out = carry_out;
  tier = open_told(&options, &kvstow__files, true);
}

static int fresh(void **state) {
  (void)state;
  dir = scratch_new();
  dirs[0] = dir;
  options = options_for(dirs, 4);
  write_error = sync_error = 0;
  open_log();
  return 0;
}

static int remove_it(void **state) {
  (void)state;
  kvstow_tier_close(tier);
  scratch_remove(dir);
  return 0;
}

static void message_names(int line, const char *word) {
  char text[KVSTOW_MESSAGE_BYTES];
  kvstow_tier_message(tier, text, sizeof text);
  if (!strstr(text, word))
    fail_msg("line %d: the message does not name \"%s\": \"%s\"", line, word, text);
}

#define REFUSED(call, code, word)                                                                  \
  do {                                                                                             \
    assert_int_equal(kvstow_tier_set_tuning(tier, NULL), KVSTOW_EINVAL);                           \
    assert_int_equal(call, code);                                                                  \
    message_names(__LINE__, word);                                                                 \
  } while (0)

/* ---- arguments ------------------------------------------------------------------------------ */

static void tuning_is_named(void **state) {
  (void)state;
  kvstow_tuning tuning;
  kvstow_tuning_init(&tuning);
  tuning.prefetch_threshold = 65;
  REFUSED(kvstow_tier_set_tuning(tier, &tuning), KVSTOW_EINVAL, "prefetch_threshold");
  assert_int_equal(kvstow_tier_set_tuning(tier, NULL), KVSTOW_EINVAL);
  message_names(__LINE__, "tuning is NULL");
}

static void the_record_that_can_not_be_appended_is_named(void **state) {
  (void)state;
  record good = record_new(1, 1, PLANE), r = record_new(2, 1, PLANE);
  record large = record_new(3, 2, SEGMENT / 2);
  kvstow_record_write w[2] = {{.header = good.header, .payload = good.payload},
                              {.header = r.header, .payload = r.payload + 8}};
  REFUSED(kvstow_tier_append(tier, NULL, 1, NULL, NULL), KVSTOW_EINVAL, "append: writes");
  REFUSED(kvstow_tier_append(tier, w, 0, NULL, NULL), KVSTOW_EINVAL, "count 0");
  REFUSED(kvstow_tier_append(tier, w, 2, NULL, NULL), KVSTOW_EINVAL, "record 2 of 2: its payload");
  w[1].payload = r.payload;
  w[1].header = r.header + 64;
  REFUSED(kvstow_tier_append(tier, w, 2, NULL, NULL), KVSTOW_EINVAL, "record 2 of 2: its header");
  w[1].header = r.header;
  memset(r.header, 0, 8);
  REFUSED(kvstow_tier_append(tier, w, 2, NULL, NULL), KVSTOW_EINVAL, "kvstow_record_format");
  w[0] = (kvstow_record_write){.header = large.header, .payload = large.payload};
  REFUSED(kvstow_tier_append(tier, w, 1, NULL, NULL), KVSTOW_ETOOBIG, "record 1 of 1");
  REFUSED(kvstow_tier_append(tier, w, 1, NULL, NULL), KVSTOW_ETOOBIG, "larger than a segment");
  assert_int_equal(stats_of(tier).records_written, 0);
  record_free(&good);
  record_free(&r);
  record_free(&large);
}

static void the_read_that_can_not_be_is_named(void **state) {
  (void)state;
  record r = append_one(tier, 1, 2);
  gate g = GATE_INIT(1);
  const kvstow_record_read sound = whole_read(&r, &g);
  kvstow_record_read first = sound, bad = sound;
  kvstow_record_read *reads[] = {&first, &bad};
  REFUSED(kvstow_tier_read_batch(tier, NULL, 2), KVSTOW_EINVAL, "reads is NULL, count 2");
  bad.done = NULL;
  REFUSED(kvstow_tier_read_batch(tier, reads, 2), KVSTOW_EINVAL, "read 2 of 2: done");
  bad = sound;
  bad.header = r.header + 1;
  REFUSED(kvstow_tier_read_batch(tier, reads, 2), KVSTOW_EINVAL, "read 2 of 2: header");
  bad = sound;
  bad.payload = NULL;
  REFUSED(kvstow_tier_read_batch(tier, reads, 2), KVSTOW_EINVAL, "payload");
  bad = sound;
  bad.plane_bytes = 100;
  REFUSED(kvstow_tier_read_batch(tier, reads, 2), KVSTOW_EINVAL, "plane_bytes");
  bad = sound;
  bad.plane_first = UINT32_MAX;
  REFUSED(kvstow_tier_read_batch(tier, reads, 2), KVSTOW_EINVAL, "planes");
  bad = sound;
  bad.priority = (kvstow_priority)7;
  REFUSED(kvstow_tier_read_batch(tier, reads, 2), KVSTOW_EINVAL, "priority");
  reads[0] = NULL;
  REFUSED(kvstow_tier_read_batch(tier, reads, 2), KVSTOW_EINVAL, "read 1 of 2: NULL");
  reads[0] = &first;
  assert_int_equal(kvstow_tier_read_batch(tier, reads, 1), 0); /* none was taken before */
  assert_int_equal(gate_wait(&g), 0);
  record_free(&r);
}

static bool each_stops(void *arg, const kvstow_record *found) {
  (void)arg, (void)found;
  return false;
}

static void the_segment_is_named(void **state) {
  (void)state;
  kvstow_segment_info info;
  record r = append_one(tier, 1, 1);
  REFUSED(kvstow_tier_segment(tier, 4, &info), KVSTOW_EINVAL, "segment 4 of 4");
  REFUSED(kvstow_tier_segment(tier, 0, NULL), KVSTOW_EINVAL, "info");
  REFUSED(kvstow_tier_scan(tier, 77, each_stops, NULL), KVSTOW_EINVAL, "scan: segment 77 of 4");
  REFUSED(kvstow_tier_scan(tier, 0, NULL, NULL), KVSTOW_EINVAL, "each");
  REFUSED(kvstow_tier_reclaim(tier, 5), KVSTOW_EINVAL, "reclaim: segment 5 of 4");
  REFUSED(kvstow_tier_reclaim(tier, r.loc.segment), KVSTOW_ESTATE, "is open");
  REFUSED(kvstow_tier_reclaim(tier, r.loc.segment ^ 1), KVSTOW_ESTATE, "is free");
  REFUSED(kvstow_tier_erase(tier, NULL, 3), KVSTOW_EINVAL, "erase: locs is NULL, count 3");
  record_free(&r);
}

static void never_done(kvstow_file_read *read) {
  fail_msg("a read that was refused ended: %d", read->result);
}

static void files_are_named(void **state) {
  (void)state;
  char *path = join(dir, "blob");
  uint8_t bytes[16] = "fifteen letters";
  kvstow_file *file = NULL;
  REFUSED(kvstow_file_open(tier, NULL, &file), KVSTOW_EINVAL, "path");
  REFUSED(kvstow_file_open(tier, path, NULL), KVSTOW_EINVAL, "file is NULL");
  REFUSED(kvstow_file_open(tier, path, &file), KVSTOW_ENOENT, path);
  REFUSED(kvstow_file_create(tier, NULL, 16, &file), KVSTOW_EINVAL, "path");
  REFUSED(kvstow_file_create(tier, path, 16, NULL), KVSTOW_EINVAL, "file is NULL");
  REFUSED(kvstow_file_create(tier, path, 0, &file), KVSTOW_EINVAL, "blob: creating: bytes 0");
  assert_int_equal(kvstow_file_create(tier, path, 16, &file), 0);
  REFUSED(kvstow_file_append(file, NULL, 1), KVSTOW_EINVAL, "blob: appending: bytes");
  REFUSED(kvstow_file_append(file, bytes, 17), KVSTOW_ENOSPC, "16 reserved");
  assert_int_equal(kvstow_file_append(file, bytes, 16), 0);
  assert_int_equal(kvstow_file_close(file), 0);
  REFUSED(kvstow_file_create(tier, path, 16, &file), KVSTOW_EEXIST, path);
  assert_int_equal(kvstow_file_open(tier, path, &file), 0);
  REFUSED(kvstow_file_append(file, bytes, 1), KVSTOW_EACCES, "blob: appending");
  REFUSED(kvstow_file_read_at(file, 0, NULL, 1), KVSTOW_EINVAL, "blob: reading: to is NULL");
  REFUSED(kvstow_file_read_at(file, 10, bytes, 7), KVSTOW_EINVAL,
          "reading 7 bytes at offset 10: it can be read up to 16");
  kvstow_file_read read = {.file = file, .offset = 16, .bytes = 1, .to = bytes};
  kvstow_file_read *reads[] = {&read};
  REFUSED(kvstow_file_read_batch(tier, NULL, 1), KVSTOW_EINVAL, "reads");
  REFUSED(kvstow_file_read_batch(tier, reads, 1), KVSTOW_EINVAL, "read 1 of 1: done");
  read.done = never_done;
  REFUSED(kvstow_file_read_batch(tier, reads, 1), KVSTOW_EINVAL, "1 bytes at offset 16");
  read.file = NULL;
  REFUSED(kvstow_file_read_batch(tier, reads, 1), KVSTOW_EINVAL, "its file");
  assert_int_equal(kvstow_file_close(file), 0);
  free(path);
}

/* ---- tiers that can't do that --------------------------------------------------------------- */

static void a_reader_may_not_write(void **state) {
  (void)state;
  record r = append_one(tier, 1, 1);
  kvstow_record_write w = {.header = r.header, .payload = r.payload};
  kvstow_file *file;
  kvstow_tier_close(tier);
  options.read_only = true;
  open_log();
  REFUSED(kvstow_tier_append(tier, &w, 1, NULL, NULL), KVSTOW_EACCES,
          "append: the tier is open read-only");
  REFUSED(kvstow_tier_seal(tier), KVSTOW_EACCES, "seal: the tier is open read-only");
  REFUSED(kvstow_tier_erase(tier, &r.loc, 1), KVSTOW_EACCES, "erase: the tier is open read-only");
  REFUSED(kvstow_tier_reclaim(tier, 0), KVSTOW_EACCES, "reclaim: the tier is open read-only");
  REFUSED(kvstow_file_create(tier, "blob", 1, &file), KVSTOW_EACCES, "blob");
  record_free(&r);
}

static void a_tier_without_a_log_takes_no_records(void **state) {
  (void)state;
  record r = record_new(1, 1, PLANE);
  kvstow_record_write w = {.header = r.header, .payload = r.payload};
  kvstow_tier_close(tier);
  options.dirs_count = 0;
  open_log();
  REFUSED(kvstow_tier_append(tier, &w, 1, NULL, NULL), KVSTOW_EUNSUPPORTED, "without dirs");
  record_free(&r);
}

static void opening_nothing_is_explained(void **state) {
  (void)state;
  char why[KVSTOW_MESSAGE_BYTES];
  kvstow_tier *other = (kvstow_tier *)1;
  assert_int_equal(kvstow_tier_open(NULL, &other, why, sizeof why), KVSTOW_EINVAL);
  assert_non_null(strstr(why, "options"));
  assert_null(other);
  assert_int_equal(kvstow_tier_open(&options, NULL, why, sizeof why), KVSTOW_EINVAL);
  assert_non_null(strstr(why, "tier"));
  assert_int_equal(kvstow_tier_open(NULL, NULL, NULL, 0), KVSTOW_EINVAL);
}

/* ---- disks that fail ------------------------------------------------------------------------ */

/* What failed in the background is told by the next flush, whatever was said in between. */
static void a_flush_tells_which_write_failed(void **state) {
  (void)state;
  record r = record_new(1, 1, PLANE);
  write_error = EDQUOT;
  assert_int_equal(append_all(tier, &r, 1), KVSTOW_ENOSPC);
  write_error = 0;
  REFUSED(kvstow_tier_flush(tier), KVSTOW_ENOSPC, "seg-000000.kvs");
  message_names(__LINE__, strerror(EDQUOT));
  record_free(&r);
}

static void a_flush_tells_which_barrier_failed(void **state) {
  (void)state;
  record r = append_one(tier, 1, 1);
  sync_error = ENOSPC;
  REFUSED(kvstow_tier_flush(tier), KVSTOW_ENOSPC, "seg-000000.kvs: fdatasync");
  sync_error = 0;
  REFUSED(kvstow_tier_flush(tier), KVSTOW_EIO, "1 segments may not survive power loss");
  record_free(&r);
}

static void an_offline_disk_is_explained(void **state) {
  (void)state;
  write_error = EIO;
  record r = record_new(1, 1, PLANE);
  for (int i = 0; i < 3; i++) assert_int_equal(append_all(tier, &r, 1), KVSTOW_EIO);
  assert_true(stats_of(tier).offline);
  write_error = 0;
  REFUSED(append_all(tier, &r, 1), KVSTOW_EOFFLINE, "offline");
  message_names(__LINE__, "kvs");
  message_names(__LINE__, strerror(EIO));
  record_free(&r);
}

static void a_full_log_is_explained(void **state) {
  (void)state;
  record r = record_new(1, 15, 4 * PLANE);
  int code = 0;
  while (!code) {
    assert_int_equal(kvstow_tier_set_tuning(tier, NULL), KVSTOW_EINVAL);
    code = append_all(tier, &r, 1);
  }
  assert_int_equal(code, KVSTOW_ENOSPC);
  message_names(__LINE__, "record 1 of 1");
  record_free(&r);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, fresh, remove_it)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(tuning_is_named),
      TEST(the_record_that_can_not_be_appended_is_named),
      TEST(the_read_that_can_not_be_is_named),
      TEST(the_segment_is_named),
      TEST(files_are_named),
      TEST(a_reader_may_not_write),
      TEST(a_tier_without_a_log_takes_no_records),
      TEST(opening_nothing_is_explained),
      TEST(a_flush_tells_which_write_failed),
      TEST(a_flush_tells_which_barrier_failed),
      TEST(an_offline_disk_is_explained),
      TEST(a_full_log_is_explained),
  };
  return cmocka_run_group_tests_name("messages", tests, NULL, NULL);
}
