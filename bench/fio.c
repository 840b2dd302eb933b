/* fio.c - see fio.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/fio.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ARGS_MAX = 20, ARG_BYTES = 1200 };

/* The output of a program, parsed; NULL if it failed. */
static json_t *run_json(char *const *argv) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return NULL;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t child;
  const int rc = posix_spawnp(&child, argv[0], &actions, NULL, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  FILE *out = rc == 0 ? fdopen(ends[0], "r") : NULL;
  if (out == NULL) {
    close(ends[0]);
    return NULL;
  }
  json_t *root = json_loadf(out, JSON_DISABLE_EOF_CHECK, NULL);
  char rest[4096];
  while (fread(rest, 1, sizeof rest, out) > 0) continue; /* or it would die of SIGPIPE */
  fclose(out);
  int status = 1;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (status == 0) return root;
  json_decref(root);
  return NULL;
}

bool fio_installed(void) {
  const char *path = getenv("PATH");
  for (char name[ARG_BYTES]; path != NULL && *path != '\0'; path += *path == ':') {
    const int length = (int)strcspn(path, ":");
    snprintf(name, sizeof name, "%.*s/fio", length, path);
    if (access(name, X_OK) == 0) return true;
    path += length;
  }
  return false;
}

double fio_bytes_s(const char *path, const char *rw, uint64_t file_bytes, uint64_t bytes,
                   uint32_t block_bytes, unsigned depth, bool direct) {
  static char args[ARGS_MAX][ARG_BYTES];
  const bool write = strcmp(rw, "write") == 0, random = strcmp(rw, "randread") == 0;
  const uint64_t offset = write || random ? 0 : file_bytes - bytes;
  int n = 0;
#define ARG(...) snprintf(args[n++], ARG_BYTES, __VA_ARGS__)
  ARG("fio");
  ARG("--name=limit");
  ARG("--filename=%s", path);
  ARG("--rw=%s", rw);
  ARG("--bs=%" PRIu32, block_bytes);
  ARG("--iodepth=%u", depth);
  ARG("--ioengine=io_uring");
  ARG("--direct=%d", direct);
  ARG("--offset=%" PRIu64, offset);
  ARG("--size=%" PRIu64, write || !random ? bytes : file_bytes);
  ARG("--io_size=%" PRIu64, bytes);
  ARG("--norandommap");
  ARG("--output-format=json");
  ARG(write ? "--end_fsync=1" : "--readonly");
#undef ARG
  char *argv[ARGS_MAX + 1] = {NULL};
  for (int i = 0; i < n; i++) argv[i] = args[i];
  json_t *root = run_json(argv);
  const json_t *job = json_array_get(json_object_get(root, "jobs"), 0);
  const json_t *side = json_object_get(job, write ? "write" : "read");
  const double moved = json_number_value(json_object_get(side, "io_bytes"));
  const double ms = json_number_value(json_object_get(job, "job_runtime"));
  json_decref(root);
  return moved == (double)bytes && ms > 0 ? moved / ms * 1e3 : -1;
}
