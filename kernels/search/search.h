// Places in sorted sequences: where values belong (searchsorted), and which of consecutive segments
// each element of their whole is in (repeat_interleave).
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/common/fault.h"

namespace accel::kernels {

// Left: the first place whose element is not below the value. Right: the first whose element is
// above it. A NaN belongs behind everything.
enum class SearchSide : uint8_t { Left, Right };

// Each row of values is looked up in its row of the sequence, or all in the one that there is.
struct Search {
  SearchSide side = SearchSide::Left;
  DType dtype = DType::Float32;      // of sequence and values: floating or integer
  DType place_dtype = DType::Int64;  // or Int32: of places
  int64_t rows = 1, length = 0, count = 0;
  bool shares_sequence = false;     // one row of it for all values
  const void* sequence = nullptr;   // [rows, length], ascending in the order of `sorter`
  const int64_t* sorter = nullptr;  // as the sequence, or null where that is sorted itself
  const void* values = nullptr;     // [rows, count]
  void* places = nullptr;           // [rows, count]
};
// A sorter out of range is a fault.
void search(const Search& args, Fault* fault);

// places[j] = i for the j-th of all elements, where segment i has lengths[i] of them. A length
// below zero and lengths that do not add up to `total` are faults.
struct Segments {
  DType dtype = DType::Int64;  // or Int32: of lengths and places
  int64_t count = 0, total = 0;
  const void* lengths = nullptr;  // [count]
  void* places = nullptr;         // [total]
};
void repeat_places(const Segments& args, Fault* fault);

}  // namespace accel::kernels
