/* tests/test_two_records.c - what an opening makes of two records of one block. A crash leaves them: a segment given up
 * shows its records until it is used again, and the block has been stored anew meanwhile.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/fixture.h"

static const kv_shape blobs = {0, 0, 0, 16, 40000};

enum { RAM = 8 * 1024 * 1024, SEGMENT = 1024 * 1024, BYTES_MAX = 40000 };

/* One blob of so many bytes, all of them `value`. */
static void store_blob(const fixture *f, size_t bytes, char value) {
  static char blob[BYTES_MAX];
  memset(blob, value, bytes);
  const struct iovec iov = {blob, bytes};
  const kvstow_source source = {&iov, 1};
  kv_doc d = document(f, 1, 1);
  KV_OK(kvstow_store(&d.prefix, 0, 1, &source, 0, NULL));
  KV_OK(kvstow_flush(f->store));
  kv_doc_finish(&d);
}

static void check_blob(const fixture *f, size_t bytes, char value, uint32_t flags) {
  static char payload[BYTES_MAX + KVSTOW_PAGE_BYTES] __attribute__((aligned(KVSTOW_PAGE_BYTES)));
  void *const payloads[] = {payload};
  size_t got = 0;
  kvstow_lease *lease;
  kv_doc d = document(f, 1, 1);
  KV_OK(kvstow_match(&d.prefix, flags & KVSTOW_NO_PROMOTE, &lease, NULL));
  KV_OK(kvstow_read_blocks(lease, 0, 1, payloads, &got, flags & KVSTOW_BYPASS_RAM, 0));
  assert_int_equal(got, bytes);
  for (size_t i = 0; i < bytes; i++) KV_CHECK(payload[i] == value, "byte %zu", i);
  kvstow_lease_release(lease);
  kv_doc_finish(&d);
}

static size_t forget(const fixture *f) {
  size_t gone;
  kv_doc d = document(f, 1, 1);
  KV_OK(kvstow_forget(&d.prefix, 0, &gone));
  kv_doc_finish(&d);
  return gone;
}

static void copy_segment(const fixture *f, const char *from, const char *to) {
  static char bytes[SEGMENT];
  char path[4608];
  snprintf(path, sizeof path, "%s/%s", f->dir, from);
  int fd = open(path, O_RDONLY);
  KV_CHECK(fd >= 0 && read(fd, bytes, SEGMENT) == SEGMENT, "%s: %s", path, strerror(errno));
  close(fd);
  snprintf(path, sizeof path, "%s/%s", f->dir, to);
  fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  KV_CHECK(fd >= 0 && write(fd, bytes, SEGMENT) == SEGMENT, "%s: %s", path, strerror(errno));
  close(fd);
}

/* A store, closed, with a record of `old` bytes of 'o', and a newer one of `new` bytes of 'n' in another segment. */
static void make_two(fixture *f, size_t old, size_t new) {
  fixture_init(f, "two", &blobs, RAM, 8 * KV_MIB, SEGMENT);
  open_store(f);
  store_blob(f, old, 'o');
  KV_OK(kvstow_close(f->store));
  copy_segment(f, "seg-000000.kvs", "kept");
  open_store(f);
  assert_int_equal(forget(f), 1);
  store_blob(f, new, 'n');
  KV_OK(kvstow_close(f->store));
  copy_segment(f, "kept", "seg-000005.kvs");
}

/* A block of a space of opaque ones may be stored anew with other bytes, and more or fewer of them. */
static const size_t SIZES[][2] = {{20000, 20000}, {20000, 5000}, {5000, 40000}};

static void the_newer_record_is_the_block(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++)
    for (int past_ram = 0; past_ram < 2; past_ram++) {
      fixture f;
      make_two(&f, SIZES[i][0], SIZES[i][1]);
      open_store(&f);
      assert_int_equal(kv_stats(f.store).recovered_blocks, 1);
      check_blob(&f, SIZES[i][1], 'n', past_ram ? KVSTOW_NO_PROMOTE | KVSTOW_BYPASS_RAM : 0);
      check_blob(&f, SIZES[i][1], 'n', 0);
      tear_down(&f);
    }
}

static void neither_comes_back_once_it_is_forgotten(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++) {
    fixture f;
    make_two(&f, SIZES[i][0], SIZES[i][1]);
    open_store(&f);
    assert_int_equal(forget(&f), 1);
    for (int life = 0; life < 2; life++) {
      restart(&f);
      assert_int_equal(held(&f, 1, 1), 0);
    }
    tear_down(&f);
  }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(the_newer_record_is_the_block),
    cmocka_unit_test(neither_comes_back_once_it_is_forgotten),
};

KV_MAIN("two records")
