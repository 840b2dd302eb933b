/* tests/test_errors.c - what goes wrong gets a code and a sentence, and the process lives.
 *
 * The sentence must name what, where, and (where it means anything) what was expected and found.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include "support/refused.h"

#include <kvstow/policy.h>

static const kv_shape small = {4, 64, 64, 32, 0}; /* 16 KiB a block */

enum { RAM = 8 * 1024 * 1024, SSD = 16 * 1024 * 1024 + 512 * 1024, SEGMENT = 1024 * 1024 };

static void options_for(kvstow_options *options, const char *const *dir) {
  kv_options(options, dir, RAM, SSD, SEGMENT);
}

static void works(const kvstow_options *options) {
  kvstow *store = kv_open(options);
  kvstow_space *space = kv_space(store, "works", &small);
  kv_doc d;
  kv_doc_init(&d, space, &small, 1, 1, 4, NULL, 0);
  KV_OK(kv_doc_store(&d, 0, 4, 0));
  KV_CHECK(kv_doc_restore(&d, 0) == 4, "the store does not work");
  kv_doc_finish(&d);
  KV_OK(kvstow_close(store));
}

/* ---- codes ---------------------------------------------------------------------------------- */

static void every_code_has_a_name_and_a_text(void **state) {
  (void)state;
#define NAME(name, number, text)                                                                   \
  assert_string_equal(kvstow_errname(-(number)), "KVSTOW_" #name);                                 \
  assert_string_equal(kvstow_strerror(KVSTOW_##name), text);
  KVSTOW_ERRORS(NAME)
#undef NAME
  assert_string_equal(kvstow_errname(0), "0");
  static const int unknown[] = {1, 100, -1000, INT32_MIN, INT32_MAX};
  for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
    assert_non_null(kvstow_strerror(unknown[i]));
    assert_non_null(kvstow_errname(unknown[i]));
  }
  assert_non_null(kvstow_strerror(0));
  assert_string_equal(kvstow_version(), KVSTOW_VERSION);
}

/* ---- directories ---------------------------------------------------------------------------- */

static void missing_parent_is_named(void **state) {
  (void)state;
  const char *base = kv_dir("errors");
  char path[4200];
  snprintf(path, sizeof path, "%s/not/there", base);
  const char *dir = path;
  kvstow_options options;
  options_for(&options, &dir);
  refuses(&options, KVSTOW_ENOENT, "not/there");
}

static void missing_directory_is_created(void **state) {
  (void)state;
  const char *base = kv_dir("errors");
  char path[4200];
  snprintf(path, sizeof path, "%s/new", base);
  const char *dir = path;
  kvstow_options options;
  options_for(&options, &dir);
  works(&options);
}

static void file_in_place_of_directory_is_refused(void **state) {
  (void)state;
  const char *base = kv_dir("errors");
  char path[4200];
  snprintf(path, sizeof path, "%s/plain", base);
  int fd = open(path, O_CREAT | O_WRONLY, 0644);
  assert_true(fd >= 0 && write(fd, "mine", 4) == 4);
  close(fd);
  const char *dir = path;
  kvstow_options options;
  options_for(&options, &dir);
  char why[KVSTOW_MESSAGE_BYTES];
  kvstow *store;
  int rc = kvstow_open(&options, &store, why, sizeof why);
  KV_CHECK(rc == KVSTOW_ENOTSTORE || rc == KVSTOW_EINVAL || rc == KVSTOW_ENOENT, "%s: %s",
           kvstow_errname(rc), why);
  KV_CHECK(strstr(why, "plain") != NULL, "the message does not name the file: %s", why);
  struct stat status;
  assert_int_equal(stat(path, &status), 0);
  assert_int_equal(status.st_size, 4);
}

static void foreign_directory_is_left_alone(void **state) {
  (void)state;
  const char *dir = kv_dir("errors");
  char path[4200];
  snprintf(path, sizeof path, "%s/thesis.tex", dir);
  int fd = open(path, O_CREAT | O_WRONLY, 0644);
  assert_true(fd >= 0 && write(fd, "chapter 1", 9) == 9);
  close(fd);
  kvstow_options options;
  options_for(&options, &dir);
  refuses(&options, KVSTOW_ENOTSTORE, dir);
  DIR *d = opendir(dir);
  int entries = 0;
  for (struct dirent *entry; (entry = readdir(d)) != NULL;)
    entries += entry->d_name[0] != '.' || strlen(entry->d_name) > 2;
  closedir(d);
  assert_int_equal(entries, 1); /* nothing was put beside it */
}

static void unwritable_directory_is_refused(void **state) {
  (void)state;
  const char *base = kv_dir("errors");
  char path[4200];
  snprintf(path, sizeof path, "%s/locked", base);
  assert_int_equal(mkdir(path, 0555), 0);
  if (geteuid() == 0) assert_int_equal(chmod(base, 0755), 0);
  pid_t pid = kv_fork();
  if (pid == 0) {
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(77);
    if (access(base, X_OK) != 0) _exit(77); /* a directory above is closed to others */
    const char *dir = path;
    kvstow_options options;
    options_for(&options, &dir);
    refuses(&options, KVSTOW_EACCES, "locked");
    _exit(0);
  }
  const int status = kv_wait(pid);
  if (status == 77) skip();
  assert_int_equal(status, 0);
  chmod(path, 0755);
}

/* ---- owners --------------------------------------------------------------------------------- */

static void second_owner_in_this_process_is_refused(void **state) {
  (void)state;
  const char *dir = kv_dir("errors");
  kvstow_options options;
  options_for(&options, &dir);
  kvstow *store = kv_open(&options);
  refuses(&options, KVSTOW_EBUSY, dir);
  KV_OK(kvstow_close(store));
  works(&options); /* and free again */
}

static void second_owner_in_another_process_is_refused(void **state) {
  (void)state;
  const char *dir = kv_dir("errors");
  int go[2];
  assert_int_equal(pipe(go), 0);
  pid_t pid = kv_fork(); /* before this process has threads */
  if (pid == 0) {
    char byte;
    close(go[1]);
    if (read(go[0], &byte, 1) != 1) _exit(2);
    kvstow_options options;
    options_for(&options, &dir);
    refuses(&options, KVSTOW_EBUSY, dir);
    _exit(0);
  }
  close(go[0]);
  kvstow_options options;
  options_for(&options, &dir);
  kvstow *store = kv_open(&options);
  assert_int_equal(write(go[1], "x", 1), 1);
  assert_int_equal(kv_wait(pid), 0);
  close(go[1]);
  kvstow_space *space = kv_space(store, "owner", &small); /* the first owner noticed nothing */
  kv_doc d;
  kv_doc_init(&d, space, &small, 1, 1, 4, NULL, 0);
  KV_OK(kv_doc_store(&d, 0, 4, 0));
  KV_CHECK(kv_doc_restore(&d, 0) == 4, "the owner lost blocks");
  kv_doc_finish(&d);
  KV_OK(kvstow_close(store));
}

/* ---- formats -------------------------------------------------------------------------------- */

/* Changes bytes of the copies of `super`; with `sum` the copies' checksums are made right again. */
static void patch_super(const char *dir, size_t offset, const void *bytes, size_t length, bool sum,
                        int copies) {
  char path[4200];
  snprintf(path, sizeof path, "%s/super", dir);
  int fd = open(path, O_RDWR);
  KV_CHECK(fd >= 0, "%s: %s", path, strerror(errno));
  unsigned char page[4096];
  for (int copy = 0; copy < copies; copy++) {
    assert_int_equal(pread(fd, page, sizeof page, copy * 4096), sizeof page);
    memcpy(page + offset, bytes, length);
    if (sum) {
      memset(page + 4088, 0, 8);
      const uint64_t checksum = kvstow_checksum(page, sizeof page);
      memcpy(page + 4088, &checksum, 8);
    }
    assert_int_equal(pwrite(fd, page, sizeof page, copy * 4096), sizeof page);
  }
  close(fd);
}

static void other_formats_are_refused_by_name(void **state) {
  (void)state;
  const uint32_t version = 999, endian = 0x04030201, header_bytes = 8192;
  kvstow_options options;
  const char *dir = kv_dir("errors");
  options_for(&options, &dir);
  works(&options);
  patch_super(dir, 12, &version, sizeof version, true, 2);
  refuses(&options, KVSTOW_EVERSION, "999");

  dir = kv_dir("errors");
  options_for(&options, &dir);
  works(&options);
  patch_super(dir, 8, &endian, sizeof endian, true, 2);
  refuses_either(&options, KVSTOW_EVERSION, KVSTOW_EGEOMETRY, dir);

  dir = kv_dir("errors");
  options_for(&options, &dir);
  works(&options);
  patch_super(dir, 44, &header_bytes, sizeof header_bytes, true, 2);
  refuses_either(&options, KVSTOW_EVERSION, KVSTOW_EGEOMETRY, dir);

  dir = kv_dir("errors");
  options_for(&options, &dir);
  works(&options);
  patch_super(dir, 0, "notours!", 8, true, 2);
  refuses_either(&options, KVSTOW_ENOTSTORE, KVSTOW_ECORRUPT, dir);

  dir = kv_dir("errors");
  options_for(&options, &dir);
  works(&options);
  patch_super(dir, 100, "garbage", 7, false, 2);
  refuses_either(&options, KVSTOW_ENOTSTORE, KVSTOW_ECORRUPT, dir);
}

static void one_bad_copy_of_the_super_is_survived(void **state) {
  (void)state;
  const char *dir = kv_dir("errors");
  kvstow_options options;
  options_for(&options, &dir);
  works(&options);
  patch_super(dir, 100, "garbage", 7, false, 1);
  works(&options);
}

static void other_segment_size_is_refused(void **state) {
  (void)state;
  const char *dir = kv_dir("errors");
  kvstow_options options;
  options_for(&options, &dir);
  works(&options);
  options.segment_bytes = 4 * SEGMENT;
  refuses(&options, KVSTOW_EGEOMETRY, dir);
  options.segment_bytes = 0; /* as stored */
  works(&options);
}

/* ---- full disks ----------------------------------------------------------------------------- */

/* Stores far more than the disk holds; whatever happens, what comes back is right, and the newest blocks
 * do come back. */
static void fill_beyond_the_disk(kvstow *store) {
  kvstow_space *space = kv_space(store, "full", &small);
  enum { COUNT = 160, BLOCKS = 16 };
  size_t restored = 0, accepted = 0;
  for (uint64_t doc = 0; doc < COUNT; doc++) {
    kv_doc d;
    kv_doc_init(&d, space, &small, 1, doc, BLOCKS, NULL, 0);
    int rc = kv_doc_store(&d, 0, BLOCKS, 0);
    KV_CHECK(rc == 0 || rc == KVSTOW_EFULL || rc == KVSTOW_ENOMEM, "store: %s", kvstow_errname(rc));
    accepted += rc == 0;
    kv_doc_finish(&d);
    if (doc % 8 == 7) {
      rc = kvstow_flush(store);
      KV_CHECK(rc == 0 || rc == KVSTOW_ENOSPC || rc == KVSTOW_EIO || rc == KVSTOW_EOFFLINE,
               "flush: %s", kvstow_errname(rc));
      if (rc != 0) has_message(store);
    }
  }
  for (uint64_t doc = 0; doc < COUNT; doc++) {
    kv_doc d;
    kv_doc_init(&d, space, &small, 1, doc, BLOCKS, NULL, 0);
    restored += kv_doc_restore(&d, doc % 2 ? KVSTOW_BYPASS_RAM : 0);
    kv_doc_finish(&d);
  }
  KV_CHECK(accepted >= COUNT * 9 / 10, "only %zu of %d stores were taken", accepted, (int)COUNT);
  KV_CHECK(restored >= 4 * BLOCKS, "only %zu blocks came back", restored);
}

/* What a failed test left mounted. */
static char mounted[4200];

static int unmount(void **state) {
  (void)state;
  if (mounted[0] != 0) umount2(mounted, MNT_DETACH);
  mounted[0] = 0;
  return 0;
}

static bool mount_small(const char *path, const char *size) {
  if (mount("none", path, "tmpfs", 0, size) != 0) return false;
  snprintf(mounted, sizeof mounted, "%s", path);
  return true;
}

static void full_file_system_costs_hits_not_answers(void **state) {
  (void)state;
  if (geteuid() != 0) {
    skip();
  }
  char path[4200];
  snprintf(path, sizeof path, "%s/small", kv_dir("errors"));
  assert_int_equal(mkdir(path, 0755), 0);
  if (!mount_small(path, "size=12m")) skip();
  const char *dir = path;
  kvstow_options options;
  kv_options(&options, &dir, RAM, 64 * KV_MIB, 4 * KV_MIB);
  char why[KVSTOW_MESSAGE_BYTES] = "";
  kvstow *store = NULL;
  int rc = kvstow_open(&options, &store, why, sizeof why);
  if (rc == 0) {
    fill_beyond_the_disk(store);
    rc = kvstow_close(store);
    if (rc != 0 && rc != KVSTOW_ENOSPC && rc != KVSTOW_EIO && rc != KVSTOW_EOFFLINE) {
      KV_FAIL("close: %s", kvstow_errname(rc));
    }
    rc = kvstow_open(&options, &store, why, sizeof why); /* and what was written is found again */
    if (rc == 0) {
      const kvstow_stats s = kv_stats(store);
      kvstow_close(store);
      KV_CHECK(s.recovered_blocks > 0, "nothing recovered from a full file system");
      return;
    }
  }
  /* refusing to open for want of space would be an answer too, with its name; then nothing is tested
   * of the rest, and that is a failure: 12 MiB hold two segments */
  KV_FAIL("open: %s: %s", kvstow_errname(rc), why);
}

static size_t blocks_in_ram_alone(kvstow *store) {
  return (size_t)kv_stats(store).dirty_blocks;
}

/* The budget promises 64 MiB, the disk has three: what a flush writes last pushes out what it wrote first. */
static void a_flush_that_the_disk_has_no_room_for_says_so(void **state) {
  (void)state;
  if (geteuid() != 0) skip();
  char path[4200];
  snprintf(path, sizeof path, "%s/smaller", kv_dir("errors"));
  assert_int_equal(mkdir(path, 0755), 0);
  if (!mount_small(path, "size=3600k")) skip();
  const char *dir = path;
  kvstow_options options;
  kv_options(&options, &dir, 16 * KV_MIB, 64 * KV_MIB, KV_MIB);
  kvstow *store = kv_open(&options);
  kvstow_space *space = kv_space(store, "smaller", &small);
  enum { DOCS = 20, BLOCKS = 16 }; /* 5 MiB: RAM writes none of it by itself */
  for (uint64_t doc = 0; doc < DOCS; doc++) {
    kv_doc d;
    kv_doc_init(&d, space, &small, 1, doc, BLOCKS, NULL, 0);
    KV_OK(kv_doc_store(&d, 0, BLOCKS, 0));
    kv_doc_finish(&d);
    if (doc > 3) continue; /* one MiB has room */
    KV_OK(kvstow_flush(store));
    assert_int_equal(blocks_in_ram_alone(store), 0);
  }
  KV_RESULT(kvstow_flush(store), KVSTOW_ENOSPC);
  has_message(store);
  assert_true(blocks_in_ram_alone(store) > 0);
  KV_RESULT(kvstow_close(store), KVSTOW_ENOSPC);
}

/* Where there is room, it is there when the flush returns, whatever the SSD policy thinks of new blocks. */
static void a_flush_pushes_out_others_before_its_own(void **state) {
  (void)state;
  for (size_t i = 0; kvstow_policy_at(i) != NULL; i++) {
    const char *dir = kv_dir("errors");
    kvstow_options options;
    kv_options(&options, &dir, 8 * KV_MIB, 16 * KV_MIB, KV_MIB);
    options.ram_policy = "lru";
    options.ssd_policy = kvstow_policy_at(i)->name;
    kvstow *store = kv_open(&options);
    kvstow_space *space = kv_space(store, "pushes", &small);
    unsigned refused = 0;
    enum { DOCS = 160, BLOCKS = 16, AT_ONCE = 16 }; /* 4 MiB a flush, 40 in all */
    for (uint64_t doc = 0; doc < DOCS; doc++) {
      kv_doc d;
      kv_doc_init(&d, space, &small, 1, doc, BLOCKS, NULL, 0);
      KV_OK(kv_doc_store(&d, 0, BLOCKS, 0));
      kv_doc_finish(&d);
      kv_doc_init(&d, space, &small, 1, doc / 2, BLOCKS, NULL, 0); /* old ones are used */
      if (doc % 3 == 0) (void)kv_doc_restore(&d, KVSTOW_BYPASS_RAM);
      kv_doc_finish(&d);
      if (doc % AT_ONCE == AT_ONCE - 1) refused += kvstow_flush(store) != 0;
    }
    KV_CHECK(refused <= 1, "%s: %u of %d flushes had no room", options.ssd_policy, refused,
             DOCS / AT_ONCE);
    (void)kvstow_close(store);
    kv_dir_drop(dir);
  }
}

static void file_system_without_room_for_a_segment_says_so(void **state) {
  (void)state;
  if (geteuid() != 0) skip();
  char path[4200];
  snprintf(path, sizeof path, "%s/tiny", kv_dir("errors"));
  assert_int_equal(mkdir(path, 0755), 0);
  if (!mount_small(path, "size=64k")) skip();
  const char *dir = path;
  kvstow_options options;
  kv_options(&options, &dir, RAM, 64 * KV_MIB, 4 * KV_MIB);
  char why[KVSTOW_MESSAGE_BYTES] = "";
  kvstow *store = NULL;
  int rc = kvstow_open(&options, &store, why, sizeof why);
  bool right = rc == KVSTOW_ENOSPC;
  if (rc == 0) { /* or it opens, and lives from RAM alone */
    kvstow_space *space = kv_space(store, "tiny", &small);
    kv_doc d;
    kv_doc_init(&d, space, &small, 1, 1, 4, NULL, 0);
    right = kv_doc_store(&d, 0, 4, 0) == 0 && kv_doc_restore(&d, 0) == 4;
    rc = kvstow_flush(store);
    right = right && (rc == KVSTOW_ENOSPC || rc == KVSTOW_EOFFLINE);
    has_message(store);
    right = right && kv_doc_restore(&d, 0) == 4;
    kv_doc_finish(&d);
    kvstow_close(store);
  }
  KV_CHECK(right, "open or flush: %s: %s", kvstow_errname(rc), why);
}

static void file_size_limit_costs_hits_not_answers(void **state) {
  (void)state;
  const char *dir = kv_dir("errors");
  pid_t pid = kv_fork();
  if (pid == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const struct rlimit limit = {2 * KV_MIB, 2 * KV_MIB};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(77);
    kvstow_options options;
    kv_options(&options, &dir, RAM, 64 * KV_MIB, 4 * KV_MIB);
    char why[KVSTOW_MESSAGE_BYTES] = "";
    kvstow *store = NULL;
    int rc = kvstow_open(&options, &store, why, sizeof why);
    if (rc != 0) {
      KV_CHECK(rc == KVSTOW_ENOSPC || rc == KVSTOW_EIO || rc == KVSTOW_EACCES, "open: %s: %s",
               kvstow_errname(rc), why);
      _exit(0);
    }
    fill_beyond_the_disk(store);
    rc = kvstow_close(store);
    KV_CHECK(rc <= 0, "close: %d", rc);
    _exit(0);
  }
  const int status = kv_wait(pid);
  if (status == 77) skip();
  assert_int_equal(status, 0);
}

/* ---- budgets and geometry ------------------------------------------------------------------- */

static void budgets_too_small_are_refused(void **state) {
  (void)state;
  const char *dir = kv_dir("errors");
  kvstow_options options;
  options_for(&options, &dir);
  options.ram_bytes = 4 * KV_MIB;
  refuses(&options, KVSTOW_EBUDGET, NULL);
  options.ram_bytes = 0;
  refuses(&options, KVSTOW_EBUDGET, NULL);
  dir = kv_dir("errors");
  options_for(&options, &dir);
  options.ssd_bytes = 512 * KV_KIB;
  refuses(&options, KVSTOW_EBUDGET, NULL);
  dir = kv_dir("errors");
  options_for(&options, &dir);
  options.segment_bytes = 64 * KV_MIB;
  refuses(&options, KVSTOW_EBUDGET, NULL);
  options_for(&options, NULL);
  options.ram_bytes = 1;
  refuses(&options, KVSTOW_EBUDGET, NULL);
  options_for(&options, &dir); /* and the attempts left nothing in the way */
  works(&options);
}

static void no_budget_for_ssd_means_ram_only(void **state) {
  (void)state;
  const char *dir = kv_dir("errors");
  kvstow_options options;
  kv_options(&options, NULL, RAM, 0, 0);
  works(&options);
  options_for(&options, &dir);
  options.ssd_bytes = 0;
  works(&options);
}

static void blocks_too_big_are_refused(void **state) {
  (void)state;
  const char *dir = kv_dir("errors");
  kvstow_options options;
  options_for(&options, &dir);
  kvstow *store = kv_open(&options);
  kvstow_space *space;
  kvstow_space_options so;
  kv_space_options(&so, "too big", &small); /* larger than a segment, and than an eighth of RAM */
  so.layers = 16;
  so.k_bytes = so.v_bytes = 1024;
  so.block_tokens = 256;
  KV_RESULT(kvstow_space_open(store, &so, &space), KVSTOW_ETOOBIG);
  has_message(store);
  so.layers = 5; /* 2.5 MiB */
  KV_RESULT(kvstow_space_open(store, &so, &space), KVSTOW_ETOOBIG);
  so.layers = 1; /* the header page has no room for so many tokens */
  so.k_bytes = 4;
  so.v_bytes = 4;
  so.block_tokens = 4096;
  KV_RESULT(kvstow_space_open(store, &so, &space), KVSTOW_ETOOBIG);
  has_message(store);
  so.layers = 2000; /* nor for so many layers */
  so.block_tokens = 1;
  KV_RESULT(kvstow_space_open(store, &so, &space), KVSTOW_ETOOBIG);
  kv_space_options(&so, "too big, opaque", &small);
  so.layers = so.k_bytes = so.v_bytes = 0;
  so.opaque_max_bytes = 4 * KV_MIB;
  KV_RESULT(kvstow_space_open(store, &so, &space), KVSTOW_ETOOBIG);
  KV_OK(kvstow_close(store));
}

/* Products that overflow 32 bits must not come out small. */
static void huge_geometries_are_refused(void **state) {
  (void)state;
  static const struct {
    uint32_t layers, k, v, tokens;
  } shapes[] = {{1, 1u << 31, 1u << 31, 256}, {1, 1u << 24, 0, 256},
                {65536, 65536, 65536, 1},     {4, UINT32_MAX, UINT32_MAX, 1},
                {4, UINT32_MAX, 1, 32},       {1, 64, 64, UINT32_MAX},
                {UINT32_MAX, 1, 1, 1},        {1, 1u << 20, 1u << 20, 1u << 12}};
  kvstow_options options;
  kv_options(&options, NULL, RAM, 0, 0);
  kvstow *store = kv_open(&options);
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    kvstow_space_options so;
    kv_space_options(&so, "huge", &small);
    so.layers = shapes[i].layers;
    so.k_bytes = shapes[i].k;
    so.v_bytes = shapes[i].v;
    so.block_tokens = shapes[i].tokens;
    kvstow_space *space;
    int rc = kvstow_space_open(store, &so, &space);
    KV_CHECK(rc == KVSTOW_ETOOBIG || rc == KVSTOW_EINVAL, "shape %zu: %s", i, kvstow_errname(rc));
    has_message(store);
  }
  KV_OK(kvstow_close(store));
}

static void other_layout_is_refused_or_replaced(void **state) {
  (void)state;
  static const kv_shape other = {2, 64, 64, 32, 0};
  const char *dir = kv_dir("errors");
  kvstow_options options;
  options_for(&options, &dir);
  kvstow *store = kv_open(&options);
  kvstow_space *space = kv_space(store, "model", &small);
  kv_doc d;
  kv_doc_init(&d, space, &small, 1, 1, 6, NULL, 0);
  KV_OK(kv_doc_store(&d, 0, 6, 0));
  kvstow_space_options so;
  kv_space_options(&so, "model", &small);
  so.layers = other.layers;
  kvstow_space *wrong = NULL;
  KV_RESULT(kvstow_space_open(store, &so, &wrong), KVSTOW_EGEOMETRY); /* while it is open */
  has_message(store);
  kv_doc_finish(&d);
  KV_OK(kvstow_close(store));

  store = kv_open(&options); /* and when only the disk knows */
  KV_RESULT(kvstow_space_open(store, &so, &wrong), KVSTOW_EGEOMETRY);
  has_message(store);
  kvstow_space_options wider;
  kv_space_options(&wider, "model", &small);
  wider.k_bytes *= 2; /* as many layers and tokens */
  KV_RESULT(kvstow_space_open(store, &wider, &wrong), KVSTOW_EGEOMETRY);
  space = kv_space(store, "model", &small); /* the right one opens still, with its blocks */
  kv_doc_init(&d, space, &small, 1, 1, 6, NULL, 0);
  KV_CHECK(kv_doc_restore(&d, 0) == 6, "the refusal cost blocks");
  kv_doc_finish(&d);
  KV_OK(kvstow_close(store));

  store = kv_open(&options);
  so.replace_layout = true;
  KV_OK(kvstow_space_open(store, &so, &space));
  kv_doc_init(&d, space, &other, 1, 1, 6, NULL, 0);
  KV_CHECK(kv_doc_held(&d) == 0, "blocks of another layout are held");
  KV_OK(kv_doc_store(&d, 0, 6, 0));
  KV_CHECK(kv_doc_restore(&d, 0) == 6, "the new layout does not work");
  kv_doc_finish(&d);
  KV_OK(kvstow_close(store));

  store = kv_open(&options); /* and for good */
  kv_space_options(&so, "model", &small);
  KV_RESULT(kvstow_space_open(store, &so, &wrong), KVSTOW_EGEOMETRY);
  space = kv_space(store, "model", &other);
  kv_doc_init(&d, space, &other, 1, 1, 6, NULL, 0);
  KV_CHECK(kv_doc_restore(&d, 0) == 6, "the new layout was lost");
  kv_doc_finish(&d);
  KV_OK(kvstow_close(store));
}

static void unknown_policies_are_refused_by_name(void **state) {
  (void)state;
  const char *dir = kv_dir("errors");
  kvstow_options options;
  options_for(&options, &dir);
  options.ram_policy = "no-such-policy";
  refuses(&options, KVSTOW_EPOLICY, "no-such-policy");
  options_for(&options, &dir);
  options.ssd_policy = "other-policy:a=1";
  refuses(&options, KVSTOW_EPOLICY, "other-policy");
  options_for(&options, &dir);
  options.ram_policy = "./no-such-file.so";
  refuses(&options, KVSTOW_EPOLICY, "no-such-file.so");
  options_for(&options, &dir);
  options.ram_policy = "lru:bogus=1";
  refuses_either(&options, KVSTOW_EPOLICY, KVSTOW_EINVAL, "bogus");
  options_for(&options, &dir);
  works(&options);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(every_code_has_a_name_and_a_text),
    cmocka_unit_test(missing_parent_is_named),
    cmocka_unit_test(missing_directory_is_created),
    cmocka_unit_test(file_in_place_of_directory_is_refused),
    cmocka_unit_test(foreign_directory_is_left_alone),
    cmocka_unit_test(unwritable_directory_is_refused),
    cmocka_unit_test(second_owner_in_this_process_is_refused),
    cmocka_unit_test(second_owner_in_another_process_is_refused),
    cmocka_unit_test(other_formats_are_refused_by_name),
    cmocka_unit_test(one_bad_copy_of_the_super_is_survived),
    cmocka_unit_test(other_segment_size_is_refused),
    cmocka_unit_test_teardown(full_file_system_costs_hits_not_answers, unmount),
    cmocka_unit_test_teardown(a_flush_that_the_disk_has_no_room_for_says_so, unmount),
    cmocka_unit_test(a_flush_pushes_out_others_before_its_own),
    cmocka_unit_test_teardown(file_system_without_room_for_a_segment_says_so, unmount),
    cmocka_unit_test(file_size_limit_costs_hits_not_answers),
    cmocka_unit_test(budgets_too_small_are_refused),
    cmocka_unit_test(no_budget_for_ssd_means_ram_only),
    cmocka_unit_test(blocks_too_big_are_refused),
    cmocka_unit_test(huge_geometries_are_refused),
    cmocka_unit_test(other_layout_is_refused_or_replaced),
    cmocka_unit_test(unknown_policies_are_refused_by_name),
};

KV_MAIN("errors")
