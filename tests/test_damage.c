/* tests/test_damage.c - files that were changed, cut, lost or swapped behind the store's back: misses, never
 * answers.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/fixture.h"

static const kv_shape shape = {4, 128, 128, 64, 0}; /* 64 KiB a block */

enum { SEGMENT = 4 * 1024 * 1024 };

#define RAM (8 * KV_MIB)
#define AMPLE (256 * KV_MIB)

typedef struct damage {
  kv_rng *rng;
  int flips; /* a file */
  bool truncate;
  size_t files;
} damage;

static void damage_one(void *arg, const char *file) {
  damage *how = arg;
  struct stat status;
  if (stat(file, &status) != 0) KV_FAIL("stat %s", file);
  how->files++;
  if (how->truncate) {
    KV_CHECK(truncate(file, status.st_size / 2 + 1000) == 0, "truncate %s", file);
    return;
  }
  int fd = open(file, O_RDWR);
  KV_CHECK(fd >= 0, "open %s", file);
  for (int i = 0; i < how->flips; i++) {
    unsigned char byte;
    const off_t at = (off_t)kv_below(how->rng, (size_t)status.st_size);
    KV_CHECK(pread(fd, &byte, 1, at) == 1, "read %s", file);
    byte ^= (unsigned char)(1u << kv_below(how->rng, 8));
    KV_CHECK(pwrite(fd, &byte, 1, at) == 1, "write %s", file);
  }
  close(fd);
}

/* Stores a damaged document again. A block behind a bad one may be bad too, and is only noticed once the
 * chain leads to it again: so at most as often as it has blocks. */
static void repair(const fixture *f, uint64_t doc, size_t blocks) {
  size_t restored = 0;
  for (size_t attempt = 0; attempt <= blocks && restored < blocks; attempt++) {
    KV_OK(put(f, doc, blocks));
    restored = get(f, doc, blocks, 0);
  }
  KV_CHECK(restored == blocks, "document %" PRIu64 ": stored again and again, %zu of %zu restored",
           doc, restored, blocks);
}

static void flipped_bits_are_misses_not_answers(void **state) {
  (void)state;
  kv_rng rng = kv_seed("flipped_bits_are_misses_not_answers", 1);
  size_t whole = 0, restored = 0, corrupt = 0;
  for (int turn = 0; turn < (KV_TSAN ? 2 : 5); turn++) {
    fixture f;
    fixture_init(&f, "damage", &shape, RAM, 64 * KV_MIB, 1024 * 1024);
    open_store(&f);
    for (uint64_t doc = 0; doc < 32; doc++) KV_OK(put(&f, doc, 12));
    KV_OK(kvstow_close(f.store));
    damage how = {.rng = &rng, .flips = turn < 4 ? 1 << 2 * turn : 1};
    kv_each_segment(f.dir, damage_one, &how);
    KV_CHECK(how.files > 0, "no segment files");
    open_store(&f);
    for (uint64_t doc = 0; doc < 32; doc++) {
      const uint32_t flags = doc % 3 == 1   ? KVSTOW_BYPASS_RAM
                             : doc % 3 == 2 ? KVSTOW_NO_PROMOTE
                                            : 0;
      restored += get(&f, doc, 12, flags); /* compares every byte that comes */
      whole += 12;
    }
    const kvstow_stats s = kv_stats(f.store);
    corrupt += s.corrupt_blocks + s.tier.corrupt_headers + s.tier.corrupt_planes;
    /* a damaged block is dropped: what is missing can be stored again, and is found */
    for (uint64_t doc = 0; doc < 32; doc++) repair(&f, doc, 12);
    KV_CHECK(kv_stats(f.store).leases == 0, "leases left");
    restart(&f);
    for (uint64_t doc = 0; doc < 32; doc++)
      KV_CHECK(get(&f, doc, 12, 0) == 12, "document %" PRIu64 " not restored", doc);
    tear_down(&f);
  }
  printf("  %zu of %zu blocks restored, %zu failures counted\n", restored, whole, corrupt);
  KV_CHECK(corrupt > 0 && restored < whole, "no flip was noticed");
  KV_CHECK(restored > whole / 10, "flips cost more than what they hit");
}

static void count_corrupt(void *arg, const kvstow_event *event) {
  _Atomic uint64_t *count = arg;
  if (event->kind == KVSTOW_EVENT_CORRUPT) atomic_fetch_add(count, 1);
}

static void corruption_is_an_event(void **state) {
  (void)state;
  kv_rng rng = kv_seed("corruption_is_an_event", 1);
  _Atomic uint64_t count = 0;
  fixture f;
  fixture_init(&f, "damage", &shape, RAM, 64 * KV_MIB, 1024 * 1024);
  f.options.on_event = count_corrupt;
  f.options.event_arg = &count;
  open_store(&f);
  for (uint64_t doc = 0; doc < 8; doc++) KV_OK(put(&f, doc, 16));
  KV_OK(kvstow_close(f.store));
  damage how = {.rng = &rng, .flips = 24};
  kv_each_segment(f.dir, damage_one, &how);
  count = 0;
  open_store(&f);
  for (uint64_t doc = 0; doc < 8; doc++) get(&f, doc, 16, 0);
  KV_CHECK(kv_stats(f.store).corrupt_blocks > 0, "nothing noticed");
  const double end = kv_now_s() + 20;
  while (count == 0) {
    KV_CHECK(kv_now_s() < end, "no event tells of corruption");
    kv_sleep_ms(2);
  }
  const uint64_t events = count; /* first: loads may still fail */
  KV_CHECK(events <= kv_stats(f.store).corrupt_blocks, "more events than blocks");
  tear_down(&f);
}

