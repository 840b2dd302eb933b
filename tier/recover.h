/* tier/recover.h - what the parts of an opening's recovery share (recover.c).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_RECOVER_H
#define KVSTOW_TIER_RECOVER_H

#include "tier/state.h"

#define KVSTOW__GROUP_FILES_MAX 64u /* read, written and synced at once */

/* What was found out about one file, beside its segment. */
typedef struct kvstow__found {
  bool present;
  bool short_file;
  bool crashed; /* walked: to be sealed */
  bool clean;
  bool denies; /* its footer tells of records that are gone */
} kvstow__found;

typedef struct kvstow__recovery {
  kvstow_tier *tier;
  kvstow__found *files;
  uint64_t sequence_max;
  uint64_t tables_bytes;
  uint64_t patience_us;
  bool lives_unseen;
  uint32_t unread; /* segments; the first of them, and why */
  uint32_t unread_first;
  int unread_error;
} kvstow__recovery;

/* The first page and the tail of a file, as read in a batch. */
typedef struct kvstow__ends {
  uint32_t id;
  int errors[2];
  struct iovec iov[2];
  uint8_t *first, *tail;
  uint64_t tail_bytes;
} kvstow__ends;

/* A file that ends before is an answer. */
static inline bool kvstow__unanswered(int error) {
  return error != 0 && error != ENODATA;
}

static inline const kvstow__trailer *kvstow__trailer_of(const kvstow__ends *e) {
  return (const void *)(e->tail + e->tail_bytes - KVSTOW_PAGE_BYTES);
}

/* recover_file.c: the segment as its ends, which were read, and perhaps a walk tell of it. What can't be read is set
 * aside. KVSTOW_ENOMEM */
int kvstow__recover_file(kvstow__recovery *r, kvstow__ends *e);

/* recover_again.c: writes the footers that tell of what is gone once more. No barrier. */
void kvstow__recover_again(kvstow__recovery *r, kvstow__ends *group, uint32_t count);

/* recover_fit.c: as many files as the directory has slots, with the slots' numbers. A KVSTOW_E code. */
int kvstow__recover_fit(kvstow__recovery *r, uint32_t dir);

#endif
