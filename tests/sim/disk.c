/* disk.c - see disk.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/disk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/sim/sched.h"

#define FILES_MAX 256
#define NAMES_MAX 300
#define FILE_BYTES ((uint64_t)SIM_SEGMENT_BYTES)
#define SECTOR 512u
#define SECTORS (FILE_BYTES / SECTOR)
#define FDS_MAX 512
#define DIR_FD 1000
#define DIR_BYTES 4096u
#define PENDING_MAX 1024

typedef struct inode {
  bool used;
  uint64_t size, allocated, synced_size;
  uint8_t
      dirty[SECTORS]; /* differs from the medium: DIRTY, or LOST, which no sync will carry over */
} inode;

enum { CLEAN, DIRTY, LOST };

typedef struct name {
  uint8_t dir;
  int16_t now, synced; /* inode, -1 none */
  char text[26];
} name;

/* Shared with the parent. */
typedef struct disk {
  inode inodes[FILES_MAX];
  name names[NAMES_MAX];
  uint32_t names_count;
  uint64_t faults_done;
} disk;

static disk *d;
static uint8_t *now_bytes, *medium_bytes; /* FILES_MAX * FILE_BYTES each */
static uint8_t *old_bytes;                /* one earlier state of one file */

static bool tracing;

void sim_disk_trace(void) {
  tracing = true;
}

static struct {
  uint64_t random;
  sim_faults faults;
  uint64_t ops;
  int fds[FDS_MAX]; /* inode + 1 */
} p;                /* of the process */

typedef struct pending {
  kvstow__op *op;
  uint64_t at_ns;
  int error;
  bool landed; /* a write that fails arrives all the same */
} pending;

struct kvstow__engine {
  pending list[PENDING_MAX];
  uint32_t count;
  bool woken;
};

static struct kvstow__engine *the_engine; /* for the crash */

static uint64_t draw(uint64_t bound) {
  p.random += UINT64_C(0x9e3779b97f4a7c15);
  uint64_t x = p.random;
  x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
  x ^= x >> 31;
  return bound ? x % bound : 0;
}

static bool strikes(unsigned chance) {
  if (chance == 0 || draw(10000) >= chance) return false;
  d->faults_done++;
  return true;
}

static uint8_t *now_of(int file) {
  return now_bytes + (uint64_t)file * FILE_BYTES;
}

static uint8_t *medium_of(int file) {
  return medium_bytes + (uint64_t)file * FILE_BYTES;
}

static void *shared(size_t bytes) {
  void *memory =
      mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) abort();
  return memory;
}

void sim_disk_format(void) {
  if (d) {
    munmap(d, sizeof *d);
    munmap(now_bytes, FILES_MAX * FILE_BYTES);
    munmap(medium_bytes, FILES_MAX * FILE_BYTES);
    munmap(old_bytes, FILE_BYTES + 8);
  }
  d = shared(sizeof *d);
  now_bytes = shared(FILES_MAX * FILE_BYTES);
  medium_bytes = shared(FILES_MAX * FILE_BYTES);
  old_bytes = shared(FILE_BYTES + 8); /* and which inode, + 1 */
}

uint64_t sim_disk_faults(void) {
  return d->faults_done;
}

uint64_t sim_disk_ops(void) {
  return p.ops;
}

uint64_t sim_disk_bytes(void) {
  uint64_t bytes = 2 * DIR_BYTES;
  for (int i = 0; i < FILES_MAX; i++)
    if (d->inodes[i].used) bytes += d->inodes[i].allocated;
  return bytes;
}

int sim_disk_open_files(void) {
  int count = 0;
  for (int i = 0; i < FDS_MAX; i++) count += p.fds[i] != 0;
  return count;
}

/* ---- synced and not ------------------------------------------------------------------------- */

static void write_now(int file, const void *from, uint64_t bytes, uint64_t offset) {
  inode *n = &d->inodes[file];
  memcpy(now_of(file) + offset, from, bytes);
  for (uint64_t s = offset / SECTOR; s < (offset + bytes + SECTOR - 1) / SECTOR; s++)
    n->dirty[s] = DIRTY;
  if (offset + bytes > n->size) n->size = offset + bytes;
  const uint64_t whole = (offset + bytes + 4095) / 4096 * 4096;
  if (whole > n->allocated) n->allocated = whole;
}

