/* cli/replay.h - `kvstow replay`: a trace against the simulator (--sim) or a real store (--real).
 *
 * cmd_replay() reads the options into struct replay_args, once for both halves.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_REPLAY_H
#define CLI_REPLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/sim/sim.h"
#include "cli/size.h"
#include "cli/trace/sample.h"

enum {
  REPLAY_TRACES_MAX = 64,
  REPLAY_POLICIES_MAX = 64,
  REPLAY_SIZES_MAX = 1024,
  REPLAY_DIRS_MAX = 16,
  REPLAY_IN_FLIGHT_MAX = 1 << 16
};

enum replay_tiers { REPLAY_TIERS_IDEAL, REPLAY_TIERS_ENGINE };
enum replay_output { REPLAY_TABLE, REPLAY_JSON, REPLAY_CSV };

struct replay_args {
  const char *traces[REPLAY_TRACES_MAX]; /* paths, `-`, or `gen:...`; --real takes one */
  unsigned trace_count;
  const char *format; /* of the traces; NULL: told from them */
  uint64_t limit;     /* requests; 0: all */
  const char *policies[REPLAY_POLICIES_MAX];
  unsigned policy_count;     /* 0: the default policy */
  const char *policy_params; /* "k=v,k=v" for each of them, or NULL */
  const char *ssd_policy;    /* NULL: as in RAM */
  bool has_ram, has_ssd;
  struct size ram, ssd;
  enum replay_output output;
  uint32_t block_tokens;    /* 0: --sim takes the trace's; --real the space's default */
  uint64_t bytes_per_token; /* 0 unknown: --sim then takes no sizes in bytes */
  const char *model;        /* name of a known layout, or NULL */
  uint64_t seed;

  /* --sim */
  struct size sizes[REPLAY_SIZES_MAX]; /* of one tier; none: has_ram and has_ssd, two tiers */
  unsigned size_count;
  enum sim_order order;
  enum replay_tiers tiers;
  uint32_t in_flight;      /* requests that begin before a request's new blocks enter */
  uint32_t segment_blocks; /* --tiers engine: records a segment; 0: its default */
  double high, low;        /* watermarks, shares of RAM; 0: the defaults. --real: the same */
  unsigned jobs;           /* threads; 0: as many as there are processors */
  double cost_us[2];       /* of prefilling n tokens: cost_us[0] n + cost_us[1] n^2 */
  bool has_ssd_bytes;
  struct size ssd_bytes; /* the drive's size, for DWPD; has_ssd_bytes unset: the tier's */
  double sample;         /* share of chains or blocks; 0: everything */
  enum trace_sample_by sample_by;
  bool sample_error; /* run everything, too */
  const char *plot;  /* file to draw curves into, or NULL */
  const char *plot_metric;

  /* --real */
  const char *dirs[REPLAY_DIRS_MAX]; /* of one store: its disks */
  unsigned dir_count;
  const char *engine; /* "auto", "uring", "threads"; NULL: auto */
  bool write_through;
  uint32_t part, parts; /* only the part-th (from 1) of `parts` equal runs of requests; 0: all */
};

/* Splits "a,b,c" in place into items[0, max). The number of items; -1 when there are more than
 * `max` or an empty one. */
int replay_split(char *list, const char **items, unsigned max);

/* Both return an exit code, with messages on stderr: EXIT_OK, EXIT_FAILED or EXIT_USAGE. */
int cmd_replay_sim(const struct replay_args *args);
int cmd_replay_real(const struct replay_args *args);

#endif
