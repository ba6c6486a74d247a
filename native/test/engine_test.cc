// SPDX-License-Identifier: MIT
// Both engines under load: many connections that send requests of random size in random pieces,
// peers that vanish, files read and written, closes of both kinds; no slot may be lost.
//
// The toy protocol: a request is u32 kind, u32 length. Kind 0: `length` bytes follow and come back.
// Kind 1: `length` bytes of the file are asked for. Kind 2: `length` bytes follow, are received
// straight to a slot, written to the file and answered by an empty reply. A reply is u32 length and
// that many bytes.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "../src/engine.h"
#include "../src/socket_ops.h"
#include "../src/system_error.h"
#include "check.h"

using namespace ploop;

namespace {

constexpr uint32_t kStall = 0xffffffff;
constexpr uint32_t kFileBytes = 1 << 20;

struct Write {
  uint32_t connection, slot, length;
};

class Server {
public:
  explicit Server(EngineKind kind)
      : engine(makeEngine(
            {kind, {8, 8, 2, 2, 32, 24, 65536}, 3, kind == EngineKind::Uring ? 20u : 0u})),
        arena(*engine->arena()), layout(arena.layout()) {
    char name[] = "/tmp/pn-native-XXXXXX";
    OwnedFd fd(mkstemp(name));
    CHECK(fd.valid());
    unlink(name);
    CHECK(ftruncate(fd.get(), kFileBytes) == 0);
    file = engine->addFile(fd.get());
  }

  bool batch() {
    doneRows();
    receiveRows();
    return true;
  }
  void run(uint32_t slice) {
    engine->run(slice, [this] { return batch(); });
  }

  bool allFree() {
    return arena.control(kControlFree4k) == 8 && arena.control(kControlFree64k) == 8 &&
           arena.control(kControlFree1m) == 2 && arena.control(kControlFreeHeaders) == 32;
  }

  std::unique_ptr<EngineCore> engine;
  Arena &arena;
  const Layout layout;
  uint32_t file;
  unsigned open = 0, closed = 0, accepted = 0;

private:
  uint32_t *put() {
    if (arena.control(kControlRows) == layout.rowCapacity) engine->takeRows();
    uint32_t *row = arena.words(layout.rowTable) + arena.control(kControlRows)++ * 12;
    std::memset(row, 0, 48);
    row[8] = row[9] = kNone;
    return row;
  }

  uint32_t take(uint32_t control, uint32_t stack) {
    uint32_t &top = arena.control(control);
    return top == 0 ? kNone : arena.words(stack)[--top];
  }
  uint32_t takeSlot() { return take(kControlFree64k, layout.stack64k); }

  void reply(uint32_t connection, uint32_t slot, uint32_t length, Op op, uint32_t token) {
    const uint32_t header = take(kControlFreeHeaders, layout.stackHeaders);
    CHECK(header != kNone);
    std::memcpy(arena.at(layout.headers + header * kHeaderBytes), &length, 4);
    uint32_t *row = put();
    row[0] = static_cast<uint32_t>(op) | 4 << 8;
    row[1] = file;
    row[2] = token;
    row[5] = length;
    row[6] = slot;
    row[7] = connection;
    row[8] = header;
    row[9] = slot;
  }

  void close(uint32_t connection, bool atOnce) {
    uint32_t *row = put();
    row[0] = static_cast<uint32_t>(Op::Close);
    row[5] = atOnce ? 1 : 0;
    row[7] = connection;
  }

  void doneRows() {
    const uint32_t count = arena.control(kControlDoneRows);
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t *row = arena.words(layout.doneTable) + i * 4;
      switch (static_cast<DoneKind>(row[0])) {
      case DoneKind::Accepted: ++accepted; break;
      case DoneKind::End: close(row[1], false); break;
      case DoneKind::Failed: close(row[1], row[1] % 2 == 0); break;
      case DoneKind::Closed: ++closed; break;
      case DoneKind::Into: intoEnded(row[1], static_cast<int32_t>(row[2])); break;
      case DoneKind::Operation:
        CHECK(static_cast<int32_t>(row[2]) > 0);
        written(row[1]);
        break;
      }
    }
  }

  void intoEnded(uint32_t token, int32_t result) {
    const Write write = writes.at(token);
    if (result != static_cast<int32_t>(write.length)) {
      arena.releaseSlot(write.slot);
      writes.erase(token);
      return;
    }
    uint32_t *row = put();
    row[0] = static_cast<uint32_t>(Op::Write);
    row[1] = file;
    row[2] = token;
    row[3] = token % 1000;
    row[5] = write.length;
    row[6] = write.slot;
  }

  void written(uint32_t token) {
    const Write write = writes.at(token);
    writes.erase(token);
    reply(write.connection, write.slot, 0, Op::Send, 0);
  }

  void receiveRows() {
    const uint32_t count = arena.control(kControlReceiveRows);
    for (uint32_t i = 0; i < count; ++i) parse(arena.words(layout.receiveTable) + i * 8);
  }

  void parse(uint32_t *row) {
    const uint32_t connection = row[0], length = row[2];
    const uint8_t *bytes = arena.at(row[1]);
    uint32_t at = 0;
    while (length - at >= 8) {
      uint32_t kind, size;
      std::memcpy(&kind, bytes + at, 4);
      std::memcpy(&size, bytes + at + 4, 4);
      CHECK(kind <= 2 && size > 0 && size <= 60000);
      if (kind == 0 && length - at - 8 < size) break;
      const uint32_t slot = arena.control(kControlFreeHeaders) > 4 ? takeSlot() : kNone;
      if (slot == kNone) {
        row[4] = kStall;
        break;
      }
      at += 8;
      if (kind == 0) {
        std::memcpy(arena.at(slot), bytes + at, size);
        reply(connection, slot, size, Op::Send, 0);
        at += size;
      } else if (kind == 1) {
        reply(connection, slot, size, Op::ReadSend, ++token_);
      } else {
        receiveWrite(row, connection, slot, size, bytes, length, at);
        if (row[6] != 0) break;
      }
    }
    row[3] = at;
  }

