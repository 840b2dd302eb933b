/* sched.c - see sched.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/sched.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define FIBERS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBERS 1
#endif
#endif
#ifdef FIBERS
#include <sanitizer/common_interface_defs.h>
#endif

#define TASKS_MAX 96
#define STACK_BYTES ((size_t)512 << 10)
#define CALENDAR_START_S UINT64_C(1800000000)
#define QUIET_YIELDS_MAX UINT64_C(1000000) /* so many without progress are a hang */
#define QUIET_NS_MAX (UINT64_C(3600) * 1000000000)

typedef enum state { NONE, READY, BLOCKED, ENDED } state;

typedef struct task {
  state state;
  ucontext_t context;
  void *stack;
  size_t stack_bytes;
  void *fake_stack; /* the address sanitizer's */
  void *(*main)(void *);
  void *arg, *result;
  char name[16];
  const void *on;
  uint64_t until_ns;
  const char *why;
  bool woken;
} task;

/* What a mutex's and a condition's memory holds here. Zeroes are an unlocked mutex. */
typedef struct mutex {
  uint32_t owner; /* task + 1 */
} mutex;
typedef struct condition {
  clockid_t clock;
} condition;

_Static_assert(sizeof(mutex) <= sizeof(pthread_mutex_t), "fits");
_Static_assert(sizeof(condition) <= sizeof(pthread_cond_t), "fits");

static struct {
  task tasks[TASKS_MAX];
  int count, current;
  uint64_t random, now_ns, quiet_yields, quiet_since_ns;
  uint64_t next_timer_ns;
  int64_t calendar_jump_s;
  unsigned switch_one_in;
  void (*hang)(const char *text);
} s;

uint64_t sim_draw(uint64_t bound) {
  s.random += UINT64_C(0x9e3779b97f4a7c15);
  uint64_t x = s.random;
  x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
  x ^= x >> 31;
  return bound ? x % bound : 0;
}

uint64_t sim_now_ns(void) {
  return s.now_ns;
}

void sim_clock_jump(int64_t seconds) {
  s.calendar_jump_s += seconds;
}

void sim_progress(void) {
  s.quiet_yields = 0;
  s.quiet_since_ns = s.now_ns;
}

static void hang(const char *what) {
  char text[4096];
  size_t at = (size_t)snprintf(text, sizeof text, "%s:", what);
  for (int i = 0; i < s.count && at < sizeof text; i++) {
    const task *t = &s.tasks[i];
    if (t->state == ENDED) continue;
    at += (size_t)snprintf(text + at, sizeof text - at, " [%s %s]", t->name,
                           t->state == READY ? "could run" : t->why);
  }
  s.hang(text);
  abort();
}

static void know_own_stack(task *t);

void sim_begin(uint64_t seed, void (*hang_handler)(const char *text)) {
  memset(&s, 0, sizeof s);
  s.random = seed;
  s.hang = hang_handler;
  s.count = 1;
  s.tasks[0].state = READY;
  s.next_timer_ns = SIM_FOREVER;
  snprintf(s.tasks[0].name, sizeof s.tasks[0].name, "first");
  know_own_stack(&s.tasks[0]);
  static const unsigned rates[] = {1, 2, 4, 16, 64, 512};
  s.switch_one_in = rates[sim_draw(sizeof rates / sizeof *rates)];
}

/* The first task has the stack of its thread. */
static void know_own_stack(task *t) {
#ifdef FIBERS
  pthread_attr_t attr;
  if (pthread_getattr_np(pthread_self(), &attr) != 0) abort();
  pthread_attr_getstack(&attr, &t->stack, &t->stack_bytes);
  pthread_attr_destroy(&attr);
#else
  (void)t;
#endif
}

static void switch_to(int next) {
  task *from = &s.tasks[s.current], *to = &s.tasks[next];
  if (from == to) return;
  s.current = next;
#ifdef FIBERS
  __sanitizer_start_switch_fiber(from->state == ENDED ? NULL : &from->fake_stack, to->stack,
                                 to->stack_bytes);
#endif
  swapcontext(&from->context, &to->context);
#ifdef FIBERS
  __sanitizer_finish_switch_fiber(s.tasks[s.current].fake_stack, NULL, NULL);
#endif
}

/* Tasks whose time has come may run again. */
static void ring_timers(void) {
  if (s.now_ns < s.next_timer_ns) return;
  s.next_timer_ns = SIM_FOREVER;
  for (int i = 0; i < s.count; i++) {
    task *t = &s.tasks[i];
    if (t->state != BLOCKED) continue;
    if (t->until_ns <= s.now_ns)
      t->state = READY;
    else if (t->until_ns < s.next_timer_ns)
      s.next_timer_ns = t->until_ns;
  }
}

