/* tests/test_trace_recorded.c - what a store records of its use is what was asked of it.
 *
 * A random workload keeps its own list of what it asked; the reader of traces gives the same back, whatever is
 * cut off, and refuses what is damaged.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/kv.h"

#include <kvstow/trace.h>
#include <signal.h>
#include <sys/resource.h>
#include <xxhash.h>

#include "cli/trace/trace.h"
#include "tests/support/command.h"

enum { TOKENS = 16, DOCS = 12, BLOCKS_MAX = 40, ASKED_MAX = 4000 };
static const kv_shape shape = {.layers = 1, .k_bytes = 128, .v_bytes = 128, .block_tokens = TOKENS};

struct asked {
  unsigned doc;
  uint32_t blocks, tokens;
};

static struct asked asked[ASKED_MAX];
static uint32_t asked_count;
static uint64_t hits, accesses;

static kvstow *open_traced(const char *path, kvstow_space **space) {
  kvstow_options o;
  kv_options(&o, NULL, 64 * KV_MIB, 0, 0);
  o.trace = path;
  o.populate = false;
  kvstow *store = kv_open(&o);
  *space = kv_space(store, "traced", &shape);
  return store;
}

/* Conversations begin alike in threes, and part at block 4. */
static void doc_init(kv_doc *doc, kvstow_space *space, unsigned number, size_t blocks) {
  kv_doc_init(doc, space, &shape, 1, number, blocks, NULL, 0);
  for (size_t i = 0; i < 4 * TOKENS && i < blocks * TOKENS; i++)
    doc->tokens[i] = kv_token(1000 + number / 3, i);
  doc->prefix.session = number + 1;
}

/* Blocks of two conversations are the same block if nothing before their end differs. */
static uint64_t block_of(unsigned doc, uint32_t at) {
  return at < 4 ? 1000 + doc / 3 + 10000 * at : doc + 10000 * at;
}

static void commit(kvstow *store, const kv_doc *doc, size_t first, size_t count) {
  kvstow_slot slots[BLOCKS_MAX];
  KV_OK(kvstow_reserve(&doc->prefix, first, count, 0, 0, slots));
  for (size_t i = 0; i < count; i++)
    if (slots[i].payload != NULL) memset(slots[i].payload, 1, slots[i].bytes);
  KV_OK(kvstow_commit(store, slots, count));
}

static void append(const kv_doc *doc, size_t first, size_t count) {
  static const char rows[BLOCKS_MAX * TOKENS * 128];
  kvstow_seq *seq = NULL;
  kvstow_prefix prefix = doc->prefix;
  prefix.tokens_count = first * TOKENS;
  KV_OK(kvstow_seq_open(&prefix, &seq));
  KV_OK(kvstow_seq_tokens(seq, doc->tokens + first * TOKENS, count * TOKENS));
  KV_OK(kvstow_seq_append(seq, 0, rows, rows, count * TOKENS));
  kvstow_seq_close(seq);
}

/* One turn: all of a conversation up to here is asked for, what is missing is stored in some way. */
static void ask(kvstow *store, kvstow_space *space, kv_rng *rng, unsigned number, size_t blocks,
                bool store_it) {
  kv_doc doc;
  doc_init(&doc, space, number, blocks);
  doc.prefix.tokens_count -= blocks > 0 ? kv_below(rng, TOKENS) : 0;
  const size_t whole = doc.prefix.tokens_count / TOKENS;
  kvstow_lease *lease = NULL;
  kvstow_held held = {0};
  const int rc = kvstow_match(&doc.prefix, 0, &lease, &held);
  KV_CHECK(rc == 0 || rc == KVSTOW_EMISS, "match: %s", kvstow_errname(rc));
  KV_CHECK(asked_count < ASKED_MAX, "too much");
  asked[asked_count++] = (struct asked){number, (uint32_t)whole, (uint32_t)doc.prefix.tokens_count};
  hits += held.blocks;
  accesses += whole;
  const size_t missing = whole - held.blocks;
  if (missing > 0 && store_it) {
    const size_t how = kv_below(rng, 3);
    if (how == 0)
      KV_OK(kv_doc_store(&doc, held.blocks, missing, 0));
    else if (how == 1)
      commit(store, &doc, held.blocks, missing);
    else
      append(&doc, held.blocks, missing);
  }
  kvstow_lease_release(lease);
  kv_doc_finish(&doc);
}

