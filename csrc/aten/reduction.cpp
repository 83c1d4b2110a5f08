// Reductions: sums, means, products, extrema, any and all, norms, variances. Recorded as Reduce
// Nodes in the canonical order that logical shape alone decides. Reductions that find a place as
// well as a value (argmax, max along a dimension) are in scan.cpp.
#include <cmath>

#include <ATen/native/LinearAlgebraUtils.h>
#include <ATen/native/ReduceOpsUtils.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/all_meta.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/amax_meta.h>
#include <ATen/ops/amin.h>
#include <ATen/ops/amin_meta.h>
#include <ATen/ops/any_meta.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/linalg_vector_norm_meta.h>
#include <ATen/ops/mean_meta.h>
#include <ATen/ops/ne.h>
#include <ATen/ops/norm_meta.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/prod_meta.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/sum_meta.h>

#include "csrc/aten/complex.h"
#include "csrc/aten/inference.h"

namespace accel::aten {

namespace {

using at::DimVector;
using at::OptionalIntArrayRef;
using at::native::DimMask;
using OptionalDtype = std::optional<ScalarType>;
using OptionalScalar = std::optional<at::Scalar>;

// Which dimensions are reduced: all of them where `dims` is absent or empty.
DimMask mask_of(const Tensor& self, OptionalIntArrayRef dims) {
  return at::native::make_dim_mask(dims, self.dim());
}

bool recordable(const Tensor& self, OptionalDtype dtype = std::nullopt) {
  return is_plain(self) && is_native(self) && (!dtype || is_native(*dtype));
}

// A Reduce Node's input in canonical order. Rows: kept dimensions, then reduced ones; columns: the
// other way round, where the last dimension of more than one element is kept.
struct CanonicalInput {
  DimVector sizes, strides;
  size_t kept = 0;
  bool column = false;

  enum class Order { ByShape, Rows };

