/* What nobody waits for, and what is done ahead: stores while the device takes no writes, and promotions
 * that nobody reads.
 *
 * Device writes go through a pwritev in front of the threads engine's, which can hold them.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>

#include "kvcache/store.h"
#include "support/fixture.h"

static const kv_shape shape = {4, 64, 64, 32, 0}; /* 16 KiB a block */

enum { BLOCK_BYTES = 16 * 1024, RAM = 8 * 1024 * 1024, SEGMENT = 1024 * 1024 };
#define AMPLE (64 * KV_MIB)

/* ---- a device that can be held -------------------------------------------------------------- */

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t let_go = PTHREAD_COND_INITIALIZER;
static bool held_now;

static void hold(bool on) {
  pthread_mutex_lock(&guard);
  held_now = on;
  pthread_cond_broadcast(&let_go);
  pthread_mutex_unlock(&guard);
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset) {
  ssize_t (*real)(int, const struct iovec *, int, off_t) =
      (ssize_t(*)(int, const struct iovec *, int, off_t))dlsym(RTLD_NEXT, "pwritev");
  pthread_mutex_lock(&guard);
  while (held_now) pthread_cond_wait(&let_go, &guard);
  pthread_mutex_unlock(&guard);
  return real(fd, iov, count, offset);
}

/* ---- a store on it -------------------------------------------------------------------------- */

static void set_up(fixture *f) {
  hold(false); /* a test that failed may have left it held */
  fixture_init(f, "held", &shape, RAM, AMPLE, SEGMENT);
  f->options.engine = KVSTOW_ENGINE_THREADS;
  f->options.ram_policy = "lru";       /* which leaves no block alone that nobody asks for */
  f->options.store_timeout_ms = 10000; /* the sooner a store that waits for ever is known */
  open_store(f);
}

static bool nothing_to_demote(const fixture *f) {
  kvs_lock(f->store);
  const uint64_t high = f->store->capacity_bytes / 100 * f->options.high_watermark_pct;
  const bool quiet = !f->store->pressing && kvs_hot_bytes(f->store) <= high &&
                     f->store->writing_bytes == 0 && f->store->clean_bytes > 0 &&
                     f->store->demoting_bytes == 0;
  kvstow__unlock(&f->store->lock);
  return quiet;
}

/* More than it holds, and all that has to leave it is written. */
static void fill_ram(const fixture *f) {
  for (uint64_t doc = 1; doc <= 64; doc++) KV_OK(put(f, doc, 16));
  wait_until(nothing_to_demote, f, "demotion has an end");
}

/* ---- storing -------------------------------------------------------------------------------- */

static void *store_one_more(void *f) {
  KV_OK(put(f, 5000, 1));
  return NULL;
}

static uint64_t waits_before;

static bool somebody_waits(const fixture *f) {
  return kv_stats(f->store).stored_waits > waits_before;
}

/* The last clean or free frame is as good as the first: only the store after it waits. */
static void no_store_waits_while_clean_ram_remains(void **state) {
  (void)state;
  fixture f;
  pthread_t thread;
  set_up(&f);
  fill_ram(&f);
  hold(true);
  const kvstow_stats before = kv_stats(f.store);
  const uint64_t room = before.ram_capacity_blocks - before.dirty_blocks;
  KV_CHECK(room >= before.ram_capacity_blocks / 16, "%" PRIu64 " of %" PRIu64 " frames are clean",
           room, before.ram_capacity_blocks);
  for (uint64_t i = 0; i < room; i++) KV_OK(put(&f, 1000 + i, 1));
  const kvstow_stats full = kv_stats(f.store);
  waits_before = before.stored_waits; /* while it was being filled */
  assert_int_equal(full.stored_waits, waits_before);
  assert_int_equal(full.dirty_blocks, full.ram_capacity_blocks);
  assert_int_equal(pthread_create(&thread, NULL, store_one_more, &f), 0);
  wait_until(somebody_waits, &f, "RAM is full of what has not been written");
  hold(false);
  pthread_join(thread, NULL);
  tear_down(&f);
}

/* ---- promoting ahead ------------------------------------------------------------------------ */

/* Nothing of it is in RAM. */
static kv_doc on_ssd(fixture *f, size_t blocks) {
  KV_OK(put(f, 7000, blocks));
  restart(f);
  return document(f, 7000, blocks);
}

static kvstow_lease *promoted(const kv_doc *d) {
  kvstow_lease *lease = NULL;
  kvstow_held all;
  KV_OK(kvstow_match(&d->prefix, 0, &lease, NULL));
  KV_OK(kvstow_lease_wait(lease, 0, &all));
  assert_int_equal(all.blocks, d->blocks);
  return lease;
}

static kvstow_prefetch_stats chain_stats(const fixture *f) {
  return kv_stats(f->store).prefetch_chain;
}

static void what_was_promoted_and_never_read_is_wasted_once_it_leaves(void **state) {
  (void)state;
  fixture f;
  set_up(&f);
  kv_doc d = on_ssd(&f, 64);
  kvstow_lease *lease = promoted(&d);
  KV_OK(kv_doc_read_blocks(&d, lease, 0, 16, 0, 0));
  KV_OK(kv_doc_read_blocks(&d, lease, 0, 16, 0, 0)); /* used once */
  kvstow_lease_release(lease);
  kvstow_prefetch_stats s = chain_stats(&f);
  assert_int_equal(s.issued, 64);
  assert_int_equal(s.used, 16);
  assert_int_equal(s.wasted, 0); /* somebody may still come */
  fill_ram(&f);
  s = chain_stats(&f);
  assert_int_equal(s.issued, 64);
  assert_int_equal(s.used, 16);
  assert_int_equal(s.wasted, 48);
  kv_doc_finish(&d);
  tear_down(&f);
}

/* A chain twice as long as RAM: as much is promoted as stays there, and not for each who asks anew. */
static void a_chain_longer_than_ram_does_not_push_itself_out(void **state) {
  (void)state;
  fixture f;
  set_up(&f);
  kv_doc d = on_ssd(&f, 2 * RAM / BLOCK_BYTES);
  for (int round = 0; round < 5; round++) {
    kvstow_lease_release(promoted(&d));
    const kvstow_stats s = kv_stats(f.store);
    KV_CHECK(s.prefetch_chain.issued * BLOCK_BYTES <= (uint64_t)RAM * 80 / 100,
             "%" PRIu64 " blocks promoted", s.prefetch_chain.issued);
    KV_CHECK(s.prefetch_chain.issued * BLOCK_BYTES >= (uint64_t)RAM / 2,
             "no more than %" PRIu64 " blocks promoted", s.prefetch_chain.issued);
    assert_int_equal(s.ram_blocks, s.prefetch_chain.issued);
    assert_int_equal(s.prefetch_chain.wasted, 0);
  }
  kv_doc_finish(&d);
  tear_down(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(no_store_waits_while_clean_ram_remains),
      cmocka_unit_test(what_was_promoted_and_never_read_is_wasted_once_it_leaves),
      cmocka_unit_test(a_chain_longer_than_ram_does_not_push_itself_out),
  };
  return cmocka_run_group_tests_name("held device", tests, NULL, NULL);
}
