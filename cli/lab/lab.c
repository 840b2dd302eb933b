/* cli/lab/lab.c - `kvstow replay --sim`: what is to be run, and running it; see lab.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/lab/lab.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <kvstow/kvstow.h>

#include "cli/commands.h"
#include "cli/lab/jobs.h"
#include "cli/models.h"

__attribute__((format(printf, 2, 3))) static int fail(int code, const char *format, ...) {
  va_list args;
  fputs("kvstow replay: ", stderr);
  va_start(args, format);
  vfprintf(stderr, format, args);
  va_end(args);
  fputc('\n', stderr);
  return code;
}

/* ---- loading ---- */

static double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void load_one(void *context, size_t i) {
  struct lab *lab = context;
  const struct replay_args *args = lab->args;
  struct lab_trace *of = &lab->traces[i];
  const struct trace_options options = {
      .format = args->format, .limit = args->limit, .block_tokens = args->block_tokens};
  of->trace = trace_load(args->traces[i], &options, of->why, sizeof of->why);
  if (of->trace == NULL || args->sample <= 0) return;
  const double start = seconds_now();
  if (trace_sample_make(of->trace, args->sample, args->sample_by, &of->sample, of->why,
                        sizeof of->why) < 0) {
    trace_free(of->trace);
    of->trace = NULL;
  }
  of->sample_seconds = seconds_now() - start;
}

static int load_all(struct lab *lab) {
  const struct replay_args *args = lab->args;
  lab->traces = calloc(args->trace_count, sizeof *lab->traces);
  if (lab->traces == NULL) return fail(EXIT_FAILED, "out of memory");
  jobs_run("load", args->trace_count, lab->jobs, load_one, lab);
  for (unsigned i = 0; i < args->trace_count; i++) {
    if (lab->traces[i].trace != NULL) continue;
    const bool generated = strncmp(args->traces[i], "gen:", 4) == 0;
    return fail(generated ? EXIT_USAGE : EXIT_FAILED, "%s", lab->traces[i].why);
  }
  return EXIT_OK;
}

/* ---- sizes ---- */

/* Bytes of a block, for sizes given in bytes; 0 when neither --bytes-per-token nor --model tells. */
static int block_bytes(const struct lab *lab, const struct trace *trace, uint64_t *bytes) {
  uint64_t per_token = lab->args->bytes_per_token;
  if (per_token == 0 && lab->args->model != NULL) {
    const struct model *model = model_find(lab->args->model);
    if (model == NULL) return fail(EXIT_USAGE, "no model `%s` is known", lab->args->model);
    per_token = model_bytes_per_token(model);
  }
  if (per_token > (UINT64_C(1) << 40))
    return fail(EXIT_USAGE, "%" PRIu64 " bytes a token is too much", per_token);
  *bytes = per_token * trace->block_tokens;
  return EXIT_OK;
}

/* A size of a grid may come out as 0 blocks; any other must not. */
static int to_blocks(const struct lab *lab, const struct trace *trace, const struct size *size,
                     const char *what, uint64_t *blocks) {
  uint64_t bytes = 0;
  if (size->unit == SIZE_BYTES) {
    const int rc = block_bytes(lab, trace, &bytes);
    if (rc != EXIT_OK) return rc;
    if (bytes == 0)
      return fail(EXIT_USAGE,
                  "%s in bytes needs --bytes-per-token or --model; or give it in blocks (100blk) "
                  "or percent of distinct blocks (2%%)",
                  what);
  }
  *blocks = size_in_blocks(size, trace->unique, bytes);
  if (*blocks == 0 && !size->in_grid) return fail(EXIT_USAGE, "%s is less than one block", what);
  return EXIT_OK;
}

/* ---- rows ---- */

static void add_rows(struct lab *lab, const struct lab_trace *of, uint64_t blocks,
                     uint64_t ssd_blocks) {
  static const char *const default_policies[] = {"default"};
  const bool given = lab->args->policy_count > 0;
  const unsigned count = given ? lab->args->policy_count : 1;
  for (unsigned p = 0; p < count; p++)
    lab->rows[lab->row_count++] =
        (struct lab_row){.of = of,
                         .policy = given ? lab->args->policies[p] : default_policies[p],
                         .blocks = blocks,
                         .ssd_blocks = ssd_blocks};
}

