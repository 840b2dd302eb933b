/* cli/trace/oracle.c - libCacheSim's oracleGeneral: packed little-endian records of 24 bytes,
 *
 *   u32 clock_time (s)   u64 obj_id   u32 obj_size   i64 next_access_vtime
 *
 * Each is a request of one block. Sizes count alike (libCacheSim's --ignore-obj-size), and records
 * of size 0 are left out, as libCacheSim does; the next access is found anew where it is needed.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/trace/ids.h"
#include "cli/trace/source.h"

enum { RECORD_BYTES = 24, LIKELY_RECORDS = 64, BATCH_RECORDS = 512 };

struct oracle {
  struct trace_source source;
  struct input *input;
  struct ids ids;
  uint32_t count, at; /* named: [at, count) are still to be handed out */
  uint32_t times_s[BATCH_RECORDS], names[BATCH_RECORDS];
};

struct record {
  uint32_t time_s, size;
  uint64_t id;
  int64_t next;
};

static uint32_t u32_at(const char *bytes) {
  uint32_t value;
  memcpy(&value, bytes, sizeof value);
  return le32toh(value);
}

static uint64_t u64_at(const char *bytes) {
  uint64_t value;
  memcpy(&value, bytes, sizeof value);
  return le64toh(value);
}

static struct record record_at(const char *bytes) {
  return (struct record){.time_s = u32_at(bytes),
                         .id = u64_at(bytes + 4),
                         .size = u32_at(bytes + 12),
                         .next = (int64_t)u64_at(bytes + 16)};
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

/* Names the next records; as trace_next(). */
static int take_batch(struct oracle *oracle) {
  struct trace_source *source = &oracle->source;
  uint64_t keys[BATCH_RECORDS];
  oracle->at = oracle->count = 0;
  while (oracle->count == 0) {
    const char *bytes;
    size_t count;
    const int rc = input_records(oracle->input, RECORD_BYTES, BATCH_RECORDS, &bytes, &count,
                                 source->why, sizeof source->why);
    if (rc <= 0) return rc;
    for (size_t i = 0; i < count; i++) {
      const struct record record = record_at(bytes + i * RECORD_BYTES);
      keys[oracle->count] = record.id;
      oracle->times_s[oracle->count] = record.time_s;
      oracle->count += record.size != 0;
    }
  }
  if (ids_names(&oracle->ids, keys, oracle->count, oracle->names)) return 1;
  oracle->count = 0;
  snprintf(source->why, sizeof source->why, "%s: offset %llu: out of memory for %u distinct ids",
           input_name(oracle->input), (unsigned long long)input_offset(oracle->input),
           oracle->ids.count);
  return -1;
}

static int oracle_next(struct trace_source *source, struct trace_request *request) {
  struct oracle *oracle = (struct oracle *)source;
  if (oracle->at == oracle->count) {
    const int rc = take_batch(oracle);
    if (rc <= 0) return rc;
  }
  const uint32_t *name = &oracle->names[oracle->at];
  if (*name >= source->unique) source->unique = *name + 1;
  *request = (struct trace_request){.timestamp_ms = oracle->times_s[oracle->at] * UINT64_C(1000),
                                    .input_tokens = 1,
                                    .blocks = 1,
                                    .ids = name};
  oracle->at++;
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
