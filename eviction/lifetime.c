/* eviction/lifetime.c - learns how long blocks live, and evicts those least worth their room.
 *
 * What a request leaves behind is used again by the next turn of the same conversation, or never.
 * How likely, and when, can be told from a few traits of the chain, and is learned from the traffic
 * itself (hazard.h): no look-ahead, and no number fitted to a workload. The traits:
 *
 *   turn     1, 2, 3-4, 5 or more uses; a new block at the end of a known chain continues its turns
 *   gap      how long the chain paused before its turns, the last one most, against the cache's size
 *   kind     new: just continues a chain; own: was used before itself; shared: and conversations
 *            have parted below it, as they do below system prompts
 *   partial  the last block of a chain, not full: the next turn has another in its place
 *
 * A chain is known by its deepest block seen before, be it held or only remembered. It continues if
 * that block lay in the second half of the chain it was last used in, and conversations have not
 * parted below it; else what both share is a system prompt, and the request begins a conversation.
 * Where requests left a chain before its end twice, at one and the same block, they have parted there,
 * too: that is no conversation with a late edit, but a long template before short items.
 *
 * Blocks of a class wait in one queue, oldest use last. Worth rises with age, then falls, so the
 * least worth is at an end of some queue: the oldest, past hope; or the youngest, which stands for
 * not admitting what came last, while others that have waited longer are closer to their next use.
 * Blocks of one request stand side by side, and the deepest of them goes first: no block outlives
 * its ancestors of the same request. A request that finds no room but its own pushes out its own
 * blocks; what it brings below them is an orphan, of use to nobody, and the next to go. Those that the
 * tier below has, too, have queues of their own, and are worth half.
 *
 * Requests overlap: blocks are found when one begins, and stored when it has computed them, after others
 * have begun. So what is known of a request is kept until then, and all it does counts as done when it
 * began, unless that is more than a capacity ago: a block that somebody asked for later is no younger
 * for it, and what was asked for again before it came has the age at which it was. What comes below a block
 * that has gone meanwhile is an orphan, too.
 *
 * Time is counted in accesses, as the blocks of one request share one time; a tick is such that
 * the cache holds 8192 to 16383 of them. Parameters: ghost (8), keys remembered, in capacities;
 * reads (0.05), how many a write to the tier below must bring (admission.h; 0: all are written).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eviction/admission.h"
#include "eviction/ghost.h"
#include "eviction/hazard.h"
#include "eviction/lifetime.h"
#include "eviction/list.h"
#include "eviction/params.h"
#include "eviction/policies.h"

enum {
  TURN_MAX = 5,
  TURN_MASK = 7,
  LATE = 8,       /* lies in the second half of the chain it was last used in */
  CONTINUES = 16, /* was so at the use before: what follows it now is the same conversation */
  PARTED = 32,    /* a request used it, then went another way than those before */
  SHARED = 64,    /* and not only once: conversations are edited, too */
  BELOW = 128,    /* the tier below has it, too */
  GAPS = 7,       /* none, then octaves from an eighth of the capacity */
  CAPACITY_TICKS_LOG2 = 13,
  GROUP_MAX = 1024,      /* blocks walked to find the end of a request's group, or its place */
  FLIGHTS = 64,          /* of the last requests something is remembered */
  WEIGH_EVERY_MIN = 128, /* accesses */
  WEIGH_EVERY_MAX = 16384,
  FADE_EVERY = 4096, /* capacities of accesses: what was learned then counts half */
  DEPTH_MAX = (1 << 14) - 1,
  END = 1 << 14,
  ORPHAN = 1 << 15,
};

enum kind { NEW, OWN, SHARED_KIND, KINDS };
enum { TURNS = 4, PARTIAL = 2 }; /* values of these traits */

#define BELOW_WORTH 0.5f /* losing it costs a read, and both tiers together hold one more */

enum {
  ORPHANS = 2 * HAZARD_CLASSES, /* behind the two of each class: those not below, those below */
  QUEUES,
  WAITING_WORDS = (ORPHANS + 63) / 64,
};

static_assert(TURNS * GAPS * KINDS * PARTIAL == HAZARD_CLASSES, "the traits make the classes");

struct lifetime_node {
  struct link link;
  uint32_t key;         /* folded: two keys alike cost one wrong guess */
  uint32_t time;        /* of the last use, in ticks */
  uint16_t place;       /* depth, END of the chain it was last used in, ORPHAN */
  uint8_t class, facts; /* facts: turn, LATE, CONTINUES, PARTED, SHARED, BELOW */
};

