/* match.c - `kvstow bench match`: what it takes to find a long prefix in a large index.
 *
 * The index is filled with opaque blocks of one page, so that a million of them fit: with their
 * header pages they take 8 KiB each, all but a sixteenth of them on SSD alone. A match looks at names and
 * header pages only, so the blocks' size does not matter to it. Which prefixes are in RAM is the policy's
 * choice: when all are stored, 64 are looked for that are there as a whole (their tokens are compared), and 64 that
 * are wholly on SSD (they are not, before they are read).
 *
 * Parts: kvstow_exists looks up alike but leases nothing.
 *
 * The limit touches as much memory in the same pattern, with every address known before: a line of a table
 * of buckets (at random) and two of an entry a block, and the tokens, compared with those in pages like the
 * blocks' headers, or, of what lies on SSD, copied. It hashes nothing, locks nothing and tells nobody.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <kvstow/kvstow.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/frame.h"
#include "bench/measure.h"
#include "bench/scratch.h"
#include "cli/commands.h"

static const char usage_text[] =
    "Usage: kvstow bench match [OPTION]...\n"
    "\n"
    "Matches prefixes of 1K to 128K tokens, 256 in a block, in an index of a million blocks, from\n"
    "1 to 8 threads: time of a match, and its parts. The blocks are of one page; a million of "
    "them\n"
    "take 8 GB of scratch. --blocks is rounded up to whole prefixes, of 512.\n";

static const struct bench_column columns[] = {
    {"tokens", "tokens", 0},         {"source", "<source", -1},      {"prefixes", "prefixes", 0},
    {"threads", "threads", 0},       {"us", "match us", 1},          {"limit_us", "limit", 1},
    {"p99_us", "p99 us", 1},         {"lookup_us", "look-up us", 1}, {"lease_us", "lease us", 1},
    {"release_us", "release us", 1}, {"matches_s", "matches/s", 0},  {NULL, NULL, 0},
};

enum {
  BLOCK_TOKENS = 256,
  CHAIN_BLOCKS = 512, /* 128K tokens */
  PREFIXES = 64,      /* matched in turn: 64 x 512 blocks, more than the caches hold */
  PAYLOAD_BYTES = 4096,
  RECORD_BYTES = PAYLOAD_BYTES + 4096,
  BLOCKS = 1 << 20,
  LEAST_BLOCKS = 4 * PREFIXES * CHAIN_BLOCKS, /* so that the first lie on SSD alone */
  QUICK_BLOCKS = LEAST_BLOCKS,
  STORE_BLOCKS = 64, /* a call */
  PAGE_BYTES = 4096,
  LINE_BYTES = 64,
  BLOCK_BYTES = BLOCK_TOKENS * sizeof(kvstow_token),
  ENTRY_LINES = 2,
  LIMIT_AHEAD = 4, /* blocks */
};

/* What the limit touches. */
struct pattern {
  char *pages;   /* one a block: its tokens at the end */
  char *entries; /* one a block */
  char *buckets; /* one line a block that is held */
  size_t bucket_lines;
  char *copy; /* of one prefix's tokens */
};

struct index {
  kvstow *store;
  kvstow_space *space;
  uint64_t chains;
  uint64_t blocks;                   /* held, as the store counts them */
  kvstow_token *tokens[2][PREFIXES]; /* of those in RAM, of those on SSD */
  struct pattern pattern;
};

/* ---- the limit ------------------------------------------------------------------------------ */

static char *pattern_page(const struct pattern *pattern, size_t block) {
  return pattern->pages + (block + 1) * PAGE_BYTES - BLOCK_BYTES;
}

static const char *pattern_bucket(const struct pattern *pattern, size_t block) {
  const uint64_t hash = block * 0x9e3779b97f4a7c15u;
  return pattern->buckets + (hash >> 20) % pattern->bucket_lines * LINE_BYTES;
}

static const char *pattern_entry(const struct pattern *pattern, size_t block) {
  return pattern->entries + block * ENTRY_LINES * LINE_BYTES;
}

