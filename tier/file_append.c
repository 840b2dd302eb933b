/* tier/file_append.c - making a file: what is appended is gathered into large aligned buffers, which are
 * written in the background.
 *
 * The file's blocks are reserved at creation, so that ENOSPC comes then and no write extends the file.
 * Fresh blocks are cheap only in large pieces: a buffer goes out when it is full, or at a flush, its last
 * page padded with zeros; the flush then cuts the file to its exact size. That page stays in the buffer,
 * to be written again with what follows.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tier/copy.h"
#include "tier/files.h"
#include "tier/pump.h"
#include "tier/readahead.h"
#include "tier/region.h"

#define BUFFER_BYTES (1u << 20)
#define BUFFERS_MAX 32u /* all but the one being filled are on their way (8 MiB: a fifth slower) */

typedef struct buffer buffer;
struct buffer {
  kvstow__op op; /* first: a pointer to it is one to the whole */
  struct iovec iov;
  uint8_t *memory;
  buffer *next; /* lock: of the idle ones */
};

/* All but what `lock` guards belongs to the one thread that appends. */
struct kvstow__appender {
  kvstow_file *file;
  uint64_t reserved; /* bytes of the file at most */
  _Atomic uint64_t appended;
  bool
      exact; /* the file ends where the last flush left it; the rest of the reserve is given back */
  uint8_t *region;
  uint32_t buffer_bytes, buffers_count;
  buffer buffers[BUFFERS_MAX];
  buffer *filling;
  uint32_t filled; /* bytes in it */
  uint64_t at;     /* where it belongs in the file; whole pages */
  kvstow__mutex lock;
  pthread_cond_t written; /* a buffer is idle again */
  buffer *idle;           /* lock: neither on its way nor being filled */
  uint32_t busy;          /* lock: buffers on their way */
  int error;              /* lock: errno of the first write or sync that failed */
};

/* ---- making and unmaking -------------------------------------------------------------------- */

void kvstow__appender_free(kvstow__appender *a) {
  if (!a) return;
  kvstow__region_unmap(a->region, (size_t)a->buffers_count * a->buffer_bytes);
  pthread_cond_destroy(&a->written);
  kvstow__mutex_finish(&a->lock);
  free(a);
}

/* The two with lock held, or before anybody else knows the appender. */
static void make_idle(kvstow__appender *a, buffer *b) {
  b->next = a->idle;
  a->idle = b;
}

static buffer *take_idle(kvstow__appender *a) {
  buffer *b = a->idle;
  a->idle = b->next;
  return b;
}

kvstow__appender *kvstow__appender_new(kvstow_file *file, uint64_t reserved) {
  kvstow__appender *a = calloc(1, sizeof *a);
  if (!a) return NULL;
  const uint64_t most = file->tier->request_max_bytes;
  kvstow__mutex_init(&a->lock, KVSTOW__RANK_APPENDER);
  pthread_cond_init(&a->written, NULL);
  a->file = file;
  a->reserved = reserved;
  a->buffer_bytes = most < BUFFER_BYTES ? (uint32_t)most : BUFFER_BYTES;
  a->buffers_count = reserved < (uint64_t)BUFFERS_MAX * a->buffer_bytes
                         ? (uint32_t)(reserved / a->buffer_bytes) + 1
                         : BUFFERS_MAX;
  a->region = kvstow__region_map((size_t)a->buffers_count * a->buffer_bytes);
  if (!a->region) {
    kvstow__appender_free(a);
    return NULL;
  }
  kvstow__region_populate(a->region, (size_t)a->buffers_count * a->buffer_bytes);
  for (uint32_t i = 0; i < a->buffers_count; i++) {
    a->buffers[i].memory = a->region + (size_t)i * a->buffer_bytes;
    make_idle(a, &a->buffers[i]);
  }
  a->filling = take_idle(a);
  return a;
}

uint64_t kvstow__appender_bytes(const kvstow__appender *a) {
  return atomic_load(&a->appended);
}

/* ---- writing -------------------------------------------------------------------------------- */

static void write_completed(kvstow__op *op) {
  kvstow__appender *a = op->owner;
  if (!op->error) kvstow__count(&a->file->tier->counters.device_writes, 1);
  kvstow__lock(&a->lock);
  if (op->error && !a->error) a->error = op->error;
  make_idle(a, (buffer *)op);
  a->busy--;
  pthread_cond_signal(&a->written);
  kvstow__unlock(&a->lock);
}

/* Sends what has been filled, padded to whole pages. */
static void send(kvstow__appender *a) {
  buffer *b = a->filling;
  const size_t length = kvstow__round_up(a->filled, KVSTOW_PAGE_BYTES);
  memset(b->memory + a->filled, 0, length - a->filled);
  b->iov = (struct iovec){b->memory, length};
  b->op = (kvstow__op){.kind = KVSTOW__WRITE,
                       .file = a->file->number,
                       .fd = a->file->fd,
                       .offset = a->at,
                       .length = length,
                       .iov = &b->iov,
                       .iov_count = 1,
                       .complete = write_completed,
                       .owner = a};
  kvstow__copy_fence();
  kvstow__lock(&a->lock);
  a->busy++;
  kvstow__unlock(&a->lock);
  kvstow__pump_send_ops(a->file->tier, &b->op);
}

