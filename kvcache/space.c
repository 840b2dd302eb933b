/* space.c - spaces, the roots of chains, and the blocks of a prefix by name.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "kvcache/store.h"

#define BLOCK_TOKENS_DEFAULT 256u
#define BLOCK_BYTES_DEFAULT_MAX ((uint64_t)16 << 20)
#define RAM_SHARE_MAX 8u /* a block is at most this part of RAM */

/* ---- roots ---------------------------------------------------------------------------------- */

static uint32_t *root_bucket(struct kvs_roots *roots, kvstow_key id) {
  return &roots->buckets[id.lo & roots->mask];
}

static bool roots_grow(struct kvs_roots *roots) {
  const uint32_t room = roots->room == 0 ? 16 : roots->room * 2;
  struct kvs_root *rows = realloc(roots->rows, room * sizeof *rows);
  if (rows == NULL) return false;
  roots->rows = rows;
  uint32_t *buckets = realloc(roots->buckets, room * sizeof *buckets);
  if (buckets == NULL) return false;
  roots->buckets = buckets;
  roots->mask = room - 1;
  memset(buckets, 0xff, room * sizeof *buckets);
  for (uint32_t i = 0; i < roots->count; i++) { /* called when no row is free */
    uint32_t *bucket = root_bucket(roots, rows[i].id);
    rows[i].next = *bucket;
    *bucket = i;
  }
  roots->room = room;
  return true;
}

uint32_t kvs_root_take(kvstow *store, kvstow_key id, kvstow_key space_id, bool create) {
  struct kvs_roots *roots = &store->roots;
  if (roots->room != 0)
    for (uint32_t i = *root_bucket(roots, id); i != KVS_NO_ENTRY; i = roots->rows[i].next)
      if (kvs_key_equal(roots->rows[i].id, id)) {
        roots->rows[i].refs++;
        return i;
      }
  if (!create) return KVS_NO_ENTRY;
  uint32_t row = roots->free;
  if (roots->room != 0 && row != KVS_NO_ENTRY) {
    roots->free = roots->rows[row].next;
  } else {
    if (roots->count == roots->room && !roots_grow(roots)) return KVS_NO_ENTRY;
    roots->free = KVS_NO_ENTRY;
    row = roots->count++;
  }
  uint32_t *bucket = root_bucket(roots, id);
  roots->rows[row] = (struct kvs_root){.id = id, .space_id = space_id, .refs = 1, .next = *bucket};
  *bucket = row;
  return row;
}

void kvs_root_give(kvstow *store, uint32_t root) {
  struct kvs_roots *roots = &store->roots;
  if (root == KVS_NO_ENTRY || --roots->rows[root].refs > 0) return;
  uint32_t *link = root_bucket(roots, roots->rows[root].id);
  while (*link != root) link = &roots->rows[*link].next;
  *link = roots->rows[root].next;
  roots->rows[root].next = roots->free;
  roots->free = root;
}

/* ---- spaces --------------------------------------------------------------------------------- */

void kvstow_space_options_init(kvstow_space_options *options) {
  *options = (kvstow_space_options){.size = sizeof *options};
}

uint32_t kvstow_space_block_tokens(const kvstow_space *space) {
  return space == NULL ? 0 : space->layout.block_tokens;
}

uint32_t kvstow_space_plane_bytes(const kvstow_space *space) {
  return space == NULL ? 0 : space->plane_bytes;
}

uint32_t kvstow_space_payload_bytes(const kvstow_space *space) {
  return space == NULL ? 0 : space->padded_bytes;
}

static uint64_t page_up(uint64_t bytes) {
  return (bytes + KVSTOW_PAGE_BYTES - 1) & ~(uint64_t)(KVSTOW_PAGE_BYTES - 1);
}

