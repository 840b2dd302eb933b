/* cli/trace/decimal.h - numbers as traces write them, without strtod().
 *
 * With at most 15 digits both they and the power of ten are exact in a double, and their quotient is the
 * nearest one: what strtod() gives.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRACE_DECIMAL_H
#define CLI_TRACE_DECIMAL_H

#include <stddef.h>
#include <stdint.h>

enum { DECIMAL_DIGITS = 15 };

struct decimal {
  uint64_t digits;
  unsigned behind; /* of them, behind the point */
};

/* Reads digits, and a point with more digits if there is one. What is behind them; NULL: there is no digit
 * before the point, or behind it, or there are more than DECIMAL_DIGITS. */
static inline const char *decimal_read(const char *at, const char *end, struct decimal *decimal) {
  const char *const begin = at;
  uint64_t digits = 0;
  for (; at < end && *at >= '0' && *at <= '9'; at++) digits = digits * 10 + (uint64_t)(*at - '0');
  ptrdiff_t count = at - begin, behind = 0;
  if (count == 0) return NULL;
  if (at < end && *at == '.') {
    const char *const point = at++;
    for (; at < end && *at >= '0' && *at <= '9'; at++) digits = digits * 10 + (uint64_t)(*at - '0');
    behind = at - point - 1;
    if (behind == 0) return NULL;
    count += behind;
  }
  if (count > DECIMAL_DIGITS) return NULL;
  *decimal = (struct decimal){.digits = digits, .behind = (unsigned)behind};
  return at;
}

static inline double decimal_value(const struct decimal *decimal) {
  static const double tens[DECIMAL_DIGITS] = {1e0, 1e1, 1e2,  1e3,  1e4,  1e5,  1e6, 1e7,
                                              1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14};
  return (double)decimal->digits / tens[decimal->behind];
}

#endif
