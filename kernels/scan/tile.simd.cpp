// The arithmetic of scans, see tile.h: vectors run across lanes, so that every lane adds up its own
// elements in their order.
#include "kernels/scan/tile.h"

#include <type_traits>

#include "kernels/common/convert.h"
#include "kernels/common/math.h"
#include "kernels/common/simd.h"

namespace accel::kernels::ACCEL_ISA {
namespace scans {
namespace {

using HalfF32 = float __attribute__((vector_size(kVectorBytes / 2)));
using HalfI32 = int32_t __attribute__((vector_size(kVectorBytes / 2)));

template <class Element>
inline constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(Element));
// Vectors of Elements that hold kScanLanes of them.
template <class Element>
inline constexpr int kVectors = kScanLanes / kWidth<Element>;

template <class Element>
ACCEL_INLINE Vector<Element> load_as(const Element* from) {
  return load<Vector<Element>>(from);
}
template <class Accumulator>
ACCEL_INLINE Vector<Accumulator> load_lanes(const Accumulator* from) {
  return load<Vector<Accumulator>>(from);
}
template <class Accumulator>
ACCEL_INLINE VectorF64 load_lanes(const float* from) requires(sizeof(Accumulator) == 8) {
  return __builtin_convertvector(load<HalfF32>(from), VectorF64);
}

template <class Element>
ACCEL_INLINE void store_lanes(Element* to, Vector<Element> x) {
  store(to, x);
}
ACCEL_INLINE void store_lanes(float* to, VectorF64 x) {
  store(to, __builtin_convertvector(x, HalfF32));
}
ACCEL_INLINE void store_lanes(int64_t* to, VectorI32 x) {
  HalfI32 half[2];
  std::memcpy(half, &x, sizeof(x));
  store(to, __builtin_convertvector(half[0], VectorI64));
  store(to + kLanes64, __builtin_convertvector(half[1], VectorI64));
}

// Whole numbers wrap.
ACCEL_INLINE double real_or_integer(const ScanValue& value, double) { return value.real; }
ACCEL_INLINE float real_or_integer(const ScanValue& value, float) {
  return static_cast<float>(value.real);
}
ACCEL_INLINE uint64_t real_or_integer(const ScanValue& value, uint64_t) {
  return static_cast<uint64_t>(value.integer);
}
ACCEL_INLINE int64_t real_or_integer(const ScanValue& value, int64_t) { return value.integer; }
ACCEL_INLINE void set(ScanValue* value, double x) { value->real = x; }
ACCEL_INLINE void set(ScanValue* value, float x) { value->real = x; }
ACCEL_INLINE void set(ScanValue* value, uint64_t x) { value->integer = static_cast<int64_t>(x); }
ACCEL_INLINE void set(ScanValue* value, int64_t x) { value->integer = x; }

// The state of kScanLanes lanes in vectors, and back.
template <class Element>
ACCEL_INLINE void load_values(const ScanValue* from, Vector<Element>* to) {
  Element lanes[kScanLanes];
  for (int i = 0; i < kScanLanes; ++i) lanes[i] = real_or_integer(from[i], Element{});
  std::memcpy(to, lanes, sizeof(lanes));
}
template <class Element>
ACCEL_INLINE void store_values(ScanValue* to, const Vector<Element>* from) {
  Element lanes[kScanLanes];
  std::memcpy(lanes, from, sizeof(lanes));
  for (int i = 0; i < kScanLanes; ++i) set(&to[i], lanes[i]);
}
template <class Element, class Number>
ACCEL_INLINE void load_numbers(const Number* from, Vector<Element>* to) {
  Element lanes[kScanLanes];
  for (int i = 0; i < kScanLanes; ++i) lanes[i] = static_cast<Element>(from[i]);
  std::memcpy(to, lanes, sizeof(lanes));
}
template <class Element, class Number>
ACCEL_INLINE void store_numbers(Number* to, const Vector<Element>* from) {
  Element lanes[kScanLanes];
  std::memcpy(lanes, from, sizeof(lanes));
  for (int i = 0; i < kScanLanes; ++i) to[i] = static_cast<Number>(lanes[i]);
}

template <class Element>
ACCEL_INLINE const Element* input_at(const ScanTile& tile, int64_t step, int64_t lane) {
  return reinterpret_cast<const Element*>(static_cast<const char*>(tile.in) + step * tile.in_step) +
         lane;
}
template <class Element>
ACCEL_INLINE Element* output_at(const ScanTile& tile, int64_t step, int64_t lane) {
  return reinterpret_cast<Element*>(static_cast<char*>(tile.out) + step * tile.out_step) + lane;
}
ACCEL_INLINE int64_t* index_at(const ScanTile& tile, int64_t step, int64_t lane) {
  return reinterpret_cast<int64_t*>(reinterpret_cast<char*>(tile.indices) +
                                    step * tile.index_step) +
         lane;
}

// --- sums and products ---------------------------------------------------------------------------

template <ScanOp op, class Element, class Accumulator, bool kWrites>
void arithmetic(const ScanTile& tile, ScanState* state) {
  constexpr int kCount = kVectors<Accumulator>, kStep = kWidth<Accumulator>;
  for (int64_t lane = 0; lane < tile.lanes; lane += kScanLanes) {
    Vector<Accumulator> sum[kCount];
    load_values<Accumulator>(state->value + lane, sum);
    for (int64_t step = 0; step < tile.steps; ++step) {
      const Element* in = input_at<Element>(tile, step, lane);
#pragma GCC unroll 8
      for (int i = 0; i < kCount; ++i) {
        const auto x = load_lanes<Accumulator>(in + i * kStep);
        sum[i] = op == ScanOp::Sum ? sum[i] + x : sum[i] * x;
      }
      if constexpr (kWrites) {
        Element* out = output_at<Element>(tile, step, lane);
#pragma GCC unroll 8
        for (int i = 0; i < kCount; ++i) store_lanes(out + i * kStep, sum[i]);
      }
    }
    store_values<Accumulator>(state->value + lane, sum);
  }
}

template <ScanOp op, bool kWrites>
void arithmetic(const ScanTile& tile, ScanState* state) {
  switch (tile.element) {
    case ScanElement::Real32:
      return tile.wide ? arithmetic<op, float, double, kWrites>(tile, state)
                       : arithmetic<op, float, float, kWrites>(tile, state);
    case ScanElement::Real64:
      return arithmetic<op, double, double, kWrites>(tile, state);
    case ScanElement::Int64:
      return arithmetic<op, uint64_t, uint64_t, kWrites>(tile, state);
  }
}

// --- extrema -------------------------------------------------------------------------------------

template <class Element>
struct IndexOf {
  using Type = int64_t;
};
template <>
struct IndexOf<float> {
  using Type = int32_t;
};

template <ScanOp op, class Element, bool kWrites>
void extremum(const ScanTile& tile, ScanState* state) {
  using Index = typename IndexOf<Element>::Type;
  constexpr int kCount = kVectors<Element>, kStep = kWidth<Element>;
  constexpr bool kIsReal = !std::is_same_v<Element, int64_t>;
  for (int64_t lane = 0; lane < tile.lanes; lane += kScanLanes) {
    Vector<Element> best[kCount];
    Vector<Index> found[kCount], position[kCount];
    load_values<Element>(state->value + lane, best);
    load_numbers<Index>(state->index + lane, found);
    load_numbers<Index>(state->position + lane, position);
    for (int64_t step = 0; step < tile.steps; ++step) {
      const Element* in = input_at<Element>(tile, step, lane);
#pragma GCC unroll 8
      for (int i = 0; i < kCount; ++i) {
        const auto x = load_lanes<Element>(in + i * kStep);
        auto better = op == ScanOp::LastMaximum    ? x >= best[i]
                      : op == ScanOp::LastMinimum  ? x <= best[i]
                      : op == ScanOp::FirstMaximum ? x > best[i]
                                                   : x < best[i];
        if constexpr (kIsReal) {
          constexpr bool kLast = op == ScanOp::LastMaximum || op == ScanOp::LastMinimum;
          better |= kLast ? x != x : (x != x) & (best[i] == best[i]);
        }
        best[i] = better ? x : best[i];
        found[i] = better ? position[i] : found[i];
        position[i] += 1;
      }
      if constexpr (kWrites) {
        Element* out = output_at<Element>(tile, step, lane);
        int64_t* indices = index_at(tile, step, lane);
#pragma GCC unroll 8
        for (int i = 0; i < kCount; ++i) {
          store_lanes(out + i * kStep, best[i]);
          store_lanes(indices + i * kStep, found[i]);
        }
      }
    }
    store_values<Element>(state->value + lane, best);
    store_numbers<Index>(state->index + lane, found);
    store_numbers<Index>(state->position + lane, position);
  }
}

template <ScanOp op, bool kWrites>
void extremum(const ScanTile& tile, ScanState* state) {
  switch (tile.element) {
    case ScanElement::Real32:
      return extremum<op, float, kWrites>(tile, state);
    case ScanElement::Real64:
      return extremum<op, double, kWrites>(tile, state);
    case ScanElement::Int64:
      return extremum<op, int64_t, kWrites>(tile, state);
  }
}

// Vectors find the extremum, then where it is first: rarely, since few pieces of a line beat what
// came before.
template <bool kMaximum, class Element>
void find_extremum(const Element* x, int64_t count, int64_t position, ScanValue* value,
                   int64_t* index) {
  using V = Vector<Element>;
  constexpr int kLanes = kWidth<Element>, kUnroll = 4;
  constexpr bool kIsReal = !std::is_same_v<Element, int64_t>;
  const Element before = real_or_integer(*value, Element{});
  if (before != before) return;
  V best[kUnroll];
  for (V& each : best) each = splat<V>(before);
  auto is_nan = best[0] != best[0];
  int64_t i = 0;
  for (; i + kUnroll * kLanes <= count; i += kUnroll * kLanes) {
#pragma GCC unroll 4
    for (int u = 0; u < kUnroll; ++u) {
      const V next = load<V>(x + i + u * kLanes);
      best[u] = (kMaximum ? next > best[u] : next < best[u]) ? next : best[u];
      if constexpr (kIsReal) is_nan |= next != next;
    }
  }
  bool has_nan = kIsReal && any(is_nan);
  Element found = before;
  auto take = [&](Element next) {
    if (kMaximum ? next > found : next < found) found = next;
    has_nan |= next != next;
  };
  for (const V& each : best) {
    for (int lane = 0; lane < kLanes; ++lane) take(each[lane]);
  }
  for (; i < count; ++i) take(x[i]);
  if (!has_nan && found == before) return;
  i = 0;
  if (!has_nan) {
    const V wanted = splat<V>(found);
    while (i + kLanes <= count && !any(load<V>(x + i) == wanted)) i += kLanes;
  }
  while (has_nan ? x[i] == x[i] : x[i] != found) ++i;
  set(value, x[i]);
  *index = position + i;
}

template <bool kMaximum>
void find_extremum(ScanElement element, const void* x, int64_t count, int64_t position,
                   ScanValue* value, int64_t* index) {
  switch (element) {
    case ScanElement::Real32:
      return find_extremum<kMaximum>(static_cast<const float*>(x), count, position, value, index);
    case ScanElement::Real64:
      return find_extremum<kMaximum>(static_cast<const double*>(x), count, position, value, index);
    case ScanElement::Int64:
      return find_extremum<kMaximum>(static_cast<const int64_t*>(x), count, position, value, index);
  }
}

// --- log of a sum of exponentials ----------------------------------------------------------------

// A greater element becomes the maximum, and all so far are counted relative to it; else it is one
// more term. Either way one exponential, of what is never positive.
template <bool kWrites>
void log_sum_exp32(const ScanTile& tile, ScanState* state) {
  constexpr int kCount = kVectors<float>;
  for (int64_t lane = 0; lane < tile.lanes; lane += kScanLanes) {
    VectorF32 maximum[kCount];
    VectorF64 terms[2 * kCount];
    load_values<float>(state->value + lane, maximum);
    std::memcpy(terms, state->terms + lane, sizeof(terms));
    for (int64_t step = 0; step < tile.steps; ++step) {
      const float* in = input_at<float>(tile, step, lane);
#pragma GCC unroll 4
      for (int i = 0; i < kCount; ++i) {
        const VectorF32 x = load<VectorF32>(in + i * kLanes32);
        const VectorI32 greater = x > maximum[i];
        // Equal infinities are no distance apart.
        const VectorF32 distance = x == maximum[i] ? VectorF32{} : -abs(x - maximum[i]);
        const VectorF32 factor = exp(distance);
        HalfF32 factors[2];
        HalfI32 greaters[2];
        std::memcpy(factors, &factor, sizeof(factor));
        std::memcpy(greaters, &greater, sizeof(greater));
        float sums[kLanes32];
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
          const VectorF64 e = __builtin_convertvector(factors[half], VectorF64);
          const VectorI64 is_greater = __builtin_convertvector(greaters[half], VectorI64);
          VectorF64& t = terms[2 * i + half];
          t = is_greater ? (t + 1.0) * e : t + e;
          store(sums + half * kLanes64, __builtin_convertvector(t, HalfF32));
        }
        maximum[i] = greater ? x : maximum[i];
        if constexpr (kWrites) {
          store(output_at<float>(tile, step, lane) + i * kLanes32,
                maximum[i] + log1p(load<VectorF32>(sums)));
        }
      }
    }
    store_values<float>(state->value + lane, maximum);
    std::memcpy(state->terms + lane, terms, sizeof(terms));
  }
}

template <bool kWrites>
void log_sum_exp64(const ScanTile& tile, ScanState* state) {
  for (int64_t step = 0; step < tile.steps; ++step) {
    const double* in = input_at<double>(tile, step, 0);
    for (int64_t lane = 0; lane < tile.lanes; ++lane) {
      double& maximum = state->value[lane].real;
      double& terms = state->terms[lane];
      const double x = in[lane];
      const double factor = x == maximum ? 1.0 : __builtin_exp(-__builtin_fabs(x - maximum));
      terms = x > maximum ? (terms + 1) * factor : terms + factor;
      maximum = x > maximum ? x : maximum;
      if constexpr (kWrites)
        output_at<double>(tile, step, 0)[lane] = maximum + __builtin_log1p(terms);
    }
  }
}

template <bool kWrites>
void scan(const ScanTile& tile, ScanState* state) {
  switch (tile.op) {
    case ScanOp::Sum:
      return arithmetic<ScanOp::Sum, kWrites>(tile, state);
    case ScanOp::Product:
      return arithmetic<ScanOp::Product, kWrites>(tile, state);
    case ScanOp::LogSumExp:
      return tile.element == ScanElement::Real64 ? log_sum_exp64<kWrites>(tile, state)
                                                 : log_sum_exp32<kWrites>(tile, state);
    case ScanOp::LastMaximum:
      return extremum<ScanOp::LastMaximum, kWrites>(tile, state);
    case ScanOp::LastMinimum:
      return extremum<ScanOp::LastMinimum, kWrites>(tile, state);
    case ScanOp::FirstMaximum:
      return extremum<ScanOp::FirstMaximum, false>(tile, state);
    case ScanOp::FirstMinimum:
      return extremum<ScanOp::FirstMinimum, false>(tile, state);
  }
}

// --- dtypes --------------------------------------------------------------------------------------

template <class From, class To>
void cast(const void* from, void* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    static_cast<To*>(to)[i] = static_cast<To>(static_cast<const From*>(from)[i]);
  }
}

}  // namespace
}  // namespace scans

