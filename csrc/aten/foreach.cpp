// _foreach_ ops: one Node a tensor, recorded in one loop without a dispatch each. Lists that are
// not uniform (dtypes to promote, sizes to broadcast, other layouts) take PyTorch's own loop, which
// calls the op for each tensor.
#include <ATen/MemoryOverlap.h>
#include <ATen/ops/_foreach_abs_native.h>
#include <ATen/ops/_foreach_acos_native.h>
#include <ATen/ops/_foreach_add_native.h>
#include <ATen/ops/_foreach_addcdiv_native.h>
#include <ATen/ops/_foreach_addcmul_native.h>
#include <ATen/ops/_foreach_asin_native.h>
#include <ATen/ops/_foreach_atan_native.h>
#include <ATen/ops/_foreach_ceil_native.h>
#include <ATen/ops/_foreach_clamp_max_native.h>
#include <ATen/ops/_foreach_clamp_min_native.h>
#include <ATen/ops/_foreach_copy_native.h>
#include <ATen/ops/_foreach_cos_native.h>
#include <ATen/ops/_foreach_cosh_native.h>
#include <ATen/ops/_foreach_div_native.h>
#include <ATen/ops/_foreach_erf_native.h>
#include <ATen/ops/_foreach_erfc_native.h>
#include <ATen/ops/_foreach_exp_native.h>
#include <ATen/ops/_foreach_expm1_native.h>
#include <ATen/ops/_foreach_floor_native.h>
#include <ATen/ops/_foreach_lerp_native.h>
#include <ATen/ops/_foreach_lgamma_native.h>
#include <ATen/ops/_foreach_log10_native.h>
#include <ATen/ops/_foreach_log1p_native.h>
#include <ATen/ops/_foreach_log2_native.h>
#include <ATen/ops/_foreach_log_native.h>
#include <ATen/ops/_foreach_mul_native.h>
#include <ATen/ops/_foreach_neg_native.h>
#include <ATen/ops/_foreach_norm_native.h>
#include <ATen/ops/_foreach_pow_native.h>
#include <ATen/ops/_foreach_reciprocal_native.h>
#include <ATen/ops/_foreach_round_native.h>
#include <ATen/ops/_foreach_rsqrt_native.h>
#include <ATen/ops/_foreach_sigmoid_native.h>
#include <ATen/ops/_foreach_sign_native.h>
#include <ATen/ops/_foreach_sin_native.h>
#include <ATen/ops/_foreach_sinh_native.h>
#include <ATen/ops/_foreach_sqrt_native.h>
#include <ATen/ops/_foreach_sub_native.h>
#include <ATen/ops/_foreach_tan_native.h>
#include <ATen/ops/_foreach_tanh_native.h>
#include <ATen/ops/_foreach_trunc_native.h>
#include <ATen/ops/_foreach_zero_native.h>

#include <algorithm>
#include <cmath>

#include "csrc/aten/alias.h"
#include "csrc/aten/pointwise.h"

