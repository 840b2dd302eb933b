/* tests/test_encryption.c - a store encrypted at rest.
 *
 * The oracle for the format is a second implementation, written from docs/format.md on OpenSSL's primitives:
 * it decrypts what the tier wrote. The rest plays the thief, who looks for what he knows, and the
 * forger, who repairs checksums but has no key.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "tests/test_tier_fixture.h"

enum { PLANES = 3, PLANE_BYTES = 8192, RECORD_BYTES = 4096 + PLANES * PLANE_BYTES, RECORDS = 10 };
enum { CHECKSUM_AT = 88, SALT_AT = 4064, TAG_AT = 4080, PLANE_TAG_BYTES = 12 };

static const uint8_t OTHER_KEY[KVSTOW_KEY_BYTES] = "another key, and as long as that";

typedef struct bed {
  char *dir;
  const char *dirs[1];
  kvstow_tier_options options;
  record records[RECORDS];
} bed;

static int set_up(void **state) {
  bed *b = calloc(1, sizeof *b);
  b->dir = scratch_new();
  b->dirs[0] = b->dir;
  b->options = options_for(b->dirs, 4);
  b->options.encryption_key = TEST_KEY;
  kvstow_tier *tier = tier_open(&b->options);
  for (uint32_t i = 0; i < RECORDS; i++) b->records[i] = record_new(i, PLANES, PLANE_BYTES);
  append_all(tier, b->records, RECORDS);
  assert_true(stats_of(tier).encrypted);
  assert_int_equal(kvstow_tier_close(tier), 0);
  *state = b;
  return 0;
}

static int tear_down(void **state) {
  bed *b = *state;
  for (uint32_t i = 0; i < RECORDS; i++) record_free(&b->records[i]);
  scratch_remove(b->dir);
  free(b);
  return 0;
}

static int open_with(const bed *b, const uint8_t *key, char *why) {
  kvstow_tier_options options = b->options;
  options.encryption_key = key;
  kvstow_tier *tier = NULL;
  const int code = kvstow_tier_open(&options, &tier, why, KVSTOW_MESSAGE_BYTES);
  kvstow_tier_close(tier);
  return code;
}

/* ---- the file -------------------------------------------------------------------------------- */

static void file_at(const bed *b, const char *name, void *bytes, size_t count, off_t at,
                    bool write) {
  char *path = join(b->dir, name);
  const int fd = open(path, O_RDWR);
  assert_true(fd >= 0);
  const ssize_t done = write ? pwrite(fd, bytes, count, at) : pread(fd, bytes, count, at);
  assert_int_equal(done, count);
  close(fd);
  free(path);
}

static void load(const bed *b, void *bytes, size_t count, off_t at) {
  file_at(b, "seg-000000.kvs", bytes, count, at, false);
}

static void put(const bed *b, void *bytes, size_t count, off_t at) {
  file_at(b, "seg-000000.kvs", bytes, count, at, true);
}

static off_t place(const record *r) {
  return (off_t)r->loc.page * 4096;
}

static void repair(uint8_t *page, size_t at) {
  memset(page + at, 0, 8);
  const uint64_t sum = kvstow_checksum(page, 4096);
  memcpy(page + at, &sum, 8);
}

/* ---- a second implementation ----------------------------------------------------------------- */

static void derive(const uint8_t *key, const char *label, const void *text, size_t bytes,
                   uint8_t out[32]) {
  uint8_t whole[256];
  const size_t n = (size_t)snprintf((char *)whole, sizeof whole, "%s", label);
  memcpy(whole + n, text, bytes);
  assert_non_null(HMAC(EVP_sha256(), key, 32, whole, n + bytes, out, NULL));
}

typedef struct message {
  uint8_t key[32];
  uint32_t number;
  const uint8_t *open[2];
  int open_bytes[2];
  uint8_t *secret[2];
  int secret_bytes[2];
  uint8_t *tag;
  int tag_bytes;
} message;

static bool decrypt(message *m) {
  uint8_t nonce[12] = {0}, rest[16];
  int n;
  memcpy(nonce, &m->number, 4);
  EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
  assert_int_equal(EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, m->key, nonce), 1);
  for (int i = 0; i < 2; i++)
    if (m->open[i])
      assert_int_equal(EVP_DecryptUpdate(ctx, NULL, &n, m->open[i], m->open_bytes[i]), 1);
  for (int i = 0; i < 2; i++)
    if (m->secret[i])
      assert_int_equal(EVP_DecryptUpdate(ctx, m->secret[i], &n, m->secret[i], m->secret_bytes[i]),
                       1);
  assert_int_equal(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, m->tag_bytes, m->tag), 1);
  const bool good = EVP_DecryptFinal_ex(ctx, rest, &n) == 1;
  EVP_CIPHER_CTX_free(ctx);
  return good;
}

