/* ring.c - see disk.h: the part of liburing and of the kernel behind it that the ring engine uses.
 *
 * Entries are taken when they are submitted, sometimes not all of them; completions come in the order
 * in which the device is done. The read of the eventfd that wakes the engine is answered when somebody
 * has written to it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/shim.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>

#include "tests/sim/disk.h"

typedef struct entry {
  sim_request request;
  struct iovec one; /* of a read or write that has no vector */
  uint64_t user_data;
  struct entry *next;
} entry;

/* What the kernel would keep of a ring. */
typedef struct kernel {
  unsigned sq_head, sq_tail, cq_head, cq_tail;
  entry *flying;
  int *table;
  unsigned table_count;
  int wake_fd;      /* -1: no read of it is under way */
  uint64_t wake_to; /* address */
} kernel;

static kernel *kernel_of(const struct io_uring *ring) {
  return ring->sq.ring_ptr;
}

int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags) {
  if (sim_strikes(SIM_NO_RING)) return sim_disk_draw(2) ? -EPERM : -ENOSYS;
  if (flags != 0 && sim_disk_draw(3) == 0) return -EINVAL; /* an older kernel */
  *ring = (struct io_uring){.flags = flags, .ring_fd = -1, .enter_ring_fd = -1};
  kernel *k = calloc(1, sizeof *k);
  if (!k) abort();
  k->wake_fd = -1;
  ring->sq = (struct io_uring_sq){.khead = &k->sq_head,
                                  .ktail = &k->sq_tail,
                                  .sqes = calloc(entries, sizeof *ring->sq.sqes),
                                  .ring_ptr = k,
                                  .ring_mask = entries - 1,
                                  .ring_entries = entries};
  ring->cq = (struct io_uring_cq){.khead = &k->cq_head,
                                  .ktail = &k->cq_tail,
                                  .cqes = calloc(2 * (size_t)entries, sizeof *ring->cq.cqes),
                                  .ring_mask = 2 * entries - 1,
                                  .ring_entries = 2 * entries};
  if (!ring->sq.sqes || !ring->cq.cqes) abort();
  return 0;
}

void io_uring_queue_exit(struct io_uring *ring) {
  kernel *k = kernel_of(ring);
  free(ring->sq.sqes);
  free(ring->cq.cqes);
  free(k->table);
  free(k);
}

struct io_uring_probe *io_uring_get_probe_ring(struct io_uring *ring) {
  (void)ring;
  struct io_uring_probe *probe =
      calloc(1, sizeof *probe + IORING_OP_LAST * sizeof(struct io_uring_probe_op));
  if (!probe) return NULL;
  probe->last_op = IORING_OP_LAST - 1;
  probe->ops_len = IORING_OP_LAST;
  for (int i = 0; i < IORING_OP_LAST; i++) probe->ops[i].flags = IO_URING_OP_SUPPORTED;
  return probe;
}

void io_uring_free_probe(struct io_uring_probe *probe) {
  free(probe);
}

int io_uring_ring_dontfork(struct io_uring *ring) {
  (void)ring;
  return 0;
}

int io_uring_register_iowq_max_workers(struct io_uring *ring, unsigned *values) {
  (void)ring, (void)values;
  return 0;
}

int io_uring_register_files_sparse(struct io_uring *ring, unsigned count) {
  if (sim_disk_draw(3) == 0) return -EINVAL; /* an older kernel */
  kernel *k = kernel_of(ring);
  k->table = calloc(count, sizeof *k->table);
  if (!k->table) abort();
  k->table_count = count;
  return 0;
}

int io_uring_register_files_update(struct io_uring *ring, unsigned at, const int *fds,
                                   unsigned count) {
  kernel *k = kernel_of(ring);
  if (count != 1 || at >= k->table_count) return -EINVAL;
  if (sim_disk_draw(1000) == 0) return -ENOMEM;
  k->table[at] = fds[0];
  return 1;
}

/* ---- submission ----------------------------------------------------------------------------- */