/* Goes on to another buffer, whichever is idle first: devices do not keep the order. */
static void turn(kvstow__appender *a) {
  a->at += a->filled;
  a->filled = 0;
  kvstow__lock(&a->lock);
  while (!a->idle) kvstow__wait(&a->written, &a->lock);
  a->filling = take_idle(a);
  kvstow__unlock(&a->lock);
}

static int failed(kvstow__appender *a, const char *what, int error) {
  char cause[64];
  return kvstow__fail(a->file->tier, kvstow__code_of_errno(error), "%s: %s: %s", a->file->path,
                      what, strerror_r(error, cause, sizeof cause));
}

/* The code of a write or sync that failed earlier. A kernel that has failed a sync may forget what it could
 * not write, and let the next one succeed. */
static int earlier(kvstow__appender *a) {
  kvstow__lock(&a->lock);
  const int error = a->error;
  kvstow__unlock(&a->lock);
  return error ? failed(a, "writing", error) : 0;
}

static int reserve_again(kvstow__appender *a) {
  const kvstow_tier *tier = a->file->tier;
  const int error = tier->io.files->allocate(tier->io.env, a->file->fd,
                                             kvstow__round_up(a->reserved, KVSTOW_PAGE_BYTES));
  if (error) return failed(a, "reserving", error);
  a->exact = false;
  return 0;
}

int kvstow_file_append(kvstow_file *file, const void *bytes, size_t count) {
  if (!file) return KVSTOW_EINVAL;
  if (!bytes && count > 0)
    return kvstow__fail(file->tier, KVSTOW_EINVAL, "%s: appending: bytes is NULL", file->path);
  kvstow__appender *a = file->appender;
  if (!a)
    return kvstow__fail(file->tier, KVSTOW_EACCES, "%s: appending: it was opened for reading",
                        file->path);
  int code = earlier(a);
  if (code || count == 0) return code;
  const uint64_t before = atomic_load(&a->appended);
  if (count > a->reserved - before)
    return kvstow__fail(file->tier, KVSTOW_ENOSPC,
                        "%s: %zu bytes after %" PRIu64 " are more than the %" PRIu64 " reserved",
                        file->path, count, before, a->reserved);
  if (a->exact) code = reserve_again(a);
  if (code) return code;
  const uint8_t *from = bytes;
  for (size_t left = count; left > 0;) {
    const size_t room = a->buffer_bytes - a->filled, piece = left < room ? left : room;
    kvstow__copy_past_cache(a->filling->memory + a->filled, from, piece);
    a->filled += (uint32_t)piece;
    from += piece;
    left -= piece;
    if (a->filled < a->buffer_bytes) break;
    send(a);
    turn(a);
  }
  atomic_store(&a->appended, before + count);
  kvstow__count(&file->tier->counters.file_bytes_appended, count);
  return 0;
}

/* ---- flush ---------------------------------------------------------------------------------- */

static void wait_written(kvstow__appender *a) {
  kvstow__lock(&a->lock);
  while (a->busy > 0) kvstow__wait(&a->written, &a->lock);
  kvstow__unlock(&a->lock);
}

/* What was written of a last page that is not full is written again with what follows. */
static void keep_tail(kvstow__appender *a) {
  const uint8_t *written = a->filling->memory;
  const uint32_t whole = a->filled / KVSTOW_PAGE_BYTES * KVSTOW_PAGE_BYTES;
  kvstow__lock(&a->lock);
  a->filling = take_idle(a);
  kvstow__unlock(&a->lock);
  memmove(a->filling->memory, written + whole, a->filled - whole);
  a->filled -= whole;
  a->at += whole;
}

static int make_exact(kvstow__appender *a) {
  kvstow_file *file = a->file;
  kvstow_tier *tier = file->tier;
  const uint64_t bytes = atomic_load(&a->appended);
  int error = tier->io.files->truncate(tier->io.env, file->fd, bytes);
  if (error) return failed(a, "cutting to size", error);
  a->exact = true;
  kvstow__op sync = {.kind = KVSTOW__SYNC, .file = file->number, .fd = file->fd};
  error = kvstow__pump_run(tier, &sync, 1);
  if (error) {
    kvstow__lock(&a->lock);
    a->error = error;
    kvstow__unlock(&a->lock);
    return failed(a, "fdatasync", error);
  }
  const uint64_t before = atomic_load(&file->readable);
  kvstow__readahead_forget(file, before); /* the block with the old end */
  atomic_store_explicit(&file->readable, bytes, memory_order_release);
  return 0;
}

int kvstow_file_flush(kvstow_file *file) {
  if (!file) return KVSTOW_EINVAL;
  kvstow__appender *a = file->appender;
  if (!a) return 0;
  const int before = earlier(a);
  if (before || a->exact) return before; /* exact: nothing was appended since */
  const bool some = a->filled > 0;
  if (some) send(a);
  wait_written(a);
  if (some) keep_tail(a);
  const int code = earlier(a);
  return code ? code : make_exact(a);
}
