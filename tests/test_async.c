/* tests/test_async.c - the asynchronous twins: many in flight, completed through a descriptor,
 * cancelled, too late, and always either right or an error with a name.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <poll.h>
#include <sys/epoll.h>
#include <sys/time.h>

#include "support/kv.h"

static const kv_shape shape = {4, 128, 128, 64, 0}; /* 64 KiB a block */

enum {
  RAM = 8 * 1024 * 1024,
  SEGMENT = 4 * 1024 * 1024,
  DOCS = 24,
  BLOCKS = 16, /* 24 MiB in all: three times the RAM */
  PATIENCE_MS = 120000,
};

typedef struct fixture {
  const char *dir;
  kvstow *store;
  kvstow_space *space;
  kv_doc docs[DOCS];
} fixture;

/* A store with DOCS documents on SSD and, after the restart, nothing in RAM. */
static void cold(fixture *f) {
  memset(f, 0, sizeof *f);
  f->dir = kv_dir("async");
  kvstow_options options;
  kv_options(&options, &f->dir, RAM, 256 * KV_MIB, SEGMENT);
  f->store = kv_open(&options);
  f->space = kv_space(f->store, "async", &shape);
  for (int i = 0; i < DOCS; i++) {
    kv_doc_init(&f->docs[i], f->space, &shape, 1, (uint64_t)i, BLOCKS, NULL, 0);
    KV_OK(kv_doc_store(&f->docs[i], 0, BLOCKS, 0));
    kv_doc_finish(&f->docs[i]);
  }
  KV_OK(kvstow_close(f->store));
  f->store = kv_open(&options);
  f->space = kv_space(f->store, "async", &shape);
  for (int i = 0; i < DOCS; i++)
    kv_doc_init(&f->docs[i], f->space, &shape, 1, (uint64_t)i, BLOCKS, NULL, 0);
}

static void finish(fixture *f) {
  for (int i = 0; i < DOCS; i++) kv_doc_finish(&f->docs[i]);
  KV_OK(kvstow_close(f->store));
  kv_dir_drop(f->dir);
}

static kvstow_lease *leased(kv_doc *d, uint32_t flags) {
  kvstow_lease *lease = NULL;
  kvstow_held held;
  int rc = kvstow_match(&d->prefix, flags, &lease, &held);
  KV_CHECK(rc == 0 && held.blocks == d->blocks, "match: %s, %zu blocks", kvstow_errname(rc),
           rc == 0 ? held.blocks : 0);
  return lease;
}

/* One read in flight, of whole payloads or of rows. */
typedef struct request {
  kv_doc *doc;
  kvstow_lease *lease;
  bool rows;
  size_t first, count; /* blocks */
  kvstow_range range;
  char *buffer;
  void *payloads[BLOCKS];
  struct iovec iov;
  kvstow_op *op;
  int completions, result;
} request;

static void request_init(request *r, kv_doc *doc, kv_rng *rng, uint32_t match_flags) {
  memset(r, 0, sizeof *r);
  r->doc = doc;
  r->lease = leased(doc, match_flags);
  r->rows = kv_chance(rng, 50);
  const size_t payload_bytes = kvstow_space_payload_bytes(doc->space);
  if (r->rows) {
    r->range.layer_first = (uint32_t)kv_below(rng, shape.layers);
    r->range.layer_count = (uint32_t)kv_between(rng, 1, shape.layers - r->range.layer_first);
    r->range.token_first = kv_below(rng, BLOCKS * shape.block_tokens);
    r->range.token_count = kv_between(rng, 1, BLOCKS * shape.block_tokens - r->range.token_first);
    const size_t bytes = kv_read_bytes(&shape, &r->range);
    r->buffer = malloc(bytes);
    memset(r->buffer, 0xee, bytes);
    r->iov = (struct iovec){r->buffer, bytes};
  } else {
    r->first = kv_below(rng, BLOCKS);
    r->count = kv_between(rng, 1, BLOCKS - r->first);
    r->buffer = kv_pages(r->count * payload_bytes);
    memset(r->buffer, 0xee, r->count * payload_bytes);
    for (size_t i = 0; i < r->count; i++) r->payloads[i] = r->buffer + i * payload_bytes;
  }
}

