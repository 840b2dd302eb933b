/* tier/state.h - the tier's state, and who may touch it.
 *
 * Locks, in the only order in which they may be taken together (lock.h has the others', too):
 *
 *   barrier_lock   one flush, erase, seal or close at a time; held while waiting for the I/O thread
 *   append_lock    one placement at a time; never held while waiting for the I/O thread, because
 *                  completions (which run there) may append
 *   make_lock      one segment file is being made; held as long as that takes
 *   lock           the segment table, heads, tickets, message; short
 *   inbox_lock     what other threads send to the I/O thread; short
 *
 * Completions run with none of them held. Fields name their lock; `pump` is the I/O thread's alone.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_STATE_H
#define KVSTOW_TIER_STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "tier/cipher.h"
#include "tier/io.h"
#include "tier/lock.h"
#include "tier/rooms.h"
#include "tier/schedule.h"

#define KVSTOW__NO_SEGMENT UINT32_MAX
#define KVSTOW__READINGS_MAX 8u   /* of what can't be read, before that is believed */
#define KVSTOW__BAD_STREAK_MAX 3u /* segments spoiled in a row before a directory goes offline */
#define KVSTOW__SLOTS_MAX 1000000u
#define KVSTOW__NAME_BYTES 24u
#define KVSTOW__PATH_TEXT_BYTES 320u

typedef struct kvstow__pump kvstow__pump;
typedef struct kvstow__job kvstow__job;
typedef struct kvstow__batch kvstow__batch;
typedef struct kvstow__read_job kvstow__read_job;
typedef struct kvstow__readahead kvstow__readahead;
typedef struct kvstow__piece kvstow__piece;

/* kvstow_tuning as it is read while it may change. */
typedef struct kvstow__tuning {
  atomic_bool enable_prefetch, enable_io_scheduling;
  _Atomic uint32_t prefetch_threshold, read_ahead_blocks, merge_distance, optimal_block_size;
} kvstow__tuning;

void kvstow__tuning_set(kvstow__tuning *to, const kvstow_tuning *tuning);

/* A segment slot. Its records are reachable in the states OPEN, SEALED and BAD only, and only under
 * the sequence of its present life. UNREAD: nothing is known of them. Invariants: committed <= records;
 * committed_bytes <= used_bytes;
 * FREE has no pins but that of the job that ends its old life; entries != NULL in OPEN and BAD with
 * records, optional when SEALED. */
typedef struct kvstow__segment {
  kvstow_segment_state state; /* lock, as all below */
  kvstow__life life;          /* also of the last life, when FREE */
  bool has_file;
  bool ghost; /* a life given up is still legible on disk */
  bool ended; /* ... but for a footer that ends it, which is there, or a job on its way to be */
  bool dirty; /* written since the last barrier */
  bool footer_done; /* SEALED: its footer is on disk, entries are but a copy */
  bool headers_lie; /* some records are erased in its table alone: walking does not make it anew */
  bool unsure;      /* a barrier failed: what was written since the one before may be lost */
  bool given_up;    /* BAD, and its records are no longer reachable */
  bool resume;      /* reopened from a clean close: the disk says CLEAN until the next append */
  uint32_t pins;    /* reads, writes and upkeep in flight: the file is not reused meanwhile */
  uint32_t records, committed;          /* accepted; written */
  uint64_t used_bytes, committed_bytes; /* the same from the front of the file */
  uint64_t opened_s;
  uint64_t footer_sum; /* footer_done: that of the newest; no older one is believed. 0: unknown */
  uint64_t disk_bytes;
  kvstow__entry *entries;
  uint32_t entries_max;
  kvstow__job *jobs, **jobs_tail; /* pump: writes accepted for it, in order */
} kvstow__segment;

