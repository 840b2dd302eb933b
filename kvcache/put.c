/* put.c - storing blocks: by copy, or into reserved frames.
 *
 * Filling happens outside all locks, in a frame nobody else knows. Publishing is what makes a block
 * visible, whole: entry and table in one step under the locks.
 *
 * A call's blocks enter the RAM policy last to first: a chain is worthless without its beginning, so
 * the end should be the first to go (vLLM frees a request's blocks in the same order).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "kvcache/copy.h"
#include "kvcache/store.h"
#include "tier/copy.h"

#define GROUP_BLOCKS 32u /* published together */

int kvs_frame_wait(kvstow *store, uint32_t padded_bytes, uint64_t deadline_us, uint32_t *frame) {
  int rc = 0;
  kvs_lock(store);
  bool waited = false;
  while ((*frame = kvs_ram_take(store, padded_bytes)) == KVS_NO_FRAME) {
    if (deadline_us == 0 || store->tier == NULL) {
      rc = KVSTOW_EFULL;
      break;
    }
    store->count.stored_waits += !waited;
    waited = true;
    store->pressed_bytes += padded_bytes;
    pthread_cond_signal(&store->demote_wake);
    const bool in_time = kvs_wait_until(store, deadline_us);
    store->pressed_bytes -= padded_bytes;
    if (!in_time) {
      rc = KVSTOW_EFULL;
      break;
    }
  }
  kvstow__unlock(&store->lock);
  return rc;
}

/* ---- headers -------------------------------------------------------------------------------- */

int kvs_header_format(const struct kvs_reservation *r, const kvstow_token *tokens, void *page) {
  const struct kvstow_space *space = r->space;
  kvstow_block_info info = {.space = space->id,
                            .root = r->root_id,
                            .parent = r->parent,
                            .depth = r->depth,
                            .tokens_count = space->layout.block_tokens,
                            .payload_bytes = r->payload_bytes,
                            .layers = space->layout.layers,
                            .k_bytes = space->layout.k_bytes,
                            .v_bytes = space->layout.v_bytes,
                            .tokens = tokens};
  memcpy(info.space_name, space->name, sizeof info.space_name);
  const kvstow_record shape = {.key = r->key,
                               .planes = space->planes,
                               .plane_bytes = r->padded_bytes / space->planes,
                               .part_bytes = space->part_bytes};
  return kvs_describe_format(page, &info, &shape);
}

void kvs_sum_planes(void *page, const void *payload) {
  kvstow_record shape;
  kvstow_record_parse(page, &shape);
  uint64_t *sums = kvstow_record_sums(page);
  for (uint32_t i = 0; i < shape.planes; i++)
    sums[i] = kvstow_plane_checksum((const char *)payload + (size_t)i * shape.plane_bytes,
                                    shape.plane_bytes, shape.part_bytes);
}

/* ---- publishing ----------------------------------------------------------------------------- */

static uint32_t insert_new(kvstow *store, const struct kvs_reservation *r, bool sums, int *rc) {
  const uint32_t id = kvs_entry_new(&store->index);
  if (id == KVS_NO_ENTRY) {
    *rc = KVSTOW_ENOMEM;
    return id;
  }
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  entry->key = r->key;
  entry->parent_lo = r->parent.lo;
  entry->root = r->root;
  entry->frame = r->frame;
  entry->padded_bytes = r->padded_bytes;
  entry->depth = r->depth;
  entry->written_s = kvs_now_s();
  entry->flags = sums ? KVS_SUMS : 0;
  kvs_shard_lock(&store->index, r->key);
  const uint32_t present = kvs_shard_find(&store->index, r->key, r->root);
  const bool inserted = present == KVS_NO_ENTRY && kvs_shard_insert(&store->index, id);
  if (present != KVS_NO_ENTRY) kvs_entry(&store->index, present)->written_s = kvs_now_s();
  kvs_shard_unlock(&store->index, r->key);
  if (inserted) {
    store->roots.rows[r->root].refs++;
    kvs_pool_set_owner(store->pool, r->frame, id);
    store->ram_blocks++;
    return id;
  }
  kvs_entry_free(&store->index, id);
  *rc = present == KVS_NO_ENTRY ? KVSTOW_ENOMEM : 0;
  return KVS_NO_ENTRY;
}

