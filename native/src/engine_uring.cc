// SPDX-License-Identifier: MIT
// The io_uring driver: one ring carries files and sockets.
//
// The ring is made on the thread that runs the engine, because SINGLE_ISSUER binds it to that
// thread. Completions cannot overflow the ring's queue: file operations beyond kFileLimit wait
// here, and the queue has room for these and for everything a connection can have in flight.
#include "engine.h"

#ifndef PLOOP_HAVE_URING

#include "system_error.h"

namespace ploop {

std::unique_ptr<EngineCore> makeUringEngine(const EngineOptions &) {
  throw SystemError(ENOSYS, "io_uring_setup");
}

} // namespace ploop

#else

#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "system_error.h"
#include "uring_setup.h"
#include "work_pool.h"

namespace ploop {

namespace {

constexpr unsigned kSubmissionEntries = 1024;
constexpr unsigned kCompletionLimit = 65536;
constexpr unsigned kFileLimit = 4096;  // file operations in the ring at once
constexpr unsigned kPerConnection = 5; // receive, send, two polls, cancels answered in between
constexpr unsigned kRegisteredFiles = 4096;
constexpr unsigned kHelperThreads = 4;

// What a completion belongs to: in the low bits of user_data, a pointer in the rest.
enum Kind : uint64_t {
  kIgnored = 0,
  kReceive,
  kReceivePoll,
  kSend,
  kSendPoll,
  kAccept,
  kAcceptPoll,
  kFile,
  kSignal,
  kKindMask = 15,
};

template <typename T> uint64_t tag(T *thing, Kind kind) {
  return reinterpret_cast<uint64_t>(thing) | kind;
}
template <typename T> T &untag(uint64_t data) {
  return *reinterpret_cast<T *>(data & ~static_cast<uint64_t>(kKindMask));
}

class UringEngine final : public EngineCore {
public:
  explicit UringEngine(const EngineOptions &options)
      : EngineCore(options), pool_(signal_, kHelperThreads) {
    const uint64_t wanted =
        kFileLimit + 64 + uint64_t{kPerConnection} * options.arena.connectionCount;
    unsigned completions = 2 * kSubmissionEntries;
    while (completions < wanted && completions < kCompletionLimit) completions *= 2;
    setUpRing(ring_, kSubmissionEntries, completions);
    const std::string missing = missingOperations(ring_, &fallocate_);
    if (!missing.empty()) {
      io_uring_queue_exit(&ring_);
      throw SystemError(EOPNOTSUPP, "io_uring_setup");
    }
    registerFiles();
    armSignal();
  }
  ~UringEngine() override { close(); }

protected:
  void startReceive(Connection &c) override {
    io_uring_sqe *sqe = take();
    // INTO: the kernel goes on until all is there; one completion instead of many
    const int flags = c.intoLength != 0 ? MSG_WAITALL : 0;
    io_uring_prep_recv(sqe, c.fd.get(), c.receiveMemory, c.receiveLength, flags);
    setData(sqe, tag(&c, kReceive));
  }

  void startSend(Connection &c) override {
    io_uring_sqe *sqe = take();
    io_uring_prep_sendmsg(sqe, c.fd.get(), &c.batch->message, MSG_NOSIGNAL);
    setData(sqe, tag(&c, kSend));
  }

  void startFile(Operation &o) override {
    if (o.op == Op::Copy || (isAllocation(o) && !fallocate_)) return pool_.submit(o);
    if (filesInRing_ >= kFileLimit) {
      o.next = nullptr;
      if (lastWaiting_ != nullptr)
        lastWaiting_->next = &o;
      else
        firstWaiting_ = &o;
      lastWaiting_ = &o;
      return;
    }
    ++filesInRing_;
    prepareFile(o);
  }

  void startAccept(Listener &l) override {
    io_uring_sqe *sqe = take();
    io_uring_prep_accept(sqe, l.fd.get(), nullptr, nullptr, SOCK_CLOEXEC);
    setData(sqe, tag(&l, kAccept));
  }

  void cancelReceive(Connection &c) override {
    cancel(tag(&c, kReceive));
    cancel(tag(&c, kReceivePoll));
  }
  void cancelSend(Connection &c) override {
    cancel(tag(&c, kSend));
    cancel(tag(&c, kSendPoll));
  }
  void cancelAccept(Listener &l) override {
    cancel(tag(&l, kAccept));
    cancel(tag(&l, kAcceptPoll));
  }

