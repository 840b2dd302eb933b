/* driver.c - decodes as a server does: several sequences in one batch, prompts in chunks, generation beside
 * them, retries when the cache is full. Prints what it computed, for comparison with another run.
 *
 *   driver MODEL SCENARIO [SEQUENCES]
 *
 * BY_NAME: finds libllama with dlopen() and its functions with dlsym(), as bindings do. Compiled as a
 * module, linked with libllama, it is what an addon is.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <llama.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef BY_NAME
#define CALLS(X)                                                                                   \
  X(ggml_backend_load_all_from_path)                                                               \
  X(llama_adapter_lora_init)                                                                       \
  X(llama_backend_init)                                                                            \
  X(llama_context_default_params)                                                                  \
  X(llama_decode)                                                                                  \
  X(llama_free)                                                                                    \
  X(llama_get_logits_ith)                                                                          \
  X(llama_get_memory)                                                                              \
  X(llama_init_from_model)                                                                         \
  X(llama_log_set)                                                                                 \
  X(llama_memory_clear)                                                                            \
  X(llama_memory_seq_add)                                                                          \
  X(llama_memory_seq_cp)                                                                           \
  X(llama_memory_seq_keep)                                                                         \
  X(llama_memory_seq_pos_max)                                                                      \
  X(llama_memory_seq_rm)                                                                           \
  X(llama_model_default_params)                                                                    \
  X(llama_model_free)                                                                              \
  X(llama_model_load_from_file)                                                                    \
  X(llama_model_n_embd)                                                                            \
  X(llama_set_adapters_lora)                                                                       \
  X(llama_set_causal_attn)                                                                         \
  X(llama_set_embeddings)                                                                          \
  X(llama_state_get_data)                                                                          \
  X(llama_state_get_size)                                                                          \
  X(llama_state_set_data)                                                                          \
  X(llama_state_seq_get_data)                                                                      \
  X(llama_state_seq_get_size)                                                                      \
  X(llama_state_seq_set_data)
#define X(f) static __typeof__(&f) by_name_##f;
CALLS(X)
#undef X
static void find_calls(void) {
  void *lib = dlopen(LLAMA_LIB "/libllama.so", RTLD_NOW | RTLD_LOCAL);
  if (lib == NULL) exit(3);
#define X(f) *(void **)&by_name_##f = dlsym(lib, #f);
  CALLS(X)
#undef X
}
#define CALL(f) by_name_##f
#else
static void find_calls(void) {
}
#define CALL(f) f
#endif

enum {
  UBATCH = 64,
  BATCH = 256,
  CONTEXT = 4096,
  SEQS_MAX = 8,
  TOKENS_MAX = 2048,
  VOCABULARY = 259
};

struct slot {
  llama_token tokens[TOKENS_MAX];
  int prompt, done, end; /* prompt tokens; decoded; prompt and answer */
  int output;            /* index in the batch of its newest token, -1 */
};

struct server {
  struct llama_model *model;
  struct llama_context *ctx;
  llama_memory_t memory;
  struct llama_batch batch;
  struct slot slots[SEQS_MAX];
  int count;
  int most; /* tokens a batch */
  struct llama_adapter_lora *lora[1];
  float scale[1];
  size_t loras;
};

/* ---- prompts -------------------------------------------------------------------------------- */

static void random_tokens(llama_token *tokens, int count, uint32_t seed) {
  for (int i = 0; i < count; i++) {
    seed = seed * 1664525 + 1013904223;
    tokens[i] = 3 + (llama_token)(seed >> 16) % 256;
  }
}

/* A conversation: a system prompt that all share, then its own. */
static void ask(struct slot *s, int shared, int own, uint32_t seed, int answer) {
  random_tokens(s->tokens, shared, 1);
  random_tokens(s->tokens + shared, own, seed);
  s->prompt = shared + own;
  s->done = 0;
  s->end = s->prompt + answer;
}

/* ---- the loop ------------------------------------------------------------------------------- */

