/* tests/test_fault_isolation.c - keys that collide: blocks' keys are cut down to a few bits, so that blocks of
 * all salts, spaces and documents meet under the same ones. Whatever is found then is what was stored in this
 * space, with this salt, under these tokens; or a miss.
 *
 * kvs_block_key() is wrapped; roots, which stand for space and salt, stay whole: an entry is found by both.
 * (A parent is compared by its key alone: what follows two prefixes of one tenant whose 128-bit keys are
 * equal can't be told apart.)
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/kv.h"

#include "kvcache/key.h"

static unsigned key_bits = 128;

kvstow_key __real_kvs_block_key(const struct kvs_secret *secret, kvstow_key parent,
                                const kvstow_token *tokens, size_t count);
kvstow_key __wrap_kvs_block_key(const struct kvs_secret *secret, kvstow_key parent,
                                const kvstow_token *tokens, size_t count);
kvstow_key __wrap_kvs_block_key(const struct kvs_secret *secret, kvstow_key parent,
                                const kvstow_token *tokens, size_t count) {
  const kvstow_key key = __real_kvs_block_key(secret, parent, tokens, count);
  if (key_bits >= 64) return key;
  return (kvstow_key){key.lo & ((UINT64_C(1) << key_bits) - 1), 0};
}

static const kv_shape shape = {2, 128, 128, 16, 0}; /* 8 KiB a block */

enum { SALTS = 4, DOCS = 12, BLOCKS = 4, SPACES = 2 };

static kv_doc doc_of(kvstow_space *const *spaces, int space, int salt, int doc) {
  static const char *const salts[SALTS] = {NULL, "a", "b", "ab"};
  kv_doc d;
  kv_doc_init(&d, spaces[space], &shape, (uint64_t)space * SALTS + (uint64_t)salt, (uint64_t)doc,
              BLOCKS, salts[salt], salt == 0 ? 0 : strlen(salts[salt]));
  return d; /* document n of all tenants has the same tokens */
}

static kvstow *open_at(const char *const *dir, kvstow_space **spaces) {
  kvstow_options options;
  kv_options(&options, dir, 8 * KV_MIB, 16 * KV_MIB, KV_MIB);
  options.populate = false;
  kvstow *store = kv_open(&options);
  spaces[0] = kv_space(store, "model", &shape);
  spaces[1] = kv_space(store, "another", &shape);
  return store;
}

enum { ALL = SPACES * SALTS * DOCS };

/* Every document of every tenant: stored (what collides is left out), then read; all bytes are compared. */
static size_t use(kvstow_space *const *spaces, int i, bool store, uint32_t flags) {
  kv_doc d = doc_of(spaces, i / (SALTS * DOCS), i / DOCS % SALTS, i % DOCS);
  if (store) KV_OK(kv_doc_store(&d, 0, BLOCKS, 0));
  const size_t restored = kv_doc_restore(&d, flags);
  kv_doc_finish(&d);
  return restored;
}

static size_t use_all(kvstow_space *const *spaces, bool store) {
  size_t restored = 0;
  for (int i = 0; i < ALL; i++)
    restored += use(spaces, i, store, i % 2 ? KVSTOW_BYPASS_RAM : KVSTOW_NO_PROMOTE);
  return restored;
}

/* Those first that were left out: what they collide with is on SSD alone, and believed by its key until it has
 * been read. */
static size_t use_from_the_end(kvstow_space *const *spaces, uint32_t flags) {
  size_t restored = 0;
  for (int i = ALL; i-- > 0;) restored += use(spaces, i, false, flags);
  return restored;
}

static void collide(unsigned bits) {
  const char *dir = kv_dir("isolation");
  kvstow_space *spaces[SPACES];
  key_bits = bits;
  kvstow *store = open_at(&dir, spaces);
  const size_t first = use_all(spaces, true);
  const size_t again = use_all(spaces, false);
  KV_OK(kvstow_close(store));
  store = open_at(&dir, spaces);
  const size_t past = use_from_the_end(spaces, KVSTOW_BYPASS_RAM | KVSTOW_NO_PROMOTE);
  KV_CHECK(kv_stats(store).ram_blocks == 0, "something came to RAM");
  const size_t promoted = use_from_the_end(spaces, 0);
  KV_OK(kvstow_close(store));
  store = open_at(&dir, spaces);
  const size_t reopened = use_all(spaces, false);
  const kvstow_stats s = kv_stats(store);
  printf("  %u bits: %zu, %zu and after restarts %zu, %zu, %zu of %d blocks; %" PRIu64
         " collisions\n",
         bits, first, again, past, promoted, reopened, ALL * BLOCKS, s.collisions);
  KV_CHECK(bits < 64 || reopened == (size_t)ALL * BLOCKS, "blocks are missing");
  KV_CHECK(past == reopened && promoted == reopened, "what is found depends on where it lies");
  KV_CHECK(first > 0, "nothing was found at all");
  KV_OK(kvstow_close(store));
  key_bits = 128;
}

static void whole_keys_find_everything(void **state) {
  (void)state;
  collide(128);
}

static void colliding_keys_are_misses_not_answers(void **state) {
  (void)state;
  for (unsigned bits = 12; bits > 0; bits -= bits > 4 ? 4 : 1) collide(bits);
  collide(0);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(whole_keys_find_everything),
    cmocka_unit_test(colliding_keys_are_misses_not_answers),
};

KV_MAIN("isolation")
