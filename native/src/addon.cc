// SPDX-License-Identifier: MIT
// Registration of the addon and the data of each environment that loads it.
#include <unistd.h>

#include <memory>

#include "bindings.h"

namespace {

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  auto data = std::make_unique<ploop::AddonData>();
  data->parent = getppid();
  ploop::exportEngine(env, exports, *data);
  ploop::exportFiles(env, exports);
  env.SetInstanceData(data.release());
  return exports;
}

} // namespace

NODE_API_MODULE(NODE_GYP_MODULE_NAME, initialize)
