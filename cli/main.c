/* main.c - the `kvstow` command: finds the subcommand and runs it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <kvstow/kvstow.h>

#include "cli/commands.h"

typedef struct command {
  const char *name;
  const char *summary;
  int (*run)(int argc, char **argv);
} command;

static const command commands[] = {
    {"replay", "drive the engine, or a simulation of it, with a trace of requests", cmd_replay},
    {"inspect", "the spaces and segments of a store", cmd_inspect},
    {"verify", "read every byte of a store and name each bad record", cmd_verify},
    {"stat", "a store in one screen", cmd_stat},
    {"bench", "measure, each figure beside its limit", cmd_bench},
};

enum { COMMANDS = sizeof commands / sizeof commands[0] };

static void print_help(FILE *out) {
  fputs(
      "kvstow: KV-cache offload to RAM and SSD\n"
      "\n"
      "Usage: kvstow COMMAND [OPTION]...\n"
      "\n",
      out);
  for (size_t i = 0; i < COMMANDS; i++) {
    fprintf(out, "  %-8s %s\n", commands[i].name, commands[i].summary);
  }
  fputs(
      "\n"
      "`kvstow COMMAND --help` tells the options of one; man kvstow tells more.\n"
      "Exit codes: 0 success, 1 a check failed, 2 bad usage.\n",
      out);
}

/* What was printed must have arrived: a command's success includes its output. */
static int finish(int status) {
  errno = 0;
  const bool lost = ferror(stdout) != 0;
  if (fflush(stdout) == 0 && !lost) return status;
  fprintf(stderr, "kvstow: the output could not be written%s%s\n", errno != 0 ? ": " : "",
          errno != 0 ? strerror(errno) : "");
  return status == EXIT_OK ? EXIT_FAILED : status;
}

static int run(int argc, char **argv) {
  if (argc < 2) {
    print_help(stderr);
    return EXIT_USAGE;
  }
  const char *name = argv[1];
  if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
    print_help(stdout);
    return EXIT_OK;
  }
  if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
    puts("kvstow " KVSTOW_VERSION);
    return EXIT_OK;
  }
  for (size_t i = 0; i < COMMANDS; i++) {
    if (strcmp(name, commands[i].name) != 0) continue;
    char title[32]; /* what getopt's messages begin with */
    snprintf(title, sizeof title, "kvstow %s", name);
    argv[1] = title;
    return commands[i].run(argc - 1, argv + 1);
  }
  fprintf(stderr, "kvstow: no command '%s'; `kvstow --help` lists them\n", name);
  return EXIT_USAGE;
}

int main(int argc, char **argv) {
  return finish(run(argc, argv));
}
