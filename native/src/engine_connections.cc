// SPDX-License-Identifier: MIT
// One connection: what is received, what is sent, and how it ends.
//
// How it ends. A connection leaves its slot only when no operation names it: no receive, no send,
// no READ_SEND. CLOSE at once cuts both directions, so that those end by themselves. CLOSE
// gracefully first sends what is queued, then ends our side and reads and drops what the peer still
// has to say: closing with unread input would make TCP reset the connection, and the peer would
// lose replies that are under way.
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "engine.h"
#include "socket_ops.h"
#include "system_error.h"

namespace ploop {

namespace {
constexpr int64_t kLinger = 2'000'000'000; // nanoseconds
}

// --- beginning -------------------------------------------------------------------------------

uint32_t EngineCore::addConnection(int fd) {
  OwnedFd copy = duplicateFd(fd);
  prepareConnection(copy.get());
  Connection *connection = openConnection(std::move(copy));
  return connection == nullptr ? kNone : connection->name();
}

Connection *EngineCore::openConnection(OwnedFd fd) {
  if (freeConnections_.empty()) return nullptr;
  Connection &c = connections_[freeConnections_.back()];
  const uint16_t slot = c.slot;
  const uint16_t generation = static_cast<uint16_t>(c.generation + 1);
  c = Connection{};
  c.slot = slot;
  c.generation = generation;
  c.fd = std::move(fd);
  c.open = true;
  connectionAdded(c);
  freeConnections_.pop_back();
  replies(c) = 0;
  unsent(c) = 0;
  noteState(c);
  armReceive(c);
  return &c;
}

Connection *EngineCore::find(uint32_t name) {
  const uint32_t slot = name & 0xffff;
  if (slot >= connections_.size()) return nullptr;
  Connection &c = connections_[slot];
  return c.open && c.name() == name ? &c : nullptr;
}

void EngineCore::noteState(const Connection &c) {
  uint32_t *row = arena_->words(arena_->layout().connectionTable) + c.slot * 4;
  row[2] = c.open ? 1 : 0;
  row[3] = c.generation;
}

uint32_t &EngineCore::replies(const Connection &c) {
  return arena_->words(arena_->layout().connectionTable)[c.slot * 4];
}

uint32_t &EngineCore::unsent(const Connection &c) {
  return arena_->words(arena_->layout().connectionTable)[c.slot * 4 + 1];
}

bool EngineCore::peerHungUp(uint32_t name) {
  const Connection *c = find(name);
  if (c == nullptr || c->ended || c->failed) return true;
  pollfd entry{c->fd.get(), POLLRDHUP, 0};
  return ::poll(&entry, 1, 0) > 0 && (entry.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

PeerCredentials EngineCore::peerCredentials(uint32_t name) {
  const Connection *c = find(name);
  if (c == nullptr) throw SystemError(ENOTCONN, "getsockopt");
  return readPeerCredentials(c->fd.get());
}

// --- receiving -------------------------------------------------------------------------------

// Receives more if there is room; what is left unconsumed moves to the front.
void EngineCore::armReceive(Connection &c) {
  if (c.receiving || c.ended || c.failed || c.closing != Connection::Closing::No) return;
  const Layout &l = arena_->layout();
  if (c.intoLength != 0) {
    c.receiveMemory = arena_->at(c.intoOffset + c.intoDone);
    c.receiveLength = c.intoLength - c.intoDone;
  } else {
    uint8_t *buffer = arena_->at(l.receiveBuffers + c.slot * l.receiveBytes);
    const uint32_t rest = c.end - c.start;
    if (c.start != 0 && rest != 0) std::memmove(buffer, buffer + c.start, rest);
    c.start = 0;
    c.end = rest;
    const uint32_t room = l.receiveBytes - rest;
    if (room == 0) return stall(c);
    c.receiveMemory = buffer + rest;
    c.receiveLength = c.receiveMax == 0 ? room : std::min(room, c.receiveMax);
  }
  c.receiving = true;
  startReceive(c);
}

void EngineCore::received(Connection &c, int result) {
  c.receiving = false;
  if (c.failed || c.closing != Connection::Closing::No) {
    if (c.intoLength != 0) endInto(c, -ECANCELED);
    if (result == 0) c.ended = true;
    if (result < 0 && result != -ECANCELED) c.failed = true;
    lookAgain(c);
    return;
  }
  if (result < 0) {
    if (c.intoLength != 0) endInto(c, result);
    fail(c, -result);
    return;
  }
  if (result == 0) {
    c.ended = true;
    if (c.intoLength != 0) endInto(c, 0);
    done(DoneKind::End, c.name(), 0, c.end - c.start);
    return;
  }
  if (c.intoLength == 0) {
    c.end += static_cast<uint32_t>(result);
    present(c);
    return;
  }
  c.intoDone += static_cast<uint32_t>(result);
  if (c.intoDone == c.intoLength) endInto(c, static_cast<int32_t>(c.intoDone));
  armReceive(c);
}

void EngineCore::endInto(Connection &c, int32_t result) {
  c.intoLength = 0;
  done(DoneKind::Into, c.intoToken, result, c.name());
}

void EngineCore::present(Connection &c) {
  c.stalled = false;
  if (c.ready) return;
  c.ready = true;
  ready_.push_back(c.slot);
}

void EngineCore::stall(Connection &c) {
  c.stalled = true;
  if (c.stalledListed) return;
  c.stalledListed = true;
  stalled_.push_back(c.slot);
}

// --- sending ---------------------------------------------------------------------------------

void EngineCore::queueSend(Connection &c, const SendItem &item) {
  SendItem *place = freeSends_;
  if (place != nullptr)
    freeSends_ = place->next;
  else
    place = &sendStore_.emplace_back();
  *place = item;
  place->next = nullptr;
  if (c.lastSend != nullptr)
    c.lastSend->next = place;
  else
    c.firstSend = place;
  c.lastSend = place;
  unsent(c) += item.bytes();
  if (!c.sending && !c.sendReady) {
    c.sendReady = true;
    sendReady_.push_back(c.slot);
  }
}

// One send in flight per connection: the order of bytes is trivial, and the batch grows by itself
// while the peer is slow.
void EngineCore::startSends() {
  drain(sendReady_, [this](uint16_t slot) {
    Connection &c = connections_[slot];
    c.sendReady = false;
    if (!c.open || c.failed || c.sending || c.firstSend == nullptr) return;
    if (c.closing == Connection::Closing::AtOnce) return;
    buildBatch(c);
    c.sending = true;
    ++stats_.sends;
    startSend(c);
  });
}

void EngineCore::buildBatch(Connection &c) {
  if (freeBatches_.empty()) freeBatches_.push_back(std::make_unique<SendBatch>());
  c.batch = std::move(freeBatches_.back());
  freeBatches_.pop_back();
  SendBatch &batch = *c.batch;
  uint32_t count = 0;
  for (SendItem *i = c.firstSend; i != nullptr && count + 2 <= SendBatch::kVectors; i = i->next) {
    if (i->sent < i->headerBytes)
      batch.vectors[count++] = {arena_->at(arena_->layout().headers + i->header * kHeaderBytes) +
                                    i->sent,
                                i->headerBytes - i->sent};
    const uint32_t skip = i->sent > i->headerBytes ? i->sent - i->headerBytes : 0;
    if (skip < i->payloadBytes)
      batch.vectors[count++] = {arena_->at(i->payload) + skip, i->payloadBytes - skip};
  }
  batch.message = msghdr{};
  batch.message.msg_iov = batch.vectors.data();
  batch.message.msg_iovlen = count;
}

void EngineCore::sent(Connection &c, int result) {
  c.sending = false;
  freeBatches_.push_back(std::move(c.batch));
  if (result > 0) takeSent(c, static_cast<uint32_t>(result));
  if (result < 0) fail(c, -result);
  if (c.failed || c.closing == Connection::Closing::AtOnce) {
    dropQueue(c);
  } else if (c.firstSend != nullptr && !c.sendReady) {
    c.sendReady = true;
    sendReady_.push_back(c.slot);
  }
  if (c.closing != Connection::Closing::No) lookAgain(c);
}

void EngineCore::takeSent(Connection &c, uint32_t bytes) {
  unsent(c) -= bytes;
  while (bytes > 0) {
    SendItem &item = *c.firstSend;
    const uint32_t part = std::min(bytes, item.bytes() - item.sent);
    item.sent += part;
    bytes -= part;
    if (item.sent == item.bytes()) popSend(c);
  }
}

void EngineCore::popSend(Connection &c) {
  SendItem *item = c.firstSend;
  c.firstSend = item->next;
  if (c.firstSend == nullptr) c.lastSend = nullptr;
  --replies(c);
  release(item->header, item->slot);
  item->next = freeSends_;
  freeSends_ = item;
}

void EngineCore::dropQueue(Connection &c) {
  while (c.firstSend != nullptr) popSend(c);
  unsent(c) = 0;
}

void EngineCore::release(uint32_t header, uint32_t slot) {
  if (header != kNone) arena_->releaseHeader(header);
  if (slot != kNone) arena_->releaseSlot(slot);
  if (header != kNone || slot != kNone) released_ = true;
}

// --- ending ----------------------------------------------------------------------------------

void EngineCore::fail(Connection &c, int error) {
  if (c.failed) return;
  c.failed = true;
  if (c.closing == Connection::Closing::No) done(DoneKind::Failed, c.name(), -error, 0);
  if (!c.sending) dropQueue(c);
  cut(c);
  lookAgain(c);
}

// Ends both directions: what the driver still does for this connection comes back soon.
void EngineCore::cut(Connection &c) {
  if (c.cut) return;
  c.cut = true;
  shutdown(c.fd.get(), SHUT_RDWR);
  if (c.receiving) cancelReceive(c);
  if (c.sending) cancelSend(c);
}

void EngineCore::beginClose(Connection &c, bool atOnce) {
  using Closing = Connection::Closing;
  if (c.closing == Closing::AtOnce) return;
  if (!atOnce && c.closing == Closing::Gracefully) return;
  c.closing = atOnce ? Closing::AtOnce : Closing::Gracefully;
  // The memory of a direct receive is TypeScript's again as soon as possible.
  if (!atOnce && c.intoLength != 0 && c.receiving) cancelReceive(c);
  lookAgain(c);
}

void EngineCore::lookAgain(Connection &c) {
  if (c.listed) return;
  c.listed = true;
  closing_.push_back(c.slot);
}

void EngineCore::advanceClose(Connection &c) {
  using Closing = Connection::Closing;
  if (!c.open || c.closing == Closing::No) return;
  if (c.intoLength != 0 && !c.receiving) endInto(c, -ECANCELED);
  if (c.closing == Closing::AtOnce || c.failed) {
    cut(c);
    if (!c.sending) dropQueue(c);
    if (!c.receiving && !c.sending && c.reads == 0) finish(c);
    return;
  }
  if (!c.shut && c.firstSend == nullptr && !c.sending && c.reads == 0 && c.owed == 0) {
    c.shut = true;
    shutdown(c.fd.get(), SHUT_WR);
    c.deadline = now() + kLinger;
    lingering_.push_back(c.slot);
  }
  if (c.ended) {
    if (c.shut) finish(c);
  } else if (!c.receiving) {
    const Layout &l = arena_->layout();
    c.receiveMemory = arena_->at(l.receiveBuffers + c.slot * l.receiveBytes);
    c.receiveLength = l.receiveBytes;
    c.receiving = true;
    startReceive(c);
  }
}

void EngineCore::finish(Connection &c) {
  connectionRemoved(c);
  c.fd.reset();
  c.open = false;
  c.shut = false;
  noteState(c);
  done(DoneKind::Closed, c.name(), 0, 0);
  freeConnections_.push_back(c.slot);
}

} // namespace ploop
