/* stream.c - `kvstow bench stream`: decoding over a context that is longer than RAM.
 *
 * A step reads the K and V of every past token layer by layer through one lease, and uses each layer (adds
 * up its words, on the thread that read it) before it asks for the next: what one decode step does. The
 * context is 1, 2 and 4 times the store's RAM: what has no place there comes from SSD in every step.
 *
 * In each round, with prefetch on and off, beside
 *   - the limit: bare io_uring reading as many bytes as came from SSD in a step, from the same files, in order,
 *     in requests of a plane, then memcpy of the others; nothing is used, nothing checked;
 *   - mmap of a file with the same bytes, cold (dropped, and asked of mincore), used in place;
 *   - the CPU's part alone: all bytes copied from memory and used.
 * overlap: of the limit's device time, the share that is hidden: 1 - (step - CPU's part) / device.
 *
 * Every byte is compared once, before; in each timed step the words' sums of all layers.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <kvstow/kvstow.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench/bench.h"
#include "bench/cold.h"
#include "bench/frame.h"
#include "bench/measure.h"
#include "bench/raw_uring.h"
#include "bench/scratch.h"
#include "cli/commands.h"
#include "cli/content.h"
#include "cli/models.h"

static const char usage_text[] =
    "Usage: kvstow bench stream [OPTION]...\n"
    "\n"
    "Decode steps over a context 1, 2 and 4 times as large as RAM, layer by layer, with prefetch "
    "on\n"
    "and off, beside bare io_uring and memcpy of the same bytes and beside mmap, cold. Shapes:\n"
    "llama-3-8b and deepseek-v3, 256 MiB of RAM.\n";

static const struct bench_column columns[] = {
    {"shape", "<shape", -1},       {"context_over_ram", "x RAM", 0},
    {"prefetch", "<prefetch", -1}, {"tokens", "tokens", 0},
    {"cold_share", "cold", 2},     {"tok_s", "tok/s", 2},
    {"mb_s", "MB/s", 0},           {"limit_mb_s", "limit", 0},
    {"ratio", "ratio", 2},         {"mmap_mb_s", "mmap", 0},
    {"mmap_ratio", "x mmap", 2},   {"overlap", "overlap", 2},
    {"late", "late", 2},           {NULL, NULL, 0},
};

static const char *const shapes[] = {"llama-3-8b", "deepseek-v3", NULL};
static const unsigned multiples[] = {1, 2, 4};

enum { LIMIT_DEPTH = 32, SEGMENTS_MAX = 1024, LAYERS_MAX = 256, SUM_LANES = 4 };

struct bed {
  const struct bench_args *args;
  struct bench_report *report;
  const struct model *model;
  unsigned multiple;
  char dir[BENCH_PATH_BYTES];
  uint64_t ram_bytes;
  kvstow *store;
  kvstow_space *space;
  kvstow_lease *lease;
  struct content_shape shape;
  size_t blocks, tokens_count, layer_bytes, bytes;
  kvstow_token *tokens;
  char *whole; /* the context as it is read, layer after layer */
  char *layer; /* what a step reads into */
  char *raw;   /* what the limit reads into */
  uint64_t sums[LAYERS_MAX];
  struct raw_extent extents[SEGMENTS_MAX];
  size_t extents_count;
  int file; /* the same bytes, for mmap */
};

static bool fail(struct bed *bed, const char *what, int rc) {
  char why[KVSTOW_MESSAGE_BYTES] = "";
  if (bed->store != NULL) kvstow_message(bed->store, why, sizeof why);
  bench_fail(bed->report, "%s x%u, %s: %s: %s", bed->model->name, bed->multiple, what,
             kvstow_strerror(rc), why);
  return false;
}

/* What is done with a layer: each word is looked at once. */
static uint64_t use(const char *bytes, size_t count) {
  uint64_t lanes[SUM_LANES] = {0}, words[SUM_LANES];
  for (size_t at = 0; at + sizeof words <= count; at += sizeof words) {
    memcpy(words, bytes + at, sizeof words);
    for (unsigned i = 0; i < SUM_LANES; i++) lanes[i] += words[i];
  }
  return lanes[0] ^ lanes[1] << 1 ^ lanes[2] << 2 ^ lanes[3] << 3;
}

/* ---- the store ------------------------------------------------------------------------------ */

