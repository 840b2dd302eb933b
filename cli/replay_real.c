/* replay_real.c - `kvstow replay --real`: drives the engine as an inference server would, with real
 * bytes.
 *
 * A request is matched, what is held is restored into a buffer that stands for the GPU's and
 * checked byte by byte, what is missing is made up and stored. Only time inside kvstow calls
 * counts: making content and checking it does not, and cannot hide I/O either, because a request
 * whose blocks do not fit the buffer waits for its loads before the first read.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "cli/commands.h"
#include "cli/content.h"
#include "cli/models.h"
#include "cli/progress.h"
#include "cli/replay.h"
#include "cli/report.h"
#include "cli/size.h"
#include "cli/trace/trace.h"

#define MIB (1ull << 20)
#define BLOCK_BYTES_MAX (2 * MIB)   /* unless --block-tokens says otherwise */
#define SOURCE_BYTES_MAX (64 * MIB) /* stored in one call at most */
#define TARGET_BYTES_MAX (256 * MIB)
#define RAM_BYTES_MIN (8 * MIB) /* of the library; shares that come to less are raised to it */
#define SEGMENT_BYTES_MIN MIB
#define SEGMENT_BYTES_MAX (64 * MIB)

enum {
  AFTER_RESTART_REQUESTS = 100, /* reported on their own */
  SEGMENTS_WANTED = 16,
  USAGE_EVERY_REQUESTS = 64,
  BATCH_BLOCKS_MAX = 4096, /* iovecs in one call at most */
};

/* A buffer of the inference engine's: pages touched before time counts. */
struct buffer {
  uint8_t *base;
  size_t bytes;
};

struct run {
  const struct replay_args *args;
  struct trace *trace;
  struct content_shape shape;
  size_t block_bytes, payload_bytes;

  kvstow *store;
  kvstow_space *space;
  uint32_t segment_bytes; /* 0: the directory's own */
  kvstow_engine engine;
  char policy[256], ssd_policy[256]; /* with their parameters */
  uint64_t first, last;              /* requests of this run: [first, last) */

  struct buffer source, target;
  uint32_t source_blocks, target_blocks;
  struct iovec *iovs; /* one a block of the source buffer */
  kvstow_source *sources;
  void **payloads;      /* one a block of the target buffer */
  kvstow_token *tokens; /* of the longest request */
  uint8_t *stored_here; /* one a trace id: this run stored it */
  float *match_us, *restore_us, *store_us;
  uint64_t matches, restores, stores;
  char why[KVSTOW_MESSAGE_BYTES];

  struct replay_report report;
};

/* One request on its way. */
struct served {
  kvstow_lease *lease;
  uint64_t blocks, ram_blocks, ssd_blocks; /* leased, then restored; blocks = ram + ssd */
};

static double now_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t round_up(uint64_t value, uint64_t to) {
  return (value + to - 1) / to * to;
}

/* "kvstow replay: ..." on stderr; the exit code. */
__attribute__((format(printf, 2, 3))) static int fail(int code, const char *format, ...) {
  va_list list;
  va_start(list, format);
  fputs("kvstow replay: ", stderr);
  vfprintf(stderr, format, list);
  fputc('\n', stderr);
  va_end(list);
  return code;
}

static int fail_store(struct run *run, const char *call, int rc) {
  char message[KVSTOW_MESSAGE_BYTES];
  kvstow_message(run->store, message, sizeof message);
  return fail(EXIT_FAILED, "%s: %s%s%s", call, kvstow_strerror(rc), message[0] != '\0' ? ": " : "",
              message);
}

/* ---- what is measured outside the engine ---------------------------------------------------- */

/* Bytes the file system has allocated for the files of one directory. */
static uint64_t directory_bytes(const char *path) {
  DIR *dir = opendir(path);
  if (dir == NULL) return 0;
  uint64_t bytes = 0;
  for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
    struct stat st;
    if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode)) {
      bytes += (uint64_t)st.st_blocks * 512;
    }
  }
  closedir(dir);
  return bytes;
}

/* Of all its directories. */
static uint64_t store_bytes(const struct replay_args *args) {
  uint64_t bytes = 0;
  for (unsigned i = 0; i < args->dir_count; i++) bytes += directory_bytes(args->dirs[i]);
  return bytes;
}

