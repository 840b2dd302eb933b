/* cli/trace/csv.c - a line an access: libCacheSim's csv and txt traces.
 *
 * Which column is which: `time-col=2,obj-id-col=5,has-header=true,delimiter=comma`, libCacheSim's
 * own parameters, columns from 1 (obj-size-col is taken too, and not used: objects count alike).
 * What they leave open comes from the header's names; without a header, one column is the id, of
 * more the first is the time (seconds) and the second the id. An id that is no decimal number is
 * named by a hash of its text.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <xxhash.h>

#include "cli/trace/decimal.h"
#include "cli/trace/ids.h"
#include "cli/trace/source.h"

enum { COLUMNS_MAX = 256, BATCH_LINES = 256 };

struct layout {
  unsigned time, id; /* columns from 1; 0: not said */
  int header;        /* -1: not said */
  char delimiter;    /* 0: not said */
};

struct csv {
  struct trace_source source;
  struct input *input;
  struct layout layout;
  struct ids ids;
  bool begun;
  int end;            /* what comes behind the batch: 1 another, or what csv_next() then says */
  uint32_t count, at; /* accesses read and named: [at, count) are still to be handed out */
  uint64_t times_ms[BATCH_LINES], keys[BATCH_LINES];
  uint32_t names[BATCH_LINES];
};

struct field {
  const char *text;
  size_t length;
};

/* ---- what was said of the layout ---- */

static bool parse_column(const char *value, unsigned *column) {
  char *end;
  const unsigned long number = strtoul(value, &end, 10);
  if (*value < '0' || *value > '9' || *end != '\0' || number < 1 || number > COLUMNS_MAX)
    return false;
  *column = (unsigned)number;
  return true;
}

static bool parse_param(const char *key, const char *value, struct layout *layout) {
  unsigned unused;
  if (strcmp(key, "time-col") == 0) return parse_column(value, &layout->time);
  if (strcmp(key, "obj-id-col") == 0) return parse_column(value, &layout->id);
  if (strcmp(key, "obj-size-col") == 0) return parse_column(value, &unused);
  if (strcmp(key, "has-header") == 0) {
    layout->header = strcmp(value, "true") == 0;
    return layout->header || strcmp(value, "false") == 0;
  }
  if (strcmp(key, "delimiter") != 0) return false;
  layout->delimiter = value[0];
  if (strcmp(value, "comma") == 0) layout->delimiter = ',';
  if (strcmp(value, "tab") == 0) layout->delimiter = '\t';
  return layout->delimiter == ',' || layout->delimiter == '\t' ||
         (value[0] != '\0' && value[1] == '\0');
}

static bool parse_params(const char *params, struct layout *layout, char *why, size_t why_bytes) {
  char text[256];
  *layout = (struct layout){.header = -1};
  if (params == NULL) return true;
  snprintf(text, sizeof text, "%s", params);
  char *rest = text;
  for (char *param; (param = strsep(&rest, ",")) != NULL;) {
    char *value = strchr(param, '=');
    if (value != NULL) *value++ = '\0';
    if (value == NULL || !parse_param(param, value, layout)) {
      snprintf(why, why_bytes,
               "csv parameter `%s`: expected time-col=N, obj-id-col=N, obj-size-col=N, "
               "has-header=true|false or delimiter=comma|tab|X",
               param);
      return false;
    }
  }
  return true;
}

bool csv_params_ok(const char *params, char *why, size_t why_bytes) {
  struct layout layout;
  return parse_params(params, &layout, why, why_bytes);
}

/* ---- lines ---- */

__attribute__((format(printf, 2, 3))) static int fail(struct csv *csv, const char *format, ...) {
  va_list args;
  va_start(args, format);
  trace_source_fail(&csv->source, csv->input, 0, format, args);
  va_end(args);
  return -1;
}

static bool is_margin(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '"';
}

/* Where the field that begins at `line` ends: at a delimiter that is not within quotes, or at `end`. */
static const char *field_end(const struct csv *csv, const char *line, const char *end) {
  const char *stop = memchr(line, csv->layout.delimiter, (size_t)(end - line));
  bool quoted = false;
  if (stop == NULL) stop = end;
  if (memchr(line, '"', (size_t)(stop - line)) == NULL) return stop;
  for (; line < end && (quoted || *line != csv->layout.delimiter); line++)
    if (*line == '"') quoted = !quoted;
  return line;
}

/* The column-th field, from 1, without blanks and quotes around it; false if there are fewer. */
static bool field_at(const struct csv *csv, const char *line, size_t length, unsigned column,
                     struct field *field) {
  const char *end = line + length;
  for (unsigned i = 1;; i++) {
    const char *stop = field_end(csv, line, end);
    if (i == column) {
      while (line < stop && is_margin(*line)) line++;
      while (stop > line && is_margin(stop[-1])) stop--;
      *field = (struct field){.text = line, .length = (size_t)(stop - line)};
      return true;
    }
    if (stop == end) return false;
    line = stop + 1;
  }
}

static bool number_of(const struct field *field, double *value) {
  struct decimal decimal;
  char text[40], *end;
  if (field->length == 0) return false;
  if (decimal_read(field->text, field->text + field->length, &decimal) ==
      field->text + field->length) {
    *value = decimal_value(&decimal);
    return *value < 9e15;
  }
  if (field->length >= sizeof text) return false;
  memcpy(text, field->text, field->length);
  text[field->length] = '\0';
  *value = strtod(text, &end);
  return *end == '\0' && *value >= 0 && *value < 9e15;
}

