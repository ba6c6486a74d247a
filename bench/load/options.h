// SPDX-License-Identifier: MIT
/** What load to make, as told on the command line; options.c has the words for it. */
#ifndef PLOOP_BENCH_OPTIONS_H
#define PLOOP_BENCH_OPTIONS_H

#include "protocol.h"
#include <stdbool.h>
#include <stdint.h>

enum order {
  /** any block, any number of times */
  ORDER_RANDOM,
  /** one after the other; each connection has its own part of the disk */
  ORDER_SEQUENTIAL,
  /** one block in each cluster, clusters scattered, each of them once */
  ORDER_ALLOCATING,
};

struct options {
  /** where the server listens: a path, or a port of the loopback */
  const char *socket_path;
  uint16_t tcp_port;
  const char *export_name;
  bool structured_replies;

  enum nbd_command command;
  /** of 100 commands, how many are READ instead */
  unsigned read_percent;
  enum order order;
  /** a pass over the region ends the run */
  bool once;
  bool fua;
  /** a FLUSH after so many commands of a connection; 0: none */
  unsigned flush_every;

  uint32_t block_bytes;
  uint32_t cluster_bytes;
  /** the part of the disk that is used: where it begins, and how long it is; 0: to the end */
  uint64_t region_start;
  uint64_t region_bytes;
  unsigned queue_depth;
  unsigned connections;

  /** per connection; 0: no limit */
  uint64_t count;
  double warmup_seconds;
  double runtime_seconds;
  /** whose CPU time to report; 0: nobody's */
  int server_pid;
};

enum { QUEUE_DEPTH_MAX = 4096, CONNECTIONS_MAX = 256, BLOCK_BYTES_MAX = 1 << 30 };

/** Ends the process with status 2 on anything it does not understand. */
struct options parse_options(int argc, char **argv);

#endif
