// Matrix times vector: bound by the bandwidth at which the matrix is read, so nothing is packed.
// Called by matmul.cpp for products with one row or one column.
#include <cstring>

#include "kernels/common/isa.h"
#include "kernels/matmul/convert.h"
#include "kernels/matmul/engine.h"
#include "kernels/matmul/lanes.h"
#include "kernels/matmul/words.h"

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

// Whether neighbours can be read by any Read as a vector of fp32.
#if defined(__AVX512F__) || defined(__AVX2__)
constexpr bool kReadsVectors = true;
#else
constexpr bool kReadsVectors = false;
#endif

template <typename Read, typename Vector>
ACCEL_INLINE Vector read_vector(const char* at) {
  Vector value;
  if constexpr (__is_same(Read, AsIs<float>) || !kReadsVectors || sizeof(value[0]) != 4) {
    std::memcpy(&value, at, sizeof(Vector));
  } else {
#if defined(__AVX512F__)
    value = (Vector)Read::sixteen(at, 0xffff);
#elif defined(__AVX2__)
    value = (Vector)Read::eight(at);
#endif
  }
  return value;
}

// lanes[l] += row[i] * x[i] for i = l, l + 16, ...; several rows at a time share x and hide
// latency.
template <int Rows, typename Read, typename Value>
void add_rows(const char* const* rows, const Value* x, int64_t n, Value (*lanes)[kLanes]) {
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
        const auto value = read_vector<Read, Vector>(rows[row] + (i + v * kWidth) * Read::kBytes);
        sums[row][v] = Lanes::multiply_add(value, factor, sums[row][v]);
      }
    }
  }
  std::memcpy(lanes, sums, sizeof(sums));
  for (int row = 0; row < Rows; ++row) {
    for (int l = 0; i + l < n; ++l) {
      const Value value = Read::one(rows[row] + (i + l) * Read::kBytes);
      lanes[row][l] = multiply_add(value, x[i + l], lanes[row][l]);
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

constexpr int kRowsAtOnce = 4;

// By vectors: the compiler would write `= {}` as a string instruction, which takes longer to begin
// than all of it takes.
template <typename Value>
ACCEL_INLINE void clear(Value (&lanes)[kRowsAtOnce][kLanes]) {
  const typename ChooseLanes<Value>::Type::Vector zeros{};
  char* at = reinterpret_cast<char*>(lanes);
#pragma GCC unroll 32
  for (size_t i = 0; i < sizeof(lanes); i += sizeof(zeros)) {
    std::memcpy(at + i, &zeros, sizeof(zeros));
  }
}

template <typename Value>
ACCEL_INLINE void store_sums(const Value (*lanes)[kLanes], int rows, Value* y) {
  using Sum = typename ChooseLanes<Value>::Type::Sum;
  for (int row = 0; row < rows; ++row) {
    y[row] = sum_of_lanes<kLanes>(reinterpret_cast<const Sum*>(lanes[row]));
  }
}

// Rows whose values are contiguous along k, converted as they are read.
template <typename Read, typename Value>
void contiguous_rows(const PanelSource& a, int64_t begin, int64_t end, int64_t k, const Value* x,
                     Value* y) {
  const int64_t row_bytes = a.lane_stride * Read::kBytes;
  for (int64_t first = begin; first < end; first += kRowsAtOnce) {
    const int rows = end - first < kRowsAtOnce ? static_cast<int>(end - first) : kRowsAtOnce;
    const char* sources[kRowsAtOnce];
    for (int row = 0; row < kRowsAtOnce; ++row) {
      sources[row] = a.data + (first + (row < rows ? row : 0)) * row_bytes;
    }
    Value lanes[kRowsAtOnce][kLanes];
    clear(lanes);
    if (rows == 1) {
      add_rows<1, Read>(sources, x, k, lanes);
    } else {
      add_rows<kRowsAtOnce, Read>(sources, x, k, lanes);
    }
    store_sums(lanes, rows, y + first - begin);
  }
}

// Any other rows: converted a piece at a time.
template <typename Value>
void converted_rows(const PanelSource& a, DType compute, int64_t begin, int64_t end, int64_t k,
                    const Value* x, Value* y) {
  const int64_t size = size_of(a.dtype);
  Value pieces[kRowsAtOnce][kPiece];
  for (int64_t first = begin; first < end; first += kRowsAtOnce) {
    const int rows = end - first < kRowsAtOnce ? static_cast<int>(end - first) : kRowsAtOnce;
    Value lanes[kRowsAtOnce][kLanes];
    clear(lanes);
    for (int64_t from = 0; from < k; from += kPiece) {
      const int64_t count = k - from < kPiece ? k - from : kPiece;
      const char* sources[kRowsAtOnce];
      for (int row = 0; row < kRowsAtOnce; ++row) {
        sources[row] = reinterpret_cast<const char*>(pieces[row < rows ? row : 0]);
        if (row >= rows) continue;
        convert_run(a.data + ((first + row) * a.lane_stride + from * a.k_stride) * size, a.dtype,
                    a.k_stride, compute, Part::Value, count, pieces[row]);
      }
      if (rows == 1) {
        add_rows<1, AsIs<Value>>(sources, x + from, count, lanes);
      } else {
        add_rows<kRowsAtOnce, AsIs<Value>>(sources, x + from, count, lanes);
      }
    }
    store_sums(lanes, rows, y + first - begin);
  }
}

template <typename Value>
void rows_times_vector(const PanelSource& a, DType compute, int64_t begin, int64_t end, int64_t k,
                       const Value* x, Value* y) {
  if (a.k_stride == 1) {
    if (a.dtype == kDTypeOf<Value> && compute == a.dtype) {
      contiguous_rows<AsIs<Value>>(a, begin, end, k, x, y);
      return;
    }
    if constexpr (kReadsVectors && __is_same(Value, float)) {
      const bool read = with_read(a.dtype, compute, [&](auto how) {
        contiguous_rows<decltype(how)>(a, begin, end, k, x, y);
      });
      if (read) return;
    }
  }
  converted_rows(a, compute, begin, end, k, x, y);
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
