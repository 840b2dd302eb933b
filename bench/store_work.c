/* store_work.c - the work that `kvstow bench store` times, and its limits.
 *
 * Source and destination are larger than the caches for every contestant, gone through in turn. The
 * source's rows lie as a prefill leaves them: for a batch, layer by layer.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/store.h"

struct lane {
  kvstow_token *tokens;
  kvstow_seq *seq;
  struct iovec *iov; /* of one batch's blocks */
  kvstow_source *sources;
  kvstow_slot *slots;
  struct measure_latency *latency;
  int rc;
};

/* ---- the bed -------------------------------------------------------------------------------- */

bool bed_open(struct bed *bed, const struct model *model, const kvstow_options *o,
              size_t source_bytes, struct bench_report *report) {
  char why[KVSTOW_MESSAGE_BYTES] = "";
  memset(bed, 0, sizeof *bed);
  bed->model = model;
  bed->token_bytes = model_bytes_per_token(model);
  bed->source_bytes = source_bytes;
  bed->source = measure_memory(source_bytes);
  if (bed->source == NULL) {
    bench_fail(report, "no memory for %zu bytes of source", source_bytes);
    return false;
  }
  measure_fill(bed->source, source_bytes, 7);
  int rc = kvstow_open(o, &bed->store, why, sizeof why);
  kvstow_space_options s;
  kvstow_space_options_init(&s);
  s.name = model->name;
  s.fingerprint = model->name;
  s.fingerprint_bytes = strlen(model->name);
  s.layers = model->layers;
  s.k_bytes = model->k_bytes;
  s.v_bytes = model->v_bytes;
  if (rc == 0) rc = kvstow_space_open(bed->store, &s, &bed->space);
  if (rc != 0) {
    if (bed->store != NULL) kvstow_message(bed->store, why, sizeof why);
    bench_fail(report, "%s: %s: %s", model->name, kvstow_strerror(rc), why);
    return false;
  }
  void *region;
  size_t region_bytes;
  kvstow_region(bed->store, &region, &region_bytes);
  measure_touch(region, region_bytes);
  bed->block_tokens = kvstow_space_block_tokens(bed->space);
  bed->plane_bytes = kvstow_space_plane_bytes(bed->space);
  return true;
}

void bed_close(struct bed *bed, struct bench_report *report) {
  const int rc = kvstow_close(bed->store);
  if (rc != 0) bench_fail(report, "close: %s", kvstow_strerror(rc));
  measure_memory_free(bed->source, bed->source_bytes);
  measure_memory_free(bed->target, bed->target_bytes);
}

/* ---- lanes ---------------------------------------------------------------------------------- */

static size_t batch_blocks(const struct work *work) {
  return work->batch_tokens / work->bed->block_tokens;
}

bool work_init(struct work *work) {
  const size_t blocks = batch_blocks(work) + 1, tokens = work->batch_tokens * work->batches;
  const size_t parts = (size_t)work->bed->model->layers * 2;
  work->lanes = calloc(work->threads, sizeof *work->lanes);
  for (unsigned t = 0; work->lanes != NULL && t < work->threads; t++) {
    struct lane *lane = &work->lanes[t];
    lane->tokens = malloc(tokens * sizeof *lane->tokens);
    lane->iov = calloc(blocks * parts, sizeof *lane->iov);
    lane->sources = calloc(blocks, sizeof *lane->sources);
    lane->slots = calloc(blocks, sizeof *lane->slots);
    lane->latency = calloc(1, sizeof *lane->latency);
    if (!lane->tokens || !lane->iov || !lane->sources || !lane->slots || !lane->latency)
      return false;
    for (size_t i = 0; i < tokens; i++) lane->tokens[i] = (kvstow_token)(i * 40503u & 0xffff);
  }
  return work->lanes != NULL;
}

void work_free(struct work *work) {
  for (unsigned t = 0; work->lanes != NULL && t < work->threads; t++) {
    free(work->lanes[t].tokens);
    free(work->lanes[t].iov);
    free(work->lanes[t].sources);
    free(work->lanes[t].slots);
    free(work->lanes[t].latency);
  }
  free(work->lanes);
  work->lanes = NULL;
}

