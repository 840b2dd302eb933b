/* gguf.c - see gguf.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/gguf.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  DIMS_MAX = 4,
  NESTING_MAX = 8,
  ALIGNMENT_DEFAULT = 32,
  STRING_MIN_BYTES = 8,
  ARRAY_MIN_BYTES = 12,
  PAIR_MIN_BYTES = STRING_MIN_BYTES + 4 + 1, /* key, type, value */
  INFO_MIN_BYTES = STRING_MIN_BYTES + 4 + 4 + 8,
};

enum value_type {
  VALUE_U32 = 4,
  VALUE_STRING = 8,
  VALUE_ARRAY = 9,
  VALUE_TYPES = 13,
};

/* Of u8 i8 u16 i16 u32 i32 f32 bool string array u64 i64 f64; 0: by length. */
static const unsigned char value_bytes[VALUE_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/* As ggml's type_traits; numbers left out were given up. */
static const struct gguf_type types[] = {
    [0] = {"F32", 1, 4},         [1] = {"F16", 1, 2},         [2] = {"Q4_0", 32, 18},
    [3] = {"Q4_1", 32, 20},      [6] = {"Q5_0", 32, 22},      [7] = {"Q5_1", 32, 24},
    [8] = {"Q8_0", 32, 34},      [9] = {"Q8_1", 32, 36},      [10] = {"Q2_K", 256, 84},
    [11] = {"Q3_K", 256, 110},   [12] = {"Q4_K", 256, 144},   [13] = {"Q5_K", 256, 176},
    [14] = {"Q6_K", 256, 210},   [15] = {"Q8_K", 256, 292},   [16] = {"IQ2_XXS", 256, 66},
    [17] = {"IQ2_XS", 256, 74},  [18] = {"IQ3_XXS", 256, 98}, [19] = {"IQ1_S", 256, 50},
    [20] = {"IQ4_NL", 32, 18},   [21] = {"IQ3_S", 256, 110},  [22] = {"IQ2_S", 256, 82},
    [23] = {"IQ4_XS", 256, 136}, [24] = {"I8", 1, 1},         [25] = {"I16", 1, 2},
    [26] = {"I32", 1, 4},        [27] = {"I64", 1, 8},        [28] = {"F64", 1, 8},
    [29] = {"IQ1_M", 256, 56},   [30] = {"BF16", 1, 2},       [34] = {"TQ1_0", 256, 54},
    [35] = {"TQ2_0", 256, 66},   [39] = {"MXFP4", 32, 17},    [40] = {"NVFP4", 64, 36},
    [41] = {"Q1_0", 128, 18},
};

struct gguf_type gguf_type(uint32_t type) {
  return type < sizeof types / sizeof *types ? types[type] : (struct gguf_type){0};
}

/* ---- reading -------------------------------------------------------------------------------- */

struct reader {
  const unsigned char *head;
  uint64_t head_bytes, file_bytes, at;
  enum gguf_result result;
  struct gguf_error *error;
};

__attribute__((format(printf, 3, 4))) static bool bad(struct reader *r, uint64_t offset,
                                                      const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(r->error->text, sizeof r->error->text, format, arguments);
  va_end(arguments);
  r->error->offset = offset;
  r->result = GGUF_BAD;
  return false;
}

/* True if `count` pieces of at least `each` bytes may come next in the file. */
static bool may_hold(struct reader *r, const char *what, uint64_t count, uint64_t each) {
  const uint64_t left = r->file_bytes - r->at;
  if (count <= left / each) return true;
  return bad(r, r->at,
             "truncated or damaged: %" PRIu64 " %s of %" PRIu64 " bytes or more, %" PRIu64
             " bytes left",
             count, what, each, left);
}

/* True if the head has the next `bytes`. */
static bool have(struct reader *r, const char *what, uint64_t bytes) {
  const uint64_t left = r->file_bytes - r->at;
  if (bytes > left)
    return bad(r, r->at, "truncated or damaged: %s takes %" PRIu64 " bytes, %" PRIu64 " left", what,
               bytes, left);
  if (bytes <= r->head_bytes - r->at) return true;
  r->error->wanted = r->at + bytes;
  r->result = GGUF_MORE;
  return false;
}

static uint64_t little_endian(const unsigned char *bytes, unsigned count) {
  uint64_t value = 0;
  for (unsigned i = 0; i < count; i++) value |= (uint64_t)bytes[i] << 8 * i;
  return value;
}

static bool read_u32(struct reader *r, const char *what, uint32_t *value) {
  if (!have(r, what, 4)) return false;
  *value = (uint32_t)little_endian(r->head + r->at, 4);
  r->at += 4;
  return true;
}

static bool read_u64(struct reader *r, const char *what, uint64_t *value) {
  if (!have(r, what, 8)) return false;
  *value = little_endian(r->head + r->at, 8);
  r->at += 8;
  return true;
}

static bool read_string(struct reader *r, const char *what, const char **text, uint64_t *bytes) {
  if (!read_u64(r, what, bytes) || !have(r, what, *bytes)) return false;
  *text = (const char *)r->head + r->at;
  r->at += *bytes;
  return true;
}

/* ---- metadata ------------------------------------------------------------------------------- */

static bool skip_values(struct reader *r, uint32_t type, uint64_t count, unsigned nesting);

static bool skip_string(struct reader *r) {
  const char *text;
  uint64_t bytes;
  return read_string(r, "a string", &text, &bytes);
}

static bool skip_array(struct reader *r, unsigned nesting) {
  const uint64_t begin = r->at;
  uint32_t type;
  uint64_t count;
  if (nesting == NESTING_MAX) return bad(r, begin, "arrays nested deeper than %d", NESTING_MAX);
  return read_u32(r, "an array's type", &type) && read_u64(r, "an array's length", &count) &&
         skip_values(r, type, count, nesting + 1);
}

static bool skip_values(struct reader *r, uint32_t type, uint64_t count, unsigned nesting) {
  if (type >= VALUE_TYPES) return bad(r, r->at, "no metadata type has the number %" PRIu32, type);
  if (value_bytes[type] != 0) {
    if (!may_hold(r, "values", count, value_bytes[type]) ||
        !have(r, "a value", count * value_bytes[type]))
      return false;
    r->at += count * value_bytes[type];
    return true;
  }
  if (!may_hold(r, "values", count, type == VALUE_STRING ? STRING_MIN_BYTES : ARRAY_MIN_BYTES))
    return false;
  for (uint64_t i = 0; i < count; i++)
    if (!(type == VALUE_STRING ? skip_string(r) : skip_array(r, nesting))) return false;
  return true;
}

static bool read_alignment(struct reader *r, uint32_t type, struct gguf *gguf) {
  const uint64_t begin = r->at;
  if (type != VALUE_U32) return bad(r, begin, "general.alignment is not a u32");
  if (gguf->alignment != 0) return bad(r, begin, "general.alignment for the second time");
  if (!read_u32(r, "general.alignment", &gguf->alignment)) return false;
  if (gguf->alignment != 0 && (gguf->alignment & (gguf->alignment - 1)) == 0) return true;
  return bad(r, begin, "general.alignment is %" PRIu32 ", not a power of two", gguf->alignment);
}

static bool read_pair(struct reader *r, struct gguf *gguf) {
  static const char alignment[] = "general.alignment";
  const char *key;
  uint64_t bytes;
  uint32_t type;
  if (!read_string(r, "a metadata key", &key, &bytes) || !read_u32(r, "a metadata type", &type))
    return false;
  if (bytes == sizeof alignment - 1 && memcmp(key, alignment, bytes) == 0)
    return read_alignment(r, type, gguf);
  return skip_values(r, type, 1, 0);
}

/* ---- tensors -------------------------------------------------------------------------------- */

/* Bytes of a tensor of these dimensions: whole blocks along the first. */
static bool tensor_bytes(struct reader *r, uint64_t begin, uint32_t type, uint32_t dims,
                         const uint64_t *dim, uint64_t *bytes) {
  const struct gguf_type t = gguf_type(type);
  if (t.elements == 0) return bad(r, begin, "no tensor type has the number %" PRIu32, type);
  if (dims > 0 && dim[0] % t.elements != 0)
    return bad(r, begin, "rows of %" PRIu64 " elements, but %s comes in blocks of %" PRIu32, dim[0],
               t.name, t.elements);
  uint64_t elements = 1;
  bool overflow = false;
  for (uint32_t i = 0; i < dims; i++)
    overflow |= __builtin_mul_overflow(elements, dim[i], &elements);
  overflow |= __builtin_mul_overflow(elements / t.elements, t.bytes, bytes);
  return !overflow || bad(r, begin, "a tensor of more than 2^64 bytes");
}

/* Its offset counts from the data section as yet. */
static bool read_info(struct reader *r, struct gguf_tensor *tensor) {
  const uint64_t begin = r->at;
  uint32_t dims;
  uint64_t dim[DIMS_MAX];
  if (!read_string(r, "a tensor's name", &tensor->name, &tensor->name_bytes) ||
      !read_u32(r, "a tensor's dimensions", &dims))
    return false;
  if (dims > DIMS_MAX)
    return bad(r, begin, "a tensor of %" PRIu32 " dimensions; %d at most", dims, DIMS_MAX);
  for (uint32_t i = 0; i < dims; i++)
    if (!read_u64(r, "a tensor's dimension", &dim[i])) return false;
  return read_u32(r, "a tensor's type", &tensor->type) &&
         read_u64(r, "a tensor's offset", &tensor->offset) &&
         tensor_bytes(r, begin, tensor->type, dims, dim, &tensor->bytes);
}

static bool grow(struct reader *r, struct gguf *gguf, uint64_t *room) {
  if (gguf->tensors_count < *room) return true;
  const uint64_t wanted = *room == 0 ? 64 : 2 * *room;
  struct gguf_tensor *more = reallocarray(gguf->tensors, wanted, sizeof *more);
  if (more == NULL) {
    r->result = GGUF_NO_MEMORY;
    return false;
  }
  gguf->tensors = more;
  *room = wanted;
  return true;
}

static bool read_infos(struct reader *r, struct gguf *gguf, uint64_t count) {
  uint64_t room = 0;
  if (!may_hold(r, "tensors", count, INFO_MIN_BYTES)) return false;
  while (gguf->tensors_count < count) {
    if (!grow(r, gguf, &room) || !read_info(r, &gguf->tensors[gguf->tensors_count])) return false;
    gguf->tensors_count++;
  }
  return true;
}

/* A name as it may be shown: it comes from a file. */
static const char *shown(const struct gguf_tensor *tensor, char text[64]) {
  size_t bytes = 0;
  for (; bytes < 63 && bytes < tensor->name_bytes; bytes++) {
    const char c = tensor->name[bytes];
    text[bytes] = c >= ' ' && c <= '~' ? c : '?';
  }
  text[bytes] = '\0';
  return text;
}

/* Offsets become the file's. */
static bool place(struct reader *r, struct gguf *gguf) {
  char name[64];
  const uint64_t mask = (uint64_t)gguf->alignment - 1;
  gguf->data_offset = (r->at + mask) & ~mask;
  if (gguf->data_offset > r->file_bytes)
    gguf->data_offset = r->file_bytes; /* no data, no padding */
  for (uint64_t i = 0; i < gguf->tensors_count; i++) {
    struct gguf_tensor *t = &gguf->tensors[i];
    if ((t->offset & mask) != 0)
      return bad(r, t->offset, "tensor '%s' is not aligned to %" PRIu32, shown(t, name),
                 gguf->alignment);
    uint64_t end;
    if (__builtin_add_overflow(t->offset, gguf->data_offset, &t->offset) ||
        __builtin_add_overflow(t->offset, t->bytes, &end) || end > r->file_bytes)
      return bad(r, t->offset,
                 "truncated or damaged: tensor '%s' of %" PRIu64
                 " bytes ends beyond the file of %" PRIu64,
                 shown(t, name), t->bytes, r->file_bytes);
    gguf->data_bytes += t->bytes;
  }
  return true;
}

static int by_offset(const void *a, const void *b) {
  const struct gguf_tensor *x = *(struct gguf_tensor *const *)a,
                           *y = *(struct gguf_tensor *const *)b;
  return (x->offset > y->offset) - (x->offset < y->offset);
}

static bool apart(struct reader *r, const struct gguf *gguf) {
  if (gguf->tensors_count == 0) return true;
  const struct gguf_tensor **order = calloc(gguf->tensors_count, sizeof *order);
  if (order == NULL) {
    r->result = GGUF_NO_MEMORY;
    return false;
  }
  uint64_t count = 0;
  for (uint64_t i = 0; i < gguf->tensors_count; i++)
    if (gguf->tensors[i].bytes > 0) order[count++] = &gguf->tensors[i];
  qsort(order, count, sizeof *order, by_offset);
  bool ok = true;
  for (uint64_t i = 1; i < count && ok; i++) {
    char name[64], other[64];
    if (order[i]->offset < order[i - 1]->offset + order[i - 1]->bytes)
      ok = bad(r, order[i]->offset, "tensor '%s' overlaps '%s'", shown(order[i], name),
               shown(order[i - 1], other));
  }
  free(order);
  return ok;
}

/* ---- the whole ------------------------------------------------------------------------------ */

static bool read_magic(struct reader *r) {
  if (r->file_bytes < 4) return bad(r, 0, "not a GGUF file: %" PRIu64 " bytes", r->file_bytes);
  if (!have(r, "the magic", 4)) return false;
  if (memcmp(r->head, "GGUF", 4) != 0)
    return bad(r, 0, "not a GGUF file: begins with %02x %02x %02x %02x, not 'GGUF'", r->head[0],
               r->head[1], r->head[2], r->head[3]);
  r->at = 4;
  return true;
}

static bool read_version(struct reader *r, uint32_t *version) {
  if (!read_u32(r, "the version", version)) return false;
  if (*version == 2 || *version == 3) return true;
  if ((*version & 0xffff) == 0 && *version != 0)
    return bad(r, 4, "a big-endian file (version %08" PRIx32 "); little-endian wanted", *version);
  return bad(r, 4, "version %" PRIu32 "; 2 and 3 are known", *version);
}

static bool parse(struct reader *r, struct gguf *gguf) {
  uint64_t tensors;
  if (!read_magic(r) || !read_version(r, &gguf->version) ||
      !read_u64(r, "the number of tensors", &tensors) ||
      !read_u64(r, "the number of metadata pairs", &gguf->metadata_count) ||
      !may_hold(r, "tensors", tensors, INFO_MIN_BYTES) ||
      !may_hold(r, "metadata pairs", gguf->metadata_count, PAIR_MIN_BYTES))
    return false;
  for (uint64_t i = 0; i < gguf->metadata_count; i++)
    if (!read_pair(r, gguf)) return false;
  if (gguf->alignment == 0) gguf->alignment = ALIGNMENT_DEFAULT;
  return read_infos(r, gguf, tensors) && place(r, gguf) && apart(r, gguf);
}

enum gguf_result gguf_parse(const void *head, size_t head_bytes, uint64_t file_bytes,
                            struct gguf *gguf, struct gguf_error *error) {
  struct reader r = {.head = head, .file_bytes = file_bytes, .error = error};
  r.head_bytes = head_bytes < file_bytes ? head_bytes : file_bytes;
  *gguf = (struct gguf){0};
  *error = (struct gguf_error){0};
  if (!parse(&r, gguf)) gguf_free(gguf);
  return r.result;
}

void gguf_free(struct gguf *gguf) {
  free(gguf->tensors);
  *gguf = (struct gguf){0};
}
