// Loops over resolved places, see runs.h.
#include "kernels/indexing/runs.h"

#include "kernels/common/elements.h"

namespace accel::kernels::ACCEL_ISA {
namespace runs {
namespace {

// --- places --------------------------------------------------------------------------------------

ACCEL_INLINE VectorI64 load_indices(const int64_t* from) { return load<VectorI64>(from); }
ACCEL_INLINE VectorI64 load_indices(const int32_t* from) {
  using Half = int32_t __attribute__((vector_size(kVectorBytes / 2)));
  return __builtin_convertvector(load<Half>(from), VectorI64);
}

// Adds the indices' parts without a branch, in the hope that all is well; returns whether it is.
template <class Integer>
bool add_valid_places(const IndexRun& run, int64_t* places) {
  const Integer* indices = static_cast<const Integer*>(run.indices);
  const int64_t wrap = run.negative == NegativeIndex::Wraps ? run.bound : 0;
  const int64_t skipped = run.skipped, stride = run.stride, count = run.count;
  const auto bound = static_cast<uint64_t>(run.bound);
  // May overflow for an index out of range, whose place is not used.
  const auto target_stride = static_cast<uint64_t>(run.target_stride);
  int64_t i = 0;
  VectorI64 nowhere = {};
  if (stride == 1) {
    const VectorU64 strides = VectorU64{} + target_stride, bounds = VectorU64{} + bound;
    for (; i + kLanes64 <= count; i += kLanes64) {
      const VectorI64 index = load_indices(indices + i), before = load<VectorI64>(places + i);
      const VectorU64 place = (VectorU64)(index + ((index < 0) & wrap));
      nowhere |= (place >= bounds) | (index == skipped) | (before < 0);
      // 64-bit products are slow, and elements of a contiguous row need none.
      store(places + i, (VectorU64)before + (target_stride == 1 ? place : place * strides));
    }
  }
  bool any = false;
  for (int lane = 0; lane < kLanes64; ++lane) any |= nowhere[lane] != 0;
  for (; i < count; ++i) {
    const auto index = static_cast<int64_t>(indices[i * stride]);
    const auto place = static_cast<uint64_t>(index < 0 ? index + wrap : index);
    any |= place >= bound || index == skipped || places[i] < 0;
    places[i] = static_cast<int64_t>(static_cast<uint64_t>(places[i]) + place * target_stride);
  }
  return !any;
}

template <class Integer>
int64_t add_places(const IndexRun& run, int64_t* places, bool* has_bad, int64_t* bad) {
  if (add_valid_places<Integer>(run, places)) return 0;
  const Integer* indices = static_cast<const Integer*>(run.indices);
  const int64_t wrap = run.negative == NegativeIndex::Wraps ? run.bound : 0;
  int64_t count = 0;
  for (int64_t i = 0; i < run.count; ++i) {
    const auto index = static_cast<int64_t>(indices[i * run.stride]);
    const auto place = static_cast<uint64_t>(index < 0 ? index + wrap : index);
    const bool in_range = place < static_cast<uint64_t>(run.bound), skipped = index == run.skipped;
    const auto before = static_cast<int64_t>(static_cast<uint64_t>(places[i]) -
                                             place * static_cast<uint64_t>(run.target_stride));
    if (in_range && !skipped && before >= 0) continue;
    places[i] = kNowhere;
    ++count;
    if (!in_range && !skipped) {
      *has_bad = true;
      *bad = index;
    }
  }
  return count;
}

// --- copies --------------------------------------------------------------------------------------

template <int kBytes>
struct alignas(1) Bytes {
  char bytes[kBytes];
};

// Calls body with a type of the element's size, and the number of such elements in one.
template <class Body>
void with_size(int64_t element_size, Body&& body) {
  switch (element_size) {
    case 1:
      return body(Bytes<1>{});
    case 2:
      return body(Bytes<2>{});
    case 4:
      return body(Bytes<4>{});
    case 8:
      return body(Bytes<8>{});
    default:
      return body(Bytes<16>{});
  }
}

// From target to other for reading, the other way for writing.
template <bool kRead, class Element>
void copy_run(const Run& run) {
  Element* target = reinterpret_cast<Element*>(run.target);
  Element* other = reinterpret_cast<Element*>(run.other);
  auto copy = [](Element* place, Element* value) { kRead ? * value = *place : * place = *value; };
  if (run.width == 1) {
    if (!run.has_nowhere && run.other_stride == 1) {
      for (int64_t i = 0; i < run.count; ++i) copy(target + run.places[i], other + i);
      return;
    }
    for (int64_t i = 0; i < run.count; ++i) {
      if (run.places[i] >= 0) copy(target + run.places[i], other + i * run.other_stride);
    }
    return;
  }
  const bool contiguous = run.target_row_stride == 1 && run.other_row_stride == 1;
  const size_t bytes = static_cast<size_t>(run.width) * sizeof(Element);
  for (int64_t i = 0; i < run.count; ++i) {
    if (run.places[i] < 0) continue;
    Element* place = target + run.places[i];
    Element* value = other + i * run.other_stride;
    if (contiguous) {
      kRead ? std::memcpy(value, place, bytes) : std::memcpy(place, value, bytes);
      continue;
    }
    for (int64_t j = 0; j < run.width; ++j) {
      copy(place + j * run.target_row_stride, value + j * run.other_row_stride);
    }
  }
}

// --- arithmetic ----------------------------------------------------------------------------------

struct Bool {
  bool value;
};
template <class Real>
struct Complex {
  Real real, imaginary;
};

// Floating elements are computed as elements.h says, all others as what they are.
using ACCEL_ISA::narrow;
using ACCEL_ISA::widen;
template <class Element>
ACCEL_INLINE Element widen(Element x) {
  return x;
}
template <class Element>
ACCEL_INLINE void narrow(Element* to, Element x) {
  *to = x;
}

template <class Element, class Real = decltype(widen(Element{}))>
inline constexpr bool kIsVector = __is_same(Real, float) || __is_same(Real, double);

// Integers wrap around, minima and maxima prefer NaN, truth values are joined by or and and.
template <IndexingMode kMode>
struct Operation {
  static constexpr bool kAdds = kMode == IndexingMode::Sum || kMode == IndexingMode::Mean;

