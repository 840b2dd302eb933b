/* tier/cipher.c - see cipher.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tier/cipher.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

#define DIGEST_BYTES 32u
#define TAG_BYTES 16u
#define NONCE_BYTES 12

/* What a key is derived for. */
typedef struct label {
  const char *text;
  size_t bytes;
} label;

static const label STORE_LABEL = {"kvstow store", 12}, SUPER_LABEL = {"kvstow super", 12},
                   SALT_LABEL = {"kvstow salt", 11};

/* What of a header page is open, and what is encrypted: all but its checksum and its end. */
#define OPEN_BYTES offsetof(kvstow__header, key)
#define SALT_AT (KVSTOW_PAGE_BYTES - KVSTOW__SALT_BYTES - TAG_BYTES)
#define TAG_AT (KVSTOW_PAGE_BYTES - TAG_BYTES)

struct kvstow__cipher {
  uint8_t key[DIGEST_BYTES]; /* of this store */
  EVP_CIPHER *aes;
};

struct kvstow__opener {
  EVP_CIPHER_CTX *ctx;
  const uint8_t *page;
  uint32_t planes, plane_bytes;
};

/* ---- keys ----------------------------------------------------------------------------------- */

static int derive(const uint8_t key[DIGEST_BYTES], label what, const void *bytes, size_t length,
                  uint8_t out[DIGEST_BYTES]) {
  uint8_t text[128];
  memcpy(text, what.text, what.bytes);
  memcpy(text + what.bytes, bytes, length);
  return HMAC(EVP_sha256(), key, DIGEST_BYTES, text, what.bytes + length, out, NULL)
             ? 0
             : KVSTOW_ENOMEM;
}

int kvstow__cipher_new(const uint8_t *key, const uint8_t *uuid, kvstow__cipher **out) {
  kvstow__cipher *cipher = calloc(1, sizeof *cipher);
  *out = NULL;
  if (!cipher) return KVSTOW_ENOMEM;
  cipher->aes = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
  if (!cipher->aes || derive(key, STORE_LABEL, uuid, KVSTOW_UUID_BYTES, cipher->key) != 0) {
    kvstow__cipher_free(cipher);
    return KVSTOW_ENOMEM;
  }
  *out = cipher;
  return 0;
}

void kvstow__cipher_free(kvstow__cipher *cipher) {
  if (!cipher) return;
  EVP_CIPHER_free(cipher->aes);
  OPENSSL_cleanse(cipher, sizeof *cipher);
  free(cipher);
}

int kvstow__cipher_mark(const kvstow__cipher *cipher, const kvstow__super *super,
                        uint8_t mark[KVSTOW__MARK_BYTES]) {
  uint8_t digest[DIGEST_BYTES];
  const int code =
      derive(cipher->key, SUPER_LABEL, super, offsetof(kvstow__super, cipher_mark), digest);
  memcpy(mark, digest, KVSTOW__MARK_BYTES);
  return code;
}

/* A context for the messages of one record or footer; NULL: out of memory. */
static EVP_CIPHER_CTX *begin(const kvstow__cipher *cipher, const uint8_t *salt, bool encrypt) {
  uint8_t key[DIGEST_BYTES];
  EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
  if (!ctx) return NULL;
  bool good = derive(cipher->key, SALT_LABEL, salt, KVSTOW__SALT_BYTES, key) == 0;
  if (good) good = EVP_CipherInit_ex2(ctx, cipher->aes, key, NULL, encrypt, NULL) == 1;
  OPENSSL_cleanse(key, sizeof key);
  if (good) return ctx;
  EVP_CIPHER_CTX_free(ctx);
  return NULL;
}

/* ---- messages ------------------------------------------------------------------------------- */

static bool number(EVP_CIPHER_CTX *ctx, uint32_t message) {
  uint8_t nonce[NONCE_BYTES] = {0};
  memcpy(nonce, &message, sizeof message);
  return EVP_CipherInit_ex2(ctx, NULL, NULL, nonce, -1, NULL) == 1;
}