static bool make_pattern(struct index *index) {
  struct pattern *p = &index->pattern;
  const size_t blocks = (size_t)PREFIXES * CHAIN_BLOCKS;
  p->bucket_lines = index->chains * CHAIN_BLOCKS * sizeof(uint32_t) / LINE_BYTES;
  p->pages = measure_memory(blocks * PAGE_BYTES);
  p->entries = measure_memory(blocks * ENTRY_LINES * LINE_BYTES);
  p->buckets = measure_memory(p->bucket_lines * LINE_BYTES);
  p->copy = measure_memory((size_t)CHAIN_BLOCKS * BLOCK_BYTES);
  if (p->pages == NULL || p->entries == NULL || p->buckets == NULL || p->copy == NULL) return false;
  for (size_t b = 0; b < blocks; b++)
    memcpy(pattern_page(p, b), index->tokens[0][b / CHAIN_BLOCKS] + b % CHAIN_BLOCKS * BLOCK_TOKENS,
           BLOCK_BYTES);
  return true;
}

static void free_pattern(const struct index *index) {
  const struct pattern *p = &index->pattern;
  const size_t blocks = (size_t)PREFIXES * CHAIN_BLOCKS;
  measure_memory_free(p->pages, blocks * PAGE_BYTES);
  measure_memory_free(p->entries, blocks * ENTRY_LINES * LINE_BYTES);
  measure_memory_free(p->buckets, p->bucket_lines * LINE_BYTES);
  measure_memory_free(p->copy, (size_t)CHAIN_BLOCKS * BLOCK_BYTES);
}

static void fetch_pattern(const struct pattern *p, size_t block, bool page) {
  __builtin_prefetch(pattern_bucket(p, block));
  for (size_t i = 0; i < ENTRY_LINES; i++)
    __builtin_prefetch(pattern_entry(p, block) + i * LINE_BYTES);
  for (size_t i = 0; page && i < BLOCK_BYTES / LINE_BYTES; i++)
    __builtin_prefetch(pattern_page(p, block) + i * LINE_BYTES);
}

/* The `which`th prefix, of so many blocks. False: its tokens differ. */
static bool touch_pattern(const struct index *index, size_t source, size_t which, size_t blocks) {
  const struct pattern *p = &index->pattern;
  const char *tokens = (const char *)index->tokens[source][which];
  const size_t first = which * CHAIN_BLOCKS;
  const bool page = source == 0;
  bool equal = true;
  for (size_t b = 0; b < blocks; b++) {
    const size_t block = first + b;
    if (b + LIMIT_AHEAD < blocks) fetch_pattern(p, block + LIMIT_AHEAD, page);
    equal &= *(const volatile char *)pattern_bucket(p, block) == 0;
    for (size_t i = 0; i < ENTRY_LINES; i++)
      equal &= *(const volatile char *)(pattern_entry(p, block) + i * LINE_BYTES) == 0;
    if (page)
      equal &= memcmp(pattern_page(p, block), tokens + b * BLOCK_BYTES, BLOCK_BYTES) == 0;
    else
      memcpy(p->copy + b * BLOCK_BYTES, tokens + b * BLOCK_BYTES, BLOCK_BYTES);
  }
  return equal;
}

/* ---- filling -------------------------------------------------------------------------------- */

static void chain_tokens(uint64_t chain, kvstow_token *tokens) {
  for (size_t i = 0; i < (size_t)CHAIN_BLOCKS * BLOCK_TOKENS; i++)
    tokens[i] = (kvstow_token)((i * 2654435761u) >> 16 & 0x1ffff);
  tokens[0] = (kvstow_token)chain;
}

static int store_chain(const struct index *index, const kvstow_token *tokens, char *payload) {
  struct iovec iov = {payload, PAYLOAD_BYTES};
  kvstow_source sources[STORE_BLOCKS];
  for (size_t i = 0; i < STORE_BLOCKS; i++) sources[i] = (kvstow_source){&iov, 1};
  int rc = 0;
  for (size_t b = 0; rc == 0 && b < CHAIN_BLOCKS; b += STORE_BLOCKS) {
    const kvstow_prefix prefix =
        KVSTOW_PREFIX(index->space, tokens, (b + STORE_BLOCKS) * BLOCK_TOKENS);
    rc = kvstow_store(&prefix, b, STORE_BLOCKS, sources, 0, NULL);
  }
  return rc;
}

static int fill(const struct index *index) {
  kvstow_token *tokens = malloc((size_t)CHAIN_BLOCKS * BLOCK_BYTES);
  char *payload = measure_memory(PAYLOAD_BYTES);
  int rc = tokens == NULL || payload == NULL ? KVSTOW_ENOMEM : 0;
  for (uint64_t c = 0; rc == 0 && c < index->chains; c++) {
    chain_tokens(c, tokens);
    memcpy(payload, &c, sizeof c);
    rc = store_chain(index, tokens, payload);
  }
  measure_memory_free(payload, PAYLOAD_BYTES);
  free(tokens);
  return rc;
}

