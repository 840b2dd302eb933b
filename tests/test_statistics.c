/* tests/test_statistics.c - what a store tells of itself: events, statistics, metrics.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/fixture.h"
#include "support/wall_clock.h"

static const kv_shape shape = {4, 128, 128, 64, 0}; /* 64 KiB a block */

enum { BLOCK = 64 * 1024, SEGMENT = 4 * 1024 * 1024 };

#define RAM (8 * KV_MIB)
#define AMPLE (256 * KV_MIB)

/* ---- events --------------------------------------------------------------------------------- */

enum { EVENTS_MAX = 65536 };

typedef struct event_log {
  pthread_mutex_t lock;
  kvstow_event events[EVENTS_MAX];
  size_t count;
} event_log;

static void note_event(void *arg, const kvstow_event *event) {
  event_log *log = arg;
  pthread_mutex_lock(&log->lock);
  if (log->count < EVENTS_MAX) log->events[log->count++] = *event;
  pthread_mutex_unlock(&log->lock);
}

static size_t events_of(event_log *log, kvstow_event_kind kind) {
  pthread_mutex_lock(&log->lock);
  size_t count = 0;
  for (size_t i = 0; i < log->count; i++) count += log->events[i].kind == kind;
  pthread_mutex_unlock(&log->lock);
  return count;
}

static bool same(kvstow_key a, kvstow_key b) {
  return a.lo == b.lo && a.hi == b.hi;
}

static void wait_for_events(event_log *log, kvstow_event_kind kind, size_t count) {
  const double end = kv_now_s() + 20;
  while (events_of(log, kind) < count) {
    KV_CHECK(kv_now_s() < end, "%zu events of kind %d, expected %zu", events_of(log, kind),
             (int)kind, count);
    kv_sleep_ms(2);
  }
}

static void events_tell_what_happens(void **state) {
  (void)state;
  static event_log log = {.lock = PTHREAD_MUTEX_INITIALIZER};
  log.count = 0;
  fixture f;
  fixture_init(&f, "statistics", &shape, RAM, 6 * KV_MIB + 512 * KV_KIB, 1024 * 1024);
  f.options.on_event = note_event;
  f.options.event_arg = &log;
  open_store(&f);
  KV_OK(put(&f, 1, 16));
  wait_for_events(&log, KVSTOW_EVENT_STORED, 16);
  pthread_mutex_lock(&log.lock);
  for (uint32_t i = 0; i < 16; i++) {
    const kvstow_event *e = &log.events[i];
    KV_CHECK(e->kind == KVSTOW_EVENT_STORED && e->depth == i && same(e->root, log.events[0].root),
             "event %u: kind %d depth %u", i, (int)e->kind, e->depth);
    for (uint32_t j = 0; j < i; j++)
      KV_CHECK(!same(e->key, log.events[j].key), "two blocks with one key");
  }
  pthread_mutex_unlock(&log.lock);
  KV_OK(put(&f, 1, 16)); /* duplicates are no event */
  KV_OK(kvstow_flush(f.store));
  wait_for_events(&log, KVSTOW_EVENT_DEMOTED, 16);
  assert_int_equal(events_of(&log, KVSTOW_EVENT_STORED), 16);
  for (uint64_t doc = 10; doc < 60; doc++) KV_OK(put(&f, doc, 16));
  wait_for_events(&log, KVSTOW_EVENT_EVICTED, 16);
  /* what is on SSD alone comes back through RAM: the newest documents are in RAM, so ask for all */
  for (uint64_t doc = 10; doc < 60; doc++) get(&f, doc, 16, 0);
  const kvstow_stats s = kv_stats(f.store);
  KV_CHECK(s.events_dropped == 0 || log.count > 0, "all events dropped");
  if (s.promoted_blocks > 0) wait_for_events(&log, KVSTOW_EVENT_PROMOTED, 1);
  const int rc = kvstow_close(f.store);
  KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "close: %s", kvstow_errname(rc));

  /* In the order of each block: stored before anything else, nothing after evicted but stored. */
  size_t wrong = 0;
  for (size_t i = 0; i < log.count && i < 4000; i++) {
    const kvstow_event *e = &log.events[i];
    if (e->kind == KVSTOW_EVENT_STORED) continue;
    int last = -1;
    for (size_t j = i; j-- > 0;)
      if (same(log.events[j].key, e->key)) {
        last = (int)log.events[j].kind;
        break;
      }
    wrong += last == -1 || last == KVSTOW_EVENT_EVICTED;
  }
  KV_CHECK(wrong == 0 || s.events_dropped > 0, "%zu events about blocks that did not exist", wrong);
  kv_dir_drop(f.dir);
}

