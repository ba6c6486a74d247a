// SPDX-License-Identifier: MIT
#include "notify.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>

#include "owned_fd.h"
#include "system_error.h"

namespace ploop {

void notifyManager(const std::string &socketPath, const std::string &text) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socketPath.size() < 2 || (socketPath[0] != '/' && socketPath[0] != '@'))
    throw SystemError(EINVAL, "sendto");
  if (socketPath.size() >= sizeof address.sun_path) throw SystemError(ENAMETOOLONG, "sendto");
  std::memcpy(address.sun_path, socketPath.data(), socketPath.size());
  if (socketPath[0] == '@') address.sun_path[0] = '\0';
  const socklen_t length =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socketPath.size());
  const OwnedFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) throwErrno("socket");
  ssize_t sent;
  do {
    sent = sendto(fd.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
                  reinterpret_cast<const sockaddr *>(&address), length);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) throwErrno("sendto");
}

bool dieWithParent(pid_t parent) {
  if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0) throwErrno("prctl");
  return getppid() == parent;
}

} // namespace ploop