static void carry_sector(int file, uint64_t sector) {
  memcpy(medium_of(file) + sector * SECTOR, now_of(file) + sector * SECTOR, SECTOR);
}

static void sync_file(int file) {
  inode *n = &d->inodes[file];
  for (uint64_t s = 0; s < SECTORS; s++)
    if (n->dirty[s] == DIRTY) {
      carry_sector(file, s);
      n->dirty[s] = CLEAN;
    }
  n->synced_size = n->size;
  if (p.faults.stale_file && draw(8) == 0) { /* what a stale file may return to */
    memcpy(old_bytes, medium_of(file), FILE_BYTES);
    const uint64_t which = (uint64_t)file + 1;
    memcpy(old_bytes + FILE_BYTES, &which, sizeof which);
  }
}

/* As kernels do: what could not be written is forgotten, and the next sync knows nothing of it. */
static void fail_sync(int file) {
  if (draw(2)) return;
  for (uint64_t s = 0; s < SECTORS; s++)
    if (d->inodes[file].dirty[s]) d->inodes[file].dirty[s] = LOST;
}

/* A part of a write that was under way: some of its sectors. */
static void tear(const kvstow__op *op, int file) {
  uint64_t at = op->offset;
  for (uint32_t i = 0; i < op->iov_count; i++)
    for (uint64_t done = 0; done < op->iov[i].iov_len; done += SECTOR, at += SECTOR)
      if (draw(2) && at + SECTOR <= FILE_BYTES)
        write_now(file, (const uint8_t *)op->iov[i].iov_base + done, SECTOR, at);
}

static void free_unnamed(void) {
  for (int i = 0; i < FILES_MAX; i++) {
    if (!d->inodes[i].used) continue;
    bool named = false;
    for (uint32_t k = 0; k < d->names_count && !named; k++)
      named = d->names[k].now == i || d->names[k].synced == i;
    for (int f = 0; f < FDS_MAX && !named; f++) named = p.fds[f] == i + 1;
    if (named) continue;
    memset(&d->inodes[i], 0, sizeof d->inodes[i]);
    memset(now_of(i), 0, FILE_BYTES);
    memset(medium_of(i), 0, FILE_BYTES);
  }
}

_Noreturn void sim_disk_crash(void) {
  for (uint32_t i = 0; the_engine && i < the_engine->count; i++) {
    const kvstow__op *op = the_engine->list[i].op;
    if (op->kind == KVSTOW__WRITE && draw(2)) tear(op, p.fds[op->fd] - 1);
  }
  for (int i = 0; i < FILES_MAX; i++) {
    inode *n = &d->inodes[i];
    if (!n->used) continue;
    const unsigned keep = (unsigned)draw(3); /* none, all, any */
    for (uint64_t s = 0; s < SECTORS; s++) {
      if (n->dirty[s] == CLEAN) continue;
      if (n->dirty[s] == DIRTY && (keep == 1 || (keep == 2 && draw(2)))) carry_sector(i, s);
      memcpy(now_of(i) + s * SECTOR, medium_of(i) + s * SECTOR, SECTOR);
      n->dirty[s] = CLEAN;
    }
    if (draw(2)) n->size = n->synced_size;
    n->synced_size = n->size;
  }
  for (uint32_t k = 0; k < d->names_count; k++) {
    name *m = &d->names[k];
    if (draw(2))
      m->now = m->synced;
    else
      m->synced = m->now;
  }
  memset(p.fds, 0, sizeof p.fds);
  free_unnamed();
  _exit(SIM_CRASHED);
}

/* Counts an operation; power may be lost at it. */
static void operation(void) {
  if (++p.ops == p.faults.crash_at) sim_disk_crash();
}

static void go_stale(void) {
  uint64_t which;
  memcpy(&which, old_bytes + FILE_BYTES, sizeof which);
  if (which == 0 || !d->inodes[which - 1].used) return;
  memcpy(now_of((int)which - 1), old_bytes, FILE_BYTES);
  memcpy(medium_of((int)which - 1), old_bytes, FILE_BYTES);
}

void sim_disk_begin(uint64_t seed, const sim_faults *faults) {
  memset(&p, 0, sizeof p);
  p.random = seed;
  the_engine = NULL;
  sim_disk_set_faults(faults);
  if (strikes(faults->stale_file)) go_stale();
}

