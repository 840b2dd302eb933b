/* cli/trace/jsonl.c - traces with one JSON object a line, in two dialects.
 *
 * Mooncake (FAST'25, github.com/kvcache-ai/Mooncake):
 *   {"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, ...]}
 *   timestamp in ms, lengths in tokens, hash_ids in prefix order; an optional integer `session`.
 *
 * Qwen-Bailian (ATC'25, github.com/alibaba-edu/qwen-bailian-usagetraces-anon), told by `chat_id`:
 *   {"chat_id": 159, "parent_chat_id": 55, "timestamp": 61.114, "input_length": 521,
 *    "output_length": 132, "type": "text", "turn": 2, "hash_ids": [1089, 1090, ...]}
 *   timestamp in seconds; a chat is a request, and its ancestors are the turns before: they make a
 *   session; `type` is the request's category. hash_ids name a block by its own tokens, so that a
 *   block is named here by the one before it and its id: a cache of prefixes sees no less.
 *
 * Other fields are ignored. Whatever is wrong is reported with file, line and column; nothing is
 * skipped or guessed. Lines as they usually are take a short cut (plain.h), all others jansson.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/trace/ids.h"
#include "cli/trace/plain.h"
#include "cli/trace/source.h"

struct jsonl {
  struct trace_source source;
  struct input *input;
  enum jsonl_dialect dialect; /* JSONL_ANY: until the first line */
  struct ids ids;
  struct ids chats; /* qwen: chat ids */
  uint32_t *roots;  /* qwen: by dense chat, the first of its session, dense */
  uint32_t roots_size;
  struct plain plain;
  uint64_t *keys; /* of a request's blocks, and their names: */
  uint32_t *blocks;
  size_t blocks_size;
};

struct place { /* the line under the knife, for messages */
  struct jsonl *jsonl;
  const char *line;
  size_t length;
};

/* Reports what is wrong with `field` (or with the line, when it is NULL or missing). */
__attribute__((format(printf, 3, 4))) static int fail(const struct place *place, const char *field,
                                                      const char *format, ...) {
  size_t column = 1;
  if (field != NULL) {
    char quoted[32];
    const int length = snprintf(quoted, sizeof quoted, "\"%s\"", field);
    const char *found = memmem(place->line, place->length, quoted, (size_t)length);
    if (found != NULL) column = (size_t)(found - place->line) + 1;
  }
  va_list args;
  va_start(args, format);
  trace_source_fail(&place->jsonl->source, place->jsonl->input, column, format, args);
  va_end(args);
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
  const double unit_ms = place->jsonl->dialect == JSONL_QWEN ? 1000 : 1;
  if (!json_is_real(json)) {
    uint64_t whole = 0;
    if (get_count(place, object, "timestamp", INT64_MAX / 1000, &whole) < 0) return -1;
    *ms = whole * (uint64_t)unit_ms;
    return 0;
  }
  const double value = json_real_value(json) * unit_ms;
  if (!(value >= 0 && value < 9e18))
    return fail(place, "timestamp", "`timestamp` is negative or too large");
  *ms = (uint64_t)value;
  return 0;
}

static bool blocks_fit(struct jsonl *jsonl, size_t blocks) {
  if (blocks <= jsonl->blocks_size) return true;
  uint64_t *keys = realloc(jsonl->keys, blocks * sizeof *keys);
  if (keys != NULL) jsonl->keys = keys;
  uint32_t *names = realloc(jsonl->blocks, blocks * sizeof *names);
  if (names != NULL) jsonl->blocks = names;
  if (keys == NULL || names == NULL) return false;
  jsonl->blocks_size = blocks;
  return true;
}

/* Gives jsonl->blocks their names. */
static int name_blocks(const struct place *place, const uint64_t *keys, size_t blocks) {
  struct jsonl *jsonl = place->jsonl;
  bool named = true;
  if (jsonl->dialect != JSONL_QWEN) {
    named = ids_names(&jsonl->ids, keys, blocks, jsonl->blocks);
  } else {
    for (size_t i = 0; i < blocks && named; i++) {
      const uint64_t key = i > 0 ? ids_pair(jsonl->blocks[i - 1], keys[i]) : keys[i];
      named = ids_name(&jsonl->ids, key, &jsonl->blocks[i]);
    }
  }
  if (named) return 0;
  return fail(place, "hash_ids", "out of memory for %u distinct ids", jsonl->ids.count);
}

