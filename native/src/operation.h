// SPDX-License-Identifier: MIT
// One file operation in flight, and how it is done by a thread that may block.
#pragma once

#include <cstdint>

#include "arena.h"

namespace ploop {

// Operations of descriptor rows; numbers as in native/README.md.
enum class Op : uint8_t {
  Read = 1,
  Write = 2,
  Sync = 3,
  Allocate = 4,
  Zero = 5,
  Punch = 6,
  Copy = 7,
  Send = 8,
  ReadSend = 9,
  Close = 10,
  Resume = 11,
};

struct alignas(16) Operation {
  Op op;
  uint8_t parity; // epoch under which it was submitted
  uint32_t file;
  uint32_t sourceFile;
  int fd;
  int sourceFd;
  uint32_t token;
  uint64_t offset;
  uint64_t sourceOffset;
  uint64_t length;
  uint64_t done; // bytes moved so far
  uint8_t *memory;
  // the reply of a ReadSend
  uint32_t memoryOffset;
  uint32_t connection;
  uint32_t header;
  uint32_t headerBytes;
  uint32_t slot;
  int64_t result; // of a helper thread
  Operation *next;

  bool moves() const { return op == Op::Read || op == Op::Write || op == Op::ReadSend; }
  bool reads() const { return op == Op::Read || op == Op::ReadSend; }
};

// Performs an operation, blocking: one read or write of what is left, or the whole of the others.
// Returns the bytes moved by this call, 0, or a negative errno. Any thread.
int64_t performOperation(Operation &operation);

} // namespace ploop