static int request_start(request *r, kvstow_queue *queue, uint32_t flags, uint32_t timeout_ms,
                         bool want_op) {
  if (r->rows)
    return kvstow_read_async(r->lease, &r->range, &r->iov, 1, flags, timeout_ms, queue, r,
                             want_op ? &r->op : NULL);
  return kvstow_read_blocks_async(r->lease, r->first, r->count, r->payloads, NULL, flags,
                                  timeout_ms, queue, r, want_op ? &r->op : NULL);
}

static void request_check(const request *r) {
  if (r->rows) {
    uint64_t ids[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++) ids[i] = kv_id(r->doc->where, r->doc->doc, i);
    KV_CHECK(kv_read_is(ids, &shape, &r->range, r->buffer), "wrong bytes in rows");
    return;
  }
  for (size_t i = 0; i < r->count; i++)
    KV_CHECK(kv_payload_is(kv_id(r->doc->where, r->doc->doc, r->first + i), &shape,
                           kvstow_space_plane_bytes(r->doc->space), r->payloads[i]),
             "wrong bytes in block %zu", r->first + i);
}

static void request_finish(request *r) {
  kvstow_lease_release(r->lease);
  free(r->buffer);
}

/* Takes completions until `count` have come; waits at the descriptor with poll(2). */
static void collect(kvstow_queue *queue, size_t count) {
  const double end = kv_now_s() + PATIENCE_MS / 1000.0;
  for (size_t got = 0; got < count;) {
    KV_CHECK(kv_now_s() < end, "only %zu of %zu completions came", got, count);
    struct pollfd pollfd = {kvstow_queue_fd(queue), POLLIN, 0};
    int ready = poll(&pollfd, 1, 1000);
    KV_CHECK(ready >= 0 || errno == EINTR, "poll: %s", strerror(errno));
    kvstow_completion completions[7];
    int n = kvstow_queue_poll(queue, completions, 7, 0);
    KV_CHECK(n >= 0 && n <= 7, "queue_poll: %d", n);
    KV_CHECK(ready == 0 || n > 0, "the descriptor was readable, and nothing had completed");
    for (int i = 0; i < n; i++) {
      request *r = completions[i].user;
      r->completions++;
      r->result = completions[i].result;
      KV_CHECK(r->completions == 1, "completed twice");
    }
    got += (size_t)n;
  }
}

static void quiet(kvstow_queue *queue) {
  kvstow_completion completion;
  KV_CHECK(kvstow_queue_poll(queue, &completion, 1, 0) == 0, "a completion too many");
  struct pollfd pollfd = {kvstow_queue_fd(queue), POLLIN, 0};
  KV_CHECK(poll(&pollfd, 1, 0) == 0, "readable with nothing to take");
}

/* ---- statements ----------------------------------------------------------------------------- */

static void many_reads_complete_in_one_queue(void **state) {
  (void)state;
  kv_rng rng = kv_seed("many_reads_complete_in_one_queue", 1);
  fixture f;
  cold(&f);
  kvstow_queue *queue;
  KV_OK(kvstow_queue_create(f.store, &queue));
  KV_CHECK(kvstow_queue_fd(queue) >= 0, "no descriptor");
  quiet(queue);
  enum { FLIGHT = 96 };
  static request requests[FLIGHT];
  for (int turn = 0; turn < (KV_TSAN ? 2 : 5); turn++) {
    for (int i = 0; i < FLIGHT; i++) {
      request_init(&requests[i], &f.docs[kv_below(&rng, DOCS)], &rng,
                   kv_chance(&rng, 50) ? KVSTOW_NO_PROMOTE : 0);
      KV_OK(request_start(&requests[i], queue, kv_chance(&rng, 50) ? KVSTOW_BYPASS_RAM : 0, 0,
                          kv_chance(&rng, 50)));
    }
    collect(queue, FLIGHT);
    quiet(queue);
    for (int i = 0; i < FLIGHT; i++) {
      KV_CHECK(requests[i].result == 0, "read: %s", kvstow_errname(requests[i].result));
      request_check(&requests[i]);
      request_finish(&requests[i]);
    }
  }
  KV_OK(kvstow_queue_destroy(queue));
  finish(&f);
}

