/* tests/test_visibility.c - who sees what: salts and spaces are apart, forgotten and expired is gone.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/fixture.h"

static const kv_shape shape = {4, 128, 128, 64, 0}; /* 64 KiB a block */

enum { SEGMENT = 4 * 1024 * 1024 };

#define RAM (8 * KV_MIB)
#define AMPLE (256 * KV_MIB)

static void two_salts_never_see_each_other(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    size_t length;
  } salts[] = {{NULL, 0}, {"a", 1}, {"b", 1}, {"ab", 2}, {"a\0", 2}, {"\0", 1}};
  enum { SALTS = sizeof salts / sizeof *salts };
  fixture f;
  fixture_init(&f, "visibility", &shape, RAM, AMPLE, SEGMENT);
  open_store(&f);
  for (int reopened = 0; reopened < 2; reopened++) {
    kv_doc docs[SALTS];
    for (size_t i = 0; i < SALTS; i++)
      kv_doc_init(&docs[i], f.space, &shape, i, 5, 4, salts[i].bytes, salts[i].length);
    for (size_t i = 0; i < SALTS; i++) {
      if (!reopened) {
        KV_CHECK(kv_doc_held(&docs[i]) == 0, "salt %zu sees another's blocks", i);
        KV_OK(kv_doc_store(&docs[i], 0, 4, 0));
      }
      assert_int_equal(kv_doc_restore(&docs[i], 0), 4); /* its own bytes */
    }
    if (reopened) { /* a tenant leaves; the others stay */
      size_t blocks = 0;
      KV_OK(kvstow_forget_salt(f.space, salts[1].bytes, salts[1].length, &blocks));
      assert_int_equal(blocks, 4);
      for (size_t i = 0; i < SALTS; i++)
        assert_int_equal(kv_doc_restore(&docs[i], 0), i == 1 ? 0 : 4);
    }
    for (size_t i = 0; i < SALTS; i++) kv_doc_finish(&docs[i]);
    if (!reopened) restart(&f);
  }
  tear_down(&f);
}

static void two_spaces_never_see_each_other(void **state) {
  (void)state;
  fixture f;
  fixture_init(&f, "visibility", &shape, RAM, AMPLE, SEGMENT);
  open_store(&f);
  kvstow_space *other = kv_space(f.store, "another model", &shape);
  kv_doc a, b;
  kv_doc_init(&a, f.space, &shape, 1, 5, 4, NULL, 0);
  kv_doc_init(&b, other, &shape, 2, 5, 4, NULL, 0);
  KV_OK(kv_doc_store(&a, 0, 4, 0));
  assert_int_equal(kv_doc_held(&b), 0);
  KV_OK(kv_doc_store(&b, 0, 4, 0));
  assert_int_equal(kv_doc_restore(&a, 0), 4);
  assert_int_equal(kv_doc_restore(&b, 0), 4);
  size_t blocks = 0;
  KV_OK(kvstow_forget_space(other, &blocks));
  assert_int_equal(blocks, 4);
  assert_int_equal(kv_doc_restore(&a, 0), 4);
  assert_int_equal(kv_doc_held(&b), 0);
  kv_doc_finish(&a);
  kv_doc_finish(&b);
  tear_down(&f);
}

static void forgotten_blocks_stay_forgotten(void **state) {
  (void)state;
  fixture f;
  fixture_init(&f, "visibility", &shape, RAM, AMPLE, SEGMENT);
  open_store(&f);
  for (uint64_t doc = 0; doc < 16; doc++) KV_OK(put(&f, doc, 12));
  KV_OK(kvstow_flush(f.store));
  for (uint64_t doc = 0; doc < 16; doc += 2) {
    kv_doc d = document(&f, doc, 12);
    size_t blocks = 0;
    KV_OK(kvstow_forget(&d.prefix, 5, &blocks));
    assert_int_equal(blocks, 7);
    assert_int_equal(kv_doc_held(&d), 5);
    kv_doc_finish(&d);
  }
  for (int turn = 0; turn < 3; turn++) {
    restart(&f);
    for (uint64_t doc = 0; doc < 16; doc++) {
      KV_CHECK(held(&f, doc, 12) == (doc % 2 ? 12 : 5), "document %" PRIu64 ": %zu held", doc,
               held(&f, doc, 12));
      KV_CHECK(get(&f, doc, 12, 0) == (doc % 2 ? 12 : 5), "not restored");
    }
  }
  /* a new life has new bytes, and they alone are found */
  kv_doc d;
  kv_doc_init(&d, f.space, &shape, 99, 2, 12, NULL, 0); /* other ids: other bytes */
  KV_OK(kvstow_forget(&d.prefix, 0, NULL));
  KV_OK(kv_doc_store(&d, 0, 12, 0));
  kv_doc_finish(&d);
  restart(&f);
  kv_doc_init(&d, f.space, &shape, 99, 2, 12, NULL, 0);
  assert_int_equal(kv_doc_restore(&d, 0), 12);
  kv_doc_finish(&d);
  tear_down(&f);
}

