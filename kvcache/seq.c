/* seq.c - a context that grows, layer by layer.
 *
 * Rows go straight into frames: the sequence keeps, beside them, the tokens that are named but not yet
 * sealed and one cursor a layer. Layers may be blocks apart (prefill computes all tokens of a layer
 * before the next layer), so several blocks can be open; they seal in order, each when the last layer
 * passes its end. A block whose tokens are known and which the store holds already is not copied.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "kvcache/copy.h"
#include "kvcache/store.h"
#include "tier/copy.h"

struct open_block {
  uint32_t frame;             /* KVS_NO_FRAME: held already, rows are skipped */
  bool started;               /* `frame` has been decided */
  uint32_t layers;            /* that have filled it */
  struct kvs_plane_sum *sums; /* a plane; NULL with no frame */
};

struct kvstow_seq {
  kvstow *store;
  struct kvstow_space *space;
  uint32_t root;              /* referenced */
  kvstow_key root_id, parent; /* parent: key of the last sealed block */
  size_t sealed;              /* blocks, the prefix included */
  kvstow_token *tokens;       /* from the first unsealed block on */
  size_t tokens_count, tokens_room;
  struct open_block *open; /* [0] is block `sealed` */
  size_t open_count, open_room;
  size_t *cursor;             /* a layer: tokens appended since the beginning of all */
  struct kvs_request request; /* number 0: not known before the first block is sealed */
  pthread_t thread;           /* that appended last */
  bool started;               /* somebody has */
  bool roams;                 /* not always the same: every append fences */
};

int kvstow_seq_open(const kvstow_prefix *prefix, kvstow_seq **out) {
  if (out == NULL) return kvs_prefix_fail(prefix, "seq: seq is NULL");
  *out = NULL;
  struct kvs_chain chain;
  int rc = kvs_chain_init(&chain, prefix, SIZE_MAX, true);
  if (rc != 0) return rc;
  kvstow *store = chain.store;
  const struct kvs_layout *layout = &chain.space->layout;
  kvstow_seq *seq = NULL;
  if (layout->layers == 0 || prefix->tokens_count % layout->block_tokens != 0) {
    rc = kvs_fail(store, layout->layers == 0 ? KVSTOW_EINVAL : KVSTOW_ESTATE,
                  "seq: the prefix has %zu tokens, blocks have %u; space %s has %u layers",
                  prefix->tokens_count, layout->block_tokens, chain.space->name, layout->layers);
    goto out;
  }
  seq = calloc(1, sizeof *seq);
  size_t *cursor = calloc(layout->layers, sizeof *cursor);
  if (seq == NULL || cursor == NULL) {
    free(seq);
    free(cursor);
    seq = NULL;
    rc = KVSTOW_ENOMEM;
    goto out;
  }
  for (uint32_t i = 0; i < layout->layers; i++) cursor[i] = prefix->tokens_count;
  *seq = (kvstow_seq){.store = store,
                      .space = chain.space,
                      .root = chain.root,
                      .root_id = chain.root_id,
                      .parent = chain.keys[chain.blocks],
                      .sealed = chain.blocks,
                      .cursor = cursor,
                      .roams = !store->fences_others,
                      .request = {.session = prefix->session,
                                  .category = prefix->category,
                                  .recompute_cost = prefix->recompute_cost}};
  kvs_lock(store);
  store->roots.rows[seq->root].refs++;
  store->sequences++;
  kvstow__unlock(&store->lock);
out:
  kvs_chain_finish(&chain);
  *out = seq;
  return rc;
}

int kvstow_seq_tokens(kvstow_seq *seq, const kvstow_token *tokens, size_t count) {
  if (seq == NULL) return KVSTOW_EINVAL;
  if (tokens == NULL && count > 0)
    return kvs_fail(seq->store, KVSTOW_EINVAL, "seq: tokens is NULL, count %zu", count);
  if (count > SIZE_MAX / sizeof *tokens / 2 - seq->tokens_count) return KVSTOW_ENOMEM;
  if (seq->tokens_count + count > seq->tokens_room) {
    size_t room = seq->tokens_room == 0 ? 512 : seq->tokens_room;
    while (room < seq->tokens_count + count) room *= 2;
    kvstow_token *grown = realloc(seq->tokens, room * sizeof *grown);
    if (grown == NULL) return KVSTOW_ENOMEM;
    seq->tokens = grown;
    seq->tokens_room = room;
  }
  if (count > 0) memcpy(seq->tokens + seq->tokens_count, tokens, count * sizeof *tokens);
  seq->tokens_count += count;
  return 0;
}

size_t kvstow_seq_sealed_tokens(const kvstow_seq *seq) {
  return seq == NULL ? 0 : seq->sealed * seq->space->layout.block_tokens;
}

/* ---- open blocks ---------------------------------------------------------------------------- */

