/* tests/test_policy_engine.c - every policy orders a real store under load.
 *
 * Threads hold conversations that begin with one system prompt: match, read, lease for a while, store the
 * next turn, pin, forget. Blocks become eight times larger and smaller again on the way, and the store is
 * closed and opened with other budgets: the policies are resized while they are in use, and between.
 *
 * The model is plain: a conversation's blocks up to the longest turn stored since it was last forgotten may be
 * held, nothing else; what is held has the bytes that follow from its place; what is leased is readable
 * until the lease ends; both budgets hold at all times. No policy names a block it has not, or none while it has
 * some: the store would count that. That something is held at all is the last check.
 *
 * KVSTOW_SEEDS seeds a policy.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/kv.h"

#include "kvstow/policy.h"
#include "tests/support/object.h"

enum {
  THREADS = 3,
  DOCS = 24,  /* of each thread */
  SHARED = 2, /* blocks of the system prompt */
  BLOCKS_MAX = 24,
  TOKENS = 16,
  SIZES = 2,
  TURNS = KV_TSAN ? 40 : 100, /* of a thread, a life of the store */
  LIVES = 4,
};

static const kv_shape shapes[SIZES] = {
    {.layers = 2, .k_bytes = 256, .v_bytes = 256, .block_tokens = TOKENS},
    {.layers = 2, .k_bytes = 2048, .v_bytes = 2048, .block_tokens = TOKENS}};

struct doc {
  kvstow_token tokens[BLOCKS_MAX * TOKENS];
  uint64_t number;
  size_t blocks; /* may be held */
  bool pinned;
};

/* One lease that is kept while other things happen. */
struct hold {
  kvstow_lease *lease;
  unsigned size;
  struct doc *doc;
  size_t blocks;
};

struct load {
  kvstow *store;
  kvstow_space *const *spaces;
  kv_rng rng;
  unsigned life;
  struct doc (*docs)[DOCS]; /* by size */
  struct hold hold;
  uint64_t hits;
};

static uint64_t id_of(unsigned size, const struct doc *doc, size_t block) {
  return kv_id(size, block < SHARED ? 0 : doc->number, block);
}

static kvstow_prefix prefix_of(const struct load *load, unsigned size, const struct doc *doc,
                               size_t blocks) {
  kvstow_prefix prefix = KVSTOW_PREFIX(load->spaces[size], doc->tokens, blocks * TOKENS);
  prefix.session = doc->number;
  return prefix;
}

static void docs_init(struct doc docs[SIZES][DOCS], unsigned thread) {
  for (unsigned size = 0; size < SIZES; size++)
    for (unsigned i = 0; i < DOCS; i++) {
      struct doc *doc = &docs[size][i];
      doc->number = 1 + thread * DOCS + i;
      doc->blocks = 0;
      doc->pinned = false;
      for (size_t t = 0; t < BLOCKS_MAX * TOKENS; t++)
        doc->tokens[t] = kv_token(t < SHARED * TOKENS ? 0 : doc->number, t);
    }
}

/* ---- what a thread does --------------------------------------------------------------------- */

static void read_all(const struct load *load, unsigned size, const struct doc *doc,
                     kvstow_lease *lease, size_t blocks) {
  const size_t bytes = kvstow_space_payload_bytes(load->spaces[size]);
  char *buffer = kv_pages(blocks * bytes);
  void *payloads[BLOCKS_MAX];
  for (size_t i = 0; i < blocks; i++) payloads[i] = buffer + i * bytes;
  KV_OK(kvstow_read_blocks(lease, 0, blocks, payloads, NULL, 0, 0));
  for (size_t i = 0; i < blocks; i++)
    KV_CHECK(kv_payload_is(id_of(size, doc, i), &shapes[size],
                           kvstow_space_plane_bytes(load->spaces[size]), payloads[i]),
             "document %" PRIu64 ", block %zu: wrong bytes", doc->number, i);
  free(buffer);
}

