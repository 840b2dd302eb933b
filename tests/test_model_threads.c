/* tests/test_model_threads.c - eight threads hammer one store, or two stores at once.
 *
 * Every byte is a function of the store, the space, the salt, the tokens and (for a thread's own
 * salt) the life of the block, so each thread can check whatever it reads without knowing what the
 * others do. On a thread's own salt nobody else stores or forgets: there what it forgot must be gone.
 * Budgets are far below what is stored, so that demotion, reclaim and promotion run all the time.
 *
 * KVSTOW_SECONDS sets how long each test runs.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/kv.h"

enum {
  THREADS = 8,
  SHARED_DOCS = 24,
  OWN_DOCS = 3,
  SPACES = 4,
  BLOCKS = 10, /* of a document */
  OPAQUE = 3,
};

static const kv_shape shapes[SPACES] = {
    {4, 64, 64, 32, 0}, {4, 64, 64, 32, 0}, {6, 300, 0, 64, 0}, {0, 0, 0, 32, 70000}};

static const char *const fingerprints[SPACES] = {"t-alpha", "t-beta", "t-mla", "t-blob"};

typedef struct arena {
  uint64_t number;
  kvstow *store;
  kvstow_space *spaces[SPACES];
  uint64_t ram_bytes;
  atomic_bool stop;
  atomic_size_t operations, hits, misses, reads, full, forgets;
} arena;

typedef struct worker {
  arena *arenas;
  int arenas_count;
  int number;
  kv_rng rng;
  /* lives and presence of the thread's own blocks: [store][space][doc][block] */
  uint32_t life[2][SPACES][OWN_DOCS];
  bool may[2][SPACES][OWN_DOCS][BLOCKS];
  char *bytes;
} worker;

/* A document of a worker's choice. Own documents: salt "own-N", ids with the life. */
typedef struct pick {
  arena *arena;
  int space, doc;
  bool own;
  char salt[16];
  kvstow_token tokens[BLOCKS * 64 + 64];
  uint64_t ids[BLOCKS];
} pick;

static void choose(worker *w, pick *p) {
  p->arena = &w->arenas[kv_below(&w->rng, (size_t)w->arenas_count)];
  p->space = (int)kv_below(&w->rng, SPACES);
  p->own = kv_chance(&w->rng, 30);
  p->doc =
      (int)(p->own ? kv_below(&w->rng, OWN_DOCS)
                   : kv_below(&w->rng, SHARED_DOCS) * kv_below(&w->rng, SHARED_DOCS) / SHARED_DOCS);
  const uint32_t block_tokens = shapes[p->space].block_tokens;
  /* documents share prefixes in pairs: the second of a pair parts half way; own and shared ones have
   * equal tokens, and differ by salt alone */
  for (size_t i = 0; i < (size_t)BLOCKS * block_tokens; i++) {
    const int stem = i < (size_t)BLOCKS / 2 * block_tokens ? p->doc / 2 * 2 : p->doc;
    p->tokens[i] = kv_token((uint64_t)stem, i);
  }
  if (p->own)
    snprintf(p->salt, sizeof p->salt, "own-%d", w->number);
  else
    snprintf(p->salt, sizeof p->salt, "all");
  for (size_t block = 0; block < BLOCKS; block++) {
    const int stem = block < BLOCKS / 2 ? p->doc / 2 * 2 : p->doc;
    uint64_t where = kv_hash2(p->arena->number, (uint64_t)p->space);
    if (p->own) where = kv_hash2(where, 1000u + (uint64_t)w->number);
    p->ids[block] = kv_id(where, (uint64_t)stem, block);
    if (p->own) /* own document 0 and 1 share blocks, and so one life; 2 is alone */
      p->ids[block] ^=
          kv_mix(1 + w->life[p->arena->number & 1][p->space][p->doc / 2 * 2]) & ~0xffull;
  }
}

