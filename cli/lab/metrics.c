/* cli/lab/metrics.c - what a row tells.
 *
 *   block_hit      share of accesses that found their block: libCacheSim's figure
 *   prefix_hit     share of blocks in the leading run held when their request started: what a server
 *                  can use. Sizes, misses and hits of one row come from the same pass
 *   token_hit      the same in tokens
 *   prefill_saved  share of prefill time that the leading runs save. Prefilling n tokens takes
 *                  a n + b n^2: so much a token, and so much for each token before it (attention).
 *                  A prompt whose first k tokens are held costs what k..n cost: a k + b k^2 is saved.
 *                  What restoring them costs is not in it
 *   never_read     share of blocks written that no leading run had in it before they left
 *   dwpd           drive writes a day: bytes written over the drive's size (--ssd-bytes, or else the
 *                  tier's own) and the days between the trace's first and last timestamp
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "cli/lab/lab.h"

#define MS_PER_DAY 86400000.0

enum { UNITS_ENOUGH = 1000 }; /* docs/eviction.md has the errors */

static struct lab_value none(void) {
  return (struct lab_value){.kind = LAB_NONE};
}

static struct lab_value text(const char *text) {
  return (struct lab_value){.kind = LAB_TEXT, .text = text};
}

static struct lab_value count(uint64_t count) {
  return (struct lab_value){.kind = LAB_COUNT, .count = count};
}

static struct lab_value real(double real) {
  return (struct lab_value){.kind = LAB_REAL, .real = real};
}

static double ratio(double part, double whole) {
  return whole > 0 ? part / whole : 0;
}

static struct lab_value share(uint64_t part, uint64_t whole) {
  return real(ratio((double)part, (double)whole));
}

/* Blocks sampled one by one tell nothing of prefixes. */
static bool no_prefixes(const struct lab *lab) {
  return lab->args->sample > 0 && lab->args->sample_by == TRACE_SAMPLE_BLOCKS;
}

static bool is_two_tiers(const struct lab *lab) {
  return lab->two_tiers;
}

static bool overlaps(const struct lab *lab) {
  return lab->args->in_flight > 0;
}

static bool is_sampled(const struct lab *lab) {
  return lab->args->sample > 0;
}

static bool has_error(const struct lab *lab) {
  return lab->args->sample_error;
}

#define METRIC(name) static struct lab_value name(const struct lab *lab, const struct lab_row *row)
#define UNUSED (void)lab, (void)row

METRIC(trace) {
  UNUSED;
  return text(row->of->trace->name);
}

METRIC(policy) {
  UNUSED;
  return text(row->policy);
}

METRIC(order) {
  UNUSED;
  return text(sim_order_name(lab->args->order));
}

METRIC(tiers) {
  UNUSED;
  return text(lab->args->tiers == REPLAY_TIERS_ENGINE ? "engine" : "ideal");
}

METRIC(in_flight) {
  UNUSED;
  return count(lab->args->in_flight);
}

METRIC(size_blocks) {
  UNUSED;
  return count(row->result.size_blocks);
}

METRIC(size_share) {
  UNUSED;
  return share(row->result.size_blocks, row->result.unique);
}

METRIC(ssd_blocks) {
  UNUSED;
  return count(row->result.ssd_size_blocks);
}

METRIC(requests) {
  UNUSED;
  return count(row->result.requests);
}

METRIC(accesses) {
  UNUSED;
  return count(row->result.accesses);
}

METRIC(unique) {
  UNUSED;
  return count(row->result.unique);
}

METRIC(misses) {
  UNUSED;
  return count(row->result.misses);
}

METRIC(block_hit) {
  UNUSED;
  return real(1 - ratio((double)row->result.misses, (double)row->result.accesses));
}

METRIC(block_miss) {
  UNUSED;
  return share(row->result.misses, row->result.accesses);
}

METRIC(prefix_hit_blocks) {
  return no_prefixes(lab) ? none() : count(row->result.prefix_hit_blocks);
}

METRIC(prefix_hit) {
  return no_prefixes(lab) ? none() : share(row->result.prefix_hit_blocks, row->result.accesses);
}

METRIC(prefix_miss) {
  return no_prefixes(lab)
             ? none()
             : share(row->result.accesses - row->result.prefix_hit_blocks, row->result.accesses);
}

