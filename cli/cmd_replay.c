/* cmd_replay.c - `kvstow replay`: reads the options once for both halves, --sim and --real.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/models.h"
#include "cli/policies.h"
#include "cli/replay.h"

static const char usage_text[] =
    "Usage: kvstow replay --sim  --trace T[,T...] --policy P[,P...] --size S[,S...]\n"
    "       kvstow replay --sim  --trace T[,T...] --policy P[,P...] --ram S --ssd S\n"
    "                     [--tiers ideal|engine]\n"
    "       kvstow replay --real --dir D [--dir D]... --trace T [--policy P] --ram S --ssd S\n"
    "\n"
    "Drives traces of requests as a server would: matches each request's prefix, restores the\n"
    "blocks held, stores the missing ones. --real moves real bytes through a store and checks\n"
    "every one that comes back; --sim moves none and is fast.\n"
    "\n"
    "  --trace T             a file, plain or .zst; - for stdin; or a generator:\n"
    "                        gen:conversations?requests=2000&seed=7; others are chat, agents,\n"
    "                        retrieval, documents, batches and mix; an unknown parameter\n"
    "                        (gen:chat?help) makes it say which there are\n"
    "  --format F            kvstow, mooncake, qwen, oracleGeneral, csv or csv:PARAMETERS;\n"
    "                        without it, the file's content and name tell\n"
    "  --limit N             the first N requests\n"
    "  --policy P[,P...]     eviction policies by name or path to a shared object (/ in it); with\n"
    "                        --sim --size also belady, opt (offline optima) and infinite\n"
    "  --policy-params K=V,...  parameters for each of them\n"
    "  --ssd-policy P        the SSD's; without it as in RAM, but lru with default\n"
    "  --ram S, --ssd S      budgets: bytes (4GiB), blocks (3655blk), or percent of the trace's\n"
    "                        unique blocks (2%)\n"
    "  --block-tokens N      tokens in a block\n"
    "  --bytes-per-token N   KV bytes of a token, all layers\n"
    "  --model NAME          a known layout instead; --model help lists them\n"
    "  --seed N              for policies that draw lots\n"
    "  --high X, --low X     watermarks of RAM, shares between 0 and 1\n"
    "  --json                for programs\n"
    "  --help                this text\n"
    "\n"
    "Only with --sim:\n"
    "  --size S[,S...]       one tier: every policy at every size; A..B:N is N sizes from A to B\n"
    "                        in equal ratios (0.1%..100%:20)\n"
    "  --order front|back|store  in which order a request's blocks are touched; store: as the\n"
    "                        engine does: what was found, then what is new, each last to first\n"
    "  --in-flight N         requests overlap: what one has to compute enters when N later ones\n"
    "                        have begun; 0, as without it: before the next begins\n"
    "  --tiers ideal|engine  two tiers: block by block, or with segments as the engine has them\n"
    "  --segment-blocks N    blocks in a segment, with --tiers engine\n"
    "  --jobs N              threads; one a processor without it\n"
    "  --cost A,B            prefilling n tokens takes A n + B n^2 microseconds (100,0.0016: an\n"
    "                        8B model on an A100, at half its peak)\n"
    "  --ssd-bytes S         the drive's size, for DWPD; the SSD tier's without it\n"
    "  --sample R            a share R of the chains stands for all (0.01; SHARDS)\n"
    "  --sample-by chain|block  what is sampled; blocks tell nothing of prefixes\n"
    "  --sample-error        run everything too, and show how far the sample is off\n"
    "  --plot FILE           curves over size, by gnuplot: .svg or .png\n"
    "  --plot-metric KEY     what of: a key of --json; prefix_hit without it\n"
    "  --csv                 rows of comma-separated values\n"
    "\n"
    "Only with --real:\n"
    "  --dir D               the store's directory, or one of them: once for each disk. Run again\n"
    "                        with the same ones in the same order, the replay starts from what\n"
    "                        survived\n"
    "  --part I/N            only the I-th of N equal runs of requests\n"
    "  --engine E            auto, uring or threads\n"
    "  --write-through       demote at once instead of when RAM fills\n";

enum {
  OPT_SIM = 256,
  OPT_REAL,
  OPT_TRACE,
  OPT_FORMAT,
  OPT_LIMIT,
  OPT_POLICY,
  OPT_POLICY_PARAMS,
  OPT_SSD_POLICY,
  OPT_RAM,
  OPT_SSD,
  OPT_BLOCK_TOKENS,
  OPT_BYTES_PER_TOKEN,
  OPT_MODEL,
  OPT_SEED,
  OPT_HIGH,
  OPT_LOW,
  OPT_JSON,
  OPT_CSV,
  OPT_SIZE,
  OPT_ORDER,
  OPT_TIERS,
  OPT_SEGMENT_BLOCKS,
  OPT_IN_FLIGHT,
  OPT_JOBS,
  OPT_COST,
  OPT_SSD_BYTES,
  OPT_SAMPLE,
  OPT_SAMPLE_BY,
  OPT_SAMPLE_ERROR,
  OPT_PLOT,
  OPT_PLOT_METRIC,
  OPT_DIR,
  OPT_PART,
  OPT_ENGINE,
  OPT_WRITE_THROUGH,
  OPT_HELP,
};

static const struct option options[] = {
    {"sim", no_argument, NULL, OPT_SIM},
    {"real", no_argument, NULL, OPT_REAL},
    {"trace", required_argument, NULL, OPT_TRACE},
    {"format", required_argument, NULL, OPT_FORMAT},
    {"limit", required_argument, NULL, OPT_LIMIT},
    {"policy", required_argument, NULL, OPT_POLICY},
    {"policy-params", required_argument, NULL, OPT_POLICY_PARAMS},
    {"ssd-policy", required_argument, NULL, OPT_SSD_POLICY},
    {"ram", required_argument, NULL, OPT_RAM},
    {"ssd", required_argument, NULL, OPT_SSD},
    {"block-tokens", required_argument, NULL, OPT_BLOCK_TOKENS},
    {"bytes-per-token", required_argument, NULL, OPT_BYTES_PER_TOKEN},
    {"model", required_argument, NULL, OPT_MODEL},
    {"seed", required_argument, NULL, OPT_SEED},
    {"high", required_argument, NULL, OPT_HIGH},
    {"low", required_argument, NULL, OPT_LOW},
    {"json", no_argument, NULL, OPT_JSON},
    {"csv", no_argument, NULL, OPT_CSV},
    {"size", required_argument, NULL, OPT_SIZE},
    {"order", required_argument, NULL, OPT_ORDER},
    {"tiers", required_argument, NULL, OPT_TIERS},
    {"segment-blocks", required_argument, NULL, OPT_SEGMENT_BLOCKS},
    {"in-flight", required_argument, NULL, OPT_IN_FLIGHT},
    {"jobs", required_argument, NULL, OPT_JOBS},
    {"cost", required_argument, NULL, OPT_COST},
    {"ssd-bytes", required_argument, NULL, OPT_SSD_BYTES},
    {"sample", required_argument, NULL, OPT_SAMPLE},
    {"sample-by", required_argument, NULL, OPT_SAMPLE_BY},
    {"sample-error", no_argument, NULL, OPT_SAMPLE_ERROR},
    {"plot", required_argument, NULL, OPT_PLOT},
    {"plot-metric", required_argument, NULL, OPT_PLOT_METRIC},
    {"dir", required_argument, NULL, OPT_DIR},
    {"part", required_argument, NULL, OPT_PART},
    {"engine", required_argument, NULL, OPT_ENGINE},
    {"write-through", no_argument, NULL, OPT_WRITE_THROUGH},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int usage_error(const char *message) {
  fprintf(stderr, "kvstow replay: %s; `kvstow replay --help` tells more\n", message);
  return EXIT_USAGE;
}

static const char *option_name(int code) {
  for (const struct option *o = options; o->name; o++) {
    if (o->val == code) return o->name;
  }
  return "?";
}

static int bad_value(int code, const char *value, const char *wanted) {
  fprintf(stderr, "kvstow replay: --%s %s: expected %s\n", option_name(code), value, wanted);
  return EXIT_USAGE;
}

static bool parse_number(const char *text, uint64_t max, uint64_t *number) {
  if (*text < '0' || *text > '9') return false;
  char *end;
  errno = 0;
  const unsigned long long value = strtoull(text, &end, 10);
  if (errno != 0 || *end != '\0' || value > max) return false;
  *number = value;
  return true;
}

static int parse_u64(int code, const char *text, uint64_t min, uint64_t max, uint64_t *number) {
  if (parse_number(text, max, number) && *number >= min) return -1;
  char wanted[80];
  if (max == UINT64_MAX) {
    snprintf(wanted, sizeof wanted, "a whole number, %llu or more", (unsigned long long)min);
  } else {
    snprintf(wanted, sizeof wanted, "a whole number from %llu to %llu", (unsigned long long)min,
             (unsigned long long)max);
  }
  return bad_value(code, text, wanted);
}

static int parse_u32(int code, const char *text, uint32_t *number) {
  uint64_t value = 0;
  const int status = parse_u64(code, text, 1, UINT32_MAX, &value);
  *number = (uint32_t)value;
  return status;
}

static int parse_in_flight(const char *text, uint32_t *number) {
  uint64_t value = 0;
  const int status = parse_u64(OPT_IN_FLIGHT, text, 0, REPLAY_IN_FLIGHT_MAX, &value);
  *number = (uint32_t)value;
  return status;
}

static int parse_share(int code, const char *text, double *share) {
  char *end;
  *share = strtod(text, &end);
  if (end != text && *end == '\0' && *share > 0.0 && *share <= 1.0) return -1;
  return bad_value(code, text, "a share above 0 and up to 1");
}

static int parse_size(int code, const char *text, struct size *size) {
  if (size_parse(text, size)) return -1;
  return bad_value(code, text, "a size: 4096, 64KiB, 4GiB, 3655blk or 2%");
}

static int parse_sizes(char *list, struct replay_args *args) {
  for (char *item; (item = strsep(&list, ",")) != NULL;) {
    const int count =
        size_parse_grid(item, args->sizes + args->size_count, REPLAY_SIZES_MAX - args->size_count);
    if (count < 0 && args->size_count < REPLAY_SIZES_MAX)
      return bad_value(
          OPT_SIZE, item,
          "a size: 4096, 64KiB, 4GiB, 3655blk or 2%; or a grid of them: 0.1%..100%:20");
    if (count < 0) return bad_value(OPT_SIZE, item, "at most 1024 sizes");
    args->size_count += (unsigned)count;
  }
  return -1;
}

/* Adds what `list` names, with commas between; an option may be repeated. */
static int parse_list(int code, char *list, const char **items, unsigned max, unsigned *count) {
  char wanted[80];
  const int added = replay_split(list, items + *count, max - *count);
  if (added >= 0) {
    *count += (unsigned)added;
    return -1;
  }
  snprintf(wanted, sizeof wanted, "at most %u names with commas between, none empty", max);
  return bad_value(code, "list", wanted);
}

