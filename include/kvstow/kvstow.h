/* kvstow/kvstow.h - a KV cache found by tokens, kept in RAM and on SSD.
 *
 * The contract first.
 *
 *  - A cache may forget; it never lies. Bytes that come back were stored under exactly the tokens,
 *    salt and space you asked for. Whatever came from SSD was checked against its plane checksums
 *    and its own record of the tokens; a failed check is a miss and a counter.
 *  - After kvstow_flush() returns 0, all blocks stored before it survive kill -9 and power loss,
 *    until SSD evicts them or they are forgotten. Anything not flushed may be lost in a crash. An
 *    orderly kvstow_close() flushes. (SSD evicts a segment at a time. What it keeps of one is durable
 *    elsewhere before the old record is overwritten; where there is no room for that it counts as
 *    evicted. A block RAM holds too may lose its SSD copy so, and has one again when RAM gives
 *    it up or at the next flush.)
 *  - ram_bytes bounds the one region that holds all payloads and header pages; the index lies beside
 *    it, at most 64 KiB and 136 bytes a block (kvstow_stats.metadata_bytes; up to 96 more for each block
 *    that a flush under way writes), and so does what the policies remember of blocks gone by: the default
 *    for RAM, at most 1 MiB and 500 bytes for each block that RAM is expected to have room for: up to a
 *    quarter more than it has, or the most it had when blocks were smaller. `lifetime`: 330, `lru`: none.
 *    ssd_bytes bounds the directories, metadata included.
 *  - One process owns a directory at a time. A handle is not for a forked child: there kvstow_flush and
 *    kvstow_close do nothing and give ESTATE, and any other call may end the child (the RAM region is
 *    not inherited, threads are not). The files and the parent are safe from it. Until the child has ended
 *    or called exec, the directory stays owned should the parent be killed.
 *  - The library never exits, aborts, prints, or touches signals.
 *
 * Words. A *space* is one model in one layout. A *block* is the K and V of block_tokens consecutive
 * tokens in all layers; only whole blocks are kept. A block is made of *planes*, one a layer, K rows
 * then V rows, padded to plane_bytes (a multiple of 4096). A *lease* pins blocks found by a match.
 *
 * Threads. Every function may be called from any thread at any time, except that one kvstow_seq,
 * one kvstow_lease and one kvstow_queue serve one thread at a time. Handles must not be destroyed
 * while in use: close sequences, leases and queues before their store, and commit or abort slots.
 *
 * Results. 0, or a negative KVSTOW_E... (kvstow/error.h). kvstow_message() explains the newest error
 * of a store in words. Pointers passed in are only read during the call unless it says otherwise. Any
 * call that returns int may give EINVAL (an argument is NULL or out of its range; nothing was done).
 *
 * Time. timeout_ms bounds how long a call waits for a device; 0 means the store's load_timeout_ms. A
 * load that is late is a miss (KVSTOW_ETIMEDOUT), never a hang. Two things take as long as the device does.
 * Memory given to a direct read can't be handed back before the device lets go of it: a read into
 * the caller's own buffers may end after its time-out (a cancelled one, too), by what one request takes.
 * And kvstow_flush, kvstow_close and the kvstow_forget family write and sync what they have to. On a
 * healthy disk that is their bytes; docs/reliability.md has the figures of disks that lose requests.
 *
 *   kvstow_options o;  kvstow_options_init(&o);
 *   const char *dir = "/var/cache/kv";
 *   o.dirs = &dir;  o.dirs_count = 1;  o.ram_bytes = 8ull << 30;  o.ssd_bytes = 200ull << 30;
 *   kvstow *store;  kvstow_open(&o, &store, NULL, 0);
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_KVSTOW_H
#define KVSTOW_KVSTOW_H

#include <sys/uio.h>

#include <kvstow/tier.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVSTOW_VERSION "0.1.0"

typedef struct kvstow kvstow;
typedef struct kvstow_space kvstow_space;
typedef struct kvstow_seq kvstow_seq;
typedef struct kvstow_lease kvstow_lease;
typedef struct kvstow_queue kvstow_queue;
typedef struct kvstow_op kvstow_op;

typedef int32_t kvstow_token;

/* The version of the library that runs, "0.1.0". */
KVSTOW_API const char *kvstow_version(void);

