/* trace.c - records what is asked of the store: prefixes looked up, blocks stored.
 *
 * Records are made under the store's lock, into one of two buffers; a thread writes the other. When both are
 * full, what comes is dropped and counted: nobody waits for the disk. A buffer becomes one chunk of the
 * file (kvstow/trace.h), at an offset that moves only when it was written whole.
 *
 * A block is named by 5 bytes of its key. A chain is named by its deepest block named before and the blocks
 * behind that one. Which were is kept in a table of fixed size: a block it has lost sight of is
 * named again, and when records are lost it is emptied.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "kvcache/store.h"
#include "kvcache/thread.h"
#include "kvstow/trace.h"
#include "tier/owner.h"

#define WRITE_EVERY_MS 1000u
#define CLOCK_SET_MS                                                                               \
  1000 /* by less, Unix time is only read at another moment: a trace must not go back */
#define NAMED (1u << 16)    /* blocks remembered */
#define FIXED_BYTES_MAX 96u /* of a record, without short keys and names */

static_assert(sizeof(kvstow_trace_header) == 16, "format");
static_assert(sizeof(kvstow_trace_chunk) == 40, "format");

struct buffer {
  kvstow_trace_chunk chunk;
  uint8_t payload[KVSTOW_TRACE_CHUNK_MAX];
};

struct kvs_trace {
  /* the store's lock */
  struct buffer *filling;
  uint64_t records, dropped;      /* without those whose write failed */
  uint64_t last_ms, last_request; /* of the newest record */
  int64_t unix_ahead_ms;          /* of our clock */
  uint64_t lost;                  /* since the newest chunk */
  uint32_t turn;                  /* counts chunks: spaces are named in each */
  uint32_t spaces;                /* numbered */
  bool begun;                     /* a chunk says that the run begins */
  uint64_t named[NAMED];          /* short keys + 1 by their lowest bits; 0 nothing */

  kvstow__mutex lock; /* after the store's; for what follows */
  pthread_cond_t wake, written;
  struct buffer *full;  /* to be written; NULL: none */
  struct buffer *spare; /* the other one, unless it is in `full` */
  bool stop;
  _Atomic uint64_t unwritten; /* records of failed writes: what they named must be named again */
  _Atomic uint64_t failed;    /* the same, ever */

  kvstow *store;
  int fd;
  uint64_t offset;
  pthread_t thread;
};

/* ---- records (store's lock) ----------------------------------------------------------------- */

static uint8_t *put(uint8_t *to, uint64_t value) {
  for (; value >= 0x80; value >>= 7) *to++ = (uint8_t)(value | 0x80);
  *to++ = (uint8_t)value;
  return to;
}

static uint64_t short_key(kvstow_key key) {
  return key.lo & (((uint64_t)1 << (8 * KVSTOW_TRACE_KEY_BYTES)) - 1);
}

static uint8_t *put_key(uint8_t *to, kvstow_key key) {
  memcpy(to, &key.lo, sizeof key.lo); /* what comes next overwrites the excess */
  return to + KVSTOW_TRACE_KEY_BYTES;
}

static uint64_t *named_slot(struct kvs_trace *trace, kvstow_key key) {
  return &trace->named[key.lo % NAMED];
}

/* Hands the filling buffer over if it can be; the other one is empty then. */
static void hand_over(struct kvs_trace *trace) {
  kvstow__lock(&trace->lock);
  if (trace->filling->chunk.records > 0 && trace->spare != NULL) {
    trace->filling->chunk.lost = trace->lost;
    trace->lost = 0;
    trace->full = trace->filling;
    trace->filling = trace->spare;
    trace->spare = NULL;
    trace->filling->chunk = (kvstow_trace_chunk){.magic = KVSTOW_TRACE_CHUNK_MAGIC};
    trace->turn++;
    pthread_cond_signal(&trace->wake);
  }
  kvstow__unlock(&trace->lock);
}

/* Room for a record of so many bytes; NULL: it is dropped. */
static uint8_t *room(struct kvs_trace *trace, size_t bytes) {
  if (atomic_load_explicit(&trace->unwritten, memory_order_relaxed) > 0) {
    trace->lost += atomic_exchange(&trace->unwritten, 0);
    memset(trace->named, 0, sizeof trace->named);
  }
  if (trace->filling->chunk.bytes + bytes > KVSTOW_TRACE_CHUNK_MAX) hand_over(trace);
  kvstow_trace_chunk *chunk = &trace->filling->chunk;
  if (chunk->bytes + bytes <= KVSTOW_TRACE_CHUNK_MAX) return trace->filling->payload + chunk->bytes;
  trace->lost++;
  trace->dropped++;
  return NULL;
}

