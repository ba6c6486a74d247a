// SPDX-License-Identifier: MIT
// Helper threads for operations that block: everything of the threads engine that misses the page
// cache, and what the ring cannot do (copy_file_range).
//
// Owned by one engine and used by its thread. Threads start when they are needed. An operation
// belongs to the pool from submit() until takeCompleted() has returned it. The destructor finishes
// what was submitted, then joins.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "operation.h"
#include "signal.h"

namespace ploop {

class WorkPool {
public:
  WorkPool(std::shared_ptr<Signal> signal, unsigned threadLimit);
  ~WorkPool();
  WorkPool(const WorkPool &) = delete;
  WorkPool &operator=(const WorkPool &) = delete;

  void submit(Operation &operation);
  // The finished operations, in order, linked by `next`; their `result` is set.
  Operation *takeCompleted();

private:
  struct Queue {
    Operation *first = nullptr;
    Operation *last = nullptr;
    void append(Operation &operation);
    Operation *take();
  };

  void startThread();
  void work();

  std::shared_ptr<Signal> signal_;
  const unsigned threadLimit_;
  std::mutex mutex_;
  std::condition_variable ready_;
  Queue waiting_;
  Queue completed_;
  unsigned waitingCount_ = 0;
  unsigned idle_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

} // namespace ploop
