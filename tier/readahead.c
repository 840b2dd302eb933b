/* tier/readahead.c - see readahead.h.
 *
 * One lock guards streams, blocks and lists; it is a leaf, held for microseconds, never while bytes are
 * copied or sent. Loads (device reads of consecutive blocks) complete on the I/O thread.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tier/readahead.h"

#include <stdlib.h>
#include <string.h>

#include "tier/files.h"
#include "tier/pump.h"
#include "tier/region.h"
#include "tier/request.h"

#define LOAD_BYTES                                                                                 \
  (1u << 20)              /* of one device read, as a rule: large enough to be fast, small
                                 * enough that nobody waits long */
#define WINDOW_DIVISOR 8u /* one stream has at most this part of the memory */
#define BLOCKS_MIN 4u     /* less memory than that is not worth the trouble */
#define NONE UINT32_MAX

/* Consecutive blocks being loaded. */
typedef struct load {
  kvstow__op op;
  kvstow_file *file;
  kvstow__read_job *waiters; /* the I/O thread's */
  bool unwanted;             /* lock: forgotten meanwhile */
  uint32_t count;
  uint32_t *blocks; /* behind the vectors */
  struct iovec iov[];
} load;

typedef struct block {
  const kvstow_file *file; /* NULL: empty */
  uint64_t index;          /* in the file */
  load *load;              /* NULL: it has come */
  uint64_t birth;          /* the stream it was read for */
  uint32_t place;
  uint32_t readers; /* pins */
  bool failed;      /* nobody finds it; goes with its last reader */
  bool wanted;
  bool spent;          /* read to its end, or empty: in `spent`; else, if it has come, in `fresh` */
  uint32_t chain;      /* next of the same hash */
  uint32_t prev, next; /* in its list; NONE at the ends */
} block;

typedef struct list {
  uint32_t first, last; /* first: the next to be used again */
} list;

struct kvstow__readahead {
  kvstow_tier *tier;
  kvstow__mutex lock;
  pthread_cond_t arrived; /* a load has completed */
  uint8_t *region;
  uint64_t region_bytes;
  bool denied;   /* there was no memory */
  uint32_t busy; /* loads and pins: the region is not cut anew meanwhile */
  uint32_t live; /* detected streams of all files */
  uint64_t block_bytes;
  uint32_t count; /* blocks */
  block *blocks;
  uint32_t *heads, heads_mask; /* hash: first block of each chain */
  list spent, fresh;
};

/* ---- lists and hash (lock held) ------------------------------------------------------------- */

static void list_push(kvstow__readahead *ra, list *l, uint32_t id) {
  block *b = &ra->blocks[id];
  b->prev = l->last;
  b->next = NONE;
  if (l->last == NONE)
    l->first = id;
  else
    ra->blocks[l->last].next = id;
  l->last = id;
}

static void list_remove(kvstow__readahead *ra, list *l, uint32_t id) {
  const block *b = &ra->blocks[id];
  if (b->prev == NONE)
    l->first = b->next;
  else
    ra->blocks[b->prev].next = b->next;
  if (b->next == NONE)
    l->last = b->prev;
  else
    ra->blocks[b->next].prev = b->prev;
}

static uint32_t *head_of(kvstow__readahead *ra, const kvstow_file *file, uint64_t index) {
  uint64_t x = (index + ((uint64_t)file->number << 40)) * UINT64_C(0x9e3779b97f4a7c15);
  return &ra->heads[(x >> 32) & ra->heads_mask];
}

static uint32_t find(kvstow__readahead *ra, const kvstow_file *file, uint64_t index) {
  uint32_t id = *head_of(ra, file, index);
  while (id != NONE && (ra->blocks[id].file != file || ra->blocks[id].index != index))
    id = ra->blocks[id].chain;
  return id;
}

