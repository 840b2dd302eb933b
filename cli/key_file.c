/* key_file.c - see key_file.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/key_file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define HEX_BYTES (2 * KVSTOW_KEY_BYTES)

static int digit(char c) {
  static const char digits[] = "0123456789abcdef";
  if (c >= 'A' && c <= 'F') c = (char)(c - 'A' + 'a');
  const char *at = c == '\0' ? NULL : strchr(digits, c);
  return at ? (int)(at - digits) : -1;
}

static bool from_hex(const char *text, uint8_t key[KVSTOW_KEY_BYTES]) {
  for (size_t i = 0; i < KVSTOW_KEY_BYTES; i++) {
    const int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    key[i] = (uint8_t)(high << 4 | low);
  }
  return true;
}

bool key_file_read(const char *command, const char *path, uint8_t key[KVSTOW_KEY_BYTES]) {
  char text[HEX_BYTES + 3];
  FILE *file = fopen(path, "rb");
  if (!file) {
    fprintf(stderr, "%s: %s: %s\n", command, path, strerror(errno));
    return false;
  }
  size_t bytes = fread(text, 1, sizeof text, file);
  const bool failed = ferror(file) != 0;
  fclose(file);
  if (!failed && bytes == KVSTOW_KEY_BYTES) {
    memcpy(key, text, KVSTOW_KEY_BYTES);
    return true;
  }
  while (bytes > HEX_BYTES && bytes < sizeof text &&
         (text[bytes - 1] == '\n' || text[bytes - 1] == '\r'))
    bytes--;
  if (!failed && bytes == HEX_BYTES && from_hex(text, key)) return true;
  fprintf(stderr, "%s: %s: expected a key of 32 bytes or of 64 hexadecimal digits\n", command,
          path);
  return false;
}
