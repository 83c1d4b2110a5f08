// Interpolation and average pooling over one to three dimensions of floating dtypes; other dtypes
// are host ops.
#include <ATen/ops/_upsample_bicubic2d_aa_backward_meta.h>
#include <ATen/ops/_upsample_bicubic2d_aa_meta.h>
#include <ATen/ops/_upsample_bilinear2d_aa_backward_meta.h>
#include <ATen/ops/_upsample_bilinear2d_aa_meta.h>
#include <ATen/ops/_upsample_lanczos2d_aa_backward_meta.h>
#include <ATen/ops/_upsample_lanczos2d_aa_meta.h>
#include <ATen/ops/_upsample_nearest_exact1d_backward_meta.h>
#include <ATen/ops/_upsample_nearest_exact1d_meta.h>
#include <ATen/ops/_upsample_nearest_exact2d_backward_meta.h>
#include <ATen/ops/_upsample_nearest_exact2d_meta.h>
#include <ATen/ops/_upsample_nearest_exact3d_backward_meta.h>
#include <ATen/ops/_upsample_nearest_exact3d_meta.h>
#include <ATen/ops/avg_pool2d_backward_meta.h>
#include <ATen/ops/avg_pool2d_meta.h>
#include <ATen/ops/avg_pool3d_backward_meta.h>
#include <ATen/ops/avg_pool3d_meta.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/upsample_bicubic2d_backward_meta.h>
#include <ATen/ops/upsample_bicubic2d_meta.h>
#include <ATen/ops/upsample_bilinear2d_backward_meta.h>
#include <ATen/ops/upsample_bilinear2d_meta.h>
#include <ATen/ops/upsample_linear1d_backward_meta.h>
#include <ATen/ops/upsample_linear1d_meta.h>
#include <ATen/ops/upsample_nearest1d_backward_meta.h>
#include <ATen/ops/upsample_nearest1d_meta.h>
#include <ATen/ops/upsample_nearest2d_backward_meta.h>
#include <ATen/ops/upsample_nearest2d_meta.h>
#include <ATen/ops/upsample_nearest3d_backward_meta.h>
#include <ATen/ops/upsample_nearest3d_meta.h>
#include <ATen/ops/upsample_trilinear3d_backward_meta.h>
#include <ATen/ops/upsample_trilinear3d_meta.h>

#include <bit>
#include <type_traits>

#include "csrc/aten/inference.h"
#include "csrc/aten/places.h"
#include "kernels/resampling/resampling.h"

namespace accel::aten {

namespace {

using kernels::ResamplingMethod;
using OptionalDouble = std::optional<double>;

// What a method needs to know; see kernels::Resampling.
struct Options {
  bool align_corners = false, count_padding = true;
  int64_t divisor = 0;
  IntArrayRef kernel, stride, padding;
  c10::SmallVector<double, 3> scales;
};

void record(ResamplingMethod method, bool backward, size_t dims, const Options& options,
            const Tensor& output, const Tensor& input) {
  const at::MemoryFormat format = place_format(output, dims);
  Recording recording(Opcode::Resampling);
  recording.output(output).input(input.contiguous(format));
  recording.attribute(input.scalar_type())
      .attribute(static_cast<uint64_t>(method))
      .attribute(uint64_t{backward})
      .attribute(uint64_t{options.align_corners})
      .attribute(uint64_t{options.count_padding})
      .attribute(static_cast<uint64_t>(options.divisor))
      .attribute(uint64_t{dims})
      .attribute(uint64_t{format != at::MemoryFormat::Contiguous});
  for (size_t i = 0; i < dims; ++i) {
    const int64_t kernel = number_of(options.kernel, i, 1);
    const double scale = options.scales.empty() ? 0 : options.scales[i];
    recording.attribute(static_cast<uint64_t>(kernel))
        .attribute(static_cast<uint64_t>(number_of(options.stride, i, kernel)))
        .attribute(static_cast<uint64_t>(number_of(options.padding, i, 0)))
        .attribute(std::bit_cast<uint64_t>(scale));
  }
  recording.record();
}

// --- interpolation -------------------------------------------------------------------------------

void add_argument(Options& options, bool align_corners) { options.align_corners = align_corners; }
// Input elements an output element; 0 where the sizes say it.
void add_argument(Options& options, const OptionalDouble& scale) {
  options.scales.push_back(scale && *scale > 0 ? 1 / *scale : 0);
}

// Arguments: align_corners, where the method has it, and a scale for each dimension.
template <ResamplingMethod kMethod, typename Meta, typename MetaBackward, const char* kName,
          const char* kNameBackward, typename... Arguments>
struct Interpolation {
  static constexpr size_t kDims = (size_t{std::is_same_v<Arguments, OptionalDouble>} + ...);