namespace accel::aten {

namespace {

using at::TensorList;
using ScalarList = at::ArrayRef<at::Scalar>;
using Lists = std::initializer_list<TensorList>;

// --- lists ---------------------------------------------------------------------------------------

enum class Place { InPlace, New };

bool is_target(const Tensor& tensor) {
  return is_plain(tensor) && is_native(tensor) && at::isFloatingType(tensor.scalar_type()) &&
         tensor.is_non_overlapping_and_dense();
}

// Whether `other` is read at the same place as `self` is computed: nothing to promote, nothing to
// broadcast. A new result has the strides that all operands share.
bool is_operand(const Tensor& other, const Tensor& self, Place place) {
  if (other.is_same(self)) return true;
  if (!is_plain(other) || other.scalar_type() != self.scalar_type() ||
      other.device() != self.device() || other.sizes() != self.sizes()) {
    return false;
  }
  // In place, memory that is shared but not the same may be an error to report.
  return place == Place::New ? other.strides() == self.strides()
                             : !other.storage().is_alias_of(self.storage());
}

bool is_uniform(Place place, TensorList self, Lists others) {
  for (const TensorList& list : others) {
    if (list.size() != self.size()) return false;
  }
  for (size_t i = 0; i < self.size(); ++i) {
    if (!is_target(self[i])) return false;
    for (const TensorList& list : others) {
      if (!is_operand(list[i], self[i], place)) return false;
    }
  }
  return !self.empty();
}

bool are_real(ScalarList scalars, size_t count) {
  for (const at::Scalar& scalar : scalars) {
    if (scalar.isComplex()) return false;
  }
  return scalars.size() == count;
}

// --- operands ------------------------------------------------------------------------------------

// What is added to a Recording beside self, for tensor i. Layouts as in pointwise.cpp.

struct Nothing {
  bool fits(TensorList) const { return true; }
  void add(Recording&, size_t, ScalarType) const {}
};

struct Number {
  const at::Scalar& value;
  bool fits(TensorList) const { return !value.isComplex(); }
  void add(Recording& recording, size_t, ScalarType dtype) const {
    recording.scalar(scalar_of(value, dtype));
  }
};

struct Numbers {
  ScalarList values;
  bool fits(TensorList self) const { return are_real(values, self.size()); }
  void add(Recording& recording, size_t i, ScalarType dtype) const {
    recording.scalar(scalar_of(values[i], dtype));
  }
};

// A second operand that is a number: an absent input and a scalar.
template <typename Value>
struct SecondOperand : Value {
  void add(Recording& recording, size_t i, ScalarType dtype) const {
    recording.no_input();
    Value::add(recording, i, dtype);
  }
};

// One tensor of a single element for all.
struct Broadcast {
  const Tensor& value;
  TensorList self;
  bool fits(TensorList) const {
    if (!is_plain(value) || value.dim() != 0 || !is_native(value) ||
        !at::isFloatingType(value.scalar_type()) || value.device() != self[0].device()) {
      return false;
    }
    // Beside a tensor that has no dimensions either, its dtype counts.
    return std::all_of(self.begin(), self.end(), [&](const Tensor& tensor) {
      return tensor.dim() > 0 || tensor.scalar_type() == value.scalar_type();
    });
  }
  void add(Recording& recording, size_t i, ScalarType) const {
    recording.input(value, self[i].sizes());
  }
};

// The alpha of add and sub; attribute 1 says that it is one.
template <typename Second>
struct Scaled {
  Second second;
  const at::Scalar* alpha = nullptr;
  bool fits(TensorList self) const { return second.fits(self) && !(alpha && alpha->isComplex()); }
  void add(Recording& recording, size_t i, ScalarType dtype) const {
    const bool one = !alpha || alpha->equal(1);
    recording.attribute(uint64_t{one});
    second.add(recording, i, dtype);
    if (!one) recording.scalar(scalar_of(*alpha, dtype));
  }
};

// --- the loop ------------------------------------------------------------------------------------

template <typename Operands>
void record_one(Opcode opcode, const Tensor& out, size_t i, TensorList self, Lists others,
                const Operands& operands) {
  const ScalarType dtype = self[i].scalar_type();
  Recording recording(opcode);
  recording.output(out).input(self[i]).attribute(dtype);
  for (const TensorList& list : others) recording.input(list[i]);
  operands.add(recording, i, dtype);
  recording.record();
}

template <typename Operands, typename Slow>
std::vector<Tensor> functional(Opcode opcode, TensorList self, Lists others,
                               const Operands& operands, const Slow& slow) {
  if (!is_uniform(Place::New, self, others) || !operands.fits(self)) return slow();
  std::vector<Tensor> results;
  results.reserve(self.size());
  for (size_t i = 0; i < self.size(); ++i) {
    results.push_back(empty_like(self[i], self[i].scalar_type()));
    record_one(opcode, results.back(), i, self, others, operands);
  }
  return results;
}

// Tells autograd that the tensors are written: it knows that of single ops alone, and leaves lists
// to their kernels. What must not be written raises here, before anything is recorded.
void bump_versions(TensorList tensors) {
  for (const Tensor& tensor : tensors) tensor.unsafeGetTensorImpl()->bump_version();
}

template <typename Operands, typename Slow>
void in_place(Opcode opcode, TensorList self, Lists others, const Operands& operands,
              const Slow& slow) {
  if (!is_uniform(Place::InPlace, self, others) || !operands.fits(self)) return slow();
  bump_versions(self);
  for (size_t i = 0; i < self.size(); ++i) {
    record_one(opcode, self[i], i, self, others, operands);
  }
}

// --- ops -----------------------------------------------------------------------------------------

// clang-format off
#define ACCEL_FOREACH_UNARY(X)                                                               \
  X(abs, Abs) X(acos, Acos) X(asin, Asin) X(atan, Atan) X(ceil, Ceil) X(cos, Cos)            \
  X(cosh, Cosh) X(erf, Erf) X(erfc, Erfc) X(exp, Exp) X(expm1, Expm1) X(floor, Floor)        \
  X(lgamma, Lgamma) X(log, Log) X(log10, Log10) X(log1p, Log1p) X(log2, Log2) X(neg, Neg)    \
  X(reciprocal, Reciprocal) X(round, RoundEven) X(rsqrt, Rsqrt) X(sigmoid, Sigmoid)          \
  X(sign, Sign) X(sin, Sin) X(sinh, Sinh) X(sqrt, Sqrt) X(tan, Tan) X(tanh, Tanh)            \
  X(trunc, Trunc)
// clang-format on

#define ACCEL_DEFINE(name, opcode)                                                     \
  std::vector<Tensor> name##_new(TensorList self) {                                    \
    return functional(Opcode::opcode, self, {}, Nothing{},                             \
                      [&] { return at::native::foreach_tensor_##name##_slow(self); }); \
  }                                                                                    \
  void name##_in_place(TensorList self) {                                              \
    in_place(Opcode::opcode, self, {}, Nothing{},                                      \
             [&] { at::native::foreach_tensor_##name##_slow_(self); });                \
  }
ACCEL_FOREACH_UNARY(ACCEL_DEFINE)
#undef ACCEL_DEFINE

// A second operand in each of its forms. `wrap` makes the operands of add and sub.
#define ACCEL_DEFINE(name, opcode, wrap)                                                          \
  std::vector<Tensor> name##_scalar(TensorList self, const at::Scalar& value) {                   \
    return functional(Opcode::opcode, self, {}, wrap(SecondOperand<Number>{{value}}), [&] {       \
      return at::native::foreach_tensor_##name##_scalar_kernel_slow(self, value);                 \
    });                                                                                           \
  }                                                                                               \
  void name##_scalar_in_place(TensorList self, const at::Scalar& value) {                         \
    in_place(Opcode::opcode, self, {}, wrap(SecondOperand<Number>{{value}}),                      \
             [&] { at::native::foreach_tensor_##name##_scalar_kernel_slow_(self, value); });      \
  }                                                                                               \
  std::vector<Tensor> name##_scalars(TensorList self, ScalarList values) {                        \
    return functional(Opcode::opcode, self, {}, wrap(SecondOperand<Numbers>{{values}}), [&] {     \
      return at::native::foreach_tensor_##name##_scalarlist_kernel_slow(self, values);            \
    });                                                                                           \
  }                                                                                               \
  void name##_scalars_in_place(TensorList self, ScalarList values) {                              \
    in_place(Opcode::opcode, self, {}, wrap(SecondOperand<Numbers>{{values}}),                    \
             [&] { at::native::foreach_tensor_##name##_scalarlist_kernel_slow_(self, values); }); \
  }
#define ACCEL_PLAIN(...) __VA_ARGS__
#define ACCEL_SCALED(...) \
  Scaled<decltype(__VA_ARGS__)> { __VA_ARGS__ }
ACCEL_DEFINE(add, Add, ACCEL_SCALED)
ACCEL_DEFINE(sub, Sub, ACCEL_SCALED)
ACCEL_DEFINE(mul, Mul, ACCEL_PLAIN)
ACCEL_DEFINE(div, Div, ACCEL_PLAIN)
ACCEL_DEFINE(clamp_min, ClampMin, ACCEL_PLAIN)
ACCEL_DEFINE(clamp_max, ClampMax, ACCEL_PLAIN)
#undef ACCEL_DEFINE

#define ACCEL_DEFINE(name, opcode)                                                         \
  std::vector<Tensor> name##_list(TensorList self, TensorList other) {                     \
    return functional(Opcode::opcode, self, {other}, Nothing{}, [&] {                      \
      return at::native::foreach_tensor_##name##_list_kernel_slow(self, other);            \
    });                                                                                    \
  }                                                                                        \
  void name##_list_in_place(TensorList self, TensorList other) {                           \
    in_place(Opcode::opcode, self, {other}, Nothing{},                                     \
             [&] { at::native::foreach_tensor_##name##_list_kernel_slow_(self, other); }); \
  }
ACCEL_DEFINE(mul, Mul)
ACCEL_DEFINE(div, Div)
ACCEL_DEFINE(clamp_min, ClampMin)
ACCEL_DEFINE(clamp_max, ClampMax)
ACCEL_DEFINE(pow, Pow)
#undef ACCEL_DEFINE

// An operand list of add and sub: alpha comes after it, attribute 1 before.
#define ACCEL_DEFINE(name, opcode)                                                                \
  std::vector<Tensor> name##_list(TensorList self, TensorList other, const at::Scalar& alpha) {   \
    return functional(Opcode::opcode, self, {other}, Scaled<Nothing>{{}, &alpha}, [&] {           \
      return at::native::foreach_tensor_##name##_list_kernel_slow(self, other, alpha);            \
    });                                                                                           \
  }                                                                                               \
  void name##_list_in_place(TensorList self, TensorList other, const at::Scalar& alpha) {         \
    in_place(Opcode::opcode, self, {other}, Scaled<Nothing>{{}, &alpha},                          \
             [&] { at::native::foreach_tensor_##name##_list_kernel_slow_(self, other, alpha); }); \
  }
ACCEL_DEFINE(add, Add)
ACCEL_DEFINE(sub, Sub)
#undef ACCEL_DEFINE

#define ACCEL_DEFINE(name, opcode)                                                           \
  std::vector<Tensor> name##_tensor(TensorList self, const Tensor& other) {                  \
    return functional(Opcode::opcode, self, {}, Broadcast{other, self}, [&] {                \
      return at::native::foreach_tensor_##name##_tensor_kernel_slow(self, other);            \
    });                                                                                      \
  }                                                                                          \
  void name##_tensor_in_place(TensorList self, const Tensor& other) {                        \
    in_place(Opcode::opcode, self, {}, Broadcast{other, self},                               \
             [&] { at::native::foreach_tensor_##name##_tensor_kernel_slow_(self, other); }); \
  }
ACCEL_DEFINE(mul, Mul)
ACCEL_DEFINE(div, Div)
#undef ACCEL_DEFINE

std::vector<Tensor> add_tensor(TensorList self, const Tensor& other, const at::Scalar& alpha) {
  return functional(Opcode::Add, self, {}, Scaled<Broadcast>{{other, self}, &alpha}, [&] {
    return at::native::foreach_tensor_add_tensor_kernel_slow(self, other, alpha);
  });
}

void add_tensor_in_place(TensorList self, const Tensor& other, const at::Scalar& alpha) {
  in_place(Opcode::Add, self, {}, Scaled<Broadcast>{{other, self}, &alpha},
           [&] { at::native::foreach_tensor_add_tensor_kernel_slow_(self, other, alpha); });
}

std::vector<Tensor> pow_scalar(TensorList self, const at::Scalar& exponent) {
  auto slow = [&] { return at::native::foreach_tensor_pow_scalar_kernel_slow(self, exponent); };
  if (const auto opcode = power_opcode(exponent)) {
    return functional(*opcode, self, {}, Nothing{}, slow);
  }
  return functional(Opcode::Pow, self, {}, SecondOperand<Number>{{exponent}}, slow);
}

void pow_scalar_in_place(TensorList self, const at::Scalar& exponent) {
  auto slow = [&] { at::native::foreach_tensor_pow_scalar_kernel_slow_(self, exponent); };
  if (const auto opcode = power_opcode(exponent)) {
    return in_place(*opcode, self, {}, Nothing{}, slow);
  }
  in_place(Opcode::Pow, self, {}, SecondOperand<Number>{{exponent}}, slow);
}

#define ACCEL_DEFINE(name, opcode)                                                             \
  std::vector<Tensor> name##_scalar(TensorList self, TensorList first, TensorList second,      \
                                    const at::Scalar& value) {                                 \
    return functional(Opcode::opcode, self, {first, second}, Number{value}, [&] {              \
      return at::native::foreach_tensor_##name##_scalar_slow(self, first, second, value);      \
    });                                                                                        \
  }                                                                                            \
  void name##_scalar_in_place(TensorList self, TensorList first, TensorList second,            \
                              const at::Scalar& value) {                                       \
    in_place(Opcode::opcode, self, {first, second}, Number{value}, [&] {                       \
      at::native::foreach_tensor_##name##_scalar_slow_(self, first, second, value);            \
    });                                                                                        \
  }                                                                                            \
  std::vector<Tensor> name##_scalars(TensorList self, TensorList first, TensorList second,     \
                                     ScalarList values) {                                      \
    return functional(Opcode::opcode, self, {first, second}, Numbers{values}, [&] {            \
      return at::native::foreach_tensor_##name##_scalarlist_slow(self, first, second, values); \
    });                                                                                        \
  }                                                                                            \
  void name##_scalars_in_place(TensorList self, TensorList first, TensorList second,           \
                               ScalarList values) {                                            \
    in_place(Opcode::opcode, self, {first, second}, Numbers{values}, [&] {                     \
      at::native::foreach_tensor_##name##_scalarlist_slow_(self, first, second, values);       \
    });                                                                                        \
  }
