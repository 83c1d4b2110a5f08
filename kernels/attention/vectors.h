// The operations on vectors that attention needs beside those of kernels/common.
// Included by *.simd.cpp files of kernels/attention only.
#pragma once

#include "kernels/common/convert.h"
#include "kernels/common/dtype.h"
#include "kernels/common/philox.h"
#include "kernels/common/simd.h"

namespace accel::kernels::ACCEL_ISA::attention {

// Not std::min and std::max: an out-of-line copy of theirs, compiled for this instruction set,
// could be the one the linker keeps for everyone.
template <class T>
constexpr T least(T a, T b) {
  return a < b ? a : b;
}
template <class T>
constexpr T greatest(T a, T b) {
  return a < b ? b : a;
}

template <class T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
ACCEL_INLINE Vector<T> load(const T* from) {
  return ACCEL_ISA::load<Vector<T>>(from);
}
template <class T>
ACCEL_INLINE Vector<T> broadcast(T value) {
  return splat<Vector<T>>(value);
}

// The larger; where b is NaN, b. One instruction, unlike maximum(), which looks at a too.
ACCEL_INLINE VectorF32 larger(VectorF32 a, VectorF32 b) {
#if defined(__AVX512F__)
  return (VectorF32)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (VectorF32)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}
ACCEL_INLINE VectorF64 larger(VectorF64 a, VectorF64 b) { return a > b ? a : b; }

// 2^x to 1.6 ulp, two thirds of the instructions of an exp() that serves everyone: x = n + f with f
// in [-0.5, 0.5], a minimax polynomial for 2^f (our own fit with 2^0 = 1 exactly, largest relative
// error 9.2e-8), scaled by 2^n. Underflows to 0; NaN stays NaN.
ACCEL_INLINE VectorF32 power_of_two(VectorF32 x) {
#if defined(__AVX512F__)
  x = larger(broadcast(-160.0f), x);
  const VectorF32 n = round_to<Rounding::Even>(x);
#else
  // Without VSCALEFPS 2^n is built from exponent bits, so results below 2^-126 are flushed to 0.
  const auto tiny = x < -126.0f;
  x = larger(broadcast(-126.0f), x);
  x = x > 127.0f ? broadcast(127.0f) : x;
  const VectorF32 shift = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const VectorF32 shifted = x + shift;
  const VectorF32 n = shifted - shift;
#endif
  const VectorF32 f = x - n;
  VectorF32 p = fma(broadcast(1.326472725e-03f), f, 9.671512786e-03f);
  p = fma(p, f, 5.550733744e-02f);
  p = fma(p, f, 2.402224208e-01f);
  p = fma(p, f, 6.931469776e-01f);
  p = fma(p, f, 1.0f);
#if defined(__AVX512F__)
  return (VectorF32)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  const VectorI32 exponent = ((VectorI32)shifted - (VectorI32)shift + 127) << 23;
  return tiny ? VectorF32{} : p * (VectorF32)exponent;
#endif
}
ACCEL_INLINE VectorF64 power_of_two(VectorF64 x) {
  for (int i = 0; i < kLanes64; ++i) x[i] = __builtin_exp2(x[i]);
  return x;
}

inline float natural_logarithm(float x) { return __builtin_logf(x); }
inline double natural_logarithm(double x) { return __builtin_log(x); }

template <class V>
ACCEL_INLINE auto sum_of_lanes(V x) {
  constexpr int kCount = sizeof(x) / sizeof(x[0]);
  for (int half = kCount / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) x[i] += x[i + half];
  }
  return x[0];
}

// Whether any lane of a comparison's result is set.
template <class V>
ACCEL_INLINE bool any_lane(V mask) {
  const VectorU64 words = (VectorU64)mask;
  uint64_t set = 0;
  for (int i = 0; i < kLanes64; ++i) set |= words[i];
  return set != 0;
}

// One stage of a transpose: rows i and i + kStep exchange runs of kStep lanes.
template <int kStep>
ACCEL_INLINE void exchange_runs(VectorU32* rows) {
  constexpr int kN = kLanes32;
  if constexpr (kStep > 0) {
    VectorI32 low, high;
#pragma GCC unroll 16
    for (int lane = 0; lane < kN; ++lane) {
      low[lane] = lane & kStep ? kN + (lane ^ kStep) : lane;
      high[lane] = lane & kStep ? kN + lane : lane ^ kStep;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kN; ++i) {
      if (i & kStep) continue;
      const VectorU32 a = rows[i], b = rows[i + kStep];
      rows[i] = __builtin_shuffle(a, b, low);
      rows[i + kStep] = __builtin_shuffle(a, b, high);
    }
    exchange_runs<kStep / 2>(rows);
  }
}

// Transposes a square of kLanes32 × kLanes32 elements in registers.
ACCEL_INLINE void transpose_square(VectorU32* rows) { exchange_runs<kLanes32 / 2>(rows); }

// bf16 rounding, left in the upper halves of 32-bit lanes. A NaN stays NaN because those that the
// processor makes have a mantissa that cannot overflow.
ACCEL_INLINE VectorU32 round_to_upper_halves(VectorF32 value) {
  const VectorU32 bits = (VectorU32)value;
  return (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
}
// The upper halves of 32-bit lanes, stored as contiguous bf16.
ACCEL_INLINE void store_upper_halves(uint16_t* to, VectorU32 bits) {
  ACCEL_ISA::store(to, __builtin_convertvector(bits >> 16, HalfU16));
}

}  // namespace accel::kernels::ACCEL_ISA::attention
