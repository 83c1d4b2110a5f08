// Pooling over two dimensions (which serves one as well) and resampling to the nearest neighbour:
// contiguous planes of floating dtypes; other layouts and dtypes are host ops.
#include <ATen/ops/_upsample_nearest_exact2d_backward_meta.h>
#include <ATen/ops/_upsample_nearest_exact2d_meta.h>
#include <ATen/ops/avg_pool2d_backward_meta.h>
#include <ATen/ops/avg_pool2d_meta.h>
#include <ATen/ops/max_pool2d_with_indices_backward_meta.h>
#include <ATen/ops/max_pool2d_with_indices_meta.h>
#include <ATen/ops/upsample_nearest2d_backward_meta.h>
#include <ATen/ops/upsample_nearest2d_meta.h>

#include <bit>

#include "csrc/aten/inference.h"
#include "kernels/pooling/pooling.h"

namespace accel::aten {

namespace {

using kernels::PoolingKind;
using kernels::PoolingWindows;
using OptionalDouble = std::optional<double>;

// Whether these can be pooled here. Channels innermost is the host's layout, which vectorises it.
bool poolable(std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* tensor : tensors) {
    if (!is_plain(*tensor) || !is_native(*tensor) || tensor->dim() < 3 || tensor->numel() == 0 ||
        tensor->suggest_memory_format() != at::MemoryFormat::Contiguous) {
      return false;
    }
  }
  return at::isFloatingType((*tensors.begin())->scalar_type());
}

struct Pooling {
  PoolingKind kind;
  PoolingWindows windows;
  bool backward = false;
  bool count_padding = true;
  int64_t divisor = 0;
};

// indices: written forward, read backward, or undefined.
void record(const Pooling& pooling, const Tensor& output, const Tensor& input,
            const Tensor& indices = {}) {
  Recording recording(Opcode::Pooling);
  recording.output(output);
  if (indices.defined() && !pooling.backward) recording.output(indices);
  recording.input(input.contiguous());
  if (indices.defined() && pooling.backward) recording.input(indices.contiguous());
  const PoolingWindows& windows = pooling.windows;
  recording.attribute(input.scalar_type())
      .attribute(static_cast<uint64_t>(pooling.kind))
      .attribute(uint64_t{pooling.backward});
  for (const int64_t* pair : {windows.kernel, windows.stride, windows.padding, windows.dilation}) {
    recording.attribute(static_cast<uint64_t>(pair[0])).attribute(static_cast<uint64_t>(pair[1]));
  }
  recording.attribute(uint64_t{windows.adaptive});
  for (double scale : windows.scale) recording.attribute(std::bit_cast<uint64_t>(scale));
  recording.attribute(uint64_t{windows.exact})
      .attribute(uint64_t{pooling.count_padding})
      .attribute(static_cast<uint64_t>(pooling.divisor))
      .record();
}

// One number for both dimensions, or a pair; none: the default.
void set_pair(int64_t (&pair)[2], IntArrayRef given, const int64_t (&otherwise)[2]) {
  for (size_t i = 0; i < 2; ++i) {
    pair[i] = given.empty() ? otherwise[i] : given.size() == 1 ? given[0] : given[i];
  }
}

PoolingWindows windows_of(IntArrayRef kernel, IntArrayRef stride, IntArrayRef padding,
                          IntArrayRef dilation) {
  PoolingWindows windows;
  set_pair(windows.kernel, kernel, windows.kernel);
  set_pair(windows.stride, stride, windows.kernel);
  set_pair(windows.padding, padding, windows.padding);
  set_pair(windows.dilation, dilation, windows.dilation);
  return windows;
}

// --- maximum -------------------------------------------------------------------------------------

std::tuple<Tensor, Tensor> max_pool2d(const Tensor& self, IntArrayRef kernel, IntArrayRef stride,
                                      IntArrayRef padding, IntArrayRef dilation, bool ceil_mode) {
  if (!poolable({&self})) {
    return to_host<std::tuple<Tensor, Tensor>>("aten::max_pool2d_with_indices", "", self, kernel,
                                               stride, padding, dilation, ceil_mode);
  }
  Inferred<at::meta::structured_max_pool2d_with_indices, 2> op;
  op.meta(self, kernel, stride, padding, dilation, ceil_mode);
  record({PoolingKind::Max, windows_of(kernel, stride, padding, dilation)}, op[0], self, op[1]);
  return {op[0], op[1]};
}

Tensor max_pool2d_backward(const Tensor& grad, const Tensor& self, IntArrayRef kernel,
                           IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
                           bool ceil_mode, const Tensor& indices) {
  if (!poolable({&grad, &self})) {
    return to_host<Tensor>("aten::max_pool2d_with_indices_backward", "", grad, self, kernel, stride,
                           padding, dilation, ceil_mode, indices);
  }
  Inferred<at::meta::structured_max_pool2d_with_indices_backward> op;
  op.meta(grad, self, kernel, stride, padding, dilation, ceil_mode, indices);
  record({PoolingKind::Max, windows_of(kernel, stride, padding, dilation), true}, op[0], grad,
         indices);
  return op[0];
}

// --- average -------------------------------------------------------------------------------------

Tensor avg_pool2d(const Tensor& self, IntArrayRef kernel, IntArrayRef stride, IntArrayRef padding,
                  bool ceil_mode, bool count_padding, std::optional<int64_t> divisor) {
  if (!poolable({&self})) {
    return to_host<Tensor>("aten::avg_pool2d", "", self, kernel, stride, padding, ceil_mode,
                           count_padding, divisor);
  }
  Inferred<at::meta::structured_avg_pool2d> op;
  op.meta(self, kernel, stride, padding, ceil_mode, count_padding, divisor);
  record({PoolingKind::Average, windows_of(kernel, stride, padding, {}), false, count_padding,
          divisor.value_or(0)},
         op[0], self);
  return op[0];
}

Tensor avg_pool2d_backward(const Tensor& grad, const Tensor& self, IntArrayRef kernel,
                           IntArrayRef stride, IntArrayRef padding, bool ceil_mode,
                           bool count_padding, std::optional<int64_t> divisor) {
  if (!poolable({&grad, &self})) {
    return to_host<Tensor>("aten::avg_pool2d_backward", "", grad, self, kernel, stride, padding,
                           ceil_mode, count_padding, divisor);
  }
  Inferred<at::meta::structured_avg_pool2d_backward> op;
  op.meta(grad, self, kernel, stride, padding, ceil_mode, count_padding, divisor);
  record({PoolingKind::Average, windows_of(kernel, stride, padding, {}), true, count_padding,
          divisor.value_or(0)},
         op[0], grad);
  return op[0];
}

PoolingWindows adaptive_windows() {
  PoolingWindows windows;
  windows.adaptive = true;
  return windows;
}

Tensor adaptive_avg_pool2d(const Tensor& self, IntArrayRef sizes) {
  if (!poolable({&self}) || self.dim() > 4 || sizes.size() != 2 || sizes[0] <= 0 || sizes[1] <= 0) {
    return to_host<Tensor>("aten::_adaptive_avg_pool2d", "", self, sizes);
  }
  std::vector<int64_t> shape = self.sizes().vec();
  std::copy(sizes.begin(), sizes.end(), shape.end() - 2);
  Tensor out = empty_on(self, shape, self.scalar_type());
  record({PoolingKind::Average, adaptive_windows()}, out, self);
  return out;
}

Tensor adaptive_avg_pool2d_backward(const Tensor& grad, const Tensor& self) {
  if (!poolable({&grad, &self}) || grad.dim() != self.dim() || self.dim() > 4 ||
      grad.scalar_type() != self.scalar_type()) {
    return to_host<Tensor>("aten::_adaptive_avg_pool2d_backward", "", grad, self);
  }
  Tensor out = empty_on(self, self.sizes(), self.scalar_type());
  record({PoolingKind::Average, adaptive_windows(), true}, out, grad);
  return out;
}

// --- nearest neighbour ---------------------------------------------------------------------------

// A dimension's scale as ATen has it: the one given, or the sizes' ratio.
double scale_of(const OptionalDouble& given, int64_t in, int64_t out) {
  return given && *given > 0 ? 1 / *given : static_cast<double>(in) / static_cast<double>(out);
}

template <bool kExact>
PoolingWindows nearest_windows(IntArrayRef in, IntArrayRef out, const OptionalDouble& rows,
                               const OptionalDouble& columns) {
  PoolingWindows windows;
  windows.exact = kExact;
  const size_t dims = in.size();
  windows.scale[0] = scale_of(rows, in[dims - 2], out[0]);
  windows.scale[1] = scale_of(columns, in[dims - 1], out[1]);
  return windows;
}

template <bool kExact>
struct Nearest {
  using Meta = std::conditional_t<kExact, at::meta::structured__upsample_nearest_exact2d,
                                  at::meta::structured_upsample_nearest2d>;
  using MetaBackward =
      std::conditional_t<kExact, at::meta::structured__upsample_nearest_exact2d_backward,
                         at::meta::structured_upsample_nearest2d_backward>;

