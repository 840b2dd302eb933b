/* cmd_verify.c - `kvstow verify DIR`: reads every byte of every record and names each bad one.
 *
 * Records are read in batches, in the order they lie; a record that fails is read once more alone,
 * so that the store's message about it can be told from those about others.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/commands.h"
#include "cli/progress.h"
#include "cli/record_read.h"
#include "cli/segment_files.h"
#include "cli/store_reader.h"
#include "cli/table.h"

static const struct store_command command = {
    .usage =
        "Usage: kvstow verify [--json] [--key-file FILE] DIR...\n"
        "\n"
        "Reads every byte of every record of a store and checks it: header, identity, each\n"
        "plane's checksum, the cache's description. Names every bad record: file, offset,\n"
        "cause; and every segment file that is missing or too short. Nothing is written. Exit\n"
        "code 1 if anything is bad, but for files that a crash left while they were being made.\n"
        "\n"
        "  -j, --json   {records, bad, bytes, bad_records: [...], incomplete: [...]}\n"
        "      --key-file FILE\n"
        "               of an encrypted store: 32 bytes, or 64 hexadecimal digits\n"
        "  -h, --help   this text\n",
};

enum { BATCH_RECORDS = 64 };
#define BATCH_BYTES (UINT64_C(32) << 20)

struct bad_record {
  kvstow_record record; /* all zero but loc.segment for a segment that can't be listed */
  int result;
  char cause[KVSTOW_MESSAGE_BYTES];
};

struct verification {
  kvstow_tier *tier;
  kvstow_record *records; /* of the segment at hand */
  size_t count, room;
  struct bad_record *bad;
  size_t bad_count, bad_room;
  struct segment_file *incomplete;
  size_t incomplete_count;
  char *memory; /* header pages of a batch, then payloads */
  uint64_t memory_bytes;
  uint64_t records_read, bytes_read;
  bool no_memory;
};

static bool collect(void *arg, const kvstow_record *record) {
  struct verification *v = arg;
  if (v->count == v->room) {
    const size_t room = v->room ? 2 * v->room : 256;
    kvstow_record *records = realloc(v->records, room * sizeof *records);
    if (!records) {
      v->no_memory = true;
      return false;
    }
    v->records = records;
    v->room = room;
  }
  v->records[v->count++] = *record;
  return true;
}

static void report(struct verification *v, const kvstow_record *record, int result,
                   const char *cause) {
  if (v->bad_count == v->bad_room) {
    const size_t room = v->bad_room ? 2 * v->bad_room : 16;
    struct bad_record *bad = realloc(v->bad, room * sizeof *bad);
    if (!bad) {
      v->no_memory = true;
      return;
    }
    v->bad = bad;
    v->bad_room = room;
  }
  struct bad_record *bad = &v->bad[v->bad_count++];
  bad->record = *record;
  bad->result = result;
  snprintf(bad->cause, sizeof bad->cause, "%s", cause);
}

static uint64_t payload_bytes(const kvstow_record *record) {
  return (uint64_t)record->planes * record->plane_bytes;
}

static void prepare(kvstow_record_read *read, const kvstow_record *record, char *header,
                    char *payload) {
  *read = (kvstow_record_read){
      .key = record->key,
      .loc = record->loc,
      .plane_bytes = record->plane_bytes,
      .plane_count = record->planes,
      .header = header,
      .payload = payload,
  };
}

/* Reads a record alone, with the store's words about it. */
static int read_again(struct verification *v, const kvstow_record *record, char *cause,
                      size_t cause_bytes) {
  kvstow_record_read read;
  prepare(&read, record, v->memory, v->memory + KVSTOW_PAGE_BYTES);
  int result = record_read_all(v->tier, &read, 1);
  if (result == 0) result = read.result;
  if (result != 0) kvstow_tier_message(v->tier, cause, cause_bytes);
  return result;
}

