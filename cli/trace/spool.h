/* cli/trace/spool.h - a long string of bytes, written once from front to back, then read by many.
 *
 * The first 32 MiB stay in memory; if more come, all go to a file without a name in $TMPDIR or
 * /var/tmp, so that a trace's memory does not grow with its length.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRACE_SPOOL_H
#define CLI_TRACE_SPOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct spool {
  unsigned char *memory; /* all bytes, or those behind the file's */
  size_t used, size;
  int fd; /* -1: no file yet */
  uint64_t file_bytes;
};

void spool_init(struct spool *spool);

/* Room for `bytes` (at most 64) at memory + used; the caller adds to `used`. False: errno tells. */
bool spool_reserve(struct spool *spool, size_t bytes);

/* No more bytes will come. False: errno tells. */
bool spool_seal(struct spool *spool);
void spool_finish(struct spool *spool);

/* One reader of a sealed spool: [at, end) is there to be read. */
struct spool_reader {
  const struct spool *spool;
  const unsigned char *at, *end;
  unsigned char *buffer; /* NULL: the spool's own memory is read */
  uint64_t file_at;      /* behind what the buffer holds */
  bool failed;
};

bool spool_reader_init(struct spool_reader *reader, const struct spool *spool);
void spool_reader_rewind(struct spool_reader *reader);
void spool_reader_finish(struct spool_reader *reader);

/* Gets more bytes behind [at, end) where there are more. */
void spool_reader_fill(struct spool_reader *reader);

#endif
