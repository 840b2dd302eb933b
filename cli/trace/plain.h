/* cli/trace/plain.h - a JSON line as traces usually write it, read without building a tree.
 *
 * Plain is one object of numbers, strings without escapes, and hash_ids, an array of whole numbers. What
 * else JSON allows, and whatever is wrong, is left to a parser that says what: a line is read
 * here as that would read it, or not at all.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRACE_PLAIN_H
#define CLI_TRACE_PLAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/trace/decimal.h"

enum plain_field {
  PLAIN_TIMESTAMP, /* a decimal, not negative */
  PLAIN_INPUT,     /* whole numbers, not negative: */
  PLAIN_OUTPUT,
  PLAIN_SESSION,
  PLAIN_CHAT,
  PLAIN_PARENT, /* a whole number */
  PLAIN_TYPE,   /* a string */
  PLAIN_IDS,
  PLAIN_FIELDS
};

struct plain {  /* starts zeroed */
  unsigned has; /* bit i: field i is there */
  struct decimal timestamp;
  int64_t number[PLAIN_FIELDS]; /* of the whole ones */
  const char *type;             /* in the line */
  size_t type_bytes;
  uint64_t *ids; /* ours */
  size_t ids_count, ids_room;
};

static inline bool plain_has(const struct plain *plain, enum plain_field field) {
  return plain->has >> field & 1;
}

/* False: the line is not plain, or memory is short; nothing in *plain means anything then. */
bool plain_read(struct plain *plain, const char *line, size_t length);
void plain_finish(struct plain *plain);

#endif
