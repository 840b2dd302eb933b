/* preload_track.c - which tokens each sequence of each context holds.
 *
 * A sequence is known from its first token on or not at all. Decoding appends, removing truncates,
 * anything else makes it unknown until it is empty again.
 *
 * Threads: contexts and models come and go under a lock; what is inside a context belongs to the thread
 * that uses the context, as in llama.cpp itself.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "preload.h"

enum { MODELS = 64, LORAS = 256, STATES = 64 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- contexts ------------------------------------------------------------------------------- */

static _Atomic(struct kvl_context *) contexts[KVL_CONTEXTS];

struct kvl_context *kvl_context_find(const struct llama_context *ctx) {
  for (int i = 0; i < KVL_CONTEXTS; i++) {
    struct kvl_context *c = atomic_load_explicit(&contexts[i], memory_order_acquire);
    if (c != NULL && c->ctx == ctx) return c;
  }
  return NULL;
}

struct kvl_context *kvl_context_of_memory(llama_memory_t memory) {
  for (int i = 0; i < KVL_CONTEXTS; i++) {
    struct kvl_context *c = atomic_load_explicit(&contexts[i], memory_order_acquire);
    if (c != NULL && c->memory == memory) return c;
  }
  return NULL;
}

void kvl_contexts(void (*each)(struct kvl_context *c, void *arg), void *arg) {
  pthread_mutex_lock(&lock);
  for (int i = 0; i < KVL_CONTEXTS; i++) {
    struct kvl_context *c = atomic_load_explicit(&contexts[i], memory_order_acquire);
    if (c != NULL) each(c, arg);
  }
  pthread_mutex_unlock(&lock);
}

struct kvl_context *kvl_context_add(struct llama_context *ctx, const struct llama_model *model,
                                    const struct llama_context_params *params) {
  struct kvl_context *c = calloc(1, sizeof *c);
  if (c == NULL) return NULL;
  c->ctx = ctx;
  c->memory = KVL_REAL(llama_get_memory)(ctx);
  c->model = model;
  c->params = *params;
  c->causal = params->attention_type != LLAMA_ATTENTION_TYPE_NON_CAUSAL;
  c->embeddings = params->embeddings;
  c->samplers = params->samplers != NULL;
  pthread_mutex_lock(&lock);
  int i = 0;
  while (i < KVL_CONTEXTS && atomic_load(&contexts[i]) != NULL) i++;
  if (i < KVL_CONTEXTS) atomic_store_explicit(&contexts[i], c, memory_order_release);
  pthread_mutex_unlock(&lock);
  if (i < KVL_CONTEXTS) return c;
  free(c);
  return NULL;
}

void kvl_context_remove(struct llama_context *ctx) {
  pthread_mutex_lock(&lock);
  struct kvl_context *c = kvl_context_find(ctx);
  for (int i = 0; i < KVL_CONTEXTS && c != NULL; i++)
    if (atomic_load(&contexts[i]) == c) atomic_store(&contexts[i], NULL);
  pthread_mutex_unlock(&lock);
  if (c == NULL) return;
  if (c->cache != NULL) kvl_count_context(c->cache);
  kvstow_llama_detach(c->cache);
  for (int i = 0; i < KVL_SEQS; i++) free(c->seqs[i].tokens);
  free(c->map);
  kvl_outputs_end(c);
  free(c);
}

/* ---- models and adapters ---------------------------------------------------------------------- */

static struct {
  const struct llama_model *model;
  char path[4096], identity[256];
} models[MODELS];

static struct {
  const struct llama_adapter_lora *lora;
  uint64_t digest;
} loras[LORAS];

void kvl_model_add(const struct llama_model *model, const char *path, const char *identity) {
  pthread_mutex_lock(&lock);
  for (int i = 0; i < MODELS; i++)
    if (models[i].model == NULL) {
      models[i].model = model;
      snprintf(models[i].path, sizeof models[i].path, "%s", path);
      snprintf(models[i].identity, sizeof models[i].identity, "%s", identity);
      break;
    }
  pthread_mutex_unlock(&lock);
}

bool kvl_model_find(const struct llama_model *model, char *path, size_t path_bytes, char *identity,
                    size_t identity_bytes) {
  bool found = false;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < MODELS && !found; i++)
    if (models[i].model == model) {
      snprintf(path, path_bytes, "%s", models[i].path);
      snprintf(identity, identity_bytes, "%s", models[i].identity);
      found = true;
    }
  pthread_mutex_unlock(&lock);
  return found;
}

