/* kvstow/tier.h - the SSD tier alone: an append-only log of checked records in segment files, and
 * fast reading and writing of any other file (model weights, blobs).
 *
 * What it is. Records (a 4 KiB header page, then the payload) are appended to fixed-size,
 * preallocated segment files with large sequential direct writes, read back by location through a
 * scheduler that merges neighbours, and reclaimed a whole segment at a time. The tier knows keys,
 * planes and an opaque description; what they mean, and which segment to give up, is the caller's
 * business (kvstow/kvstow.h is one such caller). Other files are read through the same scheduler, with
 * read-ahead for those who read in order. A tier opened without directories serves files alone.
 *
 * What it promises.
 *  - A read delivers exactly the bytes appended at that location under that key, or an error:
 *    header checksum, store uuid, segment generation, key, location and every plane's checksum are
 *    compared first.
 *  - After kvstow_tier_flush() returns 0, every record appended before it survives kill -9 and
 *    power loss, until its segment is reclaimed or the record is erased.
 *  - An erase that returned 0 is final: the record is not seen again, whatever happens.
 *  - The directories together never hold more than budget_bytes.
 *  - A directory whose disk fails costs its records, not the store: appends go to the others.
 *  - No call aborts, prints, or installs a signal handler.
 *
 * Threads. Every call is thread-safe. Completions run on threads of the tier's own, one at a time: they
 * must not block, and must not call the functions marked "blocking"; they may append and read.
 *
 * Buffers handed to append and read belong to the tier until the completion runs, and are 4 KiB
 * aligned.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_H
#define KVSTOW_TIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvstow/error.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVSTOW_PAGE_BYTES 4096u
#define KVSTOW_TAG_BYTES 64u
#define KVSTOW_UUID_BYTES 16u
#define KVSTOW_MESSAGE_BYTES 512u
#define KVSTOW_KEY_BYTES 32u /* of encryption */

typedef struct kvstow_tier kvstow_tier;

/* 128-bit name of a record. */
typedef struct kvstow_key {
  uint64_t lo, hi;
} kvstow_key;

/* Where a record lies. A location dies with its segment's generation: reading it then is
 * KVSTOW_EMISS, never another record's bytes. */
typedef struct kvstow_loc {
  uint32_t segment;
  uint32_t page; /* offset in the segment file, in 4 KiB pages */
  uint32_t generation;
} kvstow_loc;

typedef enum kvstow_engine {
  KVSTOW_ENGINE_AUTO = 0, /* io_uring, or threads where it is not to be had */
  KVSTOW_ENGINE_URING,    /* open fails if io_uring is not to be had */
  KVSTOW_ENGINE_THREADS,  /* preadv/pwritev in a pool */
} kvstow_engine;

/* What may be flipped while the tier runs, for comparisons. */
typedef struct kvstow_tuning {
  size_t size;                 /* sizeof(kvstow_tuning) */
  bool enable_prefetch;        /* read ahead of callers who read in order */
  bool enable_io_scheduling;   /* sort and merge reads */
  uint32_t prefetch_threshold; /* reads in order that make a stream: 1..64 */
  uint32_t read_ahead_blocks;  /* the window a stream begins with, in optimal blocks: 1..1024 */
  uint32_t merge_distance;     /* bytes: the gap that one merged read may skip */
  /* bytes: power of two, 4 KiB..4 MiB. Merged reads are rounded out to it where that is nearly free;
   * read-ahead moves in units of it */
  uint32_t optimal_block_size;
} kvstow_tuning;

