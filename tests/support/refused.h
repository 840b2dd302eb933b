/* tests/support/refused.h - a code and a sentence: what is refused is refused by name.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TESTS_SUPPORT_REFUSED_H
#define KVSTOW_TESTS_SUPPORT_REFUSED_H

#include "kv.h"

/* Opening must fail with one of two codes and a message that contains `word` (may be NULL). */
static inline void refuses_either_at(int line, const kvstow_options *options, int code, int other,
                                     const char *word) {
  char why[KVSTOW_MESSAGE_BYTES];
  memset(why, 0x7f, sizeof why);
  kvstow *store = (kvstow *)1;
  int rc = kvstow_open(options, &store, why, sizeof why);
  if (rc == 0) kvstow_close(store);
  if (rc != code && rc != other)
    kv_fail_at(__FILE__, line, "open: %s, expected %s (%s)", kvstow_errname(rc),
               kvstow_errname(code), rc == 0 ? "" : why);
  if (memchr(why, 0, sizeof why) == NULL || strlen(why) < 5)
    kv_fail_at(__FILE__, line, "no message with %s", kvstow_errname(rc));
  if (word != NULL && strstr(why, word) == NULL)
    kv_fail_at(__FILE__, line, "the message does not name \"%s\": \"%s\"", word, why);
  /* a short buffer is respected, none at all is fine */
  char tiny[8];
  memset(tiny, 0x11, sizeof tiny);
  rc = kvstow_open(options, &store, tiny, 4);
  if (rc == 0 || memchr(tiny, 0, 4) == NULL || tiny[4] != 0x11)
    kv_fail_at(__FILE__, line, "a short message buffer is not respected");
  rc = kvstow_open(options, &store, NULL, 0);
  if (rc == 0) kv_fail_at(__FILE__, line, "opened at the third attempt");
}
#define refuses_either(options, code, other, word)                                                 \
  refuses_either_at(__LINE__, options, code, other, word)
#define refuses(options, code, word) refuses_either_at(__LINE__, options, code, code, word)

static inline void has_message(const kvstow *store) {
  char text[KVSTOW_MESSAGE_BYTES];
  memset(text, 0x7f, sizeof text);
  kvstow_message(store, text, sizeof text);
  KV_CHECK(memchr(text, 0, sizeof text) != NULL && strlen(text) >= 5, "no message");
}

static inline void message_names(const kvstow *store, const char *word) {
  char text[KVSTOW_MESSAGE_BYTES];
  has_message(store);
  kvstow_message(store, text, sizeof text);
  KV_CHECK(strstr(text, word) != NULL, "the message does not name \"%s\": \"%s\"", word, text);
}

#endif
