/* tests/test_sim_reference.c - the simulator against results made by others.
 *
 * libCacheSim's miss counts, prefix hits, two tiers: every row whose policy we ship, exactly. The
 * files lie in ../shared/traces; tests/test_sim_model.c and test_sim_oracle.c need nothing.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#include <cmocka.h>

#include "cli/sim/sim.h"
#include "kvstow/policy.h"
#include "tests/shared_traces.h"

enum { FIELDS = 24, TRACES = 4 };

static struct trace *loaded[TRACES];

static const struct trace *load(const char *name) {
  static const char *const names[TRACES] = {
      "mooncake_conversation", "mooncake_conversation_head1000", "weka_dev", "taubench_airline"};
  for (int i = 0; i < TRACES; i++) {
    if (strcmp(name, names[i]) != 0) continue;
    if (loaded[i] == NULL) {
      char file[128], why[256] = "not there";
      snprintf(file, sizeof file, "%s.jsonl.zst", name);
      const char *path = shared_trace(file);
      loaded[i] = path != NULL ? trace_load(path, NULL, why, sizeof why) : NULL;
      if (loaded[i] == NULL) fail_msg("%s: %s", file, why);
    }
    return loaded[i];
  }
  fail_msg("no trace %s", name);
  return NULL;
}

static int free_traces(void **state) {
  (void)state;
  for (int i = 0; i < TRACES; i++) trace_free(loaded[i]);
  return 0;
}

struct table {
  FILE *file;
  char line[1024];
  char *fields[FIELDS];
};

static bool table_open(struct table *table, const char *name) {
  const char *path = shared_trace(name);
  table->file = path != NULL ? fopen(path, "r") : NULL;
  return table->file != NULL && fgets(table->line, sizeof table->line, table->file) != NULL;
}

static bool table_next(struct table *table) {
  if (fgets(table->line, sizeof table->line, table->file) == NULL) {
    fclose(table->file);
    return false;
  }
  table->line[strcspn(table->line, "\r\n")] = '\0';
  char *rest = table->line;
  for (int i = 0; i < FIELDS; i++) {
    static char empty[] = "";
    char *field = rest != NULL ? strsep(&rest, ",") : NULL;
    table->fields[i] = field != NULL ? field : empty;
  }
  return true;
}

static uint64_t number(const struct table *table, int field) {
  return strtoull(table->fields[field], NULL, 10);
}

/* Block misses and prefix hits come from one pass, and several rows ask for the same one. */
static struct {
  const struct trace *trace;
  char policy[32];
  enum sim_order order;
  uint64_t blocks;
  struct sim_result result;
} passes[1024];
static size_t pass_count;

static struct sim_result run(const struct trace *trace, const struct sim_options *options) {
  struct sim_result result;
  char why[256];
  const bool one = options->tiers == SIM_ONE;
  for (size_t i = 0; i < pass_count && one; i++)
    if (passes[i].trace == trace && passes[i].order == options->order &&
        passes[i].blocks == options->blocks && strcmp(passes[i].policy, options->policy) == 0)
      return passes[i].result;
  if (sim_run(trace, options, &result, why, sizeof why) < 0) fail_msg("%s: %s", trace->name, why);
  if (one && pass_count < sizeof passes / sizeof passes[0]) {
    snprintf(passes[pass_count].policy, sizeof passes[0].policy, "%s", options->policy);
    passes[pass_count].trace = trace;
    passes[pass_count].order = options->order;
    passes[pass_count].blocks = options->blocks;
    passes[pass_count++].result = result;
  }
  return result;
}

/* The reference's name in our spelling, false if we don't ship it, or not its kind (W-TinyLFU:
 * tests/test_sim_wtinylfu.c). `_reversed` sets *order. */
static bool policy_name(const char *reference, char *name, size_t bytes, enum sim_order *order) {
  const kvstow_policy_ops *ops;
  snprintf(name, bytes, "%s", reference);
  *order = SIM_FRONT;
  char *suffix = strstr(name, "_reversed");
  if (suffix != NULL) {
    *suffix = '\0';
    *order = SIM_BACK;
  }
  for (char *c = name; *c != '\0'; c++)
    if (*c >= 'A' && *c <= 'Z') *c = (char)(*c - 'A' + 'a');
  if (strcasecmp(name, "s3-fifo") == 0) snprintf(name, bytes, "s3fifo");
  if (strcmp(name, "leaf_lru") == 0) { /* equal to lru_reversed, exactly */
    snprintf(name, bytes, "lru");
    *order = SIM_BACK;
  }
  return strcmp(name, "belady") == 0 || strcmp(name, "opt") == 0 || strcmp(name, "infinite") == 0 ||
         kvstow_policy_find(name, &ops, NULL, 0) == 0;
}

/* How far from the reference's misses a policy may be. LIRS's ghosts are bounded. LeCaR draws lots: its
 * misses spread by up to 4 % over seeds, libCacheSim's too, so their mean is compared. */
static double tolerance(const char *policy) {
  return strcmp(policy, "lirs") == 0 || strcmp(policy, "lecar") == 0 ? 0.02 : 0;
}

static double mean_misses(const struct trace *trace, const struct sim_options *options) {
  enum { SEEDS = 4 };
  if (strcmp(options->policy, "lecar") != 0) return (double)run(trace, options).misses;
  double sum = 0;
  for (uint64_t seed = 0; seed < SEEDS; seed++) {
    struct sim_options drawn = *options;
    struct sim_result result;
    char why[256];
    drawn.seed = seed;
    if (sim_run(trace, &drawn, &result, why, sizeof why) < 0) fail_msg("%s: %s", trace->name, why);
    sum += (double)result.misses;
  }
  return sum / SEEDS;
}

