/* The adapter against a real libllama: what is restored gives, bit for bit, the logits of a recompute with
 * the same splits; whatever does not fit is a miss.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "kvstow-llama.h"

enum { UBATCH = 64, TOKENS = 400, CONTEXT = 1024, VOCABULARY = 259, ANSWER = 8 };

static char directory[64];

/* Stands before the library's own: the version a test pretends. */
static const char *pretended_version;
const char *llama_version(void) {
  if (pretended_version != NULL) return pretended_version;
  const char *(*real)(void);
  *(void **)&real = dlsym(RTLD_NEXT, "llama_version");
  return real();
}

/* ---- a store and a model -------------------------------------------------------------------- */

struct host {
  kvstow *store;
  struct llama_model *model;
  struct llama_context *ctx;
  kvstow_llama *cache;
  struct llama_context_params params;
};

struct setup { /* how a test's context differs from the usual */
  const char *model;
  const enum ggml_type *kv; /* types of K and V; NULL: f16 */
  enum llama_flash_attn_type flash;
  uint32_t sequences, context;
  uint64_t ram_bytes, ssd_bytes;
  bool swa_full;
  const char *identity;
};

static kvstow *open_store(const struct setup *s) {
  kvstow_options o;
  kvstow_options_init(&o);
  const char *dir = directory;
  char why[KVSTOW_MESSAGE_BYTES];
  kvstow *store = NULL;
  o.dirs = &dir;
  o.dirs_count = 1;
  o.ram_bytes = s->ram_bytes != 0 ? s->ram_bytes : 32 << 20;
  o.ssd_bytes = s->ssd_bytes != 0 ? s->ssd_bytes : 64 << 20;
  o.segment_bytes = 1 << 20;
  o.write_mode = KVSTOW_WRITE_THROUGH;
  if (kvstow_open(&o, &store, why, sizeof why) != 0) fail_msg("%s", why);
  return store;
}

static int host_try(struct host *h, const struct setup *s, char *why) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s.gguf", MODELS, s->model);
  *h = (struct host){.store = open_store(s)};
  struct llama_model_params mp = llama_model_default_params();
  mp.n_gpu_layers = 0;
  h->model = llama_model_load_from_file(path, mp);
  assert_non_null(h->model);
  struct llama_context_params *p = &h->params;
  *p = llama_context_default_params();
  p->n_ctx = s->context != 0 ? s->context : CONTEXT;
  p->n_batch = 512;
  p->n_ubatch = UBATCH;
  p->n_seq_max = s->sequences != 0 ? s->sequences : 1;
  p->kv_unified = true;
  p->n_threads = p->n_threads_batch = 1;
  p->type_k = s->kv != NULL ? s->kv[0] : GGML_TYPE_F16;
  p->type_v = s->kv != NULL ? s->kv[1] : GGML_TYPE_F16;
  p->flash_attn_type = s->flash;
  p->swa_full = s->swa_full;
  kvstow_llama_prepare(h->model, p);
  h->ctx = llama_init_from_model(h->model, *p);
  assert_non_null(h->ctx);
  kvstow_llama_options o;
  kvstow_llama_options_init(&o);
  o.params = p;
  o.model_path = path;
  o.identity = s->identity;
  o.identity_bytes = s->identity == NULL ? 0 : strlen(s->identity);
  return kvstow_llama_attach(h->store, h->model, h->ctx, &o, &h->cache, why, KVSTOW_MESSAGE_BYTES);
}

static void host_open(struct host *h, const struct setup *s) {
  char why[KVSTOW_MESSAGE_BYTES] = "";
  if (host_try(h, s, why) != 0) fail_msg("%s: %s", s->model, why);
}

static void host_close(struct host *h) {
  kvstow_llama_detach(h->cache);
  llama_free(h->ctx);
  llama_model_free(h->model);
  const int rc = kvstow_close(h->store);
  assert_true(rc == 0 || rc == KVSTOW_ENOSPC); /* the budget may leave some out */
}

static void wipe_store(void) {
  DIR *d = opendir(directory);
  if (d == NULL) return;
  for (struct dirent *e; (e = readdir(d)) != NULL;)
    if (e->d_name[0] != '.') unlinkat(dirfd(d), e->d_name, 0);
  closedir(d);
}

