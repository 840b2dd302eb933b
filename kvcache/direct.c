/* direct.c - reads past the RAM pool: from SSD into the caller's aligned buffers, or through scratch.
 *
 * One batch at a time: what it reads is leased, so the segments stay. The device owns the buffers until
 * its completions have run; a deadline therefore only withdraws what has not been sent.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "kvcache/store.h"

#define DIRECT_BYTES ((uint64_t)32 << 20)
#define DIRECT_BLOCKS 64u

struct direct {
  kvstow *store;
  struct kvs_read_job *job;
  size_t count, left; /* left: completions to come; store->lock */
  char *headers, *scratch;
  size_t block[DIRECT_BLOCKS];
  kvstow_record_read read[DIRECT_BLOCKS];
};

static void direct_done(kvstow_record_read *read) {
  struct direct *d = read->arg;
  kvstow *store = d->store;
  pthread_mutex_lock(&store->lock);
  if (--d->left == 0) pthread_cond_broadcast(&store->changed);
  pthread_mutex_unlock(&store->lock);
}

/* Rows want only their layers. */
static void plane_range(const struct kvs_read_job *job, uint32_t *first, uint32_t *count) {
  const bool rows = job->payloads == NULL;
  *first = rows ? job->range.layer_first : 0;
  *count = rows ? job->range.layer_count : job->lease->space->planes;
}

static bool aligned(const void *buffer) {
  return (uintptr_t)buffer % KVSTOW_PAGE_BYTES == 0;
}

/* Gathers consecutive blocks without a frame. Store's lock. */
static void gather(struct direct *d) {
  struct kvs_read_job *job = d->job;
  kvstow_lease *lease = job->lease;
  uint32_t first, planes;
  plane_range(job, &first, &planes);
  uint64_t bytes = 0;
  for (size_t i = job->next; i < job->first + job->count && d->count < DIRECT_BLOCKS; i++) {
    const struct kvs_entry *entry = kvs_entry(&d->store->index, lease->block[i].id);
    const uint64_t wanted = entry->padded_bytes / lease->space->planes * (uint64_t)planes;
    if (entry->frame != KVS_NO_FRAME || (entry->flags & KVS_LOADING) != 0 ||
        (entry->flags & KVS_SSD) == 0 || i >= atomic_load(&lease->good) ||
        (d->count > 0 && bytes + wanted > DIRECT_BYTES))
      return;
    bytes += wanted;
    d->block[d->count] = i;
    d->read[d->count++] =
        (kvstow_record_read){.key = entry->key,
                             .loc = entry->loc,
                             .plane_bytes = entry->padded_bytes / lease->space->planes,
                             .plane_first = first,
                             .plane_count = planes,
                             .priority = KVSTOW_DEMAND,
                             .done = direct_done,
                             .arg = d};
  }
}

/* Caller's buffers where they are aligned, else scratch. */
static int give_buffers(struct direct *d) {
  const struct kvs_read_job *job = d->job;
  size_t scratch_bytes = 0;
  for (int pass = 0; pass < 2; pass++) {
    size_t at = 0;
    for (size_t i = 0; i < d->count; i++) {
      kvstow_record_read *read = &d->read[i];
      void *own = job->payloads == NULL ? NULL : job->payloads[d->block[i] - job->first];
      read->header = d->headers + i * KVSTOW_PAGE_BYTES;
      if (own != NULL && aligned(own)) {
        read->payload = own;
        continue;
      }
      read->payload = d->scratch + at;
      at += (size_t)read->plane_count * read->plane_bytes;
    }
    if (pass == 1 || at == 0) return 0;
    scratch_bytes = at;
    d->scratch = aligned_alloc(KVSTOW_PAGE_BYTES, scratch_bytes);
    if (d->scratch == NULL) return KVSTOW_ENOMEM;
  }
  return 0;
}

