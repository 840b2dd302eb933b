/* tests/test_fault_process.c - what hosts and machines do to a process that has a store open: clocks set
 * back and forth, forks, no locked memory, no io_uring, no O_DIRECT, no descriptors left, a directory that
 * can't be written, a close while much is in flight.
 *
 * The clock and open flags are the test's: openat(), fcntl() and statx() are wrapped.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/kv.h"
#include "support/wall_clock.h"

#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static const kv_shape shape = {2, 256, 256, 64, 0}; /* 64 KiB a block */

enum { CHAIN = 8 };

/* ---- the world, as the library sees it ------------------------------------------------------ */

static atomic_bool direct_forbidden; /* this file system has no O_DIRECT */

int __real_openat(int dir, const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  if ((flags & O_DIRECT) != 0 && atomic_load(&direct_forbidden)) {
    errno = EINVAL;
    return -1;
  }
  return __real_openat(dir, path, flags, mode);
}

/* On such a file system the flag can't be set later either. */
int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  const long argument = va_arg(arguments, long);
  va_end(arguments);
  if (command == F_SETFL && (argument & O_DIRECT) != 0 && atomic_load(&direct_forbidden)) {
    errno = EINVAL;
    return -1;
  }
  return __real_fcntl(fd, command, argument);
}

#ifdef STATX_DIOALIGN
int __real_statx(int dir, const char *path, int flags, unsigned mask, struct statx *stat);
int __wrap_statx(int dir, const char *path, int flags, unsigned mask, struct statx *stat);
int __wrap_statx(int dir, const char *path, int flags, unsigned mask, struct statx *stat) {
  const int rc = __real_statx(dir, path, flags, mask, stat);
  if (rc == 0 && atomic_load(&direct_forbidden))
    stat->stx_dio_mem_align = stat->stx_dio_offset_align = 0;
  return rc;
}
#endif

/* ---- a store -------------------------------------------------------------------------------- */

static void options_of(kvstow_options *options, const char *const *dir) {
  kv_options(options, dir, 8 * KV_MIB, 32 * KV_MIB, KV_MIB);
  options->populate = false;
}

static kvstow *open_at(const char *const *dir, kvstow_space **space) {
  kvstow_options options;
  options_of(&options, dir);
  kvstow *store = kv_open(&options);
  *space = kv_space(store, "process", &shape);
  return store;
}

static int store_doc(kvstow_space *space, uint64_t number) {
  kv_doc d;
  kv_doc_init(&d, space, &shape, 1, number, CHAIN, NULL, 0);
  const int rc = kv_doc_store(&d, 0, CHAIN, 0);
  kv_doc_finish(&d);
  return rc;
}

static size_t restore_doc(kvstow_space *space, uint64_t number, uint32_t flags) {
  kv_doc d;
  kv_doc_init(&d, space, &shape, 1, number, CHAIN, NULL, 0);
  const size_t good = kv_doc_restore(&d, flags);
  kv_doc_finish(&d);
  return good;
}

static void docs_are_there(kvstow_space *space, uint64_t from, uint64_t to) {
  for (uint64_t i = from; i < to; i++)
    KV_CHECK(restore_doc(space, i, i % 2 ? KVSTOW_BYPASS_RAM : 0) == CHAIN,
             "document %" PRIu64 " is not whole", i);
}

/* Stores, flushes, restores; then the same after a restart. */
static void works(const char *const *dir) {
  kvstow_space *space;
  kvstow *store = open_at(dir, &space);
  for (uint64_t i = 0; i < 12; i++) KV_OK(store_doc(space, i));
  KV_OK(kvstow_flush(store));
  docs_are_there(space, 0, 12);
  KV_OK(kvstow_close(store));
  store = open_at(dir, &space);
  docs_are_there(space, 0, 12);
  KV_OK(kvstow_close(store));
}

