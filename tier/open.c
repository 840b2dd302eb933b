/* tier/open.c - opening and closing a tier, options, statistics.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tier/barrier.h"
#include "tier/pump.h"
#include "tier/readahead.h"
#include "tier/super.h"
#include "tier/tuning.h"

#define REQUEST_MIN_BYTES 65536u
#define REQUEST_MAX_BYTES (1u << 30)

void kvstow_tier_options_init(kvstow_tier_options *options) {
  *options = (kvstow_tier_options){
      .size = sizeof *options,
      .engine = KVSTOW_ENGINE_AUTO,
      .queue_depth = 64,
      .request_max_bytes = 4u << 20,
      .readahead_bytes = 32u << 20,
  };
  kvstow_tuning_init(&options->tuning);
}

/* ---- options -------------------------------------------------------------------------------- */

static bool power_of_two(uint32_t value) {
  return value != 0 && (value & (value - 1)) == 0;
}

static const char *what_is_wrong(const kvstow_tier_options *o) {
  if (o->size < sizeof *o) return "options.size: call kvstow_tier_options_init first";
  if (o->dirs_count > KVSTOW__DIRS_MAX || (o->dirs_count > 0 && !o->dirs))
    return "dirs: at most 16 directories";
  for (uint32_t i = 0; i < o->dirs_count; i++)
    if (!o->dirs[i] || !o->dirs[i][0]) return "dirs: a path is empty";
  if (o->segment_bytes != 0 &&
      (!power_of_two(o->segment_bytes) || o->segment_bytes < KVSTOW__SEGMENT_BYTES_MIN ||
       o->segment_bytes > KVSTOW__SEGMENT_BYTES_MAX))
    return "segment_bytes: a power of two from 1 MiB to 1 GiB, or 0";
  if (o->encryption_key && o->dirs_count == 0) return "encryption_key: there are no dirs";
  if (o->queue_depth < 1 || o->queue_depth > 1024) return "queue_depth: 1 to 1024";
  if (o->request_max_bytes < REQUEST_MIN_BYTES || o->request_max_bytes > REQUEST_MAX_BYTES)
    return "request_max_bytes: 64 KiB to 1 GiB";
  if (o->engine != KVSTOW_ENGINE_AUTO && o->engine != KVSTOW_ENGINE_URING &&
      o->engine != KVSTOW_ENGINE_THREADS)
    return "engine: unknown";
  return kvstow__tuning_fault(&o->tuning);
}

/* ---- making and unmaking -------------------------------------------------------------------- */

static void tier_free(kvstow_tier *tier) {
  if (!tier) return;
  kvstow__super_close(tier);
  for (uint32_t id = 0; tier->segments && id < tier->files_count; id++)
    free(tier->segments[id].entries);
  kvstow__readahead_free(tier->readahead);
  kvstow__cipher_free(tier->cipher);
  kvstow__rooms_free(tier->rooms);
  free(tier->segments);
  free(tier->dirty);
  pthread_cond_destroy(&tier->jobs_finished);
  pthread_cond_destroy(&tier->slot_wanted);
  kvstow__mutex_finish(&tier->read_lock);
  kvstow__mutex_finish(&tier->inbox_lock);
  kvstow__mutex_finish(&tier->lock);
  kvstow__mutex_finish(&tier->make_lock);
  kvstow__mutex_finish(&tier->append_lock);
  kvstow__mutex_finish(&tier->barrier_lock);
  free(tier);
}

