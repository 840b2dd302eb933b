/* tests/test_tier_fixture.h - stores in scratch directories, records made from numbers, and
 * appends and reads that wait: what the tests of tier/ share.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TEST_TIER_FIXTURE_H
#define KVSTOW_TEST_TIER_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <kvstow/tier.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tier/format.h"
#include "tier/io.h"

#define UNUSED __attribute__((unused))
#define SEGMENT (1u << 20) /* of the tests' stores: small, so that there are many */
#define PLANE 4096u

#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif
#ifndef UNDER_TSAN
#define UNDER_TSAN 0
#endif

/* ---- scratch directories -------------------------------------------------------------------- */

UNUSED static char *scratch_new(void) {
  const char *base = getenv("KVSTOW_TEST_DIR");
  if (!base) base = getenv("TMPDIR");
  if (!base) base = ".";
  char path[4096];
  snprintf(path, sizeof path, "%s/tier-XXXXXX", base);
  assert_non_null(mkdtemp(path));
  return strdup(path);
}

static int scratch_remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
  (void)st, (void)type, (void)ftw;
  return remove(path);
}

UNUSED static void scratch_remove(char *path) {
  nftw(path, scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS);
  free(path);
}

UNUSED static char *join(const char *dir, const char *name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  return strdup(path);
}

/* ---- engines -------------------------------------------------------------------------------- */

typedef struct variant {
  const char *name;
  kvstow_engine engine;
  bool buffered;
  bool encrypted;
} variant;

static variant VARIANTS[] UNUSED = {
    {"io_uring, direct", KVSTOW_ENGINE_URING, false, false},
    {"io_uring, buffered", KVSTOW_ENGINE_URING, true, false},
    {"threads, direct", KVSTOW_ENGINE_THREADS, false, false},
    {"threads, buffered", KVSTOW_ENGINE_THREADS, true, false},
    {"io_uring, direct, encrypted", KVSTOW_ENGINE_URING, false, true},
    {"threads, buffered, encrypted", KVSTOW_ENGINE_THREADS, true, true},
};

static const uint8_t TEST_KEY[KVSTOW_KEY_BYTES] UNUSED = "a key of thirty-two bytes, tests";

UNUSED static kvstow__io io_of(const variant *v) {
  return (kvstow__io){
      .files = &kvstow__files,
      .engines = {&kvstow__engine_uring, &kvstow__engine_threads},
      .kinds = {KVSTOW_ENGINE_URING, KVSTOW_ENGINE_THREADS},
      .buffered = v->buffered,
  };
}

UNUSED static int tier_open_why(const variant *v, const kvstow_tier_options *options,
                                kvstow_tier **tier, char *why) {
  const kvstow__io io = io_of(v);
  return kvstow__tier_open_with(options, &io, tier, why, KVSTOW_MESSAGE_BYTES);
}

/* io_uring may be forbidden here, and ThreadSanitizer does not see what the kernel writes. */
UNUSED static bool variant_runs(const variant *v) {
  if (v->engine != KVSTOW_ENGINE_URING) return true;
  if (UNDER_TSAN) {
    print_message("skipped under ThreadSanitizer: %s\n", v->name);
    return false;
  }
  char *dir = scratch_new();
  const char *dirs[] = {dir};
  kvstow_tier_options options;
  kvstow_tier_options_init(&options);
  options.dirs = dirs;
  options.dirs_count = 1;
  options.segment_bytes = SEGMENT;
  options.budget_bytes = 4 * SEGMENT;
  options.engine = KVSTOW_ENGINE_URING;
  kvstow_tier *tier;
  const int code = kvstow_tier_open(&options, &tier, NULL, 0);
  if (!code) kvstow_tier_close(tier);
  scratch_remove(dir);
  if (code) print_message("skipped, no io_uring here: %s\n", v->name);
  return code == 0;
}

static variant *the_variant UNUSED; /* of the group that runs */

UNUSED static kvstow_tier_options options_for(const char *const *dirs, uint32_t segments) {
  kvstow_tier_options options;
  kvstow_tier_options_init(&options);
  options.dirs = dirs;
  options.dirs_count = 1;
  options.segment_bytes = SEGMENT;
  options.budget_bytes = (uint64_t)segments * (SEGMENT + 4096) + 65536;
  options.engine = the_variant ? the_variant->engine : KVSTOW_ENGINE_AUTO;
  options.encryption_key = the_variant && the_variant->encrypted ? TEST_KEY : NULL;
  return options;
}

