/* bench_llama.c - what restoring saves, with the adapter alone: no server, no HTTP.
 *
 *   bench_llama ttft MODEL DIR LENGTH[,LENGTH...]   time to the first token after a prefix of so many tokens
 *   bench_llama share MODEL DIR                     bytes of 20 conversations with one system prompt
 *   bench_llama decode MODEL TOKENS                 tokens generated a second (also under kvstow-run)
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

enum { QUESTION = 32, LENGTHS_MAX = 16, ROUNDS = 5 };

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
  b->tokens = malloc(tokens * sizeof *b->tokens);
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
    step = kvstow_llama_step(b->cache, from, step);
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

/* A prefix of `length` restored, a question computed: the time of both. */
static double first_token(struct bench *b, size_t length) {
  wipe(b);
  const double start = now_ms();
  if (kvstow_llama_restore(b->cache, 0, b->tokens, length) != length) die("not restored");
  decode(b, b->tokens, length, QUESTION, true);
  return now_ms() - start;
}

/* ---- ttft ----------------------------------------------------------------------------------- */

static void ttft(struct bench *b, const char *list) {
  size_t lengths[LENGTHS_MAX], count = 0;
  double compute[LENGTHS_MAX], ram[LENGTHS_MAX], ssd[LENGTHS_MAX], question[LENGTHS_MAX];
  for (const char *p = list; *p != '\0' && count < LENGTHS_MAX; p += *p == ',')
    lengths[count++] = strtoul(p, (char **)&p, 10);
  if (count == 0) die("no lengths");
  context_open(b, (uint32_t)(lengths[count - 1] + 2 * QUESTION));
  store_open(b);

  /* One pass through the longest: what each length takes, and what storing adds. */
  double total = 0;
  for (size_t i = 0; i < count; i++) {
    const double start = now_ms();
    prefill(b, i == 0 ? 0 : lengths[i - 1], lengths[i], true);
    total += now_ms() - start;
    compute[i] = total;
    const double asked = now_ms();
    decode(b, b->tokens, lengths[i], QUESTION, true);
    question[i] = now_ms() - asked;
    llama_memory_seq_rm(llama_get_memory(b->ctx), 0, (llama_pos)lengths[i], -1);
  }
  kvstow_llama_stats stored;
  kvstow_llama_get_stats(b->cache, &stored);
  for (size_t i = 0; i < count; i++) {
    double rounds[ROUNDS];
    for (int r = 0; r < ROUNDS; r++) rounds[r] = first_token(b, lengths[i]);
    qsort(rounds, ROUNDS, sizeof *rounds, by_value);
    ram[i] = rounds[ROUNDS / 2];
  }
  const uint32_t block = kvstow_llama_block_tokens(b->cache);
  store_close(b);
  for (size_t i = 0; i < count; i++) { /* each time a new store: nothing is in RAM */
    wipe(b);
    store_open(b);
    ssd[i] = first_token(b, lengths[i]);
    store_close(b);
  }

  const double storing = (double)stored.commit_us / 1e3;
  printf(
      "{\"model\": \"%s\", \"block_tokens\": %u, \"bytes_per_token\": %.0f, "
      "\"storing_share\": %.5f, \"rows\": [\n",
      b->path, block, (double)stored.committed_bytes / (double)stored.committed_tokens,
      storing / (total - storing));
  for (size_t i = 0; i < count; i++) {
    const double recompute = compute[i] * (1 - storing / total) + question[i];
    printf(
        " {\"tokens\": %zu, \"recompute_ms\": %.1f, \"cold_ms\": %.1f, \"ram_ms\": %.1f, "
        "\"ssd_ms\": %.1f, \"question_ms\": %.1f, \"ram_faster\": %.1f, \"ssd_faster\": %.1f}%s\n",
        lengths[i], recompute, compute[i] + question[i], ram[i], ssd[i], question[i],
        recompute / ram[i], recompute / ssd[i], i + 1 < count ? "," : "");
  }
  printf("]}\n");
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

/* ---- decode --------------------------------------------------------------------------------- */

static void generate(struct bench *b, size_t tokens) {
  context_open(b, 4096);
  decode(b, b->tokens, 0, 1, true);
  for (size_t i = 1; i < 65; i++) decode(b, b->tokens, i, 1, true);
  const double start = now_ms();
  for (size_t i = 65; i < 65 + tokens; i++) decode(b, b->tokens, i, 1, true);
  printf("{\"tok_s\": %.2f}\n", (double)tokens * 1e3 / (now_ms() - start));
}

static void silent(enum ggml_log_level level, const char *text, void *user) {
  (void)user;
  if (level >= GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

int main(int argc, char **argv) {
  struct bench b = {0};
  if (argc < 4) {
    fputs("bench_llama ttft MODEL DIR LENGTHS | share MODEL DIR | decode MODEL TOKENS\n", stderr);
    return 2;
  }
  b.path = argv[2];
  b.dir = argv[3];
  llama_log_set(silent, NULL);
  ggml_backend_load_all_from_path(LLAMA_LIB);
  llama_backend_init();
  b.model = llama_model_load_from_file(b.path, llama_model_default_params());
  if (b.model == NULL) die("no model");
  if (strcmp(argv[1], "ttft") == 0 && argc == 5)
    ttft(&b, argv[4]);
  else if (strcmp(argv[1], "share") == 0)
    share(&b);
  else if (strcmp(argv[1], "decode") == 0)
    generate(&b, strtoul(argv[3], NULL, 10));
  else
    die("unknown command");
  llama_batch_free(b.batch);
  free(b.tokens);
  llama_free(b.ctx);
  llama_model_free(b.model);
  return 0;
}
