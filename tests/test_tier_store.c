/* The tier from outside: append, read, scan, flush, reclaim, erase, cancel, reopen; on every engine,
 * direct and buffered.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/wall_clock.h"
#include "test_tier_fixture.h"

static char *dir;
static const char *dirs[1];

static int fresh(void **state) {
  (void)state;
  dir = scratch_new();
  dirs[0] = dir;
  return 0;
}

static int remove_it(void **state) {
  (void)state;
  scratch_remove(dir);
  return 0;
}

static kvstow_segment_info info_of(kvstow_tier *tier, uint32_t id) {
  kvstow_segment_info info;
  assert_int_equal(kvstow_tier_segment(tier, id, &info), 0);
  return info;
}

/* ---- reading back --------------------------------------------------------------------------- */

static void returns_what_was_appended(void **state) {
  (void)state;
  kvstow_tier_options options = options_for(dirs, 4);
  kvstow_tier *tier = tier_open(&options);
  record r[20];
  for (uint64_t i = 0; i < 20; i++) r[i] = record_new(i, 1 + (uint32_t)i % 5, PLANE * (1 + i % 3));
  assert_int_equal(append_all(tier, r, 20), 0);
  for (int i = 0; i < 20; i++) {
    assert_int_equal(read_record(tier, &r[i]), 0);
    assert_int_equal(read_planes(tier, r[i].number, r[i].loc, r[i].plane_bytes, 0, 0), 0);
    for (uint32_t p = 0; p < r[i].planes; p++)
      assert_int_equal(read_planes(tier, r[i].number, r[i].loc, r[i].plane_bytes, p, 1), 0);
  }
  kvstow_tier_stats s = stats_of(tier);
  assert_int_equal(s.records_written, 20);
  assert_int_equal(s.corrupt_headers + s.corrupt_planes + s.io_errors, 0);
  assert_int_equal(s.bytes_written, s.bytes_written_today);
  assert_string_equal(s.engine,
                      the_variant->engine == KVSTOW_ENGINE_URING ? "io_uring" : "threads");
  if (the_variant->buffered) assert_false(s.direct_io);
  kvstow_tier_stats older;
  memset(&older, 0x77, sizeof older);
  older.size = offsetof(kvstow_tier_stats, records_read);
  kvstow_tier_get_stats(tier, &older);
  assert_int_equal(older.records_written, 20);
  assert_int_equal(older.records_read, 0x7777777777777777u); /* behind an older program's struct */
  for (int i = 0; i < 20; i++) record_free(&r[i]);
  assert_int_equal(kvstow_tier_close(tier), 0);
}

static void runs_start_on_64_kib_and_are_packed(void **state) {
  (void)state;
  kvstow_tier_options options = options_for(dirs, 4);
  kvstow_tier *tier = tier_open(&options);
  record a[3], b[2];
  for (uint64_t i = 0; i < 3; i++) a[i] = record_new(i, 1, PLANE);
  for (uint64_t i = 0; i < 2; i++) b[i] = record_new(10 + i, 2, PLANE);
  assert_int_equal(append_all(tier, a, 3), 0);
  assert_int_equal(append_all(tier, b, 2), 0);
  assert_int_equal(a[0].loc.page, 0);
  assert_int_equal(a[1].loc.page, 2);
  assert_int_equal(a[2].loc.page, 4);
  assert_int_equal(b[0].loc.page, 16);
  assert_int_equal(b[1].loc.page, 19);
  const kvstow_segment_info info = info_of(tier, a[0].loc.segment);
  assert_int_equal(info.records, 5);
  assert_int_equal(info.used_bytes, 22 * 4096);
  assert_int_equal(info.generation, a[0].loc.generation);
  assert_int_equal(info.state, KVSTOW_SEGMENT_OPEN);
  for (int i = 0; i < 3; i++) assert_int_equal(read_record(tier, &a[i]), 0);
  for (int i = 0; i < 2; i++) assert_int_equal(read_record(tier, &b[i]), 0);
  for (int i = 0; i < 3; i++) record_free(&a[i]);
  for (int i = 0; i < 2; i++) record_free(&b[i]);
  kvstow_tier_close(tier);
}