static uint8_t *put_space(struct kvs_trace *trace, struct kvstow_space *space, uint8_t *to) {
  if (space->trace_turn == trace->turn + 1) return to;
  if (space->trace_turn == 0) space->trace_number = ++trace->spaces;
  space->trace_turn = trace->turn + 1;
  const size_t length = strnlen(space->name, sizeof space->name);
  *to++ = KVSTOW_TRACE_SPACE;
  to = put(to, space->trace_number);
  to = put(to, space->layout.block_tokens);
  to = put(to, length);
  memcpy(to, space->name, length);
  return to + length;
}

/* Milliseconds by which Unix time is ahead of our clock: of the difference, not the difference of what was rounded
 * already, which would be one more or less from call to call. */
static int64_t unix_ahead_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  const uint64_t unix_us = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
  return (int64_t)(unix_us - kvs_now_us()) / 1000;
}

static uint8_t *put_head(struct kvs_trace *trace, kvstow_trace_kind kind, uint64_t now_ms,
                         const struct kvs_traced *what, uint8_t *to) {
  kvstow_trace_chunk *chunk = &trace->filling->chunk;
  if (chunk->records == 0) {
    const int64_t ahead_ms = unix_ahead_ms();
    if (llabs(ahead_ms - trace->unix_ahead_ms) > CLOCK_SET_MS) trace->unix_ahead_ms = ahead_ms;
    chunk->time_ms = now_ms + (uint64_t)trace->unix_ahead_ms;
    chunk->flags = trace->begun ? 0 : KVSTOW_TRACE_RUN_BEGINS;
    trace->begun = true;
    trace->last_ms = now_ms;
    trace->last_request = 0;
  }
  const int64_t ahead = (int64_t)(what->request->number - trace->last_request);
  *to++ = (uint8_t)kind;
  to = put(to, now_ms - trace->last_ms);
  to = put(to, what->space->trace_number);
  to = put(to, ((uint64_t)ahead << 1) ^ (uint64_t)(ahead >> 63));
  trace->last_ms = now_ms;
  trace->last_request = what->request->number;
  return to;
}

/* How many leading blocks need not be named again. */
static size_t base_of(struct kvs_trace *trace, const struct kvs_traced *what) {
  for (size_t i = what->blocks; i > what->first; i--)
    if (*named_slot(trace, what->keys[i - what->first]) ==
        short_key(what->keys[i - what->first]) + 1)
      return i;
  return what->first;
}

static uint8_t *put_chain(struct kvs_trace *trace, const struct kvs_traced *what, size_t base,
                          uint8_t *to) {
  to = put(to, what->blocks);
  to = put(to, base);
  for (size_t i = base > 0 ? base : 1; i <= what->blocks; i++) {
    const kvstow_key key = what->keys[i - what->first];
    to = put_key(to, key);
    *named_slot(trace, key) = short_key(key) + 1;
  }
  return to;
}

static void end_record(struct kvs_trace *trace, const uint8_t *end) {
  trace->filling->chunk.bytes = (uint32_t)(end - trace->filling->payload);
  trace->filling->chunk.records++;
  trace->records++;
}

static size_t record_bytes(const struct kvs_traced *what, size_t base) {
  return FIXED_BYTES_MAX + KVS_NAME_BYTES +
         (what->blocks - base + 1) * (size_t)KVSTOW_TRACE_KEY_BYTES;
}

void kvs_trace_match(struct kvs_trace *trace, const struct kvs_traced *what, size_t hit,
                     uint64_t now_ms) {
  const size_t base = base_of(trace, what);
  uint8_t *to = room(trace, record_bytes(what, base));
  if (to == NULL) return;
  to = put_space(trace, what->space, to);
  to = put_head(trace, KVSTOW_TRACE_MATCH, now_ms, what, to);
  to = put(to, what->request->session);
  to = put(to, what->tokens);
  to = put(to, hit);
  end_record(trace, put_chain(trace, what, base, to));
}

