/* cli/trace/settings.c - see settings.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace/settings.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The text behind `prefix`, or NULL. */
static const char *after(const char *text, const char *prefix) {
  const size_t length = strlen(prefix);
  return strncmp(text, prefix, length) == 0 ? text + length : NULL;
}

/* The value in `text` if it sets this one, or NULL. */
static const char *value_for(const struct settings *group, const struct setting *setting,
                             const char *text) {
  const char *key = after(text, group->prefix);
  const char *rest = key != NULL ? after(key, setting->key) : NULL;
  return rest != NULL && *rest == '=' ? rest + 1 : NULL;
}

static bool set(const struct setting *setting, const char *text, const char *text_end) {
  char *end;
  const double value = strtod(text, &end);
  if (end != text_end || end == text || !(value >= setting->min) || !(value <= setting->max) ||
      (setting->whole && value != (double)(uint64_t)value))
    return false;
  *setting->value = value;
  return true;
}

static void append(char *why, size_t why_bytes, const char *text) {
  const size_t used = strlen(why);
  snprintf(why + used, why_bytes - used, "%s", text);
}

/* As in: seed requests chat.(rate turns) */
static void list_keys(const struct settings *groups, size_t group_count, char *why,
                      size_t why_bytes) {
  for (const struct settings *group = groups; group < groups + group_count; group++) {
    const bool prefixed = group->prefix[0] != '\0';
    if (prefixed) {
      append(why, why_bytes, " ");
      append(why, why_bytes, group->prefix);
    }
    for (size_t i = 0; i < group->count; i++) {
      append(why, why_bytes, prefixed && i == 0 ? "(" : " ");
      append(why, why_bytes, group->list[i].key);
    }
    if (prefixed) append(why, why_bytes, ")");
  }
}

static bool set_one(const char *generator, const char *text, size_t length,
                    const struct settings *groups, size_t group_count, char *why,
                    size_t why_bytes) {
  for (size_t g = 0; g < group_count; g++) {
    for (size_t i = 0; i < groups[g].count; i++) {
      const struct setting *setting = &groups[g].list[i];
      const char *value = value_for(&groups[g], setting, text);
      if (value == NULL) continue;
      if (set(setting, value, text + length)) return true;
      snprintf(why, why_bytes, "gen:%s: %.*s: wants %s from %g to %g", generator, (int)length, text,
               setting->whole ? "a whole number" : "a number", setting->min, setting->max);
      return false;
    }
  }
  snprintf(why, why_bytes, "gen:%s: no parameter `%.*s`; there are", generator, (int)length, text);
  list_keys(groups, group_count, why, why_bytes);
  return false;
}

bool settings_parse(const char *generator, const char *params, const struct settings *groups,
                    size_t group_count, char *why, size_t why_bytes) {
  while (*params != '\0') {
    const size_t length = strcspn(params, "&,");
    if (!set_one(generator, params, length, groups, group_count, why, why_bytes)) return false;
    params += length + (params[length] != '\0');
  }
  return true;
}