static void neighbours_are_merged(void **state) {
  (void)state;
  kvstow_tier_options options = options_for(dirs, 4);
  kvstow_tier *tier = tier_open(&options);
  enum { COUNT = 8 };
  record r[COUNT];
  for (uint64_t i = 0; i < COUNT; i++) r[i] = record_new(i, 4, PLANE);
  assert_int_equal(append_all(tier, r, COUNT), 0);
  kvstow_record_read reads[COUNT];
  kvstow_record_read *pointers[COUNT];
  gate g = GATE_INIT(COUNT);
  for (int i = 0; i < COUNT; i++) {
    reads[i] = (kvstow_record_read){.key = key_of(r[i].number),
                                    .loc = r[i].loc,
                                    .plane_bytes = PLANE,
                                    .plane_count = 4,
                                    .header = r[i].header,
                                    .payload = r[i].payload,
                                    .done = gate_read_done,
                                    .arg = &g};
    memset(r[i].header, 0, 4096);
    memset(r[i].payload, 0, 4 * PLANE);
    pointers[COUNT - 1 - i] = &reads[i];
  }
  assert_int_equal(kvstow_tier_read_batch(tier, pointers, COUNT), 0);
  assert_int_equal(gate_wait(&g), 0);
  kvstow_tier_stats s = stats_of(tier);
  assert_int_equal(s.read_requests, COUNT);
  assert_int_equal(s.device_reads, 1);
  assert_int_equal(s.merges, COUNT - 1);
  kvstow_tuning tuning;
  kvstow_tier_get_tuning(tier, &tuning);
  tuning.enable_io_scheduling = false;
  assert_int_equal(kvstow_tier_set_tuning(tier, &tuning), 0);
  tuning.read_ahead_blocks = 0;
  assert_int_equal(kvstow_tier_set_tuning(tier, &tuning), KVSTOW_EINVAL);
  g.left = COUNT;
  assert_int_equal(kvstow_tier_read_batch(tier, pointers, COUNT), 0);
  assert_int_equal(gate_wait(&g), 0);
  s = stats_of(tier);
  assert_int_equal(s.device_reads, 1 + COUNT);
  for (int i = 0; i < COUNT; i++) record_free(&r[i]);
  kvstow_tier_close(tier);
}

static void wrong_keys_shapes_and_places_are_refused(void **state) {
  (void)state;
  kvstow_tier_options options = options_for(dirs, 4);
  kvstow_tier *tier = tier_open(&options);
  record r = append_one(tier, 1, 2), other = append_one(tier, 2, 2);
  assert_int_equal(read_planes(tier, 3, r.loc, PLANE, 0, 2), KVSTOW_ECORRUPT);
  assert_int_equal(read_planes(tier, 1, other.loc, PLANE, 0, 2), KVSTOW_ECORRUPT);
  assert_int_equal(read_planes(tier, 1, r.loc, 2 * PLANE, 0, 1), KVSTOW_ECORRUPT);
  assert_int_equal(read_planes(tier, 1, r.loc, PLANE, 1, 2), KVSTOW_ECORRUPT);
  kvstow_loc loc = r.loc;
  loc.page++;
  assert_int_equal(read_planes(tier, 1, loc, PLANE, 0, 1), KVSTOW_ECORRUPT);
  loc = r.loc;
  loc.generation++;
  assert_int_equal(read_planes(tier, 1, loc, PLANE, 0, 2), KVSTOW_EMISS);
  loc = r.loc;
  loc.segment = 77;
  assert_int_equal(read_planes(tier, 1, loc, PLANE, 0, 2), KVSTOW_EMISS);
  loc = r.loc;
  loc.page = 200; /* nothing is written there */
  assert_int_equal(read_planes(tier, 1, loc, PLANE, 0, 2), KVSTOW_EMISS);
  char message[KVSTOW_MESSAGE_BYTES];
  kvstow_tier_message(tier, message, sizeof message);
  assert_non_null(strstr(message, "seg-000000.kvs"));
  record_free(&r);
  record_free(&other);
  kvstow_tier_close(tier);
}

