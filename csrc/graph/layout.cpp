#include "csrc/graph/layout.h"

#include <algorithm>

namespace accel::graph {

int64_t Layout::elements() const {
  int64_t product = 1;
  for (int64_t size : sizes) product *= size;
  return product;
}

Layout coalesce(const int64_t* sizes, const int64_t* strides, int dims) {
  Layout layout;
  for (int i = 0; i < dims; ++i) {
    if (sizes[i] == 1) continue;
    if (!layout.sizes.empty() && layout.strides.back() == strides[i] * sizes[i]) {
      layout.sizes.back() *= sizes[i];
      layout.strides.back() = strides[i];
    } else {
      layout.sizes.push_back(sizes[i]);
      layout.strides.push_back(strides[i]);
    }
  }
  return layout;
}

std::optional<std::vector<int64_t>> common_space(const std::vector<const Layout*>& layouts,
                                                 int64_t elements,
                                                 const std::vector<int64_t>& cuts) {
  if (elements == 0) return std::nullopt;
  // A boundary is the number of elements inside it: the product of the sizes to its right.
  std::vector<int64_t> boundaries{1, elements};
  for (int64_t cut : cuts) boundaries.push_back(cut);
  for (const Layout* layout : layouts) {
    int64_t inside = 1;
    for (size_t i = layout->sizes.size(); i-- > 0;) {
      inside *= layout->sizes[i];
      boundaries.push_back(inside);
    }
    if (inside != elements) return std::nullopt;
  }
  std::sort(boundaries.begin(), boundaries.end());
  boundaries.erase(std::unique(boundaries.begin(), boundaries.end()), boundaries.end());
  std::vector<int64_t> space;
  for (size_t i = boundaries.size(); i-- > 1;) {
    if (boundaries[i] % boundaries[i - 1] != 0) return std::nullopt;
    space.push_back(boundaries[i] / boundaries[i - 1]);
  }
  return space;
}

std::vector<int64_t> strides_over(const Layout& layout, const std::vector<int64_t>& space) {
  std::vector<int64_t> strides(space.size(), 0);
  size_t dim = layout.sizes.size();
  int64_t left = 1;    // of the layout's current dimension, how many elements are not walked yet
  int64_t stride = 0;  // of the next piece of it
  for (size_t i = space.size(); i-- > 0;) {
    if (space[i] == 1) continue;
    while (left == 1) {  // a reduced part of one element is a dimension of size 1
      --dim;
      left = layout.sizes[dim];
      stride = layout.strides[dim];
    }
    strides[i] = stride;
    stride *= space[i];
    left /= space[i];
  }
  return strides;
}

}  // namespace accel::graph