void sim_disk_set_faults(const sim_faults *faults) {
  p.faults = *faults;
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
  n = &d->names[d->names_count++];
  n->dir = (uint8_t)dir;
  n->now = n->synced = -1;
  snprintf(n->text, sizeof n->text, "%s", text);
  return n;
}

static int new_inode(void) {
  free_unnamed();
  for (int i = 0; i < FILES_MAX; i++) {
    if (d->inodes[i].used) continue;
    d->inodes[i].used = true;
    return i;
  }
  abort();
}

static int new_fd(int file) {
  for (int i = 3; i < FDS_MAX; i++) {
    if (p.fds[i]) continue;
    p.fds[i] = file + 1;
    return i;
  }
  abort();
}

static int dir_open(void *env, const char *path, bool create, int *dir) {
  (void)env, (void)create;
  operation();
  if (strikes(p.faults.no_open)) return EACCES;
  *dir = DIR_FD + (path[strlen(path) - 1] - '0');
  return 0;
}

static int dir_list(void *env, int dir, bool (*each)(void *arg, const char *name), void *arg) {
  (void)env;
  operation();
  for (uint32_t i = 0; i < d->names_count; i++)
    if (d->names[i].dir == dir - DIR_FD && d->names[i].now >= 0 && !each(arg, d->names[i].text))
      break;
  return 0;
}

static int dir_sync(void *env, int dir) {
  (void)env;
  operation();
  if (strikes(p.faults.sync_error)) return EIO;
  for (uint32_t i = 0; i < d->names_count; i++)
    if (d->names[i].dir == dir - DIR_FD) d->names[i].synced = d->names[i].now;
  return 0;
}

static bool dir_direct(void *env, int dir, const char *probe) {
  (void)env, (void)dir, (void)probe;
  return true;
}

static int lock(void *env, int dir, const char *text, bool share, int *fd) {
  (void)env, (void)share;
  operation();
  name *n = find_or_make(dir - DIR_FD, text);
  if (n->now < 0) n->now = (int16_t)new_inode();
  *fd = new_fd(n->now);
  return 0;
}

static void close_fd(void *env, int fd) {
  (void)env;
  if (fd < DIR_FD) p.fds[fd] = 0;
}

static int open_file(void *env, int dir, const char *text, bool create, bool writable, bool direct,
                     int *fd) {
  (void)env, (void)writable, (void)direct;
  operation();
  if (strikes(p.faults.no_open)) return draw(2) ? EMFILE : EIO;
  name *n = create ? find_or_make(dir - DIR_FD, text) : find(dir - DIR_FD, text);
  if (!n || (n->now < 0 && !create)) return ENOENT;
  if (n->now < 0) n->now = (int16_t)new_inode();
  *fd = new_fd(n->now);
  return 0;
}

static int rename_file(void *env, int dir, const char *from, const char *to) {
  (void)env;
  operation();
  name *source = find(dir - DIR_FD, from);
  if (!source || source->now < 0) return ENOENT;
  name *target = find_or_make(dir - DIR_FD, to);
  target->now = source->now;
  source->now = -1;
  return 0;
}

static int unlink_file(void *env, int dir, const char *text) {
  (void)env;
  operation();
  name *n = find(dir - DIR_FD, text);
  if (!n || n->now < 0) return ENOENT;
  n->now = -1;
  return 0;
}

/* ---- files, blocking ------------------------------------------------------------------------ */

static int size_of(void *env, int fd, uint64_t *bytes, uint64_t *allocated) {
  (void)env;
  if (fd >= DIR_FD) {
    if (bytes) *bytes = DIR_BYTES;
    if (allocated) *allocated = DIR_BYTES;
    return 0;
  }
  const inode *n = &d->inodes[p.fds[fd] - 1];
  if (bytes) *bytes = n->size;
  if (allocated) *allocated = n->allocated;
  return 0;
}

static int allocate(void *env, int fd, uint64_t bytes) {
  (void)env;
  operation();
  if (strikes(p.faults.no_space)) return ENOSPC;
  inode *n = &d->inodes[p.fds[fd] - 1];
  if (bytes > n->size) n->size = bytes;
  const uint64_t whole = (bytes + 4095) / 4096 * 4096;
  if (whole > n->allocated) n->allocated = whole;
  return 0;
}

