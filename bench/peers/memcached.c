/* memcached.c - memcached with extstore: a server of its own, values on one file.
 *
 * From its doc/storage.txt: items leave RAM at once (ext_item_age=0), write buffers hold two of them, four I/O threads.
 * Nothing is evicted (-M): who stores what has no room yet is refused and tries again, so that blocks wait, as they do
 * elsewhere, instead of vanishing. Through a socket of the file system, which costs less than loopback; that it is
 * another process is part of its price, whose CPU time is counted.
 *
 * It is a cache alone: a restart empties it, and the last write buffer stays in RAM. `sync` waits until all items
 * have been handed to the file, and syncs that.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench/peers/peer.h"

enum { MIB = 1 << 20, TEXT_BYTES = 4096, TRIES = 30000, WORD_BYTES = 64 };

struct store {
  pid_t server;
  int socket[PEER_THREADS_MAX];
  char dir[TEXT_BYTES / 2];
  size_t block_bytes, blocks;
};

static void nap(void) {
  const struct timespec ms = {0, 1000 * 1000};
  nanosleep(&ms, NULL);
}

static int connect_to(const struct store *store) {
  struct sockaddr_un to = {.sun_family = AF_UNIX};
  const int length = snprintf(to.sun_path, sizeof to.sun_path, "%s/socket", store->dir);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (length < (int)sizeof to.sun_path && fd >= 0 &&
      connect(fd, (const struct sockaddr *)&to, sizeof to) == 0)
    return fd;
  if (fd >= 0) (void)close(fd);
  return -1;
}

static void close_store(void *arg) {
  struct store *store = arg;
  for (int i = 0; i < PEER_THREADS_MAX; i++)
    if (store->socket[i] >= 0) (void)close(store->socket[i]);
  if (store->server > 0) {
    (void)kill(store->server, SIGKILL);
    (void)waitpid(store->server, NULL, 0);
  }
  free(store);
}

static bool start(struct store *store) {
  const size_t item = store->block_bytes / MIB + 1, all = store->blocks * store->block_bytes / MIB;
  size_t buffer = 2; /* as little as it takes */
  while (store->block_bytes >= MIB / 2 && buffer < 2 * item) buffer *= 2;
  char path[TEXT_BYTES], ext[TEXT_BYTES], ram[WORD_BYTES], most[WORD_BYTES];
  snprintf(path, sizeof path, "%s/socket", store->dir);
  snprintf(ram, sizeof ram, "%zu", PEER_RAM_BYTES / MIB);
  snprintf(most, sizeof most, "%zum", item);
  snprintf(ext, sizeof ext,
           "ext_path=%s/ext:%zum,ext_wbuf_size=%zu,ext_item_age=0,ext_threads=4,ext_max_sleep=1000,"
           "ext_drop_under=1,ext_compact_under=1",
           store->dir, all * 5 / 4 + 1024, buffer);
  const char *const words[] = {"memcached", "-u", "root", "-M", "-t", "4", "-s", path,
                               "-m",        ram,  "-I",   most, "-o", ext, NULL};
  return posix_spawnp(&store->server, words[0], NULL, NULL, (char *const *)(uintptr_t)words,
                      environ) == 0;
}

static void *open_store(const struct peer_place *place) {
  struct store *store = calloc(1, sizeof *store);
  if (store == NULL) return NULL;
  memset(store->socket, -1, sizeof store->socket);
  store->block_bytes = place->block_bytes;
  store->blocks = place->blocks;
  snprintf(store->dir, sizeof store->dir, "%s", place->dir);
  if (!start(store)) store->server = 0;
  for (int i = 0; store->server > 0 && store->socket[0] < 0 && i < TRIES; i++) {
    store->socket[0] = connect_to(store);
    if (store->socket[0] < 0) nap();
    if (waitpid(store->server, NULL, WNOHANG) != 0) store->server = 0;
  }
  if (store->socket[0] >= 0) return store;
  peer_say("memcached", "the server does not start, or is not installed");
  close_store(store);
  return NULL;
}

/* ---- the protocol --------------------------------------------------------------------------- */

