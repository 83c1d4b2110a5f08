// Convolutions of one to three dimensions, transposed or not, and their gradients: one Node each.
// PyTorch routes other backends' convolutions to the two overrideable ops. Complex, double and
// integral ones are host ops, and so are 16 bits where there is AMX: oneDNN's kernels use it.
#include <ATen/native/ConvUtils.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>

#include "csrc/aten/recording.h"
#include "kernels/common/isa.h"
#include "kernels/convolution/convolution.h"

namespace accel::aten {

namespace {

using kernels::ConvolutionKind;

bool is_convolvable(std::initializer_list<const Tensor*> tensors) {
  const Tensor& first = **tensors.begin();
  const ScalarType dtype = first.scalar_type();
  const bool half = dtype == at::kBFloat16 || dtype == at::kHalf;
  if (dtype != at::kFloat && !half) return false;
  if (half && kernels::current_isa() == kernels::Isa::Amx) return false;
  if (first.dim() < 3 || first.dim() > 5) return false;
  for (const Tensor* tensor : tensors) {
    if (!is_plain(*tensor) || tensor->scalar_type() != dtype || tensor->dim() != first.dim() ||
        tensor->numel() == 0) {
      return false;
    }
  }
  return true;
}

// As on the CPU: channels innermost if either tensor has them so.
at::MemoryFormat format_of(const Tensor& input, const Tensor& weight) {
  for (const Tensor* tensor : {&input, &weight}) {
    const at::MemoryFormat format = tensor->suggest_memory_format();
    if (format != at::MemoryFormat::Contiguous) return format;
  }
  return at::MemoryFormat::Contiguous;
}

Tensor empty_in(const Tensor& like, IntArrayRef sizes, at::MemoryFormat format) {
  return at::empty(sizes, like.options(), format);
}

// Kernels read any strides, but are fast where channels or pixels are contiguous.
Tensor readable(const Tensor& tensor, at::MemoryFormat format) {
  return tensor.stride(1) == 1 || tensor.stride(-1) == 1 ? tensor : tensor.contiguous(format);
}

struct Geometry {
  IntArrayRef stride, padding, dilation;
  int64_t groups;
};

// The three tensors by their roles in the convolution that is not transposed; one is computed.
void record(ConvolutionKind kind, const Tensor& input, const Tensor& weight, const Tensor& output,
            const OptionalTensor& bias, const Geometry& geometry) {
  const at::MemoryFormat format = format_of(input, weight);
  Recording recording(Opcode::Convolution);
  switch (kind) {
    case ConvolutionKind::Output:
      recording.output(output).input(readable(input, format)).input(weight);
      break;
    case ConvolutionKind::InputGradient:
      recording.output(input).input(weight).input(readable(output, format));
      break;
    case ConvolutionKind::WeightGradient:
      recording.output(weight).input(readable(input, format)).input(readable(output, format));
      break;
  }
  if (bias && bias->defined()) {
    recording.input(bias->contiguous());
  } else {
    recording.no_input();
  }
  recording.attribute(input.scalar_type())
      .attribute(static_cast<uint64_t>(kind))
      .attribute(static_cast<uint64_t>(geometry.groups));
  for (const IntArrayRef& numbers : {geometry.stride, geometry.padding, geometry.dilation}) {
    for (int64_t number : numbers) recording.attribute(static_cast<uint64_t>(number));
  }
  recording.record();
}

Tensor convolution(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                   IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, bool transposed,
                   IntArrayRef output_padding, int64_t groups) {
  const bool has_bias = bias && bias->defined();
  if (!is_convolvable({&input, &weight}) ||
      (has_bias && (!is_plain(*bias) || bias->scalar_type() != input.scalar_type()))) {
    return to_host<Tensor>("aten::convolution", "", input, weight, bias, stride, padding, dilation,
                           transposed, output_padding, groups)
        .contiguous(format_of(input, weight));
  }
  const auto sizes =
      transposed
          ? at::native::conv_input_size(input.sizes(), weight.sizes(), padding, output_padding,
                                        stride, dilation, groups)
          : at::native::conv_output_size(input.sizes(), weight.sizes(), padding, stride, dilation);
  const Tensor result = empty_in(input, sizes, format_of(input, weight));
  const Geometry geometry{stride, padding, dilation, groups};
  if (transposed) {
    record(ConvolutionKind::InputGradient, result, weight, input, bias, geometry);
  } else {
    record(ConvolutionKind::Output, input, weight, result, bias, geometry);
  }
  return result;
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor& grad, const Tensor& input,
                                                        const Tensor& weight, IntArrayRef stride,
                                                        IntArrayRef padding, IntArrayRef dilation,
                                                        bool transposed, IntArrayRef output_padding,
                                                        int64_t groups,
                                                        std::array<bool, 3> output_mask) {
  const at::MemoryFormat format = format_of(input, weight);
  if (!is_convolvable({&grad, &input, &weight})) {
    const int64_t outputs = transposed ? weight.size(1) * groups : weight.size(0);
    auto [grad_input, grad_weight, grad_bias] = to_host<std::tuple<Tensor, Tensor, Tensor>>(
        "aten::convolution_backward", "", grad, input, weight, IntArrayRef{outputs}, stride,
        padding, dilation, transposed, output_padding, groups, output_mask);
    if (output_mask[0]) grad_input = grad_input.contiguous(format);
    if (output_mask[1]) grad_weight = grad_weight.contiguous(format);
    return {grad_input, grad_weight, grad_bias};
  }
  const Geometry geometry{stride, padding, dilation, groups};
  Tensor grad_input, grad_weight, grad_bias;
  if (output_mask[0]) {
    grad_input = empty_in(input, input.sizes(), format);
    if (transposed) {
      record(ConvolutionKind::Output, grad, weight, grad_input, std::nullopt, geometry);
    } else {
      record(ConvolutionKind::InputGradient, grad_input, weight, grad, std::nullopt, geometry);
    }
  }
  if (output_mask[1]) {
    grad_weight = empty_in(weight, weight.sizes(), format);
    record(ConvolutionKind::WeightGradient, transposed ? grad : input, grad_weight,
           transposed ? input : grad, std::nullopt, geometry);
  }
  if (output_mask[2]) {
    c10::SmallVector<int64_t, 4> dims{0};
    for (int64_t dim = 2; dim < grad.dim(); ++dim) dims.push_back(dim);
    grad_bias = at::sum(grad, dims);
  }
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("convolution_overrideable", TORCH_FN(convolution));
  m.impl("convolution_backward_overrideable", TORCH_FN(convolution_backward));
}

}  // namespace accel::aten
