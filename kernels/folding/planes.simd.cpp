// Planes of a folding, see planes.h.
#include "kernels/folding/planes.h"

#include "kernels/common/elements.h"

namespace accel::kernels::ACCEL_ISA {

namespace {

// The windows of an axis whose element `kernel` lies inside the image: [begin, end), the first of
// them at `image`.
struct Inside {
  int64_t begin, end, image;
};

Inside inside_of(const FoldingAxis& axis, int64_t kernel) {
  const int64_t at = kernel * axis.dilation - axis.padding;  // of window 0
  int64_t begin = at < 0 ? (-at + axis.stride - 1) / axis.stride : 0;
  int64_t end = at < axis.image ? (axis.image - at + axis.stride - 1) / axis.stride : 0;
  if (end > axis.windows) end = axis.windows;
  if (begin > end) begin = end;
  return {begin, end, at + begin * axis.stride};
}

template <class Element>
void unfold(const Folding& args, int64_t plane, int64_t kernel_row) {
  const FoldingAxis &rows = args.rows, &columns = args.columns;
  const Element* image =
      static_cast<const Element*>(args.input) + plane * rows.image * columns.image;
  Element* output = static_cast<Element*>(args.output) + plane * args.plane_stride +
                    kernel_row * rows.kernel_stride;
  const Inside inner_rows = inside_of(rows, kernel_row);
  for (int64_t k = 0; k < columns.kernel; ++k) {
    const Inside inner = inside_of(columns, k);
    for (int64_t i = 0; i < rows.windows; ++i) {
      Element* to = output + k * columns.kernel_stride + i * rows.window_stride;
      const int64_t stride = columns.window_stride;
      if (i < inner_rows.begin || i >= inner_rows.end) {
        for (int64_t j = 0; j < columns.windows; ++j) to[j * stride] = Element{};
        continue;
      }
      const int64_t row = inner_rows.image + (i - inner_rows.begin) * rows.stride;
      const Element* from = image + row * columns.image + inner.image;
      for (int64_t j = 0; j < inner.begin; ++j) to[j * stride] = Element{};
      const int64_t n = inner.end - inner.begin;
      if (stride == 1 && columns.stride == 1) {
        std::memcpy(to + inner.begin, from, static_cast<size_t>(n) * sizeof(Element));
      } else {
        for (int64_t j = 0; j < n; ++j) to[(inner.begin + j) * stride] = from[j * columns.stride];
      }
      for (int64_t j = inner.end; j < columns.windows; ++j) to[j * stride] = Element{};
    }
  }
}

// to[j * to_stride] += from[j * from_stride]
template <class Real, class Element>
ACCEL_INLINE void add(const Element* from, int64_t from_stride, int64_t n, Real* to,
                      int64_t to_stride) {
  using V = Vector<Real>;
  constexpr int64_t kLanes = sizeof(V) / sizeof(Real);
  int64_t j = 0;
  if (from_stride == 1 && to_stride == 1) {
    for (; j + kLanes <= n; j += kLanes) store(to + j, load<V>(to + j) + load_wide(from + j));
  }
  for (; j < n; ++j) to[j * to_stride] += widen(from[j * from_stride]);
}

template <class Element>
void fold(const Folding& args, int64_t plane, float* room) {
  using Real = decltype(widen(Element{}));
  using V = Vector<Real>;
  const FoldingAxis &rows = args.rows, &columns = args.columns;
  const int64_t size = rows.image * columns.image;
  const Element* input = static_cast<const Element*>(args.input) + plane * args.plane_stride;
  Element* output = static_cast<Element*>(args.output) + plane * size;
  constexpr bool kInPlace = sizeof(Real) == sizeof(Element);
  Real* sums;
  if constexpr (kInPlace) {
    sums = reinterpret_cast<Real*>(output);
  } else {
    sums = room;
  }
  std::memset(sums, 0, static_cast<size_t>(size) * sizeof(Real));
  for (int64_t m = 0; m < rows.kernel; ++m) {
    const Inside inner_rows = inside_of(rows, m);
    for (int64_t k = 0; k < columns.kernel; ++k) {
      const Inside inner = inside_of(columns, k);
      for (int64_t i = inner_rows.begin; i < inner_rows.end; ++i) {
        const int64_t row = inner_rows.image + (i - inner_rows.begin) * rows.stride;
        const Element* from = input + m * rows.kernel_stride + k * columns.kernel_stride +
                              i * rows.window_stride + inner.begin * columns.window_stride;
        add(from, columns.window_stride, inner.end - inner.begin,
            sums + row * columns.image + inner.image, columns.stride);
      }
    }
  }
  if constexpr (!kInPlace) {
    constexpr int64_t kLanes = sizeof(V) / sizeof(Real);
    int64_t j = 0;
    for (; j + kLanes <= size; j += kLanes) store_narrow(output + j, load<V>(sums + j));
    for (; j < size; ++j) narrow(output + j, sums[j]);
  }
}

}  // namespace

void unfold_rows(const Folding& args, int64_t plane, int64_t kernel_row) {
  switch (size_of(args.dtype)) {
    case 8:
      return unfold<double>(args, plane, kernel_row);
    case 2:
      return unfold<BFloat16>(args, plane, kernel_row);
    default:
      return unfold<float>(args, plane, kernel_row);
  }
}

void fold_plane(const Folding& args, int64_t plane, float* sums) {
  switch (args.dtype) {
    case DType::Float64:
      return fold<double>(args, plane, sums);
    case DType::BFloat16:
      return fold<BFloat16>(args, plane, sums);
    case DType::Float16:
      return fold<Float16>(args, plane, sums);
    default:
      return fold<float>(args, plane, sums);
  }
}

}  // namespace accel::kernels::ACCEL_ISA
