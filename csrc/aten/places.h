// Operands whose last dimensions, up to three, are places (of an image, of a volume), as pooling
// and resampling take them: contiguous, or with the channels innermost.
#pragma once

#include <initializer_list>
#include <limits>

#include "csrc/aten/recording.h"

namespace accel::aten {

// Whether the engines take them: one dtype, floating; one or two dimensions before the places.
inline bool engines_take(std::initializer_list<const Tensor*> tensors, size_t dims) {
  const ScalarType dtype = (*tensors.begin())->scalar_type();
  for (const Tensor* tensor : tensors) {
    const auto leading = static_cast<size_t>(tensor->dim()) - dims;
    if (!is_plain(*tensor) || tensor->scalar_type() != dtype || (leading != 1 && leading != 2) ||
        tensor->numel() == 0 ||
        tensor->numel() / tensor->size(0) > std::numeric_limits<int32_t>::max()) {
      return false;
    }
  }
  return is_native(dtype) && at::isFloatingType(dtype);
}

// The layout in which an op is computed: that of its output.
inline at::MemoryFormat place_format(const Tensor& output, size_t dims) {
  const auto format = output.suggest_memory_format();
  const bool has_batch = static_cast<size_t>(output.dim()) == dims + 2;
  return has_batch && output.is_contiguous(format) ? format : at::MemoryFormat::Contiguous;
}

// One number for all dimensions, or one each; none: the default.
inline int64_t number_of(IntArrayRef numbers, size_t dim, int64_t otherwise) {
  return numbers.empty() ? otherwise : numbers.size() == 1 ? numbers[0] : numbers[dim];
}

}  // namespace accel::aten
