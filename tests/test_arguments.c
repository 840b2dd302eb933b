/* tests/test_arguments.c - calls check what they are given, and handles what is still open.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/fixture.h"
#include "support/refused.h"

static const kv_shape small = {4, 64, 64, 32, 0}; /* 16 KiB a block */

enum { RAM = 8 * 1024 * 1024, SSD = 16 * 1024 * 1024 + 512 * 1024, SEGMENT = 1024 * 1024 };

static void options_for(kvstow_options *options, const char *const *dir) {
  kv_options(options, dir, RAM, SSD, SEGMENT);
}

static void open_checks_its_arguments(void **state) {
  (void)state;
  const char *dir = kv_dir("arguments");
  char why[KVSTOW_MESSAGE_BYTES];
  kvstow *store = NULL;
  kvstow_options options;
  KV_RESULT(kvstow_open(NULL, &store, why, sizeof why), KVSTOW_EINVAL);
  assert_non_null(strstr(why, "options"));
  options_for(&options, &dir);
  KV_RESULT(kvstow_open(&options, NULL, why, sizeof why), KVSTOW_EINVAL);
  assert_non_null(strstr(why, "store"));
  options.size = 0;
  refuses(&options, KVSTOW_EINVAL, NULL);
  options_for(&options, &dir);
  options.size = 3;
  refuses(&options, KVSTOW_EINVAL, NULL);
  options_for(&options, &dir);
  options.segment_bytes = 3 * 1024 * 1024;
  refuses(&options, KVSTOW_EINVAL, "segment");
  options_for(&options, &dir);
  options.segment_bytes = 4096;
  refuses(&options, KVSTOW_EINVAL, "segment");
  options_for(&options, &dir);
  options.engine = (kvstow_engine)77;
  refuses(&options, KVSTOW_EINVAL, NULL);
  options_for(&options, &dir);
  options.write_mode = (kvstow_write_mode)77;
  refuses(&options, KVSTOW_EINVAL, NULL);
  options_for(&options, &dir);
  options.queue_depth = 1025;
  refuses(&options, KVSTOW_EINVAL, "queue_depth");
  options_for(&options, &dir);
  options.dirs_count = 1000;
  {
    const char *many[1000];
    for (int i = 0; i < 1000; i++) many[i] = dir;
    options.dirs = many;
    refuses(&options, KVSTOW_EINVAL, NULL);
  }
  options_for(&options, &dir);
  const char *null_dir = NULL;
  options.dirs = &null_dir;
  refuses(&options, KVSTOW_EINVAL, NULL);
  options_for(&options, &dir);
  options.high_watermark_pct = 1000;
  refuses(&options, KVSTOW_EINVAL, NULL);
  options_for(&options, &dir);
  options.high_watermark_pct = 50;
  options.low_watermark_pct = 80;
  refuses(&options, KVSTOW_EINVAL, NULL);
  options_for(&options, &dir);
  options.queue_depth = 0; /* 64 */
  KV_OK(kvstow_close(kv_open(&options)));
  KV_OK(kvstow_close(NULL));
  kvstow_seq_close(NULL);
  kvstow_lease_release(NULL);
  KV_OK(kvstow_queue_destroy(NULL));
}

