/* Files that are not part of the log: every byte where it was asked for, whatever the alignment, the
 * engine and the tuning; errors that name their cause; nothing left unanswered.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "test_tier_fixture.h"

#include <time.h>

#define KIB 1024u
#define ODD_BYTES (3u * 1024 * KIB + 1234) /* ends inside a page */

static char *dir;
static uint64_t rng;

static uint64_t draw(uint64_t below) {
  rng = mix(rng + UINT64_C(0x9e3779b97f4a7c15));
  return rng % below;
}

static uint64_t seed_from_environment(void) {
  const char *given = getenv("KVSTOW_SEED");
  const uint64_t seed = given ? strtoull(given, NULL, 0) : 20260101;
  print_message("seed %llu (KVSTOW_SEED)\n", (unsigned long long)seed);
  return seed;
}

static int fresh(void **state) {
  (void)state;
  dir = scratch_new();
  return 0;
}

static int remove_it(void **state) {
  (void)state;
  scratch_remove(dir);
  return 0;
}

/* ---- files with known content --------------------------------------------------------------- */

static uint8_t *content_new(size_t bytes, uint64_t number) {
  uint64_t *words = malloc((bytes / 8 + 1) * 8);
  for (size_t i = 0; i <= bytes / 8; i++) words[i] = word_of(number, i);
  return (uint8_t *)words;
}

static char *file_of(const char *name, const uint8_t *content, size_t bytes) {
  char *path = join(dir, name);
  const int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
  assert_true(fd >= 0);
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = write(fd, content + done, bytes - done);
    assert_true(n > 0);
    done += (size_t)n;
  }
  assert_int_equal(fsync(fd), 0);
  close(fd);
  return path;
}

static kvstow_tier *tier_without_log(kvstow_tuning *tuning) {
  kvstow_tier_options options;
  kvstow_tier_options_init(&options);
  options.engine = the_variant ? the_variant->engine : KVSTOW_ENGINE_AUTO;
  options.readahead_bytes = 4u << 20;
  if (tuning) options.tuning = *tuning;
  return tier_open(&options);
}

static kvstow_tuning tuning_without_prefetch(void) {
  kvstow_tuning tuning;
  kvstow_tuning_init(&tuning);
  tuning.enable_prefetch = false;
  return tuning;
}

static kvstow_file *open_file(kvstow_tier *tier, const char *path) {
  kvstow_file *file = NULL;
  assert_int_equal(kvstow_file_open(tier, path, &file), 0);
  return file;
}

/* ---- reads that wait ------------------------------------------------------------------------ */

static void file_read_done(kvstow_file_read *read) {
  gate_pass(read->arg, read->result);
}

static int read_all(kvstow_tier *tier, kvstow_file_read *reads, size_t count) {
  gate g = GATE_INIT(count);
  kvstow_file_read **list = malloc(count * sizeof *list);
  for (size_t i = 0; i < count; i++) {
    list[i] = &reads[i];
    reads[i].done = file_read_done;
    reads[i].arg = &g;
  }
  const int code = kvstow_file_read_batch(tier, list, count);
  if (!code) gate_wait(&g);
  free(list);
  return code ? code : g.result;
}

/* ---- bytes ---------------------------------------------------------------------------------- */

static void flip_tuning(kvstow_tier *tier) {
  static const uint32_t blocks[] = {4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, 1024 * KIB};
  kvstow_tuning tuning;
  kvstow_tier_get_tuning(tier, &tuning);
  tuning.enable_prefetch = draw(4) != 0;
  tuning.enable_io_scheduling = draw(4) != 0;
  tuning.prefetch_threshold = 1 + (uint32_t)draw(5);
  tuning.read_ahead_blocks = 1 + (uint32_t)draw(16);
  tuning.merge_distance = (uint32_t)draw(300 * KIB);
  tuning.optimal_block_size = blocks[draw(sizeof blocks / sizeof *blocks)];
  assert_int_equal(kvstow_tier_set_tuning(tier, &tuning), 0);
}

/* Mostly in order, so that read-ahead has something to do; sometimes anywhere. */
static uint64_t next_offset(uint64_t *at, size_t bytes) {
  if (draw(6) == 0) *at = draw(ODD_BYTES);
  if (draw(8) == 0) *at += draw(32 * KIB);
  if (*at + bytes > ODD_BYTES) *at = 0;
  const uint64_t offset = *at;
  *at += bytes;
  return offset;
}

