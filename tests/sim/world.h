/* world.h - what a seed draws, what the model knows, and how a failure is told.
 *
 * A seed is a few lives of one store; each life is a process that ends with a close, a kill or a loss of
 * power, and leaves the disk and the model to the next.
 *
 * The model. Blocks are the nodes of token trees, one tree an owner: a salt in a space. The trees are
 * alike, so that only salts and spaces keep owners apart. What a block holds is a function of its node
 * and of the node's life, which changes when the node was forgotten: bytes of an earlier life are wrong
 * bytes. An owner may have two users.
 *
 *   world.c   the plan of a seed            users.c   what users do, call by call
 *   model.c   nodes, paths, promises        flights.c  asynchronous calls
 *   life.c    opening, closing, a life      filer.c   a user of files outside the log
 *   report.c  shrinking, totals             sim.c     the command
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TESTS_SIM_WORLD_H
#define KVSTOW_TESTS_SIM_WORLD_H

#include "tests/sim/disk.h"
#include "tests/sim/sched.h"
#include "tests/support/kv.h"

enum {
  USERS_MAX = 3,
  FILER = USERS_MAX, /* the user of files */
  ACTORS = USERS_MAX + 1,
  SPACES_MAX = 2,
  NODES = 40, /* an owner */
  DEPTH_MAX = 6,
  LIVES_MAX = 5, /* the last one reads everything */
  OPS_MAX = 400, /* a user, a life */
  BLOCK_TOKENS_MAX = 16,
  LAYERS_MAX = 7,
  SIM_FAILED = 99, /* exit status of a life */
  SIM_HUNG = 98,
};

/* ---- what a seed draws ---------------------------------------------------------------------- */

typedef struct life_plan {
  uint64_t ram_bytes, ssd_bytes;
  sim_engine engine;
  sim_faults faults;
  bool rude; /* tries to close with everything still open */
} life_plan;

typedef struct plan {
  unsigned users, lives, ops, dirs;
  unsigned spaces;
  kv_shape shape[SPACES_MAX];
  unsigned owner[USERS_MAX];
  unsigned files;             /* users of files: 0 or 1 */
  bool ample;                 /* the SSD holds everything: nothing is evicted */
  bool errors;                /* disks fail and say so */
  bool reads_fail_at_opening; /* of those errors, but never later */
  bool slow, lost;            /* disks take their time; completions get lost */
  bool lies;
  bool one_dies; /* of two directories */
  uint64_t write_bytes_a_day;
  bool encrypted;
  life_plan life[LIVES_MAX];
} plan;

extern plan the_plan;
extern uint64_t the_seed;
extern unsigned the_life;
extern bool tracing;

void plan_make(uint64_t seed);
bool healthy(void); /* disks only lose power */

static inline unsigned space_of(unsigned owner) {
  return owner % the_plan.spaces;
}

static inline const kv_shape *shape_of(unsigned owner) {
  return &the_plan.shape[space_of(owner)];
}

/* ---- what the model knows ------------------------------------------------------------------- */

typedef struct node {
  int16_t parent; /* -1: the root */
  uint8_t depth;  /* 0: the first block */
  uint32_t life;
  uint32_t forgets; /* begun */
  bool stored;      /* by a call that began, in this life of the node */
  bool settled;     /* by a call that returned 0 and said so */
  bool durable;     /* settled before a flush that returned 0 */
} node;

enum { FILES_MAX = 10, FILE_RESERVE_MAX = SIM_FILE_BYTES };

typedef struct file {
  bool made;         /* create returned 0 */
  uint64_t reserved; /* 0: no attempt to make it yet */
  uint64_t appended, flushed;
} file;

/* X(name, text): calls whose duration is bounded and reported, in virtual time. */
#define SIM_CALLS(X)                                                                               \
  X(OPEN, "open")                                                                                  \
  X(MATCH, "match, exists, prefetch, pin")                                                         \
  X(SMALL, "cancel, release, tuning, statistics")                                                  \
  X(STORE, "store, reserve: over their time-out")                                                  \
  X(APPEND, "commit, seq_append")                                                                  \
  X(READ, "read, view, lease_wait: over their time-out")                                           \
  X(QUEUE, "queue_poll: over its time-out")                                                        \
  X(FLIGHT, "an asynchronous call, until it is polled: over its time-out")                         \
  X(FORGET, "forget")                                                                              \
  X(FLUSH, "flush")                                                                                \
  X(CLOSE, "close")                                                                                \
  X(FILE, "files: a read, a write, a barrier")

