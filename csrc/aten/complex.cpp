#include "csrc/aten/complex.h"

#include <ATen/ExpandUtils.h>
#include <ATen/ops/add.h>
#include <ATen/ops/complex_native.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/neg.h>
#include <ATen/ops/polar_native.h>
#include <ATen/ops/result_type.h>
#include <ATen/ops/sub.h>

#include "csrc/aten/alias.h"

namespace accel::aten {

bool is_complex_plain(const Tensor& tensor) {
  return is_plain(tensor) && (tensor.scalar_type() == ScalarType::ComplexFloat ||
                              tensor.scalar_type() == ScalarType::ComplexDouble);
}

namespace {

ScalarType real_of(const Tensor& tensor) { return c10::toRealValueType(tensor.scalar_type()); }

at::DimVector doubled_strides(const Tensor& tensor) {
  at::DimVector strides(tensor.strides());
  for (int64_t& stride : strides) stride *= 2;
  return strides;
}

}  // namespace

Tensor part_of(const Tensor& tensor, Part part) {
  return alias_of(tensor, real_of(tensor), tensor.sizes(), doubled_strides(tensor),
                  tensor.storage_offset() * 2 + (part == Part::Imaginary));
}

Tensor pairs_of(const Tensor& tensor) {
  at::DimVector sizes(tensor.sizes()), strides = doubled_strides(tensor);
  sizes.push_back(2);
  strides.push_back(1);
  return alias_of(tensor, real_of(tensor), sizes, strides, tensor.storage_offset() * 2);
}

namespace {

void fill_part(const Tensor& tensor, Part part, double value) {
  part_of(tensor, part).fill_(value);
}

bool is_real_plain(const Tensor& tensor) { return is_plain(tensor) && is_native(tensor); }

}  // namespace

bool copy_complex(const Tensor& to, const Tensor& from) {
  const bool complex_to = is_complex_plain(to), complex_from = is_complex_plain(from);
  if (!(complex_to || is_real_plain(to)) || !(complex_from || is_real_plain(from)) ||
      to.is_alias_of(from)) {
    return false;
  }
  if (complex_to && complex_from) {
    pairs_of(to).copy_(pairs_of(from));
  } else if (complex_to) {
    part_of(to, Part::Real).copy_(from);
    fill_part(to, Part::Imaginary, 0);
  } else {
    to.copy_(part_of(from, Part::Real));
  }
  return true;
}

namespace {

// An operand, perhaps real, of an op in the common dtype. A number of the CPU becomes one of the
// device.
Tensor on_device(const Tensor& tensor, const Tensor& out) {
  if (!tensor.device().is_cpu()) return tensor;
  return tensor.to(out.options().dtype(out.scalar_type()));
}

// As a complex Tensor of the output's dtype.
Tensor as_complex(const Tensor& tensor, const Tensor& out) {
  return on_device(tensor, out).to(out.scalar_type());
}

void add_parts(Recording& recording, const Tensor& tensor, const Tensor& out) {
  const Tensor operand = on_device(tensor, out);
  if (operand.is_complex()) {
    recording.input(part_of(operand, Part::Real), out.sizes())
        .input(part_of(operand, Part::Imaginary), out.sizes());
  } else {
    recording.input(Tensor(operand), out.sizes()).no_input();
  }
}

// One Node over the parts of all operands. Absent ones in front are those of the number one.
void record_parts(Opcode opcode, const Tensor& out, Inputs inputs) {
  const Tensor real = part_of(out, Part::Real), imaginary = part_of(out, Part::Imaginary);
  Recording recording(opcode);
  recording.output(real).output(imaginary).attribute(real.scalar_type());
  if (opcode == Opcode::ComplexDiv && inputs.size() == 1) recording.no_input().no_input();
  for (const Tensor* input : inputs) add_parts(recording, *input, out);
  recording.record();
}

// Parts in, a real number out.
Output record_real(Opcode opcode, const Tensor& out, const Tensor& first, const Tensor& second) {
  Output result = out.defined()
                      ? Output::borrowed(out)
                      : Output::owned(empty_on(first, first.sizes(), first.scalar_type()));
  Recording(opcode)
      .output(*result)
      .input(first)
      .input(second)
      .attribute(first.scalar_type())
      .record();
  return result;
}

bool is_number(const Tensor& tensor) { return tensor.device().is_cpu() && tensor.dim() == 0; }

bool accepts(const Tensor& out, Inputs inputs) {
  bool any_complex = false;
  for (const Tensor* input : inputs) {
    if (!is_number(*input) && !is_complex_plain(*input) && !is_real_plain(*input)) return false;
    if (input->is_conj() || input->is_neg()) return false;
    any_complex |= input->is_complex();
  }
  if (!any_complex || (inputs.size() == 1 && is_number(*inputs[0]))) return false;
  if (inputs.size() == 2 && is_number(*inputs[0]) && is_number(*inputs[1])) return false;
  if (!out.defined()) return true;
  for (const Tensor* input : inputs) {
    // Over memory of another dtype TensorIterator converts, and so copies, first.
    if (input->storage().is_alias_of(out.storage()) && input->scalar_type() != out.scalar_type()) {
      return false;
    }
  }
  return true;
}

Output add_sub(Opcode opcode, const Tensor& out, Inputs inputs, const at::Scalar& alpha) {
  Inference inferred = infer(out, inputs, Rule::Same);
  const Tensor& result = inferred.out();
  const Tensor a = as_complex(*inputs[0], result);
  Tensor b = as_complex(*inputs[1], result);
  if (alpha.isComplex()) b = at::mul(b, alpha);
  const at::Scalar factor = alpha.isComplex() ? at::Scalar(1) : alpha;
  Tensor pairs = pairs_of(result);
  opcode == Opcode::Add ? at::add_out(pairs, pairs_of(a), pairs_of(b), factor)
                        : at::sub_out(pairs, pairs_of(a), pairs_of(b), factor);
  return std::move(inferred.output);
}

bool is_real_number(const Tensor& tensor) { return is_number(tensor) && !tensor.is_complex(); }

}  // namespace

std::optional<Output> complex_pointwise(Opcode opcode, const Tensor& out, Inputs inputs,
                                        const at::Scalar& alpha) {
  if (!accepts(out, inputs)) return std::nullopt;
  const Tensor& self = *inputs[0];
  if (opcode == Opcode::Abs || opcode == Opcode::Angle) {
    if (out.defined() && (out.scalar_type() != real_of(self) || !is_plain(out))) {
      return std::nullopt;
    }
    if (out.defined()) resize_output(out, self.sizes());
    const Tensor real = part_of(self, Part::Real), imaginary = part_of(self, Part::Imaginary);
    return opcode == Opcode::Abs ? record_real(Opcode::Hypot, out, real, imaginary)
                                 : record_real(Opcode::Atan2, out, imaginary, real);
  }
  const ScalarType common =
      inputs.size() == 1 ? self.scalar_type() : at::result_type(self, *inputs[1]);
  if (common != ScalarType::ComplexFloat && common != ScalarType::ComplexDouble) {
    return std::nullopt;
  }
  if (out.defined() && (out.scalar_type() != common || !is_complex_plain(out))) return std::nullopt;
  auto by_parts = [&](Opcode code, Inputs operands) {
    Inference inferred = infer(out, operands, Rule::Same);
    record_parts(code, inferred.out(), operands);
    return std::move(inferred.output);
  };
  switch (opcode) {
    case Opcode::Add:
    case Opcode::Sub:
      return add_sub(opcode, out, inputs, alpha);
    case Opcode::Mul:
    case Opcode::Div:
      // By a real number, both parts alike.
      if (is_real_number(*inputs[1])) {
        Inference inferred = infer(out, inputs, Rule::Same);
        binary(opcode, Rule::Float, pairs_of(inferred.out()), pairs_of(self), *inputs[1]);
        return std::move(inferred.output);
      }
      if (opcode == Opcode::Mul && !self.is_complex()) {
        return by_parts(Opcode::ComplexMul, {inputs[1], inputs[0]});
      }
      return by_parts(opcode == Opcode::Mul ? Opcode::ComplexMul : Opcode::ComplexDiv, inputs);
    case Opcode::Square:
      return by_parts(Opcode::ComplexMul, {&self, &self});
    case Opcode::Reciprocal:
      return by_parts(Opcode::ComplexDiv, inputs);
    case Opcode::Exp:
      return by_parts(Opcode::ComplexExp, inputs);
    case Opcode::Sqrt:
      return by_parts(Opcode::ComplexSqrt, inputs);
    case Opcode::Sign:
      return by_parts(Opcode::ComplexSgn, inputs);
    case Opcode::Neg: {
      Inference inferred = infer(out, inputs, Rule::Same);
      unary(Opcode::Neg, Rule::Same, pairs_of(inferred.out()), pairs_of(self));
      return std::move(inferred.output);
    }
    default:
      return std::nullopt;
  }
}

namespace {

// --- what only complex numbers have --------------------------------------------------------------

void record_conjugate(const Tensor& out, const Tensor& self) {
  if (!out.is_same(self)) part_of(out, Part::Real).copy_(part_of(self, Part::Real));
  unary(Opcode::Neg, Rule::Same, part_of(out, Part::Imaginary), part_of(self, Part::Imaginary));
}

Tensor& conj_physical_out(const Tensor& self, Tensor& out) {
  if (!is_complex_plain(self) || !is_complex_plain(out) ||
      out.scalar_type() != self.scalar_type() || (out.is_alias_of(self) && !out.is_same(self))) {
    to_host<Tensor>("aten::conj_physical", "out", self, out);
    return out;
  }
  if (!out.is_same(self)) resize_output(out, self.sizes());
  record_conjugate(out, self);
  return out;
}

// Of real numbers nothing changes.
Tensor& conj_physical_(Tensor& self) {
  if (is_complex_plain(self)) {
    record_conjugate(self, self);
  } else if (self.is_complex()) {
    to_host<Tensor>("aten::conj_physical", "out", self, self);
  }
  return self;
}

bool can_join(const Tensor& a, const Tensor& b, const Tensor& out) {
  return is_plain(a) && is_plain(b) && is_complex_plain(out) && a.scalar_type() == real_of(out) &&
         b.scalar_type() == real_of(out) && !out.is_alias_of(a) && !out.is_alias_of(b);
}

Tensor& complex_out(const Tensor& real, const Tensor& imaginary, Tensor& out) {
  if (!can_join(real, imaginary, out)) {
    to_host<Tensor>("aten::complex", "out", real, imaginary, out);
    return out;
  }
  resize_output(out, at::infer_size_dimvector(real.sizes(), imaginary.sizes()));
  part_of(out, Part::Real).copy_(real);
  part_of(out, Part::Imaginary).copy_(imaginary);
  return out;
}

Tensor& polar_out(const Tensor& size, const Tensor& angle, Tensor& out) {
  if (!can_join(size, angle, out)) {
    to_host<Tensor>("aten::polar", "out", size, angle, out);
    return out;
  }
  resize_output(out, at::infer_size_dimvector(size.sizes(), angle.sizes()));
  const Tensor real = part_of(out, Part::Real), imaginary = part_of(out, Part::Imaginary);
  Recording(Opcode::Polar)
      .output(real)
      .output(imaginary)
      .input(size, out.sizes())
      .input(angle, out.sizes())
      .attribute(real.scalar_type())
      .record();
  return out;
}

using JoinOut = Tensor&(const Tensor&, const Tensor&, Tensor&);
using Join = Tensor(const Tensor&, const Tensor&);

// PyTorch's own, which checks and allocates, unless there is nothing to refuse.
template <JoinOut join_out, Join native>
Tensor join(const Tensor& first, const Tensor& second) {
  const ScalarType dtype = first.scalar_type();
  if (!is_plain(first) || !is_plain(second) || dtype != second.scalar_type() ||
      (dtype != ScalarType::Float && dtype != ScalarType::Double)) {
    return native(first, second);
  }
  Tensor out =
      empty_elementwise({&first, &second}, at::infer_size_dimvector(first.sizes(), second.sizes()),
                        at::toComplexType(dtype));
  return join_out(first, second, out);
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("complex", TORCH_FN((join<complex_out, at::native::complex>)));
  m.impl("polar", TORCH_FN((join<polar_out, at::native::polar>)));
  m.impl("conj_physical.out", TORCH_FN(conj_physical_out));
  m.impl("conj_physical_", TORCH_FN(conj_physical_));
  m.impl("complex.out", TORCH_FN(complex_out));
  m.impl("polar.out", TORCH_FN(polar_out));
}

}  // namespace accel::aten