/* ---- statistics ----------------------------------------------------------------------------- */

static void check_balanced(const char *json) {
  int depth = 0;
  bool in_string = false;
  char open[64];
  for (const char *at = json; *at != 0; at++) {
    if (in_string) {
      if (*at == '\\')
        at++;
      else if (*at == '"')
        in_string = false;
      continue;
    }
    if (*at == '"') in_string = true;
    if (*at == '{' || *at == '[') {
      KV_CHECK(depth < 64, "nested too deep");
      open[depth++] = *at;
    }
    if (*at == '}' || *at == ']')
      KV_CHECK(depth > 0 && open[--depth] == (*at == '}' ? '{' : '['), "brackets at %.20s", at);
  }
  KV_CHECK(depth == 0 && !in_string, "not closed: %.60s", json);
}

/* Runs python3 on the text if there is one; anything it objects to is a failure. */
static void check_by_python(const char *json, const char *scratch) {
  if (system("python3 -c 'import json' >/dev/null 2>&1") != 0) return;
  char path[4608], command[9600];
  snprintf(path, sizeof path, "%s-stats.json", scratch);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs(json, file);
  fclose(file);
  snprintf(command, sizeof command,
           "python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); assert isinstance(d,dict) "
           "and len(d)>5' '%s'",
           path);
  const int rc = system(command);
  unlink(path);
  KV_CHECK(rc == 0, "python3 can't read: %.200s", json);
}

static void check_prometheus(const char *text) {
  size_t samples = 0, helps = 0;
  for (const char *line = text; *line != 0;) {
    const char *end = strchr(line, '\n');
    KV_CHECK(end != NULL, "the last line has no end: %.60s", line);
    if (line[0] == '#') {
      KV_CHECK(strncmp(line, "# HELP ", 7) == 0 || strncmp(line, "# TYPE ", 7) == 0, "%.60s", line);
      helps++;
    } else if (end > line) {
      const char *at = line;
      KV_CHECK(strncmp(line, "kvstow_", 7) == 0, "a metric without our name: %.60s", line);
      while (at < end && ((*at >= 'a' && *at <= 'z') || (*at >= '0' && *at <= '9') || *at == '_' ||
                          (*at >= 'A' && *at <= 'Z') || *at == ':'))
        at++;
      if (*at == '{') {
        const char *close_brace = memchr(at, '}', (size_t)(end - at));
        KV_CHECK(close_brace != NULL && memchr(at, '"', (size_t)(close_brace - at)) != NULL,
                 "labels: %.60s", line);
        at = close_brace + 1;
      }
      KV_CHECK(*at == ' ', "no value: %.60s", line);
      char *after = NULL;
      (void)strtod(at + 1, &after);
      KV_CHECK(after == end && after > at + 1, "not a number: %.80s", line);
      samples++;
    }
    line = end + 1;
  }
  KV_CHECK(samples >= 20 && helps >= 20, "%zu samples, %zu comments", samples, helps);
}

static void statistics_can_be_read_by_programs(void **state) {
  (void)state;
  fixture f;
  fixture_init(&f, "statistics", &shape, RAM, 64 * KV_MIB, 1024 * 1024);
  for (int ram_only = 0; ram_only < 2; ram_only++) {
    if (ram_only) {
      kv_options(&f.options, NULL, RAM, 0, 0);
      f.store = kv_open(&f.options);
      f.space = kv_space(f.store, "statistics", &shape);
    } else {
      open_store(&f);
      kv_space(f.store, "a \"name\" with \\ and \n in it", &shape);
    }
    KV_OK(put(&f, 1, 16));
    get(&f, 1, 16, 0);
    const size_t json_bytes = kvstow_stats_json(f.store, NULL, 0);
    char *text = malloc(json_bytes + 4096);
    size_t length = kvstow_stats_json(f.store, text, json_bytes + 4096);
    KV_CHECK(length == strlen(text), "length %zu, text %zu", length, strlen(text));
    check_balanced(text);
    KV_CHECK(strstr(text, "nan") == NULL && strstr(text, "inf") == NULL, "not JSON: %s", text);
    check_by_python(text, f.dir);
    free(text);
    const size_t prometheus_bytes = kvstow_stats_prometheus(f.store, NULL, 0);
    text = malloc(prometheus_bytes + 4096);
    length = kvstow_stats_prometheus(f.store, text, prometheus_bytes + 4096);
    KV_CHECK(length == strlen(text), "length %zu, text %zu", length, strlen(text));
    check_prometheus(text);
    free(text);
    KV_OK(kvstow_close(f.store));
  }
  kv_dir_drop(f.dir);
}

