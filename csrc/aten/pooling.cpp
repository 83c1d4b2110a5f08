// Max pooling and unpooling over one to three dimensions of floating dtypes; other dtypes are host
// ops. Averages are resampling.cpp's.
#include <ATen/native/Pool.h>
#include <ATen/ops/adaptive_max_pool2d_backward_meta.h>
#include <ATen/ops/adaptive_max_pool2d_meta.h>
#include <ATen/ops/adaptive_max_pool3d_backward_meta.h>
#include <ATen/ops/adaptive_max_pool3d_meta.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/max_pool2d_with_indices_backward_meta.h>
#include <ATen/ops/max_pool2d_with_indices_meta.h>

#include "csrc/aten/inference.h"
#include "csrc/aten/places.h"
#include "kernels/pooling/pooling.h"

namespace accel::aten {

namespace {

using kernels::PoolingKind;
using TensorPair = std::tuple<Tensor, Tensor>;

struct Windows {
  IntArrayRef kernel, stride, padding, dilation;
};

// Without windows they follow from the sizes.
void record(PoolingKind kind, size_t dims, const std::optional<Windows>& windows,
            const Tensor& output, const Tensor& input, const Tensor& indices) {
  const bool is_forward = kind == PoolingKind::Max;
  const at::MemoryFormat format = place_format(output, dims);
  Recording recording(Opcode::Pooling);
  recording.output(output);
  if (is_forward) recording.output(indices);
  recording.input(input.contiguous(format));
  if (!is_forward) recording.input(indices.contiguous(format));
  recording.attribute(input.scalar_type())
      .attribute(static_cast<uint64_t>(kind))
      .attribute(uint64_t{!windows.has_value()})
      .attribute(uint64_t{dims})
      .attribute(uint64_t{format != at::MemoryFormat::Contiguous});
  const Windows given = windows.value_or(Windows{});
  for (size_t i = 0; i < dims; ++i) {
    const int64_t kernel = number_of(given.kernel, i, 1);
    recording.attribute(static_cast<uint64_t>(kernel))
        .attribute(static_cast<uint64_t>(number_of(given.stride, i, kernel)))
        .attribute(static_cast<uint64_t>(number_of(given.padding, i, 0)))
        .attribute(static_cast<uint64_t>(number_of(given.dilation, i, 1)));
  }
  recording.record();
}

// --- two dimensions ------------------------------------------------------------------------------

TensorPair max_pool2d(const Tensor& self, IntArrayRef kernel, IntArrayRef stride,
                      IntArrayRef padding, IntArrayRef dilation, bool ceil_mode) {
  if (!engines_take({&self}, 2)) {
    return to_host<TensorPair>("aten::max_pool2d_with_indices", "", self, kernel, stride, padding,
                               dilation, ceil_mode);
  }
  Inferred<at::meta::structured_max_pool2d_with_indices, 2> op;
  op.meta(self, kernel, stride, padding, dilation, ceil_mode);
  record(PoolingKind::Max, 2, Windows{kernel, stride, padding, dilation}, op[0], self, op[1]);
  return {op[0], op[1]};
}

Tensor max_pool2d_backward(const Tensor& grad, const Tensor& self, IntArrayRef kernel,
                           IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
                           bool ceil_mode, const Tensor& indices) {
  if (!engines_take({&grad, &self}, 2)) {
    return to_host<Tensor>("aten::max_pool2d_with_indices_backward", "", grad, self, kernel, stride,
                           padding, dilation, ceil_mode, indices);
  }
  Inferred<at::meta::structured_max_pool2d_with_indices_backward> op;
  op.meta(grad, self, kernel, stride, padding, dilation, ceil_mode, indices);
  record(PoolingKind::MaxBack, 2, Windows{kernel, stride, padding, dilation}, op[0], grad, indices);
  return op[0];
}

// --- three dimensions ----------------------------------------------------------------------------

bool is_one_or_three(IntArrayRef numbers) { return numbers.size() == 1 || numbers.size() == 3; }

// Whether max_pool3d has the right count of each number; the host says what is wrong.
bool is_volume_window(const Windows& windows) {
  return is_one_or_three(windows.kernel) &&
         (windows.stride.empty() || is_one_or_three(windows.stride)) &&
         is_one_or_three(windows.padding) && is_one_or_three(windows.dilation);
}

// The checks of ATen's kernel, which PyTorch has no meta function for; returns the pooled sizes.
at::DimVector check_max_pool3d(const Tensor& self, const Windows& windows, bool ceil_mode) {
  int kernel[3], stride[3], padding[3], dilation[3];
  int64_t full[3], pooled[3];
  at::DimVector sizes(self.sizes());
  for (size_t i = 0; i < 3; ++i) {
    const int64_t size = number_of(windows.kernel, i, 1);
    kernel[i] = at::native::safe_downcast<int, int64_t>(size);
    stride[i] = at::native::safe_downcast<int, int64_t>(number_of(windows.stride, i, size));
    padding[i] = at::native::safe_downcast<int, int64_t>(number_of(windows.padding, i, 0));
    dilation[i] = at::native::safe_downcast<int, int64_t>(number_of(windows.dilation, i, 1));
    int64_t& place = sizes[sizes.size() - 3 + i];
    full[i] = place;
    pooled[i] = place = at::native::pooling_output_shape<int64_t>(
        full[i], kernel[i], padding[i], stride[i], dilation[i], ceil_mode);
  }
  at::native::pool3d_shape_check(self, self.size(-4), kernel[0], kernel[1], kernel[2], stride[0],
                                 stride[1], stride[2], padding[0], padding[1], padding[2],
                                 dilation[0], dilation[1], dilation[2], full[0], full[1], full[2],
                                 pooled[0], pooled[1], pooled[2], "max_pool3d_with_indices()");
  return sizes;
}

// Uninitialised, in the memory format of `like` where it has a batch.
Tensor empty_places(const Tensor& like, IntArrayRef sizes, ScalarType dtype) {
  const auto format = like.dim() == 5 ? like.suggest_memory_format() : at::MemoryFormat::Contiguous;
  return at::empty(sizes, like.options().dtype(dtype), format);
}

TensorPair max_pool3d(const Tensor& self, IntArrayRef kernel, IntArrayRef stride,
                      IntArrayRef padding, IntArrayRef dilation, bool ceil_mode) {
  const Windows windows{kernel, stride, padding, dilation};
  if (!engines_take({&self}, 3) || !is_volume_window(windows)) {
    return to_host<TensorPair>("aten::max_pool3d_with_indices", "", self, kernel, stride, padding,
                               dilation, ceil_mode);
  }
  const at::DimVector sizes = check_max_pool3d(self, windows, ceil_mode);
  Tensor values = empty_places(self, sizes, self.scalar_type());
  Tensor indices = empty_places(self, sizes, ScalarType::Long);
  record(PoolingKind::Max, 3, windows, values, self, indices);
  return {values, indices};
}

Tensor max_pool3d_backward(const Tensor& grad, const Tensor& self, IntArrayRef kernel,
                           IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
                           bool ceil_mode, const Tensor& indices) {
  const Windows windows{kernel, stride, padding, dilation};
  const bool fits = engines_take({&grad, &self}, 3) && is_volume_window(windows) &&
                    is_plain(indices) && indices.scalar_type() == ScalarType::Long &&
                    grad.sizes() == indices.sizes() &&
                    grad.sizes() == IntArrayRef(check_max_pool3d(self, windows, ceil_mode));
  if (!fits) {
    return to_host<Tensor>("aten::max_pool3d_with_indices_backward", "", grad, self, kernel, stride,
                           padding, dilation, ceil_mode, indices);
  }
  Tensor out = empty_places(self, self.sizes(), self.scalar_type());
  record(PoolingKind::MaxBack, 3, windows, out, grad, indices);
  return out;
}

// --- windows that follow from the sizes ----------------------------------------------------------

constexpr char kAdaptive2d[] = "aten::adaptive_max_pool2d";
constexpr char kAdaptive3d[] = "aten::adaptive_max_pool3d";
constexpr char kAdaptiveBackward2d[] = "aten::adaptive_max_pool2d_backward";
constexpr char kAdaptiveBackward3d[] = "aten::adaptive_max_pool3d_backward";

template <size_t kDims, typename Meta, typename MetaBackward, const char* kName,
          const char* kNameBackward>
struct AdaptiveMax {
  static TensorPair forward(const Tensor& self, IntArrayRef sizes) {
    if (!engines_take({&self}, kDims)) return to_host<TensorPair>(kName, "", self, sizes);
    Inferred<Meta, 2> op;
    op.meta(self, sizes);
    record(PoolingKind::Max, kDims, std::nullopt, op[0], self, op[1]);
    return {op[0], op[1]};
  }
  static Tensor backward(const Tensor& grad, const Tensor& self, const Tensor& indices) {
    if (!engines_take({&grad, &self}, kDims) || grad.sizes() != indices.sizes()) {
      return to_host<Tensor>(kNameBackward, "", grad, self, indices);
    }
    Inferred<MetaBackward> op;
    op.meta(grad, self, indices);
    record(PoolingKind::MaxBack, kDims, std::nullopt, op[0], grad, indices);
    return op[0];
  }
};

using AdaptiveMax2d = AdaptiveMax<2, at::meta::structured_adaptive_max_pool2d,
                                  at::meta::structured_adaptive_max_pool2d_backward, kAdaptive2d,
                                  kAdaptiveBackward2d>;
using AdaptiveMax3d = AdaptiveMax<3, at::meta::structured_adaptive_max_pool3d,
                                  at::meta::structured_adaptive_max_pool3d_backward, kAdaptive3d,
                                  kAdaptiveBackward3d>;

// --- unpooling -----------------------------------------------------------------------------------

// What the engine takes; the host says what is wrong with the rest.
bool can_unpool(const Tensor& self, const Tensor& indices, IntArrayRef sizes, size_t dims) {
  return engines_take({&self}, dims) && is_plain(indices) &&
         indices.scalar_type() == ScalarType::Long && indices.sizes() == self.sizes() &&
         sizes.size() == dims &&
         std::all_of(sizes.begin(), sizes.end(), [](int64_t size) { return size > 0; });
}

at::DimVector unpooled_sizes(const Tensor& self, IntArrayRef sizes) {
  at::DimVector shape(self.sizes());
  std::copy(sizes.begin(), sizes.end(), shape.end() - static_cast<ptrdiff_t>(sizes.size()));
  return shape;
}

// The result has the memory format of its input, which the meta function does not say.
Tensor max_unpool2d(const Tensor& self, const Tensor& indices, IntArrayRef sizes) {
  TORCH_CHECK(sizes.size() == 2,
              "There should be exactly two elements (height, width) in output_size, but got ",
              sizes.size(), " elements.");
  TORCH_CHECK(self.dim() == 3 || self.dim() == 4,
              "Input to max_unpooling2d should be a 3d or 4d Tensor, but got a tensor with ",
              self.dim(), " dimensions.");
  const auto format = self.dim() == 4 ? self.suggest_memory_format() : at::MemoryFormat::Contiguous;
  Tensor out = at::empty(unpooled_sizes(self, sizes), self.options().memory_format(format));
  if (can_unpool(self, indices, sizes, 2)) {
    record(PoolingKind::Unpool, 2, std::nullopt, out, self, indices);
  } else {
    to_host<Tensor>("aten::max_unpool2d", "out", self, indices, sizes, out);
  }
  return out;
}

Tensor max_unpool3d(const Tensor& self, const Tensor& indices, IntArrayRef sizes,
                    IntArrayRef stride, IntArrayRef padding) {
  const bool fits = can_unpool(self, indices, sizes, 3) && stride.size() == 3 &&
                    padding.size() == 3 && stride[0] > 0 && stride[1] > 0 && stride[2] > 0;
  if (!fits) {
    return to_host<Tensor>("aten::max_unpool3d", "", self, indices, sizes, stride, padding);
  }
  Tensor out = empty_on(self, unpooled_sizes(self, sizes), self.scalar_type());
  record(PoolingKind::Unpool, 3, std::nullopt, out, self, indices);
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("max_pool2d_with_indices", TORCH_FN(max_pool2d));
  m.impl("max_pool2d_with_indices_backward", TORCH_FN(max_pool2d_backward));
  m.impl("max_pool3d_with_indices", TORCH_FN(max_pool3d));
  m.impl("max_pool3d_with_indices_backward", TORCH_FN(max_pool3d_backward));
  m.impl("adaptive_max_pool2d", TORCH_FN(AdaptiveMax2d::forward));
  m.impl("adaptive_max_pool2d_backward", TORCH_FN(AdaptiveMax2d::backward));
  m.impl("adaptive_max_pool3d", TORCH_FN(AdaptiveMax3d::forward));
  m.impl("adaptive_max_pool3d_backward", TORCH_FN(AdaptiveMax3d::backward));
  m.impl("max_unpool2d", TORCH_FN(max_unpool2d));
  m.impl("max_unpool3d", TORCH_FN(max_unpool3d));
}

}  // namespace accel::aten
