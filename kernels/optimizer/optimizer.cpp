// The optimizers' entry points.
#include "kernels/optimizer/optimizer.h"

#include "kernels/common/isa.h"

namespace accel::kernels {

ACCEL_DISPATCH(void, adam, (const Adam& args, const AdamTensor* tensors, int64_t count),
               (args, tensors, count))

ACCEL_DISPATCH(void, sgd, (const Sgd& args, const SgdTensor* tensors, int64_t count),
               (args, tensors, count))

}  // namespace accel::kernels
