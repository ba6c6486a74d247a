// SPDX-License-Identifier: MIT
// The tables: descriptor rows taken from TypeScript, receive and done rows shown to it.
//
// A row that points outside of its tables is a bug of ours; going on could write client data to the
// wrong place, so it ends the process.
#include <algorithm>

#include "engine.h"
#include "system_error.h"

namespace ploop {

namespace {

constexpr uint32_t kRowWords = 12;
constexpr uint32_t kReceiveWords = 8;
constexpr uint32_t kStall = 0xffffffff;

uint64_t wide(uint32_t low, uint32_t high) { return low | static_cast<uint64_t>(high) << 32; }

bool isRange(uint64_t offset, uint64_t length, uint64_t longest) {
  return length > 0 && length <= longest && offset <= INT64_MAX && length <= INT64_MAX - offset;
}

[[noreturn]] void badRow(const uint32_t *row, uint32_t index, const char *what) {
  fatal("descriptor row %u is wrong: %s [%x %x %x %x %x %x %x %x %x %x %x %x]", index, what, row[0],
        row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], row[9], row[10], row[11]);
}

} // namespace

// --- descriptor rows -------------------------------------------------------------------------

void EngineCore::takeRows() {
  const Layout &l = arena_->layout();
  const uint32_t count = arena_->control(kControlRows);
  if (count > l.rowCapacity) fatal("%u descriptor rows in a table of %u", count, l.rowCapacity);
  const uint32_t *rows = arena_->words(l.rowTable);
  for (uint32_t i = 0; i < count; ++i) takeRow(rows + i * kRowWords, i);
  arena_->control(kControlRows) = 0;
}

void EngineCore::takeRow(const uint32_t *row, uint32_t index) {
  switch (static_cast<Op>(row[0] & 0xff)) {
  case Op::Read:
  case Op::Write:
  case Op::Sync:
  case Op::Allocate:
  case Op::Zero:
  case Op::Punch:
  case Op::Copy: return takeFileRow(row, index);
  case Op::Send: return takeSendRow(row, index);
  case Op::ReadSend: return takeReadSendRow(row, index);
  case Op::Close:
    if (row[5] > 1) badRow(row, index, "no such way to close");
    if (Connection *c = find(row[7])) beginClose(*c, row[5] == 1);
    return;
  case Op::Resume:
    if (Connection *c = find(row[7])) {
      c->resume = true;
      resumed_.push_back(c->slot);
    }
    return;
  }
  badRow(row, index, "no such operation");
}

OpenFile &EngineCore::checkFile(uint32_t file, uint32_t index) {
  if (file >= files_.size() || !files_[file].fd.valid())
    fatal("descriptor row %u is wrong: file %u is not open", index, file);
  return files_[file];
}

void EngineCore::takeFileRow(const uint32_t *row, uint32_t index) {
  Operation o{};
  o.op = static_cast<Op>(row[0] & 0xff);
  o.file = row[1];
  o.fd = checkFile(o.file, index).fd.get();
  o.token = row[2];
  o.offset = wide(row[3], row[4]);
  if (o.moves()) {
    o.length = row[5];
    if (!isRange(o.offset, o.length, kJobBytes)) badRow(row, index, "length or offset");
    if (!arena_->isPayload(row[6], o.length)) badRow(row, index, "memory outside of a slot");
    o.memoryOffset = row[6];
  } else if (o.op != Op::Sync) {
    o.length = wide(row[5], row[9]);
    const uint64_t longest = o.op == Op::Copy ? INT32_MAX : INT64_MAX;
    if (!isRange(o.offset, o.length, longest)) badRow(row, index, "length or offset");
  }
  if (o.op == Op::Copy) {
    o.sourceFile = row[8];
    o.sourceFd = checkFile(o.sourceFile, index).fd.get();
    o.sourceOffset = wide(row[10], row[11]);
    if (!isRange(o.sourceOffset, o.length, INT32_MAX)) badRow(row, index, "source offset");
  }
  beginOperation(o);
}

void EngineCore::checkReply(const uint32_t *row, uint32_t index) const {
  const uint32_t headerBytes = row[0] >> 8 & 0xff;
  if (row[8] == kNone ? headerBytes != 0 : headerBytes == 0 || headerBytes > kHeaderBytes)
    badRow(row, index, "length of the header");
  if (row[8] != kNone && row[8] >= arena_->layout().headerCount) badRow(row, index, "header slot");
  if (row[9] != kNone && !arena_->isSlot(row[9])) badRow(row, index, "slot to return");
}

