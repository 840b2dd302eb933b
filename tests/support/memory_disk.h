/* tests/support/memory_disk.h - a disk in memory behind tier/io.h: one directory of a few files, an engine
 * that carries ops out at once. For tests that open a store thousands of times, each time with other bytes.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TESTS_SUPPORT_MEMORY_DISK_H
#define KVSTOW_TESTS_SUPPORT_MEMORY_DISK_H

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "tier/io.h"

#define MEMORY_FILES_MAX 16
#define MEMORY_DIR_FD 1000
#define MEMORY_LOCK_FD 1001

typedef struct memory_file {
  char name[32]; /* empty: no file */
  uint8_t *bytes;
  uint64_t size;
} memory_file;

typedef struct memory_disk {
  memory_file files[MEMORY_FILES_MAX];
  uint64_t random; /* what random() gives next */
} memory_disk;

/* A tier's threads use a disk at once: the functions below that are a file_ops' own hold this. */
static pthread_mutex_t memory_guard = PTHREAD_MUTEX_INITIALIZER;

static inline int memory_done(int error) {
  pthread_mutex_unlock(&memory_guard);
  return error;
}

/* ---- files ---------------------------------------------------------------------------------- */

static inline memory_file *memory_file_named(memory_disk *disk, const char *name) {
  for (int i = 0; i < MEMORY_FILES_MAX; i++)
    if (strcmp(disk->files[i].name, name) == 0 && *name) return &disk->files[i];
  return NULL;
}

static inline void memory_file_resize(memory_file *file, uint64_t size) {
  uint8_t *bytes = realloc(file->bytes, size + 1);
  if (!bytes) abort();
  if (size > file->size) memset(bytes + file->size, 0, size - file->size);
  file->bytes = bytes;
  file->size = size;
}

static inline void memory_file_remove(memory_file *file) {
  free(file->bytes);
  memset(file, 0, sizeof *file);
}

static inline void memory_disk_clear(memory_disk *disk) {
  for (int i = 0; i < MEMORY_FILES_MAX; i++) memory_file_remove(&disk->files[i]);
}

/* Makes `to` hold what `from` holds. */
static inline void memory_disk_copy(memory_disk *to, const memory_disk *from) {
  pthread_mutex_lock(&memory_guard);
  for (int i = 0; i < MEMORY_FILES_MAX; i++) {
    memory_file *file = &to->files[i];
    if (!*from->files[i].name) {
      memory_file_remove(file);
      continue;
    }
    memory_file_resize(file, from->files[i].size);
    memcpy(file->name, from->files[i].name, sizeof file->name);
    memcpy(file->bytes, from->files[i].bytes, file->size);
  }
  to->random = from->random;
  memory_done(0);
}

static inline int memory_dir_open(void *env, const char *path, bool create, int *dir) {
  (void)env, (void)path, (void)create;
  *dir = MEMORY_DIR_FD;
  return 0;
}

static inline int memory_dir_list(void *env, int dir, bool (*each)(void *arg, const char *name),
                                  void *arg) {
  (void)dir;
  memory_disk *disk = env;
  pthread_mutex_lock(&memory_guard);
  for (int i = 0; i < MEMORY_FILES_MAX; i++)
    if (*disk->files[i].name && !each(arg, disk->files[i].name)) break;
  return memory_done(0);
}

static inline int memory_dir_sync(void *env, int dir) {
  (void)env, (void)dir;
  return 0;
}

static inline bool memory_dir_direct(void *env, int dir, const char *probe) {
  (void)env, (void)dir, (void)probe;
  return false;
}

static inline int memory_lock(void *env, int dir, const char *name, bool shared, int *fd) {
  (void)env, (void)dir, (void)name, (void)shared;
  *fd = MEMORY_LOCK_FD;
  return 0;
}

static inline void memory_close(void *env, int fd) {
  (void)env, (void)fd;
}

