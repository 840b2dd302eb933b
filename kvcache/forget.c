/* forget.c - forgetting for good, and pinning.
 *
 * Forgetting selects entries, drops their frames, and erases their records on SSD; a block being
 * written or loaded is waited for first. Only after the erase may the caller be told: a tenant that has
 * left must not come back with the next recovery.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "kvcache/store.h"

bool kvs_choose(struct kvs_chosen *chosen, const kvstow *store, uint32_t id) {
  if (chosen->count == chosen->room) {
    const size_t room = chosen->room == 0 ? 256 : chosen->room * 2;
    struct kvs_wanted *grown = realloc(chosen->row, room * sizeof *grown);
    if (grown == NULL) return false;
    chosen->row = grown;
    chosen->room = room;
  }
  chosen->row[chosen->count++] =
      (struct kvs_wanted){.key = kvs_entry(&store->index, id)->key, .id = id};
  return true;
}

/* ---- what extends a block ------------------------------------------------------------------- */

/* Keys (half of them) in an open-addressed table; 0 is nobody's. */
struct key_set {
  uint64_t *slot;
  size_t mask;
};

static bool set_has(const struct key_set *set, uint64_t key) {
  for (size_t i = key & set->mask; set->slot[i] != 0; i = (i + 1) & set->mask)
    if (set->slot[i] == key) return true;
  return false;
}

static void set_add(struct key_set *set, uint64_t key) {
  size_t i = key & set->mask;
  while (set->slot[i] != 0 && set->slot[i] != key) i = (i + 1) & set->mask;
  set->slot[i] = key;
}

static int by_depth(const void *a, const void *b) {
  const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

/* Chooses block `first` of the chain and all that extends it. Going down by depth, a block is spared
 * only if its parent was: one whose ancestors are not all held can't prove whose child it is. */
static int choose_chain(kvstow *store, const struct kvs_chain *chain, size_t first,
                        struct kvs_chosen *chosen) {
  uint64_t *order = NULL; /* depth << 32 | id */
  size_t count = 0;
  for (int pass = 0; pass < 2; pass++) {
    size_t n = 0;
    for (uint32_t id = 0; id < store->index.used; id++) {
      const struct kvs_entry *entry = kvs_entry(&store->index, id);
      if (!kvs_entry_listed(entry) || entry->root != chain->root || entry->depth < first) continue;
      if (order != NULL) order[n] = (uint64_t)entry->depth << 32 | id;
      n++;
    }
    count = n;
    if (n == 0) return 0;
    if (pass == 0 && (order = malloc(n * sizeof *order)) == NULL) return KVSTOW_ENOMEM;
  }
  struct key_set spared = {.mask = 1};
  while (spared.mask < 2 * count) spared.mask = spared.mask * 2 + 1;
  spared.slot = calloc(spared.mask + 1, sizeof *spared.slot);
  int rc = spared.slot == NULL ? KVSTOW_ENOMEM : 0;
  qsort(order, count, sizeof *order, by_depth);
  for (size_t i = 0; i < count && rc == 0; i++) {
    const uint32_t id = (uint32_t)order[i];
    const struct kvs_entry *entry = kvs_entry(&store->index, id);
    const bool spare = entry->depth == first ? !kvs_key_equal(entry->key, chain->keys[first + 1])
                                             : set_has(&spared, entry->parent_lo);
    if (spare)
      set_add(&spared, entry->key.lo);
    else if (!kvs_choose(chosen, store, id))
      rc = KVSTOW_ENOMEM;
  }
  free(spared.slot);
  free(order);
  return rc;
}

/* ---- forgetting ----------------------------------------------------------------------------- */

struct kvs_entry *kvs_chosen_still(const kvstow *store, const struct kvs_wanted *row) {
  struct kvs_entry *entry = kvs_entry(&store->index, row->id);
  return kvs_entry_listed(entry) && kvs_key_equal(entry->key, row->key) ? entry : NULL;
}

bool kvs_remove(kvstow *store, uint32_t id) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  uint32_t frame;
  if (entry->ram_pins > 0 || (entry->flags & (KVS_LOADING | KVS_DEMOTING)) != 0 ||
      !kvs_take_frame(store, id, true, &frame))
    return false;
  kvs_ram_unlist(store, id);
  if ((entry->flags & KVS_SSD) != 0) kvs_ssd_lose(store, id, true);
  if (frame != KVS_NO_FRAME) kvs_ram_give(store, frame, entry->padded_bytes);
  kvs_unlinked(store, id);
  store->count.evicted_blocks--; /* it was asked for */
  return true;
}

