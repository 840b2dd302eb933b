/* preload_decode.c - a batch without the tokens that were restored.
 *
 * A batch mixes the next tokens of several sequences. For each of them that is known from its first token
 * on: what the store holds is put into the context, up to its first token with an output; what is left
 * of all of them is decoded as one batch; output i of the program's batch is output map[i] of that one.
 * If nothing is left out, the program's own batch goes through untouched: so do generation, drafts to be
 * verified (all have outputs), embeddings and images. A short piece at its end may wait (preload_owed.c).
 *
 * The decode may fail (no free cells) and the program try again with less, or do something else: so what
 * was restored is taken out again.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "preload.h"

/* The tokens of one sequence in a batch. */
struct span {
  llama_seq_id seq;
  struct kvl_seq *s;
  size_t begin;    /* position of its first token */
  size_t end;      /* behind its last */
  size_t limit;    /* of its first token with an output; end if there is none */
  size_t present;  /* positions [0, present) are in the context now */
  size_t restored; /* of them from the store */
  int32_t outputs; /* not 0: an output was seen */
  bool known;      /* tokens of the sequence and positions fit */
  bool waits;      /* [present, end) is owed */
};

struct work {
  struct kvl_context *c;
  struct llama_batch batch; /* the program's, with what it left out filled in */
  struct span spans[KVL_SEQS];
  int spans_count;
  int16_t span_of[KVL_SEQS]; /* by sequence, -1 */
  bool room;                 /* pieces may wait */
};

static const llama_seq_id seq_zero = 0;

static llama_seq_id seq_of(const struct llama_batch *b, int32_t i) {
  return b->seq_id == NULL ? seq_zero : b->seq_id[i][0];
}

static bool has_output(const struct llama_batch *b, int32_t i) {
  return b->logits == NULL ? i + 1 == b->n_tokens : b->logits[i] != 0;
}

static void forget_batch(struct kvl_context *c, const struct llama_batch *b) {
  for (int32_t i = 0; i < b->n_tokens; i++) {
    const int32_t n = b->n_seq_id == NULL ? 1 : b->n_seq_id[i];
    for (int32_t k = 0; k < n; k++) {
      struct kvl_seq *s = kvl_seq(c, b->seq_id == NULL ? seq_zero : b->seq_id[i][k]);
      if (s != NULL) kvl_seq_forget(s);
    }
  }
}

/* ---- understanding the batch ------------------------------------------------------------------ */

static size_t held(const struct kvl_context *c, llama_seq_id seq) {
  return (size_t)(KVL_REAL(llama_memory_seq_pos_max)(c->memory, seq) + 1);
}

static struct span *span_begin(struct work *w, llama_seq_id seq, llama_pos pos) {
  struct span *span = &w->spans[w->spans_count];
  w->span_of[seq] = (int16_t)w->spans_count++;
  struct kvl_seq *s = kvl_seq(w->c, seq);
  *span = (struct span){.seq = seq, .s = s, .begin = (size_t)pos, .end = (size_t)pos};
  /* Also what no call told us of shows here: then it is not the sequence we know. */
  span->known = pos >= 0 && (size_t)pos == s->count && held(w->c, seq) == s->count - s->owed;
  return span;
}

/* Sorts the batch by sequences; false: it can't be understood. */
static bool understand(struct work *w) {
  const struct llama_batch *b = &w->batch;
  memset(w->span_of, -1, sizeof w->span_of);
  for (int32_t i = 0; i < b->n_tokens; i++) {
    if (b->n_seq_id != NULL && b->n_seq_id[i] != 1) return false;
    const llama_seq_id seq = seq_of(b, i);
    if (seq < 0 || seq >= KVL_SEQS) return false;
    const bool first = w->span_of[seq] < 0;
    llama_pos pos;
    if (b->pos != NULL)
      pos = b->pos[i];
    else /* llama.cpp numbers them itself */
      pos = first ? kvl_pos_max(w->c, seq) + 1 : (llama_pos)w->spans[w->span_of[seq]].end;
    struct span *span = first ? span_begin(w, seq, pos) : &w->spans[w->span_of[seq]];
    span->known = span->known && (size_t)pos == span->end;
    if (has_output(b, i) && span->outputs++ == 0) span->limit = span->end;
    span->end++;
  }
  for (int k = 0; k < w->spans_count; k++)
    if (w->spans[k].outputs == 0) w->spans[k].limit = w->spans[k].end;
  return true;
}

/* Writes the tokens of the spans behind those of their sequences. */
static bool gather(struct work *w) {
  llama_token *tokens = malloc((size_t)w->batch.n_tokens * sizeof *tokens);
  if (tokens == NULL) return false;
  bool ok = true;
  for (int k = 0; k < w->spans_count; k++) {
    struct span *span = &w->spans[k];
    size_t n = 0;
    if (!span->known) continue;
    for (int32_t i = 0; i < w->batch.n_tokens; i++)
      if (seq_of(&w->batch, i) == span->seq) tokens[n++] = w->batch.token[i];
    span->present = span->begin - span->s->owed;
    ok = kvl_seq_write(span->s, span->begin, tokens, n) && ok;
  }
  free(tokens);
  return ok;
}

