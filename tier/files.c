/* tier/files.c - see files.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tier/files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tier/readahead.h"

static void file_free(kvstow_file *file) {
  pthread_cond_destroy(&file->idle);
  pthread_mutex_destroy(&file->lock);
  free(file->path);
  free(file);
}

static kvstow_file *file_new(kvstow_tier *tier, const char *path) {
  kvstow_file *file = calloc(1, sizeof *file);
  if (!file) return NULL;
  pthread_mutex_init(&file->lock, NULL);
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
  const int code = error == EINVAL   ? KVSTOW_EINVAL
                   : error == EEXIST ? KVSTOW_EBUSY
                                     : kvstow__code_of_errno(error);
  return kvstow__fail(
      tier, code, "%s: %s: %s", path, what,
      error == EINVAL ? "not a regular file" : strerror_r(error, cause, sizeof cause));
}

int kvstow_file_open(kvstow_tier *tier, const char *path, kvstow_file **out) {
  if (out) *out = NULL;
  if (!tier || !path || !out) return KVSTOW_EINVAL;
  kvstow_file *file = file_new(tier, path);
  if (!file) return KVSTOW_ENOMEM;
  const kvstow__file_ops *files = tier->io.files;
  int error = files->open_path(tier->io.env, path, false, &file->direct, &file->fd);
  if (error) {
    file_free(file);
    return refuse(tier, path, "opening", error);
  }
  uint64_t bytes = 0;
  error = files->size(tier->io.env, file->fd, &bytes, NULL);
  if (error) {
    files->close(tier->io.env, file->fd);
    file_free(file);
    return refuse(tier, path, "asking its size", error);
  }
  atomic_store(&file->readable, bytes);
  *out = file;
  return 0;
}

uint64_t kvstow_file_bytes(const kvstow_file *file) {
  return file ? atomic_load(&file->readable) : 0;
}

bool kvstow_file_direct(const kvstow_file *file) {
  return file && file->direct;
}

void kvstow__file_wait(kvstow_file *file) {
  pthread_mutex_lock(&file->lock);
  while (file->reads > 0) pthread_cond_wait(&file->idle, &file->lock);
  pthread_mutex_unlock(&file->lock);
}

int kvstow_file_close(kvstow_file *file) {
  if (!file) return 0;
  kvstow__file_wait(file);
  kvstow__readahead_leave(file);
  file->tier->io.files->close(file->tier->io.env, file->fd);
  file_free(file);
  return 0;
}
