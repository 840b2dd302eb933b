/* tier/cipher.h - encryption at rest: AES-256-GCM (NIST SP 800-38D), through OpenSSL's EVP.
 *
 * Each record and each footer has a salt, 128 random bits. HMAC-SHA256 of the salt, under a key made of the
 * caller's key and the store's uuid, gives the key that is used for that one thing and nothing else: its
 * header page or table is message 0, plane p message 1 + p. So no number has to be remembered over a crash,
 * and a nonce is never used twice under one key.
 *
 * Open to see are magic numbers, lengths, the store's uuid, lives and places, and how full a segment is; hidden
 * are keys, tags, tokens, checksums and payload. What is open is authenticated together with what is hidden. An
 * erased record and an empty footer have nothing to hide and are not encrypted.
 *
 * In a record the encryption takes the end of the header page: a tag of 12 bytes a plane (encrypted with
 * the rest of the page), the salt, the page's own tag of 16 bytes. docs/format.md has the offsets.
 *
 * All functions are thread-safe. KVSTOW_ECORRUPT: not what was sealed under this key, or changed since;
 * KVSTOW_ENOMEM also where OpenSSL fails otherwise.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_CIPHER_H
#define KVSTOW_TIER_CIPHER_H

#include "tier/format.h"

#define KVSTOW__PLANE_SEAL_BYTES 12u

typedef struct kvstow__cipher kvstow__cipher;

/* key: KVSTOW_KEY_BYTES, not kept. */
int kvstow__cipher_new(const uint8_t *key, const uint8_t *uuid, kvstow__cipher **cipher);
/* Wipes the keys. NULL is fine. */
void kvstow__cipher_free(kvstow__cipher *cipher);

/* What the super of an encrypted store holds, so that a wrong key is told from a damaged store: it
 * authenticates the super's other fields. */
int kvstow__cipher_mark(const kvstow__cipher *cipher, const kvstow__super *super,
                        uint8_t mark[KVSTOW__MARK_BYTES]);

/* Bytes of a header page that encryption takes away from the owner's description. */
static inline uint32_t kvstow__seal_bytes(uint32_t planes) {
  return planes * KVSTOW__PLANE_SEAL_BYTES + 32;
}

/* A record's image for the disk: `record` has room for header page and planes. First, without its place known,
 * the planes; then, with the completed header page of RAM, the page. */
int kvstow__seal_planes(const kvstow__cipher *cipher, const uint8_t salt[KVSTOW__SALT_BYTES],
                        const void *header, const void *payload, uint8_t *record);
int kvstow__seal_header(const kvstow__cipher *cipher, const void *header, uint8_t *record);

/* Decrypts a header page in place; it then is what the append was given, but for the seals at its end. */
int kvstow__open_header(const kvstow__cipher *cipher, void *page);

/* Decrypts planes of a record whose header page is open, one after another. */
typedef struct kvstow__opener kvstow__opener;
int kvstow__opener_new(const kvstow__cipher *cipher, const void *header, kvstow__opener **opener);
int kvstow__open_plane(kvstow__opener *opener, uint32_t plane, void *bytes);
void kvstow__opener_free(kvstow__opener *opener);

/* Encrypts the table of a footer image, and completes its trailer for that. */
int kvstow__seal_footer(const kvstow__cipher *cipher, const uint8_t salt[KVSTOW__SALT_BYTES],
                        void *image, uint32_t records);
/* Decrypts a table whose checksum is good, in place. */
int kvstow__open_table(const kvstow__cipher *cipher, const kvstow__trailer *trailer, void *table);

#endif
