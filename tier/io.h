/* tier/io.h - what the tier asks of the world: files, and a device engine.
 *
 * Everything the tier does outside its own memory goes through one kvstow__io: `files` makes, opens,
 * preallocates, renames and synchronises files (any thread, blocking, rare); `engines` move data
 * (only ever called by the tier's I/O thread, except wake). The library has one real `files` and two
 * real engines (io_uring, threads); tests plug in a simulated disk here.
 *
 * An engine promises: every op handed to submit comes back from reap exactly once, with error 0 only
 * if all `length` bytes moved: short transfers, EAGAIN and EINTR are resubmitted inside, with a
 * bound. Errors are positive errno values.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_IO_H
#define KVSTOW_TIER_IO_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <kvstow/tier.h>

#define KVSTOW__DIRS_MAX 16u
#define KVSTOW__IOV_MAX 1024u
#define KVSTOW__RETRIES_MAX 64u /* resubmissions of one op without progress */
#define KVSTOW__NO_SLOT UINT32_MAX
#define KVSTOW__FOREVER UINT64_MAX
#define KVSTOW__FILES 0x80000000u /* numbers of files that are no segments begin here */

typedef enum kvstow__op_kind {
  KVSTOW__READ = 0,
  KVSTOW__WRITE,
  KVSTOW__SYNC,  /* fdatasync */
  KVSTOW__CLOSE, /* forget the file's descriptor; handled by the I/O thread, never by an engine */
} kvstow__op_kind;

/* One device request. The submitter owns it and its iovecs until complete() runs; an engine may
 * change the iovecs while it retries. */
typedef struct kvstow__op kvstow__op;
struct kvstow__op {
  kvstow__op_kind kind;
  kvstow_priority priority;
  uint32_t file; /* the tier's number of it; from KVSTOW__FILES on: no segment, and fd is set */
  uint64_t offset, length;
  uint32_t slack; /* READ: of length, what may be missing: the file ends inside its last page */
  struct iovec *iov;
  uint32_t iov_count;
  bool scratch; /* some iovecs point into the shared scratch buffer: contents are garbage */
  int error;    /* out: 0 or errno */
  void (*complete)(kvstow__op *op); /* on the I/O thread; must not block */
  void *owner;
  kvstow__op *next; /* whoever holds the op */
  /* set by the I/O thread for the engine, if the file is a segment */
  int fd;
  uint32_t slot;  /* as given to attach */
  uint32_t cache; /* the I/O thread's descriptor cache entry */
  uint8_t lane;   /* the I/O thread's queue it came from */
  /* the engine's */
  uint64_t moved;
  uint32_t attempts;
  uint32_t place;
};

typedef struct kvstow__io_counters {
  _Atomic uint64_t short_ios, retries;
} kvstow__io_counters;

typedef struct kvstow__engine kvstow__engine;

typedef struct kvstow__engine_config {
  uint32_t queue_depth; /* ops in flight at most */
  uint32_t slots;       /* descriptors that may be attached at once */
  kvstow__io_counters *counters;
  /* A turn of the I/O thread (pump.c), with what has completed; tells until when it may sleep (0: not at all). False:
   * it is over. For engines with threads of their own, who may take turns while the I/O thread sleeps in reap: one
   * at a time. */
  bool (*turn)(void *turns, kvstow__op *done, uint64_t *until_us);
  void *turns;
} kvstow__engine_config;

typedef struct kvstow__engine_ops {
  const char *name; /* static: shown in statistics */
  /* 0, or an errno with a one-line reason. Called on the I/O thread, as are all but wake. */
  int (*create)(void *env, const kvstow__engine_config *config, kvstow__engine **engine,
                char *reason, size_t reason_bytes);
  void (*destroy)(kvstow__engine *engine); /* nothing in flight; NULL is fine */
  /* Tells that slot now means fd (-1: nothing). May be NULL. */
  void (*attach)(kvstow__engine *engine, uint32_t slot, int fd);
  /* Takes a list of ops linked by next. */
  void (*submit)(kvstow__engine *engine, kvstow__op *list);
  /* Completed ops, linked by next. Blocks until there is one, wake() was called, or it is `until_us` by
   * CLOCK_MONOTONIC (0: not at all; KVSTOW__FOREVER). */
  kvstow__op *(*reap)(kvstow__engine *engine, uint64_t until_us);
  /* Makes a waiting or the next waiting reap return. Any thread. */
  void (*wake)(kvstow__engine *engine);
} kvstow__engine_ops;

