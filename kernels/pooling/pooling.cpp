// The windows of a pooling, and its planes in chunks on the team.
#include "kernels/pooling/pooling.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/common/isa.h"
#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/pooling/planes.h"

namespace accel::kernels {

ACCEL_DISPATCH(void, pool_planes,
               (const Pooling& args, const PoolingPlan& plan, int64_t begin, int64_t end,
                void* sums),
               (args, plan, begin, end, sums))

namespace {

// Elements of a chunk: some tens of microseconds.
constexpr int64_t kChunkElements = 16 * 1024;

PoolingWindow window_of(const Pooling& args, int dim, int64_t i) {
  const PoolingWindows& windows = args.windows;
  const int64_t size = args.full[dim], pooled = args.pooled[dim];
  if (args.kind == PoolingKind::Nearest) {
    // In the precision that ATen computes it in, so that both round to the same element.
    const double at = static_cast<double>(i) + (windows.exact ? 0.5 : 0);
    const double source =
        args.dtype == DType::Float64
            ? std::floor(at * windows.scale[dim])
            : std::floor(static_cast<float>(at) * static_cast<float>(windows.scale[dim]));
    const int64_t element = std::min(static_cast<int64_t>(source), size - 1);
    return {element, element + 1, 1};
  }
  if (windows.adaptive) {
    const int64_t begin = i * size / pooled, end = ((i + 1) * size + pooled - 1) / pooled;
    return {begin, end, end - begin};
  }
  const int64_t kernel = windows.kernel[dim], dilation = windows.dilation[dim];
  const int64_t from = i * windows.stride[dim] - windows.padding[dim];
  const int64_t to = from + (kernel - 1) * dilation + 1;
  // The first element at or behind the border that the dilation reaches.
  const int64_t begin = from < 0 ? from + (-from + dilation - 1) / dilation * dilation : from;
  return {begin, std::min(to, size), std::min(to, size + windows.padding[dim]) - from};
}

std::vector<PoolingWindow> windows_of(const Pooling& args, int dim) {
  std::vector<PoolingWindow> windows;
  for (int64_t i = 0; i < args.pooled[dim]; ++i) windows.push_back(window_of(args, dim, i));
  return windows;
}

}  // namespace

void pooling(const Pooling& args) {
  const std::vector<PoolingWindow> rows = windows_of(args, 0), columns = windows_of(args, 1);
  const PoolingPlan plan{{rows.data(), columns.data()}};
  const int64_t elements = args.full[0] * args.full[1] + args.pooled[0] * args.pooled[1];
  const int64_t planes = std::max<int64_t>(1, kChunkElements / std::max<int64_t>(1, elements));
  parallel_for((args.planes + planes - 1) / planes, [&](int64_t chunk) {
    const bool sums_apart = args.backward && is_reduced_floating(args.dtype);
    const auto bytes = static_cast<size_t>(args.full[0] * args.full[1]) * sizeof(float);
    pool_planes(args, plan, chunk * planes, std::min(args.planes, (chunk + 1) * planes),
                sums_apart ? scratch(ScratchSlot::A, bytes) : nullptr);
  });
}

}  // namespace accel::kernels
