/* tier/io_uring.c - the io_uring engine.
 *
 * One ring, owned by the tier's I/O thread: created, fed and reaped there and nowhere else, so it
 * may be SINGLE_ISSUER with DEFER_TASKRUN (completions are processed only when that thread asks).
 * Other threads reach it through an eventfd that the ring itself reads.
 *
 * Rules kept (docs: facts on io_uring): a success of setup proves little, so opcodes are probed; a
 * short transfer is resubmitted for its remainder; EAGAIN and EINTR are resubmitted, bounded; a
 * partial submit leaves entries in the queue for the next one; a submitted write can't be called
 * back, so ops are owned until their completion. io-wq workers are capped, the ring is hidden from
 * forked children, and descriptors are registered in a sparse table where the kernel has one.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "tier/io.h"

#define IOWQ_WORKERS_MAX 4u
#define ENTER_FAILURES_MAX 1000u /* consecutive; about a second */

struct kvstow__engine {
  struct io_uring ring;
  kvstow__io_counters *counters;
  int wake_fd;
  uint64_t wake_value; /* where the ring reads the eventfd to */
  bool wake_armed;
  bool woken;
  bool registered; /* sparse file table */
  bool dead;       /* the kernel refuses to enter the ring */
  uint32_t slots;
  uint32_t enter_failures;
  kvstow__op *waiting; /* no queue entry free yet; first in, first out */
  kvstow__op **waiting_tail;
  kvstow__op **in_ring; /* ops the kernel may own, to fail them if the ring dies */
  uint32_t in_ring_count, in_ring_max;
};

static const unsigned SETUP_FLAGS[] = {
    IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
    IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN,
    IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN,
    IORING_SETUP_SUBMIT_ALL,
    0,
};

static int setup_ring(struct io_uring *ring, unsigned entries) {
  int error = EINVAL;
  for (size_t i = 0; i < sizeof SETUP_FLAGS / sizeof *SETUP_FLAGS && error == EINVAL; i++)
    error = -io_uring_queue_init(entries, ring, SETUP_FLAGS[i]);
  return error;
}

static bool has_opcodes(struct io_uring *ring) {
  static const int needed[] = {IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV, IORING_OP_WRITEV,
                               IORING_OP_FSYNC};
  struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
  if (!probe) return false;
  bool all = true;
  for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
    all = all && io_uring_opcode_supported(probe, needed[i]);
  io_uring_free_probe(probe);
  return all;
}

static const char *setup_hint(int error) {
  switch (error) {
    case EPERM:
      return "forbidden: seccomp (containers) or kernel.io_uring_disabled";
    case EACCES:
      return "forbidden by a security policy";
    case ENOSYS:
      return "this kernel has no io_uring, or seccomp hides it";
    case ENOMEM:
      return "no memory for the ring (RLIMIT_MEMLOCK on old kernels)";
    default:
      return "setup refused";
  }
}

static uint32_t power_of_two_at_least(uint32_t value) {
  uint32_t power = 1;
  while (power < value && power < 4096) power *= 2;
  return power;
}

static void uring_destroy(kvstow__engine *engine) {
  if (!engine) return;
  io_uring_queue_exit(&engine->ring);
  if (engine->wake_fd >= 0) close(engine->wake_fd);
  free(engine->in_ring);
  free(engine);
}

static int uring_create(void *env, const kvstow__engine_config *config, kvstow__engine **out,
                        char *reason, size_t reason_bytes) {
  (void)env;
  kvstow__engine *engine = calloc(1, sizeof *engine);
  if (!engine) return ENOMEM;
  engine->waiting_tail = &engine->waiting;
  engine->counters = config->counters;
  /* one entry more for the wake-up read */
  int error = setup_ring(&engine->ring, power_of_two_at_least(config->queue_depth + 1));
  if (error) {
    snprintf(reason, reason_bytes, "io_uring_setup: %s (errno %d)", setup_hint(error), error);
    free(engine);
    return error;
  }
  engine->wake_fd = -1;
  engine->in_ring_max = config->queue_depth;
  engine->in_ring = calloc(engine->in_ring_max, sizeof *engine->in_ring);
  if (!engine->in_ring) {
    uring_destroy(engine);
    return ENOMEM;
  }
  if (!has_opcodes(&engine->ring)) {
    snprintf(reason, reason_bytes, "this kernel's io_uring lacks read, write or fsync");
    uring_destroy(engine);
    return ENOSYS;
  }
  engine->wake_fd = eventfd(0, EFD_CLOEXEC);
  if (engine->wake_fd < 0) {
    error = errno;
    snprintf(reason, reason_bytes, "eventfd: errno %d", error);
    uring_destroy(engine);
    return error;
  }
  io_uring_ring_dontfork(&engine->ring);
  unsigned workers[2] = {IOWQ_WORKERS_MAX, IOWQ_WORKERS_MAX};
  io_uring_register_iowq_max_workers(&engine->ring, workers);
  engine->slots = config->slots;
  engine->registered = io_uring_register_files_sparse(&engine->ring, config->slots) == 0;
  *out = engine;
  return 0;
}

