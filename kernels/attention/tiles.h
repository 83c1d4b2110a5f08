// The pieces attention's forward and backward are made of: products of tiles, packing, the mask and
// the dropout of a tile. Included by forward.simd.cpp and backward.simd.cpp only.
//
// Scores are kept transposed, one key a row and kBlock queries side by side in the lanes. Softmax
// statistics then are vertical operations, a dropout number needs no shuffling, and of the five
// products of a backward only the packed queries and output gradients have to be transposed.
#pragma once

#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/attention/attention.h"
#include "kernels/attention/internal.h"
#include "kernels/attention/vectors.h"
#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"

namespace accel::kernels::ACCEL_ISA::attention {

// Queries and keys of a tile: a tile of fp32 scores is 16 KiB and shares the first level cache with
// one packed operand. Where the causal edge crosses a tile, work is skipped in steps of kStep.
inline constexpr int kBlock = 64;
inline constexpr int kStep = 16;

inline constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Kinds: how products are computed. Unit is one element of a product's operand along the summed
// dimension: a number, or a pair of bf16 that VDPBF16PS takes at once.

struct Float32Kind {
  using Real = float;
  using Unit = float;
  static constexpr int kPerUnit = 1;
  static constexpr bool kSkipWithinTile = true;
  ACCEL_INLINE static VectorF32 multiply_add(float a, VectorF32 b, VectorF32 c) {
    return fma(broadcast(a), b, c);
  }
};

struct Float64Kind {
  using Real = double;
  using Unit = double;
  static constexpr int kPerUnit = 1;
  static constexpr bool kSkipWithinTile = true;
  ACCEL_INLINE static VectorF64 multiply_add(double a, VectorF64 b, VectorF64 c) {
    return fma(broadcast(a), b, c);
  }
};

#if defined(__AVX512F__)
struct BFloat16Kind {
  using Real = float;
  using Unit = uint32_t;
  static constexpr int kPerUnit = 2;
  static constexpr bool kSkipWithinTile = true;
  // Written in assembly because the file is compiled for machines without the instruction too.
  ACCEL_INLINE static VectorF32 multiply_add(uint32_t a, VectorU32 b, VectorF32 c) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(b), "v"(broadcast(a)));
    return c;
  }
};

// The same data layout, with products by brgemm: AMX wants whole tiles.
struct BFloat16TilesKind : BFloat16Kind {
  static constexpr bool kSkipWithinTile = false;
};
#endif

template <class Kind>
inline constexpr bool kIsBFloat16 = Kind::kPerUnit == 2;

// A matrix operand, strides in units. Operands that are broadcast element by element (left ones)
// may have any strides; right ones are read in whole vectors along a row.
template <class Kind>
struct Left {
  const typename Kind::Unit* data;
  int64_t row_stride, column_stride;
};
template <class Kind>
struct Right {
  const typename Kind::Unit* data;
  int64_t row_stride;
};

// c[kRows, kVectors * lanes] += a * b, in registers. Each element is summed in order of k, so it
// does not matter how a product is cut into these.
template <class Kind, int kRows, int kVectors>
[[gnu::noinline]] void register_product(int64_t depth, Left<Kind> a, Right<Kind> b,
                                        typename Kind::Real* c, int64_t c_stride, bool accumulate) {
  using Real = typename Kind::Real;
  constexpr int kN = kLanes<Real>;
  Vector<Real> sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      sum[i][j] = accumulate ? load(c + i * c_stride + j * kN) : Vector<Real>{};
    }
  }
  const typename Kind::Unit* left = a.data;
  const typename Kind::Unit* right = b.data;
  for (int64_t k = 0; k < depth; ++k) {
    Vector<typename Kind::Unit> row[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) row[j] = load(right + j * kN);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const typename Kind::Unit value = left[i * a.row_stride];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        sum[i][j] = Kind::multiply_add(value, row[j], sum[i][j]);
      }
    }
    left += a.column_stride;
    right += b.row_stride;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) store(c + i * c_stride + j * kN, sum[i][j]);
  }
}