/* ---- store ---------------------------------------------------------------------------------- */

typedef enum kvstow_write_mode {
  KVSTOW_WRITE_BACK = 0, /* demote when RAM fills */
  KVSTOW_WRITE_THROUGH,  /* demote at once: eviction from RAM is free, a crash loses little */
} kvstow_write_mode;

typedef enum kvstow_event_kind {
  KVSTOW_EVENT_STORED = 0, /* a block became readable */
  KVSTOW_EVENT_DEMOTED,    /* it is on SSD now */
  KVSTOW_EVENT_PROMOTED,   /* it came back to RAM */
  KVSTOW_EVENT_EVICTED,    /* it is in neither tier any more */
  KVSTOW_EVENT_CORRUPT,    /* its SSD copy failed a check and was dropped */
} kvstow_event_kind;

typedef struct kvstow_event {
  kvstow_event_kind kind;
  kvstow_key key;  /* of the block: equal in every store with the same hash seed */
  kvstow_key root; /* of its space and salt */
  uint32_t depth;  /* position in its chain */
} kvstow_event;

/* Runs on a thread of the library, one at a time, in order. It must not block for long and must not
 * call this store. When it is too slow events are dropped and counted (kvstow_stats.events_dropped). */
typedef void (*kvstow_event_fn)(void *arg, const kvstow_event *event);

typedef struct kvstow_options {
  size_t size;             /* sizeof(kvstow_options) */
  const char *const *dirs; /* one a disk; whose they may be: kvstow_tier_open */
  uint32_t dirs_count;
  uint64_t ram_bytes;     /* >= 8 MiB; rounded down to 2 MiB */
  uint64_t ssd_bytes;     /* of all dirs together; 0: RAM only, dirs are not looked at */
  uint32_t segment_bytes; /* 0: as stored, or 64 MiB, less for small budgets */
  kvstow_engine engine;
  uint32_t queue_depth; /* device requests in flight, 1..1024; 0: 64 */
  /* A name, "name:key=value,...", or the path of a shared object; NULL: "default". */
  const char *ram_policy, *ssd_policy;
  kvstow_write_mode write_mode;
  uint32_t high_watermark_pct; /* demotion starts when so much of RAM is dirty or hot */
  uint32_t low_watermark_pct;  /* and goes on down to this */
  uint32_t reinsert_pct;       /* of a reclaimed segment, what may be rewritten; 0: nothing. Only
                                  blocks used since they were written are */
  uint64_t write_bytes_a_day;  /* to SSD, segments' own tables apart; beyond it demotion is refused.
                                  0: no limit */
  uint32_t load_timeout_ms;    /* what timeout_ms 0 means */
  uint32_t store_timeout_ms;   /* how long a store may wait for dirty RAM to be written */
  kvstow_tuning tuning;        /* prefetch and the read scheduler */
  bool populate;               /* touch the region's pages at open, in the background */
  bool metrics;                /* latencies, and counts of matches and reads; off, those stay 0 */
  uint64_t hash_seed;          /* of a RAM-only store; 0: random. On SSD the directory has it. */
  const uint8_t *encryption_key; /* of what is on SSD, as in kvstow_tier_options; NULL: none */
  kvstow_event_fn on_event;      /* may be NULL */
  void *event_arg;
  /* A file to record in what is asked of the store, to be replayed (kvstow/trace.h); NULL: none. It is made,
   * 0600, or if it is a trace gone on with (EACCES: somebody else's, or a link; EBUSY: another store
   * writes it). Keys, counts and times are in it, no tokens; a few bytes a block. A thread writes it:
   * each second, and at a flush. When the file is too slow or the disk full, records are dropped and
   * counted; a crash loses those of the last second. It grows without bound. */
  const char *trace;
} kvstow_options;

/* Fills in the defaults: RAM ordered by the policy called "default" (docs/eviction.md), SSD by lru, write
 * back, watermarks 90 and 80 %, reinsert 25 %, 10 s timeouts. */
KVSTOW_API void kvstow_options_init(kvstow_options *options);