static int parse_cost(const char *text, double cost_us[2]) {
  char *end;
  cost_us[0] = strtod(text, &end);
  if (end != text && *end == ',') {
    const char *second = end + 1;
    cost_us[1] = strtod(second, &end);
    const bool sane = cost_us[0] >= 0 && cost_us[1] >= 0 && cost_us[0] + cost_us[1] > 0 &&
                      cost_us[0] < 1e9 && cost_us[1] < 1e9;
    if (end != second && *end == '\0' && sane) return -1;
  }
  return bad_value(OPT_COST, text,
                   "microseconds A,B: of a token, and of a token squared (100,0.0016)");
}

static int parse_format(const char *text, struct replay_args *args) {
  char why[256];
  if (!trace_format_known(text, why, sizeof why)) {
    fprintf(stderr, "kvstow replay: --format %s: %s\n", text, why);
    return EXIT_USAGE;
  }
  args->format = text;
  return -1;
}

static int parse_part(char *text, struct replay_args *args) {
  uint64_t part, parts;
  char *slash = strchr(text, '/');
  if (slash) {
    *slash = '\0';
    if (parse_number(text, UINT32_MAX, &part) && parse_number(slash + 1, UINT32_MAX, &parts) &&
        part >= 1 && part <= parts) {
      args->part = (uint32_t)part;
      args->parts = (uint32_t)parts;
      return -1;
    }
    *slash = '/';
  }
  return bad_value(OPT_PART, text, "I/N with I from 1 to N, as in 1/2");
}