/* Where appending goes in one directory, and what it may open next. */
typedef struct kvstow__head {
  uint32_t segment;                /* KVSTOW__NO_SEGMENT: none open */
  uint32_t free_made, free_unmade; /* slots in the state FREE, with and without a file */
  uint32_t made_hint;              /* slot to look at first */
  uint32_t ready;                  /* the next one: its old life is ended ahead; or NO_SEGMENT */
  uint64_t denied_until_us;        /* no file could be made: not before then; CLOCK_MONOTONIC */
  uint32_t bad_streak;             /* segments spoiled since the last good write */
  bool offline;                    /* too many: nothing is appended here any more */
  bool wants_slot;                 /* the maker is to make a file for one */
} kvstow__head;

typedef struct kvstow__dir {
  char *path;
  int fd;
  int lock_fd;
  bool direct;
  uint64_t disk_bytes; /* super, lock, the directory itself */
} kvstow__dir;

/* Work on one segment's file, done in the order accepted. */
typedef enum kvstow__job_kind {
  KVSTOW__JOB_WRITE, /* records: its ops run in parallel, also with neighbours' */
  KVSTOW__JOB_END,   /* footer that ends an old life, then sync: nothing overtakes it */
  KVSTOW__JOB_BEGIN, /* likewise; footer that says that what was closed goes on */
  KVSTOW__JOB_SEAL,  /* sync, then footer: starts when all before it is done */
} kvstow__job_kind;

struct kvstow__job {
  kvstow__job_kind kind;
  uint32_t segment;
  kvstow__life life;
  bool started;
  bool inherited; /* the error is an earlier job's */
  int error;      /* errno */
  uint32_t ops_count, ops_left, ops_next;
  kvstow__op *ops;
  void *footer; /* page aligned; of all but WRITE */
  struct iovec footer_iov;
  uint64_t footer_sum;  /* its trailer's checksum */
  bool clean;           /* SEAL: a checkpoint at close */
  kvstow__batch *batch; /* WRITE */
  size_t first, count;  /* of the batch's writes */
  uint32_t records_after;
  uint64_t end_after;
  kvstow_tier *tier;
  kvstow__job *next;          /* of the segment; before that, of the inbox */
  kvstow__job *older, *newer; /* lock: all accepted and not finished, by ticket */
  uint64_t ticket;
};

struct kvstow__batch {
  kvstow_record_write *writes;
  size_t count;
  kvstow_append_done done;
  void *arg;
  uint8_t *
      sealed; /* what goes to disk instead of the writes' buffers, one record after another; NULL: they do */
  size_t jobs_left;
  int result;
  kvstow__batch *next;
};

/* One read in progress, of a record or of a file; a batch of them is one allocation. */
typedef struct kvstow__read_batch {
  size_t left;
} kvstow__read_batch;

struct kvstow__read_job {
  /* checks, calls done, frees; the bytes it has looked at */
  size_t (*finish)(kvstow_tier *tier, kvstow__read_job *job);
  kvstow_record_read *read; /* of a record */
  const kvstow_file *file;  /* NULL: of a record */
  kvstow__read_batch *batch;
  uint64_t deadline_us; /* CLOCK_MONOTONIC; 0: none */
  kvstow__life life;
  bool pinned;
  atomic_bool cancel, urgent;
  /* the I/O thread's from here on */
  uint8_t priority; /* as queued */
  bool header_good; /* has arrived and is the right one */
  uint8_t again;    /* bits: extents to be read once more when no sum is under way */
  uint32_t extents_left;
  uint32_t sums_left;   /* pieces whose planes are being summed */
  uint32_t *missing;    /* pages of each plane that have not arrived */
  kvstow__piece *early; /* came before the header */
  int error;            /* a KVSTOW_E code */
  int cause;            /* errno behind EIO */
  kvstow__extent extents[2];
  kvstow__read_job *next;
};

/* What one device request brought of one extent, and the planes it completed. */
struct kvstow__piece {
  kvstow__extent *extent;
  struct kvstow__read_request *request;
  uint64_t offset, length; /* in the extent */
  uint32_t plane, planes;  /* of the read, not of the record */
  uint32_t summed;         /* of the planes, from the front */
  kvstow__piece *next;
};