static void unhash(kvstow__readahead *ra, uint32_t id) {
  const block *b = &ra->blocks[id];
  uint32_t *at = head_of(ra, b->file, b->index);
  while (*at != id) at = &ra->blocks[*at].chain;
  *at = b->chain;
}

/* ---- accounts (lock held) ------------------------------------------------------------------- */

static kvstow__stream_limits limits_of(const kvstow__readahead *ra, const kvstow_file *file) {
  const kvstow__tuning *t = &ra->tier->tuning;
  const uint32_t live = ra->live > WINDOW_DIVISOR / 2 ? 2 * ra->live : WINDOW_DIVISOR;
  kvstow__stream_limits limits = {
      .threshold = atomic_load_explicit(&t->prefetch_threshold, memory_order_relaxed),
      .block_bytes = atomic_load_explicit(&t->optimal_block_size, memory_order_relaxed),
      .share_bytes = ra->tier->readahead_bytes / live,
      .file_bytes = atomic_load_explicit(&file->readable, memory_order_relaxed),
  };
  limits.window_bytes =
      limits.block_bytes * atomic_load_explicit(&t->read_ahead_blocks, memory_order_relaxed);
  return limits;
}

static kvstow__stream *stream_of(kvstow_file *file, uint32_t place, uint64_t birth) {
  kvstow__stream *s = &file->streams.all[place];
  return birth != 0 && s->birth == birth ? s : NULL;
}

static void count_wasted(kvstow__readahead *ra, const block *b) {
  kvstow_file *file =
      (kvstow_file *)(uintptr_t)b->file; /* the table of streams is ours to change */
  kvstow__count(&ra->tier->counters.sequential_wasted, 1);
  kvstow__stream *s = stream_of(file, b->place, b->birth);
  if (!s) return;
  const kvstow__stream_limits limits = limits_of(ra, file);
  kvstow__stream_wasted(s, &limits);
}

/* The block is empty from here on; it must be in no list, unpinned, and not being loaded. */
static void empty(kvstow__readahead *ra, uint32_t id) {
  block *b = &ra->blocks[id];
  if (b->file) {
    if (!b->wanted) count_wasted(ra, b);
    unhash(ra, id);
  }
  *b = (block){.spent = true};
}

/* ---- the region ----------------------------------------------------------------------------- */

kvstow__readahead *kvstow__readahead_new(kvstow_tier *tier) {
  kvstow__readahead *ra = calloc(1, sizeof *ra);
  if (!ra) return NULL;
  ra->tier = tier;
  kvstow__mutex_init(&ra->lock, KVSTOW__RANK_READAHEAD);
  pthread_cond_init(&ra->arrived, NULL);
  return ra;
}

void kvstow__readahead_free(kvstow__readahead *ra) {
  if (!ra) return;
  kvstow__region_unmap(ra->region, ra->region_bytes);
  free(ra->blocks);
  free(ra->heads);
  pthread_cond_destroy(&ra->arrived);
  kvstow__mutex_finish(&ra->lock);
  free(ra);
}

static bool map_region(kvstow__readahead *ra) {
  if (ra->region || ra->denied) return ra->region != NULL;
  ra->region_bytes = ra->tier->readahead_bytes / KVSTOW_PAGE_BYTES * KVSTOW_PAGE_BYTES;
  if (ra->region_bytes > 0) ra->region = kvstow__region_map(ra->region_bytes);
  ra->denied = !ra->region;
  return !ra->denied;
}

static uint32_t power_of_two_above(uint32_t value) {
  uint32_t power = 1;
  while (power <= value) power *= 2;
  return power;
}

