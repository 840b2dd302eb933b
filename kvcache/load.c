/* load.c - promotion: a block comes back from SSD into a frame.
 *
 * While it loads, the entry is leased (it can't be freed) and its frame belongs to the load, unseen. The
 * tier has checked header, identity and planes when the completion runs; here the header is compared with
 * what the index believes of the block. Only then does the entry get the frame. Whether the tokens are
 * those somebody asked for is each lease's own comparison.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "kvcache/store.h"

struct kvs_load {
  kvstow_record_read read;
  kvstow *store;
  uint32_t id, frame;
  struct kvs_request request; /* on whose account */
  uint64_t started_ns;
  bool urged;   /* wanted now */
  bool awaited; /* somebody sleeps until it ends */
};

static uint32_t load_slot(kvstow *store) {
  for (uint32_t i = 0; i < store->loads_room; i++) {
    const uint32_t slot = (store->loads_hint + i) % store->loads_room;
    if (store->loads[slot] == NULL) return slot;
  }
  const uint32_t room = store->loads_room == 0 ? 64 : store->loads_room * 2;
  struct kvs_load **grown = realloc(store->loads, room * sizeof(*grown));
  if (grown == NULL) return UINT32_MAX;
  for (uint32_t i = store->loads_room; i < room; i++) grown[i] = NULL;
  const uint32_t slot = store->loads_room;
  store->loads = grown;
  store->loads_room = room;
  return slot;
}

int kvs_load_check(const kvstow *store, uint32_t id, const void *header) {
  const struct kvs_entry *entry = kvs_entry(&store->index, id);
  kvstow_block_info info;
  if (kvstow_block_describe(header, &info) != 0) return KVSTOW_ECORRUPT;
  const struct kvs_root *root = &store->roots.rows[entry->root];
  if (!kvs_key_equal(info.root, root->id) || info.parent.lo != entry->parent_lo ||
      info.depth != entry->depth || info.payload_bytes > entry->padded_bytes)
    return KVSTOW_ECORRUPT;
  return 0;
}

static void give_frame(kvstow *store, uint32_t id, uint32_t frame,
                       const struct kvs_request *request) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  const kvstow_key key = entry->key;
  kvs_shard_lock(&store->index, key);
  entry->frame = frame;
  kvs_shard_unlock(&store->index, key);
  kvs_pool_set_owner(store->pool, frame, id);
  store->ram_blocks++;
  store->both_blocks += (entry->flags & KVS_SSD) != 0;
  entry->flags |= KVS_SUMS;
  kvstow_access access = kvs_access_alone(store, id, KVSTOW_ON_SSD, KVS_RAM_POLICY);
  access.request = request->number;
  access.session = request->session;
  access.recompute_cost = request->recompute_cost;
  access.chain_blocks = request->chain_blocks;
  access.category = request->category;
  kvs_ram_insert(store, id, &access);
  store->count.promoted_blocks++;
  store->count.promoted_bytes += entry->padded_bytes;
  kvs_event(store, KVSTOW_EVENT_PROMOTED, entry);
}

/* A copy that can't be read is no copy. The record may still be whole after a passing fault, or erased
 * but for its line in the footer (power was lost between the two): it is buried, or it would come back
 * with the next recovery, even if it has been forgotten by then. */
void kvs_load_failed(kvstow *store, uint32_t id, int result) {
  const struct kvs_entry *entry = kvs_entry(&store->index, id);
  store->count.failed_loads++;
  if (result == KVSTOW_ECANCELED || result == KVSTOW_ENOMEM) return;
  if (result == KVSTOW_ECORRUPT) {
    store->count.corrupt_blocks++;
    kvs_event(store, KVSTOW_EVENT_CORRUPT, entry);
  }
  if ((entry->flags & KVS_SSD) == 0) return;
  kvs_ssd_lose(store, id, true);
  if (entry->frame == KVS_NO_FRAME) {
    kvs_unlink(store, id);
    store->count.evicted_blocks--; /* lost, not evicted */
  }
  pthread_cond_signal(&store->demote_wake);
}

