/* addon_host.c - loads driver.c as a module, as node loads an addon: libllama comes with it, and is in no
 * global scope.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv) {
  void *module = dlopen(DRIVER_MODULE, RTLD_NOW | RTLD_LOCAL);
  int (*drive)(int, char **);
  if (module == NULL) return fprintf(stderr, "%s\n", dlerror()), 3;
  *(void **)&drive = dlsym(module, "drive");
  return drive(argc, argv);
}
