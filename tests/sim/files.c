/* files.c - see disk.h: kvstow__file_ops over the simulated disks. Every call takes a while.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "tests/sim/disk.h"
#include "tests/sim/sched.h"

static const char here; /* what calls that take a while wait on: nobody wakes them */

static void take(uint64_t from_ns, uint64_t to_ns) {
  uint64_t ns = from_ns + sim_disk_draw(to_ns - from_ns);
  if (sim_strikes(SIM_SLOW)) ns += sim_disk_draw(2000000000);
  sim_block(&here, sim_now_ns() + ns, "works on a file");
}

static void name_request(void) {
  sim_request_made(SIM_CRASH_NAME);
  take(2000, 100000);
}

static int number_of(int dir) {
  return dir - SIM_DIR_FD;
}

static int dir_open(void *env, const char *path, bool create, int *dir) {
  (void)env, (void)create;
  name_request();
  const int number = path[strlen(path) - 1] - '0';
  if (sim_dead(number)) return EIO;
  if (sim_strikes(SIM_NO_OPEN)) return EACCES;
  *dir = SIM_DIR_FD + number;
  return 0;
}

static int dir_list(void *env, int dir, bool (*each)(void *arg, const char *name), void *arg) {
  (void)env;
  name_request();
  if (sim_dead(number_of(dir))) return EIO;
  sim_names_each(number_of(dir), each, arg);
  return 0;
}

static int dir_sync(void *env, int dir) {
  (void)env;
  sim_request_made(SIM_CRASH_SYNC);
  take(100000, 5000000);
  if (sim_dead(number_of(dir)) || sim_strikes(SIM_EIO_SYNC)) return EIO;
  sim_names_sync(number_of(dir));
  return 0;
}

static bool dir_direct(void *env, int dir, const char *probe) {
  (void)env, (void)dir, (void)probe;
  return true;
}

static int lock(void *env, int dir, const char *text, bool share, int *fd) {
  (void)env, (void)share;
  name_request();
  if (sim_dead(number_of(dir))) return EIO;
  *fd = sim_fd_new(sim_name_find(number_of(dir), text, true));
  return 0;
}

static void close_fd(void *env, int fd) {
  (void)env;
  sim_fd_close(fd);
}

static int open_file(void *env, int dir, const char *text, bool create, bool writable, bool direct,
                     int *fd) {
  (void)env, (void)writable, (void)direct;
  name_request();
  if (sim_dead(number_of(dir))) return EIO;
  if (sim_strikes(SIM_NO_OPEN)) return sim_disk_draw(2) ? EMFILE : EIO;
  const int file = sim_name_find(number_of(dir), text, create);
  if (file < 0) return ENOENT;
  *fd = sim_fd_new(file);
  return 0;
}

static int open_path(void *env, const char *path, bool create, bool *direct, int *fd) {
  (void)env, (void)direct;
  name_request();
  const char *slash = strrchr(path, '/');
  const int dir = slash[-1] - '0';
  if (sim_dead(dir)) return EIO;
  if (sim_strikes(SIM_NO_OPEN)) return sim_disk_draw(2) ? EMFILE : EIO;
  int file = sim_name_find(dir, slash + 1, false);
  if (create && file >= 0) return EEXIST;
  if (create) file = sim_name_find(dir, slash + 1, true);
  if (file < 0) return ENOENT;
  *fd = sim_fd_new(file);
  return 0;
}

static int rename_file(void *env, int dir, const char *from, const char *to) {
  (void)env;
  name_request();
  if (sim_dead(number_of(dir))) return EIO;
  if (sim_name_find(number_of(dir), from, false) < 0) return ENOENT;
  sim_name_move(number_of(dir), from, to);
  return 0;
}

static int unlink_file(void *env, int dir, const char *text) {
  (void)env;
  name_request();
  if (sim_dead(number_of(dir))) return EIO;
  if (sim_name_find(number_of(dir), text, false) < 0) return ENOENT;
  sim_name_drop(number_of(dir), text);
  return 0;
}

static int size_of(void *env, int fd, uint64_t *bytes, uint64_t *allocated) {
  (void)env;
  const bool dir = fd >= SIM_DIR_FD;
  if (bytes) *bytes = dir ? 4096 : sim_size(sim_file_of(fd));
  if (allocated) *allocated = dir ? 4096 : sim_allocated(sim_file_of(fd));
  return 0;
}

static int allocate(void *env, int fd, uint64_t bytes) {
  (void)env;
  name_request();
  const int file = sim_file_of(fd);
  if (sim_dead(sim_dir_of(file))) return EIO;
  if (sim_strikes(SIM_NO_SPACE)) return ENOSPC;
  sim_resize(file, bytes, true);
  return 0;
}

static int truncate_file(void *env, int fd, uint64_t bytes) {
  (void)env;
  name_request();
  const int file = sim_file_of(fd);
  if (sim_dead(sim_dir_of(file))) return EIO;
  sim_resize(file, bytes, false);
  return 0;
}

static int64_t move(kvstow__op_kind kind, int fd, const struct iovec *iov, uint32_t iov_count,
                    uint64_t offset) {
  sim_request request = {.kind = kind,
                         .fd = fd,
                         .iov = iov,
                         .iov_count = iov_count,
                         .offset = offset,
                         .whole = true,
                         .aside = true};
  sim_request_begin(&request);
  sim_block(&request, request.at_ns, "waits for the disk");
  return sim_request_finish(&request);
}

static int readv_file(void *env, int fd, struct iovec *iov, uint32_t iov_count, size_t enough,
                      uint64_t offset, size_t *got) {
  (void)env, (void)enough;
  const int64_t n = move(KVSTOW__READ, fd, iov, iov_count, offset);
  *got = n > 0 ? (size_t)n : 0;
  return n < 0 ? (int)-n : 0;
}

static int read_file(void *env, int fd, void *to, size_t bytes, uint64_t offset, size_t *got) {
  struct iovec iov = {to, bytes};
  return readv_file(env, fd, &iov, 1, bytes, offset, got);
}

static int write_file(void *env, int fd, const void *from, size_t bytes, uint64_t offset) {
  (void)env;
  const struct iovec iov = {(void *)(uintptr_t)from, bytes};
  const int64_t n = move(KVSTOW__WRITE, fd, &iov, 1, offset);
  return n < 0 ? (int)-n : 0;
}

static int sync_fd(void *env, int fd) {
  (void)env;
  const int64_t n = move(KVSTOW__SYNC, fd, NULL, 0, 0);
  return n < 0 ? (int)-n : 0;
}

static uint32_t open_files_max(void *env) {
  (void)env;
  return 40;
}

static uint64_t now_s(void *env) {
  (void)env;
  return (uint64_t)sim_time(NULL);
}

static int random_bytes(void *env, void *bytes, size_t count) {
  (void)env;
  for (size_t i = 0; i < count; i++) ((uint8_t *)bytes)[i] = (uint8_t)sim_disk_draw(256);
  return 0;
}

const kvstow__file_ops sim_files = {
    .dir_open = dir_open,
    .dir_list = dir_list,
    .dir_sync = dir_sync,
    .dir_direct = dir_direct,
    .lock = lock,
    .unlock = close_fd,
    .open = open_file,
    .open_path = open_path,
    .close = close_fd,
    .size = size_of,
    .allocate = allocate,
    .truncate = truncate_file,
    .read = read_file,
    .readv = readv_file,
    .write = write_file,
    .sync = sync_fd,
    .rename = rename_file,
    .unlink = unlink_file,
    .open_files_max = open_files_max,
    .now_s = now_s,
    .random = random_bytes,
};
