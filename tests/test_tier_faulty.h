/* tests/test_tier_faulty.h - a device that misbehaves: it carries ops out one by one, fails those it is told to, stops
 * for good, and may lose what was not synced. For each test in a directory of its own.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TEST_TIER_FAULTY_H
#define KVSTOW_TEST_TIER_FAULTY_H

#include "test_tier_device.h"
#include "test_tier_place.h"

static struct {
  _Atomic uint64_t ops;     /* carried out so far */
  _Atomic uint64_t stop_at; /* power is lost at this op: it is torn, nothing after it happens */
  _Atomic int write_error, sync_error;
  _Atomic uint64_t bad_from, bad_to; /* reads touching these bytes of any file fail */
  _Atomic uint32_t bad_file_rest;    /* 0, or all ops on files with this rest + 1 of 2 fail */
} faults;

/* What a disk's volatile cache may still lose: writes since the last sync of their file. */
typedef struct unsynced {
  uint32_t file;
  uint64_t offset, length;
  uint8_t *before;
  bool lost;
} unsynced;

static unsynced cache[4096];
static size_t cache_count;
static bool cache_volatile;

static void cache_note(const kvstow__op *op) {
  if (!cache_volatile) return;
  assert_true(cache_count < sizeof cache / sizeof *cache);
  unsynced *u = &cache[cache_count++];
  *u = (unsynced){op->file, op->offset, op->length, malloc(op->length), false};
  assert_int_equal(pread(op->fd, u->before, u->length, (off_t)u->offset), u->length);
}

static void cache_synced(uint32_t file) {
  size_t kept = 0;
  for (size_t i = 0; i < cache_count; i++) {
    if (cache[i].file == file)
      free(cache[i].before);
    else
      cache[kept++] = cache[i];
  }
  cache_count = kept;
}

static bool covered_by_later(size_t i) {
  for (size_t k = i + 1; k < cache_count; k++)
    if (cache[k].file == cache[i].file && !cache[k].lost &&
        cache[k].offset < cache[i].offset + cache[i].length &&
        cache[i].offset < cache[k].offset + cache[k].length)
      return true;
  return false;
}

#define LOSE_ALL UINT64_MAX

/* Power is gone: about half of what was not synced is lost, any half; or all of it. */
UNUSED static void cache_lose(const char *place, uint64_t seed) {
  for (size_t i = cache_count; i-- > 0;) {
    unsynced *u = &cache[i];
    u->lost = (seed == LOSE_ALL || (mix(seed * 4096 + i) & 1) != 0) && !covered_by_later(i);
    if (!u->lost) continue;
    char name[32];
    snprintf(name, sizeof name, "seg-%06u.kvs", u->file);
    patch(place, name, u->offset, u->before, u->length);
  }
  for (size_t i = 0; i < cache_count; i++) free(cache[i].before);
  cache_count = 0;
}

static int carry_out(kvstow__op *op) {
  const uint64_t number = atomic_fetch_add(&faults.ops, 1);
  const uint64_t stop = atomic_load(&faults.stop_at);
  if (number > stop) return EIO;
  if (atomic_load(&faults.bad_file_rest) == op->file % 2 + 1) return EIO;
  if (op->kind == KVSTOW__SYNC) {
    if (number == stop) return EIO;
    if (atomic_load(&faults.sync_error)) return atomic_load(&faults.sync_error);
    cache_synced(op->file);
    return 0; /* the real one would only cost time: nobody pulls the plug */
  }
  if (op->kind == KVSTOW__READ) {
    if (op->offset < atomic_load(&faults.bad_to) &&
        op->offset + op->length > atomic_load(&faults.bad_from))
      return EIO;
    const ssize_t n = preadv(op->fd, op->iov, (int)op->iov_count, (off_t)op->offset);
    return n == (ssize_t)op->length ? 0 : ENODATA;
  }
  if (atomic_load(&faults.write_error)) return atomic_load(&faults.write_error);
  cache_note(op);
  uint64_t left = number == stop ? op->length / 2 / 512 * 512 : op->length;
  uint64_t at = op->offset;
  for (uint32_t i = 0; i < op->iov_count && left > 0; i++) {
    const size_t piece = op->iov[i].iov_len < left ? op->iov[i].iov_len : (size_t)left;
    if (pwrite(op->fd, op->iov[i].iov_base, piece, (off_t)at) != (ssize_t)piece) return EIO;
    at += piece;
    left -= piece;
  }
  return number == stop ? EIO : 0;
}

static kvstow_tier *open_faulty(const kvstow__file_ops *files) {
  the_device.carry_out = carry_out;
  return open_told(&options, files, true);
}

/* Room for one segment. */
UNUSED static kvstow_tier *open_faulty_with_one_segment(void) {
  options = options_for(dirs, 1);
  options.engine = KVSTOW_ENGINE_AUTO;
  return open_faulty(&kvstow__files);
}

static int fresh(void **state) {
  (void)state;
  memset(&faults, 0, sizeof faults);
  faults.stop_at = UINT64_MAX;
  (void)place_new(8);
  the_variant = &VARIANTS[3];
  options.engine = KVSTOW_ENGINE_AUTO;
  return 0;
}

UNUSED static bool keep_all(const kvstow__op *op) {
  (void)op;
  return true;
}

UNUSED static void wait_kept(uint64_t count) {
  while (atomic_load(&the_device.kept) < count) usleep(100);
}

/* Gives back what was kept of one kind, and keeps the rest. */
UNUSED static void release_kind(kvstow__op_kind kind) {
  kvstow__engine *e = the_device.engine;
  size_t kept = 0;
  pthread_mutex_lock(&e->lock);
  for (size_t i = 0; i < e->kept_count; i++) {
    if (e->kept[i]->kind == kind)
      e->ready[e->ready_count++] = e->kept[i];
    else
      e->kept[kept++] = e->kept[i];
  }
  e->kept_count = kept;
  pthread_cond_signal(&e->news);
  pthread_mutex_unlock(&e->lock);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, fresh, remove_it)

#endif
