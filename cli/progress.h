/* progress.h - a bar for long work: drawn on a terminal, silent elsewhere.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_CLI_PROGRESS_H
#define KVSTOW_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
  const char *label; /* outlives the bar */
  uint64_t total;
  uint64_t started_ms, drawn_ms;
  bool shown; /* stderr is a terminal */
};

/* `total` in any unit, 0 when unknown (then nothing is drawn). */
void progress_begin(struct progress *progress, const char *label, uint64_t total);

/* Cheap enough to call for every item: draws at most ten times a second. */
void progress_update(struct progress *progress, uint64_t done);

/* Wipes the bar. */
void progress_end(struct progress *progress);

#endif
