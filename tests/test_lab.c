/* tests/test_lab.c - `kvstow replay --sim` as its user meets it: one run of many traces, policies and
 * sizes, its figures, its samples, its plots, its memory.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <jansson.h>
#include <math.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "cli/sim/sim.h"
#include "tests/support/command.h"
#include "tests/support/object.h"

#define SMALL "gen:conversations?requests=300"
#define OTHER "gen:conversations?requests=200&seed=5"

static json_t *run_json(const char *line) {
  json_error_t error;
  kvstow_run(line);
  if (outcome.code != 0) fail_msg("kvstow %s: code %d: %s", line, outcome.code, outcome.err);
  json_t *list = json_loads(outcome.out, 0, &error);
  if (list == NULL) fail_msg("kvstow %s: %s", line, error.text);
  return list;
}

static const char *text_of(const json_t *row, const char *key) {
  const char *text = json_string_value(json_object_get(row, key));
  assert_non_null(text);
  return text;
}

static int64_t count_of(const json_t *row, const char *key) {
  assert_true(json_is_integer(json_object_get(row, key)));
  return json_integer_value(json_object_get(row, key));
}

static double real_of(const json_t *row, const char *key) {
  assert_true(json_is_real(json_object_get(row, key)));
  return json_real_value(json_object_get(row, key));
}

/* ---- one run of many ---- */

static void rows_come_in_the_order_asked_for(void **state) {
  static const char *const order[][2] = {{SMALL, "lru"},  {SMALL, "fifo"}, {SMALL, "lru"},
                                         {SMALL, "fifo"}, {OTHER, "lru"},  {OTHER, "fifo"},
                                         {OTHER, "lru"},  {OTHER, "fifo"}};
  (void)state;
  json_t *list = run_json("replay --sim --trace " SMALL " --trace " OTHER
                          " --policy lru --policy fifo --size 20blk,60blk --json");
  assert_int_equal(json_array_size(list), 8);
  for (size_t i = 0; i < 8; i++) {
    const json_t *row = json_array_get(list, i);
    assert_string_equal(text_of(row, "trace"), order[i][0]);
    assert_string_equal(text_of(row, "policy"), order[i][1]);
    assert_int_equal(count_of(row, "size_blocks"), i % 4 < 2 ? 20 : 60);
  }
  json_decref(list);
}

/* All but times. */
static void drop_times(json_t *list) {
  static const char *const times[] = {"accesses_per_s", "sim_s", "load_s", "whole_sim_s"};
  for (size_t i = 0; i < json_array_size(list); i++)
    for (size_t t = 0; t < sizeof times / sizeof times[0]; t++)
      json_object_del(json_array_get(list, i), times[t]);
}

static void any_number_of_jobs_gives_the_same(void **state) {
  static const char common[] =
      "replay --sim --trace " SMALL "," OTHER
      " --policy lru,arc,random,lifetime,opt --size 1%..100%:5 --json --jobs ";
  char line[300];
  (void)state;
  json_t *first = NULL;
  for (int jobs = 1; jobs <= 9; jobs += 4) {
    snprintf(line, sizeof line, "%s%d", common, jobs);
    json_t *list = run_json(line);
    drop_times(list);
    if (first == NULL)
      first = json_incref(list);
    else
      assert_true(json_equal(first, list));
    json_decref(list);
  }
  json_decref(first);
}

static void a_grid_leaves_out_what_is_less_than_a_block(void **state) {
  (void)state;
  json_t *list =
      run_json("replay --sim --trace " SMALL " --policy lru --size 0.001%..100%:30 --json");
  int64_t before = 0;
  assert_true(json_array_size(list) > 10 && json_array_size(list) < 30);
  for (size_t i = 0; i < json_array_size(list); i++) {
    const json_t *row = json_array_get(list, i);
    assert_true(count_of(row, "size_blocks") > before);
    before = count_of(row, "size_blocks");
    if (i + 1 == json_array_size(list)) assert_int_equal(before, count_of(row, "unique"));
  }
  json_decref(list);
}

