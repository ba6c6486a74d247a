// SPDX-License-Identifier: MIT
// Arena, file and socket calls.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <set>
#include <string>

#include "../src/arena.h"
#include "../src/file_ops.h"
#include "../src/notify.h"
#include "../src/socket_ops.h"
#include "../src/system_error.h"
#include "check.h"

using namespace ploop;

namespace {

int errorOf(const std::function<void()> &f) {
  try {
    f();
  } catch (const SystemError &error) {
    return error.error();
  }
  return 0;
}

std::string temporaryDirectory() {
  char name[] = "/tmp/pn-native-XXXXXX";
  CHECK(mkdtemp(name) != nullptr);
  return name;
}

} // namespace

void testArena() {
  Arena arena({8, 4, 2, 2, 16, 3, 8192});
  const Layout &l = arena.layout();
  std::set<uint32_t> seen;
  while (arena.control(kControlFree64k) > 0) {
    const uint32_t slot = arena.words(l.stack64k)[--arena.control(kControlFree64k)];
    CHECK(arena.isSlot(slot) && seen.insert(slot).second && slot % 4096 == 0);
    std::memset(arena.at(slot), 1, 65536);
  }
  CHECK(seen.size() == 4);
  for (const uint32_t slot : seen) arena.releaseSlot(slot);
  CHECK(arena.control(kControlFree64k) == 4);

  CHECK(arena.isPayload(l.slots1m, 1024 * 1024));
  CHECK(!arena.isPayload(l.slots1m, 1024 * 1024 + 1));
  CHECK(!arena.isPayload(l.slots1m + 1, 1024 * 1024));
  CHECK(arena.isPayload(l.jobs + kJobBytes, 1));
  CHECK(!arena.isPayload(l.jobs + 2 * kJobBytes, 1));
  CHECK(!arena.isPayload(0, 1) && !arena.isPayload(kNone, 1) && !arena.isPayload(l.slots4k, kNone));
  CHECK(!arena.isSlot(l.jobs) && !arena.isSlot(l.slots4k + 1) && !arena.isSlot(kNone));
  CHECK(l.receiveBuffers + 3 * 8192 <= l.totalBytes);
  std::memset(arena.at(0), 0, l.totalBytes);

  CHECK(errorOf([] { Arena({8, 4, 5000, 2, 16, 3, 8192}); }) == EINVAL);
  CHECK(errorOf([] { Arena({8, 4, 5, 2, 16, 0xffff, 8192}); }) == EINVAL);
}

void testFiles() {
  const std::string directory = temporaryDirectory();
  const std::string path = directory + "/file";
  {
    OwnedFd file = openFile(path, {true, false, true, 0600});
    CHECK(errorOf([&] { openFile(path, {true, false, true, 0600}); }) == EEXIST);
    allocateRange(file.get(), AllocateMode::Allocate, 0, 1 << 20);
    CHECK(pwrite(file.get(), "data", 4, 4096) == 4);
    allocateRange(file.get(), AllocateMode::Punch, 65536, 65536);
    CHECK(seekFile(file.get(), SeekWhat::Hole, 1 << 21) == -1);
    OwnedFd other = openFile(path, {true, false, false, 0});
    CHECK(copyRange(file.get(), 4096, other.get(), 1 << 20, 4) == 4);
    CHECK(lockFile(file.get(), LockKind::Exclusive));
    CHECK(!lockFile(other.get(), LockKind::Shared));
    CHECK(lockFile(file.get(), LockKind::Unlock));
    CHECK(lockFile(other.get(), LockKind::Shared));
    CHECK(fileSystemType(file.get()) != 0);
    const DirectAlignment alignment = directAlignment(file.get());
    CHECK((alignment.memoryBytes & (alignment.memoryBytes - 1)) == 0);
    const int error = errorOf([&] { cloneRange(file.get(), 0, other.get(), 1 << 21, 1 << 20); });
    CHECK(error == 0 || error == EOPNOTSUPP || error == ENOTTY || error == EINVAL);
  }
  {
    const std::string socketPath = directory + "/socket";
    OwnedFd listener = listenUnix(socketPath, 0600, 5);
    struct stat info;
    CHECK(stat(socketPath.c_str(), &info) == 0 && (info.st_mode & 07777) == 0600);
    CHECK(isListening(listener.get()));
    CHECK(errorOf([&] { listenUnix(std::string(108, 'x'), 0600, 5); }) == ENAMETOOLONG);
    CHECK(listenTcp("127.0.0.1", 0, 5).port != 0);
    CHECK(errorOf([] { listenTcp("nonsense", 0, 5); }) == EINVAL);
    CHECK(errorOf([] { notifyManager("/nowhere/at/all", "x"); }) == ENOENT);
    auto pair = socketPair();
    CHECK(readPeerCredentials(pair.first.get()).pid == getpid());
    unlink(socketPath.c_str());
  }
  unlink(path.c_str());
  rmdir(directory.c_str());
}
