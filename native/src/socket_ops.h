// SPDX-License-Identifier: MIT
// Sockets: listening, pairs, peers, what every connection of ours has switched on.
// All functions throw SystemError.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "engine.h"
#include "owned_fd.h"

namespace ploop {

// A copy of a descriptor, closed on exec.
OwnedFd duplicateFd(int fd);

bool isListening(int fd);

// TCP connections send small replies at once and notice a dead peer (60 s, then 6 probes, 10 s
// apart).
void prepareConnection(int fd);

PeerCredentials readPeerCredentials(int fd);

// The socket file never has more permissions than `mode`, from its first instant on.
OwnedFd listenUnix(const std::string &path, uint32_t mode, int backlog);

struct TcpListener {
  OwnedFd fd;
  uint16_t port;
};
// `address` is numeric, IPv6 may carry a scope (fe80::1%eth0); port 0 lets the kernel choose.
TcpListener listenTcp(const std::string &address, uint16_t port, int backlog);

std::pair<OwnedFd, OwnedFd> socketPair();

} // namespace ploop
