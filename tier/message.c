/* tier/message.c - errors in words: names of files, codes for errno, the handle's newest message.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
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
    case ELOOP:
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

/* A path too long keeps its end. */
static const char *path_of(const kvstow__dir *dir, const char *name,
                           char text[KVSTOW__PATH_TEXT_BYTES]) {
  const size_t room = KVSTOW__PATH_TEXT_BYTES - KVSTOW__NAME_BYTES - 8, length = strlen(dir->path);
  const bool cut = length > room;
  snprintf(text, KVSTOW__PATH_TEXT_BYTES, "%s%.*s%s%s", cut ? "..." : "", (int)room,
           cut ? dir->path + (length - room) : dir->path, name ? "/" : "", name ? name : "");
  return text;
}

const char *kvstow__segment_path(const kvstow_tier *tier, uint32_t segment,
                                 char text[KVSTOW__PATH_TEXT_BYTES]) {
  char name[KVSTOW__NAME_BYTES];
  kvstow__segment_name(name, segment);
  return path_of(&tier->dirs[kvstow__dir_of(tier, segment)], name, text);
}

static void __attribute__((format(printf, 3, 0)))
say(kvstow_tier *tier, bool write, const char *format, va_list args) {
  char text[KVSTOW_MESSAGE_BYTES];
  vsnprintf(text, sizeof text, format, args);
  kvstow__lock(&tier->lock);
  memcpy(tier->message, text, sizeof text);
  if (write && !tier->write_error) memcpy(tier->write_cause, text, sizeof text);
  kvstow__unlock(&tier->lock);
}

int kvstow__fail(kvstow_tier *tier, int code, const char *format, ...) {
  va_list args;
  va_start(args, format);
  say(tier, false, format, args);
  va_end(args);
  return code;
}

int kvstow__fail_write(kvstow_tier *tier, int code, const char *format, ...) {
  va_list args;
  va_start(args, format);
  say(tier, true, format, args);
  va_end(args);
  return code;
}

int kvstow__fail_read_only(kvstow_tier *tier, const char *call) {
  return kvstow__fail(tier, KVSTOW_EACCES, "%s: the tier is open read-only", call);
}

int kvstow__fail_segment(kvstow_tier *tier, const char *call, uint32_t segment) {
  return kvstow__fail(tier, KVSTOW_EINVAL, "%s: segment %" PRIu32 " of %" PRIu32, call, segment,
                      tier->segments_count);
}

int kvstow__fail_open(kvstow_tier *tier, const kvstow__dir *dir, const char *name, int error) {
  const kvstow__file_ops *files = tier->io.files;
  char path[KVSTOW__PATH_TEXT_BYTES], why[160] = "", cause[64];
  if (files->why && (error == EPERM || error == ELOOP))
    files->why(tier->io.env, name ? dir->fd : AT_FDCWD, name ? name : dir->path, !tier->read_only,
               why, sizeof why);
  return kvstow__fail(tier, kvstow__code_of_errno(error), "%s: %s", path_of(dir, name, path),
                      why[0] ? why : strerror_r(error, cause, sizeof cause));
}

void kvstow_tier_message(const kvstow_tier *tier, char *text, size_t bytes) {
  if (!tier || !text || bytes == 0) return;
  kvstow_tier *t = (kvstow_tier *)(uintptr_t)tier; /* the lock is not part of the value */
  kvstow__lock(&t->lock);
  snprintf(text, bytes, "%s", t->message);
  kvstow__unlock(&t->lock);
}
