/* match.c - what do we hold of these tokens? And the lease on it.
 *
 * The chain's keys are computed first, then each block is looked up under its shard's lock alone: the
 * store's lock is taken once, to tell the policies and to start promotions.
 *
 * A block in RAM has its tokens compared while it is found. One on SSD is believed by its key until it
 * has been read; then its tokens are compared with those kept in the lease.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "kvcache/store.h"

#define SPARE_TOKENS_BYTES_MAX ((size_t)4 << 20)

int kvstow_exists(const kvstow_prefix *prefix, kvstow_held *held) {
  if (held == NULL) return kvs_prefix_fail(prefix, "exists: held is NULL");
  *held = (kvstow_held){0};
  struct kvs_chain chain;
  const int rc = kvs_chain_begin(&chain, prefix, SIZE_MAX, false);
  if (rc != 0) return rc;
  bool in_ram;
  for (size_t i = 0; i < chain.blocks; i++) {
    if (kvs_chain_next(&chain, i, false, &in_ram) == KVS_NO_ENTRY) break;
    held->blocks++;
    held->ram_blocks += in_ram;
    held->ssd_blocks += !in_ram;
  }
  held->tokens = held->blocks * chain.space->layout.block_tokens;
  kvs_chain_finish(&chain);
  return 0;
}

int kvstow_exists_batch(const kvstow_prefix *prefixes, size_t count, kvstow_held *held,
                        int *results) {
  if (prefixes == NULL || held == NULL || results == NULL)
    return kvs_prefix_fail(count > 0 ? prefixes : NULL, "exists_batch: held or results is NULL");
  for (size_t i = 0; i < count; i++) results[i] = kvstow_exists(&prefixes[i], &held[i]);
  return 0;
}

/* ---- leases --------------------------------------------------------------------------------- */

/* The first touch of fresh memory costs more than all else in a long match: one room is kept. */
static struct kvs_tokens *take_tokens(kvstow *store, size_t bytes) {
  struct kvs_tokens *room = atomic_exchange(&store->spare_tokens, NULL);
  if (room != NULL && room->bytes >= bytes) return room;
  free(room);
  room = malloc(sizeof *room + bytes);
  if (room != NULL) room->bytes = bytes;
  return room;
}

static void give_tokens(kvstow *store, struct kvs_tokens *room) {
  if (room == NULL || room->bytes > SPARE_TOKENS_BYTES_MAX)
    free(room);
  else
    free(atomic_exchange(&store->spare_tokens, room));
}

/* Of the lease's last block, which is on SSD or behind one that is; of all before it too when it is the first. */
static bool keep_tokens(kvstow_lease *lease, const struct kvs_chain *chain) {
  const size_t tokens = chain->space->layout.block_tokens, each = tokens * sizeof(kvstow_token);
  size_t from = lease->blocks - 1;
  if (lease->kept == NULL) {
    from = 0;
    lease->kept = take_tokens(lease->store, chain->blocks * each);
    if (lease->kept == NULL) return false;
  }
  memcpy(lease->kept->token + from * tokens, chain->prefix->tokens + from * tokens,
         (lease->blocks - from) * each);
  return true;
}

/* Leases the leading run found, and says in which tier each block was. NULL: nothing, or no memory. */
static kvstow_lease *lease_find(struct kvs_chain *chain, kvstow_held *held, int *rc) {
  *rc = KVSTOW_EMISS;
  if (chain->blocks == 0 || chain->root == KVS_NO_ENTRY) return NULL;
  kvstow_lease *lease = malloc(sizeof *lease + chain->blocks * sizeof(struct kvs_lease_block));
  if (lease == NULL) {
    *rc = KVSTOW_ENOMEM;
    return NULL;
  }
  *lease = (kvstow_lease){.store = chain->store, .space = chain->space, .root = chain->root};
  bool remembered = true;
  for (size_t i = 0; i < chain->blocks && remembered; i++) {
    bool in_ram;
    const uint32_t id = kvs_chain_next(chain, i, true, &in_ram);
    if (id == KVS_NO_ENTRY) break;
    lease->block[lease->blocks++] = (struct kvs_lease_block){.id = id, .verified = in_ram};
    held->ram_blocks += in_ram;
    if (!in_ram || lease->kept != NULL) remembered = keep_tokens(lease, chain);
  }
  held->blocks = lease->blocks;
  held->ssd_blocks = held->blocks - held->ram_blocks;
  held->tokens = held->blocks * chain->space->layout.block_tokens;
  *rc = lease->blocks == 0 ? KVSTOW_EMISS : remembered ? 0 : KVSTOW_ENOMEM;
  if (*rc == 0) {
    atomic_init(&lease->good, lease->blocks);
    return lease;
  }
  for (size_t i = 0; i < lease->blocks; i++) kvs_lease_drop(chain->store, lease->block[i].id);
  free(lease);
  *held = (kvstow_held){0};
  return NULL;
}

