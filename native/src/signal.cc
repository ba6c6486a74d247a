// SPDX-License-Identifier: MIT
#include "signal.h"

#include <sys/eventfd.h>

#include <mutex>
#include <unordered_map>

#include "system_error.h"

namespace ploop {

namespace {

struct Registry {
  std::mutex mutex;
  std::unordered_map<uint32_t, std::weak_ptr<Signal>> signals;
  uint32_t last = 0;
};

Registry &registry() {
  static Registry &instance = *new Registry; // outlives every thread
  return instance;
}

} // namespace

Signal::Signal() : fd_(eventfd(0, EFD_CLOEXEC)) {
  if (!fd_.valid()) throwErrno("eventfd");
}

Signal::~Signal() = default;

void Signal::wake() {
  wake_.store(true, std::memory_order_release);
  notify();
}

void Signal::notify() {
  const uint64_t one = 1;
  while (write(fd_.get(), &one, sizeof one) < 0 && errno == EINTR) {
  }
}

bool Signal::takeWake() { return wakePending() && wake_.exchange(false); }

uint32_t registerSignal(const std::shared_ptr<Signal> &signal) {
  Registry &r = registry();
  std::lock_guard lock(r.mutex);
  const uint32_t handle = ++r.last;
  r.signals.emplace(handle, signal);
  return handle;
}

void unregisterSignal(uint32_t handle) {
  Registry &r = registry();
  std::lock_guard lock(r.mutex);
  r.signals.erase(handle);
}

void wakeByHandle(uint32_t handle) {
  std::shared_ptr<Signal> signal;
  {
    Registry &r = registry();
    std::lock_guard lock(r.mutex);
    const auto found = r.signals.find(handle);
    if (found != r.signals.end()) signal = found->second.lock();
  }
  if (signal) signal->wake();
}

} // namespace ploop
