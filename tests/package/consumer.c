/* consumer.c - a program that has found kvstow through its package files and uses it.
 *
 * It also stands for the embedding host: its malloc must stay its own, whichever that is, and the
 * library must not read the host's MALLOC_CONF nor print.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <kvstow/kvstow.h>
#include <kvstow/policy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef HOST_JEMALLOC
#include <jemalloc/jemalloc.h>
#endif

#define REQUIRE(what)                                                                              \
  do {                                                                                             \
    if (!(what)) {                                                                                 \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what);                           \
      exit(1);                                                                                     \
    }                                                                                              \
  } while (0)

static const char *library_of(const char *symbol) {
  Dl_info info;
  void *address = dlsym(RTLD_DEFAULT, symbol);
  return address && dladdr(address, &info) ? info.dli_fname : "";
}

static void malloc_is_the_hosts(void) {
#ifdef HOST_JEMALLOC
  REQUIRE(strstr(library_of("malloc"), "libjemalloc"));
  const char *version;
  size_t bytes = sizeof version;
  REQUIRE(mallctl("version", &version, &bytes, NULL, 0) == 0);
  void *block = mallocx(100000, 0);
  REQUIRE(block);
  dallocx(block, 0);
#else
  REQUIRE(strstr(library_of("malloc"), "libc.so"));
  REQUIRE(!dlsym(RTLD_DEFAULT, "mallctl"));
  REQUIRE(!dlsym(RTLD_DEFAULT, "mallocx"));
#endif
}

static void restores_what_it_stored(void) {
  enum { LAYERS = 2, ROW = 256, TOKENS = 64, BYTES = LAYERS * 2 * ROW * TOKENS };
  kvstow_options options;
  kvstow_options_init(&options);
  options.ram_bytes = 16u << 20;
  kvstow *store;
  char why[KVSTOW_MESSAGE_BYTES] = "";
  const int opened = kvstow_open(&options, &store, why, sizeof why);
  if (opened != 0) fprintf(stderr, "%s\n", why);
  REQUIRE(opened == 0);

  kvstow_space_options shape;
  kvstow_space_options_init(&shape);
  shape.name = "consumer";
  shape.fingerprint = "consumer";
  shape.fingerprint_bytes = 8;
  shape.layers = LAYERS;
  shape.k_bytes = shape.v_bytes = ROW;
  shape.block_tokens = TOKENS;
  kvstow_space *space;
  REQUIRE(kvstow_space_open(store, &shape, &space) == 0);

  static kvstow_token tokens[TOKENS];
  static char out[BYTES], back[BYTES];
  memset(out, 42, sizeof out);
  const struct iovec from = {out, BYTES}, to = {back, BYTES};
  const kvstow_source source = {&from, 1};
  const kvstow_prefix prefix = KVSTOW_PREFIX(space, tokens, TOKENS);
  REQUIRE(kvstow_store(&prefix, 0, 1, &source, 0, NULL) == 0);
  kvstow_lease *lease;
  REQUIRE(kvstow_match(&prefix, 0, &lease, NULL) == 0);
  const kvstow_range all = {0};
  REQUIRE(kvstow_read(lease, &all, &to, 1, 0, 0) == 0);
  REQUIRE(memcmp(out, back, BYTES) == 0);
  kvstow_lease_release(lease);
  REQUIRE(kvstow_close(store) == 0);
}

int main(void) {
  malloc_is_the_hosts();
  REQUIRE(strcmp(kvstow_version(), KVSTOW_VERSION) == 0);
  const kvstow_policy_ops *ops;
  REQUIRE(kvstow_policy_find("lru", &ops, NULL, 0) == 0);
  restores_what_it_stored();
  malloc_is_the_hosts();
  return 0;
}
