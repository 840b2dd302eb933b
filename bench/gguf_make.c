/* gguf_make.c - see gguf_make.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/gguf_make.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/gguf.h"
#include "bench/measure.h"

enum {
  ALIGNMENT = 32,
  TOKENS = 512,
  ROPE_FREQS = 33, /* 132 bytes: the one tensor that needs padding */
  DIM_MIN = 256,
  DIM_MAX = 4096,
  LAYERS_WANTED = 8, /* a dimension is chosen that has so many, if one has */
  CHUNK_BYTES = 1 << 20,
};

enum { F32 = 0, Q4_K = 12, Q6_K = 14, I8 = 24 };
enum {
  V_U8,
  V_I8,
  V_U16,
  V_I16,
  V_U32,
  V_I32,
  V_F32,
  V_BOOL,
  V_STRING,
  V_ARRAY,
  V_U64,
  V_I64,
  V_F64
};

/* In quarters of the model's dimension: elements in a row, and rows; 0 rows: a vector. */
static const struct {
  const char *name;
  uint32_t type, width, height;
} layer[] = {
    {"attn_norm", F32, 4, 0},  {"attn_q", Q4_K, 4, 4},      {"attn_k", Q4_K, 4, 1},
    {"attn_v", Q6_K, 4, 1},    {"attn_output", Q4_K, 4, 4}, {"ffn_norm", F32, 4, 0},
    {"ffn_gate", Q4_K, 4, 16}, {"ffn_up", Q4_K, 4, 16},     {"ffn_down", Q6_K, 16, 4},
};

enum { LAYER_TENSORS = sizeof layer / sizeof *layer };

