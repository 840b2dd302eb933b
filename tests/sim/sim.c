/* sim.c - random users of the whole engine, on disks that lie and lose power, against a model.
 *
 *   kvstow-sim [--seeds N] [--seed FIRST] [--jobs N] [--trace]
 *
 * A seed names everything: geometry, budgets, policies, users, their operations, the interleaving of
 * all threads, and what the disks do. A seed is a few lives of one store; each life is a process that
 * ends with a close or with a loss of power, and leaves the disk and the model to the next.
 *
 * The model. Blocks are the nodes of a few token trees, one tree and one salt a user. What a block
 * holds is a function of its node and of the node's life, which changes when the node was forgotten:
 * bytes of an earlier life are wrong bytes. After every step: nothing is held that was never stored,
 * every byte returned is the right one, budgets hold, and results are of the expected kind. Where the
 * disks only lose power, what a flush promised is there in the next life. At the end, with healthy
 * disks, the store opens, works and closes.
 *
 * A failing seed is run again with fewer and fewer of its operations; what is left is printed.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <sys/mman.h>

#include "tests/sim/disk.h"
#include "tests/sim/sched.h"
#include "tests/support/kv.h"

enum {
  USERS_MAX = 3,
  NODES = 40, /* a user */
  DEPTH_MAX = 6,
  LIVES_MAX = 5,
  OPS_MAX = 400, /* a user, a life */
  LEASES = 3,
  FAILED = 99,
  HUNG = 98,
  REAL_SECONDS_MAX = 120,
};

typedef struct node {
  int16_t parent; /* -1: the root */
  uint8_t depth;  /* 0: the first block */
  uint32_t life;
  bool stored;  /* by a call that began, in this life of the node */
  bool settled; /* by a call that returned 0 and said so */
  bool durable; /* settled before a flush that returned 0 */
} node;

typedef struct model {
  node nodes[USERS_MAX][NODES];
  uint8_t off[LIVES_MAX][USERS_MAX][OPS_MAX]; /* operations left out, when shrinking */
  uint64_t operations, opened, crashes, flushes_kept;
  uint64_t faults_at_flush; /* done until the last flush that returned 0 */
  char message[1024];
  bool created;
} model;

typedef struct plan {
  kv_shape shape;
  unsigned users, lives, ops;
  uint64_t ram_bytes, ssd_bytes;
  unsigned dirs;
  bool ample; /* the SSD holds everything: nothing is evicted */
  sim_faults faults;
  bool lies, errors, slow;
} plan;

typedef struct user {
  unsigned number;
  kvstow_lease *leases[LEASES];
  int leased[LEASES];      /* node at the end of the path asked for */
  size_t held[LEASES];     /* blocks */
  size_t resident[LEASES]; /* of them proven by a lease_wait */
} user;

static model *m;
static plan the_plan;
static uint64_t the_seed;
static unsigned the_life;
static bool tracing;
static kvstow *store;
static kvstow_space *space;
static unsigned users_left;
static uint64_t plane_bytes;

/* ---- failure -------------------------------------------------------------------------------- */

__attribute__((format(printf, 1, 2), noreturn)) static void wrong(const char *format, ...) {
  va_list args;
  va_start(args, format);
  const int at = snprintf(m->message, sizeof m->message, "life %u: ", the_life);
  vsnprintf(m->message + at, sizeof m->message - (size_t)at, format, args);
  va_end(args);
  _exit(FAILED);
}

static void hang(const char *text) {
  snprintf(m->message, sizeof m->message, "life %u: hang: %s", the_life, text);
  _exit(HUNG);
}

#define CHECK(condition, ...)                                                                      \
  do {                                                                                             \
    if (!(condition)) wrong(__VA_ARGS__);                                                          \
  } while (0)

/* ---- the world of a seed -------------------------------------------------------------------- */