static kvstow_tier *tier_new(const kvstow_tier_options *o, const kvstow__io *io) {
  kvstow_tier *tier = calloc(1, sizeof *tier);
  if (!tier) return NULL;
  kvstow__mutex_init(&tier->barrier_lock, KVSTOW__RANK_BARRIER);
  kvstow__mutex_init(&tier->append_lock, KVSTOW__RANK_APPEND);
  kvstow__mutex_init(&tier->make_lock, KVSTOW__RANK_MAKE);
  kvstow__mutex_init(&tier->lock, KVSTOW__RANK_TABLE);
  kvstow__mutex_init(&tier->inbox_lock, KVSTOW__RANK_INBOX);
  kvstow__mutex_init(&tier->read_lock, KVSTOW__RANK_READ);
  pthread_cond_init(&tier->jobs_finished, NULL);
  pthread_cond_init(&tier->slot_wanted, NULL);
  tier->inbox_ops_tail = &tier->inbox_ops;
  tier->inbox_jobs_tail = &tier->inbox_jobs;
  tier->inbox_reads_tail = &tier->inbox_reads;
  tier->io = *io;
  tier->pid = getpid();
  tier->dirs_count = o->dirs_count;
  tier->read_only = o->read_only;
  tier->budget_bytes = o->budget_bytes;
  tier->segment_bytes = o->segment_bytes;
  tier->queue_depth = o->queue_depth;
  tier->request_max_bytes = o->request_max_bytes / KVSTOW_PAGE_BYTES * KVSTOW_PAGE_BYTES;
  tier->readahead_bytes = o->readahead_bytes;
  kvstow__tuning_set(&tier->tuning, &o->tuning);
  for (uint32_t i = 0; i < KVSTOW__DIRS_MAX; i++) {
    tier->dirs[i].fd = tier->dirs[i].lock_fd = -1;
    tier->heads[i].segment = tier->heads[i].ready = KVSTOW__NO_SEGMENT;
  }
  tier->readahead = kvstow__readahead_new(tier);
  tier->rooms = kvstow__rooms_new();
  bool whole = tier->readahead != NULL && tier->rooms != NULL;
  for (uint32_t i = 0; i < o->dirs_count; i++) {
    tier->dirs[i].path = strdup(o->dirs[i]);
    whole = whole && tier->dirs[i].path;
  }
  if (whole) return tier;
  tier_free(tier);
  return NULL;
}

/* ---- budget --------------------------------------------------------------------------------- */

/* Before a store is created as well as after one was opened: what can't be used is not made. */
static int check_budget(kvstow_tier *tier) {
  const uint64_t least = kvstow__overhead_bytes(tier->dirs_count, 1) + tier->segment_bytes;
  if (tier->read_only || tier->budget_bytes >= least) return 0;
  return kvstow__fail(tier, KVSTOW_EBUDGET,
                      "budget of %" PRIu64 " bytes: one segment of %" PRIu32
                      " bytes needs at least %" PRIu64,
                      tier->budget_bytes, tier->segment_bytes, least);
}

static int count_slots(kvstow_tier *tier) {
  const int code = check_budget(tier);
  if (code || tier->budget_bytes < tier->segment_bytes) return code;
  uint64_t slots = tier->budget_bytes / tier->segment_bytes;
  if (slots > KVSTOW__SLOTS_MAX) slots = KVSTOW__SLOTS_MAX;
  while (slots > 1 &&
         kvstow__overhead_bytes(tier->dirs_count, (uint32_t)slots) + slots * tier->segment_bytes >
             tier->budget_bytes)
    slots--;
  tier->segments_count = (uint32_t)slots;
  return 0;
}

static bool see_number(void *arg, const char *name) {
  kvstow_tier *tier = arg;
  uint32_t number;
  if (kvstow__segment_number(name, &number) && number < KVSTOW__SLOTS_MAX &&
      number >= tier->files_count)
    tier->files_count = number + 1;
  return true;
}

/* Numbers of files may lie beyond the slots until they are fitted to the budget. */
static int count_files(kvstow_tier *tier) {
  tier->files_count = tier->segments_count;
  for (uint32_t d = 0; d < tier->dirs_count; d++) {
    const int error = tier->io.files->dir_list(tier->io.env, tier->dirs[d].fd, see_number, tier);
    if (error)
      return kvstow__fail(tier, kvstow__code_of_errno(error), "%s: listing: %s", tier->dirs[d].path,
                          strerror(error));
  }
  if (tier->read_only) tier->segments_count = tier->files_count;
  tier->segments = calloc((size_t)tier->files_count + 1, sizeof *tier->segments);
  tier->dirty = calloc((size_t)tier->files_count + 1, sizeof *tier->dirty);
  return tier->segments && tier->dirty ? 0 : KVSTOW_ENOMEM;
}

