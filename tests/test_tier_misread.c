/* A disk that answers one read wrongly, each in turn: with noise, with good pages of another file or another
 * place, with what lay there before. Nothing of that is believed, and nothing is lost by it: the next answer
 * is right.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/memory_disk.h"
#include "test_tier_fixture.h"

enum { RECORDS = 24, SEGMENTS = 6, PLANES = 3, LARGE_RECORDS = 700, LARGE_RUN = 70 };
#define LARGE_SEGMENT (8u << 20)

static memory_disk disk, older;
static kvstow_tier_options options;

/* ---- the disk ------------------------------------------------------------------------------- */

typedef enum lie { NOISE, OTHER_FILE, OTHER_PLACE, OLDER, KINDS } lie;
static const char *const KIND_NAMES[] = {"noise", "another file", "another place", "older"};

static struct {
  uint64_t reads, misread_at; /* since armed; the one that is answered wrongly (0: none) */
  uint64_t row;               /* how many are, from that one on */
  lie kind;
} faults;

static void fill_from(const memory_file *file, const kvstow__op *op, uint64_t offset) {
  for (uint32_t i = 0; i < op->iov_count; offset += op->iov[i].iov_len, i++)
    if (offset + op->iov[i].iov_len <= file->size)
      memcpy(op->iov[i].iov_base, file->bytes + offset, op->iov[i].iov_len);
}

/* The next segment file, round. */
static const memory_file *another(int fd) {
  for (int i = 1; i < MEMORY_FILES_MAX; i++) {
    const memory_file *file = &disk.files[(fd + i) % MEMORY_FILES_MAX];
    if (strncmp(file->name, "seg-", 4) == 0) return file;
  }
  return &disk.files[fd];
}

static void misread(const kvstow__op *op) {
  const memory_file *file = &disk.files[op->fd];
  if (faults.kind == NOISE)
    for (uint32_t i = 0; i < op->iov_count; i++)
      for (size_t b = 0; b < op->iov[i].iov_len; b++)
        ((uint8_t *)op->iov[i].iov_base)[b] = (uint8_t)mix(op->offset + b + i);
  if (faults.kind == OTHER_FILE) fill_from(another(op->fd), op, op->offset);
  if (faults.kind == OTHER_PLACE)
    fill_from(file, op, op->offset ^ 65536); /* where another run begins, or ends */
  if (faults.kind == OLDER) fill_from(&older.files[op->fd], op, op->offset);
}

static void submit(kvstow__engine *e, kvstow__op *list) {
  for (kvstow__op *op = list; op; op = list) {
    list = op->next;
    op->next = NULL;
    memory_submit(e, op);
    if (op->kind != KVSTOW__READ || op->error) continue;
    faults.reads++;
    if (faults.misread_at && faults.reads >= faults.misread_at &&
        faults.reads < faults.misread_at + faults.row)
      misread(op);
  }
}

static void arm(lie kind, uint64_t at) {
  faults.kind = kind;
  faults.misread_at = at;
  faults.row = 1;
  faults.reads = 0;
}

/* ---- stores --------------------------------------------------------------------------------- */

static kvstow_tier *must_open(bool read_only) {
  static kvstow__engine_ops lying;
  lying = memory_engine;
  lying.submit = submit;
  kvstow__io io = memory_io(&disk);
  io.engines[0] = &lying;
  options.read_only = read_only;
  kvstow_tier *tier = NULL;
  char why[KVSTOW_MESSAGE_BYTES];
  const int code = kvstow__tier_open_with(&options, &io, &tier, why, sizeof why);
  if (code) fail_msg("open: %s: %s", kvstow_errname(code), why);
  return tier;
}

static void append(kvstow_tier *tier, uint64_t from, uint64_t to) {
  for (uint64_t i = from; i < to; i += 2) {
    record pair[] = {record_new(i, PLANES, PLANE), record_new(i + 1, PLANES, PLANE)};
    assert_int_equal(append_all(tier, pair, 2), 0);
    for (int k = 0; k < 2; k++) record_free(&pair[k]);
  }
}

typedef enum store { KILLED, CLOSED, SEALED, REUSED, STORES } store;
static const char *const STORE_NAMES[] = {"killed", "closed", "sealed",
                                          "killed, in files used before"};
