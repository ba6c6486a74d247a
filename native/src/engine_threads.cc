// SPDX-License-Identifier: MIT
// The driver without io_uring: epoll for sockets, inline reads of cached data, helper threads for
// the rest.
//
// Sockets are watched edge-triggered. A connection is `kReadable` until a receive came back short
// or empty, so that the usual request costs one receive and no second, futile one; then the next
// edge makes it readable again. Results of what was done inline are reported by the next poll(),
// never from inside a start function.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "engine.h"
#include "system_error.h"
#include "work_pool.h"

namespace ploop {

namespace {

constexpr int kEvents = 256;
constexpr uint64_t kSignalData = 0; // others are pointers

enum DriverFlags : uint8_t {
  kReadable = 1,      // a receive (or accept) may find something
  kWritable = 2,      // a send may find room
  kReceiveWanted = 4, // a receive (or accept) was started and has not ended
  kSendWanted = 8,
  kHungUp = 16, // the peer ended its side: keep reading until the end
};

enum Target : uint64_t { kConnection = 1, kListener = 2, kTargetMask = 15 };

template <typename T> uint64_t tag(T *thing, Target target) {
  return reinterpret_cast<uint64_t>(thing) | target;
}
template <typename T> T &untag(uint64_t data) {
  return *reinterpret_cast<T *>(data & ~static_cast<uint64_t>(kTargetMask));
}

class ThreadsEngine final : public EngineCore {
public:
  explicit ThreadsEngine(const EngineOptions &options)
      : EngineCore(options), epoll_(epoll_create1(EPOLL_CLOEXEC)),
        pool_(signal_, std::max(1u, options.threadCount)) {
    if (!epoll_.valid()) throwErrno("epoll_create1");
    watch(signal_->fd(), EPOLLIN, kSignalData);
  }
  ~ThreadsEngine() override { close(); }

protected:
  void startReceive(Connection &c) override {
    c.driver |= kReceiveWanted;
    if (c.driver & kReadable) tryReceive_.push_back(&c);
  }

  void startSend(Connection &c) override {
    c.driver |= kSendWanted;
    if (c.driver & kWritable) trySend_.push_back(&c);
  }

  void startFile(Operation &o) override {
    if (!o.reads() || files_[o.file].direct) return pool_.submit(o);
    const int64_t result = readCached(o);
    if (result == -EAGAIN)
      pool_.submit(o);
    else
      ended_.push_back({&o, result});
  }

  void startAccept(Listener &l) override {
    l.driver |= kReceiveWanted;
    if (l.driver & kReadable) tryAccept_.push_back(&l);
  }

  void cancelReceive(Connection &c) override { c.driver |= kReadable, tryReceive_.push_back(&c); }
  void cancelSend(Connection &c) override { c.driver |= kWritable, trySend_.push_back(&c); }
  void cancelAccept(Listener &l) override { tryAccept_.push_back(&l); }

  void fileAdded(uint32_t) override {}
  void fileRemoved(uint32_t) override {}

  void connectionAdded(Connection &c) override {
    c.driver = kReadable | kWritable;
    watch(c.fd.get(), EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, tag(&c, kConnection));
  }

  void listenerAdded(Listener &l) override {
    const int flags = fcntl(l.fd.get(), F_GETFL);
    if (flags < 0 || fcntl(l.fd.get(), F_SETFL, flags | O_NONBLOCK) != 0) throwErrno("fcntl");
    l.driver = kReadable;
    watch(l.fd.get(), EPOLLIN | EPOLLET, tag(&l, kListener));
  }

  // Not left to close(): another copy of the descriptor would keep the entry alive.
  void connectionRemoved(Connection &c) override { forget(c.fd.get()); }
  void listenerRemoved(Listener &l) override { forget(l.fd.get()); }

  void submit() override {}

  void poll(int64_t wait) override {
    // What was done inline comes first; the system is asked when there is none of it, and now and
    // then, so that a busy connection does not hide the others.
    if (work() && ++sinceWait_ < 4) return;
    sinceWait_ = 0;
    if (wait > 0 && options_.busyPollMicroseconds > 0) {
      const int64_t until = now() + std::min<int64_t>(wait, options_.busyPollMicroseconds * 1000ll);
      do {
        if (collect(0)) return;
      } while (now() < until && !signal_->wakePending());
    }
    collect(busy() ? 0 : wait);
  }

  void shutDown() override { epoll_.reset(); }

private:
  struct Ended {
    Operation *operation;
    int64_t result;
  };

  void watch(int fd, uint32_t events, uint64_t data) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = data;
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) throwErrno("epoll_ctl");
  }

  void forget(int fd) { (void)epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }

  bool busy() const {
    return !tryReceive_.empty() || !trySend_.empty() || !tryAccept_.empty() || !ended_.empty();
  }

