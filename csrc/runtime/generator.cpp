// Seeds, offsets and states of generators, and the default generator of each device.
#include "csrc/runtime/generator.h"

#include <array>
#include <cstring>
#include <mutex>

#include <ATen/EmptyTensor.h>

#include "csrc/runtime/stream.h"

namespace accel::runtime {

namespace {

constexpr int64_t kSeedBytes = sizeof(uint64_t);
constexpr int64_t kStateBytes = 2 * sizeof(uint64_t);

}  // namespace

Generator::Generator(int device)
    : c10::GeneratorImpl(c10::Device(c10::kPrivateUse1, static_cast<c10::DeviceIndex>(device)),
                         c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)) {}

std::pair<uint64_t, uint64_t> Generator::reserve(uint64_t counters) {
  std::lock_guard<std::mutex> lock(mutex_);
  const uint64_t first = offset_;
  offset_ += counters;
  return {seed_, first};
}

void Generator::set_current_seed(uint64_t seed) {
  seed_ = seed;
  offset_ = 0;
}

uint64_t Generator::seed() {
  set_current_seed(c10::detail::getNonDeterministicRandom());
  return seed_;
}

void Generator::set_state(const c10::TensorImpl& state) {
  at::detail::check_rng_state(state);
  const int64_t bytes = state.numel();
  TORCH_CHECK(bytes == kStateBytes || bytes == kSeedBytes, "RNG state is wrong size");
  const auto* data = static_cast<const char*>(state.data());
  uint64_t seed = 0;
  uint64_t offset = 0;
  std::memcpy(&seed, data, sizeof(seed));
  if (bytes == kStateBytes) std::memcpy(&offset, data + kSeedBytes, sizeof(offset));
  seed_ = seed;
  offset_ = offset;
}

c10::intrusive_ptr<c10::TensorImpl> Generator::get_state() const {
  auto state = at::detail::empty_cpu({kStateBytes}, c10::ScalarType::Byte, std::nullopt,
                                     std::nullopt, std::nullopt, std::nullopt);
  auto* data = static_cast<char*>(state.mutable_data_ptr());
  std::memcpy(data, &seed_, sizeof(seed_));
  std::memcpy(data + kSeedBytes, &offset_, sizeof(offset_));
  return state.getIntrusivePtr();
}

Generator* Generator::clone_impl() const {
  auto* copy = new Generator(device_.index());
  copy->seed_ = seed_;
  copy->offset_ = offset_;
  return copy;
}

const at::Generator& default_generator(int device) {
  struct Slot {
    std::once_flag once;
    at::Generator generator;
  };
  static auto* slots = new std::array<Slot, kMaximumDevices>;  // outlives static destruction
  TORCH_CHECK(device >= 0 && device < device_count(), "Expected a device index from 0 to ",
              device_count() - 1, ", got ", device);
  Slot& slot = (*slots)[static_cast<size_t>(device)];
  std::call_once(slot.once, [&] {
    slot.generator = new_generator(device);
    slot.generator.seed();
  });
  return slot.generator;
}

at::Generator new_generator(int device) {
  TORCH_CHECK(device >= 0 && device < device_count(), "Expected a device index from 0 to ",
              device_count() - 1, ", got ", device);
  return at::make_generator<Generator>(device);
}

}  // namespace accel::runtime
