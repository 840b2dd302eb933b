/* tier/io_threads.c - the preadv/pwritev engine, for where io_uring is forbidden.
 *
 * A pool of workers takes ops from a queue (demand before prefetch) and puts them on a done list. Waking one
 * costs more than many a transfer. So beyond WORKERS_EAGER only as many work as ops wait for them, and no more than
 * WORKERS_MAX: who is done finds the next op there, and neither sleeps nor has to be woken. They block all
 * signals: the host's handlers never run on them, and SIGXFSZ can't kill the process.
 *
 * Nor is the I/O thread woken for what has completed. While it sleeps in reap, whoever is done with an op leads
 * in its place: takes turns with what is done until nothing is, then goes back to the queue. `led` says that somebody
 * does, the I/O thread unless it sleeps; there is never more than one.
 *
 * One lock guards the queues and the lead. Lock order: it is a leaf.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tier/io.h"
#include "tier/lock.h"

#if defined(__SANITIZE_THREAD__)
#define TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TSAN 1
#endif
#endif

#ifdef TSAN
/* Gaps of merged reads all land in one scratch buffer that nobody looks at: a race by design. */
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);
#define SCRATCH_BEGIN(op)                                                                          \
  if ((op)->scratch) AnnotateIgnoreWritesBegin(__FILE__, __LINE__)
#define SCRATCH_END(op)                                                                            \
  if ((op)->scratch) AnnotateIgnoreWritesEnd(__FILE__, __LINE__)
#else
#define SCRATCH_BEGIN(op) (void)0
#define SCRATCH_END(op) (void)0
#endif

#define WORKERS_MAX 16u
#define WORKERS_EAGER 4u

typedef struct list {
  kvstow__op *first, **tail;
} list;

struct kvstow__engine {
  kvstow__mutex lock;  /* guards everything below */
  pthread_cond_t work; /* queue not empty, or stopping */
  /* For the I/O thread: woken, or there is another time until which it may sleep. */
  pthread_cond_t news;
  list queue[2]; /* by kvstow_priority */
  uint32_t queued;
  list done;
  bool led; /* done is empty while nobody leads */
  bool worker_leads;
  uint64_t until_us; /* nobody leads: a turn is due then */
  bool woken;
  bool stopping;
  uint32_t workers, workers_max;
  uint32_t idle, called; /* waiting for work; of those, who were signalled and have not noticed */
  pthread_t threads[WORKERS_MAX];
  kvstow__engine_config config;
};

static void list_init(list *l) {
  l->first = NULL;
  l->tail = &l->first;
}

static void list_push(list *l, kvstow__op *op) {
  op->next = NULL;
  *l->tail = op;
  l->tail = &op->next;
}

static kvstow__op *list_pop(list *l) {
  kvstow__op *op = l->first;
  if (!op) return NULL;
  l->first = op->next;
  if (!l->first) l->tail = &l->first;
  return op;
}

/* ---- one op --------------------------------------------------------------------------------- */

static ssize_t transfer(const kvstow__op *op) {
  const off_t at = (off_t)(op->offset + op->moved);
  if (op->kind == KVSTOW__SYNC) return fdatasync(op->fd);
  if (op->kind == KVSTOW__READ) return preadv(op->fd, op->iov, (int)op->iov_count, at);
  return pwritev(op->fd, op->iov, (int)op->iov_count, at);
}