/* Checks a layout and derives sizes. Not yet a space of the store. */
static int space_resolve(kvstow *store, const kvstow_space_options *o, struct kvstow_space *space) {
  const bool opaque = o->layers == 0;
  const uint64_t row = (uint64_t)o->k_bytes + o->v_bytes;
  if (opaque ? o->opaque_max_bytes == 0 || row != 0 : row == 0 || o->opaque_max_bytes != 0)
    return kvs_fail(store, KVSTOW_EINVAL,
                    "space: layers %u, k_bytes %u, v_bytes %u, opaque_max_bytes %u: give either "
                    "layers and row sizes, or opaque_max_bytes alone",
                    o->layers, o->k_bytes, o->v_bytes, o->opaque_max_bytes);
  const uint32_t planes = opaque ? 1 : o->layers;
  uint64_t tokens = o->block_tokens, plane, padded;
  if (tokens == 0)
    for (tokens = BLOCK_TOKENS_DEFAULT;
         !opaque && tokens > 1 && tokens * row * planes > BLOCK_BYTES_DEFAULT_MAX;)
      tokens /= 2;
  plane = page_up(opaque ? o->opaque_max_bytes : tokens * row);
  padded = plane * planes;
  const uint64_t ram_max = store->options.ram_bytes / RAM_SHARE_MAX;
  const uint64_t ssd_max =
      store->tier == NULL ? UINT32_MAX : store->segment_bytes - 16 * KVSTOW_PAGE_BYTES;
  if (planes > UINT16_MAX || padded > ram_max || padded > ssd_max || padded > UINT32_MAX / 2)
    return kvs_fail(store, KVSTOW_ETOOBIG,
                    "space: a block of %llu tokens takes %llu bytes; at most %llu fit (segment of "
                    "%u bytes, an eighth of %llu bytes RAM): use fewer block_tokens",
                    (unsigned long long)tokens, (unsigned long long)padded,
                    (unsigned long long)(ram_max < ssd_max ? ram_max : ssd_max),
                    store->segment_bytes, (unsigned long long)store->options.ram_bytes);
  if (tokens > KVSTOW_PAGE_BYTES || kvstow_tier_owner_max_bytes(store->tier, planes) <
                                        (int64_t)kvs_describe_bytes((uint32_t)tokens))
    return kvs_fail(store, KVSTOW_ETOOBIG,
                    "space: the 4096-byte header can't hold what %u planes and %llu tokens need; "
                    "use fewer block_tokens",
                    planes, (unsigned long long)tokens);
  space->layout = (struct kvs_layout){o->layers, o->k_bytes, o->v_bytes, (uint32_t)tokens};
  space->planes = planes;
  space->plane_bytes = (uint32_t)plane;
  space->padded_bytes = (uint32_t)padded;
  space->part_bytes = o->k_bytes == 0 || o->v_bytes == 0 ? 0 : (uint32_t)tokens * o->k_bytes;
  space->payload_bytes = opaque ? o->opaque_max_bytes : (uint32_t)(tokens * row * planes);
  atomic_init(&space->ttl_s, o->ttl_s);
  return 0;
}

static bool layout_equal(const struct kvs_layout *a, const struct kvs_layout *b) {
  return a->layers == b->layers && a->k_bytes == b->k_bytes && a->v_bytes == b->v_bytes &&
         a->block_tokens == b->block_tokens;
}

/* Is something stored under this fingerprint in another layout? */
static const struct kvs_root *other_layout(const kvstow *store, const struct kvstow_space *space) {
  for (uint32_t i = 0; i < store->roots.count; i++) {
    const struct kvs_root *root = &store->roots.rows[i];
    if (root->refs == 0 || root->block_tokens == 0 || !kvs_key_equal(root->space_id, space->id))
      continue;
    if (root->layers != space->layout.layers || root->block_tokens != space->layout.block_tokens ||
        (root->layers != 0 && root->plane_bytes != space->plane_bytes))
      return root;
  }
  return NULL;
}

static int space_find(kvstow *store, const struct kvstow_space *wanted, kvstow_space **found) {
  for (struct kvstow_space *s = store->spaces; s != NULL; s = s->next) {
    if (!kvs_key_equal(s->id, wanted->id)) continue;
    if (!layout_equal(&s->layout, &wanted->layout))
      return kvs_fail(store, KVSTOW_EGEOMETRY,
                      "space %s: open with %u layers, %u + %u bytes, %u tokens; asked for %u "
                      "layers, %u + %u bytes, %u tokens",
                      s->name, s->layout.layers, s->layout.k_bytes, s->layout.v_bytes,
                      s->layout.block_tokens, wanted->layout.layers, wanted->layout.k_bytes,
                      wanted->layout.v_bytes, wanted->layout.block_tokens);
    atomic_store(&s->ttl_s, wanted->ttl_s);
    *found = s;
    return 0;
  }
  return KVSTOW_EMISS;
}

