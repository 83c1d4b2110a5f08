// A range check that failed inside a kernel. Kernels do not throw: they note the first fault, read
// and write nothing for that element, and go on; the stream raises it at the next wait.
#pragma once

#include <atomic>
#include <cstdint>

namespace accel::kernels {

struct Fault {
  std::atomic<bool> raised{false};
  int64_t index = 0;  // the value that was out of range
  int64_t bound = 0;  // valid values were [-bound, bound) or [0, bound)

  void report(int64_t bad_index, int64_t size) {
    bool expected = false;
    if (raised.compare_exchange_strong(expected, true)) {
      index = bad_index;
      bound = size;
    }
  }
};

}  // namespace accel::kernels
