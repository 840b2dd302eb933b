/* tests/test_cli.c - the command as its user meets it: exit codes, messages, help, tables.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>
#include <kvstow/kvstow.h>

#include "cli/table.h"
#include "tests/support/command.h"

/* ---- exit codes and messages ----------------------------------------------------------------- */

static void every_command_has_help(void **state) {
  (void)state;
  assert_helps("--help", "replay");
  assert_helps("help", "verify");
  assert_helps("replay --help", "--trace");
  assert_helps("inspect --help", "--segments");
  assert_helps("verify --help", "--json");
  assert_helps("stat --help", "--json");
  assert_helps("bench --help", "NAME");
}

static void version_is_the_librarys(void **state) {
  (void)state;
  kvstow_run("--version");
  assert_int_equal(outcome.code, 0);
  assert_string_equal(outcome.out, "kvstow " KVSTOW_VERSION "\n");
}

static void unknown_words_are_named(void **state) {
  (void)state;
  assert_refused("", "Usage");
  assert_refused("restore", "'restore'");
  assert_refused("bench", "which");
  assert_refused("bench nosuch", "'nosuch'");
  assert_refused("inspect --frobnicate", "--frobnicate");
  assert_refused("verify --segments .", "--segments");
  assert_refused("replay --sim --frobnicate", "--frobnicate");
  assert_contains(outcome.err, "kvstow replay");
}

static void missing_arguments_are_named(void **state) {
  (void)state;
  assert_refused("inspect", "DIR");
  assert_refused("verify --json", "DIR");
  assert_refused("stat", "DIR");
  assert_refused("replay", "--sim");
  assert_refused("replay --sim", "--trace");
  assert_refused("replay --sim --real --trace x", "--real");
  assert_refused("replay --real --trace x", "--dir");
  assert_refused("replay --real --trace x --dir d", "--ram");
  assert_refused("replay --sim --trace", "--trace");
}

static void bad_values_name_their_option(void **state) {
  (void)state;
  assert_refused("replay --sim --trace x --ram 4Gib --ssd 1", "--ram 4Gib");
  assert_refused("replay --sim --trace x --size 4GiB,,3", "--size");
  assert_refused("replay --sim --trace x --size 1%,huge", "--size huge");
  assert_refused("replay --sim --trace x --limit -3", "--limit -3");
  assert_refused("replay --sim --trace x --limit 18446744073709551616", "--limit");
  assert_refused("replay --sim --trace x --block-tokens 0", "--block-tokens 0");
  assert_refused("replay --sim --trace x --order sideways", "--order sideways");
  assert_refused("replay --sim --trace x --tiers three", "--tiers three");
  assert_refused("replay --sim --trace x --high 1.5", "--high 1.5");
  assert_refused("replay --sim --trace x --high 0.5 --low 0.8", "--low");
  assert_refused("replay --sim --trace x --model gpt-17", "--model gpt-17");
  assert_refused("replay --real --trace x --dir d --part 3/2", "--part 3/2");
  assert_refused("replay --real --trace x --dir d --engine steam", "--engine steam");
  assert_refused("replay --sim --trace x stray", "stray");
}

static void options_of_the_other_half_are_refused(void **state) {
  (void)state;
  assert_refused("replay --sim --trace x --dir d --size 1%", "--dir goes with --real");
  assert_refused("replay --real --dir d --trace x --ram 1GiB --ssd 2GiB --tiers engine",
                 "--tiers goes with --sim");
  assert_refused("replay --real --dir d --trace x --ram 1GiB --ssd 2GiB --policy lru,fifo",
                 "--policy");
}

