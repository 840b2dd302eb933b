/* Reads of records against a naive reader: whatever is asked, in whatever order the device answers, split
 * and merged as it may be, failing here and there, cancelled, urged and overdue at random - every read is
 * answered once, with its own bytes or the error it deserves.
 *
 * The engine is ours: it holds ops back and completes them in random order.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "test_tier_fixture.h"

#include <time.h>

enum { RECORDS = 24, READS_MAX = 40, HELD_MAX = 512 };

/* ---- an engine that answers out of order ---------------------------------------------------- */

static struct {
  _Atomic uint64_t random;
  _Atomic uint32_t fail_one_in;      /* reads; 0: none */
  _Atomic uint64_t bad_from, bad_to; /* bytes of any file that can never be read */
} device;

struct kvstow__engine {
  pthread_mutex_t lock;
  pthread_cond_t news;
  bool woken;
  kvstow__op *held[HELD_MAX];
  uint32_t count;
};

static uint64_t draw(uint64_t below) {
  return mix(atomic_fetch_add(&device.random, UINT64_C(0x9e3779b97f4a7c15))) % below;
}

static int shuffling_create(void *env, const kvstow__engine_config *config, kvstow__engine **engine,
                            char *reason, size_t reason_bytes) {
  (void)env, (void)reason, (void)reason_bytes;
  assert_true(config->queue_depth <= HELD_MAX);
  kvstow__engine *e = calloc(1, sizeof *e);
  pthread_mutex_init(&e->lock, NULL);
  pthread_cond_init(&e->news, NULL);
  *engine = e;
  return 0;
}

static void shuffling_destroy(kvstow__engine *e) {
  assert_true(!e || e->count == 0);
  free(e);
}

static void shuffling_submit(kvstow__engine *e, kvstow__op *list) {
  for (; list; list = list->next) e->held[e->count++] = list;
}

static int carry_out(kvstow__op *op) {
  if (op->kind == KVSTOW__SYNC) return 0;
  const bool read = op->kind == KVSTOW__READ;
  if (read && op->offset < device.bad_to && op->offset + op->length > device.bad_from) return EIO;
  const uint32_t one_in = device.fail_one_in;
  const bool fails = read && one_in > 0 && draw(one_in) == 0;
  uint64_t left = fails ? draw(op->length + 1) : op->length, at = op->offset;
  for (uint32_t i = 0; i < op->iov_count && left > 0;
       i++) { /* a failed read may have brought some */
    const size_t piece = op->iov[i].iov_len < left ? op->iov[i].iov_len : (size_t)left;
    const ssize_t n = read ? pread(op->fd, op->iov[i].iov_base, piece, (off_t)at)
                           : pwrite(op->fd, op->iov[i].iov_base, piece, (off_t)at);
    if (n != (ssize_t)piece) return EIO;
    at += piece;
    left -= piece;
  }
  return fails ? EIO : 0;
}

static kvstow__op *shuffling_reap(kvstow__engine *e, bool wait) {
  pthread_mutex_lock(&e->lock);
  while (wait && e->count == 0 && !e->woken) pthread_cond_wait(&e->news, &e->lock);
  e->woken = false;
  pthread_mutex_unlock(&e->lock);
  kvstow__op *done = NULL;
  for (uint64_t n = e->count > 0 ? 1 + draw(e->count) : 0; n > 0; n--) {
    const uint64_t pick = draw(e->count);
    kvstow__op *op = e->held[pick];
    e->held[pick] = e->held[--e->count];
    op->error = carry_out(op);
    op->next = done;
    done = op;
  }
  return done;
}

static void shuffling_wake(kvstow__engine *e) {
  pthread_mutex_lock(&e->lock);
  e->woken = true;
  pthread_cond_signal(&e->news);
  pthread_mutex_unlock(&e->lock);
}

static const kvstow__engine_ops SHUFFLING = {
    .name = "shuffling",
    .create = shuffling_create,
    .destroy = shuffling_destroy,
    .submit = shuffling_submit,
    .reap = shuffling_reap,
    .wake = shuffling_wake,
};

