/* tests/test_model.c - the whole engine against a map in memory.
 *
 * Random operations on one store: storing in three ways, matching, reading in four, pinning,
 * forgetting, restarting. The model knows, for every block that may exist, whether it may be held
 * and which life of it (a block forgotten and stored again has other bytes), and so what the store
 * may answer. Three settings:
 *
 *   tiny      budgets far below what is stored: everything evicts. Nothing returned may be wrong,
 *             nothing forgotten may come back; and some of it must be found.
 *   fits      the SSD holds everything: what was stored must be found, to the block, always.
 *   ram only  no directory.
 *
 * KVSTOW_SEEDS=n runs n seeds, KVSTOW_SEED=n begins with that one, KVSTOW_OPS=n sets the operations
 * a seed.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <kvstow/policy.h>

#include "support/kv.h"

enum {
  SPACES = 7,
  SALTS = 4,
  DOCS = 16,
  DEPTH = 12, /* blocks of the longest document */
  NODES = DOCS * DEPTH,
  LEASES = 3,
  SEQS = 3,
  HOLDS = 2,
  OPAQUE = 5,
  MORTAL = 6, /* the space with a ttl */
  TTL_S = 2,
};

static const kv_shape shapes[SPACES] = {
    {4, 64, 64, 32, 0},                       /* 0 and 1: the same layout, other fingerprints */
    {4, 64, 64, 32, 0},   {3, 144, 0, 64, 0}, /* 2: MLA, no V */
    {8, 192, 192, 64, 0},                     /* 3: large blocks */
    {2, 37, 21, 16, 0},                       /* 4: odd row sizes */
    {0, 0, 0, 32, 50000},                     /* 5: opaque */
    {1, 40, 24, 32, 0},                       /* 6: blocks grow old */
};

static const char *const fingerprints[SPACES] = {"alpha",      "alpha2",      "mla",   "large",
                                                 "odd \x01 z", "opaque-blob", "mortal"};

static const struct {
  const char *bytes;
  size_t length;
} salts[SALTS] = {
    {NULL, 0}, {"tenant", 6}, {"tenant\0", 7}, {"a salt that is rather long, forty bytes..", 41}};

/* ---- the model ------------------------------------------------------------------------------ */

/* The trie of documents: a node is a block position with a history. Tokens of a node depend on its
 * `look`, which nodes under other parents share: equal tokens in other chains are other blocks. */
typedef struct node {
  int parent; /* -1: a root's child */
  int depth;
  uint32_t look;
  uint32_t sibling;
} node;

/* One block in one space under one salt. */
typedef struct cell {
  bool may;        /* stored, and not forgotten since */
  bool must;       /* and nothing that happened allows it to be missing (setting "fits") */
  uint32_t life;   /* how often it was forgotten */
  double stored_s; /* when it was stored at the latest */
} cell;

typedef struct held_lease {
  kvstow_lease *lease;
  int space, salt, doc;
  size_t blocks;
  uint64_t ids[DEPTH];
  bool viewed[DEPTH];
} held_lease;

typedef struct open_seq {
  kvstow_seq *seq;
  int space, salt, doc;
  size_t first, named; /* blocks before; tokens named after them */
  size_t rows[16];     /* appended, by layer */
} open_seq;

typedef struct hold { /* reserved, not yet committed */
  bool open;
  int space, salt, doc;
  size_t first, count;
  kvstow_slot slots[DEPTH];
} hold;

/* What happened to blocks, newest last, for failures. */
enum { HISTORY = 1 << 16 };
typedef struct happening {
  size_t step;
  const char *what;
  int space, salt, index, detail; /* -1: all */
} happening;

typedef enum setting { TINY = 0, FITS, RAM_ONLY, SETTINGS } setting;

typedef struct model {
  setting setting;
  kv_rng rng;
  uint64_t seed;
  const char *dir;
  uint64_t ram_bytes, ssd_bytes;
  uint32_t segment_bytes;
  bool uring, encrypted;
  kvstow *store;
  kvstow_space *spaces[SPACES];

  node nodes[NODES];
  int nodes_count;
  int paths[DOCS][DEPTH];
  size_t lengths[DOCS];

  cell cells[SPACES][SALTS][NODES];
  held_lease leases[LEASES];
  open_seq seqs[SEQS];
  hold holds[HOLDS];
  struct {
    bool on;
    int doc;
    size_t blocks;
  } pins[SPACES][SALTS];

  kvstow_token tokens[DEPTH * 64 + 64];
  happening history[HISTORY];
  size_t happened;

  char *bytes; /* scratch */
  size_t bytes_max;

  size_t step, restarts, stores, full, asked_blocks, hit_blocks, fresh_asked, fresh_held, forgets,
      busy_forgets, forgotten, reads, views, sealed, held_reads;
} model;

static const char *what; /* the operation that runs, for failures */

#define M_CHECK(m, condition, ...)                                                                 \
  do {                                                                                             \
    if (!(condition)) model_fail(m, __LINE__, __VA_ARGS__);                                        \
  } while (0)

__attribute__((format(printf, 3, 4), noreturn)) static void model_fail(model *m, int line,
                                                                       const char *format, ...) {
  static const char *const names[] = {"tiny", "fits", "ram only"};
  char text[900], message[KVSTOW_MESSAGE_BYTES] = "";
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  if (m->store != NULL) kvstow_message(m->store, message, sizeof message);
  kv_fail_at(__FILE__, line, "setting %s, step %zu, %s: %s [store says: %s]", names[m->setting],
             m->step, what, text, message);
}

static void record(model *m, const char *happening_name, int space, int salt, int index,
                   int detail) {
  m->history[m->happened++ % HISTORY] =
      (happening){m->step, happening_name, space, salt, index, detail};
}

/* Prints what happened to the blocks of a document. */
static void recall(const model *m, int space, int salt, int doc) {
  for (size_t i = m->happened > HISTORY ? m->happened - HISTORY : 0; i < m->happened; i++) {
    const happening *h = &m->history[i % HISTORY];
    bool ours = h->index < 0;
    for (size_t block = 0; block < m->lengths[doc]; block++)
      ours = ours || h->index == m->paths[doc][block];
    if (!ours || (h->space >= 0 && h->space != space) || (h->salt >= 0 && h->salt != salt))
      continue;
    fprintf(stderr, "  step %zu: %s", h->step, h->what);
    if (h->index >= 0) fprintf(stderr, " block %d", m->nodes[h->index].depth);
    fprintf(stderr, " (%d)\n", h->detail);
  }
}

static void grow_trie(model *m) {
  m->nodes_count = 0;
  for (int doc = 0; doc < DOCS; doc++) {
    size_t shared = 0;
    m->lengths[doc] = kv_between(&m->rng, 2, DEPTH);
    if (doc > 0) {
      int other = (int)kv_below(&m->rng, (size_t)doc);
      shared = kv_below(&m->rng, m->lengths[other] + 1);
      if (shared > m->lengths[doc]) shared = m->lengths[doc];
      memcpy(m->paths[doc], m->paths[other], shared * sizeof(int));
    }
    for (size_t depth = shared; depth < m->lengths[doc]; depth++) {
      int index = m->nodes_count++;
      m->nodes[index] = (node){.parent = depth == 0 ? -1 : m->paths[doc][depth - 1],
                               .depth = (int)depth,
                               .look = (uint32_t)kv_below(&m->rng, 3),
                               .sibling = (uint32_t)doc};
      m->paths[doc][depth] = index;
    }
  }
}

/* Siblings differ in one token only: the last, or the first, or one in the middle. */
static kvstow_token node_token(const node *n, uint32_t block_tokens, size_t i) {
  const size_t differs = n->sibling % 3 == 0   ? block_tokens - 1
                         : n->sibling % 3 == 1 ? 0
                                               : block_tokens / 2;
  if (i == differs) return (kvstow_token)(1000000u + n->sibling);
  return (kvstow_token)(kv_hash2(n->look, i) & 0x3ff);
}