/* Last block first (see put.c). */
void kvs_tell_lease(kvstow *store) {
  const kvstow_lease *lease = store->untold;
  kvstow_access access = kvs_access_of(&lease->request);
  access.now_ms = lease->used_ms;
  store->untold = NULL;
  for (size_t i = lease->blocks; i-- > 0;) {
    const uint32_t id = lease->block[i].id;
    kvs_access_block(store, id, &access);
    access.parent = i > 0 ? lease->block[i - 1].id : KVS_NO_ENTRY;
    kvs_use(store, id, &access);
  }
}

static void count_match(kvstow *store, const struct kvs_chain *chain, const kvstow_held *held) {
  if (!store->options.metrics) return;
  store->count.matches++;
  store->count.match_blocks_asked += chain->blocks;
  store->count.match_tokens_asked += chain->prefix->tokens_count;
  store->count.ram_hit_blocks += held->ram_blocks;
  store->count.ssd_hit_blocks += held->ssd_blocks;
  store->count.hit_tokens += held->tokens;
}

int kvstow_match(const kvstow_prefix *prefix, uint32_t flags, kvstow_lease **out,
                 kvstow_held *held_out) {
  kvstow_held held = {0};
  if (out == NULL) return kvs_prefix_fail(prefix, "match: lease is NULL");
  *out = NULL;
  if (held_out != NULL) *held_out = held;
  const uint64_t start =
      prefix != NULL && prefix->space != NULL
          ? kvs_clock_sample(prefix->space->store, &prefix->space->store->match_time)
          : 0;
  struct kvs_chain chain;
  int rc = kvs_chain_begin(&chain, prefix, SIZE_MAX, false);
  if (rc != 0) return rc;
  kvstow *store = chain.store;
  rc = kvs_check_flags(store, "match", flags);
  if (rc != 0) {
    kvs_chain_finish(&chain);
    return rc;
  }
  kvstow_lease *lease = lease_find(&chain, &held, &rc);
  struct kvs_reads reads;
  reads.count = 0;
  if (store->trace != NULL) kvs_chain_name(&chain);
  kvs_lock(store);
  const struct kvs_request request = kvs_request_begin(store, &chain);
  const size_t found = lease == NULL ? 0 : lease->blocks;
  if (chain.named > found)
    kvs_request_awaits(store, &request, chain.keys[found + 1]);
  else if (found > 0)
    kvs_request_goes_on(store, &request, chain.keys[found]);
  if (lease != NULL) {
    lease->request = request;
    lease->used_ms = kvs_now_ms();
    store->untold = lease;
    store->roots.rows[lease->root].refs++;
    store->leases++;
    lease->promote = (flags & KVSTOW_NO_PROMOTE) == 0;
    if (held.ssd_blocks == 0) {
      lease->promoted = lease->blocks;
    } else if (lease->promote && store->options.tuning.enable_prefetch) {
      kvs_tell(store); /* the policies will be asked for room */
      kvs_lease_promote(lease, 0, &reads);
    }
  }
  if (store->trace != NULL)
    kvs_trace_match(store->trace,
                    &(struct kvs_traced){.space = chain.space,
                                         .request = &request,
                                         .tokens = prefix->tokens_count,
                                         .blocks = chain.blocks,
                                         .keys = chain.keys},
                    found, lease != NULL ? lease->used_ms : kvs_now_ms());
  count_match(store, &chain, &held);
  kvs_chain_leave(&chain); /* here: who takes the lock next tells the policies */
  kvstow__unlock(&store->lock);
  kvs_loads_submit(store, &reads);
  kvs_chain_finish(&chain);
  *out = lease;
  if (held_out != NULL) *held_out = held;
  kvs_clock_stop(&store->match_time, start);
  return rc;
}