static int get_blocks(const struct place *place, const json_t *object, uint32_t *count) {
  struct jsonl *jsonl = place->jsonl;
  const json_t *array = json_object_get(object, "hash_ids");
  if (array == NULL) return fail(place, NULL, "no field `hash_ids`");
  if (!json_is_array(array)) return fail(place, "hash_ids", "`hash_ids` is not an array");
  const size_t blocks = json_array_size(array);
  if (blocks > TRACE_BLOCKS_MAX)
    return fail(place, "hash_ids", "%zu blocks in one request, more than %u", blocks,
                TRACE_BLOCKS_MAX);
  if (!blocks_fit(jsonl, blocks)) return fail(place, NULL, "out of memory");
  for (size_t i = 0; i < blocks; i++) {
    const json_t *json = json_array_get(array, i);
    if (!json_is_integer(json))
      return fail(place, "hash_ids", "hash_ids[%zu] is not an integer", i);
    const json_int_t id = json_integer_value(json);
    if (id < 0)
      return fail(place, "hash_ids", "hash_ids[%zu] is negative (%lld)", i, (long long)id);
    jsonl->keys[i] = (uint64_t)id;
  }
  *count = (uint32_t)blocks;
  return name_blocks(place, jsonl->keys, blocks);
}

/* The dense name of a chat; *root is the first of its session, itself if it was not seen before. */
static int name_chat(const struct place *place, uint64_t chat, uint32_t *name, uint32_t *root) {
  struct jsonl *jsonl = place->jsonl;
  const uint32_t before = jsonl->chats.count;
  if (!ids_name(&jsonl->chats, chat, name)) return fail(place, NULL, "out of memory for chats");
  if (*name >= jsonl->roots_size) {
    const uint32_t size = *name * 2 + 1024;
    uint32_t *roots = realloc(jsonl->roots, size * sizeof *roots);
    if (roots == NULL) return fail(place, NULL, "out of memory for %u chats", *name);
    jsonl->roots = roots;
    jsonl->roots_size = size;
  }
  if (jsonl->chats.count > before) jsonl->roots[*name] = *name;
  *root = jsonl->roots[*name];
  return 0;
}

/* A chat's session; `parent` is NULL where it is the first of one. */
static int name_session(const struct place *place, uint64_t chat, const uint64_t *parent,
                        uint64_t *session) {
  uint32_t name = 0, parent_name = 0, root = 0;
  if (name_chat(place, chat, &name, &root) < 0) return -1;
  if (parent != NULL) {
    if (name_chat(place, *parent, &parent_name, &root) < 0) return -1;
    place->jsonl->roots[name] = root;
  }
  *session = root + UINT64_C(1);
  return 0;
}

static int get_session(const struct place *place, const json_t *object, uint64_t *session) {
  uint64_t number = 0;
  if (place->jsonl->dialect != JSONL_QWEN) {
    *session = 0;
    if (json_object_get(object, "session") == NULL) return 0;
    if (get_count(place, object, "session", INT64_MAX, &number) < 0) return -1;
    *session = number + 1;
    return 0;
  }
  if (get_count(place, object, "chat_id", INT64_MAX, &number) < 0) return -1;
  const json_t *json = json_object_get(object, "parent_chat_id");
  const bool has_parent = json_is_integer(json) && json_integer_value(json) >= 0;
  const uint64_t parent = has_parent ? (uint64_t)json_integer_value(json) : 0;
  return name_session(place, number, has_parent ? &parent : NULL, session);
}

/* `type` is NULL where there is none. */
static uint32_t category_of(const char *type, size_t bytes) {
  static const char *const types[] = {"text", "search", "image", "file"};
  enum { TYPES = sizeof types / sizeof types[0] };
  if (type == NULL) return 0;
  for (uint32_t i = 0; i < TYPES; i++)
    if (strlen(types[i]) == bytes && memcmp(type, types[i], bytes) == 0) return i + 1;
  return TYPES + 1;
}

static uint32_t get_category(const json_t *object) {
  const char *type = json_string_value(json_object_get(object, "type"));
  return category_of(type, type != NULL ? strlen(type) : 0);
}

static int get_request(const struct place *place, const json_t *object,
                       struct trace_request *request) {
  struct jsonl *jsonl = place->jsonl;
  uint64_t input = 0, output = 0;
  if (!json_is_object(object)) return fail(place, NULL, "not a JSON object");
  if (jsonl->dialect == JSONL_ANY)
    jsonl->dialect = json_object_get(object, "chat_id") != NULL ? JSONL_QWEN : JSONL_MOONCAKE;
  if (get_timestamp(place, object, &request->timestamp_ms) < 0 ||
      get_count(place, object, "input_length", TRACE_TOKENS_MAX, &input) < 0 ||
      get_count(place, object, "output_length", TRACE_TOKENS_MAX, &output) < 0 ||
      get_session(place, object, &request->session) < 0)
    return -1;
  request->input_tokens = (uint32_t)input;
  request->output_tokens = (uint32_t)output;
  request->category = jsonl->dialect == JSONL_QWEN ? get_category(object) : 0;
  if (get_blocks(place, object, &request->blocks) < 0) return -1;
  request->ids = jsonl->blocks;
  return 1;
}

/* ---- plain lines ---- */

