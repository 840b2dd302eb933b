/* restore.c - `kvstow bench restore`: how fast a prefix comes back, beside a bare io_uring loop.
 *
 * Cold by construction: the store is reopened after it was filled, so that nothing is in its RAM,
 * and all I/O is O_DIRECT, so that nothing is in the page cache; without direct I/O the benchmark
 * refuses. The limit reads as many bytes from the same segment files, in order, in large requests, in
 * the same rounds, into the same memory, and checks nothing; every figure of ours includes the
 * checksums. After each round each byte is compared with what was stored.
 *
 * Layouts: `chain`, a prefix stored in one go; `runs`, four chains that took turns in runs of four
 * blocks; `scattered`, four chains that took turns block by block.
 *
 * Methods: `direct` reads past RAM into the caller's buffers; `copy` through RAM into them;
 * `promote` brings blocks to RAM and views them there; from RAM, `copy`, beside memcpy.
 *
 * Memory: a virtual machine's device pays for each page it has never transferred to. The caller's
 * buffers are used over and over; the RAM of a store just opened is `new` to it. In rows `used` the bare loop has
 * read something into all of it before, while the store was empty: so one sees what is the machine's, and what
 * the engine's.
 *
 * --encrypt: a second store with the same blocks, encrypted, takes turns with the first in every round.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <kvstow/kvstow.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "bench/frame.h"
#include "bench/measure.h"
#include "bench/raw_uring.h"
#include "bench/scratch.h"
#include "cli/commands.h"
#include "cli/content.h"
#include "cli/models.h"

static const char usage_text[] =
    "Usage: kvstow bench restore [OPTION]...\n"
    "\n"
    "Restores prefixes of 1K to 128K tokens, cold from SSD and from RAM, checksums verified, "
    "beside\n"
    "a bare io_uring loop that reads the same number of bytes from the same files. The layout is\n"
    "llama-3.2-1b's, 32 KiB a token, so that 128K tokens are 4 GiB of memory, and of scratch in\n"
    "--path chain; in runs and scattered, 16 GiB. --path: chain (stored in one go), runs (of four\n"
    "blocks, four chains taking turns) or scattered (block by block).\n";

static const struct bench_column columns[] = {
    {"tokens", "tokens", 0},
    {"layout", "<layout", -1},
    {"source", "<source", -1},
    {"method", "<method", -1},
    {"memory", "<memory", -1},
    {"block_bytes", "block B", 0},
    {"mb_s", "MB/s", 0},
    {"limit_mb_s", "limit", 0},
    {"ratio", "ratio", 2},
    {"ttft_ms", "ttft ms", 1},
    {"cpu_s_per_gib", "CPU s/GiB", 3},
    {"limit_cpu_s_per_gib", "limit's", 3},
    {"merge_ratio", "merge", 1},
    {"of_plain", "of plain", 2},
    {NULL, NULL, 0},
};

enum {
  LIMIT_BLOCK_BYTES = 1 << 20,
  LIMIT_DEPTH = 32,
  CHAINS_MAX = 4,
  SEGMENTS_MAX = 4096,
  LENGTHS_MAX = 8,
};

struct layout {
  const char *name;
  uint32_t block_tokens; /* 0: the default */
  uint32_t chains, run_blocks;
  size_t tokens[LENGTHS_MAX], quick_tokens[LENGTHS_MAX]; /* ascending, up to a 0 */
};

static const struct layout layouts[] = {
    {"chain", 0, 1, 0, {1024, 8192, 32768, 131072}, {1024, 4096}},
    {"runs", 16, 4, 4, {1024, 8192, 32768, 131072}, {1024, 4096}},
    {"scattered", 16, 4, 1, {1024, 8192, 32768, 131072}, {1024, 4096}},
};

enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static const uint64_t ram_bytes = (uint64_t)640 << 20;

struct bed {
  const struct layout *layout;
  const struct bench_args *args;
  struct bench_report *report;
  char dir[BENCH_PATH_BYTES];
  uint64_t ssd_bytes;
  size_t tokens_max;
  kvstow *store;
  kvstow_space *space;
  struct content_shape shape;
  size_t block_bytes;   /* as stored: planes, padding included */
  kvstow_token *tokens; /* of the chain that is read, the others' differ in the first */
  bool encrypted;       /* the second bed; buffers, copy and tokens are the first's */
  char *buffers, *copy; /* copy: what memcpy reads */
  size_t buffer_bytes;
  void **payloads;
  struct raw_extent extents[SEGMENTS_MAX];
  size_t extents_count;
};

