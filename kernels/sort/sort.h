// Lines in order: sorts, the first k of a sort, and single ranks (k-th value, median).
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/common/lines.h"

namespace accel::kernels {

// NaN is greater than every number, and -0 equals 0. Equal elements stay in the order of the line,
// whichever way it is sorted: results are unique, whatever the algorithm.
enum class SortOrder : uint8_t { Ascending, Descending };

// For each line of `in`, in this order: values[i], and indices[i] (Int64) of where it was, for the
// first `count` elements. dtypes: those that vector programs compute in; values have the input's.
// Outputs may not overlap the input.
struct Sort {
  std::vector<int64_t> sizes;  // of the kept dimensions; none is 0
  int64_t length = 1;          // from 1 to 2^32 - 1
  int64_t count = 1;           // from 1 to length
  SortOrder order = SortOrder::Ascending;
  LineOperand in, values, indices;
};
void sort(const Sort& args);

// One element a line, and its place among the line's (the first, if several NaN are the median).
enum class Rank : uint8_t {
  Kth,        // number `k` in ascending order, from 0
  Median,     // number (length - 1) / 2; NaN if there is a NaN
  NanMedian,  // the same among those that are not NaN; NaN if there are none
};
struct Select {
  std::vector<int64_t> sizes;
  int64_t length = 1;
  Rank rank = Rank::Kth;
  int64_t k = 0;
  LineOperand in, values, indices;  // indices may have no data
};
void select(const Select& args);

}  // namespace accel::kernels
