/* tests/test_stream.c - contexts longer than RAM, read layer by layer: the bytes, what the layer predictor
 * does, and when it stops.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/kv.h"

static const kv_shape shape = {8, 128, 128, 64, 0}; /* planes of 16 KiB, 128 KiB a block */

enum { BLOCKS = 192, LAYERS = 8 }; /* 24 MiB in 8 MiB of RAM */

#define RAM (8 * KV_MIB)

typedef struct fixture {
  const char *dir;
  kvstow_options options;
  kvstow *store;
  kvstow_space *space;
  kv_doc doc;
  uint64_t ids[BLOCKS];
  char *bytes;
} fixture;

static size_t layer_bytes(size_t tokens) {
  return tokens * (shape.k_bytes + shape.v_bytes);
}

/* A context on SSD, and nothing of it in RAM. */
static void set_up(fixture *f, uint64_t ram_bytes) {
  memset(f, 0, sizeof *f);
  f->dir = kv_dir("stream");
  kv_options(&f->options, &f->dir, ram_bytes, 256 * KV_MIB, 4 * KV_MIB);
  f->store = kv_open(&f->options);
  f->space = kv_space(f->store, "stream", &shape);
  kv_doc_init(&f->doc, f->space, &shape, 1, 1, BLOCKS, NULL, 0);
  KV_OK(kv_doc_store(&f->doc, 0, BLOCKS, 0));
  KV_OK(kvstow_close(f->store));
  kv_doc_finish(&f->doc);
  f->store = kv_open(&f->options);
  f->space = kv_space(f->store, "stream", &shape);
  kv_doc_init(&f->doc, f->space, &shape, 1, 1, BLOCKS, NULL, 0);
  for (size_t i = 0; i < BLOCKS; i++) f->ids[i] = kv_id(1, 1, i);
  f->bytes = malloc(layer_bytes(BLOCKS * shape.block_tokens) * LAYERS);
  assert_non_null(f->bytes);
}

static void tear_down(fixture *f) {
  kv_doc_finish(&f->doc);
  free(f->bytes);
  KV_OK(kvstow_close(f->store));
  kv_dir_drop(f->dir);
}

static kvstow_lease *match(fixture *f, uint32_t flags) {
  kvstow_lease *lease = NULL;
  kvstow_held held;
  KV_OK(kvstow_match(&f->doc.prefix, flags, &lease, &held));
  assert_int_equal(held.blocks, BLOCKS);
  return lease;
}

static void check(const fixture *f, const kvstow_range *range) {
  KV_CHECK(kv_read_is(f->ids, &shape, range, f->bytes), "wrong bytes: layers %u+%u, tokens %zu+%zu",
           range->layer_first, range->layer_count, range->token_first, range->token_count);
}

static kvstow_range one_layer(uint32_t layer) {
  return (kvstow_range){layer, 1, 0, BLOCKS * shape.block_tokens};
}

static void read_range(fixture *f, kvstow_lease *lease, kvstow_range range, uint32_t flags) {
  struct iovec iov = {f->bytes, kv_read_bytes(&shape, &range)};
  memset(f->bytes, 0xee, iov.iov_len);
  KV_OK(kvstow_read(lease, &range, &iov, 1, flags, 0));
  check(f, &range);
}

static void read_layers(fixture *f, kvstow_lease *lease, unsigned count) {
  for (unsigned i = 0; i < count; i++) read_range(f, lease, one_layer(i % LAYERS), 0);
}

static kvstow_prefetch_stats layer_stats(const fixture *f) {
  return kv_stats(f->store).prefetch_layer;
}

static void set_prefetch(fixture *f, bool on) {
  kvstow_tuning tuning;
  kvstow_get_tuning(f->store, &tuning);
  tuning.enable_prefetch = on;
  KV_OK(kvstow_set_tuning(f->store, &tuning));
}

/* ---- the pattern ---------------------------------------------------------------------------- */