static void block_misses_equal_libcachesim(void **state) {
  (void)state;
  struct table table;
  unsigned rows = 0, wrong = 0;
  assert_true(table_open(&table, "reference_libcachesim_counts.csv"));
  while (table_next(&table)) {
    char policy[32];
    enum sim_order order;
    if (!policy_name(table.fields[1], policy, sizeof policy, &order)) continue;
    const struct sim_options options = {
        .policy = policy, .order = order, .blocks = number(&table, 3)};
    const struct trace *trace = load(table.fields[0]);
    assert_int_equal(trace->accesses, number(&table, 4));
    rows++;
    const double misses = mean_misses(trace, &options), expected = (double)number(&table, 5);
    const double allowed = expected * tolerance(policy);
    if (misses < expected - allowed || misses > expected + allowed) {
      wrong++;
      fprintf(stderr, "%s %s %s: %.0f misses, reference %s\n", table.fields[0], policy,
              table.fields[3], misses, table.fields[5]);
    }
  }
  fprintf(stderr, "block level: %u rows, %u wrong\n", rows, wrong);
  assert_int_equal(rows, 216); /* 12 policies at six sizes of three traces */
  assert_int_equal(wrong, 0);
}

static void prefix_hits_equal_reference(void **state) {
  (void)state;
  struct table table;
  unsigned rows = 0, wrong = 0;
  assert_true(table_open(&table, "reference_prefix.csv"));
  while (table_next(&table)) {
    char policy[32];
    enum sim_order order;
    if (!policy_name(table.fields[1], policy, sizeof policy, &order)) continue;
    const struct sim_options options = {
        .policy = policy, .order = order, .blocks = number(&table, 3)};
    const struct sim_result result = run(load(table.fields[0]), &options);
    assert_int_equal(result.requests, number(&table, 4));
    assert_int_equal(result.accesses, number(&table, 5));
    assert_int_equal(result.input_tokens, number(&table, 8));
    rows++;
    if (result.prefix_hit_blocks != number(&table, 6) ||
        result.prefix_hit_tokens != number(&table, 9)) {
      wrong++;
      fprintf(stderr, "%s %s %s: %llu blocks, %llu tokens; reference %s, %s\n", table.fields[0],
              table.fields[1], table.fields[3], (unsigned long long)result.prefix_hit_blocks,
              (unsigned long long)result.prefix_hit_tokens, table.fields[6], table.fields[9]);
    }
  }
  fprintf(stderr, "prefix: %u rows, %u wrong\n", rows, wrong);
  assert_int_equal(rows, 309); /* 17 policies and orders at six sizes of three traces; infinite */
  assert_int_equal(wrong, 0);
}

static void two_ideal_tiers_equal_reference(void **state) {
  (void)state;
  struct table table;
  unsigned rows = 0;
  assert_true(table_open(&table, "reference_twotier.csv"));
  while (table_next(&table)) {
    const struct sim_options options = {
        .tiers = SIM_IDEAL,
        .policy = "lru",
        .order = strcmp(table.fields[1], "reversed") == 0 ? SIM_BACK : SIM_FRONT,
        .blocks = number(&table, 2),
        .ssd_blocks = number(&table, 3)};
    const struct sim_result result = run(load(table.fields[0]), &options);
    assert_int_equal(result.accesses, number(&table, 4));
    assert_int_equal(result.ram_hit_blocks, number(&table, 5));
    assert_int_equal(result.ssd_hit_blocks, number(&table, 6));
    assert_int_equal(result.accesses - result.prefix_hit_blocks, number(&table, 7));
    assert_int_equal(result.ram_hit_tokens, number(&table, 11));
    assert_int_equal(result.ssd_hit_tokens, number(&table, 12));
    assert_int_equal(result.input_tokens - result.prefix_hit_tokens, number(&table, 13));
    assert_int_equal(result.ssd_writes, number(&table, 17));
    rows++;
  }
  assert_int_equal(rows, 6);
}

static void small_trace_equals_golden(void **state) {
  (void)state;
  struct table table;
  unsigned rows = 0;
  const struct trace *trace = load("mooncake_conversation_head1000");
  assert_true(table_open(&table, "golden_head1000.csv"));
  while (table_next(&table)) {
    struct sim_options options = {.policy = "lru", .blocks = number(&table, 0)};
    struct sim_result result = run(trace, &options);
    assert_int_equal(result.accesses, number(&table, 1));
    assert_int_equal(result.unique, number(&table, 2));
    assert_int_equal(result.misses, number(&table, 3));
    assert_int_equal(result.prefix_hit_blocks, number(&table, 6));
    options.policy = "fifo";
    assert_int_equal(run(trace, &options).misses, number(&table, 4));
    options.policy = "belady";
    assert_int_equal(run(trace, &options).misses, number(&table, 5));
    options.policy = "opt";
    assert_int_equal(run(trace, &options).prefix_hit_blocks, number(&table, 8));
    options.policy = "infinite";
    assert_int_equal(run(trace, &options).prefix_hit_blocks, number(&table, 9));
    options.policy = "lru";
    options.order = SIM_BACK;
    assert_int_equal(run(trace, &options).prefix_hit_blocks, number(&table, 7));
    rows++;
  }
  assert_int_equal(rows, 7);
}

int main(void) {
  if (shared_traces_missing("test_sim_reference")) return ALL_SKIPPED;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(block_misses_equal_libcachesim),
      cmocka_unit_test(prefix_hits_equal_reference),
      cmocka_unit_test(two_ideal_tiers_equal_reference),
      cmocka_unit_test(small_trace_equals_golden),
  };
  return cmocka_run_group_tests(tests, NULL, free_traces);
}
