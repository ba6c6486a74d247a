// SPDX-License-Identifier: MIT
// What both engines promise: files, sockets and buffers behind the tables of native/README.md.
//
// EngineCore owns everything that is not about how I/O is submitted: connections and how they end,
// send queues, receive rows, checks of descriptor rows, free stacks, timers. A driver
// (engine_uring.cc, engine_threads.cc) starts one receive, send, accept or file operation at a time
// and reports its end; it may report from inside poll() only.
//
// One thread makes, runs and closes an engine; only its signal may be used from others. The arena
// outlives it. close() waits for everything in flight; a second close() does nothing; the
// destructor closes.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arena.h"
#include "operation.h"
#include "owned_fd.h"
#include "signal.h"

namespace ploop {

enum class EngineKind { Uring, Threads };

struct EngineOptions {
  EngineKind kind;
  ArenaOptions arena;
  uint32_t threadCount;
  uint32_t busyPollMicroseconds;
};

struct EngineStats {
  uint64_t waits = 0;
  uint64_t sends = 0;
  uint64_t batches = 0;
  uint64_t operations = 0;
};

enum class DoneKind : uint32_t {
  Operation = 0,
  Accepted = 1,
  End = 2,
  Failed = 3,
  Closed = 4,
  Into = 5,
};

// One queued reply: a header, a payload, and what to give back when the kernel has taken them.
struct SendItem {
  uint32_t header;
  uint32_t headerBytes;
  uint32_t payload;
  uint32_t payloadBytes;
  uint32_t slot;
  uint32_t sent;
  SendItem *next;

  uint32_t bytes() const { return headerBytes + payloadBytes; }
};

// Memory of one sendmsg in flight; a connection holds one only while it sends.
struct SendBatch {
  static constexpr uint32_t kVectors = 512;
  msghdr message;
  std::array<iovec, kVectors> vectors;
};

struct alignas(16) Connection {
  enum class Closing : uint8_t { No, Gracefully, AtOnce };

  uint16_t slot = 0;
  uint16_t generation = 0;
  OwnedFd fd;

  // receiving: unconsumed bytes are [start, end) of the receive buffer
  uint32_t start = 0;
  uint32_t end = 0;
  uint32_t receiveMax = 0;
  uint8_t *receiveMemory = nullptr; // of the receive in flight
  uint32_t receiveLength = 0;
  uint32_t intoOffset = 0;
  uint32_t intoLength = 0; // 0: no INTO
  uint32_t intoDone = 0;
  uint32_t intoToken = 0;
  bool open = false;
  bool receiving = false; // an operation of the driver names this connection
  bool ready = false;     // listed for the next call
  bool stalled = false;
  bool stalledListed = false; // in stalled_
  bool resume = false;
  bool ended = false;  // the peer's end of stream was read
  bool failed = false; // nothing more is sent or received
  bool shut = false;   // our side of the stream was ended
  bool cut = false;    // both directions were shut down
  bool listed = false; // in closing_
  Closing closing = Closing::No;

  // sending
  bool sending = false; // an operation of the driver names this connection
  bool sendReady = false;
  SendItem *firstSend = nullptr;
  SendItem *lastSend = nullptr;
  std::unique_ptr<SendBatch> batch;

  uint32_t reads = 0;   // READ_SENDs in flight
  uint32_t owed = 0;    // failed READ_SENDs that TypeScript has not been able to answer yet
  int64_t deadline = 0; // of a graceful close, nanoseconds

  uint8_t driver = 0; // flags of the driver

  uint32_t name() const { return slot | static_cast<uint32_t>(generation) << 16; }
};

struct alignas(16) Listener {
  uint32_t index = 0;
  OwnedFd fd;
  bool accepting = false; // an operation of the driver names this listener
  bool removed = false;
  int64_t pausedUntil = 0; // nanoseconds; 0: not paused
  uint8_t driver = 0;
};

struct OpenFile {
  OwnedFd fd;
  bool direct = false;
  uint32_t alignment = 1; // of offsets, when direct
};

struct PeerCredentials {
  int64_t pid;
  int64_t uid;
  int64_t gid;
};

class EngineCore {
public:
  // false: it threw, and run() ends with RunEnd::Thrown
  using BatchCallback = std::function<bool()>;
  enum class RunEnd { Done, Thrown };

  virtual ~EngineCore();
  EngineCore(const EngineCore &) = delete;
  EngineCore &operator=(const EngineCore &) = delete;

  const std::shared_ptr<Arena> &arena() const { return arena_; }
  const std::shared_ptr<Signal> &signal() const { return signal_; }
  const EngineStats &stats() const { return stats_; }

  uint32_t addFile(int fd);
  void removeFile(uint32_t file);
  uint32_t addListener(int fd);
  void removeListener(uint32_t listener);
  uint32_t addConnection(int fd);
  bool peerHungUp(uint32_t connection);
  PeerCredentials peerCredentials(uint32_t connection);

  RunEnd run(uint32_t sliceMs, const BatchCallback &batch);
  void takeRows();
  void close();

protected:
  explicit EngineCore(const EngineOptions &options);