static void bad_arguments_are_refused(void **state) {
  (void)state;
  kvstow_tier_options options = options_for(dirs, 4);
  kvstow_tier *tier = tier_open(&options);
  record r = record_new(1, 1, PLANE);
  kvstow_record_write w = {.header = r.header, .payload = r.payload + 8};
  assert_int_equal(kvstow_tier_append(tier, &w, 1, NULL, NULL), KVSTOW_EINVAL);
  w.payload = r.payload;
  assert_int_equal(kvstow_tier_append(tier, &w, 0, NULL, NULL), KVSTOW_EINVAL);
  memset(r.header, 0, 8);
  assert_int_equal(kvstow_tier_append(tier, &w, 1, NULL, NULL), KVSTOW_EINVAL);
  record big = record_new(2, 2, SEGMENT / 2);
  w = (kvstow_record_write){.header = big.header, .payload = big.payload};
  assert_int_equal(kvstow_tier_append(tier, &w, 1, NULL, NULL), KVSTOW_ETOOBIG);
  kvstow_record d = {.planes = 0, .plane_bytes = PLANE};
  assert_int_equal(kvstow_record_format(r.header, &d, NULL, 0), KVSTOW_EINVAL);
  d.planes = 400;
  assert_int_equal(kvstow_record_format(r.header, &d, "x", 1), 0);
  assert_int_equal(kvstow_record_format(r.header, &d, r.payload, 2000), KVSTOW_EINVAL);
  assert_true(kvstow_record_owner_max_bytes(400) >= 1 && kvstow_record_owner_max_bytes(500) < 0);
  d.plane_bytes = 100;
  assert_int_equal(kvstow_record_format(r.header, &d, NULL, 0), KVSTOW_EINVAL);
  assert_int_equal(kvstow_tier_reclaim(tier, 999), KVSTOW_EINVAL);
  assert_int_equal(kvstow_tier_reclaim(tier, 0), KVSTOW_ESTATE);
  record_free(&r);
  record_free(&big);
  kvstow_tier_close(tier);
  assert_int_equal(kvstow_tier_close(NULL), 0);
}

/* ---- space ---------------------------------------------------------------------------------- */

static void fills_up_then_takes_what_is_reclaimed(void **state) {
  (void)state;
  kvstow_tier_options options = options_for(dirs, 3);
  kvstow_tier *tier = tier_open(&options);
  assert_int_equal(kvstow_tier_segment_count(tier), 3);
  uint64_t number = 0;
  record last = {0}, first = {0};
  int code = 0;
  for (;;) {
    record r = record_new(number, 15, PLANE);
    kvstow_record_write w = {.header = r.header, .payload = r.payload};
    const size_t fits = kvstow_tier_fits(tier, &w, 1);
    code = append_all(tier, &r, 1);
    assert_int_equal(fits, code == 0);
    record_free(&r);
    if (code) break;
    if (number == 0) first = r;
    last = r;
    number++;
  }
  assert_int_equal(code, KVSTOW_ENOSPC);
  assert_true(number >= 3 * 14); /* of 16 that a segment of 64 KiB pieces could hold at most */
  assert_int_equal(read_record(tier, &first), 0);
  assert_int_equal(kvstow_tier_reclaim(tier, first.loc.segment), 0);
  assert_int_equal(read_record(tier, &first), KVSTOW_EMISS);
  while (info_of(tier, first.loc.segment).state == KVSTOW_SEGMENT_RECLAIMED) /* its seal ends */
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
  assert_int_equal(info_of(tier, first.loc.segment).state, KVSTOW_SEGMENT_FREE);
  record again = append_one(tier, 1000, 15);
  assert_int_equal(again.loc.segment, first.loc.segment);
  assert_int_not_equal(again.loc.generation, first.loc.generation);
  assert_int_equal(read_record(tier, &first), KVSTOW_EMISS);
  assert_int_equal(read_record(tier, &again), 0);
  assert_int_equal(read_record(tier, &last), 0);
  assert_true(stats_of(tier).stale_reads >= 2);
  record_free(&again);
  kvstow_tier_close(tier);
}

