/* sqlite.c - SQLite: a table of blobs.
 *
 * Pages of 64 KiB, as for values of this size ("Internal Versus External BLOBs"); the rollback journal, into which new
 * pages are not written, so that values go to the disk once (in WAL mode twice); a transaction of 64 MiB a commit, each
 * of which is durable. Reading: incremental blob I/O straight to the caller, a connection a thread; 64 MiB mapped
 * I/O is its default and gains nothing here.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifdef KVSTOW_PEER_SQLITE
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/peers/peer.h"

enum { TRANSACTION_BYTES = 64 << 20, PATH_BYTES = 2048 };

/* A connection: threads must not wait for one another. */
struct handle {
  sqlite3 *db;
  sqlite3_stmt *put, *find;
};

struct store {
  struct handle handle[PEER_THREADS_MAX];
  char path[PATH_BYTES];
  size_t block_bytes, filled;
};

static bool said(sqlite3 *db, int rc, const char *what) {
  return rc == SQLITE_OK || rc == SQLITE_DONE || rc == SQLITE_ROW ||
         peer_say("sqlite", "%s: %s", what, db != NULL ? sqlite3_errmsg(db) : sqlite3_errstr(rc));
}

static bool run(sqlite3 *db, const char *sql) {
  return said(db, sqlite3_exec(db, sql, NULL, NULL, NULL), sql);
}

static void close_store(void *arg) {
  struct store *store = arg;
  for (int i = 0; i < PEER_THREADS_MAX; i++) {
    (void)sqlite3_finalize(store->handle[i].put);
    (void)sqlite3_finalize(store->handle[i].find);
    (void)sqlite3_close(store->handle[i].db);
  }
  free(store);
}

static bool connect_to(struct handle *handle, const char *path) {
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  return said(handle->db, sqlite3_open_v2(path, &handle->db, flags, NULL), path) &&
         run(handle->db, "PRAGMA page_size=65536") &&
         run(handle->db, "CREATE TABLE IF NOT EXISTS kv(key BLOB UNIQUE, value BLOB)") &&
         said(handle->db,
              sqlite3_prepare_v2(handle->db, "INSERT INTO kv VALUES(?, ?)", -1, &handle->put, NULL),
              "insert") &&
         said(handle->db,
              sqlite3_prepare_v2(handle->db, "SELECT rowid FROM kv WHERE key=?", -1, &handle->find,
                                 NULL),
              "select");
}

static void *open_store(const struct peer_place *place) {
  struct store *store = calloc(1, sizeof *store);
  if (store == NULL) return NULL;
  store->block_bytes = place->block_bytes;
  snprintf(store->path, sizeof store->path, "%s/kv.db", place->dir);
  if (connect_to(&store->handle[0], store->path)) return store;
  close_store(store);
  return NULL;
}

static bool commit(struct store *store) {
  const bool any = store->filled > 0;
  store->filled = 0;
  return !any || run(store->handle[0].db, "COMMIT");
}

static bool put(void *arg, unsigned thread, size_t block, const void *bytes) {
  (void)thread;
  struct store *store = arg;
  struct handle *handle = &store->handle[0];
  char key[PEER_KEY_BYTES];
  peer_key(block, key);
  if (store->filled == 0 && !run(handle->db, "BEGIN")) return false;
  store->filled += store->block_bytes;
  (void)sqlite3_bind_blob(handle->put, 1, key, sizeof key, SQLITE_STATIC);
  (void)sqlite3_bind_blob64(handle->put, 2, bytes, store->block_bytes, SQLITE_STATIC);
  (void)sqlite3_step(handle->put);
  if (!said(handle->db, sqlite3_reset(handle->put), "insert")) return false;
  return store->filled < TRANSACTION_BYTES || commit(store);
}

static bool sync_store(void *arg) {
  return commit(arg);
}

static enum peer_got get(void *arg, unsigned thread, size_t block, void *bytes) {
  struct store *store = arg;
  struct handle *handle = &store->handle[thread];
  char key[PEER_KEY_BYTES];
  peer_key(block, key);
  if (handle->db == NULL && !connect_to(handle, store->path)) return PEER_REFUSED;
  (void)sqlite3_bind_blob(handle->find, 1, key, sizeof key, SQLITE_STATIC);
  const int found = sqlite3_step(handle->find);
  const sqlite3_int64 row = found == SQLITE_ROW ? sqlite3_column_int64(handle->find, 0) : 0;
  const int rc = sqlite3_reset(handle->find);
  if (found != SQLITE_ROW) return rc == SQLITE_OK ? PEER_MISSING : PEER_REFUSED;
  sqlite3_blob *blob;
  if (sqlite3_blob_open(handle->db, "main", "kv", "value", row, 0, &blob) != SQLITE_OK)
    return PEER_REFUSED;
  const bool ok = (size_t)sqlite3_blob_bytes(blob) == store->block_bytes &&
                  sqlite3_blob_read(blob, bytes, (int)store->block_bytes, 0) == SQLITE_OK;
  (void)sqlite3_blob_close(blob);
  return ok ? PEER_HELD : PEER_REFUSED;
}

const struct peer peer_sqlite = {
    .name = "sqlite",
    .setup =
        "pages of 64 KiB, rollback journal, a commit each 64 MiB; blob I/O, a connection a "
        "thread; page cache",
    .one_writer = true,
    .open = open_store,
    .put = put,
    .sync = sync_store,
    .get = get,
    .close = close_store,
};
#endif