static bool directory_empty(const char *path) {
  DIR *dir = opendir(path);
  if (dir == NULL) return true;
  bool empty = true;
  for (const struct dirent *entry; empty && (entry = readdir(dir)) != NULL;) {
    empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
  }
  closedir(dir);
  return empty;
}

/* A line of /proc/self/status in bytes. */
static uint64_t status_bytes(const char *name) {
  FILE *file = fopen("/proc/self/status", "re");
  if (file == NULL) return 0;
  char line[256];
  uint64_t kib = 0;
  while (fgets(line, sizeof line, file) != NULL) {
    const size_t length = strlen(name);
    if (strncmp(line, name, length) == 0 && line[length] == ':') {
      kib = strtoull(line + length + 1, NULL, 10);
      break;
    }
  }
  fclose(file);
  return kib * 1024;
}

/* Starts the peak again: reading the trace is not the engine's doing. */
static void reset_peak_rss(void) {
  FILE *file = fopen("/proc/self/clear_refs", "we");
  if (file == NULL) return;
  fputs("5", file);
  fclose(file);
}

/* ---- shape and budgets ---------------------------------------------------------------------- */

static int choose_shape(struct run *run) {
  const struct replay_args *args = run->args;
  struct replay_report *report = &run->report;
  struct model model;
  if (args->bytes_per_token > 0) {
    if (!model_of_bytes(args->bytes_per_token, &model)) {
      return fail(EXIT_USAGE, "--bytes-per-token %" PRIu64 " is too large", args->bytes_per_token);
    }
  } else {
    const char *name = args->model != NULL ? args->model : "llama-3-8b";
    const struct model *known = model_find(name);
    if (known == NULL) {
      char names[512];
      model_names(names, sizeof names);
      return fail(EXIT_USAGE, "no model '%s'; known: %s", name, names);
    }
    model = *known;
  }
  uint32_t tokens = args->block_tokens;
  if (tokens == 0) {
    tokens = run->trace->block_tokens;
    while (tokens > 1 && model_bytes_per_token(&model) * tokens > BLOCK_BYTES_MAX) tokens /= 2;
    report->scaled_down = tokens < run->trace->block_tokens;
  }
  const uint64_t plane =
      round_up((uint64_t)tokens * (model.k_bytes + model.v_bytes), KVSTOW_PAGE_BYTES);
  if (plane * model.layers > UINT32_MAX / 2) {
    return fail(EXIT_USAGE, "a block of %u tokens would be larger than 2 GiB", tokens);
  }
  run->shape = (struct content_shape){.layers = model.layers,
                                      .k_bytes = model.k_bytes,
                                      .v_bytes = model.v_bytes,
                                      .block_tokens = tokens,
                                      .plane_bytes = (uint32_t)plane};
  run->block_bytes = content_block_bytes(&run->shape);
  run->payload_bytes = plane * model.layers;
  report->model = model.name;
  report->layers = model.layers;
  report->k_bytes = model.k_bytes;
  report->v_bytes = model.v_bytes;
  report->block_tokens = tokens;
  report->trace_block_tokens = run->trace->block_tokens;
  report->block_bytes = run->block_bytes;
  report->payload_bytes = run->payload_bytes;
  return EXIT_OK;
}

/* Room for so many blocks: headers beside the payloads, and what slabs and arena lose. */
static uint64_t ram_for_blocks(uint64_t blocks, uint64_t payload_bytes) {
  const uint64_t room = blocks * (payload_bytes + KVSTOW_PAGE_BYTES);
  return round_up(room + room / 256 + MIB / 2, 2 * MIB);
}

static uint32_t segment_for(uint64_t ssd_bytes, uint64_t record_bytes) {
  uint64_t segment = SEGMENT_BYTES_MAX;
  while (segment > SEGMENT_BYTES_MIN && ssd_bytes / segment < SEGMENTS_WANTED) segment /= 2;
  while (segment < record_bytes + 64 * 1024 && segment < (1u << 30)) segment *= 2;
  return (uint32_t)segment;
}

/* A segment's footer and the gaps before runs take a little. */
static uint64_t records_in_segment(uint64_t segment_bytes, uint64_t record_bytes) {
  const uint64_t records = (segment_bytes - 64 * 1024) / record_bytes;
  return records > 0 ? records : 1;
}

/* Whole segments for so many records, and the directory's own files. */
static uint64_t ssd_for_blocks(uint64_t blocks, uint64_t record_bytes, uint64_t segment_bytes) {
  const uint64_t per_segment = records_in_segment(segment_bytes, record_bytes);
  return (blocks + per_segment - 1) / per_segment * segment_bytes + MIB;
}

