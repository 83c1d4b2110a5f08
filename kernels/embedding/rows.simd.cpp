// Sums of gradient rows and of negative log likelihoods, see rows.h.
#include "kernels/embedding/rows.h"

#include "kernels/common/convert.h"
#include "kernels/common/simd.h"

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

ACCEL_INLINE VectorF32 load_wide(const float* from) { return load<VectorF32>(from); }
ACCEL_INLINE VectorF64 load_wide(const double* from) { return load<VectorF64>(from); }
ACCEL_INLINE VectorF32 load_wide(const BFloat16* from) { return load_bf16(from); }
ACCEL_INLINE VectorF32 load_wide(const Float16* from) { return load_f16(from); }
ACCEL_INLINE void store_narrow(float* to, VectorF32 x) { store(to, x); }
ACCEL_INLINE void store_narrow(double* to, VectorF64 x) { store(to, x); }
ACCEL_INLINE void store_narrow(BFloat16* to, VectorF32 x) { store_bf16(to, x); }
ACCEL_INLINE void store_narrow(Float16* to, VectorF32 x) { store_f16(to, x); }

template <class Element>
void sum_row(const EmbeddingBackward& args, int64_t row, const int32_t* positions, int64_t count) {
  using Real = decltype(widen(Element{}));
  using V = Vector<Real>;
  constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Real));
  constexpr int kUnroll =
      4;  // sums in registers: a row of gradients is read once, in runs of lines
  const Element* grad = static_cast<const Element*>(args.grad);
  Element* out = static_cast<Element*>(args.grad_table) + row * args.width;
  const int64_t stride = args.grad_row_stride;
  const Real divisor = args.scale_by_frequency ? static_cast<Real>(count) : Real{1};
  int64_t j = 0;
  if (args.grad_column_stride == 1) {
    for (; j + kUnroll * kLanes <= args.width; j += kUnroll * kLanes) {
      V sum[kUnroll] = {};
      for (int64_t i = 0; i < count; ++i) {
        const Element* from = grad + positions[i] * stride + j;
#pragma GCC unroll 4
        for (int u = 0; u < kUnroll; ++u) sum[u] += load_wide(from + u * kLanes);
      }
#pragma GCC unroll 4
      for (int u = 0; u < kUnroll; ++u) {
        store_narrow(out + j + u * kLanes, sum[u] / splat<V>(divisor));
      }
    }
    for (; j + kLanes <= args.width; j += kLanes) {
      V sum = {};
      for (int64_t i = 0; i < count; ++i) sum += load_wide(grad + positions[i] * stride + j);
      store_narrow(out + j, sum / splat<V>(divisor));
    }
  }
  for (; j < args.width; ++j) {
    Real sum = 0;
    for (int64_t i = 0; i < count; ++i) {
      sum += widen(grad[positions[i] * stride + j * args.grad_column_stride]);
    }
    narrow(out + j, sum / divisor);
  }
}

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

void sum_embedding_row(const EmbeddingBackward& args, int64_t row, const int32_t* positions,
                       int64_t count) {
  rows::with_element(args.dtype, [&](auto element) {
    rows::sum_row<decltype(element)>(args, row, positions, count);
  });
}

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
