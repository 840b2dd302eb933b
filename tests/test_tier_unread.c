/* Reads that fail while a store is opened: what passes costs nothing, what stays costs what can't be read and nothing
 * else, and a device that is gone costs nothing but the opening.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "test_tier_faulty.h"

enum { FILES = 3, EACH = 4, IN_A_ROW = 5 };

/* ---- devices -------------------------------------------------------------------------------- */

static struct {
  _Atomic int reads_before, failing; /* so many reads succeed, then so many fail */
  _Atomic int error;
  _Atomic uint32_t files;    /* bits: no read of these succeeds */
  _Atomic uint64_t from, to; /* of `files`, only reads that touch these bytes fail; 0, 0: all */
  _Atomic bool writes_too;
  _Atomic uint64_t refused;
} sick;

static int carry_out_sick(kvstow__op *op) {
  const bool in_file = op->file < 32 && (sick.files >> op->file & 1) != 0;
  const bool there = sick.to == 0 || (op->offset < sick.to && op->offset + op->length > sick.from);
  if (in_file && there && (op->kind == KVSTOW__READ || sick.writes_too)) {
    sick.refused++;
    return sick.error;
  }
  if (op->kind == KVSTOW__READ && atomic_fetch_sub(&sick.reads_before, 1) <= 0 &&
      atomic_fetch_sub(&sick.failing, 1) > 0)
    return sick.error;
  return carry_out(op);
}

static void get_well(void) {
  sick.reads_before = sick.failing = 0;
  sick.files = 0;
  sick.from = sick.to = 0;
  sick.writes_too = false;
  sick.error = EIO;
}

static int try_open(const char *at, kvstow_tier **tier, char *why) {
  the_device.carry_out = carry_out_sick;
  dirs[0] = at;
  const kvstow__io io = {
      .files = &kvstow__files, .engines = {&TOLD}, .kinds = {KVSTOW_ENGINE_AUTO}, .buffered = true};
  return kvstow__tier_open_with(&options, &io, tier, why, KVSTOW_MESSAGE_BYTES);
}

static kvstow_tier *must_open(const char *at) {
  kvstow_tier *tier = NULL;
  char why[KVSTOW_MESSAGE_BYTES];
  const int code = try_open(at, &tier, why);
  if (code) fail_msg("open: %s: %s", kvstow_errname(code), why);
  return tier;
}

/* ---- stores --------------------------------------------------------------------------------- */

static void append_numbers(kvstow_tier *tier, uint64_t from, uint64_t count) {
  for (uint64_t i = from; i < from + count; i++) {
    record r = append_one(tier, i, 3);
    record_free(&r);
  }
}

/* Segment s has records EACH * s and on; all are sealed but, if `killed`, the last. */
static void make_store(bool killed, char **left) {
  get_well();
  char *home = scratch_new();
  kvstow_tier *tier = must_open(home);
  for (uint64_t s = 0; s < FILES; s++) {
    append_numbers(tier, s * EACH, EACH);
    if (s + 1 < FILES || !killed) assert_int_equal(kvstow_tier_seal(tier), 0);
  }
  assert_int_equal(kvstow_tier_flush(tier), 0);
  if (killed) *left = crash_copy(home, 8);
  assert_int_equal(kvstow_tier_close(tier), 0);
  if (!killed) *left = crash_copy(home, 8);
  scratch_remove(home);
}

/* Of the readable segments. */
static seen *scan_others(kvstow_tier *tier) {
  seen *s = calloc(1, sizeof *s);
  for (uint32_t i = 0; i < kvstow_tier_segment_count(tier); i++) {
    kvstow_segment_info info;
    assert_int_equal(kvstow_tier_segment(tier, i, &info), 0);
    const bool unread = info.state == KVSTOW_SEGMENT_UNREAD;
    assert_int_equal(kvstow_tier_scan(tier, i, seen_add, s), unread ? KVSTOW_EIO : 0);
  }
  return s;
}

static void expect_numbers(kvstow_tier *tier, uint64_t from, uint64_t to, uint64_t but_from,
                           uint64_t but_to) {
  seen *s = scan_others(tier);
  for (uint64_t i = from; i < to; i++)
    if ((seen_find(s, i) != NULL) == (i >= but_from && i < but_to))
      fail_msg("record %llu is %s", (unsigned long long)i, seen_find(s, i) ? "there" : "lost");
  free(s);
}

