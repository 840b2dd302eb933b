/* cli/lab/print.c - rows as JSON, as CSV, and as tables for people.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/lab/lab.h"
#include "cli/table.h"

static bool is_shown(const struct lab *lab, const struct lab_metric *metric) {
  return metric->shown == NULL || metric->shown(lab);
}

/* ---- JSON ---- */

static json_t *value_json(const struct lab_value *value) {
  switch (value->kind) {
    case LAB_TEXT:
      return json_string(value->text);
    case LAB_COUNT:
      return json_integer((json_int_t)value->count);
    case LAB_REAL:
      return json_real(value->real);
    case LAB_NONE:
      break;
  }
  return json_null();
}

static json_t *row_json(const struct lab *lab, const struct lab_row *row) {
  json_t *object = json_object();
  for (const struct lab_metric *m = lab_metrics; object != NULL && m->key != NULL; m++) {
    if (!is_shown(lab, m)) continue;
    const struct lab_value value = m->of(lab, row);
    if (json_object_set_new(object, m->key, value_json(&value)) == 0) continue;
    json_decref(object);
    object = NULL;
  }
  return object;
}

static int print_json(const struct lab *lab) {
  json_t *list = json_array();
  for (size_t i = 0; i < lab->row_count && list != NULL; i++) {
    if (json_array_append_new(list, row_json(lab, &lab->rows[i])) == 0) continue;
    json_decref(list);
    list = NULL;
  }
  if (list == NULL || json_dumpf(list, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) < 0) {
    fprintf(stderr, "kvstow replay: could not write JSON: out of memory, or a name is not UTF-8\n");
    json_decref(list);
    return EXIT_FAILED;
  }
  putchar('\n');
  json_decref(list);
  return EXIT_OK;
}

/* ---- CSV ---- */

static void print_csv_text(const char *text) {
  const bool quote = strpbrk(text, ",\"\n") != NULL;
  if (quote) putchar('"');
  for (; *text != '\0'; text++) {
    if (quote && *text == '"') putchar('"');
    putchar(*text);
  }
  if (quote) putchar('"');
}

static void print_csv_value(const struct lab_value *value) {
  switch (value->kind) {
    case LAB_TEXT:
      print_csv_text(value->text);
      break;
    case LAB_COUNT:
      printf("%" PRIu64, value->count);
      break;
    case LAB_REAL:
      printf("%.9g", value->real);
      break;
    case LAB_NONE:
      break;
  }
}

static void print_csv(const struct lab *lab) {
  const char *comma = "";
  for (const struct lab_metric *m = lab_metrics; m->key != NULL; m++) {
    if (!is_shown(lab, m)) continue;
    printf("%s%s", comma, m->key);
    comma = ",";
  }
  putchar('\n');
  for (size_t i = 0; i < lab->row_count; i++) {
    comma = "";
    for (const struct lab_metric *m = lab_metrics; m->key != NULL; m++) {
      if (!is_shown(lab, m)) continue;
      const struct lab_value value = m->of(lab, &lab->rows[i]);
      fputs(comma, stdout);
      print_csv_value(&value);
      comma = ",";
    }
    putchar('\n');
  }
}

/* ---- tables ---- */

enum style { WHOLE, ONE_DIGIT, TWO_DIGITS, SIGNED, THREE_DIGITS };

/* A column of the table: a metric, as people want to read it. */
struct column {
  const char *title, *key;
  enum style style;
  double scale;
};

static const struct column one_tier[] = {
    {"blocks", "size_blocks", WHOLE, 1},
    {"% of all", "size_share", THREE_DIGITS, 100},
    {"block %", "block_hit", TWO_DIGITS, 100},
    {"prefix %", "prefix_hit", TWO_DIGITS, 100},
    {"token %", "token_hit", TWO_DIGITS, 100},
    {"saved %", "prefill_saved", TWO_DIGITS, 100},
    {"writes", "ssd_writes", WHOLE, 1},
    {"unread %", "never_read", ONE_DIGIT, 100},
    {"DWPD", "dwpd", THREE_DIGITS, 1},
    {"M acc/s", "accesses_per_s", ONE_DIGIT, 1e-6},
    {NULL, NULL, WHOLE, 0},
};

static const struct column two_tiers[] = {
    {"RAM blk", "ram_blocks", WHOLE, 1},
    {"SSD blk", "ssd_blocks", WHOLE, 1},
    {"RAM hits", "ram_hit_blocks", WHOLE, 1},
    {"SSD hits", "ssd_hit_blocks", WHOLE, 1},
    {"prefix %", "prefix_hit", TWO_DIGITS, 100},
    {"saved %", "prefill_saved", TWO_DIGITS, 100},
    {"writes", "ssd_writes", WHOLE, 1},
    {"rewritten", "ssd_rewrites", WHOLE, 1},
    {"unread %", "never_read", ONE_DIGIT, 100},
    {"DWPD", "dwpd", THREE_DIGITS, 1},
    {NULL, NULL, WHOLE, 0},
};

static const struct column errors[] = {
    {"block err", "block_hit_error", SIGNED, 100},
    {"prefix err", "prefix_hit_error", SIGNED, 100},
    {NULL, NULL, WHOLE, 0},
};

enum { COLUMNS_MAX = 16 };