static void plan_make(uint64_t seed) {
  kv_rng rng = {kv_mix(seed ^ 0x51a1u)};
  plan *p = &the_plan;
  memset(p, 0, sizeof *p);
  p->users = (unsigned)kv_between(&rng, 1, USERS_MAX);
  p->lives = (unsigned)kv_between(&rng, 1, LIVES_MAX - 1);
  p->ops = (unsigned)kv_between(&rng, 20, OPS_MAX);
  p->dirs = kv_chance(&rng, 30) ? 2 : 1;
  p->shape.layers = (uint32_t)kv_between(&rng, 1, 3);
  p->shape.block_tokens = (uint32_t)kv_between(&rng, 1, 2) * 8;
  static const uint32_t rows[] = {64, 200, 256, 512, 1024, 3000};
  p->shape.k_bytes = rows[kv_below(&rng, 6)];
  p->shape.v_bytes = kv_chance(&rng, 20) ? 0 : p->shape.k_bytes;
  p->ram_bytes = 8 * KV_MIB;
  const uint64_t block = (uint64_t)kv_block_bytes(0, &p->shape) + 2 * 4096 * p->shape.layers + 8192;
  const uint64_t all = block * NODES * p->users;
  p->ample = kv_chance(&rng, 60);
  const uint64_t segments = p->ample ? 3 + 3 * all / SIM_SEGMENT_BYTES : kv_between(&rng, 2, 5);
  p->ssd_bytes = (p->dirs + segments) * (uint64_t)(SIM_SEGMENT_BYTES + 16384);
  p->faults.landed_error = 50;
  switch (kv_below(&rng, 4)) {
    case 0: /* power alone */
      break;
    case 1: /* errors that are told */
      p->errors = true;
      p->faults.read_error = kv_chance(&rng, 50) ? (unsigned)kv_below(&rng, 400) : 0;
      p->faults.write_error = kv_chance(&rng, 50) ? (unsigned)kv_below(&rng, 400) : 0;
      p->faults.sync_error = kv_chance(&rng, 30) ? (unsigned)kv_below(&rng, 1000) : 0;
      p->faults.no_space = kv_chance(&rng, 30) ? (unsigned)kv_below(&rng, 3000) : 0;
      p->faults.no_open = kv_chance(&rng, 20) ? (unsigned)kv_below(&rng, 200) : 0;
      break;
    case 2: /* slowness */
      p->slow = true;
      p->faults.slow = (unsigned)kv_below(&rng, 1000);
      p->faults.lost = kv_chance(&rng, 50) ? (unsigned)kv_below(&rng, 50) : 0;
      break;
    default: /* lies */
      p->lies = true;
      p->faults.misdirected_write = kv_chance(&rng, 40) ? (unsigned)kv_below(&rng, 300) : 0;
      p->faults.misdirected_read = kv_chance(&rng, 40) ? (unsigned)kv_below(&rng, 300) : 0;
      p->faults.phantom_write = kv_chance(&rng, 40) ? (unsigned)kv_below(&rng, 300) : 0;
      p->faults.flip_on_write = kv_chance(&rng, 40) ? (unsigned)kv_below(&rng, 300) : 0;
      p->faults.flip_on_read = kv_chance(&rng, 40) ? (unsigned)kv_below(&rng, 300) : 0;
      p->faults.stale_file = kv_chance(&rng, 40) ? 5000 : 0;
  }
}

static void model_make(uint64_t seed) {
  kv_rng rng = {kv_mix(seed ^ 0x70de1u)};
  for (unsigned u = 0; u < USERS_MAX; u++)
    for (int i = 0; i < NODES; i++) {
      node *n = &m->nodes[u][i];
      n->parent = i == 0 || kv_chance(&rng, 15) ? -1 : (int16_t)kv_below(&rng, (size_t)i);
      if (n->parent >= 0 && m->nodes[u][n->parent].depth + 1 >= DEPTH_MAX) n->parent = -1;
      n->depth = n->parent < 0 ? 0 : (uint8_t)(m->nodes[u][n->parent].depth + 1);
    }
}

static uint64_t id_of(unsigned u, int i) {
  return kv_hash2(the_seed * 131 + u, (uint64_t)i << 32 | m->nodes[u][i].life);
}

/* The path to a node: its nodes, and tokens for all their blocks. */
typedef struct path {
  int nodes[DEPTH_MAX];
  size_t blocks;
  kvstow_token tokens[DEPTH_MAX * 16];
  char salt[8];
  kvstow_prefix prefix;
} path;

static void path_make(path *p, unsigned u, int end) {
  memset(p, 0, sizeof *p);
  p->blocks = (size_t)m->nodes[u][end].depth + 1;
  for (int i = end, at = (int)p->blocks - 1; at >= 0; i = m->nodes[u][i].parent, at--)
    p->nodes[at] = i;
  const uint32_t each = the_plan.shape.block_tokens;
  for (size_t b = 0; b < p->blocks; b++)
    for (uint32_t t = 0; t < each; t++)
      p->tokens[b * each + t] = (kvstow_token)(p->nodes[b] * 1000 + (int)t);
  p->prefix = (kvstow_prefix)KVSTOW_PREFIX(space, p->tokens, p->blocks * each);
  snprintf(p->salt, sizeof p->salt, "user%u", u);
  p->prefix.salt = p->salt;
  p->prefix.salt_bytes = strlen(p->salt);
}

/* ---- checks --------------------------------------------------------------------------------- */

/* Nothing may be held that was never stored. */
static void check_held(unsigned u, const path *p, size_t blocks, const char *who) {
  CHECK(blocks <= p->blocks, "%s: %zu blocks of %zu", who, blocks, p->blocks);
  for (size_t b = 0; b < blocks; b++)
    CHECK(m->nodes[u][p->nodes[b]].stored, "%s: user %u node %d is held but was not stored", who, u,
          p->nodes[b]);
}

static bool healthy(void) {
  return !the_plan.errors && !the_plan.lies && !the_plan.slow;
}

/* A result of a call that may fail for the disk's reasons only. */
static void check_result(const char *who, int code) {
  if (code == 0) return;
  CHECK(code == KVSTOW_EMISS || code == KVSTOW_ECORRUPT || code == KVSTOW_EIO ||
            code == KVSTOW_ETIMEDOUT || code == KVSTOW_EFULL || code == KVSTOW_ENOSPC ||
            code == KVSTOW_EOFFLINE || code == KVSTOW_EBUSY || code == KVSTOW_ECANCELED,
        "%s: %s", who, kvstow_errname(code));
}

static void check_budget(void) {
  CHECK(sim_disk_bytes() <= the_plan.ssd_bytes, "the disk holds %" PRIu64 " bytes of %" PRIu64,
        sim_disk_bytes(), the_plan.ssd_bytes);
}

/* ---- what users do -------------------------------------------------------------------------- */

