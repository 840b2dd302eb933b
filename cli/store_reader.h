/* store_reader.h - opens a store to look at it: inspect, verify and stat.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_CLI_STORE_READER_H
#define KVSTOW_CLI_STORE_READER_H

#include <stdbool.h>

#include <jansson.h>
#include <kvstow/kvstow.h>

struct store_reader {
  const char *command; /* "kvstow verify", for messages */
  const char *const *dirs;
  uint32_t dirs_count;
  bool json;
  bool segments; /* inspect: list every segment */
  const char *key_file;
  kvstow_tier *tier;
};

struct store_command {
  const char *usage; /* what --help prints */
  bool has_segments;
};

/* Parses `[OPTION]... DIR...` and opens the store read-only. Returns an exit code, or -1 to go on;
 * the caller then closes it with store_reader_close(). */
int store_reader_open(struct store_reader *reader, const struct store_command *command, int argc,
                      char **argv);
void store_reader_close(struct store_reader *reader);

/* Whether a segment holds records. */
bool store_segment_used(const kvstow_segment_info *info);

const char *store_segment_state(kvstow_segment_state state);

/* Prints and releases `json`; an exit code. */
int print_json(json_t *json);

#endif
