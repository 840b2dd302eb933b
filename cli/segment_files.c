/* segment_files.c - whether a store's segment files are all there, and whole (docs/format.md).
 *
 * A directory's files are made one after another, lowest number first, each allocated to its full length
 * before anything is written to it. What was lost behind the highest number leaves no trace.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/segment_files.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

/* Its length, or -1: there is none. */
static int64_t measure(const char *path) {
  struct stat file;
  return stat(path, &file) == 0 ? (int64_t)file.st_size : -1;
}

/* A segment in use begins with a header; one never used, or wiped, with zeroes. */
static bool written_to(const char *path) {
  static const char zeroes[KVSTOW_PAGE_BYTES];
  char page[KVSTOW_PAGE_BYTES];
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return true; /* and can't be read, which its records have told */
  const ssize_t bytes = read(fd, page, sizeof page);
  close(fd);
  return bytes < 0 || memcmp(page, zeroes, (size_t)bytes) != 0;
}

int segment_files_incomplete(const struct store_reader *reader, struct segment_file **files,
                             size_t *count) {
  const uint32_t segments = kvstow_tier_segment_count(reader->tier);
  struct segment_file *list = calloc((size_t)segments + 1, sizeof *list);
  uint32_t *present = calloc(reader->dirs_count, sizeof *present); /* to be met yet, a directory */
  *files = list;
  *count = 0;
  for (int pass = 0; list && present && pass < 2; pass++) {
    for (uint32_t id = 0; id < segments; id++) {
      kvstow_segment_info info;
      char path[PATH_BYTES];
      if (kvstow_tier_segment(reader->tier, id, &info) != 0) continue;
      snprintf(path, sizeof path, "%s/seg-%06" PRIu32 ".kvs", reader->dirs[info.dir], id);
      const int64_t bytes = measure(path);
      if (pass == 0) {
        present[info.dir] += bytes >= 0;
        continue;
      }
      present[info.dir] -= bytes >= 0;
      if (bytes >= (int64_t)info.segment_bytes || (bytes < 0 && present[info.dir] == 0)) continue;
      list[(*count)++] = (struct segment_file){
          .segment = id,
          .state = bytes < 0          ? SEGMENT_FILE_MISSING
                   : written_to(path) ? SEGMENT_FILE_TRUNCATED
                                      : SEGMENT_FILE_UNFINISHED,
          .bytes = bytes < 0 ? 0 : (uint64_t)bytes,
          .segment_bytes = info.segment_bytes,
      };
    }
  }
  const bool enough = list && present;
  free(present);
  return enough ? 0 : KVSTOW_ENOMEM;
}
