// Vector registers and the one step of a product on them, included by the *.simd.cpp files of this
// folder: all of it lives in the namespace of the instruction set.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/matmul/convert.h"

namespace accel::kernels::ACCEL_ISA {

#define ACCEL_INLINE inline __attribute__((always_inline))

// Bytes of a vector register, and rows of A whose sums stay in registers: with two vectors of
// columns, 14 rows take 28 of 32 registers (AVX-512), 6 rows take 12 of 16.
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kRows = 14, kRowPitch = 16;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kRows = 6, kRowPitch = 8;
#else
constexpr int kVectorBytes = 16, kRows = 6, kRowPitch = 8;
#endif
constexpr int kColumnVectors = 2;

// A vector type, how one step of k enters the sums, and how packed memory is counted in steps.
struct Float32Lanes {
  using Packed = float;
  using Step = float;
  using Sum = float;
  typedef float Vector __attribute__((vector_size(kVectorBytes)));
  static constexpr DType kPacked = DType::Float32, kSum = DType::Float32;
  static constexpr bool kReadsRows = true, kRounds = false;
  // A panel of B (32 columns of 256, or 16 of 384: 32 and 24 KiB) stays in the first level cache
  // while panels of A pass.
  static constexpr int kGroup = 1, kBlock = kVectorBytes == 32 ? 384 : 256;
  static ACCEL_INLINE Vector multiply_add(Vector a, Vector b, Vector sum) {
#if defined(__AVX512F__)
    return (Vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__AVX2__)
    return (Vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#else
    return sum + a * b;
#endif
  }
};

struct Float64Lanes {
  using Packed = double;
  using Step = double;
  using Sum = double;
  typedef double Vector __attribute__((vector_size(kVectorBytes)));
  static constexpr DType kPacked = DType::Float64, kSum = DType::Float64;
  static constexpr bool kReadsRows = false, kRounds = false;
  static constexpr int kGroup = 1, kBlock = 256;
  static ACCEL_INLINE Vector multiply_add(Vector a, Vector b, Vector sum) {
#if defined(__AVX512F__)
    return (Vector)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)sum);
#elif defined(__AVX2__)
    return (Vector)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)sum);
#else
    return sum + a * b;
#endif
  }
};

// Unsigned, because sums wrap.
struct Int64Lanes {
  using Packed = int64_t;
  using Step = uint64_t;
  using Sum = uint64_t;
  typedef uint64_t Vector __attribute__((vector_size(kVectorBytes)));
  static constexpr DType kPacked = DType::Int64, kSum = DType::Int64;
  static constexpr bool kReadsRows = false, kRounds = false;
  static constexpr int kGroup = 1, kBlock = 256;
  static ACCEL_INLINE Vector multiply_add(Vector a, Vector b, Vector sum) { return sum + a * b; }
};

// Two values of k a step, as VDPBF16PS and brgemm want them. 16-bit values are packed alike, so
// Half differs by its conversion only.
template <typename Value>
struct PairLanes {
  using Packed = Value;
  using Step = uint32_t;
  using Sum = float;
  typedef float Vector __attribute__((vector_size(kVectorBytes)));
  static constexpr DType kPacked = __is_same(Value, Brain) ? DType::BFloat16 : DType::Float16;
  static constexpr DType kSum = DType::Float32;
  static constexpr bool kReadsRows = true, kRounds = true;
  static constexpr int kGroup = 2, kBlock = 512;
#if defined(__AVX512F__)
  typedef uint32_t Pairs __attribute__((vector_size(kVectorBytes)));
  // In assembly so that this file needs no AVX512-BF16 flag, with which the compiler could use such
  // instructions in its other functions.
  static ACCEL_INLINE Vector multiply_add(Pairs a, Pairs b, Vector sum) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }
  // Two vectors of sums to bf16, to nearest even; numbers below the normal range become zero, as
  // they do in the products.
  static ACCEL_INLINE Pairs round(Vector first, Vector second) {
    Pairs result;
    asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(result) : "v"(first), "v"(second));
    return result;
  }
  // The same, kept in fp32.
  static ACCEL_INLINE Vector rounded(Vector sums) {
    __m256i result;
    asm("vcvtneps2bf16 %1, %0" : "=v"(result) : "v"(sums));
    return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(result), 16);
  }
#endif
};

}  // namespace accel::kernels::ACCEL_ISA
