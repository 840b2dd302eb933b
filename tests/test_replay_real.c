/* test_replay_real.c - `kvstow replay --real` as a user runs it: a process for each run, a small
 * trace of growing conversations, budgets that make everything move.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/content.h"
#include "cli/models.h"

enum {
  SESSIONS = 20,
  TURNS = 10,
  SYSTEM_BLOCKS = 2,
  TURN_BLOCKS = 3,
  BLOCK_TOKENS = 64,
  REQUESTS = SESSIONS * TURNS,
};

#define SHAPE "--model tiny --policy lru --ram 8MiB --ssd 256MiB"

struct place {
  char dir[64], trace[96], store[96];
};

/* All conversations share a system prompt and take turns; each turn adds to the one before. */
static void write_trace(const char *path) {
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  for (int request = 0; request < REQUESTS; request++) {
    const int session = request % SESSIONS, turn = request / SESSIONS;
    const int blocks = SYSTEM_BLOCKS + (turn + 1) * TURN_BLOCKS;
    fprintf(file,
            "{\"timestamp\": %d, \"input_length\": %d, \"output_length\": 10, \"hash_ids\": [0",
            request * 100, blocks * BLOCK_TOKENS);
    for (int i = 1; i < blocks; i++) {
      fprintf(file, ", %d", i < SYSTEM_BLOCKS ? i : 1000 * (session + 1) + i);
    }
    fprintf(file, "], \"session\": %d}\n", session);
  }
  assert_int_equal(fclose(file), 0);
}

static int make_place(void **state) {
  struct place *place = calloc(1, sizeof *place);
  assert_non_null(place);
  strcpy(place->dir, "replay-real-XXXXXX");
  assert_non_null(mkdtemp(place->dir));
  snprintf(place->trace, sizeof place->trace, "%s/trace.jsonl", place->dir);
  snprintf(place->store, sizeof place->store, "%s/store", place->dir);
  assert_int_equal(mkdir(place->store, 0755), 0);
  write_trace(place->trace);
  *state = place;
  return 0;
}

static void each_file(const char *path, void (*act)(const char *file)) {
  DIR *dir = opendir(path);
  if (dir == NULL) return;
  for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
    char file[512];
    struct stat st;
    snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
    if (lstat(file, &st) == 0 && S_ISREG(st.st_mode)) act(file);
  }
  closedir(dir);
}

static void delete_file(const char *file) {
  assert_int_equal(unlink(file), 0);
}

static int drop_place(void **state) {
  struct place *place = *state;
  each_file(place->store, delete_file);
  each_file(place->dir, delete_file);
  rmdir(place->store);
  rmdir(place->dir);
  free(place);
  return 0;
}

/* Runs the command; its exit code. *out (may be NULL) gets what stdout held, as JSON. */
static int run(const char *arguments, json_t **out) {
  char command[1024];
  snprintf(command, sizeof command, "'%s' replay %s%s", KVSTOW_COMMAND, arguments,
           out == NULL ? " >/dev/null 2>&1" : "");
  FILE *pipe = popen(command, "r");
  assert_non_null(pipe);
  if (out != NULL) {
    json_error_t error;
    *out = json_loadf(pipe, 0, &error);
    if (*out == NULL) print_error("%s: %s\n", arguments, error.text);
    assert_non_null(*out);
  }
  const int status = pclose(pipe);
  assert_true(WIFEXITED(status));
  return WEXITSTATUS(status);
}

static json_t *run_in(const struct place *place, const char *options) {
  char arguments[512];
  json_t *out;
  snprintf(arguments, sizeof arguments, "--real --dir %s --trace %s %s --json", place->store,
           place->trace, options);
  assert_int_equal(run(arguments, &out), 0);
  return out;
}

static int64_t count_of(const json_t *object, const char *key) {
  const json_t *value = json_object_get(object, key);
  if (!json_is_integer(value)) fail_msg("no count '%s'", key);
  return json_integer_value(value);
}

