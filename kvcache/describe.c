/* describe.c - see describe.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/describe.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "kvstow writes its structures as they lie in memory: little-endian machines only"
#endif

#define OWNER_MAGIC 0x314b4c42766b6f6cull /* "lokvBLK1" */

struct owner_area {
  uint64_t magic;
  kvstow_key space, root, parent;
  uint32_t depth;
  uint32_t tokens_count;
  uint32_t payload_bytes;
  uint32_t layers, k_bytes, v_bytes;
  char space_name[KVS_NAME_BYTES];
  /* kvstow_token tokens[tokens_count] */
};
static_assert(sizeof(struct owner_area) == 112, "on disk");
static_assert(offsetof(struct owner_area, depth) == 56, "on disk");
static_assert(offsetof(struct owner_area, space_name) == 80, "on disk");

struct tag_area {
  kvstow_key root, parent, space;
  uint32_t depth;
  uint32_t tokens_count;
  uint32_t payload_bytes;
  uint32_t layers;
};
static_assert(sizeof(struct tag_area) == KVSTOW_TAG_BYTES, "on disk");

uint32_t kvs_describe_bytes(uint32_t tokens) {
  return (uint32_t)sizeof(struct owner_area) + tokens * (uint32_t)sizeof(kvstow_token);
}

int kvs_describe_format(void *page, const kvstow_block_info *info, const kvstow_record *shape) {
  union {
    struct owner_area area;
    unsigned char bytes[KVSTOW_PAGE_BYTES];
  } owner;
  const uint32_t owner_bytes = kvs_describe_bytes(info->tokens_count);
  if (owner_bytes > sizeof owner) return KVSTOW_EINVAL;
  memset(&owner.area, 0, sizeof owner.area);
  owner.area = (struct owner_area){.magic = OWNER_MAGIC,
                                   .space = info->space,
                                   .root = info->root,
                                   .parent = info->parent,
                                   .depth = info->depth,
                                   .tokens_count = info->tokens_count,
                                   .payload_bytes = info->payload_bytes,
                                   .layers = info->layers,
                                   .k_bytes = info->k_bytes,
                                   .v_bytes = info->v_bytes};
  memcpy(owner.area.space_name, info->space_name, KVS_NAME_BYTES);
  memcpy(owner.bytes + sizeof owner.area, info->tokens,
         (size_t)info->tokens_count * sizeof(kvstow_token));
  const struct tag_area tag = {.root = info->root,
                               .parent = info->parent,
                               .space = info->space,
                               .depth = info->depth,
                               .tokens_count = info->tokens_count,
                               .payload_bytes = info->payload_bytes,
                               .layers = info->layers};
  kvstow_record record = *shape;
  memcpy(record.tag, &tag, sizeof tag);
  return kvstow_record_format(page, &record, owner.bytes, owner_bytes);
}

bool kvs_describe_is(const void *page, kvstow_key parent, const kvstow_token *tokens,
                     uint32_t count) {
  uint32_t bytes;
  const struct owner_area *area = kvstow_record_owner(page, &bytes); /* 8-aligned in its page */
  return bytes == kvs_describe_bytes(count) && area->magic == OWNER_MAGIC &&
         area->tokens_count == count && kvs_key_equal(area->parent, parent) &&
         memcmp(area + 1, tokens, count * sizeof *tokens) == 0;
}

#define LINE_BYTES 64u

void kvs_describe_fetch(const void *page, uint32_t planes, uint32_t tokens) {
  const char *at = page;
  const uint64_t end = KVSTOW_PAGE_BYTES - (uint64_t)kvstow_record_owner_max_bytes(planes) +
                       kvs_describe_bytes(tokens);
  const uint64_t begin = end - kvs_describe_bytes(tokens);
  __builtin_prefetch(at); /* lengths */
  for (uint64_t i = begin / LINE_BYTES * LINE_BYTES; i < end; i += LINE_BYTES)
    __builtin_prefetch(at + i);
}

int kvstow_block_describe(const void *header_page, kvstow_block_info *info) {
  uint32_t bytes;
  const unsigned char *owner = kvstow_record_owner(header_page, &bytes);
  struct owner_area area;
  if (owner == NULL || bytes < sizeof area) return KVSTOW_ECORRUPT;
  memcpy(&area, owner, sizeof area);
  if (area.magic != OWNER_MAGIC || area.tokens_count > KVSTOW_PAGE_BYTES / sizeof(kvstow_token) ||
      bytes != kvs_describe_bytes(area.tokens_count))
    return KVSTOW_ECORRUPT;
  *info = (kvstow_block_info){.space = area.space,
                              .root = area.root,
                              .parent = area.parent,
                              .depth = area.depth,
                              .tokens_count = area.tokens_count,
                              .payload_bytes = area.payload_bytes,
                              .layers = area.layers,
                              .k_bytes = area.k_bytes,
                              .v_bytes = area.v_bytes,
                              .tokens = (const kvstow_token *)(const void *)(owner + sizeof area)};
  memcpy(info->space_name, area.space_name, sizeof info->space_name);
  info->space_name[sizeof info->space_name - 1] = '\0';
  return 0;
}

int kvstow_tag_describe(const uint8_t bytes[KVSTOW_TAG_BYTES], kvstow_block_info *info) {
  struct tag_area tag;
  memcpy(&tag, bytes, sizeof tag);
  *info = (kvstow_block_info){.space = tag.space,
                              .root = tag.root,
                              .parent = tag.parent,
                              .depth = tag.depth,
                              .tokens_count = tag.tokens_count,
                              .payload_bytes = tag.payload_bytes,
                              .layers = tag.layers};
  return tag.tokens_count == 0 ? KVSTOW_ECORRUPT : 0;
}
