// The planes of a folding in chunks on the team.
#include "kernels/folding/folding.h"

#include <algorithm>

#include "kernels/common/isa.h"
#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/folding/planes.h"

namespace accel::kernels {

ACCEL_DISPATCH(void, unfold_rows, (const Folding& args, int64_t plane, int64_t kernel_row),
               (args, plane, kernel_row))
ACCEL_DISPATCH(void, fold_plane, (const Folding& args, int64_t plane, float* sums),
               (args, plane, sums))

namespace {

// Elements of a chunk: some tens of microseconds.
constexpr int64_t kChunkElements = 32 * 1024;

}  // namespace

void folding(const Folding& args) {
  const FoldingAxis &rows = args.rows, &columns = args.columns;
  const int64_t image = rows.image * columns.image;
  const int64_t kernel_row = columns.kernel * rows.windows * columns.windows;
  // Unfolding writes each kernel row apart; folding adds all of them to one plane.
  const int64_t units = args.fold ? args.planes : args.planes * rows.kernel;
  const int64_t unit = args.fold ? image + rows.kernel * kernel_row : kernel_row;
  const int64_t chunk = std::max<int64_t>(1, kChunkElements / std::max<int64_t>(1, unit));
  parallel_for((units + chunk - 1) / chunk, [&](int64_t index) {
    float* sums = args.fold && is_reduced_floating(args.dtype)
                      ? static_cast<float*>(
                            scratch(ScratchSlot::A, static_cast<size_t>(image) * sizeof(float)))
                      : nullptr;
    for (int64_t i = index * chunk; i < std::min(units, (index + 1) * chunk); ++i) {
      args.fold ? fold_plane(args, i, sums) : unfold_rows(args, i / rows.kernel, i % rows.kernel);
    }
  });
}

}  // namespace accel::kernels
