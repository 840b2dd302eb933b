/* models.c - KV layouts, from each model's published config.json: K bytes of a token in a layer =
 * num_key_value_heads x head_dim x bytes of an element, and V the same.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/models.h"

#include <stdio.h>
#include <string.h>

static const struct model models[] = {
    /* meta-llama/Meta-Llama-3-8B: 8 KV heads x 128, f16 */
    {"llama-3-8b", 32, 2048, 2048, "GQA, 8 KV heads x 128, f16"},
    /* meta-llama/Meta-Llama-3-70B: 8 x 128, f16 */
    {"llama-3-70b", 80, 2048, 2048, "GQA, 8 KV heads x 128, f16"},
    /* meta-llama/Llama-3.2-1B: 8 x 64, f16 */
    {"llama-3.2-1b", 16, 1024, 1024, "GQA, 8 KV heads x 64, f16"},
    /* meta-llama/Llama-2-7b-hf: every one of 32 heads x 128, f16 */
    {"llama-2-7b", 32, 8192, 8192, "MHA, 32 KV heads x 128, f16"},
    /* mistralai/Mistral-7B-v0.3: 8 x 128, f16 */
    {"mistral-7b", 32, 2048, 2048, "GQA, 8 KV heads x 128, f16"},
    /* Qwen/Qwen2.5-7B: 4 x 128, f16 */
    {"qwen2.5-7b", 28, 1024, 1024, "GQA, 4 KV heads x 128, f16"},
    /* Qwen/Qwen3-8B: 8 x 128, f16 */
    {"qwen3-8b", 36, 2048, 2048, "GQA, 8 KV heads x 128, f16"},
    /* Qwen/Qwen3-30B-A3B: 4 x 128, f16 */
    {"qwen3-30b-a3b", 48, 1024, 1024, "GQA, 4 KV heads x 128, f16"},
    /* deepseek-ai/DeepSeek-V3: kv_lora_rank 512 + qk_rope_head_dim 64, f16, one latent, no V */
    {"deepseek-v3", 61, 1152, 0, "MLA, 576 wide, f16"},
    /* the layout this project was first specified with: 32 heads x 128, f32 */
    {"original", 32, 16384, 16384, "MHA, 32 KV heads x 128, f32"},
    /* no model: small enough for tests */
    {"tiny", 4, 256, 256, "for tests"},
};

enum { MODELS = sizeof models / sizeof models[0] };

const struct model *model_at(size_t i) {
  return i < MODELS ? &models[i] : NULL;
}

const struct model *model_find(const char *name) {
  for (size_t i = 0; i < MODELS; i++) {
    if (strcmp(models[i].name, name) == 0) return &models[i];
  }
  return NULL;
}

void model_names(char *text, size_t bytes) {
  size_t used = 0;
  if (bytes > 0) text[0] = '\0';
  for (size_t i = 0; i < MODELS && used < bytes; i++) {
    const int n = snprintf(text + used, bytes - used, "%s%s", i > 0 ? ", " : "", models[i].name);
    if (n < 0) return;
    used += (size_t)n;
  }
}

bool model_of_bytes(uint64_t bytes_per_token, struct model *model) {
  if (bytes_per_token == 0 || bytes_per_token > UINT32_MAX) return false;
  const uint32_t bytes = (uint32_t)bytes_per_token;
  *model = (struct model){.name = "custom", .summary = "by --bytes-per-token"};
  for (model->layers = 4; model->layers > 1; model->layers /= 2) {
    if (bytes % (2 * model->layers) == 0) break;
  }
  const uint32_t layer_bytes = bytes / model->layers;
  model->v_bytes = layer_bytes % 2 == 0 ? layer_bytes / 2 : 0;
  model->k_bytes = layer_bytes - model->v_bytes;
  return true;
}
