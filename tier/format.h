/* tier/format.h - the bytes on disk: super, record header page, segment footer.
 *
 * docs/format.md describes the same for readers in other languages. All integers are little-endian
 * and the structs are laid out without padding, so on the little-endian hosts this builds for they
 * are copied as they are; every size and offset is asserted. Nothing read from disk is used before
 * one of the *_check functions has accepted it: counts and lengths may be hostile.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_FORMAT_H
#define KVSTOW_TIER_FORMAT_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvstow/tier.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "on-disk structs are little-endian");

#define KVSTOW__VERSION 1u
#define KVSTOW__ENDIAN_MARK 0x01020304u
#define KVSTOW__RUN_BYTES 65536u /* a run of records starts on this boundary */
#define KVSTOW__SUPER_BYTES 8192u
#define KVSTOW__SEGMENT_BYTES_MIN (1u << 20)
#define KVSTOW__SEGMENT_BYTES_MAX (1u << 30)

#define KVSTOW__MARK_BYTES 16u
#define KVSTOW__SALT_BYTES 16u
#define KVSTOW__SEAL_BYTES 16u

#define KVSTOW__CIPHER_NONE 0u
#define KVSTOW__CIPHER_AES_256_GCM 1u /* cipher.h */

#define KVSTOW__SUPER_MAGIC UINT64_C(0x217265707573766b)   /* "kvsuper!" */
#define KVSTOW__RECORD_MAGIC UINT64_C(0x64726f636572766b)  /* "kvrecord" */
#define KVSTOW__TRAILER_MAGIC UINT64_C(0x7265746f6f66766b) /* "kvfooter" */

/* One life of a segment file, from its first record until it is reused. The nonce is random, so
 * that a sequence number used twice (a life that left no trace before a crash) is no confusion. */
typedef struct kvstow__life {
  uint64_t sequence; /* 0: none */
  uint64_t nonce;
} kvstow__life;

/* Two copies in the file `super`, at 0 and 4096. */
typedef struct kvstow__super {
  uint64_t magic;
  uint32_t endian_mark;
  uint32_t version;
  uint8_t uuid[KVSTOW_UUID_BYTES];
  uint64_t hash_seed;
  uint32_t segment_bytes;
  uint32_t header_bytes; /* 4096 */
  uint32_t dir_index, dir_count;
  uint64_t created_s;
  uint32_t cipher;
  uint32_t reserved_1;
  uint8_t cipher_mark[KVSTOW__MARK_BYTES]; /* of an encrypted store: tells its key */
  uint8_t reserved[4000];
  uint64_t checksum; /* XXH3-64 of the page, this field zero */
} kvstow__super;

static_assert(sizeof(kvstow__super) == KVSTOW_PAGE_BYTES, "super copy is a page");
static_assert(offsetof(kvstow__super, endian_mark) == 8, "layout");
static_assert(offsetof(kvstow__super, version) == 12, "layout");
static_assert(offsetof(kvstow__super, uuid) == 16, "layout");
static_assert(offsetof(kvstow__super, hash_seed) == 32, "layout");
static_assert(offsetof(kvstow__super, segment_bytes) == 40, "layout");
static_assert(offsetof(kvstow__super, header_bytes) == 44, "layout");
static_assert(offsetof(kvstow__super, dir_index) == 48, "layout");
static_assert(offsetof(kvstow__super, dir_count) == 52, "layout");
static_assert(offsetof(kvstow__super, created_s) == 56, "layout");
static_assert(offsetof(kvstow__super, cipher) == 64, "layout");
static_assert(offsetof(kvstow__super, cipher_mark) == 72, "layout");
static_assert(offsetof(kvstow__super, checksum) == 4088, "layout");

#define KVSTOW__ERASED 1u /* flag of records and table entries */

/* The first page of a record; then `planes` u64 checksums (kvstow_plane_checksum); then owner_bytes of
 * description. */
typedef struct kvstow__header {
  uint64_t magic;
  uint32_t version;
  uint32_t flags;
  uint8_t uuid[KVSTOW_UUID_BYTES];
  uint64_t sequence, nonce; /* the segment's life */
  uint32_t page;            /* where it lies: offset / 4096 */
  uint16_t planes, owner_bytes;
  uint32_t plane_bytes;
  uint32_t part_bytes; /* where a plane's second part begins; 0: it has one */
  kvstow_key key;
  uint64_t written_s;
  uint64_t checksum; /* XXH3-64 of the page, this field zero */
  uint8_t tag[KVSTOW_TAG_BYTES];
} kvstow__header;