static void spaces_check_their_arguments(void **state) {
  (void)state;
  kvstow_options options;
  kv_options(&options, NULL, RAM, 0, 0);
  kvstow *store = kv_open(&options);
  kvstow_space *space;
  kvstow_space_options so;
  KV_RESULT(kvstow_space_open(store, NULL, &space), KVSTOW_EINVAL);
  kv_space_options(&so, "x", &small);
  KV_RESULT(kvstow_space_open(store, &so, NULL), KVSTOW_EINVAL);
  so.size = 1;
  KV_RESULT(kvstow_space_open(store, &so, &space), KVSTOW_EINVAL);
  has_message(store);
  kv_space_options(&so, "x", &small);
  so.fingerprint = NULL; /* what makes KV interchangeable can't be nothing */
  KV_RESULT(kvstow_space_open(store, &so, &space), KVSTOW_EINVAL);
  has_message(store);
  kv_space_options(&so, "x", &small);
  so.k_bytes = so.v_bytes = 0;
  KV_RESULT(kvstow_space_open(store, &so, &space), KVSTOW_EINVAL);
  kv_space_options(&so, "x", &small);
  so.layers = 0;
  so.opaque_max_bytes = 0;
  KV_RESULT(kvstow_space_open(store, &so, &space), KVSTOW_EINVAL);
  /* a name that is too long is cut, and no name is fine */
  char name[200];
  memset(name, 'n', sizeof name - 1);
  name[sizeof name - 1] = 0;
  kv_space_options(&so, "long name", &small);
  so.name = name;
  KV_OK(kvstow_space_open(store, &so, &space));
  kv_space_options(&so, "no name", &small);
  so.name = NULL;
  KV_OK(kvstow_space_open(store, &so, &space));
  /* block_tokens 0: 256, halved until a block is at most 16 MiB, here an eighth of 8 MiB at most */
  kv_space_options(&so, "default tokens", &small);
  so.block_tokens = 0;
  so.layers = 2;
  KV_OK(kvstow_space_open(store, &so, &space));
  assert_int_equal(kvstow_space_block_tokens(space), 256);
  KV_OK(kvstow_close(store));
}