static bool open_text(EVP_CIPHER_CTX *ctx, const void *bytes, size_t length) {
  int out;
  return EVP_CipherUpdate(ctx, NULL, &out, bytes, (int)length) == 1;
}

static bool secret(EVP_CIPHER_CTX *ctx, const void *from, void *to, size_t length) {
  int out;
  return length == 0 || EVP_CipherUpdate(ctx, to, &out, from, (int)length) == 1;
}

static int seal(EVP_CIPHER_CTX *ctx, bool good, void *tag, size_t tag_bytes) {
  uint8_t rest[TAG_BYTES];
  int out;
  good = good && EVP_CipherFinal_ex(ctx, rest, &out) == 1 &&
         EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, (int)tag_bytes, tag) == 1;
  return good ? 0 : KVSTOW_ENOMEM;
}

static int check(EVP_CIPHER_CTX *ctx, bool good, const void *tag, size_t tag_bytes) {
  uint8_t rest[TAG_BYTES], expected[TAG_BYTES];
  int out;
  memcpy(expected, tag, tag_bytes);
  if (!good || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, (int)tag_bytes, expected) != 1)
    return KVSTOW_ENOMEM;
  return EVP_CipherFinal_ex(ctx, rest, &out) == 1 ? 0 : KVSTOW_ECORRUPT;
}

/* ---- records -------------------------------------------------------------------------------- */

static size_t plane_seal_at(uint32_t planes, uint32_t plane) {
  return SALT_AT - (size_t)(planes - plane) * KVSTOW__PLANE_SEAL_BYTES;
}

int kvstow__seal_planes(const kvstow__cipher *cipher, const uint8_t salt[KVSTOW__SALT_BYTES],
                        const void *header, const void *payload, uint8_t *record) {
  const kvstow__header *h = header;
  EVP_CIPHER_CTX *ctx = begin(cipher, salt, true);
  if (!ctx) return KVSTOW_ENOMEM;
  int code = 0;
  memcpy(record + SALT_AT, salt, KVSTOW__SALT_BYTES);
  for (uint32_t p = 0; p < h->planes && !code; p++) {
    const size_t at = (size_t)p * h->plane_bytes;
    const bool good = number(ctx, 1 + p) && secret(ctx, (const uint8_t *)payload + at,
                                                   record + KVSTOW_PAGE_BYTES + at, h->plane_bytes);
    code = seal(ctx, good, record + plane_seal_at(h->planes, p), KVSTOW__PLANE_SEAL_BYTES);
  }
  EVP_CIPHER_CTX_free(ctx);
  return code;
}

static void checksum(void *page) {
  kvstow__header *header = page;
  header->checksum = kvstow__page_checksum(page, offsetof(kvstow__header, checksum));
}

/* The messages of a header page: what is before its checksum, and what is behind. */
static bool header_message(EVP_CIPHER_CTX *ctx, uint8_t *page) {
  const size_t checksum_at = offsetof(kvstow__header, checksum);
  const size_t behind = checksum_at + sizeof(uint64_t);
  return number(ctx, 0) && open_text(ctx, page, OPEN_BYTES) &&
         secret(ctx, page + OPEN_BYTES, page + OPEN_BYTES, checksum_at - OPEN_BYTES) &&
         secret(ctx, page + behind, page + behind, SALT_AT - behind);
}

int kvstow__seal_header(const kvstow__cipher *cipher, const void *header, uint8_t *record) {
  const kvstow__header *h = header;
  EVP_CIPHER_CTX *ctx = begin(cipher, record + SALT_AT, true);
  if (!ctx) return KVSTOW_ENOMEM;
  memcpy(record, header, plane_seal_at(h->planes, 0));
  const int code = seal(ctx, header_message(ctx, record), record + TAG_AT, TAG_BYTES);
  EVP_CIPHER_CTX_free(ctx);
  checksum(record);
  return code;
}