static int plan_trace(struct lab *lab, struct lab_trace *of) {
  const struct replay_args *args = lab->args;
  uint64_t blocks = 0, ssd_blocks = 0, before = 0;
  int rc = EXIT_OK;
  if (args->has_ssd_bytes)
    rc = to_blocks(lab, of->trace, &args->ssd_bytes, "--ssd-bytes", &of->drive_blocks);
  if (rc != EXIT_OK) return rc;
  if (lab->two_tiers) {
    rc = to_blocks(lab, of->trace, &args->ram, "--ram", &blocks);
    if (rc == EXIT_OK) rc = to_blocks(lab, of->trace, &args->ssd, "--ssd", &ssd_blocks);
    if (rc == EXIT_OK) add_rows(lab, of, blocks, ssd_blocks);
    return rc;
  }
  const size_t first = lab->row_count;
  for (unsigned s = 0; s < args->size_count; s++) {
    rc = to_blocks(lab, of->trace, &args->sizes[s], "--size", &blocks);
    if (rc != EXIT_OK) return rc;
    const bool again = args->sizes[s].in_grid && (blocks == 0 || blocks == before);
    if (!again) add_rows(lab, of, blocks, 0);
    before = blocks;
  }
  if (lab->row_count > first) return EXIT_OK;
  return fail(EXIT_USAGE, "%s: every --size is less than one block", of->trace->name);
}

static int plan(struct lab *lab) {
  const struct replay_args *args = lab->args;
  const size_t policies = args->policy_count > 0 ? args->policy_count : 1;
  const size_t sizes = lab->two_tiers ? 1 : args->size_count;
  lab->rows = calloc(policies * sizes * args->trace_count, sizeof *lab->rows);
  if (lab->rows == NULL) return fail(EXIT_FAILED, "out of memory");
  int rc = EXIT_OK;
  for (unsigned t = 0; t < args->trace_count && rc == EXIT_OK; t++)
    rc = plan_trace(lab, &lab->traces[t]);
  return rc;
}

static uint64_t scaled(uint64_t part, double factor, uint64_t most) {
  const double value = (double)part * factor + 0.5;
  return value < (double)most ? (uint64_t)value : most;
}

/* From counts in the sample to counts in the whole trace. Chains: as shares of what was sampled.
 * Blocks: as shares of what should have been sampled, and the difference counts as hits, because
 * what is missing or too much is a few blocks that are used all the time (SHARDS-adj). */
static void estimate(const struct lab *lab, struct lab_row *row) {
  const struct trace *whole = row->of->trace, *part = row->of->sample.trace;
  struct sim_result *r = &row->result;
  const bool by_block = lab->args->sample_by == TRACE_SAMPLE_BLOCKS;
  const double blocks =
      by_block ? 1 / row->of->sample.rate : (double)whole->accesses / (double)part->accesses;
  const double tokens = (double)whole->input_tokens / (double)part->input_tokens;
  const double squared = whole->input_tokens_squared / part->input_tokens_squared;
  r->size_blocks = strcmp(row->policy, "infinite") == 0 ? whole->unique : row->blocks;
  r->ssd_size_blocks = row->ssd_blocks;
  r->requests = whole->request_count;
  r->accesses = whole->accesses;
  r->unique = whole->unique;
  r->input_tokens = whole->input_tokens;
  r->input_tokens_squared = whole->input_tokens_squared;
  r->misses = scaled(r->misses, blocks, whole->accesses);
  r->ssd_writes = scaled(r->ssd_writes, blocks, UINT64_MAX);
  r->writes_read = scaled(r->writes_read, blocks, r->ssd_writes);
  r->ssd_rewrites = scaled(r->ssd_rewrites, blocks, r->ssd_writes);
  r->prefix_hit_blocks = scaled(r->prefix_hit_blocks, blocks, whole->accesses);
  r->ram_hit_blocks = scaled(r->ram_hit_blocks, blocks, whole->accesses);
  r->ssd_hit_blocks = scaled(r->ssd_hit_blocks, blocks, whole->accesses);
  r->prefix_hit_tokens = scaled(r->prefix_hit_tokens, tokens, whole->input_tokens);
  r->ram_hit_tokens = scaled(r->ram_hit_tokens, tokens, whole->input_tokens);
  r->ssd_hit_tokens = scaled(r->ssd_hit_tokens, tokens, whole->input_tokens);
  r->prefix_hit_tokens_squared *= squared;
}

/* The SSD's policy: as in RAM, but for the store's own default, which is of two. NULL: as in RAM. */
static const char *ssd_policy_of(const struct replay_args *args, const char *policy) {
  kvstow_options defaults;
  kvstow_options_init(&defaults);
  if (args->ssd_policy != NULL || strcmp(policy, "default") != 0) return args->ssd_policy;
  return defaults.ssd_policy;
}

