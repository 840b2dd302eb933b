/* kvstow-llama.c - blocks of llama.cpp's sequences, cut out and put back.
 *
 * A block is the opaque state of a scratch sequence that shares the cells of block_tokens positions:
 * seq_cp() into it, get_data(), seq_rm(). Back the same way. No byte of it is interpreted here.
 *
 * Three kinds of memory differ in what may be cut when:
 *   plain        any block at any time
 *   windowed     (sliding window) the rows of a block are recycled when later ones need room: a block
 *                is cut when it has just been completed
 *   stateful     (recurrent, hybrid) the state is that of the newest position: likewise; and nothing
 *                can be removed but a whole sequence
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "kvstow-llama.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "calls.h"
#include "fingerprint.h"

enum {
  BLOCK_TOKENS_MAX = 512, /* the default's */
  BLOCK_TOKENS_MIN = 16,
  BLOCK_BYTES = 9 << 20,        /* a cut anywhere may be small: seven fit a segment of 64 MiB */
  BLOCK_BYTES_STATE = 32 << 20, /* cutting finer would change the micro-batches */
  PROOF_TOKENS = 3,
};

struct kvstow_llama {
  struct llama_context *ctx;
  llama_memory_t memory;
  kvstow *store;
  kvstow_space *space;
  char *fingerprint;
  uint8_t *salt;
  size_t salt_bytes;
  llama_seq_id scratch;
  uint32_t block_tokens, align_tokens;
  uint64_t block_bytes; /* exactly, if plain or stateful without window; else at most */
  int32_t window;       /* positions that must be there, 0: all */
  bool stateful;        /* has a recurrent part */
  bool only_state;      /* and nothing else: a block supersedes those before it */
  kvstow_llama_stats stats;
};

static uint64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

__attribute__((format(printf, 4, 5))) static int refuse(char *why, size_t why_bytes, int code,
                                                        const char *format, ...) {
  va_list args;
  va_start(args, format);
  if (why != NULL && why_bytes > 0) vsnprintf(why, why_bytes, format, args);
  va_end(args);
  return code;
}

static kvstow_prefix prefix_of(const kvstow_llama *c, const llama_token *tokens, size_t count) {
  kvstow_prefix prefix = KVSTOW_PREFIX(c->space, tokens, count);
  prefix.salt = c->salt;
  prefix.salt_bytes = c->salt_bytes;
  return prefix;
}

static bool plain(const kvstow_llama *c) {
  return c->window == 0 && !c->stateful;
}

static size_t held_tokens(const kvstow_llama *c, llama_seq_id seq) {
  return (size_t)(KVL_REAL(llama_memory_seq_pos_max)(c->memory, seq) + 1);
}

static void clear(const kvstow_llama *c, llama_seq_id seq) {
  KVL_REAL(llama_memory_seq_rm)(c->memory, seq, -1, -1);
}

/* Whether a sequence holds positions up to `end`, from `begin` on as far as its window reaches. */
static bool whole(const kvstow_llama *c, llama_seq_id seq, llama_pos begin, llama_pos end) {
  if (KVL_REAL(llama_memory_seq_pos_max)(c->memory, seq) != end - 1) return false;
  if (c->stateful) return true; /* pos_min is the state's */
  if (c->window > 0 && end - c->window + 1 > begin) begin = end - c->window + 1;
  const llama_pos first = KVL_REAL(llama_memory_seq_pos_min)(c->memory, seq);
  return first >= 0 && first <= begin;
}

/* ---- cutting and putting back ----------------------------------------------------------------- */

/* Cuts the block [begin, end) of `seq` out: *from is the sequence that is just the block until uncut(), and
 * the result the size of its state; 0 if rows are missing.
 *
 * llama.cpp saves sequences below n_seq_max only, and the scratch sequence is one above where states need no
 * cell of their own: so there all of `seq` is parked in it, and `seq` narrowed to the block. */