/* ---- figures ---- */

static void derived_figures_follow_from_counts(void **state) {
  struct sim_result want;
  char why[256];
  (void)state;
  struct trace *trace = trace_load(SMALL, NULL, why, sizeof why);
  assert_non_null(trace);
  const struct sim_options options = {.policy = "lru", .blocks = 100};
  assert_int_equal(sim_run(trace, &options, &want, why, sizeof why), 0);
  json_t *list = run_json("replay --sim --trace " SMALL
                          " --policy lru --size 100blk --cost 50,0.01 --ssd-bytes 400blk --json");
  const json_t *row = json_array_get(list, 0);
  assert_int_equal(count_of(row, "misses"), want.misses);
  assert_int_equal(count_of(row, "prefix_hit_blocks"), want.prefix_hit_blocks);
  assert_int_equal(count_of(row, "writes_never_read"), want.ssd_writes - want.writes_read);
  const double all = 50e-6 * (double)want.input_tokens + 0.01e-6 * want.input_tokens_squared;
  const double saved =
      50e-6 * (double)want.prefix_hit_tokens + 0.01e-6 * want.prefix_hit_tokens_squared;
  assert_true(fabs(real_of(row, "prefill_s") / all - 1) < 1e-6);
  assert_true(fabs(real_of(row, "prefill_saved_s") / saved - 1) < 1e-6);
  assert_true(fabs(real_of(row, "prefill_saved") * all / saved - 1) < 1e-6);
  const double days = (double)(trace->last_ms - trace->first_ms) / 86400e3;
  assert_true(fabs(real_of(row, "dwpd") / ((double)want.ssd_writes / 400 / days) - 1) < 1e-6);
  assert_true(fabs(real_of(row, "block_hit") + real_of(row, "block_miss") - 1) < 1e-6);
  json_decref(list);

  /* A cost without a square is the share of tokens. */
  list = run_json("replay --sim --trace " SMALL " --policy lru --size 100blk --cost 3,0 --json");
  row = json_array_get(list, 0);
  assert_true(fabs(real_of(row, "prefill_saved") - real_of(row, "token_hit")) < 1e-8);
  json_decref(list);
  trace_free(trace);
}

static void csv_has_the_keys_of_json(void **state) {
  (void)state;
  json_t *list = run_json("replay --sim --trace " SMALL " --policy lru --ram 2% --ssd 20% --json");
  kvstow_run("replay --sim --trace " SMALL " --policy lru --ram 2% --ssd 20% --csv");
  char *header = strtok(outcome.out, "\n"), *values = strtok(NULL, "\n");
  const char *key;
  json_t *value;
  json_object_foreach(json_array_get(list, 0), key, value) {
    const char *name = strsep(&header, ","), *text = strsep(&values, ",");
    assert_string_equal(name, key);
    assert_non_null(text);
    if (json_is_integer(value))
      assert_int_equal(strtoll(text, NULL, 10), json_integer_value(value));
  }
  assert_null(header);
  json_decref(list);
}

static void requests_in_flight_have_a_key_and_one_figure_in_both_formats(void **state) {
  struct sim_result want;
  char why[256];
  (void)state;
  struct trace *trace = trace_load(SMALL, NULL, why, sizeof why);
  assert_non_null(trace);
  const struct sim_options options = {.policy = "lru", .blocks = 100, .in_flight = 7};
  assert_int_equal(sim_run(trace, &options, &want, why, sizeof why), 0);
  json_t *list =
      run_json("replay --sim --trace " SMALL " --policy lru --size 100blk --in-flight 7 --json");
  const json_t *row = json_array_get(list, 0);
  assert_int_equal(count_of(row, "in_flight"), 7);
  assert_int_equal(count_of(row, "misses"), want.misses);
  assert_int_equal(count_of(row, "ssd_writes"), want.ssd_writes);
  assert_true(want.misses > want.ssd_writes); /* some were computed twice */
  json_decref(list);
  list = run_json("replay --sim --trace " SMALL " --policy lru --size 9% --in-flight 0 --json");
  assert_null(json_object_get(json_array_get(list, 0), "in_flight"));
  json_decref(list);
  trace_free(trace);
}

