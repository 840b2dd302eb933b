/* tests/test_kill.c - kill -9 at random instants.
 *
 * A child stores, flushes, forgets, closes and opens again, from several threads. Beside the store,
 * in memory shared with the parent, it notes what each flush that returned 0 covered and what each
 * forget that returned 0 took away. The parent kills it, opens the store and compares: flushed
 * blocks are there to the last byte, forgotten ones are not, and nothing is wrong.
 *
 * KVSTOW_KILLS sets the kills of each test; in full runs (KVSTOW_TEST_FULL) they are 240 together.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>
#include <sys/mman.h>

#include "support/kv.h"

enum {
  WRITERS = 3,
  CHAIN = 8,       /* blocks of a document */
  CYCLE_DOCS = 10, /* documents of one writer in one life of the child */
  GENERATION = 12, /* kills before the directory is emptied */
  DOCS = GENERATION * WRITERS * CYCLE_DOCS,
  READ_BACK = 6, /* documents of earlier lives read again after a kill */
};

static const kv_shape shape = {4, 128, 128, 64, 0}; /* 64 KiB a block */
static const char fingerprint[] = "kill";

#if KV_TSAN
/* The library's allocator makes its locks anew in a child; TSan takes them for locked twice. */
__attribute__((visibility("default"))) const char *__tsan_default_options(void);
const char *__tsan_default_options(void) {
  return "report_mutex_bugs=0";
}
#endif

/* What the child says of one document. Each field is written before or after the call it tells of, so
 * that a kill in between leaves the weaker statement. */
typedef struct note {
  atomic_uint tried;        /* blocks given to store, before the call */
  atomic_uint stored;       /* after it returned 0 */
  atomic_uint flushed;      /* blocks stored before a flush that returned 0 */
  atomic_uint forget_tried; /* 1 + the block from which on, before the call */
  atomic_uint forget_done;  /* the same, after it returned 0 */
} note;

typedef struct notes {
  atomic_bool ready;
  note docs[DOCS];
} notes;

typedef struct life {
  notes *notes;
  const char *dir;
  uint64_t ram_bytes, ssd_bytes;
  uint32_t segment_bytes;
  kvstow_engine engine;
  kvstow_write_mode mode;
  uint64_t seed;
  int cycle;       /* within the generation */
  uint64_t number; /* of the generation: documents of other generations have other bytes */
  bool forgets;
} life;

typedef struct writer {
  const life *life;
  kvstow *store;
  kvstow_space *space;
  int number;
  kv_rng rng;
  const atomic_bool *stop;
} writer;

static void options_of(const life *l, kvstow_options *options) {
  kv_options(options, &l->dir, l->ram_bytes, l->ssd_bytes, l->segment_bytes);
  if (options->engine == KVSTOW_ENGINE_AUTO) options->engine = l->engine;
  options->write_mode = l->mode;
}

static int doc_of(const life *l, int writer_number, int i) {
  return (l->cycle * WRITERS + writer_number) * CYCLE_DOCS + i;
}

static void doc_init(const life *l, kv_doc *d, kvstow_space *space, int doc) {
  kv_doc_init(d, space, &shape, l->number, l->number * DOCS + (uint64_t)doc, CHAIN, NULL, 0);
}

static void flush(writer *w) {
  unsigned before[DOCS];
  for (int doc = 0; doc < DOCS; doc++) before[doc] = atomic_load(&w->life->notes->docs[doc].stored);
  int rc = kvstow_flush(w->store);
  KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "flush: %s", kvstow_errname(rc));
  if (rc != 0) return;
  for (int doc = 0; doc < DOCS; doc++) {
    unsigned now = atomic_load(&w->life->notes->docs[doc].flushed);
    while (now < before[doc] &&
           !atomic_compare_exchange_weak(&w->life->notes->docs[doc].flushed, &now, before[doc])) {
    }
  }
}

