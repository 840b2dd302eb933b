/* cli/trace/input.c - a file, plain or zstd, by lines or by records; see input.h.
 *
 * Bytes come in from the file, go through zstd when the file begins with its magic, and collect in
 * `text` until a newline is there. Memory is bounded by the longest line, and that by LINE_MAX_BYTES.
 * A zstd file that ends in the middle of a frame is an error: half a trace gives wrong figures.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace/input.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

enum { INPUT_BYTES = 128 * 1024, PEEK_BYTES = 64 * 1024, LINE_MAX_BYTES = 64 * 1024 * 1024 };

struct input {
  char *name;
  int fd;
  ZSTD_DStream *zstd; /* NULL for a plain file */
  bool in_frame;      /* zstd: a frame has begun and not ended */
  bool input_end;
  char *input; /* [input_at, input_used) is not yet decoded */
  size_t input_at, input_used;
  char *text; /* [text_at, text_used) is not yet handed out */
  size_t text_at, text_used, text_size;
  size_t scanned;   /* text before this holds no newline */
  uint64_t dropped; /* bytes decoded before text[0] */
  uint64_t number;  /* of the line handed out last */
  uint64_t last_at; /* where what was handed out last begins */
};

static int fail(const struct input *in, char *why, size_t why_bytes, const char *cause) {
  const bool by_lines = in->number > 0;
  const uint64_t place = by_lines ? in->number : in->dropped + in->text_used;
  snprintf(why, why_bytes, "%s: after %s %llu: %s", in->name, by_lines ? "line" : "offset",
           (unsigned long long)place, cause);
  return -1;
}

