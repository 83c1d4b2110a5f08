// Sliding windows side by side and their sum: unfold and fold (im2col, col2im) and the gradient of
// Tensor.unfold, in floating dtypes; other dtypes are host ops.
#include <ATen/WrapDimUtils.h>
#include <ATen/native/im2col_shape_check.h>

#include "csrc/aten/recording.h"
#include "kernels/folding/folding.h"

namespace accel::aten {

namespace {

using kernels::Folding;
using kernels::FoldingAxis;

bool can_fold(const Tensor& tensor) {
  return is_plain(tensor) && is_native(tensor) && at::isFloatingType(tensor.scalar_type()) &&
         tensor.numel() > 0;
}

void record(const Folding& folding, const Tensor& output, const Tensor& input) {
  Recording recording(Opcode::Folding);
  recording.output(output).input(input.contiguous());
  recording.attribute(input.scalar_type()).attribute(uint64_t{folding.fold});
  recording.attribute(static_cast<uint64_t>(folding.planes))
      .attribute(static_cast<uint64_t>(folding.plane_stride));
  for (const FoldingAxis* axis : {&folding.rows, &folding.columns}) {
    for (int64_t value : {axis->image, axis->kernel, axis->windows, axis->stride, axis->padding,
                          axis->dilation, axis->kernel_stride, axis->window_stride}) {
      recording.attribute(static_cast<uint64_t>(value));
    }
  }
  recording.record();
}

// Rows, columns.
struct ImageWindows {
  IntArrayRef kernel, dilation, padding, stride;

  bool is_complete() const {
    return kernel.size() == 2 && dilation.size() == 2 && padding.size() == 2 && stride.size() == 2;
  }
};

// Columns are [planes, kernel rows, kernel columns, window rows, window columns].
Folding image_folding(bool fold, int64_t planes, int64_t rows, int64_t columns,
                      const ImageWindows& windows) {
  Folding folding;
  folding.fold = fold;
  folding.planes = planes;
  auto set = [&](FoldingAxis& axis, size_t i, int64_t image) {
    axis.image = image;
    axis.kernel = windows.kernel[i];
    axis.stride = windows.stride[i];
    axis.padding = windows.padding[i];
    axis.dilation = windows.dilation[i];
    axis.windows = at::native::sliding_window_count(image, axis.padding, axis.dilation, axis.kernel,
                                                    axis.stride);
  };
  set(folding.rows, 0, rows);
  set(folding.columns, 1, columns);
  folding.columns.window_stride = 1;
  folding.rows.window_stride = folding.columns.windows;
  folding.columns.kernel_stride = folding.rows.windows * folding.columns.windows;
  folding.rows.kernel_stride = folding.columns.kernel * folding.columns.kernel_stride;
  folding.plane_stride = folding.rows.kernel * folding.rows.kernel_stride;
  return folding;
}

Tensor im2col(const Tensor& self, IntArrayRef kernel, IntArrayRef dilation, IntArrayRef padding,
              IntArrayRef stride) {
  const ImageWindows windows{kernel, dilation, padding, stride};
  if (!can_fold(self) || self.dim() < 3 || self.dim() > 4 || !windows.is_complete()) {
    return to_host<Tensor>("aten::im2col", "", self, kernel, dilation, padding, stride);
  }
  at::native::im2col_shape_check(self, {}, kernel[0], kernel[1], dilation[0], dilation[1],
                                 padding[0], padding[1], stride[0], stride[1]);
  const int64_t planes = self.numel() / (self.size(-2) * self.size(-1));
  const Folding folding = image_folding(false, planes, self.size(-2), self.size(-1), windows);
  at::DimVector sizes(self.sizes().slice(0, static_cast<size_t>(self.dim()) - 2));
  sizes.back() *= kernel[0] * kernel[1];
  sizes.push_back(folding.rows.windows * folding.columns.windows);
  Tensor out = empty_on(self, sizes, self.scalar_type());
  record(folding, out, self);
  return out;
}

Tensor col2im(const Tensor& self, IntArrayRef sizes, IntArrayRef kernel, IntArrayRef dilation,
              IntArrayRef padding, IntArrayRef stride) {
  const ImageWindows windows{kernel, dilation, padding, stride};
  if (!can_fold(self) || sizes.size() != 2 || !windows.is_complete()) {
    return to_host<Tensor>("aten::col2im", "", self, sizes, kernel, dilation, padding, stride);
  }
  at::native::col2im_shape_check(self, {}, sizes[0], sizes[1], kernel[0], kernel[1], dilation[0],
                                 dilation[1], padding[0], padding[1], stride[0], stride[1]);
  at::DimVector shape(self.sizes().slice(0, static_cast<size_t>(self.dim()) - 1));
  shape.back() /= kernel[0] * kernel[1];
  const int64_t planes = c10::multiply_integers(shape);
  shape.append({sizes[0], sizes[1]});
  Tensor out = empty_on(self, shape, self.scalar_type());
  record(image_folding(true, planes, sizes[0], sizes[1], windows), out, self);
  return out;
}

// grad: [..., windows, ..., size]. Window i of the dimension begins at i * step, so that element k
// of it lies where fold puts element i of window k with dilation `step`: that way round, what lies
// side by side in grad is added to what lies side by side in the result.
Tensor unfold_backward(const Tensor& grad, IntArrayRef sizes, int64_t dim, int64_t size,
                       int64_t step) {
  const bool is_scalar = sizes.empty() && grad.dim() == 1 && grad.numel() == 1;
  if (is_scalar && can_fold(grad)) return grad.reshape({}).clone();
  if (!can_fold(grad) || sizes.empty() || grad.dim() != static_cast<int64_t>(sizes.size()) + 1 ||
      size <= 0 || step <= 0 || c10::multiply_integers(sizes) == 0) {
    return to_host<Tensor>("aten::unfold_backward", "", grad, sizes, dim, size, step);
  }
  const auto d = static_cast<size_t>(at::maybe_wrap_dim(dim, static_cast<int64_t>(sizes.size())));
  const int64_t windows = grad.sizes()[d], inner = c10::multiply_integers(sizes.slice(d + 1));
  Folding folding;
  folding.fold = true;
  folding.planes = c10::multiply_integers(sizes.slice(0, d));
  folding.plane_stride = windows * inner * size;
  FoldingAxis& axis = inner == 1 ? folding.columns : folding.rows;
  axis.image = sizes[d];
  axis.kernel = windows;
  axis.windows = size;
  axis.dilation = step;
  axis.kernel_stride = inner * size;
  axis.window_stride = 1;
  if (inner > 1) {
    folding.columns.image = folding.columns.windows = inner;
    folding.columns.window_stride = size;
  }
  // As the CPU's kernel, it takes a gradient that is the same for all planes.
  at::DimVector expected(sizes);
  expected[d] = windows;
  expected.push_back(size);
  Tensor out = empty_on(grad, sizes, grad.scalar_type());
  record(folding, out, grad.expand(expected));
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("im2col", TORCH_FN(im2col));
  m.impl("col2im", TORCH_FN(col2im));
  m.impl("unfold_backward", TORCH_FN(unfold_backward));
}

}  // namespace accel::aten
