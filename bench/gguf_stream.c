/* gguf_stream.c - `kvstow bench gguf FILE`: every tensor of a model file brought into memory, cold, by the
 * tier, by mmap and by pread.
 *
 * Tensors come in the file's order (a loader's) and shuffled (a mixture of experts', a partial load's).
 * All methods deliver into the same memory, and deliver the same: each run's checksums are compared with
 * those of a plain read, outside the time. Cold: before each run the file's pages are dropped and the
 * kernel is asked whether they are gone; the tier reads past the page cache anyway.
 *
 * Methods: `tier`, one blocking read a tensor; `tier batch`, all of them at once; `pread`, buffered;
 * `mmap`, copied out of a fresh mapping; `mmap touch`, one byte read of each of its pages, nothing copied.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <kvstow/tier.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bench/bench.h"
#include "bench/cold.h"
#include "bench/countdown.h"
#include "bench/frame.h"
#include "bench/gguf.h"
#include "bench/gguf_make.h"
#include "bench/measure.h"
#include "bench/raw_uring.h"
#include "cli/commands.h"

static const char usage_text[] =
    "Usage: kvstow bench gguf [OPTION]... FILE\n"
    "       kvstow bench gguf --generate FILE --size BYTES [--seed N]\n"
    "\n"
    "Brings every tensor of a GGUF model file into memory, in the file's order and shuffled, "
    "cold:\n"
    "through the tier with and without read-ahead, by pread, by mmap; beside a bare io_uring "
    "loop.\n"
    "Or makes a well-formed file of any size. --seed also shuffles.\n";

static const struct bench_column columns[] = {
    {"order", "<order", -1},       {"method", "<method", -1},
    {"prefetch", "<prefetch", -1}, {"mb_s", "MB/s", 0},
    {"limit_mb_s", "limit", 0},    {"ratio", "ratio", 2},
    {"seconds", "s", 3},           {"io_wait_ms", "I/O wait ms", 0},
    {"cpu_s", "CPU s", 3},         {"page_faults", "page faults", 0},
    {"major_faults", "major", 0},  {NULL, NULL, 0},
};

enum {
  HEAD_FIRST_BYTES = 1 << 20,
  HEAD_MAX_BYTES = 1 << 30,
  PIECE_MAX_BYTES = 64 << 20,
  ARENA_MAX_BYTES = 256 << 20, /* then the clock stops, and sums are taken */
  PAGE_BYTES = 4096,
  LIMIT_BLOCK_BYTES = 1 << 20,
  LIMIT_DEPTH = 16,
};

/* Of one tensor, in one read. */
struct piece {
  uint64_t offset;
  size_t bytes;
  uint64_t sum;
};

struct model {
  const char *path;
  int fd; /* buffered */
  uint64_t file_bytes;
  char *head;
  struct gguf gguf;
  struct piece *pieces; /* as they lie in the file */
  size_t pieces_count;
  size_t *order[2]; /* of pieces: the file's, shuffled by tensor */
};

struct bed {
  struct model model;
  const struct bench_args *args;
  struct bench_report *report;
  kvstow_tier *tier;
  kvstow_file *file; /* opened for one run */
  char *map;         /* likewise */
  char *arena;
  size_t arena_bytes;
  char **to; /* where a piece goes, by its place in the order */
  kvstow_file_read *reads;
  kvstow_file_read **batch;
};

/* ---- the file ------------------------------------------------------------------------------- */

