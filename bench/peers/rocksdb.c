/* rocksdb.c - RocksDB, values in blob files.
 *
 * From its wiki (BlobDB, Direct IO, Setup Options and Basic Tuning): large values belong into blob files; direct I/O for
 * reads, flushes and compactions, where the application keeps what is hot itself; pipelined writes. Compression off:
 * KV does not compress. All its memory is for memtables; values are cached nowhere, as ours are read past RAM.
 * Checksums of what is read are its default.
 *
 * Two ways to be durable: no log, and a flush of the memtables at the end; or a log, synced at the end.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifdef KVSTOW_PEER_ROCKSDB
#include <rocksdb/c.h>
#include <stdlib.h>
#include <string.h>

#include "bench/peers/peer.h"

enum {
  MEMTABLES = 4,
  BACKGROUND_JOBS = 4,
  SYNC_BYTES = 1 << 20, /* "bytes_per_sync", as advised: no burst of write-back at a file's end */
};

struct store {
  rocksdb_t *db;
  rocksdb_options_t *options;
  rocksdb_readoptions_t *read;
  rocksdb_writeoptions_t *write;
  size_t block_bytes;
  bool log;
};

static rocksdb_options_t *make_options(void) {
  rocksdb_options_t *o = rocksdb_options_create();
  rocksdb_options_set_create_if_missing(o, 1);
  rocksdb_options_set_compression(o, rocksdb_no_compression);
  rocksdb_options_set_enable_blob_files(o, 1);
  rocksdb_options_set_min_blob_size(o, 4096);
  rocksdb_options_set_blob_compression_type(o, rocksdb_no_compression);
  rocksdb_options_set_use_direct_reads(o, 1);
  rocksdb_options_set_use_direct_io_for_flush_and_compaction(o, 1);
  rocksdb_options_set_write_buffer_size(o, PEER_RAM_BYTES / MEMTABLES);
  rocksdb_options_set_max_write_buffer_number(o, MEMTABLES);
  rocksdb_options_set_max_background_jobs(o, BACKGROUND_JOBS);
  rocksdb_options_set_enable_pipelined_write(o, 1);
  rocksdb_options_set_bytes_per_sync(o, SYNC_BYTES);
  rocksdb_options_set_wal_bytes_per_sync(o, SYNC_BYTES);
  return o;
}

/* True, and frees it, if there was an error. */
static bool failed(char *error, const char *what) {
  if (error != NULL) peer_say("rocksdb", "%s: %s", what, error);
  rocksdb_free(error);
  return error != NULL;
}

static void close_store(void *arg) {
  struct store *store = arg;
  if (store->db != NULL) rocksdb_close(store->db);
  rocksdb_readoptions_destroy(store->read);
  rocksdb_writeoptions_destroy(store->write);
  rocksdb_options_destroy(store->options);
  free(store);
}

static void *open_store(const struct peer_place *place, bool log) {
  struct store *store = calloc(1, sizeof *store);
  char *error = NULL;
  if (store == NULL) return NULL;
  store->block_bytes = place->block_bytes;
  store->log = log;
  store->options = make_options();
  store->read = rocksdb_readoptions_create();
  store->write = rocksdb_writeoptions_create();
  rocksdb_writeoptions_disable_WAL(store->write, !log);
  store->db = rocksdb_open(store->options, place->dir, &error);
  if (!failed(error, "open")) return store;
  close_store(store);
  return NULL;
}

static void *open_without_log(const struct peer_place *place) {
  return open_store(place, false);
}

static void *open_with_log(const struct peer_place *place) {
  return open_store(place, true);
}

static bool put(void *arg, unsigned thread, size_t block, const void *bytes) {
  (void)thread;
  const struct store *store = arg;
  char key[PEER_KEY_BYTES], *error = NULL;
  peer_key(block, key);
  rocksdb_put(store->db, store->write, key, PEER_KEY_BYTES, bytes, store->block_bytes, &error);
  return !failed(error, "put");
}

static bool sync_store(void *arg) {
  const struct store *store = arg;
  char *error = NULL;
  if (store->log) {
    rocksdb_flush_wal(store->db, 1, &error);
  } else {
    rocksdb_flushoptions_t *flush = rocksdb_flushoptions_create();
    rocksdb_flush(store->db, flush, &error);
    rocksdb_flushoptions_destroy(flush);
  }
  return !failed(error, "sync");
}

static enum peer_got get(void *arg, unsigned thread, size_t block, void *bytes) {
  (void)thread;
  const struct store *store = arg;
  char key[PEER_KEY_BYTES], *error = NULL;
  peer_key(block, key);
  rocksdb_pinnableslice_t *slice =
      rocksdb_get_pinned(store->db, store->read, key, PEER_KEY_BYTES, &error);
  if (failed(error, "get")) return PEER_REFUSED;
  if (slice == NULL) return PEER_MISSING;
  size_t length;
  const char *value = rocksdb_pinnableslice_value(slice, &length);
  const bool whole = length == store->block_bytes;
  if (whole) memcpy(bytes, value, length);
  rocksdb_pinnableslice_destroy(slice);
  return whole ? PEER_HELD : PEER_REFUSED;
}

const struct peer peer_rocksdb = {
    .name = "rocksdb",
    .setup =
        "BlobDB, no compression, direct I/O, 4 memtables of 32 MiB, pipelined writes, "
        "checksums verified; no log: flush at the end",
    .open = open_without_log,
    .put = put,
    .sync = sync_store,
    .get = get,
    .close = close_store,
};

const struct peer peer_rocksdb_wal = {
    .name = "rocksdb-wal",
    .setup = "the same with the write-ahead log, synced at the end",
    .open = open_with_log,
    .put = put,
    .sync = sync_store,
    .get = get,
    .close = close_store,
};
#endif
