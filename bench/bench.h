/* bench.h - the table of benchmarks behind `kvstow bench NAME`.
 *
 * A benchmark has the shape of main(): argv[0] is its name, and it parses its own options (--help
 * and --json among them). It returns 0, 1 for a missed check, 2 for bad usage. Every benchmark
 * prints its limit, measured in the same run, beside its figure.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_BENCH_BENCH_H
#define KVSTOW_BENCH_BENCH_H

typedef struct bench {
  const char *name;
  const char *summary; /* one line */
  int (*run)(int argc, char **argv);
} bench;

/* Ends with a NULL name. Add a benchmark to bench/bench.c. */
extern const bench bench_table[];

int bench_store_run(int argc, char **argv);
int bench_match_run(int argc, char **argv);
int bench_restore_run(int argc, char **argv);
int bench_stream_run(int argc, char **argv);
int bench_tier_run(int argc, char **argv);
int bench_overhead_run(int argc, char **argv);
int bench_gguf_run(int argc, char **argv);
int bench_sim_run(int argc, char **argv);

#endif
