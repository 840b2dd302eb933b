/* tests/test_lock_order.c - debug builds abort when locks are not taken in the order of their ranks
 * (tier/lock.h), and name both; others have the mutexes alone. That the library keeps to the order is what all
 * other tests show, in the trees with sanitizers.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>

#include "kvcache/store.h"
#include "support/kv.h"
#include "tier/state.h"

#ifndef KVSTOW_DEBUG
static_assert(sizeof(kvstow__mutex) == sizeof(pthread_mutex_t), "only debug builds pay");
#endif

static const kv_shape shape = {3, 128, 128, 32, 0};

static void in_order(kvstow *store) {
  kvstow__lock(&store->lock);
  kvstow__lock(&store->index.shards[1].lock);
  kvstow__unlock(&store->index.shards[1].lock);
  kvstow__lock(&store->tier->barrier_lock);
  kvstow__lock(&store->tier->append_lock);
  kvstow__lock(&store->tier->lock);
  kvstow__unlock(&store->tier->append_lock); /* not the one taken last */
  kvstow__lock(&store->tier->inbox_lock);
  kvstow__unlock(&store->tier->inbox_lock);
  kvstow__unlock(&store->tier->lock);
  kvstow__unlock(&store->tier->barrier_lock);
  kvstow__unlock(&store->lock);
  kvstow__lock(&store->lock);
  kvstow__unlock(&store->lock);
}

static void tier_backwards(kvstow *store) {
  kvstow__lock(&store->tier->lock);
  kvstow__lock(&store->tier->append_lock);
}

static void cache_under_tier(kvstow *store) {
  kvstow__lock(&store->tier->inbox_lock);
  kvstow__lock(&store->lock);
}

static void two_shards(kvstow *store) {
  kvstow__lock(&store->index.shards[1].lock);
  kvstow__lock(&store->index.shards[2].lock);
}

static void the_same_twice(kvstow *store) {
  kvstow__lock(&store->lock);
  kvstow__lock(&store->lock);
}

static void given_back_twice(kvstow *store) {
  kvstow__lock(&store->lock);
  kvstow__unlock(&store->lock);
  kvstow__unlock(&store->lock);
}

static void waiting_with_another(kvstow *store) {
  kvstow__lock(&store->lock);
  kvstow__lock(&store->tier->append_lock);
  kvstow__wait_until(&store->changed, &store->lock, 0);
}

static void order_is_asserted_in_debug_builds(void **state) {
  (void)state;
  const struct {
    void (*does)(kvstow *store);
    const char *says; /* NULL: nothing, and lives */
  } cases[] = {
      {in_order, NULL},
      {tier_backwards, "KVSTOW__RANK_APPEND is taken under KVSTOW__RANK_TABLE"},
      {cache_under_tier, "KVS_RANK_STORE is taken under KVSTOW__RANK_INBOX"},
      {two_shards, "KVS_RANK_SHARD is taken under KVS_RANK_SHARD"},
      {the_same_twice, "KVS_RANK_STORE is taken under KVS_RANK_STORE"},
      {given_back_twice, "KVS_RANK_STORE is given back"},
      {waiting_with_another, "KVS_RANK_STORE is waited with under KVSTOW__RANK_APPEND"},
  };
#ifndef KVSTOW_DEBUG
  print_message("not a debug build: locks are not looked at\n");
  skip();
#endif
  if (KV_TSAN) skip(); /* its own search for deadlocks can't follow a fork of so many locks */
  const char *dir = kv_dir("order");
  kvstow_options options;
  kv_options(&options, &dir, 8 * KV_MIB, 12 * KV_MIB, KV_MIB);
  kvstow *store = kv_open(&options);
  (void)kv_space(store, "order", &shape);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    int ends[2], status;
    char text[512] = "";
    assert_int_equal(pipe(ends), 0);
    const pid_t pid = kv_fork();
    if (pid == 0) {
      dup2(ends[1], STDERR_FILENO);
      signal(SIGABRT, SIG_DFL);
      cases[i].does(store);
      _exit(0);
    }
    close(ends[1]);
    size_t length = 0;
    for (ssize_t got; (got = read(ends[0], text + length, sizeof text - 1 - length)) > 0;)
      length += (size_t)got;
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (cases[i].says == NULL) {
      assert_string_equal(text, "");
      assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    } else {
      KV_CHECK(strstr(text, cases[i].says) != NULL, "said \"%s\", not \"%s\"", text, cases[i].says);
      assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
  }
  KV_OK(kvstow_close(store));
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(order_is_asserted_in_debug_builds),
};

KV_MAIN("lock order")
