/* tier/request.h - from extents, whether of records or files, to device requests and back.
 *
 * A window of extents is planned into requests (schedule.h); each request carries pieces of one or more of
 * them. An extent is settled when all its pieces have come or failed. A request that fails is retried
 * extent by extent, so that one bad sector costs one read and not its neighbours. One that was not sent yet
 * can be recalled: what nobody wants any more is answered, the rest is planned anew.
 *
 * On the I/O thread only.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_REQUEST_H
#define KVSTOW_TIER_REQUEST_H

#include "tier/state.h"

typedef struct kvstow__read_request kvstow__read_request;

void kvstow__read_plan(kvstow_tier *tier, kvstow__extent **window, size_t count);
bool kvstow__read_skip(kvstow_tier *tier, kvstow__extent *extent); /* unwanted: settled instead */

/* Of an op that read_plan pushed. (Other ops: false, or no deadline.) */
bool kvstow__read_op_unwanted(const kvstow__op *op, bool all); /* any of its reads, or all */
bool kvstow__read_op_urgent(const kvstow__op *op);             /* any of them */
uint64_t kvstow__read_op_deadline_us(const kvstow__op *op);    /* the earliest; UINT64_MAX: none */
/* What op->error is when it is completed without having been sent. */
#define KVSTOW__RECALLED (-2)

/* KVSTOW_ECANCELED, KVSTOW_ETIMEDOUT, or 0: it is still wanted. */
int kvstow__read_unwanted(const kvstow__read_job *job);

/* For read.c. One piece has been summed, or will not be. */
void kvstow__request_release(kvstow__read_request *request);
/* No sum is under way any more: reads again what has to be, or finishes. */
void kvstow__read_settle(kvstow_tier *tier, kvstow__read_job *job);

/* In read.c. A piece of a record has come; true: it holds on to the request until it has been summed. */
bool kvstow__record_came(kvstow_tier *tier, kvstow__piece *piece);
void kvstow__record_unread(kvstow__extent *extent); /* will be read again: forget what came of it */
void kvstow__record_failed(kvstow__read_job *job);  /* will not be: forget all that waits */

#endif