static void epoll_wakes_for_each_of_two_queues(void **state) {
  (void)state;
  kv_rng rng = kv_seed("epoll_wakes_for_each_of_two_queues", 1);
  fixture f;
  cold(&f);
  kvstow_queue *queues[2];
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  assert_true(epoll >= 0);
  for (uint32_t i = 0; i < 2; i++) {
    KV_OK(kvstow_queue_create(f.store, &queues[i]));
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
    assert_int_equal(epoll_ctl(epoll, EPOLL_CTL_ADD, kvstow_queue_fd(queues[i]), &event), 0);
  }
  enum { EACH = 24 };
  static request requests[2][EACH];
  for (int i = 0; i < EACH; i++)
    for (int q = 0; q < 2; q++) {
      request_init(&requests[q][i], &f.docs[kv_below(&rng, DOCS)], &rng, 0);
      KV_OK(request_start(&requests[q][i], queues[q], 0, 0, false));
    }
  size_t got[2] = {0, 0};
  const double end = kv_now_s() + PATIENCE_MS / 1000.0;
  while (got[0] + got[1] < 2 * EACH) {
    KV_CHECK(kv_now_s() < end, "%zu and %zu of %d completions came", got[0], got[1], (int)EACH);
    struct epoll_event events[2];
    int ready = epoll_wait(epoll, events, 2, 1000);
    for (int i = 0; i < ready; i++) {
      kvstow_completion completions[3];
      const uint32_t q = events[i].data.u32;
      int n = kvstow_queue_poll(queues[q], completions, 3, 0);
      KV_CHECK(n > 0, "woken for nothing");
      for (int c = 0; c < n; c++) {
        request *r = completions[c].user;
        KV_CHECK(r >= requests[q] && r < requests[q] + EACH, "another queue's completion");
        KV_CHECK(completions[c].result == 0, "read: %s", kvstow_errname(completions[c].result));
        KV_CHECK(r->completions++ == 0, "completed twice");
      }
      got[q] += (size_t)n;
    }
  }
  for (int q = 0; q < 2; q++) {
    quiet(queues[q]);
    for (int i = 0; i < EACH; i++) {
      request_check(&requests[q][i]);
      request_finish(&requests[q][i]);
    }
    KV_OK(kvstow_queue_destroy(queues[q]));
  }
  close(epoll);
  finish(&f);
}

static void blocking_poll_waits_and_gives_up(void **state) {
  (void)state;
  kv_rng rng = kv_seed("blocking_poll_waits_and_gives_up", 1);
  fixture f;
  cold(&f);
  kvstow_queue *queue;
  KV_OK(kvstow_queue_create(f.store, &queue));
  kvstow_completion completions[4];
  const double start = kv_now_s();
  KV_CHECK(kvstow_queue_poll(queue, completions, 4, 60) == 0, "something from nothing");
  KV_CHECK(kv_now_s() - start >= 0.05, "did not wait");
  request r;
  request_init(&r, &f.docs[3], &rng, 0);
  KV_OK(request_start(&r, queue, 0, 0, false));
  KV_CHECK(kvstow_queue_poll(queue, completions, 4, PATIENCE_MS) == 1, "no completion");
  KV_CHECK(completions[0].user == &r && completions[0].result == 0, "another completion");
  request_check(&r);
  request_finish(&r);
  KV_OK(kvstow_queue_destroy(queue));
  finish(&f);
}

static _Atomic unsigned alarms;

static void count_alarm(int signal) {
  (void)signal;
  atomic_fetch_add(&alarms, 1);
}

