/* tests/fuzz/fuzz_store.c - a cache over segments with edits in them: it opens, or says why not; what it
 * gives back for tokens is what was stored under them, forged checksums or not (those of planes are not).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include "support/kv.h"

#include "edits.h"

enum { DOCS = 3, BLOCKS = 3 };

static const char *const FILES[2] = {"seg-000000.kvs", "seg-000001.kvs"};
static const kv_shape rows = {2, 64, 32, 16, 0};
static const kv_shape blobs = {0, 0, 0, 16, 6000};
static memory_disk base, disk;

int __wrap_kvstow_tier_open(const kvstow_tier_options *options, kvstow_tier **tier, char *why,
                            size_t why_bytes);
int __wrap_kvstow_tier_open(const kvstow_tier_options *options, kvstow_tier **tier, char *why,
                            size_t why_bytes) {
  const kvstow__io io = memory_io(&disk);
  return kvstow__tier_open_with(options, &io, tier, why, why_bytes);
}

static kvstow *open_store(void) {
  static const char *const dirs[] = {"memory"};
  kvstow_options options;
  kv_options(&options, dirs, 8 * KV_MIB, 4 * KV_MIB, KV_MIB);
  options.engine = KVSTOW_ENGINE_AUTO;
  options.populate = false;
  kvstow *store = NULL;
  char why[KVSTOW_MESSAGE_BYTES] = "";
  const int code = kvstow_open(&options, &store, why, sizeof why);
  FUZZ_CHECK(code == 0 || *why != 0);
  return store;
}

static kv_doc doc_of(kvstow *store, int number) {
  const bool blob = number == DOCS - 1;
  kv_doc d;
  kv_doc_init(&d, kv_space(store, blob ? "blobs" : "rows", blob ? &blobs : &rows),
              blob ? &blobs : &rows, (uint64_t)blob, (uint64_t)number, BLOCKS, number ? "s" : NULL,
              number ? 1 : 0);
  return d;
}

/* Two documents flushed and closed, one more in a second life that was left open. */
static void make(void) {
  for (int life = 0; life < 2; life++) {
    kvstow *store = open_store();
    FUZZ_CHECK(store != NULL);
    for (int i = life == 0 ? 0 : DOCS - 1; i < (life == 0 ? DOCS - 1 : DOCS); i++) {
      kv_doc d = doc_of(store, i);
      KV_OK(kv_doc_store(&d, 0, BLOCKS, 0));
      kv_doc_finish(&d);
    }
    KV_OK(kvstow_flush(store));
    if (life == 1) memory_disk_copy(&base, &disk);
    KV_OK(kvstow_close(store));
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  if (!*base.files[0].name) make();
  if (bytes < 1) return 0;
  memory_disk_copy(&disk, &base);
  edit_store(&disk, FILES, data, bytes);
  for (int life = 0; life < (data[0] & EDIT_OWNED ? 2 : 1); life++) {
    kvstow *store = open_store();
    if (store == NULL) return 0;
    for (int i = 0; i < DOCS; i++) {
      const bool blob = i == DOCS - 1;
      kvstow_space_options options;
      kvstow_space_options_init(&options);
      options.fingerprint = blob ? "blobs" : "rows";
      options.fingerprint_bytes = strlen(options.fingerprint);
      options.layers = blob ? 0 : rows.layers;
      options.k_bytes = rows.k_bytes;
      options.v_bytes = rows.v_bytes;
      options.block_tokens = 16;
      options.opaque_max_bytes = blob ? blobs.opaque_max_bytes : 0;
      if (blob) options.k_bytes = options.v_bytes = 0;
      kvstow_space *space;
      /* a forged layout is another layout: refused, and then nothing of it is given */
      if (kvstow_space_open(store, &options, &space) != 0) continue;
      kv_doc d = doc_of(store, i);
      (void)kv_doc_restore(&d, i % 2 ? KVSTOW_BYPASS_RAM : 0); /* compares every byte */
      /* What is bad is found out by reading, block after block, and then stored anew. (A forged record of
       * other tokens under a block's key takes that block's place: it stays a miss.) */
      const bool heals = life == 1 && (data[0] & EDIT_RESEAL) == 0;
      int rounds = 0;
      while (heals && kv_doc_restore(&d, 0) < BLOCKS) {
        KV_OK(kv_doc_store(&d, 0, BLOCKS, 0));
        FUZZ_CHECK(rounds++ <= BLOCKS);
      }
      kv_doc_finish(&d);
    }
    KV_OK(kvstow_close(store));
  }
  return 0;
}

void fuzz_seeds(fuzz_give give) {
  edit_seeds(give);
}
