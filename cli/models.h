/* cli/models.h - the KV layouts of known models, for --model.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_MODELS_H
#define CLI_MODELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct model {
  const char *name;
  uint32_t layers;
  uint32_t k_bytes, v_bytes; /* one token, one layer */
  const char *summary;
};

/* NULL if the name is unknown. */
const struct model *model_find(const char *name);

/* The i-th, NULL past the end. */
const struct model *model_at(size_t i);

/* All names, "a, b, c", for messages. */
void model_names(char *text, size_t bytes);

/* A nameless layout of so many bytes a token: four layers with K and V of one size, fewer where that
 * does not divide. False for 0. */
bool model_of_bytes(uint64_t bytes_per_token, struct model *model);

static inline uint64_t model_bytes_per_token(const struct model *model) {
  return (uint64_t)model->layers * (model->k_bytes + model->v_bytes);
}

#endif
