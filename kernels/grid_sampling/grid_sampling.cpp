// The places and planes of a grid sampling in chunks on the team.
#include "kernels/grid_sampling/grid_sampling.h"

#include <algorithm>

#include "kernels/common/isa.h"
#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/grid_sampling/places.h"

namespace accel::kernels {

ACCEL_DISPATCH(void, sample_places, (const GridSampling& args, int64_t image, int64_t begin),
               (args, image, begin))
ACCEL_DISPATCH(void, scatter_places,
               (const GridSampling& args, int64_t image, int64_t begin, int64_t end, float* sums),
               (args, image, begin, end, sums))

namespace {

// Planes that share what is computed from the grid.
constexpr int64_t kScatterPlanes = 16;

}  // namespace

void grid_sampling(const GridSampling& args) {
  if (args.kind != GridSamplingKind::InputGradient) {
    const int64_t blocks = (args.places + kGridBlock - 1) / kGridBlock;
    return parallel_for(args.batch * blocks, [&](int64_t i) {
      sample_places(args, i / blocks, i % blocks * kGridBlock);
    });
  }
  const int64_t groups = (args.channels + kScatterPlanes - 1) / kScatterPlanes;
  const int64_t size = args.sizes[0] * args.sizes[1] * args.sizes[2];
  parallel_for(args.batch * groups, [&](int64_t i) {
    const int64_t begin = i % groups * kScatterPlanes;
    const int64_t end = std::min(begin + kScatterPlanes, args.channels);
    const auto room = static_cast<size_t>((end - begin) * size) * sizeof(float);
    scatter_places(args, i / groups, begin, end,
                   is_reduced_floating(args.dtype)
                       ? static_cast<float*>(scratch(ScratchSlot::A, room))
                       : nullptr);
  });
}

}  // namespace accel::kernels