static size_t cut(const kvstow_llama *c, llama_seq_id seq, llama_pos begin, llama_pos end,
                  llama_seq_id *from) {
  if (c->stateful) {
    KVL_REAL(llama_memory_seq_cp)(c->memory, seq, c->scratch, begin, end);
    *from = c->scratch;
  } else {
    KVL_REAL(llama_memory_seq_cp)(c->memory, seq, c->scratch, -1, -1);
    KVL_REAL(llama_memory_seq_rm)(c->memory, seq, 0, begin);
    KVL_REAL(llama_memory_seq_rm)(c->memory, seq, end, -1);
    *from = seq;
  }
  if (!whole(c, *from, begin, end)) return 0;
  return KVL_REAL(llama_state_seq_get_size_ext)(c->ctx, *from, LLAMA_STATE_SEQ_FLAGS_NONE);
}

static void uncut(const kvstow_llama *c, llama_seq_id seq) {
  if (!c->stateful) KVL_REAL(llama_memory_seq_cp)(c->memory, c->scratch, seq, -1, -1);
  clear(c, c->scratch);
}

/* Appends a block to `seq`. */
static bool put(const kvstow_llama *c, llama_seq_id seq, llama_pos begin, llama_pos end,
                const void *block, size_t bytes) {
  const bool ok = KVL_REAL(llama_state_seq_set_data_ext)(c->ctx, block, bytes, c->scratch,
                                                         LLAMA_STATE_SEQ_FLAGS_NONE) == bytes &&
                  whole(c, c->scratch, begin, end);
  if (ok) KVL_REAL(llama_memory_seq_cp)(c->memory, c->scratch, seq, begin, end);
  clear(c, c->scratch);
  return ok;
}

/* ---- proof ---------------------------------------------------------------------------------- */

static bool decode_one(const kvstow_llama *c, llama_token token, llama_pos pos, int8_t output) {
  llama_seq_id seq = 0, *seqs = &seq;
  int32_t count = 1;
  struct llama_batch batch = {.n_tokens = 1,
                              .token = &token,
                              .pos = &pos,
                              .n_seq_id = &count,
                              .seq_id = &seqs,
                              .logits = &output};
  return KVL_REAL(llama_decode)(c->ctx, batch) == 0;
}

/* Two tokens computed, cut out, wiped, put back: does the third see what it saw before? Learns on the way
 * how large blocks are: *fixed_bytes + tokens * *token_bytes. */
static bool prove(kvstow_llama *c, int32_t vocabulary, uint64_t *fixed_bytes,
                  uint64_t *token_bytes) {
  const llama_token tokens[PROOF_TOKENS] = {1 % vocabulary, 2 % vocabulary, 3 % vocabulary};
  const size_t logits_bytes = (size_t)vocabulary * sizeof(float);
  float *before = malloc(logits_bytes);
  uint8_t *block = NULL;
  bool ok = false;
  if (before == NULL) return false;
  if (!decode_one(c, tokens[0], 0, 0)) goto out;
  llama_seq_id from;
  const size_t one = cut(c, 0, 0, 1, &from);
  uncut(c, 0);
  if (one == 0 || !decode_one(c, tokens[1], 1, 0)) goto out;
  const size_t two = cut(c, 0, 0, 2, &from);
  if (two < one || (block = malloc(two)) == NULL) goto out;
  if (KVL_REAL(llama_state_seq_get_data_ext)(c->ctx, block, two, from,
                                             LLAMA_STATE_SEQ_FLAGS_NONE) != two)
    goto out;
  uncut(c, 0);
  if (!decode_one(c, tokens[2], 2, 1)) goto out;
  const float *logits = KVL_REAL(llama_get_logits_ith)(c->ctx, 0);
  if (logits == NULL) goto out;
  memcpy(before, logits, logits_bytes);
  KVL_REAL(llama_memory_clear)(c->memory, true);
  if (!put(c, 0, 0, 2, block, two) || !decode_one(c, tokens[2], 2, 1)) goto out;
  logits = KVL_REAL(llama_get_logits_ith)(c->ctx, 0);
  ok = logits != NULL && memcmp(before, logits, logits_bytes) == 0;
  *token_bytes = two - one;
  *fixed_bytes = one - *token_bytes;
out:
  KVL_REAL(llama_memory_clear)(c->memory, true);
  KVL_REAL(llama_perf_context_reset)(c->ctx);
  free(before);
  free(block);
  return ok;
}

