/* cli/trace/sample.h - a small trace that stands for a large one.
 *
 * Spatial sampling (SHARDS: Waldspurger et al., FAST'15): what is sampled is chosen by a hash of
 * its name, so that of a thing all its uses are in the sample or none is, and a cache of R x size
 * sees of it what one of `size` sees of the whole.
 *
 * By block, as in the paper, that gives block hits; prefixes it tears apart. A server's unit is the
 * chain, so by default whole chains are sampled, by the hash of the first block that belongs to one
 * conversation only. That is not always the first block of the chain: in two of the public traces
 * every request begins with the same one, and its hash would take all or nothing. A block with 16
 * or more different successors is held to be shared (a system prompt), with all blocks before it,
 * and the chain is named by the first block behind them. Shared blocks are in every sample, whole.
 * In a trace of single blocks each is a chain of its own, and both ways are the same.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRACE_SAMPLE_H
#define CLI_TRACE_SAMPLE_H

#include "cli/trace/trace.h"

enum trace_sample_by { TRACE_SAMPLE_CHAINS, TRACE_SAMPLE_BLOCKS };

struct trace_sample {
  struct trace *trace; /* the sample, ids renamed; trace_free() it */
  double rate;
  uint64_t units, units_of;   /* chains (or blocks) in the sample, of so many */
  uint64_t shared, shared_of; /* shared blocks in the sample, of so many */
};

/* `rate` in (0, 1). 0, or -1 with the reason in `why`: out of memory, or nothing was sampled. */
int trace_sample_make(const struct trace *trace, double rate, enum trace_sample_by by,
                      struct trace_sample *sample, char *why, size_t why_bytes);

/* The size in the sample that stands for `blocks` of the whole trace, at least 1: shared blocks
 * take the same room in both, the rest is scaled. */
uint64_t trace_sample_size(const struct trace_sample *sample, uint64_t blocks);

#endif
