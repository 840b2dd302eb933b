/* flights.c - see world.h: asynchronous calls, several under way at once, some cancelled.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/world.h"

static const uint32_t FOREVER_MS = 4000000; /* longer than anything that is bounded */

bool flights_on(const user *u, int slot) {
  for (int i = 0; i < FLIGHTS; i++)
    if (u->flights[i].kind != FLIGHT_NONE && (slot < 0 || u->flights[i].slot == slot)) return true;
  return false;
}

/* ---- beginning ------------------------------------------------------------------------------ */

static int begin_store(user *u, kv_rng *rng, flight *f) {
  path_make(&f->path, u->owner, (int)kv_below(rng, NODES));
  f->first = kv_chance(rng, 80) ? 0 : kv_below(rng, f->path.blocks);
  f->count = kv_between(rng, 1, f->path.blocks - f->first);
  f->memory = blocks_make(&f->path, f->first, f->count, rng, f->iov, f->sources);
  f->timeout_ms = FOREVER_MS; /* it waits for its turn */
  mark_begun(&f->path, f->first, f->count);
  return kvstow_store_async(&f->path.prefix, f->first, f->count, f->sources, u->queue, f, &f->op);
}

static int begin_read(user *u, kv_rng *rng, flight *f, uint32_t flags, uint32_t timeout) {
  const kv_shape *shape = shape_of(u->owner);
  draw_range(rng, shape, u->held[f->slot], &f->range);
  const size_t bytes = kv_read_bytes(shape, &f->range);
  f->memory = kv_pages(bytes);
  f->iov[0] = (struct iovec){f->memory, bytes};
  return kvstow_read_async(u->leases[f->slot], &f->range, f->iov, 1, flags, timeout, u->queue, f,
                           &f->op);
}

static int begin_blocks(user *u, kv_rng *rng, flight *f, uint32_t flags, uint32_t timeout) {
  f->first = kv_below(rng, u->held[f->slot]);
  f->count = kv_between(rng, 1, u->held[f->slot] - f->first);
  const size_t each = kvstow_space_payload_bytes(spaces[space_of(u->owner)]);
  f->memory = kv_pages(each * f->count);
  for (size_t b = 0; b < f->count; b++) f->payloads[b] = f->memory + b * each;
  return kvstow_read_blocks_async(u->leases[f->slot], f->first, f->count, f->payloads, f->bytes,
                                  flags, timeout, u->queue, f, &f->op);
}

static int begin_on_lease(user *u, kv_rng *rng, flight *f) {
  const uint32_t flags = kv_chance(rng, 40) ? KVSTOW_BYPASS_RAM : 0;
  const uint32_t timeout = kv_chance(rng, 20) ? 5 : 0;
  f->timeout_ms = timeout ? timeout : load_timeout_ms;
  path_make(&f->path, u->owner, u->leased[f->slot]);
  switch (f->kind) {
    case FLIGHT_READ:
      return begin_read(u, rng, f, flags, timeout);
    case FLIGHT_BLOCKS:
      return begin_blocks(u, rng, f, flags, timeout);
    default:
      return kvstow_lease_wait_async(u->leases[f->slot], timeout, u->queue, f, &f->op);
  }
}

static flight_kind draw_kind(const user *u, kv_rng *rng, int slot) {
  const size_t what = kv_below(rng, 100);
  if (what < 40) return FLIGHT_STORE;
  if (what < 45) return FLIGHT_FLUSH;
  if (!u->leases[slot] || u->held[slot] == 0) return FLIGHT_NONE;
  if (what < 50) return FLIGHT_WAIT;
  return what < 75 && shape_of(u->owner)->layers > 0 ? FLIGHT_READ : FLIGHT_BLOCKS;
}

void flight_begin(user *u, kv_rng *rng) {
  flight *f = NULL;
  for (int i = 0; i < FLIGHTS && !f; i++)
    if (u->flights[i].kind == FLIGHT_NONE) f = &u->flights[i];
  if (!f) {
    flights_poll(u, 10);
    return;
  }
  const int slot = (int)kv_below(rng, LEASES);
  *f = (flight){.kind = draw_kind(u, rng, slot), .slot = -1, .began_ns = sim_now_ns()};
  int code;
  if (f->kind == FLIGHT_NONE) return;
  if (f->kind == FLIGHT_STORE) {
    code = begin_store(u, rng, f);
  } else if (f->kind == FLIGHT_FLUSH) {
    flush_begin(&f->flushing);
    f->timeout_ms = FOREVER_MS;
    code = kvstow_flush_async(store, u->queue, f, &f->op);
  } else {
    f->slot = slot;
    code = begin_on_lease(u, rng, f);
  }
  call_ended(CALL_SMALL, f->began_ns, 0, false);
  CHECK(code == 0, "beginning an asynchronous call: %s", kvstow_errname(code));
}

void flight_cancel(user *u, kv_rng *rng) {
  flight *f = &u->flights[kv_below(rng, FLIGHTS)];
  if (f->kind == FLIGHT_NONE) return;
  const uint64_t began = sim_now_ns();
  kvstow_cancel(f->op);
  call_ended(CALL_SMALL, began, 0, false);
  f->cancelled = true;
}

/* ---- ending --------------------------------------------------------------------------------- */

static void landed(user *u, flight *f, int code) {
  trace(u->number, "asynchronous %d of node %d: %s", (int)f->kind,
        f->kind == FLIGHT_FLUSH ? -1 : f->path.nodes[f->path.blocks - 1], kvstow_errname(code));
  check_result("an asynchronous call", code);
  CHECK(code != KVSTOW_ECANCELED || f->cancelled, "ECANCELED, but nobody cancelled");
  if (f->kind == FLIGHT_STORE && code == 0) mark_settled(&f->path, f->first, f->count);
  if (f->kind == FLIGHT_BLOCKS && code == 0)
    check_blocks(&f->path, f->first, f->count, f->payloads, f->bytes);
  if (f->kind == FLIGHT_READ && code == 0)
    CHECK(kv_read_is(f->path.ids, shape_of(u->owner), &f->range, f->memory),
          "WRONG BYTES in an asynchronous read of node %d", u->leased[f->slot]);
  if (f->kind == FLIGHT_FLUSH && code != KVSTOW_ECANCELED) flush_end(&f->flushing, code);
  if (f->slot >= 0) after_read(u, f->slot, code, f->cancelled || f->timeout_ms < 1000);
  free(f->memory);
  f->memory = NULL;
  f->kind = FLIGHT_NONE;
}

void flights_poll(user *u, uint32_t timeout_ms) {
  kvstow_completion done[FLIGHTS];
  const uint64_t began = sim_now_ns();
  const int count = kvstow_queue_poll(u->queue, done, FLIGHTS, timeout_ms);
  call_ended(CALL_QUEUE, began, timeout_ms, false);
  for (int i = 0; i < count; i++) landed(u, done[i].user, done[i].result);
}

void flights_drain(user *u, int slot) {
  const uint64_t began = sim_now_ns();
  uint32_t longest_ms = healthy() ? 0 : load_timeout_ms;
  for (int i = 0; i < FLIGHTS; i++)
    if (u->flights[i].slot < 0 && u->flights[i].kind != FLIGHT_NONE) longest_ms = FOREVER_MS;
  while (flights_on(u, slot)) {
    flights_poll(u, 1000);
    call_ended(CALL_FLIGHT, began, longest_ms, true);
  }
}