static unsigned choose_columns(const struct lab *lab, const struct column **chosen) {
  unsigned count = 0;
  for (const struct column *c = lab->two_tiers ? two_tiers : one_tier; c->title != NULL; c++)
    chosen[count++] = c;
  for (const struct column *c = errors; lab->args->sample_error && c->title != NULL; c++)
    chosen[count++] = c;
  return count;
}

static const struct lab_metric *metric_of(const struct column *column) {
  const struct lab_metric *metric = lab_metrics;
  while (strcmp(metric->key, column->key) != 0) metric++;
  return metric;
}

static void print_number(struct table *table, const struct column *column, double number) {
  number *= column->scale;
  if (isnan(number)) {
    table_text(table, "-");
    return;
  }
  switch (column->style) {
    case WHOLE:
      table_count(table, (uint64_t)number);
      break;
    case ONE_DIGIT:
      table_text(table, "%.1f", number);
      break;
    case TWO_DIGITS:
      table_text(table, "%.2f", number);
      break;
    case SIGNED:
      table_text(table, "%+.2f", number);
      break;
    case THREE_DIGITS:
      if (number < 999.5)
        table_text(table, "%.3g", number);
      else
        table_count(table, (uint64_t)(number + 0.5));
      break;
  }
}

static void print_heading(const struct lab *lab, const struct lab_trace *of) {
  const struct trace *trace = of->trace;
  char a[TABLE_CELL_BYTES], b[TABLE_CELL_BYTES], c[TABLE_CELL_BYTES], d[TABLE_CELL_BYTES];
  printf("%s: %s requests, %s block accesses, %s distinct blocks of %u tokens; loaded in %.2f s\n",
         trace->name, format_count(a, trace->request_count), format_count(b, trace->accesses),
         format_count(c, trace->unique), trace->block_tokens, trace->load_seconds);
  if (lab->args->in_flight > 0)
    printf("a request's new blocks enter when %u later requests have begun\n",
           lab->args->in_flight);
  if (lab->args->sample <= 0) return;
  const struct trace_sample *sample = &of->sample;
  printf("sample of %g by %s: %s of %s, and %s of %" PRIu64
         " shared blocks; %s accesses, taken in %.2f s\n",
         sample->rate, lab->args->sample_by == TRACE_SAMPLE_BLOCKS ? "block" : "chain",
         format_count(a, sample->units), format_count(b, sample->units_of),
         format_count(c, sample->shared), sample->shared_of,
         format_count(d, sample->trace->accesses), of->sample_seconds);
  if (lab_sample_too_small(of))
    printf("so few %ss tell little: --sample-error shows how far off they are\n",
           lab->args->sample_by == TRACE_SAMPLE_BLOCKS ? "block" : "chain");
}

static void print_mean_error(const struct lab *lab, const struct lab_trace *of) {
  double block = 0, prefix = 0, sampled_s = 0, whole_s = 0;
  size_t count = 0;
  for (size_t i = 0; i < lab->row_count; i++) {
    const struct lab_row *row = &lab->rows[i];
    if (row->of != of) continue;
    block += fabs(lab_number(lab, row, metric_of(&errors[0])));
    prefix += fabs(lab_number(lab, row, metric_of(&errors[1])));
    sampled_s += row->result.seconds;
    whole_s += row->whole.seconds;
    count++;
  }
  printf("mean error: %.2f points of block hits", 100 * block / (double)count);
  if (!isnan(prefix)) printf(", %.2f of prefix hits", 100 * prefix / (double)count);
  printf("; simulated in %.3f s instead of %.3f s\n", sampled_s, whole_s);
}

static int print_trace(const struct lab *lab, const struct lab_trace *of) {
  const struct column *columns[COLUMNS_MAX];
  const char *titles[COLUMNS_MAX + 2] = {"<policy"};
  const unsigned count = choose_columns(lab, columns);
  for (unsigned i = 0; i < count; i++) titles[i + 1] = columns[i]->title;
  struct table *table = table_create(titles);
  for (size_t i = 0; i < lab->row_count; i++) {
    const struct lab_row *row = &lab->rows[i];
    if (row->of != of) continue;
    table_text(table, "%s", row->policy);
    for (unsigned j = 0; j < count; j++)
      print_number(table, columns[j], lab_number(lab, row, metric_of(columns[j])));
  }
  print_heading(lab, of);
  putchar('\n');
  const int rc = table_print(table, stdout);
  table_destroy(table);
  if (lab->args->sample_error) print_mean_error(lab, of);
  return rc;
}

static int print_tables(const struct lab *lab) {
  for (unsigned t = 0; t < lab->args->trace_count; t++) {
    if (t > 0) putchar('\n');
    if (print_trace(lab, &lab->traces[t]) < 0) {
      fprintf(stderr, "kvstow replay: out of memory\n");
      return EXIT_FAILED;
    }
  }
  printf(
      "\nprefix: leading runs held when their request starts; saved: of prefill time\n"
      "writes: blocks; unread: of the writes, served no request\n");
  return EXIT_OK;
}

int lab_print(const struct lab *lab) {
  int rc = EXIT_OK;
  switch (lab->args->output) {
    case REPLAY_JSON:
      rc = print_json(lab);
      break;
    case REPLAY_CSV:
      print_csv(lab);
      break;
    case REPLAY_TABLE:
      rc = print_tables(lab);
      break;
  }
  return rc;
}