ACCEL_DEFINE(addcmul, Addcmul)
ACCEL_DEFINE(addcdiv, Addcdiv)
#undef ACCEL_DEFINE

std::vector<Tensor> lerp_scalar(TensorList self, TensorList end, const at::Scalar& weight) {
  return functional(Opcode::Lerp, self, {end}, Number{weight}, [&] {
    return at::native::foreach_tensor_lerp_list_kernel_slow(self, end, weight);
  });
}

void lerp_scalar_in_place(TensorList self, TensorList end, const at::Scalar& weight) {
  in_place(Opcode::Lerp, self, {end}, Number{weight},
           [&] { at::native::foreach_tensor_lerp_list_kernel_slow_(self, end, weight); });
}

std::vector<Tensor> lerp_scalars(TensorList self, TensorList end, ScalarList weights) {
  return functional(Opcode::Lerp, self, {end}, Numbers{weights}, [&] {
    return at::native::foreach_tensor_lerp_scalarlist_kernel_slow(self, end, weights);
  });
}

void lerp_scalars_in_place(TensorList self, TensorList end, ScalarList weights) {
  in_place(Opcode::Lerp, self, {end}, Numbers{weights},
           [&] { at::native::foreach_tensor_lerp_scalarlist_kernel_slow_(self, end, weights); });
}