/* ---- attach --------------------------------------------------------------------------------- */

void kvstow_llama_options_init(kvstow_llama_options *options) {
  *options = (kvstow_llama_options){.size = sizeof *options, .scratch_seq = -1};
}

static bool keeps_state(const struct llama_model *model) {
  return KVL_REAL(llama_model_is_recurrent)(model) || KVL_REAL(llama_model_is_hybrid)(model);
}

void kvstow_llama_prepare(const struct llama_model *model, struct llama_context_params *params) {
  if (!keeps_state(model) || (params->n_seq_max > 1 && !params->kv_unified)) return;
  params->n_seq_max++;
  params->kv_unified = true; /* one sequence was one stream; two must stay one */
  if (params->n_outputs_max > 0) params->n_outputs_max++;
}

/* Memories with indexes and compressed parts that a block of positions does not carry, or that abort on a
 * partial copy (llama.cpp v0.5.0). */
static bool known_unfit(const struct llama_model *model) {
  static const char *const names[] = {"deepseek4", "deepseek32", "glm-dsa", "minimax-m3",
                                      "qwen4exp",  "dots3note",  "hy_v4",   "spark2_5"};
  char name[64];
  if (KVL_REAL(llama_model_meta_val_str)(model, "general.architecture", name, sizeof name) < 0)
    return true;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(name, names[i]) == 0) return true;
  return false;
}

/* What kind of memory this is; or why it is not cached. */
static int examine(kvstow_llama *c, const struct llama_model *model,
                   const kvstow_llama_options *options, char *why, size_t why_bytes) {
  const struct llama_context_params *p = options->params;
  const uint32_t seqs = KVL_REAL(llama_n_seq_max)(c->ctx);
  if (c->memory == NULL || KVL_REAL(llama_model_has_encoder)(model) ||
      KVL_REAL(llama_model_is_diffusion)(model) || known_unfit(model))
    return refuse(why, why_bytes, KVSTOW_EUNSUPPORTED, "this kind of model is not cached");
  if (p->embeddings || p->attention_type == LLAMA_ATTENTION_TYPE_NON_CAUSAL ||
      p->ctx_type != LLAMA_CONTEXT_TYPE_DEFAULT || p->ctx_other != NULL ||
      KVL_REAL(llama_pooling_type)(c->ctx) > LLAMA_POOLING_TYPE_NONE)
    return refuse(why, why_bytes, KVSTOW_EUNSUPPORTED,
                  "the context is for embeddings or drafts: not cached");
  c->only_state = KVL_REAL(llama_model_is_recurrent)(model);
  c->stateful = keeps_state(model);
  c->window = c->only_state ? 0 : KVL_REAL(llama_model_n_swa)(model);
  if (c->stateful && KVL_REAL(llama_n_rs_seq)(c->ctx) > 0)
    return refuse(why, why_bytes, KVSTOW_EUNSUPPORTED,
                  "recurrent states with roll-back are not cached");
  if (!c->only_state && seqs > 1 &&
      KVL_REAL(llama_n_ctx_seq)(c->ctx) != KVL_REAL(llama_n_ctx)(c->ctx))
    return refuse(why, why_bytes, KVSTOW_EUNSUPPORTED,
                  "every sequence has a KV buffer of its own: use a unified one (--kv-unified)");
  const llama_seq_id highest = (llama_seq_id)KVL_REAL(llama_max_parallel_sequences)() - 1;
  c->scratch = options->scratch_seq >= 0 ? options->scratch_seq
               : c->stateful             ? (llama_seq_id)seqs - 1
                                         : highest;
  if (c->scratch < 1 || c->scratch > highest || (c->stateful && c->scratch >= (llama_seq_id)seqs) ||
      (options->scratch_seq < 0 && !c->stateful && highest < (llama_seq_id)seqs))
    return refuse(why, why_bytes, KVSTOW_EUNSUPPORTED,
                  "no room for a scratch sequence (kvstow_llama_prepare() makes it)");
  for (llama_seq_id s = 0; s < (llama_seq_id)seqs; s++)
    if (held_tokens(c, s) != 0)
      return refuse(why, why_bytes, KVSTOW_ESTATE, "the context holds tokens already");
  return 0;
}

