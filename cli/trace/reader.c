/* cli/trace/reader.c - picks the source for a trace's name, and passes calls on to it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "cli/trace/source.h"

struct trace_reader {
  struct trace_source source;
};

struct trace_reader *trace_open(const char *name, char *why, size_t why_bytes) {
  static const char generator[] = "gen:";
  static const char conversations[] = "gen:conversations";
  const size_t length = sizeof conversations - 1;
  if (strncmp(name, generator, sizeof generator - 1) != 0)
    return (struct trace_reader *)mooncake_open(name, why, why_bytes);
  if (strncmp(name, conversations, length) == 0 && (name[length] == '\0' || name[length] == '?'))
    return (struct trace_reader *)conversations_open(name[length] == '?' ? name + length + 1 : "",
                                                     why, why_bytes);
  snprintf(why, why_bytes, "%s: no such generator (there is gen:conversations)", name);
  return NULL;
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