static int parse_model(const char *name, struct replay_args *args) {
  char names[1024];
  if (model_find(name)) {
    args->model = name;
    return -1;
  }
  model_names(names, sizeof names);
  if (strcmp(name, "help") == 0) {
    puts(names);
    return EXIT_OK;
  }
  return bad_value(OPT_MODEL, name, names);
}

static int print_policies(void) {
  char names[1024];
  policy_names(names, sizeof names);
  printf("%s\nwith --sim --size also: belady, opt, infinite\n", names);
  return EXIT_OK;
}

/* One of two words. */
static int parse_either(int code, const char *text, const char *first, const char *second,
                        bool *is_second) {
  *is_second = strcmp(text, second) == 0;
  if (*is_second || strcmp(text, first) == 0) return -1;
  char wanted[80];
  snprintf(wanted, sizeof wanted, "%s or %s", first, second);
  return bad_value(code, text, wanted);
}

static int parse_order(const char *text, enum sim_order *order) {
  for (unsigned i = 0; sim_order_name(i) != NULL; i++) {
    *order = (enum sim_order)i;
    if (strcmp(text, sim_order_name(i)) == 0) return -1;
  }
  return bad_value(OPT_ORDER, text, "front, back or store");
}

static int parse_output(enum replay_output output, struct replay_args *args) {
  if (args->output != REPLAY_TABLE && args->output != output) {
    fputs("kvstow replay: --json or --csv, not both\n", stderr);
    return EXIT_USAGE;
  }
  args->output = output;
  return -1;
}