  CanonicalInput(const Tensor& self, const DimMask& reduced, Order order = Order::ByShape) {
    int64_t last = self.dim() - 1;
    while (last >= 0 && self.size(last) == 1) --last;
    column = order == Order::ByShape && last >= 0 && !reduced[last];
    for (const bool pass : {column, !column}) {
      for (int64_t dim = 0; dim < self.dim(); ++dim) {
        if (reduced[dim] != pass) continue;
        sizes.push_back(self.size(dim));
        strides.push_back(self.stride(dim));
        kept += !pass;
      }
    }
  }
};

// Adds a reduction's output without the dimensions that keepdim left in it.
void add_kept_output(Recording& recording, const Tensor& out, const Tensor& self,
                     const DimMask& reduced, bool keepdim) {
  if (!keepdim) {
    recording.output(out);
    return;
  }
  DimVector sizes, strides;
  for (int64_t dim = 0; dim < self.dim(); ++dim) {
    if (reduced[dim]) continue;
    sizes.push_back(out.size(dim));
    strides.push_back(out.stride(dim));
  }
  recording.output(out, sizes, strides);
}

void record_reduction(Opcode opcode, ScalarType compute, const Tensor& out, const Tensor& self,
                      const DimMask& reduced, bool keepdim) {
  // The two-valued dtype's sums and extrema are the logical ones.
  if (compute == ScalarType::Bool) {
    if (opcode == Opcode::ReduceSum || opcode == Opcode::ReduceMax) opcode = Opcode::ReduceAny;
    if (opcode == Opcode::ReduceProd || opcode == Opcode::ReduceMin) opcode = Opcode::ReduceAll;
  }
  // A kernel may not write what it still reads: out= over the input's memory goes through a copy.
  const bool aliased = out.is_alias_of(self);
  const Tensor target = aliased ? empty_on(out, out.sizes(), out.scalar_type()) : out;
  const CanonicalInput input(self, reduced);
  Recording recording(opcode);
  add_kept_output(recording, target, self, reduced, keepdim);
  recording.input(self, input.sizes, input.strides)
      .attribute(compute)
      .attribute(input.kept)
      .attribute(input.column)
      .record();
  if (aliased) out.copy_(target);
}

// --- sum, mean, prod -----------------------------------------------------------------------------

// Of complex numbers the parts are summed apart.
void record_complex_sum(Opcode opcode, const Tensor& out, const Tensor& self, DimMask reduced,
                        bool keepdim) {
  const Tensor pairs = pairs_of(self);
  reduced.reset(self.dim());  // all dimensions are more than the Tensor has
  record_reduction(opcode, pairs.scalar_type(), pairs_of(out), pairs, reduced, keepdim);
}

Tensor sum_dims(const Tensor& self, OptionalIntArrayRef dims, bool keepdim, OptionalDtype dtype) {
  const bool complex = is_complex_plain(self) && (!dtype || *dtype == self.scalar_type());
  if (!complex && !recordable(self, dtype)) {
    return to_host<Tensor>("aten::sum", "dim_IntList", self, dims, keepdim, dtype);
  }
  Inferred<at::meta::structured_sum_dim_IntList> op;
  op.meta(self, dims, keepdim, dtype);
  if (complex) {
    record_complex_sum(Opcode::ReduceSum, op[0], self, mask_of(self, dims), keepdim);
    return op[0];
  }
  record_reduction(Opcode::ReduceSum, op[0].scalar_type(), op[0], self, mask_of(self, dims),
                   keepdim);
  return op[0];
}

Tensor sum(const Tensor& self, OptionalDtype dtype) {
  return sum_dims(self, IntArrayRef{}, false, dtype);
}

Tensor& sum_out(const Tensor& self, OptionalIntArrayRef dims, bool keepdim, OptionalDtype dtype,
                Tensor& out) {
  if (!recordable(self, dtype) || !recordable(out)) {
    to_host<Tensor>("aten::sum", "IntList_out", self, dims, keepdim, dtype, out);
    return out;
  }
  Inferred<at::meta::structured_sum_dim_IntList> op{out};
  op.meta(self, dims, keepdim, dtype);
  record_reduction(Opcode::ReduceSum, out.scalar_type(), out, self, mask_of(self, dims), keepdim);
  return out;
}

Tensor mean_dims(const Tensor& self, OptionalIntArrayRef dims, bool keepdim, OptionalDtype dtype) {
  const bool complex = is_complex_plain(self) && (!dtype || *dtype == self.scalar_type());
  if (!complex && !recordable(self, dtype)) {
    return to_host<Tensor>("aten::mean", "dim", self, dims, keepdim, dtype);
  }
  Inferred<at::meta::structured_mean_dim> op;
  op.meta(self, dims, keepdim, dtype);
  if (complex) {
    record_complex_sum(Opcode::ReduceMean, op[0], self, mask_of(self, dims), keepdim);
    return op[0];
  }
  record_reduction(Opcode::ReduceMean, op[0].scalar_type(), op[0], self, mask_of(self, dims),
                   keepdim);
  return op[0];
}

Tensor mean(const Tensor& self, OptionalDtype dtype) {
  return mean_dims(self, IntArrayRef{}, false, dtype);
}

Tensor& mean_out(const Tensor& self, OptionalIntArrayRef dims, bool keepdim, OptionalDtype dtype,
                 Tensor& out) {
  if (!recordable(self, dtype) || !recordable(out)) {
    to_host<Tensor>("aten::mean", "out", self, dims, keepdim, dtype, out);
    return out;
  }
  Inferred<at::meta::structured_mean_dim> op{out};
  op.meta(self, dims, keepdim, dtype);
  record_reduction(Opcode::ReduceMean, out.scalar_type(), out, self, mask_of(self, dims), keepdim);
  return out;
}

Tensor prod(const Tensor& self, OptionalDtype dtype) {
  if (!recordable(self, dtype)) return to_host<Tensor>("aten::prod", "", self, dtype);
  const ScalarType result = at::native::get_dtype_from_self(self, dtype, true);
  Tensor out = empty_on(self, {}, result);
  record_reduction(Opcode::ReduceProd, result, out, self, mask_of(self, std::nullopt), false);
  return out;
}

Tensor prod_dim(const Tensor& self, int64_t dim, bool keepdim, OptionalDtype dtype) {
  if (!recordable(self, dtype)) {
    return to_host<Tensor>("aten::prod", "dim_int", self, dim, keepdim, dtype);
  }
  Inferred<at::meta::structured_prod_dim_int> op;
  op.meta(self, dim, keepdim, dtype);
  record_reduction(Opcode::ReduceProd, op[0].scalar_type(), op[0], self,
                   mask_of(self, IntArrayRef{dim}), keepdim);
  return op[0];
}

Tensor& prod_out(const Tensor& self, int64_t dim, bool keepdim, OptionalDtype dtype, Tensor& out) {
  if (!recordable(self, dtype) || !recordable(out)) {
    to_host<Tensor>("aten::prod", "int_out", self, dim, keepdim, dtype, out);
    return out;
  }
  Inferred<at::meta::structured_prod_dim_int> op{out};
  op.meta(self, dim, keepdim, dtype);
  record_reduction(Opcode::ReduceProd, out.scalar_type(), out, self,
                   mask_of(self, IntArrayRef{dim}), keepdim);
  return out;
}

// --- extrema -------------------------------------------------------------------------------------

constexpr char kAmax[] = "aten::amax", kAmin[] = "aten::amin";
constexpr char kMax[] = "max", kMin[] = "min";

template <typename Meta, Opcode kOpcode, const char* kName>
struct Extremum {
  static Tensor functional(const Tensor& self, IntArrayRef dims, bool keepdim) {
    if (!recordable(self)) return to_host<Tensor>(kName, "", self, dims, keepdim);
    Inferred<Meta> op;
    op.meta(self, dims, keepdim);
    record_reduction(kOpcode, self.scalar_type(), op[0], self, mask_of(self, dims), keepdim);
    return op[0];
  }
  static Tensor& out(const Tensor& self, IntArrayRef dims, bool keepdim, Tensor& out) {
    if (!recordable(self) || !recordable(out)) {
      to_host<Tensor>(kName, "out", self, dims, keepdim, out);
      return out;
    }
    Inferred<Meta> op{out};
    op.meta(self, dims, keepdim);
    record_reduction(kOpcode, self.scalar_type(), out, self, mask_of(self, dims), keepdim);
    return out;
  }
};

template <Opcode kOpcode, const char* kName>
struct FullExtremum {
  static Tensor functional(const Tensor& self) {
    if (!recordable(self))
      return to_host<Tensor>((std::string("aten::") + kName).c_str(), "", self);
    check(self);
    Tensor out = empty_on(self, {}, self.scalar_type());
    record_reduction(kOpcode, self.scalar_type(), out, self, mask_of(self, std::nullopt), false);
    return out;
  }
  static Tensor& out(const Tensor& self, Tensor& out) {
    if (!recordable(self) || !recordable(out)) {
      to_host<Tensor>((std::string("aten::") + kName).c_str(), "unary_out", self, out);
      return out;
    }
    check(self);
    TORCH_CHECK(self.device() == out.device(), "expected device ", self.device(), " but found ",
                out.device());
    TORCH_CHECK(at::canCast(self.scalar_type(), out.scalar_type()), "result type ",
                self.scalar_type(), " can't be cast to the desired output type ",
                out.scalar_type());
    resize_output(out, {});
    record_reduction(kOpcode, self.scalar_type(), out, self, mask_of(self, std::nullopt), false);
    return out;
  }