static const kvstow_token *doc_tokens(model *m, int space, int doc) {
  const uint32_t block_tokens = shapes[space].block_tokens;
  kvstow_token *at = m->tokens;
  for (size_t block = 0; block < m->lengths[doc]; block++)
    for (size_t i = 0; i < block_tokens; i++)
      *at++ = node_token(&m->nodes[m->paths[doc][block]], block_tokens, i);
  for (size_t i = 0; i < 64; i++) *at++ = -7; /* a tail */
  return m->tokens;
}

static cell *cell_of(model *m, int space, int salt, int doc, size_t block) {
  return &m->cells[space][salt][m->paths[doc][block]];
}

static uint64_t block_id(model *m, int space, int salt, int doc, size_t block) {
  const int index = m->paths[doc][block];
  return kv_hash2(kv_hash2(m->seed, (uint64_t)space * SALTS + (uint64_t)salt),
                  ((uint64_t)index << 32) | m->cells[space][salt][index].life);
}

/* `blocks` leading blocks of a document; sometimes with the first tokens of a block more. */
static kvstow_prefix prefix_of(model *m, int space, int salt, int doc, size_t blocks) {
  size_t count = blocks * shapes[space].block_tokens;
  if (kv_chance(&m->rng, 30)) count += kv_below(&m->rng, shapes[space].block_tokens);
  kvstow_prefix prefix = KVSTOW_PREFIX(m->spaces[space], doc_tokens(m, space, doc), count);
  prefix.salt = salts[salt].bytes;
  prefix.salt_bytes = salts[salt].length;
  prefix.session = (uint64_t)doc + 1;
  prefix.category = (uint32_t)space;
  prefix.recompute_cost = kv_below(&m->rng, 1000);
  return prefix;
}

static bool grown_old(const model *m, int space, const cell *c) {
  (void)m;
  return space == MORTAL && kv_now_s() - c->stored_s > TTL_S + 1.5;
}

/* Leading blocks that may be found, at most `blocks`. */
static size_t may_prefix(model *m, int space, int salt, int doc, size_t blocks) {
  size_t n = 0;
  while (n < blocks && cell_of(m, space, salt, doc, n)->may &&
         !grown_old(m, space, cell_of(m, space, salt, doc, n)))
    n++;
  return n;
}

static size_t must_prefix(model *m, int space, int salt, int doc, size_t blocks) {
  size_t n = 0;
  while (n < blocks && cell_of(m, space, salt, doc, n)->must) n++;
  return n;
}

static void now_stored(model *m, int space, int salt, int doc, size_t block, bool surely) {
  cell *c = cell_of(m, space, salt, doc, block);
  c->may = true;
  c->stored_s = kv_now_s();
  record(m, what, space, salt, m->paths[doc][block], (int)c->life);
  if (surely && m->setting == FITS && space != MORTAL) c->must = true;
}

/* What an answer about a prefix must satisfy. */
static void check_held(model *m, int space, int salt, int doc, size_t blocks,
                       const kvstow_held *held) {
  M_CHECK(m, held->tokens == held->blocks * shapes[space].block_tokens,
          "%zu tokens are not %zu whole blocks", held->tokens, held->blocks);
  M_CHECK(m, held->blocks == held->ram_blocks + held->ssd_blocks,
          "%zu blocks, %zu in RAM, %zu on SSD", held->blocks, held->ram_blocks, held->ssd_blocks);
  M_CHECK(m, m->setting != RAM_ONLY || held->ssd_blocks == 0, "SSD blocks without SSD");
  const size_t may = may_prefix(m, space, salt, doc, blocks);
  const size_t must = must_prefix(m, space, salt, doc, blocks);
  if (held->blocks > may || held->blocks < must) recall(m, space, salt, doc);
  M_CHECK(m, held->blocks <= may,
          "space %d salt %d doc %d: %zu blocks held, of which only %zu can exist", space, salt, doc,
          held->blocks, may);
  M_CHECK(m, held->blocks >= must, "space %d salt %d doc %d: %zu blocks held, %zu were stored",
          space, salt, doc, held->blocks, must);
}

/* Payload bytes that the test keeps the store from giving up. */
static uint64_t bytes_in_use(model *m) {
  uint64_t bytes = 0;
  for (int i = 0; i < LEASES; i++)
    if (m->leases[i].lease != NULL)
      bytes += m->leases[i].blocks * kvstow_space_payload_bytes(m->spaces[m->leases[i].space]);
  for (int i = 0; i < SEQS; i++)
    if (m->seqs[i].seq != NULL)
      bytes += 4ull * kvstow_space_payload_bytes(m->spaces[m->seqs[i].space]);
  for (int i = 0; i < HOLDS; i++)
    if (m->holds[i].open)
      bytes += m->holds[i].count * kvstow_space_payload_bytes(m->spaces[m->holds[i].space]);
  for (int space = 0; space < SPACES; space++)
    for (int salt = 0; salt < SALTS; salt++)
      if (m->pins[space][salt].on)
        bytes += m->pins[space][salt].blocks * kvstow_space_payload_bytes(m->spaces[space]);
  return bytes;
}

static void check_full(model *m, int rc, uint32_t flags) {
  m->full++;
  M_CHECK(m, rc == KVSTOW_EFULL || rc == KVSTOW_ENOMEM, "%s", kvstow_errname(rc));
  if ((flags & KVSTOW_NOWAIT) == 0)
    M_CHECK(m, bytes_in_use(m) > m->ram_bytes / 4,
            "EFULL, though only %" PRIu64 " bytes of %" PRIu64 " are in use", bytes_in_use(m),
            m->ram_bytes);
}

/* ---- choosing ------------------------------------------------------------------------------- */

static void choose(model *m, int *space, int *salt, int *doc) {
  static const uint8_t weighted[] = {0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 5, 5, 6};
  *space = weighted[kv_below(&m->rng, sizeof weighted)];
  *salt = (int)(kv_below(&m->rng, SALTS) * kv_below(&m->rng, SALTS) / SALTS);
  *doc = (int)(kv_below(&m->rng, DOCS) * kv_below(&m->rng, DOCS) / DOCS);
}

/* ---- storing -------------------------------------------------------------------------------- */

static void op_store(model *m) {
  what = "store";
  int space, salt, doc;
  choose(m, &space, &salt, &doc);
  const kv_shape *shape = &shapes[space];
  const size_t length = m->lengths[doc];
  size_t first = kv_chance(&m->rng, 65) ? 0 : kv_below(&m->rng, length);
  size_t count = kv_between(&m->rng, 1, length - first);
  if (space == 3 && count > 4) count = 4;
  const uint32_t flags = kv_chance(&m->rng, 15) ? KVSTOW_NOWAIT : 0;
  kvstow_prefix prefix = prefix_of(m, space, salt, doc, first + count);
  kvstow_source sources[DEPTH];
  struct iovec iov[DEPTH][5];
  char *at = m->bytes;
  for (size_t i = 0; i < count; i++) {
    const uint64_t id = block_id(m, space, salt, doc, first + i);
    const size_t bytes = kv_block_bytes(id, shape);
    kv_fill_block(id, shape, at);
    sources[i].iov = iov[i];
    sources[i].iovcnt = kv_cut(&m->rng, at, bytes, iov[i], 5);
    at += bytes;
  }
  size_t stored = SIZE_MAX;
  const bool want = kv_chance(&m->rng, 80);
  int rc = kvstow_store(&prefix, first, count, sources, flags, want ? &stored : NULL);
  m->stores++;
  if (want) M_CHECK(m, stored <= count, "%zu of %zu blocks stored", stored, count);
  if (rc == 0) {
    M_CHECK(m, !want || stored == count, "success, but %zu of %zu stored", stored, count);
    stored = count;
  } else {
    check_full(m, rc, flags);
    if (!want) stored = 0;
  }
  for (size_t i = 0; i < count; i++) now_stored(m, space, salt, doc, first + i, i < stored);
  if (rc == 0 && first == 0 && space != MORTAL &&
      count * kvstow_space_payload_bytes(m->spaces[space]) < m->ram_bytes / 16) {
    kvstow_held held;
    M_CHECK(m, kvstow_exists(&prefix, &held) == 0, "exists failed");
    check_held(m, space, salt, doc, count, &held);
    m->fresh_asked++;
    m->fresh_held += held.blocks == count;
  }
}