static memory_disk stores[2][STORES], before[2], old_lives[2]; /* by encryption */

static void choose(bool encrypted) {
  static const char *const dirs[] = {"memory"};
  the_variant = &VARIANTS[encrypted ? 5 : 3];
  options = options_for(dirs, SEGMENTS);
  options.engine = KVSTOW_ENGINE_AUTO;
}

/* Two sealed segments; one that was closed with four records, which is `before`, and went on. */
static void make_stores(bool encrypted) {
  choose(encrypted);
  memory_disk_clear(&disk);
  disk.random = 7;
  arm(NOISE, 0);
  kvstow_tier *tier = must_open(false);
  append(tier, 0, 8);
  assert_int_equal(kvstow_tier_seal(tier), 0);
  append(tier, 8, 16);
  assert_int_equal(kvstow_tier_seal(tier), 0);
  append(tier, 16, 20);
  assert_int_equal(kvstow_tier_close(tier), 0);
  memory_disk_copy(&before[encrypted], &disk);
  tier = must_open(false);
  append(tier, 20, RECORDS);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  memory_disk_copy(&stores[encrypted][KILLED], &disk);
  assert_int_equal(kvstow_tier_close(tier), 0);
  memory_disk_copy(&stores[encrypted][CLOSED], &disk);
  tier = must_open(false);
  assert_int_equal(kvstow_tier_seal(tier), 0);
  assert_int_equal(kvstow_tier_close(tier), 0);
  memory_disk_copy(&stores[encrypted][SEALED], &disk);
}

/* The same records in files that were all used before. */
static void make_reused(bool encrypted) {
  choose(encrypted);
  memory_disk_clear(&disk);
  disk.random = 7;
  arm(NOISE, 0);
  kvstow_tier *tier = must_open(false);
  for (uint32_t i = 0; i < SEGMENTS; i++) {
    append(tier, 0, 8);
    assert_int_equal(kvstow_tier_seal(tier), 0);
  }
  memory_disk_copy(&old_lives[encrypted], &disk);
  for (uint32_t i = 0; i < SEGMENTS; i++) assert_int_equal(kvstow_tier_reclaim(tier, i), 0);
  append(tier, 0, 16);
  assert_int_equal(kvstow_tier_seal(tier), 0);
  append(tier, 16, 22);
  assert_int_equal(kvstow_tier_seal(tier), 0);
  append(tier, 22, RECORDS);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  assert_int_equal(kvstow_tier_erase(tier, NULL, 0), 0); /* files given up shall show nothing */
  memory_disk_copy(&stores[encrypted][REUSED], &disk);
  assert_int_equal(kvstow_tier_close(tier), 0);
}

static int make_all(void **state) {
  (void)state;
  for (int encrypted = 1; encrypted >= 0; encrypted--) {
    make_stores(encrypted);
    make_reused(encrypted);
  }
  return 0;
}

static int clear_all(void **state) {
  (void)state;
  for (int i = 0; i < 2 * STORES; i++) memory_disk_clear(&stores[i / STORES][i % STORES]);
  for (int i = 0; i < 2; i++) {
    memory_disk_clear(&before[i]);
    memory_disk_clear(&old_lives[i]);
  }
  memory_disk_clear(&disk);
  memory_disk_clear(&older);
  return 0;
}

static void take(store which, bool encrypted) {
  choose(encrypted);
  memory_disk_copy(&disk, &stores[encrypted][which]);
  memory_disk_copy(&older, which == REUSED ? &old_lives[encrypted] : &before[encrypted]);
}

static const uint32_t ALL = (1u << RECORDS) - 1;

/* The records shown, as bits; each must be readable, and as it was written. */
static uint32_t shown(kvstow_tier *tier) {
  seen *s = scan_all(tier);
  uint32_t bits = 0;
  for (size_t i = 0; i < s->count; i++) {
    assert_true(s->numbers[i] < RECORDS);
    const int code = read_planes(tier, s->numbers[i], s->records[i].loc, PLANE, 0, PLANES);
    if (code)
      fail_msg("%s: record %d in segment %d: %s", KIND_NAMES[faults.kind], (int)s->numbers[i],
               (int)s->records[i].loc.segment, kvstow_errname(code));
    if (bits & 1u << s->numbers[i])
      fail_msg("%s: record %d twice", KIND_NAMES[faults.kind], (int)s->numbers[i]);
    bits |= 1u << s->numbers[i];
  }
  free(s);
  return bits;
}

