/* rank.h - the cache's locks in the order in which they are taken (tier/lock.h); the tier's come after.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_KVCACHE_RANK_H
#define KVSTOW_KVCACHE_RANK_H

#include <assert.h>

#include "tier/lock.h"

enum kvs_rank {
  KVS_RANK_STORE = 1,
  KVS_RANK_TRACE,  /* trace.c */
  KVS_RANK_SHARD,  /* index.h */
  KVS_RANK_WINDOW, /* direct.c */
  KVS_RANK_ASYNC,  /* async.c */
  KVS_RANK_QUEUE,
  KVS_RANK_EVENTS, /* events.c */
  KVS_RANK_MESSAGE,
};
static_assert((int)KVS_RANK_MESSAGE < (int)KVSTOW__RANK_BARRIER, "the cache's come first");

#endif