static void end_hold(struct load *load) {
  struct hold *hold = &load->hold;
  if (hold->lease == NULL) return;
  KV_CHECK(kvstow_lease_tokens(hold->lease) == hold->blocks * TOKENS, "the lease has shrunk");
  const kvstow_prefix prefix = prefix_of(load, hold->size, hold->doc, hold->blocks);
  kvstow_held held;
  KV_OK(kvstow_exists(&prefix, &held));
  KV_CHECK(held.blocks == hold->blocks, "of %zu leased blocks %zu are held", hold->blocks,
           held.blocks);
  read_all(load, hold->size, hold->doc, hold->lease, hold->blocks);
  kvstow_lease_release(hold->lease);
  hold->lease = NULL;
}

/* Others store and keep the system prompt too. */
static size_t may_be_held(const struct doc *doc) {
  return doc->blocks > SHARED ? doc->blocks : SHARED;
}

static void store_turn(struct load *load, unsigned size, struct doc *doc, size_t from, size_t to) {
  const kvstow_prefix prefix = prefix_of(load, size, doc, to);
  const size_t bytes = kv_block_bytes(0, &shapes[size]);
  char *buffer = malloc((to - from) * bytes + 1); /* there may be nothing to store */
  struct iovec iov[BLOCKS_MAX];
  kvstow_source sources[BLOCKS_MAX];
  for (size_t i = 0; i < to - from; i++) {
    iov[i] = (struct iovec){buffer + i * bytes, bytes};
    sources[i] = (kvstow_source){&iov[i], 1};
    kv_fill_block(id_of(size, doc, from + i), &shapes[size], iov[i].iov_base);
  }
  size_t stored = 0;
  if (to > doc->blocks) doc->blocks = to;
  const int rc = kvstow_store(&prefix, from, to - from, sources,
                              kv_chance(&load->rng, 20) ? KVSTOW_NOWAIT : 0, &stored);
  KV_CHECK(rc == 0 || rc == KVSTOW_EFULL, "store: %s", kvstow_errname(rc));
  KV_CHECK(rc != 0 || stored == to - from, "stored %zu of %zu", stored, to - from);
  free(buffer);
}

/* The next turn of a conversation: all of it is asked for, what is missing is stored. */
static void turn(struct load *load, unsigned size, struct doc *doc) {
  size_t blocks = doc->blocks + kv_between(&load->rng, 1, 4);
  if (blocks > BLOCKS_MAX) blocks = BLOCKS_MAX;
  const kvstow_prefix prefix = prefix_of(load, size, doc, blocks);
  kvstow_lease *lease = NULL;
  kvstow_held held = {0};
  const int rc = kvstow_match(&prefix, 0, &lease, &held);
  KV_CHECK(rc == 0 || rc == KVSTOW_EMISS, "match: %s", kvstow_errname(rc));
  KV_CHECK(held.blocks <= may_be_held(doc), "%zu blocks held of at most %zu", held.blocks,
           may_be_held(doc));
  load->hits += held.blocks;
  if (held.blocks > 0) read_all(load, size, doc, lease, held.blocks);
  if (held.blocks < blocks) store_turn(load, size, doc, held.blocks, blocks);
  if (lease != NULL && load->hold.lease == NULL && kv_chance(&load->rng, 30))
    load->hold = (struct hold){lease, size, doc, held.blocks};
  else
    kvstow_lease_release(lease);
}

static void forget(struct load *load, unsigned size, struct doc *doc) {
  const size_t first = kv_between(&load->rng, SHARED, BLOCKS_MAX - 1);
  const kvstow_prefix prefix = prefix_of(load, size, doc, BLOCKS_MAX);
  const int rc = kvstow_forget(&prefix, first, NULL);
  KV_CHECK(rc == 0 || rc == KVSTOW_EBUSY, "forget: %s", kvstow_errname(rc));
  if (rc == 0 && doc->blocks > first) doc->blocks = first;
  kvstow_held held;
  KV_OK(kvstow_exists(&prefix, &held));
  KV_CHECK(held.blocks <= may_be_held(doc), "%zu blocks held after forgetting from %zu on",
           held.blocks, first);
}

