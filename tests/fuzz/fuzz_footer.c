/* tests/fuzz/fuzz_footer.c - any bytes as a segment's trailer and table.
 *
 * Input: a byte of flags (1: the trailer's checksum is made right; 2: the table's too; 4: the table's place
 * is that of so many records), the trailer's first 96 bytes, then the table.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include <string.h>

#include "tier/format.h"

enum { FRONT = 96, ENTRIES_MAX = 64 };
static const uint32_t SEGMENT_BYTES = KVSTOW__SEGMENT_BYTES_MIN;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  if (bytes < 1 + FRONT) return 0;
  const uint8_t flags = *data;
  kvstow__trailer trailer;
  memset(&trailer, 0, sizeof trailer);
  memcpy(&trailer, data + 1, FRONT);
  data += 1 + FRONT;
  bytes -= 1 + FRONT;
  /* A table as long as the trailer says, and not a byte longer. */
  const uint32_t records = trailer.records <= ENTRIES_MAX ? trailer.records : 0;
  const size_t table_bytes = (size_t)records * sizeof(kvstow__entry);
  uint8_t *table = calloc(1, table_bytes + 1);
  FUZZ_CHECK(table != NULL);
  memcpy(table, data, bytes < table_bytes ? bytes : table_bytes);
  if (flags & 4) trailer.table_offset = SEGMENT_BYTES - kvstow__footer_bytes(trailer.records);
  if (flags & 2) trailer.table_checksum = kvstow_checksum(table, table_bytes);
  if (flags & 1)
    trailer.checksum = kvstow__page_checksum(&trailer, offsetof(kvstow__trailer, checksum));
  uint8_t uuid[KVSTOW_UUID_BYTES];
  memcpy(uuid, trailer.uuid, sizeof uuid);
  const kvstow__expect expect = {.uuid = uuid, .segment_bytes = SEGMENT_BYTES};
  if (kvstow__trailer_check(&trailer, &expect) == KVSTOW__GOOD) {
    FUZZ_CHECK(trailer.table_offset + (uint64_t)trailer.records * sizeof(kvstow__entry) <=
               SEGMENT_BYTES - KVSTOW_PAGE_BYTES);
    FUZZ_CHECK(trailer.end_offset <= trailer.table_offset);
    if (records == trailer.records && kvstow__table_whole(&trailer, table) &&
        kvstow__table_sound(&trailer, table)) {
      uint64_t end = 0;
      for (uint32_t i = 0; i < records; i++) {
        kvstow__entry entry;
        memcpy(&entry, table + i * sizeof entry, sizeof entry);
        FUZZ_CHECK((uint64_t)entry.page * KVSTOW_PAGE_BYTES >= end);
        end = (uint64_t)entry.page * KVSTOW_PAGE_BYTES + KVSTOW_PAGE_BYTES +
              (uint64_t)entry.planes * entry.plane_bytes;
        FUZZ_CHECK(entry.planes > 0 && entry.plane_bytes > 0 && end <= trailer.end_offset);
      }
    }
  }
  free(table);
  return 0;
}

void fuzz_seeds(fuzz_give give) {
  const kvstow__entry entries[] = {
      {.key = {1, 2}, .page = 0, .planes = 3, .plane_bytes = 4096, .written_s = 1700000000},
      {.page = 4, .planes = 1, .plane_bytes = 8192, .flags = KVSTOW__ERASED},
      {.key = {3, 4}, .page = 16, .planes = 2, .plane_bytes = 4096, .written_s = 1700000001}};
  const kvstow__trailer_state states[] = {KVSTOW__TRAILER_OPEN, KVSTOW__TRAILER_CLEAN,
                                          KVSTOW__TRAILER_SEALED};
  for (uint32_t i = 0; i < 3; i++) {
    uint8_t *image = aligned_alloc(KVSTOW_PAGE_BYTES, kvstow__footer_bytes(3));
    FUZZ_CHECK(image != NULL);
    kvstow__footer_make(image, states[i], (const uint8_t *)"0123456789abcdef", (kvstow__life){5, 6},
                        SEGMENT_BYTES, i == 0 ? 0 : 19 * KVSTOW_PAGE_BYTES, 1700000000, 1700000002,
                        entries, i == 0 ? 0 : 3);
    struct {
      uint8_t flags, front[FRONT], table[sizeof entries];
    } seed = {.flags = 7};
    memcpy(seed.front, image + kvstow__footer_bytes(i == 0 ? 0 : 3) - KVSTOW_PAGE_BYTES, FRONT);
    memcpy(seed.table, image, i == 0 ? 0 : sizeof seed.table);
    char name[16];
    snprintf(name, sizeof name, "state-%d", (int)states[i]);
    give(name, &seed, sizeof seed);
    free(image);
  }
}
