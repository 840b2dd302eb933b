/* Stores the KV of a prompt, loses its RAM, and gets it back by its tokens from SSD.
 * cc minimal.c $(pkg-config --cflags --libs kvstow) */
#include <kvstow/kvstow.h>
#include <stdio.h>
#include <string.h>

enum { LAYERS = 4, K = 256, V = 256, TOKENS = 512, BYTES = LAYERS * (K + V) * TOKENS };

static kvstow *open_store(kvstow_space **space) {
  const char *dir = "kvstow-minimal";
  kvstow_options o;
  kvstow_options_init(&o);
  o.dirs = &dir, o.dirs_count = 1, o.ram_bytes = 64 << 20, o.ssd_bytes = 256 << 20;
  char why[KVSTOW_MESSAGE_BYTES];
  kvstow *store;
  if (kvstow_open(&o, &store, why, sizeof why) != 0) return puts(why), NULL;
  kvstow_space_options s;
  kvstow_space_options_init(&s);
  s.name = s.fingerprint = "my-model f16", s.fingerprint_bytes = 12;
  s.layers = LAYERS, s.k_bytes = K, s.v_bytes = V, s.block_tokens = TOKENS;
  return kvstow_space_open(store, &s, space) == 0 ? store : NULL;
}

int main(void) {
  static kvstow_token tokens[TOKENS] = {1, 2, 3}; /* the prompt */
  static char kv[BYTES] = "computed once", back[BYTES];
  struct iovec out = {kv, BYTES}, in = {back, BYTES};
  kvstow_source source = {&out, 1};
  kvstow_space *space = NULL;
  kvstow *store = open_store(&space);
  kvstow_prefix prompt = KVSTOW_PREFIX(space, tokens, TOKENS);
  if (store == NULL || kvstow_store(&prompt, 0, 1, &source, 0, NULL) != 0) return 1;
  if (kvstow_close(store) != 0) return 1; /* flushes; RAM is gone */

  kvstow_lease *lease;
  if ((store = open_store(&prompt.space)) == NULL) return 1;
  if (kvstow_match(&prompt, 0, &lease, NULL) != 0) return 1;
  if (kvstow_read(lease, &(kvstow_range){0}, &in, 1, 0, 0) != 0) return 1;
  printf("%zu tokens back: %s\n", kvstow_lease_tokens(lease), back);
  kvstow_lease_release(lease);
  return kvstow_close(store) == 0 && memcmp(kv, back, BYTES) == 0 ? 0 : 1;
}