/* ---- a store to read from ------------------------------------------------------------------- */

static char *dir;
static kvstow_tier *tier;
static record held[RECORDS];

static uint64_t seed_of(void) {
  const char *given = getenv("KVSTOW_SEED");
  return given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();
}

static uint64_t rounds_of(void) {
  const char *given = getenv("KVSTOW_SEEDS");
  return given ? strtoull(given, NULL, 0) : 8;
}

/* Requests are small, so that records and planes are split over several. */
static void begin(uint64_t seed) {
  memset(&device, 0, sizeof device);
  device.random = seed;
  dir = scratch_new();
  const char *dirs[] = {dir};
  the_variant = NULL;
  kvstow_tier_options options = options_for(dirs, 16);
  options.engine = KVSTOW_ENGINE_AUTO;
  options.request_max_bytes = 65536u << draw(3);
  options.queue_depth = 1u << draw(6);
  const kvstow__io io = {.files = &kvstow__files,
                         .engines = {&SHUFFLING},
                         .kinds = {KVSTOW_ENGINE_AUTO},
                         .buffered = true};
  char why[KVSTOW_MESSAGE_BYTES];
  if (kvstow__tier_open_with(&options, &io, &tier, why, sizeof why) != 0) fail_msg("%s", why);
  for (uint64_t i = 0; i < RECORDS; i++) {
    held[i] = record_new(i, 1 + (uint32_t)draw(12), PLANE * (uint32_t)(1 + draw(20)));
    assert_int_equal(append_all(tier, &held[i], 1), 0);
  }
}

static void end(void) {
  for (uint64_t i = 0; i < RECORDS; i++) record_free(&held[i]);
  assert_int_equal(kvstow_tier_close(tier), 0);
  scratch_remove(dir);
}

/* ---- reads ---------------------------------------------------------------------------------- */

typedef struct asked {
  kvstow_record_read read;
  uint32_t record;
  _Atomic uint32_t answers;
  bool cancelled, overdue;
  gate *gate;
} asked;

static void answered(kvstow_record_read *read) {
  asked *a = read->arg;
  atomic_fetch_add(&a->answers, 1);
  gate_pass(a->gate, 0);
}

static uint64_t now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static void ask(asked *a, gate *g) {
  a->record = (uint32_t)draw(RECORDS);
  const record *r = &held[a->record];
  const uint32_t first = draw(2) ? 0 : (uint32_t)draw(r->planes);
  const uint32_t count = draw(4) ? r->planes - first : (uint32_t)draw(r->planes - first + 1);
  a->gate = g;
  a->answers = 0;
  a->cancelled = false;
  a->overdue = draw(12) == 0;
  a->read = (kvstow_record_read){
      .key = key_of(r->number),
      .loc = r->loc,
      .plane_bytes = r->plane_bytes,
      .plane_first = first,
      .plane_count = count,
      .header = aligned_alloc(4096, 4096),
      .payload = count ? aligned_alloc(4096, (size_t)count * r->plane_bytes) : NULL,
      .priority = draw(3) ? KVSTOW_DEMAND : KVSTOW_PREFETCH,
      .deadline_us = a->overdue ? now_us() - 1
                     : draw(4)  ? 0
                                : now_us() + 60000000,
      .done = answered,
      .arg = a,
  };
}

static bool touches_bad(const kvstow_record_read *read) {
  const uint64_t at = (uint64_t)read->loc.page * 4096;
  const uint64_t from = at + 4096 + (uint64_t)read->plane_first * read->plane_bytes;
  const uint64_t to = from + (uint64_t)read->plane_count * read->plane_bytes;
  return (at < device.bad_to && at + 4096 > device.bad_from) ||
         (from < device.bad_to && to > device.bad_from);
}

/* Requests on their way at a failure are tried again once, alone: a read may fail if the device fails
 * twice, and must if its bytes can't be read. */