static void a_batch_may_span_segments_and_is_taken_whole_or_not(void **state) {
  (void)state;
  kvstow_tier_options options = options_for(dirs, 3);
  kvstow_tier *tier = tier_open(&options);
  enum { COUNT = 64 };
  record r[COUNT];
  kvstow_record_write w[COUNT];
  for (uint64_t i = 0; i < COUNT; i++) {
    r[i] = record_new(i, 15, PLANE);
    w[i] = (kvstow_record_write){.header = r[i].header, .payload = r[i].payload};
  }
  const size_t fits = kvstow_tier_fits(tier, w, COUNT);
  assert_true(fits >= 42 && fits < 48);
  assert_int_equal(kvstow_tier_append(tier, w, COUNT, NULL, NULL), KVSTOW_ENOSPC);
  assert_int_equal(stats_of(tier).records_written, 0);
  assert_int_equal(append_all(tier, r, fits), 0);
  for (size_t i = 0; i < fits; i++) assert_int_equal(read_record(tier, &r[i]), 0);
  assert_int_equal(r[fits - 1].loc.segment != r[0].loc.segment, 1);
  for (int i = 0; i < COUNT; i++) record_free(&r[i]);
  kvstow_tier_close(tier);
}

static uint64_t disk_usage; /* of the tree walked */

static int add_usage(const char *path, const struct stat *st, int type, struct FTW *ftw) {
  (void)path, (void)type, (void)ftw;
  disk_usage += (uint64_t)st->st_blocks * 512;
  return 0;
}

static void never_exceeds_its_budget(void **state) {
  (void)state;
  kvstow_tier_options options = options_for(dirs, 5);
  kvstow_tier *tier = tier_open(&options);
  for (uint64_t i = 0; i < 300; i++) {
    record r = record_new(i, 15, PLANE);
    if (append_all(tier, &r, 1) == KVSTOW_ENOSPC) {
      for (uint32_t id = 0; id < kvstow_tier_segment_count(tier); id++)
        if (kvstow_tier_reclaim(tier, id) == 0) break;
    }
    record_free(&r);
  }
  disk_usage = 0;
  nftw(dir, add_usage, 16, FTW_PHYS);
  assert_true(disk_usage <= options.budget_bytes);
  const kvstow_tier_stats s = stats_of(tier);
  assert_true(s.disk_bytes <= s.budget_bytes);
  assert_true(s.disk_bytes >= 5 * (uint64_t)SEGMENT);
  kvstow_tier_close(tier);
}

static void a_location_read_while_reclaimed_is_whole_or_missing(void **state) {
  (void)state;
  kvstow_tier_options options = options_for(dirs, 2);
  kvstow_tier *tier = tier_open(&options);
  for (uint64_t round = 0; round < 30; round++) {
    record r = record_new(round, 60, PLANE);
    int code = append_all(tier, &r, 1);
    assert_int_equal(code, 0);
    assert_int_equal(kvstow_tier_seal(tier), 0);
    uint8_t *header = aligned_alloc(4096, 4096), *payload = aligned_alloc(4096, 60 * PLANE);
    gate g = GATE_INIT(1);
    kvstow_record_read read = {.key = key_of(round),
                               .loc = r.loc,
                               .plane_bytes = PLANE,
                               .plane_count = 60,
                               .header = header,
                               .payload = payload,
                               .done = gate_read_done,
                               .arg = &g};
    kvstow_record_read *reads[] = {&read};
    assert_int_equal(kvstow_tier_read_batch(tier, reads, 1), 0);
    assert_int_equal(kvstow_tier_reclaim(tier, r.loc.segment), 0);
    record next = record_new(1000 + round, 60, PLANE);
    assert_int_equal(append_all(tier, &next, 1), 0);
    code = gate_wait(&g);
    assert_true(code == 0 || code == KVSTOW_EMISS);
    if (code == 0) assert_memory_equal(payload, r.payload, 60 * PLANE);
    kvstow_tier_seal(tier);
    assert_int_equal(kvstow_tier_reclaim(tier, next.loc.segment), 0);
    record_free(&r);
    record_free(&next);
    free(header);
    free(payload);
  }
  kvstow_tier_close(tier);
}

/* ---- scanning and reopening ----------------------------------------------------------------- */