static kvstow_segment_info info_of(kvstow_tier *tier, uint32_t id) {
  kvstow_segment_info info;
  assert_int_equal(kvstow_tier_segment(tier, id, &info), 0);
  return info;
}

static void drop_store(kvstow_tier *tier, char *left) {
  assert_int_equal(kvstow_tier_close(tier), 0);
  scratch_remove(left);
  get_well();
}

/* ---- what passes ---------------------------------------------------------------------------- */

/* Whichever reading of the opening it begins with. */
static void errors_that_pass_cost_nothing(void **state) {
  (void)state;
  for (int killed = 0; killed < 2; killed++) {
    char *left;
    make_store(killed, &left);
    int at = 0;
    bool past = false;
    for (; !past; at++) {
      char *copy = crash_copy(left, 8);
      sick.reads_before = at;
      sick.failing = IN_A_ROW;
      kvstow_tier *tier = must_open(copy);
      past = sick.failing == IN_A_ROW;
      expect_numbers(tier, 0, FILES * EACH, 0, 0);
      assert_int_equal(stats_of(tier).segments_unread, 0);
      get_well();
      assert_int_equal(kvstow_tier_close(tier), 0);
      tier = must_open(copy);
      expect_numbers(tier, 0, FILES * EACH, 0, 0);
      assert_int_equal(kvstow_tier_close(tier), 0);
      scratch_remove(copy);
    }
    assert_true(at > 2 * FILES);
    scratch_remove(left);
  }
}

/* ---- what stays ----------------------------------------------------------------------------- */

static void what_can_not_be_read_is_left_alone_and_there_the_next_time(void **state) {
  (void)state;
  char *left;
  make_store(false, &left);
  sick.files = 1u << 2; /* the newest lives are in it */
  kvstow_tier *tier = must_open(left);
  assert_int_equal(info_of(tier, 2).state, KVSTOW_SEGMENT_UNREAD);
  assert_int_equal(stats_of(tier).segments_unread, 1);
  char message[KVSTOW_MESSAGE_BYTES];
  kvstow_tier_message(tier, message, sizeof message);
  assert_non_null(strstr(message, "seg-000002.kvs"));
  assert_non_null(strstr(message, "Input/output error"));
  assert_non_null(strstr(message, "1 of "));
  expect_numbers(tier, 0, FILES * EACH, 2 * EACH, FILES * EACH);
  kvstow_tier_message(tier, message, sizeof message);
  assert_non_null(strstr(message, "seg-000002.kvs"));
  get_well();
  uint64_t next = 100; /* all the room there is */
  for (record r;; next++) {
    r = record_new(next, 60, PLANE);
    const int code = append_all(tier, &r, 1);
    record_free(&r);
    if (code == KVSTOW_ENOSPC) break;
    assert_int_equal(code, 0);
    assert_int_not_equal(r.loc.segment, 2);
  }
  assert_int_equal(kvstow_tier_erase(tier, &(kvstow_loc){.segment = 0}, 1), 0); /* another's */
  assert_int_equal(kvstow_tier_close(tier), 0);
  tier = must_open(left);
  expect_numbers(tier, 0, FILES * EACH, 0, 0);
  expect_numbers(tier, 100, next, 0, 0);
  const uint32_t old = info_of(tier, 2).generation;
  for (uint32_t id = FILES; id < kvstow_tier_segment_count(tier); id++)
    assert_true(info_of(tier, id).generation > old);
  drop_store(tier, left);
}

static void what_can_not_be_read_gives_room_when_it_is_given_up(void **state) {
  (void)state;
  char *left;
  make_store(false, &left);
  options.budget_bytes = FILES * (uint64_t)(SEGMENT + 4096) + 65536;
  sick.files = 1u << 1;
  kvstow_tier *tier = must_open(left);
  record r = record_new(100, 3, PLANE);
  assert_int_equal(append_all(tier, &r, 1), KVSTOW_ENOSPC);
  get_well();
  assert_int_equal(kvstow_tier_reclaim(tier, 1), 0);
  assert_int_equal(append_all(tier, &r, 1), 0);
  assert_int_equal(r.loc.segment, 1);
  record_free(&r);
  assert_int_equal(kvstow_tier_close(tier), 0);
  tier = must_open(left);
  expect_numbers(tier, 0, FILES * EACH, EACH, 2 * EACH);
  expect_numbers(tier, 100, 101, 0, 0);
  drop_store(tier, left);
}

