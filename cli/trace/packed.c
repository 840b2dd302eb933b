/* cli/trace/packed.c - packs requests, and walks packed ones; see packed.h and trace.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace/packed.h"

#include <stdlib.h>
#include <string.h>

enum {
  SAME_TIME = 1, /* as the request before */
  SAME_SESSION = 2,
  SAME_INPUT = 4,
  SAME_OUTPUT = 8,
  SAME_CATEGORY = 16,
  ONE_BLOCK = 32,
  VARINT_BYTES_MAX = 10,
  WALK_REQUESTS = 512, /* decoded at once, or until there are WALK_IDS */
  WALK_IDS = 4096,
};

/* ---- packing ---- */

void packed_init(struct packed *packed) {
  memset(packed, 0, sizeof *packed);
  spool_init(&packed->spool);
}

void packed_finish(struct packed *packed) {
  spool_finish(&packed->spool);
}

/* LEB128 at `at`, where room was reserved; what is behind it. */
static unsigned char *put(unsigned char *at, uint64_t value) {
  while (value >= 0x80) {
    *at++ = (unsigned char)(value | 0x80);
    value >>= 7;
  }
  *at++ = (unsigned char)value;
  return at;
}

/* What was put from memory + used up to `end` belongs to the spool. */
static void put_end(struct spool *spool, const unsigned char *end) {
  spool->used = (size_t)(end - spool->memory);
}

static uint64_t zigzag(int64_t value) {
  return (uint64_t)value << 1 ^ (uint64_t)(value >> 63);
}

static int64_t unzigzag(uint64_t value) {
  return (int64_t)(value >> 1 ^ (0 - (value & 1)));
}

static bool put_runs(struct packed *packed, const struct trace_request *request) {
  struct spool *spool = &packed->spool;
  for (uint32_t i = 0; i < request->blocks;) {
    const uint32_t first = request->ids[i];
    uint32_t length = 1;
    while (i + length < request->blocks && request->ids[i + length] == first + length) length++;
    if (!spool_reserve(spool, (size_t)2 * VARINT_BYTES_MAX)) return false;
    unsigned char *at =
        put(spool->memory + spool->used, zigzag((int64_t)first - (int64_t)packed->next_id));
    if (request->blocks - i > 1) at = put(at, length - 1);
    put_end(spool, at);
    packed->next_id = first + length;
    i += length;
  }
  return true;
}

bool packed_append(struct packed *packed, const struct trace_request *request) {
  struct spool *spool = &packed->spool;
  const struct trace_request *last = &packed->last;
  if (!spool_reserve(spool, (size_t)6 * VARINT_BYTES_MAX)) return false;
  const unsigned flags = (request->timestamp_ms == last->timestamp_ms ? SAME_TIME : 0u) |
                         (request->session == last->session ? SAME_SESSION : 0u) |
                         (request->input_tokens == last->input_tokens ? SAME_INPUT : 0u) |
                         (request->output_tokens == last->output_tokens ? SAME_OUTPUT : 0u) |
                         (request->category == last->category ? SAME_CATEGORY : 0u) |
                         (request->blocks == 1 ? ONE_BLOCK : 0u);
  unsigned char *at = put(spool->memory + spool->used, flags);
  if (!(flags & SAME_TIME))
    at = put(at, zigzag((int64_t)(request->timestamp_ms - last->timestamp_ms)));
  if (!(flags & SAME_SESSION)) at = put(at, request->session);
  if (!(flags & SAME_INPUT)) at = put(at, request->input_tokens);
  if (!(flags & SAME_OUTPUT)) at = put(at, request->output_tokens);
  if (!(flags & SAME_CATEGORY)) at = put(at, request->category);
  if (!(flags & ONE_BLOCK)) at = put(at, request->blocks);
  put_end(spool, at);
  packed->last = *request;
  packed->last.ids = NULL;
  return put_runs(packed, request);
}

/* ---- walking ---- */