static void expect(uint32_t expected, uint32_t found, const char *what, store which, uint64_t at) {
  if (found != expected)
    fail_msg("%s, %s, %s at read %llu: %06x of %06x", what, STORE_NAMES[which],
             KIND_NAMES[faults.kind], (unsigned long long)at, found, expected);
}

/* ---- opening -------------------------------------------------------------------------------- */

/* Opens with each read answered wrongly in turn; an owner's store is opened once more. */
static void open_each(bool read_only, store which, bool encrypted, lie kind) {
  uint64_t total = 1;
  for (uint64_t at = 0; at <= total; at++) { /* 0: none */
    take(which, encrypted);
    arm(kind, at);
    kvstow_tier *tier = must_open(read_only);
    if (at == 0) total = faults.reads;
    faults.misread_at = 0;
    expect(ALL, shown(tier), "at once", which, at);
    assert_int_equal(kvstow_tier_close(tier), 0);
    if (read_only) continue;
    tier = must_open(true);
    expect(ALL, shown(tier), "later", which, at);
    assert_int_equal(kvstow_tier_close(tier), 0);
  }
  assert_true(total >= 6); /* both ends of each */
}

static void one_wrong_answer_at_opening_costs_a_reader_nothing(void **state) {
  (void)state;
  for (int i = 0; i < 2 * STORES * KINDS; i++)
    open_each(true, (store)(i / KINDS % STORES), i / KINDS / STORES, (lie)(i % KINDS));
}

static void one_wrong_answer_at_opening_costs_an_owner_nothing(void **state) {
  (void)state;
  for (int i = 0; i < 2 * STORES * KINDS; i++)
    open_each(false, (store)(i / KINDS % STORES), i / KINDS / STORES, (lie)(i % KINDS));
}

/* A table that reaches beyond the tail recovery reads at once. */
static void one_wrong_answer_costs_no_large_table(void **state) {
  (void)state;
  for (int encrypted = 0; encrypted < 2; encrypted++) {
    take(SEALED, encrypted);
    memory_disk_clear(&disk);
    memory_disk_clear(&older);
    options.segment_bytes = LARGE_SEGMENT;
    options.budget_bytes = 3ull * (LARGE_SEGMENT + 4096) + 65536;
    arm(NOISE, 0);
    kvstow_tier *tier = must_open(false);
    for (uint64_t first = 0; first < LARGE_RECORDS; first += LARGE_RUN) {
      record r[LARGE_RUN];
      for (uint64_t i = 0; i < LARGE_RUN; i++) r[i] = record_new(first + i, 1, PLANE);
      assert_int_equal(append_all(tier, r, LARGE_RUN), 0);
      for (uint64_t i = 0; i < LARGE_RUN; i++) record_free(&r[i]);
      if (first == 0) memory_disk_copy(&older, &disk);
    }
    assert_int_equal(kvstow_tier_seal(tier), 0);
    assert_int_equal(kvstow_tier_close(tier), 0);
    for (int k = 0; k < KINDS; k++) {
      uint64_t total = 1;
      for (uint64_t at = 0; at <= total; at++) {
        arm((lie)k, at);
        tier = must_open(true);
        if (at == 0) total = faults.reads;
        faults.misread_at = 0;
        seen *s = scan_all(tier);
        assert_int_equal(s->count, LARGE_RECORDS);
        free(s);
        kvstow_tier_close(tier);
      }
      assert_true(total >= 4);
    }
  }
}

/* ---- while it is open ----------------------------------------------------------------------- */

/* Segments whose tables are on disk alone. */
static kvstow_tier *open_scanned(void) {
  arm(NOISE, 0);
  kvstow_tier *tier = must_open(false);
  free(scan_all(tier));
  return tier;
}

