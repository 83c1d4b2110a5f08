// The random generator of a device: Philox4x32-10, of which it keeps the key (seed) and the next
// free counter (offset). csrc/aten reserves counters when an op is recorded, so the values do not
// depend on when or how the op runs.
#pragma once

#include <cstdint>
#include <utility>

#include <ATen/core/Generator.h>

namespace accel::runtime {

class Generator final : public c10::GeneratorImpl {
 public:
  explicit Generator(int device);

  // Takes `counters` consecutive counters, each worth four 32-bit words (see Uniform in
  // kernels/vector/program.h: n elements need (n + 3) / 4), and returns (seed, first counter).
  // Takes the generator's mutex.
  std::pair<uint64_t, uint64_t> reserve(uint64_t counters);

  // As c10::GeneratorImpl asks: the caller holds the mutex.
  void set_current_seed(uint64_t seed) override;  // the offset starts over
  void set_offset(uint64_t offset) override { offset_ = offset; }
  uint64_t get_offset() const override { return offset_; }
  uint64_t current_seed() const override { return seed_; }
  uint64_t seed() override;  // a new one from the system
  // 16 bytes on the CPU: seed, offset. A state of 8 bytes is a seed with offset 0.
  void set_state(const c10::TensorImpl& state) override;
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override;

  static c10::DeviceType device_type() { return c10::kPrivateUse1; }

 private:
  Generator* clone_impl() const override;

  uint64_t seed_ = c10::default_rng_seed_val;
  uint64_t offset_ = 0;
};

// The generator that ops of this device use when given none; seeded by the system at first.
const at::Generator& default_generator(int device);
at::Generator new_generator(int device);

}  // namespace accel::runtime
