/* life.c - see world.h: opening, closing, and what happens in between.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/world.h"

#include <kvstow/policy.h>

kvstow *store;
kvstow_space *spaces[SPACES_MAX];
uint32_t load_timeout_ms, store_timeout_ms;

static user users[USERS_MAX];
static unsigned actors_left;

static const life_plan *the_life_plan(void) {
  return &the_plan.life[the_life];
}

static bool last_life(void) {
  return the_life == the_plan.lives;
}

/* ---- opening -------------------------------------------------------------------------------- */

/* The library opens its tier here: on the simulated disks. */
int __wrap_kvstow_tier_open(const kvstow_tier_options *options, kvstow_tier **tier, char *why,
                            size_t why_bytes);
int __wrap_kvstow_tier_open(const kvstow_tier_options *options, kvstow_tier **tier, char *why,
                            size_t why_bytes) {
  return kvstow__tier_open_with(options, sim_disk_io(the_life_plan()->engine), tier, why,
                                why_bytes);
}

static const char *draw_policy(kv_rng *rng) {
  size_t count = 0;
  while (kvstow_policy_at(count)) count++;
  const size_t i = kv_below(rng, count + 1);
  return i == count ? "default" : kvstow_policy_at(i)->name;
}

static void on_event(void *arg, const kvstow_event *event) {
  (void)arg;
  CHECK(event->kind != KVSTOW_EVENT_CORRUPT || the_plan.lies || m->crashes > 0,
        "an event tells of corruption on disks that do not lie");
}

static const uint8_t KEY[KVSTOW_KEY_BYTES] = "a key of thirty-two bytes, or so";

static void draw_options(kv_rng *rng, kvstow_options *o) {
  static const char *const dirs[] = {"/sim/0", "/sim/1"};
  kvstow_options_init(o);
  o->dirs = dirs;
  o->dirs_count = the_plan.dirs;
  o->ram_bytes = the_life_plan()->ram_bytes;
  o->ssd_bytes = the_life_plan()->ssd_bytes;
  o->segment_bytes = SIM_SEGMENT_BYTES;
  o->queue_depth = (uint32_t)kv_between(rng, 1, 64);
  o->ram_policy = draw_policy(rng);
  o->ssd_policy = draw_policy(rng);
  o->write_mode = kv_chance(rng, 50) ? KVSTOW_WRITE_THROUGH : KVSTOW_WRITE_BACK;
  o->high_watermark_pct = kv_chance(rng, 50) ? 90 : 20;
  o->low_watermark_pct = o->high_watermark_pct - 10;
  o->reinsert_pct = kv_chance(rng, 50) ? 25 : 0;
  o->write_bytes_a_day = the_plan.write_bytes_a_day;
  o->populate = kv_chance(rng, 20);
  if (the_plan.encrypted) o->encryption_key = KEY;
  if (kv_chance(rng, 30)) o->load_timeout_ms = 50;
  if (kv_chance(rng, 30)) o->store_timeout_ms = 20;
  if (kv_chance(rng, 50)) o->on_event = on_event;
  load_timeout_ms = o->load_timeout_ms;
  store_timeout_ms = o->store_timeout_ms;
}

static int open_spaces(void) {
  for (unsigned i = 0; i < the_plan.spaces; i++) {
    const kv_shape *shape = &the_plan.shape[i];
    kvstow_space_options so;
    kvstow_space_options_init(&so);
    so.name = "sim";
    so.fingerprint = i == 0 ? "sim0" : "sim1";
    so.fingerprint_bytes = 4;
    so.layers = shape->layers;
    so.k_bytes = shape->k_bytes;
    so.v_bytes = shape->v_bytes;
    so.block_tokens = shape->block_tokens;
    so.opaque_max_bytes = shape->opaque_max_bytes;
    const int code = kvstow_space_open(store, &so, &spaces[i]);
    CHECK(code == 0, "space_open: %s", kvstow_errname(code));
  }
  return 0;
}

