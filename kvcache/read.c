/* read.c - bytes for the caller: copied into its buffers, or viewed where they lie.
 *
 * A read is a job over consecutive blocks. Each is pinned in RAM, copied without any lock, unpinned. A
 * block that is still on SSD is loaded, with those behind it ahead of demand; when RAM has no frame
 * for it, or the caller said that RAM need not keep it, it is read past the pool (direct.c).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "kvcache/store.h"

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

static void job_finish(struct kvs_read_job *job) {
  free(job->iov_starts);
  job->iov_starts = NULL;
}

int kvs_read_job_rows(struct kvs_read_job *job, kvstow_lease *lease, const kvstow_range *range,
                      const struct iovec *iov, int iovcnt, uint32_t flags) {
  if (lease == NULL || iov == NULL || iovcnt <= 0) return KVSTOW_EINVAL;
  *job = (struct kvs_read_job){.lease = lease, .iov = iov, .iovcnt = iovcnt, .flags = flags};
  const int rc = resolve_range(lease, range, &job->range);
  if (rc != 0) return rc;
  const struct kvs_layout *layout = &lease->space->layout;
  const size_t wanted =
      job->range.token_count * job->range.layer_count * ((size_t)layout->k_bytes + layout->v_bytes);
  job->first = job->range.token_first / layout->block_tokens;
  job->count =
      (job->range.token_first + job->range.token_count - 1) / layout->block_tokens - job->first + 1;
  job->next = job->first;
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
  if (bytes == wanted && !null) return 0;
  job_finish(job);
  if (null) return kvs_fail(lease->store, KVSTOW_EINVAL, "read: an iovec has no base");
  return kvs_fail(lease->store, KVSTOW_EINVAL, "read: the range has %zu bytes, the iovecs %zu",
                  wanted, bytes);
}

int kvs_read_job_blocks(struct kvs_read_job *job, kvstow_lease *lease, size_t first, size_t count,
                        void *const *payloads, size_t *bytes, uint32_t flags) {
  if (lease == NULL || payloads == NULL || count == 0) return KVSTOW_EINVAL;
  *job = (struct kvs_read_job){.lease = lease,
                               .first = first,
                               .count = count,
                               .next = first,
                               .payloads = payloads,
                               .bytes = bytes,
                               .flags = flags};
  if (first < lease->blocks && count <= lease->blocks - first) {
    for (size_t i = 0; i < count; i++)
      if (payloads[i] == NULL)
        return kvs_fail(lease->store, KVSTOW_EINVAL, "read: payload %zu is NULL", i);
    return 0;
  }
  return kvs_fail(lease->store, KVSTOW_EINVAL, "read: blocks %zu+%zu of %zu", first, count,
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

static void scatter(const struct kvs_read_job *job, size_t offset, const char *from,
                    size_t length) {
  if (job->iov_starts == NULL) {
    memcpy((char *)job->iov[0].iov_base + offset, from, length);
    return;
  }
  for (int i = iov_at(job, offset); length > 0; i++) {
    const size_t skip = offset - job->iov_starts[i];
    const size_t here = job->iov[i].iov_len - skip;
    const size_t step = here < length ? here : length;
    if (step > 0) memcpy((char *)job->iov[i].iov_base + skip, from, step);
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
  if (to != from) memcpy(to, from, entry->padded_bytes);
}

/* ---- pinning -------------------------------------------------------------------------------- */