static void fill_slots(model *m, int space, int salt, int doc, size_t first, size_t count,
                       kvstow_slot *slots) {
  for (size_t i = 0; i < count; i++)
    if (slots[i].payload != NULL) {
      const uint64_t id = block_id(m, space, salt, doc, first + i);
      const size_t bytes = shapes[space].layers == 0 ? kv_blob_bytes(id, &shapes[space])
                                                     : kvstow_space_payload_bytes(m->spaces[space]);
      M_CHECK(m, slots[i].bytes >= bytes, "slot of %zu bytes for %zu", slots[i].bytes, bytes);
      M_CHECK(m, (uintptr_t)slots[i].payload % KVSTOW_PAGE_BYTES == 0, "slot not aligned");
      kv_fill_payload(id, &shapes[space], kvstow_space_plane_bytes(m->spaces[space]),
                      slots[i].payload);
    }
}

static void hold_end(model *m, hold *h, bool commit) {
  if (commit) {
    /* filled late: the store must not have looked yet */
    fill_slots(m, h->space, h->salt, h->doc, h->first, h->count, h->slots);
    bool filled[DEPTH] = {false};
    for (size_t i = 0; i < h->count; i++) filled[i] = h->slots[i].payload != NULL;
    int rc = kvstow_commit(m->store, h->slots, h->count);
    M_CHECK(m, rc == 0, "commit: %s", kvstow_errname(rc));
    for (size_t i = 0; i < h->count; i++)
      if (filled[i]) now_stored(m, h->space, h->salt, h->doc, h->first + i, true);
  } else {
    kvstow_abort(m->store, h->slots, h->count);
  }
  h->open = false;
}

static void op_reserve(model *m) {
  what = "reserve";
  hold *h = &m->holds[kv_below(&m->rng, HOLDS)];
  if (h->open) {
    what = "commit";
    hold_end(m, h, kv_chance(&m->rng, 75));
    return;
  }
  choose(m, &h->space, &h->salt, &h->doc);
  h->first = kv_chance(&m->rng, 65) ? 0 : kv_below(&m->rng, m->lengths[h->doc]);
  h->count = kv_between(&m->rng, 1, m->lengths[h->doc] - h->first);
  if (h->space == 3 && h->count > 2) h->count = 2;
  size_t opaque_bytes = 0;
  if (h->space == OPAQUE) {
    h->count = 1; /* blobs differ in length */
    opaque_bytes = kv_blob_bytes(block_id(m, h->space, h->salt, h->doc, h->first), &shapes[OPAQUE]);
  }
  const uint32_t flags = kv_chance(&m->rng, 15) ? KVSTOW_NOWAIT : 0;
  kvstow_prefix prefix = prefix_of(m, h->space, h->salt, h->doc, h->first + h->count);
  memset(h->slots, 0x5a, sizeof h->slots);
  int rc = kvstow_reserve(&prefix, h->first, h->count, opaque_bytes, flags, h->slots);
  if (rc != 0) {
    check_full(m, rc, flags);
    return;
  }
  for (size_t i = 0; i < h->count; i++)
    M_CHECK(m,
            h->slots[i].payload != NULL || cell_of(m, h->space, h->salt, h->doc, h->first + i)->may,
            "reserve says that block %zu is held; it can't be", h->first + i);
  h->open = true;
  if (kv_chance(&m->rng, 70)) {
    what = "reserve and commit";
    hold_end(m, h, kv_chance(&m->rng, 90));
  }
}

/* ---- sequences ------------------------------------------------------------------------------ */

static size_t slowest(const open_seq *q) {
  size_t rows = q->rows[0];
  for (uint32_t layer = 1; layer < shapes[q->space].layers; layer++)
    if (q->rows[layer] < rows) rows = q->rows[layer];
  return rows;
}

static void op_seq(model *m) {
  what = "sequence";
  open_seq *q = &m->seqs[kv_below(&m->rng, SEQS)];
  if (q->seq == NULL) {
    memset(q, 0, sizeof *q);
    do {
      choose(m, &q->space, &q->salt, &q->doc);
    } while (q->space == OPAQUE);
    q->first = kv_chance(&m->rng, 60) ? 0 : kv_below(&m->rng, m->lengths[q->doc]);
    kvstow_prefix prefix = prefix_of(m, q->space, q->salt, q->doc, q->first);
    if (prefix.tokens_count % shapes[q->space].block_tokens != 0) {
      M_CHECK(m, kvstow_seq_open(&prefix, &q->seq) == KVSTOW_ESTATE, "a ragged prefix was taken");
      q->seq = NULL;
      prefix.tokens_count = q->first * shapes[q->space].block_tokens;
    }
    int rc = kvstow_seq_open(&prefix, &q->seq);
    M_CHECK(m, rc == 0 && q->seq != NULL, "seq_open: %s", kvstow_errname(rc));
    M_CHECK(m, kvstow_seq_sealed_tokens(q->seq) == prefix.tokens_count, "sealed at once");
    return;
  }
  const kv_shape *shape = &shapes[q->space];
  const size_t all = (m->lengths[q->doc] - q->first) * shape->block_tokens;
  if (slowest(q) >= all || kv_chance(&m->rng, 1)) {
    kvstow_seq_close(q->seq);
    q->seq = NULL;
    return;
  }
  for (int turn = 0; turn < 8; turn++) {
    if (q->named < all && kv_chance(&m->rng, 40)) {
      size_t count = kv_between(&m->rng, 1, all - q->named < 90 ? all - q->named : 90);
      const kvstow_token *tokens = doc_tokens(m, q->space, q->doc);
      int rc = kvstow_seq_tokens(q->seq, tokens + q->first * shape->block_tokens + q->named, count);
      if (rc != 0) {
        check_full(m, rc, 0);
        return;
      }
      q->named += count;
    }
    const uint32_t layer = (uint32_t)kv_below(&m->rng, shape->layers);
    size_t room = q->named - q->rows[layer];
    const size_t ahead_max = slowest(q) + 2 * shape->block_tokens - q->rows[layer];
    if (room > ahead_max) room = ahead_max;
    if (room == 0) {
      if (q->rows[layer] == q->named) {
        char row[512] = {0};
        M_CHECK(m, kvstow_seq_append(q->seq, layer, row, row, 1) == KVSTOW_ESTATE,
                "more rows than tokens were taken");
      }
      continue;
    }
    const size_t count = kv_between(&m->rng, 1, room);
    char *k = m->bytes, *v = m->bytes + count * shape->k_bytes;
    for (size_t i = 0; i < count; i++) {
      const size_t token = q->rows[layer] + i;
      const uint64_t id =
          block_id(m, q->space, q->salt, q->doc, q->first + token / shape->block_tokens);
      kv_row(id, layer, 0, token % shape->block_tokens, k + i * shape->k_bytes, shape->k_bytes);
      kv_row(id, layer, 1, token % shape->block_tokens, v + i * shape->v_bytes, shape->v_bytes);
    }
    const size_t sealed_before = slowest(q) / shape->block_tokens;
    int rc = KVSTOW_EFULL;
    for (int attempt = 0; attempt < 400 && rc == KVSTOW_EFULL; attempt++) {
      if (attempt > 0) kv_sleep_ms(5);
      rc = kvstow_seq_append(q->seq, layer, k, shape->v_bytes > 0 ? v : NULL, count);
    }
    if (rc != 0) {
      check_full(m, rc, 0);
      kvstow_seq_close(q->seq);
      q->seq = NULL;
      return;
    }
    q->rows[layer] += count;
    const size_t sealed = slowest(q) / shape->block_tokens;
    M_CHECK(m, kvstow_seq_sealed_tokens(q->seq) == (q->first + sealed) * shape->block_tokens,
            "%zu tokens sealed, expected %zu", kvstow_seq_sealed_tokens(q->seq),
            (q->first + sealed) * shape->block_tokens);
    for (size_t block = sealed_before; block < sealed; block++)
      now_stored(m, q->space, q->salt, q->doc, q->first + block, true);
    m->sealed += sealed - sealed_before;
  }
}