struct trace_walk {
  const struct trace *trace;
  struct spool_reader reader;
  struct trace_request last;
  uint32_t next_id;
  uint64_t left; /* requests not decoded yet */
  uint32_t count, at;
  struct trace_request
      requests[WALK_REQUESTS]; /* decoded: [at, count) are still to be handed out */
  uint32_t *ids;               /* theirs, one after another */
};

static uint64_t get(struct trace_walk *walk) {
  struct spool_reader *reader = &walk->reader;
  uint64_t value = 0;
  for (unsigned shift = 0; reader->at < reader->end; shift += 7) {
    const unsigned char byte = *reader->at++;
    value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  reader->failed = true; /* the file is not what it was */
  return 0;
}

static void need(struct trace_walk *walk, ptrdiff_t bytes) {
  if (walk->reader.end - walk->reader.at < bytes) spool_reader_fill(&walk->reader);
}

static void get_runs(struct trace_walk *walk, uint32_t blocks, uint32_t *ids) {
  for (uint32_t i = 0; i < blocks && !walk->reader.failed;) {
    need(walk, 2 * VARINT_BYTES_MAX);
    const uint32_t first = (uint32_t)(walk->next_id + unzigzag(get(walk)));
    const uint32_t length = blocks - i > 1 ? (uint32_t)get(walk) + 1 : 1;
    if (length > blocks - i) walk->reader.failed = true;
    if (walk->reader.failed) return;
    for (uint32_t j = 0; j < length; j++) ids[i + j] = first + j;
    walk->next_id = first + length;
    i += length;
  }
}

static void decode(struct trace_walk *walk) {
  uint32_t ids = 0;
  walk->at = walk->count = 0;
  while (walk->left > 0 && walk->count < WALK_REQUESTS && ids < WALK_IDS) {
    struct trace_request *request = &walk->requests[walk->count];
    *request = walk->last;
    need(walk, 6 * VARINT_BYTES_MAX);
    const uint64_t flags = get(walk);
    if (!(flags & SAME_TIME)) request->timestamp_ms += (uint64_t)unzigzag(get(walk));
    if (!(flags & SAME_SESSION)) request->session = get(walk);
    if (!(flags & SAME_INPUT)) request->input_tokens = (uint32_t)get(walk);
    if (!(flags & SAME_OUTPUT)) request->output_tokens = (uint32_t)get(walk);
    if (!(flags & SAME_CATEGORY)) request->category = (uint32_t)get(walk);
    request->blocks = flags & ONE_BLOCK ? 1 : (uint32_t)get(walk);
    request->ids = walk->ids + ids;
    if (request->blocks > walk->trace->longest) walk->reader.failed = true;
    get_runs(walk, request->blocks, walk->ids + ids);
    if (walk->reader.failed) return;
    ids += request->blocks;
    walk->last = *request;
    walk->left--;
    walk->count++;
  }
}

struct trace_walk *trace_walk_begin(const struct trace *trace) {
  struct trace_walk *walk = malloc(sizeof *walk);
  if (walk == NULL) return NULL;
  /* Zeroed: what lies behind the last ids is read as hints, too. */
  walk->ids = calloc((size_t)WALK_IDS + trace->longest + TRACE_AHEAD, sizeof *walk->ids);
  walk->trace = trace;
  if (walk->ids == NULL || !spool_reader_init(&walk->reader, &trace->packed->spool)) {
    free(walk->ids);
    free(walk);
    return NULL;
  }
  trace_walk_rewind(walk);
  return walk;
}

void trace_walk_rewind(struct trace_walk *walk) {
  spool_reader_rewind(&walk->reader);
  memset(&walk->last, 0, sizeof walk->last);
  walk->next_id = walk->count = walk->at = 0;
  walk->left = walk->trace->request_count;
}

const struct trace_request *trace_walk_next(struct trace_walk *walk) {
  if (walk->at == walk->count) {
    decode(walk);
    if (walk->count == 0) return NULL;
  }
  return &walk->requests[walk->at++];
}

bool trace_walk_end(struct trace_walk *walk) {
  if (walk == NULL) return true;
  const bool whole = !walk->reader.failed;
  spool_reader_finish(&walk->reader);
  free(walk->ids);
  free(walk);
  return whole;
}