static void load_done(kvstow_record_read *read) {
  struct kvs_load *load = read->arg;
  kvstow *store = load->store;
  kvs_lock(store);
  const uint32_t id = load->id;
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  int result = read->result;
  if (result == 0) result = kvs_load_check(store, id, read->header);
  store->loads[entry->load] = NULL;
  store->loads_hint = entry->load;
  store->loads_count--;
  store->loads_bytes -= entry->padded_bytes;
  entry->flags &= (uint16_t)~KVS_LOADING;
  if (result == 0) {
    give_frame(store, id, load->frame, &load->request);
  } else {
    entry->flags &= (uint16_t)~KVS_PREFETCHED;
    kvs_ram_give(store, load->frame, entry->padded_bytes);
    kvs_load_failed(store, id, result);
  }
  kvs_lease_drop_locked(store, id);
  kvs_demoter_check(store);
  if (load->awaited || store->waiters > 0) pthread_cond_broadcast(&store->changed);
  kvs_async_wake(store);
  kvstow__unlock(&store->lock);
  kvs_clock_stop(&store->load_time, load->started_ns);
  free(load);
}

int kvs_load_start(kvstow *store, uint32_t id, kvstow_priority priority, bool ahead,
                   const struct kvs_request *request, struct kvs_reads *reads) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  if (entry->frame != KVS_NO_FRAME || (entry->flags & KVS_LOADING) != 0) return 0;
  if ((entry->flags & KVS_SSD) == 0) return KVSTOW_EMISS;
  if (reads->count == KVS_LOADS_A_CALL) return KVSTOW_EFULL;
  if (ahead && store->loads_bytes + entry->padded_bytes > KVS_LOADS_BYTES) return KVSTOW_EFULL;
  const uint32_t slot = load_slot(store);
  struct kvs_load *load = malloc(sizeof *load);
  if (slot == UINT32_MAX || load == NULL) {
    free(load);
    return KVSTOW_ENOMEM;
  }
  const uint32_t frame = kvs_ram_take(store, entry->padded_bytes);
  if (frame == KVS_NO_FRAME) {
    free(load);
    return KVSTOW_EFULL;
  }
  const struct kvs_root *root = &store->roots.rows[entry->root];
  const uint32_t planes = root->layers == 0 ? 1 : root->layers;
  *load = (struct kvs_load){
      .read = {.key = entry->key,
               .loc = entry->loc,
               .plane_bytes = entry->padded_bytes / planes,
               .plane_count = planes,
               .header = kvs_pool_header(store->pool, frame),
               .payload = kvs_pool_payload(store->pool, frame),
               .priority = priority,
               .done = load_done,
               .arg = load},
      .store = store,
      .id = id,
      .frame = frame,
      .request = request == NULL ? (struct kvs_request){0} : *request,
      .started_ns = kvs_clock(store),
      .urged = priority == KVSTOW_DEMAND,
  };
  const kvstow_key key = entry->key;
  kvs_shard_lock(&store->index, key);
  entry->leases++;
  kvs_shard_unlock(&store->index, key);
  entry->flags |= KVS_LOADING;
  entry->flags &= (uint16_t)~KVS_WAITED;
  entry->load = slot;
  if (ahead) {
    entry->flags |= KVS_PREFETCHED;
    store->count.chain.issued++;
  }
  store->loads[slot] = load;
  store->loads_count++;
  store->loads_bytes += entry->padded_bytes;
  reads->list[reads->count++] = &load->read;
  return 0;
}

void kvs_loads_submit(kvstow *store, struct kvs_reads *reads) {
  if (reads->count == 0) return;
  const int rc = kvstow_tier_read_batch(store->tier, reads->list, reads->count);
  for (size_t i = 0; rc != 0 && i < reads->count; i++) {
    reads->list[i]->result = rc;
    reads->list[i]->done(reads->list[i]);
  }
  reads->count = 0;
}

void kvs_load_urge(kvstow *store, uint32_t id) {
  struct kvs_load *load = store->loads[kvs_entry(&store->index, id)->load];
  if (load->urged) return;
  load->urged = true;
  kvstow_tier_urge(store->tier, &load->read);
}

bool kvs_load_wait(kvstow *store, uint32_t id, uint64_t deadline_us) {
  const struct kvs_entry *entry = kvs_entry(&store->index, id);
  if ((entry->flags & KVS_LOADING) == 0) return kvs_now_us() < deadline_us;
  store->loads[entry->load]->awaited = true;
  return kvs_wait_load(store, deadline_us);
}
