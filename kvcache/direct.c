/* direct.c - reads past the pool: planes of blocks that stay on SSD, on their way to one reader.
 *
 * A window holds cells, one for each read in flight or arrived: the header page, and room for the planes
 * where they do not go straight into the caller's aligned buffers. The room is cut from frames of the
 * pool, so that it is within the RAM budget; only a pool that has none to give is helped out from
 * the heap, with a few cells. One thread at a time adds to a window and takes from it (its job);
 * completions come on the tier's thread, and touch only the cell and what window->lock guards.
 *
 * The device owns the buffers of a read in flight: a window whose cells have room of their own may be
 * dropped then, and is freed by its last completion; with the caller's buffers in it, the job waits.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "kvcache/store.h"
#include "tier/rooms.h"

#define PER_ROOM ((uint32_t)(KVSTOW__ROOM_BYTES / KVSTOW_PAGE_BYTES))
#define HEAP_BYTES ((size_t)8 << 20) /* of room, when the pool has none; two cells at least */
#define POOL_SHARE 8u                /* of RAM, what one window's room may take */

struct cell {
  kvstow_record_read read;
  struct kvs_window *window;
  size_t block;
  char *room; /* NULL: the caller's buffers only */
  uint8_t turn;
  bool ahead;  /* read ahead by the layer predictor, not wanted yet */
  bool here;   /* window->lock */
  bool waited; /* somebody came before it was here */
  uint32_t next_free;
};

struct kvs_window {
  kvstow *store;
  kvstow__mutex lock;
  pthread_cond_t arrived; /* the cell awaited is here, or nothing is in flight */
  uint32_t flying;        /* cells in flight; lock */
  const struct cell *awaited;
  bool orphan; /* dropped with reads in flight: the last one frees it; lock */
  bool asynchronous;

  size_t first, span; /* blocks it may hold */
  uint32_t *at[2];    /* by turn and block: its cell */
  uint32_t planes;    /* of a cell */
  bool foreign;       /* a cell has had the caller's buffer */
  struct cell *cells;
  uint32_t cells_count, free_count, free_head;
  uint32_t *frames;
  uint32_t frames_count, frame_bytes;
  char **headers, *heap; /* of cells whose room is not in frames; headers: PER_ROOM pages each */
  uint32_t headers_count;
};

#define NO_CELL UINT32_MAX

/* ---- life ----------------------------------------------------------------------------------- */

static void window_free(struct kvs_window *w) {
  kvstow *store = w->store;
  if (w->frames_count > 0) {
    kvs_lock(store);
    for (uint32_t i = 0; i < w->frames_count; i++)
      kvs_ram_give(store, w->frames[i], w->frame_bytes);
    pthread_cond_broadcast(&store->changed);
    kvstow__unlock(&store->lock);
  }
  kvstow__mutex_finish(&w->lock);
  pthread_cond_destroy(&w->arrived);
  free(w->at[0]);
  free(w->cells);
  free(w->frames);
  for (uint32_t i = 0; i < w->headers_count; i++)
    kvstow__rooms_give(kvstow__tier_rooms(store->tier), w->headers[i]);
  free(w->headers);
  free(w->heap);
  free(w);
}

static void add_cell(struct kvs_window *w, char *header, char *room) {
  struct cell *cell = &w->cells[w->cells_count];
  cell->window = w;
  cell->read.header = header;
  cell->room = room;
  cell->next_free = w->free_head;
  w->free_head = w->cells_count++;
  w->free_count++;
}

/* Store's lock. A frame holds as many cells as fit, each behind its header page; or one, of the frame's
 * own size, with the frame's own header page. */
