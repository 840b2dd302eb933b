/* tests/support/kv.h - what the engine's tests share: bytes that can be recomputed from what they
 * belong to, token chains, scratch directories, a seeded generator, failure with the seed in it.
 *
 * The oracle. Every byte of every block is a function of the block's id (a 64-bit hash of space,
 * salt, token chain and life), the layer, K or V, the token and the position in the row. No copy of
 * what was stored is kept: whoever holds a block's id can fill it and check it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TESTS_SUPPORT_KV_H
#define KVSTOW_TESTS_SUPPORT_KV_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include <kvstow/kvstow.h>

#if defined(__SANITIZE_THREAD__)
#define KV_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define KV_TSAN 1
#endif
#endif
#ifndef KV_TSAN
#define KV_TSAN 0
#endif

#if KV_TSAN
/* jemalloc makes its mutexes anew in a forked child; the sanitizer goes on believing them locked by
 * the parent. */
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void) {
  return "mutex:malloc_mutex_\n";
}
#endif

#if defined(__SANITIZE_ADDRESS__)
#define KV_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KV_ASAN 1
#endif
#endif
#ifndef KV_ASAN
#define KV_ASAN 0
#endif

#define KV_MIB (1024ull * 1024ull)
#define KV_KIB 1024ull

/* ---- failure -------------------------------------------------------------------------------- */

static uint64_t kv_run_seed; /* of the test that runs; printed with every failure */
static bool kv_forked;       /* this is a child of the test */

enum { KV_CHILD_FAILED = 99 };

/* Ends the test. On a thread of the test, and in a child, where cmocka's longjmp would be wrong, ends the
 * process. */
__attribute__((format(printf, 3, 4), noreturn)) static inline void kv_fail_at(const char *file,
                                                                              int line,
                                                                              const char *format,
                                                                              ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  fprintf(stderr, "%s:%d: %s (KVSTOW_SEED=%" PRIu64 ")\n", file, line, text, kv_run_seed);
  fflush(stderr);
  if (kv_forked) _exit(KV_CHILD_FAILED);
  if (gettid() != getpid()) abort();
  _fail(file, line);
  abort();
}

#define KV_FAIL(...) kv_fail_at(__FILE__, __LINE__, __VA_ARGS__)
#define KV_CHECK(condition, ...)                                                                   \
  do {                                                                                             \
    if (!(condition)) kv_fail_at(__FILE__, __LINE__, __VA_ARGS__);                                 \
  } while (0)
/* The call's result must be `expected`. */
#define KV_RESULT(call, expected)                                                                  \
  do {                                                                                             \
    int kv_result_ = (call);                                                                       \
    if (kv_result_ != (expected))                                                                  \
      kv_fail_at(__FILE__, __LINE__, "%s: %s, expected %s", #call, kvstow_errname(kv_result_),     \
                 kvstow_errname(expected));                                                        \
  } while (0)
#define KV_OK(call) KV_RESULT(call, 0)

/* ---- seeded numbers ------------------------------------------------------------------------- */

typedef struct kv_rng {
  uint64_t state;
} kv_rng;

static inline uint64_t kv_mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ull;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

static inline uint64_t kv_hash2(uint64_t a, uint64_t b) {
  return kv_mix(a * 0x9e3779b97f4a7c15ull + kv_mix(b + 0x632be59bd9b4e019ull));
}

static inline uint64_t kv_next(kv_rng *rng) {
  rng->state += 0x9e3779b97f4a7c15ull;
  return kv_mix(rng->state);
}

/* 0 .. bound-1 */
static inline size_t kv_below(kv_rng *rng, size_t bound) {
  return bound == 0 ? 0 : (size_t)(kv_next(rng) % bound);
}

/* low .. high, both included */
static inline size_t kv_between(kv_rng *rng, size_t low, size_t high) {
  return low + kv_below(rng, high - low + 1);
}

static inline bool kv_chance(kv_rng *rng, unsigned percent) {
  return kv_below(rng, 100) < percent;
}

static inline uint64_t kv_env(const char *name, uint64_t otherwise) {
  const char *text = getenv(name);
  return text != NULL && *text != 0 ? strtoull(text, NULL, 0) : otherwise;
}