/* Is block `sealed` + i held already? Only asked when all its tokens are named. */
static bool held(const kvstow_seq *seq, size_t i) {
  kvstow *store = seq->store;
  const uint32_t tokens = seq->space->layout.block_tokens;
  if (seq->tokens_count < (i + 1) * tokens) return false;
  kvstow_key key = seq->parent;
  for (size_t b = 0; b <= i; b++)
    key = kvs_block_key(&store->secret, key, seq->tokens + b * tokens, tokens);
  kvs_shard_lock(&store->index, key);
  const uint32_t id = kvs_shard_find(&store->index, key, seq->root);
  const bool serves = id != KVS_NO_ENTRY && kvs_serves(seq->space, kvs_entry(&store->index, id));
  kvs_shard_unlock(&store->index, key);
  return serves;
}

static int start_block(kvstow_seq *seq, size_t i) {
  struct open_block *block = &seq->open[i];
  if (block->started) return 0;
  block->frame = KVS_NO_FRAME;
  /* Block by block a hash chain: only the first open block is cheap to look up. */
  if (i == 0 && held(seq, i)) {
    block->started = true;
    return 0;
  }
  const struct kvstow_space *space = seq->space;
  const uint64_t deadline = kvs_deadline(seq->store, seq->store->options.store_timeout_ms);
  const int rc = kvs_frame_wait(seq->store, space->padded_bytes, deadline, &block->frame);
  if (rc != 0) return rc;
  block->sums = malloc(space->planes * sizeof *block->sums);
  kvs_lock(seq->store);
  if (block->sums == NULL) kvs_ram_give(seq->store, block->frame, space->padded_bytes);
  seq->store->reservations += block->sums != NULL;
  kvstow__unlock(&seq->store->lock);
  if (block->sums == NULL) return KVSTOW_ENOMEM;
  char *payload = kvs_pool_payload(seq->store->pool, block->frame);
  for (uint32_t p = 0; p < space->planes; p++)
    kvs_plane_sum_begin(&block->sums[p], payload + (size_t)p * space->plane_bytes,
                        space->plane_bytes, space->part_bytes);
  block->started = true;
  return 0;
}

/* Frames for all blocks up to token `end`, before any row is copied. */
static int open_upto(kvstow_seq *seq, size_t end) {
  const uint32_t tokens = seq->space->layout.block_tokens;
  const size_t wanted = (end + tokens - 1) / tokens - seq->sealed;
  if (wanted > seq->open_room) {
    struct open_block *grown = realloc(seq->open, 2 * wanted * sizeof *grown);
    if (grown == NULL) return KVSTOW_ENOMEM;
    seq->open = grown;
    seq->open_room = 2 * wanted;
  }
  while (seq->open_count < wanted) seq->open[seq->open_count++] = (struct open_block){0};
  for (size_t i = 0; i < wanted; i++) {
    const int rc = start_block(seq, i);
    if (rc != 0) return rc;
  }
  return 0;
}

static void drop_frame(kvstow_seq *seq, const struct open_block *block) {
  if (!block->started || block->frame == KVS_NO_FRAME) return;
  free(block->sums);
  kvs_ram_give(seq->store, block->frame, seq->space->padded_bytes);
  seq->store->reservations--;
  pthread_cond_broadcast(&seq->store->changed);
}

/* The request that asked for the first block to be sealed goes on with the sequence. */
static void note_request(kvstow_seq *seq, const struct kvs_reservation *r) {
  struct kvs_request *request = &seq->request;
  const uint32_t blocks = r->depth + 1;
  if (request->number == 0) {
    const kvstow_prefix hints = {.session = request->session,
                                 .category = request->category,
                                 .recompute_cost = request->recompute_cost};
    *request = kvs_request_of(seq->store, &hints, r->key, r->parent, blocks);
  }
  if (request->chain_blocks < blocks) request->chain_blocks = blocks;
  kvs_request_goes_on(seq->store, request, r->key);
  if (seq->store->trace != NULL)
    kvs_trace_store(seq->store->trace,
                    &(struct kvs_traced){.space = seq->space,
                                         .request = request,
                                         .first = r->depth,
                                         .blocks = blocks,
                                         .keys = (const kvstow_key[]){r->parent, r->key}});
}