static int fresh(void **state) {
  (void)state;
  wipe_store();
  return 0;
}

/* ---- running a prompt ----------------------------------------------------------------------- */

static void make_prompt(llama_token *tokens, size_t count, uint32_t seed) {
  for (size_t i = 0; i < count; i++) {
    seed = seed * 1664525 + 1013904223;
    tokens[i] = 3 + (llama_token)(seed >> 16) % 256;
  }
}

static void decode(struct host *h, llama_seq_id seq, const llama_token *tokens, size_t from,
                   size_t count, bool last) {
  struct llama_batch b = llama_batch_init((int32_t)count, 0, 1);
  b.n_tokens = (int32_t)count;
  for (size_t i = 0; i < count; i++) {
    b.token[i] = tokens[from + i];
    b.pos[i] = (llama_pos)(from + i);
    b.n_seq_id[i] = 1;
    b.seq_id[i][0] = seq;
    b.logits[i] = last && i + 1 == count;
  }
  assert_int_equal(llama_decode(h->ctx, b), 0);
  llama_batch_free(b);
}

/* What a prompt leads to: the logits after it and after each of a few tokens chosen greedily. */
struct answer {
  float logits[ANSWER][VOCABULARY];
};

static void read_logits(struct host *h, struct answer *a, int i) {
  memcpy(a->logits[i], llama_get_logits_ith(h->ctx, -1), sizeof a->logits[i]);
}

static llama_token greedy(const struct answer *a, int i) {
  llama_token best = 0;
  for (llama_token t = 1; t < VOCABULARY; t++)
    if (a->logits[i][t] > a->logits[i][best]) best = t;
  return best;
}

/* Restores what is stored if `cached`, decodes the rest in micro-batches, commits, and answers. Returns
 * the tokens restored. */
static size_t run(struct host *h, llama_seq_id seq, const llama_token *prompt, size_t count,
                  bool cached, struct answer *a) {
  llama_token tokens[CONTEXT];
  size_t n = 0;
  memcpy(tokens, prompt, count * sizeof *tokens);
  llama_memory_seq_rm(llama_get_memory(h->ctx), seq, -1, -1);
  if (cached) n = kvstow_llama_restore(h->cache, seq, tokens, count - 1);
  const size_t restored = n;
  assert_int_equal(llama_memory_seq_pos_max(llama_get_memory(h->ctx), seq) + 1, n);
  while (n < count) {
    size_t step = UBATCH - n % UBATCH;
    if (step > count - n) step = count - n;
    step = kvstow_llama_step(h->cache, n, step);
    decode(h, seq, tokens, n, step, n + step == count);
    n += step;
    if (cached) kvstow_llama_commit(h->cache, seq, tokens, n);
  }
  read_logits(h, a, 0);
  for (int i = 1; i < ANSWER; i++, n++) {
    tokens[n] = greedy(a, i - 1);
    decode(h, seq, tokens, n, 1, true);
    read_logits(h, a, i);
  }
  return restored;
}

static uint32_t bits(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return u;
}

static void assert_same(const struct answer *a, const struct answer *b) {
  for (int i = 0; i < ANSWER; i++)
    for (int t = 0; t < VOCABULARY; t++)
      if (bits(a->logits[i][t]) != bits(b->logits[i][t]))
        fail_msg("logit %d after %d tokens: %g, recomputed %g", t, i, (double)b->logits[i][t],
                 (double)a->logits[i][t]);
}

/* ---- tests ---------------------------------------------------------------------------------- */

static const size_t whole_blocks = (TOKENS - 1) / UBATCH * UBATCH;

