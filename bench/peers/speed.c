/* speed.c - how fast each store takes blocks in until they are durable, and gives them back cold.
 *
 * A round lets each store in turn make a new directory, store a context and some blocks that stand alone, and sync;
 * then it is closed, all its files are put out of the page cache (and asked for: cold_drop), and opened again, for
 * the context's first eighth and all of it, and once more for the single blocks, which are read one at
 * a time and each once. So every read is cold in this machine, with O_DIRECT or without. A store that can't be
 * closed without loss is read as it runs, its files cold as well.
 *
 * Where a store gets block by block, 1, 4 or 16 threads do it, whichever was fastest for it in a first round that
 * does not count; the same of threads that put. All bytes are compared with what was stored, after the clock has
 * stopped; what memory they come to was overwritten before.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/measure.h"
#include "bench/peers/place.h"
#include "bench/peers/run.h"
#include "bench/scratch.h"
#include "bench/verdict.h"

/* x: how many times as fast ours was. */
const struct bench_column peers_speed_columns[] = {
    {"peer", "<store", -1},
    {"block_bytes", "block B", 0},
    {"store_mb_s", "store MB/s", 0},
    {"store_x", "x", -1},
    {"store_cpu_s_per_gib", "CPU s/GiB", 2},
    {"written_x", "written", 2},
    {"disk_x", "disk", 2},
    {"short_ms", "1/8 ms", 1},
    {"short_x", "x", -1},
    {"first_ms", "first ms", 2},
    {"chain_ms", "all ms", 0},
    {"chain_mb_s", "MB/s", 0},
    {"chain_x", "x", -1},
    {"chain_cpu_s_per_gib", "CPU s/GiB", 2},
    {"p50_us", "p50 us", 0},
    {"p99_us", "p99 us", 0},
    {"p50_x", "x", -1},
    {"open_ms", "open ms", 1},
    {NULL, NULL, 0},
};

enum {
  PEERS_MAX = 12,
  PARTS = 2,
  SINGLES_BYTES = 256 << 20,
  SINGLES_MAX = 128,
  STRIDE = 173, /* a prime above SINGLES_MAX: each comes once */
  THREADS = 3,
};
static const double idle_cpu_s = 0.001; /* in 20 ms */
static const unsigned threads_tried[THREADS] = {1, 4, PEER_THREADS_MAX};
static const size_t part_of[PARTS] = {8, 1};

struct series {
  const struct peer *peer;
  unsigned writers, readers;
  double store_s[MEASURE_ROUNDS_MAX], store_cpu_s[MEASURE_ROUNDS_MAX], written[MEASURE_ROUNDS_MAX],
      disk[MEASURE_ROUNDS_MAX];
  double chain_s[PARTS][MEASURE_ROUNDS_MAX], first_s[PARTS][MEASURE_ROUNDS_MAX],
      chain_cpu_s[PARTS][MEASURE_ROUNDS_MAX];
  double open_s[MEASURE_ROUNDS_MAX], single_ns[MEASURE_ROUNDS_MAX];
  struct measure_latency singles;
};

struct bed {
  const struct bench_args *args;
  struct bench_report *report;
  size_t block_bytes, chain, blocks; /* blocks: and those behind the chain */
  char *source, *back;
  /* the store being measured */
  const struct peer *peer;
  char dir[BENCH_PATH_BYTES];
  void *store;
};

static size_t blocks_of(const struct bed *bed, size_t part) {
  return bed->chain < part_of[part] ? 1 : bed->chain / part_of[part];
}

static void failed(struct bed *bed, const char *what) {
  bench_fail(bed->report, "%s, blocks of %zu: %s", bed->peer->name, bed->block_bytes, what);
}

/* ---- one store ------------------------------------------------------------------------------ */

static double cpu_s(const struct bed *bed) {
  const double own = measure_cpu_s();
  return bed->peer->server == NULL ? own : own + place_cpu_s(bed->peer->server(bed->store));
}

