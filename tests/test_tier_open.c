/* Opening: who owns a store, what is refused and in which words, creation and its crashes.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "test_tier_place.h"

#include <sys/wait.h>

static char why[KVSTOW_MESSAGE_BYTES];

static int fresh(void **state) {
  (void)state;
  return place_new(4);
}

static int try_open(void) {
  kvstow_tier *tier = NULL;
  const int code = kvstow_tier_open(&options, &tier, why, sizeof why);
  if (code == 0) kvstow_tier_close(tier);
  assert_true(code == 0 || tier == NULL);
  return code;
}

static void expect_refusal(int code, const char *text) {
  assert_int_equal(try_open(), code);
  if (!strstr(why, text)) fail_msg("\"%s\" does not say \"%s\"", why, text);
}

static void create_with_records(uint64_t count) {
  kvstow_tier *tier = tier_open(&options);
  for (uint64_t i = 0; i < count; i++) {
    record r = append_one(tier, i, 3);
    record_free(&r);
  }
  assert_int_equal(kvstow_tier_close(tier), 0);
}

static void expect_records(uint64_t count) {
  kvstow_tier *tier = tier_open(&options);
  assert_int_equal(stats_of(tier).recovered_records, count);
  kvstow_tier_close(tier);
}

static void set_super(size_t offset, const void *bytes, size_t count, bool reseal) {
  kvstow__super *super = aligned_alloc(4096, 4096);
  char *path = join(dir, "super");
  const int fd = open(path, O_RDWR);
  for (int copy = 0; copy < 2; copy++) {
    assert_int_equal(pread(fd, super, 4096, copy * 4096), 4096);
    memcpy((uint8_t *)super + offset, bytes, count);
    if (reseal) kvstow__super_seal(super);
    assert_int_equal(pwrite(fd, super, 4096, copy * 4096), 4096);
  }
  close(fd);
  free(path);
  free(super);
}

/* ---- ownership ------------------------------------------------------------------------------ */

