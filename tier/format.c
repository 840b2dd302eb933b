/* tier/format.c - making and checking the bytes on disk, and the public view of header pages.
 *
 * Pure functions over memory: no files, no locks. The checks accept nothing that would let a later
 * reader compute an offset outside the segment.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tier/format.h"

#include <string.h>

const char *kvstow__verdict_text(kvstow__verdict verdict) {
  switch (verdict) {
    case KVSTOW__GOOD:
      return "good";
    case KVSTOW__BAD_MAGIC:
      return "no magic number";
    case KVSTOW__BAD_VERSION:
      return "another format version";
    case KVSTOW__BAD_CHECKSUM:
      return "checksum mismatch";
    case KVSTOW__BAD_UUID:
      return "belongs to another store";
    case KVSTOW__BAD_LIFE:
      return "belongs to another life of the segment";
    case KVSTOW__BAD_PLACE:
      return "belongs at another offset";
    case KVSTOW__BAD_SHAPE:
      return "impossible lengths";
  }
  return "unknown";
}

/* ---- header pages --------------------------------------------------------------------------- */

static bool shape_fits(uint32_t planes, uint32_t plane_bytes, uint32_t owner_bytes) {
  return planes >= 1 && planes <= KVSTOW__PLANES_MAX && plane_bytes > 0 &&
         plane_bytes % KVSTOW_PAGE_BYTES == 0 &&
         owner_bytes <= KVSTOW_PAGE_BYTES - sizeof(kvstow__header) - (size_t)planes * 8;
}

int64_t kvstow_record_owner_max_bytes(uint32_t planes) {
  return (int64_t)KVSTOW_PAGE_BYTES - (int64_t)sizeof(kvstow__header) - (int64_t)planes * 8;
}

int kvstow_record_format(void *page, const kvstow_record *record, const void *owner,
                         uint32_t owner_bytes) {
  if (!page || !record || (!owner && owner_bytes > 0)) return KVSTOW_EINVAL;
  if ((uintptr_t)page % KVSTOW_PAGE_BYTES != 0) return KVSTOW_EINVAL;
  if (!shape_fits(record->planes, record->plane_bytes, owner_bytes)) return KVSTOW_EINVAL;
  if (record->part_bytes != 0 && record->part_bytes >= record->plane_bytes) return KVSTOW_EINVAL;
  memset(page, 0, KVSTOW_PAGE_BYTES);
  kvstow__header *header = page;
  header->magic = KVSTOW__RECORD_MAGIC;
  header->version = KVSTOW__VERSION;
  header->planes = (uint16_t)record->planes;
  header->owner_bytes = (uint16_t)owner_bytes;
  header->plane_bytes = record->plane_bytes;
  header->part_bytes = record->part_bytes;
  header->key = record->key;
  memcpy(header->tag, record->tag, sizeof header->tag);
  if (owner_bytes > 0)
    memcpy((uint8_t *)page + sizeof *header + (size_t)record->planes * 8, owner, owner_bytes);
  return 0;
}

uint64_t *kvstow_record_sums(void *page) {
  return (uint64_t *)(void *)((uint8_t *)page + sizeof(kvstow__header));
}

const void *kvstow_record_owner(const void *page, uint32_t *bytes) {
  const kvstow__header *header = page;
  if (!shape_fits(header->planes, header->plane_bytes, header->owner_bytes)) {
    *bytes = 0;
    return (const uint8_t *)page + sizeof *header;
  }
  *bytes = header->owner_bytes;
  return (const uint8_t *)page + sizeof *header + (size_t)header->planes * 8;
}

void kvstow_record_parse(const void *page, kvstow_record *record) {
  const kvstow__header *header = page;
  memset(record, 0, sizeof *record);
  record->key = header->key;
  record->loc.page = header->page;
  record->loc.generation = (uint32_t)header->sequence;
  record->planes = header->planes;
  record->plane_bytes = header->plane_bytes;
  record->part_bytes = header->part_bytes;
  record->written_s = header->written_s;
  memcpy(record->tag, header->tag, sizeof record->tag);
}

bool kvstow__header_formatted(const void *page) {
  const kvstow__header *header = page;
  return header->magic == KVSTOW__RECORD_MAGIC && header->version == KVSTOW__VERSION &&
         shape_fits(header->planes, header->plane_bytes, header->owner_bytes);
}