// A panel kVectors wide: as many rows at a time as registers hold accumulators for.
template <class Kind, int kVectors>
void panel_product(int64_t rows, int64_t depth, Left<Kind> a, Right<Kind> b, typename Kind::Real* c,
                   int64_t c_stride, bool accumulate) {
  // 32 registers: 24 accumulators, a row of b, one broadcast. 16 registers: 12 accumulators.
  constexpr int kAccumulators = kVectorBytes == 64 ? 24 : 12;
  constexpr int kRows = kAccumulators / kVectors < 12 ? kAccumulators / kVectors : 12;
  auto advance = [&](int64_t count) {
    a.data += count * a.row_stride;
    c += count * c_stride;
    rows -= count;
  };
  while (rows >= kRows) {
    register_product<Kind, kRows, kVectors>(depth, a, b, c, c_stride, accumulate);
    advance(kRows);
  }
  if constexpr (kRows > 4) {
    while (rows >= 4) {
      register_product<Kind, 4, kVectors>(depth, a, b, c, c_stride, accumulate);
      advance(4);
    }
  }
  if (rows >= 2) {
    register_product<Kind, 2, kVectors>(depth, a, b, c, c_stride, accumulate);
    advance(2);
    if (rows >= 2) {
      register_product<Kind, 2, kVectors>(depth, a, b, c, c_stride, accumulate);
      advance(2);
    }
  }
  if (rows) register_product<Kind, 1, kVectors>(depth, a, b, c, c_stride, accumulate);
}

// c[rows, columns] (+)= a * b over `depth` units; columns is a multiple of the lanes.
template <class Kind>
void product(int64_t rows, int64_t columns, int64_t depth, Left<Kind> a, Right<Kind> b,
             typename Kind::Real* c, int64_t c_stride, bool accumulate) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<Kind, BFloat16TilesKind>) {
    if (a.column_stride != 1) {
      // brgemm wants the left operand by rows: transpose its units, 16 × 16 at a time. Columns past
      // the end of a row block are other queries of the same tile.
      uint32_t* turned = static_cast<uint32_t*>(scratch(ScratchSlot::D, kBlock * kBlock * 4));
      for (int64_t i = 0; i < rows; i += 16) {
        for (int64_t k = 0; k < depth; k += 16) {
          Vector<uint32_t> square[16];
          for (int r = 0; r < 16; ++r) {
            square[r] =
                k + r < depth ? load(a.data + (k + r) * a.column_stride + i) : Vector<uint32_t>{};
          }
          transpose_square(square);
          for (int r = 0; r < 16; ++r) store(turned + (i + r) * kBlock + k, square[r]);
        }
      }
      a = {turned, kBlock, 1};
    }
    attention_internal::tile_product_bf16(rows, columns, 2 * depth, a.data, 2 * a.row_stride,
                                          b.data, b.row_stride, c, c_stride, accumulate);
    return;
  }
#endif
  constexpr int kN = kLanes<typename Kind::Real>;
  constexpr int kWidest = kVectorBytes == 64 ? 4 : 2;
  int64_t vectors = columns / kN;
  // Five vectors are better cut 3 + 2 than 4 + 1: one vector alone cannot keep both ports busy.
  for (int64_t panels = (vectors + kWidest - 1) / kWidest; panels > 0; --panels) {
    const int64_t width = (vectors + panels - 1) / panels;
    switch (width) {
      case 1:
        panel_product<Kind, 1>(rows, depth, a, b, c, c_stride, accumulate);
        break;
      case 2:
        panel_product<Kind, 2>(rows, depth, a, b, c, c_stride, accumulate);
        break;
      default:
        if constexpr (kWidest == 4) {
          if (width == 3) {
            panel_product<Kind, 3>(rows, depth, a, b, c, c_stride, accumulate);
          } else {
            panel_product<Kind, 4>(rows, depth, a, b, c, c_stride, accumulate);
          }
        }
    }
    vectors -= width;
    b.data += width * kN;
    c += width * kN;
  }
}

// Hands out pieces of one scratch buffer. Run once without memory to learn the size.
class Arena {
 public:
  explicit Arena(void* memory = nullptr) : memory_(static_cast<char*>(memory)) {}
  template <class T>
  T* take(int64_t count) {
    T* piece = memory_ ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
    used_ += static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof(T)), 64));
    return piece;
  }
  size_t used() const { return used_; }

 private:
  char* memory_;
  size_t used_ = 0;
};

