// Group norm: a layer norm whose rows are the groups, recorded as layer norm's Nodes over views of
// the input with its channels split into groups.
#include <ATen/native/cpu/mixed_data_type.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include "csrc/aten/inference.h"

namespace accel::aten {

namespace {

using at::DimVector;
using Three = std::tuple<Tensor, Tensor, Tensor>;

// The dimensions in which the Nodes see everything: batch, groups, channels of a group, then the
// positions. Rows have them in this order; the parameters' gradients have the first behind the next
// two, whose sizes are kept there.
enum class Order { Rows, Channels };

struct Groups {
  int64_t batch, groups, channels;  // channels of a group
  DimVector positions;
  DimVector none;  // strides of what is the same for all positions

  Groups(const Tensor& input, int64_t groups)
      : batch(input.size(0)),
        groups(groups),
        channels(input.size(1) / groups),
        positions(input.sizes().begin() + 2, input.sizes().end()),
        none(positions.size(), 0) {}

  static DimVector ordered(Order order, int64_t batch, int64_t group, int64_t channel,
                           IntArrayRef positions) {
    DimVector dims =
        order == Order::Rows ? DimVector{batch, group, channel} : DimVector{group, channel, batch};
    dims.append(positions.begin(), positions.end());
    return dims;
  }
  DimVector sizes(Order order) const { return ordered(order, batch, groups, channels, positions); }