/* Cuts the region into blocks of another size; drops what it holds. */
static bool cut(kvstow__readahead *ra, uint64_t block_bytes) {
  for (uint32_t id = 0; id < ra->count; id++) empty(ra, id);
  free(ra->blocks);
  free(ra->heads);
  ra->blocks = NULL;
  ra->heads = NULL;
  ra->count = 0;
  ra->block_bytes = block_bytes;
  const uint32_t count = (uint32_t)(ra->region_bytes / block_bytes);
  const uint32_t heads = power_of_two_above(count);
  if (count < BLOCKS_MIN) return false;
  ra->blocks = calloc(count, sizeof *ra->blocks);
  ra->heads = malloc(heads * sizeof *ra->heads);
  if (!ra->blocks || !ra->heads) return false;
  ra->count = count;
  ra->heads_mask = heads - 1;
  memset(ra->heads, 0xff, heads * sizeof *ra->heads);
  ra->spent = ra->fresh = (list){NONE, NONE};
  for (uint32_t id = 0; id < count; id++) {
    empty(ra, id);
    list_push(ra, &ra->spent, id);
  }
  return true;
}

/* Whether there are blocks of that size to be had now. */
static bool ready_for(kvstow__readahead *ra, uint64_t block_bytes) {
  if (!map_region(ra)) return false;
  if (ra->block_bytes == block_bytes) return ra->count > 0;
  return ra->busy == 0 && cut(ra, block_bytes);
}

/* ---- loading -------------------------------------------------------------------------------- */

static uint32_t first_unpinned(const kvstow__readahead *ra, const list *l) {
  uint32_t id = l->first;
  while (id != NONE && ra->blocks[id].readers > 0) id = ra->blocks[id].next;
  return id;
}

/* An empty block in no list; NONE if all are in use. */
static uint32_t take_block(kvstow__readahead *ra) {
  list *l = &ra->spent;
  uint32_t id = first_unpinned(ra, l);
  if (id == NONE) {
    l = &ra->fresh;
    id = first_unpinned(ra, l);
  }
  if (id == NONE) return NONE;
  list_remove(ra, l, id);
  empty(ra, id);
  return id;
}

static void load_completed(kvstow__op *op) {
  load *l = op->owner;
  kvstow_file *file = l->file;
  kvstow__readahead *ra = file->tier->readahead;
  kvstow__lock(&ra->lock);
  for (uint32_t i = 0; i < l->count; i++) {
    block *b = &ra->blocks[l->blocks[i]];
    b->load = NULL;
    b->failed = op->error || l->unwanted;
    if (b->failed && b->readers == 0) {
      empty(ra, l->blocks[i]);
      list_push(ra, &ra->spent, l->blocks[i]);
    } else if (!b->failed) {
      list_push(ra, &ra->fresh, l->blocks[i]);
    }
  }
  ra->busy--;
  file->loads--;
  pthread_cond_broadcast(&ra->arrived);
  kvstow__unlock(&ra->lock);
  while (l->waiters) {
    kvstow__read_job *job = l->waiters;
    l->waiters = job->next;
    kvstow__pump_finish_read(ra->tier, job);
  }
  free(l);
}

/* A load of `count` blocks, all from `first` on; fewer if there is no more memory. */
static load *load_new(kvstow__readahead *ra, kvstow__ahead *a, uint64_t first, uint32_t count) {
  load *l = calloc(1, sizeof *l + count * (sizeof *l->iov + sizeof *l->blocks));
  if (!l) return NULL;
  kvstow_file *file = a->file;
  l->file = file;
  l->blocks = (uint32_t *)(void *)(l->iov + count);
  l->op = (kvstow__op){.kind = KVSTOW__READ,
                       .priority = KVSTOW_PREFETCH,
                       .file = file->number,
                       .offset = first * ra->block_bytes,
                       .iov = l->iov,
                       .complete = load_completed,
                       .owner = l};
  const uint64_t file_end =
      kvstow__round_up(atomic_load(&file->readable), kvstow__file_grain(file));
  while (l->count < count) {
    const uint32_t id = take_block(ra);
    if (id == NONE) break;
    block *b = &ra->blocks[id];
    *b = (block){
        .file = file, .index = first + l->count, .load = l, .birth = a->birth, .place = a->place};
    uint32_t *head = head_of(ra, file, b->index);
    b->chain = *head;
    *head = id;
    l->blocks[l->count++] = id;
    const uint64_t at = b->index * ra->block_bytes, left = file_end - at;
    const size_t bytes = (size_t)(left < ra->block_bytes ? left : ra->block_bytes);
    uint8_t *base = ra->region + id * ra->block_bytes;
    struct iovec *last = l->op.iov_count > 0 ? &l->iov[l->op.iov_count - 1] : NULL;
    if (last && (uint8_t *)last->iov_base + last->iov_len == base)
      last->iov_len += bytes;
    else
      l->iov[l->op.iov_count++] = (struct iovec){base, bytes};
    l->op.length += bytes;
  }
  if (l->count == 0) {
    free(l);
    return NULL;
  }
  kvstow__file_aim(file, &l->op);
  ra->busy++;
  file->loads++;
  kvstow__count(&ra->tier->counters.sequential_issued, l->count);
  kvstow__count(&ra->tier->counters.device_reads, 1);
  kvstow__count(&ra->tier->counters.device_read_bytes, l->op.length);
  return l;
}

