// Layouts: how a View walks memory in row-major order of its sizes, in the shortest form; and the
// common iteration space of several Views.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace accel::graph {

// Dimensions outermost first, size-1 dimensions dropped, adjacent ones merged where one stride
// walks both. Two Views with equal Layouts (and offsets) pair the same memory with the same
// row-major index, whatever their shapes. Strides in elements.
struct Layout {
  std::vector<int64_t> sizes, strides;

  int64_t elements() const;
  bool operator==(const Layout&) const = default;
};

Layout coalesce(const int64_t* sizes, const int64_t* strides, int dims);

// The coarsest list of sizes into which every list given can be split, in row-major order, with all
// of `cuts` (products of trailing sizes) as boundaries; none where two lists interleave (4×6 and
// 6×4). All lists must have the same number of elements.
std::optional<std::vector<int64_t>> common_space(const std::vector<const Layout*>& layouts,
                                                 int64_t elements,
                                                 const std::vector<int64_t>& cuts);

// Strides of a Layout over a space into which it can be split.
std::vector<int64_t> strides_over(const Layout& layout, const std::vector<int64_t>& space);

}  // namespace accel::graph
