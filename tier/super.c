/* tier/super.c - see super.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tier/super.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUPER "super"
#define SUPER_NEW "super.new"
#define LOCK "lock"
#define DIR_BLOCK_BYTES 4096u
#define DIR_ENTRIES_PER_BLOCK 96u /* ext4: 24 bytes a name, half-full blocks */
#define FILE_EXTENT_BYTES 4096u   /* the block in which a fragmented file keeps its extents */

uint64_t kvstow__overhead_bytes(uint32_t dirs_count, uint32_t slots) {
  const uint64_t per_dir = KVSTOW__SUPER_BYTES + KVSTOW_PAGE_BYTES + DIR_BLOCK_BYTES;
  const uint64_t names = (uint64_t)(slots / DIR_ENTRIES_PER_BLOCK) * DIR_BLOCK_BYTES;
  return dirs_count * per_dir + names + (uint64_t)slots * FILE_EXTENT_BYTES;
}

bool kvstow__segment_number(const char *name, uint32_t *segment) {
  unsigned number = 0;
  int used = 0;
  char again[KVSTOW__NAME_BYTES];
  if (sscanf(name, "seg-%9u.kvs%n", &number, &used) != 1 || used == 0 || name[used] != 0)
    return false;
  if (number > 99999999u) return false;
  kvstow__segment_name(again, number);
  *segment = number;
  return strcmp(name, again) == 0;
}

/* ---- what a directory holds ----------------------------------------------------------------- */

typedef struct contents {
  bool super;
  bool segments;
  bool foreign;
  char name[64]; /* of the first foreign file */
} contents;

static bool note(void *arg, const char *name) {
  contents *c = arg;
  uint32_t segment;
  if (strcmp(name, SUPER) == 0) {
    c->super = true;
  } else if (kvstow__segment_number(name, &segment)) {
    c->segments = true;
  } else if (strcmp(name, LOCK) != 0 && strcmp(name, SUPER_NEW) != 0 &&
             strcmp(name, "lost+found") != 0 && !c->foreign) {
    c->foreign = true;
    snprintf(c->name, sizeof c->name, "%.60s", name);
  }
  return true;
}

static int look(kvstow_tier *tier, const kvstow__dir *dir, contents *c) {
  memset(c, 0, sizeof *c);
  const int error = tier->io.files->dir_list(tier->io.env, dir->fd, note, c);
  if (!error) return 0;
  return kvstow__fail(tier, kvstow__code_of_errno(error), "%s: listing: %s", dir->path,
                      strerror(error));
}

/* ---- reading -------------------------------------------------------------------------------- */

static int explain(kvstow_tier *tier, const kvstow__dir *dir, const kvstow__super copies[2]) {
  /* The first copy that is recognisable speaks for both. */
  const kvstow__super *s = copies[0].magic == KVSTOW__SUPER_MAGIC ? &copies[0] : &copies[1];
  if (s->magic == __builtin_bswap64(KVSTOW__SUPER_MAGIC) ||
      s->endian_mark == __builtin_bswap32(KVSTOW__ENDIAN_MARK))
    return kvstow__fail(
        tier, KVSTOW_EVERSION,
        "%s/super: offset 8: written on a machine of the other endianness (expected "
        "mark %08x, found %08x)",
        dir->path, KVSTOW__ENDIAN_MARK, s->endian_mark);
  if (s->magic != KVSTOW__SUPER_MAGIC)
    return kvstow__fail(tier, KVSTOW_ENOTSTORE,
                        "%s/super: offset 0: expected magic %016" PRIx64 ", found %016" PRIx64,
                        dir->path, KVSTOW__SUPER_MAGIC, copies[0].magic);
  if (s->version != KVSTOW__VERSION)
    return kvstow__fail(tier, KVSTOW_EVERSION,
                        "%s/super: offset 12: expected format version %u, found %u", dir->path,
                        KVSTOW__VERSION, s->version);
  const kvstow__verdict verdict = kvstow__super_check(s);
  return kvstow__fail(tier, verdict == KVSTOW__BAD_SHAPE ? KVSTOW_EGEOMETRY : KVSTOW_ECORRUPT,
                      "%s/super: both copies unusable: %s", dir->path,
                      kvstow__verdict_text(verdict));
}