typedef enum sim_call {
#define SIM_X(name, text) CALL_##name,
  SIM_CALLS(SIM_X)
#undef SIM_X
      CALLS
} sim_call;

/* X(name, member of kvstow_stats, text): what the engine must have come to do. */
#define SIM_DEEDS(X)                                                                               \
  X(RAM_EVICTIONS, ram_evictions, "blocks evicted from RAM")                                       \
  X(DEMOTED, demoted_blocks, "blocks demoted")                                                     \
  X(PROMOTED, promoted_blocks, "blocks promoted")                                                  \
  X(RECLAIMED, segments_reclaimed, "segments reclaimed")                                           \
  X(REINSERTED, reinserted_blocks, "blocks rewritten from reclaimed segments")                     \
  X(EVICTED, evicted_blocks, "blocks evicted from both")                                           \
  X(FORGOTTEN, forgotten_blocks, "blocks forgotten")                                               \
  X(REFUSED, admission_refused, "demotions refused for the daily budget")                          \
  X(CORRUPT, corrupt_blocks, "blocks found corrupt")                                               \
  X(FAILED_LOADS, failed_loads, "loads failed")                                                    \
  X(TIMEOUTS, timeouts, "time-outs")                                                               \
  X(CANCELS, cancels, "calls cancelled")                                                           \
  X(RECOVERED, recovered_blocks, "blocks recovered by an open")                                    \
  X(WALKED, tier.walked_segments, "segments walked by an open")                                    \
  X(MERGES, tier.merges, "reads merged")                                                           \
  X(BAD_HEADERS, tier.corrupt_headers, "headers refused")                                          \
  X(BAD_PLANES, tier.corrupt_planes, "planes refused")                                             \
  X(SHORT, tier.short_ios, "short transfers resumed")                                              \
  X(RETRIES, tier.retries, "requests repeated")

typedef enum sim_deed {
#define SIM_X(name, member, text) DEED_##name,
  SIM_DEEDS(SIM_X)
#undef SIM_X
      DEEDS
} sim_deed;

/* Shared by the lives of a seed. */
typedef struct model {
  node nodes[USERS_MAX][NODES];
  file files[FILES_MAX];
  uint8_t off[LIVES_MAX][ACTORS][OPS_MAX]; /* operations left out, when shrinking */
  uint64_t operations, opened, flushes_kept, bytes_compared;
  uint64_t crashes;           /* lives cut short, by the power or a kill */
  uint64_t reads_failed;      /* until this life's opening was over */
  uint64_t failures_at_flush; /* of the disk, until the last flush that returned 0 */
  uint64_t losses;            /* lose_promises() */
  uint64_t longest_ns[CALLS];
  uint64_t deeds[DEEDS]; /* of lives that were not cut short */
  char message[1024];
} model;

extern model *m;

void model_make(uint64_t seed);
uint64_t id_of(unsigned owner, int node);

/* The path to a node: its nodes, and tokens for all their blocks. */
typedef struct path {
  unsigned owner;
  int nodes[DEPTH_MAX];
  size_t blocks;
  kvstow_token tokens[DEPTH_MAX * BLOCK_TOKENS_MAX];
  char salt[8];
  kvstow_prefix prefix;
  uint64_t ids[DEPTH_MAX];
  uint32_t forgets[DEPTH_MAX];
  uint64_t losses;
} path;

/* p must stay where it is: its prefix points into it. */
void path_make(path *p, unsigned owner, int end);

void mark_begun(const path *p, size_t first, size_t count);
void mark_settled(const path *p, size_t first, size_t count); /* but what was forgotten meanwhile */
bool all_settled(const path *p, size_t blocks);

/* A forget: its blocks are open while it runs, and in their next life when it has returned 0. Blocks
 * that can't prove by their ancestors that they are not meant may go, too. */