/* Runs `check` in a child that may break itself. */
static void in_child(void (*check)(void *arg), void *arg) {
  if (KV_TSAN) skip();
  const pid_t pid = kv_fork();
  if (pid == 0) {
    check(arg);
    _exit(0);
  }
  const int status = kv_wait(pid);
  if (status == 77) skip();
  assert_int_equal(status, 0);
}

/* ---- clocks --------------------------------------------------------------------------------- */

static void clock_set_to_and_fro_grants_no_second_budget(void **state) {
  (void)state;
  const char *dir = kv_dir("process");
  kvstow_options options;
  options_of(&options, &dir);
  options.write_bytes_a_day = 4 * KV_MIB;
  kvstow *store = kv_open(&options);
  kvstow_space *space = kv_space(store, "process", &shape);
  uint64_t most = 4 * KV_MIB + KV_MIB; /* segments' own tables apart */
  for (uint64_t i = 0; i < 24; i++) {
    atomic_store(&wall_off_s, i % 2 ? -3 * WALL_DAY_S : 0);
    (void)store_doc(space, i);
    const int rc = kvstow_flush(store);
    KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC, "flush: %s", kvstow_errname(rc));
    KV_CHECK(kv_stats(store).tier.bytes_written <= most, "%" PRIu64 " bytes written",
             kv_stats(store).tier.bytes_written);
  }
  KV_CHECK(kv_stats(store).tier.bytes_written > 2 * KV_MIB, "the budget was not used");
  atomic_store(&wall_off_s, WALL_DAY_S); /* a day later there is one more */
  const uint64_t before = kv_stats(store).tier.bytes_written;
  for (uint64_t i = 24; i < 30; i++) {
    (void)store_doc(space, i);
    (void)kvstow_flush(store);
  }
  const uint64_t after = kv_stats(store).tier.bytes_written;
  KV_CHECK(after > before + 2 * KV_MIB, "a new day grants %" PRIu64 " bytes only", after - before);
  most += 4 * KV_MIB + KV_MIB;
  for (uint64_t i = 30; i < 40; i++) {
    atomic_store(&wall_off_s, i % 2 ? WALL_DAY_S : 0);
    (void)store_doc(space, i);
    (void)kvstow_flush(store);
  }
  KV_CHECK(kv_stats(store).tier.bytes_written <= most, "%" PRIu64 " bytes written",
           kv_stats(store).tier.bytes_written);
  atomic_store(&wall_off_s, 0);
  (void)kvstow_close(store);
}

static void clock_jumps_hold_nothing_up(void **state) {
  (void)state;
  const char *dir = kv_dir("process");
  kvstow_space *space;
  kvstow *store = open_at(&dir, &space);
  const long jumps[] = {0, -10 * 365 * WALL_DAY_S, 40 * 365 * WALL_DAY_S, -WALL_DAY_S, 3600, 0};
  const double start = kv_now_s();
  for (uint64_t i = 0; i < 60; i++) {
    atomic_store(&wall_off_s, jumps[i % 6]);
    KV_OK(store_doc(space, i));
    if (i % 10 == 9) KV_OK(kvstow_flush(store));
    (void)restore_doc(space, i / 2, KVSTOW_BYPASS_RAM);
  }
  KV_OK(kvstow_flush(store));
  KV_OK(kvstow_close(store));
  KV_CHECK(kv_now_s() - start < 50, "something waited for a clock");
  atomic_store(&wall_off_s, -20 * 365 * WALL_DAY_S); /* it was all written in the future */
  store = open_at(&dir, &space);
  KV_CHECK(restore_doc(space, 59, 0) == CHAIN, "what was written in the future is lost");
  KV_OK(kvstow_close(store));
  atomic_store(&wall_off_s, 0);
}

/* ---- forks ---------------------------------------------------------------------------------- */

