/* preload.c - the interposed functions, and finding the real ones.
 *
 * The program's calls to llama_decode() and some forty others come here: because this library was
 * preloaded (LD_PRELOAD) and the program is linked with libllama, or because it asked dlsym() for them.
 *
 * Structures that pass by value are the fragile part: their layout is that of the llama.h this was compiled
 * with. So the functions that take them begin as a few instructions that ask where to go and jump there,
 * arguments untouched: to the real function, unless the library in the process was found to be one whose
 * structures are as expected.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "preload.h"

#define EXPORT __attribute__((visibility("default")))

struct kvl_calls kvl_calls;
static bool usable; /* written once, before any use */

/* ---- the real functions ----------------------------------------------------------------------- */

typedef void *dlsym_fn(void *, const char *);

static dlsym_fn *real_dlsym(void) {
  static dlsym_fn *real;
  if (real == NULL) {
    static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_2.17"};
    for (size_t i = 0; i < sizeof versions / sizeof *versions && real == NULL; i++)
      *(void **)&real = dlvsym(RTLD_NEXT, "dlsym", versions[i]);
  }
  return real;
}

/* A libllama that is not in the global scope: a handle to it. */
static int find_loaded(struct dl_phdr_info *info, size_t size, void *handle) {
  (void)size;
  const char *name = strrchr(info->dlpi_name, '/');
  if (name == NULL || strncmp(name, "/libllama", 9) != 0) return 0;
  *(void **)handle = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
  return *(void **)handle != NULL && real_dlsym()(*(void **)handle, "llama_decode") != NULL;
}

static void *source = RTLD_NEXT; /* where the real functions are; set once, with `usable` */

static void *kvl_find(const char *name) {
  return real_dlsym()(source, name);
}

/* A structure returned by value is written through a hidden first argument (x86-64 System V). Called with
 * that argument in the open, a function shows how large the structure is for it: what lies behind it must
 * stay as it was. */
enum { GUARD = 0xA5, GUARD_BYTES = 256 };

static bool fits(const uint8_t *guarded, size_t bytes) {
  for (size_t i = bytes; i < bytes + GUARD_BYTES; i++)
    if (guarded[i] != GUARD) return false;
  return true;
}

/* The structures end where they should, and known values are in known places. */
static bool layout_fits(void) {
  union {
    struct llama_context_params value;
    uint8_t bytes[sizeof(struct llama_context_params) + GUARD_BYTES];
  } context;
  union {
    struct llama_model_params value;
    uint8_t bytes[sizeof(struct llama_model_params) + GUARD_BYTES];
  } model;
  union {
    struct llama_batch value;
    uint8_t bytes[sizeof(struct llama_batch) + GUARD_BYTES];
  } batch;
  llama_token token = 1;
  void *(*get)(void *);
  void *(*get_batch)(void *, llama_token *, int32_t);
  memset(&context, GUARD, sizeof context);
  memset(&model, GUARD, sizeof model);
  memset(&batch, GUARD, sizeof batch);
  *(void **)&get = *(void **)&KVL_REAL(llama_context_default_params);
  get(&context);
  *(void **)&get = *(void **)&KVL_REAL(llama_model_default_params);
  get(&model);
  *(void **)&get_batch = *(void **)&KVL_REAL(llama_batch_get_one);
  get_batch(&batch, &token, 1);
  if (!fits(context.bytes, sizeof context.value) || !fits(model.bytes, sizeof model.value) ||
      !fits(batch.bytes, sizeof batch.value))
    return false;
  const struct llama_context_params *c = &context.value;
  return c->n_ctx == 512 && c->n_batch == 2048 && c->n_ubatch == 512 && c->n_seq_max == 1 &&
         c->rope_scaling_type == LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED &&
         c->flash_attn_type == LLAMA_FLASH_ATTN_TYPE_AUTO && c->type_k == GGML_TYPE_F16 &&
         c->type_v == GGML_TYPE_F16 && c->offload_kqv && c->ctx_other == NULL &&
         c->samplers == NULL && model.value.kv_overrides == NULL && !model.value.vocab_only &&
         batch.value.n_tokens == 1 && batch.value.token == &token && batch.value.logits == NULL;
}

