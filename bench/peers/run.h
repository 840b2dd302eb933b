/* run.h - what the runner's two halves share: how fast, and what of a flipped byte.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_BENCH_PEERS_RUN_H
#define KVSTOW_BENCH_PEERS_RUN_H

#include "bench/frame.h"
#include "bench/peers/peer.h"

/* Up to NULL; ours first. */
void peers_speed(const struct bench_args *args, const struct peer *const *peers,
                 struct bench_report *report);
extern const struct bench_column peers_speed_columns[];

void peers_flips(const struct bench_args *args, const struct peer *const *peers,
                 struct bench_report *report);
extern const struct bench_column peers_flips_columns[];

#endif
