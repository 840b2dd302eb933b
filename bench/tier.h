/* tier.h - what the parts of `kvstow bench tier` share: cells, who takes turns in them, one timed run.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_BENCH_TIER_H
#define KVSTOW_BENCH_TIER_H

#include <kvstow/tier.h>
#include <pthread.h>
#include <stdatomic.h>

#include "bench/frame.h"
#include "bench/measure.h"
#include "bench/raw_uring.h"
#include "bench/scratch.h"

enum tier_op {
  TIER_WRITE,       /* kvstow_file_append into a new file, then a flush */
  TIER_READ,        /* a file, in order */
  TIER_RANDOM,      /* a file, blocks evenly at random */
  TIER_FRAGMENTED,  /* a file, batches of neighbouring blocks, each shuffled */
  TIER_APPEND,      /* records, over segments written before, then a flush */
  TIER_RECORD_READ, /* records in order, checksums verified */
  TIER_OPS,
};

/* What is done, in which pieces, how many in flight. */
struct tier_cell {
  enum tier_op op;
  uint32_t block_bytes; /* of a record: its payload */
  unsigned depth;
  size_t count; /* blocks moved in a run */
};

/* Who takes turns in a cell, the bare loop apart. */
struct tier_way {
  kvstow_engine engine;
  bool prefetch, scheduling;
  bool again; /* one that runs already: what tells the two apart is noise */
};

/* One run of one way, or of the limit. */
struct tier_sample {
  struct measure_span span;
  uint64_t bytes;        /* moved */
  uint64_t device_reads; /* of the tier */
  kvstow_prefetch_stats prefetch;
  struct measure_latency latency; /* of a block */
};

enum {
  TIER_ENGINES = 2,    /* uring, threads */
  TIER_FRAGMENTS = 64, /* blocks in a fragmented batch */
  /* The limit of what is written is a large request at a good depth, whatever the pieces it comes in. */
  TIER_WRITE_BLOCK_BYTES = 1 << 20,
  TIER_WRITE_DEPTH = 16,
  TIER_APPEND_BATCHES = 4, /* of records on their way; the limit takes 16 requests of 1 MiB */
  TIER_RECORD_LEAST_BYTES = 64 << 10, /* a record's payload */
};
extern const kvstow_engine tier_engines[TIER_ENGINES];
int tier_engine_index(kvstow_engine engine);
const char *tier_engine_name(kvstow_engine engine);
const char *tier_op_name(enum tier_op op);

struct tier_log;

struct tier_bed {
  const struct bench_args *args;
  struct bench_report *report;
  char dir[BENCH_PATH_BYTES];
  char path[BENCH_PATH_BYTES + 16]; /* the file that is read */
  int fd;                           /* the same, as the limit reads it */
  uint64_t file_bytes;
  bool direct;                     /* or all is dropped from the page cache before each run */
  kvstow_tier *tier[TIER_ENGINES]; /* without a log */
  struct tier_log *log[TIER_ENGINES];
  int log_limit_fd; /* a file written before, as large as a run's records */
  uint64_t log_limit_bytes;
  char *memory; /* buffers, or what is written; its own offsets are its content's */
  size_t memory_bytes;
  uint64_t *offsets; /* of the blocks of a run, in the order they are wanted */
  double memcpy_mb_s;
  bool fio;            /* runs, too */
  unsigned generation; /* of what was written last: no two runs write the same */
  bool every_byte;     /* compared, not just both ends of each block; not timed then */
};

/* To the report, with the tier's own words; false. */
bool tier_fail(struct tier_bed *bed, const kvstow_tier *tier, const char *what, int rc);
kvstow_tier *tier_of(const struct tier_bed *bed, const struct tier_way *way);
bool tier_tune(struct tier_bed *bed, kvstow_tier *tier, const struct tier_way *way);

/* What the file holds: words that differ from one another. */
enum { TIER_FILE_SEED = 1 };
/* True if the first and last words of a block, or, with every_byte, all, are those of `offset` in what was
 * made from `seed`. */
bool tier_block_is(const struct tier_bed *bed, const void *block, size_t bytes, uint64_t seed,
                   uint64_t offset);