/* ---- restoring ------------------------------------------------------------------------------ */

/* Whether blocks can be cut at any time, and sequences anywhere. */
static bool plain(const struct kvl_context *c) {
  return kvstow_llama_step(c->cache, 0, SIZE_MAX) == SIZE_MAX;
}

/* Blocks that can only be stored when just completed are, one by one. */
int32_t kvl_decode_alone(struct kvl_context *c, llama_seq_id seq, size_t *present, size_t to) {
  enum { PIECE = 512 };
  const size_t most = KVL_REAL(llama_n_batch)(c->ctx);
  llama_token *tokens = c->seqs[seq].tokens;
  while (*present < to) {
    llama_pos pos[PIECE];
    int32_t counts[PIECE];
    llama_seq_id *seqs[PIECE];
    int8_t outputs[PIECE];
    size_t n = kvstow_llama_step(c->cache, *present, to - *present);
    if (n > PIECE) n = PIECE;
    if (n > most) n = most;
    for (size_t i = 0; i < n; i++) {
      pos[i] = (llama_pos)(*present + i);
      counts[i] = 1;
      seqs[i] = &seq;
      outputs[i] = 0;
    }
    const struct llama_batch piece = {.n_tokens = (int32_t)n,
                                      .token = tokens + *present,
                                      .pos = pos,
                                      .n_seq_id = counts,
                                      .seq_id = seqs,
                                      .logits = outputs};
    const int32_t rc = KVL_REAL(llama_decode)(c->ctx, piece);
    if (rc != 0) return rc;
    *present += n;
    if (!plain(c) && *present % kvstow_llama_block_tokens(c->cache) == 0)
      kvstow_llama_commit(c->cache, seq, tokens, *present);
  }
  return 0;
}

/* Brings a span as far as the store and whole blocks go. */
static int32_t advance(struct work *w, struct span *span) {
  struct kvl_context *c = w->c;
  const size_t before = span->present;
  if (span->limit > span->present) {
    span->present = kvstow_llama_restore(c->cache, span->seq, span->s->tokens, span->limit);
    if (span->present > before) span->restored = span->present - before;
  }
  const size_t align = kvstow_llama_align_tokens(c->cache);
  span->waits = w->room && span->outputs == 0 && span->present < span->end &&
                span->present >= span->end / align * align;
  if (span->waits) return 0;
  int32_t rc = 0;
  if (span->present < span->begin) { /* owed, or a restore failed half-way: whole micro-batches */
    const size_t to = (span->begin + align - 1) / align * align;
    rc = kvl_decode_alone(c, span->seq, &span->present, to <= span->limit ? to : span->begin);
  }
  if (rc != 0 || plain(c)) return rc;
  const size_t block = kvstow_llama_block_tokens(c->cache);
  const size_t last = span->limit < span->end ? span->limit : span->end - 1;
  return kvl_decode_alone(c, span->seq, &span->present, last / block * block);
}

/* ---- decoding the rest ------------------------------------------------------------------------ */

static bool map_reserve(struct kvl_context *c, int32_t count) {
  if (count <= c->map_room) return true;
  int32_t *map = realloc(c->map, (size_t)count * sizeof *map);
  if (map == NULL) return false;
  c->map = map;
  c->map_room = count;
  return true;
}

/* The batch without what is present already or waits. Its arrays are one allocation, *memory. */
static bool filter(struct work *w, struct llama_batch *rest, void **memory) {
  const struct llama_batch *b = &w->batch;
  const size_t n = (size_t)b->n_tokens;
  size_t next[KVL_SEQS];
  struct {
    llama_seq_id **seqs;
    llama_token *tokens;
    llama_pos *pos;
    int32_t *counts;
    int8_t *outputs;
  } a;
  uint8_t *bytes = malloc(n * (sizeof *a.seqs + sizeof *a.tokens + sizeof *a.pos +
                               sizeof *a.counts + sizeof *a.outputs));
  *memory = bytes;
  if (bytes == NULL || !map_reserve(w->c, b->n_tokens)) return false;
  a.seqs = (llama_seq_id **)(void *)bytes;
  a.tokens = (llama_token *)(a.seqs + n);
  a.pos = (llama_pos *)(a.tokens + n);
  a.counts = (int32_t *)(a.pos + n);
  a.outputs = (int8_t *)(a.counts + n);
  for (int k = 0; k < w->spans_count; k++) next[k] = w->spans[k].begin;
  int32_t out = 0;
  for (int32_t i = 0; i < b->n_tokens; i++) {
    const int k = w->span_of[seq_of(b, i)];
    const struct span *span = &w->spans[k];
    const size_t pos = next[k]++;
    w->c->map[i] = -1;
    if (span->known && (pos < span->present || span->waits)) continue;
    if (has_output(b, i)) w->c->map[i] = out;
    a.tokens[out] = b->token[i];
    a.pos[out] = b->pos != NULL ? b->pos[i] : (llama_pos)pos;
    a.counts[out] = 1;
    a.seqs[out] = (llama_seq_id *)&span->seq;
    a.outputs[out] = has_output(b, i);
    out++;
  }
  *rest = (struct llama_batch){.n_tokens = out,
                               .token = a.tokens,
                               .pos = a.pos,
                               .n_seq_id = a.counts,
                               .seq_id = a.seqs,
                               .logits = a.outputs};
  return true;
}

