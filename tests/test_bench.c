/* tests/test_bench.c - benchmarks as a program reads them: rows, targets, exit codes, refusals. Nothing here
 * depends on how fast the machine is.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <ftw.h>
#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>

#include "tests/support/command.h"
#include "tests/support/forbid.h"

#define SCRATCH KVSTOW_BINARY_DIR "/test_bench.scratch"
#define MODEL SCRATCH "/model.gguf"

static int make_scratch(void **state) {
  (void)state;
  unlink(MODEL);
  return mkdir(SCRATCH, 0700) == 0 || errno == EEXIST ? 0 : -1;
}

static int remove_scratch(void **state) {
  (void)state;
  unlink(MODEL);
  return rmdir(SCRATCH);
}

/* What the command printed; the caller's. */
static json_t *run_json(const char *line) {
  json_error_t error;
  kvstow_run(line);
  if (outcome.code == 1 && strstr(outcome.err, "page cache")) skip(); /* built in memory */
  if (outcome.code != 0) fail_msg("kvstow %s: code %d: %s", line, outcome.code, outcome.err);
  json_t *root = json_loads(outcome.out, 0, &error);
  if (root == NULL) fail_msg("kvstow %s: %s: %s", line, error.text, outcome.out);
  return root;
}

static const char *text_of(const json_t *row, const char *key) {
  const char *text = json_string_value(json_object_get(row, key));
  if (text == NULL) fail_msg("no text '%s'", key);
  return text;
}

static double number_of(const json_t *row, const char *key) {
  const json_t *value = json_object_get(row, key);
  if (!json_is_number(value)) fail_msg("no number '%s'", key);
  return json_number_value(value);
}

static void write_model(const void *bytes, size_t count) {
  FILE *file = fopen(MODEL, "w");
  assert_non_null(file);
  assert_int_equal(fwrite(bytes, 1, count, file), count);
  assert_int_equal(fclose(file), 0);
}

/* ---- keys --------------------------------------------------------------------------------------- */

/* True if every word of `keys` has a value in `row`. */
static bool has_keys(const json_t *row, const char *keys) {
  char words[256], *rest = NULL;
  bool all = true;
  snprintf(words, sizeof words, "%s", keys);
  for (char *key = strtok_r(words, " ", &rest); key != NULL; key = strtok_r(NULL, " ", &rest)) {
    const json_t *value = json_object_get(row, key);
    const bool has = json_is_string(value) || json_is_number(value);
    if (!has) print_error("no '%s'\n", key);
    all &= has;
  }
  return all;
}

/* Those that programs rely on; stream, gguf and tier have theirs below. */
static void every_bench_has_its_keys(void **state) {
  (void)state;
  static const char store_keys[] =
      "shape bytes_per_token path threads batch_tokens tok_s mb_s limit_mb_s ratio p50_us p99_us";
  static const struct {
    const char *line, *keys, *root_keys;
  } benches[] = {
      {"store --path copy --threads 1 --size 8MiB --shape deepseek-v3 --dir " SCRATCH, store_keys,
       ""},
      {"store --path reserve --threads 1 --shape deepseek-v3 --dir " SCRATCH, store_keys, ""},
      {"store --path sustained --shape deepseek-v3 --dir " SCRATCH, store_keys, ""},
      {"restore --path chain --engine threads --dir " SCRATCH,
       "tokens layout source mb_s limit_mb_s ratio ttft_ms", "engine"},
      {"match --threads 1 --dir " SCRATCH, "tokens blocks_in_index threads us limit_us p99_us", ""},
      {"overhead --dir " SCRATCH, "path on_ns off_ns overhead", "on_ns off_ns overhead"},
      {"sim", "workload policy size_blocks accesses_per_s limit_per_s ratio", ""},
  };
  for (size_t b = 0; b < sizeof benches / sizeof *benches; b++) {
    char line[256];
    snprintf(line, sizeof line, "bench %s --quick --rounds 1 --json", benches[b].line);
    json_t *root = run_json(line);
    const json_t *rows = json_object_get(root, "rows");
    size_t i;
    json_t *row;
    if (json_array_size(rows) == 0) fail_msg("kvstow %s: no rows", line);
    json_array_foreach(rows, i, row) {
      if (!has_keys(row, benches[b].keys)) fail_msg("kvstow %s: row %zu: %s", line, i, outcome.out);
    }
    if (strstr(line, "--engine threads")) assert_string_equal(text_of(root, "engine"), "threads");
    if (!has_keys(root, benches[b].root_keys)) fail_msg("kvstow %s: %s", line, outcome.out);
    assert_true(json_is_array(json_object_get(root, "targets")));
    json_decref(root);
  }
}