// Rows of an operand in memory: element (i, j) at data + (i * row_stride + j * column_stride)
// elements of `dtype`.
struct Rows {
  char* data;
  int64_t row_stride, column_stride;
  DType dtype;

  Rows at(int64_t row) const {
    return {data + row * row_stride * size_of(dtype), row_stride, column_stride, dtype};
  }
};

inline Rows rows_of(const AttentionTensor& tensor, DType dtype, int64_t batch, int64_t head) {
  return {static_cast<char*>(tensor.data) +
              (batch * tensor.strides[0] + head * tensor.strides[1]) * size_of(dtype),
          tensor.strides[2], tensor.strides[3], dtype};
}

// One row of `count` elements, widened.
template <class Real>
inline void load_row(Real* to, const Rows& from, int64_t row, int64_t count) {
  const char* data = from.at(row).data;
  const int64_t stride = from.column_stride;
  auto each = [&](auto* elements, auto widen) {
    if (stride == 1) {
      for (int64_t j = 0; j < count; ++j) to[j] = widen(elements[j]);
    } else {
      for (int64_t j = 0; j < count; ++j) to[j] = widen(elements[j * stride]);
    }
  };
  switch (from.dtype) {
    case DType::Float32:
      return each(reinterpret_cast<const float*>(data), [](float x) { return x; });
    case DType::Float64:
      return each(reinterpret_cast<const double*>(data),
                  [](double x) { return static_cast<Real>(x); });
    case DType::BFloat16:
      return each(reinterpret_cast<const uint16_t*>(data),
                  [](uint16_t x) { return bf16_to_f32(x); });
    default:
      break;
  }
  if constexpr (std::is_same_v<Real, float>) {
    if (stride == 1) {
      int64_t j = 0;
      for (; j + kLanes32 <= count; j += kLanes32) store(to + j, load_f16(data + 2 * j));
      for (; j < count; ++j) to[j] = f16_to_f32(reinterpret_cast<const uint16_t*>(data)[j]);
      return;
    }
  }
  each(reinterpret_cast<const uint16_t*>(data), [](uint16_t x) { return f16_to_f32(x); });
}

// One row, times a factor, rounded to the memory's dtype.
template <class Real>
inline void store_row(const Rows& to, int64_t row, const Real* from, int64_t count, Real factor) {
  char* data = to.at(row).data;
  const int64_t stride = to.column_stride;
  auto each = [&](auto* elements, auto narrow) {
    if (stride == 1) {
      for (int64_t j = 0; j < count; ++j) elements[j] = narrow(from[j] * factor);
    } else {
      for (int64_t j = 0; j < count; ++j) elements[j * stride] = narrow(from[j] * factor);
    }
  };
  switch (to.dtype) {
    case DType::Float32:
      return each(reinterpret_cast<float*>(data), [](Real x) { return static_cast<float>(x); });
    case DType::Float64:
      return each(reinterpret_cast<double*>(data), [](Real x) { return x; });
    case DType::BFloat16:
      return each(reinterpret_cast<uint16_t*>(data),
                  [](Real x) { return f32_to_bf16(static_cast<float>(x)); });
    default:
      break;
  }
  if constexpr (std::is_same_v<Real, float>) {
    if (stride == 1) {
      int64_t j = 0;
      for (; j + kLanes32 <= count; j += kLanes32) {
        store_f16(data + 2 * j, load(from + j) * broadcast(factor));
      }
      for (; j < count; ++j) reinterpret_cast<uint16_t*>(data)[j] = f32_to_f16(from[j] * factor);
      return;
    }
  }
  each(reinterpret_cast<uint16_t*>(data), [](Real x) { return f32_to_f16(static_cast<float>(x)); });
}

// How an operand's rows are brought into units. `Natural` rows hold their elements along the width:
// `units` of them, padded so that `padded` can be read.
template <class Kind>
struct Natural {
  const typename Kind::Unit* data;
  int64_t row_stride;
};

template <class Kind>
inline int64_t units_of(int64_t elements) {
  return (elements + Kind::kPerUnit - 1) / Kind::kPerUnit;
}
// The width of products' results and of right operands: whole vectors.
template <class Kind>
inline int64_t padded(int64_t width) {
  return round_up(width, kLanes<typename Kind::Real>);
}

