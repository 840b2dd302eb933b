/* cli/trace/conversations.c - gen:conversations: multi-turn chat, made up to published figures.
 *
 * Sessions arrive at random (Poisson). Each begins with one of a few shared system prompts (Zipf
 * popularity), then takes turns: the context so far, a user's message, an answer; the next turn's
 * prompt is all of it again. Only full blocks get ids, so an id always has the same predecessor:
 * system blocks belong to their prompt, all later blocks to their session.
 *
 *   key            default  what, and where it comes from
 *   seed           1        same seed, same trace, on every machine
 *   requests       10000
 *   block_tokens   512      as Mooncake's traces
 *   rate           1.67     sessions a second [Mooncake conversation, FAST'25: 12031 requests in an
 *                           hour, over 2 turns]
 *   systems        64       distinct system prompts
 *   zipf           1.0      exponent of their popularity [reuse is skewed: 10 % of blocks are 77 % of
 *                           it, arXiv 2506.02634]
 *   system_tokens  1000     median length of a system prompt, lognormal with sigma 0.6
 *   turns          2        mean turns of a session, geometric, cut at 20
 *   first          1020     median tokens of the first message, lognormal [Azure LLM trace 2023,
 *   first_sigma    1.0      conversation: median 1020, 90th percentile 2734]; later ones, too
 *   next           400      median tokens of a later message. With it, system_tokens and turns, a
 *                           cache without limit hits 62 %, as their consumer trace [2506.02634]
 *   output         129      median tokens of an answer [the Azure trace: median 129, 10th
 *   output_sigma   0.9      percentile 54, 90th 424]
 *   gap            373      mean seconds from an answer to the next message, exponential [80 % of
 *                           reuse within 10 minutes, and exponential within a category: 2506.02634]
 *   max_tokens     131072   a session whose context would exceed this ends
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/trace/agenda.h"
#include "cli/trace/random.h"
#include "cli/trace/settings.h"
#include "cli/trace/source.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF /* gcc -std=c11 has it off */
#endif

enum { TURNS_MAX = 20, SYSTEMS_MAX = 65536 };

#define DECODE_MS_PER_TOKEN 20 /* an answer of 129 tokens takes 2.6 s */

struct parameters {
  double seed, requests, block_tokens, rate, systems, zipf, system_tokens, turns;
  double first, first_sigma, next, output, output_sigma, gap, max_tokens;
};

struct session {
  struct event due; /* the next request; its number is the session's id */
  uint32_t turns_left;
  uint32_t tokens; /* context so far, without the coming message */
  uint32_t blocks; /* ids below */
  uint32_t blocks_size;
  uint32_t turn; /* turns taken */
  uint32_t *ids;
};

struct system_prompt {
  uint32_t tokens;
  uint32_t blocks; /* known so far: a prompt gets its ids at its first use */
  uint32_t *ids;
};

struct conversations {
  struct trace_source source;
  struct parameters settings;
  struct random random;
  struct system_prompt *systems;
  double *popularity;   /* of the systems, summed up */
  struct agenda agenda; /* of sessions */
  double next_arrival_ms;
  uint64_t sessions, requests;
  struct session *current; /* the one whose ids were handed out */
};

/* ---- lengths and counts ---- */

static uint32_t lognormal_tokens(struct conversations *gen, double median, double sigma) {
  const double tokens = random_lognormal(&gen->random, median, sigma);
  if (tokens < 1) return 1;
  return tokens < gen->settings.max_tokens ? (uint32_t)tokens : (uint32_t)gen->settings.max_tokens;
}

/* Mean `mean`, at least 1, at most TURNS_MAX. */
static uint32_t geometric_turns(struct conversations *gen, double mean) {
  uint32_t turns = 1;
  while (turns < TURNS_MAX && random_uniform(&gen->random) > 1 / mean) turns++;
  return turns;
}

/* ---- sessions, in the order in which they are due ---- */

static void session_free(struct session *session) {
  if (session != NULL) free(session->ids);
  free(session);
}