/* ---- restoring ------------------------------------------------------------------------------ */

static void lease_fill(model *m, held_lease *l, int space, int salt, int doc, kvstow_lease *lease,
                       size_t blocks) {
  memset(l, 0, sizeof *l);
  l->lease = lease;
  l->space = space;
  l->salt = salt;
  l->doc = doc;
  l->blocks = blocks;
  for (size_t i = 0; i < blocks; i++) l->ids[i] = block_id(m, space, salt, doc, i);
}

/* A read of a block that grew old under its lease may fail; nothing else may. */
static bool read_failed(model *m, const held_lease *l, int rc) {
  if (rc == 0) return false;
  M_CHECK(m, l->space == MORTAL && rc == KVSTOW_EMISS, "%s on a lease of %zu blocks of space %d",
          kvstow_errname(rc), l->blocks, l->space);
  return true;
}

/* Says whose bytes a leased block has instead of its own: another life's, another block's. */
static void name_owner(model *m, held_lease *l, size_t block) {
  const kv_shape *shape = &shapes[l->space];
  const size_t plane_bytes = kvstow_space_plane_bytes(m->spaces[l->space]);
  char *copy = kv_pages(kvstow_space_payload_bytes(m->spaces[l->space]));
  void *payload = copy;
  size_t bytes;
  if (kvstow_read_blocks(l->lease, block, 1, &payload, &bytes, 0, 0) == 0) {
    const int index = m->paths[l->doc][block];
    fprintf(stderr, "  block %zu (node %d, life %u) %s\n", block, index,
            m->cells[l->space][l->salt][index].life,
            kv_payload_is(l->ids[block], shape, plane_bytes, copy) ? "is right" : "is wrong");
    for (int space = 0; space < SPACES; space++)
      for (int salt = 0; salt < SALTS; salt++)
        for (int other = 0; other < m->nodes_count; other++)
          for (uint64_t life = 0; life <= m->cells[space][salt][other].life; life++) {
            const uint64_t id =
                kv_hash2(kv_hash2(m->seed, (uint64_t)space * SALTS + (uint64_t)salt),
                         ((uint64_t)other << 32) | life);
            for (uint32_t layer = 0; layer < (shape->layers ? shape->layers : 1); layer++)
              if (kv_rows_are(id, layer, 0, 0, 1, copy + layer * plane_bytes,
                              shape->layers ? shape->k_bytes : 16))
                fprintf(stderr, "    layer %u begins like space %d salt %d node %d life %u\n",
                        layer, space, salt, other, (unsigned)life);
          }
  }
  free(copy);
}

static void read_rows(model *m, held_lease *l) {
  what = "read";
  const kv_shape *shape = &shapes[l->space];
  const size_t tokens = l->blocks * shape->block_tokens;
  kvstow_range full, asked;
  full.layer_first = (uint32_t)kv_below(&m->rng, shape->layers);
  full.layer_count = (uint32_t)kv_between(&m->rng, 1, shape->layers - full.layer_first);
  full.token_first = kv_below(&m->rng, tokens);
  full.token_count = kv_between(&m->rng, 1, tokens - full.token_first);
  if (kv_chance(&m->rng, 20)) full.layer_count = shape->layers - full.layer_first;
  if (kv_chance(&m->rng, 20)) full.token_count = tokens - full.token_first;
  asked = full;
  if (full.layer_first + full.layer_count == shape->layers && kv_chance(&m->rng, 50))
    asked.layer_count = 0;
  if (full.token_first + full.token_count == tokens && kv_chance(&m->rng, 50))
    asked.token_count = 0;
  const size_t bytes = kv_read_bytes(shape, &full);
  M_CHECK(m, bytes <= m->bytes_max, "scratch too small");
  const uint32_t flags = kv_chance(&m->rng, 40) ? KVSTOW_BYPASS_RAM : 0;
  int rc;
  if (kv_chance(&m->rng, 50)) {
    kv_scatter scatter;
    kv_scatter_init(&scatter, &m->rng, bytes);
    rc = kvstow_read(l->lease, &asked, scatter.iov, scatter.iovcnt, flags, 0);
    M_CHECK(m, rc != 0 || kv_scatter_gather(&scatter, m->bytes),
            "a byte outside the iovecs written");
    kv_scatter_finish(&scatter);
  } else {
    struct iovec iov = {m->bytes, bytes};
    memset(m->bytes, 0xee, bytes);
    rc = kvstow_read(l->lease, &asked, &iov, 1, flags, 0);
  }
  if (read_failed(m, l, rc)) return;
  if (!kv_read_is(l->ids, shape, &full, m->bytes)) {
    recall(m, l->space, l->salt, l->doc);
    for (size_t block = 0; block < l->blocks; block++) name_owner(m, l, block);
  }
  M_CHECK(m, kv_read_is(l->ids, shape, &full, m->bytes),
          "wrong bytes: space %d salt %d doc %d layers %u+%u tokens %zu+%zu flags %u", l->space,
          l->salt, l->doc, full.layer_first, full.layer_count, full.token_first, full.token_count,
          flags);
  m->reads++;
}

static void read_payloads(model *m, held_lease *l) {
  what = "read_blocks";
  const kv_shape *shape = &shapes[l->space];
  const size_t payload_bytes = kvstow_space_payload_bytes(m->spaces[l->space]);
  const size_t first = kv_below(&m->rng, l->blocks);
  size_t count = kv_between(&m->rng, 1, l->blocks - first);
  if (payload_bytes >= 128 * KV_KIB && count > 4) count = 4;
  const uint32_t flags = kv_chance(&m->rng, 60) ? KVSTOW_BYPASS_RAM : 0;
  void *payloads[DEPTH];
  size_t lengths[DEPTH];
  /* aligned, or off by a little; a guard behind each */
  const size_t skew = kv_chance(&m->rng, 70) ? 0 : kv_between(&m->rng, 1, 4095);
  const size_t stride = payload_bytes + KVSTOW_PAGE_BYTES;
  char *base = m->bytes + skew;
  M_CHECK(m, count * stride + skew + KVSTOW_PAGE_BYTES <= m->bytes_max, "scratch too small");
  for (size_t i = 0; i < count; i++) {
    payloads[i] = base + i * stride;
    memset(base + i * stride + payload_bytes, 0x77, 64);
  }
  int rc =
      kvstow_read_blocks(l->lease, first, count, payloads,
                         shape->layers == 0 || kv_chance(&m->rng, 50) ? lengths : NULL, flags, 0);
  for (size_t i = 0; i < count; i++)
    for (size_t at = 0; at < 64; at++)
      M_CHECK(m, base[i * stride + payload_bytes + at] == 0x77, "written behind the buffer");
  if (read_failed(m, l, rc)) return;
  for (size_t i = 0; i < count; i++) {
    const uint64_t id = l->ids[first + i];
    M_CHECK(m, shape->layers != 0 || lengths[i] == kv_blob_bytes(id, shape),
            "blob of %zu bytes, stored %zu", lengths[i], kv_blob_bytes(id, shape));
    M_CHECK(m, kv_payload_is(id, shape, kvstow_space_plane_bytes(m->spaces[l->space]), payloads[i]),
            "wrong bytes: space %d salt %d doc %d block %zu flags %u skew %zu", l->space, l->salt,
            l->doc, first + i, flags, skew);
  }
  m->reads++;
}

