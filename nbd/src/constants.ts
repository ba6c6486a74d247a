// SPDX-License-Identifier: MIT
/**
 * Every number of the NBD protocol, in the order and under the names of the protocol document.
 *
 * Facts: "The NBD protocol" (NetworkBlockDevice/nbd, doc/proto.md) and its extended-headers branch,
 *        which qemu 8.2 and libnbd 1.18 and their successors speak. Those parts are marked (ext).
 *        Magic numbers of 64 bits stand as two halves of 32 bits, because JavaScript's numbers end
 *        at 2^53 and BigInt allocates.
 */

// Magic numbers
/** "NBDM" "AGIC": first word of the greeting */
export const NBD_MAGIC_HIGH = 0x4e42444d
export const NBD_MAGIC_LOW = 0x41474943
/** "IHAV" "EOPT": second word of the greeting, and the start of every option of the client */
export const NBD_OPTION_MAGIC_HIGH = 0x49484156
export const NBD_OPTION_MAGIC_LOW = 0x454f5054
/** start of every reply to an option */
export const NBD_OPTION_REPLY_MAGIC_HIGH = 0x0003e889
export const NBD_OPTION_REPLY_MAGIC_LOW = 0x045565a9
/** second word of an oldstyle greeting; never sent by us, recognised by the client half */
export const NBD_OLDSTYLE_MAGIC_HIGH = 0x00004202
export const NBD_OLDSTYLE_MAGIC_LOW = 0x81861253
export const NBD_REQUEST_MAGIC = 0x25609513
export const NBD_SIMPLE_REPLY_MAGIC = 0x67446698
export const NBD_STRUCTURED_REPLY_MAGIC = 0x668e33ef
/** (ext) */
export const NBD_EXTENDED_REQUEST_MAGIC = 0x21e41c71
/** (ext) */
export const NBD_EXTENDED_REPLY_MAGIC = 0x6e8a278c

// Handshake flags of the server (16 bits)
export const NBD_FLAG_FIXED_NEWSTYLE = 0x0001
export const NBD_FLAG_NO_ZEROES = 0x0002

// Client flags (32 bits)
export const NBD_FLAG_C_FIXED_NEWSTYLE = 0x00000001
export const NBD_FLAG_C_NO_ZEROES = 0x00000002

// Transmission flags (16 bits)
export const NBD_FLAG_HAS_FLAGS = 0x0001
export const NBD_FLAG_READ_ONLY = 0x0002
export const NBD_FLAG_SEND_FLUSH = 0x0004
export const NBD_FLAG_SEND_FUA = 0x0008
export const NBD_FLAG_ROTATIONAL = 0x0010
export const NBD_FLAG_SEND_TRIM = 0x0020
export const NBD_FLAG_SEND_WRITE_ZEROES = 0x0040
export const NBD_FLAG_SEND_DF = 0x0080
export const NBD_FLAG_CAN_MULTI_CONN = 0x0100
/** draft; never sent by us */
export const NBD_FLAG_SEND_RESIZE = 0x0200
export const NBD_FLAG_SEND_CACHE = 0x0400
export const NBD_FLAG_SEND_FAST_ZERO = 0x0800
/** (ext) */
export const NBD_FLAG_BLOCK_STATUS_PAYLOAD = 0x1000

// Options of the client
export const NBD_OPT_EXPORT_NAME = 1
export const NBD_OPT_ABORT = 2
export const NBD_OPT_LIST = 3
/** withdrawn from the protocol */
export const NBD_OPT_PEEK_EXPORT = 4
export const NBD_OPT_STARTTLS = 5
export const NBD_OPT_INFO = 6
export const NBD_OPT_GO = 7
export const NBD_OPT_STRUCTURED_REPLY = 8
export const NBD_OPT_LIST_META_CONTEXT = 9
export const NBD_OPT_SET_META_CONTEXT = 10
/** (ext) */
export const NBD_OPT_EXTENDED_HEADERS = 11

// Replies to options
export const NBD_REP_ACK = 1
export const NBD_REP_SERVER = 2
export const NBD_REP_INFO = 3
export const NBD_REP_META_CONTEXT = 4
/** set in the reply types that are errors */
export const NBD_REP_FLAG_ERROR = 0x80000000
export const NBD_REP_ERR_UNSUP = 0x80000001
export const NBD_REP_ERR_POLICY = 0x80000002
export const NBD_REP_ERR_INVALID = 0x80000003
export const NBD_REP_ERR_PLATFORM = 0x80000004
export const NBD_REP_ERR_TLS_REQD = 0x80000005
export const NBD_REP_ERR_UNKNOWN = 0x80000006
export const NBD_REP_ERR_SHUTDOWN = 0x80000007
export const NBD_REP_ERR_BLOCK_SIZE_REQD = 0x80000008
export const NBD_REP_ERR_TOO_BIG = 0x80000009
/** (ext) */
export const NBD_REP_ERR_EXT_HEADER_REQD = 0x8000000a