static bool open_store(struct bed *bed) {
  static const char fingerprint[] = "bench stream";
  const char *dir = bed->dir;
  kvstow_options o;
  kvstow_options_init(&o);
  o.dirs = &dir;
  o.dirs_count = 1;
  o.ram_bytes = bed->ram_bytes;
  o.ssd_bytes = bed->bytes * 5 / 4 + ((uint64_t)512 << 20);
  o.engine = bed->args->engine;
  char why[KVSTOW_MESSAGE_BYTES];
  int rc = kvstow_open(&o, &bed->store, why, sizeof why);
  if (rc != 0) {
    bench_fail(bed->report, "open: %s", why);
    return false;
  }
  kvstow_space_options s;
  kvstow_space_options_init(&s);
  s.name = fingerprint;
  s.fingerprint = fingerprint;
  s.fingerprint_bytes = sizeof fingerprint;
  s.layers = bed->model->layers;
  s.k_bytes = bed->model->k_bytes;
  s.v_bytes = bed->model->v_bytes;
  s.block_tokens = bed->shape.block_tokens;
  rc = kvstow_space_open(bed->store, &s, &bed->space);
  if (rc != 0) return fail(bed, "space", rc);
  bed->shape.plane_bytes = kvstow_space_plane_bytes(bed->space);
  void *region;
  size_t region_bytes;
  kvstow_region(bed->store, &region, &region_bytes);
  measure_touch(region, region_bytes);
  return true;
}

/* Puts block `b` to where reads of layers will bring it. */
static void spread(struct bed *bed, size_t b, const char *block) {
  const size_t k = (size_t)bed->shape.k_bytes * bed->shape.block_tokens;
  const size_t v = (size_t)bed->shape.v_bytes * bed->shape.block_tokens;
  for (uint32_t l = 0; l < bed->shape.layers; l++) {
    char *layer = bed->whole + l * bed->layer_bytes;
    memcpy(layer + b * k, block + l * (k + v), k);
    memcpy(layer + bed->blocks * k + b * v, block + l * (k + v) + k, v);
  }
}

static bool fill(struct bed *bed) {
  const kvstow_prefix prefix = KVSTOW_PREFIX(bed->space, bed->tokens, bed->tokens_count);
  const size_t block_bytes = content_block_bytes(&bed->shape);
  char *block = measure_memory(block_bytes);
  int rc = block == NULL ? KVSTOW_ENOMEM : 0;
  for (size_t b = 0; b < bed->blocks && rc == 0; b++) {
    content_fill(&bed->shape, (uint32_t)b, block);
    spread(bed, b, block);
    struct iovec iov = {block, block_bytes};
    const kvstow_source source = {&iov, 1};
    rc = kvstow_store(&prefix, b, 1, &source, 0, NULL);
  }
  measure_memory_free(block, block_bytes);
  if (rc == 0) rc = kvstow_flush(bed->store);
  kvstow_held held = {0};
  if (rc == 0) rc = kvstow_match(&prefix, 0, &bed->lease, &held);
  if (rc == 0 && held.blocks != bed->blocks) rc = KVSTOW_EMISS;
  if (rc == 0) rc = kvstow_lease_wait(bed->lease, 0, NULL);
  for (uint32_t l = 0; l < bed->shape.layers; l++)
    bed->sums[l] = use(bed->whole + l * bed->layer_bytes, bed->layer_bytes);
  return rc == 0 || fail(bed, "store", rc);
}

static int read_layer(struct bed *bed, uint32_t layer) {
  const kvstow_range range = {.layer_first = layer, .layer_count = 1};
  struct iovec iov = {bed->layer, bed->layer_bytes};
  return kvstow_read(bed->lease, &range, &iov, 1, 0, 0);
}

static bool compare_all(struct bed *bed) {
  for (uint32_t l = 0; l < bed->shape.layers; l++) {
    const int rc = read_layer(bed, l);
    if (rc != 0) return fail(bed, "read", rc);
    if (memcmp(bed->layer, bed->whole + l * bed->layer_bytes, bed->layer_bytes) == 0) continue;
    bench_fail(bed->report, "%s, layer %u: wrong bytes", bed->model->name, l);
    return false;
  }
  return true;
}

static bool make_file(struct bed *bed) {
  char path[BENCH_PATH_BYTES + 16];
  snprintf(path, sizeof path, "%s/mapped", bed->dir);
  bed->file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  size_t at = 0;
  while (bed->file >= 0 && at < bed->bytes) {
    const ssize_t wrote = write(bed->file, bed->whole + at, bed->bytes - at);
    if (wrote <= 0) break;
    at += (size_t)wrote;
  }
  if (bed->file >= 0 && at == bed->bytes && fsync(bed->file) == 0) return true;
  bench_fail(bed->report, "%s: %s", path, strerror(errno));
  return false;
}

