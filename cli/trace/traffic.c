/* cli/trace/traffic.c - contexts, clients, and the source that runs them; see traffic.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace/traffic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF /* gcc -std=c11 has it off */
#endif

static const struct shape_ops *const shapes[] = {&shape_chat, &shape_agents, &shape_retrieval,
                                                 &shape_documents, &shape_batches};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

/* ---- contexts ---- */

struct text text_new(struct traffic *traffic, double tokens) {
  const double most = CONTEXT_TOKENS_MAX;
  const struct text text = {
      .first = traffic->grains,
      .grains = (uint32_t)((tokens < most ? tokens : most) / GRAIN_TOKENS),
  };
  traffic->grains += text.grains;
  return text;
}

void library_fill(struct traffic *traffic, struct library *library, double count,
                  double median_tokens, double sigma, double exponent) {
  library->count = (uint32_t)count;
  library->texts = malloc(library->count * sizeof *library->texts);
  library->popularity = malloc(library->count * sizeof *library->popularity);
  if (library->texts == NULL || library->popularity == NULL) {
    traffic->failed = true;
    return;
  }
  for (uint32_t i = 0; i < library->count; i++)
    library->texts[i] = text_new(traffic, random_lognormal(&traffic->random, median_tokens, sigma));
  random_zipf_sums(library->popularity, library->count, exponent);
}

uint32_t library_pick(struct traffic *traffic, const struct library *library) {
  return (uint32_t)random_zipf(&traffic->random, library->popularity, library->count);
}

static void library_finish(struct library *library) {
  free(library->texts);
  free(library->popularity);
}

static bool context_reserve(struct traffic *traffic, struct context *context, uint32_t blocks) {
  if (blocks <= context->size) return true;
  const uint32_t size = blocks + blocks / 2 + 8;
  uint64_t *names = realloc(context->names, size * sizeof *names);
  if (names == NULL) {
    traffic->failed = true;
    return false;
  }
  context->names = names;
  context->size = size;
  return true;
}

void context_add(struct traffic *traffic, struct context *context, struct text text) {
  const uint32_t a_block = (uint32_t)traffic->block_tokens / GRAIN_TOKENS;
  if (!context_reserve(traffic, context, (context->grains + text.grains) / a_block)) return;
  for (uint32_t i = 0; i < text.grains; i++) {
    context->chain = ids_pair((uint32_t)(context->chain >> 32), context->chain ^ (text.first + i));
    if (++context->grains % a_block == 0) context->names[context->blocks++] = context->chain;
  }
}

void context_copy(struct traffic *traffic, struct context *to, const struct context *from) {
  context_clear(to);
  if (!context_reserve(traffic, to, from->blocks)) return;
  if (from->blocks > 0) memcpy(to->names, from->names, from->blocks * sizeof *to->names);
  to->blocks = from->blocks;
  to->grains = from->grains;
  to->chain = from->chain;
}

void context_clear(struct context *context) {
  free(context->names);
  *context = (struct context){.blocks = 0};
}

/* ---- clients ---- */

static bool enqueue(struct traffic *traffic, struct client *client, double pause_ms) {
  client->due = (struct event){.due_ms = traffic->now_ms + pause_ms, .number = ++traffic->events};
  if (agenda_push(&traffic->agenda, &client->due)) return true;
  traffic->failed = true;
  return false;
}

void *client_begin(struct traffic *traffic, const struct client_ops *ops, size_t bytes,
                   double pause_ms) {
  struct client *client = calloc(1, bytes);
  if (client == NULL) {
    traffic->failed = true;
    return NULL;
  }
  client->ops = ops;
  client->session = ++traffic->clients;
  if (enqueue(traffic, client, pause_ms)) return client;
  free(client);
  return NULL;
}

static void client_end(struct client *client) {
  client->ops->finish(client);
  free(client);
}

/* The last block may be partly filled: its name is the chain's up to there. */
void client_ask(struct traffic *traffic, const struct client *client, const struct context *context,
                double output_tokens) {
  const bool partial = context->grains % ((uint32_t)traffic->block_tokens / GRAIN_TOKENS) != 0;
  const uint32_t blocks = context->blocks + partial;
  if (blocks > traffic->asked_size) {
    uint32_t *ids = realloc(traffic->asked_ids, blocks * 2 * sizeof *ids);
    if (ids == NULL) {
      traffic->failed = true;
      return;
    }
    traffic->asked_ids = ids;
    traffic->asked_size = blocks * 2;
  }
  for (uint32_t i = 0; i < blocks; i++) {
    const uint64_t name = i < context->blocks ? context->names[i] : context->chain;
    if (!ids_name(&traffic->ids, name, &traffic->asked_ids[i])) traffic->failed = true;
  }
  traffic->asked = true;
  traffic->request = (struct trace_request){.timestamp_ms = (uint64_t)traffic->now_ms,
                                            .session = client->session,
                                            .input_tokens = context_tokens(context),
                                            .output_tokens = (uint32_t)output_tokens,
                                            .blocks = blocks,
                                            .ids = traffic->asked_ids};
}

/* ---- shapes ---- */

static double shape_step(struct traffic *traffic, struct client *client) {
  struct shape *shape = (struct shape *)client;
  if (shape->prepared)
    shape->ops->begin(traffic, shape);
  else
    shape->ops->prepare(traffic, shape);
  shape->prepared = true;
  return shape->rate > 0 ? random_exponential(&traffic->random, 1000 / shape->rate) : -1;
}

static void shape_finish(struct client *client) {
  library_finish(&((struct shape *)client)->library);
}

static const struct client_ops shape_client = {shape_step, shape_finish};