typedef struct kvstow_tier_options {
  size_t size;             /* sizeof(kvstow_tier_options) */
  const char *const *dirs; /* existing or creatable directories, one a disk; segments go round */
  uint32_t dirs_count;     /* 1..16; 0: no log, files alone; append is EUNSUPPORTED */
  bool read_only;          /* inspect and verify: nothing is written, a shared lock is held */
  uint64_t budget_bytes;   /* of all directories together, metadata included */
  uint32_t segment_bytes;  /* power of two, 1 MiB..1 GiB; 0: as stored, or 64 MiB */
  kvstow_engine engine;
  uint32_t queue_depth;       /* device requests in flight, 1..1024 */
  uint32_t request_max_bytes; /* one device request at most, >= 64 KiB */
  uint32_t readahead_bytes;   /* memory for read-ahead, all streams together; taken at first use */
  kvstow_tuning tuning;
  /* KVSTOW_KEY_BYTES, not kept after open; NULL: not encrypted. With it records are AES-256-GCM
   * encrypted and authenticated on disk, beside all checksums. Fixed when the store is made. Other files
   * are not */
  const uint8_t *encryption_key;
} kvstow_tier_options;

/* The defaults: prefetch and scheduling on, a stream after 3 reads, 8 blocks of 64 KiB ahead, 128 KiB
 * merge distance. */
KVSTOW_API void kvstow_tuning_init(kvstow_tuning *tuning);

/* Fills *options with the defaults: auto engine, depth 64, 4 MiB requests, 32 MiB of read-ahead, and
 * kvstow_tuning_init's. dirs and budget_bytes are the caller's to set. */
KVSTOW_API void kvstow_tier_options_init(kvstow_tier_options *options);

/* Opens or creates a store. *why (may be NULL, KVSTOW_MESSAGE_BYTES suffice) receives the cause of
 * a failure: file, offset, expected, found. Blocking; takes time in proportion to segments. What can't be read is
 * tried again, for a second at most, and then left alone (KVSTOW_SEGMENT_UNREAD); if that is so of most segments,
 * an owner's opening fails with EIO and has changed nothing.
 * Errors: EINVAL, EBUDGET (below one segment), EBUSY (open already, here or in another process), EVERSION,
 * EGEOMETRY, ENOTSTORE, ECORRUPT (both copies of the super), EKEY (wrong, missing, or the store is not
 * encrypted), ENOENT, EACCES, ENOSPC, EIO, ENOMEM, EUNSUPPORTED (forced engine).
 *
 * EACCES also for what others could exchange: directories must belong to the effective user or to root (root
 * writes in anybody's) and, unless sticky, not be writable for everybody; the store's files must be regular,
 * belong to the effective user or to root, have one name each and not be writable for everybody. No link is
 * followed but in the directories' own paths. A missing directory is made, 0700; so are files, 0600. Readers
 * (read_only) insist on regular files alone. */
KVSTOW_API int kvstow_tier_open(const kvstow_tier_options *options, kvstow_tier **tier, char *why,
                                size_t why_bytes);

/* Completes what is in flight, writes the footers of open segments, flushes, frees. NULL is fine.
 * Blocking. The error is that of the last flush; the handle is gone in any case, but for ESTATE: this is a
 * forked child, and nothing was done. */
KVSTOW_API int kvstow_tier_close(kvstow_tier *tier);

/* The store's uuid and hash seed, made at creation. */
KVSTOW_API void kvstow_tier_identity(const kvstow_tier *tier, uint8_t uuid[KVSTOW_UUID_BYTES],
                                     uint64_t *hash_seed);

/* Copies the text of the newest error on this handle: the call or the file, the offset or the argument, and
 * the cause. Every error has one but ENOMEM, and what a read may well end with: EMISS, ECANCELED,
 * ETIMEDOUT. A flush tells of the first write that has failed since the one before. Any thread. */
KVSTOW_API void kvstow_tier_message(const kvstow_tier *tier, char *text, size_t bytes);

/* Any time, any thread; holds from the next read on. EINVAL: a field is out of its range (nothing is
 * changed, kvstow_tier_message() names it). */
KVSTOW_API int kvstow_tier_set_tuning(kvstow_tier *tier, const kvstow_tuning *tuning);
KVSTOW_API void kvstow_tier_get_tuning(const kvstow_tier *tier, kvstow_tuning *tuning);