/* ---- samples ---- */

static void a_sample_says_what_it_is_and_how_far_it_is_off(void **state) {
  (void)state;
  json_t *list = run_json(
      "replay --sim --trace gen:conversations?requests=5000 --policy lru,arc "
      "--size 2%,20% --sample 0.3 --sample-error --json");
  json_t *whole = run_json(
      "replay --sim --trace gen:conversations?requests=5000 --policy lru,arc --size 2%,20% --json");
  for (size_t i = 0; i < 4; i++) {
    const json_t *row = json_array_get(list, i), *full = json_array_get(whole, i);
    assert_string_equal(text_of(row, "sample_by"), "chain");
    assert_int_equal(count_of(row, "accesses"), count_of(full, "accesses"));
    assert_int_equal(count_of(row, "size_blocks"), count_of(full, "size_blocks"));
    assert_true(count_of(row, "sample_accesses") < count_of(row, "accesses") / 2);
    const double error = real_of(row, "prefix_hit") - real_of(full, "prefix_hit");
    assert_true(fabs(real_of(row, "prefix_hit_error") - error) < 1e-6);
    assert_true(fabs(error) < 0.05);
    assert_true(count_of(row, "sample_units") < 1000);
    assert_int_equal(count_of(row, "sample_too_small"), 1);
    assert_null(json_object_get(full, "sample_too_small"));
  }
  json_decref(list);
  json_decref(whole);

  list = run_json(
      "replay --sim --trace gen:conversations?requests=5000 --policy lru "
      "--size 10% --sample 0.3 --sample-by block --sample-error --json");
  const json_t *row = json_array_get(list, 0);
  assert_true(json_is_null(json_object_get(row, "prefix_hit")));
  assert_true(json_is_null(json_object_get(row, "prefill_saved")));
  assert_true(fabs(real_of(row, "block_hit_error")) < 0.05);
  assert_true(count_of(row, "sample_units") >= 1000);
  assert_int_equal(count_of(row, "sample_too_small"), 0);
  json_decref(list);
}

/* ---- plots ---- */

static bool gnuplot_is_there(void) {
  return system("gnuplot --version >/dev/null 2>&1") == 0;
}

static void a_plot_has_its_curves_and_axes(void **state) {
  char line[400];
  (void)state;
  if (!gnuplot_is_there()) {
    fprintf(stderr, "\n*** SKIP %s: no gnuplot ***\n\n", __func__);
    skip();
  }
  for (int png = 0; png < 2; png++) {
    static const char path[][80] = {KVSTOW_BINARY_DIR "/test_lab.svg",
                                    KVSTOW_BINARY_DIR "/test_lab.png"};
    unlink(path[png]);
    snprintf(line, sizeof line,
             "replay --sim --trace " SMALL "," OTHER
             " --policy lru,s3fifo,opt --size 1%%..100%%:6 --plot %s --csv",
             path[png]);
    kvstow_run(line);
    assert_int_equal(outcome.code, 0);
    assert_string_equal(outcome.err, "");
    FILE *file = fopen(path[png], "rb");
    assert_non_null(file);
    static char content[1 << 20];
    const size_t bytes = fread(content, 1, sizeof content - 1, file);
    content[bytes] = '\0';
    fclose(file);
    if (png) {
      assert_memory_equal(content, "\x89PNG", 4);
      assert_true(bytes > 10000);
    } else {
      assert_contains(content, "</svg>");
      assert_contains(content, "s3fifo");
      assert_contains(content, "Cache size (% of distinct blocks)");
      assert_contains(content, "Prefix hits (% of blocks)");
    }
    unlink(path[png]);
  }
}