/* A block that nobody finds any more makes way for the same one stored anew. (Of one that has expired the record on
 * SSD would go on telling its age.) One that is leased or pinned is only younger from now on, until the store is
 * closed. */
static void make_way(kvstow *store, const struct kvs_reservation *r) {
  kvs_shard_lock(&store->index, r->key);
  const uint32_t id = kvs_shard_find(&store->index, r->key, r->root);
  const bool serves = id == KVS_NO_ENTRY || kvs_serves(r->space, kvs_entry(&store->index, id));
  kvs_shard_unlock(&store->index, r->key);
  if (!serves && (kvs_entry(&store->index, id)->flags & KVS_PINNED) == 0)
    (void)kvs_remove(store, id);
}

uint32_t kvs_publish(kvstow *store, const struct kvs_reservation *r, bool sums, int *rc) {
  *rc = 0;
  make_way(store, r);
  const uint32_t id = insert_new(store, r, sums, rc);
  if (id == KVS_NO_ENTRY) {
    if (*rc == 0) store->count.duplicate_blocks++;
    kvs_ram_give(store, r->frame, r->padded_bytes);
    pthread_cond_broadcast(&store->changed);
    return id;
  }
  store->count.stored_blocks++;
  store->count.stored_tokens += r->space->layout.block_tokens;
  store->count.stored_bytes += r->payload_bytes;
  return id;
}

void kvs_publish_finish(kvstow *store, uint32_t id, const struct kvs_request *request,
                        uint32_t ancestor) {
  kvstow_access access = kvs_access_of(request);
  kvs_access_block(store, id, &access);
  access.parent = kvs_access_parent(store, ancestor, KVS_RAM_POLICY);
  kvs_ram_insert(store, id, &access);
  kvs_event(store, KVSTOW_EVENT_STORED, kvs_entry(&store->index, id));
  if (store->tier != NULL && store->options.write_mode == KVSTOW_WRITE_THROUGH)
    (void)kvs_demote_want(store, id, false);
}

/* ---- one call's blocks ---------------------------------------------------------------------- */

static struct kvs_request request_of(const struct kvs_chain *chain, size_t first) {
  kvstow *store = chain->store;
  const size_t whole = chain->prefix->tokens_count / chain->space->layout.block_tokens;
  kvs_lock(store);
  const struct kvs_request request =
      kvs_request_of(store, chain->prefix, chain->keys[first + 1], chain->keys[first], whole);
  kvstow__unlock(&store->lock);
  return request;
}

static int reservation_init(struct kvs_reservation *r, struct kvs_chain *chain, size_t block,
                            const struct kvs_request *request, uint32_t payload_bytes,
                            uint64_t deadline_us) {
  const struct kvstow_space *space = chain->space;
  kvstow *store = chain->store;
  uint32_t padded = space->padded_bytes;
  if (space->layout.layers == 0) {
    /* Few sizes of slots: an opaque block is rounded up to eighths of a power of two. */
    uint32_t step = KVSTOW_PAGE_BYTES;
    while (step * 16 <= payload_bytes) step *= 2;
    padded = (payload_bytes + step - 1) / step * step;
    if (padded > space->padded_bytes) padded = space->padded_bytes;
  }
  *r = (struct kvs_reservation){
      .store = store,
      .space = chain->space,
      .root = chain->root,
      .padded_bytes = padded,
      .payload_bytes = payload_bytes,
      .depth = (uint32_t)block,
      .key = chain->keys[block + 1],
      .parent = chain->keys[block],
      .root_id = chain->root_id,
      .request = *request,
  };
  return kvs_frame_wait(store, padded, deadline_us, &r->frame);
}

/* Walks over the bytes of a source. */
struct cursor {
  const struct iovec *iov;
  int left;
  size_t offset;
};

