/* store.h - the parts of an open store, and what its files ask of each other.
 *
 *   open.c     open, recover, close          ram.c      frames, the clean list, the RAM policy
 *   space.c    spaces and roots              ssd.c      copies on SSD, the SSD policy
 *   access.c   what the policies are told    policy.c   making them
 *   put.c      store, reserve, commit        load.c     promotion
 *   seq.c      growing sequences             demote.c   demotion, flush
 *   match.c    exists, match, leases         reclaim.c  giving up a segment
 *   read.c     read, view                    forget.c   forget, pin
 *   direct.c   reads past the pool          layers.c   reading layer by layer, one ahead
 *   trace.c    recording what is asked
 *   async.c    queues, asynchronous twins    events.c, stats.c, histogram.c
 *
 * A block's life. Its bytes are written into a frame nobody sees, then *published*: an entry enters
 * the index and the RAM policy (it is hot). The RAM policy gives victims up to the demotion thread, which
 * writes those SSD lacks and puts them on the *clean list*, from whose head frames are taken again; a
 * use rescues a block from it. A block without a frame is loaded again on demand. On SSD, victims of
 * the SSD policy are *condemned*: readable until their segment is reclaimed, valued again if used.
 *
 * Locks, in the order of rank.h: store->lock; one of a shard's lock (index.h), a read window's (direct.c),
 * async->lock; an op's queue. No I/O, no hashing and no copying of payloads under any of them. The tier's locks
 * come after store->lock; its completions hold none, and take a window's lock or store->lock.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_KVCACHE_STORE_H
#define KVSTOW_KVCACHE_STORE_H

#include <pthread.h>
#include <stdatomic.h>

#include "kvcache/describe.h"
#include "kvcache/histogram.h"
#include "kvcache/index.h"
#include "kvcache/key.h"
#include "kvcache/pool.h"
#include "kvstow/kvstow.h"
#include "kvstow/policy.h"

#define KVS_RAM_MIN_BYTES ((uint64_t)8 << 20)
#define KVS_BATCH_BYTES ((uint64_t)16 << 20) /* one demotion batch at most */
#define KVS_BATCH_RECORDS 256u
#define KVS_VICTIMS_REST_US 10000u           /* when none could go: leases end in such times */
#define KVS_BATCHES_MAX 4u                   /* in flight */
#define KVS_LOADS_BYTES ((uint64_t)64 << 20) /* promotions in flight ahead of demand */

struct kvs_events;
struct kvs_async;
struct kvs_trace;
struct kvs_reclaim;

struct kvstow_space {
  kvstow *store;
  struct kvstow_space *next;
  kvstow_key id;
  char name[KVS_NAME_BYTES];
  struct kvs_layout layout;                   /* layers 0: opaque */
  uint32_t planes, plane_bytes, padded_bytes; /* opaque: of the largest block */
  uint32_t payload_bytes;                     /* without padding */
  uint32_t part_bytes;                        /* where V begins in a plane; 0: no V, or no K */
  _Atomic uint32_t ttl_s;                     /* lookups read it without the store's lock */
  uint32_t trace_number, trace_turn;          /* trace.c's; 0: not named yet */
};

/* One chain root with blocks, leases or calls under way. Found by id; an entry names it by index. */
struct kvs_root {
  kvstow_key id, space_id;
  uint64_t refs;                              /* 0: the row is free */
  uint32_t next;                              /* in its bucket; among free rows */
  uint32_t layers, block_tokens, plane_bytes; /* plane_bytes means nothing if layers is 0 */
};

struct kvs_roots {
  struct kvs_root *rows;
  uint32_t count, room, free;
  uint32_t *buckets, mask;
};

/* A policy in use. */
struct kvs_policy {
  const kvstow_policy_ops *ops;
  void *self;
  kvstow_nodes nodes;
  uint64_t capacity; /* blocks, as it was told */
  uint64_t count;    /* that it has */
};

/* What is common to the blocks of a request. */
struct kvs_request {
  uint64_t number; /* 0: none */
  uint64_t session, recompute_cost;
  uint32_t chain_blocks, category;
};

/* To which request belongs what continues a chain here (access.c). */
struct kvs_note {
  uint64_t key_lo, number;
  uint32_t chain_blocks;
  bool awaited; /* the block of this key is to come; else it came last, or was found last */
};
#define KVS_NOTES 256u

/* A block in the list of those waiting to be written; the key tells whether the id is still its. */
struct kvs_wanted {
  kvstow_key key;
  uint32_t id;
  bool again; /* it was on SSD before: write amplification */
};

