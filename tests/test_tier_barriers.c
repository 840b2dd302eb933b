/* What failed barriers leave, and what is given up, erased and used again: what was promised stays, what is gone stays
 * gone.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "test_tier_faulty.h"

/* ---- barriers that fail --------------------------------------------------------------------- */

static void a_failed_sync_is_reported(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record r = append_one(tier, 1, 3);
  faults.sync_error = EIO;
  assert_int_equal(kvstow_tier_flush(tier), KVSTOW_EIO);
  faults.sync_error = 0;
  kvstow_segment_info info;
  kvstow_tier_segment(tier, r.loc.segment, &info);
  assert_int_equal(info.state, KVSTOW_SEGMENT_BAD);
  assert_true(info.unsure);
  assert_int_equal(read_record(tier, &r), 0); /* what can be read and verified may be used */
  /* The kernel may have forgotten what it could not write: a sync that succeeds now proves nothing. */
  assert_int_equal(kvstow_tier_flush(tier), KVSTOW_EIO);
  assert_int_equal(kvstow_tier_reclaim(tier, r.loc.segment), 0);
  assert_int_equal(read_record(tier, &r), KVSTOW_EMISS);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  record_free(&r);
  kvstow_tier_close(tier);
}

static void *flush_main(void *tier) {
  return (void *)(intptr_t)kvstow_tier_flush(tier);
}

/* A record is on its way to the disk while a barrier of its file fails, and arrives after that. */
static record append_while_a_sync_fails(kvstow_tier *tier, uint64_t number) {
  record r = record_new(number, 3, PLANE);
  kvstow_record_write w = {.header = r.header, .payload = r.payload};
  gate g = GATE_INIT(1);
  pthread_t flusher;
  void *flushed;
  the_device.kept = 0;
  the_device.keep = keep_all;
  assert_int_equal(pthread_create(&flusher, NULL, flush_main, tier), 0);
  wait_kept(1);
  assert_int_equal(kvstow_tier_append(tier, &w, 1, gate_append_done, &g), 0);
  wait_kept(2);
  the_device.keep = NULL;
  faults.sync_error = EIO;
  release_kind(KVSTOW__SYNC);
  pthread_join(flusher, &flushed);
  assert_int_equal((intptr_t)flushed, KVSTOW_EIO);
  faults.sync_error = 0;
  release_kind(KVSTOW__WRITE);
  assert_int_equal(gate_wait(&g), 0);
  r.loc = w.loc;
  return r;
}

/* It has been reported as good: so it is as good as those before it, and nobody wipes it. */
static void what_was_being_written_when_a_sync_failed_is_kept(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record before = append_one(tier, 1, 3), during = append_while_a_sync_fails(tier, 2);
  kvstow_segment_info info;
  kvstow_tier_segment(tier, before.loc.segment, &info);
  assert_int_equal(during.loc.segment, before.loc.segment);
  assert_int_equal(info.state, KVSTOW_SEGMENT_BAD);
  assert_int_equal(info.records, 2);
  assert_int_equal(kvstow_tier_erase(tier, NULL, 0), 0);
  for (int life = 0; life < 2; life++) {
    assert_int_equal(read_record(tier, &before), 0);
    assert_int_equal(read_record(tier, &during), 0);
    kvstow_tier_close(tier);
    tier = open_faulty(&kvstow__files);
  }
  kvstow_tier_close(tier);
  record_free(&before);
  record_free(&during);
}

/* A segment that has nothing else is not taken for one given up. */
static void the_first_record_written_when_a_sync_failed_is_kept(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty_with_one_segment();
  record old = append_one(tier, 1, 3);
  assert_int_equal(kvstow_tier_seal(tier), 0);
  assert_int_equal(kvstow_tier_reclaim(tier, old.loc.segment), 0);
  assert_int_equal(kvstow_tier_erase(tier, NULL, 0), 0);
  record first = append_while_a_sync_fails(tier, 2);
  assert_int_equal(kvstow_tier_erase(tier, NULL, 0), 0);
  assert_int_equal(kvstow_tier_flush(tier), KVSTOW_EIO); /* power may still take it */
  assert_int_equal(read_record(tier, &first), 0);
  kvstow_tier_close(tier);
  record_free(&old);
  record_free(&first);
}

