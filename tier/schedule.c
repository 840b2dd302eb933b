/* tier/schedule.c - see schedule.h.
 *
 * One pass over the sorted extents with one request under construction. An extent joins it if it
 * lies behind it in the same file, the gap is small, and the whole of it still fits; otherwise the
 * request is closed. Because only whole extents join, merging never costs a request: the only splits
 * are those of extents larger than request_max_bytes, in as few parts, of about the same length: a device
 * asked for 4 MiB, 4 MiB and the last page is woken for the page as well.
 *
 * Closing a request rounds its ends out to block boundaries where that is nearly free: within
 * request_max_bytes and the file, and at most an eighth more bytes. (Rounding a 4 KiB header page to
 * 64 KiB would multiply the device's work and save nothing.) Parts of an extent meet on block boundaries.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tier/schedule.h"

#include <stdlib.h>

#include "tier/format.h"
#include "tier/io.h"

#define ROUND_COST_DIVISOR 8u

typedef struct builder {
  const kvstow__limits *limits;
  kvstow__emit emit;
  void *arg;
  kvstow__extent **extents;
  size_t first, last; /* extents in this request: [first, last] */
  uint32_t file;
  uint64_t start, end; /* start == end: empty */
  uint64_t until;      /* where it ends at the latest */
  bool part;           /* of an extent that takes several: it is large, and not rounded */
  uint32_t count;      /* vectors used; vector 0 is kept for rounding the start down */
  bool scratch;
  struct iovec iov[KVSTOW__IOV_MAX];
} builder;

static int compare_extents(const void *left, const void *right) {
  const kvstow__extent *a = *(kvstow__extent *const *)left;
  const kvstow__extent *b = *(kvstow__extent *const *)right;
  if (a->file != b->file) return a->file < b->file ? -1 : 1;
  if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
  return (a->length > b->length) - (a->length < b->length);
}

static uint32_t gap_vectors(const kvstow__limits *limits, uint64_t gap) {
  return (uint32_t)((gap + limits->scratch_bytes - 1) / limits->scratch_bytes);
}

static void add_vector(builder *b, void *base, size_t length) {
  b->iov[b->count].iov_base = base;
  b->iov[b->count].iov_len = length;
  b->count++;
  b->end += length;
}

static bool joins(const builder *b, const kvstow__extent *e) {
  const kvstow__limits *limits = b->limits;
  if (!limits->merge || e->alone || b->extents[b->last]->alone) return false;
  if (e->file != b->file || e->offset < b->end) return false;
  const uint64_t gap = e->offset - b->end;
  if (gap > limits->gap_max_bytes) return false;
  const uint64_t most = e->merge_max > 0 && e->merge_max < limits->request_max_bytes
                            ? e->merge_max
                            : limits->request_max_bytes;
  if (e->offset + e->length - b->start > most) return false;
  /* one vector is spare for rounding the end up */
  return (uint64_t)b->count + gap_vectors(limits, gap) + e->iov_count + 1 <= KVSTOW__IOV_MAX;
}

static void round_out(builder *b) {
  const kvstow__limits *limits = b->limits;
  if (!limits->merge || b->part || b->extents[b->first]->alone) return;
  uint64_t room = (b->end - b->start) / ROUND_COST_DIVISOR;
  const uint64_t left = limits->request_max_bytes - (b->end - b->start);
  if (room > left) room = left;
  const uint64_t after = kvstow__round_up(b->end, limits->block_bytes) - b->end;
  if (after > 0 && after <= room && b->end + after <= b->extents[b->last]->file_end) {
    add_vector(b, limits->scratch, (size_t)after);
    b->scratch = true;
    room -= after;
  }
  const uint64_t before = b->start % limits->block_bytes;
  if (before > 0 && before <= room) {
    b->iov[0].iov_base = limits->scratch;
    b->iov[0].iov_len = (size_t)before;
    b->start -= before;
    b->scratch = true;
  }
}

static void close_request(builder *b) {
  if (b->start == b->end) return;
  b->iov[0].iov_len = 0;
  const uint64_t wanted_offset = b->start, wanted_end = b->end;
  round_out(b);
  const uint32_t skip = b->iov[0].iov_len > 0 ? 0 : 1;
  const kvstow__request request = {
      .file = b->file,
      .offset = b->start,
      .length = b->end - b->start,
      .wanted_offset = wanted_offset,
      .wanted_end = wanted_end,
      .iov = b->iov + skip,
      .iov_count = b->count - skip,
      .scratch = b->scratch,
      .extents = b->extents + b->first,
      .extents_count = b->last - b->first + 1,
  };
  b->emit(b->arg, &request);
  b->start = b->end = 0;
}

/* At an extent's offset, or inside it, where the part before ended. */
static void begin_request(builder *b, size_t index, uint64_t offset) {
  const kvstow__extent *e = b->extents[index];
  const uint64_t max = b->limits->request_max_bytes, left = e->offset + e->length - offset;
  const uint64_t parts = (left + max - 1) / max;
  b->until = offset + max;
  b->part = parts > 1 || offset > e->offset;
  if (parts > 1) {
    const uint64_t even =
        kvstow__round_up(offset + (left + parts - 1) / parts, b->limits->block_bytes);
    if (even < b->until) b->until = even;
  }
  b->first = b->last = index;
  b->file = e->file;
  b->start = b->end = offset;
  b->count = 1;
  b->scratch = false;
}

static void add_gap(builder *b, uint64_t gap) {
  while (gap > 0) {
    const size_t piece = gap < b->limits->scratch_bytes ? (size_t)gap : b->limits->scratch_bytes;
    add_vector(b, b->limits->scratch, piece);
    b->scratch = true;
    gap -= piece;
  }
}

static void add_extent(builder *b, size_t index) {
  const kvstow__extent *e = b->extents[index];
  for (uint32_t i = 0; i < e->iov_count; i++) {
    char *base = e->iov[i].iov_base;
    size_t left = e->iov[i].iov_len;
    while (left > 0) {
      const uint64_t room = b->until - b->end;
      if (room == 0) {
        const uint64_t at = b->end;
        close_request(b);
        begin_request(b, index, at);
        continue;
      }
      const size_t piece = left < room ? left : (size_t)room;
      add_vector(b, base, piece);
      base += piece;
      left -= piece;
    }
  }
}

void kvstow__schedule(kvstow__extent **extents, size_t count, const kvstow__limits *limits,
                      kvstow__emit emit, void *arg) {
  if (limits->merge && count > 1) qsort(extents, count, sizeof *extents, compare_extents);
  builder b = {.limits = limits, .emit = emit, .arg = arg, .extents = extents};
  for (size_t i = 0; i < count; i++) {
    if (b.start != b.end && joins(&b, extents[i])) {
      add_gap(&b, extents[i]->offset - b.end);
      b.last = i;
    } else {
      close_request(&b);
      begin_request(&b, i, extents[i]->offset);
    }
    add_extent(&b, i);
  }
  close_request(&b);
}
