// Keys and searches among them, see keys.h.
#include "kernels/sort/keys.h"

#include "kernels/common/convert.h"
#include "kernels/common/simd.h"

namespace accel::kernels::ACCEL_ISA {
namespace keys {
namespace {

// Negative numbers descend as their bits ascend; the sign orders the two halves. Adding 0 makes -0
// a 0.
ACCEL_INLINE VectorU32 keys_of(VectorF32 x) {
  const VectorU32 bits = (VectorU32)(x + 0.0f);
  const VectorU32 keys = bits ^ ((VectorU32)((VectorI32)bits >> 31) | 1u << 31);
  return x == x ? keys : ~VectorU32{};
}
ACCEL_INLINE VectorU64 keys_of(VectorF64 x) {
  const VectorU64 bits = (VectorU64)(x + 0.0);
  const VectorU64 keys = bits ^ ((VectorU64)((VectorI64)bits >> 63) | uint64_t{1} << 63);
  return x == x ? keys : ~VectorU64{};
}
ACCEL_INLINE uint32_t key_of(int32_t x) { return static_cast<uint32_t>(x) ^ 1u << 31; }
ACCEL_INLINE uint64_t key_of(int64_t x) {
  return static_cast<uint64_t>(x) ^ uint64_t { 1 } << 63;
}

template <class From, class Number, class Key>
void make_whole(const void* from, void* to, int64_t count, bool descending) {
  const Key flip = descending ? ~Key{0} : Key{0};
  const From* elements = static_cast<const From*>(from);
  Key* keys = static_cast<Key*>(to);
  for (int64_t i = 0; i < count; ++i) {
    keys[i] = key_of(static_cast<Number>(elements[i])) ^ flip;
  }
}

// load(element) reads a vector's worth of elements as `Real`s.
template <class Key, class Element, class Load>
ACCEL_INLINE void make_real(const void* from, void* to, int64_t count, bool descending,
                            const Load& load_real) {
  constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Key));
  const Vector<Key> flip = descending ? ~Vector<Key>{} : Vector<Key>{};
  const Element* elements = static_cast<const Element*>(from);
  Key* keys = static_cast<Key*>(to);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store(keys + i, keys_of(load_real(elements + i)) ^ flip);
  }
  if (i == count) return;
  Element rest[kLanes] = {};
  std::memcpy(rest, elements + i, static_cast<size_t>(count - i) * sizeof(Element));
  const Vector<Key> last = keys_of(load_real(rest)) ^ flip;
  std::memcpy(keys + i, &last, static_cast<size_t>(count - i) * sizeof(Key));
}

ACCEL_INLINE uint64_t entry_of(uint32_t key, int64_t place) {
  return static_cast<uint64_t>(key) << 32 | static_cast<uint64_t>(place);
}
ACCEL_INLINE WideEntry entry_of(uint64_t key, int64_t place) {
  return {key, static_cast<uint64_t>(place)};
}

// Vectors without a candidate are passed by, four at a time; of others every element is written and
// the candidates stay, because a branch on each would be guessed wrong too often.
template <class Key, class Entry>
ACCEL_INLINE Found collect(const Key* keys, int64_t begin, int64_t end, Key limit, Entry* to,
                           int64_t room) {
  using V = Vector<Key>;
  constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Key));
  static_assert(kLanes <= kMostLanes);
  const V limits = splat<V>(limit);
  int64_t i = begin, found = 0;
  while (found + kLanes <= room && i < end) {
    if (i + 4 * kLanes <= end) {
      V least = load<V>(keys + i);
#pragma GCC unroll 3
      for (int u = 1; u < 4; ++u) {
        const V next = load<V>(keys + i + u * kLanes);
        least = next < least ? next : least;
      }
      if (!any(least < limits)) {
        i += 4 * kLanes;
        continue;
      }
    }
    const int64_t stop = i + kLanes < end ? i + kLanes : end;
    if (stop - i == kLanes && !any(load<V>(keys + i) < limits)) {
      i = stop;
      continue;
    }
    for (; i < stop; ++i) {
      to[found] = entry_of(keys[i], i);
      found += keys[i] < limit;
    }
  }
  return {found, i};
}

// Fills the last vector with the greatest number.
ACCEL_INLINE int64_t padded(uint64_t* numbers, int64_t n) {
  for (; n % kLanes64 != 0; ++n) numbers[n] = ~uint64_t{0};
  return n;
}

}  // namespace
}  // namespace keys

void make_keys(DType dtype, const void* from, void* to, int64_t count, bool descending) {
  using namespace keys;
  switch (dtype) {
    case DType::Float32:
      return make_real<uint32_t, float>(from, to, count, descending,
                                        [](const float* x) { return load<VectorF32>(x); });
    case DType::Float64:
      return make_real<uint64_t, double>(from, to, count, descending,
                                         [](const double* x) { return load<VectorF64>(x); });
    case DType::BFloat16:
      return make_real<uint32_t, uint16_t>(from, to, count, descending,
                                           [](const uint16_t* x) { return load_bf16(x); });
    case DType::Float16:
      return make_real<uint32_t, uint16_t>(from, to, count, descending,
                                           [](const uint16_t* x) { return load_f16(x); });
    case DType::Int64:
      return make_whole<int64_t, int64_t, uint64_t>(from, to, count, descending);
    case DType::Int32:
      return make_whole<int32_t, int32_t, uint32_t>(from, to, count, descending);
    case DType::Int16:
      return make_whole<int16_t, int32_t, uint32_t>(from, to, count, descending);
    case DType::Int8:
      return make_whole<int8_t, int32_t, uint32_t>(from, to, count, descending);
    default:
      return make_whole<uint8_t, int32_t, uint32_t>(from, to, count, descending);
  }
}

Found collect_narrow(const uint32_t* keys, int64_t begin, int64_t end, uint32_t limit, uint64_t* to,
                     int64_t room) {
  return keys::collect(keys, begin, end, limit, to, room);
}
Found collect_wide(const uint64_t* keys, int64_t begin, int64_t end, uint64_t limit, WideEntry* to,
                   int64_t room) {
  return keys::collect(keys, begin, end, limit, to, room);
}

void take_least(uint64_t* numbers, int64_t n, int64_t k, uint64_t* to) {
  n = keys::padded(numbers, n);
  // Each round finds the least of those that are greater than the last.
  uint64_t last = 0;
  for (int64_t round = 0; round < k; ++round) {
    const VectorU64 bound = splat<VectorU64>(last);
    const VectorU64 most = ~VectorU64{};
    VectorU64 least = most;
    for (int64_t i = 0; i < n; i += kLanes64) {
      const VectorU64 x = load<VectorU64>(numbers + i);
      const VectorU64 candidate = x >= bound ? x : most;
      least = candidate < least ? candidate : least;
    }
    uint64_t best = least[0];
    for (int lane = 1; lane < kLanes64; ++lane) best = least[lane] < best ? least[lane] : best;
    to[round] = best;
    last = best + 1;
  }
}

void sort_by_rank(uint64_t* numbers, int64_t n, uint64_t* to) {
  const int64_t whole = keys::padded(numbers, n);
  for (int64_t i = 0; i < whole; i += kLanes64) {
    const VectorU64 x = load<VectorU64>(numbers + i);
    VectorI64 ranks = {};
    for (int64_t j = 0; j < n; ++j) ranks -= splat<VectorU64>(numbers[j]) < x;
    for (int lane = 0; lane < kLanes64 && i + lane < n; ++lane) to[ranks[lane]] = numbers[i + lane];
  }
}

}  // namespace accel::kernels::ACCEL_ISA
