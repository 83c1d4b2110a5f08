// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), the
// generator of every random number on the device. For *.simd.cpp files.
//
// Element i of a tensor takes word i % 4 of the block with counter (offset + i / 4) and key seed,
// so a number depends on its position alone. A double's 53 bits need a second word: the same word
// of the block whose counter has 1 in its upper 64 bits.
#pragma once

#include "kernels/common/simd.h"

namespace accel::kernels::ACCEL_ISA {

namespace detail {
inline constexpr uint32_t kPhiloxM0 = 0xD2511F53, kPhiloxM1 = 0xCD9E8D57;
inline constexpr uint32_t kPhiloxW0 = 0x9E3779B9, kPhiloxW1 = 0xBB67AE85;
inline constexpr int kPhiloxRounds = 10;
}  // namespace detail

struct PhiloxBlock {
  uint32_t word[4];
};

ACCEL_INLINE PhiloxBlock philox_block(uint64_t seed, uint64_t counter, uint64_t counter_high = 0) {
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32);
  uint32_t c2 = static_cast<uint32_t>(counter_high);
  uint32_t c3 = static_cast<uint32_t>(counter_high >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < detail::kPhiloxRounds; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(detail::kPhiloxM0) * c0;
    const uint64_t p1 = static_cast<uint64_t>(detail::kPhiloxM1) * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += detail::kPhiloxW0;
    k1 += detail::kPhiloxW1;
  }
  return {{c0, c1, c2, c3}};
}

ACCEL_INLINE uint32_t random_word(uint64_t seed, uint64_t offset, uint64_t linear_index) {
  return philox_block(seed, offset + linear_index / 4).word[linear_index % 4];
}

// 24 bits: in [0, 1).
ACCEL_INLINE float uniform_of(uint32_t word) {
  return static_cast<float>(static_cast<int32_t>(word >> 8)) * 5.96046448e-8f;  // 2^-24
}
ACCEL_INLINE VectorF32 uniform_of(VectorU32 word) {
  return __builtin_convertvector((VectorI32)(word >> 8), VectorF32) * 5.96046448e-8f;
}
// 53 bits: in [0, 1).
ACCEL_INLINE double uniform_of(uint32_t high, uint32_t low) {
  const uint64_t bits = (static_cast<uint64_t>(high) << 32 | low) >> 11;
  return static_cast<double>(static_cast<int64_t>(bits)) * 1.1102230246251565e-16;  // 2^-53
}

ACCEL_INLINE float uniform(uint64_t seed, uint64_t offset, uint64_t linear_index) {
  return uniform_of(random_word(seed, offset, linear_index));
}

namespace detail {

// The product of the low halves of the 64-bit elements.
ACCEL_INLINE VectorU64 multiply_low_halves(VectorU64 a, VectorU64 b) {
#if defined(__AVX512F__)
  return (VectorU64)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (VectorU64)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__x86_64__)
  return (VectorU64)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

// Interleaves the 64-bit elements of two vectors into memory: a[0] b[0] a[1] b[1] ...
ACCEL_INLINE void store_interleaved(uint32_t* out, VectorU64 a, VectorU64 b) {
#if defined(__AVX512F__)
  const VectorU64 low{0, 8, 1, 9, 2, 10, 3, 11}, high{4, 12, 5, 13, 6, 14, 7, 15};
#elif defined(__AVX2__)
  const VectorU64 low{0, 4, 1, 5}, high{2, 6, 3, 7};
#else
  const VectorU64 low{0, 2}, high{1, 3};
#endif
  store(out, __builtin_shuffle(a, b, low));
  store(out + kLanes32, __builtin_shuffle(a, b, high));
}

}  // namespace detail

// Words per call of random_words(): the blocks of two vectors of counters, whose rounds overlap
// (one alone waits for its own products: 118 against 89 ns for 256 numbers).
inline constexpr int kPhiloxStep = 8 * kLanes64;

