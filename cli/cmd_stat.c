/* cmd_stat.c - `kvstow stat DIR`: a store in one screen.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "cli/commands.h"
#include "cli/store_reader.h"
#include "cli/table.h"

static const struct store_command command = {
    .usage =
        "Usage: kvstow stat [--json] [--key-file FILE] DIR...\n"
        "\n"
        "Shows what a store holds, how it is read, and what reopening it cost. Nothing is\n"
        "written. DIR...: the directories it was made with, in the same order.\n"
        "\n"
        "  -j, --json   one JSON object\n"
        "      --key-file FILE\n"
        "               of an encrypted store: 32 bytes, or 64 hexadecimal digits\n"
        "  -h, --help   this text\n",
};

struct totals {
  uint64_t records, used_bytes, segment_bytes;
  uint64_t oldest_s; /* Unix time of the oldest segment's first record; 0 without records */
  uint32_t open;
};

static struct totals count_segments(const kvstow_tier *tier) {
  struct totals totals = {0};
  const uint32_t count = kvstow_tier_segment_count(tier);
  for (uint32_t id = 0; id < count; id++) {
    kvstow_segment_info info;
    if (kvstow_tier_segment(tier, id, &info) != 0) continue;
    totals.segment_bytes = info.segment_bytes;
    totals.open += info.state == KVSTOW_SEGMENT_OPEN;
    if (!store_segment_used(&info)) continue;
    totals.records += info.records;
    totals.used_bytes += info.used_bytes;
    if (info.opened_s && (!totals.oldest_s || info.opened_s < totals.oldest_s)) {
      totals.oldest_s = info.opened_s;
    }
  }
  return totals;
}

static void uuid_text(const kvstow_tier *tier, char text[2 * KVSTOW_UUID_BYTES + 1]) {
  uint8_t uuid[KVSTOW_UUID_BYTES];
  uint64_t seed;
  kvstow_tier_identity(tier, uuid, &seed);
  for (size_t i = 0; i < KVSTOW_UUID_BYTES; i++) snprintf(text + 2 * i, 3, "%02x", uuid[i]);
}

static uint64_t age_s(uint64_t then_s) {
  const uint64_t now_s = (uint64_t)time(NULL);
  return then_s && then_s < now_s ? now_s - then_s : 0;
}

static json_t *to_json(const struct totals *totals, const kvstow_tier_stats *stats,
                       const char *uuid) {
  return json_pack(
      "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:b, s:I, s:I, s:I, "
      "s:I}",
      "uuid", uuid, "records", (json_int_t)totals->records, "used_bytes",
      (json_int_t)totals->used_bytes, "disk_bytes", (json_int_t)stats->disk_bytes, "segment_bytes",
      (json_int_t)totals->segment_bytes, "segments", (json_int_t)stats->segments, "segments_free",
      (json_int_t)stats->segments_free, "segments_open", (json_int_t)totals->open,
      "segments_sealed", (json_int_t)stats->segments_sealed, "segments_bad",
      (json_int_t)stats->segments_bad, "oldest_s", (json_int_t)totals->oldest_s, "age_s",
      (json_int_t)age_s(totals->oldest_s), "engine", stats->engine, "engine_reason",
      stats->engine_reason, "direct_io", (int)stats->direct_io, "recovery_us",
      (json_int_t)stats->recovery_us, "recovered_records", (json_int_t)stats->recovered_records,
      "walked_segments", (json_int_t)stats->walked_segments, "segments_unread",
      (json_int_t)stats->segments_unread);
}

static int print_text(const struct totals *totals, const kvstow_tier_stats *stats,
                      const char *uuid) {
  static const char *const titles[] = {"<", "<", NULL};
  struct table *table = table_create(titles);
  char a[TABLE_CELL_BYTES], b[TABLE_CELL_BYTES];
  table_text(table, "store");
  table_text(table, "%s", uuid);
  table_text(table, "records");
  table_text(table, "%s", format_count(a, totals->records));
  table_text(table, "written");
  table_text(table, "%s of %s on disk", format_bytes(a, totals->used_bytes),
             format_bytes(b, stats->disk_bytes));
  table_text(table, "segments");
  table_text(table,
             "%" PRIu32 " of %s: %" PRIu32 " sealed, %" PRIu32 " open, %" PRIu32 " free, %" PRIu32
             " bad, %" PRIu32 " unread",
             stats->segments, format_bytes(a, totals->segment_bytes), stats->segments_sealed,
             totals->open, stats->segments_free, stats->segments_bad, stats->segments_unread);
  table_text(table, "oldest");
  table_text(table, "%s", totals->oldest_s ? format_age(a, age_s(totals->oldest_s)) : "-");
  table_text(table, "engine");
  table_text(table, "%s (%s), %s", stats->engine, stats->engine_reason,
             stats->direct_io ? "direct I/O" : "buffered I/O");
  table_text(table, "reopened");
  table_text(table, "in %.1f ms, %" PRIu64 " segments without a footer walked",
             (double)stats->recovery_us / 1000.0, stats->walked_segments);
  const int printed = table_print(table, stdout);
  table_destroy(table);
  return printed == 0 ? EXIT_OK : EXIT_FAILED;
}

int cmd_stat(int argc, char **argv) {
  struct store_reader reader;
  const int code = store_reader_open(&reader, &command, argc, argv);
  if (code >= 0) return code;
  const struct totals totals = count_segments(reader.tier);
  kvstow_tier_stats stats = {.size = sizeof stats};
  kvstow_tier_get_stats(reader.tier, &stats);
  char uuid[2 * KVSTOW_UUID_BYTES + 1];
  uuid_text(reader.tier, uuid);
  const int status =
      reader.json ? print_json(to_json(&totals, &stats, uuid)) : print_text(&totals, &stats, uuid);
  store_reader_close(&reader);
  return status;
}