/* ---- records -------------------------------------------------------------------------------- */

/* A record described: made by the caller for record_format, by the tier for scan. */
typedef struct kvstow_record {
  kvstow_key key;
  kvstow_loc loc;                /* set by the tier */
  uint32_t planes;               /* >= 1 */
  uint32_t plane_bytes;          /* stride; multiple of 4096 */
  uint32_t part_bytes;           /* where a plane's second part begins; 0: it has one part. Not
                                    told by scan. */
  uint64_t written_s;            /* Unix time of the append, set by the tier; advisory */
  uint8_t tag[KVSTOW_TAG_BYTES]; /* the caller's; repeated in the segment's footer */
} kvstow_record;

/* Bytes left in a header page for the owner's description beside `planes` checksums; negative when
 * even the checksums do not fit. */
KVSTOW_API int64_t kvstow_record_owner_max_bytes(uint32_t planes);

/* The same in this store: encryption takes 12 bytes a plane and 32 more. An append of a record that leaves
 * less is ETOOBIG. */
KVSTOW_API int64_t kvstow_tier_owner_max_bytes(const kvstow_tier *tier, uint32_t planes);

/* Writes a header page: identity, geometry, the owner's description; checksums zero. `page` is a
 * 4 KiB aligned page. The tier completes it (uuid, generation, location, page checksum) at append.
 * EINVAL if it does not fit. */
KVSTOW_API int kvstow_record_format(void *page, const kvstow_record *record, const void *owner,
                                    uint32_t owner_bytes);

/* The plane checksums inside a header page: `planes` values of kvstow_plane_checksum(). The caller
 * fills them before append. Stored little-endian. */
KVSTOW_API uint64_t *kvstow_record_sums(void *page);

/* The owner's description inside a header page, and its length. */
KVSTOW_API const void *kvstow_record_owner(const void *page, uint32_t *bytes);

/* Reads the descriptive fields of a header page back (no checks). */
KVSTOW_API void kvstow_record_parse(const void *page, kvstow_record *record);

/* XXH3-64 with seed 0. */
KVSTOW_API uint64_t kvstow_checksum(const void *bytes, size_t length);

/* The checksum of a plane: kvstow_checksum() of its bytes; where it has two parts, which may then be summed
 * side by side while they grow, that of the parts' two checksums (16 bytes, little-endian).
 * part_bytes: as in kvstow_record; 0 also where it does not lie inside the plane. */
KVSTOW_API uint64_t kvstow_plane_checksum(const void *plane, uint32_t plane_bytes,
                                          uint32_t part_bytes);

/* ---- append --------------------------------------------------------------------------------- */

typedef struct kvstow_record_write {
  void *header;        /* formatted, checksums filled */
  const void *payload; /* planes * plane_bytes */
  bool run_start;      /* begins a chain: starts on a 64 KiB boundary. Others are packed. */
  kvstow_loc loc;      /* out: set when append returns 0 */
  int result;          /* out: set when done runs */
} kvstow_record_write;

/* Called once when every write of the batch has completed; `result` is the first error or 0. */
typedef void (*kvstow_append_done)(void *arg, int result);

/* Appends a batch in order, as sequential vectored writes straight from the buffers; asynchronous.
 * The records are readable by location once done has run. `writes` and its buffers stay the tier's
 * until then. One record is never split over segments; a batch may be.
 * Errors (nothing was taken, done will not run): EINVAL, ETOOBIG (larger than a segment), ENOSPC (no
 * free segment: reclaim one and try again; an open segment that is too full has been sealed, so that it
 * can be reclaimed too), EOFFLINE, EACCES (read_only), ENOMEM, EIO. */
KVSTOW_API int kvstow_tier_append(kvstow_tier *tier, kvstow_record_write *writes, size_t count,
                                  kvstow_append_done done, void *arg);

/* How many leading records of the batch would fit without reclaiming a segment. */
KVSTOW_API size_t kvstow_tier_fits(const kvstow_tier *tier, const kvstow_record_write *writes,
                                   size_t count);

