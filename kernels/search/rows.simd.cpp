// Binary search without branches: its length follows from the sequence's alone, and values beside
// one another wait for memory together.
#include "kernels/search/rows.h"

#include "kernels/common/elements.h"

namespace accel::kernels::ACCEL_ISA {
namespace search_rows {
namespace {

// Integers stand for themselves.
ACCEL_INLINE uint8_t comparable(uint8_t x) { return x; }
ACCEL_INLINE int8_t comparable(int8_t x) { return x; }
ACCEL_INLINE int16_t comparable(int16_t x) { return x; }
ACCEL_INLINE int32_t comparable(int32_t x) { return x; }
ACCEL_INLINE int64_t comparable(int64_t x) { return x; }
template <class Element>
ACCEL_INLINE auto comparable(Element x) {
  return widen(x);
}

// Whether the value belongs behind the element.
template <SearchSide kSide, class Real>
ACCEL_INLINE bool is_behind(Real element, Real value) {
  return kSide == SearchSide::Left ? !(element >= value) : !(element > value);
}

// Searches that run side by side.
constexpr int64_t kTogether = 8;

template <SearchSide kSide, class Element, class Place>
void find(const Search& args, int64_t row, int64_t begin, int64_t end) {
  const int64_t sequence_row = args.shares_sequence ? 0 : row;
  const Element* sequence = static_cast<const Element*>(args.sequence) + sequence_row * args.length;
  const int64_t* sorter = args.sorter ? args.sorter + sequence_row * args.length : nullptr;
  const Element* values = static_cast<const Element*>(args.values) + row * args.count;
  Place* places = static_cast<Place*>(args.places) + row * args.count;
  using Real = decltype(comparable(Element{}));
  for (int64_t first = begin; first < end; first += kTogether) {
    const int64_t n = end - first < kTogether ? end - first : kTogether;
    Real wanted[kTogether];
    int64_t low[kTogether] = {};
    for (int64_t i = 0; i < kTogether; ++i) wanted[i] = comparable(values[first + (i < n ? i : 0)]);
    int64_t left = args.length;
    while (left > 0) {
      const int64_t half = (left + 1) / 2;
      for (int64_t i = 0; i < kTogether; ++i) {
        int64_t at = low[i] + half - 1;
        if (sorter) at = sorter[at];
        low[i] += is_behind<kSide, Real>(comparable(sequence[at]), wanted[i]) ? half : 0;
      }
      left -= half;
    }
    for (int64_t i = 0; i < n; ++i) places[first + i] = static_cast<Place>(low[i]);
  }
}

template <class Element>
void find_any(const Search& args, int64_t row, int64_t begin, int64_t end) {
  const bool left = args.side == SearchSide::Left;
  if (args.place_dtype == DType::Int32) {
    left ? find<SearchSide::Left, Element, int32_t>(args, row, begin, end)
         : find<SearchSide::Right, Element, int32_t>(args, row, begin, end);
  } else {
    left ? find<SearchSide::Left, Element, int64_t>(args, row, begin, end)
         : find<SearchSide::Right, Element, int64_t>(args, row, begin, end);
  }
}

}  // namespace
}  // namespace search_rows

void search_row(const Search& args, int64_t row, int64_t begin, int64_t end) {
  using search_rows::find_any;
  switch (args.dtype) {
    case DType::UInt8:
      return find_any<uint8_t>(args, row, begin, end);
    case DType::Int8:
      return find_any<int8_t>(args, row, begin, end);
    case DType::Int16:
      return find_any<int16_t>(args, row, begin, end);
    case DType::Int32:
      return find_any<int32_t>(args, row, begin, end);
    case DType::Int64:
      return find_any<int64_t>(args, row, begin, end);
    default:
      return with_floating(
          args.dtype, [&](auto element) { find_any<decltype(element)>(args, row, begin, end); });
  }
}

}  // namespace accel::kernels::ACCEL_ISA
