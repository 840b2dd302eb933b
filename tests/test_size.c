/* tests/test_size.c - sizes as people write them.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/size.h"

static void reads_bytes_blocks_and_percent(void **state) {
  static const struct {
    const char *text;
    enum size_unit unit;
    uint64_t count;
  } good[] = {
      {"4096", SIZE_BYTES, 4096},
      {"1B", SIZE_BYTES, 1},
      {"64KiB", SIZE_BYTES, 64 << 10},
      {"2MiB", SIZE_BYTES, 2 << 20},
      {"1GiB", SIZE_BYTES, 1 << 30},
      {"1.5GiB", SIZE_BYTES, 3u << 29},
      {"3TiB", SIZE_BYTES, UINT64_C(3) << 40},
      {"0.000001MiB", SIZE_BYTES, 1},
      {"9223372036854775807", SIZE_BYTES, INT64_MAX},
      {"3655blk", SIZE_BLOCKS, 3655},
      {"2%", SIZE_PERCENT, 2000000},
      {"0.5%", SIZE_PERCENT, 500000},
      {"100%", SIZE_PERCENT, 100000000},
  };
  (void)state;
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
    struct size size = {.count = 0};
    if (!size_parse(good[i].text, &size)) fail_msg("%s was refused", good[i].text);
    assert_int_equal(size.unit, good[i].unit);
    assert_int_equal(size.count, good[i].count);
  }
}

static void refuses_what_is_no_size(void **state) {
  static const char *const bad[] = {"",
                                    " 1",
                                    "1 ",
                                    "-1",
                                    "+1",
                                    "0",
                                    "0%",
                                    "0blk",
                                    "KiB",
                                    "1kb",
                                    "1KB",
                                    "1K",
                                    "1kib",
                                    "1.5",
                                    "1.B",
                                    ".5GiB",
                                    "1.5blk",
                                    "101%",
                                    "100.1%",
                                    "1e3",
                                    "0x10",
                                    "1,5%",
                                    "nan",
                                    "inf",
                                    "1%%",
                                    "1GiBs",
                                    "1.2.3MiB",
                                    "9223372036854775808",
                                    "18446744073709551616",
                                    "8388608TiB",
                                    "99999999999999999999999blk",
                                    "0.0000001MiB",
                                    "0.0000009KiB"};
  struct size size;
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    if (size_parse(bad[i], &size)) fail_msg("`%s` was accepted", bad[i]);
}

static void bytes_are_bytes_only(void **state) {
  uint64_t bytes = 7;
  (void)state;
  assert_true(size_parse_bytes("64MiB", &bytes));
  assert_int_equal(bytes, 64 << 20);
  assert_false(size_parse_bytes("10blk", &bytes));
  assert_false(size_parse_bytes("10%", &bytes));
  assert_false(size_parse_bytes("ten", &bytes));
  assert_int_equal(bytes, 64 << 20);
}

static void percent_of_distinct_blocks_rounds_down(void **state) {
  struct size size;
  (void)state;
  assert_true(size_parse("2%", &size));
  assert_int_equal(size_in_blocks(&size, 182790, 0), 3655);
  assert_true(size_parse("1%", &size));
  assert_int_equal(size_in_blocks(&size, 24675, 0), 246);
  assert_int_equal(size_in_blocks(&size, 99, 0), 0);
  assert_true(size_parse("100%", &size));
  assert_int_equal(size_in_blocks(&size, UINT32_MAX, 0), UINT32_MAX);
  assert_true(size_parse("7MiB", &size));
  assert_int_equal(size_in_blocks(&size, 0, 2 << 20), 3);
  assert_int_equal(size_in_blocks(&size, 0, 0), 0);
  assert_true(size_parse("12blk", &size));
  assert_int_equal(size_in_blocks(&size, 5, 1 << 20), 12);
}

static void grids_have_exact_ends_and_equal_ratios(void **state) {
  struct size sizes[32];
  (void)state;
  assert_int_equal(size_parse_grid("0.1%..100%:4", sizes, 32), 4);
  static const uint64_t percents[] = {100000, 1000000, 10000000, 100000000};
  for (int i = 0; i < 4; i++) {
    assert_int_equal(sizes[i].unit, SIZE_PERCENT);
    assert_int_equal(sizes[i].count, percents[i]);
    assert_true(sizes[i].in_grid);
  }
  assert_int_equal(size_parse_grid("3blk..300blk:3", sizes, 32), 3);
  assert_int_equal(sizes[1].count, 30);
  assert_int_equal(size_parse_grid("1MiB..4MiB:3", sizes, 32), 3);
  assert_int_equal(sizes[1].count, 2 << 20);
  assert_int_equal(size_parse_grid("7%", sizes, 32), 1);
  assert_false(sizes[0].in_grid);
}

static void refuses_what_is_no_grid(void **state) {
  static const char *const bad[] = {"1%..2%",       "1%..2%:",  "1%..2%:1",  "1%..2%:33",
                                    "1%..2%:-3",    "2%..1%:3", "1%..1%:3",  "1%..2blk:3",
                                    "..2%:3",       "1%..:3",   "1%..2%:3x", "0%..2%:3",
                                    "1%..2%..3%:4", "1%:3..2%", "",          "1%...2%:3"};
  struct size sizes[32];
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    if (size_parse_grid(bad[i], sizes, 32) >= 0) fail_msg("%s was taken", bad[i]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_bytes_blocks_and_percent),
      cmocka_unit_test(refuses_what_is_no_size),
      cmocka_unit_test(bytes_are_bytes_only),
      cmocka_unit_test(percent_of_distinct_blocks_rounds_down),
      cmocka_unit_test(grids_have_exact_ends_and_equal_ratios),
      cmocka_unit_test(refuses_what_is_no_grid),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