static void begin(kernel *k, const struct io_uring_sqe *sqe) {
  const bool fixed = (sqe->flags & IOSQE_FIXED_FILE) != 0;
  if (sqe->user_data == 0) { /* the engine's own read of its eventfd */
    k->wake_fd = sqe->fd;
    k->wake_to = sqe->addr;
    return;
  }
  if (fixed && (unsigned)sqe->fd >= k->table_count) abort();
  entry *e = calloc(1, sizeof *e);
  if (!e) abort();
  e->user_data = sqe->user_data;
  e->request.fd = fixed ? k->table[sqe->fd] : sqe->fd;
  e->request.offset = sqe->off;
  e->request.iov = (const struct iovec *)(uintptr_t)sqe->addr;
  e->request.iov_count = sqe->len;
  e->request.kind = sqe->opcode == IORING_OP_FSYNC ? KVSTOW__SYNC
                    : sqe->opcode == IORING_OP_READ || sqe->opcode == IORING_OP_READV
                        ? KVSTOW__READ
                        : KVSTOW__WRITE;
  if (sqe->opcode == IORING_OP_READ || sqe->opcode == IORING_OP_WRITE) {
    e->one = (struct iovec){(void *)(uintptr_t)sqe->addr, sqe->len};
    e->request.iov = &e->one;
    e->request.iov_count = 1;
  } else if (sqe->opcode == IORING_OP_FSYNC) {
    e->request.iov_count = 0;
  }
  sim_request_begin(&e->request);
  e->next = k->flying;
  k->flying = e;
}

int io_uring_submit(struct io_uring *ring) {
  kernel *k = kernel_of(ring);
  sim_yield();
  unsigned count = ring->sq.sqe_tail - k->sq_head;
  if (count > 0 && sim_strikes(SIM_PARTIAL_SUBMIT)) {
    count = (unsigned)sim_disk_draw(count);
    if (count == 0) return sim_disk_draw(2) ? -EAGAIN : -EBUSY;
  }
  for (unsigned i = 0; i < count; i++) begin(k, &ring->sq.sqes[k->sq_head++ & ring->sq.ring_mask]);
  return (int)count;
}

/* ---- completion ----------------------------------------------------------------------------- */

static void answer(struct io_uring *ring, uint64_t user_data, int result) {
  kernel *k = kernel_of(ring);
  if (k->cq_tail - k->cq_head > ring->cq.ring_mask) abort();
  ring->cq.cqes[k->cq_tail++ & ring->cq.ring_mask] =
      (struct io_uring_cqe){.user_data = user_data, .res = result};
}

/* Answers what is done; the time of the next. */
static uint64_t complete(struct io_uring *ring) {
  kernel *k = kernel_of(ring);
  uint64_t next = SIM_FOREVER;
  for (entry **at = &k->flying; *at;) {
    entry *e = *at;
    if (e->request.at_ns > sim_now_ns()) {
      if (e->request.at_ns < next) next = e->request.at_ns;
      at = &e->next;
      continue;
    }
    answer(ring, e->user_data, (int)sim_request_finish(&e->request));
    *at = e->next;
    free(e);
  }
  if (k->wake_fd >= 0 && sim_readable(k->wake_fd)) {
    answer(ring, 0, (int)read(k->wake_fd, (void *)(uintptr_t)k->wake_to, 8));
    k->wake_fd = -1;
  }
  return next;
}

static int submit_and_wait(struct io_uring *ring, unsigned count, uint64_t until_ns) {
  const kernel *k = kernel_of(ring);
  const int submitted = io_uring_submit(ring);
  if (submitted < 0) return submitted;
  for (;;) {
    const uint64_t next = complete(ring);
    const bool in_part = ring->sq.sqe_tail != k->sq_head; /* then the kernel does not wait */
    if (in_part || k->cq_tail - k->cq_head >= count) return submitted;
    if (submitted == 0 && sim_disk_draw(200) == 0) return -EINTR;
    if (sim_now_ns() >= until_ns) return -ETIME;
    sim_block(&sim_descriptors, next < until_ns ? next : until_ns,
              k->flying ? "waits for the disk" : "waits for work");
  }
}

int io_uring_submit_and_wait(struct io_uring *ring, unsigned count) {
  return submit_and_wait(ring, count, SIM_FOREVER);
}

int io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
                                     unsigned count, struct __kernel_timespec *left,
                                     sigset_t *mask) {
  (void)mask;
  *cqe = NULL;
  return submit_and_wait(
      ring, count, sim_now_ns() + (uint64_t)left->tv_sec * 1000000000u + (uint64_t)left->tv_nsec);
}

int io_uring_submit_and_get_events(struct io_uring *ring) {
  const int submitted = io_uring_submit(ring);
  complete(ring);
  return submitted;
}

/* What a look at an empty ring ends in. */
int __io_uring_get_cqe(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned submit,
                       unsigned count, sigset_t *mask) {
  (void)ring, (void)submit, (void)count, (void)mask;
  *cqe = NULL;
  return -EAGAIN;
}
