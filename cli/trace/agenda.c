/* cli/trace/agenda.c - see agenda.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace/agenda.h"

#include <stdlib.h>

static bool before(const struct event *a, const struct event *b) {
  return a->due_ms < b->due_ms || (a->due_ms <= b->due_ms && a->number < b->number);
}

bool agenda_push(struct agenda *agenda, struct event *event) {
  if (agenda->count == agenda->size) {
    const size_t size = agenda->size * 2 + 64;
    struct event **events = realloc(agenda->events, size * sizeof(struct event *));
    if (events == NULL) return false;
    agenda->events = events;
    agenda->size = size;
  }
  size_t at = agenda->count++;
  for (; at > 0 && before(event, agenda->events[(at - 1) / 2]); at = (at - 1) / 2)
    agenda->events[at] = agenda->events[(at - 1) / 2];
  agenda->events[at] = event;
  return true;
}

struct event *agenda_next(const struct agenda *agenda) {
  return agenda->count > 0 ? agenda->events[0] : NULL;
}

struct event *agenda_pop(struct agenda *agenda) {
  if (agenda->count == 0) return NULL;
  struct event *first = agenda->events[0], *last = agenda->events[--agenda->count];
  size_t at = 0;
  for (;;) {
    size_t child = 2 * at + 1;
    if (child >= agenda->count) break;
    if (child + 1 < agenda->count && before(agenda->events[child + 1], agenda->events[child]))
      child++;
    if (!before(agenda->events[child], last)) break;
    agenda->events[at] = agenda->events[child];
    at = child;
  }
  if (agenda->count > 0) agenda->events[at] = last;
  return first;
}

void agenda_finish(struct agenda *agenda) {
  free(agenda->events);
  *agenda = (struct agenda){.count = 0};
}
