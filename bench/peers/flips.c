/* flips.c - what comes of one flipped bit in a store's files: is it noticed, or are wrong bytes given as right?
 *
 * A store is filled, synced and closed. Then, again and again, one bit of a fresh copy of its files is flipped, the
 * copy is opened, and all blocks are asked for: half of the flips hit bytes of the blocks themselves, the others
 * what the store has written beside them (zeros, which may never be looked at, apart). All of it runs in children:
 * a store may crash on damage, or hang. A store that keeps nothing past its process's end is hit as it runs.
 *
 * The children are those of a nursery, a process forked before this one has threads (scratch.h starts one). A
 * child of a process with threads may find any lock taken that one of them held, an allocator's say, for good.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/measure.h"
#include "bench/peers/place.h"
#include "bench/peers/run.h"
#include "bench/scratch.h"

const struct bench_column peers_flips_columns[] = {
    {"peer", "<store", -1},          {"where", "<flipped", -1}, {"flips", "flips", 0},
    {"wrong", "wrong bytes", 0},     {"crashed", "crashed", 0}, {"hung", "hung", 0},
    {"not_opened", "not opened", 0}, {"noticed", "noticed", 0}, {"lost", "blocks lost", 1},
    {"harmless", "no matter", 0},    {NULL, NULL, 0},
};

enum {
  BLOCK_BYTES = 128 << 10,
  BLOCKS = 24,
  CHAIN = 16,
  FLIPS = 100,
  FLIPS_QUICK = 10,
  CHILD_S = 60,
  TRIES = 1 << 22,
};

/* What a child saw, in memory that it shares. */
struct seen {
  bool opened;
  size_t right, wrong, missing;
};

struct bed {
  const struct bench_args *args;
  struct bench_report *report;
  const struct peer *peer;
  char dir[BENCH_PATH_BYTES], copy[BENCH_PATH_BYTES];
  char *source;
  uint64_t *words; /* of the source, sorted */
  struct seen *seen;
  uint64_t random;
  pid_t nursery;
  int orders; /* to it; its answers */
};

/* ---- which byte ----------------------------------------------------------------------------- */

