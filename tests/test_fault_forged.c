/* tests/test_fault_forged.c - what a forger can do to a store that is not encrypted: he knows docs/format.md, edits
 * tables and header pages, and makes every checksum right. Two tenants have the same documents, with other content.
 * Whatever he tells of roots, parents, lengths and places, each tenant gets what he stored, or a miss; and
 * no length leads out of a buffer (AddressSanitizer watches).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/kv.h"

#include "tier/format.h"

static const kv_shape rows = {2, 128, 128, 32, 0}; /* planes of 8 KiB */
static const kv_shape blobs = {0, 0, 0, 16, 20000};

enum { DOCS = 2, BLOCKS = 3, TENANTS = 2, SPACES = 2, RECORDS = DOCS * BLOCKS * TENANTS * SPACES };

#define SEGMENT_BYTES ((size_t)1 << 20)

static kv_doc doc_of(kvstow_space *const *spaces, int i) {
  static const char *const salts[TENANTS] = {"a", "b"};
  const int space = i % SPACES, tenant = i / SPACES % TENANTS, doc = i / SPACES / TENANTS;
  kv_doc d;
  kv_doc_init(&d, spaces[space], space == 0 ? &rows : &blobs,
              (uint64_t)space * TENANTS + (uint64_t)tenant, (uint64_t)doc, BLOCKS, salts[tenant],
              1);
  return d;
}

static kvstow *open_at(const char *const *dir, kvstow_space **spaces) {
  kvstow_options options;
  kv_options(&options, dir, 8 * KV_MIB, 8 * KV_MIB, SEGMENT_BYTES);
  options.populate = false;
  kvstow *store = kv_open(&options);
  spaces[0] = kv_space(store, "rows", &rows);
  spaces[1] = kv_space(store, "blobs", &blobs);
  return store;
}

/* Of all, how many blocks come back; every byte of those is compared. */
static size_t restore_all(kvstow_space *const *spaces, uint32_t flags) {
  size_t restored = 0;
  for (int i = 0; i < SPACES * TENANTS * DOCS; i++) {
    kv_doc d = doc_of(spaces, i);
    restored += kv_doc_restore(&d, flags);
    kv_doc_finish(&d);
  }
  return restored;
}

static void store_all(kvstow_space *const *spaces) {
  for (int i = 0; i < SPACES * TENANTS * DOCS; i++) {
    kv_doc d = doc_of(spaces, i);
    KV_OK(kv_doc_store(&d, 0, BLOCKS, 0));
    kv_doc_finish(&d);
  }
}

/* ---- the forger ----------------------------------------------------------------------------- */

/* A segment file in his hands. */
typedef struct loot {
  uint8_t *bytes;
  kvstow__trailer *trailer;
  kvstow__entry *entries;
  uint32_t records;
} loot;

/* What he does to the i-th record: its line in the table, its header page. */
typedef void (*deed)(const loot *l, uint32_t i);

static kvstow__header *header_of(const loot *l, uint32_t i) {
  return (void *)(l->bytes + (size_t)l->entries[i].page * KVSTOW_PAGE_BYTES);
}

static void make_right(const loot *l) {
  for (uint32_t i = 0; i < l->records; i++) {
    kvstow__header *header = header_of(l, i);
    uint8_t *plane = (uint8_t *)header + KVSTOW_PAGE_BYTES;
    for (uint32_t p = 0; p < header->planes; p++, plane += header->plane_bytes)
      kvstow_record_sums(header)[p] =
          kvstow_plane_checksum(plane, header->plane_bytes, header->part_bytes);
    header->checksum = kvstow__page_checksum(header, offsetof(kvstow__header, checksum));
  }
  kvstow__trailer_sum(l->trailer, l->entries);
}

static deed the_deed;
static uint32_t forged;

static void forge_file(void *arg, const char *path) {
  (void)arg;
  const int fd = open(path, O_RDWR);
  KV_CHECK(fd >= 0, "open %s: %s", path, strerror(errno));
  loot l = {.bytes = kv_pages(SEGMENT_BYTES)};
  KV_CHECK(pread(fd, l.bytes, SEGMENT_BYTES, 0) == (ssize_t)SEGMENT_BYTES, "read");
  l.trailer = (void *)(l.bytes + SEGMENT_BYTES - KVSTOW_PAGE_BYTES);
  if (l.trailer->magic == KVSTOW__TRAILER_MAGIC) {
    l.entries = (void *)(l.bytes + l.trailer->table_offset);
    l.records = l.trailer->records;
    for (uint32_t i = 0; i < l.records; i++) the_deed(&l, i);
    make_right(&l);
    forged += l.records;
    KV_CHECK(pwrite(fd, l.bytes, SEGMENT_BYTES, 0) == (ssize_t)SEGMENT_BYTES, "write");
  }
  close(fd);
  free(l.bytes);
}