static int truncate_file(void *env, int fd, uint64_t bytes) {
  (void)env;
  operation();
  const int file = p.fds[fd] - 1;
  inode *n = &d->inodes[file];
  if (bytes < n->size) memset(now_of(file) + bytes, 0, n->size - bytes);
  n->size = bytes;
  if (n->allocated > (bytes + 4095) / 4096 * 4096) n->allocated = (bytes + 4095) / 4096 * 4096;
  return 0;
}

static int read_file(void *env, int fd, void *to, size_t bytes, uint64_t offset, size_t *got) {
  (void)env;
  operation();
  *got = 0;
  if (strikes(p.faults.read_error)) return EIO;
  const int file = p.fds[fd] - 1;
  const inode *n = &d->inodes[file];
  if (offset >= n->size) return 0;
  *got = bytes < n->size - offset ? bytes : (size_t)(n->size - offset);
  memcpy(to, now_of(file) + offset, *got);
  if (*got > 0 && strikes(p.faults.flip_on_read))
    ((uint8_t *)to)[draw(*got)] ^= (uint8_t)(1u << draw(8));
  return 0;
}

static int write_file(void *env, int fd, const void *from, size_t bytes, uint64_t offset) {
  (void)env;
  operation();
  if (strikes(p.faults.write_error)) return EIO;
  write_now(p.fds[fd] - 1, from, bytes, offset);
  return 0;
}

static int sync_fd(void *env, int fd) {
  (void)env;
  operation();
  if (strikes(p.faults.sync_error)) {
    fail_sync(p.fds[fd] - 1);
    return EIO;
  }
  sync_file(p.fds[fd] - 1);
  return 0;
}

static uint32_t open_files_max(void *env) {
  (void)env;
  return 40;
}

static uint64_t now_s(void *env) {
  (void)env;
  return (uint64_t)sim_time(NULL);
}

static int random_bytes(void *env, void *bytes, size_t count) {
  (void)env;
  for (size_t i = 0; i < count; i++) ((uint8_t *)bytes)[i] = (uint8_t)draw(256);
  return 0;
}

static const kvstow__file_ops FILES = {
    .dir_open = dir_open,
    .dir_list = dir_list,
    .dir_sync = dir_sync,
    .dir_direct = dir_direct,
    .lock = lock,
    .unlock = close_fd,
    .open = open_file,
    .close = close_fd,
    .size = size_of,
    .allocate = allocate,
    .truncate = truncate_file,
    .read = read_file,
    .write = write_file,
    .sync = sync_fd,
    .rename = rename_file,
    .unlink = unlink_file,
    .open_files_max = open_files_max,
    .now_s = now_s,
    .random = random_bytes,
};

/* ---- the engine ----------------------------------------------------------------------------- */

static int create(void *env, const kvstow__engine_config *config, kvstow__engine **engine,
                  char *reason, size_t reason_bytes) {
  (void)env, (void)config, (void)reason, (void)reason_bytes;
  the_engine = calloc(1, sizeof *the_engine);
  *engine = the_engine;
  return the_engine ? 0 : ENOMEM;
}

static void destroy(kvstow__engine *e) {
  the_engine = NULL;
  free(e);
}

static void submit(kvstow__engine *e, kvstow__op *list) {
  while (list) {
    kvstow__op *op = list;
    list = op->next;
    operation();
    pending *slot = &e->list[e->count++];
    *slot = (pending){.op = op, .at_ns = sim_now_ns() + 20000 + draw(2000000)};
    const unsigned chance = op->kind == KVSTOW__READ    ? p.faults.read_error
                            : op->kind == KVSTOW__WRITE ? p.faults.write_error
                                                        : p.faults.sync_error;
    if (strikes(chance)) {
      slot->error = draw(4) == 0 ? ENOSPC : EIO;
      slot->landed = draw(100) < p.faults.landed_error;
    }
    if (strikes(p.faults.slow)) slot->at_ns += draw(2000000000);
    if (strikes(p.faults.lost)) {
      slot->at_ns += UINT64_C(120000000000);
      slot->error = EIO;
    }
  }
  sim_yield();
}

/* Another place of the same size on the disk: the same page of another file, or another page. */
static void misdirect(int *file, uint64_t *offset, uint64_t length) {
  for (int tries = 0; tries < 16; tries++) {
    const int other = (int)draw(FILES_MAX);
    if (!d->inodes[other].used || d->inodes[other].size < FILE_BYTES || length > FILE_BYTES)
      continue;
    *file = other;
    if (draw(2)) *offset = draw((FILE_BYTES - length) / 4096 + 1) * 4096;
    return;
  }
}

