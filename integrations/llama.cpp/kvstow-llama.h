/* kvstow-llama.h - a persistent prompt cache for a program that calls libllama.
 *
 * Compile kvstow-llama.c and fingerprint.c with the llama.h you link against; or use none of this and
 * run the program under kvstow-run.
 *
 *   kvstow_llama_prepare(model, &params);               // room for the scratch sequence
 *   ctx = llama_init_from_model(model, params);
 *   kvstow_llama_attach(store, model, ctx, &options, &cache, why, sizeof why);
 *   ...
 *   n = kvstow_llama_restore(cache, seq, tokens, count - 1);    // leave one to decode: it has the logits
 *   while (n < count) {
 *     size_t step = kvstow_llama_step(cache, n, count - n);
 *     ... llama_decode() tokens n .. n + step of the sequence ...
 *     n += step;
 *     kvstow_llama_commit(cache, seq, tokens, n);
 *   }
 *
 * How. A block is what llama_state_seq_get_data() gives for block_tokens consecutive tokens, never looked
 * into. It is cut out and put back through a scratch sequence (llama_memory_seq_cp() copies no data).
 * So whatever llama.cpp can save can be cached: quantized KV, sliding windows, recurrent states.
 *
 * Promises. A block comes back only into a context with the same fingerprint: architecture, metadata,
 * vocabulary, tensors and samples of their bytes, context and rope parameters, KV types, llama.cpp and
 * ggml versions, devices, environment. Anything doubtful is a miss. Attaching decodes three tokens to
 * prove that a block put back gives the same logits, bit for bit; where it does not, it fails with
 * KVSTOW_EUNSUPPORTED and nothing is changed. The functions never exit, print, or touch signals.
 *
 * Threads: those of the context: one at a time. The store may be shared by many contexts.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_LLAMA_H
#define KVSTOW_LLAMA_H

#include <kvstow/kvstow.h>
#include <llama.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvstow_llama kvstow_llama;

typedef struct kvstow_llama_options {
  size_t size;                               /* sizeof(kvstow_llama_options) */
  const struct llama_context_params *params; /* what the context was made with */
  const char *model_path; /* the (first) file the model was loaded from; NULL needs an identity */
  const void *identity;   /* what else tells this model from others; may be NULL */
  size_t identity_bytes;
  uint32_t block_tokens; /* 0: n_ubatch (at most 512), halved while a block exceeds 9 MiB */
  /* Restoring ends at multiples of this. 0: n_ubatch (at most 512): then what is left is computed in the
   * same micro-batches as a prompt computed from its start, and gives the same bits. */
  uint32_t align_tokens;
  llama_seq_id
      scratch_seq; /* a sequence nobody else uses; -1: as kvstow_llama_prepare() arranged */
} kvstow_llama_options;

typedef struct kvstow_llama_stats {
  uint64_t restores, restored_tokens, restored_bytes, restore_us;
  uint64_t commits, committed_tokens, committed_bytes, commit_us; /* blocks new to the store */
  uint64_t refused; /* blocks doubtful, or the store had no room */
  uint64_t
      failed; /* restores that ended early: a block failed its check, or llama.cpp refused it */
} kvstow_llama_stats;

KVSTOW_API void kvstow_llama_options_init(kvstow_llama_options *options);

/* Makes room for the scratch sequence where a model keeps recurrent states (one state more); needed
 * for those models only, does nothing for others. A context with several sequences must have
 * kv_unified. */
KVSTOW_API void kvstow_llama_prepare(const struct llama_model *model,
                                     struct llama_context_params *params);

/* Attaches an empty context. `why` (may be NULL) says what was wrong. EUNSUPPORTED: this kind of model
 * or context is not cached; EINVAL; ENOMEM; ESTATE: the context holds tokens; and the errors of
 * kvstow_space_open(). The store must outlive the attachment. Blocking: three decodes of a token. */
KVSTOW_API int kvstow_llama_attach(kvstow *store, const struct llama_model *model,
                                   struct llama_context *ctx, const kvstow_llama_options *options,
                                   kvstow_llama **cache, char *why, size_t why_bytes);

/* Before the context is freed. NULL is fine. */
KVSTOW_API void kvstow_llama_detach(kvstow_llama *cache);

/* What else KV depends on from now on, beyond the model: the LoRA adapters with their scales, a control
 * vector, a tenant. Call it when that changes; sequences computed before must not be committed any
 * more. Kept by copy. */
KVSTOW_API int kvstow_llama_set_salt(kvstow_llama *cache, const void *salt, size_t salt_bytes);

/* Extends sequence `seq`, which holds a prefix of `tokens` (possibly nothing), by what is stored. Returns
 * how many leading tokens it holds now, at most `count` - also when that is less than before: on a
 * failure half-way the rest has been removed. Positions are 0, 1, 2 ... */
KVSTOW_API size_t kvstow_llama_restore(kvstow_llama *cache, llama_seq_id seq,
                                       const llama_token *tokens, size_t count);

/* Stores the whole blocks of a sequence that holds exactly tokens[0 .. count), those not stored yet.
 * Returns how many leading tokens are stored now. With a sliding window or a recurrent state a
 * block can only be stored when it has just been completed: see kvstow_llama_step(). */
KVSTOW_API size_t kvstow_llama_commit(kvstow_llama *cache, llama_seq_id seq,
                                      const llama_token *tokens, size_t count);

/* How many of the next `count` tokens to decode before the next commit, for a sequence of `have`
 * tokens: up to the end of a block where that matters, else all. */
KVSTOW_API size_t kvstow_llama_step(const kvstow_llama *cache, size_t have, size_t count);

/* Where restoring may end: tokens held after a restore are a multiple of this. */
KVSTOW_API uint32_t kvstow_llama_align_tokens(const kvstow_llama *cache);
KVSTOW_API uint32_t kvstow_llama_block_tokens(const kvstow_llama *cache);

/* The fingerprint as text, one fact a line; lives as long as the attachment. */
KVSTOW_API const char *kvstow_llama_fingerprint(const kvstow_llama *cache);

KVSTOW_API void kvstow_llama_get_stats(const kvstow_llama *cache, kvstow_llama_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