static void extensions_are_forgotten_with_their_prefix(void **state) {
  (void)state;
  fixture f;
  fixture_init(&f, "visibility", &shape, RAM, AMPLE, SEGMENT);
  open_store(&f);
  kv_doc trunk = document(&f, 1, 4);
  KV_OK(kv_doc_store(&trunk, 0, 4, 0));
  kv_doc branches[3];
  for (uint64_t i = 0; i < 3; i++) { /* three continuations of the same four blocks */
    branches[i] = document(&f, 1, 8);
    for (size_t at = 4 * shape.block_tokens; at < 8 * shape.block_tokens; at++)
      branches[i].tokens[at] = kv_token(100 + i, at);
    KV_OK(kv_doc_store(&branches[i], 4, 4, 0));
    assert_int_equal(kv_doc_held(&branches[i]), 8);
  }
  KV_OK(kvstow_flush(f.store));
  size_t blocks = 0;
  KV_OK(kvstow_forget(&trunk.prefix, 2, &blocks));
  assert_int_equal(blocks, 2 + 3 * 4);
  for (int i = 0; i < 3; i++) assert_int_equal(kv_doc_held(&branches[i]), 2);
  /* and the branches do not come back when the trunk does */
  KV_OK(kv_doc_store(&trunk, 0, 4, 0));
  for (int i = 0; i < 3; i++) {
    assert_int_equal(kv_doc_held(&branches[i]), 4);
    kv_doc_finish(&branches[i]);
  }
  assert_int_equal(kv_doc_restore(&trunk, 0), 4);
  kv_doc_finish(&trunk);
  tear_down(&f);
}

static void old_blocks_expire(void **state) {
  (void)state;
  fixture f;
  fixture_init(&f, "visibility", &shape, RAM, AMPLE, SEGMENT);
  open_store(&f);
  kvstow_space_options so;
  kv_space_options(&so, "mortal", &shape);
  so.ttl_s = 2;
  kvstow_space *mortal;
  KV_OK(kvstow_space_open(f.store, &so, &mortal));
  kv_doc d;
  kv_doc_init(&d, mortal, &shape, 1, 1, 6, NULL, 0);
  KV_OK(put(&f, 2, 6));
  const double stored = kv_now_s();
  KV_OK(kv_doc_store(&d, 0, 6, 0));
  const size_t young = kv_doc_restore(&d, 0);
  KV_CHECK(young == 6 || kv_now_s() - stored > 1, "expired at birth");
  kv_doc_finish(&d);
  restart(&f); /* age survives */
  KV_OK(kvstow_space_open(f.store, &so, &mortal));
  kv_doc_init(&d, mortal, &shape, 1, 1, 6, NULL, 0);
  kv_sleep_ms(3600);
  KV_CHECK(kv_doc_held(&d) == 0, "blocks older than their time are held");
  KV_CHECK(kv_doc_restore(&d, 0) == 0, "blocks older than their time are found");
  KV_CHECK(get(&f, 2, 6, 0) == 6, "another space's blocks went with them");
  KV_CHECK(kv_stats(f.store).expired_blocks > 0, "not counted");
  KV_OK(kv_doc_store(&d, 0, 6, 0)); /* stored anew they are young */
  KV_CHECK(kv_doc_restore(&d, 0) == 6, "stored anew, but not held");
  kv_doc_finish(&d);
  tear_down(&f);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(two_salts_never_see_each_other),
    cmocka_unit_test(two_spaces_never_see_each_other),
    cmocka_unit_test(forgotten_blocks_stay_forgotten),
    cmocka_unit_test(extensions_are_forgotten_with_their_prefix),
    cmocka_unit_test(old_blocks_expire),
};

KV_MAIN("who sees what")
