// Rows of a table by index, and their gradient. Indices are checked by the kernel: one out of range
// is raised at the next wait.
#include <ATen/TensorUtils.h>

#include "csrc/aten/inference.h"

namespace accel::aten {

namespace {

void check_indices(const char* op, const Tensor& indices) {
  const at::TensorArg argument(indices, "indices", 1);
  at::checkScalarTypes(op, argument, {at::kLong, at::kInt});
}

// As the engine takes them: one dimension, any stride.
Tensor flat(const Tensor& indices) { return indices.reshape(-1); }

Tensor embedding(const Tensor& weight, const Tensor& indices, int64_t padding_index,
                 bool scale_by_frequency, bool sparse) {
  TORCH_CHECK(weight.dim() == 2, "'weight' must be 2-D");
  check_indices("embedding", indices);
  check_same_device("embedding", {{weight, "self"}, {indices, "index"}});
  if (!is_plain(weight) || !is_plain(indices)) {
    return to_host<Tensor>("aten::embedding", "", weight, indices, padding_index,
                           scale_by_frequency, sparse);
  }
  at::DimVector sizes(indices.sizes().begin(), indices.sizes().end());
  sizes.push_back(weight.size(1));
  Tensor out = empty_on(weight, sizes, weight.scalar_type());
  const int64_t flat_sizes[] = {indices.numel(), weight.size(1)};
  const int64_t flat_strides[] = {weight.size(1), 1};
  Recording(Opcode::Embedding)
      .output(out, flat_sizes, flat_strides)
      .input(flat(indices))
      .input(weight)
      .attribute(weight.scalar_type())
      .record();
  return out;
}

Tensor embedding_backward(const Tensor& grad, const Tensor& indices, int64_t rows,
                          int64_t padding_index, bool scale_by_frequency) {
  check_indices("embedding_backward", indices);
  check_same_device("embedding_dense_backward", {{grad, "grad_output"}, {indices, "indices"}});
  if (!is_plain(grad) || !is_plain(indices) || !is_native(grad) ||
      !at::isFloatingType(grad.scalar_type())) {
    return to_host<Tensor>("aten::embedding_dense_backward", "", grad, indices, rows, padding_index,
                           scale_by_frequency);
  }
  const int64_t width = grad.size(-1);
  Tensor grad_weight = empty_on(grad, {rows, width}, grad.scalar_type());
  Recording(Opcode::EmbeddingBackward)
      .output(grad_weight)
      .input(flat(indices))
      .input(grad.reshape({indices.numel(), width}))
      .attribute(grad.scalar_type())
      .attribute(static_cast<uint64_t>(padding_index))
      .attribute(scale_by_frequency)
      .record();
  return grad_weight;
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("embedding", TORCH_FN(embedding));
  m.impl("embedding_dense_backward", TORCH_FN(embedding_backward));
}

}  // namespace accel::aten
