/* eviction/admission.c - trials of what to write to the tier below; see admission.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "eviction/admission.h"

#include <string.h>

#define TURNS_WATCHED 24 /* a turn counts 1/e after so many */
#define BELOW_MEAN                                                                                 \
  1024 /* questions over which its size is averaged: blocks may be of several sizes */

/* The chance of a use from which each trial admits. */
static const double least_chance[ADMISSION_TRIALS] = {0,   0.05, 0.1, 0.15, 0.2, 0.25,
                                                      0.3, 0.4,  0.5, 0.6,  0.7, 0.8};

void kvstow__admission_init(struct admission *admission, double price) {
  memset(admission, 0, sizeof *admission);
  admission->price = price;
}

void kvstow__admission_finish(struct admission *admission) {
  for (uint32_t i = 0; i < ADMISSION_TRIALS; i++) kvstow__ghost_finish(&admission->trials[i].lru);
}

/* Empty trials, or none if there is no memory for them. */
static void start(struct admission *admission, uint64_t below) {
  kvstow__admission_finish(admission);
  kvstow__admission_init(admission, admission->price);
  admission->below = (double)below;
  admission->verdict = 1; /* the first trial admits all */
  while (below >> admission->shift > ADMISSION_KEYS) admission->shift++;
  const uint64_t size = below >> admission->shift;
  for (uint32_t i = 0; i < ADMISSION_TRIALS; i++)
    if (kvstow__ghost_init(&admission->trials[i].lru, size, GHOST_NOTES) < 0) return;
  admission->size = (uint32_t)size;
}

static bool in_sample(const struct admission *admission, uint64_t key) {
  return admission->shift == 0 || key * 0x9e3779b97f4a7c15u >> (64 - admission->shift) == 0;
}

static void use(struct admission_trial *trial, uint64_t key, uint64_t accesses) {
  kvstow__ghost_push_note(&trial->lru, (uint32_t)key,
                          (struct ghost_note){.time = (uint32_t)accesses});
}

/* A block written now would lie there for as long as the oldest one has. */
static bool is_wanted(const struct admission_trial *trial, double least,
                      const struct hazard *hazard, const struct departure *gone) {
  struct ghost_note oldest;
  if (!ghost_leaving(&trial->lru, &oldest) || least == 0) return true;
  const double stay = (uint32_t)gone->accesses - oldest.time;
  return kvstow__hazard_chance(hazard, gone->class, gone->now - gone->since,
                               stay * gone->ticks_an_access) >= least;
}

/* The trials that admit the block: those that did its group, and others it has chance enough for. */
static uint32_t admitting(struct admission *admission, const struct hazard *hazard,
                          const struct departure *gone) {
  struct admission_group *group =
      &admission->groups[gone->since * 0x9e3779b1u >> 16 & (ADMISSION_GROUPS - 1)];
  const bool known = group->admitted != 0 && group->since == gone->since;
  if (known && group->class == gone->class) return group->admitted;
  uint32_t admitted = known ? group->admitted : 0;
  for (uint32_t i = 0; i < ADMISSION_TRIALS; i++)
    if ((admitted >> i & 1) == 0 && is_wanted(&admission->trials[i], least_chance[i], hazard, gone))
      admitted |= 1u << i;
  *group =
      (struct admission_group){.since = gone->since, .class = gone->class, .admitted = admitted};
  return admitted;
}

/* ---- turns ---- */

static double value(const struct admission *admission, const struct admission_trial *trial) {
  return trial->hits - admission->price * trial->writes;
}

static void follow_best(struct admission *admission) {
  const struct admission_trial *trials = admission->trials;
  uint32_t best = 0;
  for (uint32_t i = 1; i < ADMISSION_TRIALS; i++)
    if (trials[i].hits >= trials[0].hits &&
        value(admission, &trials[i]) >= value(admission, &trials[best]))
      best = i;
  admission->followed = best;
}

static void end_turn(struct admission *admission) {
  const double keep = 1 - 1.0 / TURNS_WATCHED;
  for (uint32_t i = 0; i < ADMISSION_TRIALS; i++) {
    admission->trials[i].hits *= keep;
    admission->trials[i].writes *= keep;
  }
  admission->turns++;
  admission->turn_writes = 0;
}

/* ---- what happens ---- */

void kvstow__admission_left(struct admission *admission, const struct hazard *hazard,
                            const struct departure *gone) {
  if (admission->size == 0) return;
  admission->verdict = admitting(admission, hazard, gone);
  if (!in_sample(admission, gone->key)) return;
  for (uint32_t i = 0; i < ADMISSION_TRIALS; i++) {
    struct admission_trial *trial = &admission->trials[i];
    const bool held = kvstow__ghost_has(&trial->lru, gone->key);
    if (!held && (admission->verdict >> i & 1) == 0) continue;
    trial->writes += !held;
    if (i == 0) admission->turn_writes += !held;
    use(trial, gone->key, gone->accesses);
  }
  if (admission->turn_writes == admission->size) end_turn(admission);
  if (admission->turns > 1) follow_best(admission);
}

static void end_request(struct admission *admission, uint64_t request) {
  admission->request = request;
  for (uint32_t i = 0; i < ADMISSION_TRIALS; i++) {
    struct admission_trial *trial = &admission->trials[i];
    trial->hits += trial->run;
    trial->run = 0;
    trial->run_begin = trial->missed = UINT32_MAX;
  }
}

/* Blocks may come deepest first or last. */
void kvstow__admission_asked(struct admission *admission, uint64_t key, uint64_t accesses,
                             uint64_t request, uint32_t depth) {
  if (admission->size == 0 || !in_sample(admission, key)) return;
  if (request != admission->request) end_request(admission, request);
  for (uint32_t i = 0; i < ADMISSION_TRIALS; i++) {
    struct admission_trial *trial = &admission->trials[i];
    if (kvstow__ghost_has(&trial->lru, key)) {
      use(trial, key, accesses);
      if (depth > trial->missed) continue;
      trial->run++;
      if (depth < trial->run_begin) trial->run_begin = depth;
    } else {
      if (depth < trial->run_begin) trial->run = 0;
      if (depth < trial->missed) trial->missed = depth;
    }
  }
}

bool kvstow__admission_admits(struct admission *admission, uint64_t below) {
  admission->below += ((double)below - admission->below) / BELOW_MEAN;
  const double sampled = (double)admission->size * (double)(UINT64_C(1) << admission->shift);
  if (admission->below > 2 * sampled || admission->below < sampled / 2) start(admission, below);
  return admission->size == 0 || (admission->verdict >> admission->followed & 1) != 0;
}