static size_t some_length(void) {
  switch (draw(4)) {
    case 0:
      return (size_t)draw(100);
    case 1:
      return (size_t)(1 + draw(40)) * 4096;
    case 2:
      return (size_t)draw(20 * KIB);
    default:
      return (size_t)draw(400 * KIB);
  }
}

static void check_bytes(const uint8_t *found, const uint8_t *content, uint64_t offset,
                        size_t bytes) {
  if (bytes > 0 && memcmp(found, content + offset, bytes) != 0)
    fail_msg("wrong bytes in [%llu, +%zu)", (unsigned long long)offset, bytes);
}

typedef struct place {
  uint8_t *memory; /* with a guard byte at either end */
  uint8_t *to;
  size_t bytes;
} place;

static place place_new(size_t bytes) {
  const size_t shift = draw(3) ? 0 : draw(4096);
  place p = {.memory = aligned_alloc(4096, (bytes + 3 * 4096) / 4096 * 4096), .bytes = bytes};
  p.to = p.memory + 4096 * (shift > 0) + shift;
  if (p.to > p.memory) p.to[-1] = 0xa5;
  p.to[bytes] = 0x5a;
  return p;
}

static void place_free(place *p) {
  assert_int_equal(p->to[p->bytes], 0x5a);
  if (p->to > p->memory) assert_int_equal(p->to[-1], 0xa5);
  free(p->memory);
}

static void read_some_at(kvstow_file *file, const uint8_t *content, uint64_t *at) {
  const size_t bytes = some_length();
  const uint64_t offset = next_offset(at, bytes);
  place p = place_new(bytes);
  assert_int_equal(kvstow_file_read_at(file, offset, p.to, bytes), 0);
  check_bytes(p.to, content, offset, bytes);
  place_free(&p);
}

static void read_some_batch(kvstow_tier *tier, kvstow_file *const *files, uint8_t *const *contents,
                            uint64_t *at) {
  enum { MOST = 20 };
  kvstow_file_read reads[MOST];
  place places[MOST];
  size_t which[MOST];
  const size_t count = 1 + draw(MOST);
  for (size_t i = 0; i < count; i++) {
    const size_t bytes = some_length();
    which[i] = draw(2);
    places[i] = place_new(bytes);
    reads[i] = (kvstow_file_read){
        .file = files[which[i]],
        .offset = next_offset(at, bytes),
        .bytes = bytes,
        .to = places[i].to,
        .priority = draw(4) ? KVSTOW_DEMAND : KVSTOW_PREFETCH,
    };
  }
  assert_int_equal(read_all(tier, reads, count), 0);
  for (size_t i = 0; i < count; i++) {
    check_bytes(reads[i].to, contents[which[i]], reads[i].offset, reads[i].bytes);
    place_free(&places[i]);
  }
}

static void any_range_any_alignment_any_tuning(void **state) {
  (void)state;
  rng = seed_from_environment();
  uint8_t *contents[2] = {content_new(ODD_BYTES, 1), content_new(ODD_BYTES, 2)};
  char *paths[2] = {file_of("a", contents[0], ODD_BYTES), file_of("b", contents[1], ODD_BYTES)};
  kvstow_tier *tier = tier_without_log(NULL);
  kvstow_file *files[2] = {open_file(tier, paths[0]), open_file(tier, paths[1])};
  assert_int_equal(kvstow_file_bytes(files[0]), ODD_BYTES);
  uint64_t at = 0;
  for (int round = 0; round < 400; round++) {
    if (draw(10) == 0) flip_tuning(tier);
    if (draw(3) == 0)
      read_some_batch(tier, files, contents, &at);
    else
      read_some_at(files[0], contents[0], &at);
  }
  const kvstow_tier_stats s = stats_of(tier);
  assert_int_equal(s.io_errors, 0);
  for (int i = 0; i < 2; i++) {
    assert_int_equal(kvstow_file_close(files[i]), 0);
    free(paths[i]);
    free(contents[i]);
  }
  assert_int_equal(kvstow_tier_close(tier), 0);
}

