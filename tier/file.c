/* tier/file.c - the real file system behind kvstow__file_ops.
 *
 * Every file is opened O_CLOEXEC|O_NOFOLLOW and made 0600, directories 0700; what is not ours is refused
 * (owner.h). Signals: a write or
 * allocation beyond RLIMIT_FSIZE raises SIGXFSZ, which would kill the host; it is blocked and eaten
 * here (the I/O threads block all signals anyway) and comes back as EFBIG.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "tier/format.h"
#include "tier/io.h"
#include "tier/owner.h"

#define LOCK_TRIES 5u
#define LOCK_PAUSE_NS 20000000L /* io_uring may hold a dead owner's files for a moment */
#define WRITE_TRIES_MAX 64u

/* ---- directories ---------------------------------------------------------------------------- */

static int file_dir_open(void *env, const char *path, bool create, int *dir) {
  (void)env;
  if (create && mkdir(path, 0700) != 0 && errno != EEXIST) return errno;
  *dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (*dir < 0) return errno;
  const int error = create ? kvstow__owned_dir(*dir) : 0;
  if (!error) return 0;
  close(*dir);
  *dir = -1;
  return error;
}

static int file_dir_list(void *env, int dir, bool (*each)(void *arg, const char *name), void *arg) {
  (void)env;
  const int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (copy < 0) return errno;
  DIR *stream = fdopendir(copy);
  if (!stream) {
    const int error = errno;
    close(copy);
    return error;
  }
  const struct dirent *entry;
  errno = 0;
  while ((entry = readdir(stream)) != NULL) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (!each(arg, entry->d_name)) {
      errno = 0;
      break;
    }
    errno = 0;
  }
  const int error = errno;
  closedir(stream);
  return error;
}

static int file_dir_sync(void *env, int dir) {
  (void)env;
  /* EINVAL: a file system that does not synchronise directories. */
  return fsync(dir) == 0 || errno == EINVAL ? 0 : errno;
}

/* tmpfs accepts O_DIRECT and ignores it; kernels before 6.1 do not say what they want. */
static bool direct_works(int fd) {
  struct statfs fs;
  if (fstatfs(fd, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC)) return false;
#ifdef STATX_DIOALIGN
  struct statx stat;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stat) == 0 &&
      (stat.stx_mask & STATX_DIOALIGN) != 0)
    return stat.stx_dio_mem_align > 0 && stat.stx_dio_mem_align <= KVSTOW_PAGE_BYTES &&
           stat.stx_dio_offset_align > 0 && stat.stx_dio_offset_align <= KVSTOW_PAGE_BYTES;
#endif
  if (fcntl(fd, F_SETFL, O_DIRECT) != 0) return false;
  void *page = aligned_alloc(KVSTOW_PAGE_BYTES, KVSTOW_PAGE_BYTES);
  const bool works = page && pread(fd, page, KVSTOW_PAGE_BYTES, 0) >= 0;
  free(page);
  return works;
}

