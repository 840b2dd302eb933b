/* tier/owner.c - see owner.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tier/owner.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOT 0u
#define WHY_BYTES 160u /* all that can be wrong, in words */

static void say_owner(const struct stat *st, char *text, size_t bytes) {
  snprintf(text, bytes, "belongs to user %u, not to user %u who opens it", (unsigned)st->st_uid,
           (unsigned)geteuid());
}

/* Each of these tells whether there is something wrong, and what. */
static bool dir_wrong(const struct stat *st, char *text, size_t bytes) {
  const bool open_to_all = (st->st_mode & S_IWOTH) != 0 && (st->st_mode & S_ISVTX) == 0;
  const bool owned = st->st_uid == geteuid() || st->st_uid == ROOT || geteuid() == ROOT;
  if (!owned) say_owner(st, text, bytes);
  if (owned && open_to_all)
    snprintf(text, bytes,
             "everybody may write there (mode %04o): take that away, or name a "
             "directory in it, which will be made",
             (unsigned)st->st_mode & 07777u);
  return !owned || open_to_all;
}

static bool file_wrong(const struct stat *st, bool writable, char *text, size_t bytes) {
  const bool regular = S_ISREG(st->st_mode);
  const bool owned = st->st_uid == geteuid() || st->st_uid == ROOT;
  const bool open_to_all = (st->st_mode & S_IWOTH) != 0;
  if (!regular) {
    snprintf(text, bytes, "%s", S_ISLNK(st->st_mode) ? "is a link" : "is not a regular file");
    return true;
  }
  if (!writable) return false;
  if (!owned)
    say_owner(st, text, bytes);
  else if (open_to_all)
    snprintf(text, bytes, "everybody may write to it (mode %04o)", (unsigned)st->st_mode & 07777u);
  else if (st->st_nlink != 1)
    snprintf(text, bytes, "has %lu names: what is written here would be seen elsewhere",
             (unsigned long)st->st_nlink);
  return !owned || open_to_all || st->st_nlink != 1;
}

int kvstow__owned_dir(int fd) {
  struct stat st;
  char why[WHY_BYTES];
  if (fstat(fd, &st) != 0) return errno;
  return dir_wrong(&st, why, sizeof why) ? EPERM : 0;
}

int kvstow__owned_file(int fd, bool writable) {
  struct stat st;
  char why[WHY_BYTES];
  if (fstat(fd, &st) != 0) return errno;
  return file_wrong(&st, writable, why, sizeof why) ? EPERM : 0;
}

void kvstow__owned_why(int dir, const char *name, bool writable, char *text, size_t bytes) {
  struct stat st;
  text[0] = 0;
  if (fstatat(dir, name, &st, dir == AT_FDCWD ? 0 : AT_SYMLINK_NOFOLLOW) != 0) return;
  if (S_ISDIR(st.st_mode))
    (void)dir_wrong(&st, text, bytes);
  else
    (void)file_wrong(&st, writable, text, bytes);
}