static void choose_budgets(struct run *run) {
  const struct replay_args *args = run->args;
  struct replay_report *report = &run->report;
  const uint64_t unique = run->trace->unique;
  const uint64_t record = run->payload_bytes + KVSTOW_PAGE_BYTES;

  report->ram_budget_bytes =
      args->ram.unit == SIZE_BYTES
          ? args->ram.count
          : ram_for_blocks(size_in_blocks(&args->ram, unique, 0), run->payload_bytes);
  if (args->ssd.unit == SIZE_BYTES) {
    report->ssd_budget_bytes = args->ssd.count;
    report->segment_bytes = segment_for(args->ssd.count, record);
  } else {
    const uint64_t blocks = size_in_blocks(&args->ssd, unique, 0);
    report->segment_bytes = segment_for(blocks * record, record);
    report->ssd_budget_bytes = ssd_for_blocks(blocks, record, report->segment_bytes);
  }
  report->segment_blocks = records_in_segment(report->segment_bytes, record);
  if (report->ram_budget_bytes < RAM_BYTES_MIN && args->ram.unit != SIZE_BYTES)
    report->ram_budget_bytes = RAM_BYTES_MIN;
  run->segment_bytes = directory_empty(args->dirs[0]) ? report->segment_bytes : 0;
}

/* ---- options -------------------------------------------------------------------------------- */

static int check_args(const struct replay_args *args) {
  if (args->dir_count == 0) return fail(EXIT_USAGE, "--real wants --dir");
  if (args->trace_count != 1) return fail(EXIT_USAGE, "--real wants one --trace");
  if (!args->has_ram || !args->has_ssd) return fail(EXIT_USAGE, "--real wants --ram and --ssd");
  if (args->policy_count > 1) return fail(EXIT_USAGE, "--real runs one policy at a time");
  if (args->output == REPLAY_CSV) return fail(EXIT_USAGE, "--real has no --csv");
  if (args->ram.unit == SIZE_BYTES && args->ram.count < RAM_BYTES_MIN)
    return fail(EXIT_USAGE, "--ram: a store has at least 8 MiB");
  if (args->parts > 0 && (args->part == 0 || args->part > args->parts)) {
    return fail(EXIT_USAGE, "no part %u of %u", args->part, args->parts);
  }
  return EXIT_OK;
}

static int choose_engine(struct run *run) {
  static const char *const names[] = {
      [KVSTOW_ENGINE_AUTO] = "auto",
      [KVSTOW_ENGINE_URING] = "uring",
      [KVSTOW_ENGINE_THREADS] = "threads",
  };
  const char *name = run->args->engine != NULL ? run->args->engine : "auto";
  for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
    if (strcmp(name, names[i]) == 0) {
      run->engine = (kvstow_engine)i;
      return EXIT_OK;
    }
  }
  return fail(EXIT_USAGE, "no engine '%s'; auto, uring or threads", name);
}

static void choose_policies(struct run *run) {
  const struct replay_args *args = run->args;
  const char *params = args->policy_params != NULL ? args->policy_params : "";
  kvstow_options defaults;
  kvstow_options_init(&defaults);
  const bool given = args->policy_count > 0 && strcmp(args->policies[0], "default") != 0;
  snprintf(run->policy, sizeof run->policy, "%s%s%s",
           given ? args->policies[0] : defaults.ram_policy, params[0] != '\0' ? ":" : "", params);
  snprintf(run->ssd_policy, sizeof run->ssd_policy, "%s",
           args->ssd_policy != NULL ? args->ssd_policy
           : given                  ? run->policy
                                    : defaults.ssd_policy);
  run->report.policy = run->policy;
}

static void choose_part(struct run *run) {
  const uint64_t count = run->trace->request_count;
  const uint32_t parts = run->args->parts;
  run->first = parts > 0 ? count * (run->args->part - 1) / parts : 0;
  run->last = parts > 0 ? count * run->args->part / parts : count;
}

/* ---- buffers -------------------------------------------------------------------------------- */

static bool buffer_init(struct buffer *buffer, size_t bytes) {
  void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return false;
  madvise(base, bytes, MADV_HUGEPAGE);
  memset(base, 0xa5, bytes);
  *buffer = (struct buffer){.base = base, .bytes = bytes};
  return true;
}