/* A store of all documents, closed; forged; opened. How many blocks come back, read in two ways. */
static size_t after(deed what) {
  const char *dir = kv_dir("forged");
  kvstow_space *spaces[SPACES];
  kvstow *store = open_at(&dir, spaces);
  store_all(spaces);
  KV_OK(kvstow_close(store));
  the_deed = what;
  forged = 0;
  (void)kv_each_segment(dir, forge_file, NULL);
  assert_int_equal(forged, RECORDS);
  store = open_at(&dir, spaces);
  const size_t past = restore_all(spaces, KVSTOW_BYPASS_RAM | KVSTOW_NO_PROMOTE);
  const size_t restored = restore_all(spaces, 0);
  assert_true(restored <= past); /* what was found out is gone */
  store_all(spaces);             /* and the cache goes on: what it gives now is right, too */
  (void)restore_all(spaces, 0);
  KV_OK(kvstow_close(store));
  kv_dir_drop(dir);
  return past;
}

/* ---- deeds ---------------------------------------------------------------------------------- */

/* As in the tag (docs/format.md): root, parent, space, depth, tokens, bytes, layers. */
enum { TAG_ROOT = 0, TAG_PARENT = 16, TAG_DEPTH = 48, TAG_PAYLOAD = 56, TAG_LAYERS = 60 };
/* As in the description, behind the planes' checksums. */
enum { OWN_ROOT = 24, OWN_PARENT = 40, OWN_TOKENS = 60, OWN_PAYLOAD = 64 };

static uint8_t *description(kvstow__header *header) {
  uint32_t bytes;
  return (uint8_t *)(uintptr_t)kvstow_record_owner(header, &bytes);
}

/* The other tenant's record of the same place in a chain, by the pages (lines may be changed already). */
static uint32_t other_tenants(const loot *l, uint32_t i) {
  for (uint32_t k = 1; k < l->records; k++) {
    const kvstow__header *a = header_of(l, i), *b = header_of(l, (i + k) % l->records);
    if (memcmp(a->tag + 32, b->tag + 32, 16) == 0 && memcmp(a->tag, b->tag, 16) != 0 &&
        memcmp(a->tag + TAG_DEPTH, b->tag + TAG_DEPTH, 8) == 0)
      return (i + k) % l->records;
  }
  return i;
}

static void nothing(const loot *l, uint32_t i) {
  (void)l, (void)i;
}

static void nothing_forged_is_all_there(void **state) {
  (void)state;
  assert_int_equal(after(nothing), RECORDS);
}

/* A tag tells the other tenant's root: of the table, or of the page too, with the description. */
static void root_in_table(const loot *l, uint32_t i) {
  memcpy(l->entries[i].tag + TAG_ROOT, header_of(l, other_tenants(l, i))->tag + TAG_ROOT, 16);
}

static void root_everywhere(const loot *l, uint32_t i) {
  static uint8_t roots[RECORDS][16]; /* as they were */
  if (i == 0)
    for (uint32_t k = 0; k < l->records; k++) memcpy(roots[k], l->entries[k].tag, 16);
  uint32_t other = i;
  for (uint32_t k = 0; k < l->records; k++)
    if (memcmp(roots[k], roots[i], 16) != 0 &&
        memcmp(l->entries[k].tag + 32, l->entries[i].tag + 32, 16) == 0)
      other = k;
  memcpy(l->entries[i].tag + TAG_ROOT, roots[other], 16);
  memcpy(header_of(l, i)->tag + TAG_ROOT, roots[other], 16);
  memcpy(description(header_of(l, i)) + OWN_ROOT, roots[other], 16);
}

static void a_forged_root_is_no_way_to_another_tenant(void **state) {
  (void)state;
  assert_int_equal(after(root_in_table), 0);
  assert_int_equal(after(root_everywhere), 0);
}