static void fail(struct bed *bed, const char *what, int rc) {
  char why[KVSTOW_MESSAGE_BYTES] = "";
  if (bed->store != NULL) kvstow_message(bed->store, why, sizeof why);
  bench_fail(bed->report, "%s, %s: %s: %s", bed->layout->name, what, kvstow_strerror(rc), why);
}

/* ---- the store ------------------------------------------------------------------------------ */

static bool open_store(struct bed *bed) {
  static const char fingerprint[] = "bench restore";
  const struct model *model = model_find("llama-3.2-1b");
  const char *dir = bed->dir;
  kvstow_options o;
  kvstow_options_init(&o);
  o.dirs = &dir;
  o.dirs_count = 1;
  o.ram_bytes = ram_bytes;
  o.ssd_bytes = bed->ssd_bytes;
  o.encryption_key = bed->encrypted ? bed->args->encryption_key : NULL;
  o.engine = bed->args->engine;
  o.load_timeout_ms = 120 * 1000; /* 4 GiB from a slow or busy disk are measured, not refused */
  char why[KVSTOW_MESSAGE_BYTES] = "";
  int rc = kvstow_open(&o, &bed->store, why, sizeof why);
  if (rc != 0) {
    bench_fail(bed->report, "open: %s", why);
    return false;
  }
  kvstow_space_options s;
  kvstow_space_options_init(&s);
  s.name = model->name;
  s.fingerprint = fingerprint;
  s.fingerprint_bytes = sizeof fingerprint;
  s.layers = model->layers;
  s.k_bytes = model->k_bytes;
  s.v_bytes = model->v_bytes;
  s.block_tokens = bed->layout->block_tokens;
  rc = kvstow_space_open(bed->store, &s, &bed->space);
  if (rc != 0) {
    fail(bed, "space", rc);
    return false;
  }
  void *region;
  size_t region_bytes;
  kvstow_region(bed->store, &region, &region_bytes);
  measure_touch(region, region_bytes);
  bed->shape = (struct content_shape){model->layers, model->k_bytes, model->v_bytes,
                                      kvstow_space_block_tokens(bed->space),
                                      kvstow_space_plane_bytes(bed->space)};
  bed->block_bytes = kvstow_space_payload_bytes(bed->space);
  return true;
}

static bool close_store(struct bed *bed) {
  const int rc = kvstow_close(bed->store);
  if (rc != 0) fail(bed, "close", rc);
  bed->store = NULL;
  return rc == 0;
}

static bool reopen(struct bed *bed) {
  return close_store(bed) && open_store(bed);
}

/* Blocks [first, first + count) of chain `c`. */
static int store_run(struct bed *bed, uint32_t c, size_t first, size_t count, char *content) {
  bed->tokens[0] = (kvstow_token)c;
  const size_t content_bytes = content_block_bytes(&bed->shape);
  const kvstow_prefix prefix =
      KVSTOW_PREFIX(bed->space, bed->tokens, (first + count) * bed->shape.block_tokens);
  int rc = 0;
  for (size_t b = first; b < first + count && rc == 0; b++) {
    struct iovec iov = {content, content_bytes};
    const kvstow_source source = {&iov, 1};
    content_fill(&bed->shape, (uint32_t)(c << 24 | b), content);
    rc = kvstow_store(&prefix, b, 1, &source, 0, NULL);
  }
  return rc;
}

/* Chains take turns; a flush after each turn keeps the demotion thread from sorting them apart. */
static bool fill(struct bed *bed) {
  const struct layout *layout = bed->layout;
  const size_t blocks = bed->tokens_max / bed->shape.block_tokens;
  const size_t run = layout->run_blocks == 0 ? blocks : layout->run_blocks;
  char *content = measure_memory(content_block_bytes(&bed->shape));
  int rc = content == NULL ? KVSTOW_ENOMEM : 0;
  for (size_t at = 0; at < blocks && rc == 0; at += run)
    for (uint32_t c = 0; c < layout->chains && rc == 0; c++) {
      rc = store_run(bed, c, at, run < blocks - at ? run : blocks - at, content);
      if (rc == 0 && layout->chains > 1) rc = kvstow_flush(bed->store);
    }
  if (rc != 0) fail(bed, "store", rc);
  bed->tokens[0] = 0;
  measure_memory_free(content, content_block_bytes(&bed->shape));
  return rc == 0;
}

