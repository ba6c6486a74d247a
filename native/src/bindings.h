// SPDX-License-Identifier: MIT
// What addon.cc puts together. Instance data is per environment: the main thread and each worker
// that loads the addon have their own.
#pragma once

#include <napi.h>
#include <sys/types.h>

namespace ploop {

struct AddonData {
  Napi::FunctionReference engineClass;
  pid_t parent; // at the time of loading
};

void exportEngine(Napi::Env env, Napi::Object exports, AddonData &data);
void exportFiles(Napi::Env env, Napi::Object exports);

} // namespace ploop