/* A host whose timers interrupt it, a profiler's perhaps. */
static void signals_end_no_wait(void **state) {
  (void)state;
  enum { WAIT_MS = 100 };
  fixture f;
  cold(&f);
  kvstow_queue *queue;
  kvstow_completion done;
  const struct sigaction counts = {.sa_handler = count_alarm};
  const struct itimerval often = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
  struct sigaction before;
  KV_OK(kvstow_queue_create(f.store, &queue));
  assert_int_equal(sigaction(SIGALRM, &counts, &before), 0);
  assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
  const double start = kv_now_s();
  assert_int_equal(kvstow_queue_poll(queue, &done, 1, WAIT_MS), 0);
  const double end = kv_now_s();
  setitimer(ITIMER_REAL, &never, NULL);
  sigaction(SIGALRM, &before, NULL);
  KV_CHECK(end - start >= WAIT_MS / 1e3, "back after %.0f ms", (end - start) * 1e3);
  assert_true(alarms > 0);
  KV_OK(kvstow_queue_destroy(queue));
  finish(&f);
}

static void waits_for_leases_complete(void **state) {
  (void)state;
  fixture f;
  cold(&f);
  kvstow_queue *queue;
  KV_OK(kvstow_queue_create(f.store, &queue));
  request requests[DOCS];
  memset(requests, 0, sizeof requests);
  for (int i = 0; i < DOCS; i++) {
    requests[i].lease = leased(&f.docs[i], 0);
    KV_OK(kvstow_lease_wait_async(requests[i].lease, 0, queue, &requests[i], NULL));
  }
  collect(queue, DOCS);
  for (int i = 0; i < DOCS; i++) {
    KV_CHECK(requests[i].result == 0, "lease_wait: %s", kvstow_errname(requests[i].result));
    KV_CHECK(kvstow_lease_tokens(requests[i].lease) == BLOCKS * shape.block_tokens,
             "the lease shrank");
    KV_CHECK(kv_doc_read_blocks(&f.docs[i], requests[i].lease, 0, BLOCKS, 0, 0) == 0, "read");
    kvstow_lease_release(requests[i].lease);
  }
  KV_OK(kvstow_queue_destroy(queue));
  finish(&f);
}

static void stores_and_flushes_complete(void **state) {
  (void)state;
  fixture f;
  cold(&f);
  kvstow_queue *queue;
  KV_OK(kvstow_queue_create(f.store, &queue));
  enum { NEW = 16 };
  kv_doc docs[NEW];
  request requests[NEW + 1];
  memset(requests, 0, sizeof requests);
  const size_t bytes = kv_block_bytes(0, &shape);
  char *buffers[NEW];
  struct iovec iov[NEW][BLOCKS];
  kvstow_source sources[NEW][BLOCKS];
  for (int i = 0; i < NEW; i++) {
    kv_doc_init(&docs[i], f.space, &shape, 1, 1000 + (uint64_t)i, BLOCKS, "async", 5);
    buffers[i] = malloc(BLOCKS * bytes);
    for (size_t block = 0; block < BLOCKS; block++) {
      kv_fill_block(kv_id(1, 1000 + (uint64_t)i, block), &shape, buffers[i] + block * bytes);
      iov[i][block] = (struct iovec){buffers[i] + block * bytes, bytes};
      sources[i][block] = (kvstow_source){&iov[i][block], 1};
    }
    KV_OK(kvstow_store_async(&docs[i].prefix, 0, BLOCKS, sources[i], queue, &requests[i],
                             i % 2 ? &requests[i].op : NULL));
  }
  collect(queue, NEW);
  for (int i = 0; i < NEW; i++) {
    KV_CHECK(requests[i].result == 0, "store: %s", kvstow_errname(requests[i].result));
    memset(buffers[i], 0, BLOCKS * bytes); /* the caller's again */
    free(buffers[i]);
  }
  KV_OK(kvstow_flush_async(f.store, queue, &requests[NEW], NULL));
  collect(queue, 1);
  KV_CHECK(requests[NEW].result == 0, "flush: %s", kvstow_errname(requests[NEW].result));
  KV_CHECK(kv_stats(f.store).dirty_blocks == 0, "flushed, but blocks are dirty");
  for (int i = 0; i < NEW; i++) {
    KV_CHECK(kv_doc_restore(&docs[i], 0) == BLOCKS, "document %d not restored", i);
    kv_doc_finish(&docs[i]);
  }
  KV_OK(kvstow_queue_destroy(queue));
  finish(&f);
}