static void trace(const user *u, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void trace(const user *u, const char *format, ...) {
  if (!tracing) return;
  va_list args;
  va_start(args, format);
  printf("  life %u user %u %10.3f ms: ", the_life, u->number, (double)sim_now_ns() / 1e6);
  vprintf(format, args);
  printf("\n");
  fflush(stdout);
  va_end(args);
}

static void begun(unsigned u, const path *p, size_t first, size_t count) {
  for (size_t b = first; b < first + count; b++) m->nodes[u][p->nodes[b]].stored = true;
}

static void settled(unsigned u, const path *p, size_t first, size_t count) {
  for (size_t b = first; b < first + count; b++) m->nodes[u][p->nodes[b]].settled = true;
}

static void do_store(user *u, kv_rng *rng, bool async, kvstow_queue *queue) {
  path p;
  path_make(&p, u->number, (int)kv_below(rng, NODES));
  const size_t first = kv_chance(rng, 80) ? 0 : kv_below(rng, p.blocks);
  const size_t count = kv_between(rng, 1, p.blocks - first);
  const size_t bytes = kv_block_bytes(0, &the_plan.shape);
  char *memory = kv_pages(bytes * count);
  struct iovec iov[DEPTH_MAX];
  kvstow_source sources[DEPTH_MAX];
  for (size_t b = 0; b < count; b++) {
    kv_fill_block(id_of(u->number, p.nodes[first + b]), &the_plan.shape, memory + b * bytes);
    iov[b] = (struct iovec){memory + b * bytes, bytes};
    sources[b] = (kvstow_source){&iov[b], 1};
  }
  begun(u->number, &p, first, count);
  size_t stored = 0;
  int code;
  if (async) {
    kvstow_op *op;
    code = kvstow_store_async(&p.prefix, first, count, sources, queue, u, &op);
    if (code == 0) {
      if (kv_chance(rng, 20)) kvstow_cancel(op);
      kvstow_completion done;
      while (kvstow_queue_poll(queue, &done, 1, 1000) == 0) {
      }
      code = done.result;
      if (code == 0) stored = count;
    }
  } else {
    code = kvstow_store(&p.prefix, first, count, sources, kv_chance(rng, 20) ? KVSTOW_NOWAIT : 0,
                        &stored);
  }
  trace(u, "store node %d blocks %zu+%zu%s: %s, %zu", p.nodes[p.blocks - 1], first, count,
        async ? " async" : "", kvstow_errname(code), stored);
  check_result("store", code);
  settled(u->number, &p, first, stored);
  free(memory);
}

static void do_reserve(user *u, kv_rng *rng) {
  path p;
  path_make(&p, u->number, (int)kv_below(rng, NODES));
  const size_t count = kv_between(rng, 1, p.blocks);
  kvstow_slot slots[DEPTH_MAX];
  int code = kvstow_reserve(&p.prefix, 0, count, 0, 0, slots);
  check_result("reserve", code);
  if (code != 0) return;
  const bool commit = kv_chance(rng, 80);
  for (size_t b = 0; b < count; b++)
    if (slots[b].payload)
      kv_fill_payload(id_of(u->number, p.nodes[b]), &the_plan.shape, plane_bytes, slots[b].payload);
  if (commit) {
    begun(u->number, &p, 0, count);
    code = kvstow_commit(store, slots, count);
    check_result("commit", code);
    if (code == 0) settled(u->number, &p, 0, count);
  } else {
    kvstow_abort(store, slots, count);
  }
  trace(u, "reserve node %d blocks %zu, %s: %s", p.nodes[p.blocks - 1], count,
        commit ? "commit" : "abort", kvstow_errname(code));
}

static void do_sequence(user *u, kv_rng *rng) {
  path p;
  path_make(&p, u->number, (int)kv_below(rng, NODES));
  const kv_shape *shape = &the_plan.shape;
  const size_t after = kv_below(rng, p.blocks); /* blocks taken as stored */
  kvstow_prefix before = p.prefix;
  before.tokens_count = after * shape->block_tokens;
  kvstow_seq *seq = NULL;
  int code = kvstow_seq_open(&before, &seq);
  CHECK(code == 0, "seq_open: %s", kvstow_errname(code));
  const size_t total = (p.blocks - after) * shape->block_tokens;
  const size_t named = kv_chance(rng, 80) ? total : kv_below(rng, total + 1);
  code = kvstow_seq_tokens(seq, p.tokens + before.tokens_count, named);
  CHECK(code == 0, "seq_tokens: %s", kvstow_errname(code));
  begun(u->number, &p, after, p.blocks - after);
  size_t at[4] = {0};
  char *k = kv_pages((size_t)shape->block_tokens * shape->k_bytes);
  char *v = kv_pages((size_t)shape->block_tokens * shape->k_bytes);
  while (code == 0) {
    const uint32_t layer = (uint32_t)kv_below(rng, shape->layers);
    size_t least = named;
    for (uint32_t l = 0; l < shape->layers; l++) least = at[l] < least ? at[l] : least;
    if (least == named) break;
    const size_t within = at[layer] % shape->block_tokens;
    const size_t room = shape->block_tokens - within;
    size_t count = kv_between(rng, 1, room);
    if (count > named - at[layer]) count = named - at[layer];
    if (count == 0) continue;
    const uint64_t id = id_of(u->number, p.nodes[after + at[layer] / shape->block_tokens]);
    kv_rows(id, layer, 0, within, count, k, shape->k_bytes);
    kv_rows(id, layer, 1, within, count, v, shape->v_bytes);
    code = kvstow_seq_append(seq, layer, k, shape->v_bytes ? v : NULL, count);
    check_result("seq_append", code);
    if (code == 0) at[layer] += count;
  }
  const size_t sealed = kvstow_seq_sealed_tokens(seq) / shape->block_tokens;
  CHECK(sealed >= after && sealed <= p.blocks, "sealed %zu of %zu", sealed, p.blocks);
  settled(u->number, &p, after, sealed - after);
  kvstow_seq_close(seq);
  trace(u, "sequence node %d from block %zu: sealed %zu: %s", p.nodes[p.blocks - 1], after, sealed,
        kvstow_errname(code));
  free(k);
  free(v);
}

/* Reads some of a lease in one of the ways there are, and compares every byte. */
static void do_read(user *u, kv_rng *rng, int slot, kvstow_queue *queue) {
  kvstow_lease *lease = u->leases[slot];
  if (!lease || u->held[slot] == 0) return;
  path p;
  path_make(&p, u->number, u->leased[slot]);
  const kv_shape *shape = &the_plan.shape;
  uint64_t ids[DEPTH_MAX] = {0};
  for (size_t b = 0; b < p.blocks; b++) ids[b] = id_of(u->number, p.nodes[b]);
  const uint32_t flags = kv_chance(rng, 40) ? KVSTOW_BYPASS_RAM : 0;
  const uint32_t timeout = kv_chance(rng, 20) ? 5 : 0;
  const size_t first = kv_below(rng, u->held[slot]);
  const size_t count = kv_between(rng, 1, u->held[slot] - first);
  int code = 0;
  const char *how;
  if (kv_chance(rng, 40)) {
    how = "range";
    kvstow_range range = {.layer_first = (uint32_t)kv_below(rng, shape->layers)};
    range.layer_count = (uint32_t)kv_between(rng, 1, shape->layers - range.layer_first);
    const size_t tokens = u->held[slot] * shape->block_tokens;
    range.token_first = kv_below(rng, tokens);
    range.token_count = kv_between(rng, 1, tokens - range.token_first);
    const size_t bytes = kv_read_bytes(shape, &range);
    char *memory = kv_pages(bytes);
    struct iovec iov = {memory, bytes};
    if (queue) {
      kvstow_op *op;
      code = kvstow_read_async(lease, &range, &iov, 1, flags, timeout, queue, u, &op);
      if (code == 0) {
        if (kv_chance(rng, 20)) kvstow_cancel(op);
        kvstow_completion done;
        while (kvstow_queue_poll(queue, &done, 1, 1000) == 0) {
        }
        code = done.result;
      }
    } else {
      code = kvstow_read(lease, &range, &iov, 1, flags, timeout);
    }
    CHECK(code != 0 || kv_read_is(ids, shape, &range, memory), "WRONG BYTES in a read");
    free(memory);
  } else if (kv_chance(rng, 70)) {
    how = "blocks";
    const size_t stride = plane_bytes * shape->layers;
    char *memory = kv_pages(stride * count);
    void *payloads[DEPTH_MAX];
    for (size_t b = 0; b < count; b++) payloads[b] = memory + b * stride;
    code = kvstow_read_blocks(lease, first, count, payloads, NULL, flags, timeout);
    for (size_t b = 0; b < count && code == 0; b++)
      CHECK(kv_payload_is(ids[first + b], shape, plane_bytes, payloads[b]),
            "WRONG BYTES in a block read");
    free(memory);
  } else {
    how = "view";
    const void *payload;
    size_t bytes;
    code = kvstow_view(lease, first, timeout, &payload, &bytes);
    if (code == 0) {
      sim_yield();
      CHECK(kv_payload_is(ids[first], shape, plane_bytes, payload), "WRONG BYTES in a view");
      kvstow_unview(lease, first);
    }
  }
  char why[KVSTOW_MESSAGE_BYTES] = "";
  if (code != 0) kvstow_message(store, why, sizeof why);
  trace(u, "read %s of node %d: %s %s", how, u->leased[slot], kvstow_errname(code), why);
  check_result("read", code);
  bool whole = true; /* after a loss of power, what was not flushed may be there in part */
  for (size_t b = 0; b < u->held[slot]; b++)
    whole = whole && m->nodes[u->number][p.nodes[b]].settled;
  CHECK(code == 0 || !healthy() || !whole || timeout || code == KVSTOW_EFULL || queue,
        "a read failed on a healthy disk: %s", kvstow_errname(code));
  if (code != 0) u->held[slot] = kvstow_lease_tokens(lease) / shape->block_tokens;
}

static void do_match(user *u, kv_rng *rng, int slot) {
  kvstow_lease_release(u->leases[slot]);
  u->leases[slot] = NULL;
  path p;
  u->leased[slot] = (int)kv_below(rng, NODES);
  path_make(&p, u->number, u->leased[slot]);
  kvstow_held held = {0};
  const int code =
      kvstow_match(&p.prefix, kv_chance(rng, 30) ? KVSTOW_NO_PROMOTE : 0, &u->leases[slot], &held);
  u->held[slot] = held.blocks;
  trace(u, "match node %d: %s, %zu (%zu on SSD)", u->leased[slot], kvstow_errname(code),
        held.blocks, held.ssd_blocks);
  check_result("match", code);
  CHECK((code == 0) == (u->leases[slot] != NULL), "match: %s, but lease %p", kvstow_errname(code),
        (void *)u->leases[slot]);
  check_held(u->number, &p, held.blocks, "match");
  if (code == 0 && kv_chance(rng, 30)) {
    const int waited = kvstow_lease_wait(u->leases[slot], 0, &held);
    check_result("lease_wait", waited);
    check_held(u->number, &p, held.blocks, "lease_wait");
    u->held[slot] = held.blocks;
  }
}

/* The whole subtree of a node is in its next life: what it held before may never be seen again. */
static void forget_subtree(unsigned u, int top) {
  for (int i = 0; i < NODES; i++) {
    int up = i;
    while (up >= 0 && up != top) up = m->nodes[u][up].parent;
    if (up != top) continue;
    node *n = &m->nodes[u][i];
    n->stored = n->settled = n->durable = false;
    n->life++;
  }
}

static void do_forget(user *u, kv_rng *rng) {
  path p;
  path_make(&p, u->number, (int)kv_below(rng, NODES));
  const bool salt = kv_chance(rng, 15);
  const size_t first = kv_below(rng, p.blocks);
  for (int i = 0; i < NODES; i++) { /* from here on their fate is open */
    m->nodes[u->number][i].durable = false;
    m->nodes[u->number][i].settled = false;
  }
  size_t blocks = 0;
  const int code = salt ? kvstow_forget_salt(space, p.prefix.salt, p.prefix.salt_bytes, &blocks)
                        : kvstow_forget(&p.prefix, first, &blocks);
  char why[KVSTOW_MESSAGE_BYTES] = "";
  kvstow_message(store, why, sizeof why);
  trace(u, "forget %s node %d from block %zu: %s, %zu; %s", salt ? "salt" : "prefix",
        p.nodes[p.blocks - 1], first, kvstow_errname(code), blocks, why);
  check_result("forget", code);
  if (code != 0 || the_plan.lies) return; /* a disk that lies may bring back what was erased */
  if (salt) {
    for (int i = 0; i < NODES; i++)
      if (m->nodes[u->number][i].parent < 0) forget_subtree(u->number, i);
  } else {
    forget_subtree(u->number, p.nodes[first]);
  }
}

/* A disk has failed: any block may have gone with it. */
static void lose_promises(void) {
  for (unsigned u = 0; u < USERS_MAX; u++)
    for (int i = 0; i < NODES; i++) m->nodes[u][i].settled = m->nodes[u][i].durable = false;
}

/* What was flushed must be there: disks that fail have not failed since, and did not fail to read. */
static bool promises_hold(void) {
  if (!the_plan.ample) return false;
  if (healthy()) return true;
  return the_plan.errors && !the_plan.faults.read_error && !the_plan.faults.no_open &&
         sim_disk_faults() == m->faults_at_flush;
}

static void do_flush(user *u, kv_rng *rng, kvstow_queue *queue) {
  static bool before[USERS_MAX][USERS_MAX][NODES];
  for (unsigned w = 0; w < USERS_MAX; w++)
    for (int i = 0; i < NODES; i++) before[u->number][w][i] = m->nodes[w][i].settled;
  static uint32_t lives[USERS_MAX][USERS_MAX][NODES];
  for (unsigned w = 0; w < USERS_MAX; w++)
    for (int i = 0; i < NODES; i++) lives[u->number][w][i] = m->nodes[w][i].life;
  int code;
  if (queue) {
    code = kvstow_flush_async(store, queue, u, NULL);
    if (code == 0) {
      kvstow_completion done;
      while (kvstow_queue_poll(queue, &done, 1, 1000) == 0) {
      }
      code = done.result;
    }
  } else {
    code = kvstow_flush(store);
  }
  trace(u, "flush%s: %s", queue ? " async" : "", kvstow_errname(code));
  check_result("flush", code);
  if (code != 0) lose_promises();
  if (code != 0 || !the_plan.ample) return;
  (void)rng;
  m->flushes_kept++;
  m->faults_at_flush = sim_disk_faults();
  for (unsigned w = 0; w < USERS_MAX; w++)
    for (int i = 0; i < NODES; i++)
      if (before[u->number][w][i] && m->nodes[w][i].settled &&
          m->nodes[w][i].life == lives[u->number][w][i])
        m->nodes[w][i].durable = true;
}

static void do_small(user *u, kv_rng *rng) {
  path p;
  path_make(&p, u->number, (int)kv_below(rng, NODES));
  kvstow_held held = {0};
  char text[16384];
  size_t blocks;
  int code;
  switch (kv_below(rng, 7)) {
    case 0:
      code = kvstow_exists(&p.prefix, &held);
      check_result("exists", code);
      check_held(u->number, &p, held.blocks, "exists");
      break;
    case 1:
      check_result("prefetch", kvstow_prefetch(&p.prefix));
      break;
    case 2:
      code = kvstow_pin(&p.prefix, kv_chance(rng, 60), &blocks);
      check_result("pin", code);
      break;
    case 3: {
      kvstow_tuning tuning;
      kvstow_tuning_init(&tuning);
      tuning.enable_prefetch = kv_chance(rng, 50);
      tuning.enable_io_scheduling = kv_chance(rng, 50);
      tuning.merge_distance = (uint32_t)kv_below(rng, 300000);
      code = kvstow_set_tuning(store, &tuning);
      CHECK(code == 0, "set_tuning: %s", kvstow_errname(code));
      break;
    }
    case 4:
      (void)kvstow_stats_json(store, text, sizeof text);
      break;
    case 5: {
      const struct timespec pause = {0, (long)kv_below(rng, 20000000)};
      sim_nanosleep(&pause, NULL);
      break;
    }
    default:
      sim_clock_jump((int64_t)kv_below(rng, 200000) - 100000);
  }
}

static void do_one(user *u, kv_rng *rng, kvstow_queue *queue) {
  const size_t what = kv_below(rng, 100);
  const int slot = (int)kv_below(rng, LEASES);
  kvstow_queue *maybe = kv_chance(rng, 30) ? queue : NULL;
  if (what < 22)
    do_store(u, rng, maybe != NULL, queue);
  else if (what < 28)
    do_reserve(u, rng);
  else if (what < 34)
    do_sequence(u, rng);
  else if (what < 54)
    do_match(u, rng, slot);
  else if (what < 78)
    do_read(u, rng, slot, maybe);
  else if (what < 82) {
    kvstow_lease_release(u->leases[slot]);
    u->leases[slot] = NULL;
  } else if (what < 86)
    do_forget(u, rng);
  else if (what < 90)
    do_flush(u, rng, maybe);
  else
    do_small(u, rng);
}

static void *user_main(void *arg) {
  user *u = arg;
  kvstow_queue *queue = NULL;
  int code = kvstow_queue_create(store, &queue);
  CHECK(code == 0, "queue_create: %s", kvstow_errname(code));
  for (unsigned i = 0; i < the_plan.ops; i++) {
    if (m->off[the_life][u->number][i]) continue;
    kv_rng rng = {kv_hash2(the_seed, ((uint64_t)the_life << 32) | (u->number << 16) | i)};
    do_one(u, &rng, queue);
    m->operations++;
    sim_progress();
    check_budget();
  }
  for (int i = 0; i < LEASES; i++) kvstow_lease_release(u->leases[i]);
  code = kvstow_queue_destroy(queue);
  CHECK(code == 0, "queue_destroy: %s", kvstow_errname(code));
  if (--users_left == 0) sim_wake(&users_left, true);
  return NULL;
}

/* ---- a life --------------------------------------------------------------------------------- */

static const char *const DIRS[] = {"/sim/0", "/sim/1"};

/* The library opens its tier here: on the simulated disks. */
int __wrap_kvstow_tier_open(const kvstow_tier_options *options, kvstow_tier **tier, char *why,
                            size_t why_bytes);
int __wrap_kvstow_tier_open(const kvstow_tier_options *options, kvstow_tier **tier, char *why,
                            size_t why_bytes) {
  return kvstow__tier_open_with(options, sim_disk_io(), tier, why, why_bytes);
}

static int open_store(kv_rng *rng, bool plain) {
  kvstow_options o;
  kvstow_options_init(&o);
  o.dirs = DIRS;
  o.dirs_count = the_plan.dirs;
  o.ram_bytes = the_plan.ram_bytes;
  o.ssd_bytes = the_plan.ssd_bytes;
  o.segment_bytes = SIM_SEGMENT_BYTES;
  o.queue_depth = (uint32_t)kv_between(rng, 1, 64);
  static const char *const policies[] = {"lru", "fifo", "s3fifo", "arc", "adaptive", "default"};
  o.ram_policy = policies[kv_below(rng, 6)];
  o.ssd_policy = policies[kv_below(rng, 6)];
  o.write_mode = kv_chance(rng, 50) ? KVSTOW_WRITE_THROUGH : KVSTOW_WRITE_BACK;
  o.high_watermark_pct = kv_chance(rng, 50) ? 90 : 20;
  o.low_watermark_pct = o.high_watermark_pct - 10;
  o.reinsert_pct = kv_chance(rng, 50) ? 25 : 0;
  o.populate = kv_chance(rng, 20);
  char why[KVSTOW_MESSAGE_BYTES] = "";
  int code = kvstow_open(&o, &store, why, sizeof why);
  if (tracing) printf("  life %u: open: %s %s\n", the_life, kvstow_errname(code), why);
  if (code != 0) {
    CHECK(!plain, "opening with healthy disks: %s: %s", kvstow_errname(code), why);
    return code;
  }
  kvstow_space_options so;
  kvstow_space_options_init(&so);
  so.name = "sim";
  so.fingerprint = "sim";
  so.fingerprint_bytes = 3;
  so.layers = the_plan.shape.layers;
  so.k_bytes = the_plan.shape.k_bytes;
  so.v_bytes = the_plan.shape.v_bytes;
  so.block_tokens = the_plan.shape.block_tokens;
  code = kvstow_space_open(store, &so, &space);
  CHECK(code == 0, "space_open: %s", kvstow_errname(code));
  plane_bytes = kvstow_space_plane_bytes(space);
  m->opened++;
  return 0;
}

/* What a flush promised must be there, where disks only lose power. */
static void check_promises(void) {
  for (unsigned u = 0; u < the_plan.users; u++)
    for (int i = 0; i < NODES; i++) {
      path p;
      path_make(&p, u, i);
      bool all = true;
      for (size_t b = 0; b < p.blocks; b++) all = all && m->nodes[u][p.nodes[b]].durable;
      kvstow_held held = {0};
      const int code = kvstow_exists(&p.prefix, &held);
      CHECK(code == 0, "exists: %s", kvstow_errname(code));
      if (tracing && held.blocks == p.blocks)
        printf("  life %u: user %u node %d (parent %d) is there\n", the_life, u, i,
               m->nodes[u][i].parent);
      check_held(u, &p, held.blocks, "after opening");
      if (all && promises_hold())
        CHECK(held.blocks == p.blocks,
              "user %u node %d: flushed, and not there after opening (%zu of %zu)", u, i,
              held.blocks, p.blocks);
    }
}

/* What was in RAM alone is gone with the process. */
static void forget_unflushed(void) {
  for (unsigned u = 0; u < USERS_MAX; u++)
    for (int i = 0; i < NODES; i++) m->nodes[u][i].settled = m->nodes[u][i].durable;
}

static void close_store(bool plain) {
  const int code = kvstow_close(store);
  if (tracing) printf("  life %u: close: %s\n", the_life, kvstow_errname(code));
  CHECK(code != KVSTOW_EBUSY, "close: EBUSY, but nothing is open");
  check_result("close", code);
  CHECK(!plain || code == 0 || code == KVSTOW_ENOSPC, "closing with healthy disks: %s",
        kvstow_errname(code));
  CHECK(sim_disk_open_files() == 0, "%d descriptors left open", sim_disk_open_files());
  check_budget();
  if (code != 0) lose_promises();
  if (code == 0) m->faults_at_flush = sim_disk_faults();
  if (code == 0 && the_plan.ample)
    for (unsigned u = 0; u < USERS_MAX; u++)
      for (int i = 0; i < NODES; i++)
        if (m->nodes[u][i].settled) m->nodes[u][i].durable = true;
}

/* Every block that is held, read and compared. */
static void read_all(void) {
  for (unsigned u = 0; u < the_plan.users; u++)
    for (int i = 0; i < NODES; i++) {
      path p;
      path_make(&p, u, i);
      kvstow_lease *lease = NULL;
      kvstow_held held;
      if (kvstow_match(&p.prefix, 0, &lease, &held) != 0) continue;
      check_held(u, &p, held.blocks, "match at the end");
      const size_t stride = plane_bytes * the_plan.shape.layers;
      char *memory = kv_pages(stride);
      for (size_t b = 0; b < held.blocks; b++) {
        void *payload = memory;
        if (kvstow_read_blocks(lease, b, 1, &payload, NULL, 0, 0) != 0) break;
        CHECK(kv_payload_is(id_of(u, p.nodes[b]), &the_plan.shape, plane_bytes, memory),
              "WRONG BYTES at the end: user %u node %d", u, p.nodes[b]);
      }
      free(memory);
      kvstow_lease_release(lease);
      sim_progress();
    }
}

static void live(bool last) {
  kv_rng rng = {kv_hash2(the_seed, 0x11fe00 + the_life)};
  sim_faults faults = the_plan.faults;
  if (kv_chance(&rng, 60))
    faults.crash_at = (uint32_t)kv_between(&rng, 1, 20 + kv_below(&rng, 600));
  if (last) faults = (sim_faults){0};
  sim_begin(kv_next(&rng), hang);
  sim_disk_begin(kv_next(&rng), &faults);
  if (tracing) sim_disk_trace();
  const int code = open_store(&rng, last && !the_plan.lies);
  if (code != 0) {
    CHECK(code != KVSTOW_EVERSION && code != KVSTOW_EINVAL, "open: %s", kvstow_errname(code));
    _exit(0);
  }
  check_promises();
  if (last) {
    read_all();
  } else {
    static user users[USERS_MAX];
    memset(users, 0, sizeof users);
    users_left = the_plan.users;
    for (unsigned u = 0; u < the_plan.users; u++) {
      pthread_t thread;
      users[u].number = u;
      CHECK(sim_thread_create(&thread, NULL, user_main, &users[u]) == 0, "threads");
      sim_thread_setname(thread, "user");
    }
    while (users_left > 0) sim_block(&users_left, SIM_FOREVER, "waits for the users");
  }
  close_store(last && !the_plan.lies);
  _exit(0);
}

/* ---- seeds ---------------------------------------------------------------------------------- */

/* Runs one seed; 0, or how it failed. m->message tells. */
static int run_seed(uint64_t seed) {
  uint8_t off[sizeof m->off];
  memcpy(off, m->off, sizeof off);
  memset(m, 0, sizeof *m);
  memcpy(m->off, off, sizeof off);
  the_seed = seed;
  plan_make(seed);
  model_make(seed);
  sim_disk_format();
  if (tracing)
    printf(
        "  %u users, %u lives of %u operations, %u layers, K %u V %u bytes a token, %s, disks %s\n",
        the_plan.users, the_plan.lives, the_plan.ops, the_plan.shape.layers, the_plan.shape.k_bytes,
        the_plan.shape.v_bytes, the_plan.ample ? "ample" : "tight",
        the_plan.lies     ? "lie"
        : the_plan.errors ? "fail"
        : the_plan.slow   ? "are slow"
                          : "lose power");
  for (the_life = 0; the_life <= the_plan.lives; the_life++) {
    const bool last = the_life == the_plan.lives;
    fflush(stdout);
    const pid_t pid = fork();
    if (pid < 0) abort();
    if (pid == 0) {
      alarm(REAL_SECONDS_MAX);
      live(last);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0) {
    }
    if (WIFSIGNALED(status)) {
      snprintf(m->message, sizeof m->message, "life %u: signal %d", the_life, WTERMSIG(status));
      return WTERMSIG(status) == SIGALRM ? HUNG : FAILED;
    }
    const int exit_status = WEXITSTATUS(status);
    if (exit_status == SIM_CRASHED) m->crashes++;
    if (exit_status != 0 && exit_status != SIM_CRASHED) {
      if (m->message[0] == 0)
        snprintf(m->message, sizeof m->message, "life %u: exit %d", the_life, exit_status);
      return exit_status;
    }
    forget_unflushed();
  }
  return 0;
}

/* What kind of failure a message tells of: its letters, without the life it begins with. */
static void kind_of(const char *message, char kind[24]) {
  size_t n = 0;
  const char *at = strchr(message, ':');
  for (at = at ? at : message; *at && n < 23; at++)
    if ((*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z')) kind[n++] = *at;
  kind[n] = 0;
}

static bool fails_alike(uint64_t seed, const char *kind) {
  char now[24];
  if (run_seed(seed) == 0) return false;
  kind_of(m->message, now);
  return strcmp(now, kind) == 0;
}

/* Leaves out as many operations as it can while the seed still fails in the same way. */
static void shrink(uint64_t seed) {
  const size_t total = sizeof m->off;
  char kind[24];
  kind_of(m->message, kind);
  uint8_t *off = (uint8_t *)m->off;
  unsigned tries = 0;
  for (size_t piece = total / 2; piece >= 1 && tries < 400; piece /= 2)
    for (size_t at = 0; at + piece <= total && tries < 400; at += piece) {
      bool any = false;
      for (size_t i = at; i < at + piece; i++) any = any || !off[i];
      if (!any) continue;
      uint8_t saved[sizeof m->off];
      memcpy(saved, off, total);
      memset(off + at, 1, piece);
      tries++;
      if (!fails_alike(seed, kind)) memcpy(off, saved, total);
    }
}

static int report(uint64_t seed) {
  printf("seed %" PRIu64 " FAILED: %s\n", seed, m->message);
  shrink(seed);
  tracing = true;
  printf("shrunk:\n");
  const int status = run_seed(seed);
  tracing = false;
  printf("%s\nagain: kvstow-sim --seed %" PRIu64 " --seeds 1 --trace\n", m->message, seed);
  fflush(stdout);
  return status == 0 ? FAILED : status;
}

typedef struct totals {
  uint64_t seeds, operations, lives, crashes, faults, flushes, failed, hung;
} totals;

static void work(totals *t, uint64_t first, uint64_t count, uint64_t step) {
  for (uint64_t seed = first; seed < first + count; seed += step) {
    memset(m->off, 0, sizeof m->off);
    int status = run_seed(seed);
    t->seeds++;
    t->operations += m->operations;
    t->lives += m->opened;
    t->crashes += m->crashes;
    t->faults += sim_disk_faults();
    t->flushes += m->flushes_kept;
    if (status == 0) continue;
    t->failed += status != HUNG;
    t->hung += status == HUNG;
    if (t->failed + t->hung <= 3) report(seed);
  }
}

int main(int argc, char **argv) {
  uint64_t seeds = 50, first = 1, jobs = (uint64_t)sysconf(_SC_NPROCESSORS_ONLN);
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--trace") == 0) {
      tracing = true;
    } else if (i + 1 < argc && strcmp(argv[i], "--seeds") == 0) {
      seeds = strtoull(argv[++i], NULL, 0);
    } else if (i + 1 < argc && strcmp(argv[i], "--seed") == 0) {
      first = strtoull(argv[++i], NULL, 0);
    } else if (i + 1 < argc && strcmp(argv[i], "--jobs") == 0) {
      jobs = strtoull(argv[++i], NULL, 0);
    } else {
      fprintf(stderr, "usage: kvstow-sim [--seeds N] [--seed FIRST] [--jobs N] [--trace]\n");
      return 2;
    }
  }
  if (jobs < 1) jobs = 1;
  totals *all =
      mmap(NULL, jobs * sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (all == MAP_FAILED) return 1;
  for (uint64_t j = 0; j < jobs; j++) {
    if (fork() != 0) continue;
    m = mmap(NULL, sizeof *m, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED) _exit(1);
    if (j < seeds) work(&all[j], first + j, seeds - j, jobs);
    fflush(stdout);
    _exit(0);
  }
  bool broken = false;
  for (uint64_t j = 0; j < jobs; j++) {
    int status;
    if (wait(&status) < 0 || status != 0) broken = true;
  }
  totals sum = {0};
  for (uint64_t j = 0; j < jobs; j++) {
    const uint64_t *from = (const uint64_t *)&all[j];
    for (size_t i = 0; i < sizeof sum / 8; i++) ((uint64_t *)&sum)[i] += from[i];
  }
  printf("%" PRIu64 " lives, %" PRIu64 " losses of power, %" PRIu64 " faults, %" PRIu64
         " flushes whose promise was checked\n",
         sum.lives, sum.crashes, sum.faults, sum.flushes);
  printf("%" PRIu64 " seeds, %" PRIu64 " operations, %" PRIu64 " wrong bytes, %" PRIu64 " hangs\n",
         sum.seeds, sum.operations, sum.failed, sum.hung);
  return broken || sum.seeds != seeds || sum.failed || sum.hung ? 1 : 0;
}
