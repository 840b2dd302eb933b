/* users.c - see world.h: what users of the cache do, call by call; every byte that comes back is
 * compared.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/world.h"

static void draw_path(const user *u, kv_rng *rng, path *p) {
  path_make(p, u->owner, (int)kv_below(rng, NODES));
}

/* ---- bytes ---------------------------------------------------------------------------------- */

/* A blob stored again may be longer or shorter: each is the front of the same bytes. */
#define EDITIONS 3u

static size_t draw_bytes(kv_rng *rng, uint64_t id, const kv_shape *shape) {
  return shape->layers > 0 ? kv_block_bytes(id, shape)
                           : kv_blob_bytes(id + kv_below(rng, EDITIONS), shape);
}

static bool blob_as_stored(uint64_t id, const kv_shape *shape, const void *blob, size_t bytes) {
  bool stored = false;
  for (unsigned e = 0; e < EDITIONS; e++) stored |= bytes == kv_blob_bytes(id + e, shape);
  return stored && kv_blob_is(id, blob, bytes);
}

char *blocks_make(const path *p, size_t first, size_t count, kv_rng *rng, struct iovec *iov,
                  kvstow_source *sources) {
  const kv_shape *shape = shape_of(p->owner);
  size_t bytes = 0;
  for (size_t b = 0; b < count; b++) {
    iov[b].iov_len = draw_bytes(rng, p->ids[first + b], shape);
    bytes += iov[b].iov_len;
  }
  char *memory = kv_pages(bytes), *at = memory;
  for (size_t b = 0; b < count; b++) {
    const uint64_t id = p->ids[first + b];
    iov[b].iov_base = at;
    if (shape->layers == 0)
      kv_blob(id, at, iov[b].iov_len);
    else
      kv_fill_block(id, shape, at);
    sources[b] = (kvstow_source){&iov[b], 1};
    at += iov[b].iov_len;
  }
  return memory;
}

void check_blocks(const path *p, size_t first, size_t count, void *const *payloads,
                  const size_t *bytes) {
  const kv_shape *shape = shape_of(p->owner);
  const uint32_t plane_bytes = kvstow_space_plane_bytes(spaces[space_of(p->owner)]);
  for (size_t b = 0; b < count; b++) {
    const uint64_t id = p->ids[first + b];
    const bool right = shape->layers == 0 ? blob_as_stored(id, shape, payloads[b], bytes[b])
                                          : kv_payload_is(id, shape, plane_bytes, payloads[b]);
    CHECK(right, "WRONG BYTES: owner %u node %d", p->owner, p->nodes[first + b]);
  }
  m->bytes_compared += count * kvstow_space_payload_bytes(spaces[space_of(p->owner)]);
}

void draw_range(kv_rng *rng, const kv_shape *shape, size_t blocks, kvstow_range *range) {
  range->layer_first = (uint32_t)kv_below(rng, shape->layers);
  range->layer_count = (uint32_t)kv_between(rng, 1, shape->layers - range->layer_first);
  const size_t tokens = blocks * shape->block_tokens;
  range->token_first = kv_below(rng, tokens);
  range->token_count = kv_between(rng, 1, tokens - range->token_first);
}

/* ---- storing -------------------------------------------------------------------------------- */

static void do_store(user *u, kv_rng *rng) {
  path p;
  draw_path(u, rng, &p);
  const size_t first = kv_chance(rng, 80) ? 0 : kv_below(rng, p.blocks);
  const size_t count = kv_between(rng, 1, p.blocks - first);
  struct iovec iov[DEPTH_MAX];
  kvstow_source sources[DEPTH_MAX];
  char *memory = blocks_make(&p, first, count, rng, iov, sources);
  const bool wait = kv_chance(rng, 80);
  mark_begun(&p, first, count);
  size_t stored = 0;
  const uint64_t began = sim_now_ns();
  const int code =
      kvstow_store(&p.prefix, first, count, sources, wait ? 0 : KVSTOW_NOWAIT, &stored);
  call_ended(CALL_STORE, began, wait ? store_timeout_ms : 0, false);
  trace(u->number, "store node %d blocks %zu+%zu: %s, %zu", p.nodes[p.blocks - 1], first, count,
        kvstow_errname(code), stored);
  check_result("store", code);
  mark_settled(&p, first, stored);
  free(memory);
}