struct queue {
  struct list list;
  uint32_t cut; /* the oldest of those that share the head's time, or KVSTOW_NO_ID: not known */
};

/* The worth of what stands at an end of a queue, of use at `start` and for `ticks` from then: as long as its
 * age stays in one bin. */
struct end {
  float worth;
  uint32_t start, ticks; /* 0: not known */
};

/* What is known of a block at its next use. */
struct past {
  uint32_t time;
  uint8_t class, facts;
  bool end;
};

/* The deepest block of a request that was seen before. */
struct trail {
  bool found;
  bool end; /* of the chain that it was used in before */
  uint32_t depth, key;
  uint32_t id;          /* KVSTOW_NO_ID: it is gone, or may be */
  uint8_t class, facts; /* as its use now made them */
};

/* What is known of a request. */
struct flight {
  uint64_t request;
  uint32_t begun;  /* when it was first heard of, or one after it */
  uint32_t latest; /* its block used last, if it is still held, or KVSTOW_NO_ID */
  uint32_t broken; /* the least depth at which it has pushed out its own, or UINT32_MAX */
  bool alone;      /* no request before it has the same time */
  bool parted;     /* it has used a block never seen */
  struct trail trail;
};

/* The end of a queue that victims come from, until something less worth turns up. */
struct choice {
  bool valid, young;
  uint32_t queue, time;
  float worth;
};

struct lifetime {
  const kvstow_nodes *nodes;
  uint64_t capacity;
  int shift; /* ticks = accesses >> shift, or << -shift */
  uint64_t accesses, next_weigh, next_fade;
  uint32_t now;
  uint32_t full_tokens;
  uint64_t newest;                /* request */
  bool overlap;                   /* one has gone on after others had begun */
  struct flight flights[FLIGHTS]; /* by number */
  struct flight stray;            /* one without a number, or forgotten */
  struct flight *flight;          /* the one under way: */
  bool late;                      /* others have begun since it has; */
  uint32_t time;                  /* what it does is done now, or when it began; */
  uint8_t parted_all;             /* PARTED and SHARED, if all its blocks used now are */
  struct choice choice;
  double ghost_share, reads_a_write;
  struct ghost ghost;
  struct queue queues[QUEUES];
  struct end ends[QUEUES][2];      /* the old one, the young one */
  uint64_t waiting[WAITING_WORDS]; /* a bit for each of these queues that is not empty */
  bool on_shadow;                  /* its victims are not the cache's */
  struct hazard hazard;
  struct admission admission;
};

static struct lifetime_node *node_of(const struct lifetime *life, uint32_t id) {
  return kvstow_node(life->nodes, id);
}

static uint32_t fold(uint64_t key) {
  return (uint32_t)(key ^ key >> 32);
}

/* ---- time ---- */

static int shift_of(uint64_t capacity) {
  return 63 - __builtin_clzll(capacity) - CAPACITY_TICKS_LOG2;
}

static uint32_t ticks(const struct lifetime *life, uint64_t accesses) {
  return (uint32_t)(life->shift >= 0 ? accesses >> life->shift : accesses << -life->shift);
}

/* A chain's new blocks are used with those before them or not at all, its own ones with the shared
 * ones: whatever was counted, none is worth more than what it hangs on, or likelier to be used. */
static void order_kinds(float of[HAZARD_CLASSES][HAZARD_BINS]) {
  for (uint32_t class = GAPS * KINDS * PARTIAL; class < HAZARD_CLASSES; class ++) {
    if (class / PARTIAL % KINDS != OWN) continue;
    float *own = of[class], *new = of[class - PARTIAL], *shared = of[class + PARTIAL];
    for (uint32_t bin = 0; bin < HAZARD_BINS; bin++) {
      if (new[bin] > own[bin]) new[bin] = own[bin];
      if (shared[bin] < own[bin]) shared[bin] = own[bin];
    }
  }
}

