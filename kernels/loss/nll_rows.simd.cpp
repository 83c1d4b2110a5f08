// Sums of negative log likelihoods, see nll_rows.h.
#include "kernels/loss/nll_rows.h"

#include "kernels/common/elements.h"

namespace accel::kernels::ACCEL_ISA {
namespace rows {
namespace {

template <class Element>
void sum_losses(const NllLoss& args, int64_t begin, int64_t end, NllPartial* partial) {
  const Element* input = static_cast<const Element*>(args.input);
  const Element* weights = static_cast<const Element*>(args.weight);
  Element* out = static_cast<Element*>(args.out);
  const bool each = args.reduction == Reduction::None;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t target = args.targets[i * args.target_stride];
    bool counts = target != args.ignore_index;
    if (counts && (target < 0 || target >= args.classes)) {
      if (!partial->has_bad_target) partial->bad_target = target;
      partial->has_bad_target = true;
      counts = false;
    }
    if (!counts) {
      if (each) narrow(out + i, 0);
      continue;
    }
    const auto weight = weights ? widen(weights[target]) : 1;
    const auto loss = -widen(input[i * args.row_stride + target * args.column_stride]) * weight;
    if (each) {
      narrow(out + i, loss);
    } else {
      partial->loss += static_cast<double>(loss);
      partial->weight += static_cast<double>(weight);
    }
  }
}

}  // namespace
}  // namespace rows

void nll_rows(const NllLoss& args, int64_t begin, int64_t end, NllPartial* partial) {
  with_floating(args.dtype, [&](auto element) {
    rows::sum_losses<decltype(element)>(args, begin, end, partial);
  });
}

void store_value(DType dtype, void* to, double value) {
  with_floating(dtype, [&](auto element) {
    using Element = decltype(element);
    narrow(static_cast<Element*>(to), static_cast<RealOf<Element>>(value));
  });
}

}  // namespace accel::kernels::ACCEL_ISA