static void truncated_segments_are_misses_not_answers(void **state) {
  (void)state;
  kv_rng rng = kv_seed("truncated_segments_are_misses_not_answers", 1);
  fixture f;
  fixture_init(&f, "damage", &shape, RAM, 64 * KV_MIB, 4 * 1024 * 1024);
  open_store(&f);
  for (uint64_t doc = 0; doc < 24; doc++) KV_OK(put(&f, doc, 16));
  KV_OK(kvstow_close(f.store));
  damage how = {.rng = &rng, .truncate = true};
  kv_each_segment(f.dir, damage_one, &how);
  open_store(&f);
  size_t restored = 0;
  for (uint64_t doc = 0; doc < 24; doc++) restored += get(&f, doc, 16, 0);
  printf("  %zu of %d blocks restored\n", restored, 24 * 16);
  for (uint64_t doc = 0; doc < 24; doc++) repair(&f, doc, 16);
  KV_CHECK(kv_dir_bytes(f.dir) <= f.options.ssd_bytes, "the directory outgrew its budget");
  restart(&f);
  for (uint64_t doc = 0; doc < 24; doc++) KV_CHECK(get(&f, doc, 16, 0) == 16, "not restored");
  tear_down(&f);
}

static void remove_one(void *arg, const char *file) {
  size_t *count = arg;
  if ((*count)++ % 2 == 0) KV_CHECK(unlink(file) == 0, "unlink %s", file);
}

static void lost_segments_are_misses_not_answers(void **state) {
  (void)state;
  fixture f;
  fixture_init(&f, "damage", &shape, RAM, 64 * KV_MIB, 1024 * 1024);
  open_store(&f);
  for (uint64_t doc = 0; doc < 16; doc++) KV_OK(put(&f, doc, 16));
  KV_OK(kvstow_close(f.store));
  size_t count = 0, restored = 0;
  kv_each_segment(f.dir, remove_one, &count);
  KV_CHECK(count > 4, "only %zu segments", count);
  open_store(&f);
  for (uint64_t doc = 0; doc < 16; doc++) restored += get(&f, doc, 16, 0);
  KV_CHECK(restored < 256, "restored from nothing");
  for (uint64_t doc = 0; doc < 16; doc++) repair(&f, doc, 16);
  tear_down(&f);
}

/* Two files change places: whole, well-formed, and wrong. */
static void collect_one(void *arg, const char *file) {
  char(*files)[4608] = arg;
  for (int i = 0; i < 2; i++)
    if (files[i][0] == 0) {
      snprintf(files[i], sizeof files[i], "%s", file);
      return;
    }
}

static void swapped_segments_are_misses_or_right(void **state) {
  (void)state;
  fixture f;
  fixture_init(&f, "damage", &shape, RAM, 64 * KV_MIB, 1024 * 1024);
  open_store(&f);
  for (uint64_t doc = 0; doc < 8; doc++) KV_OK(put(&f, doc, 16));
  KV_OK(kvstow_close(f.store));
  static char files[2][4608], between[4700];
  memset(files, 0, sizeof files);
  kv_each_segment(f.dir, collect_one, files);
  KV_CHECK(files[1][0] != 0, "fewer than two segments");
  snprintf(between, sizeof between, "%s/between", f.dir);
  KV_CHECK(rename(files[0], between) == 0 && rename(files[1], files[0]) == 0 &&
               rename(between, files[1]) == 0,
           "rename");
  open_store(&f);
  for (uint64_t doc = 0; doc < 8; doc++) get(&f, doc, 16, 0); /* compares every byte that comes */
  tear_down(&f);
}

/* A segment of another store in the place of ours: an older life of the same name. */
static void segments_of_another_store_are_ignored(void **state) {
  (void)state;
  fixture mine, theirs;
  fixture_init(&mine, "damage", &shape, RAM, 64 * KV_MIB, 1024 * 1024);
  fixture_init(&theirs, "damage", &shape, RAM, 64 * KV_MIB, 1024 * 1024);
  open_store(&mine);
  open_store(&theirs);
  for (uint64_t doc = 0; doc < 8; doc++) {
    KV_OK(put(&mine, doc, 16));
    kv_doc d; /* the same tokens, other bytes */
    kv_doc_init(&d, theirs.space, &shape, 2, doc, 16, NULL, 0);
    KV_OK(kv_doc_store(&d, 0, 16, 0));
    kv_doc_finish(&d);
  }
  KV_OK(kvstow_close(mine.store));
  KV_OK(kvstow_close(theirs.store));
  DIR *dir = opendir(theirs.dir);
  int moved = 0;
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
    if (strncmp(entry->d_name, "seg", 3) == 0 && moved < 3) {
      char from[4608], to[4608];
      snprintf(from, sizeof from, "%s/%s", theirs.dir, entry->d_name);
      snprintf(to, sizeof to, "%s/%s", mine.dir, entry->d_name);
      KV_CHECK(rename(from, to) == 0, "rename");
      moved++;
    }
  closedir(dir);
  KV_CHECK(moved > 0, "no segments");
  open_store(&mine);
  for (uint64_t doc = 0; doc < 8; doc++) {
    get(&mine, doc, 16, 0); /* never their bytes */
    repair(&mine, doc, 16);
  }
  tear_down(&mine);
  kv_dir_drop(theirs.dir);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(flipped_bits_are_misses_not_answers),
    cmocka_unit_test(corruption_is_an_event),
    cmocka_unit_test(truncated_segments_are_misses_not_answers),
    cmocka_unit_test(lost_segments_are_misses_not_answers),
    cmocka_unit_test(swapped_segments_are_misses_or_right),
    cmocka_unit_test(segments_of_another_store_are_ignored),
};

KV_MAIN("damage")
