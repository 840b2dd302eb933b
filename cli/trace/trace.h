/* cli/trace/trace.h - traces of how requests touch KV blocks.
 *
 * A reader hands out one request at a time, whatever it reads from:
 *
 *   mooncake       JSON lines: timestamp (ms), input_length, output_length, hash_ids [FAST'25]
 *   qwen           the same with chat_id, parent_chat_id, type; seconds [Qwen-Bailian, ATC'25]
 *   oracleGeneral  libCacheSim's binary: each object access is a request of one block
 *   csv            the same as text; columns as libCacheSim's parameters name them
 *   kvstow         what a store has recorded (kvstow_options.trace)
 *   gen:...        a generator (gen:conversations?seed=1, gen:mix?chat.rate=2)
 *
 * Files may be compressed with zstd; `-` is standard input. Block ids are renamed to 0, 1, 2, ... in
 * the order of first appearance, so that a simulator can index arrays by them. In traces of
 * requests an id stands for a whole prefix: it always has the same predecessor.
 *
 * A `struct trace` is a trace read once and kept packed (a few bytes a request, beyond 32 MiB in an
 * unlinked file), so that memory follows its distinct blocks, not its length. Any number of threads
 * may walk it at once.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRACE_TRACE_H
#define CLI_TRACE_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct trace_request {
  uint64_t timestamp_ms;
  uint64_t session;       /* 0 unknown */
  uint32_t input_tokens;  /* the prompt */
  uint32_t output_tokens; /* the answer */
  uint32_t category;      /* class of the request, 0 unknown */
  uint32_t blocks;        /* ids below; the last may be partly filled */
  const uint32_t *ids;    /* dense, in prefix order; valid until the next call */
};

/* ---- reading ---- */

struct trace_reader;

/* Opens `name`: a path, `-`, or `gen:...`. `format` is one of the names above (csv may have
 * parameters: csv:time-col=2,obj-id-col=5), or NULL: told from the content, then from the name.
 * NULL with the reason in `why`. */
struct trace_reader *trace_open(const char *name, const char *format, char *why, size_t why_bytes);

/* Whether `format` is one; if not, `why` says what is. */
bool trace_format_known(const char *format, char *why, size_t why_bytes);

/* 1 and *request; 0 at the end; -1 with the reason (file, line or offset, cause) in trace_why(). */
int trace_next(struct trace_reader *reader, struct trace_request *request);

const char *trace_why(const struct trace_reader *reader);

/* Distinct ids so far: every id handed out is below this. */
uint32_t trace_unique(const struct trace_reader *reader);

/* Tokens a block, when the source says so, else 0. */
uint32_t trace_block_tokens(const struct trace_reader *reader);

/* NULL is fine. */
void trace_close(struct trace_reader *reader);

/* ---- a whole trace ---- */

struct trace {
  char *name;
  uint64_t request_count;
  uint64_t accesses; /* ids in all requests together */
  uint64_t input_tokens;
  double input_tokens_squared; /* sum of squares over requests */
  uint64_t first_ms, last_ms;  /* the least and the greatest timestamp */
  uint32_t unique;
  uint32_t block_tokens;
  uint32_t longest; /* blocks in the longest request */
  double load_seconds;
  struct packed *packed;
};

struct trace_options {
  const char *format;    /* as for trace_open() */
  uint64_t limit;        /* requests; 0: all */
  uint32_t block_tokens; /* 0: the source's, or worked out from lengths and counts */
};

/* `options` may be NULL. NULL with the reason in `why`; a trace without requests is an error. */
struct trace *trace_load(const char *name, const struct trace_options *options, char *why,
                         size_t why_bytes);
void trace_free(struct trace *trace);

/* A pass over a trace, of one thread. The trace outlives it. */
struct trace_walk;

enum { TRACE_AHEAD = 16 }; /* between a prefetch and the use some 300 ns */

/* NULL when out of memory. */
struct trace_walk *trace_walk_begin(const struct trace *trace);

/* The next request, valid until the next call; NULL at the end, or when reading failed. Behind its
 * ids lie those of the requests after it: TRACE_AHEAD more may be read, and are valid ids of the
 * trace, but not always the next ones. They are hints what to prefetch. */
const struct trace_request *trace_walk_next(struct trace_walk *walk);

/* Back to the first request. */
void trace_walk_rewind(struct trace_walk *walk);

/* Frees it (NULL is fine). False when reading failed: the pass was not complete. */
bool trace_walk_end(struct trace_walk *walk);

#endif