/* Makes durable all records whose append has been accepted. One barrier for all. Blocking. EIO, ENOSPC: not
 * all of them. What a disk has refused once it is not asked for again: those segments are `unsure`, and every
 * flush fails until they have been reclaimed. */
KVSTOW_API int kvstow_tier_flush(kvstow_tier *tier);

/* ---- read ----------------------------------------------------------------------------------- */

typedef enum kvstow_priority { KVSTOW_DEMAND = 0, KVSTOW_PREFETCH = 1 } kvstow_priority;

typedef struct kvstow_record_read kvstow_record_read;
typedef void (*kvstow_read_done)(kvstow_record_read *read);

/* One record, or consecutive planes of one, into the caller's buffers. */
struct kvstow_record_read {
  kvstow_key key;
  kvstow_loc loc;
  uint32_t plane_bytes; /* as stored */
  uint32_t plane_first;
  uint32_t plane_count; /* 0: the header alone */
  void *header;         /* out: the 4 KiB header page */
  void *payload;        /* out: plane_count * plane_bytes, or NULL with plane_count 0 */
  kvstow_priority priority;
  uint64_t deadline_us; /* CLOCK_MONOTONIC; not sent to the device by then: ETIMEDOUT. 0: none */
  kvstow_read_done done;
  void *arg;  /* the caller's */
  int result; /* out: 0, EMISS (recycled), ECORRUPT, EIO, ECANCELED, ETIMEDOUT */
  struct kvstow_record_read *next_internal; /* the tier's */
  void *job_internal;                       /* the tier's */
};

/* Reads a batch; asynchronous: each read's done runs once. Sorted by location, neighbours within
 * the merge distance become one vectored device read into their own buffers. 0, or EINVAL or ENOMEM
 * (none was taken). */
KVSTOW_API int kvstow_tier_read_batch(kvstow_tier *tier, kvstow_record_read *const *reads,
                                      size_t count);

/* Asks that a read not yet sent to the device complete with ECANCELED; done still runs. A read in
 * flight can't be recalled: the device owns its buffers until done. */
KVSTOW_API void kvstow_tier_cancel(kvstow_tier *tier, kvstow_record_read *read);

/* Raises a queued prefetch to demand priority. */
KVSTOW_API void kvstow_tier_urge(kvstow_tier *tier, kvstow_record_read *read);

/* ---- files ---------------------------------------------------------------------------------- */

/* A file that is not part of the log. Bytes come as the file system gives them: there is nothing to check
 * them against. O_DIRECT where the file system has it (kvstow_file_direct tells).
 *
 * Best served are reads whose offset, length and memory are multiples of 4 KiB, or at least whose memory
 * lies as far beyond a 4 KiB boundary as their offset: they land where they are wanted. Others, and the
 * ends of these, are copied once.
 *
 * Reads in order are recognised a stream at a time (>= 16 at once in one file; 64 KiB of tolerance, forwards
 * or backwards; a jump ends a stream), and what comes next is read ahead into memory of the tier's:
 * the window grows while it is used and shrinks while it is not. A caller who has a first window's worth
 * in flight himself is left alone. What was read ahead is as old as that: a file that others change
 * meanwhile is to be opened anew. */
typedef struct kvstow_file kvstow_file;

/* Opens a regular file for reading. ENOENT, EACCES, EINVAL (not a regular file), EIO, ENOMEM; the tier's
 * message names the path. Blocking. */
KVSTOW_API int kvstow_file_open(kvstow_tier *tier, const char *path, kvstow_file **file);

/* Makes a file of at most `bytes` for appending (and reading what has been flushed), its blocks reserved,
 * mode 0600. EEXIST if there is one already; ENOSPC, ENOENT, EACCES, EIO, ENOMEM. Blocking. */
KVSTOW_API int kvstow_file_create(kvstow_tier *tier, const char *path, uint64_t bytes,
                                  kvstow_file **file);