// Whether memory can be used as it is: no conversion, no padding, units whole.
template <class Kind>
inline bool is_natural(const Rows& rows, int64_t width) {
  if constexpr (kIsBFloat16<Kind>) {
    return rows.column_stride == 1 && width % 2 == 0 && rows.row_stride % 2 == 0;
  } else {
    return size_of(rows.dtype) == sizeof(typename Kind::Unit) && rows.column_stride == 1 &&
           width % kLanes<typename Kind::Real> == 0;
  }
}

// Units a packed copy takes; none where the memory is used directly.
template <class Kind>
inline int64_t natural_row_units(int64_t width) {
  return kIsBFloat16<Kind> ? units_of<Kind>(width) : padded<Kind>(width);
}
template <class Kind>
inline int64_t natural_copy_units(const Rows& rows, int64_t width, int64_t count) {
  return is_natural<Kind>(rows, width) ? 0 : count * natural_row_units<Kind>(width);
}

template <class Kind>
inline Natural<Kind> natural(const Rows& rows, int64_t width, int64_t count,
                             typename Kind::Unit* copy) {
  using Unit = typename Kind::Unit;
  if (is_natural<Kind>(rows, width)) {
    return {reinterpret_cast<const Unit*>(rows.data), rows.row_stride / Kind::kPerUnit};
  }
  const int64_t stride = natural_row_units<Kind>(width);
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (kIsBFloat16<Kind>) {
      uint16_t* to = reinterpret_cast<uint16_t*>(copy + i * stride);
      const uint16_t* from = reinterpret_cast<const uint16_t*>(rows.at(i).data);
      for (int64_t j = 0; j < width; ++j) to[j] = from[j * rows.column_stride];
      if (width % 2) to[width] = 0;
    } else {
      load_row<typename Kind::Real>(copy + i * stride, rows, i, width);
      for (int64_t j = width; j < stride; ++j) copy[i * stride + j] = 0;
    }
  }
  return {copy, stride};
}

// [count, width] rows as the right operand of a product over the width: units along columns,
// kBlock rows side by side. to: units_of(width) × kBlock. Lanes past `count`, to `lanes`, are zero.
template <class Kind>
inline void pack_transposed(typename Kind::Unit* to, Natural<Kind> from, int64_t width,
                            int64_t count, int64_t lanes) {
  using Unit = typename Kind::Unit;
  const int64_t units = units_of<Kind>(width);
  int64_t done = 0;
  if constexpr (sizeof(Unit) == 4) {
    constexpr int kN = kLanes<Unit>;
    // A packed or fp32 row can be read to the end of its last vector; a row of pairs cannot.
    const int64_t readable = kIsBFloat16<Kind> ? units / kN * kN : round_up(units, kN);
    for (int64_t k = 0; k < readable; k += kN) {
      for (int64_t i = 0; i < lanes; i += kN) {
        VectorU32 square[kN];
#pragma GCC unroll 16
        for (int r = 0; r < kN; ++r) {
          square[r] = i + r < count ? (VectorU32)load(from.data + (i + r) * from.row_stride + k)
                                    : VectorU32{};
        }
        transpose_square(square);
        const int rows = static_cast<int>(units - k < kN ? units - k : kN);
        for (int r = 0; r < rows; ++r) store(to + (k + r) * kBlock + i, square[r]);
      }
    }
    done = readable;
  }
  for (int64_t k = done; k < units; ++k) {
    for (int64_t i = 0; i < lanes; ++i) {
      to[k * kBlock + i] = i < count ? from.data[i * from.row_stride + k] : Unit{};
    }
  }
}