static uint32_t load_blocks_max(const kvstow__readahead *ra) {
  const uint64_t bytes =
      LOAD_BYTES < ra->tier->request_max_bytes ? LOAD_BYTES : ra->tier->request_max_bytes;
  const uint64_t blocks = bytes / ra->block_bytes;
  if (blocks > KVSTOW__IOV_MAX) return KVSTOW__IOV_MAX;
  return blocks > 0 ? (uint32_t)blocks : 1;
}

/* Asks for the blocks of [from, to) that are not there yet; adds to *loads. */
static void load_range(kvstow__readahead *ra, kvstow__ahead *a, uint64_t from, uint64_t to,
                       kvstow__op **loads) {
  kvstow__stream *s = stream_of(a->file, a->place, a->birth);
  const uint64_t end = to / ra->block_bytes;
  uint64_t at = from / ra->block_bytes;
  const uint32_t most = load_blocks_max(ra);
  while (at < end) {
    if (find(ra, a->file, at) != NONE) { /* no hint twice */
      at++;
      continue;
    }
    uint32_t count = 1;
    while (count < most && at + count < end && find(ra, a->file, at + count) == NONE) count++;
    load *l = load_new(ra, a, at, count);
    if (!l) break;
    l->op.next = *loads;
    *loads = &l->op;
    at += l->count;
  }
  s->ahead = at * ra->block_bytes;
}

/* ---- before a read -------------------------------------------------------------------------- */

static void see(kvstow__readahead *ra, kvstow__ahead *a) {
  kvstow_file *file = a->file;
  kvstow__counters *c = &ra->tier->counters;
  const kvstow__stream_limits limits = limits_of(ra, file);
  const kvstow__sighting sight = kvstow__stream_see(&file->streams, a->offset, a->bytes, &limits);
  kvstow__stream *s = &file->streams.all[sight.place];
  a->place = sight.place;
  a->birth = s->birth;
  s->in_flight += a->bytes;
  ra->live += (uint32_t)sight.detected;
  ra->live -= sight.ended;
  kvstow__count(sight.continued ? &c->sequential_reads : &c->random_reads, 1);
  if (sight.detected) kvstow__count(&c->streams_detected, 1);
  if (sight.ended > 0) kvstow__count(&c->stream_resets, sight.ended);
}

static void look_ahead(kvstow__readahead *ra, kvstow__ahead *a, kvstow__op **loads) {
  const kvstow__stream *s = stream_of(a->file, a->place, a->birth);
  uint64_t from, to;
  if (!s) return; /* ended by another read of the batch */
  const kvstow__stream_limits limits = limits_of(ra, a->file);
  if (!kvstow__stream_wants(s, &limits, &from, &to)) return;
  if (ready_for(ra, limits.block_bytes)) load_range(ra, a, from, to, loads);
}

