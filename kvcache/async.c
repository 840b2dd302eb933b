/* async.c - queues of completions, and the calls that complete into them.
 *
 * Two threads serve all queues of a store, made with the first queue. The *poller* owns reads and waits
 * on leases: it never blocks on a device, but looks at its operations again whenever what one waits for
 * has arrived. The *worker* runs, one after another, what may block: stores and flushes. What is
 * cancelled while it waits for the worker is completed by the poller.
 *
 * An operation belongs to a list (poller or worker) under async->lock until it is done, then to its
 * queue until it is polled. Lock order: store->lock before async->lock before a queue's lock; the
 * steps of operations run without any of them.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "kvcache/store.h"
#include "kvcache/thread.h"

enum kind { READ, LEASE_WAIT, STORE, FLUSH };

struct kvstow_op {
  kvstow_op *next;
  kvstow_queue *queue;
  void *user;
  enum kind kind;
  _Atomic bool cancelled;
  uint64_t begun_ns, deadline_us; /* the deadline is a read's or a wait's */
  int result;
  /* READ */
  struct kvs_read_job job;
  /* LEASE_WAIT */
  kvstow_lease *lease;
  size_t lease_next;
  /* STORE */
  kvstow_prefix prefix;
  size_t first, count;
  const kvstow_source *sources;
};

struct op_list {
  kvstow_op *head, **tail;
};

struct kvstow_queue {
  kvstow *store;
  int fd;
  kvstow__mutex lock;
  kvstow_op *done, **done_tail;
  size_t pending; /* begun and not polled */
};

struct kvs_async {
  kvstow *store;
  kvstow__mutex lock;
  pthread_cond_t poller_wake, worker_wake;
  pthread_t poller, worker;
  bool stop;
  uint64_t changes; /* counts kvs_async_wake */
  struct op_list polled, worked;
};

static void list_init(struct op_list *list) {
  list->head = NULL;
  list->tail = &list->head;
}

static void list_push(struct op_list *list, kvstow_op *op) {
  op->next = NULL;
  *list->tail = op;
  list->tail = &op->next;
}

/* ---- completing ----------------------------------------------------------------------------- */

static void complete(kvstow_op *op, int result) {
  kvstow_queue *queue = op->queue;
  kvstow *store = queue->store;
  op->result = result;
  if (op->kind == READ) kvs_read_job_end(&op->job, result, op->begun_ns);
  if (result == KVSTOW_ECANCELED) {
    kvs_lock(store);
    store->count.cancels++;
    kvstow__unlock(&store->lock);
  }
  kvstow__lock(&queue->lock);
  op->next = NULL;
  *queue->done_tail = op;
  queue->done_tail = &op->next;
  const uint64_t one = 1;
  (void)!write(queue->fd, &one, sizeof one); /* an eventfd: only an overflow could block it */
  kvstow__unlock(&queue->lock);
}

/* ---- the poller ----------------------------------------------------------------------------- */

static int late(const kvstow_op *op) {
  kvstow *store = op->queue->store;
  kvs_lock(store);
  store->count.timeouts++;
  kvstow__unlock(&store->lock);
  return KVSTOW_ETIMEDOUT;
}

/* Ends as soon as the device has given the buffers back. */
static int end_read(kvstow_op *op, int why) {
  op->deadline_us = UINT64_MAX;
  kvs_read_job_stop(&op->job, why);
  return kvs_read_job_step(&op->job);
}

/* KVSTOW_EAGAIN: not yet. */
static int step(kvstow_op *op) {
  const bool read = op->kind == READ;
  if (atomic_load(&op->cancelled)) return read ? end_read(op, KVSTOW_ECANCELED) : KVSTOW_ECANCELED;
  const int rc =
      read ? kvs_read_job_step(&op->job) : kvs_lease_poll(op->lease, &op->lease_next, NULL);
  if (rc != KVSTOW_EAGAIN || kvs_now_us() < op->deadline_us) return rc;
  return read ? end_read(op, late(op)) : late(op);
}

static uint64_t earliest(const struct op_list *list) {
  uint64_t deadline = UINT64_MAX;
  for (const kvstow_op *op = list->head; op != NULL; op = op->next)
    if (op->deadline_us < deadline) deadline = op->deadline_us;
  return deadline;
}

