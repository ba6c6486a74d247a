// SPDX-License-Identifier: MIT
// Words to the service manager, and dying with one's parent. Functions throw SystemError.
#pragma once

#include <sys/types.h>

#include <string>

namespace ploop {

// One datagram to $NOTIFY_SOCKET; a leading '@' means the abstract name space.
void notifyManager(const std::string &socketPath, const std::string &text);

// SIGTERM when the parent ends. false when it is gone already, that is no longer `parent`.
bool dieWithParent(pid_t parent);

} // namespace ploop