/* Runs `line`, which draws into the file; its text, valid until the next call. The file is gone. */
static const char *plotted(const char *line, const char *path) {
  static char content[1 << 20];
  unlink(path);
  kvstow_run(line);
  if (outcome.code != 0) fail_msg("kvstow %s: code %d: %s", line, outcome.code, outcome.err);
  assert_string_equal(outcome.err, "");
  FILE *file = fopen(path, "rb");
  if (file == NULL) fail_msg("kvstow %s: no %s", line, path);
  content[fread(content, 1, sizeof content - 1, file)] = '\0';
  fclose(file);
  unlink(path);
  return content;
}

static void a_plot_has_room_for_its_legend_and_labels(void **state) {
  static const char path[] = KVSTOW_BINARY_DIR "/test_lab_many.svg";
  double width = 0;
  (void)state;
  if (!gnuplot_is_there()) skip();
  const char *svg =
      plotted("replay --sim --trace " SMALL
              " --policy fifo,lru,lfu,clock,sieve,s3fifo,2q,slru,arc,lirs,wtinylfu,gdsf,lecar,"
              "random,adaptive,lifetime:reads=0.25,duel,opt --size 1%,9% --csv"
              " --plot-metric ssd_writes --plot " KVSTOW_BINARY_DIR "/test_lab_many.svg",
              path);
  assert_contains(svg, "Blocks written");
  assert_contains(svg, "lifetime:reads=0.25");
  const char *box = strstr(svg, "viewBox=\"0 0 ");
  assert_non_null(box);
  width = strtod(box + strlen("viewBox=\"0 0 "), NULL);
  unsigned texts = 0;
  for (const char *at = svg; (at = strstr(at, "translate(")) != NULL; texts++) {
    at += strlen("translate(");
    const double x = strtod(at, NULL);
    assert_true(x > 0 && x < width);
  }
  assert_true(texts > 18);
}

/* gnuplot takes a name that begins with a bar for a command. */
static void a_plot_is_a_file_whatever_its_name(void **state) {
  (void)state;
  if (!gnuplot_is_there()) skip();
  const char *svg = plotted("replay --sim --trace " SMALL
                            " --policy lru --size 5% --csv --plot |touch${IFS}test_lab_ran.svg",
                            "|touch${IFS}test_lab_ran.svg");
  assert_contains(svg, "</svg>");
  assert_int_equal(access("test_lab_ran.svg", F_OK), -1);
}

static void a_plot_without_values_is_refused(void **state) {
  static const char path[] = KVSTOW_BINARY_DIR "/test_lab_timeless.csv";
  (void)state;
  if (!gnuplot_is_there()) skip();
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs("1\n2\n1\n", file);
  fclose(file);
  kvstow_run(
      "replay --sim --trace " KVSTOW_BINARY_DIR
      "/test_lab_timeless.csv --policy lru --size 1blk --plot-metric dwpd --plot " KVSTOW_BINARY_DIR
      "/test_lab_timeless.svg");
  unlink(path);
  assert_int_equal(outcome.code, 1);
  assert_contains(outcome.err, "dwpd");
}

static void a_plot_that_cannot_be_written_is_refused_before_the_work(void **state) {
  static const char *const paths[] = {KVSTOW_BINARY_DIR "/no-such-directory/x.svg",
                                      KVSTOW_BINARY_DIR "/a-directory.svg"};
  (void)state;
  if (!gnuplot_is_there()) {
    fprintf(stderr, "\n*** SKIP %s: no gnuplot ***\n\n", __func__);
    skip();
  }
  mkdir(paths[1], 0700);
  for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
    char line[400];
    snprintf(line, sizeof line,
             "replay --sim --trace /nonexistent.jsonl --size 1%%,9%% --json --plot %s", paths[i]);
    kvstow_run(line);
    assert_int_equal(outcome.code, 1);
    assert_string_equal(outcome.out, "");
    assert_contains(outcome.err, "kvstow replay: --plot " KVSTOW_BINARY_DIR);
    assert_contains(outcome.err, i == 0 ? "No such file" : "Is a directory");
  }
  rmdir(paths[1]);
}