/* Cold, from RAM in the same process, from SSD in the next one, and after a divergence inside a block. */
static void restores_bit_exactly(const struct setup *s) {
  static struct answer plain, cached, diverged;
  llama_token prompt[TOKENS], other[TOKENS];
  struct host h;
  print_message("%s k %s v %s flash %d, %u sequences%s\n", s->model,
                ggml_type_name(s->kv != NULL ? s->kv[0] : GGML_TYPE_F16),
                ggml_type_name(s->kv != NULL ? s->kv[1] : GGML_TYPE_F16), s->flash,
                s->sequences ? s->sequences : 1, s->swa_full ? ", full window" : "");
  wipe_store();
  make_prompt(prompt, TOKENS, 1);
  memcpy(other, prompt, sizeof other);
  make_prompt(other + 3 * UBATCH + 11, TOKENS - 3 * UBATCH - 11, 2);

  host_open(&h, s);
  assert_int_equal(kvstow_llama_block_tokens(h.cache), UBATCH);
  run(&h, 0, prompt, TOKENS, false, &plain);
  run(&h, 0, other, TOKENS, false, &diverged);
  assert_int_equal(run(&h, 0, prompt, TOKENS, true, &cached), 0);
  assert_same(&plain, &cached);
  assert_int_equal(run(&h, 0, prompt, TOKENS, true, &cached), whole_blocks);
  assert_same(&plain, &cached);
  kvstow_llama_stats stats;
  kvstow_llama_get_stats(h.cache, &stats);
  assert_int_equal(stats.refused, 0);
  assert_int_equal(stats.failed, 0);
  assert_int_equal(stats.committed_tokens, whole_blocks);
  host_close(&h);

  host_open(&h, s); /* RAM is gone */
  assert_int_equal(run(&h, 0, prompt, TOKENS, true, &cached), whole_blocks);
  assert_same(&plain, &cached);
  assert_int_equal(run(&h, 0, other, TOKENS, true, &cached), 3 * UBATCH);
  assert_same(&diverged, &cached);
  kvstow_llama_get_stats(h.cache, &stats);
  assert_int_equal(stats.failed, 0);
  host_close(&h);
}

static void every_architecture_restores_bit_exactly(void **state) {
  (void)state;
  static const char *const models[] = {"llama", "swa", "hybrid", "mamba"};
  for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
    struct setup s = {.model = models[i], .flash = LLAMA_FLASH_ATTN_TYPE_AUTO};
    restores_bit_exactly(&s);
    s.sequences = 4;
    restores_bit_exactly(&s);
    s.flash = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    restores_bit_exactly(&s);
  }
  restores_bit_exactly(&(struct setup){.model = "swa", .swa_full = true});
}

/* K and V alike with flash attention, which quantized V needs; K alone without. */
static void every_kv_type_restores_bit_exactly(void **state) {
  (void)state;
  static const char *const models[] = {"llama", "swa", "hybrid"};
  static const enum ggml_type types[] = {GGML_TYPE_F32, GGML_TYPE_BF16, GGML_TYPE_Q8_0,
                                         GGML_TYPE_Q4_0};
  for (size_t i = 0; i < sizeof models / sizeof *models; i++)
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
      const enum ggml_type both[] = {types[t], types[t]}, k_only[] = {types[t], GGML_TYPE_F16};
      restores_bit_exactly(
          &(struct setup){.model = models[i], .kv = both, .flash = LLAMA_FLASH_ATTN_TYPE_ENABLED});
      restores_bit_exactly(&(struct setup){.model = models[i],
                                           .kv = k_only,
                                           .flash = LLAMA_FLASH_ATTN_TYPE_DISABLED,
                                           .sequences = 2});
    }
}

/* A sequence that already holds part of the prompt, ending inside a block, is extended. */
static void extends_what_a_sequence_holds(void **state) {
  (void)state;
  static const char *const models[] = {"llama", "swa", "hybrid", "mamba"};
  static struct answer plain, cached;
  llama_token prompt[TOKENS];
  make_prompt(prompt, TOKENS, 1);
  for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
    struct host h;
    wipe_store();
    host_open(&h, &(struct setup){.model = models[i], .sequences = 2});
    run(&h, 0, prompt, TOKENS, true, &plain);
    llama_memory_seq_rm(llama_get_memory(h.ctx), 0, -1, -1);
    decode(&h, 1, prompt, 0, 50, false);
    decode(&h, 1, prompt, 50, 50, false);
    assert_int_equal(kvstow_llama_restore(h.cache, 1, prompt, TOKENS - 1), whole_blocks);
    decode(&h, 1, prompt, whole_blocks, TOKENS - whole_blocks, true);
    read_logits(&h, &cached, 0);
    assert_memory_equal(cached.logits[0], plain.logits[0], sizeof cached.logits[0]);
    host_close(&h);
  }
}

