// SPDX-License-Identifier: MIT
/**
 * The few words of the NBD protocol that the load generator speaks: numbers as on the wire, and
 * loads and stores in the network's byte order.
 */
#ifndef PLOOP_BENCH_PROTOCOL_H
#define PLOOP_BENCH_PROTOCOL_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

enum nbd_command {
  NBD_CMD_READ = 0,
  NBD_CMD_WRITE = 1,
  NBD_CMD_DISC = 2,
  NBD_CMD_FLUSH = 3,
  NBD_CMD_TRIM = 4,
  NBD_CMD_WRITE_ZEROES = 6,
};

enum {
  NBD_CMD_FLAG_FUA = 1,
  NBD_CLIENT_FIXED_NEWSTYLE = 1,
  NBD_CLIENT_NO_ZEROES = 2,
  NBD_OPT_GO = 7,
  NBD_OPT_STRUCTURED_REPLY = 8,
  NBD_REP_ACK = 1,
  NBD_REP_INFO = 3,
  NBD_INFO_EXPORT = 0,
  NBD_REPLY_FLAG_DONE = 1,
  NBD_REPLY_TYPE_ERROR_BIT = 0x8000,
};

#define NBD_REP_ERROR_BIT 0x80000000u
#define NBD_REQUEST_MAGIC 0x25609513u
#define NBD_SIMPLE_REPLY_MAGIC 0x67446698u
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33efu

enum { NBD_REQUEST_BYTES = 28, NBD_SIMPLE_REPLY_BYTES = 16, NBD_CHUNK_BYTES = 20 };

static inline uint16_t load16(const unsigned char *at) {
  uint16_t value;
  memcpy(&value, at, sizeof value);
  return be16toh(value);
}

static inline uint32_t load32(const unsigned char *at) {
  uint32_t value;
  memcpy(&value, at, sizeof value);
  return be32toh(value);
}

static inline uint64_t load64(const unsigned char *at) {
  uint64_t value;
  memcpy(&value, at, sizeof value);
  return be64toh(value);
}

static inline void store16(unsigned char *at, uint16_t value) {
  value = htobe16(value);
  memcpy(at, &value, sizeof value);
}

static inline void store32(unsigned char *at, uint32_t value) {
  value = htobe32(value);
  memcpy(at, &value, sizeof value);
}

static inline void store64(unsigned char *at, uint64_t value) {
  value = htobe64(value);
  memcpy(at, &value, sizeof value);
}

#endif