 private:
  static void check(const Tensor& self) {
    TORCH_CHECK(self.numel() > 0, kName,
                "(): Expected reduction dim to be specified for input.numel() == 0. ",
                "Specify the reduction dim with the 'dim' argument.");
  }
};

// --- any, all ------------------------------------------------------------------------------------

constexpr char kAny[] = "aten::any", kAll[] = "aten::all";

template <typename Full, typename Dim, typename Dims, Opcode kOpcode, const char* kName>
struct Logical {
  static Tensor full(const Tensor& self) {
    if (!recordable(self)) return to_host<Tensor>(kName, "", self);
    Inferred<Full> op;
    op.meta(self);
    record(op[0], self, mask_of(self, std::nullopt), false);
    return op[0];
  }
  static Tensor& full_out(const Tensor& self, Tensor& out) {
    if (!recordable(self) || !recordable(out)) {
      to_host<Tensor>(kName, "all_out", self, out);
      return out;
    }
    Inferred<Full> op{out};
    op.meta(self);
    record(out, self, mask_of(self, std::nullopt), false);
    return out;
  }
  static Tensor dim(const Tensor& self, int64_t dim, bool keepdim) {
    if (!recordable(self)) return to_host<Tensor>(kName, "dim", self, dim, keepdim);
    Inferred<Dim> op;
    op.meta(self, dim, keepdim);
    record(op[0], self, mask_of(self, IntArrayRef{dim}), keepdim);
    return op[0];
  }
  static Tensor& dim_out(const Tensor& self, int64_t dim, bool keepdim, Tensor& out) {
    if (!recordable(self) || !recordable(out)) {
      to_host<Tensor>(kName, "out", self, dim, keepdim, out);
      return out;
    }
    Inferred<Dim> op{out};
    op.meta(self, dim, keepdim);
    record(out, self, mask_of(self, IntArrayRef{dim}), keepdim);
    return out;
  }
  static Tensor dims(const Tensor& self, OptionalIntArrayRef dims, bool keepdim) {
    if (!recordable(self)) return to_host<Tensor>(kName, "dims", self, dims, keepdim);
    Inferred<Dims> op;
    op.meta(self, dims, keepdim);
    record(op[0], self, exact_mask(self, dims), keepdim);
    return op[0];
  }
  static Tensor& dims_out(const Tensor& self, OptionalIntArrayRef dims, bool keepdim, Tensor& out) {
    if (!recordable(self) || !recordable(out)) {
      to_host<Tensor>(kName, "dims_out", self, dims, keepdim, out);
      return out;
    }
    Inferred<Dims> op{out};
    op.meta(self, dims, keepdim);
    record(out, self, exact_mask(self, dims), keepdim);
    return out;
  }

