/* Kernels that forget what they could not write: a barrier fails, the next one says that all is well, and what was written
 * before is still shown, until the power goes. What an opening does not list then has to be gone for good.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "test_tier_faulty.h"

enum { RECORDS = 12, EACH = 4, LONG = 700 /* their table takes more than 64 KiB */ };

/* ---- a kernel ------------------------------------------------------------------------------- */

/* A write that no barrier carries to the disk any more. */
typedef struct forgotten {
  uint32_t file;
  uint64_t offset, length;
  uint8_t *on_disk;
} forgotten;

static forgotten lost[64];
static size_t lost_count;
static _Atomic uint32_t failing_writes; /* of so many bytes or fewer: they fail. 0: none */

static void forget_unsynced(uint32_t file) {
  for (size_t i = 0; i < cache_count; i++) {
    if (cache[i].file != file) continue;
    assert_true(lost_count < sizeof lost / sizeof *lost);
    uint8_t *copy = malloc(cache[i].length);
    memcpy(copy, cache[i].before, cache[i].length);
    lost[lost_count++] = (forgotten){file, cache[i].offset, cache[i].length, copy};
  }
  cache_synced(file);
}

/* What was written over it since gets to the disk. */
static void remember(const kvstow__op *op, const unsynced *u) {
  for (size_t i = 0; i < lost_count; i++) {
    const forgotten *f = &lost[i];
    const uint64_t from = f->offset > u->offset ? f->offset : u->offset;
    const uint64_t end = f->offset + f->length < u->offset + u->length ? f->offset + f->length
                                                                       : u->offset + u->length;
    if (f->file != op->file || from >= end) continue;
    assert_int_equal(pread(op->fd, f->on_disk + (from - f->offset), end - from, (off_t)from),
                     end - from);
  }
}

static int carry_out_forgetfully(kvstow__op *op) {
  if (op->kind == KVSTOW__WRITE && op->length <= atomic_load(&failing_writes)) return EIO;
  if (op->kind == KVSTOW__SYNC && atomic_load(&faults.sync_error)) forget_unsynced(op->file);
  if (op->kind == KVSTOW__SYNC)
    for (size_t i = 0; i < cache_count; i++)
      if (cache[i].file == op->file) remember(op, &cache[i]);
  return carry_out(op);
}

static void lose_power(const char *place) {
  while (lost_count > 0) {
    forgotten *f = &lost[--lost_count];
    char name[32];
    snprintf(name, sizeof name, "seg-%06u.kvs", f->file);
    patch(place, name, f->offset, f->on_disk, f->length);
    free(f->on_disk);
  }
  cache_lose(place, LOSE_ALL);
}

static kvstow_tier *open_here(void) {
  the_device.carry_out = carry_out_forgetfully;
  return open_told(&options, &kvstow__files, true);
}

/* ---- stores --------------------------------------------------------------------------------- */

static kvstow_loc locs[LONG];

/* So many in a segment, all sealed. */
static kvstow_tier *make_store(uint32_t records, uint32_t each) {
  cache_volatile = true;
  kvstow_tier *tier = open_here();
  record *all = calloc(records, sizeof *all);
  for (uint32_t i = 0; i < records; i++) all[i] = record_new(i, 1, PLANE);
  for (uint32_t i = 0; i < records; i += each) {
    assert_int_equal(append_all(tier, all + i, each), 0);
    assert_int_equal(kvstow_tier_seal(tier), 0);
  }
  for (uint32_t i = 0; i < records; i++) {
    locs[i] = all[i].loc;
    record_free(&all[i]);
  }
  free(all);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  return tier;
}

static void expect_all_but(kvstow_tier *tier, uint32_t records, uint32_t from, uint32_t to) {
  seen *s = scan_all(tier);
  for (uint32_t i = 0; i < records; i++)
    if ((seen_find(s, i) != NULL) == (i >= from && i < to))
      fail_msg("record %u is %s", i, seen_find(s, i) ? "there" : "lost");
  free(s);
}

static void close_failing(kvstow_tier *tier) {
  atomic_store(&faults.sync_error, EIO);
  (void)kvstow_tier_close(tier);
  atomic_store(&faults.sync_error, 0);
}

/* Closes it, and opens what the power's loss would have left of it. */
static kvstow_tier *lose_power_and_open(kvstow_tier *tier) {
  char *place = crash_copy(dir, 8);
  cache_volatile = false;
  assert_int_equal(kvstow_tier_close(tier), 0);
  lose_power(place);
  scratch_remove(dir);
  dir = place;
  dirs[0] = dir;
  return open_here();
}