/* The seed of a test: KVSTOW_SEED, or `otherwise`. Printed, so that any run can be repeated. */
static inline kv_rng kv_seed(const char *test, uint64_t otherwise) {
  kv_run_seed = kv_env("KVSTOW_SEED", otherwise);
  printf("%s: KVSTOW_SEED=%" PRIu64 "\n", test, kv_run_seed);
  fflush(stdout);
  kv_rng rng = {kv_mix(kv_run_seed + 0x5851f42d4c957f2dull)};
  return rng;
}

static inline double kv_now_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static inline void kv_sleep_ms(unsigned ms) {
  struct timespec left = {ms / 1000, (long)(ms % 1000) * 1000000l};
  while (nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
}

/* A child whose failed checks end it with KV_CHILD_FAILED. It must leave through _exit. */
static inline pid_t kv_fork(void) {
  fflush(stdout);
  fflush(stderr);
  pid_t pid = fork();
  if (pid < 0) KV_FAIL("fork: %s", strerror(errno));
  if (pid == 0) kv_forked = true;
  return pid;
}

/* Waits for a child that must end by itself; its exit status. */
static inline int kv_wait(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) KV_CHECK(errno == EINTR, "waitpid: %s", strerror(errno));
  KV_CHECK(WIFEXITED(status), "the child died of signal %d", WTERMSIG(status));
  return WEXITSTATUS(status);
}

/* Waits for a child that must be killed. */
static inline void kv_wait_killed(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) KV_CHECK(errno == EINTR, "waitpid: %s", strerror(errno));
  KV_CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
           "the child was to be killed, and ended with status %#x", (unsigned)status);
}

/* Memory for direct I/O. */
static inline void *kv_pages(size_t bytes) {
  void *memory = NULL;
  if (posix_memalign(&memory, KVSTOW_PAGE_BYTES, bytes == 0 ? KVSTOW_PAGE_BYTES : bytes) != 0)
    abort();
  return memory;
}

/* ---- the bytes of blocks -------------------------------------------------------------------- */

typedef struct kv_shape {
  uint32_t layers, k_bytes, v_bytes, block_tokens, opaque_max_bytes;
} kv_shape;

/* One row: `bytes` bytes of one token in one layer; part 0 is K, 1 is V. */
static inline void kv_row(uint64_t id, uint32_t layer, unsigned part, size_t token, void *row,
                          size_t bytes) {
  uint64_t x = kv_mix(id ^ ((uint64_t)layer << 40) ^ ((uint64_t)part << 39) ^ (token << 8));
  unsigned char *out = row;
  size_t at = 0;
  for (; at + 8 <= bytes; at += 8) {
    x += 0x9e3779b97f4a7c15ull;
    uint64_t word = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ull;
    memcpy(out + at, &word, 8);
  }
  if (at < bytes) {
    x += 0x9e3779b97f4a7c15ull;
    uint64_t word = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ull;
    memcpy(out + at, &word, bytes - at);
  }
}

static inline void kv_rows(uint64_t id, uint32_t layer, unsigned part, size_t token_first,
                           size_t tokens, void *rows, size_t row_bytes) {
  for (size_t token = 0; token < tokens; token++)
    kv_row(id, layer, part, token_first + token, (char *)rows + token * row_bytes, row_bytes);
}

static inline bool kv_rows_are(uint64_t id, uint32_t layer, unsigned part, size_t token_first,
                               size_t tokens, const void *rows, size_t row_bytes) {
  unsigned char expected[4096];
  for (size_t token = 0; token < tokens; token++) {
    const unsigned char *row = (const unsigned char *)rows + token * row_bytes;
    if (row_bytes > sizeof expected) abort();
    kv_row(id, layer, part, token_first + token, expected, row_bytes);
    if (memcmp(row, expected, row_bytes) != 0) return false;
  }
  return true;
}

/* A blob of an opaque space: its length too is a function of the id. */
static inline size_t kv_blob_bytes(uint64_t id, const kv_shape *shape) {
  return 1 + (size_t)(kv_mix(id + 77) % shape->opaque_max_bytes);
}

