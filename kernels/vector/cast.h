// Value conversions between memory's dtypes and the lanes of registers, as PyTorch's CPU casts do
// them. Included by the *.simd.cpp files of this folder only.
#pragma once

#include "kernels/common/elements.h"
#include "kernels/vector/kernel.h"

namespace accel::kernels::ACCEL_ISA {

// Further dtypes in memory, see elements.h.
struct Float8E5M2 {
  uint8_t bits;
};
struct Float8E4M3FN {
  uint8_t bits;
};
struct BoolByte {
  uint8_t value;  // any byte but 0 is true
};
// A bfloat16 that only takes F32 values which are one.
struct RoundedBFloat16 {
  uint16_t bits;
};
ACCEL_INLINE void store_narrow(RoundedBFloat16* to, VectorF32 x) { store_upper_halves(to, x); }

template <class T>
inline constexpr bool kIsReal = false;
template <>
inline constexpr bool kIsReal<float> = true;
template <>
inline constexpr bool kIsReal<double> = true;

// The value as a type of C++: float for the small formats.
template <class T>
ACCEL_INLINE T value_of(T x) {
  return x;
}
ACCEL_INLINE float value_of(BFloat16 x) { return widen(x); }
ACCEL_INLINE float value_of(Float16 x) { return widen(x); }
ACCEL_INLINE float value_of(Float8E5M2 x) { return e5m2_to_f32(x.bits); }
ACCEL_INLINE float value_of(Float8E4M3FN x) { return e4m3fn_to_f32(x.bits); }
ACCEL_INLINE uint8_t value_of(BoolByte x) { return x.value != 0; }

// From a value of C++ to what memory holds. Floats become integers by truncation, through int32
// (uint8, int64: through int64): out of range that gives what the processor gives, as in PyTorch.
template <class To>
struct CastTo {
  template <class From>
  ACCEL_INLINE static To from(From x) {
    if constexpr (kIsReal<From> && sizeof(To) <= 4 && !kIsReal<To>) {
      return static_cast<To>(static_cast<int32_t>(x));
    } else {
      return static_cast<To>(x);
    }
  }
};
template <>
struct CastTo<uint8_t> {
  template <class From>
  ACCEL_INLINE static uint8_t from(From x) {
    return static_cast<uint8_t>(static_cast<int64_t>(x));
  }
};
template <>
struct CastTo<BoolByte> {
  template <class From>
  ACCEL_INLINE static BoolByte from(From x) {
    return {static_cast<uint8_t>(x != From{})};
  }
};
template <>
struct CastTo<BFloat16> {
  template <class From>
  ACCEL_INLINE static BFloat16 from(From x) {
    return {f32_to_bf16(static_cast<float>(x))};
  }
};
template <>
struct CastTo<RoundedBFloat16> {
  ACCEL_INLINE static RoundedBFloat16 from(float x) {
    return {static_cast<uint16_t>(float_bits(x) >> 16)};
  }
};
template <>
struct CastTo<Float16> {
  template <class From>
  ACCEL_INLINE static Float16 from(From x) {
    return {f32_to_f16(static_cast<float>(x))};
  }
};
template <>
struct CastTo<Float8E5M2> {
  template <class From>
  ACCEL_INLINE static Float8E5M2 from(From x) {
    return {f32_to_e5m2(static_cast<float>(x))};
  }
};
template <>
struct CastTo<Float8E4M3FN> {
  template <class From>
  ACCEL_INLINE static Float8E4M3FN from(From x) {
    return {f32_to_e4m3fn(static_cast<float>(x))};
  }
};

// What a register holds.
template <Lane lane>
struct LaneElement;
template <>
struct LaneElement<Lane::F32> {
  using Type = float;
};
template <>
struct LaneElement<Lane::F64> {
  using Type = double;
};
template <>
struct LaneElement<Lane::I64> {
  using Type = int64_t;
};
template <>
struct LaneElement<Lane::Bool> {
  using Type = uint8_t;  // 0 or 1
};
template <Lane lane>
using ElementOf = typename LaneElement<lane>::Type;

template <Lane lane, class From>
ACCEL_INLINE ElementOf<lane> to_lane(From x) {
  if constexpr (lane == Lane::Bool) {
    return CastTo<BoolByte>::from(value_of(x)).value;
  } else {
    return static_cast<ElementOf<lane>>(value_of(x));
  }
}

}  // namespace accel::kernels::ACCEL_ISA
