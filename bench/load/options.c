// SPDX-License-Identifier: MIT
/** The command line of the load generator: sizes take the suffixes K, M, G and T. */
#include "options.h"
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

static const char usage[] =
    "usage: nbd-load (--unix PATH | --tcp PORT) [OPTIONS]\n"
    "  --rw KIND         read, write, randread, randwrite, mixed, allocwrite, trim, zeroes\n"
    "  --bs SIZE         bytes of a request (4K)      --qd N      requests in flight (1)\n"
    "  --conns N         connections (1)              --fsync N   a flush after N requests\n"
    "  --runtime S       seconds (3)                  --warmup S  seconds before that (0)\n"
    "  --count N         requests per connection      --once      one pass over the region\n"
    "  --region SIZE     bytes of the disk (all)      --from SIZE     where they begin (0)\n"
    "  --cluster SIZE    for allocwrite (1M)\n"
    "  --read-percent N  for mixed (70)               --fua       each write durable\n"
    "  --export NAME     (the default export)         --structured  structured replies\n"
    "  --cpu-of PID      report the CPU time of this process too\n";

static _Noreturn void refuse(const char *what, const char *text) {
  fprintf(stderr, "nbd-load: %s: %s\n%s", what, text, usage);
  exit(2);
}

static uint64_t parse_size(const char *text, const char *name, uint64_t max) {
  char *end;
  uint64_t value = strtoull(text, &end, 10);
  if (end == text || text[0] == '-') refuse(name, text);
  const char *suffixes = "KMGT";
  const char *suffix = *end == 0 ? NULL : strchr(suffixes, *end);
  if (*end != 0 && (suffix == NULL || end[1] != 0)) refuse(name, text);
  unsigned shift = suffix == NULL ? 0 : 10 * (unsigned)(suffix - suffixes + 1);
  if (value > max >> shift) refuse(name, text);
  return value << shift;
}

static unsigned parse_count(const char *text, const char *name, unsigned max) {
  return (unsigned)parse_size(text, name, max);
}

static double parse_seconds(const char *text, const char *name) {
  char *end;
  double value = strtod(text, &end);
  if (end == text || *end != 0 || !(value >= 0 && value <= 3600)) refuse(name, text);
  return value;
}

static void parse_kind(struct options *options, const char *kind) {
  static const struct {
    const char *name;
    enum nbd_command command;
    unsigned read_percent;
    enum order order;
  } kinds[] = {
      {"read", NBD_CMD_READ, 0, ORDER_SEQUENTIAL},
      {"randread", NBD_CMD_READ, 0, ORDER_RANDOM},
      {"write", NBD_CMD_WRITE, 0, ORDER_SEQUENTIAL},
      {"randwrite", NBD_CMD_WRITE, 0, ORDER_RANDOM},
      {"mixed", NBD_CMD_WRITE, 70, ORDER_RANDOM},
      {"allocwrite", NBD_CMD_WRITE, 0, ORDER_ALLOCATING},
      {"trim", NBD_CMD_TRIM, 0, ORDER_SEQUENTIAL},
      {"zeroes", NBD_CMD_WRITE_ZEROES, 0, ORDER_SEQUENTIAL},
  };
  for (size_t index = 0; index < sizeof kinds / sizeof kinds[0]; index++) {
    if (strcmp(kind, kinds[index].name) != 0) continue;
    options->command = kinds[index].command;
    options->read_percent = kinds[index].read_percent;
    options->order = kinds[index].order;
    return;
  }
  refuse("--rw", kind);
}

static void check(const struct options *options) {
  if ((options->socket_path == NULL) == (options->tcp_port == 0)) {
    refuse("where is the server", "give --unix or --tcp");
  }
  if (options->block_bytes == 0) refuse("--bs", "0");
  if (options->queue_depth == 0) refuse("--qd", "0");
  if (options->connections == 0) refuse("--conns", "0");
  bool has_payload = options->command == NBD_CMD_WRITE || options->read_percent > 0;
  if (has_payload && options->block_bytes > 32u << 20) refuse("--bs", "more than 32M of payload");
  if (options->order == ORDER_ALLOCATING && options->cluster_bytes % options->block_bytes != 0) {
    refuse("--cluster", "must be a multiple of --bs");
  }
}

struct options parse_options(int argc, char **argv) {
  static const struct option words[] = {
      {"unix", 1, 0, 'u'},         {"tcp", 1, 0, 'p'},
      {"export", 1, 0, 'e'},       {"rw", 1, 0, 'w'},
      {"bs", 1, 0, 'b'},           {"qd", 1, 0, 'q'},
      {"conns", 1, 0, 'c'},        {"runtime", 1, 0, 't'},
      {"warmup", 1, 0, 'W'},       {"count", 1, 0, 'n'},
      {"fsync", 1, 0, 'f'},        {"region", 1, 0, 'r'},
      {"from", 1, 0, 's'},         {"cluster", 1, 0, 'k'},
      {"once", 0, 0, 'o'},         {"fua", 0, 0, 'F'},
      {"read-percent", 1, 0, 'R'}, {"structured", 0, 0, 'S'},
      {"cpu-of", 1, 0, 'P'},       {0},
  };
  struct options options = {.export_name = "",
                            .block_bytes = 4096,
                            .cluster_bytes = 1 << 20,
                            .queue_depth = 1,
                            .connections = 1,
                            .runtime_seconds = 3};
  int letter;
  while ((letter = getopt_long(argc, argv, "", words, NULL)) != -1) {
    switch (letter) {
    case 'u': options.socket_path = optarg; break;
    case 'p': options.tcp_port = (uint16_t)parse_count(optarg, "--tcp", 65535); break;
    case 'e': options.export_name = optarg; break;
    case 'w': parse_kind(&options, optarg); break;
    case 'b': options.block_bytes = parse_count(optarg, "--bs", BLOCK_BYTES_MAX); break;
    case 'q': options.queue_depth = parse_count(optarg, "--qd", QUEUE_DEPTH_MAX); break;
    case 'c': options.connections = parse_count(optarg, "--conns", CONNECTIONS_MAX); break;
    case 't': options.runtime_seconds = parse_seconds(optarg, "--runtime"); break;
    case 'W': options.warmup_seconds = parse_seconds(optarg, "--warmup"); break;
    case 'n': options.count = parse_size(optarg, "--count", UINT64_MAX); break;
    case 'f': options.flush_every = parse_count(optarg, "--fsync", 1 << 30); break;
    case 's': options.region_start = parse_size(optarg, "--from", UINT64_MAX); break;
    case 'r': options.region_bytes = parse_size(optarg, "--region", UINT64_MAX); break;
    case 'k': options.cluster_bytes = parse_count(optarg, "--cluster", BLOCK_BYTES_MAX); break;
    case 'o': options.once = true; break;
    case 'F': options.fua = true; break;
    case 'R': options.read_percent = parse_count(optarg, "--read-percent", 100); break;
    case 'S': options.structured_replies = true; break;
    case 'P': options.server_pid = (int)parse_count(optarg, "--cpu-of", INT32_MAX); break;
    default: fputs(usage, stderr); exit(2);
    }
  }
  if (optind < argc) refuse("what is this", argv[optind]);
  check(&options);
  return options;
}