UNUSED static kvstow_tier *tier_open(const kvstow_tier_options *options) {
  static variant any = {"any", KVSTOW_ENGINE_AUTO, false, false};
  char why[KVSTOW_MESSAGE_BYTES];
  kvstow_tier *tier = NULL;
  const int code = tier_open_why(the_variant ? the_variant : &any, options, &tier, why);
  if (code) fail_msg("open: %s: %s", kvstow_errname(code), why);
  return tier;
}

UNUSED static kvstow_tier_stats stats_of(const kvstow_tier *tier) {
  kvstow_tier_stats stats = {.size = sizeof stats};
  kvstow_tier_get_stats(tier, &stats);
  return stats;
}

/* ---- records made from numbers -------------------------------------------------------------- */

typedef struct record {
  uint64_t number;
  uint32_t planes, plane_bytes;
  uint8_t *header, *payload;
  kvstow_loc loc;
  int result;
} record;

static uint64_t mix(uint64_t x) {
  x ^= x >> 30;
  x *= UINT64_C(0xbf58476d1ce4e5b9);
  x ^= x >> 27;
  x *= UINT64_C(0x94d049bb133111eb);
  return x ^ (x >> 31);
}

UNUSED static kvstow_key key_of(uint64_t number) {
  return (kvstow_key){mix(number + 1), mix(~number)};
}

static uint64_t word_of(uint64_t number, size_t i) {
  return mix(number * UINT64_C(0x9e3779b97f4a7c15) + i);
}

UNUSED static record record_new(uint64_t number, uint32_t planes, uint32_t plane_bytes) {
  record r = {.number = number, .planes = planes, .plane_bytes = plane_bytes};
  const size_t bytes = (size_t)planes * plane_bytes;
  r.header = aligned_alloc(4096, 4096);
  r.payload = aligned_alloc(4096, bytes);
  assert_non_null(r.header);
  assert_non_null(r.payload);
  uint64_t *words = (uint64_t *)(void *)r.payload;
  for (size_t i = 0; i < bytes / 8; i++) words[i] = word_of(number, i);
  kvstow_record d = {.key = key_of(number), .planes = planes, .plane_bytes = plane_bytes};
  memcpy(d.tag, &number, sizeof number);
  assert_int_equal(kvstow_record_format(r.header, &d, &number, sizeof number), 0);
  for (uint32_t p = 0; p < planes; p++)
    kvstow_record_sums(r.header)[p] =
        kvstow_checksum(r.payload + (size_t)p * plane_bytes, plane_bytes);
  return r;
}

UNUSED static void record_free(record *r) {
  free(r->header);
  free(r->payload);
  r->header = r->payload = NULL;
}

/* ---- calls that wait ------------------------------------------------------------------------ */

typedef struct gate {
  pthread_mutex_t lock;
  pthread_cond_t open;
  size_t left;
  int result;
} gate;

#define GATE_INIT(n)                                                                               \
  { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, (n), 0 }

UNUSED static void gate_pass(gate *g, int result) {
  pthread_mutex_lock(&g->lock);
  if (result && !g->result) g->result = result;
  if (--g->left == 0) pthread_cond_signal(&g->open);
  pthread_mutex_unlock(&g->lock);
}

UNUSED static void gate_append_done(void *arg, int result) {
  gate_pass(arg, result);
}
UNUSED static void gate_read_done(kvstow_record_read *read) {
  gate_pass(read->arg, read->result);
}

UNUSED static int gate_wait(gate *g) {
  pthread_mutex_lock(&g->lock);
  while (g->left > 0) pthread_cond_wait(&g->open, &g->lock);
  pthread_mutex_unlock(&g->lock);
  return g->result;
}

/* Appends records as one run and waits. */
UNUSED static int append_all(kvstow_tier *tier, record *records, size_t count) {
  kvstow_record_write *writes = calloc(count, sizeof *writes);
  for (size_t i = 0; i < count; i++) {
    writes[i].header = records[i].header;
    writes[i].payload = records[i].payload;
    writes[i].run_start = i == 0;
  }
  gate g = GATE_INIT(1);
  int code = kvstow_tier_append(tier, writes, count, gate_append_done, &g);
  if (!code) code = gate_wait(&g);
  for (size_t i = 0; i < count; i++) {
    records[i].loc = writes[i].loc;
    records[i].result = writes[i].result;
  }
  free(writes);
  return code;
}

UNUSED static record append_one(kvstow_tier *tier, uint64_t number, uint32_t planes) {
  record r = record_new(number, planes, PLANE);
  assert_int_equal(append_all(tier, &r, 1), 0);
  return r;
}

/* All of a record, into the memory it came from. */
UNUSED static kvstow_record_read whole_read(const record *r, gate *g) {
  return (kvstow_record_read){.key = key_of(r->number),
                              .loc = r->loc,
                              .plane_bytes = r->plane_bytes,
                              .plane_count = r->planes,
                              .header = r->header,
                              .payload = r->payload,
                              .done = gate_read_done,
                              .arg = g};
}

