// Operands of ops that work along one dimension (scans, sorts), as their engines take them: a
// Tensor without dimensions is one line of one element.
#pragma once

#include <limits>

#include "csrc/aten/recording.h"

namespace accel::aten {

// Whether the engines can name places in it: they count them in 32 bits.
inline bool has_places(const Tensor& self) {
  return is_plain(self) && is_native(self) && self.numel() < std::numeric_limits<int32_t>::max();
}

inline void add_lines_input(Recording& recording, const Tensor& tensor) {
  static constexpr int64_t kOne[] = {1};
  tensor.dim() == 0 ? recording.input(tensor, kOne, kOne) : recording.input(tensor);
}

// A result with all dimensions of the input; undefined where it is not wanted.
inline void add_lines_output(Recording& recording, const Tensor& tensor) {
  static constexpr int64_t kOne[] = {1};
  const bool is_single = tensor.defined() && tensor.dim() == 0;
  is_single ? recording.output(tensor, kOne, kOne) : recording.output(tensor);
}

// A result of one element a line, without what keepdim left of the dimension.
inline void add_kept_output(Recording& recording, const Tensor& tensor, const Tensor& self,
                            int64_t dim, bool keepdim) {
  if (!tensor.defined()) {
    recording.no_output();
    return;
  }
  at::DimVector sizes(tensor.sizes()), strides(tensor.strides());
  if (keepdim && self.dim() > 0) {
    sizes.erase(sizes.begin() + dim);
    strides.erase(strides.begin() + dim);
  }
  recording.output(tensor, sizes, strides);
}

}  // namespace accel::aten
