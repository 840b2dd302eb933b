/* strange.c - preloaded between libkvstow-llama.so and libllama: a libllama that is not what the library was
 * built for. STRANGE=layout: a default that stands elsewhere; STRANGE=state: a state put back is another one.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <llama.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

static int strange(const char *how) {
  const char *set = getenv("STRANGE");
  return set != NULL && strcmp(set, how) == 0;
}

EXPORT struct llama_context_params llama_context_default_params(void) {
  struct llama_context_params (*real)(void);
  *(void **)&real = dlsym(RTLD_NEXT, "llama_context_default_params");
  struct llama_context_params p = real();
  if (strange("layout")) p.n_ubatch++;
  return p;
}

EXPORT size_t llama_state_seq_set_data_ext(struct llama_context *ctx, const uint8_t *from,
                                           size_t bytes, llama_seq_id seq,
                                           llama_state_seq_flags flags) {
  __typeof__(&llama_state_seq_set_data_ext) real;
  *(void **)&real = dlsym(RTLD_NEXT, "llama_state_seq_set_data_ext");
  uint8_t *copy = malloc(bytes);
  if (copy == NULL) return 0;
  memcpy(copy, from, bytes);
  if (strange("state") && bytes > 0) copy[bytes - 1] ^= 0x10;
  const size_t n = real(ctx, copy, bytes, seq, flags);
  free(copy);
  return n;
}
