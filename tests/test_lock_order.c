/* tests/test_lock_order.c - locks are taken in one order (kvcache/store.h, tier/state.h): every mutex of the
 * library is of the kind of the call that made it, whatever is taken while another is held is noted, and no
 * order of kinds may ever lead back to where it began. A lock of one kind is never taken under another of it.
 *
 * ThreadSanitizer's tree looks for the same; this one runs in all trees, and without its slowness.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>

#include "support/kv.h"

enum { KINDS_MAX = 64, MUTEXES_MAX = 1 << 14, HELD_MAX = 16 };

static atomic_bool noting;
static void *_Atomic kinds[KINDS_MAX]; /* who called pthread_mutex_init */
static struct {
  pthread_mutex_t *_Atomic mutex;
  _Atomic int kind;
} table[MUTEXES_MAX]; /* open addressing; never removed: a mutex made anew gets its new kind */
static atomic_bool under[KINDS_MAX][KINDS_MAX]; /* [a][b]: b was taken while a was held */
static _Thread_local int held[HELD_MAX];
static _Thread_local int held_count;

static size_t slot_of(pthread_mutex_t *mutex) {
  size_t at = (size_t)kv_mix((uintptr_t)mutex) % MUTEXES_MAX;
  for (;; at = (at + 1) % MUTEXES_MAX) {
    pthread_mutex_t *there = atomic_load(&table[at].mutex);
    if (there == NULL && atomic_compare_exchange_strong(&table[at].mutex, &there, mutex)) return at;
    if (there == mutex || there == NULL) return at;
  }
}

static int kind_of_caller(void *caller) {
  for (int i = 1; i < KINDS_MAX; i++) {
    void *there = atomic_load(&kinds[i]);
    if (there == NULL && atomic_compare_exchange_strong(&kinds[i], &there, caller)) return i;
    if (there == caller) return i;
  }
  abort();
}

static bool leads_to(int from, int to, uint64_t been) {
  if (from == to) return true;
  for (int next = 1; next < KINDS_MAX; next++)
    if (under[from][next] && (been >> next & 1) == 0 &&
        leads_to(next, to, been | UINT64_C(1) << next))
      return true;
  return false;
}

static void taken(pthread_mutex_t *mutex) {
  if (!atomic_load(&noting)) return;
  const int kind = atomic_load(&table[slot_of(mutex)].kind);
  for (int i = 0; kind != 0 && i < held_count; i++) {
    const int above = held[i];
    if (above == 0 || atomic_load(&under[above][kind])) continue;
    if (leads_to(kind, above, 0)) {
      fprintf(stderr, "a lock made at %p is taken under one made at %p, and the other way round\n",
              kinds[kind], kinds[above]);
      abort();
    }
    atomic_store(&under[above][kind], true);
  }
  if (held_count < HELD_MAX) held[held_count] = kind;
  held_count++;
}

static void given(pthread_mutex_t *mutex) {
  if (!atomic_load(&noting)) return;
  const int kind = atomic_load(&table[slot_of(mutex)].kind);
  for (int i = held_count; i-- > 0;)
    if (held[i] == kind) {
      memmove(&held[i], &held[i + 1], (size_t)(held_count - i - 1) * sizeof *held);
      held_count--;
      return;
    }
}

int __real_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes);
int __wrap_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes);
int __wrap_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes) {
  atomic_store(&table[slot_of(mutex)].kind, kind_of_caller(__builtin_return_address(0)));
  return __real_pthread_mutex_init(mutex, attributes);
}

int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex) {
  taken(mutex); /* before: a deadlock would never tell */
  return __real_pthread_mutex_lock(mutex);
}

int __real_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex) {
  given(mutex);
  return __real_pthread_mutex_unlock(mutex);
}

/* ---- everything at once --------------------------------------------------------------------- */

static const kv_shape shape = {3, 128, 128, 32, 0}; /* 24 KiB a block */

enum { THREADS = 4, CHAIN = 6, ROUNDS = 120 };

