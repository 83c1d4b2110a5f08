// The device guard: how PyTorch switches devices and streams and uses events. Registered for
// PrivateUse1; the autograd engine, torch.Stream, torch.Event and torch.accelerator call it.
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include "csrc/runtime/event.h"
#include "csrc/runtime/process.h"
#include "csrc/runtime/stream.h"

namespace accel::runtime {

namespace {

c10::Device c10_device(int device) {
  return c10::Device(c10::kPrivateUse1, static_cast<c10::DeviceIndex>(device));
}

// PyTorch writes "the current device" as an index of -1 or none.
int index_of(c10::Device device) { return device.has_index() ? device.index() : current_device(); }

class Guard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return c10::kPrivateUse1; }

  // Devices. Per thread.

  c10::Device exchangeDevice(c10::Device device) const override {
    const int previous = current_device();
    if (index_of(device) != previous) set_current_device(device.index());
    return c10_device(previous);
  }
  c10::Device getDevice() const override { return c10_device(current_device()); }
  void setDevice(c10::Device device) const override { set_current_device(index_of(device)); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.index() >= 0 && device.index() < device_count()) set_current_device(device.index());
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return static_cast<c10::DeviceIndex>(device_count());
  }
  c10::DeviceCapability getDeviceCapability(c10::Device /*device*/) const override {
    c10::DeviceCapability capability;
    capability.capability_data.capability_bits = 0;
    auto& types = capability.capability_data.supported_scalar_types;
    types.has_Bool = types.has_Byte = types.has_Char = types.has_Short = types.has_Int = 1;
    types.has_Long = types.has_UInt16 = types.has_UInt32 = types.has_UInt64 = 1;
    types.has_Half = types.has_BFloat16 = types.has_Float = types.has_Double = 1;
    types.has_ComplexHalf = types.has_ComplexFloat = types.has_ComplexDouble = 1;
    types.has_Float8_e5m2 = types.has_Float8_e4m3fn = 1;
    return capability;
  }

  // Streams. The current one of each device is per thread.

  c10::Stream getStream(c10::Device device) const override {
    return to_c10(current_stream(index_of(device)));
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return to_c10(default_stream(index_of(device)));
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool is_high_priority) const override {
    return to_c10(stream_from_pool(index_of(device), is_high_priority ? -1 : 0));
  }
  c10::Stream getNewStream(c10::Device device, int priority) const override {
    return to_c10(stream_from_pool(index_of(device), priority));
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    Stream& next = stream_of(stream);
    const c10::Stream previous = to_c10(current_stream(next.device()));
    set_current_stream(next);
    return previous;
  }
  void* getStreamNativeHandle(const c10::Stream stream) const override {
    return &stream_of(stream);
  }
  bool queryStream(const c10::Stream& stream) const override { return stream_of(stream).query(); }
  bool isStreamCapturing(const c10::Stream& stream) const override {
    const Tail* tail = stream_of(stream).tail();
    return tail && tail->is_capturing();
  }
  void synchronizeStream(const c10::Stream& stream) const override {
    stream_of(stream).synchronize();
  }
  void synchronizeDevice(const c10::DeviceIndex device) const override {
    synchronize_device(device >= 0 ? device : current_device());
  }

  // Events. PyTorch owns an Event through a void pointer that is null until the first record().
  // Whether timing was asked for is checked by c10::Event: every mark knows its time.

  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex device_index,
              const c10::EventFlag /*flag*/) const override {
    TORCH_CHECK(device_index == -1 || device_index == stream.device_index(), "Event device index ",
                static_cast<int>(device_index), " does not match recording stream's device index ",
                static_cast<int>(stream.device_index()), ".");
    if (*event == nullptr) *event = new Event;
    static_cast<Event*>(*event)->record(stream_of(stream));
  }
  void block(void* event, const c10::Stream& stream) const override {
    if (event != nullptr) static_cast<Event*>(event)->block(stream_of(stream));
  }
  bool queryEvent(void* event) const override {
    return event == nullptr || static_cast<Event*>(event)->query();
  }
  void synchronizeEvent(void* event) const override {
    if (event != nullptr) static_cast<Event*>(event)->synchronize();
  }
  double elapsedTime(void* start, void* end, const c10::DeviceIndex /*device*/) const override {
    TORCH_CHECK_VALUE(start != nullptr && end != nullptr,
                      "Both events must be recorded before calculating elapsed time.");
    return static_cast<Event*>(start)->elapsed_milliseconds(*static_cast<Event*>(end));
  }
  void destroyEvent(void* event, const c10::DeviceIndex /*device*/) const noexcept override {
    delete static_cast<Event*>(event);
  }

  // Queued work holds its Blocks on whichever stream it runs.
  void recordDataPtrOnStream(const c10::DataPtr& /*pointer*/,
                             const c10::Stream& /*stream*/) const override {}
};

}  // namespace

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

}  // namespace accel::runtime
