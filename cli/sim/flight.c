/* cli/sim/flight.c - a ring of the requests that have begun and not ended; see flight.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/sim/flight.h"

#include <stdio.h>
#include <stdlib.h>

struct flight {
  struct trace_request request; /* its ids are `ids` */
  uint64_t number;
  uint32_t found; /* its leading run */
  uint32_t *ids;  /* with TRACE_AHEAD more, as the walk gives them */
  uint32_t room;
};

struct flights {
  const struct sim_cache *cache;
  void *self;
  struct flight *ring;
  uint64_t first, count, room; /* requests in the ring: from `first` on, modulo `room` */
  uint64_t stored;
};

static int flights_init(struct flights *flights, const struct sim_cache *cache, void *self,
                        uint64_t in_flight) {
  *flights = (struct flights){.cache = cache, .self = self, .room = in_flight + 1};
  flights->ring = calloc(flights->room, sizeof *flights->ring);
  return flights->ring != NULL ? 0 : -1;
}

static void flights_finish(struct flights *flights) {
  for (uint64_t i = 0; flights->ring != NULL && i < flights->room; i++) free(flights->ring[i].ids);
  free(flights->ring);
}

static int take_off(struct flights *flights, const struct trace_request *request, uint64_t number,
                    uint32_t found) {
  struct flight *flight = &flights->ring[(flights->first + flights->count) % flights->room];
  const uint32_t ids = request->blocks + TRACE_AHEAD;
  if (flight->ids == NULL || flight->room < ids) {
    uint32_t *grown = realloc(flight->ids, ids * sizeof *grown);
    if (grown == NULL) return -1;
    flight->ids = grown;
    flight->room = ids;
  }
  memcpy(flight->ids, request->ids, ids * sizeof *flight->ids);
  flight->request = *request;
  flight->request.ids = flight->ids;
  flight->number = number;
  flight->found = found;
  flights->count++;
  return 0;
}

/* The request that began first ends. */
static void land(struct flights *flights, uint64_t now_ms) {
  const struct flight *flight = &flights->ring[flights->first];
  const struct sim_part part = {.request = &flight->request,
                                .number = flight->number,
                                .now_ms = now_ms,
                                .first = flight->found,
                                .end = flight->request.blocks};
  flights->stored += flights->cache->use(flights->self, &part);
  flights->first = (flights->first + 1) % flights->room;
  flights->count--;
}

static int begin_request(struct flights *flights, const struct sim_part *all,
                         struct sim_result *result) {
  const struct sim_cache *cache = flights->cache;
  struct sim_part part = *all;
  part.end = cache->begin(flights->self, part.request);
  for (uint32_t i = part.end; i < all->end; i++)
    result->misses += !cache->holds(flights->self, part.request->ids[i]);
  cache->use(flights->self, &part);
  if (take_off(flights, part.request, part.number, part.end) < 0) return -1;
  if (flights->count == flights->room) land(flights, part.now_ms);
  return 0;
}

static int fly(const struct sim_pass *pass, struct flights *flights) {
  const struct trace_request *request;
  uint64_t now_ms = 0;
  for (uint64_t number = 1; (request = trace_walk_next(pass->walk)) != NULL; number++) {
    if (request->timestamp_ms > now_ms) now_ms = request->timestamp_ms;
    const struct sim_part all = {
        .request = request, .number = number, .now_ms = now_ms, .end = request->blocks};
    if (begin_request(flights, &all, pass->result) < 0) return -1;
  }
  while (flights->count > 0) land(flights, now_ms);
  return 0;
}

/* Each request ends before the next begins. */
static void walk(const struct sim_pass *pass, struct flights *flights) {
  const bool found_first = pass->options->order == SIM_STORE;
  const struct trace_request *request;
  for (uint64_t number = 1; (request = trace_walk_next(pass->walk)) != NULL; number++) {
    struct sim_part part = {.request = request, .number = number, .now_ms = request->timestamp_ms};
    const uint32_t found = flights->cache->begin(flights->self, request);
    if (found_first) {
      part.end = found;
      flights->stored += flights->cache->use(flights->self, &part);
      part.first = found;
    }
    part.end = request->blocks;
    flights->stored += flights->cache->use(flights->self, &part);
  }
  pass->result->misses = flights->stored;
}

int sim_flights(const struct sim_pass *pass, const struct sim_cache *cache, void *self,
                uint64_t *stored) {
  struct flights flights;
  int rc = flights_init(&flights, cache, self, pass->options->in_flight);
  if (rc == 0 && pass->options->in_flight > 0)
    rc = fly(pass, &flights);
  else if (rc == 0)
    walk(pass, &flights);
  if (rc < 0)
    snprintf(pass->why, pass->why_bytes, "out of memory for %u requests in flight",
             pass->options->in_flight);
  if (stored != NULL) *stored = flights.stored;
  flights_finish(&flights);
  return rc;
}
