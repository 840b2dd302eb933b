/* frame.c - see frame.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/frame.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/measure.h"
#include "bench/raw_uring.h"
#include "cli/commands.h"
#include "cli/size.h"
#include "cli/table.h"

enum { ROUNDS = 7, ROUNDS_QUICK = 5 };

/* ---- options -------------------------------------------------------------------------------- */

enum {
  OPT_JSON = 256,
  OPT_QUICK,
  OPT_CHECK,
  OPT_ROUNDS,
  OPT_DIR,
  OPT_SIZE,
  OPT_BLOCKS,
  OPT_SHAPE,
  OPT_THREADS,
  OPT_PATH,
  OPT_ENGINE,
  OPT_CSV,
  OPT_OP,
  OPT_BLOCK,
  OPT_DEPTH,
  OPT_GENERATE,
  OPT_SEED,
  OPT_ENCRYPT,
  OPT_PEERS,
  OPT_HELP
};

static const struct {
  struct option option;
  unsigned accepted; /* 0: always */
  const char *help;
} options[] = {
    {{"quick", no_argument, NULL, OPT_QUICK}, 0, "small and short, for CI"},
    {{"rounds", required_argument, NULL, OPT_ROUNDS}, 0, "N interleaved rounds; 7, quick 5"},
    {{"check", no_argument, NULL, OPT_CHECK}, 0, "exit with 1 when a target is missed"},
    {{"json", no_argument, NULL, OPT_JSON}, 0, "for programs"},
    {{"dir", required_argument, NULL, OPT_DIR}, BENCH_DIR, "D, where the scratch store is made"},
    {{"size", required_argument, NULL, OPT_SIZE}, BENCH_SIZE, "BYTES moved in a round"},
    {{"blocks", required_argument, NULL, OPT_BLOCKS}, BENCH_BLOCKS, "N blocks in the index"},
    {{"shape", required_argument, NULL, OPT_SHAPE}, BENCH_SHAPE, "NAME of the one KV layout"},
    {{"threads", required_argument, NULL, OPT_THREADS}, BENCH_THREADS, "N, only so many"},
    {{"path", required_argument, NULL, OPT_PATH}, BENCH_PATH, "NAME of the one path"},
    {{"op", required_argument, NULL, OPT_OP}, BENCH_OP, "NAME of the one operation"},
    {{"block", required_argument, NULL, OPT_BLOCK}, BENCH_BLOCK, "BYTES, only this block size"},
    {{"depth", required_argument, NULL, OPT_DEPTH}, BENCH_DEPTH, "N, only so many in flight"},
    {{"engine", required_argument, NULL, OPT_ENGINE}, BENCH_ENGINE, "uring or threads"},
    {{"csv", no_argument, NULL, OPT_CSV}, BENCH_CSV, "rows as comma-separated values"},
    {{"generate", required_argument, NULL, OPT_GENERATE}, BENCH_MAKE, "FILE to make, of --size"},
    {{"seed", required_argument, NULL, OPT_SEED}, BENCH_MAKE, "N; 1"},
    {{"encrypt", no_argument, NULL, OPT_ENCRYPT}, BENCH_ENCRYPT, "with a store encrypted on SSD"},
    {{"peers", required_argument, NULL, OPT_PEERS}, BENCH_PEERS, "A,B: those stores alone"},
    {{"help", no_argument, NULL, OPT_HELP}, 0, "this text"},
};

enum { OPTIONS = sizeof options / sizeof options[0] };

static void print_usage(const char *usage, unsigned accepts) {
  fputs(usage, stdout);
  putchar('\n');
  for (size_t i = 0; i < OPTIONS; i++) {
    if (options[i].accepted == 0 || (options[i].accepted & accepts) != 0)
      printf("  --%-10s %s\n", options[i].option.name, options[i].help);
  }
}

