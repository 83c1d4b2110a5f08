// Convolutions over up to three dimensions and their gradients; the engine behind
// csrc/aten/convolution.cpp. A transposed convolution is the gradient of the input of a plain one.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

namespace accel::kernels {

// Which of the three tensors is computed from the other two.
enum class ConvolutionKind : uint8_t { Output, InputGradient, WeightGradient };

// Strides in elements. Of a weight, the batch is the output channel, and channels are those of one
// group's input.
struct ConvolutionTensor {
  void* data = nullptr;
  int64_t batch_stride = 0, channel_stride = 0;
  int64_t strides[3] = {0, 0, 0};
};

// output[n, o, p] = bias[o] + sum over c, t of input[n, c, p * stride - padding + t * dilation] *
// weight[o, c, t], where c runs over the input channels of o's group and what lies outside the
// input is zero. All three tensors have one dtype: Float32, BFloat16 or Float16; sums are fp32,
// rounded once. (Denormal bf16 numbers count as zero where the machine multiplies pairs of bf16.)
// What is computed is written whole and overlaps nothing; absent dimensions have size 1. Sizes must
// fit each other; none may be 0, and padding may be negative.
//
// Every element is summed in one order, which follows from sizes, dtype and kind alone.
struct Convolution {
  ConvolutionKind kind = ConvolutionKind::Output;
  DType dtype = DType::Float32;
  int64_t batch = 0, groups = 1;
  int64_t input_channels = 0, output_channels = 0;  // of all groups
  int64_t input_size[3] = {1, 1, 1}, output_size[3] = {1, 1, 1}, kernel[3] = {1, 1, 1};
  int64_t stride[3] = {1, 1, 1}, padding[3] = {0, 0, 0}, dilation[3] = {1, 1, 1};
  ConvolutionTensor input, weight, output;
  // Of what is computed, an Output or an InputGradient; may be null. One element a channel.
  const void* bias = nullptr;
};

void convolution(const Convolution& args);

}  // namespace accel::kernels