  void receiveWrite(uint32_t *row, uint32_t connection, uint32_t slot, uint32_t size,
                    const uint8_t *bytes, uint32_t length, uint32_t &at) {
    const uint32_t there = std::min(size, length - at);
    std::memcpy(arena.at(slot), bytes + at, there);
    at += there;
    const uint32_t token = ++token_;
    writes[token] = {connection, slot, size};
    if (there == size) return intoEnded(token, static_cast<int32_t>(size));
    // the rest goes straight to its place; the token's row then tells of the rest only
    writes[token].length = size - there;
    row[5] = slot + there;
    row[6] = size - there;
    row[7] = token;
  }

  std::unordered_map<uint32_t, Write> writes;
  uint32_t token_ = 0;
};

// Echoes keep their order among themselves.
void checkReplies(const std::string &in, const std::string &expected) {
  std::string echoed;
  size_t whole = 0;
  while (in.size() - whole >= 4) {
    uint32_t length;
    std::memcpy(&length, in.data() + whole, 4);
    CHECK(in.size() - whole - 4 >= length);
    if (length > 0 && in[whole + 4] >= 'a') echoed.append(in, whole + 4, length);
    whole += 4 + length;
  }
  CHECK(whole == in.size());
  CHECK(echoed == expected);
}

// One client: sends random requests in random pieces, checks what comes back.
void client(OwnedFd fd, unsigned seed, bool polite) {
  std::mt19937 random(seed);
  const auto below = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
  std::string out, expected;
  for (unsigned i = 0; i < 30; ++i) {
    const uint32_t kind = below(3), size = 1 + below(below(2) ? 200 : 60000);
    out.append(reinterpret_cast<const char *>(&kind), 4);
    out.append(reinterpret_cast<const char *>(&size), 4);
    // what is echoed is written small, what comes from the file is not
    const std::string payload(size, static_cast<char>((kind == 0 ? 'a' : 'A') + below(26)));
    if (kind != 1) out += payload;
    if (kind == 0) expected += payload;
  }
  size_t sent = 0;
  std::string in;
  char buffer[20000];
  const size_t giveUp = polite ? SIZE_MAX : out.size() / 2;
  while (sent < out.size()) {
    if (sent >= giveUp) return; // gone, with replies unread
    pollfd entry{fd.get(), POLLIN | POLLOUT, 0};
    CHECK(poll(&entry, 1, -1) == 1);
    if (entry.revents & POLLOUT) {
      const size_t part = std::min<size_t>(1 + below(30000), out.size() - sent);
      const ssize_t n = send(fd.get(), out.data() + sent, part, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n > 0) sent += static_cast<size_t>(n);
      if (n < 0 && errno != EAGAIN) return; // the server was closed
    }
    if (entry.revents & POLLIN) {
      const ssize_t n = recv(fd.get(), buffer, sizeof buffer, MSG_DONTWAIT);
      if (n > 0) in.append(buffer, static_cast<size_t>(n));
    }
  }
  shutdown(fd.get(), SHUT_WR);
  for (ssize_t n; (n = recv(fd.get(), buffer, sizeof buffer, 0)) > 0;)
    in.append(buffer, static_cast<size_t>(n));
  if (polite) checkReplies(in, expected);
}

void testLoad(EngineKind kind) {
  Server server(kind);
  std::vector<std::thread> clients;
  for (unsigned i = 0; i < 20; ++i) {
    auto pair = socketPair();
    CHECK(server.engine->addConnection(pair.first.get()) != kNone);
    clients.emplace_back(client, std::move(pair.second), i, i % 4 != 0);
  }
  for (unsigned rounds = 0; server.closed < 20; ++rounds) {
    CHECK(rounds < 3000);
    server.run(10);
  }
  for (std::thread &thread : clients) thread.join();
  CHECK(server.allFree());
  CHECK(server.arena.control(kControlEpochInFlight) == 0);
  CHECK(server.engine->stats().sends > 0);
  server.engine->close();
}

// Closed in the middle of everything.
void testAbruptClose(EngineKind kind) {
  Server server(kind);
  std::vector<std::thread> clients;
  OwnedFd listener = listenTcp("127.0.0.1", 0, 5).fd;
  server.engine->addListener(listener.get());
  for (unsigned i = 0; i < 8; ++i) {
    auto pair = socketPair();
    server.engine->addConnection(pair.first.get());
    clients.emplace_back(client, std::move(pair.second), 100 + i, false);
  }
  server.run(1);
  server.run(1);
  server.engine->close();
  server.engine->close();
  for (std::thread &thread : clients) thread.join();
}

void testWake(EngineKind kind) {
  Server server(kind);
  const uint32_t handle = registerSignal(server.engine->signal());
  std::atomic<bool> running{true};
  std::thread waker([&] {
    while (running) wakeByHandle(handle), std::this_thread::yield();
  });
  for (unsigned i = 0; i < 200; ++i) server.run(60'000);
  running = false;
  waker.join();
  unregisterSignal(handle);
  wakeByHandle(handle);
}

} // namespace

void testEngines() {
  for (const EngineKind kind : {EngineKind::Threads, EngineKind::Uring}) {
    if (kind == EngineKind::Uring && !probeUring().available) {
      std::printf("no uring: %s\n", probeUring().reason.c_str());
      continue;
    }
    testWake(kind);
    testLoad(kind);
    testAbruptClose(kind);
  }
}