static int open_space(kvstow_llama *c, const kvstow_llama_options *options, uint64_t fixed_bytes,
                      uint64_t token_bytes, char *why, size_t why_bytes) {
  const uint32_t ubatch = KVL_REAL(llama_n_ubatch)(c->ctx);
  const uint32_t usual = ubatch < BLOCK_TOKENS_MAX ? ubatch : BLOCK_TOKENS_MAX;
  const uint64_t limit = plain(c) ? BLOCK_BYTES : BLOCK_BYTES_STATE;
  uint32_t tokens = options->block_tokens != 0 ? options->block_tokens : usual;
  while (options->block_tokens == 0 && tokens % 2 == 0 && tokens > BLOCK_TOKENS_MIN &&
         fixed_bytes + tokens * token_bytes > limit)
    tokens /= 2;
  int rc;
  for (;; tokens /= 2) {
    char *text = NULL;
    const uint64_t bytes = fixed_bytes + tokens * token_bytes;
    const int length = asprintf(&text, "%sblock %u tokens\n", c->fingerprint, tokens);
    if (length < 0) return refuse(why, why_bytes, KVSTOW_ENOMEM, "out of memory");
    kvstow_space_options s;
    kvstow_space_options_init(&s);
    s.name = "llama.cpp";
    s.fingerprint = text;
    s.fingerprint_bytes = (size_t)length;
    s.block_tokens = tokens;
    s.opaque_max_bytes = bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)bytes;
    rc = kvstow_space_open(c->store, &s, &c->space);
    free(text);
    c->block_tokens = tokens;
    c->block_bytes = bytes;
    if (rc != KVSTOW_ETOOBIG || tokens % 2 != 0 || tokens <= BLOCK_TOKENS_MIN) break;
  }
  if (rc != 0) {
    char message[KVSTOW_MESSAGE_BYTES];
    kvstow_message(c->store, message, sizeof message);
    return refuse(why, why_bytes, rc, "%s", message);
  }
  const uint32_t align = options->align_tokens != 0 ? options->align_tokens : usual;
  c->align_tokens = (align + tokens - 1) / tokens * tokens;
  return 0;
}

