// A Tensor over the storage of another: a view without a dispatch (0.1 µs where narrow() takes
// two).
#pragma once

#include "csrc/aten/recording.h"

namespace accel::aten {

// offset in elements of `dtype`, from the beginning of the storage.
inline Tensor alias_of(const Tensor& source, ScalarType dtype, IntArrayRef sizes,
                       IntArrayRef strides, int64_t offset) {
  Tensor alias = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW, c10::Storage(source.storage()), source.key_set(),
      c10::scalarTypeToTypeMeta(dtype));
  alias.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides, offset);
  return alias;
}

// One element, as a Tensor without dimensions.
inline Tensor element_of(const Tensor& source, int64_t offset) {
  return alias_of(source, source.scalar_type(), {}, {}, source.storage_offset() + offset);
}

}  // namespace accel::aten