/* The segment files, for the limit. */
static bool open_extents(struct bed *bed) {
  const int count = raw_uring_open_dir(bed->dir, LIMIT_BLOCK_BYTES, bed->extents, SEGMENTS_MAX);
  if (count < 0) bench_fail(bed->report, "the limit needs O_DIRECT: %s", raw_uring_why(count));
  bed->extents_count = count < 0 ? 0 : (size_t)count;
  return count > 0;
}

/* ---- contestants ---------------------------------------------------------------------------- */

struct figures {
  double seconds[MEASURE_ROUNDS_MAX], limit_s[MEASURE_ROUNDS_MAX], ratio[MEASURE_ROUNDS_MAX],
      cpu_s[MEASURE_ROUNDS_MAX], limit_cpu_s[MEASURE_ROUNDS_MAX];
  uint64_t requests, device_reads;
  bool zero_copy;
};

static kvstow_prefix prefix_of(const struct bed *bed, size_t tokens) {
  return (kvstow_prefix)KVSTOW_PREFIX(bed->space, bed->tokens, tokens);
}

static struct measure_span run_limit(struct bed *bed, size_t bytes) {
  const struct raw_uring_job job = {.extents = bed->extents,
                                    .extents_count = bed->extents_count,
                                    .block_bytes = LIMIT_BLOCK_BYTES,
                                    .depth = LIMIT_DEPTH,
                                    .total_bytes = bytes,
                                    .buffers = bed->buffers,
                                    .spread = true};
  static struct raw_uring_result result;
  const int rc = raw_uring_run(&job, &result);
  if (rc != 0) bench_fail(bed->report, "the limit: %s", strerror(-rc));
  return result.span;
}

/* Lets the device write to all RAM of a store that holds nothing there yet. */
static void use_region(struct bed *bed) {
  void *base;
  size_t bytes;
  kvstow_region(bed->store, &base, &bytes);
  const struct raw_uring_job job = {.extents = bed->extents,
                                    .extents_count = bed->extents_count,
                                    .block_bytes = LIMIT_BLOCK_BYTES,
                                    .depth = LIMIT_DEPTH,
                                    .total_bytes = bytes,
                                    .buffers = base,
                                    .spread = true};
  static struct raw_uring_result result;
  const int rc = raw_uring_run(&job, &result);
  if (rc != 0) bench_fail(bed->report, "using the region: %s", strerror(-rc));
}

static struct measure_span run_memcpy(struct bed *bed, size_t bytes) {
  const struct measure_span begun = measure_begin();
  for (size_t at = 0; at < bytes; at += bed->block_bytes)
    memcpy(bed->buffers + at, bed->copy + at, bed->block_bytes);
  return measure_end(begun);
}

static int into_buffers(struct bed *bed, size_t tokens, uint32_t match_flags, uint32_t read_flags) {
  const kvstow_prefix prefix = prefix_of(bed, tokens);
  kvstow_lease *lease;
  kvstow_held held;
  int rc = kvstow_match(&prefix, match_flags, &lease, &held);
  if (rc == 0 && held.tokens != tokens) rc = KVSTOW_EMISS;
  if (rc == 0) rc = kvstow_read_blocks(lease, 0, held.blocks, bed->payloads, NULL, read_flags, 0);
  kvstow_lease_release(lease);
  return rc;
}

static uint64_t unequal_bytes(const struct bed *bed, size_t block, const void *payload) {
  return content_check(&bed->shape, (uint32_t)block, payload);
}

static void check_buffers(struct bed *bed, size_t tokens) {
  uint64_t unequal = 0;
  for (size_t b = 0; b < tokens / bed->shape.block_tokens; b++)
    unequal += unequal_bytes(bed, b, bed->payloads[b]);
  if (unequal > 0)
    bench_fail(bed->report, "%s: %llu wrong bytes", bed->layout->name, (unsigned long long)unequal);
}

static struct measure_span run_copy(struct bed *bed, size_t tokens, uint32_t match_flags,
                                    uint32_t read_flags) {
  const struct measure_span begun = measure_begin();
  const int rc = into_buffers(bed, tokens, match_flags, read_flags);
  const struct measure_span span = measure_end(begun);
  if (rc != 0)
    fail(bed, "read", rc);
  else
    check_buffers(bed, tokens);
  return span;
}