/* opaque_bytes: of a blob, else 0. */
static void fill_slots(const path *p, const kvstow_slot *slots, size_t count, size_t opaque_bytes) {
  const uint32_t plane_bytes = kvstow_space_plane_bytes(spaces[space_of(p->owner)]);
  for (size_t b = 0; b < count; b++)
    if (slots[b].payload && opaque_bytes > 0)
      kv_blob(p->ids[b], slots[b].payload, opaque_bytes);
    else if (slots[b].payload)
      kv_fill_payload(p->ids[b], shape_of(p->owner), plane_bytes, slots[b].payload);
}

static void do_reserve(user *u, kv_rng *rng) {
  path p;
  draw_path(u, rng, &p);
  const kv_shape *shape = shape_of(u->owner);
  const bool opaque = shape->layers == 0; /* one length for all: that of the first */
  const size_t count = opaque ? 1 : kv_between(rng, 1, p.blocks);
  const size_t opaque_bytes = opaque ? draw_bytes(rng, p.ids[0], shape) : 0;
  kvstow_slot slots[DEPTH_MAX];
  uint64_t began = sim_now_ns();
  const bool wait = kv_chance(rng, 80);
  int code = kvstow_reserve(&p.prefix, 0, count, opaque_bytes, wait ? 0 : KVSTOW_NOWAIT, slots);
  call_ended(CALL_STORE, began, wait ? store_timeout_ms : 0, false);
  check_result("reserve", code);
  if (code != 0) return;
  fill_slots(&p, slots, count, opaque_bytes);
  if (kv_chance(rng, 30)) sim_nanosleep(&(struct timespec){0, 3000000}, NULL);
  const bool commit = kv_chance(rng, 80);
  if (commit) {
    mark_begun(&p, 0, count);
    began = sim_now_ns();
    code = kvstow_commit(store, slots, count);
    call_ended(CALL_APPEND, began, 0, false);
    check_result("commit", code);
    if (code == 0) mark_settled(&p, 0, count);
  } else {
    kvstow_abort(store, slots, count);
  }
  trace(u->number, "reserve node %d blocks %zu, %s: %s", p.nodes[p.blocks - 1], count,
        commit ? "commit" : "abort", kvstow_errname(code));
}

/* Appends some rows of some layer; false when all that was named is there. */
static bool append_some(kvstow_seq *seq, kv_rng *rng, const path *p, size_t after, size_t named,
                        size_t at[], int *code) {
  const kv_shape *shape = shape_of(p->owner);
  const uint32_t layer = (uint32_t)kv_below(rng, shape->layers);
  size_t least = named;
  for (uint32_t l = 0; l < shape->layers; l++) least = at[l] < least ? at[l] : least;
  if (least == named) return false;
  const size_t within = at[layer] % shape->block_tokens;
  size_t count = kv_between(rng, 1, shape->block_tokens - within);
  if (count > named - at[layer]) count = named - at[layer];
  if (count == 0) return true;
  const uint64_t id = p->ids[after + at[layer] / shape->block_tokens];
  char *k = kv_pages(count * shape->k_bytes), *v = kv_pages(count * shape->v_bytes);
  kv_rows(id, layer, 0, within, count, k, shape->k_bytes);
  kv_rows(id, layer, 1, within, count, v, shape->v_bytes);
  const uint64_t began = sim_now_ns();
  *code = kvstow_seq_append(seq, layer, k, shape->v_bytes ? v : NULL, count);
  call_ended(CALL_APPEND, began, store_timeout_ms, false);
  check_result("seq_append", *code);
  if (*code == 0) at[layer] += count;
  free(k);
  free(v);
  return *code == 0;
}

static void do_sequence(user *u, kv_rng *rng) {
  const kv_shape *shape = shape_of(u->owner);
  if (shape->layers == 0) return;
  path p;
  draw_path(u, rng, &p);
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
  mark_begun(&p, after, p.blocks - after);
  size_t at[LAYERS_MAX] = {0};
  while (append_some(seq, rng, &p, after, named, at, &code)) {
  }
  const size_t sealed = kvstow_seq_sealed_tokens(seq) / shape->block_tokens;
  CHECK(sealed >= after && sealed <= p.blocks, "sealed %zu of %zu", sealed, p.blocks);
  mark_settled(&p, after, sealed - after);
  kvstow_seq_close(seq);
  trace(u->number, "sequence node %d from block %zu: sealed %zu: %s", p.nodes[p.blocks - 1], after,
        sealed, kvstow_errname(code));
}

