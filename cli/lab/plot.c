/* cli/lab/plot.c - curves of a metric over size, one panel a trace, drawn by gnuplot.
 *
 * Made for a paper: sizes on a logarithmic axis, units on both, one legend, and policies that differ
 * in colour, dash and mark, so that print without colour and eyes without it tell them apart. The
 * colours are Okabe and Ito's; optima and the infinite cache are black and thin.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/lab/lab.h"

enum {
  PANELS_A_ROW = 3,
  PANEL_WIDTH = 380,
  PANEL_HEIGHT = 330,
  LEGEND_ROWS = 10, /* in a panel's height */
  LINE_WIDTH = 52,  /* of the legend: a sample of a curve, */
  LETTER_WIDTH = 8, /* and its name; and a digit of an axis */
};

static const char *suffix_of(const char *path) {
  const char *dot = strrchr(path, '.');
  return dot != NULL ? dot : "";
}

static bool is_png(const char *path) {
  return strcmp(suffix_of(path), ".png") == 0;
}

/* ---- gnuplot ---- */

/* Runs it with `input` as its standard input (-1: none), silent or not, and its standard output in `output`: a name that
 * it was told, it would take for a command if it began with a bar. 0, or its exit code, or -1 with errno. */
static int run_gnuplot(const char *argument, int input, const char *output, bool silent) {
  posix_spawn_file_actions_t actions;
  char name[] = "gnuplot", text[16];
  char *argv[] = {name, text, NULL};
  pid_t child;
  int status;
  snprintf(text, sizeof text, "%s", argument);
  posix_spawn_file_actions_init(&actions);
  if (input >= 0)
    posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
  else
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, output, O_WRONLY | O_CREAT | O_TRUNC,
                                   0666);
  if (silent) posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  errno = posix_spawnp(&child, name, &actions, NULL, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (errno != 0) return -1;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* Whether the file can be written; it is left as it was. */
static bool can_write(const char *path) {
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd >= 0)
    unlink(path);
  else if (errno == EEXIST)
    fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  close(fd);
  return true;
}

int lab_plot_check(const char *path) {
  const char *suffix = suffix_of(path);
  if (strcmp(suffix, ".svg") != 0 && strcmp(suffix, ".png") != 0) {
    fprintf(stderr, "kvstow replay: --plot %s: expected a name that ends in .svg or .png\n", path);
    return EXIT_USAGE;
  }
  if (run_gnuplot("--version", -1, "/dev/null", true) != 0) {
    fprintf(stderr,
            "kvstow replay: --plot needs gnuplot, and it can't be run: is it installed? (Debian: "
            "gnuplot-nox; --csv gives the figures for other programs)\n");
    return EXIT_FAILED;
  }
  if (can_write(path)) return EXIT_OK;
  fprintf(stderr, "kvstow replay: --plot %s: %s\n", path, strerror(errno));
  return EXIT_FAILED;
}

/* ---- the script ---- */

static unsigned policy_count(const struct lab *lab) {
  return lab->args->policy_count > 0 ? lab->args->policy_count : 1;
}

static const char *policy_name(const struct lab *lab, unsigned p) {
  return lab->args->policy_count > 0 ? lab->args->policies[p] : "default";
}

/* In gnuplot's single quotes. */
static void put_quoted(FILE *out, const char *text) {
  fputc('\'', out);
  for (; *text != '\0'; text++) {
    if (*text == '\'') fputc('\'', out);
    if (*text >= ' ' || *text < 0) fputc(*text, out);
  }
  fputc('\'', out);
}

/* A trace's or a policy's name without directories and endings. */
static void shorten(const char *path, char name[80]) {
  const char *slash = strrchr(path, '/');
  snprintf(name, 80, "%s", slash != NULL ? slash + 1 : path);
  static const char *const endings[] = {".zst", ".jsonl", ".csv", ".so", ".bin"};
  for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
    const size_t length = strlen(name), ending = strlen(endings[i]);
    if (length > ending && strcmp(name + length - ending, endings[i]) == 0)
      name[length - ending] = '\0';
  }
}

static void put_name(FILE *out, const char *path) {
  char name[80];
  shorten(path, name);
  put_quoted(out, name);
}

/* ---- data ---- */

/* What the curves of one trace span: sizes in percent of distinct blocks, values on the axis. */
struct span {
  double from, to, most;
  bool any;
};

static double size_of(const struct lab_row *row) {
  return 100 * (double)row->blocks / (double)row->of->trace->unique;
}

static struct span span_of(const struct lab *lab, const struct lab_metric *metric,
                           const struct lab_trace *of) {
  struct span span = {.from = HUGE_VAL};
  for (size_t i = 0; i < lab->row_count; i++) {
    const struct lab_row *row = &lab->rows[i];
    const double value = lab_number(lab, row, metric) * metric->scale;
    if (row->of != of || isnan(value)) continue;
    span.any = true;
    span.from = fmin(span.from, size_of(row));
    span.to = fmax(span.to, size_of(row));
    span.most = fmax(span.most, value);
  }
  return span;
}

