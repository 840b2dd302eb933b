/* verdict.h - whether ratios measured round by round are above a bound, below it, or whether that can't be told.
 *
 * A median alone tells no regression from noise: of eighty cells that are the same code, the worst is always far below 1.
 * What is judged here is the whole series: Wilcoxon's signed-rank test ("Individual Comparisons by Ranking Methods",
 * 1945), exact, of the logarithms. It asks of neighbours in time only that noise makes either of them slower as often
 * as the other.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_BENCH_VERDICT_H
#define KVSTOW_BENCH_VERDICT_H

#include <stddef.h>

#include "bench/measure.h"

enum verdict { VERDICT_ABOVE, VERDICT_OPEN, VERDICT_BELOW };

/* Of at most MEASURE_ROUNDS_MAX ratios. ABOVE is wrong once in 20 times, where the truth is the bound itself; BELOW once
 * in 1000: one cell that is below condemns all, and there are many. 5 ratios may tell the one, 10 the other. */
enum verdict verdict_of(const double *ratios, size_t count, double bound);

/* The middle of what they say: the median of the means of all pairs (Hodges and Lehmann, 1963), of logarithms. It goes with
 * the test, and scatters less than a median. NaN of none. */
double verdict_middle(const double *ratios, size_t count);

/* Of all cells: one that is below condemns, one that is open leaves it open. */
enum verdict verdict_worse(enum verdict a, enum verdict b);

#endif
