// Batch norm (and instance norm, which PyTorch makes of it), composed of recorded ops. Everything
// is recorded with the channels first, so that the statistics and what follows from them share one
// iteration space, a channel a row, and the planner can fuse them.
#include <ATen/native/Resize.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/var_mean.h>

#include "csrc/aten/inference.h"

namespace accel::aten {

namespace {

using at::DimVector;
using Three = std::tuple<Tensor, Tensor, Tensor>;
using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Tensor or_undefined(const OptionalTensor& tensor) { return value_or_undefined(tensor); }

// All dimensions but the first.
DimVector rest_of(const Tensor& tensor) {
  DimVector dims;
  for (int64_t i = 1; i < tensor.dim(); ++i) dims.push_back(i);
  return dims;
}

// A value per channel, broadcast over the rest of a tensor with the channels first.
Tensor per_channel(const Tensor& values, const Tensor& like) {
  DimVector sizes(like.dim(), 1);
  sizes[0] = values.size(0);
  return values.reshape(sizes);
}

struct Statistics {
  Tensor mean, inverse_deviation;
};

Statistics running_statistics(const Tensor& running_mean, const Tensor& running_var,
                              ScalarType compute, double eps) {
  TORCH_CHECK(running_mean.defined() && running_var.defined(),
              "Expected running_mean and running_var to be defined when training=False");
  return {running_mean.to(compute), at::rsqrt(at::add(running_var.to(compute), eps))};
}

void update(const Tensor& running, const Tensor& value, double momentum) {
  if (running.defined()) running.mul_(1 - momentum).add_(value, momentum);
}

Three normalize(const Tensor& input, const Tensor& weight, const Tensor& bias,
                const Tensor& running_mean, const Tensor& running_var, bool training,
                double momentum, double eps) {
  check_same_device("native_batch_norm", {{input, "input"},
                                          {weight, "weight"},
                                          {bias, "bias"},
                                          {running_mean, "running_mean"},
                                          {running_var, "running_var"}});
  TORCH_CHECK(input.dim() >= 2, "Expected at least 2 dimensions, got ", input.dim());
  const ScalarType compute = arithmetic_dtype(input.scalar_type());
  Tensor out =
      at::empty(input.sizes(), input.options().memory_format(input.suggest_memory_format()));
  const Tensor x = input.transpose(0, 1).to(compute);
  Tensor result = out.transpose(0, 1);
  Statistics statistics;
  if (training) {
    auto [variance, mean] = at::var_mean(x, rest_of(x), /*correction=*/0, /*keepdim=*/false);
    const double elements = static_cast<double>(x.numel()) / static_cast<double>(x.size(0));
    update(running_mean, mean, momentum);
    if (running_var.defined()) {
      update(running_var, at::mul(variance, elements / (elements - 1)), momentum);
    }
    statistics = {mean, at::rsqrt(at::add(variance, eps))};
  } else {
    statistics = running_statistics(running_mean, running_var, compute, eps);
  }
  Tensor scale = statistics.inverse_deviation;
  if (weight.defined()) scale = at::mul(scale, weight.to(compute));
  Tensor y = at::mul(at::sub(x, per_channel(statistics.mean, x)), per_channel(scale, x));
  if (bias.defined()) {
    at::add_out(result, y, per_channel(bias.to(compute), x));
  } else {
    result.copy_(y);
  }
  if (training) return {out, statistics.mean, statistics.inverse_deviation};
  const auto none = input.options().dtype(compute).memory_format(at::MemoryFormat::Contiguous);
  return {out, at::empty({0}, none), at::empty({0}, none)};
}

Three batch_norm(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias,
                 const OptionalTensor& running_mean, const OptionalTensor& running_var,
                 bool training, double momentum, double eps) {
  return normalize(input, or_undefined(weight), or_undefined(bias), or_undefined(running_mean),
                   or_undefined(running_var), training, momentum, eps);
}

Three batch_norm_legit(const Tensor& input, const OptionalTensor& weight,
                       const OptionalTensor& bias, Tensor& running_mean, Tensor& running_var,
                       bool training, double momentum, double eps) {
  return normalize(input, or_undefined(weight), or_undefined(bias), running_mean, running_var,
                   training, momentum, eps);
}

Three batch_norm_without_statistics(const Tensor& input, const OptionalTensor& weight,
                                    const OptionalTensor& bias, bool training, double momentum,
                                    double eps) {
  return normalize(input, or_undefined(weight), or_undefined(bias), {}, {}, training, momentum,
                   eps);
}

std::tuple<Tensor&, Tensor&, Tensor&> put(const Three& results, Tensor& out, Tensor& mean,
                                          Tensor& inverse_deviation) {
  auto write = [](Tensor& to, const Tensor& from) {
    at::native::resize_output(to, from.sizes());
    to.copy_(from);
  };
  write(out, std::get<0>(results));
  write(mean, std::get<1>(results));
  write(inverse_deviation, std::get<2>(results));
  return {out, mean, inverse_deviation};
}

std::tuple<Tensor&, Tensor&, Tensor&> batch_norm_out(
    const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias,
    const OptionalTensor& running_mean, const OptionalTensor& running_var, bool training,
    double momentum, double eps, Tensor& out, Tensor& mean, Tensor& inverse_deviation) {
  return put(batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps),
             out, mean, inverse_deviation);
}

std::tuple<Tensor&, Tensor&, Tensor&> batch_norm_legit_out(
    const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias,
    Tensor& running_mean, Tensor& running_var, bool training, double momentum, double eps,
    Tensor& out, Tensor& mean, Tensor& inverse_deviation) {
  return put(batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps),
             out, mean, inverse_deviation);
}

