// SPDX-License-Identifier: MIT
// file_ops, socket_ops and notify for JavaScript. Translates and nothing else.
#include <napi.h>
#include <unistd.h>

#include "bindings.h"
#include "file_ops.h"
#include "native_error.h"
#include "notify.h"
#include "socket_ops.h"

namespace ploop {

namespace {

using Info = const Napi::CallbackInfo &;

bool flag(const Napi::Object &object, const char *name) {
  return object.Get(name).ToBoolean().Value();
}

Napi::Value open(Info info) {
  const Napi::Object flags = info[1].As<Napi::Object>();
  const OpenFlags native{flag(flags, "write"), flag(flags, "direct"), flag(flags, "create"),
                         flags.Get("mode").ToNumber().Uint32Value()};
  const std::string path = stringArgument(info, 0);
  return guarded(info.Env(),
                 [&] { return Napi::Number::New(info.Env(), openFile(path, native).release()); });
}

void closeFile(Info info) {
  const int fd = fdArgument(info, 0);
  guarded(info.Env(), [&] {
    // EINTR: Linux has closed it all the same
    if (::close(fd) != 0 && errno != EINTR) throwErrno("close");
  });
}

Napi::Value alignment(Info info) {
  const DirectAlignment a =
      guarded(info.Env(), [&] { return directAlignment(fdArgument(info, 0)); });
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("direct", a.direct);
  result.Set("memoryBytes", a.memoryBytes);
  result.Set("offsetBytes", a.offsetBytes);
  return result;
}

void direct(Info info) {
  guarded(info.Env(), [&] { setDirect(fdArgument(info, 0), info[1].ToBoolean().Value()); });
}

Napi::Value lock(Info info) {
  const std::string kind = stringArgument(info, 1);
  const LockKind native = kind == "shared"      ? LockKind::Shared
                          : kind == "exclusive" ? LockKind::Exclusive
                                                : LockKind::Unlock;
  if (native == LockKind::Unlock && kind != "unlock")
    throw Napi::TypeError::New(info.Env(), "no such lock: " + kind);
  return guarded(info.Env(), [&] {
    return Napi::Boolean::New(info.Env(), lockFile(fdArgument(info, 0), native));
  });
}

void allocate(Info info) {
  const std::string mode = stringArgument(info, 1);
  const AllocateMode native = mode == "allocate" ? AllocateMode::Allocate
                              : mode == "zero"   ? AllocateMode::Zero
                                                 : AllocateMode::Punch;
  if (native == AllocateMode::Punch && mode != "punch")
    throw Napi::TypeError::New(info.Env(), "no such mode: " + mode);
  guarded(info.Env(), [&] {
    allocateRange(fdArgument(info, 0), native, integerArgument(info, 2), integerArgument(info, 3));
  });
}

Napi::Value seek(Info info) {
  const std::string what = stringArgument(info, 1);
  if (what != "data" && what != "hole")
    throw Napi::TypeError::New(info.Env(), "nothing to seek: " + what);
  const int64_t found = guarded(info.Env(), [&] {
    return seekFile(fdArgument(info, 0), what == "data" ? SeekWhat::Data : SeekWhat::Hole,
                    integerArgument(info, 2));
  });
  return Napi::Number::New(info.Env(), static_cast<double>(found));
}

Napi::Value copy(Info info) {
  const int64_t copied = guarded(info.Env(), [&] {
    return copyRange(fdArgument(info, 0), integerArgument(info, 1), fdArgument(info, 2),
                     integerArgument(info, 3), integerArgument(info, 4));
  });
  return Napi::Number::New(info.Env(), static_cast<double>(copied));
}

void clone(Info info) {
  guarded(info.Env(), [&] {
    cloneRange(fdArgument(info, 0), integerArgument(info, 1), fdArgument(info, 2),
               integerArgument(info, 3), integerArgument(info, 4));
  });
}

Napi::Value unixListener(Info info) {
  const std::string path = stringArgument(info, 0);
  return guarded(info.Env(), [&] {
    OwnedFd fd = listenUnix(path, static_cast<uint32_t>(integerArgument(info, 1)),
                            static_cast<int>(integerArgument(info, 2)));
    return Napi::Number::New(info.Env(), fd.release());
  });
}

Napi::Value tcpListener(Info info) {
  const std::string address = stringArgument(info, 0);
  TcpListener listener = guarded(info.Env(), [&] {
    return listenTcp(address, static_cast<uint16_t>(integerArgument(info, 1)),
                     static_cast<int>(integerArgument(info, 2)));
  });
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("fd", listener.fd.release());
  result.Set("port", listener.port);
  return result;
}

Napi::Value pair(Info info) {
  auto fds = guarded(info.Env(), [] { return socketPair(); });
  Napi::Array result = Napi::Array::New(info.Env(), 2);
  result.Set(0u, fds.first.release());
  result.Set(1u, fds.second.release());
  return result;
}

void notify(Info info) {
  const std::string path = stringArgument(info, 0);
  const std::string text = stringArgument(info, 1);
  guarded(info.Env(), [&] { notifyManager(path, text); });
}

Napi::Value parent(Info info) {
  const pid_t pid = info.Env().GetInstanceData<AddonData>()->parent;
  return guarded(info.Env(), [&] { return Napi::Boolean::New(info.Env(), dieWithParent(pid)); });
}

Napi::Value systemType(Info info) {
  const uint32_t type = guarded(info.Env(), [&] { return fileSystemType(fdArgument(info, 0)); });
  return Napi::Number::New(info.Env(), type);
}

Napi::Value mapShared(Info info) {
  const int64_t bytes = integerArgument(info, 1);
  if (bytes <= 0) throw Napi::TypeError::New(info.Env(), "nothing to map");
  SharedMapping *mapping = guarded(info.Env(), [&] {
    return new SharedMapping(fdArgument(info, 0), static_cast<size_t>(bytes));
  });
  return Napi::ArrayBuffer::New(
      info.Env(), mapping->base(), static_cast<size_t>(bytes),
      [](Napi::Env, void *, SharedMapping *held) { delete held; }, mapping);
}

} // namespace

void exportFiles(Napi::Env env, Napi::Object exports) {
  const auto add = [&](const char *name, auto function) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  add("openFile", open);
  add("closeFile", closeFile);
  add("directAlignment", alignment);
  add("setDirect", direct);
  add("flock", lock);
  add("fallocate", allocate);
  add("seek", seek);
  add("copyFileRange", copy);
  add("cloneRange", clone);
  add("listenUnix", unixListener);
  add("listenTcp", tcpListener);
  add("socketPair", pair);
  add("notify", notify);
  add("dieWithParent", parent);
  add("fileSystemType", systemType);
  add("mapShared", mapShared);
}

} // namespace ploop