int kvs_lease_pin(kvstow_lease *lease, size_t i, struct kvs_reads *reads, uint32_t *frame) {
  kvstow *store = lease->store;
  struct kvs_lease_block *block = &lease->block[i];
  if (i >= atomic_load(&lease->good)) return KVSTOW_EMISS;
  struct kvs_entry *entry = kvs_entry(&store->index, block->id);
  if ((entry->flags & KVS_UNLINKED) != 0) {
    kvs_lease_bad(lease, i);
    return KVSTOW_EMISS;
  }
  if ((entry->flags & KVS_LOADING) != 0) {
    entry->flags |= KVS_WAITED;
    kvs_load_urge(store, block->id);
    return KVSTOW_EAGAIN;
  }
  if (entry->frame == KVS_NO_FRAME) {
    const int rc = kvs_load_start(store, block->id, KVSTOW_DEMAND, false, reads);
    if (rc == KVSTOW_EMISS) kvs_lease_bad(lease, i);
    return rc == 0 ? KVSTOW_EAGAIN : rc;
  }
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

/* ---- running -------------------------------------------------------------------------------- */

static uint32_t opaque_bytes(const kvstow *store, uint32_t frame) {
  kvstow_block_info info;
  return kvstow_block_describe(kvs_pool_header(store->pool, frame), &info) == 0 ? info.payload_bytes
                                                                                : 0;
}

int kvs_read_job_step(struct kvs_read_job *job) {
  kvstow_lease *lease = job->lease;
  kvstow *store = lease->store;
  struct kvs_reads reads = {.count = 0};
  int rc = 0;
  while (rc == 0 && job->next < job->first + job->count) {
    const size_t i = job->next;
    uint32_t frame;
    pthread_mutex_lock(&store->lock);
    const struct kvs_entry *entry = kvs_entry(&store->index, lease->block[i].id);
    if ((job->flags & KVSTOW_BYPASS_RAM) != 0 && entry->frame == KVS_NO_FRAME &&
        (entry->flags & (KVS_LOADING | KVS_SSD)) == KVS_SSD && i < atomic_load(&lease->good))
      rc = KVSTOW_EFULL;
    else
      rc = kvs_lease_pin(lease, i, &reads, &frame);
    if (rc == KVSTOW_EAGAIN) kvs_lease_promote(lease, i + 1, &reads);
    pthread_mutex_unlock(&store->lock);
    kvs_loads_submit(store, &reads);
    if (rc != 0) break;
    kvs_read_job_deliver(job, i, kvs_pool_payload(store->pool, frame), 0, lease->space->planes);
    if (job->bytes != NULL) job->bytes[i - job->first] = opaque_bytes(store, frame);
    pthread_mutex_lock(&store->lock);
    kvs_lease_unpin(lease, i);
    pthread_mutex_unlock(&store->lock);
    job->next++;
  }
  return rc;
}

static int wait_block(struct kvs_read_job *job, uint64_t deadline_us) {
  kvstow *store = job->lease->store;
  int rc = 0;
  pthread_mutex_lock(&store->lock);
  if (!kvs_load_wait(store, job->lease->block[job->next].id, deadline_us)) {
    store->count.timeouts++;
    rc = KVSTOW_ETIMEDOUT;
  }
  pthread_mutex_unlock(&store->lock);
  return rc;
}

int kvs_read_job_run(struct kvs_read_job *job, uint64_t deadline_us) {
  for (;;) {
    int rc = kvs_read_job_step(job);
    if (rc == KVSTOW_EAGAIN) rc = wait_block(job, deadline_us);
    if (rc == KVSTOW_EFULL) {
      const size_t before = job->next;
      rc = kvs_read_job_direct(job, deadline_us);
      if (rc == 0 && job->next == before) rc = wait_block(job, deadline_us); /* it has moved */
    }
    if (rc != 0) return rc;
    if (job->next == job->first + job->count) return 0;
  }
}

void kvs_read_job_end(struct kvs_read_job *job, int rc, uint64_t begun_ns) {
  kvstow_lease *lease = job->lease;
  kvstow *store = lease->store;
  const struct kvs_layout *layout = &lease->space->layout;
  if (rc != 0)
    kvs_fail(store, rc, "read: block %zu of a lease of %zu: %s", job->next, lease->blocks,
             kvstow_strerror(rc));
  pthread_mutex_lock(&store->lock);
  if (rc == 0) {
    const bool rows = job->payloads == NULL;
    store->count.read_tokens += rows ? job->range.token_count : job->count * layout->block_tokens;
    store->count.read_bytes += rows ? job->range.token_count * job->range.layer_count *
                                          ((uint64_t)layout->k_bytes + layout->v_bytes)
                                    : (uint64_t)job->count * lease->space->payload_bytes;
  }
  pthread_mutex_unlock(&store->lock);
  job_finish(job);
  kvs_clock_stop(&store->read_time, begun_ns);
}

static int run_and_count(struct kvs_read_job *job, uint32_t timeout_ms) {
  const uint64_t begun_ns = kvs_clock(job->lease->store);
  const int rc = kvs_read_job_run(job, kvs_deadline(job->lease->store, timeout_ms));
  kvs_read_job_end(job, rc, begun_ns);
  return rc;
}

int kvstow_read(kvstow_lease *lease, const kvstow_range *range, const struct iovec *iov, int iovcnt,
                uint32_t flags, uint32_t timeout_ms) {
  struct kvs_read_job job;
  const int rc = kvs_read_job_rows(&job, lease, range, iov, iovcnt, flags);
  return rc != 0 ? rc : run_and_count(&job, timeout_ms);
}

int kvstow_read_blocks(kvstow_lease *lease, size_t first, size_t count, void *const *payloads,
                       size_t *bytes, uint32_t flags, uint32_t timeout_ms) {
  struct kvs_read_job job;
  const int rc = kvs_read_job_blocks(&job, lease, first, count, payloads, bytes, flags);
  return rc != 0 ? rc : run_and_count(&job, timeout_ms);
}

/* ---- views ---------------------------------------------------------------------------------- */

int kvstow_view(kvstow_lease *lease, size_t block, uint32_t timeout_ms, const void **payload,
                size_t *bytes) {
  if (lease == NULL || payload == NULL || block >= lease->blocks) return KVSTOW_EINVAL;
  kvstow *store = lease->store;
  const uint64_t deadline = kvs_deadline(store, timeout_ms);
  struct kvs_reads reads = {.count = 0};
  uint32_t frame = KVS_NO_FRAME;
  for (;;) {
    pthread_mutex_lock(&store->lock);
    int rc = lease->block[block].viewed ? KVSTOW_ESTATE : 0;
    if (rc == 0) rc = kvs_lease_pin(lease, block, &reads, &frame);
    if (rc == 0) lease->block[block].viewed = true;
    bool in_time = true;
    if (rc == KVSTOW_EFULL) { /* under the same lock: frames freed in between would wake nobody */
      const uint32_t wanted = kvs_entry(&store->index, lease->block[block].id)->padded_bytes;
      store->pressed_bytes += wanted;
      pthread_cond_signal(&store->demote_wake);
      in_time = kvs_wait_until(store, deadline);
      store->pressed_bytes -= wanted;
    }
    pthread_mutex_unlock(&store->lock);
    kvs_loads_submit(store, &reads);
    if (rc == 0) break;
    if (rc != KVSTOW_EAGAIN && rc != KVSTOW_EFULL) return rc;
    pthread_mutex_lock(&store->lock);
    if (rc == KVSTOW_EAGAIN) in_time = kvs_load_wait(store, lease->block[block].id, deadline);
    store->count.timeouts += !in_time;
    pthread_mutex_unlock(&store->lock);
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
  pthread_mutex_lock(&store->lock);
  if (lease->block[block].viewed) {
    lease->block[block].viewed = false;
    kvs_lease_unpin(lease, block);
    pthread_cond_broadcast(&store->changed);
  }
  pthread_mutex_unlock(&store->lock);
}
