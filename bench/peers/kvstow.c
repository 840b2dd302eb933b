/* kvstow.c - this store, with its defaults, through its public header.
 *
 * What the others are given as a key it finds by the tokens: every figure includes hashing and comparing those of the
 * whole prefix.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <kvstow/kvstow.h>
#include <stdlib.h>
#include <string.h>

#include "bench/measure.h"
#include "bench/peers/peer.h"

enum { LAYERS = 16, SINGLE_TOKEN = 1 << 30 };

struct store {
  kvstow *cache;
  kvstow_space *space;
  size_t block_bytes, chain, block_tokens;
  kvstow_token *tokens; /* of the context */
};

static void close_store(void *arg) {
  struct store *store = arg;
  if (store->cache != NULL) {
    const int rc = kvstow_close(store->cache);
    if (rc != 0) peer_say("kvstow", "close: %s", kvstow_strerror(rc));
  }
  free(store->tokens);
  free(store);
}

static int open_cache(struct store *store, const struct peer_place *place, char *why) {
  const uint64_t record = place->block_bytes + 4096, all = place->blocks * record;
  kvstow_options o;
  kvstow_options_init(&o);
  o.dirs = &place->dir, o.dirs_count = 1;
  o.ram_bytes = PEER_RAM_BYTES;
  o.ssd_bytes = all + all / 8 + (256 << 20); /* segments end where no whole block fits */
  int rc = kvstow_open(&o, &store->cache, why, KVSTOW_MESSAGE_BYTES);
  if (rc != 0) return rc;
  kvstow_space_options s;
  kvstow_space_options_init(&s);
  s.name = s.fingerprint = "peers", s.fingerprint_bytes = sizeof "peers";
  s.layers = LAYERS;
  s.k_bytes = s.v_bytes = PEER_TOKEN_BYTES / LAYERS / 2;
  s.block_tokens = (uint32_t)store->block_tokens;
  rc = kvstow_space_open(store->cache, &s, &store->space);
  if (rc != 0) kvstow_message(store->cache, why, KVSTOW_MESSAGE_BYTES);
  return rc;
}

static void *open_store(const struct peer_place *place) {
  struct store *store = calloc(1, sizeof *store);
  char why[KVSTOW_MESSAGE_BYTES] = "out of memory";
  if (store != NULL) {
    store->block_bytes = place->block_bytes;
    store->chain = place->chain;
    store->block_tokens = place->block_bytes / PEER_TOKEN_BYTES;
    store->tokens = malloc(place->chain * store->block_tokens * sizeof *store->tokens);
    for (size_t i = 0; store->tokens != NULL && i < place->chain * store->block_tokens; i++)
      store->tokens[i] = (kvstow_token)i;
    if (store->tokens != NULL && open_cache(store, place, why) == 0) return store;
    close_store(store);
  }
  peer_say("kvstow", "%s", why);
  return NULL;
}

/* Which prefix ends with this block, and which of its blocks that is. */
static kvstow_prefix prefix_of(const struct store *store, size_t block, kvstow_token *single,
                               size_t *at) {
  const bool alone = block >= store->chain;
  *at = alone ? 0 : block;
  for (size_t i = 0; alone && i < store->block_tokens; i++)
    single[i] = (kvstow_token)(SINGLE_TOKEN + block);
  return (kvstow_prefix)KVSTOW_PREFIX(store->space, alone ? single : store->tokens,
                                      (*at + 1) * store->block_tokens);
}

enum { BLOCK_TOKENS_MAX = 1024 };

static bool put(void *arg, unsigned thread, size_t block, const void *bytes) {
  (void)thread;
  const struct store *store = arg;
  kvstow_token single[BLOCK_TOKENS_MAX];
  struct iovec iov = {(void *)(uintptr_t)bytes, store->block_bytes};
  const kvstow_source source = {&iov, 1};
  size_t at;
  const kvstow_prefix prefix = prefix_of(store, block, single, &at);
  const int rc = kvstow_store(&prefix, at, 1, &source, 0, NULL);
  return rc == 0 || peer_say("kvstow", "block %zu: %s", block, kvstow_strerror(rc));
}

static bool sync_store(void *arg) {
  const struct store *store = arg;
  const int rc = kvstow_flush(store->cache);
  return rc == 0 || peer_say("kvstow", "flush: %s", kvstow_strerror(rc));
}

static enum peer_got got(int rc) {
  return rc == 0 ? PEER_HELD : rc == KVSTOW_EMISS ? PEER_MISSING : PEER_REFUSED;
}

static enum peer_got get(void *arg, unsigned thread, size_t block, void *bytes) {
  (void)thread;
  const struct store *store = arg;
  kvstow_token single[BLOCK_TOKENS_MAX];
  size_t at;
  const kvstow_prefix prefix = prefix_of(store, block, single, &at);
  kvstow_lease *lease;
  kvstow_held held;
  int rc = kvstow_match(&prefix, KVSTOW_NO_PROMOTE, &lease, &held);
  if (rc == 0 && held.blocks <= at) rc = KVSTOW_EMISS;
  if (rc == 0) rc = kvstow_read_blocks(lease, at, 1, &bytes, NULL, KVSTOW_BYPASS_RAM, 0);
  kvstow_lease_release(lease);
  return got(rc);
}

/* Two reads at once, so that the first block can be told from the rest. */
static int read_chain(const struct store *store, kvstow_lease *lease, size_t blocks,
                      void *const *payloads, uint64_t *first_ns) {
  kvstow_queue *queue;
  kvstow_completion done = {0};
  int rc = kvstow_queue_create(store->cache, &queue), pending = 0;
  if (rc != 0) return rc;
  for (size_t first = 0; first < blocks && rc == 0; first++, pending++) {
    rc = kvstow_read_blocks_async(lease, first, first == 0 ? 1 : blocks - 1, payloads + first, NULL,
                                  KVSTOW_BYPASS_RAM, 0, queue, (void *)(payloads + first), NULL);
    if (first == 1) first = blocks - 1;
  }
  while (pending > 0) {
    if (kvstow_queue_poll(queue, &done, 1, 1000) == 0) continue;
    pending--;
    if (done.user == (const void *)payloads) *first_ns = measure_now_ns();
    if (rc == 0) rc = done.result;
  }
  (void)kvstow_queue_destroy(queue);
  return rc;
}

static enum peer_got get_chain(void *arg, size_t blocks, char *bytes, uint64_t *first_ns) {
  const struct store *store = arg;
  const kvstow_prefix prefix =
      KVSTOW_PREFIX(store->space, store->tokens, blocks * store->block_tokens);
  void **payloads = malloc(blocks * sizeof *payloads);
  kvstow_lease *lease = NULL;
  kvstow_held held;
  int rc =
      payloads == NULL ? KVSTOW_ENOMEM : kvstow_match(&prefix, KVSTOW_NO_PROMOTE, &lease, &held);
  for (size_t b = 0; b < blocks && rc == 0; b++) payloads[b] = bytes + b * store->block_bytes;
  if (rc == 0 && held.blocks < blocks) rc = KVSTOW_EMISS;
  if (rc == 0) rc = read_chain(store, lease, blocks, payloads, first_ns);
  kvstow_lease_release(lease);
  free(payloads);
  return got(rc);
}

const struct peer peer_kvstow = {
    .name = "kvstow",
    .setup = "defaults; 128 MiB of RAM; store, flush; match, read_blocks past RAM; O_DIRECT",
    .one_writer = true,
    .open = open_store,
    .put = put,
    .sync = sync_store,
    .get = get,
    .chain = get_chain,
    .close = close_store,
};