static void policies_and_their_parameters_are_checked(void **state) {
  (void)state;
#define SIM "replay --sim --trace gen:conversations?requests=9 --size 50% "
#define REAL "replay --real --trace gen:conversations?requests=9 --dir d --ram 8MiB --ssd 1GiB "
  kvstow_run("replay --policy help");
  assert_int_equal(outcome.code, 0);
  assert_contains(outcome.out, "default, ");
  assert_contains(outcome.out, "s3fifo");
  assert_contains(outcome.out, "belady");
  assert_refused(SIM "--policy nosuch", "s3fifo");
  assert_refused(SIM "--policy lru,s3fifo:xx=1", "s3fifo takes no parameter `xx=1`");
  assert_refused(SIM "--policy s3fifo --policy-params small=0.2,xx=1", "no parameter `xx=1`");
  assert_refused(SIM "--policy s3fifo:small=0.2 --policy-params small=0.2", "--policy-params");
  assert_refused(REAL "--policy opt", "use --sim with --size");
  assert_refused(REAL "--policy s3fifo:xx=1", "`xx=1`");
  assert_refused(REAL "--ssd-policy nosuch", "--ssd-policy nosuch");
  assert_refused("replay --sim --trace x --ram 9blk --ssd 9blk --policy belady",
                 "--sim with --size");
  assert_refused("replay --real --trace gen:conversations?requests=9 --dir d --ram 1 --ssd 1GiB",
                 "--ram: a store has at least 8 MiB");
  assert_refused(SIM "--json --csv", "not both");
  kvstow_run(SIM "--policy s3fifo:small=0.5,infinite --csv");
  assert_int_equal(outcome.code, 0);
  assert_contains(outcome.out, "s3fifo:small=0.5");
}

static void a_missing_store_is_an_error_that_names_it(void **state) {
  (void)state;
  static const char *const commands[] = {"inspect", "verify", "stat"};
  for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
    char line[200];
    snprintf(line, sizeof line, "%s %s", commands[i], KVSTOW_BINARY_DIR "/no-such-store");
    kvstow_run(line);
    assert_int_equal(outcome.code, 1);
    assert_string_equal(outcome.out, "");
    assert_contains(outcome.err, "no-such-store");
    assert_int_equal(access(KVSTOW_BINARY_DIR "/no-such-store", F_OK), -1);
  }
}

/* ---- looking at a store ---------------------------------------------------------------------- */

enum { LAYERS = 2, ROW_BYTES = 512, BLOCK_TOKENS = 32, BLOCKS = 24 };

struct scratch_store {
  char dir[200];
};

/* A store with BLOCKS blocks of one chain, closed again. */
static int make_store(void **state) {
  struct scratch_store *scratch = calloc(1, sizeof *scratch);
  snprintf(scratch->dir, sizeof scratch->dir, "%s", KVSTOW_BINARY_DIR "/test_cli_store.XXXXXX");
  if (!mkdtemp(scratch->dir)) return -1;
  const char *dir = scratch->dir;
  kvstow_options options;
  kvstow_options_init(&options);
  options.dirs = &dir;
  options.dirs_count = 1;
  options.ram_bytes = 16u << 20;
  options.ssd_bytes = 16u << 20;
  options.segment_bytes = 1u << 20;
  kvstow *store;
  char why[KVSTOW_MESSAGE_BYTES] = "";
  if (kvstow_open(&options, &store, why, sizeof why) != 0) {
    fprintf(stderr, "%s\n", why);
    return -1;
  }
  kvstow_space_options shape;
  kvstow_space_options_init(&shape);
  shape.name = "test \xc3\xa9";
  shape.fingerprint = "f";
  shape.fingerprint_bytes = 1;
  shape.layers = LAYERS;
  shape.k_bytes = shape.v_bytes = ROW_BYTES;
  shape.block_tokens = BLOCK_TOKENS;
  kvstow_space *space;
  int result = kvstow_space_open(store, &shape, &space);
  static kvstow_token tokens[BLOCKS * BLOCK_TOKENS];
  static char bytes[LAYERS * 2 * ROW_BYTES * BLOCK_TOKENS];
  memset(bytes, 0x5a, sizeof bytes);
  struct iovec iov = {bytes, sizeof bytes};
  kvstow_source sources[BLOCKS];
  for (size_t i = 0; i < BLOCKS; i++) sources[i] = (kvstow_source){&iov, 1};
  const kvstow_prefix prefix = KVSTOW_PREFIX(space, tokens, BLOCKS * BLOCK_TOKENS);
  size_t stored = 0;
  if (result == 0) result = kvstow_store(&prefix, 0, BLOCKS, sources, 0, &stored);
  const int closed = kvstow_close(store);
  *state = scratch;
  return result == 0 && closed == 0 && stored == BLOCKS ? 0 : -1;
}