/* The first open block is full in all layers: it becomes a block of the store. */
static int seal_first(kvstow_seq *seq) {
  kvstow *store = seq->store;
  const struct kvstow_space *space = seq->space;
  const uint32_t tokens = space->layout.block_tokens;
  const struct open_block block = seq->open[0];
  struct kvs_reservation r = {
      .store = store,
      .space = seq->space,
      .root = seq->root,
      .frame = block.frame,
      .padded_bytes = space->padded_bytes,
      .payload_bytes = space->payload_bytes,
      .depth = (uint32_t)seq->sealed,
      .key = kvs_block_key(&store->secret, seq->parent, seq->tokens, tokens),
      .parent = seq->parent,
      .root_id = seq->root_id};
  int rc = 0;
  if (block.frame != KVS_NO_FRAME) {
    void *page = kvs_pool_header(store->pool, block.frame);
    rc = kvs_header_format(&r, seq->tokens, page);
    for (uint32_t p = 0; p < space->planes; p++)
      kvstow_record_sums(page)[p] = kvs_plane_sum_end(&block.sums[p]);
    free(block.sums);
    kvstow__copy_fence();
  }
  kvs_lock(store);
  note_request(seq, &r);
  if (block.frame != KVS_NO_FRAME) {
    store->reservations--;
    const uint32_t id = kvs_publish(store, &r, true, &rc);
    if (id != KVS_NO_ENTRY)
      kvs_publish_finish(store, id, &seq->request, kvs_parent(store, r.parent.lo, r.root, r.depth));
    kvs_demoter_check(store);
  } else {
    store->count.duplicate_blocks++;
  }
  kvstow__unlock(&store->lock);
  seq->parent = r.key;
  seq->sealed++;
  seq->tokens_count -= tokens;
  memmove(seq->tokens, seq->tokens + tokens, seq->tokens_count * sizeof *seq->tokens);
  memmove(seq->open, seq->open + 1, --seq->open_count * sizeof *seq->open);
  return rc;
}

/* ---- append --------------------------------------------------------------------------------- */

/* What was copied must be seen by all before a block is published or its frame given away. A fence costs as
 * much as a short row: as long as a sequence stays with its thread, sealing fences for all appends. When it
 * comes to another thread, that one fences for the first, through the kernel; from then on every
 * append fences. */
static void come_to_thread(kvstow_seq *seq) {
  const pthread_t self = pthread_self();
  if (seq->started && !seq->roams && !pthread_equal(seq->thread, self)) {
    kvs_copy_fence_others();
    seq->roams = true;
  }
  seq->started = true;
  seq->thread = self;
}

/* Rows go to the parts of their plane, zeroes behind the last ones. */
static void copy_rows(const kvstow_seq *seq, uint32_t layer, size_t at, const char *k,
                      const char *v, size_t count) {
  const struct kvs_layout *layout = &seq->space->layout;
  const size_t tokens = layout->block_tokens;
  const size_t padding =
      seq->space->plane_bytes - tokens * ((size_t)layout->k_bytes + layout->v_bytes);
  while (count > 0) {
    const size_t row = at % tokens, left = tokens - row, rows = count < left ? count : left;
    const struct open_block *block = &seq->open[at / tokens - seq->sealed];
    if (block->frame != KVS_NO_FRAME) {
      struct kvs_plane_sum *sum = &block->sums[layer];
      struct kvs_sum *last = &sum->part[sum->parts - 1];
      kvs_sum_copy(&sum->part[0], k, rows * layout->k_bytes);
      kvs_sum_copy(last, v, rows * layout->v_bytes);
      if (rows == left) kvs_sum_zero(last, padding);
    }
    if (k != NULL) k += rows * layout->k_bytes;
    if (v != NULL) v += rows * layout->v_bytes;
    at += rows;
    count -= rows;
  }
  if (seq->roams) kvstow__copy_fence();
}

int kvstow_seq_append(kvstow_seq *seq, uint32_t layer, const void *k, const void *v, size_t count) {
  if (seq == NULL) return KVSTOW_EINVAL;
  const struct kvs_layout *layout = &seq->space->layout;
  if (layer >= layout->layers || (k == NULL && layout->k_bytes > 0 && count > 0) ||
      (v == NULL && layout->v_bytes > 0 && count > 0))
    return kvs_fail(seq->store, KVSTOW_EINVAL, "seq: layer %u of %u, k %p, v %p", layer,
                    layout->layers, k, v);
  const size_t start = seq->cursor[layer];
  const size_t named = seq->sealed * layout->block_tokens + seq->tokens_count;
  if (count > named - start)
    return kvs_fail(seq->store, KVSTOW_ESTATE,
                    "seq: layer %u has %zu tokens and gets %zu, only %zu are named", layer, start,
                    count, named);
  if (count == 0) return 0;
  const size_t end = start + count;
  int rc = open_upto(seq, end);
  if (rc != 0) return rc;
  come_to_thread(seq);
  copy_rows(seq, layer, start, k, v, count);
  seq->cursor[layer] = end;
  for (size_t b = start / layout->block_tokens; b < end / layout->block_tokens; b++)
    seq->open[b - seq->sealed].layers++;
  while (seq->open_count > 0 && seq->open[0].layers == layout->layers && rc == 0)
    rc = seal_first(seq);
  return rc;
}

void kvstow_seq_close(kvstow_seq *seq) {
  if (seq == NULL) return;
  kvstow *store = seq->store;
  come_to_thread(seq);
  kvstow__copy_fence();
  kvs_lock(store);
  for (size_t i = 0; i < seq->open_count; i++) drop_frame(seq, &seq->open[i]);
  kvs_root_give(store, seq->root);
  store->sequences--;
  kvstow__unlock(&store->lock);
  free(seq->open);
  free(seq->tokens);
  free(seq->cursor);
  free(seq);
}
