#include "kernels/common/lines.h"

#include <algorithm>

namespace accel::kernels {

LineDimensions joined(const LineDimensions& dimensions) {
  LineDimensions result;
  for (const LineDimension& inner : dimensions) {
    if (inner.size == 1) continue;
    constexpr int kSides = LineDimension::kSides;
    const bool joins = !result.empty() &&
                       std::equal(inner.strides, inner.strides + kSides, result.back().strides,
                                  [&](int64_t in, int64_t out) { return out == in * inner.size; });
    if (joins) {
      result.back().size *= inner.size;
      std::copy(inner.strides, inner.strides + kSides, result.back().strides);
    } else {
      result.push_back(inner);
    }
  }
  return result;
}

int64_t count_of(const LineDimensions& dimensions) {
  int64_t count = 1;
  for (const LineDimension& dimension : dimensions) count *= dimension.size;
  return count;
}

void add_offsets(const LineDimensions& dimensions, int64_t flat, int64_t* offsets) {
  for (size_t i = dimensions.size(); i-- > 0;) {
    const int64_t index = flat % dimensions[i].size;
    flat /= dimensions[i].size;
    for (int side = 0; side < LineDimension::kSides; ++side) {
      offsets[side] += index * dimensions[i].strides[side];
    }
  }
}

}  // namespace accel::kernels