/* The tier knows the record to be whole; is it what its tag says it is? */
static bool described_well(const kvstow_record *record, const void *header) {
  kvstow_block_info tag, page;
  if (kvstow_tag_describe(record->tag, &tag) != 0) return true; /* not the cache's */
  return kvstow_block_describe(header, &page) == 0 && page.space.lo == tag.space.lo &&
         page.space.hi == tag.space.hi && page.root.lo == tag.root.lo &&
         page.root.hi == tag.root.hi && page.parent.lo == tag.parent.lo &&
         page.parent.hi == tag.parent.hi && page.depth == tag.depth &&
         page.tokens_count == tag.tokens_count;
}

/* Room for a batch, or for one record larger than that. */
static bool make_room(struct verification *v, uint64_t bytes) {
  if (bytes <= v->memory_bytes) return true;
  free(v->memory);
  v->memory = aligned_alloc(KVSTOW_PAGE_BYTES, bytes);
  v->memory_bytes = v->memory ? bytes : 0;
  return v->memory != NULL;
}

/* Verifies records[first..] as far as one batch goes; returns how many. */
static size_t verify_batch(struct verification *v, size_t first) {
  size_t count = 0;
  uint64_t bytes = 0;
  while (first + count < v->count && count < BATCH_RECORDS) {
    const uint64_t more = KVSTOW_PAGE_BYTES + payload_bytes(&v->records[first + count]);
    if (count > 0 && bytes + more > BATCH_BYTES) break;
    bytes += more;
    count++;
  }
  if (!make_room(v, bytes)) {
    v->no_memory = true;
    return count;
  }
  kvstow_record_read reads[BATCH_RECORDS];
  char *header = v->memory;
  char *payload = v->memory + count * KVSTOW_PAGE_BYTES;
  for (size_t i = 0; i < count; i++) {
    const kvstow_record *record = &v->records[first + i];
    prepare(&reads[i], record, header, payload);
    header += KVSTOW_PAGE_BYTES;
    payload += payload_bytes(record);
  }
  const int result = record_read_all(v->tier, reads, count);
  bool suspect[BATCH_RECORDS];
  for (size_t i = 0; i < count; i++) {
    const kvstow_record *record = &v->records[first + i];
    suspect[i] = result != 0 || reads[i].result != 0;
    if (!suspect[i] && !described_well(record, reads[i].header)) {
      report(v, record, KVSTOW_ECORRUPT, "the cache's description and the footer's tag differ");
    }
  }
  for (size_t i = 0; i < count; i++) {
    if (!suspect[i]) continue;
    char cause[KVSTOW_MESSAGE_BYTES] = "";
    const int again = read_again(v, &v->records[first + i], cause, sizeof cause);
    if (again != 0) report(v, &v->records[first + i], again, cause);
  }
  v->records_read += count;
  v->bytes_read += bytes;
  return count;
}

static uint64_t used_bytes(const kvstow_tier *tier) {
  uint64_t bytes = 0;
  for (uint32_t id = 0; id < kvstow_tier_segment_count(tier); id++) {
    kvstow_segment_info info;
    if (kvstow_tier_segment(tier, id, &info) == 0 && store_segment_used(&info)) {
      bytes += info.used_bytes;
    }
  }
  return bytes;
}

static void verify_all(struct verification *v) {
  struct progress progress;
  progress_begin(&progress, "verifying", used_bytes(v->tier));
  const uint32_t count = kvstow_tier_segment_count(v->tier);
  for (uint32_t id = 0; id < count && !v->no_memory; id++) {
    kvstow_segment_info info;
    if (kvstow_tier_segment(v->tier, id, &info) != 0 || !store_segment_used(&info)) continue;
    v->count = 0;
    const int result = kvstow_tier_scan(v->tier, id, collect, v);
    if (result != 0) {
      char cause[KVSTOW_MESSAGE_BYTES] = "";
      kvstow_tier_message(v->tier, cause, sizeof cause);
      report(v, &(kvstow_record){.loc.segment = id}, result, cause);
    }
    for (size_t first = 0; first < v->count && !v->no_memory;) {
      first += verify_batch(v, first);
      progress_update(&progress, v->bytes_read);
    }
  }
  progress_end(&progress);
}

static const char *file_state(enum segment_file_state state) {
  switch (state) {
    case SEGMENT_FILE_TRUNCATED:
      return "truncated";
    case SEGMENT_FILE_MISSING:
      return "missing";
    case SEGMENT_FILE_UNFINISHED:
      return "never finished";
  }
  return "?";
}

