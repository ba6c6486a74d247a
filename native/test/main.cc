// SPDX-License-Identifier: MIT
// Runs the halves of the addon that know nothing of Node-API, under sanitizers (run.sh).
#include "check.h"

int main() {
  testArena();
  testFiles();
  testEngines();
  std::puts("ok");
  return 0;
}