/* ---- contestants ---------------------------------------------------------------------------- */

static void set_prefetch(struct bed *bed, bool on) {
  kvstow_tuning tuning;
  kvstow_get_tuning(bed->store, &tuning);
  tuning.enable_prefetch = on;
  const int rc = kvstow_set_tuning(bed->store, &tuning);
  if (rc != 0) (void)fail(bed, "tuning", rc);
}

static kvstow_stats stats_of(const struct bed *bed) {
  kvstow_stats stats = {.size = sizeof stats};
  kvstow_get_stats(bed->store, &stats);
  return stats;
}

/* One step in the midst of many: the last layers of the step before come first, untimed. */
static double run_step(struct bed *bed, bool prefetch, kvstow_stats *before, kvstow_stats *after) {
  const uint32_t layers = bed->shape.layers;
  set_prefetch(bed, prefetch);
  int rc = 0;
  for (uint32_t l = layers - 4; l < layers && rc == 0; l++) {
    rc = read_layer(bed, l);
    if (rc == 0 && use(bed->layer, bed->layer_bytes) != bed->sums[l]) rc = KVSTOW_ECORRUPT;
  }
  *before = stats_of(bed);
  const struct measure_span begun = measure_begin();
  for (uint32_t l = 0; l < layers && rc == 0; l++) {
    rc = read_layer(bed, l);
    if (rc == 0 && use(bed->layer, bed->layer_bytes) != bed->sums[l]) rc = KVSTOW_ECORRUPT;
  }
  const struct measure_span span = measure_end(begun);
  *after = stats_of(bed);
  if (rc != 0) (void)fail(bed, "read", rc);
  return span.seconds;
}

static double run_cpu(struct bed *bed) {
  const struct measure_span begun = measure_begin();
  for (uint32_t l = 0; l < bed->shape.layers; l++) {
    memcpy(bed->layer, bed->whole + l * bed->layer_bytes, bed->layer_bytes);
    if (use(bed->layer, bed->layer_bytes) != bed->sums[l]) (void)fail(bed, "cpu", KVSTOW_ECORRUPT);
  }
  return measure_end(begun).seconds;
}

static double run_device(struct bed *bed, uint64_t bytes) {
  const struct raw_uring_job job = {.extents = bed->extents,
                                    .extents_count = bed->extents_count,
                                    .block_bytes = bed->shape.plane_bytes,
                                    .depth = LIMIT_DEPTH,
                                    .total_bytes = bytes,
                                    .buffers = bed->raw};
  static struct raw_uring_result result;
  if (bytes < bed->shape.plane_bytes) return 0;
  const int rc = raw_uring_run(&job, &result);
  if (rc != 0) bench_fail(bed->report, "the limit: %s", strerror(-rc));
  return result.span.seconds;
}

static double run_memcpy(struct bed *bed, uint64_t bytes) {
  const struct measure_span begun = measure_begin();
  for (uint64_t at = 0; at < bytes; at += bed->layer_bytes) {
    const uint64_t left = bytes - at;
    memcpy(bed->layer, bed->whole + at, left < bed->layer_bytes ? left : bed->layer_bytes);
  }
  return measure_end(begun).seconds;
}

static double run_mmap(struct bed *bed) {
  const int rc = cold_drop(bed->file);
  if (rc != 0) {
    bench_fail(bed->report, "mmap: the page cache could not be emptied: %s", strerror(-rc));
    return 0;
  }
  const struct measure_span begun = measure_begin();
  const char *mapping = mmap(NULL, bed->bytes, PROT_READ, MAP_SHARED, bed->file, 0);
  if (mapping == MAP_FAILED) {
    bench_fail(bed->report, "mmap: %s", strerror(errno));
    return 0;
  }
  for (uint32_t l = 0; l < bed->shape.layers; l++)
    if (use(mapping + l * bed->layer_bytes, bed->layer_bytes) != bed->sums[l])
      (void)fail(bed, "mmap", KVSTOW_ECORRUPT);
  const double seconds = measure_end(begun).seconds;
  munmap((void *)(uintptr_t)mapping, bed->bytes); /* what is mapped can't be dropped */
  return seconds;
}

/* ---- rows ----------------------------------------------------------------------------------- */