size_t work_bytes(const struct work *work) {
  return work->threads * work->batches * work->batch_tokens * work->bed->token_bytes;
}

static const char *source_of(const struct work *work, unsigned thread, size_t batch) {
  const size_t bytes = work->batch_tokens * work->bed->token_bytes;
  const size_t batches = work->bed->source_bytes / bytes;
  return work->bed->source + (thread * work->batches + batch) % batches * bytes;
}

/* The rows of one layer in a batch: K at the result, V behind them. */
static const char *layer_rows(const struct work *work, const char *source, uint32_t layer) {
  const struct model *model = work->bed->model;
  return source + (size_t)layer * work->batch_tokens * (model->k_bytes + model->v_bytes);
}

static void note(struct work *work, struct lane *lane, uint64_t started_ns, int rc) {
  if (work->timed) measure_latency_add(lane->latency, measure_now_ns() - started_ns);
  if (rc != 0 && lane->rc == 0) lane->rc = rc;
}

static uint64_t call_begins(const struct work *work) {
  return work->timed ? measure_now_ns() : 0;
}

static kvstow_prefix prefix_of(const struct work *work, const struct lane *lane, size_t tokens) {
  return (kvstow_prefix)KVSTOW_PREFIX(work->bed->space, lane->tokens, tokens);
}

/* ---- ways ----------------------------------------------------------------------------------- */

static int append_batch(struct work *work, unsigned thread, size_t batch) {
  struct lane *lane = &work->lanes[thread];
  const struct model *model = work->bed->model;
  const char *source = source_of(work, thread, batch);
  if (batch == 0) {
    const kvstow_prefix nothing = prefix_of(work, lane, 0);
    const int rc = kvstow_seq_open(&nothing, &lane->seq);
    if (rc != 0) return rc;
  }
  int rc =
      kvstow_seq_tokens(lane->seq, lane->tokens + batch * work->batch_tokens, work->batch_tokens);
  for (uint32_t layer = 0; rc == 0 && layer < model->layers; layer++) {
    const char *k = layer_rows(work, source, layer);
    const uint64_t started = call_begins(work);
    rc = kvstow_seq_append(lane->seq, layer, k, k + work->batch_tokens * model->k_bytes,
                           work->batch_tokens);
    note(work, lane, started, rc);
  }
  if (rc != 0 || batch + 1 == work->batches) {
    kvstow_seq_close(lane->seq);
    lane->seq = NULL;
  }
  return rc;
}

static void gather_sources(const struct work *work, struct lane *lane, const char *source) {
  const struct model *model = work->bed->model;
  const size_t tokens = work->bed->block_tokens;
  struct iovec *iov = lane->iov;
  for (size_t b = 0; b < batch_blocks(work); b++) {
    lane->sources[b] = (kvstow_source){iov, (int)model->layers * (model->v_bytes > 0 ? 2 : 1)};
    for (uint32_t layer = 0; layer < model->layers; layer++) {
      const char *k = layer_rows(work, source, layer);
      const char *v = k + work->batch_tokens * model->k_bytes;
      *iov++ = (struct iovec){(char *)k + b * tokens * model->k_bytes, tokens * model->k_bytes};
      if (model->v_bytes > 0)
        *iov++ = (struct iovec){(char *)v + b * tokens * model->v_bytes, tokens * model->v_bytes};
    }
  }
}

static int store_batch(struct work *work, unsigned thread, size_t batch) {
  struct lane *lane = &work->lanes[thread];
  const size_t blocks = batch_blocks(work);
  gather_sources(work, lane, source_of(work, thread, batch));
  const kvstow_prefix prefix = prefix_of(work, lane, (batch + 1) * work->batch_tokens);
  const uint64_t started = call_begins(work);
  const int rc = kvstow_store(&prefix, batch * blocks, blocks, lane->sources, 0, NULL);
  note(work, lane, started, rc);
  return rc;
}

