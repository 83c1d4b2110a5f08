// When DDP's forward, backward and communication began and ended on the current stream: what its
// logger asks c10d's TimerRegistry for, in a few iterations at the start and one of a hundred
// later.
#include <array>

#include <c10/util/Exception.h>
#include <torch/csrc/distributed/c10d/reducer_timer.hpp>

#include "csrc/runtime/event.h"

namespace accel::distributed {

namespace {

using c10d::RegistererTimerRegistry;
using c10d::TimerRegistry;

class DdpTimer final : public c10d::Timer {
 public:
  explicit DdpTimer(c10::Device device) : device_(device.index()) {}

  void record(Event event) override {
    c10d::Timer::record(event);  // the host's time
    runtime::Event& mark = marks_[static_cast<size_t>(event)];
    mark.record(runtime::current_stream(device_));
  }

  // Nothing where one of them was not recorded, or not in this iteration. Waits for both.
  std::optional<int64_t> measureDifference(Event start, Event end) override {
    if (!getTimestamp(start) || !getTimestamp(end)) return std::nullopt;
    const runtime::Event& first = marks_[static_cast<size_t>(start)];
    const runtime::Event& last = marks_[static_cast<size_t>(end)];
    first.synchronize();
    last.synchronize();
    const double milliseconds = first.elapsed_milliseconds(last);
    if (milliseconds < 0) return std::nullopt;
    return static_cast<int64_t>(milliseconds * 1e6);
  }

 private:
  const int device_;
  std::array<runtime::Event, 5> marks_;  // by c10d::Timer::Event
};

C10_REGISTER_TYPED_CLASS(TimerRegistry, c10::kPrivateUse1, DdpTimer)

}  // namespace

}  // namespace accel::distributed
