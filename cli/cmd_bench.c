/* cmd_bench.c - `kvstow bench NAME`: runs one of bench/.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "bench/bench.h"
#include "cli/commands.h"

static void print_help(FILE *out) {
  fputs("Usage: kvstow bench NAME [OPTION]...\n\n", out);
  for (const bench *b = bench_table; b->name; b++) {
    fprintf(out, "  %-10s %s\n", b->name, b->summary);
  }
  fputs("\n`kvstow bench NAME --help` tells the options of one.\n", out);
}

int cmd_bench(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "--names") == 0) {
    for (const bench *b = bench_table; b->name; b++) puts(b->name);
    return EXIT_OK;
  }
  if (argc < 2) {
    fputs("kvstow bench: which one?\n", stderr);
    print_help(stderr);
    return EXIT_USAGE;
  }
  if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
    print_help(stdout);
    return EXIT_OK;
  }
  for (const bench *b = bench_table; b->name; b++) {
    if (strcmp(argv[1], b->name) == 0) return b->run(argc - 1, argv + 1);
  }
  fprintf(stderr, "kvstow bench: no benchmark '%s'\n", argv[1]);
  print_help(stderr);
  return EXIT_USAGE;
}