static void statistics_count_what_was_done(void **state) {
  (void)state;
  fixture f;
  fixture_init(&f, "statistics", &shape, RAM, AMPLE, SEGMENT);
  open_store(&f);
  KV_OK(put(&f, 1, 16));
  kvstow_stats s = kv_stats(f.store);
  KV_CHECK(s.stored_blocks == 16 && s.stored_tokens == 16 * shape.block_tokens,
           "%" PRIu64 " blocks, %" PRIu64 " tokens stored", s.stored_blocks, s.stored_tokens);
  KV_CHECK(s.blocks == 16 && s.ram_blocks == 16, "%" PRIu64 " blocks", s.blocks);
  KV_CHECK(s.ram_payload_bytes == 16ull * BLOCK, "%" PRIu64 " payload bytes", s.ram_payload_bytes);
  KV_CHECK(s.store_latency.count == 16, "%" PRIu64 " stores timed", s.store_latency.count);
  KV_CHECK(get(&f, 1, 16, 0) == 16, "not restored");
  KV_CHECK(get(&f, 2, 16, 0) == 0, "restored from nothing");
  s = kv_stats(f.store);
  KV_CHECK(s.matches == 2 && s.match_blocks_asked == 32 &&
               s.match_tokens_asked == 32 * shape.block_tokens,
           "%" PRIu64 " matches, %" PRIu64 " blocks asked", s.matches, s.match_blocks_asked);
  KV_CHECK(
      s.ram_hit_blocks == 16 && s.ssd_hit_blocks == 0 && s.hit_tokens == 16 * shape.block_tokens,
      "%" PRIu64 " hits", s.ram_hit_blocks);
  KV_CHECK(s.leases == 0, "leases left");
  restart(&f);
  KV_CHECK(get(&f, 1, 16, 0) == 16, "not restored");
  s = kv_stats(f.store);
  KV_CHECK(s.ssd_hit_blocks == 16 && s.recovered_blocks == 16 && s.tier.records_read >= 16,
           "%" PRIu64 " hits on SSD, %" PRIu64 " recovered", s.ssd_hit_blocks, s.recovered_blocks);
  KV_CHECK(s.tier.engine != NULL && s.tier.budget_bytes <= AMPLE && s.tier.disk_bytes > 0, "tier");
  /* a small stats struct of an older program is filled as far as it goes */
  kvstow_stats old;
  memset(&old, 0x77, sizeof old);
  old.size = offsetof(kvstow_stats, ram_budget_bytes);
  kvstow_get_stats(f.store, &old);
  KV_CHECK(old.blocks == 16 && old.ram_budget_bytes == 0x7777777777777777ull,
           "written behind the struct");
  tear_down(&f);
}

static void without_metrics_nothing_is_timed(void **state) {
  (void)state;
  fixture f;
  fixture_init(&f, "statistics", &shape, RAM, AMPLE, SEGMENT);
  f.options.metrics = false;
  open_store(&f);
  KV_OK(put(&f, 1, 16));
  KV_CHECK(get(&f, 1, 16, 0) == 16, "not restored");
  const kvstow_stats s = kv_stats(f.store);
  KV_CHECK(s.match_latency.count + s.store_latency.count + s.read_latency.count == 0, "timed");
  KV_CHECK(s.matches == 0 && s.read_tokens == 0, "counted");
  KV_CHECK(s.stored_blocks == 16 && s.ram_blocks == 16, "what is held must be known");
  tear_down(&f);
}