static int remove_store(void **state) {
  struct scratch_store *scratch = *state;
  char rm[] = "rm", options[] = "-rf";
  char *argv[] = {rm, options, scratch->dir, NULL};
  pid_t child;
  int status = -1;
  if (posix_spawnp(&child, "rm", NULL, NULL, argv, environ) == 0) waitpid(child, &status, 0);
  free(scratch);
  return status;
}

static json_t *json_of(const char *command, const struct scratch_store *scratch, int code) {
  char line[300];
  snprintf(line, sizeof line, "%s --json %s", command, scratch->dir);
  kvstow_run(line);
  if (outcome.code != code) fail_msg("%s: %d: %s", line, outcome.code, outcome.err);
  json_t *json = json_loads(outcome.out, 0, NULL);
  assert_non_null(json);
  return json;
}

static long long number(const json_t *object, const char *name) {
  const json_t *value = json_object_get(object, name);
  if (!json_is_integer(value)) fail_msg("no number '%s'", name);
  return json_integer_value(value);
}

static void inspect_and_stat_count_what_was_stored(void **state) {
  json_t *json = json_of("inspect", *state, 0);
  const json_t *spaces = json_object_get(json, "spaces");
  assert_int_equal(json_array_size(spaces), 1);
  const json_t *space = json_array_get(spaces, 0);
  assert_string_equal(json_string_value(json_object_get(space, "name")), "test ??");
  assert_int_equal(number(space, "blocks"), BLOCKS);
  assert_int_equal(number(space, "tokens"), BLOCKS * BLOCK_TOKENS);
  assert_int_equal(number(space, "layers"), LAYERS);
  assert_int_equal(number(space, "k_bytes"), ROW_BYTES);
  assert_int_equal(number(space, "longest_chain_blocks"), BLOCKS);
  json_decref(json);

  json = json_of("stat", *state, 0);
  assert_int_equal(number(json, "records"), BLOCKS);
  assert_int_equal(number(json, "segment_bytes"), 1 << 20);
  json_decref(json);
}

static void tables_are_for_people(void **state) {
  const struct scratch_store *scratch = *state;
  char line[300];
  snprintf(line, sizeof line, "inspect %s", scratch->dir);
  kvstow_run(line);
  assert_int_equal(outcome.code, 0);
  assert_contains(outcome.out, "K+V a token");
  assert_contains(outcome.out, "2.00 KiB");
  snprintf(line, sizeof line, "inspect -s %s", scratch->dir);
  kvstow_run(line);
  assert_contains(outcome.out, "sealed");
  snprintf(line, sizeof line, "stat %s", scratch->dir);
  kvstow_run(line);
  assert_contains(outcome.out, "segments");
  snprintf(line, sizeof line, "verify %s", scratch->dir);
  kvstow_run(line);
  assert_int_equal(outcome.code, 0);
  assert_contains(outcome.out, "24 records");
  assert_string_equal(outcome.err, ""); /* no progress bar in a pipe */
}

/* Success includes the output. */
static void lost_output_is_a_failure(void **state) {
  const struct scratch_store *scratch = *state;
  static const char *const lines[] = {
      "stat",
      "stat --json",
      "inspect",
      "inspect --json",
      "verify",
      "verify --json",
      "bench --help #",
      "bench --names #",
      "--help #",
      "--version #",
      "replay --sim --trace gen:conversations?requests=9 --policy lru --size 10% --json #"};
  if (access("/dev/full", W_OK) != 0) skip();
  for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
    char line[700];
    snprintf(line, sizeof line, "'%s' %s '%s'", KVSTOW_COMMAND, lines[i], scratch->dir);
    char *rest = strchr(line, '#'); /* these want no store */
    snprintf(line + (rest ? (size_t)(rest - line) : strlen(line)), 200, " 2>&1 >/dev/full");
    FILE *messages = popen(line, "re");
    assert_non_null(messages);
    char said[300] = "";
    (void)fgets(said, sizeof said, messages);
    const int status = pclose(messages);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 1) fail_msg("%s: %d: %s", line, status, said);
    assert_contains(said, "could not be written");
  }
}

