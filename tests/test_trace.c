/* tests/test_trace.c - reading traces: good ones, every kind of bad one, and generated ones.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <zstd.h>

#include "cli/trace/trace.h"
#include "tests/shared_traces.h"
#include "tests/support/whole_trace.h"

static char path[] = "/tmp/kvstow-trace-XXXXXX";

static void write_file(const void *bytes, size_t count) {
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(bytes, 1, count, file), count);
  assert_int_equal(fclose(file), 0);
}

static void write_text(const char *text) {
  write_file(text, strlen(text));
}

static size_t compress(const char *text, char *out, size_t out_bytes) {
  const size_t bytes = ZSTD_compress(out, out_bytes, text, strlen(text), 3);
  assert_false(ZSTD_isError(bytes));
  return bytes;
}

static const char two_requests[] =
    "{\"timestamp\": 5, \"input_length\": 1030, \"output_length\": 7, \"hash_ids\": [9, 1, 70]}\n"
    "{\"timestamp\": 6.5, \"input_length\": 1000, \"output_length\": 0, \"hash_ids\": [9, 4], "
    "\"session\": 3, \"more\": {}}";

static void check_two_requests(struct trace_reader *reader) {
  struct trace_request request;
  assert_int_equal(trace_next(reader, &request), 1);
  assert_int_equal(request.timestamp_ms, 5);
  assert_int_equal(request.input_tokens, 1030);
  assert_int_equal(request.output_tokens, 7);
  assert_int_equal(request.session, 0);
  assert_int_equal(request.blocks, 3);
  for (uint32_t i = 0; i < 3; i++) assert_int_equal(request.ids[i], i);
  assert_int_equal(trace_next(reader, &request), 1);
  assert_int_equal(request.timestamp_ms, 6);
  assert_int_equal(request.session, 4);
  assert_int_equal(request.blocks, 2);
  assert_int_equal(request.ids[0], 0);
  assert_int_equal(request.ids[1], 3);
  assert_int_equal(trace_unique(reader), 4);
  assert_int_equal(trace_next(reader, &request), 0);
  assert_int_equal(trace_next(reader, &request), 0);
  trace_close(reader);
}

static struct trace_reader *open_it(void) {
  char why[512] = "";
  struct trace_reader *reader = trace_open(path, NULL, why, sizeof why);
  if (reader == NULL) fail_msg("%s", why);
  return reader;
}

static void reads_plain_lines_with_dense_ids(void **state) {
  (void)state;
  write_text(two_requests);
  check_two_requests(open_it());
}

static void reads_zstd_in_several_frames(void **state) {
  char packed[2048];
  const char *second = strchr(two_requests, '\n') - 20; /* frames need not end with a line */
  char first[sizeof two_requests];
  (void)state;
  memcpy(first, two_requests, (size_t)(second - two_requests));
  first[second - two_requests] = '\0';
  size_t bytes = compress(first, packed, sizeof packed);
  bytes += compress(second, packed + bytes, sizeof packed - bytes);
  write_file(packed, bytes);
  check_two_requests(open_it());
}

static void blank_lines_and_carriage_returns_are_fine(void **state) {
  char text[1024];
  (void)state;
  snprintf(text, sizeof text, "\n  \t\r\n%s\r\n\n", two_requests);
  write_text(text);
  check_two_requests(open_it());
}

static void reads_a_line_longer_than_the_buffers(void **state) {
  enum { BLOCKS = 200000 };
  char *text = malloc(BLOCKS * 8 + 200);
  struct trace_request request;
  (void)state;
  assert_non_null(text);
  size_t used = (size_t)sprintf(text,
                                "{\"timestamp\":0,\"input_length\":9,\"output_length\":1,"
                                "\"hash_ids\":[");
  for (int i = 0; i < BLOCKS; i++)
    used += (size_t)sprintf(text + used, "%s%d", i > 0 ? "," : "", i);
  strcpy(text + used, "]}\n");
  write_text(text);
  free(text);
  struct trace_reader *reader = open_it();
  assert_int_equal(trace_next(reader, &request), 1);
  assert_int_equal(request.blocks, BLOCKS);
  assert_int_equal(request.ids[BLOCKS - 1], BLOCKS - 1);
  assert_int_equal(trace_next(reader, &request), 0);
  trace_close(reader);
}

