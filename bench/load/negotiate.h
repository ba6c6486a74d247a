// SPDX-License-Identifier: MIT
/** From nothing to the transmission phase: connecting and the NBD handshake, blocking. */
#ifndef PLOOP_BENCH_NEGOTIATE_H
#define PLOOP_BENCH_NEGOTIATE_H

#include "options.h"

/**
 * Connects and chooses the export. Ends the process when that fails: a benchmark of half its
 * connections would say nothing.
 *
 * @return a descriptor in non-blocking mode, ready for requests
 */
int negotiate(const struct options *options, uint64_t *export_bytes);

/** Writes all of it, blocking; false when the connection is gone. */
bool write_all(int fd, const void *bytes, size_t count);

#endif