static void store_checks_its_arguments(void **state) {
  (void)state;
  kvstow_options options;
  kv_options(&options, NULL, RAM, 0, 0);
  kvstow *store = kv_open(&options);
  kvstow_space *space = kv_space(store, "arguments", &small);
  kv_doc d;
  kv_doc_init(&d, space, &small, 1, 1, 4, NULL, 0);
  const size_t bytes = kv_block_bytes(0, &small);
  char *block = malloc(bytes + 1);
  memset(block, 3, bytes + 1);
  struct iovec iov = {block, bytes};
  kvstow_source source = {&iov, 1};
  size_t stored;
  kvstow_slot slot[2];

  KV_RESULT(kvstow_store(NULL, 0, 1, &source, 0, &stored), KVSTOW_EINVAL);
  KV_RESULT(kvstow_store(&d.prefix, 0, 1, NULL, 0, &stored), KVSTOW_EINVAL);
  KV_RESULT(kvstow_store(&d.prefix, 4, 1, &source, 0, &stored), KVSTOW_EINVAL); /* past the end */
  KV_RESULT(kvstow_store(&d.prefix, 0, 5, &source, 0, &stored), KVSTOW_EINVAL);
  KV_RESULT(kvstow_store(&d.prefix, SIZE_MAX, 2, &source, 0, &stored), KVSTOW_EINVAL);
  has_message(store);
  iov.iov_len = bytes - 1; /* sizes */
  KV_RESULT(kvstow_store(&d.prefix, 0, 1, &source, 0, &stored), KVSTOW_EINVAL);
  has_message(store);
  iov.iov_len = bytes + 1;
  KV_RESULT(kvstow_store(&d.prefix, 0, 1, &source, 0, &stored), KVSTOW_EINVAL);
  iov.iov_len = bytes;
  source.iov = NULL;
  KV_RESULT(kvstow_store(&d.prefix, 0, 1, &source, 0, &stored), KVSTOW_EINVAL);
  source.iov = &iov;
  source.iovcnt = -1;
  KV_RESULT(kvstow_store(&d.prefix, 0, 1, &source, 0, &stored), KVSTOW_EINVAL);
  source.iovcnt = 0;
  KV_RESULT(kvstow_store(&d.prefix, 0, 1, &source, 0, &stored), KVSTOW_EINVAL);
  source.iovcnt = 1;
  kvstow_prefix bad = d.prefix;
  bad.size = 0;
  KV_RESULT(kvstow_store(&bad, 0, 1, &source, 0, &stored), KVSTOW_EINVAL);
  bad = d.prefix;
  bad.space = NULL;
  KV_RESULT(kvstow_store(&bad, 0, 1, &source, 0, &stored), KVSTOW_EINVAL);
  bad = d.prefix;
  bad.tokens = NULL;
  KV_RESULT(kvstow_store(&bad, 0, 1, &source, 0, &stored), KVSTOW_EINVAL);
  bad = d.prefix;
  bad.salt = NULL;
  bad.salt_bytes = 5;
  KV_RESULT(kvstow_store(&bad, 0, 1, &source, 0, &stored), KVSTOW_EINVAL);
  KV_CHECK(kv_doc_held(&d) == 0, "a refused store left blocks");
  KV_RESULT(kvstow_reserve(NULL, 0, 1, 0, 0, slot), KVSTOW_EINVAL);
  KV_RESULT(kvstow_reserve(&d.prefix, 0, 1, 0, 0, NULL), KVSTOW_EINVAL);
  KV_RESULT(kvstow_reserve(&d.prefix, 3, 2, 0, 0, slot), KVSTOW_EINVAL);
  KV_RESULT(kvstow_commit(NULL, slot, 1), KVSTOW_EINVAL);

  kvstow_lease *lease = NULL;
  kvstow_held held;
  KV_RESULT(kvstow_match(NULL, 0, &lease, &held), KVSTOW_EINVAL);
  KV_RESULT(kvstow_match(&d.prefix, 0, NULL, &held), KVSTOW_EINVAL);
  KV_RESULT(kvstow_exists(NULL, &held), KVSTOW_EINVAL);
  KV_RESULT(kvstow_exists(&d.prefix, NULL), KVSTOW_EINVAL);
  KV_RESULT(kvstow_prefetch(NULL), KVSTOW_EINVAL);
  KV_RESULT(kvstow_pin(NULL, true, NULL), KVSTOW_EINVAL);
  KV_RESULT(kvstow_forget(NULL, 0, NULL), KVSTOW_EINVAL);
  KV_RESULT(kvstow_forget_space(NULL, NULL), KVSTOW_EINVAL);
  KV_RESULT(kvstow_forget_salt(NULL, "x", 1, NULL), KVSTOW_EINVAL);
  KV_RESULT(kvstow_flush(NULL), KVSTOW_EINVAL);
  KV_RESULT(kvstow_match(&d.prefix, 0, &lease, &held), KVSTOW_EMISS);
  assert_null(lease);
  bad = d.prefix;
  bad.tokens_count = small.block_tokens - 1; /* not one whole block */
  KV_RESULT(kvstow_match(&bad, 0, &lease, &held), KVSTOW_EMISS);
  KV_OK(kvstow_exists(&bad, &held));
  assert_int_equal(held.tokens, 0);

  KV_OK(kv_doc_store(&d, 0, 4, 0));
  KV_OK(kvstow_match(&d.prefix, 0, &lease, &held));
  kvstow_range range = {0, 0, 0, 0};
  const size_t all = 4 * bytes;
  char *out = malloc(all + 1);
  struct iovec to = {out, all - 1};
  KV_RESULT(kvstow_read(lease, &range, &to, 1, 0, 0), KVSTOW_EINVAL);
  to.iov_len = all + 1;
  KV_RESULT(kvstow_read(lease, &range, &to, 1, 0, 0), KVSTOW_EINVAL);
  has_message(store);
  to.iov_len = all;
  KV_RESULT(kvstow_read(NULL, &range, &to, 1, 0, 0), KVSTOW_EINVAL);
  KV_RESULT(kvstow_read(lease, &range, NULL, 1, 0, 0), KVSTOW_EINVAL);
  KV_RESULT(kvstow_read(lease, &range, &to, -1, 0, 0), KVSTOW_EINVAL);
  KV_OK(kvstow_read(lease, &range, &to, 1, 0, 0));
  range.layer_first = small.layers;
  KV_RESULT(kvstow_read(lease, &range, &to, 1, 0, 0), KVSTOW_EINVAL);
  range = (kvstow_range){1, small.layers, 0, 0};
  KV_RESULT(kvstow_read(lease, &range, &to, 1, 0, 0), KVSTOW_EINVAL);
  range = (kvstow_range){0, 0, 4 * small.block_tokens, 1};
  KV_RESULT(kvstow_read(lease, &range, &to, 1, 0, 0), KVSTOW_EINVAL);
  range = (kvstow_range){0, 0, 1, SIZE_MAX};
  KV_RESULT(kvstow_read(lease, &range, &to, 1, 0, 0), KVSTOW_EINVAL);
  range = (kvstow_range){1, UINT32_MAX, 0, 0};
  KV_RESULT(kvstow_read(lease, &range, &to, 1, 0, 0), KVSTOW_EINVAL);
  void *payload = out;
  const void *view;
  size_t view_bytes;
  KV_RESULT(kvstow_read_blocks(lease, 4, 1, &payload, NULL, 0, 0), KVSTOW_EINVAL);
  KV_RESULT(kvstow_read_blocks(lease, 3, SIZE_MAX, &payload, NULL, 0, 0), KVSTOW_EINVAL);
  KV_RESULT(kvstow_read_blocks(lease, 0, 1, NULL, NULL, 0, 0), KVSTOW_EINVAL);
  payload = NULL;
  KV_RESULT(kvstow_read_blocks(lease, 0, 1, &payload, NULL, 0, 0), KVSTOW_EINVAL);
  KV_RESULT(kvstow_view(lease, 4, 0, &view, &view_bytes), KVSTOW_EINVAL);
  KV_RESULT(kvstow_view(lease, 0, 0, NULL, &view_bytes), KVSTOW_EINVAL);
  kvstow_unview(lease, 2); /* never viewed, and far out: nothing happens */
  kvstow_unview(lease, 400);
  KV_CHECK(kv_doc_read_blocks(&d, lease, 0, 4, 0, 0) == 0, "the lease no longer works");
  kvstow_lease_release(lease);
  KV_CHECK(kvstow_lease_tokens(NULL) == 0, "tokens of no lease");

  kvstow_stats stats;
  memset(&stats, 0x33, sizeof stats);
  stats.size = 0; /* how much room there is: none */
  kvstow_get_stats(store, &stats);
  kvstow_get_stats(store, NULL);
  KV_CHECK(kvstow_stats_json(store, NULL, 0) > 10, "length without a buffer");
  KV_CHECK(kvstow_stats_prometheus(store, NULL, 0) > 10, "length without a buffer");
  char text[16];
  memset(text, 0x11, sizeof text);
  KV_CHECK(kvstow_stats_json(store, text, 8) > 8 && memchr(text, 0, 8) != NULL && text[8] == 0x11,
           "a short buffer is not respected");
  memset(text, 0x11, sizeof text);
  kvstow_message(store, text, 4);
  KV_CHECK(memchr(text, 0, 4) != NULL && text[4] == 0x11, "a short buffer is not respected");
  kvstow_message(store, text, 0);
  kvstow_message(store, NULL, 0);
  free(out);
  free(block);
  kv_doc_finish(&d);
  KV_OK(kvstow_close(store));
}