static void third_layer_in_order_starts_reading_ahead(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM);
  kvstow_lease *lease = match(&f, 0);
  read_layers(&f, lease, 2);
  assert_int_equal(layer_stats(&f).issued, 0);
  read_range(&f, lease, one_layer(2), 0);
  KV_CHECK(layer_stats(&f).issued > 0, "the third layer in order began no stream");
  kvstow_lease_release(lease);
  tear_down(&f);
}

static void steps_are_served_from_what_was_read_ahead(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM);
  kvstow_lease *lease = match(&f, 0);
  read_layers(&f, lease, 5 * LAYERS); /* over the end of each step, too */
  const kvstow_prefetch_stats s = layer_stats(&f);
  KV_CHECK(s.issued > 30 * BLOCKS / 4, "%" PRIu64 " planes read ahead", s.issued);
  KV_CHECK(s.used * 10 >= s.issued * 9, "%" PRIu64 " of %" PRIu64 " used", s.used, s.issued);
  KV_CHECK(s.wasted == 0, "%" PRIu64 " wasted", s.wasted);
  kvstow_lease_release(lease);
  const kvstow_prefetch_stats end = layer_stats(&f);
  KV_CHECK(end.used + end.wasted == end.issued,
           "%" PRIu64 " issued, %" PRIu64 " used, %" PRIu64 " wasted", end.issued, end.used,
           end.wasted);
  tear_down(&f);
}

static void only_planes_are_read(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM);
  kvstow_lease *lease = match(&f, 0);
  read_layers(&f, lease, LAYERS); /* what there is room for has come to RAM by then */
  const kvstow_stats before = kv_stats(f.store);
  read_layers(&f, lease, LAYERS);
  const kvstow_stats after = kv_stats(f.store);
  const uint64_t bytes = after.tier.bytes_read - before.tier.bytes_read;
  const uint64_t context = (uint64_t)BLOCKS * LAYERS * (16 + 4) * KV_KIB; /* header pages, too */
  KV_CHECK(bytes < context * 5 / 4, "%" PRIu64 " bytes read for a context of %" PRIu64, bytes,
           context);
  KV_CHECK(after.ram_evictions - before.ram_evictions < BLOCKS / 4, "the step emptied RAM");
  kvstow_lease_release(lease);
  tear_down(&f);
}

static void leaving_the_order_ends_it(void **state) {
  (void)state;
  static const kvstow_range others[] = {
      {6, 1, 0, BLOCKS * 64}, /* a jump */
      {4, 1, 0, BLOCKS * 32}, /* other tokens */
      {4, 2, 0, BLOCKS * 64}, /* two layers */
  };
  fixture f;
  set_up(&f, RAM);
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
    kvstow_lease *lease = match(&f, 0);
    read_layers(&f, lease, 4);
    const kvstow_prefetch_stats on = layer_stats(&f);
    KV_CHECK(on.issued > on.used + on.wasted, "no stream");
    read_range(&f, lease, others[i], 0);
    const kvstow_prefetch_stats off = layer_stats(&f);
    KV_CHECK(off.issued == on.issued && off.used == on.used, "went on after pattern %zu", i);
    KV_CHECK(off.wasted == off.issued - off.used, "%" PRIu64 " wasted", off.wasted);
    read_layers(&f, lease, 4); /* and begins again */
    KV_CHECK(layer_stats(&f).issued > off.issued, "never again");
    kvstow_lease_release(lease);
  }
  tear_down(&f);
}

static void switched_off_it_reads_nothing_ahead(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM);
  set_prefetch(&f, false);
  kvstow_lease *lease = match(&f, 0);
  read_layers(&f, lease, 2 * LAYERS);
  assert_int_equal(layer_stats(&f).issued, 0);
  assert_int_equal(kv_stats(f.store).prefetch_chain.issued, 0);
  set_prefetch(&f, true);
  read_layers(&f, lease, 2 * LAYERS);
  const kvstow_prefetch_stats on = layer_stats(&f);
  KV_CHECK(on.issued > 0, "not switched on");
  set_prefetch(&f, false);
  read_layers(&f, lease, 2 * LAYERS);
  const kvstow_prefetch_stats off = layer_stats(&f);
  KV_CHECK(off.issued == on.issued && off.wasted == off.issued - off.used, "not switched off");
  kvstow_lease_release(lease);
  tear_down(&f);
}

