/* sched.h - threads that take turns.
 *
 * The library's threads run as coroutines of one real thread, under a clock that only moves when
 * they let it. At every lock, signal and device request a seeded draw decides who goes on, so that a
 * seed names one interleaving and repeats it. When nobody can run, the clock jumps to the next timer;
 * when there is none, that is a hang, and it is reported as one.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TESTS_SIM_SCHED_H
#define KVSTOW_TESTS_SIM_SCHED_H

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define SIM_FOREVER UINT64_MAX

/* The caller becomes the first task. `hang` is called with a description when nobody can ever run
 * again, or when nothing has come to an end for too long; it must not return. */
void sim_begin(uint64_t seed, void (*hang)(const char *text));

uint64_t sim_now_ns(void);
uint64_t sim_draw(uint64_t bound);    /* 0 .. bound-1, from the schedule's generator */
void sim_clock_jump(int64_t seconds); /* of the calendar, not of the monotonic clock */
void sim_yield(void);                 /* somebody else may go first */
void sim_progress(void);              /* something has come to an end: not a hang */

/* Woken whenever a descriptor has been written to. */
extern const char sim_descriptors;
bool sim_readable(int fd);

/* Waits for sim_wake(on), or until a time of sim_now_ns; false when that came first. */
bool sim_block(const void *on, uint64_t until_ns, const char *why);
void sim_wake(const void *on, bool all);

/* What shim.h puts in the place of the system's. */
int sim_thread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*main)(void *),
                      void *arg);
int sim_thread_join(pthread_t thread, void **result);
int sim_thread_setname(pthread_t thread, const char *name);
int sim_sigmask(int how, const sigset_t *set, sigset_t *before);
int sim_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attr);
int sim_mutex_destroy(pthread_mutex_t *mutex);
int sim_mutex_lock(pthread_mutex_t *mutex);
int sim_mutex_trylock(pthread_mutex_t *mutex);
int sim_mutex_unlock(pthread_mutex_t *mutex);
int sim_cond_init(pthread_cond_t *cond, const pthread_condattr_t *attr);
int sim_cond_destroy(pthread_cond_t *cond);
int sim_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);
int sim_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until);
int sim_cond_signal(pthread_cond_t *cond);
int sim_cond_broadcast(pthread_cond_t *cond);
int sim_clock_gettime(clockid_t clock, struct timespec *now);
int sim_nanosleep(const struct timespec *pause, struct timespec *left);
int sim_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
time_t sim_time(time_t *where);

#endif
