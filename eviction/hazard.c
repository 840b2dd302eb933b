/* eviction/hazard.c - counts, hazards, and the index made from them; see hazard.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "eviction/hazard.h"

#include <stdbool.h>
#include <string.h>

#define PRIOR_HAZARD 0.3 /* times 1 / age */
#define PRIOR_YOUNG 128  /* ticks below which an age is not told apart from another */
#define PRIOR_BLOCKS 1   /* the prior's weight, in blocks that were watched at each age */
#define DEPARTURE 1      /* uses after which a class is as much itself as like all others */
#define NEIGHBOUR                                                                                  \
  0.5                /* the weight of the next bin's counts; of the one after it, its square, ... */
#define NEIGHBOURS 5 /* on either side */

/* The first age in a bin: 0, 2, 3, 4, 6, 8, 12, ... */
static double bin_start(uint32_t bin) {
  if (bin == 0) return 0;
  const uint32_t octave = (bin + 1) / 2;
  const double power = (double)(UINT64_C(1) << octave);
  return (bin + 1) % 2 != 0 ? power * 1.5 : power;
}

static double bin_width(uint32_t bin) {
  return bin_start(bin + 1) - bin_start(bin);
}

/* ---- counting ---- */

void kvstow__hazard_init(struct hazard *hazard, uint32_t now) {
  memset(hazard, 0, sizeof *hazard);
  hazard->epoch = now / HAZARD_EPOCH;
  kvstow__hazard_weigh(hazard, now);
}

static void end(struct hazard *hazard, uint32_t class, uint32_t age, double blocks) {
  const uint32_t bin = hazard_bin(age);
  hazard->ended[class][bin] += blocks;
  hazard->partial[class][bin] += blocks * (age - bin_start(bin));
}

/* Epochs from `since` to `now`, whose numbers wrap with the ticks. */
static uint32_t epochs_between(uint32_t since, uint32_t now) {
  return (now / HAZARD_EPOCH - since / HAZARD_EPOCH) % (UINT32_MAX / HAZARD_EPOCH + 1);
}

/* Opens the epoch of `now`. What still waits since one as old as there are epochs is lost. */
static void advance(struct hazard *hazard, uint32_t now) {
  const uint32_t epoch = now / HAZARD_EPOCH;
  for (uint32_t steps = 0; hazard->epoch != epoch && steps < HAZARD_EPOCHS; steps++) {
    hazard->epoch = (hazard->epoch + 1) % (UINT32_MAX / HAZARD_EPOCH + 1);
    uint32_t *row = hazard->waiting[hazard->epoch % HAZARD_EPOCHS];
    for (uint32_t class = 0; class < HAZARD_CLASSES; class ++) {
      if (row[class] == 0) continue;
      end(hazard, class, (HAZARD_EPOCHS - 1) * HAZARD_EPOCH, row[class]);
      hazard->waiting_now[class] -= row[class];
      row[class] = 0;
    }
  }
  hazard->epoch = epoch;
}

void kvstow__hazard_wait(struct hazard *hazard, uint32_t class, uint32_t since, uint32_t now) {
  advance(hazard, now);
  if (epochs_between(since, now) >= HAZARD_EPOCHS) return;
  hazard->waiting[since / HAZARD_EPOCH % HAZARD_EPOCHS][class]++;
  hazard->waiting_now[class]++;
}

/* Whether the wait was still counted. */
static bool stop_waiting(struct hazard *hazard, uint32_t class, uint32_t since, uint32_t now) {
  advance(hazard, now);
  uint32_t *waiting = &hazard->waiting[since / HAZARD_EPOCH % HAZARD_EPOCHS][class];
  if (epochs_between(since, now) >= HAZARD_EPOCHS || *waiting == 0) return false;
  --*waiting;
  hazard->waiting_now[class]--;
  end(hazard, class, now - since, 1);
  return true;
}

void kvstow__hazard_use(struct hazard *hazard, uint32_t class, uint32_t since, uint32_t now) {
  if (stop_waiting(hazard, class, since, now)) hazard->uses[class][hazard_bin(now - since)]++;
}

void kvstow__hazard_lose(struct hazard *hazard, uint32_t class, uint32_t since, uint32_t now) {
  stop_waiting(hazard, class, since, now);
}

void kvstow__hazard_fade(struct hazard *hazard) {
  for (uint32_t class = 0; class < HAZARD_CLASSES; class ++) {
    for (uint32_t bin = 0; bin < HAZARD_BINS; bin++) {
      hazard->uses[class][bin] /= 2;
      hazard->ended[class][bin] /= 2;
      hazard->partial[class][bin] /= 2;
    }
  }
}

/* ---- weighing ---- */

/* Ticks that blocks of a class spent unused, by age. */
static void exposure(const struct hazard *hazard, uint32_t class, uint32_t now,
                     double ticks[HAZARD_BINS]) {
  double waits[HAZARD_BINS], beyond = 0;
  for (uint32_t bin = 0; bin < HAZARD_BINS; bin++) {
    waits[bin] = hazard->ended[class][bin];
    ticks[bin] = hazard->partial[class][bin];
  }
  for (uint32_t past = 0, left = hazard->waiting_now[class]; left > 0; past++) {
    const uint32_t blocks = hazard->waiting[(hazard->epoch - past) % HAZARD_EPOCHS][class];
    if (blocks == 0) continue;
    left -= blocks;
    const uint32_t under_way = now % HAZARD_EPOCH; /* they began somewhere in their epoch */
    const uint32_t age =
        past == 0 ? under_way / 2 : under_way + past * HAZARD_EPOCH - HAZARD_EPOCH / 2;
    const uint32_t bin = hazard_bin(age);
    waits[bin] += blocks;
    ticks[bin] += blocks * (age - bin_start(bin));
  }
  for (uint32_t bin = HAZARD_BINS; bin-- > 0;) {
    ticks[bin] += beyond * bin_width(bin);
    beyond += waits[bin];
  }
}