struct figures {
  double seconds[MEASURE_ROUNDS_MAX], limit_s[MEASURE_ROUNDS_MAX], ratio[MEASURE_ROUNDS_MAX],
      mmap_s[MEASURE_ROUNDS_MAX], mmap_ratio[MEASURE_ROUNDS_MAX], overlap[MEASURE_ROUNDS_MAX];
  uint64_t cold_bytes;
  kvstow_prefetch_stats layer;
};

static void one_round(struct bed *bed, unsigned r, struct figures figures[2]) {
  double step[2];
  uint64_t cold[2];
  for (unsigned n = 0; n < 2; n++) { /* which comes first changes */
    const unsigned on = (n + r) % 2;
    struct figures *f = &figures[on];
    kvstow_stats before, after;
    step[on] = run_step(bed, on != 0, &before, &after);
    const uint64_t records = after.tier.records_read - before.tier.records_read;
    cold[on] = after.tier.bytes_read - before.tier.bytes_read - records * KVSTOW_PAGE_BYTES;
    if (cold[on] > bed->bytes) cold[on] = bed->bytes;
    f->cold_bytes += cold[on];
    f->layer.issued += after.prefetch_layer.issued - before.prefetch_layer.issued;
    f->layer.used += after.prefetch_layer.used - before.prefetch_layer.used;
    f->layer.wasted += after.prefetch_layer.wasted - before.prefetch_layer.wasted;
    f->layer.late += after.prefetch_layer.late - before.prefetch_layer.late;
  }
  const double cpu_s = run_cpu(bed), mmap_s = run_mmap(bed);
  for (unsigned on = 0; on < 2; on++) {
    struct figures *f = &figures[on];
    const double device_s = run_device(bed, cold[on]);
    f->seconds[r] = step[on];
    f->limit_s[r] = device_s + run_memcpy(bed, bed->bytes - cold[on]);
    f->ratio[r] = f->limit_s[r] / step[on];
    f->mmap_s[r] = mmap_s;
    f->mmap_ratio[r] = mmap_s / step[on];
    const double hidden = device_s <= 0 ? 1 : 1 - (step[on] - cpu_s) / device_s;
    f->overlap[r] = hidden < 0 ? 0 : hidden > 1 ? 1 : hidden;
  }
}

static void report_row(const struct bed *bed, bool prefetch, struct figures *f) {
  const unsigned rounds = bed->args->rounds;
  const double seconds = measure_median(f->seconds, rounds), mb = (double)bed->bytes / 1e6;
  json_t *row = bench_row(bed->report);
  bench_text(row, "shape", bed->model->name);
  bench_count(row, "context_over_ram", bed->multiple);
  bench_text(row, "prefetch", prefetch ? "on" : "off");
  bench_count(row, "tokens", bed->tokens_count);
  bench_count(row, "context_bytes", bed->bytes);
  bench_count(row, "ram_bytes", bed->ram_bytes);
  bench_real(row, "cold_share", (double)f->cold_bytes / rounds / (double)bed->bytes);
  bench_real(row, "tok_s", 1 / seconds);
  bench_real(row, "mb_s", mb / seconds);
  bench_real(row, "limit_mb_s", mb / measure_median(f->limit_s, rounds));
  bench_real(row, "ratio", measure_median(f->ratio, rounds));
  bench_real(row, "mmap_mb_s", mb / measure_median(f->mmap_s, rounds));
  bench_real(row, "mmap_ratio", measure_median(f->mmap_ratio, rounds));
  bench_real(row, "overlap", measure_median(f->overlap, rounds));
  bench_count(row, "issued", f->layer.issued);
  bench_count(row, "used", f->layer.used);
  bench_count(row, "wasted", f->layer.wasted);
  bench_real(row, "late", (double)f->layer.late / (double)f->layer.used);
  if (!prefetch || f->layer.issued == 0) return;
  char name[96];
  snprintf(name, sizeof name, "%s x%u, planes read ahead that were used", bed->model->name,
           bed->multiple);
  bench_target_min(bed->report, name, (double)f->layer.used / (double)f->layer.issued, 0.70);
  snprintf(name, sizeof name, "%s x%u, planes read ahead in vain", bed->model->name, bed->multiple);
  bench_target_max(bed->report, name, (double)f->layer.wasted / (double)f->layer.issued, 0.10);
}

