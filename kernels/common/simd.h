// The vector types of the instruction set being compiled, and the few operations that operators of
// the compiler's vector extension do not spell. Included by *.simd.cpp files and by the headers
// they share (math.h, convert.h, philox.h); all of it lives in the variant's own namespace.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
// g++ 12 takes the deliberately undefined operand inside its own AVX-512 intrinsics for a mistake.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#define ACCEL_INLINE [[gnu::always_inline]] inline

namespace accel::kernels::ACCEL_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

// Operators (+ - * / & | ^ << >> == < ?:) work element by element. A comparison yields a vector of
// integers of the same width: -1 where it holds, 0 elsewhere.
using VectorF32 = float __attribute__((vector_size(kVectorBytes)));
using VectorF64 = double __attribute__((vector_size(kVectorBytes)));
using VectorI32 = int32_t __attribute__((vector_size(kVectorBytes)));
using VectorU32 = uint32_t __attribute__((vector_size(kVectorBytes)));
using VectorI64 = int64_t __attribute__((vector_size(kVectorBytes)));
using VectorU64 = uint64_t __attribute__((vector_size(kVectorBytes)));
using VectorU8 = uint8_t __attribute__((vector_size(kVectorBytes)));
// As many bytes as VectorF32 has elements: how comparisons of F32 are stored.
using QuarterU8 = uint8_t __attribute__((vector_size(kVectorBytes / 4)));

inline constexpr int kLanes32 = kVectorBytes / 4;
inline constexpr int kLanes64 = kVectorBytes / 8;

namespace detail {
template <class Element>
struct VectorOf;
template <>
struct VectorOf<float> {
  using Type = VectorF32;
};
template <>
struct VectorOf<double> {
  using Type = VectorF64;
};
template <>
struct VectorOf<int32_t> {
  using Type = VectorI32;
};
template <>
struct VectorOf<uint32_t> {
  using Type = VectorU32;
};
template <>
struct VectorOf<int64_t> {
  using Type = VectorI64;
};
template <>
struct VectorOf<uint64_t> {
  using Type = VectorU64;
};
template <>
struct VectorOf<uint8_t> {
  using Type = VectorU8;
};
}  // namespace detail

template <class Element>
using Vector = typename detail::VectorOf<Element>::Type;

// Memory, at any alignment.
template <class V>
ACCEL_INLINE V load(const void* address) {
  V value;
  std::memcpy(&value, address, sizeof(V));
  return value;
}

template <class V>
ACCEL_INLINE void store(void* address, V value) {
  std::memcpy(address, &value, sizeof(V));
}

template <class V, class Element>
ACCEL_INLINE V splat(Element value) {
  return value - V{};
}
template <>
ACCEL_INLINE VectorF32 splat<VectorF32, float>(float value) {
#if defined(__AVX512F__)
  return (VectorF32)_mm512_set1_ps(value);
#elif defined(__AVX2__)
  return (VectorF32)_mm256_set1_ps(value);
#else
  return VectorF32{value, value, value, value};
#endif
}
template <>
ACCEL_INLINE VectorF64 splat<VectorF64, double>(double value) {
#if defined(__AVX512F__)
  return (VectorF64)_mm512_set1_pd(value);
#elif defined(__AVX2__)
  return (VectorF64)_mm256_set1_pd(value);
#else
  return VectorF64{value, value};
#endif
}

// As many bytes as VectorF32 has elements, as integers of its width: what g++ 12 makes of
// __builtin_convertvector takes six times as long.
ACCEL_INLINE VectorI32 widen_bytes(const void* address) {
#if defined(__AVX512F__)
  return (VectorI32)_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(address)));
#elif defined(__AVX2__)
  return (VectorI32)_mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(address)));
#else
  return __builtin_convertvector(load<QuarterU8>(address), VectorI32);
#endif
}

ACCEL_INLINE VectorI32 bits_of(VectorF32 x) { return (VectorI32)x; }
ACCEL_INLINE VectorI64 bits_of(VectorF64 x) { return (VectorI64)x; }
ACCEL_INLINE VectorF32 float_of(VectorI32 bits) { return (VectorF32)bits; }