/* The text, and what the message must say. */
static void expect_refused(const char *text, size_t bytes, const char *cause) {
  char why[512] = "";
  write_file(text, bytes);
  struct trace *trace = trace_load(path, NULL, why, sizeof why);
  if (trace != NULL) fail_msg("accepted, but: %s", cause);
  if (strstr(why, cause) == NULL || strstr(why, path) == NULL)
    fail_msg("says `%s`, without `%s`", why, cause);
}

static void says_file_line_column_and_cause(void **state) {
#define HEAD "{\"timestamp\":0,\"input_length\":1,\"output_length\":1,"
  static const struct {
    const char *text, *cause;
  } bad[] = {
      {HEAD "\"hash_ids\":[0,-4]}", ":1:51: hash_ids[1] is negative (-4)"},
      {HEAD "\"hash_ids\":[0]}\n\n" HEAD "\"hash_ids\":[0.5]}", ":3:51: hash_ids[0] is not an int"},
      {HEAD "\"hash_ids\":[\"7\"]}", "hash_ids[0] is not an integer"},
      {HEAD "\"hash_ids\":7}", ":1:51: `hash_ids` is not an array"},
      {HEAD "\"hash_ids\":null}", "`hash_ids` is not an array"},
      {"{\"timestamp\":0,\"input_length\":1,\"output_length\":1}", ":1:1: no field `hash_ids`"},
      {"{\"input_length\":1,\"output_length\":1,\"hash_ids\":[]}", "no field `timestamp`"},
      {"{\"timestamp\":0,\"output_length\":1,\"hash_ids\":[]}", "no field `input_length`"},
      {"{\"timestamp\":0,\"input_length\":1,\"hash_ids\":[]}", "no field `output_length`"},
      {"{\"timestamp\":-1,\"input_length\":1,\"output_length\":1,\"hash_ids\":[]}",
       ":1:2: `timestamp` is negative"},
      {"{\"timestamp\":-1.5,\"input_length\":1,\"output_length\":1,\"hash_ids\":[]}",
       "`timestamp` is negative"},
      {"{\"timestamp\":0,\"input_length\":-5,\"output_length\":1,\"hash_ids\":[]}",
       ":1:16: `input_length` is negative (-5)"},
      {"{\"timestamp\":0,\"input_length\":1e3,\"output_length\":1,\"hash_ids\":[]}",
       "`input_length` is not an integer"},
      {"{\"timestamp\":0,\"input_length\":99999999999,\"output_length\":1,\"hash_ids\":[]}",
       "`input_length` is 99999999999, more than"},
      {HEAD "\"hash_ids\":[], \"session\":\"x\"}", "`session` is not an integer"},
      {HEAD "\"hash_ids\":[], \"session\":-1}", "`session` is negative"},
      {HEAD "\"hash_ids\":[99999999999999999999]}", "too big integer"},
      {HEAD "\"hash_ids\":[], \"timestamp\":1}", "duplicate"},
      {HEAD "\"hash_ids\":[0,1", ":1:"},
      {HEAD "\"hash_ids\":[0]} x", ":1:"},
      {"[]", "not a JSON object"},
      {"hello", ":1:"},
      {"\xff\xfe", ":1:"},
  };
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    expect_refused(bad[i].text, strlen(bad[i].text), bad[i].cause);
  expect_refused("{\"a\0b\":1}", 9, ":1:");
}

static void truncated_or_damaged_zstd_is_an_error(void **state) {
  char packed[2048], damaged[2048];
  (void)state;
  const size_t bytes = compress(two_requests, packed, sizeof packed);
  for (size_t cut = 5; cut < bytes; cut++) expect_refused(packed, cut, "truncated");
  memcpy(damaged, packed, bytes);
  memset(damaged + 8, 0xff, 8);
  expect_refused(damaged, bytes, "zstd");
}