static void pin(struct load *load, unsigned size, struct doc *doc) {
  const kvstow_prefix prefix = prefix_of(load, size, doc, BLOCKS_MAX);
  const int rc = kvstow_pin(&prefix, !doc->pinned, NULL);
  KV_CHECK(rc == 0 || rc == KVSTOW_EFULL, "pin: %s", kvstow_errname(rc));
  doc->pinned = !doc->pinned;
}

static void *work(void *arg) {
  struct load *load = arg;
  for (unsigned i = 0; i < TURNS; i++) {
    /* Mostly small blocks, then mostly large ones. */
    const unsigned size =
        kv_chance(&load->rng, 90) ? load->life % SIZES : kv_below(&load->rng, SIZES);
    const size_t hot = kv_below(&load->rng, DOCS);
    struct doc *doc = &load->docs[size][kv_below(&load->rng, hot + 1)];
    const size_t dice = kv_below(&load->rng, 100);
    if (dice < 4)
      forget(load, size, doc);
    else if (dice < 8)
      pin(load, size, doc);
    else if (dice < 20)
      end_hold(load);
    else
      turn(load, size, doc);
  }
  end_hold(load);
  for (unsigned size = 0; size < SIZES; size++)
    for (unsigned i = 0; i < DOCS; i++)
      if (load->docs[size][i].pinned) pin(load, size, &load->docs[size][i]);
  return NULL;
}

/* ---- one policy ----------------------------------------------------------------------------- */

static void check_budgets(const kvstow *store, const char *dir, const kvstow_options *o) {
  const kvstow_stats stats = kv_stats(store);
  KV_CHECK(stats.ram_used_bytes <= o->ram_bytes, "RAM: %" PRIu64 " of %" PRIu64,
           stats.ram_used_bytes, o->ram_bytes);
  KV_CHECK(kv_dir_bytes(dir) <= o->ssd_bytes, "SSD: %" PRIu64 " of %" PRIu64, kv_dir_bytes(dir),
           o->ssd_bytes);
}

/* One life of a store; returns the blocks hit. */
static uint64_t live(const char *policy, const char *dir, unsigned life,
                     struct doc docs[THREADS][SIZES][DOCS], kv_rng *rng) {
  static const uint64_t ram[LIVES] = {8 * KV_MIB, 12 * KV_MIB, 8 * KV_MIB, 16 * KV_MIB};
  static const uint64_t ssd[LIVES] = {24 * KV_MIB, 40 * KV_MIB, 16 * KV_MIB, 32 * KV_MIB};
  kvstow_options o;
  kv_options(&o, &dir, ram[life], ssd[life], (uint32_t)KV_MIB);
  o.ram_policy = o.ssd_policy = policy;
  o.populate = false;
  kvstow *store = kv_open(&o);
  kvstow_space *spaces[SIZES];
  spaces[0] = kv_space(store, "small", &shapes[0]);
  spaces[1] = kv_space(store, "large", &shapes[1]);
  struct load loads[THREADS];
  pthread_t threads[THREADS];
  for (unsigned i = 0; i < THREADS; i++) {
    loads[i] = (struct load){
        .store = store, .spaces = spaces, .rng = {kv_next(rng)}, .life = life, .docs = docs[i]};
    KV_CHECK(pthread_create(&threads[i], NULL, work, &loads[i]) == 0, "pthread_create");
  }
  for (unsigned i = 0; i < 20; i++) {
    check_budgets(store, dir, &o);
    kv_sleep_ms(10);
  }
  uint64_t hits = 0;
  for (unsigned i = 0; i < THREADS; i++) {
    KV_CHECK(pthread_join(threads[i], NULL) == 0, "pthread_join");
    hits += loads[i].hits;
  }
  check_budgets(store, dir, &o);
  KV_CHECK(kv_stats(store).policies_replaced == 0, "%s named a wrong victim", policy);
  const int flushed = kvstow_flush(store);
  KV_CHECK(flushed == 0 || flushed == KVSTOW_ENOSPC, "flush: %s", kvstow_errname(flushed));
  check_budgets(store, dir, &o);
  const int closed = kvstow_close(store);
  KV_CHECK(closed == 0 || closed == KVSTOW_ENOSPC, "close: %s", kvstow_errname(closed));
  return hits;
}

