// SPDX-License-Identifier: MIT
#include "operation.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>

namespace ploop {

namespace {

int64_t negativeErrno() { return -static_cast<int64_t>(errno); }

int64_t readOnce(const Operation &o) {
  for (;;) {
    const ssize_t n =
        pread(o.fd, o.memory + o.done, o.length - o.done, static_cast<off_t>(o.offset + o.done));
    if (n >= 0) return n;
    if (errno != EINTR) return negativeErrno();
  }
}

int64_t writeOnce(const Operation &o) {
  for (;;) {
    const ssize_t n =
        pwrite(o.fd, o.memory + o.done, o.length - o.done, static_cast<off_t>(o.offset + o.done));
    if (n >= 0) return n;
    if (errno != EINTR) return negativeErrno();
  }
}

int64_t sync(const Operation &o) { return fdatasync(o.fd) == 0 ? 0 : negativeErrno(); }

int64_t allocateRange(const Operation &o, int mode) {
  for (;;) {
    if (fallocate(o.fd, mode, static_cast<off_t>(o.offset), static_cast<off_t>(o.length)) == 0)
      return 0;
    if (errno != EINTR) return negativeErrno();
  }
}

// Where fallocate is unknown: a longer sparse file. Two of these at once must not shrink the file
// between one's look at the size and the other's truncate.
int64_t extend(const Operation &o) {
  static std::mutex &mutex = *new std::mutex;
  std::lock_guard lock(mutex);
  struct stat info;
  if (fstat(o.fd, &info) != 0) return negativeErrno();
  const off_t end = static_cast<off_t>(o.offset + o.length);
  if (info.st_size >= end) return 0;
  return ftruncate(o.fd, end) == 0 ? 0 : negativeErrno();
}

int64_t copy(const Operation &o) {
  uint64_t copied = 0;
  while (copied < o.length) {
    off_t source = static_cast<off_t>(o.sourceOffset + copied);
    off_t target = static_cast<off_t>(o.offset + copied);
    const ssize_t n = copy_file_range(o.sourceFd, &source, o.fd, &target, o.length - copied, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return negativeErrno();
    if (n == 0) break; // end of the source file
    copied += static_cast<uint64_t>(n);
  }
  return static_cast<int64_t>(copied);
}

} // namespace

int64_t performOperation(Operation &o) {
  switch (o.op) {
  case Op::Read:
  case Op::ReadSend:
    return readOnce(o); // the engine goes on after short counts, and knows about direct I/O
  case Op::Write: return writeOnce(o);
  case Op::Sync: return sync(o);
  case Op::Allocate: {
    const int64_t result = allocateRange(o, 0);
    return result == -EOPNOTSUPP ? extend(o) : result;
  }
  case Op::Zero: return allocateRange(o, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
  case Op::Punch: return allocateRange(o, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
  case Op::Copy: return copy(o);
  default: return -EINVAL;
  }
}

} // namespace ploop