/* As the next process finds it, and after the power was gone. */
static void expect_for_good(uint32_t records, uint32_t from, uint32_t to) {
  kvstow_tier *tier = open_here();
  expect_all_but(tier, records, from, to);
  tier = lose_power_and_open(tier);
  expect_all_but(tier, records, from, to);
  assert_int_equal(kvstow_tier_close(tier), 0);
}

/* ---- tests ---------------------------------------------------------------------------------- */

static void erase_one_in_vain(uint32_t records, uint32_t each, uint32_t which) {
  kvstow_tier *tier = make_store(records, each);
  atomic_store(&faults.sync_error, EIO);
  assert_int_equal(kvstow_tier_erase(tier, &locs[which], 1), KVSTOW_EIO);
  close_failing(tier);
}

static void records_erased_in_memory_only_do_not_come_back(void **state) {
  (void)state;
  erase_one_in_vain(RECORDS, EACH, 5);
  expect_for_good(RECORDS, 5, 6);
}

static void nor_do_encrypted_ones(void **state) {
  (void)state;
  options.encryption_key = TEST_KEY;
  erase_one_in_vain(RECORDS, EACH, 5);
  expect_for_good(RECORDS, 5, 6);
}

static void nor_do_those_of_a_long_table(void **state) {
  (void)state;
  options.segment_bytes = 8 * SEGMENT;
  options.budget_bytes = 3 * (uint64_t)(8 * SEGMENT + 4096) + 65536;
  for (int encrypted = 0; encrypted < 2; encrypted++) {
    options.encryption_key = encrypted ? TEST_KEY : NULL;
    erase_one_in_vain(LONG, LONG, 3);
    expect_for_good(LONG, 3, 4);
    remove_it(state);
    dir = scratch_new();
    dirs[0] = dir;
  }
}

static void segments_wiped_in_memory_only_do_not_come_back(void **state) {
  (void)state;
  kvstow_tier *tier = make_store(RECORDS, EACH);
  assert_int_equal(kvstow_tier_reclaim(tier, locs[EACH].segment), 0);
  atomic_store(&faults.sync_error, EIO);
  assert_int_equal(kvstow_tier_erase(tier, NULL, 0), KVSTOW_EIO);
  close_failing(tier);
  expect_for_good(RECORDS, EACH, 2 * EACH);
}

/* The opening can't write what it found: nobody loses a record by that, and who erases is told. */
static void a_footer_that_can_not_be_written_again_is_the_next_erases_business(void **state) {
  (void)state;
  erase_one_in_vain(RECORDS, EACH, 5);
  atomic_store(&failing_writes, UINT32_MAX);
  kvstow_tier *tier = open_here();
  expect_all_but(tier, RECORDS, 5, 6);
  char message[KVSTOW_MESSAGE_BYTES];
  kvstow_tier_message(tier, message, sizeof message);
  assert_non_null(strstr(message, "seg-000001.kvs: writing its footer: Input/output error"));
  kvstow_segment_info info;
  assert_int_equal(kvstow_tier_segment(tier, locs[5].segment, &info), 0);
  assert_int_equal(info.state, KVSTOW_SEGMENT_BAD);
  assert_int_equal(read_planes(tier, 4, locs[4], PLANE, 0, 1), 0);
  assert_int_equal(kvstow_tier_erase(tier, &locs[0], 1), KVSTOW_EIO);
  atomic_store(&failing_writes, 0);
  assert_int_equal(kvstow_tier_erase(tier, &locs[0], 1), 0);
  expect_all_but(tier, EACH, 0, 1);
  tier = lose_power_and_open(tier);
  seen *s = scan_all(tier);
  for (uint32_t i = 0; i < RECORDS; i++)
    assert_int_equal(seen_find(s, i) == NULL, i == 0 || i == 5);
  free(s);
  assert_int_equal(kvstow_tier_close(tier), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(records_erased_in_memory_only_do_not_come_back),
      TEST(nor_do_encrypted_ones),
      TEST(nor_do_those_of_a_long_table),
      TEST(segments_wiped_in_memory_only_do_not_come_back),
      TEST(a_footer_that_can_not_be_written_again_is_the_next_erases_business),
  };
  return cmocka_run_group_tests_name("forgetful", tests, NULL, NULL);
}
