/* tests/test_fault_alloc.c - every allocation fails once, one after the other.
 *
 * Memory, threads, mappings, rings, cipher contexts, descriptors of events and directories are all asked for through the
 * functions below, which refuse the n-th request from when they are armed; n grows until a call gets through
 * without being refused anything. What was refused must come back as a plain error (or as a smaller
 * cache, where that is allowed), lose nothing, leak nothing (AddressSanitizer looks), and leave a store
 * that works.
 *
 * The n-th request is counted over all threads of the library: the demotion thread and the I/O thread meet
 * their share.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/kv.h"

#include <liburing.h>
#include <openssl/evp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

/* ---- requests that fail --------------------------------------------------------------------- */

static atomic_long countdown = -1; /* requests until the one refused; negative: none will be */
static atomic_long refused;        /* so many were */
static _Atomic(void *) refused_at; /* who asked */
static atomic_bool for_good;       /* all after it are refused too */
static long total;

static bool refuse(void *caller) {
  long left = atomic_load(&countdown);
  while (left > 0)
    if (atomic_compare_exchange_weak(&countdown, &left, left - 1)) break;
  if (left < 0 || left > 1) return false;
  if (left == 1 || atomic_load(&for_good)) {
    atomic_store(&refused_at, caller);
    atomic_fetch_add(&refused, 1);
    return true;
  }
  return false;
}

static void arm(long n) {
  atomic_store(&refused, 0);
  atomic_store(&countdown, n);
}

/* How many requests were refused since. */
static long disarm(void) {
  atomic_store(&countdown, -1);
  return atomic_load(&refused);
}

#define CALLER __builtin_return_address(0)
#define WRAP(type, name, parameters, arguments, failure)                                           \
  type __real_##name parameters;                                                                   \
  type __wrap_##name parameters;                                                                   \
  type __wrap_##name parameters {                                                                  \
    if (refuse(CALLER)) return failure;                                                            \
    return __real_##name arguments;                                                                \
  }

static void *no_memory(void) {
  errno = ENOMEM;
  return NULL;
}

static int no_descriptor(void) {
  errno = EMFILE;
  return -1;
}

WRAP(void *, malloc, (size_t bytes), (bytes), no_memory())
WRAP(void *, calloc, (size_t count, size_t bytes), (count, bytes), no_memory())
WRAP(void *, realloc, (void *memory, size_t bytes), (memory, bytes), no_memory())
WRAP(void *, aligned_alloc, (size_t alignment, size_t bytes), (alignment, bytes), no_memory())
WRAP(char *, strdup, (const char *text), (text), no_memory())
WRAP(char *, strndup, (const char *text, size_t bytes), (text, bytes), no_memory())
WRAP(void *, mmap, (void *at, size_t bytes, int protection, int flags, int fd, off_t offset),
     (at, bytes, protection, flags, fd, offset), (errno = ENOMEM, MAP_FAILED))
WRAP(int, pthread_create,
     (pthread_t * thread, const pthread_attr_t *attributes, void *(*body)(void *), void *arg),
     (thread, attributes, body, arg), EAGAIN)
WRAP(int, io_uring_queue_init, (unsigned entries, struct io_uring *ring, unsigned flags),
     (entries, ring, flags), -ENOMEM)
WRAP(int, eventfd, (unsigned value, int flags), (value, flags), no_descriptor())
WRAP(EVP_CIPHER_CTX *, EVP_CIPHER_CTX_new, (void), (), NULL)
WRAP(DIR *, fdopendir, (int fd), (fd), no_memory())

/* ---- what is stored ------------------------------------------------------------------------- */

static const kv_shape shape = {2, 128, 128, 32, 0}; /* 16 KiB a block */

enum { CHAIN = 6, DOCS_KEPT = 12 };

/* A document whose sources are made before anything is refused. */
typedef struct doc {
  kv_doc d;
  char *bytes;
  struct iovec iov[CHAIN];
  kvstow_source sources[CHAIN];
} doc;

static doc doc_new(kvstow_space *space, uint64_t number) {
  doc x;
  kv_doc_init(&x.d, space, &shape, 1, number, CHAIN, NULL, 0);
  const size_t block = kv_block_bytes(0, &shape);
  x.bytes = kv_pages(CHAIN * block);
  for (size_t i = 0; i < CHAIN; i++) {
    kv_fill_block(kv_id(1, number, i), &shape, x.bytes + i * block);
    x.iov[i] = (struct iovec){x.bytes + i * block, block};
  }
  return x;
}