static inline bool kv_blob_is(uint64_t id, const void *blob, size_t bytes) {
  unsigned char expected[4096];
  for (size_t at = 0, part = 0; at < bytes; at += sizeof expected, part++) {
    size_t piece = bytes - at < sizeof expected ? bytes - at : sizeof expected;
    kv_row(id, 0, 0, part, expected, piece);
    if (memcmp((const char *)blob + at, expected, piece) != 0) return false;
  }
  return true;
}

static inline void kv_blob(uint64_t id, void *blob, size_t bytes) {
  for (size_t at = 0, part = 0; at < bytes; at += 4096, part++)
    kv_row(id, 0, 0, part, (char *)blob + at, bytes - at < 4096 ? bytes - at : 4096);
}

/* A block as kvstow_store takes it: gathered, without padding. */
static inline size_t kv_block_bytes(uint64_t id, const kv_shape *shape) {
  if (shape->layers == 0) return kv_blob_bytes(id, shape);
  return (size_t)shape->layers * shape->block_tokens * (shape->k_bytes + shape->v_bytes);
}

static inline void kv_fill_block(uint64_t id, const kv_shape *shape, void *block) {
  if (shape->layers == 0) {
    kv_blob(id, block, kv_blob_bytes(id, shape));
    return;
  }
  char *at = block;
  for (uint32_t layer = 0; layer < shape->layers; layer++) {
    kv_rows(id, layer, 0, 0, shape->block_tokens, at, shape->k_bytes);
    at += (size_t)shape->block_tokens * shape->k_bytes;
    kv_rows(id, layer, 1, 0, shape->block_tokens, at, shape->v_bytes);
    at += (size_t)shape->block_tokens * shape->v_bytes;
  }
}

/* A payload as stored: planes at their stride. */
static inline void kv_fill_payload(uint64_t id, const kv_shape *shape, size_t plane_bytes,
                                   void *payload) {
  if (shape->layers == 0) {
    kv_blob(id, payload, kv_blob_bytes(id, shape));
    return;
  }
  for (uint32_t layer = 0; layer < shape->layers; layer++) {
    char *plane = (char *)payload + (size_t)layer * plane_bytes;
    kv_rows(id, layer, 0, 0, shape->block_tokens, plane, shape->k_bytes);
    kv_rows(id, layer, 1, 0, shape->block_tokens,
            plane + (size_t)shape->block_tokens * shape->k_bytes, shape->v_bytes);
  }
}

static inline bool kv_payload_is(uint64_t id, const kv_shape *shape, size_t plane_bytes,
                                 const void *payload) {
  if (shape->layers == 0) return kv_blob_is(id, payload, kv_blob_bytes(id, shape));
  for (uint32_t layer = 0; layer < shape->layers; layer++) {
    const char *plane = (const char *)payload + (size_t)layer * plane_bytes;
    if (!kv_rows_are(id, layer, 0, 0, shape->block_tokens, plane, shape->k_bytes) ||
        !kv_rows_are(id, layer, 1, 0, shape->block_tokens,
                     plane + (size_t)shape->block_tokens * shape->k_bytes, shape->v_bytes))
      return false;
  }
  return true;
}

/* Bytes that kvstow_read delivers for a range given in full (no zero counts). */
static inline size_t kv_read_bytes(const kv_shape *shape, const kvstow_range *range) {
  return (size_t)range->layer_count * range->token_count * (shape->k_bytes + shape->v_bytes);
}

/* Is `bytes` what kvstow_read must deliver for this range of a chain with these block ids? */
static inline bool kv_read_is(const uint64_t *ids, const kv_shape *shape, const kvstow_range *range,
                              const void *bytes) {
  const char *at = bytes;
  for (uint32_t layer = range->layer_first; layer < range->layer_first + range->layer_count;
       layer++)
    for (unsigned part = 0; part < 2; part++) {
      const size_t row_bytes = part == 0 ? shape->k_bytes : shape->v_bytes;
      for (size_t token = range->token_first; token < range->token_first + range->token_count;) {
        const size_t block = token / shape->block_tokens, within = token % shape->block_tokens;
        size_t run = shape->block_tokens - within;
        if (run > range->token_first + range->token_count - token)
          run = range->token_first + range->token_count - token;
        if (row_bytes > 0 && !kv_rows_are(ids[block], layer, part, within, run, at, row_bytes))
          return false;
        at += run * row_bytes;
        token += run;
      }
    }
  return true;
}