static void the_end_of_the_file_is_read_and_nothing_beyond(void **state) {
  (void)state;
  static const size_t sizes[] = {0, 1, 4095, 4096, 4097, 70000};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    uint8_t *content = content_new(sizes[i], i);
    char *path = file_of("end", content, sizes[i]);
    kvstow_tier *tier = tier_without_log(NULL);
    kvstow_file *file = open_file(tier, path);
    uint8_t *to = aligned_alloc(4096, 20 * 4096);
    assert_int_equal(kvstow_file_read_at(file, 0, to, sizes[i]), 0);
    check_bytes(to, content, 0, sizes[i]);
    kvstow_file_read whole = {.file = file, .bytes = sizes[i], .to = to};
    memset(to, 0, sizes[i]);
    assert_int_equal(read_all(tier, &whole, 1), 0);
    check_bytes(to, content, 0, sizes[i]);
    assert_int_equal(kvstow_file_read_at(file, sizes[i], to, 0), 0);
    assert_int_equal(kvstow_file_read_at(file, 0, to, sizes[i] + 1), KVSTOW_EINVAL);
    assert_int_equal(kvstow_file_read_at(file, UINT64_MAX, to, 1), KVSTOW_EINVAL);
    whole.bytes++;
    assert_int_equal(read_all(tier, &whole, 1), KVSTOW_EINVAL);
    free(to);
    kvstow_file_close(file);
    kvstow_tier_close(tier);
    free(path);
    free(content);
  }
}

/* ---- the scheduler -------------------------------------------------------------------------- */

static void three_requests_one_read_two_merges(void **state) {
  (void)state;
  uint8_t *content = content_new(512 * KIB, 3);
  char *path = file_of("example", content, 512 * KIB);
  kvstow_tier *tier = tier_without_log(NULL);
  kvstow_file *file = open_file(tier, path);
  uint8_t *to = aligned_alloc(4096, 192 * KIB);
  kvstow_file_read reads[] = {
      {.file = file, .offset = 0, .bytes = 64 * KIB, .to = to},
      {.file = file, .offset = 64 * KIB, .bytes = 64 * KIB, .to = to + 64 * KIB},
      {.file = file, .offset = 200 * KIB, .bytes = 64 * KIB, .to = to + 128 * KIB},
  };
  assert_int_equal(read_all(tier, reads, 3), 0);
  for (int i = 0; i < 3; i++) check_bytes(reads[i].to, content, reads[i].offset, 64 * KIB);
  const kvstow_tier_stats s = stats_of(tier);
  assert_int_equal(s.read_requests, 3);
  assert_int_equal(s.device_reads, 1);
  assert_int_equal(s.merges, 2);
  assert_int_equal(s.file_reads, 3);
  assert_int_equal(s.file_bytes_read, 192 * KIB);
  kvstow_file_close(file);
  kvstow_tier_close(tier);
  free(to);
  free(path);
  free(content);
}

static void never_more_device_reads_than_one_by_one(void **state) {
  (void)state;
  rng = seed_from_environment();
  uint8_t *contents[2] = {content_new(ODD_BYTES, 1), content_new(ODD_BYTES, 2)};
  char *paths[2] = {file_of("a", contents[0], ODD_BYTES), file_of("b", contents[1], ODD_BYTES)};
  kvstow_tuning tuning = tuning_without_prefetch();
  kvstow_tier *tier = tier_without_log(&tuning);
  kvstow_file *files[2] = {open_file(tier, paths[0]), open_file(tier, paths[1])};
  uint64_t at = 0;
  for (int round = 0; round < 100; round++) read_some_batch(tier, files, contents, &at);
  const kvstow_tier_stats s = stats_of(tier);
  assert_true(s.device_reads <= s.file_reads);
  assert_true(s.device_reads + s.merges >= s.read_requests);
  assert_int_equal(s.sequential.issued, 0);
  for (int i = 0; i < 2; i++) {
    kvstow_file_close(files[i]);
    free(paths[i]);
    free(contents[i]);
  }
  kvstow_tier_close(tier);
}

/* ---- reads that are given up ---------------------------------------------------------------- */

typedef struct scene {
  kvstow_tier *tier;
  kvstow_file_read late[8];
  kvstow_file_read *list[8];
  gate gate;
  uint64_t device_reads;
} scene;