/* A segment was given up while its barrier was under way: that the barrier fails says nothing of what is written there
 * next. */
static void a_sync_that_fails_for_a_segment_given_up_costs_no_later_one(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty_with_one_segment();
  record old = append_one(tier, 1, 3);
  assert_int_equal(kvstow_tier_seal(tier), 0);
  pthread_t flusher;
  void *flushed;
  the_device.kept = 0;
  the_device.keep = keep_all;
  assert_int_equal(pthread_create(&flusher, NULL, flush_main, tier), 0);
  wait_kept(1);
  the_device.keep = NULL;
  assert_int_equal(kvstow_tier_reclaim(tier, old.loc.segment), 0);
  faults.sync_error = EIO;
  told_release();
  pthread_join(flusher, &flushed);
  assert_int_equal((intptr_t)flushed, KVSTOW_EIO);
  faults.sync_error = 0;
  record next = append_one(tier, 2, 3);
  assert_int_equal(next.loc.segment, old.loc.segment);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  kvstow_segment_info info;
  kvstow_tier_segment(tier, next.loc.segment, &info);
  assert_false(info.unsure);
  record_free(&old);
  record_free(&next);
  assert_int_equal(kvstow_tier_close(tier), 0);
}

static void a_file_whose_sync_failed_stays_failed(void **state) {
  (void)state;
  char path[4096];
  snprintf(path, sizeof path, "%s/file", dir);
  kvstow_tier *tier = open_faulty(&kvstow__files);
  kvstow_file *file;
  assert_int_equal(kvstow_file_create(tier, path, 100000, &file), 0);
  assert_int_equal(kvstow_file_append(file, "0123456789", 10), 0);
  atomic_store(&faults.sync_error, EIO);
  assert_int_equal(kvstow_file_flush(file), KVSTOW_EIO);
  atomic_store(&faults.sync_error, 0);
  assert_int_equal(kvstow_file_flush(file), KVSTOW_EIO);
  assert_int_equal(kvstow_file_append(file, "0123456789", 10), KVSTOW_EIO);
  assert_int_equal(kvstow_file_close(file), KVSTOW_EIO);
  assert_int_equal(kvstow_tier_close(tier), 0);
}

/* ---- segments used again -------------------------------------------------------------------- */

/* All segments written to; then the given one is given up. What it shows ends while nobody waits. */
static kvstow_tier *open_worn(void) {
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record r = record_new(0, 3, PLANE);
  while (append_all(tier, &r, 1) == 0) assert_int_equal(kvstow_tier_seal(tier), 0);
  record_free(&r);
  return tier;
}

static _Atomic uint64_t syncs_before_records, writes_before_records;

static bool count_op(const kvstow__op *op) {
  if (op->kind == KVSTOW__SYNC) atomic_fetch_add(&syncs_before_records, 1);
  if (op->kind == KVSTOW__WRITE) atomic_fetch_add(&writes_before_records, 1);
  return false;
}

static void a_segment_used_again_costs_its_first_append_no_barrier(void **state) {
  (void)state;
  kvstow_tier *tier = open_worn();
  assert_int_equal(kvstow_tier_reclaim(tier, 2), 0);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  atomic_store(&syncs_before_records, 0);
  atomic_store(&writes_before_records, 0);
  the_device.keep = count_op;
  record r = append_one(tier, 1, 3);
  the_device.keep = NULL;
  assert_int_equal(r.loc.segment, 2);
  assert_int_equal(syncs_before_records, 0);
  assert_int_equal(writes_before_records, 1);
  record_free(&r);
  kvstow_tier_close(tier);
}