static void buffer_finish(struct buffer *buffer) {
  if (buffer->base != NULL) munmap(buffer->base, buffer->bytes);
}

static uint32_t blocks_in(uint64_t bytes_max, uint64_t block_bytes, uint64_t longest) {
  uint64_t blocks = bytes_max / block_bytes;
  if (blocks > longest) blocks = longest;
  if (blocks > BATCH_BLOCKS_MAX) blocks = BATCH_BLOCKS_MAX;
  return blocks > 0 ? (uint32_t)blocks : 1;
}

static int make_buffers(struct run *run) {
  const uint64_t longest = run->trace->longest;
  run->source_blocks = blocks_in(SOURCE_BYTES_MAX, run->block_bytes, longest);
  run->target_blocks = blocks_in(TARGET_BYTES_MAX, run->payload_bytes, longest);
  run->iovs = calloc(run->source_blocks, sizeof *run->iovs);
  run->sources = calloc(run->source_blocks, sizeof *run->sources);
  run->payloads = calloc(run->target_blocks, sizeof *run->payloads);
  run->tokens = calloc(longest * run->shape.block_tokens, sizeof *run->tokens);
  run->stored_here = calloc(run->trace->unique, 1);
  const size_t requests = run->trace->request_count + 1; /* an empty trace is a trace */
  run->match_us = calloc(requests, sizeof *run->match_us);
  run->restore_us = calloc(requests, sizeof *run->restore_us);
  run->store_us = calloc(requests, sizeof *run->store_us);
  if (run->iovs == NULL || run->sources == NULL || run->payloads == NULL || run->tokens == NULL ||
      run->stored_here == NULL || run->match_us == NULL || run->restore_us == NULL ||
      run->store_us == NULL || !buffer_init(&run->source, run->source_blocks * run->block_bytes) ||
      !buffer_init(&run->target, run->target_blocks * run->payload_bytes)) {
    return fail(EXIT_FAILED, "out of memory for the buffers");
  }
  for (uint32_t i = 0; i < run->source_blocks; i++) {
    run->iovs[i] = (struct iovec){run->source.base + i * run->block_bytes, run->block_bytes};
    run->sources[i] = (kvstow_source){.iov = &run->iovs[i], .iovcnt = 1};
  }
  for (uint32_t i = 0; i < run->target_blocks; i++) {
    run->payloads[i] = run->target.base + i * run->payload_bytes;
  }
  run->report.buffer_bytes = run->source.bytes + run->target.bytes;
  return EXIT_OK;
}

static void free_buffers(struct run *run) {
  buffer_finish(&run->source);
  buffer_finish(&run->target);
  free(run->iovs);
  free(run->sources);
  free(run->payloads);
  free(run->tokens);
  free(run->stored_here);
  free(run->match_us);
  free(run->restore_us);
  free(run->store_us);
}

/* ---- the store ------------------------------------------------------------------------------ */

static int open_store(struct run *run) {
  const struct replay_args *args = run->args;
  kvstow_options options;
  kvstow_options_init(&options);
  options.dirs = args->dirs;
  options.dirs_count = args->dir_count;
  options.ram_bytes = run->report.ram_budget_bytes;
  options.ssd_bytes = run->report.ssd_budget_bytes;
  options.segment_bytes = run->segment_bytes;
  options.engine = run->engine;
  options.ram_policy = run->policy;
  options.ssd_policy = run->ssd_policy;
  if (args->high > 0) options.high_watermark_pct = (uint32_t)(args->high * 100 + 0.5);
  if (args->low > 0) options.low_watermark_pct = (uint32_t)(args->low * 100 + 0.5);
  options.write_mode = args->write_through ? KVSTOW_WRITE_THROUGH : KVSTOW_WRITE_BACK;
  int rc = kvstow_open(&options, &run->store, run->why, sizeof run->why);
  if (rc != 0) {
    run->store = NULL;
    return fail(rc == KVSTOW_EINVAL || rc == KVSTOW_EPOLICY ? EXIT_USAGE : EXIT_FAILED,
                "cannot open %s: %s: %s", args->dirs[0], kvstow_strerror(rc), run->why);
  }

  /* Content and layout make KV interchangeable here: another shape is another space. */
  char fingerprint[128];
  const int length = snprintf(
      fingerprint, sizeof fingerprint, "kvstow replay 1: %u layers, %u + %u bytes, %u tokens",
      run->shape.layers, run->shape.k_bytes, run->shape.v_bytes, run->shape.block_tokens);
  kvstow_space_options space;
  kvstow_space_options_init(&space);
  space.name = run->report.model;
  space.fingerprint = fingerprint;
  space.fingerprint_bytes = (size_t)length;
  space.layers = run->shape.layers;
  space.k_bytes = run->shape.k_bytes;
  space.v_bytes = run->shape.v_bytes;
  space.block_tokens = run->shape.block_tokens;
  rc = kvstow_space_open(run->store, &space, &run->space);
  if (rc != 0) {
    fail_store(run, "kvstow_space_open", rc);
    return rc == KVSTOW_ETOOBIG ? EXIT_USAGE : EXIT_FAILED;
  }
  run->shape.plane_bytes = kvstow_space_plane_bytes(run->space);
  if (kvstow_space_payload_bytes(run->space) > run->payload_bytes) {
    return fail(EXIT_FAILED, "the engine pads a block to %u bytes, expected %zu",
                kvstow_space_payload_bytes(run->space), run->payload_bytes);
  }
  return EXIT_OK;
}