  static Tensor forward(const Tensor& self, IntArrayRef sizes, Arguments... arguments) {
    if (!engines_take({&self}, kDims)) {
      return to_host<Tensor>(kName, "", self, sizes, arguments...);
    }
    Inferred<Meta> op;
    op.meta(self, sizes, arguments...);
    Options options;
    (add_argument(options, arguments), ...);
    record(kMethod, false, kDims, options, op[0], self);
    return op[0];
  }

  static Tensor backward(const Tensor& grad, IntArrayRef sizes, IntArrayRef input_sizes,
                         Arguments... arguments) {
    if (!engines_take({&grad}, kDims) || c10::multiply_integers(input_sizes) == 0) {
      return to_host<Tensor>(kNameBackward, "", grad, sizes, input_sizes, arguments...);
    }
    Inferred<MetaBackward> op;
    op.meta(grad, sizes, input_sizes, arguments...);
    Options options;
    (add_argument(options, arguments), ...);
    record(kMethod, true, kDims, options, op[0], grad);
    return op[0];
  }

  static void register_in(torch::Library& m) {
    m.impl(kName, TORCH_FN(forward));
    m.impl(kNameBackward, TORCH_FN(backward));
  }
};

#define ACCEL_INTERPOLATION(op, method, ...)                                                    \
  constexpr char kName_##op[] = "aten::" #op, kNameBackward_##op[] = "aten::" #op "_backward";  \
  using Interpolation_##op = Interpolation<ResamplingMethod::method, at::meta::structured_##op, \
                                           at::meta::structured_##op##_backward, kName_##op,    \
                                           kNameBackward_##op, __VA_ARGS__>;
ACCEL_INTERPOLATION(upsample_nearest1d, Nearest, OptionalDouble)
ACCEL_INTERPOLATION(upsample_nearest2d, Nearest, OptionalDouble, OptionalDouble)
ACCEL_INTERPOLATION(upsample_nearest3d, Nearest, OptionalDouble, OptionalDouble, OptionalDouble)
ACCEL_INTERPOLATION(_upsample_nearest_exact1d, NearestExact, OptionalDouble)
ACCEL_INTERPOLATION(_upsample_nearest_exact2d, NearestExact, OptionalDouble, OptionalDouble)
ACCEL_INTERPOLATION(_upsample_nearest_exact3d, NearestExact, OptionalDouble, OptionalDouble,
                    OptionalDouble)
ACCEL_INTERPOLATION(upsample_linear1d, Linear, bool, OptionalDouble)
ACCEL_INTERPOLATION(upsample_bilinear2d, Linear, bool, OptionalDouble, OptionalDouble)
ACCEL_INTERPOLATION(upsample_trilinear3d, Linear, bool, OptionalDouble, OptionalDouble,
                    OptionalDouble)
ACCEL_INTERPOLATION(upsample_bicubic2d, Cubic, bool, OptionalDouble, OptionalDouble)
ACCEL_INTERPOLATION(_upsample_bilinear2d_aa, LinearAntialiased, bool, OptionalDouble,
                    OptionalDouble)
ACCEL_INTERPOLATION(_upsample_bicubic2d_aa, CubicAntialiased, bool, OptionalDouble, OptionalDouble)
ACCEL_INTERPOLATION(_upsample_lanczos2d_aa, LanczosAntialiased, bool, OptionalDouble,
                    OptionalDouble)
#undef ACCEL_INTERPOLATION

// --- averages ------------------------------------------------------------------------------------

constexpr char kAverage2d[] = "aten::avg_pool2d", kAverage3d[] = "aten::avg_pool3d";
constexpr char kAverageBackward2d[] = "aten::avg_pool2d_backward";
constexpr char kAverageBackward3d[] = "aten::avg_pool3d_backward";

template <size_t kDims, typename Meta, typename MetaBackward, const char* kName,
          const char* kNameBackward>
struct Average {
  static Tensor forward(const Tensor& self, IntArrayRef kernel, IntArrayRef stride,
                        IntArrayRef padding, bool ceil_mode, bool count_padding,
                        std::optional<int64_t> divisor) {
    if (!engines_take({&self}, kDims)) {
      return to_host<Tensor>(kName, "", self, kernel, stride, padding, ceil_mode, count_padding,
                             divisor);
    }
    Inferred<Meta> op;
    op.meta(self, kernel, stride, padding, ceil_mode, count_padding, divisor);
    record(ResamplingMethod::Window, false, kDims,
           options_of(kernel, stride, padding, count_padding, divisor), op[0], self);
    return op[0];
  }