static void metadata_stays_small(void **state) {
  (void)state;
  static const kv_shape tiny = {1, 16, 16, 16, 0}; /* a page a block */
  fixture f;
  fixture_init(&f, "statistics", &shape, RAM, 48 * KV_MIB, 1024 * 1024);
  f.options.ram_policy = "lru"; /* which admits to SSD what nobody ever asked for */
  open_store(&f);
  kvstow_space *space = kv_space(f.store, "tiny blocks", &tiny);
  double worst = 0;
  uint64_t most = 0;                         /* rows are used again, not given back */
  for (uint64_t doc = 0; doc < 700; doc++) { /* 11200 blocks for 6000 places */
    kv_doc d;
    kv_doc_init(&d, space, &tiny, 1, doc, 16, NULL, 0);
    KV_OK(kv_doc_store(&d, 0, 16, 0));
    kv_doc_finish(&d);
    const kvstow_stats s = kv_stats(f.store);
    if (s.blocks > most) most = s.blocks;
    if (doc % 100 == 99) {
      const int rc = kvstow_flush(f.store);
      KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "flush: %s", kvstow_errname(rc));
    }
    if (s.metadata_bytes_a_block > worst && s.blocks > 1000) worst = s.metadata_bytes_a_block;
    KV_CHECK(s.metadata_bytes <= 136 * most + 64 * KV_KIB,
             "%" PRIu64 " bytes for %" PRIu64 " blocks: %.1f each", s.metadata_bytes, most,
             s.metadata_bytes_a_block);
  }
  const kvstow_stats s = kv_stats(f.store);
  printf("  at worst %.1f bytes a block; %" PRIu64 " blocks, %.1f now\n", worst, s.blocks,
         s.metadata_bytes_a_block);
  KV_CHECK(s.blocks > 3000, "only %" PRIu64 " blocks in 48 MiB", s.blocks);
  for (uint64_t doc = 690; doc < 700; doc++) {
    kv_doc d;
    kv_doc_init(&d, space, &tiny, 1, doc, 16, NULL, 0);
    KV_CHECK(kv_doc_restore(&d, 0) == 16, "document %" PRIu64 " not restored", doc);
    kv_doc_finish(&d);
  }
  const int rc = kvstow_close(f.store);
  KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "close: %s", kvstow_errname(rc));
  kv_dir_drop(f.dir);
}

/* A flush lists what it writes; the list goes when it is done. */
static void a_flush_leaves_no_metadata(void **state) {
  (void)state;
  static const kv_shape tiny = {1, 16, 16, 16, 0}; /* a page a block */
  enum { DOCS = 512, BLOCKS = 16 };
  fixture f;
  fixture_init(&f, "statistics", &shape, 128 * KV_MIB, 192 * KV_MIB, SEGMENT);
  open_store(&f);
  kvstow_space *space = kv_space(f.store, "tiny blocks", &tiny);
  for (uint64_t doc = 0; doc < DOCS; doc++) {
    kv_doc d;
    kv_doc_init(&d, space, &tiny, 1, doc, BLOCKS, NULL, 0);
    KV_OK(kv_doc_store(&d, 0, BLOCKS, 0));
    kv_doc_finish(&d);
  }
  const uint64_t before = kv_stats(f.store).metadata_bytes;
  KV_OK(kvstow_flush(f.store));
  const kvstow_stats s = kv_stats(f.store);
  KV_CHECK(s.ssd_blocks == DOCS * BLOCKS, "%" PRIu64 " blocks on SSD", s.ssd_blocks);
  /* four bytes a block on SSD remain: what its segment holds */
  KV_CHECK(s.metadata_bytes <= before + 8 * s.blocks + 32 * KV_KIB,
           "%" PRIu64 " bytes, %" PRIu64 " before the flush", s.metadata_bytes, before);
  KV_CHECK(s.metadata_bytes <= 136 * s.blocks + 64 * KV_KIB,
           "%" PRIu64 " bytes for %" PRIu64 " blocks: %.1f each", s.metadata_bytes, s.blocks,
           s.metadata_bytes_a_block);
  tear_down(&f);
}