/* Entries chosen, by id and key: ids may be reused while a wait lets go of the lock. */
struct kvs_chosen {
  struct kvs_wanted *row;
  size_t count, room;
};

/* Per segment, what the cache has in it. */
struct kvs_segment {
  uint32_t *ids; /* of all blocks written to it; some have left since */
  uint32_t ids_count, ids_room;
  bool ids_lost;    /* not all: there was no memory */
  bool unread;      /* its table could not be read at opening: what it holds is not known */
  uint32_t records; /* entries whose loc is here */
  uint32_t valued;  /* of them in the SSD policy or pinned */
  int32_t
      pending; /* appended, not yet known to be written: not to be reclaimed. Below 0 for a moment,
                       when the completion overtakes the count. */
};

struct kvs_counters {
  uint64_t matches, match_blocks_asked, match_tokens_asked, ram_hit_blocks, ssd_hit_blocks,
      hit_tokens;
  uint64_t stored_blocks, stored_tokens, stored_bytes, duplicate_blocks, store_refused;
  uint64_t read_tokens, read_bytes;
  uint64_t demoted_blocks, demoted_bytes, first_demoted_bytes, promoted_blocks, promoted_bytes;
  uint64_t evicted_blocks, forgotten_blocks, ram_evictions, reinserted_blocks, admission_refused;
  uint64_t segments_reclaimed, stored_waits;
  kvstow_prefetch_stats chain, layer;
  uint64_t corrupt_blocks, failed_loads, timeouts, cancels, collisions, expired_blocks,
      policies_replaced;
  uint64_t recovered_blocks, recovery_us;
};

struct kvstow {
  kvstow__mutex lock;
  pthread_cond_t changed; /* a load or a batch ended, frames became free: waiters look again */
  kvstow_lease *untold;   /* matched, and its policies have yet to hear of it: kvs_lock() */
  unsigned waiters;       /* on `changed`, for more than one load to end */
  pthread_cond_t demote_wake;

  kvstow_options options; /* strings not kept */
  pid_t pid;              /* who opened it */
  uint64_t seed;
  struct kvs_secret secret; /* of the seed */
  bool fences_others;       /* kvs_copy_fence_others() works here */
  struct kvs_pool *pool;
  kvstow_tier *tier; /* NULL: RAM only */
  struct kvs_index index;
  struct kvs_roots roots;
  struct kvstow_space *spaces;

  struct kvs_policy ram, ssd;
  uint64_t request_clock; /* counts requests: kvstow_access.request */
  struct kvs_note notes[KVS_NOTES];

  /* the clean list: ids linked through ram_node[0] (previous) and [1] (next) */
  uint32_t clean_head, clean_tail;
  uint64_t clean_bytes;
  uint64_t frame_bytes;    /* all frames taken, headers included */
  uint64_t capacity_bytes; /* frame_bytes at which the pool was full; an estimate before */
  uint64_t pinned_bytes;

  /* demotion */
  pthread_t demoter;
  bool demoter_runs, stopping;
  uint32_t flushing;   /* flushes under way */
  uint64_t doubts;     /* flushes whose barrier failed, so that blocks were let go (spoiled.c) */
  uint32_t flush_from; /* the oldest generation that what they write may lie in */
  /* What was on SSD when they began, and has lost that copy since, but not the one in RAM. */
  struct kvs_chosen given_up;
  bool pressing; /* above the high watermark, not yet down to the low one */
  struct kvs_wanted
      *wanted; /* to be written whatever the watermarks: write-through, flush, reclaim */
  size_t wanted_count, wanted_at, wanted_room;
  uint64_t wanted_in, wanted_out; /* ever */
  uint64_t batches_begun;
  uint64_t batches[KVS_BATCHES_MAX]; /* numbers of those in flight; 0 free */
  uint64_t demoting_bytes;           /* of victims */
  uint64_t writing_bytes;            /* of all under way: the most it may come to */
  uint64_t pressed_bytes;            /* somebody waits for so much RAM */
  uint64_t victims_rest_until_us;    /* CLOCK_MONOTONIC; none of them could go */
  uint64_t write_errors;             /* blocks that could not be written, ever; */
  int write_error;                   /* why the newest could not */
  kvstow_loc *buried;                /* records to erase: copies given up without their segment */
  size_t buried_count, buried_room;
  unsigned erasing; /* threads that have taken some off the list */
  uint64_t erase_errors;
  struct kvs_segment *segments;
  uint32_t segments_count, segment_bytes;
  uint64_t ssd_records, ssd_valued, ssd_record_bytes;
  struct kvs_reclaim *reclaim; /* the segment that goes next; NULL: not chosen yet */
  bool preparing;              /* blocks are to be moved out of it: the demotion thread looks on; */
  bool moving;                 /* of them, some are being read or written */
  bool half_full;              /* the open segment is */
  bool look_ahead;             /* and has changed so that the next one is to be looked at */

