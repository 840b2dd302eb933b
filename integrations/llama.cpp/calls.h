/* calls.h - how the adapter reaches libllama: by linking, or (KVSTOW_LLAMA_PRELOAD) through a table that
 * the preloaded library fills at run time, since its own llama_* symbols stand in the way.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_LLAMA_CALLS_H
#define KVSTOW_LLAMA_CALLS_H

#include <llama.h>

#ifdef KVSTOW_LLAMA_PRELOAD

/* X(function): what the adapter calls. */
#define KVL_ADAPTER_CALLS(X)                                                                       \
  X(ggml_backend_dev_count)                                                                        \
  X(ggml_backend_dev_description)                                                                  \
  X(ggml_backend_dev_get)                                                                          \
  X(ggml_backend_dev_name)                                                                         \
  X(ggml_commit)                                                                                   \
  X(ggml_type_name)                                                                                \
  X(ggml_version)                                                                                  \
  X(gguf_find_key)                                                                                 \
  X(gguf_free)                                                                                     \
  X(gguf_get_data_offset)                                                                          \
  X(gguf_get_n_tensors)                                                                            \
  X(gguf_get_tensor_name)                                                                          \
  X(gguf_get_tensor_offset)                                                                        \
  X(gguf_get_tensor_size)                                                                          \
  X(gguf_get_tensor_type)                                                                          \
  X(gguf_get_val_u16)                                                                              \
  X(gguf_init_from_file)                                                                           \
  X(llama_decode)                                                                                  \
  X(llama_get_logits_ith)                                                                          \
  X(llama_get_memory)                                                                              \
  X(llama_max_parallel_sequences)                                                                  \
  X(llama_memory_clear)                                                                            \
  X(llama_memory_seq_cp)                                                                           \
  X(llama_memory_seq_pos_max)                                                                      \
  X(llama_memory_seq_pos_min)                                                                      \
  X(llama_memory_seq_rm)                                                                           \
  X(llama_model_desc)                                                                              \
  X(llama_model_get_vocab)                                                                         \
  X(llama_model_has_encoder)                                                                       \
  X(llama_model_is_diffusion)                                                                      \
  X(llama_model_is_hybrid)                                                                         \
  X(llama_model_is_recurrent)                                                                      \
  X(llama_model_meta_count)                                                                        \
  X(llama_model_meta_key_by_index)                                                                 \
  X(llama_model_meta_val_str)                                                                      \
  X(llama_model_meta_val_str_by_index)                                                             \
  X(llama_model_n_params)                                                                          \
  X(llama_model_n_swa)                                                                             \
  X(llama_model_size)                                                                              \
  X(llama_n_ctx)                                                                                   \
  X(llama_n_ctx_seq)                                                                               \
  X(llama_n_rs_seq)                                                                                \
  X(llama_n_seq_max)                                                                               \
  X(llama_n_ubatch)                                                                                \
  X(llama_perf_context_reset)                                                                      \
  X(llama_pooling_type)                                                                            \
  X(llama_split_path)                                                                              \
  X(llama_split_prefix)                                                                            \
  X(llama_state_seq_get_data_ext)                                                                  \
  X(llama_state_seq_get_size_ext)                                                                  \
  X(llama_state_seq_set_data_ext)                                                                  \
  X(llama_version)                                                                                 \
  X(llama_vocab_get_attr)                                                                          \
  X(llama_vocab_get_score)                                                                         \
  X(llama_vocab_get_text)                                                                          \
  X(llama_vocab_n_tokens)