int kvstow_llama_attach(kvstow *store, const struct llama_model *model, struct llama_context *ctx,
                        const kvstow_llama_options *options, kvstow_llama **cache, char *why,
                        size_t why_bytes) {
  if (store == NULL || model == NULL || ctx == NULL || cache == NULL || options == NULL ||
      options->size < sizeof *options || options->params == NULL ||
      (options->model_path == NULL && options->identity_bytes == 0))
    return refuse(why, why_bytes, KVSTOW_EINVAL,
                  "attach: parameters and a model path or identity are required");
  *cache = NULL;
  kvstow_llama *c = calloc(1, sizeof *c);
  if (c == NULL) return refuse(why, why_bytes, KVSTOW_ENOMEM, "out of memory");
  c->ctx = ctx;
  c->memory = KVL_REAL(llama_get_memory)(ctx);
  c->store = store;
  uint64_t fixed_bytes = 0, token_bytes = 0;
  char reason[KVSTOW_MESSAGE_BYTES] = "";
  int rc = examine(c, model, options, why, why_bytes);
  if (rc != 0) goto fail;
  if ((c->fingerprint = kvl_fingerprint(model, ctx, options, reason, sizeof reason)) == NULL) {
    rc = refuse(why, why_bytes, KVSTOW_EINVAL, "%s", reason);
    goto fail;
  }
  const struct llama_vocab *vocab = KVL_REAL(llama_model_get_vocab)(model);
  const int32_t vocabulary = KVL_REAL(llama_vocab_n_tokens)(vocab);
  if (vocabulary <= 0 || !prove(c, vocabulary, &fixed_bytes, &token_bytes)) {
    rc = refuse(why, why_bytes, KVSTOW_EUNSUPPORTED,
                "self-test: a block put back did not give the same logits");
    goto fail;
  }
  rc = open_space(c, options, fixed_bytes, token_bytes, why, why_bytes);
  if (rc != 0) goto fail;
  *cache = c;
  return 0;
fail:
  kvstow_llama_detach(c);
  return rc;
}

void kvstow_llama_detach(kvstow_llama *c) {
  if (c == NULL) return;
  free(c->fingerprint);
  free(c->salt);
  free(c);
}

int kvstow_llama_set_salt(kvstow_llama *c, const void *salt, size_t salt_bytes) {
  uint8_t *copy = NULL;
  if (salt_bytes > 0) {
    copy = malloc(salt_bytes);
    if (copy == NULL) return KVSTOW_ENOMEM;
    memcpy(copy, salt, salt_bytes);
  }
  free(c->salt);
  c->salt = copy;
  c->salt_bytes = salt_bytes;
  return 0;
}

/* ---- restore -------------------------------------------------------------------------------- */

/* Puts blocks [first, end) of a lease into `seq`; returns the block it came to. */
static size_t put_blocks(kvstow_llama *c, kvstow_lease *lease, llama_seq_id seq, size_t first,
                         size_t end) {
  size_t b = first;
  for (; b < end; b++) {
    const void *block;
    size_t bytes;
    if (kvstow_view(lease, b, 0, &block, &bytes) != 0) break;
    const llama_pos begin = (llama_pos)(b * c->block_tokens);
    const bool ok = put(c, seq, begin, begin + (llama_pos)c->block_tokens, block, bytes);
    kvstow_unview(lease, b);
    if (!ok) break;
    c->stats.restored_bytes += bytes;
  }
  return b;
}

/* Fills `seq`, which holds `have` tokens, to the end of block `blocks` - 1; returns how many it holds. */
static size_t fill(kvstow_llama *c, kvstow_lease *lease, llama_seq_id seq, size_t have,
                   size_t blocks) {
  size_t first = have / c->block_tokens, reached;
  if (have % c->block_tokens != 0 && plain(c)) {
    KVL_REAL(llama_memory_seq_rm)(c->memory, seq, (llama_pos)(first * c->block_tokens), -1);
  } else if (have % c->block_tokens != 0) { /* can't be cut back */
    clear(c, seq);
    first = 0;
  }
  if (c->only_state) { /* the newest state that is good */
    for (size_t b = blocks; b > first; b--)
      if (put_blocks(c, lease, seq, b - 1, b) == b) return b * c->block_tokens;
    return held_tokens(c, seq);
  }
  reached = put_blocks(c, lease, seq, first, blocks);
  const size_t tokens = reached * c->block_tokens;
  if (tokens == 0 || whole(c, seq, 0, (llama_pos)tokens)) return tokens;
  clear(c, seq);
  return 0;
}