static uint64_t aligned(uint64_t bytes) {
  return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static uint64_t bytes_of(uint32_t type, uint64_t width, uint64_t height) {
  const struct gguf_type t = gguf_type(type);
  return width * (height == 0 ? 1 : height) / t.elements * t.bytes;
}

/* ---- the head ------------------------------------------------------------------------------- */

/* Written to memory; counted only, while `bytes` is NULL. */
struct head {
  char *bytes;
  uint64_t at;
  uint64_t data; /* where the next tensor goes, from the data section's start */
};

static void put(struct head *head, const void *bytes, size_t count) {
  if (head->bytes != NULL) memcpy(head->bytes + head->at, bytes, count);
  head->at += count;
}

static void put_number(struct head *head, uint64_t value, unsigned bytes) {
  unsigned char little[8];
  for (unsigned i = 0; i < bytes; i++) little[i] = (unsigned char)(value >> 8 * i);
  put(head, little, bytes);
}

static void put_string(struct head *head, const char *text) {
  put_number(head, strlen(text), 8);
  put(head, text, strlen(text));
}

static void put_pair(struct head *head, const char *key, uint32_t type) {
  put_string(head, key);
  put_number(head, type, 4);
}

static void put_array(struct head *head, const char *key, uint32_t type, uint64_t count) {
  put_pair(head, key, V_ARRAY);
  put_number(head, type, 4);
  put_number(head, count, 8);
}

static void put_tokenizer(struct head *head) {
  put_array(head, "tokenizer.ggml.tokens", V_STRING, TOKENS);
  for (unsigned i = 0; i < TOKENS; i++) {
    char token[32];
    snprintf(token, sizeof token, "token%u", i * i);
    put_string(head, token);
  }
  put_array(head, "tokenizer.ggml.scores", V_F32, TOKENS);
  for (unsigned i = 0; i < TOKENS; i++) put_number(head, 0xc0000000u + i, 4);
  put_array(head, "tokenizer.ggml.token_type", V_I32, TOKENS);
  for (unsigned i = 0; i < TOKENS; i++) put_number(head, 1, 4);
}

/* Every type once. */
static uint64_t put_metadata(struct head *head, uint64_t layers, uint32_t dim) {
  static const struct {
    const char *key;
    uint32_t type;
    unsigned bytes;
  } scalars[] = {
      {"kvstow.u8", V_U8, 1},   {"kvstow.i8", V_I8, 1},     {"kvstow.u16", V_U16, 2},
      {"kvstow.i16", V_I16, 2}, {"kvstow.i32", V_I32, 4},   {"kvstow.f32", V_F32, 4},
      {"kvstow.u64", V_U64, 8}, {"kvstow.bool", V_BOOL, 1}, {"kvstow.i64", V_I64, 8},
      {"kvstow.f64", V_F64, 8},
  };
  enum { SCALARS = sizeof scalars / sizeof *scalars };
  put_pair(head, "general.architecture", V_STRING);
  put_string(head, "llama");
  put_pair(head, "general.name", V_STRING);
  put_string(head, "made by kvstow bench gguf --generate");
  put_pair(head, "general.alignment", V_U32);
  put_number(head, ALIGNMENT, 4);
  put_pair(head, "llama.block_count", V_U32);
  put_number(head, layers, 4);
  put_pair(head, "llama.embedding_length", V_U32);
  put_number(head, dim, 4);
  for (unsigned i = 0; i < SCALARS; i++) {
    put_pair(head, scalars[i].key, scalars[i].type);
    put_number(head, 1, scalars[i].bytes);
  }
  put_tokenizer(head);
  return 5 + SCALARS + 3;
}

static void put_info(struct head *head, const char *name, uint32_t type, uint64_t width,
                     uint64_t height) {
  put_string(head, name);
  put_number(head, height == 0 ? 1 : 2, 4);
  put_number(head, width, 8);
  if (height != 0) put_number(head, height, 8);
  put_number(head, type, 4);
  put_number(head, head->data, 8);
  head->data = aligned(head->data + bytes_of(type, width, height));
}

/* Returns the file's size if the last tensor has no bytes. */
static uint64_t put_head(struct head *head, uint64_t layers, uint32_t dim, uint64_t last_bytes) {
  const uint64_t tensors = 2 + layers * LAYER_TENSORS;
  put(head, "GGUF", 4);
  put_number(head, 3, 4);
  put_number(head, tensors, 8);
  struct head counted = {NULL, 0, 0};
  put_number(head, put_metadata(&counted, layers, dim), 8);
  (void)put_metadata(head, layers, dim);
  put_info(head, "rope_freqs.weight", F32, ROPE_FREQS, 0);
  for (uint64_t l = 0; l < layers; l++)
    for (unsigned i = 0; i < LAYER_TENSORS; i++) {
      char name[64];
      snprintf(name, sizeof name, "blk.%llu.%s.weight", (unsigned long long)l, layer[i].name);
      put_info(head, name, layer[i].type, (uint64_t)layer[i].width * dim / 4,
               (uint64_t)layer[i].height * dim / 4);
    }
  const uint64_t last = head->data;
  put_info(head, "rest", I8, last_bytes, 0);
  return aligned(head->at) + last;
}

static uint64_t size_of(uint64_t layers, uint32_t dim) {
  struct head head = {NULL, 0, 0};
  return put_head(&head, layers, dim, 0);
}

/* As many layers as leave the last tensor a byte. */
static uint64_t layers_in(uint64_t bytes, uint32_t dim) {
  uint64_t low = 0,
           high = bytes / ((uint64_t)dim * dim) + 1; /* a layer has more than dim^2 bytes */
  while (low < high) {
    const uint64_t middle = low + (high - low + 1) / 2;
    if (size_of(middle, dim) < bytes)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

/* ---- the file ------------------------------------------------------------------------------- */

static int write_weights(FILE *file, uint64_t bytes, uint64_t seed) {
  char *chunk = malloc(CHUNK_BYTES);
  if (chunk == NULL) return -ENOMEM;
  int rc = 0;
  while (bytes > 0 && rc == 0) {
    const size_t piece = bytes < CHUNK_BYTES ? (size_t)bytes : CHUNK_BYTES;
    seed = measure_fill(chunk, piece, seed);
    if (fwrite(chunk, 1, piece, file) != piece) rc = -errno;
    bytes -= piece;
  }
  free(chunk);
  return rc;
}

/* The padding behind rope_freqs is zero as the format wants it; other tensors need none. */
static int write_data(FILE *file, uint64_t bytes, uint64_t seed) {
  static const char zeros[ALIGNMENT];
  const uint64_t first = bytes_of(F32, ROPE_FREQS, 0);
  int rc = write_weights(file, first, seed);
  if (rc == 0 && fwrite(zeros, aligned(first) - first, 1, file) != 1) rc = -errno;
  return rc == 0 ? write_weights(file, bytes - aligned(first), seed + 1) : rc;
}

static int write_file(FILE *file, const struct head *head, uint64_t bytes, uint64_t seed) {
  if (fwrite(head->bytes, 1, aligned(head->at), file) != aligned(head->at)) return -errno;
  const int rc = write_data(file, bytes - aligned(head->at), seed);
  if (rc != 0) return rc;
  return fflush(file) != 0 || fsync(fileno(file)) != 0 ? -errno : 0;
}

int gguf_make(const char *path, uint64_t bytes, uint64_t seed, uint64_t *least) {
  *least = size_of(0, DIM_MIN) + 1;
  if (bytes < *least) return -EINVAL;
  uint32_t dim = DIM_MAX;
  while (dim > DIM_MIN && layers_in(bytes, dim) < LAYERS_WANTED) dim /= 2;
  const uint64_t layers = layers_in(bytes, dim);
  struct head head = {NULL, 0, 0};
  const uint64_t rest = bytes - put_head(&head, layers, dim, 0);
  char *memory = calloc(1, aligned(head.at));
  if (memory == NULL) return -ENOMEM;
  head = (struct head){memory, 0, 0};
  (void)put_head(&head, layers, dim, rest);
  FILE *file = fopen(path, "wxe");
  int rc = file == NULL ? -errno : write_file(file, &head, bytes, seed);
  if (file != NULL && fclose(file) != 0 && rc == 0) rc = -errno;
  if (file != NULL && rc != 0) (void)unlink(path);
  free(memory);
  return rc;
}
