/* gguf.h - the head of a GGUF model file: which tensors there are, and where.
 *
 * Bytes in, a table or an error out; no file is touched. Versions 2 and 3, little-endian. The file may be
 * anybody's: every count and length is held against the file's size before it is believed, memory grows
 * with the bytes read and not with what they claim, and time is linear in the head (but for one sort).
 * Metadata is skipped, except for general.alignment.
 *
 * The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_BENCH_GGUF_H
#define KVSTOW_BENCH_GGUF_H

#include <stddef.h>
#include <stdint.h>

struct gguf_tensor {
  const char *name; /* in the head; not terminated */
  uint64_t name_bytes;
  uint32_t type;          /* ggml's */
  uint64_t offset, bytes; /* in the file */
};

struct gguf {
  uint32_t version, alignment;
  uint64_t metadata_count, tensors_count;
  struct gguf_tensor *tensors; /* as listed */
  uint64_t data_offset, data_bytes;
};

enum gguf_result {
  GGUF_OK,
  GGUF_MORE, /* the head ends before the table does: come back with `wanted` bytes or more */
  GGUF_BAD,
  GGUF_NO_MEMORY,
};

struct gguf_error {
  uint64_t wanted;
  uint64_t offset; /* of the field that is bad; of a tensor out of place, where it claims to be */
  char text[256];  /* what is wrong with it */
};

/* `head`: the first head_bytes of a file of file_bytes; it must outlive *gguf. */
enum gguf_result gguf_parse(const void *head, size_t head_bytes, uint64_t file_bytes,
                            struct gguf *gguf, struct gguf_error *error);

/* Also after an error. */
void gguf_free(struct gguf *gguf);

/* Elements and bytes of one block of a type; elements 0: no such type. */
struct gguf_type {
  const char *name;
  uint32_t elements, bytes;
};
struct gguf_type gguf_type(uint32_t type);

#endif