METRIC(token_hit) {
  return no_prefixes(lab) ? none() : share(row->result.prefix_hit_tokens, row->result.input_tokens);
}

static double prefill_seconds(const struct lab *lab, double tokens, double squared) {
  return (lab->args->cost_us[0] * tokens + lab->args->cost_us[1] * squared) * 1e-6;
}

METRIC(prefill_s) {
  return real(
      prefill_seconds(lab, (double)row->result.input_tokens, row->result.input_tokens_squared));
}

METRIC(prefill_saved_s) {
  if (no_prefixes(lab)) return none();
  return real(prefill_seconds(lab, (double)row->result.prefix_hit_tokens,
                              row->result.prefix_hit_tokens_squared));
}

METRIC(prefill_saved) {
  if (no_prefixes(lab)) return none();
  return real(ratio(prefill_saved_s(lab, row).real, prefill_s(lab, row).real));
}

METRIC(ssd_writes) {
  UNUSED;
  return count(row->result.ssd_writes);
}

METRIC(writes_never_read) {
  if (no_prefixes(lab)) return none();
  return count(row->result.ssd_writes - row->result.writes_read);
}

METRIC(never_read) {
  if (no_prefixes(lab)) return none();
  return share(row->result.ssd_writes - row->result.writes_read, row->result.ssd_writes);
}

METRIC(dwpd) {
  const struct trace *trace = row->of->trace;
  const double days = (double)(trace->last_ms - trace->first_ms) / MS_PER_DAY;
  double drive = (double)row->of->drive_blocks;
  if (drive <= 0)
    drive = (double)(lab->two_tiers ? row->result.ssd_size_blocks : row->result.size_blocks);
  if (days <= 0 || drive <= 0) return none();
  return real((double)row->result.ssd_writes / drive / days);
}

METRIC(ram_hit_blocks) {
  return no_prefixes(lab) ? none() : count(row->result.ram_hit_blocks);
}

METRIC(ssd_hit_blocks) {
  return no_prefixes(lab) ? none() : count(row->result.ssd_hit_blocks);
}

METRIC(recompute_blocks) {
  return no_prefixes(lab) ? none() : count(row->result.accesses - row->result.prefix_hit_blocks);
}

METRIC(ram_hit_tokens) {
  return no_prefixes(lab) ? none() : count(row->result.ram_hit_tokens);
}

METRIC(ssd_hit_tokens) {
  return no_prefixes(lab) ? none() : count(row->result.ssd_hit_tokens);
}

METRIC(recompute_tokens) {
  if (no_prefixes(lab)) return none();
  return count(row->result.input_tokens - row->result.prefix_hit_tokens);
}

METRIC(ssd_rewrites) {
  UNUSED;
  return count(row->result.ssd_rewrites);
}

METRIC(reclaims) {
  UNUSED;
  return count(row->result.reclaims);
}

METRIC(accesses_per_s) {
  UNUSED;
  const uint64_t accesses =
      is_sampled(lab) ? row->of->sample.trace->accesses : row->result.accesses;
  return real(ratio((double)accesses, row->result.seconds));
}

METRIC(sim_s) {
  UNUSED;
  return real(row->result.seconds);
}

METRIC(load_s) {
  UNUSED;
  return real(row->of->trace->load_seconds);
}

METRIC(sample) {
  UNUSED;
  return real(lab->args->sample);
}

METRIC(sample_by) {
  UNUSED;
  return text(lab->args->sample_by == TRACE_SAMPLE_BLOCKS ? "block" : "chain");
}

METRIC(sample_units) {
  UNUSED;
  return count(row->of->sample.units);
}

METRIC(sample_accesses) {
  UNUSED;
  return count(row->of->sample.trace->accesses);
}

METRIC(sample_too_small) {
  UNUSED;
  return count(lab_sample_too_small(row->of));
}

static double error_of(struct lab_value (*metric)(const struct lab *, const struct lab_row *),
                       const struct lab *lab, const struct lab_row *row) {
  struct lab_row whole = *row;
  whole.result = row->whole;
  return metric(lab, row).real - metric(lab, &whole).real;
}

METRIC(block_hit_error) {
  return real(error_of(block_hit, lab, row));
}

METRIC(prefix_hit_error) {
  return no_prefixes(lab) ? none() : real(error_of(prefix_hit, lab, row));
}

