/* model.c - see world.h: nodes, paths, promises, and the checks made of them.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/world.h"

model *m;

/* ---- failure -------------------------------------------------------------------------------- */

void wrong(const char *format, ...) {
  va_list args;
  va_start(args, format);
  const int at = snprintf(m->message, sizeof m->message, "life %u: ", the_life);
  vsnprintf(m->message + at, sizeof m->message - (size_t)at, format, args);
  va_end(args);
  fflush(stdout);
  _exit(SIM_FAILED);
}

void hung(const char *text) {
  snprintf(m->message, sizeof m->message, "life %u: hang: %s", the_life, text);
  fflush(stdout);
  _exit(SIM_HUNG);
}

void trace(unsigned actor, const char *format, ...) {
  if (!tracing) return;
  va_list args;
  va_start(args, format);
  printf("  life %u %s %u %10.3f ms: ", the_life, actor == FILER ? "filer" : "user", actor,
         (double)sim_now_ns() / 1e6);
  vprintf(format, args);
  printf("\n");
  fflush(stdout);
  va_end(args);
}

/* ---- nodes ---------------------------------------------------------------------------------- */

void model_make(uint64_t seed) {
  for (unsigned u = 0; u < USERS_MAX; u++) {
    kv_rng rng = {kv_mix(seed ^ 0x70de1u)}; /* alike for all owners */
    for (int i = 0; i < NODES; i++) {
      node *n = &m->nodes[u][i];
      n->parent = i == 0 || kv_chance(&rng, 15) ? -1 : (int16_t)kv_below(&rng, (size_t)i);
      if (n->parent >= 0 && m->nodes[u][n->parent].depth + 1 >= DEPTH_MAX) n->parent = -1;
      n->depth = n->parent < 0 ? 0 : (uint8_t)(m->nodes[u][n->parent].depth + 1);
    }
  }
}

uint64_t id_of(unsigned owner, int i) {
  return kv_hash2(the_seed * 131 + owner, (uint64_t)i << 32 | m->nodes[owner][i].life);
}

void path_make(path *p, unsigned owner, int end) {
  memset(p, 0, sizeof *p);
  p->owner = owner;
  p->losses = m->losses;
  p->blocks = (size_t)m->nodes[owner][end].depth + 1;
  for (int i = end, at = (int)p->blocks - 1; at >= 0; i = m->nodes[owner][i].parent, at--)
    p->nodes[at] = i;
  const uint32_t each = shape_of(owner)->block_tokens;
  for (size_t b = 0; b < p->blocks; b++) {
    p->ids[b] = id_of(owner, p->nodes[b]);
    p->forgets[b] = m->nodes[owner][p->nodes[b]].forgets;
    for (uint32_t t = 0; t < each; t++)
      p->tokens[b * each + t] = (kvstow_token)(p->nodes[b] * 1000 + (int)t);
  }
  p->prefix = (kvstow_prefix)KVSTOW_PREFIX(spaces[space_of(owner)], p->tokens, p->blocks * each);
  snprintf(p->salt, sizeof p->salt, "user%u", owner / the_plan.spaces);
  p->prefix.salt = p->salt;
  p->prefix.salt_bytes = strlen(p->salt);
}

static node *node_at(const path *p, size_t block) {
  return &m->nodes[p->owner][p->nodes[block]];
}

void mark_begun(const path *p, size_t first, size_t count) {
  for (size_t b = first; b < first + count; b++) node_at(p, b)->stored = true;
}

void mark_settled(const path *p, size_t first, size_t count) {
  if (p->losses != m->losses) return; /* it may have ended before what was lost */
  for (size_t b = first; b < first + count; b++)
    if (node_at(p, b)->forgets == p->forgets[b]) node_at(p, b)->settled = true;
}

bool all_settled(const path *p, size_t blocks) {
  for (size_t b = 0; b < blocks; b++)
    if (!node_at(p, b)->settled) return false;
  return true;
}

/* ---- forgetting ----------------------------------------------------------------------------- */

static bool forgotten_by(const forgetting *f, unsigned owner, int i) {
  if (f->whole_space) return space_of(owner) == space_of(f->owner);
  if (owner != f->owner) return false;
  if (f->top < 0) return true;
  while (i >= 0 && i != f->top) i = m->nodes[owner][i].parent;
  return i == f->top;
}

/* No deeper than what is forgotten, or with all its ancestors down from there. */
static bool proves_itself(const forgetting *f, unsigned owner, int i) {
  if (owner != f->owner || f->top < 0) return true;
  const unsigned first = m->nodes[owner][f->top].depth;
  for (int up = m->nodes[owner][i].parent; up >= 0; up = m->nodes[owner][up].parent)
    if (m->nodes[owner][up].depth >= first && !m->nodes[owner][up].settled) return false;
  return true;
}

static bool by_its_only_user(const forgetting *f) {
  unsigned users = 0;
  for (unsigned u = 0; u < the_plan.users; u++) {
    const unsigned owner = the_plan.owner[u];
    users += f->whole_space ? space_of(owner) == space_of(f->owner) : owner == f->owner;
  }
  return users == 1;
}

void forget_begin(const forgetting *f) {
  bool open[USERS_MAX][NODES];
  for (unsigned u = 0; u < USERS_MAX; u++)
    for (int i = 0; i < NODES; i++) open[u][i] = forgotten_by(f, u, i) || !proves_itself(f, u, i);
  for (unsigned u = 0; u < USERS_MAX; u++)
    for (int i = 0; i < NODES; i++) {
      if (!open[u][i]) continue;
      node *n = &m->nodes[u][i];
      n->settled = n->durable = false;
      n->forgets++;
    }
}

