/* cold.c - see cold.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/cold.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, WINDOW_PAGES = 1 << 16, TRIES = 20 };

/* Resident pages of one window; negative errno. */
static int64_t resident_in(int fd, uint64_t offset, size_t bytes) {
  static unsigned char pages[WINDOW_PAGES];
  void *window = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, (off_t)offset);
  if (window == MAP_FAILED) return -errno;
  int64_t count = 0;
  if (mincore(window, bytes, pages) != 0)
    count = -errno;
  else
    for (size_t i = 0; i < (bytes + PAGE_BYTES - 1) / PAGE_BYTES; i++) count += pages[i] & 1;
  munmap(window, bytes);
  return count;
}

static int64_t resident(int fd, uint64_t bytes) {
  const uint64_t window = (uint64_t)WINDOW_PAGES * PAGE_BYTES;
  int64_t count = 0;
  for (uint64_t at = 0; at < bytes; at += window) {
    const uint64_t left = bytes - at;
    const int64_t here = resident_in(fd, at, (size_t)(left < window ? left : window));
    if (here < 0) return here;
    count += here;
  }
  return count;
}

int cold_drop(int fd) {
  const struct timespec nap = {0, 5 * 1000 * 1000};
  struct stat st;
  if (fstat(fd, &st) != 0) return -errno;
  if (fdatasync(fd) != 0) return -errno; /* what is dirty can't be dropped */
  for (int i = 0; i < TRIES; i++) {      /* pages on their way between lists stay the first time */
    const int rc = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    if (rc != 0) return -rc;
    const int64_t pages = resident(fd, (uint64_t)st.st_size);
    if (pages <= 0) return (int)pages;
    nanosleep(&nap, NULL);
  }
  return -EBUSY;
}

bool cold_direct(int fd) {
#ifdef STATX_DIOALIGN
  struct statx sx;
  return statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 &&
         (sx.stx_mask & STATX_DIOALIGN) != 0 && sx.stx_dio_offset_align != 0 &&
         sx.stx_dio_offset_align <= PAGE_BYTES;
#else
  (void)fd;
  return false; /* a kernel before 6.1 does not tell */
#endif
}