static int doc_store(doc *x) {
  for (size_t i = 0; i < CHAIN; i++) x->sources[i] = (kvstow_source){&x->iov[i], 1};
  return kvstow_store(&x->d.prefix, 0, CHAIN, x->sources, 0, NULL);
}

static void doc_free(doc *x) {
  kv_doc_finish(&x->d);
  free(x->bytes);
}

/* All of it is there, every byte. */
static void doc_is_there(kvstow_space *space, uint64_t number, uint32_t flags) {
  kv_doc d;
  kv_doc_init(&d, space, &shape, 1, number, CHAIN, NULL, 0);
  const size_t good = kv_doc_restore(&d, flags);
  KV_CHECK(good == CHAIN, "document %" PRIu64 ": %zu blocks of %d", number, good, CHAIN);
  kv_doc_finish(&d);
}

static const char *dir;
static kvstow_engine engine;
static bool encrypted;
static uint32_t load_timeout_ms = 60000;

static void options_of(kvstow_options *options) {
  kv_options(options, &dir, 8 * KV_MIB, 24 * KV_MIB, KV_MIB);
  options->ram_policy = "lru"; /* which admits to SSD what nobody ever asked for */
  if (!KV_TSAN) options->engine = engine;
  static const uint8_t key[KVSTOW_KEY_BYTES] = {1, 2, 3};
  if (encrypted) options->encryption_key = key;
  options->populate = false;
  options->load_timeout_ms = load_timeout_ms;
}

static kvstow *open_it(kvstow_space **space) {
  kvstow_options options;
  options_of(&options);
  kvstow *store = kv_open(&options);
  *space = kv_space(store, "alloc", &shape);
  return store;
}

static int no_room_for(int rc) {
  return rc == KVSTOW_ENOMEM || rc == KVSTOW_EFULL;
}

#define SAYS(condition, rc, n)                                                                     \
  KV_CHECK(condition, "request %ld refused at %p: %s", n, atomic_load(&refused_at),                \
           kvstow_errname(rc))

/* Calls `body(arg, n)` with the n-th request armed by it, for n from 1, until nothing was refused three
 * times in a row (threads of the library may be early or late). */
static void for_all(const char *what, long (*body)(void *arg, long n), void *arg) {
  long through = 0, n = 1, met = 0;
  for (; through < 3 && n < 5000; n++) {
    const long count = body(arg, n);
    met += count > 0;
    through = count > 0 ? 0 : through + 1;
  }
  printf("  %s: %ld requests refused\n", what, met);
  total += met;
  KV_CHECK(through == 3, "%s never gets through", what);
}

/* ---- opening -------------------------------------------------------------------------------- */

/* A failed open leaves the store as it was; one that succeeds shows everything. */
static long opens(void *arg, long n) {
  const bool filled = *(const bool *)arg;
  kvstow_options options;
  options_of(&options);
  char why[KVSTOW_MESSAGE_BYTES] = "";
  kvstow *store = NULL;
  arm(n);
  const int rc = kvstow_open(&options, &store, why, sizeof why);
  const long count = disarm();
  if (rc != 0) {
    SAYS(count > 0 && store == NULL, rc, n);
    SAYS(rc == KVSTOW_ENOMEM || rc == KVSTOW_EIO || rc == KVSTOW_EUNSUPPORTED, rc, n);
    SAYS(why[0] != 0, rc, n);
    if (!filled) return count;
    store = kv_open(&options);
  }
  kvstow_space *space = kv_space(store, "alloc", &shape);
  for (uint64_t i = 0; filled && i < DOCS_KEPT; i++) {
    kv_doc d;
    kv_doc_init(&d, space, &shape, 1, i, CHAIN, NULL, 0);
    KV_CHECK(kv_doc_held(&d) == CHAIN,
             "request %ld refused at %p: open gives 0, and document %" PRIu64 " has %zu blocks", n,
             atomic_load(&refused_at), i, kv_doc_held(&d));
    kv_doc_finish(&d);
  }
  if (filled && n % 16 == 0)
    for (uint64_t i = 0; i < DOCS_KEPT; i++) doc_is_there(space, i, KVSTOW_BYPASS_RAM);
  KV_OK(kvstow_close(store));
  return count;
}