static struct measure_span run_promote(struct bed *bed, size_t tokens) {
  const kvstow_prefix prefix = prefix_of(bed, tokens);
  kvstow_lease *lease;
  kvstow_held held = {0};
  const void *payload;
  const struct measure_span begun = measure_begin();
  int rc = kvstow_match(&prefix, 0, &lease, NULL);
  if (rc == 0) rc = kvstow_lease_wait(lease, 0, &held);
  for (size_t b = 0; rc == 0 && b < held.blocks; b++) rc = kvstow_view(lease, b, 0, &payload, NULL);
  const struct measure_span span = measure_end(begun);
  if (rc == 0 && held.tokens != tokens) rc = KVSTOW_EMISS;
  uint64_t unequal = 0;
  for (size_t b = 0; rc == 0 && b < held.blocks; b++) {
    kvstow_unview(lease, b);
    rc = kvstow_view(lease, b, 0, &payload, NULL);
    if (rc == 0) unequal += unequal_bytes(bed, b, payload);
  }
  if (rc != 0) fail(bed, "promote", rc);
  if (unequal > 0)
    bench_fail(bed->report, "%s: %llu wrong bytes", bed->layout->name, (unsigned long long)unequal);
  kvstow_lease_release(lease);
  return span;
}

/* ---- rows ----------------------------------------------------------------------------------- */

enum method { DIRECT, COPY, COPY_USED, PROMOTE, PROMOTE_USED, FROM_RAM };
static const struct {
  const char *name, *memory;
} methods[] = {{"direct", "used"}, {"copy", "new"},     {"copy", "used"},
               {"promote", "new"}, {"promote", "used"}, {"copy", "used"}};

static bool is_promote(enum method method) {
  return method == PROMOTE || method == PROMOTE_USED;
}

static kvstow_tier_stats tier_stats(const struct bed *bed) {
  kvstow_stats stats = {.size = sizeof stats};
  kvstow_get_stats(bed->store, &stats);
  return stats.tier;
}

static struct measure_span run_method(struct bed *bed, enum method method, size_t tokens) {
  if (method == DIRECT) return run_copy(bed, tokens, KVSTOW_NO_PROMOTE, KVSTOW_BYPASS_RAM);
  return is_promote(method) ? run_promote(bed, tokens) : run_copy(bed, tokens, 0, 0);
}

static void one_round(struct bed *bed, enum method method, size_t tokens, unsigned r,
                      struct figures *f) {
  const size_t bytes = tokens / bed->shape.block_tokens * bed->block_bytes;
  const bool from_ram = method == FROM_RAM;
  if (method != DIRECT && !from_ram && !reopen(bed)) return;
  if (method == COPY_USED || method == PROMOTE_USED) use_region(bed);
  struct measure_span limit = {0};
  if (r % 2 == 0) limit = from_ram ? run_memcpy(bed, bytes) : run_limit(bed, bytes);
  const kvstow_tier_stats before = tier_stats(bed);
  const struct measure_span span = run_method(bed, method, tokens);
  const kvstow_tier_stats after = tier_stats(bed);
  if (r % 2 == 1) limit = from_ram ? run_memcpy(bed, bytes) : run_limit(bed, bytes);
  f->requests += after.read_requests - before.read_requests;
  f->device_reads += after.device_reads - before.device_reads;
  f->seconds[r] = span.seconds;
  f->cpu_s[r] = span.cpu_s;
  f->limit_s[r] = limit.seconds;
  f->limit_cpu_s[r] = limit.cpu_s;
  f->ratio[r] = limit.seconds / span.seconds;
  if (from_ram && after.device_reads != before.device_reads)
    bench_fail(bed->report, "a restore from RAM read from SSD");
}

static void row_targets(const struct bed *bed, enum method method, size_t tokens, double ratio,
                        double merges) {
  char name[96];
  const char *kind = bed->encrypted ? ", encrypted" : "";
  if (method == DIRECT && strcmp(bed->layout->name, "chain") == 0) {
    snprintf(name, sizeof name, "cold chain of %zu tokens%s, share of bare io_uring", tokens, kind);
    bench_target_min(bed->report, name, ratio, 0.85);
  }
  if (method == DIRECT && strcmp(bed->layout->name, "runs") == 0) {
    snprintf(name, sizeof name, "fragmented restore of %zu tokens%s, blocks a device read", tokens,
             kind);
    bench_target_min(bed->report, name, merges, 2.0);
  }
}