static void sequences_check_their_arguments(void **state) {
  (void)state;
  kvstow_options options;
  kv_options(&options, NULL, RAM, 0, 0);
  kvstow *store = kv_open(&options);
  kvstow_space *space = kv_space(store, "arguments", &small);
  static const kv_shape blob = {0, 0, 0, 32, 1000};
  kvstow_space *opaque = kv_space(store, "opaque", &blob);
  kv_doc d;
  kv_doc_init(&d, space, &small, 1, 1, 4, NULL, 0);
  char rows[64 * 64] = {0};
  kvstow_seq *seq = NULL;
  KV_RESULT(kvstow_seq_open(NULL, &seq), KVSTOW_EINVAL);
  KV_RESULT(kvstow_seq_open(&d.prefix, NULL), KVSTOW_EINVAL);
  kvstow_prefix ragged = d.prefix;
  ragged.tokens_count--;
  KV_RESULT(kvstow_seq_open(&ragged, &seq), KVSTOW_ESTATE);
  has_message(store);
  kvstow_prefix empty = KVSTOW_PREFIX(space, NULL, 0);
  KV_OK(kvstow_seq_open(&empty, &seq));
  KV_RESULT(kvstow_seq_append(seq, 0, rows, rows, 1), KVSTOW_ESTATE); /* no token named */
  KV_RESULT(kvstow_seq_tokens(seq, NULL, 3), KVSTOW_EINVAL);
  KV_OK(kvstow_seq_tokens(seq, d.tokens, 10));
  KV_RESULT(kvstow_seq_append(seq, 0, rows, rows, 11), KVSTOW_ESTATE);
  KV_RESULT(kvstow_seq_append(seq, small.layers, rows, rows, 1), KVSTOW_EINVAL);
  KV_RESULT(kvstow_seq_append(seq, 0, NULL, rows, 1), KVSTOW_EINVAL);
  KV_RESULT(kvstow_seq_append(seq, 0, rows, NULL, 1), KVSTOW_EINVAL);
  KV_RESULT(kvstow_seq_append(NULL, 0, rows, rows, 1), KVSTOW_EINVAL);
  KV_OK(kvstow_seq_append(seq, 0, rows, rows, 10));
  KV_RESULT(kvstow_seq_append(seq, 0, rows, rows, 1), KVSTOW_ESTATE);
  assert_int_equal(kvstow_seq_sealed_tokens(seq), 0);
  KV_RESULT(kvstow_close(store), KVSTOW_EBUSY);
  kvstow_seq_close(seq);
  kvstow_prefix in_opaque = KVSTOW_PREFIX(opaque, NULL, 0);
  seq = NULL;
  int rc = kvstow_seq_open(&in_opaque, &seq);
  KV_CHECK(rc == KVSTOW_EINVAL || rc == KVSTOW_EUNSUPPORTED || rc == KVSTOW_ESTATE,
           "a sequence of opaque blocks: %s", kvstow_errname(rc));
  kv_doc_finish(&d);
  KV_OK(kvstow_close(store));
}

