/* fingerprint.c - what makes the KV of two contexts interchangeable.
 *
 * Saved states say nothing about the model, the rope scaling, LoRA or the version that made them, and
 * loading one elsewhere succeeds silently. So everything that can change a byte of KV is a line here,
 * and a line too many only costs a miss.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "fingerprint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "calls.h"

enum { SAMPLE_BYTES = 4096, SAMPLES = 4, VALUE_BYTES = 8192, SPLITS_MAX = 1024 };

struct text {
  FILE *out;
  char *bytes;
  size_t length;
};

/* A running hash over pieces of any length: each piece is hashed with its length and what went before. */
struct digest {
  uint64_t state[3]; /* before, piece, length */
};

static void digest_add(struct digest *d, const void *bytes, size_t length) {
  d->state[1] = kvstow_checksum(bytes, length);
  d->state[2] = length;
  d->state[0] = kvstow_checksum(d->state, sizeof d->state);
}

static void digest_text(struct digest *d, const char *s) {
  digest_add(d, s == NULL ? "" : s, s == NULL ? 0 : strlen(s) + 1);
}

/* ---- the weights ---------------------------------------------------------------------------- */

/* Names, types, sizes and samples of every tensor, and the file's size and time: two fine-tunes of one
 * model differ in nothing else. */