static void expect_miss(const struct setup *s, const char *what) {
  static struct answer a;
  llama_token prompt[TOKENS];
  struct host h;
  make_prompt(prompt, TOKENS, 1);
  host_open(&h, s);
  if (run(&h, 0, prompt, TOKENS, true, &a) != 0) fail_msg("%s: a hit", what);
  host_close(&h);
}

static void whatever_differs_is_a_miss(void **state) {
  (void)state;
  static struct answer a;
  llama_token prompt[TOKENS];
  struct host h;
  const struct setup usual = {.model = "llama"};
  make_prompt(prompt, TOKENS, 1);
  host_open(&h, &usual);
  run(&h, 0, prompt, TOKENS, true, &a);
  host_close(&h);

  expect_miss(&(struct setup){.model = "other"}, "another model");
  expect_miss(&(struct setup){.model = "llama", .context = 2 * CONTEXT}, "another context size");
  const enum ggml_type quantized[] = {GGML_TYPE_Q8_0, GGML_TYPE_F16};
  expect_miss(&(struct setup){.model = "llama", .kv = quantized}, "another KV type");
  expect_miss(&(struct setup){.model = "llama", .flash = LLAMA_FLASH_ATTN_TYPE_ENABLED},
              "another attention");
  expect_miss(&(struct setup){.model = "llama", .identity = "x"}, "another identity");
  setenv("LLAMA_ATTN_ROT_DISABLE", "1", 1);
  expect_miss(&usual, "another environment");
  unsetenv("LLAMA_ATTN_ROT_DISABLE");
  pretended_version = "0.4.99";
  expect_miss(&usual, "another version");
  pretended_version = NULL;

  host_open(&h, &usual);
  assert_non_null(strstr(kvstow_llama_fingerprint(h.cache), llama_version()));
  assert_non_null(strstr(kvstow_llama_fingerprint(h.cache), ggml_commit()));
  assert_int_equal(run(&h, 0, prompt, TOKENS, true, &a), whole_blocks);
  host_close(&h);
}

static void another_lora_is_a_miss(void **state) {
  (void)state;
  static struct answer plain, a;
  llama_token prompt[TOKENS];
  struct host h;
  make_prompt(prompt, TOKENS, 1);
  host_open(&h, &(struct setup){.model = "llama"});
  struct llama_adapter_lora *lora = llama_adapter_lora_init(h.model, MODELS "/lora.gguf");
  assert_non_null(lora);
  float scale = 1;
  run(&h, 0, prompt, TOKENS, true, &a);
  assert_int_equal(llama_set_adapters_lora(h.ctx, &lora, 1, &scale), 0);
  kvstow_llama_set_salt(h.cache, "lora 1", 6);
  run(&h, 0, prompt, TOKENS, false, &plain);
  assert_memory_not_equal(plain.logits, a.logits, sizeof plain.logits);
  assert_int_equal(run(&h, 0, prompt, TOKENS, true, &a), 0);
  assert_same(&plain, &a);
  assert_int_equal(run(&h, 0, prompt, TOKENS, true, &a), whole_blocks);
  assert_same(&plain, &a);
  assert_int_equal(llama_set_adapters_lora(h.ctx, NULL, 0, NULL), 0);
  kvstow_llama_set_salt(h.cache, NULL, 0);
  assert_int_equal(run(&h, 0, prompt, TOKENS, true, &a), whole_blocks);
  host_close(&h);
}

/* Flips one byte of every 4 KiB in all segments. */
static void corrupt_store(void) {
  DIR *d = opendir(directory);
  assert_non_null(d);
  for (struct dirent *e; (e = readdir(d)) != NULL;) {
    if (strncmp(e->d_name, "seg-", 4) != 0) continue;
    const int fd = openat(dirfd(d), e->d_name, O_RDWR);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    for (off_t at = 8192; at < st.st_size - 65536; at += 4096) {
      uint8_t byte;
      assert_int_equal(pread(fd, &byte, 1, at + 2000), 1);
      byte ^= 0x10;
      assert_int_equal(pwrite(fd, &byte, 1, at + 2000), 1);
    }
    close(fd);
  }
  closedir(d);
}

