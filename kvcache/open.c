/* open.c - opening, recovering, closing a store; time and messages.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kvcache/copy.h"
#include "kvcache/store.h"
#include "tier/tuning.h"

#define SEGMENT_BYTES_DEFAULT ((uint32_t)64 << 20)
#define SEGMENT_BYTES_MIN ((uint32_t)1 << 20)
#define SEGMENTS_WANTED 8u
#define HUGE_BYTES ((uint64_t)2 << 20)
#define RECORD_BYTES_MIN 8192u
#define PACKING_PCT 94u /* of the region, before it has been measured */

const char *kvstow_version(void) {
  return KVSTOW_VERSION;
}

/* ---- time and messages ---------------------------------------------------------------------- */

uint64_t kvs_now_us(void) {
  return kvs_now_ns() / 1000;
}

uint32_t kvs_now_s(void) {
  return (uint32_t)time(NULL);
}

uint64_t kvs_deadline(const kvstow *store, uint32_t timeout_ms) {
  const uint64_t ms = timeout_ms == 0 ? store->options.load_timeout_ms : timeout_ms;
  return kvs_now_us() + ms * 1000;
}

bool kvs_wait_load(kvstow *store, uint64_t deadline_us) {
  if (kvs_now_us() >= deadline_us) return false;
  const bool woken = kvstow__wait_until(&store->changed, &store->lock, deadline_us);
  kvs_tell(store);
  return woken;
}

bool kvs_wait_until(kvstow *store, uint64_t deadline_us) {
  store->waiters++;
  const bool in_time = kvs_wait_load(store, deadline_us);
  store->waiters--;
  return in_time;
}

int kvs_check_flags(kvstow *store, const char *call, uint32_t flags) {
  const uint32_t unknown =
      flags & ~(uint32_t)(KVSTOW_NOWAIT | KVSTOW_NO_PROMOTE | KVSTOW_BYPASS_RAM);
  if (unknown == 0) return 0;
  return kvs_fail(store, KVSTOW_EINVAL, "%s: unknown flags %#x", call, unknown);
}

