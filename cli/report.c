/* report.c - the replay's figures as a table and as JSON, both from one struct.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/report.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

#include "cli/table.h"

static double ratio(double part, double whole) {
  return whole > 0 ? part / whole : 0;
}

static uint64_t hit_blocks(const struct report_served *s) {
  return s->ram_hit_blocks + s->ssd_hit_blocks;
}

static double tok_s(const struct replay_report *r, const struct report_flow *flow) {
  return ratio((double)flow->blocks * r->block_tokens, flow->seconds);
}

static double mb_s(const struct replay_report *r, const struct report_flow *flow) {
  return ratio((double)flow->blocks * (double)r->block_bytes / 1e6, flow->seconds);
}

/* A block anywhere in its request that needed no storing, prefix or not. */
static double block_hit(const struct replay_report *r) {
  return ratio((double)(hit_blocks(&r->served) + r->stats.duplicate_blocks),
               (double)r->served.blocks);
}

static int by_value(const void *a, const void *b) {
  const float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

/* Nearest rank: the smallest value that at least `share` of all do not exceed. */
static double quantile(const float *sorted, uint64_t count, double share) {
  const double rank = share * (double)count;
  uint64_t at = (uint64_t)rank;
  if ((double)at < rank) at++;
  return sorted[at > 0 ? at - 1 : 0];
}

struct report_latency report_latency_of(float *us, uint64_t count) {
  struct report_latency latency = {.count = count};
  if (count == 0) return latency;
  qsort(us, count, sizeof *us, by_value);
  latency.p50_us = quantile(us, count, 0.5);
  latency.p99_us = quantile(us, count, 0.99);
  latency.p999_us = quantile(us, count, 0.999);
  latency.max_us = us[count - 1];
  return latency;
}

/* ---- JSON ----------------------------------------------------------------------------------- */

static void put_count(json_t *object, const char *name, uint64_t value) {
  json_object_set_new(object, name, json_integer((json_int_t)value));
}

static void put_real(json_t *object, const char *name, double value) {
  json_object_set_new(object, name, json_real(value));
}

static void put_text(json_t *object, const char *name, const char *value) {
  json_object_set_new(object, name, json_string(value != NULL ? value : ""));
}

static void put_latency(json_t *object, const char *name, const struct report_latency *l) {
  json_t *inner = json_object();
  put_count(inner, "count", l->count);
  put_real(inner, "p50_us", l->p50_us);
  put_real(inner, "p99_us", l->p99_us);
  put_real(inner, "p999_us", l->p999_us);
  put_real(inner, "max_us", l->max_us);
  json_object_set_new(object, name, inner);
}

static void put_served(json_t *o, const struct report_served *s) {
  put_count(o, "requests", s->requests);
  put_count(o, "blocks", s->blocks);
  put_count(o, "tokens", s->tokens);
  put_count(o, "ram_hit_blocks", s->ram_hit_blocks);
  put_count(o, "ssd_hit_blocks", s->ssd_hit_blocks);
  put_count(o, "recompute_blocks", s->recompute_blocks);
  put_count(o, "prefix_hit_blocks", hit_blocks(s));
  put_real(o, "prefix_hit", ratio((double)hit_blocks(s), (double)s->blocks));
  put_real(o, "token_hit", ratio((double)s->hit_tokens, (double)s->tokens));
}

static void put_what(json_t *o, const struct replay_report *r) {
  put_text(o, "trace", r->trace);
  put_text(o, "policy", r->policy);
  put_text(o, "model", r->model);
  put_text(o, "write_mode", r->write_mode);
  put_count(o, "layers", r->layers);
  put_count(o, "k_bytes", r->k_bytes);
  put_count(o, "v_bytes", r->v_bytes);
  put_count(o, "block_tokens", r->block_tokens);
  put_count(o, "trace_block_tokens", r->trace_block_tokens);
  put_count(o, "block_bytes", r->block_bytes);
  put_count(o, "payload_bytes", r->payload_bytes);
}

static void put_speed(json_t *o, const struct replay_report *r) {
  put_count(o, "stored_blocks", r->store.blocks);
  put_real(o, "store_tok_s", tok_s(r, &r->store));
  put_real(o, "store_mb_s", mb_s(r, &r->store));
  put_count(o, "restored_blocks", r->restore.blocks);
  put_real(o, "restore_tok_s", tok_s(r, &r->restore));
  put_real(o, "restore_mb_s", mb_s(r, &r->restore));
  put_real(o, "restore_ram_mb_s", mb_s(r, &r->restore_ram));
  put_real(o, "restore_ssd_mb_s", mb_s(r, &r->restore_ssd));
  json_t *latency = json_object();
  put_latency(latency, "match", &r->match_latency);
  put_latency(latency, "restore", &r->restore_latency);
  put_latency(latency, "store", &r->store_latency);
  json_object_set_new(o, "latency", latency);
  put_real(o, "flush_s", r->flush_s);
  put_real(o, "close_s", r->close_s);
  put_real(o, "wall_s", r->wall_s);
}

static void put_prefetch(json_t *o, const char *key, const kvstow_prefetch_stats *p) {
  json_t *prefetch = json_object();
  put_count(prefetch, "issued", p->issued);
  put_count(prefetch, "used", p->used);
  put_count(prefetch, "wasted", p->wasted);
  put_count(prefetch, "late", p->late);
  json_object_set_new(o, key, prefetch);
}

static void put_engine(json_t *o, const struct replay_report *r) {
  const kvstow_stats *s = &r->stats;
  put_prefetch(o, "prefetch", &s->prefetch_chain);
  put_count(o, "merges", s->tier.merges);
  put_real(o, "merge_ratio", ratio((double)s->tier.read_requests, (double)s->tier.device_reads));
  put_real(o, "write_amplification", s->write_amplification);
  put_count(o, "ssd_read_bytes", s->tier.device_read_bytes);
  put_count(o, "ssd_write_bytes", s->tier.bytes_written);
  put_count(o, "demoted_blocks", s->demoted_blocks);
  put_count(o, "promoted_blocks", s->promoted_blocks);
  put_count(o, "evicted_blocks", s->evicted_blocks);
  put_count(o, "reinserted_blocks", s->reinserted_blocks);
  put_count(o, "segments_reclaimed", s->segments_reclaimed);
  put_count(o, "store_waits", s->stored_waits);
  put_text(o, "engine", s->tier.engine);
  put_text(o, "engine_reason", s->tier.engine_reason);
  json_object_set_new(o, "direct_io", json_boolean(s->tier.direct_io));
  put_count(o, "recovered_blocks", s->recovered_blocks);
  put_real(o, "recovery_ms", (double)s->recovery_us / 1e3);
  put_real(o, "metadata_bytes_per_block", s->metadata_bytes_a_block);
  put_count(o, "ram_capacity_blocks", s->ram_capacity_blocks);
  put_real(o, "fragmentation", s->fragmentation);
}

static void put_budgets(json_t *o, const struct replay_report *r) {
  put_count(o, "peak_rss_bytes", r->peak_rss_bytes);
  put_count(o, "harness_rss_bytes", r->before_rss_bytes);
  put_count(o, "harness_buffer_bytes", r->buffer_bytes);
  put_count(o, "ram_budget_bytes", r->ram_budget_bytes);
  put_count(o, "ssd_bytes", r->ssd_bytes);
  put_count(o, "ssd_peak_bytes", r->ssd_peak_bytes);
  put_count(o, "ssd_budget_bytes", r->ssd_budget_bytes);
  put_count(o, "segment_bytes", r->segment_bytes);
  put_count(o, "segment_blocks", r->segment_blocks);
}

static void put_trouble(json_t *o, const struct replay_report *r) {
  put_count(o, "mismatched_bytes", r->mismatched_bytes);
  put_count(o, "unequal_blocks", r->unequal_blocks);
  put_count(o, "lost_blocks", r->lost_blocks);
  put_count(o, "store_refused_blocks", r->store_refused_blocks);
  put_count(o, "corrupt_blocks", r->stats.corrupt_blocks);
  put_count(o, "failed_loads", r->stats.failed_loads);
  put_count(o, "timeouts", r->stats.timeouts);
  put_count(o, "io_errors", r->stats.tier.io_errors);
  put_count(o, "disk_full", r->stats.tier.disk_full);
  put_count(o, "stale_reads", r->stats.tier.stale_reads);
}

bool report_json(const struct replay_report *r, FILE *out) {
  json_t *o = json_object();
  put_what(o, r);
  put_served(o, &r->served);
  put_real(o, "block_hit", block_hit(r));
  put_count(o, "unique_blocks", r->unique_blocks);
  put_speed(o, r);
  put_engine(o, r);
  put_budgets(o, r);
  put_trouble(o, r);
  if (r->stats.recovered_blocks > 0) {
    json_t *after = json_object();
    put_served(after, &r->after_restart);
    json_object_set_new(o, "after_restart", after);
    put_count(o, "survivor_hit_blocks", r->survivor_hit_blocks);
  }
  bool ok = o != NULL && json_dumpf(o, out, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) == 0;
  json_decref(o);
  return ok && fputc('\n', out) != EOF;
}

/* ---- text ----------------------------------------------------------------------------------- */

static const char *time_text(double us, char text[TABLE_CELL_BYTES]) {
  if (us < 1e3)
    snprintf(text, TABLE_CELL_BYTES, "%.0f us", us);
  else if (us < 1e6)
    snprintf(text, TABLE_CELL_BYTES, "%.1f ms", us / 1e3);
  else
    snprintf(text, TABLE_CELL_BYTES, "%.2f s", us / 1e6);
  return text;
}

static void served_line(FILE *out, const char *name, uint64_t blocks,
                        const struct report_served *s) {
  char count[TABLE_CELL_BYTES];
  fprintf(out, "  %-18s %12s %8.2f %%\n", name, format_count(count, blocks),
          100 * ratio((double)blocks, (double)s->blocks));
}

static void served_text(FILE *out, const char *title, const struct report_served *s) {
  fprintf(out, "\n%-20s %12s %10s\n", title, "blocks", "of all");
  served_line(out, "from RAM", s->ram_hit_blocks, s);
  served_line(out, "from SSD", s->ssd_hit_blocks, s);
  served_line(out, "recomputed", s->recompute_blocks, s);
  char tokens[TABLE_CELL_BYTES], requests[TABLE_CELL_BYTES];
  fprintf(out, "  of %s prompt tokens in %s requests %.2f %% were served\n",
          format_count(tokens, s->tokens), format_count(requests, s->requests),
          100 * ratio((double)s->hit_tokens, (double)s->tokens));
}

static void latency_line(FILE *out, const char *name, double tokens_s, double megabytes_s,
                         const struct report_latency *l) {
  char rate[TABLE_CELL_BYTES], p50[TABLE_CELL_BYTES], p99[TABLE_CELL_BYTES], p999[TABLE_CELL_BYTES];
  fprintf(out, "  %-18s", name);
  if (tokens_s > 0)
    fprintf(out, " %12s %10.0f", format_count(rate, (uint64_t)tokens_s), megabytes_s);
  else
    fprintf(out, " %12s %10s", "-", "-");
  if (l != NULL && l->count > 0) {
    fprintf(out, " %10s %10s %10s", time_text(l->p50_us, p50), time_text(l->p99_us, p99),
            time_text(l->p999_us, p999));
  }
  fputc('\n', out);
}

static void speed_text(const struct replay_report *r, FILE *out) {
  fprintf(out, "\n%-20s %12s %10s %10s %10s %10s\n", "speed", "tokens/s", "MB/s", "p50", "p99",
          "p99.9");
  latency_line(out, "match", 0, 0, &r->match_latency);
  latency_line(out, "restore", tok_s(r, &r->restore), mb_s(r, &r->restore), &r->restore_latency);
  latency_line(out, "  RAM alone", tok_s(r, &r->restore_ram), mb_s(r, &r->restore_ram), NULL);
  latency_line(out, "  SSD blocks", tok_s(r, &r->restore_ssd), mb_s(r, &r->restore_ssd), NULL);
  latency_line(out, "store", tok_s(r, &r->store), mb_s(r, &r->store), &r->store_latency);
  fputs(
      "  time inside kvstow calls, per request; SSD blocks: over all the time of the requests\n"
      "  that had any\n",
      out);
}

static void inside_text(const struct replay_report *r, FILE *out) {
  const kvstow_stats *s = &r->stats;
  char a[TABLE_CELL_BYTES], b[TABLE_CELL_BYTES];
  fputs("\ninside\n", out);
  const kvstow_prefetch_stats *p = &s->prefetch_chain;
  fprintf(out,
          "  %-18s %" PRIu64 " issued, %" PRIu64 " used, %" PRIu64 " wasted, %" PRIu64 " late\n",
          "prefetch", p->issued, p->used, p->wasted, p->late);
  fprintf(out, "  %-18s %" PRIu64 " asked for, %" PRIu64 " sent to the device (%.2f : 1)\n",
          "SSD reads", s->tier.read_requests, s->tier.device_reads,
          ratio((double)s->tier.read_requests, (double)s->tier.device_reads));
  fprintf(out, "  %-18s %s read, %s written, write amplification %.3f\n", "SSD traffic",
          format_bytes(a, s->tier.device_read_bytes), format_bytes(b, s->tier.bytes_written),
          s->write_amplification);
  fprintf(out, "  %-18s %s, %s (%s)\n", "I/O engine",
          s->tier.engine != NULL ? s->tier.engine : "none",
          s->tier.direct_io ? "O_DIRECT" : "buffered", s->tier.engine_reason);
  fprintf(out, "  %-18s %.0f bytes a block\n", "index", s->metadata_bytes_a_block);
}

static void budgets_text(const struct replay_report *r, FILE *out) {
  char a[TABLE_CELL_BYTES], b[TABLE_CELL_BYTES], c[TABLE_CELL_BYTES], d[TABLE_CELL_BYTES];
  fputs("\nbudgets\n", out);
  fprintf(out, "  %-18s peak RSS %s; budget %s + harness %s (of it %s buffers)\n", "memory",
          format_bytes(a, r->peak_rss_bytes), format_bytes(b, r->ram_budget_bytes),
          format_bytes(c, r->before_rss_bytes), format_bytes(d, r->buffer_bytes));
  fprintf(out, "  %-18s %s used, at most %s; budget %s in segments of %s\n", "SSD",
          format_bytes(a, r->ssd_bytes), format_bytes(b, r->ssd_peak_bytes),
          format_bytes(c, r->ssd_budget_bytes), format_bytes(d, r->segment_bytes));
}

static void trouble_text(const struct replay_report *r, FILE *out) {
  fprintf(out, "\nmismatched bytes     %" PRIu64 " (of %" PRIu64 " blocks restored and checked)\n",
          r->mismatched_bytes, r->restore.blocks);
  if (r->unequal_blocks > 0) fprintf(out, "unequal blocks       %" PRIu64 "\n", r->unequal_blocks);
  if (r->lost_blocks > 0) {
    fprintf(out, "lost blocks          %" PRIu64 " matched, then not readable: recomputed (%s)\n",
            r->lost_blocks, r->first_loss);
  }
  if (r->store_refused_blocks > 0) {
    fprintf(out, "not stored           %" PRIu64 " blocks: RAM was full of blocks in use\n",
            r->store_refused_blocks);
  }
  if (r->stats.tier.disk_full > 0) {
    char used[TABLE_CELL_BYTES], budget[TABLE_CELL_BYTES];
    fprintf(out, "disk full            at %s of a budget of %s: the file system has no more room\n",
            format_bytes(used, r->ssd_peak_bytes), format_bytes(budget, r->ssd_budget_bytes));
  }
}

void report_text(const struct replay_report *r, FILE *out) {
  char a[TABLE_CELL_BYTES];
  fprintf(out, "%s, policy %s, %s, %.1f s\n", r->trace, r->policy, r->write_mode, r->wall_s);
  fprintf(out, "%s: %u layers, K %u + V %u bytes a token; blocks of %u tokens, %s\n", r->model,
          r->layers, r->k_bytes, r->v_bytes, r->block_tokens, format_bytes(a, r->block_bytes));
  if (r->block_tokens != r->trace_block_tokens) {
    fprintf(out, "%u tokens stand for the trace's %u%s\n", r->block_tokens, r->trace_block_tokens,
            r->scaled_down ? ", so that a block is at most 2 MiB (--block-tokens decides)" : "");
  }
  if (r->stats.recovered_blocks > 0) {
    fprintf(out,
            "recovered %" PRIu64 " blocks in %.1f ms; %" PRIu64
            " hits on blocks from before this run\n",
            r->stats.recovered_blocks, (double)r->stats.recovery_us / 1e3, r->survivor_hit_blocks);
    served_text(out, "after the restart", &r->after_restart);
  }
  served_text(out, "all requests", &r->served);
  speed_text(r, out);
  inside_text(r, out);
  budgets_text(r, out);
  trouble_text(r, out);
}
