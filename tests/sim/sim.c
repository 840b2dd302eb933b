/* sim.c - random users of the whole engine, on disks that fail, lie and lose power, against a model.
 *
 *   kvstow-sim [--seeds N] [--seed FIRST] [--jobs N] [--trace]
 *
 * A seed names everything: geometry, budgets, policies, engines, users, their operations, the
 * interleaving of all threads, and what the disks do (world.h). After every step: nothing is held that
 * was never stored, every byte returned is the right one, budgets hold, results are of the expected
 * kind, and no call took longer than it may. Where the disks only lose power, what a flush promised is
 * there in the next life. At the end, with healthy disks, the store opens, gives back what it holds and
 * closes.
 *
 * A failing seed is run again with fewer and fewer of its operations; what is left is printed. A run of
 * many seeds in which some kind of fault never struck has failed, too.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <sys/mman.h>

#include "tests/sim/world.h"

enum {
  SEEDS = KV_ASAN ? 40 : 150,
  SEEDS_FULL = KV_ASAN ? 200 : 2500,
  SEEDS_ALL = 1000, /* so many must see everything in the tables happen */
  REPORTS_MAX = 3,  /* a job */
};

typedef struct totals {
  uint64_t seeds, operations, lives, crashes, flushes, bytes, failed, hung;
  uint64_t faults[SIM_FAULT_KINDS];
  uint64_t deeds[DEEDS];
  uint64_t longest_ns[CALLS];
} totals;

static void work(totals *t, uint64_t first, uint64_t count, uint64_t step) {
  for (uint64_t seed = first; seed < first + count; seed += step) {
    memset(m->off, 0, sizeof m->off);
    const int status = run_seed(seed);
    t->seeds++;
    t->operations += m->operations;
    t->lives += m->opened;
    t->crashes += m->crashes;
    t->flushes += m->flushes_kept;
    t->bytes += m->bytes_compared;
    for (int i = 0; i < SIM_FAULT_KINDS; i++) t->faults[i] += sim_disk_counts()[i];
    for (int i = 0; i < DEEDS; i++) t->deeds[i] += m->deeds[i];
    for (int i = 0; i < CALLS; i++)
      if (m->longest_ns[i] > t->longest_ns[i]) t->longest_ns[i] = m->longest_ns[i];
    if (status == 0) continue;
    t->failed += status != SIM_HUNG;
    t->hung += status == SIM_HUNG;
    if (t->failed + t->hung <= REPORTS_MAX) report_failure(seed);
  }
}

static void add(totals *sum, const totals *t) {
  sum->seeds += t->seeds;
  sum->operations += t->operations;
  sum->lives += t->lives;
  sum->crashes += t->crashes;
  sum->flushes += t->flushes;
  sum->bytes += t->bytes;
  sum->failed += t->failed;
  sum->hung += t->hung;
  for (int i = 0; i < SIM_FAULT_KINDS; i++) sum->faults[i] += t->faults[i];
  for (int i = 0; i < DEEDS; i++) sum->deeds[i] += t->deeds[i];
  for (int i = 0; i < CALLS; i++)
    if (t->longest_ns[i] > sum->longest_ns[i]) sum->longest_ns[i] = t->longest_ns[i];
}

static const char *const FAULTS[] = {
#define X(name, text, fails) text,
    SIM_FAULTS(X)
#undef X
};
static const char *const ENGINE_DEEDS[] = {
#define X(name, member, text) text,
    SIM_DEEDS(X)
#undef X
};
static const char *const TIMED[] = {
#define X(name, text) text,
    SIM_CALLS(X)
#undef X
};

/* False if something never happened. */
static bool print_table(const char *title, const char *const *texts, const uint64_t *counts,
                        int rows) {
  bool all = true;
  printf("%12s  %s\n", "times", title);
  for (int i = 0; i < rows; i++) {
    printf("%12" PRIu64 "  %s\n", counts[i], texts[i]);
    all = all && counts[i] > 0;
  }
  printf("\n");
  return all;
}

/* Prints the tables; false if a kind of fault never struck, or the engine never got to do something. */
static bool print_tables(const totals *sum) {
  bool all = print_table("what the disks did", FAULTS, sum->faults, SIM_FAULT_KINDS);
  all = print_table("what the engine did", ENGINE_DEEDS, sum->deeds, DEEDS) && all;
  printf("%12s  call, in the time of the simulation\n", "longest, s");
  for (int i = 0; i < CALLS; i++)
    printf("%12.4f  %s\n", (double)sum->longest_ns[i] / 1e9, TIMED[i]);
  printf("\n%" PRIu64 " lives, %" PRIu64 " of them cut short, %" PRIu64
         " flushes whose promise was checked, %.1f GiB compared\n",
         sum->lives, sum->crashes, sum->flushes, (double)sum->bytes / (1 << 30));
  if (sum->seeds < SEEDS_ALL || all) return true;
  printf("FAILED: not everything in these tables has happened\n");
  return false;
}

static void *shared(size_t bytes) {
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) abort();
  return memory;
}

static bool number(const char *text, uint64_t *value) {
  char *end;
  errno = 0;
  *value = strtoull(text, &end, 0);
  return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0 && *value > 0;
}

int main(int argc, char **argv) {
  uint64_t seeds = kv_env("KVSTOW_TEST_FULL", 0) ? SEEDS_FULL : SEEDS;
  uint64_t first = 1, jobs = (uint64_t)sysconf(_SC_NPROCESSORS_ONLN);
  for (int i = 1; i < argc; i++) {
    uint64_t *value = strcmp(argv[i], "--seeds") == 0  ? &seeds
                      : strcmp(argv[i], "--seed") == 0 ? &first
                      : strcmp(argv[i], "--jobs") == 0 ? &jobs
                                                       : NULL;
    if (strcmp(argv[i], "--trace") == 0) {
      tracing = true;
    } else if (value == NULL || i + 1 == argc || !number(argv[++i], value)) {
      fprintf(stderr,
              "kvstow-sim: %s\nusage: kvstow-sim [--seeds N] [--seed FIRST] [--jobs N] [--trace]\n",
              argv[i]);
      return 2;
    }
  }
  totals *all = shared(jobs * sizeof *all);
  fflush(stdout);
  for (uint64_t j = 0; j < jobs; j++) {
    if (fork() != 0) continue;
    m = shared(sizeof *m);
    if (j < seeds) work(&all[j], first + j, seeds - j, jobs);
    fflush(stdout);
    _exit(0);
  }
  bool good = true;
  totals sum = {0};
  for (uint64_t j = 0; j < jobs; j++) {
    int status;
    good = wait(&status) > 0 && status == 0 && good;
  }
  for (uint64_t j = 0; j < jobs; j++) add(&sum, &all[j]);
  good = print_tables(&sum) && good;
  printf("%" PRIu64 " seeds, %" PRIu64 " operations, %" PRIu64 " wrong bytes, %" PRIu64 " hangs\n",
         sum.seeds, sum.operations, sum.failed, sum.hung);
  return good && sum.seeds == seeds && sum.failed + sum.hung == 0 ? 0 : 1;
}
