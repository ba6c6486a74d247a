// SPDX-License-Identifier: MIT
/** Random, sequential and allocating order; see options.h for what they promise. */
#include "target.h"
#include <stdio.h>
#include <stdlib.h>

static uint64_t common_divisor(uint64_t a, uint64_t b) {
  while (b != 0) {
    uint64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

void target_init(struct target *target, const struct options *options, unsigned connection,
                 uint64_t export_bytes) {
  uint64_t start = options->region_start;
  uint64_t bytes = start < export_bytes ? export_bytes - start : 0;
  if (options->region_bytes != 0 && options->region_bytes < bytes) bytes = options->region_bytes;
  bool is_allocating = options->order == ORDER_ALLOCATING;
  uint64_t unit_bytes = is_allocating ? options->cluster_bytes : options->block_bytes;
  uint64_t count = bytes / unit_bytes;
  if (count < options->connections) {
    fprintf(stderr, "nbd-load: %llu bytes are too few for this load\n", (unsigned long long)bytes);
    exit(1);
  }
  target->options = options;
  target->random = 88172645463325252ull + 7919ull * connection;
  target->taken = 0;
  // each connection has its own share of the units
  target->unit_count = count / options->connections;
  target->first = connection * target->unit_count;
  if (options->order == ORDER_RANDOM) target->unit_count = count, target->first = 0;
  // a step near the golden section that meets every unit scatters them well
  target->stride = (uint64_t)((double)target->unit_count * 0.618) | 1;
  while (common_divisor(target->stride, target->unit_count) != 1) target->stride += 2;
}

static bool next_in_region(struct target *target, uint64_t *offset) {
  const struct options *options = target->options;
  if (options->order == ORDER_RANDOM) {
    *offset = (target_random(target) >> 8) % target->unit_count * options->block_bytes;
    return true;
  }
  bool ends = options->once || options->order == ORDER_ALLOCATING;
  if (ends && target->taken == target->unit_count) return false;
  uint64_t turn = target->taken++ % target->unit_count;
  if (options->order == ORDER_SEQUENTIAL) {
    *offset = (target->first + turn) * options->block_bytes;
    return true;
  }
  uint64_t cluster = (uint64_t)((unsigned __int128)turn * target->stride % target->unit_count);
  uint64_t blocks = options->cluster_bytes / options->block_bytes;
  uint64_t block = (target_random(target) >> 8) % blocks;
  *offset = (target->first + cluster) * options->cluster_bytes + block * options->block_bytes;
  return true;
}

bool target_next(struct target *target, uint64_t *offset) {
  if (!next_in_region(target, offset)) return false;
  *offset += target->options->region_start;
  return true;
}