/* The calls alone: what fills the room is the caller's. */
static int reserve_batch(struct work *work, unsigned thread, size_t batch) {
  struct lane *lane = &work->lanes[thread];
  const size_t blocks = batch_blocks(work);
  const kvstow_prefix prefix = prefix_of(work, lane, (batch + 1) * work->batch_tokens);
  const uint64_t started = call_begins(work);
  int rc = kvstow_reserve(&prefix, batch * blocks, blocks, 0, 0, lane->slots);
  if (rc == 0) rc = kvstow_commit(work->bed->store, lane->slots, blocks);
  note(work, lane, started, rc);
  return rc;
}

const struct way way_append = {"copy", "seq_append", false, true, append_batch};
const struct way way_store = {"copy", "store", true, true, store_batch};
const struct way way_reserve = {"reserve", "reserve+commit", true, false, reserve_batch};

/* Sleeps until batch `b` is due. */
static void pace(const struct work *work, uint64_t started_ns, size_t b) {
  if (work->bytes_s <= 0) return;
  const double bytes = (double)b * (double)work->batch_tokens * (double)work->bed->token_bytes;
  const uint64_t due_ns = started_ns + (uint64_t)(bytes / work->bytes_s * 1e9);
  const struct timespec due = {(time_t)(due_ns / 1000000000u), (long)(due_ns % 1000000000u)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR) continue;
}

static void run_lane(void *arg, unsigned thread) {
  struct work *work = arg;
  struct lane *lane = &work->lanes[thread];
  const uint64_t started = measure_now_ns();
  lane->rc = 0;
  lane->tokens[0] = atomic_fetch_add(&work->bed->names, 1);
  for (size_t b = 0; b < work->batches && lane->rc == 0; b++) {
    pace(work, started, b);
    const int rc = work->way->batch(work, thread, b);
    if (lane->rc == 0) lane->rc = rc;
  }
}

struct measure_span work_run(struct work *work, struct bench_report *report) {
  const struct measure_span span = measure_parallel(work->threads, run_lane, work);
  for (unsigned t = 0; t < work->threads; t++) {
    if (work->lanes[t].rc == 0) continue;
    char why[KVSTOW_MESSAGE_BYTES];
    kvstow_message(work->bed->store, why, sizeof why);
    bench_fail(report, "%s, %s: %s: %s", work->bed->model->name, work->way->call,
               kvstow_strerror(work->lanes[t].rc), why);
  }
  return span;
}

void work_latency(struct work *work, struct measure_latency *latency) {
  memset(latency, 0, sizeof *latency);
  for (unsigned t = 0; t < work->threads; t++) {
    measure_latency_merge(latency, work->lanes[t].latency);
    memset(work->lanes[t].latency, 0, sizeof *latency);
  }
}

void work_write_latency(json_t *row, const struct measure_latency *latency) {
  bench_real(row, "p50_us", measure_latency_ns(latency, 0.50) / 1e3);
  bench_real(row, "p99_us", measure_latency_ns(latency, 0.99) / 1e3);
  bench_real(row, "p999_us", measure_latency_ns(latency, 0.999) / 1e3);
  bench_real(row, "max_us", (double)latency->max_ns / 1e3);
}

/* ---- limits --------------------------------------------------------------------------------- */

/* Each thread's own part of the target, whole blocks. */
static size_t share_bytes(const struct work *work) {
  const size_t block = work->bed->token_bytes * work->bed->block_tokens;
  return work->bed->target_bytes / work->threads / block * block;
}

static void memcpy_lane(void *arg, unsigned thread) {
  struct work *work = arg;
  const size_t bytes = work->batch_tokens * work->bed->token_bytes, share = share_bytes(work);
  char *target = work->bed->target + thread * share;
  size_t at = 0;
  for (size_t b = 0; b < work->batches; b++) {
    if (at + bytes > share) at = 0;
    memcpy(target + at, source_of(work, thread, b), bytes);
    at += bytes;
  }
}

struct measure_span work_memcpy(struct work *work) {
  return measure_parallel(work->threads, memcpy_lane, work);
}

