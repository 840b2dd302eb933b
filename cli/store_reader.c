/* store_reader.c - opens a store to look at it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/store_reader.h"

#include <dirent.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/key_file.h"

/* All that the directories hold now: the budget under which nothing is out of sight. */
static uint64_t bytes_in(const char *path) {
  uint64_t bytes = 0;
  DIR *dir = opendir(path);
  if (!dir) return 0;
  for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
    struct stat file;
    if (fstatat(dirfd(dir), entry->d_name, &file, AT_SYMLINK_NOFOLLOW) == 0 &&
        S_ISREG(file.st_mode)) {
      bytes += (uint64_t)file.st_size;
    }
  }
  closedir(dir);
  return bytes;
}

static int parse(struct store_reader *reader, const struct store_command *command, int argc,
                 char **argv) {
  static const struct option options[] = {
      {"json", no_argument, NULL, 'j'},
      {"help", no_argument, NULL, 'h'},
      {"key-file", required_argument, NULL, 'k'},
      {"segments", no_argument, NULL, 's'},
      {NULL, 0, NULL, 0},
  };
  *reader = (struct store_reader){.command = argv[0]};
  optind = 0;
  for (int option; (option = getopt_long(argc, argv, "jhk:s", options, NULL)) != -1;) {
    switch (option) {
      case 'j':
        reader->json = true;
        break;
      case 'k':
        reader->key_file = optarg;
        break;
      case 's':
        if (!command->has_segments) {
          fprintf(stderr, "%s: unrecognized option '--segments'\n", argv[0]);
          return EXIT_USAGE;
        }
        reader->segments = true;
        break;
      case 'h':
        fputs(command->usage, stdout);
        return EXIT_OK;
      default:
        return EXIT_USAGE; /* getopt_long has said why */
    }
  }
  if (optind == argc) {
    fprintf(stderr, "%s: missing DIR, the store's directory\n", argv[0]);
    return EXIT_USAGE;
  }
  reader->dirs = (const char *const *)argv + optind;
  reader->dirs_count = (uint32_t)(argc - optind);
  return -1;
}

int store_reader_open(struct store_reader *reader, const struct store_command *command, int argc,
                      char **argv) {
  const int code = parse(reader, command, argc, argv);
  if (code >= 0) return code;

  kvstow_tier_options options;
  kvstow_tier_options_init(&options);
  options.dirs = reader->dirs;
  options.dirs_count = reader->dirs_count;
  options.read_only = true;
  for (uint32_t i = 0; i < reader->dirs_count; i++) {
    options.budget_bytes += bytes_in(reader->dirs[i]);
  }
  uint8_t key[KVSTOW_KEY_BYTES];
  if (reader->key_file) {
    if (!key_file_read(reader->command, reader->key_file, key)) return EXIT_USAGE;
    options.encryption_key = key;
  }
  char why[KVSTOW_MESSAGE_BYTES] = "";
  const int result = kvstow_tier_open(&options, &reader->tier, why, sizeof why);
  if (result != 0) {
    fprintf(stderr, "%s: %s\n", reader->command, *why ? why : kvstow_strerror(result));
    return EXIT_FAILED;
  }
  return -1;
}

void store_reader_close(struct store_reader *reader) {
  kvstow_tier_close(reader->tier);
  reader->tier = NULL;
}

bool store_segment_used(const kvstow_segment_info *info) {
  return info->state == KVSTOW_SEGMENT_OPEN || info->state == KVSTOW_SEGMENT_SEALED;
}

const char *store_segment_state(kvstow_segment_state state) {
  switch (state) {
    case KVSTOW_SEGMENT_FREE:
      return "free";
    case KVSTOW_SEGMENT_OPEN:
      return "open";
    case KVSTOW_SEGMENT_SEALED:
      return "sealed";
    case KVSTOW_SEGMENT_RECLAIMED:
      return "reclaimed";
    case KVSTOW_SEGMENT_BAD:
      return "bad";
    case KVSTOW_SEGMENT_UNREAD:
      return "unread";
  }
  return "?";
}

int print_json(json_t *json) {
  const bool printed =
      json && json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) == 0;
  if (printed) putchar('\n');
  json_decref(json);
  if (!printed && !ferror(stdout)) fputs("kvstow: out of memory\n", stderr);
  return printed ? EXIT_OK : EXIT_FAILED;
}