// The kPhiloxStep words of the blocks counter, counter + 1, ... in order; counter_high is the upper
// half of all their counters.
ACCEL_INLINE void random_words(uint64_t seed, uint64_t counter, uint32_t counter_high,
                               uint32_t* out) {
  VectorU64 index;
  for (int i = 0; i < kLanes64; ++i) index[i] = static_cast<uint64_t>(i);
  // 32-bit words in the low halves; what the products leave in the high halves is never read by a
  // multiplication, and masked at the end.
  VectorU64 c0[2], c1[2], c2[2], c3[2];
  for (int v = 0; v < 2; ++v) {
    c0[v] = index + (counter + static_cast<uint64_t>(v * kLanes64));
    c1[v] = c0[v] >> 32;
    c2[v] = splat<VectorU64>(static_cast<uint64_t>(counter_high));
    c3[v] = VectorU64{};
  }
  const VectorU64 m0 = splat<VectorU64>(static_cast<uint64_t>(detail::kPhiloxM0));
  const VectorU64 m1 = splat<VectorU64>(static_cast<uint64_t>(detail::kPhiloxM1));
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < detail::kPhiloxRounds; ++round) {
    for (int v = 0; v < 2; ++v) {
      const VectorU64 p0 = detail::multiply_low_halves(c0[v], m0);
      const VectorU64 p1 = detail::multiply_low_halves(c2[v], m1);
      c0[v] = (p1 >> 32) ^ c1[v] ^ splat<VectorU64>(static_cast<uint64_t>(k0));
      c1[v] = p1;
      c2[v] = (p0 >> 32) ^ c3[v] ^ splat<VectorU64>(static_cast<uint64_t>(k1));
      c3[v] = p0;
    }
    k0 += detail::kPhiloxW0;
    k1 += detail::kPhiloxW1;
  }
  for (int v = 0; v < 2; ++v) {
    const VectorU64 first = (c0[v] & 0xffffffffu) | c1[v] << 32;
    const VectorU64 second = (c2[v] & 0xffffffffu) | c3[v] << 32;
    detail::store_interleaved(out + v * 4 * kLanes64, first, second);
  }
}

namespace detail {
// Calls take(words, first, n, place): n words from words + first on belong to the elements from
// `place` on, of the n elements from linear_index on. n is kPhiloxStep, and first 0, wherever whole
// steps fit.
template <class Take>
ACCEL_INLINE void for_each_step(uint64_t seed, uint64_t offset, uint32_t counter_high,
                                uint64_t linear_index, int n, Take take) {
  alignas(64) uint32_t words[kPhiloxStep];
  uint64_t counter = offset + linear_index / 4;
  int first = static_cast<int>(linear_index % 4);
  for (int done = 0; done < n; counter += kPhiloxStep / 4) {
    random_words(seed, counter, counter_high, words);
    const int fit = n - done < kPhiloxStep - first ? n - done : kPhiloxStep - first;
    take(words, first, fit, done);
    done += fit;
    first = 0;
  }
}
}  // namespace detail

// out[i] = random_word(seed, offset, linear_index + i) for i in [0, n), or, with counter_high 1,
// the second word of those elements.
inline void random_span(uint64_t seed, uint64_t offset, uint64_t linear_index, int n, uint32_t* out,
                        uint32_t counter_high = 0) {
  detail::for_each_step(seed, offset, counter_high, linear_index, n,
                        [&](const uint32_t* words, int first, int fit, int place) {
                          std::memcpy(out + place, words + first, fit * sizeof(uint32_t));
                        });
}

// out[i] = uniform(seed, offset, linear_index + i) for i in [0, n).
inline void uniform_span(uint64_t seed, uint64_t offset, uint64_t linear_index, int n, float* out) {
  detail::for_each_step(seed, offset, 0, linear_index, n,
                        [&](const uint32_t* words, int first, int fit, int place) {
                          if (fit == kPhiloxStep) {
                            for (int i = 0; i < kPhiloxStep; i += kLanes32) {
                              store(out + place + i, uniform_of(load<VectorU32>(words + i)));
                            }
                            return;
                          }
                          for (int i = 0; i < fit; ++i) {
                            out[place + i] = uniform_of(words[first + i]);
                          }
                        });
}

}  // namespace accel::kernels::ACCEL_ISA
