/* cli/trace/ids.c - renames 64-bit ids to dense ones; see ids.h.
 *
 * A key is at home in the line that the high bits of its hash name, or, when that is full, in one
 * behind it. Nothing is ever taken out, so that a line with room ends a search. When the table doubles,
 * one line's keys go to two neighbours: it is read and written from front to back.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace/ids.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
  LINE_KEYS = 5,
  FIRST_LINE_BITS = 6,
  AHEAD = 16, /* keys between a prefetch and its use */
  NAMES_AT_ONCE = 1024,
  HUGE_PAGE_BYTES = 2 << 20,
};

struct ids_line {
  uint64_t keys[LINE_KEYS];
  uint32_t names[LINE_KEYS];
  uint32_t used; /* from the first on */
};
static_assert(sizeof(struct ids_line) == 64, "a line of the table is one of the cache");

static struct ids_line *home_of(const struct ids *ids, uint64_t key) {
  uint64_t hash = (key ^ key >> 32) * 0x9e3779b97f4a7c15u;
  hash = (hash ^ hash >> 29) * 0xbf58476d1ce4e5b9u;
  return &ids->lines[hash >> (64 - ids->line_bits)];
}

static struct ids_line *behind(const struct ids *ids, struct ids_line *line) {
  const size_t last = ((size_t)1 << ids->line_bits) - 1;
  return line == ids->lines + last ? ids->lines : line + 1;
}

/* The key's place, and its line: names[5] and beyond do not exist, so a line with room holds what is
 * not found. */
static uint32_t find(const struct ids *ids, uint64_t key, struct ids_line **at) {
  for (struct ids_line *line = home_of(ids, key);; line = behind(ids, line)) {
    unsigned same = 0;
    for (unsigned i = 0; i < LINE_KEYS; i++) same |= (unsigned)(line->keys[i] == key) << i;
    same &= (1u << line->used) - 1;
    *at = line;
    if (same != 0) return (uint32_t)__builtin_ctz(same);
    if (line->used < LINE_KEYS) return line->used;
  }
}

static void add(struct ids_line *line, uint64_t key, uint32_t name) {
  line->keys[line->used] = key;
  line->names[line->used++] = name;
}

static struct ids_line *lines_alloc(unsigned line_bits) {
  const size_t bytes = sizeof(struct ids_line) << line_bits;
  const bool huge = bytes >= HUGE_PAGE_BYTES;
  struct ids_line *lines = aligned_alloc(huge ? HUGE_PAGE_BYTES : sizeof *lines, bytes);
  if (lines == NULL) return NULL;
  if (huge) madvise(lines, bytes, MADV_HUGEPAGE); /* or every look-up misses the TLB, too */
  memset(lines, 0, bytes);
  return lines;
}

static bool grow(struct ids *ids) {
  struct ids grown = *ids;
  grown.line_bits = ids->lines == NULL ? FIRST_LINE_BITS : ids->line_bits + 1;
  grown.lines = lines_alloc(grown.line_bits);
  if (grown.lines == NULL) return false;
  const size_t lines = ids->lines == NULL ? 0 : (size_t)1 << ids->line_bits;
  for (size_t i = 0; i < lines; i++) {
    const struct ids_line *line = &ids->lines[i];
    for (uint32_t j = 0; j < line->used; j++) {
      struct ids_line *to;
      find(&grown, line->keys[j], &to);
      add(to, line->keys[j], line->names[j]);
    }
  }
  free(ids->lines);
  *ids = grown;
  return true;
}

/* So that `more` keys find room. */
static bool reserve(struct ids *ids, uint64_t more) {
  while (ids->lines == NULL || ids->count + more > ((uint64_t)LINE_KEYS << ids->line_bits) / 4 * 3)
    if (!grow(ids)) return false;
  return true;
}

static bool name_in(struct ids *ids, uint64_t key, uint32_t *name) {
  struct ids_line *line;
  const uint32_t slot = find(ids, key, &line);
  if (slot == line->used) {
    if (ids->count >= UINT32_MAX - 1) return false;
    add(line, key, ids->count++);
  }
  *name = line->names[slot];
  return true;
}

bool ids_name(struct ids *ids, uint64_t key, uint32_t *name) {
  return reserve(ids, 1) && name_in(ids, key, name);
}

static bool names_in(struct ids *ids, const uint64_t *keys, size_t count, uint32_t *names) {
  if (!reserve(ids, count)) return false;
  for (size_t i = 0; i < AHEAD && i < count; i++) __builtin_prefetch(home_of(ids, keys[i]), 1);
  for (size_t i = 0; i < count; i++) {
    if (i + AHEAD < count) __builtin_prefetch(home_of(ids, keys[i + AHEAD]), 1);
    if (!name_in(ids, keys[i], &names[i])) return false;
  }
  return true;
}

bool ids_names(struct ids *ids, const uint64_t *keys, size_t count, uint32_t *names) {
  for (size_t done = 0; done < count; done += NAMES_AT_ONCE) {
    const size_t some = count - done < NAMES_AT_ONCE ? count - done : NAMES_AT_ONCE;
    if (!names_in(ids, keys + done, some, names + done)) return false;
  }
  return true;
}

uint64_t ids_pair(uint32_t parent, uint64_t id) {
  uint64_t x = (parent + UINT64_C(1)) * 0x9e3779b97f4a7c15u ^ id; /* splitmix64's finish */
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

void ids_finish(struct ids *ids) {
  free(ids->lines);
  ids->lines = NULL;
}