/* Opens or creates a store. `why` (may be NULL; KVSTOW_MESSAGE_BYTES suffice) gets the cause of a
 * failure in words. Blocking, in proportion to segments, not bytes. ssd_bytes holds as many whole
 * segments as fit beside the super block, the lock and the directories themselves (together well under
 * 1 MiB a directory): a budget of exactly N segments gives N - 1. Errors: those of
 * kvstow_tier_open, EPOLICY, and EBUDGET for a RAM budget too small. */
KVSTOW_API int kvstow_open(const kvstow_options *options, kvstow **store, char *why,
                           size_t why_bytes);

/* Flips prefetch and scheduling while the store runs. enable_prefetch also governs the cache's own
 * predictors: off, a match promotes nothing ahead of its reads. EINVAL as kvstow_tier_set_tuning. */
KVSTOW_API int kvstow_set_tuning(kvstow *store, const kvstow_tuning *tuning);
KVSTOW_API void kvstow_get_tuning(const kvstow *store, kvstow_tuning *tuning);

/* Demotes all blocks RAM alone holds, as far as the SSD budget and the daily limit go, and makes
 * everything on SSD durable. RAM keeps its copies. Blocking, bounded by device speed alone. While it runs,
 * what it writes is the last that SSD evicts. 0, or EIO, EOFFLINE, ENOMEM; ETIMEDOUT: not one block got
 * written for load_timeout_ms; ENOSPC: some blocks had no room, or had to give it up to others before this
 * returned, and RAM alone holds them now. Without SSD: 0. */
KVSTOW_API int kvstow_flush(kvstow *store);

/* Flushes, stops the threads, frees. NULL is fine. Blocking, as kvstow_flush. Leases, sequences, queues and
 * reserved slots still open make it EBUSY and the store stays open, ESTATE (a forked child) too. Otherwise
 * the handle is gone and the result is the flush's. */
KVSTOW_API int kvstow_close(kvstow *store);

/* Copies the text of the newest error of this store. */
KVSTOW_API void kvstow_message(const kvstow *store, char *text, size_t bytes);

/* The RAM region: one mapping, never moved, never purged, until close. For pinning it to a GPU or
 * registering it with a NIC. NULL: none, of 0 bytes. */
KVSTOW_API void kvstow_region(const kvstow *store, void **base, size_t *bytes);

/* ---- spaces --------------------------------------------------------------------------------- */

typedef struct kvstow_space_options {
  size_t size;             /* sizeof(kvstow_space_options) */
  const char *name;        /* for people; up to 31 bytes are kept */
  const void *fingerprint; /* whatever makes KV interchangeable: weights, types, rope, versions */
  size_t fingerprint_bytes;
  uint32_t layers;       /* 0: opaque blocks of any length up to opaque_max_bytes */
  uint32_t k_bytes;      /* one token, one layer */
  uint32_t v_bytes;      /* may be 0 (MLA) */
  uint32_t block_tokens; /* 0: 256, halved until a block is at most 16 MiB */
  uint32_t opaque_max_bytes;
  uint32_t ttl_s;      /* blocks older than this are misses; 0: no limit */
  bool replace_layout; /* drop what is stored under this fingerprint in another layout */
} kvstow_space_options;

KVSTOW_API void kvstow_space_options_init(kvstow_space_options *options);

/* Opens a space; opening the same one twice gives the same handle. It lives as long as the store.
 * Errors: EINVAL; ETOOBIG (a block larger than a segment or an eighth of RAM, or a header too small
 * for so many tokens and layers); EGEOMETRY (this fingerprint is held in another layout). */
KVSTOW_API int kvstow_space_open(kvstow *store, const kvstow_space_options *options,
                                 kvstow_space **space);

/* Tokens in a block. 0 for NULL, as the next two. */
KVSTOW_API uint32_t kvstow_space_block_tokens(const kvstow_space *space);
/* Stride of planes and size of a block's payload as stored, padding included. */
KVSTOW_API uint32_t kvstow_space_plane_bytes(const kvstow_space *space);
KVSTOW_API uint32_t kvstow_space_payload_bytes(const kvstow_space *space);

/* A token prefix in a space: the argument of most calls. The first whole blocks of `tokens` are
 * meant; a tail shorter than a block is ignored. */
