/* read.c - bytes for the caller: copied into its buffers, or viewed where they lie.
 *
 * A read is a job over consecutive blocks, delivered in order: pinned in RAM, copied without any lock,
 * unpinned. Those still on SSD are sent for some way ahead, so that device, verification and
 * copying overlap: loaded, or, when RAM has no frame for them, or the caller said that RAM need not
 * keep them, read past the pool (direct.c).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "kvcache/store.h"
#include "tier/copy.h"

/* Sent for ahead of delivery; and where that takes memory besides the caller's, which is one block more. */
#define AHEAD_BYTES ((size_t)64 << 20)
#define AHEAD_ROOM_BYTES ((size_t)32 << 20)
#define AHEAD_BLOCKS_MIN 2u
#define PINS_MAX 16u /* blocks copied in one go */
#define PINS_BYTES ((size_t)4 << 20)
#define PAST_BYTES ((size_t)4 << 20) /* reads of so much are copied past the caches */

/* ---- jobs ----------------------------------------------------------------------------------- */

static int resolve_range(const kvstow_lease *lease, const kvstow_range *asked,
                         kvstow_range *range) {
  const struct kvs_layout *layout = &lease->space->layout;
  const size_t tokens = lease->blocks * layout->block_tokens;
  *range = asked == NULL ? (kvstow_range){0} : *asked;
  if (layout->layers == 0)
    return kvs_fail(lease->store, KVSTOW_EINVAL, "read: space %s is opaque: use kvstow_read_blocks",
                    lease->space->name);
  if (range->layer_first < layout->layers && range->layer_count == 0)
    range->layer_count = layout->layers - range->layer_first;
  if (range->token_first < tokens && range->token_count == 0)
    range->token_count = tokens - range->token_first;
  if (range->layer_count == 0 || range->layer_count > layout->layers ||
      range->layer_first > layout->layers - range->layer_count || range->token_count == 0 ||
      range->token_count > tokens || range->token_first > tokens - range->token_count)
    return kvs_fail(lease->store, KVSTOW_EINVAL, "read: layers %u+%u of %u, tokens %zu+%zu of %zu",
                    range->layer_first, range->layer_count, layout->layers, range->token_first,
                    range->token_count, tokens);
  return 0;
}

/* Rows want only their layers. */
static uint32_t job_planes(const struct kvs_read_job *job) {
  return job->payloads == NULL ? job->range.layer_count : job->lease->space->planes;
}

static size_t block_bytes(const struct kvs_read_job *job) {
  return (size_t)job_planes(job) * job->lease->space->plane_bytes;
}

static size_t blocks_in(const struct kvs_read_job *job, size_t bytes) {
  const size_t each = block_bytes(job);
  size_t blocks = each > 0 ? bytes / each : 0;
  if (blocks > KVS_LOADS_A_CALL) blocks = KVS_LOADS_A_CALL;
  return blocks < AHEAD_BLOCKS_MIN ? AHEAD_BLOCKS_MIN : blocks;
}

static void job_begin(struct kvs_read_job *job) {
  job->next = job->ahead = job->layer_ahead = job->first;
  job->ahead_max = blocks_in(job, AHEAD_BYTES);
  job->past = job->count * block_bytes(job) >= PAST_BYTES;
  if (job->payloads == NULL) kvs_layers_begin(job);
}

static void job_finish(struct kvs_read_job *job) {
  free(job->iov_starts);
  job->iov_starts = NULL;
}

