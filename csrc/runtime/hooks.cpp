// Availability, generators, pinned memory and storage resizing, as PyTorch asks for them. Called
// from torch.accelerator, the autograd engine and the factories.
#include "csrc/runtime/hooks.h"

#include <atomic>

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>

#include "csrc/runtime/allocator.h"
#include "csrc/runtime/generator.h"
#include "csrc/runtime/pinned.h"
#include "csrc/runtime/process.h"
#include "csrc/runtime/stream.h"

namespace accel::runtime {

namespace {

std::atomic<ResizeBytes> resize_bytes{nullptr};

class Hooks final : public at::PrivateUse1HooksInterface {
 public:
  // The next three never throw, and leave the process able to fork.
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return device_count() > 0; }
  c10::DeviceIndex deviceCount() const override {
    return static_cast<c10::DeviceIndex>(device_count());
  }

  // There is nothing to create: memory and workers start with their first use.
  void init() const override { check_fork(); }
  bool hasPrimaryContext(c10::DeviceIndex device) const override {
    return in_use() && device >= 0 && device < device_count();
  }

  void setCurrentDevice(c10::DeviceIndex device) const override { set_current_device(device); }
  c10::DeviceIndex getCurrentDevice() const override {
    return static_cast<c10::DeviceIndex>(current_device());
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex device) const override {
    const int previous = current_device();
    set_current_device(device);
    return static_cast<c10::DeviceIndex>(previous);
  }
  // As exchangeDevice(), except that a negative index changes nothing.
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex device) const override {
    return device < 0 ? getCurrentDevice() : exchangeDevice(device);
  }

  const at::Generator& getDefaultGenerator(c10::DeviceIndex device) const override {
    return default_generator(device < 0 ? current_device() : device);
  }
  at::Generator getNewGenerator(c10::DeviceIndex device) const override {
    return new_generator(device < 0 ? current_device() : device);
  }

  at::Allocator* getPinnedMemoryAllocator() const override {
    return at::getHostAllocator(c10::kPrivateUse1);
  }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  at::Device getDeviceFromPtr(void* data) const override {
    const int device = device_of(data);
    TORCH_CHECK(device != kHost, "The address ", data, " is not memory of accel.");
    return at::Device(c10::kPrivateUse1, static_cast<c10::DeviceIndex>(device));
  }

  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    const ResizeBytes resize = resize_bytes.load();
    TORCH_CHECK(resize != nullptr, "accel: storages cannot be resized before csrc/aten is loaded.");
    resize(storage, bytes);
  }
};

// PyTorch keeps the pointer for good.
const bool registered [[maybe_unused]] = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  return true;
}();

}  // namespace

void register_resize_bytes(ResizeBytes resize) { resize_bytes.store(resize); }

}  // namespace accel::runtime
