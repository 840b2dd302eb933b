/* tier/owner.h - whose files are written to.
 *
 * Whoever may exchange a store's files can have its owner write over others of his, or read what was never
 * stored. So what a store is made of must be its owner's: a directory and files of our effective user or of
 * root, into which not everybody may write (what the group may do is for whoever owns the directory to
 * decide); files regular, each with one name. Checked on the open descriptor: a name may mean another file by
 * then. A directory may also be sticky: then its files can't be taken away by others.
 *
 * Root writes in anybody's directory: a volume of another user's is what containers are given. The files in it must
 * be root's all the same, so that no link planted there is written through.
 *
 * Readers change nothing: they only insist on regular files (a pipe would hold them up).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_OWNER_H
#define KVSTOW_TIER_OWNER_H

#include <stdbool.h>
#include <stddef.h>

/* Whether an open directory, or file, may be used. 0, EPERM: it may not; or another errno. */
int kvstow__owned_dir(int fd);
int kvstow__owned_file(int fd, bool writable);

/* Why not, in a few words: of a name in a directory, or of a path (AT_FDCWD). Empty: nothing is wrong with it
 * now. */
void kvstow__owned_why(int dir, const char *name, bool writable, char *text, size_t bytes);

#endif