/* Pins the blocks at the front of the range, as far as they are there or on their way. */
static void hold(kvstow__readahead *ra, kvstow__ahead *a) {
  const uint64_t end = a->offset + a->bytes;
  kvstow__stream *s = stream_of(a->file, a->place, a->birth);
  uint64_t at = a->offset;
  while (at < end && ra->count > 0) {
    const uint64_t index = at / ra->block_bytes;
    const uint32_t id = find(ra, a->file, index);
    if (id == NONE || ra->blocks[id].failed) break;
    block *b = &ra->blocks[id];
    b->readers++;
    ra->busy++;
    if (!b->wanted) {
      const kvstow__stream_limits limits = limits_of(ra, a->file);
      b->wanted = true;
      kvstow__count(&ra->tier->counters.sequential_used, 1);
      if (b->load) kvstow__count(&ra->tier->counters.sequential_late, 1);
      if (s) kvstow__stream_used(&a->file->streams, s, at, b->load != NULL, &limits);
    }
    at = (index + 1) * ra->block_bytes;
  }
  a->held = (size_t)((at < end ? at : end) - a->offset);
}

void kvstow__readahead_begin(kvstow_tier *tier, kvstow__ahead *aheads, size_t count) {
  kvstow__readahead *ra = tier->readahead;
  kvstow__op *loads = NULL;
  if (!atomic_load_explicit(&tier->tuning.enable_prefetch, memory_order_relaxed)) return;
  kvstow__lock(&ra->lock);
  for (size_t i = 0; i < count; i++)
    if (aheads[i].bytes > 0) see(ra, &aheads[i]);
  for (size_t i = 0; i < count; i++)
    if (aheads[i].bytes > 0) look_ahead(ra, &aheads[i], &loads);
  for (size_t i = 0; i < count; i++)
    if (aheads[i].bytes > 0) hold(ra, &aheads[i]);
  kvstow__unlock(&ra->lock);
  if (loads) kvstow__pump_send_ops(tier, loads);
}

/* ---- taking what is held -------------------------------------------------------------------- */

/* The end of the block that holds the next byte to be copied, or of the read. */
static size_t piece_of(const kvstow__readahead *ra, const kvstow__ahead *a) {
  const uint64_t at = a->offset + a->copied;
  const uint64_t in_block = ra->block_bytes - at % ra->block_bytes;
  const size_t left = a->held - a->copied;
  return in_block < left ? (size_t)in_block : left;
}

static uint32_t block_at(kvstow__readahead *ra, const kvstow__ahead *a) {
  return find(ra, a->file, (a->offset + a->copied) / ra->block_bytes);
}

/* lock held */
static void unpin(kvstow__readahead *ra, const kvstow__ahead *a, uint32_t id, bool read) {
  block *b = &ra->blocks[id];
  ra->busy--;
  b->readers--;
  if (b->failed && b->readers == 0 && !b->load) {
    empty(ra, id);
    list_push(ra, &ra->spent, id);
    return;
  }
  if (b->load || b->failed || b->spent || !read) return;
  const uint64_t end = a->offset + a->copied, file_end = atomic_load(&a->file->readable);
  list_remove(ra, &ra->fresh, id);
  b->spent = end % ra->block_bytes == 0 || end >= file_end;
  list_push(ra, b->spent ? &ra->spent : &ra->fresh, id);
}

/* lock held */
static void let_go(kvstow__readahead *ra, kvstow__ahead *a) {
  const size_t copied = a->copied;
  while (a->copied < a->held) {
    const size_t piece = piece_of(ra, a);
    unpin(ra, a, block_at(ra, a), false);
    a->copied += piece;
  }
  a->held = a->copied = copied;
}