static kvstow_prefix prefix_of(const pick *p, size_t blocks) {
  kvstow_prefix prefix =
      KVSTOW_PREFIX(p->arena->spaces[p->space], p->tokens, blocks * shapes[p->space].block_tokens);
  prefix.salt = p->salt;
  prefix.salt_bytes = strlen(p->salt);
  prefix.session = (uint64_t)p->doc + 1;
  return prefix;
}

static void mark(worker *w, const pick *p, size_t block) {
  if (!p->own) return;
  bool(*may)[BLOCKS] = w->may[p->arena->number & 1][p->space];
  may[p->doc][block] = true;
  if (block < BLOCKS / 2 && (p->doc ^ 1) < OWN_DOCS) may[p->doc ^ 1][block] = true;
}

static size_t may_prefix(const worker *w, const pick *p, size_t blocks) {
  if (!p->own) return blocks;
  size_t n = 0;
  while (n < blocks && w->may[p->arena->number & 1][p->space][p->doc][n]) n++;
  return n;
}

static void put(worker *w) {
  pick p;
  choose(w, &p);
  const kv_shape *shape = &shapes[p.space];
  const size_t first = kv_chance(&w->rng, 70) ? 0 : kv_below(&w->rng, BLOCKS);
  const size_t count = kv_between(&w->rng, 1, BLOCKS - first);
  kvstow_prefix prefix = prefix_of(&p, first + count);
  struct iovec iov[BLOCKS];
  kvstow_source sources[BLOCKS];
  char *at = w->bytes;
  for (size_t i = 0; i < count; i++) {
    kv_fill_block(p.ids[first + i], shape, at);
    iov[i] = (struct iovec){at, kv_block_bytes(p.ids[first + i], shape)};
    sources[i] = (kvstow_source){&iov[i], 1};
    at += iov[i].iov_len;
    mark(w, &p, first + i);
  }
  const uint32_t flags = kv_chance(&w->rng, 20) ? KVSTOW_NOWAIT : 0;
  size_t stored;
  int rc = kvstow_store(&prefix, first, count, sources, flags, &stored);
  KV_CHECK(rc == 0 || rc == KVSTOW_EFULL || rc == KVSTOW_ENOMEM, "store: %s", kvstow_errname(rc));
  if (rc != 0) p.arena->full++;
}

static void put_in_place(worker *w) {
  pick p;
  choose(w, &p);
  const kv_shape *shape = &shapes[p.space];
  const size_t first = kv_chance(&w->rng, 70) ? 0 : kv_below(&w->rng, BLOCKS);
  const size_t count = p.space == OPAQUE ? 1 : kv_between(&w->rng, 1, BLOCKS - first);
  kvstow_prefix prefix = prefix_of(&p, first + count);
  kvstow_slot slots[BLOCKS];
  int rc = kvstow_reserve(&prefix, first, count,
                          p.space == OPAQUE ? kv_blob_bytes(p.ids[first], shape) : 0, 0, slots);
  KV_CHECK(rc == 0 || rc == KVSTOW_EFULL || rc == KVSTOW_ENOMEM, "reserve: %s", kvstow_errname(rc));
  if (rc != 0) {
    p.arena->full++;
    return;
  }
  for (size_t i = 0; i < count; i++)
    if (slots[i].payload != NULL) {
      kv_fill_payload(p.ids[first + i], shape, kvstow_space_plane_bytes(p.arena->spaces[p.space]),
                      slots[i].payload);
      mark(w, &p, first + i);
    } else if (p.own) {
      KV_CHECK(w->may[p.arena->number & 1][p.space][p.doc][first + i],
               "reserve says that a forgotten block is held");
    }
  if (kv_chance(&w->rng, 85))
    KV_OK(kvstow_commit(p.arena->store, slots, count));
  else
    kvstow_abort(p.arena->store, slots, count);
}