static void one_wrong_answer_costs_a_scan_nothing(void **state) {
  (void)state;
  for (int i = 0; i < 2 * KINDS; i++) {
    take(SEALED, i / KINDS);
    kvstow_tier *tier = open_scanned();
    uint64_t total = 1;
    for (uint64_t at = 0; at <= total; at++) {
      arm((lie)(i % KINDS), at);
      seen *s = scan_all(tier);
      if (at == 0) total = faults.reads;
      faults.misread_at = 0;
      assert_int_equal(s->count, RECORDS);
      free(s);
      expect(ALL, shown(tier), "scan", SEALED, at);
    }
    assert_true(total >= 6);
    kvstow_tier_close(tier);
  }
}

static kvstow_loc place_of(kvstow_tier *tier, uint64_t number) {
  seen *s = scan_all(tier);
  const kvstow_record *r = seen_find(s, number);
  assert_non_null(r);
  const kvstow_loc loc = r->loc;
  free(s);
  return loc;
}

/* Two records of a segment are erased one after the other; what the disk answers wrongly while it is the second
 * one's turn may be the footer from before the first one's. */
static void one_wrong_answer_at_an_erase_brings_nothing_back(void **state) {
  (void)state;
  for (int i = 0; i < 2 * KINDS; i++) {
    uint64_t total = 1;
    for (uint64_t at = 0; at <= total; at++) {
      take(SEALED, i / KINDS);
      kvstow_tier *tier = open_scanned();
      memory_disk_copy(&older, &disk);
      const kvstow_loc first = place_of(tier, 2), second = place_of(tier, 5);
      assert_int_equal(kvstow_tier_erase(tier, &first, 1), 0);
      arm((lie)(i % KINDS), at);
      if (faults.kind == OLDER)
        faults.row = 2; /* a trailer and its table: a mirror that lags behind */
      assert_int_equal(kvstow_tier_erase(tier, &second, 1), 0);
      if (at == 0) total = faults.reads;
      faults.misread_at = 0;
      expect(ALL & ~(1u << 2 | 1u << 5), shown(tier), "erased", SEALED, at);
      assert_int_equal(kvstow_tier_close(tier), 0);
      tier = must_open(true);
      expect(ALL & ~(1u << 2 | 1u << 5), shown(tier), "erased, later", SEALED, at);
      assert_int_equal(kvstow_tier_close(tier), 0);
    }
    assert_true(total >= 2);
  }
}

/* A record that power loss tore is erased in the footer alone: its header page is good. A footer that can't be read
 * for a moment must not be made anew from header pages then. */
static void one_wrong_answer_at_an_erase_heals_no_torn_record(void **state) {
  (void)state;
  const uint32_t left = ALL & ~(1u << 23);
  for (int i = 0; i < 2 * KINDS; i++) {
    uint64_t total = 1;
    for (uint64_t at = 0; at <= total; at++) {
      take(KILLED, i / KINDS);
      arm(NOISE, 0);
      kvstow_tier *tier = must_open(true);
      const kvstow_loc torn = place_of(tier, 23);
      assert_int_equal(kvstow_tier_close(tier), 0);
      char name[32];
      snprintf(name, sizeof name, "seg-%06u.kvs", torn.segment);
      memset(memory_file_named(&disk, name)->bytes + ((size_t)torn.page + 2) * 4096, 0, 4096);
      tier = open_scanned();
      const kvstow_loc loc = place_of(tier, 21);
      memory_disk_copy(&older, &disk);
      arm((lie)(i % KINDS), at);
      const int code = kvstow_tier_erase(tier, &loc, 1);
      if (at == 0) total = faults.reads;
      faults.misread_at = 0;
      assert_int_equal(code, 0);
      assert_int_equal(kvstow_tier_close(tier), 0);
      tier = must_open(true);
      expect(left & ~(1u << 21), shown(tier), "torn", KILLED, at);
      assert_int_equal(kvstow_tier_close(tier), 0);
    }
    assert_true(total >= 2);
  }
}

