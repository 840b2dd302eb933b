/* preload_owed.c - tokens that wait for those after them.
 *
 * A server fills a batch with what several clients want, so a batch often ends inside a prompt. Its last piece
 * there, shorter than a micro-batch, can't be looked up: a block is found by all of its tokens. Computing it
 * would be in vain if the next batch brings the rest of a stored block. So a piece that asks for no output is
 * not decoded but owed, and goes with the next batch of its sequence: restored, or decoded.
 *
 * The program must not notice. It sees positions as if all were decoded; whatever reads the KV, or changes
 * what decoding gives, decodes what is owed first. That ends llama.cpp's outputs of the program's last batch:
 * so they are copied before. Nothing waits unless there is room for it and for the batch beside it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "preload.h"

/* Few batches leave something owed: most calls look at one flag. */
bool kvl_owes(struct kvl_context *c) {
  int s = 0;
  while (c->owing && s < KVL_SEQS && c->seqs[s].owed == 0) s++;
  c->owing = c->owing && s < KVL_SEQS;
  return c->owing;
}

bool kvl_room(const struct kvl_context *c, size_t more) {
  const llama_seq_id seqs = (llama_seq_id)KVL_REAL(llama_n_seq_max)(c->ctx);
  size_t tokens = more;
  for (llama_seq_id s = 0; s < seqs; s++) tokens += (size_t)(kvl_pos_max(c, s) + 1);
  return tokens <= KVL_REAL(llama_n_ctx)(c->ctx);
}

/* ---- outputs -------------------------------------------------------------------------------- */

static void kept_end(struct kvl_context *c) {
  free(c->kept);
  free(c->kept_at);
  c->kept = NULL;
  c->kept_at = NULL;
  c->kept_count = 0;
}

void kvl_outputs_end(struct kvl_context *c) {
  kept_end(c);
  c->map_count = 0;
}

static size_t row_length(const struct kvl_context *c) {
  return (size_t)KVL_REAL(llama_vocab_n_tokens)(KVL_REAL(llama_model_get_vocab)(c->model));
}

static bool keep_outputs(struct kvl_context *c) {
  const size_t length = row_length(c);
  int32_t count = 0;
  for (int32_t i = 0; i < c->map_count; i++) count += c->map[i] >= 0;
  if (c->kept_count > 0 || count == 0) return true;
  c->kept = malloc((size_t)count * length * sizeof *c->kept);
  c->kept_at = malloc((size_t)count * sizeof *c->kept_at);
  if (c->kept == NULL || c->kept_at == NULL) {
    kept_end(c);
    return false;
  }
  for (int32_t i = 0; i < c->map_count; i++) {
    const float *row = c->map[i] < 0 ? NULL : KVL_REAL(llama_get_logits_ith)(c->ctx, c->map[i]);
    if (row == NULL) continue;
    memcpy(c->kept + (size_t)c->kept_count * length, row, length * sizeof *row);
    c->kept_at[c->kept_count++] = c->map[i];
  }
  return true;
}

float *kvl_kept(const struct kvl_context *c, int32_t at) {
  int32_t k = at < 0 ? c->kept_count + at : 0;
  while (at >= 0 && k < c->kept_count && c->kept_at[k] != at) k++;
  return k >= 0 && k < c->kept_count ? c->kept + (size_t)k * row_length(c) : NULL;
}

/* ---- paying --------------------------------------------------------------------------------- */

bool kvl_pay(struct kvl_context *c, llama_seq_id seq) {
  if (!kvl_owes(c)) return true;
  for (llama_seq_id i = seq < 0 ? 0 : seq; i < (seq < 0 ? KVL_SEQS : seq + 1); i++) {
    struct kvl_seq *s = kvl_seq(c, i);
    if (s == NULL || s->owed == 0) continue;
    size_t present = s->count - s->owed;
    const bool paid = keep_outputs(c) && kvl_decode_alone(c, i, &present, s->count) == 0;
    s->owed = s->count - present;
    if (!paid) return false;
  }
  return true;
}

/* ---- positions ------------------------------------------------------------------------------ */

static const struct kvl_seq *owing(const struct kvl_context *c, llama_seq_id seq) {
  return seq >= 0 && seq < KVL_SEQS && c->seqs[seq].owed > 0 ? &c->seqs[seq] : NULL;
}

llama_pos kvl_pos_max(const struct kvl_context *c, llama_seq_id seq) {
  const struct kvl_seq *s = owing(c, seq);
  return s != NULL ? (llama_pos)s->count - 1 : KVL_REAL(llama_memory_seq_pos_max)(c->memory, seq);
}

/* Of rows that decoding may recycle, none is promised. */
llama_pos kvl_pos_min(const struct kvl_context *c, llama_seq_id seq) {
  const struct kvl_seq *s = owing(c, seq);
  const llama_pos first = KVL_REAL(llama_memory_seq_pos_min)(c->memory, seq);
  if (s == NULL) return first;
  const llama_pos last = (llama_pos)s->count - 1;
  if (KVL_REAL(llama_model_is_recurrent)(c->model) || KVL_REAL(llama_model_is_hybrid)(c->model))
    return last;
  const int32_t window = KVL_REAL(llama_model_n_swa)(c->model);
  const llama_pos promised = window > 0 && last >= window ? last - window + 1 : 0;
  return first > promised ? first : promised;
}