/* A store that holds a document of so many blocks. */
static kv_doc open_with_document(fixture *f, const char *name, size_t blocks) {
  fixture_init(f, name, &small, RAM, SSD, SEGMENT);
  open_store(f);
  kv_doc d = document(f, 1, blocks);
  KV_OK(kv_doc_store(&d, 0, blocks, 0));
  return d;
}

/* The call is refused, and the message is of this call, not of one before. */
#define REFUSED(store, call, word)                                                                 \
  do {                                                                                             \
    KV_RESULT(kvstow_space_open(store, NULL, NULL), KVSTOW_EINVAL);                                \
    KV_RESULT(call, KVSTOW_EINVAL);                                                                \
    message_names(store, word);                                                                    \
  } while (0)

static void refusals_name_their_cause(void **state) {
  (void)state;
  fixture f;
  kv_doc d = open_with_document(&f, "refusals", 4);
  kvstow *store = f.store;
  kvstow_lease *lease;
  kvstow_held held;
  kvstow_prefix bad = d.prefix;
  int result;

  bad.size = 0;
  REFUSED(store, kvstow_match(&bad, 0, &lease, NULL), "size");
  REFUSED(store, kvstow_exists(&bad, &held), "size");
  REFUSED(store, kvstow_forget(&bad, 0, NULL), "size");
  bad = d.prefix;
  bad.tokens = NULL;
  REFUSED(store, kvstow_match(&bad, 0, &lease, NULL), "tokens");
  bad = d.prefix;
  bad.salt_bytes = 3;
  REFUSED(store, kvstow_prefetch(&bad), "salt");
  REFUSED(store, kvstow_match(&d.prefix, 0, NULL, NULL), "lease");
  REFUSED(store, kvstow_exists(&d.prefix, NULL), "held");
  REFUSED(store, kvstow_exists_batch(&d.prefix, 1, NULL, &result), "held");
  REFUSED(store, kvstow_match_batch(&d.prefix, 1, 0, NULL, NULL, &result), "leases");
  REFUSED(store, kvstow_store(&d.prefix, 0, 1, NULL, 0, NULL), "sources");
  kvstow_slot slot = {0};
  REFUSED(store, kvstow_reserve(&d.prefix, 0, 1, 0, 0, NULL), "slots");
  REFUSED(store, kvstow_reserve(&d.prefix, 0, 0, 0, 0, &slot), "count");
  REFUSED(store, kvstow_commit(store, NULL, 1), "slots");
  kvstow_seq *seq;
  REFUSED(store, kvstow_seq_open(&d.prefix, NULL), "seq");
  KV_OK(kvstow_seq_open(&d.prefix, &seq));
  REFUSED(store, kvstow_seq_tokens(seq, NULL, 3), "tokens");
  kvstow_seq_close(seq);

  KV_OK(kvstow_match(&d.prefix, 0, &lease, NULL));
  const void *view;
  void *payload = NULL;
  struct iovec iov = {NULL, 0};
  REFUSED(store, kvstow_view(lease, 99, 0, &view, NULL), "99 of 4");
  REFUSED(store, kvstow_view(lease, 0, 0, NULL, NULL), "payload");
  REFUSED(store, kvstow_read(lease, NULL, NULL, 1, 0, 0), "iov");
  REFUSED(store, kvstow_read(lease, NULL, &iov, 0, 0, 0), "iovcnt 0");
  REFUSED(store, kvstow_read_blocks(lease, 0, 0, &payload, NULL, 0, 0), "count 0");
  REFUSED(store, kvstow_read_blocks(lease, 0, 1, NULL, NULL, 0, 0), "payloads");

  kvstow_queue *queue;
  kvstow_completion done;
  REFUSED(store, kvstow_queue_create(store, NULL), "queue");
  KV_OK(kvstow_queue_create(store, &queue));
  REFUSED(store, kvstow_queue_poll(queue, &done, 0, 0), "max 0");
  REFUSED(store, kvstow_lease_wait_async(lease, 0, NULL, NULL, NULL), "queue");
  REFUSED(store, kvstow_flush_async(store, NULL, NULL, NULL), "queue");
  bad = d.prefix;
  bad.size = 1;
  REFUSED(store, kvstow_store_async(&bad, 0, 1, NULL, queue, NULL, NULL), "size");
  KV_OK(kvstow_queue_destroy(queue));
  kvstow_lease_release(lease);
  kv_doc_finish(&d);
  tear_down(&f);
}

