// Which source pixels a target pixel is summed from: one description for a convolution's output and
// for the gradient of its input, which reads the output's gradient at strided places.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/convolution/convolution.h"

namespace accel::kernels {

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// One element of the kernel: at pixel i of a phase it reads source pixel i * source_step + offset.
struct Tap {
  int64_t offset[3];
  int64_t index;     // row-major in the kernel
  int64_t position;  // among all taps in the order in which they are summed
};

// Target pixels that use the same taps: origin + i * target_step, for i < count.
struct Phase {
  int64_t origin[3], count[3];
  std::vector<Tap> taps;  // in ascending order of offsets
};

// The source is the input of an Output and the output's gradient of an InputGradient; a
// WeightGradient walks pixels as an Output does.
struct Geometry {
  int64_t source[3], target[3];  // sizes
  int64_t source_step[3], target_step[3];
  int64_t low[3], high[3];  // smallest and largest offset of a tap
  int64_t count[3];         // largest of the phases
  std::vector<Phase> phases;
};

Geometry geometry_of(const Convolution& args);

// The taps' number, all of the kernel.
inline int64_t taps_of(const Convolution& args) {
  return args.kernel[0] * args.kernel[1] * args.kernel[2];
}

}  // namespace accel::kernels
