/* cli/trace/shape_chat.c - gen:chat: people and an assistant.
 *
 * Pauses have heavy tails; seven of ten people soon leave, the others stay: their turns are 0.4 and
 * 2.4 times `turns`, geometric. So both how long a conversation has lasted and how long it paused
 * tell of what comes, as they do not in gen:conversations.
 *
 *   key            default  what
 *   rate           2        conversations a second (in a mixture 1)
 *   systems        16       system prompts, of Zipf popularity with exponent 1
 *   system_tokens  1500     median tokens of a system prompt, lognormal with sigma 0.5
 *   turns          3.5      see above
 *   gap            60       median seconds from an answer to the next message, lognormal
 *   gap_sigma      1.2
 *   message        600      median tokens of a message, lognormal with sigma 1; an answer has 250
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace/traffic.h"

struct chat {
  struct shape shape;
  double systems, system_tokens, turns, gap, gap_sigma, message;
};

struct person {
  struct client client;
  const struct chat *chat;
  struct context context;
  double again; /* the probability of another turn */
};

static double person_step(struct traffic *traffic, struct client *client) {
  struct person *person = (struct person *)client;
  const struct chat *chat = person->chat;
  struct random *random = &traffic->random;
  const double message = GRAIN_TOKENS + random_lognormal(random, chat->message, 1);
  const double answer = 1 + random_lognormal(random, 250, 0.8);
  context_add(traffic, &person->context, text_new(traffic, message));
  client_ask(traffic, client, &person->context, answer);
  context_add(traffic, &person->context, text_new(traffic, answer));
  if (random_uniform(random) >= person->again ||
      context_tokens(&person->context) >= CONTEXT_TOKENS_MAX)
    return -1;
  return answer * DECODE_MS_PER_TOKEN + random_lognormal(random, chat->gap * 1000, chat->gap_sigma);
}

static void person_finish(struct client *client) {
  context_clear(&((struct person *)client)->context);
}

static const struct client_ops person_ops = {person_step, person_finish};

static void chat_prepare(struct traffic *traffic, struct shape *shape) {
  struct chat *chat = (struct chat *)shape;
  library_fill(traffic, &chat->shape.library, chat->systems, chat->system_tokens, 0.5, 1);
}

static void chat_begin(struct traffic *traffic, const struct shape *shape) {
  const struct chat *chat = (const struct chat *)shape;
  struct person *person = client_begin(traffic, &person_ops, sizeof *person, 0);
  if (person == NULL) return;
  const double turns = chat->turns * (random_uniform(&traffic->random) < 0.7 ? 0.4 : 2.4);
  person->chat = chat;
  person->again = turns > 1 ? 1 - 1 / turns : 0.3;
  const uint32_t prompt = library_pick(traffic, &chat->shape.library);
  context_add(traffic, &person->context, chat->shape.library.texts[prompt]);
}

const struct shape_ops shape_chat = {
    .name = "chat",
    .rate = 2,
    .rate_in_mix = 1,
    .bytes = sizeof(struct chat),
    .settings = {{"systems", offsetof(struct chat, systems), 16, 1, 65536, true},
                 {"system_tokens", offsetof(struct chat, system_tokens), 1500, 1, 1e5, false},
                 {"turns", offsetof(struct chat, turns), 3.5, 1, 1000, false},
                 {"gap", offsetof(struct chat, gap), 60, 0, 1e6, false},
                 {"gap_sigma", offsetof(struct chat, gap_sigma), 1.2, 0, 3, false},
                 {"message", offsetof(struct chat, message), 600, 1, 1e5, false}},
    .prepare = chat_prepare,
    .begin = chat_begin,
};
