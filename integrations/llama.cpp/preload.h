/* preload.h - the parts of libkvstow-llama.so, which stands between a program and libllama.
 *
 *   preload.c         the interposed functions, and finding the real ones
 *   preload_decode.c  a batch without the tokens that were restored
 *   preload_owed.c    tokens that wait for those after them
 *   preload_track.c   which tokens each sequence of each context holds
 *   preload_store.c   the one store of the process, its log and its metrics
 *
 * Nothing here may change what the program computes: what is not understood is passed through, and the
 * sequences it touched are not cached until they are cleared.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_LLAMA_PRELOAD_H
#define KVSTOW_LLAMA_PRELOAD_H

#include "calls.h"
#include "kvstow-llama.h"

enum { KVL_SEQS = 256 /* LLAMA_MAX_SEQ */, KVL_CONTEXTS = 64 };

/* The tokens of a sequence, as far as they are known. */
struct kvl_seq {
  llama_token *tokens;
  size_t count; /* decoded, as the program sees it; 0 also if unknown */
  size_t owed;  /* of count, the last: not decoded yet */
  size_t room;
  size_t committed; /* of count: already offered to the store */
};

struct kvl_context {
  struct llama_context *ctx;
  llama_memory_t memory;
  const struct llama_model *model;
  struct llama_context_params params;
  enum { KVL_NEW, KVL_ON, KVL_OFF } state;
  kvstow_llama *cache; /* if ON */
  bool causal, embeddings;
  bool samplers;               /* the context itself samples */
  bool foreign;                /* an adapter is set that nothing is known of */
  uint64_t adapters, controls; /* digests of the LoRA set and the control vector */
  struct kvl_seq seqs[KVL_SEQS];
  bool owing; /* perhaps: see kvl_owes() */
  /* The batch decoded last, if tokens were left out or are owed: where the output of token i of the
   * program's batch is, or -1. */
  int32_t *map;
  int32_t map_count; /* 0: where it was */
  int32_t map_room;
  /* Copies of that batch's logits, if another one had to be decoded since: rows of outputs kept_at[]. */
  float *kept;
  int32_t *kept_at;
  int32_t kept_count;
};

/* ---- preload_store.c ------------------------------------------------------------------------ */

/* The store, opened at the first call; NULL if it can't be (logged once). */
kvstow *kvl_store(void);
/* One line in the log. */
__attribute__((format(printf, 1, 2))) void kvl_log(const char *format, ...);
/* Options for attaching that come from the environment. */
void kvl_configure(kvstow_llama_options *options);
/* Adds to the metrics; written to their file every second, and at once when tokens were restored or stored. */
void kvl_count_prompt(size_t tokens, size_t restored);
void kvl_count_context(const kvstow_llama *cache); /* when it ends */
void kvl_metrics_tick(bool changed);

/* ---- preload_track.c ------------------------------------------------------------------------ */

struct kvl_context *kvl_context_find(const struct llama_context *ctx);
struct kvl_context *kvl_context_of_memory(llama_memory_t memory);
/* Calls `each` for all contexts. */
void kvl_contexts(void (*each)(struct kvl_context *c, void *arg), void *arg);
struct kvl_context *kvl_context_add(struct llama_context *ctx, const struct llama_model *model,
                                    const struct llama_context_params *params);
void kvl_context_remove(struct llama_context *ctx);

/* A model and the files it came from; `identity` is what else was asked of the loader. */
void kvl_model_add(const struct llama_model *model, const char *path, const char *identity);
bool kvl_model_find(const struct llama_model *model, char *path, size_t path_bytes, char *identity,
                    size_t identity_bytes);
void kvl_model_remove(const struct llama_model *model);

void kvl_lora_add(const struct llama_adapter_lora *lora, const char *path);
/* 0: unknown. */
uint64_t kvl_lora_digest(const struct llama_adapter_lora *lora);

struct kvl_seq *kvl_seq(struct kvl_context *c, llama_seq_id seq);
void kvl_seq_forget(struct kvl_seq *s);
/* Makes tokens [at, at + count) those of a sequence; false: no memory. */
bool kvl_seq_write(struct kvl_seq *s, size_t at, const llama_token *tokens, size_t count);
/* The sequence was cut to its first `count` tokens. Of owed ones the first are left. */
void kvl_seq_truncate(struct kvl_seq *s, size_t count);

/* Remembers what a saved state holds, to know it when it is loaded again. */
void kvl_state_saved(const struct kvl_seq *s, const void *state, size_t bytes);
void kvl_state_loaded(struct kvl_seq *s, const void *state, size_t bytes, bool partial);

/* ---- preload_decode.c ----------------------------------------------------------------------- */

/* llama_decode() of a context that is ON. */
int32_t kvl_decode(struct kvl_context *c, struct llama_batch batch);
/* Decodes tokens [*present, to) of a sequence, without outputs. Returns what llama_decode() does. */
int32_t kvl_decode_alone(struct kvl_context *c, llama_seq_id seq, size_t *present, size_t to);

/* ---- preload_owed.c ------------------------------------------------------------------------- */

/* Whether a sequence of the context owes tokens. */
bool kvl_owes(struct kvl_context *c);
/* Whether the context has cells for all that its sequences hold and owe, and for `more` tokens. */
bool kvl_room(const struct kvl_context *c, size_t more);
/* Decodes what `seq` owes (negative: what all owe); outputs stay readable. False: there was no room. */
bool kvl_pay(struct kvl_context *c, llama_seq_id seq);
/* The program's next batch begins: nothing of the last one is needed any more. */
void kvl_outputs_end(struct kvl_context *c);
/* The copied row of output `at` of the batch decoded last (negative: from its end), NULL: there is none. */
float *kvl_kept(const struct kvl_context *c, int32_t at);
/* Positions as the program sees them. */
llama_pos kvl_pos_max(const struct kvl_context *c, llama_seq_id seq);
llama_pos kvl_pos_min(const struct kvl_context *c, llama_seq_id seq);

#endif
