// Softmax, layer norm and RMS norm with their backwards: one row Node each, which fusion joins with
// the pointwise ops around it. Batch norm and group norm have files of their own.
#include <ATen/native/cpu/mixed_data_type.h>
#include <ATen/native/layer_norm.h>
#include <ATen/ops/_log_softmax.h>
#include <ATen/ops/_log_softmax_backward_data_meta.h>
#include <ATen/ops/_log_softmax_meta.h>
#include <ATen/ops/_softmax.h>
#include <ATen/ops/_softmax_backward_data_meta.h>
#include <ATen/ops/_softmax_meta.h>
#include <ATen/ops/empty.h>

#include "csrc/aten/inference.h"

namespace accel::aten {

namespace {

using at::DimVector;

// --- softmax -------------------------------------------------------------------------------------

// Sizes or strides with dimension `dim` behind all others: the canonical order of a row op.
DimVector with_last(IntArrayRef values, int64_t dim) {
  DimVector moved;
  for (int64_t i = 0; i < static_cast<int64_t>(values.size()); ++i) {
    if (i != dim) moved.push_back(values[i]);
  }
  if (!values.empty()) moved.push_back(values[dim]);
  return moved;
}

// Records a row op whose inputs and output have one shape, along one dimension of it.
void record_rows(Opcode opcode, const Tensor& out, std::initializer_list<const Tensor*> inputs,
                 int64_t dim) {
  const Tensor& first = **inputs.begin();
  dim = at::maybe_wrap_dim(dim, first.dim());
  const DimVector sizes = with_last(first.sizes(), dim);
  Recording recording(opcode);
  recording.output(out, sizes, with_last(out.strides(), dim));
  ScalarType compute = out.scalar_type();
  for (const Tensor* input : inputs) {
    recording.input(*input, sizes, with_last(input->strides(), dim));
    compute = c10::promoteTypes(compute, input->scalar_type());
  }
  recording.attribute(arithmetic_dtype(compute))
      .attribute(sizes.empty() ? 0 : sizes.size() - 1)
      .record();
}

bool recordable(const Tensor& tensor) {
  return is_plain(tensor) && at::isFloatingType(tensor.scalar_type()) && is_native(tensor);
}

constexpr char kSoftmax[] = "aten::_softmax", kLogSoftmax[] = "aten::_log_softmax";

template <typename Meta, Opcode kOpcode, const char* kName,
          Tensor (*kCpuFunction)(const Tensor&, int64_t, bool)>
struct SoftmaxForward {
  static Tensor functional(const Tensor& self, int64_t dim, bool half_to_float) {
    Inferred<Meta> op;
    op.meta(self, dim, half_to_float);
    if (!recordable(self)) return refuse(self, dim);
    record_rows(kOpcode, op[0], {&self}, dim);
    return op[0];
  }
  static Tensor& out(const Tensor& self, int64_t dim, bool half_to_float, Tensor& out) {
    Inferred<Meta> op{out};
    op.meta(self, dim, half_to_float);
    if (!recordable(self) || !recordable(out)) {
      refuse(self, dim);
      to_host<Tensor>(kName, "out", self, dim, half_to_float, out);
      return out;
    }
    if (out.is_alias_of(self) && !out.is_same(self)) return out.copy_(functional(self, dim, false));
    record_rows(kOpcode, out, {&self}, dim);
    return out;
  }