/* ---- scattered buffers ---------------------------------------------------------------------- */

#define KV_PIECES_MAX 24
#define KV_GAP_MAX 48

/* A destination cut at random places: pieces at odd addresses with guarded gaps between them, empty
 * pieces among them. */
typedef struct kv_scatter {
  unsigned char *arena;
  size_t arena_bytes, bytes;
  struct iovec iov[KV_PIECES_MAX];
  int iovcnt;
} kv_scatter;

static inline void kv_scatter_init(kv_scatter *scatter, kv_rng *rng, size_t bytes) {
  scatter->bytes = bytes;
  scatter->arena_bytes = bytes + (KV_PIECES_MAX + 1) * KV_GAP_MAX;
  scatter->arena = malloc(scatter->arena_bytes);
  if (scatter->arena == NULL) abort();
  memset(scatter->arena, 0xa5, scatter->arena_bytes);
  scatter->iovcnt = (int)kv_between(rng, 1, KV_PIECES_MAX);
  size_t at = 0, done = 0;
  for (int i = 0; i < scatter->iovcnt; i++) {
    size_t piece = bytes - done;
    if (i + 1 < scatter->iovcnt)
      piece = kv_chance(rng, 10) ? 0 : kv_below(rng, (bytes - done) / 2 + 1);
    at += kv_below(rng, KV_GAP_MAX);
    scatter->iov[i].iov_base = scatter->arena + at;
    scatter->iov[i].iov_len = piece;
    at += piece;
    done += piece;
  }
}

/* Brings the pieces together in `out`; false if a byte outside them was written. */
static inline bool kv_scatter_gather(const kv_scatter *scatter, void *out) {
  const unsigned char *at = scatter->arena;
  char *to = out;
  for (int i = 0; i < scatter->iovcnt; i++) {
    for (; at < (unsigned char *)scatter->iov[i].iov_base; at++)
      if (*at != 0xa5) return false;
    memcpy(to, scatter->iov[i].iov_base, scatter->iov[i].iov_len);
    to += scatter->iov[i].iov_len;
    at += scatter->iov[i].iov_len;
  }
  for (; at < scatter->arena + scatter->arena_bytes; at++)
    if (*at != 0xa5) return false;
  return true;
}

static inline void kv_scatter_finish(kv_scatter *scatter) {
  free(scatter->arena);
  scatter->arena = NULL;
}

/* Cuts one buffer into iovecs, for sources. */
static inline int kv_cut(kv_rng *rng, void *buffer, size_t bytes, struct iovec *iov, int max) {
  int count = (int)kv_between(rng, 1, (size_t)max);
  size_t done = 0;
  for (int i = 0; i < count; i++) {
    size_t piece = i + 1 == count ? bytes - done : kv_below(rng, (bytes - done) / 2 + 1);
    iov[i].iov_base = (char *)buffer + done;
    iov[i].iov_len = piece;
    done += piece;
  }
  return count;
}

/* ---- documents: simple chains for directed tests -------------------------------------------- */

/* Token `i` of document `doc`. */
static inline kvstow_token kv_token(uint64_t doc, size_t i) {
  return (kvstow_token)(kv_hash2(doc, i) & 0x1ffff);
}

static inline kvstow_token *kv_tokens(uint64_t doc, size_t count) {
  kvstow_token *tokens = malloc((count + 1) * sizeof *tokens);
  if (tokens == NULL) abort();
  for (size_t i = 0; i < count; i++) tokens[i] = kv_token(doc, i);
  return tokens;
}

/* The id of block `block` of document `doc` in a space and salt that the test numbers `where`. */
static inline uint64_t kv_id(uint64_t where, uint64_t doc, size_t block) {
  return kv_hash2(kv_hash2(where + 1, doc), block);
}