static void cut_frames(struct kvs_window *w, uint32_t wanted, size_t cell_bytes) {
  kvstow *store = w->store;
  const size_t stride = cell_bytes + KVSTOW_PAGE_BYTES;
  const uint32_t per_frame = (uint32_t)(w->frame_bytes / stride);
  const uint64_t most = store->options.ram_bytes / POOL_SHARE;
  for (uint64_t taken = 0; w->cells_count < wanted; taken += w->frame_bytes) {
    if (taken > 0 && taken + w->frame_bytes > most) return;
    const uint32_t frame = kvs_ram_take(store, w->frame_bytes);
    if (frame == KVS_NO_FRAME) return;
    w->frames[w->frames_count++] = frame;
    char *payload = kvs_pool_payload(store->pool, frame);
    if (per_frame == 0) add_cell(w, kvs_pool_header(store->pool, frame), payload);
    for (uint32_t i = 0; i < per_frame && w->cells_count < wanted; i++)
      add_cell(w, payload + i * stride, payload + i * stride + KVSTOW_PAGE_BYTES);
  }
}

/* From the heap: rooms for header pages, and `cell_bytes` of room each, or none. */
static bool cut_heap(struct kvs_window *w, uint32_t wanted, size_t cell_bytes) {
  uint32_t count = wanted;
  if (cell_bytes > 0 && count > HEAP_BYTES / cell_bytes)
    count = (uint32_t)(HEAP_BYTES / cell_bytes);
  if (count < 2) count = 2;
  w->headers = malloc((count / PER_ROOM + 1) * sizeof *w->headers);
  if (cell_bytes > 0) w->heap = aligned_alloc(KVSTOW_PAGE_BYTES, count * cell_bytes);
  if (w->headers == NULL || (cell_bytes > 0 && w->heap == NULL)) return false;
  for (uint32_t i = 0; i < count; i++) {
    if (i % PER_ROOM == 0) {
      char *pages = kvstow__rooms_take(kvstow__tier_rooms(w->store->tier), KVSTOW__ROOM_BYTES);
      if (pages == NULL) return false;
      w->headers[w->headers_count++] = pages;
    }
    add_cell(w, w->headers[i / PER_ROOM] + (size_t)(i % PER_ROOM) * KVSTOW_PAGE_BYTES,
             cell_bytes == 0 ? NULL : w->heap + i * cell_bytes);
  }
  return true;
}

struct kvs_window *kvs_window_create(const struct kvstow_lease *lease, size_t first, size_t span,
                                     uint32_t planes, uint32_t cells, bool room, bool heap) {
  kvstow *store = lease->store;
  struct kvs_window *w = calloc(1, sizeof *w);
  if (w == NULL) return NULL;
  if (cells < 2) cells = 2;
  w->store = store;
  w->first = first;
  w->span = span;
  w->planes = planes;
  w->free_head = NO_CELL;
  w->frame_bytes = lease->space->padded_bytes;
  kvstow__mutex_init(&w->lock, KVS_RANK_WINDOW);
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&w->arrived, &monotonic);
  pthread_condattr_destroy(&monotonic);
  w->at[0] = malloc(2 * span * sizeof *w->at[0]);
  w->cells = calloc(cells, sizeof *w->cells);
  w->frames = room ? malloc(cells * sizeof *w->frames) : NULL;
  bool ok = w->at[0] != NULL && w->cells != NULL && (!room || w->frames != NULL);
  if (ok) {
    const size_t cell_bytes = room ? (size_t)planes * lease->space->plane_bytes : 0;
    w->at[1] = w->at[0] + span;
    for (size_t i = 0; i < 2 * span; i++) w->at[0][i] = NO_CELL;
    if (room) cut_frames(w, cells, cell_bytes);
    if (w->cells_count == 0) ok = heap && cut_heap(w, cells, cell_bytes);
  }
  if (ok) return w;
  w->frames_count = 0; /* as it was: a frame would have given cells */
  window_free(w);
  return NULL;
}

void kvs_window_withdraw(struct kvs_window *w) {
  for (uint32_t i = 0; i < w->cells_count; i++) {
    struct cell *cell = &w->cells[i];
    if (cell->read.done == NULL) continue;
    kvstow__lock(&w->lock);
    const bool here = cell->here;
    kvstow__unlock(&w->lock);
    if (!here) kvstow_tier_cancel(w->store->tier, &cell->read);
  }
}