static void a_corrupted_store_misses(void **state) {
  (void)state;
  static const char *const models[] = {"llama", "swa", "hybrid", "mamba"};
  static struct answer plain, a;
  llama_token prompt[TOKENS];
  make_prompt(prompt, TOKENS, 1);
  for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
    struct host h;
    wipe_store();
    host_open(&h, &(struct setup){.model = models[i]});
    run(&h, 0, prompt, TOKENS, true, &plain);
    host_close(&h);
    corrupt_store();
    host_open(&h, &(struct setup){.model = models[i]});
    const size_t restored = run(&h, 0, prompt, TOKENS, true, &a);
    assert_int_equal(restored, 0);
    assert_same(&plain, &a);
    host_close(&h);
  }
}

/* Many prompts through a small store: budgets hold, answers stay right. */
static void budgets_are_held(void **state) {
  (void)state;
  enum { PROMPTS = 24 };
  static struct answer plain[PROMPTS], a;
  llama_token prompt[TOKENS];
  struct host h;
  const struct setup s = {.model = "llama", .ram_bytes = 8 << 20, .ssd_bytes = 4 << 20};
  host_open(&h, &s);
  for (uint32_t p = 0; p < PROMPTS; p++) {
    make_prompt(prompt, TOKENS, p);
    run(&h, 0, prompt, TOKENS, false, &plain[p]);
  }
  size_t restored = 0;
  for (uint32_t p = 0; p < 2 * PROMPTS; p++) {
    make_prompt(prompt, TOKENS, p % PROMPTS);
    restored += run(&h, 0, prompt, TOKENS, true, &a);
    assert_same(&plain[p % PROMPTS], &a);
    kvstow_stats stats = {.size = sizeof stats};
    kvstow_get_stats(h.store, &stats);
    assert_true(stats.tier.disk_bytes <= s.ssd_bytes);
    assert_true(stats.ram_used_bytes <= s.ram_bytes);
  }
  assert_true(restored > 0);
  host_close(&h);
}

static void separate_buffers_are_refused(void **state) {
  (void)state;
  struct host h = {.store = open_store(&(struct setup){0})};
  char why[KVSTOW_MESSAGE_BYTES];
  h.model = llama_model_load_from_file(MODELS "/llama.gguf", llama_model_default_params());
  h.params = llama_context_default_params();
  h.params.n_ctx = CONTEXT;
  h.params.n_seq_max = 4;
  h.ctx = llama_init_from_model(h.model, h.params);
  kvstow_llama_options o;
  kvstow_llama_options_init(&o);
  o.params = &h.params;
  o.model_path = MODELS "/llama.gguf";
  assert_int_equal(kvstow_llama_attach(h.store, h.model, h.ctx, &o, &h.cache, why, sizeof why),
                   KVSTOW_EUNSUPPORTED);
  assert_non_null(strstr(why, "--kv-unified"));
  host_close(&h);
}

static void quiet(enum ggml_log_level level, const char *text, void *user) {
  (void)user;
  if (level >= GGML_LOG_LEVEL_ERROR && getenv("KVSTOW_VERBOSE") != NULL) fputs(text, stderr);
}

int main(void) {
  llama_log_set(quiet, NULL);
  ggml_backend_load_all_from_path(LLAMA_LIB);
  llama_backend_init();
  snprintf(directory, sizeof directory, "/var/tmp/kvstow-test-llama-%d", (int)getpid());
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(every_architecture_restores_bit_exactly, fresh),
      cmocka_unit_test_setup(every_kv_type_restores_bit_exactly, fresh),
      cmocka_unit_test_setup(extends_what_a_sequence_holds, fresh),
      cmocka_unit_test_setup(whatever_differs_is_a_miss, fresh),
      cmocka_unit_test_setup(another_lora_is_a_miss, fresh),
      cmocka_unit_test_setup(a_corrupted_store_misses, fresh),
      cmocka_unit_test_setup(budgets_are_held, fresh),
      cmocka_unit_test_setup(separate_buffers_are_refused, fresh),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  wipe_store();
  rmdir(directory);
  return failed;
}