/* What a store does in the background when it has been opened (ours lays hands on its RAM) is neither the next
 * figure's nor the peer's after it: waits until the processor is left alone. Then as much free memory as the work
 * will want is used once:
 * a virtual machine's host takes back what lies idle for seconds, and asks up to 2 s CPU a GiB for it, which here
 * would be the price of every store that uses the page cache or allocates. */
static void settle(const struct bed *bed, size_t bytes) {
  const struct timespec nap = {0, 20 * 1000 * 1000};
  double before, now = cpu_s(bed);
  do {
    before = now;
    nanosleep(&nap, NULL);
    now = cpu_s(bed);
  } while (now - before > idle_cpu_s);
  measure_memory_free(measure_memory(bytes), bytes);
}

static bool open_peer(struct bed *bed, size_t chain) {
  const struct peer_place place = {bed->dir, bed->block_bytes, chain,
                                   chain + bed->blocks - bed->chain};
  bed->store = bed->peer->open(&place);
  if (bed->store == NULL) failed(bed, "open");
  return bed->store != NULL;
}

static void close_peer(struct bed *bed) {
  if (bed->store != NULL) bed->peer->close(bed->store);
  bed->store = NULL;
}

static uint64_t written(const struct bed *bed) {
  return place_written(bed->peer->server == NULL ? getpid() : bed->peer->server(bed->store));
}

/* Blocks that threads share out among themselves, in order. */
struct crew {
  struct bed *bed;
  size_t count;
  _Atomic size_t next;
  _Atomic uint64_t first_ns;
  _Atomic size_t bad;
};

/* The i-th to be put: single blocks lie between those of the context, where no reading ahead finds the next. */
static size_t in_turn(const struct bed *bed, size_t i) {
  const size_t singles = bed->blocks - bed->chain, every = bed->blocks / singles;
  const size_t before = i / every < singles ? i / every : singles; /* single blocks */
  return i % every == every - 1 && before < singles ? bed->chain + before : i - before;
}

static void put_some(void *arg, unsigned thread) {
  struct crew *crew = arg;
  const struct bed *bed = crew->bed;
  for (size_t i; (i = atomic_fetch_add(&crew->next, 1)) < crew->count;) {
    const size_t b = crew->count == bed->blocks ? in_turn(bed, i) : i;
    if (!bed->peer->put(bed->store, thread, b, bed->source + b * bed->block_bytes)) crew->bad++;
  }
}

static void get_some(void *arg, unsigned thread) {
  struct crew *crew = arg;
  const struct bed *bed = crew->bed;
  for (size_t b; (b = atomic_fetch_add(&crew->next, 1)) < crew->count;) {
    if (bed->peer->get(bed->store, thread, b, bed->back + b * bed->block_bytes) != PEER_HELD)
      crew->bad++;
    if (b == 0) crew->first_ns = measure_now_ns();
  }
}

/* Until durable. `blocks` from the front. */
static struct measure_span put_all(struct bed *bed, unsigned threads, size_t blocks) {
  struct crew crew = {.bed = bed, .count = blocks};
  const double cpu = cpu_s(bed);
  struct measure_span span = measure_parallel(threads, put_some, &crew);
  const struct measure_span begun = measure_begin();
  if (!bed->peer->sync(bed->store)) crew.bad++;
  span.seconds += measure_end(begun).seconds;
  span.cpu_s = cpu_s(bed) - cpu;
  if (crew.bad > 0) failed(bed, "store");
  return span;
}

/* A store that forgets stays open. */
static bool cool(struct bed *bed) {
  if (!bed->peer->forgets) close_peer(bed);
  if (place_cool(bed->dir)) return true;
  bench_fail(bed->report, "%s: not out of the page cache: %s", bed->dir, strerror(errno));
  return false;
}

static bool reopen(struct bed *bed, size_t chain, size_t blocks) {
  if (!cool(bed) || (bed->store == NULL && !open_peer(bed, chain))) return false;
  settle(bed, blocks * bed->block_bytes);
  return true;
}