// Information types inside NBD_REP_INFO
export const NBD_INFO_EXPORT = 0
export const NBD_INFO_NAME = 1
export const NBD_INFO_DESCRIPTION = 2
export const NBD_INFO_BLOCK_SIZE = 3

// Commands
export const NBD_CMD_READ = 0
export const NBD_CMD_WRITE = 1
export const NBD_CMD_DISC = 2
export const NBD_CMD_FLUSH = 3
export const NBD_CMD_TRIM = 4
export const NBD_CMD_CACHE = 5
export const NBD_CMD_WRITE_ZEROES = 6
export const NBD_CMD_BLOCK_STATUS = 7
/** draft; refused like an unknown command */
export const NBD_CMD_RESIZE = 8

// Command flags (16 bits)
export const NBD_CMD_FLAG_FUA = 0x01
export const NBD_CMD_FLAG_NO_HOLE = 0x02
export const NBD_CMD_FLAG_DF = 0x04
export const NBD_CMD_FLAG_REQ_ONE = 0x08
export const NBD_CMD_FLAG_FAST_ZERO = 0x10
/** (ext) */
export const NBD_CMD_FLAG_PAYLOAD_LEN = 0x20

// Flags and types of reply chunks
export const NBD_REPLY_FLAG_DONE = 0x0001
export const NBD_REPLY_TYPE_NONE = 0
export const NBD_REPLY_TYPE_OFFSET_DATA = 1
export const NBD_REPLY_TYPE_OFFSET_HOLE = 2
export const NBD_REPLY_TYPE_BLOCK_STATUS = 5
/** (ext) */
export const NBD_REPLY_TYPE_BLOCK_STATUS_EXT = 6
/** set in the chunk types that are errors */
export const NBD_REPLY_TYPE_FLAG_ERROR = 0x8000
export const NBD_REPLY_TYPE_ERROR = 0x8001
export const NBD_REPLY_TYPE_ERROR_OFFSET = 0x8002

// Error values; any other value is forbidden on the wire
export const NBD_SUCCESS = 0
export const NBD_EPERM = 1
export const NBD_EIO = 5
export const NBD_ENOMEM = 12
export const NBD_EINVAL = 22
export const NBD_ENOSPC = 28
export const NBD_EOVERFLOW = 75
export const NBD_ENOTSUP = 95
export const NBD_ESHUTDOWN = 108

// Status bits of the metadata context base:allocation
export const NBD_STATE_HOLE = 0x1
export const NBD_STATE_ZERO = 0x2
/** status bit of the contexts qemu:dirty-bitmap:NAME and x-ploop:dirty:NAME */
export const NBD_STATE_DIRTY = 0x1

// Limits
export const NBD_DEFAULT_PORT = 10809
/** "should not be called an attack" below this, so advertised as the maximum payload */
export const NBD_ADVERTISED_PAYLOAD_BYTES = 33554432
/** payloads and reads above this are refused; the reference test suite sends 49.9 MB */
export const NBD_HARD_PAYLOAD_BYTES = 67108864
/** longest string of the protocol */
export const NBD_MAX_STRING_BYTES = 4096
/** longest error text we send; the protocol allows 4096, old clients do not take that well */
export const NBD_MAX_ERROR_TEXT_BYTES = 255
/** an option's data up to here is parsed */
export const NBD_MAX_OPTION_BYTES = 65536
/** up to here it is read, dropped and refused; above, the connection is closed */
export const NBD_MAX_DROPPED_OPTION_BYTES = 1048576
/** options of one connection */
export const NBD_MAX_OPTION_COUNT = 1000
/** metadata contexts one connection may select */
export const NBD_MAX_CONTEXT_COUNT = 64
/** extents in one block status chunk */
export const NBD_MAX_EXTENT_COUNT = 131072
/** longest extent in a compact block status chunk: 2^32 - 4096, a multiple of every sector size */
export const NBD_MAX_COMPACT_EXTENT_BYTES = 4294963200
/** requests in flight on one connection above which no more are taken */
export const NBD_MAX_IN_FLIGHT_COUNT = 128
/** bytes of buffers in flight on one connection above which no more requests are taken */
export const NBD_MAX_IN_FLIGHT_BYTES = 67108864
/** read-ahead done for one NBD_CMD_CACHE at most; the command itself may be longer */
export const NBD_MAX_CACHE_BYTES = 33554432
/** zeros after the answer to NBD_OPT_EXPORT_NAME unless the client said NO_ZEROES */
export const NBD_EXPORT_NAME_PADDING_BYTES = 124
