/* cli/cmd_replay_sim.c - `kvstow replay --sim`: a trace against policies, without a store.
 *
 * One tier: every policy at every size. Two tiers (--ram, --ssd): every policy once. Results are
 * gathered first and printed at the end, so that nobody parses half a list.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/models.h"
#include "cli/replay.h"
#include "cli/sim/sim.h"

struct row {
  const char *policy;
  struct sim_result result;
};

struct rows {
  const struct replay_args *args;
  const struct trace *trace;
  bool two_tiers;
  struct row *rows;
  unsigned count;
};

static double share(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : (double)part / (double)whole;
}

static double accesses_per_s(const struct sim_result *result) {
  return result->seconds > 0 ? (double)result->accesses / result->seconds : 0;
}

static uint64_t recompute_blocks(const struct sim_result *result) {
  return result->accesses - result->prefix_hit_blocks;
}

/* ---- output ---- */

static json_t *row_json(const struct rows *rows, const struct row *row) {
  const struct sim_result *result = &row->result;
  json_t *object = json_pack(
      "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:f, s:f, s:I, s:f}", "trace",
      rows->trace->name, "policy", row->policy, "order",
      rows->args->order == REPLAY_FRONT ? "front" : "back", "size_blocks",
      (json_int_t)result->size_blocks, "requests", (json_int_t)result->requests, "accesses",
      (json_int_t)result->accesses, "unique", (json_int_t)result->unique, "misses",
      (json_int_t)result->misses, "block_hit", 1 - share(result->misses, result->accesses),
      "prefix_hit_blocks", (json_int_t)result->prefix_hit_blocks, "prefix_hit",
      share(result->prefix_hit_blocks, result->accesses), "token_hit",
      share(result->prefix_hit_tokens, result->input_tokens), "ssd_writes",
      (json_int_t)result->ssd_writes, "accesses_per_s", accesses_per_s(result));
  if (object == NULL || !rows->two_tiers) return object;
  const bool engine = rows->args->tiers == REPLAY_TIERS_ENGINE;
  json_t *more = json_pack(
      "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "tiers",
      engine ? "engine" : "ideal", "ram_blocks", (json_int_t)result->size_blocks, "ssd_blocks",
      (json_int_t)result->ssd_size_blocks, "ram_hit_blocks", (json_int_t)result->ram_hit_blocks,
      "ssd_hit_blocks", (json_int_t)result->ssd_hit_blocks, "recompute_blocks",
      (json_int_t)recompute_blocks(result), "ram_hit_tokens", (json_int_t)result->ram_hit_tokens,
      "ssd_hit_tokens", (json_int_t)result->ssd_hit_tokens, "recompute_tokens",
      (json_int_t)(result->input_tokens - result->prefix_hit_tokens), "ssd_rewrites",
      (json_int_t)result->ssd_rewrites, "reclaims", (json_int_t)result->reclaims);
  if (more == NULL || json_object_update_new(object, more) < 0) {
    json_decref(object);
    return NULL;
  }
  return object;
}

static int print_json(const struct rows *rows) {
  json_t *list = json_array();
  for (unsigned i = 0; i < rows->count && list != NULL; i++) {
    if (json_array_append_new(list, row_json(rows, &rows->rows[i])) < 0) {
      json_decref(list);
      list = NULL;
    }
  }
  if (list == NULL || json_dumpf(list, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) < 0) {
    fprintf(stderr, "kvstow replay: could not write JSON\n");
    json_decref(list);
    return EXIT_FAILED;
  }
  putchar('\n');
  json_decref(list);
  return EXIT_OK;
}

static void print_csv_text(const char *text) {
  const bool quote = strpbrk(text, ",\"\n") != NULL;
  if (quote) putchar('"');
  for (; *text != '\0'; text++) {
    if (quote && *text == '"') putchar('"');
    putchar(*text);
  }
  if (quote) putchar('"');
}