static void scan_gives_the_order_appended(void **state) {
  (void)state;
  kvstow_tier_options options = options_for(dirs, 4);
  kvstow_tier *tier = tier_open(&options);
  for (uint64_t i = 0; i < 30; i++) {
    record r = append_one(tier, i, 1 + (uint32_t)i % 4);
    record_free(&r);
  }
  for (int round = 0; round < 2; round++) { /* from memory, then from the footer */
    seen *s = scan_all(tier);
    assert_int_equal(s->count, 30);
    for (uint64_t i = 0; i < 30; i++) {
      assert_int_equal(s->numbers[i], i);
      const kvstow_key key = key_of(i);
      assert_memory_equal(&s->records[i].key, &key, sizeof key);
      assert_int_equal(s->records[i].planes, 1 + i % 4);
      assert_true(s->records[i].written_s > 1600000000);
      assert_int_equal(read_planes(tier, i, s->records[i].loc, PLANE, 0, s->records[i].planes), 0);
    }
    free(s);
    assert_int_equal(kvstow_tier_seal(tier), 0);
  }
  kvstow_tier_close(tier);
}

static void reopens_with_everything_and_goes_on(void **state) {
  (void)state;
  kvstow_tier_options options = options_for(dirs, 6);
  uint64_t number = 0;
  uint8_t uuid[2][KVSTOW_UUID_BYTES];
  uint64_t seed[2];
  for (int round = 0; round < 4; round++) {
    kvstow_tier *tier = tier_open(&options);
    options.segment_bytes = 0; /* as stored, from now on */
    kvstow_tier_identity(tier, uuid[round > 0], &seed[round > 0]);
    const kvstow_tier_stats stats = stats_of(tier);
    assert_int_equal(stats.recovered_records, number);
    assert_int_equal(stats.walked_segments, 0);
    seen *s = scan_all(tier);
    assert_int_equal(s->count, number);
    for (uint64_t i = 0; i < number; i++)
      assert_int_equal(
          read_planes(tier, i, seen_find(s, i)->loc, PLANE, 0, seen_find(s, i)->planes), 0);
    free(s);
    for (int i = 0; i < 20; i++) {
      record r = append_one(tier, number++, 15);
      assert_int_equal(read_record(tier, &r), 0);
      record_free(&r);
    }
    assert_int_equal(kvstow_tier_close(tier), 0);
  }
  assert_memory_equal(uuid[0], uuid[1], KVSTOW_UUID_BYTES);
  assert_int_equal(seed[0], seed[1]);
}

static void a_partly_filled_segment_is_filled_after_reopening(void **state) {
  (void)state;
  kvstow_tier_options options = options_for(dirs, 2);
  for (uint64_t i = 0; i < 10; i++) {
    kvstow_tier *tier = tier_open(&options);
    record r = append_one(tier, i, 1);
    assert_int_equal(r.loc.segment, 0);
    assert_int_equal(r.loc.page, 16 * i);
    record_free(&r);
    assert_int_equal(kvstow_tier_close(tier), 0);
  }
}

static void read_only_shows_everything_and_writes_nothing(void **state) {
  (void)state;
  kvstow_tier_options options = options_for(dirs, 4);
  kvstow_tier *tier = tier_open(&options);
  for (uint64_t i = 0; i < 20; i++) {
    record r = append_one(tier, i, 15);
    record_free(&r);
  }
  kvstow_tier_close(tier);
  options.read_only = true;
  options.budget_bytes = 0;
  kvstow_tier *one = tier_open(&options), *two = tier_open(&options); /* readers share */
  seen *s = scan_all(one);
  assert_int_equal(s->count, 20);
  assert_int_equal(read_planes(two, 7, seen_find(s, 7)->loc, PLANE, 0, 15), 0);
  record r = record_new(99, 1, PLANE);
  assert_int_equal(append_all(one, &r, 1), KVSTOW_EACCES);
  assert_int_equal(kvstow_tier_reclaim(one, 0), KVSTOW_EACCES);
  assert_int_equal(kvstow_tier_erase(one, &s->records[0].loc, 1), KVSTOW_EACCES);
  assert_int_equal(kvstow_tier_flush(one), 0);
  record_free(&r);
  free(s);
  kvstow_tier_close(one);
  kvstow_tier_close(two);
  kvstow_tier_options_init(&options); /* segment size as stored */
  options.dirs = dirs;
  options.dirs_count = 1;
  options.budget_bytes = 8 * SEGMENT;
  options.engine = the_variant->engine;
  options.encryption_key = the_variant->encrypted ? TEST_KEY : NULL;
  tier = tier_open(&options);
  assert_int_equal(stats_of(tier).recovered_records, 20);
  kvstow_tier_close(tier);
}