static void what_fits_is_not_streamed(void **state) {
  (void)state;
  fixture f;
  set_up(&f, 64 * KV_MIB);
  kvstow_lease *lease = match(&f, 0);
  KV_OK(kvstow_lease_wait(lease, 0, NULL));
  read_layers(&f, lease, 2 * LAYERS);
  assert_int_equal(layer_stats(&f).issued, 0);
  const kvstow_stats s = kv_stats(f.store);
  KV_CHECK(s.ram_blocks == BLOCKS, "%" PRIu64 " blocks in RAM", s.ram_blocks);
  KV_CHECK(s.prefetch_chain.issued == BLOCKS && s.prefetch_chain.used == BLOCKS,
           "%" PRIu64 " promoted ahead, %" PRIu64 " used", s.prefetch_chain.issued,
           s.prefetch_chain.used);
  kvstow_lease_release(lease);
  tear_down(&f);
}

/* ---- bytes ---------------------------------------------------------------------------------- */

/* Another thread stores: RAM turns over while layers are read, prefetch comes and goes. */
struct pressure {
  fixture *f;
  _Atomic bool stop;
};

static void *press(void *arg) {
  struct pressure *p = arg;
  kv_rng rng = {99};
  for (uint64_t number = 100; !atomic_load(&p->stop); number++) {
    kv_doc d;
    kv_doc_init(&d, p->f->space, &shape, 1, number % 400, 8, NULL, 0);
    (void)kv_doc_store(&d, 0, 8, 0);
    if (kv_chance(&rng, 30)) (void)kv_doc_restore(&d, 0);
    kv_doc_finish(&d);
    if (kv_chance(&rng, 20)) set_prefetch(p->f, kv_chance(&rng, 70));
  }
  return NULL;
}

static void bytes_are_right_under_pressure(void **state) {
  (void)state;
  kv_rng rng = kv_seed("bytes_are_right_under_pressure", 1);
  fixture f;
  set_up(&f, RAM);
  struct pressure p = {.f = &f};
  pthread_t thread;
  kvstow_lease *lease = match(&f, 0);
  assert_int_equal(pthread_create(&thread, NULL, press, &p), 0);
  uint32_t layer = 0;
  for (int turn = 0; turn < (KV_TSAN ? 60 : 200); turn++) {
    kvstow_range range = one_layer(layer);
    if (kv_chance(&rng, 10)) { /* now and then something else */
      range.layer_first = (uint32_t)kv_below(&rng, LAYERS);
      range.layer_count = (uint32_t)kv_between(&rng, 1, LAYERS - range.layer_first);
      range.token_first = kv_below(&rng, BLOCKS * 64);
      range.token_count = kv_between(&rng, 1, BLOCKS * 64 - range.token_first);
    } else {
      layer = (layer + 1) % LAYERS;
    }
    read_range(&f, lease, range, kv_chance(&rng, 10) ? KVSTOW_BYPASS_RAM : 0);
    if (kv_chance(&rng, 3)) {
      kvstow_lease_release(lease);
      lease = match(&f, kv_chance(&rng, 50) ? KVSTOW_NO_PROMOTE : 0);
    }
  }
  atomic_store(&p.stop, true);
  pthread_join(thread, NULL);
  kvstow_lease_release(lease);
  KV_CHECK(kv_stats(f.store).corrupt_blocks == 0, "corrupt");
  tear_down(&f);
}

