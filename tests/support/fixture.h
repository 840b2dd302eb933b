/* tests/support/fixture.h - one store in a scratch directory, with one space, opened and opened again, and
 * whole documents put into it and got back.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TESTS_SUPPORT_FIXTURE_H
#define KVSTOW_TESTS_SUPPORT_FIXTURE_H

#include "kv.h"

typedef struct fixture {
  const char *name; /* of the space */
  const kv_shape *shape;
  const char *dir;
  kvstow_options options; /* of the next opening */
  kvstow *store;
  kvstow_space *space; /* of the store now open */
} fixture;

/* A directory and options; nothing is open yet. */
static inline void fixture_init(fixture *f, const char *name, const kv_shape *shape,
                                uint64_t ram_bytes, uint64_t ssd_bytes, uint32_t segment_bytes) {
  memset(f, 0, sizeof *f);
  f->name = name;
  f->shape = shape;
  f->dir = kv_dir(name);
  kv_options(&f->options, &f->dir, ram_bytes, ssd_bytes, segment_bytes);
}

static inline void open_store(fixture *f) {
  f->options.dirs = &f->dir;
  f->store = kv_open(&f->options);
  f->space = kv_space(f->store, f->name, f->shape);
}

static inline void restart(fixture *f) {
  KV_OK(kvstow_close(f->store));
  open_store(f);
}

static inline void tear_down(fixture *f) {
  KV_OK(kvstow_close(f->store));
  kv_dir_drop(f->dir);
}

static inline kv_doc document(const fixture *f, uint64_t number, size_t blocks) {
  kv_doc d;
  kv_doc_init(&d, f->space, f->shape, 1, number, blocks, NULL, 0);
  return d;
}

/* kvstow_store's code. */
static inline int put(const fixture *f, uint64_t number, size_t blocks) {
  kv_doc d = document(f, number, blocks);
  const int rc = kv_doc_store(&d, 0, blocks, 0);
  kv_doc_finish(&d);
  return rc;
}

/* Blocks restored, each compared. */
static inline size_t get(const fixture *f, uint64_t number, size_t blocks, uint32_t flags) {
  kv_doc d = document(f, number, blocks);
  const size_t restored = kv_doc_restore(&d, flags);
  kv_doc_finish(&d);
  return restored;
}

static inline size_t held(const fixture *f, uint64_t number, size_t blocks) {
  kv_doc d = document(f, number, blocks);
  const size_t result = kv_doc_held(&d);
  kv_doc_finish(&d);
  return result;
}

static inline void wait_until(bool (*true_now)(const fixture *f), const fixture *f,
                              const char *what) {
  const double end = kv_now_s() + 30;
  while (!true_now(f)) {
    KV_CHECK(kv_now_s() < end, "never: %s", what);
    kv_sleep_ms(2);
  }
}

#endif
