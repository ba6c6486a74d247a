// SPDX-License-Identifier: MIT
/**
 * Latencies in buckets that are 1/64 of their own size: a percentile is right to about 1.5 %, and
 * recording one costs no more than finding the highest bit.
 */
#ifndef PLOOP_BENCH_HISTOGRAM_H
#define PLOOP_BENCH_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_BUCKETS = 64 * 59 };

struct histogram {
  uint64_t count;
  uint64_t buckets[HISTOGRAM_BUCKETS];
};

static inline void histogram_record(struct histogram *histogram, uint64_t nanoseconds) {
  unsigned bucket = (unsigned)nanoseconds;
  if (nanoseconds >= 64) {
    unsigned exponent = 63 - (unsigned)__builtin_clzll(nanoseconds);
    bucket = (exponent - 5) * 64 + (unsigned)((nanoseconds >> (exponent - 6)) & 63);
  }
  histogram->buckets[bucket]++;
  histogram->count++;
}

static inline void histogram_add(struct histogram *sum, const struct histogram *part) {
  sum->count += part->count;
  for (int bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
    sum->buckets[bucket] += part->buckets[bucket];
  }
}

/** The lower edge of the bucket that holds the quantile, in microseconds; 0 when empty. */
static inline double histogram_quantile(const struct histogram *histogram, double quantile) {
  uint64_t seen = 0;
  for (int bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
    seen += histogram->buckets[bucket];
    if (seen == 0 || (double)seen < quantile * (double)histogram->count) continue;
    if (bucket < 64) return bucket / 1e3;
    return (double)((64ull + (unsigned)bucket % 64) << (bucket / 64 - 1)) / 1e3;
  }
  return 0;
}

#endif