int kvs_fail(kvstow *store, int code, const char *format, ...) {
  char text[KVSTOW_MESSAGE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  kvstow__lock(&store->message_lock);
  memcpy(store->message, text, sizeof store->message);
  kvstow__unlock(&store->message_lock);
  return code;
}

void kvstow_message(const kvstow *store, char *text, size_t bytes) {
  if (text == NULL || bytes == 0) return;
  text[0] = '\0';
  if (store == NULL) return;
  kvstow *unconst = (kvstow *)store;
  kvstow__lock(&unconst->message_lock);
  snprintf(text, bytes, "%s", store->message);
  kvstow__unlock(&unconst->message_lock);
}

void kvstow_region(const kvstow *store, void **base, size_t *bytes) {
  void *at = NULL;
  size_t length = 0;
  if (store != NULL) kvs_pool_region(store->pool, &at, &length);
  if (base != NULL) *base = at;
  if (bytes != NULL) *bytes = length;
}

/* ---- options -------------------------------------------------------------------------------- */

void kvstow_options_init(kvstow_options *options) {
  *options = (kvstow_options){.size = sizeof *options,
                              .queue_depth = 64,
                              .ram_policy = "default",
                              .ssd_policy = "lru",
                              .high_watermark_pct = 90,
                              .low_watermark_pct = 80,
                              .reinsert_pct = 25,
                              .load_timeout_ms = 10000,
                              .store_timeout_ms = 10000,
                              .populate = true,
                              .metrics = true};
  kvstow_tuning_init(&options->tuning);
}

int kvstow_set_tuning(kvstow *store, const kvstow_tuning *tuning) {
  if (store == NULL) return KVSTOW_EINVAL;
  const char *fault = tuning == NULL ? "tuning: NULL" : kvstow__tuning_fault(tuning);
  if (fault != NULL) return kvs_fail(store, KVSTOW_EINVAL, "set_tuning: %s", fault);
  if (store->tier != NULL) (void)kvstow_tier_set_tuning(store->tier, tuning); /* it was checked */
  kvs_lock(store);
  store->options.tuning = *tuning;
  kvstow__unlock(&store->lock);
  return 0;
}

void kvstow_get_tuning(const kvstow *store, kvstow_tuning *tuning) {
  if (store == NULL || tuning == NULL) return;
  kvstow *s = (kvstow *)(uintptr_t)store;
  kvstow__lock(&s->lock);
  *tuning = store->options.tuning;
  kvstow__unlock(&s->lock);
}

static int check_options(kvstow *store, const kvstow_options *o) {
  if (o->size < sizeof *o)
    return kvs_fail(store, KVSTOW_EINVAL, "options: size %zu, expected %zu", o->size, sizeof *o);
  if (o->ssd_bytes > 0 && (o->dirs == NULL || o->dirs_count == 0))
    return kvs_fail(store, KVSTOW_EINVAL, "options: ssd_bytes %llu, but no dirs",
                    (unsigned long long)o->ssd_bytes);
  if ((unsigned)o->engine > KVSTOW_ENGINE_THREADS || (unsigned)o->write_mode > KVSTOW_WRITE_THROUGH)
    return kvs_fail(store, KVSTOW_EINVAL, "options: engine %d, write_mode %d: no such thing",
                    (int)o->engine, (int)o->write_mode);
  if (o->ram_bytes < KVS_RAM_MIN_BYTES)
    return kvs_fail(store, KVSTOW_EBUDGET, "options: ram_bytes %llu, at least %llu are needed",
                    (unsigned long long)o->ram_bytes, (unsigned long long)KVS_RAM_MIN_BYTES);
  if (o->low_watermark_pct >= o->high_watermark_pct || o->high_watermark_pct > 100 ||
      o->reinsert_pct > 100 || o->load_timeout_ms == 0)
    return kvs_fail(store, KVSTOW_EINVAL,
                    "options: watermarks %u < %u <= 100, reinsert %u <= 100, load_timeout_ms %u "
                    "> 0 expected",
                    o->low_watermark_pct, o->high_watermark_pct, o->reinsert_pct,
                    o->load_timeout_ms);
  const char *fault = kvstow__tuning_fault(&o->tuning);
  if (fault != NULL) return kvs_fail(store, KVSTOW_EINVAL, "options: tuning: %s", fault);
  return 0;
}

/* ---- parts ---------------------------------------------------------------------------------- */

/* A small budget gets small segments: there must be several, or reclaiming one loses too much. */
static uint32_t segment_bytes(const kvstow_options *o) {
  if (o->segment_bytes != 0) return o->segment_bytes;
  char path[4096];
  struct stat st;
  snprintf(path, sizeof path, "%s/super", o->dirs[0]);
  if (stat(path, &st) == 0) return 0; /* as stored */
  uint32_t bytes = SEGMENT_BYTES_DEFAULT;
  while (bytes > SEGMENT_BYTES_MIN && o->ssd_bytes / bytes < SEGMENTS_WANTED) bytes /= 2;
  return bytes;
}

static int open_tier(kvstow *store) {
  const kvstow_options *o = &store->options;
  kvstow_tier_options t;
  kvstow_tier_options_init(&t);
  t.dirs = o->dirs;
  t.dirs_count = o->dirs_count;
  t.budget_bytes = o->ssd_bytes;
  t.segment_bytes = segment_bytes(o);
  t.engine = o->engine;
  t.queue_depth = o->queue_depth == 0 ? 64 : o->queue_depth;
  t.tuning = o->tuning;
  t.encryption_key = o->encryption_key;
  char why[KVSTOW_MESSAGE_BYTES] = "";
  const int rc = kvstow_tier_open(&t, &store->tier, why, sizeof why);
  if (rc != 0) return kvs_fail(store, rc, "%s", why);
  uint8_t uuid[KVSTOW_UUID_BYTES];
  kvstow_tier_identity(store->tier, uuid, &store->seed);
  kvstow_segment_info info;
  (void)kvstow_tier_segment(store->tier, 0, &info);
  store->segment_bytes = (uint32_t)info.segment_bytes;
  store->segments_count = kvstow_tier_segment_count(store->tier);
  store->segments = calloc(store->segments_count, sizeof *store->segments);
  return store->segments == NULL ? KVSTOW_ENOMEM : 0;
}

/* ---- recovery ------------------------------------------------------------------------------- */

/* A newer record of a block, of another length perhaps, replaces an older one, which must not be found by the next
 * recovery. */
static void recover_again(kvstow *store, uint32_t id, const kvstow_record *record) {
  kvs_ssd_lose(store, id, true);
  kvs_entry(&store->index, id)->padded_bytes = record->planes * record->plane_bytes;
  const kvstow_access access = kvs_access_alone(store, id, KVSTOW_ON_SSD, KVS_SSD_POLICY);
  kvs_ssd_gain(store, id, record->loc, &access);
  kvs_entry(&store->index, id)->written_s = (uint32_t)record->written_s;
}

struct recovery {
  kvstow *store;
  bool no_memory;
};

/* Ends the recovery: a block on SSD that is not known here could not be forgotten either. */
static bool lacks_memory(struct recovery *recovery) {
  recovery->no_memory = true;
  return false;
}

static bool recover_record(void *arg, const kvstow_record *record) {
  struct recovery *recovery = arg;
  kvstow *store = recovery->store;
  kvstow_block_info info;
  const uint64_t padded = (uint64_t)record->planes * record->plane_bytes;
  if (kvstow_tag_describe(record->tag, &info) != 0 || padded == 0 ||
      padded > store->segment_bytes || record->planes != (info.layers == 0 ? 1 : info.layers))
    return true; /* written by something else through the tier */
  const uint32_t root = kvs_root_take(store, info.root, info.space, true);
  if (root == KVS_NO_ENTRY) return lacks_memory(recovery);
  struct kvs_root *row = &store->roots.rows[root];
  row->layers = info.layers;
  row->block_tokens = info.tokens_count;
  row->plane_bytes = record->plane_bytes;
  kvs_shard_lock(&store->index, record->key);
  const uint32_t present = kvs_shard_find(&store->index, record->key, root);
  kvs_shard_unlock(&store->index, record->key);
  if (present != KVS_NO_ENTRY) {
    recover_again(store, present, record);
    kvs_root_give(store, root);
    return true;
  }
  const uint32_t id = kvs_entry_new(&store->index);
  if (id == KVS_NO_ENTRY) {
    kvs_root_give(store, root);
    return lacks_memory(recovery);
  }
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  entry->key = record->key;
  entry->parent_lo = info.parent.lo;
  entry->root = root;
  entry->padded_bytes = (uint32_t)padded;
  entry->depth = info.depth;
  entry->written_s = (uint32_t)record->written_s;
  kvs_shard_lock(&store->index, record->key);
  const bool inserted = kvs_shard_insert(&store->index, id);
  kvs_shard_unlock(&store->index, record->key);
  if (!inserted) {
    kvs_entry_free(&store->index, id);
    kvs_root_give(store, root);
    return lacks_memory(recovery);
  }
  const kvstow_access access = kvs_access_alone(store, id, KVSTOW_ON_SSD, KVS_SSD_POLICY);
  kvs_ssd_gain(store, id, record->loc, &access);
  store->count.recovered_blocks++;
  return true;
}

struct aged {
  uint32_t segment, generation;
};

static int by_generation(const void *a, const void *b) {
  const struct aged *x = a, *y = b;
  return (x->generation > y->generation) - (x->generation < y->generation);
}

/* Oldest segment first: later records are newer, and the SSD policy sees them in order. */
static int recover(kvstow *store) {
  const uint64_t start = kvs_now_us();
  struct aged *aged = calloc(store->segments_count, sizeof *aged);
  if (aged == NULL) return KVSTOW_ENOMEM;
  uint32_t count = 0;
  for (uint32_t i = 0; i < store->segments_count; i++) {
    kvstow_segment_info info;
    if (kvstow_tier_segment(store->tier, i, &info) == 0 && info.records > 0)
      aged[count++] = (struct aged){i, info.generation};
  }
  qsort(aged, count, sizeof *aged, by_generation);
  struct recovery recovery = {.store = store};
  kvs_lock(store);
  for (uint32_t i = 0; i < count && !recovery.no_memory; i++) {
    const int rc = kvstow_tier_scan(store->tier, aged[i].segment, recover_record, &recovery);
    if (rc == KVSTOW_ENOMEM) recovery.no_memory = true;
    /* One unreadable segment costs its blocks, not the store, and not for ever: it may be legible another time.
     * Unless room is wanted, or somebody forgets: he would find nothing there to erase. */
    else if (rc != 0)
      store->segments[aged[i].segment].unread = true;
  }
  kvstow_tier_stats stats = {.size = sizeof stats};
  kvstow_tier_get_stats(store->tier, &stats);
  store->count.recovery_us = kvs_now_us() - start + stats.recovery_us;
  kvstow__unlock(&store->lock);
  free(aged);
  return recovery.no_memory ? KVSTOW_ENOMEM : 0;
}

/* ---- open and close ------------------------------------------------------------------------- */

static void init_locks(kvstow *store) {
  kvstow__mutex_init(&store->lock, KVS_RANK_STORE);
  kvstow__mutex_init(&store->message_lock, KVS_RANK_MESSAGE);
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&store->changed, &monotonic);
  pthread_cond_init(&store->demote_wake, &monotonic);
  pthread_condattr_destroy(&monotonic);
}

