/* tests/test_gguf.c - the GGUF parser: what is well-formed is read, what is not is refused by name, and no
 * bytes whatever make it read or claim anything outside the file.
 *
 * Files are put together here by hand, apart from the generator, which is then held against the parser.
 * KVSTOW_SEED and KVSTOW_SEEDS choose the random damage.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/gguf.h"
#include "bench/gguf_make.h"

enum { FILE_BYTES = 1 << 14, DAMAGES = 10000 };

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, TYPES };
static const unsigned char scalar_bytes[TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/* A file being written. */
struct file {
  unsigned char bytes[FILE_BYTES];
  size_t count;
};

static void put(struct file *f, const void *bytes, size_t count) {
  assert_true(f->count + count <= FILE_BYTES);
  memcpy(f->bytes + f->count, bytes, count);
  f->count += count;
}

static void put_number(struct file *f, uint64_t value, unsigned bytes) {
  for (unsigned i = 0; i < bytes; i++) put(f, &(unsigned char){(unsigned char)(value >> 8 * i)}, 1);
}

static void put_string(struct file *f, const char *text) {
  put_number(f, strlen(text), 8);
  put(f, text, strlen(text));
}

static void put_start(struct file *f, uint32_t version, uint64_t tensors, uint64_t pairs) {
  f->count = 0;
  put(f, "GGUF", 4);
  put_number(f, version, 4);
  put_number(f, tensors, 8);
  put_number(f, pairs, 8);
}

static void put_pair(struct file *f, const char *key, uint32_t type) {
  put_string(f, key);
  put_number(f, type, 4);
}

static void put_tensor(struct file *f, const char *name, uint32_t type, uint64_t offset,
                       uint32_t dims, const uint64_t *dim) {
  put_string(f, name);
  put_number(f, dims, 4);
  for (uint32_t i = 0; i < dims; i++) put_number(f, dim[i], 8);
  put_number(f, type, 4);
  put_number(f, offset, 8);
}

static void pad(struct file *f, size_t alignment) {
  while (f->count % alignment != 0) put_number(f, 0, 1);
}

static void put_data(struct file *f, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) put_number(f, i, 1);
}