static int pick(void) {
  int ready[TASKS_MAX], count = 0;
  for (int i = 0; i < s.count; i++)
    if (s.tasks[i].state == READY) ready[count++] = i;
  return count ? ready[sim_draw((uint64_t)count)] : -1;
}

/* Lets somebody run; the current task may not be able to. */
static void dispatch(void) {
  ring_timers();
  int next = pick();
  while (next < 0) { /* a timer may be that of a task woken since */
    if (s.next_timer_ns == SIM_FOREVER) hang("nobody can run");
    s.now_ns = s.next_timer_ns;
    if (s.now_ns - s.quiet_since_ns > QUIET_NS_MAX) hang("nothing ended for an hour");
    ring_timers();
    next = pick();
  }
  switch_to(next);
}

void sim_yield(void) {
  s.now_ns += 50 + sim_draw(1000);
  if (++s.quiet_yields > QUIET_YIELDS_MAX) hang("running in circles");
  ring_timers();
  if (sim_draw(s.switch_one_in) == 0) dispatch();
}

bool sim_block(const void *on, uint64_t until_ns, const char *why) {
  task *t = &s.tasks[s.current];
  t->on = on;
  t->until_ns = until_ns;
  t->why = why;
  t->woken = false;
  t->state = BLOCKED;
  if (until_ns < s.next_timer_ns) s.next_timer_ns = until_ns;
  dispatch();
  t->on = NULL;
  return t->woken;
}

void sim_wake(const void *on, bool all) {
  int waiting[TASKS_MAX], count = 0;
  for (int i = 0; i < s.count; i++)
    if (s.tasks[i].state == BLOCKED && s.tasks[i].on == on) waiting[count++] = i;
  if (count == 0) return;
  const int one = (int)sim_draw((uint64_t)count);
  for (int i = 0; i < count; i++) {
    if (!all && i != one) continue;
    s.tasks[waiting[i]].state = READY;
    s.tasks[waiting[i]].woken = true;
  }
}

/* ---- threads -------------------------------------------------------------------------------- */

static void enter(void) {
#ifdef FIBERS
  __sanitizer_finish_switch_fiber(NULL, NULL, NULL);
#endif
  task *t = &s.tasks[s.current];
  t->result = t->main(t->arg);
  t->state = ENDED;
  sim_progress();
  sim_wake(t, true);
  dispatch();
  abort();
}

int sim_thread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*main)(void *),
                      void *arg) {
  (void)attr;
  if (s.count == TASKS_MAX) return EAGAIN;
  task *t = &s.tasks[s.count];
  t->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (t->stack == MAP_FAILED) return EAGAIN;
  mprotect(t->stack, 4096, PROT_NONE);
  t->stack_bytes = STACK_BYTES;
  getcontext(&t->context);
  t->context.uc_stack.ss_sp = t->stack;
  t->context.uc_stack.ss_size = STACK_BYTES;
  t->context.uc_link = NULL;
  makecontext(&t->context, enter, 0);
  t->main = main;
  t->arg = arg;
  t->state = READY;
  snprintf(t->name, sizeof t->name, "task %d", s.count);
  *thread = (pthread_t)s.count++;
  sim_yield();
  return 0;
}

int sim_thread_join(pthread_t thread, void **result) {
  task *t = &s.tasks[(int)thread];
  while (t->state != ENDED) sim_block(t, SIM_FOREVER, "joins");
  if (result) *result = t->result;
  return 0;
}

int sim_thread_setname(pthread_t thread, const char *name) {
  snprintf(s.tasks[(int)thread].name, sizeof s.tasks[0].name, "%s", name);
  return 0;
}

int sim_sigmask(int how, const sigset_t *set, sigset_t *before) {
  (void)how, (void)set;
  if (before) sigemptyset(before);
  return 0;
}

/* ---- locks ---------------------------------------------------------------------------------- */

static mutex *as_mutex(pthread_mutex_t *m) {
  return (mutex *)(void *)m;
}

int sim_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *attr) {
  (void)attr;
  *as_mutex(m) = (mutex){0};
  return 0;
}

int sim_mutex_destroy(pthread_mutex_t *m) {
  if (as_mutex(m)->owner) hang("a locked mutex is destroyed");
  return 0;
}

int sim_mutex_trylock(pthread_mutex_t *m) {
  if (as_mutex(m)->owner) return EBUSY;
  as_mutex(m)->owner = (uint32_t)s.current + 1;
  return 0;
}

