/* cli/trace/shape_batches.c - gen:batches: jobs of one template and many items.
 *
 *   key       default  what
 *   rate      0.05     jobs a second (in a mixture 0.005)
 *   templates 40       there are, equally popular
 *   template  3500     median tokens of one, lognormal with sigma 0.8
 *   size      60       mean items of a job, exponential
 *   item      900      median tokens of one, lognormal with sigma 0.8
 *   spacing   0.3      mean seconds between items, exponential
 *   samples   1        times that each item is asked, some seconds apart
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace/traffic.h"

struct batches {
  struct shape shape;
  double templates, template_tokens, size, item, spacing, samples;
};

struct job {
  struct client client;
  const struct batches *batches;
  struct text template;
  uint32_t left;
};

struct item {
  struct client client;
  struct context context;
  uint32_t left;
};

static double item_step(struct traffic *traffic, struct client *client) {
  struct item *item = (struct item *)client;
  client_ask(traffic, client, &item->context, 150);
  return --item->left > 0 ? 500 + 3500 * random_uniform(&traffic->random) : -1;
}

static void item_finish(struct client *client) {
  context_clear(&((struct item *)client)->context);
}

static const struct client_ops item_ops = {item_step, item_finish};

static double job_step(struct traffic *traffic, struct client *client) {
  struct job *job = (struct job *)client;
  const struct batches *batches = job->batches;
  struct item *item = client_begin(traffic, &item_ops, sizeof *item, 0);
  if (item == NULL) return -1;
  item->left = (uint32_t)batches->samples;
  context_add(traffic, &item->context, job->template);
  context_add(traffic, &item->context,
              text_new(traffic, random_lognormal(&traffic->random, batches->item, 0.8)));
  if (--job->left == 0) return -1;
  return random_exponential(&traffic->random, batches->spacing * 1000);
}

static void job_finish(struct client *client) {
  (void)client;
}

static const struct client_ops job_ops = {job_step, job_finish};

static void batches_prepare(struct traffic *traffic, struct shape *shape) {
  struct batches *batches = (struct batches *)shape;
  library_fill(traffic, &batches->shape.library, batches->templates, batches->template_tokens, 0.8,
               0);
}

static void batches_begin(struct traffic *traffic, const struct shape *shape) {
  const struct batches *batches = (const struct batches *)shape;
  struct job *job = client_begin(traffic, &job_ops, sizeof *job, 0);
  if (job == NULL) return;
  job->batches = batches;
  job->template = batches->shape.library.texts[library_pick(traffic, &batches->shape.library)];
  job->left = 1 + (uint32_t)random_exponential(&traffic->random, batches->size);
}

const struct shape_ops shape_batches = {
    .name = "batches",
    .rate = 0.05,
    .rate_in_mix = 0.005,
    .bytes = sizeof(struct batches),
    .settings = {{"templates", offsetof(struct batches, templates), 40, 1, 65536, true},
                 {"template", offsetof(struct batches, template_tokens), 3500, 1, 1e5, false},
                 {"size", offsetof(struct batches, size), 60, 0, 1e6, false},
                 {"item", offsetof(struct batches, item), 900, 1, 1e5, false},
                 {"spacing", offsetof(struct batches, spacing), 0.3, 0, 1e6, false},
                 {"samples", offsetof(struct batches, samples), 1, 1, 1000, true}},
    .prepare = batches_prepare,
    .begin = batches_begin,
};