static int bad_value(const char *name, const char *option, const char *value, const char *wanted) {
  fprintf(stderr, "%s: --%s %s: expected %s\n", name, option, value, wanted);
  return EXIT_USAGE;
}

static bool parse_u64(const char *text, uint64_t max, uint64_t *value) {
  if (*text < '0' || *text > '9') return false;
  char *end;
  errno = 0;
  *value = strtoull(text, &end, 10);
  return errno == 0 && *end == '\0' && *value > 0 && *value <= max;
}

static const uint8_t some_key[KVSTOW_KEY_BYTES] = "no secret: the bench's own bytes";

/* -1 to go on, or an exit code. */
static int parse_option(const char *name, int code, const char *value, struct bench_args *args) {
  uint64_t number = 0;
  switch (code) {
    case OPT_JSON:
      args->json = true;
      return -1;
    case OPT_ENCRYPT:
      args->encryption_key = some_key;
      return -1;
    case OPT_QUICK:
      args->quick = true;
      return -1;
    case OPT_CHECK:
      args->check = true;
      return -1;
    case OPT_ROUNDS:
      if (!parse_u64(value, MEASURE_ROUNDS_MAX, &number))
        return bad_value(name, "rounds", value, "a number from 1 to 64");
      args->rounds = (unsigned)number;
      return -1;
    case OPT_THREADS:
      if (!parse_u64(value, 256, &number))
        return bad_value(name, "threads", value, "a number from 1 to 256");
      args->threads = (unsigned)number;
      return -1;
    case OPT_BLOCKS:
      if (!parse_u64(value, UINT32_MAX / 2, &args->blocks))
        return bad_value(name, "blocks", value, "a number of blocks");
      return -1;
    case OPT_SIZE:
      if (!size_parse_bytes(value, &args->size))
        return bad_value(name, "size", value, "bytes: 4096, 64MiB, 1GiB");
      return -1;
    case OPT_BLOCK:
      if (!size_parse_bytes(value, &args->block_bytes))
        return bad_value(name, "block", value, "bytes: 4096, 64KiB, 1MiB");
      return -1;
    case OPT_DEPTH:
      if (!parse_u64(value, 1024, &number))
        return bad_value(name, "depth", value, "a number from 1 to 1024");
      args->depth = (unsigned)number;
      return -1;
    case OPT_SEED:
      if (!parse_u64(value, UINT64_MAX, &args->seed))
        return bad_value(name, "seed", value, "a number from 1");
      return -1;
    case OPT_ENGINE:
      if (strcmp(value, "uring") == 0)
        args->engine = KVSTOW_ENGINE_URING;
      else if (strcmp(value, "threads") == 0)
        args->engine = KVSTOW_ENGINE_THREADS;
      else
        return bad_value(name, "engine", value, "uring or threads");
      return -1;
    case OPT_CSV:
      args->csv = true;
      return -1;
    case OPT_OP:
      args->op = value;
      return -1;
    case OPT_GENERATE:
      args->generate = value;
      return -1;
    case OPT_DIR:
      args->dir = value;
      return -1;
    case OPT_SHAPE:
      args->shape = value;
      return -1;
    case OPT_PATH:
      args->path = value;
      return -1;
    case OPT_PEERS:
      args->peers = value;
      return -1;
    default:
      return EXIT_USAGE; /* getopt_long has said why */
  }
}