std::tuple<Tensor&, Tensor&, Tensor&> batch_norm_without_statistics_out(
    const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias, bool training,
    double momentum, double eps, Tensor& out, Tensor& mean, Tensor& inverse_deviation) {
  return put(batch_norm(input, weight, bias, {}, {}, training, momentum, eps), out, mean,
             inverse_deviation);
}

// What cuDNN keeps for its backward; here it is empty.
Tensor reserve(const Tensor& input) {
  return at::empty({0}, input.options().dtype(ScalarType::Byte));
}

Four batch_norm_with_update(const Tensor& input, const OptionalTensor& weight,
                            const OptionalTensor& bias, Tensor& running_mean, Tensor& running_var,
                            double momentum, double eps) {
  return std::tuple_cat(batch_norm(input, weight, bias, running_mean, running_var,
                                   /*training=*/true, momentum, eps),
                        std::make_tuple(reserve(input)));
}

Four batch_norm_no_update(const Tensor& input, const OptionalTensor& weight,
                          const OptionalTensor& bias, const OptionalTensor& running_mean,
                          const OptionalTensor& running_var, double momentum, double eps) {
  return std::tuple_cat(batch_norm(input, weight, bias, running_mean, running_var,
                                   /*training=*/false, momentum, eps),
                        std::make_tuple(reserve(input)));
}

// With xc = x - mean, d the inverse deviation, n elements a channel, in training
//   grad_x = (g - mean(g) - xc d² mean(g xc)) d weight,
// in evaluation g d weight; grad_weight = sum(g xc) d, grad_bias = sum(g).
Three batch_norm_backward(const Tensor& grad, const Tensor& input, const OptionalTensor& weight_,
                          const OptionalTensor& running_mean, const OptionalTensor& running_var,
                          const OptionalTensor& save_mean, const OptionalTensor& save_deviation,
                          bool training, double eps, std::array<bool, 3> mask) {
  const ScalarType compute = arithmetic_dtype(input.scalar_type());
  const Tensor weight = or_undefined(weight_);
  const Tensor x = input.transpose(0, 1).to(compute);
  const Tensor g = grad.transpose(0, 1).to(compute);
  const Statistics statistics =
      training
          ? Statistics{save_mean->to(compute), save_deviation->to(compute)}
          : running_statistics(or_undefined(running_mean), or_undefined(running_var), compute, eps);
  const auto& [mean, deviation] = statistics;
  const DimVector dims = rest_of(x);
  const double elements = static_cast<double>(x.numel()) / static_cast<double>(x.size(0));
  Tensor centered, sum, product;
  if (training || mask[1]) {
    centered = at::sub(x, per_channel(mean, x));
    product = at::sum(at::mul(g, centered), dims);
  }
  if (training || mask[2]) sum = at::sum(g, dims);
  Tensor grad_input, grad_weight, grad_bias;
  if (mask[0]) {
    grad_input =
        at::empty(input.sizes(), input.options().memory_format(input.suggest_memory_format()));
    Tensor result = grad_input.transpose(0, 1);
    Tensor scale = weight.defined() ? at::mul(deviation, weight.to(compute)) : deviation;
    if (training) {
      const Tensor slope = at::mul(at::mul(product, at::mul(deviation, deviation)), 1 / elements);
      const Tensor shifted = at::sub(g, per_channel(at::mul(sum, 1 / elements), x));
      at::mul_out(result, at::sub(shifted, at::mul(centered, per_channel(slope, x))),
                  per_channel(scale, x));
    } else {
      at::mul_out(result, g, per_channel(scale, x));
    }
  }
  const ScalarType parameters = weight.defined() ? weight.scalar_type() : input.scalar_type();
  if (mask[1]) grad_weight = at::mul(product, deviation).to(parameters);
  if (mask[2]) grad_bias = sum.to(parameters);
  return {grad_input, grad_weight, grad_bias};
}

Three batch_norm_backward_with_reserve(const Tensor& grad, const Tensor& input,
                                       const Tensor& weight, const OptionalTensor& running_mean,
                                       const OptionalTensor& running_var,
                                       const OptionalTensor& save_mean,
                                       const OptionalTensor& save_deviation, bool training,
                                       double eps, std::array<bool, 3> mask, const Tensor&) {
  return batch_norm_backward(grad, input, weight, running_mean, running_var, save_mean,
                             save_deviation, training, eps, mask);
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("native_batch_norm", TORCH_FN(batch_norm));
  m.impl("native_batch_norm.out", TORCH_FN(batch_norm_out));
  m.impl("_native_batch_norm_legit", TORCH_FN(batch_norm_legit));
  m.impl("_native_batch_norm_legit.out", TORCH_FN(batch_norm_legit_out));
  m.impl("_native_batch_norm_legit.no_stats", TORCH_FN(batch_norm_without_statistics));
  m.impl("_native_batch_norm_legit.no_stats_out", TORCH_FN(batch_norm_without_statistics_out));
  m.impl("_batch_norm_with_update", TORCH_FN(batch_norm_with_update));
  m.impl("_batch_norm_no_update", TORCH_FN(batch_norm_no_update));
  m.impl("native_batch_norm_backward", TORCH_FN(batch_norm_backward));
  m.impl("batch_norm_backward", TORCH_FN(batch_norm_backward_with_reserve));
}

}  // namespace accel::aten