static inline int memory_open(void *env, int dir, const char *name, bool create, bool writable,
                              bool direct, int *fd) {
  (void)dir, (void)writable, (void)direct;
  memory_disk *disk = env;
  pthread_mutex_lock(&memory_guard);
  memory_file *file = memory_file_named(disk, name);
  for (int i = 0; !file && create && i < MEMORY_FILES_MAX; i++)
    if (!*disk->files[i].name) {
      file = &disk->files[i];
      strncpy(file->name, name, sizeof file->name - 1);
      memory_file_resize(file, 0);
    }
  if (!file) return memory_done(create ? ENOSPC : ENOENT);
  *fd = (int)(file - disk->files);
  return memory_done(0);
}

static inline int memory_open_path(void *env, const char *path, bool create, bool *direct,
                                   int *fd) {
  (void)env, (void)path, (void)create, (void)direct, (void)fd;
  return ENOENT;
}

static inline int memory_size(void *env, int fd, uint64_t *bytes, uint64_t *allocated) {
  const memory_disk *disk = env;
  pthread_mutex_lock(&memory_guard);
  const uint64_t size = fd < MEMORY_FILES_MAX ? disk->files[fd].size : 0;
  if (bytes) *bytes = size;
  if (allocated) *allocated = size;
  return memory_done(0);
}

static inline int memory_allocate(void *env, int fd, uint64_t bytes) {
  memory_disk *disk = env;
  pthread_mutex_lock(&memory_guard);
  if (bytes > disk->files[fd].size) memory_file_resize(&disk->files[fd], bytes);
  return memory_done(0);
}

static inline int memory_truncate(void *env, int fd, uint64_t bytes) {
  memory_disk *disk = env;
  pthread_mutex_lock(&memory_guard);
  memory_file_resize(&disk->files[fd], bytes);
  return memory_done(0);
}

static inline int memory_read(void *env, int fd, void *to, size_t bytes, uint64_t offset,
                              size_t *got) {
  pthread_mutex_lock(&memory_guard);
  const memory_file *file = &((memory_disk *)env)->files[fd];
  const uint64_t there = offset < file->size ? file->size - offset : 0;
  *got = bytes < there ? bytes : (size_t)there;
  if (*got > 0) memcpy(to, file->bytes + offset, *got);
  return memory_done(0);
}

static inline int memory_readv(void *env, int fd, struct iovec *iov, uint32_t iov_count,
                               size_t enough, uint64_t offset, size_t *got) {
  (void)enough;
  *got = 0;
  for (uint32_t i = 0; i < iov_count; i++) {
    size_t piece;
    memory_read(env, fd, iov[i].iov_base, iov[i].iov_len, offset + *got, &piece);
    *got += piece;
  }
  return 0;
}

static inline int memory_write(void *env, int fd, const void *from, size_t bytes, uint64_t offset) {
  pthread_mutex_lock(&memory_guard);
  memory_file *file = &((memory_disk *)env)->files[fd];
  if (offset + bytes > file->size) memory_file_resize(file, offset + bytes);
  if (file->bytes != NULL)
    memcpy(file->bytes + offset, from, bytes); /* NULL: nothing into an empty file */
  return memory_done(0);
}

static inline int memory_rename(void *env, int dir, const char *from, const char *to) {
  (void)dir;
  memory_disk *disk = env;
  pthread_mutex_lock(&memory_guard);
  memory_file *file = memory_file_named(disk, from), *over = memory_file_named(disk, to);
  if (!file) return memory_done(ENOENT);
  if (over) memory_file_remove(over);
  memset(file->name, 0, sizeof file->name);
  strncpy(file->name, to, sizeof file->name - 1);
  return memory_done(0);
}

static inline int memory_unlink(void *env, int dir, const char *name) {
  (void)dir;
  pthread_mutex_lock(&memory_guard);
  memory_file *file = memory_file_named(env, name);
  if (file) memory_file_remove(file);
  return memory_done(file ? 0 : ENOENT);
}

static inline uint32_t memory_open_files_max(void *env) {
  (void)env;
  return MEMORY_FILES_MAX;
}

static inline uint64_t memory_now_s(void *env) {
  (void)env;
  return 1700000000;
}