static double real_of(const json_t *object, const char *key) {
  const json_t *value = json_object_get(object, key);
  if (!json_is_number(value)) fail_msg("no number '%s'", key);
  return json_number_value(value);
}

static void restores_what_it_stored_byte_for_byte(void **state) {
  json_t *out = run_in(*state, SHAPE);
  const int64_t blocks = count_of(out, "blocks");
  int64_t expected = 0;
  for (int turn = 1; turn <= TURNS; turn++) {
    expected += SESSIONS * (SYSTEM_BLOCKS + turn * TURN_BLOCKS);
  }
  assert_int_equal(count_of(out, "requests"), REQUESTS);
  assert_int_equal(blocks, expected);
  assert_int_equal(count_of(out, "mismatched_bytes"), 0);
  assert_int_equal(count_of(out, "ram_hit_blocks") + count_of(out, "ssd_hit_blocks") +
                       count_of(out, "recompute_blocks"),
                   blocks);
  assert_true(count_of(out, "ssd_hit_blocks") > 0); /* 8 MiB hold a tenth */
  /* Everything fits on SSD: each block is computed once. */
  assert_int_equal(count_of(out, "recompute_blocks"), count_of(out, "unique_blocks"));
  assert_int_equal(count_of(out, "recovered_blocks"), 0);
  assert_true(count_of(out, "ssd_peak_bytes") <= count_of(out, "ssd_budget_bytes"));
  json_decref(out);
}

static void says_all_that_bars_md_asks_for(void **state) {
  static const char *const counts[] = {
      "requests", "blocks",           "ram_hit_blocks",   "ssd_hit_blocks", "recompute_blocks",
      "merges",   "peak_rss_bytes",   "ram_budget_bytes", "ssd_bytes",      "ssd_budget_bytes",
      "tokens",   "mismatched_bytes", "recovered_blocks", "ssd_read_bytes", "ssd_write_bytes"};
  static const char *const reals[] = {"token_hit",
                                      "store_tok_s",
                                      "store_mb_s",
                                      "restore_tok_s",
                                      "restore_mb_s",
                                      "merge_ratio",
                                      "block_hit",
                                      "write_amplification",
                                      "recovery_ms",
                                      "prefix_hit",
                                      "metadata_bytes_per_block"};
  static const char *const latencies[] = {"match", "restore", "store"};
  json_t *out = run_in(*state, SHAPE " --limit 60");
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) count_of(out, counts[i]);
  for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) real_of(out, reals[i]);
  const json_t *prefetch = json_object_get(out, "prefetch");
  count_of(prefetch, "issued");
  count_of(prefetch, "used");
  count_of(prefetch, "wasted");
  count_of(prefetch, "late");
  for (size_t i = 0; i < sizeof latencies / sizeof *latencies; i++) {
    const json_t *latency = json_object_get(json_object_get(out, "latency"), latencies[i]);
    assert_true(real_of(latency, "p50_us") <= real_of(latency, "p99_us"));
    assert_true(real_of(latency, "p99_us") <= real_of(latency, "p999_us"));
  }
  assert_true(json_is_string(json_object_get(out, "engine")));
  assert_true(json_is_string(json_object_get(out, "engine_reason")));
  assert_true(json_is_boolean(json_object_get(out, "direct_io")));
  assert_int_equal(count_of(out, "requests"), 60);
  json_decref(out);
}

static void second_run_starts_from_what_survived(void **state) {
  json_t *first = run_in(*state, SHAPE " --limit 100");
  json_t *second = run_in(*state, SHAPE);
  assert_true(count_of(second, "recovered_blocks") > 0);
  assert_int_equal(count_of(second, "recovered_blocks"), count_of(first, "unique_blocks"));
  assert_int_equal(count_of(second, "mismatched_bytes"), 0);
  const json_t *after = json_object_get(second, "after_restart");
  assert_true(count_of(after, "ssd_hit_blocks") > 0);
  assert_int_equal(count_of(after, "recompute_blocks"), 0); /* its 100 requests were all there */
  assert_true(count_of(second, "survivor_hit_blocks") >= count_of(after, "blocks"));
  json_decref(first);
  json_decref(second);
}