/* A whole document, layer by layer, in steps of a few tokens. */
static void grow(worker *w) {
  pick p;
  do {
    choose(w, &p);
  } while (p.space == OPAQUE);
  const kv_shape *shape = &shapes[p.space];
  const size_t first = kv_below(&w->rng, BLOCKS), block_tokens = shape->block_tokens;
  kvstow_prefix prefix = prefix_of(&p, first);
  kvstow_seq *seq;
  KV_OK(kvstow_seq_open(&prefix, &seq));
  const size_t all = kv_between(&w->rng, 1, (BLOCKS - first) * block_tokens);
  for (size_t done = 0; done < all;) {
    size_t count = kv_between(&w->rng, 1, 48);
    if (count > all - done) count = all - done;
    int rc = kvstow_seq_tokens(seq, p.tokens + first * block_tokens + done, count);
    KV_CHECK(rc == 0 || rc == KVSTOW_EFULL || rc == KVSTOW_ENOMEM, "seq_tokens: %s",
             kvstow_errname(rc));
    if (rc != 0) break;
    for (uint32_t layer = 0; layer < shape->layers && rc == 0; layer++) {
      char *k = w->bytes, *v = k + count * shape->k_bytes;
      for (size_t i = 0; i < count; i++) {
        const size_t token = done + i, within = token % block_tokens;
        const uint64_t id = p.ids[first + token / block_tokens];
        kv_row(id, layer, 0, within, k + i * shape->k_bytes, shape->k_bytes);
        kv_row(id, layer, 1, within, v + i * shape->v_bytes, shape->v_bytes);
      }
      for (size_t i = 0; i < count; i++) /* before it can become visible */
        mark(w, &p, first + (done + i) / block_tokens);
      int attempts = 0;
      do {
        rc = kvstow_seq_append(seq, layer, k, shape->v_bytes > 0 ? v : NULL, count);
        if (rc == KVSTOW_EFULL) kv_sleep_ms(2);
      } while (rc == KVSTOW_EFULL && ++attempts < 100);
      KV_CHECK(rc == 0 || rc == KVSTOW_EFULL || rc == KVSTOW_ENOMEM, "seq_append: %s",
               kvstow_errname(rc));
    }
    if (rc != 0) {
      p.arena->full++;
      break;
    }
    done += count;
    KV_CHECK(kvstow_seq_sealed_tokens(seq) == (first + done / block_tokens) * block_tokens,
             "%zu tokens sealed after %zu", kvstow_seq_sealed_tokens(seq), done);
  }
  kvstow_seq_close(seq);
}

/* Results a read may have while others forget: the block may be gone, never wrong. Leased blocks can't
 * be forgotten (EBUSY), so even that does not happen. */
static void check_read(int rc) {
  KV_CHECK(rc == 0, "read under a lease: %s", kvstow_errname(rc));
}