uint32_t kvs_window_drop(struct kvs_window *w) {
  uint32_t unused = 0;
  for (uint32_t i = 0; i < w->cells_count; i++)
    unused += w->cells[i].read.done != NULL && w->cells[i].ahead;
  kvs_window_withdraw(w);
  kvstow__lock(&w->lock);
  w->orphan = w->flying > 0;
  const bool orphan = w->orphan;
  kvstow__unlock(&w->lock);
  if (!orphan) window_free(w);
  return unused;
}

/* ---- arriving ------------------------------------------------------------------------------- */

static void cell_arrived(kvstow_record_read *read) {
  struct cell *cell = read->arg;
  struct kvs_window *w = cell->window;
  kvstow *store = w->store;
  kvstow__lock(&w->lock);
  cell->here = true;
  const bool last = --w->flying == 0;
  const bool wake = last || w->awaited == cell;
  const bool orphan = w->orphan && last, asynchronous = w->asynchronous;
  if (wake) pthread_cond_broadcast(&w->arrived);
  kvstow__unlock(&w->lock);
  /* from here on the window is its job's, and may be gone */
  if (orphan) window_free(w);
  if (!wake || !asynchronous) return;
  kvs_lock(store);
  kvs_async_wake(store);
  kvstow__unlock(&store->lock);
}

void kvs_window_serves(struct kvs_window *w, bool asynchronous) {
  kvstow__lock(&w->lock);
  w->asynchronous = asynchronous;
  w->awaited = NULL;
  kvstow__unlock(&w->lock);
}

bool kvs_window_idle(struct kvs_window *w) {
  kvstow__lock(&w->lock);
  const bool idle = !w->foreign || w->flying == 0;
  kvstow__unlock(&w->lock);
  return idle;
}

static bool is_here(struct kvs_window *w, struct cell *cell) {
  kvstow__lock(&w->lock);
  const bool here = cell->here;
  w->awaited = here ? NULL : cell;
  kvstow__unlock(&w->lock);
  return here;
}

bool kvs_window_wait(struct kvs_window *w, uint64_t deadline_us) {
  bool in_time = true;
  kvstow__lock(&w->lock);
  while (in_time && w->flying > 0 && (w->awaited == NULL || !w->awaited->here))
    in_time = kvstow__wait_until(&w->arrived, &w->lock, deadline_us);
  kvstow__unlock(&w->lock);
  return in_time;
}

/* ---- cells ---------------------------------------------------------------------------------- */

static struct cell *find(const struct kvs_window *w, uint32_t turn, size_t block) {
  const uint32_t at = w->at[turn & 1][block - w->first];
  return at == NO_CELL ? NULL : &w->cells[at];
}

bool kvs_window_has(const struct kvs_window *w, uint32_t turn, size_t block) {
  return find(w, turn, block) != NULL;
}

bool kvs_window_roomy(const struct kvs_window *w) {
  return w->free_count >= w->cells_count / 4;
}

static void give_cell(struct kvs_window *w, struct cell *cell) {
  w->at[cell->turn][cell->block - w->first] = NO_CELL;
  cell->read.done = NULL;
  cell->next_free = w->free_head;
  w->free_head = (uint32_t)(cell - w->cells);
  w->free_count++;
}

