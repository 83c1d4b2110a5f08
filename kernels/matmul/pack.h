// Packing of panels, included by engine.simd.cpp: all of it lives in the namespace of the
// instruction set. Ends all strides, transposes and dtype conversions; never reads beyond the lanes
// and k it is given.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/matmul/convert.h"
#include "kernels/matmul/engine.h"
#include "kernels/matmul/lanes.h"
#include "kernels/matmul/words.h"

namespace accel::kernels::ACCEL_ISA {

// A packed panel is [steps][Width] of Step. Lanes beyond the last one hold zeros or copies: what
// they multiply is never stored.

template <int Width, typename Read, typename Step>
void place_k_scalar(const char* source, int64_t lane_bytes, int lanes, int64_t first, int64_t steps,
                    Step* packed, int64_t pitch) {
  for (int lane = 0; lane < Width; ++lane) {
    const char* line = source + (lane < lanes ? lane : lanes - 1) * lane_bytes;
    for (int64_t step = first; step < steps; ++step) {
      packed[step * pitch + lane] = Read::one(line + step * Read::kBytes);
    }
  }
}

// Values of one lane are contiguous along k. `pitch` steps lie between one step of k and the next.
template <int Width, typename Read, typename Step>
void place_k(const char* source, int64_t lane_bytes, int lanes, int64_t steps, Step* packed,
             int64_t pitch = Width) {
  int64_t done = 0;
#if defined(__AVX512F__)
  // 16 × 16 words through registers. Each line of the source is touched once: rows that are a
  // multiple of 4096 bytes apart share a set of the first level cache, which has fewer ways.
  if constexpr (sizeof(Step) == 4 && Width % 16 == 0) {
    for (; done < steps; done += 16) {
      const int count = steps - done < 16 ? static_cast<int>(steps - done) : 16;
      const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1);
      for (int first = 0; first < Width; first += 16) {
        __m512i r[16], t[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
          const int lane = first + i < lanes ? first + i : lanes - 1;
          r[i] = Read::sixteen(source + lane * lane_bytes + done * Read::kBytes, mask);
        }
#pragma GCC unroll 8
        for (int i = 0; i < 16; i += 2) {
          t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
          t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 16; i += 4) {
          r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
          r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
          r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
          r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
        }
        // r[4 * g + s]: 128-bit piece q holds step 4 * q + s of rows 4 * g .. 4 * g + 3.
#pragma GCC unroll 4
        for (int s = 0; s < 4; ++s) {
          t[s] = _mm512_shuffle_i32x4(r[s], r[4 + s], 0x88);
          t[4 + s] = _mm512_shuffle_i32x4(r[8 + s], r[12 + s], 0x88);
          t[8 + s] = _mm512_shuffle_i32x4(r[s], r[4 + s], 0xdd);
          t[12 + s] = _mm512_shuffle_i32x4(r[8 + s], r[12 + s], 0xdd);
        }
        Step* target = packed + done * pitch + first;
#pragma GCC unroll 4
        for (int s = 0; s < 4; ++s) {
          const __m512i steps_0_4_8_12[4] = {_mm512_shuffle_i32x4(t[s], t[4 + s], 0x88),
                                             _mm512_shuffle_i32x4(t[8 + s], t[12 + s], 0x88),
                                             _mm512_shuffle_i32x4(t[s], t[4 + s], 0xdd),
                                             _mm512_shuffle_i32x4(t[8 + s], t[12 + s], 0xdd)};
#pragma GCC unroll 4
          for (int q = 0; q < 4; ++q) {
            const int step = 4 * q + s;
            if (step < count) _mm512_storeu_si512(target + step * pitch, steps_0_4_8_12[q]);
          }
        }
      }
    }
    return;
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(Step) == 4 && Width % 8 == 0) {
    for (; done + 8 <= steps; done += 8) {
      for (int first = 0; first < Width; first += 8) {
        __m256i r[8], t[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {
          const int lane = first + i < lanes ? first + i : lanes - 1;
          r[i] = Read::eight(source + lane * lane_bytes + done * Read::kBytes);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 8; i += 2) {
          t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
          t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
        }
#pragma GCC unroll 2
        for (int i = 0; i < 8; i += 4) {
          r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
          r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
          r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
          r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
        }
        Step* target = packed + done * pitch + first;
#pragma GCC unroll 4
        for (int s = 0; s < 4; ++s) {
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(target + s * pitch),
                              _mm256_permute2x128_si256(r[s], r[4 + s], 0x20));
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(target + (s + 4) * pitch),
                              _mm256_permute2x128_si256(r[s], r[4 + s], 0x31));
        }
      }
    }
  }
