/* tier/message.c - errors in words: names of files, codes for errno, the handle's newest message.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tier/state.h"

int kvstow__code_of_errno(int error) {
  switch (error) {
    case 0:
      return 0;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return KVSTOW_ENOSPC;
    case EACCES:
    case EPERM:
    case EROFS:
      return KVSTOW_EACCES;
    case ENOENT:
    case ENOTDIR:
      return KVSTOW_ENOENT;
    case EEXIST:
      return KVSTOW_EEXIST;
    case ENOMEM:
      return KVSTOW_ENOMEM;
    case ECANCELED:
      return KVSTOW_ECANCELED;
    case EWOULDBLOCK:
      return KVSTOW_EBUSY;
    default:
      return KVSTOW_EIO;
  }
}

void kvstow__segment_name(char name[KVSTOW__NAME_BYTES], uint32_t segment) {
  snprintf(name, KVSTOW__NAME_BYTES, "seg-%06" PRIu32 ".kvs", segment);
}

const char *kvstow__segment_path(const kvstow_tier *tier, uint32_t segment,
                                 char text[KVSTOW__PATH_TEXT_BYTES]) {
  char name[KVSTOW__NAME_BYTES];
  kvstow__segment_name(name, segment);
  /* a path too long keeps its end */
  const char *dir = tier->dirs[kvstow__dir_of(tier, segment)].path;
  const size_t room = KVSTOW__PATH_TEXT_BYTES - KVSTOW__NAME_BYTES - 8, length = strlen(dir);
  const bool cut = length > room;
  snprintf(text, KVSTOW__PATH_TEXT_BYTES, "%s%.*s/%s", cut ? "..." : "", (int)room,
           cut ? dir + (length - room) : dir, name);
  return text;
}

int kvstow__fail(kvstow_tier *tier, int code, const char *format, ...) {
  char text[KVSTOW_MESSAGE_BYTES];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  pthread_mutex_lock(&tier->lock);
  memcpy(tier->message, text, sizeof text);
  pthread_mutex_unlock(&tier->lock);
  return code;
}

void kvstow_tier_message(const kvstow_tier *tier, char *text, size_t bytes) {
  if (!tier || !text || bytes == 0) return;
  kvstow_tier *t = (kvstow_tier *)(uintptr_t)tier; /* the lock is not part of the value */
  pthread_mutex_lock(&t->lock);
  snprintf(text, bytes, "%s", t->message);
  pthread_mutex_unlock(&t->lock);
}