/* One block of data a (trace, policy): size in percent of distinct blocks, value. */
static void put_data(FILE *out, const struct lab *lab, const struct lab_metric *metric, unsigned t,
                     unsigned p) {
  fprintf(out, "$d%u_%u << END\n", t, p);
  unsigned seen = 0;
  for (size_t i = 0; i < lab->row_count; i++) {
    const struct lab_row *row = &lab->rows[i];
    if (row->of != &lab->traces[t] || seen++ % policy_count(lab) != p) continue;
    const double value = lab_number(lab, row, metric);
    if (!isnan(value)) fprintf(out, "%.9g %.9g\n", size_of(row), value * metric->scale);
  }
  fputs("END\n", out);
}

/* ---- axes ---- */

/* Where a logarithmic axis has labels in a decade: the fewer decades, the more. */
static bool is_labelled(unsigned digit, double decades) {
  if (digit == 1) return true;
  if (decades <= 1.2) return digit == 2 || digit == 5;
  return decades <= 3.2 && digit == 3;
}

/* The margins keep marks at the ends whole. Of one size it is an axis all the same. */
static void put_axes(FILE *out, const struct span *span) {
  const double margin = span->from < span->to ? pow(span->to / span->from, 0.02) : 2;
  const double from = span->from / margin, to = span->to * margin, decades = log10(to / from);
  const char *comma = "";
  fprintf(out, "set xrange [%.9g:%.9g]\nset xtics (", from, to);
  for (int decade = (int)floor(log10(from)); decade <= (int)floor(log10(to)); decade++)
    for (unsigned digit = 1; digit < 10; digit++) {
      const double at = pow(10, decade) * digit;
      if (at < from || at > to) continue;
      if (is_labelled(digit, decades))
        fprintf(out, "%s%.9g 0", comma, at);
      else
        fprintf(out, "%s'' %.9g 1", comma, at);
      comma = ", ";
    }
  fprintf(out, ")\nset yrange [0:%s]\n", span->most > 0 ? "*" : "1");
}

/* ---- curves ---- */

static bool is_bound(const char *policy) {
  return strcmp(policy, "opt") == 0 || strcmp(policy, "belady") == 0 ||
         strcmp(policy, "infinite") == 0;
}

static void put_style(FILE *out, const char *policy, unsigned *used) {
  static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                        "#e69f00", "#56b4e9", "#7f7f7f", "#a6761d"};
  static const char *const dashes[] = {"solid", "(12,4)", "(4,3)", "(12,4,2,4)", "(2,3)"};
  static const unsigned marks[] = {7, 5, 9, 11, 13, 6, 4, 8, 10, 12};
  enum {
    COLOURS = sizeof colours / sizeof colours[0],
    DASHES = sizeof dashes / sizeof dashes[0],
    MARKS = sizeof marks / sizeof marks[0],
  };
  if (is_bound(policy)) {
    const char *dash = strcmp(policy, "opt") == 0      ? "solid"
                       : strcmp(policy, "belady") == 0 ? "(8,4)"
                                                       : "(2,4)";
    fprintf(out, "with lines lc rgb '#000000' lw 1.2 dt %s", dash);
    return;
  }
  const unsigned i = (*used)++;
  fprintf(out, "with linespoints lc rgb '%s' lw 2 dt %s pt %u ps 0.55", colours[i % COLOURS],
          dashes[i % DASHES], marks[i % MARKS]);
}

static void put_panel(FILE *out, const struct lab *lab, const struct lab_metric *metric, unsigned t,
                      unsigned panels) {
  const unsigned columns = panels < PANELS_A_ROW ? panels : PANELS_A_ROW;
  const struct span span = span_of(lab, metric, &lab->traces[t]);
  unsigned used = 0;
  if (!span.any) { /* a trace without times has no writes a day, for one */
    fputs("set multiplot next\n", out);
    return;
  }
  put_axes(out, &span);
  fputs("set title ", out);
  put_name(out, lab->traces[t].trace->name);
  fputs(" noenhanced\n", out);
  fprintf(out, "set ylabel '%s'\n", t % columns == 0 ? metric->title : "");
  if (t == 1) fputs("unset key\n", out);
  for (unsigned p = 0; p < policy_count(lab); p++) {
    fprintf(out, "%s$d%u_%u title ", p == 0 ? "plot " : ", \\\n  ", t, p);
    put_name(out, policy_name(lab, p));
    fputs(" noenhanced ", out);
    put_style(out, policy_name(lab, p), &used);
  }
  fputc('\n', out);
}

/* Digits of the widest label on the axis of values. */
static unsigned digits_of(const struct lab *lab, const struct lab_metric *metric) {
  unsigned digits = 3;
  for (unsigned t = 0; t < lab->args->trace_count; t++) {
    const struct span span = span_of(lab, metric, &lab->traces[t]);
    for (; digits < 8 && span.most >= pow(10, digits); digits++) continue;
  }
  return digits;
}

