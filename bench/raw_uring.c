/* raw_uring.c - see raw_uring.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/raw_uring.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/cold.h"

enum { CREATE_BLOCK_BYTES = 4 << 20, CREATE_DEPTH = 8 };

struct slot {
  uint64_t started_ns;
};

struct loop {
  const struct raw_uring_job *job;
  struct io_uring ring;
  struct slot *slots;
  uint64_t blocks, sent, done; /* of the job */
  uint64_t extents_blocks;     /* in all extents */
  size_t extent;               /* in order: where the next block is */
  uint64_t at;
  struct raw_uring_result *result;
};

/* DEFER_TASKRUN is what the library uses, too; older kernels go without. */
static int open_ring(struct loop *loop) {
  int rc = io_uring_queue_init(loop->job->depth, &loop->ring,
                               IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
  if (rc == -EINVAL) rc = io_uring_queue_init(loop->job->depth, &loop->ring, 0);
  return rc;
}

static const struct raw_extent *next_block(struct loop *loop, uint64_t *offset) {
  const struct raw_uring_job *job = loop->job;
  if (job->offsets != NULL) {
    *offset = job->offsets[loop->sent];
    return &job->extents[0];
  }
  while (loop->at + job->block_bytes > job->extents[loop->extent].bytes) {
    loop->extent = (loop->extent + 1) % job->extents_count;
    loop->at = 0;
  }
  const struct raw_extent *extent = &job->extents[loop->extent];
  *offset = extent->offset + loop->at;
  loop->at += job->block_bytes;
  return extent;
}

static void send_block(struct loop *loop, unsigned slot) {
  const struct raw_uring_job *job = loop->job;
  uint64_t offset;
  const struct raw_extent *extent = next_block(loop, &offset);
  char *buffer = job->buffers + (job->spread ? loop->sent : slot) * (size_t)job->block_bytes;
  struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);
  if (job->write)
    io_uring_prep_write(sqe, extent->fd, buffer, job->block_bytes, offset);
  else
    io_uring_prep_read(sqe, extent->fd, buffer, job->block_bytes, offset);
  sqe->user_data = slot;
  loop->slots[slot].started_ns = measure_now_ns();
  loop->sent++;
}

/* Every completion there is; each slot is sent out again while there is work. */
static int reap(struct loop *loop) {
  struct io_uring_cqe *cqe;
  unsigned head, seen = 0;
  int rc = 0;
  const uint64_t now = measure_now_ns();
  io_uring_for_each_cqe(&loop->ring, head, cqe) {
    const unsigned slot = (unsigned)cqe->user_data;
    if (rc == 0 && cqe->res != (int)loop->job->block_bytes) rc = cqe->res < 0 ? cqe->res : -EIO;
    measure_latency_add(&loop->result->latency, now - loop->slots[slot].started_ns);
    loop->done++;
    if (rc == 0 && loop->sent < loop->blocks) send_block(loop, slot);
    seen++;
  }
  io_uring_cq_advance(&loop->ring, seen);
  return rc;
}

static int run(struct loop *loop) {
  int rc = 0;
  for (unsigned slot = 0; slot < loop->job->depth && loop->sent < loop->blocks; slot++)
    send_block(loop, slot);
  while (loop->done < loop->sent) { /* also after an error: the kernel owns the buffers till then */
    const int waited = io_uring_submit_and_wait(&loop->ring, 1);
    if (waited < 0 && waited != -EINTR && waited != -EAGAIN) return waited;
    const int reaped = reap(loop);
    if (rc == 0) rc = reaped;
    if (rc != 0) loop->blocks = 0;
  }
  return rc;
}

/* ---- without a ring --------------------------------------------------------------------------- */

static bool forbidden; /* found out at the first run that wanted one */

bool raw_uring_forbidden(void) {
  return forbidden;
}

struct crew {
  struct loop *loop;
  pthread_mutex_t lock;
  int rc;
};

/* One thread a request in flight. */
static void move_blocks(void *arg, unsigned slot) {
  struct crew *crew = arg;
  struct loop *loop = crew->loop;
  const struct raw_uring_job *job = loop->job;
  pthread_mutex_lock(&crew->lock);
  while (crew->rc == 0 && loop->sent < loop->blocks) {
    uint64_t offset;
    const struct raw_extent *extent = next_block(loop, &offset);
    char *buffer = job->buffers + (job->spread ? loop->sent : slot) * (size_t)job->block_bytes;
    loop->sent++;
    pthread_mutex_unlock(&crew->lock);
    const uint64_t begun = measure_now_ns();
    const ssize_t moved = job->write ? pwrite(extent->fd, buffer, job->block_bytes, (off_t)offset)
                                     : pread(extent->fd, buffer, job->block_bytes, (off_t)offset);
    const int rc = moved < 0 ? -errno : moved != (ssize_t)job->block_bytes ? -EIO : 0;
    const uint64_t ns = measure_now_ns() - begun;
    pthread_mutex_lock(&crew->lock);
    if (crew->rc == 0) crew->rc = rc;
    measure_latency_add(&loop->result->latency, ns);
    loop->done++;
  }
  pthread_mutex_unlock(&crew->lock);
}

