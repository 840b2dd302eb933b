/* Whose directories and files a store is made of: those of others are refused, in words, and left alone.
 *
 * What another user does is done by root as that user, in a child: skipped for others.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "test_tier_place.h"

#include <kvstow/kvstow.h>
#include <sys/wait.h>

#define ANOTHER ((uid_t)4711)
#define A_THIRD ((uid_t)4712)

static char why[KVSTOW_MESSAGE_BYTES];

static int fresh(void **state) {
  (void)state;
  return place_new(4);
}

static int try_open(void) {
  kvstow_tier *tier = NULL;
  why[0] = 0;
  const int code = kvstow_tier_open(&options, &tier, why, sizeof why);
  if (code == 0) kvstow_tier_close(tier);
  return code;
}

static void expect_refusal(const char *name, const char *reason) {
  assert_int_equal(try_open(), KVSTOW_EACCES);
  if (!strstr(why, name) || !strstr(why, reason))
    fail_msg("\"%s\" does not say \"%s\" and \"%s\"", why, name, reason);
}

static void make_store(void) {
  kvstow_tier *tier = tier_open(&options);
  for (uint64_t i = 0; i < 3; i++) {
    record r = append_one(tier, i, 3);
    record_free(&r);
  }
  assert_int_equal(kvstow_tier_close(tier), 0);
}

/* The files of a store that has been used. */
static const char *const NAMES[] = {"super", "lock", "seg-000000.kvs"};
enum { FILES = sizeof NAMES / sizeof NAMES[0], NOT_REACHED = 77 };

static bool root_runs_this(void) {
  if (geteuid() == 0) return true;
  print_message("SKIPPED: only root can be somebody else\n");
  return false;
}

/* Runs a check as another user; its result is the check's number that failed. */
static void as_another(int (*check)(void)) {
  fflush(NULL);
  const pid_t child = fork();
  if (child == 0) {
    if (setgid(ANOTHER) != 0 || setuid(ANOTHER) != 0) _exit(99);
    _exit(access(dir, X_OK) != 0 ? NOT_REACHED : check());
  }
  int status;
  waitpid(child, &status, 0);
  assert_true(WIFEXITED(status));
  if (WEXITSTATUS(status) == NOT_REACHED)
    print_message("SKIPPED: others can't get to %s\n", dir);
  else if (WEXITSTATUS(status) != 0)
    fail_msg("the child's check %d failed", WEXITSTATUS(status));
}

static void give_all(uid_t user) {
  assert_int_equal(chown(dir, user, user), 0);
  for (int i = 0; i < FILES; i++) {
    char *path = join(dir, NAMES[i]);
    assert_int_equal(chown(path, user, user), 0);
    free(path);
  }
}

/* ---- directories ---------------------------------------------------------------------------- */

static void a_directory_open_to_everybody_is_refused(void **state) {
  (void)state;
  assert_int_equal(chmod(dir, 0777), 0);
  expect_refusal(dir, "everybody may write there (mode 0777)");
  char *lock = join(dir, "lock");
  assert_int_not_equal(access(lock, F_OK), 0); /* nothing was made there */
  free(lock);
  char *within = join(dir, "within"); /* as the message says */
  dirs[0] = within;
  assert_int_equal(try_open(), 0);
  free(within);
  dirs[0] = dir;
}

static void a_sticky_directory_and_one_for_a_group_will_do(void **state) {
  (void)state;
  const mode_t modes[] = {01777, 0770, 02775, 0755};
  for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
    assert_int_equal(chmod(dir, modes[i]), 0);
    assert_int_equal(try_open(), 0);
  }
}

static int open_in_anothers(void) {
  if (try_open() != KVSTOW_EACCES) return 1;
  if (!strstr(why, dir) || !strstr(why, "belongs to user 4712")) return 2;
  if (!strstr(why, "not to user 4711")) return 3;
  return 0;
}

static void a_directory_of_somebody_else_is_refused(void **state) {
  (void)state;
  if (UNDER_TSAN || !root_runs_this()) return;
  assert_int_equal(chown(dir, A_THIRD, ANOTHER), 0);
  assert_int_equal(chmod(dir, 0770), 0);
  as_another(open_in_anothers);
}

static int open_here(void) {
  return try_open() == 0 ? 0 : 1;
}

/* What an administrator makes for a group, and what containers are given. */
static void a_directory_of_roots_will_do(void **state) {
  (void)state;
  if (UNDER_TSAN || !root_runs_this()) return;
  assert_int_equal(chown(dir, 0, ANOTHER), 0);
  assert_int_equal(chmod(dir, 02775), 0);
  as_another(open_here);
}