  void fileAdded(uint32_t index) override {
    if (index >= registered_) return;
    int fd = files_[index].fd.get();
    if (io_uring_register_files_update(&ring_, index, &fd, 1) != 1) registered_ = index;
  }
  void fileRemoved(uint32_t index) override {
    if (index >= registered_) return;
    int none = -1;
    io_uring_register_files_update(&ring_, index, &none, 1);
  }

  void connectionAdded(Connection &) override {}
  void connectionRemoved(Connection &) override {}
  void listenerAdded(Listener &) override {}
  void listenerRemoved(Listener &) override {}

  void submit() override {
    if (io_uring_sq_ready(&ring_) == 0) return;
    ++stats_.waits;
    check(io_uring_submit(&ring_));
  }

  void poll(int64_t wait) override {
    if (wait > 0 && options_.busyPollMicroseconds > 0) {
      const int64_t until = now() + std::min<int64_t>(wait, options_.busyPollMicroseconds * 1000ll);
      do {
        enter(0);
        if (reap()) return;
      } while (now() < until && !signal_->wakePending());
    }
    enter(wait);
    reap();
  }

  void shutDown() override {
    // the pending read of the eventfd must not write into memory that is gone
    stopping_ = true;
    cancel(tag(this, kSignal));
    while (signalArmed_) {
      enter(1'000'000'000);
      reap();
    }
    // at once, not when the kernel gets round to tearing the ring down: locks end with the file
    if (registered_ > 0) io_uring_unregister_files(&ring_);
    io_uring_queue_exit(&ring_);
  }

private:
  static bool isAllocation(const Operation &o) {
    return o.op == Op::Allocate || o.op == Op::Zero || o.op == Op::Punch;
  }

  static void setData(io_uring_sqe *sqe, uint64_t data) { sqe->user_data = data; }

  // A place in the submission queue; what is in it is submitted when it is full.
  io_uring_sqe *take() {
    for (;;) {
      if (io_uring_sqe *sqe = io_uring_get_sqe(&ring_)) return sqe;
      submit();
    }
  }

  // EAGAIN and EBUSY: the kernel wants completions to be reaped first.
  static void check(int result) {
    if (result >= 0 || result == -ETIME || result == -EINTR) return;
    if (result == -EAGAIN || result == -EBUSY || result == -ENOMEM) return;
    fatal("io_uring_enter: %s", strerror(-result));
  }

  void enter(int64_t wait) {
    __kernel_timespec time{wait / 1'000'000'000, wait % 1'000'000'000};
    io_uring_cqe *cqe = nullptr;
    ++stats_.waits;
    check(io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, &time, nullptr));
  }

  bool reap() {
    bool any = false;
    for (;;) {
      io_uring_cqe *cqes[64];
      const unsigned count = io_uring_peek_batch_cqe(&ring_, cqes, 64);
      if (count == 0) return any;
      any = true;
      for (unsigned i = 0; i < count; ++i) dispatch(cqes[i]->user_data, cqes[i]->res);
      io_uring_cq_advance(&ring_, count);
    }
  }

  void dispatch(uint64_t data, int result) {
    if (data == LIBURING_UDATA_TIMEOUT) return; // of liburing's own timeout, on old kernels
    switch (static_cast<Kind>(data & kKindMask)) {
    case kReceive: {
      Connection &c = untag<Connection>(data);
      if (result == -EINTR) return startReceive(c);
      if (result == -EAGAIN) return startPoll(c.fd.get(), POLLIN, tag(&c, kReceivePoll));
      return received(c, result);
    }
    case kReceivePoll: {
      Connection &c = untag<Connection>(data);
      return result < 0 ? received(c, result) : startReceive(c);
    }
    case kSend: {
      Connection &c = untag<Connection>(data);
      if (result == -EINTR) return startSend(c);
      if (result == -EAGAIN) return startPoll(c.fd.get(), POLLOUT, tag(&c, kSendPoll));
      return sent(c, result);
    }
    case kSendPoll: {
      Connection &c = untag<Connection>(data);
      return result < 0 ? sent(c, result) : startSend(c);
    }
    case kAccept: {
      Listener &l = untag<Listener>(data);
      if (result == -EAGAIN) return startPoll(l.fd.get(), POLLIN, tag(&l, kAcceptPoll));
      return accepted(l, result);
    }
    case kAcceptPoll: {
      Listener &l = untag<Listener>(data);
      return result < 0 ? accepted(l, result) : startAccept(l);
    }
    case kFile: return fileReaped(untag<Operation>(data), result);
    case kSignal: return signalled(result);
    default: return;
    }
  }