static bool send_all(int fd, const void *bytes, size_t count) {
  for (const char *at = bytes; count > 0;) {
    const ssize_t n = send(fd, at, count, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n, count -= (size_t)n;
  }
  return true;
}

static bool receive_all(int fd, void *bytes, size_t count) {
  for (char *at = bytes; count > 0;) {
    const ssize_t n = recv(fd, at, count, MSG_WAITALL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n, count -= (size_t)n;
  }
  return true;
}

/* Up to the line's end, which is left out: no byte more, since what follows goes to the caller's buffer. */
static bool receive_line(int fd, char line[TEXT_BYTES]) {
  char some[TEXT_BYTES];
  const ssize_t n = recv(fd, some, sizeof some, MSG_PEEK);
  const char *end = n > 0 ? memchr(some, '\n', (size_t)n) : NULL;
  if (end == NULL) return false;
  const size_t length = (size_t)(end - some) + 1;
  if (!receive_all(fd, line, length)) return false;
  line[length - 1] = '\0';
  return true;
}

static int socket_of(struct store *store, unsigned thread) {
  if (store->socket[thread] < 0) store->socket[thread] = connect_to(store);
  return store->socket[thread];
}

static void name_of(size_t block, char name[WORD_BYTES]) {
  uint64_t words[2];
  peer_key(block, (char *)words);
  snprintf(name, WORD_BYTES, "%016llx%016llx", (unsigned long long)words[0],
           (unsigned long long)words[1]);
}

static bool put(void *arg, unsigned thread, size_t block, const void *bytes) {
  struct store *store = arg;
  const int fd = socket_of(store, thread);
  char name[WORD_BYTES], line[TEXT_BYTES];
  name_of(block, name);
  for (int i = 0; i < TRIES; i++) {
    const int length = snprintf(line, sizeof line, "set %s 0 0 %zu\r\n", name, store->block_bytes);
    if (!send_all(fd, line, (size_t)length) || !send_all(fd, bytes, store->block_bytes) ||
        !send_all(fd, "\r\n", 2) || !receive_line(fd, line))
      return peer_say("memcached", "set: the connection is gone");
    if (strncmp(line, "STORED", 6) == 0) return true;
    if (strcasestr(line, "out of memory") == NULL) return peer_say("memcached", "set: %s", line);
    nap();
  }
  return peer_say("memcached", "set: out of memory for too long");
}

static enum peer_got get(void *arg, unsigned thread, size_t block, void *bytes) {
  struct store *store = arg;
  const int fd = socket_of(store, thread);
  char name[WORD_BYTES], line[TEXT_BYTES], end[7];
  name_of(block, name);
  const int length = snprintf(line, sizeof line, "get %s\r\n", name);
  if (!send_all(fd, line, (size_t)length) || !receive_line(fd, line)) return PEER_REFUSED;
  if (strncmp(line, "END", 3) == 0) return PEER_MISSING; /* also where a checksum was wrong */
  const char *count = strrchr(line, ' ');
  if (strncmp(line, "VALUE ", 6) != 0 || count == NULL ||
      strtoull(count, NULL, 10) != store->block_bytes)
    return PEER_REFUSED;
  return receive_all(fd, bytes, store->block_bytes) && receive_all(fd, end, sizeof end)
             ? PEER_HELD
             : PEER_REFUSED;
}

/* ---- until it is on the file ---------------------------------------------------------------- */

static unsigned long long statistic(const struct store *store, const char *name) {
  char line[TEXT_BYTES], start[WORD_BYTES];
  unsigned long long value = 0;
  const int length = snprintf(start, sizeof start, "STAT %s ", name);
  if (!send_all(store->socket[0], "stats\r\n", 7)) return 0;
  while (receive_line(store->socket[0], line) && strncmp(line, "END", 3) != 0)
    if (strncmp(line, start, (size_t)length) == 0) value = strtoull(line + length, NULL, 10);
  return value;
}

static bool sync_store(void *arg) {
  const struct store *store = arg;
  char path[TEXT_BYTES];
  bool out = false;
  for (int i = 0; i < TRIES && !out; i++) {
    out = statistic(store, "extstore_objects_used") >= statistic(store, "curr_items") &&
          statistic(store, "extstore_io_queue") == 0;
    if (!out) nap();
  }
  snprintf(path, sizeof path, "%s/ext", store->dir);
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  const bool ok = out && fd >= 0 && fdatasync(fd) == 0;
  if (fd >= 0) (void)close(fd);
  return ok || peer_say("memcached", "items stay in RAM");
}

static pid_t server(const void *arg) {
  const struct store *store = arg;
  return store->server;
}

const struct peer peer_memcached = {
    .name = "memcached",
    .setup =
        "extstore; -M, 128 MiB of RAM, ext_item_age=0, 4 I/O threads, page cache; a socket of "
        "the file system",
    .program = "memcached",
    .forgets = true,
    .open = open_store,
    .put = put,
    .sync = sync_store,
    .get = get,
    .close = close_store,
    .server = server,
};
