/* filer.c - see world.h: a user of files outside the log, with a tier of its own and a directory that is
 * not the store's. What a file holds is a function of its number and the offset; what was flushed is
 * there in the next life.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/world.h"

enum { BATCH_MAX = 16, PIECE_MAX = 150000 };

typedef struct handle {
  kvstow_file *file;
  uint64_t known; /* leading bytes whose content is known */
  bool partly; /* opened while it was written: it may be cut to size behind the last whole page */
} handle;

static kvstow_tier *tier;
static handle writers[FILES_MAX], readers[FILES_MAX];

static const char *path_of(int f) {
  static char text[32];
  snprintf(text, sizeof text, "/sim/2/file%d", f);
  return text;
}

static uint8_t byte_of(int f, uint64_t offset) {
  return (uint8_t)(kv_hash2(the_seed * 31 + (uint64_t)f, offset / 8) >> (offset % 8 * 8));
}

static uint8_t *bytes_make(int f, uint64_t offset, size_t bytes) {
  uint8_t *memory = kv_pages(bytes);
  for (size_t i = 0; i < bytes; i++) memory[i] = byte_of(f, offset + i);
  return memory;
}

static void check_bytes(int f, uint64_t known, uint64_t offset, const uint8_t *bytes,
                        size_t count) {
  if (the_plan.lies) return; /* nothing to check them against, for the tier either */
  for (size_t i = 0; i < count && offset + i < known; i++)
    CHECK(bytes[i] == byte_of(f, offset + i), "WRONG BYTES: file %d at %" PRIu64 " of %" PRIu64, f,
          offset + i, known);
  m->bytes_compared += count;
}

static void check_code(const char *who, int f, int code) {
  if (code == 0) return;
  trace(FILER, "%s file %d: %s", who, f, kvstow_errname(code));
  CHECK(!healthy(), "%s of file %d on a healthy disk: %s", who, f, kvstow_errname(code));
  CHECK(
      code == KVSTOW_EIO || code == KVSTOW_ENOSPC || code == KVSTOW_EACCES || code == KVSTOW_ENOMEM,
      "%s of file %d: %s", who, f, kvstow_errname(code));
}

/* ---- writing -------------------------------------------------------------------------------- */

static void create(kv_rng *rng, int f) {
  file *a = &m->files[f];
  kvstow_file *out = NULL;
  const bool again = a->reserved > 0;
  if (!again) a->reserved = kv_between(rng, 1, FILE_RESERVE_MAX);
  const int code = kvstow_file_create(tier, path_of(f), a->reserved, &out);
  if (again) {
    CHECK(code != 0 || !a->made, "creating file %d, which is there, succeeds", f);
    if (code == 0) (void)kvstow_file_close(out);
    return;
  }
  check_code("creating", f, code);
  a->made = code == 0;
  if (code == 0) writers[f] = (handle){out, 0, false};
}

static void append(kv_rng *rng, int f) {
  file *a = &m->files[f];
  const size_t room = (size_t)(a->reserved - a->appended);
  size_t bytes = kv_between(rng, 1, kv_chance(rng, 50) ? 3000 : PIECE_MAX);
  const bool fits = bytes <= room;
  if (!fits && kv_chance(rng, 90)) bytes = room;
  uint8_t *memory = bytes_make(f, a->appended, bytes);
  const int code = kvstow_file_append(writers[f].file, memory, bytes);
  free(memory);
  if (bytes > room) {
    CHECK(code == KVSTOW_ENOSPC || (!healthy() && code != 0),
          "appending %zu bytes to file %d, which has room for %zu: %s", bytes, f, room,
          kvstow_errname(code));
    return;
  }
  check_code("appending", f, code);
  if (code == 0) a->appended += bytes;
}

static void flushed(int f, int code, const char *who) {
  file *a = &m->files[f];
  check_code(who, f, code);
  if (code == 0) a->flushed = writers[f].known = a->appended;
}

static void close_writer(int f) {
  flushed(f, kvstow_file_close(writers[f].file), "closing");
  writers[f].file = NULL;
}

/* ---- reading -------------------------------------------------------------------------------- */

static void open_reader(int f) {
  const uint64_t known = m->files[f].flushed;
  const int code = kvstow_file_open(tier, path_of(f), &readers[f].file);
  readers[f].known = known;
  readers[f].partly = writers[f].file != NULL;
  check_code("opening", f, code);
  CHECK(code != 0 || the_plan.lies || kvstow_file_bytes(readers[f].file) >= known,
        "file %d has %" PRIu64 " bytes, %" PRIu64 " were flushed", f,
        kvstow_file_bytes(readers[f].file), known);
}

static void read_one(kv_rng *rng, int f, const handle *h, uint64_t bytes) {
  const uint64_t offset = kv_below(rng, bytes);
  const uint64_t left = bytes - offset;
  const size_t count = kv_between(rng, 1, left < PIECE_MAX ? (size_t)left : PIECE_MAX);
  uint8_t *memory = kv_pages(count + 512);
  uint8_t *to = memory + (kv_chance(rng, 50) ? 0 : kv_below(rng, 512));
  const int code = kvstow_file_read_at(h->file, offset, to, count);
  check_code("reading", f, code);
  if (code == 0) check_bytes(f, h->known, offset, to, count);
  free(memory);
}

static unsigned unanswered;

static void read_done(kvstow_file_read *read) {
  CHECK(read->arg == NULL, "a read is answered twice");
  read->arg = read;
  if (--unanswered == 0) sim_wake(&unanswered, true);
}