/* ---- stream ------------------------------------------------------------------------------------- */

static void stream_compares_prefetch_on_and_off(void **state) {
  (void)state;
  json_t *root =
      run_json("bench stream --quick --rounds 1 --shape deepseek-v3 --json --dir " SCRATCH);
  const json_t *rows = json_object_get(root, "rows");
  assert_int_equal(json_array_size(rows), 6);
  size_t i, on = 0;
  json_t *row;
  json_array_foreach(rows, i, row) {
    const bool ahead = strcmp(text_of(row, "prefetch"), "on") == 0;
    on += ahead;
    assert_string_equal(text_of(row, "shape"), "deepseek-v3");
    assert_true(number_of(row, "tok_s") > 0 && number_of(row, "mb_s") > 0);
    assert_true(number_of(row, "limit_mb_s") > 0 && number_of(row, "ratio") > 0);
    assert_true(number_of(row, "mmap_ratio") > 0);
    const double overlap = number_of(row, "overlap");
    assert_true(overlap >= 0 && overlap <= 1);
    if (!ahead) assert_true(number_of(row, "issued") == 0);
    if (ahead && number_of(row, "context_over_ram") > 1) {
      assert_true(number_of(row, "issued") > 0 && number_of(row, "cold_share") > 0.1);
    }
  }
  assert_int_equal(on, 3);
  json_decref(root);
}

/* ---- gguf --------------------------------------------------------------------------------------- */

static void gguf_streams_what_it_generated(void **state) {
  (void)state;
  unlink(MODEL);
  kvstow_run("bench gguf --generate " MODEL " --size 3MiB --seed 7");
  assert_int_equal(outcome.code, 0);
  json_t *root = run_json("bench gguf --quick --rounds 2 --json " MODEL);
  const json_t *rows = json_object_get(root, "rows");
  assert_int_equal(json_array_size(rows), 12);
  size_t i, tier_on = 0, tier_off = 0, mapped = 0, shuffled = 0;
  json_t *row;
  json_array_foreach(rows, i, row) {
    const char *method = text_of(row, "method"), *prefetch = text_of(row, "prefetch");
    tier_on += strcmp(method, "tier") == 0 && strcmp(prefetch, "on") == 0;
    tier_off += strcmp(method, "tier") == 0 && strcmp(prefetch, "off") == 0;
    shuffled += strcmp(text_of(row, "order"), "shuffled") == 0;
    if (strcmp(method, "mmap") == 0) {
      mapped++;
      assert_true(number_of(row, "page_faults") > 0);
    }
    assert_true(number_of(row, "mb_s") > 0 && number_of(row, "seconds") > 0);
    assert_true(number_of(row, "limit_mb_s") > 0 && number_of(row, "ratio") > 0);
    (void)number_of(row, "io_wait_ms");
  }
  assert_true(tier_on == 2 && tier_off == 2 && mapped == 2 && shuffled == 6);
  json_decref(root);
  kvstow_run("bench gguf --quick --rounds 1 --engine threads --csv " MODEL);
  assert_int_equal(outcome.code, 0);
  assert_contains(outcome.out, "order,method,prefetch,mb_s,");
  assert_contains(outcome.out, "\nshuffled,mmap,");
}

static void assert_gguf_refused(const char *why) {
  kvstow_run("bench gguf --quick " MODEL);
  assert_int_equal(outcome.code, 1);
  assert_contains(outcome.err, "kvstow bench gguf: " MODEL);
  assert_contains(outcome.err, why);
}

static void gguf_refuses_other_files_by_name(void **state) {
  (void)state;
  static unsigned char head[4096] = "GGUF\3";
  write_model("", 0);
  assert_gguf_refused("not a GGUF file");
  write_model("\177ELF and so on", 14);
  assert_gguf_refused("offset 0: not a GGUF file");
  write_model(head, 20);
  assert_gguf_refused("truncated");
  write_model(head, 24);
  assert_gguf_refused("no tensors");
  head[8] = 9;
  write_model(head, 24);
  assert_gguf_refused("offset 24: truncated or damaged: 9 tensors");
  head[4] = 4;
  write_model(head, sizeof head);
  assert_gguf_refused("offset 4: version 4");
  unlink(MODEL);
  assert_gguf_refused("No such file");
  kvstow_run("bench gguf --quick " SCRATCH);
  assert_int_equal(outcome.code, 1);
  assert_contains(outcome.err, "not a regular file");
}