static void a_second_implementation_reads_it(void **state) {
  const bed *b = *state;
  uint8_t super[4096], store_key[32];
  file_at(b, "super", super, sizeof super, 0, false);
  assert_int_equal(super[64], 1);
  derive(TEST_KEY, "kvstow store", super + 16, 16, store_key);
  uint8_t mark[32];
  derive(store_key, "kvstow super", super, 72, mark);
  assert_memory_equal(mark, super + 72, 16);

  static uint8_t bytes[RECORD_BYTES];
  for (uint32_t i = 0; i < RECORDS; i++) {
    const record *r = &b->records[i];
    load(b, bytes, sizeof bytes, place(r));
    message m = {.open = {bytes},
                 .open_bytes = {64},
                 .secret = {bytes + 64, bytes + 96},
                 .secret_bytes = {24, SALT_AT - 96},
                 .tag = bytes + TAG_AT,
                 .tag_bytes = 16};
    derive(store_key, "kvstow salt", bytes + SALT_AT, 16, m.key);
    assert_true(decrypt(&m));
    kvstow_record found;
    kvstow_record_parse(bytes, &found);
    assert_int_equal(found.key.lo, key_of(i).lo);
    for (uint32_t p = 0; p < PLANES; p++) {
      message plane = {.number = 1 + p,
                       .secret = {bytes + 4096 + p * PLANE_BYTES},
                       .secret_bytes = {PLANE_BYTES},
                       .tag = bytes + SALT_AT - (PLANES - p) * PLANE_TAG_BYTES,
                       .tag_bytes = PLANE_TAG_BYTES};
      memcpy(plane.key, m.key, 32);
      assert_true(decrypt(&plane));
    }
    assert_memory_equal(bytes + 4096, r->payload, PLANES * PLANE_BYTES);
  }

  uint8_t trailer[4096], table[4096];
  load(b, trailer, 4096, SEGMENT - 4096);
  load(b, table, 4096, SEGMENT - 8192);
  message m = {.open = {trailer, trailer + 80},
               .open_bytes = {72, 16},
               .secret = {table},
               .secret_bytes = {RECORDS * 104},
               .tag = trailer + 112,
               .tag_bytes = 16};
  derive(store_key, "kvstow salt", trailer + 96, 16, m.key);
  assert_true(decrypt(&m));
  for (uint32_t i = 0; i < RECORDS; i++) {
    const kvstow_key key = key_of(i);
    assert_memory_equal(table + i * 104, &key, sizeof key);
  }
}

/* ---- the thief ------------------------------------------------------------------------------- */

static void nothing_known_is_seen_on_disk(void **state) {
  const bed *b = *state;
  uint8_t *file = malloc(SEGMENT);
  load(b, file, SEGMENT, 0);
  for (uint32_t i = 0; i < RECORDS; i++) {
    const record *r = &b->records[i];
    const kvstow_key key = key_of(i);
    assert_null(memmem(file, SEGMENT, &key, sizeof key));
    assert_null(memmem(file, SEGMENT, kvstow_record_sums(r->header), 8));
    for (size_t at = 0; at < PLANES * PLANE_BYTES; at += 512)
      assert_null(memmem(file, SEGMENT, r->payload + at, 16));
    uint32_t owner_bytes;
    const void *owner = kvstow_record_owner(r->header, &owner_bytes);
    assert_memory_not_equal(file + place(r) + 160 + 8 * PLANES, owner, owner_bytes);
    for (uint32_t j = 0; j < i; j++) /* the salts differ, and with them the keys */
      assert_memory_not_equal(file + place(r) + SALT_AT, file + place(&b->records[j]) + SALT_AT,
                              16);
  }
  assert_null(memmem(file, SEGMENT, TEST_KEY, KVSTOW_KEY_BYTES));
  free(file);
}