void kvl_model_remove(const struct llama_model *model) {
  pthread_mutex_lock(&lock);
  for (int i = 0; i < MODELS; i++)
    if (models[i].model == model) models[i].model = NULL;
  pthread_mutex_unlock(&lock);
}

/* All of a file: adapters are small, and two of one shape differ in their weights alone. */
static uint64_t file_digest(const char *path) {
  uint64_t digest = 0;
  struct stat st;
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0) {
    void *bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes != MAP_FAILED) {
      digest = kvstow_checksum(bytes, (size_t)st.st_size) | 1;
      munmap(bytes, (size_t)st.st_size);
    }
  }
  if (fd >= 0) close(fd);
  return digest;
}

void kvl_lora_add(const struct llama_adapter_lora *lora, const char *path) {
  const uint64_t digest = file_digest(path);
  pthread_mutex_lock(&lock);
  int at = 0;
  while (at < LORAS - 1 && loras[at].lora != NULL && loras[at].lora != lora) at++;
  loras[at].lora = lora; /* an address used again is another adapter */
  loras[at].digest = digest;
  pthread_mutex_unlock(&lock);
}

uint64_t kvl_lora_digest(const struct llama_adapter_lora *lora) {
  uint64_t digest = 0;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < LORAS; i++)
    if (loras[i].lora == lora) digest = loras[i].digest;
  pthread_mutex_unlock(&lock);
  return digest;
}

/* ---- sequences ------------------------------------------------------------------------------ */

struct kvl_seq *kvl_seq(struct kvl_context *c, llama_seq_id seq) {
  return seq >= 0 && seq < KVL_SEQS ? &c->seqs[seq] : NULL;
}

void kvl_seq_forget(struct kvl_seq *s) {
  s->count = s->owed = s->committed = 0;
}

bool kvl_seq_write(struct kvl_seq *s, size_t at, const llama_token *tokens, size_t count) {
  if (at + count > s->room) {
    const size_t room = (at + count) * 2;
    llama_token *grown = realloc(s->tokens, room * sizeof *grown);
    if (grown == NULL) return false;
    s->tokens = grown;
    s->room = room;
  }
  memcpy(s->tokens + at, tokens, count * sizeof *tokens);
  return true;
}

void kvl_seq_truncate(struct kvl_seq *s, size_t count) {
  const size_t present = s->count - s->owed;
  if (s->count > count) s->count = count;
  s->owed = s->count > present ? s->count - present : 0;
  if (s->committed > s->count) s->committed = s->count;
}

/* ---- saved states --------------------------------------------------------------------------- */

/* Servers save and load states themselves. One that was seen when it was saved is known by its digest. */
static struct {
  uint64_t digest;
  size_t bytes;
  llama_token *tokens;
  size_t count;
} states[STATES];
static int states_next;

void kvl_state_saved(const struct kvl_seq *s, const void *state, size_t bytes) {
  if (s->count == 0 || bytes == 0) return;
  llama_token *tokens = malloc(s->count * sizeof *tokens);
  if (tokens == NULL) return;
  memcpy(tokens, s->tokens, s->count * sizeof *tokens);
  const uint64_t digest = kvstow_checksum(state, bytes);
  pthread_mutex_lock(&lock);
  free(states[states_next].tokens);
  states[states_next].digest = digest;
  states[states_next].bytes = bytes;
  states[states_next].tokens = tokens;
  states[states_next].count = s->count;
  states_next = (states_next + 1) % STATES;
  pthread_mutex_unlock(&lock);
}

/* A whole state replaces the sequence. A partial one (a window, a recurrent state) goes back to an earlier
 * point of what the sequence holds: of the same tokens, or it is not known any more. */
void kvl_state_loaded(struct kvl_seq *s, const void *state, size_t bytes, bool partial) {
  const uint64_t digest = kvstow_checksum(state, bytes);
  bool known = false;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < STATES && !known; i++) {
    if (states[i].tokens == NULL || states[i].digest != digest || states[i].bytes != bytes)
      continue;
    const size_t count = states[i].count;
    if (partial)
      known =
          s->count >= count && memcmp(s->tokens, states[i].tokens, count * sizeof *s->tokens) == 0;
    else
      known = kvl_seq_write(s, 0, states[i].tokens, count);
    if (known) {
      s->count = count;
      s->owed = s->committed = 0;
    }
  }
  pthread_mutex_unlock(&lock);
  if (!known) kvl_seq_forget(s);
}