static void run(kvstow *store, kvstow_space *space, kv_rng *rng, unsigned turns, unsigned forgets) {
  size_t length[DOCS] = {0};
  for (unsigned i = 0; i < turns; i++) {
    const unsigned doc = (unsigned)kv_below(rng, DOCS);
    length[doc] += kv_below(rng, 4);
    if (length[doc] > BLOCKS_MAX) length[doc] = 1;
    ask(store, space, rng, doc, length[doc], !kv_chance(rng, 10));
    if (kv_chance(rng, forgets)) KV_OK(kvstow_forget_space(space, NULL));
  }
}

/* Reads until the end or an error; how many requests were right. */
static uint32_t read_back_asked(const char *path, bool *error) {
  char why[512] = "";
  static uint32_t id_of[1 << 20]; /* by block, id + 1 */
  static uint64_t block_at[1 << 20];
  memset(id_of, 0, sizeof id_of);
  memset(block_at, 0, sizeof block_at);
  *error = true;
  struct trace_reader *reader = trace_open(path, NULL, why, sizeof why);
  if (reader == NULL) {
    KV_CHECK(strlen(why) > 0, "refused without a reason");
    return 0;
  }
  struct trace_request request;
  uint32_t count = 0;
  uint64_t before_ms = 0;
  int rc;
  while ((rc = trace_next(reader, &request)) > 0) {
    const struct asked *a = &asked[count];
    KV_CHECK(count < asked_count, "more requests than were made");
    KV_CHECK(request.blocks == a->blocks && request.input_tokens == a->tokens &&
                 request.session == a->doc + 1,
             "request %u: %u blocks, %u tokens, session %llu", count, request.blocks,
             request.input_tokens, (unsigned long long)request.session);
    KV_CHECK(request.timestamp_ms >= before_ms, "time goes back");
    before_ms = request.timestamp_ms;
    for (uint32_t i = 0; i < request.blocks; i++) {
      const uint64_t block = block_of(a->doc, i) + 1;
      const uint32_t id = request.ids[i];
      KV_CHECK(id < trace_unique(reader) && id < 1 << 20, "id %u of %u", id, trace_unique(reader));
      if (id_of[block] == 0 && block_at[id] == 0) id_of[block] = id + 1, block_at[id] = block;
      KV_CHECK(id_of[block] == id + 1 && block_at[id] == block, "request %u: another block at %u",
               count, i);
    }
    count++;
  }
  *error = rc < 0;
  KV_CHECK(rc == 0 || strlen(trace_why(reader)) > 0, "an error without a reason");
  trace_close(reader);
  return count;
}

static const char *trace_path(void) {
  static char path[4096];
  snprintf(path, sizeof path, "%s/trace.kvt", kv_dir("trace"));
  asked_count = 0;
  hits = accesses = 0;
  return path;
}

static uint64_t file_bytes(const char *path) {
  struct stat st;
  KV_CHECK(stat(path, &st) == 0, "stat %s", path);
  return (uint64_t)st.st_size;
}

/* ---- tests ---------------------------------------------------------------------------------- */

static void a_random_workload_is_read_back_as_it_was(void **state) {
  (void)state;
  kv_rng rng = kv_seed("recorded", 1);
  const char *path = trace_path();
  kvstow_space *space;
  kvstow *store;
  for (int life = 0; life < 2; life++) { /* the second goes on with the file */
    store = open_traced(path, &space);
    run(store, space, &rng, 700, 1);
    const kvstow_stats stats = kv_stats(store);
    KV_CHECK(stats.trace_records > 700 && stats.trace_dropped == 0, "%" PRIu64 " recorded",
             stats.trace_records);
    KV_OK(kvstow_close(store));
  }
  struct stat st;
  KV_CHECK(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600, "mode %o", st.st_mode & 0777);
  bool error;
  assert_int_equal(read_back_asked(path, &error), asked_count);
  assert_false(error);
  printf("%.2f bytes an access\n", (double)file_bytes(path) / (double)accesses);
  assert_true(file_bytes(path) < 4 * accesses);
}