int kvstow__open_header(const kvstow__cipher *cipher, void *page) {
  uint8_t *bytes = page;
  const kvstow__header *header = page;
  if (sizeof *header + header->planes * 8u + header->owner_bytes +
          kvstow__seal_bytes(header->planes) >
      KVSTOW_PAGE_BYTES)
    return KVSTOW_ECORRUPT;
  EVP_CIPHER_CTX *ctx = begin(cipher, bytes + SALT_AT, false);
  if (!ctx) return KVSTOW_ENOMEM;
  const int code = check(ctx, header_message(ctx, bytes), bytes + TAG_AT, TAG_BYTES);
  EVP_CIPHER_CTX_free(ctx);
  checksum(page);
  return code;
}

int kvstow__opener_new(const kvstow__cipher *cipher, const void *header, kvstow__opener **out) {
  const kvstow__header *h = header;
  kvstow__opener *opener = calloc(1, sizeof *opener);
  *out = opener;
  if (!opener) return KVSTOW_ENOMEM;
  opener->page = header;
  opener->planes = h->planes;
  opener->plane_bytes = h->plane_bytes;
  opener->ctx = begin(cipher, opener->page + SALT_AT, false);
  if (opener->ctx) return 0;
  kvstow__opener_free(opener);
  *out = NULL;
  return KVSTOW_ENOMEM;
}

int kvstow__open_plane(kvstow__opener *opener, uint32_t plane, void *bytes) {
  const bool good =
      number(opener->ctx, 1 + plane) && secret(opener->ctx, bytes, bytes, opener->plane_bytes);
  return check(opener->ctx, good, opener->page + plane_seal_at(opener->planes, plane),
               KVSTOW__PLANE_SEAL_BYTES);
}

void kvstow__opener_free(kvstow__opener *opener) {
  if (!opener) return;
  EVP_CIPHER_CTX_free(opener->ctx);
  free(opener);
}

/* ---- footers -------------------------------------------------------------------------------- */

/* All of the trailer before its seal but the table's checksum, which is of the table as encrypted. */
static bool footer_message(EVP_CIPHER_CTX *ctx, const kvstow__trailer *trailer, void *table) {
  const size_t checksum_at = offsetof(kvstow__trailer, table_checksum);
  const size_t opened_at = offsetof(kvstow__trailer, opened_s);
  return number(ctx, 0) && open_text(ctx, trailer, checksum_at) &&
         open_text(ctx, (const uint8_t *)trailer + opened_at,
                   offsetof(kvstow__trailer, salt) - opened_at) &&
         secret(ctx, table, table, (size_t)trailer->records * sizeof(kvstow__entry));
}

int kvstow__seal_footer(const kvstow__cipher *cipher, const uint8_t salt[KVSTOW__SALT_BYTES],
                        void *image, uint32_t records) {
  kvstow__trailer *trailer =
      (void *)((uint8_t *)image + kvstow__footer_bytes(records) - KVSTOW_PAGE_BYTES);
  EVP_CIPHER_CTX *ctx = begin(cipher, salt, true);
  if (!ctx) return KVSTOW_ENOMEM;
  memcpy(trailer->salt, salt, sizeof trailer->salt);
  const int code =
      seal(ctx, footer_message(ctx, trailer, image), trailer->seal, sizeof trailer->seal);
  EVP_CIPHER_CTX_free(ctx);
  kvstow__trailer_sum(trailer, image);
  return code;
}

int kvstow__open_table(const kvstow__cipher *cipher, const kvstow__trailer *trailer, void *table) {
  EVP_CIPHER_CTX *ctx = begin(cipher, trailer->salt, false);
  if (!ctx) return KVSTOW_ENOMEM;
  const int code =
      check(ctx, footer_message(ctx, trailer, table), trailer->seal, sizeof trailer->seal);
  EVP_CIPHER_CTX_free(ctx);
  return code;
}