static int print_csv(const struct rows *rows) {
  printf(
      "trace,policy,order,size_blocks,requests,accesses,unique,misses,block_hit,"
      "prefix_hit_blocks,prefix_hit,token_hit,ssd_writes,accesses_per_s%s\n",
      rows->two_tiers ? ",ssd_blocks,ram_hit_blocks,ssd_hit_blocks,recompute_blocks,ssd_rewrites"
                      : "");
  for (unsigned i = 0; i < rows->count; i++) {
    const struct sim_result *result = &rows->rows[i].result;
    print_csv_text(rows->trace->name);
    putchar(',');
    print_csv_text(rows->rows[i].policy);
    printf(",%s,%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%.8f,%" PRIu64
           ",%.8f,%.8f,%" PRIu64 ",%.0f",
           rows->args->order == REPLAY_FRONT ? "front" : "back", result->size_blocks,
           result->requests, result->accesses, result->unique, result->misses,
           1 - share(result->misses, result->accesses), result->prefix_hit_blocks,
           share(result->prefix_hit_blocks, result->accesses),
           share(result->prefix_hit_tokens, result->input_tokens), result->ssd_writes,
           accesses_per_s(result));
    if (rows->two_tiers)
      printf(",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64, result->ssd_size_blocks,
             result->ram_hit_blocks, result->ssd_hit_blocks, recompute_blocks(result),
             result->ssd_rewrites);
    putchar('\n');
  }
  return EXIT_OK;
}

static int print_table(const struct rows *rows) {
  const struct trace *trace = rows->trace;
  printf("%s: %" PRIu64 " requests, %" PRIu64
         " block accesses, %u distinct blocks of %u tokens\n"
         "hits in %% of all blocks; prefix: the leading run held when a request starts\n\n",
         trace->name, trace->request_count, trace->accesses, trace->unique, trace->block_tokens);
  if (rows->two_tiers)
    printf("%-12s %10s %10s %8s %8s %8s %8s %10s %10s\n", "policy", "RAM blk", "SSD blk", "RAM %",
           "SSD %", "prefix %", "token %", "SSD writes", "rewritten");
  else
    printf("%-12s %10s %8s %8s %8s %10s %10s\n", "policy", "blocks", "block %", "prefix %",
           "token %", "writes", "M acc/s");
  for (unsigned i = 0; i < rows->count; i++) {
    const struct sim_result *result = &rows->rows[i].result;
    const double prefix = 100 * share(result->prefix_hit_blocks, result->accesses);
    const double token = 100 * share(result->prefix_hit_tokens, result->input_tokens);
    if (rows->two_tiers)
      printf("%-12s %10" PRIu64 " %10" PRIu64 " %8.2f %8.2f %8.2f %8.2f %10" PRIu64 " %10" PRIu64
             "\n",
             rows->rows[i].policy, result->size_blocks, result->ssd_size_blocks,
             100 * share(result->ram_hit_blocks, result->accesses),
             100 * share(result->ssd_hit_blocks, result->accesses), prefix, token,
             result->ssd_writes, result->ssd_rewrites);
    else
      printf("%-12s %10" PRIu64 " %8.2f %8.2f %8.2f %10" PRIu64 " %10.1f\n", rows->rows[i].policy,
             result->size_blocks, 100 - 100 * share(result->misses, result->accesses), prefix,
             token, result->ssd_writes, accesses_per_s(result) * 1e-6);
  }
  return EXIT_OK;
}

/* ---- work ---- */

__attribute__((format(printf, 1, 2))) static int usage(const char *format, ...) {
  va_list args;
  fputs("kvstow replay: ", stderr);
  va_start(args, format);
  vfprintf(stderr, format, args);
  va_end(args);
  fputc('\n', stderr);
  return EXIT_USAGE;
}

/* Bytes of a block, for sizes given in bytes; 0 when neither --bytes-per-token nor --model tells. */
static int block_bytes(const struct rows *rows, uint64_t *bytes) {
  uint64_t per_token = rows->args->bytes_per_token;
  if (per_token == 0 && rows->args->model != NULL) {
    const struct model *model = model_find(rows->args->model);
    if (model == NULL) return usage("no model `%s` is known", rows->args->model);
    per_token = model_bytes_per_token(model);
  }
  if (per_token > (UINT64_C(1) << 40))
    return usage("%" PRIu64 " bytes a token is too much", per_token);
  *bytes = per_token * rows->trace->block_tokens;
  return EXIT_OK;
}

static int to_blocks(const struct rows *rows, const struct size *size, const char *what,
                     uint64_t *blocks) {
  uint64_t bytes = 0;
  if (size->unit == SIZE_BYTES) {
    const int rc = block_bytes(rows, &bytes);
    if (rc != EXIT_OK) return rc;
    if (bytes == 0)
      return usage(
          "%s in bytes needs --bytes-per-token or --model; or give it in blocks (100blk) "
          "or percent of distinct blocks (2%%)",
          what);
  }
  *blocks = size_in_blocks(size, rows->trace->unique, bytes);
  if (*blocks == 0) return usage("%s is less than one block", what);
  return EXIT_OK;
}