/* ---- leases --------------------------------------------------------------------------------- */

static void check_view(const user *u, int slot) {
  if (!u->view[slot]) return;
  path p;
  path_make(&p, u->owner, u->leased[slot]);
  void *payloads[] = {(void *)(uintptr_t)u->view[slot]};
  check_blocks(&p, u->viewed[slot], 1, payloads, &u->view_bytes[slot]);
}

static void release(user *u, int slot) {
  flights_drain(u, slot);
  check_view(u, slot);
  u->view[slot] = NULL;
  const uint64_t began = sim_now_ns();
  kvstow_lease_release(u->leases[slot]);
  call_ended(CALL_SMALL, began, 0, false);
  u->leases[slot] = NULL;
}

static void do_match(user *u, kv_rng *rng, int slot) {
  release(u, slot);
  path p;
  u->leased[slot] = (int)kv_below(rng, NODES);
  path_make(&p, u->owner, u->leased[slot]);
  kvstow_held held = {0};
  uint64_t began = sim_now_ns();
  const int code =
      kvstow_match(&p.prefix, kv_chance(rng, 30) ? KVSTOW_NO_PROMOTE : 0, &u->leases[slot], &held);
  call_ended(CALL_MATCH, began, 0, false);
  u->held[slot] = held.blocks;
  trace(u->number, "match node %d: %s, %zu (%zu on SSD)", u->leased[slot], kvstow_errname(code),
        held.blocks, held.ssd_blocks);
  check_result("match", code);
  CHECK((code == 0) == (u->leases[slot] != NULL), "match: %s, but lease %p", kvstow_errname(code),
        (void *)u->leases[slot]);
  check_held(&p, held.blocks, "match");
  if (code != 0 || !kv_chance(rng, 30)) return;
  const uint32_t timeout = kv_chance(rng, 30) ? 3 : 0;
  began = sim_now_ns();
  const int waited = kvstow_lease_wait(u->leases[slot], timeout, &held);
  call_ended(CALL_READ, began, timeout ? timeout : load_timeout_ms, false);
  check_result("lease_wait", waited);
  check_held(&p, held.blocks, "lease_wait");
  if (waited == 0) u->held[slot] = held.blocks;
}

void after_read(user *u, int slot, int code, bool may_time_out) {
  path p;
  path_make(&p, u->owner, u->leased[slot]);
  check_result("read", code);
  /* After a loss of power, what was not flushed may be there in part. */
  const bool whole = m->crashes == 0 || all_settled(&p, u->held[slot]);
  CHECK(code == 0 || !healthy() || !whole || may_time_out || code == KVSTOW_EFULL,
        "a read failed on a healthy disk: %s", kvstow_errname(code));
  if (code == 0) return;
  const size_t held = kvstow_lease_tokens(u->leases[slot]) / shape_of(u->owner)->block_tokens;
  if (held < u->held[slot]) u->held[slot] = held;
}

static int read_range(const user *u, kv_rng *rng, int slot, const path *p, uint32_t flags,
                      uint32_t timeout) {
  const kv_shape *shape = shape_of(u->owner);
  kvstow_range range;
  draw_range(rng, shape, u->held[slot], &range);
  kv_scatter to;
  kv_scatter_init(&to, rng, kv_read_bytes(shape, &range));
  const int code = kvstow_read(u->leases[slot], &range, to.iov, to.iovcnt, flags, timeout);
  char *memory = malloc(to.bytes + 1);
  CHECK(kv_scatter_gather(&to, memory), "WRONG BYTES: a read wrote beside its destination");
  CHECK(code != 0 || kv_read_is(p->ids, shape, &range, memory), "WRONG BYTES in a read of node %d",
        u->leased[slot]);
  m->bytes_compared += code == 0 ? to.bytes : 0;
  free(memory);
  kv_scatter_finish(&to);
  return code;
}

