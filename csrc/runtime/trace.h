// What streams ran, for whoever profiles: Launches and collectives with their times. Filled by
// csrc/graph and csrc/distributed, read by profiler.cpp.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "csrc/runtime/stream.h"

namespace accel::runtime {

struct Traced {
  std::string name;
  int device;
  int64_t stream;
  int64_t begin, end;  // nanoseconds since the epoch
  int64_t operation;   // the profiler's number of the op of the host that asked for it; 0: unknown
};

// Whether somebody profiles.
inline std::atomic<bool> g_is_tracing{false};
inline bool is_tracing() { return g_is_tracing.load(std::memory_order_relaxed); }

int64_t trace_clock();

// Any thread.
void trace(const Stream& stream, std::string name, int64_t begin, int64_t operation);

// The innermost op of the calling thread that a profiler has numbered, or 0.
int64_t traced_operation();

}  // namespace accel::runtime