static void fill(void) {
  kvstow_space *space;
  kvstow *store = open_it(&space);
  for (uint64_t i = 0; i < DOCS_KEPT; i++) {
    doc x = doc_new(space, i);
    KV_OK(doc_store(&x));
    doc_free(&x);
  }
  KV_OK(kvstow_close(store));
}

/* Ends without closing: the last segment must be walked, and read, and sealed. */
static void fill_and_die(void) {
  const pid_t pid = kv_fork();
  if (pid == 0) {
    kvstow_space *space;
    kvstow *store = open_it(&space);
    for (uint64_t i = 0; i < DOCS_KEPT; i++) {
      doc x = doc_new(space, i);
      KV_OK(doc_store(&x));
      doc_free(&x);
    }
    KV_OK(kvstow_flush(store));
    _exit(0);
  }
  assert_int_equal(kv_wait(pid), 0);
}

static void opening_a_new_store(void **state) {
  (void)state;
  bool filled = false;
  dir = kv_dir("alloc");
  for_all("open, new", opens, &filled);
}

static void opening_a_store_that_is_there(void **state) {
  (void)state;
  bool filled = true;
  dir = kv_dir("alloc");
  fill();
  for_all("open", opens, &filled);
}

static long opens_after_a_kill(void *arg, long n) {
  kv_dir_drop(dir);
  dir = kv_dir("alloc");
  fill_and_die();
  return opens(arg, n);
}

static void opening_a_store_after_a_kill(void **state) {
  (void)state;
  if (KV_TSAN || (KV_ASAN && encrypted)) skip(); /* forks, and takes its time */
  bool filled = true;
  dir = kv_dir("alloc");
  for_all("open after a kill", opens_after_a_kill, &filled);
}

/* ---- a store in use ------------------------------------------------------------------------- */

typedef struct world {
  kvstow *store;
  kvstow_space *space;
  uint64_t next; /* document */
  doc x;         /* the one at hand */
} world;

static void begin(world *w) {
  dir = kv_dir("alloc");
  w->store = open_it(&w->space);
  w->next = 100;
  for (uint64_t i = 0; i < DOCS_KEPT; i++) {
    doc x = doc_new(w->space, i);
    KV_OK(doc_store(&x));
    doc_free(&x);
  }
  KV_OK(kvstow_flush(w->store));
}

/* What was stored before is there, now and after a restart. */
static void end(world *w) {
  for (uint64_t i = 0; i < DOCS_KEPT; i++) doc_is_there(w->space, i, KVSTOW_BYPASS_RAM);
  const int flushed = kvstow_flush(w->store); /* tells of a background write that had no memory */
  KV_CHECK(flushed == 0 || flushed == KVSTOW_ENOMEM, "flush: %s", kvstow_errname(flushed));
  KV_OK(kvstow_flush(w->store));
  const kvstow_stats s = kv_stats(w->store);
  KV_CHECK(s.leases == 0 && s.corrupt_blocks == 0, "%" PRIu64 " leases, %" PRIu64 " corrupt blocks",
           s.leases, s.corrupt_blocks);
  KV_OK(kvstow_close(w->store));
  w->store = open_it(&w->space);
  for (uint64_t i = 0; i < DOCS_KEPT; i++) doc_is_there(w->space, i, 0);
  KV_OK(kvstow_close(w->store));
}

/* Forgets what a step has stored, so that all steps find the same. */
static void drop(world *w) {
  KV_OK(kvstow_forget(&w->x.d.prefix, 0, NULL));
  KV_CHECK(kv_doc_held(&w->x.d) == 0, "forgotten blocks are held");
  doc_free(&w->x);
}

static long stores(void *arg, long n) {
  world *w = arg;
  w->x = doc_new(w->space, w->next++);
  arm(n);
  const int rc = doc_store(&w->x);
  const long count = disarm();
  SAYS(rc == 0 || no_room_for(rc), rc, n);
  KV_OK(doc_store(&w->x)); /* what there is of it counts as held */
  doc_is_there(w->space, w->x.d.doc, 0);
  drop(w);
  return count;
}

