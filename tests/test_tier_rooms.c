/* Rooms for device transfers: never two owners, always page aligned, more than there are from the heap.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "test_tier_fixture.h"

#include "tier/rooms.h"

enum { TAKEN = 100, THREADS = 4, TURNS = 2000 };

static void many_are_taken_and_all_differ(void **state) {
  (void)state;
  kvstow__rooms *rooms = kvstow__rooms_new();
  assert_non_null(rooms);
  uint8_t *at[TAKEN];
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < TAKEN; i++) {
      at[i] = kvstow__rooms_take(rooms, KVSTOW__ROOM_BYTES);
      assert_non_null(at[i]);
      assert_int_equal((uintptr_t)at[i] % 4096, 0);
      memset(at[i], i, KVSTOW__ROOM_BYTES);
    }
    for (int i = 0; i < TAKEN; i++) {
      assert_int_equal(at[i][0], i);
      assert_int_equal(at[i][KVSTOW__ROOM_BYTES - 1], i);
      kvstow__rooms_give(rooms, at[i]);
    }
  }
  uint8_t *large = kvstow__rooms_take(rooms, 3 * KVSTOW__ROOM_BYTES);
  memset(large, 1, 3 * KVSTOW__ROOM_BYTES);
  kvstow__rooms_give(rooms, large);
  kvstow__rooms_give(rooms, NULL);
  kvstow__rooms_free(rooms);
}

static void what_is_given_back_is_taken_again(void **state) {
  (void)state;
  kvstow__rooms *rooms = kvstow__rooms_new();
  void *first = kvstow__rooms_take(rooms, 4096);
  for (int i = 0; i < TAKEN; i++) {
    kvstow__rooms_give(rooms, first);
    assert_ptr_equal(kvstow__rooms_take(rooms, 4096), first);
  }
  kvstow__rooms_give(rooms, first);
  kvstow__rooms_free(rooms);
}

static void *take_turns(void *arg) {
  kvstow__rooms *rooms = arg;
  for (int turn = 0; turn < TURNS; turn++) {
    uint64_t *at[12];
    for (uint64_t i = 0; i < 12; i++) {
      at[i] = kvstow__rooms_take(rooms, 4096);
      *at[i] = (uint64_t)(uintptr_t)&at + i;
    }
    for (uint64_t i = 0; i < 12; i++) {
      if (*at[i] != (uint64_t)(uintptr_t)&at + i) return rooms;
      kvstow__rooms_give(rooms, at[i]);
    }
  }
  return NULL;
}

static void threads_never_share_one(void **state) {
  (void)state;
  kvstow__rooms *rooms = kvstow__rooms_new();
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, take_turns, rooms), 0);
  for (int i = 0; i < THREADS; i++) {
    void *failed;
    pthread_join(threads[i], &failed);
    assert_null(failed);
  }
  kvstow__rooms_free(rooms);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(many_are_taken_and_all_differ),
      cmocka_unit_test(what_is_given_back_is_taken_again),
      cmocka_unit_test(threads_never_share_one),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