static void add(struct server *v, int seq, bool output) {
  struct llama_batch *b = &v->batch;
  struct slot *s = &v->slots[seq];
  b->token[b->n_tokens] = s->tokens[s->done];
  b->pos[b->n_tokens] = s->done++;
  b->n_seq_id[b->n_tokens] = 1;
  b->seq_id[b->n_tokens][0] = seq;
  b->logits[b->n_tokens] = output;
  if (output) s->output = b->n_tokens;
  b->n_tokens++;
}

/* Tokens being generated first, then prompts until the batch is full. */
static void fill(struct server *v) {
  v->batch.n_tokens = 0;
  for (int i = 0; i < v->count; i++) {
    struct slot *s = &v->slots[i];
    s->output = -1;
    if (s->done >= s->prompt && s->done < s->end) add(v, i, true);
  }
  for (int i = 0; i < v->count; i++) {
    struct slot *s = &v->slots[i];
    while (s->done < s->prompt && v->batch.n_tokens < v->most) add(v, i, s->done + 1 == s->prompt);
  }
}

static void take_outputs(struct server *v) {
  for (int i = 0; i < v->count; i++) {
    struct slot *s = &v->slots[i];
    if (s->output < 0) continue;
    const float *logits = CALL(llama_get_logits_ith)(v->ctx, s->output);
    int best = 0;
    if (logits == NULL) {
      printf("sequence %d: no logits\n", i);
      exit(1);
    }
    for (int t = 1; t < VOCABULARY; t++)
      if (logits[t] > logits[best]) best = t;
    printf("seq %d at %d: token %d %.5f %.5f %.5f\n", i, s->done, best, (double)logits[best],
           (double)logits[0], (double)logits[200]);
    if (s->done < s->end) s->tokens[s->done] = best;
  }
  fflush(stdout);
}

static void set_adapter(struct server *v, struct llama_adapter_lora *lora) {
  v->lora[0] = lora;
  v->scale[0] = 1;
  v->loras = lora == NULL ? 0 : 1;
  if (CALL(llama_set_adapters_lora)(v->ctx, v->lora, v->loras, v->scale) != 0) exit(1);
}

/* Until all have answered. When there is no room: without the last sequence, which starts again later. */
static void serve(struct server *v) {
  for (;;) {
    fill(v);
    if (v->batch.n_tokens == 0) return;
    CALL(llama_set_embeddings)(v->ctx, false); /* nothing changes, but servers say it every time */
    CALL(llama_set_causal_attn)(v->ctx, true);
    CALL(llama_set_adapters_lora)(v->ctx, v->lora, v->loras, v->scale);
    const int rc = CALL(llama_decode)(v->ctx, v->batch);
    if (rc == 0) {
      take_outputs(v);
      continue;
    }
    printf("decode: %d\n", rc);
    exit(1);
  }
}

static void forget(struct server *v, int seq) {
  CALL(llama_memory_seq_rm)(v->memory, seq, -1, -1);
  v->slots[seq].done = 0;
}

/* ---- scenarios ------------------------------------------------------------------------------ */

/* All ask at once. */
static void together(struct server *v) {
  for (int i = 0; i < v->count; i++) ask(&v->slots[i], 200, 300 + 17 * i, 10 + (uint32_t)i, 6);
  serve(v);
}

/* Two turns each; the same again by other sequences, in the same process. */
static void turns(struct server *v) {
  together(v);
  for (int i = 0; i < v->count; i++) {
    struct slot *s = &v->slots[i];
    random_tokens(s->tokens + s->end, 100, 50 + (uint32_t)i);
    s->prompt = s->end + 100;
    s->end = s->prompt + 4;
  }
  serve(v);
  for (int i = 0; i < v->count; i++) forget(v, i);
  for (int i = 0; i < v->count; i++)
    ask(&v->slots[i], 200, 300 + 17 * (v->count - 1 - i), 10 + (uint32_t)(v->count - 1 - i), 6);
  serve(v);
}

