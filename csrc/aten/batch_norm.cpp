// Batch norm, and instance norm, which PyTorch makes of it. In training it is one row Node, a
// channel a row, which also moves the running statistics; in evaluation a pointwise Node in the
// input's own order of dimensions, which fuses with the ops around it.
#include <ATen/native/Resize.h>
#include <ATen/native/cpu/mixed_data_type.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/lerp.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/var_mean.h>

#include "csrc/aten/inference.h"

namespace accel::aten {

namespace {

using at::DimVector;
using Three = std::tuple<Tensor, Tensor, Tensor>;
using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// --- how the Node sees its arguments -------------------------------------------------------------

// Sizes or strides with the channels first.
DimVector channels_first(IntArrayRef values) {
  DimVector moved(values.begin(), values.end());
  std::swap(moved[0], moved[1]);
  return moved;
}

void add_rows_input(Recording& recording, const Tensor& tensor) {
  recording.input(tensor, channels_first(tensor.sizes()), channels_first(tensor.strides()));
}

void add_rows_output(Recording& recording, const Tensor& tensor) {
  if (!tensor.defined()) {
    recording.no_output();
    return;
  }
  recording.output(tensor, channels_first(tensor.sizes()), channels_first(tensor.strides()));
}

// A value a channel, repeated over the elements of `like` in its own order.
void add_broadcast_input(Recording& recording, const Tensor& values, const Tensor& like) {
  DimVector strides(like.dim(), 0);
  strides[1] = values.stride(0);
  recording.input(values, like.sizes(), strides);
}

// --- checks --------------------------------------------------------------------------------------

// Shapes and dtypes, in PyTorch's words. All arguments but the input may be undefined.
void check(const char* name, const Tensor& input, const Tensor& weight, const Tensor& bias,
           const Tensor& running_mean, const Tensor& running_var) {
  const std::initializer_list<Argument> arguments = {{input, "input"},
                                                     {weight, "weight"},
                                                     {bias, "bias"},
                                                     {running_mean, "running_mean"},
                                                     {running_var, "running_var"}};
  check_same_device(name, arguments);
  TORCH_CHECK(input.dim() >= 2, "Expected at least 2 dimensions, got ", input.dim());
  TORCH_CHECK_NOT_IMPLEMENTED(
      at::isFloatingType(input.scalar_type()) && is_plain(input) && is_native(input),
      "\"batch_norm\" not implemented for '", toString(input.scalar_type()), "'");
  for (const Argument& argument : arguments) {
    if (!argument.tensor.defined() || argument.tensor.is_same(input)) continue;
    TORCH_CHECK(argument.tensor.numel() == input.size(1), argument.name, " should contain ",
                input.size(1), " elements not ", argument.tensor.numel());
    TORCH_CHECK(argument.tensor.dim() == 1, argument.name, " should have one dimension, not ",
                argument.tensor.dim());
  }
  if (at::native::is_mixed_type(input, weight, bias, running_mean, running_var)) {
    at::native::check_mixed_data_type(input, weight, bias, running_mean, running_var);
  }
}

Tensor empty_statistic(const Tensor& input, int64_t elements) {
  return empty_on(input, {elements}, arithmetic_dtype(input.scalar_type()));
}

// --- forward -------------------------------------------------------------------------------------

void record_training(const Tensor& out, const Tensor& mean, const Tensor& rstd, const Tensor& input,
                     const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                     const Tensor& running_var, double momentum, double eps) {
  Recording recording(Opcode::BatchNorm);
  add_rows_output(recording, out);
  recording.output(mean).output(rstd).output(running_mean).output(running_var);
  add_rows_input(recording, input);
  recording.input(weight)
      .input(bias)
      .input(running_mean)
      .input(running_var)
      .attribute(arithmetic_dtype(input.scalar_type()))
      .attribute(1)  // kept dimension: the channels
      .scalar(eps)
      .scalar(momentum)
      .scalar(1 - momentum)
      .record();
}

// The weight over the running deviation, a value a channel.
Tensor running_scale(const Tensor& weight, const Tensor& running_var, ScalarType compute,
                     double eps) {
  const Tensor rstd = at::rsqrt(at::add(running_var.to(compute), eps));
  return weight.defined() ? at::mul(rstd, weight.to(compute)) : rstd;
}

void record_evaluation(const Tensor& out, const Tensor& input, const Tensor& weight,
                       const Tensor& bias, const Tensor& running_mean, const Tensor& running_var,
                       double eps) {
  const ScalarType compute = arithmetic_dtype(input.scalar_type());
  const Tensor scale = running_scale(weight, running_var, compute, eps);
  Recording recording(Opcode::Normalize);
  recording.output(out).input(input);
  add_broadcast_input(recording, running_mean, input);
  add_broadcast_input(recording, scale, input);
  if (bias.defined()) add_broadcast_input(recording, bias, input);
  recording.attribute(compute).record();
}

Three normalize(const Tensor& input, const Tensor& weight, const Tensor& bias,
                const Tensor& running_mean, const Tensor& running_var, bool training,
                double momentum, double eps) {
  check("native_batch_norm", input, weight, bias, running_mean, running_var);
  Tensor out = empty_result(input);
  // What evaluation saves is empty: its backward has the running statistics.
  const int64_t statistics = training ? input.size(1) : 0;
  Tensor mean = empty_statistic(input, statistics);
  Tensor rstd = empty_statistic(input, statistics);
  if (training) {
    record_training(out, mean, rstd, input, weight, bias, running_mean, running_var, momentum, eps);
  } else {
    TORCH_CHECK(running_mean.defined() && running_var.defined(),
                "Expected running_mean and running_var to be defined when training=False");
    record_evaluation(out, input, weight, bias, running_mean, running_var, eps);
  }
  return {std::move(out), std::move(mean), std::move(rstd)};
}

Three batch_norm(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias,
                 const OptionalTensor& running_mean, const OptionalTensor& running_var,
                 bool training, double momentum, double eps) {
  return normalize(input, value_or_undefined(weight), value_or_undefined(bias),
                   value_or_undefined(running_mean), value_or_undefined(running_var), training,
                   momentum, eps);
}

Three batch_norm_legit(const Tensor& input, const OptionalTensor& weight,
                       const OptionalTensor& bias, Tensor& running_mean, Tensor& running_var,
                       bool training, double momentum, double eps) {
  return normalize(input, value_or_undefined(weight), value_or_undefined(bias), running_mean,
                   running_var, training, momentum, eps);
}

Three batch_norm_without_statistics(const Tensor& input, const OptionalTensor& weight,
                                    const OptionalTensor& bias, bool training, double momentum,
                                    double eps) {
  return batch_norm(input, weight, bias, {}, {}, training, momentum, eps);
}

std::tuple<Tensor&, Tensor&, Tensor&> put(const Three& results, Tensor& out, Tensor& mean,
                                          Tensor& rstd) {
  auto write = [](Tensor& to, const Tensor& from) {
    at::native::resize_output(to, from.sizes());
    to.copy_(from);
  };
  write(out, std::get<0>(results));
  write(mean, std::get<1>(results));
  write(rstd, std::get<2>(results));
  return {out, mean, rstd};
}

std::tuple<Tensor&, Tensor&, Tensor&> batch_norm_out(
    const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias,
    const OptionalTensor& running_mean, const OptionalTensor& running_var, bool training,
    double momentum, double eps, Tensor& out, Tensor& mean, Tensor& rstd) {
  return put(batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps),
             out, mean, rstd);
}

std::tuple<Tensor&, Tensor&, Tensor&> batch_norm_legit_out(
    const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias,
    Tensor& running_mean, Tensor& running_var, bool training, double momentum, double eps,
    Tensor& out, Tensor& mean, Tensor& rstd) {
  return put(batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps),
             out, mean, rstd);
}