  // A read of what is in the page cache; -EAGAIN when it has to wait for the device.
  int64_t readCached(Operation &o) {
    const iovec vector{o.memory + o.done, o.length - o.done};
    const ssize_t n = preadv2(o.fd, &vector, 1, static_cast<off_t>(o.offset + o.done), RWF_NOWAIT);
    if (n > 0) return n;
    if (n == 0) return 0;
    return errno == EOPNOTSUPP || errno == EAGAIN || errno == EINTR || errno == ENOSYS
               ? -EAGAIN
               : -static_cast<int64_t>(errno);
  }

  // Does what sockets are ready for and reports it. True if anything was reported.
  bool work() {
    bool any = false;
    scratchEnded_.swap(ended_);
    for (const Ended &e : scratchEnded_) fileEnded(*e.operation, e.result), any = true;
    scratchEnded_.clear();
    scratch_.swap(trySend_);
    for (Connection *c : scratch_) any |= sendSome(*c);
    scratch_.clear();
    scratch_.swap(tryReceive_);
    for (Connection *c : scratch_) any |= receiveSome(*c);
    scratch_.clear();
    scratchListeners_.swap(tryAccept_);
    for (Listener *l : scratchListeners_) any |= acceptOne(*l);
    scratchListeners_.clear();
    return any;
  }

  bool receiveSome(Connection &c) {
    if (!(c.driver & kReceiveWanted)) return false;
    ssize_t n;
    do n = recv(c.fd.get(), c.receiveMemory, c.receiveLength, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN) {
      c.driver &= ~kReadable;
      if (!c.cut) {
        if (c.closing != Connection::Closing::Gracefully || c.intoLength == 0) return false;
        n = -1, errno = ECANCELED;
      }
    }
    if (n > 0 && n < static_cast<ssize_t>(c.receiveLength) && !(c.driver & kHungUp))
      c.driver &= ~kReadable;
    c.driver &= ~kReceiveWanted;
    received(c, n >= 0 ? static_cast<int>(n) : -errno);
    return true;
  }

  bool sendSome(Connection &c) {
    if (!(c.driver & kSendWanted)) return false;
    ssize_t n;
    do n = sendmsg(c.fd.get(), &c.batch->message, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN && !c.cut) {
      c.driver &= ~kWritable;
      return false;
    }
    c.driver &= ~kSendWanted;
    sent(c, n >= 0 ? static_cast<int>(n) : -errno);
    return true;
  }

  bool acceptOne(Listener &l) {
    if (!(l.driver & kReceiveWanted)) return false;
    int fd = -1;
    if (l.removed)
      errno = ECANCELED;
    else
      fd = accept4(l.fd.get(), nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0 && errno == EAGAIN) {
      l.driver &= ~kReadable;
      return false;
    }
    l.driver &= ~kReceiveWanted;
    accepted(l, fd >= 0 ? fd : -errno);
    return true;
  }

  // Asks the system. True if anything was reported.
  bool collect(int64_t wait) {
    epoll_event events[kEvents];
    ++stats_.waits;
    const int timeout =
        static_cast<int>(std::min<int64_t>((wait + 999'999) / 1'000'000, INT32_MAX));
    const int count = epoll_wait(epoll_.get(), events, kEvents, timeout);
    if (count < 0 && errno != EINTR) fatal("epoll_wait: %s", strerror(errno));
    bool any = false;
    for (int i = 0; i < count; ++i) {
      const uint64_t data = events[i].data.u64;
      if (data == kSignalData)
        any |= takePoolResults();
      else if ((data & kTargetMask) == kConnection)
        noteEvents(untag<Connection>(data), events[i].events);
      else
        noteListener(untag<Listener>(data));
    }
    return work() || any;
  }

  void noteEvents(Connection &c, uint32_t events) {
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) c.driver |= kHungUp;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
      c.driver |= kReadable;
      if (c.driver & kReceiveWanted) tryReceive_.push_back(&c);
    }
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
      c.driver |= kWritable;
      if (c.driver & kSendWanted) trySend_.push_back(&c);
    }
  }

  void noteListener(Listener &l) {
    l.driver |= kReadable;
    if (l.driver & kReceiveWanted) tryAccept_.push_back(&l);
  }

  bool takePoolResults() {
    uint64_t count;
    while (read(signal_->fd(), &count, sizeof count) < 0 && errno == EINTR) {
    }
    bool any = false;
    for (Operation *o = pool_.takeCompleted(); o != nullptr;) {
      Operation *next = o->next;
      fileEnded(*o, o->result);
      o = next;
      any = true;
    }
    return any;
  }

  OwnedFd epoll_;
  WorkPool pool_;
  unsigned sinceWait_ = 0;
  std::vector<Connection *> tryReceive_, trySend_, scratch_;
  std::vector<Listener *> tryAccept_, scratchListeners_;
  std::vector<Ended> ended_, scratchEnded_;
};

} // namespace

std::unique_ptr<EngineCore> makeThreadsEngine(const EngineOptions &options) {
  return std::make_unique<ThreadsEngine>(options);
}

std::unique_ptr<EngineCore> makeEngine(const EngineOptions &options) {
  return options.kind == EngineKind::Uring ? makeUringEngine(options) : makeThreadsEngine(options);
}

} // namespace ploop
