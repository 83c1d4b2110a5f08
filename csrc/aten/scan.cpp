// Scans along a dimension (cumsum, cumprod, logcumsumexp, cummax, cummin) and the reductions that
// find a place: argmax, argmin, max and min along a dimension.
#include <ATen/MemoryOverlap.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/native/ReduceOpsUtils.h>
#include <ATen/ops/argmax_meta.h>
#include <ATen/ops/argmin_meta.h>
#include <ATen/ops/cumprod_meta.h>
#include <ATen/ops/cumsum_meta.h>
#include <ATen/ops/max_meta.h>
#include <ATen/ops/min_meta.h>

#include "csrc/aten/inference.h"
#include "csrc/aten/lines.h"

namespace accel::aten {

namespace {

using OptionalDtype = std::optional<ScalarType>;
using TensorPair = std::tuple<Tensor, Tensor>;
using ReferencePair = std::tuple<Tensor&, Tensor&>;

bool is_whole(const Tensor& tensor) {
  return at::isIntegralType(tensor.scalar_type(), /*includeBool=*/true);
}

bool is_same_view(const Tensor& a, const Tensor& b) {
  return a.data_ptr() == b.data_ptr() && a.strides() == b.strides() &&
         a.scalar_type() == b.scalar_type();
}

// --- scans ---------------------------------------------------------------------------------------

// values and, where they are defined, indices have self's sizes.
void record_scan(Opcode opcode, const Tensor& self, int64_t dim, const Tensor& values,
                 const Tensor& indices = {}) {
  dim = at::maybe_wrap_dim(dim, self.dim());
  // The CPU checks the outputs of sums and products, not those of cummax and cummin.
  if (!indices.defined()) at::assert_no_internal_overlap(values);
  // In place, every element is read before it is written; other overlaps go through a copy.
  const bool aliased = (values.is_alias_of(self) && !is_same_view(values, self)) ||
                       (indices.defined() && indices.is_alias_of(self));
  if (aliased) return record_scan(opcode, self.clone(), dim, values, indices);
  // Whole numbers widen to int64 and wrap where they are stored, in one step as in two.
  if (values.scalar_type() != self.scalar_type() && !(is_whole(values) && is_whole(self))) {
    return record_scan(opcode, self.to(values.scalar_type()), dim, values, indices);
  }
  Recording recording(opcode);
  add_lines_output(recording, values);
  add_lines_output(recording, indices);
  add_lines_input(recording, self);
  recording.attribute(values.scalar_type()).attribute(static_cast<uint64_t>(dim)).record();
}

constexpr char kCumsum[] = "aten::cumsum", kCumprod[] = "aten::cumprod";

template <typename Meta, Opcode kOpcode, const char* kName>
struct Cumulative {
  static Tensor functional(const Tensor& self, int64_t dim, OptionalDtype dtype) {
    if (!is_plain(self) || !is_native(self) || !takes(dtype)) {
      return to_host<Tensor>(kName, "", self, dim, dtype);
    }
    Inferred<Meta> op;
    op.meta(self, dim, dtype);
    record_scan(kOpcode, self, dim, op[0]);
    return op[0];
  }
  static Tensor& out(const Tensor& self, int64_t dim, OptionalDtype dtype, Tensor& out) {
    if (!is_plain(self) || !is_native(self) || !is_plain(out) || !takes(out.scalar_type())) {
      to_host<Tensor>(kName, "out", self, dim, dtype, out);
      return out;
    }
    Inferred<Meta> op{out};
    op.meta(self, dim, dtype);
    record_scan(kOpcode, self, dim, out);
    return out;
  }
  static Tensor& in_place(Tensor& self, int64_t dim, OptionalDtype dtype) {
    const bool same = dtype.value_or(self.scalar_type()) == self.scalar_type();
    if (!same || !is_plain(self) || !takes(self.scalar_type())) {
      to_host<Tensor>((std::string(kName) + "_").c_str(), "", self, dim, dtype);
      return self;
    }
    record_scan(kOpcode, self, dim, self);
    return self;
  }

