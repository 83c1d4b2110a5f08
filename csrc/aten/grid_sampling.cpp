// grid_sample over images and volumes of floating dtypes; other dtypes are host ops.
#include <array>

#include "csrc/aten/inference.h"
#include "csrc/aten/places.h"
#include "kernels/grid_sampling/grid_sampling.h"

namespace accel::aten {

namespace {

using kernels::GridSamplingKind;
using TensorPair = std::tuple<Tensor, Tensor>;

constexpr char kForward2d[] = "aten::grid_sampler_2d", kForward3d[] = "aten::grid_sampler_3d";
constexpr char kBackward2d[] = "aten::grid_sampler_2d_backward";
constexpr char kBackward3d[] = "aten::grid_sampler_3d_backward";

template <size_t kDims, const char* kForward, const char* kBackward>
struct GridSampler {
  static Tensor forward(const Tensor& input, const Tensor& grid, int64_t interpolation,
                        int64_t padding, bool align_corners) {
    if (!takes(input, grid, interpolation, padding)) {
      return to_host<Tensor>(kForward, "", input, grid, interpolation, padding, align_corners);
    }
    const Mode mode{interpolation, padding, align_corners};
    at::DimVector sizes(input.sizes().slice(0, 2));
    sizes.append(grid.sizes().begin() + 1, grid.sizes().end() - 1);
    Tensor out = empty_on(input, sizes, input.scalar_type());
    record(GridSamplingKind::Forward, mode, out, input, grid, {});
    return out;
  }

  static TensorPair backward(const Tensor& grad, const Tensor& input, const Tensor& grid,
                             int64_t interpolation, int64_t padding, bool align_corners,
                             std::array<bool, 2> wanted) {
    at::DimVector sizes(input.sizes().slice(0, std::min<size_t>(2, input.sizes().size())));
    if (grid.dim() > 1) sizes.append(grid.sizes().begin() + 1, grid.sizes().end() - 1);
    const bool fits = takes(input, grid, interpolation, padding) && is_plain(grad) &&
                      grad.scalar_type() == input.scalar_type() &&
                      grad.sizes() == IntArrayRef(sizes);
    if (!fits) {
      return to_host<TensorPair>(kBackward, "", grad, input, grid, interpolation, padding,
                                 align_corners, wanted);
    }
    const Mode mode{interpolation, padding, align_corners};
    TensorPair out;
    if (wanted[0]) {
      std::get<0>(out) = empty_on(input, input.sizes(), input.scalar_type());
      record(GridSamplingKind::InputGradient, mode, std::get<0>(out), {}, grid, grad);
    }
    // The CPU gives the grid's gradient whether it is wanted or not.
    std::get<1>(out) = empty_on(grid, grid.sizes(), grid.scalar_type());
    record(GridSamplingKind::GridGradient, mode, std::get<1>(out), input, grid, grad);
    return out;
  }

 private:
  struct Mode {
    int64_t interpolation, padding;
    bool align_corners;
  };

  static bool takes(const Tensor& input, const Tensor& grid, int64_t interpolation,
                    int64_t padding) {
    const auto dims = static_cast<int64_t>(kDims);
    const bool is_known =
        interpolation >= 0 && interpolation < (kDims == 2 ? 3 : 2) && padding >= 0 && padding < 3;
    return is_known && input.dim() == dims + 2 && grid.dim() == dims + 2 &&
           engines_take({&input}, kDims) && is_plain(grid) && grid.numel() > 0 &&
           grid.scalar_type() == input.scalar_type() && grid.size(-1) == dims &&
           grid.size(0) == input.size(0);
  }

  static void record(GridSamplingKind kind, const Mode& mode, const Tensor& output,
                     const Tensor& input, const Tensor& grid, const Tensor& grad) {
    Recording recording(Opcode::GridSampling);
    recording.output(output);
    input.defined() ? recording.input(input.contiguous()) : recording.no_input();
    recording.input(grid.contiguous());
    grad.defined() ? recording.input(grad.contiguous()) : recording.no_input();
    recording.attribute(grid.scalar_type())
        .attribute(static_cast<uint64_t>(kind))
        .attribute(static_cast<uint64_t>(mode.interpolation))
        .attribute(static_cast<uint64_t>(mode.padding))
        .attribute(uint64_t{mode.align_corners})
        .record();
  }
};

using GridSampler2d = GridSampler<2, kForward2d, kBackward2d>;
using GridSampler3d = GridSampler<3, kForward3d, kBackward3d>;

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("grid_sampler_2d", TORCH_FN(GridSampler2d::forward));
  m.impl("grid_sampler_2d_backward", TORCH_FN(GridSampler2d::backward));
  m.impl("grid_sampler_3d", TORCH_FN(GridSampler3d::forward));
  m.impl("grid_sampler_3d_backward", TORCH_FN(GridSampler3d::backward));
}

}  // namespace accel::aten