int kvstow_match_batch(const kvstow_prefix *prefixes, size_t count, uint32_t flags,
                       kvstow_lease **leases, kvstow_held *held, int *results) {
  if (prefixes == NULL || leases == NULL || results == NULL)
    return kvs_prefix_fail(count > 0 ? prefixes : NULL, "match_batch: leases or results is NULL");
  for (size_t i = 0; i < count; i++)
    results[i] = kvstow_match(&prefixes[i], flags, &leases[i], held == NULL ? NULL : &held[i]);
  return 0;
}

int kvstow_prefetch(const kvstow_prefix *prefix) {
  struct kvs_chain chain;
  int rc = kvs_chain_begin(&chain, prefix, SIZE_MAX, false);
  if (rc != 0) return rc;
  kvstow *store = chain.store;
  kvstow_held held = {0};
  kvstow_lease *lease = lease_find(&chain, &held, &rc);
  kvs_chain_finish(&chain);
  if (lease == NULL) return rc == KVSTOW_EMISS ? 0 : rc;
  struct kvs_reads reads;
  reads.count = 0;
  kvs_lock(store);
  store->roots.rows[lease->root].refs++;
  store->leases++;
  kvs_lease_promote(lease, 0, &reads);
  kvstow__unlock(&store->lock);
  kvs_loads_submit(store, &reads);
  kvstow_lease_release(lease);
  return 0;
}

void kvstow_lease_release(kvstow_lease *lease) {
  if (lease == NULL) return;
  kvstow *store = lease->store;
  if (lease->layers.window != NULL) kvs_layers_drop(store, lease->layers.window);
  kvs_lock(store);
  for (size_t i = 0; i < lease->blocks; i++) {
    if (lease->block[i].viewed) kvs_entry(&store->index, lease->block[i].id)->ram_pins--;
    kvs_lease_drop_locked(store, lease->block[i].id);
  }
  kvs_root_give(store, lease->root);
  store->leases--;
  pthread_cond_broadcast(&store->changed);
  kvstow__unlock(&store->lock);
  give_tokens(store, lease->kept);
  free(lease);
}

size_t kvstow_lease_tokens(const kvstow_lease *lease) {
  return lease == NULL ? 0 : atomic_load(&lease->good) * lease->space->layout.block_tokens;
}

void kvs_lease_bad(kvstow_lease *lease, size_t i) {
  size_t good = atomic_load(&lease->good);
  while (i < good && !atomic_compare_exchange_weak(&lease->good, &good, i)) continue;
}

bool kvs_lease_tokens_equal(const kvstow_lease *lease, size_t i, const void *header) {
  const uint32_t tokens = lease->space->layout.block_tokens;
  kvstow_block_info info;
  return kvstow_block_describe(header, &info) == 0 && info.tokens_count == tokens &&
         memcmp(info.tokens, lease->kept->token + i * tokens, tokens * sizeof(kvstow_token)) == 0;
}

/* ---- promotion of a lease ------------------------------------------------------------------- */

/* What of a lease does not fit in RAM would only push out other parts of it. Worked out when something is to be
 * loaded: most matches are of RAM alone, and a look at each block's entry is a fifth of a long one. */
static void budget(kvstow_lease *lease) {
  const kvstow *store = lease->store;
  const uint64_t most = store->capacity_bytes / 100 * store->options.low_watermark_pct;
  uint64_t all = store->pinned_bytes, in_ram = store->pinned_bytes;
  for (size_t i = 0; i < lease->blocks; i++) {
    const struct kvs_entry *entry = kvs_entry(&store->index, lease->block[i].id);
    if ((entry->flags & KVS_PINNED) != 0) continue;
    all += entry->padded_bytes;
    if (entry->frame != KVS_NO_FRAME) in_ram += entry->padded_bytes;
  }
  lease->promote_bytes = all <= most ? UINT64_MAX : most > in_ram ? most - in_ram : 0;
  lease->budgeted = true;
}