int kvstow_space_open(kvstow *store, const kvstow_space_options *options, kvstow_space **out) {
  if (store == NULL) return KVSTOW_EINVAL;
  if (out == NULL || options == NULL)
    return kvs_fail(store, KVSTOW_EINVAL, "space: %s is NULL", out == NULL ? "space" : "options");
  if (options->size < sizeof *options || options->fingerprint == NULL ||
      options->fingerprint_bytes == 0)
    return kvs_fail(store, KVSTOW_EINVAL,
                    "space: size %zu (expected %zu), fingerprint of %zu bytes (it must not be "
                    "empty: it keeps models apart)",
                    options->size, sizeof *options, options->fingerprint_bytes);
  struct kvstow_space *space = calloc(1, sizeof *space);
  if (space == NULL) return KVSTOW_ENOMEM;
  int rc = space_resolve(store, options, space);
  if (rc != 0) goto out_free;
  space->store = store;
  space->id = kvs_space_id(store->seed, options->fingerprint, options->fingerprint_bytes);
  if (options->name != NULL) strncpy(space->name, options->name, sizeof space->name - 1);

  kvs_lock(store);
  rc = space_find(store, space, out);
  const struct kvs_root *other = rc == KVSTOW_EMISS ? other_layout(store, space) : NULL;
  if (other != NULL && !options->replace_layout) {
    rc = kvs_fail(store, KVSTOW_EGEOMETRY,
                  "space %s: stored with %u layers, planes of %u bytes, %u tokens a block; asked "
                  "for %u layers, planes of %u bytes, %u tokens (replace_layout drops the old)",
                  space->name, other->layers, other->plane_bytes, other->block_tokens,
                  space->layout.layers, space->plane_bytes, space->layout.block_tokens);
  } else if (rc == KVSTOW_EMISS) {
    space->next = store->spaces;
    store->spaces = space;
    *out = space;
    rc = 0;
    kvs_policies_fit(store, space->padded_bytes);
    space = NULL;
  }
  kvstow__unlock(&store->lock);
  if (rc == 0 && other != NULL) rc = kvstow_forget_space(*out, NULL);
out_free:
  free(space);
  return rc;
}

/* ---- chains --------------------------------------------------------------------------------- */

static const char *prefix_fault(const kvstow_prefix *prefix) {
  if (prefix == NULL || prefix->space == NULL) return "prefix: it has no space";
  if (prefix->size < sizeof *prefix) return "prefix: its size is not set: begin with KVSTOW_PREFIX";
  if (prefix->tokens == NULL && prefix->tokens_count > 0)
    return "prefix: tokens is NULL, tokens_count is not 0";
  if (prefix->salt == NULL && prefix->salt_bytes > 0)
    return "prefix: salt is NULL, salt_bytes is not 0";
  return NULL;
}

/* The space is where it always was, also in one whose size is not set. */
int kvs_prefix_fail(const kvstow_prefix *prefix, const char *what) {
  if (prefix == NULL || prefix->space == NULL) return KVSTOW_EINVAL;
  return kvs_fail(prefix->space->store, KVSTOW_EINVAL, "%s", what);
}

int kvs_chain_begin(struct kvs_chain *chain, const kvstow_prefix *prefix, size_t blocks,
                    bool create_root) {
  const char *fault = prefix_fault(prefix);
  if (fault != NULL) return kvs_prefix_fail(prefix, fault);
  struct kvstow_space *space = prefix->space;
  kvstow *store = space->store;
  const size_t whole = prefix->tokens_count / space->layout.block_tokens;
  chain->expired = chain->collisions = 0;
  chain->space = space;
  chain->store = store;
  chain->prefix = prefix;
  chain->blocks = blocks < whole ? blocks : whole;
  chain->keys = chain->room;
  chain->root = KVS_NO_ENTRY;
  if (chain->blocks >= sizeof chain->room / sizeof chain->room[0]) {
    const bool addressable = chain->blocks < SIZE_MAX / sizeof *chain->keys;
    chain->keys = addressable ? malloc((chain->blocks + 1) * sizeof *chain->keys) : NULL;
    if (chain->keys == NULL) return KVSTOW_ENOMEM;
  }
  chain->root_id =
      kvs_root_id(store->seed, space->id, &space->layout, prefix->salt, prefix->salt_bytes);
  chain->keys[0] = chain->root_id;
  chain->named = 0;
  kvs_lock(store);
  chain->root = kvs_root_take(store, chain->root_id, space->id, create_root);
  if (chain->root != KVS_NO_ENTRY) {
    struct kvs_root *root = &store->roots.rows[chain->root];
    root->layers = space->layout.layers;
    root->block_tokens = space->layout.block_tokens;
    root->plane_bytes = space->plane_bytes;
  }
  kvstow__unlock(&store->lock);
  if (create_root && chain->root == KVS_NO_ENTRY) {
    kvs_chain_finish(chain);
    return KVSTOW_ENOMEM;
  }
  return 0;
}