/* Its reader gets what it asked for, or nothing, but no other record's bytes. */
static void a_segment_is_not_used_again_under_a_reader(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty_with_one_segment();
  record old = append_one(tier, 1, 3), next = record_new(2, 3, PLANE);
  assert_int_equal(kvstow_tier_seal(tier), 0);
  gate g = GATE_INIT(1);
  kvstow_record_read read = whole_read(&old, &g);
  kvstow_record_read *reads[] = {&read};
  kvstow_segment_info info;
  the_device.kept = 0;
  the_device.keep = keep_all;
  assert_int_equal(kvstow_tier_read_batch(tier, reads, 1), 0);
  wait_kept(1);
  the_device.keep = NULL;
  assert_int_equal(kvstow_tier_reclaim(tier, old.loc.segment), 0);
  kvstow_tier_segment(tier, old.loc.segment, &info);
  assert_int_equal(info.state, KVSTOW_SEGMENT_RECLAIMED);
  assert_int_equal(append_all(tier, &next, 1), KVSTOW_ENOSPC);
  release_kind(KVSTOW__READ);
  assert_int_equal(gate_wait(&g), 0);
  assert_int_equal(append_all(tier, &next, 1), 0);
  assert_int_equal(read_record(tier, &next), 0);
  kvstow_tier_close(tier);
  record_free(&old);
  record_free(&next);
}

/* Also by who did not wait for a flush. */
static void a_segment_given_up_shows_nothing_before_it_is_used_again(void **state) {
  (void)state;
  kvstow_tier *tier = open_worn();
  seen *before = scan_all(tier);
  assert_int_equal(kvstow_tier_reclaim(tier, 2), 0);
  record r = append_one(tier, 1, 3);
  assert_int_equal(r.loc.segment, 2);
  char *copy = crash_copy(dir, 8);
  kvstow_tier_close(tier);
  dirs[0] = copy;
  tier = open_faulty(&kvstow__files);
  seen *s = scan_all(tier);
  assert_int_equal(s->count, before->count);
  assert_non_null(seen_find(s, 1));
  assert_int_equal(read_record(tier, &r), 0);
  free(s);
  free(before);
  record_free(&r);
  kvstow_tier_close(tier);
  scratch_remove(copy);
}

static void a_life_that_could_not_be_ended_ahead_is_ended_when_needed(void **state) {
  (void)state;
  kvstow_tier *tier = open_worn();
  faults.write_error = EIO;
  assert_int_equal(kvstow_tier_reclaim(tier, 2), 0);
  assert_int_equal(kvstow_tier_flush(tier), 0); /* nothing was lost */
  faults.write_error = 0;
  record r = append_one(tier, 1, 3);
  assert_int_equal(r.loc.segment, 2);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  char *copy = crash_copy(dir, 8);
  kvstow_tier_close(tier);
  dirs[0] = copy;
  tier = open_faulty(&kvstow__files);
  seen *s = scan_all(tier);
  assert_non_null(seen_find(s, 1));
  assert_int_equal(read_record(tier, &r), 0);
  free(s);
  record_free(&r);
  kvstow_tier_close(tier);
  scratch_remove(copy);
}

