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
  struct trace_reader *reader = trace_open(path, why, sizeof why);
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
  struct trace *trace = trace_load(path, 100, 0, why, sizeof why);
  if (trace != NULL) {
    FUZZ_CHECK(trace->request_count > 0 && trace->request_count <= 100 && trace->block_tokens > 0);
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
  char packed[512];
  give("plain", plain, sizeof plain - 1);
  give("tokens", tokens, sizeof tokens - 1);
  const size_t count = ZSTD_compress(packed, sizeof packed, plain, sizeof plain - 1, 3);
  FUZZ_CHECK(!ZSTD_isError(count));
  give("zstd", packed, count);
}
