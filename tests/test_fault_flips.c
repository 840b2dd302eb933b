/* tests/test_fault_flips.c - every byte of every page that tells where others are, flipped one at a time;
 * stores cut off at every 4 KiB; pages of other versions and of the other endianness, with their checksums
 * right.
 *
 * What opens shows a subset of what was stored, every byte compared; what does not says what, where and
 * why. The store lies in memory, so that it can be opened some ten thousand times.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "test_tier_fixture.h"

#include "support/memory_disk.h"

enum { RECORDS = 8, SEALED = 4, PLANES = 3, SEGMENTS = 4 };

static memory_disk disk; /* what is opened */
static memory_disk
    closed; /* closed in order: SEALED records in a sealed segment, the others in a clean one */
static memory_disk killed; /* left open: the second segment must be walked */
static uint32_t pages[RECORDS];
static const char *const FILES[] = {"seg-000000.kvs", "seg-000001.kvs"};

static int open_disk(bool read_only, kvstow_tier **tier, char *why) {
  static const char *const dirs[] = {"memory"};
  kvstow_tier_options options = options_for(dirs, SEGMENTS);
  options.engine = KVSTOW_ENGINE_AUTO;
  options.read_only = read_only;
  const kvstow__io io = memory_io(&disk);
  return kvstow__tier_open_with(&options, &io, tier, why, KVSTOW_MESSAGE_BYTES);
}

static kvstow_tier *must_open(bool read_only) {
  char why[KVSTOW_MESSAGE_BYTES];
  kvstow_tier *tier = NULL;
  const int code = open_disk(read_only, &tier, why);
  if (code) fail_msg("open: %s: %s", kvstow_errname(code), why);
  return tier;
}

/* Which records are there, and which of them came back whole: bits. Fails on anything that was not stored
 * so. */
typedef struct shown {
  uint32_t listed, whole;
} shown;

typedef struct look {
  kvstow_record records[2 * RECORDS];
  size_t count;
} look;

static bool look_at(void *arg, const kvstow_record *r) {
  look *l = arg;
  assert_true(l->count < 2 * RECORDS);
  l->records[l->count++] = *r;
  return true;
}

static shown read_all(kvstow_tier *tier) {
  look l = {.count = 0};
  shown s = {0};
  for (uint32_t id = 0; id < kvstow_tier_segment_count(tier); id++) {
    const int code = kvstow_tier_scan(tier, id, look_at, &l);
    assert_true(code == 0 || code == KVSTOW_ECORRUPT || code == KVSTOW_EIO);
  }
  static uint8_t room[2 * RECORDS][KVSTOW_PAGE_BYTES + PLANES * PLANE]
      __attribute__((aligned(4096)));
  kvstow_record_read reads[2 * RECORDS] = {0}, *list[2 * RECORDS];
  gate g = GATE_INIT(l.count);
  for (size_t i = 0; i < l.count; i++) {
    reads[i] = (kvstow_record_read){.key = l.records[i].key,
                                    .loc = l.records[i].loc,
                                    .plane_bytes = PLANE,
                                    .plane_count = PLANES,
                                    .header = room[i],
                                    .payload = room[i] + KVSTOW_PAGE_BYTES,
                                    .done = gate_read_done,
                                    .arg = &g};
    list[i] = &reads[i];
  }
  if (l.count > 0) {
    assert_int_equal(kvstow_tier_read_batch(tier, list, l.count), 0);
    gate_wait(&g);
  }
  for (size_t i = 0; i < l.count; i++) {
    const kvstow_record *r = &l.records[i];
    uint64_t number;
    memcpy(&number, r->tag, sizeof number);
    assert_true(number < RECORDS);
    assert_true(r->key.lo == key_of(number).lo && r->key.hi == key_of(number).hi);
    assert_true(r->planes == PLANES && r->plane_bytes == PLANE);
    assert_true((s.listed & 1u << number) == 0);
    s.listed |= 1u << number;
    const int code = reads[i].result;
    assert_true(code == 0 || code == KVSTOW_ECORRUPT || code == KVSTOW_EIO || code == KVSTOW_EMISS);
    if (code) continue;
    const uint64_t *words = (const uint64_t *)(const void *)(room[i] + KVSTOW_PAGE_BYTES);
    for (size_t w = 0; w < (size_t)PLANES * PLANE / 8; w++)
      if (words[w] != word_of(number, w)) fail_msg("a wrong byte of record %d", (int)number);
    s.whole |= 1u << number;
  }
  return s;
}

