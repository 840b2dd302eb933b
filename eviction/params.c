/* eviction/params.c - parses a policy's "k=v,k=v" parameters; see params.h.
 *
 * Values are plain decimal numbers, read without the locale: the host may have set one whose
 * decimal separator is a comma, which is also what separates our parameters.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "eviction/params.h"

#include <stdbool.h>
#include <string.h>

/* Reads digits[.digits] that fill text[0, length). */
static bool parse_number(const char *text, size_t length, double *value) {
  double whole = 0, scale = 1;
  bool digits = false, fraction = false;
  for (size_t i = 0; i < length; i++) {
    if (text[i] == '.' && !fraction) {
      fraction = true;
    } else if (text[i] >= '0' && text[i] <= '9') {
      whole = whole * 10 + (text[i] - '0');
      if (fraction) scale *= 10;
      digits = true;
    } else {
      return false;
    }
  }
  *value = whole / scale;
  return digits;
}

static int parse_one(const char *text, size_t length, const struct param *params, size_t count) {
  const char *equals = memchr(text, '=', length);
  if (equals == NULL) return KVSTOW_EINVAL;
  const size_t name_length = (size_t)(equals - text);
  for (size_t i = 0; i < count; i++) {
    double value;
    if (strlen(params[i].name) != name_length || memcmp(params[i].name, text, name_length) != 0)
      continue;
    if (!parse_number(equals + 1, length - name_length - 1, &value) || value < params[i].min ||
        value > params[i].max)
      return KVSTOW_EINVAL;
    *params[i].value = value;
    return 0;
  }
  return KVSTOW_EINVAL;
}

int kvstow__params_parse(const char *text, const struct param *params, size_t count) {
  if (text == NULL || *text == '\0') return 0;
  for (;;) {
    const size_t length = strcspn(text, ",");
    const int rc = parse_one(text, length, params, count);
    if (rc < 0) return rc;
    if (text[length] == '\0') return 0;
    text += length + 1;
  }
}

int kvstow__policy_config_check(const kvstow_policy_config *config) {
  if (config == NULL || config->size < sizeof *config || config->nodes == NULL ||
      config->capacity == 0 || config->capacity >= KVSTOW_NO_ID)
    return KVSTOW_EINVAL;
  return 0;
}