/* The context is as it was before the call, so that the program can go on in any way. Where a sequence
 * can't be cut, it is emptied. What is missing then is owed. */
static void roll_back(const struct work *w, struct span *span) {
  struct kvl_context *c = w->c;
  if (span->present > span->begin && plain(c)) {
    KVL_REAL(llama_memory_seq_rm)(c->memory, span->seq, (llama_pos)span->begin, -1);
    span->present = span->begin;
  } else if (span->present > span->begin) {
    KVL_REAL(llama_memory_seq_rm)(c->memory, span->seq, -1, -1);
    span->present = kvstow_llama_restore(c->cache, span->seq, span->s->tokens, span->begin);
  }
  span->s->owed = span->begin - span->present;
  c->owing = c->owing || span->s->owed > 0;
}

/* Whether a block was offered to the store. */
static bool settle(struct work *w, int32_t rc) {
  bool stored = false;
  for (int k = 0; k < w->spans_count; k++) {
    struct span *span = &w->spans[k];
    struct kvl_seq *s = span->s;
    if (!span->known) {
      kvl_seq_forget(s);
    } else if (rc == 0) {
      if (span->limit - span->begin > 1)
        kvl_count_prompt(span->limit - span->begin, span->restored);
      const size_t block = kvstow_llama_block_tokens(w->c->cache);
      const size_t present = span->waits ? span->present : span->end;
      s->count = span->end;
      s->owed = span->end - present;
      w->c->owing = w->c->owing || s->owed > 0;
      if (present / block > s->committed / block) {
        kvstow_llama_commit(w->c->cache, span->seq, s->tokens, present);
        stored = true;
      }
      s->committed = present;
    } else if (rc == 1 ||
               rc == -1) { /* no room, or not a batch for llama.cpp: nothing was decoded */
      roll_back(w, span);
    } else { /* how far it came is unclear */
      kvl_seq_forget(s);
    }
  }
  return stored;
}

/* Whether pieces of this batch may wait. If not, what is owed is decoded now, while the program expects to
 * hear that there is no room. */
static bool make_room(struct work *w) {
  struct kvl_context *c = w->c;
  bool pieces = kvl_owes(c);
  for (int k = 0; k < w->spans_count; k++) pieces = pieces || w->spans[k].outputs == 0;
  w->room = pieces && !c->samplers && kvl_room(c, (size_t)w->batch.n_tokens);
  return w->room || kvl_pay(c, -1);
}

int32_t kvl_decode(struct kvl_context *c, struct llama_batch batch) {
  kvl_outputs_end(c);
  struct work *w = NULL;
  const bool tokens = batch.token != NULL && batch.embd == NULL && batch.n_tokens > 0 &&
                      c->causal && !c->embeddings && !c->foreign;
  if (tokens) w = calloc(1, sizeof *w);
  if (w != NULL) {
    w->c = c;
    w->batch = batch;
  }
  const bool understood = w != NULL && understand(w);
  if (!(understood ? make_room(w) : kvl_pay(c, -1))) {
    free(w);
    return 1;
  }
  if (!understood || !gather(w)) {
    free(w);
    if (!kvl_pay(c, -1)) return 1;
    const int32_t rc = KVL_REAL(llama_decode)(c->ctx, batch);
    forget_batch(c, &batch);
    return rc;
  }
  int32_t rc = 0;
  bool changed = false, left_out = kvl_owes(c);
  for (int k = 0; k < w->spans_count && rc == 0; k++) {
    struct span *span = &w->spans[k];
    if (!span->known) {
      rc = kvl_pay(c, span->seq) ? 0 : 1;
      continue;
    }
    rc = advance(w, span);
    changed = changed || span->present > span->begin;
    left_out = left_out || changed || span->waits;
  }
  if (rc == 0 && !left_out) {
    rc = KVL_REAL(llama_decode)(c->ctx, batch);
  } else if (rc == 0) {
    struct llama_batch rest;
    void *memory;
    rc = -3; /* no memory: a fatal error, as llama.cpp has it */
    if (filter(w, &rest, &memory)) {
      rc = rest.n_tokens == 0 ? 0 : KVL_REAL(llama_decode)(c->ctx, rest);
      if (rc == 0) c->map_count = batch.n_tokens;
    }
    free(memory);
  }
  changed = settle(w, rc) || changed;
  free(w);
  kvl_metrics_tick(changed);
  return rc;
}
