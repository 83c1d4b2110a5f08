// The random generator of a device: Philox4x32-10, of which it keeps the key (seed) and the next
// free counter (offset). csrc/aten reserves counters when an op is recorded, so the values do not
// depend on when or how the op runs.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>

#include <ATen/core/Generator.h>

namespace accel::runtime {

// What a generator draws from. Several generators may share one (graphsafe_set_state).
class RandomState {
 public:
  struct Position {
    uint64_t seed = c10::default_rng_seed_val, offset = 0;
  };

  // Takes `counters` consecutive counters, each worth four 32-bit words (see Uniform in
  // kernels/vector/program.h: n elements need (n + 3) / 4), and returns where they begin.
  Position reserve(uint64_t counters);
  Position position() const;
  void set(Position position);
  // The seed stays.
  void set_offset(uint64_t offset);

 private:
  mutable std::mutex mutex_;
  Position position_;
};

class Generator final : public c10::GeneratorImpl {
 public:
  explicit Generator(int device, std::shared_ptr<RandomState> state = {});

  const std::shared_ptr<RandomState>& random_state() const { return state_; }

  // As c10::GeneratorImpl asks: the caller holds the mutex.
  void set_current_seed(uint64_t seed) override;  // the offset starts over
  void set_offset(uint64_t offset) override { state_->set_offset(offset); }
  uint64_t get_offset() const override { return state_->position().offset; }
  uint64_t current_seed() const override { return state_->position().seed; }
  uint64_t seed() override;  // a new one from the system
  // 16 bytes on the CPU: seed, offset. A state of 8 bytes is a seed with offset 0.
  void set_state(const c10::TensorImpl& state) override;
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override;
  // Another generator over the same state; and to draw from that of another from now on.
  c10::intrusive_ptr<c10::GeneratorImpl> graphsafe_get_state() const override;
  void graphsafe_set_state(const c10::intrusive_ptr<c10::GeneratorImpl>& other) override;

  static c10::DeviceType device_type() { return c10::kPrivateUse1; }

 private:
  Generator* clone_impl() const override;

  std::shared_ptr<RandomState> state_;
};

// The generator that ops of this device use when given none; seeded by the system at first.
const at::Generator& default_generator(int device);
at::Generator new_generator(int device);

}  // namespace accel::runtime