#endif
  if (done < steps) {
    place_k_scalar<Width, Read>(source, lane_bytes, lanes, done, steps, packed, pitch);
  }
}

// Lanes are contiguous for one k. A panel of A is never full (14 of 16 lanes, 6 of 8), so lanes
// that are not there are masked rather than left to a scalar loop.
template <int Width, typename Read, typename Step>
void place_lanes(const char* source, int64_t k_bytes, int lanes, int64_t steps, Step* packed) {
#if defined(__AVX512F__)
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(Step));
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 4
    for (int first = 0; first < Width; first += kWidth) {
      const int count = lanes > first ? lanes - first : 0;
      const uint32_t mask = count >= kWidth ? (1u << kWidth) - 1 : (1u << count) - 1;
      const char* from = source + step * k_bytes + first * Read::kBytes;
      __m512i line;
      if constexpr (sizeof(Step) == 4) {
        line = Read::sixteen(from, static_cast<__mmask16>(mask));
      } else {
        line = _mm512_maskz_loadu_epi64(static_cast<__mmask8>(mask), from);
      }
      _mm512_storeu_si512(packed + step * Width + first, line);
    }
  }
#else
#if defined(__AVX2__)
  const __m256i rest =
      _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes % 8), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
#endif
  for (int64_t step = 0; step < steps; ++step) {
    const char* from = source + step * k_bytes;
    int lane = 0;
#if defined(__AVX2__)
    if constexpr (sizeof(Step) == 4) {
      for (; lane + 8 <= lanes; lane += 8) {
        const __m256i line = Read::eight(from + lane * Read::kBytes);
        std::memcpy(packed + step * Width + lane, &line, sizeof(line));
      }
      if constexpr (Read::kBytes == 4) {
        if (lane < lanes) {
          const __m256i line = Read::eight(from + lane * Read::kBytes, rest);
          std::memcpy(packed + step * Width + lane, &line, sizeof(line));
          lane += 8;
        }
      }
    }
#endif
    for (; lane < lanes; ++lane) {
      packed[step * Width + lane] = Read::one(from + lane * Read::kBytes);
    }
    for (; lane < Width; ++lane) packed[step * Width + lane] = 0;
  }
#endif
}

// Two rows of 16-bit values become one row of pairs.
template <int Width>
void place_pairs(const uint16_t* source, int64_t k_stride, int lanes, int64_t k, uint32_t* packed) {
  static constexpr uint16_t kZeros[Width] = {};
  for (int64_t i = 0; i < k; i += 2, packed += Width) {
    const uint16_t* even = source + i * k_stride;
    const uint16_t* odd = i + 1 < k ? even + k_stride : kZeros;
#if defined(__AVX512F__)
#pragma GCC unroll 4
    for (int first = 0; first < Width; first += 16) {
      const int count = lanes > first ? lanes - first : 0;
      const auto mask = static_cast<__mmask16>(count >= 16 ? 0xffffu : (1u << count) - 1);
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, even + first));
      const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, odd + first));
      _mm512_storeu_si512(packed + first, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
#else
    for (int lane = 0; lane < Width; ++lane) {
      packed[lane] = lane < lanes ? even[lane] | static_cast<uint32_t>(odd[lane]) << 16 : 0;
    }
#endif
  }
}