static void root_may_use_a_directory_of_anybodys(void **state) {
  (void)state;
  if (!root_runs_this()) return;
  assert_int_equal(chown(dir, ANOTHER, ANOTHER), 0);
  make_store();
  assert_int_equal(try_open(), 0);
}

/* ---- files ---------------------------------------------------------------------------------- */

static void files_of_somebody_else_are_refused_even_to_root(void **state) {
  (void)state;
  if (!root_runs_this()) return;
  make_store();
  for (int i = 0; i < FILES; i++) {
    char *path = join(dir, NAMES[i]);
    assert_int_equal(chown(path, ANOTHER, ANOTHER), 0);
    expect_refusal(NAMES[i], "belongs to user 4711, not to user 0");
    assert_int_equal(chown(path, 0, 0), 0);
    free(path);
  }
  assert_int_equal(try_open(), 0);
  give_all(ANOTHER);
  assert_int_equal(try_open(), KVSTOW_EACCES);
  options.read_only = true; /* but it may be looked at */
  assert_int_equal(try_open(), 0);
}

/* Made by root once, with a group that may go on. */
static void files_of_roots_will_do(void **state) {
  (void)state;
  if (UNDER_TSAN || !root_runs_this()) return;
  make_store();
  assert_int_equal(chown(dir, 0, ANOTHER), 0);
  assert_int_equal(chmod(dir, 0770), 0);
  static const char *const names[] = {"super", "lock", "seg-000000.kvs", "seg-000001.kvs"};
  for (int i = 0; i < 4; i++) { /* the last may have been made ahead */
    char *path = join(dir, names[i]);
    if (access(path, F_OK) == 0) {
      assert_int_equal(chown(path, 0, ANOTHER), 0);
      assert_int_equal(chmod(path, 0660), 0);
    }
    free(path);
  }
  as_another(open_here);
}

static void a_file_open_to_everybody_is_refused(void **state) {
  (void)state;
  make_store();
  for (int i = 0; i < FILES; i++) {
    char *path = join(dir, NAMES[i]);
    assert_int_equal(chmod(path, 0666), 0);
    expect_refusal(NAMES[i], "everybody may write to it (mode 0666)");
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(try_open(), 0);
    free(path);
  }
}

static uint64_t sum_of(const char *path) {
  static uint8_t bytes[2 * SEGMENT];
  const int fd = open(path, O_RDONLY);
  assert_true(fd >= 0);
  const ssize_t n = read(fd, bytes, sizeof bytes);
  assert_true(n >= 0);
  close(fd);
  return kvstow_checksum(bytes, (size_t)n);
}

/* Whoever may write in the directory could have a file of ours overwritten, by another name for it. */
static void a_file_with_another_name_is_refused_and_left_alone(void **state) {
  (void)state;
  make_store();
  char *precious = join(dir, "precious");
  for (int i = 0; i < FILES; i++) {
    char *path = join(dir, NAMES[i]);
    assert_int_equal(link(path, precious), 0);
    const uint64_t before = sum_of(precious);
    expect_refusal(NAMES[i], "has 2 names");
    assert_int_equal(sum_of(precious), before);
    assert_int_equal(unlink(precious), 0);
    assert_int_equal(try_open(), 0);
    free(path);
  }
  free(precious);
}

/* The same where there is no such file yet: `super.new`, the lock, a segment that will be made. */
static void what_lies_where_a_file_is_to_be_made_is_left_alone(void **state) {
  (void)state;
  static const char *const names[] = {"super.new", "lock", "seg-000001.kvs"};
  char *elsewhere = scratch_new(), *precious = join(elsewhere, "precious");
  const int fd = open(precious, O_RDWR | O_CREAT, 0600);
  assert_int_equal(write(fd, "precious", 8), 8);
  close(fd);
  for (int i = 0; i < 3; i++) {
    for (int soft = 0; soft < 2; soft++) {
      char *path = join(dir, names[i]);
      if (i == 2 && soft == 0) make_store();
      (void)unlink(path);
      assert_int_equal(soft ? symlink(precious, path) : link(precious, path), 0);
      expect_refusal(names[i], soft ? "is a link" : "has 2 names");
      struct stat st;
      assert_int_equal(stat(precious, &st), 0);
      assert_int_equal(st.st_size, 8);
      assert_int_equal(unlink(path), 0);
      free(path);
    }
  }
  free(precious);
  scratch_remove(elsewhere);
}