static void names_that_are_no_traces(void **state) {
  static const struct {
    const char *name, *cause;
  } bad[] = {
      {"/nonexistent/trace.jsonl", "No such file"},
      {"/tmp", "directory"},
      {"gen:", "no such generator"},
      {"gen:conversationsx", "no such generator"},
      {"gen:conversations?sed=1", "no parameter `sed=1`"},
      {"gen:conversations?seed", "no parameter `seed`"},
      {"gen:conversations?seed=", "seed="},
      {"gen:conversations?seed=x", "wants a whole number"},
      {"gen:conversations?turns=0.5", "wants a number from 1 to 20"},
      {"gen:conversations?requests=0", "requests=0"},
      {"gen:conversations?requests=1.5", "wants a whole number"},
      {"gen:conversations?gap=nan", "gap=nan"},
  };
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    char why[512] = "";
    struct trace *trace = trace_load(bad[i].name, NULL, why, sizeof why);
    assert_null(trace);
    if (strstr(why, bad[i].cause) == NULL)
      fail_msg("%s: says `%s`, without `%s`", bad[i].name, why, bad[i].cause);
  }
  char why[512] = "";
  write_text("\n");
  assert_null(trace_load(path, NULL, why, sizeof why));
  assert_non_null(strstr(why, "no requests"));
}

static void load_works_out_tokens_a_block(void **state) {
  char why[512] = "";
  (void)state;
  write_text(two_requests); /* 1030 in 3 blocks, 1000 in 2: more than 333, less than 515 */
  struct trace *trace = trace_load(path, NULL, why, sizeof why);
  assert_non_null(trace);
  assert_int_equal(trace->block_tokens, 512);
  assert_int_equal(trace->request_count, 2);
  assert_int_equal(trace->accesses, 5);
  assert_int_equal(trace->input_tokens, 2030);
  struct whole_trace whole = whole_trace_of(trace);
  assert_int_equal(whole.requests[1].ids[1], 3);
  whole_trace_free(&whole);
  trace_free(trace);

  const struct trace_options one = {.limit = 1, .block_tokens = 100};
  trace = trace_load(path, &one, why, sizeof why);
  assert_non_null(trace);
  assert_int_equal(trace->block_tokens, 100);
  assert_int_equal(trace->request_count, 1);
  assert_int_equal(trace->unique, 3);
  trace_free(trace);

  write_text(
      "{\"timestamp\":0,\"input_length\":100,\"output_length\":1,\"hash_ids\":[0]}\n"
      "{\"timestamp\":0,\"input_length\":200,\"output_length\":1,\"hash_ids\":[1]}");
  trace = trace_load(path, NULL, why, sizeof why);
  assert_non_null(trace);
  assert_int_equal(trace->block_tokens,
                   256); /* that no request has two is no reason for a million */
  trace_free(trace);

  write_text(
      "{\"timestamp\":0,\"input_length\":100,\"output_length\":1,\"hash_ids\":[0,1]}\n"
      "{\"timestamp\":0,\"input_length\":100,\"output_length\":1,\"hash_ids\":[0,1,2,3,4]}");
  assert_null(trace_load(path, NULL, why, sizeof why));
  assert_non_null(strstr(why, "--block-tokens"));
}

static void public_traces_have_their_known_counts(void **state) {
  static const struct {
    const char *file;
    uint64_t requests, accesses;
    uint32_t unique, block_tokens;
  } known[] = {
      {"mooncake_conversation.jsonl.zst", 12031, 288500, 182790, 512},
      {"mooncake_conversation_head1000.jsonl.zst", 1000, 27305, 21514, 512},
      {"weka_dev.jsonl.zst", 7923, 1692888, 60921, 512},
      {"taubench_airline.jsonl.zst", 2454, 433891, 24675, 16},
  };
  (void)state;
  if (shared_traces_missing(__func__)) skip();
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
    char why[512] = "";
    struct trace *trace = trace_load(shared_trace(known[i].file), NULL, why, sizeof why);
    if (trace == NULL) {
      fail_msg("%s", why);
      return;
    }
    assert_int_equal(trace->request_count, known[i].requests);
    assert_int_equal(trace->accesses, known[i].accesses);
    assert_int_equal(trace->unique, known[i].unique);
    assert_int_equal(trace->block_tokens, known[i].block_tokens);
    trace_free(trace);
  }
}

