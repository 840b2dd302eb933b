/* What survives: crashes (files copied while the store is open, or the process killed), torn and
 * flipped bytes everywhere, truncated and stale files, smaller budgets.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "test_tier_place.h"

#include <signal.h>
#include <sys/wait.h>

#define SEGMENTS 6u

static int fresh(void **state) {
  (void)state;
  return place_new(SEGMENTS);
}

/* Appends records [from, to), 15 planes each: 15 records fill a segment. */
static void append_range(kvstow_tier *tier, uint64_t from, uint64_t to, kvstow_loc *locs) {
  for (uint64_t i = from; i < to; i++) {
    record r = append_one(tier, i, 15);
    if (locs) locs[i] = r.loc;
    record_free(&r);
  }
}

static kvstow_tier *open_at(const char *const *place) {
  options.dirs = place;
  return tier_open(&options);
}

/* Exactly the records [0, count) are there, and every byte of them. */
static void expect_all(kvstow_tier *tier, uint64_t count) {
  seen *s = scan_all(tier);
  assert_int_equal(s->count, count);
  for (uint64_t i = 0; i < count; i++) {
    const kvstow_record *r = seen_find(s, i);
    assert_non_null(r);
    assert_int_equal(read_planes(tier, i, r->loc, r->plane_bytes, 0, r->planes), 0);
  }
  free(s);
}

/* ---- crashes -------------------------------------------------------------------------------- */

static void what_was_flushed_survives_a_crash(void **state) {
  (void)state;
  kvstow_tier *tier = open_at(dirs);
  for (uint64_t count = 7; count <= 49; count += 7) {
    append_range(tier, count - 7, count, NULL);
    assert_int_equal(kvstow_tier_flush(tier), 0);
    char *crashed = crash_copy(dir, SEGMENTS);
    const char *place[] = {crashed};
    for (int round = 0; round < 2; round++) {
      kvstow_tier *after = open_at(place);
      expect_all(after, count);
      /* what was walked is sealed at once: the next open need not walk */
      if (round == 1) assert_int_equal(stats_of(after).walked_segments, 0);
      kvstow_tier_close(after);
    }
    scratch_remove(crashed);
  }
  kvstow_tier_close(tier);
}

static void a_crash_after_reopening_loses_nothing(void **state) {
  (void)state;
  for (uint64_t count = 4; count <= 40; count += 4) {
    kvstow_tier *tier = open_at(dirs);
    append_range(tier, count - 4, count, NULL);
    assert_int_equal(kvstow_tier_flush(tier), 0);
    char *crashed = crash_copy(dir, SEGMENTS);
    const char *place[] = {crashed};
    kvstow_tier *after = open_at(place);
    expect_all(after, count);
    kvstow_tier_close(after);
    scratch_remove(crashed);
    assert_int_equal(kvstow_tier_close(tier), 0);
  }
}

static void a_crash_while_reusing_a_segment_shows_only_the_new_life(void **state) {
  (void)state;
  kvstow_tier *tier = open_at(dirs);
  kvstow_loc locs[200];
  append_range(tier, 0, 60, locs);
  kvstow_tier_seal(tier);
  for (uint32_t id = 0; id < SEGMENTS; id++) kvstow_tier_reclaim(tier, id);
  append_range(tier, 100, 103, locs); /* over the front of old records */
  assert_int_equal(kvstow_tier_flush(tier), 0);
  char *crashed = crash_copy(dir, SEGMENTS);
  const char *place[] = {crashed};
  kvstow_tier *after = open_at(place);
  kvstow_segment_info info;
  assert_int_equal(kvstow_tier_segment(after, locs[100].segment, &info), 0);
  seen *s = calloc(1, sizeof *s);
  assert_int_equal(kvstow_tier_scan(after, locs[100].segment, seen_add, s), 0);
  assert_int_equal(s->count, 3);
  for (uint64_t i = 100; i < 103; i++)
    assert_int_equal(read_planes(after, i, seen_find(s, i)->loc, PLANE, 0, 15), 0);
  free(s);
  /* generations go on from the newest */
  record r = append_one(after, 500, 15);
  assert_true(r.loc.generation > locs[102].generation);
  record_free(&r);
  kvstow_tier_close(after);
  kvstow_tier_close(tier);
  scratch_remove(crashed);
}

