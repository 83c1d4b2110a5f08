// Where host code and kernels find device memory. Called for every address of a Launch, so it
// inlines to a subtraction, a comparison and an addition; memory that is not the device's (pinned
// host memory, null) passes unchanged.
#pragma once

#include <cstddef>
#include <cstdint>

namespace accel::runtime {

// The addresses that tensors show under ACCEL_MEMORY=guarded are inaccessible: kernels find the
// memory `delta` bytes further. Empty otherwise. Set once, by the host driver.
struct GuardedRange {
  uintptr_t start = 0;
  size_t size = 0;
  uintptr_t delta = 0;
};
extern GuardedRange guarded_range;

inline void* host_pointer(const void* device_address) {
  const auto address = reinterpret_cast<uintptr_t>(device_address);
  const bool shifted = address - guarded_range.start < guarded_range.size;
  return reinterpret_cast<void*>(address + (shifted ? guarded_range.delta : 0));
}

// The inverse, for memory that host code names.
inline void* device_pointer(const void* host_address) {
  const auto address = reinterpret_cast<uintptr_t>(host_address);
  const bool shifted = address - guarded_range.start - guarded_range.delta < guarded_range.size;
  return reinterpret_cast<void*>(address - (shifted ? guarded_range.delta : 0));
}

}  // namespace accel::runtime