static struct trace *generate(const char *name) {
  char why[512] = "";
  struct trace *trace = trace_load(name, NULL, why, sizeof why);
  if (trace == NULL) fail_msg("%s", why);
  return trace;
}

static void generated_conversations_are_prefix_chains(void **state) {
  struct trace *trace = generate("gen:conversations?seed=7&requests=5000&block_tokens=128");
  struct whole_trace whole = whole_trace_of(trace);
  uint32_t *before = malloc(trace->unique * sizeof *before);
  uint64_t last_ms = 0;
  (void)state;
  assert_non_null(before);
  memset(before, 0xff, trace->unique * sizeof *before);
  assert_int_equal(trace->request_count, 5000);
  assert_int_equal(trace->block_tokens, 128);
  for (uint64_t r = 0; r < trace->request_count; r++) {
    const struct trace_request *request = &whole.requests[r];
    uint32_t previous = UINT32_MAX - 1;
    assert_true(request->timestamp_ms >= last_ms);
    last_ms = request->timestamp_ms;
    assert_true(request->session > 0);
    assert_true(request->output_tokens > 0);
    assert_int_equal(request->blocks, request->input_tokens / 128);
    for (uint32_t i = 0; i < request->blocks; i++) {
      const uint32_t id = request->ids[i];
      assert_true(id < trace->unique);
      if (before[id] == UINT32_MAX) before[id] = previous;
      assert_int_equal(before[id], previous);
      previous = id;
    }
  }
  free(before);
  whole_trace_free(&whole);
  trace_free(trace);
}

static void the_same_seed_gives_the_same_trace(void **state) {
  struct trace *a = generate("gen:conversations?seed=3&requests=500");
  struct trace *b = generate("gen:conversations?requests=500&seed=3");
  struct trace *c = generate("gen:conversations?seed=4&requests=500");
  (void)state;
  assert_int_equal(a->accesses, b->accesses);
  struct whole_trace of_a = whole_trace_of(a), of_b = whole_trace_of(b);
  assert_memory_equal(of_a.ids, of_b.ids, a->accesses * sizeof *of_a.ids);
  whole_trace_free(&of_a);
  whole_trace_free(&of_b);
  assert_true(a->accesses != c->accesses || a->input_tokens != c->input_tokens);
  trace_free(a);
  trace_free(b);
  trace_free(c);
}

static void generated_conversations_reuse_what_published_ones_do(void **state) {
  struct trace *trace = generate("gen:conversations?requests=30000");
  uint8_t *seen = calloc(trace->unique, 1);
  uint64_t hits = 0;
  (void)state;
  assert_non_null(seen);
  struct whole_trace whole = whole_trace_of(trace);
  for (uint64_t i = 0; i < trace->accesses; i++) {
    hits += seen[whole.ids[i]];
    seen[whole.ids[i]] = 1;
  }
  whole_trace_free(&whole);
  const double ideal = (double)hits / (double)trace->accesses;
  assert_true(ideal > 0.58 && ideal < 0.66); /* 0.62: arXiv 2506.02634, consumer trace */
  free(seen);
  trace_free(trace);
}

static int make_file(void **state) {
  const int fd = mkstemp(path);
  (void)state;
  return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state) {
  (void)state;
  return unlink(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_plain_lines_with_dense_ids),
      cmocka_unit_test(reads_zstd_in_several_frames),
      cmocka_unit_test(blank_lines_and_carriage_returns_are_fine),
      cmocka_unit_test(reads_a_line_longer_than_the_buffers),
      cmocka_unit_test(says_file_line_column_and_cause),
      cmocka_unit_test(truncated_or_damaged_zstd_is_an_error),
      cmocka_unit_test(names_that_are_no_traces),
      cmocka_unit_test(load_works_out_tokens_a_block),
      cmocka_unit_test(public_traces_have_their_known_counts),
      cmocka_unit_test(generated_conversations_are_prefix_chains),
      cmocka_unit_test(the_same_seed_gives_the_same_trace),
      cmocka_unit_test(generated_conversations_reuse_what_published_ones_do),
  };
  return cmocka_run_group_tests(tests, make_file, remove_file);
}
