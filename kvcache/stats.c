/* stats.c - what has happened, as a struct, as JSON, as Prometheus text.
 *
 * Each number is listed once, in FIELDS; both texts are made from the list.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "kvcache/store.h"

/* All that is allocated in proportion to blocks, segments or roots. */
static uint64_t metadata_bytes(const kvstow *store, const struct kvs_pool_stats *pool) {
  uint64_t ids = 0;
  for (uint32_t i = 0; i < store->segments_count; i++) ids += store->segments[i].ids_room;
  return kvs_index_bytes(&store->index) + pool->metadata_bytes + ids * sizeof(uint32_t) +
         store->segments_count * sizeof *store->segments +
         store->wanted_room * sizeof *store->wanted + store->buried_room * sizeof *store->buried +
         store->loads_room * sizeof(*store->loads) +
         store->roots.room * (sizeof *store->roots.rows + sizeof *store->roots.buckets);
}

static void get_occupancy(const kvstow *store, kvstow_stats *s) {
  struct kvs_pool_stats pool;
  kvs_pool_get_stats(store->pool, &pool);
  s->blocks = store->index.live;
  s->ram_blocks = store->ram_blocks;
  s->dirty_blocks = store->ram_blocks - store->both_blocks;
  s->pinned_blocks = store->pinned_blocks;
  s->ssd_blocks = store->ssd_records;
  s->leases = store->leases;
  s->ram_budget_bytes = store->options.ram_bytes;
  s->ram_payload_bytes = pool.payload_bytes;
  s->ram_used_bytes = pool.slab_bytes;
  s->ram_capacity_blocks = pool.capacity_frames;
  s->metadata_bytes = metadata_bytes(store, &pool);
  s->metadata_bytes_a_block = /* memory is not given back: over the most blocks held at once */
      store->index.used == 0 ? 0 : (double)s->metadata_bytes / (double)store->index.used;
  s->fragmentation =
      pool.slab_bytes == 0 ? 0 : 1 - (double)pool.frame_bytes / (double)pool.slab_bytes;
}

static void get_counters(const kvstow *store, kvstow_stats *s) {
  const struct kvs_counters *c = &store->count;
  s->matches = c->matches;
  s->match_blocks_asked = c->match_blocks_asked;
  s->match_tokens_asked = c->match_tokens_asked;
  s->ram_hit_blocks = c->ram_hit_blocks;
  s->ssd_hit_blocks = c->ssd_hit_blocks;
  s->hit_tokens = c->hit_tokens;
  s->stored_blocks = c->stored_blocks;
  s->stored_tokens = c->stored_tokens;
  s->stored_bytes = c->stored_bytes;
  s->duplicate_blocks = c->duplicate_blocks;
  s->store_refused = c->store_refused;
  s->read_tokens = c->read_tokens;
  s->read_bytes = c->read_bytes;
  s->demoted_blocks = c->demoted_blocks;
  s->demoted_bytes = c->demoted_bytes;
  s->promoted_blocks = c->promoted_blocks;
  s->promoted_bytes = c->promoted_bytes;
  s->evicted_blocks = c->evicted_blocks;
  s->forgotten_blocks = c->forgotten_blocks;
  s->ram_evictions = c->ram_evictions;
  s->reinserted_blocks = c->reinserted_blocks;
  s->admission_refused = c->admission_refused;
  s->segments_reclaimed = c->segments_reclaimed;
  s->stored_waits = c->stored_waits;
  s->prefetch_chain = c->chain;
  s->prefetch_layer = c->layer;
  s->corrupt_blocks = c->corrupt_blocks;
  s->failed_loads = c->failed_loads;
  s->timeouts = c->timeouts;
  s->cancels = c->cancels;
  s->collisions = c->collisions;
  s->expired_blocks = c->expired_blocks;
  s->policies_replaced = c->policies_replaced;
  s->recovered_blocks = c->recovered_blocks;
  s->recovery_us = c->recovery_us;
  s->events_dropped = kvs_events_dropped(store->events);
  kvs_trace_counts(store, &s->trace_records, &s->trace_dropped);
}

void kvstow_get_stats(const kvstow *store_const, kvstow_stats *stats) {
  if (store_const == NULL || stats == NULL) return;
  kvstow *store = (kvstow *)store_const; /* only for its lock */
  kvstow_stats s = {.size = sizeof s};
  kvs_lock(store);
  get_occupancy(store, &s);
  get_counters(store, &s);
  const uint64_t first = store->count.first_demoted_bytes;
  kvstow__unlock(&store->lock);
  kvs_histogram_get(&store->match_time, &s.match_latency);
  kvs_histogram_get(&store->store_time, &s.store_latency);
  kvs_histogram_get(&store->read_time, &s.read_latency);
  kvs_histogram_get(&store->load_time, &s.load_latency);
  if (store->tier != NULL) {
    s.tier.size = sizeof s.tier;
    kvstow_tier_get_stats(store->tier, &s.tier);
    s.write_amplification = first == 0 ? 0 : (double)s.tier.bytes_written / (double)first;
  }
  /* An older program's struct is shorter: filled as far as it goes. */
  const size_t size = stats->size < sizeof s ? stats->size : sizeof s;
  s.size = stats->size;
  memcpy(stats, &s, size);
}