static void count(_Atomic uint64_t *counter) {
  atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static int perform(kvstow__op *op, kvstow__io_counters *counters) {
  uint32_t attempts = 0;
  for (;;) {
    const ssize_t n = transfer(op);
    if (n < 0) {
      if (errno != EINTR && errno != EAGAIN) return errno;
      if (++attempts > KVSTOW__RETRIES_MAX) return EIO;
      count(&counters->retries);
      continue;
    }
    if (op->kind == KVSTOW__SYNC || op->moved + (uint64_t)n >= op->length - op->slack) return 0;
    count(&counters->short_ios);
    if (n == 0 && op->kind == KVSTOW__READ) return ENODATA; /* end of file */
    if (n == 0 && ++attempts > KVSTOW__RETRIES_MAX) return EIO;
    if (n > 0) attempts = 0;
    kvstow__op_advance(op, (uint64_t)n);
  }
}

/* ---- workers -------------------------------------------------------------------------------- */

static void *work(void *arg);

/* Calls or starts one more worker if there is to be one; `kept` of the queue are the caller's own. lock held, on
 * a thread that blocks all signals (the workers inherit that). */
static void employ(kvstow__engine *engine, uint32_t kept) {
  const uint32_t active = engine->workers - engine->idle + engine->called;
  if (engine->queued <= kept || (active >= WORKERS_EAGER && engine->queued <= active)) return;
  if (engine->idle > engine->called) {
    engine->called++;
    pthread_cond_signal(&engine->work);
  } else if (engine->workers < engine->workers_max &&
             pthread_create(&engine->threads[engine->workers], NULL, work, engine) == 0) {
    pthread_setname_np(engine->threads[engine->workers], "kvstow-worker");
    engine->workers++;
  }
}

/* lock held */
static kvstow__op *take_done(kvstow__engine *engine) {
  kvstow__op *done = engine->done.first;
  list_init(&engine->done);
  engine->woken = false;
  return done;
}

/* Turns in the I/O thread's place, for as long as there is something to do. lock held, but not in a turn. */
static void lead(kvstow__engine *engine) {
  uint64_t until_us = 0;
  bool going = true;
  engine->led = engine->worker_leads = true;
  do {
    kvstow__op *done = take_done(engine);
    kvstow__unlock(&engine->lock);
    going = engine->config.turn(engine->config.turns, done, &until_us);
    kvstow__lock(&engine->lock);
    if (until_us == 0 && engine->queued > 0) employ(engine, 0); /* it will be a while */
  } while (going && (until_us == 0 || engine->done.first || engine->woken));
  engine->led = engine->worker_leads = false;
  engine->until_us = until_us;
  engine->woken = !going; /* the end is the I/O thread's */
  if (!going || until_us != KVSTOW__FOREVER) pthread_cond_signal(&engine->news);
}

static void *work(void *arg) {
  kvstow__engine *engine = arg;
  kvstow__lock(&engine->lock);
  for (;;) {
    kvstow__op *op = list_pop(&engine->queue[KVSTOW_DEMAND]);
    if (!op) op = list_pop(&engine->queue[KVSTOW_PREFETCH]);
    if (!op) {
      if (engine->stopping) break;
      engine->idle++;
      kvstow__wait(&engine->work, &engine->lock);
      engine->idle--;
      if (engine->called > 0) engine->called--;
      continue;
    }
    engine->queued--;
    kvstow__unlock(&engine->lock);
    SCRATCH_BEGIN(op);
    const int error = perform(op, engine->config.counters);
    SCRATCH_END(op);
    kvstow__lock(&engine->lock);
    op->error = error;
    list_push(&engine->done, op);
    if (!engine->led) lead(engine);
  }
  kvstow__unlock(&engine->lock);
  return NULL;
}

static void threads_destroy(kvstow__engine *engine) {
  if (!engine) return;
  kvstow__lock(&engine->lock);
  engine->stopping = true;
  pthread_cond_broadcast(&engine->work);
  kvstow__unlock(&engine->lock);
  for (uint32_t i = 0; i < engine->workers; i++) pthread_join(engine->threads[i], NULL);
  pthread_cond_destroy(&engine->news);
  pthread_cond_destroy(&engine->work);
  kvstow__mutex_finish(&engine->lock);
  free(engine);
}

static int threads_create(void *env, const kvstow__engine_config *config, kvstow__engine **out,
                          char *reason, size_t reason_bytes) {
  (void)env;
  kvstow__engine *engine = calloc(1, sizeof *engine);
  if (!engine) return ENOMEM;
  kvstow__mutex_init(&engine->lock, KVSTOW__RANK_ENGINE);
  pthread_cond_init(&engine->work, NULL);
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&engine->news, &monotonic);
  pthread_condattr_destroy(&monotonic);
  list_init(&engine->queue[KVSTOW_DEMAND]);
  list_init(&engine->queue[KVSTOW_PREFETCH]);
  list_init(&engine->done);
  engine->config = *config;
  engine->led = true;
  engine->workers_max = config->queue_depth < WORKERS_MAX ? config->queue_depth : WORKERS_MAX;
  /* One worker now: without it nothing would ever complete. The others are wishes. */
  const int error = pthread_create(&engine->threads[0], NULL, work, engine);
  if (error) {
    snprintf(reason, reason_bytes, "pthread_create: errno %d", error);
    threads_destroy(engine);
    return error;
  }
  pthread_setname_np(engine->threads[0], "kvstow-worker");
  engine->workers = 1;
  *out = engine;
  return 0;
}

static void threads_submit(kvstow__engine *engine, kvstow__op *ops) {
  kvstow__lock(&engine->lock);
  while (ops) {
    kvstow__op *op = ops;
    ops = op->next;
    op->moved = 0;
    list_push(&engine->queue[op->priority == KVSTOW_PREFETCH], op);
    engine->queued++;
    employ(engine, engine->worker_leads ? 1 : 0);
  }
  kvstow__unlock(&engine->lock);
}

/* lock held; false: it is late enough. */
static bool wait_news(kvstow__engine *engine) {
  const uint64_t until_us = engine->led ? KVSTOW__FOREVER : engine->until_us;
  return kvstow__wait_until(&engine->news, &engine->lock, until_us);
}

static kvstow__op *threads_reap(kvstow__engine *engine, uint64_t until_us) {
  kvstow__lock(&engine->lock);
  if (until_us > 0 && !engine->done.first) {
    bool late = false;
    engine->led = false;
    engine->until_us = until_us;
    while (engine->led || (!engine->woken && !late)) late = !wait_news(engine);
    engine->led = true;
  }
  kvstow__op *done = take_done(engine);
  kvstow__unlock(&engine->lock);
  return done;
}

static void threads_wake(kvstow__engine *engine) {
  kvstow__lock(&engine->lock);
  engine->woken = true;
  if (!engine->led) pthread_cond_signal(&engine->news);
  kvstow__unlock(&engine->lock);
}

const kvstow__engine_ops kvstow__engine_threads = {
    .name = "threads",
    .create = threads_create,
    .destroy = threads_destroy,
    .submit = threads_submit,
    .reap = threads_reap,
    .wake = threads_wake,
};
