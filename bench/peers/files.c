/* files.c - a file a block: written under another name, renamed, read whole. So do the disk backends of LMCache, vLLM
 * and SGLang, and most people's first thought.
 *
 * They sync nothing; here one syncfs() makes all of it durable, which is the cheapest way there is.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/peers/peer.h"

struct store {
  int dir, flags;
  size_t block_bytes;
};

static void *open_store(const struct peer_place *place, int flags) {
  struct store *store = calloc(1, sizeof *store);
  if (store == NULL) return NULL;
  store->flags = flags;
  store->block_bytes = place->block_bytes;
  store->dir = open(place->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (store->dir >= 0) return store;
  peer_say("files", "%s: %s", place->dir, strerror(errno));
  free(store);
  return NULL;
}

static void *open_buffered(const struct peer_place *place) {
  return open_store(place, 0);
}

static void *open_direct(const struct peer_place *place) {
  return open_store(place, O_DIRECT);
}

enum { NAME_BYTES = 32 };

static void name_of(size_t block, const char *ending, char name[NAME_BYTES]) {
  snprintf(name, NAME_BYTES, "%016zx.kv%s", block, ending);
}

static bool write_whole(int fd, const char *bytes, size_t count) {
  while (count > 0) {
    const ssize_t n = write(fd, bytes, count);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes += n, count -= (size_t)n;
  }
  return true;
}

static bool put(void *arg, unsigned thread, size_t block, const void *bytes) {
  (void)thread;
  const struct store *store = arg;
  char name[NAME_BYTES], other[NAME_BYTES];
  name_of(block, "", name);
  name_of(block, ".tmp", other);
  const int fd = openat(store->dir, other, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | store->flags,
                        S_IRUSR | S_IWUSR);
  bool ok = fd >= 0 && write_whole(fd, bytes, store->block_bytes);
  if (fd >= 0) ok &= close(fd) == 0;
  ok = ok && renameat(store->dir, other, store->dir, name) == 0;
  return ok || peer_say("files", "%s: %s", name, strerror(errno));
}

static bool sync_store(void *arg) {
  const struct store *store = arg;
  return syncfs(store->dir) == 0 || peer_say("files", "syncfs: %s", strerror(errno));
}

static enum peer_got get(void *arg, unsigned thread, size_t block, void *bytes) {
  (void)thread;
  const struct store *store = arg;
  char name[NAME_BYTES];
  name_of(block, "", name);
  const int fd = openat(store->dir, name, O_RDONLY | O_CLOEXEC | store->flags);
  if (fd < 0) return errno == ENOENT ? PEER_MISSING : PEER_REFUSED;
  size_t done = 0;
  while (done < store->block_bytes) {
    const ssize_t n = read(fd, (char *)bytes + done, store->block_bytes - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    done += (size_t)n;
  }
  (void)close(fd);
  return done == store->block_bytes ? PEER_HELD : PEER_REFUSED;
}

static void close_store(void *arg) {
  struct store *store = arg;
  (void)close(store->dir);
  free(store);
}

const struct peer peer_files = {
    .name = "files",
    .setup = "a file a block; write, rename; syncfs at the end; read; page cache",
    .open = open_buffered,
    .put = put,
    .sync = sync_store,
    .get = get,
    .close = close_store,
};

const struct peer peer_files_direct = {
    .name = "files-direct",
    .setup = "the same with O_DIRECT",
    .open = open_direct,
    .put = put,
    .sync = sync_store,
    .get = get,
    .close = close_store,
};