struct legend {
  unsigned columns, rows, width;
};

static struct legend legend_of(const struct lab *lab) {
  const unsigned count = policy_count(lab), columns = (count + LEGEND_ROWS - 1) / LEGEND_ROWS;
  size_t longest = 0;
  for (unsigned p = 0; p < count; p++) {
    char name[80];
    shorten(policy_name(lab, p), name);
    if (strlen(name) > longest) longest = strlen(name);
  }
  return (struct legend){
      .columns = columns,
      .rows = (count + columns - 1) / columns,
      .width = columns * (LINE_WIDTH + LETTER_WIDTH * (unsigned)longest),
  };
}

static void put_script(FILE *out, const struct lab *lab, const struct lab_metric *metric) {
  const unsigned panels = lab->args->trace_count;
  const unsigned columns = panels < PANELS_A_ROW ? panels : PANELS_A_ROW;
  const unsigned rows = (panels + columns - 1) / columns;
  const struct legend legend = legend_of(lab);
  const unsigned labels = LETTER_WIDTH * digits_of(lab, metric);
  const unsigned width = columns * PANEL_WIDTH + legend.width, height = rows * PANEL_HEIGHT;
  const bool png = is_png(lab->args->plot);
  const unsigned zoom = png ? 2 : 1; /* 200 dots an inch where svg's 100 are meant */
  for (unsigned t = 0; t < panels; t++)
    for (unsigned p = 0; p < policy_count(lab); p++) put_data(out, lab, metric, t, p);
  if (png)
    fprintf(out, "set terminal pngcairo size %u,%u font 'Sans,%u' linewidth %u pointscale %u\n",
            width * zoom, height * zoom, 9 * zoom, zoom, zoom);
  else
    fprintf(out,
            "set terminal svg size %u,%u font 'Helvetica,Arial,sans-serif,12' "
            "background '#ffffff'\n",
            width, height);
  const double right = 1.0 - (double)legend.width / width;
  fprintf(out,
          "set multiplot layout %u,%u margins %g,%g,%g,%g spacing %g,%g\n"
          "set logscale x\nset format x '%%g'\nset xlabel 'Cache size (%% of distinct blocks)'\n"
          "set border 3\nset tics nomirror out\n"
          "set grid ytics lt 1 lc rgb '#d8d8d8' lw 0.6 dt solid\n"
          "set key at screen %g,%g left top Left reverse samplen 2.5 spacing 1.15 maxrows %u\n",
          rows, columns, (44.0 + labels) / width, right - 8.0 / width, 60.0 / height,
          1 - 34.0 / height, (28.0 + labels) / width, 96.0 / height, right + 2.0 / width,
          1 - 30.0 / height, legend.rows);
  for (unsigned t = 0; t < panels; t++) put_panel(out, lab, metric, t, panels);
  fputs("unset multiplot\n", out);
}

static bool has_values(const struct lab *lab, const struct lab_metric *metric) {
  for (unsigned t = 0; t < lab->args->trace_count; t++)
    if (span_of(lab, metric, &lab->traces[t]).any) return true;
  return false;
}

/* gnuplot does not tell when its output could not be written: the end of the file does. */
static bool is_whole(const char *path) {
  const char *mark = is_png(path) ? "IEND" : "</svg>";
  char end[16];
  FILE *file = fopen(path, "rb");
  if (file == NULL) return false;
  const bool whole = fseek(file, -(long)sizeof end, SEEK_END) == 0 &&
                     fread(end, 1, sizeof end, file) == sizeof end &&
                     memmem(end, sizeof end, mark, strlen(mark)) != NULL;
  fclose(file);
  return whole;
}

int lab_plot(const struct lab *lab) {
  const char *key = lab->args->plot_metric != NULL ? lab->args->plot_metric : "prefix_hit";
  const struct lab_metric *metric = lab_metric_find(key);
  if (!has_values(lab, metric)) {
    fprintf(stderr, "kvstow replay: --plot: %s can't be told of these traces\n", key);
    return EXIT_FAILED;
  }
  FILE *script = tmpfile();
  int rc = -1;
  if (script != NULL) {
    put_script(script, lab, metric);
    if (fflush(script) == 0 && fseek(script, 0, SEEK_SET) == 0)
      rc = run_gnuplot("-", fileno(script), lab->args->plot, false);
  }
  if (rc != 0)
    fprintf(stderr, "kvstow replay: --plot %s: %s\n", lab->args->plot,
            rc < 0 ? strerror(errno) : "gnuplot failed, see above");
  if (script != NULL) fclose(script);
  if (rc == 0 && !is_whole(lab->args->plot)) {
    fprintf(stderr, "kvstow replay: --plot %s: not written to its end (is the disk full?)\n",
            lab->args->plot);
    rc = -1;
  }
  return rc == 0 ? EXIT_OK : EXIT_FAILED;
}