static void weigh(struct lifetime *life) {
  if (life->accesses >= life->next_fade) {
    kvstow__hazard_fade(&life->hazard);
    life->next_fade = life->accesses + FADE_EVERY * life->capacity;
  }
  kvstow__hazard_weigh(&life->hazard, life->now);
  memset(life->ends, 0, sizeof life->ends);
  order_kinds(life->hazard.worth);
  order_kinds(life->hazard.rate);
  uint64_t pause = life->accesses / 8;
  if (pause < WEIGH_EVERY_MIN) pause = WEIGH_EVERY_MIN;
  if (pause > WEIGH_EVERY_MAX) pause = WEIGH_EVERY_MAX;
  life->next_weigh = life->accesses + pause;
}

/* ---- classes ---- */

static uint32_t queue_of(const struct lifetime_node *node) {
  if ((node->place & ORPHAN) != 0) return ORPHANS;
  return node->class + ((node->facts & BELOW) != 0 ? (uint32_t)HAZARD_CLASSES : 0);
}

/* The first from `queue` on that is not empty, or ORPHANS. */
static uint32_t first_waiting(const struct lifetime *life, uint32_t queue) {
  if (queue >= ORPHANS) return ORPHANS;
  uint32_t word = queue / 64;
  uint64_t bits = life->waiting[word] >> queue % 64 << queue % 64;
  while (bits == 0 && ++word < WAITING_WORDS) bits = life->waiting[word];
  return bits != 0 ? word * 64 + (uint32_t)__builtin_ctzll(bits) : ORPHANS;
}

static float worth_of(const struct lifetime *life, uint32_t queue, uint32_t age) {
  if (queue == ORPHANS) return 0;
  const bool below = queue >= HAZARD_CLASSES;
  const float worth = hazard_worth(&life->hazard, below ? queue - HAZARD_CLASSES : queue, age);
  return below ? worth * BELOW_WORTH : worth;
}

static uint32_t turn_trait(uint32_t turn) {
  return turn <= 2 ? turn - 1 : turn < TURN_MAX ? 2 : 3;
}

/* Octaves of the gap from an eighth of the capacity on; 0 on a first turn, which follows none. */
static uint32_t gap_trait(const struct lifetime *life, uint32_t gap) {
  const uint64_t eighths = UINT64_C(8) * gap, capacity = ticks(life, life->capacity);
  uint32_t octave = 1;
  while (octave + 1 < GAPS && eighths >= capacity << octave) octave++;
  return octave;
}

static uint8_t class_of(uint32_t turn, uint32_t gap, enum kind kind, bool partial) {
  return (uint8_t)(((turn_trait(turn) * GAPS + gap) * KINDS + kind) * PARTIAL + partial);
}

static uint32_t gap_of_class(uint8_t class) {
  return class / (KINDS * PARTIAL) % GAPS;
}

/* The mean of the last gap's octave and of what it was before, rounded towards the last. */
static uint32_t blend(uint32_t before, uint32_t last) {
  return before == 0 ? last : (before + last + (last > before)) / 2;
}

static bool is_partial(struct lifetime *life, const kvstow_access *access) {
  if (access->tokens > life->full_tokens) life->full_tokens = access->tokens;
  return access->depth + 1 == access->chain_blocks && access->tokens < life->full_tokens;
}

static uint8_t late_fact(const kvstow_access *access) {
  return (access->depth + 1) * UINT64_C(2) >= access->chain_blocks ? LATE : 0;
}

/* At an END the next turn's blocks follow: a last block that is not full has another in its place. */
static uint16_t place_of(const kvstow_access *access) {
  const uint32_t depth = access->depth < DEPTH_MAX ? access->depth : DEPTH_MAX;
  return (uint16_t)(depth | (access->depth + UINT64_C(2) >= access->chain_blocks ? END : 0));
}

static uint32_t depth_of(const struct lifetime_node *node) {
  return node->place & DEPTH_MAX;
}

/* A block seen before is of the request's chain; `end`: it was the end of the one it was used in before. */
static void follow(struct lifetime *life, uint32_t id, bool end, const kvstow_access *access) {
  const struct lifetime_node *node = node_of(life, id);
  struct trail *trail = &life->flight->trail;
  if (trail->found && trail->depth > access->depth) return;
  *trail = (struct trail){.found = true,
                          .end = end,
                          .depth = access->depth,
                          .key = node->key,
                          .id = id,
                          .class = node->class,
                          .facts = node->facts};
}