static void a_forked_child_can_not_harm_the_store(void **state) {
  (void)state;
  if (KV_TSAN) skip();
  const char *dir = kv_dir("process");
  kvstow_space *space;
  kvstow *store = open_at(&dir, &space);
  for (uint64_t i = 0; i < 6; i++) KV_OK(store_doc(space, i));
  for (int round = 0; round < 10; round++) {
    const pid_t pid = kv_fork();
    if (pid == 0) { /* as a host's exit handlers might */
      KV_RESULT(kvstow_flush(store), KVSTOW_ESTATE);
      KV_RESULT(kvstow_close(store), KVSTOW_ESTATE);
      kvstow_options options;
      options_of(&options, &dir);
      kvstow *other = NULL;
      KV_RESULT(kvstow_open(&options, &other, NULL, 0), KVSTOW_EBUSY); /* it is the parent's */
      _exit(0);
    }
    KV_OK(store_doc(space, 6 + (uint64_t)round)); /* meanwhile */
    KV_OK(kvstow_flush(store));
    assert_int_equal(kv_wait(pid), 0);
  }
  docs_are_there(space, 0, 16);
  /* a child that lives on keeps nothing back */
  int pipes[2];
  KV_CHECK(pipe(pipes) == 0, "pipe: %s", strerror(errno));
  const pid_t pid = kv_fork();
  if (pid == 0) {
    char byte;
    close(pipes[1]);
    (void)!read(pipes[0], &byte, 1);
    _exit(0);
  }
  KV_OK(kvstow_close(store));
  store = open_at(&dir, &space);
  docs_are_there(space, 0, 16);
  KV_OK(kvstow_close(store));
  close(pipes[1]);
  close(pipes[0]);
  assert_int_equal(kv_wait(pid), 0);
}

/* ---- things forbidden ----------------------------------------------------------------------- */

static void without_locked_memory(void *arg) {
  const char *const *dir = arg;
  const struct rlimit none = {0, 0};
  KV_CHECK(setrlimit(RLIMIT_MEMLOCK, &none) == 0, "setrlimit: %s", strerror(errno));
  if (geteuid() == 0) { /* root may lock memory all the same */
    KV_CHECK(chown(*dir, 65534, 65534) == 0, "chown: %s", strerror(errno));
    if (setgroups(0, NULL) != 0 || setresgid(65534, 65534, 65534) != 0 ||
        setresuid(65534, 65534, 65534) != 0)
      _exit(77);
    if (access(*dir, W_OK) != 0) _exit(77); /* a directory above it is root's alone */
  }
  works(dir);
}

static void no_locked_memory_is_needed(void **state) {
  (void)state;
  const char *dir = kv_dir("process");
  in_child(without_locked_memory, &dir);
}

struct forbidden {
  const char *dir;
  int error;
};

static void without_io_uring(void *arg) {
  const struct forbidden *f = arg;
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)f->error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const struct sock_fprog program = {sizeof code / sizeof *code, code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
    _exit(77);
  works(&f->dir);
  kvstow_options options;
  options_of(&options, &f->dir);
  options.engine = KVSTOW_ENGINE_AUTO;
  kvstow *store = kv_open(&options);
  const kvstow_stats s = kv_stats(store);
  KV_CHECK(strcmp(s.tier.engine, "threads") == 0 && s.tier.engine_reason[0] != 0,
           "engine %s, reason '%s'", s.tier.engine, s.tier.engine_reason);
  KV_OK(kvstow_close(store));
  options.engine = KVSTOW_ENGINE_URING;
  KV_RESULT(kvstow_open(&options, &store, NULL, 0), KVSTOW_EUNSUPPORTED);
}

/* EPERM: seccomp, and the sysctl io_uring_disabled. ENOSYS: gVisor, kernels without it. */
static void io_uring_forbidden_means_threads(void **state) {
  (void)state;
  struct forbidden f = {kv_dir("process"), EPERM};
  in_child(without_io_uring, &f);
  f = (struct forbidden){kv_dir("process"), ENOSYS};
  in_child(without_io_uring, &f);
}

