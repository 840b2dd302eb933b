/* What a flush owes: all that RAM alone holds when it begins.
 *
 * The disk can be stopped: then writes wait.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>

#include "tests/support/fixture.h"
#include "tests/support/object.h"
#include "tests/support/recorder.h"

static const kv_shape shape = {.layers = 2, .k_bytes = 512, .v_bytes = 512, .block_tokens = 32};

/* ---- a disk that can be stopped ---------------------------------------------------------------- */

static pthread_mutex_t disk = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool stopped;
static unsigned waiting;

ssize_t __real_pwritev(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t __wrap_pwritev(int fd, const struct iovec *iov, int count, off_t offset);

ssize_t __wrap_pwritev(int fd, const struct iovec *iov, int count, off_t offset) {
  pthread_mutex_lock(&disk);
  waiting++;
  pthread_cond_broadcast(&changed);
  while (stopped) pthread_cond_wait(&changed, &disk);
  waiting--;
  pthread_mutex_unlock(&disk);
  return __real_pwritev(fd, iov, count, offset);
}

static void stop_disk(bool now) {
  pthread_mutex_lock(&disk);
  stopped = now;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&disk);
}

static void wait_for_a_write(void) {
  pthread_mutex_lock(&disk);
  while (waiting == 0) pthread_cond_wait(&changed, &disk);
  pthread_mutex_unlock(&disk);
}

/* ---- */

static void *flush(void *store) {
  KV_OK(kvstow_flush(store));
  return NULL;
}

/* RAM's policy thinks nothing worth a write, so that what it gives up may go at once. Not what a flush has begun to
 * write: when it returns, that is on SSD. */
static void what_a_flush_owes_is_not_evicted_meanwhile(void **state) {
  (void)state;
  const char *object =
      object_compile(KVSTOW_SOURCE_DIR "/tests/support/recorder.c", kv_dir("flush"), "refuses");
  if (object == NULL) skip();
  void *handle = dlopen(object, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  KV_CHECK(handle != NULL, "%s", dlerror());
  struct recorder *recorder = dlsym(handle, "recorder");
  recorder->refuses = true;

  fixture f;
  fixture_init(&f, "flush", &shape, 8 * KV_MIB, 64 * KV_MIB, (uint32_t)KV_MIB);
  f.options.ram_policy = object;
  f.options.engine = KVSTOW_ENGINE_THREADS;
  open_store(&f);
  enum { DOCS = 200, BLOCKS = 2 }; /* 12.5 MiB */
  for (uint64_t doc = 0; doc < DOCS; doc++) KV_OK(put(&f, doc, BLOCKS));
  size_t before[DOCS], sum = 0;
  for (uint64_t doc = 0; doc < DOCS; doc++) sum += before[doc] = held(&f, doc, BLOCKS);
  assert_int_equal(kv_stats(f.store).demoted_blocks, 0);
  assert_true(sum > 100 && sum < (size_t)DOCS * BLOCKS);

  stop_disk(true);
  pthread_t flusher;
  assert_int_equal(pthread_create(&flusher, NULL, flush, f.store), 0);
  wait_for_a_write();
  for (uint64_t doc = DOCS; doc < DOCS + 100; doc++) {
    kv_doc d = document(&f, doc, BLOCKS);
    const int rc = kv_doc_store(&d, 0, BLOCKS, KVSTOW_NOWAIT);
    assert_true(rc == 0 || rc == KVSTOW_EFULL);
    kv_doc_finish(&d);
  }
  stop_disk(false);
  assert_int_equal(pthread_join(flusher, NULL), 0);

  restart(&f);
  for (uint64_t doc = 0; doc < DOCS; doc++)
    assert_int_equal(get(&f, doc, before[doc] > 0 ? before[doc] : 1, 0), before[doc]);
  tear_down(&f);
}

enum { FIRST_BLOCKS = 12, JUNK = 14 };

static bool first_in_ram(const fixture *f) {
  kv_doc d = document(f, 1, FIRST_BLOCKS);
  kvstow_held held;
  KV_OK(kvstow_exists(&d.prefix, &held));
  kv_doc_finish(&d);
  return held.ram_blocks == FIRST_BLOCKS;
}

/* A document is on SSD and in RAM; what is flushed takes the place of the oldest segment, which is its. */
static void what_makes_room_for_a_flush_is_written_again(void **state) {
  (void)state;
  fixture f;
  fixture_init(&f, "flush-room", &shape, 16 * KV_MIB, 8 * KV_MIB, (uint32_t)KV_MIB);
  f.options.ram_policy = "lru";
  f.options.ssd_policy = "fifo";
  open_store(&f);
  KV_OK(put(&f, 1, FIRST_BLOCKS));
  restart(&f);
  for (uint64_t doc = 2; doc < 7; doc++) { /* a segment each */
    KV_OK(put(&f, doc, JUNK));
    restart(&f);
  }
  kv_doc d = document(&f, 1, FIRST_BLOCKS);
  KV_OK(kvstow_prefetch(&d.prefix)); /* no use */
  kv_doc_finish(&d);
  wait_until(first_in_ram, &f, "the first document in RAM");
  KV_OK(put(&f, 7, 2 * JUNK));
  restart(&f);
  assert_int_equal(get(&f, 7, 2 * JUNK, 0), 2 * JUNK);
  assert_int_equal(get(&f, 1, FIRST_BLOCKS, 0), FIRST_BLOCKS);
  tear_down(&f);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(what_makes_room_for_a_flush_is_written_again),
    cmocka_unit_test(what_a_flush_owes_is_not_evicted_meanwhile),
};

KV_MAIN("flush")