static bool session_reserve(struct session *session, uint32_t blocks) {
  if (session->ids != NULL && blocks <= session->blocks_size) return true;
  const uint32_t size = blocks * 2;
  uint32_t *ids = realloc(session->ids, size * sizeof *ids);
  if (ids == NULL) return false;
  session->ids = ids;
  session->blocks_size = size;
  return true;
}

/* Gives the session's context of `tokens` tokens its ids. */
static bool session_extend(struct conversations *gen, struct session *session, uint32_t tokens) {
  const uint32_t blocks = tokens / (uint32_t)gen->settings.block_tokens;
  if (!session_reserve(session, blocks + 1) || gen->source.unique > INT32_MAX - blocks)
    return false;
  while (session->blocks < blocks) session->ids[session->blocks++] = gen->source.unique++;
  return true;
}

/* The system prompt's full blocks are shared; the rest of it lies in the session's first block. */
static bool begin_with_system(struct conversations *gen, struct session *session) {
  struct system_prompt *system =
      &gen->systems[random_zipf(&gen->random, gen->popularity, (size_t)gen->settings.systems)];
  const uint32_t blocks = system->tokens / (uint32_t)gen->settings.block_tokens;
  if (system->ids == NULL) {
    system->ids = malloc((blocks + 1) * sizeof *system->ids);
    if (system->ids == NULL) return false;
    for (uint32_t i = 0; i < blocks; i++) system->ids[i] = gen->source.unique++;
    system->blocks = blocks;
  }
  if (!session_reserve(session, blocks + 1)) return false;
  memcpy(session->ids, system->ids, blocks * sizeof *session->ids);
  session->blocks = blocks;
  session->tokens = system->tokens;
  return true;
}

static bool arrive(struct conversations *gen) {
  struct session *session = calloc(1, sizeof *session);
  if (session == NULL) return false;
  session->due.number = ++gen->sessions;
  session->due.due_ms = gen->next_arrival_ms;
  session->turns_left = geometric_turns(gen, gen->settings.turns);
  gen->next_arrival_ms += random_exponential(&gen->random, 1000 / gen->settings.rate);
  if (!begin_with_system(gen, session) || !agenda_push(&gen->agenda, &session->due)) {
    session_free(session);
    return false;
  }
  return true;
}

/* ---- the source ---- */

/* Puts the session just served back in the queue, or ends it. */
static bool retire_current(struct conversations *gen) {
  struct session *session = gen->current;
  gen->current = NULL;
  if (session == NULL) return true;
  if (session->turns_left > 0 && session->tokens < gen->settings.max_tokens &&
      agenda_push(&gen->agenda, &session->due))
    return true;
  const bool ended = session->turns_left == 0 || session->tokens >= gen->settings.max_tokens;
  session_free(session);
  return ended;
}

static bool take_turn(struct conversations *gen, struct session *session,
                      struct trace_request *request) {
  const struct parameters *set = &gen->settings;
  const uint32_t message =
      lognormal_tokens(gen, session->turn == 0 ? set->first : set->next, set->first_sigma);
  const uint32_t answer = lognormal_tokens(gen, set->output, set->output_sigma);
  const uint32_t input = session->tokens + message;
  if (!session_extend(gen, session, input)) return false;
  *request = (struct trace_request){.timestamp_ms = (uint64_t)session->due.due_ms,
                                    .session = session->due.number,
                                    .input_tokens = input,
                                    .output_tokens = answer,
                                    .blocks = session->blocks,
                                    .ids = session->ids};
  session->tokens = input + answer;
  session->turn++;
  session->turns_left--;
  session->due.due_ms +=
      (double)answer * DECODE_MS_PER_TOKEN + random_exponential(&gen->random, set->gap * 1000);
  return true;
}

