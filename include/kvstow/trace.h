/* kvstow/trace.h - the format of a recorded trace: what was asked of a store (kvstow_options.trace).
 *
 * docs/trace.md is for people; `kvstow replay --trace FILE` reads one.
 *
 * A file is a header and chunks. A chunk stands alone but for the blocks it refers to, and is written whole: one
 * that is cut short at the end of the file is what a crash left, and is to be ignored. Integers of headers
 * are little-endian; in a payload all are varints (LEB128, 7 bits a byte, lowest first, at most ten bytes),
 * but for short keys.
 *
 * The payload of a chunk is records, each:
 *
 *   kind          one byte
 *   SPACE         number, block_tokens, length of name, name. Before the chunk's first use of the space.
 *   MATCH         ms, space, request, session, tokens, hit, chain
 *   STORE         ms, space, request, first, chain
 *
 *   ms            since the record before (the chunk's time_ms for its first)
 *   request       zigzag difference to the record before (0 for the first): a request's match and stores have
 *                 the same number
 *   session       as the caller gave it; 0 unknown
 *   tokens        asked for
 *   hit           leading blocks held in either tier
 *   first         the chain's blocks from this one on were stored
 *   chain         blocks, base; base 0: then a short key for each block, from the first on. Else a
 *                 short key for block base - 1, and one for each after it. Block base - 1 was named before,
 *                 with all before it; a reader that has not met it (some records may have been lost)
 *                 knows of these blocks only that they are there.
 *   short key     5 bytes: the low 40 bits of kvstow_key.lo
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TRACE_H
#define KVSTOW_TRACE_H

#include <stdint.h>

#define KVSTOW_TRACE_MAGIC "kvstrace"
#define KVSTOW_TRACE_VERSION 1u
#define KVSTOW_TRACE_ENDIAN 0x01020304u
#define KVSTOW_TRACE_CHUNK_MAGIC 0x6b6e6863u /* "chnk" */
#define KVSTOW_TRACE_CHUNK_MAX ((uint32_t)1 << 20)
#define KVSTOW_TRACE_KEY_BYTES 5u
#define KVSTOW_TRACE_RUN_BEGINS 1u /* a chunk's flag: a store was opened; requests count anew */

typedef struct kvstow_trace_header {
  char magic[8];
  uint32_t version, endian;
} kvstow_trace_header;

typedef struct kvstow_trace_chunk {
  uint32_t magic;
  uint32_t bytes;    /* of payload, at most KVSTOW_TRACE_CHUNK_MAX */
  uint64_t checksum; /* XXH3-64 of the payload, seeded with that of this header (checksum 0) */
  uint64_t time_ms;  /* Unix time */
  uint64_t lost;     /* records dropped since the chunk before: the disk was too slow, or full */
  uint32_t records;
  uint32_t flags;
} kvstow_trace_chunk;

typedef enum kvstow_trace_kind {
  KVSTOW_TRACE_SPACE = 1,
  KVSTOW_TRACE_MATCH,
  KVSTOW_TRACE_STORE,
} kvstow_trace_kind;

#endif