  /* promotion */
  struct kvs_load **loads;
  uint32_t loads_count, loads_room;
  uint32_t loads_hint; /* where a free slot is likely */
  uint64_t loads_bytes;

  uint64_t leases, sequences, queues, reservations;
  _Atomic(struct kvs_tokens *) spare_tokens;       /* the room of a lease given back, or NULL */
  uint64_t ram_blocks, both_blocks, pinned_blocks; /* entries with a frame; of them on SSD too */
  struct kvs_events *events;
  struct kvs_async *async;
  struct kvs_trace *trace; /* NULL: nothing is recorded */

  struct kvs_counters count;
  struct kvs_histogram match_time, store_time, read_time, load_time; /* own atomics */

  kvstow__mutex message_lock; /* a leaf */
  char message[KVSTOW_MESSAGE_BYTES];
};

/* Unless said otherwise the functions below hold store->lock, and say so by nothing else. */

/* ---- open.c --------------------------------------------------------------------------------- */

/* Remembers the text of an error and returns its code. Any lock or none. */
int kvs_fail(kvstow *store, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* 0, or KVSTOW_EINVAL where there are bits that kvstow_flags has not. Any lock or none. */
int kvs_check_flags(kvstow *store, const char *call, uint32_t flags);
uint64_t kvs_now_us(void); /* monotonic; no lock */
static inline uint64_t kvs_now_ms(void) {
  return kvs_now_us() / 1000;
}
/* When what a histogram counts began; 0 without metrics. Ended by kvs_clock_stop. No lock. */
static inline uint64_t kvs_clock(const kvstow *store) {
  return store->options.metrics ? kvs_now_ns() : 0;
}
/* The same for calls that are hardly longer than reading the clock: one in many is timed. */
static inline uint64_t kvs_clock_sample(const kvstow *store, struct kvs_histogram *histogram) {
  return store->options.metrics && kvs_histogram_turn(histogram) ? kvs_now_ns() : 0;
}
static inline void kvs_clock_stop(struct kvs_histogram *histogram, uint64_t started_ns) {
  if (started_ns != 0) kvs_histogram_add(histogram, kvs_now_ns() - started_ns);
}
uint32_t kvs_now_s(void); /* Unix time; no lock */
/* Waits on `changed` until an absolute kvs_now_us() time; false when it has passed. */
bool kvs_wait_until(kvstow *store, uint64_t deadline_us);
/* The same for one load's end: others do not wake it. */
bool kvs_wait_load(kvstow *store, uint64_t deadline_us);
uint64_t kvs_deadline(const kvstow *store, uint32_t timeout_ms); /* no lock */

/* ---- space.c -------------------------------------------------------------------------------- */

/* Finds or makes the row of a root and takes a reference; KVS_NO_ENTRY if absent (or no memory). */
uint32_t kvs_root_take(kvstow *store, kvstow_key id, kvstow_key space_id, bool create);
void kvs_root_give(kvstow *store, uint32_t root);

#define KVS_AHEAD_BLOCKS 8u /* of a walk */

/* The blocks of a prefix named: what every call begins with. */
struct kvs_chain {
  struct kvstow_space *space;
  kvstow *store;
  uint32_t root; /* referenced; KVS_NO_ENTRY: nothing of it is held */
  kvstow_key root_id;
  size_t blocks;
  kvstow_key *keys; /* [0] is the root, [i + 1] block i */
  size_t named;     /* blocks whose keys are known */
  kvstow_key room[65];
  const kvstow_prefix *prefix;
  uint64_t expired, collisions; /* met by kvs_chain_find */
  /* Of blocks that a walk comes to soon; or NULL. */
  const struct kvs_entry *likely[KVS_AHEAD_BLOCKS];
};

/* KVSTOW_EINVAL, and a message where the prefix leads to a store: what a call lacks beside it. No lock held. */
int kvs_prefix_fail(const kvstow_prefix *prefix, const char *what);
/* Takes the first `blocks` blocks of a prefix (SIZE_MAX: all whole ones) and computes their keys. No lock
 * held. 0, KVSTOW_EINVAL, KVSTOW_ENOMEM. Ended by kvs_chain_finish, also without the lock. */
int kvs_chain_init(struct kvs_chain *chain, const kvstow_prefix *prefix, size_t blocks,
                   bool create_root);
/* The same for a walk with kvs_chain_next: keys are computed as it goes. */
int kvs_chain_begin(struct kvs_chain *chain, const kvstow_prefix *prefix, size_t blocks,
                    bool create_root);
/* Store's lock held: does before what kvs_chain_finish would take it for. Nothing is looked up afterwards. */
void kvs_chain_leave(struct kvs_chain *chain);
void kvs_chain_name(struct kvs_chain *chain); /* computes the keys that a walk has not come to */
void kvs_chain_finish(struct kvs_chain *chain);
const kvstow_token *kvs_chain_tokens(const struct kvs_chain *chain, size_t block);

/* Older than the space allows? The shard's lock. */
bool kvs_expired(const struct kvstow_space *space, const struct kvs_entry *entry);
/* Not older, nor larger. Else nobody finds it, and it must not stand in the way of the same block stored anew. */
bool kvs_serves(const struct kvstow_space *space, const struct kvs_entry *entry);
/* Finds a block; `lease`: raises its leases. No lock held. KVS_NO_ENTRY: not held, expired, or
 * another block's (a collision). *in_ram tells whether its tokens were compared. */
uint32_t kvs_chain_find(struct kvs_chain *chain, size_t block, bool lease, bool *in_ram);
/* The same for blocks in order, from 0 on: what comes next is fetched into the caches meanwhile. */
uint32_t kvs_chain_next(struct kvs_chain *chain, size_t block, bool lease, bool *in_ram);

/* Lowers the leases of an entry; frees it if it was unlinked. Store's lock NOT held. */
void kvs_lease_drop(kvstow *store, uint32_t id);
/* The same with the store's lock held. */
void kvs_lease_drop_locked(kvstow *store, uint32_t id);

/* ---- policy.c ------------------------------------------------------------------------------- */

/* Makes the policy of one tier from "name" or "name:params". No lock; the store is not open yet. */
int kvs_policy_make(kvstow *store, struct kvs_policy *policy, const char *text, char **nodes,
                    uint64_t tier_bytes);
void kvs_policy_finish(struct kvs_policy *policy);
/* A block enters, or leaves unasked; its flag says that the policy has it. */
void kvs_policy_insert(kvstow *store, struct kvs_policy *policy, uint32_t id,
                       const kvstow_access *access);
void kvs_policy_remove(kvstow *store, struct kvs_policy *policy, uint32_t id);
/* A block that leaves as the policy chose; KVSTOW_NO_ID when it has none. */
uint32_t kvs_policy_victim(kvstow *store, struct kvs_policy *policy);
/* Tells both how many blocks their tiers hold, if that has changed. An empty tier is expected to hold
 * blocks of `padded_bytes`. */
void kvs_policies_fit(kvstow *store, uint32_t padded_bytes);

/* ---- access.c ------------------------------------------------------------------------------- */

struct kvs_request kvs_request_begin(kvstow *store, const struct kvs_chain *chain);
/* What is stored under `key`, behind `parent`, belongs to the request that asked for it, or stored what
 * comes before it; else to a new one. `blocks`: length of the chain, as far as it is known now. */
struct kvs_request kvs_request_of(kvstow *store, const kvstow_prefix *prefix, kvstow_key key,
                                  kvstow_key parent, size_t blocks);
/* What comes behind `key`, which was found or stored last, is the request's; what will be stored under `key` is. */
void kvs_request_goes_on(kvstow *store, const struct kvs_request *request, kvstow_key key);
void kvs_request_awaits(kvstow *store, const struct kvs_request *request, kvstow_key key);

/* Of a block of a request: that, and the time. No lock. */
kvstow_access kvs_access_of(const struct kvs_request *request);
/* And the block. */
void kvs_access_block(const kvstow *store, uint32_t id, kvstow_access *access);
/* A block, or KVS_NO_ENTRY, as a parent: is it in the policy? */
uint32_t kvs_access_parent(const kvstow *store, uint32_t parent, enum kvs_flag policy);
/* The whole, of a block that moves on nobody's account. */
kvstow_access kvs_access_alone(const kvstow *store, uint32_t id, kvstow_whence whence,
                               enum kvs_flag policy);
/* The block before, if it is held; found by half of its key. */
uint32_t kvs_parent(const kvstow *store, uint64_t parent_lo, uint32_t root, uint32_t depth);

/* ---- ram.c ---------------------------------------------------------------------------------- */

/* A frame, from the pool or from the clean list; without an SSD tier from the policy's victims.
 * KVS_NO_FRAME when all RAM is in use; then demotion has been asked to run. */
uint32_t kvs_ram_take(kvstow *store, uint32_t padded_bytes);
/* Gives back a frame no entry has. */
void kvs_ram_give(kvstow *store, uint32_t frame, uint32_t padded_bytes);

void kvs_ram_insert(kvstow *store, uint32_t id, const kvstow_access *access); /* into the policy */
void kvs_clean_push(kvstow *store, uint32_t id);
void kvs_clean_remove(kvstow *store, uint32_t id);

/* A use of a block by a request, in the tier that serves it. access->parent is the block before, or
 * KVS_NO_ENTRY, and becomes what that tier's policy knows of it. */
void kvs_use(kvstow *store, uint32_t id, kvstow_access *access);

/* Drops the RAM copy of an entry in no list; the entry too if SSD has none and nobody leases it. false:
 * it stays. */
bool kvs_ram_drop(kvstow *store, uint32_t id);

/* Takes an entry out of RAM policy and clean list, whichever holds it. */
void kvs_ram_unlist(kvstow *store, uint32_t id);

/* Takes an entry out of the index for good; freed now, or with its last lease. It has neither frame
 * nor SSD copy. */
void kvs_unlink(kvstow *store, uint32_t id);
/* The same unless it is leased: then false, and nothing happened. */
bool kvs_unlink_unleased(kvstow *store, uint32_t id);
/* Takes the entry's frame (maybe KVS_NO_FRAME) from it; `unlink`: takes it out of the table in the same
 * step, unless it is leased: then false, and nothing happened. kvs_unlinked ends that. */
bool kvs_take_frame(kvstow *store, uint32_t id, bool unlink, uint32_t *frame);
void kvs_unlinked(kvstow *store, uint32_t id);

/* Bytes of RAM that are not free, not clean and not being cleaned. */
uint64_t kvs_hot_bytes(const kvstow *store);

/* ---- ssd.c ---------------------------------------------------------------------------------- */

void kvs_ssd_gain(kvstow *store, uint32_t id, kvstow_loc loc, const kvstow_access *access);
/* The block was written again: its copy is there now, valued as it was. */
void kvs_ssd_move(kvstow *store, uint32_t id, kvstow_loc loc);
/* The SSD copy is no more; `bury`: its record still lies there and must be erased. */
void kvs_ssd_lose(kvstow *store, uint32_t id, bool bury);
void kvs_ssd_use(kvstow *store, uint32_t id, const kvstow_access *access);
/* Starts or stops counting a copy as valued without asking the policy: for pins. */
void kvs_ssd_value(kvstow *store, uint32_t id, bool valued);
/* Forgets which blocks were written to it. */
void kvs_segment_clear(struct kvs_segment *segment);
/* Is that where the block lies on SSD? It may have moved since a read of it began. */
bool kvs_ssd_is_at(const kvstow *store, uint32_t id, kvstow_loc loc);
void kvs_bury(kvstow *store, kvstow_loc loc);
/* Erases what is buried. Lock NOT held. */
int kvs_erase_buried(kvstow *store);

/* ---- load.c --------------------------------------------------------------------------------- */

/* Reads to be handed to the tier once the lock is released. Begun by setting `count` to 0: an initializer would
 * clear 2 KiB, in the smallest match a twentieth of its time. */
#define KVS_LOADS_A_CALL 256u
struct kvs_reads {
  kvstow_record_read *list[KVS_LOADS_A_CALL];
  size_t count;
};
/* Starts loading a block that has no frame; `ahead` of demand it counts as prefetch and is bounded.
 * `request`: on whose account, or NULL. 0 started, or nothing to do; KVSTOW_EFULL no frame or enough under
 * way; KVSTOW_EMISS nowhere held; KVSTOW_ENOMEM. */
int kvs_load_start(kvstow *store, uint32_t id, kvstow_priority priority, bool ahead,
                   const struct kvs_request *request, struct kvs_reads *reads);
/* Lock NOT held. */
void kvs_loads_submit(kvstow *store, struct kvs_reads *reads);
void kvs_load_urge(kvstow *store, uint32_t id); /* it is loading, and wanted now */
/* Waits for a change if the block is loading; false when the time has passed, also where nothing was to
 * be waited for: a load may fail as fast as it is begun, over and over. */
bool kvs_load_wait(kvstow *store, uint32_t id, uint64_t deadline_us);
/* Compares what a header page says of a block with what the index believes. 0 or KVSTOW_ECORRUPT. */
int kvs_load_check(const kvstow *store, uint32_t id, const void *header);
/* The SSD copy of a block could not be read, for the reason `result`: it is none any more. */
void kvs_load_failed(kvstow *store, uint32_t id, int result);

/* ---- put.c ---------------------------------------------------------------------------------- */

/* A frame being filled. */
struct kvs_reservation {
  kvstow *store;
  struct kvstow_space *space;
  uint32_t root; /* referenced */
  uint32_t frame, padded_bytes, payload_bytes, depth;
  kvstow_key key, parent, root_id;
  struct kvs_request request;
};

/* Takes a frame, waiting for one until the deadline (0: not at all). Lock NOT held. */
int kvs_frame_wait(kvstow *store, uint32_t padded_bytes, uint64_t deadline_us, uint32_t *frame);
/* Makes a filled frame a block: entry, index. The id to insert into the policy is returned, or
 * KVS_NO_ENTRY if the block was there already or there was no memory (*rc): the frame is given back then. */
uint32_t kvs_publish(kvstow *store, const struct kvs_reservation *r, bool sums, int *rc);
/* After publish: the policy, write-through, the event. `ancestor`: the nearest block before it that was
 * not published with it, or KVS_NO_ENTRY. */
void kvs_publish_finish(kvstow *store, uint32_t id, const struct kvs_request *request,
                        uint32_t ancestor);
/* Formats the header page of a filled frame; computes plane checksums if asked. Lock NOT held. */
int kvs_header_format(const struct kvs_reservation *r, const kvstow_token *tokens, void *page);
/* Sums of all planes into a formatted header page. No lock. */
void kvs_sum_planes(void *page, const void *payload);

/* ---- demote.c ------------------------------------------------------------------------------- */

int kvs_demoter_start(kvstow *store);
void kvs_demoter_stop(kvstow *store);  /* lock NOT held */
void kvs_demoter_check(kvstow *store); /* wakes it if RAM is above the watermark */
/* The block is to be written soon. false: no memory to remember that. */
bool kvs_demote_want(kvstow *store, uint32_t id, bool again);
int kvs_flush(kvstow *store); /* lock NOT held */

/* forget.c. Adds to a list, false: no memory; what of it is still there, or NULL */
bool kvs_choose(struct kvs_chosen *chosen, const kvstow *store, uint32_t id);
struct kvs_entry *kvs_chosen_still(const kvstow *store, const struct kvs_wanted *row);
/* Out of the index, out of RAM, its record buried. false: leased or in use. */
bool kvs_remove(kvstow *store, uint32_t id);

/* ---- reclaim.c ------------------------------------------------------------------------------ */

/* Gives up one segment. Lock NOT held; the demotion thread only. KVSTOW_ENOSPC: all hold leased or
 * pinned blocks. */
int kvs_reclaim(kvstow *store);
/* Prepares that, one step a call; lets go of the lock meanwhile. The demotion thread only. false: nothing to
 * do now. */
bool kvs_reclaim_ahead(kvstow *store);
/* Are the old records of blocks moved out of this segment still remembered? */
bool kvs_reclaim_covers(const kvstow *store, uint32_t segment);
/* Those blocks may have been forgotten since: buries the old records as well. */
void kvs_reclaim_bury_moved(kvstow *store);
void kvs_reclaim_finish(kvstow *store);

/* ---- spoiled.c ------------------------------------------------------------------------------ */

/* Lets go of the copies on SSD that a failed barrier has left unsure. Lock NOT held. */
void kvs_leave_unsure(kvstow *store);

/* ---- read.c --------------------------------------------------------------------------------- */

struct kvs_lease_block {
  uint32_t id;
  bool verified; /* its tokens were compared with those asked for */
  bool viewed;
};

/* Reads of one layer each, in order, over the same tokens: what layers.c knows of them. */
struct kvs_layers {
  uint32_t next;   /* the layer that would continue */
  uint32_t in_row; /* reads that have */
  size_t token_first, token_count;
  bool busy;    /* a job has the window */
  bool crossed; /* another read of the lease came meanwhile */
  uint32_t turn;
  struct kvs_window *window; /* NULL: not streaming */
};

/* Tokens that a lease keeps. */
struct kvs_tokens {
  size_t bytes; /* room */
  kvstow_token token[];
};

struct kvstow_lease {
  kvstow *store;
  struct kvstow_space *space;
  uint32_t root;
  struct kvs_request request;
  uint64_t used_ms;       /* when it was matched: what its policies are told */
  bool promote;           /* the match was to promote */
  size_t promoted;        /* blocks before it were in RAM once, or on their way */
  bool budgeted;          /* promote_bytes is known */
  uint64_t promote_bytes; /* that may still be brought to RAM for it; UINT64_MAX: all of it fits */
  struct kvs_layers layers;
  size_t blocks;
  _Atomic size_t good;     /* leading blocks not known to be bad */
  struct kvs_tokens *kept; /* of all blocks; NULL if none needs comparing */
  struct kvs_lease_block block[];
};

/* A match that promotes nothing is told to the policies by whoever takes the store's lock next, before anything
 * else: its caller does not wait for that, and nobody finds the policies behind. (BP-Wrapper, Ding et al., ICDE 2009, puts
 * uses off as well.) Everybody locks with kvs_lock(), and calls kvs_tell() when a wait has locked again. */
void kvs_tell_lease(kvstow *store);
static inline void kvs_tell(kvstow *store) {
  if (store->untold != NULL) kvs_tell_lease(store);
}
static inline void kvs_lock(kvstow *store) {
  kvstow__lock(&store->lock);
  kvs_tell(store);
}

/* Pins block `i` in RAM if it is there, verified. KVSTOW_EAGAIN: it loads; KVSTOW_EFULL: it is on SSD
 * alone; KVSTOW_EMISS; KVSTOW_EBUSY: it is read by too many. */
int kvs_lease_pin(kvstow_lease *lease, size_t i, uint32_t *frame);
void kvs_lease_unpin(kvstow_lease *lease, size_t i);
/* Starts loads for blocks from `i` on, ahead of demand, as far as RAM and bounds allow; notes how far. */
void kvs_lease_promote(kvstow_lease *lease, size_t i, struct kvs_reads *reads);
/* The same for one block, on demand or ahead of it. As kvs_load_start; EFULL too when the lease has had its
 * share of RAM. */
int kvs_lease_load(kvstow_lease *lease, size_t i, bool ahead, struct kvs_reads *reads);
/* Are these the tokens the lease was asked for? */
bool kvs_lease_tokens_equal(const kvstow_lease *lease, size_t i, const void *header);
void kvs_lease_bad(kvstow_lease *lease, size_t i); /* any lock or none */

/* One read, of rows or of whole payloads. What is cold is sent for some way ahead of the block that is
 * delivered next: to RAM, or past it through a window. */
struct kvs_read_job {
  kvstow_lease *lease;
  size_t first, count; /* blocks */
  size_t next;         /* block to deliver next, in first..first + count */
  size_t ahead;        /* up to here blocks have been sent for, or were in RAM */
  size_t ahead_max;    /* blocks */
  uint32_t flags;
  bool asynchronous;  /* what arrives is to wake the poller */
  bool stream;        /* the window is the lease's */
  bool counted;       /* in the store's counters */
  bool past;          /* more than the caches hold: copied past them */
  int stopped;        /* why nothing more is delivered; it ends when the buffers are free again */
  uint32_t turn;      /* of the window */
  size_t layer_ahead; /* of a stream: up to here the next layer has been sent for */
  struct kvs_window *window; /* made when it is needed */
  /* of rows */
  kvstow_range range; /* counts resolved */
  const struct iovec *iov;
  int iovcnt;
  size_t *iov_starts; /* offset of each iovec in the whole; NULL if there is one */
  /* of whole payloads */
  void *const *payloads; /* else NULL */
  size_t *bytes;
};
/* Check the arguments. No lock held. */
int kvs_read_job_rows(struct kvs_read_job *job, kvstow_lease *lease, const kvstow_range *range,
                      const struct iovec *iov, int iovcnt, uint32_t flags, bool asynchronous);
int kvs_read_job_blocks(struct kvs_read_job *job, kvstow_lease *lease, size_t first, size_t count,
                        void *const *payloads, size_t *bytes, uint32_t flags, bool asynchronous);
/* After a job that was checked, and ended: counts it, says why it failed, frees. Lock NOT held. */
void kvs_read_job_end(struct kvs_read_job *job, int rc, uint64_t begun_ns);
/* Delivers what is there, from job->next on, and sends for more. 0 done; KVSTOW_EAGAIN: block job->next is
 * on its way, or the job was stopped and the device still has its buffers. Lock NOT held. */
int kvs_read_job_step(struct kvs_read_job *job);
/* Nothing more is delivered; the steps from now on end with `why`. Lock NOT held. */
void kvs_read_job_stop(struct kvs_read_job *job, int why);
/* Delivers planes [plane_first, plane_first + planes) of a block, lying at `from`, to the job. */
void kvs_read_job_deliver(struct kvs_read_job *job, size_t block, const char *from,
                          uint32_t plane_first, uint32_t planes);

/* ---- direct.c ------------------------------------------------------------------------------- */

struct kvs_window;

/* For planes of blocks [first, first + span) of a lease, up to `cells` at a time. `room`: with memory for
 * them, from the pool, or if it has none, `heap`. NULL: no memory. */
struct kvs_window *kvs_window_create(const struct kvstow_lease *lease, size_t first, size_t span,
                                     uint32_t planes, uint32_t cells, bool room, bool heap);
struct kvs_window_read {
  kvstow_lease *lease;
  size_t block;
  uint32_t turn; /* tells two reads of one block apart by its lowest bit */
  uint32_t plane_first;
  void *to;    /* NULL: into the cell's room */
  bool ahead;  /* of demand */
  bool urgent; /* may have the last cell, which is kept for the block to be delivered next */
};
/* false: no cell is free. */
bool kvs_window_add(struct kvs_window *window, const struct kvs_window_read *read,
                    struct kvs_reads *reads);

/* The others without the lock, and by one thread at a time. */
void kvs_window_serves(struct kvs_window *window, bool asynchronous);
bool kvs_window_has(const struct kvs_window *window, uint32_t turn, size_t block);
/* Delivers block job->next, which the window has, and moves job->next; it stays where it is if the block
 * has moved and must be found again. KVSTOW_EAGAIN: it is not here yet. */
int kvs_window_deliver(struct kvs_window *window, struct kvs_read_job *job);
/* Until the cell that was not here is, or nothing is in flight. UINT64_MAX: no deadline. */
bool kvs_window_wait(struct kvs_window *window, uint64_t deadline_us);
/* Is a quarter of its cells free? */
bool kvs_window_roomy(const struct kvs_window *window);
void kvs_window_withdraw(struct kvs_window *window); /* what the device has not begun */
bool kvs_window_idle(struct kvs_window *window);     /* the device has no buffer of the caller's */
/* Frees an idle window, at once or with its last completion. Cells read ahead and not wanted. */
uint32_t kvs_window_drop(struct kvs_window *window);

/* ---- layers.c ------------------------------------------------------------------------------- */

/* A read of rows begins: does it go on where the reads of this lease before it were heading? If so the job
 * gets the lease's window. Lock NOT held. */
void kvs_layers_begin(struct kvs_read_job *job);
/* Reads the next layer ahead, as far as the window has room. */
void kvs_layers_ahead(struct kvs_read_job *job, struct kvs_reads *reads);
/* A job with the lease's window has ended. Lock NOT held. */
void kvs_layers_end(struct kvs_read_job *job, bool ok);
/* Its lease ends, or the pattern does: counts what was read in vain. Lock NOT held. */
void kvs_layers_drop(kvstow *store, struct kvs_window *window);

/* ---- match.c -------------------------------------------------------------------------------- */

/* 0 all promotions ended (held filled), KVSTOW_EAGAIN some still load. Lock NOT held. */
int kvs_lease_poll(kvstow_lease *lease, size_t *next, kvstow_held *held);

/* ---- events.c ------------------------------------------------------------------------------- */

int kvs_events_create(kvstow_event_fn fn, void *arg, struct kvs_events **events);
void kvs_events_destroy(struct kvs_events *events); /* delivers what waits; lock NOT held */
void kvs_event(kvstow *store, kvstow_event_kind kind, const struct kvs_entry *entry);
uint64_t kvs_events_dropped(const struct kvs_events *events);

/* ---- trace.c -------------------------------------------------------------------------------- */

/* Blocks of a chain, [0, blocks), as far as they are known: keys[0] is that of the block before `first`
 * (nothing if that is 0), keys[1] that of block `first`, and so on. */
struct kvs_traced {
  struct kvstow_space *space;
  const struct kvs_request *request;
  size_t tokens; /* of a match */
  size_t first, blocks;
  const kvstow_key *keys;
};

int kvs_trace_open(kvstow *store, const char *path); /* no lock; the store is not open yet */
void kvs_trace_close(kvstow *store);                 /* lock NOT held */
/* Writes what was recorded until now. Lock NOT held. */
void kvs_trace_flush(kvstow *store);
/* `now_ms`: taken since the lock was. */
void kvs_trace_match(struct kvs_trace *trace, const struct kvs_traced *what, size_t hit,
                     uint64_t now_ms);
/* Blocks from `first` on were stored. */
void kvs_trace_store(struct kvs_trace *trace, const struct kvs_traced *what);
void kvs_trace_counts(const kvstow *store, uint64_t *records, uint64_t *dropped);

/* ---- async.c -------------------------------------------------------------------------------- */

void kvs_async_wake(kvstow *store);    /* something changed: pending operations look again */
void kvs_async_destroy(kvstow *store); /* lock NOT held */

#endif