static void without_gnuplot_a_plot_is_refused_before_the_work(void **state) {
  (void)state;
  const char *search = getenv("PATH");
  char *path = strdup(search != NULL ? search : "");
  assert_int_equal(setenv("PATH", "/nonexistent", 1), 0);
  kvstow_run("replay --sim --trace /nonexistent.jsonl --size 1% --plot x.svg");
  setenv("PATH", path, 1);
  free(path);
  assert_int_equal(outcome.code, 1);
  assert_contains(outcome.err, "gnuplot");
}

/* ---- bad usage ---- */

static void what_makes_no_sense_is_refused(void **state) {
  (void)state;
  assert_refused("replay --sim --trace x --size 1%..:3", "--size 1%..:3");
  assert_refused("replay --sim --trace x --size 1% --cost 5", "--cost 5");
  assert_refused("replay --sim --trace x --size 1% --cost 0,0", "--cost 0,0");
  assert_refused("replay --sim --trace x --size 1% --cost -1,2", "--cost -1,2");
  assert_refused("replay --sim --trace x --size 1% --sample 0", "--sample 0");
  assert_refused("replay --sim --trace x --size 1% --sample 1", "below 1");
  assert_refused("replay --sim --trace x --size 1% --sample-error", "--sample");
  assert_refused("replay --sim --trace x --size 1% --sample-by block", "--sample");
  assert_refused("replay --sim --trace x --size 1% --sample 0.1 --sample-by moon", "--sample-by");
  assert_refused("replay --sim --trace x --size 1% --tiers engine", "--tiers goes with --ram");
  assert_refused("replay --sim --trace x --size 1% --ssd-policy lru", "--ssd-policy goes with");
  assert_refused("replay --sim --trace x --size 1% --high 0.5", "--high goes with --tiers engine");
  assert_refused("replay --sim --trace x --ram 1% --ssd 2% --segment-blocks 8",
                 "--segment-blocks goes with --tiers engine");
  assert_refused("replay --sim --trace x --size 18446744073709551615blk", "--size 1844");
  assert_refused("replay --sim --trace x --size 1% --jobs 0", "--jobs 0");
  assert_refused("replay --sim --trace x --size 1% --in-flight -1", "--in-flight -1");
  assert_refused("replay --sim --trace x --size 1% --in-flight 65537", "--in-flight 65537");
  assert_refused("replay --sim --trace x --size 1% --in-flight 4 --sample 0.1", "--in-flight");
  assert_refused("replay --sim --trace " SMALL " --size 1% --policy opt --in-flight 4", "infinite");
  assert_refused("replay --sim --trace x --size 1% --format parquet", "--format parquet");
  assert_refused("replay --sim --trace x --size 1% --format csv:a=b", "csv parameter");
  assert_refused("replay --sim --trace x --size 1% --plot out.gif", ".svg or .png");
  assert_refused("replay --sim --trace x --size 1% --plot-metric dwpd", "--plot");
  assert_refused("replay --sim --trace x --size 1% --plot o.svg --plot-metric joy", "prefix_hit");
  assert_refused("replay --sim --trace x --ram 1% --ssd 2% --plot o.svg", "--plot");
  assert_refused("replay --sim --trace x,,y --size 1%", "--trace");
  assert_refused("replay --sim --trace " SMALL " --size 1% --policy nonsense", "nonsense");
  assert_refused("replay --sim --trace " SMALL " --size 1% --ssd-bytes 1GiB", "--ssd-bytes");
  assert_refused("replay --real --dir d --trace x,y --ram 1GiB --ssd 2GiB", "one --trace");
  assert_refused("replay --real --dir d --trace x --ram 1GiB --ssd 2GiB --jobs 2",
                 "--jobs goes with --sim");
}

/* ---- a user's policy ---- */