static int read_blocks(const user *u, kv_rng *rng, int slot, const path *p, uint32_t flags,
                       uint32_t timeout) {
  const size_t first = kv_below(rng, u->held[slot]);
  const size_t count = kv_between(rng, 1, u->held[slot] - first);
  const size_t each = kvstow_space_payload_bytes(spaces[space_of(u->owner)]);
  const size_t shift = kv_chance(rng, 20) ? 512 : 0; /* not aligned: copied */
  char *memory = kv_pages(each * count + shift);
  void *payloads[DEPTH_MAX];
  size_t bytes[DEPTH_MAX];
  for (size_t b = 0; b < count; b++) payloads[b] = memory + shift + b * each;
  const int code =
      kvstow_read_blocks(u->leases[slot], first, count, payloads, bytes, flags, timeout);
  if (code == 0) check_blocks(p, first, count, payloads, bytes);
  free(memory);
  return code;
}

/* Views a block, or looks again at one that is viewed: it stays where it is. */
static int view_block(user *u, kv_rng *rng, int slot, uint32_t timeout) {
  if (u->view[slot]) {
    check_view(u, slot);
    if (kv_chance(rng, 50)) return 0;
    kvstow_unview(u->leases[slot], u->viewed[slot]);
    u->view[slot] = NULL;
    return 0;
  }
  u->viewed[slot] = kv_below(rng, u->held[slot]);
  const int code =
      kvstow_view(u->leases[slot], u->viewed[slot], timeout, &u->view[slot], &u->view_bytes[slot]);
  if (code != 0) u->view[slot] = NULL;
  check_view(u, slot);
  return code;
}

static void do_read(user *u, kv_rng *rng, int slot) {
  if (!u->leases[slot] || u->held[slot] == 0 || flights_on(u, slot)) return;
  path p;
  path_make(&p, u->owner, u->leased[slot]);
  const uint32_t flags = kv_chance(rng, 40) ? KVSTOW_BYPASS_RAM : 0;
  const uint32_t timeout = kv_chance(rng, 20) ? 5 : 0;
  const bool rows = shape_of(u->owner)->layers > 0;
  const uint64_t began = sim_now_ns();
  int code;
  if (rows && kv_chance(rng, 40))
    code = read_range(u, rng, slot, &p, flags, timeout);
  else if (kv_chance(rng, 70))
    code = read_blocks(u, rng, slot, &p, flags, timeout);
  else
    code = view_block(u, rng, slot, timeout);
  /* the device owns the caller's buffers until it gives them back */
  call_ended(CALL_READ, began, timeout ? timeout : load_timeout_ms, true);
  char why[KVSTOW_MESSAGE_BYTES] = "";
  if (code != 0) kvstow_message(store, why, sizeof why);
  trace(u->number, "read of node %d: %s %s", u->leased[slot], kvstow_errname(code), why);
  after_read(u, slot, code, timeout != 0 || load_timeout_ms < 1000);
}

/* ---- forgetting, flushing ------------------------------------------------------------------- */

static void do_forget(user *u, kv_rng *rng) {
  flights_drain(u, -1); /* what is stored behind it would come back */
  path p;
  draw_path(u, rng, &p);
  const size_t first = kv_below(rng, p.blocks), what = kv_below(rng, 100);
  const forgetting f = {
      .owner = u->owner, .top = what < 20 ? -1 : p.nodes[first], .whole_space = what < 5};
  forget_begin(&f);
  size_t blocks = 0;
  const uint64_t began = sim_now_ns();
  const int code =
      f.whole_space ? kvstow_forget_space(p.prefix.space, &blocks)
      : f.top < 0 ? kvstow_forget_salt(p.prefix.space, p.prefix.salt, p.prefix.salt_bytes, &blocks)
                  : kvstow_forget(&p.prefix, first, &blocks);
  call_ended(CALL_FORGET, began, 0, true);
  trace(u->number, "forget %s, node %d from block %zu: %s, %zu",
        f.whole_space ? "space"
        : f.top < 0   ? "salt"
                      : "prefix",
        p.nodes[p.blocks - 1], first, kvstow_errname(code), blocks);
  check_result("forget", code);
  forget_end(&f, code);
}

static void do_flush(user *u) {
  flushing f;
  flush_begin(&f);
  const uint64_t began = sim_now_ns();
  const int code = kvstow_flush(store);
  call_ended(CALL_FLUSH, began, 0, true);
  trace(u->number, "flush: %s", kvstow_errname(code));
  check_result("flush", code);
  flush_end(&f, code);
}

/* ---- small things --------------------------------------------------------------------------- */

