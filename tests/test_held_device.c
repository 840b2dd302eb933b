/* What nobody waits for, and what is done ahead: stores while the device takes no writes, promotions that nobody
 * reads; calls that are cancelled, or late, while the device answers no reads.
 *
 * Device requests go through a pwritev and a preadv in front of the threads engine's, which can hold them.
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
static bool writes_held, reads_held;

static void set(bool *held, bool on) {
  pthread_mutex_lock(&guard);
  *held = on;
  pthread_cond_broadcast(&let_go);
  pthread_mutex_unlock(&guard);
}

static void hold(bool on) {
  set(&writes_held, on);
}

static void hold_reads(bool on) {
  set(&reads_held, on);
}

static void wait_while(const bool *held) {
  pthread_mutex_lock(&guard);
  while (*held) pthread_cond_wait(&let_go, &guard);
  pthread_mutex_unlock(&guard);
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset) {
  ssize_t (*real)(int, const struct iovec *, int, off_t) =
      (ssize_t(*)(int, const struct iovec *, int, off_t))dlsym(RTLD_NEXT, "pwritev");
  wait_while(&writes_held);
  return real(fd, iov, count, offset);
}

ssize_t preadv(int fd, const struct iovec *iov, int count, off_t offset) {
  ssize_t (*real)(int, const struct iovec *, int, off_t) =
      (ssize_t(*)(int, const struct iovec *, int, off_t))dlsym(RTLD_NEXT, "preadv");
  wait_while(&reads_held);
  return real(fd, iov, count, offset);
}

/* ---- a store on it -------------------------------------------------------------------------- */

