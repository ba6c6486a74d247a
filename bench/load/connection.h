// SPDX-License-Identifier: MIT
/**
 * One connection under load, driven by one thread.
 *
 * Owns:     the requests in flight and what their replies tell.
 * Promises: a request counts as done when the last byte of its reply has arrived, and counts for
 *           the result when that was between the end of the warm-up and the end of the run. An
 *           error in any reply is counted, in the warm-up too.
 */
#ifndef PLOOP_BENCH_CONNECTION_H
#define PLOOP_BENCH_CONNECTION_H

#include "histogram.h"
#include "options.h"

struct connection {
  const struct options *options;
  unsigned index;
  int fd;
  uint64_t export_bytes;
  /** on the monotonic clock, the same for all connections */
  uint64_t measure_from_ns;
  uint64_t stop_ns;

  /** results */
  uint64_t reads, others, flushes, errors;
  uint32_t first_error;
  /** when the last request that counts was done */
  uint64_t last_done_ns;
  struct histogram latency;
  struct histogram flush_latency;
};

uint64_t now_ns(void);

/** A thread's body: takes a `struct connection *`, returns NULL when every reply is there. */
void *drive_connection(void *connection);

#endif