// [count, width] rows as the right operand of a product over the rows. Numbers: the natural rows
// themselves. Pairs: rows 2i and 2i + 1 interleaved, an odd last one with zeros.
template <class Kind>
inline int64_t right_copy_units(int64_t width, int64_t count) {
  return kIsBFloat16<Kind> ? units_of<Kind>(count) * padded<Kind>(width) : 0;
}
template <class Kind>
inline Right<Kind> right_operand(Natural<Kind> from, int64_t width, int64_t count,
                                 typename Kind::Unit* copy) {
  if constexpr (!kIsBFloat16<Kind>) {
    (void)width, (void)count, (void)copy;
    return {from.data, from.row_stride};
  } else {
    const int64_t stride = padded<Kind>(width);
    for (int64_t i = 0; i < count; i += 2) {
      const uint16_t* even =
          reinterpret_cast<const uint16_t*>(from.data + i / 2 * 2 * from.row_stride);
      const uint16_t* odd =
          reinterpret_cast<const uint16_t*>(from.data + (i + 1) * from.row_stride);
      uint32_t* to = copy + i / 2 * stride;
      if (i + 1 < count) {
        for (int64_t j = 0; j < width; ++j) to[j] = even[j] | static_cast<uint32_t>(odd[j]) << 16;
      } else {
        for (int64_t j = 0; j < width; ++j) to[j] = even[j];
      }
      for (int64_t j = width; j < stride; ++j) to[j] = 0;
    }
    return {copy, stride};
  }
}

// Scores live in the base-2 logarithm, so that a probability is one multiply-add and an exp2.
inline constexpr double kLog2E = 1.4426950408889634;
inline constexpr double kLn2 = 0.6931471805599453;

// Where a tile lies, and what of it the causal mask leaves.
struct TileRange {
  int64_t first_query, first_key;
  int queries, keys;
  bool causal;

  // Whether the causal edge crosses the tile.
  bool crossed() const { return causal && first_key + keys - 1 > first_query; }
  // Keys (from the first on) that any query of the kStep queries from `query` on sees.
  int keys_seen(int query) const {
    if (!crossed()) return keys;
    const int64_t seen = first_query + query + kStep - first_key;
    return static_cast<int>(seen < 0 ? 0 : seen < keys ? seen : keys);
  }
  // The first multiple of kStep such that some query from there on sees a key >= `key`.
  int first_query_seeing(int key) const {
    if (!crossed()) return 0;
    const int64_t first = first_key + key - first_query;
    return static_cast<int>(first < 0 ? 0 : first / kStep * kStep);
  }
};

// The mask of a tile, [key][query], in base-2 logarithms: added to the scores.
enum class MaskEffect : uint8_t { None, Some, All };

// One row of a mask as numbers to add, in base e.
template <class Real>
inline void load_mask_row(Real* to, const Rows& from, int64_t row, int count) {
  if (from.dtype != DType::Bool) return load_row<Real>(to, from, row, count);
  constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
  const uint8_t* keep = reinterpret_cast<const uint8_t*>(from.at(row).data);
  if (from.column_stride == 1) {
    for (int j = 0; j < count; ++j) to[j] = keep[j] ? Real{0} : -kInfinity;
  } else {
    for (int j = 0; j < count; ++j) to[j] = keep[j * from.column_stride] ? Real{0} : -kInfinity;
  }
}

// An additive mask for scores to base 2. A finite mask stays finite: rows hidden by the most
// negative number everywhere are uniform, as they are where the scores are computed in base e.
template <class V>
ACCEL_INLINE V mask_to_base_2(V mask) {
  using Real = std::remove_cvref_t<decltype(mask[0])>;
  const V nothing = broadcast(-std::numeric_limits<Real>::infinity());
  const V lowest = broadcast(std::numeric_limits<Real>::lowest());
  V scaled = mask * broadcast(static_cast<Real>(kLog2E));
  scaled = scaled < lowest ? lowest : scaled;
  return mask == nothing ? nothing : scaled;
}