/* Copies the next `length` bytes, summing them on their way. */
static void copy_summed(struct cursor *from, size_t length, struct kvs_sum *sum) {
  while (length > 0) {
    const size_t here = from->iov->iov_len - from->offset;
    const size_t step = here < length ? here : length;
    kvs_sum_copy(sum, (const char *)from->iov->iov_base + from->offset, step);
    length -= step;
    from->offset += step;
    while (from->left > 0 && from->offset == from->iov->iov_len) {
      from->iov++;
      from->left--;
      from->offset = 0;
    }
  }
}

/* 0 if part of it lies nowhere. */
static size_t source_bytes(const kvstow_source *source) {
  size_t bytes = 0;
  for (int i = 0; i < source->iovcnt; i++) {
    if (source->iov[i].iov_base == NULL && source->iov[i].iov_len > 0) return 0;
    bytes += source->iov[i].iov_len;
  }
  return bytes;
}

static void fill(const struct kvs_reservation *r, void *page, const kvstow_source *source) {
  const uint32_t planes = r->space->planes;
  const size_t plane_bytes = r->padded_bytes / planes, used = r->payload_bytes / planes;
  uint64_t *sums = kvstow_record_sums(page);
  char *to = kvs_pool_payload(r->store->pool, r->frame);
  struct cursor from = {source->iov, source->iovcnt, 0};
  while (from.left > 0 && from.iov->iov_len == 0) from.iov++, from.left--;
  const uint32_t part_bytes = r->space->part_bytes;
  for (uint32_t i = 0; i < planes; i++, to += plane_bytes) {
    struct kvs_plane_sum sum;
    kvs_plane_sum_begin(&sum, to, (uint32_t)plane_bytes, part_bytes);
    if (sum.parts == 2) copy_summed(&from, part_bytes, &sum.part[0]);
    struct kvs_sum *last = &sum.part[sum.parts - 1];
    copy_summed(&from, used - part_bytes, last);
    kvs_sum_zero(last, plane_bytes - used);
    sums[i] = kvs_plane_sum_end(&sum);
  }
  kvstow__copy_fence();
}

/* Blocks filled but not yet published. */
struct group {
  struct kvs_reservation r[GROUP_BLOCKS];
  size_t count;
  size_t first; /* of them, in the call */
  uint64_t bytes;
};

/* The block before a reservation's, if it is held. */
static uint32_t block_before(const kvstow *store, const struct kvs_reservation *r) {
  return kvs_parent(store, r->parent.lo, r->root, r->depth);
}

/* If some can't be published, *stored falls back to the first of the group. */
static int publish_group(kvstow *store, struct group *group, size_t *stored) {
  uint32_t ids[GROUP_BLOCKS];
  int first_error = 0;
  if (group->count == 0) return 0;
  kvs_lock(store);
  const uint32_t ancestor = block_before(store, &group->r[0]);
  for (size_t i = 0; i < group->count; i++) {
    int rc;
    ids[i] = kvs_publish(store, &group->r[i], true, &rc);
    if (rc != 0 && first_error == 0) first_error = rc;
  }
  for (size_t i = group->count; i-- > 0;)
    if (ids[i] != KVS_NO_ENTRY) kvs_publish_finish(store, ids[i], &group->r[i].request, ancestor);
  const struct kvs_reservation *last = &group->r[group->count - 1];
  kvs_request_goes_on(store, &last->request, last->key);
  kvs_demoter_check(store);
  kvstow__unlock(&store->lock);
  if (first_error != 0 && *stored > group->first) *stored = group->first;
  group->count = 0;
  group->bytes = 0;
  return first_error;
}

/* A block that is held already: `id` is leased and given back. */
static void use_held(const struct kvs_chain *chain, uint32_t id,
                     const struct kvs_request *request) {
  kvstow *store = chain->store;
  kvstow_access access = kvs_access_of(request);
  kvs_lock(store);
  const struct kvs_entry *entry = kvs_entry(&store->index, id);
  kvs_access_block(store, id, &access);
  access.parent = kvs_parent(store, entry->parent_lo, entry->root, entry->depth);
  kvs_use(store, id, &access);
  kvs_request_goes_on(store, request, entry->key);
  kvs_lease_drop_locked(store, id);
  store->count.duplicate_blocks++;
  kvstow__unlock(&store->lock);
}

