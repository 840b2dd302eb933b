/* cli/trace/recorded.c - what a store recorded of its own use (kvstow_options.trace, kvstow/trace.h).
 *
 * Each match is a request; what was stored only names blocks. An id is a block's short key and depth; parents
 * are kept, because a record names a chain by its last block. A base that was never met stands for blocks
 * we make up. A chunk cut short at the end is what a crash left: the trace ends before it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <kvstow/trace.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "cli/trace/ids.h"
#include "cli/trace/source.h"

enum { PIECE_BYTES = 32 * 1024, SPACES_MAX = 4096, MADE_UP_MAX = 1 << 26 };
#define NO_PARENT UINT32_MAX

struct recorded {
  struct trace_source source;
  struct input *input;
  kvstow_trace_chunk chunk;
  uint8_t *payload;
  const uint8_t *at, *end; /* in it */
  uint32_t records;        /* taken from it */
  uint64_t number, now_ms, made_up;
  uint32_t spaces[SPACES_MAX]; /* block_tokens by number */
  struct ids ids;
  uint32_t *parents; /* by id */
  uint32_t *chain;
  uint64_t parents_room, chain_room;
};

static int fail(struct recorded *trace, const char *cause) {
  snprintf(trace->source.why, sizeof trace->source.why, "%s: chunk %llu, record %u: %s",
           input_name(trace->input), (unsigned long long)trace->number, trace->records, cause);
  return -1;
}

/* ---- chunks --------------------------------------------------------------------------------- */

/* 1 and `bytes` bytes; 0: there are fewer; -1. */
static int take(struct recorded *trace, void *to, size_t bytes) {
  for (size_t done = 0, piece; done < bytes; done += piece) {
    const char *ahead, *record;
    size_t count;
    piece = bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES;
    char *why = trace->source.why;
    if (input_peek(trace->input, &ahead, &count, why, sizeof trace->source.why) < 0) return -1;
    if (count < piece) return 0;
    if (input_record(trace->input, piece, &record, why, sizeof trace->source.why) <= 0) return -1;
    memcpy((char *)to + done, record, piece);
  }
  return 1;
}

static uint64_t checksum_of(const kvstow_trace_chunk *chunk, const uint8_t *payload) {
  kvstow_trace_chunk bare = *chunk;
  bare.checksum = 0;
  return XXH3_64bits_withSeed(payload, chunk->bytes, XXH3_64bits(&bare, sizeof bare));
}

static int next_chunk(struct recorded *trace) {
  kvstow_trace_chunk *chunk = &trace->chunk;
  int rc = take(trace, chunk, sizeof *chunk);
  if (rc <= 0) return rc;
  trace->number++;
  trace->records = 0;
  if (chunk->magic != KVSTOW_TRACE_CHUNK_MAGIC || chunk->bytes > KVSTOW_TRACE_CHUNK_MAX)
    return fail(trace, "this is no chunk: the file is damaged");
  rc = take(trace, trace->payload, chunk->bytes);
  if (rc <= 0) return rc;
  if (checksum_of(chunk, trace->payload) != chunk->checksum)
    return fail(trace, "its checksum is wrong: the file is damaged");
  trace->at = trace->payload;
  trace->end = trace->payload + chunk->bytes;
  trace->now_ms = chunk->time_ms;
  return 1;
}

/* ---- fields --------------------------------------------------------------------------------- */

