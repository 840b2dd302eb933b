/* tests/test_peers.c - kvstow-peers with tiny sizes: every store built in gives its rows, and no store that checks what
 * it reads gives a wrong byte. Nothing here depends on how fast the machine is.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <jansson.h>
#include <stdbool.h>
#include <sys/stat.h>

#undef KVSTOW_COMMAND /* support/command.h runs the other program here */
#define KVSTOW_COMMAND KVSTOW_PEERS_COMMAND
#include "tests/support/command.h"

#define SCRATCH KVSTOW_BINARY_DIR "/test_peers.scratch"

static int make_scratch(void **state) {
  (void)state;
  return mkdir(SCRATCH, 0700) == 0 || errno == EEXIST ? 0 : -1;
}

/* Empty: the runner leaves nothing. */
static int remove_scratch(void **state) {
  (void)state;
  return rmdir(SCRATCH);
}

/* Its rows; the caller's. Skips, and says so, what is not built in or not to be had here. */
static json_t *rows_of(const char *peer, const char *options) {
  char line[256];
  json_error_t error;
  snprintf(line, sizeof line, "--quick --json --dir " SCRATCH " --peers %s %s", peer, options);
  kvstow_run(line);
  const bool absent = outcome.code == 2 && strstr(outcome.err, "built in are") != NULL;
  if (absent || (outcome.code == 1 && strstr(outcome.err, "page cache") != NULL) ||
      (outcome.code == 1 && strstr(outcome.err, "not installed") != NULL)) {
    print_message("SKIPPED, %s: %s", peer, outcome.err);
    skip();
  }
  if (outcome.code != 0) fail_msg("%s: code %d: %s", line, outcome.code, outcome.err);
  json_t *root = json_loads(outcome.out, 0, &error);
  if (root == NULL) fail_msg("%s: %s: %s", line, error.text, outcome.out);
  json_t *rows = json_incref(json_object_get(root, "rows"));
  json_decref(root);
  return rows;
}

static double number_of(const json_t *row, const char *key) {
  const json_t *value = json_object_get(row, key);
  if (!json_is_number(value)) fail_msg("no number '%s'", key);
  return json_number_value(value);
}

static void has_speeds(const char *peer) {
  static const char *const keys[] = {"store_mb_s", "written_x", "disk_x", "short_ms", "first_ms",
                                     "chain_mb_s", "short_ms",  "p50_us", "p99_us",   NULL};
  json_t *rows = rows_of(peer, "--size 4MiB --block 128KiB --rounds 1"), *row;
  size_t i;
  assert_int_equal(json_array_size(rows), 2); /* ours beside it */
  json_array_foreach(rows, i, row) {
    assert_string_equal(json_string_value(json_object_get(row, "peer")), i == 0 ? "kvstow" : peer);
    for (size_t k = 0; keys[k] != NULL; k++) assert_true(number_of(row, keys[k]) > 0);
    assert_true(number_of(row, "first_ms") <= number_of(row, "chain_ms"));
    assert_true(number_of(row, "p50_us") <= number_of(row, "p99_us"));
    if (strcmp(peer, "memcached") != 0) /* its last write buffer is in RAM alone */
      assert_true(number_of(row, "disk_x") >= 1);
    assert_non_null(json_object_get(row, "chain_x"));
  }
  json_decref(rows);
}

/* `checks`: the store looks at what it reads; else every flip inside a block must come back as a wrong byte, or the
 * flips would show nothing. */
static void flips_are_seen(const char *peer, bool checks) {
  json_t *rows = rows_of(peer, "--op flips"), *row;
  size_t i;
  json_array_foreach(rows, i, row) {
    const bool ours = strcmp(json_string_value(json_object_get(row, "peer")), "kvstow") == 0;
    const bool inside = strcmp(json_string_value(json_object_get(row, "where")), "a block") == 0;
    const double flips = number_of(row, "flips"), wrong = number_of(row, "wrong");
    assert_true(flips > 0);
    assert_true(flips == wrong + number_of(row, "crashed") + number_of(row, "hung") +
                             number_of(row, "not_opened") + number_of(row, "noticed") +
                             number_of(row, "harmless"));
    if (ours || checks) assert_true(wrong == 0);
    if (inside) assert_true((ours || checks ? number_of(row, "noticed") : wrong) == flips);
    if (ours) assert_true(number_of(row, "crashed") + number_of(row, "hung") == 0);
  }
  assert_true(json_array_size(rows) >= 3);
  json_decref(rows);
}

static void files_have_speeds(void **state) {
  (void)state;
  has_speeds("files");
}
static void direct_files_have_speeds(void **state) {
  (void)state;
  has_speeds("files-direct");
}
static void files_give_wrong_bytes(void **state) {
  (void)state;
  flips_are_seen("files", false);
}
static void rocksdb_has_speeds(void **state) {
  (void)state;
  has_speeds("rocksdb");
}
static void rocksdb_refuses_wrong_bytes(void **state) {
  (void)state;
  flips_are_seen("rocksdb", true);
}
static void lmdb_has_speeds(void **state) {
  (void)state;
  has_speeds("lmdb");
}
static void lmdb_gives_wrong_bytes(void **state) {
  (void)state;
  flips_are_seen("lmdb", false);
}
static void sqlite_has_speeds(void **state) {
  (void)state;
  has_speeds("sqlite");
}
static void sqlite_gives_wrong_bytes(void **state) {
  (void)state;
  flips_are_seen("sqlite", false);
}

static void memcached_has_speeds(void **state) {
  (void)state;
  has_speeds("memcached");
}
static void memcached_refuses_wrong_bytes(void **state) {
  (void)state;
  flips_are_seen("memcached", true);
}

static void bad_usage(void **state) {
  (void)state;
  assert_refused("--peers files,nothing", "kvstow files files-direct");
  assert_refused("--block 4096", "64KiB");
  assert_refused("--op speeds", "speed flips");
  assert_refused("file", "not an option");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(files_have_speeds),
      cmocka_unit_test(direct_files_have_speeds),
      cmocka_unit_test(files_give_wrong_bytes),
      cmocka_unit_test(rocksdb_has_speeds),
      cmocka_unit_test(rocksdb_refuses_wrong_bytes),
      cmocka_unit_test(lmdb_has_speeds),
      cmocka_unit_test(lmdb_gives_wrong_bytes),
      cmocka_unit_test(sqlite_has_speeds),
      cmocka_unit_test(sqlite_gives_wrong_bytes),
      cmocka_unit_test(memcached_has_speeds),
      cmocka_unit_test(memcached_refuses_wrong_bytes),
      cmocka_unit_test(bad_usage),
  };
  return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