/* Takes away the end of one of the writer's own documents, of this life or an earlier one. */
static void forget(writer *w) {
  life then = *w->life;
  then.cycle = (int)kv_below(&w->rng, (size_t)then.cycle + 1);
  const int doc = doc_of(&then, w->number, (int)kv_below(&w->rng, CYCLE_DOCS));
  note *n = &w->life->notes->docs[doc];
  if (atomic_load(&n->stored) < CHAIN || atomic_load(&n->forget_tried) != 0) return;
  const unsigned from = (unsigned)kv_below(&w->rng, CHAIN);
  kv_doc d;
  doc_init(w->life, &d, w->space, doc);
  atomic_store(&n->forget_tried, from + 1);
  int rc = kvstow_forget(&d.prefix, from, NULL);
  KV_CHECK(rc == 0 || rc == KVSTOW_EBUSY, "forget: %s", kvstow_errname(rc));
  if (rc == 0) atomic_store(&n->forget_done, from + 1);
  kv_doc_finish(&d);
}

static void *write_documents(void *arg) {
  writer *w = arg;
  for (int i = 0; i < CYCLE_DOCS; i++) {
    const int doc = doc_of(w->life, w->number, i);
    note *n = &w->life->notes->docs[doc];
    kv_doc d;
    doc_init(w->life, &d, w->space, doc);
    while (atomic_load(&n->stored) < CHAIN) {
      if (atomic_load(w->stop)) {
        kv_doc_finish(&d);
        return NULL;
      }
      const unsigned done = atomic_load(&n->stored);
      unsigned count = (unsigned)kv_between(&w->rng, 1, 4);
      if (count > CHAIN - done) count = CHAIN - done;
      atomic_store(&n->tried, done + count);
      int rc = kv_doc_store(&d, done, count, 0);
      KV_CHECK(rc == 0, "store: %s", kvstow_errname(rc));
      atomic_store(&n->stored, done + count);
      if (kv_chance(&w->rng, 12)) flush(w);
      if (w->life->forgets && kv_chance(&w->rng, 6)) forget(w);
      if (kv_chance(&w->rng, 10)) kv_sleep_ms((unsigned)kv_below(&w->rng, 8));
    }
    kv_doc_finish(&d);
  }
  while (!atomic_load(w->stop)) { /* enough stored: be busy until the kill */
    flush(w);
    if (w->life->forgets) forget(w);
    kv_doc d;
    doc_init(w->life, &d, w->space, doc_of(w->life, w->number, (int)kv_below(&w->rng, CYCLE_DOCS)));
    (void)kv_doc_restore(&d, 0);
    kv_doc_finish(&d);
  }
  return NULL;
}

__attribute__((noreturn)) static void child(const life *l) {
  kv_rng rng = {l->seed};
  for (;;) {
    kvstow_options options;
    options_of(l, &options);
    char why[KVSTOW_MESSAGE_BYTES] = "";
    kvstow *store = NULL;
    int rc = KVSTOW_EBUSY;
    for (int i = 0; i < 100 && rc == KVSTOW_EBUSY; i++) {
      rc = kvstow_open(&options, &store, why, sizeof why);
      if (rc == KVSTOW_EBUSY) kv_sleep_ms(10);
    }
    KV_CHECK(rc == 0, "open in the child: %s: %s", kvstow_errname(rc), why);
    kvstow_space *space = kv_space(store, fingerprint, &shape);
    atomic_bool stop = false;
    writer writers[WRITERS];
    pthread_t threads[WRITERS];
    for (int i = 0; i < WRITERS; i++) {
      writers[i] = (writer){l, store, space, i, {kv_next(&rng)}, &stop};
      KV_CHECK(pthread_create(&threads[i], NULL, write_documents, &writers[i]) == 0, "thread");
    }
    atomic_store(&l->notes->ready, true);
    kv_sleep_ms((unsigned)kv_between(&rng, 20, 160));
    atomic_store(&stop, true);
    for (int i = 0; i < WRITERS; i++) pthread_join(threads[i], NULL);
    rc = kvstow_close(store); /* an orderly close flushes */
    KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "close: %s", kvstow_errname(rc));
    if (rc == 0)
      for (int doc = 0; doc < DOCS; doc++)
        atomic_store(&l->notes->docs[doc].flushed, atomic_load(&l->notes->docs[doc].stored));
  }
}

