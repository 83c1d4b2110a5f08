// Negative log likelihood: runs of rows are summed in fp64 and then added in order.
#include <algorithm>

#include "kernels/common/isa.h"
#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/loss/nll_loss.h"
#include "kernels/loss/nll_rows.h"

namespace accel::kernels {

ACCEL_DISPATCH(void, nll_rows,
               (const NllLoss& args, int64_t begin, int64_t end, NllPartial* partial),
               (args, begin, end, partial))
ACCEL_DISPATCH(void, store_value, (DType dtype, void* to, double value), (dtype, to, value))

void nll_loss(const NllLoss& args, Fault* fault) {
  // Every row reads one element far from the last: 256 cache misses are about 10 µs.
  constexpr int64_t kRows = 256;
  const int64_t chunks = (args.rows + kRows - 1) / kRows;
  NllPartial* partials = static_cast<NllPartial*>(
      scratch(ScratchSlot::B, static_cast<size_t>(chunks) * sizeof(NllPartial)));
  parallel_for(chunks, [&](int64_t chunk) {
    partials[chunk] = NllPartial();
    nll_rows(args, chunk * kRows, std::min(args.rows, (chunk + 1) * kRows), &partials[chunk]);
  });
  double loss = 0, weight = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    loss += partials[chunk].loss;
    weight += partials[chunk].weight;
    if (partials[chunk].has_bad_target) fault->report(partials[chunk].bad_target, args.classes);
  }
  if (args.total_weight) store_value(args.dtype, args.total_weight, weight);
  if (args.reduction == Reduction::None) return;
  // The mean of nothing is 0 / 0, NaN, as in PyTorch.
  if (args.reduction == Reduction::Mean) loss /= weight;
  store_value(args.dtype, args.out, loss);
}

}  // namespace accel::kernels