static shown open_and_read(bool read_only) {
  kvstow_tier *tier = must_open(read_only);
  const shown s = read_all(tier);
  assert_int_equal(kvstow_tier_close(tier), 0);
  return s;
}

static const uint32_t ALL = (1u << RECORDS) - 1;

/* Pairs of records, the second right behind the first. */
static int make_stores(void **state) {
  (void)state;
  kvstow_tier *tier = must_open(false);
  for (uint64_t i = 0; i < RECORDS; i += 2) {
    record pair[] = {record_new(i, PLANES, PLANE), record_new(i + 1, PLANES, PLANE)};
    assert_int_equal(append_all(tier, pair, 2), 0);
    for (int k = 0; k < 2; k++) {
      pages[i + (uint64_t)k] = pair[k].loc.page;
      assert_int_equal(pair[k].loc.segment, i >= SEALED);
      record_free(&pair[k]);
    }
    if (i + 2 == SEALED) assert_int_equal(kvstow_tier_seal(tier), 0);
  }
  assert_int_equal(kvstow_tier_flush(tier), 0);
  memory_disk_copy(&killed, &disk);
  assert_int_equal(kvstow_tier_close(tier), 0);
  memory_disk_copy(&closed, &disk);
  return 0;
}

static int free_stores(void **state) {
  (void)state;
  memory_disk_clear(&disk);
  memory_disk_clear(&killed);
  memory_disk_clear(&closed);
  return 0;
}

static uint8_t *file_bytes(const char *name) {
  memory_file *file = memory_file_named(&disk, name);
  assert_non_null(file);
  return file->bytes;
}

/* ---- super ---------------------------------------------------------------------------------- */

static void one_copy_of_the_super_is_enough_whatever_is_wrong_with_the_other(void **state) {
  (void)state;
  memory_disk_copy(&disk, &closed);
  for (uint32_t at = 0; at < KVSTOW__SUPER_BYTES; at++) {
    uint8_t *super = file_bytes("super");
    super[at] ^= (uint8_t)(1u << at % 8);
    kvstow_tier *tier = must_open(false); /* repairs it */
    assert_int_equal(kvstow_tier_close(tier), 0);
    super = file_bytes("super");
    const uint8_t *good = memory_file_named(&closed, "super")->bytes;
    assert_memory_equal(super, good, KVSTOW__SUPER_BYTES);
  }
  assert_int_equal(open_and_read(true).whole, ALL);
}

static void a_super_wrong_in_both_copies_is_refused_with_its_name(void **state) {
  (void)state;
  memory_disk_copy(&disk, &closed);
  uint8_t *super = file_bytes("super");
  for (uint32_t at = 0; at < KVSTOW_PAGE_BYTES; at++) {
    const uint8_t bit = (uint8_t)(1u << at % 8);
    super[at] ^= bit;
    super[at + KVSTOW_PAGE_BYTES] ^= bit;
    kvstow_tier *tier;
    char why[KVSTOW_MESSAGE_BYTES];
    const int code = open_disk(at % 2, &tier, why);
    const int expected = at < 8    ? KVSTOW_ENOTSTORE
                         : at < 12 ? 0 /* either */
                         : at < 16 ? KVSTOW_EVERSION
                                   : KVSTOW_ECORRUPT;
    assert_true(code != 0 && (expected == 0 || code == expected));
    assert_non_null(strstr(why, "memory/super: "));
    super[at] ^= bit;
    super[at + KVSTOW_PAGE_BYTES] ^= bit;
  }
  assert_int_equal(open_and_read(true).whole, ALL);
}

/* ---- footers -------------------------------------------------------------------------------- */

static void toggle(uint8_t *bytes, uint32_t at) {
  bytes[at] ^= (uint8_t)(1u << at % 8);
}

/* Whatever is wrong with a footer, the header pages say the same. */
static void a_wrong_byte_in_a_footer_costs_nothing(void **state) {
  (void)state;
  const struct {
    const memory_disk *store;
    const char *file;
  } footers[] = {{&closed, FILES[0]}, {&closed, FILES[1]}, {&killed, FILES[1]}}; /* of each state */
  for (int i = 0; i < 3; i++) {
    memory_disk_copy(&disk, footers[i].store);
    uint8_t *bytes = file_bytes(footers[i].file);
    for (uint32_t at = SEGMENT - 2 * KVSTOW_PAGE_BYTES; at < SEGMENT; at++) { /* table, trailer */
      const bool padding = at >= SEGMENT - 2 * KVSTOW_PAGE_BYTES + SEALED * sizeof(kvstow__entry) &&
                           at < SEGMENT - KVSTOW_PAGE_BYTES;
      if ((padding || UNDER_TSAN) && at % 61 != 0) continue;
      toggle(bytes, at);
      assert_int_equal(open_and_read(true).whole, ALL);
      toggle(bytes, at);
    }
  }
}