 private:
  // Here an empty list of dimensions reduces none.
  static DimMask exact_mask(const Tensor& self, OptionalIntArrayRef dims) {
    return at::native::make_dim_mask(dims, self.dim(), /*allow_empty_dims=*/true);
  }
  static void record(const Tensor& out, const Tensor& self, const DimMask& reduced, bool keepdim) {
    record_reduction(kOpcode, self.scalar_type(), out, self, reduced, keepdim);
  }
};

using Any = Logical<at::meta::structured_any, at::meta::structured_any_dim,
                    at::meta::structured_any_dims, Opcode::ReduceAny, kAny>;
using All = Logical<at::meta::structured_all, at::meta::structured_all_dim,
                    at::meta::structured_all_dims, Opcode::ReduceAll, kAll>;

// --- norms ---------------------------------------------------------------------------------------

std::optional<Opcode> norm_opcode(double order) {
  if (order == 2) return Opcode::ReduceNorm;
  if (order == 1) return Opcode::ReduceNormOne;
  if (order == INFINITY) return Opcode::ReduceNormInf;
  return std::nullopt;
}

// An empty tensor has those norms alone that are sums: the host says so.
bool has_norm(const Tensor& self, const at::Scalar& order) {
  return norm_opcode(order.toDouble()).has_value() || self.numel() > 0;
}

// 1, 2 and infinity are reductions of their own; the others are composed, in fp32 for 16 bits.
void record_norm(const Tensor& out, const Tensor& self, const at::Scalar& order,
                 OptionalIntArrayRef dims, bool keepdim) {
  const double p = order.toDouble();
  if (const auto opcode = norm_opcode(p)) {
    return record_reduction(*opcode, out.scalar_type(), out, self, mask_of(self, dims), keepdim);
  }
  const Tensor x = self.to(arithmetic_dtype(out.scalar_type()));
  if (p == 0) {
    out.copy_(at::sum(at::ne(x, 0), dims, keepdim));
  } else if (p == -INFINITY) {
    out.copy_(at::amin(at::abs(x), dims.value_or(IntArrayRef{}), keepdim));
  } else {
    out.copy_(at::pow(at::sum(at::pow(at::abs(x), p), dims, keepdim), 1 / p));
  }
}

// The norm of complex numbers is that of their magnitudes: of the device's own, with which the
// gradient of the infinite norm compares it.
bool norm_is_of_magnitudes(const Tensor& self, OptionalDtype dtype = std::nullopt) {
  return is_complex_plain(self) && (!dtype || at::isComplexType(*dtype));
}

OptionalDtype real_dtype(OptionalDtype dtype) {
  return dtype ? OptionalDtype(c10::toRealValueType(*dtype)) : std::nullopt;
}

Tensor vector_norm(const Tensor& self, const at::Scalar& order, OptionalIntArrayRef dims,
                   bool keepdim, OptionalDtype dtype) {
  if (norm_is_of_magnitudes(self, dtype)) {
    return vector_norm(self.abs(), order, dims, keepdim, real_dtype(dtype));
  }
  if (!recordable(self, dtype) || !has_norm(self, order)) {
    return to_host<Tensor>("aten::linalg_vector_norm", "", self, order, dims, keepdim, dtype);
  }
  Inferred<at::meta::structured_linalg_vector_norm> op;
  op.meta(self, order, dims, keepdim, dtype);
  record_norm(op[0], self, order, dims, keepdim);
  return op[0];
}

Tensor& vector_norm_out(const Tensor& self, const at::Scalar& order, OptionalIntArrayRef dims,
                        bool keepdim, OptionalDtype dtype, Tensor& out) {
  if (norm_is_of_magnitudes(self, dtype) && !out.is_complex()) {
    return vector_norm_out(self.abs(), order, dims, keepdim, real_dtype(dtype), out);
  }
  if (!recordable(self, dtype) || !recordable(out) || !has_norm(self, order)) {
    to_host<Tensor>("aten::linalg_vector_norm", "out", self, order, dims, keepdim, dtype, out);
    return out;
  }
  Inferred<at::meta::structured_linalg_vector_norm> op{out};
  op.meta(self, order, dims, keepdim, dtype);
  record_norm(out, self, order, dims, keepdim);
  return out;
}

// The older norm operators, by which C++ code of PyTorch still calls.
Tensor norm_dims(const Tensor& self, const OptionalScalar& order, IntArrayRef dims, bool keepdim) {
  if (norm_is_of_magnitudes(self)) return norm_dims(self.abs(), order, dims, keepdim);
  const at::Scalar chosen = order.value_or(2.0);
  if (!recordable(self) || !has_norm(self, chosen)) {
    return to_host<Tensor>("aten::norm", "ScalarOpt_dim", self, order, dims, keepdim);
  }
  Inferred<at::meta::structured_norm_ScalarOpt_dim> op;
  op.meta(self, chosen, dims, keepdim);
  record_norm(op[0], self, chosen, dims, keepdim);
  return op[0];
}

Tensor norm_dims_dtype(const Tensor& self, const OptionalScalar& order, IntArrayRef dims,
                       bool keepdim, ScalarType dtype) {
  const at::Scalar chosen = order.value_or(2.0);
  if (!recordable(self, dtype) || !has_norm(self, chosen)) {
    return to_host<Tensor>("aten::norm", "ScalarOpt_dim_dtype", self, order, dims, keepdim, dtype);
  }
  Inferred<at::meta::structured_norm_ScalarOpt_dim_dtype> op;
  op.meta(self, chosen, dims, keepdim, dtype);
  record_norm(op[0], self, chosen, dims, keepdim);
  return op[0];
}

Tensor& norm_out(const Tensor& self, const OptionalScalar& order, IntArrayRef dims, bool keepdim,
                 Tensor& out) {
  const at::Scalar chosen = order.value_or(2.0);
  if (!recordable(self) || !recordable(out) || !has_norm(self, chosen)) {
    to_host<Tensor>("aten::norm", "out", self, order, dims, keepdim, out);
    return out;
  }
  Inferred<at::meta::structured_norm_ScalarOpt_dim> op{out};
  op.meta(self, chosen, dims, keepdim);
  record_norm(out, self, chosen, dims, keepdim);
  return out;
}

// --- variance ------------------------------------------------------------------------------------

enum class Spread { Variance, Deviation };

// out: variance or deviation; mean: undefined where it is not wanted.
void record_variance(Spread spread, const Tensor& out, const Tensor& mean, const Tensor& self,
                     OptionalIntArrayRef dims, const OptionalScalar& correction, bool keepdim,
                     const char* name) {
  const DimMask reduced = mask_of(self, dims);
  const double degrees = correction.value_or(1).toDouble();
  const int64_t results = out.numel();
  if (results > 0 && degrees >= static_cast<double>(self.numel() / results)) {
    TORCH_WARN(name,
               "(): degrees of freedom is <= 0. Correction should be strictly less than the "
               "reduction factor (input numel divided by output numel).");
  }
  const CanonicalInput input(self, reduced, CanonicalInput::Order::Rows);
  Recording recording(Opcode::ReduceVariance);
  add_kept_output(recording, out, self, reduced, keepdim);
  if (mean.defined()) add_kept_output(recording, mean, self, reduced, keepdim);
  recording.input(self, input.sizes, input.strides)
      .attribute(self.scalar_type())
      .attribute(input.kept)
      .attribute(false)
      .attribute(spread == Spread::Deviation)
      .scalar(degrees)
      .record();
}

Tensor empty_result(const Tensor& self, OptionalIntArrayRef dims, bool keepdim) {
  return empty_on(self, at::native::shape_from_dim_mask(self, mask_of(self, dims), keepdim),
                  self.scalar_type());
}

bool floating_or_complex(const Tensor& self) {
  return at::isFloatingType(self.scalar_type()) || self.is_complex();
}

constexpr char kVar[] = "var", kStd[] = "std";
constexpr char kVarMean[] = "var_mean", kStdMean[] = "std_mean";

template <Spread kSpread, const char* kName, const char* kNameWithMean>
struct Variance {
  static Tensor functional(const Tensor& self, OptionalIntArrayRef dims,
                           const OptionalScalar& correction, bool keepdim) {
    TORCH_CHECK(floating_or_complex(self),
                "std and var only support floating point and complex dtypes");
    if (!recordable(self)) {
      return to_host<Tensor>(qualified(kName).c_str(), "correction", self, dims, correction,
                             keepdim);
    }
    Tensor out = empty_result(self, dims, keepdim);
    record_variance(kSpread, out, {}, self, dims, correction, keepdim, kName);
    return out;
  }
  static Tensor& out(const Tensor& self, OptionalIntArrayRef dims, const OptionalScalar& correction,
                     bool keepdim, Tensor& out) {
    TORCH_CHECK(floating_or_complex(self),
                "std and var only support floating point and complex dtypes");
    if (!recordable(self) || !recordable(out) || out.is_alias_of(self)) {
      to_host<Tensor>(qualified(kName).c_str(), "correction_out", self, dims, correction, keepdim,
                      out);
      return out;
    }
    TORCH_CHECK(at::canCast(self.scalar_type(), out.scalar_type()), "result type ",
                self.scalar_type(), " can't be cast to the desired output type ",
                out.scalar_type());
    resize_output(out, at::native::shape_from_dim_mask(self, mask_of(self, dims), keepdim));
    record_variance(kSpread, out, {}, self, dims, correction, keepdim, kName);
    return out;
  }
  static std::tuple<Tensor, Tensor> with_mean(const Tensor& self, OptionalIntArrayRef dims,
                                              const OptionalScalar& correction, bool keepdim) {
    TORCH_CHECK(floating_or_complex(self), kNameWithMean,
                " only support floating point and complex dtypes");
    if (!recordable(self)) {
      return to_host_pair(self, dims, correction, keepdim);
    }
    Tensor out = empty_result(self, dims, keepdim);
    Tensor mean = empty_result(self, dims, keepdim);
    record_variance(kSpread, out, mean, self, dims, correction, keepdim, kNameWithMean);
    return {out, mean};
  }