/* On the I/O thread: what is submitted and cancelled here has not been sent. */
static void submit_and_cancel(kvstow_file_read *read) {
  scene *s = read->arg;
  s->device_reads = stats_of(s->tier).device_reads;
  assert_int_equal(kvstow_file_read_batch(s->tier, s->list, 8), 0);
  for (int i = 0; i < 8; i += 2) kvstow_file_cancel(s->tier, s->list[i]);
}

static void cancelled_reads_are_answered_and_not_sent(void **state) {
  (void)state;
  uint8_t *content = content_new(ODD_BYTES, 4);
  char *path = file_of("cancel", content, ODD_BYTES);
  kvstow_tuning tuning = tuning_without_prefetch();
  kvstow_tier *tier = tier_without_log(&tuning);
  kvstow_file *file = open_file(tier, path);
  uint8_t *to = aligned_alloc(4096, 9 * 4096);
  scene s = {.tier = tier, .gate = GATE_INIT(8)};
  for (uint32_t i = 0; i < 8; i++) {
    s.late[i] = (kvstow_file_read){.file = file,
                                   .offset = i * 300 * KIB,
                                   .bytes = 4096,
                                   .to = to + i * 4096,
                                   .done = file_read_done,
                                   .arg = &s.gate};
    s.list[i] = &s.late[i];
  }
  kvstow_file_read first = {
      .file = file, .bytes = 4096, .to = to + 8 * 4096, .done = submit_and_cancel, .arg = &s};
  kvstow_file_read *list[] = {&first};
  assert_int_equal(kvstow_file_read_batch(tier, list, 1), 0);
  gate_wait(&s.gate);
  for (uint32_t i = 0; i < 8; i++) {
    assert_int_equal(s.late[i].result, i % 2 ? 0 : KVSTOW_ECANCELED);
    if (i % 2) check_bytes(s.late[i].to, content, s.late[i].offset, 4096);
  }
  assert_int_equal(stats_of(tier).device_reads - s.device_reads, 4);
  kvstow_file_cancel(tier, &first); /* long done: nothing happens */
  kvstow_file_close(file);
  kvstow_tier_close(tier);
  free(to);
  free(path);
  free(content);
}

static void a_read_past_its_deadline_is_not_sent(void **state) {
  (void)state;
  uint8_t *content = content_new(ODD_BYTES, 5);
  char *path = file_of("deadline", content, ODD_BYTES);
  kvstow_tier *tier = tier_without_log(NULL);
  kvstow_file *file = open_file(tier, path);
  uint8_t *to = aligned_alloc(4096, 3 * 4096);
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const uint64_t hour = ((uint64_t)now.tv_sec + 3600) * 1000000u;
  kvstow_file_read reads[] = {
      {.file = file, .offset = 0, .bytes = 4096, .to = to, .deadline_us = 1},
      {.file = file, .offset = 8192, .bytes = 4096, .to = to + 4096, .deadline_us = hour},
      {.file = file, .offset = 1u << 20, .bytes = 100, .to = to + 8192, .deadline_us = 1},
  };
  assert_int_equal(read_all(tier, reads, 3), KVSTOW_ETIMEDOUT);
  assert_int_equal(reads[0].result, KVSTOW_ETIMEDOUT);
  assert_int_equal(reads[1].result, 0);
  assert_int_equal(reads[2].result, KVSTOW_ETIMEDOUT);
  check_bytes(reads[1].to, content, 8192, 4096);
  assert_int_equal(stats_of(tier).device_reads, 1);
  assert_int_equal(stats_of(tier).io_errors, 0);
  kvstow_file_close(file);
  kvstow_tier_close(tier);
  free(to);
  free(path);
  free(content);
}

/* ---- errors --------------------------------------------------------------------------------- */

static void a_file_truncated_under_us_is_an_error(void **state) {
  (void)state;
  uint8_t *content = content_new(ODD_BYTES, 6);
  char *path = file_of("short", content, ODD_BYTES);
  kvstow_tier *tier = tier_without_log(NULL);
  kvstow_file *file = open_file(tier, path);
  assert_int_equal(truncate(path, 1000 * KIB + 7), 0);
  uint8_t *to = aligned_alloc(4096, 128 * KIB);
  for (uint64_t offset = 900 * KIB; offset < 1100 * KIB; offset += 64 * KIB) {
    const bool whole = offset + 64 * KIB <= 1000 * KIB;
    const int code = kvstow_file_read_at(file, offset, to, 64 * KIB);
    assert_int_equal(code, whole ? 0 : KVSTOW_EIO);
    kvstow_file_read read = {.file = file, .offset = offset, .bytes = 64 * KIB, .to = to};
    assert_int_equal(read_all(tier, &read, 1), whole ? 0 : KVSTOW_EIO);
    if (whole) check_bytes(to, content, offset, 64 * KIB);
  }
  char message[KVSTOW_MESSAGE_BYTES];
  kvstow_tier_message(tier, message, sizeof message);
  assert_non_null(strstr(message, "short"));
  kvstow_file_close(file);
  kvstow_tier_close(tier);
  free(to);
  free(path);
  free(content);
}