void kvs_trace_store(struct kvs_trace *trace, const struct kvs_traced *what) {
  const size_t base = base_of(trace, what);
  uint8_t *to = room(trace, record_bytes(what, base));
  if (to == NULL) return;
  to = put_space(trace, what->space, to);
  to = put_head(trace, KVSTOW_TRACE_STORE, kvs_now_ms(), what, to);
  to = put(to, what->first);
  end_record(trace, put_chain(trace, what, base, to));
}

/* ---- the file ------------------------------------------------------------------------------- */

static bool write_at(int fd, const void *data, size_t bytes, uint64_t offset) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = pwrite(fd, (const char *)data + done, bytes - done, (off_t)(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += (size_t)n;
  }
  return true;
}

static void write_chunk(struct kvs_trace *trace, struct buffer *buffer) {
  kvstow_trace_chunk *chunk = &buffer->chunk;
  chunk->checksum = 0;
  chunk->checksum =
      XXH3_64bits_withSeed(buffer->payload, chunk->bytes, XXH3_64bits(chunk, sizeof *chunk));
  const size_t bytes = sizeof *chunk + chunk->bytes;
  if (write_at(trace->fd, buffer, bytes, trace->offset)) {
    trace->offset += bytes;
    return;
  }
  atomic_fetch_add(&trace->unwritten, chunk->records);
  atomic_fetch_add(&trace->failed, chunk->records);
  (void)kvs_fail(trace->store, KVSTOW_EIO, "trace: %u records could not be written: %s",
                 chunk->records, strerror(errno));
}

/* Waits for a full buffer; after a while for any. NULL: it is time to stop. */
static struct buffer *wait_full(struct kvs_trace *trace) {
  const uint64_t until_us = kvs_now_us() + WRITE_EVERY_MS * UINT64_C(1000);
  kvstow__lock(&trace->lock);
  bool in_time = true;
  while (trace->full == NULL && !trace->stop && in_time)
    in_time = kvstow__wait_until(&trace->wake, &trace->lock, until_us);
  struct buffer *full = trace->full;
  kvstow__unlock(&trace->lock);
  return full;
}

static bool stopped(struct kvs_trace *trace) {
  kvstow__lock(&trace->lock);
  const bool stop = trace->stop;
  kvstow__unlock(&trace->lock);
  return stop;
}

static void *writer_main(void *arg) {
  struct kvs_trace *trace = arg;
  while (!stopped(trace)) {
    struct buffer *full = wait_full(trace);
    if (full == NULL) {
      kvs_lock(trace->store);
      hand_over(trace);
      kvstow__unlock(&trace->store->lock);
      continue;
    }
    write_chunk(trace, full);
    kvstow__lock(&trace->lock);
    trace->full = NULL;
    trace->spare = full;
    pthread_cond_broadcast(&trace->written);
    kvstow__unlock(&trace->lock);
  }
  return NULL;
}

void kvs_trace_flush(kvstow *store) {
  struct kvs_trace *trace = store->trace;
  if (trace == NULL) return;
  for (int both = 0; both < 2; both++) {
    kvs_lock(store);
    hand_over(trace);
    kvstow__unlock(&store->lock);
    kvstow__lock(&trace->lock);
    while (trace->full != NULL) kvstow__wait(&trace->written, &trace->lock);
    kvstow__unlock(&trace->lock);
  }
}

/* Where the last whole chunk ends: another run goes on there. 0: it is no trace. */
static uint64_t end_of_chunks(int fd) {
  kvstow_trace_header header;
  if (pread(fd, &header, sizeof header, 0) != (ssize_t)sizeof header ||
      memcmp(header.magic, KVSTOW_TRACE_MAGIC, sizeof header.magic) != 0 ||
      header.version != KVSTOW_TRACE_VERSION || header.endian != KVSTOW_TRACE_ENDIAN)
    return 0;
  struct stat st;
  if (fstat(fd, &st) != 0) return 0;
  uint64_t at = sizeof header;
  kvstow_trace_chunk chunk;
  while (pread(fd, &chunk, sizeof chunk, (off_t)at) == (ssize_t)sizeof chunk &&
         chunk.magic == KVSTOW_TRACE_CHUNK_MAGIC && chunk.bytes <= KVSTOW_TRACE_CHUNK_MAX &&
         at + sizeof chunk + chunk.bytes <= (uint64_t)st.st_size)
    at += sizeof chunk + chunk.bytes;
  return at;
}

