/* cli/trace/random.c - see random.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace/random.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF /* gcc -std=c11 has it off */
#endif

struct random random_seeded(uint64_t seed) {
  return (struct random){.state = seed * 0x9e3779b97f4a7c15u};
}

static uint64_t bits(struct random *random) {
  uint64_t x = random->state += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

double random_uniform(struct random *random) {
  return ((double)(bits(random) >> 12) + 0.5) * 0x1p-52;
}

uint32_t random_below(struct random *random, uint32_t count) {
  return (uint32_t)(random_uniform(random) * count);
}

/* ln x for x > 0: x = m 2^e with m in [0.7, 1.41), and atanh's series for ln m. */
static double log_of(double x) {
  int exponent = 0;
  while (x >= 1.4142135623730951) {
    x *= 0.5;
    exponent++;
  }
  while (x < 0.7071067811865476) {
    x *= 2;
    exponent--;
  }
  const double y = (x - 1) / (x + 1);
  double sum = 0, power = y;
  for (int i = 1; i < 40; i += 2) {
    sum += power / i;
    power *= y * y;
  }
  return 2 * sum + exponent * 0.6931471805599453;
}

/* e^x: halved until small, Taylor's series, squared back. */
static double exp_of(double x) {
  int halvings = 0;
  while (x > 0.5 || x < -0.5) {
    x *= 0.5;
    halvings++;
  }
  double sum = 1, term = 1;
  for (int i = 1; i < 16; i++) {
    term *= x / i;
    sum += term;
  }
  while (halvings-- > 0) sum *= sum;
  return sum;
}

double random_exponential(struct random *random, double mean) {
  return -log_of(random_uniform(random)) * mean;
}

/* The sum of twelve uniforms: close enough to normal for lengths, and exact arithmetic. */
static double normal(struct random *random) {
  double sum = -6;
  for (int i = 0; i < 12; i++) sum += random_uniform(random);
  return sum;
}

double random_lognormal(struct random *random, double median, double sigma) {
  return median * exp_of(sigma * normal(random));
}

void random_zipf_sums(double *sums, size_t count, double exponent) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sums[i] = sum += exp_of(-exponent * log_of((double)i + 1));
  for (size_t i = 0; i < count; i++) sums[i] /= sum;
}

size_t random_zipf(struct random *random, const double *sums, size_t count) {
  const double at = random_uniform(random);
  size_t low = 0, high = count - 1;
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if (sums[middle] < at)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}