/* Cancelled before, during and after the device has it: ECANCELED, or the result; once; and then the
 * buffers are the caller's. */
static void cancelled_reads_complete_once(void **state) {
  (void)state;
  kv_rng rng = kv_seed("cancelled_reads_complete_once", 1);
  fixture f;
  cold(&f);
  kvstow_queue *queue;
  KV_OK(kvstow_queue_create(f.store, &queue));
  enum { FLIGHT = 48 };
  static request requests[FLIGHT];
  size_t cancelled = 0, done = 0;
  for (int turn = 0; turn < (KV_TSAN ? 3 : 12); turn++) {
    for (int i = 0; i < FLIGHT; i++) {
      request_init(&requests[i], &f.docs[kv_below(&rng, DOCS)], &rng,
                   kv_chance(&rng, 70) ? KVSTOW_NO_PROMOTE : 0);
      KV_OK(
          request_start(&requests[i], queue, kv_chance(&rng, 70) ? KVSTOW_BYPASS_RAM : 0, 0, true));
      KV_CHECK(requests[i].op != NULL, "no op");
      if (turn % 3 == 0 && kv_chance(&rng, 50)) /* at once */
        kvstow_cancel(requests[i].op);
    }
    if (turn % 3 == 1) kv_sleep_ms(1);
    if (turn % 3 != 0)
      for (int i = FLIGHT - 1; i >= 0; i--) /* the last ones are the least likely to have begun */
        if (kv_chance(&rng, 70)) {
          kvstow_cancel(requests[i].op);
          if (kv_chance(&rng, 20)) kvstow_cancel(requests[i].op); /* twice is once */
        }
    collect(queue, FLIGHT);
    quiet(queue);
    for (int i = 0; i < FLIGHT; i++) {
      KV_CHECK(requests[i].result == 0 || requests[i].result == KVSTOW_ECANCELED, "read: %s",
               kvstow_errname(requests[i].result));
      if (requests[i].result == 0) {
        request_check(&requests[i]);
        done++;
      } else {
        cancelled++;
      }
      if (kv_chance(&rng, 50)) { /* the lease is as good as before */
        KV_CHECK(kv_doc_read_blocks(requests[i].doc, requests[i].lease, 0, 2, 0, 0) == 0,
                 "read after cancel");
      }
      request_finish(&requests[i]);
    }
  }
  printf("  %zu cancelled, %zu had their result first\n", cancelled, done);
  KV_CHECK(done > 0, "nothing ever completed");
  KV_OK(kvstow_queue_destroy(queue));
  for (int i = 0; i < DOCS; i++)
    KV_CHECK(kv_doc_restore(&f.docs[i], 0) == BLOCKS, "cancelling cost a block");
  finish(&f);
}

/* Other operations can be cancelled too. */
static void cancelled_stores_and_flushes_complete_once(void **state) {
  (void)state;
  fixture f;
  cold(&f);
  kvstow_queue *queue;
  KV_OK(kvstow_queue_create(f.store, &queue));
  enum { NEW = 12 };
  kv_doc docs[NEW];
  request requests[2 * NEW];
  memset(requests, 0, sizeof requests);
  const size_t bytes = kv_block_bytes(0, &shape);
  char *block = malloc(bytes * NEW);
  struct iovec iov[NEW];
  kvstow_source sources[NEW];
  for (int i = 0; i < NEW; i++) {
    kv_doc_init(&docs[i], f.space, &shape, 1, 2000 + (uint64_t)i, 1, NULL, 0);
    kv_fill_block(kv_id(1, 2000 + (uint64_t)i, 0), &shape, block + (size_t)i * bytes);
    iov[i] = (struct iovec){block + (size_t)i * bytes, bytes};
    sources[i] = (kvstow_source){&iov[i], 1};
    KV_OK(kvstow_store_async(&docs[i].prefix, 0, 1, &sources[i], queue, &requests[i],
                             &requests[i].op));
    KV_OK(kvstow_flush_async(f.store, queue, &requests[NEW + i], &requests[NEW + i].op));
    kvstow_cancel(requests[i].op);
    kvstow_cancel(requests[NEW + i].op);
  }
  collect(queue, 2 * NEW);
  for (int i = 0; i < NEW; i++) {
    KV_CHECK(requests[i].result == 0 || requests[i].result == KVSTOW_ECANCELED, "store: %s",
             kvstow_errname(requests[i].result));
    KV_CHECK(requests[NEW + i].result == 0 || requests[NEW + i].result == KVSTOW_ECANCELED,
             "flush: %s", kvstow_errname(requests[NEW + i].result));
    const size_t restored = kv_doc_restore(&docs[i], 0);
    KV_CHECK(requests[i].result != 0 || restored == 1, "stored, but not there");
    kv_doc_finish(&docs[i]);
  }
  free(block);
  KV_OK(kvstow_queue_destroy(queue));
  finish(&f);
}