void EngineCore::takeSendRow(const uint32_t *row, uint32_t index) {
  checkReply(row, index);
  if (row[5] != 0 && !arena_->isPayload(row[6], row[5])) badRow(row, index, "payload");
  const SendItem item{row[8], row[0] >> 8 & 0xff, row[6], row[5], row[9], 0, nullptr};
  Connection *c = find(row[7]);
  if (c == nullptr || !takesReplies(*c) || item.bytes() == 0) return release(row[8], row[9]);
  ++replies(*c);
  queueSend(*c, item);
}

void EngineCore::takeReadSendRow(const uint32_t *row, uint32_t index) {
  checkReply(row, index);
  Operation o{};
  o.op = Op::ReadSend;
  o.file = row[1];
  o.fd = checkFile(o.file, index).fd.get();
  o.token = row[2];
  o.offset = wide(row[3], row[4]);
  o.length = row[5];
  if (!isRange(o.offset, o.length, kJobBytes)) badRow(row, index, "length or offset");
  if (!arena_->isPayload(row[6], o.length)) badRow(row, index, "memory outside of a slot");
  o.memoryOffset = row[6];
  o.connection = row[7];
  o.header = row[8];
  o.headerBytes = row[0] >> 8 & 0xff;
  o.slot = row[9];
  Connection *c = find(o.connection);
  if (c == nullptr || !takesReplies(*c)) return release(o.header, o.slot);
  ++replies(*c);
  ++c->reads;
  beginOperation(o);
}

bool EngineCore::takesReplies(const Connection &c) {
  return !c.failed && !c.shut && c.closing != Connection::Closing::AtOnce;
}

void EngineCore::beginOperation(const Operation &prepared) {
  Operation *o = freeOperations_;
  if (o != nullptr)
    freeOperations_ = o->next;
  else
    o = &operationStore_.emplace_back();
  *o = prepared;
  o->memory = arena_->at(o->memoryOffset);
  o->parity = arena_->control(kControlEpoch) & 1;
  ++arena_->control(kControlEpochInFlight + o->parity);
  ++operationsInFlight_;
  ++stats_.operations;
  startFile(*o);
}

// --- ends of file operations -----------------------------------------------------------------

void EngineCore::fileEnded(Operation &o, int64_t result) {
  if (result == -EINTR || result == -EAGAIN) return startFile(o);
  if (o.moves() && goesOn(o, result)) return startFile(o);
  endOperation(o, result);
}

// Whether a read or write has to go on after `result`; if not, `result` is that of the whole.
bool EngineCore::goesOn(Operation &o, int64_t &result) {
  if (result < 0) return false;
  if (result == 0) {
    result = o.reads() ? static_cast<int64_t>(o.done) : -EIO;
    return false;
  }
  const uint64_t before = o.done;
  o.done += static_cast<uint64_t>(result);
  result = static_cast<int64_t>(o.done);
  if (o.done >= o.length) return false;
  const OpenFile &file = files_[o.file];
  if (!file.direct) return true;
  // Direct I/O can go on at an aligned position only, and refuses to say "end of file" elsewhere.
  if (o.reads()) {
    const off_t size = lseek(o.fd, 0, SEEK_END);
    if (size >= 0 && o.offset + o.done >= static_cast<uint64_t>(size)) return false;
  }
  o.done -= o.done % file.alignment;
  if (o.done > before) return true;
  result = -EIO;
  return false;
}

void EngineCore::endOperation(Operation &o, int64_t result) {
  --arena_->control(kControlEpochInFlight + o.parity);
  --operationsInFlight_;
  if (o.op == Op::ReadSend)
    endReadSend(o, result);
  else
    done(DoneKind::Operation, o.token, static_cast<int32_t>(result), 0);
  o.next = freeOperations_;
  freeOperations_ = &o;
}

void EngineCore::endReadSend(const Operation &o, int64_t result) {
  Connection *c = find(o.connection);
  if (c == nullptr) fatal("a READ_SEND outlived its connection");
  --c->reads;
  if (c->closing != Connection::Closing::No) lookAgain(*c);
  if (result != static_cast<int64_t>(o.length)) {
    --replies(*c);
    ++c->owed;
    done(DoneKind::Operation, o.token, static_cast<int32_t>(result), 0, o.connection);
  } else if (!takesReplies(*c)) {
    --replies(*c);
    release(o.header, o.slot);
  } else {
    queueSend(*c, SendItem{o.header, o.headerBytes, o.memoryOffset, static_cast<uint32_t>(o.length),
                           o.slot, 0, nullptr});
  }
}

