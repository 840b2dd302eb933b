/* shim.h - included before every source of the library that the simulator runs: its threads, locks
 * and clocks become those of sched.h, its system calls for data those of device.c and ring.c. The
 * sources themselves are the ones that ship.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TESTS_SIM_SHIM_H
#define KVSTOW_TESTS_SIM_SHIM_H

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/sched.h"

#define pthread_create sim_thread_create
#define pthread_join sim_thread_join
#define pthread_setname_np sim_thread_setname
#define pthread_sigmask sim_sigmask
#define pthread_mutex_init sim_mutex_init
#define pthread_mutex_destroy sim_mutex_destroy
#define pthread_mutex_lock sim_mutex_lock
#define pthread_mutex_trylock sim_mutex_trylock
#define pthread_mutex_unlock sim_mutex_unlock
#define pthread_cond_init sim_cond_init
#define pthread_cond_destroy sim_cond_destroy
#define pthread_cond_wait sim_cond_wait
#define pthread_cond_timedwait sim_cond_timedwait
#define pthread_cond_signal sim_cond_signal
#define pthread_cond_broadcast sim_cond_broadcast
#define clock_gettime sim_clock_gettime
#define nanosleep sim_nanosleep
#define poll sim_poll
#define time(where) sim_time(where)

#define preadv sim_preadv
#define pwritev sim_pwritev
#define fdatasync sim_fdatasync

ssize_t sim_preadv(int fd, const struct iovec *iov, int count, off_t at);
ssize_t sim_pwritev(int fd, const struct iovec *iov, int count, off_t at);
int sim_fdatasync(int fd);

/* liburing's header, when it comes, declares these under their new names. */
#define io_uring_queue_init sim_ring_init
#define io_uring_queue_exit sim_ring_exit
#define io_uring_get_probe_ring sim_ring_probe
#define io_uring_free_probe sim_ring_probe_free
#define io_uring_ring_dontfork sim_ring_dontfork
#define io_uring_register_iowq_max_workers sim_ring_workers
#define io_uring_register_files_sparse sim_ring_table
#define io_uring_register_files_update sim_ring_table_set
#define io_uring_submit sim_ring_submit
#define __io_uring_get_cqe sim_ring_get
#define io_uring_submit_and_wait sim_ring_submit_and_wait
#define io_uring_submit_and_wait_timeout sim_ring_submit_and_wait_until
#define io_uring_submit_and_get_events sim_ring_submit_and_reap

#endif