static bool files_lost(const struct verification *v) {
  for (size_t i = 0; i < v->incomplete_count; i++)
    if (v->incomplete[i].state != SEGMENT_FILE_UNFINISHED) return true;
  return false;
}

static json_t *incomplete_json(const struct verification *v) {
  json_t *list = json_array();
  for (size_t i = 0; i < v->incomplete_count; i++) {
    const struct segment_file *file = &v->incomplete[i];
    json_array_append_new(
        list, json_pack("{s:I, s:s, s:I, s:I}", "segment", (json_int_t)file->segment, "state",
                        file_state(file->state), "bytes", (json_int_t)file->bytes, "segment_bytes",
                        (json_int_t)file->segment_bytes));
  }
  return list;
}

static json_t *to_json(const struct verification *v) {
  json_t *list = json_array();
  for (size_t i = 0; i < v->bad_count; i++) {
    const struct bad_record *bad = &v->bad[i];
    char key[33];
    snprintf(key, sizeof key, "%016" PRIx64 "%016" PRIx64, bad->record.key.hi, bad->record.key.lo);
    json_array_append_new(
        list, json_pack("{s:I, s:I, s:s, s:s, s:s}", "segment", (json_int_t)bad->record.loc.segment,
                        "offset", (json_int_t)bad->record.loc.page * KVSTOW_PAGE_BYTES, "key", key,
                        "error", kvstow_errname(bad->result), "cause", bad->cause));
  }
  return json_pack("{s:I, s:I, s:I, s:o, s:o}", "records", (json_int_t)v->records_read, "bad",
                   (json_int_t)v->bad_count, "bytes", (json_int_t)v->bytes_read, "bad_records",
                   list, "incomplete", incomplete_json(v));
}

static void print_text(const struct verification *v) {
  for (size_t i = 0; i < v->bad_count; i++) {
    const struct bad_record *bad = &v->bad[i];
    printf("bad: segment %" PRIu32 ", offset %" PRIu64 ": %s\n", bad->record.loc.segment,
           (uint64_t)bad->record.loc.page * KVSTOW_PAGE_BYTES,
           *bad->cause ? bad->cause : kvstow_strerror(bad->result));
  }
  char records[TABLE_CELL_BYTES], bytes[TABLE_CELL_BYTES], bad[TABLE_CELL_BYTES];
  for (size_t i = 0; i < v->incomplete_count; i++) {
    const struct segment_file *file = &v->incomplete[i];
    char whole[TABLE_CELL_BYTES];
    if (file->state == SEGMENT_FILE_MISSING)
      printf("segment %" PRIu32 ": missing\n", file->segment);
    else
      printf("segment %" PRIu32 ": %s of %s%s\n", file->segment, format_bytes(bytes, file->bytes),
             format_bytes(whole, file->segment_bytes),
             file->state == SEGMENT_FILE_UNFINISHED ? ", never used" : "");
  }
  printf("%s records, %s read, %s bad", format_count(records, v->records_read),
         format_bytes(bytes, v->bytes_read), format_count(bad, v->bad_count));
  if (v->incomplete_count > 0) printf("; %zu segment files are not whole", v->incomplete_count);
  putchar('\n');
}

int cmd_verify(int argc, char **argv) {
  struct store_reader reader;
  const int code = store_reader_open(&reader, &command, argc, argv);
  if (code >= 0) return code;
  struct verification v = {.tier = reader.tier};
  verify_all(&v);
  if (segment_files_incomplete(&reader, &v.incomplete, &v.incomplete_count) != 0)
    v.no_memory = true;
  int status = v.bad_count > 0 || files_lost(&v) ? EXIT_FAILED : EXIT_OK;
  if (v.no_memory) {
    fputs("kvstow verify: out of memory\n", stderr);
    status = EXIT_FAILED;
  } else if (reader.json) {
    if (print_json(to_json(&v)) != EXIT_OK) status = EXIT_FAILED;
  } else {
    print_text(&v);
  }
  free(v.records);
  free(v.bad);
  free(v.incomplete);
  free(v.memory);
  store_reader_close(&reader);
  return status;
}
