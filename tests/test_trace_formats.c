/* tests/test_trace_formats.c - traces of others, told apart by content and name, good and bad; and
 * that a trace unpacks to what was packed.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <zstd.h>

#include "cli/trace/packed.h"
#include "cli/trace/trace.h"
#include "tests/support/whole_trace.h"

static char directory[] = "/tmp/kvstow-formats-XXXXXX";
static char path[128];

static void write_file(const char *name, const void *bytes, size_t count) {
  snprintf(path, sizeof path, "%s/%s", directory, name);
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(bytes, 1, count, file), count);
  assert_int_equal(fclose(file), 0);
}

static struct trace *load(const char *format) {
  char why[512] = "";
  const struct trace_options options = {.format = format};
  struct trace *trace = trace_load(path, &options, why, sizeof why);
  if (trace == NULL) fail_msg("%s", why);
  return trace;
}

static void expect_refused(const char *format, const char *cause) {
  char why[512] = "";
  const struct trace_options options = {.format = format};
  if (trace_load(path, &options, why, sizeof why) != NULL) fail_msg("accepted, but: %s", cause);
  if (strstr(why, cause) == NULL) fail_msg("says `%s`, without `%s`", why, cause);
}

/* ---- Qwen-Bailian ---- */

static const char qwen[] =
    "{\"chat_id\":159,\"parent_chat_id\":-1,\"timestamp\":61.114,\"input_length\":40,"
    "\"output_length\":5,\"type\":\"text\",\"turn\":1,\"hash_ids\":[10,11,12]}\n"
    "{\"chat_id\":7,\"parent_chat_id\":-1,\"timestamp\":62,\"input_length\":33,"
    "\"output_length\":5,\"type\":\"image\",\"turn\":1,\"hash_ids\":[99,11,12]}\n"
    "{\"chat_id\":200,\"parent_chat_id\":159,\"timestamp\":63.5,\"input_length\":60,"
    "\"output_length\":1,\"type\":\"text\",\"turn\":2,\"hash_ids\":[10,11,12,13]}\n"
    "{\"chat_id\":201,\"parent_chat_id\":5000,\"timestamp\":64,\"input_length\":16,"
    "\"output_length\":1,\"type\":\"novel\",\"hash_ids\":[10]}\n";

static void qwen_has_seconds_sessions_and_blocks_behind_blocks(void **state) {
  (void)state;
  write_file("chat.jsonl", qwen, strlen(qwen));
  struct trace *trace = load(NULL);
  struct whole_trace whole = whole_trace_of(trace);
  assert_int_equal(trace->request_count, 4);
  assert_int_equal(trace->block_tokens, 16);
  assert_int_equal(whole.requests[0].timestamp_ms, 61114);
  assert_int_equal(whole.requests[1].timestamp_ms, 62000);
  assert_int_equal(whole.requests[0].category, 1);
  assert_int_equal(whole.requests[1].category, 3);
  assert_int_equal(whole.requests[3].category, 5);
  assert_true(whole.requests[0].session != 0);
  assert_int_equal(whole.requests[2].session, whole.requests[0].session);
  assert_true(whole.requests[1].session != whole.requests[0].session);
  assert_true(whole.requests[3].session != whole.requests[0].session);
  /* 11 and 12 behind 99 are not those behind 10. */
  static const uint32_t ids[] = {0, 1, 2, 3, 4, 5, 0, 1, 2, 6, 0};
  assert_int_equal(trace->unique, 7);
  assert_memory_equal(whole.ids, ids, sizeof ids);
  whole_trace_free(&whole);
  trace_free(trace);

  trace = load("mooncake"); /* the same lines, read as the other dialect */
  assert_int_equal(trace->unique, 5);
  assert_int_equal(trace->first_ms, 61);
  trace_free(trace);
}

static void qwen_says_what_is_missing(void **state) {
  static const char text[] =
      "{\"timestamp\":1,\"input_length\":1,\"output_length\":1,\"hash_ids\":[1]}\n";
  static const char negative[] =
      "{\"chat_id\":-2,\"timestamp\":1,\"input_length\":1,\"output_length\":1,\"hash_ids\":[1]}\n";
  (void)state;
  write_file("t.jsonl", text, strlen(text));
  expect_refused("qwen", ":1:1: no field `chat_id`");
  write_file("t.jsonl", negative, strlen(negative));
  expect_refused(NULL, "`chat_id` is negative (-2)");
}

/* ---- oracleGeneral ---- */

