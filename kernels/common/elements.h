// Elements of the floating dtypes in memory, and the types that they are computed with: what a
// kernel that is a template over its element type needs. For *.simd.cpp files.
#pragma once

#include "kernels/common/convert.h"
#include "kernels/common/dtype.h"

namespace accel::kernels::ACCEL_ISA {

// Types that C++ lacks are wrapped, so that each dtype has its own.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// One element.
ACCEL_INLINE float widen(float x) { return x; }
ACCEL_INLINE double widen(double x) { return x; }
ACCEL_INLINE float widen(BFloat16 x) { return bf16_to_f32(x.bits); }
ACCEL_INLINE float widen(Float16 x) { return f16_to_f32(x.bits); }
ACCEL_INLINE void narrow(float* to, float x) { *to = x; }
ACCEL_INLINE void narrow(double* to, double x) { *to = x; }
ACCEL_INLINE void narrow(BFloat16* to, float x) { to->bits = f32_to_bf16(x); }
ACCEL_INLINE void narrow(Float16* to, float x) { to->bits = f32_to_f16(x); }

// The type that an element is computed with.
template <class Element>
using RealOf = decltype(widen(Element{}));

// A vector of elements, at any alignment.
ACCEL_INLINE VectorF32 load_wide(const float* from) { return load<VectorF32>(from); }
ACCEL_INLINE VectorF64 load_wide(const double* from) { return load<VectorF64>(from); }
ACCEL_INLINE VectorF32 load_wide(const BFloat16* from) { return load_bf16(from); }
ACCEL_INLINE VectorF32 load_wide(const Float16* from) { return load_f16(from); }
ACCEL_INLINE void store_narrow(float* to, VectorF32 x) { store(to, x); }
ACCEL_INLINE void store_narrow(double* to, VectorF64 x) { store(to, x); }
ACCEL_INLINE void store_narrow(BFloat16* to, VectorF32 x) { store_bf16(to, x); }
ACCEL_INLINE void store_narrow(Float16* to, VectorF32 x) { store_f16(to, x); }

// Calls body(Element{}) with the element type of a floating dtype.
template <class Body>
void with_floating(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::Float64:
      return body(double{});
    case DType::BFloat16:
      return body(BFloat16{});
    case DType::Float16:
      return body(Float16{});
    default:
      return body(float{});
  }
}

}  // namespace accel::kernels::ACCEL_ISA