static bool file_dir_direct(void *env, int dir, const char *probe) {
  (void)env;
  const int fd = openat(dir, probe, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return false;
  const bool works = direct_works(fd);
  close(fd);
  return works;
}

/* O_NONBLOCK until it is known to be a regular file: a pipe would wait for its other end. */
static int open_owned(int dir, const char *name, int flags, int *fd) {
  *fd = openat(dir, name, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
  if (*fd < 0) return errno;
  int error = kvstow__owned_file(*fd, (flags & O_ACCMODE) != O_RDONLY);
  if (!error && fcntl(*fd, F_SETFL, flags & O_DIRECT) != 0) error = errno;
  if (!error) return 0;
  close(*fd);
  *fd = -1;
  return error;
}

static int file_lock(void *env, int dir, const char *name, bool shared, int *fd) {
  (void)env;
  const int opened = open_owned(dir, name, shared ? O_RDONLY : O_RDWR | O_CREAT, fd);
  if (opened) return opened;
  for (unsigned i = 0;; i++) {
    if (flock(*fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) return 0;
    const int error = errno;
    if ((error != EWOULDBLOCK && error != EINTR) || i + 1 >= LOCK_TRIES) {
      close(*fd);
      *fd = -1;
      return error;
    }
    nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_NS}, NULL);
  }
}

static void file_unlock(void *env, int fd) {
  (void)env;
  flock(fd, LOCK_UN); /* a forked child may still hold the descriptor */
  close(fd);
}

/* ---- files ---------------------------------------------------------------------------------- */

static int file_open(void *env, int dir, const char *name, bool create, bool writable, bool direct,
                     int *fd) {
  (void)env;
  return open_owned(
      dir, name, (writable ? O_RDWR : O_RDONLY) | (create ? O_CREAT : 0) | (direct ? O_DIRECT : 0),
      fd);
}

static void file_why(void *env, int dir, const char *name, bool writable, char *text,
                     size_t bytes) {
  (void)env;
  kvstow__owned_why(dir, name, writable, text, bytes);
}

/* O_NONBLOCK as in open_owned. */
static int file_open_path(void *env, const char *path, bool create, bool *direct, int *out) {
  (void)env;
  const int flags = create ? O_RDWR | O_CREAT | O_EXCL : O_RDONLY;
  const int fd = open(path, flags | O_NONBLOCK | O_CLOEXEC, 0600);
  if (fd < 0) return errno;
  struct stat stat;
  int error = fstat(fd, &stat) != 0 ? errno : 0;
  if (!error && !S_ISREG(stat.st_mode)) error = EINVAL;
  if (!error) {
    *direct = *direct && direct_works(fd) && fcntl(fd, F_SETFL, O_DIRECT) == 0;
    if (!*direct && fcntl(fd, F_SETFL, 0) != 0) error = errno;
  }
  if (error)
    close(fd);
  else
    *out = fd;
  return error;
}

static void file_close(void *env, int fd) {
  (void)env;
  close(fd);
}

static int file_size(void *env, int fd, uint64_t *bytes, uint64_t *allocated_bytes) {
  (void)env;
  struct stat stat;
  if (fstat(fd, &stat) != 0) return errno;
  if (bytes) *bytes = (uint64_t)stat.st_size;
  if (allocated_bytes) *allocated_bytes = (uint64_t)stat.st_blocks * 512;
  return 0;
}

typedef struct quiet {
  sigset_t before;
} quiet;

static void quiet_begin(quiet *q) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGXFSZ);
  pthread_sigmask(SIG_BLOCK, &set, &q->before);
}

static void quiet_end(quiet *q, int error) {
  if (error == EFBIG && !sigismember(&q->before, SIGXFSZ)) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGXFSZ);
    sigtimedwait(&set, NULL, &(struct timespec){0});
  }
  pthread_sigmask(SIG_SETMASK, &q->before, NULL);
}

static int file_write(void *env, int fd, const void *from, size_t bytes, uint64_t offset) {
  (void)env;
  quiet q;
  quiet_begin(&q);
  int error = 0;
  unsigned tries = 0;
  for (size_t done = 0; done < bytes && !error;) {
    const ssize_t n = pwrite(fd, (const char *)from + done, bytes - done, (off_t)(offset + done));
    if (n > 0)
      done += (size_t)n;
    else if (n == 0 || errno == EINTR)
      error = ++tries < WRITE_TRIES_MAX ? 0 : EIO;
    else
      error = errno;
  }
  quiet_end(&q, error);
  return error;
}

/* Where fallocate is not supported: writes zeroes behind what the file has, so that ENOSPC still comes now. In whole
 * pages, for O_DIRECT. */
