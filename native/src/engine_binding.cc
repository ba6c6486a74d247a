// SPDX-License-Identifier: MIT
// The engine for JavaScript. Translates and nothing else: one call per batch.
//
// An engine belongs to the environment that made it. At teardown (end of a worker, also by
// terminate) a cleanup hook closes it: that waits for I/O in flight, so that no kernel or helper
// thread writes into memory that is gone. The arena lives as long as the engine or its ArrayBuffer.
#include <napi.h>

#include <memory>

#include "bindings.h"
#include "engine.h"
#include "native_error.h"

namespace ploop {

namespace {

using Info = const Napi::CallbackInfo &;

Napi::Object describe(Napi::Env env, const Layout &l) {
  Napi::Object object = Napi::Object::New(env);
  const std::pair<const char *, uint32_t> fields[] = {
      {"totalBytes", l.totalBytes},
      {"control", l.control},
      {"receiveTable", l.receiveTable},
      {"doneTable", l.doneTable},
      {"doneCapacity", l.doneCapacity},
      {"rowTable", l.rowTable},
      {"rowCapacity", l.rowCapacity},
      {"connectionTable", l.connectionTable},
      {"connectionCount", l.connectionCount},
      {"headers", l.headers},
      {"headerCount", l.headerCount},
      {"slots4k", l.slots4k},
      {"count4k", l.count4k},
      {"slots64k", l.slots64k},
      {"count64k", l.count64k},
      {"slots1m", l.slots1m},
      {"count1m", l.count1m},
      {"jobs", l.jobs},
      {"jobCount", l.jobCount},
      {"stack4k", l.stack4k},
      {"stack64k", l.stack64k},
      {"stack1m", l.stack1m},
      {"stackHeaders", l.stackHeaders},
      {"receiveBuffers", l.receiveBuffers},
      {"receiveBytes", l.receiveBytes},
  };
  for (const auto &[name, value] : fields) object.Set(name, Napi::Number::New(env, value));
  object.Freeze();
  return object;
}

uint32_t option(const Napi::Object &options, const char *name) {
  const Napi::Value value = options.Get(name);
  if (!value.IsNumber())
    throw Napi::TypeError::New(options.Env(), std::string("engine option ") + name);
  return value.As<Napi::Number>().Uint32Value();
}

EngineOptions readOptions(const Napi::Object &o) {
  const std::string kind = o.Get("kind").ToString().Utf8Value();
  if (kind != "uring" && kind != "threads")
    throw Napi::TypeError::New(o.Env(), "no such engine: " + kind);
  return {kind == "uring" ? EngineKind::Uring : EngineKind::Threads,
          {option(o, "count4k"), option(o, "count64k"), option(o, "count1m"), option(o, "jobCount"),
           option(o, "headerCount"), option(o, "connectionCount"), option(o, "receiveBytes")},
          option(o, "threadCount"),
          option(o, "busyPollMicroseconds")};
}

class EngineWrap : public Napi::ObjectWrap<EngineWrap> {
public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Engine",
                       {
                           InstanceMethod<&EngineWrap::addFile>("addFile"),
                           InstanceMethod<&EngineWrap::removeFile>("removeFile"),
                           InstanceMethod<&EngineWrap::addListener>("addListener"),
                           InstanceMethod<&EngineWrap::removeListener>("removeListener"),
                           InstanceMethod<&EngineWrap::addConnection>("addConnection"),
                           InstanceMethod<&EngineWrap::peerHungUp>("peerHungUp"),
                           InstanceMethod<&EngineWrap::peerCredentials>("peerCredentials"),
                           InstanceMethod<&EngineWrap::onBatch>("onBatch"),
                           InstanceMethod<&EngineWrap::takeRows>("takeRows"),
                           InstanceMethod<&EngineWrap::run>("run"),
                           InstanceMethod<&EngineWrap::stats>("stats"),
                           InstanceMethod<&EngineWrap::close>("close"),
                       });
  }

  explicit EngineWrap(Info info) : ObjectWrap(info), env_(info.Env()) {
    const EngineOptions options = readOptions(info[0].As<Napi::Object>());
    kind_ = options.kind;
    guarded(env_, [&] { engine_ = makeEngine(options); });
    handle_ = registerSignal(engine_->signal());
    napi_add_env_cleanup_hook(env_, atTeardown, this);

    Napi::Object self = info.This().As<Napi::Object>();
    const Layout &layout = engine_->arena()->layout();
    auto *held = new std::shared_ptr<Arena>(engine_->arena());
    self.DefineProperties({
        Napi::PropertyDescriptor::Value(
            "memory",
            Napi::ArrayBuffer::New(
                env_, (*held)->at(0), layout.totalBytes,
                [](Napi::Env, void *, std::shared_ptr<Arena> *arena) { delete arena; }, held),
            napi_enumerable),
        Napi::PropertyDescriptor::Value("layout", describe(env_, layout), napi_enumerable),
        Napi::PropertyDescriptor::Value("wakeHandle", Napi::Number::New(env_, handle_),
                                        napi_enumerable),
    });
  }

