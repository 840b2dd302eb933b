/* table.c - aligned tables with units.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/table.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct table {
  size_t columns;
  bool titled;
  bool failed;
  size_t count, room; /* cells, the titles first */
  char **cells;
};

/* Takes `text`. */
static void add(struct table *table, char *text) {
  if (!table) {
    free(text);
    return;
  }
  if (table->count == table->room) {
    const size_t room = table->room ? 2 * table->room : 64;
    char **cells = realloc(table->cells, room * sizeof *cells);
    if (!cells) {
      free(text);
      text = NULL;
    } else {
      table->cells = cells;
      table->room = room;
    }
  }
  if (!text) {
    table->failed = true;
    return;
  }
  table->cells[table->count++] = text;
}

struct table *table_create(const char *const *titles) {
  struct table *table = calloc(1, sizeof *table);
  if (!table) return NULL;
  for (size_t i = 0; titles[i]; i++) {
    table->columns++;
    if (strcmp(titles[i], "") != 0 && strcmp(titles[i], "<") != 0) table->titled = true;
    add(table, strdup(titles[i]));
  }
  return table;
}

void table_destroy(struct table *table) {
  if (!table) return;
  for (size_t i = 0; i < table->count; i++) free(table->cells[i]);
  free(table->cells);
  free(table);
}

void table_text(struct table *table, const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *text = NULL;
  if (vasprintf(&text, format, args) < 0) text = NULL;
  va_end(args);
  add(table, text);
}

void table_count(struct table *table, uint64_t count) {
  char text[TABLE_CELL_BYTES];
  add(table, strdup(format_count(text, count)));
}

void table_bytes(struct table *table, uint64_t bytes) {
  char text[TABLE_CELL_BYTES];
  add(table, strdup(format_bytes(text, bytes)));
}

void table_percent(struct table *table, double part, double whole) {
  if (whole > 0) {
    table_text(table, "%.1f %%", 100.0 * part / whole);
  } else {
    table_text(table, "-");
  }
}

void table_age(struct table *table, uint64_t seconds) {
  char text[TABLE_CELL_BYTES];
  add(table, strdup(format_age(text, seconds)));
}

/* Columns a terminal gives to UTF-8 text. */
static int width_of(const char *text) {
  int width = 0;
  for (; *text; text++) width += ((unsigned char)*text & 0xc0) != 0x80;
  return width;
}

/* The cell's text; a title without its mark. */
static const char *cell_text(const struct table *table, size_t i) {
  const char *text = table->cells[i];
  return i < table->columns && *text == '<' ? text + 1 : text;
}

int table_print(const struct table *table, FILE *out) {
  if (!table || table->failed) return -1;
  int *widths = calloc(table->columns + 1, sizeof *widths);
  if (!widths) return -1;
  for (size_t i = 0; i < table->count; i++) {
    const int width = width_of(cell_text(table, i));
    int *widest = &widths[i % table->columns];
    if (width > *widest) *widest = width;
  }
  for (size_t i = table->titled ? 0 : table->columns; i < table->count; i++) {
    const size_t column = i % table->columns;
    const bool last = column + 1 == table->columns || i + 1 == table->count;
    const char *text = cell_text(table, i);
    const int pad = widths[column] - width_of(text);
    if (column > 0) fputs("  ", out);
    if (*table->cells[column] == '<') {
      fprintf(out, "%s%*s", text, last ? 0 : pad, "");
    } else {
      fprintf(out, "%*s%s", pad, "", text);
    }
    if (last) putc('\n', out);
  }
  free(widths);
  return 0;
}

const char *format_count(char *text, uint64_t count) {
  char digits[24];
  const int length = snprintf(digits, sizeof digits, "%" PRIu64, count);
  char *end = text;
  for (int i = 0; i < length; i++) {
    if (i > 0 && (length - i) % 3 == 0) *end++ = ',';
    *end++ = digits[i];
  }
  *end = '\0';
  return text;
}

const char *format_bytes(char *text, uint64_t bytes) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  size_t unit = 0;
  double amount = (double)bytes;
  while (amount >= 1024.0 && unit + 1 < sizeof units / sizeof units[0]) {
    amount /= 1024.0;
    unit++;
  }
  const int digits = unit == 0 || amount >= 100.0 ? 0 : amount >= 10.0 ? 1 : 2;
  snprintf(text, TABLE_CELL_BYTES, "%.*f %s", digits, amount, units[unit]);
  return text;
}

const char *format_age(char *text, uint64_t seconds) {
  if (seconds < 60) {
    snprintf(text, TABLE_CELL_BYTES, "%" PRIu64 " s", seconds);
  } else if (seconds < 3600) {
    snprintf(text, TABLE_CELL_BYTES, "%" PRIu64 " min %" PRIu64 " s", seconds / 60, seconds % 60);
  } else if (seconds < 86400) {
    snprintf(text, TABLE_CELL_BYTES, "%" PRIu64 " h %" PRIu64 " min", seconds / 3600,
             seconds / 60 % 60);
  } else {
    snprintf(text, TABLE_CELL_BYTES, "%" PRIu64 " d %" PRIu64 " h", seconds / 86400,
             seconds / 3600 % 24);
  }
  return text;
}
