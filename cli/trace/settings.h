/* cli/trace/settings.h - a generator's parameters: gen:NAME?key=value&key=value.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRACE_SETTINGS_H
#define CLI_TRACE_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>

struct setting {
  const char *key;
  double *value; /* holds the default; overwritten when the key is given */
  double min, max;
  bool whole;
};

/* Settings of one thing; a `prefix` goes before their keys: turns, but chat.turns in a mixture. */
struct settings {
  const char *prefix; /* "" none */
  const struct setting *list;
  size_t count;
};

/* False with the reason in `why`: an unknown key (then those there are, too), or a bad value. */
bool settings_parse(const char *generator, const char *params, const struct settings *groups,
                    size_t group_count, char *why, size_t why_bytes);

#endif
