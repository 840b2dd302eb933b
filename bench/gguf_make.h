/* gguf_make.h - makes well-formed GGUF files of any size, for tests and where no model is at hand.
 *
 * A llama's tensors, layer after layer, in the mix of types that Q4_K_M has; as many layers as fit, and
 * the last tensor fills the file up to the byte. Weights are pseudo-random.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_BENCH_GGUF_MAKE_H
#define KVSTOW_BENCH_GGUF_MAKE_H

#include <stdint.h>

/* Writes `path` anew. 0, or a negative errno; -EINVAL: `bytes` is less than *least, which is set then. */
int gguf_make(const char *path, uint64_t bytes, uint64_t seed, uint64_t *least);

#endif