/* -1 to go on, or an exit code. */
static int parse_option(int code, char *value, struct replay_args *args) {
  bool second;
  int status = -1;
  switch (code) {
    case OPT_TRACE:
      return parse_list(code, value, args->traces, REPLAY_TRACES_MAX, &args->trace_count);
    case OPT_FORMAT:
      return parse_format(value, args);
    case OPT_LIMIT:
      return parse_u64(code, value, 1, UINT64_MAX, &args->limit);
    case OPT_POLICY:
      if (strcmp(value, "help") == 0) return print_policies();
      return parse_list(code, value, args->policies, REPLAY_POLICIES_MAX, &args->policy_count);
    case OPT_POLICY_PARAMS:
      args->policy_params = value;
      return -1;
    case OPT_SSD_POLICY:
      args->ssd_policy = value;
      return -1;
    case OPT_RAM:
      args->has_ram = true;
      return parse_size(code, value, &args->ram);
    case OPT_SSD:
      args->has_ssd = true;
      return parse_size(code, value, &args->ssd);
    case OPT_BLOCK_TOKENS:
      return parse_u32(code, value, &args->block_tokens);
    case OPT_BYTES_PER_TOKEN:
      return parse_u64(code, value, 1, UINT64_C(1) << 40, &args->bytes_per_token);
    case OPT_MODEL:
      return parse_model(value, args);
    case OPT_SEED:
      return parse_u64(code, value, 0, UINT64_MAX, &args->seed);
    case OPT_HIGH:
      return parse_share(code, value, &args->high);
    case OPT_LOW:
      return parse_share(code, value, &args->low);
    case OPT_JSON:
      return parse_output(REPLAY_JSON, args);
    case OPT_CSV:
      return parse_output(REPLAY_CSV, args);
    case OPT_SIZE:
      return parse_sizes(value, args);
    case OPT_ORDER:
      return parse_order(value, &args->order);
    case OPT_TIERS:
      status = parse_either(code, value, "ideal", "engine", &second);
      args->tiers = second ? REPLAY_TIERS_ENGINE : REPLAY_TIERS_IDEAL;
      return status;
    case OPT_SEGMENT_BLOCKS:
      return parse_u32(code, value, &args->segment_blocks);
    case OPT_IN_FLIGHT:
      return parse_in_flight(value, &args->in_flight);
    case OPT_JOBS:
      return parse_u32(code, value, &args->jobs);
    case OPT_COST:
      return parse_cost(value, args->cost_us);
    case OPT_SSD_BYTES:
      args->has_ssd_bytes = true;
      return parse_size(code, value, &args->ssd_bytes);
    case OPT_SAMPLE:
      return parse_share(code, value, &args->sample);
    case OPT_SAMPLE_BY:
      status = parse_either(code, value, "chain", "block", &second);
      args->sample_by = second ? TRACE_SAMPLE_BLOCKS : TRACE_SAMPLE_CHAINS;
      return status;
    case OPT_SAMPLE_ERROR:
      args->sample_error = true;
      return -1;
    case OPT_PLOT:
      args->plot = value;
      return -1;
    case OPT_PLOT_METRIC:
      args->plot_metric = value;
      return -1;
    case OPT_DIR:
      if (args->dir_count == REPLAY_DIRS_MAX)
        return usage_error("--dir: a store has 16 directories at most");
      args->dirs[args->dir_count++] = value;
      return -1;
    case OPT_PART:
      return parse_part(value, args);
    case OPT_ENGINE:
      if (strcmp(value, "auto") != 0 && strcmp(value, "uring") != 0 &&
          strcmp(value, "threads") != 0) {
        return bad_value(code, value, "auto, uring or threads");
      }
      args->engine = value;
      return -1;
    case OPT_WRITE_THROUGH:
      args->write_through = true;
      return -1;
    case OPT_HELP:
      fputs(usage_text, stdout);
      return EXIT_OK;
    default:
      return EXIT_USAGE; /* getopt_long has said why */
  }
}

