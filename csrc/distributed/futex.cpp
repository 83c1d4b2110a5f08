#include "csrc/distributed/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>

#include "csrc/runtime/worker_stream.h"
#include "kernels/common/relax.h"

namespace accel::distributed {

namespace {

// A round between two ranks that run takes 0.2-1 µs, a wake-up 5-50 µs. Longer looking takes the
// core from a rank that shares it.
constexpr int64_t kSpin = 20'000;  // ns

long futex(std::atomic<uint32_t>& word, int operation, uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), operation, value, timeout, nullptr,
                 0);
}

}  // namespace

// The store and the look at sleepers, and a sleeper's count and its look at the value, are in the
// one order of sequentially consistent operations: at least one of the two sees the other.
void SharedCounter::raise_to(uint32_t target) {
  value.store(target);
  if (sleepers.load() != 0) futex(value, FUTEX_WAKE, INT_MAX, nullptr);
}

bool SharedCounter::wait_for(uint32_t target, int64_t nanoseconds) {
  if (has_reached(target)) return true;
  const int64_t start = runtime::steady_now();
  const int64_t spin_end = start + (nanoseconds < kSpin ? nanoseconds : kSpin);
  do {
    kernels::pause_briefly();
    if (has_reached(target)) return true;
  } while (runtime::steady_now() < spin_end);
  const timespec timeout{nanoseconds / 1'000'000'000, nanoseconds % 1'000'000'000};
  sleepers.fetch_add(1);
  const uint32_t seen = value.load();
  if (static_cast<int32_t>(seen - target) < 0) futex(value, FUTEX_WAIT, seen, &timeout);
  sleepers.fetch_sub(1);
  return has_reached(target);
}

}  // namespace accel::distributed
