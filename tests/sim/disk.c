/* disk.c - see disk.h: names, bytes, power.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/disk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FILES_MAX 256
#define NAMES_MAX 300
#define FILE_BYTES ((uint64_t)SIM_FILE_BYTES)
#define SECTOR 512u
#define SECTORS (FILE_BYTES / SECTOR)
#define FDS_MAX 512
#define DIR_BYTES 4096u

enum { CLEAN, DIRTY, LOST }; /* LOST: differs from the medium, and no sync will carry it over */

typedef struct inode {
  bool used;
  uint8_t dir;
  uint64_t size, allocated, synced_size;
  uint64_t touched; /* beyond it, both images are zeroes */
  int32_t sick;     /* so many reads fail yet; below 0: so many will not */
  uint32_t dirty_first, dirty_end;
  uint8_t dirty[SECTORS];
} inode;

typedef struct name {
  uint8_t dir;
  int16_t now, synced; /* inode, -1 none */
  uint32_t fate; /* one for both names of a rename: it is whole or undone after a loss of power */
  char text[26];
} name;

/* Where requests went: that is where others may end up. */
typedef struct place {
  int file;
  uint64_t offset;
} place;

#define PLACES 64

/* Shared with the parent. */
typedef struct disk {
  inode inodes[FILES_MAX];
  name names[NAMES_MAX];
  uint32_t names_count;
  uint64_t counts[SIM_FAULT_KINDS];
  int stale_file; /* whose earlier bytes are kept; -1 none */
} disk;

static disk *d;
static uint8_t *now_bytes, *medium_bytes; /* FILES_MAX * FILE_BYTES each */
static uint8_t *old_bytes;                /* one earlier state of one file */

static struct {
  uint64_t random;
  sim_faults faults;
  uint64_t requests, written;
  place places[PLACES]; /* the newest */
  uint64_t places_seen;
  int fds[FDS_MAX]; /* inode + 1 */
} p;                /* of the process */

static const bool fails[] = {
#define X(name, text, fails) fails,
    SIM_FAULTS(X)
#undef X
};

/* ---- what goes wrong ------------------------------------------------------------------------ */

uint64_t sim_disk_draw(uint64_t bound) {
  p.random += UINT64_C(0x9e3779b97f4a7c15);
  uint64_t x = p.random;
  x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
  x ^= x >> 31;
  return bound ? x % bound : 0;
}

void sim_count(sim_fault fault) {
  d->counts[fault]++;
}

bool sim_strikes(sim_fault fault) {
  const unsigned chance = p.faults.chance[fault];
  if (chance == 0 || sim_disk_draw(10000) >= chance) return false;
  sim_count(fault);
  return true;
}

void sim_disk_reads_well(void) {
  p.faults.chance[SIM_EIO_READ] = 0;
}

bool sim_read_fails(int file) {
  inode *n = &d->inodes[file];
  if (p.faults.chance[SIM_EIO_READ] == 0) return false;
  if (n->sick < 0) {
    n->sick++;
    return false;
  }
  if (n->sick > 0)
    sim_count(SIM_EIO_READ);
  else if (!sim_strikes(SIM_EIO_READ))
    return false;
  else
    n->sick = (int32_t)sim_disk_draw(SIM_SICK_READS);
  if (--n->sick <= 0) n->sick = -SIM_WELL_READS;
  return true;
}

void sim_request_made(sim_fault crash) {
  p.requests++;
  if (p.requests == p.faults.kill_at) {
    sim_count(SIM_KILLED);
    sim_requests_tear();
    _exit(SIM_ENDED);
  }
  if (p.requests != p.faults.crash_at) return;
  sim_count(crash);
  sim_disk_crash();
}

bool sim_dead(int dir) {
  if (p.faults.dead_at == 0 || p.requests < p.faults.dead_at || dir != p.faults.dead_dir)
    return false;
  sim_count(SIM_DEAD_DIR);
  return true;
}

const uint64_t *sim_disk_counts(void) {
  return d->counts;
}

uint64_t sim_disk_failures(void) {
  uint64_t sum = 0;
  for (int i = 0; i < SIM_FAULT_KINDS; i++)
    if (fails[i]) sum += d->counts[i];
  return sum;
}

/* ---- bytes ---------------------------------------------------------------------------------- */

