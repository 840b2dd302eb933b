/* place.c - see place.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/peers/place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bench/cold.h"

enum { PATH_BYTES = 2048, COPY_BYTES = 1 << 20, PAGE_BYTES = 4096 };

static bool add(struct place_files *files, const char *path, const struct stat *st) {
  if ((files->count & (files->count - 1)) == 0) { /* doubled at each power of two */
    const size_t room = files->count == 0 ? 1 : files->count * 2;
    struct place_file *grown = realloc(files->file, room * sizeof *grown);
    if (grown == NULL) return false;
    files->file = grown;
  }
  struct place_file *file = &files->file[files->count];
  file->path = strdup(path);
  file->bytes = (uint64_t)st->st_size;
  if (file->path == NULL) return false;
  files->count++;
  files->bytes += file->bytes;
  files->disk_bytes += (uint64_t)st->st_blocks * 512;
  return true;
}

static bool list(const char *dir, struct place_files *files) {
  DIR *open_dir = opendir(dir);
  if (open_dir == NULL) return false;
  bool ok = true;
  for (struct dirent *entry; ok && (entry = readdir(open_dir)) != NULL;) {
    char path[PATH_BYTES];
    struct stat st;
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
    ok = lstat(path, &st) == 0;
    if (ok && S_ISDIR(st.st_mode)) ok = list(path, files);
    if (ok && S_ISREG(st.st_mode)) ok = add(files, path, &st);
  }
  (void)closedir(open_dir);
  return ok;
}

bool place_list(const char *dir, struct place_files *files) {
  memset(files, 0, sizeof *files);
  return list(dir, files);
}

void place_free(struct place_files *files) {
  for (size_t i = 0; i < files->count; i++) free(files->file[i].path);
  free(files->file);
}

bool place_cool(const char *dir) {
  struct place_files files;
  bool ok = place_list(dir, &files);
  for (size_t i = 0; ok && i < files.count; i++) {
    const int fd = open(files.file[i].path, O_RDONLY | O_CLOEXEC);
    const int rc = fd < 0 ? -errno : files.file[i].bytes == 0 ? 0 : cold_drop(fd);
    if (fd >= 0) (void)close(fd);
    ok = rc == 0;
    if (!ok) errno = -rc;
  }
  place_free(&files);
  return ok;
}

uint64_t place_written(pid_t process) {
  char path[64], line[128];
  unsigned long long bytes = 0;
  snprintf(path, sizeof path, "/proc/%d/io", (int)process);
  FILE *file = fopen(path, "re");
  while (file != NULL && fgets(line, sizeof line, file) != NULL)
    if (sscanf(line, "write_bytes: %llu", &bytes) == 1) break;
  if (file != NULL) (void)fclose(file);
  return bytes;
}

double place_cpu_s(pid_t process) {
  clockid_t id;
  struct timespec t;
  if (clock_getcpuclockid(process, &id) != 0 || clock_gettime(id, &t) != 0) return 0;
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- copies --------------------------------------------------------------------------------- */

static bool is_zero(const char *bytes, size_t count) {
  return count == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0);
}

/* What is zero stays a hole. */
static bool copy_file(const char *from, const char *to, uint64_t bytes, char *buffer) {
  const int in = open(from, O_RDONLY | O_CLOEXEC);
  const int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
  bool ok = in >= 0 && out >= 0 && ftruncate(out, (off_t)bytes) == 0;
  for (uint64_t at = 0; ok && at < bytes; at += COPY_BYTES) {
    const ssize_t n = pread(in, buffer, COPY_BYTES, (off_t)at);
    ok = n > 0;
    if (ok && !is_zero(buffer, (size_t)n)) ok = pwrite(out, buffer, (size_t)n, (off_t)at) == n;
  }
  const int why = errno;
  if (in >= 0) (void)close(in);
  if (out >= 0) (void)close(out);
  errno = why;
  return ok;
}

bool place_copy(const char *from, const char *to) {
  struct place_files files;
  char *buffer = malloc(COPY_BYTES), path[PATH_BYTES];
  bool ok = buffer != NULL && place_list(from, &files);
  for (size_t i = 0; ok && i < files.count; i++) {
    const char *below = files.file[i].path + strlen(from);
    snprintf(path, sizeof path, "%s%s", to, below);
    for (char *slash = path + strlen(to) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
      *slash = '\0';
      ok &= mkdir(path, S_IRWXU) == 0 || errno == EEXIST;
      *slash = '/';
    }
    ok = ok && copy_file(files.file[i].path, path, files.file[i].bytes, buffer);
  }
  if (buffer != NULL) place_free(&files);
  free(buffer);
  return ok;
}
