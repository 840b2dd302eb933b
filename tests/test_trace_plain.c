/* tests/test_trace_plain.c - the short cuts of loading give what the long ways do: plain JSON lines against
 * jansson, decimals against strtod(), names in bulk against their order of appearance.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "cli/trace/decimal.h"
#include "cli/trace/ids.h"
#include "cli/trace/plain.h"

static uint64_t draws;

static uint64_t draw(uint64_t below) {
  uint64_t x = draws += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return (x ^ x >> 31) % below;
}

/* ---- plain lines ---- */

struct line {
  char text[4096];
  size_t length;
};

__attribute__((format(printf, 2, 3))) static void add(struct line *line, const char *format, ...) {
  va_list args;
  va_start(args, format);
  line->length +=
      (size_t)vsnprintf(line->text + line->length, sizeof line->text - line->length, format, args);
  va_end(args);
  assert_true(line->length < sizeof line->text);
}

static void add_blank(struct line *line) {
  static const char *const blanks[] = {"", "", "", " ", "\t", "  ", "\r"};
  add(line, "%s", blanks[draw(7)]);
}

static void add_value(struct line *line, const char *name) {
  static const char *const odd[] = {"-1",
                                    "0",
                                    "-0",
                                    "007",
                                    "1.5",
                                    "1e3",
                                    "1.5E-2",
                                    "12.",
                                    ".5",
                                    "null",
                                    "true",
                                    "{}",
                                    "[1]",
                                    "\"text\"",
                                    "\"a\\n\"",
                                    "\"\xc3\xa9\"",
                                    "9223372036854775807",
                                    "9223372036854775808",
                                    "999999999999999",
                                    "1000000000000000",
                                    "0.000000000000001",
                                    ""};
  if (draw(12) == 0) {
    add(line, "%s", odd[draw(sizeof odd / sizeof odd[0])]);
  } else if (strcmp(name, "hash_ids") == 0) {
    add(line, "[");
    add_blank(line);
    for (uint64_t i = draw(9); i-- > 0; add_blank(line)) {
      add(line, "%" PRIu64, draw(draw(2) == 0 ? 1000 : 1u << 31) << draw(33));
      add_blank(line);
      if (i > 0) add(line, ",");
    }
    add(line, "]");
  } else if (strcmp(name, "type") == 0) {
    add(line, "\"%s\"", draw(2) == 0 ? "image" : "other thing");
  } else if (strcmp(name, "timestamp") == 0 && draw(2) == 0) {
    add(line, "%" PRIu64 ".%03" PRIu64, draw(100000), draw(1000));
  } else {
    add(line, "%" PRIu64, draw(100000));
  }
}

static struct line random_line(void) {
  static const char *const names[] = {"timestamp", "input_length",   "output_length", "hash_ids",
                                      "chat_id",   "parent_chat_id", "session",       "type",
                                      "turn",      "more",           "hash_id",       ""};
  struct line line = {.length = 0};
  const char *comma = "";
  add_blank(&line);
  add(&line, "{");
  for (unsigned i = 0; i < 12; i++) {
    if (draw(4) == 0) continue;
    const char *name = names[draw(60) == 0 ? draw(12) : i];
    add(&line, "%s", comma);
    add_blank(&line);
    add(&line, "\"%s\"", name);
    add_blank(&line);
    add(&line, ":");
    add_blank(&line);
    add_value(&line, name);
    add_blank(&line);
    comma = ",";
  }
  add(&line, "}");
  add_blank(&line);
  if (draw(4) == 0 && line.length > 0) { /* damaged */
    static const char marks[] = "{}[],:\"\\.-0 9ex";
    const size_t at = draw(line.length);
    if (draw(3) == 0)
      line.text[at] = (char)draw(256);
    else
      line.text[at] = marks[draw(sizeof marks)];
    if (draw(3) == 0) line.length = at;
  }
  return line;
}

static void assert_whole(const struct plain *plain, const json_t *object, enum plain_field field,
                         const char *name) {
  const json_t *json = json_object_get(object, name);
  assert_int_equal(plain_has(plain, field), json != NULL);
  if (json == NULL) return;
  assert_true(json_is_integer(json));
  assert_int_equal(plain->number[field], json_integer_value(json));
}

static void assert_same(const struct plain *plain, const json_t *object) {
  assert_true(json_is_object(object));
  assert_whole(plain, object, PLAIN_INPUT, "input_length");
  assert_whole(plain, object, PLAIN_OUTPUT, "output_length");
  assert_whole(plain, object, PLAIN_SESSION, "session");
  assert_whole(plain, object, PLAIN_CHAT, "chat_id");
  assert_whole(plain, object, PLAIN_PARENT, "parent_chat_id");
  const json_t *json = json_object_get(object, "timestamp");
  assert_int_equal(plain_has(plain, PLAIN_TIMESTAMP), json != NULL);
  if (json_is_integer(json)) {
    assert_int_equal(plain->timestamp.behind, 0);
    assert_int_equal(plain->timestamp.digits, json_integer_value(json));
  } else if (json != NULL) {
    const double value = decimal_value(&plain->timestamp), want = json_real_value(json);
    assert_true(json_is_real(json) && plain->timestamp.behind > 0);
    assert_memory_equal(&value, &want, sizeof value);
  }
  json = json_object_get(object, "type");
  assert_int_equal(plain_has(plain, PLAIN_TYPE), json != NULL);
  if (json != NULL) {
    assert_true(json_is_string(json));
    assert_int_equal(plain->type_bytes, json_string_length(json));
    assert_memory_equal(plain->type, json_string_value(json), plain->type_bytes);
  }
  json = json_object_get(object, "hash_ids");
  assert_int_equal(plain_has(plain, PLAIN_IDS), json != NULL);
  if (json == NULL) return;
  assert_true(json_is_array(json));
  assert_int_equal(plain->ids_count, json_array_size(json));
  for (size_t i = 0; i < plain->ids_count; i++) {
    assert_true(json_is_integer(json_array_get(json, i)));
    assert_int_equal(plain->ids[i], json_integer_value(json_array_get(json, i)));
  }
}