static int conversations_next(struct trace_source *source, struct trace_request *request) {
  struct conversations *gen = (struct conversations *)source;
  if (!retire_current(gen)) goto no_memory;
  if ((double)gen->requests >= gen->settings.requests) return 0;
  while (agenda_next(&gen->agenda) == NULL ||
         gen->next_arrival_ms <= agenda_next(&gen->agenda)->due_ms)
    if (!arrive(gen)) goto no_memory;
  gen->current = (struct session *)agenda_pop(&gen->agenda);
  if (!take_turn(gen, gen->current, request)) goto no_memory;
  gen->requests++;
  return 1;
no_memory:
  snprintf(source->why, sizeof source->why, "gen:conversations: out of memory or ids");
  return -1;
}

static void conversations_close(struct trace_source *source) {
  struct conversations *gen = (struct conversations *)source;
  session_free(gen->current);
  for (struct event *due; (due = agenda_pop(&gen->agenda)) != NULL;)
    session_free((struct session *)due);
  agenda_finish(&gen->agenda);
  if (gen->systems != NULL)
    for (size_t i = 0; i < (size_t)gen->settings.systems; i++) free(gen->systems[i].ids);
  free(gen->systems);
  free(gen->popularity);
  free(gen);
}

static bool parse(struct parameters *set, const char *params, char *why, size_t why_bytes) {
  *set = (struct parameters){.seed = 1,
                             .requests = 10000,
                             .block_tokens = 512,
                             .rate = 1.67,
                             .systems = 64,
                             .zipf = 1.0,
                             .system_tokens = 1000,
                             .turns = 2,
                             .first = 1020,
                             .first_sigma = 1.0,
                             .next = 400,
                             .output = 129,
                             .output_sigma = 0.9,
                             .gap = 373,
                             .max_tokens = 131072};
  const struct setting settings[] = {
      {"seed", &set->seed, 0, 0x1p53, true},
      {"requests", &set->requests, 1, 1e9, true},
      {"block_tokens", &set->block_tokens, 1, 1 << 20, true},
      {"rate", &set->rate, 1e-6, 1e6, false},
      {"systems", &set->systems, 1, SYSTEMS_MAX, true},
      {"zipf", &set->zipf, 0, 5, false},
      {"system_tokens", &set->system_tokens, 1, 1 << 20, false},
      {"turns", &set->turns, 1, TURNS_MAX, false},
      {"first", &set->first, 1, 1 << 20, false},
      {"first_sigma", &set->first_sigma, 0, 3, false},
      {"next", &set->next, 1, 1 << 20, false},
      {"output", &set->output, 1, 1 << 20, false},
      {"output_sigma", &set->output_sigma, 0, 3, false},
      {"gap", &set->gap, 0, 1e6, false},
      {"max_tokens", &set->max_tokens, 1, 1 << 22, true},
  };
  const struct settings all = {"", settings, sizeof settings / sizeof settings[0]};
  return settings_parse("conversations", params, &all, 1, why, why_bytes);
}

static bool make_systems(struct conversations *gen) {
  const size_t count = (size_t)gen->settings.systems;
  gen->systems = calloc(count, sizeof *gen->systems);
  gen->popularity = malloc(count * sizeof *gen->popularity);
  if (gen->systems == NULL || gen->popularity == NULL) return false;
  random_zipf_sums(gen->popularity, count, gen->settings.zipf);
  for (size_t i = 0; i < count; i++)
    gen->systems[i].tokens = lognormal_tokens(gen, gen->settings.system_tokens, 0.6);
  return true;
}

struct trace_source *conversations_open(const char *params, char *why, size_t why_bytes) {
  struct conversations *gen = calloc(1, sizeof *gen);
  if (gen == NULL) {
    snprintf(why, why_bytes, "gen:conversations: out of memory");
    return NULL;
  }
  gen->source.next = conversations_next;
  gen->source.close = conversations_close;
  if (!parse(&gen->settings, params, why, why_bytes)) {
    free(gen);
    return NULL;
  }
  gen->source.block_tokens = (uint32_t)gen->settings.block_tokens;
  gen->random = random_seeded((uint64_t)gen->settings.seed);
  if (!make_systems(gen)) {
    conversations_close(&gen->source);
    snprintf(why, why_bytes, "gen:conversations: out of memory");
    return NULL;
  }
  return &gen->source;
}
