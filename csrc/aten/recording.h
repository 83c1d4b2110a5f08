// What every op of csrc/aten is written with: Tensors to Views, a Node to the Recorder.
//
// An op infers its outputs, allocates them and records one Node. It never computes, never reads
// device memory, and keeps no Tensor beyond the call.
#pragma once

#include <list>
#include <optional>
#include <string_view>

#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>
#include <c10/util/SmallVector.h>

#include "csrc/graph/recorder.h"

namespace accel::aten {

using at::IntArrayRef;
using at::ScalarType;
using at::Tensor;
using graph::DType;
using graph::Opcode;
using kernels::vector::Scalar;
using OptionalTensor = std::optional<Tensor>;

// What kernels know has the same number; for the rest, which is only ever moved, a dtype of the
// same size stands in.
inline DType dtype_of(ScalarType type) {
  const auto dtype = static_cast<DType>(type);
  if (kernels::size_of(dtype) != 0) return dtype;
  switch (c10::elementSize(type)) {
    case 1:
      return DType::UInt8;
    case 2:
      return DType::Int16;
    case 4:
      return DType::Int32;
    default:
      return DType::Int64;
  }
}

// Whether vector programs compute in this dtype: floating (16, 32, 64 bits), the signed and 8-bit
// integers, bool. Anything else goes to a host op.
bool is_native(ScalarType type);
inline bool is_native(const Tensor& tensor) { return is_native(tensor.scalar_type()); }

// Whether the Tensor is a plain strided one of this device. Conjugate and negative bits are not.
bool is_plain(const Tensor& tensor);

// The Block behind a Tensor's storage; raises for memory that is not the device's.
runtime::Block* block_of(const Tensor& tensor);
// Bytes from that Block's address to the Tensor's first element. Memory found by address (DLPack's)
// may begin inside its Block.
int64_t offset_in(const runtime::Block& block, const Tensor& tensor);

// A number as a vector program takes it in a compute dtype: floating in d, integer and bool in i.
Scalar scalar_of(const at::Scalar& value, ScalarType compute);
// Of ops that refuse a number which the dtype does not hold, in PyTorch's words.
Scalar checked_scalar_of(const at::Scalar& value, ScalarType dtype);
Scalar scalar_of(double value);
Scalar scalar_of(int64_t value);
// The value of a 0-dimensional CPU Tensor.
Scalar scalar_of_cpu(const Tensor& tensor, ScalarType compute);

// Numbers that an op has reserved of a generator.
struct PhiloxState {
  Scalar seed, offset;
  std::shared_ptr<runtime::RandomState> from;
};

// One Node on its way to the Recorder. Outputs before inputs; nothing is copied until record().
//   Recording(Opcode::Softmax).output(y).input(x).attribute(compute).attribute(kept).record();
class Recording {
 public:
  explicit Recording(Opcode opcode) : opcode_(opcode) {}

  // Tensors are named, not copied: a copy of the last reference and its end would each ask for the
  // GIL. Temporaries are kept until the Recording goes.
  // Undefined tensors and empty options become absent Views.
  Recording& output(const Tensor& tensor) {
    return tensor.defined() ? add(tensor, outputs_) : no_output();
  }
  Recording& input(const Tensor& tensor) {
    return tensor.defined() ? add(tensor, inputs_) : no_input();
  }
  Recording& input(const OptionalTensor& tensor);
  Recording& input(Tensor&& tensor) { return input(keep(std::move(tensor))); }
  // The Tensor broadcast to sizes.
  Recording& input(const Tensor& tensor, IntArrayRef sizes);
  Recording& input(Tensor&& tensor, IntArrayRef sizes) {
    return input(keep(std::move(tensor)), sizes);
  }
  // Any strided view of the Tensor's storage; element offset from the Tensor's own.
  Recording& input(const Tensor& tensor, IntArrayRef sizes, IntArrayRef strides);
  Recording& output(const Tensor& tensor, IntArrayRef sizes, IntArrayRef strides);
  Recording& no_output();
  Recording& no_input();
  // Part of the Plan's key: what the algorithm depends on.
  Recording& attribute(uint64_t value);
  Recording& attribute(ScalarType value) { return attribute(static_cast<uint64_t>(value)); }
  // Not part of the key.
  Recording& scalar(Scalar value);
  Recording& scalar(double value) { return scalar(scalar_of(value)); }
  // Two scalars: seed and offset.
  Recording& random(const PhiloxState& state);
  Recording& host_call(std::unique_ptr<graph::HostCall> call);