/* Reads of records: an error, or what was written. What comes after a reclaim is another life's. */
static void one_wrong_answer_is_never_delivered(void **state) {
  (void)state;
  for (int i = 0; i < 2 * KINDS; i++) {
    take(CLOSED, i / KINDS);
    kvstow_tier *tier = open_scanned();
    const kvstow_loc given_up = place_of(tier, 9);
    memory_disk_copy(&older, &disk);
    assert_int_equal(kvstow_tier_reclaim(tier, given_up.segment), 0);
    for (uint64_t n = 0; n < 2; n++) { /* fills segments until that one is used again */
      append(tier, 8, 16);
      assert_int_equal(kvstow_tier_seal(tier), 0);
    }
    kvstow_segment_info info;
    assert_int_equal(kvstow_tier_segment(tier, given_up.segment, &info), 0);
    assert_int_not_equal(info.generation, given_up.generation);
    for (uint64_t number = 0; number < RECORDS; number++) {
      const kvstow_loc loc = place_of(tier, number);
      for (uint32_t first = 0; first < PLANES; first++) { /* from 1 on: two reads */
        uint64_t total = 1;
        for (uint64_t at = 0; at <= total; at++) {
          arm((lie)(i % KINDS), at);
          const int code = read_planes(tier, number, loc, PLANE, first, PLANES - first);
          if (at == 0) total = faults.reads;
          if (at == 0) assert_int_equal(code, 0);
          assert_true(code == 0 || code == KVSTOW_ECORRUPT || code == KVSTOW_EMISS);
        }
        faults.misread_at = 0;
        assert_int_equal(read_planes(tier, number, loc, PLANE, first, PLANES - first), 0);
      }
    }
    kvstow_tier_close(tier);
  }
}

/* ---- the super ------------------------------------------------------------------------------ */

/* Whoever took the first for its word would find no record of its own, and write over those there are. */
static void two_supers_that_differ_are_refused(void **state) {
  (void)state;
  take(CLOSED, false);
  kvstow__super *copies = (void *)memory_file_named(&disk, "super")->bytes;
  const kvstow__super true_one = copies[0];
  for (int wrong = 0; wrong < 2; wrong++) {
    copies[0] = copies[1] = true_one;
    copies[wrong].uuid[3] ^= 1;
    kvstow__super_seal(&copies[wrong]);
    kvstow__io io = memory_io(&disk);
    kvstow_tier *tier = NULL;
    char why[KVSTOW_MESSAGE_BYTES];
    options.read_only = false;
    assert_int_equal(kvstow__tier_open_with(&options, &io, &tier, why, sizeof why),
                     KVSTOW_ECORRUPT);
    assert_non_null(strstr(why, "differ"));
    assert_memory_equal(&copies[1 - wrong], &true_one, sizeof true_one);
  }
}

/* A copy is written over only by one that has been found to be this directory's. */
static void a_super_of_elsewhere_repairs_nothing(void **state) {
  (void)state;
  take(CLOSED, false);
  kvstow__super *copies = (void *)memory_file_named(&disk, "super")->bytes;
  copies[0].dir_count = 3;
  kvstow__super_seal(&copies[0]);
  copies[1].version = 0;
  const kvstow__super damaged = copies[1];
  kvstow__io io = memory_io(&disk);
  kvstow_tier *tier = NULL;
  options.read_only = false;
  assert_int_equal(kvstow__tier_open_with(&options, &io, &tier, NULL, 0), KVSTOW_EGEOMETRY);
  assert_memory_equal(&copies[1], &damaged, sizeof damaged);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_wrong_answer_at_opening_costs_a_reader_nothing),
      cmocka_unit_test(one_wrong_answer_at_opening_costs_an_owner_nothing),
      cmocka_unit_test(one_wrong_answer_costs_no_large_table),
      cmocka_unit_test(one_wrong_answer_costs_a_scan_nothing),
      cmocka_unit_test(one_wrong_answer_at_an_erase_brings_nothing_back),
      cmocka_unit_test(one_wrong_answer_at_an_erase_heals_no_torn_record),
      cmocka_unit_test(one_wrong_answer_is_never_delivered),
      cmocka_unit_test(two_supers_that_differ_are_refused),
      cmocka_unit_test(a_super_of_elsewhere_repairs_nothing),
  };
  return cmocka_run_group_tests_name("misread", tests, make_all, clear_all);
}
