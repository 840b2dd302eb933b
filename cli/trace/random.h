/* cli/trace/random.h - random numbers for the generators: the same ones on every machine.
 *
 * splitmix64, and distributions made from it. Logarithms and exponentials are ours, because libm's
 * last bit differs between systems.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRACE_RANDOM_H
#define CLI_TRACE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

struct random {
  uint64_t state;
};

struct random random_seeded(uint64_t seed);

/* In (0, 1). */
double random_uniform(struct random *random);

/* 0 to count - 1. */
uint32_t random_below(struct random *random, uint32_t count);

double random_exponential(struct random *random, double mean);
double random_lognormal(struct random *random, double median, double sigma);

/* Zipf's law: the i-th of `count` (from 0) has a share in proportion to 1 / (i + 1)^exponent. Fills
 * in the sums of the shares up to each; the last is 1. */
void random_zipf_sums(double *sums, size_t count, double exponent);
size_t random_zipf(struct random *random, const double *sums, size_t count);

#endif
