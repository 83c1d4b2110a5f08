// What the files of pointwise ops share: TensorIterator infers shapes, promotion and overlaps on
// accel tensors as they are; what it computes on other devices is one recorded Node here.
#pragma once

#include <ATen/TensorIterator.h>
#include <c10/util/MaybeOwned.h>

#include "csrc/aten/recording.h"

namespace accel::aten {

using Inputs = c10::ArrayRef<const Tensor*>;

// How inputs are promoted and what the output's dtype is.
enum class Rule {
  Same,     // common dtype in and out
  Float,    // integers become the default floating dtype
  Compare,  // common dtype in, bool out
  Bool,     // any in, bool out (logical ops)
};

// Whether these arguments can be recorded: native dtypes, plain layouts, on one device.
bool recordable(const Tensor& out, Inputs inputs);
// The same, and all of floating dtypes.
bool floating_native(Inputs inputs);

// The output as given (in place, out=) or made. Given ones are never copied: see Recording.
using Output = c10::MaybeOwned<Tensor>;

struct Inference {
  Output output;
  ScalarType compute;
  const Tensor& out() const { return *output; }
};

Inference infer(const Tensor& out, Inputs inputs, Rule rule);

// Adds an input, or the value of a CPU scalar.
void add_operand(Recording& recording, const Tensor& tensor, IntArrayRef sizes, ScalarType compute);
// An operand that must be a View: a CPU scalar there becomes a device scalar.
void add_view(Recording& recording, const Tensor& tensor, const Tensor& out);

Output unary(Opcode opcode, Rule rule, const Tensor& out, const Tensor& self);
// other may be a scalar of the CPU, or a wrapped number.
Output binary(Opcode opcode, Rule rule, const Tensor& out, const Tensor& self, const Tensor& other);
// Ops of one to three tensors of one floating dtype, with scalars: gelu, silu_backward, ...
Output floating(Opcode opcode, const Tensor& out, Inputs inputs,
                c10::ArrayRef<at::Scalar> scalars = {});

// The op that a power with this exponent is, if it is a copy, products or a root: more exact, as in
// ATen's kernels.
std::optional<Opcode> power_opcode(const at::Scalar& exponent);

// What only floating dtypes have: refused at the call, in the words of the CPU's dispatch macro.
void require_floating(const char* kernel, const Tensor& self);

}  // namespace accel::aten
