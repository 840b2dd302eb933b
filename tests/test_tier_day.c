/* What was written today: a day ends when the wall clock says so, or 24 hours after it began, should that
 * clock have been set back; set to and fro it ends no sooner.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "test_tier_device.h"
#include "tier/state.h"

#define DAY_S 86400u

static uint64_t wall_s;

static uint64_t now_s(void *env) {
  (void)env;
  return wall_s;
}

static int carry_out(kvstow__op *op) {
  if (op->kind == KVSTOW__SYNC) return 0;
  if (op->kind == KVSTOW__READ)
    return preadv(op->fd, op->iov, (int)op->iov_count, (off_t)op->offset) >= 0 ? 0 : EIO;
  return pwritev(op->fd, op->iov, (int)op->iov_count, (off_t)op->offset) >= 0 ? 0 : EIO;
}

/* The clock that nobody sets, so much later. */
static void hours_pass(kvstow_tier *tier, uint64_t seconds) {
  kvstow__lock(&tier->lock);
  tier->today_since_us -= seconds * 1000000;
  kvstow__unlock(&tier->lock);
}

static uint64_t today(const kvstow_tier *tier) {
  return stats_of(tier).bytes_written_today;
}

static void a_day_ends_once(void **state) {
  (void)state;
  char *dir = scratch_new();
  const char *dirs[] = {dir};
  const kvstow_tier_options options = options_for(dirs, 4);
  kvstow__file_ops files = kvstow__files;
  files.now_s = now_s;
  the_device.carry_out = carry_out;
  wall_s = 20000 * (uint64_t)DAY_S + 5000;
  kvstow_tier *tier = open_told(&options, &files, true);
  record r = append_one(tier, 1, 3);
  const uint64_t first = today(tier);
  assert_true(first >= 4 * PLANE);
  wall_s += DAY_S - 5001; /* one second before midnight */
  assert_int_equal(today(tier), first);
  wall_s -= 3 * DAY_S;
  assert_int_equal(today(tier), first);
  hours_pass(tier, DAY_S - 3600);
  wall_s += 3 * DAY_S;
  assert_int_equal(today(tier), first);
  wall_s -= 3 * DAY_S;
  assert_int_equal(today(tier), first);
  hours_pass(tier, 3600);
  assert_int_equal(today(tier), 0);
  record_free(&r);
  r = append_one(tier, 2, 3);
  const uint64_t second = today(tier);
  assert_true(second >= 4 * PLANE);
  wall_s += DAY_S - 1 - wall_s % DAY_S;
  assert_int_equal(today(tier), second);
  wall_s++;
  assert_int_equal(today(tier), 0);
  record_free(&r);
  kvstow_tier_close(tier);
  scratch_remove(dir);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(a_day_ends_once)};
  return cmocka_run_group_tests_name("days", tests, NULL, NULL);
}
