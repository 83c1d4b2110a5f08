// The elastic team's width. Called by the worker before each Launch, so it may not lock or
// allocate.
#include "csrc/runtime/team.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include <ATen/Parallel.h>

#include "csrc/runtime/process.h"
#include "csrc/runtime/stream.h"

namespace accel::runtime {

namespace {

// A host that has recorded nothing for this long is not recording: longer than any op's dispatch
// (3-30 µs), shorter than the pause of a worker that waits a millisecond before it takes the tail.
constexpr int64_t kRecordingPause = 300'000;  // ns

std::atomic<int> full{0};  // 0: not asked for yet

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

void set_full_team(int threads) { full.store(std::max(1, threads), std::memory_order_relaxed); }

int full_team() {
  int threads = full.load(std::memory_order_relaxed);
  if (threads == 0) {
    // OMP_NUM_THREADS, or the cores that PyTorch would use. A set_full_team() in between wins.
    int unset = 0;
    threads = std::max(1, at::get_num_threads());
    if (!full.compare_exchange_strong(unset, threads, std::memory_order_relaxed)) threads = unset;
  }
  return threads;
}

void follow_host_threads() {
  if (!is_main_thread()) return;  // other threads may still have the number they started with
  static int seen = 0;            // of the main thread alone
  const int threads = at::get_num_threads();
  if (threads == seen) return;
  seen = threads;
  set_full_team(threads);
}

int elastic_team(int64_t last_recorded) {
  const int width = full_team();
  if (width == 1 || waiting_hosts() > 0 || now() - last_recorded > kRecordingPause) return width;
  return width - 1;
}

}  // namespace accel::runtime