std::vector<Tensor> lerp_list(TensorList self, TensorList end, TensorList weights) {
  return functional(Opcode::LerpTensor, self, {end, weights}, Nothing{}, [&] {
    return at::native::foreach_tensor_ternary_lerp_slow(self, end, weights);
  });
}

void lerp_list_in_place(TensorList self, TensorList end, TensorList weights) {
  in_place(Opcode::LerpTensor, self, {end, weights}, Nothing{},
           [&] { at::native::foreach_tensor_ternary_lerp_slow_(self, end, weights); });
}

void zero_(TensorList self) {
  for (const Tensor& tensor : self) {
    if (!is_plain(tensor) || !is_native(tensor) ||
        at::has_internal_overlap(tensor) != at::MemOverlap::No) {
      return at::native::foreach_tensor_zero_slow_(self);
    }
  }
  bump_versions(self);
  for (const Tensor& tensor : self) {
    Recording(Opcode::Fill)
        .output(tensor)
        .attribute(tensor.scalar_type())
        .scalar(scalar_of(at::Scalar(0), tensor.scalar_type()))
        .record();
  }
}

void copy_(TensorList self, TensorList source, bool non_blocking) {
  bool uniform = self.size() == source.size();
  for (size_t i = 0; i < self.size() && uniform; ++i) {
    const Tensor &to = self[i], &from = source[i];
    const bool converts = to.scalar_type() != from.scalar_type();
    uniform = is_plain(to) && is_plain(from) && to.device() == from.device() &&
              to.sizes() == from.sizes() && (!converts || (is_native(to) && is_native(from))) &&
              at::has_internal_overlap(to) == at::MemOverlap::No &&
              !to.storage().is_alias_of(from.storage());
  }
  if (!uniform) {
    return at::native::foreach_tensor_copy_list_kernel_slow_(self, source, non_blocking);
  }
  bump_versions(self);
  for (size_t i = 0; i < self.size(); ++i) {
    Recording(Opcode::Copy)
        .output(self[i])
        .input(source[i])
        .attribute(self[i].scalar_type())
        .record();
  }
}