static inline void kv_space_options(kvstow_space_options *options, const char *fingerprint,
                                    const kv_shape *shape) {
  kvstow_space_options_init(options);
  options->name = fingerprint;
  options->fingerprint = fingerprint;
  options->fingerprint_bytes = strlen(fingerprint);
  options->layers = shape->layers;
  options->k_bytes = shape->k_bytes;
  options->v_bytes = shape->v_bytes;
  options->block_tokens = shape->block_tokens;
  options->opaque_max_bytes = shape->opaque_max_bytes;
}

static inline kvstow_space *kv_space(kvstow *store, const char *fingerprint,
                                     const kv_shape *shape) {
  kvstow_space_options options;
  kv_space_options(&options, fingerprint, shape);
  kvstow_space *space = NULL;
  int rc = kvstow_space_open(store, &options, &space);
  char message[KVSTOW_MESSAGE_BYTES] = "";
  if (rc != 0) kvstow_message(store, message, sizeof message);
  KV_CHECK(rc == 0 && space != NULL, "space %s: %s: %s", fingerprint, kvstow_errname(rc), message);
  KV_CHECK(kvstow_space_block_tokens(space) == shape->block_tokens, "block_tokens differ");
  KV_CHECK(kvstow_space_plane_bytes(space) % KVSTOW_PAGE_BYTES == 0, "plane not whole pages");
  KV_CHECK(kvstow_space_payload_bytes(space) % KVSTOW_PAGE_BYTES == 0, "payload not whole pages");
  if (shape->layers > 0) {
    KV_CHECK(
        kvstow_space_plane_bytes(space) >= shape->block_tokens * (shape->k_bytes + shape->v_bytes),
        "plane too small");
    KV_CHECK(kvstow_space_payload_bytes(space) == shape->layers * kvstow_space_plane_bytes(space),
             "payload is not layers * plane");
  } else {
    KV_CHECK(kvstow_space_payload_bytes(space) >= shape->opaque_max_bytes, "payload too small");
  }
  return space;
}

/* One document in one space and salt: what most directed tests store and read. */
typedef struct kv_doc {
  kvstow_space *space;
  const kv_shape *shape;
  uint64_t where, doc; /* the ids of its blocks are kv_id(where, doc, i) */
  kvstow_token *tokens;
  size_t blocks;
  kvstow_prefix prefix;
} kv_doc;

static inline void kv_doc_init(kv_doc *d, kvstow_space *space, const kv_shape *shape,
                               uint64_t where, uint64_t doc, size_t blocks, const void *salt,
                               size_t salt_bytes) {
  d->space = space;
  d->shape = shape;
  d->where = where;
  d->doc = doc;
  d->blocks = blocks;
  d->tokens = kv_tokens(doc, blocks * shape->block_tokens);
  kvstow_prefix prefix = KVSTOW_PREFIX(space, d->tokens, blocks * shape->block_tokens);
  prefix.salt = salt;
  prefix.salt_bytes = salt_bytes;
  d->prefix = prefix;
}

static inline void kv_doc_finish(kv_doc *d) {
  free(d->tokens);
  d->tokens = NULL;
}

/* Stores blocks [first, first + count) one by one; the first result that is not 0. */
static inline int kv_doc_store(const kv_doc *d, size_t first, size_t count, uint32_t flags) {
  const size_t room =
      d->shape->layers == 0 ? d->shape->opaque_max_bytes : kv_block_bytes(0, d->shape);
  void *block = malloc(room + 1);
  int rc = 0;
  for (size_t i = first; i < first + count && rc == 0; i++) {
    const uint64_t id = kv_id(d->where, d->doc, i);
    kv_fill_block(id, d->shape, block);
    struct iovec iov = {block, kv_block_bytes(id, d->shape)};
    kvstow_source source = {&iov, 1};
    rc = kvstow_store(&d->prefix, i, 1, &source, flags, NULL);
  }
  free(block);
  return rc;
}

/* Reads blocks [first, first + count) of a lease and compares. Returns the result of the read;
 * fails the test on a wrong byte. */