METRIC(whole_sim_s) {
  UNUSED;
  return real(row->whole.seconds);
}

const struct lab_metric lab_metrics[] = {
    {"trace", NULL, 0, trace, NULL},
    {"policy", NULL, 0, policy, NULL},
    {"order", NULL, 0, order, NULL},
    {"tiers", NULL, 0, tiers, is_two_tiers},
    {"size_blocks", NULL, 0, size_blocks, NULL},
    {"size_share", NULL, 0, size_share, NULL},
    {"requests", NULL, 0, requests, NULL},
    {"accesses", NULL, 0, accesses, NULL},
    {"unique", NULL, 0, unique, NULL},
    {"misses", "Block misses", 1, misses, NULL},
    {"block_hit", "Block hits (% of accesses)", 100, block_hit, NULL},
    {"block_miss", "Block miss ratio (%)", 100, block_miss, NULL},
    {"prefix_hit_blocks", "Prefix hits (blocks)", 1, prefix_hit_blocks, NULL},
    {"prefix_hit", "Prefix hits (% of blocks)", 100, prefix_hit, NULL},
    {"prefix_miss", "Blocks to compute (%)", 100, prefix_miss, NULL},
    {"token_hit", "Prefix hits (% of tokens)", 100, token_hit, NULL},
    {"prefill_s", NULL, 0, prefill_s, NULL},
    {"prefill_saved_s", "Prefill time saved (s)", 1, prefill_saved_s, NULL},
    {"prefill_saved", "Prefill time saved (%)", 100, prefill_saved, NULL},
    {"ssd_writes", "Blocks written", 1, ssd_writes, NULL},
    {"writes_never_read", "Blocks written and never read", 1, writes_never_read, NULL},
    {"never_read", "Writes never read (%)", 100, never_read, NULL},
    {"dwpd", "Drive writes a day", 1, dwpd, NULL},
    {"ram_blocks", NULL, 0, size_blocks, is_two_tiers},
    {"ssd_blocks", NULL, 0, ssd_blocks, is_two_tiers},
    {"ram_hit_blocks", NULL, 0, ram_hit_blocks, is_two_tiers},
    {"ssd_hit_blocks", NULL, 0, ssd_hit_blocks, is_two_tiers},
    {"recompute_blocks", NULL, 0, recompute_blocks, is_two_tiers},
    {"ram_hit_tokens", NULL, 0, ram_hit_tokens, is_two_tiers},
    {"ssd_hit_tokens", NULL, 0, ssd_hit_tokens, is_two_tiers},
    {"recompute_tokens", NULL, 0, recompute_tokens, is_two_tiers},
    {"ssd_rewrites", NULL, 0, ssd_rewrites, is_two_tiers},
    {"reclaims", NULL, 0, reclaims, is_two_tiers},
    {"in_flight", NULL, 0, in_flight, overlaps},
    {"sample", NULL, 0, sample, is_sampled},
    {"sample_by", NULL, 0, sample_by, is_sampled},
    {"sample_units", NULL, 0, sample_units, is_sampled},
    {"sample_accesses", NULL, 0, sample_accesses, is_sampled},
    {"sample_too_small", NULL, 0, sample_too_small, is_sampled},
    {"block_hit_error", NULL, 0, block_hit_error, has_error},
    {"prefix_hit_error", NULL, 0, prefix_hit_error, has_error},
    {"whole_sim_s", NULL, 0, whole_sim_s, has_error},
    {"accesses_per_s", NULL, 0, accesses_per_s, NULL},
    {"sim_s", NULL, 0, sim_s, NULL},
    {"load_s", NULL, 0, load_s, NULL},
    {NULL, NULL, 0, NULL, NULL},
};

bool lab_sample_too_small(const struct lab_trace *of) {
  return of->sample.units < UNITS_ENOUGH;
}

const struct lab_metric *lab_metric_find(const char *key) {
  for (const struct lab_metric *metric = lab_metrics; metric->key != NULL; metric++)
    if (metric->title != NULL && strcmp(metric->key, key) == 0) return metric;
  return NULL;
}

double lab_number(const struct lab *lab, const struct lab_row *row,
                  const struct lab_metric *metric) {
  const struct lab_value value = metric->of(lab, row);
  if (value.kind == LAB_COUNT) return (double)value.count;
  return value.kind == LAB_REAL ? value.real : NAN;
}
