// SPDX-License-Identifier: MIT
#include "system_error.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace ploop {

void fatal(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::fputs("ploop-nbd: native: ", stderr);
  std::vfprintf(stderr, format, arguments);
  std::fputc('\n', stderr);
  va_end(arguments);
  std::abort();
}

} // namespace ploop