// The mask of a tile; `rows` is a tile of scratch memory. Lanes past the last query, up to the next
// multiple of kStep, are zero.
template <class Real>
inline MaskEffect load_mask(Real* to, Real* rows, const Rows& mask, const TileRange& tile) {
  using V = Vector<Real>;
  constexpr int kN = kLanes<Real>;
  const V nothing = broadcast(-std::numeric_limits<Real>::infinity());
  Rows part = mask.at(tile.first_query);
  part.data += tile.first_key * part.column_stride * size_of(part.dtype);
  const int keys = static_cast<int>(round_up(tile.keys, kN));
  const int lanes = static_cast<int>(round_up(tile.queries, kStep));
  const int distinct = mask.row_stride == 0 ? 1 : tile.queries;
  auto hidden = nothing != nothing, kept = hidden;
  for (int i = 0; i < distinct; ++i) {
    Real* row = rows + i * kBlock;
    load_mask_row<Real>(row, part, i, tile.keys);
    for (int j = tile.keys; j < keys; ++j) row[j] = row[0];
    for (int j = 0; j < keys; j += kN) {
      const V value = load(row + j);
      hidden |= value != V{};
      kept |= value != nothing;
      store(row + j, mask_to_base_2(value));
    }
  }
  if (!any_lane(kept)) return MaskEffect::All;
  if (!any_lane(hidden)) return MaskEffect::None;
  if (distinct == 1) {
    for (int j = 0; j < tile.keys; ++j) {
      for (int i = 0; i < lanes; i += kN) store(to + j * kBlock + i, broadcast(rows[j]));
    }
    return MaskEffect::Some;
  }
  for (int i = tile.queries; i < lanes; ++i) {
    for (int j = 0; j < keys; ++j) rows[i * kBlock + j] = 0;
  }
  if constexpr (sizeof(Real) == 4) {
    for (int j = 0; j < keys; j += kN) {
      for (int i = 0; i < lanes; i += kN) {
        VectorU32 square[kN];
#pragma GCC unroll 16
        for (int r = 0; r < kN; ++r) square[r] = (VectorU32)load(rows + (i + r) * kBlock + j);
        transpose_square(square);
#pragma GCC unroll 16
        for (int r = 0; r < kN; ++r) store(to + (j + r) * kBlock + i, square[r]);
      }
    }
  } else {
    for (int j = 0; j < tile.keys; ++j) {
      for (int i = 0; i < lanes; ++i) to[j * kBlock + i] = rows[i * kBlock + j];
    }
  }
  return MaskEffect::Some;
}

// Dropout: Philox4x32-10 with one query a lane, keys going down. Four numbers of a block are the
// four words of one query, so nothing is shuffled.
struct Dropout {
  uint64_t seed = 0, offset = 0;
  // A number is its word's upper 24 bits times 2^-24; below the rate means bits < threshold.
  int32_t threshold = 0;
  double keep_scale = 1;  // 1 / (1 - rate); 0 where everything is dropped

  explicit Dropout(const Attention& args)
      : seed(static_cast<uint64_t>(args.seed)),
        offset(static_cast<uint64_t>(args.offset)),
        threshold(static_cast<int32_t>(__builtin_ceil(args.dropout * 16777216.0))),
        keep_scale(args.dropout >= 1 ? 0 : 1 / (1 - args.dropout)) {}
};

// One word of a Philox block in every 64-bit lane (upper halves are left over from products).
struct PhiloxWords {
  VectorU64 word[4];
};
ACCEL_INLINE PhiloxWords philox_words(VectorU64 counter, uint64_t seed) {
  const VectorU64 m0 = broadcast<uint64_t>(detail::kPhiloxM0);
  const VectorU64 m1 = broadcast<uint64_t>(detail::kPhiloxM1);
  VectorU64 c0 = counter, c1 = counter >> 32, c2 = {}, c3 = {};
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < detail::kPhiloxRounds; ++round) {
    const VectorU64 first = detail::multiply_low_halves(c0, m0);
    const VectorU64 second = detail::multiply_low_halves(c2, m1);
    c0 = (second >> 32) ^ c1 ^ broadcast<uint64_t>(k0);
    c1 = second;
    c2 = (first >> 32) ^ c3 ^ broadcast<uint64_t>(k1);
    c3 = first;
    k0 += detail::kPhiloxW0;
    k1 += detail::kPhiloxW1;
  }
  return {{c0, c1, c2, c3}};
}

// The numbers of one vector of queries. Real is the scores' type: it sets how many lanes.
template <class Real>
class DropoutColumn {
 public:
  using Word = std::conditional_t<sizeof(Real) == 4, uint32_t, uint64_t>;
  using Mask = Vector<std::make_signed_t<Word>>;