/* A budget smaller than the last one's costs what does not fit. */
static void weigh_budget(void) {
  for (unsigned i = 0; i < the_life; i++)
    if (the_life_plan()->ssd_bytes < the_plan.life[i].ssd_bytes) lose_promises();
  if (the_life_plan()->ssd_bytes < the_plan.life[0].ssd_bytes) the_plan.ample = false;
}

/* Without its key, or with another's, an encrypted store does not open. */
static void open_with_wrong_key(kvstow_options o) {
  static const uint8_t other[KVSTOW_KEY_BYTES] = "another key";
  kvstow *opened = NULL;
  o.encryption_key = sim_disk_draw(2) ? other : NULL;
  const int code = kvstow_open(&o, &opened, NULL, 0);
  CHECK(code != 0 && opened == NULL, "a store opens without its key");
}

static int open_store(kv_rng *rng, bool must) {
  kvstow_options o;
  draw_options(rng, &o);
  weigh_budget();
  if (the_plan.encrypted && m->opened > 0 && kv_chance(rng, 30)) open_with_wrong_key(o);
  char why[KVSTOW_MESSAGE_BYTES] = "";
  const uint64_t began = sim_now_ns(), failures = sim_disk_failures();
  const uint64_t reads_failed = sim_disk_counts()[SIM_EIO_READ];
  const int code = kvstow_open(&o, &store, why, sizeof why);
  call_ended(CALL_OPEN, began, 0, true);
  if (the_plan.reads_fail_at_opening) sim_disk_reads_well();
  m->reads_failed = sim_disk_counts()[SIM_EIO_READ];
  const uint64_t passed = sim_disk_counts()[SIM_EIO_READ] - reads_failed;
  if (sim_disk_failures() != failures + passed)
    lose_promises(); /* a file that can't be synced has no records */
  else
    m->failures_at_flush += passed;
  if (tracing)
    printf("  life %u: open, policies %s and %s: %s %s\n", the_life, o.ram_policy, o.ssd_policy,
           kvstow_errname(code), why);
  if (code != 0) {
    CHECK(!must, "opening with healthy disks: %s: %s", kvstow_errname(code), why);
    CHECK(code != KVSTOW_EVERSION && code != KVSTOW_EINVAL, "open: %s", kvstow_errname(code));
    return code;
  }
  check_budgets();
  m->opened++;
  return open_spaces();
}

/* What a flush promised must be there, where disks only lose power. */
static void check_promises(void) {
  for (unsigned u = 0; u < the_plan.users; u++)
    for (int i = 0; i < NODES && the_plan.owner[u] == u; i++) {
      path p;
      path_make(&p, u, i);
      bool all = true;
      for (size_t b = 0; b < p.blocks; b++) all = all && m->nodes[u][p.nodes[b]].durable;
      kvstow_held held = {0};
      const int code = kvstow_exists(&p.prefix, &held);
      CHECK(code == 0, "exists: %s", kvstow_errname(code));
      check_held(&p, held.blocks, "after opening");
      CHECK(!all || !promises_hold() || held.blocks == p.blocks,
            "owner %u node %d: flushed, and not there after opening (%zu of %zu)", u, i,
            held.blocks, p.blocks);
    }
}

/* ---- closing -------------------------------------------------------------------------------- */

/* Promotions are under way when it closes. */
static void stir(void) {
  for (unsigned u = 0; u < the_plan.users; u++)
    for (int i = 0; i < NODES; i += 7) {
      path p;
      path_make(&p, the_plan.owner[u], i);
      check_result("prefetch", kvstow_prefetch(&p.prefix));
    }
}

static void count_deeds(void) {
  const kvstow_stats stats = kv_stats(store);
#define X(name, member, text) m->deeds[DEED_##name] += stats.member;
  SIM_DEEDS(X)
#undef X
}

static void close_store(bool must) {
  count_deeds();
  flushing f;
  flush_begin(&f);
  const uint64_t began = sim_now_ns();
  const int code = kvstow_close(store);
  call_ended(CALL_CLOSE, began, 0, true);
  if (tracing) printf("  life %u: close: %s\n", the_life, kvstow_errname(code));
  CHECK(code != KVSTOW_EBUSY, "close: EBUSY, but nothing is open");
  check_result("close", code);
  CHECK(!must || code == 0 || code == KVSTOW_ENOSPC, "closing with healthy disks: %s",
        kvstow_errname(code));
  check_budgets();
  flush_end(&f, code);
}