static uint64_t key_of(const struct field *field) {
  uint64_t value = 0;
  size_t digits = 0;
  for (; digits < field->length && field->text[digits] >= '0' && field->text[digits] <= '9';
       digits++)
    value = value * 10 + (uint64_t)(field->text[digits] - '0');
  if (digits == field->length && digits <= 18) return value;
  return XXH3_64bits(field->text, field->length) | UINT64_C(1) << 63;
}

/* ---- the first line decides what was not said ---- */

static char guess_delimiter(const char *line, size_t length) {
  static const char candidates[] = {',', '\t', '|', ';', ' '};
  for (size_t i = 0; i < sizeof candidates; i++)
    if (memchr(line, candidates[i], length) != NULL) return candidates[i];
  return ',';
}

static bool name_is_one_of(const struct field *field, const char *const *names) {
  for (; *names != NULL; names++)
    if (strlen(*names) == field->length && strncasecmp(*names, field->text, field->length) == 0)
      return true;
  return false;
}

static int read_header(struct csv *csv, const char *line, size_t length) {
  static const char *const times[] = {"time", "timestamp", "ts", "clock_time", "real_time", NULL};
  static const char *const ids[] = {"obj_id",   "object_id", "obj", "id",  "key",
                                    "block_id", "lbn",       "lba", "oid", NULL};
  struct layout *layout = &csv->layout;
  struct field field;
  for (unsigned i = 1; field_at(csv, line, length, i, &field); i++) {
    if (layout->time == 0 && name_is_one_of(&field, times)) layout->time = i;
    if (layout->id == 0 && name_is_one_of(&field, ids)) layout->id = i;
  }
  if (layout->id == 0)
    return fail(csv, "no column is called obj_id, id or key: say --format csv:obj-id-col=N");
  return 0;
}

static int settle_layout(struct csv *csv, const char *line, size_t length) {
  struct layout *layout = &csv->layout;
  struct field first = {.length = 0}, second;
  double unused;
  if (layout->delimiter == 0) layout->delimiter = guess_delimiter(line, length);
  const bool more = field_at(csv, line, length, 2, &second);
  if (layout->header < 0) {
    field_at(csv, line, length, layout->time != 0 ? layout->time : 1, &first);
    layout->header = more && !number_of(&first, &unused);
  }
  if (layout->header) return read_header(csv, line, length);
  if (layout->id == 0) {
    if (layout->time == 0 && more) layout->time = 1;
    layout->id = more ? 2 : 1;
  }
  return 0;
}

/* ---- the source ---- */

static bool is_blank(const char *line, size_t length) {
  for (size_t i = 0; i < length; i++)
    if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r') return false;
  return true;
}

/* 1 and one access more in the batch; -1. */
static int add_access(struct csv *csv, const char *line, size_t length) {
  const struct layout *layout = &csv->layout;
  struct field id, time;
  double seconds = 0;
  if (memchr(line, '\0', length) != NULL) return fail(csv, "a zero byte: is this text?");
  if (!field_at(csv, line, length, layout->id, &id) || id.length == 0)
    return fail(csv, "no id in column %u", layout->id);
  if (layout->time != 0 &&
      (!field_at(csv, line, length, layout->time, &time) || !number_of(&time, &seconds)))
    return fail(csv, "no time (seconds, 0 or more) in column %u", layout->time);
  csv->times_ms[csv->count] = (uint64_t)(seconds * 1000);
  csv->keys[csv->count++] = key_of(&id);
  return 1;
}

/* As csv_next(), for one line. */
static int take_line(struct csv *csv) {
  struct trace_source *source = &csv->source;
  const char *line;
  size_t length;
  const int rc = input_line(csv->input, &line, &length, source->why, sizeof source->why);
  if (rc <= 0 || is_blank(line, length)) return rc;
  if (!csv->begun) {
    csv->begun = true;
    if (settle_layout(csv, line, length) < 0) return -1;
    if (csv->layout.header) return 1;
  }
  return add_access(csv, line, length);
}

/* Reads ahead, as far as nothing is wrong: what is comes after the accesses before it. */
static void take_batch(struct csv *csv) {
  csv->at = csv->count = 0;
  while (csv->end > 0 && csv->count < BATCH_LINES) csv->end = take_line(csv);
  if (ids_names(&csv->ids, csv->keys, csv->count, csv->names)) return;
  csv->count = 0;
  csv->end = fail(csv, "out of memory for %u distinct ids", csv->ids.count);
}

static int csv_next(struct trace_source *source, struct trace_request *request) {
  struct csv *csv = (struct csv *)source;
  if (csv->at == csv->count) take_batch(csv);
  if (csv->at == csv->count) return csv->end;
  const uint32_t *name = &csv->names[csv->at];
  if (*name >= source->unique) source->unique = *name + 1;
  *request = (struct trace_request){
      .timestamp_ms = csv->times_ms[csv->at], .input_tokens = 1, .blocks = 1, .ids = name};
  csv->at++;
  return 1;
}

static void csv_close(struct trace_source *source) {
  struct csv *csv = (struct csv *)source;
  input_close(csv->input);
  ids_finish(&csv->ids);
  free(csv);
}

struct trace_source *csv_open(struct input *input, const char *params, char *why,
                              size_t why_bytes) {
  struct csv *csv = calloc(1, sizeof *csv);
  if (csv == NULL) snprintf(why, why_bytes, "%s: out of memory", input_name(input));
  if (csv == NULL || !parse_params(params, &csv->layout, why, why_bytes)) {
    input_close(input);
    free(csv);
    return NULL;
  }
  csv->source.next = csv_next;
  csv->source.close = csv_close;
  csv->source.block_tokens = 1;
  csv->input = input;
  csv->end = 1;
  return &csv->source;
}