/* What was asked for, and the last option given of each kind: those that a simulation or a store would ignore are refused. */
struct given {
  bool sim, real;
  int sim_option, real_option;
  int two_tiers_option,
      engine_option; /* of --sim with --ram and --ssd, and of that with --tiers engine */
};

/* Which half an option belongs to. */
static bool only_sim(int code) {
  return code == OPT_SIZE || code == OPT_ORDER || code == OPT_TIERS || code == OPT_CSV ||
         (code >= OPT_SEGMENT_BLOCKS && code < OPT_DIR);
}

static bool only_real(int code) {
  return code == OPT_DIR || code == OPT_PART || code == OPT_ENGINE || code == OPT_WRITE_THROUGH;
}

static void note(struct given *given, int code) {
  given->sim |= code == OPT_SIM;
  given->real |= code == OPT_REAL;
  if (only_sim(code)) given->sim_option = code;
  if (only_real(code)) given->real_option = code;
  if (code == OPT_TIERS || code == OPT_SSD_POLICY) given->two_tiers_option = code;
  if (code == OPT_SEGMENT_BLOCKS || code == OPT_HIGH || code == OPT_LOW)
    given->engine_option = code;
}

static int check_policy(int code, const char *policy, const char *params, bool one_tier) {
  char why[1500];
  if (policy_offline(policy)) {
    if (one_tier) return -1;
    snprintf(why, sizeof why, "%s is offline only: use --sim with --size", policy);
  } else if (policy_check(policy, params, why, sizeof why)) {
    return -1;
  }
  fprintf(stderr, "kvstow replay: --%s %s: %s\n", option_name(code), policy, why);
  return EXIT_USAGE;
}