/* A block was used again. */
static void describe_again(struct lifetime *life, uint32_t id, struct past past,
                           const kvstow_access *access) {
  struct lifetime_node *node = node_of(life, id);
  const uint8_t facts = past.facts;
  const uint32_t turn = (facts & TURN_MASK) < TURN_MAX ? (facts & TURN_MASK) + 1u : TURN_MAX;
  const uint32_t gap = blend(gap_of_class(past.class), gap_trait(life, life->time - past.time));
  kvstow__hazard_use(&life->hazard, past.class, past.time, life->now);
  node->class =
      class_of(turn, gap, (facts & SHARED) != 0 ? SHARED_KIND : OWN, is_partial(life, access));
  node->facts = (uint8_t)(turn | late_fact(access) | (facts & (PARTED | SHARED)) |
                          ((facts & LATE) != 0 ? (unsigned)CONTINUES : 0));
  life->parted_all &= facts;
  follow(life, id, past.end, access);
}

static void part_here(struct lifetime_node *node) {
  node->facts |= (node->facts & PARTED) != 0 ? SHARED : PARTED;
}

/* The request under way leaves the way that others took, after the blocks it has used so far: they
 * stand at the young ends. Their classes change when they are used again. */
static void part_ways(struct lifetime *life) {
  for (uint32_t queue = first_waiting(life, 0); queue < ORPHANS;
       queue = first_waiting(life, queue + 1)) {
    uint32_t id = life->queues[queue].list.head;
    while (id != KVSTOW_NO_ID && node_of(life, id)->time == life->time) {
      part_here(node_of(life, id));
      id = node_of(life, id)->link.older;
    }
  }
}

/* Where conversations part below a block, they part below all that it hangs on: those that the request has
 * used with it. If requests don't overlap, part_ways() has told them. */
static void part_above(struct lifetime *life) {
  const struct trail *trail = &life->flight->trail;
  if (!life->overlap || !trail->found || trail->id == KVSTOW_NO_ID) return;
  const uint8_t parted = node_of(life, trail->id)->facts & (PARTED | SHARED);
  if ((parted & ~life->parted_all) == 0) return;
  for (uint32_t queue = first_waiting(life, 0); queue < ORPHANS;
       queue = first_waiting(life, queue + 1)) {
    uint32_t id = life->queues[queue].list.head;
    while (id != KVSTOW_NO_ID && node_of(life, id)->time == life->time) {
      if (depth_of(node_of(life, id)) < trail->depth) node_of(life, id)->facts |= parted;
      id = node_of(life, id)->link.older;
    }
  }
}

/* A block never seen: it continues the chain it hangs on, or begins one. */
static void describe_new(struct lifetime *life, struct lifetime_node *node,
                         const kvstow_access *access) {
  struct flight *flight = life->flight;
  struct trail trail = flight->trail;
  if (!trail.found && access->parent != KVSTOW_NO_ID) {
    const struct lifetime_node *parent = node_of(life, access->parent);
    trail = (struct trail){.found = true, .class = parent->class, .facts = parent->facts};
  }
  const bool first = flight->trail.found && !flight->parted;
  if (trail.id == KVSTOW_NO_ID && access->parent != KVSTOW_NO_ID &&
      node_of(life, access->parent)->key == trail.key)
    trail.id = access->parent;
  uint32_t turn = 1, gap = 0;
  if (trail.found && (trail.facts & CONTINUES) != 0 && (trail.facts & SHARED) == 0) {
    turn = trail.facts & TURN_MASK;
    gap = gap_of_class(trail.class);
    if (first && !trail.end && trail.id != KVSTOW_NO_ID) part_here(node_of(life, trail.id));
  } else if (first && !life->late) {
    part_ways(life);
  } else if (first && trail.id != KVSTOW_NO_ID) {
    part_here(node_of(life, trail.id)); /* part_above() tells the others at their next use */
  }
  flight->parted = true;
  node->class = class_of(turn, gap, NEW, is_partial(life, access));
  node->facts = (uint8_t)(turn | late_fact(access) | (turn > 1 ? (unsigned)CONTINUES : 0));
}

/* ---- requests ---- */

static struct flight flight_of(const struct lifetime *life, uint64_t request, bool alone) {
  return (struct flight){.request = request,
                         .begun = life->now,
                         .latest = KVSTOW_NO_ID,
                         .broken = UINT32_MAX,
                         .alone = alone,
                         .trail = {.id = KVSTOW_NO_ID}};
}

