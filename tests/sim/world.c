/* world.c - see world.h: the plan of a seed.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/world.h"

plan the_plan;
uint64_t the_seed;
unsigned the_life;
bool tracing;

enum { SEGMENTS_MAX = 200 };

bool healthy(void) {
  return !the_plan.errors && !the_plan.lies && !the_plan.slow && !the_plan.one_dies;
}

static void draw_shape(kv_rng *rng, kv_shape *shape) {
  static const uint32_t rows[] = {64, 200, 256, 512, 1024, 3000};
  shape->block_tokens = (uint32_t)kv_between(rng, 1, 2) * 8;
  if (kv_chance(rng, 15)) { /* opaque */
    shape->opaque_max_bytes = (uint32_t)kv_between(rng, 100, 60000);
    return;
  }
  const bool heavy = kv_chance(rng, 15); /* RAM holds a dozen blocks */
  shape->layers = (uint32_t)kv_between(rng, heavy ? 5 : 1, heavy ? LAYERS_MAX : 3);
  shape->k_bytes = rows[heavy ? 5 : kv_below(rng, 6)];
  shape->v_bytes = kv_chance(rng, 20) ? 0 : shape->k_bytes;
}

/* On the disk, padding and header included, at most. */
static uint64_t record_bytes(const kv_shape *shape) {
  if (shape->layers == 0) return shape->opaque_max_bytes + 3 * 4096;
  return (uint64_t)kv_block_bytes(0, shape) + (uint64_t)2 * 4096 * shape->layers + 8192;
}

static void draw_chance(kv_rng *rng, sim_faults *faults, sim_fault fault, unsigned percent,
                        size_t most) {
  if (kv_chance(rng, percent)) faults->chance[fault] = (uint16_t)kv_below(rng, most);
}

/* What engines must cope with on any disk. */
static void draw_manners(kv_rng *rng, sim_faults *faults) {
  draw_chance(rng, faults, SIM_SHORT_READ, 50, 2000);
  draw_chance(rng, faults, SIM_SHORT_WRITE, 50, 2000);
  draw_chance(rng, faults, SIM_AGAIN, 50, 1500);
  draw_chance(rng, faults, SIM_PARTIAL_SUBMIT, 50, 3000);
  faults->chance[SIM_NO_RING] = kv_chance(rng, 20) ? 10000 : 0;
  faults->chance[SIM_LANDED] = 5000;
}

static void draw_kind(kv_rng *rng, plan *p, sim_faults *faults) {
  switch (kv_below(rng, 9)) {
    case 0:
    case 1: /* power alone */
      break;
    case 2:
    case 3: /* errors that are told */
      p->errors = true;
      draw_chance(rng, faults, SIM_EIO_READ, 50, 400);
      draw_chance(rng, faults, SIM_EIO_WRITE, 50, 400);
      draw_chance(rng, faults, SIM_EIO_SYNC, 40, 1500);
      draw_chance(rng, faults, SIM_NO_SPACE, 30, 1000);
      draw_chance(rng, faults, SIM_NO_OPEN, 30, 400);
      break;
    case 4:
    case 5: /* slowness */
      p->slow = true;
      faults->chance[SIM_SLOW] = (uint16_t)kv_between(rng, 1, 1000);
      draw_chance(rng, faults, SIM_LOST, 50, 100);
      p->lost = faults->chance[SIM_LOST] > 0;
      break;
    case 6:
      p->one_dies = true;
      p->dirs = 2;
      break;
    default:
      p->lies = true;
      draw_chance(rng, faults, SIM_MISDIRECTED_WRITE, 40, 300);
      draw_chance(rng, faults, SIM_MISDIRECTED_READ, 40, 300);
      draw_chance(rng, faults, SIM_PHANTOM, 40, 300);
      draw_chance(rng, faults, SIM_FLIP_WRITE, 40, 300);
      draw_chance(rng, faults, SIM_FLIP_READ, 40, 300);
      faults->chance[SIM_STALE] = kv_chance(rng, 40) ? 5000 : 0;
  }
}

