/* access.c - what the policies are told of a use: which block, after which, and in which request.
 *
 * A request's blocks are found by one call and stored by others. Nobody says that these belong together,
 * but their keys do: a match leaves a note under the key of the first block it did not find (or the last it
 * found, if that was all), and whoever stores that block, or one behind it, goes on with the same request
 * and leaves the note under what it stored last. A note is one row of a small table, overwritten by the
 * next that falls there: then the rest of the request counts as another one.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/store.h"

static struct kvs_note *note_of(kvstow *store, kvstow_key key) {
  return &store->notes[key.lo % KVS_NOTES];
}

static struct kvs_request request_of(const kvstow_prefix *prefix, uint64_t number, size_t blocks) {
  return (struct kvs_request){.number = number,
                              .session = prefix->session,
                              .recompute_cost = prefix->recompute_cost,
                              .chain_blocks = blocks < UINT32_MAX ? (uint32_t)blocks : UINT32_MAX,
                              .category = prefix->category};
}

struct kvs_request kvs_request_begin(kvstow *store, const struct kvs_chain *chain) {
  return request_of(chain->prefix, ++store->request_clock, chain->blocks);
}

static void leave_note(kvstow *store, const struct kvs_request *request, kvstow_key key,
                       bool awaited) {
  *note_of(store, key) = (struct kvs_note){.key_lo = key.lo,
                                           .number = request->number,
                                           .chain_blocks = request->chain_blocks,
                                           .awaited = awaited};
}

void kvs_request_goes_on(kvstow *store, const struct kvs_request *request, kvstow_key key) {
  leave_note(store, request, key, false);
}

void kvs_request_awaits(kvstow *store, const struct kvs_request *request, kvstow_key key) {
  leave_note(store, request, key, true);
}

struct kvs_request kvs_request_of(kvstow *store, const kvstow_prefix *prefix, kvstow_key key,
                                  kvstow_key parent, size_t blocks) {
  struct kvs_note *note = note_of(store, key);
  if (note->number == 0 || note->key_lo != key.lo || !note->awaited) {
    note = note_of(store, parent);
    if (note->number == 0 || note->key_lo != parent.lo)
      return request_of(prefix, ++store->request_clock, blocks);
  }
  if (note->key_lo == key.lo) note->awaited = false; /* once */
  return request_of(prefix, note->number,
                    note->chain_blocks > blocks ? note->chain_blocks : blocks);
}

/* ---- one block ------------------------------------------------------------------------------ */

kvstow_access kvs_access_of(const struct kvs_request *request) {
  return (kvstow_access){.request = request->number,
                         .session = request->session,
                         .now_ms = kvs_now_ms(),
                         .recompute_cost = request->recompute_cost,
                         .parent = KVSTOW_NO_ID,
                         .chain_blocks = request->chain_blocks,
                         .category = request->category};
}

void kvs_access_block(const kvstow *store, uint32_t id, kvstow_access *access) {
  const struct kvs_entry *entry = kvs_entry(&store->index, id);
  access->key_lo = entry->key.lo;
  access->key_hi = entry->key.hi;
  access->depth = entry->depth;
  access->tokens = store->roots.rows[entry->root].block_tokens;
  access->bytes = entry->padded_bytes;
}

uint32_t kvs_access_parent(const kvstow *store, uint32_t parent, enum kvs_flag policy) {
  if (parent == KVS_NO_ENTRY || (kvs_entry(&store->index, parent)->flags & policy) == 0)
    return KVSTOW_NO_ID;
  return parent;
}

uint32_t kvs_parent(const kvstow *store, uint64_t parent_lo, uint32_t root, uint32_t depth) {
  return depth == 0 ? KVS_NO_ENTRY : kvs_shard_find_half(&store->index, parent_lo, root);
}

kvstow_access kvs_access_alone(const kvstow *store, uint32_t id, kvstow_whence whence,
                               enum kvs_flag policy) {
  const struct kvs_entry *entry = kvs_entry(&store->index, id);
  kvstow_access access = kvs_access_of(&(struct kvs_request){.number = 0});
  kvs_access_block(store, id, &access);
  access.whence = whence;
  access.parent = kvs_access_parent(
      store, kvs_parent(store, entry->parent_lo, entry->root, entry->depth), policy);
  return access;
}