/* Reads of several layers on one lease at once, through a queue: the window is one read's at a time. */
static void crossing_reads_get_their_own_layers(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM);
  kvstow_lease *lease = match(&f, 0);
  read_layers(&f, lease, 4); /* a stream */
  kvstow_queue *queue;
  KV_OK(kvstow_queue_create(f.store, &queue));
  const size_t bytes = layer_bytes(BLOCKS * shape.block_tokens);
  struct iovec iov[LAYERS];
  kvstow_range range[LAYERS];
  for (int turn = 0; turn < 6; turn++) {
    memset(f.bytes, 0xee, bytes * LAYERS);
    for (uint32_t i = 0; i < LAYERS; i++) {
      range[i] = one_layer((i + 4) % LAYERS);
      iov[i] = (struct iovec){f.bytes + i * bytes, bytes};
      KV_OK(kvstow_read_async(lease, &range[i], &iov[i], 1, turn % 2 ? KVSTOW_BYPASS_RAM : 0, 0,
                              queue, &range[i], NULL));
    }
    for (int left = LAYERS; left > 0;) {
      kvstow_completion c[LAYERS];
      const int count = kvstow_queue_poll(queue, c, LAYERS, 30000);
      KV_CHECK(count > 0, "reads did not complete");
      for (int i = 0; i < count; i++) KV_CHECK(c[i].result == 0, "%s", kvstow_errname(c[i].result));
      left -= count;
    }
    for (uint32_t i = 0; i < LAYERS; i++)
      KV_CHECK(kv_read_is(f.ids, &shape, &range[i], iov[i].iov_base), "wrong bytes, layer %u",
               range[i].layer_first);
  }
  KV_OK(kvstow_queue_destroy(queue));
  kvstow_lease_release(lease);
  tear_down(&f);
}

/* ---- reads past the pool through a queue ---------------------------------------------------- */

static void reads_past_ram_merge_through_a_queue(void **state) {
  (void)state;
  fixture f;
  set_up(&f, RAM);
  kvstow_lease *lease = match(&f, KVSTOW_NO_PROMOTE);
  kvstow_queue *queue;
  KV_OK(kvstow_queue_create(f.store, &queue));
  const size_t payload_bytes = kvstow_space_payload_bytes(f.space);
  char *buffer = kv_pages(BLOCKS * payload_bytes);
  void *payloads[BLOCKS];
  for (size_t i = 0; i < BLOCKS; i++) payloads[i] = buffer + i * payload_bytes;
  const kvstow_stats before = kv_stats(f.store);
  KV_OK(kvstow_read_blocks_async(lease, 0, BLOCKS, payloads, NULL, KVSTOW_BYPASS_RAM, 0, queue,
                                 NULL, NULL));
  kvstow_completion c;
  KV_CHECK(kvstow_queue_poll(queue, &c, 1, 30000) == 1 && c.result == 0, "not read");
  const kvstow_stats after = kv_stats(f.store);
  for (size_t i = 0; i < BLOCKS; i++)
    KV_CHECK(kv_payload_is(f.ids[i], &shape, kvstow_space_plane_bytes(f.space), payloads[i]),
             "wrong bytes in block %zu", i);
  const uint64_t reads = after.tier.device_reads - before.tier.device_reads;
  KV_CHECK(reads * 4 < BLOCKS, "%" PRIu64 " device reads for %d blocks", reads, BLOCKS);
  KV_CHECK(after.ram_blocks == before.ram_blocks, "RAM keeps what it need not");
  free(buffer);
  KV_OK(kvstow_queue_destroy(queue));
  kvstow_lease_release(lease);
  tear_down(&f);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(third_layer_in_order_starts_reading_ahead),
    cmocka_unit_test(steps_are_served_from_what_was_read_ahead),
    cmocka_unit_test(only_planes_are_read),
    cmocka_unit_test(leaving_the_order_ends_it),
    cmocka_unit_test(switched_off_it_reads_nothing_ahead),
    cmocka_unit_test(what_fits_is_not_streamed),
    cmocka_unit_test(bytes_are_right_under_pressure),
    cmocka_unit_test(crossing_reads_get_their_own_layers),
    cmocka_unit_test(reads_past_ram_merge_through_a_queue),
};

KV_MAIN("streams")