/* The requests up to `request` have begun; of those before it nothing was found. */
static void begin(struct lifetime *life, uint64_t request, bool alone) {
  uint64_t from = life->newest + 1;
  if (request - life->newest > FLIGHTS) from = request - FLIGHTS + 1;
  for (; from < request; from++) life->flights[from % FLIGHTS] = flight_of(life, from, true);
  life->flights[request % FLIGHTS] = flight_of(life, request, alone);
  life->newest = request;
}

/* Another request begins, or goes on: behind others, or behind a block that was moved on nobody's account. */
static void turn_to(struct lifetime *life, uint64_t request, bool alone) {
  struct flight *flight = &life->flights[request % FLIGHTS];
  const bool goes_on = request != 0 && request <= life->newest && flight->request == request;
  life->late = goes_on && request < life->newest;
  life->overlap |= life->late;
  if (goes_on) {
    flight->latest = flight->trail.id = KVSTOW_NO_ID; /* ids may have been given away meanwhile */
  } else if (request > life->newest) {
    begin(life, request, alone);
  } else {
    flight = &life->stray;
    *flight = flight_of(life, request, alone);
  }
  life->flight = flight;
  const uint32_t age = life->now - flight->begun;
  life->time = age < ticks(life, life->capacity) ? flight->begun : life->now;
  life->parted_all = PARTED | SHARED;
  life->choice.valid = false;
}

static void count_access(struct lifetime *life, const kvstow_access *access) {
  life->accesses++;
  if (access->request != 0 && access->request == life->flight->request) return;
  part_above(life);
  const uint32_t before = life->now;
  life->now = ticks(life, life->accesses);
  turn_to(life, access->request, life->now != before);
  if (life->accesses >= life->next_weigh) weigh(life);
}

/* ---- queues ---- */

/* Who stands at an end of the queue may have changed. */
static void end_changed(struct lifetime *life, uint32_t queue, bool young) {
  life->ends[queue][young].ticks = 0;
}

/* Of a queue's blocks used after `node`, or above it in the same request, the oldest: its place is behind that.
 * KVSTOW_NO_ID: there are none, or so many that the use counts as done now. */
static uint32_t place_in(struct lifetime *life, const struct list *list,
                         const struct lifetime_node *node) {
  const uint32_t latest = life->flight->latest;
  uint32_t behind = KVSTOW_NO_ID, at = list->head;
  if (latest != KVSTOW_NO_ID && node_of(life, latest)->time == node->time &&
      queue_of(node_of(life, latest)) == queue_of(node)) {
    const bool below = depth_of(node) > depth_of(node_of(life, latest));
    return below ? latest : node_of(life, latest)->link.newer;
  }
  for (int steps = 0; at != KVSTOW_NO_ID; steps++) {
    const struct lifetime_node *other = node_of(life, at);
    const int32_t later = (int32_t)(other->time - node->time);
    if (later < 0 || (later == 0 && depth_of(other) >= depth_of(node))) return behind;
    if (steps == GROUP_MAX) {
      life->time = life->now;
      return KVSTOW_NO_ID;
    }
    behind = at;
    at = other->link.older;
  }
  return behind;
}

static void queue_push(struct lifetime *life, uint32_t id) {
  struct lifetime_node *node = node_of(life, id);
  if (depth_of(node) > life->flight->broken) node->place |= ORPHAN;
  const uint32_t number = queue_of(node);
  struct queue *queue = &life->queues[number];
  const uint32_t head = queue->list.head;
  uint32_t behind = KVSTOW_NO_ID;
  node->time = life->time;
  if (life->late && head != KVSTOW_NO_ID && node_of(life, head)->time != life->time)
    behind = place_in(life, &queue->list, node);
  node->time = life->time;
  life->flight->latest = id;
  kvstow__hazard_wait(&life->hazard, node->class, node->time, life->now);
  const bool joins = queue->cut != KVSTOW_NO_ID && node_of(life, head)->time == node->time;
  if (behind != KVSTOW_NO_ID) {
    list_push_behind(&queue->list, life->nodes, id, behind);
  } else if (joins && depth_of(node) > depth_of(node_of(life, queue->cut))) {
    list_push_behind(&queue->list, life->nodes, id, queue->cut);
    queue->cut = id;
  } else {
    list_push(&queue->list, life->nodes, id);
    if (!joins) queue->cut = id;
    end_changed(life, number, true);
  }
  if (number < ORPHANS) life->waiting[number / 64] |= UINT64_C(1) << number % 64;
  if (queue->list.tail == id) end_changed(life, number, false);
  if (worth_of(life, number, life->now - node->time) < life->choice.worth)
    life->choice.valid = false;
}

