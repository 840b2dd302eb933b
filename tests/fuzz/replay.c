/* tests/fuzz/replay.c - runs a fuzz target over files, or over the files of directories; writes seeds.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

static size_t replayed;
static const char *seeds_dir;

static void replay_file(const char *path) {
  FILE *file = fopen(path, "rbe");
  FUZZ_CHECK(file != NULL);
  FUZZ_CHECK(fseek(file, 0, SEEK_END) == 0);
  const long bytes = ftell(file);
  FUZZ_CHECK(bytes >= 0 && fseek(file, 0, SEEK_SET) == 0);
  uint8_t *data = malloc((size_t)bytes + 1); /* exactly so much: one byte more is another's */
  FUZZ_CHECK(data != NULL && fread(data, 1, (size_t)bytes, file) == (size_t)bytes);
  fclose(file);
  uint8_t *exact = realloc(data, bytes == 0 ? 1 : (size_t)bytes);
  FUZZ_CHECK(exact != NULL);
  printf("%s\n", path);
  LLVMFuzzerTestOneInput(exact, (size_t)bytes);
  free(exact);
  replayed++;
}

static void replay(const char *path) {
  DIR *dir = opendir(path);
  if (dir == NULL) {
    replay_file(path);
    return;
  }
  for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
    char name[4096];
    if (*entry->d_name == '.') continue;
    snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
    replay_file(name);
  }
  closedir(dir);
}

static void write_seed(const char *name, const void *bytes, size_t count) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", seeds_dir, name);
  FILE *file = fopen(path, "wbe");
  FUZZ_CHECK(file != NULL && fwrite(bytes, 1, count, file) == count && fclose(file) == 0);
}

int main(int argc, char **argv) {
  if (argc == 3 && strcmp(argv[1], "--seeds") == 0) {
    seeds_dir = argv[2];
    mkdir(seeds_dir, 0755);
    fuzz_seeds(write_seed);
    return 0;
  }
  for (int i = 1; i < argc; i++) replay(argv[i]);
  printf("%zu inputs\n", replayed);
  return replayed > 0 ? 0 : 1;
}