  static Tensor forward(const Tensor& self, IntArrayRef sizes, OptionalDouble rows,
                        OptionalDouble columns) {
    if (!poolable({&self})) {
      return to_host<Tensor>(
          kExact ? "aten::_upsample_nearest_exact2d" : "aten::upsample_nearest2d", "", self, sizes,
          rows, columns);
    }
    Inferred<Meta> op;
    op.meta(self, sizes, rows, columns);
    record({PoolingKind::Nearest, nearest_windows<kExact>(self.sizes(), sizes, rows, columns)},
           op[0], self);
    return op[0];
  }
  static Tensor backward(const Tensor& grad, IntArrayRef sizes, IntArrayRef input_sizes,
                         OptionalDouble rows, OptionalDouble columns) {
    if (!poolable({&grad}) || c10::multiply_integers(input_sizes) == 0) {
      return to_host<Tensor>(
          kExact ? "aten::_upsample_nearest_exact2d_backward" : "aten::upsample_nearest2d_backward",
          "", grad, sizes, input_sizes, rows, columns);
    }
    Inferred<MetaBackward> op;
    op.meta(grad, sizes, input_sizes, rows, columns);
    record({PoolingKind::Nearest, nearest_windows<kExact>(input_sizes, sizes, rows, columns), true},
           op[0], grad);
    return op[0];
  }
  // One dimension is a plane with one row.
  static Tensor forward1d(const Tensor& self, IntArrayRef sizes, OptionalDouble scale) {
    if (!poolable({&self}) || self.dim() != 3 || sizes.size() != 1 || sizes[0] <= 0) {
      return to_host<Tensor>(
          kExact ? "aten::_upsample_nearest_exact1d" : "aten::upsample_nearest1d", "", self, sizes,
          scale);
    }
    return forward(self.unsqueeze(2), {1, sizes[0]}, std::nullopt, scale).squeeze(2);
  }
  static Tensor backward1d(const Tensor& grad, IntArrayRef sizes, IntArrayRef input_sizes,
                           OptionalDouble scale) {
    if (!poolable({&grad}) || grad.dim() != 3 || input_sizes.size() != 3 || sizes.size() != 1 ||
        grad.size(2) != sizes[0] || c10::multiply_integers(input_sizes) == 0) {
      return to_host<Tensor>(
          kExact ? "aten::_upsample_nearest_exact1d_backward" : "aten::upsample_nearest1d_backward",
          "", grad, sizes, input_sizes, scale);
    }
    return backward(grad.unsqueeze(2), {1, sizes[0]},
                    {input_sizes[0], input_sizes[1], 1, input_sizes[2]}, std::nullopt, scale)
        .squeeze(2);
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("max_pool2d_with_indices", TORCH_FN(max_pool2d));
  m.impl("max_pool2d_with_indices_backward", TORCH_FN(max_pool2d_backward));
  m.impl("avg_pool2d", TORCH_FN(avg_pool2d));
  m.impl("avg_pool2d_backward", TORCH_FN(avg_pool2d_backward));
  m.impl("_adaptive_avg_pool2d", TORCH_FN(adaptive_avg_pool2d));
  m.impl("_adaptive_avg_pool2d_backward", TORCH_FN(adaptive_avg_pool2d_backward));
  m.impl("upsample_nearest2d", TORCH_FN(Nearest<false>::forward));
  m.impl("upsample_nearest2d_backward", TORCH_FN(Nearest<false>::backward));
  m.impl("upsample_nearest1d", TORCH_FN(Nearest<false>::forward1d));
  m.impl("upsample_nearest1d_backward", TORCH_FN(Nearest<false>::backward1d));
  m.impl("_upsample_nearest_exact2d", TORCH_FN(Nearest<true>::forward));
  m.impl("_upsample_nearest_exact2d_backward", TORCH_FN(Nearest<true>::backward));
  m.impl("_upsample_nearest_exact1d", TORCH_FN(Nearest<true>::forward1d));
  m.impl("_upsample_nearest_exact1d_backward", TORCH_FN(Nearest<true>::backward1d));
}

}  // namespace accel::aten
