/* Reads of records against a naive reader: whatever is asked, in whatever order the device answers, split
 * and merged as it may be, failing here and there, cancelled, urged and overdue at random - every read is
 * answered once, with its own bytes or the error it deserves.
 *
 * The device holds ops back and completes them in random order.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "test_tier_device.h"

#include <time.h>

enum { RECORDS = 24, READS_MAX = 40 };

/* ---- a device that answers out of order ----------------------------------------------------- */

static struct {
  _Atomic uint64_t random;
  _Atomic uint32_t fail_one_in;      /* reads; 0: none */
  _Atomic uint64_t bad_from, bad_to; /* bytes of any file that can never be read */
} device;

static uint64_t draw(uint64_t below) {
  return mix(atomic_fetch_add(&device.random, UINT64_C(0x9e3779b97f4a7c15))) % below;
}

/* No bytes are nowhere: a read of no planes reads its header alone. */
static bool is_bad(uint64_t from, uint64_t bytes) {
  return bytes > 0 && from < device.bad_to && from + bytes > device.bad_from;
}

static int carry_out(kvstow__op *op) {
  if (op->kind == KVSTOW__SYNC) return 0;
  const bool read = op->kind == KVSTOW__READ;
  if (read && is_bad(op->offset, op->length)) return EIO;
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
static void begin_deep(uint64_t seed, uint32_t depth) {
  memset(&device, 0, sizeof device);
  device.random = seed;
  the_device.keep = NULL;
  dir = scratch_new();
  const char *dirs[] = {dir};
  the_variant = NULL;
  kvstow_tier_options options = options_for(dirs, 16);
  options.engine = KVSTOW_ENGINE_AUTO;
  options.request_max_bytes = 65536u << draw(3);
  options.queue_depth = depth;
  the_device.carry_out = carry_out;
  the_device.draw = draw;
  tier = open_told(&options, &kvstow__files, true);
  for (uint64_t i = 0; i < RECORDS; i++) {
    held[i] = record_new(i, 1 + (uint32_t)draw(12), PLANE * (uint32_t)(1 + draw(20)));
    assert_int_equal(append_all(tier, &held[i], 1), 0);
  }
  assert_int_equal(kvstow_tier_flush(tier), 0); /* the device is idle: it may be told otherwise */
}

static void begin(uint64_t seed) {
  begin_deep(seed, 1u << mix(seed) % 6);
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
  bool cancelled, overdue, patient;
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
  a->patient = !a->overdue && draw(6) > 0;
  a->read = (kvstow_record_read){
      .key = key_of(r->number),
      .loc = r->loc,
      .plane_bytes = r->plane_bytes,
      .plane_first = first,
      .plane_count = count,
      .header = aligned_alloc(4096, 4096),
      .payload = count ? aligned_alloc(4096, (size_t)count * r->plane_bytes) : NULL,
      .priority = draw(3) ? KVSTOW_DEMAND : KVSTOW_PREFETCH,
      .deadline_us = a->overdue    ? now_us() - 1
                     : !a->patient ? now_us() + draw(2000)
                     : draw(4)     ? 0
                                   : now_us() + 60000000,
      .done = answered,
      .arg = a,
  };
}

static void asked_free(asked *a) {
  free(a->read.header);
  free(a->read.payload);
}

static bool touches_bad(const kvstow_record_read *read) {
  const uint64_t at = (uint64_t)read->loc.page * 4096;
  return is_bad(at, 4096) || is_bad(at + 4096 + (uint64_t)read->plane_first * read->plane_bytes,
                                    (uint64_t)read->plane_count * read->plane_bytes);
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
  } else if (read->result == KVSTOW_ETIMEDOUT) {
    assert_false(a->patient);
  } else {
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
    asked_free(&all[i]);
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

/* ---- one read after the other --------------------------------------------------------------- */

static uint64_t last(uint64_t below) {
  return below - 1;
}

static bool no_header; /* the next read of one page fails */

static int carry_out_without_header(kvstow__op *op) {
  if (op->kind == KVSTOW__READ && op->length == 4096 && no_header) {
    no_header = false;
    return EIO;
  }
  return carry_out(op);
}

/* The planes come first, then their header fails to, and is asked for once more. */
static void planes_that_came_before_their_header_are_checked(void **state) {
  (void)state;
  begin_deep(1, 8);
  the_device.carry_out = carry_out_without_header;
  the_device.draw = last;
  kvstow_tuning tuning;
  kvstow_tier_get_tuning(tier, &tuning);
  tuning.enable_io_scheduling = false;
  assert_int_equal(kvstow_tier_set_tuning(tier, &tuning), 0);
  for (uint32_t i = 0; i < RECORDS; i++) {
    const record *r = &held[i];
    const uint32_t plane = r->planes - 1;
    if (plane == 0) continue;
    char name[32];
    snprintf(name, sizeof name, "seg-%06u.kvs", r->loc.segment);
    const uint64_t at = (uint64_t)r->loc.page * 4096 + 4096 + (uint64_t)plane * r->plane_bytes;
    no_header = true;
    assert_int_equal(read_planes(tier, r->number, r->loc, r->plane_bytes, plane, 1), 0);
    flip(dir, name, at);
    no_header = true;
    assert_int_equal(read_planes(tier, r->number, r->loc, r->plane_bytes, plane, 1),
                     KVSTOW_ECORRUPT);
    flip(dir, name, at);
  }
  end();
}

/* ---- a device that does not answer ---------------------------------------------------------- */

static atomic_bool mute;

static bool keep_reads(const kvstow__op *op) {
  return op->kind == KVSTOW__READ && atomic_load(&mute);
}

/* One read is with the device, the others wait behind it; neighbours would go as one. */
static void who_waits_behind_a_mute_device_is_answered_in_time(void **state) {
  (void)state;
  enum { WAITING = 6 };
  begin_deep(7, 1);
  the_device.draw = NULL;
  the_device.keep = keep_reads;
  the_device.kept = 0;
  atomic_store(&mute, true);
  gate first_gate = GATE_INIT(1), given_up = GATE_INIT(4), rest = GATE_INIT(2);
  asked first, waiting[WAITING];
  kvstow_record_read *one[] = {&first.read}, *all[WAITING];
  ask(&first, &first_gate);
  first.read.deadline_us = 0;
  assert_int_equal(kvstow_tier_read_batch(tier, one, 1), 0);
  while (atomic_load(&the_device.kept) == 0) usleep(100);
  for (uint32_t i = 0; i < WAITING; i++) {
    ask(&waiting[i], i < 4 ? &given_up : &rest);
    waiting[i].read.deadline_us = i < 2 ? now_us() + 20000 * (i + 1) : 0;
    all[i] = &waiting[i].read;
  }
  assert_int_equal(kvstow_tier_read_batch(tier, all, WAITING), 0);
  for (uint32_t i = 2; i < 4; i++) kvstow_tier_cancel(tier, all[i]);
  gate_wait(&given_up); /* while the device is still mute */
  for (uint32_t i = 0; i < 4; i++)
    assert_int_equal(all[i]->result, i < 2 ? KVSTOW_ETIMEDOUT : KVSTOW_ECANCELED);
  assert_int_equal(stats_of(tier).io_errors, 0);
  atomic_store(&mute, false);
  told_release();
  gate_wait(&first_gate);
  gate_wait(&rest);
  for (uint32_t i = 4; i < WAITING; i++) {
    waiting[i].overdue = waiting[i].cancelled = false;
    judge(&waiting[i]);
    assert_int_equal(all[i]->result, 0);
  }
  for (uint32_t i = 0; i < WAITING; i++) asked_free(&waiting[i]);
  asked_free(&first);
  end();
}

/* ---- how much a device is given ------------------------------------------------------------- */

static _Atomic uint64_t kept_bytes;

static bool keep_and_count(const kvstow__op *op) {
  if (!keep_reads(op)) return false;
  atomic_fetch_add(&kept_bytes, op->length);
  return true;
}

enum { MIB = 1 << 20, TIMES_MAX = 160 };
static asked many[TIMES_MAX];

static const record *longest(void) {
  const record *most = &held[0];
  for (uint32_t i = 1; i < RECORDS; i++)
    if (held[i].planes * held[i].plane_bytes > most->planes * most->plane_bytes) most = &held[i];
  return most;
}

/* A store whose device keeps reads, and where the same record can be asked for again and again. Returns the bytes of
 * one. */
static uint64_t begin_mute(void) {
  begin_deep(5, 1024);
  the_device.draw = NULL;
  the_device.keep = keep_and_count;
  kvstow_tuning tuning;
  kvstow_tier_get_tuning(tier, &tuning);
  tuning.enable_io_scheduling = false;
  assert_int_equal(kvstow_tier_set_tuning(tier, &tuning), 0);
  atomic_store(&kept_bytes, 0);
  atomic_store(&mute, true);
  return 4096 + (uint64_t)longest()->planes * longest()->plane_bytes;
}

static void ask_longest(size_t times, gate *g) {
  const record *r = longest();
  kvstow_record_read *reads[TIMES_MAX];
  assert_in_range(times, 2, TIMES_MAX);
  for (size_t i = 0; i < times; i++) {
    many[i] = (asked){.record = (uint32_t)r->number, .patient = true, .gate = g};
    many[i].read = (kvstow_record_read){
        .key = key_of(r->number),
        .loc = r->loc,
        .plane_bytes = r->plane_bytes,
        .plane_count = r->planes,
        .header = aligned_alloc(4096, 4096),
        .payload = aligned_alloc(4096, (size_t)r->planes * r->plane_bytes),
        .priority = KVSTOW_DEMAND,
        .done = answered,
        .arg = &many[i],
    };
    reads[i] = &many[i].read;
  }
  assert_int_equal(kvstow_tier_read_batch(tier, reads, times), 0);
}

/* The device is given about `given` bytes, and no more. */
static void device_has(uint64_t given, uint64_t each) {
  while (atomic_load(&kept_bytes) + each < given) usleep(100);
  usleep(10000); /* for more, if more would come */
  assert_in_range(atomic_load(&kept_bytes), given - each, given + each);
}

/* Of many reads of records, the first alone; then half of what is left, the rest while that is summed. Of few, all. */
static void a_long_read_is_given_to_the_device_in_parts(void **state) {
  (void)state;
  static const struct {
    uint64_t wanted, first, then;
  } rows[] = {{6 * MIB, 6 * MIB, 0},
              {11 * MIB, 8 * MIB, 0},
              {33 * MIB, 5 * MIB, 14 * MIB},
              {72 * MIB, 5 * MIB, 24 * MIB}};
  for (size_t w = 0; w < sizeof rows / sizeof *rows; w++) {
    const uint64_t each = begin_mute();
    const size_t times = (size_t)(rows[w].wanted / each);
    gate g = GATE_INIT(times);
    ask_longest(times, &g);
    device_has(rows[w].first, each);
    if (rows[w].then > 0) {
      atomic_store(&kept_bytes, 0);
      told_release();
      device_has(rows[w].then, each);
    }
    atomic_store(&mute, false);
    told_release();
    gate_wait(&g);
    for (size_t i = 0; i < times; i++) {
      judge(&many[i]);
      asked_free(&many[i]);
    }
    end();
  }
}

enum { TOGETHER = 6 };

static void spoil_the_last(kvstow_record_read *read) {
  ((uint8_t *)many[0].read.payload)[0] ^= 1;
  answered(read);
}

/* All have come at once, those sent last before the others; who is told first changes what the last one brought, and
 * that is noticed: it was not summed yet. */
static void the_first_of_many_is_told_before_the_last_is_summed(void **state) {
  (void)state;
  const uint64_t each = begin_mute();
  gate g = GATE_INIT(TOGETHER);
  ask_longest(TOGETHER, &g);
  many[TOGETHER - 1].read.done = spoil_the_last;
  device_has(TOGETHER * each, each);
  atomic_store(&mute, false);
  told_release();
  gate_wait(&g);
  for (size_t i = 0; i < TOGETHER; i++) {
    assert_int_equal(many[i].read.result, i > 0 ? 0 : KVSTOW_ECORRUPT);
    asked_free(&many[i]);
  }
  end();
}

/* A real engine's wait ends at the time it was given. */
static void waits_of_engines_end(void **state) {
  (void)state;
  const kvstow__engine_ops *engines[] = {&kvstow__engine_threads, &kvstow__engine_uring};
  for (size_t i = 0; i < 2; i++) {
    kvstow__io_counters counters = {0};
    const kvstow__engine_config config = {.queue_depth = 4, .slots = 1, .counters = &counters};
    kvstow__engine *engine;
    char reason[128];
    if (engines[i]->create(NULL, &config, &engine, reason, sizeof reason) != 0) {
      print_message("skipped: %s: %s\n", engines[i]->name, reason);
      continue;
    }
    assert_null(engines[i]->reap(engine, 0));
    const uint64_t until = now_us() + 3000;
    assert_null(engines[i]->reap(engine, until));
    assert_true(now_us() >= until);
    engines[i]->wake(engine);
    assert_null(engines[i]->reap(engine, KVSTOW__FOREVER));
    engines[i]->destroy(engine);
  }
}

/* ---- who leads while the I/O thread sleeps -------------------------------------------------- */

enum { OPS = 8, NUDGES = 2000 };

static struct {
  kvstow__engine *engine;
  pthread_t io;
  kvstow__op ops[OPS], *resting; /* those not with the engine */
  atomic_bool inside;
  atomic_size_t nudged, seen;
  size_t by_workers;
  bool timed; /* the first turn after an op asks for another, later */
  uint64_t due_us;
  bool over; /* a worker has seen the end */
  bool wrong;
} game;

/* All is done, and a worker has seen it first. */
static bool is_over(bool worker, bool all) {
  if (all && worker) game.over = true;
  return game.over;
}

/* Every other time an outsider asks, as by the inbox, all ops that rest are sent again. */
static bool play(void *turns, kvstow__op *done, uint64_t *until_us) {
  (void)turns;
  const bool worker = !pthread_equal(pthread_self(), game.io);
  if (atomic_exchange(&game.inside, true)) game.wrong = true; /* one at a time */
  game.by_workers += worker && done;
  const bool came = done != NULL;
  while (done) {
    kvstow__op *op = done;
    done = op->next;
    game.wrong |= op->error != 0;
    op->next = game.resting;
    game.resting = op;
  }
  const size_t nudged = atomic_load(&game.nudged);
  const bool fresh = nudged > atomic_exchange(&game.seen, nudged);
  const bool all = nudged == NUDGES && came && game.resting;
  bool going = game.timed || !is_over(worker, all);
  if (!game.timed && going && ((fresh && nudged % 2 == 1) || nudged == NUDGES) && game.resting) {
    kvstow__engine_threads.submit(game.engine, game.resting);
    game.resting = NULL;
  }
  if (game.timed && came) game.due_us = now_us() + 3000;
  *until_us = game.due_us > 0 ? game.due_us : KVSTOW__FOREVER;
  if (game.due_us > 0 && !worker && now_us() >= game.due_us) going = false;
  if (fresh || worker) usleep(20); /* for others to be done, or to ask, meanwhile */
  atomic_store(&game.inside, false);
  return going;
}

static void *nudge(void *arg) {
  (void)arg;
  for (size_t i = 1; i <= NUDGES; i++) {
    atomic_store(&game.nudged, i);
    kvstow__engine_threads.wake(game.engine);
    while (atomic_load(&game.seen) < i) sched_yield();
  }
  return NULL;
}

static void play_with_threads(bool timed) {
  struct iovec iov[OPS];
  static char bytes[OPS][512];
  kvstow__io_counters counters = {0};
  memset(&game, 0, sizeof game);
  game.timed = timed;
  game.io = pthread_self();
  const kvstow__engine_config config = {
      .queue_depth = OPS, .slots = 1, .counters = &counters, .turn = play};
  char reason[128];
  assert_int_equal(
      kvstow__engine_threads.create(NULL, &config, &game.engine, reason, sizeof reason), 0);
  const int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  assert_true(fd >= 0);
  for (size_t i = 0; i < OPS; i++) {
    iov[i] = (struct iovec){bytes[i], sizeof bytes[i]};
    game.ops[i] = (kvstow__op){.fd = fd,
                               .length = sizeof bytes[i],
                               .iov = &iov[i],
                               .iov_count = 1,
                               .next = i + 1 < OPS ? &game.ops[i + 1] : NULL};
  }
  pthread_t outsider;
  if (!timed) assert_int_equal(pthread_create(&outsider, NULL, nudge, NULL), 0);
  kvstow__engine_threads.submit(game.engine, game.ops);
  kvstow__op *done = NULL;
  uint64_t until_us = KVSTOW__FOREVER;
  do done = kvstow__engine_threads.reap(game.engine, until_us);
  while (play(NULL, done, &until_us));
  if (!timed) pthread_join(outsider, NULL);
  kvstow__engine_threads.destroy(game.engine);
  close(fd);
  assert_false(game.wrong);
}

/* No wake is lost while a worker leads, and the end that one sees is told to the I/O thread. */
static void workers_lead_one_at_a_time(void **state) {
  (void)state;
  play_with_threads(false);
  assert_true(game.by_workers > 0);
}

/* A time set in a worker's turn wakes the I/O thread, who sleeps for good otherwise. */
static void a_workers_deadline_is_kept(void **state) {
  (void)state;
  play_with_threads(true);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_read_gets_its_bytes_or_its_error_once),
      cmocka_unit_test(a_wrong_plane_is_never_delivered),
      cmocka_unit_test(planes_that_came_before_their_header_are_checked),
      cmocka_unit_test(who_waits_behind_a_mute_device_is_answered_in_time),
      cmocka_unit_test(a_long_read_is_given_to_the_device_in_parts),
      cmocka_unit_test(the_first_of_many_is_told_before_the_last_is_summed),
      cmocka_unit_test(waits_of_engines_end),
      cmocka_unit_test(workers_lead_one_at_a_time),
      cmocka_unit_test(a_workers_deadline_is_kept),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