static void only_regular_files_are_opened(void **state) {
  (void)state;
  kvstow_tier *tier = tier_without_log(NULL);
  kvstow_file *file = (kvstow_file *)tier;
  char *missing = join(dir, "missing"), *pipe_path = join(dir, "pipe");
  char *link_path = join(dir, "link");
  char message[KVSTOW_MESSAGE_BYTES];
  assert_int_equal(kvstow_file_open(tier, missing, &file), KVSTOW_ENOENT);
  assert_null(file);
  kvstow_tier_message(tier, message, sizeof message);
  assert_non_null(strstr(message, missing));
  assert_int_equal(kvstow_file_open(tier, dir, &file), KVSTOW_EINVAL);
  assert_int_equal(mkfifo(pipe_path, 0600), 0);
  assert_int_equal(kvstow_file_open(tier, pipe_path, &file), KVSTOW_EINVAL);
  uint8_t *content = content_new(5000, 7);
  char *path = file_of("real", content, 5000);
  assert_int_equal(symlink("real", link_path), 0); /* as model hubs lay them out */
  assert_int_equal(kvstow_file_open(tier, link_path, &file), 0);
  uint8_t to[100];
  assert_int_equal(kvstow_file_read_at(file, 4900, to, 100), 0);
  check_bytes(to, content, 4900, 100);
  kvstow_file_close(file);
  kvstow_file_close(NULL);
  kvstow_tier_close(tier);
  free(content);
  free(path);
  free(missing);
  free(pipe_path);
  free(link_path);
}

static void a_tier_without_a_log_says_so(void **state) {
  (void)state;
  kvstow_tier *tier = tier_without_log(NULL);
  record r = record_new(1, 2, PLANE);
  assert_int_equal(append_all(tier, &r, 1), KVSTOW_EUNSUPPORTED);
  kvstow_record_write write = {.header = r.header, .payload = r.payload};
  assert_int_equal(kvstow_tier_fits(tier, &write, 1), 0);
  assert_int_equal(kvstow_tier_segment_count(tier), 0);
  assert_int_equal(kvstow_tier_scan(tier, 0, seen_add, NULL), KVSTOW_EINVAL);
  assert_int_equal(kvstow_tier_reclaim(tier, 0), KVSTOW_EINVAL);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  assert_int_equal(kvstow_tier_seal(tier), 0);
  assert_int_equal(kvstow_tier_erase(tier, NULL, 0), 0);
  assert_int_equal(read_planes(tier, 1, (kvstow_loc){0, 0, 1}, PLANE, 0, 0), KVSTOW_EMISS);
  assert_int_equal(stats_of(tier).segments, 0);
  record_free(&r);
  assert_int_equal(kvstow_tier_close(tier), 0);
}

/* ---- appending ------------------------------------------------------------------------------ */

static void check_file(const char *path, const uint8_t *content, uint64_t bytes) {
  struct stat st;
  assert_int_equal(stat(path, &st), 0);
  assert_int_equal(st.st_size, bytes);
  assert_int_equal(st.st_mode & 0777, 0600);
  uint8_t *found = malloc(bytes + 1);
  const int fd = open(path, O_RDONLY);
  assert_int_equal(pread(fd, found, bytes + 1, 0), bytes);
  close(fd);
  check_bytes(found, content, 0, bytes);
  free(found);
}

static size_t some_append(void) {
  switch (draw(4)) {
    case 0:
      return (size_t)draw(10);
    case 1:
      return (size_t)draw(4) * 4096;
    case 2:
      return (size_t)draw(3u << 20);
    default:
      return (size_t)draw(20000);
  }
}

