// SPDX-License-Identifier: MIT
#include "socket_ops.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstdio>
#include <cstring>
#include <memory>

#include "system_error.h"

namespace ploop {

namespace {

int socketOption(int fd, int level, int name) {
  int value = 0;
  socklen_t length = sizeof value;
  if (getsockopt(fd, level, name, &value, &length) != 0) throwErrno("getsockopt");
  return value;
}

void setOption(int fd, int level, int name, int value) {
  // a socket that does not know an option works without it
  (void)setsockopt(fd, level, name, &value, sizeof value);
}

// bind() applies the umask to the mode of the socket itself; what it took away is given back to the
// very inode that was bound, whatever the path names by now.
void giveMode(const std::string &path, uint32_t mode) {
  OwnedFd inode(open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!inode.valid()) throwErrno("open");
  struct stat info;
  if (fstat(inode.get(), &info) != 0) throwErrno("fstat");
  if (!S_ISSOCK(info.st_mode)) throw SystemError(ENOTSOCK, "open");
  if ((info.st_mode & 07777) == mode) return;
  char self[32];
  std::snprintf(self, sizeof self, "/proc/self/fd/%d", inode.get());
  if (chmod(self, mode) != 0) throwErrno("chmod");
}

} // namespace

OwnedFd duplicateFd(int fd) {
  OwnedFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!copy.valid()) throwErrno("fcntl");
  return copy;
}

bool isListening(int fd) { return socketOption(fd, SOL_SOCKET, SO_ACCEPTCONN) != 0; }

void prepareConnection(int fd) {
  const int domain = socketOption(fd, SOL_SOCKET, SO_DOMAIN);
  if (socketOption(fd, SOL_SOCKET, SO_TYPE) != SOCK_STREAM) throw SystemError(EPROTOTYPE, "socket");
  if (domain != AF_INET && domain != AF_INET6) return;
  setOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  setOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  setOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, 60);
  setOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
  setOption(fd, IPPROTO_TCP, TCP_KEEPCNT, 6);
}

PeerCredentials readPeerCredentials(int fd) {
  if (socketOption(fd, SOL_SOCKET, SO_DOMAIN) != AF_UNIX)
    throw SystemError(EOPNOTSUPP, "getsockopt");
  ucred peer{};
  socklen_t length = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) throwErrno("getsockopt");
  return {peer.pid, peer.uid, peer.gid};
}

OwnedFd listenUnix(const std::string &path, uint32_t mode, int backlog) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.find('\0') != std::string::npos) throw SystemError(EINVAL, "bind");
  if (path.size() >= sizeof address.sun_path) throw SystemError(ENAMETOOLONG, "bind");
  std::memcpy(address.sun_path, path.data(), path.size());
  OwnedFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) throwErrno("socket");
  // Linux makes the socket file with the mode of the socket's own inode, less the umask.
  if (fchmod(fd.get(), mode) != 0) throwErrno("fchmod");
  if (bind(fd.get(), reinterpret_cast<sockaddr *>(&address), sizeof address) != 0)
    throwErrno("bind");
  try {
    giveMode(path, mode);
    if (listen(fd.get(), backlog) != 0) throwErrno("listen");
  } catch (const SystemError &) {
    unlink(path.c_str());
    throw;
  }
  return fd;
}

TcpListener listenTcp(const std::string &address, uint16_t port, int backlog) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE;
  addrinfo *found = nullptr;
  const std::string service = std::to_string(port);
  if (address.empty() || getaddrinfo(address.c_str(), service.c_str(), &hints, &found) != 0)
    throw SystemError(EINVAL, "getaddrinfo");
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> guard(found, freeaddrinfo);
  OwnedFd fd(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) throwErrno("socket");
  setOption(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (bind(fd.get(), found->ai_addr, found->ai_addrlen) != 0) throwErrno("bind");
  if (listen(fd.get(), backlog) != 0) throwErrno("listen");
  sockaddr_storage bound{};
  socklen_t length = sizeof bound;
  if (getsockname(fd.get(), reinterpret_cast<sockaddr *>(&bound), &length) != 0)
    throwErrno("getsockname");
  const in_port_t portThere = bound.ss_family == AF_INET6
                                  ? reinterpret_cast<sockaddr_in6 *>(&bound)->sin6_port
                                  : reinterpret_cast<sockaddr_in *>(&bound)->sin_port;
  return {std::move(fd), ntohs(portThere)};
}

std::pair<OwnedFd, OwnedFd> socketPair() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) throwErrno("socketpair");
  return {OwnedFd(fds[0]), OwnedFd(fds[1])};
}

} // namespace ploop