int kvs_lease_load(kvstow_lease *lease, size_t i, bool ahead, struct kvs_reads *reads) {
  kvstow *store = lease->store;
  const uint32_t id = lease->block[i].id;
  const struct kvs_entry *entry = kvs_entry(&store->index, id);
  if (entry->frame != KVS_NO_FRAME || (entry->flags & KVS_LOADING) != 0) return 0;
  if (!lease->budgeted) budget(lease);
  if (lease->promote_bytes < entry->padded_bytes) return KVSTOW_EFULL;
  const int rc = kvs_load_start(store, id, ahead ? KVSTOW_PREFETCH : KVSTOW_DEMAND, ahead,
                                &lease->request, reads);
  if (rc == 0 && lease->promote_bytes != UINT64_MAX) lease->promote_bytes -= entry->padded_bytes;
  return rc;
}

/* Not before half of what may be under way has ended: neighbours travel together. */
void kvs_lease_promote(kvstow_lease *lease, size_t i, struct kvs_reads *reads) {
  if (lease->store->loads_bytes > KVS_LOADS_BYTES / 2) return;
  const bool follows = i <= lease->promoted;
  while (i < lease->blocks && kvs_lease_load(lease, i, true, reads) == 0) i++;
  if (follows && i > lease->promoted) lease->promoted = i;
}

/* A block that is in RAM is verified now; one that failed shortens the lease. */
static void settle(kvstow_lease *lease, size_t i) {
  kvstow *store = lease->store;
  const struct kvs_entry *entry = kvs_entry(&store->index, lease->block[i].id);
  if ((entry->flags & KVS_UNLINKED) != 0) {
    kvs_lease_bad(lease, i);
  } else if (entry->frame != KVS_NO_FRAME && !lease->block[i].verified) {
    if (kvs_lease_tokens_equal(lease, i, kvs_pool_header(store->pool, entry->frame))) {
      lease->block[i].verified = true;
    } else {
      store->count.collisions++;
      kvs_lease_bad(lease, i);
    }
  }
}

int kvs_lease_poll(kvstow_lease *lease, size_t *next, kvstow_held *held) {
  kvstow *store = lease->store;
  struct kvs_reads reads;
  reads.count = 0;
  int rc = 0;
  kvs_lock(store);
  for (; rc == 0 && *next < atomic_load(&lease->good); ++*next) {
    const uint32_t id = lease->block[*next].id;
    if (kvs_entry(&store->index, id)->frame == KVS_NO_FRAME) {
      kvs_lease_promote(lease, *next, &reads);
      if ((kvs_entry(&store->index, id)->flags & KVS_LOADING) != 0) {
        rc = KVSTOW_EAGAIN;
        break;
      }
    }
    settle(lease, *next);
  }
  if (rc == 0 && held != NULL) {
    *held = (kvstow_held){.blocks = atomic_load(&lease->good)};
    held->tokens = held->blocks * lease->space->layout.block_tokens;
    for (size_t i = 0; i < held->blocks; i++) {
      const bool in_ram = kvs_entry(&store->index, lease->block[i].id)->frame != KVS_NO_FRAME;
      held->ram_blocks += in_ram;
      held->ssd_blocks += !in_ram;
    }
  }
  kvstow__unlock(&store->lock);
  kvs_loads_submit(store, &reads);
  return rc;
}

int kvstow_lease_wait(kvstow_lease *lease, uint32_t timeout_ms, kvstow_held *held) {
  if (lease == NULL) return KVSTOW_EINVAL;
  kvstow *store = lease->store;
  const uint64_t deadline = kvs_deadline(store, timeout_ms);
  size_t next = 0;
  for (;;) {
    int rc = kvs_lease_poll(lease, &next, held);
    if (rc != KVSTOW_EAGAIN) return rc;
    kvs_lock(store);
    if (!kvs_load_wait(store, lease->block[next].id, deadline)) {
      store->count.timeouts++;
      rc = KVSTOW_ETIMEDOUT;
    }
    kvstow__unlock(&store->lock);
    if (rc == KVSTOW_ETIMEDOUT) return rc;
  }
}