static void get(worker *w) {
  pick p;
  choose(w, &p);
  const kv_shape *shape = &shapes[p.space];
  const size_t asked = kv_between(&w->rng, 1, BLOCKS);
  kvstow_prefix prefix = prefix_of(&p, asked);
  kvstow_lease *lease;
  kvstow_held held = {0};
  int rc = kvstow_match(&prefix, kv_chance(&w->rng, 30) ? KVSTOW_NO_PROMOTE : 0, &lease, &held);
  if (rc == KVSTOW_EMISS) {
    p.arena->misses++;
    return;
  }
  KV_CHECK(rc == 0, "match: %s", kvstow_errname(rc));
  KV_CHECK(held.blocks > 0 && held.tokens == held.blocks * shape->block_tokens, "held: %zu tokens",
           held.tokens);
  KV_CHECK(held.blocks <= may_prefix(w, &p, asked),
           "%zu blocks of %s held in space %d, only %zu can exist", held.blocks, p.salt, p.space,
           may_prefix(w, &p, asked));
  p.arena->hits++;
  const uint32_t flags = kv_chance(&w->rng, 50) ? KVSTOW_BYPASS_RAM : 0;
  const size_t payload_bytes = kvstow_space_payload_bytes(p.arena->spaces[p.space]);
  const size_t plane_bytes = kvstow_space_plane_bytes(p.arena->spaces[p.space]);
  switch (kv_below(&w->rng, 4)) {
    case 0: {
      const size_t block = kv_below(&w->rng, held.blocks);
      const void *payload;
      size_t bytes;
      rc = kvstow_view(lease, block, 0, &payload, &bytes);
      if (rc == KVSTOW_EFULL) {
        p.arena->full++;
        break;
      }
      check_read(rc);
      KV_CHECK(kv_payload_is(p.ids[block], shape, plane_bytes, payload), "wrong bytes in a view");
      if (kv_chance(&w->rng, 50)) kvstow_unview(lease, block);
      break;
    }
    case 1:
      if (shape->layers > 0) {
        kvstow_range range = {(uint32_t)kv_below(&w->rng, shape->layers), 1,
                              kv_below(&w->rng, held.tokens), 1};
        range.token_count = kv_between(&w->rng, 1, held.tokens - range.token_first);
        range.layer_count = (uint32_t)kv_between(&w->rng, 1, shape->layers - range.layer_first);
        const size_t bytes = kv_read_bytes(shape, &range);
        struct iovec iov[6];
        int iovcnt = kv_cut(&w->rng, w->bytes, bytes, iov, 6);
        check_read(kvstow_read(lease, &range, iov, iovcnt, flags, 0));
        KV_CHECK(kv_read_is(p.ids, shape, &range, w->bytes), "wrong bytes: space %d doc %d %s",
                 p.space, p.doc, p.salt);
        break;
      }
      __attribute__((fallthrough));
    default: {
      const size_t first = kv_below(&w->rng, held.blocks);
      const size_t count = kv_between(&w->rng, 1, held.blocks - first);
      void *payloads[BLOCKS];
      size_t lengths[BLOCKS];
      for (size_t i = 0; i < count; i++) payloads[i] = w->bytes + i * payload_bytes;
      check_read(kvstow_read_blocks(lease, first, count, payloads, lengths, flags, 0));
      for (size_t i = 0; i < count; i++) {
        KV_CHECK(shape->layers > 0 || lengths[i] == kv_blob_bytes(p.ids[first + i], shape),
                 "blob of %zu bytes", lengths[i]);
        KV_CHECK(kv_payload_is(p.ids[first + i], shape, plane_bytes, payloads[i]),
                 "wrong bytes: space %d doc %d %s block %zu", p.space, p.doc, p.salt, first + i);
      }
    }
  }
  p.arena->reads++;
  kvstow_lease_release(lease);
}

/* One read of a decode, perhaps asynchronous, perhaps cancelled. KVSTOW_ECANCELED then. */
static int decode_read(worker *w, kvstow_lease *lease, const kvstow_range *range,
                       kvstow_queue *queue, uint32_t flags) {
  const struct iovec iov = {w->bytes, kv_read_bytes(&shapes[0], range)};
  if (queue == NULL) return kvstow_read(lease, range, &iov, 1, flags, 0);
  kvstow_op *op;
  kvstow_completion completion;
  KV_OK(kvstow_read_async(lease, range, &iov, 1, flags, 0, queue, w, &op));
  if (kv_chance(&w->rng, 5)) kvstow_cancel(op);
  while (kvstow_queue_poll(queue, &completion, 1, 1000) == 0) continue;
  KV_CHECK(completion.user == w, "another's completion");
  return completion.result;
}

