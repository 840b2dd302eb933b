/* tests/fuzz/fuzz.h - what a fuzz target is: one function that takes any bytes, and one that gives the first
 * good ones.
 *
 * With clang and KVSTOW_SANITIZE=fuzzer a target is a libFuzzer program (`./dev fuzz`). In other builds
 * replay.c makes it run over the corpus in tests/fuzz/corpus/NAME, as a test; and `fuzz_NAME --seeds DIR`
 * writes the seeds.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TESTS_FUZZ_H
#define KVSTOW_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

typedef void (*fuzz_give)(const char *name, const void *bytes, size_t count);
void fuzz_seeds(fuzz_give give);

#define FUZZ_CHECK(condition)                                                                      \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);                \
      abort();                                                                                     \
    }                                                                                              \
  } while (0)

#endif
