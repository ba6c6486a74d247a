// SPDX-License-Identifier: MIT
#include "arena.h"

#include <sys/mman.h>

#include "system_error.h"

namespace ploop {

namespace {

constexpr uint32_t kPageBytes = 4096;
constexpr uint32_t k4k = 4096;
constexpr uint32_t k64k = 65536;
constexpr uint32_t k1m = 1024 * 1024;
constexpr uint32_t kDoneCapacity = 4096;
constexpr uint32_t kRowCapacity = 4096;

// Hands out ranges of the arena one after the other; 64 bits wide, so that too much is noticed.
class Carver {
public:
  uint32_t take(uint64_t count, uint64_t bytesEach, uint64_t alignment) {
    position_ = (position_ + alignment - 1) / alignment * alignment;
    const uint64_t start = position_;
    position_ += count * bytesEach;
    if (position_ >= 0xffff0000ull) throw SystemError(EINVAL, "arena");
    return static_cast<uint32_t>(start);
  }

private:
  uint64_t position_ = 0;
};

bool inOnePiece(uint32_t offset, uint64_t length, uint32_t start, uint32_t count, uint32_t bytes) {
  if (offset < start) return false;
  const uint64_t relative = offset - start;
  return relative / bytes < count && relative % bytes + length <= bytes;
}

bool isPieceStart(uint32_t offset, uint32_t start, uint32_t count, uint32_t bytes) {
  if (offset < start) return false;
  const uint32_t relative = offset - start;
  return relative / bytes < count && relative % bytes == 0;
}

} // namespace

Arena::Arena(const ArenaOptions &o) {
  if (o.connectionCount == 0 || o.connectionCount >= 0xffff || o.receiveBytes < 4096 ||
      o.receiveBytes % kPageBytes != 0 || o.headerCount == 0)
    throw SystemError(EINVAL, "arena");
  Carver carver;
  Layout &l = layout_;
  l.control = carver.take(kControlWords, 4, 64);
  l.receiveTable = carver.take(o.connectionCount, 32, 64);
  l.doneCapacity = kDoneCapacity;
  l.doneTable = carver.take(kDoneCapacity, 16, 64);
  l.rowCapacity = kRowCapacity;
  l.rowTable = carver.take(kRowCapacity, 48, 64);
  l.connectionCount = o.connectionCount;
  l.connectionTable = carver.take(o.connectionCount, 16, 64);
  l.stack4k = carver.take(o.count4k, 4, 64);
  l.stack64k = carver.take(o.count64k, 4, 64);
  l.stack1m = carver.take(o.count1m, 4, 64);
  l.stackHeaders = carver.take(o.headerCount, 4, 64);
  l.headerCount = o.headerCount;
  l.headers = carver.take(o.headerCount, kHeaderBytes, 64);
  l.count4k = o.count4k;
  l.slots4k = carver.take(o.count4k, k4k, kPageBytes);
  l.count64k = o.count64k;
  l.slots64k = carver.take(o.count64k, k64k, kPageBytes);
  l.count1m = o.count1m;
  l.slots1m = carver.take(o.count1m, k1m, kPageBytes);
  l.jobCount = o.jobCount;
  l.jobs = carver.take(o.jobCount, kJobBytes, kPageBytes);
  l.receiveBytes = o.receiveBytes;
  l.receiveBuffers = carver.take(o.connectionCount, o.receiveBytes, kPageBytes);
  l.totalBytes = carver.take(0, 1, kPageBytes);

  mappedBytes_ = l.totalBytes;
  void *memory = mmap(nullptr, mappedBytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throwErrno("mmap");
  // A fork while the device writes into these pages could move them away from under it.
  madvise(memory, mappedBytes_, MADV_DONTFORK);
  base_ = static_cast<uint8_t *>(memory);
  fillStacks();
}

Arena::~Arena() {
  if (base_ != nullptr) munmap(base_, mappedBytes_);
}

bool Arena::isPayload(uint32_t offset, uint64_t length) const {
  const Layout &l = layout_;
  return inOnePiece(offset, length, l.slots4k, l.count4k, k4k) ||
         inOnePiece(offset, length, l.slots64k, l.count64k, k64k) ||
         inOnePiece(offset, length, l.slots1m, l.count1m, k1m) ||
         inOnePiece(offset, length, l.jobs, l.jobCount, kJobBytes);
}

bool Arena::isSlot(uint32_t offset) const {
  const Layout &l = layout_;
  return isPieceStart(offset, l.slots4k, l.count4k, k4k) ||
         isPieceStart(offset, l.slots64k, l.count64k, k64k) ||
         isPieceStart(offset, l.slots1m, l.count1m, k1m);
}

void Arena::releaseSlot(uint32_t offset) {
  const Layout &l = layout_;
  if (isPieceStart(offset, l.slots4k, l.count4k, k4k))
    push(l.stack4k, l.count4k, kControlFree4k, offset);
  else if (isPieceStart(offset, l.slots64k, l.count64k, k64k))
    push(l.stack64k, l.count64k, kControlFree64k, offset);
  else if (isPieceStart(offset, l.slots1m, l.count1m, k1m))
    push(l.stack1m, l.count1m, kControlFree1m, offset);
  else
    fatal("offset %u is no payload slot", offset);
}

void Arena::releaseHeader(uint32_t index) {
  if (index >= layout_.headerCount) fatal("header slot %u of %u", index, layout_.headerCount);
  push(layout_.stackHeaders, layout_.headerCount, kControlFreeHeaders, index);
}

void Arena::push(uint32_t stack, uint32_t capacity, uint32_t topIndex, uint32_t value) {
  uint32_t &top = control(topIndex);
  if (top >= capacity) fatal("slot %u was returned twice: its free stack is full", value);
  words(stack)[top++] = value;
}

// The lowest slot ends up on top, so that a quiet server keeps using the same few pages.
void Arena::fillStacks() {
  const Layout &l = layout_;
  for (uint32_t i = l.count4k; i-- > 0;) releaseSlot(l.slots4k + i * k4k);
  for (uint32_t i = l.count64k; i-- > 0;) releaseSlot(l.slots64k + i * k64k);
  for (uint32_t i = l.count1m; i-- > 0;) releaseSlot(l.slots1m + i * k1m);
  for (uint32_t i = l.headerCount; i-- > 0;) releaseHeader(i);
}

} // namespace ploop