/* Keys for so many would take more bytes than a number counts. */
static void more_tokens_than_there_can_be_are_refused(void **state) {
  (void)state;
  static const kv_shape single = {1, 4096, 0, 1, 0};
  static const kvstow_token tokens[64];
  fixture f = {.name = "arguments", .shape = &single};
  kv_options(&f.options, NULL, RAM, 0, 0);
  open_store(&f);
  kvstow_lease *lease;
  kvstow_seq *seq;
  kvstow_held held;
  for (int shift = 0; shift < 5; shift++) {
    const kvstow_prefix prefix = KVSTOW_PREFIX(f.space, tokens, SIZE_MAX >> shift);
    KV_RESULT(kvstow_exists(&prefix, &held), KVSTOW_ENOMEM);
    KV_RESULT(kvstow_match(&prefix, 0, &lease, NULL), KVSTOW_ENOMEM);
    KV_RESULT(kvstow_seq_open(&prefix, &seq), KVSTOW_ENOMEM);
    KV_RESULT(kvstow_forget(&prefix, 0, NULL), KVSTOW_ENOMEM);
  }
  KV_OK(kvstow_close(f.store));
}

static void unknown_flags_are_refused(void **state) {
  (void)state;
  fixture f;
  kv_doc d = open_with_document(&f, "flags", 4);
  kvstow *store = f.store;
  const uint32_t unknown = 1u << 3;
  const size_t bytes = kv_block_bytes(0, &small);
  char *block = kv_pages(4 * bytes);
  void *payload = block;
  struct iovec iov = {block, bytes};
  const kvstow_source source = {&iov, 1};
  kvstow_slot slot = {0};
  kvstow_lease *lease = NULL;
  REFUSED(store, kvstow_store(&d.prefix, 0, 1, &source, unknown, NULL), "0x8");
  REFUSED(store, kvstow_reserve(&d.prefix, 0, 1, 0, 1u << 31, &slot), "0x80000000");
  REFUSED(store, kvstow_match(&d.prefix, unknown | KVSTOW_NO_PROMOTE, &lease, NULL), "0x8");
  assert_null(lease);
  KV_OK(
      kvstow_match(&d.prefix, KVSTOW_NOWAIT | KVSTOW_NO_PROMOTE | KVSTOW_BYPASS_RAM, &lease, NULL));
  REFUSED(store, kvstow_read_blocks(lease, 0, 1, &payload, NULL, unknown, 0), "0x8");
  iov.iov_len = 4 * bytes;
  REFUSED(store, kvstow_read(lease, NULL, &iov, 1, unknown, 0), "0x8");
  KV_OK(kvstow_read(lease, NULL, &iov, 1, KVSTOW_NO_PROMOTE, 0)); /* of another call: no effect */
  kvstow_queue *queue;
  KV_OK(kvstow_queue_create(store, &queue));
  REFUSED(store, kvstow_read_async(lease, NULL, &iov, 1, unknown, 0, queue, NULL, NULL), "0x8");
  KV_OK(kvstow_queue_destroy(queue));
  kvstow_lease_release(lease);
  free(block);
  kv_doc_finish(&d);
  tear_down(&f);
}

