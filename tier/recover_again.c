/* tier/recover_again.c - footers that tell of records erased, or of a life ended, once more.
 *
 * A kernel that fails to write what it has in memory forgets that it had to, and goes on showing it. The next barrier
 * finds nothing to do and succeeds; when the power goes, what was there before is back (Rebello and others, "Can
 * Applications Recover from fsync Failures?", USENIX ATC 2020). What an opening reads may be such pages, left by an
 * owner whose erase failed. A barrier would not make them durable. Writing them does.
 *
 * Only footers need that: whoever does not see a record takes it for erased, and says so to who asks. A record that is
 * seen and then lost is a miss.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tier/pump.h"
#include "tier/recover.h"

/* Its records are known, and readable, but its footer may not be there: the next erase makes it anew (erase.c). */
static void doubt_footer(kvstow__recovery *r, uint32_t id, const char *what, int error) {
  kvstow__segment *segment = &r->tier->segments[id];
  char path[KVSTOW__PATH_TEXT_BYTES];
  kvstow__fail(r->tier, 0, "%s: %s its footer: %s", kvstow__segment_path(r->tier, id, path), what,
               strerror(error));
  segment->ghost = true;
  if (segment->records == 0) return;
  segment->state = KVSTOW_SEGMENT_BAD;
  segment->footer_done = false;
}

/* The bytes of the footer: of the tail, or, if it is longer, read again into *memory. An errno. */
static int footer_bytes_of(kvstow_tier *tier, const kvstow__ends *e, struct iovec *bytes,
                           void **memory) {
  const kvstow__trailer *trailer = kvstow__trailer_of(e);
  const uint64_t tail_at = tier->segment_bytes - e->tail_bytes;
  bytes->iov_len = tier->segment_bytes - trailer->table_offset;
  if (trailer->table_offset >= tail_at) {
    bytes->iov_base = e->tail + (trailer->table_offset - tail_at);
    return 0;
  }
  *memory = bytes->iov_base = aligned_alloc(KVSTOW_PAGE_BYTES, bytes->iov_len);
  if (!*memory) return ENOMEM;
  const int error =
      kvstow__read_patiently(tier, e->id, *memory, bytes->iov_len, trailer->table_offset);
  if (error) return error;
  const void *again = (uint8_t *)*memory + bytes->iov_len - KVSTOW_PAGE_BYTES;
  const bool same = memcmp(again, trailer, KVSTOW_PAGE_BYTES) == 0;
  return same && kvstow__table_whole(trailer, *memory) ? 0 : EIO;
}

/* Torn by a loss of power they are still whole: what is overwritten is the same, or was never told to be there. */
void kvstow__recover_again(kvstow__recovery *r, kvstow__ends *group, uint32_t count) {
  kvstow_tier *tier = r->tier;
  kvstow__op ops[KVSTOW__GROUP_FILES_MAX];
  void *memory[KVSTOW__GROUP_FILES_MAX];
  uint32_t writes = 0;
  for (uint32_t i = 0; i < count; i++) {
    kvstow__ends *e = &group[i];
    if (!r->files[e->id].denies) continue;
    memory[writes] = NULL;
    const int error = footer_bytes_of(tier, e, &e->iov[1], &memory[writes]);
    if (error) {
      doubt_footer(r, e->id, "reading", error);
      free(memory[writes]);
      continue;
    }
    ops[writes++] = (kvstow__op){.kind = KVSTOW__WRITE,
                                 .file = e->id,
                                 .offset = kvstow__trailer_of(e)->table_offset,
                                 .length = e->iov[1].iov_len,
                                 .iov = &e->iov[1],
                                 .iov_count = 1};
  }
  kvstow__pump_run(tier, ops, writes);
  for (uint32_t i = 0; i < writes; i++) {
    if (ops[i].error) doubt_footer(r, ops[i].file, "writing", ops[i].error);
    free(memory[i]);
  }
}