/* A table written again is another message: under the same key its nonce would have been used twice. */
static void every_footer_has_its_own_salt(void **state) {
  const bed *b = *state;
  enum { FOOTERS = 4 };
  uint8_t salts[FOOTERS][16], salt[16];
  for (int i = 0; i < FOOTERS; i++) {
    load(b, salts[i], 16, SEGMENT - 4096 + 96);
    for (int j = 0; j < i; j++) assert_memory_not_equal(salts[i], salts[j], 16);
    for (int j = i; j < RECORDS; j++) {
      load(b, salt, 16, place(&b->records[j]) + SALT_AT);
      assert_memory_not_equal(salts[i], salt, 16);
    }
    kvstow_tier *tier = tier_open(&b->options);
    seen *s = scan_all(tier);
    const kvstow_loc loc = seen_find(s, (uint64_t)i)->loc;
    assert_int_equal(kvstow_tier_erase(tier, &loc, 1), 0);
    assert_int_equal(kvstow_tier_close(tier), 0);
    free(s);
  }
}

/* ---- the key --------------------------------------------------------------------------------- */

static void a_wrong_key_is_a_clear_error(void **state) {
  const bed *b = *state;
  char why[KVSTOW_MESSAGE_BYTES];
  assert_int_equal(open_with(b, OTHER_KEY, why), KVSTOW_EKEY);
  assert_non_null(strstr(why, "super: offset 72: encrypted with another key"));
  assert_int_equal(open_with(b, NULL, why), KVSTOW_EKEY);
  assert_non_null(strstr(why, "the store is encrypted: it needs its key"));
  assert_int_equal(open_with(b, TEST_KEY, why), 0);
}

static void a_key_for_a_plain_store_is_an_error(void **state) {
  (void)state;
  char *dir = scratch_new(), why[KVSTOW_MESSAGE_BYTES];
  bed plain = {.dir = dir, .dirs = {dir}};
  plain.options = options_for(plain.dirs, 4);
  assert_int_equal(open_with(&plain, NULL, why), 0);
  assert_int_equal(open_with(&plain, TEST_KEY, why), KVSTOW_EKEY);
  assert_non_null(strstr(why, "not encrypted, but a key was given"));
  scratch_remove(dir);
}

static void the_super_is_authenticated(void **state) {
  const bed *b = *state;
  uint8_t page[4096];
  char why[KVSTOW_MESSAGE_BYTES];
  for (size_t at = 32; at < 40; at++) { /* another hash seed */
    file_at(b, "super", page, sizeof page, 0, false);
    page[at] ^= 1;
    repair(page, 4088);
    file_at(b, "super", page, sizeof page, 0, true);
    file_at(b, "super", page, sizeof page, 4096, true);
    assert_int_equal(open_with(b, TEST_KEY, why), KVSTOW_EKEY);
    page[at] ^= 1;
    repair(page, 4088);
    file_at(b, "super", page, sizeof page, 0, true);
    file_at(b, "super", page, sizeof page, 4096, true);
  }
  page[64] = 2;
  repair(page, 4088);
  file_at(b, "super", page, sizeof page, 0, true);
  file_at(b, "super", page, sizeof page, 4096, true);
  assert_int_equal(open_with(b, TEST_KEY, why), KVSTOW_EVERSION);
}

/* ---- the forger ------------------------------------------------------------------------------ */

/* How many of the records can still be read; those must be right (record_read checks the bytes). */
static uint32_t readable(const bed *b, uint32_t *corrupt) {
  kvstow_tier *tier = tier_open(&b->options);
  uint32_t good = 0;
  *corrupt = 0;
  for (uint32_t i = 0; i < RECORDS; i++) {
    const int code = read_record(tier, &b->records[i]);
    good += code == 0;
    *corrupt += code == KVSTOW_ECORRUPT;
    assert_true(code == 0 || code == KVSTOW_ECORRUPT || code == KVSTOW_EMISS);
  }
  kvstow_tier_close(tier);
  return good;
}

static void a_header_forged_anywhere_is_refused(void **state) {
  const bed *b = *state;
  const record *r = &b->records[4];
  uint8_t page[4096], good[4096];
  load(b, good, sizeof good, place(r));
  for (size_t at = 0; at < sizeof page; at += at < 160 || at >= 4000 ? 1 : 61) {
    if (at >= CHECKSUM_AT && at < CHECKSUM_AT + 8) continue;
    memcpy(page, good, sizeof page);
    page[at] ^= 0x10;
    repair(page, CHECKSUM_AT);
    put(b, page, sizeof page, place(r));
    uint32_t corrupt;
    assert_int_equal(readable(b, &corrupt), RECORDS - 1);
    assert_int_equal(corrupt, 1);
  }
}

