/* tests/test_policy_engine_context.c - the engine tells its policies which request an access belongs to,
 * where in the chain it is, and which block it continues.
 *
 * A policy that writes down what it is told is loaded as a user's would be (support/recorder.c).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/kv.h"

#include <dlfcn.h>

#include "tests/support/object.h"
#include "tests/support/recorder.h"

enum { TOKENS = 16 };
static const kv_shape shape = {.layers = 2, .k_bytes = 256, .v_bytes = 256, .block_tokens = TOKENS};

static char object[4096];
static struct recorder *recorder;

static int load_recorder(void **state) {
  (void)state;
  const char *path =
      object_compile(KVSTOW_SOURCE_DIR "/tests/support/recorder.c", kv_dir("recorder"), "recorder");
  if (path == NULL) return 0; /* each test skips */
  KV_CHECK(realpath(path, object) != NULL, "realpath");
  void *handle = dlopen(object, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  KV_CHECK(handle != NULL, "%s", dlerror());
  recorder = dlsym(handle, "recorder");
  KV_CHECK(recorder != NULL, "%s", dlerror());
  return 0;
}

static kvstow *open_recorded(const char *dir, kvstow_space **space) {
  kvstow_options o;
  kv_options(&o, dir == NULL ? NULL : &dir, 8 * KV_MIB, 64 * KV_MIB, (uint32_t)KV_MIB);
  o.ram_policy = o.ssd_policy = object;
  o.populate = false;
  recorder->instances = 0;
  kvstow *store = kv_open(&o);
  *space = kv_space(store, "context", &shape);
  recorder->count = 0;
  return store;
}

/* The `nth` record of `what` at this depth in a tier. */
static const kvstow_access *told(int tier, int what, uint32_t depth, unsigned nth) {
  for (uint32_t i = 0; i < recorder->count; i++) {
    const struct recorded *r = &recorder->log[i];
    if (r->tier == tier && r->what == what && r->access.depth == depth && nth-- == 0)
      return &r->access;
  }
  KV_FAIL("no record of %d at depth %u in tier %d", what, depth, tier);
}

static uint32_t id_of(uint32_t depth) {
  for (uint32_t i = recorder->count; i-- > 0;)
    if (recorder->log[i].tier == 0 && recorder->log[i].access.depth == depth)
      return recorder->log[i].id;
  KV_FAIL("no block at depth %u", depth);
}

static void check_common(const kvstow_access *a, const kv_doc *doc) {
  assert_int_equal(a->chain_blocks, doc->blocks);
  assert_int_equal(a->tokens, TOKENS);
  assert_int_equal(a->session, 7);
  assert_int_equal(a->category, 3);
  assert_int_equal(a->recompute_cost, 11);
  assert_true(a->now_ms > 0 && a->request > 0 && a->bytes > 0);
}

static void hint(kv_doc *doc) {
  doc->prefix.session = 7;
  doc->prefix.category = 3;
  doc->prefix.recompute_cost = 11;
}

/* Leases what is held, as a server does; how many blocks. */
static size_t match(const kv_doc *doc, kvstow_lease **lease) {
  kvstow_held held = {0};
  const int rc = kvstow_match(&doc->prefix, 0, lease, &held);
  assert_true(rc == 0 || rc == KVSTOW_EMISS);
  return held.blocks;
}

static void reserve_and_commit(kvstow *store, const kv_doc *doc, size_t first, size_t count) {
  kvstow_slot slots[64];
  assert_true(count <= 64);
  KV_OK(kvstow_reserve(&doc->prefix, first, count, 0, 0, slots));
  for (size_t i = 0; i < count; i++)
    kv_fill_payload(kv_id(doc->where, doc->doc, first + i), doc->shape,
                    kvstow_space_plane_bytes(doc->space), slots[i].payload);
  KV_OK(kvstow_commit(store, slots, count));
}

static void append(const kv_doc *doc, size_t first, size_t count) {
  kvstow_seq *seq = NULL;
  kvstow_prefix prefix = doc->prefix;
  prefix.tokens_count = first * TOKENS;
  KV_OK(kvstow_seq_open(&prefix, &seq));
  KV_OK(kvstow_seq_tokens(seq, doc->tokens + first * TOKENS, count * TOKENS));
  char rows[TOKENS * 256] = {0};
  for (size_t i = 0; i < count; i++)
    for (uint32_t layer = 0; layer < shape.layers; layer++)
      KV_OK(kvstow_seq_append(seq, layer, rows, rows, TOKENS));
  kvstow_seq_close(seq);
}

/* A prompt whose first 5 blocks are held: what is found, and what is stored in whatever way, belongs to
 * one request and hangs together. */
