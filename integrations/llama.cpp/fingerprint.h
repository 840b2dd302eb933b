/* fingerprint.h - what makes the KV of two contexts interchangeable, as text.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_LLAMA_FINGERPRINT_H
#define KVSTOW_LLAMA_FINGERPRINT_H

#include "kvstow-llama.h"

/* One "fact value" a line; the caller frees it. NULL: no memory, or the model's file can't be read as
 * GGUF (`why` tells). Reads a few pages of every tensor. */
char *kvl_fingerprint(const struct llama_model *model, const struct llama_context *ctx,
                      const kvstow_llama_options *options, char *why, size_t why_bytes);

#endif
