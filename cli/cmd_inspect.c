/* cmd_inspect.c - `kvstow inspect DIR`: which spaces a store holds, how full its segments are.
 *
 * Reads footers, and one header page a space; no payload.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cli/commands.h"
#include "cli/record_read.h"
#include "cli/store_reader.h"
#include "cli/table.h"

static const struct store_command command = {
    .usage =
        "Usage: kvstow inspect [--segments] [--json] [--key-file FILE] DIR...\n"
        "\n"
        "Shows the spaces of a store (a model in a layout), how much of it each of them holds,\n"
        "and how full and how old the segments are. Nothing is written.\n"
        "\n"
        "  -s, --segments   list every segment\n"
        "  -j, --json       one JSON object, segments included\n"
        "      --key-file FILE\n"
        "                   of an encrypted store: 32 bytes, or 64 hexadecimal digits\n"
        "  -h, --help       this text\n",
    .has_segments = true,
};

/* What one space holds. Records that are not the cache's are together in one without a name. */
struct space {
  bool cache;
  kvstow_key key;
  char name[32]; /* as in kvstow_block_info; empty when no header of it could be read */
  kvstow_record sample;
  uint32_t layers, k_bytes, v_bytes;
  uint32_t tokens_max;  /* of one block */
  uint32_t blocks_deep; /* longest chain */
  uint64_t blocks, tokens, bytes;
  uint64_t oldest_s, newest_s;
};

struct segment {
  kvstow_segment_info info;
  uint64_t live_records, live_bytes;
  int result; /* of its scan */
};

struct inventory {
  struct space *spaces;
  size_t spaces_count, spaces_room;
  struct segment *segments;
  uint32_t segments_count;
  struct segment *now; /* being scanned */
  bool no_memory;
};

static struct space *find_space(struct inventory *inventory, bool cache, kvstow_key key) {
  for (size_t i = inventory->spaces_count; i-- > 0;) {
    struct space *space = &inventory->spaces[i];
    if (space->cache == cache && space->key.lo == key.lo && space->key.hi == key.hi) return space;
  }
  if (inventory->spaces_count == inventory->spaces_room) {
    const size_t room = inventory->spaces_room ? 2 * inventory->spaces_room : 8;
    struct space *spaces = realloc(inventory->spaces, room * sizeof *spaces);
    if (!spaces) return NULL;
    inventory->spaces = spaces;
    inventory->spaces_room = room;
  }
  struct space *space = &inventory->spaces[inventory->spaces_count++];
  *space = (struct space){.cache = cache, .key = key, .oldest_s = UINT64_MAX};
  return space;
}

static bool count_record(void *arg, const kvstow_record *record) {
  struct inventory *inventory = arg;
  kvstow_block_info block;
  const bool cache = kvstow_tag_describe(record->tag, &block) == 0;
  const uint64_t bytes = (uint64_t)record->planes * record->plane_bytes;
  struct space *space = find_space(inventory, cache, cache ? block.space : (kvstow_key){0, 0});
  if (!space) {
    inventory->no_memory = true;
    return false;
  }
  if (space->blocks == 0) space->sample = *record;
  space->blocks++;
  space->bytes += bytes + KVSTOW_PAGE_BYTES;
  if (cache) {
    space->tokens += block.tokens_count;
    if (block.tokens_count > space->tokens_max) space->tokens_max = block.tokens_count;
    if (block.depth + 1 > space->blocks_deep) space->blocks_deep = block.depth + 1;
  }
  if (record->written_s < space->oldest_s) space->oldest_s = record->written_s;
  if (record->written_s > space->newest_s) space->newest_s = record->written_s;
  inventory->now->live_records++;
  inventory->now->live_bytes += bytes + KVSTOW_PAGE_BYTES;
  return true;
}

/* The name and shape of a space stand in its records' header pages. */
static void read_name(kvstow_tier *tier, struct space *space) {
  void *page = aligned_alloc(KVSTOW_PAGE_BYTES, KVSTOW_PAGE_BYTES);
  kvstow_block_info block;
  if (page && space->cache && record_read_header(tier, &space->sample, page) == 0 &&
      kvstow_block_describe(page, &block) == 0) {
    /* Any bytes may be a name; terminals and JSON get ASCII. */
    for (size_t i = 0; i + 1 < sizeof space->name && block.space_name[i] != '\0'; i++) {
      const char c = block.space_name[i];
      space->name[i] = (char)(c >= ' ' && c <= '~' ? c : '?');
    }
    space->layers = block.layers;
    space->k_bytes = block.k_bytes;
    space->v_bytes = block.v_bytes;
  }
  free(page);
}