/* A child appends and flushes until it is killed; what it said was flushed must be there. */
static void child_appends(int out) {
  the_variant = NULL;
  options.engine = KVSTOW_ENGINE_AUTO;
  kvstow_tier *tier = NULL;
  if (kvstow_tier_open(&options, &tier, NULL, 0) != 0) _exit(1);
  for (uint64_t i = 0;; i++) {
    record r = record_new(i, 3, PLANE);
    if (append_all(tier, &r, 1) != 0) _exit(2);
    record_free(&r);
    if (i % 3 != 2) continue;
    if (kvstow_tier_flush(tier) != 0) _exit(3);
    const uint64_t flushed = i + 1;
    if (write(out, &flushed, sizeof flushed) != sizeof flushed) _exit(4);
  }
}

/* Its header page arrived, one of its planes did not: whoever stores it again must not be told that it is there. */
static void a_record_whose_planes_are_torn_is_none(void **state) {
  (void)state;
  kvstow_tier *tier = open_at(dirs);
  kvstow_loc locs[6];
  append_range(tier, 0, 6, locs);
  char *crashed = crash_copy(dir, SEGMENTS);
  const char *place[] = {crashed};
  const uint8_t zeros[512] = {0};
  patch(crashed, "seg-000000.kvs", ((uint64_t)locs[3].page + 15) * 4096 + 3584, zeros,
        sizeof zeros);
  for (int life = 0; life < 2; life++) {
    kvstow_tier *after = open_at(place);
    seen *s = scan_all(after);
    assert_int_equal(s->count, 5);
    assert_null(seen_find(s, 3));
    free(s);
    kvstow_tier_close(after);
  }
  scratch_remove(crashed);
  kvstow_tier_close(tier);
}

/* A wiped segment shows nothing but a footer, and that is the newest number of all. */
static void what_is_written_after_a_wipe_and_a_restart_survives_a_crash(void **state) {
  (void)state;
  options = options_for(dirs, 1);
  kvstow_tier *tier = open_at(dirs);
  append_range(tier, 0, 1, NULL);
  assert_int_equal(kvstow_tier_seal(tier), 0);
  assert_int_equal(kvstow_tier_reclaim(tier, 0), 0);
  assert_int_equal(kvstow_tier_erase(tier, NULL, 0), 0);
  assert_int_equal(kvstow_tier_close(tier), 0);
  tier = open_at(dirs);
  append_range(tier, 0, 3, NULL);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  char *crashed = crash_copy(dir, 1);
  kvstow_tier_close(tier);
  const char *place[] = {crashed};
  tier = open_at(place);
  expect_all(tier, 3);
  kvstow_tier_close(tier);
  scratch_remove(crashed);
}

static void what_was_flushed_survives_kill_9(void **state) {
  (void)state;
  if (UNDER_TSAN) skip();
  for (int round = 0; round < 6; round++) {
    char *place = scratch_new();
    const char *places[] = {place};
    options.dirs = places;
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    const pid_t child = fork();
    if (child == 0) {
      close(pipes[0]);
      child_appends(pipes[1]);
    }
    close(pipes[1]);
    uint64_t flushed = 0, n;
    while (read(pipes[0], &n, sizeof n) == sizeof n) {
      flushed = n;
      if (flushed >= 3u + 9u * (unsigned)round) kill(child, SIGKILL);
    }
    close(pipes[0]);
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    kvstow_tier *tier = open_at(places);
    seen *s = scan_all(tier);
    for (uint64_t i = 0; i < flushed; i++) {
      const kvstow_record *r = seen_find(s, i);
      if (!r)
        fail_msg("record %llu was flushed and is gone", (unsigned long long)i);
      else
        assert_int_equal(read_planes(tier, i, r->loc, PLANE, 0, 3), 0);
    }
    free(s);
    kvstow_tier_close(tier);
    scratch_remove(place);
  }
}

/* ---- damage --------------------------------------------------------------------------------- */

static void a_torn_footer_is_walked_around(void **state) {
  (void)state;
  kvstow_tier *tier = open_at(dirs);
  append_range(tier, 0, 40, NULL);
  kvstow_tier_close(tier);
  const uint64_t table_at = SEGMENT - kvstow__footer_bytes(15);
  const uint64_t spots[] = {SEGMENT - 4096,
                            SEGMENT - 4096 + 12,
                            SEGMENT - 4096 + 33,
                            SEGMENT - 4096 + 56,
                            SEGMENT - 4096 + 70,
                            SEGMENT - 1,
                            table_at,
                            table_at + 17,
                            table_at + 103};
  for (size_t i = 0; i < sizeof spots / sizeof *spots; i++) {
    flip(dir, "seg-000001.kvs", spots[i]);
    tier = open_at(dirs);
    assert_int_equal(stats_of(tier).walked_segments, 1);
    expect_all(tier, 40);
    kvstow_tier_close(tier); /* and the footer is whole again */
  }
}

