// SPDX-License-Identifier: MIT
#include "engine.h"

#ifndef PLOOP_HAVE_URING

namespace ploop {

UringProbe probeUring() { return {false, "this addon was built without liburing"}; }

} // namespace ploop

#else

#include <cstdio>
#include <cstring>

#include "system_error.h"
#include "uring_setup.h"

namespace ploop {

namespace {

#ifdef IORING_SETUP_SUBMIT_ALL
constexpr unsigned kSubmitAll = IORING_SETUP_SUBMIT_ALL;
#else
constexpr unsigned kSubmitAll = 0;
#endif
#ifdef IORING_SETUP_COOP_TASKRUN
constexpr unsigned kCooperative = IORING_SETUP_COOP_TASKRUN;
#else
constexpr unsigned kCooperative = 0;
#endif
#if defined(IORING_SETUP_SINGLE_ISSUER) && defined(IORING_SETUP_DEFER_TASKRUN)
constexpr unsigned kDeferred = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
#else
constexpr unsigned kDeferred = 0;
#endif

struct FlagSet {
  unsigned flags;
  const char *words;
};
constexpr FlagSet kFlagSets[] = {
    {kDeferred | kSubmitAll, "single issuer, deferred task work"},
    {kCooperative | kSubmitAll, "cooperative task work"},
    {0, "no flags"},
};

constexpr struct {
  int code;
  const char *name;
} kNeeded[] = {
    {IORING_OP_READ, "READ"},     {IORING_OP_WRITE, "WRITE"},         {IORING_OP_FSYNC, "FSYNC"},
    {IORING_OP_RECV, "RECV"},     {IORING_OP_SENDMSG, "SENDMSG"},     {IORING_OP_ACCEPT, "ACCEPT"},
    {IORING_OP_POLL_ADD, "POLL"}, {IORING_OP_ASYNC_CANCEL, "CANCEL"},
};

// Why the kernel refused, with the likely cause.
std::string refusal(int error) {
  std::string text = std::string("io_uring_setup: ") + strerror(error);
  if (error == ENOSYS) return text + " (the kernel has no io_uring)";
  if (error == ENOMEM) return text + " (likely the limit of locked memory, ulimit -l)";
  if (error != EPERM && error != EACCES) return text;
  int disabled = 0;
  if (FILE *file = std::fopen("/proc/sys/kernel/io_uring_disabled", "re")) {
    if (std::fscanf(file, "%d", &disabled) != 1) disabled = 0;
    std::fclose(file);
  }
  if (disabled != 0)
    return text + " (kernel.io_uring_disabled is " + std::to_string(disabled) + ")";
  return text + " (likely a seccomp filter, as container runtimes set it)";
}

} // namespace

const char *setUpRing(io_uring &ring, unsigned entries, unsigned completions) {
  int result = -EINVAL;
  for (const FlagSet &set : kFlagSets) {
    io_uring_params parameters{};
    parameters.flags = set.flags | IORING_SETUP_CQSIZE;
    parameters.cq_entries = completions;
    result = io_uring_queue_init_params(entries, &ring, &parameters);
    if (result == 0) return set.words;
    if (result != -EINVAL) break;
  }
  throw SystemError(-result, "io_uring_setup");
}

std::string missingOperations(io_uring &ring, bool *fallocate) {
  io_uring_probe *probe = io_uring_get_probe_ring(&ring);
  if (probe == nullptr) return "the probe itself";
  std::string missing;
  for (const auto &operation : kNeeded)
    if (!io_uring_opcode_supported(probe, operation.code))
      missing += (missing.empty() ? "" : ", ") + std::string(operation.name);
  if (fallocate != nullptr) *fallocate = io_uring_opcode_supported(probe, IORING_OP_FALLOCATE);
  io_uring_free_probe(probe);
  return missing;
}

UringProbe probeUring() {
  io_uring ring{};
  const char *flags;
  try {
    flags = setUpRing(ring, 8, 16);
  } catch (const SystemError &error) {
    return {false, refusal(error.error())};
  }
  const std::string missing = missingOperations(ring, nullptr);
  io_uring_queue_exit(&ring);
  if (!missing.empty()) return {false, "the kernel's io_uring lacks " + missing};
  return {true, std::string("io_uring (") + flags + ")"};
}

} // namespace ploop

#endif