/* Best effort: one good copy is enough to go on with. */
static void repair(kvstow_tier *tier, const kvstow__dir *dir, const kvstow__super *good, int copy) {
  const kvstow__file_ops *files = tier->io.files;
  const uint64_t offset = (uint64_t)copy * KVSTOW_PAGE_BYTES;
  int fd;
  int error = files->open(tier->io.env, dir->fd, SUPER, false, true, false, &fd);
  if (!error) {
    error = files->write(tier->io.env, fd, good, sizeof *good, offset);
    if (!error) error = files->sync(tier->io.env, fd);
    files->close(tier->io.env, fd);
  }
  if (error)
    kvstow__fail(tier, 0, "%s/super: repairing the copy at %" PRIu64 ": %s", dir->path, offset,
                 strerror(error));
}

#define NO_COPY (-1)

/* *bad: the copy that is not good, or NO_COPY. */
static int read_super(kvstow_tier *tier, const kvstow__dir *dir, kvstow__super *super, int *bad) {
  kvstow__super copies[2];
  size_t got = 0;
  int fd;
  memset(copies, 0, sizeof copies);
  int error =
      tier->io.files->open(tier->io.env, dir->fd, SUPER, false, !tier->read_only, false, &fd);
  if (error) return kvstow__fail_open(tier, dir, SUPER, error);
  error = tier->io.files->read(tier->io.env, fd, copies, sizeof copies, 0, &got);
  if (error == EIO) { /* one of the two pages may still be readable */
    error = tier->io.files->read(tier->io.env, fd, &copies[0], sizeof copies[0], 0, &got);
    const int second = tier->io.files->read(tier->io.env, fd, &copies[1], sizeof copies[1],
                                            sizeof copies[0], &got);
    if (!second) error = 0;
  }
  tier->io.files->close(tier->io.env, fd);
  if (error)
    return kvstow__fail(tier, kvstow__code_of_errno(error), "%s/super: %s", dir->path,
                        strerror(error));
  const bool good[2] = {kvstow__super_check(&copies[0]) == KVSTOW__GOOD,
                        kvstow__super_check(&copies[1]) == KVSTOW__GOOD};
  if (!good[0] && !good[1]) return explain(tier, dir, copies);
  *super = copies[good[0] ? 0 : 1];
  *bad = good[0] && good[1] ? NO_COPY : good[0] ? 1 : 0;
  /* They are written once, alike. Who took the wrong one would find no records, and overwrite them. */
  if (*bad == NO_COPY && memcmp(&copies[0], &copies[1], sizeof copies[0]) != 0)
    return kvstow__fail(tier, KVSTOW_ECORRUPT, "%s/super: two good copies that differ", dir->path);
  return 0;
}

static int compare(kvstow_tier *tier, uint32_t index, const kvstow__super *super) {
  const kvstow__dir *dir = &tier->dirs[index];
  if (super->dir_count != tier->dirs_count || super->dir_index != index)
    return kvstow__fail(tier, KVSTOW_EGEOMETRY,
                        "%s/super: offset 48: expected directory %u of %u, found %u of %u",
                        dir->path, index, tier->dirs_count, super->dir_index, super->dir_count);
  if (tier->segment_bytes != 0 && super->segment_bytes != tier->segment_bytes)
    return kvstow__fail(tier, KVSTOW_EGEOMETRY,
                        "%s/super: offset 40: expected segments of %u bytes, found %u", dir->path,
                        tier->segment_bytes, super->segment_bytes);
  if (index > 0 && memcmp(super->uuid, tier->uuid, sizeof tier->uuid) != 0)
    return kvstow__fail(tier, KVSTOW_EGEOMETRY,
                        "%s/super: offset 16: belongs to another store than %s", dir->path,
                        tier->dirs[0].path);
  return 0;
}

