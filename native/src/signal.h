// SPDX-License-Identifier: MIT
// Wakes a blocked engine from any thread: an eventfd that the engine watches.
//
// Two reasons share it: somebody wants run() to return (wake), or a helper thread has finished
// something (notify). The flag tells them apart, so a wake is never lost between two runs.
//
// The registry is the one thing of the addon that is not per environment, because a handle travels
// from one environment (the worker's) to another (the main thread's). It holds weak references
// behind a mutex: a handle of an engine that is gone wakes nobody.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "owned_fd.h"

namespace ploop {

class Signal {
public:
  Signal(); // throws SystemError
  ~Signal();
  Signal(const Signal &) = delete;
  Signal &operator=(const Signal &) = delete;

  int fd() const { return fd_.get(); }
  void wake();     // any thread
  void notify();   // any thread
  bool takeWake(); // the engine's thread
  bool wakePending() const { return wake_.load(std::memory_order_acquire); }

private:
  OwnedFd fd_; // blocking: the ring arms its poll only for such descriptors
  std::atomic<bool> wake_{false};
};

uint32_t registerSignal(const std::shared_ptr<Signal> &signal);
void unregisterSignal(uint32_t handle);
void wakeByHandle(uint32_t handle); // any thread; unknown handles are ignored

} // namespace ploop