  template <class Value>
  ACCEL_INLINE Value operator()(Value a, Value b) const {
    if constexpr (kAdds) return a + b;
    if constexpr (kMode == IndexingMode::Product) return a * b;
    // On vectors ?: works element by element.
    if constexpr (kMode == IndexingMode::Maximum) {
      const Value larger = a > b ? a : b;
      return a != a ? a : b != b ? b : larger;
    }
    if constexpr (kMode == IndexingMode::Minimum) {
      const Value smaller = a < b ? a : b;
      return a != a ? a : b != b ? b : smaller;
    }
  }
  template <class Integer>
  ACCEL_INLINE static Integer wrap(Integer a, Integer b) {
    const auto x = static_cast<uint64_t>(a), y = static_cast<uint64_t>(b);
    if constexpr (kAdds) return static_cast<Integer>(x + y);
    if constexpr (kMode == IndexingMode::Product) return static_cast<Integer>(x * y);
    if constexpr (kMode == IndexingMode::Maximum) return a > b ? a : b;
    return a < b ? a : b;
  }
  ACCEL_INLINE int8_t operator()(int8_t a, int8_t b) const { return wrap(a, b); }
  ACCEL_INLINE uint8_t operator()(uint8_t a, uint8_t b) const { return wrap(a, b); }
  ACCEL_INLINE int16_t operator()(int16_t a, int16_t b) const { return wrap(a, b); }
  ACCEL_INLINE int32_t operator()(int32_t a, int32_t b) const { return wrap(a, b); }
  ACCEL_INLINE int64_t operator()(int64_t a, int64_t b) const { return wrap(a, b); }
  ACCEL_INLINE Bool operator()(Bool a, Bool b) const {
    if constexpr (kAdds || kMode == IndexingMode::Maximum) return {a.value || b.value};
    return {a.value && b.value};
  }
  template <class Real>
  ACCEL_INLINE Complex<Real> operator()(Complex<Real> a, Complex<Real> b) const {
    return {a.real + b.real, a.imaginary + b.imaginary};
  }
};

// Rounded down for integers, as the CPU's mean.
template <class Value>
ACCEL_INLINE Value quotient(Value sum, int64_t count) {
  const auto divisor = static_cast<Value>(count);
  if constexpr (static_cast<Value>(0.5) != static_cast<Value>(0)) {
    return sum / divisor;
  } else {
    const int64_t wide = static_cast<int64_t>(sum);
    int64_t floor = wide / count;
    if (wide % count < 0) --floor;
    return static_cast<Value>(floor);
  }
}
ACCEL_INLINE Bool quotient(Bool sum, int64_t) { return sum; }
template <class Real>
ACCEL_INLINE Complex<Real> quotient(Complex<Real> sum, int64_t) {
  return sum;
}

template <class Element, IndexingMode kMode>
void reduce_run(const Run& run) {
  constexpr Operation<kMode> kOperation{};
  Element* target = reinterpret_cast<Element*>(run.target);
  const Element* other = reinterpret_cast<const Element*>(run.other);
  if (run.width == 1) {
    auto reduce_all = [&](int64_t stride) {
      for (int64_t i = 0; i < run.count; ++i) {
        if (run.places[i] < 0) continue;
        target[run.places[i]] = kOperation(target[run.places[i]], other[i * stride]);
      }
    };
    return run.other_stride == 1 ? reduce_all(1) : reduce_all(run.other_stride);
  }
  for (int64_t i = 0; i < run.count; ++i) {
    if (run.places[i] < 0) continue;
    Element* place = target + run.places[i];
    const Element* value = other + i * run.other_stride;
    int64_t j = 0;
    if constexpr (kIsVector<Element>) {
      constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Element));
      if (run.target_row_stride == 1 && run.other_row_stride == 1) {
        for (; j + kLanes <= run.width; j += kLanes) {
          store_narrow(place + j, kOperation(load_wide(place + j), load_wide(value + j)));
        }
      }
    }
    for (; j < run.width; ++j) {
      Element* to = place + j * run.target_row_stride;
      *to = kOperation(*to, value[j * run.other_row_stride]);
    }
  }
}

// Elements [j, j + kUnroll vectors) of one group's row: a column of memory is read once, with the
// results in registers.
template <class Element, IndexingMode kMode, int kUnroll, class ValueAt>
ACCEL_INLINE void reduce_columns(Element* place, int64_t j, int64_t count, bool include_self,
                                 const ValueAt& value_at) {
  using Real = decltype(widen(Element{}));
  using V = Vector<Real>;
  constexpr Operation<kMode> kOperation{};
  constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Real));
  V result[kUnroll];
  const Element* first = include_self ? place : value_at(0);
