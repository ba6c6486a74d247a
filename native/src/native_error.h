// SPDX-License-Identifier: MIT
// Turns what the non-binding halves throw into JavaScript exceptions, and checks arguments.
#pragma once

#include <napi.h>

#include <cstring>
#include <new>
#include <string>

#include "system_error.h"

namespace ploop {

// An Error with code (errno name), errno (positive) and operation.
inline Napi::Error toJavaScript(Napi::Env env, const SystemError &error) {
  const char *name = strerrorname_np(error.error());
  const std::string code = name != nullptr ? name : "EUNKNOWN";
  Napi::Error result =
      Napi::Error::New(env, code + ": " + strerror(error.error()) + ", " + error.operation());
  result.Set("code", Napi::String::New(env, code));
  result.Set("errno", Napi::Number::New(env, error.error()));
  result.Set("operation", Napi::String::New(env, error.operation()));
  return result;
}

// Runs a function of the other half; its exceptions become JavaScript's.
template <typename F> auto guarded(Napi::Env env, F f) {
  try {
    return f();
  } catch (const SystemError &error) {
    throw toJavaScript(env, error);
  } catch (const std::bad_alloc &) {
    throw toJavaScript(env, SystemError(ENOMEM, "malloc"));
  }
}

// TypeScript has checked the arguments; a wrong type is a bug, and becomes a TypeError.
inline int64_t integerArgument(const Napi::CallbackInfo &info, size_t index) {
  if (!info[index].IsNumber())
    throw Napi::TypeError::New(info.Env(), "argument " + std::to_string(index) + " is no number");
  return info[index].As<Napi::Number>().Int64Value();
}

inline int fdArgument(const Napi::CallbackInfo &info, size_t index) {
  return static_cast<int>(integerArgument(info, index));
}

inline std::string stringArgument(const Napi::CallbackInfo &info, size_t index) {
  if (!info[index].IsString())
    throw Napi::TypeError::New(info.Env(), "argument " + std::to_string(index) + " is no string");
  return info[index].As<Napi::String>().Utf8Value();
}

} // namespace ploop