static size_t put_record(unsigned char *at, uint32_t time_s, uint64_t id, uint32_t size,
                         int64_t next) {
  for (int i = 0; i < 4; i++) at[i] = (unsigned char)(time_s >> 8 * i);
  for (int i = 0; i < 8; i++) at[4 + i] = (unsigned char)(id >> 8 * i);
  for (int i = 0; i < 4; i++) at[12 + i] = (unsigned char)(size >> 8 * i);
  for (int i = 0; i < 8; i++) at[16 + i] = (unsigned char)((uint64_t)next >> 8 * i);
  return 24;
}

static void oracle_general_is_one_block_a_record(void **state) {
  unsigned char bytes[24 * 4] = {0};
  char packed[512] = "";
  size_t count = 0;
  (void)state;
  count += put_record(bytes + count, 5, UINT64_C(0xdeadbeefcafef00d), 4096, 2);
  count += put_record(bytes + count, 6, 17, 0, -1); /* size 0: left out, as libCacheSim does */
  count += put_record(bytes + count, 6, UINT64_C(0xdeadbeefcafef00d), 1, -1);
  count += put_record(bytes + count, 9, 18, 512, INT64_MAX);
  write_file("bare", bytes, count);
  for (int round = 0; round < 3; round++) {
    if (round == 1) {
      const size_t size = ZSTD_compress(packed, sizeof packed, bytes, count, 3);
      assert_false(ZSTD_isError(size));
      write_file("w01.oracleGeneral.bin.zst", packed, size);
    }
    struct trace *trace = load(round == 2 ? "oracleGeneral" : NULL);
    struct whole_trace whole = whole_trace_of(trace);
    assert_int_equal(trace->request_count, 3);
    assert_int_equal(trace->accesses, 3);
    assert_int_equal(trace->unique, 2);
    assert_int_equal(trace->block_tokens, 1);
    assert_int_equal(trace->input_tokens, 3);
    assert_int_equal(trace->first_ms, 5000);
    assert_int_equal(trace->last_ms, 9000);
    assert_int_equal(whole.ids[0], whole.ids[1]);
    assert_int_equal(whole.requests[2].timestamp_ms, 9000);
    whole_trace_free(&whole);
    trace_free(trace);
  }
}

static void oracle_general_is_refused_with_its_offset(void **state) {
  unsigned char bytes[24 * 3] = {0};
  (void)state;
  for (size_t i = 0; i < 3; i++) put_record(bytes + 24 * i, 1, i, 1, -1);
  write_file("x.oracleGeneral.bin", bytes, 24 * 2 + 13);
  expect_refused(NULL, "offset 48: a record of 24 bytes ends after 13");
  memset(bytes, 0xfe, sizeof bytes); /* no times, no next accesses: something else */
  write_file("noise", bytes, sizeof bytes);
  expect_refused(NULL, "in no known format");
}

/* ---- csv ---- */

struct csv_case {
  const char *text, *format;
  uint32_t accesses, unique;
  uint64_t first_ms, last_ms;
};

static void csv_columns_come_from_parameters_header_or_place(void **state) {
  static const struct csv_case cases[] = {
      {"1\n2\n1\n", NULL, 3, 2, 0, 0},
      {"10,77\n11.5,78\n12,77\n", NULL, 3, 2, 10000, 12000},
      {"10,77,512\n11,77,512", NULL, 2, 1, 10000, 11000},
      {"version,time,op,size,lbn\n1,33898,2a,512,42932745\n1,33899,2a,512,42932745\n", NULL, 2, 1,
       33898000, 33899000},
      {"obj_id\ttime\r\nab\t3\r\nac\t4\r\nab\t5\r\n\r\n", NULL, 3, 2, 3000, 5000},
      {"\"a b\";9\n\"c\";9\n\"a b\";9\n", "csv:obj-id-col=1,delimiter=;,has-header=false", 3, 2, 0,
       0},
      {"1,\"a,b\",9\n2,\"a,c\",9\n3,\"a,b\",9\n", NULL, 3, 2, 1000, 3000},
      {"x|y\n5|1\n6|1\n", "csv:time-col=1,obj-id-col=2,has-header=true,delimiter=|", 2, 1, 5000,
       6000},
      {"1,33898,2a,512,7\n", "csv:time-col=2,obj-id-col=5,obj-size-col=4", 1, 1, 33898000,
       33898000},
      {"18446744073709551615\n18446744073709551616\n007\n7\n", NULL, 4, 3, 0, 0},
  };
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    write_file("a.csv", cases[i].text, strlen(cases[i].text));
    struct trace *trace = load(cases[i].format);
    assert_int_equal(trace->accesses, cases[i].accesses);
    assert_int_equal(trace->unique, cases[i].unique);
    assert_int_equal(trace->first_ms, cases[i].first_ms);
    assert_int_equal(trace->last_ms, cases[i].last_ms);
    trace_free(trace);
  }
}