/* Bytes in it: at open, or appended so far. */
KVSTOW_API uint64_t kvstow_file_bytes(const kvstow_file *file);
KVSTOW_API bool kvstow_file_direct(const kvstow_file *file);

typedef struct kvstow_file_read kvstow_file_read;
typedef void (*kvstow_file_read_done)(kvstow_file_read *read);

struct kvstow_file_read {
  kvstow_file *file;
  uint64_t offset; /* any */
  size_t bytes;    /* any; a range beyond the end is EINVAL */
  void *to;        /* the tier's until done */
  kvstow_priority priority;
  uint64_t deadline_us; /* as kvstow_record_read.deadline_us */
  kvstow_file_read_done done;
  void *arg;          /* the caller's */
  int result;         /* out: 0, EIO, EINVAL, ECANCELED, ETIMEDOUT */
  void *job_internal; /* the tier's */
};

/* Reads a batch; asynchronous; `done` runs once for each, maybe before this returns. Sorted and merged as
 * records are. 0, or EINVAL or ENOMEM (none was taken). */
KVSTOW_API int kvstow_file_read_batch(kvstow_tier *tier, kvstow_file_read *const *reads,
                                      size_t count);
/* As kvstow_tier_cancel. */
KVSTOW_API void kvstow_file_cancel(kvstow_tier *tier, kvstow_file_read *read);

/* Reads one range. Blocking; on the caller's own thread where nothing is to be merged. */
KVSTOW_API int kvstow_file_read_at(kvstow_file *file, uint64_t offset, void *to, size_t bytes);

/* Appends; any size. Gathered into aligned writes of 1 MiB or more that go out in the background; waits only
 * when 31 MiB are on their way. One thread at a time a file. ENOSPC past the size reserved; EIO also for an
 * earlier write of this file; EACCES: it was opened for reading. */
KVSTOW_API int kvstow_file_append(kvstow_file *file, const void *bytes, size_t count);
/* Makes durable what has been appended; the file's size is then exact. Blocking. A write or barrier that
 * failed once fails this for good. */
KVSTOW_API int kvstow_file_flush(kvstow_file *file);

/* Flushes what was appended, waits for reads, frees. NULL is fine. Before the tier's close. */
KVSTOW_API int kvstow_file_close(kvstow_file *file);

/* ---- segments ------------------------------------------------------------------------------- */

typedef enum kvstow_segment_state {
  KVSTOW_SEGMENT_FREE = 0,
  KVSTOW_SEGMENT_OPEN,
  KVSTOW_SEGMENT_SEALED,
  KVSTOW_SEGMENT_RECLAIMED, /* given up, reads in flight; free when they end */
  KVSTOW_SEGMENT_BAD,       /* its device failed a write; read only, not used again */
  /* What it holds could not be read at opening, however often it was tried. Nothing of it is known, nothing is
   * written there: another opening may find it all. Until then it takes up room: reclaiming it gives that */
  KVSTOW_SEGMENT_UNREAD,
} kvstow_segment_state;

typedef struct kvstow_segment_info {
  kvstow_segment_state state;
  uint32_t generation;
  uint32_t records;    /* appended, erased ones included */
  uint32_t dir;        /* index into dirs */
  bool unsure;         /* BAD, and a barrier failed: its records may not survive power loss */
  bool offline;        /* its directory is: reclaiming it gives no room */
  uint64_t used_bytes; /* from the front, padding included */
  uint64_t segment_bytes;
  uint64_t opened_s; /* Unix time of its first record */
} kvstow_segment_info;

/* Slots for segments under the budget; ids are below it. Slots without a file are FREE. */
KVSTOW_API uint32_t kvstow_tier_segment_count(const kvstow_tier *tier);

/* EINVAL for an id past the count. */
KVSTOW_API int kvstow_tier_segment(const kvstow_tier *tier, uint32_t id, kvstow_segment_info *info);

