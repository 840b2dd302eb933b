/* tests/test_policy_registry.c - policies by name and from shared objects.
 *
 * The example policy is compiled here with the system's C compiler, as a user would.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kvstow/policy.h"
#include "tests/support/object.h"

static char directory[] = "/tmp/kvstow-policy-XXXXXX";

static void every_shipped_policy_is_found_by_its_name(void **state) {
  size_t count = 0;
  (void)state;
  for (; kvstow_policy_at(count) != NULL; count++) {
    const kvstow_policy_ops *ops = kvstow_policy_at(count), *found = NULL;
    assert_int_equal(ops->abi, KVSTOW_POLICY_ABI);
    assert_true(ops->node_bytes <= KVSTOW_POLICY_NODE_BYTES);
    assert_non_null(ops->summary);
    assert_int_equal(kvstow_policy_find(ops->name, &found, NULL, 0), 0);
    assert_ptr_equal(found, ops);
  }
  assert_true(count >= 10);
  assert_null(kvstow_policy_at(SIZE_MAX));
}

static void default_is_duel(void **state) {
  const kvstow_policy_ops *by_default, *duel;
  (void)state;
  assert_int_equal(kvstow_policy_find("default", &by_default, NULL, 0), 0);
  assert_int_equal(kvstow_policy_find("duel", &duel, NULL, 0), 0);
  assert_ptr_equal(by_default, duel);
}

static void unknown_names_are_refused_with_a_reason(void **state) {
  static const char *const bad[] = {"", "LRU", "lru ", "belady", "most_recent.so"};
  const kvstow_policy_ops *ops;
  char why[256], tiny[4];
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    why[0] = '\0';
    assert_int_equal(kvstow_policy_find(bad[i], &ops, why, sizeof why), KVSTOW_EPOLICY);
    assert_null(ops);
    assert_true(strlen(why) > 0);
  }
  assert_int_equal(kvstow_policy_find(NULL, &ops, NULL, 0), KVSTOW_EPOLICY);
  assert_int_equal(kvstow_policy_find("nonsense", &ops, tiny, sizeof tiny), KVSTOW_EPOLICY);
  assert_int_equal(strlen(tiny), sizeof tiny - 1);
  assert_int_equal(kvstow_policy_find("lru", NULL, NULL, 0), KVSTOW_EINVAL);
}

static const char *compile_text(const char *text, const char *name) {
  char source[512];
  snprintf(source, sizeof source, "%s/%s.c", directory, name);
  FILE *file = fopen(source, "w");
  assert_non_null(file);
  assert_true(fputs(text, file) >= 0);
  assert_int_equal(fclose(file), 0);
  return object_compile(source, directory, name);
}

static void the_example_policy_loads_and_works(void **state) {
  const kvstow_policy_ops *ops = NULL;
  char why[256] = "", memory[3 * KVSTOW_POLICY_NODE_BYTES] = {0};
  char *chunk = memory;
  const kvstow_nodes nodes = {.chunks = &chunk, .shift = 2, .stride = KVSTOW_POLICY_NODE_BYTES};
  const kvstow_policy_config config = {.size = sizeof config, .nodes = &nodes, .capacity = 3};
  const kvstow_access access = {.parent = KVSTOW_NO_ID};
  void *policy;
  (void)state;
  const char *object = object_compile(KVSTOW_SOURCE_DIR "/eviction/examples/most_recent.c",
                                      directory, "most_recent");
  if (object == NULL) skip();
  if (kvstow_policy_find(object, &ops, why, sizeof why) != 0) fail_msg("%s", why);
  assert_string_equal(ops->name, "most_recent");
  assert_int_equal(ops->create(&config, &policy), 0);
  for (uint32_t id = 0; id < 3; id++) ops->insert(policy, id, &access);
  ops->touch(policy, 0, &access);
  assert_int_equal(ops->victim(policy, NULL), 0);
  ops->remove(policy, 2);
  assert_int_equal(ops->victim(policy, NULL), 1);
  assert_int_equal(ops->victim(policy, NULL), KVSTOW_NO_ID);
  ops->destroy(policy);
}

static void objects_that_are_no_policies_are_refused(void **state) {
  static const struct {
    const char *name, *text, *cause;
  } bad[] = {
      {"other", "int other;", "exports no `kvstow_policy`"},
      {"newer", "unsigned kvstow_policy[64] = {3};", "made for policy ABI 3, this is 2"},
      {"greedy", "unsigned kvstow_policy[64] = {2, 24};", "wants 24 bytes a block, there are 20"},
      {"hollow", "unsigned kvstow_policy[64] = {2, 8};", "lacks a name or a function"},
  };
  const kvstow_policy_ops *ops;
  char why[512] = "", path[512];
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    const char *object = compile_text(bad[i].text, bad[i].name);
    if (object == NULL) skip();
    assert_int_equal(kvstow_policy_find(object, &ops, why, sizeof why), KVSTOW_EPOLICY);
    if (strstr(why, bad[i].cause) == NULL || strstr(why, object) == NULL)
      fail_msg("says `%s`, without `%s`", why, bad[i].cause);
  }
  snprintf(path, sizeof path, "%s/other.c", directory); /* no object at all */
  assert_int_equal(kvstow_policy_find(path, &ops, why, sizeof why), KVSTOW_EPOLICY);
  assert_non_null(strstr(why, path));
  assert_int_equal(kvstow_policy_find("./nowhere.so", &ops, why, sizeof why), KVSTOW_EPOLICY);
  assert_non_null(strstr(why, "No such file"));
}

static int make_directory(void **state) {
  (void)state;
  return mkdtemp(directory) == NULL ? -1 : 0;
}

static int remove_directory(void **state) {
  char command[256];
  (void)state;
  snprintf(command, sizeof command, "rm -r '%s'", directory);
  return system(command);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_shipped_policy_is_found_by_its_name),
      cmocka_unit_test(default_is_duel),
      cmocka_unit_test(unknown_names_are_refused_with_a_reason),
      cmocka_unit_test(the_example_policy_loads_and_works),
      cmocka_unit_test(objects_that_are_no_policies_are_refused),
  };
  return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
