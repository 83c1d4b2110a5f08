// Waiting for a word in memory that other processes share: a short look, then sleep. Ranks share
// cores, so a rank that waits has to leave its core to the one that it waits for.
#pragma once

#include <atomic>
#include <cstdint>

namespace accel::distributed {

// A count that one process raises and others wait for. Wraps around.
struct alignas(64) SharedCounter {
  std::atomic<uint32_t> value{0};
  std::atomic<uint32_t> sleepers{0};

  uint32_t load() const { return value.load(std::memory_order_acquire); }
  bool has_reached(uint32_t target) const { return static_cast<int32_t>(load() - target) >= 0; }
  // Makes what was written before visible to those who see the value. Wakes them only if any sleep.
  void raise_to(uint32_t target);
  // Looks for a while, then sleeps, for about `nanoseconds` at most. Whether it was reached.
  bool wait_for(uint32_t target, int64_t nanoseconds);
};

}  // namespace accel::distributed