/* Where a chain is: 0 all in RAM, 1 all on SSD alone, else mixed. */
static int where_is(const struct index *index, const kvstow_token *tokens) {
  const kvstow_prefix prefix =
      KVSTOW_PREFIX(index->space, tokens, (size_t)CHAIN_BLOCKS * BLOCK_TOKENS);
  kvstow_held held = {0};
  (void)kvstow_exists(&prefix, &held);
  return held.ram_blocks == CHAIN_BLOCKS ? 0 : held.ssd_blocks == CHAIN_BLOCKS ? 1 : 2;
}

/* Chains for both sources. KVSTOW_EMISS: there are not enough. */
static int choose_prefixes(struct index *index) {
  const size_t bytes = (size_t)CHAIN_BLOCKS * BLOCK_BYTES;
  size_t count[3] = {0, 0, PREFIXES};
  kvstow_token *tokens = measure_memory(bytes);
  for (uint64_t c = 0; tokens != NULL && c < index->chains; c++) {
    chain_tokens(c, tokens);
    const int source = where_is(index, tokens);
    if (count[source] == PREFIXES) continue;
    index->tokens[source][count[source]++] = tokens;
    tokens = measure_memory(bytes);
  }
  if (tokens == NULL) return KVSTOW_ENOMEM;
  measure_memory_free(tokens, bytes);
  return count[0] == PREFIXES && count[1] == PREFIXES ? 0 : KVSTOW_EMISS;
}

static bool open_index(struct index *index, const char *dir, struct bench_report *report) {
  const uint64_t blocks = index->chains * CHAIN_BLOCKS;
  char why[KVSTOW_MESSAGE_BYTES] = "";
  kvstow_options o;
  kvstow_options_init(&o);
  o.dirs = &dir;
  o.dirs_count = 1;
  o.ram_bytes = (uint64_t)512 << 20; /* 128 prefixes */
  o.ssd_bytes = blocks * RECORD_BYTES * 9 / 8 + ((uint64_t)512 << 20);
  int rc = kvstow_open(&o, &index->store, why, sizeof why);
  if (rc == 0) {
    void *region;
    size_t bytes;
    kvstow_region(index->store, &region, &bytes);
    measure_touch(region, bytes);
    kvstow_space_options s;
    kvstow_space_options_init(&s);
    s.name = "pages";
    s.fingerprint = "bench match";
    s.fingerprint_bytes = strlen("bench match");
    s.opaque_max_bytes = PAYLOAD_BYTES;
    s.block_tokens = BLOCK_TOKENS;
    rc = kvstow_space_open(index->store, &s, &index->space);
  }
  const uint64_t started = measure_now_ns();
  if (rc == 0) rc = fill(index);
  if (rc == 0) rc = kvstow_flush(index->store);
  if (rc == 0) rc = choose_prefixes(index);
  if (rc == 0 && !make_pattern(index)) rc = KVSTOW_ENOMEM;
  if (rc != 0) {
    if (index->store != NULL) kvstow_message(index->store, why, sizeof why);
    bench_fail(report, "filling the index: %s: %s", kvstow_strerror(rc), why);
    return false;
  }
  kvstow_stats stats = {.size = sizeof stats};
  kvstow_get_stats(index->store, &stats);
  index->blocks = stats.blocks;
  bench_note(report,
             "%llu blocks of %d tokens in the index, %llu of them in RAM, %.0f bytes of metadata "
             "each; stored in %.1f s.",
             (unsigned long long)stats.blocks, BLOCK_TOKENS, (unsigned long long)stats.ram_blocks,
             stats.metadata_bytes_a_block, (double)(measure_now_ns() - started) / 1e9);
  return true;
}

static void close_index(struct index *index) {
  (void)kvstow_close(index->store); /* flushed already */
  free_pattern(index);
  for (size_t i = 0; i < 2 * PREFIXES; i++)
    measure_memory_free(index->tokens[i / PREFIXES][i % PREFIXES],
                        (size_t)CHAIN_BLOCKS * BLOCK_TOKENS * sizeof(kvstow_token));
}

/* ---- timing --------------------------------------------------------------------------------- */

enum part { MATCH, RELEASE, EXISTS, LIMIT, PARTS };

struct probe {
  const struct index *index;
  size_t tokens, prefixes, source;   /* source: 0 RAM, 1 SSD */
  unsigned threads, rounds, matches; /* matches: of one thread in a round */
  struct lane {
    struct measure_latency part[PARTS];
    int rc;
  } * lanes;
};

