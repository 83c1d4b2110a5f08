// Complex numbers: ops whose generic kernel calls a device's stub. Everything else of complex dtype
// reaches host_op() by itself.
#include "csrc/aten/recording.h"

namespace accel::aten {

namespace {

Tensor& conj_physical_(Tensor& self) {
  if (self.is_complex()) to_host<Tensor>("aten::conj_physical", "out", self, self);
  return self;
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) { m.impl("conj_physical_", TORCH_FN(conj_physical_)); }

}  // namespace accel::aten