/* The same, but a block being read or written is waited for. */
static bool forget_settled(kvstow *store, const struct kvs_wanted *row, uint64_t deadline_us,
                           size_t *gone) {
  for (;;) {
    const struct kvs_entry *entry = kvs_chosen_still(store, row);
    if (entry == NULL) return true;
    if (kvs_remove(store, row->id)) {
      store->count.forgotten_blocks++;
      ++*gone;
      return true;
    }
    if ((entry->flags & (KVS_LOADING | KVS_DEMOTING)) == 0 || !kvs_wait_until(store, deadline_us))
      return false;
  }
}

/* Erases what is buried, and what can still be read in segments given up: blocks long evicted would come
 * back from there after a crash. So would those of segments that could not be read at opening. */
static int erase_for_good(kvstow *store) {
  if (store->tier == NULL) return 0;
  kvs_lock(store);
  for (uint32_t i = 0; i < store->segments_count; i++) {
    if (!store->segments[i].unread) continue;
    (void)kvstow_tier_reclaim(store->tier, i); /* or it is being given up */
    store->segments[i].unread = false;
  }
  kvstow__unlock(&store->lock);
  const int buried = kvs_erase_buried(store);
  const int given_up = kvstow_tier_erase(store->tier, NULL, 0);
  return buried != 0 ? buried : given_up;
}

/* Ends with the store's lock released. */
static int forget_chosen(kvstow *store, struct kvs_chosen *chosen, int rc, size_t *blocks) {
  const uint64_t deadline = kvs_deadline(store, 0);
  size_t gone = 0;
  for (size_t i = 0; i < chosen->count; i++)
    if (!forget_settled(store, &chosen->row[i], deadline, &gone) && rc == 0)
      rc = kvs_fail(store, KVSTOW_EBUSY, "forget: some blocks are leased or in use");
  kvs_reclaim_bury_moved(store); /* their old records are as good as the new ones */
  pthread_cond_broadcast(&store->changed);
  kvstow__unlock(&store->lock);
  free(chosen->row);
  if (blocks != NULL) *blocks = gone;
  const int erased = erase_for_good(store);
  return erased != 0 ? erased : rc;
}

int kvstow_forget(const kvstow_prefix *prefix, size_t first, size_t *blocks) {
  if (blocks != NULL) *blocks = 0;
  struct kvs_chain chain;
  int rc = kvs_chain_init(&chain, prefix, SIZE_MAX, false);
  if (rc != 0) return rc;
  kvstow *store = chain.store;
  if (first >= chain.blocks) {
    rc = kvs_fail(store, KVSTOW_EINVAL, "forget: block %zu of %zu", first, chain.blocks);
  } else {
    struct kvs_chosen chosen = {0};
    kvs_lock(store);
    if (chain.root != KVS_NO_ENTRY) rc = choose_chain(store, &chain, first, &chosen);
    rc = forget_chosen(store, &chosen, rc, blocks);
  }
  kvs_chain_finish(&chain);
  return rc;
}

/* All entries whose root is the given one, or belongs to the space. */
static int forget_roots(kvstow *store, uint32_t root, const kvstow_key *space, size_t *blocks) {
  struct kvs_chosen chosen = {0};
  int rc = 0;
  kvs_lock(store);
  for (uint32_t id = 0; id < store->index.used && rc == 0; id++) {
    const struct kvs_entry *entry = kvs_entry(&store->index, id);
    if (!kvs_entry_listed(entry)) continue;
    const bool match = space == NULL
                           ? entry->root == root
                           : kvs_key_equal(store->roots.rows[entry->root].space_id, *space);
    if (match && !kvs_choose(&chosen, store, id)) rc = KVSTOW_ENOMEM;
  }
  return forget_chosen(store, &chosen, rc, blocks);
}

