// SPDX-License-Identifier: MIT
// The smallest thing that makes a test program: a condition that ends it with its line.
#pragma once

#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                                                           \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                         \
      std::exit(1);                                                                                \
    }                                                                                              \
  } while (0)

void testFiles();
void testArena();
void testEngines();