static void both_engines_and_write_through_serve_the_same(void **state) {
  json_t *back = run_in(*state, SHAPE " --engine threads --limit 100");
  json_t *through = run_in(*state, SHAPE " --write-through");
  assert_string_equal(json_string_value(json_object_get(back, "engine")), "threads");
  assert_int_equal(count_of(back, "mismatched_bytes"), 0);
  assert_int_equal(count_of(through, "mismatched_bytes"), 0);
  assert_int_equal(count_of(through, "recompute_blocks") + count_of(back, "unique_blocks"),
                   count_of(through, "unique_blocks"));
  json_decref(back);
  json_decref(through);
}

static void budgets_may_be_blocks_or_percent(void **state) {
  json_t *out = run_in(*state,
                       "--block-tokens 32 --bytes-per-token 4096 --policy fifo --ram 64blk "
                       "--ssd 30%");
  assert_int_equal(count_of(out, "block_tokens"), 32);
  assert_int_equal(count_of(out, "block_bytes"), 32 * 4096);
  assert_true(count_of(out, "ram_capacity_blocks") >= 64);
  assert_true(count_of(out, "ssd_peak_bytes") <= count_of(out, "ssd_budget_bytes"));
  assert_int_equal(count_of(out, "mismatched_bytes"), 0);
  assert_true(count_of(out, "recompute_blocks") > count_of(out, "unique_blocks"));
  json_decref(out);
}

/* One bit of every 128 KiB, past the first pages of each segment. */
static void flip_bits(const char *file) {
  struct stat st;
  const int fd = open(file, O_RDWR | O_CLOEXEC);
  assert_true(fd >= 0);
  assert_int_equal(fstat(fd, &st), 0);
  for (off_t at = 100 * 1024; at + 1 <= st.st_size - 256 * 1024; at += 128 * 1024) {
    char byte;
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 4;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
  }
  close(fd);
}

/* What a failed test left mounted. */
static char mounted[96];

static int drop_mounted_place(void **state) {
  if (mounted[0] != '\0') umount2(mounted, MNT_DETACH);
  mounted[0] = '\0';
  return drop_place(state);
}

static void a_full_disk_is_told(void **state) {
  const struct place *place = *state;
  char arguments[512], line[512];
  if (geteuid() != 0 || mount("none", place->store, "tmpfs", 0, "size=10m") != 0) skip();
  snprintf(mounted, sizeof mounted, "%s", place->store);
  json_t *out = run_in(place, SHAPE);
  assert_true(count_of(out, "disk_full") > 0);
  assert_int_equal(count_of(out, "io_errors"), 0);
  assert_int_equal(count_of(out, "mismatched_bytes"), 0);
  json_decref(out);
  snprintf(arguments, sizeof arguments, "'%s' replay --real --dir %s --trace %s " SHAPE,
           KVSTOW_COMMAND, place->store, place->trace);
  FILE *report = popen(arguments, "r");
  assert_non_null(report);
  bool told = false;
  while (fgets(line, sizeof line, report) != NULL)
    told = told || strncmp(line, "disk full ", 10) == 0;
  assert_int_equal(pclose(report), 0);
  assert_true(told);
}

static void flipped_bits_on_ssd_are_recomputed(void **state) {
  const struct place *place = *state;
  json_decref(run_in(place, SHAPE));
  each_file(place->store, flip_bits);
  json_t *out = run_in(place, SHAPE);
  assert_true(count_of(out, "corrupt_blocks") > 0);
  assert_true(count_of(out, "recompute_blocks") > 0);
  assert_int_equal(count_of(out, "mismatched_bytes"), 0);
  json_decref(out);
}