int kvs_read_job_rows(struct kvs_read_job *job, kvstow_lease *lease, const kvstow_range *range,
                      const struct iovec *iov, int iovcnt, uint32_t flags, bool asynchronous) {
  if (lease == NULL) return KVSTOW_EINVAL;
  *job = (struct kvs_read_job){
      .lease = lease, .iov = iov, .iovcnt = iovcnt, .flags = flags, .asynchronous = asynchronous};
  if (iov == NULL || iovcnt <= 0)
    return kvs_fail(lease->store, KVSTOW_EINVAL, "read: iov %p, iovcnt %d", (const void *)iov,
                    iovcnt);
  int rc = kvs_check_flags(lease->store, "read", flags);
  if (rc == 0) rc = resolve_range(lease, range, &job->range);
  if (rc != 0) return rc;
  const struct kvs_layout *layout = &lease->space->layout;
  const size_t wanted =
      job->range.token_count * job->range.layer_count * ((size_t)layout->k_bytes + layout->v_bytes);
  job->first = job->range.token_first / layout->block_tokens;
  job->count =
      (job->range.token_first + job->range.token_count - 1) / layout->block_tokens - job->first + 1;
  if (iovcnt > 1) {
    job->iov_starts = malloc((size_t)iovcnt * sizeof *job->iov_starts);
    if (job->iov_starts == NULL) return KVSTOW_ENOMEM;
  }
  size_t bytes = 0;
  bool null = false;
  for (int i = 0; i < iovcnt; i++) {
    if (job->iov_starts != NULL) job->iov_starts[i] = bytes;
    bytes += iov[i].iov_len;
    null |= iov[i].iov_base == NULL && iov[i].iov_len > 0;
  }
  if (bytes == wanted && !null) {
    job_begin(job);
    return 0;
  }
  job_finish(job);
  if (null) return kvs_fail(lease->store, KVSTOW_EINVAL, "read: an iovec has no base");
  return kvs_fail(lease->store, KVSTOW_EINVAL, "read: the range has %zu bytes, the iovecs %zu",
                  wanted, bytes);
}

int kvs_read_job_blocks(struct kvs_read_job *job, kvstow_lease *lease, size_t first, size_t count,
                        void *const *payloads, size_t *bytes, uint32_t flags, bool asynchronous) {
  if (lease == NULL) return KVSTOW_EINVAL;
  *job = (struct kvs_read_job){.lease = lease,
                               .first = first,
                               .count = count,
                               .payloads = payloads,
                               .bytes = bytes,
                               .flags = flags,
                               .asynchronous = asynchronous};
  if (payloads == NULL || count == 0)
    return kvs_fail(lease->store, KVSTOW_EINVAL, "read_blocks: payloads %p, count %zu",
                    (const void *)payloads, count);
  const int rc = kvs_check_flags(lease->store, "read_blocks", flags);
  if (rc != 0) return rc;
  if (first < lease->blocks && count <= lease->blocks - first) {
    for (size_t i = 0; i < count; i++)
      if (payloads[i] == NULL)
        return kvs_fail(lease->store, KVSTOW_EINVAL, "read_blocks: payload %zu is NULL", i);
    job_begin(job);
    return 0;
  }
  return kvs_fail(lease->store, KVSTOW_EINVAL, "read_blocks: blocks %zu+%zu of %zu", first, count,
                  lease->blocks);
}

/* ---- delivering ----------------------------------------------------------------------------- */