int bench_parse(int argc, char **argv, const char *usage, unsigned accepts,
                struct bench_args *args) {
  struct option accepted[OPTIONS + 1] = {{0}};
  static char name[64]; /* what getopt's messages begin with; it stays in argv */
  size_t count = 0;
  for (size_t i = 0; i < OPTIONS; i++) {
    if (options[i].accepted == 0 || (options[i].accepted & accepts) != 0)
      accepted[count++] = options[i].option;
  }
  snprintf(name, sizeof name, "kvstow bench %s", argv[0]);
  argv[0] = name;
  *args = (struct bench_args){.seed = 1};
  int status = -1;
  optind = 0;
  for (int code; status < 0 && (code = getopt_long(argc, argv, "", accepted, NULL)) != -1;) {
    if (code == OPT_HELP) {
      print_usage(usage, accepts);
      status = EXIT_OK;
    } else {
      status = parse_option(name, code, optarg, args);
    }
  }
  if (status < 0 && (accepts & BENCH_FILE) != 0 && optind < argc) args->file = argv[optind++];
  if (status < 0 && args->json && args->csv) {
    fprintf(stderr, "%s: --json or --csv, not both\n", name);
    status = EXIT_USAGE;
  }
  if (status < 0 && optind < argc) {
    fprintf(stderr, "%s: %s: not an option\n", name, argv[optind]);
    status = EXIT_USAGE;
  }
  if (status < 0 && args->check && args->rounds != 0 && args->rounds < BENCH_ROUNDS_JUDGED) {
    fprintf(stderr, "%s: --check: fewer than %d rounds allow no verdict\n", name,
            BENCH_ROUNDS_JUDGED);
    status = EXIT_USAGE;
  }
  if (args->rounds == 0) args->rounds = args->quick ? ROUNDS_QUICK : ROUNDS;
  return status;
}

bool bench_picks(const char *asked, const char *name) {
  return asked == NULL || strcmp(asked, name) == 0;
}

int bench_known(const char *command, const char *option, const char *asked,
                const char *const *names) {
  for (size_t i = 0; names[i] != NULL; i++)
    if (bench_picks(asked, names[i])) return -1;
  fprintf(stderr, "%s: --%s %s: there is no such; there are:", command, option, asked);
  for (size_t i = 0; names[i] != NULL; i++) fprintf(stderr, " %s", names[i]);
  fputc('\n', stderr);
  return EXIT_USAGE;
}

int bench_known_number(const char *command, const char *option, uint64_t asked,
                       const uint64_t *numbers) {
  for (size_t i = 0; numbers[i] != 0; i++)
    if (asked == 0 || asked == numbers[i]) return -1;
  fprintf(stderr, "%s: --%s %" PRIu64 ": not measured; measured are:", command, option, asked);
  for (size_t i = 0; numbers[i] != 0; i++) fprintf(stderr, " %" PRIu64, numbers[i]);
  fputc('\n', stderr);
  return EXIT_USAGE;
}

/* ---- the report ----------------------------------------------------------------------------- */

struct bench_report bench_report_begin(const char *name) {
  struct bench_report report = {.name = name,
                                .root = json_object(),
                                .rows = json_array(),
                                .targets = json_array(),
                                .notes = json_array()};
  if (!report.root || !report.rows || !report.targets || !report.notes) {
    fprintf(stderr, "kvstow bench %s: out of memory\n", name);
    exit(EXIT_FAILED);
  }
  json_object_set_new(report.root, "bench", json_string(name));
  json_object_set_new(report.root, "rows", report.rows);
  json_object_set_new(report.root, "targets", report.targets);
  json_object_set_new(report.root, "notes", report.notes);
  return report;
}

json_t *bench_row(struct bench_report *report) {
  json_t *row = json_object();
  json_array_append_new(report->rows, row);
  return row;
}

void bench_text(json_t *row, const char *key, const char *value) {
  json_object_set_new(row, key, json_string(value));
}

void bench_count(json_t *row, const char *key, uint64_t value) {
  json_object_set_new(row, key, json_integer((json_int_t)value));
}

void bench_real(json_t *row, const char *key, double value) {
  json_object_set_new(row, key, isfinite(value) ? json_real(value) : json_null());
}

static json_t *target(struct bench_report *report, const char *name, double value, double bound,
                      bool at_least) {
  json_t *row = json_object();
  bench_text(row, "name", name);
  bench_real(row, "value", value);
  bench_real(row, "target", bound);
  bench_text(row, "sense", at_least ? "min" : "max");
  json_array_append_new(report->targets, row);
  return row;
}