  static Tensor backward(const Tensor& grad, const Tensor& self, IntArrayRef kernel,
                         IntArrayRef stride, IntArrayRef padding, bool ceil_mode,
                         bool count_padding, std::optional<int64_t> divisor) {
    if (!engines_take({&grad, &self}, kDims)) {
      return to_host<Tensor>(kNameBackward, "", grad, self, kernel, stride, padding, ceil_mode,
                             count_padding, divisor);
    }
    Inferred<MetaBackward> op;
    op.meta(grad, self, kernel, stride, padding, ceil_mode, count_padding, divisor);
    record(ResamplingMethod::Window, true, kDims,
           options_of(kernel, stride, padding, count_padding, divisor), op[0], grad);
    return op[0];
  }

 private:
  static Options options_of(IntArrayRef kernel, IntArrayRef stride, IntArrayRef padding,
                            bool count_padding, std::optional<int64_t> divisor) {
    return {false, count_padding, divisor.value_or(0), kernel, stride, padding, {}};
  }
};

using Average2d = Average<2, at::meta::structured_avg_pool2d,
                          at::meta::structured_avg_pool2d_backward, kAverage2d, kAverageBackward2d>;
using Average3d = Average<3, at::meta::structured_avg_pool3d,
                          at::meta::structured_avg_pool3d_backward, kAverage3d, kAverageBackward3d>;

constexpr char kAdaptive2d[] = "aten::_adaptive_avg_pool2d";
constexpr char kAdaptive3d[] = "aten::_adaptive_avg_pool3d";
constexpr char kAdaptiveBackward2d[] = "aten::_adaptive_avg_pool2d_backward";
constexpr char kAdaptiveBackward3d[] = "aten::_adaptive_avg_pool3d_backward";

template <size_t kDims, const char* kName, const char* kNameBackward>
struct AdaptiveAverage {
  static Tensor forward(const Tensor& self, IntArrayRef sizes) {
    const bool fits = engines_take({&self}, kDims) && sizes.size() == kDims &&
                      std::all_of(sizes.begin(), sizes.end(), [](int64_t n) { return n > 0; });
    if (!fits) return to_host<Tensor>(kName, "", self, sizes);
    at::DimVector shape(self.sizes());
    std::copy(sizes.begin(), sizes.end(), shape.end() - static_cast<ptrdiff_t>(kDims));
    Tensor out = empty_result_of(self, shape);
    record(ResamplingMethod::Adaptive, false, kDims, {}, out, self);
    return out;
  }

  static Tensor backward(const Tensor& grad, const Tensor& self) {
    if (!engines_take({&grad, &self}, kDims) || grad.dim() != self.dim()) {
      return to_host<Tensor>(kNameBackward, "", grad, self);
    }
    Tensor out = empty_result_of(self, self.sizes());
    record(ResamplingMethod::Adaptive, true, kDims, {}, out, grad);
    return out;
  }

 private:
  // Batches of images keep their memory format, as on the CPU; volumes do not.
  static Tensor empty_result_of(const Tensor& self, IntArrayRef sizes) {
    const bool keeps = kDims == 2 && self.dim() == 4;
    return at::empty(sizes, self.options(),
                     keeps ? self.suggest_memory_format() : at::MemoryFormat::Contiguous);
  }
};

using AdaptiveAverage2d = AdaptiveAverage<2, kAdaptive2d, kAdaptiveBackward2d>;
using AdaptiveAverage3d = AdaptiveAverage<3, kAdaptive3d, kAdaptiveBackward3d>;

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  Interpolation_upsample_nearest1d::register_in(m);
  Interpolation_upsample_nearest2d::register_in(m);
  Interpolation_upsample_nearest3d::register_in(m);
  Interpolation__upsample_nearest_exact1d::register_in(m);
  Interpolation__upsample_nearest_exact2d::register_in(m);
  Interpolation__upsample_nearest_exact3d::register_in(m);
  Interpolation_upsample_linear1d::register_in(m);
  Interpolation_upsample_bilinear2d::register_in(m);
  Interpolation_upsample_trilinear3d::register_in(m);
  Interpolation_upsample_bicubic2d::register_in(m);
  Interpolation__upsample_bilinear2d_aa::register_in(m);
  Interpolation__upsample_bicubic2d_aa::register_in(m);
  Interpolation__upsample_lanczos2d_aa::register_in(m);

  m.impl("avg_pool2d", TORCH_FN(Average2d::forward));
  m.impl("avg_pool2d_backward", TORCH_FN(Average2d::backward));
  m.impl("avg_pool3d", TORCH_FN(Average3d::forward));
  m.impl("avg_pool3d_backward", TORCH_FN(Average3d::backward));
  m.impl("_adaptive_avg_pool2d", TORCH_FN(AdaptiveAverage2d::forward));
  m.impl("_adaptive_avg_pool2d_backward", TORCH_FN(AdaptiveAverage2d::backward));
  m.impl("_adaptive_avg_pool3d", TORCH_FN(AdaptiveAverage3d::forward));
  m.impl("_adaptive_avg_pool3d_backward", TORCH_FN(AdaptiveAverage3d::backward));
}

}  // namespace accel::aten