static int match_once(struct probe *probe, struct lane *lane, const kvstow_prefix *prefix) {
  kvstow_lease *lease;
  kvstow_held held;
  const uint64_t start = measure_now_ns();
  const int rc = kvstow_match(prefix, KVSTOW_NO_PROMOTE, &lease, &held);
  const uint64_t matched = measure_now_ns();
  kvstow_lease_release(lease);
  measure_latency_add(&lane->part[RELEASE], measure_now_ns() - matched);
  measure_latency_add(&lane->part[MATCH], matched - start);
  if (rc != 0) return rc;
  const size_t there = probe->source == 0 ? held.ram_blocks : held.ssd_blocks;
  return there * BLOCK_TOKENS == probe->tokens ? 0 : KVSTOW_EMISS;
}

static int exists_once(struct lane *lane, const kvstow_prefix *prefix) {
  kvstow_held held;
  const uint64_t start = measure_now_ns();
  const int rc = kvstow_exists(prefix, &held);
  measure_latency_add(&lane->part[EXISTS], measure_now_ns() - start);
  return rc;
}

static size_t probe_which(const struct probe *probe, unsigned thread, size_t i) {
  return (thread * (size_t)7 + i) % probe->prefixes;
}

static kvstow_prefix probe_prefix(const struct probe *probe, unsigned thread, size_t i) {
  const size_t which = probe_which(probe, thread, i);
  return (kvstow_prefix)KVSTOW_PREFIX(probe->index->space,
                                      probe->index->tokens[probe->source][which], probe->tokens);
}

static void match_lane(void *arg, unsigned thread) {
  struct probe *probe = arg;
  struct lane *lane = &probe->lanes[thread];
  for (size_t i = 0; i < probe->matches && lane->rc == 0; i++) {
    const kvstow_prefix prefix = probe_prefix(probe, thread, i);
    lane->rc = match_once(probe, lane, &prefix);
  }
}

/* Over all prefixes in turn, so that caches are as cold as for the match. */
static void parts_lane(void *arg, unsigned thread) {
  struct probe *probe = arg;
  struct lane *lane = &probe->lanes[thread];
  for (size_t i = 0; i < probe->matches && lane->rc == 0; i++) {
    const kvstow_prefix prefix = probe_prefix(probe, thread, i);
    lane->rc = exists_once(lane, &prefix);
  }
}

static void limit_lane(void *arg, unsigned thread) {
  struct probe *probe = arg;
  struct lane *lane = &probe->lanes[thread];
  for (size_t i = 0; i < probe->matches && lane->rc == 0; i++) {
    const size_t which = probe_which(probe, thread, i);
    const uint64_t start = measure_now_ns();
    if (!touch_pattern(probe->index, probe->source, which, probe->tokens / BLOCK_TOKENS))
      lane->rc = KVSTOW_ECORRUPT;
    measure_latency_add(&lane->part[LIMIT], measure_now_ns() - start);
  }
}

static double part_us(const struct probe *probe, enum part part, double share) {
  static struct measure_latency all;
  memset(&all, 0, sizeof all);
  for (unsigned t = 0; t < probe->threads; t++)
    measure_latency_merge(&all, &probe->lanes[t].part[part]);
  return measure_latency_ns(&all, share) / 1e3;
}

static void clear_lanes(struct probe *probe) {
  for (unsigned t = 0; t < probe->threads; t++)
    memset(probe->lanes[t].part, 0, sizeof probe->lanes[t].part);
}

static void write_row(const struct probe *probe, const double us[PARTS], double p99_us,
                      double matches_s, struct bench_report *report) {
  json_t *row = bench_row(report);
  bench_count(row, "tokens", probe->tokens);
  bench_count(row, "blocks_in_index", probe->index->blocks);
  bench_text(row, "source", probe->source == 0 ? "ram" : "ssd");
  bench_count(row, "prefixes", probe->prefixes);
  bench_count(row, "threads", probe->threads);
  bench_real(row, "us", us[MATCH]);
  bench_real(row, "limit_us", us[LIMIT]);
  bench_real(row, "p99_us", p99_us);
  bench_real(row, "lookup_us", us[EXISTS]);
  bench_real(row, "lease_us", us[MATCH] - us[EXISTS]);
  bench_real(row, "release_us", us[RELEASE]);
  bench_real(row, "matches_s", matches_s);
}

