// Forks, the GIL and the count of waiting hosts. Called by every part of the runtime that waits.
#include "csrc/runtime/process.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <mutex>
#include <utility>

#include <c10/util/Exception.h>

#include "csrc/runtime/stream.h"

namespace accel::runtime {

std::atomic<bool> bad_fork{false};

namespace {
std::atomic<bool> used{false};
std::atomic<const GilHooks*> gil_hooks{nullptr};
std::atomic<int> waiting{0};
}  // namespace

void note_use() {
  if (used.load(std::memory_order_acquire)) return;
  static std::once_flag once;
  std::call_once(once, [] {
    pthread_atfork(nullptr, nullptr, [] { bad_fork.store(true, std::memory_order_relaxed); });
    used.store(true, std::memory_order_release);
  });
}

bool logs(LogTopic topic) {
  static const auto topics = [] {
    const char* value = std::getenv("ACCEL_LOG");
    const std::string list = c10::str(',', value ? value : "", ',');
    const auto names = [&](const char* name) { return list.find(name) != std::string::npos; };
    return std::pair{names(",graph,"), names(",sync,")};
  }();
  return topic == LogTopic::Graph ? topics.first : topics.second;
}

bool in_use() { return used.load(std::memory_order_acquire); }

void raise_bad_fork() {
  TORCH_CHECK(false,
              "Cannot re-initialize accel in forked subprocess. To use accel with multiprocessing, "
              "you must use the 'spawn' start method");
}

void register_gil_hooks(const GilHooks* hooks) {
  gil_hooks.store(hooks, std::memory_order_release);
}

std::string python_location() {
  const GilHooks* hooks = gil_hooks.load(std::memory_order_acquire);
  return hooks != nullptr && hooks->location != nullptr ? hooks->location() : std::string();
}

bool is_main_thread() {
  static thread_local const bool result = syscall(SYS_gettid) == getpid();
  return result;
}

// Python runs signal handlers on its main thread only. There a wait can be ended even where
// PyTorch's bindings have let go of the GIL before it began, as they do for most ops.
bool WaitGuard::interruptible() const {
  return hooks_ != nullptr && gil_ == Gil::Release && (state_ != nullptr || is_main_thread());
}

WaitGuard::WaitGuard(Gil gil)
    : gil_(gil),
      hooks_(gil_hooks.load(std::memory_order_acquire)),
      state_(hooks_ != nullptr && gil == Gil::Release ? hooks_->release() : nullptr) {
  waiting.fetch_add(1, std::memory_order_relaxed);
}

WaitGuard::~WaitGuard() {
  waiting.fetch_sub(1, std::memory_order_relaxed);
  if (state_ != nullptr) hooks_->acquire(state_);
}

void WaitGuard::check_signals() const {
  if (interruptible() && hooks_->check_signals != nullptr) hooks_->check_signals();
}

int waiting_hosts() { return waiting.load(std::memory_order_relaxed); }

}  // namespace accel::runtime
