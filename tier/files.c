/* tier/files.c - see files.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tier/files.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tier/readahead.h"

static void file_free(kvstow_file *file) {
  if (file->fd >= 0) file->tier->io.files->close(file->tier->io.env, file->fd);
  kvstow__appender_free(file->appender);
  pthread_cond_destroy(&file->idle);
  kvstow__mutex_finish(&file->lock);
  free(file->path);
  free(file);
}

static kvstow_file *file_new(kvstow_tier *tier, const char *path) {
  kvstow_file *file = calloc(1, sizeof *file);
  if (!file) return NULL;
  kvstow__mutex_init(&file->lock, KVSTOW__RANK_FILE);
  pthread_cond_init(&file->idle, NULL);
  file->tier = tier;
  file->fd = -1;
  file->number = KVSTOW__FILES + atomic_fetch_add(&tier->files_opened, 1) % KVSTOW__FILES;
  file->direct = !tier->io.buffered;
  file->path = strdup(path);
  if (file->path) return file;
  file_free(file);
  return NULL;
}

static int refuse(kvstow_tier *tier, const char *path, const char *what, int error) {
  char cause[64];
  if (error == EINVAL)
    return kvstow__fail(tier, KVSTOW_EINVAL, "%s: %s: not a regular file", path, what);
  return kvstow__fail(tier, kvstow__code_of_errno(error), "%s: %s: %s", path, what,
                      strerror_r(error, cause, sizeof cause));
}

/* The directory of a path, opened, and the name in it. */
static int open_parent(const kvstow_tier *tier, const char *path, int *dir, const char **name) {
  const char *slash = strrchr(path, '/');
  *name = slash ? slash + 1 : path;
  char *parent = slash ? strndup(path, slash > path ? (size_t)(slash - path) : 1) : strdup(".");
  if (!parent) return ENOMEM;
  const int error = tier->io.files->dir_open(tier->io.env, parent, false, dir);
  free(parent);
  return error;
}

int kvstow_file_open(kvstow_tier *tier, const char *path, kvstow_file **out) {
  if (out) *out = NULL;
  if (!tier) return KVSTOW_EINVAL;
  if (!path || !out)
    return kvstow__fail(tier, KVSTOW_EINVAL, "file_open: %s is NULL", path ? "file" : "path");
  kvstow_file *file = file_new(tier, path);
  if (!file) return KVSTOW_ENOMEM;
  const kvstow__file_ops *files = tier->io.files;
  uint64_t bytes = 0;
  int error = files->open_path(tier->io.env, path, false, &file->direct, &file->fd);
  if (!error) error = files->size(tier->io.env, file->fd, &bytes, NULL);
  if (error) {
    file_free(file);
    return refuse(tier, path, "opening", error);
  }
  atomic_store(&file->readable, bytes);
  *out = file;
  return 0;
}

/* Reserves the blocks, and makes the name durable. */
static int found(const kvstow_file *file, uint64_t bytes, int dir) {
  const kvstow__io *io = &file->tier->io;
  const int error =
      io->files->allocate(io->env, file->fd, kvstow__round_up(bytes, KVSTOW_PAGE_BYTES));
  return error ? error : io->files->dir_sync(io->env, dir);
}

int kvstow_file_create(kvstow_tier *tier, const char *path, uint64_t bytes, kvstow_file **out) {
  if (out) *out = NULL;
  if (!tier) return KVSTOW_EINVAL;
  if (!path || !out)
    return kvstow__fail(tier, KVSTOW_EINVAL, "file_create: %s is NULL", path ? "file" : "path");
  if (bytes == 0 || bytes > INT64_MAX / 2)
    return kvstow__fail(tier, KVSTOW_EINVAL, "%s: creating: bytes %" PRIu64 ": 1 to %" PRId64, path,
                        bytes, INT64_MAX / 2);
  if (tier->read_only) return kvstow__fail_read_only(tier, path);
  kvstow_file *file = file_new(tier, path);
  if (!file) return KVSTOW_ENOMEM;
  const kvstow__io *io = &tier->io;
  const char *name;
  int dir = -1;
  file->appender = kvstow__appender_new(file, bytes);
  int error = file->appender ? open_parent(tier, path, &dir, &name) : ENOMEM;
  if (!error) error = io->files->open_path(io->env, path, true, &file->direct, &file->fd);
  if (!error) {
    error = found(file, bytes, dir);
    if (error) io->files->unlink(io->env, dir, name);
  }
  if (dir >= 0) io->files->close(io->env, dir);
  if (error) {
    file_free(file);
    return refuse(tier, path, "creating", error);
  }
  *out = file;
  return 0;
}

uint64_t kvstow_file_bytes(const kvstow_file *file) {
  if (!file) return 0;
  return file->appender ? kvstow__appender_bytes(file->appender) : atomic_load(&file->readable);
}

bool kvstow_file_direct(const kvstow_file *file) {
  return file && file->direct;
}

void kvstow__file_wait(kvstow_file *file) {
  kvstow__lock(&file->lock);
  while (file->reads > 0) kvstow__wait(&file->idle, &file->lock);
  kvstow__unlock(&file->lock);
}

int kvstow_file_close(kvstow_file *file) {
  if (!file) return 0;
  const int code = kvstow_file_flush(file);
  kvstow__file_wait(file);
  kvstow__readahead_leave(file);
  file_free(file);
  return code;
}