/* Reads more of the file into `input`, behind what is there. */
static int fill_input(struct input *in, char *why, size_t why_bytes) {
  if (in->input_at > 0) {
    memmove(in->input, in->input + in->input_at, in->input_used - in->input_at);
    in->input_used -= in->input_at;
    in->input_at = 0;
  }
  while (!in->input_end && in->input_used < INPUT_BYTES) {
    const ssize_t got = read(in->fd, in->input + in->input_used, INPUT_BYTES - in->input_used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail(in, why, why_bytes, strerror(errno));
    if (got == 0) in->input_end = true;
    in->input_used += (size_t)got;
    if (got > 0 && in->zstd != NULL) break;
  }
  return 0;
}

static int reserve_text(struct input *in, char *why, size_t why_bytes) {
  if (in->text_at > 0) {
    memmove(in->text, in->text + in->text_at, in->text_used - in->text_at);
    in->text_used -= in->text_at;
    in->scanned = in->scanned > in->text_at ? in->scanned - in->text_at : 0;
    in->dropped += in->text_at;
    in->text_at = 0;
  }
  if (in->text_size - in->text_used >= INPUT_BYTES) return 0;
  const size_t size = in->text_size * 2 + INPUT_BYTES;
  if (size > 2 * (size_t)LINE_MAX_BYTES)
    return fail(in, why, why_bytes, "a line longer than 64 MiB");
  char *text = realloc(in->text, size);
  if (text == NULL) return fail(in, why, why_bytes, "out of memory");
  in->text = text;
  in->text_size = size;
  return 0;
}

/* Moves bytes from `input` to `text`. 1 if it may be called again, 0 at the end. */
static int decode(struct input *in, char *why, size_t why_bytes) {
  if (reserve_text(in, why, why_bytes) < 0) return -1;
  if (in->input_at == in->input_used && fill_input(in, why, why_bytes) < 0) return -1;
  const size_t room = in->text_size - in->text_used;
  const size_t have = in->input_used - in->input_at;
  if (have == 0 && in->zstd != NULL && in->in_frame)
    return fail(in, why, why_bytes, "the zstd data ends in the middle of a frame (truncated?)");
  if (have == 0) return 0;
  if (in->zstd == NULL) {
    const size_t bytes = have < room ? have : room;
    memcpy(in->text + in->text_used, in->input + in->input_at, bytes);
    in->text_used += bytes;
    in->input_at += bytes;
    return 1;
  }
  ZSTD_inBuffer packed = {.src = in->input, .size = in->input_used, .pos = in->input_at};
  ZSTD_outBuffer out = {.dst = in->text + in->text_used, .size = room, .pos = 0};
  const size_t rc = ZSTD_decompressStream(in->zstd, &out, &packed);
  if (ZSTD_isError(rc)) {
    char cause[160];
    snprintf(cause, sizeof cause, "bad zstd data: %s", ZSTD_getErrorName(rc));
    return fail(in, why, why_bytes, cause);
  }
  in->in_frame = rc != 0;
  in->input_at = packed.pos;
  in->text_used += out.pos;
  return 1;
}

struct input *input_open(const char *path, char *why, size_t why_bytes) {
  static const unsigned char magic[4] = {0x28, 0xb5, 0x2f, 0xfd};
  const bool standard_input = strcmp(path, "-") == 0;
  struct input *in = calloc(1, sizeof *in);
  if (in == NULL) goto no_memory;
  in->fd = -1;
  in->name = strdup(standard_input ? "<stdin>" : path);
  in->input = malloc(INPUT_BYTES);
  if (in->name == NULL || in->input == NULL) goto no_memory;
  in->fd = standard_input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
  if (in->fd < 0) {
    snprintf(why, why_bytes, "%s: %s", path, strerror(errno));
    goto fail;
  }
  if (fill_input(in, why, why_bytes) < 0) {
    snprintf(why, why_bytes, "%s: %s", in->name, strerror(errno));
    goto fail;
  }
  if (in->input_used >= sizeof magic && memcmp(in->input, magic, sizeof magic) == 0) {
    in->zstd = ZSTD_createDStream();
    if (in->zstd == NULL) goto no_memory;
  }
  return in;
no_memory:
  snprintf(why, why_bytes, "%s: out of memory", path);
fail:
  input_close(in);
  return NULL;
}

int input_line(struct input *in, const char **line, size_t *length, char *why, size_t why_bytes) {
  int more = 1;
  if (in->scanned < in->text_at) in->scanned = in->text_at;
  for (;;) {
    char *newline = NULL;
    if (in->text_used > in->scanned)
      newline = memchr(in->text + in->scanned, '\n', in->text_used - in->scanned);
    const size_t end = newline != NULL ? (size_t)(newline - in->text) : in->text_used;
    if (newline != NULL || (!more && in->text_used > in->text_at)) {
      *line = in->text + in->text_at;
      *length = end - in->text_at;
      in->last_at = in->dropped + in->text_at;
      in->text_at = in->scanned = newline != NULL ? end + 1 : end;
      in->number++;
      return 1;
    }
    if (!more) return 0;
    in->scanned = in->text_used;
    if (in->text_used - in->text_at > LINE_MAX_BYTES)
      return fail(in, why, why_bytes, "a line longer than 64 MiB");
    more = decode(in, why, why_bytes);
    if (more < 0) return -1;
  }
}

/* Decodes until `bytes` bytes are there, or all there are. */
static int gather(struct input *in, size_t bytes, char *why, size_t why_bytes) {
  int more = 1;
  while (more > 0 && in->text_used - in->text_at < bytes) more = decode(in, why, why_bytes);
  return more < 0 ? -1 : 0;
}

int input_records(struct input *in, size_t bytes, size_t max, const char **records, size_t *count,
                  char *why, size_t why_bytes) {
  if (gather(in, bytes, why, why_bytes) < 0) return -1;
  const size_t have = in->text_used - in->text_at;
  in->last_at = in->dropped + in->text_at;
  if (have == 0) return 0;
  if (have < bytes) {
    snprintf(why, why_bytes, "%s: offset %llu: a record of %zu bytes ends after %zu (truncated?)",
             in->name, (unsigned long long)in->last_at, bytes, have);
    return -1;
  }
  *records = in->text + in->text_at;
  *count = have / bytes < max ? have / bytes : max;
  in->text_at += *count * bytes;
  return 1;
}

int input_record(struct input *in, size_t bytes, const char **record, char *why, size_t why_bytes) {
  size_t one;
  return input_records(in, bytes, 1, record, &one, why, why_bytes);
}

int input_peek(struct input *in, const char **bytes, size_t *count, char *why, size_t why_bytes) {
  if (gather(in, PEEK_BYTES, why, why_bytes) < 0) return -1;
  *bytes = in->text + in->text_at;
  *count = in->text_used - in->text_at;
  return 0;
}

uint64_t input_line_number(const struct input *in) {
  return in->number;
}

uint64_t input_offset(const struct input *in) {
  return in->last_at;
}

const char *input_name(const struct input *in) {
  return in->name;
}

void input_close(struct input *in) {
  if (in == NULL) return;
  if (in->fd > STDIN_FILENO) close(in->fd);
  ZSTD_freeDStream(in->zstd);
  free(in->text);
  free(in->input);
  free(in->name);
  free(in);
}
