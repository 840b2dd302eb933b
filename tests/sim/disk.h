/* disk.h - disks held in memory, which do to the tier what disks do.
 *
 * Names, sizes and bytes exist twice: as the process sees them, and as they are on the medium. A sync
 * carries the one to the other; a crash keeps, of what was not synced, any part it likes, sector by
 * sector. The memory is shared with the parent, so that a life can end in _exit and the next one find
 * the disk.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TESTS_SIM_DISK_H
#define KVSTOW_TESTS_SIM_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "tier/io.h"

enum { SIM_CRASHED = 70 }; /* exit status of a life that lost power */

/* Chances in 10,000 for each operation; 0 never. */
typedef struct sim_faults {
  /* errors that are told */
  unsigned read_error, write_error, sync_error, no_space, no_open;
  unsigned landed_error; /* of write errors in 100: the bytes arrived all the same */
  unsigned slow;         /* takes up to two seconds */
  unsigned lost;         /* its completion comes after two minutes, with EIO */
  /* lies */
  unsigned misdirected_write, misdirected_read, phantom_write, flip_on_write, flip_on_read;
  unsigned stale_file; /* at the start of a life: a file returns to what it was before */
  uint32_t crash_at;   /* power is lost at this operation of the life; 0 never */
} sim_faults;

static inline bool sim_faults_lie(const sim_faults *f) {
  return f->misdirected_write || f->misdirected_read || f->phantom_write || f->flip_on_write ||
         f->flip_on_read || f->stale_file;
}

enum { SIM_SEGMENT_BYTES = 1 << 20 };

/* In the parent, once a seed: empty disks. */
void sim_disk_format(void);
/* In the child, at the start of a life. `seed` decides what goes wrong. */
void sim_disk_begin(uint64_t seed, const sim_faults *faults);
void sim_disk_set_faults(const sim_faults *faults);
const kvstow__io *sim_disk_io(void);
/* Loses power: settles what survives and ends the process with SIM_CRASHED. */
_Noreturn void sim_disk_crash(void);

uint64_t sim_disk_bytes(void);  /* held by all files and directories now */
uint64_t sim_disk_faults(void); /* done since the format */
uint64_t sim_disk_ops(void);    /* of this life */
int sim_disk_open_files(void);  /* descriptors not closed */
void sim_disk_trace(void);      /* prints what the engine does from now on */

#endif