static void daily_write_limit_refuses_demotion(void **state) {
  (void)state;
  fixture f;
  fixture_init(&f, "statistics", &shape, RAM, AMPLE, SEGMENT);
  f.options.write_bytes_a_day = 8 * KV_MIB;
  open_store(&f);
  for (uint64_t doc = 0; doc < 32; doc++) /* 32 MiB */
    KV_OK(put(&f, doc, 16));
  const kvstow_stats s = kv_stats(f.store);
  KV_CHECK(s.tier.bytes_written_today <= 9 * KV_MIB, "%" PRIu64 " bytes written",
           s.tier.bytes_written_today);
  KV_CHECK(s.admission_refused > 0, "nothing refused");
  KV_CHECK(get(&f, 31, 16, 0) == 16, "the newest document is gone");
  const double start = kv_now_s();
  int rc = kvstow_close(f.store);
  KV_CHECK(kv_now_s() - start < 20, "closing took %.0f s: it waits for what was refused",
           kv_now_s() - start);
  KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "close: %s", kvstow_errname(rc));
  kv_dir_drop(f.dir);
}

/* Whatever the time is where this runs: the library goes by the tests' clock, and it is noon there. */
static void no_midnight_comes_while_a_test_runs(void **state) {
  (void)state;
  fixture f;
  fixture_init(&f, "statistics", &shape, RAM, AMPLE, SEGMENT);
  open_store(&f);
  KV_OK(put(&f, 1, 16));
  KV_OK(kvstow_flush(f.store));
  const uint64_t written = kv_stats(f.store).tier.bytes_written_today;
  assert_true(written >= 16 * BLOCK);
  atomic_store(&wall_off_s, WALL_DAY_S / 2 - 3600);
  assert_int_equal(kv_stats(f.store).tier.bytes_written_today, written);
  atomic_store(&wall_off_s, WALL_DAY_S / 2);
  assert_int_equal(kv_stats(f.store).tier.bytes_written_today, 0);
  atomic_store(&wall_off_s, 0);
  tear_down(&f);
}

/* Blocks written of 1536 that go through 8 MiB of RAM, with room for 256 on SSD. */
static uint64_t demoted_with(const char *ram_policy) {
  fixture f;
  fixture_init(&f, "statistics", &shape, RAM, 16 * KV_MIB, 1024 * 1024);
  f.options.ram_policy = ram_policy;
  open_store(&f);
  for (uint64_t doc = 0; doc < 96; doc++) KV_OK(put(&f, doc, 16));
  const kvstow_stats s = kv_stats(f.store);
  const int rc = kvstow_close(f.store);
  KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "close: %s", kvstow_errname(rc));
  kv_dir_drop(f.dir);
  KV_CHECK(s.demoted_blocks + s.admission_refused > 1100, "RAM was not too small");
  return s.demoted_blocks;
}

/* It has seen enough when the SSD could have been filled twice. */
static void policy_refuses_demotion_once_it_has_seen_enough(void **state) {
  (void)state;
  const uint64_t all = demoted_with("lifetime:reads=0"), some = demoted_with("lifetime");
  KV_CHECK(all > 1100, "only %" PRIu64 " blocks written", all);
  KV_CHECK(some > 400 && some <= 600, "%" PRIu64 " blocks written", some);
}

static void region_is_one_and_fixed(void **state) {
  (void)state;
  fixture f;
  fixture_init(&f, "statistics", &shape, RAM, AMPLE, SEGMENT);
  open_store(&f);
  void *base, *again;
  size_t bytes, bytes_again;
  kvstow_region(f.store, &base, &bytes);
  KV_CHECK(bytes >= RAM && (uintptr_t)base % (2 * KV_MIB) == 0, "%zu bytes at %p", bytes, base);
  for (uint64_t doc = 0; doc < 32; doc++) KV_OK(put(&f, doc, 16));
  kvstow_region(f.store, &again, &bytes_again);
  KV_CHECK(base == again && bytes == bytes_again, "the region moved");
  kv_doc d = document(&f, 77, 2);
  kvstow_slot slots[2];
  KV_OK(kvstow_reserve(&d.prefix, 0, 2, 0, 0, slots));
  for (int i = 0; i < 2; i++)
    KV_CHECK((char *)slots[i].payload >= (char *)base &&
                 (char *)slots[i].payload + slots[i].bytes <= (char *)base + bytes,
             "a slot outside the region");
  kvstow_abort(f.store, slots, 2);
  kv_doc_finish(&d);
  tear_down(&f);
}