 private:
  static std::string qualified(const char* name) { return std::string("aten::") + name; }
  static std::tuple<Tensor, Tensor> to_host_pair(const Tensor& self, OptionalIntArrayRef dims,
                                                 const OptionalScalar& correction, bool keepdim) {
    const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(qualified(kNameWithMean).c_str(),
                                                                   "correction");
    torch::jit::Stack stack;
    torch::jit::push(stack, self, dims, correction, keepdim);
    host_op(op, &stack);
    return {stack[0].toTensor(), stack[1].toTensor()};
  }
};

using Var = Variance<Spread::Variance, kVar, kVarMean>;
using Std = Variance<Spread::Deviation, kStd, kStdMean>;
using Amax = Extremum<at::meta::structured_amax, Opcode::ReduceMax, kAmax>;
using Amin = Extremum<at::meta::structured_amin, Opcode::ReduceMin, kAmin>;
using Max = FullExtremum<Opcode::ReduceMax, kMax>;
using Min = FullExtremum<Opcode::ReduceMin, kMin>;

// --- compositions --------------------------------------------------------------------------------

Tensor nansum(const Tensor& self, OptionalIntArrayRef dims, bool keepdim, OptionalDtype dtype) {
  if (!recordable(self, dtype)) {
    return to_host<Tensor>("aten::nansum", "", self, dims, keepdim, dtype);
  }
  const bool floating = at::isFloatingType(self.scalar_type());
  return at::sum(floating ? self.masked_fill(at::isnan(self), 0) : self, dims, keepdim, dtype);
}

Tensor count_nonzero(const Tensor& self, IntArrayRef dims) {
  if (!recordable(self)) return to_host<Tensor>("aten::count_nonzero", "dim_IntList", self, dims);
  return at::sum(at::ne(self, 0), dims);
}

std::tuple<Tensor, Tensor> aminmax(const Tensor& self, std::optional<int64_t> dim, bool keepdim) {
  if (!recordable(self) || self.numel() == 0 || self.scalar_type() == ScalarType::Bool) {
    return to_host<std::tuple<Tensor, Tensor>>("aten::aminmax", "", self, dim, keepdim);
  }
  const IntArrayRef dims = dim ? IntArrayRef(*dim) : IntArrayRef{};
  return {at::amin(self, dims, keepdim), at::amax(self, dims, keepdim)};
}

Tensor trace(const Tensor& self) {
  TORCH_CHECK(self.dim() == 2, "trace: expected a matrix, but got tensor with dim ", self.dim());
  if (!recordable(self)) return to_host<Tensor>("aten::trace", "", self);
  return self.diagonal().sum();
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("sum", TORCH_FN(sum));
  m.impl("sum.dim_IntList", TORCH_FN(sum_dims));
  m.impl("sum.IntList_out", TORCH_FN(sum_out));
  m.impl("mean", TORCH_FN(mean));
  m.impl("mean.dim", TORCH_FN(mean_dims));
  m.impl("mean.out", TORCH_FN(mean_out));
  m.impl("prod", TORCH_FN(prod));
  m.impl("prod.dim_int", TORCH_FN(prod_dim));
  m.impl("prod.int_out", TORCH_FN(prod_out));

  m.impl("amax", TORCH_FN(Amax::functional));
  m.impl("amax.out", TORCH_FN(Amax::out));
  m.impl("amin", TORCH_FN(Amin::functional));
  m.impl("amin.out", TORCH_FN(Amin::out));
  m.impl("max", TORCH_FN(Max::functional));
  m.impl("max.unary_out", TORCH_FN(Max::out));
  m.impl("min", TORCH_FN(Min::functional));
  m.impl("min.unary_out", TORCH_FN(Min::out));

  m.impl("any", TORCH_FN(Any::full));
  m.impl("any.all_out", TORCH_FN(Any::full_out));
  m.impl("any.dim", TORCH_FN(Any::dim));
  m.impl("any.out", TORCH_FN(Any::dim_out));
  m.impl("any.dims", TORCH_FN(Any::dims));
  m.impl("any.dims_out", TORCH_FN(Any::dims_out));
  m.impl("all", TORCH_FN(All::full));
  m.impl("all.all_out", TORCH_FN(All::full_out));
  m.impl("all.dim", TORCH_FN(All::dim));
  m.impl("all.out", TORCH_FN(All::dim_out));
  m.impl("all.dims", TORCH_FN(All::dims));
  m.impl("all.dims_out", TORCH_FN(All::dims_out));

  m.impl("nansum", TORCH_FN(nansum));
  m.impl("count_nonzero.dim_IntList", TORCH_FN(count_nonzero));
  m.impl("aminmax", TORCH_FN(aminmax));
  m.impl("trace", TORCH_FN(trace));

  m.impl("linalg_vector_norm", TORCH_FN(vector_norm));
  m.impl("linalg_vector_norm.out", TORCH_FN(vector_norm_out));
  m.impl("norm.ScalarOpt_dim", TORCH_FN(norm_dims));
  m.impl("norm.ScalarOpt_dim_dtype", TORCH_FN(norm_dims_dtype));
  m.impl("norm.out", TORCH_FN(norm_out));

  m.impl("var.correction", TORCH_FN(Var::functional));
  m.impl("var.correction_out", TORCH_FN(Var::out));
  m.impl("var_mean.correction", TORCH_FN(Var::with_mean));
  m.impl("std.correction", TORCH_FN(Std::functional));
  m.impl("std.correction_out", TORCH_FN(Std::out));
  m.impl("std_mean.correction", TORCH_FN(Std::with_mean));
}

}  // namespace accel::aten
