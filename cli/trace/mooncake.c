/* cli/trace/mooncake.c - the Mooncake trace format: one JSON object a line.
 *
 *   {"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, ...]}
 *
 * timestamp in ms, lengths in tokens, hash_ids in prefix order; an optional integer `session`.
 * Other fields are ignored. From: Mooncake, FAST'25 (github.com/kvcache-ai/Mooncake). Whatever is
 * wrong is reported with file, line and column; nothing is skipped or guessed.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/trace/ids.h"
#include "cli/trace/lines.h"
#include "cli/trace/source.h"

struct mooncake {
  struct trace_source source;
  struct lines *lines;
  struct ids ids;
  uint32_t *blocks;
  size_t blocks_size;
};

struct place { /* the line under the knife, for messages */
  struct mooncake *mooncake;
  const char *line;
  size_t length;
};

/* Reports what is wrong with `field` (or with the line, when it is NULL or missing). */
__attribute__((format(printf, 3, 4))) static int fail(const struct place *place, const char *field,
                                                      const char *format, ...) {
  struct trace_source *source = &place->mooncake->source;
  size_t column = 1;
  if (field != NULL) {
    char quoted[32];
    const int length = snprintf(quoted, sizeof quoted, "\"%s\"", field);
    const char *found = memmem(place->line, place->length, quoted, (size_t)length);
    if (found != NULL) column = (size_t)(found - place->line) + 1;
  }
  const int used =
      snprintf(source->why, sizeof source->why, "%s:%llu:%zu: ", lines_name(place->mooncake->lines),
               (unsigned long long)lines_number(place->mooncake->lines), column);
  if (used > 0 && (size_t)used < sizeof source->why) {
    va_list args;
    va_start(args, format);
    vsnprintf(source->why + used, sizeof source->why - (size_t)used, format, args);
    va_end(args);
  }
  return -1;
}

static int get_count(const struct place *place, const json_t *object, const char *field,
                     uint64_t max, uint64_t *value) {
  const json_t *json = json_object_get(object, field);
  if (json == NULL) return fail(place, NULL, "no field `%s`", field);
  if (!json_is_integer(json)) return fail(place, field, "`%s` is not an integer", field);
  const json_int_t number = json_integer_value(json);
  if (number < 0) return fail(place, field, "`%s` is negative (%lld)", field, (long long)number);
  if ((uint64_t)number > max)
    return fail(place, field, "`%s` is %lld, more than %llu", field, (long long)number,
                (unsigned long long)max);
  *value = (uint64_t)number;
  return 0;
}

static int get_timestamp(const struct place *place, const json_t *object, uint64_t *ms) {
  const json_t *json = json_object_get(object, "timestamp");
  if (!json_is_real(json)) return get_count(place, object, "timestamp", INT64_MAX, ms);
  const double value = json_real_value(json);
  if (!(value >= 0 && value < 9e18))
    return fail(place, "timestamp", "`timestamp` is negative or too large");
  *ms = (uint64_t)value;
  return 0;
}

static int get_blocks(const struct place *place, const json_t *object, uint32_t *count) {
  struct mooncake *mooncake = place->mooncake;
  const json_t *array = json_object_get(object, "hash_ids");
  if (array == NULL) return fail(place, NULL, "no field `hash_ids`");
  if (!json_is_array(array)) return fail(place, "hash_ids", "`hash_ids` is not an array");
  const size_t blocks = json_array_size(array);
  if (blocks > TRACE_BLOCKS_MAX)
    return fail(place, "hash_ids", "%zu blocks in one request, more than %u", blocks,
                TRACE_BLOCKS_MAX);
  if (blocks > mooncake->blocks_size) {
    uint32_t *grown = realloc(mooncake->blocks, blocks * sizeof *grown);
    if (grown == NULL) return fail(place, NULL, "out of memory");
    mooncake->blocks = grown;
    mooncake->blocks_size = blocks;
  }
  for (size_t i = 0; i < blocks; i++) {
    const json_t *json = json_array_get(array, i);
    if (!json_is_integer(json))
      return fail(place, "hash_ids", "hash_ids[%zu] is not an integer", i);
    const json_int_t id = json_integer_value(json);
    if (id < 0)
      return fail(place, "hash_ids", "hash_ids[%zu] is negative (%lld)", i, (long long)id);
    if (!ids_name(&mooncake->ids, (uint64_t)id, &mooncake->blocks[i]))
      return fail(place, "hash_ids", "out of memory for %u distinct ids", mooncake->ids.count);
  }
  *count = (uint32_t)blocks;
  return 0;
}

static int get_request(const struct place *place, const json_t *object,
                       struct trace_request *request) {
  uint64_t input = 0, output = 0, session = 0;
  if (!json_is_object(object)) return fail(place, NULL, "not a JSON object");
  if (get_timestamp(place, object, &request->timestamp_ms) < 0 ||
      get_count(place, object, "input_length", TRACE_TOKENS_MAX, &input) < 0 ||
      get_count(place, object, "output_length", TRACE_TOKENS_MAX, &output) < 0)
    return -1;
  request->session = 0;
  if (json_object_get(object, "session") != NULL) {
    if (get_count(place, object, "session", INT64_MAX, &session) < 0) return -1;
    request->session = session + 1;
  }
  request->input_tokens = (uint32_t)input;
  request->output_tokens = (uint32_t)output;
  if (get_blocks(place, object, &request->blocks) < 0) return -1;
  request->ids = place->mooncake->blocks;
  return 1;
}

static int is_blank(const char *line, size_t length) {
  for (size_t i = 0; i < length; i++)
    if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r') return 0;
  return 1;
}

static int mooncake_next(struct trace_source *source, struct trace_request *request) {
  struct mooncake *mooncake = (struct mooncake *)source;
  struct place place = {.mooncake = mooncake};
  do {
    const int rc =
        lines_next(mooncake->lines, &place.line, &place.length, source->why, sizeof source->why);
    if (rc <= 0) return rc;
  } while (is_blank(place.line, place.length));

  json_error_t error;
  json_t *object = json_loadb(place.line, place.length, JSON_REJECT_DUPLICATES, &error);
  if (object == NULL) {
    snprintf(source->why, sizeof source->why, "%s:%llu:%d: %s", lines_name(mooncake->lines),
             (unsigned long long)lines_number(mooncake->lines), error.column > 0 ? error.column : 1,
             error.text);
    return -1;
  }
  const int rc = get_request(&place, object, request);
  source->unique = mooncake->ids.count;
  json_decref(object);
  return rc;
}

static void mooncake_close(struct trace_source *source) {
  struct mooncake *mooncake = (struct mooncake *)source;
  lines_close(mooncake->lines);
  ids_finish(&mooncake->ids);
  free(mooncake->blocks);
  free(mooncake);
}

struct trace_source *mooncake_open(const char *path, char *why, size_t why_bytes) {
  struct mooncake *mooncake = calloc(1, sizeof *mooncake);
  if (mooncake == NULL) {
    snprintf(why, why_bytes, "%s: out of memory", path);
    return NULL;
  }
  mooncake->source.next = mooncake_next;
  mooncake->source.close = mooncake_close;
  mooncake->lines = lines_open(path, why, why_bytes);
  if (mooncake->lines == NULL) {
    free(mooncake);
    return NULL;
  }
  return &mooncake->source;
}
