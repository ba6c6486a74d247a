// SPDX-License-Identifier: MIT
// File calls that Node lacks. Functions throw SystemError with the name of the call that failed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "owned_fd.h"

namespace ploop {

struct OpenFlags {
  bool write;
  bool direct;
  bool create; // the file must not exist
  uint32_t mode;
};
// Closed on exec. Never waits: a FIFO without a writer is opened too, and the caller sees by fstat
// that it is none of ours.
OwnedFd openFile(const std::string &path, const OpenFlags &flags);

struct DirectAlignment {
  bool direct;
  uint32_t memoryBytes;
  uint32_t offsetBytes;
};
DirectAlignment directAlignment(int fd);

// Switches direct I/O of an open file on or off; EINVAL where the file system refuses.
void setDirect(int fd, bool direct);

enum class LockKind { Shared, Exclusive, Unlock };
// false when somebody else holds it
bool lockFile(int fd, LockKind kind);

enum class AllocateMode { Allocate, Zero, Punch };
void allocateRange(int fd, AllocateMode mode, int64_t offset, int64_t length);

enum class SeekWhat { Data, Hole };
// -1 when there is none (ENXIO)
int64_t seekFile(int fd, SeekWhat what, int64_t offset);

int64_t copyRange(int sourceFd, int64_t sourceOffset, int targetFd, int64_t targetOffset,
                  int64_t length);
void cloneRange(int sourceFd, int64_t sourceOffset, int targetFd, int64_t targetOffset,
                int64_t length);

uint32_t fileSystemType(int fd);

// A file mapped shared: what is stored there outlives the process that stored it. The file must be
// as long as the mapping and stay so, and have its space, or access ends in SIGBUS.
class SharedMapping {
public:
  SharedMapping(int fd, size_t bytes);
  ~SharedMapping();
  SharedMapping(const SharedMapping &) = delete;
  SharedMapping &operator=(const SharedMapping &) = delete;
  void *base() const { return base_; }

private:
  void *base_;
  size_t bytes_;
};

} // namespace ploop
