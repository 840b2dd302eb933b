/* test_index.c - the index against a list, where its lines overflow and slots are mistaken for each other.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/kv.h"

#include "kvcache/index.h"

/* Keys that share lines, shards and what a slot knows of them, so that lines overflow and tags lie. */
static kvstow_key crowded_key(kv_rng *rng) {
  const uint64_t line = kv_below(rng, 3), shard = kv_below(rng, 2), tag = kv_below(rng, 3);
  const uint64_t slot = kv_below(rng, 2), rest = kv_below(rng, 20);
  return (kvstow_key){tag << 60 | slot << 38 | shard << 32 | rest << 20 | line, kv_below(rng, 2)};
}

static void a_crowded_index_finds_what_is_in_it(void **state) {
  (void)state;
  enum { MOST = 400, STEPS = 40000 };
  kv_rng rng = kv_seed("crowded", 11);
  struct kvs_index index;
  assert_int_equal(kvs_index_init(&index, (uint64_t)MOST), 0);
  uint32_t ids[MOST], count = 0;
  for (int step = 0; step < STEPS; step++) {
    const kvstow_key key = crowded_key(&rng);
    const uint32_t root = (uint32_t)kv_below(&rng, 2);
    uint32_t held = KVS_NO_ENTRY, half = KVS_NO_ENTRY, at = 0;
    for (uint32_t i = 0; i < count; i++) {
      const struct kvs_entry *entry = kvs_entry(&index, ids[i]);
      if (entry->key.lo != key.lo || entry->root != root) continue;
      half = ids[i];
      if (entry->key.hi == key.hi) held = ids[i], at = i;
    }
    assert_int_equal(kvs_shard_find(&index, key, root), held);
    assert_int_equal(kvs_shard_find_half(&index, key.lo, root) != KVS_NO_ENTRY,
                     half != KVS_NO_ENTRY);
    const uint64_t wanted = step / 4000 % 2 == 0 ? 300 : 20; /* it fills and empties */
    if (held != KVS_NO_ENTRY && count > kv_below(&rng, 2 * wanted)) {
      kvs_shard_remove(&index, held);
      kvs_entry_free(&index, held);
      ids[at] = ids[--count];
    } else if (held == KVS_NO_ENTRY && count < MOST) {
      const uint32_t id = kvs_entry_new(&index);
      struct kvs_entry *entry = kvs_entry(&index, id);
      entry->key = key;
      entry->root = root;
      assert_true(kvs_shard_insert(&index, id));
      ids[count++] = id;
    }
  }
  while (count > 0) {
    kvs_shard_remove(&index, ids[--count]);
    for (uint32_t i = 0; i < count; i++) {
      const struct kvs_entry *entry = kvs_entry(&index, ids[i]);
      assert_int_equal(kvs_shard_find(&index, entry->key, entry->root), ids[i]);
    }
  }
  kvs_index_finish(&index);
}

struct looker {
  const struct kvs_index *index;
  _Atomic bool stop;
  uint64_t sum; /* of what was read */
};

static kvstow_key spread_key(uint64_t i) {
  return (kvstow_key){i * 0x9e3779b97f4a7c15u, i};
}

/* What it is led to is some entry's memory, whatever has become of that. */
static void *look_ahead(void *arg) {
  struct looker *looker = arg;
  for (uint64_t i = 0; !atomic_load(&looker->stop); i++) {
    kvs_shard_ahead(looker->index, spread_key(i + 8));
    const struct kvs_entry *entry = kvs_shard_ahead_entry(looker->index, spread_key(i % 40000));
    if (entry != NULL) looker->sum += entry->frame;
  }
  return NULL;
}

/* Under sanitizers: no race, and no memory that is gone, while shards grow out of level after level. */
static void looks_ahead_need_no_lock(void **state) {
  (void)state;
  enum { BLOCKS = 40000 };
  struct kvs_index index;
  assert_int_equal(kvs_index_init(&index, (uint64_t)BLOCKS), 0);
  struct looker looker = {.index = &index};
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, look_ahead, &looker), 0);
  static uint32_t ids[BLOCKS];
  for (int turn = 0; turn < 2; turn++) {
    for (uint64_t i = 0; i < BLOCKS; i++) {
      ids[i] = kvs_entry_new(&index);
      struct kvs_entry *entry = kvs_entry(&index, ids[i]);
      entry->key = spread_key(i);
      entry->frame = (uint32_t)i;
      kvs_shard_lock(&index, entry->key);
      assert_true(kvs_shard_insert(&index, ids[i]));
      kvs_shard_unlock(&index, entry->key);
    }
    for (uint64_t i = 0; i < BLOCKS; i++) {
      assert_int_equal(kvs_shard_find(&index, spread_key(i), 0), ids[i]);
      assert_non_null(kvs_shard_ahead_entry(&index, spread_key(i)));
    }
    for (uint64_t i = 0; i < BLOCKS; i++) {
      kvs_shard_lock(&index, spread_key(i));
      kvs_shard_remove(&index, ids[i]);
      kvs_shard_unlock(&index, spread_key(i));
      kvs_entry_free(&index, ids[i]);
    }
  }
  atomic_store(&looker.stop, true);
  pthread_join(thread, NULL);
  kvs_index_finish(&index);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_crowded_index_finds_what_is_in_it),
    cmocka_unit_test(looks_ahead_need_no_lock),
};

int main(void) {
  return cmocka_run_group_tests(tests, NULL, NULL);
}
