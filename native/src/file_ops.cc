// SPDX-License-Identifier: MIT
#include "file_ops.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <cstdio>

#include "system_error.h"

namespace ploop {

namespace {

constexpr uint32_t kUsualAlignment = 4096;

// Logical block size of the device under a file: of the disk, when it is a partition.
uint32_t blockSizeOfDevice(dev_t device) {
  for (const char *place : {"queue", "../queue"}) {
    char path[96];
    std::snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%s/logical_block_size", major(device),
                  minor(device), place);
    if (FILE *file = std::fopen(path, "re")) {
      unsigned bytes = 0;
      const int count = std::fscanf(file, "%u", &bytes);
      std::fclose(file);
      if (count == 1 && bytes >= 512 && bytes <= 65536) return bytes;
    }
  }
  return kUsualAlignment;
}

// Opens the file once more: nobody else can tell whether its file system takes O_DIRECT.
bool takesDirect(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0) throwErrno("fcntl");
  if (flags & O_DIRECT) return true;
  char self[32];
  std::snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
  const OwnedFd again(open(self, (flags & O_ACCMODE) | O_DIRECT | O_CLOEXEC | O_NONBLOCK));
  if (again.valid()) return true;
  return errno != EINVAL; // e.g. no /proc: the attempt to use it will tell
}

} // namespace

OwnedFd openFile(const std::string &path, const OpenFlags &f) {
  if (path.find('\0') != std::string::npos) throw SystemError(EINVAL, "open");
  int flags = (f.write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  if (f.direct) flags |= O_DIRECT;
  if (f.create) flags |= O_CREAT | O_EXCL;
  int fd;
  do {
    fd = open(path.c_str(), flags, f.mode);
    // somebody's lease: wait until it is given back
    if (fd < 0 && errno == EWOULDBLOCK) fd = open(path.c_str(), flags & ~O_NONBLOCK, f.mode);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) throwErrno("open");
  OwnedFd file(fd);
  struct stat info;
  if (fstat(fd, &info) != 0) throwErrno("fstat");
  // io_uring takes O_NONBLOCK at its word for regular files, too
  if (S_ISREG(info.st_mode) || S_ISBLK(info.st_mode)) {
    const int now = fcntl(fd, F_GETFL);
    if (now < 0 || fcntl(fd, F_SETFL, now & ~O_NONBLOCK) != 0) throwErrno("fcntl");
  }
  return file;
}

DirectAlignment directAlignment(int fd) {
#ifdef STATX_DIOALIGN
  struct statx extended;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &extended) == 0 &&
      (extended.stx_mask & STATX_DIOALIGN) != 0) {
    if (extended.stx_dio_mem_align == 0 || extended.stx_dio_offset_align == 0) return {false, 1, 1};
    return {true, extended.stx_dio_mem_align, extended.stx_dio_offset_align};
  }
#endif
  struct stat info;
  if (fstat(fd, &info) != 0) throwErrno("fstat");
  if (S_ISBLK(info.st_mode)) {
    int bytes = 0;
    if (ioctl(fd, BLKSSZGET, &bytes) != 0) throwErrno("ioctl");
    return {true, static_cast<uint32_t>(bytes), static_cast<uint32_t>(bytes)};
  }
  if (!S_ISREG(info.st_mode) || !takesDirect(fd)) return {false, 1, 1};
  const uint32_t bytes = blockSizeOfDevice(info.st_dev);
  return {true, bytes, bytes};
}

void setDirect(int fd, bool direct) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0) throwErrno("fcntl");
  const int wanted = direct ? flags | O_DIRECT : flags & ~O_DIRECT;
  if (wanted != flags && fcntl(fd, F_SETFL, wanted) != 0) throwErrno("fcntl");
}

bool lockFile(int fd, LockKind kind) {
  const int operation = kind == LockKind::Shared      ? LOCK_SH | LOCK_NB
                        : kind == LockKind::Exclusive ? LOCK_EX | LOCK_NB
                                                      : LOCK_UN;
  for (;;) {
    if (flock(fd, operation) == 0) return true;
    if (errno == EWOULDBLOCK) return false;
    if (errno != EINTR) throwErrno("flock");
  }
}

void allocateRange(int fd, AllocateMode mode, int64_t offset, int64_t length) {
  const int flags = mode == AllocateMode::Allocate ? 0
                    : mode == AllocateMode::Zero   ? FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE
                                                   : FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  while (fallocate(fd, flags, offset, length) != 0)
    if (errno != EINTR) throwErrno("fallocate");
}

int64_t seekFile(int fd, SeekWhat what, int64_t offset) {
  const off_t found = lseek(fd, offset, what == SeekWhat::Data ? SEEK_DATA : SEEK_HOLE);
  if (found >= 0) return found;
  if (errno == ENXIO) return -1;
  throwErrno("lseek");
}

int64_t copyRange(int sourceFd, int64_t sourceOffset, int targetFd, int64_t targetOffset,
                  int64_t length) {
  for (;;) {
    off_t source = sourceOffset, target = targetOffset;
    const ssize_t n =
        copy_file_range(sourceFd, &source, targetFd, &target, static_cast<size_t>(length), 0);
    if (n >= 0) return n;
    if (errno != EINTR) throwErrno("copy_file_range");
  }
}

void cloneRange(int sourceFd, int64_t sourceOffset, int targetFd, int64_t targetOffset,
                int64_t length) {
  file_clone_range range{};
  range.src_fd = sourceFd;
  range.src_offset = static_cast<uint64_t>(sourceOffset);
  range.src_length = static_cast<uint64_t>(length);
  range.dest_offset = static_cast<uint64_t>(targetOffset);
  while (ioctl(targetFd, FICLONERANGE, &range) != 0)
    if (errno != EINTR) throwErrno("ioctl");
}

uint32_t fileSystemType(int fd) {
  struct statfs info;
  while (fstatfs(fd, &info) != 0)
    if (errno != EINTR) throwErrno("fstatfs");
  return static_cast<uint32_t>(info.f_type);
}

SharedMapping::SharedMapping(int fd, size_t bytes) : base_(nullptr), bytes_(bytes) {
  struct stat info;
  if (fstat(fd, &info) != 0) throwErrno("fstat");
  if (bytes == 0 || info.st_size < 0 || static_cast<uint64_t>(info.st_size) < bytes)
    throw SystemError(EINVAL, "mmap");
  void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) throwErrno("mmap");
  base_ = memory;
}

SharedMapping::~SharedMapping() {
  if (base_ != nullptr) munmap(base_, bytes_);
}

} // namespace ploop