static void pieces_lane(void *arg, unsigned thread) {
  struct work *work = arg;
  const struct bed *bed = work->bed;
  const struct model *model = bed->model;
  const size_t share = share_bytes(work), tokens = bed->block_tokens;
  const size_t block_bytes = bed->token_bytes * tokens, blocks = share / block_bytes;
  const size_t plane_bytes = block_bytes / model->layers;
  char *target = bed->target + thread * share;
  for (size_t b = 0; b < work->batches; b++) {
    const char *source = source_of(work, thread, b);
    for (uint32_t layer = 0; layer < model->layers; layer++) {
      const char *k = layer_rows(work, source, layer);
      const char *v = k + work->batch_tokens * model->k_bytes;
      for (size_t i = 0, rows; i < work->batch_tokens; i += rows) {
        const size_t at = b * work->batch_tokens + i, row = at % tokens;
        rows = tokens - row < work->batch_tokens - i ? tokens - row : work->batch_tokens - i;
        char *plane = target + at / tokens % blocks * block_bytes + layer * plane_bytes;
        memcpy(plane + row * model->k_bytes, k + i * model->k_bytes, rows * model->k_bytes);
        if (model->v_bytes > 0)
          memcpy(plane + tokens * model->k_bytes + row * model->v_bytes, v + i * model->v_bytes,
                 rows * model->v_bytes);
      }
    }
  }
}

struct measure_span work_memcpy_pieces(struct work *work) {
  return measure_parallel(work->threads, pieces_lane, work);
}

/* ---- verification --------------------------------------------------------------------------- */

/* One row of tokens `at` of a thread's sequence, against where it came from. */
static bool row_equal(const struct work *work, unsigned thread, size_t at, uint32_t layer,
                      const char *plane) {
  const struct model *model = work->bed->model;
  const size_t tokens = work->bed->block_tokens, row = at % tokens, i = at % work->batch_tokens;
  const char *k = layer_rows(work, source_of(work, thread, at / work->batch_tokens), layer);
  const char *v = k + work->batch_tokens * model->k_bytes;
  return memcmp(plane + row * model->k_bytes, k + i * model->k_bytes, model->k_bytes) == 0 &&
         memcmp(plane + tokens * model->k_bytes + row * model->v_bytes, v + i * model->v_bytes,
                model->v_bytes) == 0;
}

static uint64_t verify_block(const struct work *work, unsigned thread, size_t block,
                             const char *payload) {
  const struct bed *bed = work->bed;
  uint64_t unequal = 0;
  for (uint32_t layer = 0; layer < bed->model->layers; layer++) {
    for (size_t row = 0; row < bed->block_tokens; row++)
      unequal += !row_equal(work, thread, block * bed->block_tokens + row, layer,
                            payload + (size_t)layer * bed->plane_bytes);
  }
  return unequal;
}

static uint64_t verify_lane(struct work *work, unsigned thread, struct bench_report *report) {
  const struct bed *bed = work->bed;
  const kvstow_prefix prefix =
      prefix_of(work, &work->lanes[thread], work->batches * work->batch_tokens);
  kvstow_lease *lease;
  kvstow_held held;
  int rc = kvstow_match(&prefix, 0, &lease, &held);
  uint64_t bytes = 0;
  for (size_t b = 0; rc == 0 && b < held.blocks; b++) {
    const void *payload;
    rc = kvstow_view(lease, b, 0, &payload, NULL);
    if (rc != 0) break;
    const uint64_t unequal = verify_block(work, thread, b, payload);
    if (unequal > 0)
      bench_fail(report, "%s, %s: block %zu has %llu wrong rows", bed->model->name, work->way->call,
                 b, (unsigned long long)unequal);
    bytes += bed->block_tokens * bed->token_bytes;
    kvstow_unview(lease, b);
  }
  if (rc != 0)
    bench_fail(report, "%s, %s: reading back: %s", bed->model->name, work->way->call,
               kvstow_strerror(rc));
  kvstow_lease_release(lease);
  return bytes;
}

uint64_t work_verify(struct work *work, struct bench_report *report) {
  uint64_t bytes = 0;
  for (unsigned t = 0; t < work->threads; t++) bytes += verify_lane(work, t, report);
  return bytes;
}