static uint64_t one(uint64_t dim) {
  return dim;
}
#define DIMS(...)                                                                                  \
  (uint32_t)(sizeof((uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t)), (const uint64_t[]) {           \
    __VA_ARGS__                                                                                    \
  }

/* Every type of metadata, arrays of all of them and of arrays; tensors out of order, with a gap, of no bytes,
 * quantised, without dimensions. Alignment 64. */
enum { SAMPLE_TENSORS = 5 };
static void put_sample(struct file *f, uint32_t version) {
  uint64_t pairs = 0;
  struct file metadata = {.count = 0};
  for (uint32_t type = 0; type < TYPES; type++)
    if (scalar_bytes[type] != 0) {
      put_pair(&metadata, "scalar", type);
      put_number(&metadata, 0xfe, scalar_bytes[type]);
      put_pair(&metadata, "array", ARRAY);
      put_number(&metadata, type, 4);
      put_number(&metadata, 3, 8);
      for (int i = 0; i < 3; i++) put_number(&metadata, 0x81, scalar_bytes[type]);
      pairs += 2;
    }
  put_pair(&metadata, "text", STRING);
  put_string(&metadata, "hello");
  put_pair(&metadata, "general.alignment", U32);
  put_number(&metadata, 64, 4);
  put_pair(&metadata, "nested", ARRAY);
  put_number(&metadata, ARRAY, 4);
  put_number(&metadata, 2, 8);
  put_number(&metadata, STRING, 4);
  put_number(&metadata, 2, 8);
  put_string(&metadata, "one");
  put_string(&metadata, "");
  put_number(&metadata, F64, 4);
  put_number(&metadata, 0, 8);
  put_start(f, version, SAMPLE_TENSORS, pairs + 3);
  put(f, metadata.bytes, metadata.count);
  put_tensor(f, "second", 2, 128, DIMS(32, 4)); /* Q4_0: 4 rows of 18 bytes */
  put_tensor(f, "first", 0, 0, DIMS(5, 2, 1, 1));
  put_tensor(f, "empty", 1, 64, DIMS(0));
  put_tensor(f, "scalar", 28, 256, 0, NULL);
  put_tensor(f, "last", 12, 320, DIMS(256));
  pad(f, 64);
  put_data(f, 320 + 144);
}

/* ---- what must always hold -------------------------------------------------------------------- */

/* Parses from memory of exactly `have` bytes, so that a sanitizer sees a read beyond. */
static enum gguf_result parse_some(const unsigned char *bytes, size_t have, uint64_t file_bytes,
                                   struct gguf *gguf, struct gguf_error *error, char **memory) {
  *memory = malloc(have > 0 ? have : 1);
  assert_non_null(*memory);
  memcpy(*memory, bytes, have);
  return gguf_parse(*memory, have, file_bytes, gguf, error);
}

static void assert_inside(const struct gguf *g, const char *head, size_t have,
                          uint64_t file_bytes) {
  uint64_t sum = 0;
  assert_true(g->version == 2 || g->version == 3);
  for (uint64_t i = 0; i < g->tensors_count; i++) {
    const struct gguf_tensor *t = &g->tensors[i];
    assert_true(t->offset % g->alignment == 0 && t->offset >= g->data_offset);
    assert_true(t->offset <= file_bytes && t->bytes <= file_bytes - t->offset);
    assert_true(t->name >= head && t->name_bytes <= (uint64_t)(head + have - t->name));
    for (uint64_t j = 0; j < i; j++) {
      const struct gguf_tensor *u = &g->tensors[j];
      assert_true(t->offset + t->bytes <= u->offset || u->offset + u->bytes <= t->offset ||
                  t->bytes == 0 || u->bytes == 0);
    }
    sum += t->bytes;
  }
  assert_true(sum == g->data_bytes);
}

/* As a caller with little memory reads: a few bytes first, then what is asked for. */
static enum gguf_result parse_growing(const unsigned char *bytes, size_t file_bytes,
                                      struct gguf_error *error, uint64_t *tensors) {
  size_t have = 0;
  for (;;) {
    struct gguf g;
    char *memory;
    const enum gguf_result result = parse_some(bytes, have, file_bytes, &g, error, &memory);
    *tensors = g.tensors_count;
    if (result == GGUF_OK) assert_inside(&g, memory, have, file_bytes);
    gguf_free(&g);
    free(memory);
    if (result != GGUF_MORE) return result;
    assert_true(error->wanted > have && error->wanted <= file_bytes);
    have = 2 * have < error->wanted ? (size_t)error->wanted : 2 * have;
    if (have > file_bytes) have = file_bytes;
  }
}

/* Whole and in pieces come to the same. */
static enum gguf_result parse_file(const unsigned char *bytes, size_t count,
                                   struct gguf_error *error) {
  struct gguf g;
  char *memory;
  const enum gguf_result whole = parse_some(bytes, count, count, &g, error, &memory);
  const uint64_t tensors = g.tensors_count;
  assert_true(whole == GGUF_OK || whole == GGUF_BAD);
  if (whole == GGUF_OK)
    assert_inside(&g, memory, count, count);
  else
    assert_true(error->text[0] != '\0' && g.tensors == NULL && tensors == 0);
  gguf_free(&g);
  free(memory);
  struct gguf_error other;
  uint64_t others;
  assert_int_equal(parse_growing(bytes, count, &other, &others), whole);
  assert_true(others == tensors);
  assert_string_equal(other.text, error->text);
  assert_true(other.offset == error->offset);
  return whole;
}

static void assert_refused(const struct file *f, uint64_t offset, const char *why) {
  struct gguf_error error;
  if (parse_file(f->bytes, f->count, &error) != GGUF_BAD) fail_msg("not refused: %s", why);
  if (strstr(error.text, why) == NULL) fail_msg("'%s' in: %s", why, error.text);
  if (error.offset != offset)
    fail_msg("%s: offset %llu, not %llu", error.text, (unsigned long long)error.offset,
             (unsigned long long)offset);
}

/* ---- well-formed ------------------------------------------------------------------------------ */

static void reads_both_versions_and_every_type(void **state) {
  (void)state;
  for (uint32_t version = 2; version <= 3; version++) {
    static struct file f;
    put_sample(&f, version);
    struct gguf g;
    struct gguf_error error;
    assert_int_equal(gguf_parse(f.bytes, f.count, f.count, &g, &error), GGUF_OK);
    assert_int_equal(g.version, version);
    assert_int_equal(g.alignment, 64);
    assert_int_equal(g.tensors_count, SAMPLE_TENSORS);
    static const struct {
      const char *name;
      uint64_t offset, bytes;
    } wanted[] = {{"second", 128, 72},
                  {"first", 0, 40},
                  {"empty", 64, 0},
                  {"scalar", 256, 8},
                  {"last", 320, 144}};
    for (size_t i = 0; i < SAMPLE_TENSORS; i++) {
      assert_int_equal(g.tensors[i].name_bytes, strlen(wanted[i].name));
      assert_memory_equal(g.tensors[i].name, wanted[i].name, g.tensors[i].name_bytes);
      assert_int_equal(g.tensors[i].bytes, wanted[i].bytes);
      assert_int_equal(g.tensors[i].offset - g.data_offset, wanted[i].offset);
    }
    assert_int_equal(g.data_bytes, 72 + 40 + 8 + 144);
    gguf_free(&g);
    assert_int_equal(parse_file(f.bytes, f.count, &error), GGUF_OK);
  }
}

static void alignment_is_32_when_none_is_given(void **state) {
  (void)state;
  static struct file f;
  put_start(&f, 3, 1, 0);
  put_tensor(&f, "t", 24, 32, DIMS(1));
  pad(&f, 32);
  put_data(&f, 33);
  struct gguf g;
  struct gguf_error error;
  assert_int_equal(gguf_parse(f.bytes, f.count, f.count, &g, &error), GGUF_OK);
  assert_int_equal(g.alignment, 32);
  assert_int_equal(g.tensors[0].offset, f.count - 1);
  gguf_free(&g);
}

/* Bytes a row of 256 elements takes in some files in the wild. */
static void knows_the_quantised_types(void **state) {
  (void)state;
  static const struct {
    uint32_t type, bytes;
  } rows[] = {{0, 1024}, {1, 512},  {2, 144},  {3, 160},  {6, 176},  {7, 192},  {8, 272},
              {10, 84},  {11, 110}, {12, 144}, {13, 176}, {14, 210}, {16, 66},  {17, 74},
              {18, 98},  {19, 50},  {20, 144}, {21, 110}, {22, 82},  {23, 136}, {24, 256},
              {29, 56},  {30, 512}, {34, 54},  {35, 66},  {39, 136}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    const struct gguf_type t = gguf_type(rows[i].type);
    assert_int_equal(256 / t.elements * t.bytes, rows[i].bytes);
  }
  assert_int_equal(gguf_type(4).elements, 0);
  assert_int_equal(gguf_type(1000).elements, 0);
}

/* ---- refused by name -------------------------------------------------------------------------- */

static void other_files_are_refused(void **state) {
  (void)state;
  static struct file f;
  f.count = 0;
  assert_refused(&f, 0, "not a GGUF file: 0 bytes");
  put(&f, "GG", 2);
  assert_refused(&f, 0, "not a GGUF file");
  put(&f, "ML and more", 11);
  assert_refused(&f, 0, "not a GGUF file: begins with 47 47 4d 4c");
}

static void other_versions_are_refused(void **state) {
  (void)state;
  static struct file f;
  put_start(&f, 1, 0, 0);
  assert_refused(&f, 4, "version 1;");
  put_start(&f, 4, 0, 0);
  assert_refused(&f, 4, "version 4;");
  put_start(&f, 0, 0, 0);
  assert_refused(&f, 4, "version 0;");
  put_start(&f, 0x03000000, 0, 0);
  assert_refused(&f, 4, "big-endian");
}

static void hostile_counts_are_refused(void **state) {
  (void)state;
  static struct file f;
  static const uint64_t counts[] = {UINT64_MAX, INT64_MAX, (uint64_t)1 << 32, 1000};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    put_start(&f, 3, counts[i], 0);
    assert_refused(&f, 24, "tensors of 24 bytes or more");
    put_start(&f, 3, 0, counts[i]);
    assert_refused(&f, 24, "metadata pairs");
    put_start(&f, 3, 0, 1);
    put_number(&f, counts[i], 8); /* a key's length */
    put_data(&f, 32);
    assert_refused(&f, 32, "a metadata key takes");
    put_start(&f, 3, 0, 1);
    put_pair(&f, "k", STRING);
    put_number(&f, counts[i], 8);
    assert_refused(&f, 45, "a string takes");
    for (uint32_t type = 0; type < TYPES; type++) {
      put_start(&f, 3, 0, 1);
      put_pair(&f, "k", ARRAY);
      put_number(&f, type, 4);
      put_number(&f, counts[i], 8);
      assert_refused(&f, 49, "values of");
    }
    put_start(&f, 3, 1, 0);
    put_number(&f, counts[i], 8); /* a name's length */
    put_data(&f, 32);
    assert_refused(&f, 32, "a tensor's name takes");
  }
}

