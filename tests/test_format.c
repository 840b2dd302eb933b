/* tests/test_format.c - docs/format.md is enough: tests/format/read_store.py, written from it alone, reads
 * what the library wrote, record for record, and finds bad what the library finds bad.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <jansson.h>

#include "support/kv.h"

#define READER KVSTOW_SOURCE_DIR "/tests/format/read_store.py"

static const kv_shape rows = {3, 96, 32, 16, 0};
static const kv_shape keys_only = {2, 320, 0, 16, 0};
static const kv_shape blobs = {0, 0, 0, 16, 20000};

/* ---- two readers ---------------------------------------------------------------------------- */

/* What a command that ended with 0 or 1 printed as JSON. */
static json_t *run(const char *line) {
  FILE *pipe = popen(line, "re");
  KV_CHECK(pipe != NULL, "%s: %s", line, strerror(errno));
  json_error_t error;
  json_t *json = json_loadf(pipe, 0, &error);
  const int status = pclose(pipe);
  KV_CHECK(json != NULL, "%s: %s", line, error.text);
  KV_CHECK(WIFEXITED(status) && WEXITSTATUS(status) <= 1, "%s: status %#x", line, (unsigned)status);
  return json;
}

static json_int_t number(const json_t *object, const char *name) {
  const json_t *value = json_object_get(object, name);
  KV_CHECK(json_is_integer(value), "no number '%s'", name);
  return json_integer_value(value);
}

struct all {
  const json_t *list;
  size_t count;
};

/* Is this record, as the library tells of it, in the reader's list? Both go by segment and page. */
static bool is_listed(void *arg, const kvstow_record *record) {
  struct all *all = arg;
  const json_t *other = json_array_get(all->list, all->count++);
  KV_CHECK(other != NULL, "the reader lists %zu records only", all->count - 1);
  char key[33];
  snprintf(key, sizeof key, "%016" PRIx64 "%016" PRIx64, record->key.hi, record->key.lo);
  KV_CHECK(number(other, "segment") == record->loc.segment &&
               number(other, "offset") == (json_int_t)record->loc.page * KVSTOW_PAGE_BYTES &&
               strcmp(json_string_value(json_object_get(other, "key")), key) == 0 &&
               number(other, "planes") == record->planes &&
               number(other, "plane_bytes") == record->plane_bytes,
           "record %zu differs: segment %u, page %u", all->count - 1, record->loc.segment,
           record->loc.page);
  kvstow_block_info info;
  if (kvstow_tag_describe(record->tag, &info) == 0)
    KV_CHECK(number(other, "tokens") == info.tokens_count && number(other, "depth") == info.depth &&
                 number(other, "layers") == info.layers &&
                 number(other, "payload_bytes") == info.payload_bytes,
             "record %zu is described otherwise", all->count - 1);
  return true;
}

static void lists_are_equal(const char *const *dirs, uint32_t dirs_count, const json_t *list) {
  kvstow_tier_options options;
  kvstow_tier_options_init(&options);
  options.dirs = dirs;
  options.dirs_count = dirs_count;
  options.read_only = true;
  options.budget_bytes = KV_MIB;
  char why[KVSTOW_MESSAGE_BYTES] = "";
  kvstow_tier *tier;
  KV_CHECK(kvstow_tier_open(&options, &tier, why, sizeof why) == 0, "%s", why);
  struct all all = {list, 0};
  for (uint32_t id = 0; id < kvstow_tier_segment_count(tier); id++)
    KV_OK(kvstow_tier_scan(tier, id, is_listed, &all));
  KV_CHECK(all.count == json_array_size(list), "the reader lists %zu records, the library %zu",
           json_array_size(list), all.count);
  KV_OK(kvstow_tier_close(tier));
}

/* Both readers agree on a store, and on what is bad of it. `slow`: without libxxhash. */
struct verdict {
  size_t good, bad;
};
static struct verdict readers_agree(const char *const *dirs, uint32_t dirs_count, bool slow) {
  char words[2048] = "", line[4096];
  for (uint32_t i = 0; i < dirs_count; i++)
    snprintf(words + strlen(words), sizeof words - strlen(words), " %s", dirs[i]);
  snprintf(line, sizeof line, "python3 -B " READER " --list%s%s", slow ? " --slow" : "", words);
  json_t *theirs = run(line);
  snprintf(line, sizeof line, KVSTOW_COMMAND " verify --json%s", words);
  json_t *ours = run(line);
  static const char *const counts[] = {"records", "bad", "bytes"};
  for (size_t i = 0; i < 3; i++)
    KV_CHECK(number(ours, counts[i]) == number(theirs, counts[i]), "%s: ours %lld, theirs %lld",
             counts[i], (long long)number(ours, counts[i]), (long long)number(theirs, counts[i]));
  const size_t bad = (size_t)number(ours, "bad");
  for (size_t i = 0; i < bad; i++) {
    const json_t *a = json_array_get(json_object_get(ours, "bad_records"), i);
    const json_t *b = json_array_get(json_object_get(theirs, "bad_records"), i);
    KV_CHECK(
        number(a, "segment") == number(b, "segment") && number(a, "offset") == number(b, "offset"),
        "they differ on what is bad");
  }
  if (bad == 0) lists_are_equal(dirs, dirs_count, json_object_get(theirs, "list"));
  const struct verdict verdict = {(size_t)number(ours, "records") - bad, bad};
  json_decref(ours);
  json_decref(theirs);
  return verdict;
}