struct worker {
  kvstow *store;
  kvstow_space *space;
  uint64_t number;
};

static void read_queued(struct worker *w, kv_doc *d) {
  kvstow_lease *lease;
  kvstow_queue *queue;
  if (kvstow_match(&d->prefix, KVSTOW_NO_PROMOTE, &lease, NULL) != 0) return;
  const size_t payload = kvstow_space_payload_bytes(w->space);
  char *buffer = kv_pages(payload);
  void *payloads[] = {buffer};
  kvstow_completion done;
  KV_OK(kvstow_queue_create(w->store, &queue));
  KV_OK(kvstow_read_blocks_async(lease, 0, 1, payloads, NULL, KVSTOW_BYPASS_RAM, 0, queue, NULL,
                                 NULL));
  assert_int_equal(kvstow_queue_poll(queue, &done, 1, 60000), 1);
  KV_OK(kvstow_queue_destroy(queue));
  kvstow_lease_release(lease);
  free(buffer);
}

static void *work(void *arg) {
  struct worker *w = arg;
  kv_rng rng = {w->number};
  for (uint64_t i = 0; i < ROUNDS; i++) {
    kv_doc d;
    kv_doc_init(&d, w->space, &shape, 1, kv_below(&rng, 200), CHAIN, NULL, 0);
    KV_OK(kv_doc_store(&d, 0, CHAIN, 0));
    (void)kv_doc_restore(&d, kv_chance(&rng, 50) ? KVSTOW_BYPASS_RAM : 0);
    if (kv_chance(&rng, 20)) read_queued(w, &d);
    if (kv_chance(&rng, 10)) (void)kvstow_forget(&d.prefix, CHAIN / 2, NULL);
    if (kv_chance(&rng, 5)) (void)kvstow_flush(w->store);
    kvstow_pin(&d.prefix, true, NULL);
    kvstow_pin(&d.prefix, false, NULL);
    (void)kv_stats(w->store);
    kv_doc_finish(&d);
  }
  return NULL;
}

static void locks_are_taken_in_one_order(void **state) {
  (void)state;
  const char *dir = kv_dir("order");
  atomic_store(&noting, true);
  for (int life = 0; life < 2; life++) {
    kvstow_options options;
    kv_options(&options, &dir, 8 * KV_MIB, 12 * KV_MIB, KV_MIB);
    kvstow *store = kv_open(&options);
    kvstow_space *space = kv_space(store, "order", &shape);
    struct worker workers[THREADS];
    pthread_t threads[THREADS];
    for (uint64_t i = 0; i < THREADS; i++) {
      workers[i] = (struct worker){store, space, i + 1};
      KV_CHECK(pthread_create(&threads[i], NULL, work, &workers[i]) == 0, "thread");
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    const int rc = kvstow_close(store);
    KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "close: %s", kvstow_errname(rc));
  }
  atomic_store(&noting, false);
  int known = 0, orders = 0;
  for (int a = 1; a < KINDS_MAX; a++) {
    known += kinds[a] != NULL;
    for (int b = 1; b < KINDS_MAX; b++) orders += under[a][b];
  }
  printf("  %d kinds of locks, %d pairs of them nested\n", known, orders);
  KV_CHECK(orders > 3, "nothing was noted");
}

static void the_other_way_round_is_noticed(void **state) {
  (void)state;
  if (KV_TSAN) skip();
  const pid_t pid = kv_fork();
  if (pid == 0) {
    pthread_mutex_t a, b;
    pthread_mutex_init(&a, NULL);
    pthread_mutex_init(&b, NULL);
    atomic_store(&noting, true);
    for (int i = 0; i < 2; i++) {
      pthread_mutex_lock(i ? &b : &a);
      pthread_mutex_lock(i ? &a : &b);
      pthread_mutex_unlock(&a);
      pthread_mutex_unlock(&b);
    }
    _exit(0);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(locks_are_taken_in_one_order),
    cmocka_unit_test(the_other_way_round_is_noticed),
};

KV_MAIN("lock order")
