/* cli/trace/shape_retrieval.c - gen:retrieval: documents found for a question, in rank order.
 *
 * Behind one system prompt stand the documents, then the question, then perhaps questions that follow
 * it. So documents are shared as prefixes only where the same ones were found in the same order.
 *
 *   key        default  what
 *   rate       2        first questions a second (in a mixture 0.4)
 *   documents  3000     there are, of Zipf popularity
 *   zipf       0.9      its exponent
 *   found      4        for each first question
 *   document   1500     median tokens of one, lognormal with sigma 0.7
 *   follow     0.35     the probability of another question, some 45 seconds later
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace/traffic.h"

struct retrieval {
  struct shape shape;
  double documents, zipf, found, document, follow;
  struct text prompt;
};

struct asker {
  struct client client;
  const struct retrieval *retrieval;
  struct context context;
};

static double asker_step(struct traffic *traffic, struct client *client) {
  struct asker *asker = (struct asker *)client;
  struct random *random = &traffic->random;
  const double question = GRAIN_TOKENS + random_lognormal(random, 120, 0.6), answer = 200;
  context_add(traffic, &asker->context, text_new(traffic, question));
  client_ask(traffic, client, &asker->context, answer);
  context_add(traffic, &asker->context, text_new(traffic, answer));
  if (random_uniform(random) >= asker->retrieval->follow ||
      context_tokens(&asker->context) >= CONTEXT_TOKENS_MAX)
    return -1;
  return answer * DECODE_MS_PER_TOKEN + random_lognormal(random, 45000, 0.8);
}

static void asker_finish(struct client *client) {
  context_clear(&((struct asker *)client)->context);
}

static const struct client_ops asker_ops = {asker_step, asker_finish};

static void retrieval_prepare(struct traffic *traffic, struct shape *shape) {
  struct retrieval *retrieval = (struct retrieval *)shape;
  retrieval->prompt = text_new(traffic, 1200);
  library_fill(traffic, &retrieval->shape.library, retrieval->documents, retrieval->document, 0.7,
               retrieval->zipf);
}

static void retrieval_begin(struct traffic *traffic, const struct shape *shape) {
  const struct retrieval *retrieval = (const struct retrieval *)shape;
  struct asker *asker = client_begin(traffic, &asker_ops, sizeof *asker, 0);
  if (asker == NULL) return;
  asker->retrieval = retrieval;
  context_add(traffic, &asker->context, retrieval->prompt);
  for (uint32_t left = (uint32_t)retrieval->found; left > 0; left--) {
    const uint32_t document = library_pick(traffic, &retrieval->shape.library);
    context_add(traffic, &asker->context, retrieval->shape.library.texts[document]);
  }
}

const struct shape_ops shape_retrieval = {
    .name = "retrieval",
    .rate = 2,
    .rate_in_mix = 0.4,
    .bytes = sizeof(struct retrieval),
    .settings = {{"documents", offsetof(struct retrieval, documents), 3000, 1, 1e7, true},
                 {"zipf", offsetof(struct retrieval, zipf), 0.9, 0, 5, false},
                 {"found", offsetof(struct retrieval, found), 4, 0, 100, true},
                 {"document", offsetof(struct retrieval, document), 1500, 1, 1e5, false},
                 {"follow", offsetof(struct retrieval, follow), 0.35, 0, 0.99, false}},
    .prepare = retrieval_prepare,
    .begin = retrieval_begin,
};