static void queue_remove(struct lifetime *life, uint32_t id) {
  struct lifetime_node *node = node_of(life, id);
  const uint32_t number = queue_of(node);
  struct queue *queue = &life->queues[number];
  if (queue->cut == id) queue->cut = node->link.newer;
  if (queue->list.tail == id) end_changed(life, number, false);
  if (queue->list.head == id) end_changed(life, number, true);
  list_remove(&queue->list, life->nodes, id);
  if (number < ORPHANS && queue->list.count == 0)
    life->waiting[number / 64] &= ~(UINT64_C(1) << number % 64);
}

/* The deepest of the youngest request in the queue. */
static uint32_t youngest(const struct lifetime *life, struct queue *queue) {
  if (queue->cut != KVSTOW_NO_ID) return queue->cut;
  uint32_t id = queue->list.head;
  const uint32_t time = node_of(life, id)->time;
  for (int steps = 0; steps < GROUP_MAX; steps++) {
    const uint32_t older = node_of(life, id)->link.older;
    if (older == KVSTOW_NO_ID || node_of(life, older)->time != time) break;
    id = older;
  }
  queue->cut = id;
  return id;
}

/* ---- leaving ---- */

static uint32_t time_at(const struct lifetime *life, uint32_t queue, bool young) {
  const struct list *list = &life->queues[queue].list;
  return node_of(life, young ? list->head : list->tail)->time;
}

static float worth_at(struct lifetime *life, uint32_t queue, bool young) {
  struct end *end = &life->ends[queue][young];
  if (life->now - end->start >= end->ticks) {
    const uint32_t time = time_at(life, queue, young), bin = hazard_bin(life->now - time);
    end->worth = worth_of(life, queue, life->now - time);
    end->start = time + hazard_bin_start(bin);
    end->ticks =
        (bin + 1 < HAZARD_BINS ? hazard_bin_start(bin + 1) : UINT32_MAX) - hazard_bin_start(bin);
  }
  return end->worth;
}

static bool still_good(const struct lifetime *life) {
  if (!life->choice.valid) return false;
  const struct list *list = &life->queues[life->choice.queue].list;
  const uint32_t end = life->choice.young ? list->head : list->tail;
  return end != KVSTOW_NO_ID && node_of(life, end)->time == life->choice.time;
}

static void choose(struct lifetime *life) {
  struct choice best = {
      .valid = life->queues[ORPHANS].list.count > 0, .young = true, .queue = ORPHANS};
  for (uint32_t queue = best.valid ? ORPHANS : first_waiting(life, 0); queue < ORPHANS;
       queue = first_waiting(life, queue + 1)) {
    for (int young = 0; young < 2; young++) {
      const float worth = worth_at(life, queue, young != 0);
      if (best.valid && worth >= best.worth) continue;
      best = (struct choice){.valid = true, .young = young != 0, .queue = queue, .worth = worth};
    }
  }
  if (best.valid) best.time = time_at(life, best.queue, best.young);
  life->choice = best;
}

/* The block to go for `id`: if that belongs to the request under way, the deepest of its blocks, in
 * whatever class it is. What is used below from now on is an orphan. */
static uint32_t least(struct lifetime *life, uint32_t id) {
  struct flight *flight = life->flight;
  if (!flight->alone || node_of(life, id)->time != life->time) return id;
  if (flight->latest != KVSTOW_NO_ID &&
      depth_of(node_of(life, flight->latest)) > depth_of(node_of(life, id)))
    id = flight->latest;
  if (depth_of(node_of(life, id)) < flight->broken) flight->broken = depth_of(node_of(life, id));
  return id;
}

/* Takes a block out and remembers it. */
static void leave(struct lifetime *life, uint32_t id) {
  const struct lifetime_node *node = node_of(life, id);
  const uint32_t next = node->link.newer; /* to leave, likely */
  struct ghost_note gone;
  const bool forgets = ghost_leaving(&life->ghost, &gone);
  queue_remove(life, id);
  if (id == life->flight->latest) life->flight->latest = KVSTOW_NO_ID;
  if (id == life->flight->trail.id) life->flight->trail.id = KVSTOW_NO_ID;
  if (forgets) kvstow__hazard_lose(&life->hazard, (uint8_t)gone.facts, gone.time, life->now);
  kvstow__ghost_push_note(&life->ghost, node->key,
                          (struct ghost_note){.time = node->time,
                                              .facts = node->class | (uint32_t)node->facts << 8 |
                                                       (uint32_t)((node->place & END) != 0) << 16});
  if (next != KVSTOW_NO_ID) ghost_prefetch(&life->ghost, node_of(life, next)->key);
}

