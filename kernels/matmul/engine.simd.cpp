// The register-blocked inner products and the Engine tables, once per instruction set. Called
// through those tables; never allocates and knows nothing of threads.
#include "kernels/matmul/engine.h"

#include <cstring>

#include "kernels/common/isa.h"
#include "kernels/matmul/convert.h"
#include "kernels/matmul/lanes.h"
#include "kernels/matmul/pack.h"

namespace accel::kernels::ACCEL_ISA {
namespace {

enum class Rows { Packed, InMemory };

// Takes sums of fewer columns than their vectors hold to C. Apart from multiply_rows() so that the
// compiler keeps its sums in registers.
template <typename Lanes, int kVectors>
__attribute__((noinline)) void finish_columns(const PanelProduct& product,
                                              const typename Lanes::Vector* sums) {
  using Sum = typename Lanes::Sum;
  const size_t bytes = product.columns * sizeof(Sum);
  for (int row = 0; row < product.rows; ++row, sums += kVectors) {
    Sum* c = static_cast<Sum*>(product.c) + row * product.c_stride;
    typename Lanes::Vector line[kVectors] = {};
    if (product.update == Update::Add) std::memcpy(line, c, bytes);
    for (int v = 0; v < kVectors; ++v) {
      line[v] = product.update == Update::Add ? sums[v] + line[v] : sums[v];
    }
    if constexpr (Lanes::kRounds) {
      if (product.rounded) {
        const auto rounded = Lanes::round(line[0], line[kVectors - 1]);
        std::memcpy(product.rounded + row * product.rounded_stride, &rounded,
                    product.columns * sizeof(uint16_t));
        continue;
      }
      if (product.rounds) {
        for (int v = 0; v < kVectors; ++v) line[v] = Lanes::rounded(line[v]);
      }
    }
    std::memcpy(c, line, bytes);
  }
}

// kCount rows times kVectors vectors of columns: one, where the others would hold no column of C.
template <typename Lanes, int kCount, int kVectors, Rows kSource>
void multiply_rows(const PanelProduct& product) {
  using Step = typename Lanes::Step;
  using Sum = typename Lanes::Sum;
  using Vector = typename Lanes::Vector;
  typedef Step StepVector __attribute__((vector_size(kVectorBytes)));
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(Sum));

  const int64_t steps = (product.k + Lanes::kGroup - 1) / Lanes::kGroup;
  const auto* b = static_cast<const Step*>(product.b);
  const auto* a = static_cast<const char*>(product.a);
  // Rows in memory: every third has a pointer, which leaves all in general registers.
  const int64_t row_bytes = product.a_row_bytes;
  const char* third[(kCount + 2) / 3];
  for (int i = 0; i < (kCount + 2) / 3; ++i) third[i] = a + 3 * i * row_bytes;

  Vector sums[kCount][kVectors];
#pragma GCC unroll 14
  for (int row = 0; row < kCount; ++row) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[row][v] = Vector{};
  }
  for (int64_t step = 0; step < steps; ++step) {
    StepVector column[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      std::memcpy(&column[v], b + v * kWidth, sizeof(StepVector));
    }
#pragma GCC unroll 14
    for (int row = 0; row < kCount; ++row) {
      Step value;
      if constexpr (kSource == Rows::Packed) {
        std::memcpy(&value, a + row * sizeof(Step), sizeof(Step));
      } else {
        std::memcpy(&value, third[row / 3] + (row % 3) * row_bytes, sizeof(Step));
      }
      const StepVector everywhere = value - StepVector{};
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        sums[row][v] = Lanes::multiply_add(everywhere, column[v], sums[row][v]);
      }
    }
    if constexpr (kSource == Rows::Packed) {
      a += kRowPitch * sizeof(Step);
    } else {
#pragma GCC unroll 5
      for (int i = 0; i < (kCount + 2) / 3; ++i) third[i] += sizeof(Step);
    }
    b += kColumnVectors * kWidth;
  }

  auto* c = static_cast<Sum*>(product.c);
  const int64_t c_stride = product.c_stride;
  const bool add = product.update == Update::Add;
  if (product.columns == kVectors * kWidth) {
    if (add) {
#pragma GCC unroll 14
      for (int row = 0; row < kCount; ++row) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
          Vector before;
          std::memcpy(&before, c + row * c_stride + v * kWidth, sizeof(before));
          sums[row][v] += before;
        }
      }
    }
    if constexpr (Lanes::kRounds) {
      if (product.rounded) {
#pragma GCC unroll 14
        for (int row = 0; row < kCount; ++row) {
          const auto rounded = Lanes::round(sums[row][0], sums[row][kVectors - 1]);
          std::memcpy(product.rounded + row * product.rounded_stride, &rounded,
                      kVectors * kWidth * sizeof(uint16_t));
        }
        return;
      }
      if (product.rounds) {
#pragma GCC unroll 14
        for (int row = 0; row < kCount; ++row) {
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) sums[row][v] = Lanes::rounded(sums[row][v]);
        }
      }
    }
#pragma GCC unroll 14
    for (int row = 0; row < kCount; ++row) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        std::memcpy(c + row * c_stride + v * kWidth, &sums[row][v], sizeof(Vector));
      }
    }
    return;
  }

  // A copy: sums whose address is taken would live in memory in the other cases too.
  Vector copied[kCount * kVectors];
#pragma GCC unroll 14
  for (int row = 0; row < kCount; ++row) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) copied[row * kVectors + v] = sums[row][v];
  }
  finish_columns<Lanes, kVectors>(product, copied);
}

