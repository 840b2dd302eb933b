/* cli/sim/sim.h - replays a trace against policies, block by block, moving no bytes.
 *
 * For each request, k is the leading run of its blocks that are held when it starts: what a server
 * can use (a block is worthless without its ancestors). Then all its blocks are touched, and those
 * not held are inserted. Block-level misses count every id as one access of a unit-size object,
 * whatever its place: with the order `front` that is libCacheSim's figure, from the same pass.
 *
 *   one tier      any policy, and three that see the future or need no room: belady, opt, infinite
 *   two, ideal    exclusive RAM and SSD, demotion on eviction, one block at a time: the textbook
 *   two, engine   what kvcache/ does: clean frames, watermarks, segments (rules in two_engine.c)
 *
 * With requests in flight (flight.h) a request's other blocks come only when later requests have begun, as in
 * a server that stores them when they have been computed.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_SIM_SIM_H
#define CLI_SIM_SIM_H

#include <stddef.h>
#include <stdint.h>

#include "cli/trace/trace.h"

enum sim_order {
  SIM_FRONT, /* a request's blocks are touched first to last */
  SIM_BACK,  /* last to first: ancestors end up younger than their leaves */
  SIM_STORE, /* as a store: the leading run found, last to first, then the rest so; not opt, belady */
};

/* "front", "back", "store"; NULL past the last. */
const char *sim_order_name(unsigned order);

enum sim_tiers { SIM_ONE, SIM_IDEAL, SIM_ENGINE };

struct sim_options {
  enum sim_tiers tiers;
  enum sim_order order;
  const char *policy;     /* of the one tier, or of RAM */
  const char *ssd_policy; /* NULL: the same */
  const char *params;     /* of `policy`; NULL */
  uint64_t blocks;        /* the one tier's size, or RAM's */
  uint64_t ssd_blocks;    /* two tiers only */
  uint32_t in_flight; /* requests that begin before a request's new blocks enter; not opt, belady */
  uint64_t seed;
  /* engine only; 0 means the default */
  uint32_t segment_blocks; /* records a segment holds: 32 */
  double high, low;        /* watermarks, shares of RAM: 0.90 and 0.80 */
};

struct sim_result {
  uint64_t size_blocks, ssd_size_blocks; /* what was simulated */
  uint64_t requests, accesses, unique;
  uint64_t input_tokens;
  uint64_t misses; /* block level: accesses that found nothing in any tier; in flight: when
                                 their request began */
  uint64_t prefix_hit_blocks; /* sum of k; = ram_hit_blocks + ssd_hit_blocks */
  uint64_t prefix_hit_tokens;
  double input_tokens_squared, prefix_hit_tokens_squared; /* sums of squares over requests */
  uint64_t ram_hit_blocks, ssd_hit_blocks;
  uint64_t ram_hit_tokens, ssd_hit_tokens;
  uint64_t ssd_writes;   /* blocks written: one tier: inserted; two: demoted and rewritten */
  uint64_t writes_read;  /* of these, in a leading run at least once before they left */
  uint64_t ssd_rewrites; /* of these, moved on reclaim (engine) */
  uint64_t reclaims;     /* segments reused (engine) */
  uint64_t valued_drops; /* blocks the SSD policy still valued, lost with their segment (engine) */
  uint64_t stalls;       /* blocks that waited for a demotion to find a frame (engine) */
  double seconds;        /* processor time of the replay itself, without reading the trace */
};

/* 0, or -1 with the reason in `why`. Any thread: the trace is only read. */
int sim_run(const struct trace *trace, const struct sim_options *options, struct sim_result *result,
            char *why, size_t why_bytes);

#endif
