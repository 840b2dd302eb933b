/* bench_llama.c - what restoring saves, with the adapter alone: no server, no HTTP.
 *
 *   bench_llama ttft MODEL DIR LENGTH ROUNDS   time to the first token after a prefix of so many tokens
 *   bench_llama recompute MODEL LENGTH         the same computed, without a store
 *   bench_llama share MODEL DIR                bytes of 20 conversations with one system prompt
 *
 * Prints JSON. DIR must be empty; what it writes there stays.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kvstow-llama.h"

enum { QUESTION = 32, ROUNDS_MAX = 16 };

struct bench {
  struct llama_model *model;
  struct llama_context *ctx;
  struct llama_context_params params;
  kvstow *store;
  kvstow_llama *cache;
  const char *path, *dir;
  llama_token *tokens;
  struct llama_batch batch;
};

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

_Noreturn static void die(const char *what) {
  fprintf(stderr, "bench_llama: %s\n", what);
  exit(1);
}

static void context_open(struct bench *b, uint32_t tokens) {
  const int32_t vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(b->model));
  uint32_t seed = 1;
  b->params = llama_context_default_params();
  b->params.n_ctx = tokens;
  b->params.n_batch = 512;
  b->params.n_threads = b->params.n_threads_batch = (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
  kvstow_llama_prepare(b->model, &b->params);
  b->ctx = llama_init_from_model(b->model, b->params);
  b->tokens = calloc(tokens, sizeof *b->tokens);
  b->batch = llama_batch_init(512, 0, 1);
  if (b->ctx == NULL || b->tokens == NULL) die("no context");
  for (uint32_t i = 0; i < tokens; i++) {
    seed = seed * 1664525 + 1013904223;
    b->tokens[i] = 3 + (llama_token)((seed >> 8) % (uint32_t)(vocabulary - 3));
  }
}

static void store_open(struct bench *b) {
  char why[KVSTOW_MESSAGE_BYTES] = "";
  kvstow_options o;
  kvstow_options_init(&o);
  o.dirs = &b->dir;
  o.dirs_count = 1;
  o.ram_bytes = 2ull << 30;
  o.ssd_bytes = 4ull << 30;
  o.write_mode = KVSTOW_WRITE_THROUGH;
  o.populate = true;
  kvstow_llama_options a;
  kvstow_llama_options_init(&a);
  a.params = &b->params;
  a.model_path = b->path;
  if (kvstow_open(&o, &b->store, why, sizeof why) != 0 ||
      kvstow_llama_attach(b->store, b->model, b->ctx, &a, &b->cache, why, sizeof why) != 0)
    die(why);
}

static void store_close(struct bench *b) {
  kvstow_llama_detach(b->cache);
  if (kvstow_close(b->store) != 0) die("close failed");
}

static void decode(struct bench *b, const llama_token *tokens, size_t at, size_t count,
                   bool answer) {
  b->batch.n_tokens = (int32_t)count;
  for (size_t i = 0; i < count; i++) {
    b->batch.token[i] = tokens[at + i];
    b->batch.pos[i] = (llama_pos)(at + i);
    b->batch.n_seq_id[i] = 1;
    b->batch.seq_id[i][0] = 0;
    b->batch.logits[i] = answer && i + 1 == count;
  }
  if (llama_decode(b->ctx, b->batch) != 0) die("decode failed");
  llama_synchronize(b->ctx);
  if (answer && llama_get_logits_ith(b->ctx, -1) == NULL) die("no logits");
}

/* Tokens [from, to) and, if asked for, the blocks of what is there. */
static void prefill(struct bench *b, size_t from, size_t to, bool keep) {
  while (from < to) {
    size_t step = to - from < 512 ? to - from : 512;
    if (keep) step = kvstow_llama_step(b->cache, from, step);
    decode(b, b->tokens, from, step, false);
    from += step;
    if (keep) kvstow_llama_commit(b->cache, 0, b->tokens, from);
  }
}

static void wipe(struct bench *b) {
  llama_memory_clear(llama_get_memory(b->ctx), false);
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *values, int count) {
  qsort(values, (size_t)count, sizeof *values, by_value);
  return values[count / 2];
}

/* ---- ttft ----------------------------------------------------------------------------------- */

struct times { /* ms, one a round */
  double compute[ROUNDS_MAX], cold[ROUNDS_MAX], ram[ROUNDS_MAX], ssd[ROUNDS_MAX];
  double ram_restore[ROUNDS_MAX], ssd_restore[ROUNDS_MAX], question[ROUNDS_MAX];
  double ram_faster[ROUNDS_MAX], ssd_faster[ROUNDS_MAX];
};

static double question(struct bench *b, size_t length) {
  const double start = now_ms();
  decode(b, b->tokens, length, QUESTION, true);
  return now_ms() - start;
}

/* A prefix of `length` computed, and stored if `keep`; then a question: the time of all. */
static double computed(struct bench *b, size_t length, bool keep, double *asked) {
  wipe(b);
  const double start = now_ms();
  prefill(b, 0, length, keep);
  *asked = question(b, length);
  return now_ms() - start;
}

static double restored(struct bench *b, size_t length, double *restore) {
  wipe(b);
  const double start = now_ms();
  if (kvstow_llama_restore(b->cache, 0, b->tokens, length) != length) die("not restored");
  *restore = now_ms() - start;
  return *restore + question(b, length);
}

static double storing_ms(const struct bench *b) {
  kvstow_llama_stats stats;
  kvstow_llama_get_stats(b->cache, &stats);
  return (double)stats.commit_us / 1e3;
}

/* Cold, from RAM, from SSD. Every round stores under a salt of its own and ends with a new store on the
 * same directory, whose RAM is empty. What is called computing is the cold run without its storing. */