/* splitmix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014) */
static uint64_t draw(struct bed *bed) {
  uint64_t z = bed->random += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static int by_word(const void *a, const void *b) {
  const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

/* The blocks' words are all different, and no others are like them. */
static bool is_word(const struct bed *bed, const char *at) {
  uint64_t word;
  memcpy(&word, at, sizeof word);
  return bsearch(&word, bed->words, (size_t)BLOCKS * BLOCK_BYTES / 8, 8, by_word) != NULL;
}

struct hit {
  const char *path;
  uint64_t offset;
  unsigned char byte, bit;
};

enum { AROUND = 8 };

static bool look(struct bed *bed, const struct place_files *files, bool payload, struct hit *hit) {
  uint64_t at = draw(bed) % files->bytes;
  const struct place_file *file = files->file;
  for (; at >= file->bytes; file++) at -= file->bytes;
  char near[2 * AROUND] = {0};
  const int fd = open(file->path, O_RDONLY | O_CLOEXEC);
  const uint64_t from = at < AROUND ? 0 : at - AROUND;
  const ssize_t n = fd < 0 ? -1 : pread(fd, near, sizeof near, (off_t)from);
  if (fd >= 0) (void)close(fd);
  bool inside = false;
  for (ssize_t i = 0; i + 8 <= n; i++) /* every word that this byte could be part of */
    inside |= from + (uint64_t)i <= at && at < from + (uint64_t)i + 8 && is_word(bed, near + i);
  hit->path = file->path;
  hit->offset = at;
  hit->byte = (unsigned char)near[at - from];
  hit->bit = (unsigned char)(1u << draw(bed) % 8);
  return inside == payload && (payload || hit->byte != 0);
}

static bool flip(struct bed *bed, const char *dir, bool payload) {
  struct place_files files;
  struct hit hit;
  bool found = false, ok = place_list(dir, &files) && files.bytes > 0;
  for (int i = 0; ok && !found && i < TRIES; i++) found = look(bed, &files, payload, &hit);
  if (found) {
    const int fd = open(hit.path, O_WRONLY | O_CLOEXEC);
    const unsigned char byte = hit.byte ^ hit.bit;
    found = fd >= 0 && pwrite(fd, &byte, 1, (off_t)hit.offset) == 1;
    if (fd >= 0) (void)close(fd);
  }
  place_free(&files);
  return found;
}

/* ---- children ------------------------------------------------------------------------------- */

static bool fill(struct bed *bed, void *store) {
  bool ok = true;
  for (size_t b = 0; ok && b < BLOCKS; b++)
    ok = bed->peer->put(store, 0, b, bed->source + b * BLOCK_BYTES);
  return ok && bed->peer->sync(store);
}

static void ask(struct bed *bed, void *store) {
  char *back = measure_memory(BLOCK_BYTES);
  for (size_t b = 0; b < BLOCKS; b++) {
    memset(back, 0x55, BLOCK_BYTES);
    if (bed->peer->get(store, 0, b, back) != PEER_HELD)
      bed->seen->missing++;
    else if (memcmp(back, bed->source + b * BLOCK_BYTES, BLOCK_BYTES) != 0)
      bed->seen->wrong++;
    else
      bed->seen->right++;
  }
}

enum task { FILL, ASK, LIVE };

/* Exit code: 0, or what could not be done. */
static int child(struct bed *bed, enum task task, const char *dir) {
  const struct peer_place place = {dir, BLOCK_BYTES, CHAIN, BLOCKS};
  void *store = bed->peer->open(&place);
  if (store == NULL) return task == ASK ? 0 : 1;
  bool ok = task == ASK || fill(bed, store);
  if (task == LIVE) ok = ok && flip(bed, dir, true) && place_cool(dir);
  bed->seen->opened = ok;
  if (ok && task != FILL) ask(bed, store);
  bed->peer->close(store);
  return ok ? 0 : 1;
}

/* How it ended, as waitpid() tells; -1: it did not begin. */
static int bear(struct bed *bed, enum task task, const char *dir) {
  int status = 0;
  memset(bed->seen, 0, sizeof *bed->seen);
  const pid_t pid = fork();
  if (pid == 0) {
    const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (task == ASK && null >= 0) (void)dup2(null, STDERR_FILENO);
    (void)alarm(CHILD_S);
    _exit(child(bed, task, dir));
  }
  if (pid < 0 || waitpid(pid, &status, 0) != pid) return -1;
  return status;
}

/* ---- the nursery ---------------------------------------------------------------------------- */

struct order {
  const struct peer *peer;
  enum task task;
  uint64_t random; /* a child's draws are its own */
  char dir[BENCH_PATH_BYTES];
};

/* Until nobody is left who could order. */
static void serve(struct bed *bed) {
  struct order order;
  while (recv(bed->orders, &order, sizeof order, 0) == (ssize_t)sizeof order) {
    bed->peer = order.peer;
    bed->random = order.random;
    const int status = bear(bed, order.task, order.dir);
    if (send(bed->orders, &status, sizeof status, MSG_NOSIGNAL) != (ssize_t)sizeof status) break;
  }
}

static bool open_nursery(struct bed *bed) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return false;
  bed->nursery = fork();
  (void)close(ends[bed->nursery == 0 ? 0 : 1]);
  bed->orders = ends[bed->nursery == 0 ? 1 : 0];
  if (bed->nursery == 0) {
    serve(bed);
    _exit(0);
  }
  return bed->nursery > 0;
}

static void close_nursery(const struct bed *bed) {
  (void)close(bed->orders);
  if (bed->nursery > 0) (void)waitpid(bed->nursery, NULL, 0);
}

/* As bear(), there. */
static int run(struct bed *bed, enum task task, const char *dir) {
  struct order order = {.peer = bed->peer, .task = task, .random = draw(bed)};
  int status;
  snprintf(order.dir, sizeof order.dir, "%s", dir);
  if (send(bed->orders, &order, sizeof order, MSG_NOSIGNAL) != (ssize_t)sizeof order ||
      recv(bed->orders, &status, sizeof status, 0) != (ssize_t)sizeof status)
    return -1;
  return status;
}

/* ---- rows ----------------------------------------------------------------------------------- */

struct tally {
  uint64_t flips, wrong, crashed, hung, not_opened, noticed, harmless, lost;
};

static void count(struct tally *tally, const struct seen *seen, int status) {
  tally->flips++;
  tally->lost += seen->missing;
  if (WIFSIGNALED(status))
    *(WTERMSIG(status) == SIGALRM ? &tally->hung : &tally->crashed) += 1;
  else if (!seen->opened)
    tally->not_opened++;
  else if (seen->wrong > 0)
    tally->wrong++;
  else if (seen->missing > 0)
    tally->noticed++;
  else
    tally->harmless++;
}

static bool one_flip(struct bed *bed, bool payload, struct tally *tally) {
  bool ok = bench_scratch_make(bed->args->dir, bed->copy);
  int status = 0;
  if (ok && bed->peer->forgets) {
    status = run(bed, LIVE, bed->copy);
    ok = status >= 0 && (!WIFEXITED(status) || WEXITSTATUS(status) == 0);
  } else if (ok) {
    ok = place_copy(bed->dir, bed->copy) && flip(bed, bed->copy, payload);
    if (ok) status = run(bed, ASK, bed->copy);
    ok = ok && status >= 0;
  }
  if (ok) count(tally, bed->seen, status);
  bench_scratch_remove(bed->copy);
  return ok;
}

static void measure(struct bed *bed, bool payload) {
  struct tally tally = {0};
  const unsigned flips = bed->args->quick ? FLIPS_QUICK : FLIPS;
  for (unsigned i = 0; i < flips; i++)
    if (!one_flip(bed, payload, &tally))
      return bench_fail(bed->report, "%s: flip %u: nothing to flip, or %s", bed->peer->name, i,
                        strerror(errno));
  json_t *row = bench_row(bed->report);
  bench_text(row, "peer", bed->peer->name);
  bench_text(row, "where", payload ? "a block" : "beside them");
  bench_count(row, "flips", tally.flips);
  bench_count(row, "wrong", tally.wrong);
  bench_count(row, "crashed", tally.crashed);
  bench_count(row, "hung", tally.hung);
  bench_count(row, "not_opened", tally.not_opened);
  bench_count(row, "noticed", tally.noticed);
  bench_real(row, "lost", (double)tally.lost / (double)tally.flips);
  bench_count(row, "harmless", tally.harmless);
}

static void measure_peer(struct bed *bed) {
  if (!bench_scratch_make(bed->args->dir, bed->dir))
    return bench_fail(bed->report, "scratch directory: %s", strerror(errno));
  if (!bed->peer->forgets && run(bed, FILL, bed->dir) != 0)
    bench_fail(bed->report, "%s: could not be filled", bed->peer->name);
  if (!bed->report->failed) measure(bed, true);
  struct place_files files;
  const bool more = place_list(bed->dir, &files) && files.bytes > (uint64_t)BLOCKS * BLOCK_BYTES &&
                    !bed->peer->forgets;
  place_free(&files);
  if (!bed->report->failed && more) measure(bed, false);
  bench_scratch_remove(bed->dir);
}

void peers_flips(const struct bench_args *args, const struct peer *const *peers,
                 struct bench_report *report) {
  const size_t bytes = (size_t)BLOCKS * BLOCK_BYTES;
  struct bed bed = {.args = args, .report = report, .random = 1};
  bed.source = measure_memory(bytes);
  bed.words = measure_memory(bytes);
  bed.seen =
      mmap(NULL, sizeof *bed.seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (bed.source == NULL || bed.words == NULL || bed.seen == MAP_FAILED)
    return bench_fail(report, "out of memory");
  measure_fill(bed.source, bytes, 1);
  memcpy(bed.words, bed.source, bytes);
  qsort(bed.words, bytes / 8, 8, by_word);
  if (!open_nursery(&bed)) return bench_fail(report, "fork: %s", strerror(errno));
  for (size_t p = 0; peers[p] != NULL && !report->failed; p++) {
    bed.peer = peers[p];
    measure_peer(&bed);
  }
  close_nursery(&bed);
  for (size_t p = 0; peers[p] != NULL; p++)
    bench_note(report, "%s: %s.", peers[p]->name, peers[p]->setup);
  bench_note(report,
             "A bit a flip, in a copy of a store of %d blocks of %d KiB, then all are asked "
             "for. wrong bytes: given as if they were right. noticed: blocks were refused "
             "or not found (blocks lost: how many, on average). no matter: all were right.",
             BLOCKS, BLOCK_BYTES >> 10);
  measure_memory_free(bed.source, bytes);
  measure_memory_free(bed.words, bytes);
  (void)munmap(bed.seen, sizeof *bed.seen);
}