/* Every block that is held, read and compared. */
static void read_all(void) {
  for (unsigned u = 0; u < the_plan.users; u++)
    for (int i = 0; i < NODES && the_plan.owner[u] == u; i++) {
      path p;
      path_make(&p, u, i);
      kvstow_lease *lease = NULL;
      kvstow_held held;
      if (kvstow_match(&p.prefix, 0, &lease, &held) != 0) continue;
      check_held(&p, held.blocks, "match at the end");
      char *memory = kv_pages(kvstow_space_payload_bytes(p.prefix.space));
      void *payload = memory;
      for (size_t b = 0; b < held.blocks; b++) {
        size_t bytes;
        if (kvstow_read_blocks(lease, b, 1, &payload, &bytes, 0, 0) != 0) break;
        check_blocks(&p, b, 1, &payload, &bytes);
      }
      free(memory);
      kvstow_lease_release(lease);
      sim_progress();
    }
}

/* ---- a life --------------------------------------------------------------------------------- */

static void ended(void) {
  if (--actors_left == 0) sim_wake(&actors_left, true);
}

static kv_rng rng_of(unsigned actor, unsigned operation) {
  return (kv_rng){kv_hash2(the_seed, (uint64_t)the_life << 32 | actor << 16 | operation)};
}

static void *user_main(void *arg) {
  user *u = arg;
  for (unsigned i = 0; i < the_plan.ops; i++) {
    if (m->off[the_life][u->number][i]) continue;
    kv_rng rng = rng_of(u->number, i);
    user_do(u, &rng);
    m->operations++;
    sim_progress();
    check_budgets();
  }
  if (!the_life_plan()->rude) user_end(u);
  ended();
  return NULL;
}

static void *filer_main(void *arg) {
  (void)arg;
  for (unsigned i = 0; i < the_plan.ops; i++) {
    if (m->off[the_life][FILER][i]) continue;
    kv_rng rng = rng_of(FILER, i);
    filer_do(&rng);
    m->operations++;
    sim_progress();
  }
  ended();
  return NULL;
}

static void start(void *(*main)(void *), void *arg, const char *name) {
  pthread_t thread;
  CHECK(sim_thread_create(&thread, NULL, main, arg) == 0, "threads");
  sim_thread_setname(thread, name);
  actors_left++;
}

static void use_store(kv_rng *rng) {
  for (unsigned u = 0; u < the_plan.users; u++) user_begin(&users[u], u);
  actors_left = 1;
  for (unsigned u = 0; u < the_plan.users; u++) start(user_main, &users[u], "user");
  if (the_plan.files) start(filer_main, NULL, "filer");
  actors_left--;
  while (actors_left > 0) sim_block(&actors_left, SIM_FOREVER, "waits for the users");
  if (the_life_plan()->rude) {
    const uint64_t began = sim_now_ns();
    const int code = kvstow_close(store);
    call_ended(CALL_SMALL, began, 0, false);
    CHECK(code == KVSTOW_EBUSY, "closing with queues open: %s", kvstow_errname(code));
    for (unsigned u = 0; u < the_plan.users; u++) user_end(&users[u]);
  }
  if (kv_chance(rng, 50)) stir();
}

void live(void) {
  kv_rng rng = {kv_hash2(the_seed, 0x11fe00 + the_life)};
  sim_begin(kv_next(&rng), hung);
  sim_disk_begin(kv_next(&rng), &the_life_plan()->faults);
  if (tracing) sim_disk_trace();
  const bool must = last_life() && !the_plan.lies;
  if (open_store(&rng, must) != 0) _exit(0);
  if (the_plan.files) filer_begin();
  check_promises();
  if (last_life())
    read_all();
  else
    use_store(&rng);
  if (the_plan.files) filer_end();
  close_store(must);
  CHECK(sim_disk_open_files() == 0, "%d descriptors left open", sim_disk_open_files());
  _exit(0);
}