static void bad_usage_is_exit_2(void **state) {
  const struct place *place = *state;
  static const char *const wrong[] = {
      "--policy lru --ram 8MiB --ssd 64MiB --model gpt-unknown",
      "--policy lru --ram 8MiB --ssd 64MiB --engine steam",
      "--policy no-such-policy --ram 8MiB --ssd 64MiB --model tiny",
      "--policy lru --ram 8MegaBytes --ssd 64MiB",
      "--policy lru --ram 8MiB --ssd 64MiB --block-tokens none",
      "--policy lru --ram 8MiB --ssd 64MiB --no-such-option",
      "--policy lru --ssd 64MiB",
  };
  char arguments[512];
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    snprintf(arguments, sizeof arguments, "--real --dir %s --trace %s %s", place->store,
             place->trace, wrong[i]);
    if (run(arguments, NULL) != 2) fail_msg("not refused: %s", wrong[i]);
  }
  snprintf(arguments, sizeof arguments, "--real --dir %s " SHAPE, place->store);
  assert_int_equal(run(arguments, NULL), 2);
}

/* ---- the content itself --------------------------------------------------------------------- */

enum { PLANE = 8192, LAYERS = 3, KV_BYTES = 100, TOKENS = 40 };

static const struct content_shape shape = {.layers = LAYERS,
                                           .k_bytes = KV_BYTES,
                                           .v_bytes = KV_BYTES - 3,
                                           .block_tokens = TOKENS,
                                           .plane_bytes = PLANE};

/* As the engine keeps it: planes at their stride. */
static uint8_t *stored_block(uint32_t id) {
  const size_t rows = (2 * KV_BYTES - 3) * TOKENS;
  uint8_t *gathered = malloc(rows * LAYERS), *payload = calloc(LAYERS, PLANE);
  assert_int_equal(content_block_bytes(&shape), rows * LAYERS);
  content_fill(&shape, id, gathered);
  for (size_t layer = 0; layer < LAYERS; layer++) {
    memcpy(payload + layer * PLANE, gathered + layer * rows, rows);
  }
  free(gathered);
  return payload;
}

static void content_shows_every_kind_of_mistake(void **state) {
  (void)state;
  uint8_t *payload = stored_block(7);
  const uint64_t all = content_block_bytes(&shape);
  assert_int_equal(content_check(&shape, 7, payload), 0);

  payload[PLANE + KV_BYTES * TOKENS + 5] ^= 1; /* a bit of layer 1's V */
  payload[4] ^= 0x80;
  assert_int_equal(content_check(&shape, 7, payload), 2);
  free(payload);

  payload = stored_block(8); /* another block */
  assert_true(content_check(&shape, 7, payload) > all * 9 / 10);
  free(payload);

  payload = stored_block(7); /* planes exchanged */
  uint8_t plane[PLANE];
  memcpy(plane, payload, PLANE);
  memcpy(payload, payload + PLANE, PLANE);
  memcpy(payload + PLANE, plane, PLANE);
  assert_true(content_check(&shape, 7, payload) > all / 3);
  free(payload);

  payload = stored_block(7); /* moved by a row */
  memmove(payload, payload + KV_BYTES, (2 * KV_BYTES - 3) * TOKENS - KV_BYTES);
  assert_true(content_check(&shape, 7, payload) > all / 4);
  free(payload);
}

static void tokens_name_their_block(void **state) {
  (void)state;
  kvstow_token a[16], b[16];
  content_tokens(5, 16, a);
  content_tokens(5, 16, b);
  assert_memory_equal(a, b, sizeof a);
  content_tokens(6, 16, b);
  assert_memory_not_equal(a, b, sizeof a);
  for (int i = 0; i < 16; i++) assert_true(a[i] >= 0);
  content_tokens(5, 1, a);
  content_tokens(6, 1, b);
  assert_int_not_equal(a[0], b[0]);
}