/* One millisecond for cold data: ETIMEDOUT or the right bytes, soon, never a hang. */
static void deadlines_end_reads(void **state) {
  (void)state;
  kv_rng rng = kv_seed("deadlines_end_reads", 1);
  fixture f;
  cold(&f);
  size_t late = 0, in_time = 0;
  for (int turn = 0; turn < (KV_TSAN ? 60 : 300); turn++) {
    request r;
    request_init(&r, &f.docs[kv_below(&rng, DOCS)], &rng, KVSTOW_NO_PROMOTE);
    const double start = kv_now_s();
    int rc;
    if (r.rows)
      rc = kvstow_read(r.lease, &r.range, &r.iov, 1, 0, 1);
    else
      rc = kvstow_read_blocks(r.lease, r.first, r.count, r.payloads, NULL, KVSTOW_BYPASS_RAM, 1);
    KV_CHECK(kv_now_s() - start < 20, "a deadline of 1 ms took %.1f s", kv_now_s() - start);
    KV_CHECK(rc == 0 || rc == KVSTOW_ETIMEDOUT, "read: %s", kvstow_errname(rc));
    if (rc == 0) {
      request_check(&r);
      in_time++;
    } else {
      late++;
      /* the buffers are the caller's again: nothing may be written into them any more */
      const size_t bytes = r.rows ? r.iov.iov_len : r.count * kvstow_space_payload_bytes(f.space);
      memset(r.buffer, 0x42, bytes);
      if (turn % 8 == 0) kv_sleep_ms(20);
      for (size_t at = 0; at < bytes; at++)
        KV_CHECK(r.buffer[at] == 0x42, "written after the call had returned");
      /* and the same read with patience is right */
      rc = r.rows ? kvstow_read(r.lease, &r.range, &r.iov, 1, 0, 0)
                  : kvstow_read_blocks(r.lease, r.first, r.count, r.payloads, NULL, 0, 0);
      KV_CHECK(rc == 0, "after a late read: %s", kvstow_errname(rc));
      request_check(&r);
    }
    request_finish(&r);
  }
  printf("  %zu in time, %zu late\n", in_time, late);
  kvstow_lease *lease = leased(&f.docs[0], 0);
  int rc = kvstow_lease_wait(lease, 1, NULL);
  KV_CHECK(rc == 0 || rc == KVSTOW_ETIMEDOUT, "lease_wait: %s", kvstow_errname(rc));
  const void *view;
  size_t view_bytes;
  rc = kvstow_view(lease, BLOCKS - 1, 1, &view, &view_bytes);
  KV_CHECK(rc == 0 || rc == KVSTOW_ETIMEDOUT, "view: %s", kvstow_errname(rc));
  KV_CHECK(rc != 0 || kv_payload_is(kv_id(1, 0, BLOCKS - 1), &shape,
                                    kvstow_space_plane_bytes(f.space), view),
           "wrong bytes in view");
  kvstow_lease_release(lease);
  KV_CHECK(kv_stats(f.store).timeouts >= late, "%zu late, %" PRIu64 " counted", late,
           kv_stats(f.store).timeouts);
  finish(&f);
}