static void uring_attach(kvstow__engine *engine, uint32_t slot, int fd) {
  if (!engine->registered || slot >= engine->slots) return;
  /* A table that refuses an entry would serve an old file under a new name: stop using it. */
  if (io_uring_register_files_update(&engine->ring, slot, &fd, 1) != 1) {
    engine->registered = false;
    engine->slots = 0;
  }
}

/* ---- submission ----------------------------------------------------------------------------- */

static void prepare(kvstow__engine *engine, struct io_uring_sqe *sqe, kvstow__op *op) {
  const bool fixed = engine->registered && op->slot < engine->slots;
  const int fd = fixed ? (int)op->slot : op->fd;
  const uint64_t offset = op->offset + op->moved;
  if (op->kind == KVSTOW__SYNC)
    io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
  else if (op->kind == KVSTOW__READ && op->iov_count == 1)
    io_uring_prep_read(sqe, fd, op->iov->iov_base, (unsigned)op->iov->iov_len, offset);
  else if (op->kind == KVSTOW__READ)
    io_uring_prep_readv(sqe, fd, op->iov, op->iov_count, offset);
  else if (op->iov_count == 1)
    io_uring_prep_write(sqe, fd, op->iov->iov_base, (unsigned)op->iov->iov_len, offset);
  else
    io_uring_prep_writev(sqe, fd, op->iov, op->iov_count, offset);
  if (fixed) io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
  io_uring_sqe_set_data(sqe, op);
}

static void arm_wake(kvstow__engine *engine) {
  if (engine->wake_armed) return;
  struct io_uring_sqe *sqe = io_uring_get_sqe(&engine->ring);
  if (!sqe) return;
  io_uring_prep_read(sqe, engine->wake_fd, &engine->wake_value, sizeof engine->wake_value, 0);
  io_uring_sqe_set_data(sqe, NULL);
  engine->wake_armed = true;
}

static void enqueue(kvstow__engine *engine, kvstow__op *op) {
  op->next = NULL;
  *engine->waiting_tail = op;
  engine->waiting_tail = &op->next;
}

/* Moves waiting ops into queue entries as far as there are any. */
static void fill_ring(kvstow__engine *engine) {
  arm_wake(engine);
  while (engine->waiting && engine->in_ring_count < engine->in_ring_max) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(&engine->ring);
    if (!sqe) return;
    kvstow__op *op = engine->waiting;
    engine->waiting = op->next;
    if (!engine->waiting) engine->waiting_tail = &engine->waiting;
    prepare(engine, sqe, op);
    op->place = engine->in_ring_count;
    engine->in_ring[engine->in_ring_count++] = op;
  }
}

static void uring_submit(kvstow__engine *engine, kvstow__op *list) {
  while (list) {
    kvstow__op *op = list;
    list = op->next;
    op->moved = 0;
    op->attempts = 0;
    op->error = 0;
    enqueue(engine, op);
  }
  fill_ring(engine);
  /* Whatever is not taken now stays in the queue for the next enter. */
  if (!engine->dead) io_uring_submit(&engine->ring);
}

/* ---- completion ----------------------------------------------------------------------------- */

static void leave_ring(kvstow__engine *engine, const kvstow__op *op) {
  kvstow__op *last = engine->in_ring[--engine->in_ring_count];
  engine->in_ring[op->place] = last;
  last->place = op->place;
}