static uint8_t *now_of(int file) {
  return now_bytes + (uint64_t)file * FILE_BYTES;
}

static uint8_t *medium_of(int file) {
  return medium_bytes + (uint64_t)file * FILE_BYTES;
}

static uint64_t whole_pages(uint64_t bytes) {
  return (bytes + 4095) / 4096 * 4096;
}

static void dirty_nothing(inode *n) {
  n->dirty_first = SECTORS;
  n->dirty_end = 0;
}

void sim_read(int file, void *to, uint64_t bytes, uint64_t offset) {
  if (offset + bytes > FILE_BYTES) abort();
  memcpy(to, now_of(file) + offset, bytes);
}

void sim_write(int file, const void *from, uint64_t bytes, uint64_t offset) {
  if (bytes == 0) return;
  if (offset + bytes > FILE_BYTES) abort();
  inode *n = &d->inodes[file];
  memcpy(now_of(file) + offset, from, bytes);
  const uint32_t first = (uint32_t)(offset / SECTOR);
  const uint32_t end = (uint32_t)((offset + bytes + SECTOR - 1) / SECTOR);
  memset(n->dirty + first, DIRTY, end - first);
  if (first < n->dirty_first) n->dirty_first = first;
  if (end > n->dirty_end) n->dirty_end = end;
  if (offset + bytes > n->size) n->size = offset + bytes;
  if (n->size > n->touched) n->touched = n->size;
  if (whole_pages(offset + bytes) > n->allocated) n->allocated = whole_pages(offset + bytes);
}

/* A segment's table ends where the segment does; nothing else reaches that far. A page alone is an erase:
 * records are larger. */
void sim_written(int file, uint64_t bytes, uint64_t offset) {
  const bool table = offset + bytes == SIM_SEGMENT_BYTES, erasing = bytes <= 4096;
  if (d->inodes[file].dir < SIM_STORE_DIRS && !table && !erasing) p.written += bytes;
}

void sim_flip(int file, uint64_t offset) {
  now_of(file)[offset] ^= (uint8_t)(1u << sim_disk_draw(8));
}

static void carry_sector(int file, uint64_t sector) {
  memcpy(medium_of(file) + sector * SECTOR, now_of(file) + sector * SECTOR, SECTOR);
}

void sim_sync(int file) {
  inode *n = &d->inodes[file];
  uint32_t first = SECTORS, end = 0; /* what no sync carries over */
  for (uint32_t s = n->dirty_first; s < n->dirty_end; s++) {
    if (n->dirty[s] == DIRTY) {
      carry_sector(file, s);
      n->dirty[s] = CLEAN;
    } else if (n->dirty[s] == LOST) {
      if (first == SECTORS) first = s;
      end = s + 1;
    }
  }
  n->dirty_first = first;
  n->dirty_end = end;
  n->synced_size = n->size;
  if (p.faults.chance[SIM_STALE] && n->size == FILE_BYTES && sim_disk_draw(8) == 0) {
    memcpy(old_bytes, medium_of(file), FILE_BYTES); /* what a stale file may return to */
    d->stale_file = file;
  }
}

void sim_sync_failed(int file) {
  if (sim_disk_draw(2)) return;
  inode *n = &d->inodes[file];
  for (uint32_t s = n->dirty_first; s < n->dirty_end; s++)
    if (n->dirty[s]) n->dirty[s] = LOST;
}

void sim_place_note(int file, uint64_t offset) {
  p.places[p.places_seen++ % PLACES] = (place){file, offset};
}

void sim_misdirect(int *file, uint64_t *offset, uint64_t length) {
  for (int tries = 0; tries < 16; tries++) {
    const bool known = sim_disk_draw(2) && p.places_seen >= PLACES;
    const place *seen = &p.places[sim_disk_draw(PLACES)];
    const int other = known ? seen->file : (int)sim_disk_draw(FILES_MAX);
    uint64_t at = known ? seen->offset : *offset;
    if (!known && sim_disk_draw(2)) at = sim_disk_draw(FILE_BYTES / 4096) * 4096;
    const bool same = other == *file && at == *offset;
    if (same || !d->inodes[other].used || at + length > d->inodes[other].size) continue;
    *file = other;
    *offset = at;
    return;
  }
}

/* ---- files ---------------------------------------------------------------------------------- */

int sim_file_of(int fd) {
  return p.fds[fd] - 1;
}