/* 0, or KVSTOW_ENOMEM. */
static int take_inventory(kvstow_tier *tier, struct inventory *inventory) {
  inventory->segments_count = kvstow_tier_segment_count(tier);
  inventory->segments = calloc(inventory->segments_count + 1u, sizeof *inventory->segments);
  if (!inventory->segments) return KVSTOW_ENOMEM;
  for (uint32_t id = 0; id < inventory->segments_count; id++) {
    struct segment *segment = &inventory->segments[id];
    if (kvstow_tier_segment(tier, id, &segment->info) != 0) continue;
    if (!store_segment_used(&segment->info)) continue;
    inventory->now = segment;
    segment->result = kvstow_tier_scan(tier, id, count_record, inventory);
    if (inventory->no_memory) return KVSTOW_ENOMEM;
  }
  for (size_t i = 0; i < inventory->spaces_count; i++) read_name(tier, &inventory->spaces[i]);
  return 0;
}

static uint64_t age_s(uint64_t then_s) {
  const uint64_t now_s = (uint64_t)time(NULL);
  return then_s < now_s ? now_s - then_s : 0;
}

static json_t *space_json(const struct space *space) {
  char key[33];
  snprintf(key, sizeof key, "%016" PRIx64 "%016" PRIx64, space->key.hi, space->key.lo);
  return json_pack("{s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "name",
                   space->name, "key", key, "cache", (int)space->cache, "layers",
                   (json_int_t)space->layers, "k_bytes", (json_int_t)space->k_bytes, "v_bytes",
                   (json_int_t)space->v_bytes, "block_tokens", (json_int_t)space->tokens_max,
                   "blocks", (json_int_t)space->blocks, "tokens", (json_int_t)space->tokens,
                   "bytes", (json_int_t)space->bytes, "longest_chain_blocks",
                   (json_int_t)space->blocks_deep, "oldest_s", (json_int_t)space->oldest_s,
                   "newest_s", (json_int_t)space->newest_s);
}

static json_t *segment_json(uint32_t id, const struct segment *segment) {
  const kvstow_segment_info *info = &segment->info;
  return json_pack("{s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "id", (json_int_t)id,
                   "state", store_segment_state(info->state), "dir", (json_int_t)info->dir,
                   "generation", (json_int_t)info->generation, "records",
                   (json_int_t)segment->live_records, "live_bytes", (json_int_t)segment->live_bytes,
                   "used_bytes", (json_int_t)info->used_bytes, "segment_bytes",
                   (json_int_t)info->segment_bytes, "opened_s", (json_int_t)info->opened_s, "scan",
                   kvstow_errname(segment->result));
}

static json_t *to_json(const struct inventory *inventory) {
  json_t *spaces = json_array();
  json_t *segments = json_array();
  for (size_t i = 0; i < inventory->spaces_count; i++) {
    json_array_append_new(spaces, space_json(&inventory->spaces[i]));
  }
  for (uint32_t id = 0; id < inventory->segments_count; id++) {
    json_array_append_new(segments, segment_json(id, &inventory->segments[id]));
  }
  return json_pack("{s:o, s:o}", "spaces", spaces, "segments", segments);
}