/* A document read layer by layer, as decode steps do: the next layer is read ahead. */
static void decode(worker *w) {
  pick p;
  do {
    choose(w, &p);
  } while (p.space > 1);
  const kv_shape *shape = &shapes[0]; /* and [1] is the same */
  kvstow_prefix prefix = prefix_of(&p, BLOCKS);
  kvstow_lease *lease;
  kvstow_held held;
  if (kvstow_match(&prefix, KVSTOW_NO_PROMOTE, &lease, &held) != 0) {
    p.arena->misses++;
    return;
  }
  p.arena->hits++;
  kvstow_queue *queue = NULL;
  if (kv_chance(&w->rng, 50)) KV_OK(kvstow_queue_create(p.arena->store, &queue));
  const uint32_t flags = kv_chance(&w->rng, 70) ? KVSTOW_BYPASS_RAM : 0;
  const size_t reads = kv_between(&w->rng, 1, 4 * (size_t)shape->layers);
  for (size_t i = 0; i < reads; i++) {
    const kvstow_range range = {(uint32_t)(i % shape->layers), 1, 0, held.tokens};
    const int rc = decode_read(w, lease, &range, queue, flags);
    if (rc == KVSTOW_ECANCELED && queue != NULL) continue;
    check_read(rc);
    KV_CHECK(kv_read_is(p.ids, shape, &range, w->bytes), "wrong bytes: space %d doc %d %s layer %u",
             p.space, p.doc, p.salt, range.layer_first);
  }
  KV_OK(kvstow_queue_destroy(queue));
  p.arena->reads++;
  kvstow_lease_release(lease);
}

/* Predictors are switched off and on while others read. */
static void tune(worker *w) {
  kvstow *store = w->arenas[kv_below(&w->rng, (size_t)w->arenas_count)].store;
  kvstow_tuning tuning;
  kvstow_get_tuning(store, &tuning);
  tuning.enable_prefetch = kv_chance(&w->rng, 80);
  KV_OK(kvstow_set_tuning(store, &tuning));
}

static void forget(worker *w) {
  pick p;
  choose(w, &p);
  if (!p.own) {
    kvstow_prefix prefix = prefix_of(&p, BLOCKS);
    int rc = kvstow_forget(&prefix, kv_below(&w->rng, BLOCKS), NULL);
    KV_CHECK(rc == 0 || rc == KVSTOW_EBUSY, "forget: %s", kvstow_errname(rc));
    return;
  }
  /* all documents of the pair, from the root: nobody else uses this salt, so it must succeed */
  p.doc = p.doc / 2 * 2;
  size_t blocks;
  int rc = 0;
  for (int doc = p.doc; doc < OWN_DOCS && doc < p.doc + 2; doc++) {
    for (size_t i = 0; i < (size_t)BLOCKS * shapes[p.space].block_tokens; i++) {
      const int stem = i < (size_t)BLOCKS / 2 * shapes[p.space].block_tokens ? p.doc : doc;
      p.tokens[i] = kv_token((uint64_t)stem, i);
    }
    kvstow_prefix prefix = prefix_of(&p, BLOCKS);
    const double end = kv_now_s() + 30;
    do {
      rc = kvstow_forget(&prefix, 0, &blocks);
    } while (rc == KVSTOW_EBUSY && kv_now_s() < end);
    KV_CHECK(rc == 0, "forget: %s", kvstow_errname(rc));
    kvstow_held held;
    KV_OK(kvstow_exists(&prefix, &held));
    KV_CHECK(held.blocks == 0, "%zu blocks held after forget", held.blocks);
    memset(w->may[p.arena->number & 1][p.space][doc], 0, BLOCKS);
  }
  w->life[p.arena->number & 1][p.space][p.doc]++;
  p.arena->forgets++;
}

static void look(worker *w) {
  pick p;
  choose(w, &p);
  kvstow_prefix prefix = prefix_of(&p, BLOCKS);
  kvstow_held held;
  switch (kv_below(&w->rng, 5)) {
    case 0:
      (void)kvstow_prefetch(&prefix);
      break;
    case 1: {
      size_t blocks;
      prefix.tokens_count = 2 * shapes[p.space].block_tokens;
      if (kvstow_pin(&prefix, true, &blocks) == 0) kvstow_pin(&prefix, false, NULL);
      break;
    }
    case 2: {
      kvstow_stats s = kv_stats(p.arena->store);
      KV_CHECK(s.ram_used_bytes <= s.ram_budget_bytes && s.ram_budget_bytes <= p.arena->ram_bytes,
               "RAM: %" PRIu64 " of %" PRIu64, s.ram_used_bytes, s.ram_budget_bytes);
      KV_CHECK(s.corrupt_blocks == 0 && s.collisions == 0 && s.tier.io_errors == 0, "trouble");
      static _Thread_local char text[65536];
      kvstow_stats_json(p.arena->store, text, sizeof text);
      kvstow_message(p.arena->store, text, sizeof text);
      break;
    }
    default:
      KV_OK(kvstow_exists(&prefix, &held));
      KV_CHECK(held.blocks <= may_prefix(w, &p, BLOCKS), "%zu blocks of %s exist, %zu can",
               held.blocks, p.salt, may_prefix(w, &p, BLOCKS));
  }
}