int sim_dir_of(int file) {
  return d->inodes[file].dir;
}

uint64_t sim_size(int file) {
  return d->inodes[file].size;
}

uint64_t sim_allocated(int file) {
  return d->inodes[file].allocated;
}

void sim_resize(int file, uint64_t bytes, bool reserve) {
  inode *n = &d->inodes[file];
  if (bytes > FILE_BYTES) abort();
  if (reserve) {
    if (bytes > n->size) n->size = bytes;
    if (whole_pages(bytes) > n->allocated) n->allocated = whole_pages(bytes);
    return;
  }
  if (bytes < n->size) memset(now_of(file) + bytes, 0, n->size - bytes);
  n->size = bytes;
  if (n->allocated > whole_pages(bytes)) n->allocated = whole_pages(bytes);
}

int sim_fd_new(int file) {
  for (int i = 3; i < FDS_MAX; i++) {
    if (p.fds[i]) continue;
    p.fds[i] = file + 1;
    return i;
  }
  abort();
}

void sim_fd_close(int fd) {
  if (fd < SIM_DIR_FD) p.fds[fd] = 0;
}

int sim_disk_open_files(void) {
  int count = 0;
  for (int i = 0; i < FDS_MAX; i++) count += p.fds[i] != 0;
  return count;
}

static bool open_now(int file) {
  for (int i = 0; i < FDS_MAX; i++)
    if (p.fds[i] == file + 1) return true;
  return false;
}

static void erase(int file) {
  inode *n = &d->inodes[file];
  memset(now_of(file), 0, n->touched);
  memset(medium_of(file), 0, n->touched);
  memset(n, 0, sizeof *n);
  dirty_nothing(n);
  if (d->stale_file == file) d->stale_file = -1;
}

static void free_unnamed(void) {
  for (int i = 0; i < FILES_MAX; i++) {
    if (!d->inodes[i].used) continue;
    bool named = false;
    for (uint32_t k = 0; k < d->names_count && !named; k++)
      named = d->names[k].now == i || d->names[k].synced == i;
    if (!named && !open_now(i)) erase(i);
  }
}

static int inode_new(int dir) {
  for (int pass = 0; pass < 2; pass++) {
    for (int i = 0; i < FILES_MAX; i++) {
      inode *n = &d->inodes[i];
      if (n->used) continue;
      n->used = true;
      n->dir = (uint8_t)dir;
      return i;
    }
    free_unnamed();
  }
  abort();
}

uint64_t sim_disk_bytes(void) {
  bool counted[FILES_MAX] = {false};
  uint64_t bytes = SIM_STORE_DIRS * DIR_BYTES;
  for (uint32_t k = 0; k < d->names_count; k++)
    if (d->names[k].now >= 0) counted[d->names[k].now] = true;
  for (int i = 0; i < FDS_MAX; i++)
    if (p.fds[i]) counted[p.fds[i] - 1] = true;
  for (int i = 0; i < FILES_MAX; i++)
    if (counted[i] && d->inodes[i].dir < SIM_STORE_DIRS) bytes += d->inodes[i].allocated;
  return bytes;
}

uint64_t sim_disk_written(void) {
  return p.written;
}

/* ---- names ---------------------------------------------------------------------------------- */

static name *find(int dir, const char *text) {
  for (uint32_t i = 0; i < d->names_count; i++)
    if (d->names[i].dir == dir && strcmp(d->names[i].text, text) == 0) return &d->names[i];
  return NULL;
}

static name *find_or_make(int dir, const char *text) {
  name *n = find(dir, text);
  if (n) return n;
  if (d->names_count == NAMES_MAX) abort();
  n = &d->names[d->names_count];
  n->fate = d->names_count++;
  n->dir = (uint8_t)dir;
  n->now = n->synced = -1;
  snprintf(n->text, sizeof n->text, "%s", text);
  return n;
}

int sim_name_find(int dir, const char *text, bool create) {
  name *n = create ? find_or_make(dir, text) : find(dir, text);
  if (!n) return -1;
  if (n->now < 0 && create) n->now = (int16_t)inode_new(dir);
  return n->now;
}

void sim_name_move(int dir, const char *from, const char *to) {
  name *source = find(dir, from), *target = find_or_make(dir, to);
  const uint32_t other = target->fate;
  for (uint32_t i = 0; i < d->names_count; i++)
    if (d->names[i].fate == other) d->names[i].fate = source->fate;
  target->now = source->now;
  source->now = -1;
}

