/* fio.h - a second opinion on the limit, where fio is installed: somebody else's loop on the same file.
 *
 * Its buffers are in 4 KiB pages (fio 3.33 knows no other that needs no set-up), which costs direct I/O a
 * good deal; its speed is shown, not compared.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_BENCH_FIO_H
#define KVSTOW_BENCH_FIO_H

#include <stdbool.h>
#include <stdint.h>

bool fio_installed(void);

/* Bytes a second; a negative number if it did not run. `rw` is fio's word; for "write", `path` must not
 * exist, and the time includes making it durable. The others go through the last `bytes` of the file, at
 * random through all of it. */
double fio_bytes_s(const char *path, const char *rw, uint64_t file_bytes, uint64_t bytes,
                   uint32_t block_bytes, unsigned depth, bool direct);

#endif