/* Room for one more block of the group. Others may wait for what we have filled as we wait for theirs: so it
 * is published before waiting. */
static int group_reserve(struct group *group, struct kvs_chain *chain, size_t block,
                         const struct kvs_request *request, uint32_t payload_bytes,
                         uint64_t deadline_us, size_t *stored) {
  if (group->count > 0) {
    const int rc =
        reservation_init(&group->r[group->count], chain, block, request, payload_bytes, 0);
    if (rc != KVSTOW_EFULL || deadline_us == 0) return rc;
    const int published = publish_group(chain->store, group, stored);
    if (published != 0) return published;
  }
  return reservation_init(&group->r[0], chain, block, request, payload_bytes, deadline_us);
}

static void trace_stored(struct kvs_chain *chain, const struct kvs_request *request, size_t first,
                         size_t count) {
  kvstow *store = chain->store;
  const struct kvs_traced what = {.space = chain->space,
                                  .request = request,
                                  .first = first,
                                  .blocks = first + count,
                                  .keys = &chain->keys[first]};
  kvs_lock(store);
  kvs_trace_store(store->trace, &what);
  kvstow__unlock(&store->lock);
}

static int store_blocks(struct kvs_chain *chain, size_t first, size_t count,
                        const kvstow_source *sources, uint32_t flags, size_t *stored) {
  kvstow *store = chain->store;
  const uint64_t deadline =
      (flags & KVSTOW_NOWAIT) != 0 ? 0 : kvs_deadline(store, store->options.store_timeout_ms);
  const uint64_t group_max = store->options.ram_bytes / 16;
  struct group group = {.count = 0};
  const struct kvs_request request = request_of(chain, first);
  int rc = 0;
  for (size_t i = 0; i < count && rc == 0; i++) {
    bool in_ram;
    const uint32_t id = kvs_chain_find(chain, first + i, true, &in_ram);
    if (id != KVS_NO_ENTRY) {
      use_held(chain, id, &request);
    } else {
      rc = group_reserve(&group, chain, first + i, &request, (uint32_t)source_bytes(&sources[i]),
                         deadline, stored);
      if (rc != 0) break;
      if (group.count == 0) group.first = i;
      struct kvs_reservation *r = &group.r[group.count];
      void *page = kvs_pool_header(store->pool, r->frame);
      rc = kvs_header_format(r, kvs_chain_tokens(chain, first + i), page);
      fill(r, page, &sources[i]);
      group.count++;
      group.bytes += r->padded_bytes;
      if (group.count == GROUP_BLOCKS || group.bytes >= group_max)
        rc = publish_group(store, &group, stored);
    }
    if (rc == 0) *stored = i + 1;
  }
  const int last = publish_group(store, &group, stored);
  if (store->trace != NULL && *stored > 0) trace_stored(chain, &request, first, *stored);
  return rc != 0 ? rc : last;
}

static int check_sources(const struct kvs_chain *chain, size_t first, size_t count,
                         const kvstow_source *sources) {
  const struct kvstow_space *space = chain->space;
  if (sources == NULL) return kvs_fail(chain->store, KVSTOW_EINVAL, "store: sources is NULL");
  if (count == 0 || first + count < first || first + count > chain->blocks)
    return kvs_fail(chain->store, KVSTOW_EINVAL,
                    "store: blocks %zu..%zu asked, the prefix has %zu whole blocks", first,
                    first + count, chain->blocks);
  for (size_t i = 0; i < count; i++) {
    const size_t bytes = sources[i].iov == NULL ? 0 : source_bytes(&sources[i]);
    const bool right = space->layout.layers == 0 ? bytes > 0 && bytes <= space->payload_bytes
                                                 : bytes == space->payload_bytes;
    if (!right)
      return kvs_fail(chain->store, KVSTOW_EINVAL,
                      "store: source %zu has %zu bytes, a block of space %s %s %u", i, bytes,
                      space->name, space->layout.layers == 0 ? "at most" : "exactly",
                      space->payload_bytes);
  }
  return 0;
}