#pragma GCC unroll 4
  for (int u = 0; u < kUnroll; ++u) result[u] = load_wide(first + j + u * kLanes);
  for (int64_t i = include_self ? 0 : 1; i < count; ++i) {
    const Element* value = value_at(i) + j;
#pragma GCC unroll 4
    for (int u = 0; u < kUnroll; ++u) {
      result[u] = kOperation(result[u], load_wide(value + u * kLanes));
    }
  }
#pragma GCC unroll 4
  for (int u = 0; u < kUnroll; ++u) {
    if constexpr (kMode == IndexingMode::Mean) {
      result[u] /= splat<V>(static_cast<Real>(count + include_self));
    }
    store_narrow(place + j + u * kLanes, result[u]);
  }
}

// Calls body(begin, end, place) for every group.
template <class Body>
ACCEL_INLINE void for_each_group(const GroupedRows& rows, const Body& body) {
  for (int64_t begin = rows.begin; begin < rows.end;) {
    const uint64_t place = rows.entries[begin] >> rows.position_bits;
    int64_t end = begin + 1;
    while (end < rows.end && rows.entries[end] >> rows.position_bits == place) ++end;
    body(begin, end, static_cast<int64_t>(place) * rows.unit);
    begin = end;
  }
}

ACCEL_INLINE int64_t other_offset(const GroupedRows& rows, int64_t entry) {
  const uint64_t mask = (uint64_t{1} << rows.position_bits) - 1;
  const auto position = static_cast<int64_t>(rows.entries[entry] & mask);
  return rows.other_offsets ? rows.other_offsets[position] : position * rows.other_stride;
}

