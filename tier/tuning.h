/* tier/tuning.h - what may be flipped while the tier runs, checked: the cache has no tier without an SSD.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_TUNING_H
#define KVSTOW_TIER_TUNING_H

#include <kvstow/tier.h>

/* Names the field that is out of range; NULL: none. */
const char *kvstow__tuning_fault(const kvstow_tuning *tuning);

#endif
