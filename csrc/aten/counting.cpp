// How often values occur: histc, bincount.
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "csrc/aten/indexing.h"
#include "csrc/aten/inference.h"

namespace accel::aten {

namespace {

// counts[places[i]] += 1, but where a place is -1.
void count_places(const Tensor& counts, const Tensor& places) {
  const Tensor one = at::ones({1}, counts.options());
  const int64_t none[] = {0}, each[] = {1};
  IndexingRules rules{IndexingMode::Sum};
  rules.skipped = -1;
  record_indexing(Opcode::ScatterAdd,
                  {counts, one, places.sizes(), none, none, {{places, each, counts.numel(), 1}}},
                  rules);
}

// Bins of one width from min to max, the last with its upper edge. Where the values themselves say
// what the range is, and what is no range, is the host's. The CPU counts floating values only;
// other devices whole numbers as well, and programs ask for it (the tokens of each expert).
Tensor histc(const Tensor& self, int64_t bins, const at::Scalar& min, const at::Scalar& max) {
  const ScalarType dtype = self.scalar_type();
  const bool is_whole = at::isIntegralType(dtype, /*includeBool=*/false);
  const bool is_floating = dtype == at::kFloat || dtype == at::kDouble;
  const bool has_range = !min.isComplex() && !max.isComplex() && min.toDouble() < max.toDouble();
  if (!is_plain(self) || !is_native(self) || !(is_whole || is_floating) || !has_range ||
      bins <= 0) {
    if (!is_whole) return to_host<Tensor>("aten::histc", "", self, bins, min, max);
    return to_host<Tensor>("aten::histc", "", self.to(at::kDouble), bins, min, max).to(dtype);
  }
  Tensor counts = at::zeros({bins}, self.options());
  if (self.numel() == 0) return counts;
  const Tensor values = self.reshape(-1).to(is_whole ? at::kDouble : dtype);
  double low = min.toDouble(), high = max.toDouble(), width = high - low;
  if (dtype == at::kFloat) width = static_cast<float>(high) - static_cast<float>(low);
  const Tensor inside = values.ge(low).logical_and(values.le(high));
  const Tensor bin = values.sub(low).mul(bins).div(width).to(at::kLong).clamp_max(bins - 1);
  count_places(counts, at::where(inside, bin, bin.new_full({}, -1)));
  return counts;
}

// How many bins there are is a value to wait for.
Tensor bincount(const Tensor& self, const OptionalTensor& weights_option, c10::SymInt minlength) {
  const Tensor& weights = value_or_undefined(weights_option);
  const bool is_counted = is_plain(self) && is_native(self) && self.dim() == 1 &&
                          at::isIntegralType(self.scalar_type(), false) && self.numel() > 0 &&
                          minlength.expect_int() >= 0;
  const bool is_weighted = weights.defined();
  const bool fits =
      !is_weighted || (is_plain(weights) && is_native(weights) && weights.sizes() == self.sizes());
  if (!is_counted || !fits) {
    return to_host<Tensor>("aten::bincount", "", self, weights_option, minlength);
  }
  const Tensor range = at::stack({self.min(), self.max()}).to(at::kLong).cpu();
  const int64_t least = range.const_data_ptr<int64_t>()[0];
  TORCH_CHECK(least >= 0, "bincount only supports 1-d non-negative integral inputs.");
  const int64_t bins = std::max(range.const_data_ptr<int64_t>()[1] + 1, minlength.expect_int());
  const ScalarType dtype = !is_weighted                          ? at::kLong
                           : weights.scalar_type() == at::kFloat ? at::kFloat
                                                                 : at::kDouble;
  Tensor counts = at::zeros({bins}, self.options().dtype(dtype));
  const Tensor places = self.to(at::kLong);
  if (is_weighted) return counts.index_add_(0, places, weights.to(dtype));
  count_places(counts, places.contiguous());
  return counts;
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("histc", TORCH_FN(histc));
  m.impl("bincount", TORCH_FN(bincount));
}

}  // namespace accel::aten
