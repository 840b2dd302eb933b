/* peer.h - a store that KV blocks could be put in, as the runner sees it.
 *
 * One file a store, ours among them; none knows of another. Blocks have numbers, of which a store makes what it
 * calls a key. The first `chain` are one context, in order; those behind them stand alone each.
 *
 * Every store is set up as its own documentation advises for large values, and what was set is said with the
 * figures (`setup`). All get as much memory of their own, PEER_RAM_BYTES, less than what they are given to keep.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_BENCH_PEERS_PEER_H
#define KVSTOW_BENCH_PEERS_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PEER_RAM_BYTES ((size_t)128 << 20)
enum { PEER_TOKEN_BYTES = 32 << 10, PEER_THREADS_MAX = 16 };

struct peer_place {
  const char *dir; /* the store's alone: empty, or as the store left it */
  size_t block_bytes, chain, blocks;
};

enum peer_got {
  PEER_HELD,    /* the store gave bytes and vouches for them */
  PEER_MISSING, /* it knows of no such block */
  PEER_REFUSED, /* it has one, and says that something is wrong with it */
};

struct peer {
  const char *name, *setup;
  bool one_writer;     /* more threads that put would only wait for one another */
  bool forgets;        /* its process's end is the end of what it holds */
  const char *program; /* that it needs in PATH, or NULL */

  /* NULL: it has been said on stderr why. */
  void *(*open)(const struct peer_place *place);
  /* From threads 0 to PEER_THREADS_MAX - 1, each with a block of its own. False: as above. */
  bool (*put)(void *store, unsigned thread, size_t block, const void *bytes);
  /* What has been put survives power loss when this is true. */
  bool (*sync)(void *store);
  /* From threads, as put. `bytes` is 4 KiB aligned. */
  enum peer_got (*get)(void *store, unsigned thread, size_t block, void *bytes);
  /* All of the context's first `blocks`, one behind the other; *first_ns: when the first was whole. NULL: there is
   * no such call, and threads get block by block. */
  enum peer_got (*chain)(void *store, size_t blocks, char *bytes, uint64_t *first_ns);
  void (*close)(void *store);
  /* The process that does the work; NULL: this one. */
  pid_t (*server)(const void *store);
};

extern const struct peer peer_kvstow, peer_files, peer_files_direct, peer_rocksdb, peer_rocksdb_wal,
    peer_lmdb, peer_sqlite, peer_memcached;

/* What a store without names of its own calls a block: as the hash of its tokens, it tells nothing of the order. */
enum { PEER_KEY_BYTES = 16 };
void peer_key(size_t block, char key[PEER_KEY_BYTES]);

/* On stderr, "NAME: ...". Always false. */
bool peer_say(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
