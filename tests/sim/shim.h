/* shim.h - included before every source of the library that the simulator runs: its threads, locks
 * and clocks become those of sched.h. The sources themselves are the ones that ship.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TESTS_SIM_SHIM_H
#define KVSTOW_TESTS_SIM_SHIM_H

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

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

#endif