/* Moves to `over` what is cancelled while it waits for the worker. async->lock held. */
static void take_cancelled(struct kvs_async *async, struct op_list *over) {
  kvstow_op *op = async->worked.head;
  list_init(&async->worked);
  list_init(over);
  while (op != NULL) {
    kvstow_op *next = op->next;
    list_push(atomic_load(&op->cancelled) ? over : &async->worked, op);
    op = next;
  }
}

static void complete_cancelled(struct op_list *over) {
  for (kvstow_op *op = over->head, *next; op != NULL; op = next) {
    next = op->next;
    complete(op, KVSTOW_ECANCELED);
  }
}

/* Looks at all operations once; those to be looked at again stay. */
static void step_all(struct op_list *mine) {
  kvstow_op *op = mine->head;
  list_init(mine);
  while (op != NULL) {
    kvstow_op *next = op->next;
    const int rc = step(op);
    if (rc == KVSTOW_EAGAIN)
      list_push(mine, op);
    else
      complete(op, rc);
    op = next;
  }
}

static void *poller_main(void *arg) {
  struct kvs_async *async = arg;
  struct op_list mine, over; /* only this thread sees them */
  list_init(&mine);
  uint64_t seen = 0;
  kvstow__lock(&async->lock);
  while (!async->stop) {
    take_cancelled(async, &over);
    if (over.head == NULL && async->polled.head == NULL && seen == async->changes &&
        kvs_now_us() < earliest(&mine)) {
      kvstow__wait_until(&async->poller_wake, &async->lock, earliest(&mine));
      continue;
    }
    seen = async->changes;
    if (async->polled.head != NULL) {
      *mine.tail = async->polled.head;
      mine.tail = async->polled.tail;
      list_init(&async->polled);
    }
    kvstow__unlock(&async->lock);
    complete_cancelled(&over);
    step_all(&mine);
    kvstow__lock(&async->lock);
  }
  kvstow__unlock(&async->lock);
  return NULL;
}

void kvs_async_wake(kvstow *store) {
  struct kvs_async *async = store->async;
  if (async == NULL) return;
  kvstow__lock(&async->lock);
  async->changes++;
  pthread_cond_signal(&async->poller_wake);
  kvstow__unlock(&async->lock);
}

/* ---- the worker ----------------------------------------------------------------------------- */

static int run(kvstow_op *op) {
  if (atomic_load(&op->cancelled)) return KVSTOW_ECANCELED;
  if (op->kind == FLUSH) return kvs_flush(op->queue->store);
  return kvstow_store(&op->prefix, op->first, op->count, op->sources, 0, NULL);
}

static void *worker_main(void *arg) {
  struct kvs_async *async = arg;
  kvstow__lock(&async->lock);
  while (!async->stop) {
    kvstow_op *op = async->worked.head;
    if (op == NULL) {
      kvstow__wait(&async->worker_wake, &async->lock);
      continue;
    }
    async->worked.head = op->next;
    if (async->worked.head == NULL) list_init(&async->worked);
    kvstow__unlock(&async->lock);
    complete(op, run(op));
    kvstow__lock(&async->lock);
  }
  kvstow__unlock(&async->lock);
  return NULL;
}

/* ---- life ----------------------------------------------------------------------------------- */

static int async_create(kvstow *store, struct kvs_async **out) {
  struct kvs_async *async = calloc(1, sizeof *async);
  if (async == NULL) return KVSTOW_ENOMEM;
  async->store = store;
  list_init(&async->polled);
  list_init(&async->worked);
  kvstow__mutex_init(&async->lock, KVS_RANK_ASYNC);
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&async->poller_wake, &monotonic);
  pthread_cond_init(&async->worker_wake, &monotonic);
  pthread_condattr_destroy(&monotonic);
  bool ok = kvs_thread_start(&async->poller, "kvstow-poll", poller_main, async);
  if (ok && !kvs_thread_start(&async->worker, "kvstow-work", worker_main, async)) {
    kvstow__lock(&async->lock);
    async->stop = true;
    pthread_cond_broadcast(&async->poller_wake);
    kvstow__unlock(&async->lock);
    pthread_join(async->poller, NULL);
    ok = false;
  }
  if (!ok) {
    free(async);
    return KVSTOW_ENOMEM;
  }
  *out = async;
  return 0;
}

