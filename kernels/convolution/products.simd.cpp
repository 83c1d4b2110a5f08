// The register-blocked products of a convolution, once per instruction set. See RunProduct.
#include <cstring>

#include "kernels/common/isa.h"
#include "kernels/convolution/tiles.h"
#include "kernels/matmul/lanes.h"

namespace accel::kernels::ACCEL_ISA {
namespace {

// Takes A's rows where they lie: every third has a pointer, which leaves all in general registers.
template <typename Lanes, int kCount, int kVectors>
void multiply_rows(const RunProduct& product) {
  using Step = typename Lanes::Step;
  using Vector = typename Lanes::Vector;
  typedef Step StepVector __attribute__((vector_size(kVectorBytes)));
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(float));
  constexpr int kPointers = (kCount + 2) / 3;

  const int64_t row_bytes = product.a_row, a_step = product.a_step, b_step = product.b_step;
  Vector sums[kCount][kVectors] = {};
  for (int64_t index = 0; index < product.run_count; ++index) {
    const Run run = product.runs[index];
    const char* b = product.b + run.b;
    const char* third[kPointers];
    for (int i = 0; i < kPointers; ++i) third[i] = product.a + run.a + 3 * i * row_bytes;
    for (int64_t step = 0; step < run.steps; ++step) {
      StepVector column[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        std::memcpy(&column[v], b + v * kVectorBytes, sizeof(StepVector));
      }
#pragma GCC unroll 14
      for (int row = 0; row < kCount; ++row) {
        Step value;
        std::memcpy(&value, third[row / 3] + (row % 3) * row_bytes, sizeof(Step));
        const StepVector everywhere = value - StepVector{};
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
          sums[row][v] = Lanes::multiply_add(everywhere, column[v], sums[row][v]);
        }
      }
#pragma GCC unroll 5
      for (int i = 0; i < kPointers; ++i) third[i] += a_step;
      b += b_step;
    }
  }
#pragma GCC unroll 14
  for (int row = 0; row < kCount; ++row) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      float* c = product.c + row * product.c_stride + v * kWidth;
      if (product.add) {
        Vector before;
        std::memcpy(&before, c, sizeof(before));
        sums[row][v] += before;
      }
      std::memcpy(c, &sums[row][v], sizeof(Vector));
    }
  }
}

template <typename Lanes, int kVectors, int kCount = kRows>
ACCEL_INLINE void choose_rows(const RunProduct& product) {
  if (product.rows == kCount) {
    multiply_rows<Lanes, kCount, kVectors>(product);
  } else if constexpr (kCount > 1) {
    choose_rows<Lanes, kVectors, kCount - 1>(product);
  }
}

template <typename Lanes>
void choose_columns(const RunProduct& product) {
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(float));
  if (product.columns <= kWidth) {
    choose_rows<Lanes, 1>(product);
  } else {
    choose_rows<Lanes, kColumnVectors>(product);
  }
}

}  // namespace

PanelShape panel_shape() {
  const bool pairs = current_isa() >= Isa::Avx512Bf16;
  return {kRows, kColumnVectors * kVectorBytes / static_cast<int>(sizeof(float)), pairs};
}

void multiply_runs(const RunProduct& product) {
#if defined(__AVX512F__)
  if (product.pairs) {
    choose_columns<PairLanes<Brain>>(product);
    return;
  }
#endif
  choose_columns<Float32Lanes>(product);
}

}  // namespace accel::kernels::ACCEL_ISA