static void *work(void *arg) {
  worker *w = arg;
  while (!atomic_load(&w->arenas[0].stop)) {
    const size_t roll = kv_below(&w->rng, 100);
    if (roll < 28)
      put(w);
    else if (roll < 36)
      put_in_place(w);
    else if (roll < 44)
      grow(w);
    else if (roll < 74)
      get(w);
    else if (roll < 82)
      decode(w);
    else if (roll < 96)
      look(w);
    else if (roll < 99)
      forget(w);
    else if (kv_chance(&w->rng, 10))
      (void)kvstow_flush(w->arenas[0].store);
    else if (kv_chance(&w->rng, 30))
      tune(w);
    w->arenas[0].operations++;
  }
  return NULL;
}

static void run(const char *name, int arenas_count, bool ssd, kvstow_write_mode mode,
                double seconds) {
  kv_rng rng = kv_seed(name, 1);
  static arena arenas[2];
  static worker workers[THREADS];
  memset(arenas, 0, sizeof arenas);
  memset(workers, 0, sizeof workers);
  const char *dirs[2] = {NULL, NULL};
  uint64_t ssd_bytes = 0;
  for (int i = 0; i < arenas_count; i++) {
    kvstow_options options;
    ssd_bytes = 8 * KV_MIB + 512 * KV_KIB;
    if (ssd) dirs[i] = kv_dir("threads");
    arenas[i].ram_bytes = 8 * KV_MIB;
    kv_options(&options, ssd ? &dirs[i] : NULL, arenas[i].ram_bytes, ssd_bytes, KV_MIB);
    options.write_mode = mode;
    options.store_timeout_ms = 500;
    if (i == 1) options.engine = KVSTOW_ENGINE_THREADS;
    arenas[i].number = (uint64_t)i;
    arenas[i].store = kv_open(&options);
    for (int space = 0; space < SPACES; space++)
      arenas[i].spaces[space] = kv_space(arenas[i].store, fingerprints[space], &shapes[space]);
  }
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++) {
    workers[i].arenas = arenas;
    workers[i].arenas_count = arenas_count;
    workers[i].number = i;
    workers[i].rng.state = kv_next(&rng);
    workers[i].bytes = kv_pages(BLOCKS * 160 * KV_KIB);
    assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
  }
  const double end = kv_now_s() + seconds;
  while (kv_now_s() < end) {
    kv_sleep_ms(50);
    for (int i = 0; i < arenas_count; i++)
      if (ssd && kv_dir_bytes(dirs[i]) > ssd_bytes) {
        atomic_store(&arenas[0].stop, true);
        for (int t = 0; t < THREADS; t++) pthread_join(threads[t], NULL);
        KV_FAIL("the directory outgrew %" PRIu64 " bytes", ssd_bytes);
      }
  }
  atomic_store(&arenas[0].stop, true);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < arenas_count; i++) {
    arena *a = &arenas[i];
    const kvstow_stats s = kv_stats(a->store);
    printf(
        "  store %d (%s): %zu operations, %zu hits, %zu misses, %zu reads, %zu full, %zu forgets; "
        "%" PRIu64 " demoted, %" PRIu64 " promoted, %" PRIu64 " segments reclaimed\n",
        i, s.tier.engine != NULL ? s.tier.engine : "no ssd",
        (size_t)atomic_load(&arenas[0].operations), (size_t)atomic_load(&a->hits),
        (size_t)atomic_load(&a->misses), (size_t)atomic_load(&a->reads),
        (size_t)atomic_load(&a->full), (size_t)atomic_load(&a->forgets), s.demoted_blocks,
        s.promoted_blocks, s.segments_reclaimed);
    KV_CHECK(s.leases == 0, "%" PRIu64 " leases left", s.leases);
    KV_CHECK(a->hits > 0 && a->reads > 0, "nothing was ever found");
    KV_CHECK(a->hits * 20 > a->hits + a->misses, "hardly anything was found");
    int rc = kvstow_close(a->store);
    KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "close: %s", kvstow_errname(rc));
  }
  /* and after a restart: nothing forgotten, nothing wrong */
  for (int i = 0; i < arenas_count && ssd; i++) {
    kvstow_options options;
    kv_options(&options, &dirs[i], arenas[i].ram_bytes, ssd_bytes, KV_MIB);
    arenas[i].store = kv_open(&options);
    for (int space = 0; space < SPACES; space++)
      arenas[i].spaces[space] = kv_space(arenas[i].store, fingerprints[space], &shapes[space]);
  }
  if (ssd) {
    for (int i = 0; i < THREADS; i++)
      for (int turn = 0; turn < 60; turn++) get(&workers[i]);
    for (int i = 0; i < arenas_count; i++) KV_OK(kvstow_close(arenas[i].store));
  }
  for (int i = 0; i < THREADS; i++) free(workers[i].bytes);
  for (int i = 0; i < arenas_count; i++)
    if (ssd) kv_dir_drop(dirs[i]);
}