/* With and without an SSD, at open and later. */
static void tuning_out_of_range_is_named(void **state) {
  (void)state;
  const char *dir = kv_dir("tuning");
  for (int ssd = 0; ssd < 2; ssd++) {
    kvstow_options options;
    kv_options(&options, ssd ? &dir : NULL, RAM, SSD, SEGMENT);
    options.tuning.merge_distance = 4096;
    kvstow *store = kv_open(&options);
    kvstow_tuning tuning, now;
    kvstow_get_tuning(store, &tuning);
    const kvstow_tuning good = tuning;
    tuning.prefetch_threshold = 0;
    REFUSED(store, kvstow_set_tuning(store, &tuning), "prefetch_threshold");
    tuning = good;
    tuning.read_ahead_blocks = 1025;
    REFUSED(store, kvstow_set_tuning(store, &tuning), "read_ahead_blocks");
    tuning = good;
    tuning.optimal_block_size = 65537;
    REFUSED(store, kvstow_set_tuning(store, &tuning), "optimal_block_size");
    tuning = good;
    tuning.size = 0;
    REFUSED(store, kvstow_set_tuning(store, &tuning), "size");
    kvstow_get_tuning(store, &now);
    assert_int_equal(now.optimal_block_size, good.optimal_block_size);
    assert_int_equal(now.merge_distance, 4096);
    KV_OK(kvstow_close(store));
    options.tuning.read_ahead_blocks = 0;
    refuses(&options, KVSTOW_EINVAL, "read_ahead_blocks");
  }
}

