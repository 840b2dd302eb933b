/* tests/fuzz/fuzz_gguf.c - any bytes as the head of a model file: nothing is read or claimed outside it.
 *
 * Input: four bytes, how much longer the file is than its head; then the head.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "bench/gguf.h"
#include "bench/gguf_make.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  if (bytes < 4) return 0;
  uint32_t more;
  memcpy(&more, data, sizeof more);
  data += 4;
  bytes -= 4;
  const uint64_t file_bytes = bytes + (uint64_t)more;
  struct gguf gguf;
  struct gguf_error error = {0};
  const enum gguf_result result = gguf_parse(data, bytes, file_bytes, &gguf, &error);
  switch (result) {
    case GGUF_OK:
      FUZZ_CHECK(gguf.data_offset <= file_bytes &&
                 gguf.data_bytes <= file_bytes - gguf.data_offset);
      for (uint64_t i = 0; i < gguf.tensors_count; i++) {
        const struct gguf_tensor *t = &gguf.tensors[i];
        FUZZ_CHECK(t->offset >= gguf.data_offset && t->offset <= file_bytes);
        FUZZ_CHECK(t->bytes <= file_bytes - t->offset);
        FUZZ_CHECK((const uint8_t *)t->name >= data && t->name_bytes <= bytes);
        FUZZ_CHECK((const uint8_t *)t->name + t->name_bytes <= data + bytes);
      }
      break;
    case GGUF_MORE:
      FUZZ_CHECK(error.wanted > bytes && error.wanted <= file_bytes);
      break;
    case GGUF_BAD:
      FUZZ_CHECK(*error.text != 0);
      break;
    case GGUF_NO_MEMORY:
      break;
  }
  gguf_free(&gguf);
  return 0;
}

/* The head of a file of the least size, and one cut off. */
void fuzz_seeds(fuzz_give give) {
  char path[] = "/tmp/kvstow-fuzz-gguf-XXXXXX";
  const int fd = mkstemp(path);
  uint64_t least = 0;
  FUZZ_CHECK(fd >= 0);
  unlink(path); /* it makes no file over another */
  (void)gguf_make(path, 1, 1, &least);
  FUZZ_CHECK(least > 0 && gguf_make(path, least, 1, &least) == 0);
  static uint8_t seed[4 + 65536];
  const int again = open(path, O_RDONLY | O_CLOEXEC);
  FUZZ_CHECK(again >= 0);
  const ssize_t got = read(again, seed + 4, sizeof seed - 4);
  FUZZ_CHECK(got > 0);
  struct gguf gguf;
  struct gguf_error error;
  FUZZ_CHECK(gguf_parse(seed + 4, (size_t)got, least, &gguf, &error) == GGUF_OK);
  const size_t head =
      (size_t)gguf.data_offset < (size_t)got ? (size_t)gguf.data_offset : (size_t)got;
  gguf_free(&gguf);
  const uint32_t more = (uint32_t)(least - head);
  memcpy(seed, &more, sizeof more);
  give("made", seed, 4 + head);
  give("cut", seed, 4 + head / 2);
  close(again);
  close(fd);
  unlink(path);
}