static void view_one(model *m, held_lease *l) {
  what = "view";
  const size_t block = kv_below(&m->rng, l->blocks);
  if (l->viewed[block]) {
    kvstow_unview(l->lease, block);
    l->viewed[block] = false;
    return;
  }
  const void *payload = NULL;
  size_t bytes = 0;
  int rc = kvstow_view(l->lease, block, 0, &payload, &bytes);
  if (rc == KVSTOW_EFULL) {
    check_full(m, rc, 0);
    return;
  }
  if (read_failed(m, l, rc)) return;
  void *region;
  size_t region_bytes;
  kvstow_region(m->store, &region, &region_bytes);
  M_CHECK(m,
          (const char *)payload >= (char *)region &&
              (const char *)payload + bytes <= (char *)region + region_bytes,
          "the view is not in the region");
  M_CHECK(m,
          bytes >= (shapes[l->space].layers == 0 ? kv_blob_bytes(l->ids[block], &shapes[l->space])
                                                 : kvstow_space_payload_bytes(m->spaces[l->space])),
          "a view of %zu bytes", bytes);
  M_CHECK(m,
          kv_payload_is(l->ids[block], &shapes[l->space],
                        kvstow_space_plane_bytes(m->spaces[l->space]), payload),
          "wrong bytes in view: space %d salt %d doc %d block %zu", l->space, l->salt, l->doc,
          block);
  l->viewed[block] = true;
  m->views++;
  if (kv_chance(&m->rng, 60)) {
    kvstow_unview(l->lease, block);
    l->viewed[block] = false;
  }
}

static void wait_for(model *m, held_lease *l) {
  what = "lease_wait";
  kvstow_held held;
  int rc = kvstow_lease_wait(l->lease, 0, kv_chance(&m->rng, 80) ? &held : NULL);
  if (read_failed(m, l, rc)) return;
  if (l->space != MORTAL)
    M_CHECK(m, kvstow_lease_tokens(l->lease) == l->blocks * shapes[l->space].block_tokens,
            "a lease of %zu blocks shrank to %zu tokens", l->blocks, kvstow_lease_tokens(l->lease));
}

static void use_lease(model *m, held_lease *l) {
  switch (kv_below(&m->rng, 10)) {
    case 0:
      wait_for(m, l);
      break;
    case 1:
    case 2:
      view_one(m, l);
      break;
    case 3:
    case 4:
    case 5:
      read_payloads(m, l);
      break;
    default:
      if (shapes[l->space].layers == 0)
        read_payloads(m, l);
      else
        read_rows(m, l);
  }
}

/* Remembers a lease for later, or uses it now and releases it. */
static void take_lease(model *m, int space, int salt, int doc, kvstow_lease *lease, size_t blocks) {
  held_lease now;
  lease_fill(m, &now, space, salt, doc, lease, blocks);
  use_lease(m, &now);
  if (kv_chance(&m->rng, 50)) use_lease(m, &now);
  if (space != MORTAL && kv_chance(&m->rng, 30))
    for (int i = 0; i < LEASES; i++)
      if (m->leases[i].lease == NULL) {
        m->leases[i] = now;
        return;
      }
  kvstow_lease_release(now.lease);
}

static uint64_t losses(model *m) {
  kvstow_stats s = kv_stats(m->store);
  return s.evicted_blocks + s.expired_blocks + s.corrupt_blocks + s.failed_loads;
}

static void op_match(model *m) {
  what = "match";
  int space, salt, doc;
  choose(m, &space, &salt, &doc);
  const size_t blocks =
      kv_chance(&m->rng, 60) ? m->lengths[doc] : kv_between(&m->rng, 1, m->lengths[doc]);
  kvstow_prefix prefix = prefix_of(m, space, salt, doc, blocks);
  const bool compare = kv_chance(&m->rng, 30);
  kvstow_held before = {0}, held = {0}, after;
  uint64_t lost = 0;
  if (compare) {
    lost = losses(m);
    M_CHECK(m, kvstow_exists(&prefix, &before) == 0, "exists failed");
    check_held(m, space, salt, doc, blocks, &before);
  }
  const uint32_t flags = kv_chance(&m->rng, 30) ? KVSTOW_NO_PROMOTE : 0;
  kvstow_lease *lease = (kvstow_lease *)1;
  int rc = kvstow_match(&prefix, flags, &lease, &held);
  M_CHECK(m, rc == 0 || rc == KVSTOW_EMISS, "%s", kvstow_errname(rc));
  if (rc == KVSTOW_EMISS) {
    M_CHECK(m, lease == NULL, "a miss with a lease");
    memset(&held, 0, sizeof held);
  } else {
    M_CHECK(m, lease != NULL && held.blocks > 0, "a hit with nothing");
    M_CHECK(m, kvstow_lease_tokens(lease) == held.tokens, "the lease has %zu tokens, held says %zu",
            kvstow_lease_tokens(lease), held.tokens);
  }
  check_held(m, space, salt, doc, blocks, &held);
  m->asked_blocks += may_prefix(m, space, salt, doc, blocks);
  m->hit_blocks += held.blocks;
  if (compare) {
    M_CHECK(m, held.blocks <= before.blocks, "exists said %zu, match found %zu", before.blocks,
            held.blocks);
    M_CHECK(m, held.blocks == before.blocks || losses(m) != lost,
            "exists said %zu, match found %zu, and nothing was lost", before.blocks, held.blocks);
    M_CHECK(m, kvstow_exists(&prefix, &after) == 0, "exists failed");
    if (space != MORTAL)
      M_CHECK(m, after.blocks >= held.blocks, "leased %zu, exists says %zu", held.blocks,
              after.blocks);
  }
  if (rc == 0) take_lease(m, space, salt, doc, lease, held.blocks);
}

static void op_batch(model *m) {
  what = "batch";
  enum { BATCH = 5 };
  kvstow_prefix prefixes[BATCH];
  kvstow_lease *leases[BATCH];
  kvstow_held held[BATCH];
  int results[BATCH], space[BATCH], salt[BATCH], doc[BATCH];
  size_t blocks[BATCH];
  static kvstow_token tokens[BATCH][sizeof m->tokens / sizeof *m->tokens];
  const size_t count = kv_between(&m->rng, 1, BATCH);
  for (size_t i = 0; i < count; i++) {
    choose(m, &space[i], &salt[i], &doc[i]);
    blocks[i] = kv_between(&m->rng, 1, m->lengths[doc[i]]);
    prefixes[i] = prefix_of(m, space[i], salt[i], doc[i], blocks[i]);
    memcpy(tokens[i], m->tokens, sizeof m->tokens);
    prefixes[i].tokens = tokens[i];
  }
  if (kv_chance(&m->rng, 50)) {
    M_CHECK(m, kvstow_exists_batch(prefixes, count, held, results) == 0, "exists_batch failed");
    for (size_t i = 0; i < count; i++) {
      M_CHECK(m, results[i] == 0, "result %zu: %s", i, kvstow_errname(results[i]));
      check_held(m, space[i], salt[i], doc[i], blocks[i], &held[i]);
    }
    return;
  }
  M_CHECK(m, kvstow_match_batch(prefixes, count, 0, leases, held, results) == 0,
          "match_batch failed");
  for (size_t i = 0; i < count; i++) {
    M_CHECK(m, results[i] == 0 || results[i] == KVSTOW_EMISS, "%s", kvstow_errname(results[i]));
    if (results[i] != 0) {
      M_CHECK(m, leases[i] == NULL, "a miss with a lease");
      M_CHECK(m, must_prefix(m, space[i], salt[i], doc[i], blocks[i]) == 0,
              "a stored block missed");
      continue;
    }
    check_held(m, space[i], salt[i], doc[i], blocks[i], &held[i]);
    take_lease(m, space[i], salt[i], doc[i], leases[i], held[i].blocks);
  }
}

static void op_exists(model *m) {
  what = "exists";
  int space, salt, doc;
  choose(m, &space, &salt, &doc);
  const size_t blocks = kv_between(&m->rng, 1, m->lengths[doc]);
  kvstow_prefix prefix = prefix_of(m, space, salt, doc, blocks);
  kvstow_held held;
  M_CHECK(m, kvstow_exists(&prefix, &held) == 0, "exists failed");
  check_held(m, space, salt, doc, blocks, &held);
}

