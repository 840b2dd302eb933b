/* lmdb.c - LMDB: one mapped file, values in overflow pages.
 *
 * One transaction writes at a time; values are copied by the store alone (MDB_RESERVE), pages not cleared first
 * (MDB_NOMEMINIT). Syncing is put off to the end (MDB_NOSYNC), which is durable as the others are, and without
 * MDB_WRITEMAP safe as well. Threads read, each in a transaction of its own; the kernel reads ahead.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifdef KVSTOW_PEER_LMDB
#include <lmdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bench/peers/peer.h"

enum { TRANSACTION_BYTES = 64 << 20 };

struct store {
  MDB_env *env;
  MDB_dbi dbi;
  MDB_txn *txn; /* being filled */
  size_t block_bytes, filled;
};

static bool said(int rc, const char *what) {
  return rc == 0 || peer_say("lmdb", "%s: %s", what, mdb_strerror(rc));
}

static void close_store(void *arg) {
  struct store *store = arg;
  if (store->txn != NULL) mdb_txn_abort(store->txn);
  mdb_env_close(store->env);
  free(store);
}

static int open_database(struct store *store) {
  MDB_txn *txn;
  int rc = mdb_txn_begin(store->env, NULL, 0, &txn);
  if (rc != 0) return rc;
  rc = mdb_dbi_open(txn, NULL, 0, &store->dbi);
  if (rc == 0) return mdb_txn_commit(txn);
  mdb_txn_abort(txn);
  return rc;
}

static void *open_store(const struct peer_place *place) {
  struct store *store = calloc(1, sizeof *store);
  if (store == NULL || !said(mdb_env_create(&store->env), "create")) {
    free(store);
    return NULL;
  }
  store->block_bytes = place->block_bytes;
  const size_t map = place->blocks * (place->block_bytes + 8192) * 5 / 4 + (64 << 20);
  int rc = mdb_env_set_mapsize(store->env, map);
  if (rc == 0)
    rc = mdb_env_open(store->env, place->dir, MDB_NOTLS | MDB_NOMEMINIT | MDB_NOSYNC,
                      S_IRUSR | S_IWUSR);
  if (rc == 0) rc = open_database(store);
  if (said(rc, "open")) return store;
  close_store(store);
  return NULL;
}

static int commit(struct store *store) {
  MDB_txn *txn = store->txn;
  store->txn = NULL;
  store->filled = 0;
  return txn == NULL ? 0 : mdb_txn_commit(txn);
}

static bool put(void *arg, unsigned thread, size_t block, const void *bytes) {
  (void)thread;
  struct store *store = arg;
  char name[PEER_KEY_BYTES];
  MDB_val key = {PEER_KEY_BYTES, name}, value = {store->block_bytes, NULL};
  peer_key(block, name);
  int rc = store->txn != NULL ? 0 : mdb_txn_begin(store->env, NULL, 0, &store->txn);
  if (rc == 0) rc = mdb_put(store->txn, store->dbi, &key, &value, MDB_RESERVE);
  if (rc == 0) memcpy(value.mv_data, bytes, store->block_bytes);
  store->filled += store->block_bytes;
  if (rc == 0 && store->filled >= TRANSACTION_BYTES) rc = commit(store);
  return said(rc, "put");
}

static bool sync_store(void *arg) {
  struct store *store = arg;
  int rc = commit(store);
  if (rc == 0) rc = mdb_env_sync(store->env, 1);
  return said(rc, "sync");
}

static enum peer_got get(void *arg, unsigned thread, size_t block, void *bytes) {
  (void)thread;
  const struct store *store = arg;
  char name[PEER_KEY_BYTES];
  MDB_val key = {PEER_KEY_BYTES, name}, value;
  MDB_txn *txn;
  peer_key(block, name);
  int rc = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &txn);
  if (rc != 0) return PEER_REFUSED;
  rc = mdb_get(txn, store->dbi, &key, &value);
  const bool whole = rc == 0 && value.mv_size == store->block_bytes;
  if (whole) memcpy(bytes, value.mv_data, value.mv_size);
  mdb_txn_abort(txn);
  return whole ? PEER_HELD : rc == MDB_NOTFOUND ? PEER_MISSING : PEER_REFUSED;
}

const struct peer peer_lmdb = {
    .name = "lmdb",
    .setup =
        "transactions of 64 MiB, MDB_RESERVE, MDB_NOMEMINIT, MDB_NOSYNC and mdb_env_sync at "
        "the end; page cache",
    .one_writer = true,
    .open = open_store,
    .put = put,
    .sync = sync_store,
    .get = get,
    .close = close_store,
};
#endif