std::optional<Opcode> norm_opcode(const at::Scalar& order) {
  if (order.isComplex()) return std::nullopt;
  const double value = order.toDouble();
  if (value == 2) return Opcode::ReduceNorm;
  if (value == 1) return Opcode::ReduceNormOne;
  if (value == INFINITY) return Opcode::ReduceNormInf;
  return std::nullopt;
}

// The norms stand side by side in one storage, so that stacking them is one copy.
std::vector<Tensor> norm(TensorList self, const at::Scalar& order,
                         std::optional<ScalarType> dtype) {
  const auto opcode = norm_opcode(order);
  bool uniform = !self.empty() && opcode && (!dtype || *dtype == self[0].scalar_type());
  for (const Tensor& tensor : self) {
    uniform = uniform && is_target(tensor) && tensor.numel() > 0 &&
              tensor.scalar_type() == self[0].scalar_type() && tensor.device() == self[0].device();
  }
  if (!uniform) return at::native::foreach_tensor_norm_slow(self, order, dtype);
  const ScalarType type = self[0].scalar_type();
  const Tensor norms = empty_on(self[0], {static_cast<int64_t>(self.size())}, type);
  std::vector<Tensor> results;
  results.reserve(self.size());
  for (size_t i = 0; i < self.size(); ++i) {
    results.push_back(element_of(norms, static_cast<int64_t>(i)));
    // All dimensions are reduced: rows without kept dimensions.
    Recording(*opcode)
        .output(results.back())
        .input(self[i])
        .attribute(type)
        .attribute(uint64_t{0})
        .attribute(uint64_t{0})
        .record();
  }
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
#define ACCEL_REGISTER(name, opcode)               \
  m.impl("_foreach_" #name, TORCH_FN(name##_new)); \
  m.impl("_foreach_" #name "_", TORCH_FN(name##_in_place));
  ACCEL_FOREACH_UNARY(ACCEL_REGISTER)
#undef ACCEL_REGISTER

#define ACCEL_REGISTER(name, op, overload, function)                  \
  m.impl("_foreach_" #name "." #overload, TORCH_FN(op##_##function)); \
  m.impl("_foreach_" #name "_." #overload, TORCH_FN(op##_##function##_in_place));
#define ACCEL_REGISTER_BINARY(name, op)         \
  ACCEL_REGISTER(name, op, Scalar, scalar)      \
  ACCEL_REGISTER(name, op, ScalarList, scalars) \
  ACCEL_REGISTER(name, op, List, list)
  ACCEL_REGISTER_BINARY(add, add)
  ACCEL_REGISTER_BINARY(sub, sub)
  ACCEL_REGISTER_BINARY(mul, mul)
  ACCEL_REGISTER_BINARY(div, div)
  ACCEL_REGISTER_BINARY(clamp_min, clamp_min)
  ACCEL_REGISTER_BINARY(clamp_max, clamp_max)
  ACCEL_REGISTER_BINARY(maximum, clamp_min)
  ACCEL_REGISTER_BINARY(minimum, clamp_max)
  ACCEL_REGISTER_BINARY(lerp, lerp)
  ACCEL_REGISTER(add, add, Tensor, tensor)
  ACCEL_REGISTER(mul, mul, Tensor, tensor)
  ACCEL_REGISTER(div, div, Tensor, tensor)
  ACCEL_REGISTER(pow, pow, Scalar, scalar)
  ACCEL_REGISTER(pow, pow, List, list)
  ACCEL_REGISTER(addcmul, addcmul, Scalar, scalar)
  ACCEL_REGISTER(addcmul, addcmul, ScalarList, scalars)
  ACCEL_REGISTER(addcdiv, addcdiv, Scalar, scalar)
  ACCEL_REGISTER(addcdiv, addcdiv, ScalarList, scalars)
#undef ACCEL_REGISTER_BINARY
#undef ACCEL_REGISTER
  m.impl("_foreach_zero_", TORCH_FN(zero_));
  m.impl("_foreach_copy_", TORCH_FN(copy_));
  m.impl("_foreach_norm.Scalar", TORCH_FN(norm));
}

}  // namespace accel::aten