typedef struct kvstow__counters {
  _Atomic uint64_t records_written, bytes_written, records_read, bytes_read, read_requests,
      device_reads, device_read_bytes, merges, device_writes, flushes, io_errors, corrupt_headers,
      corrupt_planes, stale_reads, file_reads, file_bytes_read, file_bytes_appended,
      sequential_reads, random_reads, streams_detected, stream_resets, sequential_issued,
      sequential_used, sequential_wasted, sequential_late, disk_full;
} kvstow__counters;

struct kvstow_tier {
  kvstow__io io;
  pid_t pid; /* who opened it */
  const kvstow__engine_ops *engine;
  char engine_reason[128];
  kvstow__dir dirs[KVSTOW__DIRS_MAX];
  uint32_t dirs_count;
  bool read_only;
  bool direct_io;
  uint64_t budget_bytes;
  uint32_t segment_bytes;
  uint32_t segments_count;
  uint32_t files_count; /* >= segments_count; more only while opening */
  uint32_t queue_depth;
  uint64_t request_max_bytes;
  uint32_t readahead_bytes;
  kvstow__tuning tuning;
  _Atomic uint32_t files_opened;
  kvstow__readahead *readahead;
  uint8_t uuid[KVSTOW_UUID_BYTES];
  uint64_t hash_seed;
  kvstow__cipher *cipher; /* NULL: the store is not encrypted */
  kvstow__rooms *rooms;

  kvstow__mutex barrier_lock;
  kvstow__mutex append_lock;
  kvstow__mutex make_lock;

  kvstow__mutex lock;
  kvstow__segment *segments;                   /* lock */
  kvstow__head heads[KVSTOW__DIRS_MAX];        /* lock; its segment changes under append_lock too */
  uint32_t cursor;                             /* likewise: the directory of the last run */
  uint64_t next_sequence;                      /* lock */
  uint64_t next_ticket;                        /* lock */
  kvstow__job *jobs_oldest, *jobs_newest;      /* lock */
  pthread_cond_t jobs_finished;                /* with lock */
  int write_error;                             /* lock: not yet reported by a flush */
  char write_cause[KVSTOW_MESSAGE_BYTES];      /* lock: the same in words; kept after that */
  uint32_t *dirty;                             /* lock: the segments that have the dirty mark */
  uint32_t dirty_count;                        /* lock */
  uint64_t today, today_since_us, today_bytes; /* lock; job.c: kvstow__written_today */
  char message[KVSTOW_MESSAGE_BYTES];          /* lock */

  kvstow__mutex inbox_lock;
  kvstow__op *inbox_ops, **inbox_ops_tail;           /* inbox_lock */
  kvstow__job *inbox_jobs, **inbox_jobs_tail;        /* inbox_lock */
  kvstow__read_job *inbox_reads, **inbox_reads_tail; /* inbox_lock */
  bool inbox_sweep;                                  /* inbox_lock: cancel or urge was called */
  bool stopping;                                     /* inbox_lock */
  bool asleep;                                       /* inbox_lock: the I/O thread needs a wake() */

  kvstow__mutex read_lock; /* read->job_internal of reads under way; a leaf */

  pthread_t maker;
  bool maker_started, maker_stops; /* lock */
  pthread_cond_t slot_wanted;      /* with lock */

  pthread_t thread;
  bool thread_started;
  kvstow__pump *pump;

  kvstow__counters counters;
  kvstow__io_counters io_counters;
  uint64_t recovered_records, recovered_segments, walked_segments, recovery_us; /* set at open */
};