template <class Element, IndexingMode kMode>
void reduce_groups(const GroupedRows& rows, bool include_self) {
  constexpr Operation<kMode> kOperation{};
  Element* target = reinterpret_cast<Element*>(rows.target);
  const Element* other = reinterpret_cast<const Element*>(rows.other);
  const bool contiguous = rows.target_row_stride == 1 && rows.other_row_stride == 1;
  for_each_group(rows, [&](int64_t begin, int64_t end, int64_t offset) {
    Element* place = target + offset;
    const int64_t count = end - begin;
    auto value_at = [&](int64_t i) { return other + other_offset(rows, begin + i); };
    int64_t j = 0;
    if constexpr (kIsVector<Element>) {
      using Real = decltype(widen(Element{}));
      constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Real));
      if (contiguous) {
        for (; j + 4 * kLanes <= rows.width; j += 4 * kLanes) {
          reduce_columns<Element, kMode, 4>(place, j, count, include_self, value_at);
        }
        for (; j + kLanes <= rows.width; j += kLanes) {
          reduce_columns<Element, kMode, 1>(place, j, count, include_self, value_at);
        }
      }
    }
    for (; j < rows.width; ++j) {
      Element* to = place + j * rows.target_row_stride;
      const int64_t at = j * rows.other_row_stride;
      auto result = widen(include_self ? *to : value_at(0)[at]);
      for (int64_t i = include_self ? 0 : 1; i < count; ++i) {
        result = kOperation(result, widen(value_at(i)[at]));
      }
      if constexpr (kMode == IndexingMode::Mean) result = quotient(result, count + include_self);
      narrow(to, result);
    }
  });
}

// What leaves every value as it is: -0 for sums, since 0 + -0 is 0.
template <class Real, IndexingMode kMode>
ACCEL_INLINE Real identity() {
  constexpr bool kAdds = Operation<kMode>::kAdds, kIsMaximum = kMode == IndexingMode::Maximum;
  if constexpr (__is_same(Real, Bool)) {
    return {!kAdds && !kIsMaximum};
  } else if constexpr (__is_same(Real, Complex<float>) || __is_same(Real, Complex<double>)) {
    return {-0.0f, -0.0f};
  } else if constexpr (kAdds) {
    return static_cast<Real>(-0.0);
  } else if constexpr (kMode == IndexingMode::Product) {
    return 1;
  } else if constexpr (static_cast<Real>(0.5) != 0) {
    return kIsMaximum ? -__builtin_huge_val() : __builtin_huge_val();
  } else {
    constexpr bool kIsSigned = static_cast<Real>(-1) < 0;
    constexpr uint64_t kOnes = ~uint64_t{0} >> (64 - 8 * sizeof(Real));
    constexpr auto kLargest = static_cast<Real>(kIsSigned ? kOnes >> 1 : kOnes);
    constexpr auto kSmallest = static_cast<Real>(kIsSigned ? (kOnes >> 1) + 1 : 0);
    return kIsMaximum ? kSmallest : kLargest;
  }
}

// Without a branch on what is there: which places are met is as good as random.
template <class Element, IndexingMode kMode>
void reduce_dense(const DenseList& list, bool include_self) {
  using Real = decltype(widen(Element{}));
  constexpr Operation<kMode> kOperation{};
  Element* target = reinterpret_cast<Element*>(list.target);
  const Element* other = reinterpret_cast<const Element*>(list.other);
  Real* results = static_cast<Real*>(list.results);
  int32_t* counts = list.counts;
  const int32_t own = include_self ? 1 : 0;
  for (int64_t i = 0; i < list.size; ++i) {
    counts[i] = own;
    results[i] = include_self ? widen(target[i * list.unit]) : identity<Real, kMode>();
  }
  auto reduce_all = [&](const auto& offset_of) {
    for (int64_t i = 0; i < list.count; ++i) {
      const int64_t place = list.places[i];
      if (place < 0) continue;
      ++counts[place];
      results[place] = kOperation(results[place], widen(other[offset_of(i)]));
    }
  };
  if (list.other_offsets) {
    reduce_all([&](int64_t i) { return list.other_offsets[i]; });
  } else {
    reduce_all([&](int64_t i) { return i * list.other_stride; });
  }
  for (int64_t i = 0; i < list.size; ++i) {
    const int32_t count = counts[i];
    Element* to = target + i * list.unit;
    Real result = results[i];
    if constexpr (kMode == IndexingMode::Mean) result = quotient(result, count + (count == 0));
    Element value = *to;
    Element reduced;
    narrow(&reduced, result);
    value = count == own ? value : reduced;
    *to = value;
  }
}

