/* tier/error.c - the texts of result codes, made from the one table in kvstow/error.h.
 *
 * Promises: never NULL, static storage, any thread, any argument.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <kvstow/error.h>

const char *kvstow_strerror(int code) {
  switch (code) {
    case 0:
      return "success";
#define KVSTOW_X(name, number, text)                                                               \
  case KVSTOW_##name:                                                                              \
    return text;
      KVSTOW_ERRORS(KVSTOW_X)
#undef KVSTOW_X
    default:
      return "unknown error code";
  }
}

const char *kvstow_errname(int code) {
  switch (code) {
    case 0:
      return "0";
#define KVSTOW_X(name, number, text)                                                               \
  case KVSTOW_##name:                                                                              \
    return "KVSTOW_" #name;
      KVSTOW_ERRORS(KVSTOW_X)
#undef KVSTOW_X
    default:
      return "KVSTOW_E?";
  }
}
