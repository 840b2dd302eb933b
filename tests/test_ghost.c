/* test_ghost.c - remembered keys against a plain queue, in tables so small that most lines are full.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "eviction/ghost.h"
#include "tests/support/kv.h"

enum { MOST = 64, STEPS = 20000 };

struct model {
  uint64_t keys[MOST]; /* the oldest first */
  struct ghost_note notes[MOST];
  uint32_t count;
};

static uint32_t place(const struct model *model, uint64_t key) {
  uint32_t at = 0;
  while (at < model->count && model->keys[at] != key) at++;
  return at;
}

static void forget(struct model *model, uint32_t at) {
  model->count--;
  for (; at < model->count; at++) {
    model->keys[at] = model->keys[at + 1];
    model->notes[at] = model->notes[at + 1];
  }
}

static void remember(struct model *model, uint64_t key, struct ghost_note note, uint32_t most) {
  if (place(model, key) < model->count)
    forget(model, place(model, key));
  else if (model->count == most)
    forget(model, 0);
  model->keys[model->count] = key;
  model->notes[model->count++] = note;
}

static void push(struct ghost *ghost, struct model *model, uint64_t key, struct ghost_note note,
                 uint32_t most) {
  struct ghost_note leaving;
  const bool full = ghost_leaving(ghost, &leaving);
  assert_true(full == (model->count == most));
  if (full) assert_true(ghost->kind == GHOST_KEYS || leaving.facts == model->notes[0].facts);
  if (ghost->kind == GHOST_NOTES)
    kvstow__ghost_push_note(ghost, (uint32_t)key, note);
  else
    kvstow__ghost_push(ghost, key);
  remember(model, key, note, most);
}

static void take(struct ghost *ghost, struct model *model, uint64_t key) {
  const uint32_t at = place(model, key);
  const bool known = at < model->count;
  struct ghost_note note = {0};
  assert_true(kvstow__ghost_has(ghost, key) == known);
  if (ghost->kind == GHOST_KEYS) {
    assert_true(kvstow__ghost_take(ghost, key) == known);
  } else {
    assert_true(kvstow__ghost_take_note(ghost, (uint32_t)key, &note) == known);
    if (known)
      assert_true(note.time == model->notes[at].time && note.facts == model->notes[at].facts);
  }
  if (known) forget(model, at);
}

static void one_kind(enum ghost_kind kind, uint32_t most, uint64_t seed) {
  struct ghost ghost;
  struct model model = {.count = 0};
  assert_true(kvstow__ghost_init(&ghost, most, kind) == 0);
  for (int step = 0; step < STEPS; step++) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    const uint64_t key = (seed >> 40) % (3 * most) * (kind == GHOST_KEYS ? UINT64_C(1) << 31 : 1);
    const struct ghost_note note = {.time = (uint32_t)step, .facts = (uint32_t)(seed >> 33)};
    const uint32_t what = (uint32_t)(seed >> 60);
    if (what < 10) {
      push(&ghost, &model, key, note, most);
    } else if (what < 15) {
      take(&ghost, &model, key);
    } else if (step % 8 == 0) {
      most = 1 + (uint32_t)(seed >> 50) % MOST;
      assert_true(kvstow__ghost_resize(&ghost, most) == 0);
      while (model.count > most) forget(&model, 0);
    }
    assert_true(ghost.count == model.count);
  }
  kvstow__ghost_finish(&ghost);
}

static void ghosts_remember_what_a_queue_does(void **state) {
  (void)state;
  kv_seed("ghosts_remember_what_a_queue_does", 1);
  const uint64_t seed = kv_run_seed * 1000;
  for (uint32_t most = 1; most <= MOST; most++) {
    one_kind(GHOST_KEYS, most, seed + most);
    one_kind(GHOST_NOTES, most, seed + most);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(ghosts_remember_what_a_queue_does)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