void kvstow__readahead_copy(kvstow__ahead *a, uint8_t *to, bool wait) {
  if (a->copied == a->held) return;
  kvstow__readahead *ra = a->file->tier->readahead;
  kvstow__lock(&ra->lock);
  while (a->copied < a->held) {
    const uint32_t id = block_at(ra, a);
    const block *b = &ra->blocks[id];
    if (b->load && !wait) break;
    if (b->load) {
      kvstow__wait(&ra->arrived, &ra->lock);
      continue;
    }
    if (b->failed) {
      a->lost = a->held - a->copied;
      let_go(ra, a);
      break;
    }
    const size_t piece = piece_of(ra, a);
    const uint64_t at = a->offset + a->copied;
    const uint8_t *from = ra->region + id * ra->block_bytes + at % ra->block_bytes;
    kvstow__unlock(&ra->lock);
    memcpy(to + a->copied, from, piece);
    kvstow__lock(&ra->lock);
    a->copied += piece;
    unpin(ra, a, id, true);
  }
  kvstow__unlock(&ra->lock);
}

bool kvstow__readahead_park(const kvstow__ahead *a, kvstow__read_job *job) {
  kvstow__readahead *ra = a->file->tier->readahead;
  kvstow__lock(&ra->lock);
  load *l = ra->blocks[block_at(ra, a)].load;
  if (l) {
    job->next = l->waiters;
    l->waiters = job;
    kvstow__pump_expect(ra->tier, job);
  }
  kvstow__unlock(&ra->lock);
  return l != NULL;
}

/* Takes the unwanted out of a load's waiters. The device owns our memory, not theirs. */
static void dismiss(kvstow_tier *tier, load *l) {
  for (kvstow__read_job **at = &l->waiters; *at;) {
    kvstow__read_job *job = *at;
    job->error = kvstow__read_unwanted(job);
    if (job->error) {
      *at = job->next;
      kvstow__pump_finish_read(tier, job);
    } else {
      kvstow__pump_expect(tier, job);
      at = &job->next;
    }
  }
}

void kvstow__readahead_sweep(kvstow_tier *tier) {
  kvstow__readahead *ra = tier->readahead;
  kvstow__lock(&ra->lock);
  for (uint32_t id = 0; id < ra->count; id++)
    if (ra->blocks[id].load) dismiss(tier, ra->blocks[id].load);
  kvstow__unlock(&ra->lock);
}

void kvstow__readahead_end(kvstow__ahead *a) {
  if (a->birth == 0) return;
  kvstow__readahead *ra = a->file->tier->readahead;
  kvstow__lock(&ra->lock);
  let_go(ra, a);
  kvstow__stream *s = stream_of(a->file, a->place, a->birth);
  if (s) s->in_flight -= a->bytes;
  kvstow__unlock(&ra->lock);
}

/* ---- forgetting ----------------------------------------------------------------------------- */

/* lock held */
static void forget(kvstow__readahead *ra, const kvstow_file *file, uint64_t offset) {
  for (uint32_t id = 0; id < ra->count; id++) {
    block *b = &ra->blocks[id];
    if (b->file != file || (b->index + 1) * ra->block_bytes <= offset || b->failed) continue;
    if (b->load) {
      b->load->unwanted = true;
      continue;
    }
    list_remove(ra, b->spent ? &ra->spent : &ra->fresh, id);
    b->failed = true;
    if (b->readers > 0) continue;
    empty(ra, id);
    list_push(ra, &ra->spent, id);
  }
}

void kvstow__readahead_forget(kvstow_file *file, uint64_t offset) {
  kvstow__readahead *ra = file->tier->readahead;
  kvstow__lock(&ra->lock);
  forget(ra, file, offset);
  kvstow__unlock(&ra->lock);
}

void kvstow__readahead_leave(kvstow_file *file) {
  kvstow__readahead *ra = file->tier->readahead;
  kvstow__lock(&ra->lock);
  while (file->loads > 0) kvstow__wait(&ra->arrived, &ra->lock);
  forget(ra, file, 0);
  ra->live -= file->streams.detected;
  kvstow__unlock(&ra->lock);
}
