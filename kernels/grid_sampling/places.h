// Places and planes of a GridSampling, compiled for each instruction set.
#pragma once

#include "kernels/grid_sampling/grid_sampling.h"

namespace accel::kernels {

// Places that are sampled together: enough of them to read a plane while it is in the first-level
// cache.
inline constexpr int64_t kGridBlock = 256;

// Forward and GridGradient: up to kGridBlock places of one image, from `begin`.
void sample_places(const GridSampling& args, int64_t image, int64_t begin);

// InputGradient: the planes [begin, end) of one image. sums: where elements have 16 bits, room for
// these planes.
void scatter_places(const GridSampling& args, int64_t image, int64_t begin, int64_t end,
                    float* sums);

}  // namespace accel::kernels