/* Begins it, with its defaults. Its settings go to `list`; how many they are. */
static size_t shape_begin(struct traffic *traffic, const struct shape_ops *ops, bool alone,
                          struct setting list[SHAPE_SETTINGS_MAX + 1]) {
  struct shape *shape = client_begin(traffic, &shape_client, ops->bytes, 0);
  if (shape == NULL) return 0;
  shape->ops = ops;
  shape->rate = alone ? ops->rate : ops->rate_in_mix;
  list[0] = (struct setting){"rate", &shape->rate, 0, 1e6, false};
  size_t count = 1;
  for (size_t i = 0; i < SHAPE_SETTINGS_MAX && ops->settings[i].key != NULL; i++) {
    const struct shape_setting *from = &ops->settings[i];
    double *value = (double *)(void *)((char *)shape + from->offset);
    *value = from->value;
    list[count++] = (struct setting){from->key, value, from->min, from->max, from->whole};
  }
  return count;
}

/* ---- the source ---- */

static int traffic_next(struct trace_source *source, struct trace_request *request) {
  struct traffic *traffic = (struct traffic *)source;
  if ((double)traffic->requests >= traffic->requests_max) return 0;
  traffic->asked = false;
  while (!traffic->asked && !traffic->failed) {
    struct client *client = (struct client *)agenda_pop(&traffic->agenda);
    if (client == NULL) return 0; /* nobody comes: all rates are 0 */
    traffic->now_ms = client->due.due_ms;
    const double pause_ms = client->ops->step(traffic, client);
    if (pause_ms < 0 || !enqueue(traffic, client, pause_ms)) client_end(client);
  }
  if (traffic->failed) {
    snprintf(source->why, sizeof source->why, "gen:%s: out of memory or ids", traffic->name);
    return -1;
  }
  source->unique = traffic->ids.count;
  traffic->requests++;
  *request = traffic->request;
  return 1;
}

static void traffic_close(struct trace_source *source) {
  struct traffic *traffic = (struct traffic *)source;
  for (struct event *due; (due = agenda_pop(&traffic->agenda)) != NULL;)
    client_end((struct client *)due);
  agenda_finish(&traffic->agenda);
  ids_finish(&traffic->ids);
  free(traffic->asked_ids);
  free(traffic);
}

/* The shapes wait in the agenda from the start; what is set is set before their first steps. */
static bool begin_shapes(struct traffic *traffic, const struct shape_ops *alone, const char *params,
                         char *why, size_t why_bytes) {
  struct setting lists[SHAPES][SHAPE_SETTINGS_MAX + 1];
  char prefixes[SHAPES][16];
  const struct setting common[] = {
      {"seed", &traffic->seed, 0, 0x1p53, true},
      {"requests", &traffic->requests_max, 1, 1e9, true},
      {"block_tokens", &traffic->block_tokens, GRAIN_TOKENS, 1 << 16, true},
  };
  struct settings groups[SHAPES + 1] = {{"", common, sizeof common / sizeof common[0]}};
  size_t count = 1;
  for (size_t i = 0; i < SHAPES; i++) {
    if (alone != NULL && shapes[i] != alone) continue;
    snprintf(prefixes[i], sizeof prefixes[i], "%s.", shapes[i]->name);
    groups[count++] =
        (struct settings){.prefix = alone != NULL ? "" : prefixes[i],
                          .list = lists[i],
                          .count = shape_begin(traffic, shapes[i], alone != NULL, lists[i])};
  }
  if (!traffic->failed) return settings_parse(traffic->name, params, groups, count, why, why_bytes);
  snprintf(why, why_bytes, "gen:%s: out of memory", traffic->name);
  return false;
}

static struct trace_source *open_shape(const struct shape_ops *alone, const char *params, char *why,
                                       size_t why_bytes) {
  struct traffic *traffic = calloc(1, sizeof *traffic);
  const char *name = alone != NULL ? alone->name : "mix";
  if (traffic == NULL) {
    snprintf(why, why_bytes, "gen:%s: out of memory", name);
    return NULL;
  }
  traffic->source.next = traffic_next;
  traffic->source.close = traffic_close;
  traffic->name = name;
  traffic->seed = 1;
  traffic->requests_max = 10000;
  traffic->block_tokens = 512;
  if (!begin_shapes(traffic, alone, params, why, why_bytes)) {
    traffic_close(&traffic->source);
    return NULL;
  }
  if ((uint32_t)traffic->block_tokens % GRAIN_TOKENS != 0) {
    snprintf(why, why_bytes, "gen:%s: block_tokens=%.0f: wants a multiple of %d", name,
             traffic->block_tokens, GRAIN_TOKENS);
    traffic_close(&traffic->source);
    return NULL;
  }
  traffic->source.block_tokens = (uint32_t)traffic->block_tokens;
  traffic->random = random_seeded((uint64_t)traffic->seed);
  return &traffic->source;
}

struct trace_source *traffic_open(const char *name, char *why, size_t why_bytes) {
  const size_t length = strcspn(name, "?");
  const char *params = name[length] == '?' ? name + length + 1 : "";
  if (length == 3 && memcmp(name, "mix", length) == 0)
    return open_shape(NULL, params, why, why_bytes);
  for (size_t i = 0; i < SHAPES; i++)
    if (strlen(shapes[i]->name) == length && memcmp(name, shapes[i]->name, length) == 0)
      return open_shape(shapes[i], params, why, why_bytes);
  snprintf(why, why_bytes,
           "gen:%.*s: no such generator (there are conversations, chat, agents, retrieval, "
           "documents, batches and mix)",
           (int)length, name);
  return NULL;
}