#if defined(__AVX512F__)
// The same from fp32, rounded to bf16 on the way: an fp32 weight multiplied as bf16.
template <int Width>
void place_rounded_pairs(const float* source, int64_t k_stride, int lanes, int64_t k,
                         uint32_t* packed) {
  const auto load = [](const float* from, __mmask16 mask) {
    return RoundedToBrain::sixteen(reinterpret_cast<const char*>(from), mask);
  };
  for (int64_t i = 0; i < k; i += 2, packed += Width) {
    const float* even = source + i * k_stride;
#pragma GCC unroll 4
    for (int first = 0; first < Width; first += 16) {
      const int count = lanes > first ? lanes - first : 0;
      const auto mask = static_cast<__mmask16>(count >= 16 ? 0xffffu : (1u << count) - 1);
      __m512i pair = _mm512_srli_epi32(load(even + first, mask), 16);
      if (i + 1 < k) pair = _mm512_or_si512(pair, load(even + k_stride + first, mask));
      _mm512_storeu_si512(packed + first, pair);
    }
  }
}
#endif

template <typename Lanes, int Width>
void place(const typename Lanes::Packed* source, int64_t lane_stride, int64_t k_stride, int lanes,
           int64_t k, typename Lanes::Step* packed) {
  using Packed = typename Lanes::Packed;
  using Step = typename Lanes::Step;
  if (k_stride == 1) {
    const auto* bytes = reinterpret_cast<const char*>(source);
    const int64_t lane_bytes = lane_stride * static_cast<int64_t>(sizeof(Packed));
    const int64_t steps = k / Lanes::kGroup;
    place_k<Width, AsIs<Step>>(bytes, lane_bytes, lanes, steps, packed);
    if (steps * Lanes::kGroup < k) {
      for (int lane = 0; lane < Width; ++lane) {
        Step last = 0;
        const int from = lane < lanes ? lane : lanes - 1;
        std::memcpy(&last, source + from * lane_stride + k - 1, sizeof(Packed));
        packed[steps * Width + lane] = last;
      }
    }
  } else if constexpr (Lanes::kGroup == 1) {
    place_lanes<Width, AsIs<Step>>(reinterpret_cast<const char*>(source),
                                   k_stride * static_cast<int64_t>(sizeof(Step)), lanes, k, packed);
  } else {
    place_pairs<Width>(reinterpret_cast<const uint16_t*>(source), k_stride, lanes, k, packed);
  }
}

// Packs fp32 from narrower values, or rounded on the way. Does nothing and returns false where
// there is no way through registers.
template <int Width>
bool pack_converted(const PanelSource& source, DType compute, int lanes, int64_t k, float* packed) {
  if (source.k_stride != 1 && source.lane_stride != 1) return false;
  return with_read(source.dtype, compute, [&](auto read) {
    using Read = decltype(read);
    if (source.k_stride == 1) {
      place_k<Width, Read>(source.data, source.lane_stride * Read::kBytes, lanes, k, packed);
    } else {
      place_lanes<Width, Read>(source.data, source.k_stride * Read::kBytes, lanes, k, packed);
    }
  });
}

template <typename Lanes, int Width>
void pack(const PanelSource& source, DType compute, Part part, int lanes, int64_t k, void* packed) {
  using Packed = typename Lanes::Packed;
  using Step = typename Lanes::Step;
  auto* target = static_cast<Step*>(packed);
  const bool same = source.dtype == Lanes::kPacked && part == Part::Value &&
                    (compute == Lanes::kPacked || Lanes::kPacked != DType::Float32);
  if (same && (source.k_stride == 1 || source.lane_stride == 1)) {
    place<Lanes, Width>(reinterpret_cast<const Packed*>(source.data), source.lane_stride,
                        source.k_stride, lanes, k, target);
    return;
  }
  if constexpr (__is_same(Packed, float)) {
    if (pack_converted<Width>(source, compute, lanes, k, target)) return;
  }
#if defined(__AVX512F__)
  if constexpr (__is_same(Packed, Brain)) {
    if (source.dtype == DType::Float32 && part == Part::Value && source.k_stride != 1 &&
        source.lane_stride == 1) {
      place_rounded_pairs<Width>(reinterpret_cast<const float*>(source.data), source.k_stride,
                                 lanes, k, target);
      return;
    }
  }
#endif
  // Converted piece by piece on the stack, in the order of memory; long pieces, because each lane
  // is a stream of its own (256 values cost 10 % of a bf16 product less than 64).
  constexpr int kPiece = 256;
  alignas(64) Packed piece[Width * kPiece];
  const int64_t size = size_of(source.dtype);
  for (int64_t first = 0; first < k; first += kPiece) {
    const int count = k - first < kPiece ? static_cast<int>(k - first) : kPiece;
    const char* data = source.data + first * source.k_stride * size;
    Step* to = target + first / Lanes::kGroup * Width;
    if (source.lane_stride == 1) {
      for (int i = 0; i < count; ++i) {
        convert_run(data + i * source.k_stride * size, source.dtype, 1, compute, part, lanes,
                    piece + i * Width);
      }
      place<Lanes, Width>(piece, 1, Width, lanes, count, to);
    } else {
      for (int lane = 0; lane < lanes; ++lane) {
        convert_run(data + lane * source.lane_stride * size, source.dtype, source.k_stride, compute,
                    part, count, piece + lane * kPiece);
      }
      place<Lanes, Width>(piece, kPiece, 1, lanes, count, to);
    }
  }
}