typedef struct kvstow_prefix {
  size_t size; /* sizeof(kvstow_prefix) */
  kvstow_space *space;
  const kvstow_token *tokens;
  size_t tokens_count;
  const void *salt; /* tenant, LoRA, image: other salts never see these blocks */
  size_t salt_bytes;
  uint64_t session;        /* hints for policies, 0 unknown: the conversation, */
  uint32_t category;       /* the request's class, */
  uint64_t recompute_cost; /* what a lost block costs */
} kvstow_prefix;

#define KVSTOW_PREFIX(space_, tokens_, count_)                                                     \
  {                                                                                                \
    .size = sizeof(kvstow_prefix), .space = (space_), .tokens = (tokens_),                         \
    .tokens_count = (count_)                                                                       \
  }

/* ---- store blocks --------------------------------------------------------------------------- */

/* One block's bytes, gathered: layer 0 K rows, layer 0 V rows, layer 1 K rows ... without padding.
 * For an opaque space: the blob. */
typedef struct kvstow_source {
  const struct iovec *iov;
  int iovcnt;
} kvstow_source;

/* A flag of another call has no effect; a bit that is none of these is EINVAL. */
typedef enum kvstow_flags {
  /* store, reserve: EFULL instead of waiting for dirty RAM to be written */
  KVSTOW_NOWAIT = 1u << 0,
  /* match: leave SSD blocks where they are until they are read */
  KVSTOW_NO_PROMOTE = 1u << 1,
  /* read: SSD blocks go straight to the caller; RAM need not keep them. His buffers are the device's until
   * it lets go: the call may end after its time-out. */
  KVSTOW_BYPASS_RAM = 1u << 2,
} kvstow_flags;

/* Stores `count` blocks of the prefix, beginning with block `first`, by copy; hashed on the way.
 * Blocks already held are skipped (and count as used). *stored (may be NULL): leading blocks now held.
 * 0, or EFULL when RAM is full of blocks in use, or stayed full of dirty ones for store_timeout_ms; ENOMEM,
 * EINVAL. */
KVSTOW_API int kvstow_store(const kvstow_prefix *prefix, size_t first, size_t count,
                            const kvstow_source *sources, uint32_t flags, size_t *stored);

/* Zero-copy store. reserve hands out room in the region; the caller fills it in any way (memcpy, DMA) at
 * the stored layout (layer l at l * plane_bytes: K rows, then V rows at block_tokens * k_bytes), then
 * commits or aborts. Blocks are invisible until commit. */
typedef struct kvstow_slot {
  void *payload; /* NULL: this block is held already, nothing to fill */
  size_t bytes;  /* room */
  void *internal;
} kvstow_slot;

/* opaque_bytes: for opaque spaces the length of every blob, else 0. All `count` slots or none. A slot that
 * has been reserved takes room in RAM until it is committed or aborted, from any thread; until then close is
 * EBUSY. Errors: those of kvstow_store; no slot is reserved then. */
KVSTOW_API int kvstow_reserve(const kvstow_prefix *prefix, size_t first, size_t count,
                              size_t opaque_bytes, uint32_t flags, kvstow_slot *slots);

/* Makes the blocks visible, each findable once all before it in its chain are held. Some of what one call
 * reserved, or of several, in any order. A block that came to be held meanwhile is dropped, which is no
 * error. Whatever the result, the slots are spent: their memory is the store's, they are cleared, and
 * committing or aborting them again does nothing (a copy of one must not be used). 0, or ENOMEM: some blocks
 * could not be entered in the index and are lost, all others are visible. Does not wait. */
KVSTOW_API int kvstow_commit(kvstow *store, kvstow_slot *slots, size_t count);

/* Gives slots back unused; no device may still be writing to their memory. They are spent as by commit. */
KVSTOW_API void kvstow_abort(kvstow *store, kvstow_slot *slots, size_t count);

/* ---- sequences: a context that grows -------------------------------------------------------- */

/* Begins a sequence after `prefix` (whole blocks: its KV is taken as stored elsewhere, by a match or
 * an earlier sequence). ESTATE if the prefix is not a whole number of blocks; EINVAL, also for an opaque
 * space; ENOMEM. */
KVSTOW_API int kvstow_seq_open(const kvstow_prefix *prefix, kvstow_seq **seq);

/* Names the next `count` tokens. ENOMEM: none was taken. */
KVSTOW_API int kvstow_seq_tokens(kvstow_seq *seq, const kvstow_token *tokens, size_t count);

