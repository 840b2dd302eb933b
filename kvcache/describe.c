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