static inline int kv_doc_read_blocks(const kv_doc *d, kvstow_lease *lease, size_t first,
                                     size_t count, uint32_t flags, uint32_t timeout_ms) {
  const size_t payload_bytes = kvstow_space_payload_bytes(d->space);
  char *buffer = kv_pages(count * payload_bytes);
  void **payloads = malloc(count * sizeof *payloads + 1);
  size_t *bytes = malloc(count * sizeof *bytes + 1);
  for (size_t i = 0; i < count; i++) payloads[i] = buffer + i * payload_bytes;
  int rc = kvstow_read_blocks(lease, first, count, payloads, bytes, flags, timeout_ms);
  if (rc == 0)
    for (size_t i = 0; i < count; i++) {
      const uint64_t id = kv_id(d->where, d->doc, first + i);
      if (d->shape->layers == 0)
        KV_CHECK(bytes[i] == kv_blob_bytes(id, d->shape), "blob %zu has %zu bytes", first + i,
                 bytes[i]);
      KV_CHECK(kv_payload_is(id, d->shape, kvstow_space_plane_bytes(d->space), payloads[i]),
               "document %" PRIu64 " block %zu: wrong bytes", d->doc, first + i);
    }
  free(bytes);
  free(payloads);
  free(buffer);
  return rc;
}

/* How many leading blocks the store gives back, every byte compared. Never wrong bytes; errors of
 * reading shorten the answer. */
static inline size_t kv_doc_restore(const kv_doc *d, uint32_t flags) {
  kvstow_lease *lease = NULL;
  kvstow_held held;
  int rc = kvstow_match(&d->prefix, flags & KVSTOW_NO_PROMOTE, &lease, &held);
  if (rc == KVSTOW_EMISS) {
    KV_CHECK(lease == NULL, "a miss with a lease");
    return 0;
  }
  KV_CHECK(rc == 0 && lease != NULL, "match: %s", kvstow_errname(rc));
  KV_CHECK(held.tokens == held.blocks * d->shape->block_tokens && held.blocks > 0 &&
               held.blocks <= d->blocks && held.blocks == held.ram_blocks + held.ssd_blocks,
           "held makes no sense: %zu tokens, %zu blocks", held.tokens, held.blocks);
  size_t good = 0;
  for (; good < held.blocks; good++)
    if (kv_doc_read_blocks(d, lease, good, 1, flags & KVSTOW_BYPASS_RAM, 0) != 0) break;
  kvstow_lease_release(lease);
  return good;
}

static inline size_t kv_doc_held(const kv_doc *d) {
  kvstow_held held;
  KV_OK(kvstow_exists(&d->prefix, &held));
  KV_CHECK(held.tokens == held.blocks * d->shape->block_tokens, "exists: ragged tokens");
  KV_CHECK(held.blocks == held.ram_blocks + held.ssd_blocks, "exists: blocks do not add up");
  return held.blocks;
}

/* ---- stores --------------------------------------------------------------------------------- */

/* Options for tests: io_uring unless the build or KVSTOW_TEST_ENGINE=threads says otherwise. */
static inline void kv_options(kvstow_options *options, const char *const *dirs, uint64_t ram_bytes,
                              uint64_t ssd_bytes, uint32_t segment_bytes) {
  kvstow_options_init(options);
  options->dirs = dirs;
  options->dirs_count = dirs == NULL ? 0 : 1;
  options->ram_bytes = ram_bytes;
  options->ssd_bytes = dirs == NULL ? 0 : ssd_bytes;
  options->segment_bytes = dirs == NULL ? 0 : segment_bytes;
  options->load_timeout_ms = 60000;
  options->store_timeout_ms = 60000;
  options->hash_seed = 42;
  const char *engine = getenv("KVSTOW_TEST_ENGINE");
  if (KV_TSAN || (engine != NULL && strcmp(engine, "threads") == 0))
    options->engine = KVSTOW_ENGINE_THREADS;
}

static inline kvstow *kv_open_at(const char *file, int line, const kvstow_options *options) {
  char why[KVSTOW_MESSAGE_BYTES] = "";
  kvstow *store = NULL;
  int rc = kvstow_open(options, &store, why, sizeof why);
  if (rc != 0 || store == NULL) kv_fail_at(file, line, "open: %s: %s", kvstow_errname(rc), why);
  return store;
}
#define kv_open(options) kv_open_at(__FILE__, __LINE__, options)

