/* cli/trace/reader.c - picks the source for a trace, by format, content or name, and passes calls
 * on to it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "cli/trace/source.h"

struct trace_reader {
  struct trace_source source;
};

enum format { UNKNOWN, MOONCAKE, QWEN, JSONL, ORACLE, CSV, RECORDED };

static const struct {
  const char *name;
  enum format format;
} formats[] = {
    {"mooncake", MOONCAKE}, {"qwen", QWEN},       {"oracleGeneral", ORACLE},
    {"csv", CSV},           {"kvstow", RECORDED}, {NULL, UNKNOWN},
};

static const char *params_of(const char *format) {
  const char *colon = strchr(format, ':');
  return colon != NULL ? colon + 1 : NULL;
}

static enum format format_named(const char *name) {
  const size_t length = strcspn(name, ":");
  for (size_t i = 0; formats[i].name != NULL; i++) {
    if (strlen(formats[i].name) != length || strncmp(formats[i].name, name, length) != 0) continue;
    return formats[i].format == CSV || name[length] == '\0' ? formats[i].format : UNKNOWN;
  }
  return UNKNOWN;
}

bool trace_format_known(const char *format, char *why, size_t why_bytes) {
  const enum format known = format_named(format);
  if (known == CSV) return csv_params_ok(params_of(format), why, why_bytes);
  if (known != UNKNOWN) return true;
  snprintf(why, why_bytes, "expected mooncake, qwen, oracleGeneral, kvstow or csv[:PARAMETERS]");
  return false;
}

/* Text with a line end near, or all of it: a person's eye would call it lines. */
static bool is_text(const char *bytes, size_t count) {
  for (size_t i = 0; i < count && i < 4096; i++) {
    const unsigned char c = (unsigned char)bytes[i];
    if (c < 0x20 && c != '\n' && c != '\r' && c != '\t') return false;
  }
  return true;
}

static enum format recognise(const char *name, const char *bytes, size_t count) {
  size_t i = 0;
  if (recorded_likely(bytes, count)) return RECORDED;
  while (i < count && strchr(" \t\r\n", bytes[i]) != NULL && bytes[i] != '\0') i++;
  if (i == count || bytes[i] == '{' || bytes[i] == '[') return JSONL;
  if (strstr(name, "oracleGeneral") != NULL || strstr(name, "oracle_general") != NULL)
    return ORACLE;
  if (!is_text(bytes, count)) return oracle_likely(bytes, count) ? ORACLE : UNKNOWN;
  if (strstr(name, ".csv") != NULL || strstr(name, ".txt") != NULL) return CSV;
  if (strstr(name, ".json") != NULL) return JSONL;
  return bytes[i] >= '0' && bytes[i] <= '9' ? CSV : UNKNOWN;
}

static struct trace_source *open_file(const char *name, const char *format, char *why,
                                      size_t why_bytes) {
  const char *bytes;
  size_t count;
  struct input *input = input_open(name, why, why_bytes);
  if (input == NULL) return NULL;
  enum format known = format != NULL ? format_named(format) : UNKNOWN;
  if (format == NULL && input_peek(input, &bytes, &count, why, why_bytes) == 0) {
    known = recognise(name, bytes, count);
    if (known == UNKNOWN && count >= 2 && memcmp(bytes, "\x1f\x8b", 2) == 0)
      snprintf(why, why_bytes, "%s: compressed by gzip: gunzip it, or pipe it into --trace -",
               name);
    else if (known == UNKNOWN)
      snprintf(why, why_bytes, "%s:1: in no known format: say --format, if it is one", name);
  } else if (known == UNKNOWN && format != NULL) {
    trace_format_known(format, why, why_bytes);
  }
  switch (known) {
    case MOONCAKE:
      return jsonl_open(input, JSONL_MOONCAKE, why, why_bytes);
    case QWEN:
      return jsonl_open(input, JSONL_QWEN, why, why_bytes);
    case JSONL:
      return jsonl_open(input, JSONL_ANY, why, why_bytes);
    case ORACLE:
      return oracle_open(input, why, why_bytes);
    case CSV:
      return csv_open(input, format != NULL ? params_of(format) : NULL, why, why_bytes);
    case RECORDED:
      return recorded_open(input, why, why_bytes);
    case UNKNOWN:
      break;
  }
  input_close(input);
  return NULL;
}

static struct trace_source *open_generator(const char *name, char *why, size_t why_bytes) {
  static const char conversations[] = "conversations";
  const size_t length = sizeof conversations - 1;
  if (strncmp(name, conversations, length) == 0 && (name[length] == '\0' || name[length] == '?'))
    return conversations_open(name[length] == '?' ? name + length + 1 : "", why, why_bytes);
  return traffic_open(name, why, why_bytes);
}

struct trace_reader *trace_open(const char *name, const char *format, char *why, size_t why_bytes) {
  static const char generator[] = "gen:";
  const size_t length = sizeof generator - 1;
  return (struct trace_reader *)(strncmp(name, generator, length) == 0
                                     ? open_generator(name + length, why, why_bytes)
                                     : open_file(name, format, why, why_bytes));
}

int trace_next(struct trace_reader *reader, struct trace_request *request) {
  return reader->source.next(&reader->source, request);
}

const char *trace_why(const struct trace_reader *reader) {
  return reader->source.why;
}

uint32_t trace_unique(const struct trace_reader *reader) {
  return reader->source.unique;
}

uint32_t trace_block_tokens(const struct trace_reader *reader) {
  return reader->source.block_tokens;
}

void trace_close(struct trace_reader *reader) {
  if (reader != NULL) reader->source.close(&reader->source);
}
