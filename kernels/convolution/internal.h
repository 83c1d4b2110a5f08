// The algorithms of convolution(), which chooses between them. One file each.
#pragma once

#include "kernels/convolution/convolution.h"

namespace accel::kernels {

// Output and InputGradient: products of pixels with a packed weight.
void convolution_pixels(const Convolution& args);
// WeightGradient: products of input channels with output channels, summed over pixels.
void convolution_weight_gradient(const Convolution& args);
// All three, where every group has one input and one output channel.
void convolution_depthwise(const Convolution& args);

}  // namespace accel::kernels