static void op_prefetch(model *m) {
  what = "prefetch";
  int space, salt, doc;
  choose(m, &space, &salt, &doc);
  kvstow_prefix prefix = prefix_of(m, space, salt, doc, m->lengths[doc]);
  int rc = kvstow_prefetch(&prefix);
  M_CHECK(m, rc == 0 || rc == KVSTOW_EMISS, "%s", kvstow_errname(rc));
}

/* At any time, with reads and loads under way: what changes is when bytes move, never which. */
static void op_tuning(model *m) {
  what = "set_tuning";
  kvstow_tuning tuning;
  kvstow_get_tuning(m->store, &tuning);
  tuning.enable_prefetch = kv_chance(&m->rng, 60);
  tuning.enable_io_scheduling = kv_chance(&m->rng, 80);
  tuning.prefetch_threshold = (uint32_t)kv_between(&m->rng, 1, 4);
  tuning.merge_distance = (uint32_t)kv_below(&m->rng, 300000);
  M_CHECK(m, kvstow_set_tuning(m->store, &tuning) == 0, "refused");
}

static void op_lease(model *m) {
  held_lease *l = &m->leases[kv_below(&m->rng, LEASES)];
  if (l->lease == NULL) {
    op_match(m);
    return;
  }
  use_lease(m, l);
  m->held_reads++;
  if (kv_chance(&m->rng, 25)) {
    kvstow_lease_release(l->lease);
    l->lease = NULL;
  }
}

/* ---- keeping and forgetting ----------------------------------------------------------------- */

static void unpin(model *m, int space, int salt) {
  if (!m->pins[space][salt].on) return;
  kvstow_prefix prefix =
      prefix_of(m, space, salt, m->pins[space][salt].doc, m->pins[space][salt].blocks);
  size_t blocks = 0;
  int rc = kvstow_pin(&prefix, false, &blocks);
  M_CHECK(m, rc == 0, "unpin: %s", kvstow_errname(rc));
  m->pins[space][salt].on = false;
}

static void check_pin(model *m, int space, int salt) {
  kvstow_held held;
  kvstow_prefix prefix =
      prefix_of(m, space, salt, m->pins[space][salt].doc, m->pins[space][salt].blocks);
  M_CHECK(m, kvstow_exists(&prefix, &held) == 0, "exists failed");
  M_CHECK(m, held.blocks >= m->pins[space][salt].blocks, "%zu blocks pinned, %zu held",
          m->pins[space][salt].blocks, held.blocks);
}

static void op_pin(model *m) {
  what = "pin";
  int space, salt, doc, on = 0;
  choose(m, &space, &salt, &doc);
  if (space == MORTAL) return;
  for (int i = 0; i < SPACES; i++)
    for (int j = 0; j < SALTS; j++) on += m->pins[i][j].on;
  if (m->pins[space][salt].on || on >= 3) {
    for (int i = 0; i < SPACES; i++)
      for (int j = 0; j < SALTS; j++)
        if (m->pins[i][j].on && kv_chance(&m->rng, 50)) {
          check_pin(m, i, j);
          unpin(m, i, j);
        }
    return;
  }
  size_t blocks = kv_between(&m->rng, 1, m->lengths[doc] < 4 ? m->lengths[doc] : 4);
  kvstow_prefix prefix = prefix_of(m, space, salt, doc, blocks);
  size_t pinned = SIZE_MAX;
  int rc = kvstow_pin(&prefix, true, &pinned);
  if (rc == KVSTOW_EFULL) return;
  M_CHECK(m, rc == 0 || rc == KVSTOW_EMISS, "%s", kvstow_errname(rc));
  if (rc != 0 || pinned == 0) return;
  M_CHECK(m, pinned <= may_prefix(m, space, salt, doc, blocks), "%zu pinned of %zu", pinned,
          blocks);
  m->pins[space][salt].on = true;
  m->pins[space][salt].doc = doc;
  m->pins[space][salt].blocks = pinned;
}

static bool below(const model *m, int index, int top) {
  for (; index >= 0; index = m->nodes[index].parent)
    if (index == top) return true;
  return false;
}

static bool leased(const model *m, int space, int salt, int index) {
  for (int i = 0; i < LEASES; i++) {
    const held_lease *l = &m->leases[i];
    if (l->lease != NULL && l->space == space && l->salt == salt)
      for (size_t block = 0; block < l->blocks; block++)
        if (m->paths[l->doc][block] == index) return true;
  }
  return false;
}

/* A block with an ancestor that may be missing. A store need not know what such a block extends, and
 * may take it along when anything under its salt is forgotten; it may not keep what it had to forget. */
static bool loose(const model *m, int space, int salt, int index) {
  for (index = m->nodes[index].parent; index >= 0; index = m->nodes[index].parent)
    if (!m->cells[space][salt][index].must) return true;
  return false;
}

/* Brings the model up to date with a forget that returned `rc`: of every cell of the salt under
 * `top` (-1: all of them). */
static void forget_cells(model *m, int rc, int space, int salt, int top) {
  bool was_loose[NODES];
  for (int index = 0; index < m->nodes_count; index++)
    was_loose[index] = loose(m, space, salt, index);
  for (int index = 0; index < m->nodes_count; index++) {
    cell *c = &m->cells[space][salt][index];
    if (top >= 0 && !below(m, index, top)) {
      c->must = c->must && !was_loose[index];
      continue;
    }
    if (c->may) record(m, what, space, salt, index, rc);
    if (rc == KVSTOW_EBUSY && leased(m, space, salt, index)) {
      c->must = false;
      continue;
    }
    c->life++;
    c->may = c->must = false;
  }
}

/* Sequences and reservations would go on to store the old life. */
static void quiet(model *m, int space, int salt) {
  for (int i = 0; i < SEQS; i++)
    if (m->seqs[i].seq != NULL && m->seqs[i].space == space &&
        (salt < 0 || m->seqs[i].salt == salt)) {
      kvstow_seq_close(m->seqs[i].seq);
      m->seqs[i].seq = NULL;
    }
  for (int i = 0; i < HOLDS; i++)
    if (m->holds[i].open && m->holds[i].space == space && (salt < 0 || m->holds[i].salt == salt))
      hold_end(m, &m->holds[i], false);
  for (int other = 0; other < SALTS; other++)
    if (salt < 0 || other == salt) unpin(m, space, other);
}

static bool any_leased(model *m, int space, int salt, int top) {
  for (int other = 0; other < SALTS; other++)
    if (salt < 0 || other == salt)
      for (int index = 0; index < m->nodes_count; index++)
        if ((top < 0 || below(m, index, top)) && leased(m, space, other, index)) return true;
  return false;
}