/* The lines of two tenants' blocks change their keys and tags: each leads to the other's page. */
static void lines_change_places(const loot *l, uint32_t i) {
  const uint32_t other = other_tenants(l, i);
  if (other <= i) return;
  kvstow__entry *a = &l->entries[i], *b = &l->entries[other], was = *a;
  if (a->planes != b->planes || a->plane_bytes != b->plane_bytes) return;
  a->key = b->key;
  memcpy(a->tag, b->tag, sizeof a->tag);
  b->key = was.key;
  memcpy(b->tag, was.tag, sizeof b->tag);
}

static void shuffled_lines_are_misses(void **state) {
  (void)state;
  assert_true(after(lines_change_places) < RECORDS);
}

/* Another parent, another depth: the block hangs elsewhere in a chain. */
static void parent_elsewhere(const loot *l, uint32_t i) {
  uint8_t *tag = l->entries[i].tag;
  tag[TAG_PARENT] ^= 1;
  memcpy(header_of(l, i)->tag, tag, KVSTOW_TAG_BYTES);
  description(header_of(l, i))[OWN_PARENT] ^= 1;
}

static void depth_elsewhere(const loot *l, uint32_t i) {
  const uint32_t depth = UINT32_MAX - i;
  memcpy(l->entries[i].tag + TAG_DEPTH, &depth, 4);
}

static void a_forged_place_in_the_chain_is_a_miss(void **state) {
  (void)state;
  assert_int_equal(after(parent_elsewhere), 0);
  assert_int_equal(after(depth_elsewhere), 0);
}

static bool is_last(const loot *l, uint32_t i) {
  uint32_t depth;
  memcpy(&depth, l->entries[i].tag + TAG_DEPTH, 4);
  return depth == BLOCKS - 1;
}

/* Planes half as long as they are, consistently. (Were it all of them, the space would not be opened: it would be
 * one of another layout.) */
static void shorter_planes(const loot *l, uint32_t i) {
  kvstow__header *header = header_of(l, i);
  if (header->plane_bytes <= KVSTOW_PAGE_BYTES || is_last(l, i)) return;
  header->plane_bytes = l->entries[i].plane_bytes = KVSTOW_PAGE_BYTES;
  header->part_bytes = 0;
}

/* One plane in the place of two. */
static void fewer_planes(const loot *l, uint32_t i) {
  kvstow__header *header = header_of(l, i);
  if (header->planes != 2 || is_last(l, i)) return;
  uint8_t owner[2048];
  uint32_t bytes;
  memcpy(owner, kvstow_record_owner(header, &bytes), sizeof owner);
  const uint32_t one = 1;
  header->planes = 1;
  l->entries[i].planes = 1;
  memcpy(l->entries[i].tag + TAG_LAYERS, &one, 4);
  memcpy(header->tag + TAG_LAYERS, &one, 4);
  memcpy(description(header), owner, bytes);
}

static void planes_of_another_shape_lead_nowhere(void **state) {
  (void)state;
  (void)after(shorter_planes);
  (void)after(fewer_planes);
}

/* More bytes than there are. */
static void longer_payload(const loot *l, uint32_t i) {
  const uint32_t bytes = i % 2 ? UINT32_MAX : 1u << 20;
  memcpy(l->entries[i].tag + TAG_PAYLOAD, &bytes, 4);
  memcpy(header_of(l, i)->tag + TAG_PAYLOAD, &bytes, 4);
  memcpy(description(header_of(l, i)) + OWN_PAYLOAD, &bytes, 4);
}

static void more_tokens(const loot *l, uint32_t i) {
  const uint32_t tokens = i % 2 ? UINT32_MAX / 4 : 900;
  memcpy(description(header_of(l, i)) + OWN_TOKENS, &tokens, 4);
}

static void lengths_that_can_not_be_are_misses(void **state) {
  (void)state;
  assert_int_equal(after(longer_payload), 0);
  assert_int_equal(after(more_tokens), 0);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(nothing_forged_is_all_there),
    cmocka_unit_test(a_forged_root_is_no_way_to_another_tenant),
    cmocka_unit_test(shuffled_lines_are_misses),
    cmocka_unit_test(a_forged_place_in_the_chain_is_a_miss),
    cmocka_unit_test(planes_of_another_shape_lead_nowhere),
    cmocka_unit_test(lengths_that_can_not_be_are_misses),
};

KV_MAIN("forged")