template <class Element>
void write_groups(const GroupedRows& rows) {
  Element* target = reinterpret_cast<Element*>(rows.target);
  const Element* other = reinterpret_cast<const Element*>(rows.other);
  const bool contiguous = rows.target_row_stride == 1 && rows.other_row_stride == 1;
  for_each_group(rows, [&](int64_t, int64_t end, int64_t offset) {
    Element* place = target + offset;
    const Element* value = other + other_offset(rows, end - 1);
    if (contiguous) {
      std::memcpy(place, value, static_cast<size_t>(rows.width) * sizeof(Element));
      return;
    }
    for (int64_t j = 0; j < rows.width; ++j) {
      place[j * rows.target_row_stride] = value[j * rows.other_row_stride];
    }
  });
}

// --- dtypes --------------------------------------------------------------------------------------

template <class Body>
void with_element(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::UInt8:
      return body(uint8_t{});
    case DType::Int8:
      return body(int8_t{});
    case DType::Int16:
      return body(int16_t{});
    case DType::Int32:
      return body(int32_t{});
    case DType::Int64:
      return body(int64_t{});
    case DType::Float16:
      return body(Float16{});
    case DType::Float32:
      return body(float{});
    case DType::Float64:
      return body(double{});
    case DType::ComplexFloat32:
      return body(Complex<float>{});
    case DType::ComplexFloat64:
      return body(Complex<double>{});
    case DType::Bool:
      return body(Bool{});
    case DType::BFloat16:
      return body(BFloat16{});
    default:
      return;
  }
}

template <IndexingMode kMode>
struct Mode {
  static constexpr IndexingMode value = kMode;
};

template <class Body>
void with_mode(IndexingMode mode, Body&& body) {
  switch (mode) {
    case IndexingMode::Sum:
      return body(Mode<IndexingMode::Sum>{});
    case IndexingMode::Product:
      return body(Mode<IndexingMode::Product>{});
    case IndexingMode::Mean:
      return body(Mode<IndexingMode::Mean>{});
    case IndexingMode::Maximum:
      return body(Mode<IndexingMode::Maximum>{});
    case IndexingMode::Minimum:
      return body(Mode<IndexingMode::Minimum>{});
    default:
      return;
  }
}

}  // namespace
}  // namespace runs

void set_places(int64_t* places, int64_t count, int64_t first, int64_t step) {
  for (int64_t i = 0; i < count; ++i) places[i] = first + i * step;
}

int64_t add_places(const IndexRun& run, int64_t* places, bool* has_bad, int64_t* bad) {
  return run.dtype == DType::Int32 ? runs::add_places<int32_t>(run, places, has_bad, bad)
                                   : runs::add_places<int64_t>(run, places, has_bad, bad);
}

void read_run(const Run& run, int64_t element_size) {
  runs::with_size(element_size,
                  [&](auto element) { runs::copy_run<true, decltype(element)>(run); });
}

void write_run(const Run& run, int64_t element_size) {
  runs::with_size(element_size,
                  [&](auto element) { runs::copy_run<false, decltype(element)>(run); });
}

void reduce_run(const Run& run, DType dtype, IndexingMode mode) {
  runs::with_mode(mode, [&](auto chosen) {
    runs::with_element(dtype, [&](auto element) {
      using Element = decltype(element);
      // Those that round between points, or divide, are grouped.
      if constexpr (__is_same(decltype(runs::widen(element)), Element) &&
                    decltype(chosen)::value != IndexingMode::Mean) {
        runs::reduce_run<Element, decltype(chosen)::value>(run);
      }
    });
  });
}

void reduce_groups(const GroupedRows& rows, DType dtype, IndexingMode mode, IncludeSelf include) {
  runs::with_mode(mode, [&](auto chosen) {
    runs::with_element(dtype, [&](auto element) {
      runs::reduce_groups<decltype(element), decltype(chosen)::value>(rows,
                                                                      include == IncludeSelf::Yes);
    });
  });
}

void reduce_dense(const DenseList& list, DType dtype, IndexingMode mode, IncludeSelf include) {
  runs::with_mode(mode, [&](auto chosen) {
    runs::with_element(dtype, [&](auto element) {
      runs::reduce_dense<decltype(element), decltype(chosen)::value>(list,
                                                                     include == IncludeSelf::Yes);
    });
  });
}

void write_groups(const GroupedRows& rows, int64_t element_size) {
  runs::with_size(element_size, [&](auto element) { runs::write_groups<decltype(element)>(rows); });
}

}  // namespace accel::kernels::ACCEL_ISA
