/* cli/trace/lines.c - a text file, line by line, plain or zstd.
 *
 * Bytes come in from the file, go through zstd when the file begins with its magic, and collect in
 * `text` until a newline is there. Memory is bounded by the longest line, and that by LINE_MAX_BYTES.
 * A zstd file that ends in the middle of a frame is an error: half a trace gives wrong figures.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

enum { INPUT_BYTES = 128 * 1024, LINE_MAX_BYTES = 64 * 1024 * 1024 };

struct lines {
  char *name;
  int fd;
  ZSTD_DStream *zstd; /* NULL for a plain file */
  bool in_frame;      /* zstd: a frame has begun and not ended */
  bool input_end;
  char *input; /* [input_at, input_used) is not yet decoded */
  size_t input_at, input_used;
  char *text; /* [text_at, text_used) is not yet handed out */
  size_t text_at, text_used, text_size;
  size_t scanned; /* text before this holds no newline */
  uint64_t number;
};

static int fail(const struct lines *lines, char *why, size_t why_bytes, const char *cause) {
  snprintf(why, why_bytes, "%s: after line %llu: %s", lines->name,
           (unsigned long long)lines->number, cause);
  return -1;
}

/* Reads more of the file into `input`, behind what is there. */
static int fill_input(struct lines *lines, char *why, size_t why_bytes) {
  if (lines->input_at > 0) {
    memmove(lines->input, lines->input + lines->input_at, lines->input_used - lines->input_at);
    lines->input_used -= lines->input_at;
    lines->input_at = 0;
  }
  while (!lines->input_end && lines->input_used < INPUT_BYTES) {
    const ssize_t got =
        read(lines->fd, lines->input + lines->input_used, INPUT_BYTES - lines->input_used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail(lines, why, why_bytes, strerror(errno));
    if (got == 0) lines->input_end = true;
    lines->input_used += (size_t)got;
    if (got > 0 && lines->zstd != NULL) break;
  }
  return 0;
}

static int reserve_text(struct lines *lines, char *why, size_t why_bytes) {
  if (lines->text_at > 0) {
    memmove(lines->text, lines->text + lines->text_at, lines->text_used - lines->text_at);
    lines->text_used -= lines->text_at;
    lines->scanned -= lines->text_at;
    lines->text_at = 0;
  }
  if (lines->text_size - lines->text_used >= INPUT_BYTES) return 0;
  const size_t size = lines->text_size * 2 + INPUT_BYTES;
  if (size > 2 * (size_t)LINE_MAX_BYTES)
    return fail(lines, why, why_bytes, "a line longer than 64 MiB");
  char *text = realloc(lines->text, size);
  if (text == NULL) return fail(lines, why, why_bytes, "out of memory");
  lines->text = text;
  lines->text_size = size;
  return 0;
}

/* Moves bytes from `input` to `text`. 1 if it may be called again, 0 at the end. */
static int decode(struct lines *lines, char *why, size_t why_bytes) {
  if (reserve_text(lines, why, why_bytes) < 0) return -1;
  if (lines->input_at == lines->input_used && fill_input(lines, why, why_bytes) < 0) return -1;
  const size_t room = lines->text_size - lines->text_used;
  const size_t have = lines->input_used - lines->input_at;
  if (have == 0 && lines->zstd != NULL && lines->in_frame)
    return fail(lines, why, why_bytes, "the zstd data ends in the middle of a frame (truncated?)");
  if (have == 0) return 0;
  if (lines->zstd == NULL) {
    const size_t bytes = have < room ? have : room;
    memcpy(lines->text + lines->text_used, lines->input + lines->input_at, bytes);
    lines->text_used += bytes;
    lines->input_at += bytes;
    return 1;
  }
  ZSTD_inBuffer in = {.src = lines->input, .size = lines->input_used, .pos = lines->input_at};
  ZSTD_outBuffer out = {.dst = lines->text + lines->text_used, .size = room, .pos = 0};
  const size_t rc = ZSTD_decompressStream(lines->zstd, &out, &in);
  if (ZSTD_isError(rc)) {
    char cause[160];
    snprintf(cause, sizeof cause, "bad zstd data: %s", ZSTD_getErrorName(rc));
    return fail(lines, why, why_bytes, cause);
  }
  lines->in_frame = rc != 0;
  lines->input_at = in.pos;
  lines->text_used += out.pos;
  return 1;
}

struct lines *lines_open(const char *path, char *why, size_t why_bytes) {
  static const unsigned char magic[4] = {0x28, 0xb5, 0x2f, 0xfd};
  const bool standard_input = strcmp(path, "-") == 0;
  struct lines *lines = calloc(1, sizeof *lines);
  if (lines == NULL) goto no_memory;
  lines->fd = -1;
  lines->name = strdup(standard_input ? "<stdin>" : path);
  lines->input = malloc(INPUT_BYTES);
  if (lines->name == NULL || lines->input == NULL) goto no_memory;
  lines->fd = standard_input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
  if (lines->fd < 0) {
    snprintf(why, why_bytes, "%s: %s", path, strerror(errno));
    goto fail;
  }
  if (fill_input(lines, why, why_bytes) < 0) {
    snprintf(why, why_bytes, "%s: %s", lines->name, strerror(errno));
    goto fail;
  }
  if (lines->input_used >= sizeof magic && memcmp(lines->input, magic, sizeof magic) == 0) {
    lines->zstd = ZSTD_createDStream();
    if (lines->zstd == NULL) goto no_memory;
  }
  return lines;
no_memory:
  snprintf(why, why_bytes, "%s: out of memory", path);
fail:
  lines_close(lines);
  return NULL;
}

int lines_next(struct lines *lines, const char **line, size_t *length, char *why,
               size_t why_bytes) {
  int more = 1;
  for (;;) {
    char *newline = NULL;
    if (lines->text_used > lines->scanned)
      newline = memchr(lines->text + lines->scanned, '\n', lines->text_used - lines->scanned);
    const size_t end = newline != NULL ? (size_t)(newline - lines->text) : lines->text_used;
    if (newline != NULL || (!more && lines->text_used > lines->text_at)) {
      *line = lines->text + lines->text_at;
      *length = end - lines->text_at;
      lines->text_at = lines->scanned = newline != NULL ? end + 1 : end;
      lines->number++;
      return 1;
    }
    if (!more) return 0;
    lines->scanned = lines->text_used;
    if (lines->text_used - lines->text_at > LINE_MAX_BYTES)
      return fail(lines, why, why_bytes, "a line longer than 64 MiB");
    more = decode(lines, why, why_bytes);
    if (more < 0) return -1;
  }
}

uint64_t lines_number(const struct lines *lines) {
  return lines->number;
}

const char *lines_name(const struct lines *lines) {
  return lines->name;
}

void lines_close(struct lines *lines) {
  if (lines == NULL) return;
  if (lines->fd > STDIN_FILENO) close(lines->fd);
  ZSTD_freeDStream(lines->zstd);
  free(lines->text);
  free(lines->input);
  free(lines->name);
  free(lines);
}