/* ---- the policy ---- */

static int lifetime_create(const kvstow_policy_config *config, void **policy) {
  int rc = kvstow__policy_config_check(config);
  if (rc < 0) return rc;
  struct lifetime *life = calloc(1, sizeof *life);
  if (life == NULL) return KVSTOW_ENOMEM;
  life->nodes = config->nodes;
  life->ghost_share = 8;
  life->reads_a_write = 0.05;
  const struct param params[] = {{"ghost", 0, 64, &life->ghost_share},
                                 {"reads", 0, 1, &life->reads_a_write}};
  rc = kvstow__params_parse(config->params, params, sizeof params / sizeof params[0]);
  if (rc == 0)
    rc = kvstow__ghost_init(&life->ghost, (uint64_t)((double)config->capacity * life->ghost_share),
                            GHOST_NOTES);
  if (rc < 0) {
    free(life);
    return rc;
  }
  life->capacity = config->capacity;
  life->shift = shift_of(life->capacity);
  life->next_fade = FADE_EVERY * life->capacity;
  for (uint32_t queue = 0; queue < QUEUES; queue++) {
    list_init(&life->queues[queue].list);
    life->queues[queue].cut = KVSTOW_NO_ID;
  }
  life->flight = &life->stray;
  kvstow__hazard_init(&life->hazard, 0);
  kvstow__admission_init(&life->admission, life->reads_a_write);
  *policy = life;
  return 0;
}

static void lifetime_destroy(void *policy) {
  struct lifetime *life = policy;
  if (life == NULL) return;
  kvstow__ghost_finish(&life->ghost);
  kvstow__admission_finish(&life->admission);
  free(life);
}

/* ---- the cache that it serves ---- */

void kvstow__lifetime_on_shadow(void *policy) {
  struct lifetime *life = policy;
  life->on_shadow = true;
}

void kvstow__lifetime_left(void *policy, uint32_t id) {
  struct lifetime *life = policy;
  const struct lifetime_node *node = node_of(life, id);
  kvstow__admission_left(&life->admission, &life->hazard,
                         &(struct departure){.key = node->key,
                                             .accesses = life->accesses,
                                             .class = node->class,
                                             .since = node->time,
                                             .now = life->now,
                                             .ticks_an_access = ldexp(1, -life->shift)});
}

void kvstow__lifetime_asked(void *policy, const kvstow_access *access) {
  struct lifetime *life = policy;
  if (access->request == 0 || access->whence == KVSTOW_IN_RAM) return;
  kvstow__admission_asked(&life->admission, fold(access->key_lo), life->accesses, access->request,
                          access->depth);
}

/* What enters from the tier below stays there. So does what was given up, but is used before its room
 * is: it was written, or was below already (or refused, but then little is lost by the mistake). */
static bool is_below(const kvstow_access *access) {
  return access->whence == KVSTOW_ON_SSD ||
         (access->whence == KVSTOW_IN_RAM && access->request != 0);
}

/* The request has found blocks above it, and what it hangs on has gone since. */
static bool is_orphan(const struct lifetime *life, const kvstow_access *access) {
  const struct trail *trail = &life->flight->trail;
  if (!life->late || !trail->found || access->depth <= trail->depth) return false;
  return access->parent == KVSTOW_NO_ID || (node_of(life, access->parent)->place & ORPHAN) != 0;
}

static void lifetime_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct lifetime *life = policy;
  struct lifetime_node *node = node_of(life, id);
  struct ghost_note note;
  count_access(life, access);
  node->key = fold(access->key_lo);
  node->place = place_of(access);
  if (is_orphan(life, access)) node->place |= ORPHAN;
  if (!life->on_shadow) kvstow__lifetime_asked(life, access);
  if (kvstow__ghost_take_note(&life->ghost, node->key, &note))
    describe_again(life, id,
                   (struct past){.time = note.time,
                                 .class = (uint8_t)note.facts,
                                 .facts = (uint8_t)(note.facts >> 8),
                                 .end = (note.facts >> 16 & 1) != 0},
                   access);
  else
    describe_new(life, node, access);
  if (is_below(access)) node->facts |= BELOW;
  queue_push(life, id);
}

