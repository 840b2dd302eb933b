/* bench_attached.c - what the preloaded library costs a program that generates: two contexts of one
 * model in one process, one made through the library, one behind its back, decode the same tokens
 * in turns.
 *
 *   bench_attached MODEL THREADS TOKENS [LENGTH]
 *
 * The library's objects are linked in: the same code stands at the same place as when it is preloaded.
 * Time and processor time of the process (the store's threads included) are compared piece by
 * piece. What a call costs is also taken directly: the time in the library's llama_decode()
 * less the time in the real one it called. LENGTH tokens are decoded first. Prints JSON.
 *
 * Its options come from the environment, as kvstow-run sets it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "preload.h"

enum { PIECE = 16, TOKENS_MAX = 16384, PIECES_MAX = TOKENS_MAX / PIECE };

static uint64_t clock_ns(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

_Noreturn static void die(const char *what) {
  fprintf(stderr, "bench_attached: %s\n", what);
  exit(1);
}

/* ---- what is compared ----------------------------------------------------------------------- */

struct cost {
  double wall, cpu; /* ns */
};

static struct cost cost_now(void) {
  return (struct cost){.wall = (double)clock_ns(CLOCK_MONOTONIC),
                       .cpu = (double)clock_ns(CLOCK_PROCESS_CPUTIME_ID)};
}

/* ---- two contexts --------------------------------------------------------------------------- */

struct side {
  struct llama_context *ctx;
  bool attached;
};

static __typeof__(&llama_decode) real_decode;
static uint64_t inner_ns; /* in the real llama_decode(), since it was last set to 0 */

static int32_t timed_decode(struct llama_context *ctx, struct llama_batch batch) {
  const uint64_t start = clock_ns(CLOCK_MONOTONIC);
  const int32_t rc = real_decode(ctx, batch);
  inner_ns += clock_ns(CLOCK_MONOTONIC) - start;
  return rc;
}

static void side_decode(const struct side *s, struct llama_batch batch) {
  const int32_t rc =
      s->attached ? llama_decode(s->ctx, batch) : KVL_REAL(llama_decode)(s->ctx, batch);
  if (rc != 0) die("decode failed");
  llama_synchronize(s->ctx);
}

static llama_token token_at(size_t at) {
  return 3 + (llama_token)((at * 2654435761u >> 8) % 250);
}

static void prompt(const struct side *s, size_t length) {
  struct llama_batch b = llama_batch_init(512, 0, 1);
  for (size_t at = 0; at < length; at += (size_t)b.n_tokens) {
    b.n_tokens = (int32_t)(length - at < 512 ? length - at : 512);
    for (int32_t i = 0; i < b.n_tokens; i++) {
      b.token[i] = token_at(at + (size_t)i);
      b.pos[i] = (llama_pos)(at + (size_t)i);
      b.n_seq_id[i] = 1;
      b.seq_id[i][0] = 0;
      b.logits[i] = 0;
    }
    side_decode(s, b);
  }
  llama_batch_free(b);
}

/* What the library added to each call, ns: those that stored nothing, and the sum of all. */
static uint64_t added[TOKENS_MAX];
static size_t added_count;
static double added_total, inner_total;
static uint64_t stored_before;

static uint64_t stored_tokens(const struct side *s) {
  kvstow_llama_stats stats;
  kvstow_llama_get_stats(kvl_context_find(s->ctx)->cache, &stats);
  return stats.committed_tokens;
}

static struct cost generate(const struct side *s, size_t at) {
  llama_seq_id seq = 0, *seqs = &seq;
  int32_t one = 1;
  int8_t output = 1;
  const struct cost start = cost_now();
  for (size_t i = at; i < at + PIECE; i++) {
    llama_token token = token_at(i);
    llama_pos pos = (llama_pos)i;
    struct llama_batch b = {.n_tokens = 1,
                            .token = &token,
                            .pos = &pos,
                            .n_seq_id = &one,
                            .seq_id = &seqs,
                            .logits = &output};
    inner_ns = 0;
    const uint64_t before = clock_ns(CLOCK_MONOTONIC);
    side_decode(s, b);
    const uint64_t all = clock_ns(CLOCK_MONOTONIC) - before;
    if (s->attached) {
      added[added_count++] = all - inner_ns;
      added_total += (double)(all - inner_ns);
      inner_total += (double)inner_ns;
    }
  }
  const struct cost end = cost_now();
  return (struct cost){end.wall - start.wall, end.cpu - start.cpu};
}