static void check_stats(void) {
  kvstow_stats stats = kv_stats(store);
  CHECK(stats.ram_used_bytes <= stats.ram_budget_bytes,
        "over budget: RAM holds %" PRIu64 " bytes of %" PRIu64, stats.ram_used_bytes,
        stats.ram_budget_bytes);
  CHECK(stats.tier.disk_bytes <= stats.tier.budget_bytes,
        "over budget: the tier counts %" PRIu64 " bytes of %" PRIu64, stats.tier.disk_bytes,
        stats.tier.budget_bytes);
  CHECK(the_plan.lies || m->crashes > 0 || stats.corrupt_blocks == 0,
        "%" PRIu64 " corrupt blocks on disks that do not lie", stats.corrupt_blocks);
}

static void set_tuning(kv_rng *rng) {
  kvstow_tuning tuning;
  kvstow_tuning_init(&tuning);
  tuning.enable_prefetch = kv_chance(rng, 50);
  tuning.enable_io_scheduling = kv_chance(rng, 50);
  tuning.merge_distance = (uint32_t)kv_below(rng, 300000);
  tuning.optimal_block_size = (uint32_t)4096 << kv_below(rng, 8);
  const int code = kvstow_set_tuning(store, &tuning);
  CHECK(code == 0, "set_tuning: %s", kvstow_errname(code));
}

static void do_small(user *u, kv_rng *rng) {
  path p;
  draw_path(u, rng, &p);
  kvstow_held held = {0};
  char text[16384];
  const size_t what = kv_below(rng, 9);
  const uint64_t began = sim_now_ns();
  switch (what) {
    case 0:
    case 1:
      check_result("exists", kvstow_exists(&p.prefix, &held));
      check_held(&p, held.blocks, "exists");
      break;
    case 2:
      check_result("prefetch", kvstow_prefetch(&p.prefix));
      break;
    case 3:
      check_result("pin", kvstow_pin(&p.prefix, kv_chance(rng, 60), NULL));
      break;
    case 4:
      set_tuning(rng);
      break;
    case 5:
      (void)kvstow_stats_json(store, text, sizeof text);
      break;
    case 6:
      check_stats();
      break;
    case 7:
      sim_nanosleep(&(struct timespec){0, (long)kv_below(rng, 20000000)}, NULL);
      return;
    default: /* the day would change */
      if (!the_plan.write_bytes_a_day) sim_clock_jump((int64_t)kv_below(rng, 200000) - 100000);
  }
  call_ended(what < 4 ? CALL_MATCH : CALL_SMALL, began, 0, false);
}

/* ---- a user --------------------------------------------------------------------------------- */

void user_do(user *u, kv_rng *rng) {
  const size_t what = kv_below(rng, 100);
  const int slot = (int)kv_below(rng, LEASES);
  if (what < 17)
    do_store(u, rng);
  else if (what < 22)
    do_reserve(u, rng);
  else if (what < 28)
    do_sequence(u, rng);
  else if (what < 45)
    do_match(u, rng, slot);
  else if (what < 63)
    do_read(u, rng, slot);
  else if (what < 66)
    release(u, slot);
  else if (what < 78)
    flight_begin(u, rng);
  else if (what < 83)
    flights_poll(u, kv_chance(rng, 50) ? 0 : 10);
  else if (what < 85)
    flight_cancel(u, rng);
  else if (what < (the_plan.ample ? 86 : 88))
    do_forget(u, rng);
  else if (what < 91)
    do_flush(u);
  else
    do_small(u, rng);
}

void user_begin(user *u, unsigned number) {
  memset(u, 0, sizeof *u);
  u->number = number;
  u->owner = the_plan.owner[number];
  const int code = kvstow_queue_create(store, &u->queue);
  CHECK(code == 0, "queue_create: %s", kvstow_errname(code));
}

void user_end(user *u) {
  if (flights_on(u, -1)) {
    const int busy = kvstow_queue_destroy(u->queue);
    CHECK(busy == KVSTOW_EBUSY, "queue_destroy with calls under way: %s", kvstow_errname(busy));
  }
  flights_drain(u, -1);
  for (int i = 0; i < LEASES; i++) release(u, i);
  const int code = kvstow_queue_destroy(u->queue);
  CHECK(code == 0, "queue_destroy: %s", kvstow_errname(code));
}
