// The pieces of batch norm that torch.nn.SyncBatchNorm puts between its collectives: statistics of
// this rank, their combination, and the two halves of backward. Each is a few ops, which fuse.
#include <ATen/ops/full.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/var_mean.h>

#include "csrc/aten/inference.h"

namespace accel::aten {

namespace {

using at::DimVector;
using Two = std::tuple<Tensor, Tensor>;
using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

void check(const char* name, const Tensor& input, std::initializer_list<Argument> per_channel) {
  TORCH_CHECK(input.dim() >= 2, name, ": Expected at least 2 dimensions, got ", input.dim());
  TORCH_CHECK_NOT_IMPLEMENTED(at::isFloatingType(input.scalar_type()), "\"", name,
                              "\" not implemented for '", toString(input.scalar_type()), "'");
  for (const Argument& argument : per_channel) {
    if (!argument.tensor.defined()) continue;
    check_same_device(name, {{input, "input"}, argument});
    TORCH_CHECK(argument.tensor.size(-1) == input.size(1), name, ": ", argument.name,
                " should contain ", input.size(1), " elements not ", argument.tensor.size(-1));
  }
}

// All dimensions but the channels'.
DimVector reduced(const Tensor& input) {
  DimVector dims{0};
  for (int64_t dim = 2; dim < input.dim(); ++dim) dims.push_back(dim);
  return dims;
}

// A value a channel, as it broadcasts over the input.
Tensor over(const Tensor& values, const Tensor& input, ScalarType compute) {
  DimVector sizes(input.dim(), 1);
  sizes[1] = input.size(1);
  return values.to(compute).view(sizes);
}

ScalarType compute_dtype(const Tensor& input) { return arithmetic_dtype(input.scalar_type()); }

Two batch_norm_stats(const Tensor& input, double eps) {
  check("batch_norm_stats", input, {});
  auto [variance, mean] =
      at::var_mean(input.to(compute_dtype(input)), reduced(input), /*correction=*/at::Scalar(0));
  return {std::move(mean), at::rsqrt(variance.add(eps))};
}

Tensor batch_norm_elemt(const Tensor& input, const OptionalTensor& weight_option,
                        const OptionalTensor& bias_option, const Tensor& mean, const Tensor& invstd,
                        double /*eps*/) {
  const Tensor &weight = value_or_undefined(weight_option), &bias = value_or_undefined(bias_option);
  check("batch_norm_elemt", input,
        {{weight, "weight"}, {bias, "bias"}, {mean, "mean"}, {invstd, "invstd"}});
  const ScalarType compute = compute_dtype(input);
  Tensor out = input.to(compute).sub(over(mean, input, compute)).mul(over(invstd, input, compute));
  if (weight.defined()) out = out.mul(over(weight, input, compute));
  if (bias.defined()) out = out.add(over(bias, input, compute));
  return out.to(input.scalar_type());
}

// mean, invstd: [ranks, channels]; counts: [ranks], elements a channel.
Two gather_stats_with_counts(const Tensor& input, const Tensor& means, const Tensor& invstds,
                             const OptionalTensor& running_mean, const OptionalTensor& running_var,
                             double momentum, double eps, const Tensor& counts) {
  check("batch_norm_gather_stats_with_counts", input, {{means, "mean"}, {invstds, "invstd"}});
  const Tensor weights = counts.to(means.scalar_type()).view({-1, 1});
  const Tensor total = weights.sum();
  const Tensor mean = means.mul(weights).sum(0).div(total);
  const Tensor squares = invstds.pow(-2).sub(eps).add(means.sub(mean).square());
  const Tensor sum_of_squares = squares.mul(weights).sum(0);
  const Tensor variance = sum_of_squares.div(total);
  if (const Tensor& running = value_or_undefined(running_mean); running.defined()) {
    running.copy_(running.mul(1 - momentum).add(mean, momentum));
  }
  if (const Tensor& running = value_or_undefined(running_var); running.defined()) {
    running.copy_(running.mul(1 - momentum).add(sum_of_squares.div(total.sub(1)), momentum));
  }
  return {mean, at::rsqrt(variance.add(eps))};
}

Two gather_stats(const Tensor& input, const Tensor& means, const Tensor& invstds,
                 const OptionalTensor& running_mean, const OptionalTensor& running_var,
                 double momentum, double eps, int64_t count) {
  const Tensor counts = at::full({means.size(0)}, count, means.options());
  return gather_stats_with_counts(input, means, invstds, running_mean, running_var, momentum, eps,
                                  counts);
}

Four backward_reduce(const Tensor& grad_out, const Tensor& input, const Tensor& mean,
                     const Tensor& invstd, const OptionalTensor& weight, bool input_wanted,
                     bool weight_wanted, bool bias_wanted) {
  check("batch_norm_backward_reduce", input, {{mean, "mean"}, {invstd, "invstd"}});
  const ScalarType compute = compute_dtype(input);
  const Tensor grad = grad_out.to(compute);
  const Tensor sum_dy = grad.sum(reduced(input));
  const Tensor sum_dy_xmu =
      grad.mul(input.to(compute).sub(over(mean, input, compute))).sum(reduced(input));
  const ScalarType dtype =
      weight && weight->defined() ? weight->scalar_type() : input.scalar_type();
  Four result;
  if (input_wanted) std::get<0>(result) = sum_dy, std::get<1>(result) = sum_dy_xmu;
  if (weight_wanted) std::get<2>(result) = sum_dy_xmu.mul(invstd).to(dtype);
  if (bias_wanted) std::get<3>(result) = sum_dy.to(dtype);
  return result;
}

Tensor backward_elemt(const Tensor& grad_out, const Tensor& input, const Tensor& mean,
                      const Tensor& invstd, const OptionalTensor& weight_option,
                      const Tensor& sum_dy, const Tensor& sum_dy_xmu, const Tensor& counts) {
  const Tensor& weight = value_or_undefined(weight_option);
  check("batch_norm_backward_elemt", input,
        {{mean, "mean"},
         {invstd, "invstd"},
         {weight, "weight"},
         {sum_dy, "sum_dy"},
         {sum_dy_xmu, "sum_dy_xmu"}});
  const ScalarType compute = compute_dtype(input);
  const Tensor total = counts.sum().to(compute);
  Tensor scale = invstd.to(compute);
  const Tensor slope = sum_dy_xmu.to(compute).mul(scale.square()).div(total);
  if (weight.defined()) scale = scale.mul(weight.to(compute));
  return grad_out.to(compute)
      .sub(over(sum_dy.to(compute).div(total), input, compute))
      .sub(input.to(compute).sub(over(mean, input, compute)).mul(over(slope, input, compute)))
      .mul(over(scale, input, compute))
      .to(input.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("batch_norm_stats", TORCH_FN(batch_norm_stats));
  m.impl("batch_norm_elemt", TORCH_FN(batch_norm_elemt));
  m.impl("batch_norm_gather_stats", TORCH_FN(gather_stats));
  m.impl("batch_norm_gather_stats_with_counts", TORCH_FN(gather_stats_with_counts));
  m.impl("batch_norm_backward_reduce", TORCH_FN(backward_reduce));
  m.impl("batch_norm_backward_elemt", TORCH_FN(backward_elemt));
}

}  // namespace accel::aten
