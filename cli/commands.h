/* commands.h - the subcommands of `kvstow`.
 *
 * Each cmd_* has the shape of main(): argv[0] is the subcommand's name. It returns an exit code.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_CLI_COMMANDS_H
#define KVSTOW_CLI_COMMANDS_H

enum {
  EXIT_OK = 0,
  EXIT_FAILED = 1, /* a check failed, or the work could not be done */
  EXIT_USAGE = 2,  /* bad options; a message is on stderr */
};

int cmd_replay(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_stat(int argc, char **argv);
int cmd_bench(int argc, char **argv);

#endif