/* The state of a sequence is saved, the sequence emptied and the state loaded again. */
static void save_and_load(struct server *v, int seq) {
  const size_t bytes = CALL(llama_state_seq_get_size)(v->ctx, seq);
  uint8_t *state = malloc(bytes);
  if (CALL(llama_state_seq_get_data)(v->ctx, state, bytes, seq) != bytes) exit(1);
  CALL(llama_memory_seq_rm)(v->memory, seq, -1, -1);
  if (CALL(llama_state_seq_set_data)(v->ctx, state, bytes, seq) != bytes) exit(1);
  free(state);
}

/* Drafts: several outputs a sequence, some taken back. Then its state is saved, the sequence emptied and the
 * state loaded again. */
static void drafts(struct server *v) {
  v->count = 1;
  struct slot *s = &v->slots[0];
  struct llama_batch *b = &v->batch;
  ask(s, 200, 300, 10, 1);
  serve(v);
  for (int round = 0; round < 20; round++) {
    b->n_tokens = 0;
    random_tokens(s->tokens + s->done, 5, 90 + (uint32_t)round);
    for (int i = 0; i < 5; i++) add(v, 0, true);
    if (CALL(llama_decode)(v->ctx, *b) != 0) exit(1);
    s->output = 4;
    take_outputs(v);
    if (CALL(llama_memory_seq_rm)(v->memory, 0, s->done - 2, -1)) s->done -= 2;
  }
  save_and_load(v, 0);
  random_tokens(s->tokens + s->done, 200, 7);
  s->prompt = s->done + 200;
  s->end = s->prompt + 4;
  serve(v);
}

/* The cache is too small for two: the second one's first try fails, and works when the first is gone. */
static void crowded_by(struct server *v, int most) {
  struct llama_batch *b = &v->batch;
  v->count = 1;
  ask(&v->slots[0], 0, 700, 20, 2);
  serve(v);
  v->slots[1].end = 0;
  forget(v, 0);
  ask(&v->slots[0], 0, 600, 21, 2); /* 1024 - 602 are left */
  serve(v);
  v->slots[0].end = v->slots[0].done;
  ask(&v->slots[1], 0, 700, 20, 2);
  v->count = 2;
  v->most = most;
  while (v->slots[1].done < 700) {
    const int before = v->slots[1].done;
    fill(v);
    if (CALL(llama_decode)(v->ctx, *b) == 0) {
      take_outputs(v);
      continue;
    }
    v->slots[1].done = before;
    CALL(llama_memory_seq_rm)(v->memory, 0, -1, -1);
    v->most = 90; /* and in other pieces */
  }
  serve(v);
  forget(v, 1);
}

static void crowded(struct server *v) {
  crowded_by(v, BATCH);
  v->most = BATCH;
  crowded_by(v, 100); /* some of which wait */
}

/* With an adapter, without, with another, with the first again. */
static void adapters(struct server *v) {
  struct llama_adapter_lora *lora[] = {
      CALL(llama_adapter_lora_init)(v->model, getenv("LORA")), NULL,
      CALL(llama_adapter_lora_init)(v->model, getenv("LORA2")), NULL};
  if (lora[0] == NULL || lora[2] == NULL) exit(1);
  lora[3] = lora[0];
  for (int i = 0; i < 4; i++) {
    set_adapter(v, lora[i]);
    CALL(llama_memory_clear)(v->memory, true);
    together(v);
  }
}

/* One batch of a kind that is passed through; what it gives. */
static void pass(struct server *v, const char *what, struct llama_batch b) {
  const int rc = CALL(llama_decode)(v->ctx, b);
  const float *logits = rc == 0 ? CALL(llama_get_logits_ith)(v->ctx, b.n_tokens - 1) : NULL;
  if (logits == NULL)
    printf("%s: token %d 0 0 0\n", what, rc);
  else
    printf("%s: token 0 %.5f %.5f %.5f\n", what, (double)logits[0], (double)logits[100],
           (double)logits[200]);
}

/* Sequence `seq` from its token `from` on, after something odd. */
static void go_on(struct server *v, int seq, int from, uint32_t seed) {
  struct slot *s = &v->slots[seq];
  for (int i = 0; i < v->count; i++) v->slots[i].end = 0;
  random_tokens(s->tokens + from, 200, seed);
  s->done = from;
  s->prompt = from + 200;
  s->end = s->prompt + 3;
  serve(v);
}