/* A truncated download, the commonest of all. */
static void gguf_refuses_half_a_file(void **state) {
  (void)state;
  unlink(MODEL);
  kvstow_run("bench gguf --generate " MODEL " --size 1MiB");
  assert_int_equal(outcome.code, 0);
  assert_int_equal(truncate(MODEL, 1 << 19), 0);
  assert_gguf_refused("truncated or damaged: tensor 'blk.");
}

static void page_cache_is_not_called_a_disk(void **state) {
  (void)state;
  struct statfs fs;
  if (statfs("/dev/shm", &fs) != 0 || fs.f_type != 0x01021994) skip(); /* no tmpfs there */
  unlink("/dev/shm/kvstow-test-bench.gguf");
  kvstow_run("bench gguf --generate /dev/shm/kvstow-test-bench.gguf --size 1MiB");
  if (outcome.code != 0) skip();
  kvstow_run("bench gguf --quick /dev/shm/kvstow-test-bench.gguf");
  unlink("/dev/shm/kvstow-test-bench.gguf");
  assert_int_equal(outcome.code, 1);
  assert_contains(outcome.err, "page cache");
}

static void gguf_bad_usage(void **state) {
  (void)state;
  assert_refused("bench gguf", "FILE");
  assert_refused("bench gguf a b", "b: not an option");
  assert_refused("bench gguf --generate x", "--size");
  assert_refused("bench gguf --generate x --size 12", "at least");
  assert_refused("bench gguf --generate x --size 1MiB y", "FILE");
  assert_refused("bench gguf --engine disk x", "uring or threads");
  assert_refused("bench gguf --json --csv x", "not both");
  assert_refused("bench gguf --nothing x", "nothing");
  assert_helps("bench gguf --help", "--generate");
}

/* ---- tier --------------------------------------------------------------------------------------- */

/* One row of every kind; --dir, because /tmp may be memory. */
static void assert_tier_rows(const char *op, const char *block, size_t rows_wanted) {
  char line[256];
  snprintf(line, sizeof line, "bench tier --quick --rounds 2 --json --dir %s --op %s --block %s",
           SCRATCH, op, block);
  json_t *root = run_json(line);
  const json_t *rows = json_object_get(root, "rows");
  size_t i;
  json_t *row;
  assert_true(json_is_boolean(json_object_get(root, "direct_io")));
  (void)text_of(root, "engine");
  assert_true(json_array_size(json_object_get(root, "targets")) > 0);
  assert_int_equal(json_array_size(rows), rows_wanted);
  json_array_foreach(rows, i, row) {
    assert_string_equal(text_of(row, "op"), op);
    assert_true(number_of(row, "block_bytes") >= 4096 && number_of(row, "depth") >= 1);
    assert_true(number_of(row, "mb_s") > 0 && number_of(row, "limit_mb_s") > 0);
    assert_true(number_of(row, "ratio") > 0);
    assert_true(has_keys(row, "cpu_s_per_gib p50_us p99_us"));
    assert_true(json_is_boolean(json_object_get(row, "prefetch")));
    assert_true(json_is_boolean(json_object_get(row, "scheduling")));
    const char *engine = text_of(row, "engine");
    assert_true(strcmp(engine, "uring") == 0 || strcmp(engine, "threads") == 0);
  }
  json_decref(root);
}

static void tier_has_a_row_of_every_kind(void **state) {
  (void)state;
  assert_tier_rows("read", "64KiB", 12);
  assert_tier_rows("random", "4096", 12);
  assert_tier_rows("fragmented", "64KiB", 5);
  assert_tier_rows("write", "64KiB", 5);
  assert_tier_rows("append", "1MiB", 2);
  assert_tier_rows("record_read", "64KiB", 5);
}