static inline void kvstow__count(_Atomic uint64_t *counter, uint64_t by) {
  atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

static inline uint32_t kvstow__dir_of(const kvstow_tier *tier, uint32_t segment) {
  return segment % tier->dirs_count;
}

static inline uint64_t kvstow__now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static inline uint64_t kvstow__now_s(const kvstow_tier *tier) {
  return tier->io.files->now_s(tier->io.env);
}

/* message.c: records the newest error for kvstow_tier_message and returns `code`. Takes lock. */
int kvstow__fail(kvstow_tier *tier, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same of a write or barrier. The first since a flush is what the next one tells, too. */
int kvstow__fail_write(kvstow_tier *tier, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* EACCES, EINVAL: what `call` must not do, a segment that it has not. */
int kvstow__fail_read_only(kvstow_tier *tier, const char *call);
int kvstow__fail_segment(kvstow_tier *tier, const char *call, uint32_t segment);
int kvstow__code_of_errno(int error);
/* The same for a file of a directory that could not be opened, or for the directory (name NULL), with the reason. */
int kvstow__fail_open(kvstow_tier *tier, const kvstow__dir *dir, const char *name, int error);
void kvstow__segment_name(char name[KVSTOW__NAME_BYTES], uint32_t segment);
/* "dir/seg-000001.kvs" */
const char *kvstow__segment_path(const kvstow_tier *tier, uint32_t segment,
                                 char text[KVSTOW__PATH_TEXT_BYTES]);

/* segment.c: the first eight with `lock` held; the others block, without locks. */
/* One that was never used. Its sequence is higher than all before. */
kvstow__life kvstow__life_new(kvstow_tier *tier);
bool kvstow__segment_alive(const kvstow__segment *segment, uint32_t generation);
void kvstow__segment_unpin(kvstow_tier *tier, kvstow__segment *segment);
void kvstow__segment_become(kvstow_tier *tier, kvstow__segment *segment,
                            kvstow_segment_state state);
void kvstow__segment_soil(kvstow_tier *tier, kvstow__segment *segment); /* marks it dirty */
int kvstow__entries_reserve(kvstow__segment *segment, uint64_t records);
void kvstow__segment_spoil(kvstow_tier *tier, uint32_t id); /* a write failed: BAD */
void kvstow__segment_doubt(kvstow_tier *tier, uint32_t id); /* a barrier did: and unsure */
uint32_t kvstow__dirs_offline(const kvstow_tier *tier);
/* Reads, and waits; an errno. */
int kvstow__read_at(kvstow_tier *tier, uint32_t file, void *to, uint64_t bytes, uint64_t offset);
/* The same, but a read that fails is tried again, KVSTOW__READINGS_MAX times in all. */
int kvstow__read_patiently(kvstow_tier *tier, uint32_t file, void *to, uint64_t bytes,
                           uint64_t offset);
/* Reads the header page of a record of the given life (sequence 0: any), and decrypts it. KVSTOW_EMISS: there is
 * none; EIO (patiently), ENOMEM. */
int kvstow__read_header(kvstow_tier *tier, uint32_t id, kvstow__life life, uint64_t at, void *page);
/* Walks header pages from *end_offset on, adding to *entries; a life of 0 becomes that of the first
 * record. A header page that can't be read costs its record: what lies there is added as an erased one, unless it is
 * the last. EIO: much can't be read, or the first. */
int kvstow__walk(kvstow_tier *tier, uint32_t id, kvstow__life *life, kvstow__entry **entries,
                 uint32_t *records, uint64_t *end_offset);
/* Fills and seals a footer image of kvstow__footer_bytes(records), page aligned. An errno. */
int kvstow__footer_fill(kvstow_tier *tier, void *image, kvstow__trailer_state state,
                        kvstow__life life, uint64_t opened_s, uint64_t end_offset,
                        const kvstow__entry *entries, uint32_t records);
/* Checks and decrypts a table just read, in place: ECORRUPT, ENOMEM. */
int kvstow__table_open(const kvstow_tier *tier, const kvstow__trailer *trailer, void *table);
/* Reads and checks footer and table; ECORRUPT or EIO if there is none for this life (0: any). */
int kvstow__footer_load(kvstow_tier *tier, uint32_t id, kvstow__life life, kvstow__trailer *trailer,
                        kvstow__entry **entries);
/* Reads a segment's table: from memory, its footer, or by walking. The segment is pinned or the tier
 * is opening. *entries is the caller's to free. */
int kvstow__table_load(kvstow_tier *tier, uint32_t id, kvstow__life life, kvstow__entry **entries,
                       uint32_t *records, uint64_t *end_offset);

/* read.c: cancels the read whose job_internal this is, if it is still under way. Any thread. */
void kvstow__read_cancel(kvstow_tier *tier, void *const *job_internal);

/* torn.c: marks those of the entries erased whose planes are not what their sums say. Blocking. */
int kvstow__torn_mark(kvstow_tier *tier, uint32_t id, kvstow__life life, kvstow__entry *entries,
                      uint32_t count);

void kvstow__batch_free(kvstow__batch *batch); /* append.c */
/* slots.c. A free slot of the directory, with a file or without one; NO_SEGMENT: there is none. lock held */
uint32_t kvstow__slot_find(kvstow_tier *tier, uint32_t dir, bool with_file);
/* Makes files until `wanted` free slots of the directory have one, as far as there are slots. Blocking, with
 * append_lock alone. A KVSTOW_E code. */
int kvstow__slots_make(kvstow_tier *tier, uint32_t dir, uint32_t wanted);
/* One ahead, if there is none, and ready to be written to. lock held */
void kvstow__slots_want(kvstow_tier *tier, uint32_t dir);
void kvstow__maker_start(kvstow_tier *tier);
void kvstow__maker_stop(kvstow_tier *tier);

/* append.c: adds the job that seals a head to *list; append_lock and lock held */
int kvstow__head_seal(kvstow_tier *tier, uint32_t dir, kvstow__job **list);

/* job.c */
/* Bytes written today, and `more` just now. The day ends when the clock says so; or, should the clock be set
 * back, 24 hours after it began: set to and fro it grants nothing twice. lock held */
uint64_t kvstow__written_today(kvstow_tier *tier, uint64_t more);
void kvstow__jobs_issue(kvstow_tier *tier, kvstow__job *list); /* lock held */
void kvstow__jobs_wait(kvstow_tier *tier);                     /* all accepted until now */
void kvstow__job_enter(kvstow_tier *tier, kvstow__job *job);   /* on the I/O thread */
kvstow__job *kvstow__footer_job(kvstow_tier *tier, kvstow__job_kind kind, uint32_t segment,
                                kvstow__life life, uint64_t opened_s, uint64_t end_offset,
                                const kvstow__entry *entries, uint32_t records, bool clean);
/* Ends what a slot's file shows, by the footer of a life without records: newer than all in the file, older than what
 * will be. To be issued with `ended` set. lock held */
kvstow__job *kvstow__end_job(kvstow_tier *tier, uint32_t segment, kvstow__life life);
void kvstow__job_free(kvstow__job *job);

/* read.c, on the I/O thread. Sums planes of the piece, about `bytes` at a time; adds what it did to *done. True: through. */
bool kvstow__read_sum(kvstow_tier *tier, kvstow__piece *piece, uint64_t bytes, uint64_t *done);

/* verify.c. A KVSTOW_E code each; the message tells place, expected and found. */
int kvstow__verify_header(kvstow_tier *tier, const kvstow__read_job *job); /* and decrypts it */
/* Decrypts and sums the piece's next planes, at least one and about `bytes` of them; adds what it summed to *done.
 * The piece is through when all are summed or one was wrong. */
int kvstow__verify_planes(kvstow_tier *tier, kvstow__piece *piece, uint64_t bytes, uint64_t *done);
int kvstow__verify_unread(kvstow_tier *tier, const kvstow__read_job *job); /* EIO */

/* recover.c */
int kvstow__recover(kvstow_tier *tier);

#endif
