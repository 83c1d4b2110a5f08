// The device's clock for torch.autograd.profiler.profile(use_device="accel"): Events in front of
// and behind each op.
#include <chrono>

#include <torch/csrc/profiler/stubs/base.h>

#include "csrc/runtime/event.h"
#include "csrc/runtime/stream.h"

namespace accel::runtime {

namespace {

class Profiler final : public torch::profiler::impl::ProfilerStubs {
 public:
  using Mark = torch::profiler::impl::ProfilerVoidEventStub;

  void record(c10::DeviceIndex* device, Mark* mark, int64_t* nanoseconds) const override {
    Stream& stream = current_stream(current_device());
    if (device) *device = static_cast<c10::DeviceIndex>(current_device());
    auto event = std::make_shared<Event>();
    event->record(stream);
    *mark = std::move(event);
    if (nanoseconds) {
      *nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(
                         std::chrono::system_clock::now().time_since_epoch())
                         .count();
    }
  }

  // In microseconds.
  float elapsed(const Mark* begin, const Mark* end) const override {
    const auto &first = *static_cast<const Event*>(begin->get()),
               &last = *static_cast<const Event*>(end->get());
    first.synchronize();
    last.synchronize();
    return static_cast<float>(first.elapsed_milliseconds(last) * 1e3);
  }

  // There is no tool of the device that would show ranges.
  void mark(const char*) const override {}
  void rangePush(const char*) const override {}
  void rangePop() const override {}

  bool enabled() const override { return true; }
  void onEachDevice(std::function<void(int)> visit) const override {
    for (int device = 0; device < device_count(); ++device) visit(device);
  }
  void synchronize() const override { current_stream(current_device()).synchronize(); }
};

[[maybe_unused]] const bool g_registered = [] {
  static Profiler profiler;
  torch::profiler::impl::registerPrivateUse1Methods(&profiler);
  return true;
}();

}  // namespace

}  // namespace accel::runtime