/* ---- stores --------------------------------------------------------------------------------- */

enum { DOCS = 9, BLOCKS = 10 };

static kv_doc doc_of(kvstow *store, int number) {
  static const kv_shape *const shapes[] = {&rows, &keys_only, &blobs};
  static const char *const names[] = {"rows", "keys only", "blobs"};
  const int kind = number % 3;
  kv_doc d;
  kv_doc_init(&d, kv_space(store, names[kind], shapes[kind]), shapes[kind], (uint64_t)kind,
              (uint64_t)number, BLOCKS, number % 2 ? "salt" : NULL, number % 2 ? 4 : 0);
  return d;
}

static void store_docs(kvstow *store, int first, int count) {
  for (int i = first; i < first + count; i++) {
    kv_doc d = doc_of(store, i);
    KV_OK(kv_doc_store(&d, 0, BLOCKS, 0));
    kv_doc_finish(&d);
  }
}

static void forget_half(kvstow *store, int number) {
  kv_doc d = doc_of(store, number);
  KV_OK(kvstow_forget(&d.prefix, BLOCKS / 2, NULL));
  kv_doc_finish(&d);
}

static kvstow *open_at(const char *const *dirs, uint32_t dirs_count) {
  kvstow_options options;
  kv_options(&options, dirs, 8 * KV_MIB, 24 * KV_MIB, KV_MIB);
  options.dirs_count = dirs_count;
  return kv_open(&options);
}

static void a_closed_store_is_read(void **state) {
  (void)state;
  const char *dir = kv_dir("format");
  kvstow *store = open_at(&dir, 1);
  store_docs(store, 0, DOCS);
  KV_OK(kvstow_close(store));
  const struct verdict v = readers_agree(&dir, 1, false);
  assert_int_equal(v.good, DOCS * BLOCKS);
  assert_int_equal(v.bad, 0);
  store = open_at(&dir, 1); /* and one that was gone on with */
  store_docs(store, DOCS, DOCS);
  KV_OK(kvstow_close(store));
  assert_int_equal(readers_agree(&dir, 1, true).good, 2 * DOCS * BLOCKS);
}

static void erased_records_are_stepped_over(void **state) {
  (void)state;
  const char *dir = kv_dir("format");
  kvstow *store = open_at(&dir, 1);
  store_docs(store, 0, DOCS);
  KV_OK(kvstow_flush(store));
  for (int i = 0; i < DOCS; i += 2) forget_half(store, i);
  store_docs(store, DOCS, 1);
  KV_OK(kvstow_close(store));
  assert_int_equal(readers_agree(&dir, 1, false).good,
                   DOCS * BLOCKS - (DOCS + 1) / 2 * (BLOCKS / 2) + BLOCKS);
}

static void several_directories_are_one_store(void **state) {
  (void)state;
  const char *dirs[] = {kv_dir("format"), kv_dir("format"), kv_dir("format")};
  kvstow *store = open_at(dirs, 3);
  for (int i = 0; i < DOCS; i++) {
    store_docs(store, i, 1);
    KV_OK(kvstow_flush(store));
  }
  KV_OK(kvstow_close(store));
  assert_int_equal(readers_agree(dirs, 3, false).good, DOCS * BLOCKS);
}

/* The process ends without closing: open footers, and records behind them. */
static void leave_without_closing(const char *dir, int first, int flushed, int more) {
  const pid_t pid = kv_fork();
  if (pid == 0) {
    kvstow *store = open_at(&dir, 1);
    store_docs(store, first, flushed);
    KV_OK(kvstow_flush(store));
    if (flushed > 1) forget_half(store, first);
    store_docs(store, first + flushed, more);
    KV_OK(kvstow_flush(store));
    raise(SIGKILL);
  }
  kv_wait_killed(pid);
}