static void a_torn_header_ends_only_the_walk(void **state) {
  (void)state;
  kvstow_tier *tier = open_at(dirs);
  kvstow_loc locs[12];
  append_range(tier, 0, 12, locs);
  kvstow_tier_flush(tier);
  char *crashed = crash_copy(dir, SEGMENTS);
  kvstow_tier_close(tier);
  flip(crashed, "seg-000000.kvs", (uint64_t)locs[9].page * 4096 + 700);
  const char *place[] = {crashed};
  tier = open_at(place);
  expect_all(tier, 9);
  kvstow_tier_close(tier);
  scratch_remove(crashed);
  /* with a footer only the record itself is lost */
  flip(dir, "seg-000000.kvs", (uint64_t)locs[9].page * 4096 + 700);
  tier = open_at(dirs);
  seen *s = scan_all(tier);
  assert_int_equal(s->count, 12);
  for (uint64_t i = 0; i < 12; i++)
    assert_int_equal(read_planes(tier, i, seen_find(s, i)->loc, PLANE, 0, 15),
                     i == 9 ? KVSTOW_ECORRUPT : 0);
  free(s);
  kvstow_tier_close(tier);
}

static void a_flipped_byte_anywhere_is_noticed(void **state) {
  (void)state;
  kvstow_tier *tier = open_at(dirs);
  record r = append_one(tier, 1, 3);
  kvstow_tier_seal(tier);
  const uint64_t at = (uint64_t)r.loc.page * 4096;
  uint32_t noticed = 0, tried = 0;
  for (uint64_t offset = 0; offset < 4 * 4096; offset += offset < 200 ? 7 : 509) {
    flip(dir, "seg-000000.kvs", at + offset);
    if (the_variant == NULL || !the_variant->buffered) {
      const int code = read_record(tier, &r);
      assert_int_equal(code, KVSTOW_ECORRUPT);
      noticed++;
    }
    tried++;
    flip(dir, "seg-000000.kvs", at + offset);
    assert_int_equal(read_record(tier, &r), 0);
  }
  assert_int_equal(noticed, tried);
  const kvstow_tier_stats s = stats_of(tier);
  assert_int_equal(s.corrupt_headers + s.corrupt_planes, noticed);
  assert_true(s.corrupt_headers > 0 && s.corrupt_planes > 0);
  record_free(&r);
  kvstow_tier_close(tier);
}

static void a_record_in_another_place_is_refused(void **state) {
  (void)state;
  kvstow_tier *tier = open_at(dirs);
  record a = append_one(tier, 1, 15), b = append_one(tier, 2, 15);
  kvstow_tier_flush(tier);
  static uint8_t image[16 * 4096];
  char *path = join(dir, "seg-000000.kvs");
  const int fd = open(path, O_RDWR);
  assert_int_equal(pread(fd, image, sizeof image, (off_t)a.loc.page * 4096), sizeof image);
  assert_int_equal(pwrite(fd, image, sizeof image, (off_t)b.loc.page * 4096), sizeof image);
  fsync(fd);
  close(fd);
  free(path);
  assert_int_equal(read_record(tier, &b), KVSTOW_ECORRUPT);
  assert_int_equal(read_planes(tier, 1, b.loc, PLANE, 0, 15), KVSTOW_ECORRUPT);
  assert_int_equal(read_record(tier, &a), 0);
  record_free(&a);
  record_free(&b);
  kvstow_tier_close(tier);
}

static void a_truncated_file_keeps_its_front(void **state) {
  (void)state;
  kvstow_tier *tier = open_at(dirs);
  kvstow_loc locs[40];
  append_range(tier, 0, 40, locs);
  kvstow_tier_close(tier);
  uint64_t expected = 40;
  while (locs[expected - 1].segment != 1 || locs[expected - 1].page > 5 * 16) expected--;
  uint64_t behind = 40;
  while (locs[behind - 1].segment > 1) behind--;
  char *path = join(dir, "seg-000001.kvs");
  assert_int_equal(truncate(path, (off_t)locs[expected].page * 4096 + 100), 0);
  free(path);
  tier = open_at(dirs);
  seen *s = scan_all(tier);
  assert_int_equal(s->count, expected + (40 - behind));
  for (uint64_t i = 0; i < 40; i++) {
    assert_int_equal(seen_find(s, i) != NULL, i < expected || i >= behind);
    if (seen_find(s, i))
      assert_int_equal(read_planes(tier, i, seen_find(s, i)->loc, PLANE, 0, 15), 0);
  }
  free(s);
  append_range(tier, 100, 110, NULL);
  kvstow_tier_close(tier);
  tier = open_at(dirs);
  assert_int_equal(stats_of(tier).walked_segments, 0);
  kvstow_tier_close(tier);
}