static int digest_file(struct digest *d, const char *path, char *why, size_t why_bytes) {
  struct gguf_init_params params = {.no_alloc = true, .ctx = NULL};
  struct gguf_context *gguf = KVL_REAL(gguf_init_from_file)(path, params);
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat st;
  int rc = 0;
  if (gguf == NULL || fd < 0 || fstat(fd, &st) != 0) {
    snprintf(why, why_bytes, "%s: can't be read as GGUF", path);
    rc = KVSTOW_EINVAL;
    goto out;
  }
  const int64_t facts[] = {st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
  digest_add(d, facts, sizeof facts);
  const size_t base = KVL_REAL(gguf_get_data_offset)(gguf);
  const int64_t tensors = KVL_REAL(gguf_get_n_tensors)(gguf);
  for (int64_t i = 0; i < tensors && rc == 0; i++) {
    const size_t size = KVL_REAL(gguf_get_tensor_size)(gguf, i);
    const size_t at = base + KVL_REAL(gguf_get_tensor_offset)(gguf, i);
    const int64_t shape[] = {KVL_REAL(gguf_get_tensor_type)(gguf, i), (int64_t)size, (int64_t)at};
    digest_text(d, KVL_REAL(gguf_get_tensor_name)(gguf, i));
    digest_add(d, shape, sizeof shape);
    for (int s = 0; s < SAMPLES; s++) {
      uint8_t page[SAMPLE_BYTES];
      const size_t bytes = size < sizeof page ? size : sizeof page;
      const size_t offset = (size - bytes) / (SAMPLES - 1) * (size_t)s;
      if (pread(fd, page, bytes, (off_t)(at + offset)) != (ssize_t)bytes) {
        snprintf(why, why_bytes, "%s: tensor %lld: short read", path, (long long)i);
        rc = KVSTOW_EIO;
        break;
      }
      digest_add(d, page, bytes);
      if (size <= sizeof page) break;
    }
  }
out:
  if (fd >= 0) close(fd);
  if (gguf != NULL) KVL_REAL(gguf_free)(gguf);
  return rc;
}

/* How many files the model is split into, from its first one; 1 if it is not. */
static int split_count(const char *path) {
  struct gguf_init_params params = {.no_alloc = true, .ctx = NULL};
  struct gguf_context *gguf = KVL_REAL(gguf_init_from_file)(path, params);
  if (gguf == NULL) return 1;
  const int64_t key = KVL_REAL(gguf_find_key)(gguf, "split.count");
  const int count = key < 0 ? 1 : KVL_REAL(gguf_get_val_u16)(gguf, key);
  KVL_REAL(gguf_free)(gguf);
  return count < 1 ? 1 : count;
}

static int digest_weights(struct digest *d, const char *path, char *why, size_t why_bytes) {
  const int splits = split_count(path);
  if (splits == 1) return digest_file(d, path, why, why_bytes);
  char prefix[4096];
  if (splits > SPLITS_MAX ||
      KVL_REAL(llama_split_prefix)(prefix, sizeof prefix, path, 0, splits) <= 0) {
    snprintf(why, why_bytes, "%s: one of %d files, not named as llama.cpp names them", path,
             splits);
    return KVSTOW_EINVAL;
  }
  for (int i = 0; i < splits; i++) {
    char part[4096];
    KVL_REAL(llama_split_path)(part, sizeof part, prefix, i, splits);
    const int rc = digest_file(d, part, why, why_bytes);
    if (rc != 0) return rc;
  }
  return 0;
}

/* ---- the rest ------------------------------------------------------------------------------- */

static uint64_t digest_metadata(const struct llama_model *model) {
  struct digest d = {{0}};
  char value[VALUE_BYTES];
  const int32_t count = KVL_REAL(llama_model_meta_count)(model);
  for (int32_t i = 0; i < count; i++) {
    KVL_REAL(llama_model_meta_key_by_index)(model, i, value, sizeof value);
    digest_text(&d, value);
    KVL_REAL(llama_model_meta_val_str_by_index)(model, i, value, sizeof value);
    digest_text(&d, value);
  }
  return d.state[0];
}

static uint64_t digest_vocabulary(const struct llama_vocab *vocab) {
  struct digest d = {{0}};
  const int32_t count = KVL_REAL(llama_vocab_n_tokens)(vocab);
  for (llama_token i = 0; i < count; i++) {
    const float score = KVL_REAL(llama_vocab_get_score)(vocab, i);
    const int attr = (int)KVL_REAL(llama_vocab_get_attr)(vocab, i);
    digest_text(&d, KVL_REAL(llama_vocab_get_text)(vocab, i));
    digest_add(&d, &score, sizeof score);
    digest_add(&d, &attr, sizeof attr);
  }
  return d.state[0];
}

/* Switches like LLAMA_ATTN_ROT_DISABLE change the bytes and leave no trace in them. LLAMA_ARG_* are a
 * server's options: what of them matters is in the parameters. */
static bool matters(const char *variable) {
  static const char *const harmless[] = {"LLAMA_ARG_",  "LLAMA_LOG",    "LLAMA_TRACE",
                                         "LLAMA_CACHE", "LLAMA_PREFIX", "LLAMA_SERVER",
                                         "LLAMA_MODEL", "LLAMA_API_KEY"};
  if (strncmp(variable, "LLAMA_", 6) != 0 && strncmp(variable, "GGML_", 5) != 0) return false;
  for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
    if (strncmp(variable, harmless[i], strlen(harmless[i])) == 0) return false;
  return true;
}

static uint64_t digest_environment(void) {
  uint64_t sum = 0; /* in whatever order */
  for (char **e = environ; e != NULL && *e != NULL; e++)
    if (matters(*e)) sum += kvstow_checksum(*e, strlen(*e));
  return sum;
}

static uint64_t digest_devices(void) {
  struct digest d = {{0}};
  for (size_t i = 0; i < KVL_REAL(ggml_backend_dev_count)(); i++) {
    ggml_backend_dev_t device = KVL_REAL(ggml_backend_dev_get)(i);
    digest_text(&d, KVL_REAL(ggml_backend_dev_name)(device));
    digest_text(&d, KVL_REAL(ggml_backend_dev_description)(device));
  }
  return d.state[0];
}

static void write_context(FILE *out, const struct llama_context *ctx,
                          const struct llama_context_params *p) {
  fprintf(out, "context %u, a sequence %u, micro-batch %u\n", KVL_REAL(llama_n_ctx)(ctx),
          KVL_REAL(llama_n_ctx_seq)(ctx), KVL_REAL(llama_n_ubatch)(ctx));
  fprintf(out, "kv %s %s, flash attention %d, attention %d, on device %d\n",
          KVL_REAL(ggml_type_name)(p->type_k), KVL_REAL(ggml_type_name)(p->type_v),
          (int)p->flash_attn_type, (int)p->attention_type, p->offload_kqv);
  fprintf(out, "rope scaling %d, base %a, scale %a\n", (int)p->rope_scaling_type,
          (double)p->rope_freq_base, (double)p->rope_freq_scale);
  fprintf(out, "yarn %a %a %a %a %u\n", (double)p->yarn_ext_factor, (double)p->yarn_attn_factor,
          (double)p->yarn_beta_fast, (double)p->yarn_beta_slow, p->yarn_orig_ctx);
}

char *kvl_fingerprint(const struct llama_model *model, const struct llama_context *ctx,
                      const kvstow_llama_options *options, char *why, size_t why_bytes) {
  struct digest weights = {{0}};
  if (options->model_path != NULL &&
      digest_weights(&weights, options->model_path, why, why_bytes) != 0)
    return NULL;
  struct text t = {0};
  t.out = open_memstream(&t.bytes, &t.length);
  if (t.out == NULL) {
    snprintf(why, why_bytes, "out of memory");
    return NULL;
  }
  char desc[256];
  KVL_REAL(llama_model_desc)(model, desc, sizeof desc);
  fprintf(t.out, "kvstow-llama 1\nllama %s, ggml %s %s\n", KVL_REAL(llama_version)(),
          KVL_REAL(ggml_version)(), KVL_REAL(ggml_commit)());
  fprintf(t.out, "model %s, %llu bytes, %llu parameters\n", desc,
          (unsigned long long)KVL_REAL(llama_model_size)(model),
          (unsigned long long)KVL_REAL(llama_model_n_params)(model));
  fprintf(t.out, "metadata %016llx\n", (unsigned long long)digest_metadata(model));
  fprintf(t.out, "vocabulary %016llx\n",
          (unsigned long long)digest_vocabulary(KVL_REAL(llama_model_get_vocab)(model)));
  fprintf(t.out, "weights %016llx\n", (unsigned long long)weights.state[0]);
  fprintf(t.out, "identity %016llx\n",
          (unsigned long long)kvstow_checksum(options->identity == NULL ? "" : options->identity,
                                              options->identity_bytes));
  write_context(t.out, ctx, options->params);
  fprintf(t.out, "devices %016llx\n", (unsigned long long)digest_devices());
  fprintf(t.out, "environment %016llx\n", (unsigned long long)digest_environment());
  if (fclose(t.out) != 0) {
    free(t.bytes);
    snprintf(why, why_bytes, "out of memory");
    return NULL;
  }
  return t.bytes;
}