int kvstow_store(const kvstow_prefix *prefix, size_t first, size_t count,
                 const kvstow_source *sources, uint32_t flags, size_t *stored) {
  const uint64_t start =
      prefix != NULL && prefix->space != NULL ? kvs_clock(prefix->space->store) : 0;
  size_t done = 0;
  if (stored != NULL) *stored = 0;
  struct kvs_chain chain;
  int rc = kvs_chain_init(&chain, prefix, first + count < first ? SIZE_MAX : first + count, true);
  if (rc != 0) return rc;
  kvstow *store = chain.store;
  rc = kvs_check_flags(store, "store", flags);
  if (rc == 0) rc = check_sources(&chain, first, count, sources);
  if (rc == 0) rc = store_blocks(&chain, first, count, sources, flags, &done);
  kvs_chain_finish(&chain);
  if (stored != NULL) *stored = done;
  if (rc == KVSTOW_EFULL) {
    kvs_lock(store);
    store->count.store_refused++;
    kvstow__unlock(&store->lock);
    kvs_fail(store, rc, "store: all %llu bytes of RAM are in use",
             (unsigned long long)store->options.ram_bytes);
  }
  kvs_clock_stop(&store->store_time, start);
  return rc;
}

/* ---- zero-copy ------------------------------------------------------------------------------ */

static void drop_slot(kvstow *store, kvstow_slot *slot) {
  struct kvs_reservation *r = slot->internal;
  if (r == NULL) return;
  kvs_lock(store);
  kvs_ram_give(store, r->frame, r->padded_bytes);
  kvs_root_give(store, r->root);
  store->reservations--;
  pthread_cond_broadcast(&store->changed);
  kvstow__unlock(&store->lock);
  free(r);
  *slot = (kvstow_slot){0};
}

static int reserve_one(struct kvs_chain *chain, size_t block, const struct kvs_request *request,
                       uint32_t payload_bytes, uint64_t deadline, kvstow_slot *slot) {
  kvstow *store = chain->store;
  bool in_ram;
  if (kvs_chain_find(chain, block, false, &in_ram) != KVS_NO_ENTRY) return 0;
  struct kvs_reservation *r = malloc(sizeof *r);
  if (r == NULL) return KVSTOW_ENOMEM;
  int rc = reservation_init(r, chain, block, request, payload_bytes, deadline);
  if (rc != 0) {
    free(r);
    return rc;
  }
  void *page = kvs_pool_header(store->pool, r->frame);
  char *payload = kvs_pool_payload(store->pool, r->frame);
  rc = kvs_header_format(r, kvs_chain_tokens(chain, block), page);
  const uint32_t planes = r->space->planes, plane_bytes = r->padded_bytes / planes;
  const uint32_t used = payload_bytes / planes;
  for (uint32_t i = 0; i < planes; i++) /* padding is stored too */
    memset(payload + (size_t)i * plane_bytes + used, 0, plane_bytes - used);
  kvs_lock(store);
  store->roots.rows[r->root].refs++;
  store->reservations++;
  kvstow__unlock(&store->lock);
  *slot = (kvstow_slot){.payload = payload, .bytes = r->padded_bytes, .internal = r};
  return rc;
}