static void no_direct_io_means_buffered(void **state) {
  (void)state;
  const char *dir = kv_dir("process");
  atomic_store(&direct_forbidden, true);
  works(&dir);
  kvstow_space *space;
  kvstow *store = open_at(&dir, &space);
  assert_false(kv_stats(store).tier.direct_io);
  docs_are_there(space, 0, 12);
  KV_OK(kvstow_close(store));
  atomic_store(&direct_forbidden, false);
  store = open_at(&dir, &space); /* and with it again */
  docs_are_there(space, 0, 12);
  KV_OK(kvstow_close(store));
}

/* The host has used up all descriptors: no new segment can be made until it gives some back. */
static void without_descriptors(void *arg) {
  const char *const *dir = arg;
  const struct rlimit some = {256, 256};
  KV_CHECK(setrlimit(RLIMIT_NOFILE, &some) == 0, "setrlimit: %s", strerror(errno));
  kvstow_space *space;
  kvstow *store = open_at(dir, &space);
  for (uint64_t i = 0; i < 12; i++) KV_OK(store_doc(space, i));
  KV_OK(kvstow_flush(store));
  int leaked[256], count = 0;
  while (count < 256 && (leaked[count] = open("/dev/null", O_RDONLY)) >= 0) count++;
  KV_CHECK(errno == EMFILE, "open: %s", strerror(errno));
  for (uint64_t i = 12; i < 40; i++) {
    const int rc = store_doc(space, i);
    KV_CHECK(rc == 0 || rc == KVSTOW_EFULL || rc == KVSTOW_ENOMEM, "store: %s", kvstow_errname(rc));
    (void)restore_doc(space, i % 12, KVSTOW_BYPASS_RAM); /* compares what it gets */
  }
  int rc = kvstow_flush(store);
  KV_CHECK(rc == 0 || rc == KVSTOW_EIO || rc == KVSTOW_ENOSPC, "flush: %s", kvstow_errname(rc));
  while (count > 0) close(leaked[--count]);
  size_t kept = 0; /* no new files: old ones were reclaimed for what is new, but not all of them */
  for (uint64_t i = 0; i < 40; i++) kept += restore_doc(space, i, KVSTOW_BYPASS_RAM);
  KV_CHECK(kept >= 12 * CHAIN / 2, "%zu blocks are left", kept);
  KV_OK(store_doc(space, 100));
  char text[KVSTOW_MESSAGE_BYTES];
  rc = kvstow_flush(store);
  kvstow_message(store, text, sizeof text);
  KV_CHECK(rc == 0, "flush: %s: %s", kvstow_errname(rc), text);
  KV_OK(kvstow_close(store));
  store = open_at(dir, &space);
  kept = restore_doc(space, 100, 0);
  for (uint64_t i = 0; i < 40; i++) kept += restore_doc(space, i, KVSTOW_BYPASS_RAM);
  KV_CHECK(kept >= CHAIN, "%zu blocks are left after a restart", kept);
  KV_OK(kvstow_close(store));
}

static void no_descriptors_left_means_a_smaller_cache(void **state) {
  (void)state;
  const char *dir = kv_dir("process");
  in_child(without_descriptors, &dir);
}

/* ---- a directory that can't be written ------------------------------------------------------ */

