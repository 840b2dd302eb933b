/* record_read.h - reads records of a store and waits for them.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_CLI_RECORD_READ_H
#define KVSTOW_CLI_RECORD_READ_H

#include <kvstow/kvstow.h>

/* Reads `count` records; reads[i] is prepared but for done and arg. Returns when all are done, with
 * their results in place, or with the error that kept them from being read. */
int record_read_all(kvstow_tier *tier, kvstow_record_read *reads, size_t count);

/* Reads one record's header page. */
int record_read_header(kvstow_tier *tier, const kvstow_record *record, void *page);

#endif
