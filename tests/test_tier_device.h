/* tests/test_tier_device.h - an I/O engine that is told what to do: it carries ops out with the test's own
 * function, does not give back those it is to keep, and gives the others back in any order.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TEST_TIER_DEVICE_H
#define KVSTOW_TEST_TIER_DEVICE_H

#include "test_tier_fixture.h"

#define TOLD_OPS_MAX 4096u

/* carry_out is set before a tier is opened over it. All are called on the I/O thread. */
static struct {
  int (*_Atomic carry_out)(kvstow__op *op);   /* 0 or an errno */
  bool (*_Atomic keep)(const kvstow__op *op); /* NULL: none */
  uint64_t (*_Atomic draw)(uint64_t below); /* how many come back, and which; NULL: all, in order */
  _Atomic uint64_t kept;                    /* ops, so far */
  kvstow__engine *engine;
} the_device;

struct kvstow__engine {
  pthread_mutex_t lock;
  pthread_cond_t news;
  kvstow__op *ready[TOLD_OPS_MAX], *kept[TOLD_OPS_MAX];
  size_t ready_count, kept_count;
  bool woken;
};

static int told_create(void *env, const kvstow__engine_config *config, kvstow__engine **engine,
                       char *reason, size_t reason_bytes) {
  (void)env, (void)config, (void)reason, (void)reason_bytes;
  kvstow__engine *e = calloc(1, sizeof *e);
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_mutex_init(&e->lock, NULL);
  pthread_cond_init(&e->news, &monotonic);
  pthread_condattr_destroy(&monotonic);
  *engine = the_device.engine = e;
  return 0;
}

static void told_destroy(kvstow__engine *e) {
  pthread_cond_destroy(&e->news);
  pthread_mutex_destroy(&e->lock);
  free(e);
}

static void told_submit(kvstow__engine *e, kvstow__op *list) {
  pthread_mutex_lock(&e->lock);
  while (list) {
    kvstow__op *op = list;
    list = op->next;
    assert_true(e->ready_count < TOLD_OPS_MAX && e->kept_count < TOLD_OPS_MAX);
    bool (*const keep)(const kvstow__op *) = the_device.keep;
    if (keep && keep(op)) {
      e->kept[e->kept_count++] = op;
      atomic_fetch_add(&the_device.kept, 1);
    } else {
      e->ready[e->ready_count++] = op;
    }
  }
  pthread_mutex_unlock(&e->lock);
}

/* lock held; false: it is late enough. */
static bool told_wait(kvstow__engine *e, uint64_t until_us) {
  if (until_us == 0) return false;
  const struct timespec until = {(time_t)(until_us / 1000000u), (long)(until_us % 1000000u) * 1000};
  if (until_us != KVSTOW__FOREVER) return pthread_cond_timedwait(&e->news, &e->lock, &until) == 0;
  pthread_cond_wait(&e->news, &e->lock);
  return true;
}

static kvstow__op *told_take(kvstow__engine *e) {
  uint64_t (*const draw)(uint64_t) = the_device.draw;
  const size_t at = draw ? (size_t)draw(e->ready_count) : 0;
  kvstow__op *op = e->ready[at];
  e->ready_count--;
  memmove(&e->ready[at], &e->ready[at + 1], (e->ready_count - at) * sizeof(kvstow__op *));
  return op;
}

static kvstow__op *told_reap(kvstow__engine *e, uint64_t until_us) {
  kvstow__op *done = NULL, **tail = &done;
  pthread_mutex_lock(&e->lock);
  while (e->ready_count == 0 && !e->woken)
    if (!told_wait(e, until_us)) break;
  e->woken = false;
  size_t count = e->ready_count;
  if (count > 0 && the_device.draw) count = 1 + (size_t)the_device.draw(count);
  for (; count > 0; count--) {
    kvstow__op *op = told_take(e);
    op->error = the_device.carry_out(op);
    op->next = NULL;
    *tail = op;
    tail = &op->next;
  }
  pthread_mutex_unlock(&e->lock);
  return done;
}

static void told_wake(kvstow__engine *e) {
  pthread_mutex_lock(&e->lock);
  e->woken = true;
  pthread_cond_signal(&e->news);
  pthread_mutex_unlock(&e->lock);
}

/* Gives back what was kept. Any thread. */
UNUSED static void told_release(void) {
  kvstow__engine *e = the_device.engine;
  pthread_mutex_lock(&e->lock);
  while (e->kept_count > 0) e->ready[e->ready_count++] = e->kept[--e->kept_count];
  pthread_cond_signal(&e->news);
  pthread_mutex_unlock(&e->lock);
}

static const kvstow__engine_ops TOLD = {
    .name = "told",
    .create = told_create,
    .destroy = told_destroy,
    .submit = told_submit,
    .reap = told_reap,
    .wake = told_wake,
};

UNUSED static kvstow_tier *open_told(const kvstow_tier_options *options,
                                     const kvstow__file_ops *files, bool buffered) {
  const kvstow__io io = {
      .files = files, .engines = {&TOLD}, .kinds = {KVSTOW_ENGINE_AUTO}, .buffered = buffered};
  kvstow_tier *tier = NULL;
  char why[KVSTOW_MESSAGE_BYTES];
  const int code = kvstow__tier_open_with(options, &io, &tier, why, sizeof why);
  if (code) fail_msg("open: %s: %s", kvstow_errname(code), why);
  return tier;
}

#endif