static long reserves(void *arg, long n) {
  world *w = arg;
  w->x = doc_new(w->space, w->next++);
  kvstow_slot slots[CHAIN];
  memset(slots, 0, sizeof slots);
  arm(n);
  int rc = kvstow_reserve(&w->x.d.prefix, 0, CHAIN, 0, 0, slots);
  const bool reserved = rc == 0;
  if (reserved) {
    for (size_t i = 0; i < CHAIN; i++)
      kv_fill_payload(kv_id(1, w->x.d.doc, i), &shape, kvstow_space_plane_bytes(w->space),
                      slots[i].payload);
    if (n % 5 == 4)
      kvstow_abort(w->store, slots, CHAIN);
    else
      rc = kvstow_commit(w->store, slots, CHAIN);
  }
  const long count = disarm();
  SAYS(rc == 0 || no_room_for(rc), rc, n);
  KV_OK(doc_store(&w->x));
  doc_is_there(w->space, w->x.d.doc, 0);
  drop(w);
  return count;
}

static long grows(void *arg, long n) {
  world *w = arg;
  w->x = doc_new(w->space, w->next++);
  kvstow_prefix empty = w->x.d.prefix;
  empty.tokens_count = 0;
  const size_t rows = shape.block_tokens, row = shape.k_bytes;
  const uint64_t evicted = kv_stats(w->store).evicted_blocks;
  kvstow_seq *seq = NULL;
  arm(n);
  int rc = kvstow_seq_open(&empty, &seq);
  for (size_t i = 0; i < CHAIN && rc == 0; i++) {
    const char *block = w->x.iov[i].iov_base;
    rc = kvstow_seq_tokens(seq, w->x.d.tokens + i * rows, rows);
    for (uint32_t layer = 0; layer < shape.layers && rc == 0; layer++)
      rc = kvstow_seq_append(seq, layer, block + 2 * layer * rows * row,
                             block + (2 * layer + 1) * rows * row, rows);
  }
  const size_t sealed = seq == NULL ? 0 : kvstow_seq_sealed_tokens(seq) / rows;
  kvstow_seq_close(seq);
  const long count = disarm();
  SAYS(rc == 0 || no_room_for(rc), rc, n);
  SAYS(rc != 0 || sealed == CHAIN, rc, n);
  const size_t there = kv_doc_restore(&w->x.d, 0);
  if (there < sealed) /* what has no memory to be written with may be evicted unwritten */
    KV_CHECK(kv_stats(w->store).evicted_blocks > evicted, "a sealed block is not there");
  KV_OK(doc_store(&w->x));
  doc_is_there(w->space, w->x.d.doc, 0);
  drop(w);
  return count;
}

static long flushes(void *arg, long n) {
  world *w = arg;
  w->x = doc_new(w->space, w->next++);
  KV_OK(doc_store(&w->x));
  arm(n);
  const int rc = kvstow_flush(w->store);
  const long count = disarm();
  SAYS(rc == 0 || no_room_for(rc), rc, n);
  KV_OK(kvstow_flush(w->store));
  kvstow_held held;
  KV_OK(kvstow_exists(&w->x.d.prefix, &held));
  KV_CHECK(held.blocks == CHAIN && kv_stats(w->store).dirty_blocks == 0,
           "flushed: %zu of %d held, %" PRIu64 " dirty", held.blocks, CHAIN,
           kv_stats(w->store).dirty_blocks);
  doc_is_there(w->space, w->x.d.doc, 0);
  drop(w);
  return count;
}

/* Pushes all else out of RAM: what is asked for next comes from SSD. */
static void push_out(world *w) {
  for (int i = 0; i < 100; i++) {
    doc x = doc_new(w->space, 1000000 + (uint64_t)i);
    KV_OK(doc_store(&x));
    doc_free(&x);
  }
}

typedef struct reading {
  world w;
  uint32_t flags;
  bool async;
} reading;

