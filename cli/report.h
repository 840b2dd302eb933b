/* cli/report.h - what `kvstow replay --real` found out, for people and for programs.
 *
 * Times are wall time inside kvstow calls alone; MB/s is 1e6 bytes a second. A hit is a block that
 * lies in the unbroken run held from the request's beginning, and was read back whole.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_REPORT_H
#define CLI_REPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <kvstow/kvstow.h>

/* Of the requests that made the call. */
struct report_latency {
  uint64_t count;
  double p50_us, p99_us, p999_us, max_us;
};

/* What moved, and the time it took. */
struct report_flow {
  uint64_t blocks;
  double seconds;
};

/* Where the blocks of some requests came from. */
struct report_served {
  uint64_t requests;
  uint64_t blocks, ram_hit_blocks, ssd_hit_blocks, recompute_blocks;
  uint64_t tokens, hit_tokens; /* as the trace counts them */
};

struct replay_report {
  const char *trace, *policy, *model, *write_mode;
  uint32_t layers, k_bytes, v_bytes;
  uint32_t block_tokens;       /* as stored */
  uint32_t trace_block_tokens; /* as the trace has them */
  bool scaled_down;            /* block_tokens was lowered to keep blocks small */
  uint64_t block_bytes;        /* K and V without padding: what rates count */
  uint64_t payload_bytes;      /* with padding */

  struct report_served served;
  struct report_served after_restart; /* the first requests of a run that recovered something */
  uint64_t survivor_hit_blocks; /* hits on blocks that this run had not stored: from before it */
  uint64_t unique_blocks;
  uint64_t lost_blocks;                  /* matched, but gone or refused when they were read */
  char first_loss[KVSTOW_MESSAGE_BYTES]; /* what the store said about the first of them */
  uint64_t unequal_blocks, mismatched_bytes;
  uint64_t store_refused_blocks; /* RAM full of blocks in use */

  struct report_flow store, restore;
  struct report_flow restore_ram; /* requests served from RAM alone */
  struct report_flow restore_ssd; /* requests with SSD blocks: those, over all the time of these */
  struct report_latency match_latency, restore_latency, store_latency;
  double flush_s, close_s, wall_s;

  uint64_t peak_rss_bytes;
  uint64_t before_rss_bytes; /* program, trace and buffers, before the store was opened */
  uint64_t buffer_bytes;     /* of them, the buffers that stand for the inference engine's */
  uint64_t ram_budget_bytes, ssd_budget_bytes;
  uint64_t ssd_bytes, ssd_peak_bytes; /* allocated in the directory, as the file system says */
  uint32_t segment_bytes;
  uint64_t segment_blocks; /* records that fit one, about */

  kvstow_stats stats; /* after the flush, of this run */
};

/* Numbers of a latency sample; sorts it. */
struct report_latency report_latency_of(float *us, uint64_t count);

/* One JSON object. False if it could not be made or written. */
bool report_json(const struct replay_report *report, FILE *out);
void report_text(const struct replay_report *report, FILE *out);

#endif