/* Results are 0 or an errno, unless said otherwise. `dir` and `fd` are descriptors of this
 * interface's own making. */
typedef struct kvstow__file_ops {
  /* `create`: for one who writes: made if there is none, and EPERM if it is not ours to write in (owner.h). */
  int (*dir_open)(void *env, const char *path, bool create, int *dir);
  /* Calls each(arg, name) for every entry but "." and ".."; stops when it returns false. */
  int (*dir_list)(void *env, int dir, bool (*each)(void *arg, const char *name), void *arg);
  int (*dir_sync)(void *env, int dir);
  bool (*dir_direct)(void *env, int dir, const char *probe); /* O_DIRECT at 4 KiB works here */
  int (*lock)(void *env, int dir, const char *name, bool shared, int *fd); /* EWOULDBLOCK: owned */
  void (*unlock)(void *env, int fd);
  /* EPERM: not a regular file; or to be written to, and not ours. */
  int (*open)(void *env, int dir, const char *name, bool create, bool writable, bool direct,
              int *fd);
  /* In words why lock, open, or dir_open (dir: AT_FDCWD) does not have it so, if that can be told; else
   * empty. May be NULL. */
  void (*why)(void *env, int dir, const char *name, bool writable, char *text, size_t bytes);
  /* A regular file anywhere (EINVAL if it is something else), made by `create` (EEXIST). *direct: wanted
   * in, O_DIRECT at 4 KiB out. */
  int (*open_path)(void *env, const char *path, bool create, bool *direct, int *fd);
  void (*close)(void *env, int fd);
  int (*size)(void *env, int fd, uint64_t *bytes, uint64_t *allocated_bytes);
  int (*allocate)(void *env, int fd, uint64_t bytes); /* sets the size, reserves the blocks */
  int (*truncate)(void *env, int fd, uint64_t bytes);
  int (*read)(void *env, int fd, void *to, size_t bytes, uint64_t offset, size_t *got);
  /* Until `enough` bytes are there, or the file ends; changes the vectors. */
  int (*readv)(void *env, int fd, struct iovec *iov, uint32_t iov_count, size_t enough,
               uint64_t offset, size_t *got);
  int (*write)(void *env, int fd, const void *from, size_t bytes, uint64_t offset); /* all of it */
  int (*sync)(void *env, int fd);
  int (*rename)(void *env, int dir, const char *from, const char *to);
  int (*unlink)(void *env, int dir, const char *name);
  uint32_t (*open_files_max)(void *env); /* descriptors the tier may hold */
  uint64_t (*now_s)(void *env);
  int (*random)(void *env, void *bytes, size_t count);
} kvstow__file_ops;

typedef struct kvstow__io {
  const kvstow__file_ops *files;
  const kvstow__engine_ops *engines[2]; /* in order of preference for AUTO; [1] may be NULL */
  kvstow_engine kinds[2];               /* which option names each */
  void *env;
  bool buffered; /* never O_DIRECT */
} kvstow__io;

extern const kvstow__file_ops kvstow__files;
extern const kvstow__engine_ops kvstow__engine_uring;
extern const kvstow__engine_ops kvstow__engine_threads;

/* kvstow_tier_open over another world; *io is copied. */
int kvstow__tier_open_with(const kvstow_tier_options *options, const kvstow__io *io,
                           kvstow_tier **tier, char *why, size_t why_bytes);

/* Skips `bytes` of an op's iovecs: what has been transferred already. */
static inline void kvstow__op_advance(kvstow__op *op, uint64_t bytes) {
  op->moved += bytes;
  while (bytes > 0 && op->iov_count > 0) {
    if (op->iov->iov_len > bytes) {
      op->iov->iov_base = (char *)op->iov->iov_base + bytes;
      op->iov->iov_len -= (size_t)bytes;
      return;
    }
    bytes -= op->iov->iov_len;
    op->iov++;
    op->iov_count--;
  }
}

#endif