// --- calls -----------------------------------------------------------------------------------

void EngineCore::done(DoneKind kind, uint32_t id, int32_t result, uint32_t extra, uint32_t owedBy) {
  if (!dead_) done_.push_back({static_cast<uint32_t>(kind), id, result, extra, owedBy});
}

bool EngineCore::callDue() {
  if (!ready_.empty() || !done_.empty()) return true;
  return released_ && (arena_->control(kControlWantFree) != 0 || !stalled_.empty());
}

// Done rows come first: a receive row may belong to a connection that one of them announces. So
// there are receive rows only when no done row had to wait.
bool EngineCore::fillTables() {
  const Layout &l = arena_->layout();
  const uint32_t doneRows = static_cast<uint32_t>(std::min<size_t>(done_.size(), l.doneCapacity));
  uint32_t *row = arena_->words(l.doneTable);
  for (uint32_t i = 0; i < doneRows; ++i, row += 4) {
    const DoneRow &d = done_.front();
    row[0] = d.kind;
    row[1] = d.id;
    row[2] = static_cast<uint32_t>(d.result);
    row[3] = d.extra;
    if (d.owedBy != kNone) owedShown_.push_back(d.owedBy);
    done_.pop_front();
  }
  if (released_ || doneRows > 0)
    drain(stalled_, [this](uint16_t slot) {
      Connection &c = connections_[slot];
      c.stalledListed = false;
      if (c.open && c.stalled) present(c);
    });

  row = arena_->words(l.receiveTable);
  presented_.clear();
  if (done_.empty()) {
    drain(ready_, [&](uint16_t slot) {
      Connection &c = connections_[slot];
      c.ready = false;
      if (!c.open || c.failed || c.closing != Connection::Closing::No) return;
      presented_.push_back(slot);
      row[0] = c.name();
      row[1] = l.receiveBuffers + slot * l.receiveBytes + c.start;
      row[2] = c.end - c.start;
      std::fill(row + 3, row + kReceiveWords, 0);
      row += kReceiveWords;
    });
  }
  const uint32_t receiveRows = static_cast<uint32_t>(presented_.size());
  arena_->control(kControlReceiveRows) = receiveRows;
  arena_->control(kControlDoneRows) = doneRows;
  const bool freed = std::exchange(released_, false) && arena_->control(kControlWantFree) != 0;
  return receiveRows > 0 || doneRows > 0 || freed;
}

void EngineCore::applyAnswers() {
  const uint32_t *row = arena_->words(arena_->layout().receiveTable);
  for (uint16_t slot : presented_) {
    Connection &c = connections_[slot];
    if (c.open && c.name() == row[0] && !c.failed && c.closing == Connection::Closing::No)
      applyAnswer(c, row);
    row += kReceiveWords;
  }
  presented_.clear();
}

void EngineCore::applyAnswer(Connection &c, const uint32_t *row) {
  const uint32_t consumed = row[3], limit = row[4], into = row[6];
  if (consumed > c.end - c.start)
    fatal("connection %x: %u of %u bytes consumed", c.name(), consumed, c.end - c.start);
  c.start += consumed;
  c.receiveMax = limit == kStall ? 0 : limit;
  if (into != 0) {
    if (c.start != c.end) fatal("connection %x: INTO with bytes left over", c.name());
    if (!arena_->isPayload(row[5], into)) fatal("connection %x: INTO outside of a slot", c.name());
    c.intoOffset = row[5];
    c.intoLength = into;
    c.intoDone = 0;
    c.intoToken = row[7];
  } else if (limit == kStall) {
    return stall(c);
  }
  armReceive(c);
}

// A call that threw answers nothing: its receive rows are shown again.
void EngineCore::afterCall() {
  drain(presented_, [this](uint16_t slot) {
    if (connections_[slot].open) present(connections_[slot]);
  });
  drain(owedShown_, [this](uint32_t name) {
    Connection *c = find(name);
    if (c == nullptr) return;
    --c->owed;
    if (c->closing != Connection::Closing::No) lookAgain(*c);
  });
}

} // namespace ploop