static long reads(void *arg, long n) {
  reading *r = arg;
  world *w = &r->w;
  if (n % 8 == 1) push_out(w);
  kv_doc d;
  const uint64_t number = (uint64_t)n % DOCS_KEPT;
  kv_doc_init(&d, w->space, &shape, 1, number, CHAIN, NULL, 0);
  const size_t payload = kvstow_space_payload_bytes(w->space);
  char *buffer = kv_pages(CHAIN * payload);
  void *payloads[CHAIN];
  for (size_t i = 0; i < CHAIN; i++) payloads[i] = buffer + i * payload;
  kvstow_lease *lease = NULL;
  kvstow_queue *queue = NULL;
  arm(n);
  int rc = kvstow_match(&d.prefix, 0, &lease, NULL);
  if (rc == 0 && r->async) {
    rc = kvstow_queue_create(w->store, &queue);
    if (rc == 0)
      rc = kvstow_read_blocks_async(lease, 0, CHAIN, payloads, NULL, r->flags, 0, queue, w, NULL);
    kvstow_completion done;
    if (rc == 0) {
      SAYS(kvstow_queue_poll(queue, &done, 1, 60000) == 1 && done.user == w, rc, n);
      rc = done.result;
    }
  } else if (rc == 0) {
    rc = kvstow_read_blocks(lease, 0, CHAIN, payloads, NULL, r->flags, 0);
  }
  const long count = disarm();
  /* a block that can't be had now is an error or a miss, never wrong bytes */
  SAYS(rc == 0 || no_room_for(rc) || rc == KVSTOW_EMISS || rc == KVSTOW_EIO, rc, n);
  for (size_t i = 0; rc == 0 && i < CHAIN; i++)
    KV_CHECK(
        kv_payload_is(kv_id(1, number, i), &shape, kvstow_space_plane_bytes(w->space), payloads[i]),
        "wrong bytes");
  KV_OK(kvstow_queue_destroy(queue));
  kvstow_lease_release(lease);
  free(buffer);
  kv_doc_finish(&d);
  doc_is_there(w->space, number, r->flags); /* and nothing was lost by that */
  return count;
}

static long forgets(void *arg, long n) {
  world *w = arg;
  w->x = doc_new(w->space, w->next++);
  KV_OK(doc_store(&w->x));
  if (n % 2) KV_OK(kvstow_flush(w->store));
  arm(n);
  const int rc = kvstow_forget(&w->x.d.prefix, 0, NULL);
  const long count = disarm();
  SAYS(rc == 0 || no_room_for(rc), rc, n);
  if (rc == 0) SAYS(kv_doc_held(&w->x.d) == 0, rc, n);
  drop(w);
  return count;
}

static long pins(void *arg, long n) {
  world *w = arg;
  kv_doc d;
  kv_doc_init(&d, w->space, &shape, 1, (uint64_t)n % DOCS_KEPT, CHAIN, NULL, 0);
  kvstow_held held;
  size_t blocks;
  arm(n);
  int rc = kvstow_pin(&d.prefix, true, &blocks);
  if (rc == 0) rc = kvstow_pin(&d.prefix, false, &blocks);
  int also = kvstow_exists(&d.prefix, &held);
  if (rc == 0) rc = also;
  also = kvstow_prefetch(&d.prefix);
  if (rc == 0) rc = also;
  kvstow_space_options options;
  kvstow_space_options_init(&options);
  options.fingerprint = &n;
  options.fingerprint_bytes = sizeof n;
  options.layers = 1;
  options.k_bytes = 64;
  kvstow_space *space;
  also = kvstow_space_open(w->store, &options, &space);
  if (rc == 0) rc = also;
  const long count = disarm();
  SAYS(rc == 0 || no_room_for(rc), rc, n);
  KV_OK(kvstow_pin(&d.prefix, false, &blocks));
  KV_CHECK(kv_stats(w->store).pinned_blocks == 0, "pins are left");
  kv_doc_finish(&d);
  return count;
}

static void with_a_store(const char *what, long (*step)(void *arg, long n)) {
  world w;
  begin(&w);
  for_all(what, step, &w);
  end(&w);
}

static void storing(void **state) {
  (void)state;
  with_a_store("store", stores);
}

static void reserving_and_committing(void **state) {
  (void)state;
  with_a_store("reserve, commit", reserves);
}

static void growing_a_sequence(void **state) {
  (void)state;
  with_a_store("sequence", grows);
}

static void flushing(void **state) {
  (void)state;
  with_a_store("flush", flushes);
}

static void forgetting(void **state) {
  (void)state;
  with_a_store("forget", forgets);
}

static void pinning_and_looking(void **state) {
  (void)state;
  with_a_store("pin, exists, prefetch, space", pins);
}

static void reading_with(const char *what, uint32_t flags, bool async) {
  reading r = {.flags = flags, .async = async};
  begin(&r.w);
  for_all(what, reads, &r);
  end(&r.w);
}

static void restoring(void **state) {
  (void)state;
  reading_with("match, read", 0, false);
  reading_with("match, read past RAM", KVSTOW_BYPASS_RAM, false);
}