/* `plain`: of the bed that took turns with this encrypted one. */
static void add_row(struct bed *bed, enum method method, size_t tokens, struct figures *f,
                    const double *plain_s) {
  const unsigned rounds = bed->args->rounds;
  double of_plain[MEASURE_ROUNDS_MAX];
  for (unsigned r = 0; plain_s != NULL && r < rounds; r++) of_plain[r] = plain_s[r] / f->seconds[r];
  const size_t blocks = tokens / bed->shape.block_tokens;
  const double bytes = (double)(blocks * bed->block_bytes);
  const double gib = bytes / (double)(1 << 30), ratio = measure_median(f->ratio, rounds);
  const double seconds = measure_median(f->seconds, rounds);
  const double merges = (double)f->requests / (double)f->device_reads;
  json_t *row = bench_row(bed->report);
  bench_count(row, "tokens", tokens);
  bench_text(row, "layout", bed->layout->name);
  bench_text(row, "source", method == FROM_RAM ? "ram" : "ssd");
  bench_text(row, "method", methods[method].name);
  bench_text(row, "memory", methods[method].memory);
  json_object_set_new(row, "encrypted", json_boolean(bed->encrypted));
  bench_count(row, "block_bytes", bed->block_bytes);
  bench_real(row, "mb_s", bytes / 1e6 / seconds);
  bench_real(row, "limit_mb_s", bytes / 1e6 / measure_median(f->limit_s, rounds));
  bench_real(row, "ratio", ratio);
  bench_real(row, "ttft_ms", seconds * 1e3);
  bench_real(row, "cpu_s_per_gib", measure_median(f->cpu_s, rounds) / gib);
  bench_real(row, "limit_cpu_s_per_gib", measure_median(f->limit_cpu_s, rounds) / gib);
  bench_real(row, "merge_ratio", merges);
  if (plain_s != NULL) bench_real(row, "of_plain", measure_median(of_plain, rounds));
  row_targets(bed, method, tokens, ratio, merges);
}

/* Of both beds, where there are two. */
static void measure_method(struct bed *beds, size_t count, enum method method, size_t tokens) {
  struct figures f[2] = {{.requests = 0}, {.requests = 0}};
  double plain_s[MEASURE_ROUNDS_MAX];
  const struct bench_report *report = beds[0].report;
  for (size_t b = 0; method == FROM_RAM && b < count; b++) (void)run_promote(&beds[b], tokens);
  for (unsigned r = 0; r < beds[0].args->rounds; r++)
    for (size_t b = 0; b < count && !report->failed; b++) {
      const size_t turn = (b + r) % count;
      one_round(&beds[turn], method, tokens, r, &f[turn]);
    }
  if (report->failed) return;
  memcpy(plain_s, f[0].seconds, sizeof plain_s); /* a median sorts */
  for (size_t b = 0; b < count; b++)
    add_row(&beds[b], method, tokens, &f[b], b > 0 ? plain_s : NULL);
}

static bool take_memory(struct bed *bed, const struct bed *first) {
  if (first != NULL) {
    bed->buffers = first->buffers;
    bed->copy = first->copy;
    bed->tokens = first->tokens;
    return true;
  }
  bed->buffers = measure_memory(bed->buffer_bytes);
  bed->copy = measure_memory(ram_bytes / 2);
  bed->tokens = calloc(bed->tokens_max, sizeof *bed->tokens);
  if (!bed->buffers || !bed->copy || !bed->tokens) return false;
  for (size_t i = 0; i < bed->tokens_max; i++) bed->tokens[i] = (kvstow_token)(i * 40503u & 0xffff);
  return true;
}