static void csv_is_refused_with_its_line(void **state) {
  static const struct {
    const char *text, *format, *cause;
  } bad[] = {
      {"1,2\n3\n", NULL, ":2: no id in column 2"},
      {"1,2\nx,3\n", NULL, ":2: no time"},
      {"1,2\n-4,3\n", NULL, ":2: no time"},
      {"1,2\n1e99,3\n", NULL, ":2: no time"},
      {"1,2\n,3\n", NULL, ":2: no time"},
      {"1\n2\n", "csv:time-col=3", ":1: no time"},
      {"a,b\n1,2\n", NULL, ":1: no column is called obj_id"},
      {"1,\n", NULL, ":1: no id"},
      {"", NULL, "no requests"},
      {"1\n2\n", "csv:obj-id-col=0", "csv parameter `obj-id-col`"},
      {"1\n2\n", "csv:colour=blue", "csv parameter `colour`"},
      {"1\n2\n", "parquet", "expected mooncake"},
  };
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    write_file("bad.csv", bad[i].text, strlen(bad[i].text));
    expect_refused(bad[i].format, bad[i].cause);
  }
  write_file("bad.csv", "\x1f\x8b\x08", 3);
  expect_refused(NULL, "compressed by gzip");
  write_file("bad.csv", "1\n2\0003\n", 6);
  expect_refused("csv", ":2: a zero byte");
}

/* ---- read ahead ---- */

enum { RECORDS = 1500 };

/* Of accesses read ahead those beyond the limit are not part of the trace: neither their names nor what is
 * wrong with them. */
static void what_lies_beyond_the_limit_does_not_count(void **state) {
  static unsigned char bytes[24 * RECORDS + 5];
  static char text[16 * RECORDS];
  static const uint64_t limits[] = {1, 2, 255, 256, 257, 511, 512, 513, 1024, 1499, 1500};
  char why[512];
  size_t length = 0;
  (void)state;
  for (uint32_t i = 0; i < RECORDS; i++) {
    put_record(bytes + (size_t)24 * i, i / 3, i / 2, 1, -1);
    length += (size_t)snprintf(text + length, sizeof text - length, "%u.5,%u\n", i / 3, i / 2);
  }
  snprintf(text + length, sizeof text - length, "7,\n");
  for (unsigned csv = 0; csv < 2; csv++) {
    if (csv)
      write_file("a.csv", text, strlen(text));
    else
      write_file("x.oracleGeneral.bin", bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
      const struct trace_options options = {.limit = limits[i]};
      struct trace *trace = trace_load(path, &options, why, sizeof why);
      if (trace == NULL) fail_msg("%s", why);
      assert_int_equal(trace->request_count, limits[i]);
      assert_int_equal(trace->unique, (limits[i] + 1) / 2);
      assert_int_equal(trace->last_ms, (limits[i] - 1) / 3 * 1000 + 500 * csv);
      trace_free(trace);
    }
    expect_refused(NULL, csv ? ":1501: no id" : "offset 36000: a record of 24 bytes ends after 5");
  }
}

static void records_of_no_size_are_left_out_however_many(void **state) {
  static unsigned char bytes[24 * RECORDS];
  (void)state;
  for (uint32_t i = 0; i < RECORDS; i++)
    put_record(bytes + (size_t)24 * i, i, i, i == 3 || i + 1 == RECORDS, -1);
  write_file("x.oracleGeneral.bin", bytes, sizeof bytes);
  struct trace *trace = load(NULL);
  assert_int_equal(trace->request_count, 2);
  assert_int_equal(trace->unique, 2);
  assert_int_equal(trace->first_ms, 3000);
  assert_int_equal(trace->last_ms, (RECORDS - 1) * 1000);
  trace_free(trace);
}

/* ---- packed ---- */