static void restoring_asynchronously(void **state) {
  (void)state;
  reading_with("match, read asynchronously", 0, true);
  reading_with("match, read past RAM asynchronously", KVSTOW_BYPASS_RAM, true);
}

/* ---- closing -------------------------------------------------------------------------------- */

/* It ends, whatever it could not do; what had been flushed is there, and all of it if it says 0. */
static long closes(void *arg, long n) {
  (void)arg;
  kvstow_space *space;
  kvstow *store = open_it(&space);
  doc x = doc_new(space, 500 + (uint64_t)n);
  KV_OK(doc_store(&x));
  arm(n);
  const int rc = kvstow_close(store);
  const long count = disarm();
  SAYS(rc == 0 || no_room_for(rc), rc, n);
  store = open_it(&space);
  for (uint64_t i = 0; i < DOCS_KEPT; i += 5) doc_is_there(space, i, 0);
  x.d.prefix.space = x.d.space = space;
  const size_t held = kv_doc_restore(&x.d, 0);
  SAYS(rc != 0 || held == CHAIN, rc, n);
  KV_OK(kvstow_forget(&x.d.prefix, 0, NULL));
  doc_free(&x);
  KV_OK(kvstow_close(store));
  return count;
}

static void closing(void **state) {
  (void)state;
  dir = kv_dir("alloc");
  fill();
  for_all("close", closes, NULL);
}

/* From the n-th request on everything is refused, for a while. What waits for the demotion thread to have
 * memory waits as long as it may, no longer. */
static long starves(void *arg, long n) {
  world *w = arg;
  w->x = doc_new(w->space, w->next++);
  kvstow_lease *lease = NULL;
  atomic_store(&for_good, true);
  arm(n);
  const int stored = doc_store(&w->x);
  const int matched = kvstow_match(&w->x.d.prefix, 0, &lease, NULL);
  const int flushed = kvstow_flush(w->store);
  kvstow_lease_release(lease);
  const int forgotten = kvstow_forget(&w->x.d.prefix, 3, NULL);
  const long count = disarm();
  atomic_store(&for_good, false);
  SAYS(stored == 0 || no_room_for(stored), stored, n);
  SAYS(matched == 0 || no_room_for(matched) || matched == KVSTOW_EMISS, matched, n);
  SAYS(flushed == 0 || no_room_for(flushed) || flushed == KVSTOW_ETIMEDOUT, flushed, n);
  SAYS(forgotten == 0 || no_room_for(forgotten), forgotten, n);
  KV_OK(doc_store(&w->x));
  KV_OK(kvstow_flush(w->store));
  doc_is_there(w->space, w->x.d.doc, 0);
  drop(w);
  return count;
}

static void starving(void **state) {
  (void)state;
  load_timeout_ms = 200;
  with_a_store("no memory at all", starves);
  load_timeout_ms = 60000;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(opening_a_new_store),
    cmocka_unit_test(opening_a_store_that_is_there),
    cmocka_unit_test(opening_a_store_after_a_kill),
    cmocka_unit_test(storing),
    cmocka_unit_test(reserving_and_committing),
    cmocka_unit_test(growing_a_sequence),
    cmocka_unit_test(flushing),
    cmocka_unit_test(forgetting),
    cmocka_unit_test(pinning_and_looking),
    cmocka_unit_test(restoring),
    cmocka_unit_test(restoring_asynchronously),
    cmocka_unit_test(closing),
    cmocka_unit_test(starving),
};

/* What reads and writes the disk: there a record has a cipher's context. */
static const struct CMUnitTest with_key[] = {
    cmocka_unit_test(opening_a_store_that_is_there),
    cmocka_unit_test(opening_a_store_after_a_kill),
    cmocka_unit_test(storing),
    cmocka_unit_test(flushing),
    cmocka_unit_test(forgetting),
    cmocka_unit_test(restoring),
    cmocka_unit_test(closing),
};

int main(int argc, char **argv) {
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  int failed = 0;
  const kvstow_engine engines[] = {KVSTOW_ENGINE_AUTO, KVSTOW_ENGINE_THREADS};
  for (int i = 0; i < (KV_TSAN ? 1 : 2); i++) {
    engine = engines[i];
    failed +=
        cmocka_run_group_tests_name(i ? "allocation, threads" : "allocation", tests, NULL, NULL);
  }
  encrypted = true;
  failed += cmocka_run_group_tests_name("allocation, encrypted", with_key, NULL, NULL);
  return failed;
}