static void one_store_one_owner(void **state) {
  (void)state;
  kvstow_tier *tier = tier_open(&options);
  expect_refusal(KVSTOW_EBUSY, "open already");
  options.read_only = true; /* not even to look */
  expect_refusal(KVSTOW_EBUSY, "lock");
  if (!UNDER_TSAN) {
    const pid_t child = fork();
    if (child == 0) {
      kvstow_tier *second;
      options.read_only = false;
      _exit(kvstow_tier_open(&options, &second, NULL, 0) == KVSTOW_EBUSY ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  kvstow_tier_close(tier);
  options.read_only = false;
  assert_int_equal(try_open(), 0);
}

static void a_forked_child_does_not_keep_the_store(void **state) {
  (void)state;
  if (UNDER_TSAN) skip();
  kvstow_tier *tier = tier_open(&options);
  int pipes[2];
  assert_int_equal(pipe(pipes), 0);
  const pid_t child = fork();
  if (child == 0) {
    char c;
    close(pipes[1]);
    _exit(read(pipes[0], &c, 1) == 0 ? 0 : 1);
  }
  kvstow_tier_close(tier);
  assert_int_equal(try_open(), 0);
  close(pipes[0]);
  close(pipes[1]);
  int status;
  waitpid(child, &status, 0);
}

/* ---- what is refused ------------------------------------------------------------------------ */

static void other_versions_are_refused_by_name(void **state) {
  (void)state;
  create_with_records(3);
  const uint32_t version = 7;
  set_super(offsetof(kvstow__super, version), &version, 4, true);
  expect_refusal(KVSTOW_EVERSION, "offset 12: expected format version 1, found 7");
  assert_non_null(strstr(why, "super"));
  const uint32_t back = 1;
  set_super(offsetof(kvstow__super, version), &back, 4, true);
  expect_records(3);
}

static void the_other_endianness_is_refused_by_name(void **state) {
  (void)state;
  create_with_records(3);
  const uint32_t mark = __builtin_bswap32(KVSTOW__ENDIAN_MARK);
  set_super(offsetof(kvstow__super, endian_mark), &mark, 4, true);
  expect_refusal(KVSTOW_EVERSION, "endianness");
}

static void other_geometry_is_refused(void **state) {
  (void)state;
  create_with_records(3);
  options.segment_bytes = 2 * SEGMENT;
  expect_refusal(KVSTOW_EGEOMETRY, "expected segments of 2097152 bytes, found 1048576");
  options.segment_bytes = 0;
  expect_records(3);
}

static void foreign_directories_are_left_alone(void **state) {
  (void)state;
  char *path = join(dir, "thesis.txt");
  FILE *f = fopen(path, "w");
  fputs("precious", f);
  fclose(f);
  expect_refusal(KVSTOW_ENOTSTORE, "thesis.txt");
  char *lock = join(dir, "lock");
  assert_int_not_equal(access(lock, F_OK), 0); /* nothing was made */
  assert_int_equal(access(path, F_OK), 0);
  free(lock);
  free(path);
}

static void segments_without_a_super_are_refused(void **state) {
  (void)state;
  create_with_records(3);
  char *path = join(dir, "super");
  assert_int_equal(unlink(path), 0);
  expect_refusal(KVSTOW_ENOTSTORE, "segments but no super");
  free(path);
}

static void a_file_is_no_directory(void **state) {
  (void)state;
  char *path = join(dir, "file");
  close(open(path, O_RDWR | O_CREAT, 0600));
  dirs[0] = path;
  expect_refusal(KVSTOW_ENOENT, "file");
  dirs[0] = "/nowhere/at/all";
  expect_refusal(KVSTOW_ENOENT, "/nowhere/at/all");
  free(path);
}

static void read_only_creates_nothing(void **state) {
  (void)state;
  options.read_only = true;
  expect_refusal(KVSTOW_ENOTSTORE, "no super");
  char *path = join(dir, "new");
  dirs[0] = path;
  expect_refusal(KVSTOW_ENOENT, "new");
  assert_int_not_equal(access(path, F_OK), 0);
  free(path);
}

static void a_budget_below_one_segment_names_the_least(void **state) {
  (void)state;
  options.budget_bytes = SEGMENT;
  expect_refusal(KVSTOW_EBUDGET, "needs at least");
  const char *number = strstr(why, "at least ");
  options.budget_bytes = strtoull(number + 9, NULL, 10);
  kvstow_tier *tier = tier_open(&options);
  assert_int_equal(kvstow_tier_segment_count(tier), 1);
  record r = append_one(tier, 1, 15);
  assert_int_equal(read_record(tier, &r), 0);
  record_free(&r);
  kvstow_tier_close(tier);
  options.budget_bytes--;
  expect_refusal(KVSTOW_EBUDGET, "needs at least");
}

static void impossible_options_are_refused(void **state) {
  (void)state;
  const kvstow_tier_options good = options;
  options.size = 4;
  expect_refusal(KVSTOW_EINVAL, "size");
  options = good;
  options.dirs_count = 17;
  expect_refusal(KVSTOW_EINVAL, "dirs");
  options = good;
  options.segment_bytes = 3 << 20;
  expect_refusal(KVSTOW_EINVAL, "segment_bytes");
  options = good;
  options.queue_depth = 0;
  expect_refusal(KVSTOW_EINVAL, "queue_depth");
  options = good;
  options.request_max_bytes = 4096;
  expect_refusal(KVSTOW_EINVAL, "request_max_bytes");
  assert_int_equal(kvstow_tier_open(NULL, NULL, NULL, 0), KVSTOW_EINVAL);
}

/* ---- supers --------------------------------------------------------------------------------- */

static void either_copy_of_the_super_is_enough_and_repairs_the_other(void **state) {
  (void)state;
  create_with_records(3);
  for (int round = 0; round < 2; round++) {
    flip(dir, "super", round == 0 ? 60 : 4096 + 60);
    expect_records(3);
  }
  /* repaired both times: now the other one may go */
  flip(dir, "super", 4096 + 8);
  expect_records(3);
  flip(dir, "super", 0);
  options.read_only = true;
  expect_records(3);
  options.read_only = false;
  expect_records(3);
  flip(dir, "super", 100);
  flip(dir, "super", 4096 + 100);
  expect_refusal(KVSTOW_ECORRUPT, "checksum mismatch");
}

static void an_interrupted_creation_is_begun_again(void **state) {
  (void)state;
  char *half = join(dir, "super.new");
  close(open(half, O_RDWR | O_CREAT, 0600));
  assert_int_equal(try_open(), 0);
  free(half);
  /* several directories: the first is made last */
  char *places[] = {join(dir, "a"), join(dir, "b")};
  static const char *given[2];
  given[0] = places[0];
  given[1] = places[1];
  mkdir(places[0], 0700);
  mkdir(places[1], 0700);
  options = options_for(given, 4);
  options.dirs_count = 2;
  options.budget_bytes += 65536;
  assert_int_equal(try_open(), 0);
  char *first = join(places[0], "super");
  /* as if the machine had stopped before it: and before the first segment of each was made */
  assert_int_equal(unlink(first), 0);
  for (int i = 0; i < 2; i++) {
    char *made = join(places[i], i == 0 ? "seg-000000.kvs" : "seg-000001.kvs");
    assert_true(unlink(made) == 0 || errno == ENOENT);
    free(made);
  }
  assert_int_equal(try_open(), 0);
  assert_int_equal(access(first, F_OK), 0);
  create_with_records(3);
  assert_int_equal(unlink(first), 0); /* but with records in place it is no interrupted creation */
  assert_int_equal(try_open(), KVSTOW_ENOTSTORE);
  free(first);
  free(places[0]);
  free(places[1]);
}

static void directories_come_in_number_and_order(void **state) {
  (void)state;
  char *places[] = {join(dir, "a"), join(dir, "b"), join(dir, "c")};
  static const char *given[3];
  for (int i = 0; i < 3; i++) given[i] = places[i];
  options = options_for(given, 6);
  options.budget_bytes += 65536;
  options.dirs_count = 2;
  create_with_records(10);
  options.dirs_count = 1;
  expect_refusal(KVSTOW_EGEOMETRY, "directory 0 of 1, found 0 of 2");
  options.dirs_count = 3;
  expect_refusal(KVSTOW_EGEOMETRY, "c: no super");
  options.dirs_count = 2;
  given[0] = places[1];
  given[1] = places[0];
  expect_refusal(KVSTOW_EGEOMETRY, "directory 0 of 2, found 1 of 2");
  given[0] = given[1] = places[0];
  assert_int_equal(try_open(), KVSTOW_EBUSY);
  given[1] = places[1];
  expect_records(10);
  /* a directory of another store with the same shape */
  char *others[] = {join(dir, "d"), join(dir, "e")};
  static const char *other_given[2];
  for (int i = 0; i < 2; i++) other_given[i] = others[i];
  options.dirs = other_given;
  create_with_records(1);
  given[1] = others[1];
  options.dirs = given;
  expect_refusal(KVSTOW_EGEOMETRY, "another store");
  for (int i = 0; i < 3; i++) free(places[i]);
  for (int i = 0; i < 2; i++) free(others[i]);
}

static void files_are_for_their_owner_only(void **state) {
  (void)state;
  char *place = join(dir, "new");
  dirs[0] = place;
  create_with_records(3);
  struct stat st;
  assert_int_equal(stat(place, &st), 0);
  assert_int_equal(st.st_mode & 0777, 0700);
  const char *names[] = {"super", "lock", "seg-000000.kvs"};
  for (int i = 0; i < 3; i++) {
    char *path = join(place, names[i]);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    free(path);
  }
  free(place);
}

static void links_are_not_followed(void **state) {
  (void)state;
  create_with_records(3);
  char *path = join(dir, "super"), *away = join(dir, "elsewhere");
  assert_int_equal(rename(path, away), 0);
  assert_int_equal(symlink("elsewhere", path), 0);
  expect_refusal(KVSTOW_EACCES, "super: is a link");
  free(path);
  free(away);
}

/* A program built when there were fewer statistics. */
static void statistics_fill_no_more_than_there_is_room_for(void **state) {
  (void)state;
  create_with_records(3);
  kvstow_tier *tier = tier_open(&options);
  kvstow_tier_stats stats;
  memset(&stats, 0x33, sizeof stats);
  stats.size = offsetof(kvstow_tier_stats, records_written);
  kvstow_tier_get_stats(tier, &stats);
  assert_int_equal(stats.size, offsetof(kvstow_tier_stats, records_written));
  assert_true(stats.segments > 0 && stats.budget_bytes > 0);
  assert_int_equal(stats.records_written, UINT64_C(0x3333333333333333));
  assert_int_equal(kvstow_tier_close(tier), 0);
}

static void errors_have_names_and_texts(void **state) {
  (void)state;
  assert_string_equal(kvstow_errname(KVSTOW_EBUDGET), "KVSTOW_EBUDGET");
  assert_string_equal(kvstow_errname(0), "0");
  assert_string_equal(kvstow_strerror(KVSTOW_EBUDGET), "budget too small");
  for (int code = -300; code <= 300; code++) {
    assert_non_null(kvstow_strerror(code));
    assert_non_null(kvstow_errname(code));
  }
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, fresh, remove_it)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(one_store_one_owner),
      TEST(a_forked_child_does_not_keep_the_store),
      TEST(other_versions_are_refused_by_name),
      TEST(the_other_endianness_is_refused_by_name),
      TEST(other_geometry_is_refused),
      TEST(foreign_directories_are_left_alone),
      TEST(segments_without_a_super_are_refused),
      TEST(a_file_is_no_directory),
      TEST(read_only_creates_nothing),
      TEST(a_budget_below_one_segment_names_the_least),
      TEST(impossible_options_are_refused),
      TEST(either_copy_of_the_super_is_enough_and_repairs_the_other),
      TEST(an_interrupted_creation_is_begun_again),
      TEST(directories_come_in_number_and_order),
      TEST(files_are_for_their_owner_only),
      TEST(links_are_not_followed),
      TEST(statistics_fill_no_more_than_there_is_room_for),
      TEST(errors_have_names_and_texts),
  };
  return cmocka_run_group_tests_name("open", tests, NULL, NULL);
}