static void a_directory_that_turned_read_only_is_left_as_it_is(void **state) {
  (void)state;
  if (geteuid() != 0) {
    print_message("SKIPPED: only root can mount\n");
    skip();
  }
  char path[4200];
  snprintf(path, sizeof path, "%s/mount", kv_dir("process"));
  assert_int_equal(mkdir(path, 0755), 0);
  if (mount("none", path, "tmpfs", 0, "size=48m") != 0) {
    print_message("SKIPPED: no mounts here: %s\n", strerror(errno));
    skip();
  }
  const char *dir = path;
  kvstow_space *space;
  kvstow *store = open_at(&dir, &space);
  for (uint64_t i = 0; i < 6; i++) KV_OK(store_doc(space, i));
  KV_OK(kvstow_close(store));
  KV_CHECK(mount("none", path, NULL, MS_REMOUNT | MS_RDONLY, NULL) == 0, "remount: %s",
           strerror(errno));
  kvstow_options options;
  options_of(&options, &dir);
  char why[KVSTOW_MESSAGE_BYTES] = "";
  KV_RESULT(kvstow_open(&options, &store, why, sizeof why), KVSTOW_EACCES);
  KV_CHECK(strstr(why, path) != NULL, "no path in '%s'", why);
  kvstow_tier_options t; /* but it can be looked at */
  kvstow_tier_options_init(&t);
  t.dirs = &dir;
  t.dirs_count = 1;
  t.budget_bytes = 32 * KV_MIB;
  t.read_only = true;
  kvstow_tier *tier;
  KV_CHECK(kvstow_tier_open(&t, &tier, why, sizeof why) == 0, "read only: %s", why);
  KV_OK(kvstow_tier_close(tier));
  KV_CHECK(mount("none", path, NULL, MS_REMOUNT, NULL) == 0, "remount: %s", strerror(errno));
  store = open_at(&dir, &space);
  docs_are_there(space, 0, 6);
  KV_OK(kvstow_close(store));
  assert_int_equal(umount(path), 0);
}

/* ext4 turns read-only by itself when its journal fails; `abort` pretends that. */
static void under_a_running_store(void *arg) {
  const char *place = *(const char *const *)arg;
  char path[4200], command[9000];
  snprintf(path, sizeof path, "%s/mount", place);
  const char *dir = path;
  KV_CHECK(mkdir(path, 0700) == 0, "mkdir: %s", strerror(errno));
  snprintf(command, sizeof command,
           "PATH=$PATH:/usr/sbin:/sbin; cd %s && truncate -s 64M image && mkfs.ext4 -q -F image && "
           "mount -o loop image mount",
           place);
  if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
      system(command) != 0) {
    print_message("SKIPPED: no loop mount of an ext4 here\n");
    _exit(77);
  }
  kvstow_space *space;
  kvstow *store = open_at(&dir, &space);
  for (uint64_t i = 0; i < 6; i++) KV_OK(store_doc(space, i));
  KV_OK(kvstow_flush(store));
  KV_CHECK(mount("none", path, NULL, MS_REMOUNT, "abort") == 0, "remount: %s", strerror(errno));

  char text[KVSTOW_MESSAGE_BYTES];
  bool named = false;
  for (uint64_t i = 0; i < 40; i++) { /* more than RAM holds */
    const int rc = store_doc(space, 6 + i);
    KV_CHECK(rc == 0 || rc == KVSTOW_EFULL, "store: %s", kvstow_errname(rc));
    docs_are_there(space, 0, 6); /* reads go on, from SSD, too */
    if (i % 8 != 7) continue;
    const int flushed = kvstow_flush(store);
    kvstow_message(store, text, sizeof text);
    KV_CHECK(flushed != 0, "a flush has succeeded");
    named = named || strstr(text, strerror(EROFS)) != NULL;
    KV_CHECK(named || flushed == KVSTOW_EOFFLINE || flushed == KVSTOW_EIO, "flush: %s: '%s'",
             kvstow_errname(flushed), text);
  }
  KV_CHECK(kv_stats(store).tier.offline, "not offline");
  kv_doc d;
  kv_doc_init(&d, space, &shape, 1, 0, CHAIN, NULL, 0);
  KV_CHECK(kvstow_forget(&d.prefix, 0, NULL) != 0,
           "forgotten for good, on a disk that can't be written");
  kv_doc_finish(&d);
  KV_CHECK(kvstow_close(store) != 0, "closed as if all was well");
  kvstow_options options;
  options_of(&options, &dir);
  KV_RESULT(kvstow_open(&options, &store, text, sizeof text), KVSTOW_EACCES);
  KV_CHECK(strstr(text, path) != NULL, "no path in '%s'", text);

  KV_CHECK(umount(path) == 0, "umount: %s", strerror(errno));
  snprintf(command, sizeof command, "cd %s && mount -o loop image mount", place);
  KV_CHECK(system(command) == 0, "mounting again");
  store = open_at(&dir, &space);
  docs_are_there(space, 1, 6);
  KV_OK(store_doc(space, 100));
  KV_OK(kvstow_flush(store));
  KV_OK(kvstow_close(store));
}