static void close_is_busy_while_handles_are_open(void **state) {
  (void)state;
  fixture f;
  kv_doc d = open_with_document(&f, "busy", 4);
  kvstow *store = f.store;
  kvstow_lease *lease;
  KV_OK(kvstow_match(&d.prefix, 0, &lease, NULL));
  KV_RESULT(kvstow_close(store), KVSTOW_EBUSY);
  message_names(store, "lease");
  KV_CHECK(kv_doc_read_blocks(&d, lease, 0, 4, 0, 0) == 0, "the store did not stay open");
  KV_OK(kv_doc_store(&d, 0, 4, 0));
  kvstow_lease_release(lease);
  kvstow_seq *seq;
  KV_OK(kvstow_seq_open(&d.prefix, &seq));
  KV_RESULT(kvstow_close(store), KVSTOW_EBUSY);
  message_names(store, "sequence");
  kvstow_seq_close(seq);
  kvstow_queue *queue;
  KV_OK(kvstow_queue_create(store, &queue));
  KV_RESULT(kvstow_close(store), KVSTOW_EBUSY);
  message_names(store, "queue");
  KV_OK(kvstow_queue_destroy(queue));
  kv_doc new = document(&f, 2, 2);
  kvstow_slot slots[2];
  KV_OK(kvstow_reserve(&new.prefix, 0, 2, 0, 0, slots));
  KV_RESULT(kvstow_close(store), KVSTOW_EBUSY);
  message_names(store, "reservation");
  for (size_t i = 0; i < 2; i++)
    kv_fill_payload(kv_id(1, 2, i), &small, kvstow_space_plane_bytes(f.space), slots[i].payload);
  KV_OK(kvstow_commit(store, slots, 1));
  KV_RESULT(kvstow_close(store), KVSTOW_EBUSY);
  KV_OK(kvstow_commit(store, slots, 2)); /* one of them a second time */
  KV_OK(kvstow_commit(store, slots, 2));
  kvstow_abort(store, slots, 2);
  assert_null(slots[0].payload);
  assert_int_equal(kv_doc_restore(&new, 0), 2);
  kv_doc_finish(&new);
  kv_doc_finish(&d);
  tear_down(&f);
}

static void forgetting_leased_blocks_is_busy(void **state) {
  (void)state;
  fixture f;
  kv_doc d = open_with_document(&f, "busy", 8);
  kvstow_prefix half = d.prefix;
  half.tokens_count = 4 * small.block_tokens;
  kvstow_lease *lease;
  kvstow_held held;
  KV_OK(kvstow_match(&half, 0, &lease, &held));
  assert_int_equal(held.blocks, 4);
  size_t blocks = 99;
  KV_RESULT(kvstow_forget(&d.prefix, 2, &blocks), KVSTOW_EBUSY);
  KV_CHECK(kv_doc_held(&d) == 4, "%zu blocks held: the free ones must go, the leased ones stay",
           kv_doc_held(&d));
  KV_CHECK(kv_doc_read_blocks(&d, lease, 0, 4, 0, 0) == 0, "the lease lost its blocks");
  kvstow_lease_release(lease);
  KV_OK(kvstow_forget(&d.prefix, 2, &blocks));
  assert_int_equal(blocks, 2);
  KV_CHECK(kv_doc_held(&d) == 2, "%zu blocks held", kv_doc_held(&d));
  KV_OK(kvstow_forget(&d.prefix, 0, &blocks));
  assert_int_equal(blocks, 2);
  KV_OK(kvstow_forget(&d.prefix, 0, &blocks)); /* nothing left: not an error */
  assert_int_equal(blocks, 0);
  kv_doc_finish(&d);
  tear_down(&f);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(open_checks_its_arguments),
    cmocka_unit_test(spaces_check_their_arguments),
    cmocka_unit_test(store_checks_its_arguments),
    cmocka_unit_test(sequences_check_their_arguments),
    cmocka_unit_test(refusals_name_their_cause),
    cmocka_unit_test(more_tokens_than_there_can_be_are_refused),
    cmocka_unit_test(unknown_flags_are_refused),
    cmocka_unit_test(tuning_out_of_range_is_named),
    cmocka_unit_test(close_is_busy_while_handles_are_open),
    cmocka_unit_test(forgetting_leased_blocks_is_busy),
};

KV_MAIN("arguments")