  DimVector strides_of(const Tensor& tensor, Order order) const {
    return ordered(order, tensor.stride(0), tensor.stride(1) * channels, tensor.stride(1),
                   tensor.strides().slice(2));
  }
  DimVector strides_of_parameter(const Tensor& parameter, Order order) const {
    return ordered(order, 0, parameter.stride(0) * channels, parameter.stride(0), none);
  }
  DimVector strides_of_statistic(const Tensor& statistic, Order order) const {
    return ordered(order, statistic.stride(0), statistic.stride(1), 0, none);
  }
};

void add_parameter(Recording& recording, const Groups& groups, const Tensor& parameter) {
  if (parameter.defined()) {
    recording.input(parameter, groups.sizes(Order::Rows),
                    groups.strides_of_parameter(parameter, Order::Rows));
  } else {
    recording.no_input();
  }
}

// Batch, channels, positions; the sizes are given beside the input.
Tensor as_batch(const Tensor& input, int64_t batch, int64_t channels, int64_t positions) {
  if (input.dim() >= 2 && input.size(0) == batch && input.size(1) == channels) return input;
  return input.reshape({batch, channels, positions});
}

// Shapes and dtypes, in PyTorch's words.
void check(const Tensor& input, const Tensor& weight, const Tensor& bias, int64_t channels,
           int64_t groups) {
  check_same_device("native_group_norm", {{input, "input"}, {weight, "weight"}, {bias, "bias"}});
  TORCH_CHECK(groups > 0, "Expected num groups to be greater than 0, got ", groups);
  TORCH_CHECK(channels % groups == 0,
              "Expected number of channels in input to be divisible by num_groups, but got input "
              "of shape ",
              input.sizes(), " and num_groups=", groups);
  for (const Argument& argument : {Argument{weight, "weight"}, Argument{bias, "bias"}}) {
    const Tensor& parameter = argument.tensor;
    if (!parameter.defined()) continue;
    TORCH_CHECK(parameter.dim() == 1 && parameter.numel() == channels, "Expected ", argument.name,
                " to be a vector of size equal to the number of channels in input, but got ",
                argument.name, " of shape ", parameter.sizes(), " and input of shape ",
                input.sizes());
  }
  TORCH_CHECK_NOT_IMPLEMENTED(
      at::isFloatingType(input.scalar_type()) && is_plain(input) && is_native(input),
      "\"GroupNormKernelImpl\" not implemented for '", toString(input.scalar_type()), "'");
  if (at::native::is_mixed_type(input, weight, bias)) {
    at::native::check_mixed_data_type(input, weight, bias);
  }
}

Three group_norm(const Tensor& input, const OptionalTensor& weight_option,
                 const OptionalTensor& bias_option, int64_t batch, int64_t channels,
                 int64_t positions, int64_t group_count, double eps) {
  const Tensor& weight = value_or_undefined(weight_option);
  const Tensor& bias = value_or_undefined(bias_option);
  check(input, weight, bias, channels, group_count);
  const bool mixed = at::native::is_mixed_type(input, weight, bias);
  const ScalarType statistics = at::native::param_scalar_type(input, mixed);
  Tensor out = empty_result(input);
  const auto options = out.options().dtype(statistics).memory_format(at::MemoryFormat::Contiguous);
  if (input.numel() == 0) {
    return {std::move(out), at::zeros({batch, group_count}, options),
            at::full({batch, group_count}, NAN, options)};
  }
  Tensor mean = at::empty({batch, group_count}, options);
  Tensor rstd = at::empty({batch, group_count}, options);
  const Tensor x = as_batch(input, batch, channels, positions);
  const Tensor y = as_batch(out, batch, channels, positions);
  const Groups groups(x, group_count);
  const DimVector sizes = groups.sizes(Order::Rows);
  Recording recording(Opcode::LayerNorm);
  recording.output(y, sizes, groups.strides_of(y, Order::Rows))
      .output(mean)
      .output(rstd)
      .input(x, sizes, groups.strides_of(x, Order::Rows));
  add_parameter(recording, groups, weight);
  add_parameter(recording, groups, bias);
  recording.attribute(arithmetic_dtype(input.scalar_type()))
      .attribute(2)  // kept dimensions: batch and groups
      .scalar(eps)
      .record();
  return {std::move(out), std::move(mean), std::move(rstd)};
}

void record_backward_input(const Groups& groups, const Tensor& grad_input, const Tensor& grad,
                           const Tensor& input, const Tensor& mean, const Tensor& rstd,
                           const Tensor& weight) {
  const DimVector sizes = groups.sizes(Order::Rows);
  Recording recording(Opcode::LayerNormBackwardInput);
  recording.output(grad_input, sizes, groups.strides_of(grad_input, Order::Rows))
      .input(grad, sizes, groups.strides_of(grad, Order::Rows))
      .input(input, sizes, groups.strides_of(input, Order::Rows))
      .input(mean)
      .input(rstd);
  add_parameter(recording, groups, weight);
  recording.attribute(arithmetic_dtype(input.scalar_type())).attribute(2).record();
}

// A channel a row: the batch and the positions are added up.
void record_backward_parameters(const Groups& groups, const Tensor& grad_weight,
                                const Tensor& grad_bias, const Tensor& grad, const Tensor& input,
                                const Tensor& mean, const Tensor& rstd) {
  Recording recording(Opcode::LayerNormBackwardParameters);
  for (const Tensor& output : {grad_weight, grad_bias}) {
    recording.output(output, {groups.groups, groups.channels}, {groups.channels, 1});
  }
  const DimVector sizes = groups.sizes(Order::Channels);
  recording.input(grad, sizes, groups.strides_of(grad, Order::Channels))
      .input(input, sizes, groups.strides_of(input, Order::Channels))
      .input(mean, sizes, groups.strides_of_statistic(mean, Order::Channels))
      .input(rstd, sizes, groups.strides_of_statistic(rstd, Order::Channels))
      .attribute(arithmetic_dtype(input.scalar_type()))
      .attribute(2)  // kept dimensions: groups and channels of a group
      .attribute(false)
      .record();
}

Three group_norm_backward(const Tensor& grad, const Tensor& input, const Tensor& mean,
                          const Tensor& rstd, const OptionalTensor& weight_option, int64_t batch,
                          int64_t channels, int64_t positions, int64_t group_count,
                          std::array<bool, 3> wanted) {
  const Tensor& weight = value_or_undefined(weight_option);
  check(input, weight, {}, channels, group_count);
  check_same_device("native_group_norm_backward", {{grad, "grad_out"}, {input, "input"}});
  TORCH_CHECK(input.scalar_type() == grad.scalar_type(),
              "Expected scalar types of X and dY are same.");
  const ScalarType parameters = weight.defined() ? weight.scalar_type() : input.scalar_type();
  Tensor grad_input, grad_weight, grad_bias;
  if (wanted[0]) grad_input = empty_result(input);
  const auto options = input.options().dtype(parameters);
  auto parameter = [&] {
    return input.numel() == 0 ? at::zeros({channels}, options) : at::empty({channels}, options);
  };
  if (wanted[1]) grad_weight = parameter();
  if (wanted[2]) grad_bias = parameter();
  if (input.numel() != 0) {
    const Tensor x = as_batch(input, batch, channels, positions);
    const Tensor dy = as_batch(grad, batch, channels, positions);
    const Groups groups(x, group_count);
    const Tensor averages = mean.view({batch, group_count});
    const Tensor deviations = rstd.view({batch, group_count});
    if (wanted[0]) {
      record_backward_input(groups, as_batch(grad_input, batch, channels, positions), dy, x,
                            averages, deviations, weight);
    }
    if (wanted[1] || wanted[2]) {
      record_backward_parameters(groups, grad_weight, grad_bias, dy, x, averages, deviations);
    }
  }
  return {std::move(grad_input), std::move(grad_weight), std::move(grad_bias)};
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("native_group_norm", TORCH_FN(group_norm));
  m.impl("native_group_norm_backward", TORCH_FN(group_norm_backward));
}

}  // namespace accel::aten
