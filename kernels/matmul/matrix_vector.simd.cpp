// Matrix times vector: bound by the bandwidth at which the matrix is read, so nothing is packed.
// Called by matmul.cpp for products with one row or one column.
#include <cstring>

#include "kernels/common/isa.h"
#include "kernels/matmul/convert.h"
#include "kernels/matmul/engine.h"
#include "kernels/matmul/lanes.h"

namespace accel::kernels::ACCEL_ISA {
namespace {

constexpr int kLanes = 16;   // chains of multiply-adds per row, the same for every layout of A
constexpr int kPiece = 512;  // values of k converted at a time, a multiple of kLanes
constexpr int kRowBlock = 256;

inline float multiply_add(float a, float b, float sum) {
#if defined(__FMA__)
  return __builtin_fmaf(a, b, sum);
#else
  return sum + a * b;
#endif
}
inline double multiply_add(double a, double b, double sum) {
#if defined(__FMA__)
  return __builtin_fma(a, b, sum);
#else
  return sum + a * b;
#endif
}
inline int64_t multiply_add(int64_t a, int64_t b, int64_t sum) {
  return static_cast<int64_t>(static_cast<uint64_t>(sum) +
                              static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}

template <typename Value>
inline Value add(Value a, Value b) {
  if constexpr (__is_same(Value, int64_t)) {
    return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
  } else {
    return a + b;
  }
}

template <typename Value>
struct ChooseLanes;
template <>
struct ChooseLanes<float> {
  using Type = Float32Lanes;
};
template <>
struct ChooseLanes<double> {
  using Type = Float64Lanes;
};
template <>
struct ChooseLanes<int64_t> {
  using Type = Int64Lanes;
};

// lanes[l] += row[i] * x[i] for i = l, l + 16, ...; several rows at a time share x and hide
// latency.
template <int Rows, typename Value>
void add_rows(const Value* const* rows, const Value* x, int64_t n, Value (*lanes)[kLanes]) {
  using Lanes = typename ChooseLanes<Value>::Type;
  using Vector = typename Lanes::Vector;
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(Value));
  constexpr int kVectors = kLanes / kWidth;
  Vector sums[Rows][kVectors];
  std::memcpy(sums, lanes, sizeof(sums));
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      Vector factor;
      std::memcpy(&factor, x + i + v * kWidth, sizeof(Vector));
#pragma GCC unroll 4
      for (int row = 0; row < Rows; ++row) {
        Vector value;
        std::memcpy(&value, rows[row] + i + v * kWidth, sizeof(Vector));
        sums[row][v] = Lanes::multiply_add(value, factor, sums[row][v]);
      }
    }
  }
  std::memcpy(lanes, sums, sizeof(sums));
  for (int row = 0; row < Rows; ++row) {
    for (int l = 0; i + l < n; ++l) {
      lanes[row][l] = multiply_add(rows[row][i + l], x[i + l], lanes[row][l]);
    }
  }
}

// The same sums where the rows of A are contiguous for one k: sums[l][row].
template <typename Value>
void add_columns(const Value* a, int64_t k_stride, int rows, const Value* x, int64_t n,
                 Value (*sums)[kRowBlock]) {
  for (int64_t i = 0; i < n; ++i) {
    const Value* __restrict column = a + i * k_stride;
    Value* __restrict lane = sums[i % kLanes];
    const Value factor = x[i];
    if (rows == kRowBlock) {
      for (int row = 0; row < kRowBlock; ++row) {
        lane[row] = multiply_add(column[row], factor, lane[row]);
      }
    } else {
      for (int row = 0; row < rows; ++row) {
        lane[row] = multiply_add(column[row], factor, lane[row]);
      }
    }
  }
}

// Adds n values pairwise: the second half to the first, until one is left.
template <int n, typename Sum>
ACCEL_INLINE Sum sum_of_lanes(const Sum* lanes) {
  if constexpr (n == 2) {
    return lanes[0] + lanes[1];
  } else {
    typedef Sum Half __attribute__((vector_size(n / 2 * sizeof(Sum))));
    Half first, second;
    std::memcpy(&first, lanes, sizeof(Half));
    std::memcpy(&second, lanes + n / 2, sizeof(Half));
    first += second;
    Sum rest[n / 2];
    std::memcpy(rest, &first, sizeof(rest));
    return sum_of_lanes<n / 2>(rest);
  }
}

template <typename Value>
constexpr DType kDTypeOf = __is_same(Value, float)    ? DType::Float32
                           : __is_same(Value, double) ? DType::Float64
                                                      : DType::Int64;