/* Calls `each` for every record of a segment that is not erased, in the order appended, from its footer
 * (or its memory, if open). `each` returns false to stop. Blocking. EIO, ECORRUPT: the footer can't be
 * read; EIO also of an unread one. */
KVSTOW_API int kvstow_tier_scan(kvstow_tier *tier, uint32_t segment,
                                bool (*each)(void *arg, const kvstow_record *record), void *arg);

/* Gives a sealed, unread or bad segment up: its locations die now; but for a bad one, the file is overwritten later.
 * ESTATE in other states. Does not block. */
KVSTOW_API int kvstow_tier_reclaim(kvstow_tier *tier, uint32_t segment);

/* Seals the open segments now, so that all they hold can be reclaimed. Blocking. ENOMEM: some are open
 * still; EACCES (read_only). What a disk refuses of it is the next flush's error. */
KVSTOW_API int kvstow_tier_seal(kvstow_tier *tier);

/* Erases records for good: overwrites their header pages and footer entries, then flushes. Dead
 * locations are skipped. All segments given up and not yet reused are wiped too, also with a count of
 * 0; and all unread ones with a count of 0, or with a location in one. Blocking. EIO, ENOMEM: not all of
 * them, the others are; a second erase does the rest. EACCES (read_only). */
KVSTOW_API int kvstow_tier_erase(kvstow_tier *tier, const kvstow_loc *locs, size_t count);

/* ---- statistics ----------------------------------------------------------------------------- */

/* A predictor's account: what it read ahead of demand, and what became of it. */
typedef struct kvstow_prefetch_stats {
  uint64_t issued; /* units (cache: blocks or planes; files: optimal blocks) asked for */
  uint64_t used;   /* of them wanted afterwards */
  uint64_t wasted; /* dropped without having been wanted */
  uint64_t late;   /* of the used: those whose caller still had to wait */
} kvstow_prefetch_stats;

typedef struct kvstow_tier_stats {
  size_t size;
  const char *engine;      /* "io_uring" or "threads"; static storage */
  char engine_reason[128]; /* why this one */
  bool direct_io;          /* O_DIRECT on every directory */
  bool encrypted;
  bool offline;          /* every directory is */
  uint32_t dirs_offline; /* nothing is appended there any more, after writes failed in three
                              segments in a row; what is there can still be read */
  uint32_t segments, segments_free, segments_sealed, segments_bad;
  uint64_t budget_bytes, disk_bytes;       /* disk_bytes: allocated by all files now */
  uint64_t records_written, bytes_written; /* headers, padding and footers included */
  uint64_t bytes_written_today;            /* since 00:00 UTC, this process */
  uint64_t records_read, bytes_read;       /* asked for */
  uint64_t read_requests;                  /* asked of the scheduler */
  uint64_t device_reads;                   /* sent to the device */
  uint64_t device_read_bytes;              /* gaps included */
  uint64_t merges;                         /* requests that rode along with another */
  uint64_t device_writes;
  uint64_t flushes;
  uint64_t io_errors, corrupt_headers, corrupt_planes, stale_reads, short_ios, retries;
  uint64_t recovered_records, recovered_segments, walked_segments;
  uint64_t recovery_us;
  /* files */
  uint64_t file_reads, file_bytes_read, file_bytes_appended;
  uint64_t sequential_reads; /* reads that continued a stream */
  uint64_t random_reads;     /* that began one, or broke one off */
  uint64_t streams_detected; /* runs that reached the threshold */
  uint64_t stream_resets;    /* of them ended by a jump */
  kvstow_prefetch_stats sequential;
  /* Times that a segment file could not be made: the budget had room for it, the file system had
   * not. The store does with those it has, and tries again after a minute. */
  uint64_t disk_full;
  uint32_t segments_unread;
} kvstow_tier_stats;

/* Fills *stats as far as stats->size goes: set it to sizeof(kvstow_tier_stats) first. */
KVSTOW_API void kvstow_tier_get_stats(const kvstow_tier *tier, kvstow_tier_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