/* The caller's key, or its absence, against the super; makes the cipher. */
static int check_key(kvstow_tier *tier, const kvstow__dir *dir, const kvstow__super *super,
                     const uint8_t *key) {
  const bool encrypted = super->cipher != KVSTOW__CIPHER_NONE;
  if (super->cipher > KVSTOW__CIPHER_AES_256_GCM)
    return kvstow__fail(tier, KVSTOW_EVERSION, "%s/super: offset 64: unknown cipher %u", dir->path,
                        super->cipher);
  if (encrypted != (key != NULL))
    return kvstow__fail(tier, KVSTOW_EKEY, "%s/super: offset 64: the store is %s", dir->path,
                        key ? "not encrypted, but a key was given" : "encrypted: it needs its key");
  if (!encrypted) return 0;
  uint8_t mark[KVSTOW__MARK_BYTES];
  int code = tier->cipher ? 0 : kvstow__cipher_new(key, super->uuid, &tier->cipher);
  if (!code) code = kvstow__cipher_mark(tier->cipher, super, mark);
  if (!code && memcmp(mark, super->cipher_mark, sizeof mark) != 0)
    code = kvstow__fail(tier, KVSTOW_EKEY, "%s/super: offset 72: encrypted with another key",
                        dir->path);
  return code;
}

static int read_supers(kvstow_tier *tier, const uint8_t *key) {
  for (uint32_t i = 0; i < tier->dirs_count; i++) {
    kvstow__super super = {0};
    int bad = NO_COPY;
    int code = read_super(tier, &tier->dirs[i], &super, &bad);
    if (!code) code = compare(tier, i, &super);
    if (!code) code = check_key(tier, &tier->dirs[i], &super, key);
    if (code) return code;
    if (bad != NO_COPY && !tier->read_only) repair(tier, &tier->dirs[i], &super, bad);
    if (i > 0) continue;
    tier->segment_bytes = super.segment_bytes;
    tier->hash_seed = super.hash_seed;
    memcpy(tier->uuid, super.uuid, sizeof tier->uuid);
  }
  return 0;
}

/* ---- creating ------------------------------------------------------------------------------- */

static int write_super(kvstow_tier *tier, uint32_t index, uint64_t now_s) {
  const kvstow__file_ops *files = tier->io.files;
  void *env = tier->io.env;
  const kvstow__dir *dir = &tier->dirs[index];
  kvstow__super super = {
      .magic = KVSTOW__SUPER_MAGIC,
      .endian_mark = KVSTOW__ENDIAN_MARK,
      .version = KVSTOW__VERSION,
      .hash_seed = tier->hash_seed,
      .segment_bytes = tier->segment_bytes,
      .header_bytes = KVSTOW_PAGE_BYTES,
      .dir_index = index,
      .dir_count = tier->dirs_count,
      .created_s = now_s,
  };
  memcpy(super.uuid, tier->uuid, sizeof super.uuid);
  if (tier->cipher) {
    super.cipher = KVSTOW__CIPHER_AES_256_GCM;
    const int code = kvstow__cipher_mark(tier->cipher, &super, super.cipher_mark);
    if (code) return code;
  }
  kvstow__super_seal(&super);
  int fd;
  int error = files->open(env, dir->fd, SUPER_NEW, true, true, false, &fd);
  if (error) return kvstow__fail_open(tier, dir, SUPER_NEW, error);
  error = files->write(env, fd, &super, sizeof super, 0);
  if (!error) error = files->write(env, fd, &super, sizeof super, sizeof super);
  if (!error) error = files->sync(env, fd);
  files->close(env, fd);
  if (!error) error = files->rename(env, dir->fd, SUPER_NEW, SUPER);
  if (!error) error = files->dir_sync(env, dir->fd);
  if (!error) return 0;
  return kvstow__fail(tier, kvstow__code_of_errno(error), "%s/super: creating: %s", dir->path,
                      strerror(error));
}

static int create_supers(kvstow_tier *tier, const uint8_t *key) {
  if (tier->segment_bytes == 0) tier->segment_bytes = 64u << 20;
  int error = tier->io.files->random(tier->io.env, tier->uuid, sizeof tier->uuid);
  if (!error)
    error = tier->io.files->random(tier->io.env, &tier->hash_seed, sizeof tier->hash_seed);
  if (error) return kvstow__fail(tier, KVSTOW_EIO, "no random numbers: %s", strerror(error));
  if (key) {
    const int code = kvstow__cipher_new(key, tier->uuid, &tier->cipher);
    if (code) return code;
  }
  const uint64_t now_s = kvstow__now_s(tier);
  for (uint32_t i = tier->dirs_count; i-- > 0;) {
    const int code = write_super(tier, i, now_s);
    if (code) return code;
  }
  return 0;
}