/* Frees whatever open has made. Completions still under way end in kvstow_tier_close. */
static int destroy(kvstow *store) {
  kvs_async_destroy(store);
  kvs_trace_close(store);
  kvs_demoter_stop(store);
  const int rc = kvstow_tier_close(store->tier);
  kvs_reclaim_finish(store); /* until here completions look at it */
  kvs_events_destroy(store->events);
  kvs_policy_finish(&store->ram);
  kvs_policy_finish(&store->ssd);
  while (store->spaces != NULL) {
    struct kvstow_space *next = store->spaces->next;
    free(store->spaces);
    store->spaces = next;
  }
  kvs_index_finish(&store->index);
  kvs_pool_destroy(store->pool);
  free(store->roots.rows);
  free(store->roots.buckets);
  free(store->wanted);
  free(store->buried);
  for (uint32_t i = 0; store->segments != NULL && i < store->segments_count; i++)
    kvs_segment_clear(&store->segments[i]);
  free(store->segments);
  free(store->loads);
  free(store->spare_tokens);
  pthread_cond_destroy(&store->changed);
  pthread_cond_destroy(&store->demote_wake);
  kvstow__mutex_finish(&store->message_lock);
  kvstow__mutex_finish(&store->lock);
  free(store);
  return rc;
}

static int make_parts(kvstow *store) {
  const kvstow_options *o = &store->options;
  const bool ssd = o->ssd_bytes > 0;
  int rc = kvs_index_init(&store->index,
                          o->ram_bytes / RECORD_BYTES_MIN + o->ssd_bytes / RECORD_BYTES_MIN + 1024);
  if (rc != 0) return rc;
  if (ssd && (rc = open_tier(store)) != 0) return rc;
  if (!ssd) {
    store->seed = o->hash_seed;
    if (store->seed == 0 && getrandom(&store->seed, sizeof store->seed, 0) < 0)
      store->seed = kvs_now_ns();
  }
  kvs_secret_make(&store->secret, store->seed);
  store->fences_others = kvs_copy_fence_others_ready();
  const uint64_t ram_bytes = o->ram_bytes / HUGE_BYTES * HUGE_BYTES;
  rc = kvs_pool_create(ram_bytes, o->populate, &store->pool);
  if (rc != 0)
    return kvs_fail(store, rc, "ram: %llu bytes could not be had", (unsigned long long)ram_bytes);
  store->capacity_bytes = ram_bytes / 100 * PACKING_PCT;
  rc = kvs_policy_make(store, &store->ram, o->ram_policy, store->index.ram_nodes, ram_bytes);
  if (rc == 0)
    rc = kvs_policy_make(store, &store->ssd, o->ssd_policy, store->index.ssd_nodes, o->ssd_bytes);
  if (rc == 0 && o->on_event != NULL)
    rc = kvs_events_create(o->on_event, o->event_arg, &store->events);
  if (rc == 0 && o->trace != NULL) rc = kvs_trace_open(store, o->trace);
  if (rc == 0 && ssd) rc = recover(store);
  if (rc == 0 && ssd) rc = kvs_demoter_start(store);
  return rc;
}