/* The caller may mean what lies there: with nothing to name, or with a place in it that he knows from before. */
static void an_erase_wipes_what_can_not_be_read(void **state) {
  (void)state;
  for (int named = 0; named < 2; named++) {
    char *left;
    make_store(false, &left);
    const kvstow_loc loc = {.segment = 1};
    sick.files = 1u << 1;
    sick.writes_too = true;
    kvstow_tier *tier = must_open(left);
    assert_int_equal(kvstow_tier_erase(tier, named ? &loc : NULL, named), KVSTOW_EIO);
    assert_int_equal(info_of(tier, 1).state, KVSTOW_SEGMENT_UNREAD);
    sick.writes_too = false; /* it still can't be read */
    assert_int_equal(kvstow_tier_erase(tier, named ? &loc : NULL, named), 0);
    assert_int_equal(info_of(tier, 1).state, KVSTOW_SEGMENT_FREE);
    char *crashed = crash_copy(left, 8);
    assert_int_equal(kvstow_tier_close(tier), 0);
    get_well();
    tier = must_open(crashed);
    expect_numbers(tier, 0, FILES * EACH, EACH, 2 * EACH);
    assert_int_equal(kvstow_tier_close(tier), 0);
    scratch_remove(crashed);
    scratch_remove(left);
  }
}

static void a_smaller_budget_costs_what_can_not_be_read_before_the_rest(void **state) {
  (void)state;
  char *left;
  make_store(false, &left);
  options.budget_bytes = 2 * (uint64_t)(SEGMENT + 4096) + 65536;
  sick.files = 1u << 1;
  kvstow_tier *tier = must_open(left);
  expect_numbers(tier, 0, FILES * EACH, EACH, 2 * EACH);
  assert_int_equal(stats_of(tier).segments_unread, 0);
  drop_store(tier, left);
}

/* Only the first page, of a file whose old life has ended: it would tell of the new one. */
static void a_life_whose_first_page_can_not_be_read_is_there_the_next_time(void **state) {
  (void)state;
  char *left;
  options.budget_bytes = FILES * (uint64_t)(SEGMENT + 4096) + 65536;
  make_store(false, &left);
  kvstow_tier *tier = must_open(left);
  assert_int_equal(kvstow_tier_reclaim(tier, 0), 0);
  append_numbers(tier, 100, EACH);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  char *crashed = crash_copy(left, 8);
  assert_int_equal(kvstow_tier_close(tier), 0);
  sick.files = 1;
  sick.to = 4096;
  tier = must_open(crashed);
  assert_int_equal(info_of(tier, 0).state, KVSTOW_SEGMENT_UNREAD);
  assert_int_equal(kvstow_tier_close(tier), 0);
  get_well();
  tier = must_open(crashed);
  expect_numbers(tier, 0, FILES * EACH, 0, EACH);
  expect_numbers(tier, 100, 100 + EACH, 0, 0);
  assert_int_equal(kvstow_tier_close(tier), 0);
  scratch_remove(crashed);
  scratch_remove(left);
}

/* In what has to be walked. It does not come back either, whatever becomes of the table. */
static void a_header_page_that_can_not_be_read_costs_its_record(void **state) {
  (void)state;
  char *left;
  make_store(true, &left);
  const uint64_t lost = 2 * EACH + 1;
  sick.files = 1u << 2;
  sick.from = 65536; /* each is a run of its own */
  sick.to = sick.from + 4096;
  kvstow_tier *tier = must_open(left);
  expect_numbers(tier, 0, FILES * EACH, lost, lost + 1);
  seen *s = scan_all(tier);
  const kvstow_loc third = seen_find(s, lost + 1)->loc;
  free(s);
  assert_int_equal(third.page, 2 * 65536 / 4096);
  get_well();
  assert_int_equal(kvstow_tier_erase(tier, &third, 1), 0);
  assert_int_equal(kvstow_tier_close(tier), 0);
  flip(left, "seg-000002.kvs", SEGMENT - 4096 + 32);
  tier = must_open(left);
  expect_numbers(tier, 0, FILES * EACH, lost, lost + 2);
  drop_store(tier, left);
}

