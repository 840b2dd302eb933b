/* cli/trace/input.h - a file, plain or zstd (told apart by the first bytes), by lines or by records.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRACE_INPUT_H
#define CLI_TRACE_INPUT_H

#include <stddef.h>
#include <stdint.h>

enum { INPUT_WHY_BYTES = 512 };

struct input;

/* `-` is standard input. NULL with the reason in `why`. */
struct input *input_open(const char *path, char *why, size_t why_bytes);

/* 1 and the line without its newline (valid until the next call); 0 at the end; -1 with `why`. */
int input_line(struct input *input, const char **line, size_t *length, char *why, size_t why_bytes);

/* The same for a record of `bytes` bytes; a part of one at the end is an error. */
int input_record(struct input *input, size_t bytes, const char **record, char *why,
                 size_t why_bytes);

/* As many whole records as are there already, `max` at most, but one at least: 1 and *count. */
int input_records(struct input *input, size_t bytes, size_t max, const char **records,
                  size_t *count, char *why, size_t why_bytes);

/* What comes next, without taking it: at least 64 KiB or all there is. 0, or -1 with `why`. */
int input_peek(struct input *input, const char **bytes, size_t *count, char *why, size_t why_bytes);

/* Number of the line handed out last, from 1. */
uint64_t input_line_number(const struct input *input);

/* Where the line or records handed out last begin, in bytes of what was decoded. */
uint64_t input_offset(const struct input *input);

/* What to call the file in messages. */
const char *input_name(const struct input *input);

/* NULL is fine. */
void input_close(struct input *input);

#endif
