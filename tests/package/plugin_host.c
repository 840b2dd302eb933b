/* plugin_host.c - a host that meets libkvstow.so only at run time: dlopen() late, with other
 * libraries with thread-local storage loaded before it (the arguments after the first), used from a
 * thread that outlives dlclose().
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <kvstow/kvstow.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static void *library;
static pthread_barrier_t used, closed;

static void *must(void *pointer) {
  if (!pointer) {
    fprintf(stderr, "%s\n", dlerror());
    exit(1);
  }
  return pointer;
}

/* POSIX's way from an object pointer to a function. */
#define FUNCTION(name)                                                                             \
  __typeof__(&name) name##_fn;                                                                     \
  *(void **)&name##_fn = must(dlsym(library, #name))

static void *use(void *arg) {
  FUNCTION(kvstow_options_init);
  FUNCTION(kvstow_open);
  FUNCTION(kvstow_close);
  kvstow_options options;
  kvstow_options_init_fn(&options);
  options.ram_bytes = 16u << 20;
  kvstow *store;
  if (kvstow_open_fn(&options, &store, NULL, 0) != 0 || kvstow_close_fn(store) != 0) exit(1);
  pthread_barrier_wait(&used);
  pthread_barrier_wait(&closed);
  return arg;
}

int main(int argc, char **argv) {
  for (int i = 2; i < argc; i++) must(dlopen(argv[i], RTLD_NOW));
  library = must(dlopen(argv[1], RTLD_NOW | RTLD_LOCAL));
  pthread_barrier_init(&used, NULL, 2);
  pthread_barrier_init(&closed, NULL, 2);
  pthread_t thread;
  if (pthread_create(&thread, NULL, use, NULL) != 0) return 1;
  pthread_barrier_wait(&used);
  dlclose(library);
  pthread_barrier_wait(&closed);
  pthread_join(thread, NULL);
  return 0;
}