void kvstow__header_complete(void *page, const uint8_t *uuid, kvstow__life life, uint32_t at_page,
                             uint64_t written_s) {
  kvstow__header *header = page;
  header->flags = 0;
  memcpy(header->uuid, uuid, sizeof header->uuid);
  header->sequence = life.sequence;
  header->nonce = life.nonce;
  header->page = at_page;
  header->written_s = written_s;
  header->checksum = kvstow__page_checksum(page, offsetof(kvstow__header, checksum));
}

void kvstow__header_erase(void *page, const uint8_t *uuid, kvstow__life life,
                          const kvstow__entry *entry) {
  kvstow__header *header = page;
  memset(page, 0, KVSTOW_PAGE_BYTES);
  header->magic = KVSTOW__RECORD_MAGIC;
  header->version = KVSTOW__VERSION;
  header->flags = KVSTOW__ERASED;
  memcpy(header->uuid, uuid, sizeof header->uuid);
  header->sequence = life.sequence;
  header->nonce = life.nonce;
  header->page = entry->page;
  header->planes = (uint16_t)entry->planes;
  header->plane_bytes = entry->plane_bytes;
  header->checksum = kvstow__page_checksum(page, offsetof(kvstow__header, checksum));
}

void kvstow__entry_erase(kvstow__entry *entry) {
  entry->flags |= KVSTOW__ERASED;
  entry->key = (kvstow_key){0, 0};
  entry->written_s = 0;
  memset(entry->tag, 0, sizeof entry->tag);
}

static bool place_fits(uint32_t page, uint32_t planes, uint32_t plane_bytes, uint64_t limit) {
  return (uint64_t)page * KVSTOW_PAGE_BYTES + kvstow__record_bytes(planes, plane_bytes) <= limit;
}

kvstow__verdict kvstow__header_check(const void *page, const kvstow__expect *expect) {
  const kvstow__header *header = page;
  if (header->magic != KVSTOW__RECORD_MAGIC) return KVSTOW__BAD_MAGIC;
  if (header->version != KVSTOW__VERSION) return KVSTOW__BAD_VERSION;
  if (header->checksum != kvstow__page_checksum(page, offsetof(kvstow__header, checksum)))
    return KVSTOW__BAD_CHECKSUM;
  if (memcmp(header->uuid, expect->uuid, sizeof header->uuid) != 0) return KVSTOW__BAD_UUID;
  if (header->sequence == 0) return KVSTOW__BAD_LIFE;
  if (expect->life.sequence != 0 &&
      (header->sequence != expect->life.sequence || header->nonce != expect->life.nonce))
    return KVSTOW__BAD_LIFE;
  if (header->page != expect->page) return KVSTOW__BAD_PLACE;
  if (!shape_fits(header->planes, header->plane_bytes, header->owner_bytes) ||
      (header->part_bytes != 0 && header->part_bytes >= header->plane_bytes) ||
      !place_fits(header->page, header->planes, header->plane_bytes,
                  expect->segment_bytes - KVSTOW_PAGE_BYTES))
    return KVSTOW__BAD_SHAPE;
  return KVSTOW__GOOD;
}

void kvstow__entry_from_header(kvstow__entry *entry, const void *page) {
  const kvstow__header *header = page;
  memset(entry, 0, sizeof *entry);
  entry->key = header->key;
  entry->page = header->page;
  entry->planes = header->planes;
  entry->plane_bytes = header->plane_bytes;
  entry->flags = header->flags;
  entry->written_s = header->written_s;
  memcpy(entry->tag, header->tag, sizeof entry->tag);
}

/* ---- footers -------------------------------------------------------------------------------- */

void kvstow__footer_make(void *image, kvstow__trailer_state state, const uint8_t *uuid,
                         kvstow__life life, uint32_t segment_bytes, uint64_t end_offset,
                         uint64_t opened_s, uint64_t now_s, const kvstow__entry *entries,
                         uint32_t records) {
  const uint64_t bytes = kvstow__footer_bytes(records);
  memset(image, 0, bytes);
  if (records > 0) memcpy(image, entries, (size_t)records * sizeof *entries);
  kvstow__trailer *trailer = (void *)((uint8_t *)image + bytes - KVSTOW_PAGE_BYTES);
  trailer->magic = KVSTOW__TRAILER_MAGIC;
  trailer->version = KVSTOW__VERSION;
  trailer->state = (uint32_t)state;
  memcpy(trailer->uuid, uuid, sizeof trailer->uuid);
  trailer->sequence = life.sequence;
  trailer->nonce = life.nonce;
  trailer->segment_bytes = segment_bytes;
  trailer->records = records;
  trailer->end_offset = end_offset;
  trailer->table_offset = segment_bytes - bytes;
  trailer->opened_s = opened_s;
  trailer->written_s = now_s;
  kvstow__trailer_sum(trailer, image);
}