/* ---- erasing -------------------------------------------------------------------------------- */

static void erased_is_gone_here_and_after_any_crash(void **state) {
  (void)state;
  kvstow_tier_options options = options_for(dirs, 6);
  kvstow_tier *tier = tier_open(&options);
  enum { COUNT = 50 };
  kvstow_loc locs[COUNT], gone[COUNT];
  size_t gone_count = 0;
  for (uint64_t i = 0; i < COUNT; i++) { /* two sealed segments and an open one */
    record r = append_one(tier, i, 15);
    locs[i] = r.loc;
    record_free(&r);
    if (i % 3 == 0) gone[gone_count++] = locs[i];
  }
  gone[gone_count++] = (kvstow_loc){5, 7, 9}; /* dead: skipped */
  assert_int_equal(kvstow_tier_erase(tier, gone, gone_count), 0);
  for (uint64_t i = 0; i < COUNT; i++)
    assert_int_equal(read_planes(tier, i, locs[i], PLANE, 0, 15), i % 3 == 0 ? KVSTOW_EMISS : 0);
  char *crashed = crash_copy(dir, 6);
  kvstow_tier_close(tier);
  const char *places[] = {crashed, dir};
  for (int k = 0; k < 2; k++) {
    options.dirs = &places[k];
    tier = tier_open(&options);
    seen *s = scan_all(tier);
    assert_int_equal(stats_of(tier).recovered_records, COUNT - (gone_count - 1));
    for (uint64_t i = 0; i < COUNT; i++) assert_int_equal(seen_find(s, i) == NULL, i % 3 == 0);
    for (uint64_t i = 0; i < COUNT; i++)
      if (i % 3) assert_int_equal(read_planes(tier, i, seen_find(s, i)->loc, PLANE, 0, 15), 0);
    free(s);
    kvstow_tier_close(tier);
  }
  /* and walking, with the footers gone too */
  for (uint32_t id = 0; id < 4; id++) {
    char name[32];
    snprintf(name, sizeof name, "seg-%06u.kvs", id);
    char *path = join(crashed, name);
    if (access(path, F_OK) == 0) flip(crashed, name, SEGMENT - 4096 + 20);
    free(path);
  }
  options.dirs = &places[0];
  tier = tier_open(&options);
  seen *s = scan_all(tier);
  assert_true(stats_of(tier).walked_segments >= 3);
  for (uint64_t i = 0; i < COUNT; i++) assert_int_equal(seen_find(s, i) == NULL, i % 3 == 0);
  free(s);
  kvstow_tier_close(tier);
  scratch_remove(crashed);
}

static void erasing_reaches_segments_given_up(void **state) {
  (void)state;
  kvstow_tier_options options = options_for(dirs, 4);
  kvstow_tier *tier = tier_open(&options);
  record a = append_one(tier, 1, 15);
  kvstow_tier_seal(tier);
  record b = append_one(tier, 2, 15);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  assert_int_equal(kvstow_tier_reclaim(tier, a.loc.segment), 0);
  assert_int_equal(kvstow_tier_erase(tier, &a.loc, 1), 0);
  char *crashed = crash_copy(dir, 4);
  record c = append_one(tier, 3, 15); /* the slot is still good for use */
  assert_int_equal(read_record(tier, &c), 0);
  assert_int_equal(read_record(tier, &b), 0);
  kvstow_tier_close(tier);
  const char *place[] = {crashed};
  options.dirs = place;
  tier = tier_open(&options);
  seen *s = scan_all(tier);
  assert_int_equal(s->count, 1);
  assert_non_null(seen_find(s, 2));
  free(s);
  kvstow_tier_close(tier);
  scratch_remove(crashed);
  record_free(&a);
  record_free(&b);
  record_free(&c);
}

/* ---- cancel and urge ------------------------------------------------------------------------ */