static int open_file(kvstow *store, struct kvs_trace *trace, const char *path) {
  trace->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
  struct stat st;
  if (trace->fd < 0 || fstat(trace->fd, &st) != 0)
    return kvs_fail(store, errno == ELOOP || errno == EACCES ? KVSTOW_EACCES : KVSTOW_EIO,
                    "trace %s: %s", path, strerror(errno));
  if (!S_ISREG(st.st_mode)) return kvs_fail(store, KVSTOW_EINVAL, "trace %s: not a file", path);
  if (kvstow__owned_file(trace->fd, true) != 0) {
    char why[160];
    kvstow__owned_why(AT_FDCWD, path, true, why, sizeof why);
    return kvs_fail(store, KVSTOW_EACCES, "trace %s: %s", path, why);
  }
  if (flock(trace->fd, LOCK_EX | LOCK_NB) != 0)
    return kvs_fail(store, errno == EWOULDBLOCK ? KVSTOW_EBUSY : KVSTOW_EIO, "trace %s: %s", path,
                    errno == EWOULDBLOCK ? "another store writes it" : strerror(errno));
  if (st.st_size > 0) {
    trace->offset = end_of_chunks(trace->fd);
    if (trace->offset == 0)
      return kvs_fail(store, KVSTOW_EINVAL, "trace %s: there is something else in it", path);
  } else {
    kvstow_trace_header header = {.version = KVSTOW_TRACE_VERSION, .endian = KVSTOW_TRACE_ENDIAN};
    memcpy(header.magic, KVSTOW_TRACE_MAGIC, sizeof header.magic);
    trace->offset = sizeof header;
    if (!write_at(trace->fd, &header, sizeof header, 0))
      return kvs_fail(store, KVSTOW_EIO, "trace %s: %s", path, strerror(errno));
  }
  if (ftruncate(trace->fd, (off_t)trace->offset) != 0)
    return kvs_fail(store, KVSTOW_EIO, "trace %s: %s", path, strerror(errno));
  return 0;
}

static void finish(struct kvs_trace *trace) {
  if (trace->fd >= 0) {
    (void)flock(trace->fd, LOCK_UN); /* a forked child may still hold the descriptor */
    close(trace->fd);
  }
  kvstow__mutex_finish(&trace->lock);
  pthread_cond_destroy(&trace->wake);
  pthread_cond_destroy(&trace->written);
  free(trace->filling);
  free(trace->spare);
  free(trace);
}

int kvs_trace_open(kvstow *store, const char *path) {
  struct kvs_trace *trace = calloc(1, sizeof *trace);
  if (trace == NULL) return KVSTOW_ENOMEM;
  trace->store = store;
  trace->fd = -1;
  kvstow__mutex_init(&trace->lock, KVS_RANK_TRACE);
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&trace->wake, &monotonic);
  pthread_condattr_destroy(&monotonic);
  pthread_cond_init(&trace->written, NULL);
  trace->filling = calloc(1, sizeof *trace->filling);
  trace->spare = calloc(1, sizeof *trace->spare);
  int rc = trace->filling == NULL || trace->spare == NULL ? KVSTOW_ENOMEM : 0;
  if (rc == 0) {
    trace->filling->chunk.magic = KVSTOW_TRACE_CHUNK_MAGIC;
    rc = open_file(store, trace, path);
  }
  if (rc == 0 && !kvs_thread_start(&trace->thread, "kvstow-trace", writer_main, trace))
    rc = KVSTOW_ENOMEM;
  if (rc == 0) {
    store->trace = trace;
    return 0;
  }
  finish(trace);
  return rc;
}

void kvs_trace_close(kvstow *store) {
  struct kvs_trace *trace = store->trace;
  if (trace == NULL) return;
  kvs_trace_flush(store);
  kvstow__lock(&trace->lock);
  trace->stop = true;
  pthread_cond_signal(&trace->wake);
  kvstow__unlock(&trace->lock);
  pthread_join(trace->thread, NULL);
  store->trace = NULL;
  finish(trace);
}

void kvs_trace_counts(const kvstow *store, uint64_t *records, uint64_t *dropped) {
  const struct kvs_trace *trace = store->trace;
  const uint64_t failed = trace == NULL ? 0 : atomic_load(&trace->failed);
  *records = trace == NULL ? 0 : trace->records - failed;
  *dropped = trace == NULL ? 0 : trace->dropped + failed;
}