/* No leak of descriptors or threads over many lives. */
static int descriptors(void) {
  int count = 0;
  DIR *dir = opendir("/proc/self/fd");
  if (dir == NULL) return 0;
  while (readdir(dir) != NULL) count++;
  closedir(dir);
  return count;
}

static int threads_now(void) {
  int count = 0;
  DIR *dir = opendir("/proc/self/task");
  if (dir == NULL) return 0;
  while (readdir(dir) != NULL) count++;
  closedir(dir);
  return count;
}

static void closing_leaves_nothing_behind(void **state) {
  (void)state;
  fixture f;
  fixture_init(&f, "statistics", &shape, RAM, 64 * KV_MIB, 1024 * 1024);
  open_store(&f);
  KV_OK(kvstow_close(f.store));
  kv_sleep_ms(50);
  const int before = descriptors(), threads_before = threads_now();
  for (uint64_t turn = 0; turn < 20; turn++) {
    open_store(&f);
    KV_OK(put(&f, turn, 8));
    kvstow_queue *queue;
    KV_OK(kvstow_queue_create(f.store, &queue));
    KV_OK(kvstow_queue_destroy(queue));
    KV_CHECK(get(&f, turn, 8, 0) == 8, "not restored");
    KV_OK(kvstow_close(f.store));
  }
  kv_sleep_ms(50);
  KV_CHECK(descriptors() <= before, "%d descriptors, %d before", descriptors(), before);
  KV_CHECK(threads_now() <= threads_before, "%d threads, %d before", threads_now(), threads_before);
  kv_dir_drop(f.dir);
}

typedef struct slow_host {
  pthread_mutex_t lock; /* held: it takes no events */
  _Atomic uint64_t taken;
} slow_host;

static void take_event(void *arg, const kvstow_event *event) {
  slow_host *host = arg;
  (void)event;
  pthread_mutex_lock(&host->lock);
  atomic_fetch_add(&host->taken, 1);
  pthread_mutex_unlock(&host->lock);
}

/* Nobody waits for a host that takes none; what it lost is counted. */
static void events_a_slow_host_loses_are_counted(void **state) {
  (void)state;
  static slow_host host = {.lock = PTHREAD_MUTEX_INITIALIZER};
  static const kv_shape tiny = {1, 64, 64, 16, 0};
  fixture f = {.shape = &tiny};
  kv_options(&f.options, &f.dir, RAM, 0, 0);
  f.options.dirs_count = 0;
  f.options.on_event = take_event;
  f.options.event_arg = &host;
  f.store = kv_open(&f.options);
  f.space = kv_space(f.store, "statistics", &tiny);
  pthread_mutex_lock(&host.lock);
  for (uint64_t doc = 0; doc < 400; doc++) KV_OK(put(&f, doc, 32)); /* 100 MiB through 8 */
  pthread_mutex_unlock(&host.lock);
  const kvstow_stats s = kv_stats(f.store);
  const uint64_t made = s.stored_blocks + s.evicted_blocks;
  KV_CHECK(s.evicted_blocks > 0 && s.events_dropped > 0, "%" PRIu64 " evicted, %" PRIu64 " dropped",
           s.evicted_blocks, s.events_dropped);
  KV_OK(kvstow_close(f.store)); /* delivers what waits */
  KV_CHECK(host.taken + s.events_dropped == made,
           "%" PRIu64 " taken, %" PRIu64 " dropped of %" PRIu64, host.taken, s.events_dropped,
           made);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(events_tell_what_happens),
    cmocka_unit_test(events_a_slow_host_loses_are_counted),
    cmocka_unit_test(statistics_can_be_read_by_programs),
    cmocka_unit_test(statistics_count_what_was_done),
    cmocka_unit_test(without_metrics_nothing_is_timed),
    cmocka_unit_test(metadata_stays_small),
    cmocka_unit_test(a_flush_leaves_no_metadata),
    cmocka_unit_test(daily_write_limit_refuses_demotion),
    cmocka_unit_test(no_midnight_comes_while_a_test_runs),
    cmocka_unit_test(policy_refuses_demotion_once_it_has_seen_enough),
    cmocka_unit_test(region_is_one_and_fixed),
    cmocka_unit_test(closing_leaves_nothing_behind),
};

KV_MAIN("statistics")