/* ---- records -------------------------------------------------------------------------------- */

static void a_wrong_byte_in_a_listed_record_costs_that_record(void **state) {
  (void)state;
  memory_disk_copy(&disk, &closed);
  for (uint64_t i = 1; i < RECORDS; i += SEALED) {
    uint8_t *bytes = file_bytes(FILES[i >= SEALED]);
    const uint32_t begin = pages[i] * KVSTOW_PAGE_BYTES;
    const uint32_t end = begin + KVSTOW_PAGE_BYTES + PLANES * PLANE;
    for (uint32_t at = begin; at < end; at++) {
      const bool header = at < begin + KVSTOW_PAGE_BYTES;
      if ((!header || UNDER_TSAN) && at % 61 != 0) continue;
      toggle(bytes, at);
      const shown s = open_and_read(true);
      assert_int_equal(s.listed, ALL);
      assert_int_equal(s.whole, ALL & ~(1u << i));
      toggle(bytes, at);
    }
  }
}

/* Behind a header that is none the walk goes on at the next run only; planes are read at once. */
static void a_wrong_byte_in_a_walked_record_costs_its_run(void **state) {
  (void)state;
  memory_disk_copy(&disk, &killed);
  uint8_t *bytes = file_bytes(FILES[1]);
  for (uint64_t i = SEALED; i < RECORDS; i++) {
    const uint32_t begin = pages[i] * KVSTOW_PAGE_BYTES;
    const uint32_t end = begin + KVSTOW_PAGE_BYTES + PLANES * PLANE;
    for (uint32_t at = begin; at < end; at++) {
      const bool header = at < begin + KVSTOW_PAGE_BYTES;
      if ((!header || i != SEALED + 1 || UNDER_TSAN) && at % 61 != 0) continue;
      toggle(bytes, at);
      const shown s = open_and_read(true);
      assert_int_equal(s.listed, s.whole);
      const uint32_t before = (1u << i) - 1, after = ALL & ~(1u << i) & ~before;
      assert_int_equal(s.whole & before, before);
      assert_int_equal(s.whole & 1u << i, 0);
      /* a first record of a run takes everything with it: a walk ends at a run's start */
      const uint32_t kept = !header ? after : i % 2 ? after : 0;
      assert_int_equal(s.whole & after, kept);
      toggle(bytes, at);
    }
  }
}

/* ---- truncation ----------------------------------------------------------------------------- */

/* What is left of a shorter file is found, and no more; opened by an owner it is a whole store again. */
static void a_store_cut_off_anywhere_shows_what_is_left(void **state) {
  (void)state;
  const memory_disk *const stores[] = {&closed, &killed};
  for (int i = 0; i < 4; i++)
    for (uint32_t bytes = 0; bytes <= SEGMENT; bytes += KVSTOW_PAGE_BYTES) {
      if (UNDER_TSAN && bytes / KVSTOW_PAGE_BYTES % 13 != 0) continue;
      const int file = i % 2;
      uint32_t expected = ALL;
      for (uint64_t r = 0; r < RECORDS; r++)
        if ((r >= SEALED) == (file == 1) &&
            (uint64_t)pages[r] * KVSTOW_PAGE_BYTES + KVSTOW_PAGE_BYTES + PLANES * PLANE > bytes)
          expected &= ~(1u << r);
      memory_disk_copy(&disk, stores[i / 2]);
      memory_file_resize(memory_file_named(&disk, FILES[file]), bytes + bytes % 3 * 100);
      const shown looked = open_and_read(true);
      assert_int_equal(looked.whole, expected);
      const shown owned = open_and_read(false);
      assert_int_equal(owned.whole, expected);
      assert_int_equal(memory_file_named(&disk, FILES[file])->size, SEGMENT);
      const shown again = open_and_read(true);
      assert_int_equal(again.listed, expected);
      assert_int_equal(again.whole, expected);
    }
}

static void a_super_cut_off_is_refused_or_whole(void **state) {
  (void)state;
  memory_disk_copy(&disk, &closed);
  memory_file *super = memory_file_named(&disk, "super");
  for (uint32_t bytes = KVSTOW__SUPER_BYTES; bytes-- > 0;) {
    memory_file_resize(super, bytes);
    kvstow_tier *tier;
    char why[KVSTOW_MESSAGE_BYTES];
    const int code = open_disk(true, &tier, why);
    assert_int_equal(code == 0, bytes >= KVSTOW_PAGE_BYTES);
    if (code == 0)
      assert_int_equal(kvstow_tier_close(tier), 0);
    else
      assert_non_null(strstr(why, "memory/super: "));
  }
}

