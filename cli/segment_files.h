/* segment_files.h - whether a store's segment files are all there, and whole.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_CLI_SEGMENT_FILES_H
#define KVSTOW_CLI_SEGMENT_FILES_H

#include "cli/store_reader.h"

enum segment_file_state {
  SEGMENT_FILE_TRUNCATED = 1, /* short, and has been written to: a file is whole before it is */
  SEGMENT_FILE_MISSING,    /* though its directory has one of a higher number: lost, unless a crash
                                 came while the store was made smaller */
  SEGMENT_FILE_UNFINISHED, /* short, and nothing in it: as a crash leaves one that was being made */
};

struct segment_file {
  uint32_t segment;
  enum segment_file_state state;
  uint64_t bytes, segment_bytes;
};

/* Lists the files that are not whole, in the order of their numbers; the caller frees *files. 0, or
 * KVSTOW_ENOMEM. */
int segment_files_incomplete(const struct store_reader *reader, struct segment_file **files,
                             size_t *count);

#endif