static void name_upto(struct kvs_chain *chain, size_t blocks) {
  if (blocks > chain->blocks) blocks = chain->blocks;
  for (size_t i = chain->named; i < blocks; i++) {
    chain->keys[i + 1] =
        kvs_block_key(&chain->store->secret, chain->keys[i], kvs_chain_tokens(chain, i),
                      chain->space->layout.block_tokens);
    kvs_shard_ahead(&chain->store->index, chain->keys[i + 1]);
    chain->named = i + 1;
  }
}

int kvs_chain_init(struct kvs_chain *chain, const kvstow_prefix *prefix, size_t blocks,
                   bool create_root) {
  const int rc = kvs_chain_begin(chain, prefix, blocks, create_root);
  if (rc == 0) name_upto(chain, SIZE_MAX);
  return rc;
}

void kvs_chain_name(struct kvs_chain *chain) {
  name_upto(chain, SIZE_MAX);
}

void kvs_chain_leave(struct kvs_chain *chain) {
  if (chain->root == KVS_NO_ENTRY) return;
  chain->store->count.expired_blocks += chain->expired;
  chain->store->count.collisions += chain->collisions;
  kvs_root_give(chain->store, chain->root);
  chain->root = KVS_NO_ENTRY;
}

void kvs_chain_finish(struct kvs_chain *chain) {
  if (chain->keys != chain->room) free(chain->keys);
  if (chain->root == KVS_NO_ENTRY) return;
  kvs_lock(chain->store);
  kvs_chain_leave(chain);
  kvstow__unlock(&chain->store->lock);
}

const kvstow_token *kvs_chain_tokens(const struct kvs_chain *chain, size_t block) {
  return chain->prefix->tokens + block * chain->space->layout.block_tokens;
}

bool kvs_expired(const struct kvstow_space *space, const struct kvs_entry *entry) {
  const uint32_t ttl_s = atomic_load_explicit(&space->ttl_s, memory_order_relaxed);
  return ttl_s != 0 && (int64_t)kvs_now_s() - entry->written_s > (int64_t)ttl_s;
}

/* Whether a block is as large as the space's readers think. Not: of an opaque space that was larger in another
 * life of the store; or of a record that was tampered with. */
static bool fits(const struct kvstow_space *space, const struct kvs_entry *entry) {
  return space->layout.layers == 0 ? entry->padded_bytes <= space->padded_bytes
                                   : entry->padded_bytes == space->padded_bytes;
}

bool kvs_serves(const struct kvstow_space *space, const struct kvs_entry *entry) {
  return fits(space, entry) && !kvs_expired(space, entry);
}

#define AHEAD_NAME KVS_AHEAD_BLOCKS
#define AHEAD_ENTRY 5u
#define AHEAD_HEADER 2u
#define LINE_BYTES 64u

/* Of a block in RAM, what will be compared. */
static void fetch_header(const struct kvs_chain *chain, size_t block) {
  const struct kvs_entry *entry = chain->likely[block % KVS_AHEAD_BLOCKS];
  const uint32_t frame = entry == NULL ? KVS_NO_FRAME : entry->frame;
  const void *header =
      frame == KVS_NO_FRAME ? NULL : kvs_pool_header_near(chain->store->pool, frame);
  if (header != NULL)
    kvs_describe_fetch(header, chain->space->planes, chain->space->layout.block_tokens);
}

