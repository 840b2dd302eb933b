/* cli/trace/trace.h - traces of how requests touch KV blocks.
 *
 * A reader hands out one request at a time, whatever it reads from: a Mooncake JSONL file (plain or
 * zstd), standard input (`-`), or a generator (`gen:conversations?seed=1`). Block ids are renamed
 * to 0, 1, 2, ... in the order of first appearance, so that a simulator can index arrays by them.
 *
 * In these traces an id stands for a whole prefix: it always has the same predecessor.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRACE_TRACE_H
#define CLI_TRACE_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct trace_request {
  uint64_t timestamp_ms;
  uint64_t session;       /* 0 unknown; otherwise the file's session plus one */
  uint32_t input_tokens;  /* the prompt */
  uint32_t output_tokens; /* the answer */
  uint32_t blocks;        /* ids below; the last may be partly filled */
  const uint32_t *ids;    /* dense, in prefix order; valid until the next call on the reader */
};

struct trace_reader;

/* Opens `name`: a path, `-`, or `gen:...`. NULL with the reason in `why`. */
struct trace_reader *trace_open(const char *name, char *why, size_t why_bytes);

/* 1 and *request; 0 at the end; -1 with the reason (file, line, column, cause) in trace_why(). */
int trace_next(struct trace_reader *reader, struct trace_request *request);

const char *trace_why(const struct trace_reader *reader);

/* Distinct ids so far: every id handed out is below this. */
uint32_t trace_unique(const struct trace_reader *reader);

/* Tokens a block, when the source says so, else 0. */
uint32_t trace_block_tokens(const struct trace_reader *reader);

/* NULL is fine. */
void trace_close(struct trace_reader *reader);

/* A whole trace in memory: what the simulators run on, several times over. */
struct trace {
  char *name;
  struct trace_request *requests; /* their ids point into `ids` */
  uint32_t *ids;
  uint64_t request_count;
  uint64_t accesses; /* ids in all requests together */
  uint64_t input_tokens;
  uint32_t unique;
  uint32_t block_tokens;
};

/* Reads at most `limit` requests (0: all). `block_tokens` 0 takes the source's, or works it out
 * from lengths and counts. NULL with the reason in `why`; a trace without requests is an error. */
struct trace *trace_load(const char *name, uint64_t limit, uint32_t block_tokens, char *why,
                         size_t why_bytes);
void trace_free(struct trace *trace);

#endif