static void ttft_round(struct bench *b, size_t length, int r, struct times *t) {
  kvstow_llama_set_salt(b->cache, &r, sizeof r);
  const double stored = storing_ms(b);
  t->cold[r] = computed(b, length, true, &t->question[r]);
  t->compute[r] = t->cold[r] - (storing_ms(b) - stored);
  t->ram[r] = restored(b, length, &t->ram_restore[r]);
  store_close(b);
  wipe(b);
  store_open(b);
  kvstow_llama_set_salt(b->cache, &r, sizeof r);
  t->ssd[r] = restored(b, length, &t->ssd_restore[r]);
  t->ram_faster[r] = t->compute[r] / t->ram[r];
  t->ssd_faster[r] = t->compute[r] / t->ssd[r];
}

static void ttft(struct bench *b, size_t length, int rounds) {
  static struct times t;
  if (length == 0 || rounds < 1 || rounds > ROUNDS_MAX) die("bad length or rounds");
  context_open(b, (uint32_t)(length + 2 * QUESTION));
  store_open(b);
  prefill(b, 0, QUESTION, false); /* weights and buffers are touched */
  for (int r = 0; r < rounds; r++) ttft_round(b, length, r, &t);
  kvstow_llama_stats stats;
  kvstow_llama_get_stats(b->cache, &stats);
  const struct {
    const char *name;
    double *values;
  } rows[] = {{"compute_ms", t.compute},
              {"cold_ms", t.cold},
              {"ram_ms", t.ram},
              {"ssd_ms", t.ssd},
              {"question_ms", t.question},
              {"ram_restore_ms", t.ram_restore},
              {"ssd_restore_ms", t.ssd_restore},
              {"ram_faster", t.ram_faster},
              {"ssd_faster", t.ssd_faster}};
  printf(
      "{\"model\": \"%s\", \"tokens\": %zu, \"rounds\": %d, \"block_tokens\": %u, "
      "\"bytes_per_token\": %.0f",
      b->path, length, rounds, kvstow_llama_block_tokens(b->cache),
      (double)stats.restored_bytes / (double)stats.restored_tokens);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    printf(", \"%s\": %.2f", rows[i].name, median(rows[i].values, rounds));
  printf("}\n");
  store_close(b);
}

/* The same without a store. */
static void recompute(struct bench *b, size_t length) {
  double unused;
  context_open(b, (uint32_t)(length + 2 * QUESTION));
  /* main frees the tokens. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
  for (size_t at = 0; at < 2; at++) decode(b, b->tokens, at * QUESTION, QUESTION, false);
  wipe(b);
  printf("{\"model\": \"%s\", \"tokens\": %zu, \"recompute_ms\": %.2f}\n", b->path, length,
         computed(b, length, false, &unused));
}

/* ---- share ---------------------------------------------------------------------------------- */

static uint64_t file_bytes(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

/* Conversations of 1,024 common and 512 own tokens; what llama-server's slot files of them take (it saves
 * with this function), and what the store's records take. */
static void share(struct bench *b) {
  enum { CONVERSATIONS = 20, COMMON = 1024, OWN = 512 };
  uint64_t files = 0;
  char path[4096];
  context_open(b, 2048);
  store_open(b);
  snprintf(path, sizeof path, "%s/slot.bin", b->dir);
  for (int i = 0; i < CONVERSATIONS; i++) {
    for (int t = 0; t < OWN; t++) b->tokens[COMMON + t] = 3 + (i * 7 + t * 13) % 250;
    wipe(b);
    const size_t have = kvstow_llama_restore(b->cache, 0, b->tokens, COMMON + OWN - 1);
    prefill(b, have, COMMON + OWN, true);
    if (llama_state_seq_save_file(b->ctx, path, 0, b->tokens, COMMON + OWN) == 0) die("slot file");
    files += file_bytes(path);
    unlink(path);
  }
  kvstow_flush(b->store);
  kvstow_stats stats = {.size = sizeof stats};
  kvstow_get_stats(b->store, &stats);
  printf(
      "{\"conversations\": %d, \"common_tokens\": %d, \"own_tokens\": %d, \"block_tokens\": %u, "
      "\"slot_files_bytes\": %llu, \"kvstow_bytes\": %llu, \"share\": %.3f}\n",
      CONVERSATIONS, COMMON, OWN, kvstow_llama_block_tokens(b->cache), (unsigned long long)files,
      (unsigned long long)stats.tier.bytes_written,
      (double)stats.tier.bytes_written / (double)files);
  store_close(b);
}

static void silent(enum ggml_log_level level, const char *text, void *user) {
  (void)user;
  if (level >= GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

int main(int argc, char **argv) {
  struct bench b = {0};
  if (argc < 4) {
    fputs("bench_llama ttft MODEL DIR LENGTH ROUNDS | recompute MODEL LENGTH | share MODEL DIR\n",
          stderr);
    return 2;
  }
  b.path = argv[2];
  b.dir = argv[3];
  llama_log_set(silent, NULL);
  ggml_backend_load_all_from_path(LLAMA_LIB);
  llama_backend_init();
  b.model = llama_model_load_from_file(b.path, llama_model_default_params());
  if (b.model == NULL) die("no model");
  if (strcmp(argv[1], "ttft") == 0 && argc == 6)
    ttft(&b, strtoul(argv[4], NULL, 10), atoi(argv[5]));
  else if (strcmp(argv[1], "recompute") == 0)
    recompute(&b, strtoul(argv[3], NULL, 10));
  else if (strcmp(argv[1], "share") == 0)
    share(&b);
  else
    die("unknown command");
  llama_batch_free(b.batch);
  free(b.tokens);
  llama_free(b.ctx);
  llama_model_free(b.model);
  return 0;
}