void kvs_async_destroy(kvstow *store) {
  kvs_lock(store);
  struct kvs_async *async = store->async;
  store->async = NULL; /* completions still to come wake nobody */
  kvstow__unlock(&store->lock);
  if (async == NULL) return;
  kvstow__lock(&async->lock);
  async->stop = true;
  pthread_cond_broadcast(&async->poller_wake);
  pthread_cond_broadcast(&async->worker_wake);
  kvstow__unlock(&async->lock);
  pthread_join(async->poller, NULL);
  pthread_join(async->worker, NULL);
  pthread_cond_destroy(&async->poller_wake);
  pthread_cond_destroy(&async->worker_wake);
  kvstow__mutex_finish(&async->lock);
  free(async);
}

/* ---- queues --------------------------------------------------------------------------------- */

int kvstow_queue_create(kvstow *store, kvstow_queue **out) {
  if (store == NULL) return KVSTOW_EINVAL;
  if (out == NULL) return kvs_fail(store, KVSTOW_EINVAL, "queue: queue is NULL");
  *out = NULL;
  kvstow_queue *queue = calloc(1, sizeof *queue);
  if (queue == NULL) return KVSTOW_ENOMEM;
  queue->store = store;
  queue->done_tail = &queue->done;
  queue->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (queue->fd < 0) {
    free(queue);
    return kvs_fail(store, KVSTOW_ENOMEM, "queue: no descriptor for an eventfd");
  }
  kvstow__mutex_init(&queue->lock, KVS_RANK_QUEUE);
  kvs_lock(store);
  const int rc = store->async != NULL ? 0 : async_create(store, &store->async);
  if (rc == 0) store->queues++;
  kvstow__unlock(&store->lock);
  if (rc != 0) {
    close(queue->fd);
    free(queue);
    return rc;
  }
  *out = queue;
  return 0;
}

int kvstow_queue_destroy(kvstow_queue *queue) {
  if (queue == NULL) return 0;
  kvstow__lock(&queue->lock);
  const bool busy = queue->pending > 0;
  kvstow__unlock(&queue->lock);
  if (busy) return kvs_fail(queue->store, KVSTOW_EBUSY, "queue: operations are pending");
  kvs_lock(queue->store);
  queue->store->queues--;
  kvstow__unlock(&queue->store->lock);
  kvstow__mutex_finish(&queue->lock);
  close(queue->fd);
  free(queue);
  return 0;
}

int kvstow_queue_fd(const kvstow_queue *queue) {
  return queue == NULL ? -1 : queue->fd;
}

/* Until something has completed, or that time has passed: a signal ends no wait. */
static void wait_readable(int fd, uint32_t timeout_ms) {
  const uint64_t until_us = kvs_now_us() + (uint64_t)timeout_ms * 1000;
  for (uint64_t now_us; (now_us = kvs_now_us()) < until_us;) {
    const uint64_t left_ms = (until_us - now_us + 999) / 1000;
    struct pollfd pollfd = {.fd = fd, .events = POLLIN};
    if (poll(&pollfd, 1, left_ms > INT32_MAX ? INT32_MAX : (int)left_ms) > 0 || errno != EINTR)
      return;
  }
}

int kvstow_queue_poll(kvstow_queue *queue, kvstow_completion *completions, int max,
                      uint32_t timeout_ms) {
  if (queue == NULL) return KVSTOW_EINVAL;
  if (completions == NULL || max <= 0)
    return kvs_fail(queue->store, KVSTOW_EINVAL, "queue: completions %p, max %d",
                    (void *)completions, max);
  wait_readable(queue->fd, timeout_ms);
  int count = 0;
  kvstow__lock(&queue->lock);
  while (count < max && queue->done != NULL) {
    kvstow_op *op = queue->done;
    queue->done = op->next;
    if (queue->done == NULL) queue->done_tail = &queue->done;
    completions[count++] = (kvstow_completion){.user = op->user, .result = op->result};
    queue->pending--;
    free(op);
  }
  uint64_t value;
  if (queue->done == NULL) (void)!read(queue->fd, &value, sizeof value); /* nothing waits now */
  kvstow__unlock(&queue->lock);
  return count;
}

void kvstow_cancel(kvstow_op *op) {
  if (op == NULL) return;
  atomic_store(&op->cancelled, true);
  kvstow *store = op->queue->store;
  kvs_lock(store);
  kvs_async_wake(store);
  kvstow__unlock(&store->lock);
}

/* ---- the twins ------------------------------------------------------------------------------ */

