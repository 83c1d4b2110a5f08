// The small floating-point formats, rounded as PyTorch's casts on the CPU round: to nearest, ties
// to even, NaN stays NaN. For *.simd.cpp files.
#pragma once

#include "kernels/common/simd.h"

namespace accel::kernels::ACCEL_ISA {

using HalfU16 = uint16_t __attribute__((vector_size(kVectorBytes / 2)));

ACCEL_INLINE uint32_t float_bits(float x) { return __builtin_bit_cast(uint32_t, x); }
ACCEL_INLINE float bits_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }

// --- bfloat16 ---

ACCEL_INLINE float bf16_to_f32(uint16_t x) { return bits_float(static_cast<uint32_t>(x) << 16); }

ACCEL_INLINE uint16_t f32_to_bf16(float x) {
  const uint32_t bits = float_bits(x);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return static_cast<uint16_t>(x == x ? rounded : 0x7fc0);
}

ACCEL_INLINE VectorF32 load_bf16(const void* address) {
#if defined(__AVX512F__)
  // From vector types g++ 12 makes two halves that it joins: five instructions instead of two.
  const __m512i wide =
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(address)));
  return (VectorF32)_mm512_slli_epi32(wide, 16);
#else
  return (VectorF32)(__builtin_convertvector(load<HalfU16>(address), VectorU32) << 16);
#endif
}

namespace detail {
ACCEL_INLINE VectorU32 bf16_bits(VectorF32 x) {
  const VectorU32 bits = (VectorU32)x;
  const VectorU32 rounded = bits + 0x7fff + (bits >> 16 & 1);
  return x == x ? rounded : splat<VectorU32>(0x7fc00000u);
}
}  // namespace detail

// Values that are bfloat16 ones already.
ACCEL_INLINE void store_upper_halves(void* address, VectorF32 x) {
#if defined(__AVX512BW__)
  // The upper words without a shift first.
  const __m512i upper = _mm512_set_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 31, 29, 27,
                                         25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  const __m512i words = _mm512_permutexvar_epi16(upper, (__m512i)x);
  _mm256_storeu_si256(static_cast<__m256i*>(address), _mm512_castsi512_si256(words));
#else
  store(address, __builtin_convertvector((VectorU32)x >> 16, HalfU16));
#endif
}

ACCEL_INLINE void store_bf16(void* address, VectorF32 x) {
  store_upper_halves(address, (VectorF32)detail::bf16_bits(x));
}

// x rounded to bfloat16 and widened again.
ACCEL_INLINE VectorF32 round_bf16(VectorF32 x) {
  return (VectorF32)(detail::bf16_bits(x) & 0xffff0000u);
}

// --- IEEE half ---

ACCEL_INLINE float f16_to_f32(uint16_t x) {
#if defined(__F16C__)
  return _cvtsh_ss(x);
#else
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000) << 16;
  const uint32_t magnitude = x & 0x7fff;
  if (magnitude >= 0x7c00) return bits_float(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  // Shifted into place, the exponent is too small by 112; the product is exact, denormals included.
  const float value = bits_float(magnitude << 13) * 5.19229686e+33f;  // 2^112
  return bits_float(float_bits(value) | sign);
#endif
}

ACCEL_INLINE uint16_t f32_to_f16(float x) {
#if defined(__F16C__)
  return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
#else
  const uint32_t bits = float_bits(x);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);  // 65536 and above
  if (magnitude <
      0x38800000) {  // below 2^-14: adding 1/2 leaves multiples of 2^-24 in the low bits
    return static_cast<uint16_t>(sign | (float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000));
  }
  // A carry out of the mantissa moves the exponent, up to infinity, as it should.
  const uint32_t rounded = magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | rounded >> 13);
#endif
}

ACCEL_INLINE VectorF32 load_f16(const void* address) {
#if defined(__AVX512F__)
  return (VectorF32)_mm512_cvtph_ps((__m256i)load<HalfU16>(address));
#elif defined(__F16C__)
  return (VectorF32)_mm256_cvtph_ps((__m128i)load<HalfU16>(address));
#else
  const HalfU16 half = load<HalfU16>(address);
  VectorF32 wide;
  for (int i = 0; i < kLanes32; ++i) wide[i] = f16_to_f32(half[i]);
  return wide;
#endif
}

ACCEL_INLINE void store_f16(void* address, VectorF32 x) {
#if defined(__AVX512F__)
  store(address, (HalfU16)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  store(address, (HalfU16)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#else
  HalfU16 half;
  for (int i = 0; i < kLanes32; ++i) half[i] = f32_to_f16(x[i]);
  store(address, half);
#endif
}

// x rounded to IEEE half and widened again.
ACCEL_INLINE VectorF32 round_f16(VectorF32 x) {
#if defined(__AVX512F__)
  return (VectorF32)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  return (VectorF32)_mm256_cvtph_ps(_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes32; ++i) x[i] = f16_to_f32(f32_to_f16(x[i]));
  return x;
#endif
}

// --- 8 bits ---

// E5M2 is the upper byte of an IEEE half.
ACCEL_INLINE float e5m2_to_f32(uint8_t x) { return f16_to_f32(static_cast<uint16_t>(x << 8)); }

ACCEL_INLINE uint8_t f32_to_e5m2(float x) {
  const uint32_t bits = float_bits(x);
  const uint32_t sign = bits >> 24 & 0x80;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint8_t>(sign | 0x7f);
  if (magnitude >= 0x47800000) return static_cast<uint8_t>(sign | 0x7c);  // 65536 and above
  if (magnitude < 0x38800000) {  // below 2^-14: adding 128 leaves multiples of 2^-16
    return static_cast<uint8_t>(sign | (float_bits(bits_float(magnitude) + 128.0f) - 0x43000000));
  }
  const uint32_t rounded = magnitude - (112u << 23) + 0xfffff + (magnitude >> 21 & 1);
  return static_cast<uint8_t>(sign | rounded >> 21);
}

// E4M3FN has no infinity: all ones is NaN, and what lies above 448 becomes 448, as in PyTorch.
ACCEL_INLINE float e4m3fn_to_f32(uint8_t x) {
  const uint32_t sign = static_cast<uint32_t>(x & 0x80) << 24;
  const uint32_t magnitude = x & 0x7f;
  if (magnitude == 0x7f) return bits_float(sign | 0x7fc00000);
  const float value = bits_float(magnitude << 20) * 1.32922800e+36f;  // 2^120
  return bits_float(float_bits(value) | sign);
}

ACCEL_INLINE uint8_t f32_to_e4m3fn(float x) {
  const uint32_t bits = float_bits(x);
  const uint32_t sign = bits >> 24 & 0x80;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint8_t>(sign | 0x7f);
  if (magnitude >= 0x43e00000) return static_cast<uint8_t>(sign | 0x7e);  // 448 and above
  if (magnitude < 0x3c800000) {  // below 2^-6: adding 16384 leaves multiples of 2^-9
    return static_cast<uint8_t>(sign | (float_bits(bits_float(magnitude) + 16384.0f) - 0x46800000));
  }
  const uint32_t rounded = magnitude - (120u << 23) + 0x7ffff + (magnitude >> 20 & 1);
  return static_cast<uint8_t>(sign | rounded >> 20);
}

}  // namespace accel::kernels::ACCEL_ISA