size_t kvstow_llama_restore(kvstow_llama *c, llama_seq_id seq, const llama_token *tokens,
                            size_t count) {
  const size_t have = held_tokens(c, seq);
  if (count < c->align_tokens || have + c->block_tokens > count) return have;
  const uint64_t start = now_us();
  const kvstow_prefix prefix = prefix_of(c, tokens, count);
  kvstow_lease *lease = NULL;
  kvstow_held held;
  if (kvstow_match(&prefix, c->only_state ? KVSTOW_NO_PROMOTE : 0, &lease, &held) != 0) return have;
  const size_t target = held.tokens / c->align_tokens * c->align_tokens;
  size_t now = have;
  if (target > have) {
    now = fill(c, lease, seq, have, target / c->block_tokens);
    c->stats.failed += now < target;
    c->stats.restores++;
    if (now > have) c->stats.restored_tokens += now - have;
    c->stats.restore_us += now_us() - start;
  }
  kvstow_lease_release(lease);
  return now;
}

/* ---- commit --------------------------------------------------------------------------------- */

static bool store_block(kvstow_llama *c, llama_seq_id seq, const llama_token *tokens,
                        size_t block) {
  const llama_pos begin = (llama_pos)(block * c->block_tokens);
  const llama_pos end = begin + (llama_pos)c->block_tokens;
  const kvstow_prefix prefix = prefix_of(c, tokens, (size_t)end);
  kvstow_slot slot;
  bool ok = false;
  llama_seq_id from;
  const size_t bytes = cut(c, seq, begin, end, &from);
  if (bytes == 0 || bytes > c->block_bytes || (c->window == 0 && bytes != c->block_bytes)) goto out;
  if (kvstow_reserve(&prefix, block, 1, bytes, KVSTOW_NOWAIT, &slot) != 0) goto out;
  if (slot.payload == NULL) { /* held meanwhile */
    ok = kvstow_commit(c->store, &slot, 1) == 0;
  } else if (KVL_REAL(llama_state_seq_get_data_ext)(c->ctx, slot.payload, bytes, from,
                                                    LLAMA_STATE_SEQ_FLAGS_NONE) != bytes) {
    kvstow_abort(c->store, &slot, 1);
  } else if (kvstow_commit(c->store, &slot, 1) == 0) {
    ok = true;
    c->stats.committed_tokens += c->block_tokens;
    c->stats.committed_bytes += bytes;
  }
out:
  uncut(c, seq);
  c->stats.refused += !ok;
  return ok;
}

size_t kvstow_llama_commit(kvstow_llama *c, llama_seq_id seq, const llama_token *tokens,
                           size_t count) {
  const size_t blocks = count / c->block_tokens;
  if (blocks == 0 || held_tokens(c, seq) != count) return 0;
  const uint64_t start = now_us();
  const kvstow_prefix prefix = prefix_of(c, tokens, count);
  kvstow_held held;
  if (kvstow_exists(&prefix, &held) != 0) return 0;
  size_t b = held.blocks;
  const bool possible = plain(c) || (b + 1 == blocks && count % c->block_tokens == 0);
  if (b < blocks && possible) {
    while (b < blocks && store_block(c, seq, tokens, b)) b++;
    c->stats.commits++;
    c->stats.commit_us += now_us() - start;
  }
  return b * c->block_tokens;
}

size_t kvstow_llama_step(const kvstow_llama *c, size_t have, size_t count) {
  if (plain(c)) return count;
  const size_t rest = c->block_tokens - have % c->block_tokens;
  return count < rest ? count : rest;
}

/* ---- the rest ------------------------------------------------------------------------------- */

uint32_t kvstow_llama_align_tokens(const kvstow_llama *c) {
  return c->align_tokens;
}

uint32_t kvstow_llama_block_tokens(const kvstow_llama *c) {
  return c->block_tokens;
}

const char *kvstow_llama_fingerprint(const kvstow_llama *c) {
  return c->fingerprint;
}

void kvstow_llama_get_stats(const kvstow_llama *c, kvstow_llama_stats *stats) {
  *stats = c->stats;
}
