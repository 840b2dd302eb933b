/* frame.h - what every benchmark does alike: options, rows, targets, printing.
 *
 * Rows are JSON objects; the table for people is made from the same objects, so that the two cannot
 * differ. A target is a figure that was promised: printed with met or not met, if there were rounds enough for
 * a verdict. A benchmark exits with 1 when bytes were wrong, it could not run or had nothing to measure, and, with
 * --check, when a target was missed.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_BENCH_FRAME_H
#define KVSTOW_BENCH_FRAME_H

#include <jansson.h>
#include <kvstow/tier.h>
#include <stdbool.h>
#include <stdint.h>

#include "bench/verdict.h"

enum { BENCH_ROUNDS_JUDGED = 5 };

enum bench_accepts {
  BENCH_DIR = 1 << 0,      /* --dir D: where to make the scratch directory */
  BENCH_SIZE = 1 << 1,     /* --size BYTES */
  BENCH_BLOCKS = 1 << 2,   /* --blocks N */
  BENCH_SHAPE = 1 << 3,    /* --shape NAME: that one alone */
  BENCH_THREADS = 1 << 4,  /* --threads N: so many alone */
  BENCH_PATH = 1 << 5,     /* --path NAME: that one alone */
  BENCH_ENGINE = 1 << 6,   /* --engine NAME */
  BENCH_CSV = 1 << 7,      /* --csv */
  BENCH_OP = 1 << 8,       /* --op NAME: that one alone */
  BENCH_BLOCK = 1 << 9,    /* --block BYTES: that size alone */
  BENCH_DEPTH = 1 << 10,   /* --depth N: that one alone */
  BENCH_FILE = 1 << 11,    /* FILE, the one argument that is no option; may be missing */
  BENCH_MAKE = 1 << 12,    /* --generate FILE, --seed N */
  BENCH_ENCRYPT = 1 << 13, /* --encrypt */
  BENCH_PEERS = 1 << 14,   /* --peers A,B: those alone */
};

struct bench_args {
  bool json, csv, quick, check;
  unsigned rounds; /* below 5, if asked for: figures, no verdicts */
  const char *dir;
  uint64_t size, blocks;
  const char *shape, *path, *op, *peers;
  unsigned threads, depth; /* 0: all */
  uint64_t block_bytes;    /* 0: all */
  kvstow_engine engine;    /* auto: all, or the best */
  const char *file, *generate;
  uint64_t seed;                 /* 1 if not given */
  const uint8_t *encryption_key; /* some key, with --encrypt */
};

/* -1 to go on, or an exit code. `usage` is the text of --help, the common options apart. */
int bench_parse(int argc, char **argv, const char *usage, unsigned accepts,
                struct bench_args *args);

/* True if the option that picks one was not given, or picks this. */
bool bench_picks(const char *asked, const char *name);

/* -1 if `--option` was not given or is one of `names`, which end with NULL; else an exit code, and a message that
 * lists them. `command` is argv[0]. */
int bench_known(const char *command, const char *option, const char *asked,
                const char *const *names);
/* The same of numbers, up to a 0. */
int bench_known_number(const char *command, const char *option, uint64_t asked,
                       const uint64_t *numbers);

struct bench_report {
  const char *name;
  json_t *root, *rows, *targets, *notes;
  bool failed;
  bool (*shown)(const json_t *row); /* in the table for people; NULL: all are */
};

/* Exits the process when there is no memory: a benchmark has nothing to save. */
struct bench_report bench_report_begin(const char *name);

json_t *bench_row(struct bench_report *report); /* borrowed */
void bench_text(json_t *row, const char *key, const char *value);
void bench_count(json_t *row, const char *key, uint64_t value);
void bench_real(json_t *row, const char *key, double value);

void bench_target_min(struct bench_report *report, const char *name, double value, double least);
/* The same where all rounds tell whether it was met, not the figure alone; what can't be told is no miss. `control`:
 * the figure of something compared with itself (NAN: nothing was). */
void bench_target_told(struct bench_report *report, const char *name, double value, double least,
                       enum verdict verdict, double control);
void bench_target_max(struct bench_report *report, const char *name, double value, double most);

/* A sentence under the table. */
void bench_note(struct bench_report *report, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Something went wrong: on stderr, and the benchmark will exit with 1. */
void bench_fail(struct bench_report *report, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* One column of the table. digits: of the fraction; -1 for text. */
struct bench_column {
  const char *key, *title;
  int digits;
};

/* Judges, prints, frees, and returns the exit code. A failed benchmark prints nothing for programs. `columns` end
 * with a NULL key. */
int bench_report_end(struct bench_report *report, const struct bench_args *args,
                     const struct bench_column *columns);

#endif
