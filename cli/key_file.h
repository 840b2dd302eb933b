/* key_file.h - the key of an encrypted store, from a file.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_CLI_KEY_FILE_H
#define KVSTOW_CLI_KEY_FILE_H

#include <stdbool.h>

#include <kvstow/tier.h>

/* Reads 32 bytes, or 64 hexadecimal digits and maybe a newline. On failure false, and a message that begins
 * with `command` on stderr. */
bool key_file_read(const char *command, const char *path, uint8_t key[KVSTOW_KEY_BYTES]);

#endif