/* Flips one byte of the store where a payload holds it; false if no file has one past `skip`. */
static bool damage(const char *dir, size_t *skip) {
  char line[300];
  snprintf(line, sizeof line, "grep -laP '\\x5a{4096}' -r %s", dir);
  FILE *files = popen(line, "re");
  assert_non_null(files);
  char path[300];
  bool done = false;
  while (!done && fgets(path, sizeof path, files)) {
    path[strcspn(path, "\n")] = '\0';
    if (*skip > 0) {
      (*skip)--;
      continue;
    }
    FILE *file = fopen(path, "r+e");
    assert_non_null(file);
    static char page[4096];
    for (long at = 0; !done && fread(page, sizeof page, 1, file) == 1; at += (long)sizeof page) {
      if (page[0] != 0x5a || page[4095] != 0x5a || page[2048] != 0x5a) continue;
      fseek(file, at + 1000, SEEK_SET);
      fputc(0x5b, file);
      done = true;
    }
    fclose(file);
  }
  pclose(files);
  return done;
}

static void verify_names_every_bad_record(void **state) {
  const struct scratch_store *scratch = *state;
  json_t *json = json_of("verify", scratch, 0);
  assert_int_equal(number(json, "records"), BLOCKS);
  assert_int_equal(number(json, "bad"), 0);
  assert_true(number(json, "bytes") >= BLOCKS * LAYERS * 2 * ROW_BYTES * BLOCK_TOKENS);
  json_decref(json);

  size_t skip = 0;
  assert_true(damage(scratch->dir, &skip));
  skip = 1; /* another segment's file */
  const int damaged = damage(scratch->dir, &skip) ? 2 : 1;
  json = json_of("verify", scratch, 1);
  assert_int_equal(number(json, "records"), BLOCKS);
  assert_int_equal(number(json, "bad"), damaged);
  const json_t *bad = json_object_get(json, "bad_records");
  assert_int_equal(json_array_size(bad), damaged);
  assert_string_equal(json_string_value(json_object_get(json_array_get(bad, 0), "error")),
                      "KVSTOW_ECORRUPT");
  assert_contains(json_string_value(json_object_get(json_array_get(bad, 0), "cause")),
                  scratch->dir);
  json_decref(json);
}

static void incomplete_is(const struct scratch_store *scratch, int code, size_t at,
                          const char *expected, long long bytes) {
  json_t *json = json_of("verify", scratch, code);
  const json_t *list = json_object_get(json, "incomplete");
  const json_t *file = json_array_get(list, at);
  if (file == NULL) fail_msg("%zu files incomplete", json_array_size(list));
  assert_string_equal(json_string_value(json_object_get(file, "state")), expected);
  assert_int_equal(number(file, "bytes"), bytes);
  assert_int_equal(number(file, "segment_bytes"), 1 << 20);
  assert_int_equal(number(json, "bad"), 0);
  json_decref(json);
}

static void verify_names_files_that_are_not_whole(void **state) {
  const struct scratch_store *scratch = *state;
  char path[2][300], line[300];
  json_t *json = json_of("verify", scratch, 0);
  assert_int_equal(json_array_size(json_object_get(json, "incomplete")), 0);
  json_decref(json);
  for (int i = 0; i < 2; i++) snprintf(path[i], 300, "%s/seg-%06d.kvs", scratch->dir, i);
  int next = 2; /* two are full of blocks, others may have been made ahead */
  do snprintf(line, sizeof line, "%s/seg-%06d.kvs", scratch->dir, next++);
  while (access(line, F_OK) == 0);
  const int unfinished = open(line, O_CREAT | O_WRONLY, 0600); /* as a crash leaves it */
  assert_true(unfinished >= 0 && ftruncate(unfinished, 8192) == 0);
  close(unfinished);
  incomplete_is(scratch, 0, 0, "never finished", 8192);

  assert_int_equal(truncate(path[1], 1 << 18), 0);
  incomplete_is(scratch, 1, 0, "truncated", 1 << 18);
  assert_int_equal(unlink(path[0]), 0);
  incomplete_is(scratch, 1, 0, "missing", 0);
  incomplete_is(scratch, 1, 1, "truncated", 1 << 18);
  snprintf(line, sizeof line, "verify %s", scratch->dir);
  kvstow_run(line);
  assert_int_equal(outcome.code, 1);
  assert_contains(outcome.out, "segment 0: missing\n");
  assert_contains(outcome.out, "segment 1: 256 KiB of 1.00 MiB\n");
  assert_contains(outcome.out, "8.00 KiB of 1.00 MiB, never used\n");
  assert_contains(outcome.out, "3 segment files are not whole");
}