static void load(void) {
  if (kvl_find("llama_decode") == NULL) {
    source = NULL;
    dl_iterate_phdr(find_loaded, &source);
    if (source == NULL) return;
  }
  const char *missing = NULL;
#define KVL_X(f)                                                                                   \
  *(void **)&kvl_calls.real_##f = kvl_find(#f);                                                    \
  if (kvl_calls.real_##f == NULL) missing = #f;
  KVL_ADAPTER_CALLS(KVL_X)
  KVL_PRELOAD_CALLS(KVL_X)
#undef KVL_X
  if (missing != NULL)
    kvl_log("this libllama has no %s: not caching", missing);
  else if (!layout_fits())
    kvl_log("libllama %s is not of the kind this was built for: not caching",
            KVL_REAL(llama_version)());
  else
    usable = kvl_store() != NULL;
}

/* Every entry comes by here first. */
static bool ready(void) {
  static pthread_once_t loaded = PTHREAD_ONCE_INIT;
  pthread_once(&loaded, load);
  return usable;
}

/* ---- entries with structures by value --------------------------------------------------------- */

/* name: asks kvl_pick_name() where to go, and goes there with everything as it came. */
#define ENTRY(name)                                                                                \
  __asm__(".text\n.globl " #name "\n.type " #name ", @function\n" #name                            \
          ":\n"                                                                                    \
          "  endbr64\n"                                                                            \
          "  push %rdi\n  push %rsi\n  push %rdx\n  push %rcx\n  push %r8\n  push %r9\n"           \
          "  sub $8, %rsp\n"                                                                       \
          "  call kvl_pick_" #name                                                                 \
          "\n"                                                                                     \
          "  add $8, %rsp\n"                                                                       \
          "  pop %r9\n  pop %r8\n  pop %rcx\n  pop %rdx\n  pop %rsi\n  pop %rdi\n"                 \
          "  jmp *%rax\n"                                                                          \
          ".size " #name ", . - " #name "\n")
#define PICK(name, ours)                                                                           \
  __attribute__((used, visibility("hidden"))) void *kvl_pick_##name(void);                         \
  void *kvl_pick_##name(void) {                                                                    \
    void *to;                                                                                      \
    if (ready())                                                                                   \
      to = (void *)(uintptr_t)(ours);                                                              \
    else                                                                                           \
      to = *(void **)&KVL_REAL(name);                                                              \
    return to;                                                                                     \
  }                                                                                                \
  ENTRY(name)

static void model_loaded(const struct llama_model *model, const char *path,
                         const struct llama_model_params *p) {
  if (model == NULL || path == NULL) return;
  uint64_t overrides = 0;
  for (const struct llama_model_kv_override *o = p->kv_overrides; o != NULL && o->key[0] != '\0';
       o++)
    overrides = overrides * 31 + kvstow_checksum(o, sizeof *o);
  char identity[256];
  snprintf(identity, sizeof identity, "layers on gpu %d, split %d, main %d, repack %d, %llx",
           p->n_gpu_layers, (int)p->split_mode, p->main_gpu, p->use_extra_bufts,
           (unsigned long long)overrides);
  kvl_model_add(model, path, identity);
}

static struct llama_model *load_from_file(const char *path, struct llama_model_params params) {
  struct llama_model *model = KVL_REAL(llama_model_load_from_file)(path, params);
  model_loaded(model, path, &params);
  return model;
}
PICK(llama_model_load_from_file, load_from_file);

static struct llama_model *load_from_splits(const char **paths, size_t count,
                                            struct llama_model_params params) {
  struct llama_model *model = KVL_REAL(llama_model_load_from_splits)(paths, count, params);
  model_loaded(model, count > 0 ? paths[0] : NULL, &params);
  return model;
}
PICK(llama_model_load_from_splits, load_from_splits);

static void turn_off(struct kvl_context *c, const char *why) {
  if (c->state == KVL_OFF) return;
  kvl_pay(c, -1);
  c->state = KVL_OFF;
  kvl_log("%s: not caching", why);
}

static struct llama_context *init_from_model(struct llama_model *model,
                                             struct llama_context_params params) {
  /* Drafts read hidden states of every prompt token from their target: it must decode them all. */
  struct kvl_context *other = params.ctx_other != NULL ? kvl_context_find(params.ctx_other) : NULL;
  if (other != NULL) turn_off(other, "another context shares this one's state");
  kvstow_llama_prepare(model, &params);
  struct llama_context *ctx = KVL_REAL(llama_init_from_model)(model, params);
  if (ctx != NULL) kvl_context_add(ctx, model, &params);
  return ctx;
}
PICK(llama_init_from_model, init_from_model);

/* At its first decode, when it is sure to be used: servers also make contexts to measure memory. */
static void attach(struct kvl_context *c) {
  char path[4096], identity[256], why[KVSTOW_MESSAGE_BYTES] = "";
  kvstow_llama_options o;
  kvstow_llama_options_init(&o);
  kvl_configure(&o);
  c->state = KVL_OFF;
  if (c->params.cb_eval != NULL) {
    kvl_log("the program watches every tensor: not caching");
    return;
  }
  if (!kvl_model_find(c->model, path, sizeof path, identity, sizeof identity)) {
    kvl_log("the model was not loaded from a named file: not caching");
    return;
  }
  o.params = &c->params;
  o.model_path = path;
  o.identity = identity;
  o.identity_bytes = strlen(identity);
  if (kvstow_llama_attach(kvl_store(), c->model, c->ctx, &o, &c->cache, why, sizeof why) != 0) {
    kvl_log("%s: %s", path, why);
    return;
  }
  c->state = KVL_ON;
  kvl_log("caching %s: llama.cpp %s, blocks of %u tokens, restored in steps of %u", path,
          KVL_REAL(llama_version)(), kvstow_llama_block_tokens(c->cache),
          kvstow_llama_align_tokens(c->cache));
}

static int32_t decode(struct llama_context *ctx, struct llama_batch batch) {
  struct kvl_context *c = kvl_context_find(ctx);
  if (c != NULL && c->state == KVL_NEW) attach(c);
  if (c != NULL && c->state == KVL_ON) return kvl_decode(c, batch);
  if (c != NULL) kvl_outputs_end(c);
  return KVL_REAL(llama_decode)(ctx, batch);
}
PICK(llama_decode, decode);

/* ---- life and death --------------------------------------------------------------------------- */

EXPORT void llama_free(struct llama_context *ctx) {
  if (ready() && ctx != NULL) kvl_context_remove(ctx);
  KVL_REAL(llama_free)(ctx);
}

EXPORT void llama_model_free(struct llama_model *model) {
  if (ready()) kvl_model_remove(model);
  KVL_REAL(llama_model_free)(model);
}

/* ---- memory --------------------------------------------------------------------------------- */

static struct kvl_context *of_memory(llama_memory_t memory) {
  return ready() ? kvl_context_of_memory(memory) : NULL;
}

static void truncate(struct kvl_context *c, llama_seq_id seq, size_t count) {
  for (llama_seq_id s = 0; s < KVL_SEQS; s++)
    if (seq < 0 || s == seq) kvl_seq_truncate(&c->seqs[s], count);
}

EXPORT void llama_memory_clear(llama_memory_t memory, bool data) {
  struct kvl_context *c = of_memory(memory);
  KVL_REAL(llama_memory_clear)(memory, data);
  if (c != NULL) truncate(c, -1, 0);
}

EXPORT bool llama_memory_seq_rm(llama_memory_t memory, llama_seq_id seq, llama_pos p0,
                                llama_pos p1) {
  struct kvl_context *c = of_memory(memory);
  /* What is owed stays so unless it would lie behind a hole. */
  if (c != NULL && p1 >= 0 && (seq < 0 || p1 <= kvl_pos_max(c, seq))) kvl_pay(c, seq);
  const bool done = KVL_REAL(llama_memory_seq_rm)(memory, seq, p0, p1);
  /* A hole makes the rest unknown: the next token's position will not fit. */
  if (c != NULL && done) truncate(c, seq, p0 < 0 ? 0 : (size_t)p0);
  return done;
}

EXPORT void llama_memory_seq_cp(llama_memory_t memory, llama_seq_id from, llama_seq_id to,
                                llama_pos p0, llama_pos p1) {
  struct kvl_context *c = of_memory(memory);
  struct kvl_seq *a = c != NULL ? kvl_seq(c, from) : NULL;
  struct kvl_seq *b = c != NULL ? kvl_seq(c, to) : NULL;
  const bool whole = b != NULL && p0 <= 0 && p1 < 0 && kvl_pos_max(c, to) < 0;
  if (b != NULL && !whole) kvl_pay(c, to);
  if (a != NULL && !whole) kvl_pay(c, from);
  KVL_REAL(llama_memory_seq_cp)(memory, from, to, p0, p1);
  if (a == NULL || b == NULL || a == b) return;
  kvl_seq_forget(b);
  if (whole && kvl_seq_write(b, 0, a->tokens, a->count)) {
    b->count = a->count;
    b->owed = a->owed;
  }
}

EXPORT llama_pos llama_memory_seq_pos_max(llama_memory_t memory, llama_seq_id seq) {
  const struct kvl_context *c = of_memory(memory);
  return c != NULL ? kvl_pos_max(c, seq) : KVL_REAL(llama_memory_seq_pos_max)(memory, seq);
}

EXPORT llama_pos llama_memory_seq_pos_min(llama_memory_t memory, llama_seq_id seq) {
  const struct kvl_context *c = of_memory(memory);
  return c != NULL ? kvl_pos_min(c, seq) : KVL_REAL(llama_memory_seq_pos_min)(memory, seq);
}

EXPORT void llama_memory_seq_keep(llama_memory_t memory, llama_seq_id seq) {
  struct kvl_context *c = of_memory(memory);
  KVL_REAL(llama_memory_seq_keep)(memory, seq);
  for (llama_seq_id s = 0; c != NULL && s < KVL_SEQS; s++)
    if (s != seq) kvl_seq_truncate(&c->seqs[s], 0);
}

/* Positions move: what was computed at them is not what a new prompt would give. */
EXPORT void llama_memory_seq_add(llama_memory_t memory, llama_seq_id seq, llama_pos p0,
                                 llama_pos p1, llama_pos delta) {
  struct kvl_context *c = of_memory(memory);
  if (c != NULL) kvl_pay(c, seq);
  KVL_REAL(llama_memory_seq_add)(memory, seq, p0, p1, delta);
  if (c != NULL) truncate(c, seq, 0);
}

EXPORT void llama_memory_seq_div(llama_memory_t memory, llama_seq_id seq, llama_pos p0,
                                 llama_pos p1, int d) {
  struct kvl_context *c = of_memory(memory);
  if (c != NULL) kvl_pay(c, seq);
  KVL_REAL(llama_memory_seq_div)(memory, seq, p0, p1, d);
  if (c != NULL) truncate(c, seq, 0);
}

/* ---- saved states --------------------------------------------------------------------------- */

/* Before a state is read: all of it is there. False: it can't be. */
static bool complete(const struct llama_context *ctx, llama_seq_id seq) {
  struct kvl_context *c = ready() ? kvl_context_find(ctx) : NULL;
  return c == NULL || kvl_pay(c, seq);
}

static struct kvl_seq *known(const struct llama_context *ctx, llama_seq_id seq) {
  struct kvl_context *c = ready() ? kvl_context_find(ctx) : NULL;
  return c != NULL && c->state == KVL_ON ? kvl_seq(c, seq) : NULL;
}

EXPORT size_t llama_state_seq_get_data_ext(struct llama_context *ctx, uint8_t *to, size_t bytes,
                                           llama_seq_id seq, llama_state_seq_flags flags) {
  struct kvl_seq *s = known(ctx, seq);
  if (!complete(ctx, seq)) return 0;
  const size_t n = KVL_REAL(llama_state_seq_get_data_ext)(ctx, to, bytes, seq, flags);
  if (s != NULL && n > 0 && (flags & LLAMA_STATE_SEQ_FLAGS_ON_DEVICE) == 0)
    kvl_state_saved(s, to, n);
  return n;
}

EXPORT size_t llama_state_seq_get_size_ext(struct llama_context *ctx, llama_seq_id seq,
                                           llama_state_seq_flags flags) {
  return complete(ctx, seq) ? KVL_REAL(llama_state_seq_get_size_ext)(ctx, seq, flags) : 0;
}

EXPORT size_t llama_state_seq_get_size(struct llama_context *ctx, llama_seq_id seq) {
  return llama_state_seq_get_size_ext(ctx, seq, LLAMA_STATE_SEQ_FLAGS_NONE);
}

EXPORT size_t llama_state_seq_get_data(struct llama_context *ctx, uint8_t *to, size_t bytes,
                                       llama_seq_id seq) {
  return llama_state_seq_get_data_ext(ctx, to, bytes, seq, LLAMA_STATE_SEQ_FLAGS_NONE);
}

EXPORT size_t llama_state_seq_set_data_ext(struct llama_context *ctx, const uint8_t *from,
                                           size_t bytes, llama_seq_id seq,
                                           llama_state_seq_flags flags) {
  struct kvl_seq *s = known(ctx, seq);
  if ((flags & LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) != 0 && !complete(ctx, seq)) return 0;
  const size_t n = KVL_REAL(llama_state_seq_set_data_ext)(ctx, from, bytes, seq, flags);
  if (s != NULL && n > 0 && (flags & LLAMA_STATE_SEQ_FLAGS_ON_DEVICE) == 0)
    kvl_state_loaded(s, from, n, (flags & LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) != 0);
  else if (s != NULL)
    kvl_seq_forget(s);
  return n;
}

EXPORT size_t llama_state_seq_set_data(struct llama_context *ctx, const uint8_t *from, size_t bytes,
                                       llama_seq_id seq) {
  return llama_state_seq_set_data_ext(ctx, from, bytes, seq, LLAMA_STATE_SEQ_FLAGS_NONE);
}

EXPORT size_t llama_state_seq_load_file(struct llama_context *ctx, const char *path,
                                        llama_seq_id seq, llama_token *tokens, size_t capacity,
                                        size_t *count) {
  struct kvl_seq *s = known(ctx, seq);
  if (s != NULL && tokens != NULL) kvl_seq_forget(s);
  return KVL_REAL(llama_state_seq_load_file)(ctx, path, seq, tokens, capacity, count);
}

EXPORT size_t llama_state_seq_save_file(struct llama_context *ctx, const char *path,
                                        llama_seq_id seq, const llama_token *tokens, size_t count) {
  return complete(ctx, seq) ? KVL_REAL(llama_state_seq_save_file)(ctx, path, seq, tokens, count)
                            : 0;
}

EXPORT size_t llama_state_get_size(struct llama_context *ctx) {
  return complete(ctx, -1) ? KVL_REAL(llama_state_get_size)(ctx) : 0;
}

EXPORT size_t llama_state_get_data(struct llama_context *ctx, uint8_t *to, size_t bytes) {
  return complete(ctx, -1) ? KVL_REAL(llama_state_get_data)(ctx, to, bytes) : 0;
}

EXPORT bool llama_state_save_file(struct llama_context *ctx, const char *path,
                                  const llama_token *tokens, size_t count) {
  return complete(ctx, -1) && KVL_REAL(llama_state_save_file)(ctx, path, tokens, count);
}

static void forget_all(struct llama_context *ctx) {
  struct kvl_context *c = ready() ? kvl_context_find(ctx) : NULL;
  for (llama_seq_id s = 0; c != NULL && s < KVL_SEQS; s++) kvl_seq_forget(&c->seqs[s]);
}

EXPORT size_t llama_state_set_data(struct llama_context *ctx, const uint8_t *from, size_t bytes) {
  forget_all(ctx);
  return KVL_REAL(llama_state_set_data)(ctx, from, bytes);
}

EXPORT bool llama_state_load_file(struct llama_context *ctx, const char *path, llama_token *tokens,
                                  size_t capacity, size_t *count) {
  forget_all(ctx);
  return KVL_REAL(llama_state_load_file)(ctx, path, tokens, capacity, count);
}

/* ---- adapters and modes ----------------------------------------------------------------------- */

EXPORT struct llama_adapter_lora *llama_adapter_lora_init(struct llama_model *model,
                                                          const char *path) {
  const bool on = ready();
  struct llama_adapter_lora *lora = KVL_REAL(llama_adapter_lora_init)(model, path);
  if (on && lora != NULL) kvl_lora_add(lora, path);
  return lora;
}

/* What was computed before belongs to the old set: known sequences become unknown. */
static void change_salt(struct kvl_context *c, uint64_t adapters, uint64_t controls) {
  if (c->adapters == adapters && c->controls == controls) return;
  kvl_pay(c, -1);
  c->adapters = adapters;
  c->controls = controls;
  for (llama_seq_id s = 0; s < KVL_SEQS; s++) kvl_seq_forget(&c->seqs[s]);
  const uint64_t salt[] = {adapters, controls};
  const bool none = adapters == 0 && controls == 0;
  if (c->cache != NULL && kvstow_llama_set_salt(c->cache, salt, none ? 0 : sizeof salt) != 0)
    c->state = KVL_OFF;
}

EXPORT int32_t llama_set_adapters_lora(struct llama_context *ctx,
                                       struct llama_adapter_lora **adapters, size_t count,
                                       float *scales) {
  struct kvl_context *c = ready() ? kvl_context_find(ctx) : NULL;
  if (c != NULL && c->state == KVL_NEW) attach(c);
  if (c != NULL) {
    uint64_t digest = 0;
    c->foreign = false;
    for (size_t i = 0; i < count; i++) {
      if (scales[i] == 0) continue;
      const uint64_t lora = kvl_lora_digest(adapters[i]);
      uint64_t facts[] = {digest, lora, 0};
      memcpy(&facts[2], &scales[i], sizeof scales[i]);
      digest = kvstow_checksum(facts, sizeof facts) | 1;
      c->foreign = c->foreign || lora == 0;
    }
    change_salt(c, digest, c->controls);
  }
  return KVL_REAL(llama_set_adapters_lora)(ctx, adapters, count, scales);
}

EXPORT int32_t llama_set_adapter_cvec(struct llama_context *ctx, const float *data, size_t length,
                                      int32_t n_embd, int32_t first, int32_t last) {
  struct kvl_context *c = ready() ? kvl_context_find(ctx) : NULL;
  if (c != NULL && c->state == KVL_NEW) attach(c);
  if (c != NULL) {
    const uint64_t facts[] = {data == NULL ? 0 : kvstow_checksum(data, length * sizeof *data),
                              (uint64_t)first, (uint64_t)last};
    change_salt(c, c->adapters, data == NULL ? 0 : kvstow_checksum(facts, sizeof facts) | 1);
  }
  return KVL_REAL(llama_set_adapter_cvec)(ctx, data, length, n_embd, first, last);
}

EXPORT void llama_set_causal_attn(struct llama_context *ctx, bool causal) {
  struct kvl_context *c = ready() ? kvl_context_find(ctx) : NULL;
  if (c != NULL && c->causal != causal) kvl_pay(c, -1);
  if (c != NULL) c->causal = causal;
  KVL_REAL(llama_set_causal_attn)(ctx, causal);
}

EXPORT void llama_set_embeddings(struct llama_context *ctx, bool embeddings) {
  struct kvl_context *c = ready() ? kvl_context_find(ctx) : NULL;
  if (c != NULL && c->embeddings != embeddings) kvl_pay(c, -1);
  if (c != NULL) c->embeddings = embeddings;
  KVL_REAL(llama_set_embeddings)(ctx, embeddings);
}

EXPORT bool llama_set_sampler(struct llama_context *ctx, llama_seq_id seq,
                              struct llama_sampler *sampler) {
  struct kvl_context *c = ready() ? kvl_context_find(ctx) : NULL;
  if (c != NULL && sampler != NULL) c->samplers = true;
  return KVL_REAL(llama_set_sampler)(ctx, seq, sampler);
}

/* Staging functions outside llama.h (C++ names): hidden states of every token are wanted. */
static void wants_hidden_states(struct llama_context *ctx) {
  struct kvl_context *c = ready() ? kvl_context_find(ctx) : NULL;
  if (c != NULL) turn_off(c, "the program reads hidden states of every token");
}

EXPORT void kvl_embeddings_nextn(struct llama_context *ctx, bool value, bool masked) __asm__(
    "_Z27llama_set_embeddings_nextnP13llama_contextbb");
EXPORT void kvl_embeddings_nextn(struct llama_context *ctx, bool value, bool masked) {
  static void (*real)(struct llama_context *, bool, bool);
  if (value) wants_hidden_states(ctx);
  if (real == NULL) *(void **)&real = kvl_find("_Z27llama_set_embeddings_nextnP13llama_contextbb");
  if (real != NULL) real(ctx, value, masked);
}

EXPORT void kvl_embeddings_layer(struct llama_context *ctx, uint32_t layer, bool value) __asm__(
    "_Z30llama_set_embeddings_layer_inpP13llama_contextjb");
EXPORT void kvl_embeddings_layer(struct llama_context *ctx, uint32_t layer, bool value) {
  static void (*real)(struct llama_context *, uint32_t, bool);
  if (value) wants_hidden_states(ctx);
  if (real == NULL)
    *(void **)&real = kvl_find("_Z30llama_set_embeddings_layer_inpP13llama_contextjb");
  if (real != NULL) real(ctx, layer, value);
}

/* ---- outputs -------------------------------------------------------------------------------- */

/* Set while the real llama_sampler_sample() runs, whose own calls come here with mapped indices. */
static _Thread_local bool mapped;

/* Where output `i` of the program's batch is; negative indices count from the end, where nothing is left
 * out. INT32_MAX: nowhere. */
static int32_t where(const struct llama_context *ctx, int32_t i) {
  const struct kvl_context *c = ready() && !mapped ? kvl_context_find(ctx) : NULL;
  if (c == NULL || c->map_count == 0 || i < 0) return i;
  return i < c->map_count && c->map[i] >= 0 ? c->map[i] : INT32_MAX;
}

/* The context whose outputs are copies, NULL otherwise. */
static const struct kvl_context *copied(const struct llama_context *ctx) {
  const struct kvl_context *c = ready() ? kvl_context_find(ctx) : NULL;
  return c != NULL && c->kept_count > 0 ? c : NULL;
}

EXPORT float *llama_get_logits_ith(struct llama_context *ctx, int32_t i) {
  const int32_t at = where(ctx, i);
  const struct kvl_context *c = copied(ctx);
  if (at == INT32_MAX) return NULL;
  return c != NULL ? kvl_kept(c, at) : KVL_REAL(llama_get_logits_ith)(ctx, at);
}

EXPORT float *llama_get_logits(struct llama_context *ctx) {
  const struct kvl_context *c = copied(ctx);
  return c != NULL ? c->kept : KVL_REAL(llama_get_logits)(ctx);
}

#define OUTPUT(type, name, nothing)                                                                \
  EXPORT type name(struct llama_context *ctx, int32_t i) {                                         \
    const int32_t at = where(ctx, i);                                                              \
    return at == INT32_MAX || copied(ctx) != NULL ? (nothing) : KVL_REAL(name)(ctx, at);           \
  }
OUTPUT(float *, llama_get_embeddings_ith, NULL)
OUTPUT(llama_token, llama_get_sampled_token_ith, LLAMA_TOKEN_NULL)
OUTPUT(float *, llama_get_sampled_probs_ith, NULL)
OUTPUT(uint32_t, llama_get_sampled_probs_count_ith, 0)
OUTPUT(float *, llama_get_sampled_logits_ith, NULL)
OUTPUT(uint32_t, llama_get_sampled_logits_count_ith, 0)
OUTPUT(llama_token *, llama_get_sampled_candidates_ith, NULL)
OUTPUT(uint32_t, llama_get_sampled_candidates_count_ith, 0)

EXPORT llama_token llama_sampler_sample(struct llama_sampler *sampler, struct llama_context *ctx,
                                        int32_t i) {
  const int32_t at = where(ctx, i);
  const bool before = mapped;
  mapped = true;
  const llama_token token = KVL_REAL(llama_sampler_sample)(sampler, ctx, at);
  mapped = before;
  return token;
}

/* ---- dlsym ---------------------------------------------------------------------------------- */

/* The sanitizers' runtimes look up functions before any code of ours may run. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

/* For programs that load libllama with dlopen() and ask for its functions by name. */
static void *interposed(const char *name) {
  static const struct {
    const char *name;
    void *function;
  } table[] = {
#define KVL_X(f) {#f, (void *)(uintptr_t)(f)},
      KVL_INTERPOSED(KVL_X)
#undef KVL_X
  };
  if (strncmp(name, "llama_", 6) != 0) return NULL;
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    if (strcmp(table[i].name, name) == 0) return table[i].function;
  return NULL;
}

/* The call is a jump where it can be: dlsym(RTLD_NEXT) looks at who called. */
EXPORT void *dlsym(void *restrict handle, const char *restrict name) {
  void *ours = handle == RTLD_NEXT ? NULL : interposed(name);
  if (ours == NULL) return real_dlsym()(handle, name);
  void *real = real_dlsym()(handle, name);
  if (real == NULL || !ready()) return real;
  Dl_info a, b; /* another libllama than the one we stand before? */
  const bool same = dladdr(real, &a) != 0 && dladdr(*(void **)&KVL_REAL(llama_decode), &b) != 0 &&
                    a.dli_fbase == b.dli_fbase;
  return same ? ours : real;
}

#endif