template <typename Value>
void rows_times_vector(const PanelSource& a, DType compute, int64_t begin, int64_t end, int64_t k,
                       const Value* x, Value* y) {
  constexpr int kRows = 4;
  const int64_t size = size_of(a.dtype);
  const bool direct = a.dtype == kDTypeOf<Value> && compute == a.dtype && a.k_stride == 1;
  Value pieces[kRows][kPiece];
  for (int64_t first = begin; first < end; first += kRows) {
    const int rows = end - first < kRows ? static_cast<int>(end - first) : kRows;
    Value lanes[kRows][kLanes] = {};
    const int64_t step = direct ? k : kPiece;
    for (int64_t from = 0; from < k; from += step) {
      const int64_t count = k - from < step ? k - from : step;
      const Value* values[kRows];
      for (int row = 0; row < kRows; ++row) {
        const int64_t index = first + (row < rows ? row : 0);
        const char* source = a.data + (index * a.lane_stride + from * a.k_stride) * size;
        if (direct) {
          values[row] = reinterpret_cast<const Value*>(source);
        } else {
          values[row] = pieces[row];
          if (row < rows) {
            convert_run(source, a.dtype, a.k_stride, compute, Part::Value, count, pieces[row]);
          } else {
            values[row] = pieces[0];
          }
        }
      }
      if (rows == 1) {
        add_rows<1>(values, x + from, count, lanes);
      } else {
        add_rows<kRows>(values, x + from, count, lanes);
      }
    }
    for (int row = 0; row < rows; ++row) {
      using Sum = typename ChooseLanes<Value>::Type::Sum;
      y[first + row - begin] = sum_of_lanes<kLanes>(reinterpret_cast<const Sum*>(lanes[row]));
    }
  }
}

template <typename Value>
void columns_times_vector(const PanelSource& a, DType compute, int64_t begin, int64_t end,
                          int64_t k, const Value* x, Value* y) {
  constexpr int kColumns = 32;  // converted at a time, a multiple of kLanes
  const int64_t size = size_of(a.dtype);
  const bool direct = a.dtype == kDTypeOf<Value> && compute == a.dtype;
  Value piece[kColumns * kRowBlock];
  for (int64_t first = begin; first < end; first += kRowBlock) {
    const int rows = end - first < kRowBlock ? static_cast<int>(end - first) : kRowBlock;
    Value sums[kLanes][kRowBlock] = {};
    const char* source = a.data + first * size;
    if (direct) {
      add_columns(reinterpret_cast<const Value*>(source), a.k_stride, rows, x, k, sums);
    } else {
      for (int64_t from = 0; from < k; from += kColumns) {
        const int64_t count = k - from < kColumns ? k - from : kColumns;
        for (int64_t i = 0; i < count; ++i) {
          convert_run(source + (from + i) * a.k_stride * size, a.dtype, 1, compute, Part::Value,
                      rows, piece + i * kRowBlock);
        }
        add_columns(piece, kRowBlock, rows, x + from, count, sums);
      }
    }
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int l = 0; l < half; ++l) {
        for (int row = 0; row < rows; ++row) sums[l][row] = add(sums[l][row], sums[l + half][row]);
      }
    }
    std::memcpy(y + first - begin, sums[0], rows * sizeof(Value));
  }
}

template <typename Value>
void choose_layout(const PanelSource& a, DType compute, int64_t begin, int64_t end, int64_t k,
                   const void* x, void* y) {
  const auto* from = static_cast<const Value*>(x);
  auto* to = static_cast<Value*>(y);
  if (a.k_stride != 1 && a.lane_stride == 1) {
    columns_times_vector(a, compute, begin, end, k, from, to);
  } else {
    rows_times_vector(a, compute, begin, end, k, from, to);
  }
}

}  // namespace

void matrix_vector(const PanelSource& a, DType compute, DType accumulator, int64_t begin,
                   int64_t end, int64_t k, const void* x, void* y) {
  switch (accumulator) {
    case DType::Float32:
      return choose_layout<float>(a, compute, begin, end, k, x, y);
    case DType::Float64:
      return choose_layout<double>(a, compute, begin, end, k, x, y);
    default:
      return choose_layout<int64_t>(a, compute, begin, end, k, x, y);
  }
}

void gather_vector(const PanelSource& source, DType compute, DType accumulator, int64_t k,
                   void* x) {
  switch (accumulator) {
    case DType::Float32:
      return convert_run(source.data, source.dtype, source.k_stride, compute, Part::Value, k,
                         static_cast<float*>(x));
    case DType::Float64:
      return convert_run(source.data, source.dtype, source.k_stride, compute, Part::Value, k,
                         static_cast<double*>(x));
    default:
      return convert_run(source.data, source.dtype, source.k_stride, compute, Part::Value, k,
                         static_cast<int64_t*>(x));
  }
}

}  // namespace accel::kernels::ACCEL_ISA