/* Vectors instead of tokens, as images come: 40 positions of a sequence. */
static void show(struct server *v, llama_seq_id seq, int from) {
  enum { COUNT = 40, EMBD_MAX = 1024 };
  static float values[COUNT * EMBD_MAX];
  const int n = CALL(llama_model_n_embd)(v->model);
  struct llama_batch b = v->batch;
  for (int i = 0; i < COUNT * n; i++) values[i] = (float)(i * 7919 % 2001 - 1000) / 1000;
  b.token = NULL;
  b.embd = values;
  b.n_tokens = COUNT;
  for (int i = 0; i < COUNT; i++) {
    b.pos[i] = from + i;
    b.n_seq_id[i] = 1;
    b.seq_id[i][0] = seq;
    b.logits[i] = i + 1 == COUNT;
  }
  pass(v, "vectors", b);
}

static void vectors(struct server *v) {
  ask(&v->slots[0], 200, 100, 30, 0);
  serve(v);
  show(v, 0, 300);
  go_on(v, 0, 340, 31);
}

/* Tokens of several sequences at once: a prompt they share. Then each goes on. */
static void shared_tokens(struct server *v) {
  static llama_seq_id all[] = {0, 1, 2};
  static llama_seq_id *seqs[BATCH];
  struct llama_batch b = v->batch;
  for (int i = 0; i < 3; i++) random_tokens(v->slots[i].tokens, 192, 1);
  b.n_tokens = 192;
  for (int i = 0; i < b.n_tokens; i++) {
    b.token[i] = v->slots[0].tokens[i];
    b.pos[i] = i;
    b.n_seq_id[i] = 3;
    seqs[i] = all;
    b.logits[i] = i + 1 == b.n_tokens;
  }
  b.seq_id = seqs;
  pass(v, "shared", b);
  for (int i = 0; i < 3; i++) go_on(v, i, 192, 40 + (uint32_t)i);
}

/* A sequence copied: into an empty one, whole and in part; over one that holds something; and positions
 * moved. */
static void copies(struct server *v) {
  ask(&v->slots[0], 200, 100, 30, 0);
  serve(v);
  CALL(llama_memory_seq_cp)(v->memory, 0, 1, -1, -1);
  CALL(llama_memory_seq_cp)(v->memory, 0, 2, -1, 128);
  for (int i = 1; i < 3; i++)
    memcpy(v->slots[i].tokens, v->slots[0].tokens, sizeof v->slots[0].tokens);
  go_on(v, 1, 300, 50);
  go_on(v, 2, 128, 51);
  go_on(v, 0, 300, 52);
  forget(v, 3);
  ask(&v->slots[3], 200, 100, 30, 0); /* the same prompt again, which the store knows by now */
  serve(v);
  CALL(llama_memory_seq_rm)(v->memory, 3, 100, 200);
  CALL(llama_memory_seq_add)(v->memory, 3, 200, -1, -100);
  go_on(v, 3, 200, 53);
}

/* A sequence copied over one that held something else: what follows sees both, and is not what its tokens
 * say. Then the same tokens in an empty sequence. */
static void copied_over(struct server *v) {
  v->count = 6;
  ask(&v->slots[0], 200, 100, 30, 0);
  serve(v);
  show(v, 4, 0);
  CALL(llama_memory_seq_cp)(v->memory, 0, 4, -1, -1);
  memcpy(v->slots[4].tokens, v->slots[0].tokens, sizeof v->slots[0].tokens);
  go_on(v, 4, 300, 70);
  v->slots[5] = v->slots[4];
  v->slots[5].done = 0;
  serve(v);
}

/* A prompt ends in a batch and another begins, with less than a micro-batch of it; `what` comes before the
 * first one's output is read. */
enum interruption {
  NOTHING,
  POSITION,
  SAVED,
  COPIED,
  CUT,
  EMPTIED,
  KEPT,
  VECTORS,
  ANY_MODEL, /* so far */
  COPIED_IN_PART = ANY_MODEL,
  HOLED,
  ALL_SAVED,
  ADAPTED,
  INTERRUPTIONS
};

