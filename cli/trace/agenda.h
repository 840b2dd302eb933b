/* cli/trace/agenda.h - what a generator has yet to do, in the order of time: a binary heap.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRACE_AGENDA_H
#define CLI_TRACE_AGENDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The first member of what is put here. Of two due at one time the lower number comes first. */
struct event {
  double due_ms;
  uint64_t number;
};

struct agenda { /* starts zeroed */
  struct event **events;
  size_t count, size;
};

/* False when out of memory. */
bool agenda_push(struct agenda *agenda, struct event *event);

/* The next one; NULL when there is none. */
struct event *agenda_next(const struct agenda *agenda);
struct event *agenda_pop(struct agenda *agenda);

/* Events still in it are the caller's. */
void agenda_finish(struct agenda *agenda);

#endif