static void judge(const asked *a) {
  const kvstow_record_read *read = &a->read;
  const record *r = &held[a->record];
  assert_int_equal(a->answers, 1);
  if (a->overdue && !a->cancelled) {
    assert_int_equal(read->result, KVSTOW_ETIMEDOUT);
  } else if (read->result == KVSTOW_ECANCELED) {
    assert_true(a->cancelled);
  } else if (read->result == KVSTOW_EIO) {
    assert_true(touches_bad(read) || device.fail_one_in > 0);
  } else if (read->result != KVSTOW_ETIMEDOUT) {
    assert_int_equal(read->result, 0);
    assert_false(touches_bad(read));
    if (read->plane_count > 0)
      assert_memory_equal(read->payload, r->payload + (size_t)read->plane_first * r->plane_bytes,
                          (size_t)read->plane_count * r->plane_bytes);
  }
}

static void one_batch(void) {
  static asked all[READS_MAX];
  const size_t count = 1 + draw(READS_MAX);
  kvstow_record_read *reads[READS_MAX];
  gate g = GATE_INIT(count);
  for (size_t i = 0; i < count; i++) {
    ask(&all[i], &g);
    reads[i] = &all[i].read;
  }
  assert_int_equal(kvstow_tier_read_batch(tier, reads, count), 0);
  for (uint64_t n = draw(6); n > 0; n--) {
    asked *a = &all[draw(count)];
    if (draw(2)) {
      kvstow_tier_urge(tier, &a->read);
    } else {
      a->cancelled = true;
      kvstow_tier_cancel(tier, &a->read);
    }
  }
  gate_wait(&g);
  for (size_t i = 0; i < count; i++) {
    judge(&all[i]);
    free(all[i].read.header);
    free(all[i].read.payload);
  }
}

static void every_read_gets_its_bytes_or_its_error_once(void **state) {
  (void)state;
  const uint64_t seed = seed_of();
  print_message("KVSTOW_SEED=%llu\n", (unsigned long long)seed);
  for (uint64_t round = 0; round < rounds_of(); round++) {
    begin(seed + round);
    for (int i = 0; i < 30; i++) {
      device.fail_one_in = draw(3) ? 0 : 1 + (uint32_t)draw(8);
      device.bad_from = draw(3) ? 0 : draw(SEGMENT);
      device.bad_to = device.bad_from ? device.bad_from + 512 : 0;
      one_batch();
    }
    end();
  }
}

/* A flipped bit in any plane of a record that comes in many pieces, out of order. */
static void a_wrong_plane_is_never_delivered(void **state) {
  (void)state;
  const uint64_t seed = seed_of();
  print_message("KVSTOW_SEED=%llu\n", (unsigned long long)seed);
  begin(seed);
  for (uint32_t i = 0; i < RECORDS; i++) {
    const record *r = &held[i];
    const uint32_t plane = (uint32_t)draw(r->planes);
    char name[32];
    snprintf(name, sizeof name, "seg-%06u.kvs", r->loc.segment);
    const uint64_t at = (uint64_t)r->loc.page * 4096 + 4096 + (uint64_t)plane * r->plane_bytes +
                        draw(r->plane_bytes);
    flip(dir, name, at);
    const uint64_t before = stats_of(tier).corrupt_planes;
    assert_int_equal(read_record(tier, r), KVSTOW_ECORRUPT);
    assert_int_equal(stats_of(tier).corrupt_planes, before + 1);
    for (uint32_t p = 0; p < r->planes; p++)
      assert_int_equal(read_planes(tier, r->number, r->loc, r->plane_bytes, p, 1),
                       p == plane ? KVSTOW_ECORRUPT : 0);
    flip(dir, name, at);
    assert_int_equal(read_record(tier, r), 0);
    flip(dir, name, (uint64_t)r->loc.page * 4096 + draw(4096));
    assert_int_equal(read_record(tier, r), KVSTOW_ECORRUPT);
  }
  end();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_read_gets_its_bytes_or_its_error_once),
      cmocka_unit_test(a_wrong_plane_is_never_delivered),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