/* With room for all, what a replay finds is what the run found. */
static void a_replay_finds_what_the_run_found(void **state) {
  (void)state;
  kv_rng rng = kv_seed("replayed", 2);
  const char *path = trace_path();
  kvstow_space *space;
  kvstow *store = open_traced(path, &space);
  size_t length[DOCS] = {0};
  for (unsigned i = 0; i < 600; i++) {
    const unsigned doc = (unsigned)kv_below(&rng, DOCS);
    if (length[doc] + 3 < BLOCKS_MAX) length[doc] += 1 + kv_below(&rng, 3);
    ask(store, space, &rng, doc, length[doc], true);
  }
  KV_OK(kvstow_close(store));
  char line[8192], wanted[64];
  snprintf(line, sizeof line, "replay --sim --trace %s --policy infinite --size 100%% --json",
           path);
  kvstow_run(line);
  KV_CHECK(outcome.code == 0, "%s", outcome.err);
  snprintf(wanted, sizeof wanted, "\"prefix_hit_blocks\": %" PRIu64, hits);
  KV_CHECK(strstr(outcome.out, wanted) != NULL, "want %s in %s", wanted, outcome.out);
}

/* A flush writes what there is; a crash afterwards costs nothing. */
static void what_was_flushed_is_in_the_file(void **state) {
  (void)state;
  kv_rng rng = kv_seed("flushed", 3);
  const char *path = trace_path();
  kvstow_space *space;
  kvstow *store = open_traced(path, &space);
  run(store, space, &rng, 100, 0);
  KV_OK(kvstow_flush(store));
  bool error;
  assert_int_equal(read_back_asked(path, &error), asked_count);
  assert_false(error);
  KV_OK(kvstow_close(store));
}

static char *load(const char *path, size_t *bytes) {
  *bytes = file_bytes(path);
  char *data = malloc(*bytes);
  FILE *file = fopen(path, "re");
  KV_CHECK(data != NULL && file != NULL && fread(data, 1, *bytes, file) == *bytes, "read %s", path);
  fclose(file);
  return data;
}

static void save(const char *path, const void *data, size_t bytes) {
  FILE *file = fopen(path, "we");
  KV_CHECK(file != NULL && fwrite(data, 1, bytes, file) == bytes && fclose(file) == 0, "write %s",
           path);
}

/* Three chunks; their bytes. */
static char *three_chunks(const char *path, kv_rng *rng, size_t *bytes) {
  kvstow_space *space;
  kvstow *store = open_traced(path, &space);
  for (int i = 0; i < 3; i++) {
    run(store, space, rng, 30, 0);
    KV_OK(kvstow_flush(store));
  }
  KV_OK(kvstow_close(store));
  return load(path, bytes);
}

static void a_file_cut_short_gives_what_is_whole(void **state) {
  (void)state;
  kv_rng rng = kv_seed("cut", 4);
  const char *path = trace_path();
  size_t bytes;
  char *data = three_chunks(path, &rng, &bytes);
  uint32_t most = 0;
  for (size_t cut = 0; cut <= bytes; cut += cut < bytes - 30 ? 1 + kv_below(&rng, 40) : 1) {
    save(path, data, cut);
    bool error;
    const uint32_t count = read_back_asked(path, &error);
    if (cut >= strlen(KVSTOW_TRACE_MAGIC)) /* or it could be anything */
      KV_CHECK(error == (cut < sizeof(kvstow_trace_header)), "cut at %zu", cut);
    KV_CHECK(count >= most && count % 30 == 0, "cut at %zu: %u requests", cut, count);
    most = count;
  }
  assert_int_equal(most, asked_count);
  /* The next run goes on behind what is whole. */
  save(path, data, bytes - 5);
  asked_count = 60;
  kvstow_space *space;
  kvstow *store = open_traced(path, &space);
  run(store, space, &rng, 20, 0);
  KV_OK(kvstow_close(store));
  bool error;
  assert_int_equal(read_back_asked(path, &error), 80);
  assert_false(error);
  free(data);
}

static void damage_is_an_error(void **state) {
  (void)state;
  kv_rng rng = kv_seed("damage", 5);
  const char *path = trace_path();
  size_t bytes;
  char *data = three_chunks(path, &rng, &bytes);
  for (int i = 0; i < 300; i++) {
    const size_t at = kv_below(&rng, bytes);
    const char was = data[at];
    data[at] = (char)(was ^ (1 << kv_below(&rng, 8)));
    save(path, data, bytes);
    bool error;
    (void)read_back_asked(path, &error); /* what comes before it is right */
    data[at] = was;
  }
  free(data);
}

