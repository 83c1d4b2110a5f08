// How a 32-bit word of a packed panel is read from memory: as it is, or converted on the way.
// Included by the *.simd.cpp files of this folder: all of it lives in the namespace of the
// instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/matmul/convert.h"
#include "kernels/matmul/lanes.h"

namespace accel::kernels::ACCEL_ISA {

// kBytes: of a value in memory. one() reads one; the others read neighbours. With a mask they read
// those whose bit, or the first bit of whose word, is set, and zeros for the rest (eight() where
// kBytes is 4).

template <typename Step>
struct AsIs {
  static constexpr int kBytes = sizeof(Step);
  static ACCEL_INLINE Step one(const char* at) {
    Step value;
    std::memcpy(&value, at, sizeof(value));
    return value;
  }
#if defined(__AVX512F__)
  static ACCEL_INLINE __m512i sixteen(const char* at, __mmask16 mask) {
    return _mm512_maskz_loadu_epi32(mask, at);
  }
#elif defined(__AVX2__)
  static ACCEL_INLINE __m256i eight(const char* at) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  }
  static ACCEL_INLINE __m256i eight(const char* at, __m256i mask) {
    return _mm256_maskload_epi32(reinterpret_cast<const int*>(at), mask);
  }
#endif
};

// bf16 as fp32.
struct WidenedBrain {
  static constexpr int kBytes = 2;
  static ACCEL_INLINE float one(const char* at) { return widen(AsIs<Brain>::one(at)); }
#if defined(__AVX512F__)
  static ACCEL_INLINE __m512i sixteen(const char* at, __mmask16 mask) {
    return _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, at)), 16);
  }
#elif defined(__AVX2__)
  static ACCEL_INLINE __m256i eight(const char* at) {
    const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    return _mm256_slli_epi32(_mm256_cvtepu16_epi32(values), 16);
  }
#endif
};

// fp16 as fp32.
struct WidenedHalf {
  static constexpr int kBytes = 2;
  static ACCEL_INLINE float one(const char* at) {
    return static_cast<float>(AsIs<_Float16>::one(at));
  }
#if defined(__AVX512F__)
  static ACCEL_INLINE __m512i sixteen(const char* at, __mmask16 mask) {
    return _mm512_castps_si512(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, at)));
  }
#elif defined(__AVX2__)
  static ACCEL_INLINE __m256i eight(const char* at) {
    const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    return _mm256_castps_si256(_mm256_cvtph_ps(values));
  }
#endif
};

// fp32 rounded to bf16, and that as fp32: an fp32 weight multiplied as bf16.
struct RoundedToBrain {
  static constexpr int kBytes = 4;
  static ACCEL_INLINE float one(const char* at) { return widen(to_brain(AsIs<float>::one(at))); }
#if defined(__AVX512F__) || defined(__AVX2__)
  typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
  static ACCEL_INLINE Bits round(Bits bits) {
    const Bits rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    return ((bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : rounded) & 0xffff0000u;
  }
#endif
#if defined(__AVX512F__)
  static ACCEL_INLINE __m512i sixteen(const char* at, __mmask16 mask) {
    return (__m512i)round((Bits)_mm512_maskz_loadu_epi32(mask, at));
  }
#elif defined(__AVX2__)
  template <typename... Mask>
  static ACCEL_INLINE __m256i eight(const char* at, Mask... mask) {
    return (__m256i)round((Bits)AsIs<uint32_t>::eight(at, mask...));
  }
#endif
};

// The same with fp16.
struct RoundedToHalf {
  static constexpr int kBytes = 4;
  static ACCEL_INLINE float one(const char* at) {
    return static_cast<float>(static_cast<_Float16>(AsIs<float>::one(at)));
  }
#if defined(__AVX512F__)
  static ACCEL_INLINE __m512i sixteen(const char* at, __mmask16 mask) {
    const __m512 values = _mm512_maskz_loadu_ps(mask, at);
    return _mm512_castps_si512(_mm512_cvtph_ps(_mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT)));
  }
#elif defined(__AVX2__)
  template <typename... Mask>
  static ACCEL_INLINE __m256i eight(const char* at, Mask... mask) {
    const __m256 values = _mm256_castsi256_ps(AsIs<uint32_t>::eight(at, mask...));
    return _mm256_castps_si256(_mm256_cvtph_ps(_mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT)));
  }
#endif
};

// Calls body(Read{}) with the way to read values of `dtype`, converted to `compute`, as fp32.
// False: there is none, or nothing to convert.
template <typename Body>
bool with_read(DType dtype, DType compute, Body&& body) {
  const bool exact = compute == DType::Float32 || compute == dtype;
  if (dtype == DType::BFloat16 && exact) {
    body(WidenedBrain{});
  } else if (dtype == DType::Float16 && exact) {
    body(WidenedHalf{});
  } else if (dtype == DType::Float32 && compute == DType::BFloat16) {
    body(RoundedToBrain{});
  } else if (dtype == DType::Float32 && compute == DType::Float16) {
    body(RoundedToHalf{});
  } else {
    return false;
  }
  return true;
}

}  // namespace accel::kernels::ACCEL_ISA
