/* tier/stream.c - see stream.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tier/stream.h"

#define STRANGERS_MAX 3u /* a detected stream */
#define CAUTION_MAX 4u
#define PROVEN_DIVISOR 12u /* a window is at most this part of what the stream has shown */

static uint64_t distance(uint64_t a, uint64_t b) {
  return a > b ? a - b : b - a;
}

/* The places where an offset is expected, as bits; empty places may be among them. No branches: nearly
 * all reads in no order end here. */
static uint32_t candidates(const kvstow__streams *t, uint64_t offset) {
  const uint64_t tolerance = KVSTOW__STREAM_TOLERANCE_BYTES;
  uint32_t found = 0;
  for (uint32_t i = 0; i < KVSTOW__STREAMS; i++)
    found |= (uint32_t)(t->expected[i] - offset + tolerance <= 2 * tolerance) << i;
  return found;
}

/* The stream expected nearest to the offset; KVSTOW__STREAMS: none. */
static uint32_t find(const kvstow__streams *t, uint64_t offset) {
  uint32_t best = KVSTOW__STREAMS;
  uint64_t nearest = UINT64_MAX;
  for (uint32_t left = candidates(t, offset); left != 0; left &= left - 1) {
    const uint32_t i = (uint32_t)__builtin_ctz(left);
    const uint64_t far = distance(t->expected[i], offset);
    if (far >= nearest || t->all[i].birth == 0) continue;
    nearest = far;
    best = i;
  }
  return best;
}

/* Whether a detected stream was there. */
static bool end(kvstow__streams *t, kvstow__stream *s) {
  const bool detected = s->window > 0;
  if (detected) t->detected--;
  if (detected && s->ahead > 0 && !s->useful && t->caution < CAUTION_MAX) t->caution++;
  t->seen[s - t->all] = 0;
  *s = (kvstow__stream){0};
  return detected;
}

/* A read that continued nothing: streams not heard of for too long end. */
static uint32_t estrange(kvstow__streams *t) {
  uint32_t ended = 0;
  const uint32_t most = STRANGERS_MAX * t->detected;
  for (uint32_t i = 0; i < KVSTOW__STREAMS && most > 0; i++) {
    kvstow__stream *s = &t->all[i];
    if (s->window > 0 && ++s->strangers >= most) ended += end(t, s);
  }
  return ended;
}

static uint32_t oldest(const kvstow__streams *t) {
  uint32_t best = 0;
  for (uint32_t i = 1; i < KVSTOW__STREAMS; i++) best = t->seen[i] < t->seen[best] ? i : best;
  return best;
}

static uint32_t threshold(const kvstow__streams *t, const kvstow__stream_limits *limits) {
  const uint32_t reads = limits->threshold << t->caution;
  return reads > 64 && limits->threshold <= 64 ? 64 : reads;
}

kvstow__sighting kvstow__stream_see(kvstow__streams *t, uint64_t offset, uint64_t bytes,
                                    const kvstow__stream_limits *limits) {
  kvstow__sighting sight = {.place = find(t, offset)};
  t->clock++;
  sight.continued = sight.place < KVSTOW__STREAMS;
  if (!sight.continued) {
    sight.ended = estrange(t);
    sight.place = oldest(t);
    kvstow__stream *s = &t->all[sight.place];
    sight.ended += end(t, s);
    s->birth = ++t->births;
    s->next = t->expected[sight.place] = offset;
  }
  kvstow__stream *s = &t->all[sight.place];
  const uint64_t stop = offset + bytes;
  t->seen[sight.place] = t->clock;
  s->strangers = 0;
  if (stop <= s->next) return sight; /* read again: no advance */
  s->length += bytes;
  s->next = t->expected[sight.place] = stop;
  s->reads++;
  if (s->window > 0 || s->reads < threshold(t, limits)) return sight;
  s->window = limits->window_bytes;
  t->detected++;
  sight.detected = true;
  return sight;
}

static uint64_t least(uint64_t a, uint64_t b) {
  return a < b ? a : b;
}

static uint64_t most(uint64_t a, uint64_t b) {
  return a > b ? a : b;
}

static uint64_t up(uint64_t bytes, uint64_t block) {
  return (bytes + block - 1) / block * block;
}

bool kvstow__stream_wants(const kvstow__stream *s, const kvstow__stream_limits *limits,
                          uint64_t *from, uint64_t *to) {
  if (s->window == 0 || s->in_flight >= limits->window_bytes) return false;
  const uint64_t proven = most(limits->window_bytes, s->length / PROVEN_DIVISOR);
  const uint64_t window = least(s->window, least(limits->share_bytes, proven));
  *from = most(s->ahead, s->next / limits->block_bytes * limits->block_bytes);
  *to = up(least(s->next + window, limits->file_bytes), limits->block_bytes);
  /* in large steps: half a window at a time */
  if (*from > s->next && *from - s->next > window / 2) return false;
  return *from < *to;
}

void kvstow__stream_used(kvstow__streams *t, kvstow__stream *s, uint64_t offset, bool late,
                         const kvstow__stream_limits *limits) {
  s->useful = true;
  t->caution = 0;
  if (!late || offset < s->grow_from) return;
  s->window = least(s->window * 2, most(limits->share_bytes, limits->block_bytes));
  s->grow_from = s->ahead;
}

void kvstow__stream_wasted(kvstow__stream *s, const kvstow__stream_limits *limits) {
  s->window = most(s->window / 2, limits->block_bytes);
  s->grow_from = s->ahead;
}