static void op_forget(model *m) {
  int space, salt, doc;
  choose(m, &space, &salt, &doc);
  const unsigned kind = (unsigned)kv_below(&m->rng, 20);
  const bool whole_space = kind == 0, whole_salt = kind == 1 || kind == 2;
  what = whole_space ? "forget_space" : whole_salt ? "forget_salt" : "forget";
  quiet(m, space, whole_space ? -1 : salt);
  const size_t length = kv_between(&m->rng, 1, m->lengths[doc]);
  const size_t first = kv_below(&m->rng, length);
  const int top = whole_space || whole_salt ? -1 : m->paths[doc][first];
  const bool busy = any_leased(m, space, whole_space ? -1 : salt, top);
  size_t must = 0, may = 0, gone = 0;
  for (int other = 0; other < SALTS; other++)
    if (whole_space || other == salt)
      for (int index = 0; index < m->nodes_count; index++) {
        const bool within = top < 0 || below(m, index, top);
        const bool is_loose = loose(m, space, other, index);
        may += (within || is_loose) && m->cells[space][other][index].may;
        must += within && !is_loose && m->cells[space][other][index].must;
      }
  int rc = 0;
  kvstow_prefix prefix = prefix_of(m, space, salt, doc, length);
  const double end = kv_now_s() + 20;
  size_t total = 0;
  do {
    gone = 0;
    if (whole_space)
      rc = kvstow_forget_space(m->spaces[space], &gone);
    else if (whole_salt)
      rc = kvstow_forget_salt(m->spaces[space], salts[salt].bytes, salts[salt].length, &gone);
    else
      rc = kvstow_forget(&prefix, first, &gone);
    total += gone;
    M_CHECK(m, rc == 0 || rc == KVSTOW_EBUSY, "%s", kvstow_errname(rc));
    /* EBUSY without a lease of ours: something of the store's own, which must end */
  } while (rc == KVSTOW_EBUSY && !busy && kv_now_s() < end);
  M_CHECK(m, (rc == KVSTOW_EBUSY) == busy, "%s, though %s", kvstow_errname(rc),
          busy ? "blocks are leased" : "nothing is in use");
  if (total > may) recall(m, space, salt, doc);
  M_CHECK(m, total <= may, "%zu blocks forgotten, at most %zu existed", total, may);
  M_CHECK(m, busy || total >= must, "%zu blocks forgotten of %zu", total, must);
  m->forgets++;
  m->busy_forgets += busy;
  m->forgotten += total;
  for (int other = 0; other < SALTS; other++)
    if (whole_space || other == salt) forget_cells(m, rc, space, other, top);
  if (!whole_space && !whole_salt && !busy) {
    kvstow_held held;
    M_CHECK(m, kvstow_exists(&prefix, &held) == 0, "exists failed");
    M_CHECK(m, held.blocks <= first, "forgotten from block %zu on, %zu held", first, held.blocks);
  }
}

/* ---- opening and closing -------------------------------------------------------------------- */

static const char *policy(model *m) {
  size_t count = 0;
  while (kvstow_policy_at(count) != NULL) count++;
  if (count == 0 || kv_chance(&m->rng, 40)) return "lru";
  return kvstow_policy_at(kv_below(&m->rng, count))->name;
}

static void model_open(model *m) {
  what = "open";
  m->forgotten = 0;
  const char *dirs[1] = {m->dir};
  kvstow_options options;
  kv_options(&options, m->setting == RAM_ONLY ? NULL : dirs, m->ram_bytes, m->ssd_bytes,
             m->restarts > 0 && kv_chance(&m->rng, 30) ? 0 : m->segment_bytes);
  static const uint8_t key[KVSTOW_KEY_BYTES] = "thirty-two bytes, of the model's";
  if (m->encrypted) options.encryption_key = key;
  if (m->uring && options.engine == KVSTOW_ENGINE_AUTO)
    options.engine = KVSTOW_ENGINE_URING;
  else
    options.engine = KVSTOW_ENGINE_THREADS;
  options.write_mode = kv_chance(&m->rng, 50) ? KVSTOW_WRITE_BACK : KVSTOW_WRITE_THROUGH;
  options.tuning.enable_io_scheduling = kv_chance(&m->rng, 80);
  options.populate = kv_chance(&m->rng, 50);
  if (m->setting == TINY) { /* fits: lru, so that what is held is known */
    options.ram_policy = policy(m);
    options.ssd_policy = policy(m);
    options.reinsert_pct = (uint32_t)kv_below(&m->rng, 51);
    options.high_watermark_pct = (uint32_t)kv_between(&m->rng, 50, 95);
    options.low_watermark_pct = options.high_watermark_pct - 10;
  }
  char why[KVSTOW_MESSAGE_BYTES] = "";
  int rc = kvstow_open(&options, &m->store, why, sizeof why);
  if (rc == KVSTOW_EUNSUPPORTED && options.engine == KVSTOW_ENGINE_URING) {
    options.engine = KVSTOW_ENGINE_THREADS;
    rc = kvstow_open(&options, &m->store, why, sizeof why);
  }
  M_CHECK(m, rc == 0, "%s: %s (policies %s, %s)", kvstow_errname(rc), why, options.ram_policy,
          options.ssd_policy);
  for (int space = 0; space < SPACES; space++) {
    kvstow_space_options so;
    kv_space_options(&so, fingerprints[space], &shapes[space]);
    so.ttl_s = space == MORTAL ? TTL_S : 0;
    rc = kvstow_space_open(m->store, &so, &m->spaces[space]);
    M_CHECK(m, rc == 0, "space %d: %s", space, kvstow_errname(rc));
    kvstow_space *again = NULL;
    rc = kvstow_space_open(m->store, &so, &again);
    M_CHECK(m, rc == 0 && again == m->spaces[space], "opened twice, two handles");
  }
}

static void end_everything(model *m) {
  for (int i = 0; i < LEASES; i++) {
    kvstow_lease_release(m->leases[i].lease);
    m->leases[i].lease = NULL;
  }
  for (int i = 0; i < SEQS; i++) {
    kvstow_seq_close(m->seqs[i].seq);
    m->seqs[i].seq = NULL;
  }
  for (int i = 0; i < HOLDS; i++)
    if (m->holds[i].open) hold_end(m, &m->holds[i], false);
  memset(m->pins, 0, sizeof m->pins);
}

static bool anything_open(const model *m) {
  for (int i = 0; i < LEASES; i++)
    if (m->leases[i].lease != NULL) return true;
  for (int i = 0; i < SEQS; i++)
    if (m->seqs[i].seq != NULL) return true;
  return false;
}

static void check_dir(model *m) {
  if (m->setting == RAM_ONLY) return;
  const uint64_t bytes = kv_dir_bytes(m->dir);
  M_CHECK(m, bytes <= m->ssd_bytes, "the directory takes %" PRIu64 " bytes of %" PRIu64, bytes,
          m->ssd_bytes);
}

static void check_stats(model *m) {
  const kvstow_stats s = kv_stats(m->store);
  uint64_t leases = 0;
  for (int i = 0; i < LEASES; i++) leases += m->leases[i].lease != NULL;
  M_CHECK(m, s.leases == leases, "%" PRIu64 " leases, %" PRIu64 " are open", s.leases, leases);
  M_CHECK(m, s.ram_budget_bytes <= m->ram_bytes, "budget of %" PRIu64, s.ram_budget_bytes);
  M_CHECK(m, s.ram_used_bytes <= s.ram_budget_bytes, "%" PRIu64 " bytes of RAM used of %" PRIu64,
          s.ram_used_bytes, s.ram_budget_bytes);
  M_CHECK(m, s.ram_payload_bytes <= s.ram_used_bytes, "payload %" PRIu64 ", used %" PRIu64,
          s.ram_payload_bytes, s.ram_used_bytes);
  M_CHECK(m, s.blocks <= 1000 || s.metadata_bytes_a_block <= 128.0,
          "%.1f bytes of metadata a block with %" PRIu64 " blocks", s.metadata_bytes_a_block,
          s.blocks);
  M_CHECK(m, s.blocks <= (uint64_t)SPACES * SALTS * NODES, "%" PRIu64 " blocks", s.blocks);
  M_CHECK(m, s.corrupt_blocks == 0 && s.collisions == 0 && s.timeouts == 0,
          "corrupt %" PRIu64 ", collisions %" PRIu64 ", timeouts %" PRIu64, s.corrupt_blocks,
          s.collisions, s.timeouts);
  M_CHECK(m, s.tier.io_errors == 0 && s.tier.corrupt_headers == 0 && s.tier.corrupt_planes == 0,
          "I/O errors %" PRIu64 ", corrupt headers %" PRIu64 ", planes %" PRIu64, s.tier.io_errors,
          s.tier.corrupt_headers, s.tier.corrupt_planes);
  if (m->setting == FITS)
    M_CHECK(m, s.evicted_blocks <= m->forgotten + s.expired_blocks,
            "%" PRIu64 " blocks evicted, %zu forgotten, though all fits", s.evicted_blocks,
            m->forgotten);
}