template <typename Lanes, int kVectors, Rows kSource, int kCount = kRows>
ACCEL_INLINE void choose_rows(const PanelProduct& product) {
  if (product.rows == kCount) {
    multiply_rows<Lanes, kCount, kVectors, kSource>(product);
  } else if constexpr (kCount > 1) {
    choose_rows<Lanes, kVectors, kSource, kCount - 1>(product);
  }
}

template <typename Lanes, int kVectors>
ACCEL_INLINE void choose_source(const PanelProduct& product) {
  if constexpr (Lanes::kReadsRows) {
    if (product.a_row_bytes != 0) {
      choose_rows<Lanes, kVectors, Rows::InMemory>(product);
      return;
    }
  }
  choose_rows<Lanes, kVectors, Rows::Packed>(product);
}

template <typename Lanes>
void multiply(const PanelProduct& product) {
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(typename Lanes::Sum));
  if (product.columns <= kWidth) {
    choose_source<Lanes, 1>(product);
  } else {
    choose_source<Lanes, 2>(product);
  }
}

#if defined(__AVX512F__)
void round_sums(float* sums, int64_t n) {
  using Lanes = PairLanes<Brain>;
  for (int64_t i = 0; i < n; i += 16) {
    const auto mask = static_cast<__mmask16>(n - i < 16 ? (1 << (n - i)) - 1 : 0xffff);
    const __m512 values = _mm512_maskz_loadu_ps(mask, sums + i);
    _mm512_mask_storeu_ps(sums + i, mask, (__m512)Lanes::rounded((Lanes::Vector)values));
  }
}
#endif

template <typename Lanes>
constexpr Engine make_engine() {
  constexpr int kColumns =
      kColumnVectors * kVectorBytes / static_cast<int>(sizeof(typename Lanes::Sum));
  Engine engine;
  engine.rows = kRows;
  engine.row_pitch = kRowPitch;
  engine.columns = kColumns;
  engine.k_block = Lanes::kBlock;
#if defined(__AVX2__) && !defined(__AVX512F__)
  // Processors of this kind often have a second level cache of 512 KiB or less. Wide tiles let
  // fewer of them share a block of A, or none, which then is packed where it is used. A panel's
  // lanes are few, much less than a line of memory.
  engine.tile_rows = 64;
  engine.tile_columns = 512;
  engine.packs_pieces = true;
#endif
  engine.k_group = Lanes::kGroup;
  engine.packed = Lanes::kPacked;
  engine.packed_size = sizeof(typename Lanes::Packed);
  engine.accumulator = Lanes::kSum;
  engine.pack_rows = pack<Lanes, kRowPitch>;
  engine.pack_columns = pack<Lanes, kColumns>;
  engine.multiply = multiply<Lanes>;
  engine.reads_rows = Lanes::kReadsRows;
#if defined(__AVX512F__)
  if (Lanes::kRounds) engine.round_sums = round_sums;
#endif
  return engine;
}

}  // namespace

const Engine* float32_engine() {
  static constexpr Engine kEngine = make_engine<Float32Lanes>();
  return &kEngine;
}

const Engine* float64_engine() {
  static constexpr Engine kEngine = make_engine<Float64Lanes>();
  return &kEngine;
}

const Engine* int64_engine() {
  static constexpr Engine kEngine = make_engine<Int64Lanes>();
  return &kEngine;
}

const Engine* bfloat16_engine() {
#if defined(__AVX512F__)
  static constexpr Engine kEngine = make_engine<PairLanes<Brain>>();
  return &kEngine;
#else
  return nullptr;
#endif
}

Engine brgemm_packing(DType dtype) {
  Engine engine;
  engine.rows = engine.row_pitch = engine.columns = kBrgemmPanel;
  engine.k_block = 512;
  engine.k_group = kBrgemmGroup;
  engine.packed = dtype;
  engine.packed_size = 2;
  engine.accumulator = DType::Float32;
  if (dtype == DType::BFloat16) {
    engine.pack_rows = pack_row_major<PairLanes<Brain>>;
    engine.pack_columns = pack_pairs<PairLanes<Brain>>;
  } else {
    engine.pack_rows = pack_row_major<PairLanes<_Float16>>;
    engine.pack_columns = pack_pairs<PairLanes<_Float16>>;
  }
  return engine;
}

bool splits_safely(const PanelSource& source, int64_t lanes, int64_t k) {
  constexpr int kPiece = 256;
  // The first number that rounds to infinity in bf16, and all beyond.
  constexpr uint32_t kTooLarge = 0x7f7f8000u;
  const bool across = source.lane_stride == 1 && source.k_stride != 1;
  const int64_t lines = across ? k : lanes, length = across ? lanes : k;
  const int64_t line_stride = across ? source.k_stride : source.lane_stride;
  const int64_t stride = across ? source.lane_stride : source.k_stride;
  float values[kPiece];
  for (int64_t line = 0; line < lines; ++line) {
    for (int64_t first = 0; first < length; first += kPiece) {
      const int64_t count = length - first < kPiece ? length - first : kPiece;
      convert_run(source.data + (line * line_stride + first * stride) * size_of(source.dtype),
                  source.dtype, stride, DType::Float32, Part::Value, count, values);
      uint32_t largest = 0;
      for (int64_t i = 0; i < count; ++i) {
        uint32_t bits;
        std::memcpy(&bits, &values[i], sizeof(bits));
        bits &= 0x7fffffffu;
        largest = bits > largest ? bits : largest;
      }
      if (largest >= kTooLarge) return false;
    }
  }
  return true;
}

}  // namespace accel::kernels::ACCEL_ISA