static int run_reads(struct direct *d, uint64_t deadline_us) {
  kvstow *store = d->store;
  kvstow_record_read *list[DIRECT_BLOCKS];
  for (size_t i = 0; i < d->count; i++) list[i] = &d->read[i];
  d->left = d->count;
  const int rc = kvstow_tier_read_batch(store->tier, list, d->count);
  if (rc != 0) return rc;
  bool late = false;
  pthread_mutex_lock(&store->lock);
  while (d->left > 0) {
    if (late) {
      pthread_cond_wait(&store->changed, &store->lock);
    } else if (!kvs_wait_until(store, deadline_us)) {
      late = true;
      store->count.timeouts++;
      pthread_mutex_unlock(&store->lock);
      for (size_t i = 0; i < d->count; i++) kvstow_tier_cancel(store->tier, &d->read[i]);
      pthread_mutex_lock(&store->lock);
    }
  }
  pthread_mutex_unlock(&store->lock);
  return late ? KVSTOW_ETIMEDOUT : 0;
}

/* 0, or what is wrong with it; KVSTOW_EAGAIN: the block has moved since, to RAM or elsewhere on SSD, or
 * is being loaded: what came of this read says nothing of it. */
static int check(struct direct *d, size_t i) {
  kvstow_lease *lease = d->job->lease;
  kvstow *store = d->store;
  const size_t block = d->block[i];
  const uint32_t id = lease->block[block].id;
  pthread_mutex_lock(&store->lock);
  const bool loading = (kvs_entry(&store->index, id)->flags & KVS_LOADING) != 0;
  int rc = d->read[i].result;
  if (rc == 0) rc = kvs_load_check(store, id, d->read[i].header);
  if (rc != 0 && (loading || !kvs_ssd_is_at(store, id, d->read[i].loc))) {
    pthread_mutex_unlock(&store->lock);
    return KVSTOW_EAGAIN;
  }
  if (rc != 0) {
    kvs_load_failed(store, id, rc);
  } else if (!lease->block[block].verified &&
             !kvs_lease_tokens_equal(lease, block, d->read[i].header)) {
    store->count.collisions++;
    rc = KVSTOW_EMISS;
  }
  if (rc != 0) kvs_lease_bad(lease, block);
  pthread_mutex_unlock(&store->lock);
  return rc;
}

static int deliver(struct direct *d) {
  struct kvs_read_job *job = d->job;
  for (size_t i = 0; i < d->count; i++) {
    const int rc = check(d, i);
    if (rc == KVSTOW_EAGAIN) return 0; /* the next step finds it */
    if (rc != 0) return rc;
    const kvstow_record_read *read = &d->read[i];
    kvs_read_job_deliver(job, d->block[i], read->payload, read->plane_first, read->plane_count);
    if (job->bytes != NULL) {
      kvstow_block_info info;
      (void)kvstow_block_describe(read->header, &info); /* checked */
      job->bytes[d->block[i] - job->first] = info.payload_bytes;
    }
    job->next++;
  }
  return 0;
}

int kvs_read_job_direct(struct kvs_read_job *job, uint64_t deadline_us) {
  kvstow *store = job->lease->store;
  struct direct *d = calloc(1, sizeof *d);
  if (d == NULL) return KVSTOW_ENOMEM;
  d->store = store;
  d->job = job;
  pthread_mutex_lock(&store->lock);
  gather(d);
  pthread_mutex_unlock(&store->lock);
  int rc = 0;
  if (d->count > 0) {
    d->headers = aligned_alloc(KVSTOW_PAGE_BYTES, d->count * KVSTOW_PAGE_BYTES);
    rc = d->headers == NULL ? KVSTOW_ENOMEM : give_buffers(d);
    if (rc == 0) rc = run_reads(d, deadline_us);
    if (rc == 0) rc = deliver(d);
  } /* else its state changed meanwhile: the next step sees it */
  free(d->headers);
  free(d->scratch);
  free(d);
  return rc;
}