void sim_name_drop(int dir, const char *text) {
  find(dir, text)->now = -1;
}

void sim_names_each(int dir, bool (*each)(void *arg, const char *name), void *arg) {
  for (uint32_t i = 0; i < d->names_count; i++)
    if (d->names[i].dir == dir && d->names[i].now >= 0 && !each(arg, d->names[i].text)) return;
}

void sim_names_sync(int dir) {
  for (uint32_t i = 0; i < d->names_count; i++) {
    if (d->names[i].dir != dir) continue;
    d->names[i].synced = d->names[i].now;
    d->names[i].fate = i;
  }
}

/* ---- power ---------------------------------------------------------------------------------- */

/* Of what was not synced, a file keeps nothing, everything, or any of its sectors. */
static void settle(int file, uint32_t grain) {
  inode *n = &d->inodes[file];
  const unsigned keep = (unsigned)sim_disk_draw(3);
  const uint32_t step = grain / SECTOR;
  uint32_t kept = 0, lost = 0;
  for (uint32_t s = n->dirty_first / step * step; s < n->dirty_end; s += step) {
    const bool arrives = keep == 1 || (keep == 2 && sim_disk_draw(2));
    for (uint32_t i = s; i < s + step; i++) {
      if (n->dirty[i] == CLEAN) continue;
      const bool kept_now = n->dirty[i] == DIRTY && arrives;
      if (kept_now) carry_sector(file, i);
      kept += kept_now;
      lost += !kept_now;
      memcpy(now_of(file) + (uint64_t)i * SECTOR, medium_of(file) + (uint64_t)i * SECTOR, SECTOR);
      n->dirty[i] = CLEAN;
    }
  }
  dirty_nothing(n);
  if (lost) sim_count(SIM_UNSYNCED);
  if (kept && lost) sim_count(grain == SECTOR ? SIM_TORN_512 : SIM_TORN_4096);
  if (sim_disk_draw(2)) n->size = n->synced_size;
  n->synced_size = n->size;
}

_Noreturn void sim_disk_crash(void) {
  sim_requests_tear();
  const uint32_t grain = sim_disk_draw(2) ? SECTOR : 4096;
  for (int i = 0; i < FILES_MAX; i++)
    if (d->inodes[i].used) settle(i, grain);
  enum { UNDRAWN, UNDONE, DONE } fates[NAMES_MAX] = {UNDRAWN};
  for (uint32_t k = 0; k < d->names_count; k++) {
    name *m = &d->names[k];
    if (fates[m->fate] == UNDRAWN) fates[m->fate] = sim_disk_draw(2) ? UNDONE : DONE;
    if (fates[m->fate] == UNDONE)
      m->now = m->synced;
    else
      m->synced = m->now;
  }
  for (uint32_t k = 0; k < d->names_count; k++) d->names[k].fate = k;
  memset(p.fds, 0, sizeof p.fds);
  free_unnamed();
  _exit(SIM_CRASHED);
}

static void go_stale(void) {
  const int file = d->stale_file;
  if (file < 0 || !d->inodes[file].used) return;
  memcpy(now_of(file), old_bytes, FILE_BYTES);
  memcpy(medium_of(file), old_bytes, FILE_BYTES);
  d->inodes[file].touched = FILE_BYTES;
}

static void *shared(size_t bytes) {
  void *memory =
      mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) abort();
  return memory;
}

void sim_disk_format(void) {
  if (!d) {
    d = shared(sizeof *d);
    now_bytes = shared(FILES_MAX * FILE_BYTES);
    medium_bytes = shared(FILES_MAX * FILE_BYTES);
    old_bytes = shared(FILE_BYTES);
  }
  memset(&p, 0, sizeof p);
  for (int i = 0; i < FILES_MAX; i++) erase(i);
  memset(d->names, 0, sizeof d->names);
  d->names_count = 0;
  memset(d->counts, 0, sizeof d->counts);
  d->stale_file = -1;
}

void sim_disk_begin(uint64_t seed, const sim_faults *faults) {
  memset(&p, 0, sizeof p);
  p.random = seed;
  p.faults = *faults;
  sim_requests_forget();
  if (sim_strikes(SIM_STALE)) go_stale();
}
