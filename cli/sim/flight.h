/* cli/sim/flight.h - requests in flight: when the blocks that a request has to compute enter the cache.
 *
 * A server matches a request's prefix, computes the rest, and stores that; others begin meanwhile. So
 * with `in_flight` N the leading run found is used when a request begins, and its other blocks when N
 * later ones have begun, under the request's own number and at the later time. Requests end in
 * the order in which they began; those still in flight at the trace's end end there.
 *
 * A block asked for again before it has entered is missed again, and computed again; what comes second is
 * then held already, and is a use. So is a block that was held behind a hole. Blocks found
 * may be evicted while their request is in flight: leases are not simulated.
 *
 * N 0 means that a request ends before the next begins. All its blocks are then used in one go: back to
 * front, the new ones come before the run that was found; only SIM_STORE keeps the two apart.
 *
 * Internal to cli/sim/.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_SIM_FLIGHT_H
#define CLI_SIM_FLIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/sim/tier.h"

/* What is simulated. */
struct sim_cache {
  /* A request begins: counts its leading run, and returns its length. */
  uint32_t (*begin)(void *self, const struct trace_request *request);
  bool (*holds)(void *self, uint32_t id);
  /* A part's blocks are used: touched, or stored where they are held nowhere; how many of these. */
  uint32_t (*use)(void *self, const struct sim_part *part);
};

/* Walks the trace to its end, counting misses, and in *stored (may be NULL) the blocks stored. 0, or -1 with
 * the pass's `why`. */
int sim_flights(const struct sim_pass *pass, const struct sim_cache *cache, void *self,
                uint64_t *stored);

#endif