static void a_store_in_use_is_refused(void **state) {
  const struct scratch_store *scratch = *state;
  const char *dir = scratch->dir;
  kvstow_options options;
  kvstow_options_init(&options);
  options.dirs = &dir;
  options.dirs_count = 1;
  options.ram_bytes = 16u << 20;
  options.ssd_bytes = 16u << 20;
  kvstow *store;
  assert_int_equal(kvstow_open(&options, &store, NULL, 0), 0);
  char line[300];
  snprintf(line, sizeof line, "verify %s", dir);
  kvstow_run(line);
  assert_int_equal(outcome.code, 1);
  assert_contains(outcome.err, dir);
  assert_int_equal(kvstow_close(store), 0);
}

/* ---- tables ---------------------------------------------------------------------------------- */

static void columns_line_up(void **state) {
  (void)state;
  static const char *const titles[] = {"<name", "size", "share", NULL};
  struct table *table = table_create(titles);
  table_text(table, "caf\xc3\xa9");
  table_bytes(table, 1536);
  table_percent(table, 1, 3);
  table_text(table, "x");
  table_count(table, 1234567);
  table_percent(table, 1, 0);
  char *text = NULL;
  size_t bytes = 0;
  FILE *out = open_memstream(&text, &bytes);
  assert_non_null(out);
  assert_int_equal(table_print(table, out), 0);
  fclose(out);
  assert_string_equal(text,
                      "name       size   share\n"
                      "caf\xc3\xa9   1.50 KiB  33.3 %\n"
                      "x     1,234,567       -\n");
  free(text);
  table_destroy(table);
}

static void units_are_spelled_for_people(void **state) {
  (void)state;
  char text[TABLE_CELL_BYTES];
  assert_string_equal(format_bytes(text, 0), "0 B");
  assert_string_equal(format_bytes(text, 1023), "1023 B");
  assert_string_equal(format_bytes(text, 1024), "1.00 KiB");
  assert_string_equal(format_bytes(text, UINT64_C(64) << 20), "64.0 MiB");
  assert_string_equal(format_bytes(text, UINT64_MAX), "16.0 EiB");
  assert_string_equal(format_count(text, 0), "0");
  assert_string_equal(format_count(text, 999), "999");
  assert_string_equal(format_count(text, 1000), "1,000");
  assert_string_equal(format_count(text, UINT64_MAX), "18,446,744,073,709,551,615");
  assert_string_equal(format_age(text, 59), "59 s");
  assert_string_equal(format_age(text, 3599), "59 min 59 s");
  assert_string_equal(format_age(text, 3600), "1 h 0 min");
  assert_string_equal(format_age(text, 90000), "1 d 1 h");
}

static void a_table_without_memory_is_harmless(void **state) {
  (void)state;
  table_text(NULL, "x");
  table_count(NULL, 1);
  assert_int_equal(table_print(NULL, stdout), -1);
  table_destroy(NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_command_has_help),
      cmocka_unit_test(version_is_the_librarys),
      cmocka_unit_test(unknown_words_are_named),
      cmocka_unit_test(missing_arguments_are_named),
      cmocka_unit_test(bad_values_name_their_option),
      cmocka_unit_test(options_of_the_other_half_are_refused),
      cmocka_unit_test(policies_and_their_parameters_are_checked),
      cmocka_unit_test(a_missing_store_is_an_error_that_names_it),
      cmocka_unit_test_setup_teardown(inspect_and_stat_count_what_was_stored, make_store,
                                      remove_store),
      cmocka_unit_test_setup_teardown(lost_output_is_a_failure, make_store, remove_store),
      cmocka_unit_test_setup_teardown(tables_are_for_people, make_store, remove_store),
      cmocka_unit_test_setup_teardown(verify_names_every_bad_record, make_store, remove_store),
      cmocka_unit_test_setup_teardown(verify_names_files_that_are_not_whole, make_store,
                                      remove_store),
      cmocka_unit_test_setup_teardown(a_store_in_use_is_refused, make_store, remove_store),
      cmocka_unit_test(columns_line_up),
      cmocka_unit_test(units_are_spelled_for_people),
      cmocka_unit_test(a_table_without_memory_is_harmless),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
