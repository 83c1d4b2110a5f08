// Quantization-aware training.
#include <limits>

#include "csrc/aten/recording.h"

namespace accel::aten {

namespace {

// Observes the range of self and rounds it to the quantized grid, on the host. Per channel, an
// observer begins with empty tensors, which get their sizes here: a host op cannot resize memory.
std::tuple<Tensor, Tensor> observe_and_quantize(
    const Tensor& self, const Tensor& observer_on, const Tensor& fake_quant_on, Tensor& running_min,
    Tensor& running_max, Tensor& scale, Tensor& zero_point, double averaging, int64_t quant_min,
    int64_t quant_max, int64_t channel_axis, bool per_channel, bool symmetric) {
  if (per_channel && running_min.numel() == 0) {
    const int64_t channels = self.size(channel_axis);
    running_min.resize_(channels).fill_(std::numeric_limits<double>::infinity());
    running_max.resize_(channels).fill_(-std::numeric_limits<double>::infinity());
    scale.resize_(channels);
    zero_point.resize_(channels);
  }
  return to_host<std::tuple<Tensor, Tensor>>("aten::_fused_moving_avg_obs_fq_helper", "", self,
                                             observer_on, fake_quant_on, running_min, running_max,
                                             scale, zero_point, averaging, quant_min, quant_max,
                                             channel_axis, per_channel, symmetric);
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_fused_moving_avg_obs_fq_helper", TORCH_FN(observe_and_quantize));
}

}  // namespace accel::aten