/* Fills the memory with what no run has written before. */
void tier_make_content(struct tier_bed *bed, size_t bytes);
uint64_t tier_content_seed(const struct tier_bed *bed);

/* Runs the bare loop; one that writes makes its file durable within the time. False: the report says why. */
bool tier_run_raw(struct tier_bed *bed, const struct raw_uring_job *job,
                  struct tier_sample *sample);
bool tier_limit_failed(struct tier_bed *bed, int rc);

/* One run, timed, its bytes checked; false: the report says why. */
typedef bool tier_run(struct tier_bed *bed, const struct tier_cell *cell,
                      const struct tier_way *way, struct tier_sample *sample);
/* The same of a bare loop, over a ring or by a pool of threads. */
typedef bool tier_limit(struct tier_bed *bed, const struct tier_cell *cell, bool threads,
                        struct tier_sample *sample);

/* tier_file.c: reading the file. */
int tier_file_make(struct tier_bed *bed); /* 0 or a negative errno */
/* Fills bed->offsets: the limit and all ways of a round read the same blocks in the same order. */
void tier_file_plan(struct tier_bed *bed, const struct tier_cell *cell, unsigned round);
tier_run tier_file_run;
tier_limit tier_file_limit;

/* tier_write.c: writing another. */
tier_run tier_write_run;
tier_limit tier_write_limit;

/* tier_log.c: records. open: segments of both engines that have all been written, for records of up to `bytes`
 * in a run. */
bool tier_log_open(struct tier_bed *bed, size_t bytes);
void tier_log_close(struct tier_bed *bed);
tier_run tier_log_run;
tier_limit tier_log_limit;

/* ---- what came of it: tier_report.c ------------------------------------------------------------ */

enum { TIER_WAYS_MAX = 7, TIER_LIMITS = 2, TIER_FIO_ROUNDS = 3 };

/* What a way did, or a limit, a round an entry. */
struct tier_series {
  unsigned rounds; /* of the ways, as many as a verdict needs */
  double seconds[MEASURE_ROUNDS_MAX], cpu_s[MEASURE_ROUNDS_MAX];
  uint64_t bytes; /* of a round */
  uint64_t device_reads;
  kvstow_prefetch_stats prefetch;
  struct measure_latency latency;
};

struct tier_contest {
  struct tier_bed *bed;
  struct tier_cell cell;
  struct tier_way ways[TIER_WAYS_MAX];
  size_t ways_count;
  struct tier_series
      series[TIER_WAYS_MAX + TIER_LIMITS]; /* after the ways' the limits': ring, threads */
  double fio[TIER_FIO_ROUNDS];
  size_t fio_count;
};

/* Whether more rounds of its ways could tell what can't be told yet. `random`: for all random cells together. */
bool tier_report_open(const struct tier_contest *contest);
bool tier_report_random_open(struct tier_contest *const *contests, size_t count);
/* Rows, targets and notes. */
void tier_report(struct tier_bed *bed, struct tier_contest *const *contests, size_t count);
/* Prints the tables, frees the report, and returns the exit code. */
int tier_report_end(struct tier_bed *bed);

/* tier_flow.c: many in flight. */
struct tier_flow;

/* One of the requests in flight. */
struct tier_slot {
  struct tier_flow *flow;
  size_t number, index; /* of the slot; of its block */
  uint64_t sent_ns;
  _Atomic int state;
  union {
    kvstow_file_read file;
    kvstow_record_read record;
  } read;
};

/* `depth` requests in flight until `count` have been done: each completion sends the next. */
struct tier_flow {
  struct tier_bed *bed;
  const struct tier_cell *cell;
  kvstow_tier *tier;
  void *of;                            /* what send and check need */
  int (*send)(struct tier_slot *slot); /* block slot->index; completes by tier_flow_done */
  bool (*check)(struct tier_slot *slot);
  struct measure_latency *latency;
  struct tier_slot *slots; /* the rest is tier_flow.c's */
  pthread_mutex_t lock;
  pthread_cond_t idle;
  size_t next, active;
  int rc;
  bool wrong;
};

/* 0 or the first error; flow->wrong: a check failed. */
int tier_flow_run(struct tier_flow *flow);
/* To be called by a read's completion. */
void tier_flow_done(struct tier_slot *slot, int result);

#endif