static void fetch_entry(struct kvs_chain *chain, size_t block) {
  chain->likely[block % KVS_AHEAD_BLOCKS] =
      kvs_shard_ahead_entry(&chain->store->index, chain->keys[block + 1]);
}

/* The caller's tokens of a block that will be hashed soon. */
static void fetch_tokens(const struct kvs_chain *chain, size_t block) {
  const char *tokens = (const char *)kvs_chain_tokens(chain, block);
  const size_t bytes = chain->space->layout.block_tokens * sizeof(kvstow_token);
  for (size_t at = 0; at < bytes; at += LINE_BYTES) __builtin_prefetch(tokens + at);
}

/* A look-up is a chain of cache misses: the table's line, entry, header page. What later blocks will miss is
 * fetched while earlier ones are compared, without locks: what changes meanwhile was fetched in vain. Tokens are
 * hashed only a little ahead: then they are still in the nearest cache when they are compared, and a prefix that is
 * not held costs no more than its first blocks. */
static void look_ahead(struct kvs_chain *chain, size_t block) {
  if (block == 0) {
    name_upto(chain, AHEAD_NAME);
    for (size_t i = 0; i < AHEAD_ENTRY && i < chain->blocks; i++) fetch_entry(chain, i);
    for (size_t i = 0; i < AHEAD_HEADER && i < chain->blocks; i++) fetch_header(chain, i);
  }
  name_upto(chain, block + 1 + AHEAD_NAME);
  if (block + 1 + AHEAD_NAME < chain->blocks) fetch_tokens(chain, block + 1 + AHEAD_NAME);
  if (block + AHEAD_ENTRY < chain->blocks) fetch_entry(chain, block + AHEAD_ENTRY);
  if (block + AHEAD_HEADER < chain->blocks) fetch_header(chain, block + AHEAD_HEADER);
}

uint32_t kvs_chain_next(struct kvs_chain *chain, size_t block, bool lease, bool *in_ram) {
  if (chain->root == KVS_NO_ENTRY) return KVS_NO_ENTRY;
  look_ahead(chain, block);
  return kvs_chain_find(chain, block, lease, in_ram);
}

uint32_t kvs_chain_find(struct kvs_chain *chain, size_t block, bool lease, bool *in_ram) {
  kvstow *store = chain->store;
  if (chain->root == KVS_NO_ENTRY) return KVS_NO_ENTRY;
  const kvstow_key key = chain->keys[block + 1];
  const uint32_t tokens = chain->space->layout.block_tokens;
  *in_ram = false;
  kvs_shard_lock(&store->index, key);
  uint32_t id = kvs_shard_find(&store->index, key, chain->root);
  if (id != KVS_NO_ENTRY) {
    struct kvs_entry *entry = kvs_entry(&store->index, id);
    if (!fits(chain->space, entry)) {
      id = KVS_NO_ENTRY;
    } else if (entry->parent_lo != chain->keys[block].lo || entry->depth != block) {
      /* hangs elsewhere in a chain: a key that collides, or a line tampered with */
      id = KVS_NO_ENTRY;
      chain->collisions++;
    } else if (kvs_expired(chain->space, entry)) {
      id = KVS_NO_ENTRY;
      chain->expired++;
    } else if (entry->frame != KVS_NO_FRAME) {
      *in_ram = true;
      if (!kvs_describe_is(kvs_pool_header(store->pool, entry->frame), chain->keys[block],
                           kvs_chain_tokens(chain, block), tokens)) {
        id = KVS_NO_ENTRY;
        chain->collisions++;
      }
    }
    if (id != KVS_NO_ENTRY && lease) entry->leases++;
  }
  kvs_shard_unlock(&store->index, key);
  return id;
}

void kvs_lease_drop_locked(kvstow *store, uint32_t id) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  const kvstow_key key = entry->key;
  kvs_shard_lock(&store->index, key);
  const bool last = --entry->leases == 0 && (entry->flags & KVS_UNLINKED) != 0;
  kvs_shard_unlock(&store->index, key);
  if (!last) return;
  kvs_root_give(store, entry->root);
  kvs_entry_free(&store->index, id);
}

void kvs_lease_drop(kvstow *store, uint32_t id) {
  kvs_lock(store);
  kvs_lease_drop_locked(store, id);
  kvstow__unlock(&store->lock);
}
