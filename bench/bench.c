/* bench.c - the table of benchmarks.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/bench.h"

#include <stddef.h>

const bench bench_table[] = {
    {"store", "how fast KV is taken in, beside memcpy and the append limit", bench_store_run},
    {"match", "finding a long prefix in a large index", bench_match_run},
    {"restore", "how fast a prefix comes back, beside a bare io_uring loop", bench_restore_run},
    {"stream", "decoding over a context longer than RAM, layer by layer", bench_stream_run},
    {"tier", "the SSD tier's reads and writes, beside a bare io_uring loop", bench_tier_run},
    {"overhead", "what metrics, tracking and detection cost", bench_overhead_run},
    {"gguf", "a model file through the tier, beside mmap and pread, cold", bench_gguf_run},
    {"sim", "the simulator's speed, beside bare hash look-ups", bench_sim_run},
    {NULL, NULL, NULL},
};