int kvstow_forget_salt(kvstow_space *space, const void *salt, size_t salt_bytes, size_t *blocks) {
  if (blocks != NULL) *blocks = 0;
  const kvstow_prefix prefix = {
      .size = sizeof prefix, .space = space, .salt = salt, .salt_bytes = salt_bytes};
  struct kvs_chain chain;
  int rc = kvs_chain_init(&chain, &prefix, 0, false);
  if (rc != 0) return rc;
  rc = forget_roots(chain.store, chain.root, NULL, blocks); /* no listed entry has KVS_NO_ENTRY */
  kvs_chain_finish(&chain);
  return rc;
}

int kvstow_forget_space(kvstow_space *space, size_t *blocks) {
  if (blocks != NULL) *blocks = 0;
  return space == NULL ? KVSTOW_EINVAL
                       : forget_roots(space->store, KVS_NO_ENTRY, &space->id, blocks);
}

/* ---- pins ----------------------------------------------------------------------------------- */

static void pin_one(kvstow *store, uint32_t id) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  const bool valued = (entry->flags & KVS_SSD_POLICY) != 0;
  kvs_ram_unlist(store, id);
  if (valued) {
    kvs_policy_remove(store, &store->ssd, id);
  } else if ((entry->flags & KVS_SSD) != 0) {
    kvs_ssd_value(store, id, true);
  }
  entry->flags |= KVS_PINNED;
  store->pinned_bytes += (uint64_t)entry->padded_bytes + KVSTOW_PAGE_BYTES;
  store->pinned_blocks++;
}

static void unpin_one(kvstow *store, uint32_t id) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  entry->flags &= (uint16_t)~KVS_PINNED;
  store->pinned_bytes -= (uint64_t)entry->padded_bytes + KVSTOW_PAGE_BYTES;
  store->pinned_blocks--;
  const bool in_ram = entry->frame != KVS_NO_FRAME;
  const kvstow_whence whence = in_ram ? KVSTOW_IN_RAM : KVSTOW_ON_SSD;
  if ((entry->flags & KVS_SSD) != 0) {
    const kvstow_access access = kvs_access_alone(store, id, whence, KVS_SSD_POLICY);
    kvs_ssd_value(store, id, false);
    kvs_ssd_use(store, id, &access);
  }
  if ((entry->flags & KVS_DEMOTING) != 0) {
    entry->flags |= KVS_RESCUED; /* listed when the write has ended */
  } else if (in_ram) {
    const kvstow_access access = kvs_access_alone(store, id, whence, KVS_RAM_POLICY);
    kvs_ram_insert(store, id, &access);
  }
}

int kvstow_pin(const kvstow_prefix *prefix, bool pinned, size_t *blocks) {
  size_t done = 0;
  struct kvs_chain chain;
  int rc = kvs_chain_init(&chain, prefix, SIZE_MAX, false);
  if (rc != 0) return rc;
  kvstow *store = chain.store;
  for (; done < chain.blocks && rc == 0; done += rc == 0) {
    bool in_ram;
    const uint32_t id = kvs_chain_find(&chain, done, true, &in_ram);
    if (id == KVS_NO_ENTRY) break;
    kvs_lock(store);
    struct kvs_entry *entry = kvs_entry(&store->index, id);
    const bool was = (entry->flags & KVS_PINNED) != 0;
    if (pinned && !was && store->pinned_bytes + entry->padded_bytes > store->options.ram_bytes / 2)
      rc = kvs_fail(store, KVSTOW_EFULL, "pin: pinned blocks would exceed half of RAM");
    else if ((entry->flags & KVS_UNLINKED) == 0 && pinned != was)
      (pinned ? pin_one : unpin_one)(store, id);
    kvs_lease_drop_locked(store, id);
    kvstow__unlock(&store->lock);
  }
  kvs_chain_finish(&chain);
  if (blocks != NULL) *blocks = done;
  return rc;
}
