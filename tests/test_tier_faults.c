/* What devices and kernels do wrong: failed writes, reads and syncs, full disks, forbidden io_uring,
 * few descriptors, limits on file size, and power loss after every single operation.
 *
 * The device carries ops out one by one and misbehaves where it is told to.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/forbid.h"
#include "test_tier_device.h"

#include <sys/resource.h>
#include <sys/wait.h>

static char *dir;
static const char *dirs[1];
static kvstow_tier_options options;

/* ---- a device that misbehaves --------------------------------------------------------------- */

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
static void cache_lose(const char *place, uint64_t seed) {
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
static kvstow_tier *open_faulty_with_one_segment(void) {
  options = options_for(dirs, 1);
  options.engine = KVSTOW_ENGINE_AUTO;
  return open_faulty(&kvstow__files);
}

static int fresh(void **state) {
  (void)state;
  the_variant = &VARIANTS[3];
  memset(&faults, 0, sizeof faults);
  faults.stop_at = UINT64_MAX;
  dir = scratch_new();
  dirs[0] = dir;
  options = options_for(dirs, 8);
  options.engine = KVSTOW_ENGINE_AUTO;
  return 0;
}

static int remove_it(void **state) {
  (void)state;
  scratch_remove(dir);
  return 0;
}

/* ---- failing devices ------------------------------------------------------------------------ */

static void a_failed_write_costs_its_segment_only(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record good = append_one(tier, 1, 3);
  faults.write_error = EIO;
  record bad = record_new(2, 3, PLANE);
  assert_int_equal(append_all(tier, &bad, 1), KVSTOW_EIO);
  assert_int_equal(bad.result, KVSTOW_EIO);
  faults.write_error = 0;
  assert_int_equal(read_record(tier, &good), 0);
  assert_int_equal(read_record(tier, &bad), KVSTOW_EMISS);
  kvstow_segment_info info;
  kvstow_tier_segment(tier, good.loc.segment, &info);
  assert_int_equal(info.state, KVSTOW_SEGMENT_BAD);
  assert_int_equal(info.records, 1);
  char message[KVSTOW_MESSAGE_BYTES];
  kvstow_tier_message(tier, message, sizeof message);
  assert_non_null(strstr(message, "Input/output error"));
  record next = append_one(tier, 3, 3);
  assert_int_not_equal(next.loc.segment, good.loc.segment);
  assert_int_equal(kvstow_tier_flush(tier), KVSTOW_EIO); /* said once: something was lost */
  assert_int_equal(kvstow_tier_flush(tier), 0);
  kvstow_tier_close(tier);
  tier = open_faulty(&kvstow__files);
  seen *s = scan_all(tier);
  assert_int_equal(s->count, 2);
  assert_non_null(seen_find(s, 1));
  assert_non_null(seen_find(s, 3));
  free(s);
  record_free(&good);
  record_free(&bad);
  record_free(&next);
  kvstow_tier_close(tier);
}

static void what_the_device_did_and_did_not_is_counted(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record good = append_one(tier, 1, 3), bad = record_new(2, 3, PLANE);
  kvstow_tier_stats s = stats_of(tier);
  assert_int_equal(s.device_writes, 1);
  assert_int_equal(s.bytes_written, 4 * PLANE);
  assert_int_equal(s.io_errors, 0);
  faults.write_error = EIO;
  assert_int_equal(append_all(tier, &bad, 1), KVSTOW_EIO);
  s = stats_of(tier);
  assert_int_equal(s.device_writes, 1);
  assert_int_equal(s.bytes_written, 4 * PLANE);
  assert_int_equal(s.io_errors, 1);
  assert_int_equal(s.records_written, 1);
  faults.bad_to = SEGMENT;
  assert_int_equal(read_record(tier, &good), KVSTOW_EIO);
  s = stats_of(tier);
  assert_int_equal(s.io_errors, 1 + 2); /* it was tried again */
  assert_int_equal(s.device_reads, 2);
  assert_int_equal(s.retries, 1);
  faults.write_error = 0;
  faults.bad_to = 0;
  kvstow_tier_close(tier);
  record_free(&good);
  record_free(&bad);
}

static void repeated_failures_take_the_tier_offline(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record good = append_one(tier, 1, 3);
  faults.write_error = ENOSPC;
  for (uint64_t i = 0; i < 3; i++) {
    record r = record_new(10 + i, 3, PLANE);
    assert_int_equal(append_all(tier, &r, 1), KVSTOW_ENOSPC);
    record_free(&r);
  }
  record r = record_new(20, 3, PLANE);
  assert_int_equal(append_all(tier, &r, 1), KVSTOW_EOFFLINE);
  kvstow_record_write w = {.header = r.header, .payload = r.payload};
  assert_int_equal(kvstow_tier_fits(tier, &w, 1), 0);
  assert_true(stats_of(tier).offline);
  assert_int_equal(stats_of(tier).segments_bad, 3);
  assert_int_equal(read_record(tier, &good), 0);
  record_free(&r);
  record_free(&good);
  assert_int_equal(kvstow_tier_close(tier), KVSTOW_ENOSPC);
}

static void a_failed_directory_costs_its_records_only(void **state) {
  (void)state;
  char *other = scratch_new();
  const char *both[] = {dir, other};
  options.dirs = both;
  options.dirs_count = 2;
  options.budget_bytes *= 2;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  enum { COUNT = 60 };
  record r[COUNT];
  for (uint64_t i = 0; i < 8; i++) { /* runs take turns */
    r[i] = record_new(i, 3, PLANE);
    assert_int_equal(append_all(tier, &r[i], 1), 0);
  }
  assert_int_equal(kvstow_tier_flush(tier), 0);
  faults.bad_file_rest = 2; /* odd files: the second directory's */
  unsigned refused = 0;
  for (uint64_t i = 8; i < COUNT; i++) {
    r[i] = record_new(i, 3, PLANE);
    (void)append_all(tier, &r[i], 1);
    refused += r[i].result != 0;
    assert_true(r[i].result == 0 || r[i].result == KVSTOW_EIO);
  }
  assert_int_equal(refused, 3); /* and no more: then it is left alone */
  const kvstow_tier_stats s = stats_of(tier);
  assert_int_equal(s.dirs_offline, 1);
  assert_false(s.offline);
  for (uint64_t i = 0; i < COUNT; i++) {
    const bool lost = r[i].loc.segment % 2 == 1;
    if (i >= 8 && r[i].result == 0) assert_false(lost);
    if (i < 8 || r[i].result == 0)
      assert_int_equal(read_record(tier, &r[i]), lost ? KVSTOW_EIO : 0);
  }
  (void)kvstow_tier_flush(tier); /* tells of the writes that failed */
  for (uint32_t id = 1; id < kvstow_tier_segment_count(tier); id += 2)
    (void)kvstow_tier_reclaim(tier, id);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  (void)kvstow_tier_close(tier);
  for (uint64_t i = 0; i < COUNT; i++) record_free(&r[i]);
  scratch_remove(other);
}

static void a_failed_sync_is_reported(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record r = append_one(tier, 1, 3);
  faults.sync_error = EIO;
  assert_int_equal(kvstow_tier_flush(tier), KVSTOW_EIO);
  faults.sync_error = 0;
  kvstow_segment_info info;
  kvstow_tier_segment(tier, r.loc.segment, &info);
  assert_int_equal(info.state, KVSTOW_SEGMENT_BAD);
  assert_true(info.unsure);
  assert_int_equal(read_record(tier, &r), 0); /* what can be read and verified may be used */
  /* The kernel may have forgotten what it could not write: a sync that succeeds now proves nothing. */
  assert_int_equal(kvstow_tier_flush(tier), KVSTOW_EIO);
  assert_int_equal(kvstow_tier_reclaim(tier, r.loc.segment), 0);
  assert_int_equal(read_record(tier, &r), KVSTOW_EMISS);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  record_free(&r);
  kvstow_tier_close(tier);
}

/* The kernel may have dropped what it could not write: another sync that succeeds proves nothing. */
static bool keep_all(const kvstow__op *op) {
  (void)op;
  return true;
}

static void wait_kept(uint64_t count) {
  while (atomic_load(&the_device.kept) < count) usleep(100);
}

/* Gives back what was kept of one kind, and keeps the rest. */
static void release_kind(kvstow__op_kind kind) {
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

static void *flush_main(void *tier) {
  return (void *)(intptr_t)kvstow_tier_flush(tier);
}

/* A record is on its way to the disk while a barrier of its file fails, and arrives after that. */
static record append_while_a_sync_fails(kvstow_tier *tier, uint64_t number) {
  record r = record_new(number, 3, PLANE);
  kvstow_record_write w = {.header = r.header, .payload = r.payload};
  gate g = GATE_INIT(1);
  pthread_t flusher;
  void *flushed;
  the_device.kept = 0;
  the_device.keep = keep_all;
  assert_int_equal(pthread_create(&flusher, NULL, flush_main, tier), 0);
  wait_kept(1);
  assert_int_equal(kvstow_tier_append(tier, &w, 1, gate_append_done, &g), 0);
  wait_kept(2);
  the_device.keep = NULL;
  faults.sync_error = EIO;
  release_kind(KVSTOW__SYNC);
  pthread_join(flusher, &flushed);
  assert_int_equal((intptr_t)flushed, KVSTOW_EIO);
  faults.sync_error = 0;
  release_kind(KVSTOW__WRITE);
  assert_int_equal(gate_wait(&g), 0);
  r.loc = w.loc;
  return r;
}

/* It has been reported as good: so it is as good as those before it, and nobody wipes it. */
static void what_was_being_written_when_a_sync_failed_is_kept(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record before = append_one(tier, 1, 3), during = append_while_a_sync_fails(tier, 2);
  kvstow_segment_info info;
  kvstow_tier_segment(tier, before.loc.segment, &info);
  assert_int_equal(during.loc.segment, before.loc.segment);
  assert_int_equal(info.state, KVSTOW_SEGMENT_BAD);
  assert_int_equal(info.records, 2);
  assert_int_equal(kvstow_tier_erase(tier, NULL, 0), 0);
  for (int life = 0; life < 2; life++) {
    assert_int_equal(read_record(tier, &before), 0);
    assert_int_equal(read_record(tier, &during), 0);
    kvstow_tier_close(tier);
    tier = open_faulty(&kvstow__files);
  }
  kvstow_tier_close(tier);
  record_free(&before);
  record_free(&during);
}

static int carry_out_but_the_first(kvstow__op *op) {
  return op->kind == KVSTOW__WRITE && op->offset == 0 ? EIO : carry_out(op);
}

/* Both were on their way: what arrived behind a hole would not be found again. */
static void what_was_written_behind_a_failed_write_failed_too(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record r[2] = {record_new(1, 3, PLANE), record_new(2, 3, PLANE)};
  kvstow_record_write w[2];
  gate g[2] = {GATE_INIT(1), GATE_INIT(1)};
  the_device.carry_out = carry_out_but_the_first;
  the_device.kept = 0;
  the_device.keep = keep_all;
  for (uint64_t i = 0; i < 2; i++) {
    w[i] = (kvstow_record_write){.header = r[i].header, .payload = r[i].payload};
    assert_int_equal(kvstow_tier_append(tier, &w[i], 1, gate_append_done, &g[i]), 0);
    wait_kept(i + 1);
    r[i].loc = w[i].loc;
  }
  the_device.keep = NULL;
  assert_int_equal(read_record(tier, &r[1]), KVSTOW_EMISS); /* not written yet */
  told_release();
  for (int i = 0; i < 2; i++) {
    assert_int_equal(gate_wait(&g[i]), KVSTOW_EIO);
    assert_int_equal(read_record(tier, &r[i]), KVSTOW_EMISS);
    record_free(&r[i]);
  }
  assert_int_equal(kvstow_tier_flush(tier), KVSTOW_EIO);
  kvstow_tier_close(tier);
}

/* A segment that has nothing else is not taken for one given up. */
static void the_first_record_written_when_a_sync_failed_is_kept(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty_with_one_segment();
  record old = append_one(tier, 1, 3);
  assert_int_equal(kvstow_tier_seal(tier), 0);
  assert_int_equal(kvstow_tier_reclaim(tier, old.loc.segment), 0);
  assert_int_equal(kvstow_tier_erase(tier, NULL, 0), 0);
  record first = append_while_a_sync_fails(tier, 2);
  assert_int_equal(kvstow_tier_erase(tier, NULL, 0), 0);
  assert_int_equal(kvstow_tier_flush(tier), KVSTOW_EIO); /* power may still take it */
  assert_int_equal(read_record(tier, &first), 0);
  kvstow_tier_close(tier);
  record_free(&old);
  record_free(&first);
}

static void a_file_whose_sync_failed_stays_failed(void **state) {
  (void)state;
  char path[4096];
  snprintf(path, sizeof path, "%s/file", dir);
  kvstow_tier *tier = open_faulty(&kvstow__files);
  kvstow_file *file;
  assert_int_equal(kvstow_file_create(tier, path, 100000, &file), 0);
  assert_int_equal(kvstow_file_append(file, "0123456789", 10), 0);
  atomic_store(&faults.sync_error, EIO);
  assert_int_equal(kvstow_file_flush(file), KVSTOW_EIO);
  atomic_store(&faults.sync_error, 0);
  assert_int_equal(kvstow_file_flush(file), KVSTOW_EIO);
  assert_int_equal(kvstow_file_append(file, "0123456789", 10), KVSTOW_EIO);
  assert_int_equal(kvstow_file_close(file), KVSTOW_EIO);
  assert_int_equal(kvstow_tier_close(tier), 0);
}

/* It goes out in the background: the calls that come later tell. */
static void a_file_whose_write_failed_stays_failed(void **state) {
  (void)state;
  char path[4096];
  snprintf(path, sizeof path, "%s/file", dir);
  kvstow_tier *tier = open_faulty(&kvstow__files);
  kvstow_file *file;
  assert_int_equal(kvstow_file_create(tier, path, 100000, &file), 0);
  assert_int_equal(kvstow_file_append(file, "0123456789", 10), 0);
  faults.write_error = EIO;
  assert_int_equal(kvstow_file_flush(file), KVSTOW_EIO);
  faults.write_error = 0;
  assert_int_equal(kvstow_file_flush(file), KVSTOW_EIO);
  assert_int_equal(kvstow_file_append(file, "0123456789", 10), KVSTOW_EIO);
  assert_int_equal(kvstow_file_close(file), KVSTOW_EIO);
  assert_int_equal(kvstow_tier_close(tier), 0);
}

static void a_bad_sector_costs_one_record_of_a_merged_read(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  enum { COUNT = 6 };
  record r[COUNT];
  kvstow_record_read reads[COUNT];
  kvstow_record_read *pointers[COUNT];
  for (uint64_t i = 0; i < COUNT; i++) r[i] = record_new(i, 3, PLANE);
  assert_int_equal(append_all(tier, r, COUNT), 0);
  faults.bad_from = (uint64_t)r[2].loc.page * 4096 + 5000;
  faults.bad_to = faults.bad_from + 512;
  gate g = GATE_INIT(COUNT);
  for (int i = 0; i < COUNT; i++) {
    reads[i] = whole_read(&r[i], &g);
    pointers[i] = &reads[i];
  }
  assert_int_equal(kvstow_tier_read_batch(tier, pointers, COUNT), 0);
  gate_wait(&g);
  for (int i = 0; i < COUNT; i++) assert_int_equal(reads[i].result, i == 2 ? KVSTOW_EIO : 0);
  for (int i = 0; i < COUNT; i++) record_free(&r[i]);
  kvstow_tier_close(tier);
}

/* ---- segments used again -------------------------------------------------------------------- */

/* All segments written to; then the given one is given up. What it shows ends while nobody waits. */
static kvstow_tier *open_worn(void) {
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record r = record_new(0, 3, PLANE);
  while (append_all(tier, &r, 1) == 0) assert_int_equal(kvstow_tier_seal(tier), 0);
  record_free(&r);
  return tier;
}

static _Atomic uint64_t syncs_before_records, writes_before_records;

static bool count_op(const kvstow__op *op) {
  if (op->kind == KVSTOW__SYNC) atomic_fetch_add(&syncs_before_records, 1);
  if (op->kind == KVSTOW__WRITE) atomic_fetch_add(&writes_before_records, 1);
  return false;
}

static void a_segment_used_again_costs_its_first_append_no_barrier(void **state) {
  (void)state;
  kvstow_tier *tier = open_worn();
  assert_int_equal(kvstow_tier_reclaim(tier, 2), 0);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  atomic_store(&syncs_before_records, 0);
  atomic_store(&writes_before_records, 0);
  the_device.keep = count_op;
  record r = append_one(tier, 1, 3);
  the_device.keep = NULL;
  assert_int_equal(r.loc.segment, 2);
  assert_int_equal(syncs_before_records, 0);
  assert_int_equal(writes_before_records, 1);
  record_free(&r);
  kvstow_tier_close(tier);
}

/* Its reader gets what it asked for, or nothing, but no other record's bytes. */
static void a_segment_is_not_used_again_under_a_reader(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty_with_one_segment();
  record old = append_one(tier, 1, 3), next = record_new(2, 3, PLANE);
  assert_int_equal(kvstow_tier_seal(tier), 0);
  gate g = GATE_INIT(1);
  kvstow_record_read read = whole_read(&old, &g);
  kvstow_record_read *reads[] = {&read};
  kvstow_segment_info info;
  the_device.kept = 0;
  the_device.keep = keep_all;
  assert_int_equal(kvstow_tier_read_batch(tier, reads, 1), 0);
  wait_kept(1);
  the_device.keep = NULL;
  assert_int_equal(kvstow_tier_reclaim(tier, old.loc.segment), 0);
  kvstow_tier_segment(tier, old.loc.segment, &info);
  assert_int_equal(info.state, KVSTOW_SEGMENT_RECLAIMED);
  assert_int_equal(append_all(tier, &next, 1), KVSTOW_ENOSPC);
  release_kind(KVSTOW__READ);
  assert_int_equal(gate_wait(&g), 0);
  assert_int_equal(append_all(tier, &next, 1), 0);
  assert_int_equal(read_record(tier, &next), 0);
  kvstow_tier_close(tier);
  record_free(&old);
  record_free(&next);
}

/* Also by who did not wait for a flush. */
static void a_segment_given_up_shows_nothing_before_it_is_used_again(void **state) {
  (void)state;
  kvstow_tier *tier = open_worn();
  seen *before = scan_all(tier);
  assert_int_equal(kvstow_tier_reclaim(tier, 2), 0);
  record r = append_one(tier, 1, 3);
  assert_int_equal(r.loc.segment, 2);
  char *copy = crash_copy(dir, 8);
  kvstow_tier_close(tier);
  dirs[0] = copy;
  tier = open_faulty(&kvstow__files);
  seen *s = scan_all(tier);
  assert_int_equal(s->count, before->count);
  assert_non_null(seen_find(s, 1));
  assert_int_equal(read_record(tier, &r), 0);
  free(s);
  free(before);
  record_free(&r);
  kvstow_tier_close(tier);
  scratch_remove(copy);
}

static void a_life_that_could_not_be_ended_ahead_is_ended_when_needed(void **state) {
  (void)state;
  kvstow_tier *tier = open_worn();
  faults.write_error = EIO;
  assert_int_equal(kvstow_tier_reclaim(tier, 2), 0);
  assert_int_equal(kvstow_tier_flush(tier), 0); /* nothing was lost */
  faults.write_error = 0;
  record r = append_one(tier, 1, 3);
  assert_int_equal(r.loc.segment, 2);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  char *copy = crash_copy(dir, 8);
  kvstow_tier_close(tier);
  dirs[0] = copy;
  tier = open_faulty(&kvstow__files);
  seen *s = scan_all(tier);
  assert_non_null(seen_find(s, 1));
  assert_int_equal(read_record(tier, &r), 0);
  free(s);
  record_free(&r);
  kvstow_tier_close(tier);
  scratch_remove(copy);
}

/* What relies on an end that is on its way fails with it. */
static void an_append_behind_an_end_that_fails_is_told(void **state) {
  (void)state;
  for (int kind = 0; kind < 2; kind++) {
    kvstow_tier *tier = open_worn();
    const uint64_t kept = the_device.kept;
    the_device.keep = keep_all;
    assert_int_equal(kvstow_tier_reclaim(tier, 2), 0);
    record r = record_new(1, 3, PLANE);
    kvstow_record_write write = {.header = r.header, .payload = r.payload, .run_start = true};
    gate g = GATE_INIT(1);
    assert_int_equal(kvstow_tier_append(tier, &write, 1, gate_append_done, &g), 0);
    while (the_device.kept == kept) usleep(1000);
    the_device.keep = NULL;
    *(kind == 0 ? &faults.write_error : &faults.sync_error) = EIO;
    told_release();
    assert_int_equal(gate_wait(&g), KVSTOW_EIO);
    faults.write_error = faults.sync_error = 0;
    assert_int_equal(write.result, KVSTOW_EIO);
    assert_int_equal(kvstow_tier_flush(tier), KVSTOW_EIO);
    kvstow_segment_info info;
    assert_int_equal(kvstow_tier_segment(tier, 2, &info), 0);
    assert_int_equal(info.state, KVSTOW_SEGMENT_BAD);
    record_free(&r);
    kvstow_tier_close(tier);
    remove_it(state);
    fresh(state);
  }
}

/* ---- full disks ----------------------------------------------------------------------------- */

/* A footer that ends a life, its barrier failed, is no wiped segment to the next process: were the footer lost
 * with the power, the records behind it would be back. */
static void an_erase_whose_barrier_failed_is_done_again(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record r = append_one(tier, 1, 3);
  assert_int_equal(kvstow_tier_seal(tier), 0);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  assert_int_equal(kvstow_tier_reclaim(tier, r.loc.segment), 0);
  char name[32];
  snprintf(name, sizeof name, "seg-%06u.kvs", r.loc.segment);
  char *path = join(dir, name);
  const int fd = open(path, O_RDONLY);
  uint8_t before[4096], after[4096];
  assert_int_equal(pread(fd, before, sizeof before, (off_t)r.loc.page * 4096), sizeof before);
  faults.sync_error = EIO;
  assert_int_equal(kvstow_tier_erase(tier, NULL, 0), KVSTOW_EIO);
  (void)kvstow_tier_close(tier);
  patch(dir, name, (uint64_t)r.loc.page * 4096, before,
        sizeof before); /* the footer alone arrived */
  faults.sync_error = 0;
  tier = open_faulty(&kvstow__files);
  assert_int_equal(kvstow_tier_erase(tier, NULL, 0), 0);
  assert_int_equal(kvstow_tier_close(tier), 0);
  assert_int_equal(pread(fd, after, sizeof after, (off_t)r.loc.page * 4096), sizeof after);
  assert_memory_not_equal(before, after, sizeof before);
  close(fd);
  free(path);
  record_free(&r);
}

/* Power went between the footer and the header page of one record; the footer of the next erase tears. */
static void what_was_erased_in_the_table_alone_survives_no_other_erase(void **state) {
  (void)state;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  record r[2] = {append_one(tier, 1, 3), append_one(tier, 2, 3)};
  assert_int_equal(r[0].loc.segment, r[1].loc.segment);
  assert_int_equal(kvstow_tier_seal(tier), 0);
  assert_int_equal(kvstow_tier_flush(tier), 0);
  char name[32];
  snprintf(name, sizeof name, "seg-%06u.kvs", r[0].loc.segment);
  char *path = join(dir, name);
  const int fd = open(path, O_RDONLY);
  uint8_t before[4096];
  const uint8_t torn[4096] = {0};
  assert_int_equal(pread(fd, before, sizeof before, (off_t)r[0].loc.page * 4096), sizeof before);
  assert_int_equal(kvstow_tier_erase(tier, &r[0].loc, 1), 0);
  assert_int_equal(kvstow_tier_close(tier), 0);
  patch(dir, name, (uint64_t)r[0].loc.page * 4096, before, sizeof before);
  tier = open_faulty(&kvstow__files);
  assert_int_equal(kvstow_tier_erase(tier, &r[1].loc, 1), 0);
  assert_int_equal(kvstow_tier_close(tier), 0);
  patch(dir, name, (uint64_t)lseek(fd, 0, SEEK_END) - sizeof torn, torn, sizeof torn);
  tier = open_faulty(&kvstow__files);
  seen *s = scan_all(tier);
  assert_null(seen_find(s, 1));
  assert_null(seen_find(s, 2));
  free(s);
  kvstow_tier_close(tier);
  close(fd);
  free(path);
  record_free(&r[0]);
  record_free(&r[1]);
}

/* One erase had returned 0; power goes anywhere in the next one, of the same segment. */
static void what_was_erased_survives_no_other_erase(void **state) {
  (void)state;
  static const uint64_t seeds[] = {1, 4, 5,
                                   9}; /* of two writes: the second lost, both, none, the first */
  for (uint64_t stop = 0; stop < 10; stop++)
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) {
      char *place = scratch_new();
      record r[2] = {record_new(1, 3, PLANE), record_new(2, 3, PLANE)};
      dirs[0] = place;
      cache_volatile = true;
      kvstow_tier *tier = open_faulty(&kvstow__files);
      assert_int_equal(append_all(tier, r, 2), 0);
      assert_int_equal(kvstow_tier_seal(tier), 0);
      assert_int_equal(kvstow_tier_flush(tier), 0);
      assert_int_equal(kvstow_tier_erase(tier, &r[0].loc, 1), 0);
      faults.stop_at = faults.ops + stop;
      (void)kvstow_tier_erase(tier, &r[1].loc, 1);
      faults.stop_at = 0;
      (void)kvstow_tier_close(tier);
      cache_volatile = false;
      cache_lose(place, seeds[i]);
      faults.stop_at = UINT64_MAX;
      tier = open_faulty(&kvstow__files);
      seen *s = scan_all(tier);
      if (seen_find(s, 1))
        fail_msg("power lost at op %llu (%llu): it is back", (unsigned long long)stop,
                 (unsigned long long)seeds[i]);
      free(s);
      kvstow_tier_close(tier);
      record_free(&r[0]);
      record_free(&r[1]);
      scratch_remove(place);
    }
}

static int room_for; /* segments that the disk still has room for */

static int scarce_allocate(void *env, int fd, uint64_t bytes) {
  if (room_for == 0) return ENOSPC;
  room_for--;
  return kvstow__files.allocate(env, fd, bytes);
}

static void a_full_disk_means_fewer_segments(void **state) {
  (void)state;
  kvstow__file_ops scarce = kvstow__files;
  scarce.allocate = scarce_allocate;
  room_for = 3;
  kvstow_tier *tier = open_faulty(&scarce);
  uint64_t number = 0;
  int code = 0;
  while (!code) {
    record r = record_new(number, 15, PLANE);
    code = append_all(tier, &r, 1);
    number += code == 0;
    record_free(&r);
  }
  assert_int_equal(code, KVSTOW_ENOSPC);
  assert_true(number >= 42);
  assert_true(stats_of(tier).disk_full > 0);
  char message[KVSTOW_MESSAGE_BYTES];
  kvstow_tier_message(tier, message, sizeof message);
  assert_non_null(strstr(message, "seg-00000"));
  for (uint64_t i = 0; i < 100; i++) { /* and what there is goes round */
    record r = record_new(1000 + i, 15, PLANE);
    for (uint32_t id = 0; (code = append_all(tier, &r, 1)) == KVSTOW_ENOSPC && id < 8; id++)
      kvstow_tier_reclaim(tier, id);
    assert_int_equal(code, 0);
    record_free(&r);
  }
  char *fourth = join(dir, "seg-000003.kvs");
  assert_int_not_equal(access(fourth, F_OK), 0);
  free(fourth);
  kvstow_tier_close(tier);
}

/* ---- power loss after every operation ------------------------------------------------------- */

typedef struct told {
  uint64_t reclaimed; /* records [0, reclaimed) were given up */
  uint64_t flushed;   /* records [reclaimed, flushed) were flushed */
  bool erase_begun, erase_done;
} told;

#define ERASED 3u
#define RECORDS 75u

static bool lowest(void *arg, const kvstow_record *r) {
  uint64_t number, *least = arg;
  memcpy(&number, r->tag, sizeof number);
  if (number < *least) *least = number;
  return true;
}

/* Gives the oldest segment up. */
static bool reclaim_oldest(kvstow_tier *tier, told *t) {
  uint64_t oldest = UINT64_MAX, next = UINT64_MAX;
  uint32_t victim = 0;
  for (uint32_t id = 0; id < kvstow_tier_segment_count(tier); id++) {
    uint64_t least = UINT64_MAX;
    if (kvstow_tier_scan(tier, id, lowest, &least) != 0) return false;
    if (least < oldest) {
      next = oldest;
      oldest = least;
      victim = id;
    } else if (least < next) {
      next = least;
    }
  }
  if (kvstow_tier_reclaim(tier, victim) != 0) return false;
  t->reclaimed = next == UINT64_MAX ? t->flushed : next;
  return true;
}

/* Appends, flushes, reclaims, erases until the power goes. */
static void live_until_power_loss(told *t) {
  kvstow_tier *tier = open_faulty(&kvstow__files);
  kvstow_loc erased = {0};
  for (uint64_t i = 0; i < RECORDS; i++) {
    record r = record_new(i, 15, PLANE);
    int code = append_all(tier, &r, 1);
    if (code == KVSTOW_ENOSPC && reclaim_oldest(tier, t)) code = append_all(tier, &r, 1);
    if (i == ERASED) erased = r.loc;
    record_free(&r);
    if (code) break;
    if (i % 4 == 3) {
      if (kvstow_tier_flush(tier) != 0) break;
      t->flushed = i + 1;
    }
    if (i == 20 || i == 50) { /* in place; then in a segment given up */
      t->erase_begun = true;
      if (kvstow_tier_erase(tier, &erased, 1) == 0) t->erase_done = true;
    }
  }
  kvstow_tier_close(tier);
}

/* In a new `place`, under a cache that forgets, until operation `stop`. The options are left for who opens it next. */
static told live_in(const char *place, uint64_t stop) {
  static const char *places[1];
  places[0] = place;
  options = options_for(places, 3);
  options.engine = KVSTOW_ENGINE_AUTO;
  faults.ops = 0;
  faults.stop_at = stop;
  cache_volatile = true;
  told t = {0};
  live_until_power_loss(&t);
  return t;
}

static void check_after_power_loss(const told *t, uint64_t stop) {
  faults.stop_at = UINT64_MAX;
  kvstow_tier *tier = open_faulty(&kvstow__files);
  seen *s = scan_all(tier);
  for (uint64_t i = 0; i < t->flushed; i++) {
    const kvstow_record *r = seen_find(s, i);
    if (i == ERASED && t->erase_begun) {
      if (r && t->erase_done) fail_msg("op %llu: erased, and back", (unsigned long long)stop);
      continue;
    }
    if (!r && i >= t->reclaimed)
      fail_msg("power loss at op %llu: record %llu of %llu flushed is gone",
               (unsigned long long)stop, (unsigned long long)i, (unsigned long long)t->flushed);
    if (r && read_planes(tier, i, r->loc, PLANE, 0, 15) != 0)
      fail_msg("power loss at op %llu: record %llu is broken", (unsigned long long)stop,
               (unsigned long long)i);
  }
  free(s);
  /* and it works on */
  record r = record_new(777, 15, PLANE);
  told ignored = *t;
  int code = append_all(tier, &r, 1);
  if (code == KVSTOW_ENOSPC && reclaim_oldest(tier, &ignored)) code = append_all(tier, &r, 1);
  assert_int_equal(code, 0);
  assert_int_equal(read_record(tier, &r), 0);
  record_free(&r);
  assert_int_equal(kvstow_tier_close(tier), 0);
}

static void power_loss_after_any_operation_keeps_the_promises(void **state) {
  (void)state;
  const char *given = getenv("KVSTOW_TEST_SEED");
  const uint64_t seed = given ? strtoull(given, NULL, 0) : 1;
  print_message("seed %llu (KVSTOW_TEST_SEED)\n", (unsigned long long)seed);
  uint64_t total = UINT64_MAX;
  for (uint64_t stop = 0; stop < total; stop++) {
    char *place = scratch_new();
    const told t = live_in(place, total == UINT64_MAX ? UINT64_MAX : stop);
    cache_volatile = false;
    cache_lose(place, seed * 100000 + stop);
    if (total == UINT64_MAX) {
      total = faults.ops;
      assert_int_equal(t.flushed, RECORDS / 4 * 4);
      assert_true(t.erase_done && t.reclaimed > ERASED);
      stop--;
    }
    check_after_power_loss(&t, stop);
    scratch_remove(place);
  }
  assert_true(total > 100);
}

/* ---- a kill, and then the power --------------------------------------------------------------- */

/* Of `place`: which of the records there are. */
static void look(bool there[RECORDS], kvstow_tier *tier) {
  seen *s = scan_all(tier);
  for (uint64_t i = 0; i < RECORDS; i++) there[i] = seen_find(s, i) != NULL;
  free(s);
}

/* The next process finds what the one that was killed has written, durable or not; a flush that it is told of and
 * a forget that finds nothing to do are to be relied on all the same. */
static void what_a_killed_process_left_outlives_the_power(void **state) {
  (void)state;
  uint64_t total = UINT64_MAX;
  for (uint64_t stop = 0; stop < total; stop++) {
    char *place = scratch_new();
    (void)live_in(place,
                  total == UINT64_MAX ? UINT64_MAX : stop); /* but it is a kill: nothing is lost */
    if (total == UINT64_MAX) {
      total = faults.ops;
      stop--;
    }
    bool found[RECORDS], left[RECORDS];
    faults.stop_at = UINT64_MAX;
    kvstow_tier *tier = open_faulty(&kvstow__files);
    look(found, tier);
    assert_int_equal(kvstow_tier_flush(tier), 0);
    assert_int_equal(kvstow_tier_erase(tier, NULL, 0), 0);
    faults.stop_at = 0;
    (void)kvstow_tier_close(tier);
    cache_volatile = false;
    cache_lose(place, LOSE_ALL);
    faults.stop_at = UINT64_MAX;
    tier = open_faulty(&kvstow__files);
    look(left, tier);
    for (uint64_t i = 0; i < RECORDS; i++)
      if (found[i] != left[i])
        fail_msg("killed at op %llu: record %llu was %s, and is %s", (unsigned long long)stop,
                 (unsigned long long)i, found[i] ? "found" : "gone", left[i] ? "back" : "lost");
    assert_int_equal(kvstow_tier_close(tier), 0);
    scratch_remove(place);
  }
  assert_true(total > 100);
}

/* What is done to files and names, a letter each. */
static char steps[64];
static atomic_uint steps_count;

static void step(char letter) {
  const unsigned at = atomic_fetch_add(&steps_count, 1);
  if (at < sizeof steps - 1) steps[at] = letter;
}

static int step_write(void *env, int fd, const void *from, size_t bytes, uint64_t offset) {
  step('w');
  return kvstow__files.write(env, fd, from, bytes, offset);
}

static int step_allocate(void *env, int fd, uint64_t bytes) {
  step('a');
  return kvstow__files.allocate(env, fd, bytes);
}

static int step_sync(void *env, int fd) {
  step('s');
  return kvstow__files.sync(env, fd);
}

static int step_rename(void *env, int fd, const char *from, const char *to) {
  step('r');
  return kvstow__files.rename(env, fd, from, to);
}

static int step_dir_sync(void *env, int fd) {
  step('d');
  return kvstow__files.dir_sync(env, fd);
}

/* docs/format.md: "What is written when". */
static void what_is_made_is_durable_before_it_is_named_or_used(void **state) {
  (void)state;
  kvstow__file_ops files = kvstow__files;
  files.write = step_write;
  files.allocate = step_allocate;
  files.sync = step_sync;
  files.rename = step_rename;
  files.dir_sync = step_dir_sync;
  options = options_for(dirs, 1);
  options.engine = KVSTOW_ENGINE_AUTO;
  memset(steps, 0, sizeof steps);
  steps_count = 0;
  kvstow_tier *tier = open_faulty(&files);
  record r = append_one(tier, 1, 3);
  assert_string_equal(steps,
                      "wwsrd" /* super */
                      "d"     /* names found at opening */
                      "asd" /* segment */);
  record_free(&r);
  assert_int_equal(kvstow_tier_close(tier), 0);
}

static bool names_durable, names_fail;
static atomic_bool made_too_early;

static int names_sync(void *env, int fd) {
  names_durable = !names_fail;
  return names_fail ? EIO : kvstow__files.dir_sync(env, fd);
}

static int names_open(void *env, int fd, const char *name, bool create, bool writable, bool direct,
                      int *file) {
  if (create && strncmp(name, "seg-", 4) == 0 && !names_durable)
    atomic_store(&made_too_early, true);
  return kvstow__files.open(env, fd, name, create, writable, direct, file);
}

/* A creation failed in its last step. The next process finds a super, whose name may be gone with the power; a
 * segment's must not be there without it. */
static void no_segment_is_made_before_the_super_is_durable(void **state) {
  (void)state;
  kvstow__file_ops files = kvstow__files;
  files.dir_sync = names_sync;
  files.open = names_open;
  const kvstow__io io = {
      .files = &files, .engines = {&TOLD}, .kinds = {KVSTOW_ENGINE_AUTO}, .buffered = true};
  the_device.carry_out = carry_out;
  kvstow_tier *tier = NULL;
  names_fail = true;
  assert_int_equal(kvstow__tier_open_with(&options, &io, &tier, NULL, 0), KVSTOW_EIO);
  names_fail = false;
  tier = open_faulty(&files);
  record r = append_one(tier, 1, 3);
  record_free(&r);
  assert_int_equal(kvstow_tier_close(tier), 0);
  assert_false(made_too_early);
}

/* ---- forbidden and scarce things ------------------------------------------------------------ */

/* Runs a check in a child process, which may break itself. */
static void in_child(int (*check)(void)) {
  if (UNDER_TSAN) {
    skip();
    return;
  }
  fflush(NULL);
  const pid_t child = fork();
  if (child == 0) _exit(check());
  int status;
  waitpid(child, &status, 0);
  if (!WIFEXITED(status)) fail_msg("the child died of signal %d", WTERMSIG(status));
  if (WEXITSTATUS(status) != 0) fail_msg("the child's check %d failed", WEXITSTATUS(status));
}

static int check_forbidden_io_uring(void) {
  if (forbid_io_uring() != 0) return 0; /* no seccomp here: nothing to check */
  kvstow_tier *tier;
  char why[KVSTOW_MESSAGE_BYTES];
  if (kvstow_tier_open(&options, &tier, why, sizeof why) != 0) return 1;
  kvstow_tier_stats s = stats_of(tier);
  if (strcmp(s.engine, "threads") != 0) return 2;
  if (!strstr(s.engine_reason, "forbidden")) return 3;
  record r = record_new(1, 3, PLANE);
  if (append_all(tier, &r, 1) != 0 || read_record(tier, &r) != 0) return 4;
  kvstow_tier_close(tier);
  options.engine = KVSTOW_ENGINE_URING;
  if (kvstow_tier_open(&options, &tier, why, sizeof why) != KVSTOW_EUNSUPPORTED) return 5;
  return strstr(why, "forbidden") ? 0 : 6;
}

static void forbidden_io_uring_falls_back_to_threads(void **state) {
  (void)state;
  in_child(check_forbidden_io_uring);
}

static kvstow_tier *inherited;

static int check_inherited(void) {
  alarm(20); /* threads are not inherited: nobody would end a wait */
  return kvstow_tier_close(inherited) == KVSTOW_ESTATE ? 0 : 1;
}

static void a_forked_child_does_not_close(void **state) {
  (void)state;
  assert_int_equal(kvstow_tier_open(&options, &inherited, NULL, 0), 0);
  record r = append_one(inherited, 1, 3);
  in_child(check_inherited);
  assert_int_equal(read_record(inherited, &r), 0);
  kvstow_tier *other;
  assert_int_equal(kvstow_tier_open(&options, &other, NULL, 0), KVSTOW_EBUSY); /* still owned */
  assert_int_equal(kvstow_tier_close(inherited), 0);
  record_free(&r);
}

static kvstow_engine limited_engine;

static int check_few_descriptors(void) {
  const struct rlimit few = {48, 48};
  setrlimit(RLIMIT_NOFILE, &few);
  options.budget_bytes = 64ull * (SEGMENT + 4096) + 65536;
  options.engine = limited_engine;
  kvstow_tier *tier;
  if (kvstow_tier_open(&options, &tier, NULL, 0) != 0) return 1;
  static kvstow_loc locs[60];
  for (uint64_t i = 0; i < 60; i++) {
    record r = record_new(i, 120, PLANE);
    if (append_all(tier, &r, 1) != 0) return 2;
    locs[i] = r.loc;
    record_free(&r);
  }
  if (locs[59].segment < 29) return 3;
  if (kvstow_tier_flush(tier) != 0) return 4;
  for (uint64_t i = 0; i < 60; i++)
    if (read_planes(tier, i, locs[i * 7 % 60].segment == 99 ? locs[0] : locs[i], PLANE, 7, 3) != 0)
      return 5;
  if (kvstow_tier_close(tier) != 0) return 6;
  if (kvstow_tier_open(&options, &tier, NULL, 0) != 0) return 7;
  if (stats_of(tier).recovered_records != 60) return 8;
  return kvstow_tier_close(tier) == 0 ? 0 : 9;
}

static void few_descriptors_are_enough(void **state) {
  (void)state;
  limited_engine = KVSTOW_ENGINE_AUTO;
  in_child(check_few_descriptors);
}

static void few_descriptors_are_enough_for_threads(void **state) {
  (void)state;
  limited_engine = KVSTOW_ENGINE_THREADS;
  in_child(check_few_descriptors);
}

/* The limit cuts a write short first, then refuses the rest with EFBIG and SIGXFSZ. */
static int check_file_size_limit(void) {
  options.engine = limited_engine;
  kvstow_tier *tier;
  if (kvstow_tier_open(&options, &tier, NULL, 0) != 0) return 1;
  record first = record_new(1, 15, PLANE);
  if (append_all(tier, &first, 1) != 0) return 2;
  const struct rlimit limit = {SEGMENT / 2 + 8192, SEGMENT / 2 + 8192};
  setrlimit(RLIMIT_FSIZE, &limit);
  record big = record_new(2, 200, PLANE);
  const int code = append_all(tier, &big, 1);
  if (code != KVSTOW_ENOSPC) return 3;
  if (read_record(tier, &first) != 0) return 4;
  record next = record_new(3, 15, PLANE);
  const int after = append_all(tier, &next, 1); /* into a file made ahead, or there is none */
  if (after != KVSTOW_ENOSPC && (after != 0 || read_record(tier, &next) != 0)) return 5;
  for (int i = 0; i < 2; i++) /* no further one can be made */
    if (append_all(tier, &big, 1) != KVSTOW_ENOSPC) return 6;
  kvstow_tier_close(tier);
  return 0;
}

static void a_file_size_limit_does_not_kill_the_host(void **state) {
  (void)state;
  limited_engine = KVSTOW_ENGINE_THREADS;
  in_child(check_file_size_limit);
  limited_engine = KVSTOW_ENGINE_AUTO;
  in_child(check_file_size_limit);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, fresh, remove_it)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(a_failed_write_costs_its_segment_only),
      TEST(what_the_device_did_and_did_not_is_counted),
      TEST(repeated_failures_take_the_tier_offline),
      TEST(a_failed_directory_costs_its_records_only),
      TEST(a_failed_sync_is_reported),
      TEST(what_was_being_written_when_a_sync_failed_is_kept),
      TEST(the_first_record_written_when_a_sync_failed_is_kept),
      TEST(what_was_written_behind_a_failed_write_failed_too),
      TEST(a_file_whose_sync_failed_stays_failed),
      TEST(a_file_whose_write_failed_stays_failed),
      TEST(a_bad_sector_costs_one_record_of_a_merged_read),
      TEST(an_erase_whose_barrier_failed_is_done_again),
      TEST(what_was_erased_in_the_table_alone_survives_no_other_erase),
      TEST(what_was_erased_survives_no_other_erase),
      TEST(a_segment_used_again_costs_its_first_append_no_barrier),
      TEST(a_segment_is_not_used_again_under_a_reader),
      TEST(a_segment_given_up_shows_nothing_before_it_is_used_again),
      TEST(a_life_that_could_not_be_ended_ahead_is_ended_when_needed),
      TEST(an_append_behind_an_end_that_fails_is_told),
      TEST(a_full_disk_means_fewer_segments),
      TEST(power_loss_after_any_operation_keeps_the_promises),
      TEST(what_a_killed_process_left_outlives_the_power),
      TEST(what_is_made_is_durable_before_it_is_named_or_used),
      TEST(no_segment_is_made_before_the_super_is_durable),
      TEST(forbidden_io_uring_falls_back_to_threads),
      TEST(a_forked_child_does_not_close),
      TEST(few_descriptors_are_enough),
      TEST(few_descriptors_are_enough_for_threads),
      TEST(a_file_size_limit_does_not_kill_the_host),
  };
  return cmocka_run_group_tests_name("faults", tests, NULL, NULL);
}