/* ---- one request ---------------------------------------------------------------------------- */

static int match(struct run *run, const kvstow_prefix *prefix, struct served *served) {
  kvstow_held held = {0};
  const double start = now_s();
  const int rc = kvstow_match(prefix, 0, &served->lease, &held);
  run->match_us[run->matches++] = (float)((now_s() - start) * 1e6);
  if (rc == KVSTOW_EMISS) return EXIT_OK;
  if (rc != 0) return fail_store(run, "kvstow_match", rc);
  served->blocks = held.blocks;
  served->ram_blocks = held.ram_blocks;
  served->ssd_blocks = held.ssd_blocks;
  return EXIT_OK;
}

static void check(struct run *run, const uint32_t *ids, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) {
    const uint64_t unequal = content_check(&run->shape, ids[i], run->payloads[i]);
    run->report.mismatched_bytes += unequal;
    run->report.unequal_blocks += unequal > 0;
  }
}

static void note_loss(struct run *run, int rc) {
  char message[KVSTOW_MESSAGE_BYTES];
  char *text = run->report.first_loss;
  kvstow_message(run->store, message, sizeof message);
  const int length = snprintf(text, sizeof run->report.first_loss, "%s", kvstow_strerror(rc));
  if (message[0] != '\0' && length > 0) {
    snprintf(text + length, sizeof run->report.first_loss - (size_t)length, ": %s", message);
  }
}

/* A failed read that is a miss, not a mistake of ours. */
static bool read_missed(int rc) {
  return rc != KVSTOW_EINVAL && rc != KVSTOW_ESTATE && rc != KVSTOW_EUNSUPPORTED;
}

/* Reads the lease's blocks in order, checks them, and leaves in *restored how many came back. */
static int read_lease(struct run *run, const struct trace_request *request, kvstow_lease *lease,
                      uint64_t blocks, uint64_t *restored, double *seconds) {
  if (blocks > run->target_blocks) {
    const double start = now_s();
    kvstow_lease_wait(lease, 0, NULL);
    *seconds += now_s() - start;
    const uint64_t left = kvstow_lease_tokens(lease) / run->shape.block_tokens;
    if (left < blocks) blocks = left;
  }
  uint64_t at = 0;
  while (at < blocks) {
    const uint64_t count = blocks - at < run->target_blocks ? blocks - at : run->target_blocks;
    const double start = now_s();
    const int rc = kvstow_read_blocks(lease, at, count, run->payloads, NULL, 0, 0);
    *seconds += now_s() - start;
    if (rc == 0) {
      check(run, request->ids + at, count);
      at += count;
      continue;
    }
    if (!read_missed(rc)) return fail_store(run, "kvstow_read_blocks", rc);
    if (run->report.first_loss[0] == '\0') note_loss(run, rc);
    const uint64_t left = kvstow_lease_tokens(lease) / run->shape.block_tokens;
    if (left >= at + count) break; /* late, not shrunk: give up on the rest */
    blocks = left;
  }
  *restored = at;
  return EXIT_OK;
}