/* ---- pages of other versions ---------------------------------------------------------------- */

static void set_version(uint8_t *page, size_t checksum_at, uint32_t version) {
  memcpy(page + 8, &version, sizeof version);
  const uint64_t sum = kvstow__page_checksum(page, checksum_at);
  memcpy(page + checksum_at, &sum, sizeof sum);
}

static void other_versions_of_pages_are_not_believed(void **state) {
  (void)state;
  const uint32_t versions[] = {0, 2, 3, 0x01000000, UINT32_MAX};
  for (size_t v = 0; v < sizeof versions / sizeof *versions; v++) {
    memory_disk_copy(&disk, &closed);
    set_version(file_bytes(FILES[0]) + SEGMENT - KVSTOW_PAGE_BYTES,
                offsetof(kvstow__trailer, checksum), versions[v]);
    assert_int_equal(open_and_read(true).whole, ALL); /* walked */
    memory_disk_copy(&disk, &closed);
    set_version(file_bytes(FILES[0]) + pages[2] * KVSTOW_PAGE_BYTES,
                offsetof(kvstow__header, checksum), versions[v]);
    assert_int_equal(open_and_read(true).whole, ALL & ~(1u << 2));
    memory_disk_copy(&disk, &killed);
    set_version(file_bytes(FILES[1]) + pages[SEALED] * KVSTOW_PAGE_BYTES,
                offsetof(kvstow__header, checksum), versions[v]);
    assert_int_equal(open_and_read(true).whole, (1u << SEALED) - 1);
  }
}

/* Every number of a page as a machine of the other endianness would have written it. */
static void swap_bytes(uint8_t *page, const uint8_t *widths) {
  for (size_t at = 0; *widths; at += *widths++)
    for (size_t i = 0; i < *widths / 2u; i++) {
      const uint8_t byte = page[at + i];
      page[at + i] = page[at + *widths - 1 - i];
      page[at + *widths - 1 - i] = byte;
    }
}

static void pages_of_the_other_endianness_are_not_believed(void **state) {
  (void)state;
  static const uint8_t super[] = {8, 4, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                  1, 1, 1, 1, 1, 1, 8, 4, 4, 4, 4, 8, 0};
  static const uint8_t trailer[] = {8, 4, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                    1, 1, 1, 1, 8, 8, 4, 4, 8, 8, 8, 8, 8, 0};
  static const uint8_t header[] = {8, 4, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                   1, 1, 1, 8, 8, 4, 2, 2, 4, 4, 8, 8, 8, 8, 0};
  memory_disk_copy(&disk, &closed);
  swap_bytes(file_bytes(FILES[0]) + SEGMENT - KVSTOW_PAGE_BYTES, trailer);
  assert_int_equal(open_and_read(true).whole, ALL);
  swap_bytes(file_bytes(FILES[0]) + pages[3] * KVSTOW_PAGE_BYTES, header);
  assert_int_equal(open_and_read(true).whole, ALL & ~(1u << 3));
  swap_bytes(file_bytes("super"), super);
  assert_int_equal(open_and_read(true).whole, ALL & ~(1u << 3)); /* the other copy */
  swap_bytes(file_bytes("super") + KVSTOW_PAGE_BYTES, super);
  kvstow_tier *tier;
  char why[KVSTOW_MESSAGE_BYTES];
  assert_int_equal(open_disk(true, &tier, why), KVSTOW_EVERSION);
  assert_non_null(strstr(why, "endianness"));
}

int main(int argc, char **argv) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_copy_of_the_super_is_enough_whatever_is_wrong_with_the_other),
      cmocka_unit_test(a_super_wrong_in_both_copies_is_refused_with_its_name),
      cmocka_unit_test(a_wrong_byte_in_a_footer_costs_nothing),
      cmocka_unit_test(a_wrong_byte_in_a_listed_record_costs_that_record),
      cmocka_unit_test(a_wrong_byte_in_a_walked_record_costs_its_run),
      cmocka_unit_test(a_store_cut_off_anywhere_shows_what_is_left),
      cmocka_unit_test(a_super_cut_off_is_refused_or_whole),
      cmocka_unit_test(other_versions_of_pages_are_not_believed),
      cmocka_unit_test(pages_of_the_other_endianness_are_not_believed),
  };
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests_name("flips", tests, make_stores, free_stores);
}