static void move_write(const kvstow__op *op) {
  int file = p.fds[op->fd] - 1;
  uint64_t at = op->offset;
  if (strikes(p.faults.phantom_write)) return;
  if (strikes(p.faults.misdirected_write)) misdirect(&file, &at, op->length);
  const uint64_t first = at;
  for (uint32_t i = 0; i < op->iov_count; i++) {
    write_now(file, op->iov[i].iov_base, op->iov[i].iov_len, at);
    at += op->iov[i].iov_len;
  }
  if (strikes(p.faults.flip_on_write))
    now_of(file)[first + draw(op->length)] ^= (uint8_t)(1u << draw(8));
}

static int move_read(const kvstow__op *op) {
  int file = p.fds[op->fd] - 1;
  uint64_t at = op->offset;
  if (at + op->length > d->inodes[file].size) return ENODATA;
  if (strikes(p.faults.misdirected_read)) misdirect(&file, &at, op->length);
  for (uint32_t i = 0; i < op->iov_count; i++) {
    memcpy(op->iov[i].iov_base, now_of(file) + at, op->iov[i].iov_len);
    at += op->iov[i].iov_len;
  }
  if (strikes(p.faults.flip_on_read)) {
    const struct iovec *v = &op->iov[draw(op->iov_count)];
    if (v->iov_len) ((uint8_t *)v->iov_base)[draw(v->iov_len)] ^= (uint8_t)(1u << draw(8));
  }
  return 0;
}

/* What a failed write left behind is anybody's guess. */
static void move_failed_write(const kvstow__op *op, bool whole) {
  const int file = p.fds[op->fd] - 1;
  uint64_t at = op->offset;
  for (uint32_t i = 0; i < op->iov_count; i++)
    for (uint64_t done = 0; done < op->iov[i].iov_len; done += SECTOR, at += SECTOR)
      if (whole || draw(2))
        write_now(file, (const uint8_t *)op->iov[i].iov_base + done, SECTOR, at);
}

static void trace(const pending *slot) {
  static const char *const kinds[] = {"read", "write", "sync"};
  const kvstow__op *op = slot->op;
  printf("    %10.3f ms: %s segment %u offset %" PRIu64 " length %" PRIu64 "%s%s\n",
         (double)sim_now_ns() / 1e6, kinds[op->kind], op->file, op->offset, op->length,
         slot->error ? ": fails" : "", slot->error && slot->landed ? ", but arrives" : "");
}

static void carry_out(pending *slot) {
  kvstow__op *op = slot->op;
  op->error = slot->error;
  if (tracing) trace(slot);
  if (op->error) {
    if (op->kind == KVSTOW__WRITE) move_failed_write(op, slot->landed);
    if (op->kind == KVSTOW__SYNC) fail_sync(p.fds[op->fd] - 1);
  } else if (op->kind == KVSTOW__WRITE) {
    move_write(op);
  } else if (op->kind == KVSTOW__READ) {
    op->error = move_read(op);
  } else {
    sync_file(p.fds[op->fd] - 1);
  }
}

static kvstow__op *reap(kvstow__engine *e, bool wait) {
  for (;;) {
    kvstow__op *done = NULL;
    uint64_t next = SIM_FOREVER;
    for (uint32_t i = 0; i < e->count;) {
      pending *slot = &e->list[i];
      if (slot->at_ns > sim_now_ns()) {
        if (slot->at_ns < next) next = slot->at_ns;
        i++;
        continue;
      }
      carry_out(slot);
      slot->op->next = done;
      done = slot->op;
      *slot = e->list[--e->count];
    }
    if (done || !wait || e->woken) {
      e->woken = false;
      return done;
    }
    sim_block(e, next, e->count ? "waits for the disk" : "waits for work");
  }
}

static void wake(kvstow__engine *e) {
  e->woken = true;
  sim_wake(e, true);
}

static const kvstow__engine_ops ENGINE = {
    .name = "sim",
    .create = create,
    .destroy = destroy,
    .submit = submit,
    .reap = reap,
    .wake = wake,
};

const kvstow__io *sim_disk_io(void) {
  static const kvstow__io io = {
      .files = &FILES, .engines = {&ENGINE}, .kinds = {KVSTOW_ENGINE_AUTO}, .buffered = false};
  return &io;
}
