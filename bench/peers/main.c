/* main.c - `kvstow-peers`: other stores that KV blocks could be put in, beside this one.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/peers/peer.h"
#include "bench/peers/run.h"
#include "cli/commands.h"

static const char usage_text[] =
    "Usage: kvstow-peers [OPTION]...\n"
    "\n"
    "Stores the same blocks of KV in this store and in others, durably, and gets them back cold, "
    "in\n"
    "rounds that take turns, every byte compared. --op speed (the default): a context of --size\n"
    "bytes (1GiB; 32 KiB a token) in blocks of --block bytes (512KiB, 2MiB and 8MiB). --op flips:\n"
    "what comes of one flipped bit in a store's files. --peers: some alone, \"files,rocksdb\".\n";

static const struct peer *const all[] = {
    &peer_kvstow,    &peer_files,       &peer_files_direct,
#ifdef KVSTOW_PEER_ROCKSDB
    &peer_rocksdb,   &peer_rocksdb_wal,
#endif
#ifdef KVSTOW_PEER_LMDB
    &peer_lmdb,
#endif
#ifdef KVSTOW_PEER_SQLITE
    &peer_sqlite,
#endif
    &peer_memcached,

};
enum { PEERS = sizeof all / sizeof *all };

bool peer_say(const char *name, const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  fprintf(stderr, "kvstow-peers: %s: %s\n", name, text);
  return false;
}

void peer_key(size_t block, char key[PEER_KEY_BYTES]) {
  const uint64_t words[2] = {(block + 1) * 0x9e3779b97f4a7c15u, block};
  memcpy(key, words, PEER_KEY_BYTES);
}

/* True if it needs no program, or that is in PATH. */
static bool is_there(const struct peer *peer) {
  const char *at = getenv("PATH");
  bool there = peer->program == NULL;
  for (char path[4096]; !there && at != NULL && *at != '\0';) {
    const int length = (int)strcspn(at, ":");
    snprintf(path, sizeof path, "%.*s/%s", length, at, peer->program);
    there = access(path, X_OK) == 0;
    at += length + (at[length] == ':');
  }
  return there;
}

/* -1, or an exit code: a name that is none. */
static int pick(const char *names, const struct peer *peers[PEERS + 1]) {
  size_t count = 0, named = 0, found = 0;
  for (const char *at = names; at != NULL && *at != '\0'; named++) {
    const size_t length = strcspn(at, ",");
    for (size_t p = 0; p < PEERS; p++)
      found += strlen(all[p]->name) == length && strncmp(at, all[p]->name, length) == 0;
    at += length + (at[length] == ',');
  }
  if (found < named) {
    fprintf(stderr, "kvstow-peers: --peers %s: built in are:", names);
    for (size_t p = 0; p < PEERS; p++) fprintf(stderr, " %s", all[p]->name);
    fputc('\n', stderr);
    return EXIT_USAGE;
  }
  for (size_t p = 0; p < PEERS; p++) {
    bool wanted = p == 0 || (names == NULL && is_there(all[p]));
    for (const char *at = names; !wanted && at != NULL && *at != '\0';) {
      const size_t length = strcspn(at, ",");
      wanted = strlen(all[p]->name) == length && strncmp(at, all[p]->name, length) == 0;
      at += length + (at[length] == ',');
    }
    if (wanted) peers[count++] = all[p];
  }
  peers[count] = NULL;
  return -1;
}

/* malloc keeps the memory it has had, as the allocators do that servers are run with: else a store that allocates a
 * buffer for each value would be charged for new pages each time. */
static void keep_memory(void) {
  (void)mallopt(M_MMAP_MAX, 0);
  (void)mallopt(M_TRIM_THRESHOLD, INT_MAX);
  (void)mallopt(M_ARENA_MAX, 1);
}

static bool is_block(uint64_t bytes) {
  return bytes % (2 * PEER_TOKEN_BYTES) == 0 && bytes <= (16 << 20);
}

int main(int argc, char **argv) {
  static const char *const ops[] = {"speed", "flips", NULL};
  struct bench_args args;
  const struct peer *peers[PEERS + 1] = {0};
  char name[] = "peers";
  argv[0] = name;
  int status = bench_parse(argc, argv, usage_text,
                           BENCH_DIR | BENCH_SIZE | BENCH_BLOCK | BENCH_OP | BENCH_PEERS, &args);
  if (status < 0) status = bench_known("kvstow-peers", "op", args.op, ops);
  if (status < 0) status = pick(args.peers, peers);
  if (status < 0 && args.block_bytes != 0 && !is_block(args.block_bytes)) {
    fputs("kvstow-peers: --block: a multiple of 64KiB, at most 16MiB\n", stderr);
    status = EXIT_USAGE;
  }
  if (status >= 0) return status;
  keep_memory();
  const bool flips = args.op != NULL && strcmp(args.op, "flips") == 0;
  struct bench_report report = bench_report_begin("peers");
  (flips ? peers_flips : peers_speed)(&args, peers, &report);
  return bench_report_end(&report, &args, flips ? peers_flips_columns : peers_speed_columns);
}