void scan_tile(const ScanTile& tile, ScanState* state) {
  return tile.out ? scans::scan<true>(tile, state) : scans::scan<false>(tile, state);
}

void find_extremum(ScanOp op, ScanElement element, const void* elements, int64_t count,
                   int64_t position, ScanValue* value, int64_t* index) {
  return op == ScanOp::FirstMaximum
             ? scans::find_extremum<true>(element, elements, count, position, value, index)
             : scans::find_extremum<false>(element, elements, count, position, value, index);
}

void widen_elements(DType dtype, const void* from, void* to, int64_t count) {
  using namespace scans;
  switch (dtype) {
    case DType::BFloat16:
    case DType::Float16: {
      const uint16_t* half = static_cast<const uint16_t*>(from);
      float* wide = static_cast<float*>(to);
      const bool brain = dtype == DType::BFloat16;
      int64_t i = 0;
      for (; i + kLanes32 <= count; i += kLanes32) {
        store(wide + i, brain ? load_bf16(half + i) : load_f16(half + i));
      }
      for (; i < count; ++i) wide[i] = brain ? bf16_to_f32(half[i]) : f16_to_f32(half[i]);
      return;
    }
    case DType::UInt8:
    case DType::Bool:
      return cast<uint8_t, int64_t>(from, to, count);
    case DType::Int8:
      return cast<int8_t, int64_t>(from, to, count);
    case DType::Int16:
      return cast<int16_t, int64_t>(from, to, count);
    case DType::Int32:
      return cast<int32_t, int64_t>(from, to, count);
    default:
      std::memcpy(to, from, static_cast<size_t>(count * size_of(dtype)));
  }
}

void narrow_elements(DType dtype, const void* from, void* to, int64_t count) {
  using namespace scans;
  switch (dtype) {
    case DType::BFloat16:
    case DType::Float16: {
      uint16_t* half = static_cast<uint16_t*>(to);
      const float* wide = static_cast<const float*>(from);
      const bool brain = dtype == DType::BFloat16;
      int64_t i = 0;
      for (; i + kLanes32 <= count; i += kLanes32) {
        const VectorF32 x = load<VectorF32>(wide + i);
        brain ? store_bf16(half + i, x) : store_f16(half + i, x);
      }
      for (; i < count; ++i) half[i] = brain ? f32_to_bf16(wide[i]) : f32_to_f16(wide[i]);
      return;
    }
    case DType::UInt8:
    case DType::Bool:
      return cast<int64_t, uint8_t>(from, to, count);
    case DType::Int8:
      return cast<int64_t, int8_t>(from, to, count);
    case DType::Int16:
      return cast<int64_t, int16_t>(from, to, count);
    case DType::Int32:
      return cast<int64_t, int32_t>(from, to, count);
    default:
      std::memcpy(to, from, static_cast<size_t>(count * size_of(dtype)));
  }
}

}  // namespace accel::kernels::ACCEL_ISA