void forget_end(const forgetting *f, int code) {
  /* Another user may have stored the same meanwhile, before it or behind it. A disk that lies may bring
   * back what was erased. */
  const bool final = code == 0 && !the_plan.lies && by_its_only_user(f);
  for (unsigned u = 0; u < USERS_MAX; u++)
    for (int i = 0; i < NODES; i++) {
      if (!forgotten_by(f, u, i)) continue;
      node *n = &m->nodes[u][i];
      n->settled = n->durable = false;
      n->forgets++;
      if (!final) continue;
      n->stored = false;
      n->life++;
    }
}

/* ---- promises ------------------------------------------------------------------------------- */

void lose_promises(void) {
  m->losses++;
  for (unsigned u = 0; u < USERS_MAX; u++)
    for (int i = 0; i < NODES; i++) m->nodes[u][i].settled = m->nodes[u][i].durable = false;
}

/* What was flushed must be there: disks that fail have not failed since. (A read that fails while the store is opened
 * costs nothing, life.c: it is tried again.) */
bool promises_hold(void) {
  if (!the_plan.ample) return false;
  if (healthy()) return true;
  const uint16_t *chance = the_plan.life[0].faults.chance; /* the last life has none */
  return the_plan.errors && !chance[SIM_NO_OPEN] && sim_disk_failures() == m->failures_at_flush;
}

void flush_begin(flushing *f) {
  for (unsigned u = 0; u < USERS_MAX; u++)
    for (int i = 0; i < NODES; i++) {
      f->settled[u][i] = m->nodes[u][i].settled;
      f->forgets[u][i] = m->nodes[u][i].forgets;
    }
}

void flush_end(const flushing *f, int code) {
  /* Any block may have gone with the disk that failed; one that can't be read is erased. */
  const bool lost = code != 0 || sim_disk_counts()[SIM_EIO_READ] != m->reads_failed;
  if (lost) lose_promises();
  if (lost || !the_plan.ample) return;
  m->flushes_kept++;
  m->failures_at_flush = sim_disk_failures() - sim_requests_failing(); /* they are told later */
  for (unsigned u = 0; u < USERS_MAX; u++)
    for (int i = 0; i < NODES; i++) {
      node *n = &m->nodes[u][i];
      if (f->settled[u][i] && n->settled && n->forgets == f->forgets[u][i]) n->durable = true;
    }
}

void forget_unflushed(void) {
  for (unsigned u = 0; u < USERS_MAX; u++)
    for (int i = 0; i < NODES; i++) m->nodes[u][i].settled = m->nodes[u][i].durable;
}

/* ---- checks --------------------------------------------------------------------------------- */

void check_result(const char *who, int code) {
  switch (code) {
    case 0:
    case KVSTOW_EMISS:
    case KVSTOW_ETIMEDOUT:
    case KVSTOW_EFULL:
    case KVSTOW_ENOSPC:
    case KVSTOW_EBUSY:
    case KVSTOW_ECANCELED:
      return;
    case KVSTOW_EOFFLINE: /* one directory that lives is enough */
    case KVSTOW_EIO:
      CHECK(!healthy() && (code != KVSTOW_EOFFLINE || !the_plan.one_dies), "%s: %s", who,
            kvstow_errname(code));
      return;
    case KVSTOW_ECORRUPT: /* told lies, or a write was torn */
      CHECK(!healthy() || m->crashes > 0, "%s: %s", who, kvstow_errname(code));
      return;
    default:
      wrong("%s: %s", who, kvstow_errname(code));
  }
}

void check_held(const path *p, size_t blocks, const char *who) {
  CHECK(blocks <= p->blocks, "%s: %zu blocks of %zu", who, blocks, p->blocks);
  for (size_t b = 0; b < blocks; b++)
    CHECK(node_at(p, b)->stored, "%s: owner %u node %d is held but was not stored", who, p->owner,
          p->nodes[b]);
}

void check_budgets(void) {
  const life_plan *life = &the_plan.life[the_life];
  CHECK(sim_disk_bytes() <= life->ssd_bytes,
        "over budget: the disk holds %" PRIu64 " bytes of %" PRIu64, sim_disk_bytes(),
        life->ssd_bytes);
  const uint64_t a_day = the_plan.write_bytes_a_day;
  CHECK(a_day == 0 || sim_disk_written() <= a_day,
        "over the daily budget: %" PRIu64 " bytes written of %" PRIu64, sim_disk_written(), a_day);
}

void call_ended(sim_call call, uint64_t began_ns, uint64_t timeout_ms, bool waits_for_device) {
  static const char *const texts[] = {
#define X(name, text) text,
      SIM_CALLS(X)
#undef X
  };
  const uint64_t took = sim_now_ns() - began_ns, free_ns = timeout_ms * 1000000;
  const uint64_t over = took > free_ns ? took - free_ns : 0;
  if (over > m->longest_ns[call]) m->longest_ns[call] = over;
  /* a device's longest: two minutes for a lost completion, two seconds for a spike; a few in a row */
  const uint64_t device_s = the_plan.lost ? 1800 : the_plan.slow ? 300 : 8;
  const uint64_t bound_ns = waits_for_device ? device_s * 1000000000 : 100000000;
  CHECK(over <= bound_ns, "hang: %s took %.3f s, %.3f s longer than its time-out", texts[call],
        (double)took / 1e9, (double)over / 1e9);
}