static void draw_lives(kv_rng *rng, plan *p, const sim_faults *faults) {
  uint64_t all = 0;
  for (unsigned u = 0; u < p->users; u++)
    if (p->owner[u] == u) all += NODES * record_bytes(&p->shape[u % p->spaces]);
  p->ample = kv_chance(rng, 60);
  /* a forget closes a segment, however little is in it */
  uint64_t segments = p->ample ? 60 + 3 * all / SIM_SEGMENT_BYTES : kv_between(rng, 2, 5);
  for (unsigned i = 0; i < LIVES_MAX; i++) {
    life_plan *life = &p->life[i];
    if (i > 0 && kv_chance(rng, 20)) /* another budget: never less than one segment */
      segments = 1 + (kv_chance(rng, 50) ? segments * 2 : segments / 2) % SEGMENTS_MAX;
    life->ssd_bytes = (p->dirs + segments) * (uint64_t)(SIM_SEGMENT_BYTES + 16384);
    life->ram_bytes = kv_between(rng, 4, kv_chance(rng, 80) ? 4 : 8) * 2 * KV_MIB;
    life->engine = kv_chance(rng, 40)   ? SIM_ENGINE_OWN
                   : kv_chance(rng, 50) ? SIM_ENGINE_THREADS
                                        : SIM_ENGINE_RING;
    life->faults = *faults;
    life->rude = kv_chance(rng, 30);
    if (kv_chance(rng, 60)) {
      const size_t scale = (size_t)1 << kv_between(rng, 4, 12);
      life->faults.crash_at = (uint32_t)kv_between(rng, 1, scale);
    }
    if (p->one_dies && kv_chance(rng, 70)) {
      life->faults.dead_at = (uint32_t)kv_between(rng, 1, kv_chance(rng, 30) ? 10 : 1500);
      life->faults.dead_dir = (uint8_t)kv_below(rng, 2);
    }
  }
}

void plan_make(uint64_t seed) {
  kv_rng rng = {kv_mix(seed ^ 0x51a1u)};
  plan *p = &the_plan;
  memset(p, 0, sizeof *p);
  the_seed = seed;
  p->users = (unsigned)kv_between(&rng, 1, USERS_MAX);
  p->lives = (unsigned)kv_between(&rng, 1, LIVES_MAX - 1);
  p->ops = (unsigned)kv_between(&rng, 20, OPS_MAX);
  p->dirs = kv_chance(&rng, 30) ? 2 : 1;
  p->spaces = kv_chance(&rng, 40) ? 2 : 1;
  p->files = kv_chance(&rng, 30);
  p->encrypted = kv_chance(&rng, 15);
  for (unsigned i = 0; i < p->spaces; i++) draw_shape(&rng, &p->shape[i]);
  for (unsigned i = 0; i < p->spaces; i++)
    if (record_bytes(&p->shape[i]) > 300000) p->ops = p->ops / 3 + 20; /* they take their time */
  for (unsigned u = 0; u < USERS_MAX; u++) p->owner[u] = u;
  if (kv_chance(&rng, 30)) p->owner[p->users - 1] = 0; /* two users of one tenant */
  sim_faults faults = {{0}};
  draw_manners(&rng, &faults);
  draw_kind(&rng, p, &faults);
  draw_lives(&rng, p, &faults);
  if (healthy() && kv_chance(&rng, 20)) {
    p->write_bytes_a_day = kv_between(&rng, 1, 12) * KV_MIB;
    p->ample = false;
    for (unsigned i = 0; i < LIVES_MAX; i++) /* so that what was written can be told to the byte */
      p->life[i].faults.chance[SIM_SHORT_WRITE] = 0;
  }
  kv_rng kills = {kv_mix(seed ^ 0x6b11u)};
  for (unsigned i = 0; i < LIVES_MAX; i++)
    if (kv_chance(&kills, 25))
      p->life[i].faults.kill_at =
          (uint32_t)kv_between(&kills, 1, (size_t)1 << kv_between(&kills, 4, 12));
  kv_rng openings = {kv_mix(seed ^ 0x0be1u)};
  p->reads_fail_at_opening = kv_chance(&openings, 50);
  sim_faults *last = &p->life[p->lives].faults; /* at the end disks are as they should be */
  *last = (sim_faults){{0}};
}