static void what_is_appended_and_flushed_is_there(void **state) {
  (void)state;
  enum { MOST = 24u << 20 };
  rng = seed_from_environment();
  uint8_t *content = content_new(MOST, 8);
  for (int round = 0; round < 4; round++) {
    char name[16];
    snprintf(name, sizeof name, "made-%d", round);
    char *path = join(dir, name);
    kvstow_tier *tier = tier_without_log(NULL);
    kvstow_file *file = NULL;
    assert_int_equal(kvstow_file_create(tier, path, MOST, &file), 0);
    kvstow_file *second = NULL;
    assert_int_equal(kvstow_file_create(tier, path, MOST, &second), KVSTOW_EEXIST);
    assert_null(second);
    uint64_t bytes = 0, at = 0;
    uint8_t *to = malloc(400 * KIB);
    for (int step = 0; step < 30; step++) {
      const size_t count = some_append();
      if (bytes + count > MOST) break;
      assert_int_equal(kvstow_file_append(file, content + bytes, count), 0);
      bytes += count;
      assert_int_equal(kvstow_file_bytes(file), bytes);
      if (draw(4) > 0) continue;
      assert_int_equal(kvstow_file_flush(file), 0);
      check_file(path, content, bytes);
      for (int i = 0; i < 10 && bytes > 0; i++) { /* in order, over what was the end before */
        const size_t length = (size_t)draw(bytes < 400 * KIB ? bytes : 400 * KIB);
        if (at + length > bytes) at = bytes - length;
        assert_int_equal(kvstow_file_read_at(file, at, to, length), 0);
        check_bytes(to, content, at, length);
        at += length;
      }
    }
    assert_int_equal(kvstow_file_append(file, content, MOST - bytes + 1), KVSTOW_ENOSPC);
    assert_int_equal(stats_of(tier).file_bytes_appended, bytes);
    assert_int_equal(kvstow_file_close(file), 0);
    check_file(path, content, bytes);
    assert_int_equal(kvstow_tier_close(tier), 0);
    free(to);
    free(path);
  }
  free(content);
}

static void appending_needs_a_file_made_for_it(void **state) {
  (void)state;
  kvstow_tier *tier = tier_without_log(NULL);
  kvstow_file *file = NULL;
  char *path = join(dir, "made"), *nowhere = join(dir, "no/such/file");
  assert_int_equal(kvstow_file_create(tier, nowhere, 4096, &file), KVSTOW_ENOENT);
  assert_int_equal(kvstow_file_create(tier, path, 0, &file), KVSTOW_EINVAL);
  assert_int_equal(kvstow_file_create(tier, path, UINT64_C(1) << 60, &file), KVSTOW_ENOSPC);
  assert_int_equal(access(path, F_OK), -1); /* nothing half made stays */
  assert_int_equal(kvstow_file_create(tier, path, 100, &file), 0);
  assert_int_equal(kvstow_file_close(file), 0);
  check_file(path, NULL, 0);
  assert_int_equal(kvstow_file_open(tier, path, &file), 0);
  assert_int_equal(kvstow_file_append(file, "x", 1), KVSTOW_EACCES);
  assert_int_equal(kvstow_file_flush(file), 0);
  kvstow_file_close(file);
  kvstow_tier_close(tier);
  free(path);
  free(nowhere);
}

#define EACH(test) cmocka_unit_test_setup_teardown(test, fresh, remove_it)

int main(void) {
  const struct CMUnitTest tests[] = {
      EACH(any_range_any_alignment_any_tuning),
      EACH(the_end_of_the_file_is_read_and_nothing_beyond),
      EACH(three_requests_one_read_two_merges),
      EACH(never_more_device_reads_than_one_by_one),
      EACH(cancelled_reads_are_answered_and_not_sent),
      EACH(a_read_past_its_deadline_is_not_sent),
      EACH(a_file_truncated_under_us_is_an_error),
      EACH(only_regular_files_are_opened),
      EACH(a_tier_without_a_log_says_so),
      EACH(what_is_appended_and_flushed_is_there),
      EACH(appending_needs_a_file_made_for_it),
  };
  int failed = 0;
  for (size_t i = 0; i < sizeof VARIANTS / sizeof *VARIANTS; i++) {
    if (!variant_runs(&VARIANTS[i])) continue;
    the_variant = &VARIANTS[i];
    failed += cmocka_run_group_tests_name(the_variant->name, tests, NULL, NULL);
  }
  return failed;
}
