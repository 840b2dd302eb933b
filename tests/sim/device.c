/* device.c - see disk.h: requests under way, and two of the engines that make them.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/shim.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/disk.h"

#define FLYING_MAX 2048u
#define SECTOR 512u
#define LOST_NS UINT64_C(120000000000)
#define SPIKE_NS UINT64_C(2000000000)

static sim_request *flying[FLYING_MAX];
static uint32_t flying_count;
static uint64_t requests;
static bool tracing;

void sim_disk_trace(void) {
  tracing = true;
}

void sim_requests_forget(void) {
  flying_count = 0;
}

static uint64_t length_of(const sim_request *r) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < r->iov_count; i++) bytes += r->iov[i].iov_len;
  return bytes;
}

/* ---- fates ---------------------------------------------------------------------------------- */

static bool fails(const sim_request *r) {
  if (r->kind == KVSTOW__READ) return sim_read_fails(sim_file_of(r->fd));
  return sim_strikes(r->kind == KVSTOW__WRITE ? SIM_EIO_WRITE : SIM_EIO_SYNC);
}

static int error_of(sim_request *r) {
  if (sim_dead(sim_dir_of(sim_file_of(r->fd)))) return EIO;
  if (!r->whole && sim_strikes(SIM_AGAIN)) return sim_disk_draw(2) ? EAGAIN : EINTR;
  if (r->kind == KVSTOW__WRITE && sim_strikes(SIM_NO_SPACE)) return ENOSPC;
  if (!fails(r)) return 0;
  r->landed = r->kind == KVSTOW__WRITE && sim_strikes(SIM_LANDED);
  return EIO;
}

/* How much of it moves: at least a byte, and less than all. */
static uint64_t shortened(const sim_request *r, uint64_t length) {
  if (r->whole || r->kind == KVSTOW__SYNC || length < 2) return length;
  if (!sim_strikes(r->kind == KVSTOW__READ ? SIM_SHORT_READ : SIM_SHORT_WRITE)) return length;
  const uint64_t moved = 1 + sim_disk_draw(length - 1);
  return moved > SECTOR && sim_disk_draw(4) ? moved / SECTOR * SECTOR : moved;
}

void sim_request_begin(sim_request *r) {
  static const sim_fault crashes[] = {[KVSTOW__READ] = SIM_CRASH_READ,
                                      [KVSTOW__WRITE] = SIM_CRASH_WRITE,
                                      [KVSTOW__SYNC] = SIM_CRASH_SYNC};
  if (flying_count == FLYING_MAX) abort();
  sim_request_made(crashes[r->kind]);
  flying[flying_count++] = r;
  r->number = requests++;
  sim_place_note(sim_file_of(r->fd), r->offset);
  r->bytes = shortened(r, length_of(r));
  r->at_ns = sim_now_ns() + 20000 + sim_disk_draw(2000000);
  r->error = error_of(r);
  if (sim_strikes(SIM_SLOW)) r->at_ns += sim_disk_draw(SPIKE_NS);
  if (!sim_strikes(SIM_LOST)) return;
  r->at_ns += LOST_NS;
  r->error = EIO;
}

static void land(sim_request *r) {
  bool overtakes = false;
  for (uint32_t i = 0; i < flying_count;) {
    if (flying[i] == r) {
      flying[i] = flying[--flying_count];
      continue;
    }
    overtakes = overtakes || flying[i]->number < r->number;
    i++;
  }
  if (overtakes) sim_count(SIM_REORDERED);
}

uint64_t sim_requests_failing(void) {
  uint64_t count = 0;
  for (uint32_t i = 0; i < flying_count; i++) {
    const int error = flying[i]->error;
    count += error != 0 && error != EAGAIN && error != EINTR;
  }
  return count;
}

/* ---- moving bytes --------------------------------------------------------------------------- */