void bench_target_min(struct bench_report *report, const char *name, double value, double least) {
  (void)target(report, name, value, least, true);
}

void bench_target_told(struct bench_report *report, const char *name, double value, double least,
                       enum verdict verdict, double control) {
  static const char *const words[] = {"above", "open", "below"};
  json_t *row = target(report, name, value, least, true);
  bench_text(row, "told", words[verdict]);
  if (!isnan(control)) bench_real(row, "control", control);
}

void bench_target_max(struct bench_report *report, const char *name, double value, double most) {
  (void)target(report, name, value, most, false);
}

static bool is_met(const json_t *row) {
  const json_t *measured = json_object_get(row, "value");
  const double value = json_number_value(measured);
  const double bound = json_number_value(json_object_get(row, "target"));
  const bool at_least = strcmp(json_string_value(json_object_get(row, "sense")), "min") == 0;
  return json_is_number(measured) && (at_least ? value >= bound : value <= bound);
}

/* True if a target was missed. A median of too few rounds is a figure, no verdict. */
static bool judge(const struct bench_report *report, unsigned rounds) {
  size_t index, missed = 0;
  json_t *row;
  json_array_foreach(report->targets, index, row) {
    const char *told = json_string_value(json_object_get(row, "told"));
    const bool met = told != NULL ? strcmp(told, "above") == 0 : is_met(row);
    const bool open = told != NULL && strcmp(told, "open") == 0;
    const bool judged = rounds >= BENCH_ROUNDS_JUDGED && !open;
    json_object_set_new(row, "met", judged ? json_boolean(met) : json_null());
    missed += judged && !met;
  }
  return missed > 0;
}

void bench_note(struct bench_report *report, const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  json_array_append_new(report->notes, json_string(text));
}

void bench_fail(struct bench_report *report, const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  fprintf(stderr, "kvstow bench %s: %s\n", report->name, text);
  report->failed = true;
}

/* ---- for people ----------------------------------------------------------------------------- */

static void add_number(struct table *table, double value, int digits) {
  char grouped[TABLE_CELL_BYTES];
  if (digits > 0)
    table_text(table, "%.*f", digits, value);
  else
    table_text(table, "%s%s", value < 0 ? "-" : "",
               format_count(grouped, (uint64_t)(fabs(value) + 0.5)));
}

static void add_cell(struct table *table, const json_t *value, int digits) {
  if (json_is_string(value))
    table_text(table, "%s", json_string_value(value));
  else if (json_is_number(value))
    add_number(table, json_number_value(value), digits);
  else
    table_text(table, "-");
}

static void print_rows(const struct bench_report *report, const struct bench_column *columns) {
  if (json_array_size(report->rows) == 0) return;
  enum { COLUMNS_MAX = 24 };
  const char *titles[COLUMNS_MAX + 1] = {0};
  for (size_t i = 0; columns[i].key != NULL && i < COLUMNS_MAX; i++) titles[i] = columns[i].title;
  struct table *table = table_create(titles);
  size_t index;
  json_t *row;
  json_array_foreach(report->rows, index, row) {
    if (report->shown != NULL && !report->shown(row)) continue;
    for (size_t i = 0; columns[i].key != NULL && i < COLUMNS_MAX; i++)
      add_cell(table, json_object_get(row, columns[i].key), columns[i].digits);
  }
  (void)table_print(table, stdout);
  table_destroy(table);
}

static void print_verdict(struct table *table, const json_t *row) {
  const json_t *control = json_object_get(row, "control"), *met = json_object_get(row, "met");
  const char *told = json_string_value(json_object_get(row, "told"));
  const char *unknown = told != NULL && strcmp(told, "open") == 0 ? "can't be told" : "-";
  const char *verdict = json_is_null(met) ? unknown : json_is_true(met) ? "met" : "not met";
  if (control == NULL)
    table_text(table, "%s", verdict);
  else
    table_text(table, "%s; with itself %.2f", verdict, json_number_value(control));
}

