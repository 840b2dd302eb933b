/* eviction/keymap.c - see keymap.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "eviction/keymap.h"

#include <stdlib.h>

#include <kvstow/error.h>

enum { LINE_KEYS = 9 }; /* of 12 slots: one line in eight is passed by some key */

int kvstow__keymap_init(struct keymap *map, uint32_t numbers) {
  const uint32_t count = numbers / LINE_KEYS + 1;
  *map = (struct keymap){0};
  /* Zeroed by the kernel, and not there before it is used, if it is large. */
  map->memory = calloc((size_t)count + 1, sizeof *map->lines);
  if (map->memory == NULL) return KVSTOW_ENOMEM;
  map->lines = (struct keymap_line *)(((uintptr_t)map->memory + sizeof *map->lines - 1) /
                                      sizeof *map->lines * sizeof *map->lines);
  map->count = count;
  return 0;
}

void kvstow__keymap_finish(struct keymap *map) {
  free(map->memory);
  *map = (struct keymap){0};
}

static void set_tag(struct keymap_line *line, uint32_t slot, uint8_t tag) {
  const uint32_t at = slot % 8 * 8;
  if (slot < 8)
    line->tags = (line->tags & ~(UINT64_C(0xff) << at)) | (uint64_t)tag << at;
  else
    line->more = (line->more & ~(UINT32_C(0xff) << at)) | (uint32_t)tag << at;
}

void kvstow__keymap_add(struct keymap *map, uint64_t key, uint32_t number) {
  const uint32_t hash = keymap_hash(key);
  uint32_t at = keymap_home(map, hash);
  uint64_t room;
  for (; (room = keymap_match(&map->lines[at], 0)) == 0; at = keymap_behind(map, at))
    map->lines[at].passed++;
  set_tag(&map->lines[at], keymap_slot(room), keymap_tag(hash));
  map->lines[at].slot[keymap_slot(room)] = number;
}

void kvstow__keymap_drop(struct keymap *map, uint64_t key, uint32_t number) {
  const uint32_t hash = keymap_hash(key);
  for (uint32_t at = keymap_home(map, hash);; at = keymap_behind(map, at)) {
    struct keymap_line *line = &map->lines[at];
    uint64_t some = keymap_match(line, keymap_tag(hash));
    while (some != 0 && line->slot[keymap_slot(some)] != number) some &= some - 1;
    if (some != 0) {
      set_tag(line, keymap_slot(some), 0);
      return;
    }
    line->passed--;
  }
}
