/* A file system that can not reserve blocks (NFS, some FUSE ones): they are written instead, and what the file has is
 * left alone.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>

#include "test_tier_place.h"

int fallocate(int fd, int mode, off_t offset, off_t length) {
  (void)fd, (void)mode, (void)offset, (void)length;
  errno = EOPNOTSUPP;
  return -1;
}

static int fresh(void **state) {
  (void)state;
  return place_new(4);
}

/* A flush gives the rest of what was reserved back; the append after it reserves it again. */
static void what_was_appended_and_flushed_stays(void **state) {
  (void)state;
  enum { MOST = 3 << 20 };
  static uint8_t content[MOST], found[MOST];
  static const size_t steps[] = {1, 100, 4095, 8192, 700001, 1 << 20, 5};
  for (size_t i = 0; i < MOST; i++) content[i] = (uint8_t)word_of(1, i);
  for (int buffered = 0; buffered < 2; buffered++) {
    variant v = {"threads", KVSTOW_ENGINE_THREADS, buffered, false};
    the_variant = &v;
    kvstow_tier *tier = tier_open(&options);
    char *path = join(dir, buffered ? "buffered" : "direct");
    kvstow_file *file;
    size_t bytes = 0;
    assert_int_equal(kvstow_file_create(tier, path, MOST, &file), 0);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
      assert_int_equal(kvstow_file_append(file, content + bytes, steps[i]), 0);
      bytes += steps[i];
      assert_int_equal(kvstow_file_flush(file), 0);
      assert_int_equal(kvstow_file_read_at(file, 0, found, bytes), 0);
      assert_memory_equal(found, content, bytes);
    }
    assert_int_equal(kvstow_file_close(file), 0);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, bytes);
    free(path);
    assert_int_equal(kvstow_tier_close(tier), 0);
  }
}

/* An owner makes a file whole again that was cut off: the records in front of that are still there. */
static void a_segment_cut_off_keeps_what_it_has(void **state) {
  (void)state;
  kvstow_tier *tier = tier_open(&options);
  record r[3];
  for (uint64_t i = 0; i < 3; i++) r[i] = append_one(tier, i, 3);
  struct stat st;
  char *path = join(dir, "seg-000000.kvs");
  assert_int_equal(stat(path, &st), 0);
  assert_int_equal(st.st_size, SEGMENT);
  assert_true((uint64_t)st.st_blocks * 512 >= SEGMENT); /* reserved all the same */
  assert_int_equal(kvstow_tier_close(tier), 0);
  assert_int_equal(truncate(path, (off_t)(r[2].loc.page + 1) * 4096 + 100), 0);
  for (int life = 0; life < 2; life++) {
    tier = tier_open(&options);
    assert_int_equal(read_record(tier, &r[0]), 0);
    assert_int_equal(read_record(tier, &r[1]), 0);
    assert_int_equal(kvstow_tier_close(tier), 0);
  }
  for (int i = 0; i < 3; i++) record_free(&r[i]);
  free(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(what_was_appended_and_flushed_stays, fresh, remove_it),
      cmocka_unit_test_setup_teardown(a_segment_cut_off_keeps_what_it_has, fresh, remove_it),
  };
  return cmocka_run_group_tests_name("allocate", tests, NULL, NULL);
}
