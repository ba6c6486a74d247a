// SPDX-License-Identifier: MIT
// A failed system call: errno and the name of the call. TypeScript makes the sentence for people.
#pragma once

#include <cerrno>
#include <exception>

namespace ploop {

class SystemError : public std::exception {
public:
  SystemError(int error, const char *operation) : error_(error), operation_(operation) {}

  int error() const noexcept { return error_; }
  const char *operation() const noexcept { return operation_; }
  const char *what() const noexcept override { return operation_; }

private:
  int error_;
  const char *operation_; // a literal: lives for ever
};

[[noreturn]] inline void throwErrno(const char *operation) { throw SystemError(errno, operation); }

// A bug of ours that must not become a corrupted file: says what, and ends the process.
[[noreturn]] void fatal(const char *format, ...) __attribute__((format(printf, 1, 2)));

} // namespace ploop