/* Compares one document with its note. `all`: nothing can have been evicted. */
static size_t check_doc(const life *l, kvstow *store, kvstow_space *space, int doc, bool all,
                        uint32_t flags) {
  note *n = &l->notes->docs[doc];
  unsigned least = atomic_load(&n->flushed), most = atomic_load(&n->tried);
  const unsigned trying = atomic_load(&n->forget_tried), done = atomic_load(&n->forget_done);
  if (trying != 0 && least > trying - 1) least = trying - 1;
  if (done != 0 && most > done - 1) most = done - 1;
  kv_doc d;
  doc_init(l, &d, space, doc);
  const size_t before = kv_doc_held(&d);
  const size_t good = kv_doc_restore(&d, flags); /* compares every byte */
  const size_t after = kv_doc_held(&d);
  if ((all && good < least) || good > most || before > most || after > most) {
    const kvstow_stats s = kv_stats(store);
    fprintf(stderr,
            "  %" PRIu64 " blocks recovered, %" PRIu64 " corrupt, %" PRIu64
            " failed loads, %" PRIu64 " evicted; %" PRIu64 " segments recovered, %" PRIu64
            " walked, corrupt headers %" PRIu64 ", planes %" PRIu64 ", stale %" PRIu64 "\n",
            s.recovered_blocks, s.corrupt_blocks, s.failed_loads, s.evicted_blocks,
            s.tier.recovered_segments, s.tier.walked_segments, s.tier.corrupt_headers,
            s.tier.corrupt_planes, s.tier.stale_reads);
    KV_FAIL(
        "cycle %d, document %d of cycle %d: %zu blocks held, %zu restored, then %zu held; tried "
        "%u, "
        "stored %u, flushed %u, forgotten from %d (done: %d); %s; in %s",
        l->cycle, doc, doc / (WRITERS * CYCLE_DOCS), before, good, after, atomic_load(&n->tried),
        atomic_load(&n->stored), atomic_load(&n->flushed), (int)trying - 1, (int)done - 1,
        s.tier.engine, l->dir);
  }
  kv_doc_finish(&d);
  /* What was not flushed may be lost; what is there now is flushed by the parent's orderly close. */
  atomic_store(&n->stored, (unsigned)good);
  if (atomic_load(&n->flushed) < good) atomic_store(&n->flushed, (unsigned)good);
  return good;
}

