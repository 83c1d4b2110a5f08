// The functions of tiles.h for the instruction set of this machine.
#include "kernels/convolution/tiles.h"

#include "kernels/common/isa.h"

namespace accel::kernels {

ACCEL_DISPATCH(PanelShape, panel_shape, (), ())
ACCEL_DISPATCH(void, multiply_runs, (const RunProduct& product), (product))
ACCEL_DISPATCH(void, load_pixels,
               (const Pixels& source, int64_t channels, int64_t padded, int64_t count, DType packed,
                void* target, int64_t pitch),
               (source, channels, padded, count, packed, target, pitch))
ACCEL_DISPATCH(void, store_pixels,
               (const float* values, int64_t stride, int64_t count, int64_t channels,
                const float* bias, const Pixels& target),
               (values, stride, count, channels, bias, target))
ACCEL_DISPATCH(void, widen_values, (const void* source, DType dtype, int64_t n, float* target),
               (source, dtype, n, target))
ACCEL_DISPATCH(void, pack_weight,
               (const WeightPanel& panel, bool pairs, float* workspace, void* packed),
               (panel, pairs, workspace, packed))
ACCEL_DISPATCH(void, pair_pixels,
               (const uint16_t* source, int64_t pixel_stride, int64_t count, int64_t channels,
                uint32_t* target, int64_t pitch),
               (source, pixel_stride, count, channels, target, pitch))
ACCEL_DISPATCH(void, depthwise_row, (const DepthwiseRow& row), (row))
ACCEL_DISPATCH(void, depthwise_sums, (const DepthwiseSums& sums), (sums))

}  // namespace accel::kernels