int kvstow_reserve(const kvstow_prefix *prefix, size_t first, size_t count, size_t opaque_bytes,
                   uint32_t flags, kvstow_slot *slots) {
  if (slots == NULL) return kvs_prefix_fail(prefix, "reserve: slots is NULL");
  if (count == 0 || first + count < first)
    return kvs_prefix_fail(prefix, "reserve: count is 0, or too much");
  struct kvs_chain chain;
  int rc = kvs_chain_init(&chain, prefix, first + count, true);
  if (rc != 0) return rc;
  kvstow *store = chain.store;
  const struct kvstow_space *space = chain.space;
  const bool opaque = space->layout.layers == 0;
  const uint64_t deadline =
      (flags & KVSTOW_NOWAIT) != 0 ? 0 : kvs_deadline(store, store->options.store_timeout_ms);
  if (first + count > chain.blocks ||
      (opaque ? opaque_bytes == 0 || opaque_bytes > space->payload_bytes : opaque_bytes != 0)) {
    rc = kvs_fail(store, KVSTOW_EINVAL,
                  "reserve: blocks %zu..%zu of %zu, opaque_bytes %zu of at most %u", first,
                  first + count, chain.blocks, opaque_bytes, opaque ? space->payload_bytes : 0);
  } else {
    rc = kvs_check_flags(store, "reserve", flags);
  }
  if (rc != 0) count = 0; /* hardly the length of `slots` */
  for (size_t i = 0; i < count; i++) slots[i] = (kvstow_slot){0};
  const uint32_t payload_bytes = opaque ? (uint32_t)opaque_bytes : space->payload_bytes;
  const struct kvs_request request =
      count == 0 ? (struct kvs_request){0} : request_of(&chain, first);
  for (size_t i = 0; i < count && rc == 0; i++)
    rc = reserve_one(&chain, first + i, &request, payload_bytes, deadline, &slots[i]);
  kvs_chain_finish(&chain);
  if (rc != 0) kvstow_abort(store, slots, count);
  return rc;
}

static void trace_run(kvstow *store, const kvstow_slot *slots, size_t count) {
  kvstow_key keys[GROUP_BLOCKS + 1];
  for (size_t at = 0, piece; at < count; at += piece) {
    const struct kvs_reservation *first = slots[at].internal;
    piece = count - at < GROUP_BLOCKS ? count - at : GROUP_BLOCKS;
    keys[0] = first->parent;
    for (size_t i = 0; i < piece; i++)
      keys[i + 1] = ((const struct kvs_reservation *)slots[at + i].internal)->key;
    kvs_trace_store(store->trace, &(struct kvs_traced){.space = first->space,
                                                       .request = &first->request,
                                                       .first = first->depth,
                                                       .blocks = first->depth + piece,
                                                       .keys = keys});
  }
}

/* Publishes the slots of one run, each block behind the one before; last to first, as in a group. */
static int commit_run(kvstow *store, kvstow_slot *slots, size_t count) {
  int first_error = 0;
  const struct kvs_reservation *first = slots[0].internal, *last = slots[count - 1].internal;
  const uint32_t ancestor = block_before(store, first);
  kvs_request_goes_on(store, &last->request, last->key);
  if (store->trace != NULL) trace_run(store, slots, count);
  for (size_t i = count; i-- > 0;) {
    struct kvs_reservation *r = slots[i].internal;
    int rc;
    const uint32_t id = kvs_publish(store, r, false, &rc);
    if (id != KVS_NO_ENTRY) kvs_publish_finish(store, id, &r->request, ancestor);
    if (rc != 0) first_error = rc;
    kvs_root_give(store, r->root);
    store->reservations--;
    free(r);
    slots[i] = (kvstow_slot){0};
  }
  return first_error;
}

static bool continues(const kvstow_slot *slot, const kvstow_slot *before) {
  const struct kvs_reservation *r = slot->internal, *b = before->internal;
  return b != NULL && kvs_key_equal(r->parent, b->key);
}

/* Checksums are left to the demotion thread: a commit touches no payload. */
int kvstow_commit(kvstow *store, kvstow_slot *slots, size_t count) {
  if (store == NULL) return KVSTOW_EINVAL;
  if (slots == NULL && count > 0) return kvs_fail(store, KVSTOW_EINVAL, "commit: slots is NULL");
  int first_error = 0;
  kvs_lock(store);
  for (size_t end = count; end > 0;) {
    size_t first = end - 1;
    if (slots[first].internal != NULL) {
      while (first > 0 && continues(&slots[first], &slots[first - 1])) first--;
      const int rc = commit_run(store, &slots[first], end - first);
      if (rc != 0) first_error = rc;
    }
    end = first;
  }
  kvs_demoter_check(store);
  kvstow__unlock(&store->lock);
  return first_error;
}

void kvstow_abort(kvstow *store, kvstow_slot *slots, size_t count) {
  if (store == NULL || slots == NULL) return;
  for (size_t i = 0; i < count; i++) drop_slot(store, &slots[i]);
}
