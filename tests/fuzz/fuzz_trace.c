/* tests/fuzz/fuzz_trace.c - any file as a trace: requests within bounds, or an error that says where.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zstd.h>

#include "cli/trace/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  const int fd = memfd_create("trace", MFD_CLOEXEC);
  FUZZ_CHECK(fd >= 0 && write(fd, data, bytes) == (ssize_t)bytes);
  char path[64], why[512] = "";
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  struct trace_reader *reader = trace_open(path, NULL, why, sizeof why);
  if (reader == NULL) {
    FUZZ_CHECK(*why != 0);
    close(fd);
    return 0;
  }
  struct trace_request request;
  int rc;
  while ((rc = trace_next(reader, &request)) == 1)
    for (uint32_t i = 0; i < request.blocks; i++) FUZZ_CHECK(request.ids[i] < trace_unique(reader));
  FUZZ_CHECK(rc == 0 || *trace_why(reader) != 0);
  trace_close(reader);
  const struct trace_options options = {.limit = 100};
  struct trace *trace = trace_load(path, &options, why, sizeof why);
  if (trace != NULL) {
    FUZZ_CHECK(trace->request_count > 0 && trace->request_count <= 100 && trace->block_tokens > 0);
    struct trace_walk *walk = trace_walk_begin(trace);
    uint64_t accesses = 0;
    for (const struct trace_request *got; (got = trace_walk_next(walk)) != NULL;
         accesses += got->blocks)
      for (uint32_t i = 0; i < got->blocks; i++) FUZZ_CHECK(got->ids[i] < trace->unique);
    FUZZ_CHECK(trace_walk_end(walk) && accesses == trace->accesses);
    trace_free(trace);
  }
  close(fd);
  return 0;
}

void fuzz_seeds(fuzz_give give) {
  static const char plain[] =
      "{\"timestamp\": 5, \"input_length\": 1030, \"output_length\": 7, \"hash_ids\": [9, 1, 70]}\n"
      "{\"timestamp\": 6.5, \"input_length\": 1000, \"output_length\": 0, \"hash_ids\": [9, 4], "
      "\"session\": 3, \"more\": {\"a\": [1, \"b\", null]}}\r\n\n";
  static const char tokens[] =
      "{\"hash_ids\":[0,1,18446744073709551615],\"input_length\":96,\"output_length\":0,"
      "\"timestamp\":0,\"block_tokens\":32}\n";
  static const char qwen[] =
      "{\"chat_id\":159,\"parent_chat_id\":-1,\"timestamp\":61.114,\"input_length\":40,"
      "\"output_length\":5,\"type\":\"text\",\"turn\":1,\"hash_ids\":[10,11,12]}\n";
  static const char csv[] = "10,77,512\n11.5,ab,1\n12,77,3\n";
  static const char oracle[] =
      "\5\0\0\0\7\0\0\0\0\0\0\0\1\0\0\0\2\0\0\0\0\0\0\0"
      "\6\0\0\0\7\0\0\0\0\0\0\0\1\0\0\0\377\377\377\377\377\377\377\377";
  char packed[512];
  give("qwen", qwen, sizeof qwen - 1);
  give("csv", csv, sizeof csv - 1);
  give("oracle", oracle, sizeof oracle - 1);
  give("plain", plain, sizeof plain - 1);
  give("tokens", tokens, sizeof tokens - 1);
  const size_t count = ZSTD_compress(packed, sizeof packed, plain, sizeof plain - 1, 3);
  FUZZ_CHECK(!ZSTD_isError(count));
  give("zstd", packed, count);
}
