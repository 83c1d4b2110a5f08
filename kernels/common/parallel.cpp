#include "kernels/common/parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <system_error>
#include <thread>
#include <vector>

#include "kernels/common/relax.h"

namespace accel::kernels {

namespace {

// How long a helper without work looks again before it sleeps: longer than what lies between two
// steps of a decoding loop, since one that has to be woken comes late. It gives its core to any
// thread that wants it meanwhile.
constexpr std::chrono::microseconds kHelperSpin{1000};

thread_local int t_width = 1;
thread_local bool t_inside = false;

// The helpers of one thread. It opens a region, takes chunks like everybody else, and closes the
// region when there are none left: it waits for helpers that are in a chunk, never for one that has
// not come. OpenMP's barrier waits for all, and its threads keep their cores while they look for
// the next region; where a host thread shares the cores, that doubles the time of a short step
// (docs/architecture.md, Threads).
class Team {
 public:
  Team() = default;
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  ~Team() {
    stopping_.store(true);
    wake();
    for (std::thread& helper : helpers_) helper.join();
  }

  void run(int width, int64_t chunks, void (*body)(void*, int64_t), void* context) {
    grow(width - 1);
    // No helper is inside: the last region ended with none.
    body_ = body;
    context_ = context;
    chunks_ = chunks;
    next_.store(0, std::memory_order_relaxed);
    const auto room = std::min<uint64_t>(static_cast<uint64_t>(width) - 1, helpers_.size());
    const uint64_t number = (state_.load(std::memory_order_relaxed) >> kNumberShift) + 1;
    state_.store(number << kNumberShift | room << kRoomShift);
    if (asleep_.load() && asleep_.exchange(false)) wake();
    work();
    // No room: nobody comes any more.
    uint64_t state = state_.fetch_and(~(kMask << kRoomShift), std::memory_order_acquire);
    while ((state & kMask) != 0) {
      relax();
      state = state_.load(std::memory_order_acquire);
    }
  }

 private:
  // A region: its number, for how many helpers there is room, and how many are inside.
  static constexpr int kRoomShift = 16, kNumberShift = 32;
  static constexpr uint64_t kMask = 0xffff;

  void grow(int helpers) {
    while (static_cast<int>(helpers_.size()) < helpers) {
      try {
        helpers_.emplace_back([this] { help(); });
      } catch (const std::system_error&) {
        return;  // the system has no more threads: the team is as wide as it can be
      }
    }
  }

  void work() {
    t_inside = true;
    for (int64_t chunk = next_.fetch_add(1, std::memory_order_relaxed); chunk < chunks_;
         chunk = next_.fetch_add(1, std::memory_order_relaxed)) {
      body_(context_, chunk);
    }
    t_inside = false;
  }

  // Whether the calling helper is in now. last: the region that it was in before.
  bool enter(uint64_t& last) {
    uint64_t state = state_.load();
    while ((state >> kRoomShift & kMask) != 0 && state >> kNumberShift != last) {
      const uint64_t with_me = state - (uint64_t{1} << kRoomShift) + 1;
      if (!state_.compare_exchange_weak(state, with_me, std::memory_order_acquire)) continue;
      last = state >> kNumberShift;
      return true;
    }
    return false;
  }

  void help() {
    pthread_setname_np(pthread_self(), "accel team");
    uint64_t last = 0;
    auto spin_end = std::chrono::steady_clock::now() + kHelperSpin;
    while (!stopping_.load(std::memory_order_relaxed)) {
      bool inside = enter(last);
      if (!inside) {
        if (std::chrono::steady_clock::now() < spin_end) {
          relax();
          continue;
        }
        // In this order: whoever clears the flag after this changes wakes_ after it was read here,
        // and whoever looked at it before has opened a region that is seen here.
        const int wakes = wakes_.load();
        asleep_.store(true);
        inside = enter(last);
        if (!inside && !stopping_.load()) wakes_.wait(wakes);
      }
      if (inside) {
        work();
        state_.fetch_sub(1, std::memory_order_release);
      }
      spin_end = std::chrono::steady_clock::now() + kHelperSpin;
    }
  }

  void wake() {
    wakes_.fetch_add(1);
    wakes_.notify_all();
  }

  std::vector<std::thread> helpers_;
  void (*body_)(void*, int64_t) = nullptr;
  void* context_ = nullptr;
  int64_t chunks_ = 0;
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<bool> asleep_{false};
  std::atomic<int> wakes_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace

int team_width() { return t_width; }
void set_team_width(int width) { t_width = std::max(1, width); }

namespace detail {

void parallel_chunks(int64_t chunks, void (*body)(void*, int64_t), void* context) {
  const int width = static_cast<int>(std::min<int64_t>(t_width, chunks));
  if (width <= 1 || t_inside) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) body(context, chunk);
    return;
  }
  static thread_local Team team;
  team.run(width, chunks, body, context);
}

}  // namespace detail
}  // namespace accel::kernels