static int read_fully(int fd, char *to, uint64_t offset, size_t bytes) {
  for (size_t at = 0; at < bytes;) {
    const ssize_t got = pread(fd, to + at, bytes - at, (off_t)(offset + at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -errno;
    if (got == 0) return -EIO; /* it has shrunk */
    at += (size_t)got;
  }
  return 0;
}

static bool refuse(struct bed *bed, const char *what, int rc) {
  bench_fail(bed->report, "%s: %s: %s", bed->model.path, what, strerror(-rc));
  return false;
}

/* Reads more of the head until the parser is content. */
static bool read_head(struct bed *bed) {
  struct model *m = &bed->model;
  struct gguf_error error = {.wanted = HEAD_FIRST_BYTES};
  enum gguf_result result = GGUF_MORE;
  size_t have = 0;
  while (result == GGUF_MORE) {
    uint64_t wanted = 2 * have > error.wanted ? 2 * have : error.wanted;
    if (wanted > m->file_bytes) wanted = m->file_bytes;
    if (error.wanted > HEAD_MAX_BYTES) return refuse(bed, "the head exceeds 1 GiB", -EFBIG);
    char *more = realloc(m->head, wanted > 0 ? (size_t)wanted : 1);
    if (more == NULL) return refuse(bed, "the head", -ENOMEM);
    m->head = more;
    const int rc = read_fully(m->fd, m->head + have, have, (size_t)wanted - have);
    if (rc != 0) return refuse(bed, "the head", rc);
    have = (size_t)wanted;
    result = gguf_parse(m->head, have, m->file_bytes, &m->gguf, &error);
  }
  if (result == GGUF_OK) return true;
  if (result == GGUF_NO_MEMORY) return refuse(bed, "the table of tensors", -ENOMEM);
  bench_fail(bed->report, "%s, offset %llu: %s", m->path, (unsigned long long)error.offset,
             error.text);
  return false;
}

static int by_offset(const void *a, const void *b) {
  const struct gguf_tensor *x = a, *y = b;
  return (x->offset > y->offset) - (x->offset < y->offset);
}

static size_t pieces_of(const struct gguf_tensor *tensor) {
  return (size_t)((tensor->bytes + PIECE_MAX_BYTES - 1) / PIECE_MAX_BYTES);
}

/* Tensors change places; the pieces of one stay together. */
static void shuffle(struct model *m, const size_t *first, uint64_t seed) {
  const uint64_t count = m->gguf.tensors_count;
  size_t *tensors = calloc(count, sizeof *tensors), at = 0;
  if (tensors == NULL) abort();
  for (size_t i = 0; i < count; i++) tensors[i] = i;
  for (size_t i = count - 1; i > 0; i--) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    const size_t j = (size_t)(seed >> 33) % (i + 1), swap = tensors[i];
    tensors[i] = tensors[j];
    tensors[j] = swap;
  }
  for (size_t i = 0; i < count; i++)
    for (size_t p = first[tensors[i]]; p < first[tensors[i] + 1]; p++) m->order[1][at++] = p;
  free(tensors);
}

static bool cut(struct bed *bed) {
  struct model *m = &bed->model;
  const size_t tensors = (size_t)m->gguf.tensors_count;
  size_t *first = calloc(tensors + 1, sizeof *first), count = 0;
  if (first == NULL) return refuse(bed, "the order of tensors", -ENOMEM);
  qsort(m->gguf.tensors, tensors, sizeof *m->gguf.tensors, by_offset);
  for (size_t t = 0; t < tensors; t++) {
    first[t] = count;
    count += pieces_of(&m->gguf.tensors[t]);
  }
  first[tensors] = m->pieces_count = count;
  m->pieces = calloc(count + 1, sizeof *m->pieces);
  for (int i = 0; i < 2; i++) m->order[i] = calloc(count + 1, sizeof **m->order);
  if (m->pieces == NULL || m->order[0] == NULL || m->order[1] == NULL) abort();
  for (size_t t = 0; t < tensors; t++)
    for (size_t p = first[t]; p < first[t + 1]; p++) {
      const struct gguf_tensor *tensor = &m->gguf.tensors[t];
      const uint64_t at = (p - first[t]) * PIECE_MAX_BYTES, left = tensor->bytes - at;
      m->pieces[p].offset = tensor->offset + at;
      m->pieces[p].bytes = (size_t)(left < PIECE_MAX_BYTES ? left : PIECE_MAX_BYTES);
      m->order[0][p] = p;
    }
  shuffle(m, first, bed->args->seed);
  free(first);
  return true;
}

static bool open_model(struct bed *bed) {
  struct model *m = &bed->model;
  struct stat st;
  m->fd = open(m->path, O_RDONLY | O_CLOEXEC);
  if (m->fd < 0 || fstat(m->fd, &st) != 0) return refuse(bed, "can't be opened", -errno);
  if (!S_ISREG(st.st_mode)) return refuse(bed, "not a regular file", -EINVAL);
  m->file_bytes = (uint64_t)st.st_size;
  if (!read_head(bed)) return false;
  if (m->gguf.data_bytes == 0) {
    bench_fail(bed->report, "%s: no tensors", m->path);
    return false;
  }
  return cut(bed);
}

static void close_model(struct model *m) {
  if (m->fd >= 0) close(m->fd);
  gguf_free(&m->gguf);
  free(m->head);
  free(m->pieces);
  free(m->order[0]);
  free(m->order[1]);
}

/* ---- methods -------------------------------------------------------------------------------- */

/* So many pieces in the order given, to bed->to. */
typedef int deliver(struct bed *bed, const size_t *order, size_t count);

static int by_tier(struct bed *bed, const size_t *order, size_t count) {
  int rc = 0;
  for (size_t i = 0; i < count && rc == 0; i++) {
    const struct piece *p = &bed->model.pieces[order[i]];
    rc = kvstow_file_read_at(bed->file, p->offset, bed->to[i], p->bytes);
  }
  return rc;
}

static void one_done(kvstow_file_read *read) {
  countdown_one(read->arg, read->result);
}

static int by_batch(struct bed *bed, const size_t *order, size_t count) {
  struct countdown countdown;
  countdown_begin(&countdown, count);
  for (size_t i = 0; i < count; i++) {
    const struct piece *p = &bed->model.pieces[order[i]];
    bed->reads[i] = (kvstow_file_read){.file = bed->file,
                                       .offset = p->offset,
                                       .bytes = p->bytes,
                                       .to = bed->to[i],
                                       .done = one_done,
                                       .arg = &countdown};
    bed->batch[i] = &bed->reads[i];
  }
  const int rc = kvstow_file_read_batch(bed->tier, bed->batch, count);
  return rc != 0 ? rc : countdown_wait(&countdown);
}

static int by_pread(struct bed *bed, const size_t *order, size_t count) {
  int rc = 0;
  for (size_t i = 0; i < count && rc == 0; i++) {
    const struct piece *p = &bed->model.pieces[order[i]];
    rc = read_fully(bed->model.fd, bed->to[i], p->offset, p->bytes);
  }
  return rc;
}

static int by_mmap(struct bed *bed, const size_t *order, size_t count) {
  for (size_t i = 0; i < count; i++) {
    const struct piece *p = &bed->model.pieces[order[i]];
    memcpy(bed->to[i], bed->map + p->offset, p->bytes);
  }
  return 0;
}

/* What is summed afterwards is the mapping itself. */
static int by_touch(struct bed *bed, const size_t *order, size_t count) {
  for (size_t i = 0; i < count; i++) {
    const struct piece *p = &bed->model.pieces[order[i]];
    for (size_t at = 0; at < p->bytes; at += PAGE_BYTES)
      (void)*(const volatile char *)(bed->map + p->offset + at);
    bed->to[i] = bed->map + p->offset;
  }
  return 0;
}

struct method {
  const char *name, *prefetch;
  deliver *run;
  bool tier, map;
};

static const struct method methods[] = {
    {"tier", "on", by_tier, true, false},        {"tier", "off", by_tier, true, false},
    {"tier batch", "on", by_batch, true, false}, {"pread", "-", by_pread, false, false},
    {"mmap", "-", by_mmap, false, true},         {"mmap touch", "-", by_touch, false, true},
};

static const char *const order_names[] = {"file", "shuffled"};

enum { METHODS = sizeof methods / sizeof *methods, ORDERS = 2, RUNS = ORDERS * METHODS };

/* ---- one run -------------------------------------------------------------------------------- */

struct cost {
  double seconds, cpu_s, wait_s;
  uint64_t faults, major_faults;
};

/* All but the wall clock's grow while the process runs; waiting is what is left of the caller's time when
 * its CPU time and its time in the run queue are taken off. */
static struct cost cost_now(void) {
  struct cost cost;
  struct rusage usage;
  struct timespec cpu;
  unsigned long long ran_ns = 0, queued_ns = 0;
  char text[96] = "";
  const int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  if (fd >= 0) {
    if (read(fd, text, sizeof text - 1) > 0) (void)sscanf(text, "%llu %llu", &ran_ns, &queued_ns);
    close(fd);
  }
  getrusage(RUSAGE_SELF, &usage);
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
  cost.faults = (uint64_t)usage.ru_minflt + (uint64_t)usage.ru_majflt;
  cost.major_faults = (uint64_t)usage.ru_majflt;
  cost.cpu_s = measure_cpu_s();
  cost.seconds = (double)measure_now_ns() / 1e9;
  cost.wait_s =
      cost.seconds - (double)cpu.tv_sec - (double)cpu.tv_nsec / 1e9 - (double)queued_ns / 1e9;
  return cost;
}

static void cost_add(struct cost *sum, const struct cost *begun) {
  const struct cost now = cost_now();
  sum->seconds += now.seconds - begun->seconds;
  sum->cpu_s += now.cpu_s - begun->cpu_s;
  sum->wait_s += now.wait_s - begun->wait_s;
  sum->faults += now.faults - begun->faults;
  sum->major_faults += now.major_faults - begun->major_faults;
}

/* How many of the next pieces fit the arena. Each lies as far beyond a page's start as it does in the file,
 * which spares direct I/O a copy. */
static size_t lay_out(struct bed *bed, const size_t *order, size_t count) {
  size_t at = 0, i = 0;
  for (; i < count; i++) {
    const struct piece *p = &bed->model.pieces[order[i]];
    const size_t start = at + (p->offset - at) % PAGE_BYTES;
    if (start + p->bytes > bed->arena_bytes) break;
    bed->to[i] = bed->arena + start;
    at = start + p->bytes;
  }
  return i;
}

static bool check(struct bed *bed, const struct method *method, const size_t *order, size_t count) {
  for (size_t i = 0; i < count; i++) {
    const struct piece *p = &bed->model.pieces[order[i]];
    if (kvstow_checksum(bed->to[i], p->bytes) == p->sum) continue;
    bench_fail(bed->report, "%s, offset %llu: %s delivered other bytes than pread", bed->model.path,
               (unsigned long long)p->offset, method->name);
    return false;
  }
  return true;
}

static bool make_cold(struct bed *bed) {
  const int rc = cold_drop(bed->model.fd);
  return rc == 0 ||
         refuse(bed, "refused: it stays in the page cache, and that is not an SSD's speed", rc);
}

static bool begin_run(struct bed *bed, const struct method *method) {
  int rc = 0;
  if (!make_cold(bed)) return false;
  if (method->map) {
    bed->map = mmap(NULL, bed->model.file_bytes, PROT_READ, MAP_PRIVATE, bed->model.fd, 0);
    if (bed->map == MAP_FAILED) return refuse(bed, "mmap", -errno);
  }
  if (method->tier) {
    kvstow_tuning tuning;
    kvstow_tuning_init(&tuning);
    tuning.enable_prefetch = strcmp(method->prefetch, "on") == 0;
    rc = kvstow_tier_set_tuning(bed->tier, &tuning);
    if (rc == 0) rc = kvstow_file_open(bed->tier, bed->model.path, &bed->file);
    if (rc != 0) {
      bench_fail(bed->report, "%s: %s", bed->model.path, kvstow_strerror(rc));
      return false;
    }
  }
  return true;
}

static void end_run(struct bed *bed, const struct method *method) {
  if (method->map) munmap(bed->map, bed->model.file_bytes);
  if (method->tier) (void)kvstow_file_close(bed->file);
}

static bool run_method(struct bed *bed, const struct method *method, const size_t *order,
                       struct cost *cost) {
  if (!begin_run(bed, method)) return false;
  bool ok = true;
  for (size_t at = 0, count; at < bed->model.pieces_count && ok; at += count) {
    count = lay_out(bed, order + at, bed->model.pieces_count - at);
    const struct cost begun = cost_now();
    const int rc = method->run(bed, order + at, count);
    cost_add(cost, &begun);
    if (rc != 0) bench_fail(bed->report, "%s: %s", method->name, kvstow_strerror(rc));
    ok = rc == 0 && check(bed, method, order + at, count);
  }
  end_run(bed, method);
  return ok;
}

/* The data section, in order, in large requests. */
static double limit_bytes_s(struct bed *bed, int fd) {
  static struct raw_uring_result result;
  const uint64_t from = bed->model.gguf.data_offset / PAGE_BYTES * PAGE_BYTES;
  const struct raw_extent extent = {fd, from, bed->model.file_bytes - from};
  uint32_t block = LIMIT_BLOCK_BYTES;
  while (block > extent.bytes) block /= 2;
  const struct raw_uring_job job = {.extents = &extent,
                                    .extents_count = 1,
                                    .block_bytes = block,
                                    .depth = LIMIT_DEPTH,
                                    .total_bytes = extent.bytes,
                                    .buffers = bed->arena};
  if (!make_cold(bed)) return 1;
  const int rc = raw_uring_run(&job, &result);
  if (rc != 0) (void)refuse(bed, "the limit", rc);
  return (double)result.bytes / result.span.seconds;
}

/* ---- rows ----------------------------------------------------------------------------------- */

struct figures {
  double seconds[MEASURE_ROUNDS_MAX], ratio[MEASURE_ROUNDS_MAX], cpu_s[MEASURE_ROUNDS_MAX],
      wait_s[MEASURE_ROUNDS_MAX], faults[MEASURE_ROUNDS_MAX], major_faults[MEASURE_ROUNDS_MAX];
};

static void add_row(struct bed *bed, unsigned run, struct figures *f, double limit) {
  const struct method *method = &methods[run % METHODS];
  const unsigned rounds = bed->args->rounds;
  const double seconds = measure_median(f->seconds, rounds);
  json_t *row = bench_row(bed->report);
  bench_text(row, "order", order_names[run / METHODS]);
  bench_text(row, "method", method->name);
  bench_text(row, "prefetch", method->prefetch);
  bench_real(row, "mb_s", (double)bed->model.gguf.data_bytes / 1e6 / seconds);
  bench_real(row, "limit_mb_s", limit / 1e6);
  bench_real(row, "ratio", measure_median(f->ratio, rounds));
  bench_real(row, "seconds", seconds);
  bench_real(row, "io_wait_ms", measure_median(f->wait_s, rounds) * 1e3);
  bench_real(row, "cpu_s", measure_median(f->cpu_s, rounds));
  bench_real(row, "page_faults", measure_median(f->faults, rounds));
  bench_real(row, "major_faults", measure_median(f->major_faults, rounds));
}

static void one_round(struct bed *bed, unsigned round, int limit_fd, double *limit,
                      struct figures *figures) {
  limit[round] = limit_bytes_s(bed, limit_fd);
  for (unsigned i = 0; i < RUNS && !bed->report->failed; i++) {
    const unsigned run = (i + round) % RUNS;
    struct figures *f = &figures[run];
    struct cost cost = {0};
    if (!run_method(bed, &methods[run % METHODS], bed->model.order[run / METHODS], &cost)) return;
    f->seconds[round] = cost.seconds;
    f->ratio[round] = (double)bed->model.gguf.data_bytes / cost.seconds / limit[round];
    f->cpu_s[round] = cost.cpu_s;
    f->wait_s[round] = cost.wait_s;
    f->faults[round] = (double)cost.faults;
    f->major_faults[round] = (double)cost.major_faults;
  }
}

static void measure(struct bed *bed, int limit_fd) {
  double limit[MEASURE_ROUNDS_MAX];
  struct figures *figures = calloc(RUNS, sizeof *figures);
  if (figures == NULL) abort();
  for (unsigned r = 0; r < bed->args->rounds && !bed->report->failed; r++)
    one_round(bed, r, limit_fd, limit, figures);
  if (!bed->report->failed) {
    const double median = measure_median(limit, bed->args->rounds);
    for (unsigned run = 0; run < RUNS; run++) add_row(bed, run, &figures[run], median);
  }
  free(figures);
}

/* What plain reads deliver. */
static bool take_sums(struct bed *bed) {
  for (size_t p = 0; p < bed->model.pieces_count; p++) {
    struct piece *piece = &bed->model.pieces[p];
    const int rc = read_fully(bed->model.fd, bed->arena, piece->offset, piece->bytes);
    if (rc != 0) return refuse(bed, "pread", rc);
    piece->sum = kvstow_checksum(bed->arena, piece->bytes);
  }
  return true;
}

static bool bed_begin(struct bed *bed) {
  if (!open_model(bed)) return false;
  const struct model *m = &bed->model;
  const size_t pieces = m->pieces_count;
  const uint64_t all = m->gguf.data_bytes + (uint64_t)(pieces + 1) * 2 * PAGE_BYTES;
  const size_t least = (size_t)LIMIT_BLOCK_BYTES * LIMIT_DEPTH;
  bed->arena_bytes = all < least ? least : all < ARENA_MAX_BYTES ? (size_t)all : ARENA_MAX_BYTES;
  bed->arena = measure_memory(bed->arena_bytes);
  bed->to = calloc(pieces, sizeof *bed->to);
  bed->reads = calloc(pieces, sizeof *bed->reads);
  bed->batch = calloc(pieces, sizeof *bed->batch);
  if (!bed->arena || !bed->to || !bed->reads || !bed->batch) return refuse(bed, "memory", -ENOMEM);
  kvstow_tier_options o;
  kvstow_tier_options_init(&o);
  o.engine = bed->args->engine;
  char why[KVSTOW_MESSAGE_BYTES] = "";
  if (kvstow_tier_open(&o, &bed->tier, why, sizeof why) != 0) {
    bench_fail(bed->report, "open: %s", why);
    return false;
  }
  return take_sums(bed);
}

static void bed_end(struct bed *bed) {
  (void)kvstow_tier_close(bed->tier);
  measure_memory_free(bed->arena, bed->arena_bytes);
  free(bed->to);
  free(bed->reads);
  free(bed->batch);
  close_model(&bed->model);
}

static void add_notes(struct bed *bed, bool direct) {
  bench_note(bed->report,
             "%s: %llu tensors, %llu bytes. Cold: pages dropped before each run, and asked for.",
             bed->model.path, (unsigned long long)bed->model.gguf.tensors_count,
             (unsigned long long)bed->model.gguf.data_bytes);
  bench_note(bed->report, direct ? "limit: io_uring, O_DIRECT, 1 MiB, depth 16, in order."
                                 : "No direct I/O here: the tier and the limit read through the "
                                   "page cache, dropped before.");
  bench_note(bed->report,
             "I/O wait: the caller's time less its CPU time and its time in the run queue. Page "
             "faults: the process's, by getrusage.");
}

static void stream_model(struct bed *bed) {
  int limit_fd = raw_uring_open(bed->model.path, false);
  const bool direct = limit_fd >= 0 && cold_direct(limit_fd);
  if (limit_fd < 0) limit_fd = dup(bed->model.fd);
  kvstow_tier_stats stats = {.size = sizeof stats};
  kvstow_tier_get_stats(bed->tier, &stats);
  bench_text(bed->report->root, "file", bed->model.path);
  bench_text(bed->report->root, "engine", stats.engine);
  json_object_set_new(bed->report->root, "direct_io", json_boolean(direct));
  measure(bed, limit_fd);
  if (!bed->report->failed) add_notes(bed, direct);
  close(limit_fd);
}

static int stream(const struct bench_args *args) {
  struct bench_report report = bench_report_begin("gguf");
  struct bed bed = {.model = {.path = args->file, .fd = -1}, .args = args, .report = &report};
  if (bed_begin(&bed)) stream_model(&bed);
  bed_end(&bed);
  return bench_report_end(&report, args, columns);
}

static int generate(const char *name, const struct bench_args *args) {
  uint64_t least = 0;
  if (args->size == 0) {
    fprintf(stderr, "%s: --generate wants --size\n", name);
    return EXIT_USAGE;
  }
  const int rc = gguf_make(args->generate, args->size, args->seed, &least);
  if (rc == 0) return EXIT_OK;
  if (rc == -EINVAL && args->size < least) {
    fprintf(stderr, "%s: --size: at least %llu bytes\n", name, (unsigned long long)least);
    return EXIT_USAGE;
  }
  fprintf(stderr, "%s: %s: %s\n", name, args->generate, strerror(-rc));
  return EXIT_FAILED;
}

int bench_gguf_run(int argc, char **argv) {
  struct bench_args args;
  const int status =
      bench_parse(argc, argv, usage_text,
                  BENCH_FILE | BENCH_MAKE | BENCH_SIZE | BENCH_ENGINE | BENCH_CSV, &args);
  if (status >= 0) return status;
  if ((args.file == NULL) == (args.generate == NULL)) {
    fprintf(stderr, "%s: a FILE, or --generate FILE\n", argv[0]);
    return EXIT_USAGE;
  }
  return args.generate != NULL ? generate(argv[0], &args) : stream(&args);
}
