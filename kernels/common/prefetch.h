// Asking for memory before it is needed.
#pragma once

#include <cstdint>

namespace accel::kernels {

// Asks for `bytes` of each of `rows` rows, `stride` bytes apart: each may be in a page of its own,
// which the processor does not foresee. Inlined because g++ 12 drops calls of functions that do
// nothing but prefetch.
[[gnu::always_inline]] inline void prefetch_rows(const void* first, int64_t rows, int64_t stride,
                                                 int64_t bytes) {
  constexpr int64_t kLine = 64;
  const char* row = static_cast<const char*>(first);
  for (int64_t i = 0; i < rows; ++i, row += stride) {
    for (int64_t byte = 0; byte < bytes; byte += kLine) __builtin_prefetch(row + byte);
  }
}

}  // namespace accel::kernels
