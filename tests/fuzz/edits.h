/* tests/fuzz/edits.h - fuzz input as edits of a store that was good: which page, where, which bytes; and
 * whether the checksums are then made right, as somebody who means harm would.
 *
 * Input: a byte of flags, then edits: page, offset (2 bytes), count, bytes. Pages count from 0: of file 0
 * and file 1 in turn, each from its trailer, table, and first record on.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TESTS_FUZZ_EDITS_H
#define KVSTOW_TESTS_FUZZ_EDITS_H

#include <string.h>

#include "support/memory_disk.h"
#include "tier/format.h"

enum { EDIT_RESEAL = 1, EDIT_OWNED = 2, EDITS_MAX = 32, EDIT_PAGES = 64, EDIT_BYTES_MAX = 16 };

/* The page that an edit names, in a file of segment_bytes; NULL: there is none. */
static inline uint8_t *edit_page(memory_disk *disk, const char *const files[2], uint8_t number) {
  memory_file *file = memory_file_named(disk, files[number & 1]);
  if (!file || file->size < EDIT_PAGES * KVSTOW_PAGE_BYTES) return NULL;
  const uint32_t page = (number >> 1) % EDIT_PAGES;
  return page < 2 ? file->bytes + file->size - (page + 1) * KVSTOW_PAGE_BYTES
                  : file->bytes + (page - 2) * KVSTOW_PAGE_BYTES;
}

static inline void edit_reseal(memory_disk *disk, const char *name) {
  memory_file *file = memory_file_named(disk, name);
  if (!file || !file->bytes || file->size < 2 * KVSTOW_PAGE_BYTES) return;
  for (uint64_t at = 0; at + KVSTOW_PAGE_BYTES < file->size && at < EDIT_PAGES * KVSTOW_PAGE_BYTES;
       at += KVSTOW_PAGE_BYTES) {
    kvstow__header *header = (void *)(file->bytes + at);
    uint64_t magic;
    memcpy(&magic, header, sizeof magic);
    if (magic != KVSTOW__RECORD_MAGIC) continue;
    const uint64_t sum = kvstow__page_checksum(header, offsetof(kvstow__header, checksum));
    memcpy(file->bytes + at + offsetof(kvstow__header, checksum), &sum, sizeof sum);
  }
  uint8_t *at = file->bytes + file->size - KVSTOW_PAGE_BYTES;
  kvstow__trailer trailer;
  memcpy(&trailer, at, sizeof trailer);
  const uint64_t table_bytes = (uint64_t)trailer.records * sizeof(kvstow__entry);
  if (trailer.table_offset <= file->size && table_bytes <= file->size - trailer.table_offset)
    trailer.table_checksum = kvstow_checksum(file->bytes + trailer.table_offset, table_bytes);
  trailer.checksum = kvstow__page_checksum(&trailer, offsetof(kvstow__trailer, checksum));
  memcpy(at, &trailer, sizeof trailer);
}

static inline void edit_store(memory_disk *disk, const char *const files[2], const uint8_t *data,
                              size_t bytes) {
  if (bytes < 1) return;
  const uint8_t flags = data[0];
  size_t at = 1;
  for (int i = 0; i < EDITS_MAX && at + 4 < bytes; i++) {
    uint8_t *page = edit_page(disk, files, data[at]);
    const uint32_t offset = (uint32_t)(data[at + 1] | data[at + 2] << 8) % KVSTOW_PAGE_BYTES;
    size_t count = data[at + 3] % EDIT_BYTES_MAX + 1u;
    at += 4;
    if (count > bytes - at) count = bytes - at;
    if (count > KVSTOW_PAGE_BYTES - offset) count = KVSTOW_PAGE_BYTES - offset;
    if (page) memcpy(page + offset, data + at, count);
    at += count;
  }
  if (flags & EDIT_RESEAL)
    for (int i = 0; i < 2; i++) edit_reseal(disk, files[i]);
}

/* Seeds: nothing changed; one number changed in each kind of page. */
static inline void edit_seeds(void (*give)(const char *name, const void *bytes, size_t count)) {
  static const uint8_t untouched[] = {EDIT_OWNED};
  static const uint8_t records[] = {EDIT_RESEAL, 0, 52, 0, 3, 9, 0, 0, 0};
  static const uint8_t state[] = {EDIT_RESEAL | EDIT_OWNED, 1, 12, 0, 0, 1};
  static const uint8_t planes[] = {EDIT_RESEAL, 4, 52, 0, 1, 1, 0, 2, 24, 0, 3, 0, 32, 0, 0};
  static const uint8_t key[] = {EDIT_RESEAL | EDIT_OWNED,
                                4,
                                64,
                                0,
                                15,
                                1,
                                2,
                                3,
                                4,
                                5,
                                6,
                                7,
                                8,
                                9,
                                10,
                                11,
                                12,
                                13,
                                14,
                                15,
                                16};
  static const uint8_t life[] = {EDIT_RESEAL, 5, 32, 0, 15, 99};
  static const uint8_t broken[] = {EDIT_OWNED, 4, 0, 0, 0, 0, 5, 88, 0, 0, 1, 0, 5, 0, 0, 0};
  give("untouched", untouched, sizeof untouched);
  give("records", records, sizeof records);
  give("state", state, sizeof state);
  give("planes", planes, sizeof planes);
  give("key", key, sizeof key);
  give("life", life, sizeof life);
  give("broken", broken, sizeof broken);
}

#endif