bool kvs_window_add(struct kvs_window *w, const struct kvs_window_read *r,
                    struct kvs_reads *reads) {
  if (w->free_count == 0 || (w->free_count == 1 && !r->urgent) || reads->count == KVS_LOADS_A_CALL)
    return false;
  const struct kvs_entry *entry = kvs_entry(&w->store->index, r->lease->block[r->block].id);
  struct cell *cell = &w->cells[w->free_head];
  const uint32_t plane_bytes = entry->padded_bytes / r->lease->space->planes;
  w->at[r->turn & 1][r->block - w->first] = w->free_head;
  w->free_head = cell->next_free;
  w->free_count--;
  w->foreign |= r->to != NULL;
  cell->block = r->block;
  cell->turn = r->turn & 1;
  cell->ahead = r->ahead;
  cell->waited = false;
  cell->here = false; /* the device has not heard of it: nobody else looks */
  cell->read = (kvstow_record_read){.key = entry->key,
                                    .loc = entry->loc,
                                    .plane_bytes = plane_bytes,
                                    .plane_first = r->plane_first,
                                    .plane_count = w->planes,
                                    .header = cell->read.header,
                                    .payload = r->to != NULL ? r->to : cell->room,
                                    .priority = r->ahead ? KVSTOW_PREFETCH : KVSTOW_DEMAND,
                                    .done = cell_arrived,
                                    .arg = cell};
  kvstow__lock(&w->lock);
  w->flying++;
  kvstow__unlock(&w->lock);
  reads->list[reads->count++] = &cell->read;
  return true;
}

/* ---- delivering ----------------------------------------------------------------------------- */

/* 0, or what is wrong with it; KVSTOW_EAGAIN: the block has moved since, to RAM or elsewhere on SSD, or
 * is being loaded: what came of this read says nothing of it. */
static int check(kvstow_lease *lease, struct cell *cell) {
  kvstow *store = lease->store;
  const size_t block = cell->block;
  const uint32_t id = lease->block[block].id;
  int rc = cell->read.result;
  const bool same = rc != 0 || lease->kept == NULL || /* NULL: all were compared by the match */
                    kvs_lease_tokens_equal(lease, block, cell->read.header);
  kvs_lock(store);
  const uint16_t flags = kvs_entry(&store->index, id)->flags;
  if ((flags & KVS_UNLINKED) != 0) rc = KVSTOW_EMISS;
  if (rc == 0) rc = kvs_load_check(store, id, cell->read.header);
  if (rc != 0 && (flags & KVS_UNLINKED) == 0 &&
      ((flags & KVS_LOADING) != 0 || !kvs_ssd_is_at(store, id, cell->read.loc))) {
    rc = KVSTOW_EAGAIN;
  } else if (rc != 0 && (flags & KVS_UNLINKED) == 0) {
    kvs_load_failed(store, id, rc);
  } else if (rc == 0 && !same) {
    store->count.collisions++;
    rc = KVSTOW_EMISS;
  }
  if (rc != 0 && rc != KVSTOW_EAGAIN) kvs_lease_bad(lease, block);
  if (cell->ahead) {
    store->count.layer.used += rc == 0;
    store->count.layer.late += rc == 0 && cell->waited;
    store->count.layer.wasted += rc != 0;
  }
  kvstow__unlock(&store->lock);
  return rc;
}

int kvs_window_deliver(struct kvs_window *w, struct kvs_read_job *job) {
  struct cell *cell = find(w, job->turn, job->next);
  if (!is_here(w, cell)) {
    if (cell->ahead && !cell->waited) kvstow_tier_urge(w->store->tier, &cell->read);
    cell->waited = true;
    return KVSTOW_EAGAIN;
  }
  const int rc = check(job->lease, cell);
  if (rc == 0) {
    const kvstow_record_read *read = &cell->read;
    kvs_read_job_deliver(job, cell->block, read->payload, read->plane_first, read->plane_count);
    if (job->bytes != NULL) {
      kvstow_block_info info;
      (void)kvstow_block_describe(read->header, &info); /* checked */
      job->bytes[cell->block - job->first] = info.payload_bytes;
    }
    job->next++;
  } else if (rc == KVSTOW_EAGAIN) {
    job->ahead = job->next; /* to be found again */
  }
  give_cell(w, cell);
  return rc == KVSTOW_EAGAIN ? 0 : rc;
}