static void what_is_read_as_plain_is_what_jansson_reads(void **state) {
  struct plain plain = {.has = 0};
  unsigned read = 0, left = 0;
  (void)state;
  for (uint64_t seed = 1; seed <= 60000; seed++) {
    draws = seed << 20;
    const struct line line = random_line();
    if (!plain_read(&plain, line.text, line.length)) {
      left++;
      continue;
    }
    read++;
    json_t *object = json_loadb(line.text, line.length, JSON_REJECT_DUPLICATES, NULL);
    if (object == NULL)
      fail_msg("seed %" PRIu64 ": jansson refuses %.*s", seed, (int)line.length, line.text);
    assert_same(&plain, object);
    json_decref(object);
  }
  plain_finish(&plain);
  assert_true(read > 10000 && left > 10000);
}

static void lines_of_the_public_traces_are_plain(void **state) {
  static const char *const lines[] = {
      "{\"timestamp\": 27482, \"input_length\": 6758, \"output_length\": 500, \"hash_ids\": [0, "
      "1]}",
      "{\"timestamp\":0,\"input_length\":24775,\"output_length\":628,\"hash_ids\":[],\"session\":"
      "73}\r",
      "{\"chat_id\":159,\"parent_chat_id\":-1,\"timestamp\":61.114,\"input_length\":40,"
      "\"output_length\":5,\"type\":\"text\",\"turn\":1,\"hash_ids\":[10,11,12]}",
  };
  struct plain plain = {.has = 0};
  (void)state;
  for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
    assert_true(plain_read(&plain, lines[i], strlen(lines[i])));
  plain_finish(&plain);
}

/* ---- decimals ---- */

static void decimals_are_what_strtod_reads(void **state) {
  struct decimal decimal = {.digits = 0};
  (void)state;
  draws = 4;
  for (unsigned i = 0; i < 300000; i++) {
    char text[64];
    const unsigned before = 1 + (unsigned)draw(15), behind = (unsigned)draw(16 - before);
    size_t length = 0;
    for (unsigned j = 0; j < before; j++) text[length++] = (char)('0' + draw(10));
    if (behind > 0) text[length++] = '.';
    for (unsigned j = 0; j < behind; j++) text[length++] = (char)('0' + draw(10));
    text[length] = '\0';
    assert_ptr_equal(decimal_read(text, text + length, &decimal), text + length);
    const double value = decimal_value(&decimal), want = strtod(text, NULL);
    if (value < want || value > want) fail_msg("%s: %a, not %a", text, value, want);
  }
  static const char *const not_read[] = {"", ".5", "5.", "1234567890123456", "123456789012345.6",
                                         "x"};
  for (size_t i = 0; i < sizeof not_read / sizeof not_read[0]; i++)
    assert_null(decimal_read(not_read[i], not_read[i] + strlen(not_read[i]), &decimal));
}

/* ---- names ---- */

enum { KEYS = 150000, BATCH_MAX = 5000 };

static uint64_t key_number(uint32_t i, unsigned kind) {
  switch (kind) {
    case 0:
      return i;
    case 1:
      return (uint64_t)i << 12; /* addresses */
    case 2:
      return (uint64_t)i << 45;
    case 3:
      return i * UINT64_C(0x9e3779b97f4a7c15);
    default:
      return UINT64_MAX - i;
  }
}

/* Keys by chance, one at a time or many; `named` knows which name each must have. */
static void names_follow_the_order_of_appearance(void **state) {
  static uint32_t named[KEYS], numbers[BATCH_MAX], names[BATCH_MAX];
  static uint64_t keys[BATCH_MAX];
  (void)state;
  for (unsigned kind = 0; kind < 5; kind++) {
    struct ids ids = {.count = 0};
    uint32_t count = 0;
    memset(named, 0xff, sizeof named);
    draws = kind;
    for (uint32_t done = 0; done < 2 * KEYS;) {
      const uint32_t some = 1 + (uint32_t)draw(draw(3) == 0 ? BATCH_MAX : 4);
      for (uint32_t i = 0; i < some; i++) {
        numbers[i] = (uint32_t)draw(draw(2) == 0 ? KEYS : KEYS / 50);
        keys[i] = key_number(numbers[i], kind);
      }
      if (some == 1)
        assert_true(ids_name(&ids, keys[0], names));
      else
        assert_true(ids_names(&ids, keys, some, names));
      for (uint32_t i = 0; i < some; i++) {
        uint32_t *name = &named[numbers[i]];
        if (*name == UINT32_MAX) *name = count++;
        assert_int_equal(names[i], *name);
      }
      assert_int_equal(ids.count, count);
      done += some;
    }
    assert_true(count > KEYS / 2);
    ids_finish(&ids);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(what_is_read_as_plain_is_what_jansson_reads),
      cmocka_unit_test(lines_of_the_public_traces_are_plain),
      cmocka_unit_test(decimals_are_what_strtod_reads),
      cmocka_unit_test(names_follow_the_order_of_appearance),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
