// Sorts along a dimension, and what sorting a part of it gives: topk, kthvalue, median.
#include <ATen/MemoryOverlap.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/native/ReduceOpsUtils.h>
#include <ATen/ops/sort_meta.h>
#include <ATen/ops/topk_meta.h>

#include "csrc/aten/inference.h"
#include "csrc/aten/lines.h"

namespace accel::aten {

namespace {

using TensorPair = std::tuple<Tensor, Tensor>;
using ReferencePair = std::tuple<Tensor&, Tensor&>;

// Ranks are taken of numbers only, as on the CPU.
bool is_ranked(const Tensor& self) {
  return has_places(self) && self.scalar_type() != ScalarType::Bool;
}

// What is checked of outputs. A result is written while the input is still read: over its memory it
// reads a copy.
Tensor apart_from(const Tensor& self, const Tensor& values, const Tensor& indices) {
  bool aliased = false;
  for (const Tensor* out : {&values, &indices}) {
    if (!out->defined()) continue;
    at::assert_no_internal_overlap(*out);
    aliased |= out->is_alias_of(self);
  }
  return aliased ? self.clone() : self;
}

// --- sort, topk ----------------------------------------------------------------------------------

void record_sort(Opcode opcode, const Tensor& self, int64_t dim, bool descending,
                 const Tensor& values, const Tensor& indices) {
  Recording recording(opcode);
  add_lines_output(recording, values);
  add_lines_output(recording, indices);
  const Tensor input = apart_from(self, values, indices);
  add_lines_input(recording, input);
  recording.attribute(self.scalar_type())
      .attribute(static_cast<uint64_t>(at::maybe_wrap_dim(dim, self.dim())))
      .attribute(descending)
      .record();
}

// Every sort here is stable.
TensorPair sort(const Tensor& self, std::optional<bool> stable, int64_t dim, bool descending) {
  if (!has_places(self)) {
    return to_host<TensorPair>("aten::sort", "stable", self, stable, dim, descending);
  }
  Inferred<at::meta::structured_sort_stable, 2> op;
  op.meta(self, stable, dim, descending);
  record_sort(Opcode::Sort, self, dim, descending, op[0], op[1]);
  return {op[0], op[1]};
}

ReferencePair sort_out(const Tensor& self, std::optional<bool> stable, int64_t dim, bool descending,
                       Tensor& values, Tensor& indices) {
  if (!has_places(self) || !is_plain(values) || !is_plain(indices)) {
    to_host<TensorPair>("aten::sort", "values_stable", self, stable, dim, descending, values,
                        indices);
    return {values, indices};
  }
  Inferred<at::meta::structured_sort_stable, 2> op{values, indices};
  op.meta(self, stable, dim, descending);
  record_sort(Opcode::Sort, self, dim, descending, values, indices);
  return {values, indices};
}

TensorPair topk(const Tensor& self, int64_t k, int64_t dim, bool largest, bool sorted) {
  if (!is_ranked(self)) {
    return to_host<TensorPair>("aten::topk", "", self, k, dim, largest, sorted);
  }
  Inferred<at::meta::structured_topk, 2> op;
  op.meta(self, k, dim, largest, sorted);
  record_sort(Opcode::Topk, self, dim, largest, op[0], op[1]);
  return {op[0], op[1]};
}

ReferencePair topk_out(const Tensor& self, int64_t k, int64_t dim, bool largest, bool sorted,
                       Tensor& values, Tensor& indices) {
  if (!is_ranked(self) || !is_plain(values) || !is_plain(indices)) {
    to_host<TensorPair>("aten::topk", "values", self, k, dim, largest, sorted, values, indices);
    return {values, indices};
  }
  Inferred<at::meta::structured_topk, 2> op{values, indices};
  op.meta(self, k, dim, largest, sorted);
  record_sort(Opcode::Topk, self, dim, largest, values, indices);
  return {values, indices};
}

// --- kthvalue, median ----------------------------------------------------------------------------

void record_select(Opcode opcode, const Tensor& self, int64_t k, int64_t dim, bool keepdim,
                   const Tensor& values, const Tensor& indices) {
  Recording recording(opcode);
  add_kept_output(recording, values, self, dim, keepdim);
  add_kept_output(recording, indices, self, dim, keepdim);
  const Tensor input = apart_from(self, values, indices);
  add_lines_input(recording, input);
  recording.attribute(self.scalar_type())
      .attribute(static_cast<uint64_t>(dim))
      .attribute(static_cast<uint64_t>(k))
      .record();
}

// Whether the outputs can be resized and written; where not, the CPU kernel says what is wrong.
bool is_selectable(const Tensor& self, const Tensor& values, const Tensor& indices) {
  return is_ranked(self) && is_plain(values) && is_plain(indices) &&
         values.scalar_type() == self.scalar_type() && indices.scalar_type() == ScalarType::Long;
}

void resize_kept(const Tensor& self, int64_t dim, bool keepdim, const Tensor& values,
                 const Tensor& indices) {
  const auto mask = at::native::make_dim_mask(at::IntArrayRef{dim}, self.dim());
  const auto shape = at::native::shape_from_dim_mask(self, mask, keepdim);
  resize_output(values, shape);
  resize_output(indices, shape);
}

ReferencePair kthvalue_out(const Tensor& self, int64_t k, int64_t dim, bool keepdim, Tensor& values,
                           Tensor& indices) {
  if (!is_selectable(self, values, indices)) {
    to_host<TensorPair>("aten::kthvalue", "values", self, k, dim, keepdim, values, indices);
    return {values, indices};
  }
  dim = at::maybe_wrap_dim(dim, self.dim());
  const int64_t length = self.dim() == 0 ? 1 : self.size(dim);
  at::native::zero_numel_check_dims(self, dim, "kthvalue()");
  at::assert_no_overlap(self, values);
  TORCH_CHECK(k > 0 && k <= length, "kthvalue(): selected number k out of range for dimension ",
              dim);
  resize_kept(self, dim, keepdim, values, indices);
  record_select(Opcode::Kthvalue, self, k - 1, dim, keepdim, values, indices);
  return {values, indices};
}

constexpr char kMedian[] = "aten::median", kNanmedian[] = "aten::nanmedian";

template <Opcode kOpcode, const char* kName>
struct MedianOf {
  static Tensor full(const Tensor& self) {
    if (!is_ranked(self) || self.numel() == 0) return to_host<Tensor>(kName, "", self);
    Tensor out = empty_on(self, {}, self.scalar_type());
    record_select(kOpcode, self.reshape(-1), 0, 0, false, out, {});
    return out;
  }
  static ReferencePair dim_out(const Tensor& self, int64_t dim, bool keepdim, Tensor& values,
                               Tensor& indices) {
    if (!is_selectable(self, values, indices)) {
      to_host<TensorPair>(kName, "dim_values", self, dim, keepdim, values, indices);
      return {values, indices};
    }
    dim = at::maybe_wrap_dim(dim, self.dim());
    at::native::zero_numel_check_dims(self, dim, "median()");
    resize_kept(self, dim, keepdim, values, indices);
    record_select(kOpcode, self, 0, dim, keepdim, values, indices);
    return {values, indices};
  }
};

using Median = MedianOf<Opcode::Median, kMedian>;
using Nanmedian = MedianOf<Opcode::Nanmedian, kNanmedian>;

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("sort.stable", TORCH_FN(sort));
  m.impl("sort.values_stable", TORCH_FN(sort_out));
  m.impl("topk", TORCH_FN(topk));
  m.impl("topk.values", TORCH_FN(topk_out));
  m.impl("kthvalue.values", TORCH_FN(kthvalue_out));
  m.impl("median", TORCH_FN(Median::full));
  m.impl("median.dim_values", TORCH_FN(Median::dim_out));
  m.impl("nanmedian", TORCH_FN(Nanmedian::full));
  m.impl("nanmedian.dim_values", TORCH_FN(Nanmedian::dim_out));
}

}  // namespace accel::aten