/* Payloads of random bytes under right checksums: an error with a reason, or some requests. */
static void hostile_records_are_refused(void **state) {
  (void)state;
  kv_rng rng = kv_seed("hostile", 6);
  const char *path = trace_path();
  struct {
    kvstow_trace_header header;
    kvstow_trace_chunk chunk;
    uint8_t payload[200];
  } file = {.header = {.version = KVSTOW_TRACE_VERSION, .endian = KVSTOW_TRACE_ENDIAN},
            .chunk = {.magic = KVSTOW_TRACE_CHUNK_MAGIC, .bytes = sizeof file.payload}};
  memcpy(file.header.magic, KVSTOW_TRACE_MAGIC, sizeof file.header.magic);
  for (int i = 0; i < 3000; i++) {
    for (size_t b = 0; b < sizeof file.payload; b++)
      file.payload[b] = (uint8_t)(kv_chance(&rng, 70) ? kv_below(&rng, 5) : kv_next(&rng));
    memcpy(file.payload, "\1\1\20\0", 4); /* a space */
    file.chunk.checksum = 0;
    file.chunk.checksum = XXH3_64bits_withSeed(file.payload, sizeof file.payload,
                                               XXH3_64bits(&file.chunk, sizeof file.chunk));
    save(path, &file, sizeof file);
    char why[512] = "";
    struct trace_reader *reader = trace_open(path, NULL, why, sizeof why);
    KV_CHECK(reader != NULL, "%s", why);
    struct trace_request request;
    int rc;
    while ((rc = trace_next(reader, &request)) > 0)
      for (uint32_t b = 0; b < request.blocks; b++)
        KV_CHECK(request.ids[b] < trace_unique(reader), "id out of range");
    KV_CHECK(rc == 0 || strstr(trace_why(reader), "chunk 1") != NULL, "says %s", trace_why(reader));
    trace_close(reader);
  }
}

static void a_file_that_is_no_trace_is_left_alone(void **state) {
  (void)state;
  const char *path = trace_path();
  save(path, "dear diary", 10);
  kvstow_options o;
  kv_options(&o, NULL, 64 * KV_MIB, 0, 0);
  o.trace = path;
  kvstow *store = NULL;
  char why[KVSTOW_MESSAGE_BYTES] = "";
  KV_RESULT(kvstow_open(&o, &store, why, sizeof why), KVSTOW_EINVAL);
  KV_CHECK(store == NULL && strstr(why, path) != NULL, "says %s", why);
  size_t bytes;
  char *data = load(path, &bytes);
  assert_true(bytes == 10 && memcmp(data, "dear diary", 10) == 0);
  free(data);
  o.trace = "/nowhere/at/all";
  KV_RESULT(kvstow_open(&o, &store, why, sizeof why), KVSTOW_EIO);
}

/* The disk fills: the store goes on, what is lost is counted, and recording resumes when it can. */
static void a_full_disk_costs_records_alone(void **state) {
  (void)state;
  kv_rng rng = kv_seed("full", 7);
  const char *path = trace_path();
  signal(SIGXFSZ, SIG_IGN);
  struct rlimit whole, none;
  KV_CHECK(getrlimit(RLIMIT_FSIZE, &whole) == 0, "getrlimit");
  kvstow_space *space;
  kvstow *store = open_traced(path, &space);
  run(store, space, &rng, 50, 0);
  KV_OK(kvstow_flush(store));
  none = (struct rlimit){.rlim_cur = file_bytes(path), .rlim_max = whole.rlim_max};
  KV_CHECK(setrlimit(RLIMIT_FSIZE, &none) == 0, "setrlimit");
  const uint32_t before = asked_count;
  run(store, space, &rng, 50, 0);
  KV_OK(kvstow_flush(store));
  KV_CHECK(setrlimit(RLIMIT_FSIZE, &whole) == 0, "setrlimit");
  const uint64_t dropped = kv_stats(store).trace_dropped;
  KV_CHECK(dropped >= 50, "%" PRIu64 " records dropped", dropped);
  asked_count = before; /* these are not in the file */
  run(store, space, &rng, 50, 0);
  KV_OK(kvstow_close(store));
  bool error;
  assert_int_equal(read_back_asked(path, &error), 100);
  assert_false(error);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_random_workload_is_read_back_as_it_was),
      cmocka_unit_test(a_replay_finds_what_the_run_found),
      cmocka_unit_test(what_was_flushed_is_in_the_file),
      cmocka_unit_test(a_file_cut_short_gives_what_is_whole),
      cmocka_unit_test(damage_is_an_error),
      cmocka_unit_test(hostile_records_are_refused),
      cmocka_unit_test(a_file_that_is_no_trace_is_left_alone),
      cmocka_unit_test(a_full_disk_costs_records_alone),
  };
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