static_assert(sizeof(kvstow__header) == 160, "layout");
static_assert(offsetof(kvstow__header, version) == 8, "layout");
static_assert(offsetof(kvstow__header, flags) == 12, "layout");
static_assert(offsetof(kvstow__header, uuid) == 16, "layout");
static_assert(offsetof(kvstow__header, sequence) == 32, "layout");
static_assert(offsetof(kvstow__header, nonce) == 40, "layout");
static_assert(offsetof(kvstow__header, page) == 48, "layout");
static_assert(offsetof(kvstow__header, planes) == 52, "layout");
static_assert(offsetof(kvstow__header, owner_bytes) == 54, "layout");
static_assert(offsetof(kvstow__header, plane_bytes) == 56, "layout");
static_assert(offsetof(kvstow__header, part_bytes) == 60, "layout");
static_assert(offsetof(kvstow__header, key) == 64, "layout");
static_assert(offsetof(kvstow__header, written_s) == 80, "layout");
static_assert(offsetof(kvstow__header, checksum) == 88, "layout");
static_assert(offsetof(kvstow__header, tag) == 96, "layout");

#define KVSTOW__PLANES_MAX ((uint32_t)((KVSTOW_PAGE_BYTES - sizeof(kvstow__header)) / 8))

/* One record in a segment's table. */
typedef struct kvstow__entry {
  kvstow_key key;
  uint32_t page;
  uint32_t planes, plane_bytes;
  uint32_t flags;
  uint64_t written_s;
  uint8_t tag[KVSTOW_TAG_BYTES];
} kvstow__entry;

static_assert(sizeof(kvstow__entry) == 104, "layout");
static_assert(offsetof(kvstow__entry, page) == 16, "layout");
static_assert(offsetof(kvstow__entry, planes) == 20, "layout");
static_assert(offsetof(kvstow__entry, plane_bytes) == 24, "layout");
static_assert(offsetof(kvstow__entry, flags) == 28, "layout");
static_assert(offsetof(kvstow__entry, written_s) == 32, "layout");
static_assert(offsetof(kvstow__entry, tag) == 40, "layout");

typedef enum kvstow__trailer_state {
  KVSTOW__TRAILER_OPEN = 1,   /* records may follow end_offset: walk on from there */
  KVSTOW__TRAILER_CLEAN = 2,  /* closed cleanly, not full: appending may go on */
  KVSTOW__TRAILER_SEALED = 3, /* complete */
} kvstow__trailer_state;

/* The last page of a segment file; the table lies right before it, from table_offset. */
typedef struct kvstow__trailer {
  uint64_t magic;
  uint32_t version;
  uint32_t state;
  uint8_t uuid[KVSTOW_UUID_BYTES];
  uint64_t sequence, nonce;
  uint32_t segment_bytes;
  uint32_t records;
  uint64_t end_offset;   /* of the last record */
  uint64_t table_offset; /* records * 104 bytes from here; zeroes up to the trailer */
  uint64_t table_checksum;
  uint64_t opened_s, written_s;
  uint8_t salt[KVSTOW__SALT_BYTES], seal[KVSTOW__SEAL_BYTES]; /* of an encrypted table */
  uint8_t reserved[3960];
  uint64_t checksum; /* XXH3-64 of the page, this field zero */
} kvstow__trailer;

static_assert(sizeof(kvstow__trailer) == KVSTOW_PAGE_BYTES, "trailer is a page");
static_assert(offsetof(kvstow__trailer, version) == 8, "layout");
static_assert(offsetof(kvstow__trailer, state) == 12, "layout");
static_assert(offsetof(kvstow__trailer, uuid) == 16, "layout");
static_assert(offsetof(kvstow__trailer, sequence) == 32, "layout");
static_assert(offsetof(kvstow__trailer, nonce) == 40, "layout");
static_assert(offsetof(kvstow__trailer, segment_bytes) == 48, "layout");
static_assert(offsetof(kvstow__trailer, records) == 52, "layout");
static_assert(offsetof(kvstow__trailer, end_offset) == 56, "layout");
static_assert(offsetof(kvstow__trailer, table_offset) == 64, "layout");
static_assert(offsetof(kvstow__trailer, table_checksum) == 72, "layout");
static_assert(offsetof(kvstow__trailer, opened_s) == 80, "layout");
static_assert(offsetof(kvstow__trailer, written_s) == 88, "layout");
static_assert(offsetof(kvstow__trailer, salt) == 96, "layout");
static_assert(offsetof(kvstow__trailer, seal) == 112, "layout");
static_assert(offsetof(kvstow__trailer, checksum) == 4088, "layout");

