/* cli/trace/source.c - see source.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace/source.h"

#include <stdio.h>

int trace_source_fail(struct trace_source *source, const struct input *input, size_t column,
                      const char *format, va_list args) {
  char at[24] = "";
  if (column > 0) snprintf(at, sizeof at, ":%zu", column);
  const int used = snprintf(source->why, sizeof source->why, "%s:%llu%s: ", input_name(input),
                            (unsigned long long)input_line_number(input), at);
  if (used > 0 && (size_t)used < sizeof source->why)
    vsnprintf(source->why + used, sizeof source->why - (size_t)used, format, args);
  return -1;
}