static void planes_do_not_change_places(void **state) {
  const bed *b = *state;
  static uint8_t one[PLANE_BYTES], two[PLANE_BYTES];
  uint32_t corrupt;
  const off_t a = place(&b->records[2]) + 4096, c = place(&b->records[7]) + 4096;
  load(b, one, PLANE_BYTES, a);
  load(b, two, PLANE_BYTES, a + PLANE_BYTES);
  put(b, two, PLANE_BYTES, a); /* within a record */
  assert_int_equal(readable(b, &corrupt), RECORDS - 1);
  put(b, one, PLANE_BYTES, a);
  assert_int_equal(readable(b, &corrupt), RECORDS);
  load(b, two, PLANE_BYTES, c);
  put(b, two, PLANE_BYTES, a); /* from another */
  assert_int_equal(readable(b, &corrupt), RECORDS - 1);
  assert_int_equal(corrupt, 1);
}

static void records_do_not_change_places(void **state) {
  const bed *b = *state;
  static uint8_t bytes[RECORD_BYTES];
  const record *from = &b->records[1], *to = &b->records[6];
  load(b, bytes, sizeof bytes, place(from));
  put(b, bytes, sizeof bytes, place(to));
  uint32_t corrupt;
  assert_int_equal(readable(b, &corrupt), RECORDS - 1);
  memcpy(bytes + 48, &to->loc.page, 4); /* and says that it belongs there */
  repair(bytes, CHECKSUM_AT);
  put(b, bytes, sizeof bytes, place(to));
  assert_int_equal(readable(b, &corrupt), RECORDS - 1);
  assert_int_equal(corrupt, 1);
}

/* With its checksums right a table that was changed is refused: the records are found by walking. */
static void a_forged_table_is_not_believed(void **state) {
  const bed *b = *state;
  uint8_t trailer[4096], table[4096];
  load(b, trailer, 4096, SEGMENT - 4096);
  load(b, table, 4096, SEGMENT - 8192);
  table[3 * 104 + 16] ^= 1; /* the place of the fourth */
  const uint64_t sum = kvstow_checksum(table, RECORDS * 104);
  memcpy(trailer + 72, &sum, 8);
  repair(trailer, 4088);
  put(b, trailer, 4096, SEGMENT - 4096);
  put(b, table, 4096, SEGMENT - 8192);
  uint32_t corrupt;
  assert_int_equal(readable(b, &corrupt), RECORDS);
}

/* A record of an encrypted store has less room for its description. */
static void what_leaves_no_room_for_seals_is_too_big(void **state) {
  const bed *b = *state;
  kvstow_tier *tier = tier_open(&b->options);
  const uint32_t planes = 100;
  const int64_t most = kvstow_tier_owner_max_bytes(tier, planes);
  assert_int_equal(most, kvstow_record_owner_max_bytes(planes) - 12 * planes - 32);
  uint8_t *page = aligned_alloc(4096, 4096), *payload = aligned_alloc(4096, planes * 4096);
  static const uint8_t owner[4096];
  memset(payload, 7, planes * 4096);
  const kvstow_record r = {.key = {1, 2}, .planes = planes, .plane_bytes = 4096};
  kvstow_record_write write = {.header = page, .payload = payload};
  assert_int_equal(kvstow_record_format(page, &r, owner, (uint32_t)most + 1), 0);
  assert_int_equal(kvstow_tier_append(tier, &write, 1, NULL, NULL), KVSTOW_ETOOBIG);
  assert_int_equal(kvstow_record_format(page, &r, owner, (uint32_t)most), 0);
  for (uint32_t p = 0; p < planes; p++)
    kvstow_record_sums(page)[p] = kvstow_plane_checksum(payload, 4096, 0);
  assert_int_equal(kvstow_tier_append(tier, &write, 1, NULL, NULL), 0);
  assert_int_equal(kvstow_tier_close(tier), 0);
  free(page);
  free(payload);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
  the_variant = UNDER_TSAN ? &VARIANTS[2] : NULL;
  const struct CMUnitTest tests[] = {
      TEST(a_second_implementation_reads_it),
      TEST(nothing_known_is_seen_on_disk),
      TEST(every_footer_has_its_own_salt),
      TEST(a_wrong_key_is_a_clear_error),
      cmocka_unit_test(a_key_for_a_plain_store_is_an_error),
      TEST(the_super_is_authenticated),
      TEST(a_header_forged_anywhere_is_refused),
      TEST(planes_do_not_change_places),
      TEST(records_do_not_change_places),
      TEST(a_forged_table_is_not_believed),
      TEST(what_leaves_no_room_for_seals_is_too_big),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
