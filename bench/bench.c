/* bench.c - the table of benchmarks.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/bench.h"

#include <stddef.h>

const bench bench_table[] = {
    {NULL, NULL, NULL},
};
