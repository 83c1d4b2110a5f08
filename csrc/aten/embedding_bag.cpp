// Bags of embeddings, their sums, means and maxima, and the gradients of both the table and the
// weights of a sum. Sparse gradients are the host's.
#include <ATen/TensorUtils.h>
#include <ATen/ops/reciprocal.h>

#include "csrc/aten/indexing.h"
#include "csrc/aten/inference.h"
#include "kernels/embedding_bag/embedding_bag.h"

namespace accel::aten {

namespace {

using kernels::BagMode;
using Results = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// Indices and offsets as one dtype.
std::pair<Tensor, Tensor> promoted(const Tensor& indices, const Tensor& offsets) {
  const bool is_long = indices.scalar_type() == at::kLong || offsets.scalar_type() == at::kLong;
  const auto dtype = is_long ? at::kLong : indices.scalar_type();
  return {indices.to(dtype).contiguous(), offsets.to(dtype).contiguous()};
}

void check(const Tensor& weight, const Tensor& indices, const Tensor& offsets, int64_t mode,
           const Tensor& factors, bool include_last_offset) {
  constexpr at::CheckedFrom kFrom = "embedding_bag";
  TORCH_CHECK(indices.dim() == 1 || indices.dim() == 2,
              "input has to be a 1D or 2D Tensor, but got Tensor of dimension ", indices.dim());
  if (indices.dim() == 1) {
    TORCH_CHECK(offsets.dim() == 1, "offsets has to be a 1D Tensor, but got Tensor of dimension ",
                offsets.dim());
  }
  for (const auto& each :
       {at::TensorArg(indices, "indices", 1), at::TensorArg(offsets, "offsets", 1)}) {
    at::checkScalarTypes(kFrom, each, {at::kLong, at::kInt});
  }
  at::checkScalarTypes(kFrom, at::TensorArg(weight, "weight", 1),
                       {at::kHalf, at::kBFloat16, at::kFloat, at::kDouble});
  check_same_device(kFrom, {{weight, "weight"},
                            {indices, "indices"},
                            {offsets, "offsets"},
                            {factors, "per_sample_weights"}});
  if (factors.defined()) {
    TORCH_CHECK(mode == static_cast<int64_t>(BagMode::Sum),
                "embedding_bag: per_sample_weights was not None. per_sample_weights is only "
                "supported for mode='sum' (got mode='",
                mode, "'). Please open a feature request on GitHub.");
    at::checkSameType(kFrom, at::TensorArg(weight, "weight", 1),
                      at::TensorArg(factors, "per_sample_weights", 1));
    TORCH_CHECK(factors.dim() == 1, "Expected 1-dimensional per_sample_weights");
    TORCH_CHECK(factors.numel() == indices.numel(),
                "expected per_sample_weights to have the same number of elements as indices");
  }
  TORCH_CHECK(!include_last_offset || offsets.size(0) >= 1,
              "include_last_offset: number of offsets should be at least 1");
}

Tensor with_dense_columns(const Tensor& table) {
  return table.stride(1) == 1 || table.size(1) == 1 ? table : table.contiguous();
}

Results embedding_bag(const Tensor& weight, const Tensor& indices, const Tensor& offsets,
                      bool /*scale_grad_by_freq*/, int64_t mode, bool /*sparse*/,
                      const OptionalTensor& per_sample_weights, bool include_last_offset,
                      int64_t padding_index) {
  const Tensor& factors = value_or_undefined(per_sample_weights);
  check(weight, indices, offsets, mode, factors, include_last_offset);
  const auto [places, starts] = promoted(indices.reshape(-1), offsets);
  const ScalarType index_dtype = places.scalar_type();
  const int64_t bags = starts.size(0) - (include_last_offset ? 1 : 0), width = weight.size(1);
  const bool is_maximum = mode == static_cast<int64_t>(BagMode::Max);
  Tensor out = empty_on(weight, {bags, width}, weight.scalar_type());
  Tensor offset2bag = empty_on(weight, places.sizes(), index_dtype);
  Tensor bag_size = empty_on(weight, {bags}, index_dtype);
  Tensor maxima = is_maximum ? empty_on(weight, {bags, width}, index_dtype) : Tensor();
  if (bags > 0 && width > 0) {
    Recording(Opcode::EmbeddingBag)
        .output(out)
        .output(offset2bag)
        .output(bag_size)
        .output(maxima)
        .input(with_dense_columns(weight))
        .input(places)
        .input(starts)
        .input(factors.defined() ? factors.contiguous() : Tensor())
        .attribute(weight.scalar_type())
        .attribute(static_cast<uint64_t>(mode))
        .attribute(static_cast<uint64_t>(padding_index))
        .record();
  }
  return {out, offset2bag, bag_size, is_maximum ? maxima : bag_size};
}

// The gradients of maxima, each to the element that it was.
void add_maxima(const Tensor& table, const Tensor& maxima, const Tensor& grad) {
  const int64_t table_strides[] = {0, table.stride(1)};
  IndexingRules rules{IndexingMode::Sum};
  rules.skipped = -1;
  record_indexing(Opcode::EmbeddingBackward,
                  {table,
                   grad,
                   grad.sizes(),
                   table_strides,
                   grad.strides(),
                   {{maxima, maxima.strides(), table.size(0), table.stride(0)}}},
                  rules);
}

Tensor dense_backward(const Tensor& grad, const Tensor& indices, const Tensor& offset2bag,
                      const Tensor& bag_size, const Tensor& maxima, int64_t rows,
                      bool scale_by_frequency, int64_t mode, const OptionalTensor& factors,
                      int64_t padding_index) {
  Tensor table = empty_on(grad, {rows, grad.size(1)}, grad.scalar_type()).zero_();
  if (table.numel() == 0 || grad.numel() == 0 || indices.numel() == 0) return table;
  if (mode == static_cast<int64_t>(BagMode::Max)) {
    add_maxima(table, maxima, grad);
    return table;
  }
  Tensor of_bags = grad;
  if (mode == static_cast<int64_t>(BagMode::Mean)) {
    of_bags = grad.div(bag_size.clamp_min(1).to(grad.scalar_type()).unsqueeze(1));
  }
  Tensor values = of_bags.index_select(0, offset2bag);
  if (factors && factors->defined()) values = values.mul(factors->unsqueeze(1));
  IndexingRules rules{scale_by_frequency ? IndexingMode::Mean : IndexingMode::Sum};
  rules.include_self = IncludeSelf::No;
  rules.skipped = padding_index;
  record_indexed_rows(Opcode::EmbeddingBackward, table, indices.reshape(-1), values, rules);
  return table;
}

Tensor backward(const Tensor& grad, const Tensor& indices, const Tensor& offsets,
                const Tensor& offset2bag, const Tensor& bag_size, const Tensor& maxima,
                c10::SymInt rows, bool scale_by_frequency, int64_t mode, bool sparse,
                const OptionalTensor& factors, int64_t padding_index) {
  if (sparse) {
    return to_host<Tensor>("aten::_embedding_bag_backward", "", grad, indices, offsets, offset2bag,
                           bag_size, maxima, rows, scale_by_frequency, mode, sparse, factors,
                           padding_index);
  }
  return dense_backward(grad, indices, offset2bag, bag_size, maxima, rows.expect_int(),
                        scale_by_frequency, mode, factors, padding_index);
}

Tensor weights_backward(const Tensor& grad, const Tensor& weight, const Tensor& indices,
                        const Tensor& offsets, const Tensor& offset2bag, int64_t mode,
                        int64_t padding_index) {
  TORCH_CHECK(mode == static_cast<int64_t>(BagMode::Sum),
              "embedding_bag_backward: per_sample_weights only supported for mode='sum'");
  const Tensor places = promoted(indices.reshape(-1), offsets).first;
  Tensor out = empty_on(grad, places.sizes(), grad.scalar_type());
  if (out.numel() == 0) return out;
  Recording(Opcode::EmbeddingBagWeightGradient)
      .output(out)
      .input(grad.contiguous())
      .input(with_dense_columns(weight))
      .input(places)
      .input(offset2bag)
      .attribute(grad.scalar_type())
      .attribute(static_cast<uint64_t>(padding_index))
      .record();
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_embedding_bag", TORCH_FN(embedding_bag));
  m.impl("_embedding_bag_forward_only", TORCH_FN(embedding_bag));
  m.impl("_embedding_bag_backward", TORCH_FN(backward));
  m.impl("_embedding_bag_dense_backward", TORCH_FN(dense_backward));
  m.impl("_embedding_bag_per_sample_weights_backward", TORCH_FN(weights_backward));
}

}  // namespace accel::aten