static void print_targets(const struct bench_report *report) {
  if (json_array_size(report->targets) == 0) return;
  static const char *const titles[] = {"<target", "<", "promised", "measured", "<", NULL};
  struct table *table = table_create(titles);
  size_t index;
  json_t *row;
  json_array_foreach(report->targets, index, row) {
    const double bound = json_number_value(json_object_get(row, "target"));
    const double value = json_number_value(json_object_get(row, "value"));
    const bool least = strcmp(json_string_value(json_object_get(row, "sense")), "min") == 0;
    const int digits = bound >= 100 ? 0 : 2;
    table_text(table, "%s", json_string_value(json_object_get(row, "name")));
    table_text(table, "%s", least ? "at least" : "at most");
    add_number(table, bound, digits);
    add_number(table, value, digits);
    print_verdict(table, row);
  }
  putchar('\n');
  (void)table_print(table, stdout);
  table_destroy(table);
}

static void print_text(const struct bench_report *report, const struct bench_column *columns) {
  print_rows(report, columns);
  print_targets(report);
  size_t index;
  json_t *note;
  if (json_array_size(report->notes) > 0) putchar('\n');
  json_array_foreach(report->notes, index, note) puts(json_string_value(note));
}

/* ---- for spreadsheets ------------------------------------------------------------------------ */

static void print_csv_value(const json_t *value) {
  if (json_is_string(value))
    fputs(json_string_value(value), stdout); /* ours: no commas, no quotes */
  else if (json_is_integer(value))
    printf("%lld", (long long)json_integer_value(value));
  else if (json_is_real(value))
    printf("%.6g", json_real_value(value));
  else if (json_is_boolean(value))
    fputs(json_is_true(value) ? "true" : "false", stdout);
}

/* The columns are the first row's keys: all rows have the same. */
static void print_csv(const struct bench_report *report) {
  json_t *first = json_array_get(report->rows, 0), *row, *value;
  const char *key;
  size_t index;
  const char *comma = "";
  json_object_foreach(first, key, value) {
    printf("%s%s", comma, key);
    comma = ",";
  }
  if (first != NULL) putchar('\n');
  json_array_foreach(report->rows, index, row) {
    comma = "";
    json_object_foreach(first, key, value) {
      fputs(comma, stdout);
      print_csv_value(json_object_get(row, key));
      comma = ",";
    }
    putchar('\n');
  }
}

int bench_report_end(struct bench_report *report, const struct bench_args *args,
                     const struct bench_column *columns) {
  if (!report->failed && json_array_size(report->rows) == 0)
    bench_fail(report, "nothing to measure: no row has all that the options ask for");
  const bool missed = judge(report, args->rounds);
  if (args->rounds < BENCH_ROUNDS_JUDGED && json_array_size(report->targets) > 0)
    bench_note(report, "No verdicts: those are of %d rounds or more.", BENCH_ROUNDS_JUDGED);
  if (raw_uring_forbidden())
    bench_note(report,
               "io_uring is forbidden here: the limit is threads, one a request in flight, "
               "that read and write.");
  json_object_set_new(report->root, "rounds", json_integer(args->rounds));
  json_object_set_new(report->root, "quick", json_boolean(args->quick));
  if (report->failed && (args->json || args->csv)) {
    /* half an answer would be taken for one */
  } else if (args->json) {
    const bool ok = json_dumpf(report->root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) == 0;
    putchar('\n');
    report->failed |= !ok;
  } else if (args->csv) {
    print_csv(report);
  } else {
    print_text(report, columns);
  }
  json_decref(report->root);
  return report->failed || (args->check && missed) ? EXIT_FAILED : EXIT_OK;
}