/* Reads planes [first, first + count) at a location and checks every byte; the result code. */
UNUSED static int read_planes(kvstow_tier *tier, uint64_t number, kvstow_loc loc,
                              uint32_t plane_bytes, uint32_t first, uint32_t count) {
  const size_t bytes = (size_t)count * plane_bytes;
  uint8_t *header = aligned_alloc(4096, 4096);
  uint8_t *payload = count ? aligned_alloc(4096, bytes) : NULL;
  gate g = GATE_INIT(1);
  kvstow_record_read read = {
      .key = key_of(number),
      .loc = loc,
      .plane_bytes = plane_bytes,
      .plane_first = first,
      .plane_count = count,
      .header = header,
      .payload = payload,
      .done = gate_read_done,
      .arg = &g,
  };
  kvstow_record_read *reads[] = {&read};
  assert_int_equal(kvstow_tier_read_batch(tier, reads, 1), 0);
  gate_wait(&g);
  if (read.result == 0) {
    const uint64_t *words = (const uint64_t *)(const void *)payload;
    for (size_t i = 0; i < bytes / 8; i++)
      if (words[i] != word_of(number, (size_t)first * plane_bytes / 8 + i))
        fail_msg("record %llu: wrong byte delivered", (unsigned long long)number);
    uint32_t owner_bytes;
    const void *owner = kvstow_record_owner(header, &owner_bytes);
    assert_int_equal(owner_bytes, sizeof number);
    assert_memory_equal(owner, &number, sizeof number);
  }
  free(header);
  free(payload);
  return read.result;
}

UNUSED static int read_record(kvstow_tier *tier, const record *r) {
  return read_planes(tier, r->number, r->loc, r->plane_bytes, 0, r->planes);
}

/* ---- what a store shows --------------------------------------------------------------------- */

typedef struct seen {
  uint64_t numbers[4096];
  kvstow_record records[4096];
  size_t count;
} seen;

UNUSED static bool seen_add(void *arg, const kvstow_record *r) {
  seen *s = arg;
  assert_true(s->count < 4096);
  memcpy(&s->numbers[s->count], r->tag, 8);
  s->records[s->count++] = *r;
  return true;
}

UNUSED static seen *scan_all(kvstow_tier *tier) {
  seen *s = calloc(1, sizeof *s);
  for (uint32_t i = 0; i < kvstow_tier_segment_count(tier); i++)
    assert_int_equal(kvstow_tier_scan(tier, i, seen_add, s), 0);
  return s;
}

UNUSED static const kvstow_record *seen_find(const seen *s, uint64_t number) {
  for (size_t i = 0; i < s->count; i++)
    if (s->numbers[i] == number) return &s->records[i];
  return NULL;
}

/* ---- files under the store ------------------------------------------------------------------ */

UNUSED static void patch(const char *dir, const char *name, uint64_t offset, const void *bytes,
                         size_t count) {
  char *path = join(dir, name);
  const int fd = open(path, O_RDWR);
  assert_true(fd >= 0);
  assert_int_equal(pwrite(fd, bytes, count, (off_t)offset), count);
  assert_int_equal(fsync(fd), 0);
  close(fd);
  free(path);
}

UNUSED static void flip(const char *dir, const char *name, uint64_t offset) {
  char *path = join(dir, name);
  const int fd = open(path, O_RDONLY);
  assert_true(fd >= 0);
  uint8_t byte;
  assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
  close(fd);
  free(path);
  byte ^= 0x10;
  patch(dir, name, offset, &byte, 1);
}

UNUSED static void copy_file(const char *from_dir, const char *to_dir, const char *name) {
  char *from = join(from_dir, name), *to = join(to_dir, name);
  const int in = open(from, O_RDONLY), out = open(to, O_RDWR | O_CREAT | O_TRUNC, 0600);
  assert_true(in >= 0 && out >= 0);
  static char buffer[1 << 16];
  ssize_t n;
  while ((n = read(in, buffer, sizeof buffer)) > 0)
    assert_int_equal(write(out, buffer, (size_t)n), n);
  close(in);
  close(out);
  free(from);
  free(to);
}

/* The store as a crash now would leave it: its files copied while it is open. */
UNUSED static char *crash_copy(const char *dir, uint32_t segments) {
  char *to = scratch_new();
  copy_file(dir, to, "super");
  for (uint32_t i = 0; i < segments; i++) {
    char name[32];
    snprintf(name, sizeof name, "seg-%06u.kvs", i);
    char *path = join(dir, name);
    if (access(path, F_OK) == 0) copy_file(dir, to, name);
    free(path);
  }
  return to;
}

#endif