// a * b + c, rounded once where the instruction set has it (avx2, avx512), twice elsewhere.
ACCEL_INLINE VectorF32 fma(VectorF32 a, VectorF32 b, VectorF32 c) {
#if defined(__AVX512F__)
  return (VectorF32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (VectorF32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}
ACCEL_INLINE VectorF32 fma(VectorF32 a, float b, VectorF32 c) {
  return fma(a, splat<VectorF32>(b), c);
}
ACCEL_INLINE VectorF32 fma(VectorF32 a, VectorF32 b, float c) {
  return fma(a, b, splat<VectorF32>(c));
}
ACCEL_INLINE VectorF32 fma(VectorF32 a, float b, float c) {
  return fma(a, splat<VectorF32>(b), splat<VectorF32>(c));
}
ACCEL_INLINE VectorF64 fma(VectorF64 a, VectorF64 b, VectorF64 c) {
#if defined(__AVX512F__)
  return (VectorF64)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
  return (VectorF64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}

ACCEL_INLINE VectorF32 sqrt(VectorF32 x) {
#if defined(__AVX512F__)
  return (VectorF32)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (VectorF32)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < kLanes32; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}
ACCEL_INLINE VectorF64 sqrt(VectorF64 x) {
#if defined(__AVX512F__)
  return (VectorF64)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX2__)
  return (VectorF64)_mm256_sqrt_pd((__m256d)x);
#else
  for (int i = 0; i < kLanes64; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
#endif
}

ACCEL_INLINE VectorF32 abs(VectorF32 x) { return (VectorF32)((VectorI32)x & 0x7fffffff); }
ACCEL_INLINE VectorF64 abs(VectorF64 x) {
  return (VectorF64)((VectorI64)x & INT64_C(0x7fffffffffffffff));
}

// The magnitude of the first with the sign of the second.
ACCEL_INLINE VectorF32 copy_sign(VectorF32 magnitude, VectorF32 sign) {
  constexpr int32_t kSign = INT32_MIN;
  return (VectorF32)(((VectorI32)magnitude & ~kSign) | ((VectorI32)sign & kSign));
}
ACCEL_INLINE VectorF64 copy_sign(VectorF64 magnitude, VectorF64 sign) {
  constexpr int64_t kSign = INT64_MIN;
  return (VectorF64)(((VectorI64)magnitude & ~kSign) | ((VectorI64)sign & kSign));
}

// To an integer value: to even, down, up, towards zero.
enum class Rounding { Even = 0, Down = 1, Up = 2, Zero = 3 };

template <Rounding mode>
ACCEL_INLINE VectorF32 round_to(VectorF32 x) {
#if defined(__AVX512F__)
  return (VectorF32)_mm512_roundscale_ps((__m512)x, static_cast<int>(mode) | 8);
#elif defined(__AVX2__)
  return (VectorF32)_mm256_round_ps((__m256)x, static_cast<int>(mode) | 8);
#else
  for (int i = 0; i < kLanes32; ++i) {
    x[i] = mode == Rounding::Even   ? __builtin_nearbyintf(x[i])
           : mode == Rounding::Down ? __builtin_floorf(x[i])
           : mode == Rounding::Up   ? __builtin_ceilf(x[i])
                                    : __builtin_truncf(x[i]);
  }
  return x;
#endif
}
template <Rounding mode>
ACCEL_INLINE VectorF64 round_to(VectorF64 x) {
#if defined(__AVX512F__)
  return (VectorF64)_mm512_roundscale_pd((__m512d)x, static_cast<int>(mode) | 8);
#elif defined(__AVX2__)
  return (VectorF64)_mm256_round_pd((__m256d)x, static_cast<int>(mode) | 8);
#else
  for (int i = 0; i < kLanes64; ++i) {
    x[i] = mode == Rounding::Even   ? __builtin_nearbyint(x[i])
           : mode == Rounding::Down ? __builtin_floor(x[i])
           : mode == Rounding::Up   ? __builtin_ceil(x[i])
                                    : __builtin_trunc(x[i]);
  }
  return x;
#endif
}

// The larger and the smaller; NaN if either is NaN; the first of equals.
template <class V>
ACCEL_INLINE V maximum(V a, V b) {
  const V larger = a < b ? b : a;  // a if either is NaN
  return b == b ? larger : b;
}
template <class V>
ACCEL_INLINE V minimum(V a, V b) {
  const V smaller = b < a ? b : a;
  return b == b ? smaller : b;
}

template <class V>
ACCEL_INLINE bool any(V mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
  const VectorU64 words = (VectorU64)mask;
  return (words[0] | words[1]) != 0;
#endif
}

// Transposes kN rows of kN elements: row i and row i + kN / 2, element by element in turn, become
// rows 2i and 2i + 1, log2(kN) times.
template <int kN, class Row>
ACCEL_INLINE void transpose_rows(Row* rows) {
  decltype(*rows == *rows) low, high;  // integers of the elements' size: indices into two rows
#pragma GCC unroll 16
  for (int lane = 0; lane < kN; ++lane) {
    low[lane] = lane / 2 + (lane & 1) * kN;
    high[lane] = kN / 2 + lane / 2 + (lane & 1) * kN;
  }
#pragma GCC unroll 4
  for (int done = 1; done < kN; done *= 2) {
    Row next[kN];
#pragma GCC unroll 16
    for (int i = 0; i < kN / 2; ++i) {
      next[2 * i] = __builtin_shuffle(rows[i], rows[i + kN / 2], low);
      next[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + kN / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kN; ++i) rows[i] = next[i];
  }
}

// The sum and the maximum of all elements, by halves: x[i] with x[i + lanes / 2], and so on down.
ACCEL_INLINE float sum_of(VectorF32 x) {
  float lane[kLanes32];
  store(lane, x);
  for (int half = kLanes32 / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}
ACCEL_INLINE float maximum_of(VectorF32 x) {
  float lane[kLanes32];
  store(lane, x);
  for (int half = kLanes32 / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      lane[i] = lane[i] > lane[i + half] || lane[i] != lane[i] ? lane[i] : lane[i + half];
    }
  }
  return lane[0];
}

}  // namespace accel::kernels::ACCEL_ISA