static bool get(struct recorded *trace, uint64_t *value) {
  *value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (trace->at == trace->end) return false;
    const uint8_t byte = *trace->at++;
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

/* At most `max`. */
static bool get_32(struct recorded *trace, uint32_t *value, uint32_t max) {
  uint64_t wide;
  const bool ok = get(trace, &wide) && wide <= max;
  *value = ok ? (uint32_t)wide : 0;
  return ok;
}

static uint64_t get_key(struct recorded *trace) {
  uint64_t key = 0;
  for (unsigned i = 0; i < KVSTOW_TRACE_KEY_BYTES; i++) key |= (uint64_t)*trace->at++ << (8 * i);
  return key;
}

/* ---- blocks --------------------------------------------------------------------------------- */

static bool fits(uint32_t **array, uint64_t *room, uint64_t count) {
  if (count <= *room) return true;
  const uint64_t grown = 2 * count < 1024 ? 1024 : 2 * count;
  uint32_t *moved = realloc(*array, grown * sizeof *moved);
  if (moved == NULL) return false;
  *array = moved;
  *room = grown;
  return true;
}

/* The id of `key`; a new one gets this parent. */
static bool name(struct recorded *trace, uint64_t key, uint32_t parent, uint32_t *id) {
  const uint32_t before = trace->ids.count;
  if (!ids_name(&trace->ids, key, id)) return false;
  if (trace->ids.count == before) return true;
  if (!fits(&trace->parents, &trace->parents_room, trace->ids.count)) return false;
  trace->parents[*id] = parent;
  return true;
}

static uint64_t key_of(uint64_t short_key, uint32_t depth) {
  return (uint64_t)depth << (8 * KVSTOW_TRACE_KEY_BYTES) | short_key;
}

/* Block `depth` of the chain, behind the one before. */
static bool name_next(struct recorded *trace, uint64_t short_key, uint32_t depth) {
  const uint32_t parent = depth == 0 ? NO_PARENT : trace->chain[depth - 1];
  const uint64_t key = key_of(short_key, depth);
  uint32_t *id = &trace->chain[depth];
  if (!name(trace, key, parent, id)) return false;
  if (trace->parents[*id] == parent) return true;
  return name(trace, ids_pair(parent, key), parent, id); /* two blocks with one short key */
}

/* The first `count` blocks: the last of them by its key, the others by their children. */
static bool find_base(struct recorded *trace, uint64_t short_key, uint32_t count) {
  const uint32_t before = trace->ids.count;
  const uint64_t key = key_of(short_key, count - 1);
  uint32_t id;
  if (!name(trace, key, NO_PARENT, &id)) return false;
  if (trace->ids.count == before) {
    for (uint32_t i = count; i-- > 0; id = trace->parents[id]) {
      if (id == NO_PARENT) return false;
      trace->chain[i] = id;
    }
    return true;
  }
  trace->made_up += count;
  if (trace->made_up > MADE_UP_MAX) return false;
  uint32_t parent = NO_PARENT;
  for (uint32_t i = 0; i + 1 < count; parent = trace->chain[i++])
    if (!name(trace, ids_pair(i, ~key), parent, &trace->chain[i])) return false;
  trace->parents[id] = parent;
  trace->chain[count - 1] = id;
  return true;
}

static int read_chain(struct recorded *trace, uint32_t *blocks) {
  uint32_t base;
  if (!get_32(trace, blocks, TRACE_BLOCKS_MAX) || !get_32(trace, &base, *blocks))
    return fail(trace, "its chain makes no sense");
  const uint64_t keys = *blocks - base + (base > 0);
  if (keys * KVSTOW_TRACE_KEY_BYTES > (uint64_t)(trace->end - trace->at))
    return fail(trace, "it ends in a chain");
  if (!fits(&trace->chain, &trace->chain_room, *blocks)) return fail(trace, "out of memory");
  if (base > 0 && !find_base(trace, get_key(trace), base))
    return fail(trace, "its chain hangs on nothing");
  for (uint32_t i = base; i < *blocks; i++)
    if (!name_next(trace, get_key(trace), i)) return fail(trace, "out of memory");
  trace->source.unique = trace->ids.count;
  return 1;
}

/* ---- records -------------------------------------------------------------------------------- */

static int read_space(struct recorded *trace) {
  uint32_t number, block_tokens, length;
  if (!get_32(trace, &number, SPACES_MAX - 1) || !get_32(trace, &block_tokens, TRACE_TOKENS_MAX) ||
      !get_32(trace, &length, 4096) || length > (size_t)(trace->end - trace->at) ||
      block_tokens == 0)
    return fail(trace, "its space makes no sense");
  trace->at += length;
  trace->spaces[number] = block_tokens;
  if (trace->source.block_tokens == 0) trace->source.block_tokens = block_tokens;
  return 1;
}

/* What a match and a store begin with. */
static bool get_head(struct recorded *trace) {
  uint64_t ms, request;
  uint32_t space;
  if (!get(trace, &ms) || !get_32(trace, &space, SPACES_MAX - 1) || !get(trace, &request))
    return false;
  trace->now_ms += ms;
  return trace->spaces[space] != 0;
}

static int read_match(struct recorded *trace, struct trace_request *request) {
  uint64_t session;
  uint32_t tokens, hit, blocks;
  if (!get_head(trace) || !get(trace, &session) || !get_32(trace, &tokens, TRACE_TOKENS_MAX) ||
      !get_32(trace, &hit, TRACE_BLOCKS_MAX))
    return fail(trace, "its match makes no sense");
  const int rc = read_chain(trace, &blocks);
  if (rc <= 0) return rc;
  if (hit > blocks) return fail(trace, "more blocks found than asked for");
  *request = (struct trace_request){.timestamp_ms = trace->now_ms,
                                    .session = session,
                                    .input_tokens = tokens,
                                    .blocks = blocks,
                                    .ids = trace->chain};
  return 1;
}

static int read_store(struct recorded *trace) {
  uint32_t first, blocks;
  if (!get_head(trace) || !get_32(trace, &first, TRACE_BLOCKS_MAX))
    return fail(trace, "its store makes no sense");
  const int rc = read_chain(trace, &blocks);
  return rc > 0 && first >= blocks ? fail(trace, "nothing is stored") : rc;
}

static int recorded_next(struct trace_source *source, struct trace_request *request) {
  struct recorded *trace = (struct recorded *)source;
  for (;;) {
    int rc = 1;
    while (trace->at == trace->end)
      if ((rc = next_chunk(trace)) <= 0) return rc;
    trace->records++;
    switch (*trace->at++) {
      case KVSTOW_TRACE_SPACE:
        rc = read_space(trace);
        break;
      case KVSTOW_TRACE_MATCH:
        return read_match(trace, request);
      case KVSTOW_TRACE_STORE:
        rc = read_store(trace);
        break;
      default:
        return fail(trace, "of no known kind");
    }
    if (rc <= 0) return rc;
  }
}

static void recorded_close(struct trace_source *source) {
  struct recorded *trace = (struct recorded *)source;
  input_close(trace->input);
  ids_finish(&trace->ids);
  free(trace->parents);
  free(trace->chain);
  free(trace->payload);
  free(trace);
}

bool recorded_likely(const char *bytes, size_t count) {
  const size_t length = sizeof KVSTOW_TRACE_MAGIC - 1;
  return count >= length && memcmp(bytes, KVSTOW_TRACE_MAGIC, length) == 0;
}

struct trace_source *recorded_open(struct input *input, char *why, size_t why_bytes) {
  struct recorded *trace = calloc(1, sizeof *trace);
  if (trace != NULL) trace->payload = malloc(KVSTOW_TRACE_CHUNK_MAX);
  if (trace == NULL || trace->payload == NULL) {
    snprintf(why, why_bytes, "%s: out of memory", input_name(input));
    free(trace);
    input_close(input);
    return NULL;
  }
  trace->input = input;
  trace->source.next = recorded_next;
  trace->source.close = recorded_close;
  trace->at = trace->end = trace->payload;
  kvstow_trace_header header;
  const int rc = take(trace, &header, sizeof header);
  if (rc > 0 && recorded_likely(header.magic, sizeof header.magic) &&
      header.version == KVSTOW_TRACE_VERSION && header.endian == KVSTOW_TRACE_ENDIAN)
    return &trace->source;
  if (rc < 0)
    snprintf(why, why_bytes, "%s", trace->source.why);
  else if (rc == 0)
    snprintf(why, why_bytes, "%s: ends in its header", input_name(input));
  else if (header.version == KVSTOW_TRACE_VERSION)
    snprintf(why, why_bytes, "%s: its header is damaged", input_name(input));
  else
    snprintf(why, why_bytes, "%s: a recorded trace of version %u: this reads version %u",
             input_name(input), header.version, KVSTOW_TRACE_VERSION);
  recorded_close(&trace->source);
  return NULL;
}