/* Planted while the store is open: the append says so, and nothing is written there. */
static void a_file_planted_later_is_not_written_to(void **state) {
  (void)state;
  options.budget_bytes = 8ull * (SEGMENT + 4096) + 65536;
  char *elsewhere = scratch_new(), *precious = join(elsewhere, "precious");
  const int fd = open(precious, O_RDWR | O_CREAT, 0600);
  assert_int_equal(write(fd, "precious", 8), 8);
  close(fd);
  kvstow_tier *tier = tier_open(&options);
  record r = append_one(tier, 0, 3);
  record_free(&r);
  for (int i = 3; i < 8; i++) { /* one may be made ahead already */
    char name[32];
    snprintf(name, sizeof name, "seg-%06d.kvs", i);
    char *path = join(dir, name);
    assert_int_equal(link(precious, path), 0);
    free(path);
  }
  int code = 0;
  for (uint64_t i = 1; i < 8 && !code; i++) {
    r = record_new(i, 200, PLANE);
    code = append_all(tier, &r, 1);
    record_free(&r);
  }
  assert_int_equal(code, KVSTOW_EACCES);
  kvstow_tier_message(tier, why, sizeof why);
  assert_non_null(strstr(why, "names"));
  kvstow_tier_close(tier);
  struct stat st;
  assert_int_equal(stat(precious, &st), 0);
  assert_int_equal(st.st_size, 8);
  free(precious);
  scratch_remove(elsewhere);
}

/* Opening one for reading would wait for a writer. */
static void a_pipe_holds_nobody_up(void **state) {
  (void)state;
  make_store();
  for (int read_only = 0; read_only < 2; read_only++) {
    options.read_only = read_only;
    for (int i = 0; i < FILES; i++) {
      char *path = join(dir, NAMES[i]), *away = join(dir, "lost+found");
      assert_int_equal(rename(path, away), 0);
      assert_int_equal(mkfifo(path, 0600), 0);
      expect_refusal(NAMES[i], "is not a regular file");
      assert_int_equal(rename(away, path), 0);
      free(path);
      free(away);
    }
  }
}

/* ---- traces --------------------------------------------------------------------------------- */

static int open_traced(const char *trace, kvstow **store) {
  kvstow_options o;
  kvstow_options_init(&o);
  o.ram_bytes = 16u << 20;
  o.populate = false;
  o.trace = trace;
  return kvstow_open(&o, store, why, sizeof why);
}

static void a_trace_goes_into_a_file_of_its_own(void **state) {
  (void)state;
  char *trace = join(dir, "trace"), *other = join(dir, "other");
  kvstow *store = NULL, *second = NULL;
  assert_int_equal(open_traced(trace, &store), 0);
  assert_int_equal(open_traced(trace, &second), KVSTOW_EBUSY);
  assert_non_null(strstr(why, "another store writes it"));
  assert_int_equal(kvstow_close(store), 0);
  assert_int_equal(open_traced(trace, &store), 0);
  assert_int_equal(kvstow_close(store), 0);
  assert_int_equal(link(trace, other), 0);
  assert_int_equal(open_traced(trace, &store), KVSTOW_EACCES);
  assert_non_null(strstr(why, "has 2 names"));
  assert_int_equal(unlink(other), 0);
  assert_int_equal(symlink(trace, other), 0);
  assert_int_equal(open_traced(other, &store), KVSTOW_EACCES);
  assert_int_equal(chmod(trace, 0666), 0);
  assert_int_equal(open_traced(trace, &store), KVSTOW_EACCES);
  free(trace);
  free(other);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, fresh, remove_it)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(a_directory_open_to_everybody_is_refused),
      TEST(a_sticky_directory_and_one_for_a_group_will_do),
      TEST(a_directory_of_somebody_else_is_refused),
      TEST(a_directory_of_roots_will_do),
      TEST(root_may_use_a_directory_of_anybodys),
      TEST(files_of_somebody_else_are_refused_even_to_root),
      TEST(files_of_roots_will_do),
      TEST(a_file_open_to_everybody_is_refused),
      TEST(a_file_with_another_name_is_refused_and_left_alone),
      TEST(what_lies_where_a_file_is_to_be_made_is_left_alone),
      TEST(a_file_planted_later_is_not_written_to),
      TEST(a_pipe_holds_nobody_up),
      TEST(a_trace_goes_into_a_file_of_its_own),
  };
  return cmocka_run_group_tests_name("owner", tests, NULL, NULL);
}