 private:
  static bool takes(OptionalDtype dtype) {
    return !dtype || (is_native(*dtype) && *dtype != ScalarType::Bool);
  }
};

using Cumsum = Cumulative<at::meta::structured_cumsum, Opcode::Cumsum, kCumsum>;
using Cumprod = Cumulative<at::meta::structured_cumprod, Opcode::Cumprod, kCumprod>;

bool takes_logcumsumexp(const Tensor& self) {
  return is_plain(self) && is_native(self) && at::isFloatingType(self.scalar_type());
}

Tensor logcumsumexp(const Tensor& self, int64_t dim) {
  if (!takes_logcumsumexp(self)) return to_host<Tensor>("aten::_logcumsumexp", "", self, dim);
  Tensor out = empty_on(self, self.sizes(), self.scalar_type());
  record_scan(Opcode::Logcumsumexp, self, dim, out);
  return out;
}

Tensor& logcumsumexp_out(const Tensor& self, int64_t dim, Tensor& out) {
  if (!takes_logcumsumexp(self) || !is_plain(out) || out.scalar_type() != self.scalar_type()) {
    to_host<Tensor>("aten::_logcumsumexp", "out", self, dim, out);
    return out;
  }
  resize_output(out, self.sizes());
  record_scan(Opcode::Logcumsumexp, self, dim, out);
  return out;
}

constexpr char kCummax[] = "aten::_cummax_helper", kCummin[] = "aten::_cummin_helper";

// What cummax and cummin call with outputs of the right sizes and dtypes.
template <Opcode kOpcode, const char* kName>
void cumulative_extremum(const Tensor& self, Tensor& values, Tensor& indices, int64_t dim) {
  if (!has_places(self) || !is_plain(values) || !is_plain(indices)) {
    return to_host<void>(kName, "", self, values, indices, dim);
  }
  record_scan(kOpcode, self, dim, values, indices);
}

// --- places --------------------------------------------------------------------------------------

// values may be undefined.
void record_arg_reduction(Opcode opcode, const Tensor& self, int64_t dim, bool keepdim,
                          const Tensor& values, const Tensor& indices) {
  dim = at::maybe_wrap_dim(dim, self.dim());
  // The CPU checks the outputs of max and min, not those of argmax and argmin.
  if (values.defined()) {
    at::assert_no_internal_overlap(values);
    at::assert_no_internal_overlap(indices);
  }
  if ((values.defined() && values.is_alias_of(self)) || indices.is_alias_of(self)) {
    return record_arg_reduction(opcode, self.clone(), dim, keepdim, values, indices);
  }
  Recording recording(opcode);
  add_kept_output(recording, values, self, dim, keepdim);
  add_kept_output(recording, indices, self, dim, keepdim);
  add_lines_input(recording, self);
  recording.attribute(self.scalar_type()).attribute(static_cast<uint64_t>(dim)).record();
}

constexpr char kArgmax[] = "aten::argmax", kArgmin[] = "aten::argmin";

template <typename Meta, Opcode kOpcode, const char* kName>
struct ArgReduction {
  static Tensor functional(const Tensor& self, std::optional<int64_t> dim, bool keepdim) {
    if (!takes(self)) return to_host<Tensor>(kName, "", self, dim, keepdim);
    Inferred<Meta> op;
    op.meta(self, dim, keepdim);
    record(self, dim, keepdim, op[0]);
    return op[0];
  }
  static Tensor& out(const Tensor& self, std::optional<int64_t> dim, bool keepdim, Tensor& out) {
    if (!takes(self) || !is_plain(out)) {
      to_host<Tensor>(kName, "out", self, dim, keepdim, out);
      return out;
    }
    Inferred<Meta> op{out};
    op.meta(self, dim, keepdim);
    record(self, dim, keepdim, out);
    return out;
  }

 private:
  static bool takes(const Tensor& self) {
    return has_places(self) && self.scalar_type() != ScalarType::Bool;
  }
  static void record(const Tensor& self, std::optional<int64_t> dim, bool keepdim,
                     const Tensor& out) {
    if (dim) return record_arg_reduction(kOpcode, self, *dim, keepdim, {}, out);
    // The place in row-major order.
    const Tensor place = out.dim() == 0 ? out : out.view(at::IntArrayRef{});
    record_arg_reduction(kOpcode, self.reshape(-1), 0, false, {}, place);
  }
};

using Argmax = ArgReduction<at::meta::structured_argmax, Opcode::Argmax, kArgmax>;
using Argmin = ArgReduction<at::meta::structured_argmin, Opcode::Argmin, kArgmin>;

constexpr char kMax[] = "aten::max", kMaxOut[] = "dim_max";
constexpr char kMin[] = "aten::min", kMinOut[] = "dim_min";

template <typename Meta, Opcode kOpcode, const char* kName, const char* kOut>
struct DimExtremum {
  static TensorPair functional(const Tensor& self, int64_t dim, bool keepdim) {
    if (!has_places(self)) {
      return to_host<TensorPair>(kName, "dim", self, dim, keepdim);
    }
    Inferred<Meta, 2> op;
    op.meta(self, dim, keepdim);
    record_arg_reduction(kOpcode, self, dim, keepdim, op[0], op[1]);
    return {op[0], op[1]};
  }
  static ReferencePair out(const Tensor& self, int64_t dim, bool keepdim, Tensor& values,
                           Tensor& indices) {
    if (!has_places(self) || !is_plain(values) || !is_plain(indices)) {
      to_host<TensorPair>(kName, kOut, self, dim, keepdim, values, indices);
      return {values, indices};
    }
    Inferred<Meta, 2> op{values, indices};
    op.meta(self, dim, keepdim);
    record_arg_reduction(kOpcode, self, dim, keepdim, values, indices);
    return {values, indices};
  }
};

using MaxDim = DimExtremum<at::meta::structured_max_dim, Opcode::Argmax, kMax, kMaxOut>;
using MinDim = DimExtremum<at::meta::structured_min_dim, Opcode::Argmin, kMin, kMinOut>;

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("cumsum", TORCH_FN(Cumsum::functional));
  m.impl("cumsum.out", TORCH_FN(Cumsum::out));
  m.impl("cumsum_", TORCH_FN(Cumsum::in_place));
  m.impl("cumprod", TORCH_FN(Cumprod::functional));
  m.impl("cumprod.out", TORCH_FN(Cumprod::out));
  m.impl("cumprod_", TORCH_FN(Cumprod::in_place));
  m.impl("_logcumsumexp", TORCH_FN(logcumsumexp));
  m.impl("_logcumsumexp.out", TORCH_FN(logcumsumexp_out));
  m.impl("_cummax_helper", TORCH_FN((cumulative_extremum<Opcode::Cummax, kCummax>)));
  m.impl("_cummin_helper", TORCH_FN((cumulative_extremum<Opcode::Cummin, kCummin>)));

  m.impl("argmax", TORCH_FN(Argmax::functional));
  m.impl("argmax.out", TORCH_FN(Argmax::out));
  m.impl("argmin", TORCH_FN(Argmin::functional));
  m.impl("argmin.out", TORCH_FN(Argmin::out));
  m.impl("max.dim", TORCH_FN(MaxDim::functional));
  m.impl("max.dim_max", TORCH_FN(MaxDim::out));
  m.impl("min.dim", TORCH_FN(MinDim::functional));
  m.impl("min.dim_min", TORCH_FN(MinDim::out));
}

}  // namespace accel::aten