int kvstow_open(const kvstow_options *options, kvstow **out, char *why, size_t why_bytes) {
  if (why != NULL && why_bytes > 0) why[0] = '\0';
  if (out != NULL) *out = NULL;
  if (out == NULL || options == NULL) {
    if (why != NULL)
      snprintf(why, why_bytes, "open: %s is NULL", out == NULL ? "store" : "options");
    return KVSTOW_EINVAL;
  }
  kvstow *store = calloc(1, sizeof *store);
  if (store == NULL) {
    if (why != NULL) snprintf(why, why_bytes, "%s", kvstow_strerror(KVSTOW_ENOMEM));
    return KVSTOW_ENOMEM;
  }
  init_locks(store);
  store->pid = getpid();
  store->roots.free = KVS_NO_ENTRY;
  store->clean_head = store->clean_tail = KVS_NO_ENTRY;
  int rc = check_options(store, options);
  if (rc == 0) {
    store->options = *options;
    rc = make_parts(store);
  }
  if (rc == 0) {
    store->options.dirs = NULL; /* the caller's from here on */
    store->options.ram_policy = store->options.ssd_policy = store->options.trace = NULL;
    store->options.encryption_key = NULL;
    *out = store;
    return 0;
  }
  if (why != NULL && why_bytes > 0)
    snprintf(why, why_bytes, "%s",
             store->message[0] != '\0' ? store->message : kvstow_strerror(rc));
  (void)destroy(store);
  return rc;
}

int kvstow_close(kvstow *store) {
  if (store == NULL) return 0;
  if (getpid() != store->pid) return KVSTOW_ESTATE; /* a forked child: it has none of our threads */
  kvs_lock(store);
  const bool busy =
      store->leases > 0 || store->sequences > 0 || store->queues > 0 || store->reservations > 0;
  kvstow__unlock(&store->lock);
  if (busy)
    return kvs_fail(store, KVSTOW_EBUSY,
                    "close: %llu leases, %llu sequences, %llu queues, %llu reservations are open",
                    (unsigned long long)store->leases, (unsigned long long)store->sequences,
                    (unsigned long long)store->queues, (unsigned long long)store->reservations);
  const int flushed = kvs_flush(store);
  const int closed = destroy(store);
  return flushed != 0 ? flushed : closed;
}
