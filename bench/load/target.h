// SPDX-License-Identifier: MIT
/** Which block a connection's next request goes to. */
#ifndef PLOOP_BENCH_TARGET_H
#define PLOOP_BENCH_TARGET_H

#include "options.h"

struct target {
  const struct options *options;
  uint64_t random;
  /** blocks, or clusters in allocating order */
  uint64_t unit_count;
  /** of all connections together, how many units come before this connection's */
  uint64_t first;
  uint64_t taken;
  uint64_t stride;
};

void target_init(struct target *target, const struct options *options, unsigned connection,
                 uint64_t export_bytes);

/** False when the pass is over; else the byte offset of a request. */
bool target_next(struct target *target, uint64_t *offset);

/** xorshift64: plenty for choosing blocks, and a few cycles only. */
static inline uint64_t target_random(struct target *target) {
  uint64_t value = target->random;
  value ^= value << 13;
  value ^= value >> 7;
  value ^= value << 17;
  return target->random = value;
}

#endif
