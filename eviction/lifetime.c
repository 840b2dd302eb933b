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
 * Time is counted in accesses, as the blocks of one request share one time; a tick is such that
 * the cache holds 8192 to 16383 of them. Parameters: ghost (8), keys remembered, in capacities;
 * reads (0.2), how many a write to the tier below must promise.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "eviction/ghost.h"
#include "eviction/hazard.h"
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
  GROUP_MAX = 1024,      /* blocks walked to find the end of a request's group */
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
  QUEUES
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

/* What is known of a block at its next use. */
struct past {
  uint32_t time;
  uint8_t class, facts;
  bool end;
};

/* The deepest block of the request under way that was seen before. */
struct trail {
  bool found;
  bool end; /* of the chain that it was used in before */
  uint32_t depth;
  uint32_t id;          /* KVSTOW_NO_ID: it is gone */
  uint8_t class, facts; /* as its use now made them */
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
  uint64_t request;
  uint32_t now; /* of the request under way */
  uint32_t full_tokens;
  bool parted;     /* the request under way has used a block never seen */
  bool alone;      /* no request before it has the same time */
  uint32_t latest; /* its block used last, if it is still held, or KVSTOW_NO_ID */
  uint32_t broken; /* the least depth at which it has pushed out its own, or UINT32_MAX */
  struct trail trail;
  struct choice choice;
  uint64_t admitted;
  double ghost_share, reads_a_write;
  struct ghost ghost;
  struct queue queues[QUEUES];
  uint64_t below; /* blocks in the queues of those below */
  struct hazard hazard;
};

static struct lifetime_node *node_of(const struct lifetime *life, uint32_t id) {
  return kvstow_node(life->nodes, id);
}

/* ---- time ---- */

static int shift_of(uint64_t capacity) {
  return 63 - __builtin_clzll(capacity) - CAPACITY_TICKS_LOG2;
}

static uint32_t ticks(const struct lifetime *life, uint64_t accesses) {
  return (uint32_t)(life->shift >= 0 ? accesses >> life->shift : accesses << -life->shift);
}

/* A chain's new blocks are used with those before them or not at all, its own ones with the shared
 * ones: whatever was counted, none is worth more than what it hangs on. */