static int iov_at(const struct kvs_read_job *job, size_t offset) {
  int low = 0, high = job->iovcnt - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (job->iov_starts[middle] <= offset)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

static void copy_out(const struct kvs_read_job *job, void *to, const char *from, size_t bytes) {
  if (job->past)
    kvstow__copy_past_cache(to, from, bytes);
  else
    memcpy(to, from, bytes);
}

static void scatter(const struct kvs_read_job *job, size_t offset, const char *from,
                    size_t length) {
  if (job->iov_starts == NULL) {
    copy_out(job, (char *)job->iov[0].iov_base + offset, from, length);
    return;
  }
  for (int i = iov_at(job, offset); length > 0; i++) {
    const size_t skip = offset - job->iov_starts[i];
    const size_t here = job->iov[i].iov_len - skip;
    const size_t step = here < length ? here : length;
    if (step > 0) copy_out(job, (char *)job->iov[i].iov_base + skip, from, step);
    from += step;
    offset += step;
    length -= step;
  }
}

static void deliver_rows(const struct kvs_read_job *job, size_t block, const char *from,
                         uint32_t plane_first, uint32_t planes) {
  const struct kvstow_space *space = job->lease->space;
  const size_t tokens = space->layout.block_tokens, k = space->layout.k_bytes,
               v = space->layout.v_bytes, all = job->range.token_count;
  const size_t range_end = job->range.token_first + all;
  const size_t start =
      block * tokens > job->range.token_first ? block * tokens : job->range.token_first;
  const size_t end = (block + 1) * tokens < range_end ? (block + 1) * tokens : range_end;
  const size_t row = start - block * tokens, rows = end - start;
  const size_t column = start - job->range.token_first;
  for (uint32_t i = 0; i < planes; i++) {
    const uint32_t layer = plane_first + i;
    if (layer < job->range.layer_first || layer >= job->range.layer_first + job->range.layer_count)
      continue;
    const char *plane = from + (size_t)i * space->plane_bytes;
    const size_t base = (layer - job->range.layer_first) * all * (k + v);
    if (k > 0) scatter(job, base + column * k, plane + row * k, rows * k);
    if (v > 0) scatter(job, base + all * k + column * v, plane + tokens * k + row * v, rows * v);
  }
}

void kvs_read_job_deliver(struct kvs_read_job *job, size_t block, const char *from,
                          uint32_t plane_first, uint32_t planes) {
  if (job->payloads == NULL) {
    deliver_rows(job, block, from, plane_first, planes);
    return;
  }
  char *to = job->payloads[block - job->first];
  const struct kvs_entry *entry = kvs_entry(&job->lease->store->index, job->lease->block[block].id);
  if (to != from) copy_out(job, to, from, entry->padded_bytes);
}

/* ---- pinning -------------------------------------------------------------------------------- */

int kvs_lease_pin(kvstow_lease *lease, size_t i, uint32_t *frame) {
  kvstow *store = lease->store;
  struct kvs_lease_block *block = &lease->block[i];
  if (i >= atomic_load(&lease->good)) return KVSTOW_EMISS;
  struct kvs_entry *entry = kvs_entry(&store->index, block->id);
  const bool nowhere =
      entry->frame == KVS_NO_FRAME && (entry->flags & (KVS_LOADING | KVS_SSD)) == 0;
  if ((entry->flags & KVS_UNLINKED) != 0 || nowhere) {
    kvs_lease_bad(lease, i);
    return KVSTOW_EMISS;
  }
  if ((entry->flags & KVS_LOADING) != 0) {
    entry->flags |= KVS_WAITED;
    kvs_load_urge(store, block->id);
    return KVSTOW_EAGAIN;
  }
  if (entry->frame == KVS_NO_FRAME) return KVSTOW_EFULL;
  if (!block->verified) {
    if (!kvs_lease_tokens_equal(lease, i, kvs_pool_header(store->pool, entry->frame))) {
      store->count.collisions++;
      kvs_lease_bad(lease, i);
      return KVSTOW_EMISS;
    }
    block->verified = true;
  }
  if (entry->ram_pins >= UINT16_MAX - 1) return KVSTOW_EBUSY; /* the last is demotion's */
  entry->ram_pins++;
  if ((entry->flags & KVS_PREFETCHED) != 0) {
    store->count.chain.used++;
    if ((entry->flags & KVS_WAITED) != 0) store->count.chain.late++;
    entry->flags &= (uint16_t)~KVS_PREFETCHED;
  }
  *frame = entry->frame;
  return 0;
}

void kvs_lease_unpin(kvstow_lease *lease, size_t i) {
  kvs_entry(&lease->store->index, lease->block[i].id)->ram_pins--;
}

/* ---- sending for what is cold --------------------------------------------------------------- */

static bool aligned(const void *buffer) {
  return (uintptr_t)buffer % KVSTOW_PAGE_BYTES == 0;
}

static void *own_buffer(const struct kvs_read_job *job, size_t i) {
  void *own = job->payloads == NULL ? NULL : job->payloads[i - job->first];
  return aligned(own) ? own : NULL;
}

static bool needs_room(const struct kvs_read_job *job) {
  if (job->payloads == NULL) return true;
  for (size_t i = 0; i < job->count; i++)
    if (!aligned(job->payloads[i])) return true;
  return false;
}

/* Past the pool. Store's lock. */
static int send_past(struct kvs_read_job *job, size_t i, struct kvs_reads *reads) {
  if (job->window == NULL) {
    const bool room = needs_room(job);
    size_t cells = blocks_in(job, room ? AHEAD_ROOM_BYTES : AHEAD_BYTES) + 1; /* one is kept */
    if (cells > job->count + 1) cells = job->count + 1;
    job->window = kvs_window_create(job->lease, job->first, job->count, job_planes(job),
                                    (uint32_t)cells, room, true);
    if (job->window == NULL) return KVSTOW_ENOMEM;
    kvs_window_serves(job->window, job->asynchronous);
  }
  const struct kvs_window_read read = {
      .lease = job->lease,
      .block = i,
      .turn = job->turn,
      .plane_first = job->payloads == NULL ? job->range.layer_first : 0,
      .to = own_buffer(job, i),
      .urgent = i == job->next};
  return kvs_window_add(job->window, &read, reads) ? 0 : KVSTOW_EFULL;
}

/* 0: in RAM, or on its way. KVSTOW_EFULL: no room now. Store's lock. */
static int send_for(struct kvs_read_job *job, size_t i, struct kvs_reads *reads) {
  kvstow_lease *lease = job->lease;
  const struct kvs_entry *entry = kvs_entry(&lease->store->index, lease->block[i].id);
  if (job->window != NULL && kvs_window_has(job->window, job->turn, i)) return 0;
  if (i >= atomic_load(&lease->good)) return KVSTOW_EMISS;
  if ((entry->flags & KVS_LOADING) != 0) kvs_load_urge(lease->store, lease->block[i].id);
  if (entry->frame != KVS_NO_FRAME || (entry->flags & (KVS_LOADING | KVS_UNLINKED)) != 0) return 0;
  if ((entry->flags & KVS_SSD) == 0) return KVSTOW_EMISS;
  int rc = KVSTOW_EFULL;
  if ((job->flags & KVSTOW_BYPASS_RAM) == 0) rc = kvs_lease_load(lease, i, false, reads);
  return rc == KVSTOW_EFULL ? send_past(job, i, reads) : rc;
}

static bool promotes(const struct kvs_read_job *job) {
  const kvstow_lease *lease = job->lease;
  return lease->promote && (job->flags & KVSTOW_BYPASS_RAM) == 0 &&
         lease->store->options.tuning.enable_prefetch;
}

/* Half of what may be ahead at a time, so that neighbours travel together. */
static int send_ahead(struct kvs_read_job *job) {
  kvstow *store = job->lease->store;
  const size_t end = job->first + job->count;
  if (job->ahead < job->next) job->ahead = job->next;
  if (job->ahead == end && end != job->next && !job->stream) return 0;
  if ((job->ahead - job->next) * 2 > job->ahead_max) return 0;
  struct kvs_reads reads;
  reads.count = 0;
  int rc = 0;
  kvs_lock(store);
  while (rc == 0 && job->ahead < end && job->ahead - job->next < job->ahead_max) {
    rc = send_for(job, job->ahead, &reads);
    if (rc == 0) job->ahead++;
  }
  if (rc == KVSTOW_EFULL && job->ahead > job->next) job->ahead_max = job->ahead - job->next;
  if (job->ahead == end && job->stream) kvs_layers_ahead(job, &reads);
  if (job->ahead == end && promotes(job)) {
    /* what has left RAM since is loaded when it is read: not looked for by every read of a layer */
    const size_t promoted = job->lease->promoted;
    kvs_lease_promote(job->lease, end > promoted ? end : promoted, &reads);
  }
  if (rc == KVSTOW_EMISS && job->ahead == job->next) kvs_lease_bad(job->lease, job->next);
  kvstow__unlock(&store->lock);
  kvs_loads_submit(store, &reads);
  return job->ahead > job->next ? 0 : rc; /* what is ahead can be delivered first */
}

/* ---- delivering in order -------------------------------------------------------------------- */

static uint32_t opaque_bytes(const kvstow *store, uint32_t frame) {
  kvstow_block_info info;
  return kvstow_block_describe(kvs_pool_header(store->pool, frame), &info) == 0 ? info.payload_bytes
                                                                                : 0;
}

/* Pins blocks from job->next on, as many as are in RAM one after another. */
static int pin_some(struct kvs_read_job *job, uint32_t frames[PINS_MAX], size_t *count) {
  kvstow_lease *lease = job->lease;
  kvstow *store = lease->store;
  int rc = 0;
  kvs_lock(store);
  for (*count = 0; *count < PINS_MAX; ++*count) {
    const size_t i = job->next + *count;
    if (i == job->first + job->count || *count * block_bytes(job) >= PINS_BYTES) break;
    const struct kvs_entry *entry = kvs_entry(&store->index, lease->block[i].id);
    if (*count > 0 && (entry->frame == KVS_NO_FRAME ||
                       (job->window != NULL && kvs_window_has(job->window, job->turn, i))))
      break;
    rc = kvs_lease_pin(lease, i, &frames[*count]);
    if (rc != 0) break;
  }
  kvstow__unlock(&store->lock);
  return *count > 0 ? 0 : rc;
}

/* All has been delivered. Under a lock that is taken anyway, where that can be. Store's lock. */
static void count_read(struct kvs_read_job *job) {
  const struct kvstow_space *space = job->lease->space;
  const struct kvs_layout *layout = &space->layout;
  struct kvs_counters *count = &job->lease->store->count;
  const size_t row = (size_t)layout->k_bytes + layout->v_bytes;
  job->counted = true;
  if (!job->lease->store->options.metrics) return;
  if (job->payloads == NULL) {
    count->read_tokens += job->range.token_count;
    count->read_bytes += job->range.token_count * job->range.layer_count * row;
  } else {
    count->read_tokens += job->count * (uint64_t)layout->block_tokens;
    count->read_bytes += (uint64_t)job->count * space->payload_bytes;
  }
}

static int deliver_from_ram(struct kvs_read_job *job) {
  kvstow_lease *lease = job->lease;
  kvstow *store = lease->store;
  uint32_t frames[PINS_MAX];
  size_t count;
  const int rc = pin_some(job, frames, &count);
  if (rc == KVSTOW_EFULL) job->ahead = job->next; /* it has left RAM: to be sent for again */
  if (rc != 0) return rc == KVSTOW_EFULL ? 0 : rc;
  for (size_t n = 0; n < count; n++) {
    const size_t i = job->next + n;
    kvs_read_job_deliver(job, i, kvs_pool_payload(store->pool, frames[n]), 0, lease->space->planes);
    if (job->bytes != NULL) job->bytes[i - job->first] = opaque_bytes(store, frames[n]);
  }
  kvs_lock(store);
  for (size_t n = 0; n < count; n++) kvs_lease_unpin(lease, job->next + n);
  job->next += count;
  if (job->next == job->first + job->count) count_read(job);
  kvstow__unlock(&store->lock);
  return 0;
}

void kvs_read_job_stop(struct kvs_read_job *job, int why) {
  if (job->stopped != 0) return;
  job->stopped = why;
  if (job->window != NULL) kvs_window_withdraw(job->window);
}

static int deliver_some(struct kvs_read_job *job) {
  int rc = job->stopped;
  while (rc == 0) {
    rc = send_ahead(job);
    if (job->next == job->first + job->count) return 0;
    if (rc == 0)
      rc = job->window != NULL && kvs_window_has(job->window, job->turn, job->next)
               ? kvs_window_deliver(job->window, job)
               : deliver_from_ram(job);
  }
  if (rc == KVSTOW_EAGAIN) return rc;
  kvs_read_job_stop(job, rc);
  return job->window == NULL || kvs_window_idle(job->window) ? rc : KVSTOW_EAGAIN;
}

int kvs_read_job_step(struct kvs_read_job *job) {
  const int rc = deliver_some(job);
  if (job->past) kvstow__copy_fence(); /* another thread may take the next step */
  return rc;
}

/* Until what stopped the last step has changed; false when the deadline has passed. */
static bool job_wait(struct kvs_read_job *job, uint64_t deadline_us) {
  kvstow *store = job->lease->store;
  if (job->stopped != 0) return kvs_window_wait(job->window, UINT64_MAX);
  if (job->window != NULL && kvs_window_has(job->window, job->turn, job->next))
    return kvs_window_wait(job->window, deadline_us);
  kvs_lock(store);
  const bool in_time = kvs_load_wait(store, job->lease->block[job->next].id, deadline_us);
  kvstow__unlock(&store->lock);
  return in_time;
}

static int job_run(struct kvs_read_job *job, uint64_t deadline_us) {
  for (;;) {
    const int rc = kvs_read_job_step(job);
    if (rc != KVSTOW_EAGAIN) return rc;
    if (job_wait(job, deadline_us)) continue;
    kvs_lock(job->lease->store);
    job->lease->store->count.timeouts++;
    kvstow__unlock(&job->lease->store->lock);
    kvs_read_job_stop(job, KVSTOW_ETIMEDOUT);
  }
}

void kvs_read_job_end(struct kvs_read_job *job, int rc, uint64_t begun_ns) {
  kvstow_lease *lease = job->lease;
  kvstow *store = lease->store;
  if (rc != 0)
    kvs_fail(store, rc, "read: block %zu of a lease of %zu: %s", job->next, lease->blocks,
             kvstow_strerror(rc));
  if (rc == 0 && !job->counted) {
    kvs_lock(store);
    count_read(job);
    kvstow__unlock(&store->lock);
  }
  if (job->stream)
    kvs_layers_end(job, rc == 0);
  else if (job->window != NULL)
    (void)kvs_window_drop(job->window);
  job_finish(job);
  kvs_clock_stop(&store->read_time, begun_ns);
}

static int run_and_count(struct kvs_read_job *job, uint32_t timeout_ms) {
  kvstow *store = job->lease->store;
  const uint64_t begun_ns = kvs_clock_sample(store, &store->read_time);
  const int rc = job_run(job, kvs_deadline(store, timeout_ms));
  kvs_read_job_end(job, rc, begun_ns);
  return rc;
}

int kvstow_read(kvstow_lease *lease, const kvstow_range *range, const struct iovec *iov, int iovcnt,
                uint32_t flags, uint32_t timeout_ms) {
  struct kvs_read_job job;
  const int rc = kvs_read_job_rows(&job, lease, range, iov, iovcnt, flags, false);
  return rc != 0 ? rc : run_and_count(&job, timeout_ms);
}

int kvstow_read_blocks(kvstow_lease *lease, size_t first, size_t count, void *const *payloads,
                       size_t *bytes, uint32_t flags, uint32_t timeout_ms) {
  struct kvs_read_job job;
  const int rc = kvs_read_job_blocks(&job, lease, first, count, payloads, bytes, flags, false);
  return rc != 0 ? rc : run_and_count(&job, timeout_ms);
}

/* ---- views ---------------------------------------------------------------------------------- */

int kvstow_view(kvstow_lease *lease, size_t block, uint32_t timeout_ms, const void **payload,
                size_t *bytes) {
  if (lease == NULL) return KVSTOW_EINVAL;
  kvstow *store = lease->store;
  if (payload == NULL || block >= lease->blocks)
    return kvs_fail(store, KVSTOW_EINVAL, "view: block %zu of %zu, payload %p", block,
                    lease->blocks, (const void *)payload);
  const uint64_t deadline = kvs_deadline(store, timeout_ms);
  struct kvs_reads reads;
  reads.count = 0;
  uint32_t frame = KVS_NO_FRAME;
  for (;;) {
    kvs_lock(store);
    int rc = lease->block[block].viewed ? KVSTOW_ESTATE : 0;
    if (rc == 0) rc = kvs_lease_pin(lease, block, &frame);
    if (rc == KVSTOW_EFULL) {
      rc = kvs_load_start(store, lease->block[block].id, KVSTOW_DEMAND, false, &lease->request,
                          &reads);
      if (rc == 0) rc = KVSTOW_EAGAIN;
    }
    if (rc == 0) lease->block[block].viewed = true;
    bool in_time = true;
    if (rc == KVSTOW_EFULL) { /* under the same lock: frames freed in between would wake nobody */
      const uint32_t wanted = kvs_entry(&store->index, lease->block[block].id)->padded_bytes;
      store->pressed_bytes += wanted;
      pthread_cond_signal(&store->demote_wake);
      in_time = kvs_wait_until(store, deadline);
      store->pressed_bytes -= wanted;
    }
    kvstow__unlock(&store->lock);
    kvs_loads_submit(store, &reads);
    if (rc == 0) break;
    if (rc != KVSTOW_EAGAIN && rc != KVSTOW_EFULL) return rc;
    kvs_lock(store);
    if (rc == KVSTOW_EAGAIN) in_time = kvs_load_wait(store, lease->block[block].id, deadline);
    store->count.timeouts += !in_time;
    kvstow__unlock(&store->lock);
    if (!in_time) return rc == KVSTOW_EFULL ? rc : KVSTOW_ETIMEDOUT;
  }
  *payload = kvs_pool_payload(store->pool, frame);
  if (bytes != NULL)
    *bytes =
        lease->space->layout.layers == 0 ? opaque_bytes(store, frame) : lease->space->padded_bytes;
  return 0;
}

void kvstow_unview(kvstow_lease *lease, size_t block) {
  if (lease == NULL || block >= lease->blocks) return;
  kvstow *store = lease->store;
  kvs_lock(store);
  if (lease->block[block].viewed) {
    lease->block[block].viewed = false;
    kvs_lease_unpin(lease, block);
    pthread_cond_broadcast(&store->changed);
  }
  kvstow__unlock(&store->lock);
}