  ~EngineWrap() override {
    if (!engine_) return;
    napi_remove_env_cleanup_hook(env_, atTeardown, this);
    unregisterSignal(handle_);
  }

private:
  static void atTeardown(void *self) {
    auto *wrap = static_cast<EngineWrap *>(self);
    unregisterSignal(wrap->handle_);
    wrap->callback_.Reset();
    wrap->engine_->close();
  }

  Napi::Value number(uint32_t value) { return Napi::Number::New(env_, value); }
  static uint32_t index(Info info) { return static_cast<uint32_t>(integerArgument(info, 0)); }

  Napi::Value addFile(Info info) {
    return guarded(env_, [&] { return number(engine_->addFile(fdArgument(info, 0))); });
  }
  void removeFile(Info info) {
    guarded(env_, [&] { engine_->removeFile(index(info)); });
  }
  Napi::Value addListener(Info info) {
    return guarded(env_, [&] { return number(engine_->addListener(fdArgument(info, 0))); });
  }
  void removeListener(Info info) {
    guarded(env_, [&] { engine_->removeListener(index(info)); });
  }
  Napi::Value addConnection(Info info) {
    return guarded(env_, [&] { return number(engine_->addConnection(fdArgument(info, 0))); });
  }
  Napi::Value peerHungUp(Info info) {
    return Napi::Boolean::New(env_, engine_->peerHungUp(index(info)));
  }
  Napi::Value peerCredentials(Info info) {
    const PeerCredentials peer =
        guarded(env_, [&] { return engine_->peerCredentials(index(info)); });
    Napi::Object result = Napi::Object::New(env_);
    result.Set("pid", static_cast<double>(peer.pid));
    result.Set("uid", static_cast<double>(peer.uid));
    result.Set("gid", static_cast<double>(peer.gid));
    return result;
  }

  void onBatch(Info info) {
    if (!info[0].IsFunction()) throw Napi::TypeError::New(env_, "onBatch takes a function");
    callback_ = Napi::Persistent(info[0].As<Napi::Function>());
  }

  void takeRows(Info) { engine_->takeRows(); }

  void run(Info info) {
    if (callback_.IsEmpty()) throw Napi::Error::New(env_, "run before onBatch");
    const auto slice = static_cast<uint32_t>(integerArgument(info, 0));
    guarded(env_, [&] { engine_->run(slice, [this] { return callBatch(); }); });
  }

  // What the function throws stays pending and comes out of run(). In a worker that is being
  // terminated not even the call can be made.
  bool callBatch() {
    try {
      const Napi::HandleScope scope(env_);
      napi_value result;
      return napi_call_function(env_, env_.Undefined(), callback_.Value(), 0, nullptr, &result) ==
             napi_ok;
    } catch (const Napi::Error &) {
      return false;
    }
  }

  Napi::Value stats(Info) {
    const EngineStats &s = engine_->stats();
    Napi::Object result = Napi::Object::New(env_);
    result.Set("kind", kind_ == EngineKind::Uring ? "uring" : "threads");
    result.Set("waits", static_cast<double>(s.waits));
    result.Set("sends", static_cast<double>(s.sends));
    result.Set("batches", static_cast<double>(s.batches));
    result.Set("operations", static_cast<double>(s.operations));
    return result;
  }

  void close(Info) {
    guarded(env_, [&] { engine_->close(); });
  }

  Napi::Env env_;
  EngineKind kind_ = EngineKind::Threads;
  std::unique_ptr<EngineCore> engine_;
  uint32_t handle_ = 0;
  Napi::FunctionReference callback_;
};

Napi::Value createEngine(Info info) {
  return info.Env().GetInstanceData<AddonData>()->engineClass.New({info[0]});
}

Napi::Value probe(Info info) {
  const UringProbe result = probeUring();
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("available", result.available);
  object.Set("reason", result.reason);
  return object;
}

void wake(Info info) { wakeByHandle(static_cast<uint32_t>(integerArgument(info, 0))); }

} // namespace

void exportEngine(Napi::Env env, Napi::Object exports, AddonData &data) {
  data.engineClass = Napi::Persistent(EngineWrap::define(env));
  exports.Set("createEngine", Napi::Function::New(env, createEngine, "createEngine"));
  exports.Set("probeUring", Napi::Function::New(env, probe, "probeUring"));
  exports.Set("wake", Napi::Function::New(env, wake, "wake"));
}

} // namespace ploop
