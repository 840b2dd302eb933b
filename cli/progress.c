/* progress.c - a bar for long work, on stderr.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "cli/table.h"

enum { DRAW_EVERY_MS = 100, BAR_CELLS = 30 };

static uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

void progress_begin(struct progress *progress, const char *label, uint64_t total) {
  *progress = (struct progress){.label = label, .total = total, .started_ms = now_ms()};
  progress->drawn_ms = progress->started_ms;
  progress->shown = total > 0 && isatty(STDERR_FILENO);
}

void progress_update(struct progress *progress, uint64_t done) {
  if (!progress->shown) return;
  const uint64_t now = now_ms();
  if (now - progress->drawn_ms < DRAW_EVERY_MS) return;
  progress->drawn_ms = now;
  const double part = done < progress->total ? (double)done / (double)progress->total : 1.0;
  const int full = (int)(part * BAR_CELLS);
  char bar[BAR_CELLS + 1];
  for (int i = 0; i < BAR_CELLS; i++) bar[i] = i < full ? '#' : '.';
  bar[BAR_CELLS] = '\0';
  fprintf(stderr, "\r%s [%s] %3.0f %%", progress->label, bar, 100.0 * part);
  if (part > 0.02) {
    const double left_ms = (double)(now - progress->started_ms) * (1.0 - part) / part;
    char left[TABLE_CELL_BYTES];
    fprintf(stderr, ", %s left", format_age(left, (uint64_t)(left_ms / 1000.0 + 0.5)));
  }
  fputs("\033[K", stderr);
  fflush(stderr);
}

void progress_end(struct progress *progress) {
  if (!progress->shown) return;
  fputs("\r\033[K", stderr);
  fflush(stderr);
  progress->shown = false;
}
