// The choice of the algorithm, from sizes alone. Called by Launches.
#include "kernels/convolution/convolution.h"

#include "kernels/common/scratch.h"
#include "kernels/convolution/internal.h"

namespace accel::kernels {

void convolution(const Convolution& args) {
  if (args.groups > 1 && args.input_channels == args.groups &&
      args.output_channels == args.groups) {
    convolution_depthwise(args);
  } else if (args.kind == ConvolutionKind::WeightGradient) {
    convolution_weight_gradient(args);
  } else {
    convolution_pixels(args);
  }
  trim_scratch();
}

}  // namespace accel::kernels
