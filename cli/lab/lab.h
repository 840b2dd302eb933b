/* cli/lab/lab.h - `kvstow replay --sim`: many policies, sizes and traces in one run.
 *
 * Traces are loaded once each, then every (trace, size, policy) is a row, run on its own: the rows of
 * all traces share the processors, and are printed in the order in which they were asked for.
 *
 *   lab.c      what is to be run, and running it
 *   metrics.c  what a row tells: the keys of JSON, the columns of CSV, the curves of a plot
 *   print.c    JSON, CSV, and tables for people
 *   plot.c     curves, by gnuplot
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_LAB_LAB_H
#define CLI_LAB_LAB_H

#include <stdbool.h>

#include "cli/replay.h"
#include "cli/sim/sim.h"
#include "cli/trace/sample.h"

struct lab_trace {
  struct trace *trace;
  struct trace_sample sample; /* with --sample */
  double sample_seconds;
  uint64_t drive_blocks; /* of --ssd-bytes; 0: the tier's own size */
  char why[512];         /* why `trace` is NULL */
};

struct lab_row {
  const struct lab_trace *of;
  const char *policy;
  uint64_t blocks, ssd_blocks; /* asked for */
  struct sim_result result;    /* of the whole trace; with --sample as estimated */
  struct sim_result whole;     /* with --sample-error: measured */
  char why[512];               /* why there is no result; "" */
};

struct lab {
  const struct replay_args *args;
  bool two_tiers;
  unsigned jobs;
  struct lab_trace *traces; /* args->trace_count */
  struct lab_row *rows;
  size_t row_count;
};

/* ---- metrics ---- */

enum lab_kind { LAB_NONE, LAB_TEXT, LAB_COUNT, LAB_REAL };

struct lab_value {
  enum lab_kind kind; /* LAB_NONE: it can't be told here */
  const char *text;
  uint64_t count;
  double real;
};

struct lab_metric {
  const char *key;
  const char *title; /* of a plot's axis, with its unit; NULL: not to be plotted */
  double scale;      /* from the value to the axis */
  struct lab_value (*of)(const struct lab *lab, const struct lab_row *row);
  bool (*shown)(const struct lab *lab); /* NULL: always */
};

/* Ends with a NULL key. */
extern const struct lab_metric lab_metrics[];

/* The metric with that key that can be plotted; NULL. */
const struct lab_metric *lab_metric_find(const char *key);

/* The value as a number; NaN when it is none. */
double lab_number(const struct lab *lab, const struct lab_row *row,
                  const struct lab_metric *metric);

/* With --sample: so few chains or blocks are in it that it tells little. */
bool lab_sample_too_small(const struct lab_trace *of);

/* ---- output; each returns an exit code ---- */

int lab_print(const struct lab *lab);

/* Whether plotting can work at all (gnuplot is there, the file's name ends in .svg or .png, it can be written): asked
 * before anything is simulated. */
int lab_plot_check(const char *path);
int lab_plot(const struct lab *lab);

#endif