static int fill(int fd, uint64_t bytes) {
  const size_t chunk = 1u << 20;
  struct stat stat;
  if (fstat(fd, &stat) != 0) return errno;
  const uint64_t from = kvstow__round_up((uint64_t)stat.st_size, KVSTOW_PAGE_BYTES);
  if ((uint64_t)stat.st_size >= bytes) return 0;
  if (from > (uint64_t)stat.st_size && ftruncate(fd, (off_t)from) != 0) return errno;
  void *zeros = aligned_alloc(KVSTOW_PAGE_BYTES, chunk);
  if (!zeros) return ENOMEM;
  memset(zeros, 0, chunk);
  int error = 0;
  for (uint64_t at = from; at < bytes && !error; at += chunk) {
    const size_t piece = bytes - at < chunk ? (size_t)(bytes - at) : chunk;
    error = file_write(NULL, fd, zeros, piece, at);
  }
  free(zeros);
  return error;
}

static int file_allocate(void *env, int fd, uint64_t bytes) {
  (void)env;
  quiet q;
  quiet_begin(&q);
  int error = 0;
  unsigned tries = 0;
  while (fallocate(fd, 0, 0, (off_t)bytes) != 0) {
    error = errno;
    if (error != EINTR || ++tries >= WRITE_TRIES_MAX) break;
    error = 0;
  }
  quiet_end(&q, error);
  return error == EOPNOTSUPP ? fill(fd, bytes) : error;
}

static int file_truncate(void *env, int fd, uint64_t bytes) {
  (void)env;
  return ftruncate(fd, (off_t)bytes) == 0 ? 0 : errno;
}

static int file_read(void *env, int fd, void *to, size_t bytes, uint64_t offset, size_t *got) {
  (void)env;
  *got = 0;
  while (*got < bytes) {
    const ssize_t n = pread(fd, (char *)to + *got, bytes - *got, (off_t)(offset + *got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return 0;
    *got += (size_t)n;
  }
  return 0;
}

static int file_readv(void *env, int fd, struct iovec *iov, uint32_t iov_count, size_t enough,
                      uint64_t offset, size_t *got) {
  (void)env;
  kvstow__op op = {.iov = iov, .iov_count = iov_count};
  *got = 0;
  while (*got < enough) {
    const ssize_t n = preadv(fd, op.iov, (int)op.iov_count, (off_t)(offset + *got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return 0;
    *got += (size_t)n;
    kvstow__op_advance(&op, (uint64_t)n);
  }
  return 0;
}

static int file_sync(void *env, int fd) {
  (void)env;
  return fsync(fd) == 0 ? 0 : errno;
}

static int file_rename(void *env, int dir, const char *from, const char *to) {
  (void)env;
  return renameat(dir, from, dir, to) == 0 ? 0 : errno;
}

static int file_unlink(void *env, int dir, const char *name) {
  (void)env;
  return unlinkat(dir, name, 0) == 0 ? 0 : errno;
}

/* ---- the rest of the world ------------------------------------------------------------------ */

/* Half of what the process may open, less a little: the host needs the other half. */
static uint32_t file_open_files_max(void *env) {
  (void)env;
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 256;
  if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur > 16384) return 8192;
  return limit.rlim_cur < 64 ? 16 : (uint32_t)limit.rlim_cur / 2;
}

static uint64_t file_now_s(void *env) {
  (void)env;
  return (uint64_t)time(NULL);
}

static int file_random(void *env, void *bytes, size_t count) {
  (void)env;
  for (size_t got = 0; got < count;) {
    const ssize_t n = getrandom((char *)bytes + got, count - got, 0);
    if (n < 0 && errno != EINTR) return errno;
    if (n > 0) got += (size_t)n;
  }
  return 0;
}

const kvstow__file_ops kvstow__files = {
    .dir_open = file_dir_open,
    .dir_list = file_dir_list,
    .dir_sync = file_dir_sync,
    .dir_direct = file_dir_direct,
    .lock = file_lock,
    .unlock = file_unlock,
    .open = file_open,
    .why = file_why,
    .open_path = file_open_path,
    .close = file_close,
    .size = file_size,
    .allocate = file_allocate,
    .truncate = file_truncate,
    .read = file_read,
    .readv = file_readv,
    .write = file_write,
    .sync = file_sync,
    .rename = file_rename,
    .unlink = file_unlink,
    .open_files_max = file_open_files_max,
    .now_s = file_now_s,
    .random = file_random,
};