static void kills(const char *name, int count, uint64_t ram_bytes, uint64_t ssd_bytes,
                  uint32_t segment_bytes, bool all) {
  kv_rng rng = kv_seed(name, 1);
  notes *shared =
      mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  assert_true(shared != MAP_FAILED);
  life l = {.notes = shared,
            .ram_bytes = ram_bytes,
            .ssd_bytes = ssd_bytes,
            .segment_bytes = segment_bytes,
            .forgets = true};
  size_t restored = 0, flushed = 0, forgotten = 0, busy = 0, walked = 0;
  const double start = kv_now_s();
  for (int kill_number = 0; kill_number < count; kill_number++) {
    l.cycle = kill_number % GENERATION;
    if (l.cycle == 0) {
      if (l.dir != NULL) kv_dir_drop(l.dir);
      l.dir = kv_dir("kill");
      l.number++;
      memset(shared, 0, sizeof *shared);
    }
    l.engine = kv_chance(&rng, 60) ? KVSTOW_ENGINE_AUTO : KVSTOW_ENGINE_THREADS;
    l.mode = kv_chance(&rng, 60) ? KVSTOW_WRITE_BACK : KVSTOW_WRITE_THROUGH;
    l.seed = kv_next(&rng);
    atomic_store(&shared->ready, false);
    const bool from_ready = kv_chance(&rng, 75);
    const unsigned delay_ms = (unsigned)kv_between(&rng, 1, 150);
    pid_t pid = kv_fork();
    if (pid == 0) child(&l);
    for (int i = 0; from_ready && i < 20000 && !atomic_load(&shared->ready); i++) {
      kv_sleep_ms(1);
      if (i % 100 == 99 && waitpid(pid, NULL, WNOHANG) != 0)
        KV_FAIL("cycle %d: the child ended by itself", l.cycle);
    }
    kv_sleep_ms(delay_ms);
    kill(pid, SIGKILL);
    kv_wait_killed(pid);

    kvstow_options options;
    options_of(&l, &options);
    char why[KVSTOW_MESSAGE_BYTES] = "";
    kvstow *store = NULL;
    int rc = KVSTOW_EBUSY;
    for (int i = 0; i < 300 && rc == KVSTOW_EBUSY; i++) { /* the kernel lets go of rings late */
      rc = kvstow_open(&options, &store, why, sizeof why);
      if (rc == KVSTOW_EBUSY) {
        busy++;
        kv_sleep_ms(10);
      }
    }
    KV_CHECK(rc == 0, "cycle %d: open after the kill: %s: %s", l.cycle, kvstow_errname(rc), why);
    KV_CHECK(kv_dir_bytes(l.dir) <= ssd_bytes, "the directory outgrew its budget");
    kvstow_space *space = kv_space(store, fingerprint, &shape);
    const int now = doc_of(&l, 0, 0);
    for (int doc = now; doc < now + WRITERS * CYCLE_DOCS; doc++) {
      restored += check_doc(&l, store, space, doc, all, doc % 2 ? KVSTOW_BYPASS_RAM : 0);
      flushed += atomic_load(&shared->docs[doc].flushed);
    }
    const bool last = l.cycle == GENERATION - 1 || kill_number == count - 1;
    for (int i = 0; now > 0 && i < (last ? now : READ_BACK * 2); i++) {
      const int doc = last ? i : (int)kv_below(&rng, (size_t)now);
      check_doc(&l, store, space, doc, all, 0);
      if (last) forgotten += atomic_load(&shared->docs[doc].forget_done) != 0;
    }
    const kvstow_stats s = kv_stats(store);
    walked += s.tier.walked_segments;
    /* What a read may find gone: torn writes nobody had flushed, forgets under way at the kill. */
    uint64_t torn = s.corrupt_blocks;
    for (int doc = 0; doc < DOCS; doc++)
      if (atomic_load(&shared->docs[doc].forget_tried) != 0 &&
          atomic_load(&shared->docs[doc].forget_done) == 0)
        torn += CHAIN;
    KV_CHECK(!all || s.evicted_blocks <= torn,
             "%" PRIu64 " blocks evicted, %" PRIu64 " corrupt, %" PRIu64 " failed loads",
             s.evicted_blocks, s.corrupt_blocks, s.failed_loads);
    KV_CHECK(s.leases == 0, "leases left");
    rc = kvstow_close(store);
    KV_CHECK(rc == 0 || (!all && rc == KVSTOW_ENOSPC), "close: %s", kvstow_errname(rc));
  }
  printf(
      "  %d kills in %.1f s: %zu blocks flushed, %zu restored, %zu documents forgotten, %zu "
      "segments "
      "walked, %zu opens waited\n",
      count, kv_now_s() - start, flushed, restored, forgotten, walked, busy);
  KV_CHECK(count < 10 || (flushed > 0 && restored > 0), "the kills came before any flush");
  kv_dir_drop(l.dir);
  munmap(shared, sizeof *shared);
}

static int kills_of_each(int usual) {
  const char *asked = getenv("KVSTOW_TEST_FULL");
  const int full = asked != NULL && *asked != 0 ? 120 : 0;
  return (int)kv_env("KVSTOW_KILLS", (uint64_t)(KV_TSAN || KV_ASAN ? 24 : full ? full : usual));
}

static void flushed_blocks_survive_kill(void **state) {
  (void)state;
  kills("flushed_blocks_survive_kill", kills_of_each(60), 16 * KV_MIB, 768 * KV_MIB, 4 * KV_MIB,
        true);
}

static void nothing_is_wrong_after_kill_under_eviction(void **state) {
  (void)state;
  kills("nothing_is_wrong_after_kill_under_eviction", kills_of_each(50), 8 * KV_MIB,
        10 * KV_MIB + 512 * KV_KIB, KV_MIB, false);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(flushed_blocks_survive_kill),
    cmocka_unit_test(nothing_is_wrong_after_kill_under_eviction),
};

KV_MAIN("kill -9")