static void a_killed_store_is_walked(void **state) {
  (void)state;
  const char *dir = kv_dir("format");
  leave_without_closing(dir, 0, 1, 0);
  assert_int_equal(readers_agree(&dir, 1, false).good, BLOCKS);
  leave_without_closing(dir, 1, DOCS, 2);
  const struct verdict v = readers_agree(&dir, 1, false);
  assert_int_equal(v.good, (DOCS + 3) * BLOCKS - BLOCKS / 2);
  assert_int_equal(v.bad, 0);
}

/* ---- damage --------------------------------------------------------------------------------- */

static void flip(const char *file, off_t offset) {
  const int fd = open(file, O_RDWR);
  unsigned char byte;
  KV_CHECK(fd >= 0 && pread(fd, &byte, 1, offset) == 1, "%s: %s", file, strerror(errno));
  byte ^= 0x20;
  KV_CHECK(pwrite(fd, &byte, 1, offset) == 1, "%s: %s", file, strerror(errno));
  close(fd);
}

/* Bytes flipped in the fronts of files, where records are, and in their footers. */
static struct verdict flip_bytes(const char *dir, kv_rng *rng, int rounds) {
  const size_t whole = readers_agree(&dir, 1, false).good;
  struct verdict v = {0};
  for (int round = 0; round < rounds; round++) {
    char file[4200];
    snprintf(file, sizeof file, "%s/seg-%06d.kvs", dir, (int)kv_below(rng, 2));
    const size_t page = kv_chance(rng, 20) ? 254 + kv_below(rng, 2) : kv_below(rng, 60);
    const size_t at = kv_below(rng, kv_chance(rng, 50) ? 300 : KVSTOW_PAGE_BYTES);
    flip(file, (off_t)(page * KVSTOW_PAGE_BYTES + at));
    v = readers_agree(&dir, 1, false);
  }
  printf("  of %zu records %zu are bad, %zu gone\n", whole, v.bad, whole - v.good - v.bad);
  return v;
}

static void damage_is_judged_alike(void **state) {
  (void)state;
  kv_rng rng = kv_seed("damage_is_judged_alike", 6);
  const int rounds = (int)kv_env("KVSTOW_ROUNDS", KV_ASAN || KV_TSAN ? 4 : 10);
  const char *walked = kv_dir("format"), *closed = kv_dir("format");
  leave_without_closing(walked, 0, DOCS, 2);
  flip_bytes(walked, &rng, rounds);
  kvstow *store = open_at(&closed, 1);
  store_docs(store, 0, DOCS);
  KV_OK(kvstow_close(store));
  KV_CHECK(flip_bytes(closed, &rng, rounds).bad > 0, "no damage was done");
}

static void truncation_is_judged_alike(void **state) {
  (void)state;
  const char *dir = kv_dir("format");
  kvstow *store = open_at(&dir, 1);
  store_docs(store, 0, DOCS);
  KV_OK(kvstow_close(store));
  char file[4200];
  snprintf(file, sizeof file, "%s/seg-000000.kvs", dir);
  size_t before = DOCS * BLOCKS;
  for (off_t bytes = KV_MIB - 4096; bytes >= 0; bytes -= 65536 + 4096) {
    KV_CHECK(truncate(file, bytes) == 0, "truncate: %s", strerror(errno));
    const size_t good = readers_agree(&dir, 1, false).good;
    KV_CHECK(good <= before, "a shorter file holds more");
    before = good;
  }
  KV_CHECK(before < DOCS * BLOCKS, "nothing was lost");
}

static void other_formats_are_refused(void **state) {
  (void)state;
  const char *dir = kv_dir("format");
  KV_OK(kvstow_close(open_at(&dir, 1)));
  char super[4200], line[9000];
  snprintf(super, sizeof super, "%s/super", dir);
  snprintf(line, sizeof line, "python3 -B " READER " %s 2>&1 | grep -q 'offset 12: version 33'",
           dir);
  flip(super, 12);
  flip(super, 4096 + 12);
  assert_int_equal(system(line), 0);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_closed_store_is_read),
    cmocka_unit_test(erased_records_are_stepped_over),
    cmocka_unit_test(several_directories_are_one_store),
    cmocka_unit_test(a_killed_store_is_walked),
    cmocka_unit_test(damage_is_judged_alike),
    cmocka_unit_test(truncation_is_judged_alike),
    cmocka_unit_test(other_formats_are_refused),
};

int main(int argc, char **argv) {
  if (system("python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))'") != 0) {
    puts("SKIPPED: no python3 here, the independent reader can't run");
    return 77;
  }
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests_name("format", tests, NULL, NULL);
}