static int check_queue(kvstow *store, const kvstow_queue *queue) {
  if (queue != NULL && queue->store == store) return 0;
  return kvs_fail(store, KVSTOW_EINVAL, "queue: %s", queue == NULL ? "NULL" : "another store's");
}

static kvstow_op *op_new(kvstow_queue *queue, enum kind kind, uint32_t timeout_ms, void *user) {
  kvstow_op *op = calloc(1, sizeof *op);
  if (op == NULL) return NULL;
  op->queue = queue;
  op->kind = kind;
  op->user = user;
  op->begun_ns = kvs_clock(queue->store);
  op->deadline_us = kvs_deadline(queue->store, timeout_ms);
  return op;
}

static int submit(kvstow_op *op, kvstow_op **out) {
  kvstow_queue *queue = op->queue;
  kvstow *store = queue->store;
  kvstow__lock(&queue->lock);
  queue->pending++;
  kvstow__unlock(&queue->lock);
  if (out != NULL) *out = op; /* before it can complete */
  struct kvs_async *async = store->async;
  const bool blocks = op->kind == STORE || op->kind == FLUSH;
  kvstow__lock(&async->lock);
  list_push(blocks ? &async->worked : &async->polled, op);
  pthread_cond_signal(blocks ? &async->worker_wake : &async->poller_wake);
  kvstow__unlock(&async->lock);
  return 0;
}

int kvstow_lease_wait_async(kvstow_lease *lease, uint32_t timeout_ms, kvstow_queue *queue,
                            void *user, kvstow_op **op_out) {
  if (lease == NULL || check_queue(lease->store, queue) != 0) return KVSTOW_EINVAL;
  kvstow_op *op = op_new(queue, LEASE_WAIT, timeout_ms, user);
  if (op == NULL) return KVSTOW_ENOMEM;
  op->lease = lease;
  return submit(op, op_out);
}

static int submit_read(kvstow_op *op, int rc, kvstow_op **op_out) {
  if (rc == 0) return submit(op, op_out);
  free(op);
  return rc;
}

int kvstow_read_async(kvstow_lease *lease, const kvstow_range *range, const struct iovec *iov,
                      int iovcnt, uint32_t flags, uint32_t timeout_ms, kvstow_queue *queue,
                      void *user, kvstow_op **op_out) {
  if (lease == NULL || check_queue(lease->store, queue) != 0) return KVSTOW_EINVAL;
  kvstow_op *op = op_new(queue, READ, timeout_ms, user);
  if (op == NULL) return KVSTOW_ENOMEM;
  const int rc = kvs_read_job_rows(&op->job, lease, range, iov, iovcnt, flags, true);
  return submit_read(op, rc, op_out);
}

int kvstow_read_blocks_async(kvstow_lease *lease, size_t first, size_t count, void *const *payloads,
                             size_t *bytes, uint32_t flags, uint32_t timeout_ms,
                             kvstow_queue *queue, void *user, kvstow_op **op_out) {
  if (lease == NULL || check_queue(lease->store, queue) != 0) return KVSTOW_EINVAL;
  kvstow_op *op = op_new(queue, READ, timeout_ms, user);
  if (op == NULL) return KVSTOW_ENOMEM;
  const int rc = kvs_read_job_blocks(&op->job, lease, first, count, payloads, bytes, flags, true);
  return submit_read(op, rc, op_out);
}

int kvstow_store_async(const kvstow_prefix *prefix, size_t first, size_t count,
                       const kvstow_source *sources, kvstow_queue *queue, void *user,
                       kvstow_op **op_out) {
  if (prefix == NULL || prefix->space == NULL || prefix->size < sizeof *prefix)
    return kvs_prefix_fail(prefix, "store: the prefix's size is not set");
  if (check_queue(prefix->space->store, queue) != 0) return KVSTOW_EINVAL;
  kvstow_op *op = op_new(queue, STORE, 0, user);
  if (op == NULL) return KVSTOW_ENOMEM;
  op->prefix = *prefix;
  op->first = first;
  op->count = count;
  op->sources = sources;
  return submit(op, op_out);
}

int kvstow_flush_async(kvstow *store, kvstow_queue *queue, void *user, kvstow_op **op_out) {
  if (store == NULL || check_queue(store, queue) != 0) return KVSTOW_EINVAL;
  kvstow_op *op = op_new(queue, FLUSH, 0, user);
  if (op == NULL) return KVSTOW_ENOMEM;
  return submit(op, op_out);
}
