/* verdict.c - see verdict.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/verdict.h"

#include <math.h>
#include <stdlib.h>

enum { RANKS_SUM_MAX = MEASURE_ROUNDS_MAX * (MEASURE_ROUNDS_MAX + 1) / 2 };

static const double above_error = 1.0 / 20, below_error = 1.0 / 1000;

static int by_size(const void *a, const void *b) {
  const double x = fabs(*(const double *)a), y = fabs(*(const double *)b);
  return (x > y) - (x < y);
}

/* The chance that ranks 1 to `count`, each taken with one half, come to `sum` or more. */
static double chance(size_t count, size_t sum) {
  double of[RANKS_SUM_MAX + 1] = {1};
  size_t most = 0;
  for (size_t rank = 1; rank <= count; rank++) {
    most += rank;
    for (size_t s = most; s >= rank; s--) of[s] = (of[s] + of[s - rank]) / 2;
    for (size_t s = 0; s < rank; s++) of[s] /= 2;
  }
  double all = 0;
  for (size_t s = sum; s <= most; s++) all += of[s];
  return all;
}

enum verdict verdict_of(const double *ratios, size_t count, double bound) {
  double off[MEASURE_ROUNDS_MAX];
  size_t used = 0, above = 0, below = 0;
  for (size_t i = 0; i < count && i < MEASURE_ROUNDS_MAX; i++) {
    const double distance = log(ratios[i] / bound);
    if (distance != 0) off[used++] = distance;
  }
  qsort(off, used, sizeof *off, by_size);
  for (size_t i = 0; i < used; i++) {
    if (off[i] > 0)
      above += i + 1;
    else
      below += i + 1;
  }
  if (chance(used, above) <= above_error) return VERDICT_ABOVE;
  return chance(used, below) <= below_error ? VERDICT_BELOW : VERDICT_OPEN;
}

double verdict_middle(const double *ratios, size_t count) {
  double means[RANKS_SUM_MAX];
  size_t pairs = 0;
  for (size_t i = 0; i < count && i < MEASURE_ROUNDS_MAX; i++)
    for (size_t j = 0; j <= i; j++) means[pairs++] = (log(ratios[i]) + log(ratios[j])) / 2;
  return exp(measure_median(means, pairs));
}

enum verdict verdict_worse(enum verdict a, enum verdict b) {
  return a > b ? a : b;
}