/* ---- a device that is gone ------------------------------------------------------------------ */

static void a_store_that_can_hardly_be_read_does_not_open(void **state) {
  (void)state;
  char *left;
  make_store(true, &left);
  char *as_it_was = crash_copy(left, 8);
  kvstow_tier *tier = NULL;
  char why[KVSTOW_MESSAGE_BYTES];
  sick.files = UINT32_MAX;
  assert_int_equal(try_open(left, &tier, why), KVSTOW_EIO);
  assert_null(tier);
  assert_non_null(strstr(why, left));
  assert_non_null(strstr(why, "seg-000000.kvs"));
  assert_non_null(strstr(why, "Input/output error"));
  assert_non_null(strstr(why, "as it is"));
  options.read_only = true; /* who changes nothing may look at what there is */
  tier = must_open(left);
  assert_true(stats_of(tier).segments_unread >= FILES);
  assert_int_equal(kvstow_tier_close(tier), 0);
  options.read_only = false;
  get_well();
  for (int i = 0; i < FILES; i++) {
    static uint8_t before[SEGMENT], after[SEGMENT];
    char name[32];
    snprintf(name, sizeof name, "seg-%06d.kvs", i);
    char *paths[] = {join(as_it_was, name), join(left, name)};
    for (int k = 0; k < 2; k++) {
      const int fd = open(paths[k], O_RDONLY);
      assert_int_equal(pread(fd, k ? after : before, SEGMENT, 0), SEGMENT);
      close(fd);
      free(paths[k]);
    }
    assert_memory_equal(before, after, SEGMENT);
  }
  tier = must_open(left);
  expect_numbers(tier, 0, FILES * EACH, 0, 0);
  scratch_remove(as_it_was);
  drop_store(tier, left);
}

/* While it was open. Pages are not asked for one after another. */
static void an_erase_on_a_dead_device_gives_up_soon(void **state) {
  (void)state;
  char *left;
  make_store(false, &left);
  kvstow_tier *tier = must_open(left);
  append_numbers(tier, 100, 1);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  const kvstow_loc loc = {.segment = 0, .generation = info_of(tier, 0).generation};
  faults.write_error = EIO; /* the open segment is spoiled, with a record in it */
  record r = record_new(200, 3, PLANE);
  assert_int_equal(append_all(tier, &r, 1), KVSTOW_EIO);
  record_free(&r);
  sick.files = UINT32_MAX;
  sick.refused = 0;
  assert_int_equal(kvstow_tier_erase(tier, &loc, 1), KVSTOW_EIO);
  if (sick.refused > 100) fail_msg("%llu reads", (unsigned long long)sick.refused);
  get_well();
  faults.write_error = 0;
  assert_int_equal(kvstow_tier_erase(tier, &loc, 1), 0);
  (void)kvstow_tier_flush(tier); /* tells of the write that failed */
  drop_store(tier, left);
}

/* It is we who are short of something, not the device. */
static void without_memory_for_reads_a_store_does_not_open(void **state) {
  (void)state;
  char *left;
  make_store(false, &left);
  kvstow_tier *tier = NULL;
  char why[KVSTOW_MESSAGE_BYTES];
  sick.files = 1u << 1;
  sick.error = ENOMEM;
  assert_int_equal(try_open(left, &tier, why), KVSTOW_ENOMEM);
  get_well();
  tier = must_open(left);
  expect_numbers(tier, 0, FILES * EACH, 0, 0);
  drop_store(tier, left);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(errors_that_pass_cost_nothing),
      TEST(what_can_not_be_read_is_left_alone_and_there_the_next_time),
      TEST(what_can_not_be_read_gives_room_when_it_is_given_up),
      TEST(an_erase_wipes_what_can_not_be_read),
      TEST(a_smaller_budget_costs_what_can_not_be_read_before_the_rest),
      TEST(a_life_whose_first_page_can_not_be_read_is_there_the_next_time),
      TEST(a_header_page_that_can_not_be_read_costs_its_record),
      TEST(a_store_that_can_hardly_be_read_does_not_open),
      TEST(an_erase_on_a_dead_device_gives_up_soon),
      TEST(without_memory_for_reads_a_store_does_not_open),
  };
  return cmocka_run_group_tests_name("unread", tests, NULL, NULL);
}