static int restore(struct run *run, const struct trace_request *request, struct served *served) {
  if (served->blocks == 0) return EXIT_OK;
  struct replay_report *report = &run->report;
  uint64_t restored = 0;
  double seconds = 0;
  const int rc = read_lease(run, request, served->lease, served->blocks, &restored, &seconds);
  if (rc != EXIT_OK) return rc;
  run->restore_us[run->restores++] = (float)(seconds * 1e6);

  /* What was lost came from SSD, as far as that can be known. */
  const uint64_t lost = served->blocks - restored;
  served->ssd_blocks -= lost < served->ssd_blocks ? lost : served->ssd_blocks;
  served->ram_blocks = restored - served->ssd_blocks;
  served->blocks = restored;
  report->lost_blocks += lost;
  report->restore.blocks += restored;
  report->restore.seconds += seconds;
  struct report_flow *flow = served->ssd_blocks > 0 ? &report->restore_ssd : &report->restore_ram;
  flow->blocks += served->ssd_blocks > 0 ? served->ssd_blocks : served->ram_blocks;
  flow->seconds += seconds;
  for (uint64_t i = 0; i < restored; i++) {
    report->survivor_hit_blocks += run->stored_here[request->ids[i]] == 0;
  }
  return EXIT_OK;
}

static int store_missing(struct run *run, const kvstow_prefix *prefix,
                         const struct trace_request *request, struct served *served) {
  if (served->blocks == request->blocks) return EXIT_OK;
  double seconds = 0;
  uint64_t filled_to = 0;
  for (uint64_t at = served->blocks; at < request->blocks;) {
    const uint64_t left = request->blocks - at;
    const uint64_t count = left < run->source_blocks ? left : run->source_blocks;
    for (uint64_t i = 0; i < count; i++) {
      content_fill(&run->shape, request->ids[at + i], run->iovs[i].iov_base);
    }
    size_t stored = 0;
    const double start = now_s();
    const int rc = kvstow_store(prefix, at, count, run->sources, 0, &stored);
    seconds += now_s() - start;
    if (rc == 0) stored = count;
    for (uint64_t i = 0; i < stored; i++) run->stored_here[request->ids[at + i]] = 1;
    at += stored;
    filled_to = at;
    if (rc == 0) continue;
    if (rc != KVSTOW_EFULL && rc != KVSTOW_ENOMEM) return fail_store(run, "kvstow_store", rc);
    if (served->lease == NULL) break;
    /* Our own lease may be what fills RAM. */
    kvstow_lease_release(served->lease);
    served->lease = NULL;
  }
  run->report.store_refused_blocks += request->blocks - filled_to;
  run->report.store.seconds += seconds;
  run->store_us[run->stores++] = (float)(seconds * 1e6);
  return EXIT_OK;
}

static void count_served(struct report_served *sum, const struct trace_request *request,
                         const struct served *served, uint32_t trace_block_tokens) {
  const uint64_t hit = served->blocks * trace_block_tokens;
  sum->requests++;
  sum->blocks += request->blocks;
  sum->ram_hit_blocks += served->ram_blocks;
  sum->ssd_hit_blocks += served->ssd_blocks;
  sum->recompute_blocks += request->blocks - served->blocks;
  sum->tokens += request->input_tokens;
  sum->hit_tokens += hit < request->input_tokens ? hit : request->input_tokens;
}

static int serve(struct run *run, const struct trace_request *request) {
  const uint32_t block_tokens = run->shape.block_tokens;
  for (uint32_t i = 0; i < request->blocks; i++) {
    content_tokens(request->ids[i], block_tokens, run->tokens + (size_t)i * block_tokens);
  }
  kvstow_prefix prefix =
      KVSTOW_PREFIX(run->space, run->tokens, (size_t)request->blocks * block_tokens);
  prefix.session = request->session;

  struct served served = {0};
  int rc = match(run, &prefix, &served);
  if (rc == EXIT_OK) rc = restore(run, request, &served);
  if (rc == EXIT_OK) rc = store_missing(run, &prefix, request, &served);
  kvstow_lease_release(served.lease);
  if (rc != EXIT_OK) return rc;

  struct replay_report *report = &run->report;
  count_served(&report->served, request, &served, report->trace_block_tokens);
  if (report->stats.recovered_blocks > 0 &&
      report->after_restart.requests < AFTER_RESTART_REQUESTS) {
    count_served(&report->after_restart, request, &served, report->trace_block_tokens);
  }
  return EXIT_OK;
}

/* ---- the whole ------------------------------------------------------------------------------ */

