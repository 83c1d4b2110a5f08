// Conversions between lanes, and rounding to a dtype within a lane.
#include "kernels/vector/cast.h"

namespace accel::kernels::ACCEL_ISA {

namespace {

template <Lane to, Lane from>
void convert(const Instruction& instruction, Frame& frame) {
  Copy copy;
  const ElementOf<from>* __restrict a =
      in_beside<ElementOf<from>>(frame, instruction.a, instruction.dst, copy);
  ElementOf<to>* __restrict result = out<ElementOf<to>>(frame, instruction.dst);
  const int n = frame.padded & -vector::kTilePadding;
  for (int i = 0; i < n; ++i) result[i] = to_lane<to>(a[i]);
}

template <Lane to>
void convert_to(const Instruction& instruction, Frame& frame) {
  switch (instruction.lane2) {
    case Lane::F32:
      return convert<to, Lane::F32>(instruction, frame);
    case Lane::F64:
      return convert<to, Lane::F64>(instruction, frame);
    case Lane::I64:
      return convert<to, Lane::I64>(instruction, frame);
    case Lane::Bool:
      return convert<to, Lane::Bool>(instruction, frame);
  }
}

struct ToBFloat16 {
  ACCEL_INLINE static VectorF32 of(VectorF32 x) { return round_bf16(x); }
};
struct ToFloat16 {
  ACCEL_INLINE static VectorF32 of(VectorF32 x) { return round_f16(x); }
};
struct Same {
  template <class V>
  ACCEL_INLINE static V of(V x) {
    return x;
  }
};

// Through memory's type and back.
template <class Element, class Memory>
void each_rounded(const Instruction& instruction, Frame& frame) {
  const Element* a = in<Element>(frame, instruction.a);
  Element* result = out<Element>(frame, instruction.dst);
  const int n = frame.padded & -vector::kTilePadding;
  for (int i = 0; i < n; ++i) {
    result[i] = static_cast<Element>(value_of(CastTo<Memory>::from(a[i])));
  }
}

// A dtype that the lane holds as it is leaves the value alone.
void round_f32(const Instruction& instruction, Frame& frame) {
  switch (instruction.dtype) {
    case DType::BFloat16:
      return unary<float, ToBFloat16>(instruction, frame);
    case DType::Float16:
      return unary<float, ToFloat16>(instruction, frame);
    case DType::Float8E5M2:
      return each_rounded<float, Float8E5M2>(instruction, frame);
    case DType::Float8E4M3FN:
      return each_rounded<float, Float8E4M3FN>(instruction, frame);
    default:
      return unary<float, Same>(instruction, frame);
  }
}

void round_f64(const Instruction& instruction, Frame& frame) {
  switch (instruction.dtype) {
    case DType::Float32:
      return each_rounded<double, float>(instruction, frame);
    case DType::BFloat16:
      return each_rounded<double, BFloat16>(instruction, frame);
    case DType::Float16:
      return each_rounded<double, Float16>(instruction, frame);
    default:
      return unary<double, Same>(instruction, frame);
  }
}

void round_i64(const Instruction& instruction, Frame& frame) {
  switch (instruction.dtype) {
    case DType::UInt8:
      return each_rounded<int64_t, uint8_t>(instruction, frame);
    case DType::Int8:
      return each_rounded<int64_t, int8_t>(instruction, frame);
    case DType::Int16:
      return each_rounded<int64_t, int16_t>(instruction, frame);
    case DType::Int32:
      return each_rounded<int64_t, int32_t>(instruction, frame);
    case DType::Bool:
      return each_rounded<int64_t, BoolByte>(instruction, frame);
    default:
      return unary<int64_t, Same>(instruction, frame);
  }
}

}  // namespace

void add_convert_kernels(Engine& engine) {
  engine.set(Op::Convert, Lane::F32, convert_to<Lane::F32>);
  engine.set(Op::Convert, Lane::F64, convert_to<Lane::F64>);
  engine.set(Op::Convert, Lane::I64, convert_to<Lane::I64>);
  engine.set(Op::Convert, Lane::Bool, convert_to<Lane::Bool>);
  engine.set(Op::Round, Lane::F32, round_f32);
  engine.set(Op::Round, Lane::F64, round_f64);
  engine.set(Op::Round, Lane::I64, round_i64);
  engine.set(Op::Round, Lane::Bool, unary<uint8_t, Same>);
}

}  // namespace accel::kernels::ACCEL_ISA
