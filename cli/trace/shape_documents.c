/* cli/trace/shape_documents.c - gen:documents: questions on a long document.
 *
 * Most documents are somebody's own; some are one of twenty that everybody asks about. Each question
 * stands behind those before it and their answers, or (history=0) behind the document alone.
 *
 *   key        default  what
 *   rate       0.15     readers a second (in a mixture 0.03)
 *   length     30000    median tokens of a document, lognormal with sigma 0.7
 *   questions  4        mean questions, exponential
 *   gap        50       median seconds between them, lognormal with sigma 1.1
 *   history    1        whether the questions before are part of the context
 *   popular    0.15     the share of readers who read one of the twenty
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace/traffic.h"

struct documents {
  struct shape shape;
  double length, questions, gap, history, popular;
  struct text prompt;
};

struct reader {
  struct client client;
  const struct documents *documents;
  struct context context, question; /* the question: with what stands before it */
  uint32_t left;
};

static double reader_step(struct traffic *traffic, struct client *client) {
  struct reader *reader = (struct reader *)client;
  struct random *random = &traffic->random;
  const double length = GRAIN_TOKENS + random_lognormal(random, 150, 0.7), answer = 300;
  const struct text question = text_new(traffic, length);
  context_copy(traffic, &reader->question, &reader->context);
  context_add(traffic, &reader->question, question);
  client_ask(traffic, client, &reader->question, answer);
  if (reader->documents->history > 0) {
    context_add(traffic, &reader->context, question);
    context_add(traffic, &reader->context, text_new(traffic, answer));
  }
  if (--reader->left == 0 || context_tokens(&reader->context) >= CONTEXT_TOKENS_MAX) return -1;
  return answer * DECODE_MS_PER_TOKEN +
         random_lognormal(random, reader->documents->gap * 1000, 1.1);
}

static void reader_finish(struct client *client) {
  struct reader *reader = (struct reader *)client;
  context_clear(&reader->context);
  context_clear(&reader->question);
}

static const struct client_ops reader_ops = {reader_step, reader_finish};

static void documents_prepare(struct traffic *traffic, struct shape *shape) {
  struct documents *documents = (struct documents *)shape;
  documents->prompt = text_new(traffic, 700);
  library_fill(traffic, &documents->shape.library, 20, documents->length, 0.7, 0);
}

static struct text document(struct traffic *traffic, const struct documents *documents) {
  if (random_uniform(&traffic->random) < documents->popular)
    return documents->shape.library.texts[library_pick(traffic, &documents->shape.library)];
  return text_new(traffic, random_lognormal(&traffic->random, documents->length, 0.7));
}

static void documents_begin(struct traffic *traffic, const struct shape *shape) {
  const struct documents *documents = (const struct documents *)shape;
  struct reader *reader = client_begin(traffic, &reader_ops, sizeof *reader, 0);
  if (reader == NULL) return;
  reader->documents = documents;
  reader->left = 1 + (uint32_t)random_exponential(&traffic->random, documents->questions);
  context_add(traffic, &reader->context, documents->prompt);
  context_add(traffic, &reader->context, document(traffic, documents));
}

const struct shape_ops shape_documents = {
    .name = "documents",
    .rate = 0.15,
    .rate_in_mix = 0.03,
    .bytes = sizeof(struct documents),
    .settings = {{"length", offsetof(struct documents, length), 30000, 1, 1e5, false},
                 {"questions", offsetof(struct documents, questions), 4, 0, 1000, false},
                 {"gap", offsetof(struct documents, gap), 50, 0, 1e6, false},
                 {"history", offsetof(struct documents, history), 1, 0, 1, true},
                 {"popular", offsetof(struct documents, popular), 0.15, 0, 1, false}},
    .prepare = documents_prepare,
    .begin = documents_begin,
};