/* Appends the K and V rows of the next `count` tokens of one layer; tokens must have been named
 * first. Layers advance independently; a block is sealed, and becomes visible, when the last layer has
 * filled it. EFULL: RAM had no room for store_timeout_ms; nothing was taken, try again or give up. ESTATE:
 * more rows than tokens. ENOMEM: nothing was taken, or (kvstow_seq_sealed_tokens has moved) a block that
 * was full could not be entered in the index and is lost; the sequence goes on. */
KVSTOW_API int kvstow_seq_append(kvstow_seq *seq, uint32_t layer, const void *k, const void *v,
                                 size_t count);

/* Tokens sealed into blocks so far, the prefix included. */
KVSTOW_API size_t kvstow_seq_sealed_tokens(const kvstow_seq *seq);

/* Ends the sequence; the open block is dropped. NULL is fine. */
KVSTOW_API void kvstow_seq_close(kvstow_seq *seq);

/* ---- find and restore ----------------------------------------------------------------------- */

typedef struct kvstow_held {
  size_t tokens; /* leading tokens held */
  size_t blocks; /* = ram_blocks + ssd_blocks */
  size_t ram_blocks;
  size_t ssd_blocks; /* in RAM not yet, or not at all */
} kvstow_held;

/* What is held, without lease, promotion, or effect on eviction: for schedulers. 0 even if
 * nothing is held. ENOMEM. */
KVSTOW_API int kvstow_exists(const kvstow_prefix *prefix, kvstow_held *held);

/* Leases the longest chain held and starts promoting its SSD blocks, in order. EMISS (and *lease NULL) if
 * not even the first block is held; ENOMEM. `held` may be NULL. Does not wait for any device. */
KVSTOW_API int kvstow_match(const kvstow_prefix *prefix, uint32_t flags, kvstow_lease **lease,
                            kvstow_held *held);

/* Batch forms: results[i] is what the single call would have returned. Always 0, or EINVAL. */
KVSTOW_API int kvstow_exists_batch(const kvstow_prefix *prefixes, size_t count, kvstow_held *held,
                                   int *results);
KVSTOW_API int kvstow_match_batch(const kvstow_prefix *prefixes, size_t count, uint32_t flags,
                                  kvstow_lease **leases, kvstow_held *held, int *results);

/* A hint that this prefix is needed soon: promotes, holds nothing, returns at once. 0 also if nothing is held;
 * ENOMEM. */
KVSTOW_API int kvstow_prefetch(const kvstow_prefix *prefix);

/* Waits until the promotions of a lease have ended. held->tokens is then the leading run that is verified
 * and readable: smaller than what match said if a block failed its checks, which is no error. ETIMEDOUT: they
 * go on. */
KVSTOW_API int kvstow_lease_wait(kvstow_lease *lease, uint32_t timeout_ms, kvstow_held *held);

/* Which part to read. Counts of 0 mean "to the end"; a NULL range means everything. */
typedef struct kvstow_range {
  uint32_t layer_first, layer_count;
  size_t token_first, token_count;
} kvstow_range;

/* Reads layer by layer: for each layer of the range, the K rows of all its tokens, then their V rows, into
 * the caller's iovecs in order. 0, or what stopped it: EMISS, or ECORRUPT or EIO where the cause is at
 * hand (the lease has shrunk: kvstow_lease_tokens tells how far it holds), ETIMEDOUT, EINVAL (sizes).
 * On failure the destinations' content is undefined. */
KVSTOW_API int kvstow_read(kvstow_lease *lease, const kvstow_range *range, const struct iovec *iov,
                           int iovcnt, uint32_t flags, uint32_t timeout_ms);

/* Reads whole payloads as stored, one buffer a block. With KVSTOW_BYPASS_RAM and buffers 4 KiB
 * aligned, SSD blocks move in one transfer without a copy. bytes[i] (may be NULL) gets the
 * unpadded length of an opaque block. Errors: those of kvstow_read. */
KVSTOW_API int kvstow_read_blocks(kvstow_lease *lease, size_t first, size_t count,
                                  void *const *payloads, size_t *bytes, uint32_t flags,
                                  uint32_t timeout_ms);

