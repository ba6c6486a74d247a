// SPDX-License-Identifier: MIT
// The loop of an engine, its files and listeners. Connections: engine_connections.cc; tables:
// engine_tables.cc.
#include <fcntl.h>
#include <poll.h>
#include <time.h>

#include <algorithm>

#include "engine.h"
#include "file_ops.h"
#include "socket_ops.h"
#include "system_error.h"

namespace ploop {

namespace {

constexpr int64_t kMillisecond = 1'000'000;
constexpr uint32_t kFileLimit = 65536;
constexpr uint32_t kListenerLimit = 4096;
// Out of descriptors or memory: try again after that long, instead of spinning.
constexpr int64_t kAcceptPause = 100 * kMillisecond;
constexpr int64_t kNever = INT64_MAX;

bool isTransient(int error) {
  return error == EINTR || error == EAGAIN || error == ECONNABORTED || error == EPROTO ||
         error == EPERM || error == ECANCELED || error == ETIMEDOUT || error == EHOSTUNREACH ||
         error == ENETUNREACH || error == ENETDOWN || error == EHOSTDOWN || error == ENOPROTOOPT;
}

} // namespace

EngineCore::EngineCore(const EngineOptions &options)
    : options_(options), arena_(std::make_shared<Arena>(options.arena)),
      signal_(std::make_shared<Signal>()), connections_(options.arena.connectionCount) {
  const uint32_t count = options.arena.connectionCount;
  for (uint32_t i = count; i-- > 0;) {
    connections_[i].slot = static_cast<uint16_t>(i);
    freeConnections_.push_back(static_cast<uint16_t>(i));
  }
}

EngineCore::~EngineCore() = default;

int64_t EngineCore::now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

// --- files -----------------------------------------------------------------------------------

uint32_t EngineCore::addFile(int fd) {
  uint32_t index = 0;
  while (index < files_.size() && files_[index].fd.valid()) ++index;
  if (index >= kFileLimit) throw SystemError(EMFILE, "addFile");
  OpenFile file;
  file.fd = duplicateFd(fd);
  const int flags = fcntl(file.fd.get(), F_GETFL);
  file.direct = flags >= 0 && (flags & O_DIRECT) != 0;
  if (file.direct) file.alignment = std::max(1u, directAlignment(file.fd.get()).offsetBytes);
  if (index == files_.size())
    files_.push_back(std::move(file));
  else
    files_[index] = std::move(file);
  fileAdded(index);
  return index;
}

void EngineCore::removeFile(uint32_t file) {
  if (file >= files_.size() || !files_[file].fd.valid()) throw SystemError(EBADF, "removeFile");
  fileRemoved(file);
  files_[file] = OpenFile{};
}

// --- listeners -------------------------------------------------------------------------------

uint32_t EngineCore::addListener(int fd) {
  uint32_t index = 0;
  while (index < listeners_.size() && listeners_[index].fd.valid()) ++index;
  if (index >= kListenerLimit) throw SystemError(EMFILE, "addListener");
  OwnedFd copy = duplicateFd(fd);
  if (!isListening(copy.get())) throw SystemError(EINVAL, "addListener");
  if (index == listeners_.size()) listeners_.emplace_back();
  Listener &listener = listeners_[index];
  listener = Listener{};
  listener.index = index;
  listener.fd = std::move(copy);
  listenerAdded(listener);
  listener.accepting = true;
  startAccept(listener);
  return index;
}

void EngineCore::removeListener(uint32_t index) {
  if (index >= listeners_.size() || !listeners_[index].fd.valid() || listeners_[index].removed)
    throw SystemError(EBADF, "removeListener");
  Listener &listener = listeners_[index];
  listener.removed = true;
  if (listener.accepting)
    cancelAccept(listener);
  else
    dropListener(listener);
  submit();
}

void EngineCore::dropListener(Listener &listener) {
  listenerRemoved(listener);
  listener.fd.reset();
}

void EngineCore::accepted(Listener &listener, int result) {
  listener.accepting = false;
  OwnedFd fd(std::max(result, -1));
  if (listener.removed) return dropListener(listener);
  if (fd.valid()) {
    prepareConnection(fd.get());
    if (Connection *connection = openConnection(std::move(fd)))
      done(DoneKind::Accepted, connection->name(), static_cast<int32_t>(listener.index), 0);
  } else if (!isTransient(-result)) {
    listener.pausedUntil = now() + kAcceptPause;
    return;
  }
  listener.accepting = true;
  startAccept(listener);
}

// --- the loop --------------------------------------------------------------------------------

EngineCore::RunEnd EngineCore::run(uint32_t sliceMs, const BatchCallback &batch) {
  if (closed_) throw SystemError(EBADF, "run");
  if (inBatch_) throw SystemError(EBUSY, "run");
  const int64_t deadline = now() + sliceMs * kMillisecond;
  takeRows();
  RunEnd end = RunEnd::Done;
  bool stop = false;
  while (!stop) {
    settle();
    stop = signal_->takeWake();
    const int64_t time = now();
    const int64_t until = std::min(deadline, nextTimer());
    poll(stop || callDue() ? 0 : std::max<int64_t>(0, until - time));
    runTimers();
    if (callDue() && fillTables()) {
      ++stats_.batches;
      inBatch_ = true;
      const bool threw = !batch();
      inBatch_ = false;
      if (threw) end = RunEnd::Thrown;
      if (!threw) applyAnswers();
      if (!threw) takeRows();
      afterCall();
      stop = stop || threw || arena_->control(kControlReturn) != 0;
    }
    stop = stop || now() >= deadline;
  }
  arena_->control(kControlReturn) = 0;
  settle();
  submit();
  return end;
}

// What became due without a call: queued sends, connections that end, resumed rows.
void EngineCore::settle() {
  drain(resumed_, [this](uint16_t slot) {
    Connection &c = connections_[slot];
    if (c.open && c.resume && c.stalled) present(c);
    c.resume = false;
  });
  drain(closing_, [this](uint16_t slot) {
    connections_[slot].listed = false;
    advanceClose(connections_[slot]);
  });
  startSends();
}

int64_t EngineCore::nextTimer() const {
  int64_t next = kNever;
  for (uint16_t slot : lingering_) next = std::min(next, connections_[slot].deadline);
  for (const Listener &l : listeners_)
    if (l.pausedUntil != 0) next = std::min(next, l.pausedUntil);
  return next;
}

void EngineCore::runTimers() {
  if (lingering_.empty() && nextTimer() == kNever) return;
  const int64_t time = now();
  std::erase_if(lingering_, [&](uint16_t slot) {
    Connection &c = connections_[slot];
    if (!c.open || !c.shut) return true;
    if (time < c.deadline) return false;
    beginClose(c, true);
    return true;
  });
  for (Listener &l : listeners_) {
    if (l.pausedUntil == 0 || time < l.pausedUntil) continue;
    l.pausedUntil = 0;
    if (l.removed || !l.fd.valid()) continue;
    l.accepting = true;
    startAccept(l);
  }
}

bool EngineCore::inFlight() const {
  return operationsInFlight_ > 0 ||
         std::any_of(connections_.begin(), connections_.end(),
                     [](const Connection &c) { return c.open; }) ||
         std::any_of(listeners_.begin(), listeners_.end(),
                     [](const Listener &l) { return l.accepting; });
}

void EngineCore::close() {
  if (closed_) return;
  if (inBatch_) throw SystemError(EBUSY, "close");
  closed_ = true;
  dead_ = true;
  for (Listener &l : listeners_)
    if (l.fd.valid() && !l.removed) removeListener(l.index);
  for (Connection &c : connections_)
    if (c.open) beginClose(c, true);
  settle();
  while (inFlight()) {
    poll(1000 * kMillisecond);
    settle();
  }
  shutDown();
  listeners_.clear();
  files_.clear();
}

} // namespace ploop