static void what_a_match_did_not_find_is_stored_in_its_request(void **state) {
  (void)state;
  if (recorder == NULL) skip();
  kvstow_space *space;
  kvstow *store = open_recorded(NULL, &space);
  kv_doc doc;
  kv_doc_init(&doc, space, &shape, 1, 1, 13, NULL, 0);
  hint(&doc);
  KV_OK(kv_doc_store(&doc, 0, 5, 0));
  const uint64_t before = told(0, RECORDED_INSERT, 4, 0)->request;
  for (uint32_t i = 0; i < 5; i++)
    assert_int_equal(told(0, RECORDED_INSERT, i, 0)->request, before);

  recorder->count = 0;
  kvstow_lease *lease = NULL;
  assert_int_equal(match(&doc, &lease), 5);
  KV_OK(kv_doc_store(&doc, 5, 2, 0));    /* 5, 6: a call each */
  reserve_and_commit(store, &doc, 7, 3); /* 7 to 9 */
  append(&doc, 10, 3);                   /* 10 to 12 */
  kvstow_lease_release(lease);

  const uint64_t request = told(0, RECORDED_TOUCH, 0, 0)->request;
  assert_true(request > before);
  for (uint32_t i = 0; i < 13; i++) {
    const kvstow_access *a = told(0, i < 5 ? RECORDED_TOUCH : RECORDED_INSERT, i, 0);
    check_common(a, &doc);
    assert_int_equal(a->request, request);
    assert_int_equal(a->whence, i < 5 ? KVSTOW_IN_RAM : KVSTOW_NOWHERE);
    /* 7 to 9 enter together, last to first: they continue 6. */
    const uint32_t parent = i == 0 ? KVSTOW_NO_ID : id_of(i == 8 || i == 9 ? 6 : i - 1);
    assert_int_equal(a->parent, parent);
  }
  kv_doc_finish(&doc);
  KV_OK(kvstow_close(store));
}

/* A prompt is stored, and again, by who does not ask first: each time is a request, whoever had asked once. */
static void what_is_stored_again_is_another_request(void **state) {
  (void)state;
  if (recorder == NULL) skip();
  for (size_t blocks = 1; blocks <= 4; blocks += 3) {
    kvstow_space *space;
    kvstow *store = open_recorded(NULL, &space);
    kv_doc doc;
    kv_doc_init(&doc, space, &shape, 1, 1, blocks, NULL, 0);
    kvstow_lease *lease = NULL;
    assert_int_equal(match(&doc, &lease), 0);
    uint64_t before = 0;
    for (int again = 0; again < 3; again++) {
      recorder->count = 0;
      KV_OK(kv_doc_store(&doc, 0, blocks, 0));
      const int what = again == 0 ? RECORDED_INSERT : RECORDED_TOUCH;
      const uint64_t request = told(0, what, 0, 0)->request;
      assert_true(request > before);
      for (uint32_t i = 0; i < blocks; i++) assert_int_equal(told(0, what, i, 0)->request, request);
      before = request;
    }
    kv_doc_finish(&doc);
    KV_OK(kvstow_close(store));
  }
}

/* Two prompts that share their first blocks, matched both before either stores. */
static void requests_under_way_together_are_told_apart(void **state) {
  (void)state;
  if (recorder == NULL) skip();
  kvstow_space *space;
  kvstow *store = open_recorded(NULL, &space);
  kv_doc doc[2];
  for (int i = 0; i < 2; i++) {
    kv_doc_init(&doc[i], space, &shape, 1, 1, 8, NULL, 0);
    for (size_t t = 4 * TOKENS; i == 1 && t < 8 * TOKENS; t++) doc[i].tokens[t] ^= 1;
  }
  KV_OK(kv_doc_store(&doc[0], 0, 4, 0));
  recorder->count = 0;
  kvstow_lease *lease[2] = {NULL, NULL};
  for (int i = 0; i < 2; i++) assert_int_equal(match(&doc[i], &lease[i]), 4);
  for (size_t at = 4; at < 8; at++)
    for (int i = 0; i < 2; i++) KV_OK(kv_doc_store(&doc[i], at, 1, 0));
  uint64_t request[2];
  for (unsigned i = 0; i < 2; i++) {
    request[i] = told(0, RECORDED_TOUCH, 0, i)->request;
    for (uint32_t at = 4; at < 8; at++)
      assert_int_equal(told(0, RECORDED_INSERT, at, i)->request, request[i]);
    kvstow_lease_release(lease[i]);
  }
  assert_true(request[0] != request[1]);
  for (int i = 0; i < 2; i++) kv_doc_finish(&doc[i]);
  KV_OK(kvstow_close(store));
}

/* SSD serves a request: its policy is told which, and RAM's when the blocks have come. What is demoted
 * moves on nobody's account. */
