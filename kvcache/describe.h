/* describe.h - what the cache writes into the owner's part of a header page and of a footer.
 *
 * docs/format.md describes both. All little-endian.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_KVCACHE_DESCRIBE_H
#define KVSTOW_KVCACHE_DESCRIBE_H

#include "kvcache/key.h"
#include "kvstow/kvstow.h"

#define KVS_NAME_BYTES 32u

/* Bytes of the owner's description for a block of so many tokens. */
uint32_t kvs_describe_bytes(uint32_t tokens);

/* Formats a whole header page for a block: tier fields (`shape`, but for the tag), owner's description,
 * tokens. Plane checksums stay zero. KVSTOW_EINVAL if it does not fit. */
int kvs_describe_format(void *page, const kvstow_block_info *info, const kvstow_record *shape);

/* Is this the header page of a block of these tokens with this parent? */
bool kvs_describe_is(const void *page, kvstow_key parent, const kvstow_token *tokens,
                     uint32_t count);
/* Fetches into the caches what kvs_describe_is will look at. */
void kvs_describe_fetch(const void *page, uint32_t planes, uint32_t tokens);

#endif