// Rows as they are multiplied by brgemm: [rows][k], both padded with zeros.
template <typename Lanes>
void pack_row_major(const PanelSource& source, DType compute, Part part, int lanes, int64_t k,
                    void* packed) {
  using Packed = typename Lanes::Packed;
  const int64_t size = size_of(source.dtype);
  const int64_t padded_k = (k + kBrgemmGroup - 1) / kBrgemmGroup * kBrgemmGroup;
  const int padded_lanes = (lanes + kBrgemmRowStep - 1) / kBrgemmRowStep * kBrgemmRowStep;
  auto* target = static_cast<Packed*>(packed);
  if (source.lane_stride == 1 && source.k_stride != 1) {
    // Lanes are contiguous in memory: pairs of k are made first, then transposed as words.
    constexpr int kPairs = kBrgemmGroup / 2;
    alignas(64) Packed piece[kBrgemmGroup * kBrgemmPanel];
    uint32_t pairs[kPairs * kBrgemmPanel];
    for (int64_t first = 0; first < k; first += kBrgemmGroup) {
      const int count = k - first < kBrgemmGroup ? static_cast<int>(k - first) : kBrgemmGroup;
      for (int i = 0; i < count; ++i) {
        convert_run(source.data + (first + i) * source.k_stride * size, source.dtype, 1, compute,
                    part, lanes, piece + i * kBrgemmPanel);
      }
      if (count < kBrgemmGroup) std::memset(pairs, 0, sizeof(pairs));
      place_pairs<kBrgemmPanel>(reinterpret_cast<const uint16_t*>(piece), kBrgemmPanel, lanes,
                                count, pairs);
      place_k<kPairs, AsIs<uint32_t>>(reinterpret_cast<const char*>(pairs),
                                      kBrgemmPanel * sizeof(uint32_t), kPairs, lanes,
                                      reinterpret_cast<uint32_t*>(target + first), padded_k / 2);
    }
  } else {
    for (int lane = 0; lane < lanes; ++lane) {
      convert_run(source.data + lane * source.lane_stride * size, source.dtype, source.k_stride,
                  compute, part, k, target + lane * padded_k);
      std::memset(target + lane * padded_k + k, 0, (padded_k - k) * sizeof(Packed));
    }
  }
  std::memset(target + lanes * padded_k, 0, (padded_lanes - lanes) * padded_k * sizeof(Packed));
}

// Columns in pairs of k, k padded with zeros.
template <typename Lanes>
void pack_pairs(const PanelSource& source, DType compute, Part part, int lanes, int64_t k,
                void* packed) {
  pack<Lanes, kBrgemmPanel>(source, compute, part, lanes, k, packed);
  const int64_t padded = (k + kBrgemmGroup - 1) / kBrgemmGroup * kBrgemmGroup;
  const int64_t paired = (k + 1) / 2 * 2;
  std::memset(static_cast<uint16_t*>(packed) + paired * kBrgemmPanel, 0,
              (padded - paired) * kBrgemmPanel * sizeof(uint16_t));
}

}  // namespace accel::kernels::ACCEL_ISA