/* `first`: the bed to take turns with, or NULL. */
static bool bed_begin(struct bed *bed, const struct bed *first) {
  const size_t bytes_max = bed->tokens_max * model_bytes_per_token(model_find("llama-3.2-1b"));
  bed->ssd_bytes = bed->layout->chains * (uint64_t)bytes_max * 9 / 8 + ((uint64_t)512 << 20);
  bed->buffer_bytes = bytes_max;
  bed->encrypted = first != NULL;
  if (bed->tokens_max == 0) return false;
  if (!take_memory(bed, first) || !bench_scratch_make(bed->args->dir, bed->dir)) {
    bench_fail(bed->report, "%zu bytes of memory and a scratch directory: %s", bytes_max,
               strerror(errno));
    return false;
  }
  if (!open_store(bed) || !fill(bed) || !reopen(bed) || !open_extents(bed)) return false;
  const size_t blocks = bed->tokens_max / bed->shape.block_tokens;
  bed->payloads = calloc(blocks, sizeof *bed->payloads);
  for (size_t b = 0; bed->payloads != NULL && b < blocks; b++)
    bed->payloads[b] = bed->buffers + b * bed->block_bytes;
  if (!tier_stats(bed).direct_io)
    bench_fail(bed->report, "this file system has no direct I/O: what it serves is the page cache");
  return bed->payloads != NULL && !bed->report->failed;
}

static void bed_end(struct bed *bed) {
  if (bed->store != NULL) (void)close_store(bed);
  for (size_t i = 0; i < bed->extents_count; i++) close(bed->extents[i].fd);
  if (bed->dir[0] != '\0') bench_scratch_remove(bed->dir);
  free(bed->payloads);
  if (bed->encrypted) return;
  measure_memory_free(bed->buffers, bed->buffer_bytes);
  measure_memory_free(bed->copy, ram_bytes / 2);
  free(bed->tokens);
}

static void measure_length(struct bed *beds, size_t count, size_t tokens) {
  const bool fits = tokens / beds[0].shape.block_tokens * beds[0].block_bytes <= ram_bytes / 2;
  for (enum method method = DIRECT; method <= FROM_RAM; method++)
    if ((fits || method <= COPY_USED) && !beds[0].report->failed)
      measure_method(beds, count, method, tokens);
}

static void measure_layout(const struct layout *layout, const struct bench_args *args,
                           struct bench_report *report) {
  static struct bed beds[2];
  const size_t *lengths = args->quick ? layout->quick_tokens : layout->tokens;
  const size_t count = args->encryption_key != NULL ? 2 : 1;
  bool begun = true;
  for (size_t b = 0; b < count; b++) {
    beds[b] = (struct bed){.layout = layout, .args = args, .report = report};
    for (size_t i = 0; i < LENGTHS_MAX && lengths[i] != 0; i++) beds[b].tokens_max = lengths[i];
    begun = begun && bed_begin(&beds[b], b > 0 ? &beds[0] : NULL);
  }
  if (begun && json_object_get(report->root, "engine") == NULL) {
    bench_text(report->root, "engine", tier_stats(&beds[0]).engine);
    json_object_set_new(report->root, "direct_io", json_true());
  }
  for (size_t i = 0; begun && i < LENGTHS_MAX && lengths[i] != 0; i++)
    measure_length(beds, count, lengths[i]);
  for (size_t b = count; b-- > 0;) bed_end(&beds[b]);
}

int bench_restore_run(int argc, char **argv) {
  struct bench_args args;
  const char *names[LAYOUTS + 1] = {NULL};
  for (size_t i = 0; i < LAYOUTS; i++) names[i] = layouts[i].name;
  int status = bench_parse(argc, argv, usage_text,
                           BENCH_DIR | BENCH_ENGINE | BENCH_PATH | BENCH_ENCRYPT, &args);
  if (status < 0) status = bench_known(argv[0], "path", args.path, names);
  if (status >= 0) return status;
  struct bench_report report = bench_report_begin("restore");
  for (size_t i = 0; i < LAYOUTS && !report.failed; i++)
    if (bench_picks(args.path, layouts[i].name)) measure_layout(&layouts[i], &args, &report);
  bench_note(&report,
             "Cold: reopened, nothing in RAM, O_DIRECT throughout. Checksums verified by the "
             "library, every byte compared by the benchmark.");
  if (args.encryption_key != NULL)
    bench_note(&report,
               "of plain: an encrypted store's rate, of that of the store that is not, in the same "
               "rounds.");
  bench_note(&report,
             "limit: io_uring, O_DIRECT, %d KiB requests, depth %d, the same files; from RAM, "
             "memcpy. memory: new, the device has never transferred to it before; used, it has.",
             LIMIT_BLOCK_BYTES >> 10, LIMIT_DEPTH);
  return bench_report_end(&report, &args, columns);
}
