/* policies.h - eviction policies as the command's options name them: NAME, or NAME:KEY=VALUE,...
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_POLICIES_H
#define CLI_POLICIES_H

#include <stdbool.h>
#include <stddef.h>

enum { POLICY_NAME_BYTES = 256 };

/* True of opt, belady and infinite, which know the future and only simulate one tier. */
bool policy_offline(const char *name);

/* All shipped ones, with commas between. */
void policy_names(char *text, size_t bytes);

/* Parts NAME:KEY=VALUE,... into `name` and what comes after the colon; that is NULL if there is none. */
const char *policy_params(const char *text, char name[POLICY_NAME_BYTES]);

/* True if there is such a policy and it takes these parameters (NULL: those in its name); else `why` tells which it
 * does not. */
bool policy_check(const char *text, const char *params, char *why, size_t why_bytes);

#endif