/* True if the op is done; else it has been queued again. */
static bool settle(kvstow__engine *engine, kvstow__op *op, int result) {
  leave_ring(engine, op);
  if (result == -EAGAIN || result == -EINTR) {
    if (++op->attempts > KVSTOW__RETRIES_MAX) {
      op->error = EIO;
      return true;
    }
    atomic_fetch_add_explicit(&engine->counters->retries, 1, memory_order_relaxed);
    enqueue(engine, op);
    return false;
  }
  if (result < 0) {
    op->error = -result;
    return true;
  }
  if (op->kind == KVSTOW__SYNC) return true;
  if (op->moved + (uint64_t)result >= op->length - op->slack) return true;
  atomic_fetch_add_explicit(&engine->counters->short_ios, 1, memory_order_relaxed);
  if (result == 0 && (op->kind == KVSTOW__READ || ++op->attempts > KVSTOW__RETRIES_MAX)) {
    op->error =
        op->kind == KVSTOW__READ ? ENODATA : EIO; /* end of file; a write that stands still */
    return true;
  }
  if (result > 0) op->attempts = 0;
  kvstow__op_advance(op, (uint64_t)result);
  enqueue(engine, op);
  return false;
}

static kvstow__op *collect(kvstow__engine *engine) {
  kvstow__op *done = NULL, **tail = &done;
  struct io_uring_cqe *cqe;
  while (io_uring_peek_cqe(&engine->ring, &cqe) == 0) {
    kvstow__op *op = io_uring_cqe_get_data(cqe);
    const int result = cqe->res;
    io_uring_cqe_seen(&engine->ring, cqe);
    if (!op) {
      engine->wake_armed = false;
      engine->woken = true;
      continue;
    }
    if (!settle(engine, op, result)) continue;
    op->next = NULL;
    *tail = op;
    tail = &op->next;
  }
  return done;
}

/* The kernel has refused io_uring_enter for a second (a seccomp filter set late): nothing will ever
 * complete, so everything is failed rather than waited for. */
static kvstow__op *fail_everything(kvstow__engine *engine) {
  engine->dead = true;
  while (engine->in_ring_count > 0) enqueue(engine, engine->in_ring[--engine->in_ring_count]);
  kvstow__op *all = engine->waiting;
  engine->waiting = NULL;
  engine->waiting_tail = &engine->waiting;
  for (kvstow__op *op = all; op; op = op->next) op->error = EIO;
  return all;
}

/* Gives the kernel what is queued; waits for a completion, but not beyond `until_us`. */
static int enter(kvstow__engine *engine, uint64_t until_us) {
  if (until_us == 0) return io_uring_submit_and_get_events(&engine->ring);
  if (until_us == KVSTOW__FOREVER) return io_uring_submit_and_wait(&engine->ring, 1);
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const uint64_t now_us = (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
  const uint64_t left_us = until_us > now_us ? until_us - now_us : 0;
  struct __kernel_timespec left = {.tv_sec = (long long)(left_us / 1000000u),
                                   .tv_nsec = (long long)(left_us % 1000000u) * 1000};
  struct io_uring_cqe *cqe;
  return io_uring_submit_and_wait_timeout(&engine->ring, &cqe, 1, &left, NULL);
}

static kvstow__op *uring_reap(kvstow__engine *engine, uint64_t until_us) {
  for (;;) {
    if (engine->dead) {
      if (until_us > 0 && !engine->waiting) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
      return fail_everything(engine);
    }
    fill_ring(engine);
    const int result = enter(engine, engine->woken ? 0 : until_us);
    if (result >= 0 || result == -EINTR || result == -EAGAIN || result == -EBUSY ||
        result == -ETIME) {
      engine->enter_failures = 0; /* EAGAIN, EBUSY: reap, then try again */
    } else if (++engine->enter_failures > ENTER_FAILURES_MAX) {
      return fail_everything(engine);
    } else {
      nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    kvstow__op *done = collect(engine);
    if (done || until_us == 0 || result == -ETIME || engine->woken) {
      engine->woken = false;
      return done;
    }
  }
}

static void uring_wake(kvstow__engine *engine) {
  const uint64_t one = 1;
  while (write(engine->wake_fd, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

const kvstow__engine_ops kvstow__engine_uring = {
    .name = "io_uring",
    .create = uring_create,
    .destroy = uring_destroy,
    .attach = uring_attach,
    .submit = uring_submit,
    .reap = uring_reap,
    .wake = uring_wake,
};