/* A pointer to a block's payload in RAM, as stored, read-only; valid until kvstow_unview or release. A
 * viewed block stays in RAM. EMISS, ECORRUPT or EIO, ETIMEDOUT: as kvstow_read. EFULL: no room in RAM for
 * it within the time-out. ESTATE: the lease views it already. EBUSY: it has 65,534 readers. */
KVSTOW_API int kvstow_view(kvstow_lease *lease, size_t block, uint32_t timeout_ms,
                           const void **payload, size_t *bytes);
KVSTOW_API void kvstow_unview(kvstow_lease *lease, size_t block);

/* Leading tokens of the lease not known to be bad. */
KVSTOW_API size_t kvstow_lease_tokens(const kvstow_lease *lease);

/* Gives the lease back. NULL is fine. Asynchronous reads on it must have completed. */
KVSTOW_API void kvstow_lease_release(kvstow_lease *lease);

/* ---- asynchronous twins --------------------------------------------------------------------- */

/* Completions arrive in a queue, which an event loop watches through its descriptor. */
typedef struct kvstow_completion {
  void *user; /* what the call was given */
  int result; /* what the blocking call would have returned */
} kvstow_completion;

/* ENOMEM: also where there is no descriptor or no thread to be had. */
KVSTOW_API int kvstow_queue_create(kvstow *store, kvstow_queue **queue);
/* EBUSY while operations are pending on it. NULL is fine. */
KVSTOW_API int kvstow_queue_destroy(kvstow_queue *queue);
/* Readable while completions wait. Owned by the queue. */
KVSTOW_API int kvstow_queue_fd(const kvstow_queue *queue);
/* Takes up to `max` completions; returns how many. timeout_ms 0: does not wait. */
KVSTOW_API int kvstow_queue_poll(kvstow_queue *queue, kvstow_completion *completions, int max,
                                 uint32_t timeout_ms);

/* The twins. Buffers and iovecs stay the library's until the completion has been polled. *op (may be
 * NULL) is for kvstow_cancel and dies when its completion is polled. */
KVSTOW_API int kvstow_lease_wait_async(kvstow_lease *lease, uint32_t timeout_ms,
                                       kvstow_queue *queue, void *user, kvstow_op **op);
KVSTOW_API int kvstow_read_async(kvstow_lease *lease, const kvstow_range *range,
                                 const struct iovec *iov, int iovcnt, uint32_t flags,
                                 uint32_t timeout_ms, kvstow_queue *queue, void *user,
                                 kvstow_op **op);
KVSTOW_API int kvstow_read_blocks_async(kvstow_lease *lease, size_t first, size_t count,
                                        void *const *payloads, size_t *bytes, uint32_t flags,
                                        uint32_t timeout_ms, kvstow_queue *queue, void *user,
                                        kvstow_op **op);
/* The prefix's tokens and salt and the sources are the library's until completion. */
KVSTOW_API int kvstow_store_async(const kvstow_prefix *prefix, size_t first, size_t count,
                                  const kvstow_source *sources, kvstow_queue *queue, void *user,
                                  kvstow_op **op);
KVSTOW_API int kvstow_flush_async(kvstow *store, kvstow_queue *queue, void *user, kvstow_op **op);

/* Asks that an operation end now; it completes with ECANCELED, or with its result if it was faster. */
KVSTOW_API void kvstow_cancel(kvstow_op *op);

/* ---- keep and forget ------------------------------------------------------------------------ */

/* Pins (or unpins) the blocks of a prefix held now: neither tier evicts them. For system prompts.
 * *blocks (may be NULL): how many. Pins end with the process. EFULL: pins would exceed half of RAM. */
KVSTOW_API int kvstow_pin(const kvstow_prefix *prefix, bool pinned, size_t *blocks);

/* Forgets the blocks of `prefix` from block `first` on and every block that extends them. When it
 * returns 0 they are gone from RAM and, for good, from SSD. Blocks leased or in use: EBUSY, after all
 * others are gone. EIO, ETIMEDOUT: gone, but some may be found again after a restart; the next forget or flush
 * tries again. ENOMEM: some may be left. *blocks (may be NULL): how many went. Blocking, bounded by device
 * speed alone. */
KVSTOW_API int kvstow_forget(const kvstow_prefix *prefix, size_t first, size_t *blocks);