static void write_all(const sim_request *r) {
  int file = sim_file_of(r->fd);
  uint64_t at = r->offset, left = r->bytes;
  if (!r->aside) sim_written(file, r->bytes, at);
  if (sim_strikes(SIM_PHANTOM)) return;
  if (sim_strikes(SIM_MISDIRECTED_WRITE)) sim_misdirect(&file, &at, r->bytes);
  const uint64_t first = at;
  for (uint32_t i = 0; i < r->iov_count && left > 0; i++) {
    const uint64_t piece = r->iov[i].iov_len < left ? r->iov[i].iov_len : left;
    sim_write(file, r->iov[i].iov_base, piece, at);
    at += piece;
    left -= piece;
  }
  if (r->bytes > 0 && sim_strikes(SIM_FLIP_WRITE)) sim_flip(file, first + sim_disk_draw(r->bytes));
}

/* What a write that failed left behind is anybody's guess: some of its sectors, or pages. */
static void write_some(const sim_request *r, bool all) {
  const int file = sim_file_of(r->fd);
  const uint64_t grain = sim_disk_draw(2) ? SECTOR : 4096;
  uint64_t at = r->offset, arrived = 0, pieces = 0;
  bool arrives = true;
  for (uint32_t i = 0; i < r->iov_count; i++)
    for (uint64_t done = 0, piece; done < r->iov[i].iov_len; done += piece, at += piece) {
      if (at % grain == 0 || pieces == 0) arrives = all || sim_disk_draw(2);
      piece = grain - at % grain;
      if (piece > r->iov[i].iov_len - done) piece = r->iov[i].iov_len - done;
      if (arrives) sim_write(file, (const uint8_t *)r->iov[i].iov_base + done, piece, at);
      arrived += arrives;
      pieces++;
    }
  if (arrived > 0 && arrived < pieces) sim_count(grain == SECTOR ? SIM_TORN_512 : SIM_TORN_4096);
}

void sim_requests_tear(void) {
  for (uint32_t i = 0; i < flying_count; i++)
    if (flying[i]->kind == KVSTOW__WRITE && sim_disk_draw(2)) write_some(flying[i], false);
}

static int64_t read_all(const sim_request *r) {
  int file = sim_file_of(r->fd);
  uint64_t at = r->offset, left = r->bytes;
  if (at >= sim_size(file)) return 0;
  if (left > sim_size(file) - at) left = sim_size(file) - at;
  const uint64_t bytes = left;
  if (sim_strikes(SIM_MISDIRECTED_READ)) sim_misdirect(&file, &at, bytes);
  const uint64_t flipped = sim_strikes(SIM_FLIP_READ) ? sim_disk_draw(bytes) : UINT64_MAX;
  for (uint32_t i = 0; i < r->iov_count && left > 0; i++) {
    const uint64_t piece = r->iov[i].iov_len < left ? r->iov[i].iov_len : left;
    sim_read(file, r->iov[i].iov_base, piece, at);
    const uint64_t begin = bytes - left;
    if (flipped >= begin && flipped - begin < piece)
      ((uint8_t *)r->iov[i].iov_base)[flipped - begin] ^= (uint8_t)(1u << sim_disk_draw(8));
    at += piece;
    left -= piece;
  }
  return (int64_t)bytes;
}

static void trace(const sim_request *r, int64_t result) {
  static const char *const kinds[] = {"read", "write", "sync"};
  printf("    %10.3f ms: %s file %d offset %" PRIu64 " length %" PRIu64 ": %" PRId64 "%s\n",
         (double)sim_now_ns() / 1e6, kinds[r->kind], sim_file_of(r->fd), r->offset, length_of(r),
         result, r->error && r->landed ? ", but arrives" : "");
}

int64_t sim_request_finish(sim_request *r) {
  int64_t result = r->error ? -r->error : (int64_t)r->bytes;
  land(r);
  const bool untouched = r->error == EAGAIN || r->error == EINTR;
  if (r->kind == KVSTOW__SYNC) {
    if (!r->error)
      sim_sync(sim_file_of(r->fd));
    else if (!untouched)
      sim_sync_failed(sim_file_of(r->fd));
  } else if (r->kind == KVSTOW__WRITE) {
    if (!r->error)
      write_all(r);
    else if (!untouched)
      write_some(r, r->landed);
  } else if (!r->error) {
    result = read_all(r);
  }
  if (tracing) trace(r, result);
  return result;
}

/* ---- what the thread engine calls ----------------------------------------------------------- */