static void watch_usage(struct run *run) {
  struct replay_report *report = &run->report;
  report->ssd_bytes = store_bytes(run->args);
  if (report->ssd_bytes > report->ssd_peak_bytes) report->ssd_peak_bytes = report->ssd_bytes;
}

static int serve_all(struct run *run) {
  struct replay_report *report = &run->report;
  struct trace_walk *walk = trace_walk_begin(run->trace);
  if (walk == NULL) return fail(EXIT_FAILED, "out of memory");
  report->stats.size = sizeof report->stats;
  kvstow_get_stats(run->store, &report->stats); /* what was recovered */
  struct progress progress;
  progress_begin(&progress, "replay", run->last - run->first);
  int rc = EXIT_OK;
  for (uint64_t i = 0; rc == EXIT_OK && i < run->last; i++) {
    const struct trace_request *request = trace_walk_next(walk);
    if (request == NULL) break;
    if (i < run->first) continue;
    progress_update(&progress, i - run->first);
    rc = serve(run, request);
    if (i % USAGE_EVERY_REQUESTS == 0) watch_usage(run);
  }
  progress_end(&progress);
  if (!trace_walk_end(walk)) return fail(EXIT_FAILED, "reading the trace back failed");
  return rc;
}

/* Flushes, and takes the figures while the store is open. ENOSPC is not a failure: what RAM held
 * beyond the SSD budget had no place to go. */
static int finish_store(struct run *run) {
  struct replay_report *report = &run->report;
  double start = now_s();
  int rc = kvstow_flush(run->store);
  report->flush_s = now_s() - start;
  if (rc != 0 && rc != KVSTOW_ENOSPC) return fail_store(run, "kvstow_flush", rc);
  watch_usage(run);
  report->stats.size = sizeof report->stats;
  kvstow_get_stats(run->store, &report->stats);
  report->store.blocks = report->stats.stored_blocks;

  start = now_s();
  rc = kvstow_close(run->store);
  report->close_s = now_s() - start;
  if (rc == KVSTOW_EBUSY) return fail_store(run, "kvstow_close", rc);
  run->store = NULL;
  if (rc != 0 && rc != KVSTOW_ENOSPC) {
    return fail(EXIT_FAILED, "kvstow_close: %s", kvstow_strerror(rc));
  }
  watch_usage(run);
  report->peak_rss_bytes = status_bytes("VmHWM");
  report->match_latency = report_latency_of(run->match_us, run->matches);
  report->restore_latency = report_latency_of(run->restore_us, run->restores);
  report->store_latency = report_latency_of(run->store_us, run->stores);
  return EXIT_OK;
}

static int replay(struct run *run) {
  struct replay_report *report = &run->report;
  int rc = choose_shape(run);
  if (rc != EXIT_OK) return rc;
  choose_budgets(run);
  rc = make_buffers(run);
  if (rc != EXIT_OK) return rc;

  reset_peak_rss();
  report->before_rss_bytes = status_bytes("VmRSS");
  const double start = now_s();
  rc = open_store(run);
  if (rc == EXIT_OK) rc = serve_all(run);
  if (rc == EXIT_OK) rc = finish_store(run);
  if (run->store != NULL) kvstow_close(run->store);
  if (rc != EXIT_OK) return rc;
  report->wall_s = now_s() - start;

  if (run->args->output == REPLAY_JSON) {
    if (!report_json(report, stdout)) return fail(EXIT_FAILED, "cannot write the report");
  } else {
    report_text(report, stdout);
  }
  return report->mismatched_bytes > 0 ? EXIT_FAILED : EXIT_OK;
}

int cmd_replay_real(const struct replay_args *args) {
  struct run run = {.args = args};
  int rc = check_args(args);
  if (rc == EXIT_OK) rc = choose_engine(&run);
  if (rc != EXIT_OK) return rc;
  choose_policies(&run);
  const struct trace_options options = {.format = args->format, .limit = args->limit};
  run.trace = trace_load(args->traces[0], &options, run.why, sizeof run.why);
  if (run.trace == NULL) return fail(EXIT_FAILED, "%s", run.why);
  choose_part(&run);
  run.report.trace = run.trace->name;
  run.report.write_mode = args->write_through ? "write through" : "write back";
  run.report.unique_blocks = run.trace->unique;
  rc = replay(&run);
  free_buffers(&run);
  trace_free(run.trace);
  return rc;
}