/* ---- the report ----------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static int by_ns(const void *a, const void *b) {
  const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

struct ratios { /* attached / alone, one a piece */
  double wall[PIECES_MAX], cpu[PIECES_MAX];
  struct cost attached, alone; /* sums */
  size_t count;
};

static void add(struct ratios *r, const struct cost *attached, const struct cost *alone) {
  r->wall[r->count] = attached->wall / alone->wall;
  r->cpu[r->count] = attached->cpu / alone->cpu;
  r->count++;
  r->attached.wall += attached->wall;
  r->attached.cpu += attached->cpu;
  r->alone.wall += alone->wall;
  r->alone.cpu += alone->cpu;
}

static double slowdown(double *values, size_t count) {
  qsort(values, count, sizeof *values, by_value);
  return count == 0 ? 0 : values[count / 2] - 1;
}

static void print(const char *name, struct ratios *r) {
  printf("\"%s\": {\"pieces\": %zu, \"median\": {\"wall\": %.5f, \"cpu\": %.5f}", name, r->count,
         slowdown(r->wall, r->count), slowdown(r->cpu, r->count));
  if (r->count > 0)
    printf(", \"sum\": {\"wall\": %.5f, \"cpu\": %.5f}", r->attached.wall / r->alone.wall - 1,
           r->attached.cpu / r->alone.cpu - 1);
  printf("}, ");
}

static void silent(enum ggml_log_level level, const char *text, void *user) {
  (void)user;
  if (level >= GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

int main(int argc, char **argv) {
  static struct ratios idle, storing;
  if (argc < 4) {
    fputs("bench_attached MODEL THREADS TOKENS [LENGTH]\n", stderr);
    return 2;
  }
  const size_t tokens = strtoul(argv[3], NULL, 10) / PIECE * PIECE;
  const size_t length = argc > 4 ? strtoul(argv[4], NULL, 10) : 0;
  if (tokens == 0 || tokens > TOKENS_MAX) die("bad number of tokens");
  llama_log_set(silent, NULL);
  ggml_backend_load_all_from_path(LLAMA_LIB);
  llama_backend_init();
  struct llama_model *model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (model == NULL) die("no model");
  struct llama_context_params p = llama_context_default_params();
  p.n_ctx = (uint32_t)(length + tokens);
  p.n_threads = p.n_threads_batch = atoi(argv[2]);
  struct side attached = {llama_init_from_model(model, p), true};
  struct side alone = {KVL_REAL(llama_init_from_model)(model, p), false};
  if (attached.ctx == NULL || alone.ctx == NULL) die("no context");
  real_decode = KVL_REAL(llama_decode);
  kvl_calls.real_llama_decode = timed_decode;
  prompt(&attached, length);
  prompt(&alone, length);
  if (length == 0) { /* attaching is done at the first decode */
    side_decode(&attached, llama_batch_get_one(&(llama_token){3}, 1));
    llama_memory_clear(llama_get_memory(attached.ctx), false);
  }
  if (kvl_context_find(attached.ctx) == NULL || kvl_context_find(attached.ctx)->state != KVL_ON)
    die("not attached");
  for (size_t at = length; at < length + tokens; at += PIECE) {
    struct cost a, b;
    stored_before = stored_tokens(&attached);
    if (at / PIECE % 2 == 0) {
      a = generate(&attached, at);
      b = generate(&alone, at);
    } else {
      b = generate(&alone, at);
      a = generate(&attached, at);
    }
    add(stored_tokens(&attached) > stored_before ? &storing : &idle, &a, &b);
  }
  qsort(added, added_count, sizeof *added, by_ns);
  printf("{\"model\": \"%s\", \"threads\": %s, \"tokens\": %zu, \"token_us\": %.1f, ", argv[1],
         argv[2], tokens, inner_total / (double)tokens / 1e3);
  print("idle", &idle);
  print("storing", &storing);
  printf(
      "\"added_ns\": {\"p50\": %llu, \"p90\": %llu}, \"added_share\": %.6f, "
      "\"stored_tokens\": %llu}\n",
      (unsigned long long)added[added_count / 2], (unsigned long long)added[added_count * 9 / 10],
      added_total / inner_total, (unsigned long long)stored_tokens(&attached));
  llama_free(attached.ctx);
  KVL_REAL(llama_free)(alone.ctx);
  llama_model_free(model);
  return 0;
}
