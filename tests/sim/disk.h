/* disk.h - disks held in memory, which do to the tier what disks do.
 *
 * Names, sizes and bytes exist twice: as the process sees them, and as they are on the medium. A sync
 * carries the one to the other; a crash keeps, of what was not synced, any part it likes, in sectors
 * of 512 or 4096 bytes. A process that is killed leaves both as they are. The memory is shared with the parent, so that a life can end in _exit and the
 * next one find the disk.
 *
 *   disk.c    names, bytes, power; what goes wrong
 *   files.c   kvstow__file_ops over them
 *   device.c  requests under way; an engine of its own, and preadv, pwritev and fdatasync for the
 *             library's thread engine
 *   ring.c    io_uring, as far as the library's ring engine uses it
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TESTS_SIM_DISK_H
#define KVSTOW_TESTS_SIM_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "tests/sim/fault.h"
#include "tier/io.h"

enum {
  SIM_CRASHED = 70, /* exit status of a life that lost power */
  SIM_ENDED = 71,   /* ... that was killed */
  SIM_SEGMENT_BYTES = 1 << 20,
  SIM_FILE_BYTES = SIM_SEGMENT_BYTES, /* no file is larger */
  SIM_DIR_FD = 1000,                  /* descriptors of directories begin here */
  SIM_STORE_DIRS = 2,                 /* "/sim/0" and "/sim/1"; others are not the store's */
};

/* ---- for those who run lives ---------------------------------------------------------------- */

/* In the parent, once a seed: empty disks. */
void sim_disk_format(void);
/* In the child, at the start of a life. `seed` decides what goes wrong. */
void sim_disk_begin(uint64_t seed, const sim_faults *faults);
/* Loses power: settles what survives and ends the process with SIM_CRASHED. */
_Noreturn void sim_disk_crash(void);

typedef enum sim_engine { SIM_ENGINE_OWN, SIM_ENGINE_THREADS, SIM_ENGINE_RING } sim_engine;
const kvstow__io *sim_disk_io(sim_engine engine);

uint64_t sim_disk_bytes(void);   /* held by the store's files and directories now */
uint64_t sim_disk_written(void); /* of records, by engines, in this life */
/* Errors pass: so many reads of a file fail in a row at most, then so many do not. */
#define SIM_SICK_READS 6
#define SIM_WELL_READS 16
bool sim_read_fails(int file);
void sim_disk_reads_well(void);        /* from now on, in this life */
const uint64_t *sim_disk_counts(void); /* by sim_fault, since the format */
uint64_t sim_disk_failures(void);      /* of them, those by which the disk failed or lied */
int sim_disk_open_files(void);         /* descriptors not closed */
void sim_disk_trace(void);             /* prints what the engine does from now on */

/* ---- among the files of the simulator ------------------------------------------------------- */

uint64_t sim_disk_draw(uint64_t bound);
/* Does this fault befall the request at hand? Counted if so. */
bool sim_strikes(sim_fault fault);
void sim_count(sim_fault fault);
/* Counts a request; power may be lost at it, which is then counted as `crash`. */
void sim_request_made(sim_fault crash);
bool sim_dead(int dir); /* counted */

int sim_file_of(int fd); /* number of the file a descriptor names */
int sim_dir_of(int file);
int sim_fd_new(int file);
void sim_fd_close(int fd);
uint64_t sim_size(int file);
uint64_t sim_allocated(int file);
void sim_resize(int file, uint64_t bytes, bool reserve);

void sim_read(int file, void *to, uint64_t bytes, uint64_t offset);
void sim_write(int file, const void *from, uint64_t bytes, uint64_t offset);
void sim_flip(int file, uint64_t offset);
void sim_written(int file, uint64_t bytes, uint64_t offset); /* by an engine */
void sim_sync(int file);
/* As kernels do: what could not be written is forgotten, and the next sync knows nothing of it. */
void sim_sync_failed(int file);
/* Notes where a request goes. */
void sim_place_note(int file, uint64_t offset);
/* Another place of the same length: one of another request, or the same of another file, or any page. */
void sim_misdirect(int *file, uint64_t *offset, uint64_t length);

/* Of `dir` (its number): the file of that name, or -1; made if `create`. */
int sim_name_find(int dir, const char *text, bool create);
void sim_name_move(int dir, const char *from, const char *to);
void sim_name_drop(int dir, const char *text);
void sim_names_each(int dir, bool (*each)(void *arg, const char *name), void *arg);
void sim_names_sync(int dir);

/* A request on its way: begun, then waited for until at_ns, then finished. */
typedef struct sim_request {
  kvstow__op_kind kind;
  int fd;
  const struct iovec *iov;
  uint32_t iov_count;
  uint64_t offset;
  bool whole; /* no short transfers, no EAGAIN */
  bool aside; /* not of an engine */
  /* drawn by sim_request_begin */
  uint64_t at_ns, number, bytes; /* bytes: that will move */
  int error;
  bool landed; /* a write that fails arrives all the same */
} sim_request;

/* Draws its fate. It must stay where it is until it is finished. */
void sim_request_begin(sim_request *request);
/* What the system call would return: bytes moved, or a negative errno. */
int64_t sim_request_finish(sim_request *request);
/* Power is lost: of writes under way, any part arrives. */
void sim_requests_tear(void);
void sim_requests_forget(void);
uint64_t sim_requests_failing(void); /* under way: counted already, told when they end */

extern const kvstow__file_ops sim_files;
extern const kvstow__engine_ops sim_engine_own;

#endif