static void save_and_load_all(struct server *v) {
  const size_t bytes = CALL(llama_state_get_size)(v->ctx);
  uint8_t *state = malloc(bytes);
  if (CALL(llama_state_get_data)(v->ctx, state, bytes) == 0) exit(1);
  CALL(llama_memory_clear)(v->memory, true);
  if (CALL(llama_state_set_data)(v->ctx, state, bytes) == 0) exit(1);
  free(state);
}

static void interrupt(struct server *v, enum interruption what) {
  enum { PIECE = 30 };
  struct slot *s = v->slots;
  CALL(llama_memory_clear)(v->memory, true);
  v->count = 4;
  for (int i = 0; i < v->count; i++) s[i].done = s[i].prompt = s[i].end = 0;
  ask(&s[0], 0, 100, 80, 3);
  ask(&s[1], 200, 200, 81, 3);
  v->most = 100 + PIECE;
  fill(v);
  v->most = BATCH;
  if (CALL(llama_decode)(v->ctx, v->batch) != 0) exit(1);
  if (what == VECTORS) take_outputs(v);
  if (what == POSITION)
    printf("position: token %d 0 0 0\n", CALL(llama_memory_seq_pos_max)(v->memory, 1));
  if (what == SAVED) save_and_load(v, 1);
  if (what == ALL_SAVED) save_and_load_all(v);
  if (what == COPIED || what == COPIED_IN_PART) {
    const int end = what == COPIED ? PIECE : 20;
    CALL(llama_memory_seq_cp)(v->memory, 1, 2, -1, what == COPIED ? -1 : end);
    s[2] = s[1];
    s[2].done = end;
    random_tokens(s[2].tokens + end, 100, 82);
    s[2].prompt = end + 100;
    s[2].end = s[2].prompt + 3;
  }
  if (what == CUT) {
    random_tokens(s[1].tokens + 10, 200, 83);
    s[1].done = CALL(llama_memory_seq_rm)(v->memory, 1, 10, -1) ? 10 : 0;
    if (s[1].done == 0) forget(v, 1);
  }
  if (what == HOLED) {
    CALL(llama_memory_seq_rm)(v->memory, 1, 5, 15);
    CALL(llama_memory_seq_add)(v->memory, 1, 15, -1, -10);
    s[1].done = PIECE - 10;
  }
  if (what == ADAPTED) {
    struct llama_adapter_lora *lora = CALL(llama_adapter_lora_init)(v->model, getenv("LORA"));
    if (lora == NULL) exit(1);
    set_adapter(v, lora);
  }
  if (what == EMPTIED) forget(v, 1);
  if (what == KEPT) CALL(llama_memory_seq_keep)(v->memory, 1);
  if (what != VECTORS) take_outputs(v);
  if (what == VECTORS) {
    show(v, 1, PIECE);
    s[1].done = PIECE + 40;
  }
  if (what == KEPT) forget(v, 0);
  serve(v);
}

static void interruptions(struct server *v) {
  for (int what = 0; what < ANY_MODEL; what++) interrupt(v, (enum interruption)what);
}

static void plain_interruptions(struct server *v) {
  for (int what = ANY_MODEL; what < INTERRUPTIONS; what++) interrupt(v, (enum interruption)what);
}

/* All ask at once, in batches smaller than a micro-batch. */
static void pieces(struct server *v) {
  v->most = 50;
  together(v);
}