 private:
  // What the CPU's kernel does not implement, it says at the call: one element is enough to hear
  // it.
  static Tensor refuse(const Tensor& self, int64_t dim) {
    const DimVector ones(static_cast<size_t>(self.dim()), 1);
    kCpuFunction(at::empty(ones, self.options().device(at::kCPU)), dim, false);
    return to_host<Tensor>(kName, "", self, dim, false);
  }
};

constexpr char kSoftmaxBackward[] = "aten::_softmax_backward_data";
constexpr char kLogSoftmaxBackward[] = "aten::_log_softmax_backward_data";

template <typename Meta, Opcode kOpcode, const char* kName>
struct SoftmaxGradient {
  static Tensor functional(const Tensor& grad, const Tensor& output, int64_t dim,
                           ScalarType input_dtype) {
    if (!recordable(grad) || !recordable(output)) {
      return to_host<Tensor>(kName, "", grad, output, dim, input_dtype);
    }
    Inferred<Meta> op;
    op.meta(grad, output, dim, input_dtype);
    const Tensor result =
        op[0].scalar_type() == input_dtype ? op[0] : empty_on(grad, grad.sizes(), input_dtype);
    record_rows(kOpcode, result, {&grad, &output}, dim);
    return result;
  }
  static Tensor& out(const Tensor& grad, const Tensor& output, int64_t dim, ScalarType input_dtype,
                     Tensor& grad_input) {
    if (!recordable(grad) || !recordable(output) || !recordable(grad_input) ||
        grad_input.is_alias_of(grad) || grad_input.is_alias_of(output)) {
      to_host<Tensor>(kName, "out", grad, output, dim, input_dtype, grad_input);
      return grad_input;
    }
    Inferred<Meta> op{grad_input};
    op.meta(grad, output, dim, input_dtype);
    record_rows(kOpcode, grad_input, {&grad, &output}, dim);
    return grad_input;
  }
};

using Softmax =
    SoftmaxForward<at::meta::structured__softmax, Opcode::Softmax, kSoftmax, at::_softmax>;
using LogSoftmax = SoftmaxForward<at::meta::structured__log_softmax, Opcode::LogSoftmax,
                                  kLogSoftmax, at::_log_softmax>;
using SoftmaxBackward = SoftmaxGradient<at::meta::structured__softmax_backward_data,
                                        Opcode::SoftmaxBackward, kSoftmaxBackward>;
using LogSoftmaxBackward = SoftmaxGradient<at::meta::structured__log_softmax_backward_data,
                                           Opcode::LogSoftmaxBackward, kLogSoftmaxBackward>;

// --- layer norm and RMS norm ---------------------------------------------------------------------

// Statistics (mean, reciprocal deviation) have the input's rank, with ones where it is normalised.
// Kernels see them without those ones.
Tensor empty_statistic(const Tensor& input, size_t kept, ScalarType dtype) {
  DimVector sizes(input.sizes().begin(), input.sizes().end());
  for (size_t i = kept; i < sizes.size(); ++i) sizes[i] = 1;
  return empty_on(input, sizes, dtype);
}

void add_statistic_output(Recording& recording, const Tensor& statistic, size_t kept) {
  recording.output(statistic, statistic.sizes().slice(0, kept), statistic.strides().slice(0, kept));
}

// Absent where it is undefined.
void add_statistic_input(Recording& recording, const Tensor& statistic, size_t kept) {
  if (!statistic.defined()) {
    recording.no_input();
    return;
  }
  recording.input(statistic, statistic.sizes().slice(0, kept), statistic.strides().slice(0, kept));
}

// Shapes and dtypes, in PyTorch's words; the number of dimensions that are not normalised.
size_t check_layer_norm(const Tensor& input, IntArrayRef normalized_shape, const Tensor& weight,
                        const Tensor& bias) {
  check_same_device("native_layer_norm", {{input, "input"}, {weight, "weight"}, {bias, "bias"}});
  at::native::_check_layer_norm_inputs(input, normalized_shape, weight, bias);
  TORCH_CHECK_NOT_IMPLEMENTED(recordable(input), "\"LayerNormKernelImpl\" not implemented for '",
                              toString(input.scalar_type()), "'");
  if (at::native::is_mixed_type(input, weight, bias)) {
    at::native::check_mixed_data_type(input, weight, bias);
  }
  return static_cast<size_t>(input.dim()) - normalized_shape.size();
}

std::tuple<Tensor, Tensor, Tensor> layer_norm(const Tensor& input, IntArrayRef normalized_shape,
                                              const OptionalTensor& weight_option,
                                              const OptionalTensor& bias_option, double eps) {
  const Tensor& weight = value_or_undefined(weight_option);
  const Tensor& bias = value_or_undefined(bias_option);
  const size_t kept = check_layer_norm(input, normalized_shape, weight, bias);
  const ScalarType compute = arithmetic_dtype(input.scalar_type());
  Tensor out = empty_on(input, input.sizes(), input.scalar_type());
  Tensor mean = empty_statistic(input, kept, compute);
  Tensor rstd = empty_statistic(input, kept, compute);
  Recording recording(Opcode::LayerNorm);
  recording.output(out);
  add_statistic_output(recording, mean, kept);
  add_statistic_output(recording, rstd, kept);
  recording.input(input)
      .input(weight, input.sizes())
      .input(bias, input.sizes())
      .attribute(compute)
      .attribute(kept)
      .scalar(eps)
      .record();
  return {std::move(out), std::move(mean), std::move(rstd)};
}

// The gradient of the input. Without a mean: of an RMS norm.
Tensor norm_backward_input(const Tensor& grad, const Tensor& input, const Tensor& mean,
                           const Tensor& rstd, const Tensor& weight, size_t kept) {
  Tensor result = empty_on(input, input.sizes(), input.scalar_type());
  Recording recording(Opcode::LayerNormBackwardInput);
  recording.output(result).input(grad).input(input);
  add_statistic_input(recording, mean, kept);
  add_statistic_input(recording, rstd, kept);
  recording.input(weight, input.sizes())
      .attribute(arithmetic_dtype(input.scalar_type()))
      .attribute(kept)
      .record();
  return result;
}

// The gradients of weight and bias, each where it is defined. Without a mean: of an RMS norm.
void norm_backward_parameters(const Tensor& grad_weight, const Tensor& grad_bias,
                              const Tensor& grad, const Tensor& input, const Tensor& mean,
                              const Tensor& rstd, size_t normalized) {
  Recording(Opcode::LayerNormBackwardParameters)
      .output(grad_weight)
      .output(grad_bias)
      .input(grad)
      .input(input)
      .input(mean, input.sizes())
      .input(rstd, input.sizes())
      .attribute(arithmetic_dtype(input.scalar_type()))
      .attribute(normalized)
      .attribute(true)
      .record();
}

std::tuple<Tensor, Tensor, Tensor> layer_norm_backward(const Tensor& grad, const Tensor& input,
                                                       IntArrayRef normalized_shape,
                                                       const Tensor& mean, const Tensor& rstd,
                                                       const OptionalTensor& weight_option,
                                                       const OptionalTensor& bias_option,
                                                       std::array<bool, 3> wanted) {
  const Tensor& weight = value_or_undefined(weight_option);
  const Tensor& bias = value_or_undefined(bias_option);
  const size_t kept = check_layer_norm(input, normalized_shape, weight, bias);
  check_same_device("native_layer_norm_backward", {{grad, "grad_out"}, {input, "input"}});
  Tensor grad_input, grad_weight, grad_bias;
  if (wanted[0]) grad_input = norm_backward_input(grad, input, mean, rstd, weight, kept);
  const auto parameter_dtype = [&](const Tensor& parameter) {
    return parameter.defined() ? parameter.scalar_type() : input.scalar_type();
  };
  if (wanted[1]) grad_weight = empty_on(input, normalized_shape, parameter_dtype(weight));
  if (wanted[2]) grad_bias = empty_on(input, normalized_shape, parameter_dtype(bias));
  if (wanted[1] || wanted[2]) {
    norm_backward_parameters(grad_weight, grad_bias, grad, input, mean, rstd,
                             normalized_shape.size());
  }
  return {std::move(grad_input), std::move(grad_weight), std::move(grad_bias)};
}

size_t check_rms_norm(const Tensor& input, IntArrayRef normalized_shape, const Tensor& weight) {
  check_same_device("_fused_rms_norm", {{input, "input"}, {weight, "weight"}});
  at::native::_check_rms_norm_inputs_symint(input, c10::fromIntArrayRefUnchecked(normalized_shape),
                                            weight);
  TORCH_CHECK_NOT_IMPLEMENTED(recordable(input), "\"rms_norm\" not implemented for '",
                              toString(input.scalar_type()), "'");
  return static_cast<size_t>(input.dim()) - normalized_shape.size();
}

std::tuple<Tensor, Tensor> rms_norm(const Tensor& input, IntArrayRef normalized_shape,
                                    const OptionalTensor& weight_option,
                                    std::optional<double> eps) {
  const Tensor& weight = value_or_undefined(weight_option);
  const size_t kept = check_rms_norm(input, normalized_shape, weight);
  const ScalarType compute = arithmetic_dtype(input.scalar_type());
  const double least = compute == ScalarType::Double ? std::numeric_limits<double>::epsilon()
                                                     : std::numeric_limits<float>::epsilon();
  Tensor out = empty_on(input, input.sizes(), input.scalar_type());
  Tensor rstd = empty_statistic(input, kept, compute);
  Recording recording(Opcode::RmsNorm);
  recording.output(out);
  add_statistic_output(recording, rstd, kept);
  recording.input(input)
      .input(weight, input.sizes())
      .attribute(compute)
      .attribute(kept)
      .scalar(eps.value_or(least))
      .record();
  return {std::move(out), std::move(rstd)};
}

std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& grad, const Tensor& input,
                                             IntArrayRef normalized_shape, const Tensor& rstd,
                                             const OptionalTensor& weight_option,
                                             std::array<bool, 2> wanted) {
  const Tensor& weight = value_or_undefined(weight_option);
  const size_t kept = check_rms_norm(input, normalized_shape, weight);
  check_same_device("_fused_rms_norm_backward", {{grad, "grad_out"}, {input, "input"}});
  Tensor grad_input, grad_weight;
  if (wanted[0]) grad_input = norm_backward_input(grad, input, {}, rstd, weight, kept);
  if (wanted[1] && weight.defined()) {
    grad_weight = empty_on(input, normalized_shape, weight.scalar_type());
    norm_backward_parameters(grad_weight, {}, grad, input, {}, rstd, normalized_shape.size());
  }
  return {std::move(grad_input), std::move(grad_weight)};
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_softmax", TORCH_FN(Softmax::functional));
  m.impl("_softmax.out", TORCH_FN(Softmax::out));
  m.impl("_softmax_backward_data", TORCH_FN(SoftmaxBackward::functional));
  m.impl("_softmax_backward_data.out", TORCH_FN(SoftmaxBackward::out));
  m.impl("_log_softmax", TORCH_FN(LogSoftmax::functional));
  m.impl("_log_softmax.out", TORCH_FN(LogSoftmax::out));
  m.impl("_log_softmax_backward_data", TORCH_FN(LogSoftmaxBackward::functional));
  m.impl("_log_softmax_backward_data.out", TORCH_FN(LogSoftmaxBackward::out));

  m.impl("native_layer_norm", TORCH_FN(layer_norm));
  m.impl("native_layer_norm_backward", TORCH_FN(layer_norm_backward));
  m.impl("_fused_rms_norm", TORCH_FN(rms_norm));
  m.impl("_fused_rms_norm_backward", TORCH_FN(rms_norm_backward));
}

}  // namespace accel::aten
