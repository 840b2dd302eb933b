/* eviction/admission.h - which of a cache's victims are worth writing to the tier below.
 *
 * A write wears the tier out and takes the place of another block; what is refused may be asked for.
 * How likely a use must be to pay for that depends on the room below and on all that wants it, and is
 * tried out: trials are small models of the tier below, an LRU list of keys each, for a sample of all
 * keys (mini-simulations: Waldspurger, Saemundsson, Ahmad, Park, ATC 2017). Each admits what has at
 * least a certain chance of a use while it would lie there, the first one everything. Followed is the
 * one with the most hits, less a price for each write, of those with no fewer hits than the first.
 *
 * A hit counts if it lies in the leading run of what its request wants from below. So that runs are
 * not torn, what one request used is one group: deepest blocks leave first, and where one was admitted
 * those before it are, too.
 *
 * A turn is the time in which the first trial is filled anew. The first turn fills all trials, the
 * second is watched; until then, and whenever memory lacks, all is admitted.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EVICTION_ADMISSION_H
#define EVICTION_ADMISSION_H

#include "eviction/ghost.h"
#include "eviction/hazard.h"

enum {
  ADMISSION_TRIALS = 12,
  ADMISSION_KEYS = 1024, /* of a trial, at most */
  ADMISSION_GROUPS = 1024,
};

struct admission_trial {
  struct ghost lru;    /* a note's time: of its last use here, in accesses */
  double hits, writes; /* of late */
  uint32_t run;        /* hits of the request under way that may lie in its leading run, */
  uint32_t run_begin;  /* the least depth of these, */
  uint32_t missed;     /* and that of what it missed; UINT32_MAX: none */
};

struct admission_group {
  uint32_t since, class;
  uint32_t admitted; /* the set of trials that did */
};

struct admission {
  uint32_t size;  /* keys of a trial; 0: nobody has asked */
  uint32_t shift; /* one key in 2^shift is in the sample */
  uint32_t turns, turn_writes;
  uint32_t followed, verdict; /* a trial; the trials that admit the last victim */
  uint64_t request;           /* under way */
  double below;               /* blocks of the tier below, in the mean */
  double price;               /* reads */
  struct admission_trial trials[ADMISSION_TRIALS];
  struct admission_group groups[ADMISSION_GROUPS];
};

/* A block that leaves. Accesses are counted by the owner. */
struct departure {
  uint64_t key, accesses;
  uint32_t class, since, now; /* ticks */
  double ticks_an_access;
};

/* `price`: how many reads a write must bring, > 0. Allocates nothing: admits() does when first asked. */
void kvstow__admission_init(struct admission *admission, double price);
void kvstow__admission_finish(struct admission *admission);

/* A block left the cache, whether or not the tier below has it. */
void kvstow__admission_left(struct admission *admission, const struct hazard *hazard,
                            const struct departure *gone);

/* A request asked for a block that the cache did not hold. */
void kvstow__admission_asked(struct admission *admission, uint64_t key, uint64_t accesses,
                             uint64_t request, uint32_t depth);

/* Whether the block that left last is to be written to the tier below, which holds `below` blocks. */
bool kvstow__admission_admits(struct admission *admission, uint64_t below);

#endif