/* What relies on an end that is on its way fails with it. */
static void an_append_behind_an_end_that_fails_is_told(void **state) {
  (void)state;
  for (int kind = 0; kind < 2; kind++) {
    kvstow_tier *tier = open_worn();
    const uint64_t kept = the_device.kept;
    the_device.keep = keep_all;
    assert_int_equal(kvstow_tier_reclaim(tier, 2), 0);
    record r = record_new(1, 3, PLANE);
    kvstow_record_write write = {.header = r.header, .payload = r.payload, .run_start = true};
    gate g = GATE_INIT(1);
    assert_int_equal(kvstow_tier_append(tier, &write, 1, gate_append_done, &g), 0);
    while (the_device.kept == kept) usleep(1000);
    the_device.keep = NULL;
    *(kind == 0 ? &faults.write_error : &faults.sync_error) = EIO;
    told_release();
    assert_int_equal(gate_wait(&g), KVSTOW_EIO);
    faults.write_error = faults.sync_error = 0;
    assert_int_equal(write.result, KVSTOW_EIO);
    assert_int_equal(kvstow_tier_flush(tier), KVSTOW_EIO);
    kvstow_segment_info info;
    assert_int_equal(kvstow_tier_segment(tier, 2, &info), 0);
    assert_int_equal(info.state, KVSTOW_SEGMENT_BAD);
    record_free(&r);
    kvstow_tier_close(tier);
    remove_it(state);
    fresh(state);
  }
}

/* ---- erasing -------------------------------------------------------------------------------- */

static void header_page(const char *place, const char *name, const record *r, uint8_t page[4096]) {
  char *path = join(place, name);
  const int fd = open(path, O_RDONLY);
  assert_int_equal(pread(fd, page, 4096, (off_t)r->loc.page * 4096), 4096);
  close(fd);
  free(path);
}

/* The device has stopped; what it had not synced is lost in part. Record 1 had been erased before. Closes the tier. */
static void expect_gone_after_power_loss(kvstow_tier *tier, const char *place, uint64_t stop,
                                         uint64_t loss) {
  faults.stop_at = 0;
  (void)kvstow_tier_close(tier);
  cache_volatile = false;
  cache_lose(place, loss);
  faults.stop_at = UINT64_MAX;
  tier = open_faulty(&kvstow__files);
  seen *s = scan_all(tier);
  if (seen_find(s, 1))
    fail_msg("power lost at op %llu (%llu): it is back", (unsigned long long)stop,
             (unsigned long long)loss);
  free(s);
  kvstow_tier_close(tier);
}

/* A footer that ends a life, its barrier failed, is no wiped segment to the next process: were the footer lost
 * with the power, the records behind it would be back. */
static void an_erase_whose_barrier_failed_is_done_again(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record r = append_one(tier, 1, 3);
  assert_int_equal(kvstow_tier_seal(tier), 0);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  assert_int_equal(kvstow_tier_reclaim(tier, r.loc.segment), 0);
  char name[32];
  snprintf(name, sizeof name, "seg-%06u.kvs", r.loc.segment);
  char *path = join(dir, name);
  const int fd = open(path, O_RDONLY);
  uint8_t before[4096], after[4096];
  assert_int_equal(pread(fd, before, sizeof before, (off_t)r.loc.page * 4096), sizeof before);
  faults.sync_error = EIO;
  assert_int_equal(kvstow_tier_erase(tier, NULL, 0), KVSTOW_EIO);
  (void)kvstow_tier_close(tier);
  patch(dir, name, (uint64_t)r.loc.page * 4096, before,
        sizeof before); /* the footer alone arrived */
  faults.sync_error = 0;
  tier = open_faulty(&kvstow__files);
  assert_int_equal(kvstow_tier_erase(tier, NULL, 0), 0);
  assert_int_equal(kvstow_tier_close(tier), 0);
  assert_int_equal(pread(fd, after, sizeof after, (off_t)r.loc.page * 4096), sizeof after);
  assert_memory_not_equal(before, after, sizeof before);
  close(fd);
  free(path);
  record_free(&r);
}