/* ---- text ----------------------------------------------------------------------------------- */

enum type { U64, U32, F64 };
enum kind { GAUGE, COUNTER };

struct field {
  const char
      *name; /* in JSON; with "kvstow_" before and, for counters, "_total" behind it elsewhere */
  size_t offset;
  enum type type;
  enum kind kind;
};

#define CACHE(name, type, kind)                                                                    \
  { #name, offsetof(kvstow_stats, name), type, kind }
#define TIER(name, type, kind)                                                                     \
  { "tier_" #name, offsetof(kvstow_stats, tier.name), type, kind }

#define PREDICTED(name, outcome)                                                                   \
  { "prefetch_" #name "_" #outcome, offsetof(kvstow_stats, prefetch_##name.outcome), U64, COUNTER }
#define PREFETCH(name)                                                                             \
  PREDICTED(name, issued), PREDICTED(name, used), PREDICTED(name, wasted), PREDICTED(name, late)

static const struct field FIELDS[] = {CACHE(blocks, U64, GAUGE),
                                      CACHE(ram_blocks, U64, GAUGE),
                                      CACHE(ssd_blocks, U64, GAUGE),
                                      CACHE(dirty_blocks, U64, GAUGE),
                                      CACHE(pinned_blocks, U64, GAUGE),
                                      CACHE(leases, U64, GAUGE),
                                      CACHE(ram_budget_bytes, U64, GAUGE),
                                      CACHE(ram_payload_bytes, U64, GAUGE),
                                      CACHE(ram_used_bytes, U64, GAUGE),
                                      CACHE(ram_capacity_blocks, U64, GAUGE),
                                      CACHE(metadata_bytes, U64, GAUGE),
                                      CACHE(metadata_bytes_a_block, F64, GAUGE),
                                      CACHE(fragmentation, F64, GAUGE),
                                      CACHE(matches, U64, COUNTER),
                                      CACHE(match_blocks_asked, U64, COUNTER),
                                      CACHE(match_tokens_asked, U64, COUNTER),
                                      CACHE(ram_hit_blocks, U64, COUNTER),
                                      CACHE(ssd_hit_blocks, U64, COUNTER),
                                      CACHE(hit_tokens, U64, COUNTER),
                                      CACHE(stored_blocks, U64, COUNTER),
                                      CACHE(stored_tokens, U64, COUNTER),
                                      CACHE(stored_bytes, U64, COUNTER),
                                      CACHE(duplicate_blocks, U64, COUNTER),
                                      CACHE(store_refused, U64, COUNTER),
                                      CACHE(read_tokens, U64, COUNTER),
                                      CACHE(read_bytes, U64, COUNTER),
                                      CACHE(demoted_blocks, U64, COUNTER),
                                      CACHE(demoted_bytes, U64, COUNTER),
                                      CACHE(promoted_blocks, U64, COUNTER),
                                      CACHE(promoted_bytes, U64, COUNTER),
                                      CACHE(evicted_blocks, U64, COUNTER),
                                      CACHE(forgotten_blocks, U64, COUNTER),
                                      CACHE(ram_evictions, U64, COUNTER),
                                      CACHE(reinserted_blocks, U64, COUNTER),
                                      CACHE(admission_refused, U64, COUNTER),
                                      CACHE(segments_reclaimed, U64, COUNTER),
                                      CACHE(stored_waits, U64, COUNTER),
                                      CACHE(write_amplification, F64, GAUGE),
                                      PREFETCH(chain),
                                      PREFETCH(layer),
                                      CACHE(corrupt_blocks, U64, COUNTER),
                                      CACHE(failed_loads, U64, COUNTER),
                                      CACHE(timeouts, U64, COUNTER),
                                      CACHE(cancels, U64, COUNTER),
                                      CACHE(collisions, U64, COUNTER),
                                      CACHE(expired_blocks, U64, COUNTER),
                                      CACHE(policies_replaced, U64, COUNTER),
                                      CACHE(events_dropped, U64, COUNTER),
                                      CACHE(trace_records, U64, COUNTER),
                                      CACHE(trace_dropped, U64, COUNTER),
                                      CACHE(recovered_blocks, U64, GAUGE),
                                      CACHE(recovery_us, U64, GAUGE),
                                      TIER(dirs_offline, U32, GAUGE),
                                      TIER(segments, U32, GAUGE),
                                      TIER(segments_free, U32, GAUGE),
                                      TIER(segments_sealed, U32, GAUGE),
                                      TIER(segments_bad, U32, GAUGE),
                                      TIER(segments_unread, U32, GAUGE),
                                      TIER(budget_bytes, U64, GAUGE),
                                      TIER(disk_bytes, U64, GAUGE),
                                      TIER(records_written, U64, COUNTER),
                                      TIER(bytes_written, U64, COUNTER),
                                      TIER(bytes_written_today, U64, GAUGE),
                                      TIER(records_read, U64, COUNTER),
                                      TIER(bytes_read, U64, COUNTER),
                                      TIER(read_requests, U64, COUNTER),
                                      TIER(device_reads, U64, COUNTER),
                                      TIER(device_read_bytes, U64, COUNTER),
                                      TIER(merges, U64, COUNTER),
                                      TIER(device_writes, U64, COUNTER),
                                      TIER(flushes, U64, COUNTER),
                                      TIER(io_errors, U64, COUNTER),
                                      TIER(corrupt_headers, U64, COUNTER),
                                      TIER(corrupt_planes, U64, COUNTER),
                                      TIER(stale_reads, U64, COUNTER),
                                      TIER(short_ios, U64, COUNTER),
                                      TIER(retries, U64, COUNTER),
                                      TIER(disk_full, U64, COUNTER)};

static const struct {
  const char *name;
  size_t offset;
} LATENCIES[] = {{"match", offsetof(kvstow_stats, match_latency)},
                 {"store", offsetof(kvstow_stats, store_latency)},
                 {"read", offsetof(kvstow_stats, read_latency)},
                 {"load", offsetof(kvstow_stats, load_latency)}};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* A text that is cut where the buffer ends but goes on being measured. */
struct text {
  char *to;
  size_t bytes, length;
};

static void add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(struct text *text, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  char *to = text->length < text->bytes ? text->to + text->length : NULL;
  const int length = vsnprintf(to, to == NULL ? 0 : text->bytes - text->length, format, arguments);
  va_end(arguments);
  if (length > 0) text->length += (size_t)length;
}

static void add_number(struct text *text, const kvstow_stats *stats, const struct field *field) {
  const char *at = (const char *)stats + field->offset;
  uint64_t u64;
  uint32_t u32;
  double f64;
  if (field->type == U64) {
    memcpy(&u64, at, sizeof u64);
    add(text, "%" PRIu64, u64);
  } else if (field->type == U32) {
    memcpy(&u32, at, sizeof u32);
    add(text, "%" PRIu32, u32);
  } else {
    memcpy(&f64, at, sizeof f64);
    add(text, "%.6g", f64);
  }
}

size_t kvstow_stats_json(const kvstow *store, char *buffer, size_t bytes) {
  kvstow_stats stats = {.size = sizeof stats};
  kvstow_get_stats(store, &stats);
  struct text text = {buffer, bytes, 0};
  add(&text, "{");
  for (size_t i = 0; i < COUNT(FIELDS); i++) {
    add(&text, "\"%s\": ", FIELDS[i].name);
    add_number(&text, &stats, &FIELDS[i]);
    add(&text, ", ");
  }
  for (size_t i = 0; i < COUNT(LATENCIES); i++) {
    kvstow_latency l;
    memcpy(&l, (const char *)&stats + LATENCIES[i].offset, sizeof l);
    add(&text,
        "\"%s_latency_us\": {\"count\": %" PRIu64
        ", \"mean\": %.3f, \"p50\": %.3f, \"p99\": %.3f, \"p999\": %.3f, \"max\": %.3f}, ",
        LATENCIES[i].name, l.count, l.mean_us, l.p50_us, l.p99_us, l.p999_us, l.max_us);
  }
  add(&text, "\"engine\": \"%s\", \"direct_io\": %s}",
      stats.tier.engine == NULL ? "none" : stats.tier.engine,
      stats.tier.direct_io ? "true" : "false");
  return text.length;
}

size_t kvstow_stats_prometheus(const kvstow *store, char *buffer, size_t bytes) {
  kvstow_stats stats = {.size = sizeof stats};
  kvstow_get_stats(store, &stats);
  struct text text = {buffer, bytes, 0};
  for (size_t i = 0; i < COUNT(FIELDS); i++) {
    const bool counter = FIELDS[i].kind == COUNTER;
    add(&text, "# TYPE kvstow_%s%s %s\nkvstow_%s%s ", FIELDS[i].name, counter ? "_total" : "",
        counter ? "counter" : "gauge", FIELDS[i].name, counter ? "_total" : "");
    add_number(&text, &stats, &FIELDS[i]);
    add(&text, "\n");
  }
  for (size_t i = 0; i < COUNT(LATENCIES); i++) {
    kvstow_latency l;
    memcpy(&l, (const char *)&stats + LATENCIES[i].offset, sizeof l);
    const char *name = LATENCIES[i].name;
    add(&text, "# TYPE kvstow_%s_seconds summary\n", name);
    add(&text, "kvstow_%s_seconds{quantile=\"0.5\"} %.9g\n", name, l.p50_us / 1e6);
    add(&text, "kvstow_%s_seconds{quantile=\"0.99\"} %.9g\n", name, l.p99_us / 1e6);
    add(&text, "kvstow_%s_seconds{quantile=\"0.999\"} %.9g\n", name, l.p999_us / 1e6);
    add(&text, "kvstow_%s_seconds_sum %.9g\nkvstow_%s_seconds_count %" PRIu64 "\n", name,
        l.mean_us * (double)l.count / 1e6, name, l.count);
  }
  return text.length;
}