/* X(function): what only the preloaded library calls. */
#define KVL_PRELOAD_CALLS(X)                                                                       \
  X(llama_adapter_lora_init)                                                                       \
  X(llama_batch_get_one)                                                                           \
  X(llama_context_default_params)                                                                  \
  X(llama_free)                                                                                    \
  X(llama_get_embeddings_ith)                                                                      \
  X(llama_get_logits)                                                                              \
  X(llama_get_model)                                                                               \
  X(llama_get_sampled_candidates_count_ith)                                                        \
  X(llama_get_sampled_candidates_ith)                                                              \
  X(llama_get_sampled_logits_count_ith)                                                            \
  X(llama_get_sampled_logits_ith)                                                                  \
  X(llama_get_sampled_probs_count_ith)                                                             \
  X(llama_get_sampled_probs_ith)                                                                   \
  X(llama_get_sampled_token_ith)                                                                   \
  X(llama_init_from_model)                                                                         \
  X(llama_memory_seq_add)                                                                          \
  X(llama_memory_seq_div)                                                                          \
  X(llama_memory_seq_keep)                                                                         \
  X(llama_model_default_params)                                                                    \
  X(llama_model_free)                                                                              \
  X(llama_model_load_from_file)                                                                    \
  X(llama_model_load_from_splits)                                                                  \
  X(llama_n_batch)                                                                                 \
  X(llama_sampler_sample)                                                                          \
  X(llama_set_adapter_cvec)                                                                        \
  X(llama_set_adapters_lora)                                                                       \
  X(llama_set_causal_attn)                                                                         \
  X(llama_set_embeddings)                                                                          \
  X(llama_set_sampler)                                                                             \
  X(llama_state_get_data)                                                                          \
  X(llama_state_get_size)                                                                          \
  X(llama_state_load_file)                                                                         \
  X(llama_state_save_file)                                                                         \
  X(llama_state_seq_load_file)                                                                     \
  X(llama_state_seq_save_file)                                                                     \
  X(llama_state_set_data)

/* X(function): what it stands before. */
#define KVL_INTERPOSED(X)                                                                          \
  X(llama_adapter_lora_init)                                                                       \
  X(llama_decode)                                                                                  \
  X(llama_free)                                                                                    \
  X(llama_get_embeddings_ith)                                                                      \
  X(llama_get_logits)                                                                              \
  X(llama_get_logits_ith)                                                                          \
  X(llama_get_sampled_candidates_count_ith)                                                        \
  X(llama_get_sampled_candidates_ith)                                                              \
  X(llama_get_sampled_logits_count_ith)                                                            \
  X(llama_get_sampled_logits_ith)                                                                  \
  X(llama_get_sampled_probs_count_ith)                                                             \
  X(llama_get_sampled_probs_ith)                                                                   \
  X(llama_get_sampled_token_ith)                                                                   \
  X(llama_init_from_model)                                                                         \
  X(llama_memory_clear)                                                                            \
  X(llama_memory_seq_add)                                                                          \
  X(llama_memory_seq_cp)                                                                           \
  X(llama_memory_seq_div)                                                                          \
  X(llama_memory_seq_keep)                                                                         \
  X(llama_memory_seq_pos_max)                                                                      \
  X(llama_memory_seq_pos_min)                                                                      \
  X(llama_memory_seq_rm)                                                                           \
  X(llama_model_free)                                                                              \
  X(llama_model_load_from_file)                                                                    \
  X(llama_model_load_from_splits)                                                                  \
  X(llama_sampler_sample)                                                                          \
  X(llama_set_adapter_cvec)                                                                        \
  X(llama_set_adapters_lora)                                                                       \
  X(llama_set_causal_attn)                                                                         \
  X(llama_set_embeddings)                                                                          \
  X(llama_set_sampler)                                                                             \
  X(llama_state_get_data)                                                                          \
  X(llama_state_get_size)                                                                          \
  X(llama_state_load_file)                                                                         \
  X(llama_state_save_file)                                                                         \
  X(llama_state_seq_get_data)                                                                      \
  X(llama_state_seq_get_data_ext)                                                                  \
  X(llama_state_seq_get_size)                                                                      \
  X(llama_state_seq_get_size_ext)                                                                  \
  X(llama_state_seq_load_file)                                                                     \
  X(llama_state_seq_save_file)                                                                     \
  X(llama_state_seq_set_data)                                                                      \
  X(llama_state_seq_set_data_ext)                                                                  \
  X(llama_state_set_data)

/* Each member points to the real function. Filled before the first use; constant afterwards. */
struct kvl_calls {
#define KVL_X(f) __typeof__(&f) real_##f;
  KVL_ADAPTER_CALLS(KVL_X)
  KVL_PRELOAD_CALLS(KVL_X)
#undef KVL_X
};
extern struct kvl_calls kvl_calls;
#define KVL_REAL(f) kvl_calls.real_##f

#else
#define KVL_REAL(f) f
#endif

#endif