/* Batches that llama.cpp refuses, and one without positions, sequences and outputs. */
static void gaps(struct server *v) {
  struct llama_batch b = v->batch;
  ask(&v->slots[0], 200, 100, 30, 0);
  serve(v);
  for (int first = 250; first <= 350; first += 100) { /* again; with a gap */
    b.n_tokens = 64;
    for (int i = 0; i < 64; i++) {
      b.token[i] = 3 + i;
      b.pos[i] = first + i;
      b.n_seq_id[i] = 1;
      b.seq_id[i][0] = 0;
      b.logits[i] = i == 63;
    }
    pass(v, first == 250 ? "again" : "gap", b);
  }
  go_on(v, 0, 300, 60);
  forget(v, 0);
  random_tokens(v->slots[0].tokens, BATCH, 1);
  pass(v, "bare", (struct llama_batch){.n_tokens = BATCH, .token = v->slots[0].tokens});
  go_on(v, 0, BATCH, 61);
  forget(v, 0);
  ask(&v->slots[0], 200, 300, 30, 0);
  v->slots[0].tokens[400] = VOCABULARY + 1; /* refused, when 200 tokens could be restored */
  fill(v);
  pass(v, "first half", v->batch);
  fill(v);
  pass(v, "no token", v->batch);
  go_on(v, 0, BATCH, 62);
}

/* Conversations without end, until it is killed. */
static void endless(struct server *v) {
  for (uint32_t seed = 10;; seed++) {
    for (int i = 0; i < v->count; i++) {
      forget(v, i);
      ask(&v->slots[i], 200, 300, seed % 20 + (uint32_t)i, 3);
    }
    serve(v);
  }
}

static void silent(enum ggml_log_level level, const char *text, void *user) {
  (void)user;
  if (level >= GGML_LOG_LEVEL_ERROR && getenv("KVSTOW_VERBOSE") != NULL) fputs(text, stderr);
}

__attribute__((visibility("default"))) int drive(int argc, char **argv);
int drive(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*run)(struct server *);
    uint32_t context;
  } scenarios[] = {{"together", together, CONTEXT},
                   {"turns", turns, CONTEXT},
                   {"drafts", drafts, CONTEXT},
                   {"crowded", crowded, 1024},
                   {"adapters", adapters, CONTEXT},
                   {"endless", endless, CONTEXT},
                   {"vectors", vectors, CONTEXT},
                   {"shared", shared_tokens, CONTEXT},
                   {"copies", copies, CONTEXT},
                   {"gaps", gaps, CONTEXT},
                   {"copied_over", copied_over, CONTEXT},
                   {"pieces", pieces, CONTEXT},
                   {"interruptions", interruptions, CONTEXT},
                   {"plain_interruptions", plain_interruptions, CONTEXT}};
  static struct server v;
  if (argc < 3) return 2;
  find_calls();
  CALL(llama_log_set)(silent, NULL);
  CALL(ggml_backend_load_all_from_path)(LLAMA_LIB);
  CALL(llama_backend_init)();
  v.model = CALL(llama_model_load_from_file)(argv[1], CALL(llama_model_default_params)());
  if (v.model == NULL) return 1;
  for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
    if (strcmp(argv[2], scenarios[i].name) != 0) continue;
    struct llama_context_params p = CALL(llama_context_default_params)();
    v.count = argc > 3 ? atoi(argv[3]) : 4;
    v.most = BATCH;
    p.n_ctx = scenarios[i].context;
    p.n_batch = BATCH;
    p.n_ubatch = UBATCH;
    p.n_seq_max = SEQS_MAX;
    p.kv_unified = true;
    p.n_threads = p.n_threads_batch = 1;
    p.type_k = p.type_v = GGML_TYPE_F32; /* so that another order of sums changes little */
    p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    v.ctx = CALL(llama_init_from_model)(v.model, p);
    v.memory = CALL(llama_get_memory)(v.ctx);
    v.batch.n_tokens = 0;
    static llama_token token[BATCH];
    static llama_pos pos[BATCH];
    static int32_t counts[BATCH];
    static llama_seq_id ids[BATCH], *seqs[BATCH];
    static int8_t outputs[BATCH];
    for (int k = 0; k < BATCH; k++) seqs[k] = &ids[k];
    v.batch = (struct llama_batch){
        .token = token, .pos = pos, .n_seq_id = counts, .seq_id = seqs, .logits = outputs};
    scenarios[i].run(&v);
    CALL(llama_free)(v.ctx);
    CALL(llama_model_free)(v.model);
    return 0;
  }
  return 2;
}

#ifndef MODULE
int main(int argc, char **argv) {
  return drive(argc, argv);
}
#endif