/* A stretch of ages: probability of a use in it, ticks spent in it, probability to survive it. */
struct stretch {
  double use, ticks, survive;
};

/* The Gittins index at the start of each bin. From the last bin back: a stretch is joined with the
 * one after it while that one is the better. */
static void index_of(const double hazard[HAZARD_BINS], float worth[HAZARD_BINS]) {
  struct stretch stack[HAZARD_BINS];
  uint32_t depth = 0;
  for (uint32_t bin = HAZARD_BINS; bin-- > 0;) {
    const double survive = 1 / (1 + hazard[bin] * bin_width(bin));
    struct stretch now = {
        .use = 1 - survive, .ticks = bin_width(bin) * survive, .survive = survive};
    for (; depth > 0; depth--) {
      const struct stretch *next = &stack[depth - 1];
      if (next->use * now.ticks <= now.use * next->ticks) break;
      now.use += now.survive * next->use;
      now.ticks += now.survive * next->ticks;
      now.survive *= next->survive;
    }
    worth[bin] = (float)(now.use / now.ticks);
    stack[depth++] = now;
  }
}

/* Of all classes together. */
static void weigh_common(const struct hazard *hazard,
                         const double ticks[HAZARD_CLASSES][HAZARD_BINS],
                         double common[HAZARD_BINS]) {
  for (uint32_t bin = 0; bin < HAZARD_BINS; bin++) {
    double exposed = PRIOR_BLOCKS * bin_width(bin);
    double uses = exposed * PRIOR_HAZARD / (bin_start(bin + 1) + PRIOR_YOUNG);
    for (uint32_t class = 0; class < HAZARD_CLASSES; class ++) {
      uses += hazard->uses[class][bin];
      exposed += ticks[class][bin];
    }
    common[bin] = uses / exposed;
  }
}

/* How a class departs from what is common around an age: uses seen by uses expected. */
static double departure(const double uses[HAZARD_BINS], const double expected[HAZARD_BINS],
                        uint32_t bin) {
  double seen = DEPARTURE + uses[bin], believed = DEPARTURE + expected[bin], weight = NEIGHBOUR;
  for (uint32_t off = 1; off <= NEIGHBOURS; off++) {
    if (off <= bin) {
      seen += weight * uses[bin - off];
      believed += weight * expected[bin - off];
    }
    if (bin + off < HAZARD_BINS) {
      seen += weight * uses[bin + off];
      believed += weight * expected[bin + off];
    }
    weight *= NEIGHBOUR;
  }
  return seen / believed;
}

/* Has no block of the class been counted? */
static bool unknown(const struct hazard *hazard, uint32_t class) {
  if (hazard->waiting_now[class] > 0) return false;
  for (uint32_t bin = 0; bin < HAZARD_BINS; bin++)
    if (hazard->ended[class][bin] != 0) return false;
  return true;
}

/* What is believed of classes of which nothing is known: the same of all, worked out once. */
static void weigh_unknown(struct hazard *hazard, const double common[HAZARD_BINS]) {
  float rate[HAZARD_BINS], worth[HAZARD_BINS];
  for (uint32_t bin = 0; bin < HAZARD_BINS; bin++) rate[bin] = (float)common[bin];
  index_of(common, worth);
  for (uint32_t class = 0; class < HAZARD_CLASSES; class ++) {
    if (!unknown(hazard, class)) continue;
    memcpy(hazard->rate[class], rate, sizeof rate);
    memcpy(hazard->worth[class], worth, sizeof worth);
  }
}

void kvstow__hazard_weigh(struct hazard *hazard, uint32_t now) {
  double ticks[HAZARD_CLASSES][HAZARD_BINS], common[HAZARD_BINS];
  advance(hazard, now);
  for (uint32_t class = 0; class < HAZARD_CLASSES; class ++)
    exposure(hazard, class, now, ticks[class]);
  weigh_common(hazard, ticks, common);
  weigh_unknown(hazard, common);
  for (uint32_t class = 0; class < HAZARD_CLASSES; class ++) {
    if (unknown(hazard, class)) continue;
    double expected[HAZARD_BINS], own[HAZARD_BINS];
    for (uint32_t bin = 0; bin < HAZARD_BINS; bin++)
      expected[bin] = common[bin] * ticks[class][bin];
    for (uint32_t bin = 0; bin < HAZARD_BINS; bin++) {
      own[bin] = common[bin] * departure(hazard->uses[class], expected, bin);
      hazard->rate[class][bin] = (float)own[bin];
    }
    index_of(own, hazard->worth[class]);
  }
}

double kvstow__hazard_chance(const struct hazard *hazard, uint32_t class, uint32_t age,
                             double ticks) {
  double survive = 1, from = age;
  for (uint32_t bin = hazard_bin(age); bin < HAZARD_BINS && ticks > 0; bin++) {
    double stay = bin_start(bin + 1) - from;
    if (stay > ticks) stay = ticks;
    survive /= 1 + hazard->rate[class][bin] * stay;
    ticks -= stay;
    from += stay;
  }
  return 1 - survive;
}