static void cancelled_reads_complete(void **state) {
  (void)state;
  kvstow_tier_options options = options_for(dirs, 6);
  options.queue_depth = 1;
  options.tuning.enable_io_scheduling = false;
  kvstow_tier *tier = tier_open(&options);
  enum { COUNT = 64 };
  record r[COUNT];
  kvstow_record_read reads[COUNT];
  kvstow_record_read *pointers[COUNT];
  for (uint64_t i = 0; i < COUNT; i++) r[i] = append_one(tier, i, 15);
  gate g = GATE_INIT(COUNT);
  for (int i = 0; i < COUNT; i++) {
    reads[i] = (kvstow_record_read){.key = key_of(r[i].number),
                                    .loc = r[i].loc,
                                    .plane_bytes = PLANE,
                                    .plane_count = 15,
                                    .header = r[i].header,
                                    .payload = r[i].payload,
                                    .priority = KVSTOW_PREFETCH,
                                    .done = gate_read_done,
                                    .arg = &g};
    pointers[i] = &reads[i];
  }
  assert_int_equal(kvstow_tier_read_batch(tier, pointers, COUNT), 0);
  for (int i = COUNT - 1; i >= 0; i -= 2) kvstow_tier_cancel(tier, &reads[i]);
  for (int i = 0; i < COUNT; i += 2) kvstow_tier_urge(tier, &reads[i]);
  gate_wait(&g);
  for (int i = 0; i < COUNT; i++) {
    if (i % 2 == 0) assert_int_equal(reads[i].result, 0);
    assert_true(reads[i].result == 0 || reads[i].result == KVSTOW_ECANCELED);
    record_free(&r[i]);
  }
  kvstow_tier_close(tier);
}

/* ---- completions that call back in ---------------------------------------------------------- */

typedef struct chain {
  kvstow_tier *tier;
  record records[50];
  kvstow_record_write writes[50];
  size_t at;
  kvstow_record_read read;
  gate g;
} chain;

static void chain_read(kvstow_record_read *read) {
  chain *c = read->arg;
  gate_pass(&c->g, read->result);
}

static void chain_next(void *arg, int result) {
  chain *c = arg;
  if (result || ++c->at == 50) {
    c->read = (kvstow_record_read){.key = key_of(49),
                                   .loc = c->writes[49].loc,
                                   .plane_bytes = PLANE,
                                   .plane_count = 15,
                                   .header = c->records[0].header,
                                   .payload = c->records[0].payload,
                                   .done = chain_read,
                                   .arg = c};
    kvstow_record_read *reads[] = {&c->read};
    if (result || kvstow_tier_read_batch(c->tier, reads, 1) != 0) gate_pass(&c->g, KVSTOW_EIO);
    return;
  }
  if (kvstow_tier_append(c->tier, &c->writes[c->at], 1, chain_next, c) != 0)
    gate_pass(&c->g, KVSTOW_ENOSPC);
}

static void completions_may_append_and_read(void **state) {
  (void)state;
  kvstow_tier_options options = options_for(dirs, 6);
  chain *c = calloc(1, sizeof *c);
  c->tier = tier_open(&options);
  c->g = (gate)GATE_INIT(1);
  for (uint64_t i = 0; i < 50; i++) {
    c->records[i] = record_new(i, 15, PLANE);
    c->writes[i].header = c->records[i].header;
    c->writes[i].payload = c->records[i].payload;
  }
  assert_int_equal(kvstow_tier_append(c->tier, &c->writes[0], 1, chain_next, c), 0);
  assert_int_equal(gate_wait(&c->g), 0);
  assert_memory_equal(c->records[0].payload, c->records[49].payload, 15 * PLANE);
  for (int i = 0; i < 50; i++) record_free(&c->records[i]);
  kvstow_tier_close(c->tier);
  free(c);
}

/* ---- many threads --------------------------------------------------------------------------- */

typedef struct worker {
  kvstow_tier *tier;
  uint64_t first;
  int failures;
} worker;

static void *write_and_read(void *arg) {
  worker *w = arg;
  for (uint64_t i = 0; i < 40; i++) {
    record r = record_new(w->first + i, 7, PLANE);
    const int code = append_all(w->tier, &r, 1);
    if (code == KVSTOW_ENOSPC) {
      for (uint32_t id = 0; id < kvstow_tier_segment_count(w->tier); id++)
        if (kvstow_tier_reclaim(w->tier, id) == 0) break;
    } else if (code != 0) {
      w->failures++;
    } else {
      const int got = read_record(w->tier, &r);
      if (got != 0 && got != KVSTOW_EMISS) w->failures++;
      if (i % 8 == 0 && kvstow_tier_flush(w->tier) != 0) w->failures++;
      if (i % 16 == 5 && kvstow_tier_erase(w->tier, &r.loc, 1) != 0) w->failures++;
      if (i % 16 == 5 && read_record(w->tier, &r) != KVSTOW_EMISS) w->failures++;
    }
    record_free(&r);
  }
  return NULL;
}

