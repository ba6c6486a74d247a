// SPDX-License-Identifier: MIT
// The memory that native code and TypeScript share: tables, free stacks, buffers.
//
// One anonymous mapping, page aligned, never resized. Every position in it is a byte offset that
// fits a u32. The engine and the ArrayBuffer hold it together; it is unmapped when both are gone.
// One thread at a time uses it; the kernel and helper threads touch only buffers of operations in
// flight.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ploop {

constexpr uint32_t kNone = 0xffffffff;
constexpr uint32_t kHeaderBytes = 256;
constexpr uint32_t kJobBytes = 1024 * 1024;

// Words of the control block.
enum Control : uint32_t {
  kControlReceiveRows = 0,
  kControlDoneRows = 1,
  kControlRows = 2,
  kControlFree4k = 3,
  kControlFree64k = 4,
  kControlFree1m = 5,
  kControlFreeHeaders = 6,
  kControlEpoch = 7,
  kControlEpochInFlight = 8, // and 9
  kControlReturn = 10,
  kControlWantFree = 11,
  kControlWords = 32,
};

struct ArenaOptions {
  uint32_t count4k;
  uint32_t count64k;
  uint32_t count1m;
  uint32_t jobCount;
  uint32_t headerCount;
  uint32_t connectionCount;
  uint32_t receiveBytes;
};

// Byte offsets and counts; names and meanings as in native/README.md.
struct Layout {
  uint32_t totalBytes;
  uint32_t control;
  uint32_t receiveTable;
  uint32_t doneTable, doneCapacity;
  uint32_t rowTable, rowCapacity;
  uint32_t connectionTable, connectionCount;
  uint32_t headers, headerCount;
  uint32_t slots4k, count4k;
  uint32_t slots64k, count64k;
  uint32_t slots1m, count1m;
  uint32_t jobs, jobCount;
  uint32_t stack4k, stack64k, stack1m, stackHeaders;
  uint32_t receiveBuffers, receiveBytes;
};

class Arena {
public:
  // Throws SystemError: EINVAL when the counts make no sense, ENOMEM when there is no room.
  explicit Arena(const ArenaOptions &options);
  ~Arena();
  Arena(const Arena &) = delete;
  Arena &operator=(const Arena &) = delete;

  const Layout &layout() const { return layout_; }
  uint8_t *at(uint32_t offset) { return base_ + offset; }
  uint32_t *words(uint32_t offset) { return reinterpret_cast<uint32_t *>(base_ + offset); }
  uint32_t &control(uint32_t index) { return words(layout_.control)[index]; }

  // All of a range lies in one payload slot or one job buffer.
  bool isPayload(uint32_t offset, uint64_t length) const;
  // An offset is the start of a payload slot (not of a job buffer).
  bool isSlot(uint32_t offset) const;

  // Return to the free stacks. A slot that is returned twice overflows its stack: fatal.
  void releaseSlot(uint32_t offset);
  void releaseHeader(uint32_t index);

private:
  void push(uint32_t stack, uint32_t capacity, uint32_t topIndex, uint32_t value);
  void fillStacks();

  uint8_t *base_ = nullptr;
  size_t mappedBytes_ = 0;
  Layout layout_{};
};

} // namespace ploop