static void print_spaces(const struct inventory *inventory) {
  static const char *const titles[] = {"<space", "layers", "K+V a token", "block",
                                       "blocks", "tokens", "on SSD",      "longest chain",
                                       "newest", "oldest", NULL};
  struct table *table = table_create(titles);
  for (size_t i = 0; i < inventory->spaces_count; i++) {
    const struct space *space = &inventory->spaces[i];
    if (!space->cache) {
      table_text(table, "(not the cache's)");
    } else {
      table_text(table, "%s", *space->name ? space->name : "(unnamed)");
    }
    if (space->layers > 0) {
      table_count(table, space->layers);
      table_bytes(table, (uint64_t)space->layers * (space->k_bytes + space->v_bytes));
    } else {
      table_text(table, "opaque");
      table_text(table, "-");
    }
    table_text(table, "%" PRIu32 " tok", space->tokens_max);
    table_count(table, space->blocks);
    table_count(table, space->tokens);
    table_bytes(table, space->bytes);
    table_text(table, "%" PRIu32 " blocks", space->blocks_deep);
    table_age(table, age_s(space->newest_s));
    table_age(table, age_s(space->oldest_s));
  }
  if (inventory->spaces_count == 0) {
    puts("no blocks");
  } else {
    table_print(table, stdout);
  }
  table_destroy(table);
}

/* One row a state: how many segments, how full, how old. */
static void print_states(const struct inventory *inventory) {
  static const char *const titles[] = {"<segments",     "count",  "records", "live",
                                       "of their size", "oldest", NULL};
  struct table *table = table_create(titles);
  for (int state = KVSTOW_SEGMENT_FREE; state <= KVSTOW_SEGMENT_UNREAD; state++) {
    uint64_t count = 0, records = 0, live = 0, size = 0, oldest_s = UINT64_MAX;
    for (uint32_t id = 0; id < inventory->segments_count; id++) {
      const struct segment *segment = &inventory->segments[id];
      if ((int)segment->info.state != state) continue;
      count++;
      records += segment->live_records;
      live += segment->live_bytes;
      size += segment->info.segment_bytes;
      if (segment->info.opened_s < oldest_s) oldest_s = segment->info.opened_s;
    }
    if (count == 0) continue;
    table_text(table, "%s", store_segment_state((kvstow_segment_state)state));
    table_count(table, count);
    table_count(table, records);
    table_bytes(table, live);
    table_percent(table, (double)live, (double)size);
    if (records > 0) {
      table_age(table, age_s(oldest_s));
    } else {
      table_text(table, "-");
    }
  }
  table_print(table, stdout);
  table_destroy(table);
}

static void print_segments(const struct inventory *inventory) {
  static const char *const titles[] = {"segment", "dir",     "<state", "generation", "records",
                                       "live",    "written", "full",   "age",        NULL};
  struct table *table = table_create(titles);
  for (uint32_t id = 0; id < inventory->segments_count; id++) {
    const struct segment *segment = &inventory->segments[id];
    const kvstow_segment_info *info = &segment->info;
    table_text(table, "%" PRIu32, id);
    table_text(table, "%" PRIu32, info->dir);
    table_text(table, "%s", store_segment_state(info->state));
    table_text(table, "%" PRIu32, info->generation);
    table_count(table, segment->live_records);
    table_bytes(table, segment->live_bytes);
    table_bytes(table, info->used_bytes);
    table_percent(table, (double)info->used_bytes, (double)info->segment_bytes);
    if (info->opened_s) {
      table_age(table, age_s(info->opened_s));
    } else {
      table_text(table, "-");
    }
  }
  table_print(table, stdout);
  table_destroy(table);
}

static int print_text(const struct inventory *inventory, bool every_segment) {
  print_spaces(inventory);
  putchar('\n');
  if (every_segment) {
    print_segments(inventory);
  } else {
    print_states(inventory);
  }
  int status = EXIT_OK;
  for (uint32_t id = 0; id < inventory->segments_count; id++) {
    const int result = inventory->segments[id].result;
    if (result == 0) continue;
    fprintf(stderr, "kvstow inspect: segment %" PRIu32 ": %s\n", id, kvstow_strerror(result));
    status = EXIT_FAILED;
  }
  return status;
}

int cmd_inspect(int argc, char **argv) {
  struct store_reader reader;
  const int code = store_reader_open(&reader, &command, argc, argv);
  if (code >= 0) return code;
  struct inventory inventory = {0};
  int status = EXIT_FAILED;
  if (take_inventory(reader.tier, &inventory) != 0) {
    fputs("kvstow inspect: out of memory\n", stderr);
  } else if (reader.json) {
    status = print_json(to_json(&inventory));
  } else {
    status = print_text(&inventory, reader.segments);
  }
  free(inventory.spaces);
  free(inventory.segments);
  store_reader_close(&reader);
  return status;
}
