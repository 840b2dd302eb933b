/* report.c - see world.h: running a seed, shrinking one that fails.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/world.h"

enum { REAL_SECONDS_MAX = 120, SHRINK_RUNS_MAX = 400 };

static const char *disks(void) {
  return the_plan.lies       ? "lie"
         : the_plan.errors   ? "fail"
         : the_plan.one_dies ? "die one by one"
         : the_plan.lost     ? "are slow and lose completions"
         : the_plan.slow     ? "are slow"
                             : "lose power";
}

static void print_plan(void) {
  printf("  %u users, %u lives of %u operations, %u directories, %s; disks %s\n", the_plan.users,
         the_plan.lives, the_plan.ops, the_plan.dirs, the_plan.ample ? "ample" : "tight", disks());
  for (unsigned i = 0; i < the_plan.spaces; i++)
    printf("  space %u: %u layers, K %u V %u bytes a token, blocks of %u tokens or %u bytes\n", i,
           the_plan.shape[i].layers, the_plan.shape[i].k_bytes, the_plan.shape[i].v_bytes,
           the_plan.shape[i].block_tokens, the_plan.shape[i].opaque_max_bytes);
}

/* One life, in a process of its own; its exit status, or SIM_FAILED. */
static int run_life(void) {
  if (tracing) setvbuf(stdout, NULL, _IOLBF, 0); /* lives end in _exit */
  fflush(stdout);
  const pid_t pid = fork();
  if (pid < 0) abort();
  if (pid == 0) {
    alarm(REAL_SECONDS_MAX * (KV_ASAN ? 5 : 1));
    live();
  }
  int status;
  while (waitpid(pid, &status, 0) < 0) {
  }
  if (!WIFSIGNALED(status)) return WEXITSTATUS(status);
  snprintf(m->message, sizeof m->message, "life %u: signal %d", the_life, WTERMSIG(status));
  return WTERMSIG(status) == SIGALRM ? SIM_HUNG : SIM_FAILED;
}

int run_seed(uint64_t seed) {
  uint8_t off[sizeof m->off];
  memcpy(off, m->off, sizeof off);
  memset(m, 0, sizeof *m);
  memcpy(m->off, off, sizeof off);
  plan_make(seed);
  model_make(seed);
  sim_disk_format();
  if (tracing) print_plan();
  for (the_life = 0; the_life <= the_plan.lives; the_life++) {
    const int status = run_life();
    const bool cut_short = status == SIM_CRASHED || status == SIM_ENDED;
    m->crashes += cut_short;
    if (status != 0 && !cut_short) {
      if (m->message[0] == 0)
        snprintf(m->message, sizeof m->message, "life %u: exit %d", the_life, status);
      return status;
    }
    forget_unflushed();
  }
  return 0;
}

/* What kind of failure a message tells of: its letters, without the life it begins with. */
static void kind_of(const char *message, char kind[24]) {
  size_t n = 0;
  const char *at = strchr(message, ':');
  for (at = at ? at : message; *at && n < 23; at++)
    if ((*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z')) kind[n++] = *at;
  kind[n] = 0;
}

static bool fails_alike(uint64_t seed, const char *kind) {
  char now[24];
  if (run_seed(seed) == 0) return false;
  kind_of(m->message, now);
  return strcmp(now, kind) == 0;
}

/* Leaves out as many operations as it can while the seed still fails in the same way. */
static void shrink(uint64_t seed) {
  const size_t total = sizeof m->off;
  char kind[24];
  kind_of(m->message, kind);
  uint8_t *off = (uint8_t *)m->off;
  unsigned runs = 0;
  for (size_t piece = total / 2; piece >= 1 && runs < SHRINK_RUNS_MAX; piece /= 2)
    for (size_t at = 0; at + piece <= total && runs < SHRINK_RUNS_MAX; at += piece) {
      if (memchr(off + at, 0, piece) == NULL) continue;
      uint8_t saved[sizeof m->off];
      memcpy(saved, off, total);
      memset(off + at, 1, piece);
      runs++;
      if (!fails_alike(seed, kind)) memcpy(off, saved, total);
    }
}

static unsigned operations_left(void) {
  unsigned count = 0;
  for (unsigned life = 0; life < the_plan.lives; life++)
    for (unsigned actor = 0; actor < ACTORS; actor++) {
      if (actor < FILER ? actor >= the_plan.users : !the_plan.files) continue;
      for (unsigned i = 0; i < the_plan.ops; i++) count += !m->off[life][actor][i];
    }
  return count;
}

void report_failure(uint64_t seed) {
  printf("seed %" PRIu64 " FAILED: %s\n", seed, m->message);
  const unsigned before = operations_left();
  shrink(seed);
  tracing = true;
  printf("shrunk from %u operations to %u:\n", before, operations_left());
  run_seed(seed);
  tracing = false;
  printf("%s\nagain: kvstow-sim --seed %" PRIu64 " --seeds 1 --trace\n", m->message, seed);
  fflush(stdout);
}
