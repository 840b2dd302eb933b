/* tests/fuzz/fuzz_super.c - any bytes as the file `super`: opened only if a copy is sound, else refused by
 * name; never read beyond.
 *
 * Input: a byte of flags (1, 2: the checksum of the first, second copy is made right; 4: the second copy is
 * the first; 8: opened by an owner), two bytes of file length, then the bytes of both copies' first 96 bytes.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include <string.h>

#include "support/memory_disk.h"
#include "tier/format.h"

enum { FRONT = 96 }; /* of a copy: the fields; the rest is reserved */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  if (bytes < 3) return 0;
  const uint8_t flags = data[0];
  const uint32_t length = (uint32_t)(data[1] | data[2] << 8) % (KVSTOW__SUPER_BYTES + 2);
  data += 3;
  bytes -= 3;
  kvstow__super copies[2];
  memset(copies, 0, sizeof copies);
  memcpy(&copies[0], data, bytes < FRONT ? bytes : FRONT);
  if (bytes > FRONT)
    memcpy(&copies[1], data + FRONT, bytes - FRONT < FRONT ? bytes - FRONT : FRONT);
  if (flags & 4) copies[1] = copies[0];
  for (int i = 0; i < 2; i++)
    if (flags & 1 << i) kvstow__super_seal(&copies[i]);

  memory_disk disk = {0};
  int fd;
  FUZZ_CHECK(memory_open(&disk, 0, "super", true, true, false, &fd) == 0);
  memory_write(&disk, fd, copies, length < sizeof copies ? length : sizeof copies, 0);
  bool sound = false;
  for (int i = 0; i < 2; i++)
    sound = sound || (length >= (uint32_t)(i + 1) * KVSTOW_PAGE_BYTES &&
                      kvstow__super_check(&copies[i]) == KVSTOW__GOOD);

  static const char *const dirs[] = {"memory"};
  kvstow_tier_options options;
  kvstow_tier_options_init(&options);
  options.dirs = dirs;
  options.dirs_count = 1;
  options.read_only = (flags & 8) == 0;
  options.budget_bytes = UINT64_C(3) << 30;
  const kvstow__io io = memory_io(&disk);
  kvstow_tier *tier = NULL;
  char why[KVSTOW_MESSAGE_BYTES] = "";
  const int code = kvstow__tier_open_with(&options, &io, &tier, why, sizeof why);
  if (code == 0) {
    FUZZ_CHECK(sound);
    FUZZ_CHECK(kvstow_tier_close(tier) == 0);
  } else {
    FUZZ_CHECK(tier == NULL && strstr(why, "memory/super: ") != NULL);
    FUZZ_CHECK(code == KVSTOW_ENOTSTORE || code == KVSTOW_EVERSION || code == KVSTOW_EGEOMETRY ||
               code == KVSTOW_ECORRUPT || code == KVSTOW_EKEY);
  }
  memory_disk_clear(&disk);
  return 0;
}

void fuzz_seeds(fuzz_give give) {
  struct {
    uint8_t flags, length[2];
    uint8_t fronts[2][FRONT];
  } seed = {.flags = 7, .length = {0x00, 0x20}};
  kvstow__super super = {.magic = KVSTOW__SUPER_MAGIC,
                         .endian_mark = KVSTOW__ENDIAN_MARK,
                         .version = KVSTOW__VERSION,
                         .uuid = "0123456789abcde",
                         .hash_seed = 42,
                         .segment_bytes = KVSTOW__SEGMENT_BYTES_MIN,
                         .header_bytes = KVSTOW_PAGE_BYTES,
                         .dir_count = 1,
                         .created_s = 1700000000};
  memcpy(seed.fronts[0], &super, FRONT);
  memcpy(seed.fronts[1], &super, FRONT);
  give("good", &seed, sizeof seed);
  seed.flags = 9;
  give("one-copy", &seed, sizeof seed);
  super.version = 2;
  memcpy(seed.fronts[0], &super, FRONT);
  seed.flags = 7;
  give("version", &seed, sizeof seed);
  super.version = KVSTOW__VERSION;
  super.cipher = KVSTOW__CIPHER_AES_256_GCM;
  memcpy(seed.fronts[0], &super, FRONT);
  give("encrypted", &seed, sizeof seed);
  super.endian_mark = __builtin_bswap32(KVSTOW__ENDIAN_MARK);
  super.magic = __builtin_bswap64(KVSTOW__SUPER_MAGIC);
  memcpy(seed.fronts[0], &super, FRONT);
  give("endian", &seed, sizeof seed);
}