static void deep_nesting_is_refused(void **state) {
  (void)state;
  static struct file f;
  put_start(&f, 3, 0, 1);
  put_pair(&f, "k", ARRAY);
  for (int i = 0; i < 500; i++) {
    put_number(&f, ARRAY, 4);
    put_number(&f, 1, 8);
  }
  assert_refused(&f, 37 + 12 * 8, "nested deeper");
}

static void unknown_types_are_refused(void **state) {
  (void)state;
  static struct file f;
  put_start(&f, 3, 0, 1);
  put_pair(&f, "k", TYPES);
  put_data(&f, 8);
  assert_refused(&f, 37, "no metadata type has the number 13");
  put_start(&f, 3, 1, 0);
  put_tensor(&f, "t", 4, 0, DIMS(32));
  assert_refused(&f, 24, "no tensor type has the number 4");
}

static void alignment_must_be_a_power_of_two(void **state) {
  (void)state;
  static const uint32_t alignments[] = {0, 3, 48, UINT32_MAX};
  static struct file f;
  for (size_t i = 0; i < 4; i++) {
    put_start(&f, 3, 0, 1);
    put_pair(&f, "general.alignment", U32);
    put_number(&f, alignments[i], 4);
    assert_refused(&f, 53, "not a power of two");
  }
  put_start(&f, 3, 0, 1);
  put_pair(&f, "general.alignment", U64);
  put_number(&f, 32, 8);
  assert_refused(&f, 53, "not a u32");
  put_start(&f, 3, 0, 2);
  for (int i = 0; i < 2; i++) {
    put_pair(&f, "general.alignment", U32);
    put_number(&f, 32, 4);
  }
  assert_refused(&f, 86, "second time");
}