static void order_kinds(struct hazard *hazard) {
  for (uint32_t class = GAPS * KINDS * PARTIAL; class < HAZARD_CLASSES; class ++) {
    if (class / PARTIAL % KINDS != OWN) continue;
    float *own = hazard->worth[class], *new = hazard->worth[class - PARTIAL],
          *shared = hazard->worth[class + PARTIAL];
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
  order_kinds(&life->hazard);
  uint64_t pause = life->accesses / 8;
  if (pause < WEIGH_EVERY_MIN) pause = WEIGH_EVERY_MIN;
  if (pause > WEIGH_EVERY_MAX) pause = WEIGH_EVERY_MAX;
  life->next_weigh = life->accesses + pause;
}

static void count_access(struct lifetime *life, const kvstow_access *access) {
  life->accesses++;
  if (access->request != 0 && access->request == life->request) return;
  life->request = access->request;
  const uint32_t before = life->now;
  life->now = ticks(life, life->accesses);
  life->alone = life->now != before;
  life->latest = KVSTOW_NO_ID;
  life->trail.found = false;
  life->parted = false;
  life->broken = UINT32_MAX;
  life->choice.valid = false;
  if (life->accesses >= life->next_weigh) weigh(life);
}

/* ---- classes ---- */

static uint32_t queue_of(const struct lifetime_node *node) {
  if ((node->place & ORPHAN) != 0) return ORPHANS;
  return node->class + ((node->facts & BELOW) != 0 ? (uint32_t)HAZARD_CLASSES : 0);
}

static uint32_t queues_used(const struct lifetime *life) {
  return life->below > 0 ? ORPHANS : HAZARD_CLASSES;
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
  const uint64_t eighths = UINT64_C(8) * gap / ticks(life, life->capacity);
  if (eighths < 2) return 1;
  const uint32_t octave = 63u - (uint32_t)__builtin_clzll(eighths);
  return octave + 1 < GAPS ? octave + 1 : GAPS - 1;
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

/* A block was used again. */
static void describe_again(struct lifetime *life, uint32_t id, struct past past,
                           const kvstow_access *access) {
  struct lifetime_node *node = node_of(life, id);
  const uint8_t facts = past.facts;
  const uint32_t turn = (facts & TURN_MASK) < TURN_MAX ? (facts & TURN_MASK) + 1u : TURN_MAX;
  const uint32_t gap = blend(gap_of_class(past.class), gap_trait(life, life->now - past.time));
  kvstow__hazard_use(&life->hazard, past.class, past.time, life->now);
  node->class =
      class_of(turn, gap, (facts & SHARED) != 0 ? SHARED_KIND : OWN, is_partial(life, access));
  node->facts = (uint8_t)(turn | late_fact(access) | (facts & (PARTED | SHARED)) |
                          ((facts & LATE) != 0 ? (unsigned)CONTINUES : 0));
  if (life->trail.found && life->trail.depth > access->depth) return;
  life->trail = (struct trail){.found = true,
                               .end = past.end,
                               .depth = access->depth,
                               .id = id,
                               .class = node->class,
                               .facts = node->facts};
}

static void part_here(struct lifetime_node *node) {
  node->facts |= (node->facts & PARTED) != 0 ? SHARED : PARTED;
}

/* The request under way leaves the way that others took, after the blocks it has used so far: they
 * stand at the young ends. Their classes change when they are used again. */
static void part_ways(struct lifetime *life) {
  for (uint32_t queue = 0; queue < queues_used(life); queue++) {
    uint32_t id = life->queues[queue].list.head;
    while (id != KVSTOW_NO_ID && node_of(life, id)->time == life->now) {
      part_here(node_of(life, id));
      id = node_of(life, id)->link.older;
    }
  }
}

/* A block never seen: it continues the chain it hangs on, or begins one. */
static void describe_new(struct lifetime *life, struct lifetime_node *node,
                         const kvstow_access *access) {
  struct trail trail = life->trail;
  if (!trail.found && access->parent != KVSTOW_NO_ID) {
    const struct lifetime_node *parent = node_of(life, access->parent);
    trail = (struct trail){.found = true, .class = parent->class, .facts = parent->facts};
  }
  const bool first = life->trail.found && !life->parted;
  uint32_t turn = 1, gap = 0;
  if (trail.found && (trail.facts & CONTINUES) != 0 && (trail.facts & SHARED) == 0) {
    turn = trail.facts & TURN_MASK;
    gap = gap_of_class(trail.class);
    if (first && !trail.end && trail.id != KVSTOW_NO_ID) part_here(node_of(life, trail.id));
  } else if (first) {
    part_ways(life);
  }
  life->parted = true;
  node->class = class_of(turn, gap, NEW, is_partial(life, access));
  node->facts = (uint8_t)(turn | late_fact(access) | (turn > 1 ? (unsigned)CONTINUES : 0));
}

/* ---- queues ---- */

static void queue_push(struct lifetime *life, uint32_t id) {
  struct lifetime_node *node = node_of(life, id);
  node->time = life->now;
  if (depth_of(node) > life->broken) node->place |= ORPHAN;
  life->latest = id;
  struct queue *queue = &life->queues[queue_of(node)];
  const uint32_t head = queue->list.head;
  kvstow__hazard_wait(&life->hazard, node->class, node->time, life->now);
  const bool joins = queue->cut != KVSTOW_NO_ID && node_of(life, head)->time == life->now;
  if (joins && depth_of(node) > depth_of(node_of(life, queue->cut))) {
    list_push_behind(&queue->list, life->nodes, id, queue->cut);
    queue->cut = id;
  } else {
    list_push(&queue->list, life->nodes, id);
    if (!joins) queue->cut = id;
  }
  life->below += (node->facts & BELOW) != 0;
  if (worth_of(life, queue_of(node), 0) < life->choice.worth) life->choice.valid = false;
}

static void queue_remove(struct lifetime *life, uint32_t id) {
  struct lifetime_node *node = node_of(life, id);
  struct queue *queue = &life->queues[queue_of(node)];
  life->below -= (node->facts & BELOW) != 0;
  if (queue->cut == id) queue->cut = node->link.newer;
  list_remove(&queue->list, life->nodes, id);
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

static void consider(struct lifetime *life, uint32_t queue, bool young) {
  const struct list *list = &life->queues[queue].list;
  const uint32_t time = node_of(life, young ? list->head : list->tail)->time;
  const float worth = worth_of(life, queue, life->now - time);
  if (life->choice.valid && worth >= life->choice.worth) return;
  life->choice =
      (struct choice){.valid = true, .young = young, .queue = queue, .time = time, .worth = worth};
}

static bool still_good(const struct lifetime *life) {
  if (!life->choice.valid) return false;
  const struct list *list = &life->queues[life->choice.queue].list;
  const uint32_t end = life->choice.young ? list->head : list->tail;
  return end != KVSTOW_NO_ID && node_of(life, end)->time == life->choice.time;
}

static void choose(struct lifetime *life) {
  life->choice.valid = false;
  if (life->queues[ORPHANS].list.count > 0) {
    consider(life, ORPHANS, true);
    return;
  }
  for (uint32_t queue = 0; queue < queues_used(life); queue++) {
    if (life->queues[queue].list.count == 0) continue;
    consider(life, queue, false);
    consider(life, queue, true);
  }
}

/* The block to go for `id`: if that belongs to the request under way, the deepest of its blocks, in
 * whatever class it is. What is used below from now on is an orphan. */
static uint32_t least(struct lifetime *life, uint32_t id) {
  if (!life->alone || node_of(life, id)->time != life->now) return id;
  if (life->latest != KVSTOW_NO_ID &&
      depth_of(node_of(life, life->latest)) > depth_of(node_of(life, id)))
    id = life->latest;
  if (depth_of(node_of(life, id)) < life->broken) life->broken = depth_of(node_of(life, id));
  return id;
}

/* Takes a block out and remembers it. */
static void leave(struct lifetime *life, uint32_t id) {
  const struct lifetime_node *node = node_of(life, id);
  const struct ghost_note *gone = ghost_leaving(&life->ghost);
  queue_remove(life, id);
  if (id == life->latest) life->latest = KVSTOW_NO_ID;
  if (id == life->trail.id) life->trail.id = KVSTOW_NO_ID;
  if (gone != NULL) kvstow__hazard_lose(&life->hazard, (uint8_t)gone->facts, gone->time, life->now);
  kvstow__ghost_push_note(&life->ghost, node->key,
                          (struct ghost_note){.time = node->time,
                                              .facts = node->class | (uint32_t)node->facts << 8 |
                                                       (uint32_t)((node->place & END) != 0) << 16});
}

/* ---- the policy ---- */

static int lifetime_create(const kvstow_policy_config *config, void **policy) {
  int rc = kvstow__policy_config_check(config);
  if (rc < 0) return rc;
  struct lifetime *life = calloc(1, sizeof *life);
  if (life == NULL) return KVSTOW_ENOMEM;
  life->nodes = config->nodes;
  life->ghost_share = 8;
  life->reads_a_write = 0.2;
  const struct param params[] = {{"ghost", 0, 64, &life->ghost_share},
                                 {"reads", 0, 1, &life->reads_a_write}};
  rc = kvstow__params_parse(config->params, params, sizeof params / sizeof params[0]);
  if (rc == 0)
    rc = kvstow__ghost_init(&life->ghost, (uint64_t)((double)config->capacity * life->ghost_share));
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
  kvstow__hazard_init(&life->hazard, 0);
  *policy = life;
  return 0;
}

static void lifetime_destroy(void *policy) {
  struct lifetime *life = policy;
  if (life != NULL) kvstow__ghost_finish(&life->ghost);
  free(life);
}

static uint32_t fold(uint64_t key) {
  return (uint32_t)(key ^ key >> 32);
}

/* What enters from the tier below stays there. So does what was given up, but is used before its room
 * is: it was written, or was below already (or refused, but then little is lost by the mistake). */
static bool is_below(const kvstow_access *access) {
  return access->whence == KVSTOW_ON_SSD ||
         (access->whence == KVSTOW_IN_RAM && access->request != 0);
}

static void lifetime_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct lifetime *life = policy;
  struct lifetime_node *node = node_of(life, id);
  struct ghost_note note;
  count_access(life, access);
  node->key = fold(access->key_lo);
  node->place = place_of(access);
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
  if (node->time == life->now) return; /* twice in a request is once */
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
  (void)incoming;
  if (!still_good(life)) choose(life);
  if (!life->choice.valid) return KVSTOW_NO_ID;
  struct queue *queue = &life->queues[life->choice.queue];
  const uint32_t id = least(life, life->choice.young ? youngest(life, queue) : queue->list.tail);
  leave(life, id);
  return id;
}

static void lifetime_remove(void *policy, uint32_t id) {
  leave(policy, id);
}

/* Writes are worth their wear if they promise enough reads: the chance of a use while the block
 * would lie below, which lasts as long as it takes to fill that tier once. Until it was filled all
 * are written: they take nobody's place, and what is stored now may be asked for much later. */
static int lifetime_admit(void *policy, uint32_t id, uint64_t below) {
  struct lifetime *life = policy;
  const struct lifetime_node *node = node_of(life, id);
  if (life->admitted < below) {
    life->admitted++;
    return 1;
  }
  const double stay = (double)below * (double)life->accesses / (double)(life->admitted + 1);
  const double ticks = ldexp(stay, -life->shift);
  const double chance =
      kvstow__hazard_chance(&life->hazard, node->class, life->now - node->time, ticks);
  if (chance < life->reads_a_write) return 0;
  life->admitted++;
  return 1;
}

/* Ages keep their meaning in accesses. A tick of another length makes what was learned worthless. */
static void rescale(struct lifetime *life, int shift) {
  const uint32_t before = life->now;
  const int longer = shift - life->shift;
  life->shift = shift;
  life->now = ticks(life, life->accesses);
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
  const int rc = kvstow__ghost_init(&fresh, ghosts);
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