/* Sixty-four neighbours, shuffled: what scheduling is for. */
static void tier_merges_fragments(void **state) {
  (void)state;
  json_t *root = run_json("bench tier --quick --rounds 1 --json --op fragmented --dir " SCRATCH);
  const json_t *rows = json_object_get(root, "rows");
  size_t i;
  json_t *row;
  json_array_foreach(rows, i, row) {
    if (json_is_true(json_object_get(row, "scheduling")))
      assert_true(number_of(row, "merge_ratio") >= 2);
    else
      assert_true(number_of(row, "merge_ratio") <= 1);
  }
  json_decref(root);
}

static void tier_prints_tables_and_csv(void **state) {
  (void)state;
  kvstow_run("bench tier --quick --rounds 1 --op read --block 1MiB --dir " SCRATCH);
  if (outcome.code == 1 && strstr(outcome.err, "page cache")) skip();
  assert_int_equal(outcome.code, 0);
  assert_contains(outcome.out, "Baseline");
  assert_contains(outcome.out, "Optimized");
  assert_contains(outcome.out, "Change");
  assert_contains(outcome.out, "limit");
  kvstow_run(
      "bench tier --quick --rounds 1 --op read --block 1MiB --engine threads --depth 1 --csv "
      "--dir " SCRATCH);
  assert_int_equal(outcome.code, 0);
  assert_contains(outcome.out, "op,block_bytes,depth,engine,prefetch,scheduling,mb_s,");
  assert_contains(outcome.out, "\nread,1048576,1,threads,false,false,");
  assert_contains(outcome.out, "\nread,1048576,1,threads,true,true,");
  if (strstr(outcome.out, "uring")) fail_msg("another engine: %s", outcome.out);
}

/* tmpfs accepts O_DIRECT, and what it serves is memory. */
static void memory_is_refused(void **state) {
  (void)state;
  static const char *const lines[] = {
      "bench tier --quick --op read --block 1MiB --dir /dev/shm",
      "bench store --quick --path sustained --shape deepseek-v3 --json --dir /dev/shm",
      "bench stream --quick --shape deepseek-v3 --rounds 1 --json --dir /dev/shm",
  };
  struct statfs fs;
  if (statfs("/dev/shm", &fs) != 0 || fs.f_type != 0x01021994) skip();
  if (fs.f_bavail * (uint64_t)fs.f_bsize < ((uint64_t)1 << 30)) skip();
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
    kvstow_run(lines[i]);
    if (outcome.code != 1) fail_msg("kvstow %s: code %d", lines[i], outcome.code);
    assert_contains(outcome.err, "page cache");
  }
}

/* A word that picks nothing is no pass. */
static void unknown_words_are_refused(void **state) {
  (void)state;
  assert_refused("bench store --shape zzz --check --json", "llama-3-8b");
  assert_refused("bench store --path zzz", "copy reserve sustained");
  assert_refused("bench store --threads 3", "1 2 8");
  assert_refused("bench restore --path zzz", "chain runs scattered");
  assert_refused("bench stream --shape zzz", "deepseek-v3");
  assert_refused("bench match --threads 3", "1 2 4 8");
  assert_refused("bench match --blocks 5", "--blocks: at least 131072");
  assert_refused("bench tier --depth 7", "1 4 16 64");
  assert_refused("bench tier --quick --block 16KiB", "4096 65536 1048576");
  kvstow_run("bench store --path sustained --threads 8 --json");
  assert_int_equal(outcome.code, 1);
  assert_string_equal(outcome.out, "");
  assert_contains(outcome.err, "nothing to measure");
  kvstow_run("bench tier --quick --op append --block 4KiB --csv --dir " SCRATCH);
  assert_int_equal(outcome.code, 1);
  assert_string_equal(outcome.out, "");
}