static uint64_t random_next(uint64_t *state) {
  uint64_t x = *state += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

enum { IDS = 3000000, LONGEST = 9000 };

/* The same request again from the same state; its ids go to `ids`. */
static struct trace_request random_request(uint64_t *state, uint32_t *ids) {
  struct trace_request request = {.ids = ids};
  const uint64_t kind = random_next(state);
  request.timestamp_ms = kind % 3 == 0 ? 7 : random_next(state) >> (kind % 64);
  request.session = kind % 5 == 0 ? 0 : random_next(state);
  request.input_tokens = (uint32_t)(kind % 7 == 0 ? 1 : random_next(state));
  request.output_tokens = (uint32_t)(kind >> 8) % 3;
  request.category = (uint32_t)(kind >> 10) % 3;
  request.blocks = (uint32_t)(kind % 11 == 0 ? kind % 3 : random_next(state) % LONGEST);
  for (uint32_t i = 0; i < request.blocks; i++) {
    const uint64_t draw = random_next(state);
    const bool run = i > 0 && ids[i - 1] + 1 < IDS && draw % 4 == 0;
    ids[i] = run ? ids[i - 1] + 1 : (uint32_t)(draw >> 8) % IDS;
  }
  return request;
}

static void assert_unpacks(const struct trace *trace, uint64_t seed, struct trace_walk *walk) {
  static uint32_t ids[LONGEST];
  const struct trace_request *got;
  uint64_t count = 0, state = seed;
  while ((got = trace_walk_next(walk)) != NULL) {
    const struct trace_request want = random_request(&state, ids);
    assert_int_equal(got->timestamp_ms, want.timestamp_ms);
    assert_int_equal(got->session, want.session);
    assert_int_equal(got->input_tokens, want.input_tokens);
    assert_int_equal(got->output_tokens, want.output_tokens);
    assert_int_equal(got->category, want.category);
    assert_int_equal(got->blocks, want.blocks);
    if (want.blocks > 0) assert_memory_equal(got->ids, want.ids, want.blocks * sizeof *ids);
    for (uint32_t i = 0; i < TRACE_AHEAD; i++) assert_true(got->ids[want.blocks + i] < IDS);
    count++;
  }
  assert_int_equal(count, trace->request_count);
}

static void what_is_packed_unpacks_from_memory_and_from_disk(void **state) {
  static const unsigned requests[] = {1, 700, 4000}; /* the last is about 60 MB */
  static uint32_t ids[LONGEST];
  (void)state;
  for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
    const uint64_t seed = 42 + i;
    uint64_t random = seed;
    struct trace *trace = trace_create("random");
    assert_non_null(trace);
    for (unsigned r = 0; r < requests[i]; r++) {
      const struct trace_request request = random_request(&random, ids);
      assert_true(trace_append(trace, &request));
    }
    assert_true(spool_seal(&trace->packed->spool));
    const bool on_disk = trace->packed->spool.fd >= 0;
    assert_int_equal(on_disk, requests[i] == 4000);
    if (on_disk) assert_null(trace->packed->spool.memory);
    struct trace_walk *walk = trace_walk_begin(trace);
    assert_non_null(walk);
    assert_unpacks(trace, seed, walk);
    trace_walk_rewind(walk);
    trace_walk_next(walk);
    trace_walk_rewind(walk);
    assert_unpacks(trace, seed, walk);
    assert_true(trace_walk_end(walk));
    trace_free(trace);
  }
}

static void a_file_that_shrank_is_noticed(void **state) {
  static uint32_t ids[LONGEST];
  uint64_t random = 1;
  (void)state;
  struct trace *trace = trace_create("shrinks");
  assert_non_null(trace);
  while (trace->packed->spool.fd < 0) {
    const struct trace_request request = random_request(&random, ids);
    assert_true(trace_append(trace, &request));
  }
  assert_true(spool_seal(&trace->packed->spool));
  assert_int_equal(ftruncate(trace->packed->spool.fd, 5 << 20), 0);
  struct trace_walk *walk = trace_walk_begin(trace);
  assert_non_null(walk);
  while (trace_walk_next(walk) != NULL) continue;
  assert_false(trace_walk_end(walk));
  trace_free(trace);
}

static int make_directory(void **state) {
  (void)state;
  return mkdtemp(directory) == NULL ? -1 : 0;
}

static int remove_directory(void **state) {
  static const char *const names[] = {
      "chat.jsonl",          "t.jsonl", "bare",  "w01.oracleGeneral.bin.zst",
      "x.oracleGeneral.bin", "noise",   "a.csv", "bad.csv"};
  (void)state;
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    snprintf(path, sizeof path, "%s/%s", directory, names[i]);
    unlink(path);
  }
  return rmdir(directory);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(qwen_has_seconds_sessions_and_blocks_behind_blocks),
      cmocka_unit_test(qwen_says_what_is_missing),
      cmocka_unit_test(oracle_general_is_one_block_a_record),
      cmocka_unit_test(oracle_general_is_refused_with_its_offset),
      cmocka_unit_test(csv_columns_come_from_parameters_header_or_place),
      cmocka_unit_test(csv_is_refused_with_its_line),
      cmocka_unit_test(what_lies_beyond_the_limit_does_not_count),
      cmocka_unit_test(records_of_no_size_are_left_out_however_many),
      cmocka_unit_test(what_is_packed_unpacks_from_memory_and_from_disk),
      cmocka_unit_test(a_file_that_shrank_is_noticed),
  };
  return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