/* In order, forwards or backwards, or in none. */
static uint64_t next_offset(kv_rng *rng, unsigned order, uint64_t at, size_t count,
                            uint64_t bytes) {
  if (order == 0 && at + 2 * count <= bytes) return at + count;
  if (order == 1 && at >= count) return at - count;
  return kv_below(rng, (size_t)(bytes - count) + 1);
}

static void read_batch(kv_rng *rng, int f, const handle *h, uint64_t bytes) {
  kvstow_file_read reads[BATCH_MAX], *list[BATCH_MAX];
  const unsigned count = (unsigned)kv_between(rng, 1, BATCH_MAX),
                 order = (unsigned)kv_below(rng, 3);
  size_t each = kv_chance(rng, 50) ? kv_between(rng, 1, 9000) : 4096u * kv_between(rng, 1, 16);
  if (each > bytes) each = (size_t)bytes;
  uint8_t *memory = kv_pages(each * count);
  uint64_t at = kv_below(rng, (size_t)(bytes - each) + 1);
  const bool urgent = kv_chance(rng, 20);
  for (unsigned i = 0; i < count; i++, at = next_offset(rng, order, at, each, bytes)) {
    reads[i] = (kvstow_file_read){.file = h->file,
                                  .offset = at,
                                  .bytes = each,
                                  .to = memory + i * each,
                                  .priority = kv_chance(rng, 30) ? KVSTOW_PREFETCH : KVSTOW_DEMAND,
                                  .deadline_us = urgent ? sim_now_ns() / 1000 + 3000 : 0,
                                  .done = read_done};
    list[i] = &reads[i];
  }
  unanswered = count;
  const int code = kvstow_file_read_batch(tier, list, count);
  CHECK(code == 0, "file_read_batch: %s", kvstow_errname(code));
  const bool cancels = kv_chance(rng, 20);
  if (cancels) kvstow_file_cancel(tier, &reads[kv_below(rng, count)]);
  while (unanswered > 0) sim_block(&unanswered, SIM_FOREVER, "waits for reads of a file");
  for (unsigned i = 0; i < count; i++) {
    const int result = reads[i].result;
    if (result == 0) check_bytes(f, h->known, reads[i].offset, reads[i].to, each);
    if ((result == KVSTOW_ECANCELED && cancels) || (result == KVSTOW_ETIMEDOUT && urgent)) continue;
    check_code("reading", f, result);
  }
  free(memory);
}

static void read_some(kv_rng *rng, int f) {
  const handle *h = readers[f].file ? &readers[f] : &writers[f];
  uint64_t bytes = h == &writers[f] ? h->known : kvstow_file_bytes(h->file);
  if (h->partly) bytes = h->known / 4096 * 4096;
  if (bytes == 0) return;
  const uint64_t began = sim_now_ns();
  if (kv_chance(rng, 50))
    read_one(rng, f, h, bytes);
  else
    read_batch(rng, f, h, bytes);
  call_ended(CALL_FILE, began, 0, true);
}

static void close_reader(int f) {
  check_code("closing", f, kvstow_file_close(readers[f].file));
  readers[f].file = NULL;
}

/* ---- a user of files ------------------------------------------------------------------------ */

void filer_do(kv_rng *rng) {
  const int f = (int)kv_below(rng, FILES_MAX);
  const file *a = &m->files[f];
  const size_t what = kv_below(rng, 100);
  const uint64_t began = sim_now_ns();
  const char *did = "read";
  if (!a->made || what < 2)
    create(rng, f), did = "create";
  else if (writers[f].file && what < 30)
    append(rng, f), did = "append";
  else if (writers[f].file && what < 40)
    flushed(f, kvstow_file_flush(writers[f].file), "flushing"), did = "flush";
  else if (writers[f].file && what < 43)
    close_writer(f), did = "close after writing";
  else if (!readers[f].file && what < 60)
    open_reader(f), did = "open";
  else if (readers[f].file && what < 48)
    close_reader(f), did = "close";
  else if (readers[f].file || writers[f].file)
    read_some(rng, f);
  call_ended(CALL_FILE, began, 0, true);
  trace(FILER, "%s file %d, %" PRIu64 " bytes of %" PRIu64 ", %" PRIu64 " flushed", did, f,
        a->appended, a->reserved, a->flushed);
}

/* What earlier lives flushed is there. */
static void check_kept(void) {
  for (int f = 0; f < FILES_MAX; f++) {
    if (!m->files[f].made) continue;
    open_reader(f);
    if (!readers[f].file) continue;
    kv_rng rng = {the_seed + (uint64_t)f};
    const uint64_t bytes = kvstow_file_bytes(readers[f].file);
    for (int i = 0; i < 3 && bytes > 0; i++) read_batch(&rng, f, &readers[f], bytes);
  }
}

void filer_begin(void) {
  kvstow_tier_options options;
  kvstow_tier_options_init(&options);
  options.readahead_bytes = 4 << 20;
  const int code =
      kvstow__tier_open_with(&options, sim_disk_io(the_plan.life[the_life].engine), &tier, NULL, 0);
  CHECK(code == 0, "a tier for files: %s", kvstow_errname(code));
  check_kept();
}

void filer_end(void) {
  for (int f = 0; f < FILES_MAX; f++) {
    if (readers[f].file) close_reader(f);
    if (writers[f].file) close_writer(f);
  }
  const int code = kvstow_tier_close(tier);
  CHECK(code == 0, "closing the tier of files: %s", kvstow_errname(code));
}