/* A median of fewer than five rounds is a figure, and neither met nor missed. */
static void few_rounds_give_no_verdict(void **state) {
  (void)state;
  static const char line[] = "bench tier --op read --block 1MiB --depth 1 --quick --size 16MiB";
  char with[256];
  assert_refused("bench tier --check --rounds 4", "no verdict");
  for (int rounds = 4; rounds <= 5; rounds++) {
    snprintf(with, sizeof with, "%s --json --rounds %d --dir " SCRATCH, line, rounds);
    json_t *root = run_json(with);
    const json_t *targets = json_object_get(root, "targets");
    size_t i;
    json_t *row;
    assert_true(json_array_size(targets) > 0);
    json_array_foreach(targets, i, row) {
      (void)number_of(row, "value");
      const json_t *met = json_object_get(row, "met");
      const char *told = json_string_value(json_object_get(row, "told"));
      const bool open = rounds < 5 || (told != NULL && strcmp(told, "open") == 0);
      assert_true(open ? json_is_null(met) : json_is_boolean(met));
    }
    json_decref(root);
  }
  snprintf(with, sizeof with, "%s --rounds 1 --dir " SCRATCH, line);
  kvstow_run(with);
  assert_int_equal(outcome.code, 0);
  assert_contains(outcome.out, "No verdicts");
  if (strstr(outcome.out, "met")) fail_msg("a verdict: %s", outcome.out);
}

#define INTERRUPTED SCRATCH "/interrupted"

/* True if it is a file of more than a page. */
static int is_large(const char *path, const struct stat *st, int type, struct FTW *at) {
  (void)path, (void)at;
  return type == FTW_F && st->st_size > 4096;
}

static void interrupted_benches_leave_nothing(void **state) {
  (void)state;
  static const int signals[] = {SIGINT, SIGTERM};
  static char command[] = KVSTOW_COMMAND, dir[] = INTERRUPTED;
  static char words[][16] = {"bench", "store", "--quick", "--path", "sustained", "--dir"};
  char *argv[] = {command, words[0], words[1], words[2], words[3], words[4], words[5], dir, NULL};
  const struct timespec nap = {0, 10 * 1000 * 1000};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
    pid_t child;
    int status = 0;
    assert_true(mkdir(INTERRUPTED, 0700) == 0 || errno == EEXIST);
    assert_int_equal(posix_spawn(&child, KVSTOW_COMMAND, NULL, NULL, argv, environ), 0);
    while (nftw(INTERRUPTED, is_large, 16, FTW_PHYS) == 0) {
      assert_int_equal(waitpid(child, &status, WNOHANG), 0);
      nanosleep(&nap, NULL);
    }
    assert_int_equal(kill(child, signals[i]), 0);
    while (waitpid(child, &status, 0) < 0) assert_int_equal(errno, EINTR);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), signals[i]);
    assert_int_equal(rmdir(INTERRUPTED), 0); /* empty */
  }
}

static void tier_bad_usage(void **state) {
  (void)state;
  assert_refused("bench tier --op nothing", "write read random");
  assert_refused("bench tier --size 4096", "16 MiB");
  assert_refused("bench tier --block 1", "4096 16384");
  assert_refused("bench tier --engine disk", "uring or threads");
  assert_refused("bench tier --depth 0", "depth");
  assert_refused("bench tier file", "not an option");
  assert_helps("bench tier --help", "--op");
}

static void without_io_uring_threads_set_the_limit(void **state) {
  (void)state;
  fflush(NULL);
  const pid_t child = fork();
  if (child == 0) {
    if (forbid_io_uring() != 0) _exit(0);
    kvstow_run("bench tier --quick --rounds 1 --op random --block 64KiB --depth 16");
    if (outcome.code != 0) _exit(1);
    _exit(strstr(outcome.out, "threads") && strstr(outcome.out, "Skipped: uring") &&
                  strstr(outcome.out, "the limit is threads")
              ? 0
              : 2);
  }
  int status;
  waitpid(child, &status, 0);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_bench_has_its_keys),
      cmocka_unit_test(stream_compares_prefetch_on_and_off),
      cmocka_unit_test(gguf_streams_what_it_generated),
      cmocka_unit_test(gguf_refuses_other_files_by_name),
      cmocka_unit_test(gguf_refuses_half_a_file),
      cmocka_unit_test(page_cache_is_not_called_a_disk),
      cmocka_unit_test(gguf_bad_usage),
      cmocka_unit_test(tier_has_a_row_of_every_kind),
      cmocka_unit_test(tier_merges_fragments),
      cmocka_unit_test(tier_prints_tables_and_csv),
      cmocka_unit_test(memory_is_refused),
      cmocka_unit_test(unknown_words_are_refused),
      cmocka_unit_test(few_rounds_give_no_verdict),
      cmocka_unit_test(interrupted_benches_leave_nothing),
      cmocka_unit_test(tier_bad_usage),
      cmocka_unit_test(without_io_uring_threads_set_the_limit),
  };
  return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