  // first_index: the linear index of (first query of the vector, first key); its successor in the
  // lanes is row_length further.
  DropoutColumn(const Dropout& dropout, int64_t first_index, int64_t row_length)
      : seed_(dropout.seed), threshold_(dropout.threshold) {
    constexpr int kParts = 8 / sizeof(Word);
    for (int lane = 0; lane < kLanes<Real>; ++lane) {
      const uint64_t index = static_cast<uint64_t>(first_index + lane * row_length);
      counter_[lane % kParts][lane / kParts] = dropout.offset + index / 4;
      phase_[lane] = static_cast<Word>(index % 4);
      aligned_ &= index % 4 == 0;
    }
    if (!aligned_) advance(words_);
  }

  // Which elements of the next four keys are kept: all bits set or none.
  void next(Mask keep[4]) {
    if (aligned_) {
      Vector<Word> words[4];
      advance(words);
      for (int r = 0; r < 4; ++r) keep[r] = kept(words[r]);
      return;
    }
    Vector<Word> window[8];
    for (int r = 0; r < 4; ++r) window[r] = words_[r];
    advance(window + 4);
    for (int r = 0; r < 4; ++r) words_[r] = window[4 + r];
    const auto odd = (phase_ & 1) != 0, upper = (phase_ & 2) != 0;
    for (int r = 0; r < 6; ++r) window[r] = odd ? window[r + 1] : window[r];
    for (int r = 0; r < 4; ++r) keep[r] = kept(upper ? window[r + 2] : window[r]);
  }

 private:
  Mask kept(Vector<Word> words) const { return (Mask)(words >> 8) >= (Mask{} + threshold_); }

  void advance(Vector<Word>* words) {
    const PhiloxWords even = philox_words(counter_[0], seed_);
    counter_[0] += 1;
    if constexpr (sizeof(Word) == 4) {
      const PhiloxWords odd = philox_words(counter_[1], seed_);
      counter_[1] += 1;
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        words[r] = (Vector<Word>)((even.word[r] & 0xffffffffu) | odd.word[r] << 32);
      }
    } else {
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) words[r] = even.word[r] & 0xffffffffu;
    }
  }

  Vector<uint64_t> counter_[8 / sizeof(Word)];
  Vector<Word> phase_, words_[4];
  uint64_t seed_;
  std::make_signed_t<Word> threshold_;
  bool aligned_ = true;
};

// Negates a packed operand: a negative scale is then a positive one everywhere.
template <class Kind>
inline void flip_signs(typename Kind::Unit* operand, int64_t units) {
  for (int64_t i = 0; i < units * kBlock; ++i) {
    if constexpr (kIsBFloat16<Kind>) {
      operand[i] ^= 0x80008000u;
    } else {
      operand[i] = -operand[i];
    }
  }
}

// Gives the thread's AMX state back at the end of a chunk.
template <class Kind>
inline void release_tiles() {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<Kind, BFloat16TilesKind>) attention_internal::tile_product_release();
#endif
}

// Calls body(Kind{}) with the kind of product for this dtype on this machine.
template <class Body>
inline void with_kind(const Attention& args, Body&& body) {
  if (args.dtype == DType::Float64) return body(Float64Kind{});
#if defined(__AVX512F__)
  if (args.dtype == DType::BFloat16) {
    using attention_internal::Bf16Path;
    const Bf16Path path = attention_internal::bf16_path();
    // A brgemm call costs 0.1 µs and its code is made anew for each shape: not worth it below a
    // tile.
    const bool whole_tiles = args.query_length >= kBlock && args.key_length >= kBlock;
    if (path == Bf16Path::Tiles && whole_tiles) return body(BFloat16TilesKind{});
    if (path != Bf16Path::Convert) return body(BFloat16Kind{});
  }
#endif
  body(Float32Kind{});
}

// How many pieces of work one chunk takes: at least about 10 µs' worth, from the shape alone, so
// that a tiny model does not wake a team for a microsecond.
inline int64_t pieces_per_chunk(double multiply_adds_per_piece, int64_t pieces) {
  constexpr double kEnough = 6e5;
  const double wanted = kEnough / (multiply_adds_per_piece + 1);
  return wanted <= 1                            ? 1
         : wanted < static_cast<double>(pieces) ? static_cast<int64_t>(wanted)
                                                : (pieces > 0 ? pieces : 1);
}

}  // namespace accel::kernels::ACCEL_ISA::attention
