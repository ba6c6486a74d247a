// SPDX-License-Identifier: MIT
// Which file operations the loop does by itself, instead of handing them to the kernel's workers
// or to helper threads.
//
// Two kinds are cheaper done at once than handed over, as long as they are quick:
// - small buffered writes, which only copy into the page cache. When one took long, the kernel is
//   throttling writers, and they are handed over for a while.
// - a small direct write or a sync that is alone: nothing else is in flight that would wait for
//   it. When clients turn out to have sent more meanwhile, or it took long, the next ones are
//   handed over.
//
// One per engine, used by its thread.
#pragma once

#include <cstdint>

#include "operation.h"

namespace ploop {

class InlinePolicy {
public:
  // `alone`: no other file operation is in flight.
  bool allows(const Operation &o, bool direct, bool alone, int64_t time) const {
    if (o.op == Op::Sync) return alone && soloPause_ == 0 && time >= soloUntil_;
    if (o.op != Op::Write || o.length - o.done > kLongest) return false;
    if (!direct) return time >= writesUntil_;
    return alone && soloPause_ == 0 && time >= soloUntil_;
  }

  // An operation of a kind that is sometimes allowed was handed over.
  void handedOver(const Operation &o) {
    if (soloPause_ > 0 && (o.op == Op::Sync || o.op == Op::Write)) --soloPause_;
  }

  void took(const Operation &o, bool direct, int64_t time, int64_t duration) {
    const bool solo = o.op == Op::Sync || direct;
    const int64_t limit = solo ? kSoloLimit : kWriteLimit;
    if (duration <= limit) return;
    // Long enough to be seldom: a slow device costs one such stall in a hundred times its length.
    const int64_t until = time + 100 * duration;
    (solo ? soloUntil_ : writesUntil_) = until;
  }

  // While the loop was busy with an operation that seemed alone, clients sent more.
  void wasNotAlone() { soloPause_ = kPause; }

private:
  static constexpr uint64_t kLongest = 64 * 1024;
  static constexpr int64_t kWriteLimit = 1'000'000; // nanoseconds
  static constexpr int64_t kSoloLimit = 500'000;
  static constexpr unsigned kPause = 256;

  int64_t writesUntil_ = 0;
  int64_t soloUntil_ = 0;
  unsigned soloPause_ = 0;
};

} // namespace ploop
