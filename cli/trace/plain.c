/* cli/trace/plain.c - see plain.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace/plain.h"

#include <stdlib.h>
#include <string.h>

enum { OTHERS_MAX = 8, WHOLE_DIGITS = 18 };

struct text {
  const char *at;
  size_t bytes;
};

struct scan {
  const char *at, *end;
  struct plain *plain;
  struct text others[OTHERS_MAX]; /* names of fields that nobody wants: each may be there once */
  unsigned other_count;
};

static bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

static void skip_blanks(struct scan *scan) {
  while (scan->at < scan->end && (*scan->at == ' ' || *scan->at == '\t' || *scan->at == '\r'))
    scan->at++;
}

/* Takes `c` and the blanks around it. */
static bool take(struct scan *scan, char c) {
  skip_blanks(scan);
  if (scan->at == scan->end || *scan->at != c) return false;
  scan->at++;
  skip_blanks(scan);
  return true;
}

static bool take_text(struct scan *scan, struct text *text) {
  if (scan->at == scan->end || *scan->at != '"') return false;
  const char *const begin = ++scan->at;
  for (; scan->at < scan->end && *scan->at != '"'; scan->at++)
    if (*scan->at < ' ' || *scan->at > '~' || *scan->at == '\\') return false;
  if (scan->at == scan->end) return false;
  *text = (struct text){.at = begin, .bytes = (size_t)(scan->at - begin)};
  scan->at++;
  return true;
}

static bool is(const struct text *text, const char *name) {
  return strlen(name) == text->bytes && memcmp(name, text->at, text->bytes) == 0;
}

/* 007 is no number to JSON. */
static bool zero_leads(const struct scan *scan) {
  return scan->end - scan->at > 1 && scan->at[0] == '0' && is_digit(scan->at[1]);
}

/* Not e, E or a point behind a number, or it is another one. */
static bool number_ends(const struct scan *scan) {
  static const char ends[] = {',', ']', '}', ' ', '\t', '\r'};
  return scan->at == scan->end || memchr(ends, *scan->at, sizeof ends) != NULL;
}

static bool take_whole(struct scan *scan, uint64_t *value) {
  if (zero_leads(scan)) return false;
  const char *const begin = scan->at;
  uint64_t number = 0;
  for (; scan->at < scan->end && is_digit(*scan->at); scan->at++)
    number = number * 10 + (uint64_t)(*scan->at - '0');
  *value = number;
  return scan->at > begin && scan->at - begin <= WHOLE_DIGITS && number_ends(scan);
}

static bool take_signed(struct scan *scan, int64_t *value) {
  const bool negative = scan->at < scan->end && *scan->at == '-';
  uint64_t number;
  scan->at += negative;
  if (!take_whole(scan, &number) || (negative && number == 0)) return false;
  *value = negative ? -(int64_t)number : (int64_t)number;
  return true;
}

static bool take_decimal(struct scan *scan, struct decimal *decimal) {
  if (zero_leads(scan)) return false;
  scan->at = decimal_read(scan->at, scan->end, decimal);
  return scan->at != NULL && number_ends(scan);
}

static bool ids_fit(struct plain *plain) {
  if (plain->ids_count < plain->ids_room) return true;
  const size_t room = plain->ids_room * 2 + 1024;
  uint64_t *ids = realloc(plain->ids, room * sizeof *ids);
  if (ids == NULL) return false;
  plain->ids = ids;
  plain->ids_room = room;
  return true;
}

static bool take_ids(struct scan *scan) {
  struct plain *plain = scan->plain;
  if (!take(scan, '[')) return false;
  if (take(scan, ']')) return true;
  do {
    if (!ids_fit(plain) || !take_whole(scan, &plain->ids[plain->ids_count])) return false;
    plain->ids_count++;
  } while (take(scan, ','));
  return take(scan, ']');
}

static bool take_other(struct scan *scan, const struct text *name) {
  struct decimal decimal;
  struct text text;
  for (unsigned i = 0; i < scan->other_count; i++)
    if (scan->others[i].bytes == name->bytes &&
        memcmp(scan->others[i].at, name->at, name->bytes) == 0)
      return false;
  if (scan->other_count == OTHERS_MAX || scan->at == scan->end) return false;
  scan->others[scan->other_count++] = *name;
  if (*scan->at == '"') return take_text(scan, &text);
  return take_decimal(scan, &decimal);
}

static enum plain_field field_named(const struct text *name) {
  static const char *const names[PLAIN_FIELDS] = {
      [PLAIN_TIMESTAMP] = "timestamp",
      [PLAIN_INPUT] = "input_length",
      [PLAIN_OUTPUT] = "output_length",
      [PLAIN_SESSION] = "session",
      [PLAIN_CHAT] = "chat_id",
      [PLAIN_PARENT] = "parent_chat_id",
      [PLAIN_TYPE] = "type",
      [PLAIN_IDS] = "hash_ids",
  };
  enum plain_field field = 0;
  while (field < PLAIN_FIELDS && !is(name, names[field])) field++;
  return field;
}

static bool take_value(struct scan *scan, enum plain_field field) {
  struct plain *plain = scan->plain;
  uint64_t whole;
  struct text text;
  switch (field) {
    case PLAIN_TIMESTAMP:
      return take_decimal(scan, &plain->timestamp);
    case PLAIN_PARENT:
      return take_signed(scan, &plain->number[field]);
    case PLAIN_TYPE:
      if (!take_text(scan, &text)) return false;
      plain->type = text.at;
      plain->type_bytes = text.bytes;
      return true;
    case PLAIN_IDS:
      return take_ids(scan);
    default:
      if (!take_whole(scan, &whole)) return false;
      plain->number[field] = (int64_t)whole;
      return true;
  }
}

static bool take_field(struct scan *scan) {
  struct text name;
  if (!take_text(scan, &name) || !take(scan, ':')) return false;
  const enum plain_field field = field_named(&name);
  if (field == PLAIN_FIELDS) return take_other(scan, &name);
  if (plain_has(scan->plain, field)) return false;
  scan->plain->has |= 1u << field;
  return take_value(scan, field);
}

bool plain_read(struct plain *plain, const char *line, size_t length) {
  struct scan scan = {.at = line, .end = line + length, .plain = plain};
  plain->has = 0;
  plain->ids_count = 0;
  if (!take(&scan, '{')) return false;
  do {
    if (!take_field(&scan)) return false;
  } while (take(&scan, ','));
  return take(&scan, '}') && scan.at == scan.end;
}

void plain_finish(struct plain *plain) {
  free(plain->ids);
  plain->ids = NULL;
}