static void lifetime_touch(void *policy, uint32_t id, const kvstow_access *access) {
  struct lifetime *life = policy;
  struct lifetime_node *node = node_of(life, id);
  count_access(life, access);
  if ((int32_t)(node->time - life->flight->begun) >= 0) {
    /* Twice in a request is once; and others have stored or used it since this one asked for it. */
    follow(life, id, (node->place & END) != 0, access);
    return;
  }
  queue_remove(life, id);
  const uint8_t below = node->facts & BELOW;
  describe_again(life, id,
                 (struct past){.time = node->time,
                               .class = node->class,
                               .facts = node->facts,
                               .end = (node->place & END) != 0},
                 access);
  node->place = place_of(access);
  node->facts |= below;
  queue_push(life, id);
}

static uint32_t lifetime_victim(void *policy, const kvstow_access *incoming) {
  struct lifetime *life = policy;
  if (incoming != NULL) ghost_prefetch(&life->ghost, fold(incoming->key_lo));
  if (!still_good(life)) choose(life);
  if (!life->choice.valid) return KVSTOW_NO_ID;
  struct queue *queue = &life->queues[life->choice.queue];
  const uint32_t id = least(life, life->choice.young ? youngest(life, queue) : queue->list.tail);
  leave(life, id);
  if (!life->on_shadow) kvstow__lifetime_left(life, id);
  return id;
}

static void lifetime_remove(void *policy, uint32_t id) {
  leave(policy, id);
}

static int lifetime_admit(void *policy, uint32_t id, uint64_t below) {
  struct lifetime *life = policy;
  (void)id; /* it was the last to leave */
  return life->reads_a_write == 0 || kvstow__admission_admits(&life->admission, below);
}

/* Ages keep their meaning in accesses. A tick of another length makes what was learned worthless. */
static void rescale(struct lifetime *life, int shift) {
  const uint32_t before = life->now;
  const int longer = shift - life->shift;
  life->shift = shift;
  life->now = ticks(life, life->accesses);
  life->time = life->now;
  life->stray.begun = life->now;
  for (uint32_t i = 0; i < FLIGHTS; i++) life->flights[i].begun = life->now;
  kvstow__hazard_init(&life->hazard, life->now);
  for (uint32_t queue = 0; queue < QUEUES; queue++) {
    for (uint32_t id = life->queues[queue].list.head; id != KVSTOW_NO_ID;) {
      struct lifetime_node *node = node_of(life, id);
      const uint64_t age = before - node->time;
      node->time = life->now - (uint32_t)(longer >= 0 ? age >> longer : age << -longer);
      kvstow__hazard_wait(&life->hazard, node->class, node->time, life->now);
      id = node->link.older;
    }
    life->queues[queue].cut = KVSTOW_NO_ID;
  }
  memset(life->ends, 0, sizeof life->ends);
  kvstow__ghost_finish(&life->ghost);
  life->choice.valid = false;
}

static int lifetime_resize(void *policy, uint64_t capacity) {
  struct lifetime *life = policy;
  const uint64_t ghosts = (uint64_t)((double)capacity * life->ghost_share);
  if (shift_of(capacity) == life->shift) {
    const int rc = kvstow__ghost_resize(&life->ghost, ghosts);
    if (rc == 0) life->capacity = capacity;
    return rc;
  }
  struct ghost fresh;
  const int rc = kvstow__ghost_init(&fresh, ghosts, GHOST_NOTES);
  if (rc < 0) return rc;
  rescale(life, shift_of(capacity));
  life->ghost = fresh;
  life->capacity = capacity;
  return 0;
}

const kvstow_policy_ops kvstow__policy_lifetime = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct lifetime_node),
    .name = "lifetime",
    .summary = "learns when chains are used again; evicts the least uses per room and time",
    .create = lifetime_create,
    .destroy = lifetime_destroy,
    .insert = lifetime_insert,
    .touch = lifetime_touch,
    .victim = lifetime_victim,
    .remove = lifetime_remove,
    .resize = lifetime_resize,
    .admit = lifetime_admit,
};