static void deadlines_end_asynchronous_reads(void **state) {
  (void)state;
  kv_rng rng = kv_seed("deadlines_end_asynchronous_reads", 1);
  fixture f;
  cold(&f);
  kvstow_queue *queue;
  KV_OK(kvstow_queue_create(f.store, &queue));
  enum { FLIGHT = 64 };
  static request requests[FLIGHT];
  size_t late = 0;
  for (int turn = 0; turn < (KV_TSAN ? 2 : 6); turn++) {
    for (int i = 0; i < FLIGHT; i++) {
      request_init(&requests[i], &f.docs[kv_below(&rng, DOCS)], &rng, KVSTOW_NO_PROMOTE);
      KV_OK(request_start(&requests[i], queue, kv_chance(&rng, 50) ? KVSTOW_BYPASS_RAM : 0, 1,
                          false));
    }
    collect(queue, FLIGHT);
    for (int i = 0; i < FLIGHT; i++) {
      KV_CHECK(requests[i].result == 0 || requests[i].result == KVSTOW_ETIMEDOUT, "read: %s",
               kvstow_errname(requests[i].result));
      if (requests[i].result == 0)
        request_check(&requests[i]);
      else
        late++;
      request_finish(&requests[i]);
    }
  }
  printf("  %zu late\n", late);
  KV_OK(kvstow_queue_destroy(queue));
  for (int i = 0; i < DOCS; i++)
    KV_CHECK(kv_doc_restore(&f.docs[i], 0) == BLOCKS, "being late cost a block");
  finish(&f);
}

static void busy_queues_are_not_destroyed(void **state) {
  (void)state;
  kv_rng rng = kv_seed("busy_queues_are_not_destroyed", 1);
  fixture f;
  cold(&f);
  kvstow_queue *queue;
  KV_OK(kvstow_queue_create(f.store, &queue));
  enum { FLIGHT = 32 };
  static request requests[FLIGHT];
  for (int i = 0; i < FLIGHT; i++) {
    request_init(&requests[i], &f.docs[i % DOCS], &rng, KVSTOW_NO_PROMOTE);
    KV_OK(request_start(&requests[i], queue, 0, 0, false));
  }
  /* pending or completed but not taken: either way not done with */
  KV_RESULT(kvstow_queue_destroy(queue), KVSTOW_EBUSY);
  KV_RESULT(kvstow_close(f.store), KVSTOW_EBUSY);
  collect(queue, FLIGHT);
  for (int i = 0; i < FLIGHT; i++) {
    KV_CHECK(requests[i].result == 0, "read: %s", kvstow_errname(requests[i].result));
    request_check(&requests[i]);
    request_finish(&requests[i]);
  }
  KV_OK(kvstow_queue_destroy(queue));
  finish(&f);
}

static void asynchronous_calls_check_their_arguments(void **state) {
  (void)state;
  fixture f;
  cold(&f);
  kvstow_queue *queue = NULL;
  KV_RESULT(kvstow_queue_create(NULL, &queue), KVSTOW_EINVAL);
  KV_RESULT(kvstow_queue_create(f.store, NULL), KVSTOW_EINVAL);
  KV_OK(kvstow_queue_create(f.store, &queue));
  kvstow_lease *lease = leased(&f.docs[0], 0);
  char byte;
  struct iovec iov = {&byte, 1};
  kvstow_range range = {0, 0, 0, 0};
  void *payload = &byte;
  int expected = 0;
  static request r; /* what a completion would be counted on */
  /* a wrong argument is refused at once, or with a completion; never both, never neither */
  int results[5];
  results[0] = kvstow_read_async(lease, &range, &iov, 1, 0, 0, queue, &r, NULL);
  results[1] = kvstow_read_blocks_async(lease, BLOCKS, 1, &payload, NULL, 0, 0, queue, &r, NULL);
  results[2] = kvstow_store_async(&f.docs[0].prefix, 0, 1, NULL, queue, &r, NULL);
  for (int i = 0; i < 3; i++) {
    KV_CHECK(results[i] == 0 || results[i] == KVSTOW_EINVAL, "%d: %s", i,
             kvstow_errname(results[i]));
    expected += results[i] == 0;
  }
  for (int i = 0; i < expected; i++) {
    r.completions = 0;
    collect(queue, 1);
    KV_CHECK(r.result == KVSTOW_EINVAL, "completed with %s", kvstow_errname(r.result));
  }
  quiet(queue);
  KV_RESULT(kvstow_read_async(lease, &range, &iov, 1, 0, 0, NULL, &r, NULL), KVSTOW_EINVAL);
  KV_RESULT(kvstow_read_blocks_async(lease, 0, 1, &payload, NULL, 0, 0, NULL, &r, NULL),
            KVSTOW_EINVAL);
  KV_RESULT(kvstow_lease_wait_async(lease, 0, NULL, &r, NULL), KVSTOW_EINVAL);
  KV_RESULT(kvstow_lease_wait_async(NULL, 0, queue, &r, NULL), KVSTOW_EINVAL);
  KV_RESULT(kvstow_flush_async(NULL, queue, &r, NULL), KVSTOW_EINVAL);
  KV_RESULT(kvstow_flush_async(f.store, NULL, &r, NULL), KVSTOW_EINVAL);
  kvstow_cancel(NULL);
  kvstow_lease_release(lease);
  KV_OK(kvstow_queue_destroy(queue));
  finish(&f);
}