static void model_close(model *m) {
  what = "close";
  if (anything_open(m) && kv_chance(&m->rng, 60)) {
    int rc = kvstow_close(m->store);
    M_CHECK(m, rc == KVSTOW_EBUSY, "closed with handles open: %s", kvstow_errname(rc));
    op_exists(m); /* it goes on */
    op_lease(m);
    what = "close";
  }
  end_everything(m);
  check_stats(m);
  int rc = kvstow_close(m->store);
  m->store = NULL;
  M_CHECK(m, rc == 0 || (m->setting == TINY && rc == KVSTOW_ENOSPC), "%s", kvstow_errname(rc));
  check_dir(m);
  /* a block's age may count from its demotion; without SSD nothing is left */
  for (int space = 0; space < SPACES; space++)
    for (int salt = 0; salt < SALTS; salt++)
      for (int index = 0; index < m->nodes_count; index++) {
        m->cells[space][salt][index].stored_s = kv_now_s();
        if (m->setting == RAM_ONLY) m->cells[space][salt][index].may = false;
      }
}

static void op_restart(model *m) {
  record(m, "restart", -1, -1, -1, (int)m->uring);
  model_close(m);
  m->restarts++;
  model_open(m);
  what = "after restart";
  check_dir(m);
  check_stats(m);
}

static void op_flush(model *m) {
  what = "flush";
  record(m, what, -1, -1, -1, 0);
  int rc = kvstow_flush(m->store);
  M_CHECK(m, rc == 0 || (m->setting == TINY && rc == KVSTOW_ENOSPC), "%s", kvstow_errname(rc));
}

/* At the end of setting "fits": all of it, to the last byte. */
static void check_everything(model *m) {
  what = "reading everything";
  for (int space = 0; space < SPACES; space++)
    for (int salt = 0; salt < SALTS; salt++)
      for (int doc = 0; doc < DOCS; doc++) {
        kvstow_prefix prefix = prefix_of(m, space, salt, doc, m->lengths[doc]);
        kvstow_lease *lease;
        kvstow_held held = {0};
        int rc = kvstow_match(&prefix, 0, &lease, &held);
        M_CHECK(m, rc == 0 || rc == KVSTOW_EMISS, "%s", kvstow_errname(rc));
        if (rc != 0) memset(&held, 0, sizeof held);
        check_held(m, space, salt, doc, m->lengths[doc], &held);
        if (rc != 0) continue;
        held_lease l;
        lease_fill(m, &l, space, salt, doc, lease, held.blocks);
        for (size_t block = 0; block < held.blocks; block++) {
          void *payload = m->bytes;
          size_t bytes;
          rc = kvstow_read_blocks(lease, block, 1, &payload, &bytes, 0, 0);
          if (read_failed(m, &l, rc)) break;
          M_CHECK(m,
                  kv_payload_is(l.ids[block], &shapes[space],
                                kvstow_space_plane_bytes(m->spaces[space]), payload),
                  "wrong bytes: space %d salt %d doc %d block %zu", space, salt, doc, block);
        }
        kvstow_lease_release(lease);
      }
}

/* ---- the run -------------------------------------------------------------------------------- */

static void model_step(model *m) {
  const size_t roll = kv_below(&m->rng, 1000);
  if (roll < 230)
    op_store(m);
  else if (roll < 320)
    op_reserve(m);
  else if (roll < 440)
    op_seq(m);
  else if (roll < 690)
    op_match(m);
  else if (roll < 760)
    op_exists(m);
  else if (roll < 790)
    op_batch(m);
  else if (roll < 830)
    op_prefetch(m);
  else if (roll < 950)
    op_lease(m);
  else if (roll < 955)
    op_tuning(m);
  else if (roll < 970)
    op_pin(m);
  else if (roll < 995)
    op_forget(m);
  else if (roll < 998)
    op_flush(m);
  else
    op_restart(m);
  what = "after the step";
  if (m->step % 4 == 0) check_stats(m);
  if (m->step % 16 == 0) {
    check_dir(m);
    for (int space = 0; space < SPACES; space++)
      for (int salt = 0; salt < SALTS; salt++)
        if (m->pins[space][salt].on) check_pin(m, space, salt);
  }
}

static void model_run(setting kind, uint64_t seed, size_t steps) {
  kv_run_seed = seed;
  model *m = calloc(1, sizeof *m);
  assert_non_null(m);
  m->setting = kind;
  m->seed = seed;
  m->rng.state = kv_mix(seed * SETTINGS + kind);
  m->uring = seed % 2 == 0;
  m->encrypted = kind != RAM_ONLY && seed / 2 % 2 == 1;
  m->bytes_max = DEPTH * 520 * KV_KIB;
  m->bytes = kv_pages(m->bytes_max);
  m->segment_bytes = (uint32_t)(KV_MIB << kv_below(&m->rng, 3));
  m->ram_bytes = (kv_chance(&m->rng, 70) ? 8 : kv_between(&m->rng, 4, 8) * 2) * KV_MIB;
  m->ssd_bytes = kv_between(&m->rng, 4, 8) * m->segment_bytes + kv_below(&m->rng, KV_MIB);
  if (kind == FITS) {
    m->segment_bytes = 8 * KV_MIB;
    m->ssd_bytes = 4096 * KV_MIB;
  }
  if (kind != RAM_ONLY) m->dir = kv_dir("model");
  grow_trie(m);
  model_open(m);
  const double start = kv_now_s();
  for (m->step = 1; m->step <= steps; m->step++) model_step(m);
  if (kind == FITS) {
    op_restart(m);
    check_everything(m);
  }
  what = "the end";
  const double hit_rate = m->asked_blocks > 0 ? (double)m->hit_blocks / (double)m->asked_blocks : 1;
  const double fresh_rate = m->fresh_asked > 0 ? (double)m->fresh_held / (double)m->fresh_asked : 1;
  const kvstow_stats s = kv_stats(m->store);
  printf("  seed %" PRIu64
         " %s, %s%s: %zu steps, %zu restarts, %.1f s; %.0f %% of blocks found, "
         "%.0f %% just stored; %zu reads, %zu views, %zu sealed, %zu forgets (%zu busy), %zu full; "
         "metadata %.0f B a block\n",
         seed,
         kind == TINY   ? "tiny"
         : kind == FITS ? "fits"
                        : "ram only",
         s.tier.engine != NULL ? s.tier.engine : "no ssd", s.tier.encrypted ? ", encrypted" : "",
         steps, m->restarts, kv_now_s() - start, 100 * hit_rate, 100 * fresh_rate, m->reads,
         m->views, m->sealed, m->forgets, m->busy_forgets, m->full, s.metadata_bytes_a_block);
  fflush(stdout);
  if (steps >= 1000) {
    /* a store that always misses is never wrong, and no store */
    M_CHECK(m, hit_rate > (kind == FITS ? 0.9 : 0.1), "only %.1f %% found", 100 * hit_rate);
    M_CHECK(m, fresh_rate > (kind == TINY ? 0.5 : 0.9), "only %.1f %% of fresh stores held",
            100 * fresh_rate);
    M_CHECK(m, m->reads > steps / 20, "only %zu reads", m->reads);
  }
  model_close(m);
  if (m->dir != NULL) kv_dir_drop(m->dir);
  free(m->bytes);
  free(m);
}

static void run_seeds(setting kind) {
  const uint64_t first = kv_env("KVSTOW_SEED", 1);
  const uint64_t seeds = kv_env("KVSTOW_SEEDS", KV_TSAN ? 1 : KV_ASAN ? 2 : 6);
  const size_t steps = kv_env("KVSTOW_OPS", KV_TSAN ? 2500 : 10000);
  for (uint64_t seed = first; seed < first + seeds; seed++) model_run(kind, seed, steps);
}

static void nothing_wrong_when_everything_evicts(void **state) {
  (void)state;
  run_seeds(TINY);
}

static void nothing_missing_when_everything_fits(void **state) {
  (void)state;
  run_seeds(FITS);
}

static void nothing_wrong_in_ram_alone(void **state) {
  (void)state;
  run_seeds(RAM_ONLY);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(nothing_wrong_when_everything_evicts),
    cmocka_unit_test(nothing_missing_when_everything_fits),
    cmocka_unit_test(nothing_wrong_in_ram_alone),
};

KV_MAIN("the model")
