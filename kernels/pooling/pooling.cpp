// The windows of a pooling, and its planes in chunks on the team.
#include "kernels/pooling/pooling.h"

#include <algorithm>
#include <vector>

#include "kernels/common/isa.h"
#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/pooling/planes.h"

namespace accel::kernels {

ACCEL_DISPATCH(void, max_pool_row,
               (const Pooling& args, const PoolingPlan& plan, int64_t plane, int64_t depth,
                int64_t row, void* room),
               (args, plan, plane, depth, row, room))
ACCEL_DISPATCH(void, scatter_plane,
               (const Pooling& args, int64_t plane, int64_t begin, int64_t end, float* sums),
               (args, plane, begin, end, sums))

namespace {

// Elements of a chunk: some tens of microseconds.
constexpr int64_t kChunkElements = 16 * 1024;
// Channels that one thread scatters side by side: whole cache lines, so that no two share one.
constexpr int64_t kScatterChannels = 32;

PoolingWindow window_of(const Pooling& args, const PoolingAxis& axis, int64_t i) {
  if (args.adaptive) {
    return {i * axis.full / axis.pooled, ((i + 1) * axis.full + axis.pooled - 1) / axis.pooled};
  }
  const int64_t from = i * axis.stride - axis.padding;
  const int64_t to = from + (axis.kernel - 1) * axis.dilation + 1;
  // The first element at or behind the border that the dilation reaches.
  const int64_t begin =
      from < 0 ? from + (-from + axis.dilation - 1) / axis.dilation * axis.dilation : from;
  return {begin, std::min(to, axis.full)};
}

// Units of work in chunks of about kChunkElements.
template <class Body>
void for_each_unit(int64_t units, int64_t elements, const Body& body) {
  const int64_t chunk = std::max<int64_t>(1, kChunkElements / std::max<int64_t>(1, elements));
  parallel_for((units + chunk - 1) / chunk, [&](int64_t i) {
    for (int64_t unit = i * chunk; unit < std::min(units, (i + 1) * chunk); ++unit) body(unit);
  });
}

void max_pool(const Pooling& args) {
  std::vector<PoolingWindow> windows[3];
  PoolingPlan plan;
  int64_t full = args.channels;
  for (int dim = 0; dim < 3; ++dim) {
    const PoolingAxis& axis = args.axes[dim];
    for (int64_t i = 0; i < axis.pooled; ++i) windows[dim].push_back(window_of(args, axis, i));
    plan.windows[dim] = windows[dim].data();
    full *= axis.full;
  }
  const int64_t depths = args.axes[0].pooled, rows = args.axes[1].pooled;
  const int64_t units = args.planes * depths * rows;
  const int64_t row =
      args.axes[2].pooled * args.channels + full / std::max<int64_t>(1, depths * rows);
  for_each_unit(units, row, [&](int64_t unit) {
    const int64_t depth = unit / rows;
    void* room = scratch(ScratchSlot::A, static_cast<size_t>(args.axes[2].full) * 16);
    max_pool_row(args, plan, depth / depths, depth % depths, unit % rows, room);
  });
}

void scatter(const Pooling& args) {
  int64_t full = 1, pooled = 1;
  for (const PoolingAxis& axis : args.axes) {
    full *= axis.full;
    pooled *= axis.pooled;
  }
  const int64_t width = std::min(args.channels, kScatterChannels);
  const int64_t blocks = (args.channels + width - 1) / width;
  for_each_unit(args.planes * blocks, (full + pooled) * width, [&](int64_t unit) {
    const int64_t begin = unit % blocks * width;
    const auto room = static_cast<size_t>(full * width) * sizeof(float);
    scatter_plane(args, unit / blocks, begin, std::min(begin + width, args.channels),
                  is_reduced_floating(args.dtype)
                      ? static_cast<float*>(scratch(ScratchSlot::A, room))
                      : nullptr);
  });
}

}  // namespace

void pooling(const Pooling& args) {
  args.kind == PoolingKind::Max ? max_pool(args) : scatter(args);
}

}  // namespace accel::kernels
