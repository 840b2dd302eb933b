/* cli/trace/lines.h - a text file, line by line, plain or zstd (told apart by the first bytes).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRACE_LINES_H
#define CLI_TRACE_LINES_H

#include <stddef.h>
#include <stdint.h>

struct lines;

/* `-` is standard input. NULL with the reason in `why`. */
struct lines *lines_open(const char *path, char *why, size_t why_bytes);

/* 1 and the line without its newline (valid until the next call); 0 at the end; -1 with `why`. */
int lines_next(struct lines *lines, const char **line, size_t *length, char *why, size_t why_bytes);

/* Number of the line handed out last, from 1. */
uint64_t lines_number(const struct lines *lines);

/* What to call the file in messages. */
const char *lines_name(const struct lines *lines);

void lines_close(struct lines *lines);

#endif
