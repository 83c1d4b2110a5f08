// Rows of a table by index, and their gradient. Indices are checked by the kernel: one out of range
// is raised at the next wait.
#include <ATen/TensorUtils.h>

#include "csrc/aten/indexing.h"
#include "csrc/aten/inference.h"

namespace accel::aten {

void record_indexed_rows(Opcode opcode, const Tensor& table, const Tensor& indices,
                         const Tensor& values, const IndexingRules& rules) {
  const auto dims = static_cast<size_t>(indices.dim());
  at::DimVector table_strides(dims + 1, 0), index_strides(indices.strides());
  table_strides[dims] = table.stride(1);
  index_strides.push_back(0);
  record_indexing(opcode,
                  {table,
                   values,
                   values.sizes(),
                   table_strides,
                   values.strides(),
                   {{indices, index_strides, table.size(0), table.stride(0)}}},
                  rules);
}

namespace {

void check_indices(const char* op, const Tensor& indices) {
  const at::TensorArg argument(indices, "indices", 1);
  at::checkScalarTypes(op, argument, {at::kLong, at::kInt});
}

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
  if (out.numel() > 0) record_indexed_rows(Opcode::Embedding, weight, indices, out, {});
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
  Tensor grad_weight = empty_on(grad, {rows, grad.size(-1)}, grad.scalar_type());
  Recording(Opcode::Fill).output(grad_weight).attribute(grad.scalar_type()).scalar(0.0).record();
  if (indices.numel() == 0 || grad_weight.numel() == 0) return grad_weight;
  IndexingRules rules{scale_by_frequency ? IndexingMode::Mean : IndexingMode::Sum};
  rules.include_self = IncludeSelf::No;
  if (padding_index >= 0) rules.skipped = padding_index;
  at::DimVector sizes(indices.sizes());
  sizes.push_back(grad.size(-1));
  record_indexed_rows(Opcode::EmbeddingBackward, grad_weight, indices, grad.reshape(sizes), rules);
  return grad_weight;
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("embedding", TORCH_FN(embedding));
  m.impl("embedding_dense_backward", TORCH_FN(embedding_backward));
}

}  // namespace accel::aten
