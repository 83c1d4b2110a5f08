// Complex numbers as what they are in memory: pairs of real ones. A complex Tensor is two real
// Views with doubled strides over the same Buffer, real parts at offset 0 and imaginary ones at 1,
// so that a complex op is a Node of real arithmetic with two outputs. Such Views never overlap, and
// a Node reads all its inputs of an element before it writes one (see graph.cpp: may_overlap).
#pragma once

#include "csrc/aten/pointwise.h"

namespace accel::aten {

// Whether the Tensor is a complex one, of 64 or 128 bits, that Nodes can take apart.
bool is_complex_plain(const Tensor& tensor);

// Real Tensors over a complex one's memory: with its sizes, or with a last dimension of two more.
enum class Part { Real, Imaginary };
Tensor part_of(const Tensor& tensor, Part part);
Tensor pairs_of(const Tensor& tensor);

// Copies between complex Tensors, and real ones. False where that is no pair of plain Tensors.
bool copy_complex(const Tensor& to, const Tensor& from);

// A pointwise op one of whose inputs is complex, by the opcode that it has for real numbers: Add,
// Sub (with alpha), Mul, Div, Neg, Abs, Sign, Angle, Reciprocal, Exp, Sqrt, Square. None where the
// host has to compute it.
std::optional<Output> complex_pointwise(Opcode opcode, const Tensor& out, Inputs inputs,
                                        const at::Scalar& alpha = 1);

}  // namespace accel::aten
