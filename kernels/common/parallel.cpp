#include "kernels/common/parallel.h"

#include <algorithm>
#include <atomic>

namespace accel::kernels {

namespace {
thread_local int t_width = 1;
thread_local bool t_inside = false;
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
  // The region's own barriers order memory; acquire and release say so to ThreadSanitizer, which
  // does not see into libgomp, and cost nothing on x86.
  std::atomic<int64_t> next;
  next.store(0, std::memory_order_release);
#pragma omp parallel num_threads(width)
  {
    t_inside = true;
    for (int64_t chunk = next.fetch_add(1, std::memory_order_acq_rel); chunk < chunks;
         chunk = next.fetch_add(1, std::memory_order_acq_rel)) {
      body(context, chunk);
    }
    t_inside = false;
  }
  next.load(std::memory_order_acquire);
}

}  // namespace detail
}  // namespace accel::kernels