static size_t table_bytes_of(const kvstow__trailer *trailer) {
  return (size_t)trailer->records * sizeof(kvstow__entry);
}

void kvstow__trailer_sum(kvstow__trailer *trailer, const void *table) {
  trailer->table_checksum = kvstow_checksum(table, table_bytes_of(trailer));
  trailer->checksum = kvstow__page_checksum(trailer, offsetof(kvstow__trailer, checksum));
}

kvstow__verdict kvstow__trailer_check(const kvstow__trailer *trailer,
                                      const kvstow__expect *expect) {
  if (trailer->magic != KVSTOW__TRAILER_MAGIC) return KVSTOW__BAD_MAGIC;
  if (trailer->version != KVSTOW__VERSION) return KVSTOW__BAD_VERSION;
  if (trailer->checksum != kvstow__page_checksum(trailer, offsetof(kvstow__trailer, checksum)))
    return KVSTOW__BAD_CHECKSUM;
  if (memcmp(trailer->uuid, expect->uuid, sizeof trailer->uuid) != 0) return KVSTOW__BAD_UUID;
  if (trailer->sequence == 0) return KVSTOW__BAD_LIFE;
  if (expect->life.sequence != 0 &&
      (trailer->sequence != expect->life.sequence || trailer->nonce != expect->life.nonce))
    return KVSTOW__BAD_LIFE;
  if (trailer->segment_bytes != expect->segment_bytes) return KVSTOW__BAD_SHAPE;
  if (trailer->state < KVSTOW__TRAILER_OPEN || trailer->state > KVSTOW__TRAILER_SEALED)
    return KVSTOW__BAD_SHAPE;
  const uint64_t footer =
      kvstow__footer_bytes(trailer->records); /* records is 32 bits: no overflow */
  if (footer > trailer->segment_bytes || trailer->table_offset != trailer->segment_bytes - footer ||
      trailer->end_offset > trailer->table_offset || trailer->end_offset % KVSTOW_PAGE_BYTES != 0)
    return KVSTOW__BAD_SHAPE;
  return KVSTOW__GOOD;
}

bool kvstow__table_whole(const kvstow__trailer *trailer, const void *table) {
  return kvstow_checksum(table, table_bytes_of(trailer)) == trailer->table_checksum;
}

bool kvstow__table_sound(const kvstow__trailer *trailer, const void *table) {
  uint64_t end = 0;
  for (uint32_t i = 0; i < trailer->records; i++) {
    kvstow__entry entry;
    memcpy(&entry, (const uint8_t *)table + (size_t)i * sizeof entry, sizeof entry);
    if (!shape_fits(entry.planes, entry.plane_bytes, 0) ||
        (uint64_t)entry.page * KVSTOW_PAGE_BYTES < end ||
        !place_fits(entry.page, entry.planes, entry.plane_bytes, trailer->end_offset))
      return false;
    end = (uint64_t)entry.page * KVSTOW_PAGE_BYTES +
          kvstow__record_bytes(entry.planes, entry.plane_bytes);
  }
  return true;
}

/* ---- super ---------------------------------------------------------------------------------- */

void kvstow__super_seal(kvstow__super *super) {
  super->checksum = kvstow__page_checksum(super, offsetof(kvstow__super, checksum));
}

kvstow__verdict kvstow__super_check(const kvstow__super *super) {
  if (super->magic != KVSTOW__SUPER_MAGIC) return KVSTOW__BAD_MAGIC;
  if (super->endian_mark != KVSTOW__ENDIAN_MARK) return KVSTOW__BAD_VERSION;
  if (super->version != KVSTOW__VERSION) return KVSTOW__BAD_VERSION;
  if (super->checksum != kvstow__page_checksum(super, offsetof(kvstow__super, checksum)))
    return KVSTOW__BAD_CHECKSUM;
  const uint32_t size = super->segment_bytes;
  if (size < KVSTOW__SEGMENT_BYTES_MIN || size > KVSTOW__SEGMENT_BYTES_MAX ||
      (size & (size - 1)) != 0)
    return KVSTOW__BAD_SHAPE;
  if (super->header_bytes != KVSTOW_PAGE_BYTES || super->dir_count < 1 || super->dir_count > 16 ||
      super->dir_index >= super->dir_count)
    return KVSTOW__BAD_SHAPE;
  return KVSTOW__GOOD;
}
