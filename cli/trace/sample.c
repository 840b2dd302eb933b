/* cli/trace/sample.c - spatial sampling of chains or blocks; see sample.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace/sample.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/trace/packed.h"

enum { SHARED_SUCCESSORS = 16 };
#define NOT_SEEN UINT32_MAX
#define NO_PARENT (UINT32_MAX - 1)

/* What is known of a block. */
struct fact {
  uint32_t parent; /* NOT_SEEN, NO_PARENT */
  uint32_t renamed;
  uint8_t successors; /* different ones, at most SHARED_SUCCESSORS */
  bool shared;
  bool unit; /* names a chain, or is sampled itself: counted */
};

struct sampler {
  const struct trace *trace;
  enum trace_sample_by by;
  uint64_t threshold; /* of 2^32 */
  struct fact *facts;
  uint32_t *ids; /* of the request under way, renamed */
  struct trace_sample *sample;
};

static uint32_t hash(uint64_t id) { /* splitmix64 */
  uint64_t x = (id + 1) * 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return (uint32_t)(x >> 32);
}

static bool is_in(const struct sampler *sampler, uint64_t id) {
  return hash(id) < sampler->threshold;
}

/* ---- which blocks are shared ---- */

static void mark_shared(struct sampler *sampler, uint32_t id) {
  while (id != NO_PARENT && !sampler->facts[id].shared) {
    sampler->facts[id].shared = true;
    sampler->sample->shared_of++;
    id = sampler->facts[id].parent;
  }
}

static void learn_chain(struct sampler *sampler, const struct trace_request *request) {
  for (uint32_t i = 0; i < request->blocks; i++) {
    struct fact *fact = &sampler->facts[request->ids[i]];
    if (fact->parent != NOT_SEEN) continue;
    fact->parent = i > 0 ? request->ids[i - 1] : NO_PARENT;
    if (i == 0) continue;
    struct fact *parent = &sampler->facts[fact->parent];
    if (parent->successors == SHARED_SUCCESSORS) continue;
    if (++parent->successors == SHARED_SUCCESSORS) mark_shared(sampler, fact->parent);
  }
}

/* ---- what is taken ---- */

static void count_unit(struct sampler *sampler, uint32_t id, bool in) {
  struct fact *fact = &sampler->facts[id];
  if (fact->unit) return;
  fact->unit = true;
  sampler->sample->units_of++;
  sampler->sample->units += in;
}

static uint32_t take_id(struct sampler *sampler, uint32_t id) {
  struct fact *fact = &sampler->facts[id];
  if (fact->renamed == NOT_SEEN) {
    fact->renamed = sampler->sample->trace->unique++;
    sampler->sample->shared += fact->shared;
  }
  return fact->renamed;
}

/* The first block that is not shared; the last, when all are. */
static uint32_t chain_name(const struct sampler *sampler, const struct trace_request *request) {
  uint32_t at = 0;
  while (at + 1 < request->blocks && sampler->facts[request->ids[at]].shared) at++;
  return request->ids[at];
}

/* The request as it is in the sample; false if it is not in it. */
static bool take(struct sampler *sampler, const struct trace_request *request,
                 struct trace_request *taken) {
  uint32_t count = 0;
  if (request->blocks == 0) return false;
  if (sampler->by == TRACE_SAMPLE_CHAINS) {
    const uint32_t name = chain_name(sampler, request);
    const bool in = is_in(sampler, name);
    count_unit(sampler, name, in);
    if (!in) return false;
  }
  for (uint32_t i = 0; i < request->blocks; i++) {
    const uint32_t id = request->ids[i];
    if (sampler->by == TRACE_SAMPLE_BLOCKS) {
      const bool in = is_in(sampler, id);
      count_unit(sampler, id, in);
      if (!in) continue;
    }
    sampler->ids[count++] = take_id(sampler, id);
  }
  *taken = *request;
  taken->blocks = count;
  taken->ids = sampler->ids;
  return count > 0;
}

static int run(struct sampler *sampler, struct trace_walk *walk, char *why, size_t why_bytes) {
  const struct trace_request *request;
  struct trace *out = sampler->sample->trace;
  while (sampler->by == TRACE_SAMPLE_CHAINS && (request = trace_walk_next(walk)) != NULL)
    learn_chain(sampler, request);
  trace_walk_rewind(walk);
  while ((request = trace_walk_next(walk)) != NULL) {
    struct trace_request taken;
    if (!take(sampler, request, &taken)) continue;
    if (!trace_append(out, &taken)) goto not_kept;
  }
  if (!spool_seal(&out->packed->spool)) goto not_kept;
  if (out->accesses == 0) {
    snprintf(why, why_bytes, "%s: a sample of %g is empty: there are %llu %s", out->name,
             sampler->sample->rate, (unsigned long long)sampler->sample->units_of,
             sampler->by == TRACE_SAMPLE_CHAINS ? "chains" : "blocks");
    return -1;
  }
  return 0;
not_kept:
  snprintf(why, why_bytes, "%s: keeping the sample: %s", out->name, strerror(errno));
  return -1;
}

int trace_sample_make(const struct trace *trace, double rate, enum trace_sample_by by,
                      struct trace_sample *sample, char *why, size_t why_bytes) {
  *sample = (struct trace_sample){.trace = trace_create(trace->name), .rate = rate};
  struct sampler sampler = {.trace = trace,
                            .by = by,
                            .threshold = (uint64_t)(rate * 4294967296.0),
                            .facts = malloc(trace->unique * sizeof *sampler.facts),
                            .ids = malloc((trace->longest + 1) * sizeof *sampler.ids),
                            .sample = sample};
  struct trace_walk *walk = trace_walk_begin(trace);
  int rc = -1;
  if (sample->trace == NULL || sampler.facts == NULL || sampler.ids == NULL || walk == NULL) {
    snprintf(why, why_bytes, "%s: out of memory for a sample", trace->name);
  } else {
    for (uint32_t i = 0; i < trace->unique; i++)
      sampler.facts[i] = (struct fact){.parent = NOT_SEEN, .renamed = NOT_SEEN};
    sample->trace->block_tokens = trace->block_tokens;
    rc = run(&sampler, walk, why, why_bytes);
  }
  if (!trace_walk_end(walk) && rc == 0) {
    snprintf(why, why_bytes, "%s: reading it back failed", trace->name);
    rc = -1;
  }
  free(sampler.facts);
  free(sampler.ids);
  if (rc < 0) {
    trace_free(sample->trace);
    sample->trace = NULL;
  }
  return rc;
}

uint64_t trace_sample_size(const struct trace_sample *sample, uint64_t blocks) {
  const uint64_t shared = sample->shared_of < blocks ? sample->shared_of : blocks;
  const double size = (double)(blocks - shared) * sample->rate + (double)shared;
  return size < 1.5 ? 1 : (uint64_t)(size + 0.5);
}
