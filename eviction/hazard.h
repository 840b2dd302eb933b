/* eviction/hazard.h - learns when blocks are used again, and what a block of some age is worth.
 *
 * Blocks are put into classes by what is known of them. For each class and age the learner counts
 * uses and the time spent unused; their quotient is the hazard, the probability per tick that a block of that class and age is used now. Blocks evicted
 * and remembered go on being counted, and so do those not used again yet: otherwise only what comes
 * back soon would be seen (Kaplan and Meier 1958).
 *
 * The worth of a block is its Gittins index (Gittins 1979): of all ages until which it could be
 * kept, the one with the most expected uses per tick of room, and that quotient. Evicting the least
 * worth is LHD (Beckmann, Chen, Cidon, NSDI 2018) with the horizon chosen, not given. The index
 * rises with age where uses come after a pause, as people's next turns do.
 *
 * A new learner believes hazard = 0.3 / age, whatever the class, which makes it LRU. A class departs
 * from what is common to all with the first uses seen; little data is stretched by counting those
 * at nearby ages, too.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EVICTION_HAZARD_H
#define EVICTION_HAZARD_H

#include <stdint.h>

enum {
  HAZARD_CLASSES = 168,
  HAZARD_BINS = 40,      /* of age: two an octave, from 1 tick */
  HAZARD_EPOCHS = 256,   /* of the past, in which ages of unused blocks are told apart */
  HAZARD_EPOCH = 1 << 11 /* ticks */
};

struct hazard {
  uint32_t epoch;                                  /* the one under way */
  uint32_t waiting[HAZARD_EPOCHS][HAZARD_CLASSES]; /* blocks last used then, and not since */
  uint32_t waiting_now[HAZARD_CLASSES];            /* of them all */
  double uses[HAZARD_CLASSES][HAZARD_BINS];        /* by age at the use */
  double ended[HAZARD_CLASSES][HAZARD_BINS];       /* waits, by age at their end, used or lost */
  double partial[HAZARD_CLASSES][HAZARD_BINS];     /* ticks they spent in their last bin */
  float rate[HAZARD_CLASSES][HAZARD_BINS];         /* believed hazard, as of the last weighing */
  float worth[HAZARD_CLASSES][HAZARD_BINS];        /* the index made from it */
};

/* Nothing learned. `now` is the time; it is in ticks and may wrap. */
void kvstow__hazard_init(struct hazard *hazard, uint32_t now);

/* A block of `class` waits for its next use since `since`, mostly now. */
void kvstow__hazard_wait(struct hazard *hazard, uint32_t class, uint32_t since, uint32_t now);

/* A block that waited since `since` was used, or is lost sight of. */
void kvstow__hazard_use(struct hazard *hazard, uint32_t class, uint32_t since, uint32_t now);
void kvstow__hazard_lose(struct hazard *hazard, uint32_t class, uint32_t since, uint32_t now);

/* Works out worth[][] from the counts. Takes tens of microseconds. */
void kvstow__hazard_weigh(struct hazard *hazard, uint32_t now);

/* Halves what was learned from the past. */
void kvstow__hazard_fade(struct hazard *hazard);

/* Age in ticks to bin: the octave, and which half of it. */
static inline uint32_t hazard_bin(uint32_t age) {
  if (age < 2) return 0;
  const uint32_t octave = 31u - (uint32_t)__builtin_clz(age);
  const uint32_t bin = octave * 2 + (age >> (octave - 1) & 1) - 1;
  return bin < HAZARD_BINS ? bin : HAZARD_BINS - 1;
}

/* The first age in a bin: 0, 2, 3, 4, 6, 8, 12, ... */
static inline uint32_t hazard_bin_start(uint32_t bin) {
  if (bin == 0) return 0;
  const uint32_t octave = (bin + 1) / 2;
  return bin % 2 != 0 ? UINT32_C(1) << octave : UINT32_C(3) << (octave - 1);
}

/* The probability that a block of `age` is used in the next `ticks`. */
double kvstow__hazard_chance(const struct hazard *hazard, uint32_t class, uint32_t age,
                             double ticks);

static inline float hazard_worth(const struct hazard *hazard, uint32_t class, uint32_t age) {
  return hazard->worth[class][hazard_bin(age)];
}

#endif
