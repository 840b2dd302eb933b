/* fault.h - everything that goes wrong in a simulated life, by name.
 *
 * Each kind has a chance a seed gives it, and a count of how often it struck. The counts are what the
 * report prints: a kind that no longer strikes is a failure of the simulator.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TESTS_SIM_FAULT_H
#define KVSTOW_TESTS_SIM_FAULT_H

#include <stdbool.h>
#include <stdint.h>

/* X(name, what a report calls it, does the disk fail or lie by it) */
#define SIM_FAULTS(X)                                                                              \
  X(REORDERED, "completions out of order", false)                                                  \
  X(SHORT_READ, "short reads", false)                                                              \
  X(SHORT_WRITE, "short writes", false)                                                            \
  X(AGAIN, "EAGAIN or EINTR", false)                                                               \
  X(PARTIAL_SUBMIT, "submissions taken in part", false)                                            \
  X(NO_RING, "io_uring refused", false)                                                            \
  X(SLOW, "latency spikes", false)                                                                 \
  X(LOST, "completions lost, EIO after two minutes", true)                                         \
  X(EIO_READ, "EIO on a read", true)                                                               \
  X(EIO_WRITE, "EIO on a write", true)                                                             \
  X(EIO_SYNC, "EIO on a barrier", true)                                                            \
  X(NO_SPACE, "ENOSPC", true)                                                                      \
  X(LANDED, "writes that failed, yet arrived", true)                                               \
  X(NO_OPEN, "files that would not open", true)                                                    \
  X(DEAD_DIR, "requests to a directory that died", true)                                           \
  X(TORN_512, "writes torn at 512 bytes", false)                                                   \
  X(TORN_4096, "writes torn at 4096 bytes", false)                                                 \
  X(UNSYNCED, "acknowledged writes lost before the barrier", false)                                \
  X(PHANTOM, "acknowledged writes that never happened", true)                                      \
  X(MISDIRECTED_READ, "misdirected reads", true)                                                   \
  X(MISDIRECTED_WRITE, "misdirected writes", true)                                                 \
  X(FLIP_READ, "bits flipped on a read", true)                                                     \
  X(FLIP_WRITE, "bits flipped on a write", true)                                                   \
  X(STALE, "segments of an earlier life", true)                                                    \
  X(CRASH_READ, "power lost at a read", false)                                                     \
  X(CRASH_WRITE, "power lost at a write", false)                                                   \
  X(CRASH_SYNC, "power lost at a barrier", false)                                                  \
  X(CRASH_NAME, "power lost at a name, size or open", false)                                       \
  X(KILLED, "processes killed", false)

typedef enum sim_fault {
#define SIM_X(name, text, fails) SIM_##name,
  SIM_FAULTS(SIM_X)
#undef SIM_X
      SIM_FAULT_KINDS
} sim_fault;

typedef struct sim_faults {
  uint16_t chance[SIM_FAULT_KINDS]; /* in 10,000 of the requests it may befall; 0 never */
  uint32_t crash_at;                /* power is lost at this request of the life; 0 never */
  uint32_t kill_at;                 /* the process is killed at it; 0 never */
  uint32_t dead_at;                 /* dead_dir dies at this request of the life; 0 never */
  uint8_t dead_dir;
} sim_faults;

#endif
