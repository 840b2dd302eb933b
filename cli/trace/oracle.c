/* cli/trace/oracle.c - libCacheSim's oracleGeneral: packed little-endian records of 24 bytes,
 *
 *   u32 clock_time (s)   u64 obj_id   u32 obj_size   i64 next_access_vtime
 *
 * Each is a request of one block. Sizes count alike (libCacheSim's --ignore-obj-size), and records
 * of size 0 are left out, as libCacheSim does; the next access is found anew where it is needed.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/trace/ids.h"
#include "cli/trace/source.h"

enum { RECORD_BYTES = 24, LIKELY_RECORDS = 64 };

struct oracle {
  struct trace_source source;
  struct input *input;
  struct ids ids;
  uint32_t id;
};

struct record {
  uint32_t time_s, size;
  uint64_t id;
  int64_t next;
};

static uint64_t little_endian(const char *bytes, unsigned count) {
  uint64_t value = 0;
  for (unsigned i = count; i-- > 0;) value = value << 8 | (unsigned char)bytes[i];
  return value;
}

static struct record record_at(const char *bytes) {
  return (struct record){.time_s = (uint32_t)little_endian(bytes, 4),
                         .id = little_endian(bytes + 4, 8),
                         .size = (uint32_t)little_endian(bytes + 12, 4),
                         .next = (int64_t)little_endian(bytes + 16, 8)};
}

/* Times do not go back, and a next access is later, or -1 or the greatest number: never. */
bool oracle_likely(const char *bytes, size_t count) {
  uint32_t time_s = 0;
  if (count < RECORD_BYTES) return false;
  for (size_t i = 0; i < LIKELY_RECORDS && (i + 1) * RECORD_BYTES <= count; i++) {
    const struct record record = record_at(bytes + i * RECORD_BYTES);
    if (record.time_s < time_s || (record.next != -1 && record.next < (int64_t)i)) return false;
    time_s = record.time_s;
  }
  return true;
}

static int oracle_next(struct trace_source *source, struct trace_request *request) {
  struct oracle *oracle = (struct oracle *)source;
  struct record record;
  do {
    const char *bytes;
    const int rc =
        input_record(oracle->input, RECORD_BYTES, &bytes, source->why, sizeof source->why);
    if (rc <= 0) return rc;
    record = record_at(bytes);
  } while (record.size == 0);
  if (!ids_name(&oracle->ids, record.id, &oracle->id)) {
    snprintf(source->why, sizeof source->why, "%s: offset %llu: out of memory for %u distinct ids",
             input_name(oracle->input), (unsigned long long)input_offset(oracle->input),
             oracle->ids.count);
    return -1;
  }
  source->unique = oracle->ids.count;
  *request = (struct trace_request){.timestamp_ms = record.time_s * UINT64_C(1000),
                                    .input_tokens = 1,
                                    .blocks = 1,
                                    .ids = &oracle->id};
  return 1;
}

static void oracle_close(struct trace_source *source) {
  struct oracle *oracle = (struct oracle *)source;
  input_close(oracle->input);
  ids_finish(&oracle->ids);
  free(oracle);
}

struct trace_source *oracle_open(struct input *input, char *why, size_t why_bytes) {
  struct oracle *oracle = calloc(1, sizeof *oracle);
  if (oracle == NULL) {
    snprintf(why, why_bytes, "%s: out of memory", input_name(input));
    input_close(input);
    return NULL;
  }
  oracle->source.next = oracle_next;
  oracle->source.close = oracle_close;
  oracle->source.block_tokens = 1;
  oracle->input = input;
  return &oracle->source;
}