static inline int memory_random(void *env, void *bytes, size_t count) {
  memory_disk *disk = env;
  pthread_mutex_lock(&memory_guard);
  for (size_t i = 0; i < count; i++) {
    disk->random = disk->random * UINT64_C(6364136223846793005) + 1442695040888963407u;
    ((uint8_t *)bytes)[i] = (uint8_t)(disk->random >> 56);
  }
  return memory_done(0);
}

static const kvstow__file_ops memory_files = {
    .dir_open = memory_dir_open,
    .dir_list = memory_dir_list,
    .dir_sync = memory_dir_sync,
    .dir_direct = memory_dir_direct,
    .lock = memory_lock,
    .unlock = memory_close,
    .open = memory_open,
    .open_path = memory_open_path,
    .close = memory_close,
    .size = memory_size,
    .allocate = memory_allocate,
    .truncate = memory_truncate,
    .read = memory_read,
    .readv = memory_readv,
    .write = memory_write,
    .sync = memory_dir_sync,
    .rename = memory_rename,
    .unlink = memory_unlink,
    .open_files_max = memory_open_files_max,
    .now_s = memory_now_s,
    .random = memory_random,
};

/* ---- the engine ----------------------------------------------------------------------------- */

struct kvstow__engine {
  memory_disk *disk;
  pthread_mutex_t lock;
  pthread_cond_t news;
  kvstow__op *done, **tail;
  bool woken;
};

static inline int memory_create(void *env, const kvstow__engine_config *config,
                                kvstow__engine **engine, char *reason, size_t reason_bytes) {
  (void)config, (void)reason, (void)reason_bytes;
  kvstow__engine *e = calloc(1, sizeof *e);
  if (!e) return ENOMEM;
  pthread_mutex_init(&e->lock, NULL);
  pthread_cond_init(&e->news, NULL);
  e->disk = env;
  e->tail = &e->done;
  *engine = e;
  return 0;
}

static inline void memory_destroy(kvstow__engine *e) {
  free(e);
}

static inline int memory_perform(kvstow__engine *e, const kvstow__op *op) {
  uint64_t at = op->offset;
  if (op->kind == KVSTOW__SYNC) return 0;
  for (uint32_t i = 0; i < op->iov_count; i++, at += op->iov[i - 1].iov_len) {
    if (op->kind == KVSTOW__WRITE) {
      memory_write(e->disk, op->fd, op->iov[i].iov_base, op->iov[i].iov_len, at);
      continue;
    }
    size_t got;
    memory_read(e->disk, op->fd, op->iov[i].iov_base, op->iov[i].iov_len, at, &got);
    if (got < op->iov[i].iov_len) return ENODATA;
  }
  return 0;
}

static inline void memory_submit(kvstow__engine *e, kvstow__op *list) {
  while (list) {
    kvstow__op *op = list;
    list = op->next;
    op->error = memory_perform(e, op);
    op->next = NULL;
    *e->tail = op;
    e->tail = &op->next;
  }
}

/* Nothing is ever late here: an end to the waiting is as good as none. */
static inline kvstow__op *memory_reap(kvstow__engine *e, uint64_t until_us) {
  pthread_mutex_lock(&e->lock);
  while (until_us && !e->done && !e->woken) pthread_cond_wait(&e->news, &e->lock);
  e->woken = false;
  pthread_mutex_unlock(&e->lock);
  kvstow__op *done = e->done;
  e->done = NULL;
  e->tail = &e->done;
  return done;
}

static inline void memory_wake(kvstow__engine *e) {
  pthread_mutex_lock(&e->lock);
  e->woken = true;
  pthread_cond_signal(&e->news);
  pthread_mutex_unlock(&e->lock);
}

static const kvstow__engine_ops memory_engine = {
    .name = "memory",
    .create = memory_create,
    .destroy = memory_destroy,
    .submit = memory_submit,
    .reap = memory_reap,
    .wake = memory_wake,
};

static inline kvstow__io memory_io(memory_disk *disk) {
  return (kvstow__io){.files = &memory_files,
                      .engines = {&memory_engine},
                      .kinds = {KVSTOW_ENGINE_AUTO},
                      .env = disk,
                      .buffered = true};
}

#endif