static void probe_dirs(kvstow_tier *tier) {
  tier->direct_io = true;
  for (uint32_t d = 0; d < tier->dirs_count; d++) {
    kvstow__dir *dir = &tier->dirs[d];
    dir->direct = !tier->io.buffered && tier->io.files->dir_direct(tier->io.env, dir->fd, "super");
    tier->direct_io = tier->direct_io && dir->direct;
    uint64_t allocated = 0;
    tier->io.files->size(tier->io.env, dir->fd, NULL, &allocated);
    dir->disk_bytes = allocated + KVSTOW__SUPER_BYTES;
  }
}

/* ---- open ----------------------------------------------------------------------------------- */

static int open_log(kvstow_tier *tier, const uint8_t *key) {
  int code = check_budget(tier);
  if (!code) code = kvstow__super_open(tier, key);
  if (!code) code = count_slots(tier);
  if (!code) code = count_files(tier);
  if (!code) probe_dirs(tier);
  return code;
}

static int open_store(kvstow_tier *tier, const kvstow_tier_options *options) {
  int code = tier->dirs_count > 0 ? open_log(tier, options->encryption_key) : 0;
  if (code) return code;
  char why[KVSTOW_MESSAGE_BYTES / 2];
  code = kvstow__pump_start(tier, options->engine, why, sizeof why);
  if (code) return kvstow__fail(tier, code, "%s", why);
  if (tier->dirs_count == 0) return 0;
  code = kvstow__recover(tier);
  if (!code && !tier->read_only) kvstow__maker_start(tier);
  return code;
}

int kvstow__tier_open_with(const kvstow_tier_options *options, const kvstow__io *io,
                           kvstow_tier **out, char *why, size_t why_bytes) {
  if (why && why_bytes > 0) why[0] = 0;
  if (out) *out = NULL;
  const char *wrong = !out       ? "open: tier is NULL"
                      : !options ? "open: options is NULL"
                                 : what_is_wrong(options);
  if (wrong) {
    if (why) snprintf(why, why_bytes, "%s", wrong);
    return KVSTOW_EINVAL;
  }
  const uint64_t start = kvstow__now_us();
  kvstow_tier *tier = tier_new(options, io);
  if (!tier) {
    if (why) snprintf(why, why_bytes, "%s", kvstow_strerror(KVSTOW_ENOMEM));
    return KVSTOW_ENOMEM;
  }
  const int code = open_store(tier, options);
  if (code) {
    if (why)
      snprintf(why, why_bytes, "%s", tier->message[0] ? tier->message : kvstow_strerror(code));
    kvstow__pump_stop(tier);
    tier_free(tier);
    return code;
  }
  tier->recovery_us = kvstow__now_us() - start;
  *out = tier;
  return 0;
}

int kvstow_tier_open(const kvstow_tier_options *options, kvstow_tier **tier, char *why,
                     size_t why_bytes) {
  const kvstow__io io = {
      .files = &kvstow__files,
      .engines = {&kvstow__engine_uring, &kvstow__engine_threads},
      .kinds = {KVSTOW_ENGINE_URING, KVSTOW_ENGINE_THREADS},
  };
  return kvstow__tier_open_with(options, &io, tier, why, why_bytes);
}

int kvstow_tier_close(kvstow_tier *tier) {
  if (!tier) return 0;
  if (getpid() != tier->pid)
    return KVSTOW_ESTATE; /* a forked child: threads and lock are not its own */
  int code = 0;
  kvstow__maker_stop(tier);
  if (!tier->read_only && tier->dirs_count > 0) {
    kvstow__lock(&tier->barrier_lock);
    code = kvstow__flush_locked(tier);
    const int checkpoint = kvstow__checkpoint(tier);
    const int synced = kvstow__sync_dirty(tier);
    if (!code) code = checkpoint ? checkpoint : synced;
    if (!code) code = kvstow__code_of_errno(tier->write_error); /* of the checkpoint */
    kvstow__unlock(&tier->barrier_lock);
  }
  kvstow__pump_stop(tier);
  tier_free(tier);
  return code;
}

kvstow__rooms *kvstow__tier_rooms(kvstow_tier *tier) {
  return tier->rooms;
}

