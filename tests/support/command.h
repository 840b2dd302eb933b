/* tests/support/command.h - runs the `kvstow` command and keeps what it said.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TESTS_SUPPORT_COMMAND_H
#define KVSTOW_TESTS_SUPPORT_COMMAND_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { OUTPUT_BYTES = 1 << 17, ARGS_MAX = 32 };

/* What the command printed and how it ended. */
struct outcome {
  int code;
  char out[OUTPUT_BYTES];
  char err[OUTPUT_BYTES];
};

static struct outcome outcome;

static void read_back(int fd, char *text) {
  const ssize_t bytes = pread(fd, text, OUTPUT_BYTES - 1, 0);
  assert_true(bytes >= 0);
  text[bytes] = '\0';
  close(fd);
}

static int scratch_file(void) {
  char path[] = KVSTOW_BINARY_DIR "/command.XXXXXX";
  const int fd = mkstemp(path);
  assert_true(fd >= 0);
  unlink(path);
  return fd;
}

/* Runs `kvstow` with the words of `line`. */
__attribute__((unused)) static void kvstow_run(const char *line) {
  char *words = strdup(line);
  assert_non_null(words);
  static char command[] = KVSTOW_COMMAND;
  char *argv[ARGS_MAX] = {command};
  int argc = 1;
  char *rest = NULL;
  for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
    assert_true(argc < ARGS_MAX - 1);
    argv[argc++] = word;
  }
  const int out = scratch_file(), err = scratch_file();
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err, STDERR_FILENO);
  pid_t child;
  assert_int_equal(posix_spawn(&child, KVSTOW_COMMAND, &actions, NULL, argv, environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  int status;
  while (waitpid(child, &status, 0) < 0) assert_int_equal(errno, EINTR);
  assert_true(WIFEXITED(status));
  outcome.code = WEXITSTATUS(status);
  read_back(out, outcome.out);
  read_back(err, outcome.err);
  free(words);
}

__attribute__((unused)) static void assert_contains(const char *text, const char *part) {
  if (!strstr(text, part)) fail_msg("no '%s' in: %s", part, text);
}

/* Bad usage: code 2, nothing on stdout, a message on stderr that has `part` in it. */
__attribute__((unused)) static void assert_refused(const char *line, const char *part) {
  kvstow_run(line);
  if (outcome.code != 2) fail_msg("kvstow %s: code %d, not 2: %s", line, outcome.code, outcome.err);
  assert_string_equal(outcome.out, "");
  assert_contains(outcome.err, part);
}

__attribute__((unused)) static void assert_helps(const char *line, const char *part) {
  kvstow_run(line);
  assert_int_equal(outcome.code, 0);
  assert_string_equal(outcome.err, "");
  assert_contains(outcome.out, "Usage: kvstow");
  assert_contains(outcome.out, part);
}

#endif