static void threads_share_a_tier(void **state) {
  (void)state;
  kvstow_tier_options options = options_for(dirs, 5);
  kvstow_tier *tier = tier_open(&options);
  pthread_t threads[4];
  worker workers[4];
  for (uint64_t i = 0; i < 4; i++) {
    workers[i] = (worker){tier, i * 1000, 0};
    pthread_create(&threads[i], NULL, write_and_read, &workers[i]);
  }
  for (int i = 0; i < 4; i++) {
    pthread_join(threads[i], NULL);
    assert_int_equal(workers[i].failures, 0);
  }
  const kvstow_tier_stats s = stats_of(tier);
  assert_int_equal(s.corrupt_planes + s.corrupt_headers + s.io_errors, 0);
  assert_int_equal(kvstow_tier_close(tier), 0);
}

/* ---- several directories -------------------------------------------------------------------- */

static void runs_go_round_the_directories(void **state) {
  (void)state;
  char *places[] = {join(dir, "a"), join(dir, "b"), join(dir, "c")};
  const char *given[] = {places[0], places[1], places[2]};
  kvstow_tier_options options = options_for(given, 9);
  options.dirs_count = 3;
  options.budget_bytes += 65536;
  kvstow_tier *tier = tier_open(&options);
  assert_int_equal(kvstow_tier_segment_count(tier), 9);
  kvstow_loc locs[60];
  uint32_t used = 0;
  for (uint64_t i = 0; i < 60; i++) {
    record r = append_one(tier, i, 15);
    locs[i] = r.loc;
    used |= 1u << info_of(tier, r.loc.segment).dir;
    record_free(&r);
  }
  assert_int_equal(used, 7);
  for (int round = 0; round < 2; round++) {
    seen *s = scan_all(tier);
    assert_int_equal(s->count, 60);
    for (uint64_t i = 0; i < 60; i++) {
      assert_int_equal(seen_find(s, i)->loc.segment, locs[i].segment);
      assert_int_equal(read_planes(tier, i, seen_find(s, i)->loc, PLANE, 0, 15), 0);
    }
    free(s);
    assert_int_equal(kvstow_tier_close(tier), 0);
    tier = tier_open(&options);
  }
  kvstow_tier_close(tier);
  for (int i = 0; i < 3; i++) free(places[i]);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, fresh, remove_it)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(returns_what_was_appended),
      TEST(runs_start_on_64_kib_and_are_packed),
      TEST(neighbours_are_merged),
      TEST(wrong_keys_shapes_and_places_are_refused),
      TEST(bad_arguments_are_refused),
      TEST(fills_up_then_takes_what_is_reclaimed),
      TEST(a_batch_may_span_segments_and_is_taken_whole_or_not),
      TEST(never_exceeds_its_budget),
      TEST(a_location_read_while_reclaimed_is_whole_or_missing),
      TEST(scan_gives_the_order_appended),
      TEST(reopens_with_everything_and_goes_on),
      TEST(a_partly_filled_segment_is_filled_after_reopening),
      TEST(read_only_shows_everything_and_writes_nothing),
      TEST(erased_is_gone_here_and_after_any_crash),
      TEST(erasing_reaches_segments_given_up),
      TEST(cancelled_reads_complete),
      TEST(completions_may_append_and_read),
      TEST(threads_share_a_tier),
      TEST(runs_go_round_the_directories),
  };
  int failures = 0;
  for (size_t i = 0; i < sizeof VARIANTS / sizeof *VARIANTS; i++) {
    if (!variant_runs(&VARIANTS[i])) continue;
    the_variant = &VARIANTS[i];
    failures += cmocka_run_group_tests_name(VARIANTS[i].name, tests, NULL, NULL);
  }
  return failures;
}
