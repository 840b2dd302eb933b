/* kvstow/error.h - every result code of kvstow.
 *
 * Functions return 0 (or a count) on success and a negative KVSTOW_E... on failure. The codes are
 * part of the ABI: numbers are never reused. kvstow_strerror() explains a code; the handle's own
 * message (kvstow_message, kvstow_tier_message) names the file, the offset and the cause.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_ERROR_H
#define KVSTOW_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

/* X(name, number, text) */
#define KVSTOW_ERRORS(X)                                                                           \
  X(EINVAL, 1, "invalid argument")                                                                 \
  X(ENOMEM, 2, "out of memory")                                                                    \
  X(EIO, 3, "input/output error")                                                                  \
  X(ENOSPC, 4, "no space left: disk full or SSD budget used up")                                   \
  X(ENOENT, 5, "no such directory or file")                                                        \
  X(EACCES, 6, "permission denied or not writable")                                                \
  X(EBUSY, 7, "store is open already, here or in another process; or object is in use")            \
  X(EVERSION, 8, "store was written by another format version")                                    \
  X(EGEOMETRY, 9, "layout differs from the one stored")                                            \
  X(EBUDGET, 10, "budget too small")                                                               \
  X(ETOOBIG, 11, "block does not fit")                                                             \
  X(ECORRUPT, 12, "checksum or identity check failed")                                             \
  X(EMISS, 13, "not held")                                                                         \
  X(EFULL, 14, "RAM is full of blocks in use")                                                     \
  X(ETIMEDOUT, 15, "deadline passed")                                                              \
  X(ECANCELED, 16, "cancelled")                                                                    \
  X(EUNSUPPORTED, 17, "not supported by this kernel, file system or build")                        \
  X(EAGAIN, 18, "would have to wait")                                                              \
  X(ENOTSTORE, 19, "not a kvstow store")                                                           \
  X(EPOLICY, 20, "unknown or incompatible eviction policy")                                        \
  X(EOFFLINE, 21, "SSD tier is offline after repeated errors")                                     \
  X(ESTATE, 22, "call out of order")                                                               \
  X(EEXIST, 23, "exists already")                                                                  \
  X(EKEY, 24, "encryption key missing, wrong, or not asked for")

enum {
#define KVSTOW_X(name, number, text) KVSTOW_##name = -(number),
  KVSTOW_ERRORS(KVSTOW_X)
#undef KVSTOW_X
};

#if defined(__GNUC__)
#define KVSTOW_API __attribute__((visibility("default")))
#else
#define KVSTOW_API
#endif

/* A short English text for a code; never NULL; static storage; any thread. */
KVSTOW_API const char *kvstow_strerror(int code);

/* The name of a code, "KVSTOW_EINVAL"; "0" for success; static storage. */
KVSTOW_API const char *kvstow_errname(int code);

#ifdef __cplusplus
}
#endif
#endif
