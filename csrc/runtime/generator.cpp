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

RandomState::Position RandomState::reserve(uint64_t counters) {
  std::lock_guard<std::mutex> lock(mutex_);
  const Position begin = position_;
  position_.offset += counters;
  return begin;
}

RandomState::Position RandomState::position() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return position_;
}

void RandomState::set(Position position) {
  std::lock_guard<std::mutex> lock(mutex_);
  position_ = position;
}

void RandomState::set_offset(uint64_t offset) {
  std::lock_guard<std::mutex> lock(mutex_);
  position_.offset = offset;
}

Generator::Generator(int device, std::shared_ptr<RandomState> state)
    : c10::GeneratorImpl(c10::Device(c10::kPrivateUse1, static_cast<c10::DeviceIndex>(device)),
                         c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
      state_(state ? std::move(state) : std::make_shared<RandomState>()) {}

void Generator::set_current_seed(uint64_t seed) { state_->set({seed, 0}); }

uint64_t Generator::seed() {
  const uint64_t seed = c10::detail::getNonDeterministicRandom();
  set_current_seed(seed);
  return seed;
}

void Generator::set_state(const c10::TensorImpl& state) {
  at::detail::check_rng_state(state);
  const int64_t bytes = state.numel();
  TORCH_CHECK(bytes == kStateBytes || bytes == kSeedBytes, "RNG state is wrong size");
  const auto* data = static_cast<const char*>(state.data());
  RandomState::Position position;
  std::memcpy(&position.seed, data, sizeof(position.seed));
  if (bytes == kStateBytes) {
    std::memcpy(&position.offset, data + kSeedBytes, sizeof(position.offset));
  }
  state_->set(position);
}

c10::intrusive_ptr<c10::TensorImpl> Generator::get_state() const {
  auto state = at::detail::empty_cpu({kStateBytes}, c10::ScalarType::Byte, std::nullopt,
                                     std::nullopt, std::nullopt, std::nullopt);
  auto* data = static_cast<char*>(state.mutable_data_ptr());
  const RandomState::Position position = state_->position();
  std::memcpy(data, &position.seed, sizeof(position.seed));
  std::memcpy(data + kSeedBytes, &position.offset, sizeof(position.offset));
  return state.getIntrusivePtr();
}

Generator* Generator::clone_impl() const {
  auto* copy = new Generator(device_.index());
  copy->state_->set(state_->position());
  return copy;
}

c10::intrusive_ptr<c10::GeneratorImpl> Generator::graphsafe_get_state() const {
  return c10::make_intrusive<Generator>(device_.index(), state_);
}

void Generator::graphsafe_set_state(const c10::intrusive_ptr<c10::GeneratorImpl>& other) {
  const auto* generator = dynamic_cast<const Generator*>(other.get());
  TORCH_CHECK(generator, "graphsafe_set_state: expected a generator of accel");
  state_ = generator->state_;
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
