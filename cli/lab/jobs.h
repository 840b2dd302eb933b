/* cli/lab/jobs.h - independent pieces of work on several threads.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_LAB_JOBS_H
#define CLI_LAB_JOBS_H

#include <stddef.h>

/* Processors this process may use. */
unsigned jobs_default(void);

/* Calls work(context, i) once for every i below `count`, in order of beginning, on at most `threads`
 * threads (this one among them), and returns when all are done. With fewer threads than asked for,
 * if the system gives no more. `label` is for a bar on a terminal. */
void jobs_run(const char *label, size_t count, unsigned threads,
              void (*work)(void *context, size_t i), void *context);

#endif