typedef struct forgetting {
  unsigned owner;
  int top; /* -1: all of the owner */
  bool whole_space;
} forgetting;
void forget_begin(const forgetting *f);
void forget_end(const forgetting *f, int code);

/* A flush: what was settled when it began, and was not forgotten since, is durable when it ends well. */
typedef struct flushing {
  bool settled[USERS_MAX][NODES];
  uint32_t forgets[USERS_MAX][NODES];
} flushing;
void flush_begin(flushing *f);
void flush_end(const flushing *f, int code);

void lose_promises(void);
bool promises_hold(void);
void forget_unflushed(void); /* the process is gone */

/* ---- failure -------------------------------------------------------------------------------- */

__attribute__((format(printf, 1, 2), noreturn)) void wrong(const char *format, ...);
_Noreturn void hung(const char *text);

#define CHECK(condition, ...)                                                                      \
  do {                                                                                             \
    if (!(condition)) wrong(__VA_ARGS__);                                                          \
  } while (0)

/* A result of a call that may fail for the disk's reasons only. */
void check_result(const char *who, int code);
/* Nothing may be held that was never stored. */
void check_held(const path *p, size_t blocks, const char *who);
void check_budgets(void);

/* The longest a call may take is known: over `timeout_ms`, nothing if it waits for no device, and what
 * devices of this seed can take if it does. */
void call_ended(sim_call call, uint64_t began_ns, uint64_t timeout_ms, bool waits_for_device);

/* ---- a life --------------------------------------------------------------------------------- */

extern kvstow *store;
extern kvstow_space *spaces[SPACES_MAX];
extern uint32_t load_timeout_ms, store_timeout_ms;

enum { LEASES = 3, FLIGHTS = 4 };

typedef enum flight_kind {
  FLIGHT_NONE,
  FLIGHT_STORE,
  FLIGHT_READ,
  FLIGHT_BLOCKS,
  FLIGHT_WAIT,
  FLIGHT_FLUSH
} flight_kind;

/* An asynchronous call under way: all it needs until it is polled. */
typedef struct flight {
  flight_kind kind;
  kvstow_op *op;
  bool cancelled;
  int slot; /* the lease it reads; -1 none */
  uint64_t began_ns;
  uint32_t timeout_ms;
  path path;
  size_t first, count;
  kvstow_range range;
  char *memory;
  struct iovec iov[DEPTH_MAX];
  kvstow_source sources[DEPTH_MAX];
  void *payloads[DEPTH_MAX];
  size_t bytes[DEPTH_MAX];
  flushing flushing;
} flight;

typedef struct user {
  unsigned number, owner;
  kvstow_queue *queue;
  kvstow_lease *leases[LEASES];
  int leased[LEASES];  /* node at the end of the path asked for */
  size_t held[LEASES]; /* blocks */
  const void *view[LEASES];
  size_t view_bytes[LEASES];
  size_t viewed[LEASES]; /* block */
  flight flights[FLIGHTS];
} user;

void trace(unsigned actor, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* users.c */
void user_begin(user *u, unsigned number);
void user_do(user *u, kv_rng *rng);
void user_end(user *u);
/* Memory for blocks of a path, filled; and what a call takes of it. */
char *blocks_make(const path *p, size_t first, size_t count, kv_rng *rng, struct iovec *iov,
                  kvstow_source *sources);
void draw_range(kv_rng *rng, const kv_shape *shape, size_t blocks, kvstow_range *range);
/* bytes: of blobs. */
void check_blocks(const path *p, size_t first, size_t count, void *const *payloads,
                  const size_t *bytes);
void after_read(user *u, int slot, int code, bool may_time_out);

/* flights.c */
void flight_begin(user *u, kv_rng *rng);
void flight_cancel(user *u, kv_rng *rng);
void flights_poll(user *u, uint32_t timeout_ms);
bool flights_on(const user *u, int slot); /* -1: at all */
void flights_drain(user *u, int slot);

/* filer.c */
void filer_begin(void);
void filer_do(kv_rng *rng);
void filer_end(void);

/* life.c */
_Noreturn void live(void);

/* report.c */
int run_seed(uint64_t seed); /* 0, or how it failed: m->message tells */
void report_failure(uint64_t seed);

#endif
