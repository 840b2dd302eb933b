/* tests/fuzz/fuzz_record.c - any page as a record's header page, and as the cache's description in one.
 *
 * Input: a byte of flags (1: the checksum is made right; 2: the segment is a large one), then the page from
 * its front; the rest is zero.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include <string.h>

#include "kvcache/describe.h"
#include "tier/format.h"

static _Alignas(KVSTOW_PAGE_BYTES) uint8_t page[KVSTOW_PAGE_BYTES];

static void describe(void) {
  kvstow_block_info info;
  uint32_t owner_bytes;
  const uint8_t *owner = kvstow_record_owner(page, &owner_bytes);
  FUZZ_CHECK(owner >= page && owner + owner_bytes <= page + sizeof page);
  if (kvstow_block_describe(page, &info) == 0) {
    const uint8_t *end = (const uint8_t *)(info.tokens + info.tokens_count);
    FUZZ_CHECK((const uint8_t *)info.tokens >= owner && end <= owner + owner_bytes);
    FUZZ_CHECK(memchr(info.space_name, 0, sizeof info.space_name) != NULL);
    FUZZ_CHECK(kvs_describe_is(page, info.parent, info.tokens, info.tokens_count));
    if (info.tokens_count > 0) {
      kvstow_token other[KVSTOW_PAGE_BYTES / sizeof(kvstow_token)];
      memcpy(other, info.tokens, info.tokens_count * sizeof *other);
      other[info.tokens_count / 2] ^= 1;
      FUZZ_CHECK(!kvs_describe_is(page, info.parent, other, info.tokens_count));
    }
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  if (bytes < 1) return 0;
  const uint8_t flags = *data++;
  bytes--;
  memset(page, 0, sizeof page);
  memcpy(page, data, bytes < sizeof page ? bytes : sizeof page);
  kvstow__header *header = (void *)page;
  if (flags & 1) header->checksum = kvstow__page_checksum(page, offsetof(kvstow__header, checksum));
  const uint64_t segment = flags & 2 ? KVSTOW__SEGMENT_BYTES_MAX : KVSTOW__SEGMENT_BYTES_MIN;
  uint8_t uuid[KVSTOW_UUID_BYTES];
  memcpy(uuid, header->uuid, sizeof uuid);
  const kvstow__expect expect = {.uuid = uuid, .page = header->page, .segment_bytes = segment};
  describe(); /* the cache's own pages have no tier to check them */
  kvstow_record record;
  kvstow_record_parse(page, &record);
  kvstow_block_info info;
  (void)kvstow_tag_describe(record.tag, &info);
  if (kvstow__header_check(page, &expect) != KVSTOW__GOOD) return 0;
  FUZZ_CHECK(record.planes >= 1 && record.planes <= KVSTOW__PLANES_MAX);
  FUZZ_CHECK(record.plane_bytes > 0 && record.plane_bytes % KVSTOW_PAGE_BYTES == 0);
  FUZZ_CHECK(record.part_bytes < record.plane_bytes);
  FUZZ_CHECK((uint64_t)record.loc.page * KVSTOW_PAGE_BYTES + KVSTOW_PAGE_BYTES +
                 (uint64_t)record.planes * record.plane_bytes <=
             segment - KVSTOW_PAGE_BYTES);
  FUZZ_CHECK((uint8_t *)(kvstow_record_sums(page) + record.planes) <= page + sizeof page);
  /* a good page is good for one place, life and store only */
  kvstow__expect other = expect;
  other.page ^= 1;
  FUZZ_CHECK(kvstow__header_check(page, &other) == KVSTOW__BAD_PLACE);
  other = expect;
  other.life = (kvstow__life){header->sequence, header->nonce + 1};
  FUZZ_CHECK(kvstow__header_check(page, &other) == KVSTOW__BAD_LIFE);
  uuid[3] ^= 1;
  FUZZ_CHECK(kvstow__header_check(page, &expect) == KVSTOW__BAD_UUID);
  uuid[3] ^= 1;
  /* and erased it is still one to step over */
  kvstow__entry entry;
  kvstow__entry_from_header(&entry, page);
  const kvstow__life life = {header->sequence, header->nonce};
  kvstow__entry_erase(&entry);
  kvstow__header_erase(page, uuid, life, &entry);
  FUZZ_CHECK(kvstow__header_check(page, &expect) == KVSTOW__GOOD);
  return 0;
}

void fuzz_seeds(fuzz_give give) {
  static const kvstow_token tokens[] = {1, 2, 3, -4, 5, 6, 7, 128000};
  const struct {
    const char *name;
    uint32_t planes, plane_bytes, part_bytes, layers;
  } shapes[] = {{"rows", 3, 4096, 2048, 3}, {"blob", 1, 20480, 0, 0}, {"wide", 400, 4096, 0, 400}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    uint8_t seed[1 + KVSTOW_PAGE_BYTES] = {1}; /* flags, page */
    const kvstow_record shape = {.key = {11, 12},
                                 .planes = shapes[i].planes,
                                 .plane_bytes = shapes[i].plane_bytes,
                                 .part_bytes = shapes[i].part_bytes};
    const kvstow_block_info info = {.space = {1, 2},
                                    .root = {3, 4},
                                    .parent = {5, 6},
                                    .depth = 2,
                                    .tokens_count = 8,
                                    .payload_bytes = 9000,
                                    .layers = shapes[i].layers,
                                    .k_bytes = 64,
                                    .v_bytes = 32,
                                    .tokens = tokens,
                                    .space_name = "seed"};
    FUZZ_CHECK(kvs_describe_format(page, &info, &shape) == 0);
    kvstow__header_complete(page, (const uint8_t *)"0123456789abcdef", (kvstow__life){7, 8}, 16,
                            1700000000);
    memcpy(seed + 1, page, sizeof page);
    size_t bytes = sizeof seed;
    while (bytes > 1 && seed[bytes - 1] == 0) bytes--;
    give(shapes[i].name, seed, bytes);
  }
}