static void check(struct bed *bed, size_t first, size_t count) {
  if (memcmp(bed->back + first * bed->block_bytes, bed->source + first * bed->block_bytes,
             count * bed->block_bytes) != 0)
    failed(bed, "wrong bytes");
}

/* The first `blocks` of the context. */
static struct measure_span get_chain(struct bed *bed, unsigned threads, size_t blocks,
                                     double *first_s) {
  struct crew crew = {.bed = bed, .count = blocks};
  memset(bed->back, 0x55, blocks * bed->block_bytes);
  const double cpu = cpu_s(bed);
  struct measure_span span = measure_begin();
  double begun_s = span.seconds;
  if (bed->peer->chain != NULL) {
    uint64_t first_ns = 0;
    if (bed->peer->chain(bed->store, blocks, bed->back, &first_ns) != PEER_HELD) crew.bad++;
    span = measure_end(span);
    crew.first_ns = first_ns;
  } else {
    span = measure_parallel(threads, get_some, &crew);
    begun_s = (double)measure_now_ns() / 1e9 - span.seconds;
  }
  span.cpu_s = cpu_s(bed) - cpu;
  *first_s = (double)crew.first_ns / 1e9 - begun_s;
  if (crew.bad > 0)
    failed(bed, "restore");
  else
    check(bed, 0, blocks);
  return span;
}

/* One at a time, in an order that is no order. */
static void get_singles(struct bed *bed, struct series *series, unsigned r) {
  const size_t count = bed->blocks - bed->chain;
  struct measure_latency latency = {{0}};
  memset(bed->back + bed->chain * bed->block_bytes, 0x55, count * bed->block_bytes);
  for (size_t i = 0; i < count; i++) {
    const size_t b = bed->chain + i * STRIDE % count;
    const uint64_t begun = measure_now_ns();
    const enum peer_got got = bed->peer->get(bed->store, 0, b, bed->back + b * bed->block_bytes);
    measure_latency_add(&latency, measure_now_ns() - begun);
    if (got != PEER_HELD) failed(bed, "a single block");
  }
  check(bed, bed->chain, count);
  series->single_ns[r] = measure_latency_ns(&latency, 0.5);
  measure_latency_merge(&series->singles, &latency);
}

static void begin(struct bed *bed, const struct peer *peer) {
  bed->peer = peer;
  if (!bench_scratch_make(bed->args->dir, bed->dir))
    bench_fail(bed->report, "scratch directory: %s", strerror(errno));
}

static void end(struct bed *bed) {
  close_peer(bed);
  bench_scratch_remove(bed->dir);
}

/* ---- the round that does not count ---------------------------------------------------------- */

static size_t fastest(const double *seconds, size_t count) {
  size_t best = 0;
  for (size_t i = 1; i < count; i++)
    if (seconds[i] < seconds[best]) best = i;
  return best;
}

/* How many threads serve it best, of those that make sense. */
static void warm_up(struct bed *bed, struct series *series) {
  const size_t chain = bed->chain / 8 == 0 ? 1 : bed->chain / 8;
  const size_t writers = series->peer->one_writer ? 1 : THREADS;
  const size_t readers = series->peer->chain != NULL ? 1 : THREADS;
  double store_s[THREADS] = {0}, chain_s[THREADS] = {0}, first_s;
  for (size_t w = 0; w < writers && !bed->report->failed; w++) {
    begin(bed, series->peer);
    if (open_peer(bed, chain)) {
      settle(bed, chain * bed->block_bytes + PEER_RAM_BYTES);
      store_s[w] = put_all(bed, threads_tried[w], chain).seconds;
    }
    for (size_t i = 0; w == writers - 1 && i < readers && !bed->report->failed; i++)
      if (reopen(bed, chain, chain))
        chain_s[i] = get_chain(bed, threads_tried[i], chain, &first_s).seconds;
    end(bed);
  }
  series->writers = threads_tried[fastest(store_s, writers)];
  series->readers = threads_tried[fastest(chain_s, readers)];
}

/* ---- a round -------------------------------------------------------------------------------- */