static int run_row(struct rows *rows, const char *policy, uint64_t blocks, uint64_t ssd_blocks) {
  const struct replay_args *args = rows->args;
  struct sim_options options = {
      .tiers = SIM_ONE,
      .order = args->order == REPLAY_FRONT ? SIM_FRONT : SIM_BACK,
      .policy = policy,
      .ssd_policy = args->ssd_policy,
      .params = args->policy_params,
      .blocks = blocks,
      .ssd_blocks = ssd_blocks,
      .seed = args->seed,
      .segment_blocks = args->segment_blocks,
      .high = args->high,
      .low = args->low,
  };
  struct row *row = &rows->rows[rows->count];
  char why[512];
  if (rows->two_tiers) options.tiers = args->tiers == REPLAY_TIERS_IDEAL ? SIM_IDEAL : SIM_ENGINE;
  row->policy = policy;
  if (sim_run(rows->trace, &options, &row->result, why, sizeof why) < 0) return usage("%s", why);
  rows->count++;
  return EXIT_OK;
}

static int run_all(struct rows *rows, const char *const *policies, unsigned policy_count) {
  const struct replay_args *args = rows->args;
  uint64_t blocks = 0, ssd_blocks = 0;
  int rc = EXIT_OK;
  if (rows->two_tiers) {
    rc = to_blocks(rows, &args->ram, "--ram", &blocks);
    if (rc == EXIT_OK) rc = to_blocks(rows, &args->ssd, "--ssd", &ssd_blocks);
    for (unsigned p = 0; p < policy_count && rc == EXIT_OK; p++)
      rc = run_row(rows, policies[p], blocks, ssd_blocks);
    return rc;
  }
  for (unsigned s = 0; s < args->size_count && rc == EXIT_OK; s++) {
    rc = to_blocks(rows, &args->sizes[s], "--size", &blocks);
    for (unsigned p = 0; p < policy_count && rc == EXIT_OK; p++)
      rc = run_row(rows, policies[p], blocks, 0);
  }
  return rc;
}

static int print_rows(const struct rows *rows) {
  int rc = EXIT_OK;
  switch (rows->args->output) {
    case REPLAY_JSON:
      rc = print_json(rows);
      break;
    case REPLAY_CSV:
      rc = print_csv(rows);
      break;
    case REPLAY_TABLE:
      rc = print_table(rows);
      break;
  }
  if (fflush(stdout) != 0 || ferror(stdout)) {
    perror("kvstow replay: stdout");
    return EXIT_FAILED;
  }
  return rc;
}

int replay_split(char *list, const char **items, unsigned max) {
  unsigned count = 0;
  char *item;
  while ((item = strsep(&list, ",")) != NULL) {
    if (*item == '\0' || count == max) return -1;
    items[count++] = item;
  }
  return (int)count;
}

int cmd_replay_sim(const struct replay_args *args) {
  static const char *const default_policies[] = {"default"};
  const bool given = args->policy_count > 0;
  const char *const *policies = given ? args->policies : default_policies;
  const unsigned policy_count = given ? args->policy_count : 1;
  struct rows rows = {.args = args, .two_tiers = args->has_ram || args->has_ssd};
  char why[512];
  struct trace *trace = NULL;
  int rc;

  if (args->trace == NULL) return usage("--sim wants --trace");
  if (rows.two_tiers && (!args->has_ram || !args->has_ssd || args->size_count > 0))
    return usage("--sim wants --size, or --ram and --ssd");
  if (!rows.two_tiers && args->size_count == 0)
    return usage("--sim wants --size (one tier), or --ram and --ssd (two)");
  trace = trace_load(args->trace, args->limit, args->block_tokens, why, sizeof why);
  if (trace == NULL) {
    fprintf(stderr, "kvstow replay: %s\n", why);
    return strncmp(args->trace, "gen:", 4) == 0 ? EXIT_USAGE : EXIT_FAILED;
  }
  rows.trace = trace;
  rows.rows =
      calloc((size_t)policy_count * (rows.two_tiers ? 1 : args->size_count), sizeof *rows.rows);
  if (rows.rows == NULL) {
    fprintf(stderr, "kvstow replay: out of memory\n");
    rc = EXIT_FAILED;
  } else {
    rc = run_all(&rows, policies, policy_count);
    if (rc == EXIT_OK) rc = print_rows(&rows);
  }
  free(rows.rows);
  trace_free(trace);
  return rc;
}
