/* tier/region.h - memory for device transfers: anonymous, 2 MiB aligned, huge pages advised (they cut the
 * CPU cost of direct I/O several times). Not resident until it is touched.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_REGION_H
#define KVSTOW_TIER_REGION_H

#include <stddef.h>
#include <stdint.h>

uint8_t *kvstow__region_map(size_t bytes); /* NULL: no memory */
/* Makes it resident now (the first touch of a page may take as long as writing it to a disk); a wish. */
void kvstow__region_populate(uint8_t *region, size_t bytes);
void kvstow__region_unmap(uint8_t *region, size_t bytes);

#endif