static int check_policies(const struct replay_args *args, bool sim) {
  const bool one_tier = sim && args->size_count > 0;
  int status = -1;
  for (unsigned p = 0; p < args->policy_count && status < 0; p++)
    status = check_policy(OPT_POLICY, args->policies[p], args->policy_params, one_tier);
  if (status < 0 && args->policy_count == 0 && args->policy_params != NULL)
    status = check_policy(OPT_POLICY, "default", args->policy_params, one_tier);
  if (status < 0 && args->ssd_policy != NULL)
    status = check_policy(OPT_SSD_POLICY, args->ssd_policy, NULL, false);
  return status;
}

/* What needs more than one option to be judged. */
static int stray(int code, const char *with) {
  char message[80];
  snprintf(message, sizeof message, "--%s goes with %s", option_name(code), with);
  return usage_error(message);
}

static int check(const struct replay_args *args, const struct given *given) {
  const bool two_tiers = args->has_ram || args->has_ssd;
  const bool engine = args->tiers == REPLAY_TIERS_ENGINE;
  if (given->sim == given->real) return usage_error("one of --sim and --real is needed");
  if (args->trace_count == 0) return usage_error("--trace is needed");
  if (given->real && given->sim_option) return stray(given->sim_option, "--sim");
  if (given->sim && given->real_option) return stray(given->real_option, "--real");
  if (given->sim && given->two_tiers_option && !two_tiers)
    return stray(given->two_tiers_option, "--ram and --ssd");
  if (given->sim && given->engine_option && !(two_tiers && engine))
    return stray(given->engine_option, "--tiers engine");
  if (args->model && args->bytes_per_token) {
    return usage_error("--model and --bytes-per-token exclude each other");
  }
  if (args->low > 0 && args->high > 0 && args->low > args->high) {
    return usage_error("--low is above --high");
  }
  if (args->sample_error && args->sample <= 0) return usage_error("--sample-error needs --sample");
  if (args->sample_by == TRACE_SAMPLE_BLOCKS && args->sample <= 0)
    return usage_error("--sample-by needs --sample");
  if (args->in_flight > 0 && args->sample > 0)
    return usage_error("--in-flight counts all requests: it can't be sampled, leave --sample out");
  if (args->plot_metric && !args->plot) return usage_error("--plot-metric needs --plot");
  if (!given->real) return -1;
  if (args->dir_count == 0) return usage_error("--real needs --dir, the store's directory");
  if (!args->has_ram || !args->has_ssd) return usage_error("--real needs --ram and --ssd");
  if (args->policy_count > 1) return usage_error("--real takes one --policy");
  if (args->trace_count > 1) return usage_error("--real takes one --trace");
  return -1;
}

int cmd_replay(int argc, char **argv) {
  static struct replay_args args; /* large */
  args = (struct replay_args){.cost_us = {100, 0.0016}};
  struct given given = {.sim = false};
  optind = 0;
  for (int code; (code = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    note(&given, code);
    if (code == OPT_SIM || code == OPT_REAL) continue;
    const int status = parse_option(code, optarg, &args);
    if (status >= 0) return status;
  }
  if (optind < argc) {
    fprintf(stderr, "kvstow replay: %s: not an option; is --trace missing before it?\n",
            argv[optind]);
    return EXIT_USAGE;
  }
  int status = check(&args, &given);
  if (status < 0) status = check_policies(&args, given.sim);
  if (status >= 0) return status;
  return given.sim ? cmd_replay_sim(&args) : cmd_replay_real(&args);
}