static void one_round(struct bed *bed, struct series *series, unsigned r) {
  const double bytes = (double)bed->blocks * (double)bed->block_bytes;
  struct place_files files;
  begin(bed, series->peer);
  if (bed->report->failed || !open_peer(bed, bed->chain)) return end(bed);
  settle(bed, bed->blocks * bed->block_bytes + PEER_RAM_BYTES);
  const uint64_t before = written(bed);
  const struct measure_span stored = put_all(bed, series->writers, bed->blocks);
  series->store_s[r] = stored.seconds;
  series->store_cpu_s[r] = stored.cpu_s;
  series->written[r] = (double)(written(bed) - before) / bytes;
  if (place_list(bed->dir, &files)) series->disk[r] = (double)files.disk_bytes / bytes;
  place_free(&files);
  for (size_t p = 0; p < PARTS && !bed->report->failed; p++) {
    if (!cool(bed)) break;
    const struct measure_span begun = measure_begin();
    if (bed->store == NULL && !open_peer(bed, bed->chain)) break;
    if (p == 0) series->open_s[r] = measure_end(begun).seconds;
    const size_t blocks = blocks_of(bed, p);
    settle(bed, blocks * bed->block_bytes);
    const struct measure_span got = get_chain(bed, series->readers, blocks, &series->first_s[p][r]);
    series->chain_s[p][r] = got.seconds;
    series->chain_cpu_s[p][r] = got.cpu_s;
  }
  if (!bed->report->failed && reopen(bed, bed->chain, bed->blocks - bed->chain))
    get_singles(bed, series, r);
  end(bed);
}

/* ---- rows ----------------------------------------------------------------------------------- */

/* How many times as fast ours was: "!" where the other was faster, "?" where it can't be told. */
static void write_times(json_t *row, const char *key, const double *theirs, const double *ours,
                        unsigned rounds) {
  double ratios[MEASURE_ROUNDS_MAX], inverse[MEASURE_ROUNDS_MAX];
  char text[32];
  for (unsigned r = 0; r < rounds; r++) {
    ratios[r] = theirs[r] / ours[r];
    inverse[r] = ours[r] / theirs[r];
  }
  const char *told = verdict_of(ratios, rounds, 1) == VERDICT_ABOVE    ? ""
                     : verdict_of(inverse, rounds, 1) == VERDICT_ABOVE ? " !"
                                                                       : " ?";
  snprintf(text, sizeof text, "%.2f%s", verdict_middle(ratios, rounds), told);
  bench_text(row, key, theirs == ours ? "1" : text);
}

static double median(const double *values, unsigned rounds) {
  double sorted[MEASURE_ROUNDS_MAX];
  memcpy(sorted, values, rounds * sizeof *sorted);
  return measure_median(sorted, rounds);
}

static void write_row(const struct bed *bed, const struct series *of, const struct series *ours) {
  static const char *const names[PARTS] = {"short", "chain"};
  const unsigned rounds = bed->args->rounds;
  const double gib = 1 << 30, all = (double)bed->blocks * (double)bed->block_bytes;
  json_t *row = bench_row(bed->report);
  bench_text(row, "peer", of->peer->name);
  bench_count(row, "block_bytes", bed->block_bytes);
  bench_count(row, "tokens", bed->chain * bed->block_bytes / PEER_TOKEN_BYTES);
  bench_count(row, "writers", of->writers);
  bench_count(row, "readers", of->readers);
  bench_real(row, "store_mb_s", all / median(of->store_s, rounds) / 1e6);
  write_times(row, "store_x", of->store_s, ours->store_s, rounds);
  bench_real(row, "store_cpu_s_per_gib", median(of->store_cpu_s, rounds) / all * gib);
  bench_real(row, "written_x", median(of->written, rounds));
  bench_real(row, "disk_x", median(of->disk, rounds));
  for (size_t p = 0; p < PARTS; p++) {
    char key[32];
    const double bytes = (double)(blocks_of(bed, p) * bed->block_bytes);
    const double seconds = median(of->chain_s[p], rounds);
    snprintf(key, sizeof key, "%s_ms", names[p]);
    bench_real(row, key, seconds * 1e3);
    snprintf(key, sizeof key, "%s_mb_s", names[p]);
    bench_real(row, key, bytes / seconds / 1e6);
    snprintf(key, sizeof key, "%s_x", names[p]);
    write_times(row, key, of->chain_s[p], ours->chain_s[p], rounds);
    snprintf(key, sizeof key, "%s_cpu_s_per_gib", names[p]);
    bench_real(row, key, median(of->chain_cpu_s[p], rounds) / bytes * gib);
    snprintf(key, sizeof key, p == PARTS - 1 ? "first_ms" : "%s_first_ms", names[p]);
    bench_real(row, key, median(of->first_s[p], rounds) * 1e3);
  }
  bench_real(row, "p50_us", measure_latency_ns(&of->singles, 0.5) / 1e3);
  bench_real(row, "p99_us", measure_latency_ns(&of->singles, 0.99) / 1e3);
  write_times(row, "p50_x", of->single_ns, ours->single_ns, rounds);
  if (!of->peer->forgets) bench_real(row, "open_ms", median(of->open_s, rounds) * 1e3);
}