static void drive(const char *policy, uint64_t seed) {
  static struct doc docs[THREADS][SIZES][DOCS];
  kv_rng rng = kv_seed(policy, seed);
  const char *dir = kv_dir("policy");
  for (unsigned i = 0; i < THREADS; i++) docs_init(docs[i], i);
  uint64_t hits = 0;
  for (unsigned life = 0; life < LIVES; life++) hits += live(policy, dir, life, docs, &rng);
  KV_CHECK(hits > 0, "%s kept nothing", policy);
  kv_dir_drop(dir);
}

static void every_shipped_policy_serves_a_store_under_load(void **state) {
  (void)state;
  const uint64_t seeds = kv_env("KVSTOW_SEEDS", 1);
  for (size_t i = 0; kvstow_policy_at(i) != NULL; i++)
    for (uint64_t s = 0; s < seeds; s++) drive(kvstow_policy_at(i)->name, 100 * s + i);
}

static void a_users_policy_serves_a_store_under_load(void **state) {
  (void)state;
  const char *object = object_compile(KVSTOW_SOURCE_DIR "/eviction/examples/most_recent.c",
                                      kv_dir("example"), "most_recent");
  if (object == NULL) skip();
  drive(object, 1);
}

/* Policies that name wrong victims from the hundredth on: the store counts and replaces them, and serves on. */
static void outlives(const char *policy, const char *const *dir, uint64_t replaced) {
  static const kv_shape shape = {
      .layers = 2, .k_bytes = 256, .v_bytes = 256, .block_tokens = TOKENS};
  enum { DOCUMENTS = 3000 }; /* RAM holds some 400, SSD some 900 */
  kvstow_options o;
  kv_options(&o, dir, 8 * KV_MIB, 16 * KV_MIB, (uint32_t)KV_MIB);
  o.ram_policy = o.ssd_policy = policy;
  o.populate = false;
  kvstow *store = kv_open(&o);
  kvstow_space *space = kv_space(store, "outlives", &shape);
  for (uint64_t number = 0; number < DOCUMENTS; number++) {
    kv_doc doc;
    kv_doc_init(&doc, space, &shape, 0, number, 1, NULL, 0);
    KV_OK(kv_doc_store(&doc, 0, 1, 0));
    KV_CHECK(kv_doc_restore(&doc, 0) == 1, "document %" PRIu64 " is not there", number);
    kv_doc_finish(&doc);
  }
  char message[KVSTOW_MESSAGE_BYTES];
  kvstow_message(store, message, sizeof message);
  KV_CHECK(kv_stats(store).policies_replaced == replaced, "%s: %" PRIu64 " replaced", policy,
           kv_stats(store).policies_replaced);
  KV_CHECK(strstr(message, "lru instead") != NULL, "%s", message);
  KV_OK(kvstow_close(store));
}

static void a_store_outlives_a_policy_that_names_wrong_victims(void **state) {
  /* In RAM alone what is gone is not to be told: its id names the next block. */
  static const char *const faults[] = {"none", "wild", "gone"};
  (void)state;
  const char *object = object_compile(KVSTOW_SOURCE_DIR "/tests/support/faulty_policy.c",
                                      kv_dir("faulty"), "faulty");
  if (object == NULL) skip();
  for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
    char policy[4200];
    const char *dir = kv_dir("outlives");
    snprintf(policy, sizeof policy, "%s:%s", object, faults[i]);
    if (i < 2) outlives(policy, NULL, 1);
    outlives(policy, &dir, 2);
    kv_dir_drop(dir);
  }
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_shipped_policy_serves_a_store_under_load),
      cmocka_unit_test(a_users_policy_serves_a_store_under_load),
      cmocka_unit_test(a_store_outlives_a_policy_that_names_wrong_victims),
  };
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