static void set_up(fixture *f) {
  hold(false); /* a test that failed may have left it held */
  hold_reads(false);
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

/* ---- a device that answers no reads ---------------------------------------------------------- */

enum { SHORT_MS = 20, LONG_MS = 60000 };

static int result_of_one(kvstow_queue *queue) {
  kvstow_completion done;
  const int count = kvstow_queue_poll(queue, &done, 1, LONG_MS / 2);
  KV_CHECK(count == 1, "no completion: the call waits for the device");
  return done.result;
}

/* Of a lease that is being promoted, and of one that is read past RAM. */
static void who_cancels_or_is_late_is_answered_by_a_mute_device(void **state) {
  (void)state;
  enum { BLOCKS = 8 };
  static char rows[BLOCKS * BLOCK_BYTES];
  const struct iovec to = {rows, sizeof rows};
  fixture f;
  set_up(&f);
  kv_doc d = on_ssd(&f, BLOCKS);
  kvstow_queue *queue;
  kvstow_lease *promoting, *past;
  kvstow_op *op;
  KV_OK(kvstow_queue_create(f.store, &queue));
  hold_reads(true);
  KV_OK(kvstow_match(&d.prefix, KVSTOW_NO_PROMOTE, &past, NULL));
  KV_OK(kvstow_read_async(past, NULL, &to, 1, KVSTOW_BYPASS_RAM, LONG_MS, queue, NULL, &op));
  kvstow_cancel(op);
  KV_RESULT(result_of_one(queue), KVSTOW_ECANCELED);
  KV_OK(kvstow_read_async(past, NULL, &to, 1, KVSTOW_BYPASS_RAM, SHORT_MS, queue, NULL, NULL));
  KV_RESULT(result_of_one(queue), KVSTOW_ETIMEDOUT);
  KV_RESULT(kvstow_read(past, NULL, &to, 1, KVSTOW_BYPASS_RAM, SHORT_MS), KVSTOW_ETIMEDOUT);

  KV_OK(kvstow_match(&d.prefix, 0, &promoting, NULL));
  KV_OK(kvstow_lease_wait_async(promoting, LONG_MS, queue, NULL, &op));
  kvstow_cancel(op);
  KV_RESULT(result_of_one(queue), KVSTOW_ECANCELED);
  KV_OK(kvstow_lease_wait_async(promoting, SHORT_MS, queue, NULL, NULL));
  KV_RESULT(result_of_one(queue), KVSTOW_ETIMEDOUT);
  KV_RESULT(kvstow_lease_wait(promoting, SHORT_MS, NULL), KVSTOW_ETIMEDOUT);
  const kvstow_stats s = kv_stats(f.store);
  assert_int_equal(s.cancels, 2);
  assert_int_equal(s.timeouts, 4);

  hold_reads(false);
  KV_OK(kv_doc_read_blocks(&d, promoting, 0, BLOCKS, 0, 0));
  KV_OK(kv_doc_read_blocks(&d, past, 0, BLOCKS, 0, 0));
  kvstow_lease_release(promoting);
  kvstow_lease_release(past);
  KV_OK(kvstow_queue_destroy(queue));
  kv_doc_finish(&d);
  tear_down(&f);
}

/* Promoted in time or not: a reader who came before is what makes the difference. */
static void what_a_reader_had_to_wait_for_is_late(void **state) {
  (void)state;
  enum { BLOCKS = 8 };
  static char rows[BLOCKS * BLOCK_BYTES];
  const struct iovec to = {rows, sizeof rows};
  for (int wait = 0; wait < 2; wait++) {
    fixture f;
    set_up(&f);
    kv_doc d = on_ssd(&f, BLOCKS);
    kvstow_lease *lease;
    hold_reads(wait);
    KV_OK(kvstow_match(&d.prefix, 0, &lease, NULL));
    if (wait)
      KV_RESULT(kvstow_read(lease, NULL, &to, 1, 0, SHORT_MS), KVSTOW_ETIMEDOUT);
    else
      KV_OK(kvstow_lease_wait(lease, 0, NULL));
    hold_reads(false);
    KV_OK(kv_doc_read_blocks(&d, lease, 0, BLOCKS, 0, 0));
    const kvstow_prefetch_stats s = chain_stats(&f);
    assert_int_equal(s.used, BLOCKS);
    KV_CHECK((s.late > 0) == wait, "%" PRIu64 " late", s.late);
    kvstow_lease_release(lease);
    kv_doc_finish(&d);
    tear_down(&f);
  }
}

/* ---- layers read ahead ----------------------------------------------------------------------- */

enum { LONG_BLOCKS = 440, LAYERS = 4 }; /* RAM takes some 380 of them */

static char layer_rows[LONG_BLOCKS * BLOCK_BYTES / LAYERS];
static const struct iovec layer_to = {layer_rows, sizeof layer_rows};

static kvstow_range whole_layer(uint32_t layer) {
  return (kvstow_range){layer % LAYERS, 1, 0, (size_t)LONG_BLOCKS * shape.block_tokens};
}

static void check_layer(uint32_t layer) {
  uint64_t ids[LONG_BLOCKS];
  const kvstow_range range = whole_layer(layer);
  for (size_t i = 0; i < LONG_BLOCKS; i++) ids[i] = kv_id(1, 7000, i);
  KV_CHECK(kv_read_is(ids, &shape, &range, layer_rows), "wrong bytes in layer %u",
           range.layer_first);
}

static void read_layer(kvstow_lease *lease, uint32_t layer) {
  const kvstow_range range = whole_layer(layer);
  KV_OK(kvstow_read(lease, &range, &layer_to, 1, 0, LONG_MS));
  check_layer(layer);
}

static kvstow_prefetch_stats layer_stats(const fixture *f) {
  return kv_stats(f->store).prefetch_layer;
}

/* Begins reading a layer, and has it looked at once: what is asked for behind it, and is there, is answered
 * later. true: it was all there. */
static bool there_at_once(kvstow_lease *lease, uint32_t layer, kvstow_lease *in_ram,
                          kvstow_queue *queue) {
  static int the_layer, what_is_behind;
  const kvstow_range range = whole_layer(layer);
  kvstow_completion done;
  KV_OK(kvstow_read_async(lease, &range, &layer_to, 1, 0, LONG_MS, queue, &the_layer, NULL));
  KV_OK(kvstow_lease_wait_async(in_ram, LONG_MS, queue, &what_is_behind, NULL));
  assert_int_equal(kvstow_queue_poll(queue, &done, 1, LONG_MS / 2), 1);
  KV_OK(done.result);
  if (done.user == &what_is_behind) return false;
  KV_OK(result_of_one(queue));
  check_layer(layer);
  return true;
}

static void a_layer_that_had_to_be_waited_for_is_late(void **state) {
  (void)state;
  fixture f;
  set_up(&f);
  kv_doc d = on_ssd(&f, LONG_BLOCKS), small = document(&f, 1, 1);
  kvstow_queue *queue;
  kvstow_lease *lease, *in_ram;
  KV_OK(put(&f, 1, 1));
  KV_OK(kvstow_queue_create(f.store, &queue));
  KV_OK(kvstow_match(&small.prefix, 0, &in_ram, NULL));
  KV_OK(kvstow_match(&d.prefix, 0, &lease, NULL));
  uint32_t layer = 0;
  while (layer < 3) read_layer(lease, layer++); /* by now the next one is read ahead */
  KV_CHECK(layer_stats(&f).issued > 0, "no stream");
  hold_reads(true); /* the fourth may have arrived; the one after it can not */
  if (there_at_once(lease, layer, in_ram, queue))
    KV_CHECK(!there_at_once(lease, ++layer, in_ram, queue), "who read it?");
  const uint64_t before = layer_stats(&f).late;
  hold_reads(false);
  KV_OK(result_of_one(queue));
  check_layer(layer++);
  KV_CHECK(layer_stats(&f).late > before, "nobody was late");
  for (unsigned pause_ms = 1;; pause_ms *= 2) { /* given time, all arrives in time */
    const kvstow_prefetch_stats was = layer_stats(&f);
    kv_sleep_ms(pause_ms);
    read_layer(lease, layer++);
    const kvstow_prefetch_stats is = layer_stats(&f);
    if (is.used > was.used && is.late == was.late) break;
    KV_CHECK(pause_ms < 10000, "always late");
  }
  kvstow_lease_release(lease);
  kvstow_lease_release(in_ram);
  KV_OK(kvstow_queue_destroy(queue));
  kv_doc_finish(&d);
  kv_doc_finish(&small);
  tear_down(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(no_store_waits_while_clean_ram_remains),
      cmocka_unit_test(what_was_promoted_and_never_read_is_wasted_once_it_leaves),
      cmocka_unit_test(a_chain_longer_than_ram_does_not_push_itself_out),
      cmocka_unit_test(who_cancels_or_is_late_is_answered_by_a_mute_device),
      cmocka_unit_test(what_a_reader_had_to_wait_for_is_late),
      cmocka_unit_test(a_layer_that_had_to_be_waited_for_is_late),
  };
  return cmocka_run_group_tests_name("held device", tests, NULL, NULL);
}