static void tensors_out_of_place_are_refused(void **state) {
  (void)state;
  static struct file f;
  static const struct {
    uint64_t offset, elements;
    const char *why;
  } cases[] = {
      {16, 1, "not aligned to 32"},       {0, 129, "beyond the file"},
      {128, 1, "beyond the file"},        {UINT64_MAX - 31, 1, "beyond the file"},
      {0, UINT64_MAX, "beyond the file"}, {(uint64_t)1 << 63, (uint64_t)1 << 63, "beyond the file"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    put_start(&f, 3, 1, 0);
    put_tensor(&f, "bad\x1b[2Jone", 24, cases[i].offset, DIMS(one(cases[i].elements)));
    pad(&f, 32);
    const uint64_t data = f.count;
    put_data(&f, 128);
    assert_refused(&f, i == 0 ? cases[i].offset : data + cases[i].offset, cases[i].why);
    struct gguf_error error;
    (void)parse_file(f.bytes, f.count, &error);
    assert_non_null(strstr(error.text, "bad?[2Jone")); /* a terminal must not obey it */
  }
  put_start(&f, 3, 2, 0);
  put_tensor(&f, "b", 24, 64, DIMS(10));
  put_tensor(&f, "a", 24, 0, DIMS(65));
  pad(&f, 32);
  const uint64_t data = f.count;
  put_data(&f, 128);
  assert_refused(&f, data + 64, "tensor 'b' overlaps 'a'");
}

static void impossible_shapes_are_refused(void **state) {
  (void)state;
  static struct file f;
  put_start(&f, 3, 1, 0);
  put_tensor(&f, "t", 24, 0, DIMS(1, 1, 1, 1, 1));
  assert_refused(&f, 24, "5 dimensions");
  put_start(&f, 3, 1, 0);
  put_tensor(&f, "t", 2, 0, DIMS(33));
  assert_refused(&f, 24, "Q4_0 comes in blocks of 32");
  put_start(&f, 3, 1, 0);
  put_tensor(&f, "t", 0, 0, DIMS((uint64_t)1 << 40, (uint64_t)1 << 40));
  assert_refused(&f, 24, "2^64");
  put_start(&f, 3, 1, 0);
  put_tensor(&f, "t", 0, 0, DIMS((uint64_t)1 << 62));
  assert_refused(&f, 24, "2^64");
}

/* ---- any bytes -------------------------------------------------------------------------------- */

static void truncation_anywhere_is_refused(void **state) {
  (void)state;
  static struct file f;
  put_sample(&f, 3);
  for (size_t bytes = 0; bytes < f.count; bytes++) {
    struct gguf_error error;
    if (parse_file(f.bytes, bytes, &error) != GGUF_BAD)
      fail_msg("%zu bytes of %zu", bytes, f.count);
    if (bytes >= 4) assert_non_null(strstr(error.text, "truncated"));
  }
}

static void no_flipped_byte_does_harm(void **state) {
  (void)state;
  static struct file f;
  put_sample(&f, 3);
  for (size_t at = 0; at < f.count; at++)
    for (unsigned value = 0; value < 256; value++) {
      if (at >= 4 && value % 5 != 0 && value != 1 && value != 0x7f && value != 0x80) continue;
      const unsigned char was = f.bytes[at];
      struct gguf_error error;
      f.bytes[at] = (unsigned char)value;
      (void)parse_file(f.bytes, f.count, &error);
      f.bytes[at] = was;
    }
}

static uint64_t next_random(uint64_t *seed) {
  *seed = *seed * 6364136223846793005u + 1442695040888963407u;
  return *seed >> 24;
}

/* Numbers that arithmetic trips over, at any place; pieces moved, cut, repeated. */
static void damage(struct file *f, uint64_t *seed) {
  static const uint64_t numbers[] = {0,
                                     1,
                                     0xff,
                                     0xffff,
                                     0x7fffffff,
                                     0x80000000,
                                     0xffffffff,
                                     INT64_MAX,
                                     (uint64_t)1 << 63,
                                     UINT64_MAX,
                                     UINT64_MAX - 31,
                                     UINT64_MAX / 24,
                                     UINT64_MAX / 13 + 1,
                                     9,
                                     8};
  static const unsigned widths[] = {1, 2, 4, 8};
  const size_t at = next_random(seed) % f->count, from = next_random(seed) % f->count;
  const size_t left = f->count - (at > from ? at : from);
  switch (next_random(seed) % 4) {
    case 0:
      f->bytes[at] ^= (unsigned char)(1u << next_random(seed) % 8);
      break;
    case 1:
      memmove(f->bytes + at, f->bytes + from, next_random(seed) % (left + 1));
      break;
    default: {
      const uint64_t number = numbers[next_random(seed) % (sizeof numbers / sizeof *numbers)];
      const unsigned width = widths[next_random(seed) % 4];
      for (unsigned i = 0; i < width && at + i < f->count; i++)
        f->bytes[at + i] = (unsigned char)(number >> 8 * i);
    }
  }
  if (next_random(seed) % 16 == 0) f->count = 1 + next_random(seed) % f->count;
}

static uint64_t number_from_environment(const char *name, uint64_t otherwise) {
  const char *text = getenv(name);
  return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

static void no_damage_does_harm(void **state) {
  (void)state;
  const uint64_t first = number_from_environment("KVSTOW_SEED", 1);
  const uint64_t seeds = number_from_environment("KVSTOW_SEEDS", 2);
  static struct file f;
  uint64_t whole = 0;
  for (uint64_t s = first; s < first + seeds; s++) {
    uint64_t seed = s;
    print_message("seed %llu\n", (unsigned long long)s);
    for (int i = 0; i < DAMAGES; i++) {
      struct gguf_error error;
      put_sample(&f, 2 + (uint32_t)next_random(&seed) % 2);
      const uint64_t times = 1 + next_random(&seed) % 6;
      for (uint64_t t = 0; t < times; t++) damage(&f, &seed);
      whole += parse_file(f.bytes, f.count, &error) == GGUF_OK;
    }
  }
  assert_true(whole > 0); /* some damage is to data and names: the parser still reads on */
}

/* ---- the generator ------------------------------------------------------------------------------ */

static void made_files_are_well_formed_to_the_byte(void **state) {
  (void)state;
  static const uint64_t sizes[] = {0, 20011, 100000, 1 << 20, (5 << 20) + 7};
  uint64_t least = 0;
  assert_int_equal(gguf_make("/nonexistent/file", 1, 1, &least), -22);
  assert_true(least > 1);
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    char path[] = KVSTOW_BINARY_DIR "/test_gguf.XXXXXX";
    const uint64_t bytes = i == 0 ? least : sizes[i];
    close(mkstemp(path));
    assert_int_not_equal(gguf_make(path, bytes, 1, &least), 0); /* never over a file */
    unlink(path);
    assert_int_equal(gguf_make(path, bytes, 1, &least), 0);
    FILE *file = fopen(path, "r");
    unsigned char *content = malloc(bytes + 1);
    assert_true(file != NULL && content != NULL);
    assert_int_equal(fread(content, 1, bytes + 1, file), bytes);
    fclose(file);
    unlink(path);
    struct gguf g;
    struct gguf_error error;
    assert_int_equal(gguf_parse(content, bytes, bytes, &g, &error), GGUF_OK);
    const struct gguf_tensor *last = &g.tensors[g.tensors_count - 1];
    assert_int_equal(last->offset + last->bytes, bytes);
    assert_true(bytes < (1 << 20) || g.tensors_count > 8);
    gguf_free(&g);
    assert_int_equal(parse_file(content, bytes, &error), GGUF_OK);
    free(content);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_both_versions_and_every_type),
      cmocka_unit_test(alignment_is_32_when_none_is_given),
      cmocka_unit_test(knows_the_quantised_types),
      cmocka_unit_test(other_files_are_refused),
      cmocka_unit_test(other_versions_are_refused),
      cmocka_unit_test(hostile_counts_are_refused),
      cmocka_unit_test(deep_nesting_is_refused),
      cmocka_unit_test(unknown_types_are_refused),
      cmocka_unit_test(alignment_must_be_a_power_of_two),
      cmocka_unit_test(tensors_out_of_place_are_refused),
      cmocka_unit_test(impossible_shapes_are_refused),
      cmocka_unit_test(truncation_anywhere_is_refused),
      cmocka_unit_test(no_flipped_byte_does_harm),
      cmocka_unit_test(no_damage_does_harm),
      cmocka_unit_test(made_files_are_well_formed_to_the_byte),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
