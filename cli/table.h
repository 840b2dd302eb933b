/* table.h - short aligned tables for people.
 *
 * Columns are as wide as their widest cell; a text column is flush left, all others flush right.
 * Cells are added from left to right, row after row; the units are spelled here and nowhere else.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_CLI_TABLE_H
#define KVSTOW_CLI_TABLE_H

#include <stdint.h>
#include <stdio.h>

struct table;

/* `titles` ends with NULL; a title that begins with '<' makes a text column. All titles empty: no
 * title line. NULL when out of memory; every function takes that NULL and does nothing. */
struct table *table_create(const char *const *titles);
void table_destroy(struct table *table);

void table_text(struct table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
void table_count(struct table *table, uint64_t count);              /* 12,345 */
void table_bytes(struct table *table, uint64_t bytes);              /* 1.25 GiB */
void table_percent(struct table *table, double part, double whole); /* 93.8 %, or - of 0 */
void table_age(struct table *table, uint64_t seconds);              /* 3 h 12 min */

/* Rows short of cells are filled with empty ones. 0, or -1 when a cell had no memory. */
int table_print(const struct table *table, FILE *out);

/* The spellings, for use outside tables. `text` holds TABLE_CELL_BYTES. */
enum { TABLE_CELL_BYTES = 40 };
const char *format_count(char *text, uint64_t count);
const char *format_bytes(char *text, uint64_t bytes);
const char *format_age(char *text, uint64_t seconds);

#endif