static int run_crew(struct loop *loop) {
  struct crew crew = {.loop = loop};
  pthread_mutex_init(&crew.lock, NULL);
  loop->result->span = measure_parallel(loop->job->depth, move_blocks, &crew);
  loop->result->bytes = loop->done * loop->job->block_bytes;
  pthread_mutex_destroy(&crew.lock);
  return crew.rc;
}

int raw_uring_run(const struct raw_uring_job *job, struct raw_uring_result *result) {
  memset(result, 0, sizeof *result);
  struct loop loop = {.job = job, .result = result};
  for (size_t i = 0; i < job->extents_count; i++)
    loop.extents_blocks += job->extents[i].bytes / job->block_bytes;
  loop.blocks = job->total_bytes / job->block_bytes;
  if (loop.extents_blocks == 0 || job->depth == 0) return -EINVAL;
  loop.slots = calloc(job->depth, sizeof *loop.slots);
  if (loop.slots == NULL) return -ENOMEM;
  int rc = job->threads ? -EPERM : open_ring(&loop);
  if (rc == 0) {
    const struct measure_span begun = measure_begin();
    rc = run(&loop);
    result->span = measure_end(begun);
    result->bytes = loop.done * job->block_bytes;
    io_uring_queue_exit(&loop.ring);
  } else if (rc == -EPERM || rc == -EACCES || rc == -ENOSYS) {
    forbidden |= !job->threads;
    rc = run_crew(&loop);
  }
  free(loop.slots);
  return rc;
}

/* 0, or -EMEDIUMTYPE where O_DIRECT is accepted and reaches no device, as in a file system that lives in memory.
 * Kernels that do not tell are asked whether the file can leave the page cache. */
static int reaches_device(int fd) {
  return cold_direct(fd) || cold_drop(fd) == 0 ? 0 : -EMEDIUMTYPE;
}

const char *raw_uring_why(int rc) {
  if (rc == -EMEDIUMTYPE) return "refused: here it reaches the page cache, and no device";
  if (rc == -EINVAL) return "refused: this file system has none, only the page cache";
  return strerror(-rc);
}

int raw_uring_open(const char *path, bool write) {
  const int fd = open(path, (write ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
  if (fd < 0) return -errno;
  const int rc = reaches_device(fd);
  if (rc == 0) return fd;
  close(fd);
  return rc;
}

int raw_uring_open_dir(const char *dir, uint64_t least_bytes, struct raw_extent *extents,
                       size_t max) {
  struct dirent **names;
  const int found = scandir(dir, &names, NULL, alphasort);
  if (found < 0) return -errno;
  int count = 0;
  for (int i = 0; i < found; i++) {
    char path[4096];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, names[i]->d_name);
    free(names[i]);
    if (count < 0 || (size_t)count == max || stat(path, &st) != 0 || !S_ISREG(st.st_mode) ||
        (uint64_t)st.st_size < least_bytes)
      continue;
    const int fd = raw_uring_open(path, false);
    if (fd >= 0) {
      /* What is preallocated and was never written reads as zeros, without the device. */
      const off_t written = lseek(fd, 0, SEEK_HOLE);
      extents[count++] = (struct raw_extent){fd, 0, (uint64_t)(written < 0 ? st.st_size : written)};
      continue;
    }
    while (count > 0) close(extents[--count].fd);
    count = fd;
  }
  free(names);
  return count;
}

int raw_uring_create(const char *path, uint64_t bytes) {
  const int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_DIRECT | O_CLOEXEC, 0600);
  if (fd < 0) return -errno;
  int rc = -posix_fallocate(fd, 0, (off_t)bytes);
  const size_t buffer_bytes = (size_t)CREATE_BLOCK_BYTES * CREATE_DEPTH;
  char *buffers = rc == 0 ? measure_memory(buffer_bytes) : NULL;
  if (rc == 0 && buffers == NULL) rc = -ENOMEM;
  if (rc == 0) {
    const struct raw_extent extent = {fd, 0, bytes};
    const struct raw_uring_job job = {.extents = &extent,
                                      .extents_count = 1,
                                      .block_bytes = CREATE_BLOCK_BYTES,
                                      .depth = CREATE_DEPTH,
                                      .total_bytes = bytes,
                                      .write = true,
                                      .buffers = buffers};
    struct raw_uring_result result;
    measure_fill(buffers, buffer_bytes, 1);
    rc = raw_uring_run(&job, &result);
  }
  measure_memory_free(buffers, buffer_bytes);
  if (rc == 0) rc = reaches_device(fd);
  if (rc == 0) return fd;
  close(fd);
  (void)unlink(path);
  return rc;
}
