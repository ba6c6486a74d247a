// SPDX-License-Identifier: MIT
#include "work_pool.h"

#include <pthread.h>
#include <signal.h>

#include <system_error>

namespace ploop {

void WorkPool::Queue::append(Operation &operation) {
  operation.next = nullptr;
  if (last != nullptr)
    last->next = &operation;
  else
    first = &operation;
  last = &operation;
}

Operation *WorkPool::Queue::take() {
  Operation *operation = first;
  first = operation->next;
  if (first == nullptr) last = nullptr;
  return operation;
}

WorkPool::WorkPool(std::shared_ptr<Signal> signal, unsigned threadLimit)
    : signal_(std::move(signal)), threadLimit_(threadLimit) {}

WorkPool::~WorkPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  ready_.notify_all();
  for (std::thread &thread : threads_) thread.join();
}

void WorkPool::submit(Operation &operation) {
  bool needThread;
  {
    std::lock_guard lock(mutex_);
    waiting_.append(operation);
    needThread = ++waitingCount_ > idle_ && threads_.size() < threadLimit_;
  }
  if (needThread)
    startThread();
  else
    ready_.notify_one();
}

// Signals are for the threads of Node: a helper takes none.
void WorkPool::startThread() {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  try {
    threads_.emplace_back([this] { work(); });
  } catch (const std::system_error &) {
    // no room for one more thread: those that run do the work
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!threads_.empty()) {
    ready_.notify_one();
    return;
  }
  // not a single thread can be had: do it here, slowly
  Operation *operation;
  {
    std::lock_guard lock(mutex_);
    operation = waiting_.take();
    --waitingCount_;
  }
  operation->result = performOperation(*operation);
  std::lock_guard lock(mutex_);
  completed_.append(*operation);
  signal_->notify();
}

Operation *WorkPool::takeCompleted() {
  std::lock_guard lock(mutex_);
  Operation *first = completed_.first;
  completed_ = Queue{};
  return first;
}

void WorkPool::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    while (waiting_.first == nullptr) {
      if (stopping_) return;
      ++idle_;
      ready_.wait(lock);
      --idle_;
    }
    Operation *operation = waiting_.take();
    --waitingCount_;
    lock.unlock();
    operation->result = performOperation(*operation);
    lock.lock();
    const bool first = completed_.first == nullptr;
    completed_.append(*operation);
    if (first) signal_->notify();
  }
}

} // namespace ploop