static inline kvstow_stats kv_stats(const kvstow *store) {
  kvstow_stats stats;
  memset(&stats, 0, sizeof stats);
  stats.size = sizeof stats;
  stats.tier.size = sizeof stats.tier;
  kvstow_get_stats(store, &stats);
  return stats;
}

/* ---- scratch directories -------------------------------------------------------------------- */

static char *kv_dirs[64];
static int kv_dirs_count;
static pid_t kv_dirs_owner;

static inline int kv_remove_one(const char *path, const struct stat *status, int kind,
                                struct FTW *walk) {
  (void)status;
  (void)kind;
  (void)walk;
  return remove(path);
}

static inline void kv_remove(const char *path) {
  if (path != NULL) nftw(path, kv_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static inline void kv_remove_all(void) {
  if (getpid() != kv_dirs_owner || getenv("KVSTOW_KEEP") != NULL) return;
  for (int i = 0; i < kv_dirs_count; i++) {
    kv_remove(kv_dirs[i]);
    free(kv_dirs[i]);
  }
  kv_dirs_count = 0;
}

/* A new empty directory under KVSTOW_TEST_DIR, or here; removed at exit unless KVSTOW_KEEP is set.
 * The string lives as long as the process. */
static inline const char *kv_dir(const char *name) {
  const char *base = getenv("KVSTOW_TEST_DIR");
  char path[4096];
  int length = snprintf(path, sizeof path, "%s/kvstow-test-%s-XXXXXX",
                        base != NULL && *base != 0 ? base : ".", name);
  if (length < 0 || (size_t)length >= sizeof path || mkdtemp(path) == NULL)
    KV_FAIL("cannot make a directory for %s under %s: %s", name, base != NULL ? base : ".",
            strerror(errno));
  if (kv_dirs_count == 0) {
    kv_dirs_owner = getpid();
    atexit(kv_remove_all);
  }
  KV_CHECK(kv_dirs_count < (int)(sizeof kv_dirs / sizeof *kv_dirs), "too many directories");
  kv_dirs[kv_dirs_count] = strdup(path);
  return kv_dirs[kv_dirs_count++];
}

/* Removes one early: big ones should not wait for the exit. */
static inline void kv_dir_drop(const char *path) {
  for (int i = 0; i < kv_dirs_count; i++)
    if (kv_dirs[i] == path) {
      if (getenv("KVSTOW_KEEP") == NULL) kv_remove(path);
      free(kv_dirs[i]);
      kv_dirs[i] = kv_dirs[--kv_dirs_count];
      return;
    }
}

/* Bytes the directory takes on its file system: blocks of its files, and its own. */
static inline uint64_t kv_dir_bytes(const char *path) {
  struct stat status;
  uint64_t bytes = 0;
  if (stat(path, &status) == 0) bytes += (uint64_t)status.st_blocks * 512u;
  DIR *dir = opendir(path);
  if (dir == NULL) return bytes;
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (fstatat(dirfd(dir), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0)
      bytes += (uint64_t)status.st_blocks * 512u;
  }
  closedir(dir);
  return bytes;
}

/* Calls `each` for every segment file; returns how many. */
static inline int kv_each_segment(const char *path, void (*each)(void *arg, const char *file),
                                  void *arg) {
  DIR *dir = opendir(path);
  KV_CHECK(dir != NULL, "opendir %s: %s", path, strerror(errno));
  int count = 0;
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
    if (strncmp(entry->d_name, "seg", 3) == 0) {
      char file[4608];
      snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
      if (each != NULL) each(arg, file);
      count++;
    }
  closedir(dir);
  return count;
}

/* Runs the group; an argument filters tests by pattern. Exits 77 if none of the tests could run here. */
static size_t kv_skips __attribute__((unused));
#undef skip
#define skip() (kv_skips++, _skip(__FILE__, __LINE__))

#define KV_MAIN(name)                                                                              \
  int main(int argc, char **argv) {                                                                \
    if (argc > 1) cmocka_set_test_filter(argv[1]);                                                 \
    const int failed = cmocka_run_group_tests_name(name, tests, NULL, NULL);                       \
    return failed == 0 && kv_skips == sizeof tests / sizeof tests[0] ? 77 : failed;                \
  }

#endif