static ssize_t call(kvstow__op_kind kind, int fd, const struct iovec *iov, int count, off_t at) {
  sim_request request = {
      .kind = kind, .fd = fd, .iov = iov, .iov_count = (uint32_t)count, .offset = (uint64_t)at};
  sim_request_begin(&request);
  sim_block(&request, request.at_ns, "waits for the disk");
  const int64_t result = sim_request_finish(&request);
  if (result >= 0) return (ssize_t)result;
  errno = (int)-result;
  return -1;
}

ssize_t preadv(int fd, const struct iovec *iov, int count, off_t at) {
  return call(KVSTOW__READ, fd, iov, count, at);
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t at) {
  return call(KVSTOW__WRITE, fd, iov, count, at);
}

int fdatasync(int fd) {
  return (int)call(KVSTOW__SYNC, fd, NULL, 0, 0);
}

/* ---- an engine of its own ------------------------------------------------------------------- */

typedef struct pending {
  sim_request request;
  kvstow__op *op;
  struct pending *next;
} pending;

struct kvstow__engine {
  pending *list;
  bool woken;
};

static int own_create(void *env, const kvstow__engine_config *config, kvstow__engine **engine,
                      char *reason, size_t reason_bytes) {
  (void)env, (void)config, (void)reason, (void)reason_bytes;
  *engine = calloc(1, sizeof **engine);
  return *engine ? 0 : ENOMEM;
}

static void own_destroy(kvstow__engine *e) {
  free(e);
}

static void own_submit(kvstow__engine *e, kvstow__op *list) {
  while (list) {
    kvstow__op *op = list;
    list = op->next;
    pending *slot = calloc(1, sizeof *slot);
    if (!slot) abort();
    slot->op = op;
    slot->request = (sim_request){.kind = op->kind,
                                  .fd = op->fd,
                                  .iov = op->iov,
                                  .iov_count = op->iov_count,
                                  .offset = op->offset,
                                  .whole = true};
    sim_request_begin(&slot->request);
    slot->next = e->list;
    e->list = slot;
  }
  sim_yield();
}

static void carry_out(pending *slot) {
  kvstow__op *op = slot->op;
  const int64_t result = sim_request_finish(&slot->request);
  op->error = result < 0 ? (int)-result : 0;
  const bool moves = op->kind != KVSTOW__SYNC;
  if (!op->error && moves && (uint64_t)result < op->length - op->slack) op->error = ENODATA;
}

static kvstow__op *own_reap(kvstow__engine *e, uint64_t until_us) {
  const uint64_t until = until_us == KVSTOW__FOREVER ? SIM_FOREVER : until_us * 1000;
  for (;;) {
    kvstow__op *done = NULL;
    uint64_t next = until;
    for (pending **at = &e->list; *at;) {
      pending *slot = *at;
      if (slot->request.at_ns > sim_now_ns()) {
        if (slot->request.at_ns < next) next = slot->request.at_ns;
        at = &slot->next;
        continue;
      }
      carry_out(slot);
      slot->op->next = done;
      done = slot->op;
      *at = slot->next;
      free(slot);
    }
    if (done || sim_now_ns() >= until || e->woken) {
      e->woken = false;
      return done;
    }
    sim_block(e, next, e->list ? "waits for the disk" : "waits for work");
  }
}

static void own_wake(kvstow__engine *e) {
  e->woken = true;
  sim_wake(e, true);
}

const kvstow__engine_ops sim_engine_own = {
    .name = "sim",
    .create = own_create,
    .destroy = own_destroy,
    .submit = own_submit,
    .reap = own_reap,
    .wake = own_wake,
};

const kvstow__io *sim_disk_io(sim_engine engine) {
  static const kvstow__io ios[] = {
      [SIM_ENGINE_OWN] = {.files = &sim_files,
                          .engines = {&sim_engine_own},
                          .kinds = {KVSTOW_ENGINE_AUTO}},
      [SIM_ENGINE_THREADS] = {.files = &sim_files,
                              .engines = {&kvstow__engine_threads},
                              .kinds = {KVSTOW_ENGINE_THREADS}},
      [SIM_ENGINE_RING] = {.files = &sim_files,
                           .engines = {&kvstow__engine_uring, &kvstow__engine_threads},
                           .kinds = {KVSTOW_ENGINE_URING, KVSTOW_ENGINE_THREADS}},
  };
  return &ios[engine];
}