static void a_segment_of_another_store_is_ignored(void **state) {
  (void)state;
  char *other = scratch_new();
  const char *place[] = {other};
  kvstow_tier *tier = open_at(place);
  append_range(tier, 50, 70, NULL);
  kvstow_tier_close(tier);
  tier = open_at(dirs);
  append_range(tier, 0, 5, NULL);
  kvstow_tier_close(tier);
  copy_file(other, dir, "seg-000001.kvs");
  tier = open_at(dirs);
  expect_all(tier, 5);
  append_range(tier, 5, 40, NULL); /* its file is used like any other */
  expect_all(tier, 40);
  kvstow_tier_close(tier);
  scratch_remove(other);
}

/* Footers and headers of random bytes, with the checksums right: nothing is believed blindly. */
static void hostile_lengths_are_refused(void **state) {
  (void)state;
  kvstow_tier *tier = open_at(dirs);
  uint8_t uuid[KVSTOW_UUID_BYTES];
  kvstow_tier_identity(tier, uuid, NULL);
  append_range(tier, 0, 5, NULL);
  kvstow_tier_close(tier);
  kvstow__trailer *t = aligned_alloc(4096, 4096);
  for (int i = 0; i < 12; i++) {
    memset(t, 0, sizeof *t);
    t->magic = KVSTOW__TRAILER_MAGIC;
    t->version = KVSTOW__VERSION;
    t->state = i % 4 == 3 ? 9 : KVSTOW__TRAILER_SEALED;
    memcpy(t->uuid, uuid, sizeof uuid);
    t->sequence = 99;
    t->segment_bytes = i % 5 == 4 ? SEGMENT * 2 : SEGMENT;
    const uint32_t counts[] = {UINT32_MAX, 1u << 20, 10000, 1};
    t->records = counts[i % 4];
    t->end_offset = i % 3 ? UINT64_MAX - 4095 : 4096;
    t->table_offset = i % 2 ? SEGMENT - 8192 : UINT64_MAX;
    t->checksum = kvstow__page_checksum(t, offsetof(kvstow__trailer, checksum));
    patch(dir, "seg-000000.kvs", SEGMENT - 4096, t, sizeof *t);
    tier = open_at(dirs);
    expect_all(tier, 5);
    kvstow_tier_close(tier);
  }
  free(t);
}

/* ---- budgets -------------------------------------------------------------------------------- */

static void a_smaller_budget_drops_the_oldest(void **state) {
  (void)state;
  kvstow_tier *tier = open_at(dirs);
  append_range(tier, 0, 80, NULL); /* all six segments */
  kvstow_tier_close(tier);
  const char *place[] = {dir};
  kvstow_tier_options smaller = options_for(place, 3);
  tier = tier_open(&smaller);
  assert_int_equal(kvstow_tier_segment_count(tier), 3);
  seen *s = scan_all(tier);
  assert_true(s->count >= 31 && s->count <= 45);
  for (uint64_t i = 80 - s->count; i < 80; i++) {
    const kvstow_record *r = seen_find(s, i);
    assert_non_null(r);
    assert_true(r->loc.segment < 3);
    assert_int_equal(read_planes(tier, i, r->loc, PLANE, 0, 15), 0);
  }
  const size_t left = s->count;
  free(s);
  assert_true(stats_of(tier).disk_bytes <= smaller.budget_bytes);
  kvstow_tier_close(tier);
  tier = open_at(dirs); /* and back */
  assert_int_equal(kvstow_tier_segment_count(tier), SEGMENTS);
  assert_int_equal(stats_of(tier).recovered_records, left);
  kvstow_tier_close(tier);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, fresh, remove_it)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(what_was_flushed_survives_a_crash),
      TEST(a_crash_after_reopening_loses_nothing),
      TEST(a_crash_while_reusing_a_segment_shows_only_the_new_life),
      TEST(a_record_whose_planes_are_torn_is_none),
      TEST(what_is_written_after_a_wipe_and_a_restart_survives_a_crash),
      TEST(what_was_flushed_survives_kill_9),
      TEST(a_torn_footer_is_walked_around),
      TEST(a_torn_header_ends_only_the_walk),
      TEST(a_flipped_byte_anywhere_is_noticed),
      TEST(a_record_in_another_place_is_refused),
      TEST(a_truncated_file_keeps_its_front),
      TEST(a_segment_of_another_store_is_ignored),
      TEST(hostile_lengths_are_refused),
      TEST(a_smaller_budget_drops_the_oldest),
  };
  return cmocka_run_group_tests_name("recovery", tests, NULL, NULL);
}