/* ---- directories ---------------------------------------------------------------------------- */

/* Blank: nothing in it, or (`partial`) the super of a creation that directory 0 never confirmed. */
static int classify(kvstow_tier *tier, const kvstow__dir *dir, contents *c) {
  const int code = look(tier, dir, c);
  if (code || c->super) return code;
  if (c->foreign)
    return kvstow__fail(tier, KVSTOW_ENOTSTORE, "%s: not a store: holds \"%s\" and no super",
                        dir->path, c->name);
  if (c->segments)
    return kvstow__fail(tier, KVSTOW_ENOTSTORE, "%s: holds segments but no super", dir->path);
  return 0;
}

static int enter_dir(kvstow_tier *tier, kvstow__dir *dir, contents *c) {
  int error = tier->io.files->dir_open(tier->io.env, dir->path, !tier->read_only, &dir->fd);
  if (error) {
    dir->fd = -1;
    return kvstow__fail_open(tier, dir, NULL, error);
  }
  int code =
      classify(tier, dir, c); /* before the lock file is made: foreign places stay as they are */
  if (code) return code;
  if (tier->read_only && !c->super)
    return kvstow__fail(tier, KVSTOW_ENOTSTORE, "%s: not a store: no super", dir->path);
  error = tier->io.files->lock(tier->io.env, dir->fd, LOCK, tier->read_only, &dir->lock_fd);
  if (error) dir->lock_fd = -1;
  if (error == ENOENT && tier->read_only) return 0; /* a copy without its lock: nobody owns it */
  if (error == EWOULDBLOCK)
    return kvstow__fail(tier, KVSTOW_EBUSY,
                        "%s/lock: the store is open already, here or in another process",
                        dir->path);
  if (error) return kvstow__fail_open(tier, dir, LOCK, error);
  return classify(tier, dir, c); /* again: the last owner may have created the store meanwhile */
}

static int refuse_mixture(kvstow_tier *tier, uint32_t without) {
  return kvstow__fail(
      tier, KVSTOW_EGEOMETRY,
      "%s: no super, but other directories given have one: wrong number or order of "
      "directories",
      tier->dirs[without].path);
}

int kvstow__super_open(kvstow_tier *tier, const uint8_t *key) {
  contents c[KVSTOW__DIRS_MAX] = {0};
  bool any = false, segments = false;
  for (uint32_t i = 0; i < tier->dirs_count; i++) {
    const int code = enter_dir(tier, &tier->dirs[i], &c[i]);
    if (code) return code;
    any = any || c[i].super;
    segments = segments || c[i].segments;
  }
  /* Directory 0 is created last: without its super there is no store yet, if nothing was stored. */
  const bool unconfirmed = any && !c[0].super && !segments;
  if (!any || (unconfirmed && !tier->read_only)) {
    for (uint32_t i = 1; i < tier->dirs_count && unconfirmed; i++) {
      kvstow__super super = {0};
      int bad;
      if (!c[i].super) continue;
      int code = read_super(tier, &tier->dirs[i], &super, &bad);
      if (!code && (super.dir_index != i || super.dir_count != tier->dirs_count))
        code = refuse_mixture(tier, 0);
      if (code) return code;
    }
    return create_supers(tier, key);
  }
  for (uint32_t i = 0; i < tier->dirs_count; i++)
    if (!c[i].super) return refuse_mixture(tier, i);
  return read_supers(tier, key);
}

void kvstow__super_close(kvstow_tier *tier) {
  for (uint32_t i = 0; i < tier->dirs_count; i++) {
    kvstow__dir *dir = &tier->dirs[i];
    if (dir->lock_fd >= 0) tier->io.files->unlock(tier->io.env, dir->lock_fd);
    if (dir->fd >= 0) tier->io.files->close(tier->io.env, dir->fd);
    free(dir->path);
    dir->lock_fd = dir->fd = -1;
    dir->path = NULL;
  }
}