static void measure_block(struct bed *bed, struct series *series, size_t count) {
  const unsigned rounds = bed->args->rounds;
  for (size_t p = 0; p < count && !bed->report->failed; p++) warm_up(bed, &series[p]);
  for (unsigned r = 0; r < rounds; r++)
    for (size_t p = 0; p < count && !bed->report->failed; p++)
      one_round(bed, &series[(p + r) % count], r);
  for (size_t p = 0; p < count && !bed->report->failed; p++) write_row(bed, &series[p], &series[0]);
}

static void notes(const struct bed *bed, const struct peer *const *peers) {
  for (size_t p = 0; peers[p] != NULL; p++)
    bench_note(bed->report, "%s: %s.", peers[p]->name, peers[p]->setup);
  bench_note(bed->report,
             "Durable at the end of storing. Read cold; first: until the first block "
             "is whole. written: to the device, disk: held there, of the bytes stored. "
             "x: how many times as fast kvstow was; !: it was slower; ?: can't be "
             "told. CPU of this process and of a server; the kernel's own threads, "
             "which write the page cache back, are not in it.");
}

void peers_speed(const struct bench_args *args, const struct peer *const *peers,
                 struct bench_report *report) {
  static const size_t sizes[] = {512 << 10, 2 << 20, 8 << 20, 0};
  const size_t asked[] = {args->block_bytes, 0};
  const uint64_t bytes = args->size != 0 ? args->size : (uint64_t)(args->quick ? 128 : 1024) << 20;
  static struct series series[PEERS_MAX];
  struct bed bed = {.args = args, .report = report};
  for (const size_t *size = args->block_bytes != 0 ? asked : sizes; *size != 0; size++) {
    size_t count = 0, singles = (size_t)bytes / 4 / *size;
    if (singles > SINGLES_BYTES / *size) singles = SINGLES_BYTES / *size;
    if (singles > SINGLES_MAX) singles = SINGLES_MAX;
    bed.block_bytes = *size;
    bed.chain = (size_t)bytes / *size;
    bed.blocks = bed.chain + (singles == 0 ? 1 : singles);
    const size_t held = bed.blocks * bed.block_bytes;
    bed.source = measure_memory(held);
    bed.back = measure_memory(held);
    if (bed.chain == 0 || bed.source == NULL || bed.back == NULL) {
      bench_fail(report, "%s", bed.chain == 0 ? "--size: less than a block" : "out of memory");
    } else {
      measure_fill(bed.source, held, *size);
      memset(series, 0, sizeof series);
      for (; peers[count] != NULL; count++) series[count].peer = peers[count];
      measure_block(&bed, series, count);
    }
    measure_memory_free(bed.source, held);
    measure_memory_free(bed.back, held);
    if (report->failed) return;
  }
  notes(&bed, peers);
}