int sim_mutex_lock(pthread_mutex_t *m) {
  sim_yield();
  if (as_mutex(m)->owner == (uint32_t)s.current + 1) hang("a mutex is locked twice");
  while (as_mutex(m)->owner) sim_block(m, SIM_FOREVER, "wants a mutex");
  as_mutex(m)->owner = (uint32_t)s.current + 1;
  return 0;
}

int sim_mutex_unlock(pthread_mutex_t *m) {
  if (as_mutex(m)->owner != (uint32_t)s.current + 1) hang("another task's mutex is unlocked");
  as_mutex(m)->owner = 0;
  sim_wake(m, true);
  sim_yield();
  return 0;
}

static condition *as_condition(pthread_cond_t *c) {
  return (condition *)(void *)c;
}

int sim_cond_init(pthread_cond_t *c, const pthread_condattr_t *attr) {
  *as_condition(c) = (condition){0};
  if (attr) pthread_condattr_getclock(attr, &as_condition(c)->clock);
  return 0;
}

int sim_cond_destroy(pthread_cond_t *c) {
  (void)c;
  return 0;
}

static int wait_for(pthread_cond_t *c, pthread_mutex_t *m, uint64_t until_ns) {
  if (as_mutex(m)->owner != (uint32_t)s.current + 1) hang("waits without its mutex");
  as_mutex(m)->owner = 0;
  sim_wake(m, true);
  bool woken = true;
  if (sim_draw(64) != 0) /* else: woken for no reason, as is allowed */
    woken = sim_block(c, until_ns, "waits for a condition");
  while (as_mutex(m)->owner) sim_block(m, SIM_FOREVER, "wants its mutex back");
  as_mutex(m)->owner = (uint32_t)s.current + 1;
  return woken ? 0 : ETIMEDOUT;
}

int sim_cond_wait(pthread_cond_t *c, pthread_mutex_t *m) {
  return wait_for(c, m, SIM_FOREVER);
}

static uint64_t calendar_ns(void) {
  const int64_t seconds = (int64_t)CALENDAR_START_S + s.calendar_jump_s;
  return (uint64_t)seconds * 1000000000u + s.now_ns;
}

int sim_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until) {
  uint64_t at = (uint64_t)until->tv_sec * 1000000000u + (uint64_t)until->tv_nsec;
  if (as_condition(c)->clock == CLOCK_REALTIME) {
    const uint64_t base = calendar_ns() - s.now_ns;
    at = at > base ? at - base : 0;
  }
  return wait_for(c, m, at);
}

int sim_cond_signal(pthread_cond_t *c) {
  sim_wake(c, false);
  sim_yield();
  return 0;
}

int sim_cond_broadcast(pthread_cond_t *c) {
  sim_wake(c, true);
  sim_yield();
  return 0;
}

/* ---- time ----------------------------------------------------------------------------------- */

int sim_clock_gettime(clockid_t clock, struct timespec *now) {
  s.now_ns += 20;
  const uint64_t ns =
      clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE ? calendar_ns() : s.now_ns;
  now->tv_sec = (time_t)(ns / 1000000000u);
  now->tv_nsec = (long)(ns % 1000000000u);
  return 0;
}

int sim_nanosleep(const struct timespec *pause, struct timespec *left) {
  const uint64_t ns = (uint64_t)pause->tv_sec * 1000000000u + (uint64_t)pause->tv_nsec;
  sim_block(pause, s.now_ns + ns, "sleeps");
  if (left) memset(left, 0, sizeof *left);
  return 0;
}

time_t sim_time(time_t *where) {
  const time_t now = (time_t)(calendar_ns() / 1000000000u);
  if (where) *where = now;
  return now;
}

/* ---- descriptors ---------------------------------------------------------------------------- */

const char sim_descriptors;

ssize_t __real_write(int fd, const void *bytes, size_t count);
ssize_t __wrap_write(int fd, const void *bytes, size_t count);
ssize_t __wrap_write(int fd, const void *bytes, size_t count) {
  const ssize_t n = __real_write(fd, bytes, count);
  if (s.count > 0) sim_wake(&sim_descriptors, true);
  return n;
}

bool sim_readable(int fd) {
  struct pollfd one = {.fd = fd, .events = POLLIN};
  return poll(&one, 1, 0) == 1;
}

int sim_poll(struct pollfd *fds, nfds_t count, int timeout_ms) {
  const uint64_t until = timeout_ms < 0 ? SIM_FOREVER : s.now_ns + (uint64_t)timeout_ms * 1000000u;
  for (;;) {
    const int ready = poll(fds, count, 0);
    if (ready != 0 || s.now_ns >= until) return ready;
    sim_block(&sim_descriptors, until, "polls");
  }
}
