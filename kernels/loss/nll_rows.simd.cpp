// Sums of negative log likelihoods, see nll_rows.h.
#include "kernels/loss/nll_rows.h"

#include "kernels/common/convert.h"

namespace accel::kernels::ACCEL_ISA {
namespace rows {
namespace {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

ACCEL_INLINE float widen(float x) { return x; }
ACCEL_INLINE double widen(double x) { return x; }
ACCEL_INLINE float widen(BFloat16 x) { return bf16_to_f32(x.bits); }
ACCEL_INLINE float widen(Float16 x) { return f16_to_f32(x.bits); }
ACCEL_INLINE void narrow(float* to, float x) { *to = x; }
ACCEL_INLINE void narrow(double* to, double x) { *to = x; }
ACCEL_INLINE void narrow(BFloat16* to, float x) { to->bits = f32_to_bf16(x); }
ACCEL_INLINE void narrow(Float16* to, float x) { to->bits = f32_to_f16(x); }

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

template <class Body>
void with_element(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::Float64:
      return body(double{});
    case DType::BFloat16:
      return body(BFloat16{});
    case DType::Float16:
      return body(Float16{});
    default:
      return body(float{});
  }
}

}  // namespace
}  // namespace rows

void nll_rows(const NllLoss& args, int64_t begin, int64_t end, NllPartial* partial) {
  rows::with_element(args.dtype, [&](auto element) {
    rows::sum_losses<decltype(element)>(args, begin, end, partial);
  });
}

void store_value(DType dtype, void* to, double value) {
  rows::with_element(dtype, [&](auto element) {
    using Element = decltype(element);
    using Real = decltype(rows::widen(element));
    rows::narrow(static_cast<Element*>(to), static_cast<Real>(value));
  });
}

}  // namespace accel::kernels::ACCEL_ISA
