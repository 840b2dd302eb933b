/* Reads a file in order through the SSD tier alone, and tells how fast, and what was read ahead.
 * cc readfile.c $(pkg-config --cflags --libs kvstow) && ./a.out model.gguf */
#include <kvstow/tier.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BLOCK = 64 << 10 };

int main(int argc, char **argv) {
  kvstow_tier_options o;
  kvstow_tier_options_init(&o); /* no directories: no log, files alone */
  char why[KVSTOW_MESSAGE_BYTES];
  kvstow_tier *tier;
  if (argc != 2) return fputs("usage: readfile FILE\n", stderr), 2;
  if (kvstow_tier_open(&o, &tier, why, sizeof why) != 0) return fprintf(stderr, "%s\n", why), 1;
  kvstow_file *file;
  int code = kvstow_file_open(tier, argv[1], &file);
  const uint64_t bytes = code == 0 ? kvstow_file_bytes(file) : 0;
  char *block = aligned_alloc(KVSTOW_PAGE_BYTES, BLOCK);
  struct timespec begun, now;
  timespec_get(&begun, TIME_UTC);
  for (uint64_t at = 0; at < bytes && code == 0; at += BLOCK)
    code = kvstow_file_read_at(file, at, block, bytes - at < BLOCK ? bytes - at : BLOCK);
  timespec_get(&now, TIME_UTC);
  kvstow_tier_stats s = {.size = sizeof s};
  kvstow_tier_get_stats(tier, &s);
  kvstow_tier_message(tier, why, sizeof why);
  if (code == 0) {
    const double seconds =
        (double)(now.tv_sec - begun.tv_sec) + (double)(now.tv_nsec - begun.tv_nsec) / 1e9;
    printf("%.0f MB/s (%s); %llu of %llu blocks read ahead were used\n",
           (double)bytes / seconds / 1e6, kvstow_file_direct(file) ? "O_DIRECT" : "buffered",
           (unsigned long long)s.sequential.used, (unsigned long long)s.sequential.issued);
    code = kvstow_file_close(file);
  } else {
    fprintf(stderr, "%s\n", why);
  }
  free(block);
  kvstow_tier_close(tier);
  return code == 0 ? 0 : 1;
}
