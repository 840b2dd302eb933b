/* tests/fuzz/fuzz_segment.c - a tier's segments with edits in them: what it shows lies within its files, has
 * its own bytes or an error, and is a subset of what was stored if no checksum was forged.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include "edits.h"

enum { RECORDS = 6, PLANES = 2, PLANE = 4096, SEGMENT = 1 << 20, SHOWN_MAX = 256 };

static const char *const FILES[2] = {"seg-000000.kvs", "seg-000001.kvs"};
static memory_disk base, disk;

static kvstow_tier *open_disk(bool read_only, int *code) {
  static const char *const dirs[] = {"memory"};
  kvstow_tier_options options;
  kvstow_tier_options_init(&options);
  options.dirs = dirs;
  options.dirs_count = 1;
  options.segment_bytes = SEGMENT;
  options.budget_bytes = 4 * SEGMENT;
  options.read_only = read_only;
  const kvstow__io io = memory_io(&disk);
  kvstow_tier *tier = NULL;
  char why[KVSTOW_MESSAGE_BYTES] = "";
  *code = kvstow__tier_open_with(&options, &io, &tier, why, sizeof why);
  FUZZ_CHECK(*code == 0 || *why != 0);
  return tier;
}

/* ---- calls that wait ------------------------------------------------------------------------ */

typedef struct wait_group {
  pthread_mutex_t lock;
  pthread_cond_t done;
  size_t left;
} wait_group;

static void pass(wait_group *w) {
  pthread_mutex_lock(&w->lock);
  if (--w->left == 0) pthread_cond_signal(&w->done);
  pthread_mutex_unlock(&w->lock);
}

static void wait_for(wait_group *w) {
  pthread_mutex_lock(&w->lock);
  while (w->left > 0) pthread_cond_wait(&w->done, &w->lock);
  pthread_mutex_unlock(&w->lock);
}

static void appended(void *arg, int result) {
  FUZZ_CHECK(result == 0);
  pass(arg);
}

static void was_read(kvstow_record_read *read) {
  pass(read->arg);
}

#define WAIT_GROUP(count)                                                                          \
  { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, count }

/* ---- the store ------------------------------------------------------------------------------ */

static void fill(uint8_t *payload, uint32_t number) {
  for (uint32_t i = 0; i < PLANES * PLANE; i++)
    payload[i] = (uint8_t)((number + 1) * 2654435761u >> i % 24 ^ i);
}

static void append(kvstow_tier *tier, uint32_t number) {
  static _Alignas(4096) uint8_t header[KVSTOW_PAGE_BYTES], payload[PLANES * PLANE];
  kvstow_record shape = {
      .key = {number, ~(uint64_t)number}, .planes = PLANES, .plane_bytes = PLANE};
  memcpy(shape.tag, &number, sizeof number);
  FUZZ_CHECK(kvstow_record_format(header, &shape, &number, sizeof number) == 0);
  fill(payload, number);
  for (uint32_t p = 0; p < PLANES; p++)
    kvstow_record_sums(header)[p] = kvstow_checksum(payload + p * PLANE, PLANE);
  kvstow_record_write write = {.header = header, .payload = payload, .run_start = number % 2 == 0};
  wait_group w = WAIT_GROUP(1);
  FUZZ_CHECK(kvstow_tier_append(tier, &write, 1, appended, &w) == 0);
  wait_for(&w);
}

/* Half of the records in a sealed segment, half in one that was left open; one erased. */
static void make(void) {
  int code;
  kvstow_tier *tier = open_disk(false, &code);
  FUZZ_CHECK(code == 0);
  for (uint32_t i = 0; i < RECORDS; i++) {
    append(tier, i);
    if (i == RECORDS / 2 - 1) FUZZ_CHECK(kvstow_tier_seal(tier) == 0);
  }
  FUZZ_CHECK(kvstow_tier_flush(tier) == 0);
  memory_disk_copy(&base, &disk);
  FUZZ_CHECK(kvstow_tier_close(tier) == 0);
}

/* ---- what it shows -------------------------------------------------------------------------- */

typedef struct shown {
  kvstow_record records[SHOWN_MAX];
  size_t count;
} shown;

static bool show(void *arg, const kvstow_record *record) {
  shown *s = arg;
  if (s->count < SHOWN_MAX) s->records[s->count++] = *record;
  return true;
}

static void check_record(kvstow_tier *tier, const kvstow_record *r, bool forged) {
  FUZZ_CHECK(r->planes > 0 && r->plane_bytes > 0);
  FUZZ_CHECK((uint64_t)r->loc.page * KVSTOW_PAGE_BYTES + KVSTOW_PAGE_BYTES +
                 (uint64_t)r->planes * r->plane_bytes <=
             SEGMENT);
  uint8_t *memory =
      aligned_alloc(KVSTOW_PAGE_BYTES, KVSTOW_PAGE_BYTES + (size_t)r->planes * r->plane_bytes);
  FUZZ_CHECK(memory != NULL);
  wait_group w = WAIT_GROUP(1);
  kvstow_record_read read = {.key = r->key,
                             .loc = r->loc,
                             .plane_bytes = r->plane_bytes,
                             .plane_count = r->planes,
                             .header = memory,
                             .payload = memory + KVSTOW_PAGE_BYTES,
                             .done = was_read,
                             .arg = &w};
  kvstow_record_read *reads[] = {&read};
  FUZZ_CHECK(kvstow_tier_read_batch(tier, reads, 1) == 0);
  wait_for(&w);
  if (!forged) {
    uint32_t number;
    memcpy(&number, r->tag, sizeof number);
    FUZZ_CHECK(number < RECORDS && r->key.lo == number && r->key.hi == ~(uint64_t)number);
    FUZZ_CHECK(r->planes == PLANES && r->plane_bytes == PLANE);
    static uint8_t expected[PLANES * PLANE];
    fill(expected, number);
    FUZZ_CHECK(read.result != 0 ||
               memcmp(memory + KVSTOW_PAGE_BYTES, expected, sizeof expected) == 0);
  } else if (read.result == 0) { /* then its sums are right */
    kvstow_record header;
    kvstow_record_parse(memory, &header);
    for (uint32_t p = 0; p < r->planes; p++)
      FUZZ_CHECK(kvstow_record_sums(memory)[p] ==
                 kvstow_plane_checksum(memory + KVSTOW_PAGE_BYTES + (size_t)p * r->plane_bytes,
                                       r->plane_bytes, header.part_bytes));
  }
  free(memory);
}

static size_t look(bool read_only, bool forged) {
  int code;
  kvstow_tier *tier = open_disk(read_only, &code);
  if (code) return 0;
  static shown s;
  s.count = 0;
  for (uint32_t id = 0; id < kvstow_tier_segment_count(tier); id++)
    (void)kvstow_tier_scan(tier, id, show, &s);
  for (size_t i = 0; i < s.count; i++) check_record(tier, &s.records[i], forged);
  const size_t count = s.count;
  FUZZ_CHECK(kvstow_tier_close(tier) == 0);
  return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  if (!*base.files[0].name) make();
  if (bytes < 1) return 0;
  memory_disk_copy(&disk, &base);
  edit_store(&disk, FILES, data, bytes);
  const bool forged = (data[0] & EDIT_RESEAL) != 0;
  const size_t before = look(true, forged);
  if (data[0] & EDIT_OWNED) { /* an owner finds the same, and leaves it so */
    FUZZ_CHECK(look(false, forged) == before);
    FUZZ_CHECK(look(true, forged) == before);
  }
  return 0;
}

void fuzz_seeds(fuzz_give give) {
  edit_seeds(give);
}
