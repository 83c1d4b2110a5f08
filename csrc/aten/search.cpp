// Places of values in sorted sequences: searchsorted, bucketize, isin; and repeat_interleave, which
// names the segment that each element of a whole is in.
#include <ATen/native/BucketizationUtils.h>
#include <ATen/ops/nan_to_num.h>
#include <ATen/ops/stack.h>

#include "csrc/aten/inference.h"
#include "kernels/search/search.h"

namespace accel::aten {

namespace {

using kernels::SearchSide;
using OptionalSide = std::optional<std::string_view>;

bool is_searchable(ScalarType dtype) { return is_native(dtype) && dtype != ScalarType::Bool; }

// All of what PyTorch checks but the range of the sorter's values, which the kernel does.
void check_search(const Tensor& sequence, const Tensor& values, const Tensor& out, bool out_int32,
                  bool right, OptionalSide side, const Tensor& sorter) {
  at::native::searchsorted_pre_check(sequence, values, out, out_int32, right, side, {});
  if (!sorter.defined()) return;
  TORCH_CHECK(sorter.device() == sequence.device(),
              "torch.searchsorted(): sorter and boundary tensors should have same device type, but "
              "got sorter tensor device type ",
              sorter.device(), " and input value tensor device type ", sequence.device());
  TORCH_CHECK(sorter.sizes() == sequence.sizes(),
              "torch.searchsorted(): boundary and sorter must have the same size, but got boundary "
              "tensor ",
              sequence.sizes(), "and got sorter tensor ", sorter.sizes());
  TORCH_CHECK(sorter.scalar_type() == ScalarType::Long,
              "torch.searchsorted(): sorter must be a tensor of long dtype but got dtype ",
              sorter.scalar_type());
}

Tensor& searchsorted_out(const Tensor& sequence, const Tensor& self, bool out_int32, bool right,
                         OptionalSide side, const OptionalTensor& sorter_option, Tensor& out) {
  const Tensor& sorter = value_or_undefined(sorter_option);
  check_search(sequence, self, out, out_int32, right, side, sorter);
  resize_output(out, self.sizes());
  const ScalarType dtype = at::result_type(sequence, self);
  TORCH_CHECK_NOT_IMPLEMENTED(
      is_searchable(dtype), "\"searchsorted_out_cpu\" not implemented for '", toString(dtype), "'");
  if (self.numel() == 0) return out;
  if (sequence.numel() == 0) return out.zero_();
  const Tensor in_order = out.is_contiguous() ? out : empty_on(out, out.sizes(), out.scalar_type());
  const int64_t rows = sequence.dim() == 1 ? 1 : sequence.numel() / sequence.size(-1);
  const bool is_right = right || (side && *side == "right");
  auto matrix = [](const Tensor& tensor, int64_t count) {
    return tensor.contiguous().view({count, -1});
  };
  Recording(Opcode::Searchsorted)
      .output(in_order.view({rows, -1}))
      .input(matrix(sequence.to(dtype), rows))
      .input(matrix(self.to(dtype), rows))
      .input(sorter.defined() ? matrix(sorter, rows) : Tensor())
      .attribute(dtype)
      .attribute(static_cast<uint64_t>(is_right ? SearchSide::Right : SearchSide::Left))
      .record();
  return in_order.is_same(out) ? out : out.copy_(in_order);
}

Tensor searchsorted(const Tensor& sequence, const Tensor& self, bool out_int32, bool right,
                    OptionalSide side, const OptionalTensor& sorter) {
  Tensor out = empty_on(sequence, {0}, out_int32 ? ScalarType::Int : ScalarType::Long);
  return searchsorted_out(sequence, self, out_int32, right, side, sorter, out);
}

Tensor searchsorted_scalar(const Tensor& sequence, const at::Scalar& self, bool out_int32,
                           bool right, OptionalSide side, const OptionalTensor& sorter) {
  const Tensor value = at::native::searchsorted_scalar_tensor(self, sequence.device());
  return searchsorted(sequence, value, out_int32, right, side, sorter);
}

Tensor& searchsorted_scalar_out(const Tensor& sequence, const at::Scalar& self, bool out_int32,
                                bool right, OptionalSide side, const OptionalTensor& sorter,
                                Tensor& out) {
  const Tensor value = at::native::searchsorted_scalar_tensor(self, sequence.device());
  return searchsorted_out(sequence, value, out_int32, right, side, sorter, out);
}

void check_boundaries(const Tensor& boundaries) {
  TORCH_CHECK(boundaries.dim() == 1, "boundaries tensor must be 1 dimension, but got dim(",
              boundaries.dim(), ")");
}

Tensor& bucketize_out(const Tensor& self, const Tensor& boundaries, bool out_int32, bool right,
                      Tensor& out) {
  check_boundaries(boundaries);
  return searchsorted_out(boundaries, self, out_int32, right, std::nullopt, std::nullopt, out);
}

Tensor bucketize(const Tensor& self, const Tensor& boundaries, bool out_int32, bool right) {
  check_boundaries(boundaries);
  return searchsorted(boundaries, self, out_int32, right, std::nullopt, std::nullopt);
}

Tensor bucketize_scalar(const at::Scalar& self, const Tensor& boundaries, bool out_int32,
                        bool right) {
  check_boundaries(boundaries);
  return searchsorted_scalar(boundaries, self, out_int32, right, std::nullopt, std::nullopt);
}

// --- isin ----------------------------------------------------------------------------------------

// Whether each element is among the others: looked up where it would stand if those were sorted.
Tensor isin(const Tensor& elements, const Tensor& others, bool assume_unique, bool invert) {
  const ScalarType dtype = at::result_type(elements, others);
  if (!is_plain(elements) || !is_plain(others) || !is_searchable(dtype)) {
    return to_host<Tensor>("aten::isin", "Tensor_Tensor", elements, others, assume_unique, invert);
  }
  check_same_device("isin", {{elements, "elements"}, {others, "test_elements"}});
  if (elements.numel() == 0 || others.numel() == 0) {
    return empty_on(elements, elements.sizes(), at::kBool).fill_(invert);
  }
  const Tensor values = elements.to(dtype);
  const Tensor sorted = std::get<0>(others.to(dtype).reshape(-1).sort());
  // NaNs, which are equal to nothing, are sorted behind infinity and looked up as it.
  const double infinity = std::numeric_limits<double>::infinity();
  const Tensor keys =
      at::isFloatingType(dtype) ? at::nan_to_num(sorted, infinity, infinity, -infinity) : sorted;
  const Tensor place = searchsorted(keys, values, false, false, std::nullopt, std::nullopt);
  const Tensor found = sorted.take(place.clamp_max(sorted.numel() - 1));
  return invert ? found.ne(values) : found.eq(values);
}

// --- repeat_interleave ---------------------------------------------------------------------------

Tensor repeat_interleave(const Tensor& repeats, std::optional<c10::SymInt> output_size) {
  TORCH_CHECK(repeats.dim() == 1, "repeat_interleave only accept 1D vector as repeat");
  TORCH_CHECK(repeats.scalar_type() == at::kLong || repeats.scalar_type() == at::kInt,
              "repeats has to be Long or Int tensor");
  if (repeats.size(0) == 0) return empty_on(repeats, {0}, repeats.scalar_type());
  int64_t total = 0;
  if (output_size) {
    total = output_size->expect_int();
  } else {
    // The one value to wait for, and with it the least.
    const Tensor known = at::stack({repeats.sum(), repeats.min().to(at::kLong)}).cpu();
    total = known.const_data_ptr<int64_t>()[0];
    TORCH_CHECK(known.const_data_ptr<int64_t>()[1] >= 0, "repeats can not be negative");
  }
  Tensor places = empty_on(repeats, {total}, repeats.scalar_type());
  Recording(Opcode::RepeatInterleave).output(places).input(repeats.contiguous()).record();
  return places;
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("searchsorted.Tensor", TORCH_FN(searchsorted));
  m.impl("searchsorted.Tensor_out", TORCH_FN(searchsorted_out));
  m.impl("searchsorted.Scalar", TORCH_FN(searchsorted_scalar));
  m.impl("searchsorted.Scalar_out", TORCH_FN(searchsorted_scalar_out));
  m.impl("bucketize.Tensor", TORCH_FN(bucketize));
  m.impl("bucketize.Tensor_out", TORCH_FN(bucketize_out));
  m.impl("bucketize.Scalar", TORCH_FN(bucketize_scalar));
  m.impl("isin.Tensor_Tensor", TORCH_FN(isin));
  m.impl("repeat_interleave.Tensor", TORCH_FN(repeat_interleave));
}

}  // namespace accel::aten