/* Power went between the footer and the header page of one record; the footer of the next erase tears. */
static void what_was_erased_in_the_table_alone_survives_no_other_erase(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record r[2] = {append_one(tier, 1, 3), append_one(tier, 2, 3)};
  assert_int_equal(r[0].loc.segment, r[1].loc.segment);
  assert_int_equal(kvstow_tier_seal(tier), 0);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  char name[32];
  snprintf(name, sizeof name, "seg-%06u.kvs", r[0].loc.segment);
  char *path = join(dir, name);
  const int fd = open(path, O_RDONLY);
  uint8_t before[4096];
  const uint8_t torn[4096] = {0};
  assert_int_equal(pread(fd, before, sizeof before, (off_t)r[0].loc.page * 4096), sizeof before);
  assert_int_equal(kvstow_tier_erase(tier, &r[0].loc, 1), 0);
  assert_int_equal(kvstow_tier_close(tier), 0);
  patch(dir, name, (uint64_t)r[0].loc.page * 4096, before, sizeof before);
  tier = open_faulty(&kvstow__files);
  assert_int_equal(kvstow_tier_erase(tier, &r[1].loc, 1), 0);
  assert_int_equal(kvstow_tier_close(tier), 0);
  patch(dir, name, (uint64_t)lseek(fd, 0, SEEK_END) - sizeof torn, torn, sizeof torn);
  tier = open_faulty(&kvstow__files);
  seen *s = scan_all(tier);
  assert_null(seen_find(s, 1));
  assert_null(seen_find(s, 2));
  free(s);
  kvstow_tier_close(tier);
  close(fd);
  free(path);
  record_free(&r[0]);
  record_free(&r[1]);
}

/* For cache_lose(): of two writes the second is lost, both, none, the first. */
static const uint64_t LOSSES[] = {1, 4, 5, 9};

/* Likewise, and power goes anywhere in the second erase: what the table says of the first record is to be true of
 * its header page, durably, before that table may tear. */
static void what_lies_is_durably_gone_before_the_next_footer(void **state) {
  (void)state;
  for (uint64_t stop = 0; stop < 10; stop++)
    for (size_t i = 0; i < sizeof LOSSES / sizeof *LOSSES; i++) {
      char *place = scratch_new();
      record r[2] = {record_new(1, 3, PLANE), record_new(2, 3, PLANE)};
      uint8_t before[4096];
      char name[32];
      dirs[0] = place;
      kvstow_tier *tier = open_faulty(&kvstow__files);
      assert_int_equal(append_all(tier, r, 2), 0);
      assert_int_equal(kvstow_tier_seal(tier), 0);
      assert_int_equal(kvstow_tier_flush(tier), 0);
      snprintf(name, sizeof name, "seg-%06u.kvs", r[0].loc.segment);
      header_page(place, name, &r[0], before);
      assert_int_equal(kvstow_tier_erase(tier, &r[0].loc, 1), 0);
      assert_int_equal(kvstow_tier_close(tier), 0);
      patch(place, name, (uint64_t)r[0].loc.page * 4096, before, sizeof before);
      tier = open_faulty(&kvstow__files);
      cache_volatile = true;
      faults.stop_at = faults.ops + stop;
      (void)kvstow_tier_erase(tier, &r[1].loc, 1);
      expect_gone_after_power_loss(tier, place, stop, LOSSES[i]);
      record_free(&r[0]);
      record_free(&r[1]);
      scratch_remove(place);
    }
}

/* One erase had returned 0; power goes anywhere in the next one, of the same segment. */
/* ---- a seal under way ------------------------------------------------------------------------- */

static _Atomic bool first_footer, seal_kept, erased;

/* The footer of the erase, and the barrier before that of the seal. */
static bool keep_two(const kvstow__op *op) {
  if (op->file == 0) return first_footer && op->kind == KVSTOW__WRITE && op->offset > SEGMENT / 2;
  return op->file == 1 && op->kind == KVSTOW__SYNC && !atomic_exchange(&seal_kept, true);
}

typedef struct erasing {
  kvstow_tier *tier;
  kvstow_loc loc;
} erasing;

static void *erase_main(void *arg) {
  const erasing *e = arg;
  const int code = kvstow_tier_erase(e->tier, &e->loc, 1);
  erased = true;
  return (void *)(intptr_t)code;
}