static void a_promotion_belongs_to_the_request_that_wanted_it(void **state) {
  (void)state;
  if (recorder == NULL) skip();
  const char *dir = kv_dir("context");
  kvstow_space *space;
  kvstow *store = open_recorded(dir, &space);
  kv_doc doc;
  kv_doc_init(&doc, space, &shape, 1, 1, 6, NULL, 0);
  KV_OK(kv_doc_store(&doc, 0, 6, 0));
  KV_OK(kvstow_flush(store));
  for (uint32_t i = 0; i < 6; i++) {
    const kvstow_access *a = told(1, RECORDED_INSERT, i, 0);
    assert_int_equal(a->request, 0);
    assert_int_equal(a->chain_blocks, 0);
    assert_int_equal(a->whence, KVSTOW_IN_RAM);
    assert_int_equal(a->tokens, TOKENS);
    assert_int_equal(a->parent, i == 0 ? KVSTOW_NO_ID : id_of(i - 1)); /* written in chain order */
  }
  kv_doc_finish(&doc);
  KV_OK(kvstow_close(store));

  store = open_recorded(dir, &space);
  kv_doc_init(&doc, space, &shape, 1, 1, 9, NULL, 0);
  hint(&doc);
  kvstow_lease *lease = NULL;
  assert_int_equal(match(&doc, &lease), 6);
  KV_OK(kvstow_lease_wait(lease, 0, NULL));
  const uint64_t request = told(1, RECORDED_TOUCH, 0, 0)->request;
  for (int tier = 0; tier < 2; tier++)
    for (uint32_t i = 0; i < 6; i++) {
      const kvstow_access *a = told(tier, tier == 0 ? RECORDED_INSERT : RECORDED_TOUCH, i, 0);
      check_common(a, &doc);
      assert_int_equal(a->request, request);
      assert_int_equal(a->whence, KVSTOW_ON_SSD);
    }
  kvstow_lease_release(lease);
  kv_doc_finish(&doc);
  KV_OK(kvstow_close(store));
}

/* A match that promotes nothing does not wait for the policies: whoever comes next tells them. */
static void who_comes_next_tells_of_a_match(void **state) {
  (void)state;
  if (recorder == NULL) skip();
  for (int on_ssd = 0; on_ssd < 2; on_ssd++) {
    const char *dir = kv_dir("next");
    kvstow_space *space;
    kvstow *store = open_recorded(on_ssd ? dir : NULL, &space);
    kv_doc doc;
    kv_doc_init(&doc, space, &shape, 1, 1, 6, NULL, 0);
    KV_OK(kv_doc_store(&doc, 0, 6, 0));
    if (on_ssd) {
      kv_doc_finish(&doc);
      KV_OK(kvstow_close(store));
      store = open_recorded(dir, &space);
      kv_doc_init(&doc, space, &shape, 1, 1, 6, NULL, 0);
    }
    recorder->count = 0;
    kvstow_lease *lease = NULL;
    KV_OK(kvstow_match(&doc.prefix, KVSTOW_NO_PROMOTE, &lease, NULL));
    if (!on_ssd) assert_int_equal(recorder->count, 0); /* no thread of the store comes between */
    kvstow_lease_release(lease);
    assert_int_equal(recorder->count, 6);
    for (uint32_t i = 0; i < 6; i++) {
      const kvstow_access *a = told(on_ssd, RECORDED_TOUCH, i, 0);
      assert_int_equal(a->whence, on_ssd ? KVSTOW_ON_SSD : KVSTOW_IN_RAM);
      assert_int_equal(a->chain_blocks, 6);
    }
    kv_doc_finish(&doc);
    KV_OK(kvstow_close(store));
  }
}

/* Policies count blocks; budgets are bytes. */
static void a_policy_is_told_how_many_blocks_its_tier_holds(void **state) {
  (void)state;
  if (recorder == NULL) skip();
  kvstow_space *space;
  kvstow *store = open_recorded(kv_dir("capacity"), &space);
  const uint64_t block = kvstow_space_payload_bytes(space) + KVSTOW_PAGE_BYTES;
  const uint64_t budget[2] = {8 * KV_MIB, 64 * KV_MIB};
  for (int tier = 0; tier < 2; tier++) {
    assert_true(recorder->capacity[tier] <= budget[tier] / block);
    assert_true(recorder->capacity[tier] >= budget[tier] / block * 9 / 10);
  }
  KV_OK(kvstow_close(store));
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(what_a_match_did_not_find_is_stored_in_its_request),
      cmocka_unit_test(what_is_stored_again_is_another_request),
      cmocka_unit_test(requests_under_way_together_are_told_apart),
      cmocka_unit_test(a_promotion_belongs_to_the_request_that_wanted_it),
      cmocka_unit_test(who_comes_next_tells_of_a_match),
      cmocka_unit_test(a_policy_is_told_how_many_blocks_its_tier_holds),
  };
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, load_recorder, NULL);
}