/* Whether the line is plain, and nothing in it is to be complained of. */
static bool read_plain(struct jsonl *jsonl, const struct place *place) {
  struct plain *plain = &jsonl->plain;
  const unsigned needed =
      1u << PLAIN_TIMESTAMP | 1u << PLAIN_INPUT | 1u << PLAIN_OUTPUT | 1u << PLAIN_IDS;
  if (!plain_read(plain, place->line, place->length)) return false;
  if ((plain->has & needed) != needed || plain->number[PLAIN_INPUT] > TRACE_TOKENS_MAX ||
      plain->number[PLAIN_OUTPUT] > TRACE_TOKENS_MAX || plain->ids_count > TRACE_BLOCKS_MAX)
    return false;
  return jsonl->dialect != JSONL_QWEN || plain_has(plain, PLAIN_CHAT);
}

static uint64_t plain_ms(const struct plain *plain, enum jsonl_dialect dialect) {
  const unsigned unit_ms = dialect == JSONL_QWEN ? 1000 : 1;
  if (plain->timestamp.behind == 0) return plain->timestamp.digits * unit_ms;
  return (uint64_t)(decimal_value(&plain->timestamp) * unit_ms);
}

static int plain_session(const struct place *place, uint64_t *session) {
  const struct plain *plain = &place->jsonl->plain;
  if (place->jsonl->dialect != JSONL_QWEN) {
    *session = plain_has(plain, PLAIN_SESSION) ? (uint64_t)plain->number[PLAIN_SESSION] + 1 : 0;
    return 0;
  }
  const uint64_t parent = (uint64_t)plain->number[PLAIN_PARENT];
  const bool has_parent = plain_has(plain, PLAIN_PARENT) && plain->number[PLAIN_PARENT] >= 0;
  return name_session(place, (uint64_t)plain->number[PLAIN_CHAT], has_parent ? &parent : NULL,
                      session);
}

static int take_plain(const struct place *place, struct trace_request *request) {
  struct jsonl *jsonl = place->jsonl;
  const struct plain *plain = &jsonl->plain;
  if (jsonl->dialect == JSONL_ANY)
    jsonl->dialect = plain_has(plain, PLAIN_CHAT) ? JSONL_QWEN : JSONL_MOONCAKE;
  if (!blocks_fit(jsonl, plain->ids_count)) return fail(place, NULL, "out of memory");
  if (plain_session(place, &request->session) < 0 ||
      name_blocks(place, plain->ids, plain->ids_count) < 0)
    return -1;
  const bool typed = jsonl->dialect == JSONL_QWEN && plain_has(plain, PLAIN_TYPE);
  request->timestamp_ms = plain_ms(plain, jsonl->dialect);
  request->input_tokens = (uint32_t)plain->number[PLAIN_INPUT];
  request->output_tokens = (uint32_t)plain->number[PLAIN_OUTPUT];
  request->category = typed ? category_of(plain->type, plain->type_bytes) : 0;
  request->blocks = (uint32_t)plain->ids_count;
  request->ids = jsonl->blocks;
  return 1;
}

/* ---- the source ---- */

static int is_blank(const char *line, size_t length) {
  for (size_t i = 0; i < length; i++)
    if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r') return 0;
  return 1;
}

static int jsonl_next(struct trace_source *source, struct trace_request *request) {
  struct jsonl *jsonl = (struct jsonl *)source;
  struct place place = {.jsonl = jsonl};
  do {
    const int rc =
        input_line(jsonl->input, &place.line, &place.length, source->why, sizeof source->why);
    if (rc <= 0) return rc;
  } while (is_blank(place.line, place.length));

  int rc;
  if (read_plain(jsonl, &place)) {
    rc = take_plain(&place, request);
  } else {
    json_error_t error;
    json_t *object = json_loadb(place.line, place.length, JSON_REJECT_DUPLICATES, &error);
    if (object == NULL) {
      snprintf(source->why, sizeof source->why, "%s:%llu:%d: %s", input_name(jsonl->input),
               (unsigned long long)input_line_number(jsonl->input),
               error.column > 0 ? error.column : 1, error.text);
      return -1;
    }
    rc = get_request(&place, object, request);
    json_decref(object);
  }
  source->unique = jsonl->ids.count;
  return rc;
}

static void jsonl_close(struct trace_source *source) {
  struct jsonl *jsonl = (struct jsonl *)source;
  input_close(jsonl->input);
  ids_finish(&jsonl->ids);
  ids_finish(&jsonl->chats);
  plain_finish(&jsonl->plain);
  free(jsonl->roots);
  free(jsonl->keys);
  free(jsonl->blocks);
  free(jsonl);
}

struct trace_source *jsonl_open(struct input *input, enum jsonl_dialect dialect, char *why,
                                size_t why_bytes) {
  struct jsonl *jsonl = calloc(1, sizeof *jsonl);
  if (jsonl == NULL) {
    snprintf(why, why_bytes, "%s: out of memory", input_name(input));
    input_close(input);
    return NULL;
  }
  jsonl->source.next = jsonl_next;
  jsonl->source.close = jsonl_close;
  jsonl->input = input;
  jsonl->dialect = dialect;
  return &jsonl->source;
}