/* Each thread with its own queue, all on one store. */
typedef struct client {
  fixture *f;
  uint64_t seed;
} client;

static void *serve(void *arg) {
  const client *c = arg;
  kv_rng rng = {c->seed};
  kvstow_queue *queue;
  KV_OK(kvstow_queue_create(c->f->store, &queue));
  enum { FLIGHT = 12 };
  request *requests = calloc(FLIGHT, sizeof *requests);
  for (int turn = 0; turn < (KV_TSAN ? 4 : 20); turn++) {
    for (int i = 0; i < FLIGHT; i++) {
      request_init(&requests[i], &c->f->docs[kv_below(&rng, DOCS)], &rng,
                   kv_chance(&rng, 50) ? KVSTOW_NO_PROMOTE : 0);
      KV_OK(request_start(&requests[i], queue, kv_chance(&rng, 50) ? KVSTOW_BYPASS_RAM : 0,
                          kv_chance(&rng, 20) ? 2 : 0, true));
    }
    for (int i = 0; i < FLIGHT; i++)
      if (kv_chance(&rng, 20)) kvstow_cancel(requests[i].op);
    collect(queue, FLIGHT);
    for (int i = 0; i < FLIGHT; i++) {
      const int rc = requests[i].result;
      KV_CHECK(rc == 0 || rc == KVSTOW_ETIMEDOUT || rc == KVSTOW_ECANCELED, "read: %s",
               kvstow_errname(rc));
      if (rc == 0) request_check(&requests[i]);
      request_finish(&requests[i]);
    }
  }
  free(requests);
  KV_OK(kvstow_queue_destroy(queue));
  return NULL;
}

static void eight_clients_with_a_queue_each(void **state) {
  (void)state;
  kv_rng rng = kv_seed("eight_clients_with_a_queue_each", 1);
  fixture f;
  cold(&f);
  pthread_t threads[8];
  client clients[8];
  for (int i = 0; i < 8; i++) {
    clients[i] = (client){&f, kv_next(&rng)};
    assert_int_equal(pthread_create(&threads[i], NULL, serve, &clients[i]), 0);
  }
  for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
  KV_CHECK(kv_stats(f.store).leases == 0, "leases left");
  finish(&f);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(many_reads_complete_in_one_queue),
    cmocka_unit_test(epoll_wakes_for_each_of_two_queues),
    cmocka_unit_test(blocking_poll_waits_and_gives_up),
    cmocka_unit_test(signals_end_no_wait),
    cmocka_unit_test(waits_for_leases_complete),
    cmocka_unit_test(stores_and_flushes_complete),
    cmocka_unit_test(cancelled_reads_complete_once),
    cmocka_unit_test(cancelled_stores_and_flushes_complete_once),
    cmocka_unit_test(deadlines_end_reads),
    cmocka_unit_test(deadlines_end_asynchronous_reads),
    cmocka_unit_test(busy_queues_are_not_destroyed),
    cmocka_unit_test(asynchronous_calls_check_their_arguments),
    cmocka_unit_test(eight_clients_with_a_queue_each),
};

KV_MAIN("asynchronous calls")