static void run_row(void *context, size_t i) {
  struct lab *lab = context;
  struct lab_row *row = &lab->rows[i];
  const struct replay_args *args = lab->args;
  const struct trace_sample *sample = &row->of->sample;
  struct sim_options options = {
      .tiers = SIM_ONE,
      .order = args->order,
      .policy = row->policy,
      .ssd_policy = ssd_policy_of(args, row->policy),
      .params = args->policy_params,
      .blocks = row->blocks,
      .ssd_blocks = row->ssd_blocks,
      .in_flight = args->in_flight,
      .seed = args->seed,
      .segment_blocks = args->segment_blocks,
      .high = args->high,
      .low = args->low,
  };
  if (lab->two_tiers) options.tiers = args->tiers == REPLAY_TIERS_IDEAL ? SIM_IDEAL : SIM_ENGINE;
  if (args->sample <= 0) {
    sim_run(row->of->trace, &options, &row->result, row->why, sizeof row->why);
    return;
  }
  if (args->sample_error &&
      sim_run(row->of->trace, &options, &row->whole, row->why, sizeof row->why) < 0)
    return;
  options.blocks = trace_sample_size(sample, row->blocks);
  if (lab->two_tiers) options.ssd_blocks = trace_sample_size(sample, row->ssd_blocks);
  if (sim_run(sample->trace, &options, &row->result, row->why, sizeof row->why) == 0)
    estimate(lab, row);
}

static int run_all(struct lab *lab) {
  jobs_run("replay", lab->row_count, lab->jobs, run_row, lab);
  for (size_t i = 0; i < lab->row_count; i++)
    if (lab->rows[i].why[0] != '\0') return fail(EXIT_USAGE, "%s", lab->rows[i].why);
  return EXIT_OK;
}

/* ---- the command ---- */

int replay_split(char *list, const char **items, unsigned max) {
  unsigned count = 0;
  char *item;
  while ((item = strsep(&list, ",")) != NULL) {
    if (*item == '\0' || count == max) return -1;
    items[count++] = item;
  }
  return (int)count;
}

static int check(const struct lab *lab) {
  const struct replay_args *args = lab->args;
  if (args->trace_count == 0) return fail(EXIT_USAGE, "--sim wants --trace");
  if (lab->two_tiers && (!args->has_ram || !args->has_ssd || args->size_count > 0))
    return fail(EXIT_USAGE, "--sim wants --size, or --ram and --ssd");
  if (!lab->two_tiers && args->size_count == 0)
    return fail(EXIT_USAGE, "--sim wants --size (one tier), or --ram and --ssd (two)");
  if (args->sample >= 1) return fail(EXIT_USAGE, "--sample wants a share below 1");
  if (args->plot == NULL) return EXIT_OK;
  if (lab->two_tiers) return fail(EXIT_USAGE, "--plot draws curves over --size: of one tier");
  if (args->plot_metric != NULL && lab_metric_find(args->plot_metric) == NULL) {
    char keys[512] = "";
    for (const struct lab_metric *m = lab_metrics; m->key != NULL; m++)
      if (m->title != NULL)
        snprintf(keys + strlen(keys), sizeof keys - strlen(keys), " %s", m->key);
    return fail(EXIT_USAGE, "--plot-metric %s: there are%s", args->plot_metric, keys);
  }
  return lab_plot_check(args->plot);
}

static void lab_finish(struct lab *lab) {
  for (unsigned i = 0; lab->traces != NULL && i < lab->args->trace_count; i++) {
    trace_free(lab->traces[i].trace);
    trace_free(lab->traces[i].sample.trace);
  }
  free(lab->traces);
  free(lab->rows);
}

int cmd_replay_sim(const struct replay_args *args) {
  struct lab lab = {.args = args,
                    .two_tiers = args->has_ram || args->has_ssd,
                    .jobs = args->jobs > 0 ? args->jobs : jobs_default()};
  int rc = check(&lab);
  if (rc != EXIT_OK) return rc;
  rc = load_all(&lab);
  if (rc == EXIT_OK) rc = plan(&lab);
  if (rc == EXIT_OK) rc = run_all(&lab);
  if (rc == EXIT_OK && args->plot != NULL) rc = lab_plot(&lab);
  if (rc == EXIT_OK) rc = lab_print(&lab);
  lab_finish(&lab);
  return rc;
}