int64_t kvstow_tier_owner_max_bytes(const kvstow_tier *tier, uint32_t planes) {
  return kvstow_record_owner_max_bytes(planes) -
         (tier && tier->cipher ? kvstow__seal_bytes(planes) : 0);
}

void kvstow_tier_identity(const kvstow_tier *tier, uint8_t uuid[KVSTOW_UUID_BYTES],
                          uint64_t *hash_seed) {
  if (uuid) memcpy(uuid, tier->uuid, KVSTOW_UUID_BYTES);
  if (hash_seed) *hash_seed = tier->hash_seed;
}

/* ---- statistics ----------------------------------------------------------------------------- */

static uint64_t get(const _Atomic uint64_t *counter) {
  return atomic_load_explicit(counter, memory_order_relaxed);
}

static void stats_of_segments(kvstow_tier *tier, kvstow_tier_stats *s) {
  kvstow__lock(&tier->lock);
  for (uint32_t id = 0; id < tier->segments_count; id++) {
    const kvstow__segment *segment = &tier->segments[id];
    s->segments_free += segment->state == KVSTOW_SEGMENT_FREE;
    s->segments_sealed += segment->state == KVSTOW_SEGMENT_SEALED;
    s->segments_bad += segment->state == KVSTOW_SEGMENT_BAD;
    s->segments_unread += segment->state == KVSTOW_SEGMENT_UNREAD;
    s->disk_bytes += segment->disk_bytes;
  }
  s->dirs_offline = kvstow__dirs_offline(tier);
  s->offline = tier->dirs_count > 0 && s->dirs_offline == tier->dirs_count;
  s->bytes_written_today = kvstow__written_today(tier, 0);
  kvstow__unlock(&tier->lock);
}

void kvstow_tier_get_stats(const kvstow_tier *tier, kvstow_tier_stats *stats) {
  if (!tier || !stats) return;
  const kvstow__counters *c = &tier->counters;
  kvstow_tier_stats s = {
      .size = sizeof s,
      .engine = tier->engine->name,
      .direct_io = tier->direct_io,
      .encrypted = tier->cipher != NULL,
      .segments = tier->segments_count,
      .budget_bytes = tier->budget_bytes,
      .records_written = get(&c->records_written),
      .bytes_written = get(&c->bytes_written),
      .records_read = get(&c->records_read),
      .bytes_read = get(&c->bytes_read),
      .read_requests = get(&c->read_requests),
      .device_reads = get(&c->device_reads),
      .device_read_bytes = get(&c->device_read_bytes),
      .merges = get(&c->merges),
      .device_writes = get(&c->device_writes),
      .flushes = get(&c->flushes),
      .io_errors = get(&c->io_errors),
      .corrupt_headers = get(&c->corrupt_headers),
      .corrupt_planes = get(&c->corrupt_planes),
      .stale_reads = get(&c->stale_reads),
      .short_ios = get(&tier->io_counters.short_ios),
      .retries = get(&tier->io_counters.retries),
      .recovered_records = tier->recovered_records,
      .recovered_segments = tier->recovered_segments,
      .walked_segments = tier->walked_segments,
      .recovery_us = tier->recovery_us,
      .file_reads = get(&c->file_reads),
      .file_bytes_read = get(&c->file_bytes_read),
      .file_bytes_appended = get(&c->file_bytes_appended),
      .sequential_reads = get(&c->sequential_reads),
      .random_reads = get(&c->random_reads),
      .streams_detected = get(&c->streams_detected),
      .stream_resets = get(&c->stream_resets),
      .sequential = {.issued = get(&c->sequential_issued),
                     .used = get(&c->sequential_used),
                     .wasted = get(&c->sequential_wasted),
                     .late = get(&c->sequential_late)},
      .disk_full = get(&c->disk_full),
  };
  memcpy(s.engine_reason, tier->engine_reason, sizeof s.engine_reason);
  for (uint32_t d = 0; d < tier->dirs_count; d++) s.disk_bytes += tier->dirs[d].disk_bytes;
  stats_of_segments((kvstow_tier *)(uintptr_t)tier, &s);
  /* An older program's struct is shorter: filled as far as it goes. */
  s.size = stats->size;
  memcpy(stats, &s, s.size < sizeof s ? s.size : sizeof s);
}