/* The same for all blocks of one salt (a tenant leaves), and of a whole space. */
KVSTOW_API int kvstow_forget_salt(kvstow_space *space, const void *salt, size_t salt_bytes,
                                  size_t *blocks);
KVSTOW_API int kvstow_forget_space(kvstow_space *space, size_t *blocks);

/* ---- statistics ----------------------------------------------------------------------------- */

/* Latency of one kind of call, microseconds, from a histogram with 3 % wide buckets. Of
 * matches and blocking reads one in 64 is timed: `count` is how many were. */
typedef struct kvstow_latency {
  uint64_t count;
  double mean_us, p50_us, p99_us, p999_us, max_us;
} kvstow_latency;

typedef struct kvstow_stats {
  size_t size;
  /* occupancy, now */
  uint64_t blocks, ram_blocks, ssd_blocks, dirty_blocks, pinned_blocks, leases;
  uint64_t ram_budget_bytes, ram_payload_bytes,
      ram_used_bytes;            /* used: slabs and headers included */
  uint64_t ram_capacity_blocks;  /* of the block size used most, measured */
  uint64_t metadata_bytes;       /* index and entries */
  double metadata_bytes_a_block; /* over the most blocks held at once */
  double fragmentation;          /* of used RAM, the share that holds no payload or header */
  /* matches */
  uint64_t matches, match_blocks_asked, match_tokens_asked;
  uint64_t ram_hit_blocks, ssd_hit_blocks, hit_tokens;
  /* store and restore */
  uint64_t stored_blocks, stored_tokens, stored_bytes, duplicate_blocks, store_refused;
  uint64_t read_tokens, read_bytes;
  /* movement */
  uint64_t demoted_blocks, demoted_bytes, promoted_blocks, promoted_bytes;
  uint64_t evicted_blocks, forgotten_blocks, ram_evictions, reinserted_blocks, admission_refused;
  uint64_t segments_reclaimed, stored_waits;
  double write_amplification; /* bytes to SSD / bytes of blocks demoted the first time */
  /* What was read ahead of demand. chain: the blocks of a match, in order. layer: the next layer of a
   * context that is read layer by layer, in planes of blocks. */
  kvstow_prefetch_stats prefetch_chain, prefetch_layer;
  /* trouble */
  uint64_t corrupt_blocks, failed_loads, timeouts, cancels, collisions, expired_blocks;
  uint64_t policies_replaced; /* by lru: they named a victim they had not, or none */
  uint64_t events_dropped;
  uint64_t trace_records, trace_dropped; /* kvstow_options.trace */
  uint64_t recovered_blocks, recovery_us;
  kvstow_latency match_latency, store_latency, read_latency, load_latency;
  kvstow_tier_stats tier; /* zero without SSD */
} kvstow_stats;

/* Fills *stats as far as stats->size goes: set it to sizeof(kvstow_stats) first. */
KVSTOW_API void kvstow_get_stats(const kvstow *store, kvstow_stats *stats);

/* The same as JSON or as Prometheus text exposition. Returns the length without the final NUL, like
 * snprintf: larger than `bytes` - 1 means truncated. */
KVSTOW_API size_t kvstow_stats_json(const kvstow *store, char *text, size_t bytes);
KVSTOW_API size_t kvstow_stats_prometheus(const kvstow *store, char *text, size_t bytes);

/* What the cache wrote into a record's header page: for tools that read stores through
 * kvstow/tier.h. */
typedef struct kvstow_block_info {
  char space_name[32];
  kvstow_key space;  /* hash of the fingerprint */
  kvstow_key root;   /* hash of fingerprint, layout and salt */
  kvstow_key parent; /* key of the block before; the root for the first */
  uint32_t depth;
  uint32_t tokens_count;
  uint32_t payload_bytes; /* without padding */
  uint32_t layers, k_bytes, v_bytes;
  const kvstow_token *tokens; /* inside the page */
} kvstow_block_info;

/* ECORRUPT if the owner area is not the cache's. */
KVSTOW_API int kvstow_block_describe(const void *header_page, kvstow_block_info *info);

/* The part of it that the segment's footer repeats: root, parent, space, depth, counts. */
KVSTOW_API int kvstow_tag_describe(const uint8_t tag[KVSTOW_TAG_BYTES], kvstow_block_info *info);

#ifdef __cplusplus
}
#endif
#endif
