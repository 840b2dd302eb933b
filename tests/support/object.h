/* tests/support/object.h - compiles a policy with the system's C compiler, as a user would.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TESTS_SUPPORT_OBJECT_H
#define KVSTOW_TESTS_SUPPORT_OBJECT_H

#include <stdio.h>
#include <stdlib.h>

/* Compiles `source` into `directory`/`name`.so; its path (valid until the next call), or NULL without a
 * compiler. Warnings are errors: then the test fails. */
static inline const char *object_compile(const char *source, const char *directory,
                                         const char *name) {
  static char object[4096];
  char command[16384];
  snprintf(object, sizeof object, "%s/%s.so", directory, name);
  snprintf(command, sizeof command,
           "${CC:-cc} -std=c11 -Wall -Wextra -Werror -shared -fPIC -I '%s/include' '%s' -o '%s' "
           "2>&1",
           KVSTOW_SOURCE_DIR, source, object);
  const int rc = system(command);
  if (rc == 127 << 8) {
    fprintf(stderr, "\n*** SKIP: no C compiler (set CC): shared objects were not tested ***\n\n");
    return NULL;
  }
  assert_int_equal(rc, 0);
  return object;
}

#endif
