/* cli/trace/traffic.h - made-up traffic of several shapes: what the shapes are made from.
 *
 * A shape (chat, agents, ...) begins clients at random times. A client takes one step after another:
 * it asks a request, or prepares one, and says how long it pauses. Contexts are made of grains of 64
 * tokens, each either new or part of a text that others have, too; a block is full of them, or is
 * the last of its request. A context is known by hashes only, and a block gets its id when it is
 * first asked for, so that memory follows clients at work and distinct blocks.
 *
 * Out of memory is remembered, and ends the trace with an error: steps need not look.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRACE_TRAFFIC_H
#define CLI_TRACE_TRAFFIC_H

#include "cli/trace/agenda.h"
#include "cli/trace/ids.h"
#include "cli/trace/random.h"
#include "cli/trace/settings.h"
#include "cli/trace/source.h"

enum { GRAIN_TOKENS = 64, DECODE_MS_PER_TOKEN = 20, CONTEXT_TOKENS_MAX = 128000 };

struct traffic;
struct shape;

/* ---- contexts ---- */

struct text {
  uint64_t first; /* grain; they are numbered on */
  uint32_t grains;
};

struct context {
  uint64_t *names; /* of the full blocks: a hash of the chain so far */
  uint32_t blocks, size;
  uint32_t grains;
  uint64_t chain; /* of all grains */
};

/* New text of so many tokens, in whole grains. */
struct text text_new(struct traffic *traffic, double tokens);

/* Texts that many ask for, each as often as Zipf's law says. */
struct library {
  struct text *texts;
  double *popularity; /* summed up */
  uint32_t count;
};

/* `count` texts of lognormal length. */
void library_fill(struct traffic *traffic, struct library *library, double count,
                  double median_tokens, double sigma, double exponent);
uint32_t library_pick(struct traffic *traffic, const struct library *library);

void context_add(struct traffic *traffic, struct context *context, struct text text);
void context_copy(struct traffic *traffic, struct context *to, const struct context *from);
void context_clear(struct context *context); /* and frees */
static inline uint32_t context_tokens(const struct context *context) {
  return context->grains * GRAIN_TOKENS;
}

/* ---- clients ---- */

struct client {
  struct event due;
  uint64_t session;
  const struct client_ops *ops;
};

struct client_ops {
  /* Asks one request or none. The milliseconds until the next step; negative: the client leaves. */
  double (*step)(struct traffic *traffic, struct client *client);
  void (*finish)(struct client *client); /* frees what it holds besides its own memory */
};

/* A zeroed client of `bytes` bytes whose first step comes in `pause_ms`; NULL when out of memory. */
void *client_begin(struct traffic *traffic, const struct client_ops *ops, size_t bytes,
                   double pause_ms);

/* The step's request: the whole context, and an answer, which is not part of it yet. */
void client_ask(struct traffic *traffic, const struct client *client, const struct context *context,
                double output_tokens);

/* ---- shapes ---- */

/* A shape is a client, too: its first step prepares, each of the others begins a client. */
struct shape {
  struct client client;
  bool prepared;
  double rate;            /* clients a second; 0 none */
  struct library library; /* what its clients share; freed with the shape */
  const struct shape_ops *ops;
};

struct shape_setting {
  const char *key;
  size_t offset; /* of a double in the shape */
  double value, min, max;
  bool whole;
};

enum { SHAPE_SETTINGS_MAX = 8 };

struct shape_ops {
  const char *name;
  double rate, rate_in_mix; /* when not given */
  size_t bytes;
  struct shape_setting settings[SHAPE_SETTINGS_MAX]; /* ends with a key of NULL, or all are used */
  void (*prepare)(struct traffic *traffic, struct shape *shape);
  void (*begin)(struct traffic *traffic, const struct shape *shape); /* a client arrives */
};

extern const struct shape_ops shape_chat, shape_agents, shape_retrieval, shape_documents,
    shape_batches;

struct traffic {
  struct trace_source source;
  const char *name; /* of the shape, or mix */
  struct random random;
  struct agenda agenda;
  struct ids ids;
  uint64_t grains; /* so far, for texts */
  uint64_t clients, events, requests;
  double now_ms;
  double seed, requests_max, block_tokens;
  bool asked, failed; /* the step under way has; memory is short, or ids */
  struct trace_request request;
  uint32_t *asked_ids;
  uint32_t asked_size;
};

#endif