static inline uint64_t kvstow__round_up(uint64_t value, uint64_t to) {
  return (value + to - 1) / to * to; /* `to` need not be a power of two */
}

/* Bytes of a footer (table and trailer) for so many records. */
static inline uint64_t kvstow__footer_bytes(uint64_t records) {
  return kvstow__round_up(records * sizeof(kvstow__entry), KVSTOW_PAGE_BYTES) + KVSTOW_PAGE_BYTES;
}

static inline uint64_t kvstow__record_bytes(uint32_t planes, uint32_t plane_bytes) {
  return KVSTOW_PAGE_BYTES + (uint64_t)planes * plane_bytes;
}

uint64_t kvstow__page_checksum(const void *page, size_t field_offset);

/* Why a page was refused. */
typedef enum kvstow__verdict {
  KVSTOW__GOOD = 0,
  KVSTOW__BAD_MAGIC,
  KVSTOW__BAD_VERSION,
  KVSTOW__BAD_CHECKSUM,
  KVSTOW__BAD_UUID,
  KVSTOW__BAD_LIFE,  /* another life of the segment */
  KVSTOW__BAD_PLACE, /* a record of another page: misdirected */
  KVSTOW__BAD_SHAPE, /* lengths that can't be */
} kvstow__verdict;

const char *kvstow__verdict_text(kvstow__verdict verdict);

/* What a page should be. */
typedef struct kvstow__expect {
  const uint8_t *uuid;
  kvstow__life life; /* sequence 0: any */
  uint32_t page;
  uint64_t segment_bytes;
} kvstow__expect;

/* Completes a formatted header page for its place. */
void kvstow__header_complete(void *page, const uint8_t *uuid, kvstow__life life, uint32_t at_page,
                             uint64_t written_s);
/* Makes a table entry that of an erased record. */
void kvstow__entry_erase(kvstow__entry *entry);
/* Makes the header page of an erased record. */
void kvstow__header_erase(void *page, const uint8_t *uuid, kvstow__life life,
                          const kvstow__entry *entry);
/* Magic, shape of a page as kvstow_record_format made it (before completion). */
bool kvstow__header_formatted(const void *page);
kvstow__verdict kvstow__header_check(const void *page, const kvstow__expect *expect);
void kvstow__entry_from_header(kvstow__entry *entry, const void *page);

/* Fills a footer image of kvstow__footer_bytes(records), page aligned. */
void kvstow__footer_make(void *image, kvstow__trailer_state state, const uint8_t *uuid,
                         kvstow__life life, uint32_t segment_bytes, uint64_t end_offset,
                         uint64_t opened_s, uint64_t now_s, const kvstow__entry *entries,
                         uint32_t records);
kvstow__verdict kvstow__trailer_check(const kvstow__trailer *trailer, const kvstow__expect *expect);
/* Sets the checksums of the table as it lies on disk and of the trailer. */
void kvstow__trailer_sum(kvstow__trailer *trailer, const void *table);
/* The trailer's checksum in a whole footer image: tells footers of one life apart. */
static inline uint64_t kvstow__footer_sum(const void *image, uint32_t records) {
  const kvstow__trailer *trailer =
      (const void *)((const uint8_t *)image + kvstow__footer_bytes(records) - KVSTOW_PAGE_BYTES);
  return trailer->checksum;
}
/* After trailer_check: the table's checksum; then, decrypted if need be, every entry's place and shape. */
bool kvstow__table_whole(const kvstow__trailer *trailer, const void *table);
bool kvstow__table_sound(const kvstow__trailer *trailer, const void *table);

void kvstow__super_seal(kvstow__super *super);
kvstow__verdict kvstow__super_check(const kvstow__super *super);

#endif
