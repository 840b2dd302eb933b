/* cli/size.c - sizes as people write them; see size.h.
 *
 * Exact integer arithmetic: 2 % of 182790 blocks is 3655 on every machine. The ends of a grid are exact,
 * too; what lies between is rounded to what a size counts in.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/size.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* A decimal number in millionths, so that 1.5 is exact. */
static const char *parse_millionths(const char *text, unsigned __int128 *value, bool *fraction) {
  unsigned __int128 number = 0;
  const char *start = text;
  *fraction = false;
  for (; *text >= '0' && *text <= '9'; text++) {
    number = number * 10 + (unsigned)(*text - '0');
    if (number > UINT64_MAX) return NULL;
  }
  if (text == start) return NULL;
  uint32_t scale = 1000000;
  if (*text == '.') {
    *fraction = true;
    for (text++; *text >= '0' && *text <= '9'; text++) {
      if (scale == 1) return NULL; /* finer than a millionth */
      number = number * 10 + (unsigned)(*text - '0');
      scale /= 10;
    }
    if (text[-1] == '.') return NULL;
  }
  *value = number * scale;
  return text;
}

static bool unit_bytes(const char *unit, uint64_t *bytes) {
  static const struct {
    const char *name;
    unsigned shift;
  } units[] = {{"", 0}, {"B", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
  for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
    if (strcmp(unit, units[i].name) == 0) {
      *bytes = UINT64_C(1) << units[i].shift;
      return true;
    }
  }
  return false;
}

bool size_parse(const char *text, struct size *size) {
  unsigned __int128 millionths;
  bool fraction;
  uint64_t unit;
  const char *rest = parse_millionths(text, &millionths, &fraction);
  size->in_grid = false;
  if (rest == NULL || millionths == 0) return false;
  if (strcmp(rest, "%") == 0) {
    size->unit = SIZE_PERCENT;
    size->count = (uint64_t)millionths;
    return millionths <= 100 * 1000000u;
  }
  if (strcmp(rest, "blk") == 0) {
    size->unit = SIZE_BLOCKS;
    size->count = (uint64_t)(millionths / 1000000);
    return !fraction && size->count <= INT64_MAX;
  }
  if (!unit_bytes(rest, &unit) || (fraction && unit == 1)) return false;
  if (millionths > ((unsigned __int128)INT64_MAX * 1000000) / unit) return false;
  size->unit = SIZE_BYTES;
  size->count = (uint64_t)(millionths * unit / 1000000);
  return size->count > 0;
}

int size_parse_grid(const char *text, struct size *sizes, unsigned max) {
  char copy[96];
  if (strlen(text) >= sizeof copy) return -1;
  strcpy(copy, text);
  char *dots = strstr(copy, "..");
  if (dots == NULL) return max > 0 && size_parse(copy, &sizes[0]) ? 1 : -1;
  char *colon = strchr(dots, ':');
  struct size first, last;
  if (colon == NULL) return -1;
  *dots = *colon = '\0';
  char *end;
  const unsigned long count = strtoul(colon + 1, &end, 10);
  if (colon[1] < '0' || colon[1] > '9' || *end != '\0' || count < 2 || count > max) return -1;
  if (!size_parse(copy, &first) || !size_parse(dots + 2, &last) || first.unit != last.unit ||
      first.count >= last.count)
    return -1;
  const double ratio = (double)last.count / (double)first.count;
  for (unsigned long i = 0; i < count; i++) {
    const double at = (double)first.count * pow(ratio, (double)i / (double)(count - 1));
    sizes[i] = (struct size){.unit = first.unit, .count = (uint64_t)(at + 0.5), .in_grid = true};
  }
  sizes[0].count = first.count;
  sizes[count - 1].count = last.count;
  return (int)count;
}

bool size_parse_bytes(const char *text, uint64_t *bytes) {
  struct size size;
  if (!size_parse(text, &size) || size.unit != SIZE_BYTES) return false;
  *bytes = size.count;
  return true;
}

uint64_t size_in_blocks(const struct size *size, uint64_t unique, uint64_t block_bytes) {
  switch (size->unit) {
    case SIZE_BLOCKS:
      return size->count;
    case SIZE_PERCENT:
      return (uint64_t)((unsigned __int128)unique * size->count / (100 * 1000000u));
    case SIZE_BYTES:
      return block_bytes == 0 ? 0 : size->count / block_bytes;
  }
  return 0;
}
