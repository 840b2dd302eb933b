/* preload_store.c - the one store of the process, its log and its metrics.
 *
 * All from the environment, which kvstow-run sets: KVSTOW_LLAMA_DIR (without it everything is passed
 * through), _RAM, _SSD, _BLOCK, _ALIGN, _LOG, _METRICS.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "preload.h"

enum { METRICS_EVERY_S = 1, METRICS_BYTES = 64 << 10 };

static const uint64_t default_ram = 2ull << 30, default_ssd = 20ull << 30;

static kvstow *store;
static pthread_once_t opened = PTHREAD_ONCE_INIT;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t metrics_lock = PTHREAD_MUTEX_INITIALIZER;

void kvl_log(const char *format, ...) {
  char line[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(line, sizeof line, format, args);
  va_end(args);
  const char *path = getenv("KVSTOW_LLAMA_LOG");
  pthread_mutex_lock(&log_lock);
  FILE *out = path != NULL && path[0] != '\0' ? fopen(path, "ae") : stderr;
  if (out != NULL) {
    fprintf(out, "kvstow: %s\n", line);
    if (out != stderr) fclose(out);
  }
  pthread_mutex_unlock(&log_lock);
}

/* "512MiB", "20GiB", "4096"; 0 if it is none. */
static uint64_t parse_size(const char *text) {
  char *end;
  errno = 0;
  const unsigned long long n = strtoull(text, &end, 10);
  static const struct {
    const char *unit;
    int shift;
  } units[] = {{"", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
  for (size_t i = 0; i < sizeof units / sizeof *units; i++)
    if (end != text && errno == 0 && strcmp(end, units[i].unit) == 0 &&
        n <= UINT64_MAX >> units[i].shift)
      return (uint64_t)n << units[i].shift;
  return 0;
}

static bool size_from(const char *variable, uint64_t usual, uint64_t *size) {
  const char *text = getenv(variable);
  *size = text == NULL || text[0] == '\0' ? usual : parse_size(text);
  if (*size != 0) return true;
  kvl_log("%s=%s is no size (512MiB, 20GiB): not caching", variable, text);
  return false;
}

static void open_store(void) {
  const char *dir = getenv("KVSTOW_LLAMA_DIR");
  kvstow_options o;
  kvstow_options_init(&o);
  if (dir == NULL || dir[0] == '\0') {
    kvl_log("KVSTOW_LLAMA_DIR is not set: not caching");
    return;
  }
  if (!size_from("KVSTOW_LLAMA_RAM", default_ram, &o.ram_bytes) ||
      !size_from("KVSTOW_LLAMA_SSD", default_ssd, &o.ssd_bytes))
    return;
  o.dirs = &dir;
  o.dirs_count = 1;
  o.write_mode = KVSTOW_WRITE_THROUGH; /* a server that is killed loses little */
  char why[KVSTOW_MESSAGE_BYTES];
  if (kvstow_open(&o, &store, why, sizeof why) != 0) {
    kvl_log("%s: not caching", why);
    store = NULL;
    return;
  }
  kvstow_stats stats = {.size = sizeof stats};
  kvstow_get_stats(store, &stats);
  kvl_log("kvstow %s, %s: %llu blocks, RAM %llu MiB, SSD %llu MiB, %s%s", kvstow_version(), dir,
          (unsigned long long)stats.blocks, (unsigned long long)(o.ram_bytes >> 20),
          (unsigned long long)(o.ssd_bytes >> 20), stats.tier.engine,
          stats.tier.direct_io ? ", O_DIRECT" : ", buffered");
}

kvstow *kvl_store(void) {
  pthread_once(&opened, open_store);
  return store;
}

void kvl_configure(kvstow_llama_options *options) {
  const char *block = getenv("KVSTOW_LLAMA_BLOCK"), *align = getenv("KVSTOW_LLAMA_ALIGN");
  if (block != NULL) options->block_tokens = (uint32_t)strtoul(block, NULL, 10);
  if (align != NULL) options->align_tokens = (uint32_t)strtoul(align, NULL, 10);
}

/* ---- metrics -------------------------------------------------------------------------------- */

static atomic_ullong prompt_tokens, prompt_restored;
static kvstow_llama_stats ended; /* sum over contexts that are gone; under metrics_lock */

void kvl_count_prompt(size_t tokens, size_t restored) {
  atomic_fetch_add(&prompt_tokens, tokens);
  atomic_fetch_add(&prompt_restored, restored);
}

static void add(kvstow_llama_stats *sum, const kvstow_llama_stats *s) {
  sum->restores += s->restores;
  sum->restored_tokens += s->restored_tokens;
  sum->restored_bytes += s->restored_bytes;
  sum->restore_us += s->restore_us;
  sum->commits += s->commits;
  sum->committed_tokens += s->committed_tokens;
  sum->committed_bytes += s->committed_bytes;
  sum->commit_us += s->commit_us;
  sum->refused += s->refused;
  sum->failed += s->failed;
}

void kvl_count_context(const kvstow_llama *cache) {
  kvstow_llama_stats s;
  kvstow_llama_get_stats(cache, &s);
  pthread_mutex_lock(&metrics_lock);
  add(&ended, &s);
  pthread_mutex_unlock(&metrics_lock);
}

static void add_context(struct kvl_context *c, void *sum) {
  kvstow_llama_stats s;
  if (c->cache == NULL) return;
  kvstow_llama_get_stats(c->cache, &s);
  add(sum, &s);
}

static void write_metrics(const char *path) {
  kvstow_llama_stats s = ended;
  kvl_contexts(add_context, &s);
  char temporary[4096];
  snprintf(temporary, sizeof temporary, "%s.%d", path, (int)getpid());
  FILE *out = fopen(temporary, "we");
  if (out == NULL) return;
  const struct {
    const char *name, *help;
    unsigned long long value;
  } counters[] = {
      {"prompt_tokens", "tokens of prompts asked to be decoded", atomic_load(&prompt_tokens)},
      {"prompt_restored_tokens", "of them not decoded but restored", atomic_load(&prompt_restored)},
      {"restores", "restores", s.restores},
      {"restored_tokens", "tokens put back", s.restored_tokens},
      {"restored_bytes", "bytes put back", s.restored_bytes},
      {"restore_microseconds", "time in restores", s.restore_us},
      {"failed_restores", "restores that ended early", s.failed},
      {"commits", "commits of new blocks", s.commits},
      {"committed_tokens", "tokens stored", s.committed_tokens},
      {"committed_bytes", "bytes stored", s.committed_bytes},
      {"commit_microseconds", "time in commits", s.commit_us},
      {"refused_blocks", "blocks doubtful or without room", s.refused},
  };
  for (size_t i = 0; i < sizeof counters / sizeof *counters; i++)
    fprintf(out,
            "# HELP kvstow_llama_%s_total %s\n# TYPE kvstow_llama_%s_total counter\n"
            "kvstow_llama_%s_total %llu\n",
            counters[i].name, counters[i].help, counters[i].name, counters[i].name,
            counters[i].value);
  char *text = store != NULL ? malloc(METRICS_BYTES) : NULL;
  if (text != NULL && kvstow_stats_prometheus(store, text, METRICS_BYTES) < METRICS_BYTES)
    fputs(text, out);
  free(text);
  if (fclose(out) == 0)
    rename(temporary, path);
  else
    unlink(temporary);
}

void kvl_metrics_tick(bool changed) {
  static time_t written; /* under metrics_lock */
  const char *path = getenv("KVSTOW_LLAMA_METRICS");
  if (path == NULL || path[0] == '\0' || pthread_mutex_trylock(&metrics_lock) != 0) return;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  if (changed || now.tv_sec - written >= METRICS_EVERY_S) {
    write_metrics(path);
    written = now.tv_sec;
  }
  pthread_mutex_unlock(&metrics_lock);
}

/* The process ends: what RAM alone holds goes to SSD. */
__attribute__((destructor)) static void close_store(void) {
  if (store == NULL) return;
  const char *path = getenv("KVSTOW_LLAMA_METRICS");
  if (path != NULL && path[0] != '\0') write_metrics(path);
  const int rc = kvstow_close(store);
  if (rc != 0 && rc != KVSTOW_ENOSPC) kvl_log("closing: %s", kvstow_strerror(rc));
  store = NULL;
}