/* While an erase is at work elsewhere a segment gets full and is given up, its footer still under way. */
static void a_seal_under_way_does_not_undo_a_wipe(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record other = append_one(tier, 1, 3);
  assert_int_equal(kvstow_tier_seal(tier), 0);
  record first = append_one(tier, 2, 100), second = append_one(tier, 3, 100);
  assert_int_equal(other.loc.segment, 0);
  assert_int_equal(second.loc.segment, 1);
  first_footer = true;
  seal_kept = erased = false;
  the_device.kept = 0;
  the_device.keep = keep_two;
  erasing e = {tier, other.loc};
  pthread_t eraser;
  void *code;
  assert_int_equal(pthread_create(&eraser, NULL, erase_main, &e), 0);
  wait_kept(1);
  record third = append_one(tier, 4, 100);
  assert_int_equal(third.loc.segment, 2);
  wait_kept(2);
  assert_int_equal(kvstow_tier_reclaim(tier, 1), 0);
  first_footer = false;
  release_kind(KVSTOW__WRITE);
  for (int i = 0; i < 200 && !erased; i++) usleep(1000); /* it should wait for the seal */
  told_release();
  pthread_join(eraser, &code);
  assert_int_equal((intptr_t)code, 0);
  the_device.keep = NULL;
  assert_int_equal(kvstow_tier_close(tier), 0);
  tier = open_faulty(&kvstow__files);
  seen *s = scan_all(tier);
  assert_int_equal(s->count, 1);
  assert_non_null(seen_find(s, 4));
  free(s);
  assert_int_equal(kvstow_tier_close(tier), 0);
  record_free(&other);
  record_free(&first);
  record_free(&second);
  record_free(&third);
}

static void what_was_erased_survives_no_other_erase(void **state) {
  (void)state;
  for (uint64_t stop = 0; stop < 10; stop++)
    for (size_t i = 0; i < sizeof LOSSES / sizeof *LOSSES; i++) {
      char *place = scratch_new();
      record r[2] = {record_new(1, 3, PLANE), record_new(2, 3, PLANE)};
      dirs[0] = place;
      cache_volatile = true;
      kvstow_tier *tier = open_faulty(&kvstow__files);
      assert_int_equal(append_all(tier, r, 2), 0);
      assert_int_equal(kvstow_tier_seal(tier), 0);
      assert_int_equal(kvstow_tier_flush(tier), 0);
      assert_int_equal(kvstow_tier_erase(tier, &r[0].loc, 1), 0);
      faults.stop_at = faults.ops + stop;
      (void)kvstow_tier_erase(tier, &r[1].loc, 1);
      expect_gone_after_power_loss(tier, place, stop, LOSSES[i]);
      record_free(&r[0]);
      record_free(&r[1]);
      scratch_remove(place);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(a_failed_sync_is_reported),
      TEST(what_was_being_written_when_a_sync_failed_is_kept),
      TEST(the_first_record_written_when_a_sync_failed_is_kept),
      TEST(a_sync_that_fails_for_a_segment_given_up_costs_no_later_one),
      TEST(a_file_whose_sync_failed_stays_failed),
      TEST(a_segment_used_again_costs_its_first_append_no_barrier),
      TEST(a_segment_is_not_used_again_under_a_reader),
      TEST(a_segment_given_up_shows_nothing_before_it_is_used_again),
      TEST(a_life_that_could_not_be_ended_ahead_is_ended_when_needed),
      TEST(an_append_behind_an_end_that_fails_is_told),
      TEST(an_erase_whose_barrier_failed_is_done_again),
      TEST(what_was_erased_in_the_table_alone_survives_no_other_erase),
      TEST(what_lies_is_durably_gone_before_the_next_footer),
      TEST(what_was_erased_survives_no_other_erase),
      TEST(a_seal_under_way_does_not_undo_a_wipe),
  };
  return cmocka_run_group_tests_name("barriers", tests, NULL, NULL);
}