  // Records on the current stream of the outputs' device. Nodes without elements to write are not
  // recorded, except reductions' outputs.
  void record();

 private:
  struct Entry {
    graph::ViewSpec view;
    int dims_at = -1;  // into dims_, where sizes and strides are not the Tensor's own
  };
  using Entries = c10::SmallVector<Entry, 8>;

  const Tensor& keep(Tensor&& tensor) { return kept_.emplace_back(std::move(tensor)); }

  Recording& add(const Tensor& tensor, Entries& entries);
  Recording& add(const Tensor& tensor, IntArrayRef sizes, IntArrayRef strides, Entries& entries);

  Opcode opcode_;
  int device_ = -1;
  Entries outputs_, inputs_;
  c10::SmallVector<int64_t, 32> dims_;
  c10::SmallVector<uint64_t, 8> attributes_;
  c10::SmallVector<Scalar, 8> scalars_;
  c10::SmallVector<graph::RandomScalars, 2> random_;
  std::unique_ptr<graph::HostCall> host_call_;
  std::list<Tensor> kept_;
};

// --- outputs -------------------------------------------------------------------------------------

// Uninitialised, on the device of `like`.
Tensor empty_on(const Tensor& like, IntArrayRef sizes, ScalarType dtype);
Tensor empty_on(const Tensor& like, IntArrayRef sizes, IntArrayRef strides, ScalarType dtype);
// Dense, with the strides order of `like` (as at::empty_like).
Tensor empty_like(const Tensor& like, ScalarType dtype);
// Dense, with the strides that PyTorch gives what it computes from these element by element;
// `sizes` are what they broadcast to. Those of the CPU and undefined ones have no say.
Tensor empty_elementwise(std::initializer_list<const Tensor*> operands, IntArrayRef sizes,
                         ScalarType dtype);
// Dense, in the memory format of `like` where it has one: what norms and pools return.
Tensor empty_result(const Tensor& like);
// Copies into `to`, from a Tensor that broadcasts to its sizes.
void record_copy(const Tensor& to, const Tensor& from);
// out= argument: checks the dtype can hold `result`, resizes with PyTorch's warning.
void resize_output(const Tensor& out, IntArrayRef sizes);

// --- the way to a host op ------------------------------------------------------------------------

// Runs an operator on ATen's CPU kernel over aliased device memory: recorded when its outputs can
// be inferred, else after a wait. The boxed fallback of every op without a kernel of its own.
void host_op(const c10::OperatorHandle& op, torch::jit::Stack* stack);

// Counts a fallback and warns of it, once an op; raises where ACCEL_FALLBACK forbids it.
void note_fallback(const std::string& name);

// The Tensor on another device; a sparse, nested or quantized one by its components.
Tensor moved_to(const Tensor& tensor, c10::Device device);

namespace detail {

// What an op left on the stack: one value, or one for each element of a tuple.
template <typename Result>
struct Results {
  static Result take(torch::jit::Stack& stack) {
    return torch::jit::pop(stack).template to<Result>();
  }
};
template <typename... Elements>
struct Results<std::tuple<Elements...>> {
  static std::tuple<Elements...> take(torch::jit::Stack& stack) {
    return [&]<size_t... kIndex>(std::index_sequence<kIndex...>) {
      return std::tuple<Elements...>{stack[kIndex].template to<Elements>()...};
    }
    (std::index_sequence_for<Elements...>{});
  }
};

}  // namespace detail

// From an op whose native kernel does not cover these arguments (a complex dtype, say):
//   return to_host<Tensor>("aten::sin", "", self);
template <typename Result, typename... Arguments>
Result to_host(const char* name, const char* overload, Arguments&&... arguments) {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name, overload);
  torch::jit::Stack stack;
  torch::jit::push(stack, std::forward<Arguments>(arguments)...);
  host_op(op, &stack);
  if constexpr (!std::is_void_v<Result>) return detail::Results<Result>::take(stack);
}

// Reserves the generator's numbers for so many elements.
PhiloxState reserve_philox(const std::optional<at::Generator>& generator, int device,
                           int64_t elements);

}  // namespace accel::aten
