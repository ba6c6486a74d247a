// SPDX-License-Identifier: MIT
// Making a ring on this kernel, and saying why there is none.
#pragma once

#include <liburing.h>

#include <string>

namespace ploop {

// Tries the flags from the best set to none. Returns the words of the set; throws SystemError.
const char *setUpRing(io_uring &ring, unsigned entries, unsigned completions);

// The operations that are needed but missing, or "".
std::string missingOperations(io_uring &ring, bool *fallocate);

} // namespace ploop