std::tuple<Tensor&, Tensor&, Tensor&> batch_norm_without_statistics_out(
    const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias, bool training,
    double momentum, double eps, Tensor& out, Tensor& mean, Tensor& rstd) {
  return put(batch_norm(input, weight, bias, {}, {}, training, momentum, eps), out, mean, rstd);
}

// What cuDNN keeps for its backward; here it is empty.
Tensor reserve(const Tensor& input) { return empty_on(input, {0}, ScalarType::Byte); }

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

// Moves the running statistics and returns the mean and the biased variance.
std::tuple<Tensor, Tensor> update_statistics(const Tensor& input,
                                             const OptionalTensor& running_mean,
                                             const OptionalTensor& running_var, double momentum) {
  const Tensor &to_mean = value_or_undefined(running_mean),
               &to_var = value_or_undefined(running_var);
  check("batch_norm_update_stats", input, {}, {}, to_mean, to_var);
  const Tensor x = input.to(arithmetic_dtype(input.scalar_type()));
  DimVector dims;
  for (int64_t i = 0; i < x.dim(); ++i) {
    if (i != 1) dims.push_back(i);
  }
  auto [variance, mean] = at::var_mean(x, dims, /*correction=*/0);
  const double elements = static_cast<double>(x.numel()) / static_cast<double>(x.size(1));
  if (to_mean.defined()) to_mean.lerp_(mean.to(to_mean.scalar_type()), momentum);
  if (to_var.defined()) {
    const Tensor unbiased = at::mul(variance, elements / (elements - 1));
    to_var.lerp_(unbiased.to(to_var.scalar_type()), momentum);
  }
  return {std::move(mean), std::move(variance)};
}

