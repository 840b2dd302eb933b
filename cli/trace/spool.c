/* cli/trace/spool.c - bytes in memory, then in a file; see spool.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MEMORY_BYTES_MAX = 32 << 20, FIRST_BYTES = 64 << 10, FILE_BATCH_BYTES = 1 << 20 };

void spool_init(struct spool *spool) {
  *spool = (struct spool){.fd = -1};
}

static int open_file(void) {
  const char *dir = getenv("TMPDIR");
  if (dir == NULL || *dir == '\0') dir = "/var/tmp";
  const int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR)) return fd;
  char path[4096]; /* a file system without O_TMPFILE */
  const int length = snprintf(path, sizeof path, "%s/kvstow-trace-XXXXXX", dir);
  if (length < 0 || (size_t)length >= sizeof path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  const int named = mkostemp(path, O_CLOEXEC);
  if (named >= 0) unlink(path);
  return named;
}

/* Moves what is in memory to the file. */
static bool spill(struct spool *spool) {
  size_t done = 0;
  if (spool->fd < 0) spool->fd = open_file();
  if (spool->fd < 0) return false;
  while (done < spool->used) {
    const ssize_t wrote = write(spool->fd, spool->memory + done, spool->used - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return false;
    done += (size_t)wrote;
  }
  spool->file_bytes += done;
  spool->used = 0;
  return true;
}

static bool resize(struct spool *spool, size_t size) {
  unsigned char *moved = realloc(spool->memory, size);
  if (moved == NULL) return false;
  spool->memory = moved;
  spool->size = size;
  return true;
}

bool spool_reserve(struct spool *spool, size_t bytes) {
  if (spool->size - spool->used >= bytes) return true;
  const bool full = spool->fd >= 0 || spool->size >= MEMORY_BYTES_MAX;
  if (!full) return resize(spool, spool->size == 0 ? FIRST_BYTES : spool->size * 2);
  if (!spill(spool)) return false;
  return spool->size <= FILE_BATCH_BYTES || resize(spool, FILE_BATCH_BYTES);
}

bool spool_seal(struct spool *spool) {
  if (spool->fd < 0) return true;
  if (!spill(spool)) return false;
  free(spool->memory);
  spool->memory = NULL;
  spool->size = 0;
  return true;
}

void spool_finish(struct spool *spool) {
  if (spool->fd >= 0) close(spool->fd);
  free(spool->memory);
  spool_init(spool);
}

bool spool_reader_init(struct spool_reader *reader, const struct spool *spool) {
  *reader = (struct spool_reader){.spool = spool};
  if (spool->fd >= 0) {
    reader->buffer = malloc(FILE_BATCH_BYTES);
    if (reader->buffer == NULL) return false;
  }
  spool_reader_rewind(reader);
  return true;
}

void spool_reader_rewind(struct spool_reader *reader) {
  if (reader->buffer == NULL) {
    reader->at = reader->spool->memory;
    reader->end = reader->at + reader->spool->used;
    return;
  }
  reader->at = reader->end = reader->buffer;
  reader->file_at = 0;
}

void spool_reader_finish(struct spool_reader *reader) {
  free(reader->buffer);
}

void spool_reader_fill(struct spool_reader *reader) {
  if (reader->buffer == NULL || reader->failed) return;
  size_t have = (size_t)(reader->end - reader->at);
  memmove(reader->buffer, reader->at, have);
  while (have < FILE_BATCH_BYTES) {
    const ssize_t got = pread(reader->spool->fd, reader->buffer + have, FILE_BATCH_BYTES - have,
                              (off_t)reader->file_at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) reader->failed = true;
    if (got <= 0) break;
    have += (size_t)got;
    reader->file_at += (uint64_t)got;
  }
  reader->at = reader->buffer;
  reader->end = reader->buffer + have;
}