  void startPoll(int fd, unsigned events, uint64_t data) {
    io_uring_sqe *sqe = take();
    io_uring_prep_poll_add(sqe, fd, events);
    setData(sqe, data);
  }

  void cancel(uint64_t data) {
    io_uring_sqe *sqe = take();
    io_uring_prep_cancel64(sqe, data, 0);
    setData(sqe, kIgnored);
  }

  void prepareFile(Operation &o) {
    io_uring_sqe *sqe = take();
    const bool registered = o.file < registered_;
    const int fd = registered ? static_cast<int>(o.file) : o.fd;
    const auto length = static_cast<unsigned>(o.length - o.done);
    switch (o.op) {
    case Op::Write:
      io_uring_prep_write(sqe, fd, o.memory + o.done, length, o.offset + o.done);
      break;
    case Op::Sync: io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC); break;
    case Op::Allocate: prepareFallocate(sqe, fd, 0, o); break;
    case Op::Zero: prepareFallocate(sqe, fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, o); break;
    case Op::Punch: prepareFallocate(sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, o); break;
    default: io_uring_prep_read(sqe, fd, o.memory + o.done, length, o.offset + o.done); break;
    }
    if (registered) sqe->flags |= IOSQE_FIXED_FILE;
    setData(sqe, tag(&o, kFile));
  }

  static void prepareFallocate(io_uring_sqe *sqe, int fd, int mode, const Operation &o) {
    io_uring_prep_fallocate(sqe, fd, mode, static_cast<off_t>(o.offset),
                            static_cast<off_t>(o.length));
  }

  void fileReaped(Operation &o, int result) {
    --filesInRing_;
    if (o.op == Op::Allocate && result == -EOPNOTSUPP)
      pool_.submit(o); // extends the file instead
    else
      fileEnded(o, result);
    while (firstWaiting_ != nullptr && filesInRing_ < kFileLimit) {
      Operation &waiting = *firstWaiting_;
      firstWaiting_ = waiting.next;
      if (firstWaiting_ == nullptr) lastWaiting_ = nullptr;
      ++filesInRing_;
      prepareFile(waiting);
    }
  }

  void armSignal() {
    io_uring_sqe *sqe = take();
    io_uring_prep_read(sqe, signal_->fd(), &signalCount_, sizeof signalCount_, 0);
    setData(sqe, tag(this, kSignal));
    signalArmed_ = true;
  }

  void signalled(int result) {
    signalArmed_ = false;
    if (stopping_ && result < 0) return;
    for (Operation *o = pool_.takeCompleted(); o != nullptr;) {
      Operation *next = o->next;
      fileEnded(*o, o->result);
      o = next;
    }
    armSignal();
    if (stopping_) cancel(tag(this, kSignal));
  }

  // Cheap look-up of files; where it is refused they are named by descriptor.
  void registerFiles() {
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    const auto count = static_cast<unsigned>(std::min<rlim_t>(kRegisteredFiles, limit.rlim_cur));
    registered_ = io_uring_register_files_sparse(&ring_, count) == 0 ? count : 0;
  }

  io_uring ring_{};
  WorkPool pool_;
  bool fallocate_ = false;
  bool signalArmed_ = false;
  bool stopping_ = false;
  uint64_t signalCount_ = 0;
  unsigned registered_ = 0; // files below are in the ring's table
  unsigned filesInRing_ = 0;
  Operation *firstWaiting_ = nullptr;
  Operation *lastWaiting_ = nullptr;
};

} // namespace

std::unique_ptr<EngineCore> makeUringEngine(const EngineOptions &options) {
  return std::make_unique<UringEngine>(options);
}

} // namespace ploop

#endif