// --- backward ------------------------------------------------------------------------------------

// grad: dy; mean and spread: in training the mean and the reciprocal deviation that forward saved,
// in evaluation the running mean and variance.
void record_backward(const Tensor& grad_input, const Tensor& grad_weight, const Tensor& grad_bias,
                     const Tensor& grad, const Tensor& input, const Tensor& mean,
                     const Tensor& spread, const Tensor& weight, bool training, double eps) {
  Recording recording(Opcode::BatchNormBackward);
  add_rows_output(recording, grad_input);
  recording.output(grad_weight).output(grad_bias);
  add_rows_input(recording, grad);
  add_rows_input(recording, input);
  recording.input(mean)
      .input(spread)
      .input(weight)
      .attribute(arithmetic_dtype(input.scalar_type()))
      .attribute(1)  // kept dimension: the channels
      .attribute(false)
      .attribute(!training)
      .scalar(eps)
      .record();
}

// In evaluation the input's gradient alone is pointwise.
void record_evaluation_backward(const Tensor& grad_input, const Tensor& grad, const Tensor& weight,
                                const Tensor& running_var, double eps) {
  const ScalarType compute = arithmetic_dtype(grad.scalar_type());
  const Tensor scale = running_scale(weight, running_var, compute, eps);
  Recording recording(Opcode::Mul);
  recording.output(grad_input).input(grad);
  add_broadcast_input(recording, scale, grad);
  recording.attribute(compute).record();
}

Three batch_norm_backward(const Tensor& grad, const Tensor& input, const OptionalTensor& weight_,
                          const OptionalTensor& running_mean_, const OptionalTensor& running_var_,
                          const OptionalTensor& save_mean, const OptionalTensor& save_rstd,
                          bool training, double eps, std::array<bool, 3> wanted) {
  const Tensor &weight = value_or_undefined(weight_),
               &running_mean = value_or_undefined(running_mean_),
               &running_var = value_or_undefined(running_var_);
  check("native_batch_norm_backward", input, weight, {}, running_mean, running_var);
  check_same_device("native_batch_norm_backward", {{grad, "grad_out"}, {input, "input"}});
  const ScalarType parameters = weight.defined() ? weight.scalar_type() : input.scalar_type();
  Tensor grad_input, grad_weight, grad_bias;
  if (wanted[0]) grad_input = empty_result(input);
  if (wanted[1]) grad_weight = empty_on(input, {input.size(1)}, parameters);
  if (wanted[2]) grad_bias = empty_on(input, {input.size(1)}, parameters);
  if (!training && wanted[0] && !wanted[1] && !wanted[2]) {
    record_evaluation_backward(grad_input, grad, weight, running_var, eps);
  } else if (wanted[0] || wanted[1] || wanted[2]) {
    record_backward(grad_input, grad_weight, grad_bias, grad, input,
                    training ? value_or_undefined(save_mean) : running_mean,
                    training ? value_or_undefined(save_rstd) : running_var, weight, training, eps);
  }
  return {std::move(grad_input), std::move(grad_weight), std::move(grad_bias)};
}

Three batch_norm_backward_with_reserve(const Tensor& grad, const Tensor& input,
                                       const Tensor& weight, const OptionalTensor& running_mean,
                                       const OptionalTensor& running_var,
                                       const OptionalTensor& save_mean,
                                       const OptionalTensor& save_rstd, bool training, double eps,
                                       std::array<bool, 3> wanted, const Tensor&) {
  return batch_norm_backward(grad, input, weight, running_mean, running_var, save_mean, save_rstd,
                             training, eps, wanted);
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
  m.impl("batch_norm_update_stats", TORCH_FN(update_statistics));
  m.impl("native_batch_norm_backward", TORCH_FN(batch_norm_backward));
  m.impl("batch_norm_backward", TORCH_FN(batch_norm_backward_with_reserve));
}

}  // namespace accel::aten