static bool bed_begin(struct bed *bed) {
  const struct model *m = bed->model;
  bed->ram_bytes = (uint64_t)(bed->args->quick ? 32 : 256) << 20;
  bed->shape =
      (struct content_shape){m->layers, m->k_bytes, m->v_bytes, bed->args->quick ? 16 : 64, 0};
  const size_t block_bytes = content_block_bytes(&bed->shape);
  bed->blocks = bed->multiple * bed->ram_bytes / block_bytes;
  bed->tokens_count = bed->blocks * bed->shape.block_tokens;
  bed->bytes = bed->blocks * block_bytes;
  bed->layer_bytes = bed->bytes / m->layers;
  bed->whole = measure_memory(bed->bytes);
  bed->layer = measure_memory(bed->layer_bytes);
  bed->tokens = calloc(bed->tokens_count, sizeof *bed->tokens);
  if (!bed->whole || !bed->layer || !bed->tokens || !bench_scratch_make(bed->args->dir, bed->dir)) {
    bench_fail(bed->report, "%zu bytes of memory and a scratch directory: %s", bed->bytes,
               strerror(errno));
    return false;
  }
  for (size_t i = 0; i < bed->tokens_count; i++) bed->tokens[i] = (kvstow_token)(i * 40503u);
  if (!open_store(bed)) return false;
  const kvstow_stats stats = stats_of(bed);
  if (!stats.tier.direct_io) {
    bench_fail(bed->report, "this file system has no direct I/O: what it serves is the page cache");
    return false;
  }
  if (json_object_get(bed->report->root, "engine") == NULL) {
    bench_text(bed->report->root, "engine", stats.tier.engine);
    json_object_set_new(bed->report->root, "direct_io", json_true());
  }
  bed->raw = measure_memory((size_t)bed->shape.plane_bytes * LIMIT_DEPTH);
  if (bed->raw == NULL || !fill(bed) || !compare_all(bed)) return false;
  const int count = raw_uring_open_dir(bed->dir, 1 << 20, bed->extents, SEGMENTS_MAX);
  if (count <= 0) bench_fail(bed->report, "the limit needs O_DIRECT: %s", raw_uring_why(count));
  bed->extents_count = count < 0 ? 0 : (size_t)count;
  return count > 0 && make_file(bed);
}

static void bed_end(struct bed *bed) {
  kvstow_lease_release(bed->lease);
  const int rc = kvstow_close(bed->store);
  if (rc != 0) (void)fail(bed, "close", rc);
  for (size_t i = 0; i < bed->extents_count; i++) close(bed->extents[i].fd);
  if (bed->file >= 0) close(bed->file);
  if (bed->dir[0] != '\0') bench_scratch_remove(bed->dir);
  measure_memory_free(bed->whole, bed->bytes);
  measure_memory_free(bed->layer, bed->layer_bytes);
  measure_memory_free(bed->raw, (size_t)bed->shape.plane_bytes * LIMIT_DEPTH);
  free(bed->tokens);
}

static void measure_context(const struct model *model, unsigned multiple,
                            const struct bench_args *args, struct bench_report *report) {
  static struct bed bed;
  bed = (struct bed){
      .args = args, .report = report, .model = model, .multiple = multiple, .file = -1};
  struct figures figures[2] = {{.cold_bytes = 0}, {.cold_bytes = 0}};
  if (bed_begin(&bed)) {
    for (unsigned r = 0; r < args->rounds && !report->failed; r++) one_round(&bed, r, figures);
    if (!report->failed) report_row(&bed, true, &figures[1]);
    if (!report->failed) report_row(&bed, false, &figures[0]);
  }
  bed_end(&bed);
}

int bench_stream_run(int argc, char **argv) {
  struct bench_args args;
  int status = bench_parse(argc, argv, usage_text, BENCH_DIR | BENCH_ENGINE | BENCH_SHAPE, &args);
  if (status < 0) status = bench_known(argv[0], "shape", args.shape, shapes);
  if (status >= 0) return status;
  struct bench_report report = bench_report_begin("stream");
  for (size_t s = 0; shapes[s] != NULL; s++)
    for (size_t m = 0; m < sizeof multiples / sizeof *multiples && !report.failed; m++)
      if (bench_picks(args.shape, shapes[s]))
        measure_context(model_find(shapes[s]), multiples[m], &args, &report);
  bench_note(&report,
             "A step reads all layers in turn and adds up their words; sums compared in every "
             "step, every byte once before. O_DIRECT throughout; mmap's file dropped from the page "
             "cache before each step.");
  bench_note(
      &report,
      "limit: io_uring, O_DIRECT, requests of a plane in order, depth %d, for what came from SSD, "
      "then memcpy for the others; nothing used or checked.",
      LIMIT_DEPTH);
  return bench_report_end(&report, &args, columns);
}
