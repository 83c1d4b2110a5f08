#include "kernels/common/parallel.h"

#include <algorithm>
#include <atomic>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace accel::kernels {

namespace {
thread_local int t_width = 1;
thread_local bool t_inside = false;

// Tells ThreadSanitizer what the barriers of a region order: libgomp is not instrumented.
#if defined(__SANITIZE_THREAD__)
class SanitizedRegion {
 public:
  SanitizedRegion() { __tsan_release(this); }
  ~SanitizedRegion() { __tsan_acquire(this); }
  void enter() { __tsan_acquire(this); }
  void leave() { __tsan_release(this); }
};
#else
struct SanitizedRegion {
  void enter() {}
  void leave() {}
};
#endif
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
  std::atomic<int64_t> next{0};
  SanitizedRegion sanitized;
#pragma omp parallel num_threads(width)
  {
    sanitized.enter();
    t_inside = true;
    for (int64_t chunk = next.fetch_add(1, std::memory_order_relaxed); chunk < chunks;
         chunk = next.fetch_add(1, std::memory_order_relaxed)) {
      body(context, chunk);
    }
    t_inside = false;
    sanitized.leave();
  }
}

}  // namespace detail
}  // namespace accel::kernels