static void a_file_system_that_turns_read_only_is_read_on(void **state) {
  (void)state;
  if (geteuid() != 0) {
    print_message("SKIPPED: only root can mount\n");
    skip();
  }
  const char *place = kv_dir("process");
  in_child(under_a_running_store, &place);
}

/* ---- close with much in flight -------------------------------------------------------------- */

static void close_waits_for_what_is_in_flight(void **state) {
  (void)state;
  const char *dir = kv_dir("process");
  kvstow_space *space;
  kvstow *store = open_at(&dir, &space);
  for (uint64_t i = 0; i < 30; i++) KV_OK(store_doc(space, i)); /* more than RAM holds */
  const int rounds = KV_ASAN || KV_TSAN ? 6 : 20;
  for (int round = 0; round < rounds; round++) {
    KV_OK(kvstow_close(store));
    store = open_at(&dir, &space); /* all is on SSD */
    kv_doc docs[10];
    for (uint64_t i = 0; i < 10; i++) {
      kv_doc_init(&docs[i], space, &shape, 1, (i * 3 + (uint64_t)round) % 30, CHAIN, NULL, 0);
      KV_OK(kvstow_prefetch(&docs[i].prefix));
      kvstow_lease *lease;
      KV_OK(kvstow_match(&docs[i].prefix, 0, &lease, NULL)); /* promotes, */
      kvstow_lease_release(lease);                           /* and nobody waits for it */
    }
    /* reads under way keep their queue, and the queue the store */
    kvstow_queue *queue;
    kvstow_lease *lease;
    KV_OK(kvstow_queue_create(store, &queue));
    KV_OK(kvstow_match(&docs[0].prefix, KVSTOW_NO_PROMOTE, &lease, NULL));
    const size_t payload = kvstow_space_payload_bytes(space);
    char *buffer = kv_pages(CHAIN * payload);
    void *payloads[CHAIN];
    for (size_t i = 0; i < CHAIN; i++) payloads[i] = buffer + i * payload;
    kvstow_op *op;
    KV_OK(kvstow_read_blocks_async(lease, 0, CHAIN, payloads, NULL, KVSTOW_BYPASS_RAM, 0, queue,
                                   NULL, &op));
    KV_RESULT(kvstow_close(store), KVSTOW_EBUSY);
    if (round % 2) kvstow_cancel(op);
    kvstow_completion done;
    assert_int_equal(kvstow_queue_poll(queue, &done, 1, 60000), 1);
    KV_CHECK(done.result == 0 || (round % 2 && done.result == KVSTOW_ECANCELED), "read: %s",
             kvstow_errname(done.result));
    kvstow_lease_release(lease);
    KV_OK(kvstow_queue_destroy(queue));
    free(buffer);
    KV_OK(store_doc(space, 30 + (uint64_t)round % 4)); /* demotion has work too */
    for (uint64_t i = 0; i < 10; i++) kv_doc_finish(&docs[i]);
  }
  KV_OK(kvstow_close(store));
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(clock_set_to_and_fro_grants_no_second_budget),
    cmocka_unit_test(clock_jumps_hold_nothing_up),
    cmocka_unit_test(a_forked_child_can_not_harm_the_store),
    cmocka_unit_test(no_locked_memory_is_needed),
    cmocka_unit_test(io_uring_forbidden_means_threads),
    cmocka_unit_test(no_direct_io_means_buffered),
    cmocka_unit_test(no_descriptors_left_means_a_smaller_cache),
    cmocka_unit_test(a_directory_that_turned_read_only_is_left_as_it_is),
    cmocka_unit_test(a_file_system_that_turns_read_only_is_read_on),
    cmocka_unit_test(close_waits_for_what_is_in_flight),
};

KV_MAIN("process")