/* Figures of a cache that holds more than its size, or of memory trodden upon, must not come out. */
static void a_policy_that_names_wrong_victims_is_refused(void **state) {
  static const char *const faults[][2] = {{"none", "names no block"},
                                          {"gone", "a block not held"},
                                          {"wild", "4000000000, a block not"}};
  static const char *const tiers[] = {"--size 50blk", "--ram 20blk --ssd 80blk",
                                      "--ram 20blk --ssd 80blk --tiers engine",
                                      "--ram 20blk --ssd 80blk --ssd-policy lru --tiers engine"};
  (void)state;
  const char *object = object_compile(KVSTOW_SOURCE_DIR "/tests/support/faulty_policy.c",
                                      KVSTOW_BINARY_DIR, "test_lab_faulty");
  if (object == NULL) skip();
  for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
    for (size_t j = 0; j < sizeof tiers / sizeof tiers[0]; j++) {
      char line[4500];
      snprintf(line, sizeof line, "replay --sim --trace " SMALL " --policy %s:%s %s", object,
               faults[i][0], tiers[j]);
      assert_refused(line, faults[i][1]);
    }
  unlink(object);
}

static void a_size_beyond_all_blocks_costs_no_more_memory(void **state) {
  (void)state;
  json_t *list = run_json("replay --sim --trace " SMALL
                          " --policy duel,arc,infinite --size 1000000000000000blk --json");
  const int64_t least = count_of(json_array_get(list, 2), "misses");
  for (size_t i = 0; i < 2; i++)
    assert_int_equal(count_of(json_array_get(list, i), "misses"), least);
  json_decref(list);
}

/* ---- memory ---- */

static void write_accesses(const char *path, unsigned count) {
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  for (unsigned i = 0; i < count; i++)
    fprintf(file, "%u,%u\n", i / 1000, (i * 2654435761u >> 8) % 5000);
  assert_int_equal(fclose(file), 0);
}

static long peak_of_children_kib(void) {
  struct rusage usage;
  assert_int_equal(getrusage(RUSAGE_CHILDREN, &usage), 0);
  return usage.ru_maxrss;
}

/* 3 million accesses to 5000 blocks: whole, they would take 160 MB. */
static void memory_follows_distinct_blocks_not_length(void **state) {
  static const char path[] = KVSTOW_BINARY_DIR "/test_lab_long.csv";
  static const char line[] =
      "replay --sim --trace " KVSTOW_BINARY_DIR "/test_lab_long.csv --policy lru --size 10% --csv";
  (void)state;
  write_accesses(path, 20000);
  kvstow_run(line);
  assert_int_equal(outcome.code, 0);
  const long before = peak_of_children_kib(); /* of all children until now */
  write_accesses(path, 3000000);
  kvstow_run(line);
  assert_int_equal(outcome.code, 0);
  assert_contains(outcome.out, ",3000000,5000,");
  const long after = peak_of_children_kib();
  unlink(path);
  if (after > before + 64 * 1024) fail_msg("%ld KiB, then %ld KiB", before, after);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(
          memory_follows_distinct_blocks_not_length), /* first: its peak is a child's */
      cmocka_unit_test(rows_come_in_the_order_asked_for),
      cmocka_unit_test(any_number_of_jobs_gives_the_same),
      cmocka_unit_test(a_grid_leaves_out_what_is_less_than_a_block),
      cmocka_unit_test(derived_figures_follow_from_counts),
      cmocka_unit_test(csv_has_the_keys_of_json),
      cmocka_unit_test(requests_in_flight_have_a_key_and_one_figure_in_both_formats),
      cmocka_unit_test(a_sample_says_what_it_is_and_how_far_it_is_off),
      cmocka_unit_test(a_plot_has_its_curves_and_axes),
      cmocka_unit_test(a_plot_has_room_for_its_legend_and_labels),
      cmocka_unit_test(a_plot_is_a_file_whatever_its_name),
      cmocka_unit_test(a_plot_without_values_is_refused),
      cmocka_unit_test(a_plot_that_cannot_be_written_is_refused_before_the_work),
      cmocka_unit_test(without_gnuplot_a_plot_is_refused_before_the_work),
      cmocka_unit_test(what_makes_no_sense_is_refused),
      cmocka_unit_test(a_policy_that_names_wrong_victims_is_refused),
      cmocka_unit_test(a_size_beyond_all_blocks_costs_no_more_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
