// masked_scatter_: the elements of a source, in order, to the places where a mask is true. How many
// there are nobody waits for: the gradient of masked_select is one of these.
#include <ATen/ExpandUtils.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/ops/where.h>

#include "csrc/aten/indexing.h"
#include "csrc/aten/inference.h"

namespace accel::aten {

namespace {

// values[i] = source[places[i]], undefined where a place is -1.
Tensor elements_at(const Tensor& source, const Tensor& places) {
  Tensor values = empty_on(source, places.sizes(), source.scalar_type());
  const int64_t none[] = {0}, one[] = {1};
  IndexingRules rules;
  rules.skipped = -1;
  record_indexing(Opcode::Gather,
                  {source, values, places.sizes(), none, one, {{places, one, source.numel(), 1}}},
                  rules);
  return values;
}

Tensor& masked_scatter_(Tensor& self, const Tensor& mask, const Tensor& source) {
  if (!is_plain(self) || !is_plain(mask) || !is_plain(source) || mask.scalar_type() != at::kBool ||
      self.scalar_type() != source.scalar_type()) {
    to_host<void>("aten::masked_scatter_", "", self, mask, source);
    return self;
  }
  check_same_device("masked_scatter_", {{self, "self"}, {mask, "mask"}, {source, "source"}});
  at::assert_no_internal_overlap(self);
  const auto expanded = at::expand_inplace(self, mask, "masked_scatter_");
  if (self.numel() == 0) return self;
  const Tensor is_true = expanded->reshape(-1);
  const Tensor order = is_true.cumsum(0).sub(1);
  const Tensor values =
      elements_at(source.contiguous().view(-1), at::where(is_true, order, order.new_full({}, -1)));
  self.copy_(at::where(*expanded, values.view(self.sizes()), self));
  return self;
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) { m.impl("masked_scatter_", TORCH_FN(masked_scatter_)); }

}  // namespace accel::aten