/* The median of rounds' medians. */
static double probe_run(struct probe *probe, struct bench_report *report) {
  double us[PARTS][MEASURE_ROUNDS_MAX], p99_us[MEASURE_ROUNDS_MAX], rate[MEASURE_ROUNDS_MAX];
  double median_us[PARTS];
  probe->lanes = calloc(probe->threads, sizeof *probe->lanes);
  if (probe->lanes == NULL) {
    bench_fail(report, "out of memory");
    return 0;
  }
  for (unsigned r = 0; r < probe->rounds; r++) {
    clear_lanes(probe);
    const struct measure_span span = measure_parallel(probe->threads, match_lane, probe);
    (void)measure_parallel(probe->threads, parts_lane, probe);
    (void)measure_parallel(probe->threads, limit_lane, probe);
    rate[r] = probe->threads * (double)probe->matches / span.seconds;
    for (unsigned part = 0; part < PARTS; part++) us[part][r] = part_us(probe, part, 0.50);
    p99_us[r] = part_us(probe, MATCH, 0.99);
  }
  for (unsigned part = 0; part < PARTS; part++)
    median_us[part] = measure_median(us[part], probe->rounds);
  for (unsigned t = 0; t < probe->threads; t++)
    if (probe->lanes[t].rc != 0)
      bench_fail(report, "a prefix of %zu tokens: %s", probe->tokens,
                 kvstow_strerror(probe->lanes[t].rc));
  write_row(probe, median_us, measure_median(p99_us, probe->rounds),
            measure_median(rate, probe->rounds), report);
  free(probe->lanes);
  return median_us[MATCH];
}

static const uint64_t thread_counts[] = {1, 2, 4, 8, 0};

static void run_probes(const struct index *index, const struct bench_args *args,
                       struct bench_report *report) {
  static const size_t lengths[] = {1024, 8192, 32768, CHAIN_BLOCKS * BLOCK_TOKENS};
  struct probe probe = {.index = index, .rounds = args->rounds, .matches = PREFIXES};
  double us = 0;
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    probe.tokens = lengths[i];
    probe.threads = 1;
    probe.prefixes = PREFIXES;
    if (args->threads == 0 || args->threads == 1) us = probe_run(&probe, report);
  }
  const bool single = args->threads == 0 || args->threads == 1;
  if (single) bench_target_max(report, "match of 128K tokens, 64 prefixes in turn, us", us, 150);
  probe.prefixes = 1;
  if (single) us = probe_run(&probe, report);
  if (single)
    bench_target_max(report, "match of 128K tokens, one prefix again and again, us", us, 150);
  probe.prefixes = PREFIXES;
  probe.source = 1;
  if (single) us = probe_run(&probe, report);
  if (single) bench_target_max(report, "match of 128K tokens, all on SSD, us", us, 150);
  probe.source = 0;
  for (size_t t = 0; thread_counts[t] != 0; t++) {
    probe.threads = (unsigned)thread_counts[t];
    if (args->threads == 0 ? probe.threads > 1 : probe.threads == args->threads)
      (void)probe_run(&probe, report);
  }
}

int bench_match_run(int argc, char **argv) {
  struct bench_args args;
  int status = bench_parse(argc, argv, usage_text, BENCH_DIR | BENCH_BLOCKS | BENCH_THREADS, &args);
  if (status < 0) status = bench_known_number(argv[0], "threads", args.threads, thread_counts);
  if (status < 0 && args.blocks != 0 && args.blocks < LEAST_BLOCKS) {
    fprintf(stderr, "%s: --blocks: at least %d\n", argv[0], LEAST_BLOCKS);
    status = EXIT_USAGE;
  }
  if (status >= 0) return status;
  struct bench_report report = bench_report_begin("match");
  struct index index = {0};
  const uint64_t blocks = args.blocks != 0 ? args.blocks : args.quick ? QUICK_BLOCKS : BLOCKS;
  char dir[BENCH_PATH_BYTES];
  index.chains = (blocks + CHAIN_BLOCKS - 1) / CHAIN_BLOCKS;
  if (!bench_scratch_make(args.dir, dir)) {
    bench_fail(&report, "scratch directory: %s", strerror(errno));
    return bench_report_end(&report, &args, columns);
  }
  if (open_index(&index, dir, &report)) run_probes(&index, &args, &report);
  close_index(&index);
  bench_scratch_remove(dir);
  bench_note(
      &report,
      "us: one call as its thread sees it, median of rounds' medians. look-up: hashed, found, "
      "and in RAM its tokens compared. lease: leased. release: the policies told. limit: the same "
      "memory touched, addresses known before, nothing hashed.");
  return bench_report_end(&report, &args, columns);
}
