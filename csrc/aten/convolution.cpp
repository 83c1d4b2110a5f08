// Convolutions, of all ranks, transposed or not: host ops on ATen's CPU kernels. PyTorch routes
// other backends' convolutions to the two overrideable ops.
#include "csrc/aten/recording.h"

namespace accel::aten {

namespace {

Tensor convolution(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                   IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, bool transposed,
                   IntArrayRef output_padding, int64_t groups) {
  return to_host<Tensor>("aten::convolution", "", input, weight, bias, stride, padding, dilation,
                         transposed, output_padding, groups);
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor& grad, const Tensor& input,
                                                        const Tensor& weight, IntArrayRef stride,
                                                        IntArrayRef padding, IntArrayRef dilation,
                                                        bool transposed, IntArrayRef output_padding,
                                                        int64_t groups,
                                                        std::array<bool, 3> output_mask) {
  const int64_t outputs = transposed ? weight.size(1) * groups : weight.size(0);
  return to_host<std::tuple<Tensor, Tensor, Tensor>>(
      "aten::convolution_backward", "", grad, input, weight, IntArrayRef{outputs}, stride, padding,
      dilation, transposed, output_padding, groups, output_mask);
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("convolution_overrideable", TORCH_FN(convolution));
  m.impl("convolution_backward_overrideable", TORCH_FN(convolution_backward));
}

}  // namespace accel::aten