  // --- what a driver does; it reports the end of each by the functions below, from poll() ---
  virtual void startReceive(Connection &connection) = 0; // receiveMemory, receiveLength
  virtual void startSend(Connection &connection) = 0;    // batch->message
  virtual void startFile(Operation &operation) = 0;      // what is left of it
  virtual void startAccept(Listener &listener) = 0;
  virtual void cancelReceive(Connection &connection) = 0;
  virtual void cancelSend(Connection &connection) = 0;
  virtual void cancelAccept(Listener &listener) = 0;
  virtual void fileAdded(uint32_t index) = 0;
  virtual void fileRemoved(uint32_t index) = 0;
  virtual void connectionAdded(Connection &connection) = 0;
  virtual void connectionRemoved(Connection &connection) = 0; // its descriptor is still open
  virtual void listenerAdded(Listener &listener) = 0;
  virtual void listenerRemoved(Listener &listener) = 0;
  // Submits all that was started, waits at most so long for something to end, reports what ended.
  virtual void poll(int64_t waitNanoseconds) = 0;
  // Submits all that was started.
  virtual void submit() = 0;
  // Gives up everything of the driver; nothing is in flight any more.
  virtual void shutDown() = 0;

  // --- reports of the driver; results are bytes, descriptors or negative errno ---
  void received(Connection &connection, int result);
  void sent(Connection &connection, int result);
  void fileEnded(Operation &operation, int64_t result);
  void accepted(Listener &listener, int result);

  static int64_t now(); // nanoseconds

  const EngineOptions options_;
  std::shared_ptr<Arena> arena_;
  std::shared_ptr<Signal> signal_;
  EngineStats stats_;
  std::deque<OpenFile> files_;

private:
  // Empties a list by calling `f` for each entry; keeps its memory.
  template <typename List, typename F> static void drain(List &list, F f) {
    for (size_t i = 0; i < list.size(); ++i) f(list[i]);
    list.clear();
  }

  struct DoneRow {
    uint32_t kind, id;
    int32_t result;
    uint32_t extra;
    uint32_t owedBy; // connection of a failed READ_SEND, or kNone
  };

  void dropListener(Listener &listener);

  // connections
  Connection *openConnection(OwnedFd fd);
  Connection *find(uint32_t name);
  void armReceive(Connection &connection);
  void present(Connection &connection);
  void stall(Connection &connection);
  void cut(Connection &connection);
  void lookAgain(Connection &connection);
  void fail(Connection &connection, int error);
  void beginClose(Connection &connection, bool atOnce);
  void advanceClose(Connection &connection);
  void finish(Connection &connection);
  void endInto(Connection &connection, int32_t result);
  void noteState(const Connection &connection);

  // send queues
  void queueSend(Connection &connection, const SendItem &item);
  void buildBatch(Connection &connection);
  void dropQueue(Connection &connection);
  void takeSent(Connection &connection, uint32_t bytes);
  void popSend(Connection &connection);
  void startSends();
  void release(uint32_t header, uint32_t slot);
  uint32_t &replies(const Connection &connection);
  uint32_t &unsent(const Connection &connection);

  // rows
  void takeRow(const uint32_t *row, uint32_t index);
  void takeFileRow(const uint32_t *row, uint32_t index);
  void takeReadSendRow(const uint32_t *row, uint32_t index);
  void takeSendRow(const uint32_t *row, uint32_t index);
  static bool takesReplies(const Connection &connection);
  void beginOperation(const Operation &prepared);
  void checkReply(const uint32_t *row, uint32_t index) const;
  OpenFile &checkFile(uint32_t file, uint32_t index);
  void endOperation(Operation &operation, int64_t result);
  void endReadSend(const Operation &operation, int64_t result);
  bool goesOn(Operation &operation, int64_t &result);

  // calls
  bool callDue();
  bool fillTables();
  void applyAnswers();
  void applyAnswer(Connection &connection, const uint32_t *row);
  void done(DoneKind kind, uint32_t id, int32_t result, uint32_t extra, uint32_t owedBy = kNone);
  void afterCall();
  void settle();

  // time
  int64_t nextTimer() const;
  void runTimers();
  bool inFlight() const;

  std::vector<Connection> connections_;
  std::vector<uint16_t> freeConnections_;
  std::deque<Listener> listeners_;
  std::vector<uint16_t> ready_;     // to be presented in the next call
  std::vector<uint16_t> stalled_;   // may name slots that are not stalled any more
  std::vector<uint16_t> presented_; // rows of the call under way
  std::vector<uint16_t> resumed_;
  std::vector<uint16_t> sendReady_;
  std::vector<uint16_t> closing_;   // to be looked at by settle()
  std::vector<uint16_t> lingering_; // shut down, waiting for the peer's end or the deadline
  std::deque<DoneRow> done_;
  std::vector<uint32_t> owedShown_; // connections whose failed READ_SENDs the call shows
  std::deque<Operation> operationStore_;
  Operation *freeOperations_ = nullptr;
  std::deque<SendItem> sendStore_;
  SendItem *freeSends_ = nullptr;
  std::vector<std::unique_ptr<SendBatch>> freeBatches_;
  uint64_t operationsInFlight_ = 0;
  bool released_ = false; // slots or headers were returned since the last call
  bool inBatch_ = false;
  bool closed_ = false;
  bool dead_ = false; // close() is under way: nobody is told anything
};

struct UringProbe {
  bool available;
  std::string reason;
};
UringProbe probeUring();

// Throw SystemError.
std::unique_ptr<EngineCore> makeUringEngine(const EngineOptions &options);
std::unique_ptr<EngineCore> makeThreadsEngine(const EngineOptions &options);
std::unique_ptr<EngineCore> makeEngine(const EngineOptions &options);

} // namespace ploop
