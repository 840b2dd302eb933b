/* cli/size.h - sizes as people write them: 4096, 64KiB, 2MiB, 1GiB; for replay 3655blk, 2%.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_SIZE_H
#define CLI_SIZE_H

#include <stdbool.h>
#include <stdint.h>

enum size_unit { SIZE_BYTES, SIZE_BLOCKS, SIZE_PERCENT };

struct size {
  enum size_unit unit;
  uint64_t count; /* bytes or blocks; for SIZE_PERCENT millionths of a percent */
  bool in_grid;   /* one of many: may be left out where it makes no sense */
};

/* False when `text` is no size, is 0, or does not fit. Fractions: only of bytes with a unit and of
 * percent (1.5GiB, 0.5%). */
bool size_parse(const char *text, struct size *size);

/* One size, or a grid: `A..B:N` is N sizes from A to B, both included, with equal ratios between them
 * (A and B of one unit, A < B, N from 2 to `max`). How many went to `sizes`, or -1. */
int size_parse_grid(const char *text, struct size *sizes, unsigned max);

/* Bytes only: 4096, 64KiB, 2MiB, 1GiB, 1TiB. */
bool size_parse_bytes(const char *text, uint64_t *bytes);

/* The size in blocks: percent of `unique`, rounded down; bytes over `block_bytes`, rounded down
 * (0 when block_bytes is 0: bytes can't be told). */
uint64_t size_in_blocks(const struct size *size, uint64_t unique, uint64_t block_bytes);

#endif