static double seconds(double otherwise) {
  return (double)kv_env("KVSTOW_SECONDS", (uint64_t)otherwise);
}

static void eight_threads_on_one_store(void **state) {
  (void)state;
  run("eight_threads_on_one_store", 1, true, KVSTOW_WRITE_BACK, seconds(5));
}

static void eight_threads_writing_through(void **state) {
  (void)state;
  run("eight_threads_writing_through", 1, true, KVSTOW_WRITE_THROUGH, seconds(5));
}

static void eight_threads_on_two_stores(void **state) {
  (void)state;
  run("eight_threads_on_two_stores", 2, true, KVSTOW_WRITE_BACK, seconds(5));
}

static void eight_threads_in_ram_alone(void **state) {
  (void)state;
  run("eight_threads_in_ram_alone", 1, false, KVSTOW_WRITE_BACK, seconds(3));
}

/* Opening and closing stores in several threads at once: nothing is shared between handles. */
static void *open_and_close(void *arg) {
  const char *dir = arg;
  for (int turn = 0; turn < 4; turn++) {
    kvstow_options options;
    kv_options(&options, &dir, 8 * KV_MIB, 8 * KV_MIB + 512 * KV_KIB, KV_MIB);
    kvstow *store = kv_open(&options);
    kvstow_space *space = kv_space(store, "one", &shapes[0]);
    kv_doc d;
    kv_doc_init(&d, space, &shapes[0], (uint64_t)(uintptr_t)dir, 5, 8, NULL, 0);
    if (turn > 0) KV_CHECK(kv_doc_restore(&d, 0) == 8, "turn %d: not restored", turn);
    KV_OK(kv_doc_store(&d, 0, 8, 0));
    kv_doc_finish(&d);
    KV_OK(kvstow_close(store));
  }
  return NULL;
}

static void stores_open_and_close_side_by_side(void **state) {
  (void)state;
  pthread_t threads[4];
  const char *dirs[4];
  for (int i = 0; i < 4; i++) {
    dirs[i] = kv_dir("side");
    assert_int_equal(pthread_create(&threads[i], NULL, open_and_close, (void *)dirs[i]), 0);
  }
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < 4; i++) kv_dir_drop(dirs[i]);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(eight_threads_on_one_store),
    cmocka_unit_test(eight_threads_writing_through),
    cmocka_unit_test(eight_threads_on_two_stores),
    cmocka_unit_test(eight_threads_in_ram_alone),
    cmocka_unit_test(stores_open_and_close_side_by_side),
};

KV_MAIN("the model, with threads")
