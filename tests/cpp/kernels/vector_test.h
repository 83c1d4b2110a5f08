// What the tests of kernels/vector share: a builder of programs, the engines this machine can run,
// and memory whose surroundings are checked.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/isa.h"
#include "kernels/common/parallel.h"
#include "kernels/vector/interpreter.h"
#include "kernels/vector/prepare.h"

namespace accel::kernels::vector {

// Every instruction set that this machine has.
inline std::vector<Isa> testable_isas() {
  std::vector<Isa> isas;
  for (Isa isa : {Isa::Portable, Isa::Avx2, Isa::Avx512}) {
    if (isa <= current_isa()) isas.push_back(isa);
  }
  return isas;
}

// run() on the engine of another instruction set than the best.
inline void run_on(const Engine& engine, const Program& program, const Space& space,
                   const Operand* operands, const Scalar* scalars) {
  run(program, prepare_on(engine, program, space, operands), space, operands, scalars);
}

// Writes programs instruction by instruction; each value gets a register of its own, counted anew
// in each phase.
class Builder {
 public:
  explicit Builder(Kind kind = Kind::Pointwise) { program.kind = kind; }

  int operand(DType dtype) {
    program.operands.push_back(dtype);
    return static_cast<int>(program.operands.size()) - 1;
  }
  int load(int operand, Lane lane) { return emit(Op::Load, lane, 0, 0, 0, operand); }
  int load(int operand) { return load(operand, lane_of(program.operands[operand])); }
  void store(int operand, int value, Lane lane) {
    emit(Op::Store, lane, value, 0, 0, operand);
    --next_;
  }
  void store(int operand, int value) { store(operand, value, lane_of(program.operands[operand])); }
  int scalar(Lane lane = Lane::F32) { return emit(Op::Scalar, lane, 0, 0, 0, program.scalars++); }
  int slot(int slot) { return emit(Op::Slot, program.slots[slot], 0, 0, 0, slot); }
  int add_slot(Lane lane) {
    program.slots.push_back(lane);
    return static_cast<int>(program.slots.size()) - 1;
  }
  void reduce(Op op, int value, int slot) {
    emit(op, program.slots[slot], value, 0, 0, slot);
    --next_;
  }
  int convert(Lane to, Lane from, int value) {
    const int result = emit(Op::Convert, to, value);
    program.code.back().lane2 = from;
    return result;
  }
  int round(Lane lane, DType dtype, int value) {
    const int result = emit(Op::Round, lane, value);
    program.code.back().dtype = dtype;
    return result;
  }
  int emit(Op op, Lane lane, int a = 0, int b = 0, int c = 0, int index = 0) {
    Instruction instruction{op};
    instruction.lane = lane;
    instruction.dst = static_cast<uint8_t>(next_);
    instruction.a = static_cast<uint8_t>(a);
    instruction.b = static_cast<uint8_t>(b);
    instruction.c = static_cast<uint8_t>(c);
    instruction.index = static_cast<int16_t>(index);
    program.code.push_back(instruction);
    return next_++;
  }
  // Ends a phase.
  void phase(Over over) {
    const int end = static_cast<int>(program.code.size());
    program.phases.push_back({over, begin_, end});
    begin_ = end;
    next_ = 0;
  }

  Program program;

 private:
  int next_ = 0, begin_ = 0;
};

inline Space make_space(std::vector<int64_t> sizes, int kept = 0) {
  Space space;
  space.dims = static_cast<int>(sizes.size());
  space.kept = kept;
  for (int d = 0; d < space.dims; ++d) space.sizes[d] = sizes[d];
  return space;
}

inline Operand make_operand(void* data, std::vector<int64_t> strides) {
  Operand operand;
  operand.data = static_cast<char*>(data);
  for (size_t d = 0; d < strides.size(); ++d) operand.strides[d] = strides[d];
  return operand;
}

// Bytes between two stretches that nobody may write.
class Guarded {
 public:
  explicit Guarded(size_t bytes, size_t misalignment = 0)
      : memory_(bytes + 2 * kMargin + misalignment, kPattern),
        offset_(kMargin + misalignment),
        bytes_(bytes) {}
  char* data() { return memory_.data() + offset_; }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data());
  }
  bool intact() const {
    for (size_t i = 0; i < memory_.size(); ++i) {
      const bool inside = i >= offset_ && i < offset_ + bytes_;
      if (!inside && memory_[i] != kPattern) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kMargin = 256;
  static constexpr char kPattern = 0x5a;
  std::vector<char> memory_;
  size_t offset_, bytes_;
};

// Equal bits, or both NaN.
template <class T>
bool same(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  }
  return std::memcmp(&a, &b, sizeof a) == 0;
}

// |got - want| in units of float's last place at `want`.
inline double ulps(float got, double want) {
  if (std::isnan(want) && std::isnan(got)) return 0;
  const float rounded = static_cast<float>(want);
  if (std::isnan(want) || std::isnan(got) || std::isinf(got) || std::isinf(rounded)) {
    return got == rounded ? 0 : std::numeric_limits<double>::infinity();
  }
  int exponent;
  std::frexp(want, &exponent);
  if (want == 0 || exponent < -125) exponent = -125;
  return std::fabs(got - want) / std::ldexp(1.0, exponent - 24);
}

}  // namespace accel::kernels::vector