static void models_have_their_published_sizes(void **state) {
  (void)state;
  assert_int_equal(model_bytes_per_token(model_find("llama-3-8b")), 128 * 1024);
  assert_int_equal(model_bytes_per_token(model_find("llama-2-7b")), 512 * 1024);
  assert_int_equal(model_bytes_per_token(model_find("deepseek-v3")), 61 * 1152);
  assert_null(model_find("llama"));
  struct model model;
  for (uint64_t bytes = 1; bytes < 100; bytes++) {
    assert_true(model_of_bytes(bytes, &model));
    assert_int_equal(model_bytes_per_token(&model), bytes);
  }
  assert_true(model_of_bytes(4096, &model));
  assert_int_equal(model.layers, 4);
  assert_int_equal(model.k_bytes, 512);
  assert_false(model_of_bytes(0, &model));
}

/* `--sim --tiers engine` is told the real engine's segments. Demotion takes time in one and none in the
 * other: over whole traces hit rates differ by less than a point, on this small one by up to two. */
static void simulated_engine_serves_as_much_as_the_real_one(void **state) {
  const struct place *place = *state;
  char arguments[512];
  json_t *real, *simulated;
  const char *workload =
      "--trace 'gen:conversations?requests=1200&seed=5' --policy lru --ram 5% "
      "--ssd 40% --json";
  snprintf(arguments, sizeof arguments, "--real --dir %s --model tiny --block-tokens 128 %s",
           place->store, workload);
  assert_int_equal(run(arguments, &real), 0);
  snprintf(arguments, sizeof arguments, "--sim --tiers engine --segment-blocks %d %s",
           (int)count_of(real, "segment_blocks"), workload);
  assert_int_equal(run(arguments, &simulated), 0);
  const double difference =
      real_of(real, "prefix_hit") - real_of(json_array_get(simulated, 0), "prefix_hit");
  print_message("  real %.4f, simulated %.4f\n", real_of(real, "prefix_hit"),
                real_of(json_array_get(simulated, 0), "prefix_hit"));
  assert_int_equal(count_of(real, "mismatched_bytes"), 0);
  assert_true(difference < 0.02 && difference > -0.02);
  json_decref(real);
  json_decref(simulated);
}

static unsigned files_seen;

static void count_file(const char *file) {
  files_seen += strstr(file, "seg") != NULL;
}

static void several_dirs_are_several_disks(void **state) {
  const struct place *place = *state;
  char second[96], arguments[512];
  json_t *json;
  snprintf(second, sizeof second, "%s/second", place->dir);
  snprintf(arguments, sizeof arguments, "--real --dir %s --dir %s --trace %s " SHAPE " --json",
           place->store, second, place->trace);
  for (int life = 0; life < 2; life++) {
    assert_int_equal(run(arguments, &json), 0);
    assert_int_equal(count_of(json, "mismatched_bytes"), 0);
    if (life > 0) assert_true(count_of(json, "recovered_blocks") > 0);
    json_decref(json);
  }
  const char *const dirs[] = {place->store, second};
  for (size_t i = 0; i < 2; i++) {
    files_seen = 0;
    each_file(dirs[i], count_file);
    assert_true(files_seen > 1);
  }
  each_file(second, delete_file);
  assert_int_equal(rmdir(second), 0);
}

int main(void) {
#define WITH_PLACE(test) cmocka_unit_test_setup_teardown(test, make_place, drop_place)
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(content_shows_every_kind_of_mistake),
      cmocka_unit_test(tokens_name_their_block),
      cmocka_unit_test(models_have_their_published_sizes),
      WITH_PLACE(restores_what_it_stored_byte_for_byte),
      WITH_PLACE(says_all_that_bars_md_asks_for),
      WITH_PLACE(second_run_starts_from_what_survived),
      WITH_PLACE(several_dirs_are_several_disks),
      WITH_PLACE(both_engines_and_write_through_serve_the_same),
      WITH_PLACE(budgets_may_be_blocks_or_percent),
      cmocka_unit_test_setup_teardown(a_full_disk_is_told, make_place, drop_mounted_place),
      WITH_PLACE(flipped_bits_on_ssd_are_recomputed),
      WITH_PLACE(simulated_engine_serves_as_much_as_the_real_one),
      WITH_PLACE(bad_usage_is_exit_2),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
